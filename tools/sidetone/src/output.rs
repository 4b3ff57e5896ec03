//! What the binary says: log lines, errors in one line, JSON.

use crate::config::{Log, LogFormat};
use anyhow::{Context, Result};
use serde::Serialize;
use sidetone_model::{PartyRole, Recording, RecordingState};
use std::io::{IsTerminal, Write};
use tracing_subscriber::EnvFilter;

/// Starts the log on standard error.
pub(crate) fn start_log(log: &Log) -> Result<()> {
    let filter =
        EnvFilter::try_new(&log.level).with_context(|| format!("[log] level = \"{}\" is no filter", log.level))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
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

/// Prints a value as indented JSON. A closed pipe is no error.
pub(crate) fn print_json(value: &impl Serialize) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let text = serde_json::to_string_pretty(value).context("the result cannot be written as JSON")?;
    match writeln!(out, "{text}") {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(error).context("cannot write to standard output")
        }
        _ => Ok(()),
    }
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

/// A document as `path = value` lines: for people, and for grep.
pub(crate) fn print_flat(path: &str, value: &serde_json::Value) {
    let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    match value {
        serde_json::Value::Object(fields) => fields.iter().for_each(|(name, field)| print_flat(&below(name), field)),
        serde_json::Value::Array(items) if !items.is_empty() => {
            items.iter().enumerate().for_each(|(index, item)| print_flat(&format!("{path}[{index}]"), item));
        }
        serde_json::Value::String(text) => println!("{path:<44} {text}"),
        other => println!("{path:<44} {other}"),
    }
}
