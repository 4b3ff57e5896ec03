//! `sidetone recordings` and `sidetone store`: reading a store, also beside a running appliance.

use crate::output::{print_json, recordings_table};
use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use sidetone_model::{CaptureTime, Recording, RecordingId, RecordingState};
use sidetone_playback::{Channels, Format, Rendition};
use sidetone_store::{RecordingQuery, StoreReader};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

/// Recordings fetched from the catalog at a go.
const PAGE: usize = 500;

#[derive(Subcommand)]
pub(crate) enum Command {
    /// List recordings, newest first.
    #[command(
        after_help = "Example:\n  sidetone recordings list --store /var/lib/sidetone --party 2001 --from 2026-01-31T00:00:00Z"
    )]
    List(ListArguments),
    /// Show one recording with everything known about it.
    Show {
        /// Recording id.
        id: RecordingId,
        #[command(flatten)]
        store: StoreDirectory,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Write a recording's audio to a file.
    #[command(
        after_help = "Example:\n  sidetone recordings export ID --store DIR --format opus --channels dual -o call.opus"
    )]
    Export(ExportArguments),
}

#[derive(Subcommand)]
pub(crate) enum StoreCommand {
    /// Sizes and counts of a store.
    Stats {
        #[command(flatten)]
        store: StoreDirectory,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Args)]
pub(crate) struct StoreDirectory {
    /// Store directory. May be in use by a running appliance.
    #[arg(long = "store", value_name = "DIR", default_value = "/var/lib/sidetone")]
    directory: PathBuf,
}

#[derive(Args)]
pub(crate) struct ListArguments {
    #[command(flatten)]
    store: StoreDirectory,
    /// Started at or after this time (RFC 3339).
    #[arg(long, value_name = "TIME")]
    from: Option<CaptureTime>,
    /// Started before this time (RFC 3339).
    #[arg(long, value_name = "TIME")]
    to: Option<CaptureTime>,
    /// Number or part of it, or part of a name.
    #[arg(long, value_name = "TEXT")]
    party: Option<String>,
    /// Only recordings in this state.
    #[arg(long, value_parser = parse_state, value_name = "active|complete|incomplete")]
    state: Option<RecordingState>,
    /// At most so many.
    #[arg(long, default_value_t = 100)]
    limit: usize,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub(crate) struct ExportArguments {
    /// Recording id.
    id: RecordingId,
    #[command(flatten)]
    store: StoreDirectory,
    /// opus or wav.
    #[arg(long, default_value = "opus")]
    format: Format,
    /// dual (caller left, callee right), mix, near, far, caller or callee.
    #[arg(long, default_value = "dual")]
    channels: Channels,
    /// File to write; must not exist. Default: a name made of start time and parties, in this directory.
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

fn parse_state(text: &str) -> Result<RecordingState, String> {
    match text {
        "active" => Ok(RecordingState::Active),
        "complete" => Ok(RecordingState::Complete),
        "incomplete" => Ok(RecordingState::Incomplete),
        _ => Err("choose active, complete or incomplete".into()),
    }
}

pub(crate) fn recordings(command: &Command) -> Result<ExitCode> {
    match command {
        Command::List(arguments) => list(arguments),
        Command::Show { id, store, json } => show(*id, &store.directory, *json),
        Command::Export(arguments) => export(arguments),
    }
}

pub(crate) fn store(command: &StoreCommand) -> Result<ExitCode> {
    let StoreCommand::Stats { store, json } = command;
    let statistics = StoreReader::open(&store.directory)?.statistics()?;
    if *json {
        print_json(&statistics)?;
    } else {
        let document = serde_json::to_value(&statistics).context("the statistics cannot be shown")?;
        print_flat("", &document);
    }
    Ok(ExitCode::SUCCESS)
}

fn list(arguments: &ListArguments) -> Result<ExitCode> {
    let reader = StoreReader::open(&arguments.store.directory)?;
    let mut recordings: Vec<Recording> = Vec::new();
    let mut cursor = None;
    while recordings.len() < arguments.limit {
        let page = reader.search(&RecordingQuery {
            from: arguments.from,
            to: arguments.to,
            party: arguments.party.clone(),
            state: arguments.state,
            cursor,
            limit: PAGE.min(arguments.limit - recordings.len()),
        })?;
        recordings.extend(page.recordings);
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    if arguments.json {
        print_json(&serde_json::json!({ "recordings": recordings, "more": cursor.is_some() }))?;
    } else {
        print!("{}", recordings_table(&recordings));
        if cursor.is_some() {
            println!("… and more: raise --limit or narrow the time with --from and --to");
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn show(id: RecordingId, directory: &Path, json: bool) -> Result<ExitCode> {
    let recording = find(&*StoreReader::open(directory)?, id)?;
    if json {
        print_json(&recording)?;
    } else {
        let document = serde_json::to_value(&recording).context("the recording cannot be shown")?;
        print_flat("", &document);
    }
    Ok(ExitCode::SUCCESS)
}

fn find(reader: &StoreReader, id: RecordingId) -> Result<Recording> {
    match reader.recording(id)? {
        Some(recording) => Ok(recording),
        None => bail!("there is no recording {id} in this store (`sidetone recordings list` shows what there is)"),
    }
}

fn export(arguments: &ExportArguments) -> Result<ExitCode> {
    let reader: Arc<StoreReader> = StoreReader::open(&arguments.store.directory)?;
    find(&reader, arguments.id)?;
    let mut rendition = Rendition::open(reader, arguments.id, arguments.format, arguments.channels)?;
    let path = arguments.output.clone().unwrap_or_else(|| rendition.file_name().into());
    let suffix = path.extension().and_then(|suffix| suffix.to_str()).unwrap_or_default();
    if suffix.parse::<Format>().is_ok_and(|named| named != arguments.format) {
        bail!("{} is named like {suffix}, but --format is {}: make them agree", path.display(), arguments.format);
    }
    let file = std::fs::OpenOptions::new().write(true).create_new(true).open(&path).with_context(|| {
        let why = if path.exists() { " (an existing file is never replaced: choose another name with -o)" } else { "" };
        format!("cannot create {}{why}", path.display())
    })?;
    let mut out = std::io::BufWriter::with_capacity(1 << 20, file);
    let written = sidetone_playback::write_to(&mut rendition, &mut out)
        .map_err(anyhow::Error::from)
        .and_then(|()| out.into_inner().map_err(|error| error.into_error().into()))
        .and_then(|file| file.sync_all().map_err(Into::into));
    if let Err(error) = written {
        // Half a file must not pass for a recording.
        std::fs::remove_file(&path).with_context(|| format!("half-written {} could not be removed", path.display()))?;
        return Err(error.context(format!("cannot write {}", path.display())));
    }
    if arguments.json {
        print_json(&serde_json::json!({ "id": arguments.id, "file": path, "bytes": rendition.len() }))?;
    } else {
        println!("{} ({} bytes)", path.display(), rendition.len());
    }
    Ok(ExitCode::SUCCESS)
}

/// A document as `path = value` lines: for people, and for grep.
fn print_flat(path: &str, value: &serde_json::Value) {
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
