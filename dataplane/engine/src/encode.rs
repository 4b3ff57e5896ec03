//! The encoder thread: packets of claimed streams in, chunks out. All streams of a recording come to one encoder.
//!
//! Driven by its rings alone: receive threads say what time it is, so live capture and replay run the same code. A track
//! that breaks an invariant of ours is dropped and counted; the others go on.

use crate::counters::{EncoderCounters, PacketEnd, PacketSums};
use crate::message::{FinishTracks, OpenStream, kind};
use crate::ring::{MessageConsumer, MessageHeader, MessageProducer};
use sidetone_calls::{MeasuredTrack, TrackReport};
use sidetone_log::ChunkHeader;
use sidetone_media::{ChunkSink, StreamSlot, Track, TrackAccounting, TrackConfig};
use sidetone_model::{CaptureTime, RecordingId, StreamKey, Tick, TrackId};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

/// A finished track waits so long for packets that other receive queues still hold.
const FINISH_DELAY: Duration = Duration::from_millis(200);
/// Tracks encode what is due this often, and when the time of a cut has come: several frames of one stream at a go keep the encoder's state in cache.
const TRACK_INTERVAL: Duration = Duration::from_millis(100);
/// A track in use tells the tracker what it measured this often.
const REPORT_INTERVAL: Duration = Duration::from_secs(2);

/// A track that is silent tells so as often.
const REPORTS_AFTER_LAST_PACKET: u8 = 4;
/// Tracks that are over are remembered, so that a command that was under way does not begin them anew.
const FINISHED_REMEMBERED: usize = 1024;

/// The way to the writer thread: headers beside a ring of payloads.
pub(crate) struct ChunkLink {
    pub(crate) payloads: MessageProducer,
    pub(crate) headers: rtrb::Producer<ChunkHeader>,
    counters: Arc<EncoderCounters>,
}

impl ChunkLink {
    pub(crate) fn new(
        payloads: MessageProducer,
        headers: rtrb::Producer<ChunkHeader>,
        counters: Arc<EncoderCounters>,
    ) -> Self {
        Self { payloads, headers, counters }
    }
}

impl ChunkSink for ChunkLink {
    fn chunk(&mut self, header: &ChunkHeader, payload: &[u8]) -> bool {
        if self.headers.is_full() || !self.payloads.push(MessageHeader::default(), payload) {
            return false;
        }
        let pushed = self.headers.push(*header);
        assert!(pushed.is_ok(), "only this thread fills the ring, and the room was just seen");
        self.counters.chunks.add(1);
        true
    }
}

/// The ends of the rings that an encoder thread holds.
pub(crate) struct EncoderRings {
    /// Per receive thread: packets, and the streams that they open.
    pub(crate) receivers: Vec<(MessageConsumer, rtrb::Consumer<OpenStream>)>,
    pub(crate) finish: rtrb::Consumer<FinishTracks>,
    pub(crate) reports: rtrb::Producer<TrackReport>,
    pub(crate) chunks: ChunkLink,
}

struct TrackSlot {
    track: Track,
    streams: Vec<(StreamKey, StreamSlot)>,
    stream_ids: Vec<u32>,
    last_packet_at: CaptureTime,
    last_report: CaptureTime,
    /// Reports still to come after the last packet: also that nothing comes any more is told.
    reports_left: u8,
}

pub(crate) struct Encoder {
    rings: EncoderRings,
    config: TrackConfig,
    counters: Arc<EncoderCounters>,
    /// Boxed: a track is large, and the nodes of a tree are half empty.
    tracks: BTreeMap<(RecordingId, TrackId), Box<TrackSlot>>,
    streams: HashMap<u32, ((RecordingId, TrackId), StreamSlot), foldhash::fast::RandomState>,
    /// How far each receive thread's time has come.
    clocks: Vec<CaptureTime>,
    finishing: VecDeque<FinishTracks>,
    finished: VecDeque<(RecordingId, TrackId)>,
    /// The last word of tracks that broke an invariant, until their recording is over.
    broken: BTreeMap<(RecordingId, TrackId), TrackReport>,
    final_reports: VecDeque<TrackReport>,
    /// Sums over tracks that are gone; the counters show these plus the living.
    past: PacketSums,
    last_round: CaptureTime,
    /// The cut at which chunks were sealed last.
    last_cut: Tick,
    scratch: Vec<u8>,
}

