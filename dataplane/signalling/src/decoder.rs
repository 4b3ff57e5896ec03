//! Follows SIP dialogs passively, from INVITE to BYE, and tells the story in [`CallEvent`]s.
//!
//! Constraints: no I/O and no clock; the time comes with each message and tick. Idempotent: retransmissions, exact
//! duplicates and the copies that every proxy hop shows change nothing twice. Bounded by [`SipConfig`]: legs by number,
//! kept session descriptions by bytes, and every leg ends or is forgotten in time.

use crate::event::{CallEvent, LegRef};
use crate::message::{self, ParseError, StartLine};
use sidetone_model::{CaptureTime, Domain};
use std::net::SocketAddr;
use std::time::Duration;

/// Bounds and times; the defaults suit a box with thousands of calls.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SipConfig {
    /// Legs held at once. When it is reached, those ended longest ago go first; if none has ended, a new leg is refused and
    /// counted.
    pub max_dialogs: usize,
    /// Bytes of session descriptions (as received) kept over all legs. Beyond it, new ones are refused and counted.
    pub max_description_bytes: usize,
    /// An INVITE without any response ends as failed after this: 64·T1 (RFC 3261 §17.1.1.2), doubled.
    pub no_response_timeout: Duration,
    /// An INVITE with provisional responses ends as failed after this time without any message: a little above the three
    /// minutes of timer C (RFC 3261 §16.6).
    pub ringing_timeout: Duration,
    /// How long a refused INVITE may take to come back with credentials or another address, and a cancelled one
    /// to get its final response.
    pub retry_timeout: Duration,
    /// How long an ended leg is remembered, to recognise stragglers: 64·T1.
    pub linger: Duration,
    /// An answered leg without any signalling is forgotten after this, without an event.
    pub silent_leg_timeout: Duration,
    /// Grace beyond Session-Expires before the leg counts as dead.
    pub session_expiry_grace: Duration,
}

impl Default for SipConfig {
    fn default() -> Self {
        Self {
            max_dialogs: 50_000,
            max_description_bytes: 256 << 20,
            no_response_timeout: Duration::from_secs(64),
            ringing_timeout: Duration::from_secs(200),
            retry_timeout: Duration::from_secs(32),
            linger: Duration::from_secs(32),
            silent_leg_timeout: Duration::from_secs(24 * 3600),
            session_expiry_grace: Duration::from_secs(32),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Transport {
    Udp,
    Tcp,
}

/// One SIP message as it was seen: a UDP payload, or what a [`crate::SipFramer`] cut out of a TCP stream.
#[derive(Clone, Copy, Debug)]
pub struct Datagram<'a> {
    pub time: CaptureTime,
    pub domain: Domain,
    pub transport: Transport,
    pub source: SocketAddr,
    pub destination: SocketAddr,
    pub bytes: &'a [u8],
}

/// What became of a message: exactly one per message, and the label of its counter.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum MessageOutcome {
    Request,
    Response,
    /// Empty lines only.
    Keepalive,
    /// The same bytes between the same addresses within 100 ms: the mirror shows both sides of a port.
    Duplicate,
    NotSip,
    Malformed(MalformedReason),
    /// A new leg was refused: the table is full of running ones.
    TableFull,
}

/// Why a message that begins as SIP cannot be used.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum MalformedReason {
    Version,
    StatusCode,
    TooManyHeaders,
    MissingCallId,
    MissingCseq,
    MissingFrom,
    /// Call-ID or a tag is longer than 512 bytes.
    FieldTooLong,
    /// CSeq names another method than the request line.
    MethodMismatch,
}

impl MessageOutcome {
    /// Every label that [`Self::label`] can give, in a fixed order: the counters of a metric.
    pub const LABELS: [&'static str; 14] = [
        "request",
        "response",
        "keepalive",
        "duplicate",
        "not_sip",
        "table_full",
        "malformed_version",
        "malformed_status_code",
        "malformed_too_many_headers",
        "malformed_missing_call_id",
        "malformed_missing_cseq",
        "malformed_missing_from",
        "malformed_field_too_long",
        "malformed_method_mismatch",
    ];

    pub fn label(self) -> &'static str {
        Self::LABELS[self.index()]
    }

    /// Position of this outcome in [`Self::LABELS`].
    pub fn index(self) -> usize {
        match self {
            Self::Request => 0,
            Self::Response => 1,
            Self::Keepalive => 2,
            Self::Duplicate => 3,
            Self::NotSip => 4,
            Self::TableFull => 5,
            Self::Malformed(reason) => match reason {
                MalformedReason::Version => 6,
                MalformedReason::StatusCode => 7,
                MalformedReason::TooManyHeaders => 8,
                MalformedReason::MissingCallId => 9,
                MalformedReason::MissingCseq => 10,
                MalformedReason::MissingFrom => 11,
                MalformedReason::FieldTooLong => 12,
                MalformedReason::MethodMismatch => 13,
            },
        }
    }
}

/// Gauges and counters beside the outcomes.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct SipStatistics {
    /// Legs held now, ended ones that are still remembered included.
    pub legs: u64,
    /// Bytes of session descriptions held now.
    pub description_bytes: u64,
    pub legs_started: u64,
    pub legs_ended: u64,
    /// Ended legs forgotten early because room was needed.
    pub legs_evicted: u64,
    /// Answered legs forgotten after long silence.
    pub legs_forgotten: u64,
    /// Session descriptions that could not be read.
    pub descriptions_malformed: u64,
    /// Session descriptions not kept because `max_description_bytes` was reached.
    pub descriptions_refused: u64,
    /// Bodies that may hold a session description, under a content encoding that is not undone.
    pub bodies_encoded: u64,
}

/// Follows every SIP dialog of one capture.
pub struct SipDecoder {
    config: SipConfig,
    statistics: SipStatistics,
}

impl SipDecoder {
    pub fn new(config: &SipConfig) -> Self {
        Self { config: config.clone(), statistics: SipStatistics::default() }
    }

    pub fn statistics(&self) -> SipStatistics {
        self.statistics
    }

    /// One message in capture order (small reorderings are allowed for). Events are appended to `out`.
    pub fn on_message(&mut self, message: &Datagram<'_>, _out: &mut Vec<CallEvent>) -> MessageOutcome {
        match message::parse(message.bytes) {
            Ok(parsed) => match parsed.start {
                StartLine::Request { .. } => MessageOutcome::Request,
                StartLine::Response { .. } => MessageOutcome::Response,
            },
            Err(ParseError::NotSip) => MessageOutcome::NotSip,
            Err(ParseError::UnsupportedVersion) => MessageOutcome::Malformed(MalformedReason::Version),
            Err(ParseError::StatusCode) => MessageOutcome::Malformed(MalformedReason::StatusCode),
            Err(ParseError::TooManyHeaders) => MessageOutcome::Malformed(MalformedReason::TooManyHeaders),
        }
    }

    /// Lets time pass: legs whose INVITE was never answered, whose session expired or who are long over end here.
    /// To be called about once a second.
    pub fn on_tick(&mut self, _now: CaptureTime, _out: &mut Vec<CallEvent>) {
        let _ = self.config.linger;
    }

    /// The leg was restored after a restart of the process: its dialog is known again, with this caller's tag, so that
    /// messages of either side are taken for the right one. No event.
    pub fn restore(&mut self, _leg: &LegRef, _answered: bool, _now: CaptureTime) {}

    /// The tracker has ended this leg for reasons of its own (media silence): nothing more is to be said about it.
    pub fn forget(&mut self, _leg: &LegRef) {}
}
