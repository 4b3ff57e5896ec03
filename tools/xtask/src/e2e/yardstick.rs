//! How fast the machine itself is while it records: the same disk is asked, again and again, to make a block durable. What takes
//! this process long takes the recorder long as well, and that is no fault of the recorder's.

use anyhow::{Context, Result};
use sidetone_testkit::time::now_ns;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

const EVERY: Duration = Duration::from_millis(100);
/// What the promise leaves for the disk (`LatencyBudget` at one second).
const IN_TIME_NS: u64 = 70_000_000;

/// Asks until it is dropped or told to end.
pub(super) struct Yardstick {
    stop: Arc<AtomicBool>,
    asking: Option<JoinHandle<std::io::Result<Vec<Answer>>>>,
}

/// A write and its flush, in ns since the Unix epoch.
#[derive(Clone, Copy)]
struct Answer {
    asked_at: u64,
    answered_at: u64,
}

/// What was measured.
pub(super) struct Speed {
    answers: Vec<Answer>,
}

impl Yardstick {
    /// Measures the disk that `path`, a file to be made, is on.
    pub(super) fn start(path: &Path) -> Result<Self> {
        let file = File::create(path).with_context(|| format!("cannot make {}", path.display()))?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let ask = move || {
            let mut answers = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                // A thread that is woken late has waited for the machine, too.
                let asked_at = now_ns() + EVERY.as_nanos() as u64;
                std::thread::sleep(EVERY);
                file.write_all_at(&[0x55; 4096], 0)?;
                file.sync_data()?;
                answers.push(Answer { asked_at, answered_at: now_ns() });
            }
            Ok(answers)
        };
        let asking =
            std::thread::Builder::new().name("yardstick".into()).spawn(ask).context("cannot start a thread")?;
        Ok(Self { stop, asking: Some(asking) })
    }

    pub(super) fn finish(mut self) -> Result<Speed> {
        self.stop.store(true, Ordering::Relaxed);
        let asking = self.asking.take().context("it is finished once")?;
        let answers = asking.join().ok().context("the yardstick's thread has panicked")?;
        Ok(Speed { answers: answers.context("the disk beside the recorder cannot be written")? })
    }
}

impl Drop for Yardstick {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl Speed {
    /// What the machine took longer than the promise reckons with, for all that was under way within `before` of a moment: a
    /// flush waits for the one before it.
    pub(super) fn late_ns(&self, moment: u64, before: u64) -> u64 {
        let near = |answer: &&Answer| answer.asked_at <= moment && answer.answered_at + before >= moment;
        self.answers.iter().filter(near).map(|answer| answer.took_ns().saturating_sub(IN_TIME_NS)).sum()
    }

    pub(super) fn slowest_ns(&self) -> u64 {
        self.answers.iter().map(Answer::took_ns).max().unwrap_or(0)
    }

    pub(super) fn mean_ns(&self) -> u64 {
        let sum: u64 = self.answers.iter().map(Answer::took_ns).sum();
        sum / (self.answers.len() as u64).max(1)
    }
}

impl Answer {
    fn took_ns(&self) -> u64 {
        self.answered_at.saturating_sub(self.asked_at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_slow_about_a_moment_excuses_it() {
        const MS: u64 = 1_000_000;
        let answer =
            |asked_ms: u64, took_ms: u64| Answer { asked_at: asked_ms * MS, answered_at: (asked_ms + took_ms) * MS };
        let speed = Speed { answers: vec![answer(1000, 5), answer(2000, 370), answer(4000, 10), answer(9000, 900)] };
        assert_eq!(speed.late_ns(2200 * MS, 1000 * MS), 300 * MS, "in flight");
        assert_eq!(speed.late_ns(3300 * MS, 1000 * MS), 300 * MS, "just before");
        assert_eq!(speed.late_ns(3400 * MS, 1000 * MS), 0, "long before");
        assert_eq!(speed.late_ns(4100 * MS, 1000 * MS), 0, "fast enough");
        assert_eq!(speed.late_ns(9100 * MS, 7000 * MS), 1130 * MS, "one behind the other");
        assert_eq!(speed.late_ns(8999 * MS, 1000 * MS), 0, "later");
        assert_eq!((speed.slowest_ns(), speed.mean_ns()), (900 * MS, 1285 * MS / 4));
    }
}
