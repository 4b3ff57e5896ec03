//! Frames built by hand, and the table that says what is to become of each. The host judges them here; the capture crate's
//! tests drive the same table through the loaded XDP program.
#![allow(dead_code, reason = "each test that includes this module uses a part of it")]

use sidetone_tap_abi::{Headers, Interest, Reason, Verdict, parse, rtp_ssrc};

/// In the port map: signalling without end.
pub(crate) const SIGNALLING_PORT: u16 = 5060;
/// In the port map: media for some time to come.
pub(crate) const MEDIA_PORT: u16 = 40_000;
/// In the port map: signalling and media, until some time ago.
pub(crate) const EXPIRED_PORT: u16 = 40_002;
/// RTP from this port has a verdict that holds.
pub(crate) const DISCARDED_PORT: u16 = 40_100;
/// RTP from this port has a verdict that has expired.
pub(crate) const EXPIRED_DISCARD_PORT: u16 = 40_102;
pub(crate) const SSRC: u32 = 0x1234_5678;

pub(crate) struct Case {
    pub(crate) description: &'static str,
    pub(crate) frame: Vec<u8>,
    pub(crate) expected: Verdict,
}

pub(crate) const UDP: u8 = 17;
pub(crate) const TCP: u8 = 6;

pub(crate) fn ethernet(tags: &[(u16, u16)], ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x02, 0, 0, 0, 0, 1, 0x02, 0, 0, 0, 0, 2];
    for (protocol, control) in tags {
        frame.extend(protocol.to_be_bytes());
        frame.extend(control.to_be_bytes());
    }
    frame.extend(ethertype.to_be_bytes());
    frame.extend(payload);
    frame
}

