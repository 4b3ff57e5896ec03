//! What the data plane's threads say to each other, besides frames and packets.

use sidetone_calls::{FlowRef, StreamFormat, StreamGone, StreamSighting};
use sidetone_model::{CaptureTime, Recording, RecordingId, StreamKey, TrackId};
use sidetone_store::StoreEvent;
use std::sync::Arc;

/// Receive thread → call thread.
#[derive(Clone, Copy, Debug)]
pub(crate) enum FlowNotice {
    Sighting(StreamSighting),
    Gone(StreamGone),
}

/// Call thread → receive thread.
#[derive(Clone, Debug)]
pub(crate) enum FlowCommand {
    Record { flow: FlowRef, encoder: u16, open: OpenStream },
    Release { flow: FlowRef },
    Discard { flow: FlowRef },
}

/// Receive thread → encoder thread, ahead of the stream's packets: which track they belong to, and how to read them.
#[derive(Clone, Debug)]
pub(crate) struct OpenStream {
    /// Names the stream in the packets that follow.
    pub(crate) stream: u32,
    pub(crate) key: StreamKey,
    pub(crate) recording: RecordingId,
    pub(crate) track: TrackId,
    pub(crate) format: StreamFormat,
}

/// Call thread → encoder thread.
#[derive(Clone, Debug)]
pub(crate) struct FinishTracks {
    pub(crate) recording: RecordingId,
    pub(crate) tracks: Vec<TrackId>,
    pub(crate) at: CaptureTime,
    /// When the call thread decided so: what it had decided before is on its way through the receive threads.
    pub(crate) issued_at: CaptureTime,
}

/// Writer thread → call thread: audio that was encoded and could not be written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WriterLoss {
    pub(crate) recording: RecordingId,
    pub(crate) track: TrackId,
    pub(crate) packets: u32,
}

/// Kinds in the rings of bytes (`MessageHeader::kind`).
pub(crate) mod kind {
    /// A frame for the call thread; `variant` is the link layer's code.
    pub(crate) const FRAME: u8 = 1;
    /// An RTP packet; `index` is the stream, `count` the packets that were lost before it.
    pub(crate) const PACKET: u8 = 2;
    /// An [`super::OpenStream`] waits in the ring beside.
    pub(crate) const OPEN: u8 = 3;
    /// Time has come so far.
    pub(crate) const TICK: u8 = 4;
}

/// What the data plane tells the world; delivered from its threads, so the receiver must not wait.
#[derive(Clone, Debug)]
pub enum EngineEvent {
    CallStarted(Arc<Recording>),
    CallUpdated(Arc<Recording>),
    CallEnded(Arc<Recording>),
    /// The recording is durable and in the catalog, and will not change by itself.
    RecordingCompleted(Arc<Recording>),
    /// Anything else that the store tells: volumes that fill up, fail and come back, damage.
    Store(StoreEvent),
    NotRecorded {
        call_id: Arc<str>,
        at: CaptureTime,
        reason: sidetone_calls::NotRecordedReason,
    },
}

/// Receives [`EngineEvent`]s. Called on data-plane threads: it must neither block nor panic.
pub type EventSink = Arc<dyn Fn(EngineEvent) + Send + Sync>;
