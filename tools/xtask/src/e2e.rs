//! End to end: real phones on the bed, the recorder on the mirror port, and what it recorded held against what was on
//! the wire.

mod audio;
pub(crate) mod corpus;
mod load;
mod restart;

use crate::product;
use crate::report::Checks;
use crate::workspace::Workspace;
use anyhow::{Context, Result};
use clap::ValueEnum;
use sidetone_testkit::bed::Bed;
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
}

impl Scenario {
    pub(crate) const ALL: [Scenario; 3] = [Scenario::PortPerCall, Scenario::OnePort, Scenario::Restart];

    fn name(self) -> &'static str {
        match self {
            Scenario::PortPerCall => "port-per-call",
            Scenario::OnePort => "one-port",
            Scenario::Restart => "restart",
        }
    }
}

/// What the scenarios share.
pub(crate) struct Environment<'a> {
    workspace: &'a Workspace,
    program: PathBuf,
}

pub(crate) fn run(workspace: &Workspace, scenarios: &[Scenario]) -> Result<Checks> {
    let program = product::build(workspace)?;
    let context = Environment { workspace, program };
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
            println!("  run it alone: cargo xtask test --stage e2e --scenario {name}");
        }
        total.add(checks);
    }
    Ok(total)
}

impl Environment<'_> {
    /// A recorder on the bed's mirror port, with its store and log in `run`.
    fn start_recorder(&self, bed: &Bed, run: &Path) -> Result<Recorder> {
        Recorder::start(recorder::Options {
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
