//! Segments: what is written is read back, over crashes, by one read a chunk; and what does not belong is refused.

use super::{STORE, identity};
use crate::simulation::{Operation, Random, SimulatedDisk};
use crate::*;
use proptest::prelude::*;
use sidetone_model::{Annotations, CaptureTime, RecordingId, Tick, TrackId};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use uuid::Uuid;

const OWNER: Owner = Owner { store_id: STORE, volume: VolumeNumber(0) };

pub(super) fn small_segments() -> SegmentConfig {
    SegmentConfig {
        file_bytes: 4 << 20,
        preallocate_bytes: 1 << 20,
        buffer_bytes: 3 << 19,
        block_bytes: 64 << 10,
        direct_io: true,
    }
}

pub(super) fn recording(number: u64) -> RecordingId {
    RecordingId(Uuid::from_u128(u128::from(number) + 1))
}

pub(super) fn chunk(number: u64, track: u8, first_tick: u64, bytes: usize) -> ChunkRecord {
    let header = ChunkHeader {
        recording: recording(number),
        track: TrackId(track),
        first_tick: Tick(first_tick),
        ticks: 1 + (first_tick % 50) as u16,
        packets: (first_tick % 7) as u16,
        codec: ChunkCodec::OpusNarrowband,
        key_id: [0; 16],
        nonce: [0; 12],
        tag: [0; 16],
    };
    let payload: Vec<u8> =
        (0..bytes as u64).map(|index| (first_tick * 31 + index * 7 + u64::from(track)) as u8).collect();
    ChunkRecord::new(&header, &payload).unwrap()
}

pub(super) fn annotations(sequence: u64, number: u64) -> FactRecord {
    let tags = [("number".to_owned(), number.to_string())].into();
    let annotations = Annotations { tags, ..Annotations::default() };
    FactRecord {
        sequence: FactSequence(sequence),
        fact: Fact::Annotations { recording: recording(number), annotations },
    }
}

/// A run as it was given to the writer.
#[derive(Clone, Debug)]
pub(super) struct Given {
    pub(super) recording: RecordingId,
    pub(super) facts: Vec<FactRecord>,
    pub(super) chunks: Vec<ChunkRecord>,
    pub(super) through: Vec<Through>,
    pub(super) tables: Vec<Table>,
}

impl Given {
    /// `per_track` chunks of each of two tracks.
    pub(super) fn new(number: u64, per_track: u64, bytes: usize) -> Self {
        let chunks =
            (0..2).flat_map(|track| (0..per_track).map(move |at| chunk(number, track, 1000 + number + at * 50, bytes)));
        let position = LogPosition { file: number as u32 + 1, offset: 4096 };
        Self {
            recording: recording(number),
            facts: (0..number % 3).map(|sequence| annotations(sequence, number)).collect(),
            chunks: chunks.collect(),
            through: vec![Through { volume: VolumeNumber(0), position }; (number % 3) as usize],
            tables: vec![Table { name: "sizes".into(), bytes: vec![number as u8; number as usize % 5] }],
        }
    }

    pub(super) fn append(&self, writer: &mut SegmentWriter) -> Result<Run, LogError> {
        let chunks = self.chunks.iter().cloned().map(Ok);
        writer.append_run(self.recording, &self.facts, chunks, &self.through, self.tables.clone())
    }

    /// Reads the run as a player does, and compares.
    pub(super) fn check(&self, reader: &SegmentReader, run: &Run) {
        let index = reader.run_index(self.recording, run).unwrap();
        assert_eq!((&index.through, &index.tables), (&self.through, &self.tables));
        assert_eq!(index.table("sizes"), Some(&self.tables[0].bytes[..]));
        assert_eq!(run.chunks as usize, self.chunks.len());
        assert_eq!(run.payload_bytes, self.chunks.iter().map(|chunk| chunk.payload().len() as u64).sum::<u64>());
        let mut tree = merkle::MerkleTree::new();
        assert_eq!(index.entries.len(), self.chunks.len());
        for (entry, chunk) in index.entries.iter().zip(&self.chunks) {
            assert_eq!(&reader.read_chunk(self.recording, run, entry).unwrap(), chunk);
            tree.push(chunk.bytes());
        }
        assert_eq!(run.root, tree.root());
        let facts: Vec<FactRecord> = reader.run_facts(run, &index).unwrap().map(Result::unwrap).collect();
        assert_eq!(facts, self.facts);
    }
}

