//! Chunks at a steady rate, some hundred tracks at a time, with the keeper at work.

use super::{Options, remove};
use crate::calls::{CALL_LENGTH, CUT, CUT_TICKS, Calls, Payloads};
use crate::measure::{CpuTimes, ROCKSDB, Spread, thread_cpu_seconds};
use crate::recorder::{KEEPER_THREAD, Running, cut_before, now, store_options};
use anyhow::Result;
use serde::Serialize;
use sidetone_model::Tick;
use sidetone_store::Store;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

const PAYLOAD_BYTES: usize = 1500;
/// Parts of a cut's audio that arrive one after the other.
const PARTS: usize = 20;

#[derive(Serialize)]
pub(super) struct Outcome {
    wanted_chunks_per_second: u64,
    payload_bytes: f64,
    tracks: usize,
    /// Durable, over the whole round with its last flush.
    chunks_per_second: Spread,
    /// The most that appending was behind its time.
    late_max_ms: Spread,
    /// Chunks and facts that the store did not take, over all rounds.
    refused: u64,
    flush_p50_ms: Spread,
    flush_p99_ms: Spread,
    /// The longest that one part's appends took.
    append_max_ms: Spread,
    /// Until the catalog had everything, after the last flush.
    catalog_behind_ms: Spread,
    /// Batches that did not fit the keeper's queue, over all rounds.
    batches_dropped: u64,
    /// CPU in cores.
    writer_cores: Spread,
    keeper_cores: Spread,
    rocksdb_cores: Spread,
    all_cores: Spread,
    /// Without any pace, the catalog included.
    unpaced_chunks_per_second: f64,
}

struct Round {
    chunks_per_second: f64,
    late_max_ms: f64,
    refused: u64,
    flush_p50_ms: f64,
    flush_p99_ms: f64,
    append_max_ms: f64,
    catalog_behind_ms: f64,
    batches_dropped: u64,
    writer_cores: f64,
    keeper_cores: f64,
    rocksdb_cores: f64,
    all_cores: f64,
}

pub(super) fn measure(options: &Options, directory: &Path) -> Result<Outcome> {
    let payloads = Payloads::random(PAYLOAD_BYTES);
    // Every track has a chunk at every cut.
    let calls = (options.rate as f64 * CUT.as_secs_f64() / 2.0).ceil() as usize;
    anyhow::ensure!(calls >= PARTS, "a rate below {PARTS} calls is none");
    let mut rounds = Vec::new();
    for _ in 0..options.rounds {
        rounds.push(round(options.seconds, calls, &payloads, directory)?);
        remove(directory)?;
    }
    let unpaced_chunks_per_second = unpaced(calls, &payloads, directory)?;
    remove(directory)?;
    let spread = |of: fn(&Round) -> f64| Spread::of(rounds.iter().map(of));
    let sum = |of: fn(&Round) -> u64| rounds.iter().map(of).sum();
    Ok(Outcome {
        wanted_chunks_per_second: options.rate,
        payload_bytes: payloads.bytes_mean(),
        tracks: calls * 2,
        chunks_per_second: spread(|round| round.chunks_per_second),
        late_max_ms: spread(|round| round.late_max_ms),
        refused: sum(|round| round.refused),
        flush_p50_ms: spread(|round| round.flush_p50_ms),
        flush_p99_ms: spread(|round| round.flush_p99_ms),
        append_max_ms: spread(|round| round.append_max_ms),
        catalog_behind_ms: spread(|round| round.catalog_behind_ms),
        batches_dropped: sum(|round| round.batches_dropped),
        writer_cores: spread(|round| round.writer_cores),
        keeper_cores: spread(|round| round.keeper_cores),
        rocksdb_cores: spread(|round| round.rocksdb_cores),
        all_cores: spread(|round| round.all_cores),
        unpaced_chunks_per_second,
    })
}

