//! Bringing into the catalog what journals hold and it does not know.

use crate::KeeperStatistics;
use crate::StoreError;
use crate::batch::Note;
use crate::logs::{Logs, VolumeLogs};
use crate::read_segments::{Into, OnFault, Reading};
use sidetone_catalog::{Catalog, Changes};
use sidetone_log::{Content, FactSequence, Io, KnownEnd, LogError, LogPosition, VolumeNumber};
use sidetone_model::{CaptureTime, RecordingId};
use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use uuid::Uuid;

/// Records brought into the catalog at once, and the bytes of these.
pub(crate) const RECORDS_AT_ONCE: usize = 4096;
const BYTES_AT_ONCE: u64 = 16 << 20;

/// Bytes of a journal that were durable and cannot be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Damage {
    pub(crate) volume: VolumeNumber,
    pub(crate) file: u32,
    pub(crate) error: String,
    /// When it was told; recordings that began later have nothing there.
    pub(crate) told_at: Option<CaptureTime>,
}

/// What catching up met.
#[derive(Default)]
pub(crate) struct CaughtUp {
    pub(crate) records: u64,
    /// Damaged places, by volume and journal file.
    pub(crate) damaged: Vec<Damage>,
    /// Volumes whose journal could not be read; the catalog is as far there as before, or a little further.
    pub(crate) unreadable: Vec<(VolumeNumber, StoreError)>,
}

impl CaughtUp {
    /// Whether a volume could be read.
    fn could_read(&mut self, span: Span, read: impl FnOnce(&mut Self) -> Result<(), StoreError>) -> bool {
        let outcome = read(self);
        let is_read = outcome.is_ok();
        self.unreadable.extend(outcome.err().map(|error| (span.volume, error)));
        is_read
    }

    pub(crate) fn count(&self, statistics: &mut KeeperStatistics) {
        statistics.catch_ups += u64::from(self.records > 0);
        statistics.caught_up_records += self.records;
        statistics.damaged_places += self.damaged.len() as u64;
    }
}

/// Brings into the catalog what the journals hold from where it is up to `ends`.
///
/// With several volumes, audio may lie on one and the fact that the recording is over on another. So that no reader and no crash
/// sees the fact without the audio, there are two passes: the first leaves such facts out and does not say how far it is.
pub(crate) fn catch_up(
    catalog: &dyn Catalog,
    logs: &Logs,
    ends: &[(VolumeNumber, KnownEnd)],
    note: &mut dyn FnMut(Note),
) -> Result<CaughtUp, StoreError> {
    read_journals(catalog, logs, &behind(catalog, ends)?, note)
}

/// What journals hold that the catalog does not know.
fn behind(catalog: &dyn Catalog, ends: &[(VolumeNumber, KnownEnd)]) -> Result<Vec<Span>, StoreError> {
    let applied = catalog.applied()?;
    let span = |&(volume, end): &(VolumeNumber, KnownEnd)| {
        let from = applied.get(&volume).copied().unwrap_or_default();
        let end = match end {
            KnownEnd::At(end) if from >= end => return None,
            KnownEnd::At(end) => KnownEnd::At(end),
            KnownEnd::AtLeast(end) => KnownEnd::AtLeast(end.max(from)),
        };
        Some(Span { volume, from, end })
    };
    Ok(ends.iter().filter_map(span).collect())
}

/// What an earlier process has left in the journal of a volume where none can be begun now: read to its end, after all of it was
/// made durable.
pub(crate) fn to_the_end(io: &dyn Io, logs: &VolumeLogs) -> Result<(VolumeNumber, KnownEnd), StoreError> {
    let synced = |path: &Path, outcome: io::Result<()>| match outcome {
        Err(source) if source.kind() != io::ErrorKind::ReadOnlyFilesystem => Err(StoreError::io("sync", path, source)),
        _ => Ok(()),
    };
    let files = logs.journal.files()?;
    for &file in &files {
        let path = logs.journal.path(file);
        synced(&path, io.sync_file(&path))?;
    }
    if !files.is_empty() {
        // Their names too: the one who made the newest may have died before.
        let directory = logs.volume.journal();
        synced(&directory, io.sync_directory(&directory))?;
    }
    Ok((logs.volume.number, KnownEnd::AtLeast(LogPosition::default())))
}

/// Reads the segments of volumes of which the catalog knows nothing: it was made anew without them.
pub(crate) fn read_forgotten(
    io: &dyn Io,
    catalog: &dyn Catalog,
    logs: &Logs,
    volumes: &[VolumeNumber],
) -> Result<(), StoreError> {
    let applied = catalog.applied()?;
    for &volume in volumes.iter().filter(|volume| !applied.contains_key(volume)) {
        if !logs.volume(volume)?.segments.segments()?.is_empty() {
            tracing::warn!(
                volume = volume.0,
                "the catalog knows nothing of a volume: its segments are read, which may take a while"
            );
            // What may be read another time must be: afterwards nobody looks there again.
            Reading { io, into: Into::Catalog(catalog), logs, on_fault: OnFault::End }.segments(
                &[volume],
                1,
                &mut |_| {},
            )?;
        }
    }
    Ok(())
}

/// Notes in the catalog what volumes may have missed of the facts that it knows: those that lie in journals, and not in those of all
/// volumes. Before [`catch_up`]: what that reads may settle them, and then nothing tells any more who has them.
pub(crate) fn owe_pending(catalog: &dyn Catalog, volumes: &[VolumeNumber]) -> Result<(), StoreError> {
    if volumes.len() == 1 {
        return Ok(());
    }
    let mut owing = Changes::default();
    for pending in catalog.pending()? {
        let held = catalog.facts(pending.recording)?;
        for &volume in volumes {
            let is_missed = |places: &[(VolumeNumber, LogPosition)]| {
                !places.is_empty() && places.iter().all(|(of, _)| *of != volume)
            };
            if held.iter().any(|held| is_missed(&held.places)) {
                owing.owe(volume, pending.recording);
            }
        }
    }
    Ok(catalog.apply(&owing, &[])?)
}

