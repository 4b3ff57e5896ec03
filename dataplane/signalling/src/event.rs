//! What every signalling protocol says of calls, in terms common to all: the input of the call tracker.
//!
//! A decoder (SIP today; SCCP, MGCP, … later) turns messages into these events. It resolves what is
//! particular to its protocol: transactions, retransmissions, forks, offer and answer. The tracker resolves
//! what is common: which legs are one call, which streams belong to it, when it is over.

use serde::{Deserialize, Serialize};
use sidetone_model::{CaptureTime, Domain, EndReason};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

#[derive(Clone, PartialEq, Debug)]
pub struct CallEvent {
    pub time: CaptureTime,
    pub leg: LegRef,
    pub kind: CallEventKind,
}

/// One leg, named by value, so that an event about a leg is understood even by a tracker that was restored
/// after a restart of the process.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct LegRef {
    pub protocol: Protocol,
    pub domain: Domain,
    /// The protocol's own call reference (SIP: the Call-ID).
    pub call_id: Arc<str>,
    /// Tells apart call attempts under one reference. (SIP: the caller's tag; empty for other protocols.)
    pub attempt: Arc<str>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    Sip,
}

impl Protocol {
    pub fn name(self) -> &'static str {
        match self {
            Self::Sip => "sip",
        }
    }
}

#[derive(Clone, PartialEq, Debug)]
pub enum CallEventKind {
    /// A new leg. Emitted once per leg, before any other event of it; a decoder that meets a running call emits it
    /// with `in_progress` set.
    Started(LegStart),
    /// The called party is being alerted.
    Ringing,
    /// A side's identity became better known or changed (connected party, transfer).
    Identity { side: LegSide, identity: Identity },
    /// From now on this side receives its media here. Replaces everything said of this side before.
    Media { side: LegSide, phase: MediaPhase, bindings: Vec<MediaBinding> },
    /// The leg was answered. Emitted at most once per leg.
    Answered,
    /// This leg continues, replaces or belongs with another one (Replaces, a shared conversation id, …).
    Related { other_call_id: Arc<str>, relation: Relation },
    /// Signalling of the leg was seen: the call is alive. `expires_at` is set by session timers (RFC 4028): without
    /// another refresh the call is dead by then.
    Refreshed { expires_at: Option<CaptureTime> },
    /// The leg is over. `detail` is for people: final status and reason, e.g. `486 Busy Here`.
    Ended { reason: EndReason, detail: String },
}

#[derive(Clone, PartialEq, Debug)]
pub struct LegStart {
    pub caller: Identity,
    pub callee: Identity,
    /// Calling and called identity as the protocol writes them (SIP: URIs of From and To).
    pub from: String,
    pub to: String,
    /// The call was already going on when the capture began: its start and answer were not seen.
    pub in_progress: bool,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Identity {
    /// Number or user part; empty when unknown.
    pub number: String,
    /// Display name; empty when unknown.
    pub name: String,
    /// Signalling address of this side, as seen on the wire; `None` when not known yet.
    pub address: Option<SocketAddr>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LegSide {
    Caller,
    Callee,
}

impl LegSide {
    pub fn other(self) -> Self {
        match self {
            Self::Caller => Self::Callee,
            Self::Callee => Self::Caller,
        }
    }
}

/// How far the exchange of session descriptions has come for these bindings.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MediaPhase {
    /// An offer, or an answer in a provisional response: media may flow (early media), but nothing is settled, and
    /// a final answer may differ. Claims are allowed; older committed bindings of this side stay valid beside it.
    Preview,
    /// Offer and answer are complete: these bindings are in force and replace all older ones of this side.
    Committed,
}

/// One media description of one side (an `m=` line): where **this side receives**. Packets whose destination is
/// `address` are therefore the other side's voice, and their payload types are read with these formats (RFC 3264).
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct MediaBinding {
    pub kind: MediaKind,
    /// `None` when the line was rejected (port 0) or is on hold by the old convention (`c=0.0.0.0`).
    pub address: Option<SocketAddr>,
    /// Where RTCP for it goes; equal to `address` when multiplexed.
    pub rtcp: Option<SocketAddr>,
    /// Further addresses at which this side may receive (ICE candidates).
    pub candidates: Vec<SocketAddr>,
    pub direction: MediaDirection,
    pub formats: Vec<PayloadFormat>,
    pub security: MediaSecurity,
    /// `a=label`, empty when absent.
    pub label: String,
    /// Packet time in ms as hinted by the description.
    pub ptime_ms: Option<u16>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MediaKind {
    Audio,
    Video,
    /// T.38 fax and other `image` media.
    Image,
    Other,
}

/// From the point of view of the side that described itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MediaDirection {
    #[default]
    SendRecv,
    SendOnly,
    RecvOnly,
    Inactive,
}

/// What an RTP payload type means.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct PayloadFormat {
    pub payload_type: u8,
    /// Encoding name as registered (`PCMA`, `opus`, `telephone-event`), in the case in which it was signalled.
    pub encoding: Arc<str>,
    /// RTP clock in Hz.
    pub clock_rate: u32,
    pub channels: u8,
    /// The `a=fmtp` parameters, unparsed; empty when absent.
    pub parameters: Arc<str>,
}

#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub enum MediaSecurity {
    #[default]
    None,
    /// SRTP with the key in the description (RFC 4568): the raw `a=crypto` values, in order.
    Sdes(Vec<String>),
    /// DTLS-SRTP (RFC 5763), or a secure profile whose key is not here: not readable by a passive recorder.
    Unreadable,
}

/// How two legs belong together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Relation {
    /// This leg takes the other's place (RFC 3891).
    Replaces,
    /// A box in the middle copied an identifier to both: two legs of one call.
    SameCall,
}

/// An address to which SDP says that media will go; what `address` fields above resolve to.
pub fn is_usable(address: IpAddr) -> bool {
    !address.is_unspecified() && !address.is_multicast()
}