fn round(seconds: u64, calls: usize, payloads: &Arc<Payloads>, directory: &Path) -> Result<Round> {
    let mut store = Running::start(Store::open(directory, &store_options())?)?;
    let mut cut = cut_before(now());
    let mut calls = Calls::under_way(calls, CALL_LENGTH, cut, payloads);
    let begin_with = calls.facts_of_all(cut);
    store.recorder.append(std::iter::empty(), begin_with)?;
    store.settle()?;
    store.recorder.take_tally();

    let before = CpuTimes::now()?;
    let (writer_before, mut making) = (thread_cpu_seconds(), 0.0);
    let (began, mut late_max) = (Instant::now(), Duration::ZERO);
    let cuts = (Duration::from_secs(seconds).as_nanos() / CUT.as_nanos()) as u32;
    for step in 0..cuts {
        cut = Tick(cut.0 + CUT_TICKS);
        for part in 0..PARTS {
            let due = began + CUT * step + CUT / PARTS as u32 * part as u32;
            store.recorder.wait_until(due);
            late_max = late_max.max(due.elapsed());
            let places = calls.len() * part / PARTS..calls.len() * (part + 1) / PARTS;
            let making_began = thread_cpu_seconds();
            let facts = calls.facts(places.clone(), cut);
            making += thread_cpu_seconds() - making_began;
            store.recorder.append(calls.chunks(places, cut), facts)?;
        }
        store.recorder.begin_flush();
    }
    store.recorder.wait_until(began + CUT * cuts);
    store.recorder.settle(Duration::from_millis(1))?;
    let elapsed = began.elapsed().as_secs_f64();
    let writer = thread_cpu_seconds() - writer_before - making;
    let used = &CpuTimes::now()? - &before;
    let behind = store.settle()?;
    let tally = store.recorder.take_tally();
    let statistics = store.reader.statistics()?;
    let flushes = tally.flushes.summary();
    let round = Round {
        chunks_per_second: tally.durable_chunks as f64 / elapsed,
        late_max_ms: late_max.as_secs_f64() * 1e3,
        refused: tally.refused,
        flush_p50_ms: flushes.p50_ms,
        flush_p99_ms: flushes.p99_ms,
        append_max_ms: tally.append_max.as_secs_f64() * 1e3,
        catalog_behind_ms: behind.as_secs_f64() * 1e3,
        batches_dropped: statistics.writer.map_or(0, |writer| writer.batches_dropped),
        writer_cores: writer / elapsed,
        keeper_cores: used.thread(KEEPER_THREAD) / elapsed,
        rocksdb_cores: used.thread(ROCKSDB) / elapsed,
        all_cores: (used.process - making) / elapsed,
    };
    store.close()?;
    Ok(round)
}

/// As fast as the store takes it, until the catalog has it too.
fn unpaced(calls: usize, payloads: &Arc<Payloads>, directory: &Path) -> Result<f64> {
    const CUTS: u64 = 20;
    let mut store = Running::start(Store::open(directory, &store_options())?)?;
    let cut = cut_before(now());
    let calls = Calls::under_way(calls, CALL_LENGTH, cut, payloads);
    let began = Instant::now();
    for step in 1..=CUTS {
        store.recorder.append(calls.chunks(0..calls.len(), Tick(cut.0 + step * CUT_TICKS)), Vec::new())?;
        store.recorder.begin_flush();
        store.recorder.poll();
    }
    store.settle()?;
    let rate = store.recorder.tally.durable_chunks as f64 / began.elapsed().as_secs_f64();
    store.close()?;
    Ok(rate)
}

impl Outcome {
    pub(super) fn print(&self) {
        println!(
            "sustained: {} chunks/s of {:.0} bytes, {} tracks",
            self.wanted_chunks_per_second, self.payload_bytes, self.tracks
        );
        println!("  reached      {:9.0} chunks/s durable, {} refused", self.chunks_per_second.median, self.refused);
        println!("  flush        {:9.1} ms p50, {:.1} ms p99", self.flush_p50_ms.median, self.flush_p99_ms.median);
        println!(
            "  appends      {:9.1} ms the longest of {PARTS} to the cut, at most {:.1} ms late",
            self.append_max_ms.median, self.late_max_ms.median
        );
        println!(
            "  catalog      {:9.1} ms behind at the end, {} batches dropped",
            self.catalog_behind_ms.median, self.batches_dropped
        );
        println!(
            "  CPU          {:9.1} % of a core: writer {:.1}, keeper {:.1}, RocksDB {:.1}",
            self.all_cores.median * 100.0,
            self.writer_cores.median * 100.0,
            self.keeper_cores.median * 100.0,
            self.rocksdb_cores.median * 100.0
        );
        println!("  without pace {:9.0} chunks/s", self.unpaced_chunks_per_second);
    }
}
