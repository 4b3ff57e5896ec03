//! A new catalog, from what segments and journals hold.

use crate::backup::is_no_backup;
use crate::catch_up::{Damage, Span, read_journals};
use crate::description::Description;
use crate::keeper::gaps;
use crate::logs::Logs;
use crate::open::take_lock;
use crate::read_segments::{Into, OnFault, Reading};
use crate::reader::scratch_directory;
use crate::verify::{LogFileName, missing};
use crate::{Store, StoreError, volume};
use serde::{Deserialize, Serialize};
use sidetone_catalog::{
    Catalog, CatalogBuilder, CatalogError, CatalogOptions, ChunkLocation, Filter, Query, RocksCatalog,
};
use sidetone_log::{Io, KnownEnd, LogPosition, RingIo, Run, SegmentNumber, VolumeNumber};
use sidetone_model::{Gap, Recording, RecordingId, RecordingState, Tick};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::Arc;

/// The catalog, one that is being made, and the one before while they change places.
const CATALOG: &str = "catalog";
const NEW: &str = "catalog.new";
const OLD: &str = "catalog.old";

/// Recordings named one by one that a new catalog misses.
const MISSING_NAMED: usize = 20;

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RebuildOptions {
    /// The new catalog replaces the old one, even if it misses recordings.
    pub accept_missing: bool,
}

/// How far a rebuild is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct RebuildProgress {
    pub segments: u64,
    pub segments_total: u64,
    pub runs: u64,
    /// What was found in segments is put in order next.
    pub sorted_percent: u8,
    /// Records of the journals, which come last.
    pub records: u64,
    /// Places that could not be read. What they held is in no catalog.
    pub damaged_places: u64,
}

/// What a rebuild has come to.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct RebuildReport {
    #[serde(flatten)]
    pub done: RebuildProgress,
    /// Recordings that the old catalog had, or had more of, as far as it could be read: with
    /// [`accept_missing`](RebuildOptions::accept_missing), they were given up.
    pub given_up: u64,
    /// The newest of these.
    pub some: Vec<RecordingId>,
    /// Those of them that are still there and have lost audio: they are incomplete now, with a gap where it was.
    pub made_incomplete: u64,
    /// Why the old catalog could not tell what is missing, or not all of it.
    pub not_compared: Option<String>,
}

/// What the new catalog has less than the old one.
#[derive(Default)]
struct Lost {
    recordings: u64,
    some: Vec<RecordingId>,
    /// Of recordings that are still there: when they had audio that nothing holds any more.
    audio: BTreeMap<RecordingId, Vec<Gap>>,
    /// Why the old catalog was not read, or not to its end.
    not_compared: Option<String>,
}

type GoneSegments = BTreeSet<(VolumeNumber, SegmentNumber)>;

/// Makes the catalog of a store anew, beside the old one, which is replaced when the new one is whole. Beside volumes that are
/// missing, what only they hold is left out; what other volumes know of it is not.
///
/// # Errors
/// [`StoreError::Locked`] while a process writes the store; damage is none. [`StoreError::RecordingsMissing`] when the old catalog has
/// recordings, or of recordings something, that the new one has not, or audio lies in segments that are gone: the old one stays. It does, too, when it is not damaged and cannot be read.
/// When they are given up, those that are still there become [`Incomplete`](sidetone_model::RecordingState::Incomplete): `complete` means whole.
pub fn rebuild(
    home: &Path,
    options: &RebuildOptions,
    progress: &mut dyn FnMut(RebuildProgress),
) -> Result<RebuildReport, StoreError> {
    let io: Arc<dyn Io> = Arc::new(RingIo::new());
    let not_found = || StoreError::NotFound { path: home.to_owned() };
    is_no_backup(&*io, home)?;
    let found = Description::read(&*io, home)?.ok_or_else(not_found)?;
    let lock = take_lock(&*io, home)?;
    let volumes = volume::locate(&*io, home, &found)?;
    let logs = Logs::new(Arc::clone(&io), found.store_id, &volumes);
    finish_exchange(home)?;
    let new = home.join(NEW);
    remove(&new)?;
    let made = make(&*io, &logs, &new, progress).and_then(|Made { done, catalog, damaged }| {
        let lost = compare(home, &catalog, &logs, options.accept_missing)?;
        match lost {
            Lost { recordings, some, .. } if recordings > 0 && !options.accept_missing => {
                Err(StoreError::RecordingsMissing { missing: recordings, some })
            }
            lost => {
                drop(catalog);
                // Before the new catalog is in its place: interrupted, it is done again, and nothing is told twice.
                let made_incomplete = match lost.audio.is_empty() && damaged.is_empty() {
                    true => 0,
                    false => Store::own_up(home, (Arc::clone(&lock), found.clone()), &new, lost.audio, damaged)?,
                };
                let Lost { recordings, some, not_compared, .. } = lost;
                Ok(RebuildReport { done, given_up: recordings, some, made_incomplete, not_compared })
            }
        }
    });
    let report = match made {
        Ok(made) => made,
        Err(error) => {
            // It takes room, and is of no use. Why there is none is what matters.
            if let Err(error) = remove(&new) {
                tracing::warn!(%error, "what there is of the new catalog stays");
            }
            return Err(error);
        }
    };
    let move_to = |from: &str, to: &str| {
        std::fs::rename(home.join(from), home.join(to))
            .and_then(|()| io.sync_directory(home))
            .map_err(|source| StoreError::io("rename", home.join(from), source))
    };
    remove(&home.join(OLD))?;
    if home.join(CATALOG).exists() {
        move_to(CATALOG, OLD)?;
    }
    move_to(NEW, CATALOG)?;
    remove(&home.join(OLD))?;
    Ok(report)
}