/// Where segments are written in a test.
pub(super) struct World {
    pub(super) io: Arc<dyn Io>,
    pub(super) directory: PathBuf,
    pub(super) reader: SegmentReader,
    config: SegmentConfig,
}

impl World {
    pub(super) fn new(io: Arc<dyn Io>, directory: &Path) -> Self {
        let reader = SegmentReader::open(&OpenFiles::new(Arc::clone(&io), 4), directory, OWNER);
        Self { io, directory: directory.to_owned(), reader, config: small_segments() }
    }

    pub(super) fn simulated(seed: u64) -> (Self, SimulatedDisk) {
        let disk = SimulatedDisk::new(seed);
        let directory = Path::new("/log");
        disk.create_directory(directory).unwrap();
        disk.sync_directory(Path::new("/")).unwrap();
        (Self::new(Arc::new(disk.clone()), directory), disk)
    }

    pub(super) fn create(&self, number: u32) -> Result<SegmentWriter, LogError> {
        let fate = ("standard", format::Month::new(2031, 4));
        SegmentWriter::create(&self.io, &self.directory, SegmentNumber(number), &identity(), fate, &self.config)
    }

    pub(super) fn contents(&self, number: u32) -> SegmentContents {
        self.reader.contents(SegmentNumber(number), 0).unwrap()
    }

    /// What a check of a closed segment finds.
    fn damages(&self, number: u32) -> Vec<Damage> {
        let mut damages = Vec::new();
        let mut watch = |finding| {
            damages.extend(if let Finding::Damage(damage) = finding { Some(damage) } else { None });
            std::ops::ControlFlow::Continue(())
        };
        let verified = self.reader.verify_file(SegmentNumber(number), 0, true, &mut watch).unwrap();
        assert!(verified.closed);
        damages
    }

    /// The lone facts that the contents name.
    fn facts(&self, contents: &SegmentContents) -> Vec<FactRecord> {
        let groups = contents.entries.iter().filter_map(|entry| match entry {
            SegmentEntry::Facts(group) => Some(group),
            SegmentEntry::Run(_) => None,
        });
        let facts = groups.flat_map(|group| {
            let facts: Vec<FactRecord> = self
                .reader
                .facts(SegmentNumber(1), group.offset..group.offset + group.length)
                .unwrap()
                .map(Result::unwrap)
                .collect();
            assert_eq!(facts.len(), group.facts as usize);
            facts
        });
        facts.collect()
    }
}

fn runs(contents: &SegmentContents) -> Vec<SealedRun> {
    let runs = contents.entries.iter().filter_map(|entry| match entry {
        SegmentEntry::Run(run) => Some(run.clone()),
        SegmentEntry::Facts(_) => None,
    });
    runs.collect()
}

#[derive(Clone, Debug)]
enum Action {
    Run { per_track: u64, bytes: usize },
    Facts(u64),
    GivenUp { per_track: u64 },
    Flush,
}

fn actions() -> impl Strategy<Value = Vec<Action>> {
    let action = prop_oneof![
        6 => (1u64..20, 0usize..3000).prop_map(|(per_track, bytes)| Action::Run { per_track, bytes }),
        1 => (1u64..3, 100_000usize..900_000).prop_map(|(per_track, bytes)| Action::Run { per_track, bytes }),
        2 => (0u64..4).prop_map(Action::Facts),
        1 => (1u64..4).prop_map(|per_track| Action::GivenUp { per_track }),
        3 => Just(Action::Flush),
    ];
    proptest::collection::vec(action, 1..25)
}

