//! The small types between the journal and those who use it.

use crate::{ChunkHeader, FactRecord, LogPosition, VolumeNumber};
use serde::{Deserialize, Serialize};
use sidetone_model::NodeName;

/// Where a record lies: its first byte and its length in bytes, padding not included.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Located {
    pub position: LogPosition,
    pub length: u32,
}

/// Who writes, and where; stands in the header of every log file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    pub store_id: uuid::Uuid,
    pub volume: VolumeNumber,
    /// As in `sidetone-volume.json`; on volume 0 the store's id.
    pub volume_id: uuid::Uuid,
    /// At most 255 bytes are kept.
    pub node: NodeName,
}

/// A chunk as it was appended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Chunk {
    pub header: ChunkHeader,
    /// As [`crate::ChunkPayload`] describes it.
    pub payload: Vec<u8>,
}

/// What one record holds.
#[derive(Clone, PartialEq, Debug)]
pub enum Content {
    Chunk(Chunk),
    Fact(FactRecord),
}

/// One record, and where it lies.
#[derive(Clone, PartialEq, Debug)]
pub struct Entry {
    pub located: Located,
    /// Where scanning goes on behind this record.
    pub next: LogPosition,
    pub content: Content,
}

/// How large the parts of the journal are.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct JournalConfig {
    /// Size of one journal file, preallocated. At least twice `buffer_bytes`.
    pub file_bytes: u64,
    /// Memory for what is not durable yet, pinned. When it is full, appending flushes by itself. At least 2 MiB, and at
    /// least four blocks.
    pub buffer_bytes: usize,
    /// Size of one write while records come in quickly; a multiple of 4096.
    pub block_bytes: usize,
    /// Write past the page cache where the file system can.
    pub direct_io: bool,
}

impl Default for JournalConfig {
    fn default() -> Self {
        Self { file_bytes: 128 << 20, buffer_bytes: 16 << 20, block_bytes: 256 << 10, direct_io: true }
    }
}

/// What [`Journal::flush`](crate::Journal::flush) made durable.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Flushed {
    /// Everything before this position is durable.
    pub durable: LogPosition,
    /// Records that were rewritten into another file since the flush before, because theirs failed.
    pub moves: Vec<Move>,
}

impl Flushed {
    /// Where a record lies now that was appended since the flush before.
    pub fn locate(&self, appended: Located) -> Located {
        let mut located = appended;
        for step in &self.moves {
            if located.position.file == step.from.file && located.position.offset >= step.from.offset {
                let offset = located.position.offset - step.from.offset + step.to.offset;
                located.position = LogPosition { file: step.to.file, offset };
            }
        }
        located
    }
}

/// Everything from `from` on in its file now lies at `to`, in the same order and distances.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Move {
    pub from: LogPosition,
    pub to: LogPosition,
}

/// What a journal gives away when it has failed.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Unflushed {
    /// What is durable although no flush has reported it yet.
    pub flushed: Flushed,
    /// Every other record that was appended, in order: where [`Flushed::locate`] says that it lies, and its bytes.
    pub records: Vec<(Located, Vec<u8>)>,
}

/// Counters since the journal was opened, and its state.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct JournalStatistics {
    /// Everything before this position is durable.
    pub durable: LogPosition,
    /// Records appended that are not durable yet take so many bytes.
    pub pending_bytes: u64,
    pub chunks: u64,
    pub facts: u64,
    /// Bytes written to files: records, padding and headers.
    pub written_bytes: u64,
    pub flushes: u64,
    /// Flushes that an append forced because the buffers were full.
    pub flushes_forced: u64,
    pub flush_ns_last: u64,
    pub flush_ns_max: u64,
    /// Files that failed, each in a write or a flush.
    pub failures: u64,
    /// No file can be written at present.
    pub failed: bool,
    /// Files begun since the journal was opened.
    pub files_created: u64,
    /// The file at hand is written past the page cache.
    pub direct_io: bool,
    /// Writes go through io_uring; else one after the other.
    pub io_uring: bool,
}
