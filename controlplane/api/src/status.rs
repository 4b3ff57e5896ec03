//! How the appliance does: liveness, readiness, and the status document.

use crate::document::json;
use crate::problem::{Problem, ProblemKind};
use crate::query::{NoParameters, Parameters};
use crate::routes::AppState;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use sidetone_model::{CaptureTime, NodeName, Recording};
use sidetone_store::VolumeState;
use std::sync::Arc;

/// What the running appliance tells about itself. Called from blocking threads and from tokio's: must not wait long.
pub trait Live: Send + Sync + 'static {
    /// Active recordings, newest first.
    fn calls(&self) -> Vec<Arc<Recording>>;
    fn status(&self) -> Status;
}

/// The appliance as it is now.
#[derive(Clone, PartialEq, Debug, Serialize, utoipa::ToSchema)]
pub struct Status {
    pub node: NodeName,
    /// Of the program.
    pub version: String,
    pub started_at: CaptureTime,
    /// Whether calls are being recorded: every configured port captures and the store takes writes.
    pub ready: bool,
    /// What keeps it from being ready, one sentence each; empty when ready.
    pub reasons: Vec<String>,
    /// What an operator should look after although calls are being recorded, one sentence each.
    pub warnings: Vec<String>,
    pub ports: Vec<CapturePort>,
    /// Of the store, ascending.
    pub volumes: Vec<VolumeStatus>,
}

/// A directory that the store writes to.
#[derive(Clone, PartialEq, Debug, Serialize, utoipa::ToSchema)]
pub struct VolumeStatus {
    /// 0 is the store directory itself.
    pub volume: u8,
    pub directory: String,
    /// `ok`; `low`: space runs out; `no_new`: no recording may begin here; `reserve`: no audio any more; `full`; `stalled`: does not
    /// answer in time; `failed`: cannot be written; `missing`: was not there when the store was opened.
    #[schema(value_type = String)]
    pub state: VolumeState,
    /// What can still be written, and the size of its file system.
    pub free_bytes: u64,
    pub total_bytes: u64,
}

/// One mirror port.
#[derive(Clone, PartialEq, Debug, Serialize, utoipa::ToSchema)]
pub struct CapturePort {
    /// Network interface.
    pub interface: String,
    /// How frames are taken: `af_xdp native zero-copy`, `af_xdp native`, `af_xdp generic`, `af_packet`, …
    pub mode: String,
    /// Why a slower mode than AF_XDP native is in use; absent when none is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fallback_reason: Option<String>,
    /// Receive queues, each with its own pinned thread.
    pub queues: u32,
    /// Frames received since the start, those missed included.
    pub frames_received: u64,
    /// Frames that the NIC, its ring or the kernel lost before they reached a receive thread.
    pub frames_missed: u64,
}

/// The status document: the appliance's own word and the store's figures.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct StatusDocument {
    #[serde(flatten)]
    status: Status,
    /// Calls being recorded now.
    active_calls: usize,
    /// Figures of the store.
    #[schema(value_type = Object)]
    store: serde_json::Value,
}

/// Whether the appliance is ready, and if not, why.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct Readiness {
    ready: bool,
    reasons: Vec<String>,
    warnings: Vec<String>,
    volumes: Vec<VolumeStatus>,
}

/// State of the appliance: capture ports and their mode, readiness, store.
#[utoipa::path(
    get, path = "/api/v1/status", tag = "operating",
    responses((status = 200, description = "Status document", body = StatusDocument))
)]
pub(crate) async fn status(
    State(state): State<AppState>,
    Parameters(NoParameters {}): Parameters<NoParameters>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let reader = Arc::clone(&state.reader);
    let live = Arc::clone(&state.live);
    let document = state
        .blocking
        .run(move || -> Result<StatusDocument, Problem> {
            let statistics = reader.statistics().map_err(|error| Problem::storage(&error))?;
            let store = serde_json::to_value(&statistics).map_err(|error| Problem::internal(&error))?;
            Ok(StatusDocument { status: live.status(), active_calls: live.calls().len(), store })
        })
        .await??;
    json(&headers, StatusCode::OK, &document)
}

/// The process answers. Says nothing about capture: see `/readyz`.
#[utoipa::path(
    get, path = "/healthz", tag = "operating",
    responses((status = 200, description = "`ok`", content_type = "text/plain", body = String))
)]
pub(crate) async fn healthz(Parameters(NoParameters {}): Parameters<NoParameters>) -> Response {
    ([("content-type", "text/plain; charset=utf-8"), ("cache-control", "no-store")], "ok\n").into_response()
}

/// Calls are being recorded: 200; else 503 with the reasons.
#[utoipa::path(
    get, path = "/readyz", tag = "operating",
    responses(
        (status = 200, description = "Every configured port captures and the store takes writes", body = Readiness),
        (status = 503, description = "Not recording: `detail` says why", content_type = "application/problem+json", body = crate::problem::ProblemDocument),
    )
)]
pub(crate) async fn readyz(
    State(state): State<AppState>,
    Parameters(NoParameters {}): Parameters<NoParameters>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let status = state.live.status();
    if !status.ready {
        let detail = if status.reasons.is_empty() {
            "the appliance is starting or stopping".into()
        } else {
            status.reasons.join("; ")
        };
        return Err(Problem::new(ProblemKind::NotReady, detail).remedy("see /api/v1/status and the log"));
    }
    let Status { reasons, warnings, volumes, .. } = status;
    json(&headers, StatusCode::OK, &Readiness { ready: true, reasons, warnings, volumes })
}