impl Encoder {
    pub(crate) fn new(rings: EncoderRings, config: TrackConfig, counters: Arc<EncoderCounters>) -> Self {
        let receivers = rings.receivers.len();
        Self {
            rings,
            config,
            counters,
            tracks: BTreeMap::new(),
            streams: HashMap::default(),
            clocks: vec![CaptureTime::ZERO; receivers],
            finishing: VecDeque::new(),
            finished: VecDeque::new(),
            broken: BTreeMap::new(),
            final_reports: VecDeque::new(),
            past: PacketSums::default(),
            last_round: CaptureTime::ZERO,
            last_cut: Tick::default(),
            scratch: Vec::with_capacity(64 * 1024),
        }
    }

    /// Takes what has come, encodes what is due. True when there was anything to do.
    pub(crate) fn step(&mut self) -> bool {
        let mut busy = false;
        for receiver in 0..self.rings.receivers.len() {
            busy |= self.drain(receiver);
        }
        while let Ok(finish) = self.rings.finish.pop() {
            self.finishing.push_back(finish);
            busy = true;
        }
        let now = self.now();
        let cut = self.config.cut_at(now);
        if now.since(self.last_round) >= TRACK_INTERVAL || now < self.last_round || cut != self.last_cut {
            (self.last_round, self.last_cut) = (now, cut);
            self.round(now);
        }
        self.finish_due(now);
        self.send_final_reports();
        busy
    }

    /// The time up to which every receive thread has delivered.
    fn now(&self) -> CaptureTime {
        self.clocks.iter().copied().min().unwrap_or_default()
    }

    fn drain(&mut self, receiver: usize) -> bool {
        let mut busy = false;
        // Bounded, so that one flooded queue cannot starve the others.
        for _ in 0..4096 {
            let Some(header) = self.rings.receivers[receiver].0.pop(&mut self.scratch) else { break };
            busy = true;
            match header.kind {
                kind::PACKET => self.on_packet(header),
                kind::TICK => self.clocks[receiver] = header.time,
                kind::OPEN => {
                    let open = self.rings.receivers[receiver].1.pop();
                    self.open(&open.expect("a stream is put into its ring before its marker"));
                }
                other => unreachable!("receive threads send no message of kind {other}"),
            }
        }
        busy
    }

