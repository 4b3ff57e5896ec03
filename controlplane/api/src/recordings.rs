//! Live calls, and the recordings that are kept.

use crate::document::json;
use crate::problem::{Problem, ProblemDocument, ProblemKind};
use crate::query::{NoParameters, Parameters, Repeated};
use crate::routes::AppState;
use crate::search::{Search, StateCondition, TagCondition};
use axum::extract::{FromRequestParts, Path, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use serde::{Deserialize, Serialize};
use sidetone_model::{CaptureTime, Recording, RecordingId};
use sidetone_store::{Cursor, Query, StoreError};
use std::sync::Arc;

/// Recordings in one answer when the client does not say.
const LIMIT_DEFAULT: usize = 50;
/// The most recordings in one answer.
const LIMIT_MAX: usize = 500;

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
    /// All that match, whatever the page; present when it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    count: Option<RecordingCount>,
}

/// How many recordings match.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct RecordingCount {
    value: u64,
    /// False: an estimate. Up to 1000 recordings are counted one by one.
    exact: bool,
}

/// Filter and place of a page. Every condition that is given must hold. Times are RFC 3339 with any offset; texts are
/// compared in lower case.
#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct RecordingParameters {
    /// Recordings that started at this time or later.
    #[param(value_type = Option<String>, format = DateTime)]
    from: Option<CaptureTime>,
    /// Recordings that started before this time.
    #[param(value_type = Option<String>, format = DateTime)]
    to: Option<CaptureTime>,
    /// Words, each of which is part of a party's number, name or address, or of a user.
    #[param(max_length = 128)]
    text: Option<String>,
    /// Part of a number or of a name of any party.
    #[param(max_length = 128)]
    party: Option<String>,
    /// The whole number of any party. Spaces and the signs `-./()` between digits are nothing.
    #[param(max_length = 128)]
    number: Option<String>,
    /// What a party's number begins with.
    #[param(max_length = 128)]
    number_prefix: Option<String>,
    /// What a party's number ends with.
    #[param(max_length = 128)]
    number_suffix: Option<String>,
    /// Part of the name of any party.
    #[param(max_length = 128)]
    name: Option<String>,
    /// A recorded user.
    #[param(max_length = 128)]
    user: Option<String>,
    /// The signalling address of any party, without its port.
    #[param(max_length = 128)]
    address: Option<String>,
    /// The appliance that recorded it.
    #[param(max_length = 128)]
    node: Option<String>,
    /// The call identifier of any leg; of SIP the Call-ID.
    #[param(max_length = 128)]
    call_id: Option<String>,
    /// `finished` is `complete` or `incomplete`.
    #[param(inline)]
    state: Option<StateCondition>,
    /// Not shorter than this.
    #[param(minimum = 0)]
    min_duration_seconds: Option<f64>,
    /// Not longer than this.
    #[param(minimum = 0)]
    max_duration_seconds: Option<f64>,
    /// Of any stream, with or without its clock: `PCMA`, `PCMA/8000`.
    #[param(max_length = 128)]
    codec: Option<String>,
    /// `key`: has this tag; `key=value`: with this value. Can be given several times; all must be there.
    #[param(value_type = Vec<String>, style = Form, explode = true, required = false, max_items = 16)]
    #[expect(dead_code, reason = "`Repeated` takes all of them; here it is known and described")]
    tag: Option<String>,
    /// Whether it is on hold.
    hold: Option<bool>,
    /// Packets that the network lost, of the worst stream.
    #[param(minimum = 0, maximum = 100)]
    min_loss_percent: Option<f64>,
    /// Mean jitter of the worst stream.
    #[param(minimum = 0)]
    min_jitter_ms: Option<f64>,
    /// Time filled by concealment, of the worst track.
    #[param(minimum = 0)]
    min_concealed_seconds: Option<f64>,
    /// Count all that match, too; leave it out while paging.
    #[serde(default)]
    #[param(default = false)]
    count: bool,
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
    get, path = "/api/v1/recordings", tag = "recordings", params(RecordingParameters),
    responses(
        (status = 200, description = "One page", body = RecordingList),
        (status = 400, description = "An unknown or unusable parameter, by name", content_type = "application/problem+json", body = ProblemDocument),
    )
)]
pub(crate) async fn recordings(
    State(state): State<AppState>,
    Repeated(tags, Parameters(parameters)): Repeated<RecordingParameters>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let counts = parameters.count;
    let query = parameters.into_query(&tags)?;
    let reader = Arc::clone(&state.reader);
    let (page, count) = state
        .blocking
        .run(move || -> Result<_, StoreError> {
            let count = if counts { Some(reader.count(&query.filter)?) } else { None };
            Ok((reader.search(&query)?, count))
        })
        .await?
        .map_err(|error| Problem::storage(&error))?;
    let next = page.next.map(|cursor| cursor.to_string());
    let count = count.map(|count| RecordingCount { value: count.recordings, exact: count.exact });
    json(&headers, StatusCode::OK, &RecordingList { recordings: page.recordings, next, count })
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
    let reader = Arc::clone(&state.reader);
    let kept = state.blocking.run(move || reader.recording(id)).await?.map_err(|error| Problem::storage(&error))?;
    // The live document is fresher than what the store has been told, but knows nothing of annotations.
    let live = state.live.calls().into_iter().find(|recording| recording.id == id);
    let recording = match (live, kept) {
        (Some(live), kept) => {
            let mut recording = Arc::unwrap_or_clone(live);
            recording.annotations = kept.map(|kept| kept.annotations).unwrap_or_default();
            recording
        }
        (None, Some(kept)) => kept,
        (None, None) => return Err(no_such_recording(id)),
    };
    json(&headers, StatusCode::OK, &recording)
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

impl RecordingParameters {
    fn into_query(self, tags: &[String]) -> Result<Query, Problem> {
        let invalid =
            |detail: String, remedy: &'static str| Problem::new(ProblemKind::InvalidParameter, detail).remedy(remedy);
        let limit = self.limit.unwrap_or(LIMIT_DEFAULT);
        if !(1..=LIMIT_MAX).contains(&limit) {
            let detail = format!("`limit` is {limit}, and must be from 1 to {LIMIT_MAX}");
            return Err(invalid(detail, "read more with `cursor`"));
        }
        let cursor = self.cursor.map(|text| {
            text.parse::<Cursor>().map_err(|error| {
                let detail = format!("`cursor` '{}' is none of this API's: {error}", shortened(&text));
                invalid(detail, "pass `next` of the page before unchanged, or leave `cursor` out to begin anew")
            })
        });
        let tag = |text: &String| {
            text.parse::<TagCondition>().map_err(|error| {
                invalid(format!("`tag` is '{}': {error}", shortened(text)), "name the tag's key, or leave `tag` out")
            })
        };
        let search = Search {
            from: self.from,
            to: self.to,
            text: self.text,
            party: self.party,
            number: self.number,
            number_prefix: self.number_prefix,
            number_suffix: self.number_suffix,
            name: self.name,
            user: self.user,
            address: self.address,
            node: self.node,
            call_id: self.call_id,
            state: self.state,
            min_duration_seconds: self.min_duration_seconds,
            max_duration_seconds: self.max_duration_seconds,
            codec: self.codec,
            tags: tags.iter().map(tag).collect::<Result<_, _>>()?,
            hold: self.hold,
            min_loss_percent: self.min_loss_percent,
            min_jitter_ms: self.min_jitter_ms,
            min_concealed_seconds: self.min_concealed_seconds,
        };
        let filter = search.filter().map_err(|unusable| invalid(unusable.to_string(), unusable.remedy))?;
        Ok(Query { filter, cursor: cursor.transpose()?, limit })
    }
}

/// Foreign text short enough to be repeated in an answer.
fn shortened(text: &str) -> String {
    if text.chars().count() <= 64 { text.to_owned() } else { text.chars().take(63).chain(['…']).collect() }
}
