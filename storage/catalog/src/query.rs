//! A query: what to look for, and which page of the answer.

use crate::{Filter, Span};
use sidetone_model::{CaptureTime, Recording, RecordingId, RecordingState};
use std::fmt;
use std::str::FromStr;

/// The largest page that [`Catalog::search`](crate::Catalog::search) gives.
pub const PAGE_LIMIT_MAX: usize = 1000;
/// Up to so many recordings, [`Catalog::count`](crate::Catalog::count) counts them one by one.
pub const COUNT_EXACT_MAX: u64 = 1000;

/// A page of the recordings that match a filter, newest first.
#[derive(Clone, PartialEq, Debug)]
pub struct Query {
    pub filter: Filter,
    /// Where the page before this one ended.
    pub cursor: Option<Cursor>,
    /// Recordings on the page, 1 ..= [`PAGE_LIMIT_MAX`]; other values are brought into this range.
    pub limit: usize,
}

impl Query {
    /// The first page, of 50 recordings.
    pub fn new(filter: Filter) -> Self {
        Self { filter, cursor: None, limit: 50 }
    }
}

impl Default for Query {
    /// Everything.
    fn default() -> Self {
        Self::new(Filter::everything())
    }
}

/// The simple questions, as a list of conditions; every one that is present narrows the answer.
#[derive(Clone, PartialEq, Debug)]
pub struct RecordingQuery {
    /// `started_at` in `[from, to)`.
    pub from: Option<CaptureTime>,
    pub to: Option<CaptureTime>,
    /// Part of a party's number or name; see [`Filter::party`]. Nothing but white space is no condition.
    pub party: Option<String>,
    pub state: Option<RecordingState>,
    /// Where the page before this one ended.
    pub cursor: Option<Cursor>,
    /// As in [`Query`].
    pub limit: usize,
}

impl Default for RecordingQuery {
    fn default() -> Self {
        Self { from: None, to: None, party: None, state: None, cursor: None, limit: 50 }
    }
}

impl From<&RecordingQuery> for Query {
    fn from(query: &RecordingQuery) -> Self {
        let mut conditions = Vec::new();
        if query.from.is_some() || query.to.is_some() {
            conditions.push(Filter::Started(Span { from: query.from, to: query.to }));
        }
        if let Some(party) = query.party.as_deref().filter(|party| !party.trim().is_empty()) {
            conditions.push(Filter::party(party));
        }
        conditions.extend(query.state.map(Filter::State));
        Self { filter: Filter::And(conditions), cursor: query.cursor, limit: query.limit }
    }
}

/// A place in the order of all recordings. Its text is opaque and stays valid while recordings arrive: what arrives
/// later never shows up behind it, unless it started earlier.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cursor {
    pub(crate) started_at: CaptureTime,
    pub(crate) recording: RecordingId,
}

impl Cursor {
    /// Just behind this recording.
    pub fn after(recording: &Recording) -> Self {
        Self { started_at: recording.started_at, recording: recording.id }
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}{}", self.started_at.0, self.recording.0.simple())
    }
}

/// The text is not a cursor.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not a cursor of this catalog: take it unchanged from the page before")]
pub struct BadCursor;

impl FromStr for Cursor {
    type Err = BadCursor;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() != 48 || !text.bytes().all(|byte| byte.is_ascii_hexdigit() && !byte.is_ascii_uppercase()) {
            return Err(BadCursor);
        }
        let started_at = u64::from_str_radix(&text[..16], 16).ok().ok_or(BadCursor)?;
        let recording = u128::from_str_radix(&text[16..], 16).ok().ok_or(BadCursor)?;
        Ok(Self { started_at: CaptureTime(started_at), recording: RecordingId(uuid::Uuid::from_u128(recording)) })
    }
}

/// One page of an answer, newest first. Recordings that started in the same millisecond stand in an order of their own,
/// which is always the same.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct RecordingPage {
    pub recordings: Vec<Recording>,
    /// Where the next page begins; absent on the last one. A page may hold fewer recordings than asked for, even none,
    /// and still have a next one, when very many recordings had to be looked through.
    pub next: Option<Cursor>,
}
