//! What the log holds: chunks of audio and facts.

use crate::{Chunk, LogError, format};
use serde::{Deserialize, Serialize};
use sidetone_model::{Annotations, CaptureTime, MerkleRoot, Recording, RecordingId, SavedCall, Tick, TrackId};
use std::sync::Arc;

/// A place in the journal: the file's number and the byte offset in it. Orders as written.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub struct LogPosition {
    pub file: u32,
    pub offset: u64,
}

/// A volume of a store: 0 is the store directory itself.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct VolumeNumber(pub u8);

/// Orders the facts of a store, over all its volumes. Of two facts about the same thing the one with the higher sequence holds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FactSequence(pub u64);

/// A segment of a volume, as its file name says; counted from 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SegmentNumber(pub u32);

/// Consecutive chunks of one recording in a segment, and the facts before them.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Run {
    pub volume: VolumeNumber,
    pub segment: SegmentNumber,
    /// First byte of the run in the segment, and its length in bytes, the run index included.
    pub offset: u64,
    pub length: u64,
    /// Where the run index begins, counted from `offset`.
    pub index_offset: u64,
    pub chunks: u32,
    pub payload_bytes: u64,
    /// The grid steps from the first chunk's first to behind the last chunk's last.
    pub first_tick: Tick,
    pub end_tick: Tick,
    /// Over the run's chunk records, in order.
    pub root: MerkleRoot,
}

/// How far a volume's journal is in runs, as far as one recording is concerned.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Through {
    pub volume: VolumeNumber,
    /// The recording's chunks before this position lie in runs.
    pub position: LogPosition,
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

/// A chunk's record as it is stored, header and checksum proven: what is copied from a journal into a segment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ChunkRecord {
    bytes: Vec<u8>,
    header: ChunkHeader,
}

impl ChunkRecord {
    pub fn new(header: &ChunkHeader, payload: &[u8]) -> Result<Self, LogError> {
        Ok(Self { bytes: format::chunk_record(header, payload)?, header: *header })
    }

    /// The record that `bytes` are, without anything behind it; or why they are none.
    pub fn decode(bytes: Vec<u8>) -> Result<Self, &'static str> {
        let header = format::decode_chunk_record(&bytes)?;
        Ok(Self { bytes, header })
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub fn header(&self) -> &ChunkHeader {
        &self.header
    }

    /// As [`ChunkPayload`] describes it.
    pub fn payload(&self) -> &[u8] {
        &self.bytes[format::CHUNK_PAYLOAD_OFFSET..]
    }

    pub fn into_chunk(self) -> Chunk {
        let mut payload = self.bytes;
        payload.drain(..format::CHUNK_PAYLOAD_OFFSET);
        Chunk { header: self.header, payload }
    }
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

/// A fact as it stands in the log.
#[derive(Clone, PartialEq, Debug)]
pub struct FactRecord {
    pub sequence: FactSequence,
    pub fact: Fact,
}

/// Anything that happened other than audio. Applying facts in any order, and any of them again, gives the same catalog: each
/// is a register that the highest sequence holds, or adds to a set.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "fact", rename_all = "snake_case")]
pub enum Fact {
    /// The recording as it stands; replaces all earlier ones with the same id. `resume` is the call tracker's state,
    /// from which it goes on after a restart; present only while the recording is active.
    Recording {
        recording: Arc<Recording>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        resume: Option<SavedCall>,
    },
    /// What people and policy say of a recording; replaces all earlier ones about it.
    Annotations { recording: RecordingId, annotations: Annotations },
    /// Chunks of a recording were copied into a segment. Adds to the runs of that recording.
    Sealed { recording: RecordingId, run: Run, through: Vec<Through> },
    /// The system clock was stepped, by so many seconds.
    Clock { at: CaptureTime, stepped_seconds: f64 },
    /// A capture file was replayed into this store to its end.
    Replayed { digest: String, at: CaptureTime },
}

/// [`Fact::Recording`], read without looking at its kind first, for which serde has to keep all of it: most facts are of this kind,
/// and this takes a third of the time.
#[derive(Deserialize)]
struct RecordingFact {
    #[serde(rename = "fact")]
    _kind: RecordingKind,
    recording: Arc<Recording>,
    #[serde(default)]
    resume: Option<SavedCall>,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum RecordingKind {
    Recording,
}

impl Fact {
    /// The kinds that this program knows, as the log names them.
    pub(crate) const KINDS: [&str; 5] = ["recording", "annotations", "sealed", "clock", "replayed"];

    /// Reads a fact's JSON.
    pub(crate) fn from_json(json: &[u8]) -> Result<Self, serde_json::Error> {
        match serde_json::from_slice(json) {
            Ok(RecordingFact { recording, resume, .. }) => Ok(Self::Recording { recording, resume }),
            Err(_) => serde_json::from_slice(json),
        }
    }

    /// The recording that the fact is about.
    pub fn recording(&self) -> Option<RecordingId> {
        match self {
            Self::Recording { recording, .. } => Some(recording.id),
            Self::Annotations { recording, .. } | Self::Sealed { recording, .. } => Some(*recording),
            Self::Clock { .. } | Self::Replayed { .. } => None,
        }
    }
}
