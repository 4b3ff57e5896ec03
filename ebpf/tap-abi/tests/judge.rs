//! The parser and the decision on the host: a table, and properties over generated frames.

mod packets;

use packets::{Case, TCP, UDP, cases, ethernet, ipv4, ipv6, tcp, udp};
use proptest::prelude::*;
use sidetone_tap_abi::{
    FOREVER, FlowKey, MAX_HEADER_BYTES, NANOS_PER_PORT_SECOND, PacketKind, PortEntry, Tables, Unparsed, View, judge,
    media_kind, parse, parse_ip,
};
use std::collections::HashMap;

const NOW_NS: u64 = 100_000 * NANOS_PER_PORT_SECOND;

struct HostTables {
    flows: HashMap<FlowKey, u64>,
}

impl HostTables {
    fn new() -> Self {
        let [(held, held_ssrc), (expired, expired_ssrc)] = packets::discarded_streams();
        let flows = [(FlowKey::new(&held, held_ssrc), NOW_NS + 1), (FlowKey::new(&expired, expired_ssrc), NOW_NS)];
        Self { flows: flows.into() }
    }
}

impl Tables for HostTables {
    fn now_ns(&self) -> u64 {
        NOW_NS
    }

    fn port(&self, port: u16) -> PortEntry {
        match port {
            packets::SIGNALLING_PORT => PortEntry { signalling_until: FOREVER, media_until: 0 },
            packets::MEDIA_PORT => PortEntry { signalling_until: 0, media_until: 100_001 },
            packets::EXPIRED_PORT => PortEntry { signalling_until: 100_000, media_until: 99_000 },
            _ => PortEntry::default(),
        }
    }

    fn discard_until_ns(&self, key: &FlowKey) -> Option<u64> {
        self.flows.get(key).copied()
    }
}

#[test]
fn every_frame_of_the_table_is_judged_as_the_table_says() {
    let tables = HostTables::new();
    for Case { description, frame, expected } in cases() {
        assert!(frame.len() >= 14, "{description}: too short for the kernel");
        assert_eq!(judge(frame.as_slice(), &tables), expected, "{description}");
    }
}

#[test]
fn a_frame_cut_anywhere_is_truncated_or_loses_only_payload() {
    for Case { description, frame, .. } in cases() {
        let Ok(whole) = parse(frame.as_slice()) else { continue };
        for length in 0..frame.len() {
            match parse(&frame[..length]) {
                Ok(headers) => {
                    assert!(headers.payload_offset as usize <= length, "{description}, {length} bytes");
                    assert_eq!(headers.payload_offset, whole.payload_offset, "{description}, {length} bytes");
                    assert!(headers.payload_length <= whole.payload_length, "{description}, {length} bytes");
                }
                Err(unparsed) => assert_eq!(unparsed, Unparsed::Truncated, "{description}, {length} bytes"),
            }
        }
    }
}

