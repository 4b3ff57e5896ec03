//! The writer of a volume's journal.
//!
//! Constraints: as [`crate::output`] has them for one file. Memory is what the configuration says; nothing is allocated per chunk.
//!
//! When a write or a sync fails, the file is given up at its last durable position (the next file's header tells where that
//! is), and everything since is written to a new file. When that cannot be made or fails too, the journal has *failed*: it
//! holds no file open, the records stay in memory until the buffers are full, and the caller decides: [`Journal::retry`],
//! or [`Journal::take_unflushed`] and another volume.

use crate::backlog::Backlog;
use crate::files::{Owner, journal_path, list_journal};
use crate::format::{
    ALIGNMENT_BYTES, FORMAT_VERSION, FileHeader, FileKind, Frame, RECORD_BYTES_MAX, TYPE_CHUNK, TYPE_FACT,
    decode_frame, encode_chunk, encode_fact,
};
use crate::io::{Io, random_id};
use crate::output::{self, LogFile};
use crate::recover::recover;
use crate::{
    ChunkHeader, FactRecord, Flushed, Identity, JournalConfig, JournalStatistics, Located, LogError, LogPosition, Move,
    Unflushed,
};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

const HEADER_BYTES: u64 = ALIGNMENT_BYTES as u64;

/// Appends chunks and facts. Belongs to one thread at a time.
pub struct Journal {
    io: Arc<dyn Io>,
    directory: PathBuf,
    identity: Identity,
    config: JournalConfig,
    /// Number of the file at hand.
    number: u32,
    target: Target,
    /// Making the next file has failed, and it may have been left behind.
    next_may_exist: bool,
    /// [`Self::begin_flush`] was called, and its end not reported yet.
    requested: bool,
    flush_began: Option<Instant>,
    /// A file has failed since the last flush succeeded.
    failed_before: bool,
    moves: Vec<Move>,
    statistics: JournalStatistics,
}

/// Where records go.
enum Target {
    File(LogFile),
    /// No file: the last one has failed, or a new one is being made.
    Memory(Backlog),
    /// Only while one of the others becomes the other.
    Nothing,
}

impl Journal {
    /// Opens the journal in `directory`, which is made if need be, and begins a new file in it. What the last run left
    /// behind its last whole record is cut off, in the sense that the new file's header says where the old one ends.
    /// Everything before `known_durable` was durable once, as somebody remembers: what cannot be read of it is damage.
    ///
    /// # Errors
    /// Files of another store or volume or of a later version, a file system without space, wrong permissions.
    pub fn open(
        io: Arc<dyn Io>,
        directory: &Path,
        identity: &Identity,
        config: &JournalConfig,
        known_durable: LogPosition,
    ) -> Result<Self, LogError> {
        let blocks = config.blocks()?;
        make_directory(&*io, directory)?;
        let owner = Owner { store_id: identity.store_id, volume: identity.volume };
        let end = recover(&*io, directory, owner, known_durable)?;
        let backlog = Backlog::allocate(blocks, config.block_bytes, end.offset)
            .map_err(|source| LogError::io("allocate buffers for", directory, source))?;
        let mut journal = Self {
            io,
            directory: directory.to_owned(),
            identity: identity.clone(),
            config: config.clone(),
            number: end.file,
            target: Target::Memory(backlog),
            next_may_exist: false,
            requested: false,
            flush_began: None,
            failed_before: false,
            moves: Vec::new(),
            statistics: JournalStatistics::default(),
        };
        journal.begin_file()?;
        Ok(journal)
    }

    /// Takes a chunk. It is durable when a flush that began later is over. Waits only when the buffers are full, or
    /// when a new file has to be begun, for the time of a flush: [`Self::takes`] tells.
    ///
    /// # Errors
    /// The chunk is then not in the journal; what was appended before is.
    pub fn append_chunk(&mut self, header: &ChunkHeader, payload: &[u8]) -> Result<Located, LogError> {
        let head = encode_chunk(header, payload)?;
        let located = self.append(&[&head, payload])?;
        self.statistics.chunks += 1;
        Ok(located)
    }

    /// Takes a fact; as [`Self::append_chunk`].
    pub fn append_fact(&mut self, fact: &FactRecord) -> Result<Located, LogError> {
        let (head, body) = encode_fact(fact)?;
        let located = self.append(&[&head, &body])?;
        self.statistics.facts += 1;
        Ok(located)
    }

