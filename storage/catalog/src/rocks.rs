//! The catalog on RocksDB.
//!
//! Constraints: one process writes (the store's lock); [`RocksCatalog::apply`] is the only way in. A batch holds the
//! documents, all their index entries, the counters and the log position, or nothing of it. Its write-ahead log is not
//! synced: the journal is.

use crate::keys::{
    CATALOG_VERSION, Counters, META_APPLIED, META_COUNTERS, META_VERSION, chunk_key, chunk_value, decode_document,
    encode_document, order_key, parse_chunk, parse_order_key, parse_position, party_key, party_texts, position_value,
    prefix_end, replayed_key, state_byte, state_key, suffix_keys, text_hash,
};
use crate::search;
use crate::{Catalog, CatalogError, CatalogStatistics, ChunkLocation, RecordingPage, RecordingQuery};
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, DB, DBCompressionType, DBRawIterator, Options,
    ReadOptions, WriteBatch,
};
use sidetone_log::{ChunkHeader, Fact, Flushed, Located, LogPosition, TICKS_PER_CHUNK_MAX};
use sidetone_model::{CaptureTime, Recording, RecordingId, RecordingState, Tick, TrackId};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

/// Column families; their order is fixed by [`Family`].
const FAMILIES: [&str; 8] =
    ["meta", "recordings", "resume", "by_time", "by_state", "by_party", "party_texts", "chunks"];

#[derive(Clone, Copy)]
pub(crate) enum Family {
    Meta,
    Recordings,
    Resume,
    ByTime,
    ByState,
    ByParty,
    PartyTexts,
    Chunks,
}

const BLOCK_CACHE_BYTES: usize = 64 << 20;
const WRITE_BUFFERS_BYTES: usize = 64 << 20;

/// What is to be brought into the catalog at once.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    chunks: Vec<(ChunkHeader, Located)>,
    recordings: BTreeMap<RecordingId, (Arc<Recording>, Option<serde_json::Value>)>,
    replayed: Vec<(String, CaptureTime)>,
}

impl Changes {
    pub fn chunk(&mut self, header: &ChunkHeader, located: Located) {
        self.chunks.push((*header, located));
    }

    /// The newest fact about a recording replaces those before it.
    pub fn fact(&mut self, fact: &Fact) {
        match fact {
            Fact::Recording { recording, resume } => {
                self.recordings.insert(recording.id, (Arc::clone(recording), resume.clone()));
            }
            Fact::Replayed { digest, at } => self.replayed.push((digest.clone(), *at)),
        }
    }

    /// Corrects where chunks lie that the flush has moved.
    pub fn relocate(&mut self, flushed: &Flushed) {
        if !flushed.moves.is_empty() {
            for (_, located) in &mut self.chunks {
                *located = flushed.locate(*located);
            }
        }
    }

    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty() && self.recordings.is_empty() && self.replayed.is_empty()
    }

    /// Number of chunks and facts.
    pub fn len(&self) -> usize {
        self.chunks.len() + self.recordings.len() + self.replayed.len()
    }

    pub fn clear(&mut self) {
        self.chunks.clear();
        self.recordings.clear();
        self.replayed.clear();
    }
}

/// The catalog in one directory.
pub struct RocksCatalog {
    database: DB,
    /// Held over a whole [`Self::apply`]: one at a time.
    counters: Mutex<Counters>,
    secondary: bool,
}

impl RocksCatalog {
    /// Opens the catalog for writing, and makes it when there is none.
    pub fn open(directory: &Path) -> Result<Self, CatalogError> {
        let (options, families) = options(false);
        let database = DB::open_cf_descriptors(&options, directory, families)
            .map_err(|source| CatalogError::Open { path: directory.to_owned(), source })?;
        let catalog = Self { database, counters: Mutex::default(), secondary: false };
        match catalog.version()? {
            None => catalog
                .database
                .put_cf(catalog.family(Family::Meta), META_VERSION, CATALOG_VERSION.to_le_bytes())
                .map_err(|source| CatalogError::Database { operation: "write", source })?,
            Some(version) => check_version(directory, version)?,
        }
        *catalog.lock_counters() = catalog.stored_counters()?;
        Ok(catalog)
    }

