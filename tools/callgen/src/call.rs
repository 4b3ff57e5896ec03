//! One call: what is sent when, and the truth about it.

use crate::frame::{Network, TCP_ACK, TCP_FIN, TCP_PSH, TCP_SYN, TcpSegment};
use crate::g711::{encode_alaw, encode_mulaw};
use crate::options::{CallShape, Change, Codec, Ending, Options, Outcome, Ports, Transport};
use crate::random::Random;
use crate::sip::{Dialog, Endpoint, Extra, Transaction, sdp};
use crate::speech::{SAMPLE_RATE, excerpt, synthesize};
use crate::truth::{CallTruth, Side, StreamTruth};
use sidetone_model::{CaptureTime, NANOS_PER_SECOND};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

const SAMPLES_PER_PACKET: u64 = 160;
const TCP_SEGMENT_MAX: usize = 1400;
/// From the answer to the first sample.
const MEDIA_DELAY: f64 = 0.005;
/// How long before the signalling the media of `media_first` begins.
const MEDIA_LEAD: f64 = 1.0;
const NETWORK_DELAY: f64 = 0.002;
/// Added to a packet that is to arrive after its successor.
const REORDERING_DELAY: f64 = 0.0285;

/// What is sent at one time.
#[derive(Debug)]
pub(crate) enum Item {
    Frame(Vec<u8>),
    Rtp { stream: usize, packet: u32, sequence: u16, marker: bool },
}

#[derive(Debug)]
pub(crate) struct Stream {
    side: Side,
    source: SocketAddr,
    destination: SocketAddr,
    ssrc: u32,
    codec: Codec,
    timestamp: u32,
}

/// A call's frames in the order of their times, made one by one.
#[derive(Debug)]
pub(crate) struct CallPlan {
    items: Vec<(u64, Item)>,
    streams: Vec<Stream>,
    speech: [Vec<i16>; 2],
    network: Network,
    next: usize,
}

impl CallPlan {
    pub(crate) fn next_time(&self) -> Option<u64> {
        self.items.get(self.next).map(|item| item.0)
    }

    pub(crate) fn next_frame(&mut self) -> Option<(u64, Vec<u8>)> {
        let (time, item) = self.items.get_mut(self.next)?;
        self.next += 1;
        let bytes = match item {
            Item::Frame(bytes) => std::mem::take(bytes),
            Item::Rtp { stream, packet, sequence, marker } => {
                let stream = &self.streams[*stream];
                let from = (u64::from(*packet) * SAMPLES_PER_PACKET) as usize;
                let speech = &self.speech[side_index(stream.side)];
                let samples = &speech[from..from + SAMPLES_PER_PACKET as usize];
                let mut payload = Vec::with_capacity(172);
                payload.extend([0x80, stream.codec.payload_type() | u8::from(*marker) << 7]);
                payload.extend(sequence.to_be_bytes());
                payload.extend(stream.timestamp.wrapping_add(from as u32).to_be_bytes());
                payload.extend(stream.ssrc.to_be_bytes());
                payload.extend(samples.iter().map(|sample| match stream.codec {
                    Codec::Pcma => encode_alaw(*sample),
                    Codec::Pcmu => encode_mulaw(*sample),
                }));
                let id = u32::from(*sequence);
                self.network.udp(stream.source, stream.destination, id, &payload).remove(0)
            }
        };
        Some((*time, bytes))
    }
}

fn side_index(side: Side) -> usize {
    match side {
        Side::Caller => 0,
        Side::Callee => 1,
    }
}

/// Sample clock of a side in Hz.
fn clock(options: &Options, side: Side) -> (f64, f64) {
    let ppm = match side {
        Side::Caller => options.clock_drift_ppm,
        Side::Callee => -options.clock_drift_ppm,
    };
    (f64::from(SAMPLE_RATE) * (1.0 + ppm / 1e6), ppm)
}

fn packets(options: &Options, side: Side) -> u32 {
    (options.talk.as_secs_f64() * clock(options, side).0 / SAMPLES_PER_PACKET as f64) as u32
}

