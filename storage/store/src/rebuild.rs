//! A new catalog, from what segments and journals hold.

use crate::StoreError;
use crate::catch_up::{RECORDS_AT_ONCE, Span, read_journals};
use crate::logs::{Logs, VolumeLogs};
use serde::{Deserialize, Serialize};
use sidetone_catalog::{Catalog, Changes};
use sidetone_log::{
    Fact, FactRecord, FactSequence, Io, KnownEnd, LogError, LogPosition, SealedRun, SegmentEntry, SegmentNumber,
    VolumeNumber,
};

/// How far a rebuild is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct RebuildProgress {
    pub segments: u64,
    pub segments_total: u64,
    pub runs: u64,
    /// Records of the journals, which come last.
    pub records: u64,
    /// Places that could not be read. What they held is in no catalog.
    pub damaged_places: u64,
}

/// Brings into an empty catalog everything that segments and journals hold.
pub(crate) fn fill(
    io: &dyn Io,
    catalog: &dyn Catalog,
    logs: &Logs,
    progress: &mut dyn FnMut(RebuildProgress),
) -> Result<RebuildProgress, StoreError> {
    let mut done = read_segments(io, catalog, logs, progress)?;
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
    done.damaged_places += caught_up.damaged.len() as u64;
    progress(done);
    catalog.persist()?;
    Ok(done)
}

/// Brings into a catalog everything that segments hold. How far it is in the journals is not touched.
pub(crate) fn read_segments(
    io: &dyn Io,
    catalog: &dyn Catalog,
    logs: &Logs,
    progress: &mut dyn FnMut(RebuildProgress),
) -> Result<RebuildProgress, StoreError> {
    let present = || logs.volumes().filter(|logs| logs.volume.present);
    let mut done = RebuildProgress::default();
    let mut segments: Vec<(VolumeNumber, SegmentNumber)> = Vec::new();
    for logs in present() {
        segments.extend(logs.segments.segments()?.into_iter().map(|segment| (logs.volume.number, segment)));
    }
    done.segments_total = segments.len() as u64;
    let mut changes = Changes::default();
    for (volume, segment) in segments {
        let logs = logs.volume(volume)?;
        if let Err(error) = read_segment(io, catalog, logs, segment, &mut changes, &mut done) {
            if let StoreError::Catalog(_) = error {
                return Err(error);
            }
            tracing::error!(volume = volume.0, segment = segment.0, %error, "the catalog is made without this segment");
            done.damaged_places += 1;
        }
        done.segments += 1;
        progress(done);
    }
    catalog.apply(&changes, &[])?;
    Ok(done)
}

fn read_segment(
    io: &dyn Io,
    catalog: &dyn Catalog,
    logs: &VolumeLogs,
    segment: SegmentNumber,
    changes: &mut Changes,
    done: &mut RebuildProgress,
) -> Result<(), StoreError> {
    let contents = logs.contents(io, segment)?;
    done.damaged_places += contents.damaged.len() as u64;
    for entry in contents.entries {
        let facts = match &entry {
            SegmentEntry::Run(SealedRun { recording, run, through }) => {
                done.runs += 1;
                let (recording, through) = (*recording, through.clone());
                let fact = Fact::Sealed { recording, run: run.clone(), through };
                changes.fact(FactRecord { sequence: FactSequence(0), fact }, &[]);
                match logs.segments.run_index(recording, run) {
                    Ok(index) => logs.segments.run_facts(run, &index)?,
                    Err(error @ LogError::BadRunIndex { .. }) => {
                        tracing::error!(%recording, %error, "its facts are looked for without it");
                        done.damaged_places += 1;
                        logs.segments.facts(segment, run.offset..run.offset + run.index_offset)?
                    }
                    Err(error) => return Err(error.into()),
                }
            }
            SegmentEntry::Facts(_) => logs.segments.facts(segment, entry.bytes())?,
        };
        for fact in facts {
            match fact {
                Ok(record) => changes.fact(record, &[]),
                Err(error) if error.is_damage() => {
                    tracing::error!(volume = logs.volume.number.0, %error, "the catalog is made without it");
                    done.damaged_places += 1;
                }
                Err(error) => return Err(error.into()),
            }
        }
        if changes.len() >= RECORDS_AT_ONCE {
            catalog.apply(changes, &[])?;
            changes.clear();
        }
    }
    Ok(())
}
