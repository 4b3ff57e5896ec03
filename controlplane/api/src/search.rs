//! What to look for in the recordings: the conditions that HTTP parameters and command line options both name.

use serde::{Deserialize, Serialize};
use sidetone_model::{CaptureTime, RecordingState};
use sidetone_store::{Filter, Measure, Span, TextField, TextMatch};
use std::fmt;
use std::str::FromStr;

/// A longer text is no number and no name, in bytes.
pub(crate) const TEXT_BYTES_MAX: usize = 128;
/// The most tags in one search.
const TAGS_MAX: usize = 16;

/// Conditions on recordings; each one that is present narrows the answer. A text of nothing but white space is no condition.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Search {
    /// Started at this time or later, and before `to`.
    pub from: Option<CaptureTime>,
    pub to: Option<CaptureTime>,
    /// Each word is part of a party's number, name or address, or of a user.
    pub text: Option<String>,
    /// Part of a party's number or name.
    pub party: Option<String>,
    /// A party's whole number, its beginning, its end.
    pub number: Option<String>,
    pub number_prefix: Option<String>,
    pub number_suffix: Option<String>,
    /// Part of a party's name.
    pub name: Option<String>,
    /// A recorded user.
    pub user: Option<String>,
    /// A party's signalling address, without its port.
    pub address: Option<String>,
    /// The appliance that recorded it.
    pub node: Option<String>,
    /// A leg's call identifier: of SIP the Call-ID.
    pub call_id: Option<String>,
    pub state: Option<StateCondition>,
    pub min_duration_seconds: Option<f64>,
    pub max_duration_seconds: Option<f64>,
    /// Of a stream, with or without its clock: `PCMA`, `PCMA/8000`.
    pub codec: Option<String>,
    /// All of these.
    pub tags: Vec<TagCondition>,
    pub hold: Option<bool>,
    /// Of the packets of the worst stream.
    pub min_loss_percent: Option<f64>,
    /// Mean of the worst stream.
    pub min_jitter_ms: Option<f64>,
    /// Of the worst track.
    pub min_concealed_seconds: Option<f64>,
}

/// The states to look for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum StateCondition {
    Active,
    Complete,
    Incomplete,
    /// Complete or incomplete.
    Finished,
}

/// `key`, or `key=value`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TagCondition {
    pub key: String,
    pub value: Option<String>,
}

/// A condition that cannot be searched for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UnusableCondition {
    /// Its name, as the HTTP parameter; the command line option has dashes in it.
    pub name: &'static str,
    pub problem: String,
    pub remedy: &'static str,
}

/// A condition on a text: its parameter, the value asked for, and where and how that is to be found.
type TextCondition<'a> = (&'static str, &'a Option<String>, TextField, fn(String) -> TextMatch);

impl Search {
    pub fn filter(&self) -> Result<Filter, UnusableCondition> {
        let mut conditions = Vec::new();
        if let (Some(from), Some(to)) = (self.from, self.to)
            && from >= to
        {
            let problem = format!("is {from}, which is not before `to` ({to})");
            return unusable("from", problem, "exchange them; `to` itself is not included");
        }
        if self.from.is_some() || self.to.is_some() {
            conditions.push(Filter::Started(Span { from: self.from, to: self.to }));
        }
        if let Some(text) = text("text", self.text.as_ref())? {
            conditions.push(Filter::free_text(text));
        }
        if let Some(party) = text("party", self.party.as_ref())? {
            conditions.push(Filter::party(party));
        }
        let texts: [TextCondition<'_>; 8] = [
            ("number", &self.number, TextField::Number, TextMatch::Is),
            ("number_prefix", &self.number_prefix, TextField::Number, TextMatch::StartsWith),
            ("number_suffix", &self.number_suffix, TextField::Number, TextMatch::EndsWith),
            ("name", &self.name, TextField::Name, TextMatch::Contains),
            ("user", &self.user, TextField::User, TextMatch::Is),
            ("address", &self.address, TextField::Address, TextMatch::Is),
            ("node", &self.node, TextField::Node, TextMatch::Is),
            ("call_id", &self.call_id, TextField::CallId, TextMatch::Is),
        ];
        for (name, value, field, matching) in texts {
            if let Some(value) = text(name, value.as_ref())? {
                conditions.push(Filter::Text(field, matching(value.to_owned())));
            }
        }
        conditions.extend(self.state.map(StateCondition::filter));
        conditions.extend(self.duration()?.map(Filter::Duration));
        if let Some(codec) = text("codec", self.codec.as_ref())? {
            conditions.push(Filter::Codec(codec.to_owned()));
        }
        conditions.extend(self.tag_conditions()?);
        match self.hold {
            Some(true) => conditions.push(Filter::OnHold),
            Some(false) => conditions.push(Filter::Not(Box::new(Filter::OnHold))),
            None => {}
        }
        let measures = [
            ("min_loss_percent", self.min_loss_percent.map(|percent| percent / 100.0), Measure::LossShare),
            ("min_jitter_ms", self.min_jitter_ms, Measure::JitterMs),
            ("min_concealed_seconds", self.min_concealed_seconds, Measure::ConcealedSeconds),
        ];
        for (name, least, measure) in measures {
            if let Some(least) = figure(name, least)? {
                conditions.push(Filter::Quality(measure, (least..).into()));
            }
        }
        Ok(Filter::And(conditions))
    }

