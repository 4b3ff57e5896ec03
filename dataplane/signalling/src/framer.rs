//! Cuts SIP messages out of one direction of one TCP stream (RFC 3261 §18.3, RFC 5626 §4.4.1).
//!
//! Constraints: the result does not depend on how the stream is cut into segments. Memory is bounded by one message
//! of [`MESSAGE_BYTES_MAX`] and the segment being pushed. Bytes that belong to no message are skipped line by line
//! until a start line: so the framer finds its way after a gap, in mid-stream, and after a wrong Content-Length.

use crate::message::{self, HeaderName, START_LINE_BYTES_MAX, is_start_line, parse_content_length};
use memchr::{memchr, memrchr};

/// A message with its headers and body that is longer than this is skipped.
pub const MESSAGE_BYTES_MAX: usize = 64 * 1024;

/// What a stream without an incomplete message keeps allocated at most.
const IDLE_BUFFER_BYTES: usize = 2048;

#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct FramerStatistics {
    pub messages: u64,
    /// Empty lines between messages: keep-alives.
    pub empty_lines: u64,
    /// Bytes skipped because they belong to no message.
    pub skipped_bytes: u64,
    /// Messages skipped because they are longer than [`MESSAGE_BYTES_MAX`].
    pub oversized: u64,
    /// Messages handed on although a gap cut them.
    pub cut: u64,
}

/// One direction of one TCP stream.
#[derive(Debug, Default)]
pub struct SipFramer {
    buffer: Vec<u8>,
    /// Bytes of `buffer` that are done with.
    consumed: usize,
    progress: Progress,
    statistics: FramerStatistics,
}

/// How far the message at `consumed` has been understood; offsets count from there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Progress {
    /// No line end in the first `searched` bytes.
    StartLine { searched: usize },
    /// In a line that is too long to be a start line.
    LongLine,
    /// The start line is there; all lines before `line` are headers, and the line there has no end before `searched`.
    Headers { line: usize, searched: usize },
    /// Everything is known but the rest of the body.
    Body { total: usize },
}

impl Default for Progress {
    fn default() -> Self {
        Self::StartLine { searched: 0 }
    }
}

impl SipFramer {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn statistics(&self) -> FramerStatistics {
        self.statistics
    }

    /// Bytes held of a message that is not complete yet.
    pub fn buffered_bytes(&self) -> usize {
        self.buffer.len()
    }

    /// The next bytes of the stream, in order. Every message that they complete is handed on.
    pub fn push(&mut self, bytes: &[u8], mut on_message: impl FnMut(&[u8])) {
        self.buffer.extend_from_slice(bytes);
        while self.advance(&mut on_message) {}
        self.buffer.drain(..self.consumed);
        self.consumed = 0;
        if self.buffer.is_empty() {
            // Most streams are silent between messages; there may be thousands of them.
            self.buffer.shrink_to(IDLE_BUFFER_BYTES);
        }
    }

    /// Bytes of the stream are missing here, or it ends. Of a message that has begun, the whole lines are handed on;
    /// what is held besides is dropped.
    pub fn gap(&mut self, mut on_message: impl FnMut(&[u8])) {
        match self.progress {
            Progress::Headers { .. } | Progress::Body { .. } => {
                let end = memrchr(b'\n', &self.buffer).map_or(0, |at| at + 1);
                self.statistics.messages += 1;
                self.statistics.cut += 1;
                on_message(&self.buffer[..end]);
            }
            Progress::StartLine { .. } | Progress::LongLine => {
                self.statistics.skipped_bytes += self.buffer.len() as u64;
            }
        }
        self.buffer.clear();
        self.progress = Progress::default();
    }

    /// One step; false when more bytes are needed.
    fn advance(&mut self, on_message: &mut impl FnMut(&[u8])) -> bool {
        let pending = &self.buffer[self.consumed..];
        match self.progress {
            Progress::StartLine { searched } => self.find_start_line(searched),
            Progress::LongLine => self.find_line_end(),
            Progress::Headers { line, searched } => self.find_header_end(line, searched),
            Progress::Body { total } if pending.len() >= total => {
                on_message(&pending[..total]);
                self.statistics.messages += 1;
                self.consumed += total;
                self.progress = Progress::default();
                true
            }
            Progress::Body { .. } => false,
        }
    }

