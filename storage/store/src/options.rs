//! How to open a store, and what its parts may take. The defaults run a working box; on small volumes the sizes shrink with
//! the volume.

use serde::{Deserialize, Serialize};
use sidetone_log::{JournalConfig, SegmentConfig};
use sidetone_model::NodeName;
use std::path::PathBuf;
use std::time::Duration;

/// How to open a store for writing.
#[derive(Clone, PartialEq, Debug)]
pub struct StoreOptions {
    /// Make the store when the directory is empty or not there.
    pub create: bool,
    /// The name of this appliance, written into what it makes.
    pub node: NodeName,
    /// Directories of the volumes besides the store directory, in any order. One that was made before and cannot be found
    /// there (a mount point without its file system) is *missing*: nothing is written to it.
    pub volumes: Vec<PathBuf>,
    /// Make a volume of a directory in `volumes` that is empty and that the store does not know. A new store does so
    /// without being asked.
    pub create_volumes: bool,
    /// Sizes on a large volume.
    pub journal: JournalConfig,
    pub segments: SegmentConfig,
    pub sealing: SealingOptions,
    pub space: SpaceOptions,
    pub limits: Limits,
}

impl StoreOptions {
    /// Creates the store when it is not there; everything else as by default.
    pub fn new(node: NodeName) -> Self {
        Self {
            create: true,
            node,
            volumes: Vec::new(),
            create_volumes: false,
            journal: JournalConfig::default(),
            segments: SegmentConfig::default(),
            sealing: SealingOptions::default(),
            space: SpaceOptions::default(),
            limits: Limits::default(),
        }
    }
}

/// When audio moves from the journals to the segments.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SealingOptions {
    /// Recordings that are over are sealed in batches, so often.
    #[serde(with = "seconds")]
    pub interval: Duration,
    /// A recording that goes on is sealed as far as it is when its oldest unsealed audio is so old.
    #[serde(with = "seconds")]
    pub running_after: Duration,
    /// Audio sealed in one step of the keeper, at least one run; bounds its memory.
    pub step_bytes: u64,
}

impl Default for SealingOptions {
    fn default() -> Self {
        Self { interval: Duration::from_secs(5), running_after: Duration::from_secs(600), step_bytes: 16 << 20 }
    }
}

/// Free space below which a volume takes less and less. Each threshold is a part of the volume, but never more than so
/// many bytes; see [`crate::VolumeState`].
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SpaceOptions {
    /// Below: somebody should know.
    pub low: Watermark,
    /// Below: recordings that begin go to another volume, or are refused.
    pub no_new: Watermark,
    /// Below: facts only. What is left is for them.
    pub reserve: Watermark,
}

impl Default for SpaceOptions {
    fn default() -> Self {
        let gibibytes = |count: u64| count << 30;
        Self {
            low: Watermark { part: 0.20, bytes_max: u64::MAX },
            no_new: Watermark { part: 0.10, bytes_max: gibibytes(5) },
            reserve: Watermark { part: 0.02, bytes_max: 256 << 20 },
        }
    }
}

#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Watermark {
    /// Of the volume's size, 0 ..= 1.
    pub part: f64,
    pub bytes_max: u64,
}

/// Bounds of queues and of patience.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Durable batches that wait for the keeper. What does not fit it reads from the journals.
    pub batches: usize,
    /// Facts that wait for the writer, from everybody but the engine.
    pub submissions: usize,
    /// Recordings that are over and whose last fact waits until their audio is durable.
    pub held_facts: usize,
    /// Segments written at the same time on a volume: one for each retention class and month of expiry. When more would
    /// be needed, the one that was written longest ago is closed.
    pub open_segments: usize,
    /// A volume whose flush takes longer does not hold up the others: it takes nothing more until it answers.
    #[serde(with = "seconds")]
    pub stall: Duration,
    /// A volume that failed or filled up is tried again, and free space looked at, so often.
    #[serde(with = "seconds")]
    pub probe: Duration,
    /// How long [`crate::StoreHandle::annotate`] waits at most.
    #[serde(with = "seconds")]
    pub annotate: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            batches: 64,
            submissions: 1024,
            held_facts: 16_384,
            open_segments: 16,
            stall: Duration::from_secs(2),
            probe: Duration::from_secs(3),
            annotate: Duration::from_secs(30),
        }
    }
}

/// The largest part of a volume that one file takes: several are set aside at a time.
const FILE_PART: u64 = 32;

/// Journal files as they fit on a volume of `total_bytes`.
pub(crate) fn journal_config(options: &StoreOptions, total_bytes: u64) -> JournalConfig {
    let least = 2 * options.journal.buffer_bytes as u64;
    let file_bytes = options.journal.file_bytes.min((total_bytes / FILE_PART).max(least)) / 4096 * 4096;
    JournalConfig { file_bytes, ..options.journal.clone() }
}

/// Segments as they fit on a volume of `total_bytes`.
pub(crate) fn segment_config(options: &StoreOptions, total_bytes: u64) -> SegmentConfig {
    const LEAST: u64 = 1 << 20;
    let part = (total_bytes / FILE_PART).max(LEAST);
    let file_bytes = options.segments.file_bytes.min(part);
    let preallocate_bytes = options.segments.preallocate_bytes.min(part) / 4096 * 4096;
    SegmentConfig { file_bytes, preallocate_bytes, ..options.segments.clone() }
}

/// What is set aside at once on a volume of `total_bytes`.
pub(crate) fn file_bytes(options: &StoreOptions, total_bytes: u64) -> u64 {
    journal_config(options, total_bytes).file_bytes.max(segment_config(options, total_bytes).preallocate_bytes)
}

/// Free space that one step of sealing may take on a volume of `total_bytes`: a new segment, a new journal file, and a run.
pub(crate) fn room_to_seal(options: &StoreOptions, total_bytes: u64) -> u64 {
    let files =
        journal_config(options, total_bytes).file_bytes + segment_config(options, total_bytes).preallocate_bytes;
    files.saturating_add(options.sealing.step_bytes)
}

/// Durations as seconds, with a fraction, in configuration files.
mod seconds {
    use serde::{Deserialize, Deserializer, Serializer};
    use std::time::Duration;

    pub(super) fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(duration.as_secs_f64())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        let seconds = f64::deserialize(deserializer)?;
        Duration::try_from_secs_f64(seconds).map_err(serde::de::Error::custom)
    }
}
