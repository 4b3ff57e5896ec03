//! One SIP message as bytes → start line, headers, body (RFC 3261 §7, §25).
//!
//! Constraints: reads what real equipment and attackers send, so it is lenient wherever the meaning stays clear:
//! names in any case, compact names, folded lines, spaces before the colon, bare line feeds, a missing empty line. It
//! never decides validity for a server's purpose; it says only what a passive listener needs. Nothing is copied
//! unless a value is folded or is no UTF-8.

use memchr::memchr;
use std::borrow::Cow;

/// A message with more header fields than this is refused: no real one comes near.
pub const HEADERS_MAX: usize = 512;
/// A start line longer than this is not waited for.
pub const START_LINE_BYTES_MAX: usize = 16 * 1024;

#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ParseError {
    #[error("the first line is no SIP start line")]
    NotSip,
    #[error("the protocol version is not SIP/2.0")]
    UnsupportedVersion,
    #[error("the response's status code is not three digits from 100 to 699")]
    StatusCode,
    #[error("more than {HEADERS_MAX} header fields")]
    TooManyHeaders,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Method {
    Invite,
    Ack,
    Bye,
    Cancel,
    Prack,
    Update,
    Info,
    Refer,
    Notify,
    Subscribe,
    Register,
    Options,
    Message,
    Publish,
    /// Any other; says nothing of calls.
    Other,
}

impl Method {
    /// Method names are case-sensitive (RFC 3261 §7.1).
    pub fn from_token(token: &str) -> Self {
        match token {
            "INVITE" => Self::Invite,
            "ACK" => Self::Ack,
            "BYE" => Self::Bye,
            "CANCEL" => Self::Cancel,
            "PRACK" => Self::Prack,
            "UPDATE" => Self::Update,
            "INFO" => Self::Info,
            "REFER" => Self::Refer,
            "NOTIFY" => Self::Notify,
            "SUBSCRIBE" => Self::Subscribe,
            "REGISTER" => Self::Register,
            "OPTIONS" => Self::Options,
            "MESSAGE" => Self::Message,
            "PUBLISH" => Self::Publish,
            _ => Self::Other,
        }
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum StartLine<'a> {
    Request { method: Method, method_name: &'a str, uri: Cow<'a, str> },
    Response { status: u16, reason: Cow<'a, str> },
}

/// The header fields that this crate reads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HeaderName {
    CallId,
    CiscoGuid,
    ContentEncoding,
    ContentLength,
    ContentType,
    CSeq,
    From,
    PAssertedIdentity,
    PChargingVector,
    Reason,
    RemotePartyId,
    Replaces,
    SessionExpires,
    SessionId,
    To,
    UserToUser,
    Via,
    Other,
}

impl HeaderName {
    fn from_bytes(name: &[u8]) -> Self {
        const LONG: [(&str, HeaderName); 17] = [
            ("Via", HeaderName::Via),
            ("From", HeaderName::From),
            ("To", HeaderName::To),
            ("Call-ID", HeaderName::CallId),
            ("CSeq", HeaderName::CSeq),
            ("Content-Length", HeaderName::ContentLength),
            ("Content-Type", HeaderName::ContentType),
            ("Content-Encoding", HeaderName::ContentEncoding),
            ("P-Asserted-Identity", HeaderName::PAssertedIdentity),
            ("Remote-Party-ID", HeaderName::RemotePartyId),
            ("Session-Expires", HeaderName::SessionExpires),
            ("Reason", HeaderName::Reason),
            ("Replaces", HeaderName::Replaces),
            ("Session-ID", HeaderName::SessionId),
            ("Cisco-Guid", HeaderName::CiscoGuid),
            ("P-Charging-Vector", HeaderName::PChargingVector),
            ("User-to-User", HeaderName::UserToUser),
        ];
        if let [letter] = name {
            return match letter.to_ascii_lowercase() {
                b'v' => Self::Via,
                b'f' => Self::From,
                b't' => Self::To,
                b'i' => Self::CallId,
                b'l' => Self::ContentLength,
                b'c' => Self::ContentType,
                b'e' => Self::ContentEncoding,
                b'x' => Self::SessionExpires,
                _ => Self::Other,
            };
        }
        LONG.iter()
            .find(|(long, _)| name.eq_ignore_ascii_case(long.as_bytes()))
            .map_or(Self::Other, |&(_, known)| known)
    }
}

#[derive(Clone, Debug)]
pub struct Header<'a> {
    pub name: HeaderName,
    /// The name as written, without the white space before the colon.
    pub name_bytes: &'a [u8],
    /// Unfolded and trimmed; bytes that are no UTF-8 are replaced.
    pub value: Cow<'a, str>,
}

