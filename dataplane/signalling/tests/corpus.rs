//! Every capture of the corpus: the dialogs that the decoder tells of against those that an independent tool found.
//!
//! The captures are looked for in `$SIDETONE_CORPUS`, else beside the repository. The reader below is this test's
//! own: pcap and pcapng, Ethernet with VLAN and PPPoE, Linux cooked, raw IP, IP in IP and GRE; UDP, and TCP in order.
//! It does not reassemble IP fragments.

mod captures;

use captures::{Payload, read};
use serde_json::Value;
use sidetone_model::{CaptureTime, Domain, EndReason};
use sidetone_signalling::event::{CallEvent, CallEventKind};
use sidetone_signalling::{Datagram, SipConfig, SipDecoder, SipFramer, Transport, looks_like_sip};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

const ANSWER_INFERRED: &str = "the 2xx is not in the capture, but its ACK is, and a BYE five seconds later";

/// Dialogs that this test cannot see as they are, by capture and Call-ID, and why. Each must really differ.
const EXCEPTIONS: [(&str, &str, &str); 9] = [
    (
        "ndpi-fuzz-sip",
        "11894297-4432a9f8@192.168.1.2",
        "the fuzzer changed the tag in the INVITE: its responses answer another",
    ),
    ("ndpi-gre-sip", "", "PPP in GRE"),
    ("protos-c07-sip-r2", "", "the file format of Microsoft's Network Monitor"),
    ("sipnab-sipp-branch-scenario", "204-4461@", ANSWER_INFERRED),
    ("sipnab-sipp-branch-scenario", "211-4461@", ANSWER_INFERRED),
    ("sipnab-sipp-branch-scenario", "219-4461@", ANSWER_INFERRED),
    ("sngrep-ipv6frag", "", "IPv6 fragments"),
    ("voipshark-tls-srtp", "788f9f1a696a4fa5965a2d1e2c8bd7b9", "TLS"),
    ("voipshark-tls-srtp", "a4ea3eb2-c4fb-4be0-89b1-88fe385074f4", "TLS"),
];

fn corpus() -> Option<PathBuf> {
    let beside = PathBuf::from("../../../shared/corpus");
    let directory = std::env::var_os("SIDETONE_CORPUS").map_or(beside, PathBuf::from);
    if directory.join("pcaps").is_dir() {
        return Some(directory);
    }
    eprintln!("SKIPPED: no captures in {}; set SIDETONE_CORPUS", directory.display());
    None
}

/// What the events say of one Call-ID, over all its legs.
#[derive(Default, Debug)]
struct Told {
    answered: Option<f64>,
    /// Of the last leg that ended.
    end: Option<(EndReason, String)>,
}

#[derive(Default)]
struct Stream {
    framer: SipFramer,
    next: Option<u32>,
}

fn decode(path: &Path) -> (Vec<CallEvent>, SipDecoder) {
    let mut decoder = SipDecoder::new(&SipConfig::default());
    let mut events = Vec::new();
    let mut streams: HashMap<(SocketAddr, SocketAddr), Stream> = HashMap::new();
    for packet in read(path) {
        decoder.on_tick(packet.time, &mut events);
        let mut on_message = |bytes: &[u8], transport| {
            let (source, destination) = (packet.source, packet.destination);
            let message =
                Datagram { time: packet.time, domain: Domain::default(), transport, source, destination, bytes };
            decoder.on_message(&message, &mut events);
        };
        match &packet.payload {
            Payload::Udp(bytes) if looks_like_sip(bytes) => on_message(bytes, Transport::Udp),
            Payload::Udp(_) => {}
            Payload::Tcp { sequence, is_syn, bytes } => {
                let stream = streams.entry((packet.source, packet.destination)).or_default();
                let mut bytes = &bytes[..];
                if *is_syn {
                    *stream = Stream { next: Some(sequence.wrapping_add(1)), ..Stream::default() };
                    continue;
                }
                let behind = stream.next.unwrap_or(*sequence).wrapping_sub(*sequence);
                match behind {
                    0 => {}
                    // Seen before, wholly or in part.
                    1..0x8000_0000 => bytes = bytes.get(behind as usize..).unwrap_or_default(),
                    _ => stream.framer.gap(|message| on_message(message, Transport::Tcp)),
                }
                if bytes.is_empty() {
                    continue;
                }
                let skipped = if behind < 0x8000_0000 { behind } else { 0 };
                stream.next = Some(sequence.wrapping_add(skipped).wrapping_add(bytes.len() as u32));
                stream.framer.push(bytes, |message| on_message(message, Transport::Tcp));
            }
        }
    }
    (events, decoder)
}

