//! A tracker between a signalling decoder, receive threads and encoders that play by the rules, and check them: a
//! stream is on one track at a time, commands name streams that exist, a recording is closed once.
#![allow(dead_code, unreachable_pub, reason = "each test crate uses its part")]

use sidetone_calls::{
    Command, FinishAll, FlowRef, MeasuredTrack, NotRecordedReason, StoredAudio, StreamFormat, StreamGone,
    StreamSighting, TrackReport, Tracker, TrackerConfig,
};
use sidetone_model::{
    CaptureTime, Domain, EndReason, Losses, NodeName, Recording, RecordingId, RecordingState, SavedCall, Seed, Stream,
    StreamKey, TrackId,
};
use sidetone_signalling::event::*;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

pub const START: CaptureTime = CaptureTime(1_700_000_000_000_000_000);

pub fn config() -> TrackerConfig {
    TrackerConfig::new(NodeName("test".into()), Seed([7; 16]))
}

pub fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

pub fn leg(call_id: &str) -> LegRef {
    leg_in(call_id, Domain::default())
}

pub fn leg_in(call_id: &str, domain: Domain) -> LegRef {
    LegRef { protocol: Protocol::Sip, domain, call_id: call_id.into(), attempt: "tag".into() }
}

pub fn identity(number: &str, address: &str) -> Identity {
    Identity { number: number.into(), name: String::new(), address: address.parse().ok() }
}

pub fn format(payload_type: u8, encoding: &str) -> PayloadFormat {
    PayloadFormat { payload_type, encoding: encoding.into(), clock_rate: 8000, channels: 1, parameters: "".into() }
}

pub fn audio(address: &str) -> MediaBinding {
    MediaBinding {
        kind: MediaKind::Audio,
        address: address.parse().ok(),
        rtcp: None,
        candidates: Vec::new(),
        direction: MediaDirection::SendRecv,
        formats: vec![format(8, "PCMA"), format(0, "PCMU"), format(101, "telephone-event")],
        security: MediaSecurity::None,
        label: String::new(),
        ptime_ms: None,
    }
}

pub struct World {
    pub tracker: Tracker,
    pub now: CaptureTime,
    pub streams: BTreeMap<u32, (StreamSighting, u64)>,
    /// Where each stream (by slot) is delivered, with the format.
    pub tracks: BTreeMap<u32, (RecordingId, TrackId, StreamFormat)>,
    pub history: Vec<String>,
    pub documents: BTreeMap<RecordingId, Arc<Recording>>,
    pub resumes: BTreeMap<RecordingId, SavedCall>,
    pub closed: BTreeMap<RecordingId, u32>,
    pub not_recorded: Vec<(String, NotRecordedReason)>,
    pub discarded: BTreeSet<u32>,
    pub expected: Vec<SocketAddr>,
    pub saves: u64,
    pub measured: BTreeMap<(RecordingId, TrackId), MeasuredTrack>,
    /// Encoders that never answer.
    pub mute: bool,
    pub losses: Losses,
    finished: BTreeSet<(RecordingId, TrackId)>,
    next_slot: u32,
}

impl World {
    pub fn new(config: TrackerConfig) -> Self {
        Self {
            tracker: Tracker::new(config),
            now: START,
            streams: BTreeMap::new(),
            tracks: BTreeMap::new(),
            history: Vec::new(),
            documents: BTreeMap::new(),
            resumes: BTreeMap::new(),
            closed: BTreeMap::new(),
            not_recorded: Vec::new(),
            discarded: BTreeSet::new(),
            expected: Vec::new(),
            saves: 0,
            measured: BTreeMap::new(),
            mute: false,
            losses: Losses::default(),
            finished: BTreeSet::new(),
            next_slot: 0,
        }
    }

    pub fn event(&mut self, leg: &LegRef, kind: CallEventKind) {
        let mut out = Vec::new();
        self.tracker.on_event(&CallEvent { time: self.now, leg: leg.clone(), kind }, &mut out);
        self.obey(out);
    }

    pub fn start(&mut self, leg: &LegRef, caller: Identity, callee: Identity) {
        self.start_with(leg, caller, callee, false);
    }

    pub fn start_with(&mut self, leg: &LegRef, caller: Identity, callee: Identity, in_progress: bool) {
        let (from, to) = (format!("sip:{}@a", caller.number), format!("sip:{}@b", callee.number));
        self.event(leg, CallEventKind::Started(LegStart { caller, callee, from, to, in_progress }));
    }

    pub fn media(&mut self, leg: &LegRef, side: LegSide, phase: MediaPhase, bindings: Vec<MediaBinding>) {
        self.event(leg, CallEventKind::Media { side, phase, bindings });
    }

