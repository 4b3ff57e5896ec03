//! One store: opening, closing, reading beside a writer, and every way in which opening is refused.

mod support;

use sidetone_log::Fact;
use sidetone_model::{CaptureTime, RecordingState, Tick, TrackId};
use sidetone_store::{Query, Store, StoreError, StoreOptions, StoreReader, VolumeState, Watermark};
use std::path::Path;
use support::{Opened, fact, header, id, open, options, recording};

/// Recordings, chunks of the first one (first grid step and payload), and the counts of both.
type Shown = (Vec<sidetone_model::Recording>, Vec<(u64, Vec<u8>)>, u64, u64);

fn shown(reader: &std::sync::Arc<StoreReader>) -> Shown {
    let page = reader.search(&Query { limit: 1000, ..Query::default() }).unwrap();
    let chunks = reader.chunks(id(1), TrackId(0), Tick(0)..Tick(u64::MAX)).unwrap();
    let chunks = chunks.map(Result::unwrap).map(|chunk| (chunk.header.first_tick.0, chunk.payload)).collect();
    let statistics = reader.statistics().unwrap().catalog;
    (page.recordings, chunks, statistics.recordings, statistics.chunks)
}

#[test]
fn what_was_flushed_is_read_back_in_grid_order_and_again_after_reopening() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let mut store = open(&path);
    store.writer.append_fact(fact(recording(1, RecordingState::Active), Some(5))).unwrap();
    for tick in [150, 50, 100, 0] {
        store.writer.append_chunk(&header(1, tick), &[tick as u8; 1000]).unwrap();
    }
    assert_eq!(store.reader.statistics().unwrap().catalog.chunks, 0, "nothing shows before it is durable");
    let durable = store.flush();
    assert_eq!((durable.chunks, durable.facts), (4, 1));
    assert!(durable.bytes > 4000);
    assert_eq!(store.flush().chunks, 0);
    let reader = &store.reader;
    let first_ticks = |range: std::ops::Range<u64>| -> Vec<u64> {
        let chunks = reader.chunks(id(1), TrackId(0), Tick(range.start)..Tick(range.end)).unwrap();
        chunks.map(|chunk| chunk.unwrap().header.first_tick.0).collect()
    };
    assert_eq!(first_ticks(0..u64::MAX), [0, 50, 100, 150]);
    assert_eq!(first_ticks(99..101), [50, 100]);
    assert!(first_ticks(200..300).is_empty());
    assert_eq!(reader.active_with_resume().unwrap()[0].1.json(), "5");
    // The same again: nothing is there twice.
    let before = shown(&store.reader);
    store.writer.append_chunk(&header(1, 50), &[50; 1000]).unwrap();
    store.writer.append_fact(fact(recording(1, RecordingState::Active), Some(5))).unwrap();
    store.flush();
    assert_eq!((shown(&store.reader).0, shown(&store.reader).1), (before.0, before.1));
    store.writer.append_fact(fact(recording(1, RecordingState::Complete), None)).unwrap();
    store.writer.append_fact(Fact::Replayed { digest: "abc".into(), at: CaptureTime(2) }).unwrap();
    // Dropping flushes; the next start catches up.
    drop(store);
    let store = open(&path);
    assert!(store.reader.statistics().unwrap().keeper.unwrap().caught_up_records >= 2);
    assert_eq!(shown(&store.reader).0[0].state, RecordingState::Complete);
    assert!(store.reader.has_replayed("abc").unwrap());
    assert!(store.reader.active_with_resume().unwrap().is_empty());
    store.close();
    let store = open(&path);
    assert_eq!(store.reader.statistics().unwrap().keeper.unwrap().caught_up_records, 0);
}

