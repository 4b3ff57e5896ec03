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
        match self.lanes[lane].poll(lane) {
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

    pub(crate) fn settle(&mut self, lane: usize, mut settled: Settled) {
        self.gathered.chunks += settled.chunks.len() as u64;
        self.gathered.facts += settled.facts;
        self.gathered.bytes += settled.bytes;
        for recording in std::mem::take(&mut settled.chunks) {
            if let Some(known) = self.known.get_mut(&recording) {
                known.outstanding -= 1;
                if known.over && known.outstanding == 0 {
                    self.drop_known(recording);
                }
            }
        }
        self.lanes[lane].outbox.push_back(settled);
    }

    /// Tells the keeper what is durable. A fact is told of when every volume that took it has it, or is known not to have it
    /// in time: it may leave the journals as soon as the keeper knows it, and then nothing would tell who has missed it.
    pub(super) fn tell(&mut self) {
        for lane in 0..self.lanes.len() {
            while let Some(settled) = self.lanes[lane].outbox.pop_front() {
                if !self.is_settled_elsewhere(lane, &settled) {
                    self.lanes[lane].outbox.push_front(settled);
                    break;
                }
                self.owe_stalled(lane, &settled);
                let Settled { to, changes, notes, owed, deliveries, .. } = settled;
                let after = self.told();
                self.lanes[lane].told = to;
                self.owed.extend(owed);
                let volume = self.lanes[lane].shared.volume.number;
                self.send(lane, Batch { volume, after, to, changes, notes, owed: Vec::new(), deliveries });
            }
        }
    }

    fn is_settled_elsewhere(&self, lane: usize, settled: &Settled) -> bool {
        let Some(last) = settled.about.iter().map(|(number, _)| *number).max() else { return true };
        let others = self.lanes.iter().enumerate().filter(|(other, _)| *other != lane).map(|(_, other)| other);
        let mut waited_for = others.filter(|other| other.shared.fault() != VolumeState::Stalled);
        waited_for.all(|other| other.lowest().is_none_or(|lowest| lowest > last))
    }

    /// What a volume that does not answer was given, and may not have.
    fn owe_stalled(&mut self, lane: usize, settled: &Settled) {
        if settled.about.is_empty() {
            return;
        }
        for (other, stalled) in self.lanes.iter().enumerate() {
            if other != lane && stalled.shared.fault() == VolumeState::Stalled {
                let volume = stalled.shared.volume.number;
                let missed = stalled.facts().filter(|fact| settled.about.contains(fact));
                self.owed.extend(missed.map(|(_, about)| (volume, about)));
            }
        }
    }

    pub(super) fn told(&self) -> Vec<(VolumeNumber, LogPosition)> {
        self.lanes.iter().map(|lane| (lane.shared.volume.number, lane.told)).collect()
    }

    fn send(&mut self, lane: usize, mut batch: Batch) {
        let Some(batches) = &self.batches else { return };
        batch.owed = std::mem::take(&mut self.owed).into_iter().collect();
        match batches.try_send(batch) {
            Ok(()) => {}
            Err(TrySendError::Full(batch)) => {
                self.statistics.batches_dropped += u64::from(!batch.changes.is_empty());
                self.lanes[lane].behind = true;
                self.lanes[lane].carried.extend(batch.deliveries);
                self.owed.extend(batch.owed);
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
            let (after, changes) = (self.told(), Changes::default());
            let batch = Batch { volume, after, to, changes, notes: Vec::new(), owed: Vec::new(), deliveries };
            self.send(lane, batch);
        }
    }
}
