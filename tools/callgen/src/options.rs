//! What traffic is wanted.

use crate::speech::Speech;
use serde::{Deserialize, Serialize};
use sidetone_model::CaptureTime;
use std::sync::Arc;
use std::time::Duration;

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Codec {
    #[default]
    Pcma,
    Pcmu,
}

impl Codec {
    /// RFC 3551, table 4.
    pub fn payload_type(self) -> u8 {
        match self {
            Self::Pcmu => 0,
            Self::Pcma => 8,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Pcmu => "PCMU",
            Self::Pcma => "PCMA",
        }
    }

    pub fn other(self) -> Self {
        match self {
            Self::Pcmu => Self::Pcma,
            Self::Pcma => Self::Pcmu,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    #[default]
    Udp,
    Tcp,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ports {
    /// Addresses and ports of its own for every call.
    #[default]
    PerCall,
    /// All calls between one pair of addresses and ports: only the SSRC tells them apart, and both directions of a call
    /// have the same one.
    One,
}

/// What a re-INVITE in the middle of the call changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    /// The caller receives at, and sends from, another port, with a new SSRC.
    Port,
    /// Both sides change to the other law, with new SSRCs on the same ports.
    Codec,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    #[default]
    CallerHangsUp,
    CalleeHangsUp,
    /// The media stops and no BYE is seen.
    MissingBye,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    #[default]
    Answered,
    /// The caller gives up while it rings, with ring-back tone as early media.
    Cancelled,
    /// The callee is busy.
    Busy,
}

/// How one call goes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CallShape {
    pub outcome: Outcome,
    pub ending: Ending,
    pub codec: Codec,
    pub transport: Transport,
    /// The first INVITE is answered 401 and repeated with credentials.
    pub authenticates: bool,
    /// The offer is in the 200, the answer in the ACK.
    pub late_offer: bool,
    pub change: Option<Change>,
    /// The caller puts the callee on hold for a fifth of the call.
    pub hold: bool,
    /// Media flows from a second before the INVITE is seen.
    pub media_first: bool,
    /// The capture begins in mid-call: of the signalling, only a refreshing re-INVITE a second later and the end are seen.
    pub in_progress: bool,
    /// The INVITE is 3 KB long: over UDP it comes in IP fragments, over TCP in several segments.
    pub large_invite: bool,
}

/// What the network does to RTP packets, each as a share of all packets. The first and the last packet of a stream
/// always arrive once, so that what is missing can be told from sequence numbers alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Impairment {
    pub loss: f64,
    pub duplicates: f64,
    /// Packets that arrive after their successor.
    pub reordering: f64,
    /// Standard deviation of the delay, in ms (at most 9 ms of delay are added, which reorders nothing).
    pub jitter_ms: f64,
}

#[derive(Clone, Debug)]
pub struct Options {
    pub seed: u64,
    /// Time of the first frame, more or less.
    pub start_at: CaptureTime,
    pub calls: usize,
    /// The calls start evenly over this time.
    pub ramp: Duration,
    /// From answer to hang-up.
    pub talk: Duration,
    /// Call *n* has the shape `shapes[n % shapes.len()]`.
    pub shapes: Vec<CallShape>,
    pub ports: Ports,
    pub ipv6: bool,
    /// VLAN tags, the outer one first; at most two.
    pub vlans: Vec<u16>,
    pub impairment: Impairment,
    /// How much faster than the capture clock the callers' sample clocks run, in parts per million; the callees' run slower
    /// by the same amount.
    pub clock_drift_ppm: f64,
    /// Speech at 8000 Hz to take phrases from; synthesised when empty.
    pub speech: Vec<Arc<Speech>>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            seed: 1,
            start_at: CaptureTime::from_seconds_nanos(1_767_261_600, 0),
            calls: 1,
            ramp: Duration::from_secs(5),
            talk: Duration::from_secs(10),
            shapes: vec![CallShape::default()],
            ports: Ports::PerCall,
            ipv6: false,
            vlans: Vec::new(),
            impairment: Impairment::default(),
            clock_drift_ppm: 0.0,
            speech: Vec::new(),
        }
    }
}

#[derive(Debug, PartialEq, thiserror::Error)]
pub enum OptionsError {
    #[error("there is no call shape to choose from")]
    NoShape,
    #[error("{0} calls are more than the {1} that have addresses of their own")]
    TooManyCalls(usize, usize),
    #[error("{name} is {value}: not a share between 0 and 0.9")]
    NotAShare { name: &'static str, value: f64 },
    #[error("a frame has at most two VLAN tags, of 1 to 4094")]
    BadVlan,
    #[error("a talk time of {0:?} is not between one second and a day")]
    BadTalk(Duration),
    #[error("a clock drift of {0} ppm is not between -1000 and 1000")]
    BadDrift(f64),
    #[error("a jitter of {0} ms is not between 0 and 9")]
    BadJitter(f64),
}

/// Calls that have addresses of their own.
pub(crate) const CALLS_MAX: usize = 1 << 22;

impl Options {
    pub(crate) fn check(&self) -> Result<(), OptionsError> {
        if self.shapes.is_empty() {
            return Err(OptionsError::NoShape);
        }
        if self.calls > CALLS_MAX {
            return Err(OptionsError::TooManyCalls(self.calls, CALLS_MAX));
        }
        let shares = [
            ("loss", self.impairment.loss),
            ("duplicates", self.impairment.duplicates),
            ("reordering", self.impairment.reordering),
        ];
        for (name, value) in shares {
            if !(0.0..=0.9).contains(&value) {
                return Err(OptionsError::NotAShare { name, value });
            }
        }
        if self.vlans.len() > 2 || self.vlans.iter().any(|vlan| !(1..=4094).contains(vlan)) {
            return Err(OptionsError::BadVlan);
        }
        if self.talk < Duration::from_secs(1) || self.talk > Duration::from_secs(86_400) {
            return Err(OptionsError::BadTalk(self.talk));
        }
        if !(-1000.0..=1000.0).contains(&self.clock_drift_ppm) {
            return Err(OptionsError::BadDrift(self.clock_drift_ppm));
        }
        if !(0.0..=9.0).contains(&self.impairment.jitter_ms) {
            return Err(OptionsError::BadJitter(self.impairment.jitter_ms));
        }
        Ok(())
    }
}

impl CallShape {
    /// One call of every kind that the generator knows.
    pub fn variety() -> Vec<Self> {
        let plain = Self::default();
        vec![
            plain.clone(),
            Self { codec: Codec::Pcmu, ending: Ending::CalleeHangsUp, ..plain.clone() },
            Self { authenticates: true, ..plain.clone() },
            Self { transport: Transport::Tcp, ..plain.clone() },
            Self { late_offer: true, ..plain.clone() },
            Self { change: Some(Change::Codec), ..plain.clone() },
            Self { change: Some(Change::Port), transport: Transport::Tcp, ..plain.clone() },
            Self { hold: true, ..plain.clone() },
            Self { outcome: Outcome::Cancelled, ..plain.clone() },
            Self { outcome: Outcome::Busy, ..plain.clone() },
            Self { ending: Ending::MissingBye, ..plain.clone() },
            Self { media_first: true, ..plain.clone() },
            Self { in_progress: true, ..plain.clone() },
            Self { large_invite: true, ..plain.clone() },
            Self { large_invite: true, transport: Transport::Tcp, authenticates: true, ..plain },
        ]
    }
}
