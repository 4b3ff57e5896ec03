//! The few system interfaces that rustix does not wrap: socket options with kernel structures, and memory shared
//! with the kernel.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr::NonNull;

/// # Safety
/// `T` is the plain structure that the kernel reads for this option: no padding that matters, no pointer that is not
/// valid for as long as the kernel uses it.
pub(crate) unsafe fn set_option<T: Copy>(
    socket: impl AsFd,
    level: libc::c_int,
    option: libc::c_int,
    value: &T,
) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of::<T>()).expect("socket options are small");
    // SAFETY: the pointer is valid for `length` bytes during the call; what it means is the caller's promise.
    let result = unsafe {
        libc::setsockopt(socket.as_fd().as_raw_fd(), level, option, std::ptr::from_ref(value).cast(), length)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Reads an option; fields that an older kernel does not know stay zero.
///
/// # Safety
/// `T` is the plain structure that the kernel writes for this option; all bit patterns are valid for it.
pub(crate) unsafe fn get_option<T: Copy>(socket: impl AsFd, level: libc::c_int, option: libc::c_int) -> io::Result<T> {
    let mut value = MaybeUninit::<T>::zeroed();
    let mut length = libc::socklen_t::try_from(size_of::<T>()).expect("socket options are small");
    // SAFETY: the kernel writes at most `length` bytes to a place that has them.
    let result = unsafe {
        libc::getsockopt(socket.as_fd().as_raw_fd(), level, option, value.as_mut_ptr().cast(), &raw mut length)
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: zeroed, then written by the kernel; every bit pattern is a value by the caller's promise.
    Ok(unsafe { value.assume_init() })
}

/// Memory that the kernel also writes to. Reading it is the business of the ring that owns it.
#[derive(Debug)]
pub(crate) struct Mapping {
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: a mapping is owned like a `Box<[u8]>`; it is not bound to the thread that made it.
unsafe impl Send for Mapping {}

impl Mapping {
    /// Zeroed memory, backed by pages from the start.
    pub(crate) fn anonymous(length: usize) -> io::Result<Self> {
        use rustix::mm::{MapFlags, ProtFlags};
        // SAFETY: a new mapping at an address of the kernel's choice touches nobody's memory.
        let start = unsafe {
            rustix::mm::mmap_anonymous(
                std::ptr::null_mut(),
                length,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE | MapFlags::POPULATE,
            )
        }?;
        Ok(Self { start: NonNull::new(start.cast()).expect("mmap never gives address 0"), length })
    }

    /// A ring of a socket.
    pub(crate) fn of_socket(socket: impl AsFd, length: usize, offset: u64) -> io::Result<Self> {
        use rustix::mm::{MapFlags, ProtFlags};
        // SAFETY: as above; the kernel keeps the ring's pages until they are unmapped, also when the socket closes.
        let start = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                length,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED | MapFlags::POPULATE,
                socket,
                offset,
            )
        }?;
        Ok(Self { start: NonNull::new(start.cast()).expect("mmap never gives address 0"), length })
    }

    pub(crate) fn length(&self) -> usize {
        self.length
    }

    /// The address `offset` bytes into the mapping, of which `size` bytes are used.
    ///
    /// # Panics
    /// When the range is not within the mapping.
    pub(crate) fn at(&self, offset: usize, size: usize) -> NonNull<u8> {
        assert!(offset <= self.length && size <= self.length - offset, "outside the mapping");
        // SAFETY: offset + size lie within the mapping, checked above.
        unsafe { self.start.add(offset) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range is ours since mmap, and nothing borrowed from it outlives `self`.
        let result = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.length) };
        debug_assert!(result.is_ok(), "munmap of a whole mapping: {result:?}");
    }
}
