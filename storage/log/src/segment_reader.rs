//! Everything that reads segments: their contents, the indexes of runs, single chunks, facts.
//!
//! Constraints: never writes; works beside a writer in this or another process. A chunk is one read, a run index is one
//! read; checksums and what the caller knows are proven before anything is given out.

use crate::bad_blocks::PassingOverBadBlocks;
use crate::files::{OpenFiles, Owner, list_segments, segment_path};
use crate::format::{FileHeader, Meaning};
use crate::open_segment::{OpenSegment, check_run_index, run_index_place};
use crate::run_indexes::RunIndexes;
use crate::scan::{FileScan, Step};
use crate::{Chunk, ChunkRecord, Content, FactRecord, LogError, Run, RunEntry, RunIndex, SegmentEntry, SegmentNumber};
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

    /// Whether a segment has its footer and its index: it was closed, and is not written any more.
    pub fn is_closed(&self, segment: SegmentNumber) -> Result<bool, LogError> {
        Ok(self.open_segment(segment)?.closed()?.is_some())
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

    /// The facts at the beginning of a run; as [`Self::facts`].
    pub fn run_facts(
        &self,
        run: &Run,
        index: &RunIndex,
    ) -> Result<impl Iterator<Item = Result<FactRecord, LogError>> + use<>, LogError> {
        self.facts(run.segment, run.offset..run.offset.saturating_add(index.chunks_offset))
    }

    /// The facts in a part of a segment: of a [`crate::FactGroup`], or at the beginning of a run. Damage is as in [`Self::scan`].
    pub fn facts(
        &self,
        segment: SegmentNumber,
        bytes: Range<u64>,
    ) -> Result<impl Iterator<Item = Result<FactRecord, LogError>> + use<>, LogError> {
        let path = self.path(segment);
        let file = PassingOverBadBlocks::new(self.shared.files.open(&path)?, &path);
        // No flush begins within, so that the file's id is not needed.
        let scan = FileScan::new(file, Uuid::nil(), Some(bytes.end), bytes.start).window_bytes(FACTS_WINDOW_BYTES);
        let scan = SegmentScan { segment, path, scan, finished: false };
        Ok(scan.filter_map(|record| match record {
            Ok(SegmentRecord { content: SegmentContent::Fact(fact), .. }) => Some(Ok(fact)),
            Ok(_) => None,
            Err(error) => Some(Err(error)),
        }))
    }

    /// All facts, chunks and run indexes, in the order of the file. Damage is an error for which [`LogError::is_damage`]
    /// holds; the iterator goes on behind it, at the next record where the segment's indexes tell where that is. It ends
    /// after any other error. `at_least` as in [`Self::contents`]. Whose the damaged bytes are [`Self::verify_file`] tells.
    pub fn scan(&self, segment: SegmentNumber, at_least: u64) -> Result<SegmentScan, LogError> {
        let opened = Arc::new(self.open_segment(segment)?);
        let known_end = opened.footer()?.map(|_| opened.bytes);
        let index = opened.closed()?.map(|(_, entries)| Arc::new(entries));
        let indexes = Arc::new(RunIndexes::new(&opened));
        let scan = opened.scan(known_end, at_least, index.as_ref(), &indexes);
        Ok(SegmentScan { segment, path: opened.path.clone(), scan, finished: false })
    }

    pub(crate) fn files(&self) -> &OpenFiles {
        &self.shared.files
    }

    pub(crate) fn open_segment(&self, segment: SegmentNumber) -> Result<OpenSegment, LogError> {
        let path = self.path(segment);
        OpenSegment::new(self.shared.files.open(&path)?, path, segment, self.shared.owner)
    }
}

/// One record of a segment, and where it lies.
#[derive(Clone, PartialEq, Debug)]
pub struct SegmentRecord {
    pub offset: u64,
    /// Without the fill behind it.
    pub length: u32,
    pub content: SegmentContent,
}

#[derive(Clone, PartialEq, Debug)]
pub enum SegmentContent {
    Fact(FactRecord),
    Chunk(Chunk),
    /// The chunks before it, and the facts before them, are a run.
    RunIndex(RunIndex),
}

/// Walks over the records of a segment.
pub struct SegmentScan {
    segment: SegmentNumber,
    path: PathBuf,
    scan: FileScan,
    finished: bool,
}

impl SegmentScan {
    fn advance(&mut self) -> Result<Option<SegmentRecord>, LogError> {
        loop {
            let damaged = |from, to| Err(LogError::DamagedSegment { segment: self.segment, from, to });
            let step = self.scan.step().map_err(|source| LogError::io("read", &self.path, source))?;
            let (offset, length, next, meaning) = match step {
                Step::Record { offset, length, next, meaning, .. } => (offset, length, next, meaning),
                Step::Damaged { from, to } => return damaged(from, to),
                Step::End { .. } => return Ok(None),
            };
            let content = match meaning {
                Meaning::Content(Content::Fact(fact)) => SegmentContent::Fact(fact),
                Meaning::Content(Content::Chunk(chunk)) => SegmentContent::Chunk(chunk),
                Meaning::RunIndex(index) => SegmentContent::RunIndex(index),
                Meaning::Sync(_) | Meaning::Nothing | Meaning::SegmentIndex(_) | Meaning::Footer(_) => continue,
                Meaning::Malformed(_) => return damaged(offset, next),
                Meaning::Unknown { kind, version } => {
                    return Err(LogError::UnknownRecord { path: self.path.clone(), kind, version, offset });
                }
            };
            return Ok(Some(SegmentRecord { offset, length, content }));
        }
    }
}

impl Iterator for SegmentScan {
    type Item = Result<SegmentRecord, LogError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.finished {
            return None;
        }
        let next = self.advance();
        self.finished = match &next {
            Ok(record) => record.is_none(),
            Err(error) => !error.is_damage(),
        };
        next.transpose()
    }
}
