//! A recording's audio as a file that can be downloaded, resumed and seeked in.
//!
//! Constraints: memory does not grow with the file: blocks of [`BLOCK_BYTES`] are made as the client takes them, one at a
//! time, on a blocking thread; a client that goes away ends the work.

use crate::blocking::Blocking;
use crate::document::REVALIDATE;
use crate::problem::{Problem, ProblemDocument, ProblemKind};
use crate::query::Parameters;
use crate::range::{Selection, matches_etag, select};
use crate::recordings::{AddressedRecording, no_such_recording};
use crate::renditions::Loan;
use crate::routes::AppState;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::Deserialize;
use sidetone_model::RecordingId;
use sidetone_playback::{Channels, Format, PlaybackError};
use std::io;
use std::ops::Range;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

/// Audio made and sent at a time: about 20 s of two-channel Opus, 4 s of two-channel WAV.
const BLOCK_BYTES: u64 = 128 * 1024;

/// What to make of the recording.
#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct AudioParameters {
    /// `opus` (Ogg Opus, from the stored packets) or `wav` (16-bit PCM, 8 kHz, decoded).
    #[serde(default)]
    #[param(inline, default = "opus")]
    format: FormatParameter,
    /// `dual`: caller left, callee right. `mix`: both in one channel. `near`, `far`, `caller`, `callee`: one side.
    #[serde(default)]
    #[param(inline, default = "dual")]
    channels: ChannelsParameter,
}

#[derive(Clone, Copy, Default, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum FormatParameter {
    #[default]
    Opus,
    Wav,
}

#[derive(Clone, Copy, Default, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ChannelsParameter {
    #[default]
    Dual,
    Mix,
    Near,
    Far,
    Caller,
    Callee,
}

/// The recording as an audio file. Ranges of bytes, `HEAD`, `ETag`, `If-None-Match` and `If-Range` work; several
/// ranges in one request get the whole file. Of a call that goes on: what is durable so far.
#[utoipa::path(
    get, path = "/api/v1/recordings/{id}/audio", tag = "recordings",
    params(("id" = RecordingId, Path, description = "The recording's UUID"), AudioParameters),
    responses(
        (status = 200, description = "The file", content(
            (String = "audio/ogg; codecs=opus"),
            (String = "audio/wav"),
        )),
        (status = 206, description = "The range asked for"),
        (status = 304, description = "`If-None-Match` names its ETag"),
        (status = 400, description = "An unknown or unusable parameter, by name", content_type = "application/problem+json", body = ProblemDocument),
        (status = 404, description = "No such recording, or it has no audio: `detail` says why", content_type = "application/problem+json", body = ProblemDocument),
        (status = 416, description = "The range lies outside of the file", content_type = "application/problem+json", body = ProblemDocument),
    )
)]
pub(crate) async fn audio(
    State(state): State<AppState>,
    AddressedRecording(id): AddressedRecording,
    Parameters(parameters): Parameters<AudioParameters>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let reader = Arc::clone(&state.reader);
    let renditions = state.renditions.clone();
    let loan = state
        .blocking
        .run(move || renditions.open(reader, id, parameters.format.into(), parameters.channels.into()))
        .await?
        .map_err(|error| refusal(id, &error))?;
    let rendition = loan.rendition();
    let length_bytes = rendition.len();
    let etag = rendition.etag().to_owned();
    let mut common = HeaderMap::new();
    common.insert(header::ETAG, value(&etag)?);
    common.insert(header::CACHE_CONTROL, REVALIDATE);
    common.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    if matches_etag(&headers, &etag) {
        return Ok((StatusCode::NOT_MODIFIED, common).into_response());
    }
    common.insert(header::CONTENT_TYPE, value(rendition.content_type())?);
    common.insert(header::CONTENT_DISPOSITION, value(&disposition(&rendition.file_name()))?);
    // A range has a meaning for GET alone (RFC 9110 §14.2).
    let selection = if method == Method::GET { select(&headers, length_bytes, &etag) } else { Selection::Whole };
    let (status, range) = match selection {
        Selection::Whole => (StatusCode::OK, 0..length_bytes),
        Selection::Part(range) => (StatusCode::PARTIAL_CONTENT, range),
        Selection::Unsatisfiable => {
            let problem = Problem::new(
                ProblemKind::RangeNotSatisfiable,
                format!("the file has {length_bytes} bytes, and the range lies outside of them"),
            )
            .remedy("ask with HEAD for the length first");
            return Ok(([(header::CONTENT_RANGE, format!("bytes */{length_bytes}"))], problem).into_response());
        }
    };
    common.insert(header::CONTENT_LENGTH, HeaderValue::from(range.end - range.start));
    if status == StatusCode::PARTIAL_CONTENT {
        let content_range = format!("bytes {}-{}/{length_bytes}", range.start, range.end - 1);
        common.insert(header::CONTENT_RANGE, value(&content_range)?);
    }
    let body = if method == Method::HEAD { Body::empty() } else { stream(loan, range, state.blocking.clone()) };
    Ok((status, common, body).into_response())
}

