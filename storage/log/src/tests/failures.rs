//! The journal on devices that fail, fill up, stall and come back.

use super::*;
use crate::simulation::{Operation, SimulatedDisk};

fn directory() -> &'static Path {
    Path::new("/journal")
}

fn open_simulated(disk: &SimulatedDisk) -> Journal {
    Journal::open(disk.process(), directory(), &identity(), &small(), LogPosition::default()).unwrap()
}

fn scan_simulated(disk: &SimulatedDisk) -> (Vec<Entry>, Vec<LogError>) {
    scan_on(disk.process(), directory())
}

/// Everything that was appended is there, once, in order, and nothing is reported as damaged.
fn assert_holds(disk: &SimulatedDisk, appended: &[Appended]) {
    let (entries, errors) = scan_simulated(disk);
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!(contents(&entries), expected(appended));
}

fn locations(flushed: &Flushed, appended: &[Appended]) -> Vec<Located> {
    appended.iter().map(|record| flushed.locate(record.located)).collect()
}

fn is_no_space(error: &LogError) -> bool {
    matches!(error, LogError::NoSpace { .. })
}

#[test]
fn a_failed_sync_or_write_moves_what_is_not_durable_to_a_new_file() {
    for fail_sync in [true, false] {
        let disk = SimulatedDisk::new(1);
        let mut journal = open_simulated(&disk);
        let mut next = 0;
        let before = write_flush(&mut journal, &mut next, 10);
        let durable = journal.durable();
        // Over several blocks, of which one fails.
        let operation = if fail_sync { Operation::Sync } else { Operation::Write };
        disk.fail(directory(), operation, if fail_sync { 0 } else { 3 }, 1);
        let pending: Vec<Appended> =
            (100..260).map(|number| append(&mut journal, number, Some(4000)).unwrap()).collect();
        let flushed = journal.flush().unwrap();
        assert_eq!(flushed.moves.len(), 1);
        assert_eq!(flushed.moves[0].from, durable);
        assert_eq!(flushed.durable.file, 2);
        assert_eq!(journal.statistics().failures, 1);
        let reader = reader(disk.process(), directory(), STORE);
        for record in &pending {
            let moved = flushed.locate(record.located);
            assert_eq!(moved.position.file, 2);
            assert_eq!(Content::Chunk(reader.read_chunk(moved).unwrap().into_chunk()), record.content());
        }
        for record in &before {
            assert_eq!(flushed.locate(record.located), record.located);
        }
        let after = write_flush(&mut journal, &mut next, 3);
        assert!(journal.flush().unwrap().moves.is_empty());
        // Nothing twice, although the first file holds whole records behind its last good position.
        assert_holds(&disk, &[before, pending, after].concat());
    }
}

#[test]
fn a_full_disk_is_reported_and_costs_nothing_that_was_appended() {
    let disk = SimulatedDisk::new(1);
    let mut journal = open_simulated(&disk);
    let mut next = 0;
    let mut all = write_flush(&mut journal, &mut next, 10);
    all.push(append(&mut journal, 500, Some(1000)).unwrap());
    let full = || {
        disk.fail(directory(), Operation::Sync, 0, 1);
        disk.set_capacity(directory(), Some(1 << 20));
    };
    full();
    assert!(is_no_space(&journal.flush().unwrap_err()));
    all.push(append(&mut journal, 501, Some(1000)).unwrap());
    assert!(is_no_space(&journal.flush().unwrap_err()));
    assert!(is_no_space(&journal.flush().unwrap_err()));
    assert!(journal.statistics().failed);
    all.push(append(&mut journal, 502, None).unwrap());
    disk.set_capacity(directory(), None);
    let flushed = journal.flush().unwrap();
    assert_eq!(flushed.durable.file, 2);
    let (entries, errors) = scan_simulated(&disk);
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!(contents(&entries), expected(&all));
    let found: Vec<Located> = entries.iter().map(|entry| entry.located).collect();
    assert_eq!(found, locations(&flushed, &all));

    // Without any file, appending goes on until the buffers are full, and no further.
    full();
    all.push(append(&mut journal, 503, None).unwrap());
    assert!(is_no_space(&journal.flush().unwrap_err()));
    let mut accepted = Vec::new();
    let refused = loop {
        let takes = journal.takes(8000 + format::CHUNK_PAYLOAD_OFFSET);
        match append(&mut journal, 1000 + accepted.len() as u64, Some(8000)) {
            Ok(record) => accepted.push(record),
            Err(error) => {
                assert!(!takes);
                break error;
            }
        }
        assert!(takes);
        assert!(accepted.len() < 10_000, "memory is bounded");
    };
    assert!(matches!(refused, LogError::BuffersFull { .. }), "{refused}");
    assert!(accepted.len() > 100);
    disk.set_capacity(directory(), None);
    journal.flush().unwrap();
    assert_holds(&disk, &[all, accepted].concat());
}

