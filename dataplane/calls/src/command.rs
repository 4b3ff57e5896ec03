//! What goes in and out of the call tracker besides call events.

use sidetone_model::{CaptureTime, Recording, RecordingId, SavedCall, StreamKey, TrackId};
use sidetone_signalling::event::PayloadFormat;
use std::net::SocketAddr;
use std::sync::Arc;

/// A stream in one receive thread's flow table. `generation` tells a reused slot from its former tenant.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FlowRef {
    pub queue: u16,
    pub slot: u32,
    pub generation: u32,
}

/// A stream that nobody has claimed yet was seen; its packets wait in the pre-roll.
#[derive(Clone, Copy, Debug)]
pub struct StreamSighting {
    pub flow: FlowRef,
    pub key: StreamKey,
    /// Arrival of the first packet that is still held.
    pub first_packet_at: CaptureTime,
    pub payload_type: u8,
}

/// A stream has left the flow table: silent for too long, or its slot was needed.
#[derive(Clone, Copy, Debug)]
pub struct StreamGone {
    pub flow: FlowRef,
    pub key: StreamKey,
    pub first_packet_at: CaptureTime,
    pub last_packet_at: CaptureTime,
    pub packets: u64,
}

/// A claimed stream is alive, or tells what it measured. Sent about once a second per stream, never per packet.
#[derive(Clone, Debug)]
pub struct TrackReport {
    pub recording: RecordingId,
    pub track: TrackId,
    pub last_packet_at: CaptureTime,
    /// The track as it stands: everything measured from its packets is filled in (offsets relative to nothing: see
    /// `first_audio_at`); `party`, `side` and `id` are the tracker's.
    pub measured: MeasuredTrack,
    /// The track was finished by [`Command::Finish`]: all its chunks are with the writer.
    pub is_final: bool,
}

/// What an encoder knows of a track.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct MeasuredTrack {
    /// First and end (exclusive) instant of audio on the grid; `None` before any.
    pub first_audio_at: Option<CaptureTime>,
    pub audio_until: Option<CaptureTime>,
    pub concealed_seconds: f64,
    pub losses: sidetone_model::Losses,
    pub encrypted: bool,
    pub decodable: bool,
    pub streams: Vec<sidetone_model::Stream>,
}

/// How to read a stream's packets: the receiver's formats (RFC 3264), and whether they are encrypted.
#[derive(Clone, PartialEq, Debug)]
pub struct StreamFormat {
    pub formats: Arc<[PayloadFormat]>,
    pub encrypted: bool,
}

/// What the tracker decided. The whole command surface towards the packet path.
#[derive(Clone, Debug)]
pub enum Command {
    /// Deliver the stream, its held packets first, to this track. Repeated when the formats change.
    Record { flow: FlowRef, key: StreamKey, recording: RecordingId, track: TrackId, format: StreamFormat },
    /// No longer deliver the stream to any track; it may be claimed again.
    Release { flow: FlowRef },
    /// Nobody wants the stream: empty its pre-roll and let the packets be dropped as early as possible, for a while.
    Discard { flow: FlowRef, key: StreamKey },
    /// Signalling names this address as the place where media goes: forget verdicts about it, and treat its UDP
    /// port as media.
    Expect { address: SocketAddr },
    /// The call is over at `at`: finish the recording's tracks, then report them as final.
    Finish { recording: RecordingId, tracks: Vec<TrackId>, at: CaptureTime },
    /// Write the recording's document to the log; `resume` is what [`crate::Tracker::restore`] needs while it is
    /// active.
    Save { recording: Arc<Recording>, resume: Option<SavedCall> },
    /// A call that was seen and is not recorded.
    NotRecorded { call_id: Arc<str>, at: CaptureTime, reason: NotRecordedReason },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum NotRecordedReason {
    /// Never answered, and `keep_unanswered` is off or there was no early media.
    Unanswered,
    /// Answered, but no media stream was ever seen for it.
    NoMedia,
    /// Answered, but the media is no audio (fax, video, data).
    NoAudio,
    /// The tracker had no room for another call (`max_calls`).
    TooManyCalls,
    /// The store took no new recordings for as long as the call lasted ([`crate::Tracker::on_room`]).
    NoRoom,
}

/// Where the store holds audio of a track that an earlier process recorded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoredAudio {
    pub track: TrackId,
    /// Begin and end (exclusive), ascending; silence between them. It is enough to tell the latest ones.
    pub spans: Vec<(CaptureTime, CaptureTime)>,
}
