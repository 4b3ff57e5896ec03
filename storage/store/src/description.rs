//! `sidetone-store.json` and `sidetone-volume.json`: who a store is, and which volumes it has. The first one's being there makes
//! a directory a store; the second makes a directory one of its volumes.

use crate::StoreError;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sidetone_log::{Io, VolumeNumber, random_id};
use sidetone_model::{CaptureTime, NodeName};
use std::io;
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// Version of the store's layout. A later one is refused; the ones before were never released.
pub(crate) const STORE_VERSION: u32 = 2;
pub(crate) const STORE_FILE: &str = "sidetone-store.json";
pub(crate) const VOLUME_FILE: &str = "sidetone-volume.json";
/// What may lie in a directory that becomes a store or a volume: remains of an interrupted creation, and of the file
/// system's own making. No log and no catalog: they were made for a description that is lost.
const IGNORED_NAMES: [&str; 3] = ["lock", "lost+found", "probe"];

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Description {
    pub(crate) version: u32,
    pub(crate) store_id: Uuid,
    /// The appliance that made the store.
    pub(crate) node: NodeName,
    pub(crate) created_at: CaptureTime,
    /// The volumes besides the store directory, ascending.
    #[serde(default)]
    pub(crate) volumes: Vec<KnownVolume>,
}

/// A volume as the store remembers it, also while it is missing.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct KnownVolume {
    pub(crate) volume: VolumeNumber,
    pub(crate) volume_id: Uuid,
    /// Where it was last.
    pub(crate) directory: PathBuf,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct VolumeDescription {
    pub(crate) version: u32,
    pub(crate) store_id: Uuid,
    pub(crate) volume: VolumeNumber,
    pub(crate) volume_id: Uuid,
}

/// Only the version, which is understood before all else.
#[derive(Deserialize)]
struct Version {
    version: u32,
}

impl Description {
    pub(crate) fn new(io: &dyn Io, node: &NodeName) -> io::Result<Self> {
        Ok(Self {
            version: STORE_VERSION,
            store_id: random_id(io)?,
            node: node.clone(),
            created_at: io.now(),
            volumes: Vec::new(),
        })
    }

    /// The description in `home`; `None` when there is none.
    ///
    /// # Errors
    /// Also when what it described is there without it.
    pub(crate) fn read(io: &dyn Io, home: &Path) -> Result<Option<Self>, StoreError> {
        let found = read(io, home, STORE_FILE)?;
        if found.is_none() && holds_logs(io, home) {
            let path = home.to_owned();
            return Err(match io.size(&home.join(VOLUME_FILE)) {
                Ok(_) => StoreError::OnlyAVolume { path },
                Err(_) => StoreError::DescriptionMissing { path },
            });
        }
        Ok(found)
    }

    /// It appears whole or not at all.
    pub(crate) fn write(&self, io: &dyn Io, home: &Path) -> Result<(), StoreError> {
        write(io, home, STORE_FILE, self)
    }
}

impl VolumeDescription {
    pub(crate) fn read(io: &dyn Io, directory: &Path) -> Result<Option<Self>, StoreError> {
        read(io, directory, VOLUME_FILE)
    }

    pub(crate) fn write(&self, io: &dyn Io, directory: &Path) -> Result<(), StoreError> {
        write(io, directory, VOLUME_FILE, self)
    }
}

fn read<T: DeserializeOwned>(io: &dyn Io, directory: &Path, name: &str) -> Result<Option<T>, StoreError> {
    let path = directory.join(name);
    let text = match io.read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            return Err(StoreError::ForeignDirectory { path: directory.to_owned() });
        }
        Err(error) => return Err(StoreError::io("read", path, error)),
    };
    let bad = |error: serde_json::Error| StoreError::BadDescription { path: path.clone(), what: error.to_string() };
    let Version { version } = serde_json::from_slice(&text).map_err(bad)?;
    if version > STORE_VERSION {
        return Err(StoreError::NewerVersion { path: directory.to_owned(), version, readable: STORE_VERSION });
    }
    if version < STORE_VERSION {
        let what = format!("version {version} was never released");
        return Err(StoreError::BadDescription { path, what });
    }
    serde_json::from_slice(&text).map(Some).map_err(bad)
}

fn write<T: Serialize>(io: &dyn Io, directory: &Path, name: &str, what: &T) -> Result<(), StoreError> {
    let text = serde_json::to_string_pretty(what).expect("a description has only plain fields") + "\n";
    let path = directory.join(name);
    io.write_small(&path, text.as_bytes()).map_err(|source| StoreError::io("write", path, source))
}

/// Whether files of journals or segments lie in a directory, as far as can be seen.
pub(crate) fn holds_logs(io: &dyn Io, directory: &Path) -> bool {
    ["journal", "segments"].iter().any(|part| io.list(&directory.join(part)).is_ok_and(|names| !names.is_empty()))
}

/// Whether a directory may become a store or a volume: nobody else uses it.
pub(crate) fn is_unused(io: &dyn Io, directory: &Path) -> Result<bool, StoreError> {
    let names = io.list(directory).map_err(|source| StoreError::io("list", directory, source))?;
    let is_remains = |name: &str| {
        let made_by_us = [STORE_FILE, VOLUME_FILE].iter().any(|file| name.starts_with(file) && name != *file);
        IGNORED_NAMES.contains(&name) || made_by_us
    };
    Ok(names.iter().all(|name| is_remains(name)))
}

/// Makes the directory and those above it, durably; that one of them is there already is no error.
pub(crate) fn make_directory(io: &dyn Io, directory: &Path) -> Result<(), StoreError> {
    let foreign = || StoreError::ForeignDirectory { path: directory.to_owned() };
    let parent = directory.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // Also when it is there: the process that made it may have died before this.
    let sync = || io.sync_directory(parent).map_err(|source| StoreError::io("sync", parent, source));
    match io.list(directory) {
        Ok(_) => return sync(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => return Err(foreign()),
        Err(error) => return Err(StoreError::io("list", directory, error)),
    }
    if parent != directory {
        make_directory(io, parent)?;
    }
    match io.create_directory(directory) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => return Err(foreign()),
        Err(error) => return Err(StoreError::io("create", directory, error)),
    }
    sync()
}
