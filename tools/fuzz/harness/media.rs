//! What must hold for any packets at any times in a track. Used by the fuzz target, and by the test that replays its corpus
//! (dataplane/media/tests/fuzz_corpora.rs).

use sidetone_calls::StreamFormat;
use sidetone_log::{ChunkHeader, TICKS_PER_CHUNK_MAX, chunk_packets};
use sidetone_media::{ChunkSink, StreamSlot, Track, TrackConfig, rtp};
use sidetone_model::{CaptureTime, Domain, RecordingId, StreamKey, TrackId};
use sidetone_signalling::event::PayloadFormat;

/// Steps of one input; more than a few seconds of a call.
const STEPS_MAX: usize = 400;
/// How long after the step before.
const WAITS_MS: [u64; 8] = [20, 0, 5, 60, 200, 900, 30_000, 315_000_000_000];
const PAYLOAD_TYPES: [u8; 8] = [8, 8, 8, 0, 101, 13, 18, 99];

/// A story of up to four streams. The first byte of each step says in bits 0 and 1 which stream, in bits 2 to 4 what happens, in
/// bits 5 to 7 how long after the step before; what follows depends on what happens.
pub(crate) fn rtp(data: &[u8]) {
    check_parser(data);
    let mut bytes = data.iter().copied();
    let config = TrackConfig { complexity: 0, ..TrackConfig::default() };
    let recording = RecordingId(Default::default());
    let mut track = Track::new(recording, TrackId(1), &config).expect("the default configuration makes a track");
    let mut writer = Writer::default();
    let mut now = CaptureTime(1_700_000_000_000_000_000);
    let mut lines = [Line::default(); 4];
    let mut packets = 0;
    for _ in 0..STEPS_MAX {
        let Some(step) = bytes.next() else { break };
        let stream = step & 3;
        let line = &mut lines[usize::from(stream)];
        now = CaptureTime(now.0.saturating_add(WAITS_MS[usize::from(step >> 5)] * 1_000_000));
        let slot = open(&mut track, stream, 0);
        match step >> 2 & 7 {
            // The next packet of the stream: 20 ms, another length, another payload type.
            kind @ 0..=3 => {
                let length = if kind == 1 { usize::from(bytes.next().unwrap_or(0)) * 9 } else { 160 };
                let payload_type =
                    if kind == 2 { PAYLOAD_TYPES[usize::from(bytes.next().unwrap_or(0) & 7)] } else { 8 };
                line.sequence = line.sequence.wrapping_add(if kind == 3 { 2 } else { 1 });
                line.timestamp = line.timestamp.wrapping_add(if kind == 3 { 320 } else { 160 });
                packets += 1;
                track.on_packet(slot, now, &line.packet(payload_type, length), &mut writer);
            }
            // Another place in the stream.
            4 => {
                let mut next = || bytes.next().unwrap_or(0);
                line.sequence = line.sequence.wrapping_add(u16::from_be_bytes([next(), next()]));
                line.timestamp = line.timestamp.wrapping_add(u32::from_be_bytes([next(), next(), next(), next()]));
            }
            // Any datagram.
            5 => {
                let length = usize::from(bytes.next().unwrap_or(0));
                let datagram: Vec<u8> = bytes.by_ref().take(length).collect();
                packets += u64::from(rtp::parse_fixed(&datagram).is_ok());
                track.on_packet(slot, now, &datagram, &mut writer);
            }
            6 => match bytes.next().unwrap_or(0) {
                0..=99 => track.on_tick(now, &mut writer),
                lost @ 100..=149 => {
                    packets += u64::from(lost - 100);
                    track.on_lost_before(slot, u32::from(lost - 100));
                }
                which @ 150..=199 => {
                    open(&mut track, stream, which - 149);
                }
                200..=219 => track.finish(now, &mut writer),
                back => now = CaptureTime(now.0.saturating_sub(u64::from(back - 219) * 3_000_000_000)),
            },
            _ => writer.refuses = !writer.refuses,
        }
        let accounting = track.accounting();
        assert!(accounting.is_balanced(), "{accounting:?}");
        assert_eq!(accounting.packets, packets);
        assert_eq!((accounting.encoded, accounting.lost_to_writer), (writer.taken, writer.refused));
    }
    track.finish(now, &mut writer);
    let accounting = track.accounting();
    assert!(accounting.is_balanced() && accounting.pending == 0, "{accounting:?}");
    let measured = track.measured();
    assert_eq!(measured.first_audio_at.is_some(), accounting.placed > 0);
    assert!(measured.first_audio_at <= measured.audio_until);
    assert!(accounting.ticks_encoded <= 20 * STEPS_MAX as u64, "work is bounded by packets, not by time");
}

fn check_parser(data: &[u8]) {
    if let Ok((header, payload)) = rtp::parse(data) {
        assert!(payload.len() + rtp::FIXED_HEADER_BYTES <= data.len());
        assert_eq!(rtp::parse_fixed(data), Ok(header));
        let with_padding = rtp::parse_keeping_padding(data).expect("what parses also parses without a look at its end");
        assert!(with_padding.1.starts_with(payload));
    }
}

fn open(track: &mut Track, stream: u8, variant: u8) -> StreamSlot {
    let key = StreamKey {
        domain: Domain::default(),
        source: "192.0.2.1:4000".parse().expect("an address"),
        destination: "192.0.2.2:5000".parse().expect("an address"),
        ssrc: u32::from(stream),
    };
    let format = |payload_type, encoding: &str| PayloadFormat {
        payload_type,
        encoding: encoding.into(),
        clock_rate: 8000,
        channels: 1,
        parameters: "".into(),
    };
    let formats = match variant % 3 {
        0 => vec![format(8, "PCMA"), format(101, "telephone-event")],
        1 => vec![format(8, "PCMU")],
        _ => vec![format(8, "G729"), format(99, "PCMA")],
    };
    track.open_stream(&key, &StreamFormat { formats: formats.into(), encrypted: variant > 45 })
}

#[derive(Clone, Copy, Default)]
struct Line {
    sequence: u16,
    timestamp: u32,
}

impl Line {
    fn packet(&self, payload_type: u8, length: usize) -> Vec<u8> {
        let mut bytes = vec![0x80, payload_type];
        bytes.extend_from_slice(&self.sequence.to_be_bytes());
        bytes.extend_from_slice(&self.timestamp.to_be_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend((0..length).map(|i| (i * 7) as u8));
        bytes
    }
}

#[derive(Default)]
struct Writer {
    refuses: bool,
    taken: u64,
    refused: u64,
}

impl ChunkSink for Writer {
    fn chunk(&mut self, header: &ChunkHeader, payload: &[u8]) -> bool {
        let lengths: Vec<usize> = chunk_packets(payload).map(<[u8]>::len).collect();
        assert!((1..=TICKS_PER_CHUNK_MAX).contains(&header.ticks));
        assert_eq!(lengths.len(), usize::from(header.ticks));
        assert!(lengths[0] > 0 && lengths[lengths.len() - 1] > 0);
        assert_eq!(lengths.iter().sum::<usize>() + 2 * lengths.len(), payload.len());
        let count = if self.refuses { &mut self.refused } else { &mut self.taken };
        *count += u64::from(header.packets);
        !self.refuses
    }
}
