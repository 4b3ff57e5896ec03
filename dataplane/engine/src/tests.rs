//! The threads' state machines against each other, without threads: frames made by hand, every end counted.

use crate::config::EngineConfig;
use crate::counters::{DropReason, EncoderCounters, Kept, PacketEnd, ReceiveCounters};
use crate::encode::{ChunkLink, Encoder, EncoderRings};
use crate::message::{FinishTracks, FlowCommand, FlowNotice, OpenStream};
use crate::receive::{EncoderLink, Receiver, ReceiverRings};
use crate::ring::{MessageConsumer, message_ring};
use rtrb::RingBuffer;
use sidetone_calls::{StreamFormat, StreamSighting, TrackReport};
use sidetone_capture::{Frame, LinkLayer};
use sidetone_log::ChunkHeader;
use sidetone_media::TrackConfig;
use sidetone_model::{CaptureTime, RecordingId, TrackId};
use sidetone_signalling::event::PayloadFormat;
use std::sync::Arc;
use std::time::Duration;

/// Counts and forbids allocations where a test says so.
#[global_allocator]
static ALLOCATOR: assert_no_alloc::AllocDisabler = assert_no_alloc::AllocDisabler;

/// One receive thread and one encoder thread with the far ends of all their rings.
struct Bench {
    receiver: Receiver,
    encoder: Encoder,
    receive: Arc<ReceiveCounters>,
    encode: Arc<EncoderCounters>,
    frames: MessageConsumer,
    notices: rtrb::Consumer<FlowNotice>,
    commands: rtrb::Producer<FlowCommand>,
    finish: rtrb::Producer<FinishTracks>,
    reports: rtrb::Consumer<TrackReport>,
    chunks: (MessageConsumer, rtrb::Consumer<ChunkHeader>),
    scratch: Vec<u8>,
}

impl Bench {
    fn new(config: &EngineConfig, report_slots: usize) -> Self {
        let (receive, encode): (Arc<ReceiveCounters>, Arc<EncoderCounters>) = Default::default();
        let (to_call, frames) = message_ring(64 * 1024);
        let (notices_in, notices) = RingBuffer::new(1024);
        let (commands, commands_out) = RingBuffer::new(1024);
        let (messages, messages_out) = message_ring(config.media_ring_kib as usize * 1024);
        let (opened, opened_out) = RingBuffer::new(1024);
        let (finish, finish_out) = RingBuffer::new(16);
        let (reports_in, reports) = RingBuffer::new(report_slots);
        let (payloads, payloads_out) = message_ring(config.chunk_ring_kib as usize * 1024);
        let (headers, headers_out) = RingBuffer::new(1024);
        let rings = ReceiverRings {
            to_call,
            notices: notices_in,
            commands: commands_out,
            encoders: vec![EncoderLink { messages, opened }],
        };
        let receiver = Receiver::new(0, config, &[5060], rings, receive.clone());
        let rings = EncoderRings {
            receivers: vec![(messages_out, opened_out)],
            finish: finish_out,
            reports: reports_in,
            chunks: ChunkLink::new(payloads, headers, encode.clone()),
        };
        let encoder = Encoder::new(rings, TrackConfig::default(), encode.clone());
        let chunks = (payloads_out, headers_out);
        let scratch = Vec::with_capacity(64 * 1024);
        Self { receiver, encoder, receive, encode, frames, notices, commands, finish, reports, chunks, scratch }
    }

    fn frame(&mut self, at: CaptureTime, bytes: &[u8]) {
        let original_length = bytes.len() as u32;
        self.receiver.on_frame(&Frame { arrived_at: at, bytes, original_length, link: LinkLayer::Ethernet });
        assert_eq!(self.receive.unaccounted(), 0, "every frame has exactly one end");
    }

    fn sighting(&mut self) -> StreamSighting {
        match self.notices.pop() {
            Ok(FlowNotice::Sighting(sighting)) => sighting,
            other => panic!("a sighting was expected, not {other:?}"),
        }
    }

