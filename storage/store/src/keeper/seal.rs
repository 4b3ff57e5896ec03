//! Audio moves from the journals into segments, a recording at a time.
//!
//! What is sealed at once is bounded by bytes. A run holds everything that the catalog has of a recording on a volume before
//! a position, and the facts that hold for it; the announcement says so, and with it the journal is not needed for that any more.

use super::segments::{Kind, NewRun, kind_of};
use super::{Keeper, StoreEvent, damage};
use crate::StoreError;
use crate::options::room_to_seal;
use crate::shared::{SharedVolume, is_fault, may_pass};
use sidetone_catalog::{ChunkLocation, HeldFact, Pending};
use sidetone_log::format::RUN_CHUNKS_MAX;
use sidetone_log::{ChunkRecord, Fact, FactRecord, FactSequence, LogPosition, Through, VolumeNumber};
use sidetone_model::{CaptureTime, Gap, Recording, RecordingId, RecordingState, Tick};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Recordings tried in one step, whatever their size.
const RECORDINGS_AT_ONCE: usize = 256;
/// A recording whose audio cannot be read is tried again after so long, then twice as long, …
const PUT_OFF: Duration = Duration::from_secs(5);
/// … so many times; then what cannot be read counts as damaged.
const ATTEMPTS: u32 = 6;

/// A run that is to be written.
struct Plan {
    recording: RecordingId,
    /// In the order of track and time.
    chunks: Vec<ChunkRecord>,
    facts: Vec<FactRecord>,
    through: Through,
    kind: Kind,
}

impl Keeper {
    /// Seals what is due. True when there is more.
    pub(super) fn seal(&mut self, pending: &[Pending], now: CaptureTime) -> Result<bool, StoreError> {
        self.report(pending, now);
        let mut usable = self.usable_volumes();
        let (mut bytes, mut recordings, mut more) = (0, 0, false);
        for pending in pending {
            if !self.is_due(pending, now) {
                continue;
            }
            if bytes >= self.shared.options.sealing.step_bytes || recordings >= RECORDINGS_AT_ONCE {
                more = true;
                break;
            }
            for volume in usable.clone() {
                if self.sealing.contains(&(pending.recording, volume)) {
                    continue;
                }
                let Some(plan) = self.plan(pending, volume, now)? else { continue };
                let plan_bytes = plan.chunks.iter().map(|chunk| chunk.bytes().len() as u64).sum::<u64>();
                match self.carry_out(plan) {
                    Ok(()) => (bytes, recordings) = (bytes + plan_bytes, recordings + 1),
                    Err(error @ StoreError::Catalog(_)) => return Err(error),
                    // Told; the volume is left alone until the next time.
                    Err(_) => usable.retain(|&usable| usable != volume),
                }
            }
        }
        self.segments.flush_all();
        self.announce_runs();
        Ok(more)
    }

    /// Runs that have become durable are announced; those that are lost can be written again.
    pub(super) fn announce_runs(&mut self) {
        for NewRun { recording, run, .. } in self.segments.take_lost() {
            self.sealing.remove(&(recording, run.volume));
        }
        for NewRun { recording, run, through } in self.segments.take_durable() {
            self.add_announcement(Fact::Sealed { recording, run, through: vec![through] });
        }
        self.announce();
    }

    /// Volumes whose segments can be written. With their last reserve only while there is room for what that takes: a run takes its
    /// room twice until the journal files go, which is the way out of the reserve.
    fn usable_volumes(&mut self) -> Vec<VolumeNumber> {
        let volumes: Vec<_> = self
            .shared
            .volumes
            .iter()
            .filter(|volume| self.has_room_to_seal(volume))
            .map(|volume| volume.volume.number)
            .collect();
        let logs = &self.logs;
        let segments = &mut self.segments;
        let is_usable =
            |volume: &VolumeNumber| logs.volume(*volume).is_ok_and(|logs| segments.is_usable(*volume, &logs.segments));
        volumes.into_iter().filter(is_usable).collect()
    }

    pub(super) fn has_room_to_seal(&self, volume: &SharedVolume) -> bool {
        let state = volume.state();
        let room = room_to_seal(&self.shared.options, volume.total_bytes.load(Ordering::Relaxed));
        state.takes_audio() || state.takes_facts() && volume.free_bytes.load(Ordering::Relaxed) >= room
    }

