//! The records of one log file, in order: over damage, up to where the file ends.
//!
//! How a torn tail is told from damage: every flush begins, at a multiple of 4096, with a sync record, and a flush begins
//! only when the one before it is durable. So what is bad *before* a later sync record was good once (damage: report it
//! and go on), and what is bad with no sync record behind it was never acknowledged (the end). Who knows more of the file
//! says so: [`FileScan::known_end`], [`FileScan::at_least`].

use crate::bad_blocks::PassingOverBadBlocks;
use crate::format::{
    ALIGNMENT_BYTES, FileHeader, Frame, Meaning, RECORD_BYTES_MAX, SYNC_BYTES, Sync, aligned, decode_frame, interpret,
};
use crate::io::InputFile;
use std::io;
use std::path::Path;
use std::sync::Arc;
use uuid::Uuid;

/// What the beginning of a file says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Opening {
    Header(FileHeader),
    /// The process died while it made the file: no header and no records.
    Unborn,
    /// The header is damaged; the records behind it name the file's identity.
    HeaderDamaged {
        file_id: Uuid,
    },
    /// Nothing of a log file is left.
    Unreadable(&'static str),
}

pub(crate) fn read_opening(source: &PassingOverBadBlocks) -> io::Result<Opening> {
    let mut bytes = vec![0; 2 * ALIGNMENT_BYTES];
    let length = source.read_at(&mut bytes, 0)?;
    bytes.truncate(length);
    let (header, behind) = bytes.split_at(length.min(ALIGNMENT_BYTES));
    Ok(match FileHeader::decode(header) {
        Ok(header) => Opening::Header(header),
        Err(_) if bytes.iter().all(|&byte| byte == 0) => Opening::Unborn,
        Err(what) => match sync_at(behind) {
            Some(sync) => Opening::HeaderDamaged { file_id: sync.file_id },
            None => Opening::Unreadable(what),
        },
    })
}

fn sync_at(bytes: &[u8]) -> Option<Sync> {
    match decode_frame(bytes) {
        Frame::Record(record) => match interpret(&record) {
            Meaning::Sync(sync) => Some(sync),
            _ => None,
        },
        _ => None,
    }
}

/// What stands next in a file.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Step {
    Record {
        offset: u64,
        length: u32,
        next: u64,
        meaning: Meaning,
        /// Between the record and the next one there are only zeros, as they were written.
        clean_fill: bool,
    },
    /// Bytes that held records once. Scanning goes on at `to`.
    Damaged { from: u64, to: u64 },
    /// No further record; the next one would begin at `at`.
    End { at: u64 },
}

/// Where the next record behind an offset begins, as an index tells it.
pub(crate) type Landmarks = Box<dyn Fn(u64) -> Option<u64> + Send>;

/// Walks over the records of one file.
pub(crate) struct FileScan {
    source: Arc<PassingOverBadBlocks>,
    file_id: Uuid,
    known_end: Option<u64>,
    at_least: u64,
    landmarks: Option<Landmarks>,
    offset: u64,
    last_sequence: u64,
    window: Vec<u8>,
    window_offset: u64,
    window_bytes: usize,
    /// End of the last 4096 bytes in which the search behind the last record met anything but zeros.
    used_end: u64,
}

/// Bytes read at once; holds any record.
const WINDOW_BYTES: usize = RECORD_BYTES_MAX;

impl FileScan {
    /// `from` is the beginning of a record, or 0 for the first. `known_end` is how far the file is good, where that is
    /// known: nothing behind is believed, and everything before it was once durable.
    pub(crate) fn new(source: Arc<PassingOverBadBlocks>, file_id: Uuid, known_end: Option<u64>, from: u64) -> Self {
        let offset = from.max(ALIGNMENT_BYTES as u64);
        Self {
            source,
            file_id,
            known_end,
            at_least: 0,
            landmarks: None,
            window_bytes: WINDOW_BYTES,
            offset,
            last_sequence: 0,
            window: Vec::new(),
            window_offset: 0,
            used_end: ALIGNMENT_BYTES as u64,
        }
    }

