//! What is said of a call, message by message: tables of messages and the events that they must give.

use super::*;
use crate::event::{MediaBinding, MediaDirection, MediaPhase, MediaSecurity};
use proptest::prelude::*;
use std::fmt::Write;

const START: CaptureTime = CaptureTime(1_700_000_000_000_000_000);

/// One thing that happens: a message, or a tick when `line` is empty. Each is 200 ms after the one before unless `at`
/// is set.
#[derive(Clone, Debug)]
struct Step {
    line: String,
    method: &'static str,
    cseq: u32,
    call_id: &'static str,
    /// From and To with their tags as they stand in this dialog's requests.
    from: &'static str,
    to: &'static str,
    from_tag: &'static str,
    to_tag: &'static str,
    vias: Vec<&'static str>,
    headers: String,
    sdp: String,
    source: &'static str,
    destination: &'static str,
    at_ms: Option<u64>,
}

fn step(line: &str, method: &'static str, cseq: u32) -> Step {
    Step {
        line: line.to_owned(),
        method,
        cseq,
        call_id: "call-1",
        from: "sip:1001@a",
        to: "sip:1002@b",
        from_tag: "alice",
        to_tag: "",
        vias: vec!["10.0.0.1;branch=z9hG4bKa1"],
        headers: String::new(),
        sdp: String::new(),
        source: "10.0.0.1:5060",
        destination: "10.0.0.2:5060",
        at_ms: None,
    }
}

/// A request by the caller. In-dialog ones get the called side's tag with `to_tag`.
fn request(method: &'static str, cseq: u32) -> Step {
    step(&format!("{method} sip:1002@b SIP/2.0"), method, cseq)
}

/// A response to a request by the caller, from called side `bob`.
fn response(status: &str, method: &'static str, cseq: u32) -> Step {
    let ok = step(&format!("SIP/2.0 {status}"), method, cseq);
    Step { to_tag: "bob", source: ok.destination, destination: ok.source, ..ok }
}

fn tick(at_ms: u64) -> Step {
    Step { at_ms: Some(at_ms), ..step("", "", 0) }
}

impl Step {
    /// The same, in a request that the called side sends (or in a response to one).
    fn by_callee(self) -> Self {
        let vias = vec!["10.0.0.2;branch=z9hG4bKb1"];
        Self {
            from: self.to,
            to: self.from,
            from_tag: "bob",
            to_tag: "alice",
            vias,
            source: self.destination,
            destination: self.source,
            ..self
        }
    }

    fn tagged(self, to_tag: &'static str) -> Self {
        Self { to_tag, ..self }
    }

    fn in_dialog(self) -> Self {
        self.tagged("bob")
    }

    fn at(self, at_ms: u64) -> Self {
        Self { at_ms: Some(at_ms), ..self }
    }

    fn via(self, vias: &[&'static str]) -> Self {
        Self { vias: vias.to_vec(), ..self }
    }

    fn between(self, source: &'static str, destination: &'static str) -> Self {
        Self { source, destination, ..self }
    }

    fn header(mut self, header: &str) -> Self {
        let _infallible = write!(self.headers, "{header}\r\n");
        self
    }

    /// One G.711 line at `address:port`, with further attribute lines.
    fn sdp(self, address: &str, attributes: &str) -> Self {
        let (ip, port) = address.rsplit_once(':').unwrap();
        let attributes: String = attributes.split_whitespace().map(|attribute| format!("a={attribute}\r\n")).collect();
        self.raw_sdp(&format!(
            "v=0\r\no=- 1 1 IN IP4 {ip}\r\ns=-\r\nc=IN IP4 {ip}\r\nt=0 0\r\nm=audio {port} RTP/AVP 8\r\n{attributes}"
        ))
    }

    fn raw_sdp(self, sdp: &str) -> Self {
        Self { sdp: sdp.to_owned(), ..self }
    }

    fn text(&self) -> Vec<u8> {
        let mut text = format!("{}\r\n", self.line);
        for via in &self.vias {
            let _infallible = write!(text, "Via: SIP/2.0/UDP {via}\r\n");
        }
        let tag = |tag: &str| if tag.is_empty() { String::new() } else { format!(";tag={tag}") };
        let _infallible = write!(
            text,
            "From: <{}>{}\r\nTo: <{}>{}\r\nCall-ID: {}\r\nCSeq: {} {}\r\n{}",
            self.from,
            tag(self.from_tag),
            self.to,
            tag(self.to_tag),
            self.call_id,
            self.cseq,
            self.method,
            self.headers
        );
        if !self.sdp.is_empty() {
            text.push_str("Content-Type: application/sdp\r\n");
        }
        let _infallible = write!(text, "Content-Length: {}\r\n\r\n{}", self.sdp.len(), self.sdp);
        text.into_bytes()
    }
}

/// Seconds since the start for events that lie in the past; everything else in words.
fn tell(event: &CallEvent, now: CaptureTime) -> String {
    let leg = &event.leg;
    let prefix = match (&*leg.call_id, &*leg.attempt) {
        ("call-1", "alice") => String::new(),
        (call_id, attempt) => format!("[{call_id} {attempt}] "),
    };
    let text = match &event.kind {
        CallEventKind::Started(start) => {
            let how = if start.in_progress { "in progress" } else { "started" };
            format!("{how} {} -> {}", person(&start.caller), person(&start.callee))
        }
        CallEventKind::Ringing => "ringing".to_owned(),
        CallEventKind::Identity { side, identity } => format!("{side:?} is {}", person(identity)),
        CallEventKind::Media { side, phase, bindings } => {
            let phase = if *phase == MediaPhase::Committed { "at" } else { "may be at" };
            let bindings: Vec<_> = bindings.iter().map(binding).collect();
            format!("{side:?} {phase} {}", bindings.join(" + "))
        }
        CallEventKind::Answered => "answered".to_owned(),
        CallEventKind::Related { other_call_id, relation } => format!("{relation:?} {other_call_id}"),
        CallEventKind::Refreshed { expires_at: Some(at) } => format!("alive until {}s", at.since(START).as_secs()),
        CallEventKind::Refreshed { expires_at: None } => "alive".to_owned(),
        CallEventKind::Ended { reason, detail } => format!("ended {reason:?} ({detail})"),
    };
    let time = if event.time == now { String::new() } else { format!(" at {}ms", event.time.since(START).as_millis()) };
    format!("{prefix}{text}{time}")
}

fn person(identity: &Identity) -> String {
    let address = identity.address.map_or_else(|| "?".to_owned(), |address| address.ip().to_string());
    if identity.name.is_empty() {
        format!("{}@{address}", identity.number)
    } else {
        format!("{}@{address} '{}'", identity.number, identity.name)
    }
}

fn binding(binding: &MediaBinding) -> String {
    let mut text = binding.address.map_or_else(|| "nowhere".to_owned(), |address| address.to_string());
    if binding.direction != MediaDirection::SendRecv {
        let _infallible = write!(text, " {:?}", binding.direction);
    }
    if binding.security != MediaSecurity::None {
        text.push_str(" secured");
    }
    text
}

fn play(decoder: &mut SipDecoder, steps: &[Step]) -> (Vec<String>, Vec<MessageOutcome>) {
    let (mut told, mut outcomes, mut now_ms) = (Vec::new(), Vec::new(), 0);
    for step in steps {
        now_ms = step.at_ms.unwrap_or(now_ms + 200);
        let time = START.saturating_add(Duration::from_millis(now_ms));
        let mut events = Vec::new();
        if step.line.is_empty() {
            decoder.on_tick(time, &mut events);
        } else {
            let bytes = step.text();
            outcomes.push(decoder.on_message(&datagram(step, time, &bytes), &mut events));
        }
        told.extend(events.iter().map(|event| tell(event, time)));
    }
    (told, outcomes)
}

fn datagram<'a>(step: &Step, time: CaptureTime, bytes: &'a [u8]) -> Datagram<'a> {
    Datagram {
        time,
        domain: Domain::default(),
        transport: Transport::Udp,
        source: step.source.parse().unwrap(),
        destination: step.destination.parse().unwrap(),
        bytes,
    }
}

