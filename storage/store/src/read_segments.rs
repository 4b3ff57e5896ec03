//! Bringing into the catalog what segments hold: for a new catalog, and for a volume that the catalog knows nothing of.
//!
//! Reading and understanding facts takes as long as bringing them into the catalog, so that several threads may read, a segment
//! each; one applies. The order does not matter: facts can be applied in any.

use crate::StoreError;
use crate::catch_up::RECORDS_AT_ONCE;
use crate::logs::Logs;
use crate::rebuild::RebuildProgress;
use crate::shared::{is_fault, may_pass};
use sidetone_catalog::{Catalog, Changes};
use sidetone_log::{
    Fact, FactRecord, FactSequence, Io, LogError, SealedRun, SegmentEntry, SegmentNumber, VolumeNumber,
};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};

/// What becomes of a segment that cannot be read now, and may be another time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum OnFault {
    /// It counts as damaged.
    GoOn,
    End,
}

/// Where from, and where to.
#[derive(Clone, Copy)]
pub(crate) struct Reading<'a> {
    pub(crate) io: &'a dyn Io,
    pub(crate) catalog: &'a dyn Catalog,
    pub(crate) logs: &'a Logs,
    pub(crate) on_fault: OnFault,
}

/// What a thread that reads has found.
enum Found {
    Changes(Changes),
    /// It is through with a segment.
    End {
        place: (VolumeNumber, SegmentNumber),
        tally: Tally,
        outcome: Result<(), StoreError>,
    },
}

/// Of one segment.
#[derive(Default)]
struct Tally {
    runs: u64,
    damaged_places: u64,
}

/// Takes what was found in a segment.
type Give<'a> = dyn FnMut(Changes) -> Result<(), StoreError> + 'a;

impl Reading<'_> {
    /// Brings into the catalog everything that the segments of volumes hold. How far it is in the journals is not touched.
    /// So many threads read; with one, this is it, and everything happens in order.
    pub(crate) fn segments(
        self,
        volumes: &[VolumeNumber],
        readers: usize,
        progress: &mut dyn FnMut(RebuildProgress),
    ) -> Result<RebuildProgress, StoreError> {
        let mut places: Vec<(VolumeNumber, SegmentNumber)> = Vec::new();
        for &volume in volumes {
            let found = self.logs.volume(volume)?.segments.segments()?;
            places.extend(found.into_iter().map(|segment| (volume, segment)));
        }
        let mut done = RebuildProgress { segments_total: places.len() as u64, ..RebuildProgress::default() };
        if readers.min(places.len()) <= 1 {
            for place in places {
                let mut tally = Tally::default();
                let outcome = self.segment(place, &mut tally, &mut |changes| Ok(self.catalog.apply(&changes, &[])?));
                self.count(place, &tally, outcome, &mut done)?;
                progress(done);
            }
            return Ok(done);
        }
        let next = AtomicUsize::new(0);
        let (found, finds) = sync_channel(readers);
        std::thread::scope(|scope| {
            for _ in 0..readers.min(places.len()) {
                let (found, places, next) = (found.clone(), &places, &next);
                scope.spawn(move || {
                    while let Some(&place) = places.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let mut tally = Tally::default();
                        // Nobody takes it: the one who applies has met an error.
                        let mut give =
                            |changes| found.send(Found::Changes(changes)).map_err(|_unsent| StoreError::Closed);
                        let outcome = self.segment(place, &mut tally, &mut give);
                        if found.send(Found::End { place, tally, outcome }).is_err() {
                            return;
                        }
                    }
                });
            }
            drop(found);
            self.apply(finds, &mut done, progress)
        })?;
        Ok(done)
    }

    fn apply(
        self,
        finds: Receiver<Found>,
        done: &mut RebuildProgress,
        progress: &mut dyn FnMut(RebuildProgress),
    ) -> Result<(), StoreError> {
        for found in finds {
            match found {
                Found::Changes(changes) => self.catalog.apply(&changes, &[])?,
                Found::End { place, tally, outcome } => {
                    self.count(place, &tally, outcome, done)?;
                    progress(*done);
                }
            }
        }
        Ok(())
    }

    /// Counts a segment that was read to its end, or to where it could not be read any more.
    fn count(
        self,
        (volume, segment): (VolumeNumber, SegmentNumber),
        tally: &Tally,
        outcome: Result<(), StoreError>,
        done: &mut RebuildProgress,
    ) -> Result<(), StoreError> {
        done.runs += tally.runs;
        done.damaged_places += tally.damaged_places;
        if let Err(error) = outcome {
            let ends = match &error {
                StoreError::Catalog(_) => true,
                StoreError::Log(error) => self.on_fault == OnFault::End && may_pass(error),
                _ => self.on_fault == OnFault::End,
            };
            if ends {
                return Err(error);
            }
            tracing::error!(volume = volume.0, segment = segment.0, %error, "the catalog is made without this segment");
            done.damaged_places += 1;
        }
        done.segments += 1;
        Ok(())
    }

    /// Gives everything that can be read.
    fn segment(
        self,
        place: (VolumeNumber, SegmentNumber),
        tally: &mut Tally,
        give: &mut Give<'_>,
    ) -> Result<(), StoreError> {
        let mut changes = Changes::default();
        let outcome = self.read(place, tally, &mut changes, give);
        give(changes).and(outcome)
    }

    fn read(
        self,
        (volume, segment): (VolumeNumber, SegmentNumber),
        tally: &mut Tally,
        changes: &mut Changes,
        give: &mut Give<'_>,
    ) -> Result<(), StoreError> {
        let logs = self.logs.volume(volume)?;
        let contents = logs.contents(self.io, segment, self.catalog.segment_end(volume, segment)?)?;
        tally.damaged_places += contents.damaged.len() as u64;
        for entry in contents.entries {
            let facts = match &entry {
                SegmentEntry::Run(SealedRun { recording, run, through }) => {
                    tally.runs += 1;
                    let (recording, through) = (*recording, through.clone());
                    let fact = Fact::Sealed { recording, run: run.clone(), through };
                    changes.fact(FactRecord { sequence: FactSequence(0), fact }, &[]);
                    let facts_length = match logs.segments.run_index(recording, run) {
                        Ok(index) => index.chunks_offset,
                        Err(error) if matches!(error, LogError::BadRunIndex { .. }) || is_fault(&error) => {
                            tracing::error!(%recording, %error, "its facts are looked for without it");
                            tally.damaged_places += 1;
                            run.index_offset
                        }
                        Err(error) => return Err(error.into()),
                    };
                    run.offset..run.offset.saturating_add(facts_length)
                }
                SegmentEntry::Facts(_) => entry.bytes(),
            };
            for fact in logs.segments.facts(segment, facts)? {
                match fact {
                    Ok(record) => changes.fact(record, &[]),
                    Err(error) if error.is_damage() => {
                        tracing::error!(volume = volume.0, %error, "the catalog is made without it");
                        tally.damaged_places += 1;
                    }
                    Err(error) => return Err(error.into()),
                }
            }
            if changes.len() >= RECORDS_AT_ONCE {
                give(std::mem::take(changes))?;
            }
        }
        Ok(())
    }
}
