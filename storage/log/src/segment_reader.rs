//! Everything that reads segments: their contents, the indexes of runs, single chunks, facts.
//!
//! Constraints: never writes; works beside a writer in this or another process. A chunk is one read, a run index is one
//! read; checksums and what the caller knows are proven before anything is given out.

use crate::bad_blocks::PassingOverBadBlocks;
use crate::files::{OpenFiles, Owner, list_segments, segment_path};
use crate::format::{FileHeader, Meaning};
use crate::open_segment::{OpenSegment, check_run_index, run_index_place};
use crate::scan::{FileScan, Step};
use crate::{ChunkRecord, Content, FactRecord, LogError, Run, RunEntry, RunIndex, SegmentEntry, SegmentNumber};
use sidetone_model::RecordingId;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use uuid::Uuid;

/// Read at once while facts are read; most recordings' are shorter.
const FACTS_WINDOW_BYTES: usize = 32 << 10;

/// Reads the segments of a volume; cheap to clone.
#[derive(Clone)]
pub struct SegmentReader {
    shared: Arc<Shared>,
}

struct Shared {
    files: OpenFiles,
    directory: PathBuf,
    owner: Owner,
}

/// What a segment holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SegmentContents {
    /// Absent when it is damaged.
    pub header: Option<FileHeader>,
    /// It has its footer: this is its index. Else it was scanned.
    pub closed: bool,
    /// Runs and facts, in the order of the file.
    pub entries: Vec<SegmentEntry>,
    /// Where the scan stood before damaged bytes, and where it went on.
    pub damaged: Vec<Range<u64>>,
    /// Where the good part ends: whatever was acknowledged lies before it.
    pub end: u64,
}

impl SegmentReader {
    /// `directory` holds the segments of `owner`. It need not exist yet.
    pub fn open(files: &OpenFiles, directory: &Path, owner: Owner) -> Self {
        let (files, directory) = (files.clone(), directory.to_owned());
        Self { shared: Arc::new(Shared { files, directory, owner }) }
    }

    /// Those that are there, ascending.
    pub fn segments(&self) -> Result<Vec<SegmentNumber>, LogError> {
        let numbers = list_segments(&**self.shared.files.io(), &self.shared.directory)?;
        Ok(numbers.into_iter().map(SegmentNumber).collect())
    }

    pub fn path(&self, segment: SegmentNumber) -> PathBuf {
        segment_path(&self.shared.directory, segment.0)
    }

    /// The table of contents: two or three reads of a closed segment, a scan of any other. `at_least` is an offset before
    /// which everything is known to have been durable, 0 when nothing is known.
    ///
    /// # Errors
    /// Damage is none: the contents tell it. [`LogError::Retired`], [`LogError::UnknownRecord`], a file that belongs
    /// elsewhere, failed reads.
    pub fn contents(&self, segment: SegmentNumber, at_least: u64) -> Result<SegmentContents, LogError> {
        let opened = self.open_segment(segment)?;
        match opened.closed()? {
            Some((_, entries)) => Ok(opened.closed_contents(entries)),
            None => opened.gather(at_least).map(|(contents, _)| contents),
        }
    }

    /// The index of a run.
    ///
    /// # Errors
    /// [`LogError::BadRunIndex`] when it is damaged or not the index of this run; [`LogError::Retired`].
    pub fn run_index(&self, recording: RecordingId, run: &Run) -> Result<RunIndex, LogError> {
        let path = self.path(run.segment);
        let (offset, length) = run_index_place(&path, run)?;
        self.shared.files.read(&path, offset, length, |bytes| check_run_index(&path, &bytes, recording, run))
    }

    /// The chunk that a run's index names.
    ///
    /// # Errors
    /// [`LogError::BadChunk`] when it is damaged, or not what the index says; [`LogError::Retired`].
    pub fn read_chunk(&self, recording: RecordingId, run: &Run, entry: &RunEntry) -> Result<ChunkRecord, LogError> {
        let path = self.path(run.segment);
        let offset = run.offset.saturating_add(entry.offset);
        let bad = |what| LogError::BadChunk { path: path.clone(), offset, length: entry.length, what };
        self.shared.files.read(&path, offset, entry.length as usize, |bytes| {
            let chunk = ChunkRecord::decode(bytes).map_err(bad)?;
            if entry.describes(recording, chunk.header()) { Ok(chunk) } else { Err(bad("another chunk lies there")) }
        })
    }

    /// The facts at the beginning of a run.
    pub fn run_facts(&self, run: &Run, index: &RunIndex) -> Result<SegmentFacts, LogError> {
        self.facts(run.segment, run.offset..run.offset.saturating_add(index.chunks_offset))
    }

    /// The facts in a part of a segment: of a [`crate::FactGroup`], or at the beginning of a run. Damage is an error for
    /// which [`LogError::is_damage`] holds; the iterator goes on behind it.
    pub fn facts(&self, segment: SegmentNumber, bytes: Range<u64>) -> Result<SegmentFacts, LogError> {
        let path = self.path(segment);
        let file = PassingOverBadBlocks::new(self.shared.files.open(&path)?, &path);
        // No flush begins within, so that the file's id is not needed.
        let scan = FileScan::new(file, Uuid::nil(), Some(bytes.end), bytes.start).window_bytes(FACTS_WINDOW_BYTES);
        Ok(SegmentFacts { segment, path, scan, finished: false })
    }

    pub(crate) fn files(&self) -> &OpenFiles {
        &self.shared.files
    }

    pub(crate) fn open_segment(&self, segment: SegmentNumber) -> Result<OpenSegment, LogError> {
        let path = self.path(segment);
        OpenSegment::new(self.shared.files.open(&path)?, path, segment, self.shared.owner)
    }
}

/// Facts in a part of a segment.
pub struct SegmentFacts {
    segment: SegmentNumber,
    path: PathBuf,
    scan: FileScan,
    finished: bool,
}

impl Iterator for SegmentFacts {
    type Item = Result<FactRecord, LogError>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.finished {
            let damaged = |from, to| Some(Err(LogError::DamagedSegment { segment: self.segment, from, to }));
            match self.scan.step() {
                Ok(Step::Record { meaning: Meaning::Content(Content::Fact(fact)), .. }) => return Some(Ok(fact)),
                Ok(Step::Record { meaning: Meaning::Unknown { kind, version }, offset, .. }) => {
                    self.finished = true;
                    return Some(Err(LogError::UnknownRecord { path: self.path.clone(), kind, version, offset }));
                }
                Ok(Step::Record { meaning: Meaning::Malformed(_), offset, next, .. }) => return damaged(offset, next),
                Ok(Step::Record { .. }) => {}
                Ok(Step::Damaged { from, to }) => return damaged(from, to),
                Ok(Step::End { .. }) => self.finished = true,
                Err(source) => {
                    self.finished = true;
                    return Some(Err(LogError::io("read", &self.path, source)));
                }
            }
        }
        None
    }
}
