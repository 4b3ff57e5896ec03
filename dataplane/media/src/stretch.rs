//! A frame made one sample longer or shorter, by cubic interpolation over its whole length, so that a phone's clock can
//! be followed without a click: no sample is repeated or left out, all move by a fraction. First and last sample stay
//! what they are, so the frame joins its neighbours as before.

/// Resamples `input` to the length of `output`. Both hold at least two samples.
pub(crate) fn resample(input: &[i16], output: &mut [i16]) {
    assert!(input.len() >= 2 && output.len() >= 2, "a frame that is stretched holds at least two samples");
    let step = (input.len() - 1) as f32 / (output.len() - 1) as f32;
    let last = input.len() - 1;
    let at = |i: usize| f32::from(input[i.min(last)]);
    for (i, sample) in output.iter_mut().enumerate() {
        let position = i as f32 * step;
        let index = (position as usize).min(last - 1);
        let fraction = position - index as f32;
        // Catmull–Rom: through the samples, smooth in the first derivative.
        let (before, left, right, after) = (at(index.saturating_sub(1)), at(index), at(index + 1), at(index + 2));
        let slope = 0.5 * (right - before);
        let curve = before - 2.5 * left + 2.0 * right - 0.5 * after;
        let twist = 0.5 * (after - before) + 1.5 * (left - right);
        let value = ((twist * fraction + curve) * fraction + slope) * fraction + left;
        *sample = value.round() as i16;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tone_keeps_its_shape_and_its_ends() {
        let tone = |length: usize, step: f64| -> Vec<i16> {
            (0..length).map(|i| ((i as f64 * step * 0.35).sin() * 12_000.0).round() as i16).collect()
        };
        for target in [159usize, 161] {
            let input = tone(160, 1.0);
            let mut output = vec![0i16; target];
            resample(&input, &mut output);
            assert_eq!((output[0], output[target - 1]), (input[0], input[159]));
            let ideal = tone(target, 159.0 / (target - 1) as f64);
            let noise: f64 = output.iter().zip(&ideal).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum();
            let signal: f64 = ideal.iter().map(|a| f64::from(*a).powi(2)).sum();
            assert!(signal / noise > 1e5, "signal to noise {:.0} dB", 10.0 * (signal / noise).log10());
        }
    }

    #[test]
    fn extreme_samples_saturate() {
        let input: Vec<i16> = (0..160).map(|i| if i % 2 == 0 { i16::MAX } else { i16::MIN }).collect();
        let mut output = [0i16; 161];
        resample(&input, &mut output);
        assert_eq!(output[0], i16::MAX);
    }
}