#[test]
fn a_recording_that_is_over_moves_into_a_segment_and_the_journal_goes() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let mut store = open(&path);
    for number in 1..=30 {
        store.writer.append_fact(fact(recording(number, RecordingState::Active), Some(1))).unwrap();
        for second in 0..20 {
            store.writer.append_chunk(&header(number, second * 50), &[number as u8; 20_000]).unwrap();
        }
        store.flush();
        store.writer.append_fact(fact(recording(number, RecordingState::Complete), None)).unwrap();
        store.flush();
    }
    store.settle();
    let statistics = store.reader.statistics().unwrap();
    let keeper = statistics.keeper.unwrap();
    assert_eq!((keeper.sealed_runs, keeper.sealed_chunks, keeper.unsealed_bytes), (30, 600, 0));
    assert!(keeper.retired_files >= 2, "{keeper:?}");
    assert!(keeper.segments_closed >= 2, "{keeper:?}");
    let files = std::fs::read_dir(path.join("journal")).unwrap().count();
    assert!(files <= 2, "{files} journal files are left");
    let proof = store.reader.recording(id(7)).unwrap().unwrap().proof.expect("it is sealed");
    assert_eq!((proof.chunks, proof.bytes), (20, 400_000));
    let audio = |store: &Opened| -> Vec<Vec<u8>> {
        let chunks = store.reader.chunks(id(7), TrackId(0), Tick(0)..Tick(u64::MAX)).unwrap();
        chunks.map(|chunk| chunk.unwrap().payload).collect()
    };
    assert_eq!(audio(&store), vec![vec![7; 20_000]; 20]);
    store.close();
    let store = open(&path);
    assert_eq!(audio(&store), vec![vec![7; 20_000]; 20]);
    assert_eq!(store.reader.recording(id(7)).unwrap().unwrap().proof, Some(proof));
}

#[test]
fn a_lost_catalog_is_made_again_from_segments_and_journals() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let mut store = open(&path);
    for number in 1..=300 {
        store.writer.append_chunk(&header(number % 40, number as u64 * 50), &[number as u8; 20_000]).unwrap();
        let state = if number < 200 { RecordingState::Complete } else { RecordingState::Active };
        store.writer.append_fact(fact(recording(number % 40, state), None)).unwrap();
        if number % 10 == 0 {
            store.flush();
        }
    }
    store.settle();
    let before = shown(&store.reader);
    assert!(store.reader.statistics().unwrap().catalog.runs > 30);
    drop(store);
    std::fs::remove_dir_all(path.join("catalog")).unwrap();
    let store = open(&path);
    assert_eq!(shown(&store.reader), before);
    drop(store);

    // The other way round, nothing is made up.
    std::fs::remove_dir_all(path.join("journal")).unwrap();
    let error = Store::open(&path, &options()).err().unwrap();
    assert!(matches!(error, StoreError::CatalogAhead { .. }), "{error}");
}

#[test]
fn a_reader_beside_the_writer_follows_when_it_refreshes() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let mut store = open(&path);
    store.writer.append_fact(fact(recording(1, RecordingState::Active), None)).unwrap();
    store.flush();
    let beside = StoreReader::open(&path).unwrap();
    assert_eq!(shown(&beside).0.len(), 1);
    store.writer.append_fact(fact(recording(2, RecordingState::Active), None)).unwrap();
    store.writer.append_chunk(&header(1, 0), b"audio").unwrap();
    store.flush();
    assert_eq!(shown(&beside).0.len(), 1, "as of opening");
    beside.refresh().unwrap();
    assert_eq!(shown(&beside).0.len(), 2);
    assert_eq!(shown(&beside).1, [(0, b"audio".to_vec())]);
    // Also when tables were written, and audio has moved meanwhile.
    for round in 0..20 {
        for number in 0..200 {
            store.writer.append_fact(fact(recording(number, RecordingState::Complete), None)).unwrap();
        }
        store.writer.append_chunk(&header(1, 50 * (round + 1)), &[7; 100]).unwrap();
        store.flush();
    }
    beside.refresh().unwrap();
    assert_eq!(shown(&beside).2, 200);
    assert_eq!(shown(&beside).1.len(), 21);
    let statistics = beside.statistics().unwrap();
    assert!(statistics.writer.is_none() && statistics.volumes[0].journal_bytes > 0);
}

