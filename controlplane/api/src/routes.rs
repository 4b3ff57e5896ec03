//! Every address, and what handlers share.

use crate::blocking::Blocking;
use crate::events::EventBus;
use crate::metrics::ApiMetrics;
use crate::problem::{Problem, ProblemKind};
use crate::query::{NoParameters, Parameters};
use crate::renditions::Renditions;
use crate::status::Live;
use crate::{annotations, audio, control, document, events, guard, metrics, page, recordings, status};
use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::Response;
use bytes::Bytes;
use prometheus::Registry;
use sidetone_store::{StoreHandle, StoreReader};
use std::sync::Arc;
use tokio::sync::{Semaphore, watch};
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// Clients that may follow the events at once.
const SUBSCRIBERS_MAX: usize = 64;

/// Reads of the store that may run at once: enough to keep a disk busy, few enough to leave memory and the cores alone.
const CONCURRENT_READS: usize = 8;
/// Changes that may wait for the disk at once. All that wait share the next flush.
const CONCURRENT_CHANGES: usize = 32;

/// What handlers share; a clone is a few reference counts.
#[derive(Clone)]
pub(crate) struct AppState {
    pub(crate) store: StoreHandle,
    pub(crate) reader: Arc<StoreReader>,
    pub(crate) live: Arc<dyn Live>,
    pub(crate) events: EventBus,
    pub(crate) registry: Registry,
    pub(crate) metrics: ApiMetrics,
    pub(crate) blocking: Blocking,
    pub(crate) blocking_changes: Blocking,
    /// For metrics apart, so that they are seen also when every read of the store waits for the disk.
    pub(crate) blocking_metrics: Blocking,
    pub(crate) renditions: Renditions,
    pub(crate) subscribers: Arc<Semaphore>,
    /// One at a time.
    pub(crate) backups: Arc<Semaphore>,
    /// Becomes true when the server stops; streams without an end of their own end then.
    pub(crate) stopping: watch::Receiver<bool>,
    openapi: Bytes,
}

impl AppState {
    pub(crate) fn new(
        store: StoreHandle,
        live: Arc<dyn Live>,
        events: EventBus,
        registry: Registry,
        metrics: ApiMetrics,
        stopping: watch::Receiver<bool>,
    ) -> Self {
        Self {
            reader: Arc::clone(store.reader()),
            store,
            renditions: Renditions::new(events.clone()),
            live,
            events,
            registry,
            metrics,
            blocking: Blocking::new(CONCURRENT_READS),
            blocking_changes: Blocking::new(CONCURRENT_CHANGES),
            blocking_metrics: Blocking::new(1),
            subscribers: Arc::new(Semaphore::new(SUBSCRIBERS_MAX)),
            backups: Arc::new(Semaphore::new(1)),
            stopping,
            openapi: openapi_document().into(),
        }
    }
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Sidetone",
        description = "Live calls, recordings and their audio, events and state of a Sidetone appliance. Times are RFC 3339 in \
                       UTC with nanoseconds. Every refusal is a problem document (RFC 9457) with a cause and a remedy."
    ),
    tags(
        (name = "recordings", description = "What is kept"),
        (name = "live", description = "What happens now"),
        (name = "operating", description = "How the appliance does"),
    )
)]
struct Description;

/// The API's addresses: whatever is registered here is in the OpenAPI document.
fn api() -> OpenApiRouter<AppState> {
    OpenApiRouter::with_openapi(Description::openapi())
        .routes(routes!(recordings::calls))
        .routes(routes!(recordings::recordings))
        .routes(routes!(recordings::recording))
        .routes(routes!(annotations::annotate))
        .routes(routes!(audio::audio))
        .routes(routes!(events::events))
        .routes(routes!(status::status))
        .routes(routes!(status::healthz))
        .routes(routes!(status::readyz))
        .routes(routes!(metrics::metrics))
        .routes(routes!(openapi))
}

/// The OpenAPI 3.1 description of this API as JSON; what `/api/v1/openapi.json` serves.
pub fn openapi_document() -> String {
    let (_, document) = api().split_for_parts();
    // The document is made of maps and strings, which always have a JSON form.
    document.to_pretty_json().unwrap_or_default()
}

/// Everything that is answered on the network port.
pub(crate) fn router(state: &AppState) -> Router {
    serving(state, page::routes())
}

/// The same for the control socket, with what is answered there alone.
pub(crate) fn control_router(state: &AppState) -> Router {
    serving(state, control::routes())
}

fn serving(state: &AppState, more: Router<AppState>) -> Router {
    let (api, _) = api().split_for_parts();
    api.merge(more)
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(axum::middleware::from_fn(guard::guard))
        .layer(axum::middleware::from_fn_with_state(state.metrics.clone(), metrics::count))
        .with_state(state.clone())
}

/// This description, generated from the code that answers.
#[utoipa::path(
    get, path = "/api/v1/openapi.json", tag = "operating",
    responses((status = 200, description = "OpenAPI 3.1", content_type = "application/json", body = Object))
)]
async fn openapi(
    State(state): State<AppState>,
    Parameters(NoParameters {}): Parameters<NoParameters>,
    headers: HeaderMap,
) -> Response {
    document::validated(&headers, StatusCode::OK, "application/json", state.openapi.clone())
}

async fn not_found(uri: Uri) -> Problem {
    let path: String = uri.path().chars().take(200).collect();
    Problem::new(ProblemKind::NotFound, format!("there is nothing at {path}"))
        .remedy("/api/v1/openapi.json lists every address; recordings are at /api/v1/recordings")
}

async fn method_not_allowed(method: Method, uri: Uri) -> Problem {
    let path: String = uri.path().chars().take(200).collect();
    Problem::new(ProblemKind::MethodNotAllowed, format!("{path} does not take {method}"))
        .remedy("the header Allow names what it takes; only annotations can be changed, with PATCH")
}
