//! 16-bit PCM in WAV files, mono or more channels, read and written whole.

use anyhow::{Context, Result, bail};
use std::fs;
use std::path::Path;

/// Sound as interleaved samples.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Wav {
    pub rate_hz: u32,
    pub channels: u16,
    pub samples: Vec<i16>,
}

impl Wav {
    pub fn mono(rate_hz: u32, samples: Vec<i16>) -> Self {
        Self { rate_hz, channels: 1, samples }
    }

    /// The samples of one channel, counted from 0.
    pub fn channel(&self, index: usize) -> Vec<i16> {
        self.samples.iter().skip(index).step_by(usize::from(self.channels)).copied().collect()
    }

    pub fn duration_seconds(&self) -> f64 {
        self.samples.len() as f64 / f64::from(self.channels) / f64::from(self.rate_hz)
    }

    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let data_bytes = u32::try_from(self.samples.len() * 2).context("sound too long for a WAV file")?;
        let frame_bytes = self.channels * 2;
        let mut bytes = Vec::with_capacity(44 + self.samples.len() * 2);
        bytes.extend_from_slice(b"RIFF");
        bytes.extend_from_slice(&(36 + data_bytes).to_le_bytes());
        bytes.extend_from_slice(b"WAVEfmt ");
        bytes.extend_from_slice(&16u32.to_le_bytes());
        bytes.extend_from_slice(&1u16.to_le_bytes());
        bytes.extend_from_slice(&self.channels.to_le_bytes());
        bytes.extend_from_slice(&self.rate_hz.to_le_bytes());
        bytes.extend_from_slice(&(self.rate_hz * u32::from(frame_bytes)).to_le_bytes());
        bytes.extend_from_slice(&frame_bytes.to_le_bytes());
        bytes.extend_from_slice(&16u16.to_le_bytes());
        bytes.extend_from_slice(b"data");
        bytes.extend_from_slice(&data_bytes.to_le_bytes());
        for sample in &self.samples {
            bytes.extend_from_slice(&sample.to_le_bytes());
        }
        fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))
    }

    /// # Errors
    /// When the file cannot be read or is not 16-bit PCM.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(&bytes).with_context(|| format!("{} is not a WAV file that can be used", path.display()))
    }

    fn parse(bytes: &[u8]) -> Result<Self> {
        if bytes.get(..4) != Some(b"RIFF") || bytes.get(8..12) != Some(b"WAVE") {
            bail!("no RIFF/WAVE header");
        }
        let u16_at = |at: usize| bytes.get(at..at + 2).map(|b| u16::from_le_bytes([b[0], b[1]]));
        let u32_at = |at: usize| bytes.get(at..at + 4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        let (mut at, mut format) = (12, None);
        while let (Some(name), Some(length)) = (bytes.get(at..at + 4), u32_at(at + 4)) {
            let body = at + 8;
            match name {
                b"fmt " => {
                    let (Some(coding), Some(channels), Some(rate_hz), Some(bits)) =
                        (u16_at(body), u16_at(body + 2), u32_at(body + 4), u16_at(body + 14))
                    else {
                        bail!("the format is cut off");
                    };
                    // 0xfffe: extensible; its subformat is PCM when the samples have 16 bits.
                    if !matches!(coding, 1 | 0xfffe) || bits != 16 || channels == 0 {
                        bail!("coding {coding} with {bits} bits and {channels} channels; 16-bit PCM is needed");
                    }
                    format = Some((rate_hz, channels));
                }
                b"data" => {
                    let Some((rate_hz, channels)) = format else { bail!("data before format") };
                    // A length that was never filled in (a writer that could not seek) means: up to the end.
                    let end = body.saturating_add(length as usize).min(bytes.len());
                    let samples = bytes[body..end].chunks_exact(2).map(|b| i16::from_le_bytes([b[0], b[1]])).collect();
                    return Ok(Self { rate_hz, channels, samples });
                }
                _ => {}
            }
            at = body.saturating_add(length as usize).saturating_add(length as usize & 1);
        }
        bail!("no data chunk");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let path = std::env::temp_dir().join(format!("sidetone-testkit-{}.wav", std::process::id()));
        let wav = Wav { rate_hz: 8000, channels: 2, samples: vec![1, -1, 300, -300, i16::MAX, i16::MIN] };
        wav.write(&path).unwrap();
        assert_eq!(Wav::read(&path).unwrap(), wav);
        assert_eq!(wav.channel(1), vec![-1, -300, i16::MIN]);
        fs::remove_file(path).unwrap();
    }

    #[test]
    fn cut_off_files_are_refused_or_read_up_to_the_end() {
        let mut bytes = Vec::new();
        bytes.extend_from_slice(b"RIFF\0\0\0\0WAVEfmt ");
        assert!(Wav::parse(&bytes).is_err());
        assert!(Wav::parse(b"").is_err());
    }
}