#[track_caller]
fn check(steps: &[Step], expected: &[&str]) {
    let mut decoder = SipDecoder::new(&SipConfig::default());
    let (told, _) = play(&mut decoder, steps);
    assert_eq!(told, expected);
    // Every message once more, as a mirror of both sides of a port shows it, changes nothing.
    let doubled: Vec<Step> = steps.iter().flat_map(|step| [step.clone(), step.clone()]).collect();
    let mut decoder = SipDecoder::new(&SipConfig::default());
    let mut again = doubled;
    let mut now_ms = 0;
    for (position, step) in again.iter_mut().enumerate() {
        if position % 2 == 0 {
            now_ms = step.at_ms.unwrap_or(now_ms + 200);
        }
        step.at_ms = Some(now_ms + (position as u64 % 2) * 5 * u64::from(!step.line.is_empty()));
    }
    let (told, outcomes) = play(&mut decoder, &again);
    assert_eq!(told, expected, "with every packet twice");
    assert!(outcomes.iter().skip(1).step_by(2).all(|&outcome| outcome == MessageOutcome::Duplicate));
}

const A: &str = "10.0.0.1:4000";
const B: &str = "10.0.0.2:5000";

/// INVITE, 180, 200, ACK, with the events that they give.
fn answered_call() -> (Vec<Step>, Vec<&'static str>) {
    let steps = vec![
        request("INVITE", 1).sdp(A, ""),
        response("180 Ringing", "INVITE", 1),
        response("200 OK", "INVITE", 1).sdp(B, ""),
        request("ACK", 1).in_dialog(),
    ];
    let events = vec![
        "started 1001@10.0.0.1 -> 1002@10.0.0.2",
        "Caller may be at 10.0.0.1:4000",
        "ringing",
        "answered",
        "Caller at 10.0.0.1:4000",
        "Callee at 10.0.0.2:5000",
    ];
    (steps, events)
}

#[track_caller]
fn check_answered(then: &[Step], expected: &[&str]) {
    let (mut steps, mut events) = answered_call();
    steps.extend_from_slice(then);
    events.extend_from_slice(expected);
    check(&steps, &events);
}

#[test]
fn a_call_from_invite_to_bye() {
    check_answered(
        &[request("BYE", 2).in_dialog(), response("200 OK", "BYE", 2), tick(40_000)],
        &["ended CallerHungUp (BYE)"],
    );
    check_answered(
        &[request("BYE", 1).by_callee().header("Reason: Q.850;cause=16"), response("200 OK", "BYE", 1).by_callee()],
        &["ended CalleeHungUp (BYE Q.850;cause=16)"],
    );
}

#[test]
fn an_authentication_retry_is_the_same_attempt() {
    let challenge = |status| response(status, "INVITE", 1).tagged("proxy");
    for status in ["401 Unauthorized", "407 Proxy Authentication Required", "422 Session Interval Too Small"] {
        let steps = [
            request("INVITE", 1).sdp(A, ""),
            response("100 Trying", "INVITE", 1).tagged(""),
            challenge(status),
            request("ACK", 1).tagged("proxy"),
            request("INVITE", 2).sdp(A, "").via(&["10.0.0.1;branch=z9hG4bKa2"]),
            response("200 OK", "INVITE", 2).sdp(B, "").via(&["10.0.0.1;branch=z9hG4bKa2"]),
            challenge(status),
            request("BYE", 3).in_dialog(),
        ];
        check(
            &steps,
            &[
                "started 1001@10.0.0.1 -> 1002@10.0.0.2",
                "Caller may be at 10.0.0.1:4000",
                "answered",
                "Caller at 10.0.0.1:4000",
                "Callee at 10.0.0.2:5000",
                "ended CallerHungUp (BYE)",
            ],
        );
    }
    // With a new tag of the caller, which some phones take.
    check(
        &[
            request("INVITE", 1),
            challenge("401 Unauthorized"),
            Step { from_tag: "alice2", ..request("INVITE", 2) },
            Step { from_tag: "alice2", ..response("486 Busy Here", "INVITE", 2) },
        ],
        &["started 1001@10.0.0.1 -> 1002@10.0.0.2", "ended Failed (486 Busy Here)"],
    );
    // And one that never comes.
    check(
        &[request("INVITE", 1), challenge("401 Unauthorized"), tick(30_000), tick(40_000)],
        &["started 1001@10.0.0.1 -> 1002@10.0.0.2", "ended Failed (401 Unauthorized) at 400ms"],
    );
}

