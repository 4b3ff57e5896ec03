//! docs/formats.md is enough to write a reader: `reader.py`, which was written from it, reads what this crate writes.

use serde_json::{Value, json};
use sidetone_log::format::Month;
use sidetone_log::merkle::MerkleTree;
use sidetone_log::{
    ChunkCodec, ChunkHeader, ChunkPayload, ChunkRecord, Fact, FactRecord, FactSequence, Identity, Io, Journal,
    JournalConfig, LogPosition, RingIo, Run, SegmentConfig, SegmentNumber, SegmentWriter, Table, Through, VolumeNumber,
};
use sidetone_model::{Annotations, CaptureTime, NodeName, RecordingId, Tick, TrackId};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;
use uuid::Uuid;

const STORE: Uuid = Uuid::from_u128(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10);

fn identity() -> Identity {
    Identity { store_id: STORE, volume: VolumeNumber(0), volume_id: STORE, node: NodeName("büro-1".into()) }
}

fn recording(number: u8) -> RecordingId {
    RecordingId(Uuid::from_bytes([number; 16]))
}

/// The packets of a track, one for each grid step; some steps are without audio.
fn packets(track: u8, first_tick: u64, ticks: u16) -> Vec<Vec<u8>> {
    let packet = |tick: u64| vec![tick as u8; (tick as usize * 7 + usize::from(track)) % 60];
    (first_tick..first_tick + u64::from(ticks)).map(packet).collect()
}

fn chunk(number: u8, track: u8, first_tick: u64, ticks: u16) -> ChunkRecord {
    let mut payload = ChunkPayload::default();
    packets(track, first_tick, ticks).iter().for_each(|packet| payload.push(packet));
    let header = ChunkHeader {
        recording: recording(number),
        track: TrackId(track),
        first_tick: Tick(first_tick),
        ticks,
        packets: ticks - 1,
        codec: ChunkCodec::OpusNarrowband,
        key_id: [0; 16],
        nonce: [0; 12],
        tag: [0; 16],
    };
    ChunkRecord::new(&header, &payload.0).unwrap()
}

/// Ninety-odd grid steps of two tracks.
fn chunks(number: u8) -> Vec<ChunkRecord> {
    let of_track =
        |track| [(0, 50), (50, 41)].map(|(tick, ticks)| chunk(number, track, u64::from(number) * 1000 + tick, ticks));
    (0..2).flat_map(of_track).collect()
}

/// As `reader.py` prints them, sorted.
fn expected_packets(number: u8) -> Vec<String> {
    let first = u64::from(number) * 1000;
    let mut lines = Vec::new();
    for track in 0..2 {
        for (tick, packet) in (first..).zip(packets(track, first, 91)).filter(|(_, packet)| !packet.is_empty()) {
            let hexadecimal: String = packet.iter().map(|byte| format!("{byte:02x}")).collect();
            lines.push(format!("{track} {tick} {hexadecimal}"));
        }
    }
    lines.sort();
    lines
}

fn facts(number: u8) -> Vec<FactRecord> {
    let tags = [("ä key".to_owned(), format!("value {number}"))].into();
    let annotations = Annotations { tags, ..Annotations::default() };
    let fact = Fact::Annotations { recording: recording(number), annotations };
    vec![FactRecord { sequence: FactSequence(1 << 40 | u64::from(number)), fact }]
}

fn replayed() -> FactRecord {
    let fact = Fact::Replayed { digest: "abc".into(), at: CaptureTime(1_700_000_000_000_000_000) };
    FactRecord { sequence: FactSequence(7), fact }
}

/// What the reader prints about a fact.
fn expected_fact(fact: &FactRecord) -> Value {
    let about = fact.fact.recording().map(|id| id.to_string());
    json!({"sequence": fact.sequence.0, "about": about, "fact": fact.fact})
}

fn expected_run(number: u8, run: &Run) -> Value {
    let mut tree = MerkleTree::new();
    chunks(number).iter().for_each(|chunk| tree.push(chunk.bytes()));
    let id = recording(number).to_string();
    json!({"run": {"recording": id, "offset": run.offset, "chunks": 4, "root": tree.root().to_string()}})
}

/// Runs the reader; `None` where there is no Python and this is no CI.
fn run_reader(arguments: &[&str]) -> Option<Output> {
    let script = "tests/reader.py";
    match Command::new("python3").arg(script).args(arguments).output() {
        Ok(output) => Some(output),
        Err(error) => {
            assert!(std::env::var_os("CI").is_none(), "python3 is needed for this test: {error}");
            eprintln!("SKIPPED: python3 cannot be started ({error}); install it to check docs/formats.md");
            None
        }
    }
}

fn lines(output: &Output) -> Vec<String> {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    String::from_utf8(output.stdout.clone()).unwrap().lines().map(str::to_owned).collect()
}

