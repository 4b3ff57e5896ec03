//! `cargo xtask`: everything a user or a build server does with the project, from installing to the end-to-end tests.
//!
//! Constraints:
//! * It is compiled first, on a machine that has nothing but Rust: few dependencies, none that need C.
//! * Commands that need something to be installed install it themselves, after saying what and why and asking once.
//! * All that is compiled for a command goes to one target directory in the user's cache (`workspace.rs`), with one
//!   profile, so that a clean checkout does not compile RocksDB again.
#![forbid(unsafe_code)]

mod bench;
mod check;
mod demo;
mod e2e;
mod ebpf;
mod product;
mod report;
mod setup;
mod stages;
mod workspace;

use anyhow::Result;
use clap::{Parser, Subcommand};
use std::process::ExitCode;
use workspace::Workspace;

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version, max_term_width = 100)]
/// Builds, shows and tests Sidetone, a passive call recorder.
///
/// New here? `cargo xtask demo` installs what is missing, builds the recorder, places real calls in network namespaces,
/// records them off a mirror port and shows them on a web page. It needs root, for the namespaces and for XDP.
///
/// Compiled files go to ~/.cache/sidetone/target (or $XDG_CACHE_HOME/sidetone/target, or $SIDETONE_TARGET_DIR), so that a
/// second checkout does not compile everything again. If $SIDETONE_PROGRAM names a recorder that was built elsewhere, the
/// demo and the end-to-end tests use it instead of building one.
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install what building, the demo and the tests need; safe to repeat
    ///
    /// Says what is missing and what each part is for, asks once, and installs it: Debian packages by apt-get, the linker
    /// for eBPF by cargo, and a Python environment for the audio measurements in the cache directory. Ends at once when
    /// nothing is missing.
    Setup {
        /// Do not ask.
        #[arg(long)]
        yes: bool,
    },
    /// Build the XDP program and the recorder
    ///
    /// The XDP program is compiled first (see `build-ebpf`), then the recorder, which carries it inside.
    Build {
        /// Do not ask before installing what is missing.
        #[arg(long)]
        yes: bool,
    },
    /// Build the XDP program alone
    ///
    /// Uses a nightly toolchain with the component rust-src if rustup has one, else Debian's rustc-web with rust-web-src.
    BuildEbpf {
        /// Do not ask before installing what is missing.
        #[arg(long)]
        yes: bool,
    },
    /// Record real calls off a mirror port and show them
    ///
    /// Makes two phone networks in network namespaces, joined by a switch with a mirror port; starts the recorder on it;
    /// places calls between SIP phones (SIPp and baresip) with A-law and µ-law speech; prints the live calls while they
    /// run, then the recordings with their web address, and serves until Ctrl-C. Needs root and nothing else: no
    /// hardware, no configuration. All of it is gone afterwards, but for the cache.
    Demo(demo::Options),
    /// Run all tests
    ///
    /// Formatting, lints, host tests, the XDP program, tests in network namespaces, end-to-end tests with real phones,
    /// the corpora. Prints each stage with its time and ends with `N passed, N failed`. Needs root.
    Test(stages::Options),
    /// Run the recorder: `cargo xtask run -- --interface eth1`
    ///
    /// Builds first if needed. What follows `--` goes to `sidetone run`; `cargo xtask run -- --help` lists it.
    Run {
        #[arg(last = true, value_name = "ARGUMENTS")]
        arguments: Vec<std::ffi::OsString>,
    },
    /// Measure: cost of a captured packet, cost of a recorded call-second
    Bench(bench::Options),
    /// Check formatting, lints and dependencies
    ///
    /// cargo fmt, cargo clippy with warnings as errors, and cargo deny where it is installed.
    Check,
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(command: Command) -> Result<ExitCode> {
    let workspace = Workspace::find()?;
    match command {
        Command::Setup { yes } => {
            setup::ensure(&workspace, &setup::Purpose::ALL, yes)?;
            println!("Everything is installed. Next: cargo xtask demo");
        }
        Command::Build { yes } => {
            setup::ensure(&workspace, &[setup::Purpose::Build], yes)?;
            let program = product::build(&workspace)?;
            println!("{}", program.display());
        }
        Command::BuildEbpf { yes } => {
            setup::ensure(&workspace, &[setup::Purpose::Build], yes)?;
            println!("{}", product::build_tap(&workspace)?.display());
        }
        Command::Demo(options) => return demo::run(&workspace, &options),
        Command::Test(options) => return stages::run(&workspace, &options),
        Command::Run { arguments } => return product::run(&workspace, &arguments),
        Command::Bench(options) => return bench::run(&workspace, &options),
        Command::Check => return check::run(&workspace),
    }
    Ok(ExitCode::SUCCESS)
}
