//! The outside world of a store: its files, the clock, randomness.
//!
//! Everything that a store reads or writes, and all it knows of time, goes through [`Io`]. [`RingIo`](crate::RingIo) is the
//! real one; the tests' `SimulatedDisk` is a machine in memory that crashes and fails as real ones do.
//!
//! What counts as durable, and is all that an implementation promises: the content of a file up to a sync that returned
//! without error after the writes were complete; a name (made, renamed, removed) when [`Io::sync_directory`] of its directory
//! has returned since.

use crate::block::{Block, Memory};
use sidetone_model::CaptureTime;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

/// Files, clock and randomness. Paths are used as they are given.
pub trait Io: Send + Sync {
    /// A new file for writing, with space set aside where the file system can. Its name is durable after
    /// [`Self::sync_directory`].
    ///
    /// # Errors
    /// [`io::ErrorKind::AlreadyExists`] when the name is taken. After any other error the name may be left, with an empty
    /// or preallocated file behind it.
    fn create(&self, path: &Path, new: &NewFile) -> io::Result<Box<dyn OutputFile>>;

    /// Opens a file that is there, for writing behind what it holds: a segment that its process did not close gets its
    /// footer. Space is set aside as by [`Self::create`]; `bytes` counts from the file's beginning.
    fn extend(&self, path: &Path, new: &NewFile) -> io::Result<Box<dyn OutputFile>>;

    /// Opens a file for reading.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn InputFile>>;

    /// Makes the content of a file durable, and lets go of what is only remembered: what is read from now on is what the
    /// device holds. For files that another process has left.
    fn sync_file(&self, path: &Path) -> io::Result<()>;

    /// Cuts a file to `bytes`.
    fn truncate(&self, path: &Path, bytes: u64) -> io::Result<()>;

    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Replaces what has the name `to`.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// # Errors
    /// [`io::ErrorKind::AlreadyExists`] when it is there.
    fn create_directory(&self, path: &Path) -> io::Result<()>;

    /// Makes durable which names a directory holds.
    fn sync_directory(&self, path: &Path) -> io::Result<()>;

    /// Names of the files and directories in a directory, in any order. Names that are not UTF-8 are left out.
    fn list(&self, path: &Path) -> io::Result<Vec<String>>;

    fn size(&self, path: &Path) -> io::Result<FileSize>;

    /// The whole of a small file: at most [`SMALL_FILE_BYTES_MAX`].
    ///
    /// # Errors
    /// [`io::ErrorKind::FileTooLarge`].
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;

    /// Puts a small file in place, durably: after a crash at any moment there is the old content, or none where there
    /// was none, or the new one.
    fn write_small(&self, path: &Path, bytes: &[u8]) -> io::Result<()>;

    /// Space of the file system that holds `path`.
    fn space(&self, path: &Path) -> io::Result<Space>;

    /// Holds the lock of that name until the guard is dropped or the process ends. The file's text is the process id.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] when another holds it.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>>;

    /// The system's clock. It may be set, forward and back: for what people read, not for measuring.
    fn now(&self) -> CaptureTime;

    /// Time since a moment that stays the same while the machine runs; never goes back. For measuring how long something
    /// takes. Like Linux's CLOCK_MONOTONIC it stands still while the machine is suspended.
    fn monotonic(&self) -> Duration;

    /// 16 random bytes that nobody can guess.
    fn random(&self) -> io::Result<[u8; 16]>;

    /// Which run of the machine this is; nil where the kernel does not say.
    fn boot_id(&self) -> Uuid;
}

/// A random identifier (RFC 9562 version 4).
pub fn random_id(io: &dyn Io) -> io::Result<Uuid> {
    Ok(uuid::Builder::from_random_bytes(io.random()?).into_uuid())
}

/// Limit of [`Io::read`].
pub const SMALL_FILE_BYTES_MAX: u64 = 64 << 20;

/// How to make a file.
pub struct NewFile {
    /// Space to set aside.
    pub bytes: u64,
    /// Write past the page cache if the file system can.
    pub direct: bool,
    /// Where most writes come from; the kernel is told once.
    pub memory: Memory,
}

/// How large a file is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FileSize {
    pub bytes: u64,
    /// What it takes on the device; more than `bytes` while it is preallocated.
    pub allocated_bytes: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Space {
    /// What this process may still use.
    pub free_bytes: u64,
    pub total_bytes: u64,
}

/// One write: the first `length` bytes of `block` to `offset`, both multiples of 4096.
pub struct Write {
    pub block: Block,
    pub length: usize,
    pub offset: u64,
}

/// A file being written. Nothing but [`Self::poll`] with `wait`, [`Self::set_len`] and dropping it waits for the device. Dropping
/// waits until nothing is in flight and closes the file.
pub trait OutputFile: Send {
    /// Begins a write. The block comes back from [`Self::poll`].
    fn submit(&mut self, write: Write);

    /// Begins to make durable what was written. Only when no write is in flight and no failure was reported: after an
    /// error nothing is known about what is durable, and asking again proves nothing.
    fn begin_sync(&mut self);

    /// What has happened since the last call. With `wait`, returns when nothing is in flight.
    fn poll(&mut self, wait: bool) -> Progress;

    /// Cuts the file to `bytes`; gives back what was preallocated behind. Nothing may be in flight.
    fn set_len(&mut self, bytes: u64) -> io::Result<()>;

    /// Writes go past the page cache.
    fn direct(&self) -> bool;

    /// Space for the whole file is set aside.
    fn preallocated(&self) -> bool;

    /// Writes go through io_uring; else one after the other.
    fn uses_ring(&self) -> bool;
}

/// What became of writes and of a sync.
#[derive(Default)]
pub struct Progress {
    /// Writes that are over, whatever became of them.
    pub writes: Vec<Write>,
    /// The first error among them, or that of the sync.
    pub failure: Option<io::Error>,
    /// The sync is over, and all is durable.
    pub synced: bool,
    /// Neither a write nor a sync is in flight.
    pub idle: bool,
}

/// A file open for reading; may be shared between threads. It stays readable when its name is removed.
pub trait InputFile: Send + Sync {
    /// Reads at `offset`; fewer bytes than asked for only at the end.
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Bytes of the file at present.
    fn bytes(&self) -> io::Result<u64>;
}