/// Compares what the reader says of a file with what is expected: header members, then the facts and runs, then the packets
/// of each recording.
fn check(path: &Path, header: &Value, said: &[Value], recordings: &[u8]) -> bool {
    let path = path.to_str().unwrap();
    let Some(output) = run_reader(&[path]) else { return false };
    let mut values: Vec<Value> = lines(&output).iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let found = values.remove(0);
    for (member, value) in header.as_object().unwrap() {
        assert_eq!(&found[member], value, "{member} in {found}");
    }
    assert_eq!(values, said);
    for &number in recordings {
        let mut packets = lines(&run_reader(&[path, &recording(number).to_string()]).unwrap());
        packets.sort();
        assert_eq!(packets, expected_packets(number));
    }
    assert_eq!(lines(&run_reader(&[path, &recording(99).to_string()]).unwrap()), Vec::<String>::new());
    true
}

/// Two runs and facts between them, in two flushes, and a run that was given up.
fn write_segment(directory: &Path) -> (SegmentWriter, Vec<Value>) {
    let io: Arc<dyn Io> = Arc::new(RingIo::new());
    let fate = ("größte", Month::new(2031, 4));
    let config = SegmentConfig { preallocate_bytes: 1 << 20, ..SegmentConfig::default() };
    let mut writer = SegmentWriter::create(&io, directory, SegmentNumber(3), &identity(), fate, &config).unwrap();
    let mut said = Vec::new();
    for number in [1, 2] {
        let position = LogPosition { file: 1, offset: 4096 };
        let through = vec![Through { volume: VolumeNumber(0), position }; usize::from(number)];
        let tables = vec![Table { name: "sizes".into(), bytes: vec![1, 2, 3] }];
        let run = writer
            .append_run(recording(number), &facts(number), chunks(number).into_iter().map(Ok), &through, tables)
            .unwrap();
        said.extend(facts(number).iter().map(expected_fact));
        said.push(expected_run(number, &run));
        writer.append_facts(&[replayed()]).unwrap();
        said.push(expected_fact(&replayed()));
        writer.flush().unwrap();
    }
    let mut given_up = writer.begin_run(recording(1), &[]).unwrap();
    given_up.push(&chunk(1, 0, 9000, 50)).unwrap();
    writer.flush().unwrap();
    (writer, said)
}

fn segment_header(closed: bool) -> Value {
    json!({
        "kind": "segment", "number": 3, "volume": 0, "store_id": STORE.to_string(), "node": "büro-1",
        "retention_class": "größte", "expires": "2031-04", "closed": closed,
    })
}

#[test]
fn a_closed_segment_is_read_from_the_documentation_alone_and_damage_is_seen() {
    let directory = tempfile::tempdir().unwrap();
    let (writer, said) = write_segment(directory.path());
    writer.close().unwrap();
    let path = directory.path().join("0000000003.seg");
    if !check(&path, &segment_header(true), &said, &[1, 2]) {
        return;
    }
    let whole = std::fs::read(&path).unwrap();
    let run = said.iter().find(|value| value.get("run").is_some()).unwrap();
    let in_run = run["run"]["offset"].as_u64().unwrap() as usize + 500;
    let in_index = whole.len() - 2 * 4096 + 100;
    for place in [100, in_run, in_index] {
        let mut damaged = whole.clone();
        damaged[place] ^= 0x10;
        std::fs::write(&path, &damaged).unwrap();
        let output = run_reader(&[path.to_str().unwrap()]).unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && told.contains("damaged"), "a flip at {place}: {told:?}");
    }
}

#[test]
fn a_segment_that_is_not_closed_is_read_from_the_documentation_alone() {
    let directory = tempfile::tempdir().unwrap();
    let (writer, said) = write_segment(directory.path());
    // Space is set aside behind what was written.
    let path = directory.path().join("0000000003.seg");
    let read = check(&path, &segment_header(false), &said, &[2]);
    drop(writer);
    if !read {
        return;
    }
    // What stands there twice is the given-up run's, and not given out.
    let mut packets = lines(&run_reader(&[path.to_str().unwrap(), &recording(1).to_string()]).unwrap());
    packets.sort();
    assert_eq!(packets, expected_packets(1));
}

#[test]
fn a_journal_file_is_read_from_the_documentation_alone() {
    let directory = tempfile::tempdir().unwrap();
    let io: Arc<dyn Io> = Arc::new(RingIo::new());
    let config = JournalConfig { file_bytes: 4 << 20, buffer_bytes: 2 << 20, block_bytes: 64 << 10, direct_io: true };
    let open =
        || Journal::open(Arc::clone(&io), directory.path(), &identity(), &config, LogPosition::default()).unwrap();
    let mut journal = open();
    let mut said = Vec::new();
    for number in [1, 2] {
        for chunk in chunks(number) {
            journal.append_chunk(chunk.header(), chunk.payload()).unwrap();
        }
        for fact in facts(number).iter().chain([&replayed()]) {
            journal.append_fact(fact).unwrap();
            said.push(expected_fact(fact));
        }
        journal.flush().unwrap();
    }
    let path = directory.path().join("0000000001.jnl");
    let header = json!({"kind": "journal", "number": 1, "volume": 0, "store_id": STORE.to_string(), "node": "büro-1",
        "retention_class": "", "expires": null, "closed": false});
    check(&path, &header, &said, &[1, 2]);
    drop(journal);
    check(&path, &header, &said, &[1, 2]);
}
