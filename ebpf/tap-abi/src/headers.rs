//! From the first byte of a frame to the transport payload: Ethernet, VLAN tags, IPv4, IPv6, UDP, TCP.
//!
//! Constraint: bounded work. At most two VLAN tags, [`MAX_EXTENSION_HEADERS`] IPv6 extension headers and
//! [`MAX_HEADER_BYTES`] in front of the transport header.

use crate::View;

/// IPv6 extension headers that are followed (RFC 8200 §4.1 names seven, each once).
pub const MAX_EXTENSION_HEADERS: u32 = 8;
/// Largest offset at which a transport header is looked for, in bytes from the start of the frame or, for
/// [`parse_ip`], of the IP header.
pub const MAX_HEADER_BYTES: u32 = 1024;

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86DD;

const PROTOCOL_HOP_BY_HOP: u8 = 0;
const PROTOCOL_IPV4: u8 = 4;
const PROTOCOL_TCP: u8 = 6;
const PROTOCOL_UDP: u8 = 17;
const PROTOCOL_IPV6: u8 = 41;
const PROTOCOL_ROUTING: u8 = 43;
const PROTOCOL_FRAGMENT: u8 = 44;
const PROTOCOL_GRE: u8 = 47;
const PROTOCOL_AUTHENTICATION: u8 = 51;
const PROTOCOL_DESTINATION_OPTIONS: u8 = 60;
const PROTOCOL_ETHERIP: u8 = 97;
const PROTOCOL_MOBILITY: u8 = 135;
const PROTOCOL_HOST_IDENTITY: u8 = 139;
const PROTOCOL_SHIM6: u8 = 140;

const PORT_VXLAN: u16 = 4789;
/// VXLAN before RFC 7348; Linux's default still.
const PORT_VXLAN_LINUX: u16 = 8472;
const PORT_GENEVE: u16 = 6081;
const PORT_TZSP: u16 = 37008;
const PORT_HEP: u16 = 9060;

/// What a frame's headers say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Headers {
    /// Outer VLAN identifier, 0 when untagged or only priority-tagged.
    pub vlan_outer: u16,
    /// Inner VLAN identifier, 0 when there is none.
    pub vlan_inner: u16,
    /// 1 for IPv6, 0 for IPv4.
    pub is_ipv6: u8,
    /// IP protocol of the payload, behind IPv6 extension headers.
    pub protocol: u8,
    pub kind: PacketKind,
    /// An IPv4 address lies in the first 4 bytes, the others are 0.
    pub source: [u8; 16],
    pub destination: [u8; 16],
    /// 0 where the packet has no ports: fragments, other protocols.
    pub source_port: u16,
    pub destination_port: u16,
    pub ip_offset: u32,
    /// Behind the IP header and its extensions. In an IPv6 fragment the fragment header lies in the 8 bytes before.
    pub transport_offset: u32,
    /// Behind the UDP or TCP header; equal to `transport_offset` for everything else.
    pub payload_offset: u32,
    /// By the length fields of IP and UDP, clipped to the frame: link-layer padding does not count.
    pub payload_length: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PacketKind {
    Udp,
    Tcp,
    /// Any fragment of a datagram, first ones included. An IPv6 "atomic" fragment (RFC 6946) is whole, and none.
    Fragment,
    /// GRE, IP in IP, EtherIP, or UDP to a port of VXLAN, GENEVE, TZSP or HEP. UDP ones have ports and payload as
    /// [`PacketKind::Udp`].
    Tunnel,
    Other,
}

/// Why a frame has no [`Headers`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unparsed {
    /// Not IPv4 and not IPv6.
    NotIp,
    /// The frame ends within a header.
    Truncated,
    /// A version or length field contradicts itself.
    Malformed,
    /// More VLAN tags, extension headers or header bytes than are followed.
    TooManyHeaders,
}

/// Parses an Ethernet frame.
///
/// # Errors
/// [`Unparsed`] says why there are no headers to give; it is no failure of the caller.
#[inline(always)]
pub fn parse<V: View + ?Sized>(packet: &V) -> Result<Headers, Unparsed> {
    let mut ethertype = packet.u16(12).ok_or(Unparsed::Truncated)?;
    let mut ip_offset = 14;
    let mut vlan_outer = 0;
    let mut vlan_inner = 0;
    if is_vlan_tag(ethertype) {
        vlan_outer = packet.u16(14).ok_or(Unparsed::Truncated)? & 0x0FFF;
        ethertype = packet.u16(16).ok_or(Unparsed::Truncated)?;
        ip_offset = 18;
        if is_vlan_tag(ethertype) {
            vlan_inner = packet.u16(18).ok_or(Unparsed::Truncated)? & 0x0FFF;
            ethertype = packet.u16(20).ok_or(Unparsed::Truncated)?;
            ip_offset = 22;
            if is_vlan_tag(ethertype) {
                return Err(Unparsed::TooManyHeaders);
            }
        }
    }
    match ethertype {
        ETHERTYPE_IPV4 => parse_ipv4(packet, ip_offset, vlan_outer, vlan_inner),
        ETHERTYPE_IPV6 => parse_ipv6(packet, ip_offset, vlan_outer, vlan_inner),
        _ => Err(Unparsed::NotIp),
    }
}