    /// Everything before this offset was once durable: what cannot be read there is damage.
    pub(crate) fn at_least(mut self, offset: u64) -> Self {
        // No file is longer, whatever somebody remembers.
        self.at_least = offset.min(i64::MAX as u64);
        self
    }

    /// Behind damage the scan goes on at the next landmark, instead of at the next flush.
    pub(crate) fn landmarks(mut self, landmarks: Landmarks) -> Self {
        self.landmarks = Some(landmarks);
        self
    }

    /// Reads less at once than by default, for a scan that is known to be short.
    pub(crate) fn window_bytes(mut self, bytes: usize) -> Self {
        self.window_bytes = bytes;
        self
    }

    /// See [`Self::used_end`](FileScan#structfield.used_end).
    pub(crate) fn used_end(&self) -> u64 {
        self.used_end.max(self.offset)
    }

    pub(crate) fn step(&mut self) -> io::Result<Step> {
        let offset = self.offset;
        if self.known_end.is_some_and(|end| offset >= end) {
            return Ok(Step::End { at: offset });
        }
        if let Some((length, meaning)) = self.record_at(offset)? {
            if let Meaning::Sync(sync) = &meaning {
                self.last_sequence = sync.sequence;
            }
            let end = offset + u64::from(length);
            let next = offset + aligned(length as usize) as u64;
            self.offset = next;
            let bytes = self.window(offset, (next - offset) as usize)?;
            let fill = bytes.get(length as usize..).unwrap_or_default();
            let clean_fill = fill.iter().take((next - end) as usize).all(|&byte| byte == 0);
            return Ok(Step::Record { offset, length, next, meaning, clean_fill });
        }
        let later = self.find_sync_behind(offset)?;
        let at_least = Some(self.at_least).filter(|&at_least| offset < at_least);
        let Some(limit) = later.or(self.known_end).or(at_least) else { return Ok(Step::End { at: offset }) };
        // The record's own length may still be right: then only this one is lost. Else an index may tell where the next
        // one begins.
        let to = match self.claimed_next(offset)? {
            Some(next) if next < limit && self.record_at(next)?.is_some() => next,
            _ => {
                let landmark = self.landmarks.as_ref().and_then(|landmarks| landmarks(offset));
                landmark.filter(|&landmark| landmark > offset).map_or(limit, |landmark| landmark.min(limit))
            }
        };
        self.offset = to;
        Ok(Step::Damaged { from: offset, to })
    }

    /// The bytes of the record that the last step gave.
    pub(crate) fn record_bytes(&mut self, offset: u64, length: u32) -> io::Result<&[u8]> {
        let bytes = self.window(offset, length as usize)?;
        Ok(&bytes[..bytes.len().min(length as usize)])
    }

    /// The record at `offset`, when its checksum is right, it lies within the file's good part, and, for a sync
    /// record, it is this file's, newer than the last one, and where a flush can begin.
    fn record_at(&mut self, offset: u64) -> io::Result<Option<(u32, Meaning)>> {
        let last_sequence = self.last_sequence;
        let (file_id, known_end) = (self.file_id, self.known_end);
        let mut need = SYNC_BYTES;
        loop {
            let bytes = self.window(offset, need)?;
            let record = match decode_frame(bytes) {
                Frame::Record(record) => record,
                Frame::NeedMore(more) if bytes.len() >= need && more > need => {
                    need = more;
                    continue;
                }
                Frame::NeedMore(_) | Frame::Invalid => return Ok(None),
            };
            if known_end.is_some_and(|end| offset + u64::from(record.length) > end) {
                return Ok(None);
            }
            let meaning = interpret(&record);
            if let Meaning::Sync(sync) = &meaning
                && (sync.file_id != file_id
                    || sync.sequence <= last_sequence
                    || !offset.is_multiple_of(ALIGNMENT_BYTES as u64))
            {
                return Ok(None);
            }
            return Ok(Some((record.length, meaning)));
        }
    }

