//! From a stream's RTP timestamps to places on the capture clock.
//!
//! **Where a packet lies.** A packet's first sample lies at the instant at which the packet passed the recorder, had the
//! network delayed it as little as it ever delays packets of this stream. That is what a listener with the shortest
//! possible buffer hears at the mirror port, and it is the same rule for both parties of a call.
//!
//! **Model.** With `R` the arrival and `T` the timestamp in time units, `R − T = offset + delay + drift·t`, where `delay ≥ 0`
//! is the network's and `drift` that of the phone's clock against ours (hundreds of ppm at most). The lower envelope of
//! `R − T` over a sliding [`WINDOW_SECONDS`] is `offset + drift·t` up to what the clock drifts in that time (0.8 ms at
//! 200 ppm). Jitter only raises `R − T`, so it never moves the envelope.
//!
//! **Correction.** The place of sample `T` is `T + shift`, `shift` in whole samples. When the envelope is more than
//! [`DEADBAND_SAMPLES`] away, `shift` follows one sample at a time, and the frame at hand is resampled to be one sample
//! longer or shorter (`stretch`), at most so often that a step cannot be heard; the farther away, the oftener. Where there
//! is silence, `shift` jumps to the envelope at once. A disagreement beyond [`LAG_MAX_NS`] or [`LEAD_MAX_NS`] is no drift:
//! the sender began another time line, and the stream must be anchored anew.
//!
//! **Invariants.** (1) Within a run of contiguous timestamps, places are contiguous too. (2) `|shift − envelope|` stays
//! below [`LAG_MAX_NS`]. (3) All arithmetic saturates: no timestamp or arrival can make it panic. (4) Fixed size; constant
//! time per packet.

use sidetone_model::CaptureTime;

/// 8 kHz.
pub(crate) const NANOS_PER_SAMPLE: i64 = 125_000;
pub(crate) const SAMPLES_PER_TICK: usize = 160;

/// Length of the sliding minimum: long enough to hold an undelayed packet, short against drift.
const WINDOW_SECONDS: usize = 4;
const NANOS_PER_BUCKET: i64 = 1_000_000_000;
/// 0.75 ms.
const DEADBAND_SAMPLES: i64 = 6;
/// Places this far behind the arrivals belong to another time line.
const LAG_MAX_NS: i64 = 1_000_000_000;
/// Nothing is said after its packet arrived; this much can be owed to a start in a burst of delayed packets.
const LEAD_MAX_NS: i64 = 250_000_000;
/// 60 ms: a lag that lasts a whole window is put right by a gap instead of by thousands of single samples.
const STANDING_LAG_SAMPLES: i64 = 480;

/// A place on the track's time line: samples of 8 kHz since the Unix epoch.
pub(crate) type SamplePosition = i64;

pub(crate) fn position_of(time: CaptureTime) -> SamplePosition {
    i64::try_from(time.0 / NANOS_PER_SAMPLE as u64).expect("2^64 ns are fewer than 2^63 samples")
}

pub(crate) fn time_of(position: SamplePosition) -> CaptureTime {
    CaptureTime(u64::try_from(position).unwrap_or(0).saturating_mul(NANOS_PER_SAMPLE as u64))
}

/// What the clock sees of a packet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Observation {
    pub(crate) arrived_at: CaptureTime,
    pub(crate) timestamp: u32,
}

#[derive(Clone, Debug)]
pub(crate) struct StreamClock {
    /// Arrival of the packet at which this time line was anchored; its timestamp counts as 0.
    anchored_at: CaptureTime,
    last_timestamp: u32,
    last_extended: i64,
    /// Place of extended timestamp 0, relative to the anchor's sample.
    shift: i64,
    /// Least `R − T` in ns per second of arrival, newest in `newest_bucket % len`.
    minima: [i64; WINDOW_SECONDS],
    newest_bucket: i64,
    samples_since_step: u64,
}

impl StreamClock {
    /// Anchors a time line at the first of `packets` (in order of sequence), by the least delayed among those that
    /// belong to the same time line.
    pub(crate) fn anchor(packets: impl IntoIterator<Item = Observation>) -> Option<Self> {
        let mut packets = packets.into_iter();
        let first = packets.next()?;
        let mut clock = Self {
            anchored_at: first.arrived_at,
            last_timestamp: first.timestamp,
            last_extended: 0,
            shift: 0,
            minima: [i64::MAX; WINDOW_SECONDS],
            newest_bucket: 0,
            samples_since_step: 0,
        };
        let mut least = 0;
        let mut before = 0;
        for packet in packets {
            let extended = clock.extend(packet.timestamp);
            let transit = clock.transit_ns(extended, packet.arrived_at);
            if extended <= before || transit.saturating_abs() > LAG_MAX_NS / 2 {
                break;
            }
            before = extended;
            least = least.min(transit);
        }
        clock.minima[0] = least;
        clock.shift = clock.envelope_shift();
        Some(clock)
    }

