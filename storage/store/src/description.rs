//! `sidetone-store.json`: who a store is. Its being there makes a directory a store.

use crate::StoreError;
use serde::{Deserialize, Serialize};
use sidetone_model::{CaptureTime, NodeName};
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// Version of the store's layout. A later one is refused.
pub(crate) const STORE_VERSION: u32 = 1;
const FILE_NAME: &str = "sidetone-store.json";
/// What may lie in a directory that becomes a store: remains of an interrupted creation, and of the file system's own making.
const IGNORED_NAMES: [&str; 4] = ["lock", "sidetone-store.json.new", "lost+found", "journal"];
const DESCRIPTION_BYTES_MAX: u64 = 64 << 10;

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Description {
    pub(crate) version: u32,
    pub(crate) store_id: uuid::Uuid,
    /// The appliance that made the store.
    pub(crate) node: NodeName,
    pub(crate) created_at: CaptureTime,
}

/// Only the version, which is understood before all else.
#[derive(Deserialize)]
struct Version {
    version: u32,
}

pub(crate) fn path(directory: &Path) -> PathBuf {
    directory.join(FILE_NAME)
}

/// The description in `directory`; `None` when there is none.
pub(crate) fn read(directory: &Path) -> Result<Option<Description>, StoreError> {
    let path = path(directory);
    let mut text = Vec::new();
    match File::open(&path).and_then(|file| file.take(DESCRIPTION_BYTES_MAX).read_to_end(&mut text)) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            return Err(StoreError::ForeignDirectory { path: directory.to_owned() });
        }
        Err(error) => return Err(StoreError::io("read", path, error)),
    }
    let bad = |error: serde_json::Error| StoreError::BadDescription { path: path.clone(), what: error.to_string() };
    let Version { version } = serde_json::from_slice(&text).map_err(bad)?;
    if version > STORE_VERSION {
        return Err(StoreError::NewerVersion { path: directory.to_owned(), version, readable: STORE_VERSION });
    }
    serde_json::from_slice(&text).map(Some).map_err(bad)
}

/// Refuses a directory that somebody else uses.
pub(crate) fn check_unused(directory: &Path) -> Result<(), StoreError> {
    let entries = std::fs::read_dir(directory).map_err(|source| StoreError::io("list", directory, source))?;
    for entry in entries {
        let entry = entry.map_err(|source| StoreError::io("list", directory, source))?;
        if !IGNORED_NAMES.iter().any(|&name| entry.file_name() == name) {
            return Err(StoreError::ForeignDirectory { path: directory.to_owned() });
        }
    }
    Ok(())
}

/// Makes `directory` a store. The description appears whole or not at all.
pub(crate) fn create(directory: &Path, description: &Description) -> Result<(), StoreError> {
    let (path, new) = (path(directory), directory.join("sidetone-store.json.new"));
    let text = serde_json::to_string_pretty(description).expect("a description has only plain fields") + "\n";
    File::create(&new)
        .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()))
        .map_err(|source| StoreError::io("write", &new, source))?;
    std::fs::rename(&new, &path).map_err(|source| StoreError::io("rename", &new, source))?;
    sync_directory(directory)
}

pub(crate) fn sync_directory(directory: &Path) -> Result<(), StoreError> {
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(|source| StoreError::io("sync", directory, source))
}
