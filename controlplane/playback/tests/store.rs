//! Renditions of what a real store holds: written through its writer, read through its reader, damaged on the disk.

use sidetone_log::{ChunkCodec, ChunkHeader, ChunkPayload, Fact};
use sidetone_model::{
    CaptureTime, ConversationId, Losses, NodeName, Recording, RecordingId, RecordingState, SCHEMA_VERSION, Seed, Side,
    Tick, Track, TrackId, TrackKind,
};
use sidetone_playback::{Channels, Format, PlaybackError, Rendition, write_to};
use sidetone_store::{Store, StoreOptions, StoreReader, StoreWriter};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

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

fn open_store(directory: &Path) -> (StoreWriter, Arc<StoreReader>) {
    let options = StoreOptions::new(NodeName("test".to_owned()));
    Store::open(directory, &options).unwrap().split()
}

fn tone(frequency_hz: f64, seconds: usize) -> Vec<Vec<u8>> {
    let mut encoder = opus::Encoder::new(8000, opus::Channels::Mono, opus::Application::Voip).unwrap();
    encoder.set_bitrate(opus::Bitrate::Bits(16_000)).unwrap();
    let sample = |index: usize| (8000.0 * (std::f64::consts::TAU * frequency_hz * index as f64 / 8000.0).sin()) as i16;
    (0..seconds * 50)
        .map(|tick| {
            let frame: Vec<i16> = (tick * 160..(tick + 1) * 160).map(sample).collect();
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

fn append_fact(writer: &mut StoreWriter, recording: &Recording) {
    writer.append_fact(&Fact::Recording { recording: Arc::new(recording.clone()), resume: None }).unwrap();
}

fn file(reader: &Arc<StoreReader>, recording: &Recording, format: Format, channels: Channels) -> Vec<u8> {
    let mut file = Vec::new();
    let mut rendition = Rendition::open(reader.clone(), recording.id, format, channels).unwrap();
    write_to(&mut rendition, &mut file).unwrap();
    assert_eq!(file.len() as u64, rendition.len());
    file
}

#[test]
fn a_recording_plays_while_it_runs_and_the_same_after_opening_again() {
    let directory = tempfile::tempdir().unwrap();
    let recording_active = recording("running", RecordingState::Active);
    let (near, far) = (tone(440.0, 12), tone(1000.0, 12));
    let (mut writer, reader) = open_store(directory.path());
    let open = |reader: &Arc<StoreReader>, format| {
        Rendition::open(reader.clone(), recording_active.id, format, Channels::Dual)
    };
    assert!(matches!(open(&reader, Format::Wav), Err(PlaybackError::NotFound { .. })));
    append_fact(&mut writer, &recording_active);
    writer.flush().unwrap();
    let error = open(&reader, Format::Wav).err().unwrap();
    assert!(error.to_string().contains("no audio is on the disk yet"), "{error}");

    for second in 0..12 {
        let ticks = second * 50..(second + 1) * 50;
        append(&mut writer, &recording_active, 0, second as u64, &near[ticks.clone()]);
        append(&mut writer, &recording_active, 1, second as u64, &far[ticks]);
        writer.flush().unwrap();
        let wav = open(&reader, Format::Wav).unwrap();
        assert_eq!(wav.len(), 44 + ((second as u64 + 1) * 8000 - 52) * 4);
    }
    let mut complete = recording_active.clone();
    complete.state = RecordingState::Complete;
    append_fact(&mut writer, &complete);
    writer.flush().unwrap();
    let opus = file(&reader, &complete, Format::Opus, Channels::Dual);
    let etag = open(&reader, Format::Opus).unwrap().etag().to_owned();
    drop((writer, reader));

    let (writer, reader) = open_store(directory.path());
    assert_eq!(file(&reader, &complete, Format::Opus, Channels::Dual), opus);
    assert_eq!(open(&reader, Format::Opus).unwrap().etag(), etag);
    drop(writer);
}

#[test]
fn a_chunk_damaged_on_the_disk_is_a_second_of_silence() {
    let directory = tempfile::tempdir().unwrap();
    let recording = recording("damaged", RecordingState::Complete);
    let packets = tone(440.0, 5);
    let (mut writer, reader) = open_store(directory.path());
    append_fact(&mut writer, &recording);
    for second in 0..5 {
        append(&mut writer, &recording, 0, second as u64, &packets[second * 50..(second + 1) * 50]);
    }
    writer.flush().unwrap();
    let whole = file(&reader, &recording, Format::Wav, Channels::Near);

    let needle = &packets[2 * 50 + 7];
    let mut hits = 0;
    for entry in std::fs::read_dir(directory.path().join("journal")).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        if let Some(at) = bytes.windows(needle.len()).position(|window| window == &needle[..]) {
            bytes[at] ^= 1;
            std::fs::write(&path, bytes).unwrap();
            hits += 1;
        }
    }
    assert_eq!(hits, 1);
    let mut rendition = Rendition::open(reader.clone(), recording.id, Format::Wav, Channels::Near).unwrap();
    let mut damaged = Vec::new();
    write_to(&mut rendition, &mut damaged).unwrap();
    assert!(rendition.damage().is_some());
    assert_eq!(damaged.len(), whole.len());
    let samples = |bytes: &[u8]| -> Vec<i16> {
        bytes[44..].chunks_exact(2).map(|pair| i16::from_le_bytes([pair[0], pair[1]])).collect()
    };
    let (whole, damaged) = (samples(&whole), samples(&damaged));
    assert_eq!(damaged[..15_900], whole[..15_900]);
    assert!(damaged[16_160..23_900].iter().all(|sample| sample.abs() <= 1));
    assert!(damaged[26_000..39_000].iter().any(|&sample| sample > 5000));
}

#[test]
fn an_hour_opens_and_seeks_quickly() {
    let directory = tempfile::tempdir().unwrap();
    let recording = recording("hour", RecordingState::Complete);
    let (near, far) = (tone(440.0, 30), tone(1000.0, 30));
    let (mut writer, reader) = open_store(directory.path());
    append_fact(&mut writer, &recording);
    for second in 0..3600 {
        let ticks = second % 30 * 50..(second % 30 + 1) * 50;
        append(&mut writer, &recording, 0, second as u64, &near[ticks.clone()]);
        append(&mut writer, &recording, 1, second as u64, &far[ticks]);
    }
    writer.flush().unwrap();
    for (format, channels) in [
        (Format::Opus, Channels::Dual),
        (Format::Opus, Channels::Mix),
        (Format::Wav, Channels::Dual),
        (Format::Wav, Channels::Mix),
    ] {
        let start = Instant::now();
        let mut rendition = Rendition::open(reader.clone(), recording.id, format, channels).unwrap();
        let opened = start.elapsed();
        let middle = rendition.len() / 2;
        let start = Instant::now();
        let mut part = Vec::new();
        rendition.read(middle..middle + 65_536, &mut part).unwrap();
        let sought = start.elapsed();
        println!(
            "{format} {channels}: an hour of {} bytes opened in {opened:.1?}, 64 KiB from its middle in {sought:.1?}",
            rendition.len()
        );
        // Far above what was measured, far below what making the whole file takes.
        assert!(opened.as_secs() < 5 && sought.as_secs() < 5, "{format} {channels}: {opened:?}, {sought:?}");
    }
}