    fn find_start_line(&mut self, searched: usize) -> bool {
        let pending = &self.buffer[self.consumed..];
        let empty = pending.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
        if empty > 0 {
            let lines = memchr::memchr_iter(b'\n', &pending[..empty]).count();
            self.statistics.empty_lines += lines as u64;
            self.consumed += empty;
            self.progress = Progress::default();
            return true;
        }
        match memchr(b'\n', &pending[searched..]) {
            Some(at) => {
                let next = searched + at + 1;
                if next <= START_LINE_BYTES_MAX && is_start_line(&pending[..next]) {
                    self.progress = Progress::Headers { line: next, searched: next };
                } else {
                    self.skip(next);
                }
                true
            }
            None if pending.len() >= START_LINE_BYTES_MAX => {
                self.progress = Progress::LongLine;
                true
            }
            None => {
                self.progress = Progress::StartLine { searched: pending.len() };
                false
            }
        }
    }

    fn find_line_end(&mut self) -> bool {
        let pending = &self.buffer[self.consumed..];
        match memchr(b'\n', pending) {
            Some(at) => {
                self.skip(at + 1);
                true
            }
            None => {
                self.skip(pending.len());
                self.progress = Progress::LongLine;
                false
            }
        }
    }

    fn find_header_end(&mut self, line: usize, searched: usize) -> bool {
        let pending = &self.buffer[self.consumed..];
        let Some(at) = memchr(b'\n', &pending[searched..]) else {
            if pending.len() > MESSAGE_BYTES_MAX {
                return self.skip_oversized();
            }
            self.progress = Progress::Headers { line, searched: pending.len() };
            return false;
        };
        let next = searched + at + 1;
        if !matches!(&pending[line..next], b"\r\n" | b"\n") {
            self.progress = Progress::Headers { line: next, searched: next };
            return true;
        }
        // Content-Length is mandatory on TCP; without one that can be read, the body is skipped until the next start
        // line.
        let length = match message::parse(&pending[..next]) {
            Ok(message) => message.header(HeaderName::ContentLength).and_then(parse_content_length).unwrap_or(0),
            Err(_too_many_headers) => return self.skip_oversized(),
        };
        let total = next.saturating_add(length);
        if total > MESSAGE_BYTES_MAX {
            return self.skip_oversized();
        }
        self.progress = Progress::Body { total };
        true
    }

    /// Gives the message at hand up; its further lines are skipped as belonging to none.
    fn skip_oversized(&mut self) -> bool {
        self.statistics.oversized += 1;
        let pending = &self.buffer[self.consumed..];
        let line = memchr(b'\n', pending).map_or(pending.len(), |at| at + 1);
        self.skip(line);
        true
    }

    fn skip(&mut self, bytes: usize) {
        self.statistics.skipped_bytes += bytes as u64;
        self.consumed += bytes;
        self.progress = Progress::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const INVITE: &str = "INVITE sip:b@h SIP/2.0\r\nCall-ID: 1\r\nContent-Length: 4\r\n\r\nv=0\n";
    const OK: &str = "SIP/2.0 200 OK\r\nl: 0\r\n\r\n";

    fn frames<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<String>, FramerStatistics) {
        let mut framer = SipFramer::new();
        let mut found = Vec::new();
        for piece in pieces {
            framer.push(piece, |message| found.push(String::from_utf8_lossy(message).into_owned()));
            assert!(framer.buffered_bytes() <= MESSAGE_BYTES_MAX + piece.len());
        }
        (found, framer.statistics())
    }

