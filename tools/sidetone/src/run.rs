//! `sidetone run`: everything is checked and opened first; only then threads start.

use crate::config::Config;
use anyhow::{Context, Result, bail};
use sidetone_api::{Api, ApiConfig, ApiError, CapturePort, Event, EventBus, Live, Status};
use sidetone_capture::{CaptureError, CaptureMode, Port};
use sidetone_engine::{Engine, EngineEvent, EngineMetrics, EventSink, Observed, PortInfo};
use sidetone_model::{CaptureTime, NodeName, Recording, Seed};
use sidetone_store::{Store, StoreOptions};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// How often the running appliance looks whether all its threads still run.
const HEALTH_INTERVAL: Duration = Duration::from_millis(500);

pub(crate) fn run(config: &Config) -> Result<ExitCode> {
    if config.capture.interfaces.is_empty() {
        bail!("no mirror port is named: give --interface INTERFACE, or [capture] interfaces in the configuration file");
    }
    // What can be seen to fail is looked at before the store is touched.
    config.validate()?;
    for interface in &config.capture.interfaces {
        if !Path::new("/sys/class/net").join(interface).exists() {
            return Err(CaptureError::NoInterface { interface: interface.clone() }.into());
        }
    }
    if let Err(error) = std::net::TcpListener::bind(config.api.listen) {
        let in_use = error.kind() == std::io::ErrorKind::AddrInUse;
        let address = config.api.listen;
        return Err(match in_use {
            true => ApiError::AddressInUse { address, source: error }.into(),
            false => anyhow::Error::new(error).context(format!("the API cannot listen on {address}")),
        });
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("control")
        .enable_all()
        .build()
        .context("the control plane's threads cannot be started")?;
    runtime.block_on(serve(config))
}

async fn serve(config: &Config) -> Result<ExitCode> {
    let node = config.node_name();
    let store = Store::open(&config.store.directory, &StoreOptions::new(node.clone()))?;
    let (writer, reader) = store.split();
    let active = reader.active_with_resume()?;
    if !active.is_empty() {
        tracing::info!(recordings = active.len(), "going on with recordings of the last run");
    }

    // Signals first, so that one that comes during start-up is not lost.
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM cannot be handled")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT cannot be handled")?;

    let bus = EventBus::new();
    let setup = config.setup(live_seed()?, event_sink(bus.clone()));
    let observed_later = Arc::new(Appliance::new(node, config));
    let registry = prometheus::Registry::new();
    let live: Arc<dyn Live> = observed_later.clone();
    let api = Api::bind(ApiConfig { listen: config.api.listen }, reader, live, bus, registry.clone()).await?;

    let mut ports = Vec::new();
    for port in config.ports() {
        ports.push(Port::open(&port)?);
    }
    let infos = describe(config, &ports);
    for info in &infos {
        match &info.fallback_reason {
            None => tracing::info!(interface = info.interface, mode = info.mode.label(), "capturing"),
            Some(reason) => {
                tracing::warn!(
                    interface = info.interface,
                    mode = info.mode.label(),
                    reason,
                    "capturing without AF_XDP"
                );
            }
        }
    }
    let queues: usize = infos.iter().map(|info| info.queues.len()).sum();
    tracing::info!(
        queues,
        encoder_threads = config.engine.encoder_thread_count(),
        memory_mib = config.engine.memory_bytes(queues as u64) >> 20,
        "memory for rings, streams and pre-roll is taken now"
    );
    let engine = Engine::start(&setup, ports, writer, active)?;
    registry
        .register(Box::new(EngineMetrics::new(engine.observed().clone(), infos.clone())?))
        .context("the metrics cannot be registered")?;
    observed_later.started(engine.observed().clone(), infos);

    let address = api.local_address();
    tracing::info!(url = %format!("http://{address}/"), "ready");
    let (stop_api, api_stopped) = tokio::sync::oneshot::channel::<()>();
    let server = tokio::spawn(api.serve(async move {
        // A dropped sender stops the server too.
        let _stopped = api_stopped.await;
    }));

    let healthy = loop {
        tokio::select! {
            _ = terminate.recv() => { tracing::info!("SIGTERM: stopping"); break true }
            _ = interrupt.recv() => { tracing::info!("interrupted: stopping"); break true }
            () = tokio::time::sleep(HEALTH_INTERVAL) => {
                if !engine.is_healthy() {
                    observed_later.failed.store(true, Ordering::Relaxed);
                    tracing::error!("a thread of the data plane ended by a fault; stopping, so that the supervisor starts it anew");
                    break false;
                }
            }
        }
    };
    observed_later.stopping.store(true, Ordering::Relaxed);
    let stopped = tokio::task::spawn_blocking(move || engine.stop()).await.context("stopping failed")?;
    drop(stop_api);
    server.await.context("the HTTP server ended by a fault")?;
    match stopped {
        Ok(store) => drop(store),
        Err(error) => {
            tracing::error!(%error, "stopping was not clean");
            return Ok(ExitCode::from(1));
        }
    }
    tracing::info!("stopped; running calls stay active and go on at the next start");
    Ok(if healthy { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// Identifiers of a live run are its own.
fn live_seed() -> Result<Seed> {
    let mut seed = [0; 16];
    let filled = rustix::rand::getrandom(&mut seed, rustix::rand::GetRandomFlags::empty())
        .context("the kernel gives no random bytes")?;
    anyhow::ensure!(filled == seed.len(), "the kernel gave too few random bytes");
    Ok(Seed(seed))
}

fn event_sink(bus: EventBus) -> EventSink {
    Arc::new(move |event| match event {
        EngineEvent::CallStarted(recording) => {
            tracing::info!(recording = %recording.id, parties = %parties(&recording), "call started");
            bus.publish(Event::CallStarted(recording));
        }
        EngineEvent::CallUpdated(recording) => bus.publish(Event::CallUpdated(recording)),
        EngineEvent::CallEnded(recording) => bus.publish(Event::CallEnded(recording)),
        EngineEvent::RecordingCompleted(recording) => {
            tracing::info!(
                recording = %recording.id, parties = %parties(&recording), state = ?recording.state,
                seconds = recording.duration_seconds, "recording is durable"
            );
            bus.publish(Event::RecordingCompleted(recording));
        }
        EngineEvent::NotRecorded { call_id, reason, .. } => {
            tracing::info!(%call_id, ?reason, "call not recorded");
        }
    })
}

fn parties(recording: &Recording) -> String {
    let name = |party: &sidetone_model::Party| {
        if party.number.is_empty() { party.address.clone() } else { party.number.clone() }
    };
    recording.parties.iter().map(name).collect::<Vec<_>>().join(" -> ")
}

fn describe(config: &Config, ports: &[Port]) -> Vec<PortInfo> {
    let mut first_queue = 0;
    let mut taps = 0;
    let describe = |(interface, port): (&String, &Port)| {
        let queues = first_queue..first_queue + port.sources.len();
        first_queue = queues.end;
        let tap = port.control.is_some().then(|| {
            taps += 1;
            taps - 1
        });
        PortInfo {
            interface: interface.clone(),
            mode: port.mode,
            fallback_reason: port.fallback_reason.clone(),
            queues,
            tap,
        }
    };
    config.capture.interfaces.iter().zip(ports).map(describe).collect()
}

/// What the API asks of the running appliance.
struct Appliance {
    node: NodeName,
    started_at: CaptureTime,
    running: std::sync::OnceLock<(Observed, Vec<PortInfo>)>,
    interfaces: Vec<String>,
    stopping: AtomicBool,
    failed: AtomicBool,
}

impl Appliance {
    fn new(node: NodeName, config: &Config) -> Self {
        let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Self {
            node,
            started_at: CaptureTime::ZERO.saturating_add(since_epoch),
            running: std::sync::OnceLock::new(),
            interfaces: config.capture.interfaces.clone(),
            stopping: AtomicBool::new(false),
            failed: AtomicBool::new(false),
        }
    }

    fn started(&self, observed: Observed, ports: Vec<PortInfo>) {
        let first = self.running.set((observed, ports));
        assert!(first.is_ok(), "the appliance starts once");
    }
}

impl Live for Appliance {
    fn calls(&self) -> Vec<Arc<Recording>> {
        self.running.get().map(|(observed, _)| observed.live.list()).unwrap_or_default()
    }

    fn status(&self) -> Status {
        let mut reasons = Vec::new();
        let mut ports = Vec::new();
        match self.running.get() {
            None => reasons.push(format!("capture on {} is starting", self.interfaces.join(", "))),
            Some((observed, infos)) => {
                for info in infos {
                    ports.push(capture_port(info, observed));
                }
                if observed.writer.is_failing() {
                    reasons.push("the store cannot be written: audio is being lost (see the log)".into());
                }
                for info in infos {
                    if observed.receive[info.queues.clone()].iter().any(|queue| queue.is_failing()) {
                        reasons.push(format!(
                            "nothing is captured on {}: the interface fails (see the log)",
                            info.interface
                        ));
                    }
                }
            }
        }
        if self.stopping.load(Ordering::Relaxed) {
            reasons.push("the appliance is stopping".into());
        }
        if self.failed.load(Ordering::Relaxed) {
            reasons.push("a thread of the data plane ended by a fault".into());
        }
        Status {
            node: self.node.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            started_at: self.started_at,
            ready: reasons.is_empty(),
            reasons,
            ports,
        }
    }
}

fn capture_port(info: &PortInfo, observed: &Observed) -> CapturePort {
    let queues = &observed.receive[info.queues.clone()];
    let missed: u64 = queues.iter().map(|queue| queue.missed.get()).sum();
    CapturePort {
        interface: info.interface.clone(),
        mode: mode_text(info.mode).into(),
        fallback_reason: info.fallback_reason.clone(),
        queues: queues.len() as u32,
        frames_received: queues.iter().map(|queue| queue.frames_received.get()).sum::<u64>() + missed,
        frames_missed: missed,
    }
}

fn mode_text(mode: CaptureMode) -> &'static str {
    mode.label()
}
