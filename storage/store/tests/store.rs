//! One store: opening, closing, reading beside a writer, and every way in which opening is refused.

use sidetone_log::{ChunkCodec, ChunkHeader, Fact};
use sidetone_model::{
    CaptureTime, ConversationId, NodeName, Party, PartyRole, Recording, RecordingId, RecordingState, SCHEMA_VERSION,
    Tick, TrackId,
};
use sidetone_store::{JournalConfig, RecordingQuery, Store, StoreError, StoreOptions, StoreReader, StoreWriter};
use std::path::Path;
use std::sync::Arc;
use uuid::Uuid;

fn options() -> StoreOptions {
    let journal = JournalConfig { file_bytes: 4 << 20, buffer_bytes: 2 << 20, block_bytes: 64 << 10, direct_io: true };
    StoreOptions { create: true, node: NodeName("box-1".into()), journal }
}

fn open(directory: &Path) -> (StoreWriter, Arc<StoreReader>) {
    Store::open(directory, &options()).unwrap().split()
}

fn id(number: u128) -> RecordingId {
    RecordingId(Uuid::from_u128(number))
}

fn recording(number: u128, state: RecordingState) -> Recording {
    Recording {
        schema: SCHEMA_VERSION,
        id: id(number),
        node: NodeName("box-1".into()),
        conversation_id: ConversationId(Uuid::from_u128(9)),
        state,
        started_at: CaptureTime(1_000_000_000 * number as u64),
        answered_at: None,
        ended_at: None,
        duration_seconds: 1.5,
        end_reason: None,
        users: Vec::new(),
        gaps: Vec::new(),
        pauses: Vec::new(),
        legs: Vec::new(),
        parties: vec![Party {
            id: 0,
            role: PartyRole::Caller,
            number: format!("+49 30 {number}"),
            name: "Anna".into(),
            address: "192.0.2.1:5060".into(),
            joined_at: CaptureTime(1),
            left_at: None,
        }],
        tracks: Vec::new(),
    }
}

fn fact(recording: Recording, resume: Option<u64>) -> Fact {
    Fact::Recording { recording: Arc::new(recording), resume: resume.map(serde_json::Value::from) }
}

fn header(recording: u128, first_tick: u64) -> ChunkHeader {
    ChunkHeader {
        recording: id(recording),
        track: TrackId(0),
        first_tick: Tick(first_tick),
        ticks: 50,
        packets: 50,
        codec: ChunkCodec::OpusNarrowband,
        key_id: [0; 16],
        nonce: [0; 12],
        tag: [0; 16],
    }
}

/// Recordings, chunks of the first one (first grid step and payload), and the counts of both.
type Shown = (Vec<Recording>, Vec<(u64, Vec<u8>)>, u64, u64);

fn shown(reader: &StoreReader) -> Shown {
    let page = reader.search(&RecordingQuery { limit: 1000, ..RecordingQuery::default() }).unwrap();
    let chunks = reader.chunks(id(1), TrackId(0), Tick(0)..Tick(u64::MAX)).unwrap();
    let chunks = chunks.map(Result::unwrap).map(|chunk| (chunk.header.first_tick.0, chunk.payload)).collect();
    let statistics = reader.statistics().unwrap().catalog;
    (page.recordings, chunks, statistics.recordings, statistics.chunks)
}

