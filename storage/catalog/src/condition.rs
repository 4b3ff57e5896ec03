//! A filter made ready: texts normalized, negations at the leaves.
//!
//! Whether a recording matches is decided here and nowhere else; indexes only propose.

use crate::document::Glance;
use crate::keys::field_kind;
use crate::{CatalogError, FILTER_CONDITIONS_MAX, Filter, Measure, Span, TextField, TextMatch};
use sidetone_model::{CaptureTime, Recording, RecordingState, Stream};
use std::borrow::Cow;
use std::net::SocketAddr;

/// So many bytes of a text that is in an index are searched.
const TEXT_BYTES_MAX: usize = 64;

#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Condition {
    All(Vec<Condition>),
    Any(Vec<Condition>),
    Is(Test),
    IsNot(Test),
}

/// A condition that is not made of others.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Test {
    Started(Span<CaptureTime>),
    State(RecordingState),
    Duration(Span<f64>),
    /// With the text normalized for the field.
    Text(TextField, TextMatch),
    /// In lower case.
    Codec(String),
    Quality(Measure, Span<f64>),
    Tag {
        key: String,
        value: Option<String>,
    },
    OnHold,
}

impl Condition {
    pub(crate) fn new(filter: &Filter) -> Result<Self, CatalogError> {
        if filter.conditions() > FILTER_CONDITIONS_MAX {
            return Err(CatalogError::FilterTooLarge);
        }
        Ok(Self::from_filter(filter, false))
    }

    fn from_filter(filter: &Filter, negated: bool) -> Self {
        let parts = |parts: &[Filter]| parts.iter().map(|part| Self::from_filter(part, negated)).collect();
        let test = match filter {
            Filter::Not(part) => return Self::from_filter(part, !negated),
            // De Morgan's laws.
            Filter::And(all) => return if negated { Self::Any(parts(all)) } else { Self::All(parts(all)) },
            Filter::Or(any) => return if negated { Self::All(parts(any)) } else { Self::Any(parts(any)) },
            Filter::Started(span) => Test::Started(*span),
            Filter::State(state) if negated => return Self::other_states(*state),
            Filter::State(state) => Test::State(*state),
            Filter::Duration(span) => Test::Duration(*span),
            Filter::Text(field, matching) => Test::Text(*field, matching.normalized(*field)),
            Filter::Codec(name) => Test::Codec(name.trim().to_lowercase()),
            Filter::Quality(measure, span) => Test::Quality(*measure, *span),
            Filter::Tag { key, value } => Test::Tag { key: key.clone(), value: value.clone() },
            Filter::OnHold => Test::OnHold,
        };
        if negated { Self::IsNot(test) } else { Self::Is(test) }
    }

    /// As a positive condition, which indexes can answer.
    fn other_states(state: RecordingState) -> Self {
        let all = [RecordingState::Active, RecordingState::Complete, RecordingState::Incomplete];
        Self::Any(all.into_iter().filter(|&other| other != state).map(|other| Self::Is(Test::State(other))).collect())
    }

    /// What a first look at a document tells; `None` when it does not.
    pub(crate) fn glance(&self, glance: &Glance) -> Option<bool> {
        // Of several parts, one can decide; else all must have decided.
        let several = |parts: &[Self], deciding: bool| {
            let mut all = Some(!deciding);
            for part in parts {
                match part.glance(glance) {
                    Some(told) if told == deciding => return Some(deciding),
                    Some(_) => {}
                    None => all = None,
                }
            }
            all
        };
        match self {
            Self::All(all) => several(all, false),
            Self::Any(any) => several(any, true),
            Self::Is(test) => test.glance(glance),
            Self::IsNot(test) => test.glance(glance).map(|told| !told),
        }
    }

    pub(crate) fn matches(&self, recording: &Recording) -> bool {
        match self {
            Self::All(all) => all.iter().all(|part| part.matches(recording)),
            Self::Any(any) => any.iter().any(|part| part.matches(recording)),
            Self::Is(test) => test.holds(recording),
            Self::IsNot(test) => !test.holds(recording),
        }
    }
}

impl Test {
    fn glance(&self, glance: &Glance) -> Option<bool> {
        match self {
            Self::Started(span) => Some(span.contains(glance.started_at)),
            Self::State(state) => Some(glance.state == *state),
            Self::Duration(span) => Some(span.contains(glance.duration_seconds)),
            Self::Text(..) | Self::Codec(_) | Self::Quality(..) | Self::Tag { .. } | Self::OnHold => None,
        }
    }

