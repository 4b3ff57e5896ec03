//! From one frame to what it is, on the receive threads: no allocation, no copy, bounded work per packet.
//!
//! The parser is `sidetone-tap-abi`'s, the same source that decides in the XDP program; this module adds the link layers
//! that only capture files have, and Rust's address types.

use sidetone_model::Domain;
use sidetone_tap_abi::{Headers, PacketKind, Unparsed, media_kind, parse, parse_ip};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

pub use sidetone_tap_abi::MediaKind;

/// What stands in front of the IP header.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Link {
    /// Ethernet, with up to two VLAN tags (DLT_EN10MB, 1).
    Ethernet,
    /// Nothing (DLT_RAW, 12 and 101; DLT_IPV4, 228; DLT_IPV6, 229); also what [`crate::Reassembler`] puts together.
    RawIp,
    /// Linux "cooked" capture, 16 bytes (DLT_LINUX_SLL, 113).
    LinuxCooked,
    /// Linux "cooked" capture version 2, 20 bytes (DLT_LINUX_SLL2, 276).
    LinuxCooked2,
    /// BSD loopback: an address family, 4 bytes in the byte order of the machine that captured (DLT_NULL, 0; DLT_LOOP, 108).
    Null,
}

/// What kind of packet it is, and with that, what [`Packet::payload`] holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// The UDP payload, and what it looks like.
    Udp(MediaKind),
    /// The data of the segment, for looking at; [`crate::TcpReassembler`] takes the packet with its header.
    Tcp,
    /// The whole IP packet, for [`crate::Reassembler`]. Ports are 0.
    Fragment,
    /// The whole IP packet. Ports are those of the outer UDP header, 0 when there is none.
    Tunnel,
    /// What follows the IP header. Ports are 0.
    Other,
}

/// One packet, borrowed from the frame it lies in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Packet<'a> {
    pub domain: Domain,
    pub source: SocketAddr,
    pub destination: SocketAddr,
    /// By the packet's own length fields, clipped to the frame: link-layer padding is not in it. See [`Kind`].
    pub payload: &'a [u8],
    /// The same with the transport header in front, as far as there is one.
    pub transport: &'a [u8],
    pub kind: Kind,
}

/// Classifies one frame.
///
/// # Errors
/// [`Unparsed`] is no failure but the label under which the frame is dropped.
#[inline]
pub fn classify(link: Link, bytes: &[u8]) -> Result<Packet<'_>, Unparsed> {
    let headers = match link {
        Link::Ethernet => parse(bytes)?,
        Link::RawIp => parse_ip(bytes, 0, 0, 0)?,
        Link::LinuxCooked => parse_cooked(bytes, 14, 16)?,
        Link::LinuxCooked2 => parse_cooked(bytes, 0, 20)?,
        // The address family is written differently by every system; the IP version says the same.
        Link::Null => parse_ip(bytes, 4, 0, 0)?,
    };
    Ok(packet(bytes, &headers))
}

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;

/// A "cooked" header names an EtherType at `protocol_at`; VLAN tags may follow it, as in Ethernet.
fn parse_cooked(bytes: &[u8], protocol_at: usize, header_length: usize) -> Result<Headers, Unparsed> {
    let read = |at: usize| {
        let pair: Option<&[u8; 2]> = bytes.get(at..).and_then(<[u8]>::first_chunk);
        pair.map(|&pair| u16::from_be_bytes(pair)).ok_or(Unparsed::Truncated)
    };
    let mut ethertype = read(protocol_at)?;
    let mut ip_offset = header_length;
    let mut vlans = [0u16; 2];
    let mut tags = 0;
    while matches!(ethertype, 0x8100 | 0x88a8 | 0x9100) {
        let vlan = vlans.get_mut(tags).ok_or(Unparsed::TooManyHeaders)?;
        *vlan = read(ip_offset)? & 0x0fff;
        ethertype = read(ip_offset + 2)?;
        ip_offset += 4;
        tags += 1;
    }
    if !matches!(ethertype, ETHERTYPE_IPV4 | ETHERTYPE_IPV6) {
        return Err(Unparsed::NotIp);
    }
    parse_ip(bytes, ip_offset as u32, vlans[0], vlans[1])
}

fn packet<'a>(bytes: &'a [u8], headers: &Headers) -> Packet<'a> {
    let end = (headers.payload_offset + headers.payload_length) as usize;
    let (kind, from) = match headers.kind {
        PacketKind::Udp => {
            let kind = media_kind(bytes, headers.payload_offset, headers.payload_length);
            (Kind::Udp(kind), headers.payload_offset)
        }
        PacketKind::Tcp => (Kind::Tcp, headers.payload_offset),
        PacketKind::Fragment => (Kind::Fragment, headers.ip_offset),
        PacketKind::Tunnel => (Kind::Tunnel, headers.ip_offset),
        PacketKind::Other => (Kind::Other, headers.payload_offset),
    };
    Packet {
        domain: Domain { vlan_outer: headers.vlan_outer, vlan_inner: headers.vlan_inner, network: 0 },
        source: SocketAddr::new(address(headers, headers.source), headers.source_port),
        destination: SocketAddr::new(address(headers, headers.destination), headers.destination_port),
        payload: &bytes[from as usize..end],
        transport: &bytes[headers.transport_offset as usize..end],
        kind,
    }
}

fn address(headers: &Headers, bytes: [u8; 16]) -> IpAddr {
    if headers.is_ipv6 != 0 {
        return IpAddr::V6(Ipv6Addr::from(bytes));
    }
    let [a, b, c, d, ..] = bytes;
    IpAddr::V4(Ipv4Addr::new(a, b, c, d))
}

#[cfg(test)]
mod tests;