    /// Opens the catalog for reading, beside a process that may be writing. `scratch` is a directory for RocksDB's own log.
    /// Shows the state of this moment until [`Self::refresh`].
    pub fn open_secondary(directory: &Path, scratch: &Path) -> Result<Self, CatalogError> {
        let (options, families) = options(true);
        let database = DB::open_cf_descriptors_as_secondary(&options, directory, scratch, families)
            .map_err(|source| CatalogError::Open { path: directory.to_owned(), source })?;
        let catalog = Self { database, counters: Mutex::default(), secondary: true };
        catalog.refresh()?;
        if let Some(version) = catalog.version()? {
            check_version(directory, version)?;
        }
        Ok(catalog)
    }

    /// Catches up with the writing process; does nothing in it.
    pub fn refresh(&self) -> Result<(), CatalogError> {
        if !self.secondary {
            return Ok(());
        }
        self.database
            .try_catch_up_with_primary()
            .map_err(|source| CatalogError::Database { operation: "catch up with the writer", source })
    }

    /// Everything in the journal before this position is in the catalog.
    pub fn applied(&self) -> Result<LogPosition, CatalogError> {
        match self.get(Family::Meta, META_APPLIED)? {
            None => Ok(LogPosition::default()),
            Some(value) => parse_position(&value).ok_or(CatalogError::Corrupt { what: "log position" }),
        }
    }

    /// Brings `changes` into the catalog, which then stands at `position`. Applying again what is there changes nothing.
    pub fn apply(&self, changes: &Changes, position: LogPosition) -> Result<(), CatalogError> {
        let mut held = self.lock_counters();
        let mut counters = *held;
        let mut batch = WriteBatch::default();
        // Within a batch, only the newest of two chunks at the same place counts.
        let mut chunks = BTreeMap::new();
        for (header, located) in &changes.chunks {
            let key = chunk_key(header.recording, header.track, header.first_tick);
            chunks.insert(key, (*located, header.ticks, header.packets));
        }
        for (key, (located, ticks, packets)) in chunks {
            if let Some(old) = self.get(Family::Chunks, &key)? {
                let old = parse_chunk(&key, &old)?;
                counters.chunks = counters.chunks.saturating_sub(1);
                counters.chunk_bytes = counters.chunk_bytes.saturating_sub(u64::from(old.located.length));
            }
            counters.chunks += 1;
            counters.chunk_bytes += u64::from(located.length);
            batch.put_cf(self.family(Family::Chunks), key, chunk_value(located, ticks, packets));
        }
        for (recording, resume) in changes.recordings.values() {
            self.put_recording(&mut batch, &mut counters, recording, resume.as_ref())?;
        }
        for (digest, at) in &changes.replayed {
            batch.put_cf(self.family(Family::Meta), replayed_key(digest), at.0.to_le_bytes());
        }
        batch.put_cf(self.family(Family::Meta), META_APPLIED, position_value(position));
        batch.put_cf(self.family(Family::Meta), META_COUNTERS, counters.encode());
        self.database.write(batch).map_err(|source| CatalogError::Database { operation: "write", source })?;
        *held = counters;
        Ok(())
    }

    fn put_recording(
        &self,
        batch: &mut WriteBatch,
        counters: &mut Counters,
        recording: &Recording,
        resume: Option<&serde_json::Value>,
    ) -> Result<(), CatalogError> {
        let order = order_key(recording.started_at, recording.id);
        let state = [state_byte(recording.state)];
        let texts = party_texts(recording);
        counters.count(recording.state, true);
        if let Some(old) = self.document(recording.id)? {
            counters.count(old.state, false);
            // Only what the new document does not write again: most facts change no index at all.
            let old_order = order_key(old.started_at, old.id);
            if old_order != order {
                batch.delete_cf(self.family(Family::ByTime), old_order);
            }
            if old_order != order || old.state != recording.state {
                batch.delete_cf(self.family(Family::ByState), state_key(old.state, old_order));
            }
            for text in party_texts(&old) {
                if old_order != order || !texts.contains(&text) {
                    batch.delete_cf(self.family(Family::ByParty), party_key(text_hash(&text), old_order));
                }
            }
        }
        let key = recording.id.0.as_bytes();
        batch.put_cf(self.family(Family::Recordings), key, encode_document(recording)?);
        match resume.filter(|_| recording.state == RecordingState::Active) {
            Some(resume) => {
                let value = serde_json::to_vec(resume)
                    .map_err(|source| CatalogError::Encode { recording: recording.id, source })?;
                batch.put_cf(self.family(Family::Resume), key, value);
            }
            None => batch.delete_cf(self.family(Family::Resume), key),
        }
        batch.put_cf(self.family(Family::ByTime), order, state);
        batch.put_cf(self.family(Family::ByState), state_key(recording.state, order), []);
        for text in texts {
            batch.put_cf(self.family(Family::ByParty), party_key(text_hash(&text), order), state);
            let mut keys = suffix_keys(&text).peekable();
            let Some(whole) = keys.peek() else { continue };
            if self.get(Family::PartyTexts, whole)?.is_none() {
                for key in keys {
                    batch.put_cf(self.family(Family::PartyTexts), key, []);
                }
            }
        }
        Ok(())
    }