fn write_and_read_back(world: &World, actions: &[Action]) {
    let mut writer = world.create(1).unwrap();
    let (mut given, mut sealed, mut facts) = (Vec::new(), Vec::<SealedRun>::new(), Vec::new());
    for (number, action) in actions.iter().enumerate() {
        let number = number as u64;
        match action {
            Action::Run { per_track, bytes } => {
                let run_given = Given::new(number, *per_track, *bytes);
                let run = run_given.append(&mut writer).unwrap();
                let (recording, through) = (run_given.recording, run_given.through.clone());
                sealed.push(SealedRun { recording, run, through });
                given.push(run_given);
            }
            Action::Facts(count) => {
                let more: Vec<FactRecord> = (0..*count).map(|sequence| annotations(sequence, number)).collect();
                writer.append_facts(&more).unwrap();
                facts.extend(more);
            }
            Action::GivenUp { per_track } => {
                let mut run = writer.begin_run(recording(number), &[]).unwrap();
                (0..*per_track).for_each(|at| run.push(&chunk(number, 0, at * 50, 100)).unwrap());
            }
            Action::Flush => {
                let durable = writer.flush().unwrap();
                assert_eq!(durable, writer.bytes());
                // Readable at once, beside the writer.
                let contents = world.contents(1);
                assert!(!contents.closed && contents.damaged.is_empty());
                assert_eq!(runs(&contents), sealed);
                assert_eq!(world.facts(&contents), facts);
                sealed.iter().zip(&given).for_each(|(sealed, given)| given.check(&world.reader, &sealed.run));
            }
        }
    }
    writer.close().unwrap();
    let contents = world.contents(1);
    assert!(contents.closed && contents.damaged.is_empty());
    assert_eq!(runs(&contents), sealed);
    assert_eq!(world.facts(&contents), facts);
    sealed.iter().zip(&given).for_each(|(sealed, given)| given.check(&world.reader, &sealed.run));
    // Closing it once more changes nothing.
    let again = close_left_open(&world.reader, SegmentNumber(1), 0, &small_segments()).unwrap();
    assert_eq!(again, Some(contents));
    assert_eq!(world.damages(1), []);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn what_a_segment_was_given_is_read_back_from_real_files(actions in actions(), direct_io: bool) {
        let directory = tempfile::tempdir().unwrap();
        let mut world = World::new(Arc::new(RingIo::new()), directory.path());
        world.config.direct_io = direct_io;
        write_and_read_back(&world, &actions);
    }

    #[test]
    fn what_a_segment_was_given_is_read_back_from_a_simulated_disk(actions in actions(), seed: u64) {
        write_and_read_back(&World::simulated(seed).0, &actions);
    }

    #[test]
    fn an_index_finds_the_chunks_of_any_stretch_of_time(
        ticks in proptest::collection::btree_set((0u8..3, 0u64..400), 1..40), track in 0u8..4, from in 0u64..450, length in 0u64..200,
    ) {
        let (world, _) = World::simulated(0);
        let mut writer = world.create(1).unwrap();
        let chunks: Vec<ChunkRecord> = ticks.iter().map(|&(track, tick)| chunk(1, track, tick, 10)).collect();
        let run = writer.append_run(recording(1), &[], chunks.into_iter().map(Ok), &[], Vec::new()).unwrap();
        writer.flush().unwrap();
        let index = world.reader.run_index(recording(1), &run).unwrap();
        let found: Vec<RunEntry> = index.chunks_in(TrackId(track), Tick(from)..Tick(from + length)).copied().collect();
        let overlaps = |entry: &&RunEntry| {
            entry.track == TrackId(track) && entry.first_tick.0 < from + length && entry.end_tick().0 > from
        };
        let expected: Vec<RunEntry> = index.entries.iter().filter(overlaps).copied().collect();
        prop_assert_eq!(found, expected);
        prop_assert_eq!(index.first_tick().0, ticks.iter().map(|&(_, tick)| tick).min().unwrap());
    }
}

