//! What can go wrong with a store.

use crate::VolumeState;
use sidetone_catalog::CatalogError;
use sidetone_log::{LogError, VolumeNumber};
use sidetone_model::RecordingId;
use std::io;
use std::path::PathBuf;

/// Each message names the cause and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("there is no store in {}: check the path, or let one be created", path.display())]
    NotFound { path: PathBuf },
    #[error(
        "{} holds journals or segments, but {} is missing, which makes a store of them: copy that file from a backup of this store, \
         where it has the same name; what an interrupted `store restore` has left can be removed, and restored again",
        path.display(), crate::description::STORE_FILE
    )]
    DescriptionMissing { path: PathBuf },
    #[error("{} is a volume of a store, and not the directory that makes it one: name that", path.display())]
    OnlyAVolume { path: PathBuf },
    #[error("{} holds files but no store: name an empty or a new directory", path.display())]
    ForeignDirectory { path: PathBuf },
    #[error("{} is a volume of another store: name this store's volume, or an empty directory", path.display())]
    ForeignVolume { path: PathBuf },
    #[error("{} is volume {}, which another directory is too: leave one of them out", path.display(), volume.0)]
    VolumeTwice { path: PathBuf, volume: VolumeNumber },
    #[error("{} cannot become a volume: a store has 256 at most", path.display())]
    TooManyVolumes { path: PathBuf },
    #[error("the store in {} was written in version {version}; this program reads up to {readable}: use a newer one", path.display())]
    NewerVersion { path: PathBuf, version: u32, readable: u32 },
    #[error("{} cannot be read as a store's description: {what}", path.display())]
    BadDescription { path: PathBuf, what: String },
    #[error("the store in {} is in use by process {process}: stop that one first, or use another directory (`sidetone recordings` and `store` may read this one meanwhile)", path.display())]
    Locked { path: PathBuf, process: String },
    #[error("no permission to {operation} {}: run as the user that owns the store, or correct its mode", path.display())]
    Permission {
        operation: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} is on a file system that is mounted read-only: mount it for writing, or use another directory", path.display())]
    ReadOnly {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("no space left for {}: free some on this file system", path.display())]
    NoSpace {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot {operation} {}: {source}", path.display())]
    Io {
        operation: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the catalog of the store in {} knows more than the journal in {} holds: put the missing journal files back, or have the catalog made again from what is there, with `sidetone store rebuild --store {}` (`--accept-missing` when they are gone for good)", home.display(), journal.display(), home.display())]
    CatalogAhead { home: PathBuf, journal: PathBuf },
    #[error("the new catalog misses {missing} recordings that the old one has, or part of them, or their audio lies in files that are gone ({}): the old one stays. Put back the segments, journal files and volumes that are gone (`sidetone store verify` names them), or accept the loss with `--accept-missing`", named(*missing, some))]
    RecordingsMissing { missing: u64, some: Vec<RecordingId> },
    #[error(
        "the new catalog cannot be held against the old one, which stays: {source} (--accept-missing takes the new one as it is)"
    )]
    OldCatalog { source: CatalogError },
    #[error("no volume takes a new recording: {}", list(states))]
    NoVolumeForNew { states: Vec<(VolumeNumber, VolumeState)> },
    #[error("no volume takes audio: {}", list(states))]
    NoVolumeForAudio { states: Vec<(VolumeNumber, VolumeState)> },
    #[error("no volume can be written: {}", list(states))]
    NoVolume { states: Vec<(VolumeNumber, VolumeState)> },
    #[error("too much waits to be written: try again")]
    Busy,
    #[error("it was not written in time: it may be later")]
    TimedOut,
    #[error("the store is closed")]
    Closed,
    #[error("there is no recording {recording}")]
    NoRecording { recording: RecordingId },
    #[error("such an annotation is not possible: {what}")]
    BadAnnotation { what: String },
    #[error("the audio is on volume {}, which is missing: mount it", volume.0)]
    VolumeMissing { volume: VolumeNumber },
    #[error("{} holds something that is no backup of this store: name an empty directory, or this store's backup", path.display())]
    NotABackup { path: PathBuf },
    #[error("{} is a backup: make a store of it with `sidetone store restore`", path.display())]
    IsABackup { path: PathBuf },
    #[error("there is no backup in {} that was ever finished: check the path", path.display())]
    NoBackup { path: PathBuf },
    #[error("{} lies in {}, which it is a copy of: name a directory elsewhere", path.display(), of.display())]
    Inside { path: PathBuf, of: PathBuf },
    #[error("{} is not there: mount its file system, or say `--parents` to have it made", path.display())]
    NoParent { path: PathBuf },
    #[error("there is a store in {} already: name a new directory, or move that one away", path.display())]
    StoreExists { path: PathBuf },
    #[error("{} holds a volume or parts of a store: if an interrupted restore has left them, remove them and restore again; else name a new directory", path.display())]
    PartsOfAStore { path: PathBuf },
    #[error(
        "the backup is of a store with {wanted} volumes besides its directory, and {given} directories are named for them"
    )]
    VolumeCount { wanted: usize, given: usize },
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Catalog(#[from] CatalogError),
}

impl StoreError {
    pub(crate) fn io(operation: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        let path = path.into();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::NoSpace { path, source },
            io::ErrorKind::ReadOnlyFilesystem => Self::ReadOnly { path, source },
            io::ErrorKind::PermissionDenied => Self::Permission { operation, path, source },
            _ => Self::Io { operation, path, source },
        }
    }
}

fn list(states: &[(VolumeNumber, VolumeState)]) -> String {
    let one = |(volume, state): &(VolumeNumber, VolumeState)| format!("volume {} is {state}", volume.0);
    states.iter().map(one).collect::<Vec<_>>().join(", ")
}

fn named(missing: u64, some: &[RecordingId]) -> String {
    let ids: Vec<String> = some.iter().map(ToString::to_string).collect();
    let more = if missing > some.len() as u64 { ", …" } else { "" };
    ids.join(", ") + more
}
