//! What becomes durable is taken off the books, and the keeper hears of it.

use super::StoreWriter;
use crate::VolumeState;
use crate::batch::Batch;
use crate::handle::Refusal;
use crate::lane::{Lane, Settled};
use sidetone_catalog::Changes;
use sidetone_log::{LogError, LogPosition, VolumeNumber};
use std::sync::mpsc::TrySendError;

impl StoreWriter {
    pub(super) fn poll_lane(&mut self, lane: usize) {
        match self.lanes[lane].poll(false, lane) {
            Ok(Some(settled)) => {
                if self.lanes[lane].shared.fault() == VolumeState::Stalled {
                    self.lanes[lane].shared.set_fault(VolumeState::Ok);
                    tracing::warn!(volume = self.lanes[lane].shared.volume.number.0, "a volume answers again");
                }
                self.settle(lane, settled);
            }
            Ok(None) => self.look_for_stall(lane),
            Err(error) => self.fail(lane, &error),
        }
        // A new file could not be begun when an append wanted one.
        let Lane { shared, journal: Some(journal), .. } = &self.lanes[lane] else { return };
        if journal.has_failed() && shared.fault().takes_facts() {
            let path = shared.volume.journal();
            self.fail(lane, &LogError::Failed { path });
        }
    }

    pub(crate) fn settle(&mut self, lane: usize, settled: Settled) {
        self.gathered.chunks += settled.chunks.len() as u64;
        self.gathered.facts += settled.facts;
        self.gathered.bytes += settled.bytes;
        for recording in settled.chunks {
            if let Some(known) = self.known.get_mut(&recording) {
                known.outstanding -= 1;
                if known.over && known.outstanding == 0 {
                    self.drop_known(recording);
                }
            }
        }
        let after = self.told();
        self.lanes[lane].told = settled.to;
        self.send(
            lane,
            Batch {
                volume: self.lanes[lane].shared.volume.number,
                after,
                to: settled.to,
                changes: settled.changes,
                notes: settled.notes,
                owed: settled.owed,
                deliveries: settled.deliveries,
            },
        );
    }

    pub(super) fn told(&self) -> Vec<(VolumeNumber, LogPosition)> {
        self.lanes.iter().map(|lane| (lane.shared.volume.number, lane.told)).collect()
    }

    pub(super) fn send(&mut self, lane: usize, batch: Batch) {
        let Some(batches) = &self.batches else { return };
        match batches.try_send(batch) {
            Ok(()) => {}
            Err(TrySendError::Full(batch)) => {
                self.statistics.batches_dropped += u64::from(!batch.changes.is_empty());
                self.lanes[lane].behind = true;
                self.lanes[lane].owed.extend(batch.owed);
                self.lanes[lane].carried.extend(batch.deliveries);
            }
            Err(TrySendError::Disconnected(batch)) => {
                batch.deliveries.iter().for_each(|delivery| delivery.resolve(Err(Refusal::Closed)));
            }
        }
    }

    /// Tells the keeper of what it has missed, as soon as it has room.
    pub(super) fn nudge(&mut self) {
        for lane in 0..self.lanes.len() {
            if !std::mem::take(&mut self.lanes[lane].behind) && self.lanes[lane].carried.is_empty() {
                continue;
            }
            let (volume, to) = (self.lanes[lane].shared.volume.number, self.lanes[lane].told);
            let deliveries = std::mem::take(&mut self.lanes[lane].carried);
            let owed = std::mem::take(&mut self.lanes[lane].owed).into_iter().collect();
            let changes = Changes::default();
            self.send(lane, Batch { volume, after: self.told(), to, changes, notes: Vec::new(), owed, deliveries });
        }
    }
}
