//! The listening socket and its connections.

use crate::control::ControlSocket;
use crate::events::EventBus;
use crate::metrics::ApiMetrics;
use crate::routes::{AppState, control_router, router};
use crate::status::Live;
use crate::write_stall::WriteStall;
use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use prometheus::Registry;
use sidetone_store::StoreHandle;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::{JoinError, JoinSet};

/// Request line and headers together.
const HEADER_BYTES_MAX: usize = 16 * 1024;
const HEADERS_MAX: usize = 64;
/// Before accepting again when the system has no more descriptors or memory for a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// What clients may hold, and for how long.
#[derive(Clone, Copy)]
struct Limits {
    /// Connections open at once; further ones are told to come back and closed.
    connections: usize,
    /// From a connection's start, or the end of the request before, to the end of the next request's headers.
    header_read: Duration,
    /// A client that reads nothing for so long is given up. Players that pause ask again for the rest.
    write_stall: Duration,
    /// What requests in progress get when the server stops.
    shutdown_grace: Duration,
}

const LIMITS: Limits = Limits {
    connections: 256,
    header_read: Duration::from_secs(20),
    write_stall: Duration::from_secs(120),
    shutdown_grace: Duration::from_secs(5),
};

const FULL: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 5\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

/// Where the API listens.
#[derive(Clone, Debug)]
pub struct ApiConfig {
    /// A loopback address; port 0 takes a free one.
    pub listen: SocketAddr,
}

impl Default for ApiConfig {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], 8080)) }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    #[error(
        "the API may not listen on {address}: it has no accounts yet, so whoever reaches it could hear every call. Listen on \
         127.0.0.1 or ::1, and reach it from elsewhere through `ssh -L {port}:localhost:{port} HOST`, or through a reverse \
         proxy on this host that asks for a password and passes `Host: localhost`",
        port = address.port()
    )]
    NotLoopback { address: SocketAddr },
    #[error(
        "the API's address {address} is in use by another process: stop that one (`ss -ltnp 'sport = :{port}'` names it), or \
         choose another port with --listen",
        port = address.port()
    )]
    AddressInUse {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error(
        "the API cannot listen on {address}: {source}. Choose an address of this host, and a port above 1023 unless \
         started as root"
    )]
    Bind {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("the API's metrics cannot be registered: {source}. Give each server a registry of its own")]
    Metrics {
        #[source]
        source: prometheus::Error,
    },
}

/// The HTTP server, bound and not yet serving.
pub struct Api {
    listener: TcpListener,
    local_address: SocketAddr,
    router: Router,
    control: Option<ControlSocket>,
    control_router: Router,
    metrics: ApiMetrics,
    stopping: watch::Sender<bool>,
    limits: Limits,
}

impl Api {
    /// Binds the port, so that an address in use is found before anything else starts. Registers this server's own
    /// metrics in `registry`, and serves all of it.
    ///
    /// # Errors
    /// [`ApiError`], each with its remedy; nothing is left behind.
    pub async fn bind(
        config: ApiConfig,
        store: StoreHandle,
        live: Arc<dyn Live>,
        events: EventBus,
        registry: Registry,
    ) -> Result<Self, ApiError> {
        let address = config.listen;
        if !address.ip().to_canonical().is_loopback() {
            return Err(ApiError::NotLoopback { address });
        }
        let listener = TcpListener::bind(address).await.map_err(|source| match source.kind() {
            io::ErrorKind::AddrInUse => ApiError::AddressInUse { address, source },
            _ => ApiError::Bind { address, source },
        })?;
        let local_address = listener.local_addr().map_err(|source| ApiError::Bind { address, source })?;
        let metrics = ApiMetrics::register(&registry).map_err(|source| ApiError::Metrics { source })?;
        let (stopping, stops) = watch::channel(false);
        let state = AppState::new(store, live, events, registry, metrics.clone(), stops);
        let (router, control_router) = (router(&state), control_router(&state));
        Ok(Self { listener, local_address, router, control: None, control_router, metrics, stopping, limits: LIMITS })
    }

