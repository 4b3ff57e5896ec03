//! When to flush: once for all tracks, shortly after each cut, so that audio is durable in time (`LatencyBudget`); and how long
//! it took.
//!
//! Every chunk brings along when the flush that holds it must begin; that is the same instant for all chunks that end at one cut. So one
//! flush serves them all without anybody knowing where the cuts are. What comes too late for it (an encoder that is behind, a
//! pre-roll that was just claimed) gets another one, but not at any rate.

use crate::counters::WriterCounters;
use sidetone_log::ChunkHeader;
use sidetone_media::LatencyBudget;
use sidetone_model::CaptureTime;
use sidetone_store::AppendNumber;
use std::collections::VecDeque;
use std::time::Duration;

pub(crate) struct FlushPlan {
    budget: LatencyBudget,
    /// Between two begins.
    spacing: Duration,
    /// When what was appended since the last begin must begin to be flushed.
    due: Option<CaptureTime>,
    began: CaptureTime,
    /// What the last begin was for; absent once that is durable.
    wanted: Option<AppendNumber>,
    /// The number that the next record gets.
    next: AppendNumber,
    /// Audio that is not durable: its number, and since when it was heard.
    audio: VecDeque<(AppendNumber, CaptureTime)>,
}

impl FlushPlan {
    pub(crate) fn new(flush_interval: Duration) -> Self {
        Self {
            budget: LatencyBudget::of(flush_interval),
            spacing: flush_interval / 20,
            due: None,
            began: CaptureTime::ZERO,
            wanted: None,
            next: AppendNumber::default(),
            audio: VecDeque::new(),
        }
    }

    pub(crate) fn on_chunk(&mut self, number: AppendNumber, header: &ChunkHeader) {
        self.audio.push_back((number, self.budget.heard_from(header)));
        self.appended(number, self.budget.flush_due(header));
    }

    /// Facts wait for the flush of the audio beside them, or as long as that would at most.
    pub(crate) fn on_fact(&mut self, number: AppendNumber, now: CaptureTime) {
        self.appended(number, now.saturating_add(self.budget.between_cuts()));
    }

    fn appended(&mut self, number: AppendNumber, due: CaptureTime) {
        self.next = self.next.max(AppendNumber(number.0 + 1));
        self.due = Some(self.due.map_or(due, |earlier| earlier.min(due)));
    }

    /// Whether to begin a flush now. It counts as begun.
    pub(crate) fn begins(&mut self, now: CaptureTime) -> bool {
        let is_due = self.due.is_some_and(|due| due <= now);
        // A volume that was still at the flush before takes the rest only when it is asked again.
        if !(is_due || self.wanted.is_some()) || now.since(self.began) < self.spacing && now >= self.began {
            return false;
        }
        self.began = now;
        if is_due {
            self.due = None;
            self.wanted = Some(self.next);
        }
        true
    }

    /// Everything is durable, by other means.
    pub(crate) fn forget(&mut self) {
        (self.due, self.wanted) = (None, None);
        self.audio.clear();
    }

    /// Everything below `before` is durable.
    pub(crate) fn on_durable(&mut self, before: AppendNumber, now: CaptureTime, counters: &WriterCounters) {
        if self.wanted.is_some_and(|wanted| wanted <= before) {
            self.wanted = None;
            counters.flushes.add(1);
            counters.flush_nanos.add(nanos(now.since(self.began)));
        }
        while let Some((_, heard)) = self.audio.pop_front_if(|(number, _)| *number < before) {
            counters.durable_after.observe(now.since(heard));
        }
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sidetone_log::ChunkCodec;
    use sidetone_model::{RecordingId, Tick, TrackId};

    fn chunk(first_tick: u64, ticks: u16) -> ChunkHeader {
        ChunkHeader {
            recording: RecordingId(Default::default()),
            track: TrackId(0),
            first_tick: Tick(first_tick),
            ticks,
            packets: ticks,
            codec: ChunkCodec::OpusNarrowband,
            key_id: [0; 16],
            nonce: [0; 12],
            tag: [0; 16],
        }
    }

    fn at(cut: u64, milliseconds: u64) -> CaptureTime {
        Tick(cut).start().saturating_add(Duration::from_millis(milliseconds))
    }

    const CUT: u64 = 35 * 2_428_571_428;

    #[test]
    fn all_chunks_of_a_cut_share_one_flush() {
        let (mut plan, counters) = (FlushPlan::new(Duration::from_secs(1)), WriterCounters::default());
        for number in 0..100 {
            assert!(!plan.begins(at(CUT, 905)));
            plan.on_chunk(AppendNumber(number), &chunk(CUT + number % 3, 35 - number as u16 % 3));
        }
        assert!(!plan.begins(at(CUT, 929)));
        assert!(plan.begins(at(CUT, 930)));
        plan.on_durable(AppendNumber(40), at(CUT, 935), &counters);
        assert!(!plan.begins(at(CUT, 940)), "a flush is on its way");
        plan.on_durable(AppendNumber(100), at(CUT, 950), &counters);
        assert_eq!(counters.flushes.get(), 1);
        assert!(!plan.begins(at(CUT, 1600)), "nothing waits");
        assert_eq!(counters.durable_after.count(), 100);
        assert!(counters.durable_after.seconds() / 100.0 < 0.95);
    }

    #[test]
    fn what_comes_late_is_flushed_soon_but_not_at_any_rate() {
        let (mut plan, counters) = (FlushPlan::new(Duration::from_secs(1)), WriterCounters::default());
        plan.on_chunk(AppendNumber(0), &chunk(CUT, 35));
        assert!(plan.begins(at(CUT, 930)));
        plan.on_chunk(AppendNumber(1), &chunk(CUT, 35));
        plan.on_durable(AppendNumber(1), at(CUT, 935), &counters);
        assert!(!plan.begins(at(CUT, 979)));
        assert!(plan.begins(at(CUT, 980)));
        plan.on_durable(AppendNumber(2), at(CUT, 990), &counters);
        assert_eq!(counters.flushes.get(), 2);
    }

    #[test]
    fn a_flush_is_asked_for_until_everything_is_durable() {
        let (mut plan, counters) = (FlushPlan::new(Duration::from_secs(1)), WriterCounters::default());
        plan.on_fact(AppendNumber(7), at(CUT, 0));
        assert!(!plan.begins(at(CUT, 699)));
        assert!(plan.begins(at(CUT, 700)));
        plan.on_durable(AppendNumber(7), at(CUT, 720), &counters);
        assert!(!plan.begins(at(CUT, 720)));
        assert!(plan.begins(at(CUT, 760)), "one volume had another flush in flight");
        plan.on_durable(AppendNumber(8), at(CUT, 780), &counters);
        assert!(!plan.begins(at(CUT, 2000)));
    }

    #[test]
    fn a_clock_that_goes_back_does_not_stop_flushes() {
        let mut plan = FlushPlan::new(Duration::from_secs(1));
        plan.on_fact(AppendNumber(0), at(CUT, 0));
        assert!(plan.begins(at(CUT, 5000)));
        plan.on_fact(AppendNumber(1), at(CUT, 0));
        assert!(plan.begins(at(CUT, 1000)));
    }
}
