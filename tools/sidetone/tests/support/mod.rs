//! Captures for the tests, made from a seed; the binary; a recorder that runs.

#![allow(dead_code, reason = "each test program uses its own part of this")]

use serde_json::Value;
use sidetone_callgen::{Options, Traffic, write_pcap};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

pub(crate) fn sidetone(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sidetone")).args(arguments).output().expect("the binary was built for this test")
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The command ends with this code; what it printed as JSON.
pub(crate) fn json_of(arguments: &[&str], code: i32) -> Value {
    let output = sidetone(arguments);
    let (out, error) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {out} {error}");
    serde_json::from_str(&out).unwrap_or_else(|problem| panic!("{arguments:?}: {problem}: {out} {error}"))
}

/// The command cannot begin: exit code 2, and one line that names each of `words`; a JSON document with --json.
pub(crate) fn refused(arguments: &[&str], words: &[&str]) {
    is_refusal(&sidetone(arguments), arguments, words);
}

pub(crate) fn is_refusal(output: &Output, arguments: &[&str], words: &[&str]) {
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {error}");
    for word in words {
        assert!(error.contains(word), "{arguments:?} does not name '{word}': {error}");
    }
    assert!(!error.contains("panicked"), "{error}");
    let json = arguments.contains(&"--json");
    let says = |line: &&str| match json {
        true => serde_json::from_str(line).is_ok_and(|line: Value| line["error"].is_string()),
        false => line.starts_with("sidetone: "),
    };
    let said = error.lines().filter(says).count();
    assert_eq!(said, 1, "one line says why: {error}");
}

pub(crate) fn path(directory: &Path, name: &str) -> String {
    directory.join(name).to_string_lossy().into_owned()
}

/// Whether this runs as root; without, what needs it is not tested and says so, and fails where everything must be tested.
pub(crate) fn is_root(what: &str) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let root = status.lines().any(|line| line.starts_with("Uid:\t0\t0"));
    if !root {
        let explanation = format!("NOT TESTED without root: {what}");
        assert!(std::env::var_os("CI").is_none(), "{explanation}");
        eprintln!("{explanation}");
    }
    root
}

/// A store with the recordings of two calls, and their identifiers.
pub(crate) fn store_of_two_calls(directory: &Path, store: &str) -> Vec<String> {
    let capture = path(directory, "calls.pcap");
    two_calls(Path::new(&capture));
    let replayed = json_of(&["replay", &capture, "--store", store, "--json"], 0);
    let recordings = replayed["recordings"].as_array().unwrap().iter();
    let ids: Vec<String> = recordings.map(|recording| recording["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(ids.len(), 2);
    ids
}

/// `sidetone run` on the loopback interface, without XDP; ended when dropped.
pub(crate) struct Recorder {
    process: Child,
    socket: PathBuf,
    log: PathBuf,
}

impl Recorder {
    /// With more lines for the configuration file; waits until calls would be recorded.
    pub(crate) fn start(directory: &Path, store: &str, configuration: &str) -> Self {
        let config = path(directory, "recorder.toml");
        let log = directory.join("recorder.log");
        let capture = "[capture]\ninterfaces = [\"lo\"]\nmode = \"af_packet\"\nmirror = \"shared\"";
        let engine = "[engine]\nmax_streams = 1024\npre_roll_mib = 4\nflush_interval_ms = 250";
        let api = "[api]\nlisten = \"127.0.0.1:0\"";
        std::fs::write(&config, format!("{capture}\n{engine}\n{api}\n{configuration}\n")).unwrap();
        let process = Command::new(env!("CARGO_BIN_EXE_sidetone"))
            .args(["run", "--config", &config, "--store", store])
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let mut recorder = Self { process, socket: Path::new(store).join("control.sock"), log };
        let ends = Instant::now() + Duration::from_secs(60);
        while !recorder.log().contains("ready") || recorder.get("/healthz").is_none() {
            assert!(recorder.process.try_wait().unwrap().is_none(), "it ended: {}", recorder.log());
            assert!(Instant::now() < ends, "it does not begin: {}", recorder.log());
            std::thread::sleep(Duration::from_millis(50));
        }
        recorder
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    pub(crate) fn process(&self) -> u32 {
        self.process.id()
    }

    /// Status and body of an answer of the API, through the control socket.
    pub(crate) fn get(&self, target: &str) -> Option<(u16, String)> {
        let mut socket = UnixStream::connect(&self.socket).ok()?;
        write!(socket, "GET {target} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").ok()?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
    }

    /// As an operator does it; tells the exit code.
    pub(crate) fn stop(mut self) -> Option<i32> {
        let killed = Command::new("kill").arg(self.process.id().to_string()).status().unwrap();
        assert!(killed.success());
        self.process.wait().unwrap().code()
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        // After `stop` there is nothing left of it.
        if self.process.try_wait().ok().flatten().is_none() {
            self.process.kill().ok();
            self.process.wait().ok();
        }
    }
}

pub(crate) struct Call {
    pub(crate) call_id: String,
    /// RTP packets of the caller's and of the callee's voice.
    pub(crate) packets: [u64; 2],
}

/// Two answered calls of four seconds, written to `path`.
pub(crate) fn two_calls(path: &Path) -> Vec<Call> {
    let options =
        Options { calls: 2, ramp: Duration::from_secs(1), talk: Duration::from_secs(4), ..Options::default() };
    let mut traffic = Traffic::new(&options).unwrap();
    write_pcap(std::fs::File::create(path).unwrap(), traffic.by_ref()).unwrap();
    let calls = traffic.into_truth().calls;
    let packets = |call: &sidetone_callgen::CallTruth, side| {
        call.streams.iter().filter(|stream| stream.side == side).map(|stream| stream.packets).sum()
    };
    calls
        .iter()
        .map(|call| Call {
            call_id: call.call_id.clone(),
            packets: [packets(call, sidetone_callgen::Side::Caller), packets(call, sidetone_callgen::Side::Callee)],
        })
        .collect()
}
