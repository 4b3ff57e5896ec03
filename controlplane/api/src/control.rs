//! The control socket: the same API for programs on this machine that may open the store's files, and what only they may ask for.
//!
//! A Unix socket in the store directory (unix(7)), of mode 0600: who may connect is decided by the file system. Whatever writes files
//! where the client says, as a backup does, is answered here and not on the network port, which has no accounts.

use crate::problem::{Problem, ProblemKind};
use crate::query::{NoParameters, Parameters};
use crate::routes::AppState;
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use rustix::fs::Mode;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with};
use serde::{Deserialize, Serialize};
use sidetone_store::{BackupOptions, BackupProgress, BackupReport};
use std::convert::Infallible;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 64;
const BODY_BYTES_MAX: usize = 64 << 10;
/// Between two lines about a backup's progress.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);

/// A listening socket with a name; the name goes when it is dropped.
pub(crate) struct ControlSocket {
    pub(crate) listener: UnixListener,
    path: PathBuf,
}

impl ControlSocket {
    /// Replaces a socket that an earlier process has left there.
    pub(crate) fn bind(path: &Path) -> io::Result<Self> {
        let address = SocketAddrUnix::new(path)?;
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        bind(&socket, &address)?;
        // Nobody can connect before it listens.
        rustix::fs::chmod(path, Mode::RUSR | Mode::WUSR)?;
        listen(&socket, BACKLOG)?;
        let listener = UnixListener::from_std(socket.into())?;
        Ok(Self { listener, path: path.to_owned() })
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!(path = %self.path.display(), %error, "the control socket stays");
        }
    }
}

/// What is answered on the control socket alone.
pub(crate) fn routes() -> Router<AppState> {
    Router::new().route("/control/backup", post(backup))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BackupRequest {
    /// Absolute.
    directory: PathBuf,
    #[serde(default)]
    link: bool,
    #[serde(default)]
    parents: bool,
}

/// One line of the answer; the last one is `done` or `failed`.
#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum BackupLine {
    Progress(BackupProgress),
    Done(BackupReport),
    Failed(String),
}

/// Backs the store up while it is written. Answers with a line of JSON now and then, and a last one; goes on when
/// the client leaves.
async fn backup(
    State(state): State<AppState>,
    Parameters(NoParameters {}): Parameters<NoParameters>,
    body: Body,
) -> Result<Response, Problem> {
    let invalid =
        |detail: String| Problem::new(ProblemKind::InvalidRequest, detail).remedy("use `sidetone store backup`");
    let body = to_bytes(body, BODY_BYTES_MAX).await.map_err(|error| invalid(error.to_string()))?;
    let request: BackupRequest = serde_json::from_slice(&body).map_err(|error| invalid(error.to_string()))?;
    if !request.directory.is_absolute() {
        return Err(invalid(format!("{} is no absolute path", request.directory.display())));
    }
    let permit = Arc::clone(&state.backups).try_acquire_owned().map_err(|_taken| {
        Problem::new(ProblemKind::Busy, "a backup is being made already").remedy("wait until it is done")
    })?;
    let (lines, stream) = mpsc::channel::<Result<String, Infallible>>(16);
    let reader = Arc::clone(&state.reader);
    tokio::task::spawn_blocking(move || {
        let _permit = permit;
        let say = |line: &BackupLine| {
            // A struct of numbers and a string always have a JSON form.
            serde_json::to_string(line).unwrap_or_default() + "\n"
        };
        let mut told = Instant::now();
        let mut progress = |done| {
            if told.elapsed() >= PROGRESS_INTERVAL {
                told = Instant::now();
                // Who reads too slowly misses some; who has left, all.
                drop(lines.try_send(Ok(say(&BackupLine::Progress(done)))));
            }
        };
        let options = BackupOptions { link: request.link, parents: request.parents };
        let directory = &request.directory;
        let last = match reader.backup(directory, &options, &mut progress) {
            Ok(report) => {
                let BackupReport { done, differing } = &report;
                tracing::info!(directory = %directory.display(), files = done.files, bytes = done.bytes, differing = differing.len(),
                    "backup done");
                BackupLine::Done(report)
            }
            Err(error) => {
                tracing::error!(directory = %directory.display(), %error, "backup failed");
                BackupLine::Failed(error.to_string())
            }
        };
        drop(lines.blocking_send(Ok(say(&last))));
    });
    let content_type = (header::CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    let no_store = (header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok((StatusCode::OK, [content_type, no_store], Body::from_stream(ReceiverStream::new(stream))).into_response())
}
