//! Map names, keys and values, and the metadata in front of a frame.
//!
//! Constraints: `repr(C)`, explicit widths, no padding, no `bool`, no `enum`; sizes are asserted. Any change in
//! layout or meaning, and in the counters' order, raises [`crate::ABI_VERSION`], which is part of the path under which program and maps are pinned.

use crate::Headers;

/// Name of the XDP program's function, and thus of the program in the object.
pub const PROGRAM_NAME: &str = "tap";
/// `XSKMAP`: queue → AF_XDP socket.
pub const MAP_SOCKETS: &str = "SOCKETS";
/// `LRU_HASH`: [`FlowKey`] → [`FlowVerdict`].
pub const MAP_FLOWS: &str = "FLOWS";
/// `ARRAY` of [`PORTS`] × [`PortEntry`].
pub const MAP_PORTS: &str = "PORTS";
/// `ARRAY` of one [`Settings`].
pub const MAP_SETTINGS: &str = "SETTINGS";
/// `PERCPU_ARRAY` of `u64`, see [`crate::Counter`].
pub const MAP_COUNTERS: &str = "COUNTERS";

/// Receive queues that can have a socket.
pub const MAX_QUEUES: u32 = 128;
/// Entries of the flow verdict map; the least recently used one makes room.
pub const MAX_FLOWS: u32 = 1 << 16;
/// Entries of the port map: every UDP and TCP port.
pub const PORTS: u32 = 1 << 16;

/// Bytes in front of each redirected frame: its arrival on `CLOCK_MONOTONIC`, nanoseconds, native byte order. Zero
/// means that the program could not write it; user space zeroes it after reading.
pub const METADATA_BYTES: u32 = 8;

/// A discard lasts this long unless renewed: a port is soon another call's.
pub const DISCARD_LIFETIME_NS: u64 = 30_000_000_000;

/// Unit of [`PortEntry`]'s times: 2^30 ns, about 1.07 s. A shift instead of a division per packet.
pub const NANOS_PER_PORT_SECOND: u64 = 1 << 30;
/// In a [`PortEntry`]: without end.
pub const FOREVER: u32 = u32::MAX;

/// [`Settings::mirror`]: nothing but mirrored traffic arrives here; what is not wanted is dropped.
pub const MIRROR_DEDICATED: u32 = 0;
/// [`Settings::mirror`]: the host uses the port too; what is not wanted goes on to its network stack.
pub const MIRROR_SHARED: u32 = 1;

/// A stream as the flow verdict map knows it.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct FlowKey {
    pub vlan_outer: u16,
    pub vlan_inner: u16,
    /// Tunnel network identifier; 0, as tunnels are opened in user space.
    pub network: u32,
    /// 1 for IPv6, 0 for IPv4.
    pub is_ipv6: u32,
    pub ssrc: u32,
    pub source: [u8; 16],
    pub destination: [u8; 16],
    pub source_port: u16,
    pub destination_port: u16,
}

impl FlowKey {
    #[inline(always)]
    pub fn new(headers: &Headers, ssrc: u32) -> Self {
        Self {
            vlan_outer: headers.vlan_outer,
            vlan_inner: headers.vlan_inner,
            network: 0,
            is_ipv6: headers.is_ipv6 as u32,
            ssrc,
            source: headers.source,
            destination: headers.destination,
            source_port: headers.source_port,
            destination_port: headers.destination_port,
        }
    }
}

/// User space does not want the stream's packets until this time.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FlowVerdict {
    /// `CLOCK_MONOTONIC`, nanoseconds.
    pub discard_until_ns: u64,
}

/// What is known of a port, whichever side of a packet it is on. Times are `CLOCK_MONOTONIC` in units of
/// [`NANOS_PER_PORT_SECOND`]; 0 is never, [`FOREVER`] always.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PortEntry {
    /// UDP and TCP here is signalling.
    pub signalling_until: u32,
    /// UDP here is media, whatever it looks like.
    pub media_until: u32,
}

#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Settings {
    /// [`MIRROR_DEDICATED`] or [`MIRROR_SHARED`].
    pub mirror: u32,
}

const _: () = assert!(size_of::<FlowKey>() == 52 && align_of::<FlowKey>() == 4);
const _: () = assert!(size_of::<FlowVerdict>() == 8);
const _: () = assert!(size_of::<PortEntry>() == 8);
const _: () = assert!(size_of::<Settings>() == 4);