#[test]
fn what_was_flushed_is_read_back_in_grid_order_and_again_after_reopening() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let (mut writer, reader) = open(&path);
    writer.append_fact(&fact(recording(1, RecordingState::Active), Some(5))).unwrap();
    for tick in [150, 50, 100, 0] {
        writer.append_chunk(&header(1, tick), &[tick as u8; 1000]).unwrap();
    }
    assert_eq!(reader.statistics().unwrap().catalog.chunks, 0, "nothing shows before it is durable");
    let flushed = writer.flush().unwrap();
    assert_eq!((flushed.chunks, flushed.facts), (4, 1));
    assert!(flushed.bytes > 4000);
    assert_eq!(writer.flush().unwrap().chunks, 0);
    let first_ticks = |range: std::ops::Range<u64>| -> Vec<u64> {
        let chunks = reader.chunks(id(1), TrackId(0), Tick(range.start)..Tick(range.end)).unwrap();
        chunks.map(|chunk| chunk.unwrap().header.first_tick.0).collect()
    };
    assert_eq!(first_ticks(0..u64::MAX), [0, 50, 100, 150]);
    assert_eq!(first_ticks(99..101), [50, 100]);
    assert!(first_ticks(200..300).is_empty());
    assert_eq!(reader.active_with_resume().unwrap()[0].1, serde_json::Value::from(5));
    // The same again: nothing changes but the place in the journal.
    let before = shown(&reader);
    writer.append_chunk(&header(1, 50), &[50; 1000]).unwrap();
    writer.append_fact(&fact(recording(1, RecordingState::Active), Some(5))).unwrap();
    writer.flush().unwrap();
    assert_eq!(shown(&reader), before);
    writer.append_fact(&fact(recording(1, RecordingState::Complete), None)).unwrap();
    writer.append_fact(&Fact::Replayed { digest: "abc".into(), at: CaptureTime(2) }).unwrap();
    // Dropping flushes.
    drop(writer);
    let before = shown(&reader);
    drop(reader);
    let (writer, reader) = open(&path);
    assert_eq!(writer.statistics().replayed, 0);
    assert_eq!(shown(&reader), before);
    assert_eq!(before.0[0].state, RecordingState::Complete);
    assert!(reader.has_replayed("abc").unwrap());
    assert!(reader.active_with_resume().unwrap().is_empty());
}

#[test]
fn a_lost_catalog_is_made_again_from_the_journal() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let (mut writer, reader) = open(&path);
    for number in 1..=300 {
        writer.append_chunk(&header(1, number as u64 * 50), &[number as u8; 2000]).unwrap();
        writer.append_fact(&fact(recording(number % 40, RecordingState::Active), None)).unwrap();
        if number % 10 == 0 {
            writer.append_fact(&fact(recording(number % 40, RecordingState::Complete), None)).unwrap();
            writer.flush().unwrap();
        }
    }
    writer.flush().unwrap();
    let before = shown(&reader);
    drop((writer, reader));
    std::fs::remove_dir_all(path.join("catalog")).unwrap();
    let (writer, reader) = open(&path);
    assert_eq!(writer.statistics().replayed, 630);
    assert_eq!(shown(&reader), before);
    drop((writer, reader));

    // The other way round, nothing is made up.
    std::fs::remove_dir_all(path.join("journal")).unwrap();
    let error = Store::open(&path, &options()).err().unwrap();
    assert!(matches!(error, StoreError::CatalogAhead { .. }), "{error}");
}

#[test]
fn a_reader_beside_the_writer_follows_when_it_refreshes() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let (mut writer, _own_reader) = open(&path);
    writer.append_fact(&fact(recording(1, RecordingState::Active), None)).unwrap();
    writer.flush().unwrap();
    let beside = StoreReader::open(&path).unwrap();
    assert_eq!(shown(&beside).0.len(), 1);
    writer.append_fact(&fact(recording(2, RecordingState::Active), None)).unwrap();
    writer.append_chunk(&header(1, 0), b"audio").unwrap();
    writer.flush().unwrap();
    assert_eq!(shown(&beside).0.len(), 1, "as of opening");
    beside.refresh().unwrap();
    assert_eq!(shown(&beside).0.len(), 2);
    assert_eq!(shown(&beside).1, [(0, b"audio".to_vec())]);
    // Also when tables were written and old ones deleted meanwhile.
    for round in 0..20 {
        for number in 0..200 {
            writer.append_fact(&fact(recording(number, RecordingState::Complete), None)).unwrap();
        }
        writer.append_chunk(&header(1, 50 * (round + 1)), &[7; 100]).unwrap();
        writer.flush().unwrap();
    }
    beside.refresh().unwrap();
    assert_eq!(shown(&beside).2, 200);
    assert_eq!(shown(&beside).1.len(), 21);
}

#[test]
fn appending_without_end_flushes_by_itself_and_counts_right() {
    let directory = tempfile::tempdir().unwrap();
    let (mut writer, reader) = open(&directory.path().join("store"));
    for number in 0..40_000 {
        writer.append_chunk(&header(1, number * 50), &[1; 20]).unwrap();
    }
    assert!(reader.statistics().unwrap().catalog.chunks >= 16_384, "memory is bounded");
    assert_eq!(writer.flush().unwrap().chunks, 40_000);
    assert_eq!(reader.statistics().unwrap().catalog.chunks, 40_000);
}

