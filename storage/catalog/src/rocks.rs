//! The catalog on RocksDB.

use crate::apply::{KnownTexts, NO_RECORDING, Totals, apply, decode, load, other_facts, segment_end};
use crate::database::{CatalogOptions, Database, Family, Mode, View};
use crate::keys::{CHUNK_TRACK_BYTES, Need, chunk_key, parse_chunk, replayed_key, segment_key};
use crate::order::OrderKey;
use crate::plan::Limits;
use crate::row::{Newest, Places, Row};
use crate::search::{self, proof};
use crate::{
    BackupProgress, Catalog, CatalogError, CatalogStatistics, Changes, ChunkLocation, Count, Filter, HeldFact, Pending,
    Query, RecordingPage, backup,
};
use sidetone_log::{
    Fact, FactRecord, FactSequence, LogPosition, Run, SegmentNumber, TICKS_PER_CHUNK_MAX, VolumeNumber,
};
use sidetone_model::{Annotations, Recording, RecordingId, RecordingState, SavedCall, Tick, TrackId};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use uuid::Uuid;

/// The catalog in one directory.
pub struct RocksCatalog {
    path: PathBuf,
    options: CatalogOptions,
    mode: Mode,
    limits: Limits,
    /// For reading only when it could not be opened again for writing; empty when not even for that. Who reads holds it for the time of one call.
    database: RwLock<Option<Database>>,
    /// Held over a whole [`Catalog::apply`]: one at a time.
    writing: Mutex<Writing>,
}

/// What the writing side keeps in memory.
struct Writing {
    totals: Totals,
    texts: KnownTexts,
    /// Damage that a write has met: opening again mends none.
    damage: Option<String>,
}

impl Writing {
    fn new(database: &Database) -> Result<Self, CatalogError> {
        Ok(Self { totals: Totals::load(database)?, texts: KnownTexts::new(), damage: None })
    }
}

impl RocksCatalog {
    /// Opens the catalog for writing, and makes it when there is none.
    pub fn open(directory: &Path) -> Result<Self, CatalogError> {
        Self::open_with(directory, &CatalogOptions::default(), &mut |_| {})
    }

    /// As [`Self::open`]. `progress` is told how many recordings were brought up when the catalog is of an earlier
    /// version.
    pub fn open_with(
        directory: &Path,
        options: &CatalogOptions,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Self, CatalogError> {
        Self::open_in(directory, options, Mode::Primary, progress)
    }

    /// Opens the catalog for reading, beside a process that may be writing. `scratch` is a directory for RocksDB's own log.
    /// Shows the state of this moment until [`Catalog::refresh`].
    pub fn open_secondary(directory: &Path, scratch: &Path) -> Result<Self, CatalogError> {
        let mut options = CatalogOptions::default();
        options.block_cache_bytes /= 8;
        Self::open_in(directory, &options, Mode::Secondary(scratch.to_owned()), &mut |_| {})
    }

    fn open_in(
        directory: &Path,
        options: &CatalogOptions,
        mode: Mode,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Self, CatalogError> {
        let database = Database::open(directory, options, mode.clone(), progress)?;
        Self::of(directory.to_owned(), *options, mode, database)
    }

    pub(crate) fn of(
        path: PathBuf,
        options: CatalogOptions,
        mode: Mode,
        database: Database,
    ) -> Result<Self, CatalogError> {
        let writing = Writing::new(&database)?;
        Ok(Self {
            path,
            options,
            mode,
            limits: Limits::DEFAULT,
            database: RwLock::new(Some(database)),
            writing: Mutex::new(writing),
        })
    }

    /// Puts the tables of all families in order, which takes long, and up to twice the room meanwhile. What cannot be put in
    /// order stays as it is.
    pub fn compact(&self) -> Result<(), CatalogError> {
        self.database()?.get().compact()
    }

    /// Tells the recordings of which `other` has something that this one has not, newest first: all of it, a newer document or newer
    /// annotations, a run.
    pub fn lacks(&self, other: &Self, tell: &mut dyn FnMut(RecordingId)) -> Result<(), CatalogError> {
        let (own, other) = (self.database()?, other.database()?);
        let (own, other) = (own.get().view(), other.get().view());
        let (mut here, mut there) = (own.list(Family::Documents, &[]), other.list(Family::Documents, &[]));
        while let Some((key, value)) = there.entry()? {
            while here.entry()?.is_some_and(|(own, _)| own < key) {
                here.advance();
            }
            let here = here.entry()?.filter(|(own, _)| *own == key).map(|(_, value)| value);
            if here != Some(value) {
                let (started, recording) =
                    OrderKey::parse(key).ok_or_else(|| there.damaged("the key of a recording"))?;
                let row = decode(other.database, value, recording, Some(started))?;
                // It may stand at another time.
                if load(&own, recording)?.is_none_or(|own| !own.has_all_of(&row)) {
                    tell(recording);
                }
            }
            there.advance();
        }
        Ok(())
    }

    /// Bytes of tables on disk, by column family.
    pub fn table_bytes(&self) -> Result<Vec<(&'static str, u64)>, CatalogError> {
        let database = self.database()?;
        Family::ALL.into_iter().map(|family| Ok((family.name(), database.get().table_bytes(family)?))).collect()
    }

    /// As it is, with other limits to what is done for an answer.
    #[cfg(test)]
    pub(crate) fn with_limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    fn database(&self) -> Result<Opened<'_>, CatalogError> {
        let guard = self.database.read().unwrap_or_else(PoisonError::into_inner);
        if guard.is_none() {
            return Err(CatalogError::Closed { path: self.path.clone() });
        }
        Ok(Opened(guard))
    }

    fn writable(&self) -> Result<Opened<'_>, CatalogError> {
        let database = self.database()?;
        match database.get().is_read_only() {
            true => Err(CatalogError::ReadOnly { path: self.path.clone() }),
            false => Ok(database),
        }
    }

