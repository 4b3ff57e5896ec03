//! What became of each message, and what the decoder holds: the material of its metrics.

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
    /// Legs forgotten without an event: answered and silent for long, or given up by the tracker.
    pub legs_forgotten: u64,
    /// Session descriptions that could not be read.
    pub descriptions_malformed: u64,
    /// Session descriptions not kept because `max_description_bytes` was reached.
    pub descriptions_refused: u64,
    /// Bodies that may hold a session description, under a content encoding that is not undone.
    pub bodies_encoded: u64,
}