    fn record(&mut self, sighting: &StreamSighting, stream: u32) {
        let format = PayloadFormat {
            payload_type: 8,
            encoding: "PCMA".into(),
            clock_rate: 8000,
            channels: 1,
            parameters: "".into(),
        };
        let open = OpenStream {
            stream,
            key: sighting.key,
            recording: recording(),
            track: TrackId(stream as u8),
            format: StreamFormat { formats: [format].into(), encrypted: false },
        };
        self.commands.push(FlowCommand::Record { flow: sighting.flow, encoder: 0, open }).unwrap();
        self.receiver.apply_commands();
    }

    /// Empties the writer's ring; returns chunks and the packets that they hold.
    fn take_chunks(&mut self) -> (u64, u64) {
        let (mut chunks, mut packets) = (0, 0);
        while let Ok(header) = self.chunks.1.pop() {
            self.chunks.0.pop(&mut self.scratch).expect("a payload comes with its header");
            chunks += 1;
            packets += u64::from(header.packets);
        }
        (chunks, packets)
    }

    /// Packets on tracks by what became of them; equal to those that ended on a track once nothing waits.
    fn accounted(&self) -> u64 {
        let ended: u64 = PacketEnd::ALL.iter().map(|end| self.encode.ended(*end)).sum();
        ended + self.encode.waiting.get() + self.receive.lost_to_encoder.get()
    }
}

const START: CaptureTime = CaptureTime(1_700_000_000_000_000_000);

fn at(milliseconds: u64) -> CaptureTime {
    START.saturating_add(Duration::from_millis(milliseconds))
}

/// Ethernet, IPv4, UDP and this payload.
fn udp(source_port: u16, destination_port: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0, 0x45, 0];
    frame.extend_from_slice(&(28 + payload.len() as u16).to_be_bytes());
    frame.extend_from_slice(&[0, 0, 0, 0, 64, 17, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2]);
    frame.extend_from_slice(&source_port.to_be_bytes());
    frame.extend_from_slice(&destination_port.to_be_bytes());
    frame.extend_from_slice(&(8 + payload.len() as u16).to_be_bytes());
    frame.extend_from_slice(&[0, 0]);
    frame.extend_from_slice(payload);
    frame
}

/// 20 ms of A-law.
fn rtp(ssrc: u32, sequence: u16) -> Vec<u8> {
    let mut packet = vec![0x80, 8];
    packet.extend_from_slice(&sequence.to_be_bytes());
    packet.extend_from_slice(&(u32::from(sequence) * 160).to_be_bytes());
    packet.extend_from_slice(&ssrc.to_be_bytes());
    packet.extend((0..160u32).map(|i| 0x55 ^ (((i + u32::from(sequence)) * 7) as u8 & 0x3f)));
    packet
}

#[test]
fn media_waits_for_its_call_and_loses_nothing() {
    let mut bench = Bench::new(&EngineConfig::default(), 64);
    for sequence in 0..100u16 {
        bench.frame(at(u64::from(sequence) * 20), &udp(4000, 5000, &rtp(1, sequence)));
    }
    assert_eq!(bench.receive.held.get(), 100);
    let sighting = bench.sighting();
    assert_eq!(sighting.first_packet_at, at(0));
    bench.record(&sighting, 7);
    for sequence in 100..200u16 {
        bench.frame(at(u64::from(sequence) * 20), &udp(4000, 5000, &rtp(1, sequence)));
    }
    assert_eq!((bench.receive.kept(Kept::Track), bench.receive.held.get()), (200, 0));
    bench
        .finish
        .push(FinishTracks { recording: recording(), tracks: vec![TrackId(7)], at: at(4000), issued_at: at(4000) })
        .unwrap();
    bench.receiver.on_tick(at(4100));
    while bench.encoder.step() {}
    assert_eq!(bench.encode.tracks.get(), 1, "another queue may still hold packets of before the end");
    bench.receiver.on_tick(at(4400));
    while bench.encoder.step() {}
    let report =
        std::iter::from_fn(|| bench.reports.pop().ok()).find(|report| report.is_final).expect("a final report");
    assert_eq!(report.measured.streams[0].packets, 200);
    assert_eq!(report.measured.losses, Default::default());
    let (_, packets) = bench.take_chunks();
    assert_eq!((packets, bench.encode.ended(PacketEnd::Encoded)), (200, 200));
    assert_eq!(bench.accounted(), 200);
}

