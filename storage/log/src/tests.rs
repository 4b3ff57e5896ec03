//! The journal on real files: reading back, torn tails, damage, foreign files. `failures` and `seeds` have it on a simulated disk.

mod failures;
mod flips;
mod known_end;
mod seeds;
mod segments;

use crate::format::{ALIGNMENT_BYTES, chunk_record, fact_record};
use crate::simulation::Random;
use crate::*;
use proptest::prelude::*;
use sidetone_model::{CaptureTime, NodeName, RecordingId, Tick, TrackId};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::TempDir;
use uuid::Uuid;

const STORE: Uuid = Uuid::from_u128(0x5105);

fn identity() -> Identity {
    Identity { store_id: STORE, volume: VolumeNumber(0), volume_id: STORE, node: NodeName("box-1".into()) }
}

fn small() -> JournalConfig {
    JournalConfig { file_bytes: 4 << 20, buffer_bytes: 2 << 20, block_bytes: 64 << 10, direct_io: true }
}

fn header(number: u64) -> ChunkHeader {
    ChunkHeader {
        recording: RecordingId(Uuid::from_u128(u128::from(number % 7) + 1)),
        track: TrackId((number % 2) as u8),
        first_tick: Tick(number * 50),
        ticks: 50,
        packets: 49,
        codec: ChunkCodec::OpusNarrowband,
        key_id: [1; 16],
        nonce: [2; 12],
        tag: [3; 16],
    }
}

/// A payload that depends on its number; about `bytes` long.
fn payload(number: u64, bytes: usize) -> Vec<u8> {
    (0..bytes as u64).map(|index| (number.wrapping_mul(31).wrapping_add(index * 7)) as u8).collect()
}

fn fact(number: u64) -> FactRecord {
    let fact = Fact::Replayed { digest: format!("digest {number}"), at: CaptureTime(number) };
    FactRecord { sequence: FactSequence(number), fact }
}

/// What was appended: a chunk, or a fact where the length is `None`.
#[derive(Clone, PartialEq, Debug)]
struct Appended {
    number: u64,
    length: Option<usize>,
    located: Located,
}

impl Appended {
    fn content(&self) -> Content {
        match self.length {
            Some(length) => {
                Content::Chunk(Chunk { header: header(self.number), payload: payload(self.number, length) })
            }
            None => Content::Fact(fact(self.number)),
        }
    }
}

fn append(journal: &mut Journal, number: u64, length: Option<usize>) -> Result<Appended, LogError> {
    let located = match length {
        Some(length) => journal.append_chunk(&header(number), &payload(number, length))?,
        None => journal.append_fact(&fact(number))?,
    };
    Ok(Appended { number, length, located })
}

fn open(directory: &Path) -> Journal {
    open_with(directory, &small())
}

fn open_with(directory: &Path, config: &JournalConfig) -> Journal {
    try_open(directory, &identity(), config).unwrap()
}

fn try_open(directory: &Path, identity: &Identity, config: &JournalConfig) -> Result<Journal, LogError> {
    Journal::open(Arc::new(RingIo::new()), directory, identity, config, LogPosition::default())
}

const ALL: KnownEnd = KnownEnd::AtLeast(LogPosition { file: 0, offset: 0 });

fn reader(io: Arc<dyn Io>, directory: &Path, store_id: Uuid) -> JournalReader {
    JournalReader::open(&OpenFiles::new(io, 8), directory, Owner { store_id, volume: VolumeNumber(0) })
}

fn scan(directory: &Path) -> (Vec<Entry>, Vec<LogError>) {
    scan_on(Arc::new(RingIo::new()), directory)
}

fn scan_on(io: Arc<dyn Io>, directory: &Path) -> (Vec<Entry>, Vec<LogError>) {
    let (mut entries, mut errors) = (Vec::new(), Vec::new());
    for item in reader(io, directory, STORE).scan(LogPosition::default(), ALL).unwrap() {
        match item {
            Ok(entry) => entries.push(entry),
            Err(error) => errors.push(error),
        }
    }
    (entries, errors)
}

