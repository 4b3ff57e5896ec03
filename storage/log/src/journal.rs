//! The writer of the journal.
//!
//! Constraints: nothing is acknowledged before fdatasync has returned for a file whose writes had all completed. No block of
//! a file is written twice, so that what was durable cannot be torn later: every flush ends with padding up to 4096 bytes
//! and the next one begins behind it. Memory is what the configuration says; nothing is allocated per chunk.
//!
//! When a write or a sync fails, the file is given up at its last good position (the next file's header tells where that
//! is), and everything since is written to a new file. If even that cannot be made, the records stay in memory, and every
//! flush tries again, until the buffers are full.

use crate::block::Block;
use crate::disk::{Disk, Write};
use crate::format::{
    ALIGNMENT_BYTES, FORMAT_VERSION, FileHeader, RECORD_ALIGNMENT_BYTES, RECORD_BYTES_MAX, SYNC_BYTES, Sync, aligned,
    encode_chunk, encode_fact, encode_sync, fill_padding,
};
use crate::reader::{check_header, file_path, list_files};
use crate::ring::RingDisk;
use crate::scan::{FileScan, Opening, Step, read_opening};
use crate::{
    ChunkHeader, Fact, Flushed, Identity, JournalConfig, JournalStatistics, Located, LogError, LogPosition, Move,
};
use sidetone_model::CaptureTime;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime, UNIX_EPOCH};
use uuid::Uuid;

const SYNC_ALIGNED_BYTES: usize = SYNC_BYTES.next_multiple_of(RECORD_ALIGNMENT_BYTES);
const HEADER_BYTES: u64 = ALIGNMENT_BYTES as u64;

/// Appends chunks and facts. Belongs to one thread at a time.
pub struct Journal {
    disk: Box<dyn Disk>,
    directory: PathBuf,
    identity: Identity,
    boot_id: Uuid,
    config: JournalConfig,
    file: CurrentFile,
    /// The current file failed: nothing more is written to it.
    failed: bool,
    /// Blocks that nothing waits in.
    free: Vec<Block>,
    filling: Option<Filling>,
    /// Writes that came back from a failed file and have to go to the next one.
    retained: Vec<Write>,
    moves: Vec<Move>,
    statistics: JournalStatistics,
}

struct CurrentFile {
    number: u32,
    id: Uuid,
    /// Everything before is durable; the flush being gathered begins here. A multiple of 4096.
    flush_offset: u64,
    /// Where the next record goes.
    end_offset: u64,
    /// Flushes begun in this file.
    sequence: u64,
}

/// The block that records are copied into.
struct Filling {
    block: Block,
    used: usize,
    /// Where the block goes in the file.
    offset: u64,
}

impl Journal {
    /// Opens the journal in `directory`, which is made if need be, and begins a new file in it. What the last run left
    /// behind its last whole record is cut off, in the sense that the new file's header says where the old one ends.
    ///
    /// # Errors
    /// Files of another store or a later version, a file system without space, wrong permissions.
    pub fn open(directory: &Path, identity: &Identity, config: &JournalConfig) -> Result<Self, LogError> {
        let blocks = allocate_blocks(config)?;
        let disk = RingDisk::new(&blocks, config.direct_io)
            .map_err(|source| LogError::io("set up buffers for", directory, source))?;
        Self::open_on(Box::new(disk), blocks, directory, identity, config)
    }

    pub(crate) fn open_on(
        disk: Box<dyn Disk>,
        blocks: Vec<Block>,
        directory: &Path,
        identity: &Identity,
        config: &JournalConfig,
    ) -> Result<Self, LogError> {
        make_directory(directory)?;
        let last = recover_last_file(directory, identity)?;
        let mut journal = Self {
            disk,
            directory: directory.to_owned(),
            identity: identity.clone(),
            boot_id: boot_id(),
            config: config.clone(),
            file: CurrentFile {
                number: last.file,
                id: Uuid::nil(),
                flush_offset: last.offset,
                end_offset: last.offset,
                sequence: 0,
            },
            failed: false,
            free: blocks,
            filling: None,
            retained: Vec::new(),
            moves: Vec::new(),
            statistics: JournalStatistics::default(),
        };
        journal.begin_file()?;
        Ok(journal)
    }

    /// Takes a chunk. It is durable when a later [`Self::flush`] has returned. Blocks only when the buffers are full,
    /// or when a new file has to be begun, for the time of a flush.
    ///
    /// # Errors
    /// The chunk is then not in the journal; what was appended before is.
    pub fn append_chunk(&mut self, header: &ChunkHeader, payload: &[u8]) -> Result<Located, LogError> {
        let head = encode_chunk(header, payload)?;
        let located = self.append(&head, payload)?;
        self.statistics.chunks += 1;
        Ok(located)
    }

