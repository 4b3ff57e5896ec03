//! Copies of a store: made while it is in use, each as much more as has come since the last one; and the way back.
//!
//! ```text
//! BACKUP/sidetone-backup.json     of which store, and when it was last whole
//! BACKUP/sidetone-store.json      the store's description
//! BACKUP/catalog/                 of the catalog (RocksDB's own form)
//! BACKUP/volumes/NNN/             as the volume: journal/, segments/, sidetone-volume.json
//! ```
//!
//! Order: the catalog first, then journals, then segments; no journal file is removed from the store meanwhile. So the journals
//! hold everything that the catalog does not know, and the segments every run that the journals speak of. What is
//! written while the copy runs may be in it or not.

use crate::description::{
    Description, KnownVolume, STORE_FILE, VOLUME_FILE, VolumeDescription, is_unused, make_directory,
};
use crate::keeper::OPEN_SPAN;
use crate::logs::{Logs, VolumeLogs};
use crate::open::take_lock;
use crate::reader::StoreReader;
use crate::shared::Shared;
use crate::volume::Volume;
use crate::{StoreError, rebuild, volume};
use serde::{Deserialize, Serialize};
use sidetone_catalog::{Catalog, RocksCatalog, purge_backups};
use sidetone_log::format::ALIGNMENT_BYTES;
use sidetone_log::{Io, RingIo, VolumeNumber};
use sidetone_model::CaptureTime;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use uuid::Uuid;

const BACKUP_FILE: &str = "sidetone-backup.json";
const BACKUP_VERSION: u32 = 1;
/// Backups of the catalog that are kept.
const CATALOGS_KEPT: usize = 2;

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BackupOptions {
    /// On the same file system, files that do not change any more are linked instead of copied: it takes no space, and no
    /// damage of the device is survived.
    pub link: bool,
}

/// How far a backup or a restore is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct BackupProgress {
    /// Of log files.
    pub bytes: u64,
    pub bytes_total: u64,
    pub files: u64,
    pub files_total: u64,
    /// Files that were there already.
    pub files_kept: u64,
    /// Of the catalog.
    pub catalog_bytes: u64,
    /// Volumes that are missing: of them, what an earlier backup has is kept.
    pub volumes_missing: u64,
}

#[derive(Serialize, Deserialize)]
struct BackupDescription {
    version: u32,
    store_id: Uuid,
    made_at: CaptureTime,
}

/// Backs up a store that no process writes.
pub fn backup(
    home: &Path,
    directory: &Path,
    options: &BackupOptions,
    progress: &mut dyn FnMut(BackupProgress),
) -> Result<BackupProgress, StoreError> {
    let io: Arc<dyn Io> = Arc::new(RingIo::new());
    let not_found = || StoreError::NotFound { path: home.to_owned() };
    let description = Description::read(&*io, home)?.ok_or_else(not_found)?;
    let _lock = take_lock(&*io, home)?;
    rebuild::finish_exchange(home)?;
    let catalog = RocksCatalog::open(&home.join("catalog"))?;
    let logs = Logs::new(Arc::clone(&io), description.store_id, &volume::locate(&*io, home, &description)?);
    Copying { io: &*io, directory, options: *options, done: BackupProgress::default(), tell: progress }.backup(
        &description,
        &catalog,
        &logs,
    )
}

impl StoreReader {
    /// Backs up the store that this process writes. Recording goes on meanwhile.
    ///
    /// # Errors
    /// [`StoreError::Locked`] when another process writes it: that one can.
    pub fn backup(
        &self,
        directory: &Path,
        options: &BackupOptions,
        progress: &mut dyn FnMut(BackupProgress),
    ) -> Result<BackupProgress, StoreError> {
        let Some(shared) = self.shared() else {
            return Err(StoreError::Locked { path: self.home().to_owned(), process: "(another)".to_owned() });
        };
        let _hold = RetirementHold::new(Arc::clone(shared));
        Copying { io: self.io(), directory, options: *options, done: BackupProgress::default(), tell: progress }.backup(
            &shared.description,
            &**self.catalog(),
            self.logs(),
        )
    }
}

