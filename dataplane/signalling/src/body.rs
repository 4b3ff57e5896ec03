//! Finds the session description in a message's body, which may be one part of several (RFC 2046 §5.1, RFC 5621).
//!
//! Constraints: a body with a content encoding (gzip, …) is not decoded; it is reported as [`Body::Encoded`], so that
//! the loss is counted. Nesting is followed to [`DEPTH_MAX`], and at most [`PARTS_MAX`] parts are looked at.

use crate::header::parameter;
use crate::message::{HeaderName, Message};
use memchr::memmem;

const DEPTH_MAX: u8 = 3;
const PARTS_MAX: usize = 32;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Body<'a> {
    /// No session description here.
    None,
    Sdp(&'a [u8]),
    /// There is a body, under an encoding that is not undone here.
    Encoded,
}

pub(crate) fn find_sdp<'a>(message: &Message<'a>) -> Body<'a> {
    if message.body.is_empty() {
        return Body::None;
    }
    let encoding = message.header(HeaderName::ContentEncoding).unwrap_or_default();
    let content_type = message.header(HeaderName::ContentType);
    find(message.body, content_type, encoding, DEPTH_MAX)
}

fn find<'a>(body: &'a [u8], content_type: Option<&str>, encoding: &str, depth: u8) -> Body<'a> {
    let media_type = content_type.map(|value| value.split(';').next().unwrap_or_default().trim());
    let is_sdp = match media_type {
        Some(media_type) => media_type.eq_ignore_ascii_case("application/sdp"),
        // Equipment that forgets the type sends session descriptions all the same.
        None => body.trim_ascii_start().starts_with(b"v=0"),
    };
    let is_multipart =
        media_type.and_then(|text| text.get(..10)).is_some_and(|text| text.eq_ignore_ascii_case("multipart/"));
    if !(encoding.is_empty() || encoding.eq_ignore_ascii_case("identity")) {
        return if is_sdp || is_multipart { Body::Encoded } else { Body::None };
    }
    if is_sdp {
        return Body::Sdp(body);
    }
    let boundary = content_type.and_then(|value| parameter(value, "boundary")).filter(|text| !text.is_empty());
    match boundary {
        Some(boundary) if is_multipart && depth > 0 => find_in_parts(body, &boundary, depth - 1),
        _ => Body::None,
    }
}

fn find_in_parts<'a>(body: &'a [u8], boundary: &str, depth: u8) -> Body<'a> {
    let delimiter = [b"--", boundary.as_bytes()].concat();
    let finder = memmem::Finder::new(&delimiter);
    // A delimiter stands at the start of a line.
    let mut delimiters = finder.find_iter(body).filter(|&at| at == 0 || body[at - 1] == b'\n');
    let mut found = Body::None;
    let Some(mut start) = delimiters.next() else { return found };
    for _ in 0..PARTS_MAX {
        let from = start + delimiter.len();
        if body[from..].starts_with(b"--") {
            break;
        }
        let next = delimiters.next();
        // The line end before a delimiter belongs to the delimiter.
        let part = &body[from..next.unwrap_or(body.len()).max(from)];
        let part = part.strip_suffix(b"\n").unwrap_or(part);
        let part = part.strip_suffix(b"\r").unwrap_or(part);
        match find_in_part(part, depth) {
            Body::None => {}
            Body::Sdp(sdp) => return Body::Sdp(sdp),
            Body::Encoded => found = Body::Encoded,
        }
        match next {
            Some(at) => start = at,
            None => break,
        }
    }
    found
}

/// `part` begins behind its delimiter: the rest of that line, headers, an empty line, the content.
fn find_in_part(part: &[u8], depth: u8) -> Body<'_> {
    let Some(line_end) = memchr::memchr(b'\n', part) else { return Body::None };
    let mut rest = &part[line_end + 1..];
    let (mut content_type, mut encoding) = (None, String::new());
    loop {
        let end = memchr::memchr(b'\n', rest);
        let line = &rest[..end.unwrap_or(rest.len())];
        rest = end.map_or(&rest[rest.len()..], |end| &rest[end + 1..]);
        let line = line.trim_ascii_end();
        if line.is_empty() {
            break;
        }
        let line = String::from_utf8_lossy(line);
        let Some((name, value)) = line.split_once(':') else { continue };
        match name.trim().to_ascii_lowercase().as_str() {
            "content-type" | "c" => content_type = Some(value.trim().to_owned()),
            "content-encoding" | "e" => value.trim().clone_into(&mut encoding),
            _ => {}
        }
    }
    find(rest, content_type.as_deref(), &encoding, depth)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message;

    fn check(headers: &str, body: &str, expected: Body<'_>) {
        let text = format!("INVITE sip:a SIP/2.0\r\n{headers}\r\n{body}");
        let message = message::parse(text.as_bytes()).unwrap();
        assert_eq!(find_sdp(&message), expected, "{headers}{body}");
    }

    #[test]
    fn session_descriptions_are_found_wherever_they_may_stand() {
        let sdp = Body::Sdp(b"v=0\r\nm=audio 1 RTP/AVP 0");
        check("Content-Type: application/sdp\r\n", "v=0\r\nm=audio 1 RTP/AVP 0", sdp);
        check("c: APPLICATION/SDP ; charset=x\r\n", "v=0\r\nm=audio 1 RTP/AVP 0", sdp);
        check("", "v=0\r\nm=audio 1 RTP/AVP 0", sdp);
        check("", "hello", Body::None);
        check("Content-Type: text/plain\r\n", "v=0\r\n", Body::None);
        check("Content-Type: application/sdp\r\nContent-Encoding: gzip\r\n", "\x1f\u{8}", Body::Encoded);
        check("Content-Type: application/sdp\r\ne: identity\r\n", "v=0", Body::Sdp(b"v=0"));
        let parts = "preamble\r\n--a b\r\nContent-Type: application/isup\r\n\r\n\0\u{1}--a b\r\n--a b \r\nc: application/sdp\r\n\
                     \r\nv=0\r\nm=audio 1 RTP/AVP 0\r\n--a b--\r\nepilogue";
        check("Content-Type: multipart/mixed;boundary=\"a b\"\r\n", parts, sdp);
        let nested = "--o\r\nContent-Type: multipart/alternative; boundary=i\r\n\r\n--i\r\nContent-Type: application/sdp\r\n\r\n\
                      v=0\r\nm=audio 1 RTP/AVP 0\r\n--i--\r\n--o--";
        check("Content-Type: multipart/mixed; boundary=o\r\n", nested, sdp);
        check("Content-Type: multipart/mixed\r\n", parts, Body::None);
        check("Content-Type: multipart/mixed;boundary=x\r\n", "--x", Body::None);
        check("Content-Type: multipart/mixed;boundary=x\r\n", "--x\r\nContent-Type: application/sdp", Body::Sdp(b""));
    }
}
