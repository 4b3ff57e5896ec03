//! Renditions of what a real store holds: written through its writer, read through its reader, damaged on the disk.

use sidetone_log::{ChunkCodec, ChunkHeader, ChunkPayload, Fact};
use sidetone_model::{
    CaptureTime, ConversationId, Losses, NodeName, Recording, RecordingId, RecordingState, SCHEMA_VERSION, Seed, Side,
    Tick, Track, TrackId, TrackKind,
};
use sidetone_playback::{Channels, Format, PlaybackError, Rendition, size_tables, write_to};
use sidetone_store::{Keeper, Store, StoreOptions, StoreReader, StoreWriter};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

const FIRST_TICK: Tick = Tick(85_000_000_000);

fn recording(name: &str, state: RecordingState) -> Recording {
    let seed = Seed([3; 16]);
    let track = |id: u8, side: Side| Track {
        id: TrackId(id),
        party: None,
        side,
        kind: TrackKind::Audio,
        encrypted: false,
        decodable: true,
        start_offset_seconds: 0.0,
        duration_seconds: 0.0,
        concealed_seconds: 0.0,
        losses: Losses::default(),
        streams: Vec::new(),
    };
    Recording {
        schema: SCHEMA_VERSION,
        annotations: Default::default(),
        proof: None,
        id: RecordingId::derive(seed, FIRST_TICK.start(), name),
        node: NodeName("test".to_owned()),
        conversation_id: ConversationId::derive(seed, FIRST_TICK.start(), name),
        state,
        started_at: CaptureTime(FIRST_TICK.start().0 - 1),
        answered_at: None,
        ended_at: None,
        duration_seconds: 0.0,
        end_reason: None,
        users: Vec::new(),
        gaps: Vec::new(),
        pauses: Vec::new(),
        legs: Vec::new(),
        parties: Vec::new(),
        tracks: vec![track(0, Side::Near), track(1, Side::Far)],
    }
}

/// A store whose threads are this one.
struct OpenStore {
    writer: StoreWriter,
    keeper: Keeper,
    reader: Arc<StoreReader>,
}

impl OpenStore {
    /// Sealing is due at once, also of what still runs.
    fn open(directory: &Path) -> Self {
        let mut options = StoreOptions::new(NodeName("test".to_owned()));
        options.sealing.interval = Duration::ZERO;
        options.sealing.running_after = Duration::ZERO;
        let (writer, mut keeper, reader, _handle) = Store::open(directory, &options).unwrap().split();
        keeper.on_run(size_tables);
        Self { writer, keeper, reader }
    }

    fn flush(&mut self) {
        self.writer.flush().unwrap();
        while self.keeper.step() {}
    }

    /// Until all of it lies in segments; of one that runs, some of it.
    fn seal(&mut self, recording: &Recording) {
        let patience = Instant::now() + Duration::from_secs(60);
        let is_sealed = |reader: &StoreReader| match recording.state {
            RecordingState::Active => !reader.runs(recording.id).unwrap().is_empty(),
            _ => reader.recording(recording.id).unwrap().unwrap().proof.is_some(),
        };
        while !is_sealed(&self.reader) {
            assert!(Instant::now() < patience, "not sealed: {:?}", self.reader.statistics().unwrap().keeper);
            self.flush();
        }
    }

    fn close(self) {
        drop(self.reader);
        self.keeper.close(self.writer).unwrap();
    }

    fn append(&mut self, recording: &Recording, track: u8, second: u64, packets: &[Vec<u8>]) {
        append(&mut self.writer, recording, track, second, packets);
    }

    fn append_fact(&mut self, recording: &Recording) {
        self.writer.append_fact(Fact::Recording { recording: Arc::new(recording.clone()), resume: None }).unwrap();
    }

    fn rendition(&self, recording: &Recording, format: Format, channels: Channels) -> Result<Rendition, PlaybackError> {
        Rendition::open(Arc::clone(&self.reader), recording.id, format, channels)
    }

    fn file(&self, recording: &Recording, format: Format, channels: Channels) -> Vec<u8> {
        let mut file = Vec::new();
        let mut rendition = self.rendition(recording, format, channels).unwrap();
        write_to(&mut rendition, &mut file).unwrap();
        assert_eq!(file.len() as u64, rendition.len());
        file
    }
}

/// A tone under which something else is audible, so that no two packets are the same.
fn tone(frequency_hz: f64, seconds: usize) -> Vec<Vec<u8>> {
    let mut encoder = opus::Encoder::new(8000, opus::Channels::Mono, opus::Application::Voip).unwrap();
    encoder.set_bitrate(opus::Bitrate::Bits(16_000)).unwrap();
    let mut noise = 0x2545_f491_4f6c_dd1d_u64;
    let mut sample = |index: usize| {
        noise ^= noise << 13;
        noise ^= noise >> 7;
        noise ^= noise << 17;
        let tone = 8000.0 * (std::f64::consts::TAU * frequency_hz * index as f64 / 8000.0).sin();
        tone as i16 + (noise % 400) as i16
    };
    (0..seconds * 50)
        .map(|tick| {
            let frame: Vec<i16> = (tick * 160..(tick + 1) * 160).map(&mut sample).collect();
            encoder.encode_vec(&frame, 1275).unwrap()
        })
        .collect()
}

