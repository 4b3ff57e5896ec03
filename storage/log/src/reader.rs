//! Everything that reads a journal: scanning it in order, and fetching single chunks.
//!
//! Constraints: never writes; works beside a writer in this or another process. Single chunks are read through the page
//! cache with one pread; a bounded number of files is kept open.

use crate::format::{CHUNK_PAYLOAD_OFFSET, Frame, Meaning, RECORD_BYTES_MAX, decode_frame, interpret};
use crate::scan::{FileScan, Opening, ReadAt, Step, read_opening};
use crate::{Chunk, Content, Entry, Located, LogError, LogPosition};
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Journal files kept open for reading.
const OPEN_FILES_MAX: usize = 64;

/// Reads a journal; cheap to clone.
#[derive(Clone)]
pub struct JournalReader {
    shared: Arc<Shared>,
}

struct Shared {
    directory: PathBuf,
    store_id: uuid::Uuid,
    open_files: Mutex<BTreeMap<u32, Arc<File>>>,
}

impl JournalReader {
    /// `directory` holds the files of store `store_id`. It need not exist yet.
    pub fn open(directory: &Path, store_id: uuid::Uuid) -> Self {
        Self {
            shared: Arc::new(Shared {
                directory: directory.to_owned(),
                store_id,
                open_files: Mutex::new(BTreeMap::new()),
            }),
        }
    }

    /// Everything from `from` on, which is where a record begins, or [`LogPosition::default`] for all. Damage is an
    /// error for which [`LogError::is_damage`] holds; the iterator goes on behind it. It ends after any other error.
    pub fn scan(&self, from: LogPosition) -> Result<JournalScan, LogError> {
        let files = self.files()?;
        let files: Vec<u32> = files.into_iter().filter(|&file| file >= from.file).collect();
        if let Some(&first) = files.first()
            && from.file != 0
            && first > from.file
        {
            return Err(LogError::MissingFile { file: from.file });
        }
        if files.is_empty() && from != LogPosition::default() {
            return Err(LogError::BeyondEnd { position: from, end: LogPosition::default() });
        }
        Ok(JournalScan { reader: self.clone(), files: files.into(), current: None, position: from, finished: false })
    }

    /// The chunk at `located`.
    ///
    /// # Errors
    /// [`LogError::BadChunk`] when its checksum is wrong, or when something else lies there; [`LogError::Io`].
    pub fn read_chunk(&self, located: Located) -> Result<Chunk, LogError> {
        let bad = |what| LogError::BadChunk { position: located.position, length: located.length, what };
        let length = located.length as usize;
        if !(CHUNK_PAYLOAD_OFFSET..=RECORD_BYTES_MAX).contains(&length) {
            return Err(bad("no chunk has this length"));
        }
        let file = self.open_file(located.position.file)?;
        let mut bytes = vec![0; length];
        let read = ReadAt::read_at(&*file, &mut bytes, located.position.offset)
            .map_err(|source| LogError::io("read", file_path(&self.shared.directory, located.position.file), source))?;
        match decode_frame(&bytes[..read]) {
            Frame::Record(record) if record.length == located.length => match interpret(&record) {
                Meaning::Content(Content::Chunk(chunk)) => Ok(chunk),
                Meaning::Malformed(what) => Err(bad(what)),
                _ => Err(bad("another record lies there")),
            },
            Frame::Record(_) => Err(bad("the record there has another length")),
            Frame::NeedMore(_) | Frame::Invalid => Err(bad("its checksum is wrong")),
        }
    }

    /// Number of files and bytes they take on disk.
    pub fn sizes(&self) -> Result<(u64, u64), LogError> {
        let files = self.files()?;
        let mut bytes = 0;
        for &file in &files {
            let path = file_path(&self.shared.directory, file);
            match std::fs::metadata(&path) {
                Ok(metadata) => bytes += std::os::unix::fs::MetadataExt::blocks(&metadata) * 512,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(LogError::io("inspect", path, error)),
            }
        }
        Ok((files.len() as u64, bytes))
    }

    pub(crate) fn files(&self) -> Result<Vec<u32>, LogError> {
        list_files(&self.shared.directory)
    }

    fn open_file(&self, file: u32) -> Result<Arc<File>, LogError> {
        let mut open_files = self.shared.open_files.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(handle) = open_files.get(&file) {
            return Ok(Arc::clone(handle));
        }
        let path = file_path(&self.shared.directory, file);
        let handle = Arc::new(File::open(&path).map_err(|source| LogError::io("open", path, source))?);
        while open_files.len() >= OPEN_FILES_MAX {
            // The oldest: new recordings are played more often than old ones.
            open_files.pop_first();
        }
        open_files.insert(file, Arc::clone(&handle));
        Ok(handle)
    }
}

