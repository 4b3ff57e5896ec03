//! `sidetone replay`: capture files through the same data plane, by their own clocks.

use crate::config::Config;
use crate::output::{print, print_json, recordings_table, remark};
use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use sha2::{Digest, Sha256};
use sidetone_capture::CaptureFile;
use sidetone_engine::{EngineEvent, ReplaySummary};
use sidetone_log::Fact;
use sidetone_model::{CaptureTime, Recording, RecordingId, Seed};
use sidetone_playback::size_tables;
use sidetone_store::{Store, StoreOptions};
use std::collections::BTreeSet;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The document that `replay --json` prints.
#[derive(Serialize)]
struct Document {
    captures: Vec<Capture>,
    recordings: Vec<Recording>,
    calls_seen: u64,
    calls_not_recorded: Vec<NotRecorded>,
    unclaimed_streams: Vec<sidetone_calls::UnclaimedStream>,
    packets: sidetone_engine::PacketSummary,
}

#[derive(Serialize)]
struct Capture {
    file: PathBuf,
    sha256: String,
    /// The store held this capture already: nothing was added.
    already_in_store: bool,
    /// The file ends in the middle of a packet.
    truncated: bool,
}

#[derive(Clone, Serialize)]
struct NotRecorded {
    call_id: String,
    at: CaptureTime,
    reason: sidetone_calls::NotRecordedReason,
}

