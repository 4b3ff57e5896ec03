//! What to look for.

use sidetone_model::{CaptureTime, RecordingState};

/// The most conditions in one filter, all its parts counted.
pub const FILTER_CONDITIONS_MAX: usize = 256;

/// A condition on recordings, made of others.
#[derive(Clone, PartialEq, Debug)]
pub enum Filter {
    /// All of these; of none, every recording.
    And(Vec<Filter>),
    /// At least one of these; of none, no recording.
    Or(Vec<Filter>),
    Not(Box<Filter>),
    /// When it started.
    Started(Span<CaptureTime>),
    State(RecordingState),
    /// `duration_seconds`.
    Duration(Span<f64>),
    /// At least one text of this kind is so.
    Text(TextField, TextMatch),
    /// Encoding name of a stream, in any case, with its clock or without: `pcma`, `PCMA/8000`.
    Codec(String),
    /// How bad it is where it is worst.
    Quality(Measure, Span<f64>),
    /// Has this tag; with this value, where one is given.
    Tag {
        key: String,
        value: Option<String>,
    },
    OnHold,
}

/// From `from` on, up to but without `to`; without a bound where there is none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Span<T> {
    pub from: Option<T>,
    pub to: Option<T>,
}

impl<T: PartialOrd + Copy> Span<T> {
    pub fn contains(&self, value: T) -> bool {
        self.from.is_none_or(|from| value >= from) && self.to.is_none_or(|to| value < to)
    }
}

impl<T> From<std::ops::Range<T>> for Span<T> {
    fn from(range: std::ops::Range<T>) -> Self {
        Self { from: Some(range.start), to: Some(range.end) }
    }
}

impl<T> From<std::ops::RangeFrom<T>> for Span<T> {
    fn from(range: std::ops::RangeFrom<T>) -> Self {
        Self { from: Some(range.start), to: None }
    }
}

impl<T> From<std::ops::RangeTo<T>> for Span<T> {
    fn from(range: std::ops::RangeTo<T>) -> Self {
        Self { from: None, to: Some(range.end) }
    }
}

/// The texts of a recording that can be searched. Empty ones are none.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum TextField {
    /// A party's number. Between digits, spaces and the signs `-./()` are nothing, here and in what is looked for.
    Number,
    /// A party's display name.
    Name,
    /// A recorded user.
    User,
    /// A party's signalling address, without the port.
    Address,
    /// The appliance.
    Node,
    /// A leg's protocol.
    Protocol,
    /// A leg's call identifier.
    CallId,
}

/// How a text is compared: in lower case, white space as single spaces and none around it; of numbers, names, users and
/// addresses the first 64 bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TextMatch {
    Is(String),
    StartsWith(String),
    EndsWith(String),
    Contains(String),
    /// A word of it, and what follows, starts so. A word begins with a letter or digit at the beginning, or after
    /// anything else.
    WordStartsWith(String),
}

/// Figures of a recording's quality: the worst of its streams or tracks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Measure {
    /// Packets that the network lost, as part of those expected, 0 ..= 1; of the worst stream.
    LossShare,
    /// Of the worst track.
    ConcealedSeconds,
    /// Mean interarrival jitter in milliseconds, of the worst stream.
    JitterMs,
}

impl Filter {
    pub fn everything() -> Self {
        Self::And(Vec::new())
    }

    /// Part of a party's number or of a party's name; no match reaches from one into the other.
    pub fn party(part: &str) -> Self {
        Self::Or(vec![
            Self::Text(TextField::Number, TextMatch::Contains(part.to_owned())),
            Self::Text(TextField::Name, TextMatch::Contains(part.to_owned())),
        ])
    }

    /// Free text: each word of it is part of a party's number, name or address, or of a user.
    pub fn free_text(text: &str) -> Self {
        const FIELDS: [TextField; 4] = [TextField::Number, TextField::Name, TextField::Address, TextField::User];
        let word = |word: &str| {
            let part = |field| Self::Text(field, TextMatch::Contains(word.to_owned()));
            Self::Or(FIELDS.into_iter().map(part).collect())
        };
        Self::And(text.split_whitespace().map(word).collect())
    }

    /// Conditions in it, its parts counted too.
    pub(crate) fn conditions(&self) -> usize {
        1 + match self {
            Self::And(parts) | Self::Or(parts) => parts.iter().map(Self::conditions).sum(),
            Self::Not(part) => part.conditions(),
            _ => 0,
        }
    }
}
