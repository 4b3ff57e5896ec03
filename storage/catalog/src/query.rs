//! The questions people ask of the catalog, and the trait that every catalog answers.

use crate::CatalogError;
use serde::{Deserialize, Serialize};
use sidetone_log::{Located, LogPosition};
use sidetone_model::{CaptureTime, Recording, RecordingId, RecordingState, Tick, TrackId};
use std::fmt;
use std::str::FromStr;

/// The largest page that [`Catalog::search`] gives.
pub const PAGE_LIMIT_MAX: usize = 1000;

/// What to look for; every part that is present narrows the answer. Newest first.
#[derive(Clone, PartialEq, Debug)]
pub struct RecordingQuery {
    /// `started_at` in `[from, to)`.
    pub from: Option<CaptureTime>,
    pub to: Option<CaptureTime>,
    /// Part of a party's number or name, in any case; surrounding white space does not count. Number and name are each
    /// searched as a whole: no match reaches from one into the other.
    pub party: Option<String>,
    pub state: Option<RecordingState>,
    /// Where the page before this one ended.
    pub cursor: Option<Cursor>,
    /// Recordings on the page, 1 ..= [`PAGE_LIMIT_MAX`]; other values are brought into this range.
    pub limit: usize,
}

impl Default for RecordingQuery {
    fn default() -> Self {
        Self { from: None, to: None, party: None, state: None, cursor: None, limit: 50 }
    }
}

/// A place in the order of all recordings (newest first). Its text is opaque and stays valid while recordings arrive:
/// what arrives later never shows up behind it, unless it started earlier.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cursor {
    pub(crate) started_at: CaptureTime,
    pub(crate) recording: RecordingId,
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

/// One page of an answer, newest first.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct RecordingPage {
    pub recordings: Vec<Recording>,
    /// Where the next page begins; absent on the last one. A page may hold fewer recordings than asked for and still
    /// have a next one, when very many recordings had to be looked through.
    pub next: Option<Cursor>,
}

/// Where a chunk lies in the journal, and what it covers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ChunkLocation {
    pub first_tick: Tick,
    pub ticks: u16,
    pub packets: u16,
    pub located: Located,
}

/// How large the catalog is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct CatalogStatistics {
    pub recordings: u64,
    pub recordings_active: u64,
    pub recordings_incomplete: u64,
    /// Chunks of audio; a chunk that was appended twice counts once.
    pub chunks: u64,
    /// Bytes of the journal that these chunks take.
    pub chunk_bytes: u64,
    /// Bytes of the catalog on disk, without its write-ahead log.
    pub size_bytes: u64,
    /// Everything in the journal before this position is in the catalog.
    pub applied: LogPosition,
}

/// The catalog of recordings: a projection of the log, which can be thrown away and made again.
pub trait Catalog: Send + Sync {
    fn recording(&self, recording: RecordingId) -> Result<Option<Recording>, CatalogError>;
    fn search(&self, query: &RecordingQuery) -> Result<RecordingPage, CatalogError>;
    /// The chunks of a track that hold any grid step in `[from, to)`, in grid order.
    fn chunks(
        &self,
        recording: RecordingId,
        track: TrackId,
        from: Tick,
        to: Tick,
    ) -> Result<Vec<ChunkLocation>, CatalogError>;
    /// Every active recording with the call tracker's state (null where none was stored), oldest first.
    fn active_with_resume(&self) -> Result<Vec<(Recording, serde_json::Value)>, CatalogError>;
    /// Whether a capture file with this digest was replayed to its end.
    fn has_replayed(&self, digest: &str) -> Result<bool, CatalogError>;
    fn statistics(&self) -> Result<CatalogStatistics, CatalogError>;
}
