//! RocksDB as the catalog uses it: which column families there are, how they are laid out, and every call into it.
//!
//! Constraints: one process writes (the store's lock). Nothing is synced but by [`Database::persist`].

use crate::CatalogError;
use crate::keys::{CATALOG_VERSION, META_VERSION, Need};
use crate::migrate;
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, DB, DBCompressionType, DBPinnableSlice,
    DBRawIterator, ErrorKind, Options, ReadOptions, SnapshotWithThreadMode, WriteBatch, WriteOptions,
};
use sidetone_model::RecordingId;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// So often in a row, beside a writer, tables may be gone that were to be looked at.
const TABLE_CHECKS: u32 = 100;
const TABLE_CHECK_PAUSE: Duration = Duration::from_millis(20);

/// Column families. docs/formats.md says what is in them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Family {
    Meta,
    Ids,
    Documents,
    Orphans,
    Trackers,
    Postings,
    Texts,
    Parts,
    Chunks,
    Needs,
    Others,
    Owed,
    SegmentEnds,
}

impl Family {
    pub(crate) const ALL: [Self; 13] = [
        Self::Meta,
        Self::Ids,
        Self::Documents,
        Self::Orphans,
        Self::Trackers,
        Self::Postings,
        Self::Texts,
        Self::Parts,
        Self::Chunks,
        Self::Needs,
        Self::Others,
        Self::Owed,
        Self::SegmentEnds,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Meta => "meta",
            Self::Ids => "ids",
            Self::Documents => "documents",
            Self::Orphans => "orphans",
            Self::Trackers => "trackers",
            Self::Postings => "postings",
            Self::Texts => "texts",
            Self::Parts => "parts",
            Self::Chunks => "journal_chunks",
            Self::Needs => "needs",
            Self::Others => "others",
            Self::Owed => "owed",
            Self::SegmentEnds => "segment_ends",
        }
    }
}

/// A family is as far along as its place in the list says.
const _: () = {
    let mut at = 0;
    while at < Family::ALL.len() {
        assert!(Family::ALL[at] as usize == at);
        at += 1;
    }
};

/// What opening a catalog may take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CatalogOptions {
    /// Memory for blocks that were read.
    pub block_cache_bytes: usize,
    /// Memory for what is not in tables yet.
    pub write_buffers_bytes: usize,
}

impl Default for CatalogOptions {
    fn default() -> Self {
        Self { block_cache_bytes: 128 << 20, write_buffers_bytes: 64 << 20 }
    }
}

/// How a database is opened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Mode {
    /// For writing; made when it is not there.
    Primary,
    /// As [`Self::Primary`], without a write-ahead log: for making a catalog anew.
    Bulk,
    /// For reading, with the disk as it is, where writing is not possible.
    ReadOnly,
    /// For reading, beside a process that writes. RocksDB's own log goes to this directory.
    Secondary(PathBuf),
}

impl Mode {
    pub(crate) fn writes(&self) -> bool {
        matches!(self, Self::Primary | Self::Bulk)
    }
}

pub(crate) struct Database {
    db: DB,
    path: PathBuf,
    mode: Mode,
}