    fn lock_writing(&self) -> MutexGuard<'_, Writing> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn totals(&self) -> Result<Totals, CatalogError> {
        match self.mode {
            Mode::Secondary(_) => Totals::load(self.database()?.get()),
            Mode::Primary | Mode::ReadOnly | Mode::Bulk => Ok(self.lock_writing().totals.clone()),
        }
    }
}

/// Whether the disk takes a small file. The name of an earlier one that was left is used again.
fn probe(directory: &Path) -> Result<(), CatalogError> {
    let path = directory.join("PROBE");
    let write = || {
        let mut file = std::fs::File::create(&path)?;
        file.write_all(&[0; PROBE_BYTES])?;
        file.sync_all()
    };
    let written = write();
    let removed = std::fs::remove_file(&path);
    written.and(removed).map_err(|source| CatalogError::Io { operation: "write", path, source })
}

/// More than RocksDB writes for opening a database with nothing in its log.
const PROBE_BYTES: usize = 256 << 10;

/// A database that is open, and stays so as long as this lives.
struct Opened<'a>(RwLockReadGuard<'a, Option<Database>>);

impl Opened<'_> {
    fn get(&self) -> &Database {
        self.0.as_ref().expect("looked at when it was taken")
    }
}

/// The recording as it is shown.
fn shown(view: &View<'_>, mut row: Row) -> Result<Option<Recording>, CatalogError> {
    let Some(mut recording) = row.take_shown() else { return Ok(None) };
    recording.proof = proof(view, &recording, &row.runs)?;
    Ok(Some(recording))
}

impl Catalog for RocksCatalog {
    fn apply(&self, changes: &Changes, applied: &[(VolumeNumber, LogPosition)]) -> Result<(), CatalogError> {
        // In the order in which `reopen` takes them.
        let Writing { totals, texts, damage } = &mut *self.lock_writing();
        let database = self.writable()?;
        match apply(database.get(), totals, texts, changes, applied) {
            Ok(new) => *totals = new,
            Err(error) => {
                if let CatalogError::Damaged { what, .. } = &error {
                    *damage = Some(what.clone());
                }
                return Err(error);
            }
        }
        Ok(())
    }

    fn applied(&self) -> Result<BTreeMap<VolumeNumber, LogPosition>, CatalogError> {
        Ok(self.totals()?.applied)
    }

    fn sequence(&self) -> Result<FactSequence, CatalogError> {
        Ok(self.totals()?.sequence)
    }

    fn persist(&self) -> Result<(), CatalogError> {
        self.writable()?.get().persist()
    }

