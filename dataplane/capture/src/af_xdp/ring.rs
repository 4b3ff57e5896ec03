//! The rings between the kernel and us: single producer, single consumer, positions that only grow.

use super::umem::FrameToken;
use crate::system::Mapping;
use rustix::fd::OwnedFd;
use std::io;
use std::sync::atomic::{AtomicU32, Ordering};

const RECEIVE_RING_OFFSET: u64 = 0;

/// One entry of the receive ring: `struct xdp_desc`.
#[repr(C)]
#[derive(Debug)]
pub(super) struct Descriptor {
    address: u64,
    length: u32,
    options: u32,
}

const _: () = assert!(size_of::<Descriptor>() == size_of::<libc::xdp_desc>());

impl Descriptor {
    /// Offset into the UMEM.
    pub(super) fn address(&self) -> u64 {
        self.address
    }

    /// In bytes.
    pub(super) fn length(&self) -> u32 {
        self.length
    }

    /// The frame goes on in the next descriptor.
    pub(super) fn is_continued(&self) -> bool {
        self.options & libc::XDP_PKT_CONTD != 0
    }
}

/// What both kinds of ring have in memory. `size` is a power of two.
#[derive(Debug)]
struct SharedRing {
    mapping: Mapping,
    producer_offset: usize,
    consumer_offset: usize,
    flags_offset: usize,
    entries_offset: usize,
    size: u32,
}

impl SharedRing {
    fn map<T>(socket: &OwnedFd, layout: &libc::xdp_ring_offset, size: u32, offset: u64) -> io::Result<Self> {
        let place = |value: u64| usize::try_from(value).expect("ring offsets are small");
        let entries_offset = place(layout.desc);
        let mapping = Mapping::of_socket(socket, entries_offset + size as usize * size_of::<T>(), offset)?;
        Ok(Self {
            mapping,
            producer_offset: place(layout.producer),
            consumer_offset: place(layout.consumer),
            flags_offset: place(layout.flags),
            entries_offset,
            size,
        })
    }

    fn number(&self, offset: usize) -> &AtomicU32 {
        let place = self.mapping.at(offset, 4);
        // SAFETY: the kernel's layout puts an aligned 32-bit number here, which both sides only access atomically.
        unsafe { AtomicU32::from_ptr(place.as_ptr().cast()) }
    }

    fn producer(&self) -> &AtomicU32 {
        self.number(self.producer_offset)
    }

    fn consumer(&self) -> &AtomicU32 {
        self.number(self.consumer_offset)
    }

    /// The entry at a position.
    fn entry<T>(&self, position: u32) -> std::ptr::NonNull<T> {
        let index = (position & (self.size - 1)) as usize;
        self.mapping.at(self.entries_offset + index * size_of::<T>(), size_of::<T>()).cast()
    }
}

/// Frames for the kernel to fill. We produce.
#[derive(Debug)]
pub(super) struct FillRing {
    shared: SharedRing,
    produced: u32,
}

impl FillRing {
    pub(super) fn map(socket: &OwnedFd, layout: &libc::xdp_ring_offset, size: u32) -> io::Result<Self> {
        Ok(Self { shared: SharedRing::map::<u64>(socket, layout, size, libc::XDP_UMEM_PGOFF_FILL_RING)?, produced: 0 })
    }

    /// Gives frames to the kernel, as many as there is room for; the rest stay in `frames` for the next time.
    ///
    /// The ring has a place for every frame of the UMEM, and yet can look full for a moment: the kernel publishes what it
    /// received before it tells how far it has read this ring (`xsk_flush` in net/xdp/xsk.c).
    pub(super) fn submit(&mut self, frames: &mut Vec<FrameToken>) {
        if frames.is_empty() {
            return;
        }
        let consumed = self.shared.consumer().load(Ordering::Acquire);
        let free = self.shared.size - self.produced.wrapping_sub(consumed);
        let room = frames.len().min(free as usize);
        for frame in frames.drain(..room) {
            // SAFETY: the entry is within the ring and lies beyond what the kernel may read until the producer
            // position is published below.
            unsafe { self.shared.entry::<u64>(self.produced).write(frame.into_address()) };
            self.produced = self.produced.wrapping_add(1);
        }
        self.shared.producer().store(self.produced, Ordering::Release);
    }

    /// The driver sleeps until a system call tells it that there are frames.
    pub(super) fn needs_wakeup(&self) -> bool {
        self.shared.number(self.shared.flags_offset).load(Ordering::Relaxed) & libc::XDP_RING_NEED_WAKEUP != 0
    }
}

/// Frames that the kernel has filled. We consume.
#[derive(Debug)]
pub(super) struct ReceiveRing {
    shared: SharedRing,
    consumed: u32,
    /// The producer's position when we last looked.
    produced: u32,
}

impl ReceiveRing {
    pub(super) fn map(socket: &OwnedFd, layout: &libc::xdp_ring_offset, size: u32) -> io::Result<Self> {
        let shared = SharedRing::map::<Descriptor>(socket, layout, size, RECEIVE_RING_OFFSET)?;
        Ok(Self { shared, consumed: 0, produced: 0 })
    }

    pub(super) fn is_empty(&mut self) -> bool {
        if self.produced == self.consumed {
            self.produced = self.shared.producer().load(Ordering::Acquire);
        }
        self.produced == self.consumed
    }

    pub(super) fn take(&mut self) -> Option<Descriptor> {
        if self.is_empty() {
            return None;
        }
        // SAFETY: the entry is within the ring, and the kernel has published it (acquire on the producer position) and
        // does not write it again before the consumer position says so.
        let descriptor = unsafe { self.shared.entry::<Descriptor>(self.consumed).read() };
        self.consumed = self.consumed.wrapping_add(1);
        Some(descriptor)
    }

    /// Tells the kernel that the entries taken so far are free.
    pub(super) fn release(&mut self) {
        self.shared.consumer().store(self.consumed, Ordering::Release);
    }
}