    fn on_packet(&mut self, header: MessageHeader) {
        let lost_before = header.count;
        let Some((id, slot)) = self.streams.get(&header.index).copied() else {
            self.counters.after_end.add(u64::from(!self.scratch.is_empty()));
            return;
        };
        let track = self.tracks.get_mut(&id).expect("a stream is removed with its track");
        track.last_packet_at = track.last_packet_at.max(header.time);
        track.reports_left = REPORTS_AFTER_LAST_PACKET;
        let (rtp, sink) = (&self.scratch, &mut self.rings.chunks);
        let counted = !rtp.is_empty();
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            if lost_before > 0 {
                track.track.on_lost_before(slot, lost_before);
            }
            if counted {
                track.track.on_packet(slot, header.time, rtp, sink);
            }
        }));
        if outcome.is_err() {
            self.drop_broken(id);
        }
    }

    fn open(&mut self, open: &OpenStream) {
        let id = (open.recording, open.track);
        if let Some((known, slot)) = self.streams.get(&open.stream).copied()
            && known == id
        {
            if let Some(track) = self.tracks.get_mut(&id) {
                track.track.set_format(slot, &open.format);
            }
            return;
        }
        if self.finished.contains(&id) || self.broken.contains_key(&id) {
            // Its packets count as `after_end`.
            return;
        }
        if !self.tracks.contains_key(&id) {
            match Track::new(open.recording, open.track, &self.config) {
                Ok(track) => {
                    self.tracks.insert(
                        id,
                        Box::new(TrackSlot {
                            track,
                            streams: Vec::new(),
                            stream_ids: Vec::new(),
                            last_packet_at: CaptureTime::ZERO,
                            last_report: CaptureTime::ZERO,
                            reports_left: 0,
                        }),
                    );
                    self.counters.tracks.set(self.tracks.len() as u64);
                }
                Err(error) => {
                    tracing::error!(recording = %open.recording, %error, "no encoder for a track: its audio is lost");
                    let mut measured = MeasuredTrack::default();
                    measured.losses.encoder = 1;
                    let report = TrackReport {
                        recording: open.recording,
                        track: open.track,
                        last_packet_at: CaptureTime::ZERO,
                        measured,
                        is_final: true,
                    };
                    self.broken.insert(id, report);
                    return;
                }
            }
        }
        let track = self.tracks.get_mut(&id).expect("it was just inserted");
        let slot = match track.streams.iter().find(|(key, _)| *key == open.key) {
            // The same stream, claimed again after a pause.
            Some((_, slot)) => {
                track.track.set_format(*slot, &open.format);
                *slot
            }
            None => {
                let slot = track.track.open_stream(&open.key, &open.format);
                track.streams.push((open.key, slot));
                slot
            }
        };
        track.stream_ids.push(open.stream);
        self.streams.insert(open.stream, (id, slot));
    }

    /// Lets every track encode what is due, and tell what it measured.
    fn round(&mut self, now: CaptureTime) {
        let mut broken = Vec::new();
        for (id, slot) in &mut self.tracks {
            let sink = &mut self.rings.chunks;
            if catch_unwind(AssertUnwindSafe(|| slot.track.on_tick(now, sink))).is_err() {
                broken.push(*id);
                continue;
            }
            let due = now.since(slot.last_report) >= REPORT_INTERVAL || now < slot.last_report;
            if slot.reports_left > 0 && due && !self.rings.reports.is_full() {
                slot.last_report = now;
                slot.reports_left -= 1;
                let _sent = self.rings.reports.push(report(*id, slot, false));
            }
        }
        for id in broken {
            self.drop_broken(id);
        }
        self.publish_accounting();
    }

    /// Finishes the tracks whose end every receive thread has passed.
    fn finish_due(&mut self, now: CaptureTime) {
        let before = self.finishing.len();
        for _ in 0..before {
            let Some(finish) = self.finishing.pop_front() else { break };
            if now < finish.at.max(finish.issued_at).saturating_add(FINISH_DELAY) {
                self.finishing.push_back(finish);
                continue;
            }
            self.finish(&finish);
        }
        if self.finishing.len() != before {
            self.publish_accounting();
        }
    }

    fn finish(&mut self, finish: &FinishTracks) {
        for track_id in &finish.tracks {
            let id = (finish.recording, *track_id);
            if self.finished.len() == FINISHED_REMEMBERED {
                self.finished.pop_front();
            }
            self.finished.push_back(id);
            if let Some(report) = self.broken.remove(&id) {
                self.final_reports.push_back(report);
                continue;
            }
            let Some(slot) = self.tracks.get_mut(&id) else {
                // Nothing was ever delivered to this track; the tracker must hear that it is over all the same.
                self.final_reports.push_back(TrackReport {
                    recording: finish.recording,
                    track: *track_id,
                    last_packet_at: CaptureTime::ZERO,
                    measured: Default::default(),
                    is_final: true,
                });
                continue;
            };
            let sink = &mut self.rings.chunks;
            if catch_unwind(AssertUnwindSafe(|| slot.track.finish(finish.at, sink))).is_err() {
                self.drop_broken(id);
                self.final_reports.extend(self.broken.remove(&id));
                continue;
            }
            self.final_reports.push_back(report(id, slot, true));
            self.remove(id);
        }
    }

    /// Everything that waits becomes audio now: the process stops, the recordings go on in the next one.
    pub(crate) fn flush_all(&mut self) {
        while self.step() {}
        let now = self.now();
        let ids: Vec<_> = self.tracks.keys().copied().collect();
        for id in ids {
            let slot = self.tracks.get_mut(&id).expect("the keys were just taken");
            let end = now.max(slot.last_packet_at);
            let sink = &mut self.rings.chunks;
            if catch_unwind(AssertUnwindSafe(|| slot.track.finish(end, sink))).is_err() {
                self.drop_broken(id);
                continue;
            }
            self.final_reports.push_back(TrackReport { is_final: false, ..report(id, slot, false) });
        }
        self.send_final_reports();
        self.publish_accounting();
    }

    fn send_final_reports(&mut self) {
        while let Some(report) = self.final_reports.pop_front() {
            if let Err(rtrb::PushError::Full(report)) = self.rings.reports.push(report) {
                self.final_reports.push_front(report);
                return;
            }
        }
    }

    fn remove(&mut self, id: (RecordingId, TrackId)) {
        let Some(slot) = self.tracks.remove(&id) else { return };
        for stream in &slot.stream_ids {
            self.streams.remove(stream);
        }
        // What the track never came to decide (it broke an invariant) ends as the encoder's loss.
        let accounting = slot.track.accounting();
        add(&mut self.past, &accounting);
        self.past.ends[PacketEnd::LostToEncoder as usize] += accounting.pending;
        self.counters.tracks.set(self.tracks.len() as u64);
    }

    /// A track asserted. What it measured until then stands; its later packets count as `after_end`.
    fn drop_broken(&mut self, id: (RecordingId, TrackId)) {
        self.counters.panics.add(1);
        tracing::error!(recording = %id.0, track = id.1.0, "a track broke an invariant and was dropped; others go on");
        if let Some(slot) = self.tracks.get(&id) {
            let mut report = report(id, slot, true);
            // The packet that it broke on is lost at least; the recording must not pass for whole.
            report.measured.losses.encoder += 1;
            self.broken.insert(id, report);
        }
        self.remove(id);
    }

    fn publish_accounting(&self) {
        let mut sums = self.past;
        let mut waiting = 0;
        for slot in self.tracks.values() {
            let accounting = slot.track.accounting();
            add(&mut sums, &accounting);
            waiting += accounting.pending;
        }
        self.counters.publish(&sums, waiting);
    }

    /// Nothing is on its way to or from this thread.
    pub(crate) fn is_idle(&self) -> bool {
        self.finishing.is_empty()
            && self.final_reports.is_empty()
            && self.rings.finish.is_empty()
            && self.rings.receivers.iter().all(|(messages, _)| messages.is_empty())
    }
}

fn report(id: (RecordingId, TrackId), slot: &TrackSlot, is_final: bool) -> TrackReport {
    TrackReport {
        recording: id.0,
        track: id.1,
        last_packet_at: slot.last_packet_at,
        measured: slot.track.measured(),
        is_final,
    }
}

/// Adds a track's packets by what became of them. What its ring lost before the encoder is counted by the receive thread.
fn add(sums: &mut PacketSums, track: &TrackAccounting) {
    sums.cut_short += track.cut_short;
    for (sum, end) in sums.ends.iter_mut().zip(PacketEnd::ALL) {
        *sum += match end {
            PacketEnd::Encoded => track.encoded,
            PacketEnd::Duplicate => track.duplicates,
            PacketEnd::Late => track.late,
            PacketEnd::NoAudio => track.no_audio,
            PacketEnd::Undecodable => track.undecodable + track.not_rtp,
            PacketEnd::Overlapped => track.overlapped,
            PacketEnd::Stray => track.strays,
            PacketEnd::BeyondStreamLimit => track.beyond_stream_limit,
            PacketEnd::AfterEnd => 0,
            PacketEnd::LostToEncoder => track.failed,
            PacketEnd::LostToWriter => track.lost_to_writer,
        };
    }
}
