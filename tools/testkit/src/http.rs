//! Just enough HTTP/1.1 (RFC 9112) to ask the appliance on loopback: one request, one connection, an end in time.

use anyhow::{Context, Result, bail};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(20);
/// A two-channel WAV of an hour has 115 MB; nothing that is asked for here is longer.
const BODY_BYTES_MAX: u64 = 256 << 20;

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Response {
    /// Value of a header, by its name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// # Errors
/// When there is no connection, no answer in time, or it is not HTTP. Any status is a response.
pub fn get(server: SocketAddr, path: &str) -> Result<Response> {
    get_with(server, path, &[])
}

/// With more request headers.
///
/// # Errors
/// As `get`.
pub fn get_with(server: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Result<Response> {
    let what = || format!("GET http://{server}{path}");
    let mut stream = TcpStream::connect_timeout(&server, TIMEOUT).with_context(what)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    let mut request = format!("GET {path} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n");
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    request.push_str("\r\n");
    stream.write_all(request.as_bytes()).with_context(what)?;
    let mut bytes = Vec::new();
    stream.take(BODY_BYTES_MAX).read_to_end(&mut bytes).with_context(what)?;
    parse(&bytes).with_context(what)
}

fn parse(bytes: &[u8]) -> Result<Response> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").context("the answer has no header")?;
    let head = std::str::from_utf8(&bytes[..end]).context("the answer's header is not text")?;
    let mut lines = head.split("\r\n");
    let status = lines
        .next()
        .and_then(|line| line.strip_prefix("HTTP/1."))
        .and_then(|line| line.split(' ').nth(1))
        .and_then(|status| status.parse().ok())
        .context("the answer has no status")?;
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let mut response = Response { status, headers, body: Vec::new() };
    let body = &bytes[end + 4..];
    response.body = if response.header("transfer-encoding").is_some_and(|value| value.contains("chunked")) {
        unchunk(body)?
    } else {
        if let Some(length) = response.header("content-length") {
            let length: usize = length.parse().context("content-length is no number")?;
            if body.len() != length {
                bail!("the answer has {} bytes of {length}", body.len());
            }
        }
        body.to_vec()
    };
    Ok(response)
}

fn unchunk(mut body: &[u8]) -> Result<Vec<u8>> {
    let mut whole = Vec::new();
    loop {
        let end = body.windows(2).position(|window| window == b"\r\n").context("a chunk without length")?;
        let text = std::str::from_utf8(&body[..end]).context("a chunk's length is not text")?;
        let length = text.split(';').next().unwrap_or_default().trim();
        let length = usize::from_str_radix(length, 16).context("a chunk's length is no number")?;
        if length == 0 {
            return Ok(whole);
        }
        let begin = end + 2;
        let data = begin.checked_add(length).and_then(|end| body.get(begin..end)).context("a chunk is cut off")?;
        whole.extend_from_slice(data);
        body = body.get(begin + length + 2..).context("a chunk is cut off")?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_with_length_and_in_chunks_are_read() {
        let plain = parse(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi").unwrap();
        assert_eq!((plain.status, plain.body.as_slice()), (200, b"hi".as_slice()));
        let chunked =
            parse(b"HTTP/1.1 404 Not\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n3;x\r\n yo\r\n0\r\n\r\n").unwrap();
        assert_eq!((chunked.status, chunked.body.as_slice()), (404, b"hi yo".as_slice()));
    }

    #[test]
    fn cut_off_answers_are_errors() {
        for text in ["", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nhi"] {
            assert!(parse(text.as_bytes()).is_err(), "{text}");
        }
        assert!(parse(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nhi").is_err());
    }
}