    fn holds(&self, recording: &Recording) -> bool {
        match self {
            Self::Started(span) => span.contains(recording.started_at),
            Self::State(state) => recording.state == *state,
            Self::Duration(span) => span.contains(recording.duration_seconds),
            Self::Text(field, matching) => searchable_texts(recording, *field).any(|text| matching.accepts(&text)),
            Self::Codec(wanted) => streams(recording).any(|stream| {
                let codec = stream.codec.to_lowercase();
                codec == *wanted || codec.split_once('/').is_some_and(|(name, _clock)| name == wanted)
            }),
            Self::Quality(measure, span) => span.contains(measure.of(recording)),
            Self::Tag { key, value } => {
                let found = recording.annotations.tags.get(key);
                found.is_some_and(|found| value.as_ref().is_none_or(|value| found == value))
            }
            Self::OnHold => recording.annotations.hold.is_some(),
        }
    }
}

impl Measure {
    /// The figure of a recording; 0 when it has no stream or track.
    pub fn of(self, recording: &Recording) -> f64 {
        let worst = |figures: &mut dyn Iterator<Item = f64>| figures.fold(0.0, f64::max);
        match self {
            Self::LossShare => worst(&mut streams(recording).map(|stream| {
                let unique = stream.packets.saturating_sub(stream.duplicates);
                let expected = unique.saturating_add(stream.lost);
                if expected == 0 { 0.0 } else { stream.lost as f64 / expected as f64 }
            })),
            Self::ConcealedSeconds => worst(&mut recording.tracks.iter().map(|track| track.concealed_seconds)),
            Self::JitterMs => worst(&mut streams(recording).map(|stream| stream.jitter_ms_mean)),
        }
    }
}

fn streams(recording: &Recording) -> impl Iterator<Item = &Stream> {
    recording.tracks.iter().flat_map(|track| &track.streams)
}

impl TextMatch {
    fn normalized(&self, field: TextField) -> Self {
        let text = |text: &String| normalize(field, text).into_owned();
        match self {
            Self::Is(part) => Self::Is(text(part)),
            Self::StartsWith(part) => Self::StartsWith(text(part)),
            Self::EndsWith(part) => Self::EndsWith(text(part)),
            Self::Contains(part) => Self::Contains(text(part)),
            Self::WordStartsWith(part) => Self::WordStartsWith(text(part)),
        }
    }

    /// Both normalized.
    pub(crate) fn accepts(&self, text: &str) -> bool {
        match self {
            Self::Is(part) => text == part,
            Self::StartsWith(part) => text.starts_with(part),
            Self::EndsWith(part) => text.ends_with(part),
            Self::Contains(part) => text.contains(part),
            Self::WordStartsWith(part) => word_starts(text).any(|start| text[start..].starts_with(part)),
        }
    }
}

/// Byte offsets at which words begin.
fn word_starts(text: &str) -> impl Iterator<Item = usize> {
    let mut inside = false;
    text.char_indices().filter_map(move |(offset, character)| {
        let begins = !std::mem::replace(&mut inside, character.is_alphanumeric()) && inside;
        begins.then_some(offset)
    })
}

fn raw_texts(recording: &Recording, field: TextField) -> Box<dyn Iterator<Item = &str> + '_> {
    let parties = recording.parties.iter();
    match field {
        TextField::Number => Box::new(parties.map(|party| party.number.as_str())),
        TextField::Name => Box::new(parties.map(|party| party.name.as_str())),
        TextField::User => Box::new(recording.users.iter().map(String::as_str)),
        TextField::Address => Box::new(parties.map(|party| party.address.as_str())),
        TextField::Node => Box::new(std::iter::once(recording.node.0.as_str())),
        TextField::Protocol => Box::new(recording.legs.iter().map(|leg| leg.protocol.as_str())),
        TextField::CallId => Box::new(recording.legs.iter().map(|leg| leg.call_id.as_str())),
    }
}

/// What of a recording's text is searched; empty when there is none.
fn searchable(field: TextField, text: &str) -> Cow<'_, str> {
    match normalize(field, text) {
        text if field_kind(field).is_none() => text,
        Cow::Borrowed(text) => Cow::Borrowed(truncate(text, TEXT_BYTES_MAX)),
        Cow::Owned(mut text) => {
            text.truncate(truncate(&text, TEXT_BYTES_MAX).len());
            Cow::Owned(text)
        }
    }
}