#[test]
fn appending_without_end_flushes_by_itself_and_counts_right() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = open(&directory.path().join("store"));
    for number in 0..40_000 {
        store.writer.append_chunk(&header(1, number * 50), &[1; 100]).unwrap();
    }
    let durable = store.writer.poll();
    assert!(durable.chunks >= 16_384, "memory is bounded: {durable:?}");
    assert_eq!(store.flush().chunks + durable.chunks, 40_000);
    store.flush();
    assert_eq!(store.reader.statistics().unwrap().catalog.chunks, 40_000);
}

#[test]
fn damage_costs_what_it_hit_and_makes_the_recording_incomplete() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let mut store = open(&path);
    store.writer.append_fact(fact(recording(1, RecordingState::Active), None)).unwrap();
    for tick in 0..20 {
        store.writer.append_chunk(&header(1, tick * 50), &[9; 3000]).unwrap();
        store.flush();
    }
    let location = store.reader.chunk_locations(id(1), TrackId(0), Tick(500)..Tick(501)).unwrap().remove(0);
    let sidetone_store::ChunkPlace::Journal { located, .. } = location.place else { panic!("it is not sealed") };
    store.close();
    let file = path.join("journal/0000000001.jnl");
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[located.position.offset as usize + 1000] ^= 4;
    std::fs::write(&file, bytes).unwrap();
    let mut store = open(&path);
    let read: Vec<bool> =
        store.reader.chunks(id(1), TrackId(0), Tick(0)..Tick(u64::MAX)).unwrap().map(|chunk| chunk.is_ok()).collect();
    assert_eq!(read.iter().filter(|&&good| good).count(), 19);
    assert!(!read[10]);
    // Sealed, it says what is missing.
    store.writer.append_fact(fact(recording(1, RecordingState::Complete), None)).unwrap();
    store.settle();
    let shown = store.reader.recording(id(1)).unwrap().unwrap();
    assert_eq!(shown.state, RecordingState::Incomplete);
    assert_eq!(shown.gaps.len(), 1);
    assert_eq!((shown.gaps[0].from, shown.gaps[0].to), (Tick(500).start(), Some(Tick(550).start())));
    assert_eq!(shown.proof.unwrap().chunks, 19);
    assert_eq!(store.reader.statistics().unwrap().keeper.unwrap().damaged_chunks, 1);
    assert_eq!(store.reader.chunks(id(1), TrackId(0), Tick(0)..Tick(u64::MAX)).unwrap().count(), 19);
}

#[test]
fn who_only_reads_calls_the_same_free_space_little() {
    let directory = tempfile::tempdir().unwrap();
    let mut options = options();
    // No disk has all of its size free.
    options.space.low = Watermark { part: 1.0, bytes_max: u64::MAX };
    let store = support::open_with(directory.path(), &options);
    let state = |reader: &StoreReader| reader.statistics().unwrap().volumes[0].state;
    assert_ne!(state(&store.reader), VolumeState::Ok);
    let reader = StoreReader::open_with(directory.path(), Some(&options)).unwrap();
    assert_eq!(state(&reader), state(&store.reader));
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
    let Opened { writer, keeper, reader, handle } = open(&path);
    let message = refused(&path, &options());
    assert!(message.contains(&format!("in use by process {}", std::process::id())), "{message}");
    // Also while only the reading side is left.
    drop((writer, keeper, handle));
    assert!(matches!(Store::open(&path, &options()), Err(StoreError::Locked { .. })));
    drop(reader);
    drop(open(&path));

    // Of a later version, or unreadable.
    let description = path.join("sidetone-store.json");
    let text = std::fs::read_to_string(&description).unwrap();
    std::fs::write(&description, text.replace("\"version\": 2", "\"version\": 7, \"new\": true")).unwrap();
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
