//! The capture clock: arrival times on `CLOCK_MONOTONIC` become UTC without ever stepping.
//!
//! The offset between the two clocks is measured when the clock is made. Later measurements move it by at most
//! 500 ppm, as the kernel does for `adjtime`: when somebody sets the machine's time, recordings keep their length and
//! order, and the capture clock catches up slowly.

use sidetone_model::CaptureTime;

/// Largest deviation from the monotonic clock's rate: one part in this many (500 ppm).
const SLEW_DIVISOR: i64 = 2000;
/// Measurements that come sooner than this after the one before are ignored.
const OBSERVE_INTERVAL_NS: u64 = 100_000_000;
/// Differences below this are the measurement's own error, and not corrected.
const DEAD_BAND_NS: i64 = 20_000;
/// A change of the system clock between two measurements that no slewing makes: somebody set it.
const STEP_NS: i64 = 250_000_000;

/// Maps `CLOCK_MONOTONIC` nanoseconds to [`CaptureTime`]: continuous, and increasing with its argument.
#[derive(Clone, Debug)]
pub struct CaptureClock {
    current: Segment,
    /// Frames that were stamped before the last measurement keep their mapping.
    previous: Segment,
    /// System clock minus monotonic clock at the last measurement.
    measured_ns: i64,
    /// What the system clock was stepped by since [`Self::take_step`] was called last.
    stepped_ns: i64,
}

/// From `start_ns` on, the offset moves from `offset_ns` towards `target_ns`.
#[derive(Clone, Copy, Debug)]
struct Segment {
    start_ns: u64,
    offset_ns: i64,
    target_ns: i64,
}

impl Segment {
    /// Offset at a monotonic time, saturating before the segment's start.
    fn offset_at(&self, monotonic_ns: u64) -> i64 {
        let elapsed_ns = monotonic_ns.saturating_sub(self.start_ns);
        let reach_ns = i64::try_from(elapsed_ns / SLEW_DIVISOR as u64).unwrap_or(i64::MAX);
        let distance_ns = self.target_ns.saturating_sub(self.offset_ns);
        self.offset_ns.saturating_add(distance_ns.clamp(-reach_ns, reach_ns))
    }
}

impl CaptureClock {
    /// A clock from one simultaneous reading of both clocks, in nanoseconds.
    pub fn new(monotonic_ns: u64, realtime_ns: u64) -> Self {
        let offset_ns = difference(realtime_ns, monotonic_ns);
        let segment = Segment { start_ns: monotonic_ns, offset_ns, target_ns: offset_ns };
        Self { current: segment, previous: segment, measured_ns: offset_ns, stepped_ns: 0 }
    }

    /// A clock from the machine's clocks.
    pub fn start() -> Self {
        let (monotonic_ns, realtime_ns) = read_both_clocks();
        Self::new(monotonic_ns, realtime_ns)
    }

    /// Takes in a later simultaneous reading. Cheap when nothing is to be done.
    pub fn observe(&mut self, monotonic_ns: u64, realtime_ns: u64) {
        if !self.wants_observation(monotonic_ns) {
            return;
        }
        let offset_ns = self.current.offset_at(monotonic_ns);
        let measured_ns = difference(realtime_ns, monotonic_ns);
        let change_ns = measured_ns.saturating_sub(self.measured_ns);
        if change_ns.saturating_abs() >= STEP_NS {
            self.stepped_ns = self.stepped_ns.saturating_add(change_ns);
        }
        self.measured_ns = measured_ns;
        let target_ns =
            if measured_ns.saturating_sub(offset_ns).abs() < DEAD_BAND_NS { offset_ns } else { measured_ns };
        self.previous = self.current;
        self.current = Segment { start_ns: monotonic_ns, offset_ns, target_ns };
    }

    /// By how many nanoseconds the system clock was stepped since this was asked last, if it was.
    pub fn take_step(&mut self) -> Option<i64> {
        Some(std::mem::take(&mut self.stepped_ns)).filter(|&step| step != 0)
    }

    /// True when [`Self::observe`] would take in a reading made now.
    pub fn wants_observation(&self, monotonic_ns: u64) -> bool {
        monotonic_ns >= self.current.start_ns.saturating_add(OBSERVE_INTERVAL_NS)
    }

    /// Reads the machine's clocks if it is time to. `monotonic_ns` is a recent reading.
    pub(crate) fn keep_up(&mut self, monotonic_ns: u64) {
        if self.wants_observation(monotonic_ns) {
            let (monotonic_ns, realtime_ns) = read_both_clocks();
            self.observe(monotonic_ns, realtime_ns);
        }
    }

    /// The capture time of a monotonic time.
    pub fn time(&self, monotonic_ns: u64) -> CaptureTime {
        let segment = if monotonic_ns >= self.current.start_ns { &self.current } else { &self.previous };
        CaptureTime(monotonic_ns.saturating_add_signed(segment.offset_at(monotonic_ns)))
    }
}

