//! AF_PACKET with TPACKET_V3: blocks of frames in memory shared with the kernel. The fallback where AF_XDP cannot be
//! had (packet(7), Documentation/networking/packet_mmap.rst).
//!
//! VLAN tags that the kernel has taken off a frame are put back: they are part of a stream's identity.

use crate::clock::{CaptureClock, read_both_clocks};
use crate::interface::{Interface, packet_socket};
use crate::system::{Mapping, get_option, set_option};
use crate::{CaptureError, Frame, FrameSource, LinkLayer, SourceStatistics};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fd::OwnedFd;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

const TPACKET_V3: libc::c_int = 2;
const BLOCK_BYTES: usize = 256 * 1024;
/// A block that is not full is handed over after this time, in milliseconds.
const RETIRE_MILLISECONDS: u32 = 10;
const VLAN_TAG_BYTES: usize = 4;
const ETHERTYPE_VLAN: u16 = 0x8100;
/// Frames that claim to be older than this have no usable stamp.
const STAMP_AGE_NS_MAX: u64 = 60_000_000_000;

const TP_STATUS_KERNEL: u32 = 0;
const TP_STATUS_USER: u32 = 1;
const TP_STATUS_VLAN_VALID: u32 = 1 << 4;
const TP_STATUS_VLAN_TPID_VALID: u32 = 1 << 6;
/// Places in `struct tpacket_block_desc` and its `tpacket_hdr_v1`.
const BLOCK_STATUS: usize = 8;
const BLOCK_FRAMES: usize = 12;
const BLOCK_FIRST_FRAME: usize = 16;

#[derive(Debug)]
pub(crate) struct PacketSource {
    // Closed before the ring is unmapped.
    socket: OwnedFd,
    ring: Mapping,
    interface: Interface,
    clock: CaptureClock,
    blocks: usize,
    block: usize,
    cursor: Option<Cursor>,
    statistics: SourceStatistics,
    missed_by_nic_at_open: u64,
}

/// Where reading goes on in the current block.
#[derive(Debug)]
struct Cursor {
    frames_left: u32,
    offset: usize,
}

impl PacketSource {
    pub(crate) fn open(interface: Interface, ring_bytes: usize) -> Result<Self, CaptureError> {
        let link = interface.link()?;
        let socket = packet_socket(interface.name())?;
        let blocks = (ring_bytes / BLOCK_BYTES).max(4);
        let failed = |operation| {
            let interface = interface.name();
            move |error: io::Error| CaptureError::system(interface, operation, error)
        };
        let request = libc::tpacket_req3 {
            tp_block_size: BLOCK_BYTES as u32,
            tp_block_nr: u32::try_from(blocks).unwrap_or(u32::MAX),
            tp_frame_size: 2048,
            tp_frame_nr: u32::try_from(blocks * (BLOCK_BYTES / 2048)).unwrap_or(u32::MAX),
            tp_retire_blk_tov: RETIRE_MILLISECONDS,
            tp_sizeof_priv: 0,
            tp_feature_req_word: 0,
        };
        // SAFETY: each option takes the plain integer or structure that packet(7) gives for it.
        unsafe {
            set_option(&socket, libc::SOL_PACKET, libc::PACKET_VERSION, &TPACKET_V3)
                .map_err(failed("ask for TPACKET_V3"))?;
            // Room in front of each frame to put its VLAN tag back.
            set_option(&socket, libc::SOL_PACKET, libc::PACKET_RESERVE, &(VLAN_TAG_BYTES as libc::c_uint))
                .map_err(failed("reserve room for VLAN tags"))?;
            set_option(&socket, libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, &1)
                .map_err(failed("leave out outgoing frames"))?;
            set_option(&socket, libc::SOL_PACKET, libc::PACKET_RX_RING, &request)
                .map_err(failed("set up the packet ring"))?;
        }
        let ring = Mapping::of_socket(&socket, blocks * BLOCK_BYTES, 0).map_err(failed("map the packet ring"))?;
        interface.set_promiscuous(&socket)?;
        bind(&socket, interface.index()).map_err(failed("bind a packet socket"))?;
        Ok(Self {
            socket,
            ring,
            missed_by_nic_at_open: link.missed,
            interface,
            clock: CaptureClock::start(),
            blocks,
            block: 0,
            cursor: None,
            statistics: SourceStatistics::default(),
        })
    }

