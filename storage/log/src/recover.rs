//! Finding the end of a journal that another process, or another run of the machine, has left.

use crate::files::{Owner, check_header, journal_path, list_journal};
use crate::format::ALIGNMENT_BYTES;
use crate::io::{InputFile, Io};
use crate::scan::{FileScan, Opening, ReadAt, Step, read_opening};
use crate::{LogError, LogPosition};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// So many blocks that cannot be read are passed over before the rest of the file is left alone: a device in its last hours takes
/// seconds for each.
const UNREADABLE_BLOCKS_MAX: u32 = 64;

/// The end of the journal in `directory`, and the next file goes behind it. What lies before is durable when this returns: what a
/// killed process had written is read from the page cache here, and is about to be acknowledged.
///
/// `known_durable` was durable once, as the catalog knows: bytes before it that cannot be read are damage, whatever they look like,
/// and damage does not keep a store from opening.
pub(crate) fn recover(
    io: &dyn Io,
    directory: &Path,
    owner: Owner,
    known_durable: LogPosition,
) -> Result<LogPosition, LogError> {
    let mut files = list_journal(io, directory)?;
    while let Some(number) = files.pop() {
        let path = journal_path(directory, number);
        let known = if number == known_durable.file { known_durable.offset } else { 0 };
        io.sync_file(&path).map_err(|source| LogError::io("sync", &path, source))?;
        let file = io.open(&path).map_err(|source| LogError::io("open", &path, source))?;
        let file = Arc::new(PassingOverBadBlocks { file, unreadable: AtomicU32::new(0) });
        let opening = read_opening(&file).map_err(|source| LogError::io("read", &path, source))?;
        let file_id = match opening {
            Opening::Header(header) => {
                check_header(&header, &path, number, owner)?;
                Some(header.file_id)
            }
            Opening::HeaderDamaged { file_id } => Some(file_id),
            Opening::Unborn | Opening::Unreadable(_) => None,
        };
        if file_id.is_none() && number > known_durable.file && file.holds_no_record() {
            tracing::info!(path = %path.display(), "removing a journal file whose making was interrupted");
            io.remove(&path).map_err(|source| LogError::io("remove", &path, source))?;
            continue;
        }
        let end = match file_id {
            Some(file_id) => find_end(io, &path, file, file_id, known)?,
            None => {
                tracing::error!(path = %path.display(), "a journal file cannot be read; it is left as it is");
                known
            }
        };
        return Ok(known_durable.max(LogPosition { file: number, offset: end }));
    }
    Ok(known_durable)
}

fn find_end(
    io: &dyn Io,
    path: &Path,
    file: Arc<PassingOverBadBlocks>,
    file_id: uuid::Uuid,
    known: u64,
) -> Result<u64, LogError> {
    let bytes = file.file.bytes().map_err(|source| LogError::io("inspect", path, source))?;
    let mut scan = FileScan::new(Arc::clone(&file), file_id, None, 0).at_least(known);
    let end = loop {
        match scan.step() {
            Ok(Step::Record { .. }) => {}
            Ok(Step::Damaged { from, to }) => {
                tracing::error!(path = %path.display(), from, to, "the journal is damaged: the records there are lost");
            }
            Ok(Step::End { at }) => break at,
            Err(error) => {
                // Readers find what can be read of it, if the device lets them; nothing is written behind.
                tracing::error!(path = %path.display(), %error, "a journal file cannot be read: all of it counts as once durable");
                return Ok(bytes.next_multiple_of(ALIGNMENT_BYTES as u64).max(known));
            }
        }
    };
    let used = scan.used_end().max(known);
    if bytes > used
        && let Err(error) = io.truncate(path, used)
    {
        tracing::warn!(path = %path.display(), %error, "cannot give back what was preallocated for a journal file");
    }
    Ok(end)
}

/// A file some of whose blocks the device cannot read: they look like zeros.
struct PassingOverBadBlocks {
    file: Arc<dyn InputFile>,
    unreadable: AtomicU32,
}

impl PassingOverBadBlocks {
    /// All of it could be read, and is zero behind the header.
    fn holds_no_record(&self) -> bool {
        let mut bytes = vec![0; 1 << 20];
        let mut offset = ALIGNMENT_BYTES as u64;
        loop {
            match self.read_at(&mut bytes, offset) {
                Ok(0) => return self.unreadable.load(Ordering::Relaxed) == 0,
                Ok(filled) if bytes[..filled].iter().all(|&byte| byte == 0) => offset += filled as u64,
                _ => return false,
            }
        }
    }
}

impl ReadAt for PassingOverBadBlocks {
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        if let Ok(filled) = self.file.read_at(bytes, offset) {
            return Ok(filled);
        }
        let mut filled = 0;
        while filled < bytes.len() {
            let at = offset + filled as u64;
            let block_end = (at + 1).next_multiple_of(ALIGNMENT_BYTES as u64);
            let length = (bytes.len() - filled).min((block_end - at) as usize);
            let block = &mut bytes[filled..filled + length];
            match self.file.read_at(block, at) {
                Ok(read) if read < length => return Ok(filled + read),
                Ok(_) => {}
                Err(error) => {
                    if self.unreadable.fetch_add(1, Ordering::Relaxed) >= UNREADABLE_BLOCKS_MAX {
                        return Err(error);
                    }
                    tracing::error!(%error, offset = at, "a block of the journal cannot be read");
                    block.fill(0);
                }
            }
            filled += length;
        }
        Ok(filled)
    }
}