/// Parses from an IP header at `ip_offset`: captures without Ethernet, reassembled datagrams, tunnels. The VLAN
/// identifiers are those that the caller found in front of it, and are only copied.
///
/// # Errors
/// [`Unparsed`], as [`parse`].
#[inline(always)]
pub fn parse_ip<V: View + ?Sized>(
    packet: &V,
    ip_offset: u32,
    vlan_outer: u16,
    vlan_inner: u16,
) -> Result<Headers, Unparsed> {
    match packet.u8(ip_offset).ok_or(Unparsed::Truncated)? >> 4 {
        4 => parse_ipv4(packet, ip_offset, vlan_outer, vlan_inner),
        6 => parse_ipv6(packet, ip_offset, vlan_outer, vlan_inner),
        _ => Err(Unparsed::NotIp),
    }
}

/// 802.1Q, 802.1ad, and the tag that came before 802.1ad.
#[inline(always)]
fn is_vlan_tag(ethertype: u16) -> bool {
    matches!(ethertype, 0x8100 | 0x88A8 | 0x9100)
}

/// RFC 791 §3.1.
#[inline(always)]
fn parse_ipv4<V: View + ?Sized>(
    packet: &V,
    ip_offset: u32,
    vlan_outer: u16,
    vlan_inner: u16,
) -> Result<Headers, Unparsed> {
    let fixed = packet.bytes::<20>(ip_offset).ok_or(Unparsed::Truncated)?;
    let header_length = u32::from(fixed[0] & 0x0F) * 4;
    let total_length = u32::from(u16::from_be_bytes([fixed[2], fixed[3]]));
    if fixed[0] >> 4 != 4 || header_length < 20 {
        return Err(Unparsed::Malformed);
    }
    let ip_end = datagram_end(packet.len(), ip_offset, header_length, total_length)?;
    let fragment = u16::from_be_bytes([fixed[6], fixed[7]]);
    let mut headers = Headers {
        vlan_outer,
        vlan_inner,
        is_ipv6: 0,
        protocol: fixed[9],
        kind: PacketKind::Other,
        source: [0; 16],
        destination: [0; 16],
        source_port: 0,
        destination_port: 0,
        ip_offset,
        transport_offset: 0,
        payload_offset: 0,
        payload_length: 0,
    };
    (headers.source[0], headers.source[1], headers.source[2], headers.source[3]) =
        (fixed[12], fixed[13], fixed[14], fixed[15]);
    (headers.destination[0], headers.destination[1], headers.destination[2], headers.destination[3]) =
        (fixed[16], fixed[17], fixed[18], fixed[19]);
    // More-fragments flag, or an offset (RFC 791 §3.1).
    let is_fragment = fragment & 0x3FFF != 0;
    parse_transport(packet, headers, ip_offset + header_length, ip_end, is_fragment)
}

/// RFC 8200 §3, §4.
#[inline(always)]
fn parse_ipv6<V: View + ?Sized>(
    packet: &V,
    ip_offset: u32,
    vlan_outer: u16,
    vlan_inner: u16,
) -> Result<Headers, Unparsed> {
    let fixed = packet.bytes::<8>(ip_offset).ok_or(Unparsed::Truncated)?;
    let source = packet.bytes::<16>(ip_offset + 8).ok_or(Unparsed::Truncated)?;
    let destination = packet.bytes::<16>(ip_offset + 24).ok_or(Unparsed::Truncated)?;
    if fixed[0] >> 4 != 6 {
        return Err(Unparsed::Malformed);
    }
    let announced_length = u32::from(u16::from_be_bytes([fixed[4], fixed[5]]));
    let total_length = if announced_length == 0 { 0 } else { announced_length + 40 };
    let ip_end = datagram_end(packet.len(), ip_offset, 40, total_length)?;

    let mut protocol = fixed[6];
    let mut transport_offset = ip_offset + 40;
    let mut is_fragment = false;
    let mut extensions = 0;
    while is_extension_header(protocol) {
        if extensions == MAX_EXTENSION_HEADERS || transport_offset > ip_offset + MAX_HEADER_BYTES {
            return Err(Unparsed::TooManyHeaders);
        }
        extensions += 1;
        let start = packet.bytes::<4>(transport_offset).ok_or(Unparsed::Truncated)?;
        let header_length = match protocol {
            PROTOCOL_FRAGMENT => {
                // Offset and more-fragments flag (RFC 8200 §4.5).
                is_fragment = u16::from_be_bytes([start[2], start[3]]) & 0xFFF9 != 0;
                8
            }
            // In units of 4 bytes, minus 2 (RFC 4302 §2.2).
            PROTOCOL_AUTHENTICATION => (u32::from(start[1]) + 2) * 4,
            _ => (u32::from(start[1]) + 1) * 8,
        };
        protocol = start[0];
        transport_offset += header_length;
        if is_fragment {
            // What follows a fragment header is only there in the first fragment.
            break;
        }
    }
    if transport_offset > ip_end {
        return Err(if ip_end == packet.len() { Unparsed::Truncated } else { Unparsed::Malformed });
    }
    let headers = Headers {
        vlan_outer,
        vlan_inner,
        is_ipv6: 1,
        protocol,
        kind: PacketKind::Other,
        source,
        destination,
        source_port: 0,
        destination_port: 0,
        ip_offset,
        transport_offset: 0,
        payload_offset: 0,
        payload_length: 0,
    };
    parse_transport(packet, headers, transport_offset, ip_end, is_fragment)
}

