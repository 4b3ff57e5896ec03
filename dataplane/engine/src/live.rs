//! The data plane on real ports: one thread per receive queue, one for calls, some for encoding, one for writing, one that keeps the
//! store. The only place where threads of the data plane start.

use crate::assemble::{Observed, Parts, Setup, assemble};
use crate::clock::ThreadClock;
use crate::encode::Encoder;
use crate::receive::Receiver;
use crate::{affinity, call::CallThread, keep, restore, write::Writer};
use sidetone_capture::{FrameSource, Port};
use sidetone_store::{Keeper, Store, StoreError, StoreWriter};
use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

/// How long a receive thread waits for frames before it looks at its commands.
const RECEIVE_TIMEOUT: Duration = Duration::from_millis(10);
/// Frames taken at a go.
const RECEIVE_BUDGET: usize = 256;
/// How long threads without work sleep. Rings hold far more than comes in meanwhile.
const CALL_IDLE: Duration = Duration::from_millis(2);
const ENCODER_IDLE: Duration = Duration::from_millis(5);
const WRITER_IDLE: Duration = Duration::from_millis(5);
/// Pause of the last attempts to write to a store that fails.
const WRITER_RETRY: Duration = Duration::from_millis(500);
/// Pause after a source failed (interface down, …) before it is tried again.
const SOURCE_RETRY: Duration = Duration::from_millis(200);
/// Stopping gives up on rings that do not empty.
const DRAIN_LIMIT: Duration = Duration::from_secs(20);

#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error("the data plane needs at least one receive queue")]
    NoQueue,
    #[error("thread '{name}' could not be started")]
    Spawn {
        name: String,
        #[source]
        source: std::io::Error,
    },
    #[error("the store could not be written until the end: {facts} facts and {packets} packets of this run are lost")]
    NotWritten { facts: usize, packets: u64 },
    #[error("thread '{name}' ended by a fault of its own: {message}")]
    Panicked { name: &'static str, message: String },
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl EngineError {
    fn panicked(name: &'static str, panic: &(dyn Any + Send)) -> Self {
        let text = panic.downcast_ref::<&str>().copied();
        let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
        Self::Panicked { name, message: text.unwrap_or("no message").to_owned() }
    }
}

/// The running data plane.
pub struct Engine {
    stop: StopFlags,
    receivers: Vec<JoinHandle<()>>,
    encoders: Vec<JoinHandle<()>>,
    call: JoinHandle<()>,
    writer: JoinHandle<(StoreWriter, usize)>,
    keeper: JoinHandle<Keeper>,
    observed: Observed,
}

/// Threads stop in the order in which data flows, so that everything heard reaches the disk.
#[derive(Default)]
struct StopFlags {
    receive: Arc<AtomicBool>,
    encode: Arc<AtomicBool>,
    call: Arc<AtomicBool>,
    write: Arc<AtomicBool>,
    keep: Arc<AtomicBool>,
}

impl Engine {
    /// Starts all threads, and goes on with the recordings that were going on when the last process ended.
    pub fn start(setup: &Setup, ports: Vec<Port>, store: Store) -> Result<Self, EngineError> {
        let mut sources = Vec::new();
        let mut taps = Vec::new();
        for port in ports {
            sources.extend(port.sources);
            taps.extend(port.control);
        }
        let queues = u16::try_from(sources.len()).unwrap_or(u16::MAX);
        if queues == 0 {
            return Err(EngineError::NoQueue);
        }
        let (writer, mut keeper, reader, _) = store.split();
        let active = restore::active_recordings(&reader)?;
        if !active.is_empty() {
            tracing::info!(recordings = active.len(), "going on with recordings of the last run");
        }
        let Parts { receivers, mut call, encoders, writer, observed } =
            assemble(setup, queues, setup.engine.encoder_thread_count(), writer, taps);
        keep::watch(&mut keeper, &reader, &observed.room, &setup.events)?;
        call.restore(active, ThreadClock::start().now());

        let stop = StopFlags::default();
        let keeper = {
            let stop = stop.keep.clone();
            spawn("keeper".into(), None, move || {
                keeper.run(&stop);
                keeper
            })?
        };
        let writer = {
            let stop = stop.write.clone();
            spawn("writer".into(), None, move || run_writer(writer, ThreadClock::start(), &stop))?
        };
        let call = {
            let stop = stop.call.clone();
            spawn("calls".into(), None, move || run_calls(call, &stop))?
        };
        let encoders = encoders
            .into_iter()
            .enumerate()
            .map(|(index, encoder)| {
                let stop = stop.encode.clone();
                let core = setup.engine.encoder_cores.get(index).copied();
                spawn(format!("encoder-{index}"), core, move || run_encoder(encoder, &stop))
            })
            .collect::<Result<Vec<_>, _>>()?;
        let receivers = receivers
            .into_iter()
            .zip(sources)
            .enumerate()
            .map(|(index, (receiver, source))| {
                let stop = stop.receive.clone();
                let core = setup.engine.receive_cores.get(index).copied();
                let counters = observed.receive[index].clone();
                spawn(format!("receive-{index}"), core, move || run_receiver(receiver, source, &counters, &stop))
            })
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Self { stop, receivers, encoders, call, writer, keeper, observed })
    }

    pub fn observed(&self) -> &Observed {
        &self.observed
    }

    /// True while every thread runs.
    pub fn is_healthy(&self) -> bool {
        !(self.call.is_finished()
            || self.writer.is_finished()
            || self.keeper.is_finished()
            || self.receivers.iter().any(JoinHandle::is_finished)
            || self.encoders.iter().any(JoinHandle::is_finished))
    }

    /// Stops receiving, lets everything heard reach the disk, leaves running calls active for the next process, and closes the
    /// store.
    pub fn stop(self) -> Result<(), EngineError> {
        let joined = |handle: JoinHandle<()>, name| handle.join().map_err(|panic| EngineError::panicked(name, &panic));
        self.stop.receive.store(true, Ordering::Release);
        let receivers: Vec<_> = self.receivers.into_iter().map(|handle| joined(handle, "receive")).collect();
        self.stop.encode.store(true, Ordering::Release);
        let encoders: Vec<_> = self.encoders.into_iter().map(|handle| joined(handle, "encoder")).collect();
        self.stop.call.store(true, Ordering::Release);
        let call = joined(self.call, "calls");
        self.stop.write.store(true, Ordering::Release);
        let (writer, facts) = self.writer.join().map_err(|panic| EngineError::panicked("writer", &panic))?;
        self.stop.keep.store(true, Ordering::Release);
        let keeper = self.keeper.join().map_err(|panic| EngineError::panicked("keeper", &panic))?;
        let closed = keeper.close(writer);
        // The others' faults are told only after the store is safe.
        receivers.into_iter().chain(encoders).chain([call]).collect::<Result<Vec<()>, _>>()?;
        if facts > 0 {
            return Err(EngineError::NotWritten { facts, packets: self.observed.writer.lost_packets.get() });
        }
        Ok(closed?)
    }
}

