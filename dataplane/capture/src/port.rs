//! A mirror port: which way of capturing it gets, and its sources.

use crate::af_packet::PacketSource;
use crate::af_xdp::{QueueId, XdpSource};
use crate::interface::Interface;
use crate::tap::{AttachMode, attach, detach};
use crate::{CaptureError, FrameSource, TapControl};
use sidetone_tap_abi::MAX_QUEUES;
use std::fmt;
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;

/// What the interface is there for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Mirror {
    /// Only mirrored traffic: what is not wanted is dropped.
    #[default]
    Dedicated,
    /// The host uses the interface, too: what is not wanted goes on to its network stack.
    Shared,
}

/// Which way of capturing is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Mode {
    /// AF_XDP in native mode, else AF_PACKET.
    #[default]
    Auto,
    /// AF_XDP, in generic mode if need be; no fallback.
    AfXdp,
    AfPacket,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PortConfig {
    /// Name of the network interface.
    pub interface: String,
    pub mirror: Mirror,
    pub mode: Mode,
    /// UDP and TCP ports whose packets are signalling.
    pub signalling_ports: Vec<u16>,
    /// AF_XDP: descriptors of each queue's receive ring, rounded up to a power of two. The UMEM has twice as many frames
    /// of 2 or 4 KiB.
    pub ring_frames: u32,
    /// AF_PACKET: bytes of the ring.
    pub packet_ring_bytes: usize,
    /// Where program and maps are pinned, on a BPF file system.
    pub pin_directory: PathBuf,
}

impl Default for PortConfig {
    fn default() -> Self {
        Self {
            interface: String::new(),
            mirror: Mirror::default(),
            mode: Mode::default(),
            signalling_ports: vec![5060],
            ring_frames: 4096,
            packet_ring_bytes: 64 * 1024 * 1024,
            pin_directory: PathBuf::from("/sys/fs/bpf/sidetone"),
        }
    }
}

/// How a port is captured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CaptureMode {
    AfXdp {
        /// In the driver; else in the generic hook, behind the kernel's own buffers.
        native: bool,
        /// The NIC writes into our memory.
        zero_copy: bool,
    },
    AfPacket,
}

impl CaptureMode {
    /// The label in metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::AfXdp { native: true, zero_copy: true } => "af_xdp_native_zero_copy",
            Self::AfXdp { native: true, zero_copy: false } => "af_xdp_native",
            Self::AfXdp { native: false, .. } => "af_xdp_generic",
            Self::AfPacket => "af_packet",
        }
    }
}

impl fmt::Display for CaptureMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AfXdp { native: true, zero_copy: true } => "AF_XDP, native, zero copy",
            Self::AfXdp { native: true, zero_copy: false } => "AF_XDP, native",
            Self::AfXdp { native: false, .. } => "AF_XDP, generic",
            Self::AfPacket => "AF_PACKET",
        })
    }
}

/// An open mirror port. Each source may go to a thread of its own.
pub struct Port {
    /// One per receive queue with AF_XDP, else one.
    pub sources: Vec<Box<dyn FrameSource>>,
    pub mode: CaptureMode,
    /// Why it is not AF_XDP, if that was asked for or left open.
    pub fallback_reason: Option<String>,
    /// Absent with AF_PACKET, where everything arrives.
    pub control: Option<TapControl>,
}

impl fmt::Debug for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Port")
            .field("sources", &self.sources.len())
            .field("mode", &self.mode)
            .field("fallback_reason", &self.fallback_reason)
            .finish_non_exhaustive()
    }
}

impl Port {
    /// Opens every receive queue of the interface. Nothing stays behind when it fails.
    ///
    /// # Errors
    /// [`CaptureError`] names the cause and its remedy.
    pub fn open(config: &PortConfig) -> Result<Self, CaptureError> {
        let interface = Interface::open(&config.interface)?;
        if !interface.link()?.is_up {
            return Err(CaptureError::InterfaceDown { interface: config.interface.clone() });
        }
        match config.mode {
            Mode::AfXdp => open_af_xdp(config, true),
            Mode::AfPacket => open_af_packet(config, None),
            Mode::Auto => match open_af_xdp(config, false) {
                Ok(port) => Ok(port),
                // A fallback would take the interface from a recorder that runs.
                Err(error @ (CaptureError::Busy { .. } | CaptureError::NoInterface { .. })) => Err(error),
                Err(error) => {
                    let reason = error.to_string();
                    tracing::warn!(interface = config.interface, reason, "falling back to AF_PACKET");
                    open_af_packet(config, Some(reason))
                }
            },
        }
    }
}

fn open_af_xdp(config: &PortConfig, generic_is_allowed: bool) -> Result<Port, CaptureError> {
    let interface = Interface::open(&config.interface)?;
    let queues = interface.queues(&interface.link()?);
    if queues > MAX_QUEUES {
        return Err(CaptureError::NoAfXdp {
            interface: config.interface.clone(),
            reason: format!("{queues} receive queues, and {MAX_QUEUES} is the limit (ethtool -L sets their number)"),
        });
    }
    // Sockets first: when a queue cannot be had, nothing was attached.
    let mut sources = (0..queues)
        .map(|queue| XdpSource::open(Interface::open(&config.interface)?, QueueId(queue), config.ring_frames))
        .collect::<Result<Vec<_>, _>>()?;
    let mut attached =
        attach(&interface, &config.pin_directory, config.mirror, &config.signalling_ports, generic_is_allowed)?;
    let mut zero_copy = true;
    for source in &mut sources {
        source.keep_attached(attached.control.link());
        attached.set_socket(source.queue().0, source.as_fd().as_raw_fd())?;
        zero_copy &= source.is_zero_copy()?;
    }
    let mode = CaptureMode::AfXdp { native: attached.mode == AttachMode::Native, zero_copy };
    tracing::info!(
        interface = config.interface,
        mode = %mode,
        queues,
        was_running = attached.was_running,
        "capturing"
    );
    Ok(Port {
        sources: sources.into_iter().map(|source| Box::new(source) as Box<dyn FrameSource>).collect(),
        mode,
        fallback_reason: None,
        control: Some(attached.control),
    })
}

fn open_af_packet(config: &PortConfig, fallback_reason: Option<String>) -> Result<Port, CaptureError> {
    let interface = Interface::open(&config.interface)?;
    // Left from an earlier run, it would drop frames before a packet socket sees them.
    detach(&interface, &config.pin_directory)?;
    let source = PacketSource::open(interface, config.packet_ring_bytes)?;
    tracing::info!(interface = config.interface, mode = %CaptureMode::AfPacket, "capturing");
    Ok(Port { sources: vec![Box::new(source)], mode: CaptureMode::AfPacket, fallback_reason, control: None })
}
