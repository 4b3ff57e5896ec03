//! The appliance's metrics in Prometheus' text format, and this server's own.
//!
//! Constraints: labels come from the routes and from enums, never from what a client sent.

use crate::problem::Problem;
use crate::query::{NoParameters, Parameters};
use crate::routes::AppState;
use axum::extract::{MatchedPath, Request, State};
use axum::http::header;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry, TextEncoder};
use std::time::Instant;

/// What this server counts.
#[derive(Clone)]
pub(crate) struct ApiMetrics {
    requests: IntCounterVec,
    request_seconds: Histogram,
    pub(crate) connections: IntGauge,
    pub(crate) connections_refused: IntCounter,
    pub(crate) event_subscribers: IntGauge,
    pub(crate) events_lagged: IntCounter,
}

impl ApiMetrics {
    /// Registers them all; fails when `registry` has one of their names already.
    pub(crate) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let metrics = Self {
            requests: IntCounterVec::new(
                Opts::new("sidetone_api_requests_total", "HTTP requests answered, by route and status class"),
                &["route", "status"],
            )?,
            request_seconds: Histogram::with_opts(
                HistogramOpts::new(
                    "sidetone_api_request_seconds",
                    "Time from a request's headers to its answer's headers",
                )
                .buckets(vec![0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0]),
            )?,
            connections: IntGauge::new("sidetone_api_connections", "HTTP connections open now")?,
            connections_refused: IntCounter::new(
                "sidetone_api_connections_refused_total",
                "HTTP connections closed at once because as many as are allowed were open",
            )?,
            event_subscribers: IntGauge::new("sidetone_api_event_subscribers", "Clients following /api/v1/events now")?,
            events_lagged: IntCounter::new(
                "sidetone_api_events_lagged_total",
                "Events that subscribers missed because they read too slowly",
            )?,
        };
        registry.register(Box::new(metrics.requests.clone()))?;
        registry.register(Box::new(metrics.request_seconds.clone()))?;
        registry.register(Box::new(metrics.connections.clone()))?;
        registry.register(Box::new(metrics.connections_refused.clone()))?;
        registry.register(Box::new(metrics.event_subscribers.clone()))?;
        registry.register(Box::new(metrics.events_lagged.clone()))?;
        Ok(metrics)
    }
}

/// Middleware: counts each answer under the route that gave it.
pub(crate) async fn count(State(metrics): State<ApiMetrics>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let response = next.run(request).await;
    let status = match response.status().as_u16() {
        ..=199 => "1xx",
        200..=299 => "2xx",
        300..=399 => "3xx",
        400..=499 => "4xx",
        _ => "5xx",
    };
    metrics.requests.with_label_values(&[route.as_ref().map_or("none", MatchedPath::as_str), status]).inc();
    metrics.request_seconds.observe(started.elapsed().as_secs_f64());
    response
}

/// All metrics in Prometheus' text format 0.0.4.
#[utoipa::path(
    get, path = "/metrics", tag = "operating",
    responses((status = 200, description = "Prometheus text format", content_type = "text/plain; version=0.0.4", body = String))
)]
pub(crate) async fn metrics(
    State(state): State<AppState>,
    Parameters(NoParameters {}): Parameters<NoParameters>,
) -> Result<Response, Problem> {
    let registry = state.registry.clone();
    // Collectors may ask the store or the kernel.
    let text = state
        .blocking_metrics
        .run(move || TextEncoder::new().encode_to_string(&registry.gather()))
        .await?
        .map_err(|error| Problem::internal(&error))?;
    Ok(([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT), (header::CACHE_CONTROL, "no-store")], text).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    const DASHBOARD: &str = include_str!("../../../docs/grafana.json");
    const ENGINE: &str = include_str!("../../../dataplane/engine/src/metrics.rs");
    const API: &str = include_str!("metrics.rs");

    #[test]
    fn the_dashboard_asks_only_for_metrics_that_exist() {
        let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
        let mut asked = 0;
        for panel in dashboard["panels"].as_array().unwrap() {
            for target in panel["targets"].as_array().into_iter().flatten() {
                let expression = target["expr"].as_str().unwrap();
                let words = expression.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
                for name in words.filter(|word| word.starts_with("sidetone_")) {
                    let family = name.strip_suffix("_bucket").unwrap_or(name);
                    let defined = [ENGINE, API].iter().any(|source| source.contains(&format!("\"{family}\"")));
                    assert!(defined, "{}: {name} is defined nowhere", panel["title"]);
                    asked += 1;
                }
            }
        }
        assert!(asked > 30, "{asked}");
    }

    /// As the engine's metrics are held to it (`sidetone_engine`).
    #[test]
    fn the_manual_lists_exactly_these_metrics() {
        let registry = Registry::new();
        let metrics = ApiMetrics::register(&registry).unwrap();
        // A family without a series shows nothing.
        metrics.requests.with_label_values(&["none", "4xx"]).inc();
        let mut families: Vec<String> = registry
            .gather()
            .iter()
            .map(|family| format!("`{}` {}.", family.name(), family.help().trim_end_matches('.')))
            .collect();
        families.sort_unstable();
        let manual = include_str!("../../../docs/metrics.md");
        let rows = manual.lines().filter(|line| line.starts_with("| `sidetone_api_"));
        let mut named: Vec<String> = rows
            .map(|row| {
                let cells: Vec<&str> = row.split('|').map(str::trim).collect();
                format!("{} {}", cells[1], cells[3])
            })
            .collect();
        named.sort_unstable();
        assert_eq!(named, families);
    }
}
