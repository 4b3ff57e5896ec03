//! The call thread: signalling, fragments and stream sightings in; decisions out.
//!
//! One thread puts together what a NIC may have spread over queues: fragments of one datagram, both directions of one
//! dialog. It owns the protocol decoders and the call tracker, and carries out the tracker's commands. All of it is
//! driven by `step` with a time, live and in replay alike.

use crate::counters::CallCounters;
use crate::keep::Room;
use crate::message::{EngineEvent, EventSink, FinishTracks, FlowCommand, FlowNotice, OpenStream, WriterLoss, kind};
use crate::receive::link_of;
use crate::restore::ActiveRecording;
use crate::ring::MessageConsumer;
use sidetone_calls::{Command, FinishAll, FlowRef, StoredAudio, TrackReport, Tracker, TrackerConfig};
use sidetone_capture::{TapControl, TapCounters};
use sidetone_log::Fact;
use sidetone_model::{CaptureTime, Domain, Gap, Recording, RecordingId, RecordingState, SavedCall, TrackId};
use sidetone_signalling::event::CallEvent;
use sidetone_signalling::{Datagram, MessageOutcome, SipConfig, SipDecoder, SipFramer, Transport};
use sidetone_wire::{
    FragmentStatistics, Kind, Link, MediaKind, Packet, Reassembler, ReassemblerLimits, StreamId, TcpEvent, TcpLimits,
    TcpReassembler, TcpStatistics, classify,
};
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Work taken from one receive queue before the others have their turn.
const BATCH: usize = 256;
/// Decoders and tracker look at their timers this often.
const TICK_INTERVAL: Duration = Duration::from_millis(100);

/// The way to and from one receive thread.
pub(crate) struct ReceiverLink {
    pub(crate) frames: MessageConsumer,
    pub(crate) notices: rtrb::Consumer<FlowNotice>,
    pub(crate) commands: rtrb::Producer<FlowCommand>,
}

/// The way to and from one encoder thread.
pub(crate) struct EncoderEnd {
    pub(crate) finish: rtrb::Producer<FinishTracks>,
    pub(crate) reports: rtrb::Consumer<TrackReport>,
}

pub(crate) struct CallRings {
    pub(crate) receivers: Vec<ReceiverLink>,
    pub(crate) encoders: Vec<EncoderEnd>,
    pub(crate) facts: rtrb::Producer<Fact>,
    pub(crate) losses: rtrb::Consumer<WriterLoss>,
}

/// The calls that go on now, for whoever asks. Written by the call thread at a recording's changes, never per packet.
#[derive(Default)]
pub struct LiveCalls {
    recordings: Mutex<BTreeMap<RecordingId, Arc<Recording>>>,
}

