//! When to flush: once for all tracks, shortly after each cut, so that audio is durable in time (`LatencyBudget`); and how long
//! it took.
//!
//! Every chunk brings along when the flush that holds it must begin; that is the same instant for all chunks that end at one cut. So one
//! flush serves them all without anybody knowing where the cuts are. What comes too late for it (an encoder that is behind, a
//! pre-roll that was just claimed) gets another one, but not at any rate.
//!
//! A volume that does not answer holds up the report of what is durable for as long as it likes, while the others go on. It
//! neither makes these flush more often nor takes memory here: what is remembered of audio is bounded.

use crate::counters::WriterCounters;
use sidetone_log::ChunkHeader;
use sidetone_media::LatencyBudget;
use sidetone_model::CaptureTime;
use sidetone_store::AppendNumber;
use std::collections::VecDeque;
use std::time::Duration;

/// Memory for audio that is not reported durable: a minute and a half of a thousand calls, a hundred times what usually waits.
const WAITING_BYTES_MAX: usize = 4 << 20;
const WAITING_MAX: usize = WAITING_BYTES_MAX / size_of::<Waiting>();
/// Flushes told apart that are under way at a time. More of them is a disk that takes longer than several cuts.
const ASKED_MAX: usize = 4;

pub(crate) struct FlushPlan {
    budget: LatencyBudget,
    flush_interval: Duration,
    /// Between two begins.
    spacing: Duration,
    /// When what was appended since the last begin must begin to be flushed.
    due: Option<CaptureTime>,
    began: CaptureTime,
    /// Flushes that were begun and are not done, oldest first.
    asked: VecDeque<Asked>,
    /// What was reported durable last, and since when it is that.
    reported: (AppendNumber, CaptureTime),
    /// The number that the next record gets.
    next: AppendNumber,
    /// Audio that is not reported durable, in the order of its numbers.
    audio: VecDeque<Waiting>,
}

/// A flush of everything before a number.
struct Asked {
    before: AppendNumber,
    at: CaptureTime,
}

/// A chunk, and since when it was heard.
struct Waiting {
    number: AppendNumber,
    heard: CaptureTime,
}

impl FlushPlan {
    pub(crate) fn new(flush_interval: Duration) -> Self {
        Self {
            budget: LatencyBudget::of(flush_interval),
            flush_interval,
            spacing: flush_interval / 20,
            due: None,
            began: CaptureTime::ZERO,
            asked: VecDeque::new(),
            reported: (AppendNumber::default(), CaptureTime::ZERO),
            next: AppendNumber::default(),
            audio: VecDeque::new(),
        }
    }

    pub(crate) fn on_chunk(&mut self, number: AppendNumber, header: &ChunkHeader) {
        self.audio.push_back(Waiting { number, heard: self.budget.heard_from(header) });
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
        // A volume that was still at the flush before takes the rest only when it is asked again. When nothing has come of asking for
        // an interval, one does not answer: then only the others hear the question, and they need it no sooner than that.
        let pause = match self.asked.front() {
            _ if is_due => self.spacing,
            None => return false,
            Some(oldest) if now.since(oldest.at.max(self.reported.1)) < self.flush_interval => self.spacing,
            Some(_) => self.flush_interval,
        };
        if now.since(self.began) < pause && now >= self.began {
            return false;
        }
        self.began = now;
        if is_due {
            self.due = None;
            let newest = if self.asked.len() < ASKED_MAX { None } else { self.asked.pop_back() };
            self.asked.push_back(Asked { before: self.next, at: newest.map_or(now, |newest| newest.at) });
        }
        true
    }

    /// Everything is durable, by other means.
    pub(crate) fn forget(&mut self) {
        self.due = None;
        self.asked.clear();
        self.audio.clear();
    }

    /// Everything below `before` is durable.
    pub(crate) fn on_durable(&mut self, before: AppendNumber, now: CaptureTime, counters: &WriterCounters) {
        if before != self.reported.0 {
            self.reported = (before, now);
        }
        while let Some(done) = self.asked.pop_front_if(|asked| asked.before <= before) {
            counters.flushes.add(1);
            counters.flush_nanos.add(nanos(now.since(done.at)));
        }
        // What there is no room for counts as it stands: it takes at least so long.
        let crowded = self.audio.len().saturating_sub(WAITING_MAX);
        for waiting in self.audio.drain(..crowded) {
            counters.durable_after.observe(now.since(waiting.heard));
        }
        while let Some(waiting) = self.audio.pop_front_if(|waiting| waiting.number < before) {
            counters.durable_after.observe(now.since(waiting.heard));
        }
    }

    /// Chunks that are remembered.
    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        self.audio.len()
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
    fn a_volume_that_does_not_answer_makes_the_others_flush_no_more_often() {
        let (mut plan, counters) = (FlushPlan::new(Duration::from_secs(1)), WriterCounters::default());
        let (mut number, mut begun) = (0, 0);
        const CUTS: u64 = 1000;
        for cut in 0..CUTS {
            for _ in 0..400 {
                plan.on_chunk(AppendNumber(number), &chunk(CUT + 35 * cut, 35));
                number += 1;
            }
            for milliseconds in (0..700).step_by(5) {
                let now = at(CUT + 35 * cut, 930 + milliseconds);
                begun += u64::from(plan.begins(now));
                // The first chunk lies on it.
                plan.on_durable(AppendNumber(0), now, &counters);
                assert!(plan.waiting() <= WAITING_MAX);
            }
        }
        let early = 1000 / 50;
        assert!((CUTS..=CUTS + early).contains(&begun), "{begun} flushes for {CUTS} cuts");
        // Calls are over, and it still does not answer.
        let last = |seconds: u64| at(CUT + 35 * CUTS, 930 + 1000 * seconds);
        let again = (0..12_000).filter(|step| plan.begins(last(1).saturating_add(Duration::from_millis(5 * step))));
        assert!((58..=61).contains(&again.count()), "asked again once an interval");
        plan.on_durable(AppendNumber(number), last(61), &counters);
        assert!(!plan.begins(last(62)) && plan.waiting() == 0);
        assert_eq!(counters.durable_after.count(), number, "each chunk is counted once");
    }

    #[test]
    fn a_slow_disk_is_told_by_the_time_of_its_flushes() {
        let (mut plan, counters) = (FlushPlan::new(Duration::from_secs(1)), WriterCounters::default());
        // Each flush takes 800 ms, and covers what was there when it began.
        let (mut number, mut flush) = (0, None);
        for step in 0..7000 {
            let now = at(CUT, 900 + 5 * step);
            if step % 140 == 0 {
                plan.on_chunk(AppendNumber(number), &chunk(CUT + step / 4, 35));
                number += 1;
            }
            if plan.begins(now) && flush.is_none() {
                flush = Some((now, number));
            }
            if let Some((_, before)) = flush.filter(|(began, _)| now.since(*began) >= Duration::from_millis(800)) {
                flush = None;
                plan.on_durable(AppendNumber(before), now, &counters);
            }
        }
        let (flushes, seconds) = (counters.flushes.get(), counters.flush_nanos.get() as f64 / 1e9);
        assert!(flushes >= 40, "{flushes} flushes of 35 s of cuts");
        assert!((0.8..2.4).contains(&(seconds / flushes as f64)), "{seconds} s");
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