fn contents(entries: &[Entry]) -> Vec<Content> {
    entries.iter().map(|entry| entry.content.clone()).collect()
}

fn expected(appended: &[Appended]) -> Vec<Content> {
    appended.iter().map(Appended::content).collect()
}

fn copy_directory(from: &Path) -> TempDir {
    let to = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.path().join(entry.file_name())).unwrap();
    }
    to
}

fn file(directory: &Path, number: u32) -> PathBuf {
    files::journal_path(directory, number)
}

#[derive(Clone, Debug)]
enum Action {
    Chunk(usize),
    Fact,
    Flush,
    Reopen,
}

fn actions() -> impl Strategy<Value = Vec<Action>> {
    let action = prop_oneof![
        12 => (0usize..6000).prop_map(Action::Chunk),
        1 => (100_000usize..900_000).prop_map(Action::Chunk),
        5 => Just(Action::Fact),
        2 => Just(Action::Flush),
        1 => Just(Action::Reopen),
    ];
    proptest::collection::vec(action, 1..80)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn everything_appended_is_read_back_in_order(actions in actions(), direct_io: bool) {
        let directory = tempfile::tempdir().unwrap();
        let config = JournalConfig { direct_io, ..small() };
        let mut journal = open_with(directory.path(), &config);
        let mut appended = Vec::new();
        for (number, action) in actions.iter().enumerate() {
            match action {
                Action::Chunk(length) => appended.push(append(&mut journal, number as u64, Some(*length)).unwrap()),
                Action::Fact => appended.push(append(&mut journal, number as u64, None).unwrap()),
                Action::Flush => {
                    let flushed = journal.flush().unwrap();
                    prop_assert!(flushed.moves.is_empty());
                    // Readable at once, beside the writer.
                    prop_assert_eq!(contents(&scan(directory.path()).0), expected(&appended));
                }
                Action::Reopen => {
                    drop(journal);
                    journal = open_with(directory.path(), &config);
                }
            }
        }
        drop(journal);
        let (entries, errors) = scan(directory.path());
        prop_assert!(errors.is_empty(), "{:?}", errors);
        prop_assert_eq!(contents(&entries), expected(&appended));
        let reader = reader(Arc::new(RingIo::new()), directory.path(), STORE);
        for (entry, appended) in entries.iter().zip(&appended) {
            prop_assert_eq!(entry.located, appended.located);
            if let Content::Chunk(chunk) = &entry.content {
                prop_assert_eq!(&reader.read_chunk(entry.located).unwrap().into_chunk(), chunk);
            }
            // Scanning from behind any record gives the rest.
            let first = reader.scan(entry.next, ALL).unwrap().next().map(|next| next.unwrap().located);
            let index = entries.iter().position(|other| other == entry).unwrap();
            prop_assert_eq!(first, entries.get(index + 1).map(|next| next.located));
        }
    }

    #[test]
    fn decoding_any_bytes_does_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..20_000)) {
        format::decode_record(&bytes);
        scan_bytes(&bytes);
        chunk_packets(&bytes).count();
    }
}

/// Appends `count` records and flushes.
fn write_flush(journal: &mut Journal, next: &mut u64, count: u64) -> Vec<Appended> {
    let mut appended = Vec::new();
    for _ in 0..count {
        let number = *next;
        *next += 1;
        let length = (!number.is_multiple_of(3)).then_some(500 + (number as usize * 37) % 1500);
        appended.push(append(journal, number, length).unwrap());
    }
    journal.flush().unwrap();
    appended
}

