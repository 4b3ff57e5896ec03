//! A machine that dies in the middle of things: after so many operations nothing happens any more, on no disk and in no catalog,
//! until it is started again.

use sidetone_catalog::{
    BackupProgress, Catalog, CatalogError, CatalogStatistics, Changes, ChunkLocation, Count, Filter, HeldFact,
    MemoryCatalog, Pending, Query, RecordingPage,
};
use sidetone_log::simulation::SimulatedDisk;
use sidetone_log::{
    FactSequence, FileSize, InputFile, Io, LogPosition, NewFile, OutputFile, Progress, Run, SegmentNumber, Space,
    VolumeNumber, Write,
};
use sidetone_model::{Annotations, CaptureTime, Recording, RecordingId, SavedCall, Tick, TrackId};
use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use uuid::Uuid;

/// One life of the machine.
pub(super) struct Life {
    /// Operations until it dies.
    left: AtomicU64,
    dead: AtomicBool,
    /// The catalog's disk fails.
    pub(super) catalog_down: AtomicBool,
}

impl Life {
    pub(super) fn new(operations: u64) -> Arc<Self> {
        Arc::new(Self {
            left: AtomicU64::new(operations),
            dead: AtomicBool::new(false),
            catalog_down: AtomicBool::new(false),
        })
    }

    pub(super) fn is_over(&self) -> bool {
        self.dead.load(Ordering::Relaxed)
    }

    pub(super) fn end(&self) {
        self.dead.store(true, Ordering::Relaxed);
    }

    /// Before an operation. False when it does not happen.
    fn goes_on(&self) -> bool {
        if self.is_over() {
            return false;
        }
        let left = self.left.load(Ordering::Relaxed);
        if left == 0 {
            self.end();
            return false;
        }
        self.left.store(left - 1, Ordering::Relaxed);
        true
    }

    fn check(&self) -> io::Result<()> {
        if self.goes_on() { Ok(()) } else { Err(died()) }
    }
}

fn died() -> io::Error {
    io::Error::from_raw_os_error(5)
}

pub(super) struct MortalIo {
    pub(super) disk: SimulatedDisk,
    pub(super) life: Arc<Life>,
}

impl Io for MortalIo {
    fn create(&self, path: &Path, new: &NewFile) -> io::Result<Box<dyn OutputFile>> {
        self.life.check()?;
        Ok(Box::new(MortalOutput::new(self.disk.create(path, new)?, &self.life)))
    }