#[test]
fn failures_and_cancellations() {
    let started = "started 1001@10.0.0.1 -> 1002@10.0.0.2";
    check(
        &[
            request("INVITE", 1),
            response("486 Busy Here", "INVITE", 1).header("Reason: Q.850;cause=17"),
            request("ACK", 1).in_dialog(),
            response("486 Busy Here", "INVITE", 1).at(1500),
        ],
        &[started, "ended Failed (486 Busy Here; Q.850;cause=17)"],
    );
    check(
        &[
            request("INVITE", 1),
            response("180 Ringing", "INVITE", 1),
            request("CANCEL", 1).header("Reason: SIP;cause=487"),
            response("200 canceling", "CANCEL", 1),
            response("487 Request Terminated", "INVITE", 1),
        ],
        &[started, "ringing", "ended Cancelled (487 Request Terminated; SIP;cause=487)"],
    );
    // The answer crosses the CANCEL.
    check(
        &[request("INVITE", 1), request("CANCEL", 1), response("200 OK", "INVITE", 1), request("BYE", 2).in_dialog()],
        &[started, "answered", "ended CallerHungUp (BYE)"],
    );
    // The final response is lost.
    check(&[request("INVITE", 1), request("CANCEL", 1), tick(60_000)], &[started, "ended Cancelled () at 400ms"]);
    // Nobody says anything.
    check(&[request("INVITE", 1), tick(60_000), tick(70_000)], &[started, "ended Failed (no final response was seen)"]);
    // A new attempt under the same Call-ID and tag is another leg.
    check(
        &[
            request("INVITE", 1),
            response("503 Service Unavailable", "INVITE", 1),
            request("INVITE", 2),
            response("180 Ringing", "INVITE", 2),
        ],
        &[
            started,
            "ended Failed (503 Service Unavailable)",
            "[call-1 alice#2] started 1001@10.0.0.1 -> 1002@10.0.0.2",
            "[call-1 alice#2] ringing",
        ],
    );
}

#[test]
fn of_several_invites_in_flight_the_first_that_is_accepted_counts() {
    check(
        &[
            request("INVITE", 1).sdp(A, ""),
            request("INVITE", 2).sdp(A, ""),
            response("200 OK", "INVITE", 1).sdp(B, ""),
            request("CANCEL", 2),
            response("487 Request Terminated", "INVITE", 2),
            request("BYE", 3).in_dialog(),
        ],
        &[
            "started 1001@10.0.0.1 -> 1002@10.0.0.2",
            "Caller may be at 10.0.0.1:4000",
            "answered",
            "Caller at 10.0.0.1:4000",
            "Callee at 10.0.0.2:5000",
            "ended CallerHungUp (BYE)",
        ],
    );
}

#[test]
fn an_answer_that_the_mirror_lost_is_inferred() {
    let started = "started 1001@10.0.0.1 -> 1002@10.0.0.2";
    let own_branch = ["10.0.0.1;branch=z9hG4bKa9"];
    check(
        &[
            request("INVITE", 1).sdp(A, ""),
            response("183 Session Progress", "INVITE", 1).sdp(B, ""),
            request("ACK", 1).in_dialog().via(&own_branch),
            response("200 OK", "INVITE", 1).sdp(B, ""),
        ],
        &[
            started,
            "Caller may be at 10.0.0.1:4000",
            "ringing",
            "Callee may be at 10.0.0.2:5000",
            "answered",
            "Caller at 10.0.0.1:4000",
            "Callee at 10.0.0.2:5000",
        ],
    );
    check(
        &[request("INVITE", 1), request("ACK", 1).in_dialog().via(&own_branch).sdp(A, "")],
        &[started, "answered", "Caller at 10.0.0.1:4000"],
    );
    check(&[request("INVITE", 1), request("BYE", 1).by_callee()], &[started, "answered", "ended CalleeHungUp (BYE)"]);
    // The ACK of a refusal that was lost says nothing of the kind.
    check(&[request("INVITE", 1), request("ACK", 1).in_dialog()], &[started]);
}

#[test]
fn the_same_call_placed_again_is_another_leg() {
    let call = |at: u64| {
        [
            request("INVITE", 1).at(at),
            response("200 OK", "INVITE", 1),
            request("BYE", 2).in_dialog(),
            request("INVITE", 1),
        ]
    };
    let steps: Vec<Step> = [0, 5_000, 10_000].into_iter().flat_map(call).collect();
    let story = |name: &str| {
        ["started 1001@10.0.0.1 -> 1002@10.0.0.2", "answered", "ended CallerHungUp (BYE)"]
            .map(|text| [name, text].concat())
    };
    let expected = [story(""), story("[call-1 alice#1] "), story("[call-1 alice#1.1] ")].concat();
    check(&steps, &expected.iter().map(String::as_str).collect::<Vec<_>>());
}

/// A mirror that merges two directions may swap messages that are close together.
#[test]
fn neighbours_may_change_places() {
    let steps = [
        request("INVITE", 1).sdp(A, ""),
        response("100 Trying", "INVITE", 1).tagged(""),
        response("180 Ringing", "INVITE", 1),
        response("200 OK", "INVITE", 1).sdp(B, ""),
        request("ACK", 1).in_dialog(),
        request("UPDATE", 2).in_dialog().sdp("10.0.0.1:4100", ""),
        response("200 OK", "UPDATE", 2).sdp("10.0.0.2:5100", ""),
        request("BYE", 1).by_callee(),
        response("200 OK", "BYE", 1).by_callee(),
    ];
    let facts = |steps: &[Step]| {
        let (told, _) = play(&mut SipDecoder::new(&SipConfig::default()), steps);
        let last = |what: &str| told.iter().rfind(|text| text.starts_with(what)).cloned();
        let count = |what: &str| told.iter().filter(|text| text.starts_with(what)).count();
        (count("started"), count("answered"), count("in progress"), last("Caller at"), last("Callee at"), last("ended"))
    };
    let in_order = facts(&steps);
    assert_eq!(in_order.3.as_deref(), Some("Caller at 10.0.0.1:4100"));
    for first in 0..steps.len() - 1 {
        // What comes after the end is lost, rightly.
        if steps[first + 1].method == "BYE" {
            continue;
        }
        let mut swapped = steps.to_vec();
        swapped.swap(first, first + 1);
        assert_eq!(facts(&swapped), in_order, "messages {first} and {} swapped", first + 1);
    }
}

