//! The capture clock as a thread reads it: now.

use rustix::time::{ClockId, clock_gettime};
use sidetone_capture::{CaptureClock, monotonic_ns};
use sidetone_model::CaptureTime;

/// Each thread has its own; all follow the same two clocks of the machine by the same rule, so they agree to within
/// the error of a reading.
pub(crate) struct ThreadClock(CaptureClock);

impl ThreadClock {
    pub(crate) fn start() -> Self {
        Self(CaptureClock::start())
    }

    #[cfg(test)]
    pub(crate) fn of(clock: CaptureClock) -> Self {
        Self(clock)
    }

    /// By how many nanoseconds the system clock was set since this was asked last, if it was.
    pub(crate) fn take_step(&mut self) -> Option<i64> {
        self.0.take_step()
    }

    /// One clock read; a second one ten times a second.
    pub(crate) fn now(&mut self) -> CaptureTime {
        let monotonic = monotonic_ns();
        if self.0.wants_observation(monotonic) {
            let realtime = clock_gettime(ClockId::Realtime);
            let (seconds, nanos) = (realtime.tv_sec.unsigned_abs(), realtime.tv_nsec.unsigned_abs());
            self.0.observe(monotonic, seconds.saturating_mul(1_000_000_000).saturating_add(nanos));
        }
        self.0.time(monotonic)
    }
}
