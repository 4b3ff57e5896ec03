//! The receive thread: frames in; signalling to the call thread, media of claimed streams to the encoders, media of
//! unknown streams to the pre-roll. One per receive queue.
//!
//! A state machine without a clock: `on_frame`, `apply_commands` and `on_tick` are called by the live thread and by replay
//! alike. Nothing here allocates, locks or waits per packet; what finds a ring full is counted.

use crate::config::EngineConfig;
use crate::counters::{DropReason, Kept, ReceiveCounters};
use crate::flows::{FlowState, FlowTable};
use crate::message::{FlowCommand, FlowNotice, OpenStream, kind};
use crate::ring::{MessageHeader, MessageProducer};
use sidetone_calls::{StreamGone, StreamSighting};
use sidetone_capture::{Frame, LinkLayer};
use sidetone_model::{CaptureTime, StreamKey};
use sidetone_signalling::looks_like_sip;
use sidetone_wire::{Kind, Link, MediaKind, Packet, Unparsed, classify};
use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// Packets of a new stream before the call thread hears of it: one stray packet makes no stream (RFC 3550 A.1).
const PACKETS_BEFORE_SIGHTING: u64 = 2;
/// An unclaimed stream that is silent for so long leaves the table.
const IDLE_UNCLAIMED: Duration = Duration::from_secs(30);
/// A recorded stream may be on hold for long.
const IDLE_RECORDED: Duration = Duration::from_secs(600);
/// Connections that turned out to carry SIP on ports nobody configured.
const SIP_CONNECTIONS_MAX: usize = 16_384;
/// A stream of one packet so far is no stream: noise must not fill the table for long.
const IDLE_UNSIGHTED: Duration = Duration::from_secs(2);
/// The XDP program forgets a verdict after 30 s. A stream that comes through again is shown to the tracker again, which
/// discards it anew or has found a call for it.
const RESIGHT_INTERVAL: Duration = Duration::from_secs(32);
/// Room reckoned for a held packet: 20 ms of G.711 with its RTP header and the message's.
const HELD_BYTES_TYPICAL: usize = 200;
/// Encoders hear the time at most this often.
const TICK_INTERVAL: Duration = Duration::from_millis(10);

/// The way to one encoder thread.
pub(crate) struct EncoderLink {
    pub(crate) messages: MessageProducer,
    pub(crate) opened: rtrb::Producer<OpenStream>,
}

pub(crate) struct Receiver {
    flows: FlowTable,
    counters: Arc<ReceiveCounters>,
    signalling_ports: Vec<u16>,
    sip_connections: HashSet<(SocketAddr, SocketAddr), foldhash::fast::RandomState>,
    pre_roll: Duration,
    to_call: MessageProducer,
    notices: rtrb::Producer<FlowNotice>,
    commands: rtrb::Consumer<FlowCommand>,
    /// A command whose encoder had no room for it yet.
    stalled_command: Option<FlowCommand>,
    encoders: Vec<EncoderLink>,
    last_tick: CaptureTime,
    scratch: Vec<u8>,
}

/// The ends of the rings that a receive thread holds.
pub(crate) struct ReceiverRings {
    pub(crate) to_call: MessageProducer,
    pub(crate) notices: rtrb::Producer<FlowNotice>,
    pub(crate) commands: rtrb::Consumer<FlowCommand>,
    pub(crate) encoders: Vec<EncoderLink>,
}

impl Receiver {
    pub(crate) fn new(
        queue: u16,
        config: &EngineConfig,
        signalling_ports: &[u16],
        rings: ReceiverRings,
        counters: Arc<ReceiveCounters>,
    ) -> Self {
        Self {
            flows: FlowTable::new(queue, config.max_streams as usize, config.pre_roll_mib as usize * 1024 * 1024),
            counters,
            signalling_ports: signalling_ports.to_vec(),
            sip_connections: HashSet::with_capacity_and_hasher(
                SIP_CONNECTIONS_MAX,
                foldhash::fast::RandomState::default(),
            ),
            pre_roll: config.pre_roll(),
            to_call: rings.to_call,
            notices: rings.notices,
            commands: rings.commands,
            stalled_command: None,
            encoders: rings.encoders,
            last_tick: CaptureTime::ZERO,
            scratch: Vec::with_capacity(64 * 1024),
        }
    }