impl LiveCalls {
    /// Active recordings, newest first.
    pub fn list(&self) -> Vec<Arc<Recording>> {
        self.lock().values().rev().cloned().collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<RecordingId, Arc<Recording>>> {
        // A reader that panicked has changed nothing.
        self.recordings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the call thread knows and metrics show; refreshed about once a second.
#[derive(Clone, Default, Debug)]
pub struct CallStatistics {
    pub tracker: sidetone_calls::TrackerStatistics,
    pub fragments: FragmentStatistics,
    pub tcp: TcpStatistics,
    pub messages: BTreeMap<&'static str, u64>,
    /// Media inside IP fragments: recognised, not recorded.
    pub fragmented_media: u64,
    /// Counters of the XDP program, per port that has one.
    pub taps: Vec<TapCounters>,
}

pub(crate) struct CallThread {
    rings: CallRings,
    fragments: Reassembler,
    tcp: TcpReassembler,
    sip: SipInput,
    tracker: Tracker,
    taps: Vec<TapControl>,
    /// Ports that carry SIP: those configured, and those seen to (at most [`LEARNED_PORTS_MAX`] more).
    signalling_ports: BTreeSet<u16>,
    learned_ports: usize,
    recordings: HashMap<RecordingId, Assignment, foldhash::fast::RandomState>,
    /// How many recordings each encoder has.
    encoder_load: Vec<u32>,
    streams: HashMap<FlowRef, (RecordingId, TrackId, u32), foldhash::fast::RandomState>,
    next_stream: u32,
    /// What found its ring full; order is kept per ring.
    flow_backlog: Vec<VecDeque<FlowCommand>>,
    finish_backlog: Vec<VecDeque<FinishTracks>>,
    fact_backlog: VecDeque<Fact>,
    events: EventSink,
    live: Arc<LiveCalls>,
    statistics: Arc<Mutex<CallStatistics>>,
    fragmented_media: u64,
    counters: Arc<CallCounters>,
    room: Arc<Room>,
    /// As told to the tracker.
    has_room: bool,
    now: CaptureTime,
    last_tick: CaptureTime,
    last_statistics: CaptureTime,
    scratch: Vec<u8>,
    commands: Vec<Command>,
}

/// What the call thread remembers of a recording that is being made.
struct Assignment {
    /// All its streams go to this encoder.
    encoder: u16,
    flows: Vec<FlowRef>,
    /// Packets whose encoded audio the writer lost, per track.
    writer_losses: BTreeMap<TrackId, u64>,
}

/// Ports beyond those configured that the XDP program is told to deliver.
const LEARNED_PORTS_MAX: usize = 64;

/// What the call thread is given besides its rings.
pub(crate) struct CallParts {
    pub(crate) sip: SipConfig,
    pub(crate) tracker: TrackerConfig,
    pub(crate) taps: Vec<TapControl>,
    pub(crate) signalling_ports: BTreeSet<u16>,
    pub(crate) events: EventSink,
    pub(crate) live: Arc<LiveCalls>,
    pub(crate) statistics: Arc<Mutex<CallStatistics>>,
    pub(crate) counters: Arc<CallCounters>,
    pub(crate) room: Arc<Room>,
}

impl CallThread {
    pub(crate) fn new(rings: CallRings, parts: CallParts) -> Self {
        let (receivers, encoders) = (rings.receivers.len(), rings.encoders.len());
        Self {
            rings,
            fragments: Reassembler::new(ReassemblerLimits::default()),
            tcp: TcpReassembler::new(TcpLimits::default()),
            sip: SipInput {
                decoder: SipDecoder::new(&parts.sip),
                connections: HashMap::default(),
                events: Vec::new(),
                messages: BTreeMap::new(),
            },
            tracker: Tracker::new(parts.tracker),
            taps: parts.taps,
            signalling_ports: parts.signalling_ports,
            learned_ports: 0,
            recordings: HashMap::default(),
            encoder_load: vec![0; encoders],
            streams: HashMap::default(),
            next_stream: 0,
            flow_backlog: vec![VecDeque::new(); receivers],
            finish_backlog: vec![VecDeque::new(); encoders],
            fact_backlog: VecDeque::new(),
            events: parts.events,
            live: parts.live,
            statistics: parts.statistics,
            fragmented_media: 0,
            counters: parts.counters,
            room: parts.room,
            has_room: true,
            now: CaptureTime::ZERO,
            last_tick: CaptureTime::ZERO,
            last_statistics: CaptureTime::ZERO,
            scratch: Vec::with_capacity(64 * 1024),
            commands: Vec::new(),
        }
    }

    /// Takes what has come and carries out what follows from it. True when there was anything to do.
    pub(crate) fn step(&mut self, now: CaptureTime) -> bool {
        self.now = now;
        let mut busy = false;
        for receiver in 0..self.rings.receivers.len() {
            for _ in 0..BATCH {
                let Some(header) = self.rings.receivers[receiver].frames.pop(&mut self.scratch) else { break };
                assert!(header.kind == kind::FRAME, "receive threads send nothing but frames here");
                let frame = std::mem::take(&mut self.scratch);
                self.on_frame(header.time, link_of(header.variant), &frame);
                self.scratch = frame;
                busy = true;
            }
            for _ in 0..BATCH {
                let Ok(notice) = self.rings.receivers[receiver].notices.pop() else { break };
                self.on_notice(&notice);
                busy = true;
            }
        }
        for encoder in 0..self.rings.encoders.len() {
            while let Ok(report) = self.rings.encoders[encoder].reports.pop() {
                self.on_report(report);
                busy = true;
            }
        }
        while let Ok(loss) = self.rings.losses.pop() {
            if let Some(assignment) = self.recordings.get_mut(&loss.recording) {
                *assignment.writer_losses.entry(loss.track).or_default() += u64::from(loss.packets);
            }
        }
        self.tick(now);
        self.execute();
        self.send_backlog();
        busy
    }

    fn on_frame(&mut self, time: CaptureTime, link: Link, bytes: &[u8]) {
        // The receive thread has read the same headers before; what it could not read it did not send.
        let Ok(packet) = classify(link, bytes) else { return };
        if packet.kind != Kind::Fragment {
            return self.on_packet(time, &packet);
        }
        let mut whole = None;
        self.fragments
            .push(time, packet.domain, packet.payload, &mut |datagram| whole = Some(datagram.packet.to_vec()));
        let Some(whole) = whole else { return };
        let Ok(mut inner) = classify(Link::RawIp, &whole) else { return };
        inner.domain = packet.domain;
        self.on_packet(time, &inner);
    }

    fn on_packet(&mut self, time: CaptureTime, packet: &Packet<'_>) {
        match packet.kind {
            Kind::Udp(MediaKind::Rtp | MediaKind::Rtcp) => self.fragmented_media += 1,
            Kind::Udp(_) => {
                let outcome = self.sip.on_message(&Datagram {
                    time,
                    domain: packet.domain,
                    transport: Transport::Udp,
                    source: packet.source,
                    destination: packet.destination,
                    bytes: packet.payload,
                });
                if matches!(outcome, MessageOutcome::Request | MessageOutcome::Response) {
                    self.learn_port(packet.source.port());
                    self.learn_port(packet.destination.port());
                }
            }
            Kind::Tcp => {
                self.tcp.push(time, packet, &mut |event| self.sip.on_stream_event(&event));
            }
            Kind::Fragment | Kind::Tunnel | Kind::Other => {}
        }
        self.track_events();
    }

    /// A phone or proxy that speaks SIP on a port nobody configured: what it says to others of its kind is wanted, too.
    fn learn_port(&mut self, port: u16) {
        if self.taps.is_empty() || self.learned_ports == LEARNED_PORTS_MAX || !self.signalling_ports.insert(port) {
            return;
        }
        self.learned_ports += 1;
        tracing::info!(port, "SIP on a port that is not configured: the XDP program delivers it from now on");
        for tap in &mut self.taps {
            if let Err(error) = tap.expect_signalling(port) {
                self.counters.tap_errors.add(1);
                tracing::debug!(%error, "the XDP program was not told of a signalling port");
            }
        }
    }

    fn track_events(&mut self) {
        let mut events = std::mem::take(&mut self.sip.events);
        for event in events.drain(..) {
            tracing::debug!(call_id = %event.leg.call_id, kind = ?event.kind, "call event");
            self.tracker.on_event(&event, &mut self.commands);
            self.execute();
        }
        self.sip.events = events;
    }

    fn on_notice(&mut self, notice: &FlowNotice) {
        match notice {
            FlowNotice::Sighting(sighting) => self.tracker.on_sighting(sighting, &mut self.commands),
            FlowNotice::Gone(gone) => {
                self.streams.remove(&gone.flow);
                self.tracker.on_gone(gone, &mut self.commands);
            }
        }
        self.execute();
    }

    fn on_report(&mut self, mut report: TrackReport) {
        // Chunks that the encoder could hand over and the writer could not store.
        let assignment = self.recordings.get(&report.recording);
        if let Some(lost) = assignment.and_then(|assignment| assignment.writer_losses.get(&report.track)) {
            report.measured.losses.writer += lost;
        }
        self.tracker.on_report(&report, &mut self.commands);
        self.execute();
    }

    fn tick(&mut self, now: CaptureTime) {
        if now.since(self.last_tick) < TICK_INTERVAL && now >= self.last_tick {
            return;
        }
        self.last_tick = now;
        self.fragments.on_tick(now);
        self.tcp.on_tick(now, &mut |event| self.sip.on_stream_event(&event));
        self.sip.decoder.on_tick(now, &mut self.sip.events);
        self.track_events();
        let has_room = self.room.takes_new();
        if has_room != self.has_room {
            self.has_room = has_room;
            self.tracker.on_room(has_room, &mut self.commands);
        }
        self.tracker.on_tick(now, &mut self.commands);
        for leg in self.tracker.take_given_up_legs() {
            self.sip.decoder.forget(&leg);
        }
        if now.since(self.last_statistics) >= Duration::from_secs(1) || now < self.last_statistics {
            self.last_statistics = now;
            self.publish_statistics();
        }
    }

    pub(crate) fn publish_statistics(&self) {
        let statistics = CallStatistics {
            tracker: self.tracker.statistics(),
            fragments: self.fragments.statistics(),
            tcp: self.tcp.statistics(),
            messages: self.sip.messages.clone(),
            fragmented_media: self.fragmented_media,
            taps: self.taps.iter().map(|tap| tap.counters().unwrap_or_default()).collect(),
        };
        *self.statistics.lock().unwrap_or_else(PoisonError::into_inner) = statistics;
    }

    /// Carries out the tracker's commands. None waits here: what finds a ring full goes to a backlog.
    fn execute(&mut self) {
        let mut commands = std::mem::take(&mut self.commands);
        for command in commands.drain(..) {
            match command {
                Command::Record { flow, key, recording, track, format } => {
                    let encoder = self.assignment(recording).encoder;
                    let stream = match self.streams.get(&flow) {
                        Some((r, t, stream)) if (*r, *t) == (recording, track) => *stream,
                        _ => {
                            self.next_stream = self.next_stream.wrapping_add(1);
                            self.streams.insert(flow, (recording, track, self.next_stream));
                            self.assignment(recording).flows.push(flow);
                            self.next_stream
                        }
                    };
                    let open = OpenStream { stream, key, recording, track, format };
                    self.flow_backlog[usize::from(flow.queue)].push_back(FlowCommand::Record { flow, encoder, open });
                }
                Command::Release { flow } => {
                    self.flow_backlog[usize::from(flow.queue)].push_back(FlowCommand::Release { flow });
                }
                Command::Discard { flow, key } => {
                    self.flow_backlog[usize::from(flow.queue)].push_back(FlowCommand::Discard { flow });
                    for tap in &mut self.taps {
                        if let Err(error) = tap.discard(&key) {
                            self.counters.tap_errors.add(1);
                            tracing::debug!(%error, "the XDP program was not told to discard a stream");
                        }
                    }
                }
                Command::Expect { address } => {
                    for tap in &mut self.taps {
                        if let Err(error) = tap.expect(address) {
                            self.counters.tap_errors.add(1);
                            tracing::debug!(%error, "the XDP program was not told to expect media");
                        }
                    }
                }
                Command::Finish { recording, tracks, at } => {
                    let encoder = self.assignment(recording).encoder;
                    self.finish_backlog[usize::from(encoder)].push_back(FinishTracks {
                        recording,
                        tracks,
                        at,
                        issued_at: self.now,
                    });
                }
                Command::Save { recording, resume } => self.save(recording, resume),
                Command::NotRecorded { call_id, at, reason } => {
                    (self.events)(EngineEvent::NotRecorded { call_id, at, reason });
                }
            }
        }
        // `execute` is never entered from within, so nothing was added meanwhile.
        self.commands = commands;
    }

    /// The recording's encoder and streams; a new recording goes to the encoder with the fewest.
    fn assignment(&mut self, recording: RecordingId) -> &mut Assignment {
        self.recordings.entry(recording).or_insert_with(|| {
            let load = &mut self.encoder_load;
            let least = load.iter().enumerate().min_by_key(|(_, load)| **load).map_or(0, |(index, _)| index);
            load[least] += 1;
            Assignment { encoder: least as u16, flows: Vec::new(), writer_losses: BTreeMap::new() }
        })
    }

    fn save(&mut self, recording: Arc<Recording>, resume: Option<SavedCall>) {
        let active = recording.state == RecordingState::Active;
        let known = if active {
            self.live.lock().insert(recording.id, recording.clone()).is_some()
        } else {
            if let Some(assignment) = self.recordings.remove(&recording.id) {
                self.encoder_load[usize::from(assignment.encoder)] -= 1;
                for flow in &assignment.flows {
                    if self.streams.get(flow).is_some_and(|(id, _, _)| *id == recording.id) {
                        self.streams.remove(flow);
                    }
                }
            }
            self.live.lock().remove(&recording.id).is_some()
        };
        self.fact_backlog.push_back(Fact::Recording { recording: recording.clone(), resume });
        let event = match (active, known) {
            (true, false) => EngineEvent::CallStarted(recording),
            (true, true) => EngineEvent::CallUpdated(recording),
            (false, _) => EngineEvent::CallEnded(recording),
        };
        (self.events)(event);
    }

    fn send_backlog(&mut self) {
        for (link, backlog) in self.rings.receivers.iter_mut().zip(&mut self.flow_backlog) {
            drain_into(backlog, &mut link.commands);
        }
        for (encoder, backlog) in self.rings.encoders.iter_mut().zip(&mut self.finish_backlog) {
            drain_into(backlog, &mut encoder.finish);
        }
        drain_into(&mut self.fact_backlog, &mut self.rings.facts);
        let waiting = self.flow_backlog.iter().map(VecDeque::len).sum::<usize>()
            + self.finish_backlog.iter().map(VecDeque::len).sum::<usize>()
            + self.fact_backlog.len();
        self.counters.commands_waiting.set(waiting as u64);
    }

    /// Goes on with recordings that were active when the process stopped.
    pub(crate) fn restore(&mut self, active: Vec<ActiveRecording>, now: CaptureTime) {
        for ActiveRecording { recording, resume, stored } in active {
            match self.tracker.restore(&recording, &resume, &stored, now, &mut self.commands) {
                Ok(()) => {
                    self.live.lock().insert(recording.id, Arc::new(recording));
                }
                Err(error) => {
                    tracing::error!(recording = %recording.id, %error, "an active recording cannot be gone on with");
                    self.give_up(recording, &stored, now);
                }
            }
        }
        for (leg, answered) in self.tracker.live_legs() {
            self.sip.decoder.restore(leg, answered, now);
        }
        self.execute();
    }

    /// A recording of the last run that cannot be gone on with ends where it was, and says that it is not whole.
    fn give_up(&mut self, mut recording: Recording, stored: &[StoredAudio], now: CaptureTime) {
        recording.state = RecordingState::Incomplete;
        recording.ended_at.get_or_insert(now);
        let saved = recording.answered_at.unwrap_or(recording.started_at);
        let saved = saved.saturating_add(Duration::from_secs_f64(recording.duration_seconds.clamp(0.0, 1e9)));
        let from = stored.iter().flat_map(|audio| &audio.spans).map(|(_, end)| *end).max().unwrap_or(saved);
        recording.gaps.push(Gap { from, to: recording.ended_at, reason: "restart".into() });
        self.save(Arc::new(recording), None);
    }

    /// The capture is at its end: every call ends.
    pub(crate) fn finish_all(&mut self, now: CaptureTime) {
        self.tcp.finish(now, &mut |event| self.sip.on_stream_event(&event));
        self.track_events();
        self.now = now;
        self.tracker.finish_all(now, FinishAll::CaptureEnd, &mut self.commands);
        self.execute();
    }

    /// The process stops: active recordings are saved as active, with what the next process needs.
    pub(crate) fn suspend(&mut self, now: CaptureTime) {
        self.tracker.suspend(now, &mut self.commands);
        self.execute();
        self.send_backlog();
    }

    pub(crate) fn has_unsent_facts(&self) -> bool {
        !self.fact_backlog.is_empty()
    }

    pub(crate) fn tracker(&self) -> &Tracker {
        &self.tracker
    }
}

/// Moves what fits from the backlog into the ring, in order.
fn drain_into<T>(backlog: &mut VecDeque<T>, ring: &mut rtrb::Producer<T>) {
    while let Some(item) = backlog.pop_front() {
        if let Err(rtrb::PushError::Full(item)) = ring.push(item) {
            backlog.push_front(item);
            return;
        }
    }
}

/// SIP out of datagrams and byte streams.
struct SipInput {
    decoder: SipDecoder,
    connections: HashMap<StreamId, Connection, foldhash::fast::RandomState>,
    /// What the messages said, for the tracker.
    events: Vec<CallEvent>,
    /// Messages by outcome.
    messages: BTreeMap<&'static str, u64>,
}

impl SipInput {
    fn on_message(&mut self, message: &Datagram<'_>) -> MessageOutcome {
        let outcome = self.decoder.on_message(message, &mut self.events);
        *self.messages.entry(outcome.label()).or_default() += 1;
        outcome
    }

    fn on_stream_event(&mut self, event: &TcpEvent<'_>) {
        match *event {
            TcpEvent::Bytes { stream, domain, source, destination, time, bytes } => {
                let known = self.connections.remove(&stream);
                let mut connection =
                    known.unwrap_or_else(|| Connection { framer: SipFramer::new(), domain, source, destination });
                connection.framer.push(bytes, |bytes| {
                    self.on_message(&Datagram { time, domain, transport: Transport::Tcp, source, destination, bytes });
                });
                self.connections.insert(stream, connection);
            }
            TcpEvent::Gap { stream, time, .. } => {
                if let Some(mut connection) = self.connections.remove(&stream) {
                    self.cut(&mut connection, time);
                    self.connections.insert(stream, connection);
                }
            }
            TcpEvent::End { stream, time, .. } => {
                if let Some(mut connection) = self.connections.remove(&stream) {
                    self.cut(&mut connection, time);
                }
            }
        }
    }

    /// Nothing follows what the framer holds: a message whose headers are there is read as far as it goes.
    fn cut(&mut self, connection: &mut Connection, time: CaptureTime) {
        let (domain, source, destination) = (connection.domain, connection.source, connection.destination);
        connection.framer.gap(|bytes| {
            self.on_message(&Datagram { time, domain, transport: Transport::Tcp, source, destination, bytes });
        });
    }
}

/// One direction of a TCP connection that carries SIP.
struct Connection {
    framer: SipFramer,
    domain: Domain,
    source: SocketAddr,
    destination: SocketAddr,
}
