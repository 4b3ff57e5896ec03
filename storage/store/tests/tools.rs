//! What is done to a whole store: checking it, making its catalog anew, backing it up and restoring it.

mod support;

use sidetone_catalog::{RocksCatalog, dump};
use sidetone_model::{Hold, RecordingState, Retention, Tick, TrackId};
use sidetone_store::{
    AnnotationChange, BackupOptions, ChunkPlace, LogFileName, Query, RebuildOptions, SealingOptions, SegmentConfig,
    Store, StoreError, StoreEvent, StoreOptions, StoreReader, VerifyOptions, VerifyReport, VolumeNumber, VolumeState,
    backup, rebuild, restore, verify,
};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use support::{Opened, fact, header, id, open_with, recording};

/// One volume. What goes on stays in the journal, however long ago 1970 is.
fn options() -> StoreOptions {
    let options = support::options();
    let sealing = SealingOptions { running_after: Duration::from_secs(1 << 40), ..options.sealing };
    StoreOptions { sealing, ..options }
}

/// A store with two volumes.
fn two_volumes(directory: &Path) -> StoreOptions {
    StoreOptions { volumes: vec![directory.join("disk1")], ..options() }
}

/// Recordings `numbers` at the same time, of which those below `over` are over, with 10 chunks each.
fn fill(store: &mut Opened, numbers: std::ops::Range<u128>, over: u128) {
    for number in numbers.clone() {
        store.writer.append_fact(fact(recording(number, RecordingState::Active), Some(number as u64))).unwrap();
        for second in 0..10 {
            store.writer.append_chunk(&header(number, second * 50), &[number as u8; 5000]).unwrap();
        }
        store.flush();
    }
    for number in numbers.filter(|&number| number < over) {
        store.writer.append_fact(fact(recording(number, RecordingState::Complete), None)).unwrap();
    }
    store.flush();
}

fn audio(reader: &std::sync::Arc<StoreReader>, number: u128) -> Vec<Vec<u8>> {
    let chunks = reader.chunks(id(number), TrackId(0), Tick(0)..Tick(u64::MAX)).unwrap();
    chunks.map(|chunk| chunk.unwrap().payload).collect()
}

fn lines(home: &Path) -> Vec<String> {
    let scratch = tempfile::tempdir().unwrap();
    let catalog = RocksCatalog::open_secondary(&home.join("catalog"), scratch.path()).unwrap();
    let mut lines = Vec::new();
    dump(&catalog, &mut |line| lines.push(line.to_owned())).unwrap();
    lines
}

fn check(home: &Path) -> VerifyReport {
    verify(home, &VerifyOptions::default(), &mut |_| ControlFlow::Continue(())).unwrap()
}

fn damage(path: &Path, offset: u64) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[offset as usize] ^= 0x10;
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn a_flipped_bit_is_told_by_recording_track_time_and_place() {
    let directory = tempfile::tempdir().unwrap();
    let home = directory.path().join("store");
    let mut store = open_with(&home, &options());
    fill(&mut store, 1..21, 11);
    store.settle();
    let place = |number, tick: u64| {
        let found = store.reader.chunk_locations(id(number), TrackId(0), Tick(tick)..Tick(tick + 1)).unwrap();
        found.into_iter().next().unwrap().place
    };
    let ChunkPlace::Segment { run, entry } = place(5, 250) else { panic!("it is over, and not sealed") };
    let ChunkPlace::Journal { located, .. } = place(15, 100) else { panic!("it goes on, and is sealed") };
    store.close();
    let clean = check(&home);
    assert!(clean.is_clean(), "{:?}", clean.bad);
    assert_eq!((clean.runs, clean.recordings), (10, 20));

    let segment = LogFileName::Segment(run.segment);
    damage(&home.join(segment.to_string()), run.offset + entry.offset + 2000);
    let journal = LogFileName::Journal(located.position.file);
    damage(&home.join(journal.to_string()), located.position.offset + 2000);
    let report = check(&home);
    let of = |number| {
        let bad: Vec<_> = report.bad.iter().filter(|bad| bad.recording == Some(id(number))).collect();
        assert_eq!(bad.len(), 1, "{:?}", report.bad);
        bad[0].clone()
    };
    let (sealed, unsealed) = (of(5), of(15));
    assert_eq!((sealed.volume, sealed.file, sealed.track), (Some(VolumeNumber(0)), Some(segment), Some(TrackId(0))));
    assert_eq!((sealed.from_time, sealed.to_time), (Some(Tick(250).start()), Some(Tick(300).start())));
    assert!(sealed.from <= run.offset + entry.offset + 2000 && run.offset + entry.offset + 2000 < sealed.to);
    assert_eq!((unsealed.file, unsealed.track), (Some(journal), Some(TrackId(0))));
    assert_eq!((unsealed.from_time, unsealed.to_time), (Some(Tick(100).start()), Some(Tick(150).start())));
    assert_eq!(report.bad_places, 2, "{:?}", report.bad);

    // The rest plays.
    let reader = StoreReader::open(&home).unwrap();
    for number in [5, 15] {
        let chunks = reader.chunks(id(number), TrackId(0), Tick(0)..Tick(u64::MAX)).unwrap();
        assert_eq!(chunks.filter(Result::is_ok).count(), 9, "recording {number}");
    }
    // A damaged index costs nothing of what it tells of.
    damage(&home.join(segment.to_string()), run.offset + run.index_offset + 20);
    let reader = StoreReader::open(&home).unwrap();
    let chunks = reader.chunks(id(5), TrackId(0), Tick(0)..Tick(250)).unwrap();
    assert_eq!(chunks.filter(Result::is_ok).count(), 5, "those before the damaged one");
    assert!(!check(&home).is_clean());
}

