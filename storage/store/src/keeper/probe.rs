//! A look at the volumes: how much space they have, and whether those that failed can be written again.

use super::{Keeper, segments};
use crate::StoreError;
use crate::VolumeState;
use crate::description::{STORE_FILE, VolumeDescription};
use crate::recover::{Orphans, open_journal, unannounced_runs};
use crate::shared::SharedVolume;
use crate::space::Thresholds;
use sidetone_log::{SegmentNumber, VolumeNumber, close_left_open};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Segments whose size is asked for in one probe.
const SIZES_AT_ONCE: usize = 1000;
/// Written and removed again, to see whether a volume can be written.
const PROBE_FILE: &str = "probe";

impl Keeper {
    pub(super) fn probe(&mut self) {
        self.projection.try_unreadable();
        self.reopen_catalog();
        for index in 0..self.shared.volumes.len() {
            let volume = Arc::clone(&self.shared.volumes[index]);
            if volume.fault() == VolumeState::Stalled {
                // To ask it anything would be to wait for it.
                continue;
            }
            look_at_space(&self.shared, &volume);
            match volume.fault() {
                state @ (VolumeState::Full | VolumeState::Failed | VolumeState::Missing) => {
                    if state != VolumeState::Full {
                        self.segments.let_go(volume.volume.number);
                        self.shared.files.forget(&volume.volume.directory);
                    }
                    if let Err(error) = self.try_again(index, &volume) {
                        tracing::debug!(volume = volume.volume.number.0, %error, "a volume still cannot be written");
                    }
                }
                _ => {
                    if self.has_journal[index] && !self.segments.has_begun(volume.volume.number) {
                        self.look_for_orphans(volume.volume.number);
                    }
                    self.measure(&volume);
                }
            }
        }
        self.tell_volume_states();
    }

    /// The segments of a volume could not be read when it was opened: nothing is sealed there until they can be.
    fn look_for_orphans(&mut self, volume: VolumeNumber) {
        let found = self.logs.clone().volume(volume).and_then(|logs| unannounced_runs(&self.shared, logs));
        match found {
            Ok(Orphans { runs, next, left_open }) => {
                self.take_over(volume, next, left_open);
                runs.into_iter().for_each(|fact| self.adopt(fact));
            }
            Err(error) => {
                tracing::error!(volume = volume.0, %error, "the segments of a volume still cannot be read: nothing is sealed there");
                self.shared.keeper().seal_failures += 1;
            }
        }
    }

    /// Finds out whether a volume that failed can be written, and lets the writer have it.
    fn try_again(&mut self, index: usize, shared: &Arc<SharedVolume>) -> Result<(), StoreError> {
        let volume = &shared.volume;
        let io = &*self.shared.io;
        // Where its file system is not mounted, another one would be written to.
        if volume.number == VolumeNumber(0) {
            let path = volume.directory.join(STORE_FILE);
            io.size(&path).map_err(|source| StoreError::io("inspect", path, source))?;
        } else if VolumeDescription::read(io, &volume.directory)?.is_none_or(|found| found.volume_id != volume.id) {
            return Err(StoreError::VolumeMissing { volume: volume.number });
        }
        let path = volume.directory.join(PROBE_FILE);
        io.write_small(&path, &[0; 4096]).map_err(|source| StoreError::io("write", &path, source))?;
        io.remove(&path).map_err(|source| StoreError::io("remove", &path, source))?;
        // Files of a device that was away are not those that are open.
        self.shared.files.forget(&volume.directory);
        if self.has_journal[index] {
            shared.may_retry.store(true, Ordering::Release);
            return Ok(());
        }
        if self.projection.is_failing() {
            return Ok(());
        }
        // It was away since the store was opened.
        // What can be read is read before the journal is opened, which begins a file each time.
        self.read_volume(volume.number)?;
        shared.unread.store(false, Ordering::Release);
        let Orphans { runs, next, left_open } = unannounced_runs(&self.shared, self.logs.volume(volume.number)?)?;
        let journal = open_journal(&self.shared, shared)?;
        self.reach(volume.number, journal.durable())?;
        self.take_over(volume.number, next, left_open);
        for fact in runs {
            self.adopt(fact);
        }
        self.has_journal[index] = true;
        // Not used yet: it stays in its state until the writer has it.
        if self.revived.try_send((index, journal)).is_err() {
            self.has_journal[index] = false;
        }
        Ok(())
    }