/// How many seeds a test takes; more by `SIDETONE_SEEDS`.
fn seeds() -> std::ops::Range<u64> {
    let seeds = std::env::var("SIDETONE_SEEDS").ok().and_then(|seeds| seeds.parse().ok());
    0..seeds.unwrap_or(300)
}

/// A segment as its process left it: what was appended, and how much of it is known to be durable.
struct Left {
    appended: Vec<(Given, Run)>,
    flushed: usize,
    durable: u64,
    closed: bool,
}

/// Writes a segment, and stops at any point.
fn write_until_the_end_comes(world: &World, disk: &SimulatedDisk, random: &mut Random) -> Left {
    let mut writer = world.create(1).unwrap();
    let mut left = Left { appended: Vec::new(), flushed: 0, durable: 0, closed: false };
    for number in 0..random.below(12) {
        let given = Given::new(number, 1 + random.below(6), random.below(20_000) as usize);
        let run = given.append(&mut writer).unwrap();
        left.appended.push((given, run));
        if random.chance(400) {
            left.durable = writer.flush().unwrap();
            left.flushed = left.appended.len();
        }
    }
    let mut fail = |operation, skip_max| disk.fail(Path::new("/"), operation, random.below(skip_max) as u32, 1);
    match left.appended.len() % 4 {
        0 => drop(writer),
        // All of it may be written, and nobody knows.
        1 => {
            fail(Operation::Sync, 1);
            assert!(left.flushed == left.appended.len() || writer.flush().is_err());
        }
        failing => {
            if failing == 2 {
                fail(Operation::Sync, 3);
            }
            left.closed = writer.close().is_ok();
        }
    }
    disk.fail(Path::new("/"), Operation::Sync, 0, 0);
    if left.closed {
        left.flushed = left.appended.len();
    }
    left
}

/// Starts that are cut short, and then one that is not.
fn recover(world: &World, disk: &SimulatedDisk, random: &mut Random, durable: u64) -> Option<SegmentContents> {
    let operations = [Operation::Write, Operation::Sync, Operation::Truncate, Operation::Read];
    let close = || close_left_open(&world.reader, SegmentNumber(1), durable, &small_segments());
    for _ in 0..random.below(3) {
        disk.fail(Path::new("/"), operations[random.below(4) as usize], random.below(4) as u32, 1);
        match close() {
            Ok(_) => break,
            Err(LogError::Io { .. }) => disk.crash(),
            Err(error) => panic!("{error}"),
        }
    }
    operations.into_iter().for_each(|operation| disk.fail(Path::new("/"), operation, 0, 0));
    match close() {
        // It held nothing, and was removed in an attempt before.
        Err(LogError::Retired { .. }) => None,
        contents => contents.unwrap(),
    }
}

#[test]
fn runs_that_were_flushed_survive_any_crash_and_a_segment_left_open_is_closed() {
    let (mut cut_off, mut kept_unflushed) = (0, 0);
    for seed in seeds() {
        let mut random = Random::new(seed);
        let (mut world, disk) = World::simulated(seed);
        disk.set_delay(Path::new("/"), 3);
        world.config.preallocate_bytes = random.below(2) << 20;
        let left = write_until_the_end_comes(&world, &disk, &mut random);
        if random.chance(300) {
            disk.kill();
        } else {
            disk.crash();
        }
        assert!(!left.closed || world.contents(1).closed, "seed {seed}: what was closed is closed");
        let Some(contents) = recover(&world, &disk, &mut random, left.durable) else {
            assert_eq!(left.flushed, 0, "seed {seed}");
            continue;
        };
        // What a recovery has told stays so.
        disk.crash();
        assert_eq!(world.contents(1), contents, "seed {seed}");
        assert!(contents.closed && contents.damaged.is_empty(), "seed {seed}: {contents:?}");
        assert_eq!(world.damages(1), [], "seed {seed}");
        let runs = runs(&contents);
        assert!(runs.len() >= left.flushed, "seed {seed}: a flushed run is missing");
        for (sealed, (given, run)) in runs.iter().zip(&left.appended) {
            assert_eq!(&sealed.run, run, "seed {seed}");
            given.check(&world.reader, run);
        }
        cut_off += left.appended.len() - runs.len();
        kept_unflushed += runs.len() - left.flushed;
    }
    assert!(
        cut_off > 0 && kept_unflushed > 0,
        "crashes did take unflushed runs ({cut_off}), and spare some ({kept_unflushed})"
    );
}

