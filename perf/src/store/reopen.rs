//! How fast a store is there again: opened with a full journal, and with its catalog lost.

use super::{Options, remove};
use crate::calls::{CALL_LENGTH, CUT_TICKS, Calls, PAYLOAD_BYTES, Payloads, finished};
use crate::lockstep::Lockstep;
use crate::measure::{CpuTimes, Spread, forget_cached};
use crate::metered::Metered;
use crate::recorder::{cut_before, now, store_options};
use anyhow::Result;
use serde::Serialize;
use sidetone_model::{CaptureTime, Tick};
use sidetone_store::{JournalConfig, RebuildOptions, SealingOptions, Store, StoreOptions, rebuild};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Simultaneous calls in the full journal.
const CALLS: usize = 1000;

#[derive(Serialize)]
pub(super) struct Outcome {
    /// Recordings in segments that hold facts only.
    recordings: u64,
    rebuild_per_second: Spread,
    rebuild_per_cpu_second: Spread,
    /// Recordings with a little audio each, so that each is a run.
    runs: u64,
    rebuild_runs_per_second: Spread,
    rebuild_runs_per_cpu_second: Spread,
    journal_mib: f64,
    journal_records: u64,
    /// With a catalog that is up to date, nothing of it all in the page cache.
    open_ms: Spread,
    /// With a catalog that has lost everything, so that the whole journal is read.
    open_behind_seconds: Spread,
    open_behind_records_per_second: f64,
}

pub(super) fn measure(options: &Options, directory: &Path) -> Result<Outcome> {
    make_facts(options.recordings, directory)?;
    let of_facts = measure_rebuild(options, options.recordings, directory)?;
    remove(directory)?;
    let runs = make_runs(options.recordings / 10, directory)?;
    let of_runs = measure_rebuild(options, runs, directory)?;
    remove(directory)?;

    let (journal_bytes, journal_records) = make_journal(options.journal_gib, directory)?;
    let (mut opened, mut behind) = (Vec::new(), Vec::new());
    for _ in 0..options.rounds {
        forget_cached(directory)?;
        opened.push(open(directory)?.0.as_secs_f64() * 1e3);
        remove(&directory.join("catalog"))?;
        forget_cached(directory)?;
        behind.push(open(directory)?.0.as_secs_f64());
    }
    remove(directory)?;
    let open_behind_seconds = Spread::of(behind);
    Ok(Outcome {
        recordings: options.recordings,
        rebuild_per_second: Spread::of(of_facts.iter().map(|(per_second, _)| *per_second)),
        rebuild_per_cpu_second: Spread::of(of_facts.iter().map(|(_, per_cpu_second)| *per_cpu_second)),
        runs,
        rebuild_runs_per_second: Spread::of(of_runs.iter().map(|(per_second, _)| *per_second)),
        rebuild_runs_per_cpu_second: Spread::of(of_runs.iter().map(|(_, per_cpu_second)| *per_cpu_second)),
        journal_mib: journal_bytes as f64 / f64::from(1 << 20),
        journal_records,
        open_ms: Spread::of(opened),
        open_behind_seconds,
        open_behind_records_per_second: journal_records as f64 / open_behind_seconds.median,
    })
}

/// Opens the store and closes it. Tells how long opening took, and how many recordings there are.
fn open(directory: &Path) -> Result<(Duration, u64)> {
    let began = Instant::now();
    let store = Store::open(directory, &store_options())?;
    let took = began.elapsed();
    let recordings = store.reader.statistics()?.catalog.recordings;
    store.keeper.close(store.writer)?;
    Ok((took, recordings))
}

/// Recordings per second, and per second of CPU, of `sidetone store rebuild`.
fn measure_rebuild(options: &Options, recordings: u64, directory: &Path) -> Result<Vec<(f64, f64)>> {
    let mut rounds = Vec::new();
    for _ in 0..options.rounds {
        forget_cached(directory)?;
        let before = CpuTimes::now()?;
        let began = Instant::now();
        let done = rebuild(directory, &RebuildOptions::default(), &mut |_| {})?.done;
        let took = began.elapsed().as_secs_f64();
        let cpu = (&CpuTimes::now()? - &before).process;
        anyhow::ensure!(done.damaged_places == 0, "{done:?}");
        let (_, found) = open(directory)?;
        anyhow::ensure!(found == recordings, "{found} recordings are found of {recordings}");
        rounds.push((recordings as f64 / took, recordings as f64 / cpu));
    }
    Ok(rounds)
}

