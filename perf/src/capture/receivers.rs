//! The ways of receiving that are compared.

use super::generator::{FIRST_SSRC, Generator, Sink, source_port};
use super::{Options, Way, cpu_ns_of_task};
use anyhow::{Context, Result, bail};
use sidetone_capture::{Mode, Port, PortConfig, Reason, TapControl};
use sidetone_model::{Domain, StreamKey};
use sidetone_tap_abi::parse;
use std::io::Read;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

const INTERFACE: &str = "mirror0";

/// The receiving end at work.
pub(super) enum Receiver {
    Sink(Sink),
    Discarded { control: Box<TapControl>, _reader: Reader },
    Capture { reader: Reader, mode: String },
    Tcpdump(Child),
}

/// What a receiver says at its end.
pub(super) struct Capturing {
    pub(super) received: u64,
    /// `received` counts from the receiver's start.
    pub(super) warm_up_included: bool,
}

/// A thread that reads frames and copies their payload out, as the recorder's receive thread does.
pub(super) struct Reader {
    task: String,
    received: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Receiver {
    pub(super) fn start(way: Way, generator: &Generator, options: &Options) -> Result<Self> {
        let config = |mode| PortConfig {
            interface: INTERFACE.to_owned(),
            mode,
            ring_frames: options.ring_frames,
            // Not on a BPF file system: the program goes with the port.
            pin_directory: PathBuf::from("/nonexistent/sidetone-perf"),
            ..PortConfig::default()
        };
        Ok(match way {
            Way::Sink => Self::Sink(generator.sink(INTERFACE)?),
            Way::Discarded => {
                let mut port = Port::open(&config(Mode::AfXdp))?;
                let mut control = port.control.take().context("AF_XDP without control")?;
                for stream in 0..options.streams {
                    control.discard(&stream_key(stream))?;
                }
                Self::Discarded { control: Box::new(control), _reader: Reader::start(port)? }
            }
            Way::AfXdp | Way::TpacketV3 => {
                let port = Port::open(&config(if way == Way::AfXdp { Mode::AfXdp } else { Mode::AfPacket }))?;
                let mode = port.mode.to_string();
                Self::Capture { reader: Reader::start(port)?, mode }
            }
            Way::Tcpdump => {
                let child = Command::new("tcpdump")
                    .args(["-i", INTERFACE, "-n", "-s", "0", "-B", "65536", "-w", "/dev/null"])
                    .stderr(Stdio::piped())
                    .spawn()
                    .context("cannot start tcpdump")?;
                // It says that it has started on the pipe that is read at its end.
                std::thread::sleep(Duration::from_millis(500));
                Self::Tcpdump(child)
            }
        })
    }

    /// Frames so far; 0 for tcpdump, which says it only at its end.
    pub(super) fn received(&self) -> Result<u64> {
        Ok(match self {
            Self::Sink(sink) => sink.received()?,
            Self::Discarded { control, .. } => control.counters()?.dropped(Reason::Discarded),
            Self::Capture { reader, .. } => reader.received.load(Ordering::Acquire),
            Self::Tcpdump(_) => 0,
        })
    }

    /// CPU time of the receiving thread or process so far.
    pub(super) fn cpu_ns(&self) -> Result<u64> {
        match self {
            Self::Sink(_) => Ok(0),
            Self::Discarded { _reader: reader, .. } | Self::Capture { reader, .. } => cpu_ns_of_task(&reader.task),
            Self::Tcpdump(child) => cpu_ns_of_task(&child.id().to_string()),
        }
    }

    pub(super) fn mode(&self) -> String {
        match self {
            Self::Sink(_) | Self::Discarded { .. } => "XDP, native".to_owned(),
            Self::Capture { mode, .. } => mode.clone(),
            Self::Tcpdump(_) => "AF_PACKET".to_owned(),
        }
    }

    /// Ends it, and gives its last word, if it has one.
    pub(super) fn stop(&mut self) -> Result<Option<Capturing>> {
        match self {
            Self::Sink(_) | Self::Discarded { .. } => Ok(None),
            Self::Capture { reader, .. } => {
                reader.stop()?;
                let received = reader.received.load(Ordering::Acquire);
                Ok(Some(Capturing { received, warm_up_included: false }))
            }
            Self::Tcpdump(child) => {
                let pid = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw);
                rustix::process::kill_process(pid.context("tcpdump has no process id")?, rustix::process::Signal::INT)
                    .context("cannot end tcpdump")?;
                let mut text = String::new();
                child.stderr.take().context("tcpdump's messages")?.read_to_string(&mut text)?;
                child.wait().context("tcpdump did not end")?;
                let received =
                    text.lines().find_map(|line| line.strip_suffix(" packets captured")?.trim().parse().ok());
                let Some(received) = received else { bail!("tcpdump said no number of packets: {text}") };
                Ok(Some(Capturing { received, warm_up_included: true }))
            }
        }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        if let Self::Tcpdump(child) = self
            && let Ok(None) = child.try_wait()
        {
            // Already on the way out of an error: there is nobody to tell.
            drop(child.kill());
            drop(child.wait());
        }
    }
}

impl Reader {
    fn start(port: Port) -> Result<Self> {
        let received = Arc::new(AtomicU64::new(0));
        let stop = Arc::new(AtomicBool::new(false));
        let (task_sender, task) = std::sync::mpsc::channel();
        let thread = std::thread::Builder::new().name("reader".to_owned()).spawn({
            let (received, stop) = (received.clone(), stop.clone());
            move || {
                task_sender.send(rustix::thread::gettid().as_raw_nonzero().get()).context("nobody waits")?;
                let mut payload = [0u8; 2048];
                let mut port = port;
                let [source] = port.sources.as_mut_slice() else { bail!("one queue is expected") };
                while !stop.load(Ordering::Acquire) {
                    let frames = source.receive(Duration::from_millis(20), 256, &mut |frame| {
                        if let Ok(headers) = parse(frame.bytes) {
                            let start = headers.payload_offset as usize;
                            let length = (headers.payload_length as usize).min(payload.len());
                            payload[..length].copy_from_slice(&frame.bytes[start..start + length]);
                        }
                    })?;
                    received.fetch_add(frames as u64, Ordering::Release);
                }
                std::hint::black_box(&payload);
                Ok(())
            }
        })?;
        let task = task.recv().context("the reader ended before it began")?;
        Ok(Self { task: format!("self/task/{task}"), received, stop, thread: Some(thread) })
    }

    fn stop(&mut self) -> Result<()> {
        self.stop.store(true, Ordering::Release);
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(result)) => result,
            Some(Err(_)) => bail!("the reader panicked"),
            None => Ok(()),
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            eprintln!("warning: {error:#}");
        }
    }
}

fn stream_key(stream: u32) -> StreamKey {
    StreamKey {
        domain: Domain::default(),
        source: SocketAddr::from(([10, 0, 0, 1], source_port(stream))),
        destination: SocketAddr::from(([10, 0, 0, 2], 40_000)),
        ssrc: FIRST_SSRC + stream,
    }
}
