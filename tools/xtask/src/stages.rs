//! `cargo xtask test`: all tests, in stages, cheapest first, each with its time; a summary that counts; and how to run a
//! failed stage alone.

use crate::check;
use crate::e2e;
use crate::product;
use crate::report::Checks;
use crate::setup::{self, Purpose};
use crate::workspace::Workspace;
use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use sidetone_testkit::interrupt;
use std::io::{BufRead, BufReader};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

#[derive(Args)]
pub(crate) struct Options {
    /// Only what needs no root and no phones: formatting, lints, host tests.
    #[arg(long, conflicts_with = "stage")]
    fast: bool,
    /// Run this stage alone; may be given several times.
    #[arg(long, value_name = "STAGE")]
    stage: Vec<Stage>,
    #[command(flatten)]
    e2e: e2e::Options,
    /// Do not ask before installing what is missing.
    #[arg(long)]
    yes: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Stage {
    /// cargo fmt --check
    Format,
    /// The XDP program compiles
    Ebpf,
    /// cargo clippy with warnings as errors
    Lints,
    /// Licences and advisories of dependencies (cargo deny, where it is installed)
    Dependencies,
    /// Tests that need no root: units, properties, fuzz corpora
    Host,
    /// Tests that need root: the XDP program in the kernel, AF_XDP, namespaces
    Root,
    /// Real phones, a mirror port, the recorder: recordings against the wire
    E2e,
    /// Captures with ground truth, where there are any (SIDETONE_CORPUS)
    Corpus,
}

impl Stage {
    const ALL: [Stage; 8] = [
        Stage::Format,
        Stage::Ebpf,
        Stage::Lints,
        Stage::Dependencies,
        Stage::Host,
        Stage::Root,
        Stage::E2e,
        Stage::Corpus,
    ];
    const FAST: [Stage; 3] = [Stage::Format, Stage::Lints, Stage::Host];

    fn name(self) -> &'static str {
        match self {
            Stage::Format => "format",
            Stage::Ebpf => "ebpf",
            Stage::Lints => "lints",
            Stage::Dependencies => "dependencies",
            Stage::Host => "host",
            Stage::Root => "root",
            Stage::E2e => "e2e",
            Stage::Corpus => "corpus",
        }
    }
}

/// What a stage counted.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
struct Counts {
    passed: u32,
    failed: u32,
}

impl Counts {
    fn one(passed: bool) -> Self {
        Self { passed: u32::from(passed), failed: u32::from(!passed) }
    }
}

impl From<&Checks> for Counts {
    fn from(checks: &Checks) -> Self {
        Self { passed: checks.passed, failed: checks.failed() }
    }
}

