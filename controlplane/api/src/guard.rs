//! Who may ask, and what browsers may do with the answer.
//!
//! Without accounts, whoever reaches the port may listen to calls. The port is on loopback, so the ways in from outside lead
//! through a browser on this host: a foreign site's page that asks directly (kept out by fetch metadata and by
//! `Cross-Origin-Resource-Policy`), and DNS rebinding, where a foreign name resolves to 127.0.0.1 (kept out by accepting loopback names
//! alone in `Host`).

use crate::problem::{Problem, ProblemKind};
use axum::body::{Body, HttpBody};
use axum::extract::Request;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::net::IpAddr;

/// For every answer. The page needs its own scripts, styles, icon, events and audio, and nothing else.
const SECURITY_HEADERS: [(HeaderName, HeaderValue); 7] = [
    (
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; media-src 'self'; connect-src 'self'; \
             base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        ),
    ),
    (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
    (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    (HeaderName::from_static("cross-origin-opener-policy"), HeaderValue::from_static("same-origin")),
    (HeaderName::from_static("cross-origin-resource-policy"), HeaderValue::from_static("same-origin")),
    (
        HeaderName::from_static("permissions-policy"),
        HeaderValue::from_static("camera=(), microphone=(), geolocation=(), payment=(), usb=()"),
    ),
];

/// Middleware around everything: refuses first, and gives every answer the security headers.
pub(crate) async fn guard(request: Request, next: Next) -> Response {
    let mut response = match admit(&request) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    };
    for (name, value) in SECURITY_HEADERS {
        response.headers_mut().insert(name, value);
    }
    response
}

fn admit(request: &Request<Body>) -> Result<(), Problem> {
    check_host(request)?;
    check_fetch_metadata(request.method(), request.headers())?;
    // Only what changes something has a body. Another one that is announced is not read, and the connection ends after the answer.
    let changes = [Method::PATCH, Method::POST].contains(request.method());
    if !changes && !request.body().is_end_stream() {
        let detail = format!("{} takes no request body here", request.method());
        return Err(Problem::new(ProblemKind::InvalidRequest, detail).remedy("send none"));
    }
    Ok(())
}

fn check_host(request: &Request<Body>) -> Result<(), Problem> {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return Err(Problem::new(
            ProblemKind::InvalidRequest,
            "the request must have exactly one Host header (RFC 9112 §3.2)",
        )
        .remedy("use an HTTP/1.1 client"));
    };
    // In absolute form the request line names the host, too.
    let target_is_foreign =
        request.uri().authority().is_some_and(|authority| !is_loopback_name(authority.as_str().as_bytes()));
    if target_is_foreign || !is_loopback_name(host.as_bytes()) {
        return Err(Problem::new(
            ProblemKind::ForeignHost,
            "the Host header names another host than this one; without accounts, only loopback names are answered, so that no web \
             site can reach the recordings through a name of its own that leads here (DNS rebinding)",
        )
        .remedy("use http://localhost or http://127.0.0.1; a reverse proxy with its own authentication must send `Host: localhost`"));
    }
    Ok(())
}

/// `localhost`, a name below it (RFC 6761 §6.3) or a loopback address, with or without a port.
fn is_loopback_name(host: &[u8]) -> bool {
    let Ok(authority) = Authority::try_from(host) else { return false };
    if authority.as_str().contains('@') {
        return false;
    }
    let name = authority.host().strip_suffix('.').unwrap_or(authority.host()).to_ascii_lowercase();
    if name == "localhost" || name.ends_with(".localhost") {
        return true;
    }
    let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(&name);
    address.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

/// Browsers say where a request comes from (`Sec-Fetch-Site`); another site may link to the page but not use what is here.
/// Clients that are no browsers send nothing of the kind.
fn check_fetch_metadata(method: &Method, headers: &HeaderMap) -> Result<(), Problem> {
    let header = |name: &str| headers.get(name).map(HeaderValue::as_bytes);
    match header("sec-fetch-site") {
        None | Some(b"same-origin" | b"none") => Ok(()),
        Some(_)
            if method == Method::GET
                && header("sec-fetch-mode") == Some(b"navigate")
                && header("sec-fetch-dest") == Some(b"document") =>
        {
            Ok(())
        }
        Some(_) => Err(Problem::new(ProblemKind::CrossSite, "a page of another web site made this request")
            .remedy("open http://localhost in the browser, or use a program that is no browser")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_names_are_answered() {
        for host in [
            "localhost",
            "LOCALHOST:8080",
            "localhost.",
            "sidetone.localhost:1",
            "127.0.0.1",
            "127.8.8.8:99",
            "[::1]",
            "[::1]:8080",
            "[::ffff:127.0.0.1]",
        ] {
            assert!(is_loopback_name(host.as_bytes()), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "localhost.evil.example",
            "notlocalhost",
            "127.0.0.1.evil.example",
            "10.0.0.1",
            "0.0.0.0",
            "[::]",
            "user@localhost",
            "localhost:x:y",
            "2130706433",
            "::1 ",
        ] {
            assert!(!is_loopback_name(host.as_bytes()), "{host}");
        }
    }

    #[test]
    fn other_sites_may_link_to_the_page_and_nothing_else() {
        let check = |pairs: &[(&'static str, &'static str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.insert(*name, HeaderValue::from_static(value));
            }
            check_fetch_metadata(&Method::GET, &headers).is_ok()
        };
        assert!(check(&[]));
        assert!(check(&[("sec-fetch-site", "same-origin"), ("sec-fetch-mode", "cors")]));
        assert!(check(&[("sec-fetch-site", "none"), ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document")]));
        assert!(check(&[
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-mode", "navigate"),
            ("sec-fetch-dest", "document")
        ]));
        assert!(!check(&[
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-mode", "no-cors"),
            ("sec-fetch-dest", "audio")
        ]));
        assert!(!check(&[("sec-fetch-site", "same-site"), ("sec-fetch-mode", "cors")]));
        assert!(!check(&[
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-mode", "navigate"),
            ("sec-fetch-dest", "iframe")
        ]));
    }
}
