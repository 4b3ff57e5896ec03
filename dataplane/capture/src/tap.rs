//! The XDP program from user space: loading, attaching, what it is told, what it counted.
//!
//! Constraints: program and maps are pinned under a path with the ABI version and the interface, so that they outlive
//! the process; the attached program is only ever replaced atomically. The call thread uses [`TapControl`]; the packet
//! path never does.

mod attach;
mod flows;

pub(crate) use attach::{AttachMode, attach, detach};

use crate::CaptureError;
use crate::clock::monotonic_ns;
use aya::maps::{Array, HashMap, MapData, PerCpuArray};
use aya::programs::links::FdLink;
use flows::FlowIndex;
use sidetone_model::StreamKey;
use sidetone_tap_abi as abi;
use sidetone_tap_abi::{Counter, FOREVER, FlowKey, FlowVerdict, Interest, NANOS_PER_PORT_SECOND, PortEntry, Reason};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

include!(concat!(env!("OUT_DIR"), "/tap_object.rs"));

/// A port that signalling named stays a media port for this long, unless named again: longer than any call.
const MEDIA_PORT_LIFETIME_NS: u64 = 12 * 3600 * 1_000_000_000;

/// As a map's key or value. The types of the ABI are made for it: `repr(C)`, no padding, any bits are a value.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub(crate) struct Plain<T>(pub(crate) T);

// SAFETY: `repr(C)`, explicit widths, no padding; the ABI crate asserts the sizes.
unsafe impl aya::Pod for Plain<FlowKey> {}
// SAFETY: as above.
unsafe impl aya::Pod for Plain<FlowVerdict> {}
// SAFETY: as above.
unsafe impl aya::Pod for Plain<PortEntry> {}
// SAFETY: as above.
unsafe impl aya::Pod for Plain<abi::Settings> {}

/// Tells the XDP program what it need not send, and what it must. For the call thread.
///
/// Where the program could not be pinned, it stays attached as long as this or a source of its port exists.
pub struct TapControl {
    interface: String,
    flows: HashMap<MapData, Plain<FlowKey>, Plain<FlowVerdict>>,
    ports: Array<MapData, Plain<PortEntry>>,
    counters: PerCpuArray<MapData, u64>,
    index: FlowIndex,
    /// What keeps an unpinned program attached; the sources have it, too.
    link: Option<Arc<FdLink>>,
}

/// What the XDP program counted since it was first attached, over all CPUs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TapCounters {
    pub received: u64,
    redirected: [u64; Interest::ALL.len()],
    dropped: [u64; Reason::ALL.len()],
    passed: [u64; Reason::ALL.len()],
}

impl TapCounters {
    /// Frames sent to user space, by why.
    pub fn redirected(&self, interest: Interest) -> u64 {
        self.redirected[interest as usize]
    }

    /// Frames dropped (dedicated mirror port), by why.
    pub fn dropped(&self, reason: Reason) -> u64 {
        self.dropped[reason as usize]
    }

    /// Frames passed to the host's network stack (shared port), by why.
    pub fn passed(&self, reason: Reason) -> u64 {
        self.passed[reason as usize]
    }

    pub fn redirected_total(&self) -> u64 {
        self.redirected.iter().sum()
    }

    pub fn dropped_total(&self) -> u64 {
        self.dropped.iter().sum()
    }

    pub fn passed_total(&self) -> u64 {
        self.passed.iter().sum()
    }

    /// `received = redirected + dropped + passed`. Holds when no frame is on its way while the counters are read: they
    /// are read one after the other.
    pub fn is_balanced(&self) -> bool {
        self.received == self.redirected_total() + self.dropped_total() + self.passed_total()
    }
}

impl TapControl {
    /// Drops the stream's packets in the kernel for 30 s; said again, it lasts 30 s from then.
    ///
    /// Streams in tunnels are opened in user space and cannot be dropped so early: nothing happens.
    ///
    /// # Errors
    /// [`CaptureError::Tap`] when the kernel refuses.
    pub fn discard(&mut self, stream: &StreamKey) -> Result<(), CaptureError> {
        let Some(key) = flow_key(stream) else {
            return Ok(());
        };
        let now_ns = monotonic_ns();
        let discard_until_ns = now_ns + abi::DISCARD_LIFETIME_NS;
        self.flows
            .insert(Plain(key), Plain(FlowVerdict { discard_until_ns }), 0)
            .map_err(|error| CaptureError::tap(&self.interface, "discard a stream", error))?;
        self.index.insert(key, discard_until_ns, now_ns);
        Ok(())
    }