#[test]
fn a_segment_that_failed_is_given_up_and_what_was_flushed_stays() {
    let (world, disk) = World::simulated(1);
    let mut writer = world.create(1).unwrap();
    let (first, second) = (Given::new(1, 5, 1000), Given::new(2, 5, 1000));
    let run = first.append(&mut writer).unwrap();
    writer.flush().unwrap();
    second.append(&mut writer).unwrap();
    disk.fail(Path::new("/"), Operation::Sync, 0, 1);
    assert!(matches!(writer.flush(), Err(LogError::Io { .. })));
    assert!(writer.flush().is_err(), "a failed file stays failed");
    writer.abandon();
    assert_eq!(runs(&world.contents(1)).first().map(|sealed| &sealed.run), Some(&run));
    first.check(&world.reader, &run);
}

#[test]
fn chunks_that_do_not_belong_are_refused_and_the_run_goes_on() {
    let (world, _) = World::simulated(1);
    let mut writer = world.create(1).unwrap();
    let bad = |result: Result<(), LogError>| assert!(matches!(result, Err(LogError::BadRun { .. })), "{result:?}");
    let mut run = writer.begin_run(recording(1), &[]).unwrap();
    run.push(&chunk(1, 0, 50, 100)).unwrap();
    run.push(&chunk(1, 1, 50, 100)).unwrap();
    bad(run.push(&chunk(2, 1, 100, 100)));
    bad(run.push(&chunk(1, 1, 50, 100)));
    bad(run.push(&chunk(1, 1, 40, 100)));
    bad(run.push(&chunk(1, 0, 100, 100)));
    bad(run.push(&chunk(1, 1, 1 << 40, 100)));
    bad(run.push(&chunk(1, 1, u64::MAX - 9, 100)));
    run.push(&chunk(1, 1, 100, 100)).unwrap();
    assert_eq!(run.finish(&[], Vec::new()).unwrap().chunks, 3);
    let empty = writer.begin_run(recording(1), &[]).unwrap().finish(&[], Vec::new());
    bad(empty.map(|_| ()));
    let table = Table { name: "x".repeat(256), bytes: Vec::new() };
    bad(writer.append_run(recording(1), &[], [Ok(chunk(1, 0, 1, 1))], &[], vec![table]).map(|_| ()));
    let table = Table { name: "large".into(), bytes: vec![0; 1 << 20] };
    let large = writer.append_run(recording(1), &[], [Ok(chunk(1, 0, 1, 1))], &[], vec![table]);
    assert!(matches!(large, Err(LogError::TooLong { .. })));
    writer.close().unwrap();
    assert_eq!(runs(&world.contents(1)).len(), 1);
}

#[test]
fn the_longest_run_can_be_written_and_read() {
    let (world, _) = World::simulated(1);
    let mut writer = world.create(1).unwrap();
    let mut run = writer.begin_run(recording(1), &[]).unwrap();
    for at in 0..format::RUN_CHUNKS_MAX as u64 {
        run.push(&chunk(1, 0, at * 50, 1)).unwrap();
    }
    assert!(matches!(run.push(&chunk(1, 1, 0, 1)), Err(LogError::BadRun { .. })));
    let run = run.finish(&[], Vec::new()).unwrap();
    assert!(writer.is_full(), "a segment that is full takes the run that it began");
    writer.close().unwrap();
    let index = world.reader.run_index(recording(1), &run).unwrap();
    let last = index.entries.last().unwrap();
    assert_eq!(last.first_tick.0, (format::RUN_CHUNKS_MAX as u64 - 1) * 50);
    assert_eq!(world.reader.read_chunk(recording(1), &run, last).unwrap(), chunk(1, 0, last.first_tick.0, 1));
}

