//! Journal files that nothing needs any more are removed, and what little holds one back is moved out of it.
//!
//! Facts that are in no segment are copied there, on every volume that has them in its journal; with them the roots of the
//! runs on other volumes, so that each volume can tell what there was. Facts of recordings that go on are written to the
//! journal again instead, as they are: they change too often to be copied, and the call tracker's state is in no segment.

use super::Keeper;
use super::segments::{Kind, kind_of, kind_of_facts};
use crate::StoreError;
use crate::logs::VolumeLogs;
use crate::sabotage::Sabotage;
use sidetone_catalog::{Changes, HeldFact, Pending};
use sidetone_log::{Content, FactRecord, KnownEnd, LogPosition, Through, VolumeNumber};
use sidetone_model::{CaptureTime, RecordingId, RecordingState};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Recordings whose facts are moved in one step.
const RECORDINGS_AT_ONCE: usize = 512;
/// A fact that was written again is not written once more before.
const RENEW_AGAIN: Duration = Duration::from_secs(60);

impl Keeper {
    /// Removes what can go, and frees what can go next. True when there is more to do.
    pub(super) fn retire(&mut self, pending: &[Pending], now: CaptureTime) -> Result<bool, StoreError> {
        if self.shared.retirement_holds.load(Ordering::Acquire) > 0 {
            return Ok(false);
        }
        self.renewed.retain(|_, at| now >= *at && now.since(*at) < RENEW_AGAIN);
        let mut more = false;
        for index in 0..self.shared.volumes.len() {
            let shared = &self.shared.volumes[index];
            if !shared.fault().takes_facts() {
                continue;
            }
            let volume = shared.volume.number;
            let logs = self.logs.clone();
            let logs = logs.volume(volume)?;
            let files = match logs.journal.files() {
                Ok(files) => files,
                Err(error) => {
                    tracing::error!(volume = volume.0, %error, "the journal of a volume cannot be listed; its files stay");
                    continue;
                }
            };
            let applied = self.projection.applied(volume);
            let Some(&first) = files.first().filter(|&&first| first < applied.file) else { continue };
            let needed =
                pending.iter().filter_map(|pending| oldest(pending, volume)).map(|position| position.file).min();
            let needed = match self.shared.is_sabotaged(Sabotage::RetireNeeded) {
                true => applied.file,
                false => needed.map_or(applied.file, |needed| needed.min(applied.file)),
            };
            if needed > first {
                let files: Vec<u32> = files.into_iter().take_while(|&file| file < needed).collect();
                self.remove(logs, &files)?;
            }
            if needed < applied.file && self.has_room_to_seal(&Arc::clone(&self.shared.volumes[index])) {
                more |= self.free(volume, needed, applied, pending, now)?;
            }
        }
        Ok(more)
    }

    /// Removes journal files, lowest first: whenever that is interrupted, what is left has no gap.
    fn remove(&mut self, logs: &VolumeLogs, files: &[u32]) -> Result<(), StoreError> {
        if !self.shared.is_sabotaged(Sabotage::RetireBeforePersist) {
            self.shared.catalog.persist()?;
        }
        let io = &*self.shared.io;
        for &file in files {
            if self.shared.retirement_holds.load(Ordering::Acquire) > 0 {
                return Ok(());
            }
            let path = logs.journal.path(file);
            let bytes = io.size(&path).map_or(0, |size| size.allocated_bytes);
            let removed = io.remove(&path).and_then(|()| io.sync_directory(&logs.volume.journal()));
            // Open, it would still take its space.
            self.logs.files.forget(&path);
            if let Err(error) = removed {
                tracing::error!(path = %path.display(), %error, "a journal file that is not needed cannot be removed");
                return Ok(());
            }
            let mut statistics = self.shared.keeper();
            statistics.retired_files += 1;
            statistics.retired_bytes += bytes;
        }
        Ok(())
    }

