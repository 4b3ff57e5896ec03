//! Checks every byte of a log file that means anything, and tells what is damaged: by place, and in a segment by recording and
//! time.
//!
//! Constraints: reads once from the beginning to the end, and run indexes where something is damaged. Memory is bounded
//! whatever the file holds: one window, the chunks of one run, an entry for each run, and at most [`PLACES_MAX`] damaged places.

use crate::bad_blocks::PassingOverBadBlocks;
use crate::files::check_header;
use crate::format::{ALIGNMENT_BYTES, Meaning};
use crate::scan::{FileScan, Opening, Step, read_opening};
use crate::{Content, JournalReader, LogError};
use sidetone_model::{RecordingId, Tick, TrackId};
use std::ops::{ControlFlow, Range};
use std::path::PathBuf;
use uuid::Uuid;

/// Damaged places of one file that are told apart; those behind count as one.
const PLACES_MAX: usize = 10_000;
/// Told of at once, in bytes read.
const PROGRESS_BYTES: u64 = 1 << 20;

/// Something that a file has lost, or that is not as it was written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Damage {
    /// In bytes of the file.
    pub from: u64,
    pub to: u64,
    pub fault: Fault,
    /// Whose audio or facts it is, where an index tells.
    pub recording: Option<RecordingId>,
    /// Absent when it is no audio, or that of all tracks.
    pub track: Option<TrackId>,
    /// The grid steps whose audio is lost.
    pub ticks: Option<Range<Tick>>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Fault {
    /// The file's first block. No record is lost by it.
    Header,
    /// Records are lost.
    Records,
    /// Bytes between records, which mean nothing.
    Fill,
    /// A record is whole and makes no sense.
    Nonsense,
    /// A run is not what its index says.
    Run,
    /// A run's chunks are not those over which its Merkle root was made.
    Root,
    /// The segment's index or footer is missing, or is not of what the segment holds.
    Index,
}

impl Fault {
    /// In plain words.
    pub fn text(self) -> &'static str {
        match self {
            Self::Header => "the file's header is damaged",
            Self::Records => "records are damaged or missing",
            Self::Fill => "bytes between records have changed; nothing is lost",
            Self::Nonsense => "a record is whole and makes no sense",
            Self::Run => "a run is not what its index says",
            Self::Root => "a run's Merkle root is not that of its chunks",
            Self::Index => "the segment's index or footer is missing, or not that of the segment",
        }
    }
}

/// What a check tells while it goes on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Finding {
    /// So many further bytes were read.
    Read(u64),
    Damage(Damage),
}

/// What was checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Verified {
    /// Whole records, those that only frame others included.
    pub records: u64,
    pub chunks: u64,
    pub facts: u64,
    pub runs: u64,
    /// Findings of damage.
    pub damages: u64,
    /// Where the file's good part ends.
    pub end: u64,
    /// It is a segment with its footer.
    pub closed: bool,
    /// Whoever watched wanted it to stop.
    pub stopped: bool,
}

pub(crate) type Watch<'a> = &'a mut dyn FnMut(Finding) -> ControlFlow<()>;

impl JournalReader {
    /// Checks one file. `at_least` is an offset before which everything is known to have been durable, 0 when nothing is
    /// known: of the last file only that, or a later flush, tells damage at the end from a flush that never was.
    ///
    /// # Errors
    /// Damage is none. [`LogError::Retired`], [`LogError::UnknownRecord`], a file that belongs elsewhere, failed reads.
    pub fn verify_file(&self, file: u32, at_least: u64, watch: Watch<'_>) -> Result<Verified, LogError> {
        let path = self.path(file);
        let handle = PassingOverBadBlocks::new(self.open_files().open(&path)?, &path);
        let opening = read_opening(&handle).map_err(|source| LogError::io("read", &path, source))?;
        let known_end = self.known_end(file)?;
        let mut check = Check::new(path, watch);
        let file_id = match opening {
            Opening::Header(header) => {
                check_header(&header, &check.path, file, self.owner())?;
                header.file_id
            }
            Opening::Unborn if at_least == 0 && known_end.unwrap_or(0) == 0 => return Ok(check.verified),
            Opening::Unborn | Opening::Unreadable(_) => {
                check.place(0, ALIGNMENT_BYTES as u64, Fault::Header);
                Uuid::nil()
            }
            Opening::HeaderDamaged { file_id } => {
                check.place(0, ALIGNMENT_BYTES as u64, Fault::Header);
                file_id
            }
        };
        let scan = FileScan::new(handle, file_id, known_end, 0).at_least(at_least);
        check.walk(scan, &mut Journal)?;
        for place in std::mem::take(&mut check.places) {
            check.tell(place.into_damage());
        }
        Ok(check.verified)
    }
}

