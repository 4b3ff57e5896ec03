//! Damage in a journal before its audio was sealed: what was there is not known, only whom it may concern.

use super::{Keeper, StoreEvent};
use crate::StoreError;
use sidetone_catalog::Pending;
use sidetone_log::{Fact, VolumeNumber};
use sidetone_model::{CaptureTime, Gap, RecordingState};
use std::sync::Arc;

/// The reason of a gap that stands for audio which the store had and cannot read.
pub(super) const REASON: &str = "damaged in the store";

impl Keeper {
    /// Tells of damage that was met, and sees to it that no recording is shown as complete of which something may have lain there:
    /// those with audio in the damaged file, or without any although they need that file's volume. That may be more than were
    /// hit; a recording that goes on has a gap from its restart.
    pub(super) fn own_up(&mut self, pending: &[Pending]) -> Result<(), StoreError> {
        for damage in std::mem::take(&mut self.damaged) {
            (self.sink)(StoreEvent::JournalDamaged { volume: damage.volume, error: damage.error });
            for pending in pending {
                if self.may_be_hit(pending, damage.volume, damage.file)? {
                    self.mark_incomplete(pending)?;
                }
            }
        }
        Ok(())
    }

    fn may_be_hit(&self, pending: &Pending, volume: VolumeNumber, file: u32) -> Result<bool, StoreError> {
        if pending.state != Some(RecordingState::Complete) {
            return Ok(false);
        }
        let rows = self.shared.catalog.unsealed(pending.recording)?;
        let files = rows.iter().filter(|row| row.volume == volume).map(|row| row.located.position.file);
        let (first, last) = (files.clone().min(), files.max());
        Ok(match (first, last) {
            // Files follow each other: what lay between two pieces of it, or just before or behind them.
            (Some(first), Some(last)) => (first.saturating_sub(1)..=last.saturating_add(1)).contains(&file),
            _ => rows.is_empty() && self.shared.catalog.runs(pending.recording)?.is_empty(),
        })
    }

    fn mark_incomplete(&mut self, pending: &Pending) -> Result<(), StoreError> {
        let Some(document) = self.shared.catalog.recording(pending.recording)? else { return Ok(()) };
        if document.gaps.iter().any(|gap| gap.reason == REASON) {
            return Ok(());
        }
        let (from, to): (CaptureTime, Option<CaptureTime>) = (document.started_at, document.ended_at);
        let mut document = document;
        document.state = RecordingState::Incomplete;
        document.gaps.push(Gap { from, to, reason: REASON.to_owned() });
        tracing::error!(recording = %document.id, "part of a recording may have lain where a journal is damaged: it is incomplete");
        self.add_announcement(Fact::Recording { recording: Arc::new(document), resume: None });
        Ok(())
    }
}
