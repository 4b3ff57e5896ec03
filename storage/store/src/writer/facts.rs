//! Facts: on all volumes, and in their turn.

use super::{Held, StoreWriter};
use crate::StoreError;
use crate::handle::{Delivery, Refusal, Submitted};
use crate::lane::{LaneFact, What};
use sidetone_log::format::fact_record;
use sidetone_log::{Fact, FactRecord, LogError};
use sidetone_model::RecordingState;
use std::collections::VecDeque;
use std::sync::Arc;

/// Facts of others that are taken at once, so that they do not hold up the audio.
const SUBMISSIONS_AT_ONCE: usize = 256;

/// A recording's fact that says that it is over.
pub(super) fn says_over(fact: &Fact) -> bool {
    matches!(fact, Fact::Recording { recording, .. } if recording.state != RecordingState::Active)
}

impl StoreWriter {
    /// Appends a fact to every lane that can be written.
    ///
    /// # Errors
    /// It is in none.
    pub(super) fn write_fact(
        &mut self,
        number: u64,
        record: &Arc<FactRecord>,
        delivery: Option<&Arc<Delivery>>,
    ) -> Result<(), StoreError> {
        let bytes = fact_record(record)?;
        let fact =
            LaneFact { record: Arc::clone(record), delivery: delivery.cloned(), leads: true, missing: Vec::new() };
        if !self.append_everywhere(number, &bytes, &fact) {
            return Err(self.no_volume());
        }
        if says_over(&record.fact) {
            record.fact.recording().into_iter().for_each(|recording| self.end(recording));
        } else if let Fact::Recording { recording, .. } = &record.fact {
            self.begin(recording.id);
        }
        Ok(())
    }

    /// True when at least one lane has taken it. The others are owed it.
    pub(super) fn append_everywhere(&mut self, number: u64, bytes: &[u8], fact: &LaneFact) -> bool {
        let mut taken = Vec::new();
        let mut missing = Vec::new();
        for lane in 0..self.lanes.len() {
            let appended = if self.make_room(lane, bytes.len()) {
                self.journal(lane).append_raw(bytes).map_err(|error| self.fail(lane, &error)).ok()
            } else {
                None
            };
            match appended {
                Some(located) => taken.push((lane, located)),
                None => missing.push(self.lanes[lane].shared.volume.number),
            }
        }
        if taken.is_empty()
            && let Some(lane) = self.stalled_with_room(bytes.len())
        {
            match self.journal(lane).append_raw(bytes) {
                Ok(located) => {
                    missing.retain(|&volume| volume != self.lanes[lane].shared.volume.number);
                    taken.push((lane, located));
                }
                Err(error) => self.fail(lane, &error),
            }
        }
        let is_taken = !taken.is_empty();
        for (place, (lane, located)) in taken.into_iter().enumerate() {
            if let Some(delivery) = &fact.delivery {
                delivery.await_lane(lane);
            }
            let (leads, missing) = (fact.leads && place == 0, std::mem::take(&mut missing));
            self.lanes[lane].push(number, located, What::Fact(LaneFact { leads, missing, ..fact.clone() }));
        }
        is_taken
    }

    /// Facts whose recordings' audio is durable now.
    pub(super) fn release_held(&mut self) {
        if self.held.is_empty() {
            return;
        }
        let known = &self.known;
        let is_ready = |held: &Held| known.get(&held.recording).is_none_or(|known| known.outstanding == 0);
        let (ready, waiting): (VecDeque<_>, VecDeque<_>) =
            std::mem::take(&mut self.held).into_iter().partition(is_ready);
        self.held = waiting;
        for held in ready {
            match self.write_fact(held.number, &held.record, None) {
                Ok(()) => self.urgent = true,
                // Later.
                Err(_no_volume) => self.held.push_back(held),
            }
        }
    }

    pub(super) fn take_submissions(&mut self) {
        for _ in 0..SUBMISSIONS_AT_ONCE {
            let Ok(submission) = self.submissions.try_recv() else { return };
            let record = match submission.fact {
                Submitted::New(fact) => FactRecord { sequence: self.draw_sequence(), fact },
                Submitted::Again(record) => record,
            };
            let number = self.draw_number();
            match self.write_fact(number, &Arc::new(record), submission.delivery.as_ref()) {
                Ok(()) => self.urgent = true,
                Err(error) => {
                    tracing::error!(%error, "a fact was not written");
                    let refusal = match error {
                        StoreError::Log(LogError::TooLong { .. }) => Refusal::TooLong,
                        _ => Refusal::NoVolume,
                    };
                    submission.delivery.inspect(|delivery| delivery.resolve(Err(refusal)));
                }
            }
        }
        // There may be more.
        self.urgent = true;
    }
}