    /// What a volume holds, for the statistics.
    fn measure(&mut self, shared: &SharedVolume) {
        let number = shared.volume.number;
        let Ok(logs) = self.logs.volume(number) else { return };
        let (Ok((journal_files, journal_bytes)), Ok(segments)) = (logs.journal.sizes(), logs.segments.segments())
        else {
            return;
        };
        let newest = segments.last().map_or(0, |last| last.0);
        let mut asked = 0;
        let mut segment_bytes = 0;
        for &segment in &segments {
            let grows = segment.0 + segments::OPEN_SPAN > newest;
            if let Some(bytes) = self.sizes.get(&(number, segment)).filter(|_| !grows) {
                segment_bytes += bytes;
                continue;
            }
            asked += usize::from(!grows);
            if asked > SIZES_AT_ONCE {
                continue;
            }
            let Ok(size) = self.shared.io.size(&logs.segments.path(segment)) else { continue };
            segment_bytes += size.allocated_bytes;
            if !grows {
                self.sizes.insert((number, segment), size.allocated_bytes);
            }
        }
        let mut details = shared.details();
        (details.journal_files, details.journal_bytes) = (journal_files, journal_bytes);
        (details.segment_files, details.segment_bytes) = (segments.len() as u64, segment_bytes);
    }

    /// Closes what is full, or everything, and one of those that an earlier process has left.
    pub(super) fn close_segments(&mut self, all: bool) {
        let unclosed = self.segments.close(all);
        self.announce_runs();
        self.left_open.extend(unclosed);
        let of_writable = |(volume, _): &(VolumeNumber, SegmentNumber)| {
            self.shared.volume(*volume).is_some_and(|volume| volume.fault().takes_facts())
        };
        // Only when everything in it is announced.
        let Some(at) = self.left_open.iter().position(of_writable).filter(|_| self.announcements.is_empty()) else {
            return;
        };
        let (volume, segment) = self.left_open.swap_remove(at);
        let Ok(logs) = self.logs.volume(volume) else { return };
        let at_least = match self.shared.catalog.segment_end(volume, segment) {
            Ok(end) => end,
            Err(error) => {
                self.left_open.push((volume, segment));
                return self.on_catalog_error(&error.into());
            }
        };
        match close_left_open(&logs.segments, segment, at_least, &self.shared.options.segments) {
            Ok(_) => self.shared.keeper().segments_closed += 1,
            Err(error) => {
                tracing::error!(volume = volume.0, segment = segment.0, %error, "a segment could not be closed; it is tried again");
                self.left_open.push((volume, segment));
            }
        }
    }

    /// Segments of a volume that opening has found.
    pub(crate) fn take_over(&mut self, volume: VolumeNumber, next: SegmentNumber, left_open: Vec<SegmentNumber>) {
        self.segments.begin_with(volume, next);
        self.left_open.extend(left_open.into_iter().map(|segment| (volume, segment)));
    }

    /// Announces a run that a crash has left unannounced.
    pub(crate) fn adopt(&mut self, fact: sidetone_log::Fact) {
        if let sidetone_log::Fact::Sealed { recording, run, .. } = &fact {
            tracing::warn!(%recording, volume = run.volume.0, segment = run.segment.0, "a run is announced that a crash has left");
            self.sealing.insert((*recording, run.volume));
            self.shared.keeper().adopted_runs += 1;
        }
        self.add_announcement(fact);
    }

    /// Per volume, whether the writer has its journal.
    pub(crate) fn has_journals(&mut self, which: Vec<bool>) {
        self.has_journal = which;
    }
}

/// Asks how much space a volume has, and what that means.
pub(crate) fn look_at_space(shared: &crate::shared::Shared, volume: &SharedVolume) {
    if volume.fault() == VolumeState::Missing {
        return;
    }
    match shared.io.space(&volume.volume.directory) {
        Ok(space) => {
            volume.free_bytes.store(space.free_bytes, Ordering::Relaxed);
            volume.total_bytes.store(space.total_bytes, Ordering::Relaxed);
            let thresholds = Thresholds::of_volume(&shared.options, space.total_bytes);
            volume.set_space(thresholds.state(space.free_bytes, volume.space()));
        }
        // Its journal will tell what is wrong with it.
        Err(error) => {
            tracing::debug!(volume = volume.volume.number.0, %error, "cannot ask for the space of a volume");
        }
    }
}