/// All that a side says in the call, whether sent or not.
pub(crate) fn reference(options: &Options, index: usize, side: Side) -> Vec<i16> {
    let samples = packets(options, side) as usize * SAMPLES_PER_PACKET as usize;
    let part = 2 * index + side_index(side);
    let seed = Random::part(options.seed ^ 0x5bee_c4ba_5eed, part as u64).next();
    match options.speech.get(part % options.speech.len().max(1)) {
        Some(voice) => excerpt(voice, seed, samples),
        None => synthesize(seed, samples, side == Side::Caller),
    }
}

pub(crate) fn start(options: &Options, index: usize) -> CaptureTime {
    let ramp = options.ramp.as_secs_f64() * index as f64 / options.calls.max(1) as f64;
    options.start_at.saturating_add(Duration::from_secs_f64(ramp))
}

pub(crate) fn plan(options: &Options, index: usize) -> (CallPlan, CallTruth) {
    let shape = options.shapes[index % options.shapes.len()].clone();
    let mut random = Random::part(options.seed, index as u64);
    let dialog = dialog(options, index, &shape, &mut random);
    let base = start(options, index);
    let mut builder = Builder {
        options,
        index,
        shape: &shape,
        network: Network { vlans: options.vlans.clone() },
        base,
        random,
        messages: Vec::new(),
        items: Vec::new(),
        streams: Vec::new(),
        truths: Vec::new(),
        dialog,
        ssrcs: 0,
    };
    let times = builder.run();
    builder.frame_messages();
    let Builder { mut items, streams, truths, network, dialog, .. } = builder;
    items.sort_by_key(|item| item.0);
    let at = |offset: f64| base.saturating_add(Duration::from_secs_f64(offset));
    let truth = CallTruth {
        call_id: dialog.call_id,
        caller_number: dialog.caller.number,
        callee_number: dialog.callee.number,
        started_at: at(times.started),
        answered_at: times.answered.map(at),
        ended_at: times.ended.map(at),
        is_recordable: shape.outcome == Outcome::Answered,
        streams: truths,
        shape,
    };
    let speech = if streams.is_empty() {
        Default::default()
    } else {
        [reference(options, index, Side::Caller), reference(options, index, Side::Callee)]
    };
    (CallPlan { items, streams, speech, network, next: 0 }, truth)
}

fn dialog(options: &Options, index: usize, shape: &CallShape, random: &mut Random) -> Dialog {
    let pair = if options.ports == Ports::One { 0 } else { index };
    let ip = |half: u8| -> IpAddr {
        let [_, a, b, c] = (pair as u32).to_be_bytes();
        if options.ipv6 {
            let group = |high: u8, low: u8| u16::from(high) << 8 | u16::from(low);
            Ipv6Addr::new(0xfd00, u16::from(half), 0, 0, 0, u16::from(a), group(b, c), 1).into()
        } else {
            Ipv4Addr::new(10, half * 64 + a % 64, b, c).into()
        }
    };
    let (caller_ip, callee_ip) = (ip(1), ip(2));
    let mut port = |low: u64, one: u16| match options.ports {
        Ports::One => one,
        Ports::PerCall => (low + 2 * random.below(10_000)) as u16,
    };
    let (caller_media, callee_media) = (port(10_000, 6000), port(34_000, 6002));
    let caller_port = match (shape.transport, options.ports) {
        (Transport::Udp, _) => 5060,
        // One connection per call.
        (Transport::Tcp, _) => 32_768 + (index % 28_000) as u16,
    };
    let mut tag = || format!("{:08x}", random.next() as u32);
    Dialog {
        call_id: format!("{:016x}-{index}@callgen.invalid", Random::part(options.seed, !(index as u64)).next()),
        branch: tag(),
        transport: shape.transport,
        caller: Endpoint {
            number: format!("{}", 2000 + index),
            name: format!("Agent {index}"),
            signalling: (caller_ip, caller_port).into(),
            media: (caller_ip, caller_media).into(),
            tag: tag(),
        },
        callee: Endpoint {
            number: format!("+4930{:07}", Random::part(options.seed, index as u64 ^ 0xca11ee).below(10_000_000)),
            name: format!("Customer {index}"),
            signalling: (callee_ip, 5060).into(),
            media: (callee_ip, callee_media).into(),
            tag: tag(),
        },
    }
}