#[test]
fn where_no_space_can_be_set_aside_a_full_disk_shows_in_a_flush_and_loses_nothing() {
    let disk = SimulatedDisk::new(1);
    disk.set_preallocates(directory(), false);
    let mut journal = open_simulated(&disk);
    let mut next = 0;
    let mut all = write_flush(&mut journal, &mut next, 10);
    disk.set_capacity(directory(), Some(disk_bytes(&disk) + 8192));
    all.extend((20..60).map(|number| append(&mut journal, number, Some(4000)).unwrap()));
    // The new file has room for its header, and for no more.
    assert!(is_no_space(&journal.flush().unwrap_err()));
    assert!(journal.has_failed());
    disk.set_capacity(directory(), None);
    journal.flush().unwrap();
    assert_holds(&disk, &all);
}

fn disk_bytes(disk: &SimulatedDisk) -> u64 {
    let names = disk.list(directory()).unwrap();
    names.iter().map(|name| disk.size(&directory().join(name)).unwrap().bytes).sum()
}

#[test]
fn a_second_failure_in_a_row_loses_nothing_either() {
    let disk = SimulatedDisk::new(1);
    let mut journal = open_simulated(&disk);
    let mut next = 0;
    let mut all = write_flush(&mut journal, &mut next, 4);
    all.push(append(&mut journal, 900, Some(70_000)).unwrap());
    // The flush, and, behind the new file's header, the flush again.
    disk.fail(directory(), Operation::Sync, 0, 1);
    disk.fail(directory(), Operation::Sync, 1, 1);
    journal.begin_flush();
    assert!(!journal.has_failed());
    assert!(matches!(journal.poll_flush(true), Err(LogError::Io { .. })));
    assert!(journal.has_failed());
    all.push(append(&mut journal, 901, Some(70_000)).unwrap());
    let flushed = journal.flush().unwrap();
    assert_eq!(flushed.durable.file, 3);
    let (entries, errors) = scan_simulated(&disk);
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!(contents(&entries), expected(&all));
    let found: Vec<Located> = entries.iter().map(|entry| entry.located).collect();
    assert_eq!(found, locations(&flushed, &all));
}

#[test]
fn what_is_appended_during_a_flush_waits_for_the_next() {
    let disk = SimulatedDisk::new(1);
    let mut journal = open_simulated(&disk);
    disk.set_delay(directory(), 20);
    let mut all = vec![append(&mut journal, 1, Some(100_000)).unwrap()];
    assert!(journal.poll_flush(true).unwrap().is_none(), "none was begun");
    journal.begin_flush();
    let end_of_first = journal.statistics().durable.offset + journal.statistics().pending_bytes;
    let mut polls = 0;
    let flushed = loop {
        polls += 1;
        match journal.poll_flush(false).unwrap() {
            Some(flushed) => break flushed,
            None => all.push(append(&mut journal, 1 + polls, Some(30_000)).unwrap()),
        }
        // Asking again while it is in flight begins no other.
        journal.begin_flush();
        assert!(polls < 100);
    };
    assert!(all.len() > 3, "{polls} polls");
    assert_eq!(flushed.durable, LogPosition { file: 1, offset: end_of_first });
    assert!(all[1].located.position > flushed.durable);
    assert_eq!(journal.statistics().flushes, 1);
    // A crash takes those that no flush has taken, in part or whole; what it leaves of them is a beginning.
    let reopened = {
        let copy = all.clone();
        disk.crash();
        drop(journal);
        let journal = open_simulated(&disk);
        let (entries, errors) = scan_simulated(&disk);
        assert!(errors.is_empty(), "{errors:?}");
        assert!(!entries.is_empty());
        assert_eq!(contents(&entries), expected(&copy[..entries.len()]));
        journal
    };
    assert_eq!(reopened.durable().file, 2);
}

