//! What opening a volume takes, when the store is opened and when a volume comes back: its journal, and what a crash has left
//! in its segments.

use crate::StoreError;
use crate::description::make_directory;
use crate::keeper::OPEN_SPAN;
use crate::logs::VolumeLogs;
use crate::options::journal_config;
use crate::shared::{Shared, SharedVolume};
use crate::verify::missing;
use sidetone_log::{Fact, Journal, LogError, SealedRun, SegmentEntry, SegmentNumber};
use std::sync::atomic::Ordering;

/// Opens the journal of a volume; a new file is begun in it.
pub(crate) fn open_journal(shared: &Shared, volume: &SharedVolume) -> Result<Journal, StoreError> {
    let applied = shared.catalog.applied()?.get(&volume.volume.number).copied().unwrap_or_default();
    let total_bytes = match volume.total_bytes.load(Ordering::Relaxed) {
        0 => u64::MAX,
        total => total,
    };
    let segments = volume.volume.segments();
    make_directory(&*shared.io, &segments)?;
    let identity = shared.identity(&volume.volume);
    let config = journal_config(&shared.options, total_bytes);
    Ok(Journal::open(shared.io.clone(), &volume.volume.journal(), &identity, &config, applied)?)
}

/// What an earlier process has left in the segments of a volume.
pub(crate) struct Orphans {
    /// Announcements of runs that the catalog does not know.
    pub(crate) runs: Vec<Fact>,
    /// The number of the next segment.
    pub(crate) next: SegmentNumber,
    /// Segments without a footer.
    pub(crate) left_open: Vec<SegmentNumber>,
}

/// Looks at the newest segments of a volume: only they can have been left open. The catalog has everything that the journals
/// hold.
pub(crate) fn unannounced_runs(shared: &Shared, logs: &VolumeLogs) -> Result<Orphans, StoreError> {
    let segments = logs.segments.segments()?;
    let gone = missing(&*shared.catalog, logs)?;
    if let Some(first) = gone.keys().next() {
        tracing::error!(
            volume = logs.volume.number.0, directory = %logs.volume.directory.display(), %first, files = gone.len(),
            "files of a volume are gone, and what only they held: put them back, or restore a backup (`sidetone store verify` names the \
             recordings)"
        );
    }
    // A number is used once, also when its file is lost: an index or a backup may speak of it.
    let known = shared.catalog.segment_ends(logs.volume.number)?;
    let last = segments.last().copied().max(known.last().map(|(segment, _)| *segment));
    let next = SegmentNumber(last.map_or(1, |last| last.0 + 1));
    let mut orphans = Orphans { runs: Vec::new(), next, left_open: Vec::new() };
    for &segment in segments.iter().filter(|segment| segment.0 + 2 * OPEN_SPAN >= next.0) {
        if logs.segments.is_closed(segment)? {
            continue;
        }
        let contents =
            match logs.contents(&*shared.io, segment, shared.catalog.segment_end(logs.volume.number, segment)?) {
                Ok(contents) => contents,
                Err(StoreError::Log(LogError::Retired { .. })) => continue,
                Err(error) => return Err(error),
            };
        for damaged in &contents.damaged {
            tracing::error!(
                path = %logs.segments.path(segment).display(), from = damaged.start, to = damaged.end,
                "a segment is damaged where it was durable"
            );
        }
        shared.keeper().damaged_places += contents.damaged.len() as u64;
        orphans.left_open.push(segment);
        for entry in contents.entries {
            let SegmentEntry::Run(SealedRun { recording, run, through }) = entry else { continue };
            if !shared.catalog.runs(recording)?.contains(&run) {
                orphans.runs.push(Fact::Sealed { recording, run, through });
            }
        }
    }
    Ok(orphans)
}
