//! What the XDP program (`ebpf/tap`) and user space share: the header parser, the decision about a frame, the
//! types of the maps, the counters, and the metadata in front of a frame.
//!
//! Constraints: no `std`, no allocation, no dependency, no panic, no `unsafe`. Every loop has a constant bound and
//! every function is inlined, because the kernel's verifier has to follow it. One source is compiled for the kernel,
//! for the host and for the fuzzer; [`View`] is all that differs between them.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

mod headers;
mod map;
mod media;
mod verdict;
mod version;
mod view;

pub use headers::{Headers, MAX_EXTENSION_HEADERS, MAX_HEADER_BYTES, PacketKind, Unparsed, parse, parse_ip};
pub use map::{
    DISCARD_LIFETIME_NS, FOREVER, FlowKey, FlowVerdict, MAP_COUNTERS, MAP_FLOWS, MAP_PORTS, MAP_SETTINGS, MAP_SOCKETS,
    MAX_FLOWS, MAX_QUEUES, METADATA_BYTES, MIRROR_DEDICATED, MIRROR_SHARED, NANOS_PER_PORT_SECOND, PORTS, PROGRAM_NAME,
    PortEntry, Settings,
};
pub use media::{MediaKind, media_kind, rtp_ssrc};
pub use verdict::{COUNTERS, Counter, Interest, Reason, Tables, Verdict, judge};
pub use version::ABI_VERSION;
pub use view::View;