#[test]
fn a_failed_journal_holds_no_file_open_and_gives_its_records_to_another() {
    let disk = SimulatedDisk::new(1);
    disk.mount(Path::new("/v1"));
    let mut journal = open_simulated(&disk);
    let volume = Identity { volume: VolumeNumber(1), ..identity() };
    let io = disk.process();
    let other = Path::new("/v1/journal");
    let mut second = Journal::open(io, other, &volume, &small(), LogPosition::default()).unwrap();
    let mut next = 0;
    let kept = write_flush(&mut journal, &mut next, 5);
    let in_flight: Vec<Appended> = (10..40).map(|number| append(&mut journal, number, Some(9000)).unwrap()).collect();
    disk.set_delay(directory(), 4);
    journal.begin_flush();
    let gathered: Vec<Appended> =
        (40..60).map(|number| append(&mut journal, number, (number % 2 == 0).then_some(700)).unwrap()).collect();
    assert_eq!(disk.open_files(directory()), 1);
    disk.set_down(directory(), true);
    let error = (0..100).find_map(|_| journal.poll_flush(false).err()).unwrap();
    assert!(matches!(error, LogError::Io { .. }), "{error}");
    assert!(journal.has_failed());
    assert_eq!(disk.open_files(directory()), 0);
    assert!(matches!(journal.poll_flush(false), Ok(None)));
    journal.begin_flush();
    assert!(matches!(journal.poll_flush(false), Err(LogError::Failed { .. })));

    let unflushed = journal.take_unflushed();
    let pending = [in_flight, gathered].concat();
    assert!(kept.iter().all(|record| unflushed.flushed.locate(record.located).position < unflushed.flushed.durable));
    let located: Vec<Located> = unflushed.records.iter().map(|(located, _)| *located).collect();
    assert_eq!(located, locations(&unflushed.flushed, &pending));
    for (_, record) in &unflushed.records {
        second.append_raw(record).unwrap();
    }
    second.flush().unwrap();
    let statistics = second.statistics();
    assert_eq!((statistics.chunks, statistics.facts), (40, 10));
    assert!(journal.take_unflushed().records.is_empty());
    let reader = JournalReader::open(
        &OpenFiles::new(disk.process(), 8),
        other,
        Owner { store_id: STORE, volume: VolumeNumber(1) },
    );
    let entries: Vec<Entry> = reader.scan(LogPosition::default(), ALL).unwrap().map(Result::unwrap).collect();
    assert_eq!(contents(&entries), expected(&pending));

    // Back again: it goes on in a new file, and what it gave away does not come back.
    assert!(journal.retry().is_err());
    disk.set_down(directory(), false);
    journal.retry().unwrap();
    let after = write_flush(&mut journal, &mut next, 3);
    assert_holds(&disk, &[kept, after].concat());
}

