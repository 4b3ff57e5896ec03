//! `sidetone run`: everything is checked and opened first; only then threads start.

use crate::client;
use crate::config::Config;
use anyhow::{Context, Result, bail};
use sidetone_api::{
    Api, ApiConfig, ApiError, CapturePort, Event, EventBus, Live, Status, StoreAlert, StoreAlertKind, VolumeChange,
    VolumeStatus,
};
use sidetone_capture::{CaptureError, CaptureMode, Port};
use sidetone_engine::{Engine, EngineEvent, EngineMetrics, EventSink, Observed, PortInfo};
use sidetone_model::{CaptureTime, NodeName, Recording, Seed};
use sidetone_playback::size_tables;
use sidetone_store::{Store, StoreEvent, StoreReader, StoreStatistics, VolumeNumber, VolumeState, VolumeStatistics};
use std::collections::BTreeMap;
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
    let result = runtime.block_on(serve(config));
    // A backup may be in the middle of a file; the next one goes on where it was.
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

async fn serve(config: &Config) -> Result<ExitCode> {
    let node = config.node_name();
    let mut store = Store::open(&config.store.directory, &config.store.options(node.clone()))?;
    store.keeper.on_run(size_tables);
    let reader = Arc::clone(&store.reader);

    // Signals first, so that one that comes during start-up is not lost.
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM cannot be handled")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT cannot be handled")?;

    let bus = EventBus::new();
    let setup = config.setup(live_seed()?, event_sink(bus.clone(), directories(&reader)?));
    let observed_later = Arc::new(Appliance::new(node, config, Arc::clone(&reader)));
    let registry = prometheus::Registry::new();
    let live: Arc<dyn Live> = observed_later.clone();
    let api_config = ApiConfig { listen: config.api.listen };
    let api = Api::bind(api_config, store.handle.clone(), live, bus, registry.clone())
        .await?
        .with_control_socket(&client::socket(&config.store.directory));

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
    let engine = Engine::start(&setup, ports, store)?;
    registry
        .register(Box::new(EngineMetrics::new(engine.observed().clone(), infos.clone(), statistics(reader))?))
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
    if let Err(error) = stopped {
        tracing::error!(%error, "stopping was not clean");
        return Ok(ExitCode::from(1));
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

fn event_sink(bus: EventBus, directories: BTreeMap<VolumeNumber, String>) -> EventSink {
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
        // The store has logged it.
        EngineEvent::Store(event) => {
            if let Some(event) = store_event(event, &directories) {
                bus.publish(event);
            }
        }
        EngineEvent::NotRecorded { call_id, reason, .. } => {
            tracing::info!(%call_id, ?reason, "call not recorded");
        }
    })
}

/// What is told of the store's events; `None` for one that is told as the engine's own.
fn store_event(event: StoreEvent, directories: &BTreeMap<VolumeNumber, String>) -> Option<Event> {
    let alert = |kind, text| Some(Event::StoreAlert(StoreAlert { kind, text }));
    match event {
        StoreEvent::RecordingOver(_) => None,
        StoreEvent::VolumeChanged { volume, before, after } => Some(Event::VolumeChanged(VolumeChange {
            volume: volume.0,
            directory: directories.get(&volume).cloned().unwrap_or_default(),
            state: after,
            previous_state: before,
        })),
        StoreEvent::CatalogFailing { error } => alert(StoreAlertKind::CatalogFailing, error),
        StoreEvent::CatalogRecovered => {
            alert(StoreAlertKind::CatalogRecovered, "the catalog can be written again".to_owned())
        }
        StoreEvent::JournalDamaged { volume, error } => {
            alert(StoreAlertKind::JournalDamaged, format!("volume {}: {error}", volume.0))
        }
        StoreEvent::AudioDamaged { recording, chunks } => {
            let text = format!("{chunks} chunks of recording {recording} cannot be read any more; it is incomplete");
            alert(StoreAlertKind::AudioDamaged, text)
        }
    }
}

/// The store's figures, whenever metrics are asked for.
fn statistics(reader: Arc<StoreReader>) -> Box<dyn Fn() -> Option<StoreStatistics> + Send + Sync> {
    Box::new(move || match reader.statistics() {
        Ok(statistics) => Some(statistics),
        Err(error) => {
            tracing::warn!(%error, "the store gives no figures");
            None
        }
    })
}

fn directories(reader: &StoreReader) -> Result<BTreeMap<VolumeNumber, String>> {
    let volumes = reader.volumes()?.into_iter();
    Ok(volumes.map(|volume| (volume.volume, volume.directory.display().to_string())).collect())
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
    reader: Arc<StoreReader>,
    started_at: CaptureTime,
    running: std::sync::OnceLock<(Observed, Vec<PortInfo>)>,
    interfaces: Vec<String>,
    store: crate::config::Store,
    stopping: AtomicBool,
    failed: AtomicBool,
}

impl Appliance {
    fn new(node: NodeName, config: &Config, reader: Arc<StoreReader>) -> Self {
        let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Self {
            node,
            reader,
            started_at: CaptureTime::ZERO.saturating_add(since_epoch),
            running: std::sync::OnceLock::new(),
            interfaces: config.capture.interfaces.clone(),
            store: config.store.clone(),
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
        let volumes = match self.reader.volumes() {
            Ok(volumes) => volumes,
            Err(error) => {
                reasons.push(format!("the volumes of the store cannot be looked at: {error}"));
                Vec::new()
            }
        };
        let (refused, mut warnings) = storage_troubles(&volumes);
        if !volumes.is_empty() {
            warnings.extend(self.store.not_volumes(&volumes));
        }
        reasons.extend(refused);
        match self.running.get() {
            None => reasons.push(format!("capture on {} is starting", self.interfaces.join(", "))),
            Some((observed, infos)) => {
                for info in infos {
                    ports.push(capture_port(info, observed));
                }
                if observed.writer.is_failing() {
                    warnings.push("part of the store cannot be written (see the log)".into());
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
            warnings,
            ports,
            volumes: volumes.iter().map(volume_status).collect(),
        }
    }
}

/// Why no recording may begin, and what an operator should look after.
pub(crate) fn storage_troubles(volumes: &[VolumeStatistics]) -> (Option<String>, Vec<String>) {
    let name = |volume: &VolumeStatistics| format!("volume {} ({})", volume.volume.0, volume.directory.display());
    let trouble = |volume: &VolumeStatistics| {
        let what = match volume.state {
            VolumeState::Ok => return None,
            VolumeState::Low => "runs out of space",
            VolumeState::NoNew => "has no room for recordings that begin",
            VolumeState::Reserve => "has no room for audio any more",
            VolumeState::Full => "is full",
            VolumeState::Stalled => "does not answer in time",
            VolumeState::Failed => "cannot be written",
            VolumeState::Missing => "is missing: mount it",
        };
        Some(format!("{} {what}", name(volume)))
    };
    let troubles: Vec<String> = volumes.iter().filter_map(trouble).collect();
    if volumes.is_empty() || volumes.iter().any(|volume| volume.state.takes_new()) {
        return (None, troubles);
    }
    (Some(format!("no volume of the store takes new recordings: {}", troubles.join(", "))), Vec::new())
}

fn volume_status(volume: &VolumeStatistics) -> VolumeStatus {
    VolumeStatus {
        volume: volume.volume.0,
        directory: volume.directory.display().to_string(),
        state: volume.state,
        free_bytes: volume.free_bytes,
        total_bytes: volume.total_bytes,
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
