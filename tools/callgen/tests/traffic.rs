//! The frames against the truth, read back by a reader of the test's own.

use proptest::prelude::*;
use sidetone_callgen::{
    CallShape, Codec, Impairment, Options, OptionsError, Outcome, Ports, Side, Traffic, Truth, g711,
};
use sidetone_model::CaptureTime;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

struct Packet {
    time: CaptureTime,
    source: String,
    destination: String,
    protocol: u8,
    body: Vec<u8>,
}

type Pieces = Vec<(usize, Vec<u8>)>;

#[derive(Default)]
struct Reader {
    /// By addresses and identification: offsets and pieces.
    fragments: BTreeMap<(Vec<u8>, u32), Pieces>,
    fragmented: usize,
}

fn be16(bytes: &[u8], at: usize) -> usize {
    usize::from(u16::from_be_bytes([bytes[at], bytes[at + 1]]))
}

fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn ones_complement(parts: &[&[u8]]) -> u16 {
    let mut sum = 0u64;
    for part in parts {
        for pair in part.chunks(2) {
            sum += u64::from(pair[0]) << 8 | u64::from(pair.get(1).copied().unwrap_or(0));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

impl Reader {
    fn read(&mut self, time: CaptureTime, frame: &[u8], vlans: &[u16]) -> Option<Packet> {
        let mut at = 12;
        for vlan in vlans {
            assert!(matches!(be16(frame, at), 0x8100 | 0x88a8));
            assert_eq!(be16(frame, at + 2), usize::from(*vlan));
            at += 4;
        }
        let ether_type = be16(frame, at);
        let ip = &frame[at + 2..];
        assert!(ip.len() <= 1500);
        let (addresses, protocol, id, offset, more, body) = match ether_type {
            0x0800 => {
                assert_eq!(ones_complement(&[&ip[..20]]), 0xffff, "IPv4 header checksum");
                assert_eq!(be16(ip, 2), ip.len());
                let fragment = be16(ip, 6);
                let (offset, more) = ((fragment & 0x1fff) * 8, fragment & 0x2000 != 0);
                (ip[12..20].to_vec(), ip[9], be16(ip, 4) as u32, offset, more, &ip[20..])
            }
            0x86dd => {
                assert_eq!(be16(ip, 4), ip.len() - 40);
                if ip[6] == 44 {
                    let fragment = be16(ip, 42);
                    (ip[8..40].to_vec(), ip[40], be32(ip, 44), fragment & !7, fragment & 1 != 0, &ip[48..])
                } else {
                    (ip[8..40].to_vec(), ip[6], 0, 0, false, &ip[40..])
                }
            }
            other => panic!("EtherType {other:#x}"),
        };
        let mut body = body.to_vec();
        if more || offset > 0 {
            self.fragmented += 1;
            let pieces = self.fragments.entry((addresses.clone(), id)).or_default();
            pieces.push((offset, body));
            if more {
                return None;
            }
            let pieces = self.fragments.remove(&(addresses.clone(), id)).unwrap();
            body = Vec::new();
            for (offset, piece) in pieces {
                assert_eq!(offset, body.len());
                body.extend(piece);
            }
        }
        let pseudo = [&[0, protocol][..], &(body.len() as u16).to_be_bytes()].concat();
        assert_eq!(ones_complement(&[&addresses, &pseudo, &body]), 0xffff, "transport checksum");
        let half = addresses.len() / 2;
        let text = |octets: &[u8], port: usize| {
            let ip: std::net::IpAddr = match octets.len() {
                4 => <[u8; 4]>::try_from(octets).unwrap().into(),
                _ => <[u8; 16]>::try_from(octets).unwrap().into(),
            };
            std::net::SocketAddr::new(ip, port as u16).to_string()
        };
        Some(Packet {
            time,
            source: text(&addresses[..half], be16(&body, 0)),
            destination: text(&addresses[half..], be16(&body, 2)),
            protocol,
            body,
        })
    }
}

#[derive(Default, Debug)]
struct Seen {
    times: Vec<CaptureTime>,
    sequences: Vec<u16>,
    payloads: Vec<(u32, Vec<u8>, u8)>,
}

#[derive(Default)]
struct Wire {
    streams: BTreeMap<(String, String, String), Seen>,
    messages: Vec<(CaptureTime, String)>,
    fragmented: usize,
}

fn run(options: &Options) -> (Wire, Truth) {
    let mut traffic = Traffic::new(options).unwrap();
    let mut wire = Wire::default();
    let mut reader = Reader::default();
    let mut last = CaptureTime::ZERO;
    let mut tcp: BTreeMap<(String, String), (u32, String)> = BTreeMap::new();
    for frame in traffic.by_ref() {
        assert!(frame.time >= last, "frames come in the order of their times");
        last = frame.time;
        let Some(packet) = reader.read(frame.time, &frame.bytes, &options.vlans) else { continue };
        if packet.protocol == 17 && packet.body[8] >> 6 == 2 && packet.body.len() == 8 + 172 {
            let rtp = &packet.body[8..];
            let key = (packet.source, packet.destination, format!("0x{:08x}", be32(rtp, 8)));
            let seen = wire.streams.entry(key).or_default();
            seen.times.push(packet.time);
            seen.sequences.push(be16(rtp, 2) as u16);
            seen.payloads.push((be32(rtp, 4), rtp[12..].to_vec(), rtp[1] & 0x7f));
        } else if packet.protocol == 17 {
            wire.messages.push((packet.time, String::from_utf8(packet.body[8..].to_vec()).unwrap()));
        } else {
            let (sequence, flags) = (be32(&packet.body, 4), packet.body[13]);
            let payload = std::str::from_utf8(&packet.body[20..]).unwrap();
            let key = (packet.source, packet.destination);
            let stream = tcp.entry(key).or_insert((sequence, String::new()));
            assert_eq!(stream.0, sequence, "no gap in TCP");
            stream.0 = sequence.wrapping_add(payload.len() as u32 + u32::from(flags & 3 != 0));
            stream.1.push_str(payload);
            while let Some(end) = stream.1.find("\r\n\r\n") {
                let length: usize =
                    stream.1.lines().find_map(|line| line.strip_prefix("Content-Length: ")).unwrap().parse().unwrap();
                if stream.1.len() < end + 4 + length {
                    break;
                }
                let rest = stream.1.split_off(end + 4 + length);
                wire.messages.push((packet.time, std::mem::replace(&mut stream.1, rest)));
            }
        }
    }
    assert!(tcp.values().all(|stream| stream.1.is_empty()), "half a message");
    wire.fragmented = reader.fragmented;
    (wire, traffic.into_truth())
}

fn check(options: &Options) -> (Wire, Truth) {
    let (wire, truth) = run(options);
    assert_eq!(truth.calls.len(), options.calls);
    let mut told = BTreeSet::new();
    for (index, call) in truth.calls.iter().enumerate() {
        let messages: Vec<_> = wire.messages.iter().filter(|(_, m)| m.contains(&call.call_id)).collect();
        for (_, message) in &messages {
            let (head, body) = message.split_once("\r\n\r\n").unwrap();
            let length: usize =
                head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).unwrap().parse().unwrap();
            assert_eq!(length, body.len());
        }
        let at = |first: &str, cseq: &str| {
            let found = messages.iter().find(|(_, m)| m.starts_with(first) && m.contains(cseq));
            found.map(|(time, _)| *time)
        };
        let close = |one: CaptureTime, other: CaptureTime| one.signed_nanos_since(other).abs() < 2_000_000;
        assert!(close(at("INVITE ", " INVITE\r\n").unwrap(), call.started_at));
        if let Some(answered) = call.answered_at {
            assert!(close(at("SIP/2.0 200", " INVITE\r\n").unwrap(), answered));
        }
        if let (Some(ended), Outcome::Answered) = (call.ended_at, call.shape.outcome) {
            assert!(close(at("BYE ", " BYE\r\n").unwrap(), ended));
            let last = call.streams.iter().map(|stream| stream.last_packet_at).max().unwrap();
            assert!(last <= ended.saturating_add(Duration::from_millis(40)), "{last:?} {ended:?}");
        }
        for stream in &call.streams {
            let key = (stream.source.clone(), stream.destination.clone(), stream.ssrc.clone());
            let seen = &wire.streams[&key];
            assert!(told.insert(key), "two streams of one name");
            assert_eq!(seen.times.len() as u64, stream.packets);
            assert_eq!(seen.times.iter().min(), Some(&stream.first_packet_at));
            let unique: BTreeSet<u16> = seen.sequences.iter().copied().collect();
            assert_eq!(seen.sequences.len() - unique.len(), stream.duplicates as usize);
            let first = seen.sequences[0];
            let span = unique.iter().map(|s| s.wrapping_sub(first)).max().unwrap();
            assert_eq!(u64::from(span) + 1 - unique.len() as u64, stream.lost);
            let mut newest = 0;
            let mut late = BTreeSet::new();
            for sequence in &seen.sequences {
                let position = sequence.wrapping_sub(first);
                if position < newest {
                    late.insert(position);
                }
                newest = newest.max(position);
            }
            assert!(late.len() as u64 >= stream.reordered);
            check_speech(options, index, stream, seen);
        }
    }
    assert_eq!(told.len(), wire.streams.len(), "streams that the truth does not tell of");
    (wire, truth)
}

/// Every payload is the reference at the place that its timestamp says.
fn check_speech(options: &Options, call: usize, stream: &sidetone_callgen::StreamTruth, seen: &Seen) {
    let reference = Traffic::reference(options, call, stream.side);
    let zero = seen.payloads[0].0.wrapping_sub(stream.first_sample as u32);
    for (timestamp, payload, payload_type) in &seen.payloads {
        let from = timestamp.wrapping_sub(zero) as usize;
        assert!(from as u64 + 160 <= stream.end_sample);
        assert_eq!(*payload_type, stream.codec.payload_type());
        let encoded: Vec<u8> = reference[from..from + 160]
            .iter()
            .map(|sample| match stream.codec {
                Codec::Pcma => g711::encode_alaw(*sample),
                Codec::Pcmu => g711::encode_mulaw(*sample),
            })
            .collect();
        assert_eq!(&encoded, payload);
    }
}

fn options() -> Options {
    Options { talk: Duration::from_secs(4), ramp: Duration::from_secs(2), ..Options::default() }
}

#[test]
fn the_truth_of_every_kind_of_call_is_on_the_wire() {
    for (ipv6, vlans) in [(false, vec![]), (true, vec![7]), (false, vec![100, 20])] {
        let shapes = CallShape::variety();
        let (wire, truth) = check(&Options { calls: shapes.len(), shapes, ipv6, vlans, ..options() });
        assert!(wire.fragmented >= 3, "a large INVITE over UDP is fragmented");
        assert_eq!(truth.calls.iter().filter(|call| call.is_recordable).count(), 13);
        let changed = truth.calls.iter().filter(|call| call.shape.change.is_some());
        assert!(changed.clone().count() == 2 && changed.clone().all(|call| call.streams.len() == 4));
        let early = truth.calls.iter().find(|call| call.shape.media_first).unwrap();
        assert!(early.streams.iter().all(|s| s.first_packet_at < early.started_at));
        let running = truth.calls.iter().find(|call| call.shape.in_progress).unwrap();
        assert!(
            running.answered_at.is_none() && running.streams.iter().all(|s| s.first_packet_at < running.started_at)
        );
    }
}

#[test]
fn calls_on_one_port_differ_in_their_ssrc_alone() {
    let (_, truth) = check(&Options { calls: 50, ports: Ports::One, ..options() });
    let streams: Vec<_> = truth.calls.iter().flat_map(|call| &call.streams).collect();
    let paths: BTreeSet<_> = streams.iter().map(|s| (&s.source, &s.destination)).collect();
    let ssrcs: BTreeSet<_> = streams.iter().map(|s| &s.ssrc).collect();
    assert_eq!((streams.len(), paths.len(), ssrcs.len()), (100, 2, 50));
}

#[test]
fn the_clocks_drift_as_told() {
    let options = Options { clock_drift_ppm: 500.0, talk: Duration::from_secs(100), ..options() };
    let (_, truth) = check(&options);
    for stream in &truth.calls[0].streams {
        let spoken = (stream.end_sample - stream.first_sample - 160) as f64 / 8000.0;
        let passed = stream.last_packet_at.since(stream.first_packet_at).as_secs_f64();
        let ppm = (spoken / passed - 1.0) * 1e6;
        let expected = if stream.side == Side::Caller { 500.0 } else { -500.0 };
        assert!((ppm - expected).abs() < 1.0, "{ppm} instead of {expected}");
        assert_eq!(stream.clock_ppm, expected);
    }
}

#[test]
fn the_same_options_write_the_same_bytes() {
    let shapes = CallShape::variety();
    let options = Options { calls: 15, shapes, ..options() };
    let frames = |options: &Options| Traffic::new(options).unwrap().collect::<Vec<_>>();
    assert_eq!(frames(&options), frames(&options));
    assert_ne!(frames(&options), frames(&Options { seed: 2, ..options.clone() }));
}

#[test]
fn options_that_make_no_sense_are_refused() {
    let bad = |options: Options| Traffic::new(&options).err();
    assert_eq!(bad(Options { shapes: vec![], ..options() }), Some(OptionsError::NoShape));
    assert_eq!(bad(Options { vlans: vec![0], ..options() }), Some(OptionsError::BadVlan));
    let impairment = Impairment { loss: 1.5, ..Impairment::default() };
    assert_eq!(bad(Options { impairment, ..options() }), Some(OptionsError::NotAShare { name: "loss", value: 1.5 }));
    assert!(bad(Options { clock_drift_ppm: f64::NAN, ..options() }).is_some());
}

#[test]
fn a_capture_file_holds_all_frames() {
    let mut traffic = Traffic::new(&options()).unwrap();
    let mut file = Vec::new();
    let count = sidetone_callgen::write_pcap(&mut file, traffic.by_ref()).unwrap();
    assert_eq!(count, traffic.truth().frames);
    assert_eq!(&file[..4], &0xa1b2_3c4du32.to_le_bytes());
    let (mut at, mut frames) = (24, 0);
    while at < file.len() {
        at += 16 + u32::from_le_bytes(file[at + 8..at + 12].try_into().unwrap()) as usize;
        frames += 1;
    }
    assert_eq!((at, frames), (file.len(), count));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn the_truth_holds_under_any_impairment(
        seed in any::<u64>(),
        loss in 0.0..0.5f64,
        duplicates in 0.0..0.3f64,
        reordering in 0.0..0.3f64,
        jitter_ms in 0.0..9.0f64,
        first_shape in 0..15usize,
    ) {
        let mut shapes = CallShape::variety();
        shapes.rotate_left(first_shape);
        let impairment = Impairment { loss, duplicates, reordering, jitter_ms };
        check(&Options { seed, calls: 3, shapes, impairment, ..options() });
    }
}
