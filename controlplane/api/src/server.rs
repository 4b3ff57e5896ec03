//! The listening socket and its connections.

use crate::events::EventBus;
use crate::metrics::ApiMetrics;
use crate::routes::{AppState, router};
use crate::status::Live;
use crate::write_stall::WriteStall;
use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use prometheus::Registry;
use sidetone_store::StoreReader;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::{JoinError, JoinSet};

/// Connections open at once; further ones are told to come back and closed.
const CONNECTIONS_MAX: usize = 256;
/// From a connection's start, or the end of the request before, to the end of the next request's headers.
const HEADER_READ_TIMEOUT: Duration = Duration::from_secs(20);
/// Request line and headers together.
const HEADER_BYTES_MAX: usize = 16 * 1024;
const HEADERS_MAX: usize = 64;
/// A client that reads nothing for so long is given up. Players that pause ask again for the rest.
const WRITE_STALL_MAX: Duration = Duration::from_secs(120);
/// What requests in progress get when the server stops.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(5);
/// Before accepting again when the system has no more descriptors or memory for a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

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
    metrics: ApiMetrics,
    stopping: watch::Sender<bool>,
}

impl Api {
    /// Binds the port, so that an address in use is found before anything else starts. Registers this server's own
    /// metrics in `registry`, and serves all of it.
    ///
    /// # Errors
    /// [`ApiError`], each with its remedy; nothing is left behind.
    pub async fn bind(
        config: ApiConfig,
        reader: Arc<StoreReader>,
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
        let state = AppState::new(reader, live, events, registry, metrics.clone(), stops);
        Ok(Self { listener, local_address, router: router(state), metrics, stopping })
    }

    /// The address with the port that was really taken.
    pub fn local_address(&self) -> SocketAddr {
        self.local_address
    }

    /// Serves until `shutdown` is done; then takes no more connections, ends event streams, and gives requests in progress
    /// 5 s.
    pub async fn serve(self, shutdown: impl Future<Output = ()>) {
        let mut shutdown = std::pin::pin!(shutdown);
        let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                () = &mut shutdown => break,
                accepted = self.listener.accept() => accepted,
                Some(ended) = connections.join_next() => { report(ended); continue }
            };
            match accepted {
                Ok((socket, _peer)) => match Arc::clone(&room).try_acquire_owned() {
                    Ok(permit) => {
                        connections.spawn(self.connection(socket, permit));
                    }
                    Err(_full) => {
                        self.metrics.connections_refused.inc();
                        // A courtesy to whoever waits for the answer; the close that follows says the same.
                        drop(socket.try_write(FULL));
                    }
                },
                Err(error) => {
                    // ECONNABORTED is the client's doing; what else comes here (EMFILE, ENOBUFS, ENOMEM) passes with time.
                    tracing::warn!(%error, "the API cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        drop(self.listener);
        self.stopping.send_replace(true);
        let all_ended = async {
            while let Some(ended) = connections.join_next().await {
                report(ended);
            }
        };
        if tokio::time::timeout(SHUTDOWN_GRACE, all_ended).await.is_err() {
            tracing::warn!(connections = connections.len(), "the API stops with requests in progress");
            connections.shutdown().await;
        }
    }

    /// One connection from its first request to its end.
    fn connection(&self, socket: TcpStream, permit: OwnedSemaphorePermit) -> impl Future<Output = ()> + Send + use<> {
        let router = self.router.clone();
        let mut stopping = self.stopping.subscribe();
        let open = self.metrics.connections.clone();
        async move {
            let _permit = permit;
            if let Err(error) = socket.set_nodelay(true) {
                tracing::debug!(%error, "TCP_NODELAY");
            }
            open.inc();
            let io = TokioIo::new(WriteStall::new(socket, WRITE_STALL_MAX));
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_READ_TIMEOUT)
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

/// A connection's task ends by itself; if it panicked, that request alone failed, and it is worth an error.
fn report(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "an API connection panicked");
    }
}
