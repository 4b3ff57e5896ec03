//! What can go wrong when a recording is made into a file.

use sidetone_model::RecordingId;
use sidetone_store::StoreError;
use std::io;
use std::ops::Range;

/// Each message names the cause and, where there is one, the remedy.
#[derive(Debug, thiserror::Error)]
pub enum PlaybackError {
    #[error("there is no recording {recording}")]
    NotFound { recording: RecordingId },
    #[error("recording {recording} has no audio to play: {reason}")]
    NoAudio { recording: RecordingId, reason: String },
    #[error("recording {recording} lasts {days} days by the catalog, which no call does: its entry is damaged")]
    Implausible { recording: RecordingId, days: u64 },
    #[error("recording {recording} would be longer than a {format} file can be ({bytes} bytes): play it as opus")]
    TooLong { recording: RecordingId, format: crate::Format, bytes: u64 },
    #[error("bytes {}..{} were asked for of a file of {length}", range.start, range.end)]
    BeyondEnd { range: Range<u64>, length: u64 },
    #[error("recording {recording} has changed since it was opened: open it again")]
    Changed { recording: RecordingId },
    #[error("reading recording {recording}: {source}")]
    Store {
        recording: RecordingId,
        #[source]
        source: StoreError,
    },
    #[error("libopus cannot {operation}: {source}")]
    Opus {
        operation: &'static str,
        #[source]
        source: opus::Error,
    },
    #[error("writing the file: {source}")]
    Write {
        #[source]
        source: io::Error,
    },
}

/// A query parameter that names no format or no choice of channels.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("'{given}' is no {what}: one of {choices} is needed")]
pub struct UnknownName {
    pub what: &'static str,
    pub given: String,
    pub choices: &'static str,
}
