//! The real outside world: the file system, the system's clock, the kernel's randomness.

use crate::io::{FileSize, InputFile, Io, NewFile, OutputFile, SMALL_FILE_BYTES_MAX, Space};
use crate::ring::RingFile;
use rustix::fs::{Advice, FallocateFlags, FlockOperation, fadvise, fallocate, flock, statvfs};
use rustix::time::{ClockId, clock_gettime};
use sidetone_model::CaptureTime;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use uuid::Uuid;

/// Files of this machine; those that are written go through io_uring.
pub struct RingIo {
    pub(crate) ring_allowed: bool,
    pub(crate) direct_allowed: bool,
    /// The operator was told that a file system does without.
    told_of_direct: AtomicBool,
    told_of_preallocation: AtomicBool,
}

impl RingIo {
    #[expect(clippy::new_without_default, reason = "a default would hide that this is the real world")]
    pub fn new() -> Self {
        Self {
            ring_allowed: true,
            direct_allowed: true,
            told_of_direct: AtomicBool::new(false),
            told_of_preallocation: AtomicBool::new(false),
        }
    }

    fn output(&self, file: File, path: &Path, new: &NewFile) -> io::Result<Box<dyn OutputFile>> {
        // At least one byte: the system call refuses none.
        let preallocated = match fallocate(&file, FallocateFlags::empty(), 0, new.bytes.max(1)) {
            Ok(()) => true,
            Err(rustix::io::Errno::OPNOTSUPP) => {
                if !self.told_of_preallocation.swap(true, Ordering::Relaxed) {
                    tracing::warn!(path = %path.display(), "this file system cannot set space aside: a full disk shows late");
                }
                false
            }
            Err(error) => return Err(error.into()),
        };
        let mut file = RingFile::new(file, preallocated, &new.memory, self.ring_allowed);
        if new.direct {
            let attempt = match self.direct_allowed {
                true => file.set_direct(true),
                false => Err(io::ErrorKind::InvalidInput.into()),
            };
            match attempt {
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                    if !self.told_of_direct.swap(true, Ordering::Relaxed) {
                        tracing::warn!(path = %path.display(), "no O_DIRECT on this file system: writes go through the page cache");
                    }
                }
                other => other?,
            }
        }
        Ok(Box::new(file))
    }
}

impl Io for RingIo {
    fn create(&self, path: &Path, new: &NewFile) -> io::Result<Box<dyn OutputFile>> {
        self.output(OpenOptions::new().write(true).create_new(true).mode(0o640).open(path)?, path, new)
    }

    fn extend(&self, path: &Path, new: &NewFile) -> io::Result<Box<dyn OutputFile>> {
        self.output(OpenOptions::new().write(true).open(path)?, path, new)
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn InputFile>> {
        Ok(Arc::new(File::open(path)?))
    }

    fn sync_file(&self, path: &Path) -> io::Result<()> {
        let file = File::options().write(true).open(path)?;
        file.sync_all()?;
        // After a writeback error Linux keeps pages that never reached the device, and calls them clean: no later sync
        // tells. Dropping the clean pages makes reads tell the truth.
        fadvise(&file, 0, None, Advice::DontNeed)?;
        Ok(())
    }

    fn truncate(&self, path: &Path, bytes: u64) -> io::Result<()> {
        File::options().write(true).open(path)?.set_len(bytes)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn create_directory(&self, path: &Path) -> io::Result<()> {
        std::fs::create_dir(path)
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        File::open(if path.as_os_str().is_empty() { Path::new(".") } else { path })?.sync_all()
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(path)? {
            names.extend(entry?.file_name().into_string().ok());
        }
        Ok(names)
    }

    fn size(&self, path: &Path) -> io::Result<FileSize> {
        let metadata = std::fs::metadata(path)?;
        Ok(FileSize { bytes: metadata.len(), allocated_bytes: metadata.blocks() * 512 })
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(path)?.take(SMALL_FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > SMALL_FILE_BYTES_MAX {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        Ok(bytes)
    }

    fn write_small(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
        name.push(".new");
        let new = path.with_file_name(name);
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o640).open(&new)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&new, path)?;
        self.sync_directory(path.parent().unwrap_or(Path::new("")))
    }

    fn space(&self, path: &Path) -> io::Result<Space> {
        let file_system = statvfs(path)?;
        Ok(Space {
            free_bytes: file_system.f_bavail.saturating_mul(file_system.f_frsize),
            total_bytes: file_system.f_blocks.saturating_mul(file_system.f_frsize),
        })
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        let mut file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o640).open(path)?;
        flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        // For people; the lock itself is the kernel's.
        file.set_len(0)?;
        writeln!(file, "{}", std::process::id())?;
        Ok(Box::new(file))
    }

    fn now(&self) -> CaptureTime {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        CaptureTime(u64::try_from(since_epoch.as_nanos()).unwrap_or(u64::MAX))
    }

    fn monotonic(&self) -> Duration {
        let time = clock_gettime(ClockId::Monotonic);
        Duration::new(time.tv_sec.cast_unsigned(), time.tv_nsec as u32)
    }

    fn random(&self) -> io::Result<[u8; 16]> {
        let mut bytes = [0; 16];
        File::open("/dev/urandom")?.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn boot_id(&self) -> Uuid {
        let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        Uuid::parse_str(text.trim()).unwrap_or_else(|_| Uuid::nil())
    }
}

impl InputFile for File {
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut filled = 0;
        while filled < bytes.len() {
            match FileExt::read_at(self, &mut bytes[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    fn bytes(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }
}
