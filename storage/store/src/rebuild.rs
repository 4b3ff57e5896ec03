//! A new catalog, from what segments and journals hold.

use crate::backup::is_no_backup;
use crate::catch_up::{Span, read_journals};
use crate::description::Description;
use crate::logs::Logs;
use crate::open::take_lock;
use crate::read_segments::{Into, OnFault, Reading};
use crate::reader::scratch_directory;
use crate::{StoreError, volume};
use serde::{Deserialize, Serialize};
use sidetone_catalog::{Catalog, CatalogBuilder, CatalogError, CatalogOptions, RocksCatalog};
use sidetone_log::{Io, KnownEnd, LogPosition, RingIo, VolumeNumber};
use std::io;
use std::path::Path;
use std::sync::Arc;

/// The catalog, one that is being made, and the one before while they change places.
const CATALOG: &str = "catalog";
const NEW: &str = "catalog.new";
const OLD: &str = "catalog.old";

/// Recordings named one by one that a new catalog misses.
const MISSING_NAMED: usize = 20;

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RebuildOptions {
    /// The new catalog replaces the old one, even if it misses recordings.
    pub accept_missing: bool,
}

/// How far a rebuild is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct RebuildProgress {
    pub segments: u64,
    pub segments_total: u64,
    pub runs: u64,
    /// What was found in segments is put in order next.
    pub sorted_percent: u8,
    /// Records of the journals, which come last.
    pub records: u64,
    /// Places that could not be read. What they held is in no catalog.
    pub damaged_places: u64,
}

/// Makes the catalog of a store anew, beside the old one, which is replaced when the new one is whole. Beside volumes that are
/// missing, what only they hold is left out; what other volumes know of it is not.
///
/// # Errors
/// [`StoreError::Locked`] while a process writes the store; damage is none. [`StoreError::RecordingsMissing`] when the old catalog has
/// recordings, or of recordings something, that the new one has not: the old one stays. It does, too, when it is not damaged and cannot be read.
pub fn rebuild(
    home: &Path,
    options: &RebuildOptions,
    progress: &mut dyn FnMut(RebuildProgress),
) -> Result<RebuildProgress, StoreError> {
    let io: Arc<dyn Io> = Arc::new(RingIo::new());
    let not_found = || StoreError::NotFound { path: home.to_owned() };
    is_no_backup(&*io, home)?;
    let found = Description::read(&*io, home)?.ok_or_else(not_found)?;
    let _lock = take_lock(&*io, home)?;
    let volumes = volume::locate(&*io, home, &found)?;
    let logs = Logs::new(Arc::clone(&io), found.store_id, &volumes);
    finish_exchange(home)?;
    let new = home.join(NEW);
    remove(&new)?;
    let made = make(&*io, &logs, &new, progress).and_then(|(done, catalog)| {
        if !options.accept_missing {
            compare(home, &catalog)?;
        }
        Ok(done)
    });
    let Ok(done) = made else {
        // It takes room, and is of no use. Why there is none is what matters.
        if let Err(error) = remove(&new) {
            tracing::warn!(%error, "what there is of the new catalog stays");
        }
        return made;
    };
    let move_to = |from: &str, to: &str| {
        std::fs::rename(home.join(from), home.join(to))
            .and_then(|()| io.sync_directory(home))
            .map_err(|source| StoreError::io("rename", home.join(from), source))
    };
    remove(&home.join(OLD))?;
    if home.join(CATALOG).exists() {
        move_to(CATALOG, OLD)?;
    }
    move_to(NEW, CATALOG)?;
    remove(&home.join(OLD))?;
    Ok(done)
}

/// The new catalog, in its own directory.
fn make(
    io: &dyn Io,
    logs: &Logs,
    directory: &Path,
    progress: &mut dyn FnMut(RebuildProgress),
) -> Result<(RebuildProgress, RocksCatalog), StoreError> {
    let builder = CatalogBuilder::create(directory, &CatalogOptions::default())?;
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut done = from_segments(io, Into::New(&builder), logs, threads, progress)?;
    let catalog = builder.finish(threads, &mut |hundredths| {
        done.sorted_percent = hundredths;
        progress(done);
    })?;
    done.sorted_percent = 100;
    from_journals(&catalog, logs, &mut done)?;
    progress(done);
    catalog.persist()?;
    Ok((done, catalog))
}

/// Whether the new catalog has all of the recordings that the old one has, as far as that is not damaged.
fn compare(home: &Path, new: &RocksCatalog) -> Result<(), StoreError> {
    let path = home.join(CATALOG);
    if !path.join("CURRENT").exists() {
        return Ok(());
    }
    let (mut missing, mut some) = (0, Vec::new());
    let scratch = scratch_directory()?;
    let held_against = RocksCatalog::open_secondary(&path, scratch.path()).and_then(|old| {
        new.lacks(&old, &mut |recording| {
            missing += 1;
            if some.len() < MISSING_NAMED {
                some.push(recording);
            }
        })
    });
    match held_against {
        // Why a new one is made.
        Err(error @ CatalogError::Damaged { .. }) => {
            tracing::warn!(%error, "the old catalog is damaged: the new one is not held against it, or not all of it");
        }
        held_against => held_against.map_err(|source| StoreError::OldCatalog { source })?,
    }
    if missing > 0 { Err(StoreError::RecordingsMissing { missing, some }) } else { Ok(()) }
}

/// Ends an exchange of catalogs that was interrupted: the new one was whole when the old one was moved away.
pub(crate) fn finish_exchange(home: &Path) -> Result<(), StoreError> {
    let path = |name: &str| home.join(name);
    if path(CATALOG).exists() || !path(OLD).exists() {
        return Ok(());
    }
    let from = if path(NEW).exists() { NEW } else { OLD };
    std::fs::rename(path(from), path(CATALOG)).map_err(|source| StoreError::io("rename", path(from), source))
}

fn remove(directory: &Path) -> Result<(), StoreError> {
    match std::fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(StoreError::io("remove", directory, error)),
        _ => Ok(()),
    }
}

/// Brings everything that segments hold into a catalog that has nothing yet. So many threads read.
pub(crate) fn from_segments(
    io: &dyn Io,
    into: Into<'_>,
    logs: &Logs,
    readers: usize,
    progress: &mut dyn FnMut(RebuildProgress),
) -> Result<RebuildProgress, StoreError> {
    let present: Vec<VolumeNumber> =
        logs.volumes().filter(|logs| logs.volume.present).map(|logs| logs.volume.number).collect();
    Reading { io, into, logs, on_fault: OnFault::GoOn }.segments(&present, readers, progress)
}

/// Brings in what journals hold.
pub(crate) fn from_journals(catalog: &dyn Catalog, logs: &Logs, done: &mut RebuildProgress) -> Result<(), StoreError> {
    let spans: Vec<Span> = logs
        .volumes()
        .filter(|logs| logs.volume.present)
        .map(|logs| Span {
            volume: logs.volume.number,
            from: LogPosition::default(),
            end: KnownEnd::AtLeast(LogPosition::default()),
        })
        .collect();
    let caught_up = read_journals(catalog, logs, &spans, &mut |_| {})?;
    done.records = caught_up.records;
    done.damaged_places += (caught_up.damaged.len() + caught_up.unreadable.len()) as u64;
    for (volume, error) in caught_up.unreadable {
        tracing::error!(volume = volume.0, %error, "the catalog is made without the rest of this journal");
    }
    Ok(())
}
