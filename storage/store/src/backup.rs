//! Copies of a store: made while it is in use, each as much more as has come since the last one; and the way back.
//!
//! ```text
//! BACKUP/sidetone-backup.json     of which store, and when it was last made
//! BACKUP/sidetone-store.json      the store's description
//! BACKUP/catalog/                 of the catalog (RocksDB's own form)
//! BACKUP/volumes/NNN/             as the volume: journal/, segments/, sidetone-volume.json
//! ```
//!
//! Order: the catalog first, then journals, then segments; no journal file is removed from the store meanwhile. So the journals
//! hold everything that the catalog does not know, and the segments every run that the journals speak of. What is
//! written while the copy runs may be in it or not.
//!
//! A copy of a finished file is never replaced by anything else: when the store has it otherwise, it is the store that has lost
//! something. Such a backup tells it, and removes nothing.

use crate::description::{
    Description, KnownVolume, STORE_FILE, VOLUME_FILE, VolumeDescription, holds_logs, is_unused, make_directory,
};
use crate::keeper::OPEN_SPAN;
use crate::logs::{Logs, VolumeLogs};
use crate::open::take_lock;
use crate::reader::{StoreReader, scratch_directory};
use crate::shared::{Shared, is_of_the_device};
use crate::volume::Volume;
use crate::{Store, StoreError, StoreOptions, rebuild, volume};
use serde::{Deserialize, Serialize};
use sidetone_catalog::{Catalog, CatalogError, RocksCatalog, purge_backups};
use sidetone_log::format::ALIGNMENT_BYTES;
use sidetone_log::{Io, OpenFiles, Owner, RingIo, SegmentNumber, SegmentReader, VolumeNumber};
use sidetone_model::CaptureTime;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use uuid::Uuid;

const BACKUP_FILE: &str = "sidetone-backup.json";
const BACKUP_VERSION: u32 = 1;
/// Backups of the catalog that are kept.
const CATALOGS_KEPT: usize = 2;
/// Copied at once, and made durable at once: a slow disk shows its progress, and has no more than that to catch up with.
const COPY_BYTES: usize = 256 << 10;
const SYNC_BYTES: usize = 64 << 20;

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BackupOptions {
    /// On the same file system, files that do not change any more are linked instead of copied: it takes no space, and no
    /// damage of the device is survived.
    pub link: bool,
    /// Directories above that of the backup are made, too. Without, one that is not there is an error: it may be a mount point,
    /// mistyped.
    pub parents: bool,
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

/// What a backup has come to.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct BackupReport {
    #[serde(flatten)]
    pub done: BackupProgress,
    pub differing: Vec<Differing>,
}

/// A finished file that the store has otherwise than the backup, or has lost. What the backup has was kept.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Differing {
    pub copy: PathBuf,
    /// The store's.
    pub file: PathBuf,
    pub what: String,
}

