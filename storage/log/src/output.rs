//! A log file being written: its header, then flushes. Journal files and segments are written by this alone.
//!
//! Constraints: nothing counts as durable before fdatasync has returned for writes that had all completed. No block of the file
//! is written twice, so that what was durable cannot be torn later: every flush ends with padding up to 4096 bytes and the
//! next one begins behind it. Nothing of a flush is written before the flush before it is durable: its sync record says
//! so. Nothing waits for the device but `create`, `close`, `give_up`, whatever has `wait`, and `append` when the buffers are full.

use crate::LogError;
use crate::backlog::{Backlog, OVERHEAD_BYTES};
use crate::block::{Block, Memory};
use crate::format::{ALIGNMENT_BYTES, FileHeader, SYNC_BYTES, Sync, aligned, encode_sync};
use crate::io::{Io, NewFile, OutputFile, Progress, Write};
use std::io;
use std::path::{Path, PathBuf};
use uuid::Uuid;

const HEADER_BYTES: u64 = ALIGNMENT_BYTES as u64;

/// The memory that a log file is written from, and how.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct OutputOptions {
    pub(crate) blocks: u16,
    /// A multiple of 4096.
    pub(crate) block_bytes: usize,
    /// Write past the page cache where the file system can.
    pub(crate) direct: bool,
}

/// A log file being written.
///
/// `append` records, `begin_flush`, and `poll_flush` until it gives the end of the flush; meanwhile further records can be
/// appended, which the next flush takes. `close` flushes what is left. After an error nothing more becomes durable in the file.
///
/// There are two ways with what is written and not durable yet. A file that `continue_with` has made, for a journal, keeps it in
/// memory, and `give_up` gives it back; when the buffers are full, an append waits for a flush. One from `create` or `extend`, for
/// a segment, does not keep it: a flush may be of any length, whatever the buffers are, and what a failure takes is copied again.
pub(crate) struct LogFile {
    output: Box<dyn OutputFile>,
    path: PathBuf,
    id: Uuid,
    keep: bool,
    backlog: Backlog,
    /// Where the flush begins whose blocks are being written.
    flush_start: u64,
    /// Flushes of which something was written.
    sequence: u64,
    flight: Option<Flight>,
    /// Written, but not durable; only with `keep`.
    written: Vec<Write>,
    failure: Option<io::Error>,
    failed: bool,
    written_bytes: u64,
}

/// A flush that was begun.
struct Flight {
    end: u64,
    syncing: bool,
}

impl LogFile {
    /// Makes a file with its header; when this returns, both its name and its header are durable. The header tells the file's
    /// id and how much to preallocate.
    ///
    /// # Errors
    /// Nothing of the file is left, if the file system lets go of it.
    pub(crate) fn create(
        io: &dyn Io,
        path: &Path,
        header: &FileHeader,
        options: OutputOptions,
    ) -> Result<Self, LogError> {
        let backlog = allocate(path, options, HEADER_BYTES)?;
        let output = begin(io, path, header, backlog.memory(), options.direct)?;
        Ok(Self::new(output, path, header.file_id, backlog, false))
    }

    /// Goes on in a file that is there, at `offset`, a multiple of 4096 behind which nothing was ever acknowledged, and which `sequence`
    /// flushes go before. Space is set aside up to `bytes`.
    pub(crate) fn extend(
        io: &dyn Io,
        path: &Path,
        id: Uuid,
        (offset, sequence): (u64, u64),
        bytes: u64,
        options: OutputOptions,
    ) -> Result<Self, LogError> {
        assert!(offset.is_multiple_of(HEADER_BYTES), "a flush begins at a multiple of 4096");
        let backlog = allocate(path, options, offset)?;
        let new = NewFile { bytes, direct: options.direct, memory: backlog.memory().clone() };
        let output = io.extend(path, &new).map_err(|source| LogError::io("open", path, source))?;
        Ok(Self { sequence, written_bytes: 0, ..Self::new(output, path, id, backlog, false) })
    }