    /// Takes a fact; as [`Self::append_chunk`].
    pub fn append_fact(&mut self, fact: &Fact) -> Result<Located, LogError> {
        let (head, body) = encode_fact(fact)?;
        let located = self.append(&head, &body)?;
        self.statistics.facts += 1;
        Ok(located)
    }

    /// Makes durable what was appended. What was returned by `append_…` since the last call may have moved:
    /// [`Flushed::locate`].
    ///
    /// # Errors
    /// Nothing appended is lost: it waits in memory, and the next call writes it to a new file.
    pub fn flush(&mut self) -> Result<Flushed, LogError> {
        self.flush_pending()?;
        Ok(Flushed { durable: self.durable(), moves: std::mem::take(&mut self.moves) })
    }

    /// Everything before this position is durable.
    pub fn durable(&self) -> LogPosition {
        LogPosition { file: self.file.number, offset: self.file.flush_offset }
    }

    pub fn statistics(&self) -> JournalStatistics {
        JournalStatistics {
            durable: self.durable(),
            pending_bytes: self.file.end_offset - self.file.flush_offset,
            io_uring: self.disk.uses_ring(),
            ..self.statistics.clone()
        }
    }

    fn append(&mut self, head: &[u8], rest: &[u8]) -> Result<Located, LogError> {
        let length = head.len() + rest.len();
        self.make_room(aligned(length) + SYNC_ALIGNED_BYTES + ALIGNMENT_BYTES)?;
        if self.file.end_offset == self.file.flush_offset {
            let sync = encode_sync(Sync { file_id: self.file.id, sequence: self.file.sequence + 1 });
            self.file.sequence += 1;
            self.copy(&sync);
            self.copy(&[0; SYNC_ALIGNED_BYTES - SYNC_BYTES]);
        }
        let position = LogPosition { file: self.file.number, offset: self.file.end_offset };
        self.copy(head);
        self.copy(rest);
        self.copy(&[0; RECORD_ALIGNMENT_BYTES][..aligned(length) - length]);
        Ok(Located { position, length: length as u32 })
    }

    /// Makes sure that `bytes` fit into the current file and into the free blocks.
    fn make_room(&mut self, bytes: usize) -> Result<(), LogError> {
        let full = |error| LogError::BuffersFull { source: Box::new(error) };
        if !self.failed && self.file.end_offset + bytes as u64 > self.config.file_bytes {
            self.flush_pending().map_err(full)?;
            // A flush that failed and found a new file has made the room already.
            if self.file.end_offset + bytes as u64 > self.config.file_bytes {
                self.rotate()?;
            }
        }
        let room = |journal: &Self| {
            let filling = journal.filling.as_ref().map_or(0, |filling| filling.block.len() - filling.used);
            filling + journal.free.len() * journal.config.block_bytes
        };
        if room(self) < bytes {
            self.statistics.flushes_forced += 1;
            self.flush_pending().map_err(full)?;
            assert!(room(self) >= bytes, "after a flush the buffers are free");
        }
        Ok(())
    }