#[inline(always)]
fn is_extension_header(protocol: u8) -> bool {
    matches!(
        protocol,
        PROTOCOL_HOP_BY_HOP
            | PROTOCOL_ROUTING
            | PROTOCOL_FRAGMENT
            | PROTOCOL_AUTHENTICATION
            | PROTOCOL_DESTINATION_OPTIONS
            | PROTOCOL_MOBILITY
            | PROTOCOL_HOST_IDENTITY
            | PROTOCOL_SHIM6
    )
}

/// Where the IP datagram ends in the frame: by its length field, clipped to the frame. A length of 0 is what a capture
/// behind segmentation offload shows (and IPv6 jumbograms): there the frame's end counts.
#[inline(always)]
fn datagram_end(frame_length: u32, ip_offset: u32, header_length: u32, total_length: u32) -> Result<u32, Unparsed> {
    if ip_offset + header_length > frame_length {
        return Err(Unparsed::Truncated);
    }
    if total_length == 0 {
        return Ok(frame_length);
    }
    if total_length < header_length {
        return Err(Unparsed::Malformed);
    }
    Ok(if total_length > frame_length - ip_offset { frame_length } else { ip_offset + total_length })
}

#[inline(always)]
fn parse_transport<V: View + ?Sized>(
    packet: &V,
    mut headers: Headers,
    transport_offset: u32,
    ip_end: u32,
    is_fragment: bool,
) -> Result<Headers, Unparsed> {
    headers.transport_offset = transport_offset;
    headers.payload_offset = transport_offset;
    headers.payload_length = ip_end - transport_offset;
    if is_fragment {
        headers.kind = PacketKind::Fragment;
        return Ok(headers);
    }
    match headers.protocol {
        PROTOCOL_UDP => {
            // RFC 768. A length of 0 appears behind segmentation offload: there the datagram's end counts.
            let udp = transport_bytes::<V, 8>(packet, transport_offset, ip_end)?;
            headers.source_port = u16::from_be_bytes([udp[0], udp[1]]);
            headers.destination_port = u16::from_be_bytes([udp[2], udp[3]]);
            let udp_length = u32::from(u16::from_be_bytes([udp[4], udp[5]]));
            let available = ip_end - transport_offset;
            let length = if udp_length == 0 || udp_length > available { available } else { udp_length };
            if length < 8 {
                return Err(Unparsed::Malformed);
            }
            headers.payload_offset = transport_offset + 8;
            headers.payload_length = length - 8;
            headers.kind = if is_tunnel_port(headers.destination_port) { PacketKind::Tunnel } else { PacketKind::Udp };
        }
        PROTOCOL_TCP => {
            let tcp = transport_bytes::<V, 14>(packet, transport_offset, ip_end)?;
            headers.source_port = u16::from_be_bytes([tcp[0], tcp[1]]);
            headers.destination_port = u16::from_be_bytes([tcp[2], tcp[3]]);
            // RFC 9293 §3.1: in units of 4 bytes.
            let header_length = u32::from(tcp[12] >> 4) * 4;
            if header_length < 20 {
                return Err(Unparsed::Malformed);
            }
            if header_length > ip_end - transport_offset {
                return Err(if ip_end == packet.len() { Unparsed::Truncated } else { Unparsed::Malformed });
            }
            headers.payload_offset = transport_offset + header_length;
            headers.payload_length = ip_end - headers.payload_offset;
            headers.kind = PacketKind::Tcp;
        }
        PROTOCOL_GRE | PROTOCOL_IPV4 | PROTOCOL_IPV6 | PROTOCOL_ETHERIP => headers.kind = PacketKind::Tunnel,
        _ => {}
    }
    Ok(headers)
}

/// The first `N` bytes of the transport header, all of which the datagram must hold.
#[inline(always)]
fn transport_bytes<V: View + ?Sized, const N: usize>(
    packet: &V,
    transport_offset: u32,
    ip_end: u32,
) -> Result<[u8; N], Unparsed> {
    if ip_end - transport_offset < N as u32 {
        return Err(if ip_end == packet.len() { Unparsed::Truncated } else { Unparsed::Malformed });
    }
    packet.bytes::<N>(transport_offset).ok_or(Unparsed::Truncated)
}

#[inline(always)]
fn is_tunnel_port(destination_port: u16) -> bool {
    matches!(destination_port, PORT_VXLAN | PORT_VXLAN_LINUX | PORT_GENEVE | PORT_TZSP | PORT_HEP)
}
