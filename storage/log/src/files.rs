//! Log files by name, and open for reading: a bounded number of them, however many readers there are.

use crate::format::{FORMAT_VERSION, FileHeader, FileKind};
use crate::io::{InputFile, Io};
use crate::{LogError, VolumeNumber};
use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use uuid::Uuid;

const JOURNAL_SUFFIX: &str = ".jnl";
const SEGMENT_SUFFIX: &str = ".seg";
const NUMBER_DIGITS: usize = 10;

pub(crate) fn journal_path(directory: &Path, file: u32) -> PathBuf {
    directory.join(format!("{file:010}{JOURNAL_SUFFIX}"))
}

pub(crate) fn segment_path(directory: &Path, segment: u32) -> PathBuf {
    directory.join(format!("{segment:010}{SEGMENT_SUFFIX}"))
}

/// Numbers of the journal files in `directory`, ascending. None when it does not exist.
pub(crate) fn list_journal(io: &dyn Io, directory: &Path) -> Result<Vec<u32>, LogError> {
    list(io, directory, JOURNAL_SUFFIX)
}

/// Numbers of the segments in `directory`, ascending. None when it does not exist.
pub(crate) fn list_segments(io: &dyn Io, directory: &Path) -> Result<Vec<u32>, LogError> {
    list(io, directory, SEGMENT_SUFFIX)
}

fn list(io: &dyn Io, directory: &Path, suffix: &str) -> Result<Vec<u32>, LogError> {
    let names = match io.list(directory) {
        Ok(names) => names,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(LogError::io("list", directory, error)),
    };
    let number = |name: &String| {
        let digits = name.strip_suffix(suffix).filter(|digits| digits.len() == NUMBER_DIGITS)?;
        let digits = digits.bytes().all(|byte| byte.is_ascii_digit()).then_some(digits)?;
        digits.parse::<u32>().ok().filter(|&number| number > 0)
    };
    let mut numbers: Vec<u32> = names.iter().filter_map(number).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// Whose log files a directory holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Owner {
    pub store_id: Uuid,
    pub volume: VolumeNumber,
}

/// Whether a file is what its name and its place say, and can be read by this program.
pub(crate) fn check_header(header: &FileHeader, path: &Path, number: u32, owner: Owner) -> Result<(), LogError> {
    let path = || path.to_owned();
    if header.version > FORMAT_VERSION {
        let (version, readable) = (header.version, FORMAT_VERSION);
        return Err(LogError::NewerVersion { path: path(), version, readable });
    }
    if header.store_id != owner.store_id {
        return Err(LogError::ForeignStore { path: path(), found: header.store_id, expected: owner.store_id });
    }
    if header.volume != owner.volume {
        return Err(LogError::ForeignVolume { path: path(), found: header.volume, expected: owner.volume });
    }
    let is_segment = path().extension().is_some_and(|extension| extension == &SEGMENT_SUFFIX[1..]);
    match header.kind {
        _ if header.file != number => {
            Err(LogError::NotALogFile { path: path(), what: "its header has another number than its name" })
        }
        FileKind::Segment { .. } if !is_segment => Err(LogError::NotALogFile { path: path(), what: "it is a segment" }),
        FileKind::Journal { .. } if is_segment => {
            Err(LogError::NotALogFile { path: path(), what: "it is a journal file" })
        }
        _ => Ok(()),
    }
}

/// Log files open for reading, shared by all readers of a store. Cheap to clone.
#[derive(Clone)]
pub struct OpenFiles {
    shared: Arc<Shared>,
}

struct Shared {
    io: Arc<dyn Io>,
    open_max: usize,
    cache: Mutex<Cache>,
}

#[derive(Default)]
struct Cache {
    files: HashMap<PathBuf, Cached>,
    /// Counts uses.
    clock: u64,
}

struct Cached {
    file: Arc<dyn InputFile>,
    used_at: u64,
}

impl OpenFiles {
    /// Keeps at most `open_max` files open, besides those that are being read from at the moment.
    pub fn new(io: Arc<dyn Io>, open_max: usize) -> Self {
        Self { shared: Arc::new(Shared { io, open_max, cache: Mutex::default() }) }
    }

    pub fn io(&self) -> &Arc<dyn Io> {
        &self.shared.io
    }

    /// Closes what lies in `directory`, or is that file: a file that was removed takes space until it is closed, and a file
    /// system with open files cannot be unmounted.
    pub fn forget(&self, path: &Path) {
        self.cache().files.retain(|open, _| !open.starts_with(path));
    }

    /// Reads `length` bytes at `offset`, fewer at the end of the file, and gives what `check` makes of them. What fails on a
    /// file that was open before is tried once more on the file opened anew.
    pub(crate) fn read<T>(
        &self,
        path: &Path,
        offset: u64,
        length: usize,
        check: impl Fn(Vec<u8>) -> Result<T, LogError>,
    ) -> Result<T, LogError> {
        let read = |file: Arc<dyn InputFile>| {
            let mut bytes = vec![0; length];
            let filled = file.read_at(&mut bytes, offset).map_err(|source| LogError::io("read", path, source))?;
            bytes.truncate(filled);
            check(bytes)
        };
        if let Some(file) = self.cached(path)
            && let Ok(value) = read(file)
        {
            return Ok(value);
        }
        read(self.open(path)?)
    }

    fn cached(&self, path: &Path) -> Option<Arc<dyn InputFile>> {
        let mut cache = self.cache();
        cache.clock += 1;
        let now = cache.clock;
        let cached = cache.files.get_mut(path)?;
        cached.used_at = now;
        Some(Arc::clone(&cached.file))
    }

    /// Opens a file anew: one that was open before may have been replaced, or its device have gone and come back.
    ///
    /// # Errors
    /// [`LogError::Retired`] when it is not there.
    pub(crate) fn open(&self, path: &Path) -> Result<Arc<dyn InputFile>, LogError> {
        // Without the lock: a slow disk must not hold up who reads from another.
        let opened = self.shared.io.open(path);
        let mut cache = self.cache();
        cache.files.remove(path);
        let file = opened.map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => LogError::Retired { path: path.to_owned() },
            _ => LogError::io("open", path, source),
        })?;
        while cache.files.len() >= self.shared.open_max {
            let oldest = cache.files.iter().min_by_key(|(_, cached)| cached.used_at).map(|(path, _)| path.clone());
            let Some(oldest) = oldest else { return Ok(file) };
            cache.files.remove(&oldest);
        }
        cache.clock += 1;
        let used_at = cache.clock;
        cache.files.insert(path.to_owned(), Cached { file: Arc::clone(&file), used_at });
        Ok(file)
    }

    fn cache(&self) -> std::sync::MutexGuard<'_, Cache> {
        self.shared.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