#[derive(Clone, Debug)]
pub struct Message<'a> {
    pub start: StartLine<'a>,
    pub headers: Vec<Header<'a>>,
    /// Cut to Content-Length where that is shorter than what follows the headers (RFC 3261 §18.3).
    pub body: &'a [u8],
}

impl<'a> Message<'a> {
    /// The value of the first header field of this name.
    pub fn header(&self, name: HeaderName) -> Option<&str> {
        self.headers_named(name).next()
    }

    pub fn headers_named(&self, name: HeaderName) -> impl Iterator<Item = &str> {
        self.headers.iter().filter(move |header| header.name == name).map(|header| header.value.as_ref())
    }

    pub fn call_id(&self) -> Option<&str> {
        self.header(HeaderName::CallId).filter(|value| !value.is_empty())
    }

    /// Sequence number and method of the CSeq field (RFC 3261 §20.16); `None` when absent, or when the number does
    /// not fit 32 bits.
    pub fn cseq(&self) -> Option<(u32, Method)> {
        let mut words = self.header(HeaderName::CSeq)?.split_ascii_whitespace();
        let number = words.next()?.parse().ok()?;
        Some((number, Method::from_token(words.next()?)))
    }
}

/// Reads one whole message. Empty lines before it are skipped (RFC 3261 §7.5).
///
/// # Errors
/// When the start line is not one of SIP/2.0, or there are too many header fields. Damage further down is read
/// over: a line without a colon is left out, a message cut short ends where it ends.
pub fn parse(bytes: &[u8]) -> Result<Message<'_>, ParseError> {
    let bytes = skip_empty_lines(bytes);
    let (line, mut rest) = split_line(bytes);
    let start = parse_start_line(line)?;
    let mut headers = Vec::with_capacity(24);
    let mut content_length = None;
    while !rest.is_empty() {
        let (line, after) = split_logical_line(rest);
        rest = after;
        if line.is_empty() {
            break;
        }
        let Some(colon) = memchr(b':', line) else { continue };
        if headers.len() == HEADERS_MAX {
            return Err(ParseError::TooManyHeaders);
        }
        let name_bytes = line[..colon].trim_ascii();
        let name = HeaderName::from_bytes(name_bytes);
        let value = unfold(line[colon + 1..].trim_ascii());
        if name == HeaderName::ContentLength && content_length.is_none() {
            content_length = parse_content_length(value.as_ref());
        }
        headers.push(Header { name, name_bytes, value });
    }
    let body = match content_length {
        Some(length) if length < rest.len() => &rest[..length],
        _ => rest,
    };
    Ok(Message { start, headers, body })
}

/// Digits only; anything else (`-999`, `abc`) is no length.
pub(crate) fn parse_content_length(value: &str) -> Option<usize> {
    if value.is_empty() || !value.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some(value.parse().unwrap_or(usize::MAX))
}

/// Whether a datagram on a port that is not known for signalling begins as a SIP message does. Looks at the first
/// line only.
pub fn looks_like_sip(bytes: &[u8]) -> bool {
    let bytes = skip_empty_lines(bytes);
    // Methods and the version are letters; RTP, STUN and DTLS start with other bytes.
    if !bytes.first().is_some_and(u8::is_ascii_alphabetic) {
        return false;
    }
    let window = &bytes[..bytes.len().min(START_LINE_BYTES_MAX)];
    is_start_line(split_line(window).0)
}

/// Whether this line, without its line end, starts a SIP/2.0 message.
pub(crate) fn is_start_line(line: &[u8]) -> bool {
    parse_start_line(line).is_ok()
}