fn recording() -> RecordingId {
    RecordingId(Default::default())
}

#[test]
fn unclaimed_media_leaves_the_pre_roll_and_is_counted() {
    let mut bench = Bench::new(&EngineConfig { pre_roll_seconds: 1, ..Default::default() }, 4);
    for sequence in 0..500u16 {
        bench.frame(at(u64::from(sequence) * 20), &udp(4000, 5000, &rtp(1, sequence)));
    }
    let held = bench.receive.held.get();
    assert!((50..=51).contains(&held), "one second is held, not {held} packets");
    assert_eq!(bench.receive.dropped(DropReason::Unclaimed), 500 - held);
    let sighting = bench.sighting();
    bench.commands.push(FlowCommand::Discard { flow: sighting.flow }).unwrap();
    bench.receiver.apply_commands();
    bench.frame(at(10_000), &udp(4000, 5000, &rtp(1, 500)));
    assert_eq!((bench.receive.dropped(DropReason::Unclaimed), bench.receive.dropped(DropReason::Discarded)), (500, 1));
    // Silent for long: forgotten, and the call thread hears of it.
    for second in 11..90 {
        bench.receiver.on_tick(at(second * 1000));
        for _ in 0..200 {
            bench.receiver.on_tick(at(second * 1000 + 20));
            bench.receiver.on_tick(at(second * 1000 + 45));
        }
    }
    assert!(matches!(bench.notices.pop(), Ok(FlowNotice::Gone(gone)) if gone.packets == 501));
    assert_eq!(bench.receive.unaccounted(), 0);
}

#[test]
fn what_the_encoder_has_no_room_for_is_its_tracks_loss() {
    let mut bench = Bench::new(&EngineConfig { media_ring_kib: 16, ..Default::default() }, 64);
    for sequence in 0..2u16 {
        bench.frame(at(u64::from(sequence) * 20), &udp(4000, 5000, &rtp(1, sequence)));
    }
    let sighting = bench.sighting();
    bench.record(&sighting, 7);
    for sequence in 2..300u16 {
        bench.frame(at(u64::from(sequence) * 20), &udp(4000, 5000, &rtp(1, sequence)));
    }
    let lost = bench.receive.lost_to_encoder.get();
    assert!(lost > 200, "a ring of 16 KiB cannot hold 300 packets");
    assert_eq!(bench.receive.kept(Kept::Track), 300);
    while bench.encoder.step() {}
    for sequence in 300..310u16 {
        bench.frame(at(u64::from(sequence) * 20), &udp(4000, 5000, &rtp(1, sequence)));
    }
    bench
        .finish
        .push(FinishTracks { recording: recording(), tracks: vec![TrackId(7)], at: at(7000), issued_at: at(7000) })
        .unwrap();
    bench.receiver.on_tick(at(8000));
    while bench.encoder.step() {}
    let report =
        std::iter::from_fn(|| bench.reports.pop().ok()).find(|report| report.is_final).expect("a final report");
    assert_eq!(report.measured.losses.encoder, lost, "attributed to the track that lost");
    assert_eq!(report.measured.losses.network, 0, "and not to the network");
    bench.take_chunks();
    assert_eq!(bench.accounted(), 310);
}