/// Notes in the catalog which volumes may have missed facts that [`catch_up`] is going to read: those that lie in other journals and
/// not in theirs. Before it, as afterwards nothing tells any more that they were new.
pub(crate) fn owe_missed(
    catalog: &dyn Catalog,
    logs: &Logs,
    ends: &[(VolumeNumber, KnownEnd)],
) -> Result<(), StoreError> {
    let mut facts: BTreeMap<(RecordingId, FactSequence), Vec<VolumeNumber>> = BTreeMap::new();
    if logs.volumes().count() == 1 {
        return Ok(());
    }
    for Span { volume, from, end } in behind(catalog, ends)? {
        // What cannot be read is told when it is applied.
        let Ok(scan) = logs.volume(volume)?.journal.scan(from, end) else { continue };
        for entry in scan.filter_map(Result::ok) {
            if let Content::Fact(record) = entry.content {
                let about = record.fact.recording().unwrap_or(RecordingId(Uuid::nil()));
                facts.entry((about, record.sequence)).or_default().push(volume);
            }
        }
    }
    let mut owing = Changes::default();
    for ((about, _), on) in &facts {
        let missed = logs.volumes().map(|logs| logs.volume.number).filter(|volume| !on.contains(volume));
        missed.for_each(|volume| owing.owe(volume, *about));
    }
    Ok(catalog.apply(&owing, &[])?)
}

/// A part of a volume's journal.
#[derive(Clone, Copy)]
pub(crate) struct Span {
    pub(crate) volume: VolumeNumber,
    pub(crate) from: LogPosition,
    pub(crate) end: KnownEnd,
}

/// As [`catch_up`], of these parts.
pub(crate) fn read_journals(
    catalog: &dyn Catalog,
    logs: &Logs,
    spans: &[Span],
    note: &mut dyn FnMut(Note),
) -> Result<CaughtUp, StoreError> {
    let mut caught_up = CaughtUp::default();
    let mut spans = spans.to_vec();
    if spans.len() > 1 {
        spans.retain(|&span| caught_up.could_read(span, |_| pass(catalog, logs, span, None, &mut CaughtUp::default())));
    }
    for span in spans {
        caught_up.could_read(span, |caught_up| pass(catalog, logs, span, Some(&mut *note), caught_up));
    }
    match caught_up.unreadable.iter().position(|(_, error)| matches!(error, StoreError::Catalog(_))) {
        Some(at) => Err(caught_up.unreadable.swap_remove(at).1),
        None => Ok(caught_up),
    }
}

/// One journal. Without `note`, the first pass.
fn pass(
    catalog: &dyn Catalog,
    logs: &Logs,
    span: Span,
    mut note: Option<&mut dyn FnMut(Note)>,
    caught_up: &mut CaughtUp,
) -> Result<(), StoreError> {
    let Span { volume, from, end } = span;
    // The first volume is the store's directory.
    let home = logs.volumes().next().map(|logs| logs.volume.directory.clone()).unwrap_or_default();
    let logs = logs.volume(volume)?;
    if let KnownEnd::At(end) = end
        && !logs.journal.files()?.contains(&end.file)
    {
        // That file is there for sure: what lies below the directory is another file system.
        return Err(StoreError::VolumeMissing { volume });
    }
    let ahead = || StoreError::CatalogAhead { home: home.clone(), journal: logs.volume.journal() };
    let mut scan = match logs.journal.scan(from, end) {
        Err(LogError::BeyondEnd { .. } | LogError::MissingFile { .. }) => return Err(ahead()),
        scan => scan?,
    };
    let is_first_pass = note.is_none();
    let (mut changes, mut bytes, mut notes) = (Changes::default(), 0, Vec::new());
    let mut apply = |changes: &mut Changes, notes: &mut Vec<Note>, position: LogPosition| {
        match &mut note {
            None => catalog.apply(changes, &[])?,
            Some(note) => {
                catalog.apply(changes, &[(volume, position)])?;
                notes.drain(..).for_each(note);
            }
        }
        changes.clear();
        Ok::<_, StoreError>(())
    };
    for entry in scan.by_ref() {
        let entry = match entry {
            Ok(entry) => entry,
            Err(LogError::BeyondEnd { .. }) => return Err(ahead()),
            Err(error) if error.is_damage() => {
                tracing::error!(volume = volume.0, %error, "the catalog is made without it");
                let file = match error {
                    LogError::Damaged { file, .. } | LogError::MissingFile { file } => file,
                    _ => from.file,
                };
                caught_up.damaged.push(Damage { volume, file, error: error.to_string(), told_at: None });
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        caught_up.records += 1;
        bytes += u64::from(entry.located.length);
        match entry.content {
            Content::Chunk(chunk) => changes.chunk(&chunk.header, volume, entry.located),
            Content::Fact(record) => match Note::of(&record) {
                // Left for the second pass.
                Some(Note::Over(..)) if is_first_pass => {}
                found => {
                    notes.extend(found);
                    changes.fact(record, &[(volume, entry.located.position)]);
                }
            },
        }
        if changes.len() >= RECORDS_AT_ONCE || bytes >= BYTES_AT_ONCE {
            apply(&mut changes, &mut notes, entry.next)?;
            bytes = 0;
        }
    }
    let end = match end {
        KnownEnd::At(end) => end,
        KnownEnd::AtLeast(_) => scan.position(),
    };
    apply(&mut changes, &mut notes, end)
}
