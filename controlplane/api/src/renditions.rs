//! Files that were read lately, kept open: a player asks for many ranges of one file, and opening a long one means reading
//! all of it to learn where its pages begin.
//!
//! Constraints: at most [`KEPT_MAX`] files of at most a few hundred kilobytes each, for [`KEPT_FOR`]; only of recordings that
//! are over, and only as long as their document is the very same. A file is lent to one reader at a time; another
//! reader of the same file opens it anew.

use sidetone_model::{Recording, RecordingId, RecordingState};
use sidetone_playback::{Channels, Format, PlaybackError, Rendition};
use sidetone_store::StoreReader;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

const KEPT_MAX: usize = 8;
const KEPT_FOR: Duration = Duration::from_secs(60);

/// The files kept open, oldest first; clones are the same.
#[derive(Clone, Default)]
pub(crate) struct Renditions(Arc<Mutex<VecDeque<Kept>>>);

struct Kept {
    file: File,
    since: Instant,
}

/// What a rendition is made from; an equal one makes the same bytes.
struct File {
    document: Recording,
    format: Format,
    channels: Channels,
    rendition: Rendition,
}

/// A rendition on loan, given back when it is dropped.
pub(crate) struct Loan {
    /// Present until it is dropped, or until reading failed.
    file: Option<File>,
    place: Renditions,
}

impl Renditions {
    /// Takes the file if it is kept, else opens it. Blocks on the store.
    pub(crate) fn open(
        &self,
        reader: Arc<StoreReader>,
        recording: RecordingId,
        format: Format,
        channels: Channels,
    ) -> Result<Loan, PlaybackError> {
        let document = reader
            .recording(recording)
            .map_err(|source| PlaybackError::Store { recording, source })?
            .ok_or(PlaybackError::NotFound { recording })?;
        let file = match self.take(&document, format, channels) {
            Some(file) => file,
            None => {
                File { rendition: Rendition::open(reader, recording, format, channels)?, document, format, channels }
            }
        };
        Ok(Loan { file: Some(file), place: self.clone() })
    }

    fn take(&self, document: &Recording, format: Format, channels: Channels) -> Option<File> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        kept.retain(|kept| now - kept.since < KEPT_FOR);
        let same = |kept: &Kept| {
            kept.file.format == format && kept.file.channels == channels && kept.file.document == *document
        };
        let index = kept.iter().position(same)?;
        kept.remove(index).map(|kept| kept.file)
    }
}

impl Loan {
    pub(crate) fn rendition(&self) -> &Rendition {
        &self.file.as_ref().expect("not read from after a failure").rendition
    }

    /// As [`Rendition::read`]; after an error the file is not kept.
    pub(crate) fn read(&mut self, range: Range<u64>, out: &mut Vec<u8>) -> Result<(), PlaybackError> {
        let file = self.file.as_mut().expect("not read from after a failure");
        let result = file.rendition.read(range, out);
        if result.is_err() {
            self.file = None;
        }
        result
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        let Some(file) = self.file.take() else { return };
        // A running call's file grows, and a damaged one may be mended.
        if file.document.state == RecordingState::Active || file.rendition.damage().is_some() {
            return;
        }
        let mut kept = self.place.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= KEPT_MAX {
            kept.pop_front();
        }
        kept.push_back(Kept { file, since: Instant::now() });
    }
}