#[test]
fn a_catalog_that_differs_from_the_log_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let home = directory.path().join("store");
    let mut store = open_with(&home, &options());
    fill(&mut store, 1..6, 6);
    store.settle();
    store.close();
    // A catalog of a moment ago, beside the log of now.
    let before = directory.path().join("before");
    let copied = std::process::Command::new("cp").arg("-a").arg(home.join("catalog")).arg(&before).status().unwrap();
    assert!(copied.success());
    let mut store = open_with(&home, &options());
    fill(&mut store, 6..11, 11);
    store.settle();
    store.close();
    assert!(check(&home).is_clean());
    std::fs::remove_dir_all(home.join("catalog")).unwrap();
    std::fs::rename(&before, home.join("catalog")).unwrap();
    let report = check(&home);
    let unknown =
        |number| report.bad.iter().any(|bad| bad.recording == Some(id(number)) && bad.what.contains("catalog"));
    assert!((6..11).all(unknown) && !(1..6).any(unknown), "{:?}", report.bad);
    let mut of_recordings = report.bad.iter().filter(|bad| bad.recording.is_some());
    assert!(of_recordings.all(|bad| bad.file.is_none()), "their files are as they were written: {:?}", report.bad);
    assert!(rebuild(&home, &RebuildOptions::default(), &mut |_| {}).unwrap().done.runs == 10);
    assert!(check(&home).is_clean());
}

#[test]
fn verifying_beside_a_writer_says_what_it_leaves_out_and_keeps_to_a_rate() {
    let directory = tempfile::tempdir().unwrap();
    let home = directory.path().join("store");
    let mut store = open_with(&home, &options());
    fill(&mut store, 1..31, 21);
    store.settle();
    store.writer.append_chunk(&header(40, 0), &[1; 5000]).unwrap();
    let began = Instant::now();
    let mut told = 0;
    let options = VerifyOptions { bytes_per_second: Some(4 << 20), ..VerifyOptions::default() };
    let report = verify(&home, &options, &mut |progress| {
        told = progress.bytes;
        ControlFlow::Continue(())
    })
    .unwrap();
    assert!(report.is_clean(), "{:?}", report.bad);
    assert!(report.skipped.iter().any(|skipped| matches!(skipped.file, LogFileName::Journal(_))), "{report:?}");
    assert!(told == report.bytes && report.bytes > 1 << 20, "{report:?}");
    let least = Duration::from_secs_f64(report.bytes as f64 / (4 << 20) as f64 * 0.8);
    assert!(began.elapsed() >= least, "{:?} for {} bytes", began.elapsed(), report.bytes);
    // In the writer's process too, and it can be stopped.
    assert!(store.reader.verify(&VerifyOptions::default(), &mut |_| ControlFlow::Continue(())).unwrap().is_clean());
    let stopped = store.reader.verify(&VerifyOptions::default(), &mut |_| ControlFlow::Break(())).unwrap();
    assert!(stopped.stopped && stopped.files < report.files, "{stopped:?}");
}

#[test]
fn a_segment_that_a_kill_left_open_loses_nothing_that_was_durable_to_a_flipped_bit() {
    let directory = tempfile::tempdir().unwrap();
    let home = directory.path().join("store");
    let mut store = open_with(&home, &options());
    fill(&mut store, 1..11, 11);
    store.settle();
    let runs: Vec<_> = (1..11).map(|number| store.reader.runs(id(number)).unwrap().remove(0)).collect();
    let last = runs.iter().max_by_key(|run| run.offset).unwrap().clone();
    // As a kill leaves it: no footer.
    let Opened { writer, keeper, reader, handle } = store;
    drop((writer, keeper, reader, handle));
    damage(&home.join(LogFileName::Segment(last.segment).to_string()), last.offset + last.length / 2);

    let mut store = open_with(&home, &options());
    store.settle();
    let statistics = store.reader.statistics().unwrap().keeper.unwrap();
    assert!(statistics.damaged_places > 0, "{statistics:?}");
    let mut chunks = 0;
    for number in 1..11 {
        assert_eq!(store.reader.runs(id(number)).unwrap(), [runs[number as usize - 1].clone()]);
        let found = store.reader.chunks(id(number), TrackId(0), Tick(0)..Tick(u64::MAX)).unwrap();
        chunks += found.filter(Result::is_ok).count();
    }
    assert_eq!(chunks, 99, "one chunk is hit");
    store.close();
    let report = check(&home);
    assert!(report.bad.iter().any(|bad| bad.from_time.is_some()), "{report:?}");
    // And again from the files alone.
    rebuild(&home, &RebuildOptions::default(), &mut |_| {}).unwrap();
    let store = open_with(&home, &options());
    assert_eq!(store.reader.search(&Query { limit: 100, ..Query::default() }).unwrap().recordings.len(), 10);
    store.close();
}

#[test]
fn a_recording_whose_audio_may_have_lain_where_a_journal_is_damaged_is_incomplete() {
    let directory = tempfile::tempdir().unwrap();
    let home = directory.path().join("store");
    let waiting = SealingOptions { interval: Duration::from_secs(3600), ..options().sealing };
    let options = StoreOptions { sealing: waiting, ..options() };
    let mut store = open_with(&home, &options);
    store.keeper.step();
    fill(&mut store, 1..4, 4);
    let location = store.reader.chunk_locations(id(2), TrackId(0), Tick(200)..Tick(201)).unwrap().remove(0);
    let ChunkPlace::Journal { located, .. } = location.place else { panic!("nothing is sealed yet") };
    let journal = LogFileName::Journal(located.position.file).to_string();
    let Opened { writer, keeper, reader, handle } = store;
    drop((writer, keeper, reader, handle));
    // The catalog is lost, and a chunk in the journal is damaged.
    std::fs::remove_dir_all(home.join("catalog")).unwrap();
    damage(&home.join(journal), located.position.offset + 2000);

    let mut store = open_with(&home, &options);
    let (events, heard) = std::sync::mpsc::channel();
    store.keeper.on_event(move |event| events.send(event).unwrap());
    store.flush();
    store.flush();
    store.flush();
    let shown = store.reader.recording(id(2)).unwrap().unwrap();
    assert_eq!((shown.state, shown.gaps[0].reason.as_str()), (RecordingState::Incomplete, "damaged in the store"));
    assert!(heard.try_iter().any(|event| matches!(event, StoreEvent::JournalDamaged { .. })));
    store.close();
}

