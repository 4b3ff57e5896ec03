//! Closing the segments that a crash has left open.

use crate::format::ALIGNMENT_BYTES;
use crate::output::LogFile;
use crate::segment_writer::close_segment;
use crate::{LogError, SegmentConfig, SegmentContents, SegmentNumber, SegmentReader};
use std::io;

/// Gives a segment that its process did not close its index and its footer, and tells what is in it. `None` when that is nothing:
/// the file is removed. A segment that is closed already is synced and left as it is. A flush that was under way in the crash is
/// cut off, if it is not whole; so whoever has lost what it knew of durable ends finds it out first.
///
/// `at_least` is an offset before which everything is known to have been durable, 0 when nothing is known.
///
/// # Errors
/// As [`SegmentReader::contents`], and those of writing. It can be tried again.
pub fn close_left_open(
    reader: &SegmentReader,
    segment: SegmentNumber,
    at_least: u64,
    config: &SegmentConfig,
) -> Result<Option<SegmentContents>, LogError> {
    let disk = &**reader.files().io();
    let path = reader.path(segment);
    let sync = || {
        disk.sync_file(&path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => LogError::Retired { path: path.clone() },
            _ => LogError::io("sync", &path, source),
        })
    };
    // What is found from here on is about to count, the footer included.
    sync()?;
    let mut opened = reader.open_segment(segment)?;
    if let Some((_, entries)) = opened.closed()? {
        return Ok(Some(opened.closed_contents(entries)));
    }
    let (mut contents, (flush, sequence)) = opened.gather(at_least)?;
    for damage in &contents.damaged {
        tracing::error!(path = %path.display(), from = damage.start, to = damage.end, "a segment is damaged");
    }
    if !contents.end.is_multiple_of(ALIGNMENT_BYTES as u64) {
        // No flush ends there.
        let torn = flush >= at_least;
        contents.end = if torn { flush } else { contents.end.next_multiple_of(ALIGNMENT_BYTES as u64) };
        contents.entries.retain(|entry| entry.bytes().end <= contents.end);
    }
    if contents.entries.is_empty() && at_least <= ALIGNMENT_BYTES as u64 && contents.damaged.is_empty() {
        tracing::info!(path = %path.display(), "removing a segment that holds nothing");
        reader.files().forget(&path);
        disk.remove(&path).map_err(|source| LogError::io("remove", &path, source))?;
        return Ok(None);
    }
    if opened.file_id.is_nil() {
        tracing::error!(path = %path.display(), "the beginning of a segment cannot be read: it is left as it is");
        return Ok(Some(contents));
    }
    // Nothing of a torn flush comes back among what is written now.
    disk.truncate(&path, contents.end).map_err(|source| LogError::io("truncate", &path, source))?;
    sync()?;
    opened.bytes = contents.end;
    if opened.closed()?.is_none() {
        let end = (contents.end, sequence);
        let file = LogFile::extend(disk, &path, opened.file_id, end, contents.end, config.output()?)?;
        close_segment(disk, file, opened.file_id, &contents.entries)?;
    }
    reader.contents(segment, at_least).map(Some)
}
