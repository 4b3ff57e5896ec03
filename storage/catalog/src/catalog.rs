//! What a catalog does: the trait that every catalog answers, and the types of its answers.

use crate::{CatalogError, Changes, Filter, Query, RecordingPage};
use serde::{Deserialize, Serialize};
use sidetone_log::{FactRecord, FactSequence, Located, LogPosition, Run, SegmentNumber, VolumeNumber};
use sidetone_model::{Annotations, Recording, RecordingId, RecordingState, SavedCall, Tick, TrackId};
use std::collections::BTreeMap;
use std::path::Path;

/// The catalog of recordings: a projection of the log, which can be thrown away and made again.
///
/// A recording as it is shown is the newest document of the log, with the newest annotations, and with the proof once it
/// is over and all its audio lies in runs.
pub trait Catalog: Send + Sync {
    /// Brings `changes` in and notes that everything before the positions `applied` is in the catalog. All of it shows at
    /// once, or nothing after an error. It is durable after [`Self::persist`]; a crash before takes back whole calls, the
    /// newest first.
    ///
    /// The same changes again, or in another order, in other batches: the catalog is the same. An applied position only
    /// ever grows.
    fn apply(&self, changes: &Changes, applied: &[(VolumeNumber, LogPosition)]) -> Result<(), CatalogError>;

    /// For each volume: everything in its journal before this position is in the catalog.
    fn applied(&self) -> Result<BTreeMap<VolumeNumber, LogPosition>, CatalogError>;

    /// The highest sequence among the facts applied.
    fn sequence(&self) -> Result<FactSequence, CatalogError>;

    /// Everything applied is durable when this returns.
    fn persist(&self) -> Result<(), CatalogError>;

    /// Begins anew with what is on the disk, after an error that came from there. What was applied since the last
    /// [`Self::persist`] may be gone: [`Self::applied`] tells. After an error everything can still be read, as long as the
    /// disk can.
    ///
    /// # Errors
    /// As long as the disk takes no writes. [`CatalogError::Damaged`], for good, when [`Self::apply`] has met damage.
    fn reopen(&self) -> Result<(), CatalogError>;

    /// Brings a catalog that was opened for reading up to date with the process that writes it. Does nothing in that.
    fn refresh(&self) -> Result<(), CatalogError>;

    fn recording(&self, recording: RecordingId) -> Result<Option<Recording>, CatalogError>;

    /// One page of the recordings that match, newest first. The work for a page is bounded.
    fn search(&self, query: &Query) -> Result<RecordingPage, CatalogError>;

    /// How many recordings match: exact up to [`COUNT_EXACT_MAX`](crate::COUNT_EXACT_MAX), beyond an estimate.
    fn count(&self, filter: &Filter) -> Result<Count, CatalogError>;

    /// The chunks of a track that lie in journals and hold any grid step in `[from, to)`, in grid order. Of a chunk that
    /// was appended several times, the last place in the order of (volume, position).
    fn journal_chunks(
        &self,
        recording: RecordingId,
        track: TrackId,
        from: Tick,
        to: Tick,
    ) -> Result<Vec<ChunkLocation>, CatalogError>;

    /// Every place of every chunk of a recording that lies in a journal, in the order of (track, first grid step, volume,
    /// position).
    fn unsealed(&self, recording: RecordingId) -> Result<Vec<ChunkLocation>, CatalogError>;

    /// All runs of a recording, in the order of (first grid step, volume, segment, offset).
    fn runs(&self, recording: RecordingId) -> Result<Vec<Run>, CatalogError>;

    /// Up to which offset a segment is known to be durable; 0 when nothing is known.
    fn segment_end(&self, volume: VolumeNumber, segment: SegmentNumber) -> Result<u64, CatalogError>;

    /// The segments of a volume of which something is known to be durable, ascending, and up to which offset.
    fn segment_ends(&self, volume: VolumeNumber) -> Result<Vec<(SegmentNumber, u64)>, CatalogError>;