#[test]
fn a_rebuilt_catalog_is_the_same_and_an_interrupted_exchange_is_ended() {
    let directory = tempfile::tempdir().unwrap();
    let home = directory.path().join("store");
    let options = two_volumes(directory.path());
    let mut store = open_with(&home, &options);
    fill(&mut store, 1..31, 21);
    let change = AnnotationChange { set_tags: [("case".into(), "7".into())].into(), ..Default::default() };
    let handle = store.handle.clone();
    let annotating = std::thread::spawn(move || handle.annotate(id(3), &change).unwrap());
    while !annotating.is_finished() {
        store.writer.poll();
        store.keeper.step();
    }
    store.settle();
    assert!(matches!(rebuild(&home, &RebuildOptions::default(), &mut |_| {}), Err(StoreError::Locked { .. })));
    store.close();
    let before = lines(&home);
    assert!(before.iter().any(|line| line.contains("\"case\":\"7\"")));
    let mut told = 0;
    let done = rebuild(&home, &RebuildOptions::default(), &mut |progress| told = progress.segments).unwrap().done;
    assert_eq!((done.damaged_places, done.runs, done.segments), (0, 20, told));
    assert_eq!(lines(&home), before);
    assert!(check(&home).is_clean());

    // Interrupted between the two names.
    std::fs::rename(home.join("catalog"), home.join("catalog.new")).unwrap();
    std::fs::create_dir(home.join("catalog.old")).unwrap();
    let store = open_with(&home, &options);
    assert_eq!(store.reader.search(&Query { limit: 1000, ..Query::default() }).unwrap().recordings.len(), 30);
    assert_eq!(audio(&store.reader, 7), vec![vec![7; 5000]; 10]);
    store.close();
    assert_eq!(lines(&home), before);
}

#[test]
fn a_backup_is_made_while_recording_and_is_a_store_again() {
    let directory = tempfile::tempdir().unwrap();
    let (home, target) = (directory.path().join("store"), directory.path().join("backup"));
    let options = two_volumes(directory.path());
    let mut store = open_with(&home, &options);
    fill(&mut store, 1..21, 11);
    store.settle();
    let first = store.reader.backup(&target, &BackupOptions::default(), &mut |_| {}).unwrap();
    assert!(first.done.bytes > 0 && first.done.files_kept == 0 && first.is_whole(), "{first:?}");
    fill(&mut store, 21..41, 41);
    store.settle();
    // The same again, and more; the second time only what is new.
    let second =
        store.reader.backup(&target, &BackupOptions { link: true, ..Default::default() }, &mut |_| {}).unwrap();
    let third = store.reader.backup(&target, &BackupOptions::default(), &mut |_| {}).unwrap();
    assert!(third.done.files_kept >= second.done.files_total - 4 && third.is_whole(), "{third:?}");
    // What is written after the backup is not in it.
    fill(&mut store, 41..45, 45);
    store.settle();
    assert!(matches!(
        StoreReader::open(&home).unwrap().backup(&target, &BackupOptions::default(), &mut |_| {}),
        Err(StoreError::Locked { .. })
    ));
    store.close();

    let (again, disk) = (directory.path().join("again"), directory.path().join("disk2"));
    let wrong = restore(&target, &again, &[], &mut |_| {});
    assert!(matches!(wrong, Err(StoreError::VolumeCount { wanted: 1, given: 0 })));
    restore(&target, &again, std::slice::from_ref(&disk), &mut |_| {}).unwrap();
    assert!(matches!(
        restore(&target, &again, std::slice::from_ref(&disk), &mut |_| {}),
        Err(StoreError::StoreExists { .. })
    ));
    let report = check(&again);
    assert!(report.is_clean(), "{:?}", report.bad);
    let mut store = open_with(&again, &options.clone().with_volume(&disk));
    assert_eq!(store.reader.search(&Query { limit: 1000, ..Query::default() }).unwrap().recordings.len(), 40);
    for number in 1..41 {
        assert_eq!(audio(&store.reader, number), vec![vec![number as u8; 5000]; 10], "recording {number}");
    }
    // It goes on.
    fill(&mut store, 50..52, 52);
    store.settle();
    store.close();
    assert!(check(&again).is_clean());

    // Of a store that nobody writes; and not into somebody else's directory.
    let cold = directory.path().join("cold");
    backup(&again, &cold, &BackupOptions::default(), &mut |_| {}).unwrap();
    let other = directory.path().join("other");
    open_with(&other, &self::options()).close();
    assert!(matches!(
        backup(&other, &cold, &BackupOptions::default(), &mut |_| {}),
        Err(StoreError::NotABackup { .. })
    ));
    let foreign = directory.path().join("foreign");
    std::fs::create_dir(&foreign).unwrap();
    std::fs::write(foreign.join("thesis.txt"), "mine").unwrap();
    assert!(matches!(
        backup(&home, &foreign, &BackupOptions::default(), &mut |_| {}),
        Err(StoreError::NotABackup { .. })
    ));
}

trait WithVolume {
    fn with_volume(self, directory: &Path) -> StoreOptions;
}

impl WithVolume for StoreOptions {
    fn with_volume(self, directory: &Path) -> StoreOptions {
        StoreOptions { volumes: vec![PathBuf::from(directory)], ..self }
    }
}