#[test]
fn an_index_of_many_runs_takes_several_records() {
    let (world, _) = World::simulated(1);
    let mut writer = world.create(1).unwrap();
    let given: Vec<Given> = (0..12_000).map(|number| Given::new(number, 1, 3)).collect();
    let written: Vec<Run> = given.iter().map(|given| given.append(&mut writer).unwrap()).collect();
    writer.close().unwrap();
    let contents = world.contents(1);
    assert!(contents.closed);
    let found: Vec<Run> = runs(&contents).into_iter().map(|sealed| sealed.run).collect();
    assert_eq!(found, written);
    given[11_999].check(&world.reader, &found[11_999]);
}

#[test]
fn what_is_asked_for_under_a_wrong_name_is_not_given_out() {
    let (world, _) = World::simulated(1);
    let mut writer = world.create(1).unwrap();
    let (first, second) = (Given::new(1, 3, 100), Given::new(2, 3, 100));
    let (run, other) = (first.append(&mut writer).unwrap(), second.append(&mut writer).unwrap());
    writer.close().unwrap();
    let index = world.reader.run_index(first.recording, &run).unwrap();
    let entry = index.entries[1];
    let reader = &world.reader;
    let bad_index = |recording, run: &Run| {
        let index = reader.run_index(recording, run);
        assert!(matches!(index, Err(LogError::BadRunIndex { .. })), "{index:?}");
    };
    bad_index(second.recording, &run);
    bad_index(first.recording, &other);
    bad_index(first.recording, &Run { chunks: run.chunks - 1, ..run.clone() });
    bad_index(first.recording, &Run { root: other.root, ..run.clone() });
    bad_index(first.recording, &Run { length: 0, ..run.clone() });
    bad_index(first.recording, &Run { offset: u64::MAX, length: u64::MAX, index_offset: u64::MAX - 64, ..run.clone() });
    let bad_chunk = |recording, run: &Run, entry: &RunEntry| {
        let chunk = reader.read_chunk(recording, run, entry);
        assert!(matches!(chunk, Err(LogError::BadChunk { .. })), "{chunk:?}");
    };
    bad_chunk(second.recording, &run, &entry);
    bad_chunk(first.recording, &other, &entry);
    bad_chunk(first.recording, &run, &RunEntry { first_tick: Tick(1), ..entry });
    bad_chunk(first.recording, &run, &RunEntry { length: entry.length + 16, ..entry });
    bad_chunk(first.recording, &run, &RunEntry { offset: u64::MAX - 3, ..entry });
    let gone = Run { segment: SegmentNumber(7), ..run };
    assert!(matches!(reader.run_index(first.recording, &gone), Err(LogError::Retired { .. })));
    assert!(matches!(reader.read_chunk(first.recording, &gone, &entry), Err(LogError::Retired { .. })));
    assert!(matches!(reader.contents(SegmentNumber(7), 0), Err(LogError::Retired { .. })));
}

#[test]
fn segments_of_another_store_volume_kind_or_number_are_refused() {
    let (world, _) = World::simulated(1);
    world.create(1).unwrap().close().unwrap();
    let files = OpenFiles::new(Arc::clone(&world.io), 4);
    let open = |owner| SegmentReader::open(&files, &world.directory, owner).contents(SegmentNumber(1), 0);
    assert!(open(OWNER).is_ok());
    let foreign = open(Owner { store_id: Uuid::from_u128(9), ..OWNER });
    assert!(matches!(foreign, Err(LogError::ForeignStore { .. })), "{foreign:?}");
    let foreign = open(Owner { volume: VolumeNumber(3), ..OWNER });
    assert!(matches!(foreign, Err(LogError::ForeignVolume { .. })), "{foreign:?}");
    world.io.rename(Path::new("/log/0000000001.seg"), Path::new("/log/0000000002.seg")).unwrap();
    let other = world.reader.contents(SegmentNumber(2), 0);
    assert!(matches!(other, Err(LogError::NotALogFile { .. })), "{other:?}");
    world.io.rename(Path::new("/log/0000000002.seg"), Path::new("/log/0000000001.jnl")).unwrap();
    let journal = JournalReader::open(&files, &world.directory, OWNER);
    let scanned = journal.scan(LogPosition::default(), super::ALL).unwrap().next();
    assert!(matches!(scanned, Some(Err(LogError::NotALogFile { .. }))), "{scanned:?}");
}