    fn status(&self) -> &AtomicU32 {
        let place = self.ring.at(self.block * BLOCK_BYTES + BLOCK_STATUS, 4);
        // SAFETY: the place is aligned and within the ring; kernel and user space hand blocks over through it, and
        // nobody reads or writes it otherwise.
        unsafe { AtomicU32::from_ptr(place.as_ptr().cast()) }
    }

    /// True when the current block is ours to read.
    fn take_block(&mut self) -> bool {
        if self.cursor.is_none() && self.status().load(Ordering::Acquire) & TP_STATUS_USER != 0 {
            let block = self.current_block();
            self.cursor = Some(Cursor {
                frames_left: read_u32(block, BLOCK_FRAMES),
                offset: read_u32(block, BLOCK_FIRST_FRAME) as usize,
            });
        }
        self.cursor.is_some()
    }

    /// The current block. Only called while it is ours: between seeing TP_STATUS_USER and giving it back.
    fn current_block(&mut self) -> &mut [u8] {
        let start = self.ring.at(self.block * BLOCK_BYTES, BLOCK_BYTES);
        // SAFETY: the range lies within the ring, and the kernel does not touch a block while its status says
        // TP_STATUS_USER; `&mut self` keeps the reference unique.
        unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), BLOCK_BYTES) }
    }

    fn give_block_back(&mut self) {
        self.cursor = None;
        self.status().store(TP_STATUS_KERNEL, Ordering::Release);
        self.block = (self.block + 1) % self.blocks;
    }
}

impl FrameSource for PacketSource {
    fn receive(
        &mut self,
        timeout: Duration,
        budget: usize,
        handler: &mut dyn FnMut(&Frame<'_>),
    ) -> Result<usize, CaptureError> {
        if !self.take_block() {
            wait(&self.socket, timeout)
                .map_err(|error| CaptureError::system(self.interface.name(), "wait for frames", error))?;
            if !self.take_block() {
                return Ok(0);
            }
        }
        let (now_ns, realtime_ns) = read_both_clocks();
        self.clock.observe(now_ns, realtime_ns);
        let mut frames = 0;
        while frames < budget && self.take_block() {
            let cursor = self.cursor.as_mut().expect("a block was taken");
            if cursor.frames_left == 0 {
                self.give_block_back();
                continue;
            }
            // The cursor moves on before the handler runs: a handler that panics loses one frame.
            let offset = cursor.offset;
            cursor.frames_left -= 1;
            let next = read_u32(self.current_block(), offset) as usize;
            self.cursor.as_mut().expect("a block was taken").offset = offset + next;

            let slot = Slot::read(self.current_block(), offset);
            let monotonic_ns = slot.realtime_ns.checked_sub(realtime_ns.saturating_sub(now_ns));
            let stamp_ns = monotonic_ns.filter(|&at| at <= now_ns && now_ns - at < STAMP_AGE_NS_MAX);
            if stamp_ns.is_none() {
                self.statistics.unstamped += 1;
            }
            let arrived_at = self.clock.time(stamp_ns.unwrap_or(now_ns));
            self.statistics.frames += 1;
            frames += 1;
            let bytes = slot.bytes_with_vlan_tag(&mut self.current_block()[offset..]);
            let original_length =
                slot.original_length + if slot.vlan_tag.is_some() { VLAN_TAG_BYTES as u32 } else { 0 };
            handler(&Frame { arrived_at, bytes, original_length, link: LinkLayer::Ethernet });
        }
        Ok(frames)
    }

    fn statistics(&mut self) -> SourceStatistics {
        // SAFETY: tpacket_stats_v3 is the plain structure of this option, three integers. Reading it resets it.
        let counted: io::Result<libc::tpacket_stats_v3> =
            unsafe { get_option(&self.socket, libc::SOL_PACKET, libc::PACKET_STATISTICS) };
        match counted {
            Ok(counted) => self.statistics.missed_ring_full += u64::from(counted.tp_drops),
            Err(error) => tracing::error!(interface = self.interface.name(), %error, "cannot read PACKET_STATISTICS"),
        }
        match self.interface.link() {
            Ok(link) => {
                self.statistics.missed_by_nic = link.missed.saturating_sub(self.missed_by_nic_at_open);
                self.statistics.is_down = !link.is_up;
            }
            // Gone, most likely: whoever asks tells of it once.
            Err(_) => self.statistics.is_down = true,
        }
        self.statistics
    }
}

/// `struct tpacket3_hdr`, as far as it is used.
struct Slot {
    realtime_ns: u64,
    length: usize,
    original_length: u32,
    /// Place of the Ethernet header, from the slot's start.
    start: usize,
    /// Tag protocol and tag control information that the kernel took off the frame.
    vlan_tag: Option<(u16, u16)>,
}

impl Slot {
    fn read(block: &[u8], offset: usize) -> Self {
        let status = read_u32(block, offset + 20);
        let tag_protocol =
            if status & TP_STATUS_VLAN_TPID_VALID != 0 { read_u16(block, offset + 36) } else { ETHERTYPE_VLAN };
        let tag_control = read_u32(block, offset + 32) as u16;
        Self {
            realtime_ns: u64::from(read_u32(block, offset + 4)) * 1_000_000_000
                + u64::from(read_u32(block, offset + 8)),
            length: read_u32(block, offset + 12) as usize,
            original_length: read_u32(block, offset + 16),
            start: usize::from(read_u16(block, offset + 24)),
            vlan_tag: (status & TP_STATUS_VLAN_VALID != 0).then_some((tag_protocol, tag_control)),
        }
    }

