//! A window over a file, which grows only as far as one record needs.

use crate::CaptureError;
use crate::file::MAX_BLOCK_BYTES;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

const READ_BYTES: usize = 256 * 1024;

#[derive(Debug)]
pub(super) struct Input {
    path: PathBuf,
    file: File,
    file_length: u64,
    /// File offset of `buffer[start]`.
    offset: u64,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl Input {
    pub(super) fn open(path: &Path) -> Result<Self, CaptureError> {
        let failed = |operation| move |source| CaptureError::File { path: path.to_owned(), operation, source };
        let file = File::open(path).map_err(failed("open"))?;
        let metadata = file.metadata().map_err(failed("read its size"))?;
        if metadata.is_dir() {
            return Err(failed("open")(io::Error::from(io::ErrorKind::IsADirectory)));
        }
        Ok(Self {
            path: path.to_owned(),
            file,
            file_length: metadata.len(),
            offset: 0,
            buffer: vec![0; READ_BYTES],
            start: 0,
            end: 0,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn file_length(&self) -> u64 {
        self.file_length
    }

    /// File offset of the first available byte.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    pub(super) fn available(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// Makes at least `need` bytes available; false when the file ends before.
    pub(super) fn fill(&mut self, need: usize) -> Result<bool, CaptureError> {
        assert!(need <= MAX_BLOCK_BYTES, "readers bound their records");
        if self.end - self.start >= need {
            return Ok(true);
        }
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        if self.buffer.len() < need {
            self.buffer.resize(need, 0);
        }
        while self.end < need {
            match self.file.read(&mut self.buffer[self.end..]) {
                Ok(0) => return Ok(false),
                Ok(bytes) => self.end += bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(CaptureError::File { path: self.path.clone(), operation: "read", source }),
            }
        }
        Ok(true)
    }

    /// Shows the first `length` available bytes, then consumes them, also when `show` panics.
    pub(super) fn hand_over(&mut self, length: usize, show: impl FnOnce(&[u8])) {
        let start = self.start;
        self.consume(length);
        show(&self.buffer[start..start + length]);
    }

    pub(super) fn consume(&mut self, length: usize) {
        assert!(length <= self.end - self.start, "only what is available can be consumed");
        self.start += length;
        self.offset += length as u64;
    }

    /// Consumes `length` bytes, which may lie beyond what is available; false when the file ends before.
    pub(super) fn skip(&mut self, length: u64) -> Result<bool, CaptureError> {
        let available = (self.end - self.start) as u64;
        if length <= available {
            self.consume(usize::try_from(length).expect("within the buffer"));
            return Ok(true);
        }
        let target = self.offset.saturating_add(length);
        self.start = self.end;
        self.offset += available;
        if target > self.file_length {
            return Ok(false);
        }
        self.file.seek(SeekFrom::Start(target)).map_err(|source| CaptureError::File {
            path: self.path.clone(),
            operation: "seek",
            source,
        })?;
        self.offset = target;
        Ok(true)
    }

    pub(super) fn corrupt(&self, cause: &'static str) -> CaptureError {
        CaptureError::Corrupt { path: self.path.clone(), offset: self.offset, cause }
    }
}