    /// INVITE with offer, 200 with answer.
    pub fn answered_call(&mut self, leg: &LegRef, caller: &str, callee: &str) {
        self.start(leg, identity("100", "10.0.0.1:5060"), identity("200", "10.0.0.2:5060"));
        self.media(leg, LegSide::Caller, MediaPhase::Preview, vec![audio(caller)]);
        self.pass(Duration::from_millis(500));
        self.answer(leg, caller, callee);
    }

    pub fn answer(&mut self, leg: &LegRef, caller: &str, callee: &str) {
        self.media(leg, LegSide::Caller, MediaPhase::Committed, vec![audio(caller)]);
        self.media(leg, LegSide::Callee, MediaPhase::Committed, vec![audio(callee)]);
        self.event(leg, CallEventKind::Answered);
    }

    pub fn hang_up(&mut self, leg: &LegRef) {
        let kind = CallEventKind::Ended { reason: EndReason::CallerHungUp, detail: "BYE".into() };
        self.event(leg, kind);
    }

    /// A stream appears; returns its slot.
    pub fn stream(&mut self, source: &str, destination: &str, ssrc: u32) -> u32 {
        self.stream_of(Domain::default(), source, destination, ssrc, 8)
    }

    pub fn stream_of(&mut self, domain: Domain, source: &str, destination: &str, ssrc: u32, payload_type: u8) -> u32 {
        let key = StreamKey { domain, source: address(source), destination: address(destination), ssrc };
        let slot = self.next_slot;
        self.next_slot += 1;
        let flow = FlowRef { queue: 0, slot, generation: 1 };
        let sighting = StreamSighting { flow, key, first_packet_at: self.now, payload_type };
        self.streams.insert(slot, (sighting, 0));
        self.sight(slot);
        slot
    }

    pub fn room(&mut self, has_room: bool) {
        let mut out = Vec::new();
        self.tracker.on_room(has_room, &mut out);
        self.obey(out);
    }

    pub fn sight(&mut self, slot: u32) {
        let Some((sighting, _)) = self.streams.get(&slot).copied() else { return };
        let mut out = Vec::new();
        self.tracker.on_sighting(&sighting, &mut out);
        self.obey(out);
    }

    pub fn gone(&mut self, slot: u32) {
        let Some((sighting, packets)) = self.streams.remove(&slot) else { return };
        self.tracks.remove(&slot);
        let gone = StreamGone {
            flow: sighting.flow,
            key: sighting.key,
            first_packet_at: sighting.first_packet_at,
            last_packet_at: self.now,
            packets,
        };
        let mut out = Vec::new();
        self.tracker.on_gone(&gone, &mut out);
        self.obey(out);
    }

    /// Time passes, without media.
    pub fn pass(&mut self, duration: Duration) {
        let end = self.now.saturating_add(duration);
        while self.now < end {
            self.now = self.now.saturating_add(Duration::from_millis(500)).min(end);
            let mut out = Vec::new();
            self.tracker.on_tick(self.now, &mut out);
            self.obey(out);
        }
    }

    /// Time passes, and these streams talk.
    pub fn talk(&mut self, slots: &[u32], seconds: u64) {
        for _ in 0..seconds {
            for slot in slots {
                let Some((sighting, packets)) = self.streams.get_mut(slot) else { continue };
                *packets += 50;
                let (key, last) = (sighting.key, self.now.saturating_add(Duration::from_millis(980)));
                if let Some((recording, track, format)) = self.tracks.get(slot).cloned() {
                    self.measure(recording, track, key, last, format.encrypted);
                }
            }
            self.pass(Duration::from_secs(1));
            let reports: Vec<_> = self.measured.keys().copied().filter(|key| !self.finished.contains(key)).collect();
            for (recording, track) in reports {
                self.report(recording, track, false);
            }
        }
    }

    fn measure(&mut self, recording: RecordingId, track: TrackId, key: StreamKey, last: CaptureTime, encrypted: bool) {
        let losses = self.losses;
        let measured = self.measured.entry((recording, track)).or_default();
        measured.first_audio_at.get_or_insert(last.saturating_sub(Duration::from_millis(980)));
        measured.audio_until = Some(last.saturating_add(Duration::from_millis(20)));
        measured.encrypted = encrypted;
        measured.decodable = !encrypted;
        measured.losses = losses;
        let ssrc = format!("0x{:08x}", key.ssrc);
        let (source, destination) = (key.source.to_string(), key.destination.to_string());
        let known = measured.streams.iter_mut().find(|s| s.ssrc == ssrc && s.source == source);
        if let Some(stream) = known {
            stream.packets += 50;
            stream.to = last;
        } else {
            measured.streams.push(Stream {
                domain: key.domain.to_string(),
                ssrc,
                source,
                destination,
                codec: "PCMA/8000".into(),
                from: last.saturating_sub(Duration::from_millis(980)),
                to: last,
                packets: 50,
                lost: 0,
                duplicates: 0,
                reordered: 0,
                late: 0,
                jitter_ms_mean: 0.0,
                jitter_ms_max: 0.0,
            });
        }
    }