    /// The frame as it was on the wire. `slot` starts at the slot's header.
    fn bytes_with_vlan_tag<'a>(&self, slot: &'a mut [u8]) -> &'a [u8] {
        let end = self.start + self.length;
        let Some((protocol, control)) = self.vlan_tag.filter(|_| self.length >= 12) else {
            return &slot[self.start..end];
        };
        let start = self.start - VLAN_TAG_BYTES;
        slot.copy_within(self.start..self.start + 12, start);
        slot[start + 12..start + 14].copy_from_slice(&protocol.to_be_bytes());
        slot[start + 14..start + 16].copy_from_slice(&control.to_be_bytes());
        &slot[start..end]
    }
}

fn read_u32(bytes: &[u8], offset: usize) -> u32 {
    u32::from_ne_bytes([bytes[offset], bytes[offset + 1], bytes[offset + 2], bytes[offset + 3]])
}

fn read_u16(bytes: &[u8], offset: usize) -> u16 {
    u16::from_ne_bytes([bytes[offset], bytes[offset + 1]])
}

fn bind(socket: &OwnedFd, interface_index: u32) -> io::Result<()> {
    // SAFETY: `sockaddr_ll` is a plain C structure for which all zeroes is a value.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as libc::c_ushort;
    address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
    address.sll_ifindex = interface_index.cast_signed();
    let length = libc::socklen_t::try_from(size_of_val(&address)).expect("addresses are small");
    // SAFETY: the address lives until after the call and has the length that is given.
    let result = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Waits until the socket is readable, a signal arrives, or the time runs out.
pub(crate) fn wait(socket: &OwnedFd, timeout: Duration) -> io::Result<()> {
    let timeout = Timespec {
        tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(timeout.subsec_nanos()),
    };
    let mut sockets = [PollFd::new(socket, PollFlags::IN)];
    match rustix::event::poll(&mut sockets, Some(&timeout)) {
        Ok(0) | Err(rustix::io::Errno::INTR) => Ok(()),
        Ok(_) if sockets[0].revents().contains(PollFlags::IN) => Ok(()),
        // The interface went down or away: the error waits in the socket.
        Ok(_) => match rustix::net::sockopt::socket_error(socket)? {
            Ok(()) => Ok(()),
            Err(error) => Err(error.into()),
        },
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_that_the_kernel_took_off_is_put_back() {
        let mut block = vec![0u8; 256];
        let offset = 64;
        let frame: Vec<u8> = (0..20).collect();
        block[offset + 80..offset + 100].copy_from_slice(&frame);
        block[offset + 12..offset + 16].copy_from_slice(&20u32.to_ne_bytes());
        block[offset + 16..offset + 20].copy_from_slice(&20u32.to_ne_bytes());
        block[offset + 20..offset + 24]
            .copy_from_slice(&(TP_STATUS_USER | TP_STATUS_VLAN_VALID | TP_STATUS_VLAN_TPID_VALID).to_ne_bytes());
        block[offset + 24..offset + 26].copy_from_slice(&80u16.to_ne_bytes());
        block[offset + 32..offset + 36].copy_from_slice(&0x2064u32.to_ne_bytes());
        block[offset + 36..offset + 38].copy_from_slice(&0x88A8u16.to_ne_bytes());
        let slot = Slot::read(&block, offset);
        let bytes = slot.bytes_with_vlan_tag(&mut block[offset..]);
        assert_eq!(bytes[..12], frame[..12]);
        assert_eq!(bytes[12..16], [0x88, 0xA8, 0x20, 0x64]);
        assert_eq!(bytes[16..], frame[12..]);
    }
}