/// A new catalog.
pub(crate) struct Made {
    done: RebuildProgress,
    catalog: RocksCatalog,
    /// Places of journals that could not be read: no recording says yet that something of it may have lain there.
    pub(crate) damaged: Vec<Damage>,
}

/// A catalog of everything that segments and journals hold, in a directory that is empty or not there.
pub(crate) fn make(
    io: &dyn Io,
    logs: &Logs,
    directory: &Path,
    progress: &mut dyn FnMut(RebuildProgress),
) -> Result<Made, StoreError> {
    let builder = CatalogBuilder::create(directory, &CatalogOptions::default())?;
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut done = from_segments(io, Into::New(&builder), logs, threads, progress)?;
    let catalog = builder.finish(threads, &mut |hundredths| {
        done.sorted_percent = hundredths;
        progress(done);
    })?;
    done.sorted_percent = 100;
    let damaged = from_journals(&catalog, logs, &mut done)?;
    progress(done);
    catalog.persist()?;
    Ok(Made { done, catalog, damaged })
}

/// What the old catalog knows, as far as it is not damaged, and the new one does not; and audio of which both know that it lies in
/// segments that are gone.
fn compare(home: &Path, new: &RocksCatalog, logs: &Logs, accept_missing: bool) -> Result<Lost, StoreError> {
    let mut gone = GoneSegments::new();
    for logs in logs.volumes().filter(|logs| logs.volume.present) {
        let volume = logs.volume.number;
        let segment = |file: &LogFileName| match file {
            LogFileName::Segment(segment) => Some((volume, *segment)),
            LogFileName::Journal(_) => None,
        };
        gone.extend(missing(new, logs)?.keys().filter_map(segment));
    }
    let mut lost = Lost::default();
    let path = home.join(CATALOG);
    if path.join("CURRENT").exists() {
        let scratch = scratch_directory()?;
        let old = RocksCatalog::open_secondary(&path, scratch.path());
        match old.and_then(|old| hold_against(&old, new, &gone, &mut lost)) {
            // Why a new one is made.
            Err(error @ CatalogError::Damaged { .. }) => {
                tracing::warn!(%error, "the old catalog is damaged: the new one is not held against it, or not all of it");
                lost.not_compared = Some(error.to_string());
            }
            Err(source) if accept_missing => lost.not_compared = Some(source.to_string()),
            held_against => held_against.map_err(|source| StoreError::OldCatalog { source })?,
        }
    }
    if !gone.is_empty() {
        find_in(&gone, new, &mut lost)?;
    }
    Ok(lost)
}

fn hold_against(
    old: &RocksCatalog,
    new: &RocksCatalog,
    gone: &GoneSegments,
    lost: &mut Lost,
) -> Result<(), CatalogError> {
    let audio = |recording| lost_audio(&[old, new], new, gone, recording);
    // A row does not tell what audio lies in journals.
    let (mut pending, fault) = match old.pending() {
        Ok(pending) => (pending.into_iter().map(|pending| pending.recording).collect(), None),
        Err(error) => (BTreeSet::new(), Some(error)),
    };
    let mut outcome = Ok(());
    new.lacks(old, &mut |recording| {
        pending.remove(&recording);
        // It counts, whatever becomes of the rest.
        let told = match audio(recording) {
            Ok(audio) => lost.tell(recording, audio, new),
            Err(error) => lost.tell(recording, Vec::new(), new).and(Err(error)),
        };
        if outcome.is_ok() {
            outcome = told;
        }
    })?;
    outcome.and(fault.map_or(Ok(()), Err))?;
    for recording in pending {
        let audio = audio(recording)?;
        let document = new.recording(recording)?;
        if !audio.is_empty() && !document.is_some_and(|document| tells(&document, &audio)) {
            lost.tell(recording, audio, new)?;
        }
    }
    Ok(())
}

/// Finds the recordings with audio in segments that are gone, but those that tell so.
fn find_in(gone: &GoneSegments, new: &RocksCatalog, lost: &mut Lost) -> Result<(), CatalogError> {
    let mut query = Query { filter: Filter::everything(), cursor: None, limit: 1000 };
    loop {
        let page = new.search(&query)?;
        for document in page.recordings {
            let audio = lost_audio(&[new], new, gone, document.id)?;
            let is_over = document.state != RecordingState::Active;
            if is_over && !tells(&document, &audio) && !lost.audio.contains_key(&document.id) {
                lost.tell(document.id, audio, new)?;
            }
        }
        query.cursor = page.next;
        if query.cursor.is_none() {
            return Ok(());
        }
    }
}

