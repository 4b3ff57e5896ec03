//! One store directory: the lock, and journal and catalog kept in step.
//!
//! ```text
//! sidetone-store.json   who this store is, and its format version
//! lock                  held while a process writes; its text is the process id
//! journal/              the truth (sidetone-log)
//! catalog/              a projection of it (sidetone-catalog)
//! ```
//!
//! Constraints: one writing process. What [`StoreWriter::flush`] returned is durable, and in the catalog. Appending a
//! recording's fact or a chunk twice gives the same catalog as once.
#![forbid(unsafe_code)]

mod error;

pub use error::StoreError;
pub use sidetone_catalog::{ChunkLocation, Cursor, RecordingPage, RecordingQuery};
pub use sidetone_log::{Chunk, JournalConfig};

use serde::{Deserialize, Serialize};
use sidetone_catalog::CatalogStatistics;
use sidetone_log::{ChunkHeader, Fact, JournalStatistics, LogPosition};
use sidetone_model::{NodeName, Recording, RecordingId, Tick, TrackId};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// How to open a store for writing.
#[derive(Clone, PartialEq, Debug)]
pub struct StoreOptions {
    /// Make the store when the directory is empty or not there.
    pub create: bool,
    /// The name of this appliance, written into what it makes.
    pub node: NodeName,
    pub journal: JournalConfig,
}

impl StoreOptions {
    /// Creates the store when it is not there; sizes as by default.
    pub fn new(node: NodeName) -> Self {
        Self { create: true, node, journal: JournalConfig::default() }
    }
}

/// A store opened for writing.
pub struct Store {
    writer: StoreWriter,
    reader: Arc<StoreReader>,
}

/// The side that appends. Belongs to one thread at a time.
pub struct StoreWriter {}

/// The side that reads, shared by any number of threads.
pub struct StoreReader {}

/// What a flush brought to the disk and into the catalog.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Flushed {
    /// Everything before this position is durable.
    pub position: LogPosition,
    pub chunks: u64,
    pub facts: u64,
    /// Bytes of these records.
    pub bytes: u64,
}

/// The sizes of a store.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct StoreStatistics {
    pub store_id: uuid::Uuid,
    pub node: NodeName,
    pub catalog: CatalogStatistics,
    pub journal_files: u64,
    pub journal_bytes: u64,
    /// What an unprivileged process could still write to this file system, and its size.
    pub free_bytes: u64,
    pub file_system_bytes: u64,
}

/// Counters of the writer since the store was opened.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct WriterStatistics {
    pub journal: JournalStatistics,
    /// Records applied to the catalog when the store was opened, because the last run had not.
    pub replayed: u64,
    /// Damaged places of the journal that opening met.
    pub damaged: u64,
    /// Longest time that applying one flush to the catalog took.
    pub apply_ns_max: u64,
}

impl Store {
    /// Opens the store for writing, waits for nothing: a second process gets [`StoreError::Locked`]. What the journal
    /// holds and the catalog does not yet is applied before this returns.
    pub fn open(directory: &Path, options: &StoreOptions) -> Result<Self, StoreError> {
        let _ = (directory, options);
        unreachable!()
    }

    pub fn split(self) -> (StoreWriter, Arc<StoreReader>) {
        (self.writer, self.reader)
    }
}

impl StoreWriter {
    /// Takes a chunk of audio. It is durable when a later [`flush`](Self::flush) has returned.
    pub fn append_chunk(&mut self, header: &ChunkHeader, payload: &[u8]) -> Result<(), StoreError> {
        let _ = (header, payload);
        unreachable!()
    }

    /// Takes a fact. It is durable when a later [`flush`](Self::flush) has returned.
    pub fn append_fact(&mut self, fact: &Fact) -> Result<(), StoreError> {
        let _ = fact;
        unreachable!()
    }

    /// Everything appended becomes durable, then visible in the catalog. After an error nothing is lost that was
    /// appended: the next flush tries again, into a new journal file.
    pub fn flush(&mut self) -> Result<Flushed, StoreError> {
        unreachable!()
    }

    pub fn statistics(&self) -> WriterStatistics {
        unreachable!()
    }
}

impl StoreReader {
    /// Opens a store for reading only, beside a process that may be writing to it, or without one. What it shows is
    /// as old as this call, or the last [`refresh`](Self::refresh).
    pub fn open(directory: &Path) -> Result<Arc<Self>, StoreError> {
        let _ = directory;
        unreachable!()
    }

    /// Catches up with the writing process. Does nothing beside a writer in the same process: that is always current.
    pub fn refresh(&self) -> Result<(), StoreError> {
        unreachable!()
    }

    pub fn recording(&self, recording: RecordingId) -> Result<Option<Recording>, StoreError> {
        let _ = recording;
        unreachable!()
    }

    pub fn search(&self, query: &RecordingQuery) -> Result<RecordingPage, StoreError> {
        let _ = query;
        unreachable!()
    }

    /// Where the chunks lie that hold any grid step in `ticks`, in grid order; without reading audio.
    pub fn chunk_locations(
        &self,
        recording: RecordingId,
        track: TrackId,
        ticks: Range<Tick>,
    ) -> Result<Vec<ChunkLocation>, StoreError> {
        let _ = (recording, track, ticks);
        unreachable!()
    }

    /// The chunks that hold any grid step in `ticks`, in grid order, read one by one. `Tick(0)..Tick(u64::MAX)` for
    /// all. An error is about one chunk; the iterator goes on behind it.
    pub fn chunks(
        &self,
        recording: RecordingId,
        track: TrackId,
        ticks: Range<Tick>,
    ) -> Result<impl Iterator<Item = Result<Chunk, StoreError>> + Send + use<>, StoreError> {
        let _ = (recording, track, ticks);
        Ok(std::iter::empty())
    }

    /// Every active recording with the call tracker's state (null where none was stored), oldest first.
    pub fn active_with_resume(&self) -> Result<Vec<(Recording, serde_json::Value)>, StoreError> {
        unreachable!()
    }

    /// Whether a capture file with this digest was replayed to its end.
    pub fn has_replayed(&self, digest: &str) -> Result<bool, StoreError> {
        let _ = digest;
        unreachable!()
    }

    pub fn statistics(&self) -> Result<StoreStatistics, StoreError> {
        unreachable!()
    }
}
