//! Conversations for the phones: synthetic voices that take turns, from a seed. Each utterance is synthesised once
//! (espeak-ng, then sox to 8 kHz) and kept in a directory, so that a hundred calls cost no processor time.

use crate::process::{Network, command, output};
use crate::random::Random;
use crate::wav::Wav;
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};

pub const RATE_HZ: u32 = 8000;

/// Voices of espeak-ng with variants, well apart in pitch and timbre.
const VOICES: [&str; 6] = ["en-gb+m1", "en-us+f2", "en-gb+m7", "en-gb+f4", "en-us+m4", "en-us+f5"];

const SENTENCES: [&str; 16] = [
    "Good morning, this is the front desk, how can I help you?",
    "I am calling about the delivery that should have come on Tuesday.",
    "Could you give me the order number, please?",
    "Yes, of course, it is seven four nine, two zero three, eight.",
    "Thank you. One moment, I am looking at it now.",
    "The parcel left our warehouse yesterday in the evening.",
    "That is strange, because nobody has told us anything about it.",
    "I understand. The driver could not find the entrance on the north side.",
    "There is a small blue gate right behind the old bakery.",
    "Shall I ask them to come again tomorrow between nine and eleven?",
    "Eleven would be better, we open a little later during the winter.",
    "Fine, I have written that down, and they will call before they arrive.",
    "Please use the number that you see on your screen, not the old one.",
    "Very good. Is there anything else that I can do for you today?",
    "No, that was all, thank you very much for the quick help.",
    "You are welcome, have a pleasant afternoon, and goodbye.",
];

/// What the two parties say, equally long.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Conversation {
    pub caller: Vec<i16>,
    pub callee: Vec<i16>,
}

impl Conversation {
    /// Both sides sound without a pause for `seconds`, no 20 ms like another: where a recording of it is silent, audio is
    /// missing. From a seed.
    pub fn never_silent(seed: u64, seconds: u32) -> Self {
        let mut random = Random(seed);
        let mut side = || {
            let wander = [3.1, 7.7, 5.3].map(|rate| rate + random.below(1000) as f64 / 1000.0);
            let mut phase = 0.0f64;
            let sample = |i: u32| {
                let t = f64::from(i) / f64::from(RATE_HZ);
                let pitch = 180.0 + 40.0 * (t * wander[0]).sin() + 15.0 * (t * wander[1]).sin();
                phase += pitch / f64::from(RATE_HZ) * std::f64::consts::TAU;
                let voice = phase.sin() + 0.5 * (2.0 * phase).sin() + 0.3 * (5.0 * phase + t * wander[2]).sin();
                (voice * 4000.0) as i16
            };
            (0..seconds * RATE_HZ).map(sample).collect()
        };
        Self { caller: side(), callee: side() }
    }
}

/// Utterances in a directory.
pub struct Library {
    directory: PathBuf,
}

impl Library {
    /// # Errors
    /// When the directory cannot be made.
    pub fn open(directory: &Path) -> Result<Self> {
        fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
        Ok(Self { directory: directory.to_owned() })
    }

    /// A conversation of exactly `seconds`; the same seed gives the same one.
    ///
    /// # Errors
    /// When espeak-ng or sox is missing or fails.
    pub fn conversation(&self, seed: u64, seconds: u32) -> Result<Conversation> {
        let mut random = Random(seed);
        let length = (seconds * RATE_HZ) as usize;
        // A line is never digitally silent: a noise floor near −70 dBFS on both sides.
        let mut sides: [Vec<i16>; 2] =
            std::array::from_fn(|_| (0..length).map(|_| random.below(21) as i16 - 10).collect());
        let caller_voice = random.below(VOICES.len() as u64) as usize;
        let step = 1 + random.below(VOICES.len() as u64 - 1) as usize;
        let voices = [caller_voice, (caller_voice + step) % VOICES.len()];
        let mut sentence = random.below(SENTENCES.len() as u64) as usize;
        // The called party speaks first, as people do.
        let mut speaker = 1;
        let mut at = 1600;
        while at < length {
            let words = self.utterance(voices[speaker], sentence)?;
            for (sample, &word) in sides[speaker][at..].iter_mut().zip(&words) {
                *sample = sample.saturating_add(word);
            }
            at += words.len() + 1200 + random.below(4000) as usize;
            sentence = (sentence + 1) % SENTENCES.len();
            speaker = 1 - speaker;
        }
        let [caller, callee] = sides;
        Ok(Conversation { caller, callee })
    }

    fn utterance(&self, voice: usize, sentence: usize) -> Result<Vec<i16>> {
        let path = self.directory.join(format!("v1-{voice}-{sentence}.wav"));
        if !path.exists() {
            self.synthesise(voice, sentence, &path)?;
        }
        let wav = Wav::read(&path)?;
        if (wav.rate_hz, wav.channels) != (RATE_HZ, 1) {
            bail!("{} has {} Hz and {} channels: remove it", path.display(), wav.rate_hz, wav.channels);
        }
        Ok(wav.samples)
    }

    fn synthesise(&self, voice: usize, sentence: usize, path: &Path) -> Result<()> {
        let temporary =
            |kind: &str| self.directory.join(format!("{kind}-{}-{voice}-{sentence}.wav", std::process::id()));
        let (full, narrow) = (temporary("full"), temporary("narrow"));
        let mut speak = command(&Network::Own, "espeak-ng");
        speak.args(["-v", VOICES[voice], "-s", "165", "-w"]).arg(&full).arg(SENTENCES[sentence]);
        output(&mut speak).context("synthesising speech")?;
        let mut convert = command(&Network::Own, "sox");
        // −R: the same dither each time; the gain leaves room for the resampling filter.
        convert.arg("-R").arg(&full).args(["-r", "8000", "-c", "1", "-b", "16"]).arg(&narrow).args(["gain", "-3"]);
        output(&mut convert).context("converting speech to 8 kHz")?;
        fs::remove_file(&full).with_context(|| format!("cannot remove {}", full.display()))?;
        // Runs beside each other may do this at once; each sees a whole file.
        fs::rename(&narrow, path).with_context(|| format!("cannot name {}", path.display()))
    }
}