#[test]
fn a_volume_that_is_not_mounted_is_missing_and_its_mount_point_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let home = directory.path().join("store");
    let options = two_volumes(directory.path());
    let disk = options.volumes[0].clone();
    let mut store = open_with(&home, &options);
    fill(&mut store, 1..21, 21);
    store.settle();
    let on_disk: Vec<u128> = (1..21)
        .filter(|&number| store.reader.runs(id(number)).unwrap().iter().all(|run| run.volume == VolumeNumber(1)))
        .collect();
    assert!(!on_disk.is_empty() && on_disk.len() < 20, "audio is on both volumes");
    store.close();
    // Unmounted: an empty directory.
    let away = directory.path().join("away");
    std::fs::rename(&disk, &away).unwrap();
    std::fs::create_dir(&disk).unwrap();
    let mut store = open_with(&home, &options);
    let statistics = store.reader.statistics().unwrap();
    assert_eq!(statistics.volumes[1].state, VolumeState::Missing);
    fill(&mut store, 21..26, 26);
    store.settle();
    let number = on_disk[0];
    assert_eq!(store.reader.recording(id(number)).unwrap().unwrap().state, RecordingState::Complete);
    let mut chunks = store.reader.chunks(id(number), TrackId(0), Tick(0)..Tick(u64::MAX)).unwrap();
    assert!(matches!(chunks.next(), Some(Err(StoreError::VolumeMissing { volume: VolumeNumber(1) }))));
    drop(chunks);
    assert_eq!(audio(&store.reader, 23), vec![vec![23; 5000]; 10]);
    store.close();
    assert_eq!(std::fs::read_dir(&disk).unwrap().count(), 0, "nothing is written below the mount point");
    let report = check(&home);
    assert!(report.bad.iter().any(|bad| bad.volume == Some(VolumeNumber(1)) && bad.file.is_none()), "{report:?}");
    assert_eq!(report.bad_places, 1, "{report:?}");
    // Mounted again, elsewhere, while the store is in use.
    let mut store = open_with(&home, &options);
    std::fs::remove_dir(&disk).unwrap();
    std::fs::rename(&away, &disk).unwrap();
    let began = Instant::now();
    while store.reader.statistics().unwrap().volumes[1].state == VolumeState::Missing {
        assert!(began.elapsed() < Duration::from_secs(20), "a volume that is back is found");
        store.writer.poll();
        store.keeper.step();
        std::thread::sleep(Duration::from_millis(20));
    }
    fill(&mut store, 26..46, 46);
    store.settle();
    for number in 1..46 {
        assert_eq!(audio(&store.reader, number), vec![vec![number as u8; 5000]; 10], "recording {number}");
    }
    assert!((26..46).any(|number| store.reader.runs(id(number)).unwrap()[0].volume == VolumeNumber(1)));
    store.close();
    assert!(check(&home).is_clean());
}

#[test]
fn annotations_of_many_at_once_do_not_undo_each_other() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = open_with(&directory.path().join("store"), &options());
    fill(&mut store, 1..3, 3);
    let threads: Vec<_> = (0..8)
        .map(|thread| {
            let handle = store.handle.clone();
            std::thread::spawn(move || {
                for number in 0..10 {
                    let set_tags = [(format!("tag {thread} {number}"), "x".to_owned())].into();
                    handle.annotate(id(1), &AnnotationChange { set_tags, ..Default::default() }).unwrap();
                }
            })
        })
        .collect();
    while threads.iter().any(|thread| !thread.is_finished()) {
        store.writer.poll();
        store.keeper.step();
    }
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(store.reader.recording(id(1)).unwrap().unwrap().annotations.tags.len(), 80);
    let hold = Hold { reason: "case 7".into(), by: "anna".into(), at: Tick(1).start() };
    let retention = Retention { class: "long".into(), expires_at: None };
    let change = AnnotationChange {
        remove_tags: ["tag 0 0".to_owned()].into(),
        hold: Some(Some(hold.clone())),
        retention: Some(Some(retention.clone())),
        ..Default::default()
    };
    let handle = store.handle.clone();
    let annotating = std::thread::spawn(move || {
        let done = handle.annotate(id(1), &change).unwrap();
        assert!(matches!(handle.annotate(id(99), &change), Err(StoreError::NoRecording { .. })));
        let empty = AnnotationChange { set_tags: [(" ".to_owned(), String::new())].into(), ..Default::default() };
        assert!(matches!(handle.annotate(id(1), &empty), Err(StoreError::BadAnnotation { .. })));
        done
    });
    while !annotating.is_finished() {
        store.writer.poll();
        store.keeper.step();
    }
    let done = annotating.join().unwrap();
    assert_eq!((done.tags.len(), done.hold, done.retention), (79, Some(hold), Some(retention)));
    // Without a writer nothing is promised.
    let handle = store.handle.clone();
    store.close();
    assert!(matches!(handle.annotate(id(1), &AnnotationChange::default()), Err(StoreError::Closed)));
}

#[test]
fn the_number_of_a_segment_that_is_lost_is_not_used_again() {
    let directory = tempfile::tempdir().unwrap();
    let home = directory.path().join("store");
    let mut store = open_with(&home, &options());
    fill(&mut store, 1..6, 6);
    store.settle();
    let before = store.reader.runs(id(1)).unwrap()[0].segment;
    store.close();
    let segments = home.join("segments");
    std::fs::remove_dir_all(&segments).unwrap();

    let mut store = open_with(&home, &options());
    fill(&mut store, 6..11, 11);
    store.settle();
    let after = store.reader.runs(id(6)).unwrap()[0].segment;
    assert!(after > before, "{after:?} after {before:?}");
    assert!(!segments.join("0000000001.seg").exists());
    store.close();
}

