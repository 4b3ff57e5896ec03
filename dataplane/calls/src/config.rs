//! What the tracker is told once, and the words in which it answers questions about itself.

use crate::NotRecordedReason;
use serde::{Deserialize, Serialize};
use sidetone_model::{NodeName, Seed};
use std::time::Duration;

/// What becomes of streams that no call claims.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Orphans {
    /// A recording without legs, for the stream and its reverse direction.
    Record,
    /// Counted, listed, and dropped as early as possible.
    #[default]
    Discard,
}

/// Every limit in time is measured on the capture clock, not on a clock of the process.
#[derive(Clone, Debug)]
pub struct TrackerConfig {
    pub node: NodeName,
    /// What recording identifiers are derived from.
    pub seed: Seed,
    /// Record calls that are never answered, from their early media.
    pub keep_unanswered: bool,
    pub orphans: Orphans,
    /// An established call without media and without signalling for this long is over; its end was not seen. Phones
    /// that suppress silence still send comfort noise every few seconds, and a party on hold is exempt (see
    /// `hold_limit`), so a minute without any packet of either side means that nobody is there.
    pub media_silence: Duration,
    /// As `media_silence`, for a call whose description says that it is on hold: RFC 3264 §8.4 lets its media rest
    /// as long as people like.
    pub hold_limit: Duration,
    /// As `media_silence`, for an answered call whose media was never seen (it runs elsewhere), and for a call that
    /// is neither answered nor refused.
    pub no_media_limit: Duration,
    /// How long an unclaimed stream waits for signalling; the length of the receive threads' pre-roll.
    pub pre_roll_wait: Duration,
    /// How long addresses and tracks live on after the end of a call or after they were replaced: packets in flight
    /// still belong to it.
    pub end_grace: Duration,
    /// How long a finished recording waits for the last word of its encoder.
    pub final_report_wait: Duration,
    /// Distance between two saves of a recording of which nothing changed but measurements.
    pub save_interval: Duration,
    /// Simultaneous calls; further ones are not recorded ([`NotRecordedReason::TooManyCalls`]).
    pub max_calls: usize,
    /// Streams known at one time, claimed or not; further ones are discarded and counted.
    pub max_streams: usize,
    /// Streams without a call that [`crate::Tracker::unclaimed`] can list; the oldest make room.
    pub max_unclaimed: usize,
}

impl TrackerConfig {
    /// The defaults of a working appliance.
    pub fn new(node: NodeName, seed: Seed) -> Self {
        Self {
            node,
            seed,
            keep_unanswered: false,
            orphans: Orphans::Discard,
            media_silence: Duration::from_secs(60),
            hold_limit: Duration::from_secs(4 * 3600),
            no_media_limit: Duration::from_secs(600),
            pre_roll_wait: Duration::from_secs(10),
            end_grace: Duration::from_secs(2),
            final_report_wait: Duration::from_secs(5),
            save_interval: Duration::from_secs(12),
            max_calls: 20_000,
            max_streams: 100_000,
            max_unclaimed: 10_000,
        }
    }
}

/// Why everything ends at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FinishAll {
    /// The capture file is at its end. Calls that go on end with [`sidetone_model::EndReason::CaptureEnd`].
    CaptureEnd,
}

/// Counters since the tracker was made. `calls_seen = calls_recorded + Σ not_recorded + (calls that still go on and
/// have no recording)`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct TrackerStatistics {
    /// Calls, not legs: legs that turned out to be one call count once.
    pub calls_seen: u64,
    pub calls_recorded: u64,
    pub not_recorded_unanswered: u64,
    pub not_recorded_no_media: u64,
    pub not_recorded_no_audio: u64,
    pub not_recorded_too_many_calls: u64,
    pub not_recorded_no_room: u64,
    /// Recordings of streams without a call (`orphans = record`).
    pub orphans_recorded: u64,
    /// Calls known now, recorded or not.
    pub calls_active: u64,
    /// Recordings that are being made now.
    pub recordings_active: u64,
    /// Streams known now, and how many of them no call has claimed.
    pub streams_active: u64,
    pub streams_unclaimed: u64,
    /// Streams that ended without ever having been recorded.
    pub streams_never_claimed: u64,
    /// Streams that were refused because `max_streams` were known.
    pub streams_over_limit: u64,
    /// Addresses in session descriptions that there was no room for.
    pub addresses_over_limit: u64,
    /// Events of legs that were not known (over a limit, or long forgotten).
    pub events_of_unknown_legs: u64,
    /// Reports about recordings that were not known.
    pub reports_of_unknown_tracks: u64,
    /// Recordings that were saved without the last word of their encoder.
    pub final_reports_missing: u64,
    /// Recordings that went on after a restart.
    pub recordings_restored: u64,
}

impl TrackerStatistics {
    pub fn not_recorded(&self) -> u64 {
        self.not_recorded_unanswered
            + self.not_recorded_no_media
            + self.not_recorded_no_audio
            + self.not_recorded_too_many_calls
            + self.not_recorded_no_room
    }

    pub(crate) fn count_not_recorded(&mut self, reason: NotRecordedReason) {
        *match reason {
            NotRecordedReason::Unanswered => &mut self.not_recorded_unanswered,
            NotRecordedReason::NoMedia => &mut self.not_recorded_no_media,
            NotRecordedReason::NoAudio => &mut self.not_recorded_no_audio,
            NotRecordedReason::TooManyCalls => &mut self.not_recorded_too_many_calls,
            NotRecordedReason::NoRoom => &mut self.not_recorded_no_room,
        } += 1;
    }
}

/// A stream that ended without having been recorded; the form in which `replay --json` lists it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct UnclaimedStream {
    /// Empty for the untagged network, else e.g. `vlan 100`.
    pub domain: String,
    /// `0x` and eight hexadecimal digits.
    pub ssrc: String,
    pub source: String,
    pub destination: String,
    pub packets: u64,
}

/// Why a recording could not be gone on with.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    #[error("recording {recording} is not active")]
    NotActive { recording: sidetone_model::RecordingId },
    #[error("recording {recording} is already being made")]
    AlreadyKnown { recording: sidetone_model::RecordingId },
    #[error("no room to go on with recording {recording}: {limit} calls are known")]
    TooManyCalls { recording: sidetone_model::RecordingId, limit: usize },
    #[error("what was saved to go on with recording {recording} cannot be read")]
    Unreadable {
        recording: sidetone_model::RecordingId,
        #[source]
        source: serde_json::Error,
    },
    #[error("recording {recording} was saved by another version of the tracker ({found}; this one reads {expected})")]
    Version { recording: sidetone_model::RecordingId, found: u32, expected: u32 },
}