    /// One frame, to exactly one end.
    pub(crate) fn on_frame(&mut self, frame: &Frame<'_>) {
        self.counters.frames_received.add(1);
        self.counters.bytes_received.add(u64::from(frame.original_length));
        let link = wire_link(frame.link);
        let packet = match classify(link, frame.bytes) {
            Ok(packet) => packet,
            Err(Unparsed::NotIp) => return self.counters.discard(DropReason::NotVoice, 1),
            Err(_) => return self.counters.discard(DropReason::Unparsed, 1),
        };
        match packet.kind {
            Kind::Udp(MediaKind::Rtp) => self.on_media(frame.arrived_at, &packet),
            Kind::Udp(MediaKind::Rtcp) => self.counters.keep(Kept::Rtcp),
            Kind::Udp(_) if self.is_signalling_datagram(&packet) => self.hand_over(frame, link),
            Kind::Tcp if self.is_signalling_segment(&packet) => self.hand_over(frame, link),
            Kind::Fragment => self.hand_over(frame, link),
            Kind::Tunnel => self.counters.discard(DropReason::Tunnel, 1),
            Kind::Udp(_) | Kind::Tcp | Kind::Other => self.counters.discard(DropReason::NotVoice, 1),
        }
    }

    fn on_media(&mut self, arrived_at: CaptureTime, packet: &Packet<'_>) {
        let rtp = packet.payload;
        let Some(ssrc) = rtp.get(8..12) else { return self.counters.discard(DropReason::NotVoice, 1) };
        let key = StreamKey {
            domain: packet.domain,
            source: packet.source,
            destination: packet.destination,
            ssrc: u32::from_be_bytes([ssrc[0], ssrc[1], ssrc[2], ssrc[3]]),
        };
        let Some(slot) = self.flows.find_or_insert(&key, arrived_at, rtp[1] & 0x7f) else {
            return self.counters.discard(DropReason::FlowTableFull, 1);
        };
        let flow = self.flows.get_mut(slot);
        flow.packets += 1;
        flow.last_packet_at = arrived_at;
        match flow.state {
            FlowState::Recording { encoder, stream } => {
                let lost_before = &mut flow.lost_before;
                deliver(&mut self.encoders[usize::from(encoder)], &self.counters, stream, lost_before, arrived_at, rtp);
            }
            FlowState::Waiting => self.wait(slot, arrived_at, rtp),
            FlowState::Discarded => {
                self.counters.discard(DropReason::Discarded, 1);
                if arrived_at.since(flow.sighted_at) >= RESIGHT_INTERVAL {
                    self.sight(slot, arrived_at);
                }
            }
        }
    }

    /// Keeps a packet of an unclaimed stream for as long as the pre-roll lasts, and tells the call thread of the stream.
    fn wait(&mut self, slot: u32, arrived_at: CaptureTime, rtp: &[u8]) {
        let outdated = self.flows.drop_held_before(slot, arrived_at.saturating_sub(self.pre_roll));
        self.counters.discard(DropReason::Unclaimed, outdated);
        if !self.flows.hold(slot, arrived_at, rtp) {
            self.counters.discard(DropReason::PreRollFull, 1);
        }
        let flow = self.flows.get_mut(slot);
        if !flow.sighted && flow.packets >= PACKETS_BEFORE_SIGHTING {
            self.sight(slot, arrived_at);
        }
        self.counters.held.set(self.flows.held_packets());
    }

    /// Tells the call thread of a stream. When the ring is full, the next packet tries again.
    fn sight(&mut self, slot: u32, now: CaptureTime) {
        let flow_ref = self.flows.flow_ref(slot);
        let flow = self.flows.get_mut(slot);
        let sighting = StreamSighting {
            flow: flow_ref,
            key: flow.key,
            first_packet_at: flow.first_packet_at,
            payload_type: flow.payload_type,
        };
        if self.notices.push(FlowNotice::Sighting(sighting)).is_ok() {
            flow.sighted = true;
            flow.sighted_at = now;
        }
    }

    fn is_signalling_port(&self, packet: &Packet<'_>) -> bool {
        self.signalling_ports.contains(&packet.destination.port())
            || self.signalling_ports.contains(&packet.source.port())
    }

    fn is_signalling_datagram(&self, packet: &Packet<'_>) -> bool {
        self.is_signalling_port(packet) || looks_like_sip(packet.payload)
    }

    /// A TCP connection on any port carries SIP from its first segment that begins like a SIP message.
    fn is_signalling_segment(&mut self, packet: &Packet<'_>) -> bool {
        if self.is_signalling_port(packet) {
            return true;
        }
        let connection = if packet.source <= packet.destination {
            (packet.source, packet.destination)
        } else {
            (packet.destination, packet.source)
        };
        if self.sip_connections.contains(&connection) {
            return true;
        }
        if !looks_like_sip(packet.payload) {
            return false;
        }
        if self.sip_connections.len() >= SIP_CONNECTIONS_MAX {
            self.sip_connections.clear();
        }
        self.sip_connections.insert(connection);
        true
    }