/// Appends one second of a track.
fn append(writer: &mut StoreWriter, recording: &Recording, track: u8, second: u64, packets: &[Vec<u8>]) {
    let mut payload = ChunkPayload::default();
    packets.iter().for_each(|packet| payload.push(packet));
    let header = ChunkHeader {
        recording: recording.id,
        track: TrackId(track),
        first_tick: Tick(FIRST_TICK.0 + second * 50),
        ticks: packets.len() as u16,
        packets: packets.len() as u16,
        codec: ChunkCodec::OpusNarrowband,
        key_id: [0; 16],
        nonce: [0; 12],
        tag: [0; 16],
    };
    writer.append_chunk(&header, &payload.0).unwrap();
}

/// Flips a bit of the packet wherever it stands below a directory of the store; tells how often.
fn spoil(directory: &Path, packet: &[u8]) -> usize {
    let mut hits = 0;
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        if let Some(at) = bytes.windows(packet.len()).position(|window| window == packet) {
            bytes[at] ^= 1;
            std::fs::write(&path, bytes).unwrap();
            hits += 1;
        }
    }
    hits
}

fn samples(wav: &[u8]) -> Vec<i16> {
    wav[44..].chunks_exact(2).map(|pair| i16::from_le_bytes([pair[0], pair[1]])).collect()
}

/// Bytes that this thread has read from files (proc(5), `rchar`).
fn bytes_read() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/io").unwrap();
    text.lines().find_map(|line| line.strip_prefix("rchar: ")).unwrap().parse().unwrap()
}

#[test]
fn a_recording_plays_while_it_runs_and_the_same_when_it_is_sealed_and_opened_again() {
    let directory = tempfile::tempdir().unwrap();
    let active = recording("running", RecordingState::Active);
    let (near, far) = (tone(440.0, 12), tone(1000.0, 12));
    let mut store = OpenStore::open(directory.path());
    assert!(matches!(store.rendition(&active, Format::Wav, Channels::Dual), Err(PlaybackError::NotFound { .. })));
    store.append_fact(&active);
    store.flush();
    let error = store.rendition(&active, Format::Wav, Channels::Dual).err().unwrap();
    assert!(error.to_string().contains("no audio is on the disk yet"), "{error}");

    for second in 0..12 {
        let ticks = second * 50..(second + 1) * 50;
        store.append(&active, 0, second as u64, &near[ticks.clone()]);
        store.append(&active, 1, second as u64, &far[ticks]);
        if second == 7 {
            // What is before the newest fact may be sealed while the call goes on.
            store.append_fact(&active);
            store.flush();
            store.seal(&active);
        }
        store.flush();
        let wav = store.rendition(&active, Format::Wav, Channels::Dual).unwrap();
        assert_eq!(wav.len(), 44 + ((second as u64 + 1) * 8000 - 52) * 4);
    }
    let whole_while_active = store.file(&active, Format::Opus, Channels::Dual);
    let mut complete = active.clone();
    complete.state = RecordingState::Complete;
    store.append_fact(&complete);
    store.flush();
    let opus = store.file(&complete, Format::Opus, Channels::Dual);
    let wav = store.file(&complete, Format::Wav, Channels::Dual);
    assert!(opus == whole_while_active);
    let etag = store.rendition(&complete, Format::Opus, Channels::Dual).unwrap().etag().to_owned();
    store.seal(&complete);
    assert!(store.reader.runs(complete.id).unwrap().len() >= 2);
    assert!(store.file(&complete, Format::Opus, Channels::Dual) == opus);
    store.close();

    let store = OpenStore::open(directory.path());
    assert!(store.file(&complete, Format::Opus, Channels::Dual) == opus);
    assert!(store.file(&complete, Format::Wav, Channels::Dual) == wav);
    assert_eq!(store.rendition(&complete, Format::Opus, Channels::Dual).unwrap().etag(), etag);
    store.close();
}

#[test]
fn a_chunk_damaged_in_a_journal_is_a_second_of_silence() {
    let directory = tempfile::tempdir().unwrap();
    let recording = recording("damaged", RecordingState::Active);
    let packets = tone(440.0, 5);
    let mut store = OpenStore::open(directory.path());
    store.append_fact(&recording);
    for second in 0..5 {
        store.append(&recording, 0, second as u64, &packets[second * 50..(second + 1) * 50]);
    }
    store.flush();
    let whole = samples(&store.file(&recording, Format::Wav, Channels::Near));
    assert_eq!(spoil(&directory.path().join("journal"), &packets[2 * 50 + 7]), 1);
    let mut rendition = store.rendition(&recording, Format::Wav, Channels::Near).unwrap();
    let mut file = Vec::new();
    write_to(&mut rendition, &mut file).unwrap();
    let lost: Vec<_> = rendition.lost().map(|lost| lost.ticks.start.0 - FIRST_TICK.0).collect();
    assert_eq!(lost, [100]);
    let damaged = samples(&file);
    assert_eq!(damaged.len(), whole.len());
    assert_eq!(damaged[..15_900], whole[..15_900]);
    assert!(damaged[16_160..23_900].iter().all(|sample| sample.abs() <= 1));
    assert!(damaged[26_000..39_000].iter().any(|&sample| sample > 5000));
}

