//! The web page: static files inside the program, so that it works without network and always fits the API.

use crate::document::validated;
use crate::query::{NoParameters, Parameters};
use crate::routes::AppState;
use axum::Router;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::get;
use bytes::Bytes;

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

/// Address, media type and content of each file.
const FILES: [(&str, &str, &str); 10] = [
    ("/", HTML, include_str!("../web/index.html")),
    ("/page/style.css", "text/css; charset=utf-8", include_str!("../web/style.css")),
    ("/page/icon.svg", "image/svg+xml", include_str!("../web/icon.svg")),
    ("/page/main.js", SCRIPT, include_str!("../web/main.js")),
    ("/page/calls.js", SCRIPT, include_str!("../web/calls.js")),
    ("/page/recordings.js", SCRIPT, include_str!("../web/recordings.js")),
    ("/page/detail.js", SCRIPT, include_str!("../web/detail.js")),
    ("/page/annotations.js", SCRIPT, include_str!("../web/annotations.js")),
    ("/page/player.js", SCRIPT, include_str!("../web/player.js")),
    ("/page/format.js", SCRIPT, include_str!("../web/format.js")),
];

/// Routes of the page. They are no part of the API, and so not in its description.
pub(crate) fn routes() -> Router<AppState> {
    FILES.into_iter().fold(Router::new(), |router, (path, content_type, content)| {
        router.route(
            path,
            get(move |Parameters(NoParameters {}): Parameters<NoParameters>, headers: HeaderMap| async move {
                validated(&headers, StatusCode::OK, content_type, Bytes::from_static(content.as_bytes()))
            }),
        )
    })
}
