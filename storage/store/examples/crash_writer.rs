//! Writes chunks and facts into a store until it is killed, and says on standard output what is durable. The test
//! `killed` starts it, kills it, and holds the store against what it said. Its keeper runs beside it as in a recorder, and seals
//! and retires as fast as it can.
//!
//! `crash_writer DIRECTORY FIRST`: numbers chunks from FIRST on. After each flush, prints the number of the next one.

use sidetone_log::{ChunkCodec, ChunkHeader, Fact};
use sidetone_model::{CaptureTime, NodeName, RecordingId, Tick, TrackId};
use sidetone_store::{JournalConfig, SegmentConfig, Store, StoreOptions};
use std::io::Write;
use std::time::Duration;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(directory), Some(first)) = (arguments.next(), arguments.next()) else {
        return Err("usage: crash_writer DIRECTORY FIRST".into());
    };
    let mut options = StoreOptions::new(NodeName("crash".into()));
    // Small, so that files follow each other and buffers fill while the test runs.
    options.journal =
        JournalConfig { file_bytes: 4 << 20, buffer_bytes: 2 << 20, block_bytes: 64 << 10, direct_io: true };
    options.segments = SegmentConfig { file_bytes: 1 << 20, preallocate_bytes: 1 << 20, ..SegmentConfig::default() };
    options.sealing.interval = Duration::ZERO;
    options.sealing.running_after = Duration::ZERO;
    let Store { mut writer, mut keeper, .. } = Store::open(directory.as_ref(), &options)?;
    std::thread::spawn(move || keeper.run(&std::sync::atomic::AtomicBool::new(false)));
    let mut output = std::io::stdout().lock();
    let mut number: u64 = first.parse()?;
    writeln!(output, "{number}")?;
    loop {
        for _ in 0..1 + number % 97 {
            let header = ChunkHeader {
                recording: RecordingId(uuid::Uuid::from_u128(u128::from(number % 8))),
                track: TrackId((number / 8 % 2) as u8),
                first_tick: Tick(number * 50),
                ticks: 50,
                packets: 50,
                codec: ChunkCodec::OpusNarrowband,
                key_id: [0; 16],
                nonce: [0; 12],
                tag: [0; 16],
            };
            let payload = vec![number as u8; 200 + (number % 1500) as usize];
            writer.append_chunk(&header, &payload)?;
            number += 1;
        }
        writer.append_fact(Fact::Replayed { digest: format!("until {number}"), at: CaptureTime(number) })?;
        writer.flush()?;
        writeln!(output, "{number}")?;
        output.flush()?;
    }
}
