//! Opening a store for writing, and appending to it.

use crate::description::{self, Description, STORE_VERSION};
use crate::lock::Lock;
use crate::{StoreError, StoreReader};
use serde::{Deserialize, Serialize};
use sidetone_catalog::{Changes, RocksCatalog};
use sidetone_log::{
    ChunkHeader, Content, Fact, Identity, Journal, JournalConfig, JournalReader, JournalStatistics, LogError,
    LogPosition,
};
use sidetone_model::{CaptureTime, NodeName};
use std::path::Path;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// So many chunks and facts wait for a flush; then the store flushes by itself.
const CHANGES_MAX: usize = 16_384;
/// Records brought into the catalog at once while it catches up with the journal.
const REPLAY_BATCH: usize = 4096;

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

impl Store {
    /// Opens the store for writing, waits for nothing: a second process gets [`StoreError::Locked`]. What the journal
    /// holds and the catalog does not yet is applied before this returns.
    pub fn open(directory: &Path, options: &StoreOptions) -> Result<Self, StoreError> {
        let found = description::read(directory)?;
        if found.is_none() {
            if !options.create {
                return Err(StoreError::NotFound { path: directory.to_owned() });
            }
            make_directory(directory)?;
            description::check_unused(directory)?;
        }
        let lock = Arc::new(Lock::take(directory)?);
        // Once more under the lock: another process may have made it meanwhile.
        let description = match description::read(directory)? {
            Some(description) => description,
            None => {
                let description = Description {
                    version: STORE_VERSION,
                    store_id: sidetone_log::random_uuid()?,
                    node: options.node.clone(),
                    created_at: now(),
                };
                description::create(directory, &description)?;
                description
            }
        };
        let identity = Identity { store_id: description.store_id, node: options.node.clone() };
        let journal = Journal::open(&directory.join("journal"), &identity, &options.journal)?;
        let journal_reader = JournalReader::open(&directory.join("journal"), description.store_id);
        let catalog = Arc::new(RocksCatalog::open(&directory.join("catalog"))?);
        let caught_up = catch_up(directory, &journal_reader, &catalog, journal.durable())?;
        let reader =
            StoreReader::beside_writer(directory, description, Arc::clone(&catalog), journal_reader, Arc::clone(&lock));
        let statistics = WriterStatistics {
            replayed: caught_up.replayed,
            damaged: caught_up.damaged,
            ..WriterStatistics::default()
        };
        let writer = StoreWriter {
            journal,
            catalog,
            changes: Changes::default(),
            gathered: Flushed::default(),
            statistics,
            _lock: lock,
        };
        Ok(Self { writer, reader: Arc::new(reader) })
    }

    pub fn split(self) -> (StoreWriter, Arc<StoreReader>) {
        (self.writer, self.reader)
    }
}

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

/// The side that appends. Belongs to one thread at a time. Dropping it flushes what is left; the store is
/// free for others when the readers of this process are gone too.
pub struct StoreWriter {
    journal: Journal,
    catalog: Arc<RocksCatalog>,
    /// Appended, and not in the catalog yet.
    changes: Changes,
    /// The same, counted.
    gathered: Flushed,
    statistics: WriterStatistics,
    _lock: Arc<Lock>,
}

impl StoreWriter {
    /// Takes a chunk of audio. It is durable when a later [`flush`](Self::flush) has returned.
    ///
    /// # Errors
    /// The chunk is not in the store, now or later; everything appended before is not touched.
    pub fn append_chunk(&mut self, header: &ChunkHeader, payload: &[u8]) -> Result<(), StoreError> {
        self.bound_changes()?;
        let located = self.journal.append_chunk(header, payload)?;
        self.changes.chunk(header, located);
        self.gathered.chunks += 1;
        self.gathered.bytes += u64::from(located.length);
        Ok(())
    }

    /// Takes a fact. It is durable when a later [`flush`](Self::flush) has returned.
    ///
    /// # Errors
    /// As [`Self::append_chunk`].
    pub fn append_fact(&mut self, fact: &Fact) -> Result<(), StoreError> {
        self.bound_changes()?;
        let located = self.journal.append_fact(fact)?;
        self.changes.fact(fact);
        self.gathered.facts += 1;
        self.gathered.bytes += u64::from(located.length);
        Ok(())
    }