pub(crate) fn replay(config: &Config, captures: &[PathBuf], directory: &Path, json: bool) -> Result<ExitCode> {
    // All files are looked at before the store is touched.
    for capture in captures {
        CaptureFile::open(capture)?;
    }
    let mut store = open(directory, config)?;
    let mut document = Document {
        captures: Vec::new(),
        recordings: Vec::new(),
        calls_seen: 0,
        calls_not_recorded: Vec::new(),
        unclaimed_streams: Vec::new(),
        packets: Default::default(),
    };
    for capture in captures {
        let digest = file_digest(capture)?;
        let sha256: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        if document.captures.iter().any(|known| known.sha256 == sha256) {
            remark(format_args!("{} is the same capture as one before it; it is taken once", capture.display()));
            continue;
        }
        let already_in_store = store.reader.has_replayed(&sha256)?;
        let outcome = if already_in_store {
            // The result is the same every time: it is made again beside the store, which stays as it is.
            let scratch = tempfile::tempdir_in(directory).context("no room for a scratch store")?;
            let scratch_store = Store::open(scratch.path(), &StoreOptions::new(config.node_name()))?;
            replay_one(config, capture, digest, scratch_store)?.0
        } else {
            let (outcome, returned) = replay_one(config, capture, digest, store)?;
            store = returned;
            store.writer.append_fact(Fact::Replayed { digest: sha256.clone(), at: now() })?;
            store.writer.flush()?;
            while store.keeper.step() {}
            outcome
        };
        document.captures.push(Capture {
            file: capture.clone(),
            sha256,
            already_in_store,
            truncated: outcome.summary.truncated,
        });
        add(&mut document, outcome);
    }
    document.recordings.sort_by_key(|recording| (recording.started_at, recording.id));
    close(store)?;
    if json {
        print_json(&document)?;
    } else {
        print(document_text(&document))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The store as the configuration says, but for its directory.
fn open(directory: &Path, config: &Config) -> Result<Store> {
    let mut options = config.store.options(config.node_name());
    if directory != config.store.directory {
        // The volumes of another store.
        options.volumes.clear();
    }
    // What is replayed is over: it goes where it stays while the command runs.
    options.sealing.interval = Duration::ZERO;
    let mut store = Store::open(directory, &options)?;
    store.keeper.on_run(size_tables);
    Ok(store)
}

fn close(store: Store) -> Result<()> {
    let (mut writer, mut keeper, ..) = store.split();
    // Sealed, announced, and the announcement in the catalog.
    for _ in 0..3 {
        while keeper.step() {}
        writer.flush()?;
    }
    keeper.close(writer).context("the recordings are durable, and closing the store failed")
}

struct Outcome {
    summary: ReplaySummary,
    recordings: Vec<Recording>,
    not_recorded: Vec<NotRecorded>,
}

fn replay_one(config: &Config, capture: &Path, digest: [u8; 32], store: Store) -> Result<(Outcome, Store)> {
    let mut seed = [0; 16];
    seed.copy_from_slice(&digest[..16]);
    let heard: Arc<Mutex<(BTreeSet<RecordingId>, Vec<NotRecorded>)>> = Arc::default();
    let sink = heard.clone();
    let setup = config.setup(
        Seed(seed),
        Arc::new(move |event| {
            let mut heard = sink.lock().unwrap_or_else(PoisonError::into_inner);
            match event {
                EngineEvent::RecordingCompleted(recording) => {
                    heard.0.insert(recording.id);
                }
                EngineEvent::NotRecorded { call_id, at, reason } => {
                    heard.1.push(NotRecorded { call_id: call_id.to_string(), at, reason });
                }
                // What the store tells, it has logged.
                EngineEvent::CallStarted(_)
                | EngineEvent::CallUpdated(_)
                | EngineEvent::CallEnded(_)
                | EngineEvent::Store(_) => {}
            }
        }),
    );
    let source = CaptureFile::open(capture)?;
    let bar = progress_bar(capture, source.len());
    let (summary, store) = sidetone_engine::replay(&setup, source, store, &mut |position| bar.set_position(position))
        .with_context(|| format!("cannot replay {}", capture.display()))?;
    bar.finish_and_clear();
    if summary.truncated {
        remark(format_args!("{} ends in the middle of a packet; it was replayed up to there", capture.display()));
    }
    let (ids, not_recorded) = std::mem::take(&mut *heard.lock().unwrap_or_else(PoisonError::into_inner));
    let mut recordings = Vec::new();
    for id in ids {
        match store.reader.recording(id)? {
            // Whether it is sealed by now is a matter of chance.
            Some(recording) => recordings.push(Recording { proof: None, ..recording }),
            None => bail!("recording {id} was written and is not in the catalog"),
        }
    }
    Ok((Outcome { summary, recordings, not_recorded }, store))
}

fn add(document: &mut Document, outcome: Outcome) {
    document.recordings.extend(outcome.recordings);
    document.calls_not_recorded.extend(outcome.not_recorded);
    document.calls_seen += outcome.summary.calls_seen;
    document.unclaimed_streams.extend(outcome.summary.unclaimed_streams);
    let (sum, packets) = (&mut document.packets, outcome.summary.packets);
    sum.received += packets.received;
    sum.track += packets.track;
    sum.signalling += packets.signalling;
    sum.rtcp += packets.rtcp;
    for (reason, count) in packets.dropped {
        *sum.dropped.entry(reason).or_default() += count;
    }
    for (result, count) in packets.on_tracks {
        *sum.on_tracks.entry(result).or_default() += count;
    }
}

fn document_text(document: &Document) -> String {
    let mut text = String::new();
    for capture in document.captures.iter().filter(|capture| capture.already_in_store) {
        text += &format!("{} was replayed into this store before: nothing added\n", capture.file.display());
    }
    text += &recordings_table(&document.recordings);
    text += &format!(
        "\n{} calls seen, {} recordings, {} calls not recorded, {} streams without a call\n",
        document.calls_seen,
        document.recordings.len(),
        document.calls_not_recorded.len(),
        document.unclaimed_streams.len()
    );
    for call in &document.calls_not_recorded {
        let reason = serde_json::to_value(call.reason).ok();
        let reason = reason.as_ref().and_then(|reason| reason.as_str()).unwrap_or("unknown");
        text += &format!("  not recorded: {} ({reason})\n", call.call_id);
    }
    let packets = &document.packets;
    let dropped: Vec<String> = packets.dropped.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    text += &format!(
        "{} packets: {} on tracks, {} signalling, {} RTCP, dropped: {}\n",
        packets.received,
        packets.track,
        packets.signalling,
        packets.rtcp,
        if dropped.is_empty() { "none".into() } else { dropped.join(", ") }
    );
    text
}

fn progress_bar(capture: &Path, bytes: u64) -> ProgressBar {
    let bar = ProgressBar::new(bytes);
    let template = "{msg} [{bar:40}] {bytes}/{total_bytes} {bytes_per_sec} {eta}";
    bar.set_style(ProgressStyle::with_template(template).expect("the template is a constant").progress_chars("=> "));
    bar.set_message(capture.file_name().unwrap_or_default().to_string_lossy().into_owned());
    bar
}

fn file_digest(path: &Path) -> Result<[u8; 32]> {
    let cannot_read = || format!("cannot read {}", path.display());
    let mut file = std::fs::File::open(path).with_context(cannot_read)?;
    let mut digest = Sha256::new();
    let mut block = vec![0; 1 << 20];
    loop {
        match file.read(&mut block).with_context(cannot_read)? {
            0 => return Ok(digest.finalize().into()),
            length => digest.update(&block[..length]),
        }
    }
}

fn now() -> CaptureTime {
    let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    CaptureTime::ZERO.saturating_add(since_epoch)
}