    fn is_due(&self, pending: &Pending, now: CaptureTime) -> bool {
        let Some(first_tick) = pending.first_tick else { return false };
        if self.put_off.get(&pending.recording).is_some_and(|(until, _)| now < *until) {
            return false;
        }
        let is_over = pending.state.is_some_and(|state| state != RecordingState::Active);
        is_over || now.since(first_tick.start()) >= self.shared.options.sealing.running_after
    }

    /// What of a recording can be sealed on a volume; `None` when that is nothing.
    fn plan(&mut self, pending: &Pending, volume: VolumeNumber, now: CaptureTime) -> Result<Option<Plan>, StoreError> {
        let recording = pending.recording;
        let held = self.shared.catalog.facts(recording)?;
        let mut rows = self.rows(recording, volume)?;
        if rows.is_empty() {
            return Ok(None);
        }
        let end = self.seal_until(pending, volume, &held);
        rows.retain(|row| row.located.position < end);
        if rows.is_empty() {
            // The newest fact lies before all of it.
            self.renew(recording, volume, &held, now);
            return Ok(None);
        }
        rows.sort_by_key(|row| row.located.position);
        let mut through = end;
        let mut room = self.shared.options.sealing.step_bytes;
        let fits = rows.iter().take(RUN_CHUNKS_MAX).take_while(|row| {
            let fits = room > 0;
            room = room.saturating_sub(u64::from(row.located.length));
            fits
        });
        let fits = fits.count();
        if let Some(next) = rows.get(fits) {
            through = next.located.position;
            rows.truncate(fits);
        }
        let Some((mut chunks, damaged)) = self.read(recording, volume, &rows, now)? else { return Ok(None) };
        if !damaged.is_empty() && !self.is_told(pending, &held, &damaged, now) {
            return Ok(None);
        }
        chunks.sort_by_key(|chunk| (chunk.header().track, chunk.header().first_tick));
        let annotations = self.shared.catalog.annotations(recording)?;
        let facts = held.into_iter().map(|held| for_segment(held.record)).collect();
        let through = Through { volume, position: through };
        Ok(Some(Plan { recording, chunks, facts, through, kind: kind_of(volume, &annotations) }))
    }

    /// The chunks of a recording that lie in the journal of a volume. The same audio on another volume is that one's; twice on
    /// this one, the later place counts.
    pub(super) fn rows(&self, recording: RecordingId, volume: VolumeNumber) -> Result<Vec<ChunkLocation>, StoreError> {
        let mut rows = self.shared.catalog.unsealed(recording)?;
        rows.retain(|row| row.volume == volume);
        // In the order of their places: of equal ones the last is kept.
        rows.reverse();
        rows.dedup_by_key(|row| (row.track, row.first_tick));
        Ok(rows)
    }

    /// Before this position everything of the recording can be sealed. The call tracker's state of a recording that goes on is
    /// only in the journal: its newest fact stays behind.
    fn seal_until(&self, pending: &Pending, volume: VolumeNumber, held: &[HeldFact]) -> LogPosition {
        let applied = self.projection.applied(volume);
        if pending.state != Some(RecordingState::Active) {
            return applied;
        }
        let of_document = held.iter().filter(|held| matches!(held.record.fact, Fact::Recording { .. }));
        let places = of_document.flat_map(|held| &held.places);
        places.filter(|(of, _)| *of == volume).map(|(_, position)| *position).min().unwrap_or(applied).min(applied)
    }

    /// Reads chunks in the order of the journal. `None`: not now.
    #[expect(clippy::type_complexity, reason = "what was read, and what could not be")]
    fn read(
        &mut self,
        recording: RecordingId,
        volume: VolumeNumber,
        rows: &[ChunkLocation],
        now: CaptureTime,
    ) -> Result<Option<(Vec<ChunkRecord>, Vec<ChunkLocation>)>, StoreError> {
        let attempts = self.put_off.get(&recording).map_or(0, |(_, attempts)| *attempts);
        let journal = self.logs.volume(volume)?.journal.clone();
        let (mut chunks, mut damaged) = (Vec::with_capacity(rows.len()), Vec::new());
        for row in rows {
            match journal.read_chunk(row.located) {
                Ok(chunk) => chunks.push(chunk),
                Err(error) if may_pass(&error) || is_fault(&error) && attempts < ATTEMPTS => {
                    tracing::error!(%recording, %error, "audio cannot be read from the journal; it is tried again");
                    self.shared.keeper().seal_failures += 1;
                    let until = now.saturating_add(PUT_OFF * (1 << attempts.min(ATTEMPTS)));
                    self.put_off.insert(recording, (until, attempts + 1));
                    return Ok(None);
                }
                Err(error) => {
                    tracing::error!(%recording, %error, "audio is damaged in the journal");
                    damaged.push(*row);
                }
            }
        }
        Ok(Some((chunks, damaged)))
    }