#[test]
fn ten_thousand_readers_keep_a_few_files_open() {
    let (world, disk) = World::simulated(1);
    let mut written = Vec::new();
    for number in 1..=20 {
        let mut writer = world.create(number).unwrap();
        let given = Given::new(u64::from(number), 1, 10);
        let run = given.append(&mut writer).unwrap();
        writer.close().unwrap();
        written.push((given, run));
    }
    let readers: Vec<SegmentReader> = (0..10_000).map(|_| world.reader.clone()).collect();
    for (number, reader) in readers.iter().enumerate() {
        let (given, run) = &written[number * 7 % written.len()];
        reader.run_index(given.recording, run).unwrap();
    }
    assert_eq!(disk.open_files(Path::new("/")), 4);
    world.reader.files().forget(Path::new("/"));
    assert_eq!(disk.open_files(Path::new("/")), 0);
}

#[test]
fn a_file_that_was_replaced_is_read_anew() {
    let (world, _) = World::simulated(1);
    let write = |number| {
        let mut writer = world.create(1).unwrap();
        let given = Given::new(number, 2, 100);
        let run = given.append(&mut writer).unwrap();
        writer.close().unwrap();
        (given, run)
    };
    let (given, run) = write(1);
    given.check(&world.reader, &run);
    world.io.remove(Path::new("/log/0000000001.seg")).unwrap();
    // It is open still.
    assert!(world.reader.run_index(given.recording, &run).is_ok());
    let (other, other_run) = write(2);
    other.check(&world.reader, &other_run);
    assert!(matches!(world.reader.run_index(given.recording, &run), Err(LogError::BadRunIndex { .. })));
}

#[test]
fn nothing_is_set_aside_behind_a_closed_segment() {
    let directory = tempfile::tempdir().unwrap();
    let world = World::new(Arc::new(RingIo::new()), directory.path());
    let mut writer = world.create(1).unwrap();
    Given::new(1, 3, 1000).append(&mut writer).unwrap();
    let path = world.reader.path(SegmentNumber(1));
    assert!(world.io.size(&path).unwrap().allocated_bytes >= 1 << 20);
    writer.close().unwrap();
    let size = world.io.size(&path).unwrap();
    assert!(size.bytes < 40_000 && size.allocated_bytes < 60_000, "{size:?}");
}

#[test]
fn an_impossible_configuration_is_refused() {
    let (world, _) = World::simulated(1);
    for config in [
        SegmentConfig { block_bytes: 1000, ..small_segments() },
        SegmentConfig { block_bytes: 0, ..small_segments() },
        SegmentConfig { buffer_bytes: 1 << 20, ..small_segments() },
        SegmentConfig { block_bytes: 1 << 20, ..small_segments() },
        SegmentConfig { preallocate_bytes: 4095, ..small_segments() },
    ] {
        let made =
            SegmentWriter::create(&world.io, Path::new("/log"), SegmentNumber(1), &identity(), ("a", None), &config);
        assert!(matches!(made, Err(LogError::Configuration { .. })), "{config:?}");
    }
    assert!(SegmentConfig::default().output().is_ok());
}

#[test]
fn a_month_and_a_class_stand_in_the_header() {
    let (world, _) = World::simulated(1);
    world.create(1).unwrap().close().unwrap();
    let header = world.contents(1).header.unwrap();
    let expires = format::Month::containing("2031-04-30T23:59:59Z".parse::<CaptureTime>().unwrap());
    assert_eq!(header.kind, format::FileKind::Segment { class: "standard".into(), expires: Some(expires) });
    assert_eq!((header.file, header.store_id, header.node.as_str()), (1, STORE, "box-1"));
}
