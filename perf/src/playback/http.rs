//! The API in front of a store, and a client that waits for the first byte of a file.

use anyhow::{Context, Result, anyhow};
use prometheus::Registry;
use sidetone_api::{Api, ApiConfig, EventBus, Live, Status};
use sidetone_model::{NodeName, Recording, RecordingId};
use sidetone_store::StoreHandle;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

pub(super) struct Server {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

/// Nothing is live here.
struct Idle;

impl Live for Idle {
    fn calls(&self) -> Vec<Arc<Recording>> {
        Vec::new()
    }

    fn status(&self) -> Status {
        Status {
            node: NodeName("perf".into()),
            version: env!("CARGO_PKG_VERSION").into(),
            started_at: crate::recorder::now(),
            ready: true,
            reasons: Vec::new(),
            warnings: Vec::new(),
            ports: Vec::new(),
            volumes: Vec::new(),
        }
    }
}

impl Server {
    pub(super) fn start(store: StoreHandle) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let config = ApiConfig { listen: SocketAddr::from(([127, 0, 0, 1], 0)) };
        let api = runtime.block_on(Api::bind(config, store, Arc::new(Idle), EventBus::new(), Registry::new()))?;
        let address = api.local_address();
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new().name("api".into()).spawn(move || {
            runtime.block_on(api.serve(async {
                // Dropped is stopped too.
                drop(stopped.await);
            }));
        })?;
        Ok(Self { address, stop, thread })
    }

    /// From connecting to the first byte of the body.
    pub(super) fn first_byte(&self, recording: RecordingId) -> Result<Duration> {
        let began = Instant::now();
        let mut connection = TcpStream::connect(self.address)?;
        connection.set_nodelay(true)?;
        connection.set_read_timeout(Some(Duration::from_secs(20)))?;
        write!(
            connection,
            "GET /api/v1/recordings/{recording}/audio?format=opus&channels=dual HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n",
            self.address
        )?;
        let mut answer = Vec::new();
        let mut piece = [0; 4096];
        let head_bytes = loop {
            let read = connection.read(&mut piece).context("the API does not answer")?;
            anyhow::ensure!(read > 0, "the API closed: {}", String::from_utf8_lossy(&answer));
            answer.extend_from_slice(&piece[..read]);
            let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n");
            if let Some(end) = end.filter(|end| answer.len() > end + 4) {
                break end + 4;
            }
        };
        let took = began.elapsed();
        anyhow::ensure!(
            answer.starts_with(b"HTTP/1.1 200") && answer[head_bytes..].starts_with(b"O"),
            "no file came: {}",
            String::from_utf8_lossy(&answer[..head_bytes])
        );
        Ok(took)
    }

    pub(super) fn stop(self) -> Result<()> {
        drop(self.stop);
        self.thread.join().map_err(|_panic| anyhow!("the API's thread panicked"))
    }
}