#[test]
fn a_tail_torn_at_any_byte_of_the_last_record_loses_that_record_alone() {
    let directory = tempfile::tempdir().unwrap();
    let mut journal = open(directory.path());
    let mut next = 0;
    let mut kept = write_flush(&mut journal, &mut next, 5);
    kept.extend(write_flush(&mut journal, &mut next, 3));
    let last = append(&mut journal, next, Some(300)).unwrap();
    journal.flush().unwrap();
    let image = std::fs::read(file(directory.path(), 1)).unwrap();
    let start = last.located.position.offset;
    let torn_directory = tempfile::tempdir().unwrap();
    let path = file(torn_directory.path(), 1);
    for cut in start..=start + u64::from(last.located.length) {
        let whole = cut == start + u64::from(last.located.length);
        // The file ends there, or goes on with zeros, or with what an older use of the disk left.
        for tail in [Some(0u8), Some(0xa5), None] {
            let mut torn = image[..cut as usize].to_vec();
            if let Some(filler) = tail {
                torn.resize(cut as usize + 9000, filler);
            }
            std::fs::write(&path, &torn).unwrap();
            let (entries, errors) = scan(torn_directory.path());
            assert!(errors.is_empty(), "a torn tail is no damage: {errors:?}");
            let count = kept.len() + usize::from(whole);
            let all: Vec<Appended> = kept.iter().chain([&last]).take(count).cloned().collect();
            assert_eq!(contents(&entries), expected(&all), "cut at byte {} of the record", cut - start);
        }
    }
    // Recovery keeps the same records, and says in the next file where this one ends.
    let cut = start as usize + 17;
    std::fs::write(&path, &image[..cut]).unwrap();
    let mut journal = open(torn_directory.path());
    let more = write_flush(&mut journal, &mut next, 2);
    let (entries, errors) = scan(torn_directory.path());
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!(contents(&entries), expected(&[kept, more].concat()));
}

#[test]
fn a_flipped_bit_costs_its_record_and_is_reported() {
    let directory = tempfile::tempdir().unwrap();
    let mut journal = open(directory.path());
    let mut next = 0;
    let mut appended = Vec::new();
    for _ in 0..6 {
        appended.extend(write_flush(&mut journal, &mut next, 4));
    }
    drop(journal);
    // A later file closes the first: then even its last flush is known to have been good.
    drop(open(directory.path()));
    let image = std::fs::read(file(directory.path(), 1)).unwrap();
    let copy = copy_directory(directory.path());
    let path = file(copy.path(), 1);
    let mut random = Random::new(7);
    let mut lost_total = 0;
    for round in 0..600 {
        let bit = random.below(image.len() as u64 * 8);
        let (byte, mask) = ((bit / 8) as usize, 1u8 << (bit % 8));
        let mut damaged = image.clone();
        damaged[byte] ^= mask;
        std::fs::write(&path, &damaged).unwrap();
        let (entries, errors) = scan(copy.path());
        let hit = appended.iter().position(|record| {
            let start = record.located.position.offset as usize;
            (start..start + record.located.length as usize).contains(&byte)
        });
        let lost = appended.len() - entries.len();
        lost_total += lost;
        let survivors = contents(&entries);
        for (index, record) in appended.iter().enumerate() {
            let survived = survivors.contains(&record.content());
            if Some(index) == hit {
                assert!(!survived, "round {round}: a damaged record was served");
                assert!(!errors.is_empty(), "round {round}: damage at byte {byte} was not reported");
            } else if hit.is_none_or(|hit| index / 4 != hit / 4) {
                // Not in the damaged flush: it must be there, unless the flip hit framing of its own flush.
                let in_flush_of_flip = appended[index - index % 4].located.position.offset as usize / ALIGNMENT_BYTES
                    <= byte / ALIGNMENT_BYTES;
                assert!(survived || in_flush_of_flip, "round {round}: record {index} was lost to byte {byte}");
            }
        }
        assert!(errors.iter().all(LogError::is_damage), "{errors:?}");
        // Only a damaged length costs more than its record, and never more than the flush.
        assert!(lost <= 4, "round {round}: {lost} records lost to one bit");
    }
    assert!(lost_total > 300, "the flips did hit records: {lost_total}");
}

