//! `sidetone store`: sizes, checks, a new catalog, backups.

use crate::client::Recorder;
use crate::config::Config;
use crate::output::{flat, one_line, print, print_json, remark, say};
use crate::recordings::StoreDirectory;
use crate::run::storage_troubles;
use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use sidetone_store::{
    BackupOptions, BackupProgress, BackupReport, BadPlace, Differing, RebuildOptions, RebuildProgress, RebuildReport,
    Skipped, StoreError, StoreReader, VerifyOptions, VerifyReport,
};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

/// Damage printed for people one by one; --json has more of it.
const BAD_PLACES_SHOWN: usize = 100;

#[derive(Subcommand)]
pub(crate) enum StoreCommand {
    /// Sizes and counts of a store, and what is wrong with its volumes.
    Stats {
        /// Store directory. May be in use by a running recorder. Replaces the configured one.
        #[arg(long, value_name = "DIR")]
        store: Option<PathBuf>,
        /// Configuration file (TOML) with which the store is used: it says what its volumes are, and how much free space is little.
        #[arg(long, short, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Read everything a store or a backup holds and tell what is not as it was written.
    ///
    /// A backup is checked where it lies; its catalog is unpacked meanwhile below $TMPDIR (/tmp), which needs room for it.
    ///
    /// Checks every record of journals and segments, every run of audio against its Merkle root, and the catalog against both.
    /// Changes nothing, and works beside a running recorder. Ends with 1 when something is damaged or missing: a record, a file
    /// that the catalog knows, a volume; each damaged record is told with its recording and time. Damage of audio is silence in
    /// that recording; `sidetone store rebuild` mends a damaged catalog.
    #[command(
        after_help = "Examples:\n  sidetone store verify\n  sidetone store verify --rate 50 --json   # at most 50 MB/s, for a disk that records meanwhile\n  sidetone store verify --store /mnt/backup/sidetone"
    )]
    Verify(VerifyArguments),
    /// Make the catalog of a store anew, from its journals and segments.
    ///
    /// For a catalog that is damaged or lost. The old one is replaced when the new one is whole. Where the old one can still be
    /// read and has recordings that the new one has not, files or volumes are missing: it tells how many and which, keeps the old
    /// one, and ends with 1. No recorder may run on the store meanwhile: stop it first (`systemctl stop sidetone`), and start it
    /// again afterwards.
    #[command(after_help = "Example:\n  sidetone store rebuild --store /var/lib/sidetone")]
    Rebuild {
        /// Store directory. Must not be in use.
        #[arg(long, value_name = "DIR", default_value = "/var/lib/sidetone")]
        store: PathBuf,
        /// Take the new catalog, even if it misses recordings that the old one has. Those that have lost only part of their audio stay,
        /// as `incomplete`, with a gap where it was; all that are given up are counted, and the newest named.
        #[arg(long)]
        accept_missing: bool,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Copy a store to a directory, while it is in use.
    ///
    /// The first backup copies everything, further ones to the same directory what has come since. A running recorder is asked
    /// to do it, and goes on recording; when it makes no progress for 120 s, it is no longer waited for. An interrupted backup is
    /// finished by the next one. A finished file that the backup has
    /// and the store has otherwise, or has lost, is kept as it is and told, and the command ends with 1.
    #[command(
        after_help = "Examples:\n  sidetone store backup /mnt/backup/sidetone\n  sidetone store backup /srv/copy --link   # same disk: takes no space, saves from mistakes and not from the disk"
    )]
    Backup(BackupArguments),
    /// Make a store of a backup.
    ///
    /// The new store's directories must be empty or not there. It is checked as by `sidetone store verify`, and the command ends
    /// with 1 when something is damaged or missing: then, too, it is a store, with everything that could be had. A recorder can be
    /// started on it afterwards.
    #[command(
        after_help = "Example:\n  sidetone store restore /mnt/backup/sidetone --store /var/lib/sidetone\n  sidetone store restore /mnt/backup/sidetone --store /var/lib/sidetone --volume /mnt/disk1 --volume /mnt/disk2"
    )]
    Restore(RestoreArguments),
}