/// The bytes of `range`, made block by block as the client takes them.
fn stream(loan: Loan, range: Range<u64>, blocking: Blocking) -> Body {
    let (to_client, blocks) = mpsc::channel::<io::Result<Bytes>>(1);
    tokio::spawn(async move {
        let mut loan = loan;
        let mut start = range.start;
        while start < range.end {
            // Waits for room first, so that no block is made for a client that has gone.
            let Ok(room) = to_client.reserve().await else { return };
            let block = start..range.end.min(start + BLOCK_BYTES);
            start = block.end;
            let made = blocking
                .run(move || {
                    let mut bytes = Vec::with_capacity(usize::try_from(block.end - block.start).unwrap_or(0));
                    let result = loan.read(block.clone(), &mut bytes);
                    (loan, block, result.map(|()| bytes))
                })
                .await;
            match made {
                Ok((returned, block, Ok(bytes))) if bytes.len() as u64 == block.end - block.start => {
                    loan = returned;
                    room.send(Ok(bytes.into()));
                }
                // Too late for a status: the connection is cut, and the client sees a file that is too short.
                Ok((_, block, Ok(bytes))) => {
                    tracing::error!(?block, length = bytes.len(), "playback made another length than it was asked for");
                    return room.send(Err(io::Error::other("wrong length of a block")));
                }
                Ok((_, block, Err(error))) => {
                    tracing::error!(?block, %error, "audio cannot be read; the download is cut off");
                    return room.send(Err(io::Error::other(error)));
                }
                // Logged where it was made.
                Err(_problem) => return room.send(Err(io::Error::other("reading failed"))),
            }
        }
    });
    Body::from_stream(ReceiverStream::new(blocks))
}

/// Shown in place by browsers, saved under this name; names are reduced to characters that need no quoting.
fn disposition(file_name: &str) -> String {
    let plain: String = file_name
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '+') { c } else { '_' })
        .collect();
    format!("inline; filename=\"{plain}\"")
}

fn value(text: &str) -> Result<HeaderValue, Problem> {
    HeaderValue::from_str(text).map_err(|error| Problem::internal(&error))
}

fn refusal(id: RecordingId, error: &PlaybackError) -> Problem {
    match error {
        PlaybackError::NotFound { .. } => no_such_recording(id),
        PlaybackError::NoAudio { .. } => Problem::new(ProblemKind::NoAudio, error.to_string())
            .remedy("the recording's `tracks` say what was on the wire and whether it can be decoded"),
        PlaybackError::TooLong { .. } => Problem::new(ProblemKind::InvalidParameter, error.to_string())
            .remedy("leave `format` out, or ask for `opus`"),
        _ => Problem::storage(error),
    }
}

impl From<FormatParameter> for Format {
    fn from(parameter: FormatParameter) -> Self {
        match parameter {
            FormatParameter::Opus => Self::Opus,
            FormatParameter::Wav => Self::Wav,
        }
    }
}

impl From<ChannelsParameter> for Channels {
    fn from(parameter: ChannelsParameter) -> Self {
        match parameter {
            ChannelsParameter::Dual => Self::Dual,
            ChannelsParameter::Mix => Self::Mix,
            ChannelsParameter::Near => Self::Near,
            ChannelsParameter::Far => Self::Far,
            ChannelsParameter::Caller => Self::Caller,
            ChannelsParameter::Callee => Self::Callee,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_names_cannot_leave_their_quotes() {
        assert_eq!(disposition("a\"b\r\nX: y/..\\é.opus"), "inline; filename=\"a_b__X__y_..__.opus\"");
    }
}
