//! Everything that reads a journal: scanning it in order, and fetching single chunks.
//!
//! Constraints: never writes; works beside a writer in this or another process. Single chunks are read through the page
//! cache with one pread; a bounded number of files is kept open.

use crate::bad_blocks::PassingOverBadBlocks;
use crate::files::{OpenFiles, Owner, check_header, journal_path, list_journal};
use crate::format::{ALIGNMENT_BYTES, CHUNK_PAYLOAD_OFFSET, FileHeader, FileKind, Meaning, RECORD_BYTES_MAX};
use crate::io::FileSize;
use crate::scan::{FileScan, Opening, Step, read_opening};
use crate::{ChunkRecord, Entry, Located, LogError, LogPosition};
use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Reads the journal of a volume; cheap to clone.
#[derive(Clone)]
pub struct JournalReader {
    shared: Arc<Shared>,
}

struct Shared {
    files: OpenFiles,
    directory: PathBuf,
    owner: Owner,
}

/// What is known of a journal's end by those who do not read it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KnownEnd {
    /// Everything before this position was durable once: what cannot be read there is damage. The default position says
    /// nothing.
    AtLeast(LogPosition),
    /// As before, and nothing behind this position is wanted: the writer is still at it.
    At(LogPosition),
}

impl JournalReader {
    /// `directory` holds the journal files of `owner`. It need not exist yet.
    pub fn open(files: &OpenFiles, directory: &Path, owner: Owner) -> Self {
        let (files, directory) = (files.clone(), directory.to_owned());
        Self { shared: Arc::new(Shared { files, directory, owner }) }
    }

    /// Everything from `from` on, which is where a record begins, or [`LogPosition::default`] for all. Damage is an
    /// error for which [`LogError::is_damage`] holds; the iterator goes on behind it. It ends after any other error.
    pub fn scan(&self, from: LogPosition, end: KnownEnd) -> Result<JournalScan, LogError> {
        let files = self.files()?;
        let files: VecDeque<u32> = files.into_iter().filter(|&file| file >= from.file).collect();
        if let Some(&first) = files.front()
            && from.file != 0
            && first > from.file
        {
            return Err(LogError::MissingFile { file: from.file });
        }
        let reached = match end {
            KnownEnd::AtLeast(reached) | KnownEnd::At(reached) => reached,
        };
        if files.is_empty() && from != LogPosition::default() && from >= reached {
            return Err(LogError::BeyondEnd { position: from, end: LogPosition::default() });
        }
        let until = matches!(end, KnownEnd::At(_)).then_some(reached);
        Ok(JournalScan {
            reader: self.clone(),
            files,
            current: None,
            position: from,
            at_least: reached,
            until,
            finished: false,
        })
    }

    /// The chunk at `located`.
    ///
    /// # Errors
    /// [`LogError::BadChunk`] when its checksum is wrong, or when something else lies there; [`LogError::Retired`] when
    /// its file is gone: the chunk lies in a segment by now; [`LogError::Io`].
    pub fn read_chunk(&self, located: Located) -> Result<ChunkRecord, LogError> {
        let path = journal_path(&self.shared.directory, located.position.file);
        let (offset, length) = (located.position.offset, located.length);
        let bad = |what| LogError::BadChunk { path: path.clone(), offset, length, what };
        if !(CHUNK_PAYLOAD_OFFSET..=RECORD_BYTES_MAX).contains(&(length as usize)) {
            return Err(bad("no chunk has this length"));
        }
        self.shared.files.read(&path, offset, length as usize, |bytes| ChunkRecord::decode(bytes).map_err(bad))
    }

    /// Number of files and bytes they take on the device.
    pub fn sizes(&self) -> Result<(u64, u64), LogError> {
        let files = self.files()?;
        let mut bytes = 0;
        for &file in &files {
            let path = journal_path(&self.shared.directory, file);
            match self.shared.files.io().size(&path) {
                Ok(FileSize { allocated_bytes, .. }) => bytes += allocated_bytes,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(LogError::io("inspect", path, error)),
            }
        }
        Ok((files.len() as u64, bytes))
    }

    /// Numbers of the files, ascending.
    pub fn files(&self) -> Result<Vec<u32>, LogError> {
        list_journal(&**self.shared.files.io(), &self.shared.directory)
    }

    pub fn path(&self, file: u32) -> PathBuf {
        journal_path(&self.shared.directory, file)
    }

    pub(crate) fn open_files(&self) -> &OpenFiles {
        &self.shared.files
    }

    pub(crate) fn owner(&self) -> Owner {
        self.shared.owner
    }

    /// Where file `file` is good until, as the next one says; `None` when there is none that could.
    pub(crate) fn known_end(&self, file: u32) -> Result<Option<u64>, LogError> {
        let Some(next) = file.checked_add(1) else { return Ok(None) };
        let path = self.path(next);
        let handle = match self.shared.files.open(&path) {
            Err(LogError::Retired { .. }) => return Ok(None),
            other => other?,
        };
        let handle = PassingOverBadBlocks::new(handle, &path);
        match read_opening(&handle).map_err(|source| LogError::io("read", path, source))? {
            Opening::Header(FileHeader { kind: FileKind::Journal { previous_end }, .. }) => Ok(Some(previous_end)),
            _ => Ok(None),
        }
    }
}