#[test]
fn damage_costs_what_it_hit_and_is_counted() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let (mut writer, reader) = open(&path);
    for tick in 0..20 {
        writer.append_chunk(&header(1, tick * 50), &[9; 3000]).unwrap();
        writer.flush().unwrap();
    }
    let location = reader.chunk_locations(id(1), TrackId(0), Tick(500)..Tick(501)).unwrap()[0];
    drop((writer, reader));
    let file = path.join("journal/0000000001.jnl");
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[location.located.position.offset as usize + 1000] ^= 4;
    std::fs::write(&file, bytes).unwrap();
    let (writer, reader) = open(&path);
    let read: Vec<bool> =
        reader.chunks(id(1), TrackId(0), Tick(0)..Tick(u64::MAX)).unwrap().map(|chunk| chunk.is_ok()).collect();
    assert_eq!(read.iter().filter(|&&good| good).count(), 19);
    assert!(!read[10]);
    drop((writer, reader));
    std::fs::remove_dir_all(path.join("catalog")).unwrap();
    let (writer, reader) = open(&path);
    assert_eq!(writer.statistics().damaged, 1);
    assert_eq!(reader.statistics().unwrap().catalog.chunks, 19);
}

#[test]
fn every_refusal_names_cause_and_remedy() {
    let directory = tempfile::tempdir().unwrap();
    let refused = |path: &Path, options: &StoreOptions| Store::open(path, options).err().unwrap().to_string();
    let here = directory.path();

    // Nothing there.
    let absent = here.join("absent");
    let message = refused(&absent, &StoreOptions { create: false, ..options() });
    assert!(message.contains("no store in") && message.contains("check the path"), "{message}");
    assert!(!absent.exists(), "nothing is half-made");
    assert!(matches!(StoreReader::open(&absent), Err(StoreError::NotFound { .. })));

    // Somebody else's directory, or a file.
    let foreign = here.join("foreign");
    std::fs::create_dir(&foreign).unwrap();
    std::fs::write(foreign.join("thesis.txt"), "mine").unwrap();
    let message = refused(&foreign, &options());
    assert!(message.contains("holds files but no store") && message.contains("empty or a new"), "{message}");
    assert_eq!(std::fs::read_dir(&foreign).unwrap().count(), 1, "nothing is added to it");
    let message = refused(&foreign.join("thesis.txt"), &options());
    assert!(message.contains("no store"), "{message}");

    // In use.
    let path = here.join("store");
    let held = open(&path);
    let message = refused(&path, &options());
    assert!(message.contains(&format!("in use by process {}", std::process::id())), "{message}");
    // Also while only the reading side is left.
    drop(held.0);
    assert!(matches!(Store::open(&path, &options()), Err(StoreError::Locked { .. })));
    drop(held.1);
    drop(open(&path));

    // Of a later version, or unreadable.
    let description = path.join("sidetone-store.json");
    let text = std::fs::read_to_string(&description).unwrap();
    std::fs::write(&description, text.replace("\"version\": 1", "\"version\": 7, \"new\": true")).unwrap();
    let message = refused(&path, &options());
    assert!(message.contains("version 7") && message.contains("use a newer one"), "{message}");
    std::fs::write(&description, "{").unwrap();
    assert!(refused(&path, &options()).contains("cannot be read"));
    std::fs::write(&description, &text).unwrap();

    // The journal of another store.
    let other = here.join("other");
    drop(open(&other));
    std::fs::copy(other.join("journal/0000000001.jnl"), path.join("journal/0000000009.jnl")).unwrap();
    let message = refused(&path, &options());
    assert!(message.contains("belongs to store"), "{message}");
    std::fs::remove_file(path.join("journal/0000000009.jnl")).unwrap();
    drop(open(&path));
}

#[test]
fn a_broken_catalog_is_told_with_its_remedy_and_the_remedy_works() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let (mut writer, reader) = open(&path);
    writer.append_fact(&fact(recording(1, RecordingState::Complete), None)).unwrap();
    writer.flush().unwrap();
    drop((writer, reader));
    for entry in std::fs::read_dir(path.join("catalog")).unwrap() {
        let entry = entry.unwrap();
        if entry.file_name().to_string_lossy().starts_with("MANIFEST") {
            std::fs::write(entry.path(), b"garbage").unwrap();
        }
    }
    let message = Store::open(&path, &options()).err().unwrap().to_string();
    assert!(message.contains("made again from the journal"), "{message}");
    std::fs::remove_dir_all(path.join("catalog")).unwrap();
    let (_writer, reader) = open(&path);
    assert_eq!(shown(&reader).0.len(), 1);
}
