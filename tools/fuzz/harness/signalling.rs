//! What must hold for any bytes in the signalling parsers. Used by the fuzz targets, and by the test that replays
//! their corpora (dataplane/signalling/tests/fuzz_corpora.rs).
#![allow(dead_code, reason = "each fuzz target uses one of these")]

use sidetone_model::{CaptureTime, Domain};
use sidetone_signalling::event::{CallEvent, CallEventKind, LegRef};
use sidetone_signalling::{
    Datagram, MESSAGE_BYTES_MAX, SipConfig, SipDecoder, SipFramer, Transport, looks_like_sip, message, sdp,
};
use std::collections::HashMap;
use std::time::Duration;

/// Messages of one input are separated by this line.
const SEPARATOR: &[u8] = b"\n%%\n";
const LEGS_MAX: usize = 4;
const DESCRIPTION_BYTES_MAX: usize = 20_000;
/// How long after the message before; chosen by the first byte of each message.
const PAUSES_MS: [u64; 8] = [0, 5, 200, 2_000, 40_000, 100_000, 3_600_000, 25 * 3_600_000];

/// A sequence of messages to one decoder. The first byte of each, less `0`, says in bit 0 which way it goes, in the
/// next three how long after the one before.
pub(crate) fn sip(data: &[u8]) {
    let config =
        SipConfig { max_dialogs: LEGS_MAX, max_description_bytes: DESCRIPTION_BYTES_MAX, ..SipConfig::default() };
    let mut decoder = SipDecoder::new(&config);
    let mut story = Story::default();
    let mut now = CaptureTime(1_700_000_000_000_000_000);
    let mut events = Vec::new();
    let ends = ["10.0.0.1:5060".parse().unwrap(), "10.0.0.2:5060".parse().unwrap()];
    for part in split(data) {
        let Some((choice, bytes)) = part.split_first() else { continue };
        let choice = choice.wrapping_sub(b'0');
        now = now.saturating_add(Duration::from_millis(PAUSES_MS[usize::from(choice >> 1 & 7)]));
        decoder.on_tick(now, &mut events);
        let (source, destination) = if choice & 1 == 0 { (ends[0], ends[1]) } else { (ends[1], ends[0]) };
        let datagram =
            Datagram { time: now, domain: Domain::default(), transport: Transport::Udp, source, destination, bytes };
        let outcome = decoder.on_message(&datagram, &mut events);
        assert!(!outcome.label().is_empty());
        let statistics = decoder.statistics();
        assert!(statistics.legs <= LEGS_MAX as u64);
        // A leg keeps a description in a few places at once; each is counted.
        assert!(statistics.description_bytes <= (DESCRIPTION_BYTES_MAX * 4) as u64, "{statistics:?}");
        for event in events.drain(..) {
            story.tell(&event);
        }
        if let Ok(message) = message::parse(bytes) {
            assert!(message.headers.len() <= message::HEADERS_MAX && message.body.len() <= bytes.len());
            sdp(message.body);
        }
        looks_like_sip(bytes);
    }
    for days in [100, 101, 102] {
        decoder.on_tick(now.saturating_add(Duration::from_secs(days * 24 * 3600)), &mut events);
    }
    for event in events.drain(..) {
        story.tell(&event);
    }
    let statistics = decoder.statistics();
    assert_eq!((statistics.legs, statistics.description_bytes), (0, 0));
}

/// Pieces of a stream, separated as above, against the stream in one piece and in single bytes.
pub(crate) fn sip_stream(data: &[u8]) {
    let pieces: Vec<&[u8]> = split(data).collect();
    let stream = pieces.concat();
    let frames = |pieces: &[&[u8]]| {
        let mut framer = SipFramer::new();
        let mut found: Vec<Vec<u8>> = Vec::new();
        for piece in pieces {
            framer.push(piece, |message| found.push(message.to_vec()));
            assert!(framer.buffered_bytes() <= MESSAGE_BYTES_MAX + piece.len());
        }
        framer.gap(|message| found.push(message.to_vec()));
        assert_eq!(framer.buffered_bytes(), 0);
        (found, framer.statistics())
    };
    let (found, statistics) = frames(&[&stream]);
    assert_eq!(frames(&pieces), (found.clone(), statistics));
    if stream.len() <= 4096 {
        let bytes: Vec<&[u8]> = stream.chunks(1).collect();
        assert_eq!(frames(&bytes), (found.clone(), statistics));
    }
    let framed: usize = found.iter().map(Vec::len).sum();
    assert!(framed + statistics.skipped_bytes as usize <= stream.len());
    for message in &found {
        assert!(message.len() <= MESSAGE_BYTES_MAX && looks_like_sip_or_odd(message));
    }
}

/// A framed message has a start line; only a method that begins with a sign does not look like SIP on an unknown
/// port.
fn looks_like_sip_or_odd(message: &[u8]) -> bool {
    let is_too_long_or_crowded =
        message::parse(message).is_err_and(|error| error == message::ParseError::TooManyHeaders);
    is_too_long_or_crowded || message::parse(message).is_ok()
}

/// One session description.
pub(crate) fn sdp(data: &[u8]) {
    let Ok(description) = sdp::parse(data) else { return };
    assert!(description.media.len() <= sdp::MEDIA_MAX);
    for media in &description.media {
        assert!(media.binding.formats.len() <= sdp::FORMATS_MAX);
        assert!(media.binding.candidates.len() <= sdp::CANDIDATES_MAX);
        assert!(!media.rejected || media.binding.address.is_none());
        assert!(media.binding.formats.iter().all(|format| format.payload_type < 128 && format.clock_rate > 0));
        if let Some(address) = media.binding.address {
            assert!(address.port() != 0 && sidetone_signalling::event::is_usable(address.ip()));
        }
    }
}

fn split(data: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(data);
    std::iter::from_fn(move || {
        let current = rest?;
        let end = current.windows(SEPARATOR.len()).position(|window| window == SEPARATOR);
        rest = end.map(|end| &current[end + SEPARATOR.len()..]);
        Some(&current[..end.unwrap_or(current.len())])
    })
}

/// Every leg starts, is answered at most once, ends at most once and is silent then. A name may return when its leg
/// has ended or been forgotten.
#[derive(Default)]
struct Story {
    /// Whether answered, whether ended.
    legs: HashMap<LegRef, (bool, bool)>,
}

impl Story {
    fn tell(&mut self, event: &CallEvent) {
        match &event.kind {
            CallEventKind::Started(_) => {
                self.legs.insert(event.leg.clone(), (false, false));
            }
            kind => {
                let (answered, ended) = self.legs.get_mut(&event.leg).expect("a leg that was started");
                assert!(!*ended, "after its end: {event:?}");
                match kind {
                    CallEventKind::Answered => assert!(!std::mem::replace(answered, true), "answered twice: {event:?}"),
                    CallEventKind::Ended { .. } => *ended = true,
                    _ => {}
                }
            }
        }
    }
}