#[test]
fn early_media_is_a_preview_and_the_answer_replaces_it() {
    check(
        &[
            request("INVITE", 1).sdp(A, ""),
            response("183 Session Progress", "INVITE", 1).sdp("10.0.0.9:9000", ""),
            response("200 OK", "INVITE", 1).sdp(B, ""),
        ],
        &[
            "started 1001@10.0.0.1 -> 1002@10.0.0.2",
            "Caller may be at 10.0.0.1:4000",
            "ringing",
            "Callee may be at 10.0.0.9:9000",
            "answered",
            "Caller at 10.0.0.1:4000",
            "Callee at 10.0.0.2:5000",
        ],
    );
}

#[test]
fn a_reliable_answer_stands_without_one_in_the_2xx_and_an_early_update_changes_it() {
    check(
        &[
            request("INVITE", 1).sdp(A, ""),
            response("183 Session Progress", "INVITE", 1).header("Require: 100rel").header("RSeq: 1").sdp(B, ""),
            request("PRACK", 2).in_dialog(),
            response("200 OK", "PRACK", 2),
            request("UPDATE", 3).in_dialog().sdp("10.0.0.1:4100", ""),
            response("200 OK", "UPDATE", 3).sdp("10.0.0.2:5100", ""),
            response("200 OK", "INVITE", 1),
            request("ACK", 1).in_dialog(),
        ],
        &[
            "started 1001@10.0.0.1 -> 1002@10.0.0.2",
            "Caller may be at 10.0.0.1:4000",
            "ringing",
            "Callee may be at 10.0.0.2:5000",
            "Caller may be at 10.0.0.1:4100 + 10.0.0.1:4000",
            "Callee may be at 10.0.0.2:5100",
            "answered",
            "Caller at 10.0.0.1:4100",
            "Callee at 10.0.0.2:5100",
        ],
    );
}

#[test]
fn late_offers_are_answered_in_ack_or_prack() {
    check(
        &[request("INVITE", 1), response("200 OK", "INVITE", 1).sdp(B, ""), request("ACK", 1).in_dialog().sdp(A, "")],
        &[
            "started 1001@10.0.0.1 -> 1002@10.0.0.2",
            "answered",
            "Callee may be at 10.0.0.2:5000",
            "Caller at 10.0.0.1:4000",
            "Callee at 10.0.0.2:5000",
        ],
    );
    check(
        &[
            request("INVITE", 1),
            response("183 Session Progress", "INVITE", 1).sdp(B, ""),
            request("PRACK", 2).in_dialog().sdp(A, ""),
            response("200 OK", "PRACK", 2),
            response("200 OK", "INVITE", 1),
        ],
        &[
            "started 1001@10.0.0.1 -> 1002@10.0.0.2",
            "ringing",
            "Callee may be at 10.0.0.2:5000",
            "Caller may be at 10.0.0.1:4000",
            "answered",
            "Caller at 10.0.0.1:4000",
            "Callee at 10.0.0.2:5000",
        ],
    );
}

#[test]
fn a_reinvite_takes_effect_when_it_is_accepted() {
    check_answered(
        &[
            request("INVITE", 2).in_dialog().sdp("10.0.0.1:4200", "").at(2000),
            response("200 OK", "INVITE", 2).sdp("10.0.0.2:5200", ""),
            request("ACK", 2).in_dialog(),
            // Stragglers of the first exchange change nothing.
            response("200 OK", "INVITE", 1).sdp(B, ""),
            request("ACK", 1).in_dialog(),
        ],
        &["alive", "Caller may be at 10.0.0.1:4200", "Caller at 10.0.0.1:4200", "Callee at 10.0.0.2:5200"],
    );
}

#[test]
fn a_refused_reinvite_or_update_leaves_the_old_description_in_force() {
    for status in ["488 Not Acceptable Here", "491 Request Pending"] {
        for method in ["INVITE", "UPDATE"] {
            check_answered(
                &[
                    request(method, 1).by_callee().sdp("10.0.0.2:5300", ""),
                    response(status, method, 1).by_callee(),
                    request("BYE", 2).in_dialog(),
                ],
                &["Callee may be at 10.0.0.2:5300", "Callee at 10.0.0.2:5000", "ended CallerHungUp (BYE)"],
            );
        }
    }
}

#[test]
fn hold_and_resume() {
    check_answered(
        &[
            request("INVITE", 2).in_dialog().sdp(A, "sendonly"),
            response("200 OK", "INVITE", 2).sdp(B, "recvonly"),
            request("UPDATE", 3).in_dialog().sdp(A, ""),
            response("200 OK", "UPDATE", 3).sdp(B, ""),
            request("INVITE", 4).in_dialog().sdp("0.0.0.0:4000", ""),
            response("200 OK", "INVITE", 4).sdp(B, ""),
        ],
        &[
            "Caller may be at 10.0.0.1:4000 SendOnly",
            "Caller at 10.0.0.1:4000 SendOnly",
            "Callee at 10.0.0.2:5000 RecvOnly",
            "Caller may be at 10.0.0.1:4000",
            "alive",
            "Caller at 10.0.0.1:4000",
            "Callee at 10.0.0.2:5000",
            "Caller may be at nowhere SendOnly",
            "Caller at nowhere SendOnly",
        ],
    );
}

