//! The log files of all volumes, open for reading.

use crate::StoreError;
use crate::shared::lock;
use crate::volume::Volume;
use sidetone_log::format::{ALIGNMENT_BYTES, FileHeader, Meaning, decode_record};
use sidetone_log::{
    Io, JournalReader, LogError, OpenFiles, Owner, Run, RunIndex, SegmentContents, SegmentEntry, SegmentNumber,
    SegmentReader, VolumeNumber,
};
use sidetone_model::RecordingId;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex};

/// Log files open at the same time.
const OPEN_FILES_MAX: usize = 256;
/// Run indexes kept: of an hour of two tracks one takes 170 KiB.
const INDEXES_MAX: usize = 256;

/// Reads journals and segments. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Logs {
    pub(crate) files: OpenFiles,
    volumes: Arc<BTreeMap<VolumeNumber, VolumeLogs>>,
    indexes: Arc<Mutex<Indexes>>,
}

pub(crate) struct VolumeLogs {
    pub(crate) volume: Volume,
    pub(crate) journal: JournalReader,
    pub(crate) segments: SegmentReader,
}

/// Which run: its volume, segment and first byte.
type RunKey = (VolumeNumber, SegmentNumber, u64);

/// Run indexes read lately, the one used last at the end.
#[derive(Default)]
struct Indexes {
    kept: VecDeque<(RunKey, Arc<RunIndex>)>,
}

impl Logs {
    pub(crate) fn new(io: Arc<dyn Io>, store_id: uuid::Uuid, volumes: &[Volume]) -> Self {
        let files = OpenFiles::new(io, OPEN_FILES_MAX);
        let logs = |volume: &Volume| {
            let owner = Owner { store_id, volume: volume.number };
            VolumeLogs {
                volume: volume.clone(),
                journal: JournalReader::open(&files, &volume.journal(), owner),
                segments: SegmentReader::open(&files, &volume.segments(), owner),
            }
        };
        let volumes = volumes.iter().map(|volume| (volume.number, logs(volume))).collect();
        Self { files, volumes: Arc::new(volumes), indexes: Arc::default() }
    }

    pub(crate) fn volumes(&self) -> impl Iterator<Item = &VolumeLogs> {
        self.volumes.values()
    }

    /// # Errors
    /// The store has no such volume.
    pub(crate) fn volume(&self, number: VolumeNumber) -> Result<&VolumeLogs, StoreError> {
        self.volumes.get(&number).ok_or(StoreError::VolumeMissing { volume: number })
    }

    /// The index of a run, which is kept.
    pub(crate) fn run_index(&self, recording: RecordingId, run: &Run) -> Result<Arc<RunIndex>, StoreError> {
        let key = (run.volume, run.segment, run.offset);
        if let Some(index) = lock(&self.indexes).get(key).filter(|index| index.recording == recording) {
            return Ok(index);
        }
        let index = Arc::new(self.volume(run.volume)?.segments.run_index(recording, run)?);
        lock(&self.indexes).put(key, Arc::clone(&index));
        Ok(index)
    }
}

impl Indexes {
    fn get(&mut self, key: RunKey) -> Option<Arc<RunIndex>> {
        let at = self.kept.iter().position(|(kept, _)| *kept == key)?;
        let entry = self.kept.remove(at)?;
        let index = Arc::clone(&entry.1);
        self.kept.push_back(entry);
        Some(index)
    }

    fn put(&mut self, key: RunKey, index: Arc<RunIndex>) {
        self.kept.retain(|(kept, _)| *kept != key);
        if self.kept.len() >= INDEXES_MAX {
            self.kept.pop_front();
        }
        self.kept.push_back((key, index));
    }
}

impl VolumeLogs {
    /// What counts of a segment: all of a closed one; of one that its process did not close, what was flushed. Afterwards
    /// that is durable.
    ///
    /// The last flush of such a segment may be torn. It is left out as a whole, as it is cut off when the segment is
    /// closed ([`sidetone_log::close_left_open`]); but for what lies before `at_least`, which is known to have been durable.
    pub(crate) fn contents(
        &self,
        io: &dyn Io,
        segment: SegmentNumber,
        at_least: u64,
    ) -> Result<SegmentContents, StoreError> {
        let path = self.segments.path(segment);
        if self.segments.is_closed(segment)? {
            let contents = self.segments.contents(segment, at_least)?;
            if contents.closed {
                return Ok(contents);
            }
        }
        io.sync_file(&path).map_err(|source| LogError::Io { operation: "sync", path: path.clone(), source })?;
        let mut contents = self.segments.contents(segment, at_least)?;
        if !contents.closed && !contents.end.is_multiple_of(ALIGNMENT_BYTES as u64) {
            let file =
                io.open(&path).map_err(|source| LogError::Io { operation: "open", path: path.clone(), source })?;
            let flush = last_flush(&*file, contents.end, contents.header.as_ref());
            let flush = flush.map_err(|source| LogError::Io { operation: "read", path, source })?;
            let whole = contents.end.next_multiple_of(ALIGNMENT_BYTES as u64);
            contents.end = if flush >= at_least { flush } else { whole };
            contents.entries.retain(|entry: &SegmentEntry| entry.bytes().end <= contents.end);
        }
        Ok(contents)
    }
}

/// Where the flush begins in which the byte before `end` lies.
fn last_flush(file: &dyn sidetone_log::InputFile, end: u64, header: Option<&FileHeader>) -> io::Result<u64> {
    let block = ALIGNMENT_BYTES as u64;
    let mut at = end / block * block;
    let mut bytes = vec![0; ALIGNMENT_BYTES];
    while at > block {
        let filled = file.read_at(&mut bytes, at)?;
        if let Some((_, Meaning::Sync(sync))) = decode_record(&bytes[..filled])
            && header.is_none_or(|header| header.file_id == sync.file_id)
        {
            return Ok(at);
        }
        at -= block;
    }
    Ok(block)
}
