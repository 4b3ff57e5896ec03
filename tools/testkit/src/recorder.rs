//! The appliance under test: its process, its HTTP interface, its command line.

use crate::http::{self, Response};
use crate::interrupt;
use crate::metrics::Metrics;
use crate::process::{self, Network, Running};
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::{Duration, SystemTime};

/// How to run it.
#[derive(Clone, Debug)]
pub struct Options {
    /// The `sidetone` program.
    pub program: PathBuf,
    pub interface: String,
    pub store: PathBuf,
    pub listen: SocketAddr,
    pub log: PathBuf,
    /// Further words for `sidetone run`.
    pub arguments: Vec<String>,
}

/// A running appliance.
pub struct Recorder {
    running: Running,
    options: Options,
    started_at: SystemTime,
}

impl Recorder {
    /// Starts `sidetone run` and waits until it captures.
    ///
    /// # Errors
    /// When it ends before it is ready, or is not ready within 30 s; the message has the end of its log.
    pub fn start(options: Options) -> Result<Self> {
        let mut recorder = Self::spawn(options)?;
        recorder.wait_until_ready()?;
        Ok(recorder)
    }

    /// Starts `sidetone run` and does not wait for anything.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn spawn(options: Options) -> Result<Self> {
        let mut command = process::command(&Network::Own, &options.program);
        command
            .args(["run", "--interface", &options.interface, "--listen", &options.listen.to_string(), "--store"])
            .arg(&options.store)
            .args(&options.arguments);
        let started_at = SystemTime::now();
        let running = Running::start("sidetone", &mut command, &options.log)?;
        Ok(Self { running, options, started_at })
    }

    /// Waits until it captures.
    ///
    /// # Errors
    /// When it ends before it is ready, or is not ready within 30 s; the message has the end of its log.
    pub fn wait_until_ready(&mut self) -> Result<()> {
        let (running, listen) = (&mut self.running, self.options.listen);
        let ready = interrupt::wait_for("sidetone to capture (/readyz)", Duration::from_secs(30), || {
            if let Some(status) = running.ended()? {
                bail!("sidetone ended with {status}");
            }
            Ok(http::get(listen, "/readyz").ok().filter(|response| response.status == 200).map(|_| ()))
        });
        ready.with_context(|| format!("the end of {}:\n{}", self.options.log.display(), self.running.log_tail()))
    }

    /// When the process was started.
    pub fn started_at(&self) -> SystemTime {
        self.started_at
    }

    pub fn address(&self) -> SocketAddr {
        self.options.listen
    }

    pub fn pid(&self) -> u32 {
        self.running.pid()
    }

    pub fn log_tail(&self) -> String {
        self.running.log_tail()
    }

    /// Whether it has ended by itself.
    ///
    /// # Errors
    /// When the operating system does not know it.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.running.ended()
    }

    /// # Errors
    /// When there is no answer with status 200.
    pub fn get(&self, path: &str) -> Result<Response> {
        let response = http::get(self.options.listen, path)?;
        if response.status != 200 {
            let body = String::from_utf8_lossy(&response.body).into_owned();
            bail!("GET {path} answers {}: {}", response.status, body.chars().take(500).collect::<String>());
        }
        Ok(response)
    }

    /// # Errors
    /// When there is no answer, or it is not JSON.
    pub fn json(&self, path: &str) -> Result<Value> {
        let response = self.get(path)?;
        serde_json::from_slice(&response.body).with_context(|| format!("GET {path} does not answer with JSON"))
    }

    /// The calls that go on.
    ///
    /// # Errors
    /// As `json`, or when the answer has no such list.
    pub fn calls(&self) -> Result<Vec<Value>> {
        list(self.json("/api/v1/calls")?, "calls")
    }

    /// All recordings, over all pages, newest first.
    ///
    /// # Errors
    /// As `json`, or when the answer has no such list, or the pages do not end.
    pub fn recordings(&self) -> Result<Vec<Value>> {
        let mut all = Vec::new();
        let mut cursor: Option<String> = None;
        for _page in 0..1000 {
            let path = match &cursor {
                None => "/api/v1/recordings?limit=100".to_owned(),
                Some(cursor) => format!("/api/v1/recordings?limit=100&cursor={}", escape(cursor)),
            };
            let page = self.json(&path)?;
            cursor = page["next"].as_str().or(page["next_cursor"].as_str()).map(str::to_owned);
            all.extend(list(page, "recordings")?);
            if cursor.is_none() {
                return Ok(all);
            }
        }
        bail!("the pages of /api/v1/recordings do not end");
    }

    /// # Errors
    /// When there is no answer, or a line is not in the format.
    pub fn metrics(&self) -> Result<Metrics> {
        let response = self.get("/metrics")?;
        Metrics::parse(std::str::from_utf8(&response.body).context("/metrics is not text")?)
    }

    /// SIGKILL: it has no chance to do anything more. Returns a moment at which it still lived.
    ///
    /// # Errors
    /// When it had ended by itself.
    pub fn kill(mut self) -> Result<SystemTime> {
        if let Some(status) = self.running.ended()? {
            bail!("sidetone had ended by itself with {status}:\n{}", self.running.log_tail());
        }
        let at = SystemTime::now();
        self.running.kill()?;
        Ok(at)
    }

    /// SIGTERM; it must flush and end with 0.
    ///
    /// # Errors
    /// When it ends otherwise or not within 30 s.
    pub fn stop(mut self) -> Result<()> {
        if let Some(status) = self.running.ended()? {
            bail!("sidetone had ended by itself with {status}:\n{}", self.running.log_tail());
        }
        let status = self.running.terminate(Duration::from_secs(30))?;
        if !status.success() {
            bail!("sidetone ended with {status} after SIGTERM:\n{}", self.running.log_tail());
        }
        Ok(())
    }
}

/// Runs `sidetone` with `arguments` to the end, and returns what it printed.
///
/// # Errors
/// When it does not end with 0.
pub fn command_line(program: &Path, arguments: &[&std::ffi::OsStr]) -> Result<String> {
    let mut command = process::command(&Network::Own, program);
    command.args(arguments);
    process::output(&mut command)
}

/// A port of loopback that nobody listens on now, `preferred` if that is free.
///
/// # Errors
/// When loopback has no free port.
pub fn free_port(preferred: Option<u16>) -> Result<SocketAddr> {
    for port in preferred.into_iter().chain([0]) {
        if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            return listener.local_addr().context("a listener has an address");
        }
    }
    bail!("no free port on 127.0.0.1");
}

fn list(value: Value, name: &str) -> Result<Vec<Value>> {
    let found = match value {
        Value::Object(mut object) => object.remove(name),
        list => Some(list),
    };
    match found {
        Some(Value::Array(items)) => Ok(items),
        other => bail!("the answer has no list `{name}`: {other:?}"),
    }
}

/// Percent-encodes everything but unreserved characters (RFC 3986 §2.3).
fn escape(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}