#[test]
fn session_timers_end_a_call_that_is_not_refreshed() {
    let refresh =
        |cseq, at| [request("UPDATE", cseq).in_dialog().at(at), response("200 OK", "UPDATE", cseq).header("x: 90")];
    let mut steps = vec![
        request("INVITE", 1),
        response("200 OK", "INVITE", 1).header("Session-Expires: 90;refresher=uac"),
        tick(60_000),
    ];
    steps.extend(refresh(2, 70_000));
    steps.extend([tick(150_000), tick(190_000), tick(192_300), tick(300_000)]);
    check(
        &steps,
        &[
            "started 1001@10.0.0.1 -> 1002@10.0.0.2",
            "answered",
            "alive until 90s",
            "alive until 90s",
            "alive until 160s",
            "ended SessionExpired (the session timer ran out) at 160200ms",
        ],
    );
    // A 2xx without the field switches the timer off.
    check_answered(
        &[
            request("UPDATE", 2).in_dialog(),
            response("200 OK", "UPDATE", 2).header("Session-Expires: 90"),
            request("UPDATE", 3).in_dialog(),
            response("200 OK", "UPDATE", 3),
            tick(1_000_000),
        ],
        &["alive until 91s", "alive"],
    );
}

#[test]
fn the_fork_that_answers_wins() {
    check(
        &[
            request("INVITE", 1).sdp(A, ""),
            response("183 Progress", "INVITE", 1).tagged("desk").sdp("10.0.0.3:6000", ""),
            response("183 Progress", "INVITE", 1).tagged("mobile").sdp("10.0.0.4:7000", ""),
            response("200 OK", "INVITE", 1).tagged("mobile").sdp("10.0.0.4:7000", ""),
            // A second answer that the caller does not want.
            response("200 OK", "INVITE", 1).tagged("desk").sdp("10.0.0.3:6000", ""),
            request("BYE", 2).tagged("desk"),
            response("200 OK", "BYE", 2).tagged("desk"),
            request("BYE", 3).tagged("mobile"),
        ],
        &[
            "started 1001@10.0.0.1 -> 1002@10.0.0.2",
            "Caller may be at 10.0.0.1:4000",
            "ringing",
            "Callee may be at 10.0.0.3:6000",
            "Callee may be at 10.0.0.3:6000 + 10.0.0.4:7000",
            "answered",
            "Caller at 10.0.0.1:4000",
            "Callee at 10.0.0.4:7000",
            "ended CallerHungUp (BYE)",
        ],
    );
    // Or wants instead of the first.
    check(
        &[
            request("INVITE", 1).sdp(A, ""),
            response("200 OK", "INVITE", 1).tagged("mobile").sdp("10.0.0.4:7000", ""),
            response("200 OK", "INVITE", 1).tagged("desk").sdp("10.0.0.3:6000", ""),
            request("BYE", 2).tagged("mobile"),
        ],
        &[
            "started 1001@10.0.0.1 -> 1002@10.0.0.2",
            "Caller may be at 10.0.0.1:4000",
            "answered",
            "Caller at 10.0.0.1:4000",
            "Callee at 10.0.0.4:7000",
            "Callee at 10.0.0.3:6000",
        ],
    );
}

const HOP_1: &str = "10.0.0.1;branch=z9hG4bKa1";
const HOP_2: &str = "10.0.0.5;branch=z9hG4bKp1";
const HOP_3: &str = "10.0.0.5;branch=z9hG4bKp2";
const PHONE: &str = "10.0.0.1:5060";
const PROXY: &str = "10.0.0.5:5060";
const DESK: &str = "10.0.0.2:5060";
const MOBILE: &str = "10.0.0.3:5060";

#[test]
fn every_hop_of_a_relayed_call_gives_its_endpoints() {
    let relay_caller = "10.0.0.5:8000";
    let relay_callee = "10.0.0.5:8002";
    check(
        &[
            request("INVITE", 1).via(&[HOP_1]).between(PHONE, PROXY).sdp(A, ""),
            request("INVITE", 1).via(&[HOP_2, HOP_1]).between(PROXY, DESK).sdp(relay_caller, ""),
            response("200 OK", "INVITE", 1).via(&[HOP_2, HOP_1]).between(DESK, PROXY).sdp(B, ""),
            response("200 OK", "INVITE", 1).via(&[HOP_1]).between(PROXY, PHONE).sdp(relay_callee, ""),
            request("BYE", 2).in_dialog().via(&[HOP_1]).between(PHONE, PROXY),
            request("BYE", 2).in_dialog().via(&[HOP_2, HOP_1]).between(PROXY, DESK),
        ],
        &[
            "started 1001@10.0.0.1 -> 1002@10.0.0.5",
            "Caller may be at 10.0.0.1:4000",
            "Callee is 1002@10.0.0.2",
            "Caller may be at 10.0.0.1:4000 + 10.0.0.5:8000",
            "answered",
            "Caller at 10.0.0.1:4000 + 10.0.0.5:8000",
            "Callee at 10.0.0.2:5000",
            "Callee at 10.0.0.2:5000 + 10.0.0.5:8002",
            "ended CallerHungUp (BYE)",
        ],
    );
}

#[test]
fn a_branch_behind_a_proxy_may_fail_while_the_call_goes_on() {
    check(
        &[
            request("INVITE", 1).via(&[HOP_1]).between(PHONE, PROXY),
            request("INVITE", 1).via(&[HOP_2, HOP_1]).between(PROXY, DESK),
            response("486 Busy Here", "INVITE", 1).via(&[HOP_2, HOP_1]).between(DESK, PROXY),
            request("INVITE", 1).via(&[HOP_3, HOP_1]).between(PROXY, MOBILE),
            request("CANCEL", 1).via(&[HOP_3]).between(PROXY, MOBILE),
            response("487 Request Terminated", "INVITE", 1).via(&[HOP_3, HOP_1]).tagged("m").between(MOBILE, PROXY),
            response("180 Ringing", "INVITE", 1).via(&[HOP_1]).between(PROXY, PHONE),
            response("603 Decline", "INVITE", 1).via(&[HOP_1]).between(PROXY, PHONE),
        ],
        &["started 1001@10.0.0.1 -> 1002@10.0.0.5", "Callee is 1002@10.0.0.2", "ringing", "ended Failed (603 Decline)"],
    );
}

