//! Files that were read lately, kept open: a player asks for many ranges of one file, and opening one means to learn of every
//! block where it begins.
//!
//! Constraints: at most [`KEPT_MAX`] files of at most a few hundred kilobytes each, for [`KEPT_FOR`]; only of recordings that
//! are over, and only as long as their document is the very same. A file is lent to one reader at a time; another
//! reader of the same file opens it anew.

use crate::events::{AudioGap, Event, EventBus};
use sidetone_model::{Recording, RecordingId, RecordingState};
use sidetone_playback::{Channels, Format, Lost, PlaybackError, Rendition};
use sidetone_store::StoreReader;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

const KEPT_MAX: usize = 8;
const KEPT_FOR: Duration = Duration::from_secs(60);

/// The files kept open; clones are the same.
#[derive(Clone)]
pub(crate) struct Renditions {
    /// Oldest first.
    kept: Arc<Mutex<VecDeque<Kept>>>,
    /// Where it is told that audio was lost on the disk.
    events: EventBus,
}

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
    /// So many pieces of audio that cannot be read were told.
    lost_told: usize,
}

/// A rendition on loan, given back when it is dropped.
pub(crate) struct Loan {
    /// Present until it is dropped, or until reading failed.
    file: Option<File>,
    place: Renditions,
}

impl Renditions {
    pub(crate) fn new(events: EventBus) -> Self {
        Self { kept: Arc::default(), events }
    }

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
                let rendition = Rendition::open(reader, recording, format, channels)?;
                File { rendition, document, format, channels, lost_told: 0 }
            }
        };
        Ok(Loan { file: Some(file), place: self.clone() })
    }

    fn take(&self, document: &Recording, format: Format, channels: Channels) -> Option<File> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        kept.retain(|kept| now - kept.since < KEPT_FOR);
        let same = |kept: &Kept| {
            kept.file.format == format && kept.file.channels == channels && kept.file.document == *document
        };
        let index = kept.iter().position(same)?;
        kept.remove(index).map(|kept| kept.file)
    }
}

impl File {
    /// Tells of audio that could not be read, when there is more of it than before.
    fn tell_lost(&mut self, events: &EventBus) {
        let gaps: Vec<AudioGap> = self.rendition.lost().map(gap).collect();
        if gaps.len() > self.lost_told {
            let recording = self.document.id;
            let first = &gaps[0];
            tracing::warn!(
                %recording, gaps = gaps.len(), track = first.track.0, from = %first.from, reason = first.reason,
                "stored audio cannot be read and was played as silence"
            );
            self.lost_told = gaps.len();
            events.publish(Event::RecordingDamaged { recording, gaps });
        }
    }
}

fn gap(lost: &Lost) -> AudioGap {
    let Lost { track, ticks, reason } = lost;
    AudioGap { track: *track, from: ticks.start.start(), to: ticks.end.start(), reason: reason.clone() }
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
        let Some(mut file) = self.file.take() else { return };
        file.tell_lost(&self.place.events);
        // A running call's file grows.
        if file.document.state == RecordingState::Active {
            return;
        }
        let mut kept = self.place.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= KEPT_MAX {
            kept.pop_front();
        }
        kept.push_back(Kept { file, since: Instant::now() });
    }
}