/// Offsets in seconds from the start of the call.
struct Times {
    started: f64,
    answered: Option<f64>,
    ended: Option<f64>,
}

struct Builder<'a> {
    options: &'a Options,
    index: usize,
    shape: &'a CallShape,
    network: Network,
    base: CaptureTime,
    random: Random,
    /// Offset in seconds, whether the caller sends it, text.
    messages: Vec<(f64, bool, String)>,
    items: Vec<(u64, Item)>,
    streams: Vec<Stream>,
    truths: Vec<StreamTruth>,
    dialog: Dialog,
    ssrcs: u32,
}

const INVITE: Transaction<'static> = Transaction { method: "INVITE", sequence: 1, by_caller: true, in_dialog: false };

impl Builder<'_> {
    fn run(&mut self) -> Times {
        match self.shape.outcome {
            Outcome::Answered if self.shape.in_progress => self.in_progress(),
            Outcome::Answered => self.answered(),
            Outcome::Cancelled => self.cancelled(),
            Outcome::Busy => self.busy(),
        }
    }

    fn say(&mut self, at: f64, by_caller: bool, text: String) {
        self.messages.push((at, by_caller, text));
    }

    fn codecs(&self) -> [Codec; 2] {
        [self.shape.codec, self.shape.codec.other()]
    }

    fn offer(&self) -> String {
        sdp(self.dialog.caller.media, &self.codecs(), "sendrecv", 1)
    }

    /// INVITE, with credentials the second time, up to the 180; returns the transaction that goes on and its time.
    fn invite(&mut self, at: f64) -> (f64, Transaction<'static>) {
        let mut extra = Extra::default();
        if !self.shape.late_offer {
            extra.body = self.offer();
        }
        if self.shape.large_invite {
            for n in 0..20 {
                extra.headers.push_str(&format!("X-Route-Record-{n}: {}\r\n", "x".repeat(110)));
            }
        }
        let mut transaction = INVITE;
        let mut now = at;
        self.say(now, true, self.dialog.request(transaction, &extra));
        if self.shape.authenticates {
            let challenge = Extra {
                headers: "WWW-Authenticate: Digest realm=\"callgen\", nonce=\"5ca1ab1e\", algorithm=MD5\r\n".into(),
                body: String::new(),
            };
            self.say(now + 0.02, false, self.dialog.response("401 Unauthorized", transaction, true, &challenge));
            let ack = Transaction { method: "ACK", ..transaction };
            self.say(now + 0.03, true, self.dialog.request(ack, &Extra::default()));
            now += 0.04;
            transaction.sequence = 2;
            extra.headers.push_str(
                "Authorization: Digest username=\"2000\", realm=\"callgen\", nonce=\"5ca1ab1e\", uri=\"sip:x\", response=\"0\"\r\n",
            );
            self.say(now, true, self.dialog.request(transaction, &extra));
        }
        self.say(now + 0.004, false, self.dialog.response("100 Trying", transaction, false, &Extra::default()));
        self.say(now + 0.15, false, self.dialog.response("180 Ringing", transaction, true, &Extra::default()));
        (now, transaction)
    }

    fn answered(&mut self) -> Times {
        let lead = if self.shape.media_first { MEDIA_LEAD } else { 0.0 };
        let started = lead + 0.001;
        let (invited, transaction) = self.invite(started);
        let ring = if self.shape.media_first { 0.5 } else { self.random.between(0.3, 2.0) };
        let answer = invited + ring;
        let (from_callee, from_caller) = if self.shape.late_offer {
            (
                sdp(self.dialog.callee.media, &self.codecs(), "sendrecv", 1),
                sdp(self.dialog.caller.media, &[self.shape.codec], "sendrecv", 1),
            )
        } else {
            (sdp(self.dialog.callee.media, &[self.shape.codec], "sendrecv", 1), String::new())
        };
        let ok = Extra { headers: String::new(), body: from_callee };
        self.say(answer, false, self.dialog.response("200 OK", transaction, true, &ok));
        let ack = Transaction { method: "ACK", in_dialog: true, ..transaction };
        let body = Extra { headers: String::new(), body: from_caller };
        self.say(answer + 0.012, true, self.dialog.request(ack, &body));
        let media = if self.shape.media_first { 0.0 } else { answer + MEDIA_DELAY };
        let ended = self.conversation(media, transaction.sequence + 1);
        Times { started, answered: Some(answer), ended }
    }

    fn in_progress(&mut self) -> Times {
        let started = 1.0;
        let refresh = Transaction { method: "INVITE", sequence: 7, by_caller: true, in_dialog: true };
        let mut times = Times { started, answered: None, ended: None };
        self.reinvite(started, refresh, "sendrecv", "sendrecv", self.dialog.caller.media, self.shape.codec);
        times.ended = self.conversation(0.0, 8);
        times
    }

    fn cancelled(&mut self) -> Times {
        let started = 0.001;
        let (invited, transaction) = self.invite(started);
        let early =
            Extra { headers: String::new(), body: sdp(self.dialog.callee.media, &[self.shape.codec], "sendrecv", 1) };
        self.say(invited + 0.2, false, self.dialog.response("183 Session Progress", transaction, true, &early));
        let end = 3.0;
        let ringback = ((end - invited - 0.3) / 0.02) as u32;
        self.stream(
            Side::Callee,
            invited + 0.25,
            0..ringback.min(packets(self.options, Side::Callee)),
            &[],
            self.shape.codec,
        );
        let cancel = Transaction { method: "CANCEL", ..transaction };
        self.say(end, true, self.dialog.request(cancel, &Extra::default()));
        self.say(end + 0.01, false, self.dialog.response("200 OK", cancel, true, &Extra::default()));
        self.say(
            end + 0.02,
            false,
            self.dialog.response("487 Request Terminated", transaction, true, &Extra::default()),
        );
        let ack = Transaction { method: "ACK", ..transaction };
        self.say(end + 0.03, true, self.dialog.request(ack, &Extra::default()));
        Times { started, answered: None, ended: Some(end) }
    }

    fn busy(&mut self) -> Times {
        let started = 0.001;
        let (invited, transaction) = self.invite(started);
        let end = invited + 0.4;
        self.say(end, false, self.dialog.response("486 Busy Here", transaction, true, &Extra::default()));
        let ack = Transaction { method: "ACK", ..transaction };
        self.say(end + 0.01, true, self.dialog.request(ack, &Extra::default()));
        Times { started, answered: None, ended: Some(end) }
    }

    /// The caller offers, the callee answers.
    fn reinvite(
        &mut self,
        at: f64,
        t: Transaction<'static>,
        offer: &str,
        answer: &str,
        caller: SocketAddr,
        codec: Codec,
    ) {
        let version = t.sequence;
        let body = sdp(caller, &[codec], offer, version);
        self.say(at, true, self.dialog.request(t, &Extra { headers: String::new(), body }));
        let body = sdp(self.dialog.callee.media, &[codec], answer, version);
        self.say(at + 0.008, false, self.dialog.response("200 OK", t, true, &Extra { headers: String::new(), body }));
        let ack = Transaction { method: "ACK", ..t };
        self.say(at + 0.014, true, self.dialog.request(ack, &Extra::default()));
    }

    /// Media from `media` on, what re-INVITEs make of it, and the end. Returns when the BYE is seen.
    fn conversation(&mut self, media: f64, mut sequence: u32) -> Option<f64> {
        let talk = self.options.talk.as_secs_f64();
        let hold = self.shape.hold.then_some((0.2, 0.4));
        let mut next = |builder: &mut Self, at: f64, offer: &str, answer: &str, codec: Codec| {
            let t = Transaction { method: "INVITE", sequence, by_caller: true, in_dialog: true };
            sequence += 1;
            builder.reinvite(at, t, offer, answer, builder.dialog.caller.media, codec);
        };
        if let Some((from, to)) = hold {
            next(self, media + talk * from, "sendonly", "recvonly", self.shape.codec);
            next(self, media + talk * to - 0.03, "sendrecv", "sendrecv", self.shape.codec);
        }
        let change_at = 0.6;
        let share = |count: u32, share: f64| (f64::from(count) * share) as u32;
        let count = [packets(self.options, Side::Caller), packets(self.options, Side::Callee)];
        let pauses = |side: Side| -> Vec<std::ops::Range<u32>> {
            let count = count[side_index(side)];
            hold.iter().map(|(from, to)| share(count, *from) + 1..share(count, *to)).collect()
        };
        let sides = [Side::Caller, Side::Callee];
        if let Some(change) = self.shape.change {
            for side in sides {
                let end = share(count[side_index(side)], change_at);
                self.stream(side, media, 0..end, &pauses(side), self.shape.codec);
            }
            let codec = match change {
                Change::Codec => self.shape.codec.other(),
                Change::Port => {
                    let port = self.dialog.caller.media.port();
                    self.dialog.caller.media.set_port(port + 20_002);
                    self.shape.codec
                }
            };
            next(self, media + talk * change_at - 0.001, "sendrecv", "sendrecv", codec);
            for side in sides {
                let count = count[side_index(side)];
                self.stream(side, media, share(count, change_at) + 2..count, &[], codec);
            }
        } else {
            for side in sides {
                self.stream(side, media, 0..count[side_index(side)], &pauses(side), self.shape.codec);
            }
        }
        let end = media + talk + 0.03;
        let by_caller = match self.shape.ending {
            Ending::CallerHangsUp => true,
            Ending::CalleeHangsUp => false,
            Ending::MissingBye => return None,
        };
        let number = if by_caller { sequence } else { 1 };
        let bye = Transaction { method: "BYE", sequence: number, by_caller, in_dialog: true };
        self.say(end, by_caller, self.dialog.request(bye, &Extra::default()));
        self.say(end + 0.01, !by_caller, self.dialog.response("200 OK", bye, true, &Extra::default()));
        Some(end)
    }

    fn ssrc(&mut self) -> u32 {
        match self.options.ports {
            Ports::PerCall => self.random.next() as u32,
            Ports::One => {
                // Both sides of a call have the same one, and no two calls: multiplying by an odd number maps the 32-bit
                // numbers one to one.
                let generation = self.ssrcs / 2;
                self.ssrcs += 1;
                (self.index as u32 * 4 + generation).wrapping_mul(0x9e37_79b1) ^ self.options.seed as u32
            }
        }
    }

    /// Packets `range` of a side, whose sample 0 is spoken at `media`, without those in `pauses`.
    fn stream(
        &mut self,
        side: Side,
        media: f64,
        range: std::ops::Range<u32>,
        pauses: &[std::ops::Range<u32>],
        codec: Codec,
    ) {
        let (caller, callee) = (self.dialog.caller.media, self.dialog.callee.media);
        let (source, destination) = match side {
            Side::Caller => (caller, callee),
            Side::Callee => (callee, caller),
        };
        let sent: Vec<u32> = range.filter(|packet| !pauses.iter().any(|pause| pause.contains(packet))).collect();
        let (Some(&first), Some(&last)) = (sent.first(), sent.last()) else { return };
        let ssrc = self.ssrc();
        let stream = self.streams.len();
        let timestamp = self.random.next() as u32;
        self.streams.push(Stream { side, source, destination, ssrc, codec, timestamp });
        let sequence_zero = self.random.next() as u16;
        let (clock_hz, clock_ppm) = clock(self.options, side);
        let impairment = self.options.impairment;
        let base = self.base.0;
        let mut lost = 0;
        let mut duplicates = 0;
        let mut arrivals: Vec<(u64, u32)> = Vec::with_capacity(sent.len());
        for (count, &packet) in sent.iter().enumerate() {
            let is_edge = packet == first || packet == last;
            if !is_edge && self.random.chance(impairment.loss) {
                lost += 1;
                continue;
            }
            let spoken = media + f64::from(packet + 1) * SAMPLES_PER_PACKET as f64 / clock_hz;
            let jitter = (self.random.normal().abs() * impairment.jitter_ms / 1000.0).min(0.009);
            let late = if !is_edge && self.random.chance(impairment.reordering) { REORDERING_DELAY } else { 0.0 };
            let time = base + nanos(spoken + NETWORK_DELAY + jitter + late);
            let marker = count == 0 || sent[count - 1] + 1 != packet;
            let sequence = sequence_zero.wrapping_add(count as u16);
            self.items.push((time, Item::Rtp { stream, packet, sequence, marker }));
            arrivals.push((time, packet));
            if !is_edge && self.random.chance(impairment.duplicates) {
                duplicates += 1;
                self.items.push((time + 200_000, Item::Rtp { stream, packet, sequence, marker }));
            }
        }
        arrivals.sort_unstable();
        let mut newest = 0;
        let reordered = arrivals
            .iter()
            .filter(|(_, packet)| {
                let is_late = *packet < newest;
                newest = newest.max(*packet);
                is_late
            })
            .count();
        let (Some(&(first_time, _)), Some(&(last_time, _))) = (arrivals.first(), arrivals.last()) else { return };
        self.truths.push(StreamTruth {
            side,
            source: source.to_string(),
            destination: destination.to_string(),
            ssrc: format!("0x{ssrc:08x}"),
            codec,
            first_packet_at: CaptureTime(first_time),
            last_packet_at: CaptureTime(last_time),
            packets: arrivals.len() as u64 + duplicates,
            lost,
            duplicates,
            reordered: reordered as u64,
            first_sample: u64::from(first) * SAMPLES_PER_PACKET,
            end_sample: u64::from(last + 1) * SAMPLES_PER_PACKET,
            sample_zero_at: CaptureTime(base + nanos(media)),
            clock_ppm,
        });
    }

    /// Puts the messages into datagrams or into a connection.
    fn frame_messages(&mut self) {
        let mut messages = std::mem::take(&mut self.messages);
        messages.sort_by(|one, other| one.0.total_cmp(&other.0));
        let (caller, callee) = (self.dialog.caller.signalling, self.dialog.callee.signalling);
        let mut id = 1u32;
        if self.shape.transport == Transport::Udp {
            for (at, by_caller, text) in messages {
                let (source, destination) = if by_caller { (caller, callee) } else { (callee, caller) };
                id += 1;
                for (n, frame) in self.network.udp(source, destination, id, text.as_bytes()).into_iter().enumerate() {
                    self.items.push((self.base.0 + nanos(at) + n as u64 * 20_000, Item::Frame(frame)));
                }
            }
            return;
        }
        let mut sequence = [self.random.next() as u32, self.random.next() as u32];
        let mut segment = |builder: &mut Self, at: f64, by_caller: bool, flags: u8, payload: &[u8]| {
            let side = usize::from(!by_caller);
            let (source, destination) = if by_caller { (caller, callee) } else { (callee, caller) };
            let acknowledgement = if flags & TCP_ACK == 0 { 0 } else { sequence[1 - side] };
            let header = TcpSegment { sequence: sequence[side], acknowledgement, flags };
            id += 1;
            let frame = builder.network.tcp(source, destination, id, header, payload);
            let taken = payload.len() as u32 + u32::from(flags & (TCP_SYN | TCP_FIN) != 0);
            sequence[side] = sequence[side].wrapping_add(taken);
            builder.items.push((builder.base.0 + nanos(at), Item::Frame(frame)));
        };
        let Some(first) = messages.first().map(|message| message.0) else { return };
        if !self.shape.in_progress {
            segment(self, first - 0.0009, true, TCP_SYN, &[]);
            segment(self, first - 0.0006, false, TCP_SYN | TCP_ACK, &[]);
            segment(self, first - 0.0003, true, TCP_ACK, &[]);
        }
        let last = messages.last().map_or(0.0, |message| message.0);
        for (at, by_caller, text) in messages {
            for (n, piece) in text.as_bytes().chunks(TCP_SEGMENT_MAX).enumerate() {
                segment(self, at + n as f64 * 0.0001, by_caller, TCP_ACK | TCP_PSH, piece);
            }
        }
        if self.shape.ending != Ending::MissingBye {
            segment(self, last + 0.1, true, TCP_FIN | TCP_ACK, &[]);
            segment(self, last + 0.101, false, TCP_FIN | TCP_ACK, &[]);
        }
    }
}

fn nanos(seconds: f64) -> u64 {
    (seconds * NANOS_PER_SECOND as f64) as u64
}
