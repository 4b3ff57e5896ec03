//! The real world with a clock of its own, that counts what is written to journals and to segments.

use sidetone_log::{FileSize, InputFile, Io, NewFile, OutputFile, Progress, RingIo, Space, Write};
use sidetone_model::CaptureTime;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use uuid::Uuid;

pub(crate) struct Metered {
    inner: RingIo,
    clock: AtomicU64,
    journals: Arc<AtomicU64>,
    segments: Arc<AtomicU64>,
}

impl Metered {
    pub(crate) fn new(now: CaptureTime) -> Self {
        Self { inner: RingIo::new(), clock: AtomicU64::new(now.0), journals: Arc::default(), segments: Arc::default() }
    }

    pub(crate) fn set_clock(&self, now: CaptureTime) {
        self.clock.store(now.0, Ordering::Release);
    }

    pub(crate) fn journal_bytes(&self) -> u64 {
        self.journals.load(Ordering::Acquire)
    }

    pub(crate) fn segment_bytes(&self) -> u64 {
        self.segments.load(Ordering::Acquire)
    }

    fn output(&self, path: &Path, inner: Box<dyn OutputFile>) -> Box<dyn OutputFile> {
        let is_segment = path.extension().is_some_and(|extension| extension == "seg");
        let bytes = Arc::clone(if is_segment { &self.segments } else { &self.journals });
        Box::new(MeteredFile { inner, bytes })
    }
}

struct MeteredFile {
    inner: Box<dyn OutputFile>,
    bytes: Arc<AtomicU64>,
}

impl OutputFile for MeteredFile {
    fn submit(&mut self, write: Write) {
        self.bytes.fetch_add(write.length as u64, Ordering::AcqRel);
        self.inner.submit(write);
    }

    fn begin_sync(&mut self) {
        self.inner.begin_sync();
    }

    fn poll(&mut self, wait: bool) -> Progress {
        self.inner.poll(wait)
    }

    fn set_len(&mut self, bytes: u64) -> io::Result<()> {
        self.inner.set_len(bytes)
    }

    fn direct(&self) -> bool {
        self.inner.direct()
    }

    fn preallocated(&self) -> bool {
        self.inner.preallocated()
    }

    fn uses_ring(&self) -> bool {
        self.inner.uses_ring()
    }
}

impl Io for Metered {
    fn create(&self, path: &Path, new: &NewFile) -> io::Result<Box<dyn OutputFile>> {
        Ok(self.output(path, self.inner.create(path, new)?))
    }

    fn extend(&self, path: &Path, new: &NewFile) -> io::Result<Box<dyn OutputFile>> {
        Ok(self.output(path, self.inner.extend(path, new)?))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn InputFile>> {
        self.inner.open(path)
    }

    fn sync_file(&self, path: &Path) -> io::Result<()> {
        self.inner.sync_file(path)
    }

    fn truncate(&self, path: &Path, bytes: u64) -> io::Result<()> {
        self.inner.truncate(path, bytes)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.inner.remove(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.inner.rename(from, to)
    }

    fn create_directory(&self, path: &Path) -> io::Result<()> {
        self.inner.create_directory(path)
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        self.inner.sync_directory(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        self.inner.list(path)
    }

    fn size(&self, path: &Path) -> io::Result<FileSize> {
        self.inner.size(path)
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.inner.read(path)
    }

    fn write_small(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        self.inner.write_small(path, bytes)
    }

    fn space(&self, path: &Path) -> io::Result<Space> {
        self.inner.space(path)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        self.inner.lock(path)
    }

    fn now(&self) -> CaptureTime {
        CaptureTime(self.clock.load(Ordering::Acquire))
    }

    fn monotonic(&self) -> Duration {
        // The bench lets its clock pass, and never sets it.
        Duration::from_nanos(self.clock.load(Ordering::Acquire))
    }

    fn random(&self) -> io::Result<[u8; 16]> {
        self.inner.random()
    }

    fn boot_id(&self) -> Uuid {
        self.inner.boot_id()
    }
}
