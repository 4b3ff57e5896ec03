//! Blocks of memory from which the kernel writes: aligned for O_DIRECT, in one mapping, each owned by exactly one place.
//!
//! A [`Block`] is a token: who submits a write gives it away, and gets it back when the write is over. So nobody can
//! change bytes that are being written.

use std::io;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::Arc;

/// The mapping behind blocks that were allocated together.
#[derive(Clone)]
pub struct Memory(Arc<Region>);

impl Memory {
    /// Its first address, and its bytes.
    pub(crate) fn range(&self) -> (usize, usize) {
        (self.0.base.as_ptr() as usize, self.0.bytes)
    }

    pub(crate) fn blocks(&self) -> u16 {
        self.0.blocks
    }

    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

struct Region {
    base: NonNull<u8>,
    bytes: usize,
    blocks: u16,
}

// SAFETY: `Region` only owns the mapping; bytes are reached through `Block`s alone, each of which covers a range of its own.
unsafe impl Send for Region {}
// SAFETY: as above: a shared `&Region` gives no access to the bytes.
unsafe impl Sync for Region {}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: `base` and `bytes` are those of the mapping that `allocate` made; the last `Block` is gone, for each holds an `Arc`.
        if let Err(error) = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.bytes) } {
            tracing::error!(%error, "cannot unmap the journal's buffers");
        }
    }
}

/// A block of memory, aligned to 4096, that can be written from.
pub struct Block {
    memory: Memory,
    offset: usize,
    bytes: usize,
}

impl Block {
    /// `count` blocks of `bytes` each (a multiple of 4096), zeroed.
    pub(crate) fn allocate(count: u16, bytes: usize) -> io::Result<Vec<Self>> {
        assert!(count > 0 && bytes > 0 && bytes.is_multiple_of(crate::format::ALIGNMENT_BYTES));
        let total = usize::from(count) * bytes;
        // SAFETY: a new anonymous mapping at an address of the kernel's choice touches no memory that anyone has.
        let base = unsafe {
            rustix::mm::mmap_anonymous(
                std::ptr::null_mut(),
                total,
                rustix::mm::ProtFlags::READ | rustix::mm::ProtFlags::WRITE,
                rustix::mm::MapFlags::PRIVATE,
            )?
        };
        let base = NonNull::new(base.cast::<u8>()).ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))?;
        let memory = Memory(Arc::new(Region { base, bytes: total, blocks: count }));
        Ok((0..count).map(|index| Self { memory: memory.clone(), offset: usize::from(index) * bytes, bytes }).collect())
    }

    pub(crate) fn memory(&self) -> &Memory {
        &self.memory
    }

    fn start(&self) -> NonNull<u8> {
        // SAFETY: `allocate` gave this block the range [offset, offset + bytes) within the mapping.
        unsafe { self.memory.0.base.add(self.offset) }
    }
}

impl Deref for Block {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the range is mapped, initialized (zeroed) and this block's alone; `&self` forbids writing meanwhile.
        unsafe { std::slice::from_raw_parts(self.start().as_ptr(), self.bytes) }
    }
}

impl DerefMut for Block {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`; `&mut self` makes this the only access.
        unsafe { std::slice::from_raw_parts_mut(self.start().as_ptr(), self.bytes) }
    }
}