impl Database {
    /// Opens it and brings it up to today's version.
    pub(crate) fn open(
        path: &Path,
        options: &CatalogOptions,
        mode: Mode,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Self, CatalogError> {
        let found = existing_families(path)?;
        if mode == Mode::Bulk && !found.is_empty() {
            return Err(CatalogError::NotEmpty { path: path.to_owned() });
        }
        if found.is_empty() && !mode.writes() {
            return Err(CatalogError::Damaged { path: path.to_owned(), what: "it is not there".to_owned() });
        }
        let database_options = database_options(options, &mode);
        let cache = Cache::new_lru_cache(options.block_cache_bytes);
        let ours = Family::ALL
            .map(|family| ColumnFamilyDescriptor::new(family.name(), family_options(family, options, &cache)));
        // RocksDB insists on `default`, and on every other one that is there.
        let is_ours = |name: &str| Family::ALL.iter().any(|family| family.name() == name);
        let others = found.iter().map(String::as_str).filter(|name| !is_ours(name) && *name != "default");
        let others = others.chain(["default"]).map(|name| ColumnFamilyDescriptor::new(name, Options::default()));
        let families: Vec<ColumnFamilyDescriptor> = match mode {
            // It cannot make what is missing, and the old ones are no use to it.
            Mode::Secondary(_) | Mode::ReadOnly if found.iter().any(|name| migrate::is_old_family(name)) => {
                return Err(CatalogError::OlderVersion {
                    path: path.to_owned(),
                    version: 1,
                    readable: CATALOG_VERSION,
                });
            }
            _ => ours.into_iter().chain(others).collect(),
        };
        let db = match &mode {
            Mode::Secondary(scratch) => {
                check_tables(path, scratch, &found)?;
                DB::open_cf_descriptors_as_secondary(&database_options, path, scratch, families)
            }
            Mode::ReadOnly => DB::open_cf_descriptors_read_only(&database_options, path, families, false),
            Mode::Primary | Mode::Bulk => DB::open_cf_descriptors(&database_options, path, families),
        };
        let db = db.map_err(|source| open_error(path, source))?;
        let mut database = Self { db, path: path.to_owned(), mode };
        database.bring_up(&found, progress)?;
        Ok(database)
    }

    fn bring_up(&mut self, found: &[String], progress: &mut dyn FnMut(u64)) -> Result<(), CatalogError> {
        self.refresh()?;
        let stored = match self.get(Family::Meta, META_VERSION)? {
            None => None,
            Some(value) => {
                let bytes = <[u8; 4]>::try_from(&value[..]).ok().ok_or_else(|| self.damaged("its version"))?;
                Some(u32::from_le_bytes(bytes))
            }
        };
        let has_old = found.iter().any(|name| migrate::is_old_family(name));
        match stored {
            Some(version) if version > CATALOG_VERSION => {
                let path = self.path.clone();
                return Err(CatalogError::NewerVersion { path, version, readable: CATALOG_VERSION });
            }
            Some(CATALOG_VERSION) => {}
            _ if !self.mode.writes() => {}
            _ => {
                if has_old {
                    migrate::from_version_1(self, progress)?;
                }
                let mut batch = WriteBatch::default();
                batch.put_cf(self.family(Family::Meta), META_VERSION, CATALOG_VERSION.to_le_bytes());
                self.write(batch)?;
                self.persist()?;
            }
        }
        if has_old && self.mode.writes() {
            for name in found.iter().filter(|name| migrate::is_old_family(name)) {
                self.db.drop_cf(name).map_err(|source| self.error("drop an old column family", source))?;
            }
        }
        Ok(())
    }

    pub(crate) fn is_secondary(&self) -> bool {
        matches!(self.mode, Mode::Secondary(_))
    }

    pub(crate) fn is_read_only(&self) -> bool {
        self.mode == Mode::ReadOnly
    }

    pub(crate) fn raw(&self) -> &DB {
        &self.db
    }

    pub(crate) fn family(&self, family: Family) -> &ColumnFamily {
        self.db.cf_handle(family.name()).expect("all column families are opened")
    }

    pub(crate) fn get(&self, family: Family, key: &[u8]) -> Result<Option<DBPinnableSlice<'_>>, CatalogError> {
        self.db.get_pinned_cf(self.family(family), key).map_err(|source| self.error("read", source))
    }

    pub(crate) fn contains(&self, family: Family, key: &[u8]) -> Result<bool, CatalogError> {
        Ok(self.get(family, key)?.is_some())
    }

    /// All of it or nothing.
    pub(crate) fn write(&self, batch: WriteBatch) -> Result<(), CatalogError> {
        let mut options = WriteOptions::default();
        options.disable_wal(self.mode == Mode::Bulk);
        // Most keys of a batch come in order.
        options.set_memtable_insert_hint_per_batch(true);
        self.db.write_opt(batch, &options).map_err(|source| self.error("write", source))
    }

