//! From packets to samples, and from the samples of two sides to packets of their sum.
//!
//! Blocks are decoded each for itself, so that any part of a file can be made without what comes before, and comes out the same
//! whichever way it is asked for. Opus decoders depend on the past; each block starts [`PRIMING_TICKS`]
//! earlier with a fresh one, by which time it gives the samples of one that has decoded from the beginning.

use crate::PlaybackError;
use crate::lane::{LaneBlock, Lost, LostAudio};
use crate::opus_packet::SILENT_PACKET;
use crate::source::ChunkSource;
use sidetone_model::{Tick, TrackId};
use sidetone_store::StoreError;
use std::ops::Range;

pub(crate) const SAMPLES_PER_TICK: usize = 160;
/// [`crate::ogg::PRE_SKIP_48K`] at 8 kHz: so much later than it belongs stands a sample in what a decoder gives.
pub(crate) const PRE_SKIP: usize = 52;
/// One second.
const PRIMING_TICKS: u64 = 50;

/// Bytes of every packet of a mix, so that the file's length is known before anything is encoded: 24 kbit/s.
pub(crate) const MIX_PACKET_BYTES: usize = 60;
const MIX_BITS_PER_SECOND: i32 = MIX_PACKET_BYTES as i32 * 8 * 50;
const MIX_COMPLEXITY: i32 = 5;

/// Where grid step 0 of a file lies, and what its lanes are read from.
pub(crate) struct Timeline<'a> {
    pub(crate) source: &'a dyn ChunkSource,
    pub(crate) first_tick: Tick,
    /// What is read after this grid step (counted from `first_tick`) is silence.
    pub(crate) ticks: u64,
}

#[derive(Debug)]
pub(crate) enum DecodeError {
    Store(StoreError),
    Opus { operation: &'static str, source: opus::Error },
}

impl From<StoreError> for DecodeError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl DecodeError {
    pub(crate) fn into_playback(self, recording: sidetone_model::RecordingId) -> PlaybackError {
        match self {
            Self::Store(source) => PlaybackError::Store { recording, source },
            Self::Opus { operation, source } => PlaybackError::Opus { operation, source },
        }
    }
}

impl Timeline<'_> {
    /// The packets of `ticks`, counted from the file's beginning.
    pub(crate) fn packets(&self, lane: &[TrackId], ticks: Range<u64>) -> Result<LaneBlock, StoreError> {
        let end = ticks.end.min(self.ticks).max(ticks.start);
        LaneBlock::read(self.source, lane, Tick(self.first_tick.0 + ticks.start)..Tick(self.first_tick.0 + end))
    }

    /// Decodes `ticks` of a lane: [`SAMPLES_PER_TICK`] samples for each, still [`PRE_SKIP`] samples late.
    pub(crate) fn decode(
        &self,
        lane: &[TrackId],
        ticks: Range<u64>,
        lost: &mut LostAudio,
    ) -> Result<Vec<i16>, DecodeError> {
        let from = ticks.start.saturating_sub(PRIMING_TICKS);
        let block = self.packets(lane, from..ticks.end)?;
        let fail = |operation| move |source| DecodeError::Opus { operation, source };
        let mut decoder =
            opus::Decoder::new(crate::wav::SAMPLE_RATE_HZ, opus::Channels::Mono).map_err(fail("make a decoder"))?;
        let mut samples = Vec::with_capacity((ticks.end - ticks.start) as usize * SAMPLES_PER_TICK);
        for tick in from..ticks.end {
            let mut frame = [0; SAMPLES_PER_TICK];
            let stored = block.packet_of((tick - from) as usize);
            let packet = stored.map_or(&SILENT_PACKET[..], |(_, packet)| packet);
            if let Err(error) = decoder.decode(packet, &mut frame, false) {
                if let Some((track, _)) = stored {
                    // Well-formed outside, nonsense inside.
                    let at = Tick(self.first_tick.0 + tick);
                    let reason = format!("the packet there cannot be decoded: {error}");
                    lost.note(Lost { track, ticks: at..Tick(at.0 + 1), reason });
                }
                decoder.decode(&SILENT_PACKET, &mut frame, false).map_err(fail("decode silence"))?;
            }
            if tick >= ticks.start {
                samples.extend_from_slice(&frame);
            }
        }
        block.lost.into_iter().for_each(|found| lost.note(found));
        Ok(samples)
    }

    /// Decodes `ticks` of several lanes and adds them up, louder than full scale clipped.
    pub(crate) fn decode_sum(
        &self,
        lanes: &[Vec<TrackId>],
        ticks: Range<u64>,
        lost: &mut LostAudio,
    ) -> Result<Vec<i16>, DecodeError> {
        let mut sum = vec![0i16; (ticks.end - ticks.start) as usize * SAMPLES_PER_TICK];
        for lane in lanes {
            let samples = self.decode(lane, ticks.clone(), lost)?;
            for (sum, sample) in sum.iter_mut().zip(samples) {
                *sum = sum.saturating_add(sample);
            }
        }
        Ok(sum)
    }

    /// The packets of the lanes' sum for `ticks`, each of [`MIX_PACKET_BYTES`]. Encoding delays by the pre-skip once
    /// more, so what goes in has had the first pre-skip removed.
    pub(crate) fn encode_sum(
        &self,
        lanes: &[Vec<TrackId>],
        ticks: Range<u64>,
        lost: &mut LostAudio,
        mut packet: impl FnMut(&[u8]),
    ) -> Result<(), DecodeError> {
        let from = ticks.start.saturating_sub(PRIMING_TICKS);
        let samples = self.decode_sum(lanes, from..ticks.end + 1, lost)?;
        let fail = |operation| move |source| DecodeError::Opus { operation, source };
        let mut encoder = mix_encoder().map_err(fail("make an encoder"))?;
        let frames = samples[PRE_SKIP..].chunks_exact(SAMPLES_PER_TICK);
        for (tick, frame) in (from..ticks.end).zip(frames) {
            let mut bytes = [0; MIX_PACKET_BYTES];
            let length = encoder.encode(frame, &mut bytes).map_err(fail("encode a mix"))?;
            assert_eq!(length, MIX_PACKET_BYTES, "libopus fills every packet at a constant bit rate");
            if tick >= ticks.start {
                packet(&bytes);
            }
        }
        Ok(())
    }
}

fn mix_encoder() -> Result<opus::Encoder, opus::Error> {
    let mut encoder = opus::Encoder::new(crate::wav::SAMPLE_RATE_HZ, opus::Channels::Mono, opus::Application::Voip)?;
    encoder.set_bitrate(opus::Bitrate::Bits(MIX_BITS_PER_SECOND))?;
    encoder.set_vbr(false)?;
    encoder.set_complexity(MIX_COMPLEXITY)?;
    Ok(encoder)
}
