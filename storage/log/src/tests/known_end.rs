//! What is known of a journal's end from elsewhere tells damage from a flush that never was.

use super::{ALL, Appended, STORE, append, contents, expected, identity, small, write_flush};
use crate::simulation::SimulatedDisk;
use crate::*;
use std::path::{Path, PathBuf};
use std::sync::Arc;

struct World {
    disk: SimulatedDisk,
    directory: PathBuf,
    files: OpenFiles,
    reader: JournalReader,
}

impl World {
    fn new() -> Self {
        let disk = SimulatedDisk::new(1);
        let directory = PathBuf::from("/journal");
        let files = OpenFiles::new(Arc::new(disk.clone()), 4);
        let reader = JournalReader::open(&files, &directory, Owner { store_id: STORE, volume: VolumeNumber(0) });
        Self { disk, directory, files, reader }
    }

    fn open(&self) -> Journal {
        let io: Arc<dyn Io> = Arc::new(self.disk.clone());
        Journal::open(io, &self.directory, &identity(), &small(), LogPosition::default()).unwrap()
    }

    fn scan(&self, from: LogPosition, end: KnownEnd) -> (Vec<Entry>, Vec<LogError>, LogPosition) {
        let mut scan = self.reader.scan(from, end).unwrap();
        let (mut entries, mut errors) = (Vec::new(), Vec::new());
        for item in &mut scan {
            match item {
                Ok(entry) => entries.push(entry),
                Err(error) => errors.push(error),
            }
        }
        (entries, errors, scan.position())
    }
}

#[test]
fn what_was_durable_and_cannot_be_read_is_damage_and_never_the_end() {
    let world = World::new();
    let mut journal = world.open();
    let mut next = 0;
    let first = write_flush(&mut journal, &mut next, 3);
    let middle = journal.durable();
    let last = write_flush(&mut journal, &mut next, 2);
    let durable = journal.durable();
    drop(journal);
    // The last flush's first record.
    let position = last[0].located.position;
    world.disk.damage(&world.reader.path(1), position.offset + 3, 0xff);
    // Who knows nothing takes it for torn.
    let (entries, errors, end) = world.scan(LogPosition::default(), ALL);
    assert_eq!((contents(&entries), errors.len()), (expected(&first), 0));
    assert!(end < durable);
    // Who knows that the flush before it was durable, does so too.
    assert!(world.scan(LogPosition::default(), KnownEnd::AtLeast(middle)).1.is_empty());
    for end in [KnownEnd::AtLeast(durable), KnownEnd::At(durable)] {
        let (entries, errors, position) = world.scan(LogPosition::default(), end);
        let [LogError::Damaged { file: 1, from, to }] = errors[..] else { panic!("{errors:?}") };
        assert_eq!((from, to), (last[0].located.position.offset, durable.offset));
        assert_eq!(contents(&entries), expected(&first));
        assert_eq!(position, durable);
    }
}

#[test]
fn a_scan_stops_where_it_is_told_while_the_writer_goes_on() {
    let world = World::new();
    let mut journal = world.open();
    let mut next = 0;
    let mut all: Vec<Appended> = Vec::new();
    let mut position = LogPosition::default();
    let mut seen = Vec::new();
    for round in 0..40 {
        all.extend(write_flush(&mut journal, &mut next, 3));
        let durable = journal.durable();
        let until_here = all.len();
        // Already on the disk, and not acknowledged by whoever follows.
        all.extend(write_flush(&mut journal, &mut next, 1));
        if round % 10 == 9 {
            drop(journal);
            journal = world.open();
        }
        let (entries, errors, end) = world.scan(position, KnownEnd::At(durable));
        assert!(errors.is_empty(), "{errors:?}");
        assert_eq!(end, durable);
        seen.extend(contents(&entries));
        assert_eq!(seen, expected(&all[..until_here]));
        position = durable;
    }
}

#[test]
fn files_that_must_be_there_and_are_not_are_told() {
    let world = World::new();
    let mut next = 0;
    let mut flushed = Vec::new();
    let mut durable = LogPosition::default();
    for _ in 0..4 {
        let mut journal = world.open();
        flushed.push(write_flush(&mut journal, &mut next, 2));
        durable = journal.durable();
    }
    let remove = |file| world.disk.remove(&world.reader.path(file)).unwrap();
    // The last two.
    remove(4);
    remove(3);
    let (entries, errors, end) = world.scan(LogPosition::default(), KnownEnd::AtLeast(durable));
    assert_eq!(contents(&entries), expected(&flushed[..2].concat()));
    assert!(matches!(errors[..], [LogError::MissingFile { file: 3 }]), "{errors:?}");
    assert_eq!(end, durable);
    assert!(world.scan(LogPosition::default(), ALL).1.is_empty());
    // The first ones were retired; what lay there is elsewhere, and whoever asks for it is told so.
    let located = flushed[0][1].located;
    assert!(world.reader.read_chunk(located).is_ok());
    remove(1);
    world.files.forget(&world.directory);
    assert!(matches!(world.reader.read_chunk(located), Err(LogError::Retired { .. })));
    assert_eq!(contents(&world.scan(LogPosition::default(), ALL).0), expected(&flushed[1]));
    let from = LogPosition { file: 1, offset: 4096 };
    assert!(matches!(world.reader.scan(from, ALL), Err(LogError::MissingFile { file: 1 })));
    // All of them.
    remove(2);
    let (entries, errors, _) = world.scan(LogPosition::default(), KnownEnd::AtLeast(durable));
    assert!(entries.is_empty() && matches!(errors[..], [LogError::MissingFile { file: 4 }]), "{errors:?}");
    assert!(world.scan(LogPosition::default(), ALL).1.is_empty());
}

#[test]
fn a_file_name_far_away_costs_one_report() {
    let world = World::new();
    let mut journal = world.open();
    let record = append(&mut journal, 1, Some(100)).unwrap();
    drop(journal);
    let bytes = world.disk.read(&world.reader.path(1)).unwrap();
    let far = Path::new("/journal/4294967295.jnl");
    world.disk.write_small(far, &bytes).unwrap();
    let mut scan = world.reader.scan(LogPosition::default(), ALL).unwrap();
    assert_eq!(scan.next().unwrap().unwrap().located, record.located);
    assert!(matches!(scan.next(), Some(Err(LogError::MissingFile { file: 2 }))));
    assert!(matches!(scan.next(), Some(Err(LogError::NotALogFile { .. }))), "its header has another number");
    assert!(scan.next().is_none());
}

#[test]
fn a_sync_record_where_no_flush_can_begin_is_no_record() {
    let world = World::new();
    let mut journal = world.open();
    let mut next = 0;
    let appended = write_flush(&mut journal, &mut next, 2);
    drop(journal);
    let path = world.reader.path(1);
    let mut bytes = world.disk.read(&path).unwrap();
    let file_id = format::FileHeader::decode(&bytes[..4096]).unwrap().file_id;
    // In the place of the padding.
    let last = appended[1].located;
    let padding = (last.position.offset as usize + last.length as usize).next_multiple_of(16);
    let sync = format::encode_sync(format::Sync { file_id, sequence: 2 });
    bytes[padding..padding + sync.len()].copy_from_slice(&sync);
    world.disk.write_small(&path, &bytes).unwrap();
    let (entries, errors, end) = world.scan(LogPosition::default(), ALL);
    assert_eq!((contents(&entries), errors.len()), (expected(&appended), 0));
    assert_eq!(end, LogPosition { file: 1, offset: padding as u64 });
}