#[test]
fn files_that_are_gone_are_told_with_what_they_held() {
    let directory = tempfile::tempdir().unwrap();
    let home = directory.path().join("store");
    let mut store = open_with(&home, &options());
    fill(&mut store, 1..11, 6);
    store.settle();
    let sealed = store.reader.runs(id(3)).unwrap()[0].segment;
    store.close();
    assert!(check(&home).is_clean());
    let away = |name: &str| std::fs::rename(home.join(name), directory.path().join("away")).unwrap();
    let back = |name: &str| std::fs::rename(directory.path().join("away"), home.join(name)).unwrap();

    let segment = LogFileName::Segment(sealed);
    away(&segment.to_string());
    let report = check(&home);
    let is_gone = |report: &VerifyReport, file| {
        report.bad.iter().any(|bad| bad.file == Some(file) && bad.what.contains("missing") && bad.recording.is_none())
    };
    assert!(is_gone(&report, segment), "{:?}", report.bad);
    assert!(report.bad.iter().any(|bad| bad.recording == Some(id(3))), "{:?}", report.bad);
    back(&segment.to_string());

    away("journal");
    let report = check(&home);
    let of = |number| report.bad.iter().filter(move |bad| bad.recording == Some(id(number)));
    assert_eq!((of(8).count(), of(3).count()), (10, 0), "each chunk that is in no segment: {:?}", report.bad);
    assert!(of(8).all(|bad| matches!(bad.file, Some(LogFileName::Journal(_))) && bad.from_time.is_some()));
    let error = Store::open(&home, &options()).err().unwrap().to_string();
    assert!(error.contains(&home.join("journal").display().to_string()), "{error}");
    assert!(error.contains(&format!("store rebuild --store {}", home.display())), "{error}");
    std::fs::remove_dir_all(home.join("journal")).unwrap();
    back("journal");
    assert!(check(&home).is_clean());
}

#[test]
fn a_file_that_cannot_be_read_does_not_end_the_check() {
    let directory = tempfile::tempdir().unwrap();
    let home = directory.path().join("store");
    let mut store = open_with(&home, &options());
    fill(&mut store, 1..6, 6);
    store.settle();
    let segment = LogFileName::Segment(store.reader.runs(id(1)).unwrap()[0].segment);
    store.close();
    let clean = check(&home);
    // Reading a directory fails as a device does.
    let path = home.join(segment.to_string());
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    let report = check(&home);
    assert!(report.bad.iter().any(|bad| bad.file == Some(segment)), "{:?}", report.bad);
    assert_eq!((report.files, report.recordings), (clean.files - 1, clean.recordings), "the others are checked");
}

#[test]
fn a_rebuild_that_would_lose_recordings_keeps_the_old_catalog() {
    let directory = tempfile::tempdir().unwrap();
    let home = directory.path().join("store");
    let mut store = open_with(&home, &options());
    fill(&mut store, 1..6, 6);
    store.settle();
    let lost = store.reader.runs(id(1)).unwrap()[0].segment;
    store.close();
    let mut store = open_with(&home, &options());
    fill(&mut store, 6..11, 11);
    store.settle();
    store.close();
    let before = lines(&home);
    std::fs::remove_file(home.join(LogFileName::Segment(lost).to_string())).unwrap();
    let error = rebuild(&home, &RebuildOptions::default(), &mut |_| {}).unwrap_err();
    let StoreError::RecordingsMissing { missing: 5, some } = &error else { panic!("{error}") };
    assert!((1..6).all(|number| some.contains(&id(number))), "{some:?}");
    assert!(
        error.to_string().contains(&id(3).to_string()) && error.to_string().contains("--accept-missing"),
        "{error}"
    );
    assert_eq!(lines(&home), before);
    assert!(!home.join("catalog.new").exists());

    let report = rebuild(&home, &RebuildOptions { accept_missing: true }, &mut |_| {}).unwrap();
    assert_eq!((report.given_up, report.some.len(), report.made_incomplete), (5, 5, 0));
    let reader = StoreReader::open(&home).unwrap();
    assert_eq!(reader.search(&Query { limit: 1000, ..Query::default() }).unwrap().recordings.len(), 5);
}

/// `complete` means whole, also when somebody has given up a file.
#[test]
fn a_recording_that_lost_audio_with_a_file_is_not_complete_after_it_was_given_up() {
    let directory = tempfile::tempdir().unwrap();
    let home = directory.path().join("store");
    let running = SealingOptions { running_after: Duration::ZERO, ..support::options().sealing };
    let sealing_at_once = StoreOptions { sealing: running, ..support::options() };
    // Sealed as far as it is, in a segment of one process; the rest in that of another.
    let mut store = open_with(&home, &sealing_at_once);
    fill(&mut store, 1..3, 2);
    store.settle();
    let first = store.reader.runs(id(2)).unwrap();
    assert_eq!(first.len(), 1);
    store.close();
    let mut store = open_with(&home, &sealing_at_once);
    for second in 10..15 {
        store.writer.append_chunk(&header(2, second * 50), &[2; 5000]).unwrap();
    }
    store.writer.append_fact(fact(recording(2, RecordingState::Complete), None)).unwrap();
    store.settle();
    assert!(store.reader.runs(id(2)).unwrap().iter().any(|run| run.segment != first[0].segment));
    store.close();
    // Whole, and in a journal only.
    let mut store = open_with(&home, &options());
    fill(&mut store, 3..4, 3);
    store.close();
    let is_complete = |number| {
        let found = StoreReader::open(&home).unwrap().recording(id(number)).unwrap().unwrap();
        found.state == RecordingState::Complete && found.gaps.is_empty()
    };
    assert!(is_complete(1) && is_complete(2));

    std::fs::remove_file(home.join(LogFileName::Segment(first[0].segment).to_string())).unwrap();
    assert!(rebuild(&home, &RebuildOptions::default(), &mut |_| {}).is_err());
    assert!(is_complete(2), "nothing is given up yet");
    let report = rebuild(&home, &RebuildOptions { accept_missing: true }, &mut |_| {}).unwrap();
    assert_eq!((report.given_up, report.made_incomplete), (2, 2), "{report:?}");
    assert!(report.some.contains(&id(1)) && report.some.contains(&id(2)), "{report:?}");
    let spans = |number| {
        let reader = StoreReader::open(&home).unwrap();
        let found = reader.recording(id(number)).unwrap().unwrap();
        assert_eq!(found.state, RecordingState::Incomplete);
        found.gaps.iter().map(|gap| (gap.from, gap.to.unwrap())).collect::<Vec<_>>()
    };
    let gap = (Tick(0).start(), Tick(500).start());
    assert!(spans(1) == [gap] && spans(2) == [gap], "what is left of 2 has no gap");
    // It is in the log, not only in the catalog; and nothing is told twice.
    std::fs::remove_dir_all(home.join("catalog")).unwrap();
    let report = rebuild(&home, &RebuildOptions { accept_missing: true }, &mut |_| {}).unwrap();
    assert_eq!((report.given_up, report.made_incomplete), (0, 0), "{report:?}");
    assert!(spans(1) == [gap] && spans(2) == [gap]);
    assert!(check(&home).is_clean(), "{:?}", check(&home).bad);
}