/// No journal file goes as long as this lives.
struct RetirementHold(Arc<Shared>);

impl RetirementHold {
    fn new(shared: Arc<Shared>) -> Self {
        shared.retirement_holds.fetch_add(1, Ordering::AcqRel);
        Self(shared)
    }
}

impl Drop for RetirementHold {
    fn drop(&mut self) {
        self.0.retirement_holds.fetch_sub(1, Ordering::AcqRel);
    }
}

struct Copying<'a> {
    io: &'a dyn Io,
    /// Of the backup.
    directory: &'a Path,
    options: BackupOptions,
    done: BackupProgress,
    tell: &'a mut dyn FnMut(BackupProgress),
}

/// A log file to copy.
struct Source {
    path: PathBuf,
    bytes: u64,
    /// It is not written any more.
    is_final: bool,
}

impl Copying<'_> {
    fn backup(
        mut self,
        description: &Description,
        catalog: &dyn Catalog,
        logs: &Logs,
    ) -> Result<BackupProgress, StoreError> {
        self.prepare(description.store_id)?;
        let (done, tell) = (&mut self.done, &mut self.tell);
        catalog.backup(&self.directory.join("catalog"), &mut |progress| {
            done.catalog_bytes = progress.copied_bytes;
            tell(*done);
        })?;
        // After the catalog: they hold what it does not know. The segments' names come last, for the same reason.
        let mut found = Vec::new();
        for logs in logs.volumes() {
            if self.is_there(&logs.volume)? {
                found.push(logs);
            }
        }
        let present = || found.iter().copied();
        self.done.volumes_missing = (logs.volumes().count() - present().count()) as u64;
        let mut journals = Vec::new();
        for logs in present() {
            journals.push((logs, self.journal_files(logs)?));
        }
        for (logs, files) in &journals {
            self.copy_all(files, &self.place(logs.volume.number).join("journal"))?;
        }
        for logs in present() {
            let files = self.segments(logs)?;
            self.copy_all(&files, &self.place(logs.volume.number).join("segments"))?;
            let volume = &logs.volume;
            if volume.number != VolumeNumber(0) {
                let text = VolumeDescription::read(self.io, &volume.directory)?;
                if let Some(text) = text {
                    text.write(self.io, &self.place(volume.number))?;
                }
            }
        }
        description.write(self.io, self.directory)?;
        let made =
            BackupDescription { version: BACKUP_VERSION, store_id: description.store_id, made_at: self.io.now() };
        let text = serde_json::to_string_pretty(&made).expect("a description has only plain fields") + "\n";
        let path = self.directory.join(BACKUP_FILE);
        self.io.write_small(&path, text.as_bytes()).map_err(|source| StoreError::io("write", path, source))?;
        // The backup is whole: what it needs no longer can go.
        for (logs, files) in &journals {
            self.remove_retired(files, &self.place(logs.volume.number).join("journal"))?;
        }
        purge_backups(&self.directory.join("catalog"), CATALOGS_KEPT)?;
        (self.tell)(self.done);
        Ok(self.done)
    }

    /// Whether a volume is where it should be, now: else its directory tells nothing of what it holds.
    fn is_there(&self, volume: &Volume) -> Result<bool, StoreError> {
        let found = match volume.number {
            VolumeNumber(0) => {
                Description::read(self.io, &volume.directory).map(|found| found.map(|found| found.store_id))
            }
            _ => VolumeDescription::read(self.io, &volume.directory).map(|found| found.map(|found| found.volume_id)),
        };
        match found {
            Ok(found) => Ok(found == Some(volume.id)),
            Err(StoreError::Io { source, .. }) => {
                tracing::error!(volume = volume.number.0, error = %source, "a volume cannot be read, and is not in the backup");
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// The directory is empty, or holds earlier backups of the same store.
    fn prepare(&self, store_id: Uuid) -> Result<(), StoreError> {
        make_directory(self.io, self.directory)?;
        let foreign = || StoreError::NotABackup { path: self.directory.to_owned() };
        match read_description(self.io, self.directory)? {
            Some(found) if found.store_id == store_id => Ok(()),
            Some(_) => Err(foreign()),
            None => {
                let names = self.io.list(self.directory);
                let names = names.map_err(|source| StoreError::io("list", self.directory, source))?;
                // What a first backup that was interrupted has left.
                let ours = ["catalog", "volumes", STORE_FILE, "lost+found"];
                if names.iter().all(|name| ours.iter().any(|ours| name.starts_with(ours))) {
                    Ok(())
                } else {
                    Err(foreign())
                }
            }
        }
    }

    fn place(&self, volume: VolumeNumber) -> PathBuf {
        self.directory.join("volumes").join(format!("{:03}", volume.0))
    }

    fn journal_files(&mut self, logs: &VolumeLogs) -> Result<Vec<Source>, StoreError> {
        let files = logs.journal.files()?;
        let newest = files.last().copied();
        let files = files.into_iter().map(|file| (logs.journal.path(file), Some(file) != newest));
        self.sources(files)
    }

    fn segments(&mut self, logs: &VolumeLogs) -> Result<Vec<Source>, StoreError> {
        let mut files = Vec::new();
        let segments = logs.segments.segments()?;
        let newest = segments.last().map_or(0, |last| last.0);
        for segment in segments {
            // Only the newest can be open.
            let is_final = segment.0 + 2 * OPEN_SPAN < newest || logs.segments.is_closed(segment)?;
            files.push((logs.segments.path(segment), is_final));
        }
        self.sources(files.into_iter())
    }

    fn sources(&mut self, files: impl Iterator<Item = (PathBuf, bool)>) -> Result<Vec<Source>, StoreError> {
        let mut sources = Vec::new();
        for (path, is_final) in files {
            let bytes = match self.io.size(&path) {
                Ok(size) => size.bytes,
                // Removed since it was listed: nothing needs it.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(StoreError::io("inspect", path, error)),
            };
            self.done.bytes_total += bytes;
            self.done.files_total += 1;
            sources.push(Source { path, bytes, is_final });
        }
        Ok(sources)
    }

    fn copy_all(&mut self, sources: &[Source], to: &Path) -> Result<(), StoreError> {
        make_directory(self.io, to)?;
        for source in sources {
            let name = source.path.file_name().expect("a log file has a name");
            self.copy(source, &to.join(name))?;
            self.done.bytes += source.bytes;
            self.done.files += 1;
            (self.tell)(self.done);
        }
        self.io.sync_directory(to).map_err(|source| StoreError::io("sync", to, source))
    }

    fn copy(&mut self, source: &Source, to: &Path) -> Result<(), StoreError> {
        let failed = |error| StoreError::io("copy", &source.path, error);
        if source.is_final && is_same(&source.path, to, source.bytes).map_err(failed)? {
            self.done.files_kept += 1;
            return Ok(());
        }
        let part = to.with_extension("part");
        match std::fs::remove_file(&part) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let is_linked = self.options.link && source.is_final && std::fs::hard_link(&source.path, &part).is_ok();
        if !is_linked {
            match std::fs::copy(&source.path, &part) {
                Ok(_) => {}
                // Removed since it was listed.
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                Err(error) => return Err(failed(error)),
            }
            File::open(&part).and_then(|file| file.sync_all()).map_err(failed)?;
        }
        std::fs::rename(&part, to).map_err(failed)
    }

    /// Removes journal files from the backup that the store has no more.
    fn remove_retired(&self, kept: &[Source], directory: &Path) -> Result<(), StoreError> {
        let names = self.io.list(directory).map_err(|source| StoreError::io("list", directory, source))?;
        let is_kept = |name: &String| kept.iter().any(|kept| kept.path.file_name().is_some_and(|file| file == &**name));
        for name in names.iter().filter(|name| !is_kept(name)) {
            let path = directory.join(name);
            std::fs::remove_file(&path).map_err(|source| StoreError::io("remove", path, source))?;
        }
        Ok(())
    }
}

/// Whether a file that does not change any more was copied before: same length, and same first block, which has an identity
/// drawn for that file.
fn is_same(from: &Path, to: &Path, bytes: u64) -> io::Result<bool> {
    let block = |path: &Path| {
        let mut block = Vec::new();
        File::open(path)?.take(ALIGNMENT_BYTES as u64).read_to_end(&mut block)?;
        Ok::<_, io::Error>(block)
    };
    match std::fs::metadata(to) {
        Ok(metadata) if metadata.len() == bytes => Ok(block(from)? == block(to)?),
        Ok(_) => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn read_description(io: &dyn Io, directory: &Path) -> Result<Option<BackupDescription>, StoreError> {
    let path = directory.join(BACKUP_FILE);
    let text = match io.read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(StoreError::io("read", path, error)),
    };
    let found: BackupDescription = serde_json::from_slice(&text)
        .map_err(|error| StoreError::BadDescription { path: path.clone(), what: error.to_string() })?;
    if found.version > BACKUP_VERSION {
        return Err(StoreError::NewerVersion { path, version: found.version, readable: BACKUP_VERSION });
    }
    Ok(Some(found))
}

/// Makes a store of a backup. `home` is empty or not there, and so are `volumes`: one directory for each volume besides the home,
/// in the order of their numbers. The store is there when this returns; interrupted, it leaves none.
pub fn restore(
    directory: &Path,
    home: &Path,
    volumes: &[PathBuf],
    progress: &mut dyn FnMut(BackupProgress),
) -> Result<BackupProgress, StoreError> {
    let io = RingIo::new();
    let foreign = || StoreError::NotABackup { path: directory.to_owned() };
    read_description(&io, directory)?.ok_or_else(foreign)?;
    let mut description = Description::read(&io, directory)?.ok_or_else(foreign)?;
    if volumes.len() != description.volumes.len() {
        return Err(StoreError::VolumeCount { wanted: description.volumes.len(), given: volumes.len() });
    }
    let mut targets = vec![(VolumeNumber(0), home.to_owned())];
    for (known, volume) in description.volumes.iter_mut().zip(volumes) {
        *known = KnownVolume { directory: volume.clone(), ..known.clone() };
        targets.push((known.volume, volume.clone()));
    }
    for (_, target) in &targets {
        make_directory(&io, target)?;
        let names = io.list(target).map_err(|source| StoreError::io("list", target, source))?;
        if !is_unused(&io, target)? || names.iter().any(|name| [STORE_FILE, VOLUME_FILE].contains(&&**name)) {
            return Err(StoreError::ForeignDirectory { path: target.clone() });
        }
    }
    let _lock = take_lock(&io, home)?;
    let mut copying = Copying {
        io: &io,
        directory,
        options: BackupOptions::default(),
        done: BackupProgress::default(),
        tell: progress,
    };
    for (volume, target) in &targets {
        for part in ["journal", "segments"] {
            let from = copying.place(*volume).join(part);
            let names = match io.list(&from) {
                Ok(names) => names,
                // The volume was missing in every backup.
                Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
                Err(error) => return Err(StoreError::io("list", from, error)),
            };
            let files = names.iter().filter(|name| !name.ends_with(".part")).map(|name| (from.join(name), true));
            let files = copying.sources(files)?;
            copying.copy_all(&files, &target.join(part))?;
        }
        if let Some(known) = description.volumes.iter().find(|known| known.volume == *volume) {
            let text = VolumeDescription {
                version: description.version,
                store_id: description.store_id,
                volume: *volume,
                volume_id: known.volume_id,
            };
            text.write(&io, target)?;
        }
    }
    sidetone_catalog::restore(&directory.join("catalog"), &home.join("catalog"))?;
    // From here on it is a store.
    description.write(&io, home)?;
    Ok(copying.done)
}