fn parse_start_line(line: &[u8]) -> Result<StartLine<'_>, ParseError> {
    let line = line.trim_ascii_end();
    let first_end = line.iter().position(u8::is_ascii_whitespace).unwrap_or(line.len());
    let (first, rest) = line.split_at(first_end);
    if let Some(version) = strip_sip_slash(first) {
        return parse_status_line(version, rest.trim_ascii_start());
    }
    if first.is_empty() || !first.iter().all(|&byte| is_token_byte(byte)) {
        return Err(ParseError::NotSip);
    }
    let rest = rest.trim_ascii_start();
    let version_at = rest.iter().rposition(u8::is_ascii_whitespace).ok_or(ParseError::NotSip)?;
    let version = strip_sip_slash(&rest[version_at + 1..]).ok_or(ParseError::NotSip)?;
    let method_name = std::str::from_utf8(first).map_err(|_not_ascii| ParseError::NotSip)?;
    let uri = rest[..version_at].trim_ascii();
    if uri.is_empty() {
        return Err(ParseError::NotSip);
    }
    if version != b"2.0" {
        return Err(ParseError::UnsupportedVersion);
    }
    let method = Method::from_token(method_name);
    Ok(StartLine::Request { method, method_name, uri: String::from_utf8_lossy(uri) })
}

fn parse_status_line<'a>(version: &[u8], rest: &'a [u8]) -> Result<StartLine<'a>, ParseError> {
    if version != b"2.0" {
        return Err(ParseError::UnsupportedVersion);
    }
    let code_end = rest.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(rest.len());
    let (code, reason) = rest.split_at(code_end);
    let [hundreds @ b'1'..=b'6', tens, units] = code else { return Err(ParseError::StatusCode) };
    if reason.first().is_some_and(|byte| !byte.is_ascii_whitespace()) {
        return Err(ParseError::StatusCode);
    }
    let digit = |byte: &u8| u16::from(byte - b'0');
    let status = digit(hundreds) * 100 + digit(tens) * 10 + digit(units);
    Ok(StartLine::Response { status, reason: String::from_utf8_lossy(reason.trim_ascii()) })
}

fn strip_sip_slash(word: &[u8]) -> Option<&[u8]> {
    let (name, version) = word.split_at_checked(4)?;
    name.eq_ignore_ascii_case(b"SIP/").then_some(version)
}