fn told(events: &[CallEvent]) -> HashMap<String, Told> {
    let mut calls: HashMap<String, Told> = HashMap::new();
    for event in events {
        let told = calls.entry(event.leg.call_id.to_string()).or_default();
        match &event.kind {
            CallEventKind::Answered => {
                told.answered.get_or_insert(event.time.0 as f64 / 1e9);
            }
            CallEventKind::Ended { reason, detail } => told.end = Some((*reason, detail.clone())),
            _ => {}
        }
    }
    calls
}

/// `later` is told when all timeouts have passed as well.
fn compare(dialog: &Value, told: Option<&Told>, later: Option<&Told>, problems: &mut Vec<String>) {
    let (Some(told), Some(later)) = (told, later) else {
        problems.push("not seen".to_owned());
        return;
    };
    match (dialog["answer"].as_f64(), told.answered) {
        (Some(truth), Some(found)) if (truth - found).abs() < 0.001 => {}
        (None, None) => {}
        (truth, found) => problems.push(format!("answered at {found:?} instead of {truth:?}")),
    }
    let status = dialog["final_status"].as_u64().map(|status| status.to_string()).unwrap_or_default();
    let right = match (dialog["end_by"].as_str().unwrap_or_default(), &later.end) {
        // Timeouts end what the capture leaves open, but not before its end.
        ("capture-end", _) => told.end.is_none() || told.answered.is_none(),
        ("BYE", Some((reason, _))) if told.answered.is_some() => {
            matches!(reason, EndReason::CallerHungUp | EndReason::CalleeHungUp)
        }
        // A BYE after a failure changes nothing any more; one before any answer is a cancellation.
        ("BYE", Some((EndReason::Failed, detail))) => !status.is_empty() && detail.starts_with(&status),
        ("BYE" | "CANCEL", Some((EndReason::Cancelled, detail)))
        | ("final-response", Some((EndReason::Failed, detail))) => detail.starts_with(&status),
        _ => false,
    };
    if !right {
        problems.push(format!("ended {:?} instead of {} {status}", later.end, dialog["end_by"]));
    }
}

#[test]
fn dialogs_are_those_of_the_ground_truth() {
    let Some(corpus) = corpus() else { return };
    let mut captures: Vec<_> =
        std::fs::read_dir(corpus.join("pcaps")).unwrap().map(|entry| entry.unwrap().path()).collect();
    captures.sort();
    let (mut wrong, mut right, mut answered) = (Vec::new(), 0, 0);
    for capture in captures {
        let name = capture.file_stem().unwrap().to_string_lossy().into_owned();
        let truth = std::fs::read(corpus.join("truth").join(format!("{name}.json"))).unwrap();
        let truth: Value = serde_json::from_slice(&truth).unwrap();
        let (mut events, mut decoder) = decode(&capture);
        let at_the_end = told(&events);
        // Everything ends in time, and nothing stays behind.
        let last = events.iter().map(|event| event.time.0).max().unwrap_or(0);
        for days in [100, 101, 102] {
            let later = Duration::from_secs(days * 24 * 3600);
            decoder.on_tick(CaptureTime(last).saturating_add(later), &mut events);
        }
        assert_eq!((decoder.statistics().legs, decoder.statistics().description_bytes), (0, 0), "{name}");
        let later = told(&events);
        for dialog in truth["dialogs"].as_array().unwrap() {
            let call_id = dialog["call_id"].as_str().unwrap();
            let mut problems = Vec::new();
            compare(dialog, at_the_end.get(call_id), later.get(call_id), &mut problems);
            let excepted = EXCEPTIONS.iter().any(|(in_capture, id, _)| *in_capture == name && call_id.starts_with(id));
            if excepted {
                assert!(!problems.is_empty(), "{name} {call_id} is no exception any more");
            } else if problems.is_empty() {
                right += 1;
                answered += usize::from(dialog["answer"].is_f64());
            } else {
                wrong.push(format!("{name} {call_id}: {}", problems.join("; ")));
            }
        }
    }
    assert!(wrong.is_empty(), "{right} right, but:\n{}", wrong.join("\n"));
    eprintln!("{right} dialogs as in the ground truth, {answered} of them answered");
    assert!(right > 1400 && answered > 100, "{right} dialogs, {answered} answered");
}
