//! What can go wrong with the catalog.

use sidetone_model::RecordingId;
use std::path::PathBuf;

/// Each message names the cause and, where there is one, the remedy.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    #[error("cannot open the catalog in {}: {source}", path.display())]
    Open {
        path: PathBuf,
        #[source]
        source: rocksdb::Error,
    },
    #[error("the catalog in {} is damaged ({what}): run `sidetone store rebuild`, which makes it again from the journals and segments", path.display())]
    Damaged { path: PathBuf, what: String },
    #[error("the catalog in {} was written in version {version}; this program reads up to {readable}: use a newer one", path.display())]
    NewerVersion { path: PathBuf, version: u32, readable: u32 },
    #[error("the catalog in {} is of version {version} and must be brought up to {readable} first: open the store for writing once", path.display())]
    OlderVersion { path: PathBuf, version: u32, readable: u32 },
    #[error(
        "recording {recording} was written in layout {layout} by a newer program; this one reads up to {readable}: use the newer one, or run `sidetone store rebuild`"
    )]
    NewerDocument { recording: RecordingId, layout: u8, readable: u8 },
    #[error("cannot {operation} in the catalog in {}: {source}", path.display())]
    Database {
        operation: &'static str,
        path: PathBuf,
        #[source]
        source: rocksdb::Error,
    },
    #[error("the catalog in {} can only be read, since opening it again for writing failed", path.display())]
    ReadOnly { path: PathBuf },
    #[error("the catalog in {} is closed, since opening it again failed", path.display())]
    Closed { path: PathBuf },
    #[error("cannot {operation} {}: {source}", path.display())]
    Io {
        operation: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("cannot {operation} in {}: {source}", path.display())]
    Backup {
        operation: &'static str,
        path: PathBuf,
        #[source]
        source: rocksdb::Error,
    },
    #[error("there is no whole backup of a catalog in {}", path.display())]
    NoBackup { path: PathBuf },
    #[error("{} is not empty: name a new directory, or remove what is in it", path.display())]
    NotEmpty { path: PathBuf },
    #[error("a filter has at most {} conditions: leave some out", crate::FILTER_CONDITIONS_MAX)]
    FilterTooLarge,
    #[error("a catalog in memory has no backup")]
    NotOnDisk,
}
