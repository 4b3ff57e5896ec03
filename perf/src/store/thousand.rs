//! What many simultaneous calls cost, with calls beginning and ending, sealing and retirement going on.
//!
//! The store is given the audio of the last minutes first, as fast as it takes it: from then on as much audio is sealed as
//! comes in.

use super::{Options, remove};
use crate::calls::{CALL_LENGTH, CUT, Calls, PAYLOAD_BYTES, Payloads};
use crate::measure::{CpuTimes, IO_WORKERS, ROCKSDB, Spread, TimeSummary, Times, thread_cpu_seconds};
use crate::recorder::{KEEPER_THREAD, Running, fill_begin, store_options};
use anyhow::Result;
use serde::Serialize;
use sidetone_store::Store;
use std::path::Path;
use std::time::{Duration, Instant};

#[derive(Serialize)]
pub(super) struct Outcome {
    calls: usize,
    payload_bytes: f64,
    /// CPU in shares of a core.
    writer: Spread,
    keeper: Spread,
    rocksdb: Spread,
    io_workers: Spread,
    /// All of it, without the making of the documents.
    all: Spread,
    chunks_per_second: Spread,
    facts_per_second: Spread,
    sealed_mib_per_second: Spread,
    sealed_runs_per_second: Spread,
    retired_mib_per_second: f64,
    refused: u64,
    batches_dropped: u64,
    flush: TimeSummary,
    /// Until the catalog had everything, after the last flush.
    catalog_behind_ms: f64,
    facts_renewed: u64,
}

struct Round {
    writer: f64,
    keeper: f64,
    rocksdb: f64,
    io_workers: f64,
    all: f64,
    chunks_per_second: f64,
    facts_per_second: f64,
    sealed_mib_per_second: f64,
    sealed_runs_per_second: f64,
}

pub(super) fn measure(options: &Options, directory: &Path) -> Result<Outcome> {
    let payloads = Payloads::random(PAYLOAD_BYTES);
    let mut store = Running::start(Store::open(directory, &store_options())?)?;
    let mut calls = Calls::beginning(options.calls, CALL_LENGTH, fill_begin(), &payloads);
    let mut cut = store.fill(&mut calls)?;
    store.recorder.take_tally();

    let cuts = (Duration::from_secs(options.seconds).as_nanos() / CUT.as_nanos()) as u32;
    let (mut rounds, mut flushes, mut refused) = (Vec::new(), Times::default(), 0);
    let keeper_at_first = store.keeper()?;
    let first_began = Instant::now();
    for _ in 0..options.rounds {
        let (cpu, writer, keeper_before) = (CpuTimes::now()?, thread_cpu_seconds(), store.keeper()?);
        let began = Instant::now();
        let (next, making) = store.record(&mut calls, cut, cuts)?;
        cut = next;
        let elapsed = began.elapsed().as_secs_f64();
        let writer = thread_cpu_seconds() - writer - making;
        let (used, keeper_after) = (&CpuTimes::now()? - &cpu, store.keeper()?);
        let tally = store.recorder.take_tally();
        flushes.extend(&tally.flushes);
        refused += tally.refused;
        rounds.push(Round {
            writer: writer / elapsed,
            keeper: used.thread(KEEPER_THREAD) / elapsed,
            rocksdb: used.thread(ROCKSDB) / elapsed,
            io_workers: used.thread(IO_WORKERS) / elapsed,
            all: (used.process - making) / elapsed,
            chunks_per_second: tally.durable_chunks as f64 / elapsed,
            facts_per_second: tally.facts as f64 / elapsed,
            sealed_mib_per_second: mib(keeper_after.sealed_bytes - keeper_before.sealed_bytes) / elapsed,
            sealed_runs_per_second: (keeper_after.sealed_runs - keeper_before.sealed_runs) as f64 / elapsed,
        });
    }
    let catalog_behind_ms = store.settle()?.as_secs_f64() * 1e3;
    let keeper_at_last = store.keeper()?;
    let retired_bytes = keeper_at_last.retired_bytes - keeper_at_first.retired_bytes;
    let retired_mib_per_second = mib(retired_bytes) / first_began.elapsed().as_secs_f64();
    let batches_dropped = store.reader.statistics()?.writer.map_or(0, |writer| writer.batches_dropped);
    store.close()?;
    remove(directory)?;
    let spread = |of: fn(&Round) -> f64| Spread::of(rounds.iter().map(of));
    Ok(Outcome {
        calls: options.calls,
        payload_bytes: payloads.bytes_mean(),
        writer: spread(|round| round.writer),
        keeper: spread(|round| round.keeper),
        rocksdb: spread(|round| round.rocksdb),
        io_workers: spread(|round| round.io_workers),
        all: spread(|round| round.all),
        chunks_per_second: spread(|round| round.chunks_per_second),
        facts_per_second: spread(|round| round.facts_per_second),
        sealed_mib_per_second: spread(|round| round.sealed_mib_per_second),
        sealed_runs_per_second: spread(|round| round.sealed_runs_per_second),
        retired_mib_per_second,
        refused,
        batches_dropped,
        flush: flushes.summary(),
        catalog_behind_ms,
        facts_renewed: keeper_at_last.facts_renewed - keeper_at_first.facts_renewed,
    })
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

impl Outcome {
    pub(super) fn print(&self) {
        let percent = |spread: &Spread| spread.median * 100.0;
        println!(
            "{} calls: {:.0} chunks/s of {:.0} bytes, {:.0} facts/s",
            self.calls, self.chunks_per_second.median, self.payload_bytes, self.facts_per_second.median
        );
        println!(
            "  writer       {:9.2} % of a core ({:.2} to {:.2})",
            percent(&self.writer),
            self.writer.low * 100.0,
            self.writer.high * 100.0
        );
        println!(
            "  keeper       {:9.2} % of a core ({:.2} to {:.2})",
            percent(&self.keeper),
            self.keeper.low * 100.0,
            self.keeper.high * 100.0
        );
        println!(
            "  RocksDB      {:9.2} %, io_uring's workers {:.2} %",
            percent(&self.rocksdb),
            percent(&self.io_workers)
        );
        println!("  all          {:9.2} % of a core", percent(&self.all));
        println!(
            "  sealed       {:9.2} MiB/s in {:.1} runs/s; journal files retired {:.2} MiB/s",
            self.sealed_mib_per_second.median, self.sealed_runs_per_second.median, self.retired_mib_per_second
        );
        println!(
            "  flush        {:9.1} ms p50, {:.1} ms p99 of {}",
            self.flush.p50_ms, self.flush.p99_ms, self.flush.count
        );
        println!(
            "  catalog      {:9.1} ms behind at the end, {} batches dropped",
            self.catalog_behind_ms, self.batches_dropped
        );
        println!("  refused      {:9}, {} facts renewed", self.refused, self.facts_renewed);
    }
}
