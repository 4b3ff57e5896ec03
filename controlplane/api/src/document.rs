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
mod tests {
    use super::*;
    use crate::sample::recording;

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