enum Outcome {
    Ran(Counts),
    Skipped(&'static str),
}

pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<ExitCode> {
    let stages: Vec<Stage> = if options.fast {
        Stage::FAST.to_vec()
    } else if options.stage.is_empty() {
        Stage::ALL.to_vec()
    } else {
        options.stage.clone()
    };
    if !options.e2e.scenario.is_empty() && !stages.contains(&Stage::E2e) {
        bail!("--scenario belongs to --stage e2e");
    }
    let purposes: &[Purpose] = if options.fast { &[Purpose::Build] } else { &Purpose::ALL };
    setup::ensure(workspace, purposes, options.yes)?;
    interrupt::install()?;

    let mut results = Vec::new();
    for &stage in &stages {
        interrupt::check()?;
        println!("\n== {}", stage.name());
        let started = Instant::now();
        let outcome = run_stage(workspace, stage, options).unwrap_or_else(|error| {
            println!("  FAILED {error:#}");
            Outcome::Ran(Counts::one(false))
        });
        // What an interrupted stage says of itself is no result.
        interrupt::check()?;
        results.push((stage, outcome, started.elapsed()));
    }
    Ok(summary(&results))
}

fn run_stage(workspace: &Workspace, stage: Stage, options: &Options) -> Result<Outcome> {
    let counts = match stage {
        Stage::Format => Counts::one(cargo_succeeds(workspace, check::FORMAT)?),
        Stage::Ebpf => {
            println!("  {}", product::build_tap(workspace)?.display());
            Counts::one(true)
        }
        Stage::Lints => Counts::one(cargo_succeeds(workspace, check::LINTS)?),
        Stage::Dependencies => {
            if !check::has_deny() {
                return Ok(Outcome::Skipped("cargo-deny is not installed"));
            }
            Counts::one(cargo_succeeds(workspace, check::DEPENDENCIES)?)
        }
        Stage::Host => cargo_test(workspace, &[])?,
        Stage::Root => {
            // The convention of the workspace: what is ignored needs root.
            let counts = cargo_test(workspace, &["--", "--ignored"])?;
            if counts == Counts::default() {
                bail!("no test that needs root was found");
            }
            counts
        }
        Stage::E2e => (&e2e::run(workspace, &options.e2e)?).into(),
        Stage::Corpus => match workspace.corpus() {
            None => return Ok(Outcome::Skipped("there is no corpus; SIDETONE_CORPUS may name one")),
            Some(corpus) => (&e2e::corpus::run(workspace, &corpus)?).into(),
        },
    };
    Ok(Outcome::Ran(counts))
}

fn summary(results: &[(Stage, Outcome, Duration)]) -> ExitCode {
    println!("\n== summary");
    let mut total = Counts::default();
    for (stage, outcome, time) in results {
        let seconds = time.as_secs_f64();
        match outcome {
            Outcome::Ran(counts) => {
                total.passed += counts.passed;
                total.failed += counts.failed;
                let (passed, failed) = (counts.passed, counts.failed);
                println!("  {:<12} {seconds:>7.1} s  {passed:>5} passed  {failed:>3} failed", stage.name());
            }
            Outcome::Skipped(why) => println!("  {:<12} {seconds:>7.1} s  skipped: {why}", stage.name()),
        }
    }
    for (stage, outcome, _) in results {
        if matches!(outcome, Outcome::Ran(counts) if counts.failed > 0) {
            println!("  run it alone: cargo xtask test --stage {}", stage.name());
        }
    }
    println!("{} passed, {} failed", total.passed, total.failed);
    // Nothing run is no success.
    if total.failed == 0 && total.passed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn cargo_succeeds(workspace: &Workspace, arguments: &[&str]) -> Result<bool> {
    println!("  cargo {}", arguments.join(" "));
    let status = workspace.cargo().args(arguments).status().context("cannot start cargo")?;
    Ok(status.success())
}

/// `cargo test` over the workspace in the product's profile, with its output shown and its results counted.
fn cargo_test(workspace: &Workspace, more: &[&str]) -> Result<Counts> {
    let mut command = workspace.cargo();
    command.args(["test", "--quiet", "--release", "--workspace", "--no-fail-fast"]).args(more);
    if let Some(corpus) = workspace.corpus() {
        command.env("SIDETONE_CORPUS", corpus);
    }
    put_python_first(workspace, &mut command);
    count_tests(&mut command)
}

/// Tests that start `python3` shall find the one with the measurements' packages.
pub(crate) fn put_python_first(workspace: &Workspace, command: &mut Command) {
    let own = workspace.cache.join("python/bin");
    if own.join("python3").exists() {
        let path = std::env::var_os("PATH").unwrap_or_default();
        if let Ok(joined) = std::env::join_paths([own].into_iter().chain(std::env::split_paths(&path))) {
            command.env("PATH", joined);
        }
    }
}

fn count_tests(command: &mut Command) -> Result<Counts> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("cannot start cargo test")?;
    let output = child.stdout.take().context("the child's output was asked for")?;
    let mut counts = Counts::default();
    for line in BufReader::new(output).split(b'\n') {
        let line = line.context("cannot read what cargo test prints")?;
        let line = String::from_utf8_lossy(&line);
        println!("{line}");
        if let Some((passed, failed)) = parse_result(&line) {
            counts.passed += passed;
            counts.failed += failed;
        }
    }
    let status = child.wait().context("cannot wait for cargo test")?;
    if !status.success() && counts.failed == 0 {
        // It did not compile, or a test took its process down.
        println!("  cargo test ended with {status}");
        counts.failed = 1;
    }
    Ok(counts)
}

/// `test result: ok. 17 passed; 0 failed; 0 ignored; …`
fn parse_result(line: &str) -> Option<(u32, u32)> {
    let (_, counts) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let mut parts = counts.split("; ");
    let passed = parts.next()?.strip_suffix(" passed")?.parse().ok()?;
    let failed = parts.next()?.strip_suffix(" failed")?.parse().ok()?;
    Some((passed, failed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_cargo_test_are_counted() {
        let line = "test result: FAILED. 17 passed; 2 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.02s";
        assert_eq!(parse_result(line), Some((17, 2)));
        assert_eq!(parse_result("test a ... ok"), None);
    }

    #[test]
    fn a_child_that_fails_without_results_counts_as_failed() {
        let counts = count_tests(Command::new("sh").args(["-c", "echo 'error: no'; exit 101"])).unwrap();
        assert_eq!(counts, Counts { passed: 0, failed: 1 });
        let script = "echo 'test result: ok. 3 passed; 0 failed; 0 ignored'; echo 'test result: FAILED. 1 passed; 1 failed; x'; exit 1";
        assert_eq!(count_tests(Command::new("sh").args(["-c", script])).unwrap(), Counts { passed: 4, failed: 1 });
    }

    #[test]
    fn summary_without_any_test_is_a_failure() {
        let nothing = [(Stage::Corpus, Outcome::Skipped("none"), Duration::ZERO)];
        assert_eq!(format!("{:?}", summary(&nothing)), format!("{:?}", ExitCode::FAILURE));
        let one = [(Stage::Format, Outcome::Ran(Counts::one(true)), Duration::ZERO)];
        assert_eq!(format!("{:?}", summary(&one)), format!("{:?}", ExitCode::SUCCESS));
    }
}
