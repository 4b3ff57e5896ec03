//! A recording in memory, for tests: signals in, chunks as the encoder would have stored them.

use crate::source::{ChunkSource, Piece};
use crate::{Channels, Format, PlaybackError, Rendition, size_tables};
use sidetone_log::{
    Chunk, ChunkCodec, ChunkHeader, ChunkPayload, ChunkRecord, Located, LogError, LogPosition, Run, RunEntry, RunIndex,
    SegmentNumber, VolumeNumber,
};
use sidetone_model::{
    CaptureTime, ConversationId, Losses, MerkleRoot, NodeName, Party, PartyRole, Recording, RecordingId,
    RecordingState, SCHEMA_VERSION, Seed, Side, Stream, Tick, Track, TrackId, TrackKind,
};
use sidetone_store::{ChunkLocation, ChunkPlace, StoreError};
use std::ops::Range;
use std::sync::{Arc, Mutex};

pub(crate) const FIRST_TICK: Tick = Tick(55_286_274_148);

/// Stored chunks; shared, so that a test can add to them while a rendition is open.
#[derive(Clone, Default)]
pub(crate) struct MemorySource(pub(crate) Arc<Mutex<Stored>>);

#[derive(Default)]
pub(crate) struct Stored {
    /// In the order of time.
    pub(crate) chunks: Vec<StoredChunk>,
    runs: Vec<(Arc<Run>, Arc<RunIndex>)>,
    /// Bytes of chunks that were read.
    pub(crate) bytes_read: u64,
}

pub(crate) struct StoredChunk {
    pub(crate) record: ChunkRecord,
    pub(crate) broken: bool,
    place: ChunkPlace,
}

impl MemorySource {
    /// Stores packets from `first_tick` on, in chunks of a second; empty packets are grid steps without audio.
    pub(crate) fn store(&self, track: TrackId, first_tick: Tick, packets: &[Vec<u8>]) {
        let mut stored = self.0.lock().unwrap();
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
            let record = ChunkRecord::new(&header, &payload.0).unwrap();
            let offset = stored.chunks.len() as u64;
            let located = Located { position: LogPosition { file: 1, offset }, length: record.bytes().len() as u32 };
            let place = ChunkPlace::Journal { volume: VolumeNumber(0), located };
            stored.chunks.push(StoredChunk { record, broken: false, place });
        }
        stored.chunks.sort_by_key(|chunk| chunk.record.header().first_tick);
    }

    /// Moves what begins before `until` and is not sealed yet into a run, with its tables.
    pub(crate) fn seal(&self, document: &Recording, until: Tick) {
        let mut stored = self.0.lock().unwrap();
        let is_open = |chunk: &StoredChunk| {
            matches!(chunk.place, ChunkPlace::Journal { .. }) && chunk.record.header().first_tick < until
        };
        let mut records: Vec<ChunkRecord> =
            stored.chunks.iter().filter(|chunk| is_open(chunk)).map(|chunk| chunk.record.clone()).collect();
        records.sort_by_key(|record| (record.header().track, record.header().first_tick));
        let mut entries = Vec::new();
        for record in &records {
            let ChunkHeader { track, first_tick, ticks, packets, .. } = *record.header();
            entries.push(RunEntry {
                track,
                first_tick,
                ticks,
                packets,
                offset: 0,
                length: record.bytes().len() as u32,
            });
        }
        let index = RunIndex {
            file_id: Default::default(),
            offset: stored.runs.len() as u64,
            recording: document.id,
            through: Vec::new(),
            chunks_offset: 0,
            index_offset: 0,
            entries,
            root: MerkleRoot([0; 32]),
            tables: size_tables(document, &records),
        };
        let run = Arc::new(index.run(VolumeNumber(0), SegmentNumber(1), 0));
        for entry in &index.entries {
            let header_is = |chunk: &StoredChunk| {
                let header = chunk.record.header();
                (header.track, header.first_tick) == entry.key()
            };
            let chunk = stored.chunks.iter_mut().find(|chunk| header_is(chunk)).unwrap();
            chunk.place = ChunkPlace::Segment { run: Arc::clone(&run), entry: *entry };
        }
        stored.runs.push((run, Arc::new(index)));
    }

    /// The `number`th chunk of a track cannot be read any more.
    pub(crate) fn damage(&self, track: TrackId, number: usize) {
        let mut stored = self.0.lock().unwrap();
        let mut of_track = stored.chunks.iter_mut().filter(|chunk| chunk.record.header().track == track);
        of_track.nth(number).unwrap().broken = true;
    }

    /// The same, when there is any.
    pub(crate) fn seal_if_any(&self, document: &Recording, until: Tick) {
        let is_open = |chunk: &StoredChunk| {
            matches!(chunk.place, ChunkPlace::Journal { .. }) && chunk.record.header().first_tick < until
        };
        let any = self.0.lock().unwrap().chunks.iter().any(is_open);
        if any {
            self.seal(document, until);
        }
    }

    pub(crate) fn table_names(&self) -> Vec<String> {
        let stored = self.0.lock().unwrap();
        stored.runs.iter().flat_map(|(_, index)| &index.tables).map(|table| table.name.clone()).collect()
    }

    pub(crate) fn table_bytes(&self) -> usize {
        let stored = self.0.lock().unwrap();
        stored.runs.iter().flat_map(|(_, index)| &index.tables).map(|table| table.name.len() + table.bytes.len()).sum()
    }

    /// Every table is off by a byte.
    pub(crate) fn spoil_tables(&self) {
        let mut stored = self.0.lock().unwrap();
        for (_, index) in &mut stored.runs {
            for table in &mut Arc::make_mut(index).tables {
                table.bytes[0] ^= 1;
            }
        }
    }

    /// Bytes of chunks read while `work` was done.
    pub(crate) fn reads<T>(&self, work: impl FnOnce() -> T) -> (u64, T) {
        let before = self.0.lock().unwrap().bytes_read;
        let done = work();
        (self.0.lock().unwrap().bytes_read - before, done)
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
}

