//! The catalog by size: how fast recordings come in, how many bytes each takes, how long opening and searching take.
//!
//! A catalog is filled with recordings of a generated installation (`world`), the last part of them as a running recorder
//! does it. Then it is compacted and measured, taken out of the page cache, opened, and asked twelve kinds of questions
//! (`questions`) while recordings keep coming in.

mod plot;
mod questions;
mod world;

use crate::measure::{Spread, Times, forget_cached, thread_cpu_seconds};
use anyhow::{Context, Result};
use questions::{QUESTIONS, question};
use serde::Serialize;
use sidetone_catalog::{Catalog, CatalogBuilder, CatalogError, CatalogOptions, Changes, Query, RocksCatalog};
use sidetone_log::{LogPosition, VolumeNumber};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use world::{Random, World};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Print one JSON document instead of text.
    #[arg(long)]
    json: bool,
    /// Sizes to measure, in recordings.
    #[arg(long, value_delimiter = ',', default_value = "10000,100000")]
    recordings: Vec<u64>,
    /// Rounds of opening and asking; the median counts.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Rounds of filling; the median counts.
    #[arg(long, default_value_t = 1)]
    fills: usize,
    /// Each question is asked so often in each round.
    #[arg(long, default_value_t = 200)]
    samples: usize,
    /// Recordings that come in per second meanwhile.
    #[arg(long, default_value_t = 1000)]
    background: u64,
    /// Ask with all of the catalog in the page cache, instead of right after a cold start.
    #[arg(long)]
    warm: bool,
    /// Where catalogs are made; they are removed again.
    #[arg(long)]
    directory: Option<PathBuf>,
    /// Leave them there, and of one that is there only measure opening and searching.
    #[arg(long, requires = "directory")]
    keep: bool,
    /// Draw search latency and opening time against the size into this SVG file.
    #[arg(long)]
    plot: Option<PathBuf>,
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Recordings that come in as in a running recorder, at most.
const INSERTED_MAX: u64 = 200_000;
/// Recordings made ready before the clock starts.
const BURST: u64 = 50_000;
/// Recordings in one batch.
const BATCH: u64 = 1000;

