//! The volumes of a store: which there are, where they lie, and which of them can be found.
//!
//! Constraints: a directory that is not proven to be a volume of this store is never written to, unless it is empty and was to
//! become one. A volume that cannot be found is no error: the store opens without it and says so.

use crate::StoreError;
use crate::description::{Description, KnownVolume, STORE_VERSION, VolumeDescription, is_unused, make_directory};
use sidetone_log::{Io, VolumeNumber, random_id};
use std::io;
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// A directory with a journal and segments.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Volume {
    pub(crate) number: VolumeNumber,
    pub(crate) id: Uuid,
    pub(crate) directory: PathBuf,
    /// Found when the store was opened. Never written to otherwise.
    pub(crate) present: bool,
}

impl Volume {
    pub(crate) fn journal(&self) -> PathBuf {
        self.directory.join("journal")
    }

    pub(crate) fn segments(&self) -> PathBuf {
        self.directory.join("segments")
    }
}

/// The home volume and those that the description names, ascending; nothing is changed.
pub(crate) fn locate(io: &dyn Io, home: &Path, description: &Description) -> Result<Vec<Volume>, StoreError> {
    let mut volumes = vec![home_volume(home, description)];
    for known in &description.volumes {
        let found = look(io, &known.directory, description.store_id);
        let present = matches!(&found, Ok(Found::Volume(found))
            if found.volume == known.volume && found.volume_id == known.volume_id);
        if !present {
            tracing::error!(volume = known.volume.0, directory = %known.directory.display(),
                error = found.err().map(tracing::field::display), "a volume of the store is missing");
        }
        volumes.push(Volume { number: known.volume, id: known.volume_id, directory: known.directory.clone(), present });
    }
    Ok(volumes)
}

/// As [`locate`], after a look at the directories of the configuration: volumes that moved are found, and new ones made when
/// `create` says so. Changes the description on disk when there is anything new in it.
pub(crate) fn open(
    io: &dyn Io,
    home: &Path,
    description: &mut Description,
    directories: &[PathBuf],
    create: bool,
) -> Result<Vec<Volume>, StoreError> {
    let mut remembered = description.volumes.clone();
    let mut seen: Vec<VolumeNumber> = Vec::new();
    for directory in directories {
        let is_remembered = remembered.iter().any(|known| known.directory == *directory);
        let found = match look(io, directory, description.store_id) {
            Ok(Found::Volume(found)) => found,
            // One of ours was mounted here; `locate` tells that it is missing.
            _ if is_remembered => continue,
            Err(error) => return Err(error),
            Ok(Found::Nothing) => continue,
            Ok(Found::Unused) if create => {
                let next = remembered.iter().map(|known| known.volume.0).max().unwrap_or(0).checked_add(1);
                let number = next.ok_or_else(|| StoreError::TooManyVolumes { path: directory.clone() })?;
                match make_volume(io, directory, description.store_id, VolumeNumber(number)) {
                    Err(StoreError::Io { source, .. }) => {
                        tracing::error!(directory = %directory.display(), error = %source,
                            "no volume could be made of a directory: the store opens without it");
                        continue;
                    }
                    made => made?,
                }
            }
            Ok(Found::Unused) => {
                tracing::warn!(directory = %directory.display(),
                    "an empty directory, and no volume of the store: mount its file system, or start once with create_volumes = true, \
                     which makes a volume of it");
                continue;
            }
        };
        if seen.contains(&found.volume) {
            return Err(StoreError::VolumeTwice { path: directory.clone(), volume: found.volume });
        }
        seen.push(found.volume);
        match remembered.iter_mut().find(|known| known.volume == found.volume) {
            Some(known) if known.volume_id != found.volume_id => {
                return Err(StoreError::ForeignVolume { path: directory.clone() });
            }
            Some(known) => known.directory = directory.clone(),
            None => remembered.push(KnownVolume {
                volume: found.volume,
                volume_id: found.volume_id,
                directory: directory.clone(),
            }),
        }
    }
    remembered.sort_by_key(|known| known.volume);
    if remembered != description.volumes {
        description.volumes = remembered;
        description.write(io, home)?;
    }
    locate(io, home, description)
}

fn home_volume(home: &Path, description: &Description) -> Volume {
    Volume { number: VolumeNumber(0), id: description.store_id, directory: home.to_owned(), present: true }
}

enum Found {
    Volume(VolumeDescription),
    /// Empty, or not there yet: may become a volume.
    Unused,
    /// Not readable.
    Nothing,
}

/// What lies in a directory that may be a volume. That its disk does not answer is no error.
fn look(io: &dyn Io, directory: &Path, store_id: Uuid) -> Result<Found, StoreError> {
    match VolumeDescription::read(io, directory) {
        Ok(Some(found)) if found.store_id == store_id && found.volume.0 > 0 => Ok(Found::Volume(found)),
        Ok(Some(_)) => Err(StoreError::ForeignVolume { path: directory.to_owned() }),
        Ok(None) => match io.list(directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Found::Unused),
            Err(error) => {
                tracing::error!(directory = %directory.display(), %error, "cannot look into a volume");
                Ok(Found::Nothing)
            }
            Ok(_) if is_unused(io, directory)? => Ok(Found::Unused),
            Ok(_) => Err(StoreError::ForeignDirectory { path: directory.to_owned() }),
        },
        Err(StoreError::Io { source, .. }) => {
            tracing::error!(directory = %directory.display(), error = %source, "cannot look into a volume");
            Ok(Found::Nothing)
        }
        Err(error) => Err(error),
    }
}

fn make_volume(
    io: &dyn Io,
    directory: &Path,
    store_id: Uuid,
    volume: VolumeNumber,
) -> Result<VolumeDescription, StoreError> {
    make_directory(io, directory)?;
    let volume_id = random_id(io).map_err(|source| StoreError::io("draw a number for", directory, source))?;
    let made = VolumeDescription { version: STORE_VERSION, store_id, volume, volume_id };
    made.write(io, directory)?;
    tracing::info!(volume = volume.0, directory = %directory.display(), "a volume was made");
    Ok(made)
}
