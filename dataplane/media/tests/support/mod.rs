//! Phones that send, a writer that collects, a player that decodes.
#![allow(dead_code, unreachable_pub, reason = "a module of several test binaries, each of which uses a part of it")]

use opus::{Channels, Decoder};
use sidetone_calls::StreamFormat;
use sidetone_log::{ChunkHeader, TICKS_PER_CHUNK_MAX, chunk_packets};
use sidetone_media::g711::Law;
use sidetone_media::{ChunkSink, StreamSlot, Track, TrackConfig};
use sidetone_model::{CaptureTime, Domain, RecordingId, StreamKey, TrackId};
use sidetone_signalling::event::PayloadFormat;
use std::sync::OnceLock;

/// A whole number of grid steps, and of samples.
pub const EPOCH_NS: u64 = 1_700_000_000_000_000_000;
pub const SAMPLE_NS: u64 = 125_000;
/// Opus look-ahead at 8 kHz: what a player skips.
pub const PRE_SKIP: usize = 52;

pub fn at_ms(ms: f64) -> CaptureTime {
    CaptureTime(EPOCH_NS + (ms * 1e6) as u64)
}

pub fn new_track(config: &TrackConfig) -> Track {
    Track::new(RecordingId(uuid::Uuid::from_u128(7)), TrackId(0), config).expect("a track")
}

pub fn stream_key(ssrc: u32) -> StreamKey {
    StreamKey {
        domain: Domain::default(),
        source: "192.0.2.1:4000".parse().unwrap(),
        destination: "192.0.2.2:5000".parse().unwrap(),
        ssrc,
    }
}

pub fn format_of(formats: &[(u8, &str)], encrypted: bool) -> StreamFormat {
    let formats = formats
        .iter()
        .map(|&(payload_type, encoding)| PayloadFormat {
            payload_type,
            encoding: encoding.into(),
            clock_rate: 8000,
            channels: 1,
            parameters: "".into(),
        })
        .collect();
    StreamFormat { formats, encrypted }
}

pub fn telephone() -> StreamFormat {
    format_of(&[(8, "PCMA"), (0, "PCMU"), (13, "CN"), (18, "G729"), (101, "telephone-event")], false)
}

pub fn open(track: &mut Track, ssrc: u32) -> StreamSlot {
    track.open_stream(&stream_key(ssrc), &telephone())
}

/// One RTP packet to be.
#[derive(Clone, Debug)]
pub struct Rtp {
    pub payload_type: u8,
    pub marker: bool,
    pub sequence: u16,
    pub timestamp: u32,
    pub payload: Vec<u8>,
}

impl Rtp {
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0x80, self.payload_type | u8::from(self.marker) << 7];
        bytes.extend_from_slice(&self.sequence.to_be_bytes());
        bytes.extend_from_slice(&self.timestamp.to_be_bytes());
        bytes.extend_from_slice(&7u32.to_be_bytes());
        bytes.extend_from_slice(&self.payload);
        bytes
    }
}

/// The nearest code of each sample, found in the decoder's table.
fn nearest_codes(law: Law) -> &'static [u8] {
    static TABLES: [OnceLock<Vec<u8>>; 2] = [OnceLock::new(), OnceLock::new()];
    TABLES[usize::from(law == Law::Mu)].get_or_init(|| {
        let mut codes: Vec<(i16, u8)> = (0..=255).map(|code| (law.decode_sample(code), code)).collect();
        codes.sort_unstable();
        (i16::MIN..=i16::MAX)
            .map(|sample| {
                let above = codes.partition_point(|(value, _)| *value < sample).min(255);
                let below = above.saturating_sub(1);
                let distance = |i: usize| (i32::from(codes[i].0) - i32::from(sample)).abs();
                if distance(below) <= distance(above) { codes[below].1 } else { codes[above].1 }
            })
            .collect()
    })
}

pub fn encode_g711(law: Law, samples: &[i16]) -> Vec<u8> {
    let codes = nearest_codes(law);
    samples.iter().map(|s| codes[(i32::from(*s) - i32::from(i16::MIN)) as usize]).collect()
}

/// What comes back when samples pass through G.711.
pub fn through_g711(law: Law, samples: &[i16]) -> Vec<i16> {
    encode_g711(law, samples).into_iter().map(|code| law.decode_sample(code)).collect()
}

/// Speech cut into packets, A-law.
pub fn packets_of(samples: &[i16], frame_samples: usize, sequence: u16, timestamp: u32) -> Vec<Rtp> {
    samples
        .chunks_exact(frame_samples)
        .enumerate()
        .map(|(i, frame)| Rtp {
            payload_type: 8,
            marker: i == 0,
            sequence: sequence.wrapping_add(i as u16),
            timestamp: timestamp.wrapping_add((i * frame_samples) as u32),
            payload: encode_g711(Law::A, frame),
        })
        .collect()
}

