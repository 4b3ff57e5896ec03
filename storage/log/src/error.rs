//! What can go wrong with journals and segments.

use crate::{LogPosition, SegmentNumber, VolumeNumber};
use std::io;
use std::path::PathBuf;

/// Each message names the cause and, where there is one, the remedy.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("cannot {operation} {}: {source}", path.display())]
    Io {
        operation: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("no space left for {}: free some space on this file system", path.display())]
    NoSpace {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("no permission to {operation} {}: run as the user that owns the store, or correct its mode", path.display())]
    Permission {
        operation: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} is not the log file that belongs there: {what}", path.display())]
    NotALogFile { path: PathBuf, what: &'static str },
    #[error("{} was written in format version {version}; this program reads up to {readable}: use a newer one", path.display())]
    NewerVersion { path: PathBuf, version: u32, readable: u32 },
    #[error("{} belongs to store {found}, not to {expected}: log files cannot be moved between stores", path.display())]
    ForeignStore { path: PathBuf, found: uuid::Uuid, expected: uuid::Uuid },
    #[error("{} belongs to volume {}, not to {}: are two volumes mounted in each other's place?", path.display(), found.0, expected.0)]
    ForeignVolume { path: PathBuf, found: VolumeNumber, expected: VolumeNumber },
    #[error("{} is not there: what it held has been moved, or was removed", path.display())]
    Retired { path: PathBuf },
    #[error("journal file {file} is damaged from byte {from} to {to}: its records there are lost")]
    Damaged { file: u32, from: u64, to: u64 },
    #[error("segment {} is damaged from byte {from} to {to}: its records there are lost", segment.0)]
    DamagedSegment { segment: SegmentNumber, from: u64, to: u64 },
    #[error("journal file {file} is missing: its records are lost")]
    MissingFile { file: u32 },
    #[error("journal position {position:?} does not exist (the journal ends at {end:?})")]
    BeyondEnd { position: LogPosition, end: LogPosition },
    #[error("record of type {kind} version {version} at byte {offset} of {} is critical and unknown: use a newer program", path.display())]
    UnknownRecord { path: PathBuf, kind: u16, version: u8, offset: u64 },
    #[error("no valid chunk of {length} bytes at byte {offset} of {}: {what}", path.display())]
    BadChunk { path: PathBuf, offset: u64, length: u32, what: &'static str },
    #[error("no valid run index at byte {offset} of {}: {what}", path.display())]
    BadRunIndex { path: PathBuf, offset: u64, what: &'static str },
    #[error("a record of {bytes} bytes is longer than the {limit} that the journal takes")]
    TooLong { bytes: usize, limit: usize },
    #[error("such a run cannot be written: {what}")]
    BadRun { what: &'static str },
    #[error("a chunk of {ticks} grid steps: 1 to {} are possible", crate::TICKS_PER_CHUNK_MAX)]
    BadChunkHeader { ticks: u16 },
    #[error("the journal's buffers are full and cannot be written: {source}")]
    BuffersFull {
        #[source]
        source: Box<LogError>,
    },
    #[error("the journal in {} has failed: what is appended waits in memory until a new file can be begun", path.display())]
    Failed { path: PathBuf },
    #[error("a fact cannot be written as JSON: {source}")]
    Encode {
        #[source]
        source: serde_json::Error,
    },
    #[error("journal configuration: {what}")]
    Configuration { what: &'static str },
}

impl LogError {
    /// An I/O error with what was tried; lack of space and of permission become errors of their own.
    pub(crate) fn io(operation: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        let path = path.into();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::NoSpace { path, source },
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                Self::Permission { operation, path, source }
            }
            _ => Self::Io { operation, path, source },
        }
    }

    /// Part of a journal or segment cannot be read, and reading goes on behind it.
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Damaged { .. } | Self::DamagedSegment { .. } | Self::MissingFile { .. })
    }
}