    /// Copies into the blocks; a full one is written at once.
    fn copy(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let filling = self.filling.get_or_insert_with(|| Filling {
                block: self.free.pop().expect("make_room has counted the free blocks"),
                used: 0,
                offset: self.file.end_offset,
            });
            let length = bytes.len().min(filling.block.len() - filling.used);
            let (now, later) = bytes.split_at(length);
            filling.block[filling.used..filling.used + length].copy_from_slice(now);
            filling.used += length;
            self.file.end_offset += length as u64;
            bytes = later;
            if filling.used == filling.block.len() {
                self.submit_filling();
            }
        }
    }

    /// Sends the block at hand on its way: to the file, or, when that has failed, to those waiting for the next one.
    fn submit_filling(&mut self) {
        let Some(Filling { block, used, offset }) = self.filling.take() else { return };
        let write = Write { block, length: used, offset };
        if self.failed {
            self.retained.push(write);
        } else {
            self.statistics.written_bytes += used as u64;
            self.disk.submit(write);
        }
    }

    /// Pads the block at hand to the alignment.
    fn pad(&mut self) {
        let Some(filling) = &mut self.filling else { return };
        let end = filling.used.next_multiple_of(ALIGNMENT_BYTES);
        if end > filling.used {
            fill_padding(&mut filling.block[filling.used..end]);
            self.file.end_offset += (end - filling.used) as u64;
            filling.used = end;
        }
    }

    fn flush_pending(&mut self) -> Result<(), LogError> {
        if self.file.end_offset == self.file.flush_offset && !self.failed {
            return Ok(());
        }
        let started = Instant::now();
        if self.failed {
            self.begin_file()?;
        }
        self.pad();
        self.submit_filling();
        if let Err(first) = self.settle_and_sync() {
            tracing::error!(error = %first, file = self.file.number, good_until = self.file.flush_offset,
                "the journal file failed: what is not durable goes to a new one");
            self.begin_file()?;
            self.settle_and_sync()
                .map_err(|source| LogError::io("write", file_path(&self.directory, self.file.number), source))?;
        }
        self.statistics.flushes += 1;
        self.statistics.flush_ns_last = u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.statistics.flush_ns_max = self.statistics.flush_ns_max.max(self.statistics.flush_ns_last);
        Ok(())
    }

    /// Waits for all writes, then syncs. After an error the file has failed and all its writes are retained.
    fn settle_and_sync(&mut self) -> io::Result<()> {
        let (writes, result) = self.disk.settle();
        match result.and_then(|()| self.disk.sync()) {
            Ok(()) => {
                self.free.extend(writes.into_iter().map(|write| write.block));
                self.file.flush_offset = self.file.end_offset;
                Ok(())
            }
            Err(error) => {
                self.statistics.failures += 1;
                self.failed = true;
                self.retained.extend(writes);
                Err(error)
            }
        }
    }

    /// Closes the file at its end and goes on in a new one. Nothing is pending.
    fn rotate(&mut self) -> Result<(), LogError> {
        self.give_back_preallocated();
        self.begin_file()
    }

    fn give_back_preallocated(&mut self) {
        if let Err(error) = self.disk.trim(self.file.flush_offset) {
            // Costs space, loses nothing.
            tracing::warn!(%error, file = self.file.number, "cannot give back what was preallocated for a journal file");
        }
    }

    /// Begins the file behind the current one. What waits for it is submitted.
    fn begin_file(&mut self) -> Result<(), LogError> {
        let (mut retained, result) = self.disk.settle();
        if let Err(error) = result {
            // The file has failed already, and its last writes come back with the others.
            tracing::debug!(%error, "writes to the file that failed");
        }
        self.retained.append(&mut retained);
        if self.failed {
            self.give_back_preallocated();
        }
        let number = self.file.number.checked_add(1).expect("4 billion journal files are out of reach");
        let id = random_uuid()?;
        let header = FileHeader {
            version: FORMAT_VERSION,
            store_id: self.identity.store_id,
            boot_id: self.boot_id,
            file_id: id,
            file: number,
            preallocated_bytes: self.config.file_bytes,
            created_at: now(),
            previous_end: self.file.flush_offset,
            node: self.identity.node.0.clone(),
        };
        let path = file_path(&self.directory, number);
        let created = self
            .disk
            .create(&path, self.config.file_bytes, &header.encode())
            .map_err(|source| LogError::io("create", &path, source))?;
        tracing::info!(path = %path.display(), direct_io = created.direct, preallocated = created.preallocated,
            io_uring = self.disk.uses_ring(), "journal file begun");
        self.statistics.direct_io = created.direct;
        self.statistics.files_created += 1;
        self.statistics.written_bytes += HEADER_BYTES;
        self.adopt(number, id);
        Ok(())
    }

    /// The file `number` is now the current one; everything not durable moves to its beginning.
    fn adopt(&mut self, number: u32, id: Uuid) {
        let old = &self.file;
        let pending = old.end_offset - old.flush_offset;
        let moved = |offset: u64| offset - old.flush_offset + HEADER_BYTES;
        if pending > 0 {
            self.moves.push(Move {
                from: LogPosition { file: old.number, offset: old.flush_offset },
                to: LogPosition { file: number, offset: HEADER_BYTES },
            });
            let sync = encode_sync(Sync { file_id: id, sequence: 1 });
            for write in &mut self.retained {
                write.offset = moved(write.offset);
            }
            if let Some(filling) = &mut self.filling {
                filling.offset = moved(filling.offset);
            }
            // The flush begins with a sync record, which names the file.
            let first = self.retained.iter_mut().map(|write| (write.offset, &mut write.block));
            let first = first.chain(self.filling.iter_mut().map(|filling| (filling.offset, &mut filling.block)));
            let (_, block) = first.min_by_key(|&(offset, _)| offset).expect("pending bytes are in a block");
            block[..SYNC_BYTES].copy_from_slice(&sync);
        }
        self.file = CurrentFile {
            number,
            id,
            flush_offset: HEADER_BYTES,
            end_offset: HEADER_BYTES + pending,
            sequence: u64::from(pending > 0),
        };
        self.failed = false;
        for write in std::mem::take(&mut self.retained) {
            self.statistics.written_bytes += write.length as u64;
            self.disk.submit(write);
        }
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        if let Err(error) = self.flush_pending() {
            tracing::error!(%error, "the last records could not be made durable");
            return;
        }
        self.give_back_preallocated();
    }
}

