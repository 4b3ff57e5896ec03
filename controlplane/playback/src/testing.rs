//! A recording in memory, for tests: signals in, chunks as the encoder would have stored them.

use crate::lane::ChunkSource;
use crate::{Channels, Format, PlaybackError, Rendition};
use sidetone_log::{Chunk, ChunkCodec, ChunkHeader, ChunkPayload, Located, LogError, LogPosition};
use sidetone_model::{
    CaptureTime, ConversationId, Losses, NodeName, Party, PartyRole, Recording, RecordingId, RecordingState,
    SCHEMA_VERSION, Seed, Side, Stream, Tick, Track, TrackId, TrackKind,
};
use sidetone_store::{ChunkLocation, StoreError};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex};

pub(crate) const FIRST_TICK: Tick = Tick(55_286_274_148);

/// Chunks by track; shared, so that a test can add to them while a rendition is open.
#[derive(Clone, Default)]
pub(crate) struct MemorySource(pub(crate) Arc<Mutex<BTreeMap<TrackId, Vec<StoredChunk>>>>);

#[derive(Clone)]
pub(crate) struct StoredChunk {
    pub(crate) chunk: Chunk,
    pub(crate) broken: bool,
    location: ChunkLocation,
}

impl MemorySource {
    /// Stores packets from `first_tick` on, in chunks of a second; empty packets are grid steps without audio.
    pub(crate) fn store(&self, track: TrackId, first_tick: Tick, packets: &[Vec<u8>]) {
        let mut all = self.0.lock().unwrap();
        let mut offset: u64 = all.values().flatten().map(|stored| u64::from(stored.location.located.length)).sum();
        let stored = all.entry(track).or_default();
        for (index, second) in packets.chunks(50).enumerate() {
            // Steps without audio never stand at the ends of a chunk.
            let Some(begin) = second.iter().position(|packet| !packet.is_empty()) else { continue };
            let end = second.iter().rposition(|packet| !packet.is_empty()).unwrap() + 1;
            let mut payload = ChunkPayload::default();
            second[begin..end].iter().for_each(|packet| payload.push(packet));
            let header = ChunkHeader {
                recording: recording_id(),
                track,
                first_tick: Tick(first_tick.0 + (index * 50 + begin) as u64),
                ticks: (end - begin) as u16,
                packets: 50,
                codec: ChunkCodec::OpusNarrowband,
                key_id: [0; 16],
                nonce: [0; 12],
                tag: [0; 16],
            };
            let length = payload.0.len() as u32;
            let located = Located { position: LogPosition { file: 1, offset }, length };
            offset += u64::from(length);
            let location =
                ChunkLocation { first_tick: header.first_tick, ticks: header.ticks, packets: header.packets, located };
            stored.push(StoredChunk { chunk: Chunk { header, payload: payload.0 }, broken: false, location });
        }
        stored.sort_by_key(|stored| stored.location.first_tick);
    }

    pub(crate) fn open(
        &self,
        document: &Recording,
        format: Format,
        channels: Channels,
    ) -> Result<Rendition, PlaybackError> {
        Rendition::from_source(Box::new(self.clone()), document, format, channels)
    }

    pub(crate) fn file(&self, document: &Recording, format: Format, channels: Channels) -> Vec<u8> {
        let mut file = Vec::new();
        crate::write_to(&mut self.open(document, format, channels).unwrap(), &mut file).unwrap();
        file
    }

    fn within(&self, track: TrackId, ticks: &Range<Tick>) -> Vec<StoredChunk> {
        let all = self.0.lock().unwrap();
        let overlaps = |stored: &&StoredChunk| {
            let first = stored.location.first_tick.0;
            first < ticks.end.0 && first + u64::from(stored.location.ticks) > ticks.start.0
        };
        all.get(&track).into_iter().flatten().filter(overlaps).cloned().collect()
    }
}

impl ChunkSource for MemorySource {
    fn locations(&self, track: TrackId, ticks: Range<Tick>) -> Result<Vec<ChunkLocation>, StoreError> {
        Ok(self.within(track, &ticks).into_iter().map(|stored| stored.location).collect())
    }

    fn chunks(
        &self,
        track: TrackId,
        ticks: Range<Tick>,
    ) -> Result<Box<dyn Iterator<Item = Result<Chunk, StoreError>> + '_>, StoreError> {
        Ok(Box::new(self.within(track, &ticks).into_iter().map(|stored| {
            if stored.broken {
                let LogPosition { file, offset } = stored.location.located.position;
                return Err(StoreError::Log(LogError::Damaged { file, from: offset, to: offset + 1 }));
            }
            Ok(stored.chunk)
        })))
    }
}

pub(crate) fn recording_id() -> RecordingId {
    RecordingId::derive(Seed([7; 16]), FIRST_TICK.start(), "playback@test")
}

pub(crate) fn track(id: u8, side: Side, party: Option<u8>) -> Track {
    Track {
        id: TrackId(id),
        party,
        side,
        kind: TrackKind::Audio,
        encrypted: false,
        decodable: true,
        start_offset_seconds: 0.0,
        duration_seconds: 0.0,
        concealed_seconds: 0.0,
        losses: Losses::default(),
        streams: Vec::<Stream>::new(),
    }
}

