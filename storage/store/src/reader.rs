//! Reading a store, beside its writer or alone.

use crate::StoreError;
use crate::description::{self, Description};
use crate::lock::Lock;
use serde::{Deserialize, Serialize};
use sidetone_catalog::{Catalog, CatalogStatistics, ChunkLocation, RecordingPage, RecordingQuery, RocksCatalog};
use sidetone_log::{Chunk, JournalReader};
use sidetone_model::{NodeName, Recording, RecordingId, Tick, TrackId};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The side that reads, shared by any number of threads.
pub struct StoreReader {
    directory: PathBuf,
    description: Description,
    // Before the scratch directory that it writes to.
    catalog: Arc<RocksCatalog>,
    journal: JournalReader,
    /// RocksDB's own log, when this process does not write the store.
    _scratch: Option<tempfile::TempDir>,
    /// Behind the catalog, which only one process may have open for writing.
    _lock: Option<Arc<Lock>>,
}

/// The sizes of a store.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct StoreStatistics {
    pub store_id: uuid::Uuid,
    pub node: NodeName,
    pub catalog: CatalogStatistics,
    pub journal_files: u64,
    /// Space that the journal takes on disk, what is preallocated included.
    pub journal_bytes: u64,
    /// What an unprivileged process could still write to this file system, and its size.
    pub free_bytes: u64,
    pub file_system_bytes: u64,
}

impl StoreReader {
    pub(crate) fn beside_writer(
        directory: &Path,
        description: Description,
        catalog: Arc<RocksCatalog>,
        journal: JournalReader,
        lock: Arc<Lock>,
    ) -> Self {
        Self { directory: directory.to_owned(), description, catalog, journal, _scratch: None, _lock: Some(lock) }
    }

    /// Opens a store for reading only, beside a process that may be writing to it, or without one. What it shows is
    /// as old as this call, or the last [`refresh`](Self::refresh). What a process that was killed had made durable and
    /// not yet brought into the catalog shows only after the store was opened for writing again.
    pub fn open(directory: &Path) -> Result<Arc<Self>, StoreError> {
        let not_found = || StoreError::NotFound { path: directory.to_owned() };
        let description = description::read(directory)?.ok_or_else(not_found)?;
        let scratch = tempfile::tempdir()
            .map_err(|source| StoreError::io("create a directory in", std::env::temp_dir(), source))?;
        let path = directory.join("catalog");
        if !path.join("CURRENT").exists() {
            // Made, and killed before it had a catalog.
            return Err(not_found());
        }
        let catalog = RocksCatalog::open_secondary(&path, scratch.path())?;
        let journal = JournalReader::open(&directory.join("journal"), description.store_id);
        Ok(Arc::new(Self {
            directory: directory.to_owned(),
            description,
            catalog: Arc::new(catalog),
            journal,
            _scratch: Some(scratch),
            _lock: None,
        }))
    }

    /// Catches up with the writing process. Does nothing beside a writer in the same process: that is always current.
    pub fn refresh(&self) -> Result<(), StoreError> {
        Ok(self.catalog.refresh()?)
    }

    pub fn recording(&self, recording: RecordingId) -> Result<Option<Recording>, StoreError> {
        Ok(self.catalog.recording(recording)?)
    }

    pub fn search(&self, query: &RecordingQuery) -> Result<RecordingPage, StoreError> {
        Ok(self.catalog.search(query)?)
    }

    /// Where the chunks lie that hold any grid step in `ticks`, in grid order; without reading audio.
    pub fn chunk_locations(
        &self,
        recording: RecordingId,
        track: TrackId,
        ticks: Range<Tick>,
    ) -> Result<Vec<ChunkLocation>, StoreError> {
        Ok(self.catalog.chunks(recording, track, ticks.start, ticks.end)?)
    }

    /// The chunk at a place that [`chunk_locations`](Self::chunk_locations) gave; its checksum is proven.
    pub fn read_chunk(&self, location: &ChunkLocation) -> Result<Chunk, StoreError> {
        Ok(self.journal.read_chunk(location.located)?)
    }

    /// The chunks that hold any grid step in `ticks`, in grid order, read one by one. `Tick(0)..Tick(u64::MAX)` for
    /// all. An error is about one chunk; the iterator goes on behind it.
    pub fn chunks(
        &self,
        recording: RecordingId,
        track: TrackId,
        ticks: Range<Tick>,
    ) -> Result<impl Iterator<Item = Result<Chunk, StoreError>> + Send + use<>, StoreError> {
        let locations = self.chunk_locations(recording, track, ticks)?;
        let journal = self.journal.clone();
        Ok(locations.into_iter().map(move |location| Ok(journal.read_chunk(location.located)?)))
    }

    /// Every active recording with the call tracker's state (null where none was stored), oldest first.
    pub fn active_with_resume(&self) -> Result<Vec<(Recording, serde_json::Value)>, StoreError> {
        Ok(self.catalog.active_with_resume()?)
    }

    /// Whether a capture file with this digest was replayed to its end.
    pub fn has_replayed(&self, digest: &str) -> Result<bool, StoreError> {
        Ok(self.catalog.has_replayed(digest)?)
    }

    pub fn statistics(&self) -> Result<StoreStatistics, StoreError> {
        let (journal_files, journal_bytes) = self.journal.sizes()?;
        let file_system = rustix::fs::statvfs(&self.directory)
            .map_err(|error| StoreError::io("inspect the file system of", &self.directory, error.into()))?;
        Ok(StoreStatistics {
            store_id: self.description.store_id,
            node: self.description.node.clone(),
            catalog: self.catalog.statistics()?,
            journal_files,
            journal_bytes,
            free_bytes: file_system.f_bavail.saturating_mul(file_system.f_frsize),
            file_system_bytes: file_system.f_blocks.saturating_mul(file_system.f_frsize),
        })
    }
}