    /// Takes back every verdict about a stream from or to the address, in any domain.
    ///
    /// # Errors
    /// [`CaptureError::Tap`] when the kernel refuses.
    pub fn forget(&mut self, address: SocketAddr) -> Result<(), CaptureError> {
        for key in self.index.remove_address(address) {
            match self.flows.remove(&Plain(key)) {
                // Least recently used entries make room for others without our doing.
                Ok(()) | Err(aya::maps::MapError::KeyNotFound) => {}
                Err(aya::maps::MapError::SyscallError(error))
                    if error.io_error.raw_os_error() == Some(libc::ENOENT) => {}
                Err(error) => return Err(CaptureError::tap(&self.interface, "forget a stream", error)),
            }
        }
        Ok(())
    }

    /// Signalling names the address as a place where media goes: forgets verdicts about it, and has the program
    /// send everything on its UDP port.
    ///
    /// # Errors
    /// [`CaptureError::Tap`] when the kernel refuses.
    pub fn expect(&mut self, address: SocketAddr) -> Result<(), CaptureError> {
        self.forget(address)?;
        let until = port_seconds(monotonic_ns() + MEDIA_PORT_LIFETIME_NS);
        self.change_port(address.port(), |entry| entry.media_until = until)
    }

    /// Signalling was seen on another port than the configured ones: has the program send its UDP and TCP, as long as
    /// it is attached.
    ///
    /// # Errors
    /// [`CaptureError::Tap`] when the kernel refuses.
    pub fn expect_signalling(&mut self, port: u16) -> Result<(), CaptureError> {
        self.change_port(port, |entry| entry.signalling_until = FOREVER)
    }

    /// What the program counted since it was first attached.
    ///
    /// # Errors
    /// [`CaptureError::Tap`] when the kernel refuses.
    pub fn counters(&self) -> Result<TapCounters, CaptureError> {
        let read = |counter: Counter| {
            self.counters
                .get(&counter.index(), 0)
                .map(|values| values.iter().sum())
                .map_err(|error| CaptureError::tap(&self.interface, "read the counters", error))
        };
        // What a frame is counted as in the end is read before what it is counted as first.
        let mut counters = TapCounters::default();
        for interest in Interest::ALL {
            counters.redirected[interest as usize] = read(Counter::Redirected(interest))?;
        }
        for reason in Reason::ALL {
            counters.dropped[reason as usize] = read(Counter::Dropped(reason))?;
            counters.passed[reason as usize] = read(Counter::Passed(reason))?;
        }
        counters.received = read(Counter::Received)?;
        Ok(counters)
    }

    /// What keeps an unpinned program attached.
    pub(crate) fn link(&self) -> Option<Arc<FdLink>> {
        self.link.clone()
    }

    fn change_port(&mut self, port: u16, change: impl FnOnce(&mut PortEntry)) -> Result<(), CaptureError> {
        let index = u32::from(port);
        let failed = |error| CaptureError::tap(&self.interface, "change the port map", error);
        let Plain(before) = self.ports.get(&index, 0).map_err(failed)?;
        let mut entry = before;
        change(&mut entry);
        if entry != before {
            self.ports.set(index, Plain(entry), 0).map_err(failed)?;
        }
        Ok(())
    }

    /// Makes the configured ports, and no others, signalling ports.
    fn set_signalling_ports(&mut self, ports: &[u16], maps_are_new: bool) -> Result<(), CaptureError> {
        if !maps_are_new {
            for port in 0..=u16::MAX {
                if !ports.contains(&port) {
                    self.change_port(port, |entry| entry.signalling_until = 0)?;
                }
            }
        }
        ports.iter().try_for_each(|&port| self.expect_signalling(port))
    }
}

fn port_seconds(monotonic_ns: u64) -> u32 {
    u32::try_from(monotonic_ns / NANOS_PER_PORT_SECOND).unwrap_or(FOREVER - 1)
}

/// The key as the program makes it of a packet; `None` for a stream in a tunnel.
fn flow_key(stream: &StreamKey) -> Option<FlowKey> {
    let (source, source_family) = address_bytes(stream.source.ip());
    let (destination, destination_family) = address_bytes(stream.destination.ip());
    (stream.domain.network == 0 && source_family == destination_family).then_some(FlowKey {
        vlan_outer: stream.domain.vlan_outer,
        vlan_inner: stream.domain.vlan_inner,
        network: 0,
        is_ipv6: source_family,
        ssrc: stream.ssrc,
        source,
        destination,
        source_port: stream.source.port(),
        destination_port: stream.destination.port(),
    })
}

/// The address as in [`abi::Headers`], and 1 for IPv6.
fn address_bytes(address: IpAddr) -> ([u8; 16], u32) {
    match address {
        IpAddr::V4(address) => {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&address.octets());
            (bytes, 0)
        }
        IpAddr::V6(address) => (address.octets(), 1),
    }
}
