//! Everything that reads segments: their contents, the indexes of runs, single chunks, facts.
//!
//! Constraints: never writes; works beside a writer in this or another process. A chunk is one read, a run index is one
//! read; checksums and what the caller knows are proven before anything is given out.

use crate::bad_blocks::PassingOverBadBlocks;
use crate::files::{OpenFiles, Owner, check_header, list_segments, segment_path};
use crate::format::{
    ALIGNMENT_BYTES, FileHeader, FileKind, Frame, Meaning, RECORD_BYTES_MAX, RECORD_HEADER_BYTES, aligned,
    decode_frame, interpret,
};
use crate::scan::{FileScan, Opening, ReadAt, Step, read_opening};
use crate::segment_walk::Gathering;
use crate::{ChunkRecord, Content, FactRecord, Footer, LogError, Run, RunEntry, RunIndex, SegmentEntry, SegmentNumber};
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
        read_run_index(&self.shared.files, &path, recording, run)
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
        let file = PassingOverBadBlocks::new(self.shared.files.open(&path)?, &path);
        let bytes = file.bytes().map_err(|source| LogError::io("inspect", &path, source))?;
        let opening = read_opening(&file).map_err(|source| LogError::io("read", &path, source))?;
        let mut opened = OpenSegment {
            path,
            volume_and_number: (self.shared.owner.volume, segment),
            file,
            bytes,
            header: None,
            file_id: Uuid::nil(),
            unborn: false,
        };
        match opening {
            Opening::Header(header) => {
                check_header(&header, &opened.path, segment.0, self.shared.owner)?;
                if !matches!(header.kind, FileKind::Segment { .. }) {
                    return Err(LogError::NotALogFile { path: opened.path, what: "it is a journal file" });
                }
                opened.file_id = header.file_id;
                opened.header = Some(header);
            }
            Opening::Unborn => opened.unborn = true,
            Opening::HeaderDamaged { file_id } => opened.file_id = file_id,
            // The footer names it too.
            Opening::Unreadable(_) => opened.file_id = opened.footer()?.map_or(Uuid::nil(), |footer| footer.file_id),
        }
        Ok(opened)
    }
}

impl RunEntry {
    /// Whether a chunk is the one that this entry speaks of.
    pub(crate) fn describes(&self, recording: RecordingId, header: &crate::ChunkHeader) -> bool {
        header.recording == recording
            && (header.track, header.first_tick, header.ticks, header.packets)
                == (self.track, self.first_tick, self.ticks, self.packets)
    }
}

pub(crate) fn read_run_index(
    files: &OpenFiles,
    path: &Path,
    recording: RecordingId,
    run: &Run,
) -> Result<RunIndex, LogError> {
    let offset = run.offset.saturating_add(run.index_offset);
    let bad = |what| LogError::BadRunIndex { path: path.to_owned(), offset, what };
    let length = run.length.checked_sub(run.index_offset).and_then(|length| usize::try_from(length).ok());
    let length = length.filter(|length| (RECORD_HEADER_BYTES..=RECORD_BYTES_MAX).contains(length));
    let length = length.ok_or_else(|| bad("no record has this length"))?;
    files.read(path, offset, length, |bytes| {
        let meaning = match decode_frame(&bytes) {
            Frame::Record(record) if record.length as usize == length => interpret(&record),
            Frame::Record(_) => return Err(bad("the record there has another length")),
            Frame::NeedMore(_) | Frame::Invalid => return Err(bad("its checksum is wrong")),
        };
        let index = match meaning {
            Meaning::RunIndex(index) => index,
            Meaning::Malformed(what) => return Err(bad(what)),
            _ => return Err(bad("another record lies there")),
        };
        let described = index.run(run.volume, run.segment, length as u32);
        if index.recording != recording || described != *run {
            return Err(bad("it is the index of another run"));
        }
        Ok(index)
    })
}

/// A segment that is being read.
pub(crate) struct OpenSegment {
    pub(crate) path: PathBuf,
    pub(crate) volume_and_number: (crate::VolumeNumber, SegmentNumber),
    pub(crate) file: Arc<PassingOverBadBlocks>,
    pub(crate) bytes: u64,
    pub(crate) header: Option<FileHeader>,
    pub(crate) file_id: Uuid,
    /// Its process died while it made the file.
    pub(crate) unborn: bool,
}

impl OpenSegment {
    /// The footer, if it is where a closed segment has it.
    pub(crate) fn footer(&self) -> Result<Option<Footer>, LogError> {
        let block = ALIGNMENT_BYTES as u64;
        let Some(offset) = self.bytes.checked_sub(block).filter(|offset| offset.is_multiple_of(block)) else {
            return Ok(None);
        };
        Ok(match self.record_at(offset, ALIGNMENT_BYTES)? {
            Some((_, Meaning::Footer(footer))) if self.file_id.is_nil() || footer.file_id == self.file_id => {
                Some(footer)
            }
            _ => None,
        })
    }

