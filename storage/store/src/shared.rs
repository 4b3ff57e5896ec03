//! What the parts of an open store have in common.

use crate::annotate::Annotating;
use crate::description::Description;
use crate::options::StoreOptions;
use crate::sabotage::Sabotage;
use crate::volume::Volume;
use crate::{Faults, KeeperStatistics, VolumeState, WriterStatistics};
use sidetone_catalog::Catalog;
use sidetone_log::{Identity, Io, JournalStatistics, LogError, OpenFiles, VolumeNumber};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub(crate) struct Shared {
    pub(crate) io: Arc<dyn Io>,
    pub(crate) catalog: Arc<dyn Catalog>,
    pub(crate) home: PathBuf,
    pub(crate) description: Description,
    pub(crate) options: StoreOptions,
    /// Ascending by number.
    pub(crate) volumes: Vec<Arc<SharedVolume>>,
    pub(crate) files: OpenFiles,
    pub(crate) annotating: Mutex<Annotating>,
    pub(crate) writer: Mutex<WriterStatistics>,
    pub(crate) keeper: Mutex<KeeperStatistics>,
    /// So many want that no journal file goes at present.
    pub(crate) retirement_holds: AtomicU32,
    /// Tests only.
    pub(crate) sabotage: Option<Sabotage>,
    /// Behind everything else: the store is free when the rest is gone.
    pub(crate) _lock: Option<crate::open::Lock>,
}

/// One volume as writer and keeper share it.
pub(crate) struct SharedVolume {
    pub(crate) volume: Volume,
    /// What its free space allows: `Ok` ..= `Reserve`.
    space: AtomicU8,
    /// `Ok`, or why it cannot be written.
    fault: AtomicU8,
    pub(crate) free_bytes: AtomicU64,
    pub(crate) total_bytes: AtomicU64,
    /// The keeper could write to it: the writer may try again.
    pub(crate) may_retry: AtomicBool,
    pub(crate) recordings: AtomicU64,
    /// The catalog may not know everything that it holds.
    pub(crate) unread: AtomicBool,
    pub(crate) details: Mutex<VolumeDetails>,
}

#[derive(Clone, Default)]
pub(crate) struct VolumeDetails {
    pub(crate) faults: Faults,
    pub(crate) journal: Option<JournalStatistics>,
    pub(crate) journal_files: u64,
    pub(crate) journal_bytes: u64,
    pub(crate) segment_files: u64,
    pub(crate) segment_bytes: u64,
}

impl Shared {
    pub(crate) fn volume(&self, number: VolumeNumber) -> Option<&Arc<SharedVolume>> {
        self.volumes.iter().find(|volume| volume.volume.number == number)
    }

    pub(crate) fn numbers(&self) -> Vec<VolumeNumber> {
        self.volumes.iter().map(|volume| volume.volume.number).collect()
    }

    pub(crate) fn identity(&self, volume: &Volume) -> Identity {
        Identity {
            store_id: self.description.store_id,
            volume: volume.number,
            volume_id: volume.id,
            node: self.options.node.clone(),
        }
    }

    pub(crate) fn states(&self) -> Vec<(VolumeNumber, VolumeState)> {
        self.volumes.iter().map(|volume| (volume.volume.number, volume.state())).collect()
    }

    pub(crate) fn keeper(&self) -> MutexGuard<'_, KeeperStatistics> {
        lock(&self.keeper)
    }
}

impl SharedVolume {
    pub(crate) fn new(volume: Volume) -> Self {
        let fault = if volume.present { VolumeState::Ok } else { VolumeState::Missing };
        Self {
            volume,
            space: AtomicU8::new(VolumeState::Ok as u8),
            fault: AtomicU8::new(fault as u8),
            free_bytes: AtomicU64::new(0),
            total_bytes: AtomicU64::new(0),
            may_retry: AtomicBool::new(false),
            recordings: AtomicU64::new(0),
            unread: AtomicBool::new(fault == VolumeState::Missing),
            details: Mutex::default(),
        }
    }

    pub(crate) fn state(&self) -> VolumeState {
        self.space().max(self.fault())
    }

    pub(crate) fn space(&self) -> VolumeState {
        VolumeState::ALL[usize::from(self.space.load(Ordering::Acquire))]
    }

    pub(crate) fn set_space(&self, state: VolumeState) {
        assert!(state.takes_facts(), "{state} is no matter of free space");
        self.space.store(state as u8, Ordering::Release);
    }

    pub(crate) fn fault(&self) -> VolumeState {
        VolumeState::ALL[usize::from(self.fault.load(Ordering::Acquire))]
    }

    pub(crate) fn set_fault(&self, state: VolumeState) {
        self.fault.store(state as u8, Ordering::Release);
    }

    pub(crate) fn details(&self) -> MutexGuard<'_, VolumeDetails> {
        lock(&self.details)
    }

    /// Counts a fault and gives the state it puts the volume in.
    pub(crate) fn count_fault(&self, error: &LogError) -> VolumeState {
        let kind = io_kind(error);
        let faults = &mut self.details().faults;
        match kind {
            Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => {
                faults.no_space += 1;
                return VolumeState::Full;
            }
            Some(io::ErrorKind::ReadOnlyFilesystem) => faults.read_only += 1,
            Some(io::ErrorKind::PermissionDenied) => faults.permission += 1,
            _ => faults.io += 1,
        }
        VolumeState::Failed
    }
}

/// What the system said, when it is the system's error.
pub(crate) fn io_kind(error: &LogError) -> Option<io::ErrorKind> {
    match error {
        LogError::Io { source, .. } | LogError::NoSpace { source, .. } | LogError::Permission { source, .. } => {
            Some(source.kind())
        }
        LogError::BuffersFull { source } => io_kind(source),
        _ => None,
    }
}

/// Whether the error is about one volume's device, and not about what somebody wants of it.
pub(crate) fn is_fault(error: &LogError) -> bool {
    io_kind(error).is_some() || matches!(error, LogError::Failed { .. })
}

/// Whether a device has failed for good, as far as can be told: a bad block, or a device that is gone. Not that this process
/// has too many files open, or no memory.
pub(crate) fn is_of_the_device(error: &io::Error) -> bool {
    const EIO: i32 = 5;
    const ENXIO: i32 = 6;
    const ENODEV: i32 = 19;
    matches!(error.raw_os_error(), Some(EIO | ENXIO | ENODEV))
}

/// Whether reading may succeed another time: the volume may come back, a limit may be gone.
pub(crate) fn may_pass(error: &LogError) -> bool {
    match error {
        LogError::Io { source, .. } => !is_of_the_device(source),
        LogError::NoSpace { .. } | LogError::Permission { .. } | LogError::Failed { .. } | LogError::Retired { .. } => {
            true
        }
        _ => false,
    }
}

pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
