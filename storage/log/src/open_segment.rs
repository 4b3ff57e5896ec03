//! One segment, open for reading: its header, its footer and index, and what a scan finds without them.

use crate::bad_blocks::PassingOverBadBlocks;
use crate::files::{Owner, check_header};
use crate::format::{
    ALIGNMENT_BYTES, FileHeader, Frame, Meaning, RECORD_BYTES_MAX, RECORD_HEADER_BYTES, aligned, decode_frame,
    interpret,
};
use crate::io::InputFile;
use crate::run_indexes::{RunIndexes, landmarks};
use crate::scan::{FileScan, Opening, Step, read_opening};
use crate::segment_walk::Gathering;
use crate::{
    ChunkHeader, Footer, LogError, Run, RunEntry, RunIndex, SegmentContents, SegmentEntry, SegmentNumber, VolumeNumber,
};
use sidetone_model::RecordingId;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use uuid::Uuid;

/// A segment that is being read.
pub(crate) struct OpenSegment {
    pub(crate) path: PathBuf,
    pub(crate) volume_and_number: (VolumeNumber, SegmentNumber),
    pub(crate) file: Arc<PassingOverBadBlocks>,
    pub(crate) bytes: u64,
    pub(crate) header: Option<FileHeader>,
    pub(crate) file_id: Uuid,
    /// Its process died while it made the file.
    pub(crate) unborn: bool,
}

impl OpenSegment {
    pub(crate) fn new(
        file: Arc<dyn InputFile>,
        path: PathBuf,
        number: SegmentNumber,
        owner: Owner,
    ) -> Result<Self, LogError> {
        let file = PassingOverBadBlocks::new(file, &path);
        let bytes = file.bytes().map_err(|source| LogError::io("inspect", &path, source))?;
        let opening = read_opening(&file).map_err(|source| LogError::io("read", &path, source))?;
        let volume_and_number = (owner.volume, number);
        let (header, file_id, unborn) = (None, Uuid::nil(), false);
        let mut opened = Self { path, volume_and_number, file, bytes, header, file_id, unborn };
        match opening {
            Opening::Header(header) => {
                check_header(&header, &opened.path, number.0, owner)?;
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

    /// The index of a run, if it can be read.
    pub(crate) fn run_index(&self, recording: RecordingId, run: &Run) -> Option<RunIndex> {
        let (offset, length) = run_index_place(&self.path, run).ok()?;
        let bytes = self.read(offset, length).ok()?;
        check_run_index(&self.path, &bytes, recording, run).ok()
    }

    fn read(&self, offset: u64, length: usize) -> Result<Vec<u8>, LogError> {
        let mut bytes = vec![0; length];
        let filled = self.file.read_at(&mut bytes, offset);
        bytes.truncate(filled.map_err(|source| LogError::io("read", &self.path, source))?);
        Ok(bytes)
    }

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
                if sealed.run.index_offset >= sealed.run.length {
                    return Ok(None);
                }
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
        let mut bytes = self.read(offset, ALIGNMENT_BYTES.min(bytes_max))?;
        if let Frame::NeedMore(need) = decode_frame(&bytes)
            && need <= bytes_max
        {
            bytes = self.read(offset, need)?;
        }
        Ok(match decode_frame(&bytes) {
            Frame::Record(record) => Some((offset + aligned(record.length as usize) as u64, interpret(&record))),
            Frame::NeedMore(_) | Frame::Invalid => None,
        })
    }

    /// All records. `known_end` and `at_least` as for [`FileScan`]; behind damage `index` tells where to go on.
    pub(crate) fn scan(
        &self,
        known_end: Option<u64>,
        at_least: u64,
        index: Option<&Arc<Vec<SegmentEntry>>>,
        indexes: &Arc<RunIndexes>,
    ) -> FileScan {
        let scan = FileScan::new(Arc::clone(&self.file), self.file_id, known_end, 0).at_least(at_least);
        match index {
            Some(entries) => scan.landmarks(landmarks(Arc::clone(entries), Arc::clone(indexes))),
            None => scan,
        }
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

impl RunEntry {
    /// Whether a chunk is the one that this entry speaks of.
    pub(crate) fn describes(&self, recording: RecordingId, header: &ChunkHeader) -> bool {
        header.recording == recording
            && (header.track, header.first_tick, header.ticks, header.packets)
                == (self.track, self.first_tick, self.ticks, self.packets)
    }
}

/// Where the index of a run lies, and its length.
pub(crate) fn run_index_place(path: &Path, run: &Run) -> Result<(u64, usize), LogError> {
    let offset = run.offset.saturating_add(run.index_offset);
    let length = run.length.checked_sub(run.index_offset).and_then(|length| usize::try_from(length).ok());
    match length.filter(|length| (RECORD_HEADER_BYTES..=RECORD_BYTES_MAX).contains(length)) {
        Some(length) => Ok((offset, length)),
        None => Err(LogError::BadRunIndex { path: path.to_owned(), offset, what: "no record has this length" }),
    }
}

/// The index of a run, from the bytes at its place.
pub(crate) fn check_run_index(
    path: &Path,
    bytes: &[u8],
    recording: RecordingId,
    run: &Run,
) -> Result<RunIndex, LogError> {
    let (offset, length) = run_index_place(path, run)?;
    let bad = |what| LogError::BadRunIndex { path: path.to_owned(), offset, what };
    let meaning = match decode_frame(bytes) {
        Frame::Record(record) if record.length as usize == length => interpret(&record),
        Frame::Record(_) => return Err(bad("the record there has another length")),
        Frame::NeedMore(_) | Frame::Invalid => return Err(bad("its checksum is wrong")),
    };
    let index = match meaning {
        Meaning::RunIndex(index) => index,
        Meaning::Malformed(what) => return Err(bad(what)),
        _ => return Err(bad("another record lies there")),
    };
    if index.recording != recording || index.run(run.volume, run.segment, length as u32) != *run {
        return Err(bad("it is the index of another run"));
    }
    Ok(index)
}
