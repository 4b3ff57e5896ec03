//! Audio that the store had and has not any more, and the recordings that are not whole because of it. Of damage in a journal before its
//! audio was sealed it is not known what was there, only whom it may concern.

use super::{Keeper, StoreEvent};
use crate::StoreError;
use crate::catch_up::Damage;
use sidetone_catalog::Pending;
use sidetone_log::Fact;
use sidetone_model::{CaptureTime, Gap, Recording, RecordingId, RecordingState, Tick};
use std::sync::Arc;

/// The reason of a gap that stands for audio which the store had and cannot read.
pub(crate) const REASON: &str = "damaged in the store";

impl Keeper {
    /// Tells of damage that was met, and sees to it that no recording is shown as complete of which something may have lain there:
    /// those with audio near it in that journal, or none in it although it may have been there. That may be more than were hit.
    /// Damage is remembered until the recordings that were going on when it was met are over.
    pub(crate) fn own_up(&mut self, pending: &[Pending]) -> Result<(), StoreError> {
        let damaged = std::mem::take(&mut self.damaged);
        for (place, damage) in damaged.iter().enumerate() {
            let told_at = damage.told_at.unwrap_or_else(|| self.shared.io.now());
            match self.own_up_to(damage, told_at, pending) {
                Ok(true) => self.damaged.push(Damage { told_at: Some(told_at), ..damage.clone() }),
                Ok(false) => {}
                Err(error) => {
                    self.damaged.extend_from_slice(&damaged[place..]);
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Whether it may concern recordings that are not over.
    fn own_up_to(&mut self, damage: &Damage, told_at: CaptureTime, pending: &[Pending]) -> Result<bool, StoreError> {
        if damage.told_at.is_none() {
            (self.sink)(StoreEvent::JournalDamaged { volume: damage.volume, error: damage.error.clone() });
        }
        let mut goes_on = false;
        for pending in pending {
            let Some(document) = self.shared.catalog.recording(pending.recording)? else { continue };
            if document.started_at > told_at {
                continue;
            }
            match document.state {
                RecordingState::Active => goes_on = true,
                RecordingState::Complete if self.may_be_hit(pending.recording, damage)? => {
                    self.mark_incomplete(document);
                }
                _ => {}
            }
        }
        Ok(goes_on)
    }

    fn may_be_hit(&self, recording: RecordingId, damage: &Damage) -> Result<bool, StoreError> {
        let rows = self.shared.catalog.unsealed(recording)?;
        let files = rows.iter().filter(|row| row.volume == damage.volume).map(|row| row.located.position.file);
        Ok(match (files.clone().min(), files.max()) {
            // Files follow each other: what lay between two pieces of it, or just before or behind them.
            (Some(first), Some(last)) => (first.saturating_sub(1)..=last.saturating_add(1)).contains(&damage.file),
            _ => true,
        })
    }

    fn mark_incomplete(&mut self, mut document: Recording) {
        let is_on_its_way = |announcement: &super::Announcement| matches!(&announcement.fact, Fact::Recording { recording, .. } if recording.id == document.id);
        if document.gaps.iter().any(|gap| gap.reason == REASON) || self.announcements.iter().any(is_on_its_way) {
            return;
        }
        let (from, to) = (document.started_at, document.ended_at);
        document.state = RecordingState::Incomplete;
        document.gaps.push(Gap { from, to, reason: REASON.to_owned() });
        tracing::error!(recording = %document.id, "part of a recording may have lain where a journal is damaged: it is incomplete");
        self.add_announcement(Fact::Recording { recording: Arc::new(document), resume: None });
    }
    /// Audio of a recording is gone for good: one that is over is not whole any more. True when it has to be written so. What goes on is
    /// the engine's, which will not call it whole.
    pub(crate) fn has_lost(&mut self, recording: RecordingId, lost: &[Gap]) -> Result<bool, StoreError> {
        let Some(mut document) = self.shared.catalog.recording(recording)? else { return Ok(false) };
        let is_told =
            document.state == RecordingState::Incomplete && lost.iter().all(|gap| document.gaps.contains(gap));
        if document.state == RecordingState::Active || is_told {
            return Ok(false);
        }
        document.state = RecordingState::Incomplete;
        document.gaps.extend(lost.iter().filter(|gap| !document.gaps.contains(gap)).cloned().collect::<Vec<_>>());
        self.add_announcement(Fact::Recording { recording: Arc::new(document), resume: None });
        Ok(true)
    }
}

/// What a recording's document says of audio that is gone: spans that touch each other together.
pub(crate) fn gaps(mut spans: Vec<(Tick, Tick)>) -> Vec<Gap> {
    spans.sort_unstable();
    let mut merged: Vec<(Tick, Tick)> = Vec::new();
    for (from, to) in spans {
        match merged.last_mut() {
            Some((_, end)) if from <= *end => *end = to.max(*end),
            _ => merged.push((from, to)),
        }
    }
    let gap = |(from, to): (Tick, Tick)| Gap { from: from.start(), to: Some(to.start()), reason: REASON.to_owned() };
    merged.into_iter().map(gap).collect()
}
