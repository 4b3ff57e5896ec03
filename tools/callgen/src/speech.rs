//! Speech at 8000 Hz: from files, or synthesised. The synthesis is no voice, but has what codecs and meters look at:
//! voiced and unvoiced sounds, formants, pitch that moves, syllables, pauses, and a quiet line in between.

use crate::random::Random;
use std::path::{Path, PathBuf};

pub const SAMPLE_RATE: u32 = 8000;

/// One voice: 16-bit samples at 8000 Hz.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Speech(pub Vec<i16>);

#[derive(Debug, thiserror::Error)]
pub enum SpeechError {
    #[error("cannot read {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{path} is not a WAV file with one channel of 16-bit samples at 8000 Hz: {problem}")]
    Format { path: PathBuf, problem: &'static str },
}

/// Reads a voice: a WAV file (PCM, one channel, 16 bits, 8000 Hz), or raw little-endian samples (`.raw`, `.s16`).
pub fn load_speech(path: &Path) -> Result<Speech, SpeechError> {
    let bytes = std::fs::read(path).map_err(|source| SpeechError::Read { path: path.to_owned(), source })?;
    let samples =
        |bytes: &[u8]| Speech(bytes.as_chunks::<2>().0.iter().map(|pair| i16::from_le_bytes(*pair)).collect());
    if path.extension().is_some_and(|extension| extension == "raw" || extension == "s16") {
        return Ok(samples(&bytes));
    }
    let bad = |problem| SpeechError::Format { path: path.to_owned(), problem };
    if bytes.get(..4) != Some(b"RIFF") || bytes.get(8..12) != Some(b"WAVE") {
        return Err(bad("no RIFF/WAVE header"));
    }
    let mut rest = &bytes[12..];
    let mut is_right_format = false;
    while rest.len() >= 8 {
        let (header, body) = rest.split_at(8);
        let size = u32::from_le_bytes([header[4], header[5], header[6], header[7]]) as usize;
        let chunk = &body[..size.min(body.len())];
        match &header[..4] {
            b"fmt " => {
                let expected: [u8; 8] = [1, 0, 1, 0, 0x40, 0x1f, 0, 0];
                if chunk.get(..8) != Some(&expected) || chunk.get(14..16) != Some(&[16, 0]) {
                    return Err(bad("another format"));
                }
                is_right_format = true;
            }
            b"data" if is_right_format => return Ok(samples(chunk)),
            _ => {}
        }
        rest = body.get(size.saturating_add(size & 1)..).unwrap_or(&[]);
    }
    Err(bad("no samples"))
}

/// A resonance: a two-pole filter.
#[derive(Default)]
struct Formant {
    a1: f64,
    a2: f64,
    gain: f64,
    y1: f64,
    y2: f64,
}

impl Formant {
    fn tune(&mut self, frequency_hz: f64, bandwidth_hz: f64) {
        let rate = f64::from(SAMPLE_RATE);
        let radius = (-std::f64::consts::PI * bandwidth_hz / rate).exp();
        self.a1 = 2.0 * radius * (2.0 * std::f64::consts::PI * frequency_hz / rate).cos();
        self.a2 = -radius * radius;
        self.gain = 1.0 - radius;
    }