#[test]
fn responses_before_their_request_are_put_right() {
    check(
        &[
            response("180 Ringing", "INVITE", 1),
            response("200 OK", "INVITE", 1).sdp(B, ""),
            request("INVITE", 1).sdp(A, ""),
            request("BYE", 2).in_dialog(),
        ],
        &[
            "started 1001@10.0.0.1 -> 1002@10.0.0.2",
            "ringing",
            "answered",
            "Callee at 10.0.0.2:5000",
            "Caller at 10.0.0.1:4000",
            "ended CallerHungUp (BYE)",
        ],
    );
}

#[test]
fn a_running_call_is_met_with_whatever_comes_first() {
    check(
        &[
            request("INVITE", 7).by_callee().header("P-Asserted-Identity: \"Bob\" <sip:4930123@pbx>").sdp(B, ""),
            response("200 OK", "INVITE", 7).by_callee().sdp(A, ""),
            request("BYE", 9).in_dialog(),
        ],
        &[
            "[call-1 bob] in progress 4930123@10.0.0.2 'Bob' -> 1001@10.0.0.1",
            "[call-1 bob] Caller may be at 10.0.0.2:5000",
            "[call-1 bob] Caller at 10.0.0.2:5000",
            "[call-1 bob] Callee at 10.0.0.1:4000",
            "[call-1 bob] ended Released (BYE)",
        ],
    );
    for method in ["UPDATE", "INFO"] {
        check(
            &[request(method, 5).in_dialog(), request("BYE", 6).in_dialog()],
            &["in progress 1001@10.0.0.1 -> 1002@10.0.0.2", "ended Released (BYE)"],
        );
    }
    check(
        &[request("BYE", 5).in_dialog(), response("200 OK", "BYE", 5)],
        &["in progress 1001@10.0.0.1 -> 1002@10.0.0.2", "ended Released (BYE)"],
    );
    check(
        &[request("ACK", 5).in_dialog().sdp(A, ""), request("BYE", 6).in_dialog()],
        &["in progress 1001@10.0.0.1 -> 1002@10.0.0.2", "Caller at 10.0.0.1:4000", "ended Released (BYE)"],
    );
    // A dialog of another kind is no call.
    check(&[request("NOTIFY", 5).in_dialog(), request("OPTIONS", 6), request("ACK", 1).in_dialog()], &[]);
}

#[test]
fn the_other_side_forgetting_the_dialog_ends_it() {
    check_answered(
        &[request("INFO", 2).in_dialog(), response("481 Call/Transaction Does Not Exist", "INFO", 2)],
        &["ended Released (481 Call/Transaction Does Not Exist)"],
    );
    check_answered(&[request("NOTIFY", 2).in_dialog(), response("481 No Subscription", "NOTIFY", 2)], &[]);
}

#[test]
fn identities_are_the_best_that_the_network_asserts() {
    check(
        &[
            request("INVITE", 1)
                .header("P-Asserted-Identity: <sip:+4930111@pbx>, \"Alice, A.\" <tel:+49-30-111>")
                .header("Remote-Party-ID: <sip:wrong@pbx>;party=calling"),
            response("180 Ringing", "INVITE", 1).header("Remote-Party-ID: \"Desk\" <sip:7@pbx>;party=called"),
            response("200 OK", "INVITE", 1).header("P-Asserted-Identity: \"Bob\" <sip:8@pbx>"),
            request("UPDATE", 1).by_callee().header("P-Asserted-Identity: \"Carol\" <sip:9@pbx>"),
            request("UPDATE", 2).by_callee().header("Remote-Party-ID: \"worse\" <sip:0@pbx>"),
        ],
        &[
            "started +4930111@10.0.0.1 'Alice, A.' -> 1002@10.0.0.2",
            "ringing",
            "Callee is 7@10.0.0.2 'Desk'",
            "answered",
            "Callee is 8@10.0.0.2 'Bob'",
            "Callee is 9@10.0.0.2 'Carol'",
        ],
    );
}

#[test]
fn related_legs_are_named() {
    let second = |step: Step| Step { call_id: "call-2", ..step };
    check(
        &[
            request("INVITE", 1)
                .header("Session-ID: ab30317f1a784dc48ff824d0d3715d86;remote=00000000000000000000000000000000"),
            second(request("INVITE", 1)).header("Session-ID: ab30317f1a784dc48ff824d0d3715d86"),
            response("200 OK", "INVITE", 1),
            Step { call_id: "call-3", ..request("INVITE", 1) }
                .header("Replaces: call-1;to-tag=bob;from-tag=alice")
                .header("X-Orig-Call-ID: call-2"),
            Step { call_id: "call-3", ..response("200 OK", "INVITE", 1) },
            request("BYE", 2).in_dialog(),
        ],
        &[
            "started 1001@10.0.0.1 -> 1002@10.0.0.2",
            "[call-2 alice] started 1001@10.0.0.1 -> 1002@10.0.0.2",
            "[call-2 alice] SameCall call-1",
            "answered",
            "[call-3 alice] started 1001@10.0.0.1 -> 1002@10.0.0.2",
            "[call-3 alice] Replaces call-1",
            "[call-3 alice] SameCall call-2",
            "[call-3 alice] answered",
            "ended Replaced (BYE)",
        ],
    );
}

#[test]
fn refused_lines_and_unanswered_keys_are_settled_by_the_answer() {
    let offer = "v=0\r\nc=IN IP4 10.0.0.1\r\nm=audio 4000 RTP/AVP 8\r\na=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:x\r\na=rtcp-mux\r\n\
                 m=video 4002 RTP/AVP 34\r\n";
    let answer = "v=0\r\nc=IN IP4 10.0.0.2\r\nm=audio 5000 RTP/AVP 8\r\nm=video 0 RTP/AVP 34\r\n";
    check(
        &[request("INVITE", 1).raw_sdp(offer), response("200 OK", "INVITE", 1).raw_sdp(answer)],
        &[
            "started 1001@10.0.0.1 -> 1002@10.0.0.2",
            "Caller may be at 10.0.0.1:4000 secured + 10.0.0.1:4002",
            "answered",
            "Caller at 10.0.0.1:4000 + nowhere",
            "Callee at 10.0.0.2:5000 + nowhere",
        ],
    );
}

