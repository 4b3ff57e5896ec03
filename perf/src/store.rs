//! The store: how much audio it takes, what that costs, how many bytes it writes for it, and how fast it is there again.

mod amplification;
mod reopen;
mod sustained;
mod thousand;

use crate::measure::load_average;
use anyhow::{Context, Result};
use clap::ValueEnum;
use serde::Serialize;
use std::path::{Path, PathBuf};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Print one JSON document instead of text.
    #[arg(long)]
    json: bool,
    /// What to measure; everything when absent.
    #[arg(long, value_enum, value_delimiter = ',')]
    part: Vec<Part>,
    /// Rounds of each part; the median counts.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of a round that goes in real time.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Chunks per second of the first part.
    #[arg(long, default_value_t = 20_000)]
    rate: u64,
    /// Simultaneous calls of the second part.
    #[arg(long, default_value_t = 1000)]
    calls: usize,
    /// Minutes of 200 calls whose bytes are counted.
    #[arg(long, default_value_t = 12)]
    minutes: u64,
    /// Recordings that a catalog is made from.
    #[arg(long, default_value_t = 200_000)]
    recordings: u64,
    /// GiB of journal that a store is opened with.
    #[arg(long, default_value_t = 1.0)]
    journal_gib: f64,
    /// Where stores are made, on the device to be measured; they are removed again.
    #[arg(long)]
    directory: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Chunks at a steady rate.
    Sustained,
    /// CPU of many calls, with all that goes on behind.
    Calls,
    /// Bytes written for each byte of audio.
    Amplification,
    /// Opening and rebuilding.
    Reopen,
}

#[derive(Serialize)]
struct Outcome {
    /// Of the machine, before: what else it had to do.
    load_average: f64,
    cores: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    sustained: Option<sustained::Outcome>,
    #[serde(skip_serializing_if = "Option::is_none")]
    calls: Option<thousand::Outcome>,
    #[serde(skip_serializing_if = "Option::is_none")]
    amplification: Option<amplification::Outcome>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reopen: Option<reopen::Outcome>,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    anyhow::ensure!(options.rounds > 0 && options.seconds > 0, "at least one round of one second");
    let place = options.directory.clone().unwrap_or_else(std::env::temp_dir);
    let directory = tempfile::tempdir_in(&place).with_context(|| format!("no directory in {}", place.display()))?;
    let is_wanted = |part| options.part.is_empty() || options.part.contains(&part);
    let part = |part, name: &str| is_wanted(part).then(|| directory.path().join(name));
    let outcome = Outcome {
        load_average: load_average()?,
        cores: std::thread::available_parallelism()?.get(),
        sustained: part(Part::Sustained, "sustained").map(|path| sustained::measure(options, &path)).transpose()?,
        calls: part(Part::Calls, "calls").map(|path| thousand::measure(options, &path)).transpose()?,
        amplification: part(Part::Amplification, "amplification")
            .map(|path| amplification::measure(options, &path))
            .transpose()?,
        reopen: part(Part::Reopen, "reopen").map(|path| reopen::measure(options, &path)).transpose()?,
    };
    if options.json {
        println!("{}", serde_json::to_string_pretty(&outcome)?);
        return Ok(());
    }
    println!("load average {:.1} before, on {} cores", outcome.load_average, outcome.cores);
    outcome.sustained.iter().for_each(sustained::Outcome::print);
    outcome.calls.iter().for_each(thousand::Outcome::print);
    outcome.amplification.iter().for_each(amplification::Outcome::print);
    outcome.reopen.iter().for_each(reopen::Outcome::print);
    Ok(())
}

/// A round is over: its store makes room for the next one.
fn remove(store: &Path) -> Result<()> {
    std::fs::remove_dir_all(store).with_context(|| format!("cannot remove {}", store.display()))
}