    /// What was written is durable when this returns.
    pub(crate) fn persist(&self) -> Result<(), CatalogError> {
        match self.mode {
            Mode::Primary => self.db.flush_wal(true).map_err(|source| self.error("make durable what is", source)),
            Mode::Bulk => self.flush(),
            Mode::ReadOnly | Mode::Secondary(_) => Ok(()),
        }
    }

    fn flush(&self) -> Result<(), CatalogError> {
        let families = Family::ALL.map(|family| self.family(family));
        let options = rocksdb::FlushOptions::default();
        self.db.flush_cfs_opt(&families, &options).map_err(|source| self.error("flush", source))
    }

    /// Puts all tables in order: each family in its last level, in its final compression.
    pub(crate) fn compact(&self) -> Result<(), CatalogError> {
        self.flush()?;
        let mut options = rocksdb::CompactOptions::default();
        options.set_bottommost_level_compaction(rocksdb::BottommostLevelCompaction::Force);
        for family in Family::ALL {
            self.db.compact_range_cf_opt(self.family(family), None::<&[u8]>, None::<&[u8]>, &options);
        }
        Ok(())
    }

    /// How tables of a family are written outside of a database.
    pub(crate) fn table_options(family: Family, catalog: &CatalogOptions) -> Options {
        // Its tables are not read by who writes them.
        family_options(family, catalog, &Cache::new_lru_cache(0))
    }

    /// Takes in tables that were written outside, which have no keys in common. Their files are moved.
    pub(crate) fn ingest(&self, family: Family, tables: Vec<&PathBuf>) -> Result<(), CatalogError> {
        if tables.is_empty() {
            return Ok(());
        }
        let mut options = rocksdb::IngestExternalFileOptions::default();
        options.set_move_files(true);
        let done = self.db.ingest_external_file_cf_opts(self.family(family), &options, tables);
        done.map_err(|source| self.error("take tables in", source))
    }

    /// Catches up with the writing process.
    pub(crate) fn refresh(&self) -> Result<(), CatalogError> {
        if !self.is_secondary() {
            return Ok(());
        }
        self.db.try_catch_up_with_primary().map_err(|source| self.error("catch up with the writer", source))
    }

    /// The database as it is whenever it is read: for who writes.
    pub(crate) fn latest(&self) -> View<'_> {
        View { database: self, snapshot: None, options: ReadOptions::default() }
    }

    /// The database as it is at this moment.
    pub(crate) fn view(&self) -> View<'_> {
        // Without writing there are no snapshots; a secondary instance changes only when it is refreshed.
        let snapshot = self.mode.writes().then(|| self.db.snapshot());
        View { database: self, options: read_options(snapshot.as_ref()), snapshot }
    }

    pub(crate) fn table_bytes(&self, family: Family) -> Result<u64, CatalogError> {
        let size = self.db.property_int_value_cf(self.family(family), rocksdb::properties::TOTAL_SST_FILES_SIZE);
        Ok(size.map_err(|source| self.error("measure", source))?.unwrap_or_default())
    }

    pub(crate) fn error(&self, operation: &'static str, source: rocksdb::Error) -> CatalogError {
        if source.kind() == ErrorKind::Corruption {
            return self.damaged(source.to_string());
        }
        CatalogError::Database { operation, path: self.path.clone(), source }
    }

    pub(crate) fn damaged(&self, what: impl Into<String>) -> CatalogError {
        CatalogError::Damaged { path: self.path.clone(), what: what.into() }
    }
}

/// A moment of the database, for reading.
pub(crate) struct View<'a> {
    pub(crate) database: &'a Database,
    /// For single keys; they refer to the snapshot, and go before it.
    options: ReadOptions,
    snapshot: Option<SnapshotWithThreadMode<'a, DB>>,
}

fn read_options(snapshot: Option<&SnapshotWithThreadMode<'_, DB>>) -> ReadOptions {
    let mut options = ReadOptions::default();
    if let Some(snapshot) = snapshot {
        options.set_snapshot(snapshot);
    }
    options
}

