//! Packet loss concealment after ITU-T G.711 Appendix I: the last pitch periods are repeated, more of them the longer the
//! loss lasts, and faded to silence within 60 ms.
//!
//! One thing differs from the Appendix: it delays all output by 3.75 ms to blend the end of the good signal into the
//! repetition. Here the joint is closed by letting the difference at the joint die away over a quarter period, so what was
//! received is never altered, and the time line needs no delay. Fixed memory; bounded work per loss (about 13,000
//! multiplications for the pitch search).

/// Samples of good signal kept: three of the longest periods and a quarter (Appendix I §I.2.1).
pub(crate) const HISTORY_SAMPLES: usize = 390;
/// 66 to 200 Hz.
const PERIOD_MIN: usize = 40;
const PERIOD_MAX: usize = 120;
/// 20 ms.
const CORRELATION_SAMPLES: usize = 160;
/// 10 ms.
const BLOCK: usize = 80;
/// 10 ms.
pub(crate) const BLEND_SAMPLES_MAX: usize = BLOCK;
/// From here on, concealment is silent: 60 ms.
pub(crate) const CONCEALED_SAMPLES_MAX: usize = 6 * BLOCK;

/// The last samples received of a stream.
#[derive(Clone, Debug)]
pub(crate) struct History([i16; HISTORY_SAMPLES]);

impl History {
    pub(crate) fn new() -> Self {
        Self([0; HISTORY_SAMPLES])
    }

    pub(crate) fn clear(&mut self) {
        self.0.fill(0);
    }

    pub(crate) fn push(&mut self, samples: &[i16]) {
        if let Some(start) = samples.len().checked_sub(HISTORY_SAMPLES) {
            self.0.copy_from_slice(&samples[start..]);
        } else {
            self.0.copy_within(samples.len().., 0);
            self.0[HISTORY_SAMPLES - samples.len()..].copy_from_slice(samples);
        }
    }

    /// The lag at which the last 20 ms resemble what came before them most.
    fn pitch_period(&self) -> usize {
        let recent = &self.0[HISTORY_SAMPLES - CORRELATION_SAMPLES..];
        let mut best = (f32::MIN, PERIOD_MAX);
        for lag in PERIOD_MIN..=PERIOD_MAX {
            let start = HISTORY_SAMPLES - CORRELATION_SAMPLES - lag;
            let earlier = &self.0[start..start + CORRELATION_SAMPLES];
            let (mut product, mut energy) = (0i64, 0i64);
            for (a, b) in recent.iter().zip(earlier) {
                product += i64::from(i32::from(*a) * i32::from(*b));
                energy += i64::from(i32::from(*b) * i32::from(*b));
            }
            let correlation = product as f32 / (energy.max(1) as f32).sqrt();
            if correlation > best.0 {
                best = (correlation, lag);
            }
        }
        best.1
    }
}

/// A place in the repetition of the last `periods` pitch periods.
#[derive(Clone, Copy, Debug)]
struct Loop {
    periods: usize,
    position: usize,
}

/// The signal that stands in for a loss, from its first sample on.
#[derive(Debug)]
pub(crate) struct Concealment<'a> {
    history: &'a History,
    period: usize,
    current: Loop,
    /// The repetition that is being left, blended out over a quarter period.
    leaving: Option<Loop>,
    leaving_left: usize,
    produced: usize,
    /// Difference between the last good sample and the one that the repetition would have put there.
    joint: f32,
}

impl<'a> Concealment<'a> {
    pub(crate) fn new(history: &'a History) -> Self {
        let period = history.pitch_period();
        let last = history.0[HISTORY_SAMPLES - 1];
        let repeated = history.0[HISTORY_SAMPLES - 1 - period];
        Self {
            history,
            period,
            current: Loop { periods: 1, position: 0 },
            leaving: None,
            leaving_left: 0,
            produced: 0,
            joint: f32::from(last) - f32::from(repeated),
        }
    }

    fn quarter(&self) -> usize {
        self.period / 4
    }

    /// Samples over which concealment of a loss of this length is blended into the signal that follows (Appendix I
    /// §I.2.6): a quarter period, and 4 ms more for every 10 ms lost, at most 10 ms.
    pub(crate) fn blend_samples(&self, lost_samples: usize) -> usize {
        (self.quarter() + 32 * (lost_samples / BLOCK)).min(BLEND_SAMPLES_MAX)
    }

    pub(crate) fn fill(&mut self, samples: &mut [i16]) {
        for sample in samples {
            *sample = self.next_sample();
        }
    }

