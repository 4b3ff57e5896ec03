//! What really happened in the traffic.

use crate::options::{CallShape, Codec};
use serde::Serialize;
use sidetone_model::CaptureTime;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    Caller,
    Callee,
}

/// Complete when the traffic is at its end.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Truth {
    pub frames: u64,
    pub first_frame_at: Option<CaptureTime>,
    pub last_frame_at: Option<CaptureTime>,
    pub calls: Vec<CallTruth>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CallTruth {
    pub call_id: String,
    pub shape: CallShape,
    pub caller_number: String,
    pub callee_number: String,
    /// The first INVITE on the wire; for a call in progress, the first signalling of it.
    pub started_at: CaptureTime,
    /// The 200 to the INVITE on the wire; `None` when it was not answered, or before the capture began.
    pub answered_at: Option<CaptureTime>,
    /// The BYE, CANCEL or failure on the wire; `None` when none is seen.
    pub ended_at: Option<CaptureTime>,
    /// A recorder that keeps answered calls keeps this one.
    pub is_recordable: bool,
    pub streams: Vec<StreamTruth>,
}

/// One SSRC between two addresses.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StreamTruth {
    /// Who speaks.
    pub side: Side,
    pub source: String,
    pub destination: String,
    /// `0x` and eight hexadecimal digits.
    pub ssrc: String,
    pub codec: Codec,
    /// Arrival of the first and of the last packet.
    pub first_packet_at: CaptureTime,
    pub last_packet_at: CaptureTime,
    /// Packets on the wire, duplicates included.
    pub packets: u64,
    pub lost: u64,
    pub duplicates: u64,
    pub reordered: u64,
    /// Which samples of the side's speech (see [`crate::Traffic::reference`]) it carries: from, and up to.
    pub first_sample: u64,
    pub end_sample: u64,
    /// When the side's sample 0 was spoken, on the capture clock, network delay and packetisation apart.
    pub sample_zero_at: CaptureTime,
    /// The sample clock is 8000 Hz times (1 + this / 1 000 000).
    pub clock_ppm: f64,
}