    /// Every recording that needs a journal: for audio that is in no run, or for its newest facts. In the order of their
    /// identifiers; the nil identifier stands for the facts that are about no recording.
    fn pending(&self) -> Result<Vec<Pending>, CatalogError>;

    /// The facts that hold for a recording, as they stood in the log: its document without `resume`, its annotations.
    /// For the nil identifier, all facts that are about no recording, in the order of their sequence.
    fn facts(&self, recording: RecordingId) -> Result<Vec<HeldFact>, CatalogError>;

    /// Recordings about which a volume has to get facts ([`Changes::owe`]), in the order of their identifiers: at most
    /// `limit`, behind `after`.
    fn owed(
        &self,
        volume: VolumeNumber,
        after: Option<RecordingId>,
        limit: usize,
    ) -> Result<Vec<RecordingId>, CatalogError>;

    /// What is said of a recording; nothing when nobody said anything.
    fn annotations(&self, recording: RecordingId) -> Result<Annotations, CatalogError>;

    /// Every active recording with the call tracker's state (null where none was stored), oldest first.
    fn active_with_resume(&self) -> Result<Vec<(Recording, SavedCall)>, CatalogError>;

    /// Whether a capture file with this digest was replayed to its end.
    fn has_replayed(&self, digest: &str) -> Result<bool, CatalogError>;

    fn statistics(&self) -> Result<CatalogStatistics, CatalogError>;

    /// Adds a backup of this moment to the directory, which holds any number of them and is made when it is not there.
    /// Only what no earlier backup holds is copied. Reading and writing go on meanwhile.
    fn backup(&self, directory: &Path, progress: &mut dyn FnMut(BackupProgress)) -> Result<(), CatalogError>;
}

/// How many recordings match.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Count {
    pub recordings: u64,
    /// False: an estimate.
    pub exact: bool,
}

/// Where a chunk lies in a journal, and what it covers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ChunkLocation {
    pub track: TrackId,
    pub volume: VolumeNumber,
    pub first_tick: Tick,
    pub ticks: u16,
    pub packets: u16,
    pub located: Located,
}

/// What of a recording lies in journals only.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pending {
    pub recording: RecordingId,
    /// Absent while no document of the recording has come.
    pub state: Option<RecordingState>,
    /// For each volume whose journal is needed, the oldest position of a chunk or of a newest fact there.
    pub oldest: Vec<(VolumeNumber, LogPosition)>,
    /// The first grid step of audio that is in no run; absent when only facts need the journal.
    pub first_tick: Option<Tick>,
    /// Chunks that are in no run, and the bytes of their records. A chunk that was appended twice counts twice.
    pub unsealed_chunks: u64,
    pub unsealed_bytes: u64,
}

/// A fact that holds, and where it is needed.
#[derive(Clone, PartialEq, Debug)]
pub struct HeldFact {
    pub record: FactRecord,
    /// Where it lies in journals that are not settled yet (see [`Changes::settle`]); empty when it is in segments.
    pub places: Vec<(VolumeNumber, LogPosition)>,
}

/// How large the catalog is.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct CatalogStatistics {
    pub recordings: u64,
    pub recordings_active: u64,
    pub recordings_incomplete: u64,
    pub recordings_on_hold: u64,
    /// Chunks of audio, in journals and in runs.
    pub chunks: u64,
    /// Bytes that these take: as records in journals, and as runs.
    pub chunk_bytes: u64,
    /// Of these, what lies in journals only.
    pub chunks_unsealed: u64,
    pub chunk_bytes_unsealed: u64,
    pub runs: u64,
    /// Bytes of the catalog on disk, without its write-ahead log.
    pub size_bytes: u64,
    pub applied: BTreeMap<VolumeNumber, LogPosition>,
    pub sequence: FactSequence,
}

/// How far a backup is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BackupProgress {
    pub copied_bytes: u64,
    /// The size of the catalog: no more is to be copied, and less when earlier backups hold a part of it.
    pub catalog_bytes: u64,
}