    /// Moves facts out of file `first`, the oldest that is needed. True when something was moved.
    fn free(
        &mut self,
        volume: VolumeNumber,
        first: u32,
        applied: LogPosition,
        pending: &[Pending],
        now: CaptureTime,
    ) -> Result<bool, StoreError> {
        let mut groups: BTreeMap<Kind, Vec<(RecordingId, Vec<FactRecord>)>> = BTreeMap::new();
        let holding =
            pending.iter().filter(|pending| oldest(pending, volume).is_some_and(|oldest| oldest.file == first));
        for pending in holding.take(RECORDINGS_AT_ONCE) {
            let recording = pending.recording;
            let held = self.shared.catalog.facts(recording)?;
            let here: Vec<&HeldFact> = held.iter().filter(|held| place(held, volume).is_some()).collect();
            if here.is_empty() {
                continue;
            }
            if pending.state == Some(RecordingState::Active) {
                let in_first: Vec<HeldFact> = held
                    .iter()
                    .filter(|held| place(held, volume).is_some_and(|at| at.file == first))
                    .cloned()
                    .collect();
                self.renew(recording, volume, &in_first, now);
                continue;
            }
            if pending.unsealed_chunks > 0 && self.is_to_be_sealed(pending, volume)? {
                continue;
            }
            let is_about_none = recording.0.is_nil();
            let (kind, mut records) = if is_about_none {
                (kind_of_facts(volume), here.into_iter().map(|held| held.record.clone()).collect())
            } else {
                let kind = kind_of(volume, &self.shared.catalog.annotations(recording)?);
                (kind, held.iter().map(|held| held.record.clone()).collect::<Vec<_>>())
            };
            records.extend(self.roots(recording, volume)?);
            groups.entry(kind).or_default().push((recording, records));
        }
        let moved = !groups.is_empty();
        let logs = self.logs.clone();
        if moved && !self.segments.is_usable(volume, &logs.volume(volume)?.segments) {
            return Ok(false);
        }
        for (kind, group) in groups {
            match self.copy_facts(&kind, &group, Through { volume, position: applied }) {
                Ok(()) => {}
                Err(error @ StoreError::Catalog(_)) => return Err(error),
                // Told; there is another time.
                Err(_) => return Ok(false),
            }
        }
        Ok(moved)
    }

    /// Copies facts into a segment, and notes in the catalog that they are there.
    pub(super) fn copy_facts(
        &mut self,
        kind: &Kind,
        group: &[(RecordingId, Vec<FactRecord>)],
        through: Through,
    ) -> Result<(), StoreError> {
        let mut changes = Changes::default();
        let records: Vec<FactRecord> = group.iter().flat_map(|(_, records)| records.iter().cloned()).collect();
        // Of nothing, no segment is begun, and none is said to be there.
        if !records.is_empty() && !self.shared.is_sabotaged(Sabotage::SettleWithoutCopy) {
            let (segment, end) = self.segments.append_facts(kind, &records)?;
            changes.segment_durable(kind.0, segment, end);
        }
        self.shared.keeper().facts_copied += records.len() as u64;
        for (recording, _) in group {
            changes.settle(*recording, through);
        }
        self.shared.catalog.apply(&changes, &[])?;
        Ok(())
    }

    /// Audio of the recording will be copied together with its facts, or elsewhere: then its root is to go with the facts.
    fn is_to_be_sealed(&self, pending: &Pending, volume: VolumeNumber) -> Result<bool, StoreError> {
        let rows = self.shared.catalog.unsealed(pending.recording)?;
        let can_be_read = |of: VolumeNumber| self.shared.volume(of).is_some_and(|of| of.fault().takes_facts());
        Ok(rows.iter().any(|row| row.volume == volume || can_be_read(row.volume)))
    }

    /// Writes the facts of a recording that goes on to the journals again, as they are.
    pub(super) fn renew(&mut self, recording: RecordingId, volume: VolumeNumber, held: &[HeldFact], now: CaptureTime) {
        for held in held {
            let key = (recording, held.record.sequence);
            let Some(position) = place(held, volume).filter(|_| !self.renewed.contains_key(&key)) else { continue };
            let Some(record) = self.as_logged(volume, position, held) else { continue };
            match self.submit_again(record) {
                Ok(()) => {
                    self.renewed.insert(key, now);
                    self.shared.keeper().facts_renewed += 1;
                }
                // There is another time.
                Err(error) => tracing::debug!(%recording, %error, "a fact is not written again yet"),
            }
        }
    }

    /// A fact with everything that the log has of it: the catalog gives documents without the call tracker's state. `None` while
    /// it cannot be read.
    fn as_logged(&self, volume: VolumeNumber, position: LogPosition, held: &HeldFact) -> Option<FactRecord> {
        let end = KnownEnd::At(self.projection.applied(volume));
        let entry = self.logs.volume(volume).ok()?.journal.scan(position, end).ok()?.next()?;
        match entry.map(|entry| entry.content) {
            Ok(Content::Fact(record)) if record.sequence == held.record.sequence => Some(record),
            Err(error) if !error.is_damage() => None,
            // Damaged there. The catalog has the state, as long as it lives.
            _ => Some(held.record.clone()),
        }
    }
}

fn oldest(pending: &Pending, volume: VolumeNumber) -> Option<LogPosition> {
    pending.oldest.iter().find(|(of, _)| *of == volume).map(|(_, position)| *position)
}

fn place(held: &HeldFact, volume: VolumeNumber) -> Option<LogPosition> {
    held.places.iter().find(|(of, _)| *of == volume).map(|(_, position)| *position)
}