    fn duration(&self) -> Result<Option<Span<f64>>, UnusableCondition> {
        let least = figure("min_duration_seconds", self.min_duration_seconds)?;
        let most = figure("max_duration_seconds", self.max_duration_seconds)?;
        if let (Some(least), Some(most)) = (least, most)
            && least > most
        {
            let problem = format!("is {least}, which is more than `max_duration_seconds` ({most})");
            return unusable("min_duration_seconds", problem, "exchange them");
        }
        let span = Span { from: least, to: most.map(f64::next_up) };
        Ok((least.is_some() || most.is_some()).then_some(span))
    }

    fn tag_conditions(&self) -> Result<impl Iterator<Item = Filter>, UnusableCondition> {
        if self.tags.len() > TAGS_MAX {
            let problem = format!("is given {} times, and may be {TAGS_MAX} times", self.tags.len());
            return unusable("tag", problem, "look for fewer tags at a time");
        }
        let tags = self.tags.iter();
        Ok(tags.map(|TagCondition { key, value }| Filter::Tag { key: key.clone(), value: value.clone() }))
    }
}

impl StateCondition {
    fn filter(self) -> Filter {
        match self {
            Self::Active => Filter::State(RecordingState::Active),
            Self::Complete => Filter::State(RecordingState::Complete),
            Self::Incomplete => Filter::State(RecordingState::Incomplete),
            Self::Finished => Filter::Not(Box::new(Filter::State(RecordingState::Active))),
        }
    }
}

impl FromStr for TagCondition {
    type Err = NoTag;

    fn from_str(text: &str) -> Result<Self, NoTag> {
        let (key, value) = match text.split_once('=') {
            Some((key, value)) => (key, Some(value.to_owned())),
            None => (text, None),
        };
        if key.trim().is_empty() {
            return Err(NoTag);
        }
        Ok(Self { key: key.to_owned(), value })
    }
}

/// The text names no tag.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a tag is written `key` or `key=value`")]
pub struct NoTag;

impl fmt::Display for UnusableCondition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` {}", self.name, self.problem)
    }
}

fn unusable<T>(name: &'static str, problem: String, remedy: &'static str) -> Result<T, UnusableCondition> {
    Err(UnusableCondition { name, problem, remedy })
}

fn text<'a>(name: &'static str, value: Option<&'a String>) -> Result<Option<&'a str>, UnusableCondition> {
    let Some(value) = value.map(|value| value.trim()).filter(|value| !value.is_empty()) else { return Ok(None) };
    if value.len() > TEXT_BYTES_MAX {
        let problem = format!("is {} bytes long, and may be {TEXT_BYTES_MAX}", value.len());
        return unusable(name, problem, "give less of it");
    }
    Ok(Some(value))
}

fn figure(name: &'static str, value: Option<f64>) -> Result<Option<f64>, UnusableCondition> {
    match value {
        Some(value) if !value.is_finite() || value < 0.0 => {
            unusable(name, format!("is {value}, and must be a number from 0 on"), "correct it or leave it out")
        }
        value => Ok(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_condition_that_is_present_narrows_the_answer() {
        assert_eq!(Search::default().filter(), Ok(Filter::And(Vec::new())));
        let search = Search {
            from: Some(CaptureTime(5)),
            text: Some(" ada ".into()),
            party: Some("  ".into()),
            number_suffix: Some("42".into()),
            max_duration_seconds: Some(60.0),
            tags: vec!["case=1=2".parse().unwrap(), "seen".parse().unwrap()],
            hold: Some(false),
            min_loss_percent: Some(1.5),
            ..Search::default()
        };
        let Filter::And(conditions) = search.filter().unwrap() else { panic!("all of them") };
        let tag = |key: &str, value: Option<&str>| Filter::Tag { key: key.into(), value: value.map(Into::into) };
        let expected = [
            Filter::Started(Span { from: Some(CaptureTime(5)), to: None }),
            Filter::free_text("ada"),
            Filter::Text(TextField::Number, TextMatch::EndsWith("42".into())),
            Filter::Duration(Span { from: None, to: Some(60f64.next_up()) }),
            tag("case", Some("1=2")),
            tag("seen", None),
            Filter::Not(Box::new(Filter::OnHold)),
            Filter::Quality(Measure::LossShare, (0.015..).into()),
        ];
        assert_eq!(conditions, expected);
    }

    #[test]
    fn conditions_that_no_recording_can_meet_are_refused_by_name() {
        let at = |seconds| Some(CaptureTime::from_seconds_nanos(seconds, 0));
        for (search, name) in [
            (Search { from: at(2), to: at(2), ..Search::default() }, "from"),
            (Search { name: Some("x".repeat(129)), ..Search::default() }, "name"),
            (Search { min_jitter_ms: Some(f64::NAN), ..Search::default() }, "min_jitter_ms"),
            (Search { max_duration_seconds: Some(-1.0), ..Search::default() }, "max_duration_seconds"),
            (
                Search { min_duration_seconds: Some(2.0), max_duration_seconds: Some(1.0), ..Search::default() },
                "min_duration_seconds",
            ),
            (Search { tags: vec!["a".parse().unwrap(); 17], ..Search::default() }, "tag"),
        ] {
            assert_eq!(search.filter().unwrap_err().name, name);
        }
        assert_eq!("=x".parse::<TagCondition>(), Err(NoTag));
    }
}
