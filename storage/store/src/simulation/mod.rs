//! The whole store on a machine that crashes, fills up and fails, from a seed.
//!
//! A workload of recordings, annotations, flushes and keeper's steps runs on simulated disks. The machine dies at any operation,
//! also while it starts; volumes fail, stall, fill up and go missing. After each start the store must have everything that it
//! acknowledged; at the end everything is sealed, a catalog made anew is the same, and every byte verifies.
//!
//! `SIDETONE_SEEDS=10000 cargo test --release -p sidetone-store simulation` for more seeds;
//! `SIDETONE_SEED=17` for one, with its history on failure.

mod machine;
mod oracle;
mod world;

use crate::sabotage::Sabotage;
use std::panic::{AssertUnwindSafe, catch_unwind};
use world::World;

const SEEDS: u64 = 200;

/// What went wrong with a seed, whatever way it showed.
fn run(seed: u64, sabotage: Option<Sabotage>) -> Result<world::Report, String> {
    let mut world = World::new(seed, sabotage);
    let outcome = catch_unwind(AssertUnwindSafe(|| world.run()));
    let failure = match outcome {
        Ok(Ok(report)) => return Ok(report),
        Ok(Err(failure)) => failure,
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_default()
        }
    };
    if std::env::var_os("SIDETONE_SEED").is_some() {
        for line in &world.history {
            println!("{line}");
        }
        println!("{failure}");
    }
    Err(failure)
}

fn seeds(default: u64) -> std::ops::Range<u64> {
    let number = |name| std::env::var(name).ok().and_then(|text: String| text.parse::<u64>().ok());
    match (number("SIDETONE_SEED"), number("SIDETONE_SEEDS")) {
        (Some(seed), _) => seed..seed + 1,
        (None, count) => 0..count.unwrap_or(default),
    }
}

/// Seeds that found a mistake when many were tried.
fn found_out() -> impl Iterator<Item = u64> {
    let is_one_wanted = std::env::var_os("SIDETONE_SEED").is_some();
    // A segment of no facts that was said to be durable (twice); a journal file torn in its header, which an ill volume is read to.
    [344, 9866, 5218].into_iter().filter(move |_| !is_one_wanted)
}

#[test]
fn what_was_acknowledged_is_there_after_crashes_faults_and_full_disks() {
    let mut total = world::Report::default();
    let mut failed = Vec::new();
    for seed in seeds(SEEDS).chain(found_out()) {
        match run(seed, None) {
            Ok(report) => total.add(&report),
            Err(failure) => failed.push(format!("seed {seed}: {}", failure.chars().take(600).collect::<String>())),
        }
    }
    println!("{total:#?}");
    assert!(failed.is_empty(), "{} seeds failed (SIDETONE_SEED=n tells more):\n{}", failed.len(), failed.join("\n"));
    if std::env::var_os("SIDETONE_SEED").is_none() {
        total.assert_everything_happened();
    }
}

/// Every order that the keeper and the writer rely on, broken: the same test sees it.
#[test]
fn a_store_that_breaks_an_order_is_found_out() {
    let all = [
        Sabotage::TellBeforeDurable,
        Sabotage::EndBeforeAudio,
        Sabotage::AnnounceBeforeFlush,
        Sabotage::CloseBeforeAnnounced,
        Sabotage::RetireBeforePersist,
        Sabotage::RetireNeeded,
        Sabotage::SettleWithoutCopy,
        Sabotage::ForgetOwed,
    ];
    let mut unnoticed = Vec::new();
    for sabotage in all {
        let found = (0..SEEDS).find_map(|seed| run(seed, Some(sabotage)).err().map(|failure| (seed, failure)));
        match found {
            Some((seed, failure)) => println!("{sabotage:?} is found out by seed {seed}: {failure}"),
            None => unnoticed.push(sabotage),
        }
    }
    assert!(unnoticed.is_empty(), "unnoticed in {SEEDS} seeds: {unnoticed:?}");
}
