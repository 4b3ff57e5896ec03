//! From hearing to the disk: how the time after which audio must be durable is shared out.
//!
//! **Promise.** Audio is durable one flush interval after it was heard: after the instant at which it lies on the capture clock,
//! or after the arrival of its packet where the network held that up. Chunks of all tracks end at the same grid steps, the
//! *cuts*: multiples of [`LatencyBudget::chunk_ticks`], counted from the Unix epoch. One flush a cut then serves everybody, and
//! what waits in one place need not wait again in another:
//!
//! ```text
//!   heard               cut                sealed  flush begins  durable
//!   ├────── chunk ───────┼──── look-back ─────┼─ hand-over ┼─ flush ─┤
//! ```
//!
//! | share | for | at 1 s |
//! |---|---|---|
//! | chunk | the packet that came just after the last cut waits for the next | 700 ms |
//! | look-back | packets that the network holds up or loses: reorder window + jitter allowance | 200 ms |
//! | hand-over | the encoders' last steps (a batch at most), and the way to the writer thread | 30 ms |
//! | flush | the disk | 70 ms |
//!
//! What is still open at a cut (a packet that waits for a lost one before it) came after the cut, and is in time with the
//! next. A packet alone on new numbers waits for the one that confirms it, however long that takes: until then it is no
//! audio of the stream. Opus holds back the last 6.5 ms of what it was given until the next step; at the end of a sound, for
//! about a second. What waited in the pre-roll for the call that claims it counts as heard when it is claimed.
//!
//! `tests/latency.rs` measures the time from hearing to sealed chunk; the engine measures it up to the durable flush.

use crate::TrackConfig;
use sidetone_log::{ChunkHeader, TICKS_PER_CHUNK_MAX};
use sidetone_model::{CaptureTime, NANOS_PER_TICK, Tick};
use std::time::Duration;

/// Shorter chunks cost more in headers and index than they hold.
pub const TICKS_PER_CHUNK_MIN: u16 = 5;
/// A look-back below hears hardly a packet more before it gives up; one above waits for what no listener hears either.
const LOOK_BACK_MIN: Duration = Duration::from_millis(100);
const LOOK_BACK_MAX: Duration = Duration::from_millis(400);
const TICK: Duration = Duration::from_nanos(NANOS_PER_TICK);

/// The shares of a flush interval.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LatencyBudget {
    /// Grid steps from one cut to the next.
    pub chunk_ticks: u16,
    /// See [`TrackConfig::reorder_window`].
    pub reorder_window: Duration,
    /// See [`TrackConfig::jitter_allowance`].
    pub jitter_allowance: Duration,
    /// From the sealing of the last chunk to the beginning of the flush.
    pub hand_over: Duration,
    /// What is left for the disk.
    pub flush: Duration,
}

impl LatencyBudget {
    /// The shortest interval that can be shared out.
    pub const INTERVAL_MIN: Duration = Duration::from_millis(250);

    /// Shares out the time in which audio must be durable; at least [`Self::INTERVAL_MIN`], shorter ones count as that.
    pub fn of(flush_interval: Duration) -> Self {
        let interval = flush_interval.max(Self::INTERVAL_MIN);
        let look_back = (interval / 5).clamp(LOOK_BACK_MIN, LOOK_BACK_MAX);
        let hand_over = interval * 3 / 100;
        let flush = interval * 7 / 100;
        let left = (interval - look_back - hand_over - flush).as_nanos() / TICK.as_nanos();
        let chunk_ticks = u16::try_from(left).unwrap_or(u16::MAX).clamp(TICKS_PER_CHUNK_MIN, TICKS_PER_CHUNK_MAX);
        let reorder_window = look_back * 3 / 5;
        Self { chunk_ticks, reorder_window, jitter_allowance: look_back - reorder_window, hand_over, flush }
    }

    /// When the flush that holds this chunk must begin at the latest: the same instant for all chunks that end at one cut.
    pub fn flush_due(&self, chunk: &ChunkHeader) -> CaptureTime {
        self.cut_before(chunk).start().saturating_add(self.sealed_after() + self.hand_over)
    }