/// `fragment` is the field of flags and offset, `options` a multiple of 4 bytes.
pub(crate) fn ipv4(protocol: u8, fragment: u16, options: &[u8], payload: &[u8]) -> Vec<u8> {
    let header_length = 20 + options.len();
    let mut packet = vec![0x40 | (header_length / 4) as u8, 0];
    packet.extend(((header_length + payload.len()) as u16).to_be_bytes());
    packet.extend([0xAB, 0xCD]);
    packet.extend(fragment.to_be_bytes());
    packet.extend([64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    packet.extend(options);
    packet.extend(payload);
    packet
}

/// Each extension is a whole header but for its first byte, which is put in: (its type, bytes).
pub(crate) fn ipv6(protocol: u8, extensions: &[(u8, Vec<u8>)], payload: &[u8]) -> Vec<u8> {
    let types: Vec<u8> = extensions.iter().map(|(kind, _)| *kind).chain([protocol]).collect();
    let length: usize = extensions.iter().map(|(_, bytes)| bytes.len()).sum::<usize>() + payload.len();
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend((length as u16).to_be_bytes());
    packet.extend([types[0], 64]);
    packet.extend([0x20, 1, 0x0D, 0xB8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    packet.extend([0x20, 1, 0x0D, 0xB8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
    for ((_, bytes), next) in extensions.iter().zip(&types[1..]) {
        packet.push(*next);
        packet.extend(&bytes[1..]);
    }
    packet.extend(payload);
    packet
}

pub(crate) fn udp(source_port: u16, destination_port: u16, payload: &[u8]) -> Vec<u8> {
    let mut datagram = Vec::new();
    datagram.extend(source_port.to_be_bytes());
    datagram.extend(destination_port.to_be_bytes());
    datagram.extend((8 + payload.len() as u16).to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend(payload);
    datagram
}

pub(crate) fn tcp(source_port: u16, destination_port: u16, options: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut segment = Vec::new();
    segment.extend(source_port.to_be_bytes());
    segment.extend(destination_port.to_be_bytes());
    segment.extend([0, 0, 0, 1, 0, 0, 0, 2, (((20 + options.len()) / 4) << 4) as u8, 0x18, 1, 0, 0, 0, 0, 0]);
    segment.extend(options);
    segment.extend(payload);
    segment
}

/// A packet of 20 ms of PCMU.
pub(crate) fn rtp() -> Vec<u8> {
    let mut packet = vec![0x80, 0, 0, 1, 0, 0, 0, 160];
    packet.extend(SSRC.to_be_bytes());
    packet.extend([0xFF; 160]);
    packet
}

pub(crate) fn rtcp() -> Vec<u8> {
    let mut packet = vec![0x80, 201, 0, 1];
    packet.extend(SSRC.to_be_bytes());
    packet
}

pub(crate) fn sip() -> Vec<u8> {
    b"OPTIONS sip:b@10.0.0.2 SIP/2.0\r\nCall-ID: 1\r\nContent-Length: 0\r\n\r\n".to_vec()
}

/// An IPv4 datagram in an untagged frame.
pub(crate) fn udp_frame(source_port: u16, destination_port: u16, payload: &[u8]) -> Vec<u8> {
    ethernet(&[], 0x0800, &ipv4(UDP, 0, &[], &udp(source_port, destination_port, payload)))
}

fn options_header(bytes: usize) -> Vec<u8> {
    let mut header = vec![0; bytes];
    header[1] = (bytes / 8 - 1) as u8;
    header
}

fn fragment_header(offset_and_flags: u16) -> Vec<u8> {
    let [high, low] = offset_and_flags.to_be_bytes();
    vec![0, 0, high, low, 0, 0, 0, 9]
}

fn changed(mut frame: Vec<u8>, offset: usize, bytes: &[u8]) -> Vec<u8> {
    frame[offset..offset + bytes.len()].copy_from_slice(bytes);
    frame
}

fn cut(mut frame: Vec<u8>, length: usize) -> Vec<u8> {
    frame.truncate(length);
    frame
}

fn wanted(interest: Interest) -> Verdict {
    Verdict::Redirect(interest)
}

fn unwanted(reason: Reason) -> Verdict {
    Verdict::Unwanted(reason)
}

/// Every way through the parser and the decision. Frames have at least 14 bytes, as the kernel runs no shorter ones.
pub(crate) fn cases() -> Vec<Case> {
    let rtp_datagram = || udp(30_000, 30_002, &rtp());
    let rtp4 = || ipv4(UDP, 0, &[], &rtp_datagram());
    let rtp6 = |extensions: &[(u8, Vec<u8>)]| ethernet(&[], 0x86DD, &ipv6(UDP, extensions, &rtp_datagram()));
    let inner = || ipv4(UDP, 0, &[], &udp(1, 2, b"inner"));
    let table = vec![
        // Ethernet and VLAN tags.
        ("ARP", ethernet(&[], 0x0806, &[0; 46]), unwanted(Reason::NotIp)),
        ("LLDP", ethernet(&[], 0x88CC, &[0; 46]), unwanted(Reason::NotIp)),
        ("802.3 with a length", ethernet(&[], 46, &[0; 46]), unwanted(Reason::NotIp)),
        ("RTP, untagged", ethernet(&[], 0x0800, &rtp4()), wanted(Interest::Rtp)),
        ("RTP, 802.1Q", ethernet(&[(0x8100, 0x6064)], 0x0800, &rtp4()), wanted(Interest::Rtp)),
        ("RTP, 802.1ad and 802.1Q", ethernet(&[(0x88A8, 100), (0x8100, 20)], 0x0800, &rtp4()), wanted(Interest::Rtp)),
        ("RTP, 0x9100", ethernet(&[(0x9100, 100)], 0x0800, &rtp4()), wanted(Interest::Rtp)),
        (
            "three tags",
            ethernet(&[(0x8100, 1), (0x8100, 2), (0x8100, 3)], 0x0800, &rtp4()),
            unwanted(Reason::TooManyHeaders),
        ),
        ("cut within a tag", cut(ethernet(&[(0x8100, 100)], 0x0800, &rtp4()), 15), unwanted(Reason::Truncated)),
        ("tagged ARP", ethernet(&[(0x8100, 100)], 0x0806, &[0; 46]), unwanted(Reason::NotIp)),
        // IPv4.
        ("RTP, IPv4 options", ethernet(&[], 0x0800, &ipv4(UDP, 0, &[1; 40], &rtp_datagram())), wanted(Interest::Rtp)),
        ("only the Ethernet header", cut(udp_frame(1, 2, b""), 14), unwanted(Reason::Truncated)),
        ("cut within the IPv4 header", cut(udp_frame(1, 2, b""), 33), unwanted(Reason::Truncated)),
        (
            "cut within IPv4 options",
            cut(ethernet(&[], 0x0800, &ipv4(UDP, 0, &[1; 40], &[])), 60),
            unwanted(Reason::Truncated),
        ),
        ("IPv4 with version 5", changed(udp_frame(1, 2, &rtp()), 14, &[0x55]), unwanted(Reason::Malformed)),
        ("IPv4 header of 16 bytes", changed(udp_frame(1, 2, &rtp()), 14, &[0x44]), unwanted(Reason::Malformed)),
        ("IPv4 shorter than its header", changed(udp_frame(1, 2, &rtp()), 16, &[0, 19]), unwanted(Reason::Malformed)),
        ("IPv4 length 0, behind an offload", changed(udp_frame(1, 2, &rtp()), 16, &[0, 0]), wanted(Interest::Rtp)),
        ("IPv4 length beyond the frame", changed(udp_frame(1, 2, &rtp()), 16, &[0xFF, 0xFF]), wanted(Interest::Rtp)),
        ("first fragment", ethernet(&[], 0x0800, &ipv4(UDP, 0x2000, &[], &rtp_datagram())), wanted(Interest::Fragment)),
        ("last fragment", ethernet(&[], 0x0800, &ipv4(UDP, 0x00B9, &[], &[0; 100])), wanted(Interest::Fragment)),
        (
            "don't fragment is no fragment",
            ethernet(&[], 0x0800, &ipv4(UDP, 0x4000, &[], &rtp_datagram())),
            wanted(Interest::Rtp),
        ),
        ("ICMP", ethernet(&[], 0x0800, &ipv4(1, 0, &[], &[8; 40])), unwanted(Reason::OtherProtocol)),
        // IPv6.
        ("RTP, IPv6", rtp6(&[]), wanted(Interest::Rtp)),
        (
            "RTP, IPv6 with hop-by-hop, routing and destination options",
            rtp6(&[(0, options_header(8)), (43, options_header(24)), (60, options_header(16))]),
            wanted(Interest::Rtp),
        ),
        ("RTP, IPv6 with authentication", rtp6(&[(51, changed(vec![0; 24], 1, &[4]))]), wanted(Interest::Rtp)),
        ("RTP, IPv6 with eight extensions", rtp6(&vec![(60, options_header(8)); 8]), wanted(Interest::Rtp)),
        ("nine extensions", rtp6(&vec![(60, options_header(8)); 9]), unwanted(Reason::TooManyHeaders)),
        ("too many bytes of extensions", rtp6(&vec![(60, options_header(512)); 4]), unwanted(Reason::TooManyHeaders)),
        ("IPv6 fragment", rtp6(&[(44, fragment_header(1))]), wanted(Interest::Fragment)),
        ("later IPv6 fragment", rtp6(&[(44, fragment_header(0x0008))]), wanted(Interest::Fragment)),
        ("atomic IPv6 fragment", rtp6(&[(44, fragment_header(0))]), wanted(Interest::Rtp)),
        ("cut within the IPv6 header", cut(rtp6(&[]), 53), unwanted(Reason::Truncated)),
        ("cut within an extension", cut(rtp6(&[(60, options_header(16))]), 56), unwanted(Reason::Truncated)),
        (
            "an extension beyond the datagram",
            changed(rtp6(&[(60, options_header(8))]), 18, &[0, 7]),
            unwanted(Reason::Malformed),
        ),
        ("IPv6 with version 4", changed(rtp6(&[]), 14, &[0x45]), unwanted(Reason::Malformed)),
        ("ICMPv6", ethernet(&[], 0x86DD, &ipv6(58, &[], &[128; 40])), unwanted(Reason::OtherProtocol)),
        (
            "SIP over IPv6",
            ethernet(&[], 0x86DD, &ipv6(UDP, &[], &udp(5060, 5060, &sip()))),
            wanted(Interest::Signalling),
        ),
        // UDP.
        ("SIP", udp_frame(SIGNALLING_PORT, 12_345, &sip()), wanted(Interest::Signalling)),
        ("SIP, the other direction", udp_frame(12_345, SIGNALLING_PORT, &sip()), wanted(Interest::Signalling)),
        (
            "keep-alive on the signalling port",
            udp_frame(12_345, SIGNALLING_PORT, b"\r\n"),
            wanted(Interest::Signalling),
        ),
        (
            "empty datagram on the signalling port",
            udp_frame(12_345, SIGNALLING_PORT, b""),
            wanted(Interest::Signalling),
        ),
        ("SIP on another port", udp_frame(12_345, 12_346, &sip()), unwanted(Reason::OtherUdp)),
        ("SIP on a port that was signalling once", udp_frame(12_345, EXPIRED_PORT, &sip()), unwanted(Reason::OtherUdp)),
        ("RTCP", udp_frame(30_001, 30_003, &rtcp()), wanted(Interest::Rtcp)),
        ("DNS", udp_frame(40_404, 53, &[0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0]), unwanted(Reason::OtherUdp)),
        ("UDPTL on a media port", udp_frame(12_345, MEDIA_PORT, &[0, 1, 2, 3]), wanted(Interest::Media)),
        ("UDPTL from a media port", udp_frame(MEDIA_PORT, 12_345, &[0, 1, 2, 3]), wanted(Interest::Media)),
        ("UDPTL on an expired media port", udp_frame(12_345, EXPIRED_PORT, &[0, 1, 2, 3]), unwanted(Reason::OtherUdp)),
        ("RTP of a discarded stream", udp_frame(DISCARDED_PORT, 30_002, &rtp()), unwanted(Reason::Discarded)),
        (
            "the same ports and SSRC in a VLAN",
            ethernet(&[(0x8100, 7)], 0x0800, &ipv4(UDP, 0, &[], &udp(DISCARDED_PORT, 30_002, &rtp()))),
            wanted(Interest::Rtp),
        ),
        (
            "the same addresses and ports with another SSRC",
            changed(udp_frame(DISCARDED_PORT, 30_002, &rtp()), 50, &[9, 9, 9, 9]),
            wanted(Interest::Rtp),
        ),
        ("RTCP between the same ports", udp_frame(DISCARDED_PORT, 30_002, &rtcp()), wanted(Interest::Rtcp)),
        ("a verdict that has expired", udp_frame(EXPIRED_DISCARD_PORT, 30_002, &rtp()), wanted(Interest::Rtp)),
        ("UDP length of 7", changed(udp_frame(1, 2, &rtp()), 38, &[0, 7]), unwanted(Reason::Malformed)),
        ("UDP length beyond the datagram", changed(udp_frame(1, 2, &rtp()), 38, &[0xFF, 0xFF]), wanted(Interest::Rtp)),
        ("UDP length 0, behind an offload", changed(udp_frame(1, 2, &rtp()), 38, &[0, 0]), wanted(Interest::Rtp)),
        ("UDP length that leaves no RTP", changed(udp_frame(1, 2, &rtp()), 38, &[0, 19]), unwanted(Reason::OtherUdp)),
        ("cut within the UDP header", cut(udp_frame(1, 2, &rtp()), 41), unwanted(Reason::Truncated)),
        (
            "a datagram that ends within the UDP header",
            changed(udp_frame(1, 2, &rtp()), 16, &[0, 27]),
            unwanted(Reason::Malformed),
        ),
        (
            "a short datagram in a padded frame",
            [udp_frame(1, 2, &[0x80, 0, 0, 1]), vec![0; 14]].concat(),
            unwanted(Reason::OtherUdp),
        ),
        // TCP.
        (
            "SIP over TCP",
            ethernet(&[], 0x0800, &ipv4(TCP, 0, &[], &tcp(12_345, 5060, &[], &sip()))),
            wanted(Interest::Signalling),
        ),
        (
            "SIP over TCP, options",
            ethernet(&[], 0x0800, &ipv4(TCP, 0, &[], &tcp(5060, 12_345, &[1; 12], &sip()))),
            wanted(Interest::Signalling),
        ),
        (
            "a bare acknowledgement to SIP",
            ethernet(&[], 0x0800, &ipv4(TCP, 0, &[], &tcp(5060, 12_345, &[], b""))),
            wanted(Interest::Signalling),
        ),
        (
            "HTTPS",
            ethernet(&[], 0x0800, &ipv4(TCP, 0, &[], &tcp(443, 12_345, &[], &[0x17; 100]))),
            unwanted(Reason::OtherTcp),
        ),
        (
            "TCP on a media port",
            ethernet(&[], 0x0800, &ipv4(TCP, 0, &[], &tcp(MEDIA_PORT, 1, &[], &[0; 20]))),
            unwanted(Reason::OtherTcp),
        ),
        (
            "TCP header of 16 bytes",
            changed(ethernet(&[], 0x0800, &ipv4(TCP, 0, &[], &tcp(1, 5060, &[], &[0; 20]))), 46, &[0x40]),
            unwanted(Reason::Malformed),
        ),
        (
            "TCP header beyond the datagram",
            changed(ethernet(&[], 0x0800, &ipv4(TCP, 0, &[], &tcp(1, 5060, &[], &[]))), 46, &[0xF0]),
            unwanted(Reason::Truncated),
        ),
        (
            "cut within the TCP header",
            cut(ethernet(&[], 0x0800, &ipv4(TCP, 0, &[], &tcp(1, 5060, &[], &[]))), 47),
            unwanted(Reason::Truncated),
        ),
        // Tunnels.
        ("GRE", ethernet(&[], 0x0800, &ipv4(47, 0, &[], &[0; 40])), wanted(Interest::Tunnel)),
        ("IPv4 in IPv4", ethernet(&[], 0x0800, &ipv4(4, 0, &[], &inner())), wanted(Interest::Tunnel)),
        ("IPv4 in IPv6", ethernet(&[], 0x86DD, &ipv6(4, &[], &inner())), wanted(Interest::Tunnel)),
        (
            "IPv6 in IPv4",
            ethernet(&[], 0x0800, &ipv4(41, 0, &[], &ipv6(UDP, &[], &udp(1, 2, b"")))),
            wanted(Interest::Tunnel),
        ),
        ("VXLAN", udp_frame(50_000, 4789, &[8; 60]), wanted(Interest::Tunnel)),
        ("GENEVE", udp_frame(50_000, 6081, &[0; 60]), wanted(Interest::Tunnel)),
        ("TZSP", udp_frame(50_000, 37_008, &[1; 60]), wanted(Interest::Tunnel)),
        ("HEP", udp_frame(50_000, 9060, b"HEP3\0\0"), wanted(Interest::Tunnel)),
        ("from the VXLAN port only", udp_frame(4789, 50_000, &[8; 60]), unwanted(Reason::OtherUdp)),
    ];
    table.into_iter().map(|(description, frame, expected)| Case { description, frame, expected }).collect()
}

/// Headers and SSRC of the streams that have a verdict: one that holds, one that has expired.
pub(crate) fn discarded_streams() -> [(Headers, u32); 2] {
    [DISCARDED_PORT, EXPIRED_DISCARD_PORT].map(|port| {
        let frame = udp_frame(port, 30_002, &rtp());
        let headers = parse(frame.as_slice()).expect("built by hand");
        let ssrc = rtp_ssrc(frame.as_slice(), headers.payload_offset).expect("built by hand");
        (headers, ssrc)
    })
}
