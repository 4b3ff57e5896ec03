//! AF_XDP: one socket, one UMEM and its rings per receive queue (Documentation/networking/af_xdp.rst).
//!
//! A frame of the UMEM is always in one place: the fill ring, the kernel, the receive ring, or as a [`FrameToken`] in
//! our hands. Tokens move and cannot be copied, so that a frame cannot be given to the kernel twice.

mod ring;
mod umem;

use crate::af_packet::wait;
use crate::clock::{CaptureClock, monotonic_ns};
use crate::interface::{Interface, packet_socket};
use crate::system::{get_option, set_option};
use crate::{CaptureError, Frame, FrameSource, LinkLayer, SourceStatistics};
use aya::programs::links::FdLink;
use ring::{FillRing, ReceiveRing};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType};
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};
use umem::{FrameToken, Umem};

/// Frames that claim to be older than this have no usable stamp.
const STAMP_AGE_NS_MAX: u64 = 60_000_000_000;
/// A queue stays busy for about 30 ms after its socket was closed.
const BUSY_TIMEOUT: Duration = Duration::from_millis(500);
/// Largest frame that is put together from several descriptors: jumbo frames are 9 KB.
const MULTI_BUFFER_BYTES_MAX: usize = 16 * 1024;
/// After frames came, the ring is left alone for this long before it is waited for again: frames gather, and the kernel
/// finds nobody to wake up, which costs more than a frame. A quarter of the ring fills in that time at 1 million
/// packets a second.
const GATHER: Duration = Duration::from_millis(1);
/// The completion ring has to exist, though nothing is ever sent.
const COMPLETION_RING_DESCRIPTORS: u32 = 64;

/// A receive queue of an interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct QueueId(pub(crate) u32);

/// One queue's frames.
#[derive(Debug)]
pub(crate) struct XdpSource {
    // Closed before rings and UMEM are unmapped.
    socket: OwnedFd,
    fill: FillRing,
    received: ReceiveRing,
    umem: Umem,
    /// Frames whose handler has run, or panicked: they go back with the next doorbell.
    to_refill: Vec<FrameToken>,
    /// A frame that came in several descriptors so far.
    assembled: Vec<u8>,
    assembly: Assembly,
    assembled_at_ns: u64,
    interface: Interface,
    /// Keeps the interface promiscuous.
    _promiscuous: OwnedFd,
    /// Keeps an unpinned program attached.
    link: Option<Arc<FdLink>>,
    queue: QueueId,
    clock: CaptureClock,
    /// The last call handed frames over: more are to be expected.
    is_busy: bool,
    statistics: SourceStatistics,
    missed_by_nic_at_open: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Assembly {
    /// The next descriptor starts a frame.
    Idle,
    /// The next descriptor goes on with the frame in `assembled`.
    Running,
    /// As `Running`, but the frame is too large and will be counted, not handed over.
    TooLarge,
}

impl XdpSource {
    /// Opens and binds a socket; nothing arrives before it is in the socket map. The interface's MTU decides the size of
    /// the UMEM's chunks, and whether a frame may take several.
    pub(crate) fn open(interface: Interface, queue: QueueId, ring_frames: u32) -> Result<Self, CaptureError> {
        let link = interface.link()?;
        let name = interface.name().to_owned();
        let failed = |operation| {
            let name = &name;
            move |error: io::Error| CaptureError::system(name, operation, error)
        };
        let ring_frames = ring_frames.clamp(64, 1 << 20).next_power_of_two();
        let socket = rustix::net::socket_with(AddressFamily::XDP, SocketType::RAW, SocketFlags::CLOEXEC, None)
            .map_err(|error| CaptureError::system(&name, "open an AF_XDP socket", error.into()))?;
        // One half of the frames can wait in the receive ring while the other is being filled.
        let umem = Umem::new(link.mtu, ring_frames * 2).map_err(failed("allocate the UMEM"))?;
        // SAFETY: `registration` is the plain structure of this option; the UMEM it names lives as long as the socket,
        // because `XdpSource` owns both and closes the socket first.
        unsafe { set_option(&socket, libc::SOL_XDP, libc::XDP_UMEM_REG, &umem.registration()) }.map_err(|error| {
            let operation = if error.raw_os_error() == Some(libc::ENOBUFS) {
                "register the UMEM (the limit for locked memory is too low: raise `ulimit -l`, or grant CAP_IPC_LOCK)"
            } else {
                "register the UMEM"
            };
            CaptureError::system(&name, operation, error)
        })?;
        // SAFETY: these options take a ring size as an integer.
        unsafe {
            set_option(&socket, libc::SOL_XDP, libc::XDP_UMEM_FILL_RING, &(ring_frames * 2))
                .map_err(failed("set up the fill ring"))?;
            set_option(&socket, libc::SOL_XDP, libc::XDP_UMEM_COMPLETION_RING, &COMPLETION_RING_DESCRIPTORS)
                .map_err(failed("set up the completion ring"))?;
            set_option(&socket, libc::SOL_XDP, libc::XDP_RX_RING, &ring_frames)
                .map_err(failed("set up the receive ring"))?;
        }
        // SAFETY: xdp_mmap_offsets is the plain structure of this option, integers only.
        let offsets: libc::xdp_mmap_offsets = unsafe { get_option(&socket, libc::SOL_XDP, libc::XDP_MMAP_OFFSETS) }
            .map_err(failed("ask for the rings' layout"))?;
        let mut fill = FillRing::map(&socket, &offsets.fr, ring_frames * 2).map_err(failed("map the fill ring"))?;
        let received = ReceiveRing::map(&socket, &offsets.rx, ring_frames).map_err(failed("map the receive ring"))?;
        let mut to_refill = umem.all_frames();
        fill.submit(&mut to_refill);
        bind(&socket, interface.index(), queue, umem.is_multi_buffer()).map_err(|error| {
            match error.raw_os_error() {
                Some(libc::EBUSY) => CaptureError::Busy { interface: name.clone(), queue: queue.0 },
                _ => CaptureError::system(&name, "bind an AF_XDP socket", error),
            }
        })?;
        let promiscuous = packet_socket(&name)?;
        interface.set_promiscuous(&promiscuous)?;
        let assembled = Vec::with_capacity(if umem.is_multi_buffer() { MULTI_BUFFER_BYTES_MAX } else { 0 });
        Ok(Self {
            socket,
            fill,
            received,
            umem,
            to_refill,
            assembled,
            assembly: Assembly::Idle,
            assembled_at_ns: 0,
            missed_by_nic_at_open: link.missed,
            interface,
            _promiscuous: promiscuous,
            link: None,
            queue,
            clock: CaptureClock::start(),
            is_busy: false,
            statistics: SourceStatistics::default(),
        })
    }

