//! Asks a running recorder through its control socket: one request on one connection.

use anyhow::{Context, Result, anyhow, bail};
use serde_json::Value;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// In the store directory, while a recorder runs.
const SOCKET: &str = "control.sock";
/// Longer than the recorder itself waits for the disk. A backup tells more often how much further it is.
const PATIENCE: Duration = Duration::from_secs(120);
/// No answer that this program asks for is longer.
const ANSWER_BYTES_MAX: u64 = 16 << 20;

/// Where a recorder on this store listens for commands.
pub(crate) fn socket(store: &Path) -> PathBuf {
    store.join(SOCKET)
}

/// The recorder that has a store open.
pub(crate) struct Recorder {
    store: PathBuf,
    process: String,
    patience: Duration,
}

impl Recorder {
    /// As the store says who has it open.
    pub(crate) fn new(store: &Path, process: &str) -> Self {
        Self { store: store.to_owned(), process: process.to_owned(), patience: PATIENCE }
    }

    pub(crate) fn name(&self) -> String {
        format!("the recorder (process {})", self.process)
    }

    /// Gives the JSON document at a target.
    ///
    /// # Errors
    /// No connection, no such answer, or the recorder's refusal with its remedy.
    pub(crate) fn get(&self, target: &str) -> Result<Value> {
        self.answer("GET", target, None)
    }

