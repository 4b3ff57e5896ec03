//! Tables that are written outside of the database, which takes them in as they are.

use crate::CatalogError;
use crate::database::{CatalogOptions, Database, Family};
use rocksdb::{Options, SstFileWriter};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// A table is ended at this size, as RocksDB ends its own.
const TABLE_BYTES: u64 = 64 << 20;

/// The tables of all threads.
pub(super) struct Tables<'a> {
    database: &'a Database,
    directory: &'a Path,
    options: [Options; Family::ALL.len()],
    next: AtomicU64,
    done: Mutex<Vec<(Family, PathBuf)>>,
}

/// The one that a thread writes.
pub(super) struct Table<'a> {
    tables: &'a Tables<'a>,
    open: Option<Open<'a>>,
}

struct Open<'a> {
    family: Family,
    path: PathBuf,
    writer: SstFileWriter<'a>,
}

impl<'a> Tables<'a> {
    pub(super) fn new(database: &'a Database, directory: &'a Path, catalog: &CatalogOptions) -> Self {
        let options = Family::ALL.map(|family| Database::table_options(family, catalog));
        Self { database, directory, options, next: AtomicU64::default(), done: Mutex::default() }
    }

    pub(super) fn begin(&'a self) -> Table<'a> {
        Table { tables: self, open: None }
    }

    /// Into the database with all of them. No two of a family may overlap.
    pub(super) fn ingest(self) -> Result<(), CatalogError> {
        let done = self.done.into_inner().unwrap_or_else(PoisonError::into_inner);
        Family::ALL.into_iter().try_for_each(|family| {
            let of_family = done.iter().filter(|(of, _)| *of == family).map(|(_, path)| path).collect();
            self.database.ingest(family, of_family)
        })
    }
}

impl Table<'_> {
    /// Keys of a family come in order, and only once.
    pub(super) fn put(&mut self, family: Family, key: &[u8], value: &[u8]) -> Result<(), CatalogError> {
        let goes_on = |open: &Open<'_>| open.family == family && open.writer.file_size() < TABLE_BYTES;
        if !self.open.as_ref().is_some_and(goes_on) {
            self.end()?;
        }
        let tables = self.tables;
        let open = match &mut self.open {
            Some(open) => open,
            None => self.open.insert(tables.open(family)?),
        };
        open.writer.put(key, value).map_err(|source| tables.database.error("write a table", source))
    }

    pub(super) fn end(&mut self) -> Result<(), CatalogError> {
        let Some(Open { family, path, mut writer }) = self.open.take() else { return Ok(()) };
        writer.finish().map_err(|source| self.tables.database.error("write a table", source))?;
        self.tables.done.lock().unwrap_or_else(PoisonError::into_inner).push((family, path));
        Ok(())
    }
}

impl Tables<'_> {
    fn open(&self, family: Family) -> Result<Open<'_>, CatalogError> {
        let path = self.directory.join(format!("{}.sst", self.next.fetch_add(1, Ordering::Relaxed)));
        let writer = SstFileWriter::create(&self.options[family as usize]);
        writer.open(&path).map_err(|source| self.database.error("make a table", source))?;
        Ok(Open { family, path, writer })
    }
}
