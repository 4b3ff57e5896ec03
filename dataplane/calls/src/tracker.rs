//! The tracker's inputs and questions.

use crate::{
    Command, FinishAll, RestoreError, StreamGone, StreamSighting, TrackReport, TrackerConfig, TrackerStatistics,
    UnclaimedStream,
};
use sidetone_model::{CaptureTime, Recording};
use sidetone_signalling::event::CallEvent;

pub struct Tracker {
    config: TrackerConfig,
    recordings: Vec<Recording>,
    statistics: TrackerStatistics,
    unclaimed: Vec<UnclaimedStream>,
}

impl Tracker {
    pub fn new(config: TrackerConfig) -> Self {
        Self { config, recordings: Vec::new(), statistics: TrackerStatistics::default(), unclaimed: Vec::new() }
    }

    /// What signalling says.
    pub fn on_event(&mut self, _event: &CallEvent, _out: &mut Vec<Command>) {}

    /// A stream that nobody has claimed was seen by a receive thread.
    pub fn on_sighting(&mut self, _sighting: &StreamSighting, _out: &mut Vec<Command>) {}

    /// A stream has left its flow table.
    pub fn on_gone(&mut self, _gone: &StreamGone, _out: &mut Vec<Command>) {}

    /// What an encoder measured; `is_final` after [`Command::Finish`].
    pub fn on_report(&mut self, _report: &TrackReport, _out: &mut Vec<Command>) {}

    /// Time passes: to be called at least once a second of capture time.
    pub fn on_tick(&mut self, _now: CaptureTime, _out: &mut Vec<Command>) {}

    /// Ends every call. The final reports are to be given to [`Self::on_report`] afterwards; what is then still not
    /// saved is saved by an [`Self::on_tick`] at `now` plus [`TrackerConfig::final_report_wait`].
    pub fn finish_all(&mut self, _now: CaptureTime, _reason: FinishAll, _out: &mut Vec<Command>) {}

    /// Saves every active recording as active, with what [`Self::restore`] needs: before the process stops.
    pub fn suspend(&mut self, _now: CaptureTime, _out: &mut Vec<Command>) {}

    /// Goes on with a recording that was active when the process stopped. `recording` and `resume` are those of the
    /// newest [`Command::Save`]; `now` is the current capture time.
    pub fn restore(
        &mut self,
        _recording: &Recording,
        _resume: &serde_json::Value,
        _now: CaptureTime,
        _out: &mut Vec<Command>,
    ) -> Result<(), RestoreError> {
        Ok(())
    }

    /// The recordings that are being made, oldest first.
    pub fn active(&self) -> impl Iterator<Item = &Recording> {
        self.recordings.iter()
    }

    pub fn statistics(&self) -> TrackerStatistics {
        let _ = &self.config;
        self.statistics.clone()
    }

    /// Streams that ended without having been recorded, in the order in which they ended.
    pub fn unclaimed(&self) -> impl Iterator<Item = &UnclaimedStream> {
        self.unclaimed.iter()
    }
}