impl View<'_> {
    pub(crate) fn get(&self, family: Family, key: &[u8]) -> Result<Option<DBPinnableSlice<'_>>, CatalogError> {
        let database = self.database;
        let found = database.db.get_pinned_cf_opt(database.family(family), key, &self.options);
        found.map_err(|source| database.error("read", source))
    }

    /// All entries whose keys begin with `prefix`, before the first of them.
    pub(crate) fn list(&self, family: Family, prefix: &[u8]) -> List<'_> {
        self.list_from(family, prefix, &[])
    }

    /// As [`Self::list`], from the first key on that is, behind the prefix, `from` or greater.
    pub(crate) fn list_from(&self, family: Family, prefix: &[u8], from: &[u8]) -> List<'_> {
        let mut options = read_options(self.snapshot.as_ref());
        if let Some(end) = prefix_end(prefix) {
            options.set_iterate_upper_bound(end);
        }
        let mut cursor = self.database.db.raw_iterator_cf_opt(self.database.family(family), options);
        cursor.seek([prefix, from].concat());
        List { database: self.database, cursor, prefix: prefix.to_vec() }
    }

    pub(crate) fn need(&self, recording: RecordingId) -> Result<Option<Need>, CatalogError> {
        let value = self.get(Family::Needs, recording.0.as_bytes())?;
        value.map(|value| Need::decode(&value).ok_or_else(|| self.database.damaged("a recording's needs"))).transpose()
    }

    /// About how many bytes the tables take between two keys.
    pub(crate) fn room(&self, family: Family, from: &[u8], to: &[u8]) -> u64 {
        let database = self.database;
        let range = rocksdb::Range::new(from, to);
        database.db.get_approximate_sizes_cf(database.family(family), &[range]).first().copied().unwrap_or_default()
    }
}

/// Key, behind the prefix, and value.
pub(crate) type Entry<'a> = (&'a [u8], &'a [u8]);

/// Entries in key order. A place among them, which only moves forward.
pub(crate) struct List<'a> {
    database: &'a Database,
    cursor: DBRawIterator<'a>,
    prefix: Vec<u8>,
}

impl List<'_> {
    /// The entry at this place.
    pub(crate) fn entry(&self) -> Result<Option<Entry<'_>>, CatalogError> {
        match self.cursor.item() {
            // The bound keeps the prefix.
            Some((key, value)) => Ok(Some((key.get(self.prefix.len()..).unwrap_or_default(), value))),
            None => {
                self.cursor.status().map_err(|source| self.database.error("read", source))?;
                Ok(None)
            }
        }
    }

    pub(crate) fn damaged(&self, what: &str) -> CatalogError {
        self.database.damaged(what)
    }

    pub(crate) fn advance(&mut self) {
        self.cursor.next();
    }

    /// To the first entry whose key, behind the prefix, is `rest` or greater.
    pub(crate) fn seek(&mut self, rest: &[u8]) {
        self.cursor.seek([&self.prefix, rest].concat());
    }
}

/// The first key that does not begin with `prefix`; `None` when there is none.
fn prefix_end(prefix: &[u8]) -> Option<Vec<u8>> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return Some(end);
        }
    }
    None
}

/// Column families of the database that is there; none when there is none.
fn existing_families(path: &Path) -> Result<Vec<String>, CatalogError> {
    let io = |source| CatalogError::Io { operation: "list", path: path.to_owned(), source };
    match std::fs::read_dir(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(io(error)),
        Ok(mut entries) => {
            let Some(first) = entries.next() else { return Ok(Vec::new()) };
            first.map_err(io)?;
        }
    }
    if !path.join("CURRENT").exists() && has_tables(path).map_err(io)? {
        // RocksDB would make an empty database beside what is left of the old one.
        return Err(CatalogError::Damaged { path: path.to_owned(), what: "its file CURRENT is missing".to_owned() });
    }
    if !path.join("CURRENT").exists() {
        return Ok(Vec::new());
    }
    DB::list_cf(&Options::default(), path).map_err(|source| open_error(path, source))
}