    /// Takes the bytes of a whole record, as [`Self::take_unflushed`] of another journal gave them.
    pub fn append_raw(&mut self, record: &[u8]) -> Result<Located, LogError> {
        let kind = match decode_frame(record) {
            Frame::Record(found) if found.length as usize == record.len() => found.kind,
            _ => panic!("the bytes are one whole record"),
        };
        let located = self.append(&[record])?;
        self.statistics.chunks += u64::from(kind == TYPE_CHUNK);
        self.statistics.facts += u64::from(kind == TYPE_FACT);
        Ok(located)
    }

    /// Whether a record of so many bytes can be appended without waiting for the device.
    pub fn takes(&self, bytes: usize) -> bool {
        bytes <= self.room() && (self.has_failed() || self.fits(bytes))
    }

    /// Begins to make durable what was appended. Does nothing while a flush is in flight: what was appended since
    /// that began waits for the next one.
    pub fn begin_flush(&mut self) {
        self.requested = true;
        if let Target::File(file) = &mut self.target
            && !file.is_flushing()
        {
            self.flush_began = Some(Instant::now());
            file.begin_flush();
        }
    }

    /// Whether the flush is over that [`Self::begin_flush`] has begun. `None` while it is not, and when there is none. With
    /// `wait`, waits for it; without, waits only to begin a new file when the one at hand fails. What was returned by `append_…` before may have moved: [`Flushed::locate`].
    ///
    /// # Errors
    /// The journal has failed. Nothing appended is lost yet: it waits in memory.
    pub fn poll_flush(&mut self, wait: bool) -> Result<Option<Flushed>, LogError> {
        if !self.requested {
            return Ok(None);
        }
        match self.advance(wait) {
            Ok(false) => Ok(None),
            Ok(true) => {
                self.requested = false;
                Ok(Some(self.flushed()))
            }
            Err(error) => {
                self.requested = false;
                Err(error)
            }
        }
    }

    /// Makes durable everything appended. Waits. A journal that has failed is tried again first.
    ///
    /// # Errors
    /// As [`Self::poll_flush`].
    pub fn flush(&mut self) -> Result<Flushed, LogError> {
        self.retry()?;
        self.flush_all()?;
        self.requested = false;
        Ok(self.flushed())
    }

    /// Everything before this position is durable.
    pub fn durable(&self) -> LogPosition {
        let offset = match &self.target {
            Target::File(file) => file.durable(),
            target => target.backlog().start(),
        };
        LogPosition { file: self.number, offset }
    }

    /// No file can be written at present. Appending goes on until the buffers are full.
    pub fn has_failed(&self) -> bool {
        matches!(self.target, Target::Memory(_))
    }

    /// Begins a new file when the journal has failed; does nothing otherwise. What waits in memory goes there with the
    /// next flush.
    pub fn retry(&mut self) -> Result<(), LogError> {
        if self.has_failed() {
            self.begin_file()?;
            self.failed_before = false;
        }
        Ok(())
    }

    /// Takes out of a failed journal what is not durable, so that it can go to another one.
    ///
    /// # Panics
    /// The journal has not failed.
    pub fn take_unflushed(&mut self) -> Unflushed {
        let flushed = self.flushed();
        let number = self.number;
        let Target::Memory(backlog) = &mut self.target else { panic!("only a failed journal gives its records away") };
        let located = |(offset, record): (u64, Vec<u8>)| {
            let position = LogPosition { file: number, offset };
            (Located { position, length: record.len() as u32 }, record)
        };
        Unflushed { flushed, records: backlog.drain().into_iter().map(located).collect() }
    }

    /// Removes the files before `file`, lowest first: whenever that is interrupted, what is left has no gap.
    /// Gives the number of files removed.
    pub fn remove_files_before(&mut self, file: u32) -> Result<u32, LogError> {
        assert!(file <= self.number, "the file at hand stays");
        let mut removed = 0;
        for number in list_journal(&*self.io, &self.directory)?.into_iter().take_while(|&number| number < file) {
            let path = journal_path(&self.directory, number);
            self.io.remove(&path).map_err(|source| LogError::io("remove", &path, source))?;
            self.io.sync_directory(&self.directory).map_err(|source| LogError::io("sync", &self.directory, source))?;
            removed += 1;
        }
        Ok(removed)
    }