pub(crate) fn party(id: u8, role: PartyRole, number: &str, name: &str) -> Party {
    Party {
        id,
        role,
        number: number.to_owned(),
        name: name.to_owned(),
        address: "192.0.2.1:5060".to_owned(),
        joined_at: FIRST_TICK.start(),
        left_at: None,
    }
}

/// A complete recording of a caller (party 0, track 0, near) and a callee (party 1, track 1, far).
pub(crate) fn document() -> Recording {
    Recording {
        schema: SCHEMA_VERSION,
        id: recording_id(),
        node: NodeName("test".to_owned()),
        conversation_id: ConversationId::derive(Seed([7; 16]), FIRST_TICK.start(), "playback@test"),
        state: RecordingState::Complete,
        started_at: CaptureTime(FIRST_TICK.start().0 - 3_000_000_000),
        answered_at: Some(FIRST_TICK.start()),
        ended_at: None,
        duration_seconds: 0.0,
        end_reason: None,
        users: Vec::new(),
        gaps: Vec::new(),
        pauses: Vec::new(),
        legs: Vec::new(),
        parties: vec![
            party(0, PartyRole::Caller, "+49301234567", "Ada"),
            party(1, PartyRole::Callee, "200", "Büro \"Süd\""),
        ],
        tracks: vec![track(0, Side::Near, Some(0)), track(1, Side::Far, Some(1))],
    }
}

/// Encodes as a track does: 8 kHz, 20 ms, VBR. Steps that `heard` says no to are left out, and the encoder begins anew behind
/// a longer pause.
pub(crate) fn encode(samples: &[i16], heard: impl Fn(usize) -> bool) -> Vec<Vec<u8>> {
    let mut encoder = opus::Encoder::new(8000, opus::Channels::Mono, opus::Application::Voip).unwrap();
    encoder.set_bitrate(opus::Bitrate::Bits(16_000)).unwrap();
    encoder.set_complexity(5).unwrap();
    let mut silent = 0;
    samples
        .chunks_exact(160)
        .enumerate()
        .map(|(tick, frame)| {
            if !heard(tick) {
                silent += 1;
                return Vec::new();
            }
            if silent > 3 {
                encoder.reset_state().unwrap();
            }
            silent = 0;
            encoder.encode_vec(frame, 1275).unwrap()
        })
        .collect()
}

pub(crate) fn tone(frequency_hz: f64, seconds: f64) -> Vec<i16> {
    let count = (seconds * 8000.0) as usize;
    (0..count)
        .map(|index| (8000.0 * (std::f64::consts::TAU * frequency_hz * index as f64 / 8000.0).sin()) as i16)
        .collect()
}

/// Something like speech, from a seed: pulses through slowly moving resonances, with syllables and pauses.
pub(crate) fn babble(seed: u32, seconds: f64) -> Vec<i16> {
    let mut random = seed | 1;
    let mut next = move || {
        random ^= random << 13;
        random ^= random >> 17;
        random ^= random << 5;
        f64::from(random) / f64::from(u32::MAX)
    };
    let count = (seconds * 8000.0) as usize;
    let mut samples = Vec::with_capacity(count);
    let (mut first, mut second) = ([0.0; 2], [0.0; 2]);
    let (mut pitch, mut formants, mut loudness) = (120.0, (500.0, 1500.0), 1.0);
    let mut phase = 0.0;
    for index in 0..count {
        if index % 1200 == 0 {
            pitch = 90.0 + 130.0 * next();
            formants = (300.0 + 500.0 * next(), 900.0 + 1400.0 * next());
            loudness = if next() < 0.25 { 0.0 } else { 0.3 + 0.7 * next() };
        }
        phase += pitch / 8000.0;
        let pulse = if phase >= 1.0 { 1.0 } else { 0.0 };
        phase %= 1.0;
        let excitation = loudness * (pulse + 0.02 * (next() - 0.5));
        let resonate = |state: &mut [f64; 2], input: f64, frequency: f64| {
            let radius = 0.96;
            let output = input + 2.0 * radius * (std::f64::consts::TAU * frequency / 8000.0).cos() * state[0]
                - radius * radius * state[1];
            *state = [output, state[0]];
            output
        };
        let voiced = resonate(&mut first, excitation, formants.0) + 0.7 * resonate(&mut second, excitation, formants.1);
        samples.push((voiced * 3000.0).clamp(-30_000.0, 30_000.0) as i16);
    }
    samples
}

/// Signal to noise of `got` against `expected`, in decibels.
pub(crate) fn signal_to_noise_db(expected: &[i16], got: &[i16]) -> f64 {
    assert_eq!(expected.len(), got.len());
    let energy = |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>();
    let signal = energy(&mut expected.iter().map(|&sample| f64::from(sample)));
    let noise = energy(&mut expected.iter().zip(got).map(|(&a, &b)| f64::from(a) - f64::from(b)));
    10.0 * (signal.max(1.0) / noise.max(1e-9)).log10()
}

/// Amplitude of one frequency in some samples (Goertzel).
pub(crate) fn amplitude(samples: &[i16], frequency_hz: f64, rate_hz: f64) -> f64 {
    let step = std::f64::consts::TAU * frequency_hz / rate_hz;
    let (mut real, mut imaginary) = (0.0, 0.0);
    for (index, &sample) in samples.iter().enumerate() {
        real += f64::from(sample) * (step * index as f64).cos();
        imaginary += f64::from(sample) * (step * index as f64).sin();
    }
    2.0 * real.hypot(imaginary) / samples.len().max(1) as f64
}
