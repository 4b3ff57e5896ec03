//! From catalogs of version 1: documents as JSON, one journal, no sequences.
//!
//! Constraints: what is written here is what [`apply`](crate::apply) writes, so that a migration that was interrupted is simply
//! done again. The old families go only when the new version is durable.

use crate::apply::{KnownTexts, Totals, apply};
use crate::database::Database;
use crate::{CatalogError, Changes};
use rocksdb::{IteratorMode, WriteBatch};
use sidetone_log::{Fact, FactRecord, FactSequence, Located, LogPosition, VolumeNumber};
use sidetone_model::{CaptureTime, Recording, RecordingId, SavedCall, Tick, TrackId};
use std::collections::BTreeMap;
use std::sync::Arc;
use uuid::Uuid;

const OLD_FAMILIES: [&str; 7] = ["recordings", "resume", "by_time", "by_state", "by_party", "party_texts", "chunks"];
const OLD_APPLIED: &[u8] = b"applied";
const OLD_COUNTERS: &[u8] = b"counters";
const OLD_REPLAYED: &[u8] = b"replayed/";
/// First byte of a document: JSON follows.
const OLD_DOCUMENT: u8 = 1;

/// The one volume there was.
const VOLUME: VolumeNumber = VolumeNumber(0);
/// Facts had no sequence: any newer one replaces them.
const SEQUENCE: FactSequence = FactSequence(0);
/// Where a fact lay was not stored. From here on, the whole journal is held for it.
const SOMEWHERE: LogPosition = LogPosition { file: 0, offset: 0 };

/// Recordings, or chunks, brought over at once.
const BATCH: usize = 2000;

pub(crate) fn is_old_family(name: &str) -> bool {
    OLD_FAMILIES.contains(&name)
}

/// Brings everything over; `progress` is told how many recordings are done.
pub(crate) fn from_version_1(database: &Database, progress: &mut dyn FnMut(u64)) -> Result<(), CatalogError> {
    let mut over =
        Over { database, totals: Totals::load(database)?, texts: KnownTexts::new(), changes: Changes::default() };
    let mut resumes: BTreeMap<RecordingId, SavedCall> = BTreeMap::new();
    each(database, "resume", |key, value| {
        let resume = SavedCall::from_json(value).map_err(|_not_json| database.damaged("a call tracker's state"))?;
        resumes.insert(recording_id(database, key)?, resume);
        Ok(())
    })?;
    let mut recordings = 0;
    each(database, "recordings", |key, value| {
        let id = recording_id(database, key)?;
        let document = match value.split_first() {
            Some((&OLD_DOCUMENT, json)) => serde_json::from_slice::<Recording>(json).ok(),
            _ => None,
        };
        let document = document.filter(|document| document.id == id);
        let recording = Arc::new(document.ok_or_else(|| database.damaged(format!("recording {id}")))?);
        over.fact(Fact::Recording { recording, resume: resumes.remove(&id) })?;
        recordings += 1;
        if recordings % BATCH as u64 == 0 {
            progress(recordings);
        }
        Ok(())
    })?;
    each(database, "chunks", |key, value| {
        over.changes.chunks.push(chunk(key, value).ok_or_else(|| database.damaged("a chunk's place"))?);
        over.flush_when_full()
    })?;
    let mut applied = None;
    each(database, "meta", |key, value| {
        if key == OLD_APPLIED {
            applied = Some(position(value).ok_or_else(|| database.damaged("its applied position"))?);
        } else if let Some(digest) = key.strip_prefix(OLD_REPLAYED) {
            let digest = String::from_utf8_lossy(digest).into_owned();
            let at: [u8; 8] = value.try_into().ok().ok_or_else(|| database.damaged("the time of a replay"))?;
            over.fact(Fact::Replayed { digest, at: CaptureTime(u64::from_le_bytes(at)) })?;
        }
        Ok(())
    })?;
    over.flush(applied)?;
    progress(recordings);
    let mut batch = WriteBatch::default();
    let meta = database.raw().cf_handle("meta").expect("all column families are opened");
    [OLD_APPLIED, OLD_COUNTERS].into_iter().for_each(|key| batch.delete_cf(meta, key));
    batch.delete_range_cf(meta, OLD_REPLAYED, b"replayed0");
    database.write(batch)
}

struct Over<'a> {
    database: &'a Database,
    totals: Totals,
    texts: KnownTexts,
    changes: Changes,
}

impl Over<'_> {
    fn fact(&mut self, fact: Fact) -> Result<(), CatalogError> {
        self.changes.fact(FactRecord { sequence: SEQUENCE, fact }, &[(VOLUME, SOMEWHERE)]);
        self.flush_when_full()
    }

    fn flush_when_full(&mut self) -> Result<(), CatalogError> {
        if self.changes.len() >= BATCH { self.flush(None) } else { Ok(()) }
    }

    fn flush(&mut self, applied: Option<LogPosition>) -> Result<(), CatalogError> {
        let applied: Vec<_> = applied.map(|position| (VOLUME, position)).into_iter().collect();
        self.totals = apply(self.database, &self.totals, &mut self.texts, &self.changes, &applied)?;
        self.changes.clear();
        Ok(())
    }
}

/// All entries of an old family; none where it is not there.
fn each(
    database: &Database,
    family: &str,
    mut take: impl FnMut(&[u8], &[u8]) -> Result<(), CatalogError>,
) -> Result<(), CatalogError> {
    let Some(family) = database.raw().cf_handle(family) else { return Ok(()) };
    for entry in database.raw().iterator_cf(family, IteratorMode::Start) {
        let (key, value) = entry.map_err(|source| database.error("read", source))?;
        take(&key, &value)?;
    }
    Ok(())
}

fn recording_id(database: &Database, key: &[u8]) -> Result<RecordingId, CatalogError> {
    let id: [u8; 16] = key.try_into().ok().ok_or_else(|| database.damaged("a recording's identifier"))?;
    Ok(RecordingId(Uuid::from_bytes(id)))
}

/// Key: recording, track, first grid step. Value: position, length, grid steps, packets.
fn chunk(key: &[u8], value: &[u8]) -> Option<crate::changes::ChunkChange> {
    let (id, rest) = key.split_first_chunk::<16>()?;
    let (&track, first_tick) = rest.split_first()?;
    let first_tick: [u8; 8] = first_tick.try_into().ok()?;
    let (place, rest) = value.split_at_checked(12)?;
    let rest: [u8; 8] = rest.try_into().ok()?;
    Some(crate::changes::ChunkChange {
        recording: RecordingId(Uuid::from_bytes(*id)),
        track: TrackId(track),
        first_tick: Tick(u64::from_be_bytes(first_tick)),
        ticks: u16::from_le_bytes([rest[4], rest[5]]),
        packets: u16::from_le_bytes([rest[6], rest[7]]),
        volume: VOLUME,
        located: Located {
            position: position(place)?,
            length: u32::from_le_bytes([rest[0], rest[1], rest[2], rest[3]]),
        },
    })
}

fn position(value: &[u8]) -> Option<LogPosition> {
    let (file, offset) = value.split_first_chunk::<4>()?;
    Some(LogPosition { file: u32::from_le_bytes(*file), offset: u64::from_le_bytes(offset.try_into().ok()?) })
}