    /// Whether the recording's document says that this audio is damaged, so that it can be left behind: a recording whose audio
    /// is damaged is not whole, and must say so before anything is forgotten. If not, sees to it.
    fn is_told(&mut self, pending: &Pending, held: &[HeldFact], damaged: &[ChunkLocation], now: CaptureTime) -> bool {
        let document = held.iter().find_map(|held| match &held.record.fact {
            Fact::Recording { recording, .. } => Some(recording),
            _ => None,
        });
        // Audio that no document tells of is whole in nobody's eyes.
        let Some(document) = document else {
            self.shared.keeper().damaged_chunks += damaged.len() as u64;
            return true;
        };
        let spans = damaged.iter().map(|chunk| (chunk.first_tick, Tick(chunk.first_tick.0 + u64::from(chunk.ticks))));
        let missing: Vec<Gap> =
            damage::gaps(spans.collect()).into_iter().filter(|gap| !document.gaps.contains(gap)).collect();
        let is_active = document.state == RecordingState::Active;
        if missing.is_empty() && !is_active {
            return true;
        }
        let (_, attempts) = self.put_off.get(&pending.recording).copied().unwrap_or((now, 0));
        // The document of a recording that goes on is the engine's.
        let wait =
            if is_active { self.shared.options.sealing.running_after } else { self.shared.options.sealing.interval };
        self.put_off.insert(pending.recording, (now.saturating_add(wait), attempts));
        let is_on_its_way = self.announcements.iter().any(|announcement| {
            matches!(&announcement.fact, Fact::Recording { recording, .. } if recording.id == pending.recording)
        });
        if !is_active && !is_on_its_way {
            let chunks = damaged.len() as u64;
            self.shared.keeper().damaged_chunks += chunks;
            (self.sink)(StoreEvent::AudioDamaged { recording: pending.recording, chunks });
            let mut document = Recording::clone(document);
            document.state = RecordingState::Incomplete;
            document.gaps.extend(missing);
            self.add_announcement(Fact::Recording { recording: Arc::new(document), resume: None });
        }
        false
    }

    /// Writes a run, which is not durable yet.
    fn carry_out(&mut self, plan: Plan) -> Result<(), StoreError> {
        let Plan { recording, chunks, facts, through, kind } = plan;
        if chunks.is_empty() {
            // Nothing of it can be read.
            return self.copy_facts(&kind, &[(recording, facts)], through);
        }
        let document = facts.iter().find_map(|record| match &record.fact {
            Fact::Recording { recording, .. } => Some(recording),
            _ => None,
        });
        let tables = document.map_or_else(Vec::new, |document| (self.make_tables)(document, &chunks));
        let run = match self.segments.append_run(&kind, (recording, &facts), chunks, through, tables) {
            Ok(run) => run,
            Err(StoreError::Log(error)) if !is_fault(&error) => {
                tracing::error!(%recording, %error, "a recording cannot be sealed; its journal files stay");
                self.put_off.insert(recording, (CaptureTime(u64::MAX), ATTEMPTS));
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        self.put_off.remove(&recording);
        self.sealing.insert((recording, run.volume));
        let mut statistics = self.shared.keeper();
        statistics.sealed_runs += 1;
        statistics.sealed_chunks += u64::from(run.chunks);
        statistics.sealed_bytes += run.length;
        Ok(())
    }

    fn report(&self, pending: &[Pending], now: CaptureTime) {
        let mut statistics = self.shared.keeper();
        statistics.pending_recordings = pending.len() as u64;
        statistics.unsealed_bytes = pending.iter().map(|pending| pending.unsealed_bytes).sum();
        let oldest = pending.iter().filter_map(|pending| pending.first_tick).min();
        statistics.unsealed_seconds_max = oldest.map_or(0, |tick| now.since(tick.start()).as_secs());
    }
}

/// A fact as it goes into a segment. The document of a recording that goes on is there without the call tracker's state: it has
/// a sequence of its own, just before that of the whole.
pub(super) fn for_segment(record: FactRecord) -> FactRecord {
    match &record.fact {
        Fact::Recording { recording, .. } if recording.state == RecordingState::Active => {
            FactRecord { sequence: FactSequence(record.sequence.0.saturating_sub(1)), ..record }
        }
        _ => record,
    }
}
