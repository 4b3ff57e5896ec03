//! Ethernet frames around UDP and TCP, with correct lengths and checksums.

use std::net::{IpAddr, SocketAddr};

const MTU: usize = 1500;
const DESTINATION_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
const SOURCE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const PROTOCOL_TCP: u8 = 6;
const PROTOCOL_UDP: u8 = 17;

pub(crate) const TCP_SYN: u8 = 0x02;
pub(crate) const TCP_ACK: u8 = 0x10;
pub(crate) const TCP_PSH: u8 = 0x08;
pub(crate) const TCP_FIN: u8 = 0x01;

/// What is common to all frames of the traffic.
#[derive(Clone, Debug)]
pub(crate) struct Network {
    pub vlans: Vec<u16>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct TcpSegment {
    pub sequence: u32,
    pub acknowledgement: u32,
    pub flags: u8,
}

impl Network {
    /// A UDP datagram: one frame, or as many as its IP fragments.
    pub(crate) fn udp(&self, source: SocketAddr, destination: SocketAddr, id: u32, payload: &[u8]) -> Vec<Vec<u8>> {
        let length = (8 + payload.len()) as u16;
        let mut datagram = Vec::with_capacity(usize::from(length));
        datagram.extend(source.port().to_be_bytes());
        datagram.extend(destination.port().to_be_bytes());
        datagram.extend(length.to_be_bytes());
        datagram.extend([0, 0]);
        datagram.extend(payload);
        let sum = transport_checksum(source.ip(), destination.ip(), PROTOCOL_UDP, &datagram);
        // RFC 768: a computed zero is sent as all ones.
        datagram[6..8].copy_from_slice(&(if sum == 0 { 0xffff } else { sum }).to_be_bytes());
        self.packets(source.ip(), destination.ip(), PROTOCOL_UDP, id, &datagram)
    }

    pub(crate) fn tcp(
        &self,
        source: SocketAddr,
        destination: SocketAddr,
        id: u32,
        segment: TcpSegment,
        payload: &[u8],
    ) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(20 + payload.len());
        bytes.extend(source.port().to_be_bytes());
        bytes.extend(destination.port().to_be_bytes());
        bytes.extend(segment.sequence.to_be_bytes());
        bytes.extend(segment.acknowledgement.to_be_bytes());
        bytes.extend([0x50, segment.flags, 0xff, 0xff, 0, 0, 0, 0]);
        bytes.extend(payload);
        let sum = transport_checksum(source.ip(), destination.ip(), PROTOCOL_TCP, &bytes);
        bytes[16..18].copy_from_slice(&sum.to_be_bytes());
        let mut frames = self.packets(source.ip(), destination.ip(), PROTOCOL_TCP, id, &bytes);
        assert_eq!(frames.len(), 1, "segments are cut to fit");
        frames.remove(0)
    }

    fn packets(&self, source: IpAddr, destination: IpAddr, protocol: u8, id: u32, body: &[u8]) -> Vec<Vec<u8>> {
        match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let room = (MTU - 20) / 8 * 8;
                let pieces = body.chunks(room).enumerate();
                let count = body.len().div_ceil(room);
                pieces
                    .map(|(n, piece)| {
                        let mut frame = self.ethernet(0x0800);
                        let header_at = frame.len();
                        let more = u16::from(n + 1 < count) << 13;
                        let offset = (n * room / 8) as u16;
                        let flags = if count == 1 { 0x4000 } else { more | offset };
                        frame.extend([0x45, 0xb8]);
                        frame.extend(((20 + piece.len()) as u16).to_be_bytes());
                        frame.extend((id as u16).to_be_bytes());
                        frame.extend(flags.to_be_bytes());
                        frame.extend([64, protocol, 0, 0]);
                        frame.extend(source.octets());
                        frame.extend(destination.octets());
                        let sum = !fold(add(0, &frame[header_at..]));
                        frame[header_at + 10..header_at + 12].copy_from_slice(&sum.to_be_bytes());
                        frame.extend(piece);
                        frame
                    })
                    .collect()
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let header = |next: u8, length: usize| {
                    let mut frame = self.ethernet(0x86dd);
                    frame.extend([0x6b, 0x80, 0, 0]);
                    frame.extend((length as u16).to_be_bytes());
                    frame.extend([next, 64]);
                    frame.extend(source.octets());
                    frame.extend(destination.octets());
                    frame
                };
                if body.len() <= MTU - 40 {
                    let mut frame = header(protocol, body.len());
                    frame.extend(body);
                    return vec![frame];
                }
                // RFC 8200 §4.5: the fragment header is 44.
                let room = (MTU - 48) / 8 * 8;
                let count = body.len().div_ceil(room);
                body.chunks(room)
                    .enumerate()
                    .map(|(n, piece)| {
                        let mut frame = header(44, 8 + piece.len());
                        let offset = ((n * room / 8) as u16) << 3 | u16::from(n + 1 < count);
                        frame.extend([protocol, 0]);
                        frame.extend(offset.to_be_bytes());
                        frame.extend(id.to_be_bytes());
                        frame.extend(piece);
                        frame
                    })
                    .collect()
            }
            _ => unreachable!("both addresses of a call are of one family"),
        }
    }

    fn ethernet(&self, ether_type: u16) -> Vec<u8> {
        let mut frame = Vec::with_capacity(1522);
        frame.extend(DESTINATION_MAC);
        frame.extend(SOURCE_MAC);
        for (n, vlan) in self.vlans.iter().enumerate() {
            // IEEE 802.1ad outside, 802.1Q inside.
            let tag: u16 = if n + 1 < self.vlans.len() { 0x88a8 } else { 0x8100 };
            frame.extend(tag.to_be_bytes());
            frame.extend(vlan.to_be_bytes());
        }
        frame.extend(ether_type.to_be_bytes());
        frame
    }
}

fn transport_checksum(source: IpAddr, destination: IpAddr, protocol: u8, body: &[u8]) -> u16 {
    let mut sum = u32::from(protocol) + body.len() as u32;
    for address in [source, destination] {
        sum = match address {
            IpAddr::V4(address) => add(sum, &address.octets()),
            IpAddr::V6(address) => add(sum, &address.octets()),
        };
    }
    !fold(add(sum, body))
}

/// Ones' complement sum (RFC 1071). No body here is long enough to overflow 32 bits.
fn add(sum: u32, bytes: &[u8]) -> u32 {
    let (pairs, rest) = bytes.as_chunks::<2>();
    let words = pairs.iter().map(|pair| u32::from(u16::from_be_bytes(*pair))).sum::<u32>();
    sum + words + rest.first().map_or(0, |last| u32::from(*last) << 8)
}

fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}