    /// Where the record behind a damaged one would begin, if the damaged one's length is right.
    fn claimed_next(&mut self, offset: u64) -> io::Result<Option<u64>> {
        let bytes = self.window(offset, 4)?;
        let Some(length) = bytes.first_chunk::<4>() else { return Ok(None) };
        let length = u32::from_le_bytes(*length) as usize;
        let plausible = (crate::format::RECORD_HEADER_BYTES..=RECORD_BYTES_MAX).contains(&length);
        Ok(plausible.then(|| offset + aligned(length) as u64))
    }

    /// The first sync record of this file behind `offset`. Notes how far the file holds anything at all.
    fn find_sync_behind(&mut self, offset: u64) -> io::Result<Option<u64>> {
        let mut at = (offset + 1).next_multiple_of(ALIGNMENT_BYTES as u64);
        // What lies in the block of `offset` itself counts as used: the caller keeps it.
        self.used_end = self.used_end.max(at);
        loop {
            if self.known_end.is_some_and(|end| at >= end) {
                return Ok(None);
            }
            let (file_id, last_sequence) = (self.file_id, self.last_sequence);
            let bytes = self.window(at, ALIGNMENT_BYTES)?;
            if bytes.is_empty() {
                return Ok(None);
            }
            let block = &bytes[..bytes.len().min(ALIGNMENT_BYTES)];
            if block.iter().any(|&byte| byte != 0) {
                if sync_at(block).is_some_and(|sync| sync.file_id == file_id && sync.sequence > last_sequence) {
                    return Ok(Some(at));
                }
                self.used_end = at + ALIGNMENT_BYTES as u64;
            }
            at += ALIGNMENT_BYTES as u64;
        }
    }

    /// At least `need` bytes from `offset` on; fewer only at the end of the file.
    fn window(&mut self, offset: u64, need: usize) -> io::Result<&[u8]> {
        let window_end = self.window_offset + self.window.len() as u64;
        if offset < self.window_offset || offset + need as u64 > window_end {
            self.window.resize(self.window_bytes.max(need), 0);
            match self.source.read_at(&mut self.window, offset) {
                Ok(length) => self.window.truncate(length),
                Err(error) => {
                    self.window.clear();
                    return Err(error);
                }
            }
            self.window_offset = offset;
        }
        Ok(&self.window[(offset - self.window_offset) as usize..])
    }
}

/// A file in memory.
pub(crate) struct Bytes(pub(crate) Vec<u8>);

impl InputFile for Bytes {
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        let rest = usize::try_from(offset).ok().and_then(|offset| self.0.get(offset..)).unwrap_or_default();
        let length = rest.len().min(bytes.len());
        bytes[..length].copy_from_slice(&rest[..length]);
        Ok(length)
    }

    fn bytes(&self) -> io::Result<u64> {
        Ok(self.0.len() as u64)
    }
}

/// Walks over the bytes of a journal file as a reader would; for the fuzzer. Gives the number of records, of damaged
/// places, and where the file ends.
pub fn scan_bytes(file: &[u8]) -> (u64, u64, u64) {
    let source = PassingOverBadBlocks::new(Arc::new(Bytes(file.to_vec())), Path::new("memory"));
    let (mut records, mut damaged) = (0, 0);
    let never = "memory can be read";
    let file_id = match read_opening(&source).expect(never) {
        Opening::Header(header) => header.file_id,
        Opening::HeaderDamaged { file_id } => file_id,
        Opening::Unborn | Opening::Unreadable(_) => Uuid::nil(),
    };
    let mut scan = FileScan::new(source, file_id, None, 0);
    loop {
        match scan.step().expect(never) {
            Step::Record { .. } => records += 1,
            Step::Damaged { .. } => damaged += 1,
            Step::End { at } => return (records, damaged, at),
        }
    }
}