/// The texts of a field by which a recording is found.
pub(crate) fn searchable_texts(recording: &Recording, field: TextField) -> impl Iterator<Item = Cow<'_, str>> {
    raw_texts(recording, field).map(move |text| searchable(field, text)).filter(|text| !text.is_empty())
}

fn truncate(text: &str, bytes: usize) -> &str {
    let mut end = text.len().min(bytes);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

fn normalize(field: TextField, text: &str) -> Cow<'_, str> {
    match field {
        TextField::Number if is_written_number(text) => {
            Cow::Owned(text.chars().filter(|character| !is_separator(*character)).collect())
        }
        TextField::Address => plain(without_port(text)),
        _ => plain(text),
    }
}

/// Digits with separators between them.
fn is_written_number(text: &str) -> bool {
    text.contains(is_separator)
        && text.contains(|character: char| character.is_ascii_digit())
        && text.chars().all(|character| {
            character.is_ascii_digit() || is_separator(character) || matches!(character, '+' | '*' | '#')
        })
}

fn is_separator(character: char) -> bool {
    matches!(character, '-' | '.' | '/' | '(' | ')') || character.is_whitespace()
}

fn without_port(address: &str) -> Cow<'_, str> {
    if let Ok(address) = address.parse::<SocketAddr>() {
        return Cow::Owned(address.ip().to_string());
    }
    match address.split_once(':') {
        Some((host, port)) if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) => Cow::Borrowed(host),
        _ => Cow::Borrowed(address),
    }
}

/// Lower case; white space and control characters as single spaces, none around.
fn plain<'a>(text: impl Into<Cow<'a, str>>) -> Cow<'a, str> {
    let text = text.into();
    let is_plain = text.bytes().all(|byte| byte.is_ascii_graphic() && !byte.is_ascii_uppercase());
    if is_plain {
        return text;
    }
    let spaced = text.replace(char::is_control, " ").to_lowercase();
    let mut plain = String::with_capacity(spaced.len());
    for word in spaced.split_whitespace() {
        if !plain.is_empty() {
            plain.push(' ');
        }
        plain.push_str(word);
    }
    Cow::Owned(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_compared_without_regard_to_case_white_space_and_the_way_numbers_are_written() {
        let cases = [
            (TextField::Number, "+49 (30) 123-45", "+493012345"),
            (TextField::Number, "Alice.B-1", "alice.b-1"),
            (TextField::Number, "*21#", "*21#"),
            (TextField::Number, "-", "-"),
            (TextField::Name, "  Straße\tNord\u{0}\u{a0} X ", "straße nord x"),
            (TextField::Address, "192.0.2.1:5060", "192.0.2.1"),
            (TextField::Address, "[2001:DB8::1]:5060", "2001:db8::1"),
            (TextField::Address, "2001:DB8::1", "2001:db8::1"),
            (TextField::Address, "PBX.example:5060", "pbx.example"),
            (TextField::Address, "192.0.2", "192.0.2"),
        ];
        for (field, text, expected) in cases {
            assert_eq!(normalize(field, text), expected, "{field:?} {text:?}");
            assert_eq!(normalize(field, expected), expected, "normalizing twice is as once");
        }
    }

    #[test]
    fn words_begin_after_anything_but_letters_and_digits() {
        let starts: Vec<&str> =
            word_starts("anna-lena o'hara, 2nd (ärztin)").map(|at| &"anna-lena o'hara, 2nd (ärztin)"[at..]).collect();
        let expected = [
            "anna-lena o'hara, 2nd (ärztin)",
            "lena o'hara, 2nd (ärztin)",
            "o'hara, 2nd (ärztin)",
            "hara, 2nd (ärztin)",
            "2nd (ärztin)",
            "ärztin)",
        ];
        assert_eq!(starts, expected);
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        let text = "ä".repeat(100);
        assert_eq!(searchable(TextField::Name, &text), "ä".repeat(32));
        assert_eq!(searchable(TextField::Name, &format!("a{text}")).len(), 63);
        // Neither lower-casing nor the cut may leave less than the whole again.
        assert_eq!(
            searchable(TextField::Name, &searchable(TextField::Name, &text)),
            searchable(TextField::Name, &text)
        );
    }
}