    pub(crate) fn document(&self, recording: RecordingId) -> Result<Option<Recording>, CatalogError> {
        let value = self.get(Family::Recordings, recording.0.as_bytes())?;
        value.map(|value| decode_document(&value)).transpose()
    }

    /// Keys from `from` on that begin with `prefix`.
    pub(crate) fn list(&self, family: Family, prefix: &[u8], from: &[u8]) -> List<'_> {
        let mut options = ReadOptions::default();
        if let Some(end) = prefix_end(prefix) {
            options.set_iterate_upper_bound(end);
        }
        let mut cursor = self.database.raw_iterator_cf_opt(self.family(family), options);
        cursor.seek([prefix, from].concat());
        List { cursor, prefix_length: prefix.len() }
    }

    fn get(&self, family: Family, key: &[u8]) -> Result<Option<rocksdb::DBPinnableSlice<'_>>, CatalogError> {
        self.database
            .get_pinned_cf(self.family(family), key)
            .map_err(|source| CatalogError::Database { operation: "read", source })
    }

    fn family(&self, family: Family) -> &ColumnFamily {
        self.database.cf_handle(FAMILIES[family as usize]).expect("all column families are opened")
    }

    fn version(&self) -> Result<Option<u32>, CatalogError> {
        let Some(value) = self.get(Family::Meta, META_VERSION)? else { return Ok(None) };
        let bytes: [u8; 4] = (*value).try_into().ok().ok_or(CatalogError::Corrupt { what: "version" })?;
        Ok(Some(u32::from_le_bytes(bytes)))
    }

    fn stored_counters(&self) -> Result<Counters, CatalogError> {
        match self.get(Family::Meta, META_COUNTERS)? {
            None => Ok(Counters::default()),
            Some(value) => Counters::decode(&value).ok_or(CatalogError::Corrupt { what: "set of counters" }),
        }
    }

    fn lock_counters(&self) -> std::sync::MutexGuard<'_, Counters> {
        self.counters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Entries of an index in key order.
pub(crate) struct List<'a> {
    cursor: DBRawIterator<'a>,
    prefix_length: usize,
}

impl List<'_> {
    /// The next entry: its key behind the prefix, and its value.
    pub(crate) fn next<T>(&mut self, map: impl FnOnce(&[u8], &[u8]) -> T) -> Result<Option<T>, CatalogError> {
        let Some((key, value)) = self.cursor.item() else {
            self.cursor.status().map_err(|source| CatalogError::Database { operation: "read", source })?;
            return Ok(None);
        };
        let mapped = map(key.get(self.prefix_length..).unwrap_or_default(), value);
        self.cursor.next();
        Ok(Some(mapped))
    }
}

impl Catalog for RocksCatalog {
    fn recording(&self, recording: RecordingId) -> Result<Option<Recording>, CatalogError> {
        self.document(recording)
    }

    fn search(&self, query: &RecordingQuery) -> Result<RecordingPage, CatalogError> {
        search::search(self, query)
    }

    fn chunks(
        &self,
        recording: RecordingId,
        track: TrackId,
        from: Tick,
        to: Tick,
    ) -> Result<Vec<ChunkLocation>, CatalogError> {
        // A chunk that begins before `from` may reach behind it.
        let earliest = Tick(from.0.saturating_sub(u64::from(TICKS_PER_CHUNK_MAX)));
        let key = chunk_key(recording, track, earliest);
        let mut list = self.list(Family::Chunks, &key[..17], &key[17..]);
        let mut locations = Vec::new();
        while let Some(location) = list.next(|rest, value| parse_chunk(&[&key[..17], rest].concat(), value))? {
            let location = location?;
            if location.first_tick >= to {
                break;
            }
            if location.first_tick.0.saturating_add(u64::from(location.ticks)) > from.0 {
                locations.push(location);
            }
        }
        Ok(locations)
    }