/// Checks the configuration and makes the buffers it asks for.
pub(crate) fn allocate_blocks(config: &JournalConfig) -> Result<Vec<Block>, LogError> {
    let wrong = |what| Err(LogError::Configuration { what });
    if config.block_bytes == 0 || !config.block_bytes.is_multiple_of(ALIGNMENT_BYTES) {
        return wrong("block_bytes is not a multiple of 4096");
    }
    let count = config.buffer_bytes / config.block_bytes;
    if count < 4 || config.buffer_bytes < 2 * RECORD_BYTES_MAX {
        return wrong("buffer_bytes is less than 2 MiB or than four blocks");
    }
    if config.file_bytes < 2 * config.buffer_bytes as u64 || !config.file_bytes.is_multiple_of(HEADER_BYTES) {
        return wrong("file_bytes is less than twice buffer_bytes, or not a multiple of 4096");
    }
    let Some(count) = u16::try_from(count).ok().filter(|&count| count <= 4096) else {
        return wrong("buffer_bytes holds more than 4096 blocks");
    };
    Block::allocate(count, config.block_bytes).map_err(|source| LogError::Io {
        operation: "allocate",
        path: "the journal's buffers".into(),
        source,
    })
}

fn make_directory(directory: &Path) -> Result<(), LogError> {
    match std::fs::create_dir(directory) {
        Ok(()) => {
            let parent = directory.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
            File::open(parent)
                .and_then(|parent| parent.sync_all())
                .map_err(|source| LogError::io("sync", parent, source))
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(LogError::io("create", directory, error)),
    }
}

/// Finds the end of the journal and makes sure that it is durable up to there: what a killed process had written is read
/// from the page cache here, and is about to be acknowledged.
fn recover_last_file(directory: &Path, identity: &Identity) -> Result<LogPosition, LogError> {
    let mut files = list_files(directory)?;
    while let Some(number) = files.pop() {
        let path = file_path(directory, number);
        let open = |write| File::options().read(true).write(write).open(&path);
        let file = open(true).map_err(|source| LogError::io("open", &path, source))?;
        let opening = read_opening(&file).map_err(|source| LogError::io("read", &path, source))?;
        let file_id = match opening {
            Opening::Unborn => {
                tracing::info!(path = %path.display(), "removing a journal file whose making was interrupted");
                std::fs::remove_file(&path).map_err(|source| LogError::io("remove", &path, source))?;
                continue;
            }
            Opening::Header(header) => {
                check_header(&header, &path, number, identity.store_id)?;
                header.file_id
            }
            Opening::HeaderDamaged { file_id } => file_id,
            Opening::Unreadable(what) => {
                tracing::error!(path = %path.display(), what, "a journal file cannot be read; it is left as it is");
                return Ok(LogPosition { file: number, offset: 0 });
            }
        };
        file.sync_all().map_err(|source| LogError::io("sync", &path, source))?;
        let mut scan = FileScan::new(file, file_id, None, 0);
        let end = loop {
            match scan.step().map_err(|source| LogError::io("read", &path, source))? {
                Step::Record { .. } => {}
                Step::Damaged { from, to } => {
                    tracing::error!(path = %path.display(), from, to, "the journal is damaged: the records there are lost");
                }
                Step::End { at } => break at,
            }
        };
        let used = scan.used_end();
        if let Err(error) =
            open(true).and_then(|file| if file.metadata()?.len() > used { file.set_len(used) } else { Ok(()) })
        {
            tracing::warn!(path = %path.display(), %error, "cannot give back what was preallocated for a journal file");
        }
        return Ok(LogPosition { file: number, offset: end });
    }
    Ok(LogPosition::default())
}

fn now() -> CaptureTime {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    CaptureTime(u64::try_from(since_epoch.as_nanos()).unwrap_or(u64::MAX))
}

/// Which run of the machine this is; nil where the kernel does not say.
fn boot_id() -> Uuid {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    Uuid::parse_str(text.trim()).unwrap_or_else(|_| Uuid::nil())
}

/// A random identifier (RFC 9562 version 4).
pub fn random_uuid() -> Result<Uuid, LogError> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut bytes))
        .map_err(|source| LogError::io("read", "/dev/urandom", source))?;
    Ok(uuid::Builder::from_random_bytes(bytes).into_uuid())
}