    #[test]
    fn messages_are_found_wherever_the_stream_is_cut() {
        let stream = format!("\r\n\r\n{INVITE}{OK}\r\n{INVITE}");
        for cut in 0..=stream.len() {
            let (head, tail) = stream.as_bytes().split_at(cut);
            let (found, statistics) = frames([head, tail]);
            assert_eq!(found, [INVITE, OK, INVITE], "cut at {cut}");
            assert_eq!((statistics.empty_lines, statistics.skipped_bytes), (3, 0), "cut at {cut}");
        }
        let (found, _) = frames(stream.as_bytes().chunks(1));
        assert_eq!(found, [INVITE, OK, INVITE]);
    }

    #[test]
    fn the_middle_of_a_stream_is_skipped_to_the_next_start_line() {
        let stream = format!("tag=1\r\nCSeq: 1 INVITE\r\n\r\nv=0\r\n{OK}");
        let (found, statistics) = frames([stream.as_bytes()]);
        assert_eq!(found, [OK]);
        // The empty line that ends the headers counts as one between messages.
        assert_eq!(statistics.skipped_bytes as usize + 2, stream.len() - OK.len());
    }

    #[test]
    fn a_wrong_length_costs_no_more_than_its_own_message() {
        for length in ["Content-Length: 1", "Content-Length: -5", "X: y", "Content-Length: 4294967295"] {
            let stream = format!("INVITE sip:b@h SIP/2.0\r\n{length}\r\n\r\nv=0\r\no=x\r\n{OK}");
            let (found, _) = frames([stream.as_bytes()]);
            assert_eq!(found.last().map(String::as_str), Some(OK), "{length}");
        }
    }

    #[test]
    fn a_gap_hands_on_what_is_whole() {
        let mut framer = SipFramer::new();
        let mut found = Vec::new();
        let mut keep = |message: &[u8]| found.push(String::from_utf8_lossy(message).into_owned());
        framer.push(b"INVITE sip:b@h SIP/2.0\r\nContent-Length: 40\r\n\r\nv=0\r\nm=audio 40", &mut keep);
        framer.gap(&mut keep);
        framer.push(b"00 RTP/AVP 0\r\n", &mut keep);
        framer.push(OK.as_bytes(), &mut keep);
        framer.push(b"INVITE sip:b@h SIP/2.0\r\nCall-", &mut keep);
        framer.gap(&mut keep);
        let (cut_body, cut_headers) =
            ("INVITE sip:b@h SIP/2.0\r\nContent-Length: 40\r\n\r\nv=0\r\n", "INVITE sip:b@h SIP/2.0\r\n");
        assert_eq!(found, [cut_body, OK, cut_headers]);
        assert_eq!((framer.buffered_bytes(), framer.statistics().cut), (0, 2));
    }

    #[test]
    fn endless_lines_and_headers_do_not_fill_memory() {
        let mut line = vec![b'x'; 4096];
        line.extend_from_slice(b"INVITE sip:b@h SIP/2.0");
        let (found, _) = frames(std::iter::repeat_n(&line[..], 100).chain([b"\n", OK.as_bytes()]));
        assert_eq!(found, [OK]);
        let header = b"X-Header: value\r\n".repeat(100);
        let start = b"INVITE sip:b@h SIP/2.0\r\n";
        let pieces = std::iter::once(&start[..]).chain(std::iter::repeat_n(&header[..], 200)).chain([OK.as_bytes()]);
        let (found, statistics) = frames(pieces);
        assert_eq!((found, statistics.oversized), (vec![OK.to_owned()], 1));
    }

    proptest! {
        #[test]
        fn the_cuts_make_no_difference(
            parts in proptest::collection::vec(prop_oneof![
                Just(INVITE.to_owned()), Just(OK.to_owned()), Just("\r\n\r\n".to_owned()), "[ -~\\r\\n]{0,60}",
                Just("SIP/2.0 180 Ringing\r\nContent-Length: 10\r\n\r\n".to_owned()),
            ], 0..12),
            cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..12),
        ) {
            let stream = parts.concat().into_bytes();
            let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
            cuts.sort_unstable();
            let mut pieces = Vec::new();
            let mut from = 0;
            for cut in cuts {
                pieces.push(&stream[from..cut]);
                from = cut;
            }
            pieces.push(&stream[from..]);
            prop_assert_eq!(frames(pieces), frames([&stream[..]]));
        }
    }
}
