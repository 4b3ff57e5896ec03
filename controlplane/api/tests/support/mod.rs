//! A store with made-up recordings, a server over it, and a client that sends exactly what it is told to.

#![allow(dead_code, reason = "each test program uses its own part of this")]

pub(crate) mod sample;

use serde_json::Value;
use sidetone_api::{Api, ApiConfig, CapturePort, Event, EventBus, Live, Status, VolumeStatus};
use sidetone_log::{ChunkCodec, ChunkHeader, ChunkPayload, Fact};
use sidetone_model::{CaptureTime, NodeName, Recording, RecordingState, SavedCall, Tick, TrackId};
use sidetone_store::{Keeper, Store, StoreHandle, StoreOptions, StoreWriter, VolumeState};
use std::f64::consts::TAU;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// Grid steps in one chunk.
const CHUNK_TICKS: u16 = 50;
const SAMPLES_PER_TICK: usize = 160;
/// The longest wait for an answer: a test fails rather than hangs.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// What the server is told about calls and state; tests change it while it runs.
#[derive(Default)]
pub(crate) struct Told {
    pub(crate) calls: Mutex<Vec<Arc<Recording>>>,
    pub(crate) reasons: Mutex<Vec<String>>,
    pub(crate) warnings: Mutex<Vec<String>>,
    pub(crate) volumes: Mutex<Vec<VolumeStatus>>,
}

pub(crate) fn volume(number: u8, directory: &str, state: VolumeState, free_bytes: u64) -> VolumeStatus {
    VolumeStatus { volume: number, directory: directory.into(), state, free_bytes, total_bytes: 4_000_787_030_016 }
}

impl Live for Told {
    fn calls(&self) -> Vec<Arc<Recording>> {
        self.calls.lock().unwrap().clone()
    }

