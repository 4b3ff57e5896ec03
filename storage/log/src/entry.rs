//! What the log holds: chunks of audio and facts.

use serde::{Deserialize, Serialize};
use sidetone_model::{CaptureTime, Recording, RecordingId, Tick, TrackId};
use std::sync::Arc;

/// A place in the journal: the file's number and the byte offset in it. Orders as written.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub struct LogPosition {
    pub file: u32,
    pub offset: u64,
}

/// The longest chunk: 1 s of one track.
pub const TICKS_PER_CHUNK_MAX: u16 = 50;

/// About a second of one track: consecutive grid steps, some of which may hold no packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ChunkHeader {
    pub recording: RecordingId,
    pub track: TrackId,
    /// Grid step of the first frame; frame `i` lies at `first_tick + i`.
    pub first_tick: Tick,
    /// Grid steps covered, 1 ..= [`TICKS_PER_CHUNK_MAX`].
    pub ticks: u16,
    /// RTP packets whose audio this chunk holds; what is lost when the chunk is.
    pub packets: u16,
    pub codec: ChunkCodec,
    /// Room for sealing: all zero while recordings are kept in clear.
    pub key_id: [u8; 16],
    pub nonce: [u8; 12],
    pub tag: [u8; 16],
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum ChunkCodec {
    /// Opus, mono, 20 ms packets, encoder fed at 8 kHz, pre-skip 312 samples at 48 kHz (6.5 ms).
    OpusNarrowband = 1,
}

/// The payload of a chunk: per grid step a length (u16, little-endian) and so many bytes of an Opus packet; length 0
/// is a step without audio.
#[derive(Clone, Debug, Default)]
pub struct ChunkPayload(pub Vec<u8>);

impl ChunkPayload {
    /// Appends the packet of the next grid step; empty for a step without audio.
    pub fn push(&mut self, packet: &[u8]) {
        let length = u16::try_from(packet.len()).expect("an Opus packet is shorter than 64 KiB");
        self.0.extend_from_slice(&length.to_le_bytes());
        self.0.extend_from_slice(packet);
    }
}

/// The packets of a chunk payload in grid order; ends early where the payload is malformed.
pub fn chunk_packets(payload: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = payload;
    std::iter::from_fn(move || {
        let (length, tail) = rest.split_first_chunk::<2>()?;
        let (packet, tail) = tail.split_at_checked(usize::from(u16::from_le_bytes(*length)))?;
        rest = tail;
        Some(packet)
    })
}

/// Anything that happened other than audio.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "fact", rename_all = "snake_case")]
pub enum Fact {
    /// The recording as it stands; replaces all earlier ones with the same id. `resume` is the call tracker's state,
    /// from which it goes on after a restart; present only while the recording is active.
    Recording {
        recording: Arc<Recording>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        resume: Option<serde_json::Value>,
    },
    /// A capture file was replayed into this store to its end.
    Replayed { digest: String, at: CaptureTime },
}