fn spawn<T: Send + 'static>(
    name: String,
    core: Option<u16>,
    body: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>, EngineError> {
    std::thread::Builder::new()
        .name(name.clone())
        .spawn(move || {
            if let Some(core) = core
                && let Err(error) = affinity::pin_to(core)
            {
                tracing::warn!(core, %error, "a thread could not be pinned; it runs where the kernel puts it");
            }
            body()
        })
        .map_err(|source| EngineError::Spawn { name, source })
}

fn run_receiver(
    mut receiver: Receiver,
    mut source: Box<dyn FrameSource>,
    counters: &crate::counters::ReceiveCounters,
    stop: &AtomicBool,
) {
    let mut clock = ThreadClock::start();
    let mut last_statistics = Instant::now();
    while !stop.load(Ordering::Acquire) {
        match source.receive(RECEIVE_TIMEOUT, RECEIVE_BUDGET, &mut |frame| receiver.on_frame(frame)) {
            Ok(0) => {}
            Ok(_) => counters.failing.set(0),
            Err(error) => {
                counters.errors.add(1);
                if !counters.is_failing() {
                    tracing::error!(error = %error, "nothing is captured on this queue; it is tried again");
                }
                counters.failing.set(1);
                sleep(SOURCE_RETRY);
            }
        }
        receiver.apply_commands();
        receiver.on_tick(clock.now());
        if last_statistics.elapsed() >= Duration::from_millis(500) {
            last_statistics = Instant::now();
            let statistics = source.statistics();
            counters.missed.set(statistics.missed());
            match (statistics.is_down, counters.is_failing()) {
                (true, false) => tracing::error!("the interface is down or gone: nothing is captured on this queue"),
                (false, true) => tracing::info!("the interface is back"),
                _ => {}
            }
            counters.failing.set(u64::from(statistics.is_down));
        }
    }
    counters.missed.set(source.statistics().missed());
    receiver.drop_pre_roll();
    receiver.on_tick(clock.now());
}

fn run_encoder(mut encoder: Encoder, stop: &AtomicBool) {
    while !stop.load(Ordering::Acquire) {
        if !encoder.step() {
            sleep(ENCODER_IDLE);
        }
    }
    let limit = Instant::now();
    encoder.flush_all();
    while !encoder.is_idle() && limit.elapsed() < DRAIN_LIMIT {
        encoder.step();
        sleep(CALL_IDLE);
    }
}

fn run_calls(mut call: CallThread, stop: &AtomicBool) {
    let mut clock = ThreadClock::start();
    while !stop.load(Ordering::Acquire) {
        if !call.step(clock.now()) {
            sleep(CALL_IDLE);
        }
    }
    while call.step(clock.now()) {}
    call.suspend(clock.now());
    let limit = Instant::now();
    // The receive threads are gone and will take no command any more; only facts matter now.
    while call.has_unsent_facts() && limit.elapsed() < DRAIN_LIMIT {
        sleep(CALL_IDLE);
        call.step(clock.now());
    }
    call.publish_statistics();
}

/// Returns the store, and how many facts it did not take.
pub(crate) fn run_writer(mut writer: Writer, mut clock: ThreadClock, stop: &AtomicBool) -> (StoreWriter, usize) {
    while !stop.load(Ordering::Acquire) {
        let now = clock.now();
        let busy = writer.step(now);
        if let Some(stepped_nanos) = clock.take_step() {
            writer.on_clock_step(stepped_nanos, now);
        }
        if !busy {
            sleep(WRITER_IDLE);
        }
    }
    let limit = Instant::now();
    loop {
        let now = clock.now();
        let busy = writer.take(now);
        if writer.flush(now) {
            if !busy {
                return writer.into_store();
            }
        } else if limit.elapsed() > DRAIN_LIMIT {
            return writer.into_store();
        } else {
            sleep(WRITER_RETRY);
        }
    }
}
