//! Volumes that do not answer, fail, and come back.

use super::StoreWriter;
use crate::lane::{Item, Lane, What};
use crate::{StoreError, VolumeState};
use sidetone_log::{Journal, LogError};
use sidetone_model::RecordingId;
use std::sync::Arc;
use std::sync::atomic::Ordering;

impl StoreWriter {
    pub(super) fn look_for_stall(&mut self, lane: usize) {
        let Some(began) = self.lanes[lane].flush_began else { return };
        let shared = &self.lanes[lane].shared;
        let elapsed = self.shared.io.monotonic().saturating_sub(began);
        if elapsed < self.shared.options.limits.stall || shared.fault() == VolumeState::Stalled {
            return;
        }
        tracing::error!(
            volume = shared.volume.number.0,
            seconds = elapsed.as_secs_f64(),
            "a volume does not answer: others take its recordings until it does"
        );
        shared.set_fault(VolumeState::Stalled);
        shared.details().faults.stalled += 1;
        for (durable_on, delivery) in self.lanes[lane].stall(lane) {
            self.lanes[durable_on].carried.push(delivery);
        }
    }

    /// A journal has failed: what is not durable in it goes to the other lanes.
    pub(super) fn fail(&mut self, lane: usize, error: &LogError) {
        let shared = &self.lanes[lane].shared;
        let state = shared.count_fault(error);
        shared.set_fault(state);
        shared.may_retry.store(false, Ordering::Release);
        tracing::error!(volume = shared.volume.number.0, %error, "a volume cannot be written: others take its recordings until it can");
        if !self.lanes[lane].journal.as_ref().is_some_and(Journal::has_failed) {
            return;
        }
        let (settled, left) = self.lanes[lane].give_up(lane);
        let volume = self.lanes[lane].shared.volume.number;
        for fact in left.iter().filter_map(|(item, _)| item.what.fact()) {
            self.owed.insert((volume, fact.about()));
            // Others may have it already.
            if let Some(delivery) = &fact.delivery
                && let Some(durable_on) = delivery.give_up_lane(lane)
            {
                self.lanes[durable_on].carried.push(Arc::clone(delivery));
            }
        }
        self.settle(lane, settled);
        self.stranded.extend(left);
        self.urgent = true;
    }

    /// Brings what volumes left to others, in order, as far as they take it.
    pub(super) fn place_stranded(&mut self) {
        while let Some((item, record)) = self.stranded.pop_front() {
            let placed = match &item.what {
                What::Chunk(header) => self.place_stranded_chunk(&item, header.recording, &record),
                What::Fact(fact) => self.append_everywhere(item.number, &record, fact),
            };
            if !placed {
                self.stranded.push_front((item, record));
                return;
            }
            self.urgent = true;
        }
    }

    pub(super) fn place_stranded_chunk(&mut self, item: &Item, recording: RecordingId, record: &[u8]) -> bool {
        // It was taken once: any lane that can be written at all will do.
        let writable = |lane: &Lane| lane.is_writable();
        let home = self.known.get(&recording).and_then(|known| known.lane);
        let home = home.filter(|&lane| writable(&self.lanes[lane]));
        let Some(lane) = home.or_else(|| self.lanes.iter().position(writable)) else { return false };
        if home.is_none() {
            self.assign(recording, lane, self.shared.io.now());
        }
        if !self.make_room(lane, record.len()) {
            return false;
        }
        match self.journal(lane).append_raw(record) {
            Ok(located) => {
                self.lanes[lane].push(item.number, located, item.what.clone());
                true
            }
            Err(error) => {
                self.fail(lane, &error);
                false
            }
        }
    }

    /// Volumes that the keeper could write to.
    pub(super) fn retry_probed(&mut self) {
        for lane in 0..self.lanes.len() {
            if self.lanes[lane].shared.may_retry.swap(false, Ordering::AcqRel)
                && let Err(error) = self.retry(lane)
            {
                let shared = &self.lanes[lane].shared;
                shared.set_fault(shared.count_fault(&error));
                tracing::warn!(volume = shared.volume.number.0, %error, "a volume still cannot be written");
            }
        }
    }

    pub(super) fn retry(&mut self, lane: usize) -> Result<(), LogError> {
        let Lane { shared, journal: Some(journal), .. } = &mut self.lanes[lane] else { return Ok(()) };
        if matches!(shared.fault(), VolumeState::Full | VolumeState::Failed) {
            journal.retry()?;
            shared.set_fault(VolumeState::Ok);
            tracing::warn!(volume = shared.volume.number.0, "a volume can be written again");
        }
        Ok(())
    }

    pub(super) fn retry_all(&mut self) -> Result<(), StoreError> {
        let mut first = None;
        for lane in 0..self.lanes.len() {
            if let Err(error) = self.retry(lane) {
                first.get_or_insert(error);
            }
        }
        match first {
            _ if self.lanes.iter().any(Lane::is_writable) => Ok(()),
            Some(error) => Err(error.into()),
            None => Err(self.no_volume()),
        }
    }

    pub(super) fn no_volume(&self) -> StoreError {
        StoreError::NoVolume { states: self.shared.states() }
    }
}