#[test]
fn rfc_2543_dialogs_without_tags_are_told_by_address() {
    let bare = |step: Step| Step { from_tag: "", to_tag: "", ..step };
    check(
        &[bare(request("INVITE", 1)), bare(response("200 OK", "INVITE", 1)), bare(request("BYE", 1).by_callee())],
        &[
            "[call-1 ] started 1001@10.0.0.1 -> 1002@10.0.0.2",
            "[call-1 ] answered",
            "[call-1 ] ended CalleeHungUp (BYE)",
        ],
    );
}

#[test]
fn outcomes_name_what_is_wrong() {
    let outcome = |bytes: &[u8]| {
        let mut out = Vec::new();
        let outcome =
            SipDecoder::new(&SipConfig::default()).on_message(&datagram(&request("X", 1), START, bytes), &mut out);
        assert!(out.is_empty());
        outcome.label()
    };
    assert_eq!(outcome(b"\r\n\r\n"), "keepalive");
    assert_eq!(outcome(b""), "keepalive");
    assert_eq!(outcome(b"\0\0\0\0"), "keepalive");
    assert_eq!(outcome(b"\x80\x00\x01\x02"), "not_sip");
    assert_eq!(outcome(b"INVITE sip:a SIP/3.0\r\n\r\n"), "malformed_version");
    assert_eq!(outcome(b"SIP/2.0 9999 x\r\n\r\n"), "malformed_status_code");
    assert_eq!(outcome(b"INVITE sip:a SIP/2.0\r\n\r\n"), "malformed_missing_call_id");
    assert_eq!(outcome(b"INVITE sip:a SIP/2.0\r\ni: 1\r\n\r\n"), "malformed_missing_cseq");
    assert_eq!(outcome(b"INVITE sip:a SIP/2.0\r\ni: 1\r\nCSeq: 1 INVITE\r\n\r\n"), "malformed_missing_from");
    assert_eq!(outcome(b"INVITE sip:a SIP/2.0\r\ni: 1\r\nCSeq: 1 BYE\r\nf: a\r\n\r\n"), "malformed_method_mismatch");
    assert_eq!(outcome(b"REGISTER sip:a SIP/2.0\r\ni: 1\r\nCSeq: 1 REGISTER\r\nf: a\r\n\r\n"), "request");
    let long = format!("BYE sip:a SIP/2.0\r\ni: {}\r\nCSeq: 1 BYE\r\nf: a\r\n\r\n", "x".repeat(600));
    assert_eq!(outcome(long.as_bytes()), "malformed_field_too_long");
    let many = format!("BYE sip:a SIP/2.0\r\n{}\r\n", "a: b\r\n".repeat(600));
    assert_eq!(outcome(many.as_bytes()), "malformed_too_many_headers");
}

#[test]
fn an_encoded_body_is_counted_not_guessed() {
    let mut decoder = SipDecoder::new(&SipConfig::default());
    play(&mut decoder, &[request("INVITE", 1).sdp(A, "").header("Content-Encoding: gzip")]);
    assert_eq!(decoder.statistics().bodies_encoded, 1);
}

fn call(number: usize) -> Step {
    // Leaked strings are few and keep the table above simple.
    Step { call_id: Box::leak(format!("call {number}").into_boxed_str()), ..request("INVITE", 1) }
}

#[test]
fn a_full_table_gives_up_ended_legs_first_and_then_refuses() {
    let mut decoder = SipDecoder::new(&SipConfig { max_dialogs: 4, ..SipConfig::default() });
    let steps: Vec<_> = (0..6).map(call).collect();
    let (_, outcomes) = play(&mut decoder, &steps);
    assert_eq!(outcomes[3..], [MessageOutcome::Request, MessageOutcome::TableFull, MessageOutcome::TableFull]);
    let busy = Step { call_id: steps[2].call_id, ..response("486 Busy Here", "INVITE", 1) };
    let (told, outcomes) = play(&mut decoder, &[busy, call(7), call(8)]);
    assert_eq!(outcomes[1..], [MessageOutcome::Request, MessageOutcome::TableFull]);
    assert_eq!(told.len(), 2, "{told:?}");
    let statistics = decoder.statistics();
    assert_eq!((statistics.legs, statistics.legs_started, statistics.legs_evicted), (4, 5, 1));
}

#[test]
fn descriptions_are_bounded_by_bytes_and_let_go_with_their_leg() {
    let mut decoder = SipDecoder::new(&SipConfig { max_description_bytes: 1000, ..SipConfig::default() });
    let steps: Vec<_> = (0..20).map(|number| call(number).sdp(A, "")).collect();
    play(&mut decoder, &steps);
    let statistics = decoder.statistics();
    assert!(statistics.description_bytes <= 1000 && statistics.descriptions_refused == 9, "{statistics:?}");
    play(&mut decoder, &[tick(200_000), tick(400_000)]);
    let statistics = decoder.statistics();
    assert_eq!((statistics.legs, statistics.description_bytes, statistics.legs_ended), (0, 0, 20));
    assert!(decoder.calls.is_empty() && decoder.timers.is_empty() && decoder.ended.is_empty());
    assert_eq!((decoder.links.len(), decoder.free.len()), (0, decoder.slots.len()));
}

#[test]
fn a_restored_leg_takes_both_sides_for_what_they_are() {
    let (steps, _) = answered_call();
    let mut events = Vec::new();
    let mut first = SipDecoder::new(&SipConfig::default());
    let bytes = steps[0].text();
    first.on_message(&datagram(&steps[0], START, &bytes), &mut events);
    let mut second = SipDecoder::new(&SipConfig::default());
    second.restore(&events[0].leg, true, START);
    second.restore(&events[0].leg, true, START);
    let (told, _) = play(&mut second, &[request("BYE", 1).by_callee()]);
    assert_eq!(told, ["ended CalleeHungUp (BYE)"]);
    assert_eq!(second.statistics().legs, 1);
}

