//! `sidetone recordings`: reading a store, also beside a running recorder.

use crate::output::{flat, print, print_json, recordings_table};
use crate::search::SearchArguments;
use crate::tag::{self, TagArguments};
use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use serde_json::json;
use sidetone_model::{Recording, RecordingId};
use sidetone_playback::{Channels, Format, Lost, Rendition};
use sidetone_store::{Count, Query, StoreReader};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

/// Recordings fetched from the catalog at a go.
const PAGE: usize = 500;

#[derive(Subcommand)]
pub(crate) enum Command {
    /// List recordings, newest first.
    #[command(
        after_help = "Examples:\n  sidetone recordings list --party 2001 --from 2026-01-31T00:00:00Z\n  sidetone recordings list --number-suffix 4711 --tag case=17 --state finished --count"
    )]
    List(Box<ListArguments>),
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
    /// Set or remove tags of a recording.
    ///
    /// While a recorder runs on the store, it is asked to do it, through its API; else the store is opened for it. Either way
    /// the tags are durable when this command ends.
    #[command(
        after_help = "Examples:\n  sidetone recordings tag ID case=17 'customer=Ada L.'\n  sidetone recordings tag ID --remove case"
    )]
    Tag(TagArguments),
}

#[derive(Args)]
pub(crate) struct StoreDirectory {
    /// Store directory. May be in use by a running recorder.
    #[arg(long = "store", value_name = "DIR", default_value = "/var/lib/sidetone")]
    pub(crate) directory: PathBuf,
}

#[derive(Args)]
pub(crate) struct ListArguments {
    #[command(flatten)]
    store: StoreDirectory,
    #[command(flatten)]
    search: SearchArguments,
    /// At most so many.
    #[arg(long, default_value_t = 100, value_name = "NUMBER")]
    limit: usize,
    /// Say how many match, also those beyond the limit: exact up to 1000, beyond that an estimate.
    #[arg(long)]
    count: bool,
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

pub(crate) fn recordings(command: &Command) -> Result<ExitCode> {
    match command {
        Command::List(arguments) => list(arguments),
        Command::Show { id, store, json } => show(*id, &store.directory, *json),
        Command::Export(arguments) => export(arguments),
        Command::Tag(arguments) => tag::tag(arguments),
    }
}

fn list(arguments: &ListArguments) -> Result<ExitCode> {
    let filter = arguments.search.filter()?;
    let reader = StoreReader::open(&arguments.store.directory)?;
    let mut query = Query { filter, cursor: None, limit: 0 };
    let mut recordings: Vec<Recording> = Vec::new();
    while recordings.len() < arguments.limit {
        query.limit = PAGE.min(arguments.limit - recordings.len());
        let page = reader.search(&query)?;
        recordings.extend(page.recordings);
        query.cursor = page.next;
        if query.cursor.is_none() {
            break;
        }
    }
    let count = if arguments.count { Some(reader.count(&query.filter)?) } else { None };
    let more = query.cursor.is_some();
    if arguments.json {
        let mut document = json!({ "recordings": recordings, "more": more });
        if let Some(Count { recordings, exact }) = count {
            document["count"] = json!({ "value": recordings, "exact": exact });
        }
        print_json(&document)?;
    } else {
        let mut text = recordings_table(&recordings);
        if more {
            text += "… and more: raise --limit or narrow the search (--help names the conditions)\n";
        }
        if let Some(Count { recordings, exact }) = count {
            text += &format!("{}{recordings} recordings match\n", if exact { "" } else { "about " });
        }
        print(text)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn show(id: RecordingId, directory: &Path, json: bool) -> Result<ExitCode> {
    let recording = find(&*StoreReader::open(directory)?, id)?;
    if json {
        print_json(&recording)?;
    } else {
        let document = serde_json::to_value(&recording).context("the recording cannot be shown")?;
        print(flat("", &document))?;
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
    let lost: Vec<&Lost> = rendition.lost().collect();
    if arguments.json {
        let gap = |lost: &&Lost| {
            let (from, to) = (lost.ticks.start.start(), lost.ticks.end.start());
            json!({ "track": lost.track, "from": from, "to": to, "reason": lost.reason })
        };
        let gaps: Vec<_> = lost.iter().map(gap).collect();
        print_json(&json!({ "id": arguments.id, "file": path, "bytes": rendition.len(), "gaps": gaps }))?;
    } else {
        let mut text = format!("{} ({} bytes)\n", path.display(), rendition.len());
        for Lost { track, ticks, reason } in &lost {
            let (from, to) = (ticks.start.start(), ticks.end.start());
            text += &format!("  gap: track {} is silent from {from} to {to}: {reason}\n", track.0);
        }
        print(text)?;
    }
    // The file is there, and something is missing from it.
    Ok(if lost.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(1) })
}
