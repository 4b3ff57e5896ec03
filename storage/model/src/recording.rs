//! The recording document: what policy decided to keep of a call for one recorded user. Its JSON form is an
//! interface that stays (docs/api.md): fields are added, never renamed or given another meaning.

use crate::{Annotations, CaptureTime, ConversationId, NodeName, Proof, RecordingId, TrackId};
use serde::{Deserialize, Serialize};

/// Version of the recording document, in its field `schema`.
pub const SCHEMA_VERSION: u32 = 1;

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Recording {
    pub schema: u32,
    pub id: RecordingId,
    pub node: NodeName,
    pub conversation_id: ConversationId,
    pub state: RecordingState,
    /// When the call's first signalling was seen.
    pub started_at: CaptureTime,
    pub answered_at: Option<CaptureTime>,
    pub ended_at: Option<CaptureTime>,
    /// From the first audio to the last, over all tracks; what a player shows.
    pub duration_seconds: f64,
    pub end_reason: Option<EndReason>,
    /// Known users whose recording this is; empty until users are configured.
    pub users: Vec<String>,
    /// Times for which the recorder itself has nothing, and why. What the network lost is in the tracks.
    pub gaps: Vec<Gap>,
    pub pauses: Vec<Gap>,
    pub legs: Vec<Leg>,
    pub parties: Vec<Party>,
    pub tracks: Vec<Track>,
    /// Tags, hold and retention.
    #[serde(default)]
    pub annotations: Annotations,
    /// Present once all audio lies in segments.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<Proof>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum RecordingState {
    /// The call goes on, or its end has not been seen yet.
    Active,
    /// Over, and whole: audio, metadata and index.
    Complete,
    /// Over, and something that was on the wire is missing: `gaps`, the tracks' `losses` and `decodable` say what.
    Incomplete,
}

/// How a leg or a recording ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum EndReason {
    /// The caller's side ended an answered call (BYE).
    CallerHungUp,
    /// The called side ended an answered call (BYE).
    CalleeHungUp,
    /// Ended by signalling whose sender is not known, or by a party in the middle.
    Released,
    /// The caller gave up before an answer (CANCEL).
    Cancelled,
    /// A final failure response: busy, no answer, rejected, …
    Failed,
    /// The session timer ran out without a refresh (RFC 4028).
    SessionExpired,
    /// No media and no signalling for the configured time; the end itself was not seen.
    MediaSilence,
    /// Replaced by another leg (transfer, pick-up).
    Replaced,
    /// The capture file ended while the call went on.
    CaptureEnd,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Gap {
    pub from: CaptureTime,
    /// Absent while the gap lasts.
    pub to: Option<CaptureTime>,
    pub reason: String,
}

/// One signalling dialog of the call.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Leg {
    /// `sip`, later `sccp`, `mgcp`, …
    pub protocol: String,
    pub call_id: String,
    /// Calling and called identity as the protocol writes them (SIP: the URIs of From and To).
    pub from: String,
    pub to: String,
    pub started_at: CaptureTime,
    pub answered_at: Option<CaptureTime>,
    pub ended_at: Option<CaptureTime>,
    pub end_reason: Option<EndReason>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Party {
    /// Unique within the recording, counted from 0.
    pub id: u8,
    pub role: PartyRole,
    /// Telephone number or user part of the address of record; empty when withheld.
    pub number: String,
    /// Display name; empty when none was signalled.
    pub name: String,
    /// The party's signalling address, `address:port`.
    pub address: String,
    pub joined_at: CaptureTime,
    pub left_at: Option<CaptureTime>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum PartyRole {
    Caller,
    Callee,
}

/// Which side of the conversation a track holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// The recorded user; where no user is known, the caller.
    Near,
    /// Everybody else.
    Far,
    Mixed,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum TrackKind {
    Audio,
}

/// The audio of one side in one recording, mono, in order, on the 20 ms grid.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Track {
    pub id: TrackId,
    /// The party that speaks: index into `parties`' ids; absent when unknown.
    pub party: Option<u8>,
    pub side: Side,
    pub kind: TrackKind,
    /// The media was encrypted on the wire and could not be read.
    pub encrypted: bool,
    /// False when the codec has no decoder here: nothing can be played.
    pub decodable: bool,
    /// From the recording's first audio to this track's first frame.
    pub start_offset_seconds: f64,
    pub duration_seconds: f64,
    /// Time filled by concealment because packets were lost.
    pub concealed_seconds: f64,
    pub losses: Losses,
    pub streams: Vec<Stream>,
}

/// Packets that did not become audio, by where they were lost.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Losses {
    /// Missing from the wire's own sequence numbers: the network's.
    pub network: u64,
    /// Missed by the NIC or its ring.
    pub capture: u64,
    /// The encoder had no room for them.
    pub encoder: u64,
    /// The writer had no room for their chunk.
    pub writer: u64,
}

impl Losses {
    /// Packets that the recorder, not the network, lost.
    pub fn by_recorder(&self) -> u64 {
        self.capture + self.encoder + self.writer
    }
}

/// One RTP source that contributed to a track.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Stream {
    /// Empty for the untagged network, else e.g. `vlan 100`.
    pub domain: String,
    /// `0x` and eight hexadecimal digits.
    pub ssrc: String,
    pub source: String,
    pub destination: String,
    /// Encoding name and clock as in SDP, e.g. `PCMA/8000`.
    pub codec: String,
    pub from: CaptureTime,
    pub to: CaptureTime,
    /// Packets received, duplicates included.
    pub packets: u64,
    /// Expected by sequence number minus unique packets received (RFC 3550 A.3, duplicates apart).
    pub lost: u64,
    pub duplicates: u64,
    pub reordered: u64,
    /// Arrived after their place on the grid had been written.
    pub late: u64,
    /// RFC 3550 §6.4.1 interarrival jitter, in milliseconds.
    pub jitter_ms_mean: f64,
    pub jitter_ms_max: f64,
}
