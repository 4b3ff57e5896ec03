//! Interarrival jitter (RFC 3550 §6.4.1, A.8), as an estimate in milliseconds with its mean and maximum.

use sidetone_model::CaptureTime;

/// Changes of transit time above this are no jitter but another time line: a gap, a restart, a clock step.
const TRANSIT_CHANGE_MAX_MS: f64 = 1000.0;

#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct InterarrivalJitter {
    /// Arrival and timestamp of the packet before, of the same time line.
    previous: Option<(CaptureTime, u32)>,
    estimate_ms: f64,
    sum_ms: f64,
    max_ms: f64,
    estimates: u64,
}

impl InterarrivalJitter {
    /// A packet of audio, not a duplicate, in order of arrival. `clock_rate` in Hz, not zero.
    pub(crate) fn observe(&mut self, arrived_at: CaptureTime, timestamp: u32, clock_rate: u32) {
        if let Some((previous_arrival, previous_timestamp)) = self.previous.replace((arrived_at, timestamp)) {
            let arrival_ms = arrived_at.signed_nanos_since(previous_arrival) as f64 / 1e6;
            let media_ms =
                f64::from(timestamp.wrapping_sub(previous_timestamp) as i32) * 1000.0 / f64::from(clock_rate);
            let change_ms = (arrival_ms - media_ms).abs();
            if change_ms <= TRANSIT_CHANGE_MAX_MS {
                self.estimate_ms += (change_ms - self.estimate_ms) / 16.0;
                self.sum_ms += self.estimate_ms;
                self.max_ms = self.max_ms.max(self.estimate_ms);
                self.estimates += 1;
            }
        }
    }

    /// The next packet begins a talk spurt or comes after something that is no audio: it is not compared with the last.
    pub(crate) fn interrupt(&mut self) {
        self.previous = None;
    }

    pub(crate) fn mean_ms(&self) -> f64 {
        if self.estimates == 0 { 0.0 } else { self.sum_ms / self.estimates as f64 }
    }

    pub(crate) fn max_ms(&self) -> f64 {
        self.max_ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at_ms(ms: u64) -> CaptureTime {
        CaptureTime(1_700_000_000_000_000_000 + ms * 1_000_000)
    }

    #[test]
    fn even_packets_have_none_and_the_timestamp_may_wrap() {
        let mut jitter = InterarrivalJitter::default();
        for i in 0..100u32 {
            jitter.observe(at_ms(u64::from(i) * 20), 0xffff_ff00u32.wrapping_add(i * 160), 8000);
        }
        assert!(jitter.max_ms() < 1e-9 && jitter.mean_ms() < 1e-9);
    }

    #[test]
    fn alternating_transit_converges_to_its_change() {
        let mut jitter = InterarrivalJitter::default();
        for i in 0..1000u32 {
            jitter.observe(at_ms(u64::from(i) * 20 + u64::from(i % 2) * 8), i * 160, 8000);
        }
        assert!((jitter.max_ms() - 8.0).abs() < 0.01, "{}", jitter.max_ms());
        assert!(jitter.mean_ms() > 7.5);
    }

    #[test]
    fn first_step_is_one_sixteenth() {
        let mut jitter = InterarrivalJitter::default();
        jitter.observe(at_ms(0), 0, 8000);
        jitter.observe(at_ms(36), 160, 8000);
        assert!((jitter.max_ms() - 1.0).abs() < 1e-9);
        jitter.observe(at_ms(5000), 320, 8000);
        assert!((jitter.max_ms() - 1.0).abs() < 1e-9, "a pause without timestamps is no jitter");
        jitter.interrupt();
        jitter.observe(at_ms(6000), 480, 8000);
        assert!((jitter.max_ms() - 1.0).abs() < 1e-9);
    }
}
