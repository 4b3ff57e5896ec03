//! Facts that a volume has missed while it could not be written.
//!
//! Every fact is on every volume, so that any one can be lost. The writer tells which volumes did not take a fact; the catalog
//! remembers whom it was about, and when the volume can be written, all facts about that recording go into one of its
//! segments. A crash between a fact and that note leaves the fact in a journal: who opens the store looks there
//! ([`owe_pending`](crate::catch_up::owe_pending)). A catalog made anew remembers nothing of it.

use super::Keeper;
use super::is_due;
use super::seal::for_segment;
use super::segments::{Kind, kind_of, kind_of_facts};
use crate::StoreError;
use crate::sabotage::Sabotage;
use sidetone_catalog::Changes;
use sidetone_log::{Fact, FactRecord, FactSequence, VolumeNumber};
use sidetone_model::{CaptureTime, RecordingId};
use std::collections::BTreeMap;
use std::time::Duration;

/// Recordings dealt with in one step.
const RECORDINGS_AT_ONCE: usize = 512;
/// Between two looks at what is owed.
const INTERVAL: Duration = Duration::from_secs(5);

#[derive(Default)]
pub(super) struct Backfill {
    looked_at: Option<CaptureTime>,
}

impl Keeper {
    /// Notes who is owed what.
    pub(super) fn owe(&mut self, owing: &Changes) -> Result<(), StoreError> {
        if !owing.is_empty() && !self.shared.is_sabotaged(Sabotage::ForgetOwed) {
            self.shared.catalog.apply(owing, &[])?;
        }
        Ok(())
    }

    /// Writes to volumes what they have missed. True when there is more to do.
    pub(super) fn fill_in(&mut self, now: CaptureTime) -> Result<bool, StoreError> {
        if self.shared.volumes.len() == 1 || !is_due(&mut self.backfill.looked_at, now, INTERVAL) {
            return Ok(false);
        }
        let mut more = false;
        for index in 0..self.shared.volumes.len() {
            let shared = &self.shared.volumes[index];
            // Its last reserve is for what happens now.
            if shared.state().takes_audio() {
                more |= self.fill_in_volume(shared.volume.number)?;
            }
        }
        if more {
            self.backfill.looked_at = None;
        }
        Ok(more)
    }

    fn fill_in_volume(&mut self, volume: VolumeNumber) -> Result<bool, StoreError> {
        let owed = self.shared.catalog.owed(volume, None, RECORDINGS_AT_ONCE)?;
        let logs = self.logs.clone();
        if owed.is_empty() || !self.segments.is_usable(volume, &logs.volume(volume)?.segments) {
            return Ok(false);
        }
        let mut groups: BTreeMap<Kind, Vec<FactRecord>> = BTreeMap::new();
        for &recording in &owed {
            let kind = match recording.0.is_nil() {
                true => kind_of_facts(volume),
                false => kind_of(volume, &self.shared.catalog.annotations(recording)?),
            };
            let records = groups.entry(kind).or_default();
            let held = self.shared.catalog.facts(recording)?;
            records.extend(held.into_iter().map(|held| for_segment(held.record)));
            records.extend(self.roots(recording, volume)?);
        }
        let mut paying = Changes::default();
        // Of nothing, no segment is begun, and none is said to be there.
        for (kind, records) in groups.into_iter().filter(|(_, records)| !records.is_empty()) {
            match self.segments.append_facts(&kind, &records) {
                Ok((segment, end)) => paying.segment_durable(volume, segment, end),
                Err(error) => {
                    tracing::warn!(volume = volume.0, %error, "a volume has not got the facts that it missed yet");
                    return Ok(false);
                }
            }
            self.shared.keeper().facts_copied += records.len() as u64;
        }
        owed.iter().for_each(|&recording| paying.pay(volume, recording));
        self.shared.catalog.apply(&paying, &[])?;
        Ok(owed.len() == RECORDINGS_AT_ONCE)
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