    /// Goes on in a file that [`begin`] has made, with what another file has left.
    pub(crate) fn continue_with(output: Box<dyn OutputFile>, path: &Path, id: Uuid, mut backlog: Backlog) -> Self {
        backlog.rebase(HEADER_BYTES);
        let mut file = Self::new(output, path, id, backlog, true);
        file.submit_ready();
        file
    }

    fn new(output: Box<dyn OutputFile>, path: &Path, id: Uuid, backlog: Backlog, keep: bool) -> Self {
        Self {
            output,
            path: path.to_owned(),
            id,
            keep,
            flush_start: backlog.start(),
            backlog,
            sequence: 0,
            flight: None,
            written: Vec::new(),
            failure: None,
            failed: false,
            written_bytes: HEADER_BYTES,
        }
    }

    /// Takes a record, whose bytes are `parts` together, and gives its offset.
    ///
    /// # Errors
    /// The file has failed; the record is not in it.
    pub(crate) fn append(&mut self, parts: &[&[u8]]) -> Result<u64, LogError> {
        self.make_room(parts.iter().map(|part| part.len()).sum())?;
        Ok(self.push(parts))
    }

    /// As [`Self::append`]; there is room.
    pub(crate) fn push(&mut self, parts: &[&[u8]]) -> u64 {
        let offset = self.backlog.push(parts);
        if self.flight.is_none() && !self.failed {
            self.submit_ready();
        }
        offset
    }

    /// The longest record that [`Self::append`] takes without waiting.
    pub(crate) fn room(&self) -> usize {
        self.backlog.room()
    }

    fn make_room(&mut self, bytes: usize) -> Result<(), LogError> {
        while self.backlog.room() < bytes {
            if self.keep {
                self.flush()?;
            } else if self.flight.is_some() {
                self.poll_flush(true)?;
            } else {
                let progress = self.output.poll(true);
                let idle = self.take(progress);
                self.check()?;
                assert!(!idle || self.backlog.room() >= bytes, "with nothing in flight the buffers are free");
            }
        }
        Ok(())
    }

    /// Begins a flush of everything appended. Does nothing while one is in flight, and when there is nothing to flush.
    pub(crate) fn begin_flush(&mut self) {
        if self.flight.is_some() || !self.backlog.is_gathering() || self.failed {
            return;
        }
        self.backlog.end_flush();
        self.submit_ready();
        self.flight = Some(Flight { end: self.backlog.gathering(), syncing: false });
    }

    /// Whether the flush in flight is over: then the offset before which everything is durable now. `None` also when none
    /// is in flight. With `wait`, waits for it.
    pub(crate) fn poll_flush(&mut self, wait: bool) -> Result<Option<u64>, LogError> {
        loop {
            let progress = self.output.poll(wait);
            let synced = progress.synced;
            if !self.take(progress) {
                if wait {
                    continue;
                }
                return Ok(None);
            }
            self.check()?;
            let Some(flight) = &mut self.flight else { return Ok(None) };
            if !flight.syncing {
                flight.syncing = true;
                self.output.begin_sync();
            } else {
                assert!(synced, "a sync that is over has succeeded or failed");
                let end = flight.end;
                self.flight = None;
                self.backlog.advance(end);
                for write in self.written.drain(..) {
                    self.backlog.recycle(write.block);
                }
                self.flush_start = end;
                self.submit_ready();
                return Ok(Some(end));
            }
        }
    }

    /// Makes durable everything appended. Waits.
    pub(crate) fn flush(&mut self) -> Result<(), LogError> {
        while !self.is_durable() {
            self.begin_flush();
            self.poll_flush(true)?;
        }
        self.check()
    }

    pub(crate) fn is_flushing(&self) -> bool {
        self.flight.is_some()
    }

    /// Everything appended is durable.
    pub(crate) fn is_durable(&self) -> bool {
        self.backlog.end() == self.backlog.start()
    }

    /// Everything before this offset is durable.
    pub(crate) fn durable(&self) -> u64 {
        self.backlog.start()
    }

    /// Where the next record goes; if it is the first of a flush, a sync record goes before it.
    pub(crate) fn end(&self) -> u64 {
        self.backlog.end()
    }