/// A damaged place before anybody knows whose it is.
pub(crate) struct Place {
    pub(crate) from: u64,
    pub(crate) to: u64,
    pub(crate) fault: Fault,
}

impl Place {
    pub(crate) fn into_damage(self) -> Damage {
        let Self { from, to, fault } = self;
        Damage { from, to, fault, recording: None, track: None, ticks: None }
    }
}

/// The part of a check that does not depend on the kind of file.
pub(crate) struct Check<'a> {
    path: PathBuf,
    watch: Watch<'a>,
    pub(crate) verified: Verified,
    pub(crate) places: Vec<Place>,
}

/// Looks at the records of a file.
pub(crate) trait Records {
    fn record(&mut self, offset: u64, bytes: &[u8], meaning: &Meaning, check: &mut Check<'_>);
    fn damaged(&mut self);
}

impl<'a> Check<'a> {
    pub(crate) fn new(path: PathBuf, watch: Watch<'a>) -> Self {
        Self { path, watch, verified: Verified::default(), places: Vec::new() }
    }

    pub(crate) fn place(&mut self, from: u64, to: u64, fault: Fault) {
        let full = self.places.len() >= PLACES_MAX;
        match self.places.last_mut().filter(|_| full) {
            Some(last) => (last.to, last.fault) = (to, Fault::Records),
            None => self.places.push(Place { from, to, fault }),
        }
    }

    /// Whether anything of these bytes is damaged.
    pub(crate) fn touches(&self, bytes: &Range<u64>) -> bool {
        self.places.iter().any(|place| place.from < bytes.end && place.to > bytes.start)
    }

    pub(crate) fn tell(&mut self, damage: Damage) {
        self.verified.damages += 1;
        if (self.watch)(Finding::Damage(damage)).is_break() {
            self.verified.stopped = true;
        }
    }

    pub(crate) fn walk(&mut self, mut scan: FileScan, records: &mut dyn Records) -> Result<(), LogError> {
        let mut told = 0;
        while !self.verified.stopped {
            match scan.step().map_err(|source| LogError::io("read", &self.path, source))? {
                Step::Record { offset, meaning: Meaning::Unknown { kind, version }, .. } => {
                    return Err(LogError::UnknownRecord { path: self.path.clone(), kind, version, offset });
                }
                Step::Record { offset, length, next, meaning, clean_fill } => {
                    self.verified.records += 1;
                    self.verified.end = next;
                    if let Meaning::Malformed(_) = meaning {
                        self.place(offset, next, Fault::Nonsense);
                        records.damaged();
                    } else {
                        let bytes = scan.record_bytes(offset, length);
                        let bytes = bytes.map_err(|source| LogError::io("read", &self.path, source))?;
                        records.record(offset, bytes, &meaning, self);
                    }
                    if !clean_fill {
                        self.place(offset + u64::from(length), next, Fault::Fill);
                    }
                }
                Step::Damaged { from, to } => {
                    self.verified.end = to;
                    self.place(from, to, Fault::Records);
                    records.damaged();
                }
                Step::End { .. } => break,
            }
            if self.verified.end - told >= PROGRESS_BYTES {
                self.read(self.verified.end - told);
                told = self.verified.end;
            }
        }
        self.read(self.verified.end.saturating_sub(told));
        Ok(())
    }

    fn read(&mut self, bytes: u64) {
        if (self.watch)(Finding::Read(bytes)).is_break() {
            self.verified.stopped = true;
        }
    }

    pub(crate) fn count(&mut self, content: &Content) {
        match content {
            Content::Chunk(_) => self.verified.chunks += 1,
            Content::Fact(_) => self.verified.facts += 1,
        }
    }
}

struct Journal;

impl Records for Journal {
    fn record(&mut self, offset: u64, bytes: &[u8], meaning: &Meaning, check: &mut Check<'_>) {
        match meaning {
            Meaning::Content(content) => check.count(content),
            Meaning::RunIndex(_) | Meaning::SegmentIndex(_) | Meaning::Footer(_) => {
                check.place(offset, offset + bytes.len() as u64, Fault::Nonsense);
            }
            _ => {}
        }
    }

    fn damaged(&mut self) {}
}