    /// Hands the whole frame over: fragments and segments are put together in one place, the call thread.
    fn hand_over(&mut self, frame: &Frame<'_>, link: Link) {
        let header =
            MessageHeader { kind: kind::FRAME, variant: link_code(link), index: 0, count: 0, time: frame.arrived_at };
        if self.to_call.push(header, frame.bytes) {
            self.counters.keep(Kept::Signalling);
        } else {
            self.counters.discard(DropReason::SignallingRingFull, 1);
        }
    }

    /// Does what the call thread has decided. Stops at a command whose encoder has no room, to try again later.
    pub(crate) fn apply_commands(&mut self) {
        while let Some(command) = self.stalled_command.take().or_else(|| self.commands.pop().ok()) {
            let done = match &command {
                FlowCommand::Record { flow, encoder, open } => self.record(*flow, *encoder, open),
                FlowCommand::Release { flow } => self.release(*flow),
                FlowCommand::Discard { flow } => self.discard(*flow),
            };
            if !done {
                self.stalled_command = Some(command);
                break;
            }
        }
        self.counters.held.set(self.flows.held_packets());
    }

    /// Opens the stream at its encoder and sends what the pre-roll holds of it. False when the encoder has no room.
    fn record(&mut self, reference: sidetone_calls::FlowRef, encoder: u16, open: &OpenStream) -> bool {
        let Some(flow) = self.flows.resolve(reference) else { return true };
        let held = flow.held_packets();
        let link = &mut self.encoders[usize::from(encoder)];
        // A whole pre-roll goes over at once: it waits until the ring has room for it, or is half empty.
        let wanted = (held * HELD_BYTES_TYPICAL).min(link.messages.capacity_bytes() / 2);
        if link.opened.is_full() || !link.messages.has_room(0) || link.messages.room_for(1 + held) < wanted {
            return false;
        }
        // The stream first, then the marker that makes the encoder look for it.
        let opened = link.opened.push(open.clone()).is_ok();
        let marked = link.messages.push(MessageHeader { kind: kind::OPEN, ..Default::default() }, &[]);
        assert!(opened && marked, "only this thread fills the rings, and the room was just seen");
        let mut lost_before = 0;
        let mut scratch = std::mem::take(&mut self.scratch);
        while let Some(arrived_at) = self.flows.take_held(reference.slot, &mut scratch) {
            deliver(link, &self.counters, open.stream, &mut lost_before, arrived_at, &scratch);
        }
        self.scratch = scratch;
        let flow = self.flows.get_mut(reference.slot);
        flow.state = FlowState::Recording { encoder, stream: open.stream };
        flow.lost_before += lost_before;
        true
    }

    /// Back to waiting. What the encoder's ring had no room for last is told first, so that no loss stays unattributed.
    fn release(&mut self, reference: sidetone_calls::FlowRef) -> bool {
        if let Some(flow) = self.flows.resolve(reference)
            && let FlowState::Recording { encoder, stream } = flow.state
            && flow.lost_before > 0
        {
            let header =
                MessageHeader { kind: kind::PACKET, index: stream, count: flow.lost_before, ..Default::default() };
            if !self.encoders[usize::from(encoder)].messages.push(header, &[]) {
                return false;
            }
            flow.lost_before = 0;
        }
        self.set_state(reference, FlowState::Waiting)
    }

    fn discard(&mut self, reference: sidetone_calls::FlowRef) -> bool {
        if self.flows.resolve(reference).is_some() {
            let dropped = self.flows.drop_all_held(reference.slot);
            self.counters.discard(DropReason::Unclaimed, dropped);
        }
        self.set_state(reference, FlowState::Discarded)
    }

    fn set_state(&mut self, reference: sidetone_calls::FlowRef, state: FlowState) -> bool {
        if let Some(flow) = self.flows.resolve(reference) {
            flow.state = state;
        }
        true
    }

    /// Tells the encoders the time, and forgets streams that have been silent for long.
    pub(crate) fn on_tick(&mut self, now: CaptureTime) {
        let since_last = now.since(self.last_tick);
        if since_last < TICK_INTERVAL && now >= self.last_tick {
            return;
        }
        self.last_tick = now;
        for link in &mut self.encoders {
            // A full ring needs no tick: it is full of newer packets, and the next tick is near.
            let _full = link.messages.push(MessageHeader { kind: kind::TICK, time: now, ..Default::default() }, &[]);
        }
        self.expire(now);
        self.counters.held.set(self.flows.held_packets());
        self.counters.flows.set(self.flows.len() as u64);
    }