    fn reopen(&self) -> Result<(), CatalogError> {
        let mut writing = self.lock_writing();
        if let Some(what) = &writing.damage {
            return Err(CatalogError::Damaged { path: self.path.clone(), what: what.clone() });
        }
        // RocksDB would make a new one where the file system is not mounted any more.
        let current = self.path.join("CURRENT");
        std::fs::metadata(&current).map_err(|source| CatalogError::Io { operation: "find", path: current, source })?;
        if self.mode.writes() {
            probe(&self.path)?;
        }
        // It holds a lock on the directory: the old one goes first, and not before there is hope for a new one.
        let mut database = self.database.write().unwrap_or_else(PoisonError::into_inner);
        *database = None;
        let open = |mode| {
            let opened = Database::open(&self.path, &self.options, mode, &mut |_| {})?;
            Ok((Writing::new(&opened)?, opened))
        };
        let opened = match open(self.mode.clone()) {
            Err(error) if self.mode == Mode::Primary => {
                // Space that sufficed for the probe may not for the tables. Reading takes none.
                if let Ok(for_reading) = open(Mode::ReadOnly) {
                    (*writing, *database) = (for_reading.0, Some(for_reading.1));
                }
                return Err(error);
            }
            opened => opened?,
        };
        (*writing, *database) = (opened.0, Some(opened.1));
        Ok(())
    }

    fn refresh(&self) -> Result<(), CatalogError> {
        self.database()?.get().refresh()
    }

    fn recording(&self, recording: RecordingId) -> Result<Option<Recording>, CatalogError> {
        let database = self.database()?;
        let view = database.get().view();
        load(&view, recording)?.map_or(Ok(None), |row| shown(&view, row))
    }

    fn search(&self, query: &Query) -> Result<RecordingPage, CatalogError> {
        let database = self.database()?;
        search::search(&database.get().view(), query, &self.limits)
    }

    fn count(&self, filter: &Filter) -> Result<Count, CatalogError> {
        let database = self.database()?;
        search::count(&database.get().view(), filter, &self.limits)
    }

    fn journal_chunks(
        &self,
        recording: RecordingId,
        track: TrackId,
        from: Tick,
        to: Tick,
    ) -> Result<Vec<ChunkLocation>, CatalogError> {
        let database = self.database()?;
        let view = database.get().view();
        // A chunk that begins before `from` may reach behind it.
        let earliest = Tick(from.0.saturating_sub(u64::from(TICKS_PER_CHUNK_MAX)));
        let key = chunk_key(recording, track, earliest, VolumeNumber(0), LogPosition::default());
        let (prefix, start) = key.split_at(CHUNK_TRACK_BYTES);
        let mut list = view.list_from(Family::Chunks, prefix, start);
        let mut locations: Vec<ChunkLocation> = Vec::new();
        while let Some((rest, value)) = list.entry()? {
            let location = parse_chunk(&[prefix, rest].concat(), value);
            let location = location.ok_or_else(|| list.damaged("a chunk's place"))?;
            if location.first_tick >= to {
                break;
            }
            if locations.last().is_some_and(|last| last.first_tick == location.first_tick) {
                // Appended again later.
                locations.pop();
            }
            locations.push(location);
            list.advance();
        }
        locations.retain(|location| location.first_tick.0.saturating_add(u64::from(location.ticks)) > from.0);
        Ok(locations)
    }

    fn unsealed(&self, recording: RecordingId) -> Result<Vec<ChunkLocation>, CatalogError> {
        let database = self.database()?;
        let view = database.get().view();
        let prefix = recording.0.as_bytes();
        let mut list = view.list(Family::Chunks, prefix);
        let mut locations = Vec::new();
        while let Some((rest, value)) = list.entry()? {
            let location = parse_chunk(&[prefix, rest].concat(), value);
            locations.push(location.ok_or_else(|| list.damaged("a chunk's place"))?);
            list.advance();
        }
        Ok(locations)
    }

    fn owed(
        &self,
        volume: VolumeNumber,
        after: Option<RecordingId>,
        limit: usize,
    ) -> Result<Vec<RecordingId>, CatalogError> {
        let database = self.database()?;
        let view = database.get().view();
        let from = after.map(|after| [after.0.as_bytes().as_slice(), &[0]].concat()).unwrap_or_default();
        let mut list = view.list_from(Family::Owed, &[volume.0], &from);
        let mut owed = Vec::new();
        while let Some((key, _)) = list.entry()?.filter(|_| owed.len() < limit) {
            let id = <[u8; 16]>::try_from(key).ok().ok_or_else(|| list.damaged("a recording owed to a volume"))?;
            owed.push(RecordingId(Uuid::from_bytes(id)));
            list.advance();
        }
        Ok(owed)
    }

    fn runs(&self, recording: RecordingId) -> Result<Vec<Run>, CatalogError> {
        let database = self.database()?;
        Ok(load(&database.get().view(), recording)?.map(|row| row.runs_in_order()).unwrap_or_default())
    }

    fn segment_end(&self, volume: VolumeNumber, segment: SegmentNumber) -> Result<u64, CatalogError> {
        let database = self.database()?;
        segment_end(&database.get().view(), &segment_key(volume, segment))
    }

