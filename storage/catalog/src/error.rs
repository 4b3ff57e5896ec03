//! What can go wrong with the catalog.

use sidetone_model::RecordingId;
use std::path::PathBuf;

/// Each message names the cause and, where there is one, the remedy.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    #[error("cannot open the catalog in {}: {source}; it can be removed, and is made again from the journal at the next start", path.display())]
    Open {
        path: PathBuf,
        #[source]
        source: rocksdb::Error,
    },
    #[error("the catalog in {} was written in version {version}; this program reads up to {readable}: use a newer one", path.display())]
    NewerVersion { path: PathBuf, version: u32, readable: u32 },
    #[error("cannot {operation} in the catalog: {source}")]
    Database {
        operation: &'static str,
        #[source]
        source: rocksdb::Error,
    },
    #[error(
        "the catalog holds a bad {what}: remove the catalog's directory while nothing runs; it is made again from the journal"
    )]
    Corrupt { what: &'static str },
    #[error("recording {recording} cannot be encoded: {source}")]
    Encode {
        recording: RecordingId,
        #[source]
        source: serde_json::Error,
    },
}
