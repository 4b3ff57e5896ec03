//! What can go wrong with a store.

use sidetone_catalog::CatalogError;
use sidetone_log::LogError;
use std::io;
use std::path::PathBuf;

/// Each message names the cause and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("there is no store in {}: check the path, or let one be created", path.display())]
    NotFound { path: PathBuf },
    #[error("{} holds files but no store: name an empty or a new directory", path.display())]
    ForeignDirectory { path: PathBuf },
    #[error("the store in {} was written in version {version}; this program reads up to {readable}: use a newer one", path.display())]
    NewerVersion { path: PathBuf, version: u32, readable: u32 },
    #[error("{} cannot be read as a store's description: {what}", path.display())]
    BadDescription { path: PathBuf, what: String },
    #[error("the store in {} is in use by process {process}: stop that one first, or use another directory (`sidetone recordings` and `store` may read this one meanwhile)", path.display())]
    Locked { path: PathBuf, process: String },
    #[error("no permission to {operation} {}: run as the user that owns the store, or correct its mode", path.display())]
    Permission {
        operation: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} is on a file system that is mounted read-only: mount it for writing, or use another directory", path.display())]
    ReadOnly {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("no space left for {}: free some on this file system; a journal file alone takes 128 MiB", path.display())]
    NoSpace {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot {operation} {}: {source}", path.display())]
    Io {
        operation: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the catalog in {} knows more than the journal beside it holds: put the missing journal files back, or remove the catalog to make it again from what is there", path.display())]
    CatalogAhead { path: PathBuf },
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Catalog(#[from] CatalogError),
}

impl StoreError {
    pub(crate) fn io(operation: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        let path = path.into();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::NoSpace { path, source },
            io::ErrorKind::ReadOnlyFilesystem => Self::ReadOnly { path, source },
            io::ErrorKind::PermissionDenied => Self::Permission { operation, path, source },
            _ => Self::Io { operation, path, source },
        }
    }
}