    fn filter(&mut self, input: f64) -> f64 {
        let output = self.gain * input + self.a1 * self.y1 + self.a2 * self.y2;
        self.y2 = self.y1;
        self.y1 = output;
        output
    }
}

/// First and second formants of some vowels, in Hz (Peterson and Barney 1952, men).
const VOWELS: [(f64, f64); 7] = [
    (270.0, 2290.0),
    (390.0, 1990.0),
    (530.0, 1840.0),
    (730.0, 1090.0),
    (570.0, 840.0),
    (440.0, 1020.0),
    (300.0, 870.0),
];

/// `samples` samples in which the voice speaks in turns of some seconds: it is quiet while the other side speaks, which
/// starts the other way round (`speaks_first`).
pub(crate) fn synthesize(seed: u64, samples: usize, speaks_first: bool) -> Vec<i16> {
    let mut random = Random::new(seed);
    let mut output = Vec::with_capacity(samples);
    let pitch = random.between(90.0, 230.0);
    let level = random.between(5_000.0, 11_000.0);
    let mut formants: [Formant; 3] = Default::default();
    let mut phase = 0.0f64;
    let mut speaking = speaks_first;
    while output.len() < samples {
        let turn_end = output.len() + (random.between(1.5, 4.0) * f64::from(SAMPLE_RATE)) as usize;
        while output.len() < turn_end.min(samples) {
            if !speaking {
                output.push((random.normal() * 6.0) as i16);
                continue;
            }
            syllable(&mut random, &mut formants, &mut phase, (pitch, level), &mut output);
        }
        speaking = !speaking;
    }
    output.truncate(samples);
    output
}

fn syllable(
    random: &mut Random,
    formants: &mut [Formant; 3],
    phase: &mut f64,
    (pitch, level): (f64, f64),
    output: &mut Vec<i16>,
) {
    let rate = f64::from(SAMPLE_RATE);
    let length = (random.between(0.12, 0.32) * rate) as usize;
    let fricative = (random.between(0.0, 0.09) * rate) as usize;
    let (first, second) = VOWELS[random.below(VOWELS.len() as u64) as usize];
    formants[0].tune(first, 70.0);
    formants[1].tune(second, 110.0);
    formants[2].tune(2700.0, 170.0);
    let from = pitch * random.between(0.85, 1.2);
    let to = pitch * random.between(0.8, 1.1);
    for n in 0..length {
        let position = n as f64 / length as f64;
        let envelope = (std::f64::consts::PI * position).sin().powf(0.6);
        let sample = if n < fricative {
            random.normal() * 0.04
        } else {
            *phase += (from + (to - from) * position) / rate;
            let pulse = if *phase >= 1.0 {
                *phase -= 1.0;
                12.0
            } else {
                0.0
            };
            let source = pulse + random.normal() * 0.02;
            formants[0].filter(source) * 1.0 + formants[1].filter(source) * 0.6 + formants[2].filter(source) * 0.3
        };
        let value = sample * envelope * level * 0.35 + random.normal() * 6.0;
        output.push(value.clamp(-30_000.0, 30_000.0) as i16);
    }
    if random.chance(0.2) {
        let pause = (random.between(0.05, 0.4) * rate) as usize;
        output.extend((0..pause).map(|_| (random.normal() * 6.0) as i16));
    }
}

/// `samples` samples of a given voice, from a place chosen by the seed on, repeated as often as needed.
pub(crate) fn excerpt(voice: &Speech, seed: u64, samples: usize) -> Vec<i16> {
    if voice.0.is_empty() {
        return vec![0; samples];
    }
    let from = Random::new(seed).below(voice.0.len() as u64) as usize;
    voice.0.iter().copied().cycle().skip(from).take(samples).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speech_is_reproducible_loud_enough_and_has_pauses() {
        let one = synthesize(7, 80_000, true);
        assert_eq!(one, synthesize(7, 80_000, true));
        assert_ne!(one, synthesize(8, 80_000, true));
        let frames: Vec<f64> =
            one.chunks(160).map(|f| (f.iter().map(|&s| f64::from(s).powi(2)).sum::<f64>() / 160.0).sqrt()).collect();
        let loud = frames.iter().filter(|level| **level > 500.0).count();
        let quiet = frames.iter().filter(|level| **level < 30.0).count();
        assert!(loud > 100 && quiet > 100, "{loud} loud and {quiet} quiet frames of {}", frames.len());
        assert!(one.iter().all(|sample| sample.unsigned_abs() <= 30_000));
    }

    #[test]
    fn wav_files_are_read_and_others_refused() {
        let directory = std::env::temp_dir().join(format!("callgen-speech-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let path = directory.join("voice.wav");
        let mut wav =
            b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0\x01\0\x01\0\x40\x1f\0\0\x80\x3e\0\0\x02\0\x10\0data\x04\0\0\0".to_vec();
        wav.extend([1, 0, 0xff, 0xff]);
        std::fs::write(&path, &wav).unwrap();
        assert_eq!(load_speech(&path).unwrap(), Speech(vec![1, -1]));
        for cut in 0..wav.len() - 4 {
            std::fs::write(&path, &wav[..cut]).unwrap();
            assert!(load_speech(&path).is_ok_and(|speech| speech.0.is_empty()) || load_speech(&path).is_err());
        }
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
