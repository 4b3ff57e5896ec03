//! What must hold for any sequence of frames in classification and both reassemblers. Used by the fuzz target, and by
//! the test that replays its corpus (dataplane/wire/tests/fuzz_corpora.rs).
//!
//! The input is a list of frames: a control byte, a length byte, so many bytes. The control byte chooses the link layer
//! (low 3 bits) and how much time has passed (high 5 bits, in steps of 300 ms squared).

use sidetone_model::CaptureTime;
use sidetone_wire::{
    Kind, Link, Packet, Reassembler, ReassemblerLimits, TcpEvent, TcpLimits, TcpReassembler, classify,
};
use std::collections::HashMap;
use std::time::Duration;

const FRAGMENT_LIMITS: ReassemblerLimits =
    ReassemblerLimits { bytes_max: 4096, datagrams_max: 6, timeout: Duration::from_secs(30) };
const TCP_LIMITS: TcpLimits = TcpLimits {
    streams_max: 6,
    held_bytes_per_stream_max: 700,
    held_bytes_max: 2000,
    gap_timeout: Duration::from_secs(2),
    idle_timeout: Duration::from_secs(600),
};

struct Bench {
    fragments: Reassembler,
    tcp: TcpReassembler,
    /// Time of the last event of every stream that has not ended.
    streams: HashMap<u64, CaptureTime>,
    ended: u64,
    bytes: u64,
}

pub(crate) fn wire(mut data: &[u8]) {
    let mut bench = Bench {
        fragments: Reassembler::new(FRAGMENT_LIMITS),
        tcp: TcpReassembler::new(TCP_LIMITS),
        streams: HashMap::new(),
        ended: 0,
        bytes: 0,
    };
    let mut now = CaptureTime(1_700_000_000_000_000_000);
    while let [control, length, rest @ ..] = data {
        let (frame, rest) = rest.split_at(rest.len().min(usize::from(*length)));
        data = rest;
        let steps = u64::from(control >> 3);
        now = now.saturating_add(Duration::from_millis(300 * steps * steps));
        let link = match control & 7 {
            0 | 1 => Link::Ethernet,
            2 => Link::LinuxCooked,
            3 => Link::LinuxCooked2,
            4 => Link::Null,
            _ => Link::RawIp,
        };
        if let Ok(packet) = classify(link, frame) {
            bench.on_packet(now, &packet);
        }
        bench.check();
    }
    let Bench { tcp, streams, ended, bytes, .. } = &mut bench;
    tcp.finish(now, &mut |event| on_event(streams, ended, bytes, event));
    bench.check();
    assert!(bench.streams.is_empty(), "every stream ends");
    assert_eq!(bench.tcp.statistics().held_segments, 0);
    assert_eq!(bench.ended, bench.tcp.statistics().streams);
}

impl Bench {
    fn on_packet(&mut self, now: CaptureTime, packet: &Packet<'_>) {
        match packet.kind {
            Kind::Fragment => {
                let mut whole = Vec::new();
                self.fragments.push(now, packet.domain, packet.payload, &mut |datagram| {
                    assert!(whole.is_empty(), "one fragment completes one datagram at most");
                    assert!(datagram.fragments >= 1);
                    whole = datagram.packet.to_vec();
                });
                if whole.is_empty() {
                    return;
                }
                // Whole is whole: never a fragment again, or a nested one would loop.
                let parsed = classify(Link::RawIp, &whole);
                assert!(whole[0] >> 4 == 6 || !matches!(parsed, Ok(Packet { kind: Kind::Fragment, .. })));
                if let Ok(packet @ Packet { kind: Kind::Tcp, .. }) = parsed {
                    self.on_packet(now, &packet);
                }
            }
            Kind::Tcp => {
                let Self { tcp, streams, ended, bytes, .. } = self;
                tcp.push(now, packet, &mut |event| on_event(streams, ended, bytes, event));
            }
            Kind::Udp(_) | Kind::Tunnel | Kind::Other => {}
        }
    }

    fn check(&self) {
        let fragments = self.fragments.statistics();
        assert_eq!(fragments.fragments, fragments.delivered_fragments + fragments.dropped() + fragments.held_fragments);
        assert!(fragments.held_bytes <= FRAGMENT_LIMITS.bytes_max as u64);
        let tcp = self.tcp.statistics();
        assert_eq!(tcp.segments, tcp.delivered + tcp.control + tcp.dropped() + tcp.held_segments);
        assert_eq!(tcp.delivered_bytes, self.bytes);
        assert!(tcp.held_bytes <= TCP_LIMITS.held_bytes_max as u64);
        assert!(tcp.open_streams <= TCP_LIMITS.streams_max as u64);
    }
}

fn on_event(streams: &mut HashMap<u64, CaptureTime>, ended: &mut u64, bytes: &mut u64, event: TcpEvent<'_>) {
    let (stream, time) = match event {
        TcpEvent::Bytes { stream, time, bytes: new, .. } => {
            assert!(!new.is_empty());
            *bytes += new.len() as u64;
            (stream.0, time)
        }
        TcpEvent::Gap { stream, time, missing_bytes } => {
            assert_ne!(missing_bytes, Some(0));
            (stream.0, time)
        }
        TcpEvent::End { stream, time, .. } => {
            *ended += 1;
            assert!(streams.remove(&stream.0).is_none_or(|last| last <= time), "time goes back");
            return;
        }
    };
    let last = streams.insert(stream, time);
    assert!(last.is_none_or(|last| last <= time), "time goes back");
}
