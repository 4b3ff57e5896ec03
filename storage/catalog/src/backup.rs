//! Backups of a catalog that is in use, and the way back.

use crate::database::Database;
use crate::{BackupProgress, CatalogError};
use rocksdb::Env;
use rocksdb::backup::{BackupEngine, BackupEngineOptions, RestoreOptions};
use std::path::Path;
use std::time::Duration;

/// How often progress is told.
const TELL_EVERY: Duration = Duration::from_millis(100);

pub(crate) fn backup(
    database: &Database,
    directory: &Path,
    progress: &mut dyn FnMut(BackupProgress),
) -> Result<(), CatalogError> {
    let io = |source| CatalogError::Io { operation: "create", path: directory.to_owned(), source };
    std::fs::create_dir_all(directory).map_err(io)?;
    let mut catalog_bytes = 0;
    for family in crate::database::Family::ALL {
        catalog_bytes += database.table_bytes(family)?;
    }
    let before = bytes_in(directory);
    let mut tell =
        || progress(BackupProgress { copied_bytes: bytes_in(directory).saturating_sub(before), catalog_bytes });
    std::thread::scope(|scope| {
        let worker = scope.spawn(|| {
            let mut engine = open(directory)?;
            // What is not in tables yet is brought there first: the backup needs no log.
            let made = engine.create_new_backup_flush(database.raw(), true);
            made.map_err(|source| error("make a backup", directory, source))
        });
        while !worker.is_finished() {
            tell();
            std::thread::park_timeout(TELL_EVERY);
        }
        worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })?;
    tell();
    Ok(())
}

/// Makes a catalog of the newest backup in `directory`. `catalog` is empty or not there, and holds a whole catalog when this
/// returns; every byte was checked.
pub fn restore(directory: &Path, catalog: &Path) -> Result<(), CatalogError> {
    let io = |operation, source| CatalogError::Io { operation, path: catalog.to_owned(), source };
    std::fs::create_dir_all(catalog).map_err(|source| io("create", source))?;
    let mut entries = std::fs::read_dir(catalog).map_err(|source| io("list", source))?;
    if entries.next().is_some() {
        return Err(CatalogError::NotEmpty { path: catalog.to_owned() });
    }
    // The engine would make an empty one.
    if !directory.join("meta").is_dir() {
        return Err(CatalogError::NoBackup { path: directory.to_owned() });
    }
    let mut engine = open(directory)?;
    if engine.get_backup_info().is_empty() {
        return Err(CatalogError::NoBackup { path: directory.to_owned() });
    }
    let restored = engine.restore_from_latest_backup(catalog, catalog, &RestoreOptions::default());
    restored.map_err(|source| error("restore", directory, source))
}

/// Removes all backups in `directory` but the newest ones.
pub fn purge_backups(directory: &Path, kept: usize) -> Result<(), CatalogError> {
    if !directory.join("meta").is_dir() {
        return Err(CatalogError::NoBackup { path: directory.to_owned() });
    }
    let purged = open(directory)?.purge_old_backups(kept);
    purged.map_err(|source| error("remove old backups", directory, source))
}

fn open(directory: &Path) -> Result<BackupEngine, CatalogError> {
    let opened = Env::new()
        .and_then(|env| BackupEngineOptions::new(directory).and_then(|options| BackupEngine::open(&options, &env)));
    opened.map_err(|source| error("open", directory, source))
}

fn error(operation: &'static str, directory: &Path, source: rocksdb::Error) -> CatalogError {
    CatalogError::Backup { operation, path: directory.to_owned(), source }
}

/// Bytes of all files below a directory, as far as they can be seen: only for showing progress.
fn bytes_in(directory: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(directory) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => bytes_in(&entry.path()),
            Ok(metadata) => metadata.len(),
            Err(_) => 0,
        })
        .sum()
}
