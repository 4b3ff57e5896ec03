//! The nouns of Sidetone, shared by every layer above: identifiers, the capture clock, the key of a
//! stream, and the recording document as the log, the catalog and the API know it.
//!
//! Constraints: no I/O, no clock reads, no threads; everything here is plain data.
#![forbid(unsafe_code)]

mod annotations;
mod identity;
mod recording;
mod saved;
mod stream;
mod time;

pub use annotations::{Annotations, BadMerkleRoot, Hold, MerkleRoot, Proof, Retention};
pub use identity::{ConversationId, NodeName, RecordingId, Seed, TrackId};
pub use recording::{
    EndReason, Gap, Leg, Losses, Party, PartyRole, Recording, RecordingState, SCHEMA_VERSION, Side, Stream, Track,
    TrackKind,
};
pub use saved::SavedCall;
pub use stream::{Domain, StreamKey};
pub use time::{CaptureTime, NANOS_PER_SECOND, NANOS_PER_TICK, Tick};