/// Walks over the records of a journal.
pub struct JournalScan {
    reader: JournalReader,
    files: VecDeque<u32>,
    current: Option<(u32, FileScan)>,
    position: LogPosition,
    at_least: LogPosition,
    until: Option<LogPosition>,
    finished: bool,
}

impl JournalScan {
    /// Where the scan stands: behind the last record it gave, or the end of the journal.
    pub fn position(&self) -> LogPosition {
        self.position
    }

    fn advance(&mut self) -> Result<Option<Entry>, LogError> {
        loop {
            let Some((file, scan)) = &mut self.current else {
                if !self.begin_next_file()? {
                    return Ok(None);
                }
                continue;
            };
            let file = *file;
            let path = || self.reader.path(file);
            match scan.step().map_err(|source| LogError::io("read", path(), source))? {
                Step::Record { offset, length, next, meaning, .. } => {
                    let position = LogPosition { file, offset };
                    self.position = LogPosition { file, offset: next };
                    let what = match meaning {
                        Meaning::Content(content) => {
                            let located = Located { position, length };
                            return Ok(Some(Entry { located, next: self.position, content }));
                        }
                        Meaning::Sync(_) | Meaning::Nothing => continue,
                        Meaning::Unknown { kind, version } => {
                            return Err(LogError::UnknownRecord { path: path(), kind, version, offset });
                        }
                        Meaning::Malformed(what) => what,
                        Meaning::RunIndex(_) | Meaning::SegmentIndex(_) | Meaning::Footer(_) => "only segments hold it",
                    };
                    tracing::error!(?position, what, "a journal record is whole and makes no sense");
                    return Err(LogError::Damaged { file, from: offset, to: next });
                }
                Step::Damaged { from, to } => {
                    self.position = LogPosition { file, offset: to };
                    return Err(LogError::Damaged { file, from, to });
                }
                Step::End { at } => {
                    self.position = LogPosition { file, offset: at };
                    self.current = None;
                }
            }
        }
    }

    /// Opens the next file that holds anything. False when there is none.
    fn begin_next_file(&mut self) -> Result<bool, LogError> {
        let next = self.files.front().copied().filter(|&file| self.until.is_none_or(|until| file <= until.file));
        // Numbers run without a gap: every file is made by the one who wrote the last.
        let expected = match self.position.file {
            0 => next.unwrap_or(self.at_least.file),
            last => last.saturating_add(1),
        };
        let from = if next == Some(self.position.file) { self.position.offset } else { 0 };
        let Some(file) = next else {
            if self.position.file >= self.at_least.file {
                return Ok(false);
            }
            // All that is known to have been there is gone.
            self.position = self.at_least;
            return Err(LogError::MissingFile { file: expected });
        };
        if file > expected {
            // Those up to the next one that is there; told once.
            self.position = LogPosition { file: file - 1, offset: 0 };
            return Err(LogError::MissingFile { file: expected });
        }
        self.files.pop_front();
        let before = std::mem::replace(&mut self.position, LogPosition { file, offset: from });
        let path = self.reader.path(file);
        let handle = match self.reader.shared.files.open(&path) {
            // Removed since the files were listed.
            Err(LogError::Retired { .. }) => return Err(LogError::MissingFile { file }),
            other => PassingOverBadBlocks::new(other?, &path),
        };
        let known_end = match self.until {
            Some(until) if until.file == file => Some(until.offset),
            _ => self.reader.known_end(file)?,
        };
        let at_least = if self.at_least.file == file { self.at_least.offset } else { 0 };
        let scan = |file_id| FileScan::new(Arc::clone(&handle), file_id, known_end, from).at_least(at_least);
        let opening = read_opening(&handle).map_err(|source| LogError::io("read", &path, source))?;
        match &opening {
            Opening::Header(header) => {
                check_header(header, &path, file, self.reader.shared.owner)?;
                if let Some(end) = known_end
                    && from > end
                {
                    let end = LogPosition { file, offset: end };
                    return Err(LogError::BeyondEnd { position: self.position, end });
                }
                self.current = Some((file, scan(header.file_id)));
                Ok(true)
            }
            Opening::Unborn | Opening::Unreadable(_)
                if at_least == 0 && (opening == Opening::Unborn || known_end.is_none() && handle.holds_no_record()) =>
            {
                // Its making was interrupted, maybe in the middle of the header: who writes next removes it, and uses its number again.
                if self.files.is_empty() && before.file >= self.at_least.file {
                    self.position = before;
                }
                Ok(true)
            }
            Opening::HeaderDamaged { file_id } => {
                self.current = Some((file, scan(*file_id)));
                Err(LogError::Damaged { file, from: 0, to: ALIGNMENT_BYTES as u64 })
            }
            Opening::Unborn | Opening::Unreadable(_) => {
                tracing::error!(path = %path.display(), "a journal file cannot be read");
                let to = handle.bytes().map_err(|source| LogError::io("inspect", &path, source))?.max(at_least);
                self.position.offset = to;
                Err(LogError::Damaged { file, from: 0, to })
            }
        }
    }
}

impl Iterator for JournalScan {
    type Item = Result<Entry, LogError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.finished {
            return None;
        }
        match self.advance() {
            Ok(None) => {
                self.finished = true;
                None
            }
            Ok(Some(entry)) => Some(Ok(entry)),
            Err(error) => {
                self.finished = !error.is_damage();
                Some(Err(error))
            }
        }
    }
}