#[test]
fn what_was_flushed_survives_any_crash() {
    for seed in 0..80 {
        let mut random = Random::new(seed);
        let directory = tempfile::tempdir().unwrap();
        let mut journal = open(directory.path());
        let mut next = 0;
        let mut acknowledged = Vec::new();
        for _ in 0..1 + random.below(4) {
            let count = 1 + random.below(60);
            acknowledged.extend(write_flush(&mut journal, &mut next, count));
        }
        let durable = journal.durable();
        // A last flush that the crash interrupts: any of its sectors may have reached the disk.
        let last = write_flush(&mut journal, &mut next, 1 + random.below(100));
        let crashed = copy_directory(directory.path());
        let path = file(crashed.path(), durable.file);
        let mut image = std::fs::read(&path).unwrap();
        let end = journal.durable();
        assert_eq!(end.file, durable.file);
        let kept_of_100 = random.below(101);
        for sector in (durable.offset..end.offset).step_by(512) {
            if random.below(100) >= kept_of_100 {
                image[sector as usize..sector as usize + 512].fill(0);
            }
        }
        if random.below(4) == 0 {
            image.truncate((durable.offset + random.below(end.offset - durable.offset)) as usize);
        }
        std::fs::write(&path, &image).unwrap();
        let mut reopened = open(crashed.path());
        let more = write_flush(&mut reopened, &mut next, 3);
        let (entries, errors) = scan(crashed.path());
        assert!(errors.is_empty(), "seed {seed}: {errors:?}");
        let found = contents(&entries);
        let all = expected(&[acknowledged.clone(), last.clone()].concat());
        let before = found.len() - more.len();
        assert!(before >= acknowledged.len(), "seed {seed}: acknowledged records are missing");
        assert_eq!(found[..before], all[..before], "seed {seed}: a prefix of what was appended");
        assert_eq!(found[before..], expected(&more), "seed {seed}");
    }
}

#[test]
fn files_follow_each_other_and_full_buffers_flush_by_themselves() {
    let directory = tempfile::tempdir().unwrap();
    let mut journal = open(directory.path());
    let appended: Vec<Appended> = (0..6000).map(|number| append(&mut journal, number, Some(1800)).unwrap()).collect();
    let statistics = journal.statistics();
    assert!(statistics.flushes_forced >= 3, "{statistics:?}");
    assert!(statistics.files_created >= 3, "{statistics:?}");
    assert!(journal.flush().unwrap().moves.is_empty());
    let (entries, errors) = scan(directory.path());
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!(contents(&entries), expected(&appended));
    for number in 1..statistics.files_created as u32 {
        let length = std::fs::metadata(file(directory.path(), number)).unwrap().len();
        assert!(length <= 4 << 20, "file {number} has {length} bytes");
    }
}

#[test]
fn a_journal_may_change_its_thread_with_writes_under_way() {
    let directory = tempfile::tempdir().unwrap();
    let mut journal = open(directory.path());
    let mut all: Vec<Appended> = (0..100).map(|number| append(&mut journal, number, Some(3000)).unwrap()).collect();
    for round in 1..4 {
        (journal, all) = std::thread::spawn(move || {
            for number in 0..100 {
                all.push(append(&mut journal, round * 1000 + number, Some(3000)).unwrap());
            }
            if round == 2 {
                journal.flush().unwrap();
            }
            (journal, all)
        })
        .join()
        .unwrap();
    }
    journal.flush().unwrap();
    let (entries, errors) = scan(directory.path());
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!(contents(&entries), expected(&all));
}

#[test]
fn without_o_direct_the_page_cache_serves() {
    let directory = tempfile::tempdir().unwrap();
    let mut io = RingIo::new();
    io.direct_allowed = false;
    let mut journal =
        Journal::open(Arc::new(io), directory.path(), &identity(), &small(), LogPosition::default()).unwrap();
    let mut next = 0;
    let appended = write_flush(&mut journal, &mut next, 50);
    assert!(!journal.statistics().direct_io);
    assert_eq!(contents(&scan(directory.path()).0), expected(&appended));
}

