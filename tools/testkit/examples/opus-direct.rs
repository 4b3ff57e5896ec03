//! Codes a WAV file (8 kHz, mono) with libopus at the recorder's default setting and decodes it again, with nothing
//! between: what the recorder's audio is measured against. `opus-direct IN.wav OUT.wav`

use anyhow::{Context, Result, bail};
use sidetone_media::TrackConfig;
use sidetone_testkit::wav::Wav;
use std::path::Path;

const RATE_HZ: u32 = 8000;
const FRAME_SAMPLES: usize = 160;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [input, output] = arguments.as_slice() else { bail!("usage: opus-direct IN.wav OUT.wav") };
    let wav = Wav::read(Path::new(input))?;
    if (wav.rate_hz, wav.channels) != (RATE_HZ, 1) {
        bail!("{input} has {} Hz and {} channels", wav.rate_hz, wav.channels);
    }
    let config = TrackConfig::default();
    let mut encoder = opus::Encoder::new(RATE_HZ, opus::Channels::Mono, opus::Application::Voip)?;
    encoder.set_bitrate(opus::Bitrate::Bits(i32::try_from(config.bitrate_bits_per_second)?))?;
    encoder.set_complexity(i32::from(config.complexity))?;
    encoder.set_vbr(true)?;
    let look_ahead = usize::try_from(encoder.get_lookahead()?)?;
    let mut decoder = opus::Decoder::new(RATE_HZ, opus::Channels::Mono)?;

    let mut samples = wav.samples.clone();
    samples.resize((wav.samples.len() + look_ahead).next_multiple_of(FRAME_SAMPLES), 0);
    let mut decoded = Vec::with_capacity(samples.len());
    let (mut packet, mut frame) = ([0u8; 1500], [0i16; FRAME_SAMPLES]);
    for chunk in samples.chunks_exact(FRAME_SAMPLES) {
        let length = encoder.encode(chunk, &mut packet)?;
        let count = decoder.decode(&packet[..length], &mut frame, false)?;
        decoded.extend_from_slice(&frame[..count]);
    }
    let heard = decoded.get(look_ahead..look_ahead + wav.samples.len()).context("the decoder returned too little")?;
    Wav::mono(RATE_HZ, heard.to_vec()).write(Path::new(output))
}
