//! The tracker's own clock, which only the times of its inputs move.
//!
//! Constraints: it never goes back, and a capture whose times jump by decades (phones and gateways that boot without
//! a clock, files that were cut together) neither stops it for good nor lets it run ahead for ever.

use sidetone_model::CaptureTime;
use std::time::Duration;

/// A point on the tracker's clock: nanoseconds of capture time that have passed since it was made.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub(crate) struct Moment(pub u64);

impl Moment {
    pub(crate) fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)))
    }

    pub(crate) fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// Inputs of several threads may be this much out of order; what is older is a step of the capture's own clock.
const STEP: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
pub(crate) struct Clock {
    latest: Option<CaptureTime>,
    passed: Moment,
}

impl Clock {
    pub(crate) fn advance(&mut self, time: CaptureTime) {
        let Some(latest) = self.latest else {
            self.latest = Some(time);
            return;
        };
        if time > latest {
            self.passed = self.passed.plus(time.since(latest));
            self.latest = Some(time);
        } else if latest.since(time) > STEP {
            self.latest = Some(time);
        }
    }

    pub(crate) fn now(&self) -> Moment {
        self.passed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> CaptureTime {
        CaptureTime::from_seconds_nanos(seconds, 0)
    }

    #[test]
    fn small_disorder_does_not_move_the_clock_twice() {
        let mut clock = Clock::default();
        for time in [100, 101, 100, 101, 100, 101] {
            clock.advance(seconds(time));
        }
        assert_eq!(clock.now(), Moment(1_000_000_000));
    }

    #[test]
    fn a_step_back_by_decades_does_not_stop_the_clock() {
        let mut clock = Clock::default();
        for time in [1_500_000_000, 5, 6, 8] {
            clock.advance(seconds(time));
        }
        assert_eq!(clock.now(), Moment(3_000_000_000));
    }
}
