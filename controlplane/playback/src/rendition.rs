//! A recording as a file that is never there as a whole.

use crate::{Channels, Format, PlaybackError};
use sidetone_model::RecordingId;
use sidetone_store::StoreReader;
use std::io::Write;
use std::ops::Range;
use std::sync::Arc;

/// A recording as a file of known length, any part of which can be read.
pub struct Rendition {
    length: u64,
    etag: String,
    format: Format,
    file_name: String,
}

impl Rendition {
    /// Decides what the file holds and how long it is. An active recording ends where all its tracks are durable.
    ///
    /// # Errors
    /// [`PlaybackError::NotFound`], [`PlaybackError::NoAudio`] with the reason, or what the store says.
    pub fn open(
        reader: Arc<StoreReader>,
        recording: RecordingId,
        format: Format,
        channels: Channels,
    ) -> Result<Self, PlaybackError> {
        let _ = (reader, recording, format, channels);
        unreachable!()
    }

    /// Length of the file in bytes; never zero.
    pub fn len(&self) -> u64 {
        self.length
    }

    /// Never true: a recording without audio has no file.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// A strong entity tag (RFC 9110 §8.8.3), quotes included.
    pub fn etag(&self) -> &str {
        &self.etag
    }

    pub fn content_type(&self) -> &'static str {
        self.format.content_type()
    }

    /// A name to save the file under: time, parties and channels, in characters that every file system takes.
    pub fn file_name(&self) -> String {
        self.file_name.clone()
    }

    /// Appends the bytes in `range` to `out`.
    ///
    /// # Errors
    /// [`PlaybackError::BeyondEnd`] when the range does not lie within the file; [`PlaybackError::Changed`] when audio
    /// was added in its middle since it was opened; what the store says. `out` is as before then.
    pub fn read(&mut self, range: Range<u64>, out: &mut Vec<u8>) -> Result<(), PlaybackError> {
        let _ = (range, out);
        unreachable!()
    }
}

/// Writes the whole file.
pub fn write_to(rendition: &mut Rendition, out: &mut impl Write) -> Result<(), PlaybackError> {
    const BLOCK_BYTES: u64 = 256 << 10;
    let mut block = Vec::new();
    let mut at = 0;
    while at < rendition.len() {
        let end = rendition.len().min(at + BLOCK_BYTES);
        block.clear();
        rendition.read(at..end, &mut block)?;
        out.write_all(&block).map_err(|source| PlaybackError::Write { source })?;
        at = end;
    }
    Ok(())
}