    fn expire(&mut self, now: CaptureTime) {
        // The whole table is looked at about once a second.
        let mut budget = (self.flows.len() / 32).max(256);
        while let Some(slot) = self.flows.next_idle(now, IDLE_UNSIGHTED, &mut budget) {
            let flow = self.flows.get_mut(slot);
            let idle = now.since(flow.last_packet_at);
            let limit = match flow.state {
                FlowState::Recording { .. } => IDLE_RECORDED,
                // Longer than the XDP program keeps it from us.
                FlowState::Discarded => IDLE_UNCLAIMED + RESIGHT_INTERVAL,
                FlowState::Waiting if flow.sighted => IDLE_UNCLAIMED,
                FlowState::Waiting => IDLE_UNSIGHTED,
            };
            if matches!(flow.state, FlowState::Waiting) && idle > self.pre_roll {
                let outdated = self.flows.drop_all_held(slot);
                self.counters.discard(DropReason::Unclaimed, outdated);
            }
            if idle > limit && !self.forget(slot) {
                break;
            }
        }
    }

    /// Removes a flow and tells the call thread. False when the ring of notices is full: the flow stays.
    fn forget(&mut self, slot: u32) -> bool {
        let flow_ref = self.flows.flow_ref(slot);
        let flow = self.flows.get_mut(slot);
        let gone = StreamGone {
            flow: flow_ref,
            key: flow.key,
            first_packet_at: flow.first_packet_at,
            last_packet_at: flow.last_packet_at,
            packets: flow.packets,
        };
        if self.notices.push(FlowNotice::Gone(gone)).is_err() {
            return false;
        }
        let dropped = self.flows.drop_all_held(slot);
        self.counters.discard(DropReason::Unclaimed, dropped);
        self.flows.remove(slot);
        true
    }

    /// At the end of a capture: forgets streams, as many as the ring of notices takes. True when none is left.
    pub(crate) fn forget_all(&mut self) -> bool {
        let slots: Vec<u32> = self.flows.occupied().collect();
        for slot in slots {
            if !self.forget(slot) {
                return false;
            }
        }
        self.counters.held.set(self.flows.held_packets());
        self.counters.flows.set(0);
        true
    }

    /// At the end of a live run: nothing waits any more.
    pub(crate) fn drop_pre_roll(&mut self) {
        let slots: Vec<u32> = self.flows.occupied().collect();
        for slot in slots {
            let dropped = self.flows.drop_all_held(slot);
            self.counters.discard(DropReason::Unclaimed, dropped);
        }
        self.counters.held.set(self.flows.held_packets());
    }

    /// The fullest ring towards an encoder, 0.0 to 1.0. Replay lets the encoders catch up before it overflows.
    pub(crate) fn encoder_ring_fill(&self) -> f64 {
        self.encoders.iter().map(|link| link.messages.fill_ratio()).fold(0.0, f64::max)
    }
}

/// One RTP packet towards its encoder. The frame's end is its track either way; what finds the ring full is the track's loss.
fn deliver(
    link: &mut EncoderLink,
    counters: &ReceiveCounters,
    stream: u32,
    lost_before: &mut u32,
    arrived_at: CaptureTime,
    rtp: &[u8],
) {
    counters.keep(Kept::Track);
    let header = MessageHeader { kind: kind::PACKET, variant: 0, index: stream, count: *lost_before, time: arrived_at };
    if link.messages.push(header, rtp) {
        *lost_before = 0;
    } else {
        *lost_before = lost_before.saturating_add(1);
        counters.lost_to_encoder.add(1);
    }
}

fn wire_link(link: LinkLayer) -> Link {
    match link {
        LinkLayer::Ethernet => Link::Ethernet,
        LinkLayer::RawIp => Link::RawIp,
        LinkLayer::LinuxCooked => Link::LinuxCooked,
        LinkLayer::LinuxCooked2 => Link::LinuxCooked2,
        LinkLayer::Null => Link::Null,
    }
}

const LINKS: [Link; 5] = [Link::Ethernet, Link::RawIp, Link::LinuxCooked, Link::LinuxCooked2, Link::Null];

/// The link layer as one byte, for the ring to the call thread.
fn link_code(link: Link) -> u8 {
    LINKS.iter().position(|known| *known == link).expect("every link layer is in the list") as u8
}

/// Back from [`link_code`].
pub(crate) fn link_of(code: u8) -> Link {
    LINKS[usize::from(code)]
}