#[test]
fn a_new_file_whose_name_cannot_be_made_durable_is_made_again() {
    let disk = SimulatedDisk::new(1);
    let mut journal = open_simulated(&disk);
    let mut all = vec![append(&mut journal, 1, Some(1000)).unwrap()];
    disk.fail(directory(), Operation::Sync, 0, 1);
    disk.fail(directory(), Operation::SyncDirectory, 0, 1);
    // Even the half-made file cannot be removed at first.
    disk.fail(directory(), Operation::Remove, 0, 1);
    assert!(journal.flush().is_err());
    assert_eq!(disk.list(directory()).unwrap().len(), 2);
    all.push(append(&mut journal, 2, Some(1000)).unwrap());
    assert_eq!(journal.flush().unwrap().durable.file, 2);
    disk.crash();
    drop(journal);
    assert_holds(&disk, &all);
}

#[test]
fn retired_files_are_gone_and_a_crash_in_between_leaves_no_gap() {
    for seed in 0..100 {
        let disk = SimulatedDisk::new(seed);
        let mut next = 0;
        for _ in 0..6 {
            write_flush(&mut open_simulated(&disk), &mut next, 3);
        }
        let mut journal = open_simulated(&disk);
        let last = write_flush(&mut journal, &mut next, 2);
        assert_eq!(journal.remove_files_before(1).unwrap(), 0);
        let interrupted = seed % 2 == 0;
        if interrupted {
            disk.fail(directory(), Operation::SyncDirectory, 3, 1);
            assert!(journal.remove_files_before(7).is_err());
        } else {
            assert_eq!(journal.remove_files_before(7).unwrap(), 6);
        }
        disk.crash();
        drop(journal);
        let files = reader(disk.process(), directory(), STORE).files().unwrap();
        assert!(files.windows(2).all(|pair| pair[1] == pair[0] + 1), "seed {seed}: {files:?}");
        let (entries, errors) = scan_simulated(&disk);
        assert!(errors.is_empty(), "seed {seed}: {errors:?}");
        assert!(contents(&entries).ends_with(&expected(&last)));
        assert!(interrupted || files == [7]);
        assert_eq!(open_simulated(&disk).durable().file, 8);
    }
}

#[test]
fn what_the_catalog_knows_to_be_durable_is_damaged_and_never_torn() {
    let disk = SimulatedDisk::new(1);
    let mut journal = open_simulated(&disk);
    let mut next = 0;
    let first = write_flush(&mut journal, &mut next, 5);
    let second = write_flush(&mut journal, &mut next, 5);
    let known = journal.durable();
    disk.kill();
    drop(journal);
    // The last flush that was durable has rotted from its beginning: it looks as if it had never been.
    let start = second[0].located.position.offset / 4096 * 4096;
    for offset in start..start + 200 {
        disk.damage(&files::journal_path(directory(), 1), offset, 0x55);
    }
    let open = |known| Journal::open(disk.process(), directory(), &identity(), &small(), known).unwrap();
    let mut journal = open(known);
    assert_eq!(journal.durable(), LogPosition { file: 2, offset: 4096 });
    let after = write_flush(&mut journal, &mut next, 2);
    let (entries, errors) = scan_simulated(&disk);
    assert!(
        matches!(errors[..], [LogError::Damaged { file: 1, from, to }] if from == start && to <= known.offset),
        "{errors:?}"
    );
    assert!(contents(&entries).starts_with(&expected(&first)) && contents(&entries).ends_with(&expected(&after)));
    drop(journal);

    // The whole file, or all files, gone: numbers are not used again.
    let last = LogPosition { file: 3, offset: 8192 };
    disk.remove(&files::journal_path(directory(), 2)).unwrap();
    assert_eq!(open(last).durable().file, 4);
    for name in disk.list(directory()).unwrap() {
        disk.remove(&directory().join(name)).unwrap();
    }
    assert_eq!(open(LogPosition { file: 7, offset: 4096 }).durable().file, 8);
}

