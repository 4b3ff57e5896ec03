//! JSON answers with a validator: the same document is not sent twice to a client that has it.

use crate::problem::Problem;
use crate::range::matches_etag;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::fmt::Write;

/// What clients may do with answers that hold people's conversations: keep them, but ask each time.
pub(crate) const REVALIDATE: HeaderValue = HeaderValue::from_static("private, no-cache");

/// Strong validator of `bytes`: a digest, in quotes (RFC 9110 §8.8.3).
pub(crate) fn etag_of(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    let mut etag = String::with_capacity(34);
    etag.push('"');
    for byte in &digest[..16] {
        // Writing to a String cannot fail.
        let _infallible = write!(etag, "{byte:02x}");
    }
    etag.push('"');
    etag
}

/// `document` as JSON with an ETag, or 304 when `request` names that very ETag (RFC 9110 §13.1.2).
pub(crate) fn json(request: &HeaderMap, status: StatusCode, document: &impl Serialize) -> Result<Response, Problem> {
    let body = serde_json::to_vec(document).map_err(|error| Problem::internal(&error))?;
    Ok(validated(request, status, "application/json", body.into()))
}

/// `body` with an ETag, or 304.
pub(crate) fn validated(
    request: &HeaderMap,
    status: StatusCode,
    content_type: &'static str,
    body: bytes::Bytes,
) -> Response {
    let etag = etag_of(&body);
    let mut response = if matches_etag(request, &etag) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        let mut response = (status, body).into_response();
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        response
    };
    let headers = response.headers_mut();
    if let Ok(etag) = HeaderValue::from_str(&etag) {
        headers.insert(header::ETAG, etag);
    }
    headers.insert(header::CACHE_CONTROL, REVALIDATE);
    response
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use sidetone_model::{
        CaptureTime, ConversationId, EndReason, Gap, Leg, Losses, NodeName, Party, PartyRole, Recording, RecordingId,
        RecordingState, SCHEMA_VERSION, Seed, Side, Stream, Track, TrackId, TrackKind,
    };

    /// A recording with a value in every field, told apart by `number`.
    pub(crate) fn recording(number: u64) -> Recording {
        let at = |seconds| CaptureTime::from_seconds_nanos(1_790_000_000 + 60 * number + seconds, 5);
        let call_id = format!("call-{number}@example.org");
        let stream = Stream {
            domain: "vlan 100".into(),
            ssrc: "0xd2bd4e3e".into(),
            source: "192.0.2.1:4000".into(),
            destination: "192.0.2.2:5000".into(),
            codec: "PCMA/8000".into(),
            from: at(2),
            to: at(30),
            packets: 1400,
            lost: 0,
            duplicates: 0,
            reordered: 0,
            late: 0,
            jitter_ms_mean: 0.2,
            jitter_ms_max: 1.5,
        };
        let track = |id, side| Track {
            id: TrackId(id),
            party: Some(id),
            side,
            kind: TrackKind::Audio,
            encrypted: false,
            decodable: true,
            start_offset_seconds: 0.0,
            duration_seconds: 28.0,
            concealed_seconds: 0.0,
            losses: Losses::default(),
            streams: vec![stream.clone()],
        };
        let party = |id, role, digits: &str, name: &str| Party {
            id,
            role,
            number: digits.into(),
            name: name.into(),
            address: format!("192.0.2.{}:5060", id + 1),
            joined_at: at(0),
            left_at: Some(at(30)),
        };
        Recording {
            schema: SCHEMA_VERSION,
            id: RecordingId::derive(Seed([7; 16]), at(0), &call_id),
            node: NodeName("test".into()),
            conversation_id: ConversationId::derive(Seed([7; 16]), at(0), &call_id),
            state: RecordingState::Complete,
            started_at: at(0),
            answered_at: Some(at(2)),
            ended_at: Some(at(30)),
            duration_seconds: 28.0,
            end_reason: Some(EndReason::CallerHungUp),
            users: vec!["alice".into()],
            gaps: vec![Gap { from: at(5), to: Some(at(6)), reason: "restart".into() }],
            pauses: vec![],
            legs: vec![Leg {
                protocol: "sip".into(),
                call_id,
                from: "sip:alice@example.org".into(),
                to: "sip:bob@example.org".into(),
                started_at: at(0),
                answered_at: Some(at(2)),
                ended_at: Some(at(30)),
                end_reason: Some(EndReason::CallerHungUp),
            }],
            parties: vec![
                party(0, PartyRole::Caller, "4930123", "Alice"),
                party(1, PartyRole::Callee, "4930456", "Bob"),
            ],
            tracks: vec![track(0, Side::Near), track(1, Side::Far)],
        }
    }

    #[test]
    fn a_document_is_not_sent_to_a_client_that_has_it() {
        let document = recording(1);
        let first = json(&HeaderMap::new(), StatusCode::OK, &document).ok().unwrap();
        let etag = first.headers()[header::ETAG].clone();
        let mut request = HeaderMap::new();
        request.insert(header::IF_NONE_MATCH, etag.clone());
        let again = json(&request, StatusCode::OK, &document).ok().unwrap();
        assert_eq!((again.status(), &again.headers()[header::ETAG]), (StatusCode::NOT_MODIFIED, &etag));
        let changed = json(&request, StatusCode::OK, &recording(2)).ok().unwrap();
        assert_eq!(changed.status(), StatusCode::OK);
    }
}