#[derive(Args)]
pub(crate) struct BackupArguments {
    /// Directory of the backup: empty, not there yet, or an earlier backup of this store.
    #[arg(value_name = "DIR")]
    target: PathBuf,
    #[command(flatten)]
    store: StoreDirectory,
    /// Link files that do not change any more instead of copying them; on the same file system only.
    #[arg(long)]
    link: bool,
    /// Make the directories above DIR, too. Without this they must be there: a mount point may be mistyped.
    #[arg(long)]
    parents: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub(crate) struct RestoreArguments {
    /// Directory of the backup.
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// Directory of the new store.
    #[arg(long, value_name = "NEW")]
    store: PathBuf,
    /// Directory of a volume, for each that the store had besides its own directory, in their order.
    #[arg(long = "volume", value_name = "NEW")]
    volumes: Vec<PathBuf>,
    /// Do not check what was restored.
    #[arg(long)]
    no_verify: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub(crate) struct VerifyArguments {
    #[command(flatten)]
    store: StoreDirectory,
    /// Read not faster than this, in megabytes a second. Without it, as fast as the disks are.
    #[arg(long, value_name = "MB/s", value_parser = parse_rate)]
    rate: Option<f64>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

fn parse_rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if rate.is_finite() && rate >= 0.001 => Ok(rate),
        _ => Err("give megabytes a second, from 0.001 on".to_owned()),
    }
}

pub(crate) fn store(command: &StoreCommand) -> Result<ExitCode> {
    match command {
        StoreCommand::Stats { store, config, json } => stats(store.as_deref(), config.as_deref(), *json),
        StoreCommand::Verify(arguments) => verify(arguments),
        StoreCommand::Rebuild { store, accept_missing, json } => {
            rebuild(store, &RebuildOptions { accept_missing: *accept_missing }, *json)
        }
        StoreCommand::Backup(arguments) => backup(arguments),
        StoreCommand::Restore(arguments) => restore(arguments),
    }
}

fn stats(store: Option<&Path>, config: Option<&Path>, json: bool) -> Result<ExitCode> {
    let config = Config::load(config)?;
    let directory = store.unwrap_or(&config.store.directory);
    let options = config.store.options(config.node_name());
    let statistics = StoreReader::open_with(directory, Some(&options))?.statistics()?;
    // As the running recorder tells it.
    let (refused, mut warnings) = storage_troubles(&statistics.volumes);
    warnings.extend(refused);
    if directory == config.store.directory {
        warnings.extend(config.store.not_volumes(&statistics.volumes));
    }
    let mut document = serde_json::to_value(&statistics).context("the statistics cannot be shown")?;
    document["warnings"] = json!(warnings);
    if json {
        print_json(&document)?;
    } else {
        print(flat("", &document))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn verify(arguments: &VerifyArguments) -> Result<ExitCode> {
    let options =
        VerifyOptions { bytes_per_second: arguments.rate.map(|rate| (rate * 1e6) as u64), ..VerifyOptions::default() };
    let start = Instant::now();
    let report = check(&arguments.store.directory, &options)?;
    if arguments.json {
        print_json(&report)?;
    } else {
        print(report_text(&report, start.elapsed().as_secs_f64()))?;
    }
    Ok(code(report.is_clean()))
}

fn check(directory: &Path, options: &VerifyOptions) -> Result<VerifyReport> {
    let bar = bar("[{bar:40}] {bytes}/{total_bytes} {bytes_per_sec} {eta} {msg}");
    let report = sidetone_store::verify(directory, options, &mut |progress| {
        bar.set_length(progress.bytes_total);
        bar.set_position(progress.bytes);
        if progress.bad_places > 0 {
            bar.set_message(format!("{} damaged", progress.bad_places));
        }
        ControlFlow::Continue(())
    })?;
    bar.finish_and_clear();
    Ok(report)
}

fn code(is_well: bool) -> ExitCode {
    if is_well { ExitCode::SUCCESS } else { ExitCode::from(1) }
}

fn report_text(report: &VerifyReport, seconds: f64) -> String {
    let mut text = String::new();
    for place in report.bad.iter().take(BAD_PLACES_SHOWN) {
        text += &bad_place(place);
        text += "\n";
    }
    let untold = report.bad_places.saturating_sub(BAD_PLACES_SHOWN as u64);
    if untold > 0 {
        text += &format!("… and {untold} more\n");
    }
    for Skipped { volume, file, from, why } in &report.skipped {
        text += &format!("not checked: volume {} {file} from byte {from} on: {why}\n", volume.0);
    }
    text += &format!(
        "{} files, {} bytes, {} chunks, {} facts, {} runs, {} recordings checked in {seconds:.1} s: {}\n",
        report.files,
        report.bytes,
        report.chunks,
        report.facts,
        report.runs,
        report.recordings,
        match report.bad_places {
            0 => "no damage".to_owned(),
            1 => "1 damaged or missing place".to_owned(),
            places => format!("{places} damaged or missing places"),
        }
    );
    text
}

/// Where it lies, what it is, and whose it was.
fn bad_place(place: &BadPlace) -> String {
    let mut text = match (place.volume, place.file) {
        (Some(volume), Some(file)) => {
            format!("DAMAGED volume {} {file} bytes {}..{}: {}", volume.0, place.from, place.to, place.what)
        }
        (Some(volume), None) => format!("UNREADABLE volume {}: {}", volume.0, place.what),
        _ => format!("DAMAGED catalog: {}", place.what),
    };
    if let Some(recording) = place.recording {
        text += &format!("; recording {recording}");
    }
    if let Some(track) = place.track {
        text += &format!(" track {}", track.0);
    }
    if let Some(from) = place.from_time {
        text += &format!(" from {from}");
    }
    if let Some(to) = place.to_time {
        text += &format!(" to {to}");
    }
    text
}

fn rebuild(directory: &Path, options: &RebuildOptions, json: bool) -> Result<ExitCode> {
    let bar = bar("[{bar:40}] {pos}/{len} segments {eta} {msg}");
    let start = Instant::now();
    let done = sidetone_store::rebuild(directory, options, &mut |progress| {
        bar.set_length(progress.segments_total);
        bar.set_position(progress.segments);
        bar.set_message(match progress.sorted_percent {
            0 => format!("{} runs", progress.runs),
            100 => format!("{} runs, {} records of journals", progress.runs, progress.records),
            percent => format!("{} runs, {percent} % put in order", progress.runs),
        });
    });
    bar.finish_and_clear();
    if let Err(error @ StoreError::RecordingsMissing { missing, some }) = &done {
        if json {
            say(json!({ "error": error.to_string(), "missing": missing, "some": some }));
        } else {
            remark(error);
        }
        return Ok(ExitCode::from(1));
    }
    let done = done.map_err(|error| match error {
        StoreError::Locked { path, process } => anyhow::anyhow!(
            "the store in {} is in use by process {process}, and its catalog with it: stop that one first (`systemctl stop \
             sidetone`, or `kill {process}`), then run this again",
            path.display()
        ),
        error => error.into(),
    })?;
    let RebuildReport { done: RebuildProgress { segments, runs, records, damaged_places, .. }, .. } = done;
    if json {
        print_json(&done)?;
    } else {
        let mut text = format!(
            "a new catalog from {segments} segments with {runs} runs, and {records} records of journals, in {:.1} s\n",
            start.elapsed().as_secs_f64()
        );
        if done.given_up > 0 {
            text += &format!(
                "{} recordings, or part of them, given up; {} of these are still there and `incomplete` now:\n",
                done.given_up, done.made_incomplete
            );
            done.some.iter().for_each(|recording| text += &format!("  {recording}\n"));
            if done.given_up > done.some.len() as u64 {
                text += "  …\n";
            }
        }
        if let Some(why) = &done.not_compared {
            text += &format!("the old catalog did not tell what the new one misses, or not all of it: {why}\n");
        }
        if damaged_places > 0 {
            text += &format!("{damaged_places} places could not be read: `sidetone store verify` names them\n");
        }
        print(text)?;
    }
    Ok(code(damaged_places == 0))
}

fn backup(arguments: &BackupArguments) -> Result<ExitCode> {
    let store = &arguments.store.directory;
    // The recorder has another working directory.
    let directory = std::path::absolute(&arguments.target).context("the backup's directory cannot be found")?;
    let options = BackupOptions { link: arguments.link, parents: arguments.parents };
    let bar = copy_bar();
    let mut progress = |done: BackupProgress| show(&bar, &done);
    let (report, through) = match sidetone_store::backup(store, &directory, &options, &mut progress) {
        Ok(report) => (report, "the store".to_owned()),
        Err(StoreError::Locked { path, process }) => {
            let recorder = Recorder::new(&path, &process);
            let request = json!({ "directory": directory, "link": options.link, "parents": options.parents });
            let hear = |line: Value| match (line.get("progress"), line.get("done"), line.get("failed")) {
                (Some(done), ..) => {
                    if let Ok(done) = serde_json::from_value(done.clone()) {
                        progress(done);
                    }
                    None
                }
                (_, Some(done), _) => {
                    let report = serde_json::from_value::<BackupReport>(done.clone());
                    Some(report.context("the recorder's answer is no result of a backup"))
                }
                (.., Some(failed)) => Some(Err(anyhow::anyhow!("{}", failed.as_str().unwrap_or_default()))),
                _ => None,
            };
            (recorder.post("/control/backup", &request, hear)??, recorder.name())
        }
        Err(error) => return Err(error.into()),
    };
    bar.finish_and_clear();
    let BackupReport { done, differing } = &report;
    if arguments.json {
        print_json(&json!({ "directory": directory, "through": through, "result": report }))?;
    } else {
        let mut text = format!("{} holds a backup, made through {through}: {}\n", directory.display(), copied(done));
        if done.volumes_missing > 0 {
            let missing = done.volumes_missing;
            text += &format!("{missing} volumes are missing: of them it holds what earlier backups had\n");
        }
        print(text)?;
    }
    for Differing { copy, file, what } in differing {
        remark(format_args!("DIFFERS {} from {}: {what}", copy.display(), file.display()));
    }
    if !differing.is_empty() {
        remark(format_args!(
            "{} finished files of the store are gone, or not those of the backup, which keeps its own: run `sidetone store verify \
             --store {}`; if the store is damaged, put these files back or restore the backup, else make a new backup in an empty directory. \
             Nothing is removed from this one meanwhile, which grows",
            differing.len(),
            store.display()
        ));
    }
    Ok(code(report.is_whole()))
}

fn restore(arguments: &RestoreArguments) -> Result<ExitCode> {
    let bar = copy_bar();
    let absolute =
        |path: &PathBuf| std::path::absolute(path).with_context(|| format!("{} cannot be found", path.display()));
    // The store remembers where its volumes are.
    let volumes = arguments.volumes.iter().map(absolute).collect::<Result<Vec<_>>>()?;
    let mut progress = |done: BackupProgress| show(&bar, &done);
    let restored = sidetone_store::restore(&arguments.directory, &arguments.store, &volumes, &mut progress)?;
    bar.finish_and_clear();
    if !arguments.json {
        print(format_args!("{} is a store: {}\n", arguments.store.display(), copied(&restored.done)))?;
        if let Some(error) = &restored.catalog_made_anew {
            remark(format_args!(
                "its catalog was made anew of its log files, for that of the backup cannot be used: {error}"
            ));
        }
    }
    let start = Instant::now();
    let options = VerifyOptions { catalog_is_older: true, ..VerifyOptions::default() };
    let checked = (!arguments.no_verify).then(|| check(&arguments.store, &options)).transpose();
    // The store is there, whatever becomes of the check.
    let (report, error) = match &checked {
        Ok(report) => (report.as_ref(), None),
        Err(error) => (None, Some(one_line(error))),
    };
    if arguments.json {
        print_json(&json!({ "store": arguments.store, "result": restored, "check": report, "check_error": error }))?;
    } else if let Some(report) = report {
        print(report_text(report, start.elapsed().as_secs_f64()))?;
    }
    if let Some(error) = &error {
        remark(format_args!("the store was made and could not be checked: {error}"));
    }
    Ok(code(error.is_none() && report.is_none_or(VerifyReport::is_clean)))
}

fn copied(done: &BackupProgress) -> String {
    let BackupProgress { files, files_kept, bytes, .. } = done;
    format!("{files} files, of which {files_kept} were there already; {bytes} bytes of recordings")
}

fn copy_bar() -> ProgressBar {
    bar("[{bar:40}] {bytes}/{total_bytes} {bytes_per_sec} {eta} {msg}")
}

fn show(bar: &ProgressBar, done: &BackupProgress) {
    bar.set_length(done.bytes_total);
    bar.set_position(done.bytes);
    bar.set_message(format!("{} of {} files", done.files, done.files_total));
}

/// Shown on a terminal only.
fn bar(template: &str) -> ProgressBar {
    let bar = ProgressBar::new(0);
    bar.set_style(ProgressStyle::with_template(template).expect("the template is a constant").progress_chars("=> "));
    bar
}
