//! The one binary: reads the configuration, wires the parts, answers commands.
//!
//! Exit codes: 0 done; 1 the work failed or something was lost; 2 it could not begin: configuration, privileges, files.
#![forbid(unsafe_code)]
// They panic when a pipe is closed or a disk full: `output` has what does not.
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod client;
mod config;
mod output;
mod recordings;
mod replay;
mod run;
mod search;
mod store;
mod tag;

use anyhow::{Context, Result};
use clap::{ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use config::{Config, SAMPLE};
use output::NotPrinted;
use rustix::fs::Mode;
use rustix::process::{Resource, getrlimit, setrlimit};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Records telephone calls off mirror ports: SIP and RTP in, complete and searchable recordings out.
#[derive(Parser)]
#[command(version, propagate_version = true, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Record calls off one or more mirror ports until SIGTERM or Ctrl-C.
    ///
    /// Needs CAP_NET_RAW, CAP_NET_ADMIN and CAP_BPF (or root). Stopping leaves running calls active: started again, calls still
    /// on the wire go on in the same recordings.
    #[command(after_help = "Example:\n  sidetone run --interface eth1 --store /var/lib/sidetone")]
    Run(RunArguments),
    /// Record the calls in capture files (pcap, pcapng) by the captures' own clocks.
    ///
    /// The same capture replayed twice into one store adds nothing: identifiers are derived from the file's digest.
    #[command(after_help = "Example:\n  sidetone replay call.pcap --store ./store --json")]
    Replay(ReplayArguments),
    /// List, show and export recordings.
    #[command(subcommand)]
    Recordings(recordings::Command),
    /// Look after a store: sizes, checks, a new catalog, backups.
    #[command(subcommand)]
    Store(store::StoreCommand),
    /// Check or print the configuration.
    #[command(subcommand)]
    Config(ConfigCommand),
}

#[derive(Args)]
struct RunArguments {
    /// Configuration file (TOML); `sidetone config print` shows a documented sample.
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Mirror port; may be given several times. Replaces the configured ones.
    #[arg(long, short, value_name = "INTERFACE")]
    interface: Vec<String>,
    /// Store directory. Replaces the configured one.
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,
    /// Address of the HTTP API. Replaces the configured one.
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
}

#[derive(Args)]
struct ReplayArguments {
    /// Capture files, replayed one after the other.
    #[arg(required = true, value_name = "CAPTURE")]
    captures: Vec<PathBuf>,
    /// Store directory; made when it does not exist. Replaces the configured one.
    #[arg(long, value_name = "DIR", required_unless_present = "config")]
    store: Option<PathBuf>,
    /// Configuration file (TOML).
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

#[derive(Subcommand)]
enum ConfigCommand {
    /// Read a configuration file and say whether it can be used.
    Check {
        #[arg(long, short, value_name = "FILE")]
        config: PathBuf,
        /// Print one JSON document.
        #[arg(long)]
        json: bool,
    },
    /// Print a documented sample with all defaults, or with --config what is in effect.
    Print {
        /// Print what is in effect with this file.
        #[arg(long, short, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Print JSON instead of TOML.
        #[arg(long)]
        json: bool,
    },
}

fn main() -> ExitCode {
    let arguments = Cli::command().try_get_matches();
    let json = arguments.as_ref().is_ok_and(wants_json);
    let result = match arguments.and_then(|arguments| Cli::from_arg_matches(&arguments)) {
        Ok(cli) => command(cli.command),
        // Also help and version, which are asked for.
        Err(usage) => output::printed(usage.print()).map(|()| if usage.use_stderr() { 2.into() } else { 0.into() }),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            output::complain(&error, json);
            ExitCode::from(if error.is::<NotPrinted>() { 1 } else { 2 })
        }
    }
}

/// Whether the command has --json, and it is given.
fn wants_json(arguments: &ArgMatches) -> bool {
    match arguments.subcommand() {
        Some((_, arguments)) => wants_json(arguments),
        None => arguments.try_get_one("json").is_ok_and(|json| json == Some(&true)),
    }
}

fn command(command: Command) -> Result<ExitCode> {
    // Recordings are nobody else's business, in whatever file. An exported one is made as its user makes files.
    if !matches!(command, Command::Recordings(recordings::Command::Export(_))) {
        rustix::process::umask(Mode::RWXG | Mode::RWXO);
    }
    // A catalog of millions has more tables than a shell lets a process have files open; what is let is as much as can be had.
    let mut files = getrlimit(Resource::Nofile);
    files.current = files.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, files) {
        output::remark(format_args!("the limit of open files stays as it is: {error}"));
    }
    match command {
        Command::Run(arguments) => run(arguments),
        Command::Replay(arguments) => replay_captures(&arguments),
        Command::Recordings(command) => recordings::recordings(&command),
        Command::Store(command) => store::store(&command),
        Command::Config(command) => configuration(&command),
    }
}

fn run(arguments: RunArguments) -> Result<ExitCode> {
    let mut config = Config::load(arguments.config.as_deref())?;
    if !arguments.interface.is_empty() {
        config.capture.interfaces = arguments.interface;
    }
    if let Some(directory) = arguments.store {
        config.store.directory = directory;
    }
    if let Some(listen) = arguments.listen {
        config.api.listen = listen;
    }
    output::start_log(&config.log)?;
    run::run(&config)
}

fn replay_captures(arguments: &ReplayArguments) -> Result<ExitCode> {
    let config = Config::load(arguments.config.as_deref())?;
    output::start_log(&config::Log {
        level: std::env::var("SIDETONE_LOG").unwrap_or("warn".into()),
        ..config.log.clone()
    })?;
    let directory = arguments.store.as_deref().unwrap_or(&config.store.directory);
    replay::replay(&config, &arguments.captures, directory, arguments.json)
}

fn configuration(command: &ConfigCommand) -> Result<ExitCode> {
    match command {
        ConfigCommand::Check { config, json } => {
            let effective = Config::load(Some(config))?;
            if *json {
                output::print_json(&serde_json::json!({ "file": config, "valid": true, "effective": effective }))?;
            } else {
                output::print(format_args!("{} can be used\n", config.display()))?;
            }
        }
        ConfigCommand::Print { config: None, json: false } => output::print(SAMPLE)?,
        ConfigCommand::Print { config, json } => {
            let effective = Config::load(config.as_deref())?;
            if *json {
                output::print_json(&effective)?;
            } else {
                output::print(
                    toml::to_string_pretty(&effective).context("the configuration cannot be written as TOML")?,
                )?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
