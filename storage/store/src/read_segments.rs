//! Bringing into the catalog what segments hold: for a new catalog, and for a volume that the catalog knows nothing of.
//!
//! Several threads may do it, a segment each. The order does not matter: facts can be taken in in any.

use crate::StoreError;
use crate::catch_up::RECORDS_AT_ONCE;
use crate::logs::Logs;
use crate::rebuild::RebuildProgress;
use crate::shared::{is_fault, may_pass};
use sidetone_catalog::{Catalog, CatalogBuilder, CatalogError, Changes};
use sidetone_log::{
    Fact, FactRecord, FactSequence, Io, LogError, SealedRun, SegmentEntry, SegmentNumber, VolumeNumber,
};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;

/// What becomes of a segment that cannot be read now, and may be another time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum OnFault {
    /// It counts as damaged.
    GoOn,
    End,
}

/// Where the facts go.
#[derive(Clone, Copy)]
pub(crate) enum Into<'a> {
    Catalog(&'a dyn Catalog),
    /// One that is being made.
    New(&'a CatalogBuilder),
}

impl Into<'_> {
    fn take(self, changes: &Changes) -> Result<(), CatalogError> {
        match self {
            Self::Catalog(catalog) => catalog.apply(changes, &[]),
            Self::New(builder) => builder.add(changes),
        }
    }

    /// Up to where a segment is known to be durable; a catalog that is being made knows nothing.
    fn segment_end(self, volume: VolumeNumber, segment: SegmentNumber) -> Result<u64, CatalogError> {
        match self {
            Self::Catalog(catalog) => catalog.segment_end(volume, segment),
            Self::New(_) => Ok(0),
        }
    }
}

/// Where from, and where to.
#[derive(Clone, Copy)]
pub(crate) struct Reading<'a> {
    pub(crate) io: &'a dyn Io,
    pub(crate) into: Into<'a>,
    pub(crate) logs: &'a Logs,
    pub(crate) on_fault: OnFault,
}

/// What was found in a segment.
struct Found {
    place: (VolumeNumber, SegmentNumber),
    tally: Tally,
    outcome: Result<(), StoreError>,
}

#[derive(Default)]
struct Tally {
    runs: u64,
    damaged_places: u64,
}

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
        let mut count = |found| {
            self.count(found, &mut done)?;
            progress(done);
            Ok::<_, StoreError>(())
        };
        if readers.min(places.len()) <= 1 {
            places.into_iter().try_for_each(|place| count(self.segment(place)))?;
            return Ok(done);
        }
        let next = AtomicUsize::new(0);
        let (found, finds) = sync_channel(readers);
        std::thread::scope(|scope| {
            for _ in 0..readers.min(places.len()) {
                let (found, places, next) = (found.clone(), &places, &next);
                scope.spawn(move || {
                    while let Some(&place) = places.get(next.fetch_add(1, Ordering::Relaxed)) {
                        // Nobody takes it: the one who counts has met an error that ends it all.
                        if found.send(self.segment(place)).is_err() {
                            return;
                        }
                    }
                });
            }
            drop(found);
            finds.into_iter().try_for_each(count)
        })?;
        Ok(done)
    }

    /// Counts a segment that was read to its end, or to where it could not be read any more.
    fn count(self, found: Found, done: &mut RebuildProgress) -> Result<(), StoreError> {
        let Found { place: (volume, segment), tally, outcome } = found;
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

    /// Brings in everything that can be read.
    fn segment(self, place: (VolumeNumber, SegmentNumber)) -> Found {
        let (mut tally, mut changes) = (Tally::default(), Changes::default());
        let outcome = self.read(place, &mut tally, &mut changes);
        let last = self.into.take(&changes);
        Found { place, tally, outcome: last.map_err(StoreError::from).and(outcome) }
    }

    fn read(
        self,
        (volume, segment): (VolumeNumber, SegmentNumber),
        tally: &mut Tally,
        changes: &mut Changes,
    ) -> Result<(), StoreError> {
        let logs = self.logs.volume(volume)?;
        let contents = logs.contents(self.io, segment, self.into.segment_end(volume, segment)?)?;
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
                self.take_full(changes)?;
            }
            self.take_full(changes)?;
        }
        Ok(())
    }

    /// Brings in what was found, if that is enough at once.
    fn take_full(self, changes: &mut Changes) -> Result<(), StoreError> {
        if changes.len() >= RECORDS_AT_ONCE {
            self.into.take(changes)?;
            changes.clear();
        }
        Ok(())
    }
}