    /// Footer and index of a closed segment, if both are whole and agree.
    pub(crate) fn closed(&self) -> Result<Option<(Footer, Vec<SegmentEntry>)>, LogError> {
        let Some(footer) = self.footer()? else { return Ok(None) };
        Ok(self.index(&footer)?.map(|entries| (footer, entries)))
    }

    pub(crate) fn closed_contents(&self, entries: Vec<SegmentEntry>) -> SegmentContents {
        SegmentContents { header: self.header.clone(), closed: true, entries, damaged: Vec::new(), end: self.bytes }
    }

    fn index(&self, footer: &Footer) -> Result<Option<Vec<SegmentEntry>>, LogError> {
        let (volume, number) = self.volume_and_number;
        let mut entries = Vec::new();
        let mut offset = footer.index_offset;
        for _ in 0..footer.index_records {
            let Some((next, Meaning::SegmentIndex(part))) = self.record_at(offset, RECORD_BYTES_MAX)? else {
                return Ok(None);
            };
            entries.extend(part);
            offset = next;
        }
        let mut end = ALIGNMENT_BYTES as u64;
        let (mut runs, mut groups, mut chunks, mut payload_bytes) = (0, 0, 0, 0u64);
        for entry in &mut entries {
            if let SegmentEntry::Run(sealed) = entry {
                (sealed.run.volume, sealed.run.segment) = (volume, number);
                runs += 1;
                chunks += u64::from(sealed.run.chunks);
                payload_bytes = payload_bytes.saturating_add(sealed.run.payload_bytes);
            } else {
                groups += 1;
            }
            let bytes = entry.bytes();
            if bytes.start < end || bytes.end < bytes.start || bytes.end > footer.index_offset {
                return Ok(None);
            }
            end = bytes.end;
        }
        let said = (footer.runs, footer.fact_groups, footer.chunks, footer.payload_bytes);
        Ok((said == (runs, groups, chunks, payload_bytes)).then_some(entries))
    }

    fn record_at(&self, offset: u64, bytes_max: usize) -> Result<Option<(u64, Meaning)>, LogError> {
        let read = |length: usize| {
            let mut bytes = vec![0; length];
            let filled = self.file.read_at(&mut bytes, offset);
            let filled = filled.map_err(|source| LogError::io("read", &self.path, source))?;
            bytes.truncate(filled);
            Ok(bytes)
        };
        let mut bytes = read(ALIGNMENT_BYTES.min(bytes_max))?;
        if let Frame::NeedMore(need) = decode_frame(&bytes)
            && need <= bytes_max
        {
            bytes = read(need)?;
        }
        Ok(match decode_frame(&bytes) {
            Frame::Record(record) => Some((offset + aligned(record.length as usize) as u64, interpret(&record))),
            Frame::NeedMore(_) | Frame::Invalid => None,
        })
    }

    /// What a scan finds, and where the last flush begins and its sequence.
    pub(crate) fn gather(&self, at_least: u64) -> Result<(SegmentContents, (u64, u64)), LogError> {
        let (volume, number) = self.volume_and_number;
        let mut contents = SegmentContents {
            header: self.header.clone(),
            closed: false,
            entries: Vec::new(),
            damaged: Vec::new(),
            end: ALIGNMENT_BYTES as u64,
        };
        if self.unborn {
            let end = contents.end;
            return Ok((contents, (end, 0)));
        }
        let mut gathering = Gathering::new(volume, number, self.file_id);
        let mut last_flush = (contents.end, 0);
        let mut scan = FileScan::new(Arc::clone(&self.file), self.file_id, None, 0).at_least(at_least);
        loop {
            match scan.step().map_err(|source| LogError::io("read", &self.path, source))? {
                Step::Record { meaning: Meaning::Unknown { kind, version }, offset, .. } => {
                    return Err(LogError::UnknownRecord { path: self.path.clone(), kind, version, offset });
                }
                Step::Record { meaning: Meaning::Malformed(_), offset, next, .. } => {
                    contents.damaged.push(offset..next);
                }
                Step::Record { offset, length, meaning, .. } => {
                    if let Meaning::Sync(sync) = &meaning {
                        last_flush = (offset, sync.sequence);
                    }
                    gathering.take(offset, length, &meaning);
                }
                Step::Damaged { from, to } => contents.damaged.push(from..to),
                Step::End { at } => {
                    // What the device cannot read may have been durable: nobody can call that torn.
                    contents.end = at.max(self.file.unreadable_end());
                    if contents.end > at {
                        contents.damaged.push(at..contents.end);
                    }
                    contents.entries = gathering.finish();
                    return Ok((contents, last_flush));
                }
            }
        }
    }
}

/// Facts in a part of a segment.
pub struct SegmentFacts {
    segment: SegmentNumber,
    path: PathBuf,
    scan: FileScan<Arc<PassingOverBadBlocks>>,
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