    /// From when on the audio of this chunk was heard. What lies before the cut came behind it, held up by the network.
    pub fn heard_from(&self, chunk: &ChunkHeader) -> CaptureTime {
        chunk.first_tick.max(self.cut_before(chunk)).start()
    }

    /// The last cut before the chunk's end.
    fn cut_before(&self, chunk: &ChunkHeader) -> Tick {
        let last = chunk.first_tick.0.saturating_add(u64::from(chunk.ticks)).saturating_sub(1);
        Tick(last - last % u64::from(self.chunk_ticks))
    }

    pub fn between_cuts(&self) -> Duration {
        TICK * u32::from(self.chunk_ticks)
    }

    /// From a cut until the audio behind it is sealed.
    fn sealed_after(&self) -> Duration {
        self.between_cuts() + self.reorder_window + self.jitter_allowance
    }
}

impl TrackConfig {
    /// The times of a track whose audio is durable within a flush interval.
    #[must_use]
    pub fn with_budget(self, budget: &LatencyBudget) -> Self {
        Self {
            reorder_window: budget.reorder_window,
            jitter_allowance: budget.jitter_allowance,
            chunk_ticks: budget.chunk_ticks,
            ..self
        }
    }

    /// Steps younger than this may still be written into.
    pub fn look_back(&self) -> Duration {
        self.reorder_window + self.jitter_allowance
    }

    /// The last cut whose time has come at `now`: what lies before it is to be sealed.
    pub fn cut_at(&self, now: CaptureTime) -> Tick {
        let due = now.saturating_sub(self.look_back()).tick().0;
        Tick(due - due % u64::from(self.chunk_ticks))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use sidetone_log::ChunkCodec;
    use sidetone_model::{RecordingId, TrackId};

    #[test]
    fn a_second_is_shared_out_as_the_table_says() {
        let budget = LatencyBudget::of(Duration::from_secs(1));
        let ms = Duration::from_millis;
        let expected = LatencyBudget {
            chunk_ticks: 35,
            reorder_window: ms(120),
            jitter_allowance: ms(80),
            hand_over: ms(30),
            flush: ms(70),
        };
        assert_eq!(budget, expected);
        let defaults = TrackConfig::default();
        assert_eq!(defaults, defaults.clone().with_budget(&budget));
    }

    fn chunk(first_tick: u64, ticks: u16) -> ChunkHeader {
        ChunkHeader {
            recording: RecordingId(uuid::Uuid::nil()),
            track: TrackId(0),
            first_tick: Tick(first_tick),
            ticks,
            packets: 1,
            codec: ChunkCodec::OpusNarrowband,
            key_id: [0; 16],
            nonce: [0; 12],
            tag: [0; 16],
        }
    }

    #[test]
    fn chunks_that_end_at_one_cut_are_due_together() {
        let budget = LatencyBudget::of(Duration::from_secs(1));
        let due = budget.flush_due(&chunk(3500, 35));
        assert_eq!(due.since(Tick(3500).start()), Duration::from_millis(930));
        // One that begins with what came late for the chunk before, one cut short by a pause.
        assert_eq!(due, budget.flush_due(&chunk(3497, 38)));
        assert_eq!(due, budget.flush_due(&chunk(3510, 3)));
        assert!(due < budget.flush_due(&chunk(3535, 1)));
        assert_eq!(budget.heard_from(&chunk(3497, 38)), Tick(3500).start());
        assert_eq!(budget.heard_from(&chunk(3510, 3)), Tick(3510).start());
    }

    proptest! {
        #[test]
        fn the_shares_never_exceed_the_interval(ms in 250u64..100_000) {
            let interval = Duration::from_millis(ms);
            let budget = LatencyBudget::of(interval);
            prop_assert!(TrackConfig::default().with_budget(&budget).check().is_ok());
            prop_assert!(budget.sealed_after() + budget.hand_over + budget.flush <= interval);
            prop_assert!(budget.flush >= Duration::from_millis(17));
        }

        #[test]
        fn no_chunk_or_time_is_too_far(first in any::<u64>(), ticks in 0..=u16::MAX, now in any::<u64>()) {
            let budget = LatencyBudget::of(Duration::from_secs(1));
            budget.flush_due(&chunk(first, ticks));
            TrackConfig::default().cut_at(CaptureTime(now));
        }
    }
}
