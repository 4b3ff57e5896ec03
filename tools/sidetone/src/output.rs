//! What the binary says: log lines, errors in one line, results. Nothing else writes to standard output or standard error.

use crate::config::{Log, LogFormat};
use anyhow::{Context, Result};
use serde::Serialize;
use sidetone_model::{PartyRole, Recording, RecordingState};
use std::fmt;
use std::io::{self, ErrorKind, IsTerminal, Write};
use tracing_subscriber::EnvFilter;

/// Starts the log on standard error.
pub(crate) fn start_log(log: &Log) -> Result<()> {
    let filter =
        EnvFilter::try_new(&log.level).with_context(|| format!("[log] level = \"{}\" is no filter", log.level))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        // It would tell on standard error, and panic, that standard error takes no more.
        .log_internal_errors(false)
        .with_ansi(io::stderr().is_terminal());
    match log.format {
        LogFormat::Text => builder.init(),
        LogFormat::Json => builder.json().init(),
    }
    Ok(())
}

/// The error and its causes in one line, without causes that the line before them already tells.
pub(crate) fn one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain() {
        let text = cause.to_string();
        if !line.contains(&text) {
            if !line.is_empty() {
                line.push_str(": ");
            }
            line.push_str(&text);
        }
    }
    line
}

/// A result could not be printed: with this in its chain, an error is none of the work itself.
#[derive(Debug)]
pub(crate) struct NotPrinted;

impl fmt::Display for NotPrinted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("cannot write to standard output")
    }
}

/// What became of writing to standard output. A closed pipe is no error: who reads has seen enough.
pub(crate) fn printed(written: io::Result<()>) -> Result<()> {
    match written {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error).context(NotPrinted),
        _ => Ok(()),
    }
}

/// Prints text as it is.
pub(crate) fn print(text: impl fmt::Display) -> Result<()> {
    let mut out = io::stdout().lock();
    printed(write!(out, "{text}").and_then(|()| out.flush()))
}

/// Prints a value as indented JSON.
pub(crate) fn print_json(value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value).context("the result cannot be written as JSON")?;
    print(format_args!("{text}\n"))
}

/// Says something on standard error, if that takes it.
pub(crate) fn remark(text: impl fmt::Display) {
    say(format_args!("sidetone: {text}"));
}

/// Says on standard error why a command fails; as a JSON document to who wants its result as one.
pub(crate) fn complain(error: &anyhow::Error, json: bool) {
    let text = one_line(error);
    if json { say(serde_json::json!({ "error": text })) } else { remark(text) }
}

/// A line on standard error, if that takes it.
pub(crate) fn say(line: impl fmt::Display) {
    // There is nowhere left to tell that it cannot be told.
    writeln!(io::stderr(), "{line}").ok();
}

/// Recordings for people: one line each, with a heading.
pub(crate) fn recordings_table(recordings: &[Recording]) -> String {
    let mut table = format!(
        "{:<36}  {:<19}  {:>9}  {:<10}  {:<20} {:<20} {}\n",
        "ID", "STARTED (UTC)", "SECONDS", "STATE", "CALLER", "CALLEE", "PACKETS LOST, REMARKS"
    );
    for recording in recordings {
        let party = |role| {
            let party = recording.parties.iter().find(|party| party.role == role);
            party.map_or("", |party| if party.number.is_empty() { &party.address } else { &party.number })
        };
        let network: u64 = recording.tracks.iter().map(|track| track.losses.network).sum();
        let own: u64 = recording.tracks.iter().map(|track| track.losses.by_recorder()).sum();
        let state = match recording.state {
            RecordingState::Active => "active",
            RecordingState::Complete => "complete",
            RecordingState::Incomplete => "incomplete",
        };
        let started = recording.started_at.to_string();
        let mut remarks = format!("{network} network, {own} here");
        for track in recording.tracks.iter().filter(|track| !track.decodable) {
            let codec = track.streams.first().map_or("?", |stream| &stream.codec);
            remarks += &format!("; no sound: {}{codec}", if track.encrypted { "encrypted " } else { "" });
        }
        if recording.tracks.len() < 2 && state != "active" {
            remarks += "; one side only";
        }
        table += &format!(
            "{}  {:<19}  {:>9.2}  {state:<10}  {:<20} {:<20} {remarks}\n",
            recording.id,
            started.get(..19).unwrap_or(&started),
            recording.duration_seconds,
            party(PartyRole::Caller),
            party(PartyRole::Callee),
        );
    }
    table
}

/// A document as lines of a path and its value: for people, and for grep.
pub(crate) fn flat(path: &str, value: &serde_json::Value) -> String {
    let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    match value {
        serde_json::Value::Object(fields) => fields.iter().map(|(name, field)| flat(&below(name), field)).collect(),
        serde_json::Value::Array(items) if !items.is_empty() => {
            items.iter().enumerate().map(|(index, item)| flat(&format!("{path}[{index}]"), item)).collect()
        }
        serde_json::Value::String(text) => format!("{path:<44} {text}\n"),
        other => format!("{path:<44} {other}\n"),
    }
}