/// The same of a segment whose runs other files tell of.
#[test]
fn a_recording_whose_segment_is_gone_is_not_complete_after_it_was_given_up() {
    let directory = tempfile::tempdir().unwrap();
    let home = directory.path().join("store");
    let mut store = open_with(&home, &options());
    fill(&mut store, 1..4, 4);
    store.settle();
    let run = store.reader.runs(id(2)).unwrap().remove(0);
    store.close();
    // The journal, which has nothing but what was announced, is still there.
    std::fs::remove_file(home.join(LogFileName::Segment(run.segment).to_string())).unwrap();
    let error = rebuild(&home, &RebuildOptions::default(), &mut |_| {}).unwrap_err();
    assert!(matches!(error, StoreError::RecordingsMissing { missing: 3, .. }), "{error}");
    let accept = RebuildOptions { accept_missing: true };
    let report = rebuild(&home, &accept, &mut |_| {}).unwrap();
    assert_eq!((report.given_up, report.made_incomplete), (3, 3), "{report:?}");
    let found = StoreReader::open(&home).unwrap().recording(id(2)).unwrap().unwrap();
    assert_eq!(found.state, RecordingState::Incomplete);
    assert_eq!((found.gaps[0].from, found.gaps[0].to), (Tick(0).start(), Some(Tick(500).start())));
    // Told once.
    assert_eq!(rebuild(&home, &RebuildOptions::default(), &mut |_| {}).unwrap().given_up, 0);
}

/// The same of audio that lay in a journal only.
#[test]
fn a_recording_that_lost_audio_with_a_journal_is_not_complete_after_it_was_given_up() {
    let directory = tempfile::tempdir().unwrap();
    let home = directory.path().join("store");
    let options = two_volumes(directory.path());
    let late = SealingOptions { interval: Duration::from_secs(1 << 40), ..options.sealing.clone() };
    let options = StoreOptions { sealing: late, ..options };
    let mut store = open_with(&home, &options);
    fill(&mut store, 1..9, 9);
    let volume_of =
        |number| match &store.reader.chunk_locations(id(number), TrackId(0), Tick(0)..Tick(1)).unwrap()[0].place {
            ChunkPlace::Journal { volume, .. } => *volume,
            ChunkPlace::Segment { .. } | ChunkPlace::Unreadable { .. } => panic!("it is sealed"),
        };
    let lost: Vec<u128> = (1..9).filter(|&number| volume_of(number) == VolumeNumber(1)).collect();
    assert!(!lost.is_empty() && lost.len() < 8);
    store.close();
    for file in std::fs::read_dir(directory.path().join("disk1/journal")).unwrap() {
        std::fs::remove_file(file.unwrap().path()).unwrap();
    }
    let error = rebuild(&home, &RebuildOptions::default(), &mut |_| {}).unwrap_err();
    assert!(
        matches!(&error, StoreError::RecordingsMissing { missing, .. } if *missing == lost.len() as u64),
        "{error}"
    );
    let report = rebuild(&home, &RebuildOptions { accept_missing: true }, &mut |_| {}).unwrap();
    assert_eq!((report.given_up, report.made_incomplete), (lost.len() as u64, lost.len() as u64), "{report:?}");
    let reader = StoreReader::open(&home).unwrap();
    for number in 1..9 {
        let found = reader.recording(id(number)).unwrap().unwrap();
        let gaps: Vec<_> = found.gaps.iter().map(|gap| (gap.from, gap.to)).collect();
        let whole = (Tick(0).start(), Some(Tick(500).start()));
        match lost.contains(&number) {
            true => assert_eq!((found.state, gaps), (RecordingState::Incomplete, vec![whole])),
            false => assert_eq!((found.state, gaps), (RecordingState::Complete, vec![])),
        }
    }
}

#[test]
fn a_backup_keeps_what_the_store_has_lost() {
    let directory = tempfile::tempdir().unwrap();
    let (home, target) = (directory.path().join("store"), directory.path().join("backup"));
    let mut store = open_with(&home, &options());
    fill(&mut store, 1..11, 6);
    store.settle();
    let segment = LogFileName::Segment(store.reader.runs(id(3)).unwrap()[0].segment).to_string();
    store.close();
    let back_up = || backup(&home, &target, &BackupOptions::default(), &mut |_| {}).unwrap();
    assert!(back_up().is_whole());
    let copy = target.join("volumes/000").join(&segment);
    let before = std::fs::read(&copy).unwrap();
    let differing = |file: &Path| {
        let report = back_up();
        assert_eq!(std::fs::read(&copy).unwrap(), before);
        assert!(report.differing.iter().any(|differing| differing.copy == *file), "{report:?}");
    };
    // Cut, as by a repair of the file system.
    let path = home.join(&segment);
    std::fs::write(&path, &before[..before.len() / 2]).unwrap();
    differing(&copy);
    // Another file of that name, and the same one with another end.
    std::fs::write(&path, vec![7; before.len()]).unwrap();
    differing(&copy);
    let mut other = before.clone();
    *other.last_mut().unwrap() ^= 1;
    let footer = other.len() - 4000;
    other[footer] ^= 1;
    std::fs::write(&path, &other).unwrap();
    differing(&copy);
    std::fs::remove_file(&path).unwrap();
    differing(&copy);
    std::fs::write(&path, &before).unwrap();
    assert!(back_up().is_whole());
    // The journal is gone: what the backup has of it stays.
    std::fs::rename(home.join("journal"), directory.path().join("away")).unwrap();
    let journals = || std::fs::read_dir(target.join("volumes/000/journal")).unwrap().map(|entry| entry.unwrap().path());
    let held: Vec<PathBuf> = journals().collect();
    differing(&held[0]);
    assert_eq!(journals().count(), held.len());
    // The backup is what it was: a whole store.
    let again = directory.path().join("again");
    restore(&target, &again, &[], &mut |_| {}).unwrap();
    assert!(check(&again).is_clean());
}