    fn active_with_resume(&self) -> Result<Vec<(Recording, serde_json::Value)>, CatalogError> {
        let mut list = self.list(Family::ByState, &[state_byte(RecordingState::Active)], &[]);
        let mut active = Vec::new();
        while let Some(order) = list.next(|key, _| parse_order_key(key))? {
            let (_, id) = order.ok_or(CatalogError::Corrupt { what: "index entry" })?;
            let Some(recording) = self.document(id)?.filter(|found| found.state == RecordingState::Active) else {
                continue;
            };
            let resume = match self.get(Family::Resume, id.0.as_bytes())? {
                None => serde_json::Value::Null,
                Some(value) => {
                    serde_json::from_slice(&value).ok().ok_or(CatalogError::Corrupt { what: "tracker state" })?
                }
            };
            active.push((recording, resume));
        }
        active.reverse();
        Ok(active)
    }

    fn has_replayed(&self, digest: &str) -> Result<bool, CatalogError> {
        Ok(self.get(Family::Meta, &replayed_key(digest))?.is_some())
    }

    fn statistics(&self) -> Result<CatalogStatistics, CatalogError> {
        let counters = if self.secondary { self.stored_counters()? } else { *self.lock_counters() };
        let mut size_bytes = 0;
        for family in FAMILIES {
            let family = self.database.cf_handle(family).expect("all column families are opened");
            let size = self.database.property_int_value_cf(family, rocksdb::properties::TOTAL_SST_FILES_SIZE);
            size_bytes +=
                size.map_err(|source| CatalogError::Database { operation: "measure", source })?.unwrap_or_default();
        }
        Ok(CatalogStatistics {
            recordings: counters.recordings,
            recordings_active: counters.active,
            recordings_incomplete: counters.incomplete,
            chunks: counters.chunks,
            chunk_bytes: counters.chunk_bytes,
            size_bytes,
            applied: self.applied()?,
        })
    }
}

fn check_version(directory: &Path, version: u32) -> Result<(), CatalogError> {
    if version > CATALOG_VERSION {
        return Err(CatalogError::NewerVersion { path: directory.to_owned(), version, readable: CATALOG_VERSION });
    }
    Ok(())
}

/// Options of the database and of its column families.
fn options(secondary: bool) -> (Options, Vec<ColumnFamilyDescriptor>) {
    let cache = Cache::new_lru_cache(if secondary { BLOCK_CACHE_BYTES / 8 } else { BLOCK_CACHE_BYTES });
    let mut tables = BlockBasedOptions::default();
    tables.set_block_cache(&cache);
    tables.set_block_size(16 << 10);
    tables.set_bloom_filter(10.0, false);
    tables.set_format_version(6);
    tables.set_cache_index_and_filter_blocks(true);
    tables.set_pin_l0_filter_and_index_blocks_in_cache(true);

    let mut options = Options::default();
    options.create_if_missing(!secondary);
    options.create_missing_column_families(!secondary);
    options.set_max_background_jobs(2);
    options.set_db_write_buffer_size(WRITE_BUFFERS_BYTES);
    options.set_max_total_wal_size(2 * WRITE_BUFFERS_BYTES as u64);
    options.set_wal_recovery_mode(rocksdb::DBRecoveryMode::PointInTime);
    // A secondary instance must hold every table open: the writer may delete it meanwhile.
    options.set_max_open_files(if secondary { -1 } else { 1024 });
    options.set_keep_log_file_num(4);
    options.set_max_log_file_size(4 << 20);
    options.set_log_level(rocksdb::LogLevel::Warn);

    let families = FAMILIES.iter().map(|&name| {
        let mut options = Options::default();
        options.set_block_based_table_factory(&tables);
        options.set_compression_type(DBCompressionType::Lz4);
        options.set_bottommost_compression_type(DBCompressionType::Zstd);
        options.set_write_buffer_size(WRITE_BUFFERS_BYTES / 4);
        options.set_level_compaction_dynamic_level_bytes(true);
        ColumnFamilyDescriptor::new(name, options)
    });
    // RocksDB insists on this one.
    let default = ColumnFamilyDescriptor::new("default", Options::default());
    (options, families.chain([default]).collect())
}