    /// How long the file is at most, when a record of `bytes` is appended and flushed.
    pub(crate) fn end_with(&self, bytes: usize) -> u64 {
        self.backlog.end() + (aligned(bytes) + OVERHEAD_BYTES) as u64
    }

    pub(crate) fn output(&self) -> &dyn OutputFile {
        &*self.output
    }

    /// Bytes given to the file: header, records, padding.
    pub(crate) fn written_bytes(&self) -> u64 {
        self.written_bytes
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Flushes what is left, gives back what was preallocated behind it, and closes the file.
    pub(crate) fn close(mut self) -> Result<(), LogError> {
        self.flush()?;
        self.give_up();
        Ok(())
    }

    /// Closes the file at its last durable flush, and gives what is not durable. Waits for what is in flight.
    pub(crate) fn give_up(mut self) -> Backlog {
        while !{
            let progress = self.output.poll(true);
            self.take(progress)
        } {}
        if let Err(error) = self.output.set_len(self.backlog.start()) {
            // Costs space, loses nothing.
            tracing::warn!(path = %self.path.display(), %error, "cannot give back what was preallocated for a file");
        }
        if self.keep {
            self.backlog.take_back(self.written);
        }
        self.backlog
    }

    /// Whether nothing is in flight any more.
    fn take(&mut self, progress: Progress) -> bool {
        for write in progress.writes {
            if self.keep {
                self.written.push(write);
            } else {
                self.backlog.recycle(write.block);
            }
        }
        if let Some(error) = progress.failure {
            self.failed = true;
            self.failure.get_or_insert(error);
        }
        progress.idle
    }

    /// The failure, once nothing is in flight.
    fn check(&mut self) -> Result<(), LogError> {
        if !self.failed {
            return Ok(());
        }
        let source = self.failure.take().unwrap_or_else(|| io::Error::other("the file has failed before"));
        Err(LogError::io("write", &self.path, source))
    }

    fn submit_ready(&mut self) {
        while let Some(mut write) = self.backlog.pop_ready() {
            if write.offset == self.flush_start {
                self.sequence += 1;
                let sync = Sync { file_id: self.id, sequence: self.sequence };
                write.block[..SYNC_BYTES].copy_from_slice(&encode_sync(sync));
            }
            self.written_bytes += write.length as u64;
            self.output.submit(write);
        }
    }
}

/// Makes a log file with its header; when this returns, both its name and its header are durable.
///
/// # Errors
/// Nothing of the file is left, if the file system lets go of it.
pub(crate) fn begin(
    io: &dyn Io,
    path: &Path,
    header: &FileHeader,
    memory: &Memory,
    direct: bool,
) -> Result<Box<dyn OutputFile>, LogError> {
    let mut block = Block::allocate(1, ALIGNMENT_BYTES)
        .map_err(|source| LogError::io("allocate buffers for", path, source))?
        .pop()
        .expect("one block was asked for");
    block.copy_from_slice(&header.encode());
    let new = NewFile { bytes: header.preallocated_bytes, direct, memory: memory.clone() };
    let made = io.create(path, &new).and_then(|mut output| {
        output.submit(Write { block, length: ALIGNMENT_BYTES, offset: 0 });
        wait_until_idle(&mut *output)?;
        output.begin_sync();
        wait_until_idle(&mut *output)?;
        let directory = path.parent().ok_or_else(|| io::Error::other("the file has no directory"))?;
        io.sync_directory(directory)?;
        Ok(output)
    });
    made.map_err(|source| {
        if source.kind() != io::ErrorKind::AlreadyExists {
            match io.remove(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(path = %path.display(), %error, "cannot remove a file that could not be finished");
                }
                _ => {}
            }
        }
        LogError::io("create", path, source)
    })
}

fn allocate(path: &Path, options: OutputOptions, start: u64) -> Result<Backlog, LogError> {
    Backlog::allocate(options.blocks, options.block_bytes, start)
        .map_err(|source| LogError::io("allocate buffers for", path, source))
}

fn wait_until_idle(output: &mut dyn OutputFile) -> io::Result<()> {
    loop {
        let progress = output.poll(true);
        if let Some(error) = progress.failure {
            return Err(error);
        }
        if progress.idle {
            return Ok(());
        }
    }
}