#[test]
fn a_chunk_damaged_in_a_segment_is_silent_in_a_file_of_the_same_length() {
    let directory = tempfile::tempdir().unwrap();
    let recording = recording("damaged later", RecordingState::Complete);
    let (near, far) = (tone(440.0, 25), tone(1000.0, 25));
    let mut store = OpenStore::open(directory.path());
    for second in 0..25 {
        store.append(&recording, 0, second as u64, &near[second * 50..(second + 1) * 50]);
        store.append(&recording, 1, second as u64, &far[second * 50..(second + 1) * 50]);
    }
    store.append_fact(&recording);
    store.flush();
    store.seal(&recording);
    let whole = store.file(&recording, Format::Opus, Channels::Dual);
    let etag = store.rendition(&recording, Format::Opus, Channels::Dual).unwrap().etag().to_owned();
    assert!(spoil(&directory.path().join("segments"), &near[12 * 50 + 3]) > 0);
    let mut rendition = store.rendition(&recording, Format::Opus, Channels::Dual).unwrap();
    assert_eq!((rendition.len(), rendition.etag()), (whole.len() as u64, etag.as_str()));
    let mut file = Vec::new();
    write_to(&mut rendition, &mut file).unwrap();
    assert_eq!(rendition.lost().count(), 1);
    assert_eq!(file.len(), whole.len());
    assert!(file != whole);
    let callee = store.file(&recording, Format::Wav, Channels::Callee);
    let caller = samples(&store.file(&recording, Format::Wav, Channels::Caller));
    assert!(samples(&callee)[96_500..103_500].iter().any(|&sample| sample > 5000));
    assert!(caller[96_500..103_500].iter().all(|sample| sample.abs() <= 1));
}

#[test]
fn of_a_sealed_hour_the_head_reads_no_audio_and_a_range_only_its_block() {
    let directory = tempfile::tempdir().unwrap();
    let recording = recording("hour", RecordingState::Complete);
    let (near, far) = (tone(440.0, 30), tone(1000.0, 30));
    let mut store = OpenStore::open(directory.path());
    for second in 0..3600 {
        let ticks = second % 30 * 50..(second % 30 + 1) * 50;
        store.append(&recording, 0, second as u64, &near[ticks.clone()]);
        store.append(&recording, 1, second as u64, &far[ticks]);
    }
    store.append_fact(&recording);
    let measure = |store: &OpenStore, format, channels| {
        let (start, before) = (Instant::now(), bytes_read());
        let mut rendition = store.rendition(&recording, format, channels).unwrap();
        let opened = (start.elapsed(), bytes_read() - before);
        let middle = rendition.len() / 2;
        let (start, before) = (Instant::now(), bytes_read());
        rendition.read(middle..middle + 4096, &mut Vec::new()).unwrap();
        let sought = (start.elapsed(), bytes_read() - before);
        println!(
            "{format} {channels}: an hour of {} bytes opened in {:.1?} reading {} bytes, 4 KiB from its middle in {:.1?} reading {}",
            rendition.len(),
            opened.0,
            opened.1,
            sought.0,
            sought.1
        );
        assert!(opened.0.as_secs() < 10 && sought.0.as_secs() < 10, "far more than either takes");
        (opened.1, sought.1)
    };
    store.writer.flush().unwrap();
    store.keeper.step();
    store.seal(&recording);
    let runs = store.reader.runs(recording.id).unwrap();
    let audio: u64 = runs.iter().map(|run| run.payload_bytes).sum();
    assert_eq!(runs.len(), 1, "an hour fits into a run");
    assert!(audio > 8 << 20, "{audio}");
    store.close();

    // Nothing is kept of the run's index, as for the first request after a start.
    let mut options = [(Format::Opus, Channels::Dual), (Format::Opus, Channels::Near), (Format::Wav, Channels::Dual)];
    options.reverse();
    for (format, channels) in options {
        let store = OpenStore::open(directory.path());
        let (opened, sought) = measure(&store, format, channels);
        // The index of 7200 chunks with its tables, and the catalog's blocks around the recording.
        assert!(opened < 400 << 10, "{format} {channels}: {opened} bytes read to open");
        // Two blocks of 10 s at the worst, and the second before to prime a decoder.
        assert!(sought < audio / 150, "{format} {channels}: {sought} of {audio} bytes read");
        store.close();
    }
}
