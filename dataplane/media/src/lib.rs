//! From RTP to sealed chunks: order, decoding, clock alignment, concealment, Opus. One [`Track`] is the audio of one party in
//! one recording, mono, on the grid of 20 ms that all tracks share.
//!
//! Constraints: pure state machines: no I/O, no thread, no clock but the times that are given. After a stream is opened
//! nothing allocates, whatever the packets hold (`tests/allocations.rs`). Memory is bounded: a track's does not depend on
//! its length. No bytes make it panic. Every packet ends in exactly one counter ([`TrackAccounting`]).
//!
//! | what | where |
//! |---|---|
//! | the packet's bytes | [`rtp`], [`g711`], `payload` |
//! | order, duplicates, loss | `sequence`, `reorder`, `jitter` |
//! | place on the capture clock, drift | `clock`, `stretch` |
//! | lost packets | `conceal` |
//! | grid, several streams, late packets | `timeline`, `output` |
//! | Opus and chunks | `chunk` |
//! | when audio must be where | [`LatencyBudget`] |
//! | how they work together | `stream`, `track` |
#![forbid(unsafe_code)]

mod budget;
mod chunk;
mod clock;
mod conceal;
pub mod g711;
mod jitter;
mod output;
mod payload;
mod reorder;
pub mod rtp;
mod sequence;
mod stream;
mod stretch;
mod timeline;
mod track;

pub use budget::{LatencyBudget, TICKS_PER_CHUNK_MIN};
pub use chunk::ChunkSink;
pub use track::Track;

use sidetone_log::TICKS_PER_CHUNK_MAX;
use std::time::Duration;

/// A stream within its track.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct StreamSlot(u16);

impl StreamSlot {
    /// Given out when the track has as many streams as it can tell apart; packets for it are counted only.
    const BEYOND_LIMIT: Self = Self(u16::MAX);

    fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// How tracks are made.
///
/// The defaults: 16 kbit/s at complexity 1 reaches PESQ 4.3 of 4.5, and takes 1.1 ms of CPU and 2 KB per second of audio.
/// Complexity 2 and above cost more than twice the time for less than 0.1 PESQ, and encoding decides how many
/// calls a core carries. All of it was measured with libopus 1.6.1 on speech at 8 kHz.
///
/// The times are shares of the interval after which audio must be durable ([`LatencyBudget`]); the defaults are those of
/// one second.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TrackConfig {
    /// Opus target, 6,000 ..= 64,000.
    pub bitrate_bits_per_second: u32,
    /// Opus complexity, 0 ..= 10.
    pub complexity: u8,
    /// How long a packet is waited for, once a later one has come; also how many packets are heard before a
    /// stream's clock is anchored. At most 300 ms.
    pub reorder_window: Duration,
    /// How much later than the quickest packets of its stream a packet may come and still find its place open.
    /// At most 300 ms.
    pub jitter_allowance: Duration,
    /// Grid steps encoded at a time, 1 ..= 16; fewer before a cut.
    pub batch_ticks: u8,
    /// Chunks end at grid steps that are multiples of this, the same for all tracks. 5 ..= 50.
    pub chunk_ticks: u16,
}

impl Default for TrackConfig {
    fn default() -> Self {
        Self {
            bitrate_bits_per_second: 16_000,
            complexity: 1,
            reorder_window: Duration::from_millis(120),
            jitter_allowance: Duration::from_millis(80),
            batch_ticks: 8,
            chunk_ticks: 35,
        }
    }
}

impl TrackConfig {
    /// # Errors
    /// [`MediaError::Configuration`], naming the first value that is out of range.
    pub fn check(&self) -> Result<(), MediaError> {
        let in_range = [
            ("bitrate_bits_per_second", "6000 to 64000", (6_000..=64_000).contains(&self.bitrate_bits_per_second)),
            ("complexity", "0 to 10", self.complexity <= 10),
            ("reorder_window", "at most 300 ms", self.reorder_window <= Duration::from_millis(300)),
            ("jitter_allowance", "at most 300 ms", self.jitter_allowance <= Duration::from_millis(300)),
            ("batch_ticks", "1 to 16", (1..=16).contains(&self.batch_ticks)),
            ("chunk_ticks", "5 to 50", (TICKS_PER_CHUNK_MIN..=TICKS_PER_CHUNK_MAX).contains(&self.chunk_ticks)),
        ];
        match in_range.into_iter().find(|(_, _, holds)| !holds) {
            Some((name, range, _)) => Err(MediaError::Configuration { name, range }),
            None => Ok(()),
        }
    }
}

/// Where the packets of a track went. Each is in exactly one of the counters that [`Self::is_balanced`] adds up.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct TrackAccounting {
    /// RTP packets that came for the track, those lost in our own rings included.
    pub packets: u64,
    /// In chunks that the writer took.
    pub encoded: u64,
    /// Not decided yet: in a reorder queue, on the time line, or in the open chunk. Zero after [`Track::finish`].
    pub pending: u64,
    /// Received before.
    pub duplicates: u64,
    /// Came when their place had been encoded.
    pub late: u64,
    /// Events, comfort noise, empty packets.
    pub no_audio: u64,
    /// Encrypted, malformed, or of a codec without a decoder here.
    pub undecodable: u64,
    /// Spoken over by another stream of the track.
    pub overlapped: u64,
    /// Numbers that fit neither the stream nor the packet after them.
    pub strays: u64,
    /// Of streams beyond the number that a track tells apart.
    pub beyond_stream_limit: u64,
    /// Lost before they came here, in the encoder's full ring.
    pub lost_before_encoder: u64,
    /// In chunks that the writer had no room for.
    pub lost_to_writer: u64,
    /// Of `encoded`: the writer had no room for the chunk with their last milliseconds.
    pub cut_short: u64,
    /// In grid steps that Opus failed to encode.
    pub failed: u64,

    /// Packets laid on the time line: `encoded + lost_to_writer + failed +` the part of `pending` that left the queues.
    pub placed: u64,
    /// Datagrams that are no RTP; not in `packets`.
    pub not_rtp: u64,
    /// Grid steps encoded.
    pub ticks_encoded: u64,
}

impl TrackAccounting {
    /// What the recorder lost by lack of encoding: ring full, or Opus failed.
    pub fn lost_to_encoder(&self) -> u64 {
        self.lost_before_encoder + self.failed
    }

    /// Packets of audio that were read.
    pub fn decoded(&self) -> u64 {
        self.placed + self.late + self.overlapped
    }

    /// `packets` = the sum of all ends.
    pub fn is_balanced(&self) -> bool {
        self.packets
            == self.encoded
                + self.pending
                + self.duplicates
                + self.late
                + self.no_audio
                + self.undecodable
                + self.overlapped
                + self.strays
                + self.beyond_stream_limit
                + self.lost_to_encoder()
                + self.lost_to_writer
    }
}

/// Why a track cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum MediaError {
    #[error("track configuration: {name} must be {range}")]
    Configuration { name: &'static str, range: &'static str },
    #[error("Opus: could not {operation}")]
    Encoder {
        operation: &'static str,
        #[source]
        source: opus::Error,
    },
    #[error("Opus looks ahead by {samples} samples at 8 kHz instead of 52: readers rely on a pre-skip of 312")]
    LookAhead { samples: i32 },
}
