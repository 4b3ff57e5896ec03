//! Refusals and failures as documents of RFC 9457: what happened, why, and what to do about it.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use std::borrow::Cow;
use std::error::Error;

/// RFC 9457 problem document, media type `application/problem+json`.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct ProblemDocument {
    /// Stable identifier of the kind of problem: `urn:sidetone:problem:` and a name.
    #[serde(rename = "type")]
    kind: String,
    /// The kind in words.
    title: &'static str,
    /// The HTTP status, once more.
    status: u16,
    /// What happened to this request, and why.
    detail: String,
    /// What to do about it.
    remedy: String,
}

/// Every kind of problem this API reports; each has one name and one status.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ProblemKind {
    InvalidParameter,
    InvalidIdentifier,
    InvalidRequest,
    InvalidAnnotation,
    TooLarge,
    MediaType,
    ForeignHost,
    CrossSite,
    NotFound,
    NoSuchRecording,
    NoAudio,
    MethodNotAllowed,
    RangeNotSatisfiable,
    Busy,
    NotReady,
    NotWritable,
    Unconfirmed,
    Storage,
    Internal,
}

impl ProblemKind {
    fn name(self) -> &'static str {
        match self {
            Self::InvalidParameter => "invalid-parameter",
            Self::InvalidIdentifier => "invalid-identifier",
            Self::InvalidRequest => "invalid-request",
            Self::InvalidAnnotation => "invalid-annotation",
            Self::TooLarge => "too-large",
            Self::MediaType => "media-type",
            Self::ForeignHost => "foreign-host",
            Self::CrossSite => "cross-site",
            Self::NotFound => "not-found",
            Self::NoSuchRecording => "no-such-recording",
            Self::NoAudio => "no-audio",
            Self::MethodNotAllowed => "method-not-allowed",
            Self::RangeNotSatisfiable => "range-not-satisfiable",
            Self::Busy => "busy",
            Self::NotReady => "not-ready",
            Self::NotWritable => "not-writable",
            Self::Unconfirmed => "unconfirmed",
            Self::Storage => "storage",
            Self::Internal => "internal",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::InvalidParameter => "A query parameter cannot be used",
            Self::InvalidIdentifier => "The identifier is not one",
            Self::InvalidRequest => "The request cannot be used",
            Self::InvalidAnnotation => "Such an annotation is not possible",
            Self::TooLarge => "The request is too large",
            Self::MediaType => "The request is of another media type",
            Self::ForeignHost => "This server does not answer to that name",
            Self::CrossSite => "Requests from other web sites are refused",
            Self::NotFound => "There is nothing at this address",
            Self::NoSuchRecording => "No such recording",
            Self::NoAudio => "The recording has no audio to play",
            Self::MethodNotAllowed => "The method is not allowed here",
            Self::RangeNotSatisfiable => "The range lies outside of the file",
            Self::Busy => "Too many clients",
            Self::NotReady => "Not recording",
            Self::NotWritable => "The store cannot be written",
            Self::Unconfirmed => "It is not known whether the change was made",
            Self::Storage => "The store cannot be read",
            Self::Internal => "An error of the server",
        }
    }

    pub(crate) fn status(self) -> StatusCode {
        match self {
            Self::InvalidParameter | Self::InvalidIdentifier | Self::InvalidRequest => StatusCode::BAD_REQUEST,
            Self::InvalidAnnotation => StatusCode::UNPROCESSABLE_ENTITY,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::MediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::ForeignHost => StatusCode::MISDIRECTED_REQUEST,
            Self::CrossSite => StatusCode::FORBIDDEN,
            Self::NotFound | Self::NoSuchRecording | Self::NoAudio => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::RangeNotSatisfiable => StatusCode::RANGE_NOT_SATISFIABLE,
            Self::Busy | Self::NotReady | Self::NotWritable => StatusCode::SERVICE_UNAVAILABLE,
            Self::Unconfirmed => StatusCode::GATEWAY_TIMEOUT,
            Self::Storage | Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

/// A problem on its way to the client.
#[derive(Debug)]
pub(crate) struct Problem {
    kind: ProblemKind,
    detail: String,
    remedy: Cow<'static, str>,
}

impl Problem {
    pub(crate) fn new(kind: ProblemKind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into(), remedy: Cow::Borrowed("see docs/api.md or /api/v1/openapi.json") }
    }

    pub(crate) fn remedy(self, remedy: impl Into<Cow<'static, str>>) -> Self {
        Self { remedy: remedy.into(), ..self }
    }

    /// The store failed to answer. Logged here: the client is not the one to mend it.
    pub(crate) fn storage(error: &dyn Error) -> Self {
        let cause = with_sources(error);
        tracing::error!(%cause, "the API cannot read the store");
        Self::new(ProblemKind::Storage, cause).remedy("see the log; `sidetone store stats` reads the same store")
    }

    /// A fault of our own.
    pub(crate) fn internal(error: &dyn Error) -> Self {
        let cause = with_sources(error);
        tracing::error!(%cause, "the API failed to answer");
        Self::new(ProblemKind::Internal, cause).remedy("this is a fault in Sidetone: please report it with the log")
    }
}

/// The error and all its sources in one line.
fn with_sources(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let document = ProblemDocument {
            kind: format!("urn:sidetone:problem:{}", self.kind.name()),
            title: self.kind.title(),
            status: self.kind.status().as_u16(),
            detail: self.detail,
            remedy: self.remedy.into_owned(),
        };
        // A struct of strings and numbers always has a JSON form.
        let body = serde_json::to_vec(&document).unwrap_or_default();
        let mut response = (self.kind.status(), body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if self.kind.status() == StatusCode::SERVICE_UNAVAILABLE && self.kind != ProblemKind::NotReady {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
        }
        response
    }
}
