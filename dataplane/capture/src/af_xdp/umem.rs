//! The memory that frames arrive in.

use super::ring::Descriptor;
use crate::system::Mapping;
use sidetone_tap_abi::METADATA_BYTES;
use std::io;

/// The kernel leaves this much room in front of each frame (`XDP_PACKET_HEADROOM`) …
const KERNEL_HEADROOM_BYTES: u32 = 256;
/// … and this much more at our wish, so that the metadata lies in the cache line in which the frame begins, and not in one of
/// its own that would be cold.
const OWN_HEADROOM_BYTES: u32 = METADATA_BYTES;
/// Ethernet header, two VLAN tags and a frame check sequence that some NICs leave in place.
const LINK_OVERHEAD_BYTES: u32 = 14 + 8 + 4;
const SMALL_CHUNK_BYTES: u32 = 2048;
/// The largest chunk that the kernel takes: one page.
const LARGE_CHUNK_BYTES: u32 = 4096;

/// The right to give one chunk of the UMEM to the kernel. Made once per chunk, then moved only.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct FrameToken {
    chunk_start: u64,
}

impl FrameToken {
    /// Where the chunk starts in the UMEM; the token is used up by it.
    pub(super) fn into_address(self) -> u64 {
        self.chunk_start
    }
}

/// Where a received frame lies.
#[derive(Clone, Copy, Debug)]
pub(super) struct FramePlace {
    offset: usize,
    length: usize,
}

#[derive(Debug)]
pub(super) struct Umem {
    memory: Mapping,
    chunk_bytes: u32,
    is_multi_buffer: bool,
}

impl Umem {
    /// Memory for `frames` frames of an interface with this MTU.
    pub(super) fn new(mtu: u32, frames: u32) -> io::Result<Self> {
        let frame_bytes = mtu.saturating_add(LINK_OVERHEAD_BYTES + KERNEL_HEADROOM_BYTES + OWN_HEADROOM_BYTES);
        let chunk_bytes = if frame_bytes <= SMALL_CHUNK_BYTES { SMALL_CHUNK_BYTES } else { LARGE_CHUNK_BYTES };
        // The kernel charges the UMEM to the limit for locked memory unless CAP_IPC_LOCK is held; who may raise the
        // limit, does. If not, registering the UMEM says so.
        let unlimited = rustix::process::Rlimit { current: None, maximum: None };
        if let Err(error) = rustix::process::setrlimit(rustix::process::Resource::Memlock, unlimited) {
            tracing::debug!(%error, "the limit for locked memory stays as it is");
        }
        Ok(Self {
            memory: Mapping::anonymous(frames as usize * chunk_bytes as usize)?,
            chunk_bytes,
            is_multi_buffer: frame_bytes > LARGE_CHUNK_BYTES,
        })
    }

    /// True when a frame of this interface may need several chunks.
    pub(super) fn is_multi_buffer(&self) -> bool {
        self.is_multi_buffer
    }

    pub(super) fn registration(&self) -> libc::xdp_umem_reg {
        libc::xdp_umem_reg {
            addr: self.memory.at(0, self.memory.length()).as_ptr().addr() as u64,
            len: self.memory.length() as u64,
            chunk_size: self.chunk_bytes,
            headroom: OWN_HEADROOM_BYTES,
            flags: 0,
            tx_metadata_len: 0,
        }
    }

    /// A token for every chunk. Called once per UMEM, before the fill ring has any.
    pub(super) fn all_frames(&self) -> Vec<FrameToken> {
        (0..self.memory.length() as u64)
            .step_by(self.chunk_bytes as usize)
            .map(|chunk_start| FrameToken { chunk_start })
            .collect()
    }

    /// Takes over the frame of a descriptor from the kernel.
    ///
    /// # Panics
    /// When the descriptor names no place in the UMEM: then the kernel and we disagree about the memory.
    pub(super) fn take(&self, descriptor: &Descriptor) -> (FrameToken, FramePlace) {
        let address = descriptor.address();
        let place = FramePlace {
            offset: usize::try_from(address).expect("addresses are offsets into the UMEM"),
            length: descriptor.length() as usize,
        };
        let chunk_start = address - address % u64::from(self.chunk_bytes);
        let in_chunk = address - chunk_start;
        assert!(
            in_chunk >= u64::from(METADATA_BYTES)
                && in_chunk + u64::from(descriptor.length()) <= u64::from(self.chunk_bytes)
                && chunk_start < self.memory.length() as u64,
            "a descriptor outside its chunk: {descriptor:?}"
        );
        (FrameToken { chunk_start }, place)
    }

    /// The frame's bytes, ours until its token goes back into the fill ring.
    pub(super) fn bytes(&self, place: &FramePlace) -> &[u8] {
        let start = self.memory.at(place.offset, place.length);
        // SAFETY: `take` has checked the place, and the kernel does not write to a frame that it has put into the
        // receive ring until its token is submitted, which needs the source's `&mut self`.
        unsafe { std::slice::from_raw_parts(start.as_ptr(), place.length) }
    }

    /// Reads the arrival time in front of the frame and erases it, so that a later frame in the same chunk that gets no
    /// stamp is not taken for stamped.
    pub(super) fn take_stamp(&mut self, place: &FramePlace) -> Option<u64> {
        let metadata_bytes = METADATA_BYTES as usize;
        let start = self.memory.at(place.offset - metadata_bytes, metadata_bytes).cast::<u64>();
        // SAFETY: the 8 bytes before the frame lie in its chunk (`take` has checked) and belong to us like the frame.
        let stamp_ns = unsafe { start.read_unaligned() };
        // SAFETY: as above.
        unsafe { start.write_unaligned(0) };
        (stamp_ns != 0).then_some(stamp_ns)
    }
}
