//! Bytes written for each byte of audio: to the journal, to segments, and by RocksDB, until everything is sealed and the
//! journal is retired.
//!
//! Counts, not times: one round tells all. Flushes, seals and retirements are those that the same minutes of real time have.

use super::{Options, remove};
use crate::calls::{CALL_LENGTH, CUT, CUT_TICKS, Calls, PAYLOAD_BYTES, Payloads};
use crate::lockstep::Lockstep;
use crate::measure::written_bytes;
use crate::metered::Metered;
use crate::recorder::{cut_before, now, store_options};
use anyhow::Result;
use serde::Serialize;
use sidetone_model::{CaptureTime, Tick};
use sidetone_store::Store;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const CALLS: usize = 200;

#[derive(Serialize)]
pub(super) struct Outcome {
    calls: usize,
    minutes: u64,
    recordings: u64,
    payload_mib: f64,
    facts: u64,
    /// Facts that the keeper had written to the journal again so that an old file could go.
    facts_renewed: u64,
    /// Everything that went to block devices over the audio's payload bytes.
    all: f64,
    /// Its parts: records of chunks in the journal; facts and announcements there; padding and headers there; segments;
    /// RocksDB, with all its tables and its write-ahead log.
    journal_chunks: f64,
    journal_facts: f64,
    journal_padding: f64,
    segments: f64,
    rocksdb: f64,
    /// What is there in the end, over the payload bytes.
    kept: f64,
}

pub(super) fn measure(options: &Options, directory: &Path) -> Result<Outcome> {
    let payloads = Payloads::random(PAYLOAD_BYTES);
    let length = Duration::from_secs(options.minutes * 60);
    let first = cut_before(CaptureTime(now().0 - length.as_nanos() as u64));
    let written_before = written_bytes()?;
    let io = Arc::new(Metered::new(first.start()));
    let mut store = Lockstep::open(&io, directory, &store_options())?;
    let mut calls = Calls::beginning(CALLS, CALL_LENGTH, first, &payloads);
    let cuts = (length.as_nanos() / CUT.as_nanos()) as u64;
    for step in 0..cuts {
        let cut = Tick(first.0 + step * CUT_TICKS);
        let facts = calls.facts(0..CALLS, cut);
        store.step(cut.start(), calls.chunks(0..CALLS, cut), facts)?;
    }
    let end = Tick(first.0 + cuts * CUT_TICKS);
    store.step(end.start(), std::iter::empty(), calls.end_all(Tick(end.0 - CUT_TICKS)))?;
    let time = end.start();
    anyhow::ensure!(store.tally().refused == 0, "the store refused audio");
    let statistics = store.reader().statistics()?;
    let record_bytes = statistics.writer.map_or(0, |writer| writer.bytes);
    let facts_renewed = statistics.keeper.map_or(0, |keeper| keeper.facts_renewed);
    let tally = store.close()?;
    // A journal file that is being written stays: the next process begins another one, and that of this one goes.
    let mut store = Lockstep::open(&io, directory, &store_options())?;
    store.drain(time)?;
    let statistics = store.reader().statistics()?;
    store.close()?;
    // What RocksDB holds in memory becomes a table now.
    drop(Store::open(directory, &store_options())?);
    let written = (written_bytes()? - written_before) as f64;
    let payload = tally.payload_bytes as f64;
    let (journals, segments) = (io.journal_bytes() as f64, io.segment_bytes() as f64);
    let kept: u64 = statistics.volumes.iter().map(|volume| volume.segment_bytes).sum();
    remove(directory)?;
    Ok(Outcome {
        calls: CALLS,
        minutes: options.minutes,
        recordings: statistics.catalog.recordings,
        payload_mib: payload / f64::from(1 << 20),
        facts: tally.facts,
        facts_renewed,
        all: written / payload,
        journal_chunks: tally.chunk_bytes as f64 / payload,
        journal_facts: (record_bytes - tally.chunk_bytes) as f64 / payload,
        journal_padding: (journals - record_bytes as f64) / payload,
        segments: segments / payload,
        rocksdb: (written - journals - segments) / payload,
        kept: (kept + statistics.catalog.size_bytes) as f64 / payload,
    })
}

impl Outcome {
    pub(super) fn print(&self) {
        println!(
            "bytes written for each byte of audio, {} calls for {} min: {} recordings, {:.0} MiB of audio, {} facts, {} renewed",
            self.calls, self.minutes, self.recordings, self.payload_mib, self.facts, self.facts_renewed
        );
        println!("  all          {:9.3}", self.all);
        println!(
            "  journal      {:9.3} of chunks, {:.3} of facts, {:.3} of padding and headers",
            self.journal_chunks, self.journal_facts, self.journal_padding
        );
        println!("  segments     {:9.3}", self.segments);
        println!("  RocksDB      {:9.3}", self.rocksdb);
        println!("  kept         {:9.3}", self.kept);
    }
}