    fn status(&self) -> Status {
        let reasons = self.reasons.lock().unwrap().clone();
        Status {
            node: NodeName("test".into()),
            version: "0.1.0".into(),
            started_at: CaptureTime::from_seconds_nanos(1_790_000_000, 0),
            ready: reasons.is_empty(),
            reasons,
            warnings: self.warnings.lock().unwrap().clone(),
            volumes: self.volumes.lock().unwrap().clone(),
            ports: vec![CapturePort {
                interface: "mirror0".into(),
                mode: "af_xdp native".into(),
                fallback_reason: None,
                queues: 1,
                frames_received: 12_345,
                frames_missed: 0,
            }],
        }
    }
}

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) told: Arc<Told>,
    pub(crate) events: EventBus,
    pub(crate) store: StoreHandle,
    pub(crate) directory: tempfile::TempDir,
    /// Writes and keeps the store, until it is told to end.
    storage: Option<(Arc<AtomicBool>, std::thread::JoinHandle<()>)>,
    stop: Option<oneshot::Sender<()>>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Server {
    /// A server on a free port over a new store with `recordings`, each with two tones (see [`append`]).
    pub(crate) fn start(recordings: &[Recording]) -> Self {
        Self::start_at(SocketAddr::from(([127, 0, 0, 1], 0)), recordings)
    }

    pub(crate) fn start_at(listen: SocketAddr, recordings: &[Recording]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut options = StoreOptions::new(NodeName("test".into()));
        options.sealing.interval = Duration::ZERO;
        let store = Store::open(directory.path(), &options).unwrap();
        let (mut writer, mut keeper, reader, store) = store.split();
        for recording in recordings {
            append(&mut writer, recording);
        }
        // Until all are sealed: their documents stay as they are from then on.
        let is_settled = |recording: &&Recording| {
            let has_audio = recording.tracks.iter().any(|track| track.duration_seconds > 0.0);
            let kept = || reader.recording(recording.id).unwrap();
            recording.state == RecordingState::Active || !has_audio || kept().is_some_and(|kept| kept.proof.is_some())
        };
        let settles = Instant::now() + ANSWER_TIMEOUT;
        loop {
            writer.flush().unwrap();
            if !keeper.step() && recordings.iter().all(|recording| is_settled(&recording)) {
                break;
            }
            assert!(Instant::now() < settles, "the recordings are not sealed");
        }
        let storage = Some(keep(writer, keeper));
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let (told, events) = (Arc::new(Told::default()), EventBus::new());
        let live: Arc<dyn Live> = Arc::clone(&told) as Arc<dyn Live>;
        let api = runtime
            .block_on(Api::bind(ApiConfig { listen }, store.clone(), live, events.clone(), prometheus::Registry::new()))
            .unwrap();
        let address = api.local_address();
        let (stop, stopped) = oneshot::channel::<()>();
        runtime.spawn(api.serve(async move { drop(stopped.await) }));
        Self { address, told, events, store, directory, storage, stop: Some(stop), runtime: Some(runtime) }
    }

    /// Nobody writes the store any more.
    pub(crate) fn stop_storage(&mut self) {
        if let Some((stop, thread)) = self.storage.take() {
            stop.store(true, Ordering::Relaxed);
            thread.join().unwrap();
        }
    }

    /// Asks the server to stop; what is in progress goes on for its grace.
    pub(crate) fn stop(&mut self) {
        self.stop.take().unwrap().send(()).unwrap();
    }

    pub(crate) fn connect(&self) -> TcpStream {
        let socket = TcpStream::connect(self.address).unwrap();
        socket.set_read_timeout(Some(ANSWER_TIMEOUT)).unwrap();
        socket.set_write_timeout(Some(ANSWER_TIMEOUT)).unwrap();
        socket
    }

    /// Sends `bytes` as they are, and reads until the server closes the connection.
    pub(crate) fn send(&self, bytes: &[u8]) -> Vec<u8> {
        let mut socket = self.connect();
        // The server may refuse and close before everything is sent.
        let sent = socket.write_all(bytes);
        let mut answer = Vec::new();
        match socket.read_to_end(&mut answer) {
            Ok(_) => answer,
            Err(error) if sent.is_err() || error.kind() == std::io::ErrorKind::ConnectionReset => answer,
            Err(error) => panic!("no answer: {error}"),
        }
    }

    /// One request with `headers` (complete lines without line ends), on a connection of its own.
    pub(crate) fn request(&self, method: &str, target: &str, headers: &[&str]) -> Answer {
        let mut text = format!("{method} {target} HTTP/1.1\r\nconnection: close\r\n");
        if !headers.iter().any(|line| line.to_ascii_lowercase().starts_with("host:")) {
            text += "host: localhost\r\n";
        }
        for line in headers {
            text += line;
            text += "\r\n";
        }
        text += "\r\n";
        Answer::parse(&self.send(text.as_bytes()), method)
    }

    /// A change with a JSON body.
    pub(crate) fn patch(&self, target: &str, body: &str) -> Answer {
        self.patch_as(target, "application/json", body)
    }

    pub(crate) fn patch_as(&self, target: &str, content_type: &str, body: &str) -> Answer {
        let length = body.len();
        let text = format!(
            "PATCH {target} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: {content_type}\r\n\
             content-length: {length}\r\n\r\n{body}"
        );
        Answer::parse(&self.send(text.as_bytes()), "PATCH")
    }

    pub(crate) fn get(&self, target: &str) -> Answer {
        self.request("GET", target, &[])
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(5));
        }
        self.stop_storage();
    }
}

/// What the engine's threads do: flushes, and everything behind them.
fn keep(mut writer: StoreWriter, mut keeper: Keeper) -> (Arc<AtomicBool>, std::thread::JoinHandle<()>) {
    let stop = Arc::new(AtomicBool::new(false));
    let stopping = Arc::clone(&stop);
    let thread = std::thread::spawn(move || {
        while !stopping.load(Ordering::Relaxed) {
            writer.flush().unwrap();
            keeper.step();
            std::thread::sleep(Duration::from_millis(5));
        }
    });
    (stop, thread)
}

pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// Reads a whole response; a body of another length than announced fails.
    pub(crate) fn parse(bytes: &[u8], method: &str) -> Self {
        let end = bytes
            .windows(4)
            .position(|window| window == b"\r\n\r\n")
            .unwrap_or_else(|| panic!("no headers in {bytes:?}"));
        let head = std::str::from_utf8(&bytes[..end]).unwrap();
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers: Vec<(String, String)> = lines
            .map(|line| line.split_once(':').unwrap())
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        let answer = Self { status, headers, body: bytes[end + 4..].to_vec() };
        let announced = answer.header("content-length").map(|length| length.parse::<usize>().unwrap());
        match announced {
            Some(_) if method == "HEAD" || status == 304 => assert!(answer.body.is_empty()),
            Some(length) => assert_eq!(answer.body.len(), length, "{head}"),
            None => {}
        }
        answer
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The kind of problem this refusal names, after checking that it is a complete problem document.
    pub(crate) fn problem(&self) -> String {
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{} {}", self.status, self.text());
        let document = self.json();
        assert_eq!(document["status"], self.status);
        for field in ["title", "detail", "remedy"] {
            assert!(document[field].as_str().is_some_and(|text| text.len() > 3), "{field}: {document}");
        }
        document["type"].as_str().unwrap().strip_prefix("urn:sidetone:problem:").unwrap().to_owned()
    }
}

/// The tone of a side: caller and callee differ, so that channels can be told apart.
pub(crate) fn tone_hz(track: TrackId) -> f64 {
    if track.0 == 0 { 440.0 } else { 1000.0 }
}

/// Writes the document, and for each of its tracks a tone of the track's duration from two seconds after the start on.
pub(crate) fn append(writer: &mut StoreWriter, recording: &Recording) {
    for track in &recording.tracks {
        let mut encoder = opus::Encoder::new(8000, opus::Channels::Mono, opus::Application::Voip).unwrap();
        encoder.set_bitrate(opus::Bitrate::Bits(16_000)).unwrap();
        let first = Tick(recording.started_at.tick().0 + 100 + (track.start_offset_seconds * 50.0).round() as u64);
        let ticks = (track.duration_seconds * 50.0).round() as u64;
        let step = TAU * tone_hz(track.id) / 8000.0;
        let mut packet = [0u8; 1275];
        for start in (0..ticks).step_by(usize::from(CHUNK_TICKS)) {
            let count = u64::from(CHUNK_TICKS).min(ticks - start);
            let mut payload = ChunkPayload::default();
            for tick in start..start + count {
                let samples: Vec<i16> = (0..SAMPLES_PER_TICK)
                    .map(|sample| (8000.0 * (step * (tick as usize * SAMPLES_PER_TICK + sample) as f64).sin()) as i16)
                    .collect();
                let length = encoder.encode(&samples, &mut packet).unwrap();
                payload.push(&packet[..length]);
            }
            let header = ChunkHeader {
                recording: recording.id,
                track: track.id,
                first_tick: Tick(first.0 + start),
                ticks: count as u16,
                packets: count as u16,
                codec: ChunkCodec::OpusNarrowband,
                key_id: [0; 16],
                nonce: [0; 12],
                tag: [0; 16],
            };
            writer.append_chunk(&header, &payload.0).unwrap();
        }
    }
    let resume = (recording.state == RecordingState::Active).then(SavedCall::default);
    writer.append_fact(Fact::Recording { recording: Arc::new(recording.clone()), resume }).unwrap();
}

/// The same call while it goes on.
pub(crate) fn active(number: u64) -> Recording {
    let mut recording = sample::recording(number);
    recording.state = RecordingState::Active;
    recording.ended_at = None;
    recording.end_reason = None;
    recording
}

/// Keeps events coming as a running appliance would.
pub(crate) fn publish_updates(events: &EventBus, recording: &Arc<Recording>, count: usize) {
    for _ in 0..count {
        events.publish(Event::CallUpdated(Arc::clone(recording)));
    }
}