/// The catalog is a projection: nothing that is wrong with it keeps anybody from the recordings, or from checking them.
#[test]
fn without_its_catalog_a_store_is_checked_and_a_backup_restored() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let (home, target) = (path("store"), path("backup"));
    let mut store = open_with(&home, &two_volumes(directory.path()));
    fill(&mut store, 1..21, 11);
    store.settle();
    assert!(store.reader.backup(&target, &BackupOptions::default(), &mut |_| {}).unwrap().is_whole());
    store.close();
    let (before, clean) = (lines(&home), check(&home));
    assert_eq!(check(&target).chunks, clean.chunks);
    assert!(clean.is_clean(), "{:?}", clean.bad);

    // One file of the backup's catalog is gone.
    let mut tables: Vec<PathBuf> =
        std::fs::read_dir(target.join("catalog/shared_checksum")).unwrap().map(|entry| entry.unwrap().path()).collect();
    tables.sort();
    std::fs::remove_file(&tables[0]).unwrap();
    let only_catalog = |report: &VerifyReport| {
        assert!((report.chunks, report.runs) == (clean.chunks, clean.runs), "all audio is read: {report:?}");
        assert_eq!(report.bad_places, 1, "{:?}", report.bad);
        assert!(report.bad[0].volume.is_none() && report.bad[0].what.contains("catalog"), "{:?}", report.bad);
    };
    only_catalog(&check(&target));
    let (again, disk) = (path("again"), path("disk2"));
    let report = restore(&target, &again, std::slice::from_ref(&disk), &mut |_| {}).unwrap();
    assert!(report.catalog_made_anew.is_some());
    assert!(check(&again).is_clean(), "{:?}", check(&again).bad);
    assert_eq!(lines(&again), before);
    let reader = StoreReader::open(&again).unwrap();
    assert!((1..21).all(|number| audio(&reader, number).len() == 10));
    drop(reader);
    let run = StoreReader::open(&home).unwrap().runs(id(1)).unwrap().remove(0);
    let volume = if run.volume == VolumeNumber(0) { home.clone() } else { path("disk1") };
    let segment = volume.join(LogFileName::Segment(run.segment).to_string());
    std::fs::write(home.join("catalog/CURRENT"), "nothing").unwrap();
    let report = check(&home);
    assert!(report.bad_places == 1 && report.chunks == clean.chunks, "{report:?}");
    // What is damaged beside it is told, too.
    damage(&segment, run.offset + run.length / 2);
    assert_eq!(check(&home).bad_places, 2, "{:?}", check(&home).bad);
}

#[test]
fn a_backup_is_checked_where_it_lies() {
    let directory = tempfile::tempdir().unwrap();
    let (home, target) = (directory.path().join("store"), directory.path().join("backup"));
    let options = two_volumes(directory.path());
    let mut store = open_with(&home, &options);
    fill(&mut store, 1..21, 11);
    store.settle();
    let run = store.reader.runs(id(3)).unwrap().remove(0);
    store.reader.backup(&target, &BackupOptions::default(), &mut |_| {}).unwrap();
    store.close();
    let report = check(&target);
    assert!(report.is_clean() && report.runs == 10 && report.recordings == 20, "{report:?}");
    let place = target.join(format!("volumes/{:03}", run.volume.0));
    let segment = LogFileName::Segment(run.segment);
    let path = place.join(segment.to_string());
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, &whole[..run.offset as usize + 4096]).unwrap();
    let is_told = || check(&target).bad.iter().any(|bad| bad.file == Some(segment) && bad.recording == Some(id(3)));
    assert!(is_told(), "a copy that is too short");
    std::fs::remove_file(&path).unwrap();
    assert!(is_told(), "a copy that is gone");
    std::fs::remove_dir_all(target.join("volumes/001")).unwrap();
    assert!(check(&target).bad.iter().any(|bad| bad.volume == Some(VolumeNumber(1)) && bad.file.is_none()));
}