    fn report(&mut self, recording: RecordingId, track: TrackId, is_final: bool) {
        let measured = self.measured.get(&(recording, track)).cloned().unwrap_or_default();
        let last_packet_at = measured.audio_until.unwrap_or(START);
        let mut out = Vec::new();
        self.tracker.on_report(&TrackReport { recording, track, last_packet_at, measured, is_final }, &mut out);
        self.obey(out);
    }

    pub fn finish_all(&mut self) {
        let mut out = Vec::new();
        self.tracker.finish_all(self.now, FinishAll::CaptureEnd, &mut out);
        self.obey(out);
        self.pass(Duration::from_secs(6));
    }

    /// The process stops and starts again: flow tables, encoders and decoders know nothing.
    pub fn restart(&mut self, config: TrackerConfig, down: Duration) {
        let mut out = Vec::new();
        self.tracker.suspend(self.now, &mut out);
        self.obey(out);
        self.kill(config, down, &[]);
    }

    /// The process is killed and starts again: it knows what was saved, and what the store holds of each recording.
    pub fn kill(&mut self, config: TrackerConfig, down: Duration, stored: &[StoredAudio]) {
        self.now = self.now.saturating_add(down);
        self.tracker = Tracker::new(config);
        self.tracks.clear();
        self.measured.clear();
        self.streams.clear();
        let documents: Vec<Arc<Recording>> =
            self.documents.values().filter(|d| d.state == RecordingState::Active).cloned().collect();
        for document in documents {
            let text = serde_json::to_string(&*document).unwrap();
            let resume = self.resumes[&document.id].json().to_owned();
            let mut out = Vec::new();
            let document: Recording = serde_json::from_str(&text).unwrap();
            let resume = SavedCall::from_json(resume.as_bytes()).unwrap();
            self.tracker.restore(&document, &resume, stored, self.now, &mut out).unwrap();
            self.obey(out);
        }
    }

    pub fn obey(&mut self, commands: Vec<Command>) {
        let mut finals = Vec::new();
        for command in commands {
            match command {
                Command::Record { flow, key, recording, track, format } => {
                    if let Some((sighting, _)) = self.streams.get(&flow.slot) {
                        assert_eq!(sighting.key, key);
                        if let Some((at, on, _)) = self.tracks.get(&flow.slot) {
                            assert_eq!((*at, *on), (recording, track), "moved to another track without Release");
                        }
                        self.tracks.insert(flow.slot, (recording, track, format));
                        self.measured.entry((recording, track)).or_default();
                    }
                    assert!(!self.closed.contains_key(&recording), "recorded into a closed recording");
                    self.history.push(format!("record {} {}", flow.slot, track.0));
                }
                Command::Release { flow } => {
                    self.tracks.remove(&flow.slot);
                    self.history.push(format!("release {}", flow.slot));
                }
                Command::Discard { flow, .. } => {
                    assert!(!self.tracks.contains_key(&flow.slot), "discarded what is recorded");
                    self.discarded.insert(flow.slot);
                    self.history.push(format!("discard {}", flow.slot));
                }
                Command::Expect { address } => self.expected.push(address),
                Command::Finish { recording, tracks, .. } => {
                    assert!(!self.tracks.values().any(|t| t.0 == recording), "finished while a stream is delivered");
                    for track in tracks {
                        assert!(self.finished.insert((recording, track)), "finished twice");
                        finals.push((recording, track));
                    }
                }
                Command::Save { recording, resume } => {
                    self.saves += 1;
                    let id = recording.id;
                    assert!(!self.closed.contains_key(&id), "saved after it was closed");
                    if recording.state == RecordingState::Active {
                        self.resumes.insert(id, resume.expect("an active recording can be gone on with"));
                    } else {
                        assert!(resume.is_none());
                        *self.closed.entry(id).or_default() += 1;
                    }
                    self.documents.insert(id, recording);
                }
                Command::NotRecorded { call_id, reason, .. } => self.not_recorded.push((call_id.to_string(), reason)),
            }
        }
        if !self.mute {
            for (recording, track) in finals {
                self.report(recording, track, true);
            }
        }
    }

    /// The only recording.
    pub fn recording(&self) -> &Recording {
        assert_eq!(self.documents.len(), 1, "recordings: {:#?}", self.documents);
        self.documents.values().next().unwrap()
    }

    pub fn recordings(&self) -> Vec<&Recording> {
        self.documents.values().map(|document| &**document).collect()
    }

    pub fn track_of(&self, slot: u32) -> Option<(RecordingId, u8)> {
        self.tracks.get(&slot).map(|(recording, track, _)| (*recording, track.0))
    }
}