impl ChunkSource for MemorySource {
    fn pieces(&self, track: TrackId, ticks: Range<Tick>) -> Result<Vec<Piece>, StoreError> {
        let stored = self.0.lock().unwrap();
        let piece = |chunk: &StoredChunk| {
            let ChunkHeader { recording, track, first_tick, ticks, packets, .. } = *chunk.record.header();
            let place = chunk.place.clone();
            Piece { location: ChunkLocation { recording, track, first_tick, ticks, packets, place } }
        };
        let of_track = stored.chunks.iter().filter(|chunk| chunk.record.header().track == track).map(piece);
        let overlaps = |piece: &Piece| piece.steps().start < ticks.end && piece.steps().end > ticks.start;
        Ok(of_track.filter(overlaps).collect())
    }

    fn read(&self, piece: &Piece) -> Result<Chunk, StoreError> {
        let mut stored = self.0.lock().unwrap();
        stored.bytes_read += piece.location.place.bytes();
        let is_it = |chunk: &&StoredChunk| {
            let header = chunk.record.header();
            (header.track, header.first_tick) == (piece.location.track, piece.location.first_tick)
        };
        let chunk = stored.chunks.iter().find(is_it).unwrap();
        if chunk.broken {
            return Err(StoreError::Log(LogError::Damaged { file: 1, from: 16, to: 32 }));
        }
        Ok(chunk.record.clone().into_chunk())
    }

    fn run_index(&self, run: &Run) -> Result<Arc<RunIndex>, StoreError> {
        let stored = self.0.lock().unwrap();
        Ok(Arc::clone(&stored.runs.iter().find(|(known, _)| **known == *run).unwrap().1))
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
        annotations: Default::default(),
        proof: None,
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
