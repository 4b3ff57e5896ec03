//! End to end: real phones on the bed, the recorder on the mirror port, and what it recorded held against what was on
//! the wire.

mod audio;
pub(crate) mod corpus;
mod coverage;
mod faults;
mod killed;
mod load;
mod restart;
mod store;
mod yardstick;

use crate::product;
use crate::report::Checks;
use crate::workspace::Workspace;
use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use sidetone_testkit::bed::Bed;
use sidetone_testkit::time::now_ns;
use sidetone_testkit::{Recorder, interrupt, recorder};
use std::path::{Path, PathBuf};
use std::time::Instant;

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Scenario {
    /// 100 calls at once for a minute, a port for each call
    PortPerCall,
    /// 100 calls at once for a minute, all on one port
    OnePort,
    /// The recorder is stopped in the middle of calls and started again
    Restart,
    /// The recorder is killed (SIGKILL) in the middle of 100 calls, again and again
    Killed,
    /// Disks fill up, become read-only, fail and come back in the middle of calls
    Faults,
}

impl Scenario {
    pub(crate) const ALL: [Scenario; 5] =
        [Scenario::PortPerCall, Scenario::OnePort, Scenario::Restart, Scenario::Killed, Scenario::Faults];

    fn name(self) -> &'static str {
        match self {
            Scenario::PortPerCall => "port-per-call",
            Scenario::OnePort => "one-port",
            Scenario::Restart => "restart",
            Scenario::Killed => "killed",
            Scenario::Faults => "faults",
        }
    }
}

/// What the scenarios share.
pub(crate) struct Environment<'a> {
    workspace: &'a Workspace,
    program: PathBuf,
    /// How often `killed` kills.
    kills: u32,
    /// Moments and sounds come from it.
    seed: u64,
}

/// What of the scenarios may be chosen.
#[derive(Args)]
#[group(id = "scenarios")]
pub(crate) struct Options {
    /// Of the stage e2e run this scenario alone; may be given several times
    #[arg(long, value_name = "SCENARIO")]
    pub(crate) scenario: Vec<Scenario>,
    /// How often the scenario killed kills the recorder (or SIDETONE_KILLS) [default: 5]
    #[arg(long, value_name = "COUNT")]
    kills: Option<u32>,
    /// Where the scenarios' random moments come from (or SIDETONE_SEED) [default: the clock]
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u64>,
}

const KILLS: u32 = 5;

/// A number that is not given by option, from the environment.
fn from_environment<T: std::str::FromStr>(name: &str) -> Result<Option<T>> {
    let Ok(text) = std::env::var(name) else { return Ok(None) };
    text.parse().map(Some).ok().with_context(|| format!("{name}={text} is no number"))
}

pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<Checks> {
    let program = product::build(workspace)?;
    let kills = options.kills.map_or_else(|| from_environment("SIDETONE_KILLS"), |kills| Ok(Some(kills)))?;
    let seed = options.seed.map_or_else(|| from_environment("SIDETONE_SEED"), |seed| Ok(Some(seed)))?;
    let (kills, seed) = (kills.unwrap_or(KILLS).max(1), seed.unwrap_or_else(|| now_ns() / 1_000_000_000));
    let context = Environment { workspace, program, kills, seed };
    let scenarios = if options.scenario.is_empty() { &Scenario::ALL[..] } else { &options.scenario };
    let mut total = Checks::default();
    for &scenario in scenarios {
        interrupt::check()?;
        let name = scenario.name();
        println!("-- {name}");
        let started = Instant::now();
        let run = workspace.run_directory(&format!("e2e-{name}"))?;
        let mut checks = Checks::default();
        let result = match scenario {
            Scenario::PortPerCall => load::run(&context, run.path(), load::Layout::PortPerCall, &mut checks),
            Scenario::OnePort => load::run(&context, run.path(), load::Layout::OnePort, &mut checks),
            Scenario::Restart => restart::run(&context, run.path(), &mut checks),
            Scenario::Killed => killed::run(&context, run.path(), &mut checks),
            Scenario::Faults => faults::run(&context, run.path(), &mut checks),
        };
        if let Err(error) = result {
            interrupt::check()?;
            checks.expect(false, || format!("{error:#}"));
        }
        checks.print();
        println!(
            "  {} checks held, {} failed, {:.1} s",
            checks.passed,
            checks.failed(),
            started.elapsed().as_secs_f64()
        );
        if checks.failed() > 0 {
            println!("  logs and captures: {}", run.keep().display());
            println!("  run it alone: cargo xtask test --stage e2e --scenario {name} --seed {seed}");
        }
        total.add(checks);
    }
    Ok(total)
}

impl Environment<'_> {
    /// A recorder on the bed's mirror port, with its store and log in `run`.
    fn start_recorder(&self, bed: &Bed, run: &Path) -> Result<Recorder> {
        let mut recorder = self.spawn_recorder(bed, run)?;
        recorder.wait_until_ready()?;
        Ok(recorder)
    }

    /// The same, without waiting until it is ready.
    fn spawn_recorder(&self, bed: &Bed, run: &Path) -> Result<Recorder> {
        Recorder::spawn(self.recorder_options(bed, run)?)
    }

    fn recorder_options(&self, bed: &Bed, run: &Path) -> Result<recorder::Options> {
        Ok(recorder::Options {
            program: self.program.clone(),
            interface: bed.mirror_interface().to_owned(),
            store: run.join("store"),
            listen: recorder::free_port(None)?,
            log: run.join("sidetone.log"),
            arguments: Vec::new(),
        })
    }
}

/// Processor seconds that a process has used, and its memory in MiB now.
fn usage(pid: u32) -> Result<(f64, f64)> {
    let read = |name: &str| {
        std::fs::read_to_string(format!("/proc/{pid}/{name}"))
            .with_context(|| format!("cannot read /proc/{pid}/{name}"))
    };
    let stat = read("stat")?;
    // The name in parentheses may hold blanks; times are fields 14 and 15, in hundredths of a second.
    let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
    let ticks = |index: usize| fields.get(index).and_then(|text| text.parse::<f64>().ok()).context("no times in stat");
    let status = read("status")?;
    let memory = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|text| text.split_whitespace().next())
        .and_then(|text| text.parse::<f64>().ok())
        .context("no VmRSS in status")?;
    Ok(((ticks(11)? + ticks(12)?) / 100.0, memory / 1024.0))
}
