//! From grid steps to sealed chunks: Opus packets, gaps, and when a chunk is full.
//!
//! Opus is mono, 20 ms, variable rate, fed at 8 kHz. Its look-ahead is 52 samples (312 at 48 kHz), checked when an encoder is
//! made, because all tracks share that pre-skip and the readers rely on it.
//!
//! **Gaps.** A silence of up to [`BRIDGED_TICKS`] steps between two covered ones is encoded, so that the encoder goes on as
//! if nothing had happened. After a longer one the encoder starts from fresh, and the steps between hold no packet. Before
//! that, one more step is encoded if the last one did not end in silence, because its last 6.5 ms only come out then.
//!
//! **Packets.** A packet counts in the chunk that holds its beginning. One that has a cut in the middle ends in the next chunk, which
//! counts no packet if the sound ends there; and so may what Opus held back. Who loses such a chunk has lost the end of a packet,
//! which counts; the end of one in a chunk with packets of its own is not told beside these.
//!
//! **Cuts.** A chunk ends before the next multiple of [`TrackConfig::chunk_ticks`], and is sealed when that cut's time has come, full
//! or not.
//!
//! Invariants: a chunk begins and ends with a step that holds a packet; covers at most [`TICKS_PER_CHUNK_MAX`] steps, none of them
//! beyond the cut after its first one or after the last cut that was carried out; fits into the buffer that was
//! allocated with the writer; steps only grow from one chunk to the next, except after [`ChunkWriter::begin_anew`].

use crate::clock::SAMPLES_PER_TICK;
use crate::timeline::{TakenTick, TickSamples};
use crate::{MediaError, TrackConfig};
use opus::{Application, Bitrate, Channels, Encoder};
use sidetone_log::{ChunkCodec, ChunkHeader, ChunkPayload, TICKS_PER_CHUNK_MAX};
use sidetone_model::{RecordingId, Tick, TrackId};

/// Look-ahead at 8 kHz, in samples: 6.5 ms.
pub(crate) const LOOK_AHEAD_SAMPLES: usize = 52;
/// Silences up to 100 ms are encoded.
const BRIDGED_TICKS: u64 = 5;
/// 1 s of silence ends a run: what was held up in the network for longer is late.
const RUN_IDLE_TICKS: u64 = 50;
/// The longest Opus packet made here; at 16 kbit/s the average is 40 bytes. Opus keeps to what it is given.
const PACKET_BYTES_MAX: usize = 320;
/// Room for a chunk: so many parts of ten of what its steps take at the bit rate, which is an average. A chunk that would grow
/// beyond is sealed earlier.
const CHUNK_ROOM_TENTHS: usize = 18;
/// Sample values below this at the end of a step are silence: −54 dBFS.
const SILENCE: i16 = 64;

/// Grid steps of 20 ms.
const TICKS_PER_SECOND: usize = 50;

/// Where sealed chunks go.
pub trait ChunkSink {
    /// Takes a chunk; `false` when the writer has no room for it. Its packets are then counted as `losses.writer`.
    fn chunk(&mut self, header: &ChunkHeader, payload: &[u8]) -> bool;
}

/// What became of the packets that were handed to the writer.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct ChunkCounts {
    /// In chunks that the sink took.
    pub(crate) taken: u64,
    /// In chunks that the sink had no room for.
    pub(crate) refused: u64,
    /// Of `taken`: those whose last milliseconds were in a chunk that the sink had no room for.
    pub(crate) cut_short: u64,
    /// In steps that Opus failed to encode.
    pub(crate) failed: u64,
    /// Grid steps encoded, silence included.
    pub(crate) ticks_encoded: u64,
}

pub(crate) struct ChunkWriter {
    recording: RecordingId,
    track: TrackId,
    encoder: Encoder,
    /// The last step encoded in the current run; `None` when the next step starts a new run.
    last_tick: Option<u64>,
    ends_in_sound: bool,
    chunk_ticks: u64,
    /// The last cut that was carried out.
    cut: u64,
    first_tick: u64,
    /// The cut at which the open chunk ends.
    end_tick: u64,
    ticks: u16,
    packets: u16,
    payload: ChunkPayload,
    /// The sink had no room for the chunk before.
    was_refused: bool,
    counts: ChunkCounts,
}

/// Bytes of a chunk, at most.
fn room(config: &TrackConfig) -> usize {
    let step_bytes = config.bitrate_bits_per_second as usize / (8 * TICKS_PER_SECOND);
    (usize::from(config.chunk_ticks) * step_bytes * CHUNK_ROOM_TENTHS / 10).max(4 * PACKET_BYTES_MAX)
}

impl ChunkWriter {
    pub(crate) fn new(recording: RecordingId, track: TrackId, config: &TrackConfig) -> Result<Self, MediaError> {
        let failed = |operation: &'static str| move |source| MediaError::Encoder { operation, source };
        let mut encoder = Encoder::new(8000, Channels::Mono, Application::Voip).map_err(failed("make an encoder"))?;
        let bitrate = i32::try_from(config.bitrate_bits_per_second).unwrap_or(i32::MAX);
        encoder.set_bitrate(Bitrate::Bits(bitrate)).map_err(failed("set the bit rate"))?;
        encoder.set_complexity(i32::from(config.complexity)).map_err(failed("set the complexity"))?;
        encoder.set_vbr(true).map_err(failed("set variable bit rate"))?;
        let look_ahead = encoder.get_lookahead().map_err(failed("ask for the look-ahead"))?;
        if usize::try_from(look_ahead) != Ok(LOOK_AHEAD_SAMPLES) {
            return Err(MediaError::LookAhead { samples: look_ahead });
        }
        Ok(Self {
            recording,
            track,
            encoder,
            last_tick: None,
            ends_in_sound: false,
            chunk_ticks: u64::from(config.chunk_ticks),
            cut: 0,
            first_tick: 0,
            end_tick: 0,
            ticks: 0,
            packets: 0,
            payload: ChunkPayload(Vec::with_capacity(room(config))),
            was_refused: false,
            counts: ChunkCounts::default(),
        })
    }