/// A store whose segments hold facts of recordings and no audio.
fn make_facts(recordings: u64, directory: &Path) -> Result<()> {
    const AT_ONCE: u64 = 2000;
    let options =
        StoreOptions { journal: JournalConfig { file_bytes: 32 << 20, ..JournalConfig::default() }, ..store_options() };
    let first = cut_before(CaptureTime(now().0 - 86_400_000_000_000));
    let io = Arc::new(Metered::new(first.start()));
    let mut store = Lockstep::open(&io, directory, &options)?;
    let cut = |number: u64| Tick(first.0 + number / AT_ONCE * CUT_TICKS);
    for begin in (0..recordings).step_by(AT_ONCE as usize) {
        let facts = (begin..recordings.min(begin + AT_ONCE)).map(|number| finished(number, cut(number))).collect();
        store.step(cut(begin).start(), std::iter::empty(), facts)?;
    }
    store.close()?;
    // The facts in the last journal file move when it is not the last any more.
    let mut store = Lockstep::open(&io, directory, &options)?;
    store.drain(cut(recordings).start())?;
    store.close()?;
    Ok(())
}

/// A store with about so many recordings of 0.7 s, sealed. Tells how many.
fn make_runs(recordings: u64, directory: &Path) -> Result<u64> {
    const AT_ONCE: usize = 500;
    let rounds = recordings.div_ceil(AT_ONCE as u64);
    let payloads = Payloads::random(PAYLOAD_BYTES);
    let mut cut = cut_before(CaptureTime(now().0 - 86_400_000_000_000));
    let io = Arc::new(Metered::new(cut.start()));
    let mut store = Lockstep::open(&io, directory, &store_options())?;
    for _ in 0..rounds {
        let calls = Calls::together(AT_ONCE, CALL_LENGTH, cut, &payloads);
        cut = Tick(cut.0 + CUT_TICKS);
        store.step(cut.start(), calls.chunks(0..AT_ONCE, cut), Vec::new())?;
        store.step(cut.start(), std::iter::empty(), calls.end_all(cut))?;
    }
    store.close()?;
    let mut store = Lockstep::open(&io, directory, &store_options())?;
    store.drain(cut.start())?;
    store.close()?;
    Ok(rounds * AT_ONCE as u64)
}

/// A store in which everything lies in the journal. Gives its bytes and records.
fn make_journal(gibibytes: f64, directory: &Path) -> Result<(u64, u64)> {
    let never = SealingOptions { interval: Duration::from_secs(86_400), ..SealingOptions::default() };
    let options = StoreOptions { sealing: never, ..store_options() };
    let payloads = Payloads::random(PAYLOAD_BYTES);
    let cut_bytes = 2.0 * CALLS as f64 * PAYLOAD_BYTES as f64;
    let cuts = (gibibytes * f64::from(1 << 30) / cut_bytes) as u64;
    let first = cut_before(now());
    let io = Arc::new(Metered::new(first.start()));
    let mut store = Lockstep::open(&io, directory, &options)?;
    let mut calls = Calls::under_way(CALLS, CALL_LENGTH, first, &payloads);
    for step in 1..=cuts {
        let cut = Tick(first.0 + step * CUT_TICKS);
        let facts = calls.facts(0..CALLS, cut);
        store.step(cut.start(), calls.chunks(0..CALLS, cut), facts)?;
    }
    let tally = store.close()?;
    Ok((io.journal_bytes(), tally.chunks + tally.facts))
}

impl Outcome {
    pub(super) fn print(&self) {
        println!("catalog made anew, nothing in the page cache");
        println!(
            "  facts only   {:9.0} recordings/s of {} ({:.0} to {:.0}), {:.0} for each second of CPU",
            self.rebuild_per_second.median,
            self.recordings,
            self.rebuild_per_second.low,
            self.rebuild_per_second.high,
            self.rebuild_per_cpu_second.median
        );
        println!(
            "  with audio   {:9.0} recordings/s of {}, {:.0} for each second of CPU",
            self.rebuild_runs_per_second.median, self.runs, self.rebuild_runs_per_cpu_second.median
        );
        println!(
            "opening with {:.0} MiB of journal, {} records, nothing in the page cache",
            self.journal_mib, self.journal_records
        );
        println!("  up to date   {:9.0} ms", self.open_ms.median);
        println!(
            "  all to read  {:9.2} s, {:.0} records/s",
            self.open_behind_seconds.median, self.open_behind_records_per_second
        );
    }
}
