//! A writing process is killed at random moments: what it had said to be durable is there, whole, and in the catalog.

use sidetone_model::{NodeName, RecordingId, Tick, TrackId};
use sidetone_store::{Store, StoreError, StoreOptions, StoreReader};
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

const KILLS: u32 = 20;

fn crash_writer() -> PathBuf {
    // Examples lie beside the directory of the test's own program.
    let test = std::env::current_exe().unwrap();
    let program = test.ancestors().nth(2).unwrap().join("examples/crash_writer");
    assert!(program.exists(), "{} is built by `cargo test` of this crate", program.display());
    program
}

#[test]
fn what_was_acknowledged_survives_twenty_kills() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let mut acknowledged = 0;
    let (mut replayed, mut adopted, mut sealed) = (0, 0, 0);
    for round in 0..KILLS {
        let mut child = Command::new(crash_writer())
            .arg(&path)
            .arg(acknowledged.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        // It is up, and recovery of the last round is behind it.
        lines.next().expect("the child starts").unwrap();
        if round == 0 {
            let error = Store::open(&path, &StoreOptions::new(NodeName("second".into()))).err().unwrap();
            let StoreError::Locked { process, .. } = &error else { panic!("{error}") };
            assert_eq!(process, &child.id().to_string());
            // Reading beside it is allowed.
            StoreReader::open(&path).unwrap().statistics().unwrap();
        }
        std::thread::sleep(Duration::from_millis(20 + u64::from(round * 37 % 200)));
        child.kill().unwrap();
        child.wait().unwrap();
        for line in lines {
            // A line that the kill cut off was not said.
            let Some(number) = line.ok().and_then(|line| line.parse::<u64>().ok()) else { break };
            acknowledged = acknowledged.max(number);
        }

        let Store { writer: _writer, keeper: _keeper, reader, handle: _handle } =
            Store::open(&path, &StoreOptions::new(NodeName("after".into()))).unwrap();
        let keeper = reader.statistics().unwrap().keeper.unwrap();
        replayed += keeper.caught_up_records;
        adopted += keeper.adopted_runs;
        assert_eq!(keeper.damaged_places, 0, "round {round}");
        assert!(acknowledged == 0 || reader.has_replayed(&format!("until {acknowledged}")).unwrap());
        let mut found = vec![false; acknowledged as usize];
        for recording in 0..8 {
            for track in 0..2 {
                let recording = RecordingId(uuid::Uuid::from_u128(recording));
                sealed = sealed.max(reader.runs(recording).unwrap().len());
                for chunk in reader.chunks(recording, TrackId(track), Tick(0)..Tick(u64::MAX)).unwrap() {
                    let chunk = chunk.unwrap();
                    let number = chunk.header.first_tick.0 / 50;
                    let whole = chunk.payload.len() == 200 + (number % 1500) as usize
                        && chunk.payload.iter().all(|&byte| byte == number as u8);
                    assert!(whole, "round {round}: chunk {number} is not what was written");
                    if let Some(slot) = found.get_mut(number as usize) {
                        *slot = true;
                    }
                }
            }
        }
        let missing = found.iter().filter(|&&found| !found).count();
        assert_eq!(missing, 0, "round {round}: of {acknowledged} acknowledged chunks");
        // The next child numbers on behind everything that is there, acknowledged or not.
        acknowledged = acknowledged.max(reader.statistics().unwrap().catalog.chunks);
    }
    assert!(acknowledged > 1000, "the children did write: {acknowledged}");
    assert!(replayed > 0, "no kill fell between the journal and the catalog");
    assert!(sealed > 10, "the children did seal: {sealed} runs of a recording");
    println!(
        "{acknowledged} chunks, {replayed} records caught up with, {adopted} runs adopted, {sealed} runs of a recording"
    );
}
