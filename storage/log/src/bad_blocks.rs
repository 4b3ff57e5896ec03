//! Reading on where a device has bad blocks.

use crate::format::ALIGNMENT_BYTES;
use crate::io::InputFile;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// So many blocks that cannot be read are passed over before the rest of the file is left alone: a device in its last hours takes
/// seconds for each.
const UNREADABLE_BLOCKS_MAX: u32 = 64;

/// A file some of whose blocks the device cannot read: they look like zeros.
pub(crate) struct PassingOverBadBlocks {
    file: Arc<dyn InputFile>,
    path: PathBuf,
    unreadable: AtomicU32,
    /// Behind the last of them.
    unreadable_end: AtomicU64,
}

impl PassingOverBadBlocks {
    pub(crate) fn new(file: Arc<dyn InputFile>, path: &Path) -> Arc<Self> {
        Arc::new(Self { file, path: path.to_owned(), unreadable: AtomicU32::new(0), unreadable_end: AtomicU64::new(0) })
    }

    /// Of the file, at present.
    pub(crate) fn bytes(&self) -> io::Result<u64> {
        self.file.bytes()
    }

    /// Behind the last block that could not be read; 0 when all could.
    pub(crate) fn unreadable_end(&self) -> u64 {
        self.unreadable_end.load(Ordering::Relaxed)
    }

    /// All of it could be read, and is zero behind the header.
    pub(crate) fn holds_no_record(&self) -> bool {
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

    /// Reads at `offset`; fewer bytes than asked for only at the end.
    pub(crate) fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
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
                    self.unreadable_end.fetch_max(block_end, Ordering::Relaxed);
                    if self.unreadable.fetch_add(1, Ordering::Relaxed) >= UNREADABLE_BLOCKS_MAX {
                        return Err(error);
                    }
                    tracing::error!(path = %self.path.display(), %error, offset = at, "a block of a log file cannot be read");
                    block.fill(0);
                }
            }
            filled += length;
        }
        Ok(filled)
    }
}