    pub fn statistics(&self) -> JournalStatistics {
        let (pending_bytes, written_bytes, io_uring) = match &self.target {
            Target::File(file) => (file.end() - file.durable(), file.written_bytes(), file.output().uses_ring()),
            target => (target.backlog().end() - target.backlog().start(), 0, false),
        };
        JournalStatistics {
            durable: self.durable(),
            pending_bytes,
            written_bytes: self.statistics.written_bytes + written_bytes,
            failed: self.has_failed(),
            io_uring,
            ..self.statistics.clone()
        }
    }

    fn flushed(&mut self) -> Flushed {
        Flushed { durable: self.durable(), moves: std::mem::take(&mut self.moves) }
    }

    fn append(&mut self, parts: &[&[u8]]) -> Result<Located, LogError> {
        let length = parts.iter().map(|part| part.len()).sum();
        self.make_room(length)?;
        let offset = match &mut self.target {
            Target::File(file) => file.push(parts),
            target => target.backlog_mut().push(parts),
        };
        Ok(Located { position: LogPosition { file: self.number, offset }, length: length as u32 })
    }

    fn room(&self) -> usize {
        match &self.target {
            Target::File(file) => file.room(),
            target => target.backlog().room(),
        }
    }

    /// The file at hand is long enough for a record more.
    fn fits(&self, bytes: usize) -> bool {
        match &self.target {
            Target::File(file) => file.end_with(bytes) <= self.config.file_bytes,
            _ => true,
        }
    }

    /// Makes sure that a record of `bytes` fits into the file and into the buffers.
    fn make_room(&mut self, bytes: usize) -> Result<(), LogError> {
        let full = |error| LogError::BuffersFull { source: Box::new(error) };
        if !self.fits(bytes) {
            self.flush_all().map_err(full)?;
            // A flush that failed and found a new file has made the room already.
            if !self.fits(bytes) {
                self.give_up();
                if let Err(error) = self.begin_file() {
                    // The record waits in memory; the next flush reports it.
                    tracing::error!(%error, "no new journal file can be begun");
                }
            }
        }
        if self.room() < bytes {
            self.statistics.flushes_forced += 1;
            self.flush_all().map_err(full)?;
            assert!(self.room() >= bytes, "after a flush the buffers are free");
        }
        Ok(())
    }

    fn flush_all(&mut self) -> Result<(), LogError> {
        loop {
            match &mut self.target {
                Target::File(file) if file.is_durable() => return Ok(()),
                Target::File(file) if !file.is_flushing() => {
                    self.flush_began = Some(Instant::now());
                    file.begin_flush();
                }
                _ => {}
            }
            self.advance(true)?;
        }
    }

    /// Moves the flush in flight on; true when none is in flight any more. A file that fails is replaced, once.
    fn advance(&mut self, wait: bool) -> Result<bool, LogError> {
        loop {
            let Target::File(file) = &mut self.target else {
                return Err(LogError::Failed { path: self.directory.clone() });
            };
            let error = match file.poll_flush(wait) {
                Ok(None) => return Ok(!file.is_flushing()),
                Ok(Some(_)) => {
                    self.failed_before = false;
                    self.count_flush();
                    return Ok(true);
                }
                Err(error) => error,
            };
            let good_until = file.durable();
            tracing::error!(%error, file = self.number, good_until, "a journal file has failed");
            self.statistics.failures += 1;
            self.give_up();
            if std::mem::replace(&mut self.failed_before, true) {
                return Err(error);
            }
            self.begin_file()?;
            if let Target::File(file) = &mut self.target {
                file.begin_flush();
            }
        }
    }

    fn count_flush(&mut self) {
        let elapsed = self.flush_began.take().map_or(0, |began| began.elapsed().as_nanos());
        let elapsed_ns = u64::try_from(elapsed).unwrap_or(u64::MAX);
        self.statistics.flushes += 1;
        self.statistics.flush_ns_last = elapsed_ns;
        self.statistics.flush_ns_max = self.statistics.flush_ns_max.max(elapsed_ns);
    }

    /// Closes the file at hand; what is not durable in it stays in memory.
    fn give_up(&mut self) {
        if let Target::File(file) = std::mem::replace(&mut self.target, Target::Nothing) {
            self.statistics.written_bytes += file.written_bytes();
            self.target = Target::Memory(file.give_up());
        }
    }