    /// The program that sends frames here goes when nobody holds its link any more.
    pub(crate) fn keep_attached(&mut self, link: Option<Arc<FdLink>>) {
        self.link = link;
    }

    pub(crate) fn queue(&self) -> QueueId {
        self.queue
    }

    /// Whether the NIC writes into the UMEM itself.
    pub(crate) fn is_zero_copy(&self) -> Result<bool, CaptureError> {
        // SAFETY: xdp_options is the plain structure of this option, one integer.
        let options: libc::xdp_options = unsafe { get_option(&self.socket, libc::SOL_XDP, libc::XDP_OPTIONS) }
            .map_err(|error| CaptureError::system(self.interface.name(), "ask for zero copy", error))?;
        Ok(options.flags & libc::XDP_OPTIONS_ZEROCOPY != 0)
    }

    /// Waits for frames; the system call also tells the driver that there are frames to fill.
    fn wait_for_frames(&mut self, timeout: Duration) -> Result<(), CaptureError> {
        wait(&self.socket, timeout)
            .map_err(|error| CaptureError::system(self.interface.name(), "wait for frames", error))
    }

    /// Tells the driver that there are frames to fill, if it asked to be told.
    fn ring_doorbell(&mut self) -> Result<(), CaptureError> {
        if !self.fill.needs_wakeup() {
            return Ok(());
        }
        match rustix::net::recv(&self.socket, &mut [0u8; 0], RecvFlags::DONTWAIT) {
            Ok(_) => Ok(()),
            Err(error) => match io::Error::from(error).raw_os_error() {
                // Busy, or nothing to do: the frames are filled at the next opportunity.
                Some(libc::EAGAIN | libc::EBUSY | libc::ENOBUFS | libc::EINTR) => Ok(()),
                _ => Err(CaptureError::system(self.interface.name(), "wake the driver up", error.into())),
            },
        }
    }
}

impl AsFd for XdpSource {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl FrameSource for XdpSource {
    fn receive(
        &mut self,
        timeout: Duration,
        budget: usize,
        handler: &mut dyn FnMut(&Frame<'_>),
    ) -> Result<usize, CaptureError> {
        // Frames of a batch in which the handler panicked.
        self.received.release();
        self.fill.submit(&mut self.to_refill);
        if self.received.is_empty() && std::mem::replace(&mut self.is_busy, false) {
            self.ring_doorbell()?;
            std::thread::sleep(GATHER.min(timeout));
        }
        if self.received.is_empty() {
            self.wait_for_frames(timeout)?;
            if self.received.is_empty() {
                return Ok(0);
            }
        } else {
            self.ring_doorbell()?;
        }
        self.is_busy = true;
        let now_ns = monotonic_ns();
        self.clock.keep_up(now_ns);
        let mut frames = 0;
        while frames < budget
            && let Some(descriptor) = self.received.take()
        {
            let (token, place) = self.umem.take(&descriptor);
            self.to_refill.push(token);
            let is_first = self.assembly == Assembly::Idle;
            if is_first {
                self.assembled_at_ns = match self.umem.take_stamp(&place) {
                    Some(stamp_ns) if stamp_ns <= now_ns && now_ns - stamp_ns < STAMP_AGE_NS_MAX => stamp_ns,
                    _ => {
                        self.statistics.unstamped += 1;
                        now_ns
                    }
                };
            }
            let arrived_at = self.clock.time(self.assembled_at_ns);
            if is_first && !descriptor.is_continued() {
                self.statistics.frames += 1;
                frames += 1;
                let bytes = self.umem.bytes(&place);
                handler(&Frame { arrived_at, bytes, original_length: descriptor.length(), link: LinkLayer::Ethernet });
                continue;
            }
            // A frame in several descriptors is put together; only jumbo frames are.
            if is_first {
                self.assembled.clear();
                self.assembly = Assembly::Running;
            }
            let bytes = self.umem.bytes(&place);
            if self.assembled.len() + bytes.len() > MULTI_BUFFER_BYTES_MAX {
                self.assembly = Assembly::TooLarge;
            } else {
                self.assembled.extend_from_slice(bytes);
            }
            if descriptor.is_continued() {
                continue;
            }
            if std::mem::replace(&mut self.assembly, Assembly::Idle) == Assembly::TooLarge {
                self.statistics.missed_no_buffer += 1;
                continue;
            }
            self.statistics.frames += 1;
            frames += 1;
            let original_length = self.assembled.len() as u32;
            handler(&Frame { arrived_at, bytes: &self.assembled, original_length, link: LinkLayer::Ethernet });
        }
        self.received.release();
        self.fill.submit(&mut self.to_refill);
        Ok(frames)
    }

    fn statistics(&mut self) -> SourceStatistics {
        let mut statistics = self.statistics;
        // SAFETY: xdp_statistics is the plain structure of this option, integers only; the kernel counts since the
        // socket was made.
        let counted: io::Result<libc::xdp_statistics> =
            unsafe { get_option(&self.socket, libc::SOL_XDP, libc::XDP_STATISTICS) };
        match counted {
            Ok(counted) => {
                statistics.missed_ring_full += counted.rx_ring_full;
                statistics.missed_no_buffer += counted.rx_dropped;
                statistics.fill_ring_empty_events = counted.rx_fill_ring_empty_descs;
            }
            Err(error) => tracing::error!(interface = self.interface.name(), %error, "cannot read XDP_STATISTICS"),
        }
        if self.queue == QueueId(0) {
            match self.interface.link() {
                Ok(link) => {
                    statistics.missed_by_nic = link.missed.saturating_sub(self.missed_by_nic_at_open);
                    statistics.is_down = !link.is_up;
                }
                // Gone, most likely: whoever asks tells of it once.
                Err(_) => statistics.is_down = true,
            }
        }
        statistics
    }
}

/// Binds, with zero copy where the driver has it: the kernel tries that first when neither mode is asked for.
fn bind(socket: &OwnedFd, interface_index: u32, queue: QueueId, is_multi_buffer: bool) -> io::Result<()> {
    let address = libc::sockaddr_xdp {
        sxdp_family: libc::AF_XDP as u16,
        sxdp_flags: libc::XDP_USE_NEED_WAKEUP | if is_multi_buffer { libc::XDP_USE_SG } else { 0 },
        sxdp_ifindex: interface_index,
        sxdp_queue_id: queue.0,
        sxdp_shared_umem_fd: 0,
    };
    let length = libc::socklen_t::try_from(size_of_val(&address)).expect("addresses are small");
    let give_up_at = Instant::now() + BUSY_TIMEOUT;
    loop {
        // SAFETY: the address lives until after the call and has the length that is given.
        let result = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) };
        if result == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::EBUSY) || Instant::now() >= give_up_at {
            return Err(error);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