/// Whether a document says already that this audio is gone.
fn tells(document: &Recording, audio: &[(Tick, Tick)]) -> bool {
    gaps(audio.to_vec()).iter().all(|gap| document.gaps.contains(gap))
}

impl Lost {
    fn tell(
        &mut self,
        recording: RecordingId,
        audio: Vec<(Tick, Tick)>,
        new: &RocksCatalog,
    ) -> Result<(), CatalogError> {
        self.recordings += 1;
        if self.some.len() < MISSING_NAMED {
            self.some.push(recording);
        }
        if !audio.is_empty() && new.recording(recording)?.is_some() {
            self.audio.insert(recording, gaps(audio));
        }
        Ok(())
    }
}

/// Grid steps of a recording whose audio some catalogs find, and that cannot be had with the new one. A run has all tracks.
fn lost_audio(
    known: &[&RocksCatalog],
    new: &RocksCatalog,
    gone: &GoneSegments,
    recording: RecordingId,
) -> Result<Vec<(Tick, Tick)>, CatalogError> {
    let of_row = |row: &ChunkLocation| (row.first_tick, Tick(row.first_tick.0 + u64::from(row.ticks)));
    let of_run = |run: &Run| (run.first_tick, run.end_tick);
    let (mut runs, rows) = (new.runs(recording)?, new.unsealed(recording)?);
    runs.retain(|run| !gone.contains(&(run.volume, run.segment)));
    let mut lost = Vec::new();
    for catalog in known {
        let before = catalog.runs(recording)?;
        // A run that was beside the lost audio spans what it has not: only others can have it instead.
        let instead = || runs.iter().filter(|run| !before.contains(run)).map(of_run);
        for run in before.iter().filter(|run| !runs.contains(run)) {
            lost.extend(without(of_run(run), instead().collect()));
        }
        for row in catalog.unsealed(recording)?.iter().filter(|row| !rows.contains(row)) {
            let same_track = rows.iter().filter(|other| other.track == row.track).map(of_row);
            lost.extend(without(of_row(row), instead().chain(same_track).collect()));
        }
    }
    Ok(lost)
}

/// What is left of a span when others are taken away.
fn without((mut from, to): (Tick, Tick), mut others: Vec<(Tick, Tick)>) -> Vec<(Tick, Tick)> {
    others.sort_unstable();
    let mut left = Vec::new();
    for (begin, end) in others {
        if from < begin.min(to) {
            left.push((from, begin.min(to)));
        }
        from = from.max(end);
    }
    if from < to {
        left.push((from, to));
    }
    left
}

/// Ends an exchange of catalogs that was interrupted: the new one was whole when the old one was moved away.
pub(crate) fn finish_exchange(home: &Path) -> Result<(), StoreError> {
    let path = |name: &str| home.join(name);
    if path(CATALOG).exists() || !path(OLD).exists() {
        return Ok(());
    }
    let from = if path(NEW).exists() { NEW } else { OLD };
    std::fs::rename(path(from), path(CATALOG)).map_err(|source| StoreError::io("rename", path(from), source))
}

pub(crate) fn remove(directory: &Path) -> Result<(), StoreError> {
    match std::fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(StoreError::io("remove", directory, error)),
        _ => Ok(()),
    }
}

/// Brings everything that segments hold into a catalog that has nothing yet. So many threads read.
pub(crate) fn from_segments(
    io: &dyn Io,
    into: Into<'_>,
    logs: &Logs,
    readers: usize,
    progress: &mut dyn FnMut(RebuildProgress),
) -> Result<RebuildProgress, StoreError> {
    let present: Vec<VolumeNumber> =
        logs.volumes().filter(|logs| logs.volume.present).map(|logs| logs.volume.number).collect();
    Reading { io, into, logs, on_fault: OnFault::GoOn }.segments(&present, readers, progress)
}

/// Brings in what journals hold. Gives what of them was damaged.
pub(crate) fn from_journals(
    catalog: &dyn Catalog,
    logs: &Logs,
    done: &mut RebuildProgress,
) -> Result<Vec<Damage>, StoreError> {
    let spans: Vec<Span> = logs
        .volumes()
        .filter(|logs| logs.volume.present)
        .map(|logs| Span {
            volume: logs.volume.number,
            from: LogPosition::default(),
            end: KnownEnd::AtLeast(LogPosition::default()),
        })
        .collect();
    let caught_up = read_journals(catalog, logs, &spans, &mut |_| {})?;
    done.records = caught_up.records;
    done.damaged_places += (caught_up.damaged.len() + caught_up.unreadable.len()) as u64;
    for (volume, error) in caught_up.unreadable {
        tracing::error!(volume = volume.0, %error, "the catalog is made without the rest of this journal");
    }
    Ok(caught_up.damaged)
}
