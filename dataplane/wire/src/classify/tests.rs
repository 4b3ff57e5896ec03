use super::*;
use proptest::prelude::*;

fn udp_packet(payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 0, 0, 1, 0, 0, 64, 17, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2];
    packet[2..4].copy_from_slice(&((28 + payload.len()) as u16).to_be_bytes());
    packet.extend_from_slice(&[0x13, 0xc4, 0x9c, 0x40]);
    packet.extend_from_slice(&((8 + payload.len()) as u16).to_be_bytes());
    packet.extend_from_slice(&[0, 0]);
    packet.extend_from_slice(payload);
    packet
}

fn rtp() -> Vec<u8> {
    let mut payload = vec![0x80, 8, 0, 1, 0, 0, 0, 160, 0xde, 0xad, 0xbe, 0xef];
    payload.resize(172, 0xd5);
    payload
}

fn framed(header: &[u8], packet: &[u8]) -> Vec<u8> {
    // Padding, as a short Ethernet frame has it.
    [header, packet, &[0; 6]].concat()
}

#[test]
fn every_link_layer_leads_to_the_same_packet() {
    let ip = udp_packet(&rtp());
    let ethernet = |rest: &[u8]| [&[0; 12], rest].concat();
    let cooked = |protocol: [u8; 2]| [&[0; 14][..], &protocol].concat();
    let cooked2 = |protocol: [u8; 2]| [&protocol[..], &[0; 18]].concat();
    let table = [
        ("Ethernet", Link::Ethernet, ethernet(&[8, 0]), (0, 0)),
        ("VLAN 100", Link::Ethernet, ethernet(&[0x81, 0, 0xe0, 100, 8, 0]), (100, 0)),
        ("VLAN 7.8", Link::Ethernet, ethernet(&[0x88, 0xa8, 0, 7, 0x81, 0, 0, 8, 8, 0]), (7, 8)),
        ("raw", Link::RawIp, vec![], (0, 0)),
        ("cooked", Link::LinuxCooked, cooked([8, 0]), (0, 0)),
        ("cooked, VLAN", Link::LinuxCooked, [cooked([0x81, 0]), vec![0, 9, 8, 0]].concat(), (9, 0)),
        ("cooked 2", Link::LinuxCooked2, cooked2([8, 0]), (0, 0)),
        (
            "cooked 2, VLAN 1.2",
            Link::LinuxCooked2,
            [cooked2([0x88, 0xa8]), vec![0, 1, 0x81, 0, 0, 2, 8, 0]].concat(),
            (1, 2),
        ),
        ("BSD loopback, little-endian", Link::Null, vec![2, 0, 0, 0], (0, 0)),
        ("BSD loopback, big-endian", Link::Null, vec![0, 0, 0, 2], (0, 0)),
    ];
    for (description, link, header, (vlan_outer, vlan_inner)) in table {
        let frame = framed(&header, &ip);
        let packet = classify(link, &frame).unwrap_or_else(|why| panic!("{description}: {why:?}"));
        let expected = Packet {
            domain: Domain { vlan_outer, vlan_inner, network: 0 },
            source: "192.0.2.1:5060".parse().unwrap(),
            destination: "192.0.2.2:40000".parse().unwrap(),
            payload: &rtp(),
            transport: &ip[20..],
            kind: Kind::Udp(MediaKind::Rtp),
        };
        assert_eq!(packet, expected, "{description}");
    }
}

#[test]
fn what_is_no_ip_has_its_label() {
    let cooked_arp = [&[0; 14][..], &[8, 6], &[0; 28]].concat();
    let tags = [&[0; 14][..], &[0x81, 0, 0, 1, 0x81, 0, 0, 2, 0x81, 0, 0, 3, 0x81, 0, 0, 4, 8, 0]].concat();
    let table: &[(&str, Link, &[u8], Unparsed)] = &[
        ("nothing", Link::Ethernet, &[], Unparsed::Truncated),
        ("cooked, half a header", Link::LinuxCooked, &[0; 15], Unparsed::Truncated),
        ("cooked ARP", Link::LinuxCooked, &cooked_arp, Unparsed::NotIp),
        ("cooked, three tags", Link::LinuxCooked, &tags, Unparsed::TooManyHeaders),
        ("cooked 2, nothing", Link::LinuxCooked2, &[], Unparsed::Truncated),
        ("loopback, nothing", Link::Null, &[2, 0, 0, 0], Unparsed::Truncated),
        ("raw, version 0", Link::RawIp, &[0; 40], Unparsed::NotIp),
    ];
    for (description, link, bytes, label) in table {
        assert_eq!(classify(*link, bytes), Err(*label), "{description}");
    }
}

#[test]
fn the_payload_is_what_its_kind_says() {
    let mut tcp = vec![0x45, 0, 0, 45, 0, 1, 0, 0, 64, 6, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2];
    tcp.extend_from_slice(&[
        0x13, 0xc4, 0x13, 0xc5, 0, 0, 0, 9, 0, 0, 0, 0, 0x60, 0x18, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, b'!',
    ]);
    let frame = framed(&[], &tcp);
    let packet = classify(Link::RawIp, &frame).unwrap();
    assert_eq!((packet.kind, packet.payload, packet.transport), (Kind::Tcp, &b"!"[..], &tcp[20..]));
    assert_eq!(packet.source.port(), 5060);

    let mut fragment = udp_packet(&rtp());
    fragment[6] = 0x20;
    let frame = framed(&[], &fragment);
    let packet = classify(Link::RawIp, &frame).unwrap();
    assert_eq!((packet.kind, packet.payload), (Kind::Fragment, &fragment[..]));
    assert_eq!(packet.source, "192.0.2.1:0".parse().unwrap());

    let mut vxlan = udp_packet(&rtp());
    vxlan[22..24].copy_from_slice(&4789u16.to_be_bytes());
    let packet = classify(Link::RawIp, &vxlan).unwrap();
    assert_eq!((packet.kind, packet.payload), (Kind::Tunnel, &vxlan[..]));

    let mut icmp = udp_packet(&rtp());
    icmp[9] = 1;
    let packet = classify(Link::RawIp, &icmp).unwrap();
    assert_eq!((packet.kind, packet.payload), (Kind::Other, &icmp[20..]));
}

proptest! {
    /// Bytes with something right in front, so that they get deep into the parser.
    #[test]
    fn any_bytes_are_classified_or_labelled(
        start in 0usize..6,
        bytes in proptest::collection::vec(any::<u8>(), 0..120),
    ) {
        let starts: [&[u8]; 6] = [&[], &[0x45, 0, 0, 60], &[0x60, 0, 0, 0, 0, 40, 44], &[0x46, 0, 0, 0], &[8, 0], &[0x60, 0, 0, 0, 0, 0, 0]];
        let bytes = [starts[start], &bytes].concat();
        for link in [Link::Ethernet, Link::RawIp, Link::LinuxCooked, Link::LinuxCooked2, Link::Null] {
            if let Ok(packet) = classify(link, &bytes) {
                prop_assert!(packet.payload.len() <= bytes.len());
                if packet.kind == Kind::Tcp {
                    prop_assert!(packet.transport.len() >= packet.payload.len() + 20);
                    prop_assert!(packet.transport.ends_with(packet.payload));
                }
            }
        }
    }
}