/// Walks over the records of a journal.
pub struct JournalScan {
    reader: JournalReader,
    files: std::collections::VecDeque<u32>,
    current: Option<(u32, FileScan<Arc<File>>)>,
    position: LogPosition,
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
            let step = scan
                .step()
                .map_err(|source| LogError::io("read", file_path(&self.reader.shared.directory, file), source))?;
            match step {
                Step::Record { offset, length, next, meaning } => {
                    let position = LogPosition { file, offset };
                    self.position = LogPosition { file, offset: next };
                    match meaning {
                        Meaning::Content(content) => {
                            let located = Located { position, length };
                            return Ok(Some(Entry { located, next: self.position, content }));
                        }
                        Meaning::Sync(_) | Meaning::Nothing => {}
                        Meaning::Malformed(what) => {
                            tracing::error!(?position, what, "a journal record is whole and makes no sense");
                            return Err(LogError::Damaged { file, from: offset, to: next });
                        }
                        Meaning::Unknown { kind, version } => {
                            return Err(LogError::UnknownRecord { kind, version, position });
                        }
                    }
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
        let Some(file) = self.files.pop_front() else { return Ok(false) };
        let shared = &self.reader.shared;
        let from = if file == self.position.file { self.position.offset } else { 0 };
        // Numbers run without a gap: every file is made by the one who wrote the last.
        if self.position.file != 0 && file > self.position.file + 1 {
            let missing = self.position.file + 1;
            self.position = LogPosition { file: missing, offset: 0 };
            self.files.push_front(file);
            return Err(LogError::MissingFile { file: missing });
        }
        let path = file_path(&shared.directory, file);
        let handle = self.reader.open_file(file)?;
        let opening = read_opening(&*handle).map_err(|source| LogError::io("read", &path, source))?;
        let known_end = match self.files.front() {
            Some(&next) if next == file + 1 => self.previous_end_in(next)?,
            _ => None,
        };
        self.position = LogPosition { file, offset: from };
        match opening {
            Opening::Header(header) => {
                check_header(&header, &path, file, shared.store_id)?;
                if let Some(end) = known_end
                    && from > end
                {
                    let end = LogPosition { file, offset: end };
                    return Err(LogError::BeyondEnd { position: self.position, end });
                }
                self.current = Some((file, FileScan::new(handle, header.file_id, known_end, from)));
                Ok(true)
            }
            Opening::Unborn => Ok(true),
            Opening::HeaderDamaged { file_id } => {
                self.current = Some((file, FileScan::new(handle, file_id, known_end, from)));
                let to = crate::format::ALIGNMENT_BYTES as u64;
                Err(LogError::Damaged { file, from: 0, to })
            }
            Opening::Unreadable(what) => {
                tracing::error!(path = %path.display(), what, "a journal file cannot be read");
                let to = handle.metadata().map_err(|source| LogError::io("inspect", &path, source))?.len();
                Err(LogError::Damaged { file, from: 0, to })
            }
        }
    }

    /// What file `file` says about the end of the one before it.
    fn previous_end_in(&self, file: u32) -> Result<Option<u64>, LogError> {
        let handle = self.reader.open_file(file)?;
        let path = file_path(&self.reader.shared.directory, file);
        match read_opening(&*handle).map_err(|source| LogError::io("read", path, source))? {
            Opening::Header(header) => Ok(Some(header.previous_end)),
            _ => Ok(None),
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

pub(crate) fn check_header(
    header: &crate::format::FileHeader,
    path: &Path,
    file: u32,
    store_id: uuid::Uuid,
) -> Result<(), LogError> {
    let readable = crate::format::FORMAT_VERSION;
    if header.version > readable {
        return Err(LogError::NewerVersion { path: path.to_owned(), version: header.version, readable });
    }
    if header.store_id != store_id {
        return Err(LogError::ForeignStore { path: path.to_owned(), found: header.store_id, expected: store_id });
    }
    if header.file != file {
        return Err(LogError::NotAJournal {
            path: path.to_owned(),
            what: "its header has another number than its name",
        });
    }
    Ok(())
}

pub(crate) fn file_path(directory: &Path, file: u32) -> PathBuf {
    directory.join(format!("{file:010}.jnl"))
}

/// Numbers of the journal files in `directory`, ascending. None when it does not exist.
pub(crate) fn list_files(directory: &Path) -> Result<Vec<u32>, LogError> {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(LogError::io("list", directory, error)),
    };
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|source| LogError::io("list", directory, source))?;
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_suffix(".jnl")).filter(|stem| stem.len() == 10);
        if let Some(number) = number.and_then(|stem| stem.parse::<u32>().ok()).filter(|&number| number > 0) {
            files.push(number);
        }
    }
    files.sort_unstable();
    Ok(files)
}
