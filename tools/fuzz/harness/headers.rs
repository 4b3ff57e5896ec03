//! What must hold for any frame in the header parser and the decision about it. Used by the fuzz target, and by the test that
//! replays its corpus (ebpf/tap-abi/tests/fuzz_corpora.rs).

use sidetone_tap_abi::{
    FOREVER, FlowKey, Headers, MAX_HEADER_BYTES, PacketKind, PortEntry, Tables, Unparsed, Verdict, judge, media_kind,
    parse, parse_ip,
};

/// Tables that answer by the question, so that every way through the decision is open.
struct AnyTables;

const NOW_NS: u64 = 1 << 40;

impl Tables for AnyTables {
    fn now_ns(&self) -> u64 {
        NOW_NS
    }

    fn port(&self, port: u16) -> PortEntry {
        let times = [0, FOREVER, 1, 1 << 20];
        PortEntry {
            signalling_until: if port & 0xFF == 0xC4 { times[usize::from(port >> 8 & 3)] } else { 0 },
            media_until: times[usize::from(port >> 4 & 3)],
        }
    }

    fn discard_until_ns(&self, key: &FlowKey) -> Option<u64> {
        [None, Some(NOW_NS), Some(NOW_NS + 1), None][(key.ssrc & 3) as usize]
    }
}

pub(crate) fn headers(frame: &[u8]) {
    let verdict = judge(frame, &AnyTables);
    assert_eq!(verdict, judge(frame, &AnyTables), "the same frame, another verdict");
    let parsed = parse(frame);
    if let Err(unparsed) = parsed {
        assert_eq!(verdict, Verdict::Unwanted(unparsed.into()));
    }
    for (offset, parsed) in [(0, parsed), (0, parse_ip(frame, 0, 1, 2)), (20, parse_ip(frame, 20, 0, 0))] {
        if let Ok(headers) = parsed {
            check(frame, offset, &headers);
        }
    }
    // A frame that was cut is truncated, or has the same headers and at most less payload.
    let shorter = &frame[..frame.len() - frame.len() / 3];
    match (parsed, parse(shorter)) {
        (Ok(whole), Ok(cut)) => {
            let less = Headers { payload_length: cut.payload_length, ..whole };
            assert_eq!(cut, less);
            assert!(cut.payload_length <= whole.payload_length);
        }
        (Ok(_), Err(unparsed)) => assert_eq!(unparsed, Unparsed::Truncated),
        (Err(_), Ok(cut)) => panic!("only the cut frame has headers: {cut:?}"),
        (Err(_), Err(_)) => {}
    }
}

fn check(frame: &[u8], offset: u32, headers: &Headers) {
    assert!(offset <= headers.ip_offset && headers.ip_offset < headers.transport_offset);
    assert!(headers.transport_offset <= headers.payload_offset);
    // One extension header may begin just before the limit.
    assert!(headers.transport_offset <= headers.ip_offset + 40 + MAX_HEADER_BYTES + 2048);
    assert!(headers.payload_offset as usize + headers.payload_length as usize <= frame.len());
    assert!(headers.is_ipv6 == 1 || headers.source[4..] == [0; 12] && headers.destination[4..] == [0; 12]);
    assert!(headers.vlan_outer < 4096 && headers.vlan_inner < 4096);
    match headers.kind {
        PacketKind::Udp => assert_eq!((headers.protocol, headers.payload_offset - headers.transport_offset), (17, 8)),
        PacketKind::Tcp => assert!(headers.protocol == 6 && headers.payload_offset - headers.transport_offset >= 20),
        PacketKind::Fragment | PacketKind::Other => assert_eq!((headers.source_port, headers.destination_port), (0, 0)),
        PacketKind::Tunnel => {}
    }
    media_kind(frame, headers.payload_offset, headers.payload_length);
}
