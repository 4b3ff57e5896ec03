//! Facts that a volume has missed while it could not be written.
//!
//! Every fact is on every volume, so that any one can be lost. When a volume comes back, what was written meanwhile is written to
//! it too: through the journals where it still is in one, into its segments else. A volume that was away over a restart
//! of the process gets only what changes from then on, and what still is in a journal.

use super::Keeper;
use super::segments::kind_of;
use crate::{StoreError, VolumeState};
use sidetone_catalog::Pending;
use sidetone_log::{Fact, FactRecord, FactSequence, Through, VolumeNumber};
use sidetone_model::{CaptureTime, RecordingId};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Recordings remembered for a volume that is away, 16 bytes each.
const OWED_MAX: usize = 1 << 20;
/// Recordings dealt with in one step.
const RECORDINGS_AT_ONCE: usize = 256;
/// What was under way when a volume came back is in the catalog after so long.
const SETTLE: Duration = Duration::from_secs(5);

#[derive(Default)]
pub(super) struct Backfill {
    /// Recordings whose facts have changed while a volume was away; the nil one stands for facts about none.
    owed: BTreeMap<VolumeNumber, BTreeSet<RecordingId>>,
    /// Volumes that are back, and from when on what they missed is written.
    back: BTreeMap<VolumeNumber, CaptureTime>,
}

impl Keeper {
    /// A fact about a recording is in the catalog.
    pub(super) fn note_changed(&mut self, recording: RecordingId) {
        for volume in &self.shared.volumes {
            if volume.fault() == VolumeState::Ok {
                continue;
            }
            let owed = self.backfill.owed.entry(volume.volume.number).or_default();
            if owed.len() < OWED_MAX {
                owed.insert(recording);
            }
        }
    }

    /// A volume can be written again.
    pub(super) fn note_back(&mut self, volume: VolumeNumber, now: CaptureTime) {
        self.backfill.back.insert(volume, now.saturating_add(SETTLE));
    }

    /// Writes to volumes that are back what they have missed. True when there is more to do.
    pub(super) fn fill_in(&mut self, pending: &[Pending], now: CaptureTime) -> Result<bool, StoreError> {
        let due = self.backfill.back.iter().find(|(_, from)| now >= **from).map(|(&volume, _)| volume);
        let Some(volume) = due else { return Ok(false) };
        if self.shared.volume(volume).is_none_or(|volume| volume.fault() != VolumeState::Ok) {
            // Away again.
            self.backfill.back.remove(&volume);
            return Ok(false);
        }
        let owed = self.backfill.owed.entry(volume).or_default();
        let batch: Vec<RecordingId> = std::iter::from_fn(|| owed.pop_first()).take(RECORDINGS_AT_ONCE).collect();
        if owed.is_empty() {
            self.backfill.owed.remove(&volume);
            self.backfill.back.remove(&volume);
        }
        let is_pending = |id: &RecordingId| pending.binary_search_by_key(id, |pending| pending.recording).is_ok();
        for recording in batch {
            let outcome =
                if is_pending(&recording) { self.write_again(recording) } else { self.copy_to(recording, volume) };
            match outcome {
                Ok(()) => {}
                Err(error @ StoreError::Catalog(_)) => return Err(error),
                Err(error) => {
                    // The queue is full, or the volume has failed again: another time.
                    tracing::debug!(%recording, volume = volume.0, %error, "a volume has not got a fact that it missed yet");
                    self.backfill.owed.entry(volume).or_default().insert(recording);
                    self.backfill.back.insert(volume, now.saturating_add(SETTLE));
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Facts that a journal still has go to all journals.
    fn write_again(&mut self, recording: RecordingId) -> Result<(), StoreError> {
        for held in self.shared.catalog.facts(recording)? {
            if let Some(&(volume, position)) = held.places.first() {
                let record = self.as_logged(volume, position, &held);
                self.submit_again(record)?;
                self.shared.keeper().facts_renewed += 1;
            } else {
                self.submit_again(held.record)?;
            }
        }
        Ok(())
    }

    /// Facts that are only in segments go into one of this volume.
    fn copy_to(&mut self, recording: RecordingId, volume: VolumeNumber) -> Result<(), StoreError> {
        let held = self.shared.catalog.facts(recording)?;
        let mut records: Vec<FactRecord> = held.into_iter().map(|held| held.record).collect();
        records.extend(self.roots(recording, volume)?);
        let logs = self.logs.clone();
        if records.is_empty() {
            return Ok(());
        }
        if !self.segments.is_usable(volume, &logs.volume(volume)?.segments) {
            return Err(StoreError::NoVolume { states: self.shared.states() });
        }
        let kind = kind_of(volume, &self.shared.catalog.annotations(recording)?);
        let through = Through { volume, position: self.projection.applied(volume) };
        self.copy_facts(&kind, &[(recording, records)], through)
    }

    /// The announcements of runs on other volumes, as facts for this one.
    pub(super) fn roots(&self, recording: RecordingId, volume: VolumeNumber) -> Result<Vec<FactRecord>, StoreError> {
        let runs = self.shared.catalog.runs(recording)?.into_iter().filter(|run| run.volume != volume);
        // Copies in a set: their sequence orders nothing.
        let record =
            |run| FactRecord { sequence: FactSequence(0), fact: Fact::Sealed { recording, run, through: Vec::new() } };
        Ok(runs.map(record).collect())
    }
}