    pub(crate) fn counts(&self) -> ChunkCounts {
        self.counts
    }

    /// Packets in the chunk that is not sealed yet.
    pub(crate) fn open_packets(&self) -> u16 {
        self.packets
    }

    /// Whether this cut was not carried out yet.
    pub(crate) fn is_open_at(&self, cut: u64) -> bool {
        self.cut < cut
    }

    /// Carries out a cut: no covered step before it is to come, except held-up ones. Gives the last step encoded if that
    /// ended a run.
    pub(crate) fn seal_at(&mut self, cut: u64, sink: &mut dyn ChunkSink) -> Option<u64> {
        self.cut = cut;
        let is_over = self.last_tick.is_some_and(|last| last.saturating_add(RUN_IDLE_TICKS) < cut);
        let ended = if is_over { self.end_run(sink) } else { None };
        self.seal(sink);
        ended
    }

    /// The capture clock went back: seals the open chunk, and forgets cuts that lie ahead now.
    pub(crate) fn begin_anew(&mut self, sink: &mut dyn ChunkSink) {
        self.seal(sink);
        self.cut = 0;
    }

    /// Encodes a covered step. Steps come in growing order.
    pub(crate) fn push(&mut self, taken: &TakenTick, sink: &mut dyn ChunkSink) {
        if let Some(last) = self.last_tick {
            assert!(taken.tick > last, "grid steps are encoded in order");
            let silent = taken.tick - last - 1;
            if silent <= BRIDGED_TICKS {
                for tick in last + 1..taken.tick {
                    self.encode(tick, &[0; SAMPLES_PER_TICK], 0, sink);
                }
            } else {
                self.end_run(sink);
            }
        }
        self.encode(taken.tick, &taken.samples, taken.packets, sink);
        self.ends_in_sound =
            taken.samples[SAMPLES_PER_TICK - LOOK_AHEAD_SAMPLES..].iter().any(|s| s.unsigned_abs() >= SILENCE as u16);
    }

    /// Sound has ended for longer than can be bridged: what Opus still holds of it comes out, and the next step begins
    /// with a fresh encoder. Returns the last step that holds a packet.
    pub(crate) fn end_run(&mut self, sink: &mut dyn ChunkSink) -> Option<u64> {
        let last = self.last_tick?;
        if self.ends_in_sound {
            self.encode(last + 1, &[0; SAMPLES_PER_TICK], 0, sink);
            self.ends_in_sound = false;
        }
        self.last_tick.take()
    }

    fn encode(&mut self, tick: u64, samples: &TickSamples, packets: u16, sink: &mut dyn ChunkSink) {
        if self.last_tick.is_none() {
            self.encoder.reset_state().expect("libopus resets every encoder that it made");
        }
        self.last_tick = Some(tick);
        let mut packet = [0u8; PACKET_BYTES_MAX];
        let Ok(length) = self.encoder.encode(samples, &mut packet) else {
            self.counts.failed += u64::from(packets);
            return;
        };
        self.counts.ticks_encoded += 1;
        self.make_room(tick, length, sink);
        while self.ticks > 0 && self.first_tick + u64::from(self.ticks) < tick {
            self.payload.push(&[]);
            self.ticks += 1;
        }
        if self.ticks == 0 {
            self.first_tick = tick;
            self.end_tick = (tick.max(self.cut) / self.chunk_ticks + 1) * self.chunk_ticks;
        }
        self.payload.push(&packet[..length]);
        self.ticks += 1;
        self.packets += packets;
        if self.ticks == TICKS_PER_CHUNK_MAX || tick + 1 == self.end_tick {
            self.seal(sink);
        }
    }

    /// Seals the open chunk if this step does not belong into it.
    fn make_room(&mut self, tick: u64, packet_bytes: usize, sink: &mut dyn ChunkSink) {
        if self.ticks == 0 {
            return;
        }
        let distance = tick.saturating_sub(self.first_tick);
        let empty_ticks = distance.saturating_sub(u64::from(self.ticks)) as usize;
        let is_before = tick < self.first_tick + u64::from(self.ticks);
        if is_before
            || tick >= self.end_tick
            || distance >= u64::from(TICKS_PER_CHUNK_MAX)
            || self.payload.0.len() + 2 * (empty_ticks + 1) + packet_bytes > self.payload.0.capacity()
        {
            self.seal(sink);
        }
    }

    /// Hands the open chunk, if any, to the sink.
    pub(crate) fn seal(&mut self, sink: &mut dyn ChunkSink) {
        if self.ticks == 0 {
            return;
        }
        let header = ChunkHeader {
            recording: self.recording,
            track: self.track,
            first_tick: Tick(self.first_tick),
            ticks: self.ticks,
            packets: self.packets,
            codec: ChunkCodec::OpusNarrowband,
            key_id: [0; 16],
            nonce: [0; 12],
            tag: [0; 16],
        };
        let is_taken = sink.chunk(&header, &self.payload.0);
        if is_taken {
            self.counts.taken += u64::from(self.packets);
        } else {
            self.counts.refused += u64::from(self.packets);
            self.counts.cut_short += u64::from(self.packets == 0 && !self.was_refused);
        }
        self.was_refused = !is_taken;
        self.payload.0.clear();
        self.ticks = 0;
        self.packets = 0;
    }
}