/// Something like a voice that never pauses, and nowhere repeats itself: harmonics of a wandering pitch, weighted by two
/// wandering formants.
pub fn warble(length: usize) -> Vec<i16> {
    let mut phase = 0.0f64;
    (0..length)
        .map(|i| {
            let t = i as f64 / 8000.0;
            let pitch = 130.0 + 25.0 * (t * 3.1).sin() + 12.0 * (t * 7.7).sin();
            phase += pitch / 8000.0 * std::f64::consts::TAU;
            let formants = [500.0 + 200.0 * (t * 5.3).sin(), 1400.0 + 400.0 * (t * 4.1).cos()];
            let voice: f64 = (1..=16)
                .map(|k| {
                    let frequency = pitch * f64::from(k);
                    let gain: f64 = formants.iter().map(|f| 1.0 / (1.0 + ((frequency - f) / 150.0).powi(2))).sum();
                    gain * (phase * f64::from(k)).sin()
                })
                .sum();
            (voice * (2500.0 + 1200.0 * (t * 9.0).sin())) as i16
        })
        .collect()
}

pub fn delivery(track: &mut Track, slot: StreamSlot, at: CaptureTime, packet: &Rtp, sink: &mut dyn ChunkSink) {
    track.on_packet(slot, at, &packet.bytes(), sink);
}

/// Collects chunks; refuses those whose number says so.
#[derive(Default)]
pub struct Writer {
    pub chunks: Vec<(ChunkHeader, Vec<u8>)>,
    pub refuse_every: Option<usize>,
    pub refused_packets: u64,
    pub offered: usize,
}

impl ChunkSink for Writer {
    fn chunk(&mut self, header: &ChunkHeader, payload: &[u8]) -> bool {
        check_shape(header, payload);
        self.offered += 1;
        if self.refuse_every.is_some_and(|n| self.offered.is_multiple_of(n)) {
            self.refused_packets += u64::from(header.packets);
            return false;
        }
        self.chunks.push((*header, payload.to_vec()));
        true
    }
}

/// What every reader of chunks relies on.
fn check_shape(header: &ChunkHeader, payload: &[u8]) {
    assert!((1..=TICKS_PER_CHUNK_MAX).contains(&header.ticks));
    let lengths: Vec<usize> = chunk_packets(payload).map(<[u8]>::len).collect();
    assert_eq!(lengths.len(), usize::from(header.ticks), "a length per grid step");
    assert_eq!(lengths.iter().sum::<usize>() + 2 * lengths.len(), payload.len(), "nothing after the last packet");
    assert!(lengths[0] > 0 && lengths[lengths.len() - 1] > 0, "a chunk begins and ends with a packet");
}

impl Writer {
    /// All packets by grid step; the steps only grow.
    pub fn ticks(&self) -> Vec<(u64, Vec<u8>)> {
        let mut ticks: Vec<(u64, Vec<u8>)> = Vec::new();
        for (header, payload) in &self.chunks {
            for (i, packet) in chunk_packets(payload).enumerate().filter(|(_, p)| !p.is_empty()) {
                let tick = header.first_tick.0 + i as u64;
                assert!(ticks.last().is_none_or(|(last, _)| *last < tick), "grid steps grow over the track");
                ticks.push((tick, packet.to_vec()));
            }
        }
        ticks
    }

    pub fn packets(&self) -> u64 {
        self.chunks.iter().map(|(h, _)| u64::from(h.packets)).sum()
    }

    /// The audio as a player gives it: time of its first sample in ns since the Unix epoch, and samples at 8 kHz. Steps
    /// without a packet are silent.
    pub fn play(&self) -> (u64, Vec<i16>) {
        let ticks = self.ticks();
        let first = ticks.first().expect("the track has audio").0;
        let mut decoder = Decoder::new(8000, Channels::Mono).unwrap();
        let mut samples: Vec<i16> = Vec::new();
        for (tick, packet) in &ticks {
            samples.resize((tick - first) as usize * 160, 0);
            let mut frame = [0i16; 160];
            assert_eq!(decoder.decode(packet, &mut frame, false).unwrap(), 160);
            samples.extend_from_slice(&frame);
        }
        samples.drain(..PRE_SKIP.min(samples.len()));
        (first * 20_000_000, samples)
    }
}

/// The lag in samples, within `range`, at which `played[at + lag ..]` is most like `said[at ..][.. length]`, and how
/// alike they are (1 = the same shape). Positive: played later than said.
pub fn best_lag(said: &[i16], played: &[i16], at: usize, length: usize, range: i64) -> (i64, f64) {
    let reference = &said[at..at + length];
    let mut best = (0, f64::MIN);
    for lag in -range..=range {
        let Ok(start) = usize::try_from(at as i64 + lag) else { continue };
        let Some(candidate) = played.get(start..start + length) else { continue };
        let (mut product, mut energy, mut reference_energy) = (0f64, 0f64, 0f64);
        for (a, b) in reference.iter().zip(candidate) {
            product += f64::from(*a) * f64::from(*b);
            energy += f64::from(*b).powi(2);
            reference_energy += f64::from(*a).powi(2);
        }
        let correlation = product / (energy * reference_energy).sqrt().max(1.0);
        if correlation > best.1 {
            best = (lag, correlation);
        }
    }
    best
}

/// Numbers from a seed (xorshift).
pub struct Random(pub u64);

impl Random {
    pub fn next_u64(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// 0 ≤ x < 1.
    pub fn unit(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }
}