#[test]
fn what_was_sealed_while_a_backup_was_made_is_not_its_damage() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    // Segments are full, and closed, after a few recordings.
    let segments = SegmentConfig { file_bytes: 512 << 10, ..options().segments };
    let options = StoreOptions { segments, ..options() };
    let mut store = open_with(&path("store"), &options);
    fill(&mut store, 1..21, 21);
    store.settle();
    let reader = std::sync::Arc::clone(&store.reader);
    let mut is_copying = false;
    reader
        .backup(&path("backup"), &BackupOptions::default(), &mut |done| {
            // The catalog is copied, the segments are not.
            if done.files_total > 0 && !std::mem::replace(&mut is_copying, true) {
                fill(&mut store, 21..61, 61);
                store.settle();
            }
        })
        .unwrap();
    assert!(is_copying);
    let report = check(&path("backup"));
    assert!(report.is_clean(), "{:?}", report.bad);
    // It is none of these.
    let is_backup = |error: StoreError| matches!(error, StoreError::IsABackup { .. });
    assert!(is_backup(rebuild(&path("backup"), &RebuildOptions::default(), &mut |_| {}).unwrap_err()));
    assert!(is_backup(backup(&path("backup"), &path("of it"), &BackupOptions::default(), &mut |_| {}).unwrap_err()));
    assert!(is_backup(Store::open(&path("backup"), &options).err().unwrap()));
    restore(&path("backup"), &path("again"), &[], &mut |_| {}).unwrap();
    let options_of_check = VerifyOptions { catalog_is_older: true, ..VerifyOptions::default() };
    let report = verify(&path("again"), &options_of_check, &mut |_| ControlFlow::Continue(())).unwrap();
    assert!(report.is_clean(), "{:?}", report.bad);
    assert!(
        !check(&path("again")).is_clean(),
        "nothing was sealed that the catalog does not know: this test sees nothing"
    );
    // Opening brings it in.
    let again = open_with(&path("again"), &options);
    assert_eq!(audio(&again.reader, 60), vec![vec![60; 5000]; 10]);
    again.close();
    assert!(check(&path("again")).is_clean());
    store.close();
    // Without its catalog a store is not saved as one that is empty, and a new one knows nothing that only segments hold.
    std::fs::remove_dir_all(path("again").join("catalog")).unwrap();
    let refused = backup(&path("again"), &path("backup"), &BackupOptions::default(), &mut |_| {}).unwrap_err();
    assert!(refused.to_string().contains("`sidetone store rebuild`"), "{refused}");
    drop(RocksCatalog::open(&path("again").join("catalog")).unwrap());
    std::fs::remove_dir_all(path("again").join("journal")).unwrap();
    assert!(!verify(&path("again"), &options_of_check, &mut |_| ControlFlow::Continue(())).unwrap().is_clean());
}

#[test]
fn copies_go_where_they_are_safe_and_nowhere_by_mistake() {
    let directory = tempfile::tempdir().unwrap();
    let home = directory.path().join("store");
    let options = two_volumes(directory.path());
    let mut store = open_with(&home, &options);
    fill(&mut store, 1..3, 3);
    store.settle();
    let to = |target: &Path, parents| {
        store.reader.backup(target, &BackupOptions { parents, ..Default::default() }, &mut |_| {})
    };
    let link = directory.path().join("link");
    std::os::unix::fs::symlink(&home, &link).unwrap();
    for inside in [&home, &home.join("backup"), &link.join("a/b"), &directory.path().join("disk1/backup")] {
        assert!(matches!(to(inside, true), Err(StoreError::Inside { .. })), "{}", inside.display());
    }
    assert!(!home.join("backup").exists());
    let target = directory.path().join("mnt/backup");
    assert!(matches!(to(&target, false), Err(StoreError::NoParent { .. })));
    assert!(!directory.path().join("mnt").exists());
    to(&target, true).unwrap();
    store.close();

    let disk = directory.path().join("new-disk");
    let back = |home: &Path| restore(&target, home, std::slice::from_ref(&disk), &mut |_| {});
    assert!(matches!(back(&target.join("new")), Err(StoreError::Inside { .. })));
    assert!(matches!(back(&home), Err(StoreError::StoreExists { .. })));
    let half = directory.path().join("half");
    std::fs::create_dir_all(half.join("segments")).unwrap();
    assert!(matches!(back(&half), Err(StoreError::PartsOfAStore { .. })));
    let nowhere = restore(&directory.path().join("nowhere"), &half, &[], &mut |_| {});
    assert!(matches!(nowhere, Err(StoreError::NoBackup { .. })));
}

#[test]
fn a_copy_takes_no_space_for_what_was_only_set_aside() {
    use std::os::unix::fs::MetadataExt;
    let directory = tempfile::tempdir().unwrap();
    let (home, target) = (directory.path().join("store"), directory.path().join("backup"));
    let mut store = open_with(&home, &options());
    fill(&mut store, 1..3, 1);
    store.reader.backup(&target, &BackupOptions::default(), &mut |_| {}).unwrap();
    let journal = LogFileName::Journal(1).to_string();
    let (file, copy) = (home.join(&journal), target.join("volumes/000").join(&journal));
    let [file, copy] = [file, copy].map(|path| std::fs::metadata(path).unwrap());
    assert_eq!(file.len(), copy.len());
    assert!(copy.blocks() * 512 <= 1 << 20 && file.blocks() * 512 >= 4 << 20, "{} {}", file.blocks(), copy.blocks());
    store.close();
}

#[test]
fn a_catalog_that_cannot_answer_is_told_and_the_files_are_checked() {
    let directory = tempfile::tempdir().unwrap();
    let home = directory.path().join("store");
    let mut store = open_with(&home, &options());
    fill(&mut store, 1..11, 11);
    store.settle();
    store.close();
    // Everything is in tables then.
    rebuild(&home, &RebuildOptions::default(), &mut |_| {}).unwrap();
    let clean = check(&home);
    let tables = std::fs::read_dir(home.join("catalog")).unwrap().map(|entry| entry.unwrap().path());
    let tables: Vec<PathBuf> = tables.filter(|path| path.extension().is_some_and(|end| end == "sst")).collect();
    let mut told = 0;
    for table in tables {
        let whole = std::fs::read(&table).unwrap();
        // Its first block; the index, at the end, is whole.
        let mut bytes = whole.clone();
        bytes[..16].iter_mut().for_each(|byte| *byte ^= 0x55);
        std::fs::write(&table, bytes).unwrap();
        match verify(&home, &VerifyOptions::default(), &mut |_| ControlFlow::Continue(())) {
            // Needed for opening it.
            Err(StoreError::Catalog(error)) => assert!(error.to_string().contains("store rebuild"), "{error}"),
            Err(error) => panic!("{}: {error}", table.display()),
            Ok(report) => {
                assert_eq!(report.files, clean.files, "{}: {:?}", table.display(), report.bad);
                let is_catalog = report.bad.iter().all(|bad| bad.file.is_none() && bad.volume.is_none());
                assert!(is_catalog, "{}: {:?}", table.display(), report.bad);
                told += report.bad_places;
            }
        }
        std::fs::write(&table, whole).unwrap();
    }
    assert!(told > 0);
}