fn difference(realtime_ns: u64, monotonic_ns: u64) -> i64 {
    let difference = i128::from(realtime_ns) - i128::from(monotonic_ns);
    i64::try_from(difference).unwrap_or(if difference > 0 { i64::MAX } else { i64::MIN })
}

/// `CLOCK_MONOTONIC` in nanoseconds: the clock of the XDP program's stamps.
pub fn monotonic_ns() -> u64 {
    to_ns(rustix::time::clock_gettime(rustix::time::ClockId::Monotonic))
}

pub(crate) fn realtime_ns() -> u64 {
    to_ns(rustix::time::clock_gettime(rustix::time::ClockId::Realtime))
}

/// Both clocks at one instant: the tightest of five readings.
pub(crate) fn read_both_clocks() -> (u64, u64) {
    let mut best = (u64::MAX, 0, 0);
    for _ in 0..5 {
        let before = monotonic_ns();
        let realtime = realtime_ns();
        let after = monotonic_ns();
        let width = after.saturating_sub(before);
        if width < best.0 {
            best = (width, before + width / 2, realtime);
        }
    }
    (best.1, best.2)
}

fn to_ns(time: rustix::time::Timespec) -> u64 {
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(u64::try_from(time.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_clock_that_is_set_forward_is_followed_at_500_ppm() {
        let mut clock = CaptureClock::new(10 * SECOND, 1000 * SECOND);
        assert_eq!(clock.time(11 * SECOND).0, 1001 * SECOND);
        // The machine's time is set one second ahead.
        clock.observe(12 * SECOND, 1003 * SECOND);
        assert_eq!(clock.time(12 * SECOND).0, 1002 * SECOND);
        assert_eq!(clock.time(13 * SECOND).0, 1003 * SECOND + 500_000);
        // 2000 seconds later the second is made up for, and the clock stays with the machine's.
        assert_eq!(clock.time(2012 * SECOND).0, 3003 * SECOND);
        assert_eq!(clock.time(3012 * SECOND).0, 4003 * SECOND);
    }

    #[test]
    fn a_clock_that_is_set_back_never_goes_back() {
        let mut clock = CaptureClock::new(10 * SECOND, 1000 * SECOND);
        clock.observe(11 * SECOND, 1);
        assert_eq!(clock.time(12 * SECOND).0, 1002 * SECOND - 500_000);
        assert!(clock.time(12 * SECOND) > clock.time(11 * SECOND));
    }

    #[test]
    fn frames_stamped_before_a_measurement_keep_their_time() {
        let mut clock = CaptureClock::new(10 * SECOND, 1000 * SECOND);
        clock.observe(11 * SECOND, 1500 * SECOND);
        let before = clock.time(12 * SECOND - 5);
        clock.observe(12 * SECOND, 1000 * SECOND);
        assert_eq!(clock.time(12 * SECOND - 5), before);
    }

    #[test]
    fn the_measurement_error_is_not_followed() {
        let mut clock = CaptureClock::new(10 * SECOND, 1000 * SECOND);
        clock.observe(11 * SECOND, 1001 * SECOND + 3_000);
        assert_eq!(clock.time(20 * SECOND).0, 1010 * SECOND);
    }

    #[test]
    fn a_step_of_the_system_clock_is_told_once_and_a_drift_is_not() {
        let mut clock = CaptureClock::new(10 * SECOND, 1000 * SECOND);
        clock.observe(11 * SECOND, 1001 * SECOND + 100_000_000);
        assert_eq!(clock.take_step(), None, "100 ms in a second are a time daemon's work");
        clock.observe(12 * SECOND, 902 * SECOND);
        clock.observe(13 * SECOND, 903 * SECOND);
        assert_eq!(clock.take_step(), Some(-100_100_000_000));
        assert_eq!(clock.take_step(), None);
    }

    proptest! {
        #[test]
        fn time_increases_and_stays_within_500_ppm(
            steps in prop::collection::vec((1..3 * SECOND, -10_000_000_000i64..10_000_000_000), 1..40),
        ) {
            let mut monotonic = 100 * SECOND;
            let mut clock = CaptureClock::new(monotonic, 1_700_000_000 * SECOND);
            let mut last = (monotonic, clock.time(monotonic));
            for (step, error) in steps {
                monotonic += step;
                // Frames stamped shortly before and after a measurement, mapped after it.
                clock.observe(monotonic, (1_700_000_000 * SECOND + monotonic).saturating_add_signed(error));
                for at in [monotonic - step / 3, monotonic, monotonic + step / 1000] {
                    if at < last.0 { continue; }
                    let time = clock.time(at);
                    let (elapsed, moved) = (at - last.0, time.0.checked_sub(last.1.0));
                    let moved = moved.expect("the clock went back");
                    prop_assert!(moved.abs_diff(elapsed) <= elapsed / 1999 + 2, "{} ns became {} ns", elapsed, moved);
                    last = (at, time);
                }
            }
        }
    }
}