#[test]
fn a_leg_that_the_tracker_gave_up_is_met_as_a_running_one() {
    let (steps, _) = answered_call();
    let mut decoder = SipDecoder::new(&SipConfig::default());
    let mut events = Vec::new();
    for step in &steps {
        decoder.on_message(&datagram(step, START, &step.text()), &mut events);
    }
    decoder.forget(&events[0].leg);
    decoder.forget(&events[0].leg);
    assert_eq!((decoder.statistics().legs, decoder.statistics().legs_forgotten), (0, 1));
    let (told, _) = play(&mut decoder, &[request("BYE", 2).in_dialog()]);
    assert_eq!(told, ["in progress 1001@10.0.0.1 -> 1002@10.0.0.2", "ended Released (BYE)"]);
}

#[test]
fn domains_are_different_networks() {
    let step = request("INVITE", 1);
    let bytes = step.text();
    let mut decoder = SipDecoder::new(&SipConfig::default());
    let mut events = Vec::new();
    for vlan_outer in [10, 20] {
        let domain = Domain { vlan_outer, ..Domain::default() };
        decoder.on_message(&Datagram { domain, ..datagram(&step, START, &bytes) }, &mut events);
    }
    let domains: Vec<_> = events.iter().map(|event| event.leg.domain.vlan_outer).collect();
    assert_eq!(domains, [10, 20]);
}

/// What must hold of any sequence of events, whatever the messages were.
fn assert_story_is_sound(events: &[CallEvent]) {
    let mut legs: HashMap<LegRef, (bool, bool)> = HashMap::new();
    for event in events {
        let state = legs.get_mut(&event.leg);
        match (&event.kind, state) {
            (CallEventKind::Started(_), None) => {
                legs.insert(event.leg.clone(), (false, false));
            }
            (CallEventKind::Started(_), Some(_)) => panic!("started twice: {event:?}"),
            (_, None) => panic!("not started: {event:?}"),
            (_, Some((_, true))) => panic!("after the end: {event:?}"),
            (CallEventKind::Answered, Some((answered, _))) => {
                assert!(!std::mem::replace(answered, true), "answered twice");
            }
            (CallEventKind::Ended { .. }, Some((_, ended))) => *ended = true,
            _ => {}
        }
    }
}

fn any_step() -> impl Strategy<Value = Step> {
    let methods = ["INVITE", "ACK", "BYE", "CANCEL", "PRACK", "UPDATE", "INFO"];
    let statuses =
        ["", "100 T", "180 R", "183 P", "200 OK", "401 U", "408 T", "486 B", "487 C", "488 N", "491 P", "481 G"];
    let tags = ["", "bob", "carol"];
    let vias = [vec![HOP_1], vec![HOP_2, HOP_1], vec![HOP_3, HOP_1]];
    (
        prop::sample::select(methods.to_vec()),
        prop::sample::select(statuses.to_vec()),
        1..4u32,
        prop::sample::select(tags.to_vec()),
        prop::sample::select(vias.to_vec()),
        (any::<bool>(), prop::option::of(4000..4004u16), 0..3u8, 0..40_000u64),
    )
        .prop_map(|(method, status, cseq, to_tag, vias, (by_callee, port, call, pause))| {
            let base = if status.is_empty() { request(method, cseq) } else { response(status, method, cseq) };
            let base = base.tagged(to_tag);
            let base = if by_callee { base.by_callee() } else { base.via(&vias) };
            let base = port.map_or(base.clone(), |port| base.sdp(&format!("10.0.0.7:{port}"), ""));
            let call_id = ["call-1", "call-2", "call-3"][usize::from(call)];
            // `at_ms` is turned into a sum of pauses by the test.
            Step { call_id, at_ms: Some(if pause > 39_000 { pause * 10 } else { pause % 700 }), ..base }
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_story_is_sound(mut steps in proptest::collection::vec(any_step(), 1..60)) {
        let mut decoder = SipDecoder::new(&SipConfig { max_dialogs: 3, ..SipConfig::default() });
        let (mut now, mut events) = (START, Vec::new());
        for step in &mut steps {
            now = now.saturating_add(Duration::from_millis(step.at_ms.take().unwrap_or(0)));
            let bytes = step.text();
            decoder.on_message(&datagram(step, now, &bytes), &mut events);
            decoder.on_tick(now, &mut events);
            prop_assert!(decoder.statistics().legs <= 3);
            prop_assert_eq!(decoder.timers.len() as u64, decoder.statistics().legs);
        }
        assert_story_is_sound_modulo_forgotten(&events);
        let end = now.saturating_add(Duration::from_secs(3 * 24 * 3600));
        let mut last = Vec::new();
        decoder.on_tick(end, &mut last);
        decoder.on_tick(end.saturating_add(Duration::from_secs(3600)), &mut last);
        prop_assert_eq!(decoder.statistics().legs, 0);
        prop_assert_eq!(decoder.statistics().description_bytes, 0);
    }

    #[test]
    fn damaged_messages_never_panic(
        steps in proptest::collection::vec(any_step(), 1..10),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..20),
    ) {
        let mut decoder = SipDecoder::new(&SipConfig::default());
        let mut events = Vec::new();
        for step in &steps {
            let mut bytes = step.text();
            for (place, value) in &damage {
                let at = place.index(bytes.len());
                bytes[at] = *value;
            }
            decoder.on_message(&datagram(step, START, &bytes), &mut events);
        }
        assert_story_is_sound(&events);
    }
}

/// With a table of three legs, an ended one may be forgotten and met again: each of its lives must be sound.
fn assert_story_is_sound_modulo_forgotten(events: &[CallEvent]) {
    let mut stories: HashMap<LegRef, Vec<CallEvent>> = HashMap::new();
    for event in events {
        let story = stories.entry(event.leg.clone()).or_default();
        let is_over = story.last().is_some_and(|last| matches!(last.kind, CallEventKind::Ended { .. }));
        if is_over && matches!(event.kind, CallEventKind::Started(_)) {
            assert_story_is_sound(story);
            story.clear();
        }
        story.push(event.clone());
    }
    for story in stories.values() {
        assert_story_is_sound(story);
    }
}
