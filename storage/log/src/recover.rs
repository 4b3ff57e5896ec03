//! Finding the end of a journal that another process, or another run of the machine, has left.

use crate::bad_blocks::PassingOverBadBlocks;
use crate::files::{Owner, check_header, journal_path, list_journal};
use crate::format::ALIGNMENT_BYTES;
use crate::io::Io;
use crate::scan::{FileScan, Opening, Step, read_opening};
use crate::{LogError, LogPosition};
use std::path::Path;
use std::sync::Arc;

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
        let file = PassingOverBadBlocks::new(file, &path);
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
            Some(file_id) => find_end(io, &path, &file, file_id, known)?,
            None => {
                tracing::error!(path = %path.display(), "a journal file cannot be read: all of it counts as once durable");
                whole(&file, &path)?.max(known)
            }
        };
        return Ok(known_durable.max(LogPosition { file: number, offset: end }));
    }
    Ok(known_durable)
}

fn find_end(
    io: &dyn Io,
    path: &Path,
    file: &Arc<PassingOverBadBlocks>,
    file_id: uuid::Uuid,
    known: u64,
) -> Result<u64, LogError> {
    let bytes = whole(file, path)?;
    let mut scan = FileScan::new(Arc::clone(file), file_id, None, 0).at_least(known);
    let end = loop {
        match scan.step() {
            Ok(Step::Record { .. }) => {}
            Ok(Step::Damaged { from, to }) => {
                tracing::error!(path = %path.display(), from, to, "the journal is damaged: the records there are lost");
            }
            Ok(Step::End { at }) => break at,
            Err(error) => {
                tracing::error!(path = %path.display(), %error, "a journal file cannot be read: all of it counts as once durable");
                return Ok(bytes.max(known));
            }
        }
    };
    let unreadable_end = file.unreadable_end();
    if unreadable_end > end {
        // It may have been the last flush, or in the middle of it: nobody can call that torn.
        tracing::error!(path = %path.display(), end, unreadable_end, "the end of the journal cannot be read: it counts as once durable");
        return Ok(scan.used_end().max(unreadable_end).max(known));
    }
    let used = scan.used_end().max(known);
    if bytes > used
        && let Err(error) = io.truncate(path, used)
    {
        tracing::warn!(path = %path.display(), %error, "cannot give back what was preallocated for a journal file");
    }
    Ok(end)
}

/// Where a file ends, in whole blocks.
fn whole(file: &PassingOverBadBlocks, path: &Path) -> Result<u64, LogError> {
    let bytes = file.bytes().map_err(|source| LogError::io("inspect", path, source))?;
    Ok(bytes.next_multiple_of(ALIGNMENT_BYTES as u64))
}