#[test]
fn without_io_uring_ordinary_writes_serve() {
    let directory = tempfile::tempdir().unwrap();
    let mut io = RingIo::new();
    io.ring_allowed = false;
    let mut journal =
        Journal::open(Arc::new(io), directory.path(), &identity(), &small(), LogPosition::default()).unwrap();
    let mut next = 0;
    let appended = write_flush(&mut journal, &mut next, 200);
    assert!(!journal.statistics().io_uring);
    assert_eq!(contents(&scan(directory.path()).0), expected(&appended));
}

#[test]
fn foreign_newer_and_unborn_files_are_told_apart() {
    let directory = tempfile::tempdir().unwrap();
    let mut journal = open(directory.path());
    let mut next = 0;
    let appended = write_flush(&mut journal, &mut next, 10);
    drop(journal);

    let other = Identity { store_id: Uuid::from_u128(99), ..identity() };
    let error = try_open(directory.path(), &other, &small()).err().unwrap();
    assert!(matches!(error, LogError::ForeignStore { .. }), "{error}");
    let error = reader(Arc::new(RingIo::new()), directory.path(), other.store_id);
    let error = error.scan(LogPosition::default(), ALL).unwrap().next();
    assert!(matches!(error, Some(Err(LogError::ForeignStore { .. }))), "{error:?}");

    // Killed between making a file and writing its header.
    let unborn = file(directory.path(), 2);
    std::fs::File::create(&unborn).unwrap().set_len(1 << 20).unwrap();
    assert_eq!(contents(&scan(directory.path()).0), expected(&appended));
    drop(open(directory.path()));
    assert_eq!(contents(&scan(directory.path()).0), expected(&appended));

    // A damaged header costs no record.
    let path = file(directory.path(), 1);
    let mut image = std::fs::read(&path).unwrap();
    image[100] ^= 1;
    std::fs::write(&path, &image).unwrap();
    let (entries, errors) = scan(directory.path());
    assert_eq!(contents(&entries), expected(&appended));
    assert!(matches!(errors[..], [LogError::Damaged { file: 1, from: 0, to: 4096 }]), "{errors:?}");
    image[100] ^= 1;

    let mut newer = format::FileHeader::decode(&image[..ALIGNMENT_BYTES]).unwrap();
    newer.version += 1;
    image[..ALIGNMENT_BYTES].copy_from_slice(&newer.encode());
    std::fs::write(&path, &image).unwrap();
    let (_, errors) = scan(directory.path());
    assert!(matches!(errors[..], [LogError::NewerVersion { .. }]), "{errors:?}");

    // A whole file missing in the middle is damage; what follows is read.
    let mut journal = open(directory.path());
    let later = write_flush(&mut journal, &mut next, 2);
    drop(journal);
    std::fs::write(&path, []).unwrap();
    std::fs::remove_file(file(directory.path(), 2)).unwrap();
    let (entries, errors) = scan(directory.path());
    assert!(matches!(errors[..], [LogError::MissingFile { file: 2 }]), "{errors:?}");
    assert_eq!(contents(&entries), expected(&later));
}

#[test]
fn a_forged_sync_record_inside_a_payload_is_not_believed() {
    let directory = tempfile::tempdir().unwrap();
    let mut journal = open(directory.path());
    // A payload full of records as an attacker would write them, without knowing the file's identity.
    let sync = format::encode_sync(format::Sync { file_id: Uuid::from_u128(1), sequence: 1 << 40 });
    let forged = fact_record(&fact(666)).unwrap();
    let mut block = sync.to_vec();
    block.resize(48, 0);
    block.extend_from_slice(&forged);
    block.resize(4096, 0);
    let padding = 4096 - (4096 + 48 + format::CHUNK_PAYLOAD_OFFSET) % 4096;
    let payload = [vec![0; padding], block.repeat(10)].concat();
    let located = journal.append_chunk(&header(1), &payload).unwrap();
    journal.flush().unwrap();
    drop(journal);
    let path = file(directory.path(), 1);
    let mut image = std::fs::read(&path).unwrap();
    image[located.position.offset as usize] ^= 0xff;
    std::fs::write(&path, &image).unwrap();
    let (entries, _) = scan(directory.path());
    assert!(entries.is_empty(), "{entries:?}");
}