    /// The timestamp on the anchored time line; the nearest to the last one.
    pub(crate) fn extend(&self, timestamp: u32) -> i64 {
        self.last_extended.saturating_add(i64::from(timestamp.wrapping_sub(self.last_timestamp) as i32))
    }

    /// `R − T`, 0 at the anchor.
    fn transit_ns(&self, extended: i64, arrived_at: CaptureTime) -> i64 {
        arrived_at.signed_nanos_since(self.anchored_at).saturating_sub(extended.saturating_mul(NANOS_PER_SAMPLE))
    }

    /// Whether a packet cannot be on this time line.
    pub(crate) fn disagrees(&self, packet: Observation) -> bool {
        let transit = self.transit_ns(self.extend(packet.timestamp), packet.arrived_at);
        let lag_ns = transit.saturating_sub(self.shift.saturating_mul(NANOS_PER_SAMPLE));
        !(-LEAD_MAX_NS..=LAG_MAX_NS).contains(&lag_ns)
    }

    /// Takes a packet, in order of sequence, into the envelope. It must not disagree.
    pub(crate) fn observe(&mut self, packet: Observation) {
        let extended = self.extend(packet.timestamp);
        let transit = self.transit_ns(extended, packet.arrived_at);
        self.last_timestamp = packet.timestamp;
        self.last_extended = extended;
        let bucket = packet.arrived_at.signed_nanos_since(self.anchored_at).div_euclid(NANOS_PER_BUCKET);
        let stale = bucket.saturating_sub(self.newest_bucket).clamp(0, WINDOW_SECONDS as i64);
        for age in 0..stale {
            self.minima[(bucket - age).rem_euclid(WINDOW_SECONDS as i64) as usize] = i64::MAX;
        }
        self.newest_bucket = self.newest_bucket.max(bucket);
        let least = &mut self.minima[self.newest_bucket.rem_euclid(WINDOW_SECONDS as i64) as usize];
        *least = transit.min(*least);
    }

    /// The shift at which the least delayed packet of the window lies at its arrival.
    fn envelope_shift(&self) -> i64 {
        let least = self.minima.iter().copied().min().unwrap_or(0);
        let phase_ns = (self.anchored_at.0 % NANOS_PER_SAMPLE as u64) as i64;
        least.saturating_add(phase_ns).div_euclid(NANOS_PER_SAMPLE)
    }

    /// Place of the sample with this extended timestamp.
    pub(crate) fn place(&self, extended: i64) -> SamplePosition {
        position_of(self.anchored_at).saturating_add(extended).saturating_add(self.shift)
    }

    /// What is to be done with a frame of `samples` that follows the last one without a gap: −1, 0 or +1 sample. The
    /// frame's end and all later places move by it.
    pub(crate) fn step(&mut self, samples: usize) -> i64 {
        self.samples_since_step = self.samples_since_step.saturating_add(samples as u64);
        let distance = self.envelope_shift().saturating_sub(self.shift);
        let samples_per_step = match distance.saturating_abs() {
            0..=DEADBAND_SAMPLES => return 0,
            7..=40 => 4000,   // to 5 ms: 250 ppm
            41..=160 => 1280, // to 20 ms: 780 ppm
            _ => 320,         // 3125 ppm, a twentieth of a semitone
        };
        if self.samples_since_step < samples_per_step {
            return 0;
        }
        self.samples_since_step = 0;
        self.shift += distance.signum();
        distance.signum()
    }

    /// In silence: jumps to the envelope, but not so that `extended` would lie before `earliest`.
    pub(crate) fn jump_in_silence(&mut self, extended: i64, earliest: Option<SamplePosition>) {
        let mut shift = self.envelope_shift();
        if shift.saturating_sub(self.shift).saturating_abs() <= DEADBAND_SAMPLES {
            return;
        }
        if let Some(earliest) = earliest {
            let floor = earliest.saturating_sub(position_of(self.anchored_at)).saturating_sub(extended);
            shift = shift.max(floor.min(self.shift));
        }
        self.shift = shift;
        self.samples_since_step = 0;
    }