/// Whether all tables of a database are there and can be opened. A secondary instance does not say so: it shows an older state, in
/// which the table was not yet, since the writer may be removing it.
fn check_tables(path: &Path, scratch: &Path, families: &[String]) -> Result<(), CatalogError> {
    let mut options = Options::default();
    options.set_max_open_files(-1);
    // RocksDB's own log, and no write-ahead log: nothing of it is looked at.
    options.set_db_log_dir(scratch);
    options.set_wal_dir(scratch);
    let mut before = None;
    for _ in 0..TABLE_CHECKS {
        let Err(error) = DB::open_cf_for_read_only(&options, path, families, false) else { return Ok(()) };
        // The writer removes tables that it has replaced meanwhile, after saying so: another look misses another one.
        if before.as_ref() == Some(&error) {
            break;
        }
        before = Some(error);
        std::thread::sleep(TABLE_CHECK_PAUSE);
    }
    before.map_or(Ok(()), |source| Err(open_error(path, source)))
}

/// Whether tables lie there, or logs with content: more than an interrupted creation leaves.
fn has_tables(path: &Path) -> std::io::Result<bool> {
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        let path = entry.path();
        let has = |extension: &str| path.extension().is_some_and(|found| found == extension);
        if has("sst") || (has("log") && entry.metadata()?.len() > 0) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn open_error(path: &Path, source: rocksdb::Error) -> CatalogError {
    let path = path.to_owned();
    // RocksDB tells of a file of its own that is missing as it tells of a disk that fails.
    let is_file_missing = path.join("CURRENT").exists() && source.as_ref().contains("No such file or directory");
    match source.kind() {
        ErrorKind::Corruption | ErrorKind::InvalidArgument | ErrorKind::NotFound => {
            CatalogError::Damaged { path, what: source.to_string() }
        }
        _ if is_file_missing => CatalogError::Damaged { path, what: source.to_string() },
        _ => CatalogError::Open { path, source },
    }
}

fn database_options(catalog: &CatalogOptions, mode: &Mode) -> Options {
    let mut options = Options::default();
    let writes = mode.writes();
    options.create_if_missing(writes);
    options.create_missing_column_families(writes);
    options.set_max_background_jobs(2);
    options.set_db_write_buffer_size(catalog.write_buffers_bytes);
    options.set_max_total_wal_size(2 * catalog.write_buffers_bytes as u64);
    // Of a log that is cut short, what is before the cut is used; the journal has the rest.
    options.set_wal_recovery_mode(rocksdb::DBRecoveryMode::PointInTime);
    // What a batch says of many running recordings is much the same.
    options.set_wal_compression_type(DBCompressionType::Zstd);
    // A secondary instance must hold every table open: the writer may delete it meanwhile.
    options.set_max_open_files(if writes { 1024 } else { -1 });
    options.set_keep_log_file_num(4);
    options.set_max_log_file_size(4 << 20);
    options.set_log_level(rocksdb::LogLevel::Warn);
    options
}

fn family_options(family: Family, catalog: &CatalogOptions, cache: &Cache) -> Options {
    let mut tables = BlockBasedOptions::default();
    tables.set_block_cache(cache);
    tables.set_format_version(6);
    tables.set_cache_index_and_filter_blocks(true);
    tables.set_pin_l0_filter_and_index_blocks_in_cache(true);
    if matches!(family, Family::Postings | Family::Parts) {
        // Of these, short ranges are read, from many places, and never a single key.
        tables.set_block_size(8 << 10);
        tables.set_block_restart_interval(64);
    } else {
        // Documents beside each other have so much in common that smaller blocks take more room.
        tables.set_block_size(16 << 10);
        tables.set_bloom_filter(10.0, false);
    }

    let mut options = Options::default();
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_bottommost_compression_type(DBCompressionType::Zstd);
    options.set_write_buffer_size(catalog.write_buffers_bytes / 4);
    options.set_level_compaction_dynamic_level_bytes(true);
    if matches!(family, Family::Chunks | Family::Needs | Family::Trackers | Family::Owed) {
        // What is written here is deleted soon; without this, reading goes over many deleted entries.
        options.add_compact_on_deletion_collector_factory(1000, 500, 0.0);
    }
    options.set_block_based_table_factory(&tables);
    options
}
