//! The seam between the journal and the file system.
//!
//! The journal is written against [`Disk`]: [`crate::ring::RingDisk`] is the real one, tests put one between that fails on
//! demand.

use crate::block::Block;
use crate::format::ALIGNMENT_BYTES;
use std::io;
use std::path::Path;

/// One write: the first `length` bytes of `block` to `offset`, both multiples of 4096.
pub(crate) struct Write {
    pub(crate) block: Block,
    pub(crate) length: usize,
    pub(crate) offset: u64,
}

/// How the current file is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Created {
    /// Past the page cache.
    pub(crate) direct: bool,
    /// Space for the whole file is set aside.
    pub(crate) preallocated: bool,
}

/// Writes one file at a time.
pub(crate) trait Disk: Send {
    /// Makes a new file with its header; when this returns, its name and header are durable. Writes and syncs go to it
    /// from now on. After an error the current file is the one it was, and nothing of the new one is left.
    /// Nothing may be in flight.
    fn create(&mut self, path: &Path, bytes: u64, header: &[u8; ALIGNMENT_BYTES]) -> io::Result<Created>;

    /// Begins a write. Errors show in [`Self::settle`].
    fn submit(&mut self, write: Write);

    /// Waits until nothing is in flight. Gives back every write submitted since the last call, whatever became of it, and
    /// the first error among them.
    fn settle(&mut self) -> (Vec<Write>, io::Result<()>);

    /// Makes durable what was written to the current file. Nothing may be in flight. After an error nothing is known
    /// about what is durable, and asking again proves nothing.
    fn sync(&mut self) -> io::Result<()>;

    /// Gives back what was preallocated behind `bytes` in the current file.
    fn trim(&mut self, bytes: u64) -> io::Result<()>;

    /// Whether writes go through io_uring.
    fn uses_ring(&self) -> bool;
}