    /// Everything appended becomes durable, then visible in the catalog. After an error nothing is lost that was
    /// appended: the next flush tries again, into a new journal file if need be.
    pub fn flush(&mut self) -> Result<Flushed, StoreError> {
        let position = self.flush_and_apply()?;
        Ok(Flushed { position, ..std::mem::take(&mut self.gathered) })
    }

    /// A caller that appends very much between two flushes pays with time, not with memory.
    fn bound_changes(&mut self) -> Result<(), StoreError> {
        if self.changes.len() >= CHANGES_MAX {
            self.flush_and_apply()?;
        }
        Ok(())
    }

    fn flush_and_apply(&mut self) -> Result<LogPosition, StoreError> {
        let flushed = self.journal.flush()?;
        self.changes.relocate(&flushed);
        if !self.changes.is_empty() {
            let started = Instant::now();
            self.catalog.apply(&self.changes, flushed.durable)?;
            self.changes.clear();
            let apply_ns = u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX);
            self.statistics.apply_ns_max = self.statistics.apply_ns_max.max(apply_ns);
        }
        Ok(flushed.durable)
    }

    pub fn statistics(&self) -> WriterStatistics {
        WriterStatistics { journal: self.journal.statistics(), ..self.statistics.clone() }
    }
}

impl Drop for StoreWriter {
    fn drop(&mut self) {
        if let Err(error) = self.flush() {
            tracing::error!(%error, "the last records of the store could not be written");
        }
    }
}

struct CaughtUp {
    replayed: u64,
    damaged: u64,
}

/// Applies to the catalog what the journal holds behind the catalog's position.
fn catch_up(
    directory: &Path,
    journal: &JournalReader,
    catalog: &RocksCatalog,
    end: LogPosition,
) -> Result<CaughtUp, StoreError> {
    let ahead = || StoreError::CatalogAhead { path: directory.to_owned() };
    let applied = catalog.applied()?;
    if applied > end {
        return Err(ahead());
    }
    let started = Instant::now();
    let mut caught_up = CaughtUp { replayed: 0, damaged: 0 };
    let mut changes = Changes::default();
    let mut scan = match journal.scan(applied) {
        Err(LogError::BeyondEnd { .. } | LogError::MissingFile { .. }) => return Err(ahead()),
        scan => scan?,
    };
    for entry in scan.by_ref() {
        match entry {
            Ok(entry) => {
                match &entry.content {
                    Content::Chunk(chunk) => changes.chunk(&chunk.header, entry.located),
                    Content::Fact(fact) => changes.fact(fact),
                }
                caught_up.replayed += 1;
                if changes.len() >= REPLAY_BATCH {
                    catalog.apply(&changes, entry.next)?;
                    changes.clear();
                }
            }
            Err(LogError::BeyondEnd { .. }) => return Err(ahead()),
            Err(error) if error.is_damage() => {
                tracing::error!(%error, "the catalog is made without it");
                caught_up.damaged += 1;
            }
            Err(error) => return Err(error.into()),
        }
    }
    let position = scan.position();
    if position > applied {
        catalog.apply(&changes, position)?;
    }
    if caught_up.replayed > 0 {
        tracing::info!(
            records = caught_up.replayed,
            damaged = caught_up.damaged,
            milliseconds = started.elapsed().as_millis() as u64,
            "catalog caught up with the journal"
        );
    }
    Ok(caught_up)
}

fn make_directory(directory: &Path) -> Result<(), StoreError> {
    match std::fs::create_dir_all(directory) {
        Ok(()) => {}
        Err(error) if matches!(error.kind(), std::io::ErrorKind::AlreadyExists | std::io::ErrorKind::NotADirectory) => {
            return Err(StoreError::ForeignDirectory { path: directory.to_owned() });
        }
        Err(error) => return Err(StoreError::io("create", directory, error)),
    }
    match directory.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        Some(parent) => description::sync_directory(parent),
        None => Ok(()),
    }
}

fn now() -> CaptureTime {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    CaptureTime(u64::try_from(since_epoch.as_nanos()).unwrap_or(u64::MAX))
}