#[derive(Serialize)]
struct Outcome {
    recordings: u64,
    /// Absent when the catalog was there already.
    filling: Option<Filling>,
    bytes_per_recording: f64,
    family_bytes_per_recording: Vec<(&'static str, f64)>,
    /// With nothing of it in the page cache, and from the second round on with the write-ahead log of the round before.
    open_cold_ms: Spread,
    first_search_ms: Spread,
    background_per_second: Spread,
    questions: Vec<Asked>,
    resident_mib_max: f64,
}

#[derive(Serialize)]
struct Filling {
    /// Recordings per second into a catalog that is made anew, and with putting its tables in order at the end.
    rebuild_per_second: Spread,
    rebuild_finished_per_second: Spread,
    /// Recordings per second in batches of 1000, into the filled catalog.
    insert_per_second: Spread,
    /// CPU time of the applying thread for each recording, in microseconds: what it would take on an idle machine.
    rebuild_cpu_us: Spread,
    insert_cpu_us: Spread,
}

#[derive(Serialize)]
struct Asked {
    question: &'static str,
    p50_ms: Spread,
    p99_ms: Spread,
    /// Of all rounds.
    max_ms: f64,
    /// The same of the thread's CPU time, on which other work on the machine has less influence.
    cpu_p50_ms: Spread,
    cpu_p99_ms: Spread,
    /// Recordings on the first page, on average, and how many pages were cut short by the bound on work.
    found: f64,
    short_pages: usize,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let mut outcomes = Vec::new();
    for &recordings in &options.recordings {
        let temporary = match &options.directory {
            Some(_) if options.keep => None,
            Some(directory) => Some(tempfile::tempdir_in(directory)),
            None => Some(tempfile::tempdir()),
        };
        let temporary = temporary.transpose().context("no directory for the catalog")?;
        let directory = temporary.as_ref().map(tempfile::TempDir::path).or(options.directory.as_deref());
        let directory = directory.context("no directory for the catalog")?;
        let outcome = measure(options, recordings, &directory.join(format!("catalog-{recordings}")))?;
        if !options.json {
            print(&outcome);
        }
        outcomes.push(outcome);
    }
    if options.json {
        println!("{}", serde_json::to_string_pretty(&outcomes)?);
    }
    if let Some(path) = &options.plot {
        std::fs::write(path, plot::draw(&outcomes)).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

fn measure(options: &Options, recordings: u64, path: &Path) -> Result<Outcome> {
    let world = World { seed: options.seed, recordings };
    let mut filled = Vec::new();
    for _ in 0..options.fills.max(1) {
        if path.exists() && filled.is_empty() {
            break;
        }
        if path.exists() {
            std::fs::remove_dir_all(path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
        filled.push(fill_both_ways(&world, path)?);
    }
    let catalog = RocksCatalog::open(path)?;
    if !filled.is_empty() {
        catalog.compact()?;
    }
    let held = catalog.statistics()?.recordings;
    anyhow::ensure!(held >= recordings, "recordings are missing: {held} of {recordings}");
    let bytes = catalog.table_bytes()?;
    let per_recording = |bytes: u64| bytes as f64 / held as f64;
    let total = bytes.iter().map(|(_, bytes)| bytes).sum();
    drop(catalog);

    let mut rounds = Vec::new();
    for number in 0..options.rounds {
        rounds.push(round(options, &world, path, number)?);
    }
    let spread = |of: fn(&Round) -> f64| Spread::of(rounds.iter().map(of));
    Ok(Outcome {
        recordings,
        filling: (!filled.is_empty()).then(|| Filling::of(&filled)),
        bytes_per_recording: per_recording(total),
        family_bytes_per_recording: bytes.into_iter().map(|(name, bytes)| (name, per_recording(bytes))).collect(),
        open_cold_ms: spread(|round| round.open_cold_ms),
        first_search_ms: spread(|round| round.first_search_ms),
        background_per_second: spread(|round| round.background_per_second),
        questions: (0..QUESTIONS.len()).map(|index| asked(&rounds, index, options)).collect(),
        resident_mib_max: crate::pipeline::peak_resident_kib()? / 1024.0,
    })
}

/// What one opening of the catalog has shown.
struct Round {
    open_cold_ms: f64,
    first_search_ms: f64,
    background_per_second: f64,
    /// By question.
    answers: Vec<Answers>,
}

#[derive(Clone, Default)]
struct Answers {
    took: Times,
    cpu: Times,
    found: usize,
    short_pages: usize,
}

fn round(options: &Options, world: &World, path: &Path, number: usize) -> Result<Round> {
    forget_cached(path)?;
    let opening = Instant::now();
    let catalog = RocksCatalog::open(path)?;
    let open_cold = opening.elapsed();
    let searching = Instant::now();
    catalog.search(&Query::default())?;
    let first_search = searching.elapsed();
    if options.warm {
        read_all(path)?;
    }
    let held = catalog.statistics()?.recordings;
    let (answers, background_per_second) = ask(options, world, &catalog, held, number)?;
    Ok(Round {
        open_cold_ms: open_cold.as_secs_f64() * 1e3,
        first_search_ms: first_search.as_secs_f64() * 1e3,
        background_per_second,
        answers,
    })
}

/// What all rounds say of a question.
fn asked(rounds: &[Round], index: usize, options: &Options) -> Asked {
    let answers = || rounds.iter().map(|round| &round.answers[index]);
    let spread = |of: fn(&Answers) -> f64| Spread::of(answers().map(of));
    Asked {
        question: QUESTIONS[index],
        p50_ms: spread(|answers| answers.took.summary().p50_ms),
        p99_ms: spread(|answers| answers.took.summary().p99_ms),
        max_ms: spread(|answers| answers.took.summary().max_ms).high,
        cpu_p50_ms: spread(|answers| answers.cpu.summary().p50_ms),
        cpu_p99_ms: spread(|answers| answers.cpu.summary().p99_ms),
        found: answers().map(|answers| answers.found).sum::<usize>() as f64 / (rounds.len() * options.samples) as f64,
        short_pages: answers().map(|answers| answers.short_pages).sum(),
    }
}

/// How long filling took, and how many recordings came in each way.
struct Filled {
    rebuilt: u64,
    feeding: Took,
    finished: Duration,
    inserted: u64,
    inserting: Took,
}

impl Filling {
    fn of(filled: &[Filled]) -> Self {
        let spread = |of: fn(&Filled) -> f64| Spread::of(filled.iter().map(of));
        Self {
            rebuild_per_second: spread(|one| one.rebuilt as f64 / one.feeding.wall.as_secs_f64()),
            rebuild_finished_per_second: spread(|one| one.rebuilt as f64 / one.finished.as_secs_f64()),
            insert_per_second: spread(|one| one.inserted as f64 / one.inserting.wall.as_secs_f64()),
            rebuild_cpu_us: spread(|one| one.feeding.cpu_seconds * 1e6 / one.rebuilt as f64),
            insert_cpu_us: spread(|one| one.inserting.cpu_seconds * 1e6 / one.inserted as f64),
        }
    }
}

/// Most of it as a rebuild does, the rest as a running recorder.
fn fill_both_ways(world: &World, path: &Path) -> Result<Filled> {
    let inserted = INSERTED_MAX.min(world.recordings / 2);
    let rebuilt = world.recordings - inserted;
    let builder = CatalogBuilder::create(path, &CatalogOptions::default())?;
    let feeding = fill(world, 0..rebuilt, |changes, _| builder.add(changes))?;
    let finishing = Instant::now();
    builder.finish(std::thread::available_parallelism()?.get(), &mut |_| {})?.persist()?;
    let finished = feeding.wall + finishing.elapsed();

    let catalog = RocksCatalog::open(path)?;
    let insert = |changes: &Changes, position| catalog.apply(changes, &[position]);
    let inserting = fill(world, rebuilt..world.recordings, insert)?;
    catalog.persist()?;
    Ok(Filled { rebuilt, feeding, finished, inserted, inserting })
}

/// Time on the clock, and CPU time of the thread that waited for it.
#[derive(Clone, Copy, Default)]
struct Took {
    wall: Duration,
    cpu_seconds: f64,
}

/// Brings in these recordings, and tells how long that took without making them ready.
fn fill(
    world: &World,
    numbers: std::ops::Range<u64>,
    bring_in: impl Fn(&Changes, (VolumeNumber, LogPosition)) -> Result<(), CatalogError>,
) -> Result<Took> {
    let mut took = Took::default();
    let mut next = numbers.start;
    while next < numbers.end {
        let end = numbers.end.min(next + BURST);
        let batches: Vec<Changes> =
            (next..end).step_by(BATCH as usize).map(|first| changes(world, first..end.min(first + BATCH))).collect();
        let (started, cpu_started) = (Instant::now(), thread_cpu_seconds());
        for (batch, first) in batches.iter().zip((next..).step_by(BATCH as usize)) {
            bring_in(batch, applied(first + BATCH))?;
        }
        took.wall += started.elapsed();
        took.cpu_seconds += thread_cpu_seconds() - cpu_started;
        next = end;
    }
    Ok(took)
}

fn changes(world: &World, numbers: std::ops::Range<u64>) -> Changes {
    let mut changes = Changes::default();
    numbers.flat_map(|number| world.facts(number)).for_each(|fact| changes.fact(fact, &[]));
    changes
}

fn applied(number: u64) -> (VolumeNumber, LogPosition) {
    (VolumeNumber(0), LogPosition { file: (number / 300) as u32, offset: number % 300 * 440_000 })
}

/// All questions in turn, each several times, while recordings come in.
fn ask(
    options: &Options,
    world: &World,
    catalog: &RocksCatalog,
    held: u64,
    round: usize,
) -> Result<(Vec<Answers>, f64)> {
    let done = AtomicBool::new(false);
    let inserted = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let background = scope.spawn(|| insert_steadily(options, world, catalog, held, &done, &inserted));
        let started = Instant::now();
        let answers = ask_all(options, world, catalog, round);
        let rate = inserted.load(Ordering::Relaxed) as f64 / started.elapsed().as_secs_f64();
        done.store(true, Ordering::Relaxed);
        background.join().expect("the background thread does not panic")?;
        Ok((answers?, rate))
    })
}

/// Ten batches a second, of recordings from number `held` on, as long as it takes.
fn insert_steadily(
    options: &Options,
    world: &World,
    catalog: &RocksCatalog,
    held: u64,
    done: &AtomicBool,
    inserted: &AtomicU64,
) -> Result<()> {
    const PERIOD: Duration = Duration::from_millis(100);
    let batch = options.background / 10;
    let mut due = Instant::now();
    for first in (held..).step_by(batch.max(1) as usize) {
        if done.load(Ordering::Relaxed) {
            break;
        }
        if batch > 0 {
            catalog.apply(&changes(world, first..first + batch), &[applied(first + batch)])?;
            inserted.fetch_add(batch, Ordering::Relaxed);
        }
        due += PERIOD;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    Ok(())
}

fn ask_all(options: &Options, world: &World, catalog: &RocksCatalog, round: usize) -> Result<Vec<Answers>> {
    let mut answers = vec![Answers::default(); QUESTIONS.len()];
    for sample in round * options.samples..(round + 1) * options.samples {
        for (index, answers) in answers.iter_mut().enumerate() {
            let mut random = Random::part(options.seed ^ 99, (sample * QUESTIONS.len() + index) as u64);
            let query = question(world, index, &mut random);
            let (started, cpu_started) = (Instant::now(), thread_cpu_seconds());
            let page = catalog.search(&query)?;
            answers.cpu.push(Duration::from_secs_f64(thread_cpu_seconds() - cpu_started));
            answers.took.push(started.elapsed());
            answers.found += page.recordings.len();
            answers.short_pages += usize::from(page.recordings.len() < query.limit && page.next.is_some());
        }
    }
    Ok(answers)
}

/// Brings a directory's files into the page cache.
fn read_all(directory: &Path) -> Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        match std::fs::File::open(&path) {
            Ok(mut file) => _ = std::io::copy(&mut file, &mut std::io::sink())?,
            // RocksDB removes files at any time.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }
    Ok(())
}

fn print(outcome: &Outcome) {
    println!("{} recordings", outcome.recordings);
    if let Some(filling) = &outcome.filling {
        println!(
            "  rebuild      {:9.0} recordings/s ({:.1} us of CPU each), {:.0}/s with putting tables in order",
            filling.rebuild_per_second.median,
            filling.rebuild_cpu_us.median,
            filling.rebuild_finished_per_second.median
        );
        println!(
            "  insert       {:9.0} recordings/s ({:.1} us of CPU each), in batches of {BATCH}",
            filling.insert_per_second.median, filling.insert_cpu_us.median
        );
    }
    println!("  on disk      {:9.1} bytes per recording", outcome.bytes_per_recording);
    for (family, bytes) in &outcome.family_bytes_per_recording {
        println!("    {family:<16} {bytes:7.1}");
    }
    println!(
        "  cold open    {:9.1} ms ({:.1} to {:.1}), first search {:.1} ms",
        outcome.open_cold_ms.median,
        outcome.open_cold_ms.low,
        outcome.open_cold_ms.high,
        outcome.first_search_ms.median
    );
    println!("  memory       {:9.0} MiB resident at most, of this program", outcome.resident_mib_max);
    println!(
        "  searches while {:.0} recordings/s come in     p50 ms      p99      max  p50 CPU  p99 CPU  found  short",
        outcome.background_per_second.median
    );
    for asked in &outcome.questions {
        println!(
            "    {:<44} {:8.2} {:8.2} {:8.2} {:8.2} {:8.2} {:6.1} {:6}",
            asked.question,
            asked.p50_ms.median,
            asked.p99_ms.median,
            asked.max_ms,
            asked.cpu_p50_ms.median,
            asked.cpu_p99_ms.median,
            asked.found,
            asked.short_pages
        );
    }
}