/// RFC 3261 §25.1, `token`.
fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-.!%*_+`'~".contains(&byte)
}

pub(crate) fn skip_empty_lines(bytes: &[u8]) -> &[u8] {
    let start = bytes.iter().position(|byte| !matches!(byte, b'\r' | b'\n')).unwrap_or(bytes.len());
    &bytes[start..]
}

/// The first line without its end (CRLF, or a bare LF), and what follows.
fn split_line(bytes: &[u8]) -> (&[u8], &[u8]) {
    let (line, rest) = match memchr(b'\n', bytes) {
        Some(end) => (&bytes[..end], &bytes[end + 1..]),
        None => (bytes, &bytes[bytes.len()..]),
    };
    (line.strip_suffix(b"\r").unwrap_or(line), rest)
}

/// As [`split_line`], with the lines that continue it: those that begin with white space (RFC 3261 §7.3.1).
fn split_logical_line(bytes: &[u8]) -> (&[u8], &[u8]) {
    let (line, mut rest) = split_line(bytes);
    if line.is_empty() {
        return (line, rest);
    }
    let mut end = line.len();
    while matches!(rest.first(), Some(b' ' | b'\t')) {
        let (continuation, after) = split_line(rest);
        end = bytes.len() - rest.len() + continuation.len();
        rest = after;
    }
    (&bytes[..end], rest)
}

/// A fold (line end and the white space around it) counts as one space.
fn unfold(value: &[u8]) -> Cow<'_, str> {
    if memchr(b'\n', value).is_none() {
        return String::from_utf8_lossy(value);
    }
    let lines = value.split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii).filter(|line| !line.is_empty());
    let mut unfolded = Vec::with_capacity(value.len());
    for line in lines {
        if !unfolded.is_empty() {
            unfolded.push(b' ');
        }
        unfolded.extend_from_slice(line);
    }
    Cow::Owned(String::from_utf8_lossy(&unfolded).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parsed(text: &str) -> Message<'_> {
        parse(text.as_bytes()).expect("a SIP message")
    }

    #[test]
    fn folded_compact_and_oddly_cased_headers_are_read() {
        let message = parsed(
            "\r\n\r\nINVITE sip:b@x SIP/2.0\r\ni  :  abc\r\nFROM\t: <sip:a@x>\r\n  ;tag=1\r\n\t;x=y\r\nt: <sip:b@x>\r\n\
             CSEQ: 0009\r\n  INVITE\r\nno colon here\r\nl: 4\r\n\r\nbodysurplus",
        );
        assert_eq!(message.call_id(), Some("abc"));
        assert_eq!(message.header(HeaderName::From), Some("<sip:a@x> ;tag=1 ;x=y"));
        assert_eq!(message.cseq(), Some((9, Method::Invite)));
        assert_eq!(message.body, b"body");
    }

    #[test]
    fn start_lines_are_told_from_other_protocols() {
        let cases: [(&str, Result<(), ParseError>); 12] = [
            ("INVITE sip:user@example.com; lr SIP/2.0", Ok(())),
            ("OPTIONS  sip:a@b  SIP/2.0  ", Ok(())),
            ("!odd-Method0_*+`.~%' sip:a SIP/2.0", Ok(())),
            ("SIP/2.0 100 ", Ok(())),
            ("SIP/2.0 200", Ok(())),
            ("SIP/2.0 4294967301 no", Err(ParseError::StatusCode)),
            ("SIP/2.0 099 no", Err(ParseError::StatusCode)),
            ("OPTIONS sip:a@b SIP/7.0", Err(ParseError::UnsupportedVersion)),
            ("GET / HTTP/1.1", Err(ParseError::NotSip)),
            ("RTSP/1.0 200 OK", Err(ParseError::NotSip)),
            ("INVITE SIP/2.0", Err(ParseError::NotSip)),
            ("", Err(ParseError::NotSip)),
        ];
        for (line, expected) in cases {
            assert_eq!(parse(format!("{line}\r\n\r\n").as_bytes()).map(|_| ()), expected, "{line}");
            assert_eq!(is_start_line(line.as_bytes()), expected.is_ok(), "{line}");
        }
    }

    #[test]
    fn a_length_that_is_no_number_or_too_long_leaves_the_body_as_it_came() {
        for length in ["-999", "x", "99999999999999999999999999", "5"] {
            let text = format!("BYE sip:a SIP/2.0\r\nContent-Length: {length}\r\n\r\nbody");
            assert_eq!(parsed(&text).body, b"body", "{length}");
        }
    }

    #[test]
    fn a_cut_message_ends_where_it_ends() {
        let message = parsed("BYE sip:a SIP/2.0\r\nCall-ID: 1\r\nCSe");
        assert_eq!((message.call_id(), message.cseq(), message.body), (Some("1"), None, &b""[..]));
    }

    #[test]
    fn media_on_an_unknown_port_is_not_taken_for_sip() {
        assert!(looks_like_sip(b"SIP/2.0 200 OK\r\n"));
        assert!(looks_like_sip(b"\r\nREGISTER sip:x SIP/2.0\r\n"));
        assert!(!looks_like_sip(&[0x80, 0, 0, 1, 0, 0, 0, 0]));
        assert!(!looks_like_sip(b"GET / HTTP/1.0\r\n"));
        assert!(!looks_like_sip(b"\r\n\r\n"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = looks_like_sip(&bytes);
            if let Ok(message) = parse(&bytes) {
                prop_assert!(message.body.len() <= bytes.len());
                prop_assert!(looks_like_sip(&bytes) || !bytes.first().is_some_and(u8::is_ascii_alphabetic));
            }
        }

        #[test]
        fn damage_below_the_start_line_never_refuses(tail in "[ -~\\r\\n]{0,300}") {
            let text = ["BYE sip:a SIP/2.0\r\n", &tail].concat();
            prop_assert!(parse(text.as_bytes()).is_ok());
        }
    }
}
