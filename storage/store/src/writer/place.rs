//! Which volume a recording's audio goes to, and what is remembered of recordings.

use super::{Known, StoreWriter};
use crate::lane::Lane;
use crate::placement::{Candidate, place_new, place_running};
use crate::{StoreError, VolumeState};
use sidetone_model::{CaptureTime, RecordingId};
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How long to sleep while a device is at work; simulated ones work while they are asked.
pub(super) const NAP: Duration = if cfg!(test) { Duration::ZERO } else { Duration::from_micros(100) };
/// Recordings whose end never came are forgotten when nothing was heard of them for so long.
const FORGET_AFTER: Duration = Duration::from_secs(6 * 3600);
const FORGET_INTERVAL: Duration = Duration::from_secs(60);

impl StoreWriter {
    /// The lane that a recording's audio goes to.
    pub(super) fn place(&mut self, recording: RecordingId) -> Result<usize, StoreError> {
        let now = self.shared.io.now();
        let takes_audio = |lane: &Lane| lane.is_writable() && lane.shared.state().takes_audio();
        let known = self.known.get_mut(&recording);
        let is_running = match known {
            Some(known) => {
                known.touched = now;
                match known.lane {
                    Some(lane) if takes_audio(&self.lanes[lane]) => return Ok(lane),
                    lane => lane.is_some() || known.running,
                }
            }
            None => false,
        };
        let candidates =
            self.lanes.iter().enumerate().filter(|(_, lane)| lane.is_writable()).map(|(_, lane)| Candidate {
                volume: lane.shared.volume.number,
                state: lane.shared.state(),
                free_bytes: lane.shared.free_bytes.load(Ordering::Relaxed),
                recordings: lane.shared.recordings.load(Ordering::Relaxed),
            });
        let volume = if is_running { place_running(candidates) } else { place_new(candidates) };
        let Some(lane) =
            volume.and_then(|volume| self.lanes.iter().position(|lane| lane.shared.volume.number == volume))
        else {
            let states = self.shared.states();
            return Err(if is_running || !self.takes_audio() {
                StoreError::NoVolumeForAudio { states }
            } else {
                StoreError::NoVolumeForNew { states }
            });
        };
        self.assign(recording, lane, now);
        Ok(lane)
    }

    /// A volume that does not answer, and has room in memory for a record: where it goes when no volume answers.
    pub(super) fn stalled_with_room(&self, bytes: usize) -> Option<usize> {
        self.lanes.iter().position(|lane| {
            lane.shared.fault() == VolumeState::Stalled
                && lane.journal.as_ref().is_some_and(|journal| !journal.has_failed() && journal.takes(bytes))
        })
    }

    /// Where a chunk goes: to the volume of its recording, when that takes it.
    pub(super) fn find_room(&mut self, recording: RecordingId, bytes: usize) -> Result<usize, StoreError> {
        loop {
            let error = match self.place(recording) {
                Ok(lane) if self.make_room(lane, bytes) => return Ok(lane),
                Ok(_) => continue,
                Err(error) => error,
            };
            if let Some(lane) = self.stalled_with_room(bytes) {
                self.assign(recording, lane, self.shared.io.now());
                return Ok(lane);
            }
            match error {
                StoreError::NoVolumeForNew { .. } => self.statistics.chunks_refused_new += 1,
                _ => self.statistics.chunks_refused += 1,
            }
            return Err(error);
        }
    }

    pub(super) fn assign(&mut self, recording: RecordingId, lane: usize, now: CaptureTime) {
        let new = Known { lane: None, outstanding: 0, over: false, running: false, touched: now };
        let before = self.known.entry(recording).or_insert(new).lane.replace(lane);
        self.count_placed(before, -1);
        self.count_placed(Some(lane), 1);
    }

    pub(super) fn count_placed(&self, lane: Option<usize>, by: i64) {
        if let Some(lane) = lane {
            self.lanes[lane].shared.recordings.fetch_add(by as u64, Ordering::Relaxed);
        }
    }

    /// Waits until a lane takes a record without waiting for its device more than for a new file. False when it cannot be
    /// waited for: it has failed, or does not answer.
    pub(super) fn make_room(&mut self, lane: usize, bytes: usize) -> bool {
        loop {
            let Some(journal) = self.lanes[lane].journal.as_ref().filter(|_| self.lanes[lane].is_writable()) else {
                return false;
            };
            // With nothing in the buffers only the file can be full: appending begins the next one.
            if journal.takes(bytes) || !self.lanes[lane].has_backlog() {
                return true;
            }
            let now = self.shared.io.monotonic();
            self.lanes[lane].begin_flush(now);
            self.poll_lane(lane);
            if self.lanes[lane].is_flushing() {
                std::thread::sleep(NAP);
            }
        }
    }

    /// A recording goes on from now on, also where one that begins later is refused.
    pub(super) fn begin(&mut self, recording: RecordingId) {
        let touched = self.shared.io.now();
        let new = Known { lane: None, outstanding: 0, over: false, running: true, touched };
        self.known.entry(recording).or_insert(new);
    }

    /// A recording's last fact is written.
    pub(super) fn end(&mut self, recording: RecordingId) {
        if let Some(known) = self.known.get_mut(&recording) {
            known.over = true;
            if known.outstanding == 0 {
                self.drop_known(recording);
            }
        }
    }

    pub(super) fn drop_known(&mut self, recording: RecordingId) {
        if let Some(known) = self.known.remove(&recording) {
            self.count_placed(known.lane, -1);
        }
    }

    /// Recordings whose end never came.
    pub(super) fn forget(&mut self, now: CaptureTime) {
        if now.since(self.forgot_at) < FORGET_INTERVAL {
            self.forgot_at = self.forgot_at.min(now);
            return;
        }
        self.forgot_at = now;
        let is_stale = |known: &Known| known.outstanding == 0 && now.since(known.touched) > FORGET_AFTER;
        let stale: Vec<RecordingId> =
            self.known.iter().filter(|(_, known)| is_stale(known)).map(|(&recording, _)| recording).collect();
        for recording in stale {
            self.drop_known(recording);
        }
    }
}