#[test]
fn signalling_is_recognised_by_port_and_by_content() {
    let mut bench = Bench::new(&EngineConfig::default(), 4);
    let options = b"OPTIONS sip:a@b SIP/2.0\r\n\r\n";
    bench.frame(at(0), &udp(5060, 9999, b"\r\n\r\n"));
    bench.frame(at(0), &udp(7000, 7001, options));
    bench.frame(at(0), &udp(53, 7001, b"\x12\x34\x01\x00\x00\x01domain"));
    assert_eq!(bench.receive.kept(Kept::Signalling), 2);
    assert_eq!(bench.receive.dropped(DropReason::NotVoice), 1);
    let header = bench.frames.pop(&mut bench.scratch).unwrap();
    assert_eq!((header.time, bench.scratch.len()), (at(0), 42 + 4));
}

#[test]
fn a_track_that_falls_silent_says_so_and_finishes_after_what_was_decided_before() {
    let mut bench = Bench::new(&EngineConfig::default(), 64);
    for sequence in 0..50u16 {
        bench.frame(at(u64::from(sequence) * 20), &udp(4000, 5000, &rtp(1, sequence)));
    }
    let sighting = bench.sighting();
    bench.record(&sighting, 7);
    for tick in 1..=200 {
        bench.receiver.on_tick(at(1000 + tick * 50));
        bench.encoder.step();
    }
    let silent = std::iter::from_fn(|| bench.reports.pop().ok()).filter(|report| report.last_packet_at == at(980));
    assert!(silent.count() >= 2, "the tracker hears that nothing comes any more");
    // Decided at 13 s that the call was over at 1 s: what was decided between is on its way.
    let finish = FinishTracks { recording: recording(), tracks: vec![TrackId(7)], at: at(1000), issued_at: at(13_000) };
    bench.finish.push(finish).unwrap();
    bench.receiver.on_tick(at(12_900));
    bench.encoder.step();
    assert_eq!(bench.encode.tracks.get(), 1);
    bench.receiver.on_tick(at(13_300));
    bench.encoder.step();
    assert_eq!(bench.encode.tracks.get(), 0);
    // A command that was still under way does not begin the track anew.
    bench.record(&sighting, 7);
    bench.encoder.step();
    assert_eq!(bench.encode.tracks.get(), 0);
}

/// The promise of the packet path: once a stream exists, no packet of it allocates, from the frame to the chunk's ring.
#[test]
fn a_hundred_thousand_packets_allocate_nothing() {
    const STREAMS: u32 = 10;
    // No room for reports: what a track tells of itself every other second is not part of the packet path.
    let mut bench = Bench::new(&EngineConfig::default(), 0);
    let mut frames: Vec<Vec<u8>> = (0..STREAMS).map(|ssrc| udp(4000, 5000, &rtp(ssrc, 0))).collect();
    let mut send = |bench: &mut Bench, sequence: u16| {
        let time = at(u64::from(sequence) * 20);
        for frame in &mut frames {
            frame[44..46].copy_from_slice(&sequence.to_be_bytes());
            frame[46..50].copy_from_slice(&(u32::from(sequence) * 160).to_be_bytes());
            bench.frame(time, frame);
        }
        bench.receiver.apply_commands();
        bench.receiver.on_tick(time);
        bench.encoder.step();
        bench.take_chunks();
    };
    for sequence in 0..10 {
        send(&mut bench, sequence);
    }
    for stream in 0..STREAMS {
        let sighting = bench.sighting();
        bench.record(&sighting, stream);
    }
    for sequence in 10..500 {
        send(&mut bench, sequence);
    }
    let encoded = bench.encode.ended(PacketEnd::Encoded);
    assert_no_alloc::assert_no_alloc(|| {
        for sequence in 500..10_500 {
            send(&mut bench, sequence);
        }
    });
    assert_eq!(assert_no_alloc::violation_count(), 0, "allocations on the packet path");
    assert!(bench.encode.ended(PacketEnd::Encoded) - encoded > 99_000, "and the packets were really encoded");
    bench.receiver.on_tick(at(10_500 * 20));
    bench.encoder.step();
    assert_eq!(bench.accounted(), u64::from(STREAMS) * 10_500);
}