    /// Begins the file behind the last one. What waits in memory goes there.
    fn begin_file(&mut self) -> Result<(), LogError> {
        let backlog = self.target.backlog();
        let number = self.number.checked_add(1).expect("4 billion journal files are out of reach");
        let path = journal_path(&self.directory, number);
        if self.next_may_exist {
            match self.io.remove(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(LogError::io("remove", &path, error));
                }
                _ => self.next_may_exist = false,
            }
        }
        let header = FileHeader {
            version: FORMAT_VERSION,
            store_id: self.identity.store_id,
            volume: self.identity.volume,
            volume_id: self.identity.volume_id,
            boot_id: self.io.boot_id(),
            file_id: random_id(&*self.io).map_err(|source| LogError::io("draw an id for", &path, source))?,
            file: number,
            preallocated_bytes: self.config.file_bytes,
            created_at: self.io.now(),
            node: self.identity.node.0.clone(),
            kind: FileKind::Journal { previous_end: backlog.start() },
        };
        let output = match output::begin(&*self.io, &path, &header, backlog.memory(), self.config.direct_io) {
            Ok(output) => output,
            Err(error) => {
                // If the name was taken, that file is not ours.
                let taken =
                    matches!(&error, LogError::Io { source, .. } if source.kind() == io::ErrorKind::AlreadyExists);
                self.next_may_exist = !taken;
                return Err(error);
            }
        };
        tracing::info!(path = %path.display(), direct_io = output.direct(), preallocated = output.preallocated(),
            io_uring = output.uses_ring(), "journal file begun");
        self.statistics.direct_io = output.direct();
        self.statistics.files_created += 1;
        if backlog.end() > backlog.start() {
            self.moves.push(Move {
                from: LogPosition { file: self.number, offset: backlog.start() },
                to: LogPosition { file: number, offset: HEADER_BYTES },
            });
        }
        self.number = number;
        if let Target::Memory(backlog) = std::mem::replace(&mut self.target, Target::Nothing) {
            self.target = Target::File(LogFile::continue_with(output, &path, header.file_id, backlog));
        }
        Ok(())
    }
}

impl Target {
    fn backlog(&self) -> &Backlog {
        match self {
            Self::Memory(backlog) => backlog,
            _ => unreachable!("no file is at hand"),
        }
    }

    fn backlog_mut(&mut self) -> &mut Backlog {
        match self {
            Self::Memory(backlog) => backlog,
            _ => unreachable!("no file is at hand"),
        }
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        if !matches!(self.target, Target::File(_)) && self.statistics().pending_bytes == 0 {
            return;
        }
        match self.flush_all() {
            Ok(()) => self.give_up(),
            Err(error) => tracing::error!(%error, "the last records could not be made durable"),
        }
    }
}

impl JournalConfig {
    /// Checks the sizes and gives the number of blocks.
    pub(crate) fn blocks(&self) -> Result<u16, LogError> {
        let wrong = |what| Err(LogError::Configuration { what });
        if self.block_bytes == 0 || !self.block_bytes.is_multiple_of(ALIGNMENT_BYTES) {
            return wrong("block_bytes is not a multiple of 4096");
        }
        let count = self.buffer_bytes / self.block_bytes;
        if count < 4 || self.buffer_bytes < 2 * RECORD_BYTES_MAX {
            return wrong("buffer_bytes is less than 2 MiB or than four blocks");
        }
        if self.file_bytes < 2 * self.buffer_bytes as u64 || !self.file_bytes.is_multiple_of(HEADER_BYTES) {
            return wrong("file_bytes is less than twice buffer_bytes, or not a multiple of 4096");
        }
        match u16::try_from(count) {
            Ok(count) if count <= 4096 => Ok(count),
            _ => wrong("buffer_bytes holds more than 4096 blocks"),
        }
    }
}

fn make_directory(io: &dyn Io, directory: &Path) -> Result<(), LogError> {
    match io.create_directory(directory) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(LogError::io("create", directory, error)),
    }
    // Also when it was there: the process that made it may have died before this.
    let parent = directory.parent().unwrap_or(Path::new(""));
    io.sync_directory(parent).map_err(|source| LogError::io("sync", parent, source))
}