    fn extend(&self, path: &Path, new: &NewFile) -> io::Result<Box<dyn OutputFile>> {
        self.life.check()?;
        Ok(Box::new(MortalOutput::new(self.disk.extend(path, new)?, &self.life)))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn InputFile>> {
        if self.life.is_over() {
            return Err(died());
        }
        Ok(Arc::new(MortalInput { file: self.disk.open(path)?, life: Arc::clone(&self.life) }))
    }

    fn sync_file(&self, path: &Path) -> io::Result<()> {
        self.life.check()?;
        self.disk.sync_file(path)
    }

    fn truncate(&self, path: &Path, bytes: u64) -> io::Result<()> {
        self.life.check()?;
        self.disk.truncate(path, bytes)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.life.check()?;
        self.disk.remove(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.life.check()?;
        self.disk.rename(from, to)
    }

    fn create_directory(&self, path: &Path) -> io::Result<()> {
        self.life.check()?;
        self.disk.create_directory(path)
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        self.life.check()?;
        self.disk.sync_directory(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        if self.life.is_over() { Err(died()) } else { self.disk.list(path) }
    }

    fn size(&self, path: &Path) -> io::Result<FileSize> {
        if self.life.is_over() { Err(died()) } else { self.disk.size(path) }
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        if self.life.is_over() { Err(died()) } else { self.disk.read(path) }
    }

    fn write_small(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        self.life.check()?;
        self.disk.write_small(path, bytes)
    }

    fn space(&self, path: &Path) -> io::Result<Space> {
        if self.life.is_over() { Err(died()) } else { self.disk.space(path) }
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        self.life.check()?;
        self.disk.lock(path)
    }

    fn now(&self) -> CaptureTime {
        self.disk.now()
    }

    fn monotonic(&self) -> Duration {
        self.disk.monotonic()
    }

    fn random(&self) -> io::Result<[u8; 16]> {
        self.disk.random()
    }

    fn boot_id(&self) -> Uuid {
        self.disk.boot_id()
    }
}

struct MortalOutput {
    file: Box<dyn OutputFile>,
    life: Arc<Life>,
    /// Writes that were never begun.
    stillborn: Vec<Write>,
}

impl MortalOutput {
    fn new(file: Box<dyn OutputFile>, life: &Arc<Life>) -> Self {
        Self { file, life: Arc::clone(life), stillborn: Vec::new() }
    }
}

impl OutputFile for MortalOutput {
    fn submit(&mut self, write: Write) {
        if self.life.goes_on() {
            self.file.submit(write);
        } else {
            self.stillborn.push(write);
        }
    }

    fn begin_sync(&mut self) {
        if self.life.goes_on() {
            self.file.begin_sync();
        }
    }

    fn poll(&mut self, wait: bool) -> Progress {
        let is_over = self.life.is_over();
        let mut progress = self.file.poll(wait);
        if is_over {
            // What was in flight may still get to the disk.
            while !progress.idle {
                let further = self.file.poll(true);
                progress.writes.extend(further.writes);
                progress.idle = further.idle;
            }
            progress.writes.append(&mut self.stillborn);
            progress.synced = false;
            progress.failure.get_or_insert_with(died);
            progress.idle = true;
        }
        progress
    }

    fn set_len(&mut self, bytes: u64) -> io::Result<()> {
        self.life.check()?;
        self.file.set_len(bytes)
    }

    fn direct(&self) -> bool {
        self.file.direct()
    }

    fn preallocated(&self) -> bool {
        self.file.preallocated()
    }

    fn uses_ring(&self) -> bool {
        self.file.uses_ring()
    }
}

struct MortalInput {
    file: Arc<dyn InputFile>,
    life: Arc<Life>,
}

impl InputFile for MortalInput {
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        if self.life.is_over() { Err(died()) } else { self.file.read_at(bytes, offset) }
    }

    fn bytes(&self) -> io::Result<u64> {
        if self.life.is_over() { Err(died()) } else { self.file.bytes() }
    }
}

pub(super) struct MortalCatalog {
    pub(super) catalog: Arc<MemoryCatalog>,
    pub(super) life: Arc<Life>,
}

impl MortalCatalog {
    fn check_write(&self) -> Result<(), CatalogError> {
        if !self.life.goes_on() || self.life.catalog_down.load(Ordering::Relaxed) {
            let path = "the simulated catalog".into();
            return Err(CatalogError::Io { operation: "write", path, source: died() });
        }
        Ok(())
    }
}

impl Catalog for MortalCatalog {
    fn apply(&self, changes: &Changes, applied: &[(VolumeNumber, LogPosition)]) -> Result<(), CatalogError> {
        self.check_write()?;
        self.catalog.apply(changes, applied)
    }

    fn applied(&self) -> Result<BTreeMap<VolumeNumber, LogPosition>, CatalogError> {
        self.catalog.applied()
    }

    fn sequence(&self) -> Result<FactSequence, CatalogError> {
        self.catalog.sequence()
    }

    fn persist(&self) -> Result<(), CatalogError> {
        self.check_write()?;
        self.catalog.persist()
    }

    fn reopen(&self) -> Result<(), CatalogError> {
        self.check_write()?;
        self.catalog.reopen()
    }

    fn refresh(&self) -> Result<(), CatalogError> {
        self.catalog.refresh()
    }

    fn recording(&self, recording: RecordingId) -> Result<Option<Recording>, CatalogError> {
        self.catalog.recording(recording)
    }

    fn search(&self, query: &Query) -> Result<RecordingPage, CatalogError> {
        self.catalog.search(query)
    }

    fn count(&self, filter: &Filter) -> Result<Count, CatalogError> {
        self.catalog.count(filter)
    }

    fn journal_chunks(
        &self,
        recording: RecordingId,
        track: TrackId,
        from: Tick,
        to: Tick,
    ) -> Result<Vec<ChunkLocation>, CatalogError> {
        self.catalog.journal_chunks(recording, track, from, to)
    }

    fn unsealed(&self, recording: RecordingId) -> Result<Vec<ChunkLocation>, CatalogError> {
        self.catalog.unsealed(recording)
    }

    fn owed(
        &self,
        volume: VolumeNumber,
        after: Option<RecordingId>,
        limit: usize,
    ) -> Result<Vec<RecordingId>, CatalogError> {
        self.catalog.owed(volume, after, limit)
    }

    fn runs(&self, recording: RecordingId) -> Result<Vec<Run>, CatalogError> {
        self.catalog.runs(recording)
    }

    fn segment_end(&self, volume: VolumeNumber, segment: SegmentNumber) -> Result<u64, CatalogError> {
        self.catalog.segment_end(volume, segment)
    }

    fn segment_ends(&self, volume: VolumeNumber) -> Result<Vec<(SegmentNumber, u64)>, CatalogError> {
        self.catalog.segment_ends(volume)
    }

    fn pending(&self) -> Result<Vec<Pending>, CatalogError> {
        self.catalog.pending()
    }

    fn facts(&self, recording: RecordingId) -> Result<Vec<HeldFact>, CatalogError> {
        self.catalog.facts(recording)
    }

    fn annotations(&self, recording: RecordingId) -> Result<Annotations, CatalogError> {
        self.catalog.annotations(recording)
    }

    fn active_with_resume(&self) -> Result<Vec<(Recording, SavedCall)>, CatalogError> {
        self.catalog.active_with_resume()
    }

    fn has_replayed(&self, digest: &str) -> Result<bool, CatalogError> {
        self.catalog.has_replayed(digest)
    }

    fn statistics(&self) -> Result<CatalogStatistics, CatalogError> {
        self.catalog.statistics()
    }

    fn backup(&self, directory: &Path, progress: &mut dyn FnMut(BackupProgress)) -> Result<(), CatalogError> {
        self.catalog.backup(directory, progress)
    }
}