    /// Sends a JSON document and gives the one that comes back.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub(crate) fn patch(&self, target: &str, document: &Value) -> Result<Value> {
        self.answer("PATCH", target, Some(document))
    }

    fn answer(&self, method: &str, target: &str, document: Option<&Value>) -> Result<Value> {
        let mut text = String::new();
        self.ask(method, target, document)?.read_to_string(&mut text).context("the recorder's answer breaks off")?;
        serde_json::from_str(&text).context("the recorder's answer is no JSON")
    }

    /// Sends a JSON document and hears the lines that come back, each a document, until `hear` has heard enough.
    ///
    /// # Errors
    /// As [`Self::patch`]; or nothing new has come for too long.
    pub(crate) fn post<T>(
        &self,
        target: &str,
        document: &Value,
        mut hear: impl FnMut(Value) -> Option<T>,
    ) -> Result<T> {
        let (mut last, mut moved) = (Value::Null, Instant::now());
        for line in self.ask("POST", target, Some(document))?.lines() {
            let line: Value = match line {
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    return Err(self.hangs());
                }
                line => serde_json::from_str(&line.context("the recorder's answer breaks off")?)
                    .context("the recorder's answer is no JSON")?,
            };
            if line != last {
                (last, moved) = (line.clone(), Instant::now());
            } else if moved.elapsed() >= self.patience {
                return Err(self.hangs());
            }
            if let Some(heard) = hear(line) {
                return Ok(heard);
            }
        }
        bail!("the recorder ended before it was done: its log says why")
    }

    fn hangs(&self) -> anyhow::Error {
        anyhow!(
            "{} has made no progress for {} s, and is no longer waited for: a disk may not answer, its own or the one it writes to. It goes on \
             by itself if it can, and its log tells how that ends",
            self.name(),
            self.patience.as_secs()
        )
    }

    /// The body of the answer.
    fn ask(&self, method: &str, target: &str, document: Option<&Value>) -> Result<impl BufRead + use<>> {
        let path = socket(&self.store);
        let connected = UnixStream::connect(&path).and_then(|socket| {
            socket.set_read_timeout(Some(self.patience))?;
            socket.set_write_timeout(Some(self.patience))?;
            Ok(socket)
        });
        let mut socket = connected.with_context(|| {
            format!(
                "the store in {} is in use by process {}, which cannot be asked through {}: if it is a recorder, run this as its \
                 user; else try again when it is done",
                self.store.display(),
                self.process,
                path.display()
            )
        })?;
        let body = document.map(Value::to_string).unwrap_or_default();
        // HTTP/1.0: the answer ends with the connection and is not chunked.
        let request = format!(
            "{method} {target} HTTP/1.0\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        let failed = || format!("{} does not answer", self.name());
        socket.write_all(request.as_bytes()).with_context(failed)?;
        let mut answer = BufReader::new(socket.take(ANSWER_BYTES_MAX));
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") && head.len() < 1 << 16 {
            if answer.read_line(&mut head).with_context(failed)? == 0 {
                return Err(anyhow!("{}", failed()));
            }
        }
        let status: u16 = head.split(' ').nth(1).and_then(|status| status.parse().ok()).with_context(failed)?;
        if status != 200 {
            let mut text = String::new();
            answer.read_to_string(&mut text).with_context(failed)?;
            let problem: Value = serde_json::from_str(&text).with_context(failed)?;
            let text = |name: &str| problem[name].as_str().unwrap_or_default().to_owned();
            bail!("the recorder refuses ({status}): {}; {}", text("detail"), text("remedy"));
        }
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::os::unix::net::UnixListener;

    /// Answers one request with this; what it was sent comes back.
    fn answering(store: &Path, answer: &'static [u8]) -> std::thread::JoinHandle<String> {
        std::fs::remove_file(socket(store)).ok();
        let listener = UnixListener::bind(socket(store)).unwrap();
        std::thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            let mut asked = vec![0; 4096];
            let length = socket.read(&mut asked).unwrap();
            socket.write_all(answer).unwrap();
            String::from_utf8_lossy(&asked[..length]).into_owned()
        })
    }

    #[test]
    fn an_answer_comes_back_as_json_and_a_refusal_as_its_cause_and_remedy() {
        let directory = tempfile::tempdir().unwrap();
        let recorder = Recorder::new(directory.path(), "17");
        let served = answering(directory.path(), b"HTTP/1.0 200 OK\r\ncontent-length: 8\r\n\r\n{\"a\": 1}");
        assert_eq!(recorder.patch("/x", &json!({"b": "ü"})).unwrap(), json!({"a": 1}));
        let asked = served.join().unwrap();
        assert!(asked.starts_with("PATCH /x HTTP/1.0\r\nhost: localhost\r\n"), "{asked}");
        assert!(asked.ends_with("content-length: 10\r\n\r\n{\"b\":\"ü\"}"), "{asked}");

        let refusal = b"HTTP/1.0 503 Busy\r\n\r\n{\"detail\": \"no room\", \"remedy\": \"make some\"}";
        let served = answering(directory.path(), refusal);
        let error = recorder.patch("/x", &Value::Null).unwrap_err().to_string();
        assert_eq!(error, "the recorder refuses (503): no room; make some");
        served.join().unwrap();

        for nonsense in [&b"SSH-2.0-OpenSSH\r\n"[..], b"", b"HTTP/1.0 two\r\n\r\n"] {
            let served = answering(directory.path(), nonsense);
            assert!(
                recorder.patch("/x", &Value::Null).unwrap_err().to_string().contains("process 17) does not answer")
            );
            served.join().unwrap();
        }
        let error = recorder.patch("/x", &Value::Null).unwrap_err().to_string();
        assert!(error.contains("in use by process 17") && error.contains("control.sock"), "{error}");
    }

    #[test]
    fn lines_are_heard_until_the_last_one() {
        let directory = tempfile::tempdir().unwrap();
        let recorder = Recorder::new(directory.path(), "17");
        let lines = b"HTTP/1.0 200 OK\r\n\r\n{\"progress\": 1}\n{\"progress\": 2}\n{\"done\": 3}\n";
        let served = answering(directory.path(), lines);
        let mut heard = Vec::new();
        let done = recorder.post("/x", &Value::Null, |line| {
            heard.push(line.clone());
            line["done"].as_u64()
        });
        assert_eq!((done.unwrap(), heard.len()), (3, 3));
        served.join().unwrap();
        let served = answering(directory.path(), b"HTTP/1.0 200 OK\r\n\r\n{\"progress\": 1}\n");
        let broken = recorder.post("/x", &Value::Null, |line| line["done"].as_u64());
        assert!(broken.unwrap_err().to_string().contains("ended before it was done"));
        served.join().unwrap();
    }
    #[test]
    fn a_recorder_that_gets_no_further_is_not_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let recorder = Recorder { patience: Duration::from_millis(200), ..Recorder::new(directory.path(), "17") };
        for repeats in [true, false] {
            std::fs::remove_file(socket(directory.path())).ok();
            let listener = UnixListener::bind(socket(directory.path())).unwrap();
            let served = std::thread::spawn(move || {
                let (mut socket, _) = listener.accept().unwrap();
                socket.write_all(b"HTTP/1.0 200 OK\r\n\r\n{\"progress\": 1}\n").unwrap();
                // Until the client has left.
                while repeats && socket.write_all(b"{\"progress\": 1}\n").is_ok() {
                    std::thread::sleep(Duration::from_millis(20));
                }
                socket.read_to_end(&mut Vec::new()).ok();
            });
            let given_up = recorder.post("/x", &Value::Null, |line| line["done"].as_u64()).unwrap_err().to_string();
            assert!(given_up.contains("process 17) has made no progress"), "{given_up}");
            served.join().unwrap();
        }
    }
}