    /// Also answers on a control socket (`control.rs`), made at this path. That it cannot be made is told and no error.
    pub fn with_control_socket(mut self, path: &Path) -> Self {
        match ControlSocket::bind(path) {
            Ok(socket) => self.control = Some(socket),
            Err(error) => {
                let path = path.display();
                tracing::warn!(%path, %error, "no control socket: `sidetone` commands will not find this recorder");
            }
        }
        self
    }

    /// The address with the port that was really taken.
    pub fn local_address(&self) -> SocketAddr {
        self.local_address
    }

    /// Serves until `shutdown` is done; then takes no more connections, ends event streams, and gives requests in progress
    /// 5 s.
    pub async fn serve(self, shutdown: impl Future<Output = ()>) {
        let mut shutdown = std::pin::pin!(shutdown);
        let room = Arc::new(Semaphore::new(self.limits.connections));
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                () = &mut shutdown => break,
                accepted = self.listener.accept() => accepted.map(|(socket, _peer)| Accepted::Network(socket)),
                accepted = accept_control(self.control.as_ref()) => accepted.map(Accepted::Control),
                Some(ended) = connections.join_next() => { report(ended); continue }
            };
            match accepted {
                Ok(accepted) => match (Arc::clone(&room).try_acquire_owned(), accepted) {
                    (Ok(permit), Accepted::Network(socket)) => {
                        if let Err(error) = socket.set_nodelay(true) {
                            tracing::debug!(%error, "TCP_NODELAY");
                        }
                        connections.spawn(self.connection(socket, self.router.clone(), permit));
                    }
                    (Ok(permit), Accepted::Control(socket)) => {
                        connections.spawn(self.connection(socket, self.control_router.clone(), permit));
                    }
                    (Err(_full), accepted) => {
                        self.metrics.connections_refused.inc();
                        // A courtesy to whoever waits for the answer; the close that follows says the same.
                        match accepted {
                            Accepted::Network(socket) => drop(socket.try_write(FULL)),
                            Accepted::Control(socket) => drop(socket.try_write(FULL)),
                        }
                    }
                },
                Err(error) => {
                    // ECONNABORTED is the client's doing; what else comes here (EMFILE, ENOBUFS, ENOMEM) passes with time.
                    tracing::warn!(%error, "the API cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        drop((self.listener, self.control));
        self.stopping.send_replace(true);
        let all_ended = async {
            while let Some(ended) = connections.join_next().await {
                report(ended);
            }
        };
        if tokio::time::timeout(self.limits.shutdown_grace, all_ended).await.is_err() {
            tracing::warn!(connections = connections.len(), "the API stops with requests in progress");
            connections.shutdown().await;
        }
    }

    /// One connection from its first request to its end.
    fn connection<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
        &self,
        socket: S,
        router: Router,
        permit: OwnedSemaphorePermit,
    ) -> impl Future<Output = ()> + Send + use<S> {
        let mut stopping = self.stopping.subscribe();
        let open = self.metrics.connections.clone();
        let limits = self.limits;
        async move {
            let _permit = permit;
            open.inc();
            let io = TokioIo::new(WriteStall::new(socket, limits.write_stall));
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(limits.header_read)
                .max_header_size(HEADER_BYTES_MAX)
                .max_headers(HEADERS_MAX)
                .serve_connection(io, TowerToHyperService::new(router));
            let mut connection = std::pin::pin!(connection);
            // Not `wait_for`: what it gives back must not be held across an await.
            let stops = async move { while !*stopping.borrow_and_update() && stopping.changed().await.is_ok() {} };
            let outcome = tokio::select! {
                outcome = connection.as_mut() => outcome,
                () = stops => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            open.dec();
            if let Err(error) = outcome {
                // Garbage, an early close, a timeout: the client's doing.
                tracing::debug!(%error, "an API connection ended early");
            }
        }
    }
}

/// A connection, and where it came from.
enum Accepted {
    Network(TcpStream),
    Control(UnixStream),
}

/// Never, without a control socket.
async fn accept_control(control: Option<&ControlSocket>) -> io::Result<UnixStream> {
    match control {
        Some(control) => Ok(control.listener.accept().await?.0),
        None => std::future::pending().await,
    }
}

/// A connection's task ends by itself; if it panicked, that request alone failed, and it is worth an error.
fn report(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "an API connection panicked");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::routing::get;
    use std::time::Instant;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::sync::oneshot;

    const REQUEST: &[u8] = b"GET /slow HTTP/1.1\r\nhost: localhost\r\n\r\n";

    /// A server with one address, `/slow`, that answers after 300 ms, and another, `/never`, that does not.
    async fn start(limits: Limits) -> (SocketAddr, oneshot::Sender<()>, tokio::task::JoinHandle<()>) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let local_address = listener.local_addr().unwrap();
        let slow = || async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            "slow"
        };
        let router = Router::new().route("/slow", get(slow)).route("/never", get(std::future::pending::<&'static str>));
        let metrics = ApiMetrics::register(&Registry::new()).unwrap();
        let stopping = watch::channel(false).0;
        let control_router = Router::new();
        let api = Api { listener, local_address, router, control: None, control_router, metrics, stopping, limits };
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = tokio::spawn(api.serve(async { drop(stopped.await) }));
        (local_address, stop, serving)
    }

    /// What the server sends until it closes the connection, and how long that took.
    async fn until_closed(address: SocketAddr, sent: &[u8]) -> (String, Duration) {
        let started = Instant::now();
        let mut socket = TcpStream::connect(address).await.unwrap();
        socket.write_all(sent).await.unwrap();
        let mut answer = Vec::new();
        tokio::time::timeout(Duration::from_secs(10), socket.read_to_end(&mut answer))
            .await
            .expect("closed within 10 s")
            .ok();
        (String::from_utf8_lossy(&answer).into_owned(), started.elapsed())
    }

    #[tokio::test]
    async fn a_client_that_does_not_finish_its_headers_is_disconnected() {
        let limits = Limits { header_read: Duration::from_millis(400), ..LIMITS };
        let (address, _stop, _serving) = start(limits).await;
        for sent in [&b""[..], b"GET /slow HT", b"GET /slow HTTP/1.1\r\nhost: localhost\r\nx: "] {
            let (_, elapsed) = until_closed(address, sent).await;
            assert!((350..5000).contains(&elapsed.as_millis()), "{elapsed:?}");
        }
        // Nor may a connection be kept without further requests.
        let (answer, elapsed) = until_closed(address, REQUEST).await;
        assert!(answer.ends_with("slow") && elapsed < Duration::from_secs(5), "{answer} {elapsed:?}");
    }

    #[tokio::test]
    async fn connections_beyond_the_limit_are_told_to_come_back() {
        let (address, _stop, _serving) = start(Limits { connections: 2, ..LIMITS }).await;
        let mut held = Vec::new();
        for _ in 0..2 {
            let mut socket = TcpStream::connect(address).await.unwrap();
            socket.write_all(b"GET /never HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
            held.push(socket);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        let mut refused = TcpStream::connect(address).await.unwrap();
        let mut answer = String::new();
        refused.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        drop(held);
        tokio::time::sleep(Duration::from_millis(200)).await;
        let request = [&REQUEST[..REQUEST.len() - 2], b"connection: close\r\n\r\n"].concat();
        assert!(until_closed(address, &request).await.0.starts_with("HTTP/1.1 200 "));
    }

    #[tokio::test]
    async fn stopping_finishes_requests_and_gives_up_those_without_end() {
        let limits = Limits { shutdown_grace: Duration::from_millis(1500), ..LIMITS };
        let (address, stop, serving) = start(limits).await;
        let slow = tokio::spawn(async move { until_closed(address, REQUEST).await });
        let never =
            tokio::spawn(async move { until_closed(address, b"GET /never HTTP/1.1\r\nhost: localhost\r\n\r\n").await });
        tokio::time::sleep(Duration::from_millis(100)).await;
        let started = Instant::now();
        stop.send(()).unwrap();
        assert!(slow.await.unwrap().0.ends_with("slow"));
        serving.await.unwrap();
        let elapsed = started.elapsed();
        assert!((1400..4000).contains(&elapsed.as_millis()), "{elapsed:?}");
        assert_eq!(never.await.unwrap().0, "");
        assert!(TcpStream::connect(address).await.is_err());
    }
}