#[test]
fn headers_say_where_everything_is() {
    let payload = b"twelve bytes";
    let frame =
        ethernet(&[(0x88A8, 0xE064), (0x8100, 20)], 0x0800, &ipv4(UDP, 0, &[1; 8], &udp(0x1234, 0x5678, payload)));
    let padded = [frame.clone(), vec![0; 20]].concat();
    for frame in [frame, padded] {
        let headers = parse(frame.as_slice()).unwrap();
        assert_eq!((headers.vlan_outer, headers.vlan_inner), (100, 20));
        assert_eq!((headers.is_ipv6, headers.protocol, headers.kind), (0, UDP, PacketKind::Udp));
        assert_eq!(headers.source, [10, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(headers.destination, [10, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!((headers.source_port, headers.destination_port), (0x1234, 0x5678));
        assert_eq!((headers.ip_offset, headers.transport_offset, headers.payload_offset), (22, 50, 58));
        let start = headers.payload_offset as usize;
        assert_eq!(&frame[start..start + headers.payload_length as usize], payload);
    }
}

#[test]
fn a_fragment_tells_where_its_data_and_its_fragment_header_are() {
    let data = [7u8; 24];
    let frame = ethernet(&[], 0x86DD, &ipv6(UDP, &[(44, vec![0, 0, 0x05, 0xA9, 1, 2, 3, 4])], &data));
    let headers = parse(frame.as_slice()).unwrap();
    assert_eq!((headers.kind, headers.protocol, headers.is_ipv6), (PacketKind::Fragment, UDP, 1));
    let fragment_header = headers.transport_offset - 8;
    assert_eq!(frame.as_slice().u16(fragment_header + 2), Some(0x05A9));
    assert_eq!(frame.as_slice().u32(fragment_header + 4), Some(0x0102_0304));
    assert_eq!((headers.payload_offset, headers.payload_length), (headers.transport_offset, 24));
}

#[test]
fn an_ip_packet_without_ethernet_is_parsed_the_same() {
    let packet = ipv6(TCP, &[], &tcp(1, 2, &[1; 4], b"data"));
    let framed = ethernet(&[(0x8100, 9)], 0x86DD, &packet);
    let mut expected = parse(framed.as_slice()).unwrap();
    expected.ip_offset -= 18;
    expected.transport_offset -= 18;
    expected.payload_offset -= 18;
    assert_eq!(parse_ip(packet.as_slice(), 0, 9, 0).unwrap(), expected);
    assert_eq!(parse_ip([0x30u8; 40].as_slice(), 0, 0, 0), Err(Unparsed::NotIp));
}

fn frame_strategy() -> impl Strategy<Value = Vec<u8>> {
    let random = prop::collection::vec(any::<u8>(), 0..200);
    let count = cases().len();
    // Frames of the table with a few bytes changed reach deeper than random ones.
    let damaged = (0..count, prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8), 0..2000usize)
        .prop_map(|(case, changes, length)| {
            let mut frame = cases().swap_remove(case).frame;
            for (index, byte) in changes {
                let place = index.index(frame.len());
                frame[place] = byte;
            }
            frame.truncate(length.max(14));
            frame
        });
    prop_oneof![random, damaged]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn any_bytes_are_judged_without_panic_and_offsets_lie_in_the_frame(frame in frame_strategy()) {
        judge(frame.as_slice(), &HostTables::new());
        for parsed in [parse(frame.as_slice()), parse_ip(frame.as_slice(), 0, 0, 0)] {
            let Ok(headers) = parsed else { continue };
            prop_assert!(headers.ip_offset < headers.transport_offset);
            prop_assert!(headers.transport_offset <= headers.payload_offset);
            prop_assert!(headers.transport_offset <= headers.ip_offset + MAX_HEADER_BYTES + 40 + 2048);
            prop_assert!(headers.payload_offset as usize + headers.payload_length as usize <= frame.len());
            media_kind(frame.as_slice(), headers.payload_offset, headers.payload_length);
        }
    }

    #[test]
    fn what_was_built_is_what_is_parsed(
        tags in prop::collection::vec((prop::sample::select(vec![0x8100u16, 0x88A8, 0x9100]), 0..0x1000u16), 0..=2),
        source_port: u16,
        destination_port in any::<u16>().prop_filter("tunnels", |port| ![4789, 8472, 6081, 37_008, 9060].contains(port)),
        options in (0..=10usize).prop_map(|words| vec![1u8; words * 4]),
        payload in prop::collection::vec(any::<u8>(), 0..1400),
        padding in 0..40usize,
        is_tcp: bool,
    ) {
        let (protocol, transport) = match is_tcp {
            true => (TCP, tcp(source_port, destination_port, &options, &payload)),
            false => (UDP, udp(source_port, destination_port, &payload)),
        };
        let mut frame = ethernet(&tags, 0x0800, &ipv4(protocol, 0x4000, &options, &transport));
        frame.extend(vec![0xEE; padding]);
        let headers = parse(frame.as_slice()).unwrap();
        prop_assert_eq!(headers.kind, if is_tcp { PacketKind::Tcp } else { PacketKind::Udp });
        prop_assert_eq!((headers.source_port, headers.destination_port), (source_port, destination_port));
        prop_assert_eq!(headers.vlan_outer, tags.first().map_or(0, |tag| tag.1));
        prop_assert_eq!(headers.vlan_inner, tags.get(1).map_or(0, |tag| tag.1));
        let start = headers.payload_offset as usize;
        prop_assert_eq!(&frame[start..start + headers.payload_length as usize], payload.as_slice());
    }
}