    fn next_sample(&mut self) -> i16 {
        if self.produced >= CONCEALED_SAMPLES_MAX {
            return 0;
        }
        if self.produced == BLOCK || self.produced == 2 * BLOCK {
            self.leaving = Some(self.current);
            self.leaving_left = self.quarter();
            self.current = Loop { periods: self.current.periods + 1, position: self.current.position % self.period };
        }
        let mut value = self.read(self.current);
        self.current.position = (self.current.position + 1) % (self.current.periods * self.period);
        if let Some(leaving) = &mut self.leaving {
            let leaving_loop = *leaving;
            leaving.position = (leaving.position + 1) % (leaving.periods * self.period);
            let weight = self.leaving_left as f32 / (self.quarter() + 1) as f32;
            value = value * (1.0 - weight) + self.read(leaving_loop) * weight;
            self.leaving_left -= 1;
            if self.leaving_left == 0 {
                self.leaving = None;
            }
        }
        if self.produced < self.quarter() {
            value += self.joint * (1.0 - self.produced as f32 / self.quarter() as f32);
        }
        // Full strength for 10 ms, then a fifth less every 10 ms.
        let fading = self.produced.saturating_sub(BLOCK) as f32 / (CONCEALED_SAMPLES_MAX - BLOCK) as f32;
        self.produced += 1;
        (value * (1.0 - fading)).round() as i16
    }

    /// A sample of the repetition. Its last quarter period is blended into what came before the first, so that the
    /// repetition closes on itself.
    fn read(&self, at: Loop) -> f32 {
        let length = at.periods * self.period;
        let start = HISTORY_SAMPLES - length;
        let value = f32::from(self.history.0[start + at.position]);
        let quarter = self.quarter();
        match (at.position + quarter).checked_sub(length) {
            Some(into) => {
                let weight = (into + 1) as f32 / (quarter + 1) as f32;
                value * (1.0 - weight) + f32::from(self.history.0[start - quarter + into]) * weight
            }
            None => value,
        }
    }
}

/// Blends the continued concealment into the beginning of the signal that was received after the loss.
pub(crate) fn blend(concealed: &[i16], received: &mut [i16]) {
    let parts = (concealed.len().min(received.len()) + 1) as f32;
    for (i, (sample, concealed)) in received.iter_mut().zip(concealed).enumerate() {
        let weight = (i + 1) as f32 / parts;
        *sample = (f32::from(*sample) * weight + f32::from(*concealed) * (1.0 - weight)).round() as i16;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn voiced(length: usize, period: f64) -> Vec<i16> {
        (0..length)
            .map(|i| {
                let phase = i as f64 * std::f64::consts::TAU / period;
                (6000.0 * phase.sin() + 3000.0 * (2.0 * phase).sin() + 1500.0 * (3.0 * phase + 1.0).cos()) as i16
            })
            .collect()
    }

    fn history_of(samples: &[i16]) -> History {
        let mut history = History::new();
        for frame in samples.chunks(160) {
            history.push(frame);
        }
        history
    }

    #[test]
    fn a_voiced_sound_goes_on_through_a_lost_packet() {
        for period in [43.0, 61.5, 80.0, 117.0] {
            let signal = voiced(960, period);
            let history = history_of(&signal[..800]);
            let mut concealed = [0i16; 160];
            Concealment::new(&history).fill(&mut concealed);
            // Over the first 10 ms, before the fading: what is missing is less than a tenth of the energy.
            let energy = |samples: &[i16]| samples.iter().map(|s| f64::from(*s).powi(2)).sum::<f64>();
            let error: Vec<i16> = concealed[..80].iter().zip(&signal[800..]).map(|(a, b)| a - b).collect();
            assert!(energy(&error) < 0.1 * energy(&signal[800..880]), "period {period}");
            assert!(energy(&concealed[80..]) > 0.5 * energy(&signal[880..]), "period {period}");
        }
    }

    #[test]
    fn concealment_is_silent_after_sixty_milliseconds() {
        let history = history_of(&voiced(800, 80.0));
        let mut concealed = [1i16; 640];
        Concealment::new(&history).fill(&mut concealed);
        assert!(concealed[..400].iter().any(|s| s.abs() > 500));
        assert!(concealed[470..480].iter().all(|s| s.abs() < 400));
        assert!(concealed[480..].iter().all(|s| *s == 0));
    }

    #[test]
    fn the_joint_has_no_step() {
        let signal = voiced(800, 70.3);
        let largest_step = signal.windows(2).map(|w| (w[1] - w[0]).abs()).max().unwrap();
        for end in 600..700 {
            let history = history_of(&signal[end - 400..end]);
            let mut concealed = [0i16; 1];
            Concealment::new(&history).fill(&mut concealed);
            assert!((concealed[0] - signal[end - 1]).abs() <= largest_step * 3 / 2);
        }
    }

    proptest! {
        #[test]
        fn any_history_gives_bounded_output(samples in prop::collection::vec(any::<i16>(), 0..1000), lost in 0usize..1000) {
            let history = history_of(&samples);
            let mut concealment = Concealment::new(&history);
            let mut out = vec![0i16; lost];
            concealment.fill(&mut out);
            let mut tail = [0i16; BLEND_SAMPLES_MAX];
            let tail = &mut tail[..concealment.blend_samples(lost)];
            concealment.fill(tail);
            blend(tail, &mut [i16::MIN; 80]);
        }

        #[test]
        fn history_keeps_the_newest(frames in prop::collection::vec(prop::collection::vec(any::<i16>(), 0..500), 1..6)) {
            let mut history = History::new();
            let mut all = vec![0i16; HISTORY_SAMPLES];
            for frame in &frames {
                history.push(frame);
                all.extend_from_slice(frame);
            }
            prop_assert_eq!(&history.0[..], &all[all.len() - HISTORY_SAMPLES..]);
        }
    }
}
