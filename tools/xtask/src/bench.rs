//! Measurements, by the perf crate's program.

use crate::product;
use crate::setup::{self, Purpose};
use crate::workspace::Workspace;
use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use std::process::{Command, ExitCode};

#[derive(Args)]
pub(crate) struct Options {
    /// What to measure.
    what: What,
    /// Do not ask before installing what is missing.
    #[arg(long)]
    yes: bool,
    /// Passed on, e.g. `-- --json`.
    #[arg(last = true)]
    arguments: Vec<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum What {
    /// CPU time per packet: AF_XDP, TPACKET_V3 and tcpdump on the same traffic. Needs root.
    Capture,
    /// The catalog by size: recordings per second, bytes each, latency of searches, time to open.
    Catalog,
    /// CPU time of `sidetone replay` per second of a two-way call, and the share of Opus in it.
    Pipeline,
    /// Time to the first byte of a recording, and what hundreds of players do to recording: two minutes.
    Playback,
    /// What the store takes, what that costs, how many bytes it writes, how fast it is there again: four minutes.
    Store,
}

pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<ExitCode> {
    setup::ensure(workspace, &[Purpose::Build, Purpose::Bed], options.yes)?;
    product::build_tap(workspace)?;
    product::run_cargo(workspace, &["build", "--release", "--package", "sidetone-perf"])?;
    let program = workspace.program("sidetone-perf");
    let mut command = Command::new(&program);
    command.arg(match options.what {
        What::Capture => "capture",
        What::Catalog => "catalog",
        What::Pipeline => "pipeline",
        What::Playback => "playback",
        What::Store => "store",
    });
    command.args(&options.arguments);
    let status = command.status().with_context(|| format!("cannot start {}", program.display()))?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
