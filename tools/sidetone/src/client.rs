//! Asks the API of a running recorder: one request on one connection, to a loopback address.

use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

/// In the store directory while a recorder runs: where its API listens.
const ADDRESS_FILE: &str = "api-address";
/// Longer than the recorder itself waits for the disk.
const PATIENCE: Duration = Duration::from_secs(45);
/// No answer that this program asks for is longer.
const ANSWER_BYTES_MAX: u64 = 16 << 20;

/// Leaves word of the API's address in the store directory, for as long as this lives.
pub(crate) struct AddressFile {
    path: std::path::PathBuf,
}

impl AddressFile {
    /// Not being able to is no reason not to record.
    pub(crate) fn write(store: &Path, address: SocketAddr) -> Self {
        let path = store.join(ADDRESS_FILE);
        if let Err(error) = std::fs::write(&path, format!("{address}\n")) {
            tracing::warn!(path = %path.display(), %error, "`sidetone recordings tag` will not find this recorder");
        }
        Self { path }
    }
}

impl Drop for AddressFile {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!(path = %self.path.display(), %error, "the file with the API's address stays");
        }
    }
}

/// Where the recorder that has this store open listens.
pub(crate) fn address(store: &Path) -> Result<SocketAddr> {
    let path = store.join(ADDRESS_FILE);
    let text =
        std::fs::read_to_string(&path).with_context(|| format!("{} does not say where its API is", path.display()))?;
    text.trim().parse().with_context(|| format!("{} holds no address", path.display()))
}

/// Sends a JSON document and gives the one that comes back.
///
/// # Errors
/// No connection, no such answer, or the API's refusal with its remedy.
pub(crate) fn patch(address: SocketAddr, target: &str, document: &Value) -> Result<Value> {
    let body = document.to_string();
    let request = format!(
        "PATCH {target} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    let answer = exchange(address, request.as_bytes())
        .with_context(|| format!("the recorder at {address} does not answer: is it running?"))?;
    let (status, body) =
        parse(&answer).with_context(|| format!("{address} does not speak HTTP as the recorder does"))?;
    let document: Value =
        serde_json::from_slice(body).with_context(|| format!("the answer of {address} is no JSON"))?;
    if status != 200 {
        let text = |name: &str| document[name].as_str().unwrap_or_default().to_owned();
        bail!("the recorder refuses ({status}): {}; {}", text("detail"), text("remedy"));
    }
    Ok(document)
}

fn exchange(address: SocketAddr, request: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut socket = TcpStream::connect_timeout(&address, PATIENCE)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_write_timeout(Some(PATIENCE))?;
    socket.write_all(request)?;
    let mut answer = Vec::new();
    socket.take(ANSWER_BYTES_MAX).read_to_end(&mut answer)?;
    Ok(answer)
}

/// Status and body of an answer that ends with the connection and is not chunked.
fn parse(answer: &[u8]) -> Option<(u16, &[u8])> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&answer[..end]).ok()?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((status, &answer[end + 4..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    /// A server for one request, which answers with this; what it was sent comes back.
    fn answering(answer: &'static [u8]) -> (SocketAddr, std::thread::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let served = std::thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            let mut asked = vec![0; 4096];
            let length = socket.read(&mut asked).unwrap();
            socket.write_all(answer).unwrap();
            String::from_utf8_lossy(&asked[..length]).into_owned()
        });
        (address, served)
    }

    #[test]
    fn an_answer_comes_back_as_json_and_a_refusal_as_its_cause_and_remedy() {
        let (address, served) = answering(b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\n{\"a\": 1}");
        assert_eq!(patch(address, "/x", &serde_json::json!({"b": "ü"})).unwrap(), serde_json::json!({"a": 1}));
        let asked = served.join().unwrap();
        assert!(
            asked.starts_with("PATCH /x HTTP/1.1\r\n") && asked.ends_with("content-length: 10\r\n\r\n{\"b\":\"ü\"}"),
            "{asked}"
        );

        let (address, served) =
            answering(b"HTTP/1.1 503 Busy\r\n\r\n{\"detail\": \"no room\", \"remedy\": \"make some\"}");
        let error = patch(address, "/x", &Value::Null).unwrap_err().to_string();
        assert_eq!(error, "the recorder refuses (503): no room; make some");
        served.join().unwrap();

        let (address, served) = answering(b"SSH-2.0-OpenSSH\r\n");
        assert!(patch(address, "/x", &Value::Null).unwrap_err().to_string().contains("does not speak HTTP"));
        served.join().unwrap();
        assert!(patch(address, "/x", &Value::Null).unwrap_err().to_string().contains("is it running?"));
    }
}