    /// Jumps later when the stream has lagged by more than a listener would notice over the whole window: the sender
    /// paused without advancing its timestamps, or the route became longer.
    pub(crate) fn jump_over_standing_lag(&mut self) {
        let distance = self.envelope_shift().saturating_sub(self.shift);
        if distance > STANDING_LAG_SAMPLES && !self.minima.contains(&i64::MAX) {
            self.shift += distance;
            self.samples_since_step = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A phone whose clock runs `ppm` fast, packets of 20 ms, with a delay per packet in ns.
    struct Phone {
        started_at: u64,
        ppm: f64,
        timestamp: u32,
    }

    impl Phone {
        /// When packet `i` would arrive without any delay.
        fn sent_at(&self, i: u64) -> u64 {
            self.started_at + (i as f64 * 20e6 / (1.0 + self.ppm * 1e-6)) as u64
        }

        fn packet(&self, i: u64, delay_ns: u64) -> Observation {
            let timestamp = self.timestamp.wrapping_add((i as u32).wrapping_mul(160));
            Observation { arrived_at: CaptureTime(self.sent_at(i) + delay_ns), timestamp }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        /// An hour of any phone within ±200 ppm, jitter up to 80 ms with a fair share of quick packets, timestamps
        /// that wrap anywhere: after the first seconds no place is more than 2.5 ms off, none ever more than 20 ms.
        #[test]
        fn an_hour_stays_on_the_capture_clock(
            ppm in -200.0..200.0f64,
            jitter_ms in 0u64..80,
            timestamp in any::<u32>(),
            started_at in 1_600_000_000_000_000_000u64..1_900_000_000_000_000_000,
            seed in any::<u64>(),
        ) {
            let phone = Phone { started_at, ppm, timestamp };
            let mut random = seed | 1;
            let mut delay = || {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                if random % 8 == 0 { random % 200_000 } else { random % (jitter_ms * 1_000_000 + 1) }
            };
            let first: Vec<_> = (0..10).map(|i| phone.packet(i, delay())).collect();
            let mut clock = StreamClock::anchor(first.iter().copied()).unwrap();
            let mut end = None;
            for i in 0..180_000u64 {
                let packet = phone.packet(i, if i < 10 { first[i as usize].arrived_at.0 - phone.sent_at(i) } else { delay() });
                prop_assert!(!clock.disagrees(packet));
                let extended = clock.extend(packet.timestamp);
                clock.observe(packet);
                let place = clock.place(extended);
                if let Some(end) = end {
                    prop_assert_eq!(place, end, "places of contiguous frames are contiguous");
                }
                end = Some(place + 160 + clock.step(160));
                let error_ms = (place * NANOS_PER_SAMPLE - phone.sent_at(i) as i64).abs() as f64 / 1e6;
                prop_assert!(error_ms <= 20.0 + jitter_ms as f64 * f64::from(u8::from(i < 5000)), "{error_ms} ms at {i}");
                if i > 15_000 {
                    prop_assert!(error_ms <= 2.5, "{error_ms} ms at {i}");
                }
            }
        }

        #[test]
        fn any_packets_are_harmless(packets in prop::collection::vec((any::<u64>(), any::<u32>()), 1..200)) {
            let packets: Vec<_> =
                packets.into_iter().map(|(at, timestamp)| Observation { arrived_at: CaptureTime(at), timestamp }).collect();
            let mut clock = StreamClock::anchor(packets.iter().copied()).unwrap();
            for (i, packet) in packets.iter().enumerate() {
                if clock.disagrees(*packet) {
                    clock = StreamClock::anchor(packets[i..].iter().copied()).unwrap();
                    prop_assert!(!clock.disagrees(*packet), "a packet agrees with the time line it anchors");
                }
                let extended = clock.extend(packet.timestamp);
                clock.observe(*packet);
                clock.step(160);
                clock.jump_in_silence(extended, Some(0));
                clock.jump_over_standing_lag();
                clock.place(extended);
            }
        }
    }

    #[test]
    fn the_quickest_of_the_first_packets_is_the_anchor() {
        let phone = Phone { started_at: 1_700_000_000_000_000_000, ppm: 0.0, timestamp: 77 };
        // Three packets held up by an ARP request and let go together, then an even stream.
        let packets = [(0, 60), (1, 40), (2, 20), (3, 0), (4, 3)].map(|(i, ms)| phone.packet(i, ms * 1_000_000));
        let clock = StreamClock::anchor(packets).unwrap();
        assert_eq!(clock.place(0), position_of(CaptureTime(phone.started_at)));
    }

    #[test]
    fn other_time_lines_disagree() {
        let phone = Phone { started_at: 1_700_000_000_000_000_000, ppm: 0.0, timestamp: 0 };
        let clock = StreamClock::anchor([phone.packet(0, 0)]).unwrap();
        let at = |i: u64, timestamp: u32| Observation { timestamp, ..phone.packet(i, 0) };
        assert!(!clock.disagrees(at(1, 160)));
        assert!(!clock.disagrees(at(40, 160)), "late by 0.8 s");
        assert!(clock.disagrees(at(60, 160)), "late by 1.2 s");
        assert!(clock.disagrees(at(1, 160 + 8000)), "a second early");
        assert!(clock.disagrees(at(1, 0x8000_0000)));
    }
}