impl BackupReport {
    /// Everything that the store holds is in the backup.
    pub fn is_whole(&self) -> bool {
        self.differing.is_empty() && self.done.volumes_missing == 0
    }
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
) -> Result<BackupReport, StoreError> {
    let io: Arc<dyn Io> = Arc::new(RingIo::new());
    let not_found = || StoreError::NotFound { path: home.to_owned() };
    is_no_backup(&*io, home)?;
    let description = Description::read(&*io, home)?.ok_or_else(not_found)?;
    let _lock = take_lock(&*io, home)?;
    rebuild::finish_exchange(home)?;
    let path = home.join("catalog");
    if !path.join("CURRENT").exists() && holds_logs(&*io, home) {
        // Opened, it would be made, and an empty one be saved.
        return Err(CatalogError::Damaged { path, what: "it is not there".to_owned() }.into());
    }
    let catalog = RocksCatalog::open(&path)?;
    let logs = Logs::new(Arc::clone(&io), description.store_id, &volume::locate(&*io, home, &description)?);
    Copying::new(&*io, directory, *options, progress).backup(&description, &catalog, &logs)
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
    ) -> Result<BackupReport, StoreError> {
        let Some(shared) = self.shared() else {
            return Err(StoreError::Locked { path: self.home().to_owned(), process: "(another)".to_owned() });
        };
        let _hold = RetirementHold::new(Arc::clone(shared));
        Copying::new(self.io(), directory, *options, progress).backup(
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
    differing: Vec<Differing>,
    tell: &'a mut dyn FnMut(BackupProgress),
}

/// Why a file of the store differs from any copy.
const UNREADABLE: &str = "the store's cannot be read";

/// A log file to copy.
struct Source {
    path: PathBuf,
    bytes: u64,
    /// It is not written any more.
    is_final: bool,
}

/// What lies where a file is to be copied to.
enum Held {
    /// Nothing, or an earlier state of the file.
    Earlier,
    Same,
    /// What the file must not replace, and why.
    Other(&'static str),
}

impl<'a> Copying<'a> {
    fn new(
        io: &'a dyn Io,
        directory: &'a Path,
        options: BackupOptions,
        tell: &'a mut dyn FnMut(BackupProgress),
    ) -> Self {
        Self { io, directory, options, done: BackupProgress::default(), differing: Vec::new(), tell }
    }

    fn backup(
        mut self,
        description: &Description,
        catalog: &dyn Catalog,
        logs: &Logs,
    ) -> Result<BackupReport, StoreError> {
        for logs in logs.volumes() {
            is_outside(self.directory, &logs.volume.directory)?;
        }
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
            let to = self.place(logs.volume.number).join("journal");
            make_directory(self.io, &to)?;
            // Of the last backup, only the newest was not finished.
            let newest = self.names(&to, ".jnl")?.pop();
            self.copy_all(files, &to, &|copy| copy.file_name() < newest.as_deref().map(OsStr::new))?;
            self.tell_lost(files, logs, &to)?;
        }
        let copied = OpenFiles::new(Arc::new(RingIo::new()), 1);
        for logs in present() {
            let files = self.segments(logs)?;
            let to = self.place(logs.volume.number).join("segments");
            let owner = Owner { store_id: description.store_id, volume: logs.volume.number };
            let reader = SegmentReader::open(&copied, &to, owner);
            let is_closed = |copy: &Path| {
                let number = copy.file_stem().and_then(|name| name.to_str()?.parse().ok());
                number.is_some_and(|number| reader.is_closed(SegmentNumber(number)).unwrap_or(false))
            };
            self.copy_all(&files, &to, &is_closed)?;
            for (segment, _) in catalog.segment_ends(logs.volume.number)? {
                let file = logs.segments.path(segment);
                self.tell_if_lost(&file, &to);
            }
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
        // What it needs no longer can go, unless the store has lost something: then the backup may be all that there is.
        if self.differing.is_empty() {
            for (logs, files) in &journals {
                self.remove_retired(files, &self.place(logs.volume.number).join("journal"))?;
            }
            purge_backups(&self.directory.join("catalog"), CATALOGS_KEPT)?;
        }
        (self.tell)(self.done);
        Ok(BackupReport { done: self.done, differing: self.differing })
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
        let parent = self.directory.parent().filter(|parent| !parent.as_os_str().is_empty());
        if let Some(parent) = parent.filter(|parent| !self.options.parents && !parent.exists()) {
            return Err(StoreError::NoParent { path: parent.to_owned() });
        }
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
        place(self.directory, volume)
    }

    /// Names in a directory that end so, ascending.
    fn names(&self, directory: &Path, end: &str) -> Result<Vec<String>, StoreError> {
        let mut names = self.io.list(directory).map_err(|source| StoreError::io("list", directory, source))?;
        names.retain(|name| name.ends_with(end));
        names.sort();
        Ok(names)
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

    /// `is_finished` says of a copy that is there whether its file was not written any more when it was made.
    fn copy_all(
        &mut self,
        sources: &[Source],
        to: &Path,
        is_finished: &dyn Fn(&Path) -> bool,
    ) -> Result<(), StoreError> {
        make_directory(self.io, to)?;
        // What interrupted copies have left.
        for name in self.names(to, ".part")? {
            let path = to.join(name);
            std::fs::remove_file(&path).map_err(|source| StoreError::io("remove", path, source))?;
        }
        for source in sources {
            let before = self.done.bytes;
            let name = source.path.file_name().expect("a log file has a name");
            self.copy(source, &to.join(name), is_finished)?;
            self.done.bytes = before + source.bytes;
            self.done.files += 1;
            (self.tell)(self.done);
        }
        self.io.sync_directory(to).map_err(|source| StoreError::io("sync", to, source))
    }

    fn copy(&mut self, source: &Source, to: &Path, is_finished: &dyn Fn(&Path) -> bool) -> Result<(), StoreError> {
        match compare(source, to, is_finished) {
            Ok(Held::Earlier) => {}
            Ok(Held::Same) => {
                self.done.files_kept += 1;
                return Ok(());
            }
            Ok(Held::Other(what)) => {
                self.differs(to, &source.path, what);
                return Ok(());
            }
            // Removed since it was listed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(StoreError::io("compare", to, error)),
        }
        let part = to.with_extension("part");
        let failed = |error| StoreError::io("write", &part, error);
        match std::fs::remove_file(&part) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let is_linked = self.options.link && source.is_final && std::fs::hard_link(&source.path, &part).is_ok();
        if !is_linked {
            match self.copy_bytes(&source.path, &part) {
                Ok(true) => {}
                Ok(false) => return Ok(()),
                // Its device has lost it; the others are copied all the same.
                Err(StoreError::Io { operation: "open" | "read", source: error, .. }) if is_of_the_device(&error) => {
                    self.differs(to, &source.path, UNREADABLE);
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
        std::fs::rename(&part, to).map_err(failed)
    }

    /// False when the file was removed since it was listed. Zeros, which is what space holds that was set aside, are not written.
    fn copy_bytes(&mut self, source: &Path, part: &Path) -> Result<bool, StoreError> {
        let mut from = match File::open(source) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            opened => opened.map_err(|error| StoreError::io("open", source, error))?,
        };
        let copied = self.copy_into(&mut from, source, part);
        if copied.is_err() {
            // The room it takes may be the last there is; the error says what is wrong.
            drop(std::fs::remove_file(part));
        }
        copied.map(|()| true)
    }

    fn copy_into(&mut self, from: &mut File, source: &Path, part: &Path) -> Result<(), StoreError> {
        let read = |error| StoreError::io("read", source, error);
        let written = |error| StoreError::io("write", part, error);
        let permissions = from.metadata().map_err(read)?.permissions();
        let to = File::create(part).map_err(written)?;
        to.set_permissions(permissions).map_err(written)?;
        let mut buffer = vec![0; COPY_BYTES];
        let (mut end, mut unsynced) = (0, 0);
        loop {
            let filled = from.read(&mut buffer).map_err(read)?;
            let bytes = &buffer[..filled];
            if filled == 0 {
                break;
            }
            if bytes.iter().any(|byte| *byte != 0) {
                to.write_all_at(bytes, end).map_err(written)?;
                unsynced += filled;
            }
            end += filled as u64;
            if unsynced >= SYNC_BYTES {
                to.sync_data().map_err(written)?;
                unsynced = 0;
            }
            self.done.bytes += filled as u64;
            (self.tell)(self.done);
        }
        to.set_len(end).and_then(|()| to.sync_all()).map_err(written)
    }

    fn differs(&mut self, copy: &Path, file: &Path, what: &str) {
        tracing::error!(copy = %copy.display(), file = %file.display(), what, "a finished file of a backup is not that of the store, and is kept");
        self.differing.push(Differing { copy: copy.to_owned(), file: file.to_owned(), what: what.to_owned() });
    }

    /// Tells of journal files that the backup has and the store should have.
    fn tell_lost(&mut self, sources: &[Source], logs: &VolumeLogs, copies: &Path) -> Result<(), StoreError> {
        let first = sources.first().and_then(|source| source.path.file_name());
        for name in self.names(copies, ".jnl")? {
            if first.is_none_or(|first| OsStr::new(&name) >= first) {
                self.tell_if_lost(&logs.volume.journal().join(&name), copies);
            }
        }
        Ok(())
    }

    fn tell_if_lost(&mut self, file: &Path, copies: &Path) {
        if !file.exists() {
            let copy = copies.join(file.file_name().expect("a log file has a name"));
            let what =
                if copy.exists() { "the store has lost it" } else { "the store has lost it, and no backup has it" };
            self.differs(&copy, file, what);
        }
    }

    /// Removes journal files from the backup that the store has no more, the oldest.
    fn remove_retired(&self, kept: &[Source], directory: &Path) -> Result<(), StoreError> {
        let first = kept.first().and_then(|first| first.path.file_name());
        let is_retired = |name: &String| first.is_some_and(|first| OsStr::new(name) < first);
        for name in self.names(directory, ".jnl")?.iter().filter(|name| is_retired(name)) {
            let path = directory.join(name);
            std::fs::remove_file(&path).map_err(|source| StoreError::io("remove", path, source))?;
        }
        Ok(())
    }
}

/// Whether a file was copied before. Its first block has an identity drawn for it and does not change; a closed segment's last block is
/// its footer.
fn compare(source: &Source, to: &Path, is_finished: &dyn Fn(&Path) -> bool) -> io::Result<Held> {
    let held_bytes = match std::fs::metadata(to) {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Held::Earlier),
        Err(error) => return Err(error),
    };
    let block = |path: &Path, offset| {
        let mut block = Vec::new();
        let mut file = File::open(path)?;
        file.seek(SeekFrom::Start(offset))?;
        file.take(ALIGNMENT_BYTES as u64).read_to_end(&mut block)?;
        Ok::<_, io::Error>(block)
    };
    let last_block = |bytes: u64| bytes.saturating_sub(ALIGNMENT_BYTES as u64);
    let read = block(&source.path, 0).and_then(|first| Ok((first, block(&source.path, last_block(source.bytes))?)));
    let (first, last) = match read {
        Err(error) if is_of_the_device(&error) => return Ok(Held::Other(UNREADABLE)),
        read => read?,
    };
    let held = block(to, 0)?;
    if held != first {
        // Its making was not over when it was copied.
        let was_unborn = held.iter().all(|byte| *byte == 0);
        return Ok(if was_unborn { Held::Earlier } else { Held::Other("it is another file of the same name") });
    }
    let is_same = held_bytes == source.bytes && block(to, last_block(held_bytes))? == last;
    Ok(if is_same && source.is_final {
        Held::Same
    } else if !is_finished(to) {
        Held::Earlier
    } else if held_bytes != source.bytes {
        Held::Other("it has another length")
    } else {
        Held::Other("it ends otherwise")
    })
}

/// Where the copy of a volume lies.
fn place(directory: &Path, volume: VolumeNumber) -> PathBuf {
    directory.join("volumes").join(format!("{:03}", volume.0))
}

/// A copy is not part of what is copied.
fn is_outside(path: &Path, of: &Path) -> Result<(), StoreError> {
    match resolve(path).starts_with(resolve(of)) {
        true => Err(StoreError::Inside { path: path.to_owned(), of: of.to_owned() }),
        false => Ok(()),
    }
}

/// Where a path leads, as far as it is there.
fn resolve(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let there = path.ancestors().find_map(|above| Some((above, above.canonicalize().ok()?)));
    let resolved = there.and_then(|(above, found)| Some(found.join(path.strip_prefix(above).ok()?)));
    resolved.unwrap_or(path)
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

/// A backup has what a store has, and is none: it must not become one by being opened.
pub(crate) fn is_no_backup(io: &dyn Io, home: &Path) -> Result<(), StoreError> {
    match io.size(&home.join(BACKUP_FILE)) {
        Ok(_) => Err(StoreError::IsABackup { path: home.to_owned() }),
        // What else is wrong is told by who looks for a store.
        Err(_) => Ok(()),
    }
}

/// The description of the store that a backup is of; `None` where there is no backup that was ever whole.
fn described(io: &dyn Io, directory: &Path) -> Result<Option<Description>, StoreError> {
    match read_description(io, directory)? {
        Some(_) => Description::read(io, directory),
        None => Ok(None),
    }
}

/// Opens a backup for checking it, where it lies; `None` where there is none. Its catalog is unpacked among the system's temporary files;
/// when that cannot be done, why is told, and the reader has one that was made anew.
#[expect(clippy::type_complexity, reason = "a reader, and what is wrong")]
pub(crate) fn open(directory: &Path) -> Result<Option<(Arc<StoreReader>, Option<CatalogError>)>, StoreError> {
    let io: Arc<dyn Io> = Arc::new(RingIo::new());
    let Some(description) = described(&*io, directory)? else { return Ok(None) };
    let known = description.volumes.iter().map(|known| (known.volume, known.volume_id));
    let volumes: Vec<Volume> = [(VolumeNumber(0), description.store_id)]
        .into_iter()
        .chain(known)
        .map(|(number, id)| {
            let directory = place(directory, number);
            Volume { number, id, present: directory.is_dir(), directory }
        })
        .collect();
    let scratch = scratch_directory()?;
    let catalog = scratch.path().join("catalog");
    if let Err(fault) = sidetone_catalog::restore(&directory.join("catalog"), &catalog) {
        if !may_be_made_anew(&fault) {
            return Err(fault.into());
        }
        drop(scratch);
        let reader = StoreReader::with_catalog_anew(io, directory, description, &volumes)?;
        return Ok(Some((reader, Some(fault))));
    }
    let options = StoreOptions::new(description.node.clone());
    let reader = StoreReader::alone(io, directory, description, (&volumes, options), &catalog, scratch)?;
    Ok(Some((reader, None)))
}

/// What is restored goes into a directory that nobody uses.
fn may_become_a_store(io: &dyn Io, target: &Path) -> Result<(), StoreError> {
    let names = io.list(target).map_err(|source| StoreError::io("list", target, source))?;
    let path = target.to_owned();
    let holds = |parts: &[&str]| names.iter().any(|name| parts.contains(&&**name));
    if holds(&[STORE_FILE]) {
        Err(StoreError::StoreExists { path })
    } else if holds(&[VOLUME_FILE, "journal", "segments", "catalog"]) {
        Err(StoreError::PartsOfAStore { path })
    } else if !is_unused(io, target)? {
        Err(StoreError::ForeignDirectory { path })
    } else {
        Ok(())
    }
}

/// Whether a catalog is at fault, and not the disk or the program that should read it.
pub(crate) fn may_be_made_anew(error: &CatalogError) -> bool {
    matches!(
        error,
        CatalogError::Damaged { .. }
            | CatalogError::Open { .. }
            | CatalogError::Backup { .. }
            | CatalogError::NoBackup { .. }
    )
}

/// What a restore has come to.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct RestoreReport {
    #[serde(flatten)]
    pub done: BackupProgress,
    /// Why the backup's catalog could not be used. Then one was made of the log files that were restored.
    pub catalog_made_anew: Option<String>,
}

/// Makes a store of a backup. `home` is empty or not there, and so are `volumes`: one directory for each volume besides the home,
/// in the order of their numbers. The store is there when this returns; interrupted, it leaves none.
pub fn restore(
    directory: &Path,
    home: &Path,
    volumes: &[PathBuf],
    progress: &mut dyn FnMut(BackupProgress),
) -> Result<RestoreReport, StoreError> {
    let io: Arc<dyn Io> = Arc::new(RingIo::new());
    let mut description =
        described(&*io, directory)?.ok_or_else(|| StoreError::NoBackup { path: directory.to_owned() })?;
    if volumes.len() != description.volumes.len() {
        return Err(StoreError::VolumeCount { wanted: description.volumes.len(), given: volumes.len() });
    }
    let mut targets = vec![(VolumeNumber(0), home.to_owned())];
    for (known, volume) in description.volumes.iter_mut().zip(volumes) {
        *known = KnownVolume { directory: volume.clone(), ..known.clone() };
        targets.push((known.volume, volume.clone()));
    }
    for (_, target) in &targets {
        is_outside(target, directory)?;
        make_directory(&*io, target)?;
        may_become_a_store(&*io, target)?;
    }
    let lock = take_lock(&*io, home)?;
    let mut copying = Copying::new(&*io, directory, BackupOptions::default(), progress);
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
            copying.copy_all(&files, &target.join(part), &|_| false)?;
        }
        if let Some(known) = description.volumes.iter().find(|known| known.volume == *volume) {
            let text = VolumeDescription {
                version: description.version,
                store_id: description.store_id,
                volume: *volume,
                volume_id: known.volume_id,
            };
            text.write(&*io, target)?;
        }
    }
    let catalog = home.join("catalog");
    let restored = sidetone_catalog::restore(&directory.join("catalog"), &catalog);
    let mut damaged = Vec::new();
    if let Err(error) = &restored {
        if !may_be_made_anew(error) {
            return Err(restored.unwrap_err().into());
        }
        tracing::error!(%error, "the catalog of the backup cannot be used: one is made of its log files");
        rebuild::remove(&catalog)?;
        let ids = [(VolumeNumber(0), description.store_id)].into_iter();
        let ids = ids.chain(description.volumes.iter().map(|known| (known.volume, known.volume_id)));
        let volume = |((number, id), (_, target)): ((VolumeNumber, Uuid), &(VolumeNumber, PathBuf))| Volume {
            number,
            id,
            directory: target.clone(),
            present: true,
        };
        let volumes: Vec<Volume> = ids.zip(&targets).map(volume).collect();
        let logs = Logs::new(Arc::clone(&io), description.store_id, &volumes);
        damaged = rebuild::make(&*io, &logs, &catalog, &mut |_| {})?.damaged;
    }
    // From here on it is a store.
    description.write(&*io, home)?;
    if !damaged.is_empty() {
        Store::own_up(home, (lock, description), &catalog, BTreeMap::new(), damaged)?;
    }
    Ok(RestoreReport { done: copying.done, catalog_made_anew: restored.err().map(|error| error.to_string()) })
}