    fn segment_ends(&self, volume: VolumeNumber) -> Result<Vec<(SegmentNumber, u64)>, CatalogError> {
        let database = self.database()?;
        let view = database.get().view();
        let mut list = view.list(Family::SegmentEnds, &[volume.0]);
        let mut ends = Vec::new();
        while let Some((key, value)) = list.entry()? {
            let segment = <[u8; 4]>::try_from(key).ok().map(|number| SegmentNumber(u32::from_be_bytes(number)));
            let end = <[u8; 8]>::try_from(value).ok().map(u64::from_le_bytes);
            ends.push(segment.zip(end).ok_or_else(|| list.damaged("a segment's end"))?);
            list.advance();
        }
        Ok(ends)
    }

    fn pending(&self) -> Result<Vec<Pending>, CatalogError> {
        let database = self.database()?;
        let view = database.get().view();
        let mut list = view.list(Family::Needs, &[]);
        let mut pending = Vec::new();
        while let Some((key, value)) = list.entry()? {
            let need = Need::decode(value).ok_or_else(|| list.damaged("a recording's needs"))?;
            let id: [u8; 16] = key.try_into().ok().ok_or_else(|| list.damaged("a recording's needs"))?;
            pending.push(need.into_pending(RecordingId(Uuid::from_bytes(id))));
            list.advance();
        }
        Ok(pending)
    }

    fn facts(&self, recording: RecordingId) -> Result<Vec<HeldFact>, CatalogError> {
        let database = self.database()?;
        let view = database.get().view();
        let row = load(&view, recording)?.unwrap_or_default();
        let mut facts = Vec::new();
        if let Some(document) = &row.document {
            facts.push(held(document, Fact::Recording { recording: Arc::clone(&document.value), resume: None }));
        }
        if let Some(annotations) = &row.annotations {
            facts.push(held(annotations, Fact::Annotations { recording, annotations: annotations.value.clone() }));
        }
        if recording == NO_RECORDING {
            facts.extend(other_facts(&view, &row)?.iter().map(|(_, fact)| held(fact, fact.value.clone())));
            facts.sort_by_key(|fact| fact.record.sequence);
        }
        Ok(facts)
    }

    fn annotations(&self, recording: RecordingId) -> Result<Annotations, CatalogError> {
        let database = self.database()?;
        Ok(load(&database.get().view(), recording)?.map(|row| row.annotations()).unwrap_or_default())
    }

    fn active_with_resume(&self) -> Result<Vec<(Recording, SavedCall)>, CatalogError> {
        let database = self.database()?;
        let database = database.get();
        let view = database.view();
        let mut active = Vec::new();
        search::for_each(&view, &Filter::State(RecordingState::Active), |recording| {
            let resume = match view.get(Family::Trackers, recording.id.0.as_bytes())? {
                None => SavedCall::default(),
                Some(value) => {
                    SavedCall::from_json(&value).map_err(|_not_json| database.damaged("a call tracker's state"))?
                }
            };
            active.push((recording, resume));
            Ok(())
        })?;
        active.reverse();
        Ok(active)
    }

    fn has_replayed(&self, digest: &str) -> Result<bool, CatalogError> {
        self.database()?.get().contains(Family::Others, &replayed_key(digest))
    }

    fn statistics(&self) -> Result<CatalogStatistics, CatalogError> {
        let Totals { counters, sequence, applied } = self.totals()?;
        let size_bytes = self.table_bytes()?.into_iter().map(|(_, bytes)| bytes).sum();
        Ok(CatalogStatistics {
            recordings: counters.recordings,
            recordings_active: counters.active,
            recordings_incomplete: counters.incomplete,
            recordings_on_hold: counters.on_hold,
            chunks: counters.unsealed_chunks + counters.sealed_chunks,
            chunk_bytes: counters.unsealed_bytes + counters.sealed_bytes,
            chunks_unsealed: counters.unsealed_chunks,
            chunk_bytes_unsealed: counters.unsealed_bytes,
            runs: counters.runs,
            size_bytes,
            applied,
            sequence,
        })
    }

    fn backup(&self, directory: &Path, progress: &mut dyn FnMut(BackupProgress)) -> Result<(), CatalogError> {
        let database = self.database()?;
        backup::backup(database.get(), directory, progress)
    }
}

fn held<T>(newest: &Newest<T>, fact: Fact) -> HeldFact {
    let places: &Places = &newest.places;
    HeldFact {
        record: FactRecord { sequence: newest.sequence, fact },
        places: places.iter().map(|(&volume, &position)| (volume, position)).collect(),
    }
}
