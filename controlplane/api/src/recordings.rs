//! Live calls, and the recordings that are kept.

use crate::document::json;
use crate::problem::{Problem, ProblemDocument, ProblemKind};
use crate::query::{NoParameters, Parameters};
use crate::routes::AppState;
use axum::extract::{FromRequestParts, Path, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use serde::{Deserialize, Serialize};
use sidetone_model::{CaptureTime, Recording, RecordingId, RecordingState};
use sidetone_store::{Cursor, RecordingQuery};
use std::sync::Arc;

/// Recordings in one answer when the client does not say.
const LIMIT_DEFAULT: usize = 50;
/// The most recordings in one answer.
const LIMIT_MAX: usize = 500;
/// A search text longer than this is no number and no name.
const PARTY_LENGTH_MAX: usize = 128;

/// Calls being recorded now, newest first.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct CallList {
    calls: Vec<Arc<Recording>>,
}

/// One page of recordings, newest first.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct RecordingList {
    recordings: Vec<Recording>,
    /// Pass it as `cursor`, with the same filter, for the next page; null on the last one.
    next: Option<String>,
}

/// Filter and place of a page. Times are RFC 3339 with any offset.
#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct RecordingFilter {
    /// Recordings that started at this time or later.
    #[param(value_type = Option<String>, format = DateTime)]
    from: Option<CaptureTime>,
    /// Recordings that started before this time.
    #[param(value_type = Option<String>, format = DateTime)]
    to: Option<CaptureTime>,
    /// A number (whole, or its beginning, end or part) or part of a name, of any party, upper and lower case alike.
    #[param(max_length = 128)]
    party: Option<String>,
    state: Option<RecordingState>,
    /// Recordings in one answer, 1 to 500.
    #[param(minimum = 1, maximum = 500, default = 50)]
    limit: Option<usize>,
    /// `next` of the page before.
    cursor: Option<String>,
}

/// Calls being recorded now, newest first. The same documents as recordings, in state `active`.
#[utoipa::path(
    get, path = "/api/v1/calls", tag = "live",
    responses((status = 200, description = "Live calls", body = CallList))
)]
pub(crate) async fn calls(
    State(state): State<AppState>,
    Parameters(NoParameters {}): Parameters<NoParameters>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    json(&headers, StatusCode::OK, &CallList { calls: state.live.calls() })
}

/// Recordings, newest first, in pages that stay put while new recordings arrive.
#[utoipa::path(
    get, path = "/api/v1/recordings", tag = "recordings", params(RecordingFilter),
    responses(
        (status = 200, description = "One page", body = RecordingList),
        (status = 400, description = "An unknown or unusable parameter, by name", content_type = "application/problem+json", body = ProblemDocument),
    )
)]
pub(crate) async fn recordings(
    State(state): State<AppState>,
    Parameters(filter): Parameters<RecordingFilter>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let query = filter.into_query()?;
    let reader = Arc::clone(&state.reader);
    let page = state.blocking.run(move || reader.search(&query)).await?.map_err(|error| Problem::storage(&error))?;
    let next = page.next.map(|cursor| cursor.to_string());
    json(&headers, StatusCode::OK, &RecordingList { recordings: page.recordings, next })
}

/// One recording; while its call goes on, as it stands now.
#[utoipa::path(
    get, path = "/api/v1/recordings/{id}", tag = "recordings",
    params(("id" = RecordingId, Path, description = "The recording's UUID")),
    responses(
        (status = 200, description = "The recording", body = Recording),
        (status = 304, description = "`If-None-Match` names its ETag"),
        (status = 400, description = "Not a UUID", content_type = "application/problem+json", body = ProblemDocument),
        (status = 404, description = "No such recording", content_type = "application/problem+json", body = ProblemDocument),
    )
)]
pub(crate) async fn recording(
    State(state): State<AppState>,
    AddressedRecording(id): AddressedRecording,
    Parameters(NoParameters {}): Parameters<NoParameters>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    // The live document is fresher than what the store has been told.
    if let Some(live) = state.live.calls().into_iter().find(|recording| recording.id == id) {
        return json(&headers, StatusCode::OK, &live);
    }
    let reader = Arc::clone(&state.reader);
    let found = state.blocking.run(move || reader.recording(id)).await?.map_err(|error| Problem::storage(&error))?;
    match found {
        Some(recording) => json(&headers, StatusCode::OK, &recording),
        None => Err(no_such_recording(id)),
    }
}

/// The `{id}` of an address.
pub(crate) struct AddressedRecording(pub(crate) RecordingId);

impl<S: Send + Sync> FromRequestParts<S> for AddressedRecording {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let refusal = |detail: String| {
            Problem::new(ProblemKind::InvalidIdentifier, detail)
                .remedy("take `id` from a recording, for example 019a3b52-7d3f-7c11-8a51-0d6a1f2e3b4c")
        };
        // Refused by axum when its percent-encoded bytes are not UTF-8.
        let Path(text) = Path::<String>::from_request_parts(parts, state)
            .await
            .map_err(|rejection| refusal(rejection.body_text()))?;
        text.parse().map(Self).map_err(|error| refusal(format!("'{}' is not a UUID: {error}", shortened(&text))))
    }
}

pub(crate) fn no_such_recording(id: RecordingId) -> Problem {
    Problem::new(ProblemKind::NoSuchRecording, format!("this store has no recording {id}"))
        .remedy("list them with /api/v1/recordings; a call that is not kept has no recording")
}

impl RecordingFilter {
    fn into_query(self) -> Result<RecordingQuery, Problem> {
        let invalid = |detail: String, remedy: &'static str| {
            Err(Problem::new(ProblemKind::InvalidParameter, detail).remedy(remedy))
        };
        let limit = self.limit.unwrap_or(LIMIT_DEFAULT);
        if !(1..=LIMIT_MAX).contains(&limit) {
            return invalid(
                format!("`limit` is {limit}, and must be from 1 to {LIMIT_MAX}"),
                "read more with `cursor`",
            );
        }
        if let (Some(from), Some(to)) = (self.from, self.to)
            && from >= to
        {
            return invalid(
                format!("`from` ({from}) is not before `to` ({to})"),
                "exchange them; `to` itself is not included",
            );
        }
        if let Some(party) = &self.party
            && party.len() > PARTY_LENGTH_MAX
        {
            return invalid(
                format!("`party` is {} bytes long, and may be {PARTY_LENGTH_MAX}", party.len()),
                "give a number or part of a name",
            );
        }
        let cursor = match self.cursor {
            Some(text) => match text.parse::<Cursor>() {
                Ok(cursor) => Some(cursor),
                Err(error) => {
                    return invalid(
                        format!("`cursor` '{}' is none of this API's: {error}", shortened(&text)),
                        "pass `next` of the page before unchanged, or leave `cursor` out to begin anew",
                    );
                }
            },
            None => None,
        };
        // White space alone searches for nothing.
        let party = self.party.map(|party| party.trim().to_owned()).filter(|party| !party.is_empty());
        Ok(RecordingQuery { from: self.from, to: self.to, party, state: self.state, cursor, limit })
    }
}

/// Foreign text short enough to be repeated in an answer.
fn shortened(text: &str) -> String {
    if text.chars().count() <= 64 { text.to_owned() } else { text.chars().take(63).chain(['…']).collect() }
}
