//! What an operator needs to know of a store.

use crate::VolumeState;
use serde::{Deserialize, Serialize};
use sidetone_catalog::CatalogStatistics;
use sidetone_log::{JournalStatistics, VolumeNumber};
use sidetone_model::NodeName;
use std::path::PathBuf;
use uuid::Uuid;

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct StoreStatistics {
    pub store_id: Uuid,
    pub node: NodeName,
    pub catalog: CatalogStatistics,
    /// All of the store's, ascending.
    pub volumes: Vec<VolumeStatistics>,
    /// Absent when the store is only being read.
    pub writer: Option<WriterStatistics>,
    pub keeper: Option<KeeperStatistics>,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct VolumeStatistics {
    pub volume: VolumeNumber,
    pub volume_id: Uuid,
    pub directory: PathBuf,
    pub state: VolumeState,
    /// What an unprivileged process could still write to this file system, and its size.
    pub free_bytes: u64,
    pub total_bytes: u64,
    /// Space taken on disk, what is preallocated included.
    pub journal_files: u64,
    pub journal_bytes: u64,
    pub segment_files: u64,
    pub segment_bytes: u64,
    /// Recordings whose audio goes there at present.
    pub recordings: u64,
    pub faults: Faults,
    /// Absent when the store is only being read, and while the volume's journal could not be opened.
    pub journal: Option<JournalStatistics>,
}

/// How often a volume failed, by what it said.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Faults {
    pub no_space: u64,
    pub read_only: u64,
    pub permission: u64,
    /// Everything else that a device or a file system reports.
    pub io: u64,
    /// Did not answer in time.
    pub stalled: u64,
}

impl Faults {
    pub fn total(&self) -> u64 {
        self.no_space + self.read_only + self.permission + self.io + self.stalled
    }
}

/// Counters of the writer since the store was opened.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct WriterStatistics {
    /// Made durable; a fact counts once, on however many volumes it is.
    pub chunks: u64,
    pub facts: u64,
    /// Bytes of these records, on one volume.
    pub bytes: u64,
    /// Chunks refused because no volume takes new recordings, or audio at all.
    pub chunks_refused_new: u64,
    pub chunks_refused: u64,
    /// Records appended that are not durable yet.
    pub backlog: u64,
    /// Facts that wait until the audio of their recording is durable.
    pub held_facts: u64,
    /// Records taken back from a failed volume that no other has taken yet, and their bytes.
    pub stranded: u64,
    pub stranded_bytes: u64,
    /// Batches that the keeper has to read from the journals because it was behind.
    pub batches_dropped: u64,
}

/// Counters of the keeper since the store was opened.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct KeeperStatistics {
    /// Records that were read from the journals for the catalog: when the store was opened, and when the keeper was behind.
    pub caught_up_records: u64,
    pub catch_ups: u64,
    /// Places of journals and segments that could not be read, and what they cost is in no catalog.
    pub damaged_places: u64,
    /// Longest and last time that applying one batch to the catalog took.
    pub apply_ns_max: u64,
    pub apply_ns_last: u64,
    pub catalog_failures: u64,
    /// Runs copied into segments, their chunks and the bytes of these.
    pub sealed_runs: u64,
    pub sealed_chunks: u64,
    pub sealed_bytes: u64,
    /// Chunks that were damaged when they should be sealed; their recordings are incomplete.
    pub damaged_chunks: u64,
    pub seal_failures: u64,
    /// Recordings that need a journal, and the bytes of audio that lie only there.
    pub pending_recordings: u64,
    pub unsealed_bytes: u64,
    /// Age of the oldest audio that lies only in a journal.
    pub unsealed_seconds_max: u64,
    pub segments_begun: u64,
    pub segments_closed: u64,
    /// Runs that a crash had left in segments unannounced.
    pub adopted_runs: u64,
    /// Facts copied into segments without audio, and facts written to the journals again so that old files can go.
    pub facts_copied: u64,
    pub facts_renewed: u64,
    pub retired_files: u64,
    pub retired_bytes: u64,
}
