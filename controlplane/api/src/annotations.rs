//! Tags and holds: the one thing about a recording that can be changed.

use crate::document::json;
use crate::events::Event;
use crate::problem::{Problem, ProblemDocument, ProblemKind};
use crate::query::{NoParameters, Parameters};
use crate::recordings::{AddressedRecording, no_such_recording};
use crate::routes::AppState;
use axum::body::{Body, to_bytes};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use serde::{Deserialize, Deserializer};
use sidetone_model::{Annotations, CaptureTime, Hold, RecordingId};
use sidetone_store::{AnnotationChange, StoreError};
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// More than all tags that a recording can have.
const BODY_BYTES_MAX: usize = 1 << 20;
/// For the whole body: it is small.
const BODY_TIMEOUT: Duration = Duration::from_secs(20);
/// Who says so when the request does not.
const BY_DEFAULT: &str = "api";

/// What to change (RFC 7396, JSON Merge Patch); what is not named stays as it is.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct AnnotationPatch {
    /// A value sets the tag, null removes it. At most 128 tags a recording; keys of 1 to 128 bytes, values of up to 4096.
    #[serde(default)]
    tags: BTreeMap<String, Option<String>>,
    /// An object holds the recording, so that it is not erased; null lifts the hold.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<HoldPatch>)]
    hold: Option<Option<HoldPatch>>,
}

#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct HoldPatch {
    /// Why it must not be erased; up to 1024 bytes.
    reason: String,
    /// Who says so; `api` when left out.
    by: Option<String>,
}

/// Changes tags and hold of a recording. The answer comes when the change is durable and found by searches, about a
/// second later, and holds the annotations as they are then. Changes at the same time do not undo each other.
#[utoipa::path(
    patch, path = "/api/v1/recordings/{id}/annotations", tag = "recordings",
    params(("id" = RecordingId, Path, description = "The recording's UUID")),
    request_body(content = AnnotationPatch, description = "Also as `application/merge-patch+json`", content_type = "application/json"),
    responses(
        (status = 200, description = "The annotations as they are now", body = Annotations),
        (status = 400, description = "Not such a document: `detail` says where", content_type = "application/problem+json", body = ProblemDocument),
        (status = 404, description = "No such recording", content_type = "application/problem+json", body = ProblemDocument),
        (status = 413, description = "More than 1 MiB", content_type = "application/problem+json", body = ProblemDocument),
        (status = 415, description = "Another media type than JSON", content_type = "application/problem+json", body = ProblemDocument),
        (status = 422, description = "A key or value that is too long, or too many tags", content_type = "application/problem+json", body = ProblemDocument),
        (status = 503, description = "The store cannot be written now: `detail` says why; nothing has changed", content_type = "application/problem+json", body = ProblemDocument),
        (status = 504, description = "Not durable in time: it may still become so", content_type = "application/problem+json", body = ProblemDocument),
    )
)]
pub(crate) async fn annotate(
    State(state): State<AppState>,
    AddressedRecording(id): AddressedRecording,
    Parameters(NoParameters {}): Parameters<NoParameters>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let change = read_patch(&headers, body).await?.into_change()?;
    let store = state.store.clone();
    let annotations =
        state.blocking_changes.run(move || store.annotate(id, &change)).await?.map_err(|error| refusal(id, &error))?;
    state.events.publish(Event::RecordingAnnotated { recording: id, annotations: annotations.clone() });
    // Not what is there to be revalidated, but what this request has made.
    json(&HeaderMap::new(), StatusCode::OK, &annotations)
}

async fn read_patch(headers: &HeaderMap, body: Body) -> Result<AnnotationPatch, Problem> {
    let media_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if !["application/json", "application/merge-patch+json"].contains(&essence.as_str()) {
        let detail = format!("the body is announced as '{essence}', and must be JSON");
        return Err(Problem::new(ProblemKind::MediaType, detail).remedy("send `Content-Type: application/json`"));
    }
    let read = tokio::time::timeout(BODY_TIMEOUT, to_bytes(body, BODY_BYTES_MAX)).await.map_err(|_elapsed| {
        Problem::new(ProblemKind::InvalidRequest, format!("the body did not come within {BODY_TIMEOUT:?}"))
            .remedy("send it at once")
    })?;
    let body = read.map_err(|error| {
        let too_large =
            std::error::Error::source(&error).is_some_and(|source| source.to_string().contains("length limit"));
        let (kind, remedy) = match too_large {
            true => (ProblemKind::TooLarge, "change fewer tags at a time"),
            false => (ProblemKind::InvalidRequest, "send the whole body"),
        };
        Problem::new(kind, format!("the body cannot be read: {error}")).remedy(remedy)
    })?;
    // Serde would take an array for an object.
    let object: Result<serde_json::Map<String, serde_json::Value>, _> = serde_json::from_slice(&body);
    object.and_then(|object| AnnotationPatch::deserialize(serde_json::Value::Object(object))).map_err(|error| {
        Problem::new(ProblemKind::InvalidRequest, format!("the body is no annotation patch: {error}")).remedy(
            "send for example {\"tags\": {\"case\": \"4711\", \"old\": null}, \"hold\": {\"reason\": \"court order\"}}",
        )
    })
}

impl AnnotationPatch {
    fn into_change(self) -> Result<AnnotationChange, Problem> {
        if self.tags.is_empty() && self.hold.is_none() {
            return Err(Problem::new(ProblemKind::InvalidRequest, "the body names nothing to change")
                .remedy("name `tags` or `hold`"));
        }
        let mut change = AnnotationChange::default();
        for (key, value) in self.tags {
            match value {
                Some(value) => {
                    change.set_tags.insert(key, value);
                }
                None => {
                    change.remove_tags.insert(key);
                }
            }
        }
        if let Some(Some(HoldPatch { reason, .. })) = &self.hold
            && reason.trim().is_empty()
        {
            return Err(Problem::new(ProblemKind::InvalidAnnotation, "the hold has no reason")
                .remedy("say in `reason` why the recording must not be erased"));
        }
        change.hold = self.hold.map(|hold| {
            hold.map(|HoldPatch { reason, by }| Hold { reason, by: by.unwrap_or(BY_DEFAULT.to_owned()), at: now() })
        });
        Ok(change)
    }
}

fn refusal(id: RecordingId, error: &StoreError) -> Problem {
    match error {
        StoreError::NoRecording { .. } => no_such_recording(id),
        StoreError::BadAnnotation { what } => Problem::new(ProblemKind::InvalidAnnotation, what.as_str())
            .remedy("shorten it, or remove tags that are not needed any more"),
        StoreError::Busy => Problem::new(ProblemKind::Busy, "too many changes wait for the disk").remedy("try again"),
        StoreError::TimedOut => {
            Problem::new(ProblemKind::Unconfirmed, "the change is not durable yet, and may still become so")
                .remedy("read the recording to see, and send the change again if it is not there: that does no harm")
        }
        StoreError::NoVolume { .. } | StoreError::Closed => {
            Problem::new(ProblemKind::NotWritable, format!("{error}; nothing has changed"))
                .remedy("see `volumes` in /api/v1/status; try again when one of them can be written")
        }
        error => Problem::storage(error),
    }
}

/// Tells a field that is null from one that is not there.
fn present<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

fn now() -> CaptureTime {
    CaptureTime::ZERO.saturating_add(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}