#[test]
fn records_of_another_file_or_an_earlier_flush_end_the_scan() {
    let directory = tempfile::tempdir().unwrap();
    let mut journal = open(directory.path());
    let mut next = 0;
    let mut appended = write_flush(&mut journal, &mut next, 3);
    appended.extend(write_flush(&mut journal, &mut next, 3));
    let end = journal.durable().offset as usize;
    drop(journal);
    let path = file(directory.path(), 1);
    let image = std::fs::read(&path).unwrap();
    let first_flush = image[ALIGNMENT_BYTES..2 * ALIGNMENT_BYTES].to_vec();
    let mut foreign = first_flush.clone();
    let sync = format::encode_sync(format::Sync { file_id: Uuid::from_u128(1), sequence: 3 });
    foreign[..sync.len()].copy_from_slice(&sync);
    // What an older use of the disk left behind the end: whole records, of the wrong flush.
    for stale in [first_flush, foreign] {
        let mut image = image[..end].to_vec();
        image.extend_from_slice(&stale);
        std::fs::write(&path, &image).unwrap();
        let (entries, errors) = scan(directory.path());
        assert!(errors.is_empty(), "{errors:?}");
        assert_eq!(contents(&entries), expected(&appended));
    }
}

#[test]
fn unknown_records_are_skipped_or_refused_by_their_flag() {
    let mut record = chunk_record(&header(1), b"payload").unwrap();
    assert!(matches!(format::decode_record(&record), Some((_, format::Meaning::Content(Content::Chunk(_))))));
    let reseal = |record: &mut [u8]| {
        let checksum = crc32c::crc32c_append(crc32c::crc32c(&record[..8]), &record[12..]);
        record[8..12].copy_from_slice(&checksum.to_le_bytes());
    };
    record[4] = 200;
    reseal(&mut record);
    let unknown = format::decode_record(&record).unwrap().1;
    assert_eq!(unknown, format::Meaning::Unknown { kind: 200, version: 1 });
    record[6] = 0;
    reseal(&mut record);
    assert_eq!(format::decode_record(&record).unwrap().1, format::Meaning::Nothing);
    record[8] ^= 1;
    assert_eq!(format::decode_record(&record), None);
}

#[test]
fn impossible_records_and_configurations_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let mut journal = open(directory.path());
    assert!(matches!(journal.append_chunk(&header(1), &vec![0; 1 << 20]), Err(LogError::TooLong { .. })));
    for ticks in [0, 51] {
        let header = ChunkHeader { ticks, ..header(1) };
        assert!(matches!(journal.append_chunk(&header, &[]), Err(LogError::BadChunkHeader { .. })));
    }
    let located = journal.append_fact(&fact(1)).unwrap();
    journal.flush().unwrap();
    let reader = reader(Arc::new(RingIo::new()), directory.path(), STORE);
    assert!(matches!(reader.read_chunk(located), Err(LogError::BadChunk { .. })));
    let beyond = LogPosition { file: 9, offset: 4096 };
    assert!(matches!(reader.scan(beyond, ALL), Err(LogError::BeyondEnd { .. })));
    for config in [
        JournalConfig { block_bytes: 1000, ..small() },
        JournalConfig { buffer_bytes: 1 << 20, ..small() },
        JournalConfig { file_bytes: 1 << 20, ..small() },
        JournalConfig { block_bytes: 1 << 20, ..small() },
    ] {
        assert!(matches!(config.blocks(), Err(LogError::Configuration { .. })), "{config:?}");
    }
}