#[test]
fn blocks_that_the_device_cannot_read_do_not_keep_a_journal_from_opening() {
    let disk = SimulatedDisk::new(1);
    let mut journal = open_simulated(&disk);
    let mut next = 0;
    let mut all = write_flush(&mut journal, &mut next, 5);
    let bad = journal.durable().offset;
    let lost = write_flush(&mut journal, &mut next, 2);
    all.extend(write_flush(&mut journal, &mut next, 5));
    disk.kill();
    drop(journal);
    let path = files::journal_path(directory(), 1);
    disk.set_unreadable(&path, bad..bad + 1);
    let reopened = open_simulated(&disk);
    assert_eq!(reopened.durable().file, 2);
    let header = disk.open(&files::journal_path(directory(), 2)).unwrap();
    let mut bytes = vec![0; ALIGNMENT_BYTES];
    header.read_at(&mut bytes, 0).unwrap();
    let header = format::FileHeader::decode(&bytes).unwrap();
    let end = all.last().unwrap().located;
    let end = (end.position.offset + u64::from(end.length)).next_multiple_of(4096);
    assert_eq!(header.kind, format::FileKind::Journal { previous_end: end });
    assert!(lost.iter().all(|record| record.located.position.offset < end));
    drop(reopened);

    // Not even its header: nothing is removed, and a new file begins behind it.
    disk.set_unreadable(&files::journal_path(directory(), 2), 0..8192);
    assert_eq!(open_simulated(&disk).durable().file, 3);
    assert_eq!(disk.list(directory()).unwrap().len(), 3);

    // A device that reads nothing of a file any more.
    disk.set_unreadable(&files::journal_path(directory(), 3), 4096..4 << 20);
    assert_eq!(open_simulated(&disk).durable().file, 4);
}

#[test]
fn a_last_flush_that_cannot_be_read_is_not_taken_for_a_torn_one() {
    for bad_block in [0, 1, 2] {
        let disk = SimulatedDisk::new(1);
        let mut journal = open_simulated(&disk);
        let mut next = 0;
        let mut all = write_flush(&mut journal, &mut next, 5);
        let start = journal.durable().offset;
        all.extend((20..23).map(|number| append(&mut journal, number, Some(4000)).unwrap()));
        journal.flush().unwrap();
        disk.kill();
        drop(journal);
        let bad = start + bad_block * 4096;
        let path = files::journal_path(directory(), 1);
        disk.set_unreadable(&path, bad..bad + 1);
        let mut journal = open_simulated(&disk);
        // The cable is in again.
        disk.set_readable(&path);
        all.extend(write_flush(&mut journal, &mut next, 2));
        assert_holds(&disk, &all);
    }
}

#[test]
fn what_a_killed_process_left_in_the_cache_is_believed_only_when_the_device_has_it() {
    let (mut believed, mut torn) = (0, 0);
    for seed in 0..100 {
        let disk = SimulatedDisk::new(seed);
        let mut journal = open_simulated(&disk);
        let mut next = 0;
        let kept = write_flush(&mut journal, &mut next, 3);
        let pending: Vec<Appended> = (10..30).map(|number| append(&mut journal, number, Some(4000)).unwrap()).collect();
        disk.set_delay(directory(), 6);
        journal.begin_flush();
        let is_over = (0..4).any(|_| journal.poll_flush(false).unwrap().is_some());
        disk.kill();
        drop(journal);
        // The first attempt to open meets an error: what it read may be lost by the time of the second.
        disk.fail(directory(), Operation::Sync, 0, 1);
        let open = || Journal::open(disk.process(), directory(), &identity(), &small(), LogPosition::default());
        assert!(open().is_err());
        let mut journal = open().unwrap();
        let (entries, errors) = scan_simulated(&disk);
        assert!(errors.is_empty(), "seed {seed}: {errors:?}");
        let after = write_flush(&mut journal, &mut next, 2);
        disk.crash();
        drop(journal);
        let recovered = entries.len() - kept.len();
        let all = [kept, pending[..recovered].to_vec(), after].concat();
        assert_holds(&disk, &all);
        assert!(!is_over || recovered == pending.len());
        if recovered == pending.len() { believed += 1 } else { torn += 1 }
    }
    assert!(believed > 5 && torn > 5, "{believed} {torn}");
}
