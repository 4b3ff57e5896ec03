//! Calls as the engine gives them to the store, made from numbers: two tracks each, all chunks end at common cuts, documents
//! with the call tracker's state when a call begins, every ten seconds, and when it is over.
//!
//! Constraints: the same numbers give the same identifiers and documents. Documents are as long as those that the call tracker
//! writes for a plain SIP call (3.8 KB with its state, 2.2 KB without).

use serde_json::json;
use sidetone_log::{ChunkCodec, ChunkHeader, ChunkPayload, Fact};
use sidetone_model::{
    Annotations, CaptureTime, ConversationId, EndReason, Leg, Losses, NodeName, Party, PartyRole, Recording,
    RecordingId, RecordingState, SCHEMA_VERSION, SavedCall, Seed, Side, Stream, Tick, Track, TrackId, TrackKind,
};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// Grid steps from one cut to the next, with a flush interval of a second: 0.7 s.
pub(crate) const CUT_TICKS: u64 = 35;
pub(crate) const CUT: Duration = Duration::from_millis(20 * CUT_TICKS);
/// How long a call is, and the audio of one track between two cuts, where a benchmark has no reason for others.
pub(crate) const CALL_LENGTH: Duration = Duration::from_secs(180);
pub(crate) const PAYLOAD_BYTES: usize = 1400;
const TRACKS: u8 = 2;
/// The call tracker saves a recording that goes on every 12 s.
const SAVE_CUTS: u64 = 17;
const SEED: Seed = Seed([7; 16]);

/// So many calls at a time, each of the same length; when one is over, the next begins in its place.
pub(crate) struct Calls {
    places: Vec<Call>,
    length_cuts: u64,
    payloads: Arc<Payloads>,
    next_number: u64,
}

#[derive(Clone, Copy)]
struct Call {
    number: u64,
    id: RecordingId,
    /// The cut at which it begins.
    began: Tick,
}

impl Calls {
    /// Calls that begin one after the other, evenly, from the cut `first` on.
    pub(crate) fn beginning(count: usize, length: Duration, first: Tick, payloads: &Arc<Payloads>) -> Self {
        Self::new(count, length, payloads, |offset| Tick(first.0 + offset))
    }

    /// Calls that are under way at the cut `now`, each for another time.
    pub(crate) fn under_way(count: usize, length: Duration, now: Tick, payloads: &Arc<Payloads>) -> Self {
        Self::new(count, length, payloads, |offset| Tick(now.0 - offset))
    }

    /// Calls that begin together at the cut `now`.
    pub(crate) fn together(count: usize, length: Duration, now: Tick, payloads: &Arc<Payloads>) -> Self {
        Self::new(count, length, payloads, |_offset| now)
    }

    fn new(count: usize, length: Duration, payloads: &Arc<Payloads>, began: impl Fn(u64) -> Tick) -> Self {
        let length_cuts = (length.as_millis() / CUT.as_millis()) as u64;
        let place = |place: u64| Call::new(place, began(place * length_cuts / count as u64 * CUT_TICKS));
        let places = (0..count as u64).map(place).collect();
        Self { places, length_cuts, payloads: Arc::clone(payloads), next_number: count as u64 }
    }

    pub(crate) fn len(&self) -> usize {
        self.places.len()
    }

    /// The audio that ends at a cut, of some of the places.
    pub(crate) fn chunks(&self, places: Range<usize>, cut: Tick) -> impl Iterator<Item = (ChunkHeader, &[u8])> {
        let heard = self.places[places].iter().filter(move |call| call.began < cut);
        let chunks = heard.flat_map(|call| (0..TRACKS).map(move |track| (call, TrackId(track))));
        chunks.map(move |(call, track)| {
            let first_tick = Tick(cut.0 - CUT_TICKS);
            let payload = self.payloads.get(call.number * 7919 + u64::from(track.0) * 31 + cut.0 / CUT_TICKS);
            (chunk_header(call.id, track, first_tick), payload)
        })
    }

    /// What is told at a cut, behind its audio. Calls that are over are replaced.
    pub(crate) fn facts(&mut self, places: Range<usize>, cut: Tick) -> Vec<Fact> {
        let mut facts = Vec::new();
        for call in &mut self.places[places] {
            if cut < call.began {
                continue;
            }
            let cuts = (cut.0 - call.began.0) / CUT_TICKS;
            if cuts >= self.length_cuts {
                facts.push(call.fact(cut, RecordingState::Complete));
                *call = Call::new(self.next_number, cut);
                self.next_number += 1;
                facts.push(call.fact(cut, RecordingState::Active));
            } else if cuts.is_multiple_of(SAVE_CUTS) {
                facts.push(call.fact(cut, RecordingState::Active));
            }
        }
        facts
    }

    /// The document of every call as it stands at a cut.
    pub(crate) fn facts_of_all(&self, cut: Tick) -> Vec<Fact> {
        let begun = self.places.iter().filter(|call| call.began <= cut);
        begun.map(|call| call.fact(cut, RecordingState::Active)).collect()
    }

    /// Ends every call that has begun; none follows.
    pub(crate) fn end_all(self, cut: Tick) -> Vec<Fact> {
        let begun = self.places.iter().filter(|call| call.began < cut);
        begun.map(|call| call.fact(cut, RecordingState::Complete)).collect()
    }
}

impl Call {
    fn new(number: u64, began: Tick) -> Self {
        Self { number, id: RecordingId::derive(SEED, began.start(), &format!("call {number}")), began }
    }

    fn fact(&self, until: Tick, state: RecordingState) -> Fact {
        let resume = (state == RecordingState::Active).then(|| self.resume(until));
        Fact::Recording { recording: Arc::new(self.document(until, state)), resume }
    }

    fn document(&self, until: Tick, state: RecordingState) -> Recording {
        let mut document = document(self.number, self.id, self.began.start(), until.start(), state);
        let ticks = until.0 - self.began.0;
        let heard = ticks > 0;
        document.tracks = if heard { (0..TRACKS).map(|id| self.track(id, until, ticks)).collect() } else { Vec::new() };
        document.duration_seconds = ticks as f64 * 0.02;
        document
    }

    fn track(&self, id: u8, until: Tick, ticks: u64) -> Track {
        let (source, destination) = (media_address(self.number, id), media_address(self.number, 1 - id));
        Track {
            id: TrackId(id),
            party: Some(id),
            side: if id == 0 { Side::Near } else { Side::Far },
            kind: TrackKind::Audio,
            encrypted: false,
            decodable: true,
            start_offset_seconds: 0.0,
            duration_seconds: ticks as f64 * 0.02,
            concealed_seconds: 0.0,
            losses: Losses::default(),
            streams: vec![Stream {
                domain: String::new(),
                ssrc: format!("{:#010x}", (self.number as u32).wrapping_mul(2_654_435_761) ^ u32::from(id)),
                source,
                destination,
                codec: "PCMA/8000".into(),
                from: self.began.start(),
                to: until.start(),
                packets: ticks,
                lost: 0,
                duplicates: 0,
                reordered: 0,
                late: 0,
                jitter_ms_mean: 0.19 + (self.number % 1000) as f64 * 1.234_567e-5,
                jitter_ms_max: 0.3 + (until.0 % 1000) as f64 * 3.456_789e-5,
            }],
        }
    }

    /// The call tracker's state.
    fn resume(&self, until: Tick) -> SavedCall {
        let number = self.number;
        let format = |payload_type: u8, encoding: &str, parameters: &str| {
            json!({"channels": 1, "clock_rate": 8000, "encoding": encoding, "parameters": parameters,
                "payload_type": payload_type})
        };
        let side = |id: u8| {
            let formats = [format(8, "PCMA", ""), format(0, "PCMU", ""), format(101, "telephone-event", "0-15")];
            let address = media_address(number, id);
            json!({"committed": [{"address": address, "candidates": [], "direction": "sendrecv",
                "formats": formats, "kind": "audio", "label": "", "ptime_ms": 20, "rtcp": address, "security": "None"}],
                "preview": []})
        };
        let identity = |id: u8| {
            let party = party(number, id, self.began.start(), None);
            json!({"address": party.address, "name": party.name, "number": party.number})
        };
        let leg = leg(number, self.began.start(), None);
        let reference = json!({"attempt": format!("{number:08x}"), "call_id": leg.call_id, "protocol": "sip",
            "domain": {"network": 0, "vlan_inner": 0, "vlan_outer": 0}});
        let track = |id: u8| json!({"audio_until": until.start(), "first_audio_at": self.began.start(), "id": id});
        let saved = json!({"legs": [{"callee": identity(1), "caller": identity(0), "document": leg, "expires_at": null,
            "flipped": false, "in_progress": false, "reference": reference, "replaced": false,
            "sides": [side(0), side(1)]}], "orphan": null, "tracks": [track(0), track(1)], "version": 1});
        SavedCall::of(&saved).expect("JSON already")
    }
}

/// What is told of a call of three minutes when it is over.
pub(crate) fn finished(number: u64, began: Tick) -> Fact {
    const TICKS: u64 = 180 * 50;
    Call::new(number, began).fact(Tick(began.0 + TICKS), RecordingState::Complete)
}

/// Without tracks.
fn document(number: u64, id: RecordingId, began: CaptureTime, until: CaptureTime, state: RecordingState) -> Recording {
    let ended_at = (state != RecordingState::Active).then_some(until);
    Recording {
        schema: SCHEMA_VERSION,
        id,
        node: NodeName("perf".into()),
        conversation_id: ConversationId::derive(SEED, began, &number.to_string()),
        state,
        started_at: began,
        answered_at: Some(began),
        ended_at,
        duration_seconds: 0.0,
        end_reason: ended_at.map(|_| EndReason::CallerHungUp),
        users: Vec::new(),
        gaps: Vec::new(),
        pauses: Vec::new(),
        legs: vec![leg(number, began, ended_at)],
        parties: (0..TRACKS).map(|id| party(number, id, began, ended_at)).collect(),
        tracks: Vec::new(),
        annotations: Annotations::default(),
        proof: None,
    }
}

fn leg(number: u64, began: CaptureTime, ended_at: Option<CaptureTime>) -> Leg {
    Leg {
        protocol: "sip".into(),
        call_id: format!("{:016x}-{number}@perf.invalid", number.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
        from: format!("sip:{}@10.64.{}.{}", 2000 + number % 8000, number >> 8 & 255, number & 255),
        to: format!("sip:+4930{:07}@10.128.{}.{}", number % 10_000_000, number >> 8 & 255, number & 255),
        started_at: began,
        answered_at: Some(began),
        ended_at,
        end_reason: ended_at.map(|_| EndReason::CallerHungUp),
    }
}

fn party(number: u64, id: u8, began: CaptureTime, left_at: Option<CaptureTime>) -> Party {
    let is_caller = id == 0;
    Party {
        id,
        role: if is_caller { PartyRole::Caller } else { PartyRole::Callee },
        number: if is_caller {
            (2000 + number % 8000).to_string()
        } else {
            format!("+4930{:07}", number.wrapping_mul(48_271) % 10_000_000)
        },
        name: if is_caller { format!("Agent {}", number % 8000) } else { format!("Customer {number}") },
        address: format!("10.{}.{}.{}:5060", 64 + u64::from(id) * 64, number >> 8 & 255, number & 255),
        joined_at: began,
        left_at,
    }
}

fn media_address(number: u64, id: u8) -> String {
    format!("10.{}.{}.{}:{}", 64 + u64::from(id) * 64, number >> 8 & 255, number & 255, 20_000 + number * 2 % 40_000)
}

fn chunk_header(recording: RecordingId, track: TrackId, first_tick: Tick) -> ChunkHeader {
    ChunkHeader {
        recording,
        track,
        first_tick,
        ticks: CUT_TICKS as u16,
        packets: CUT_TICKS as u16,
        codec: ChunkCodec::OpusNarrowband,
        key_id: [0; 16],
        nonce: [0; 12],
        tag: [0; 16],
    }
}

/// Payloads of chunks, a thousand different ones.
pub(crate) struct Payloads(Vec<Vec<u8>>);

const PAYLOADS: usize = 1000;
/// Table of contents (RFC 6716 §3.1) of a SILK narrowband frame of 20 ms, mono, one to the packet.
const TOC: u8 = 0x08;

impl Payloads {
    /// Packets of random bytes, which nothing can compress: `bytes` to the chunk on average, packets of different lengths.
    pub(crate) fn random(bytes: usize) -> Arc<Self> {
        let mut random = Random(0x51de_7013);
        let packets_bytes = bytes as u64 - 2 * CUT_TICKS;
        let (mean, rest) = (packets_bytes / CUT_TICKS, packets_bytes % CUT_TICKS);
        let chunk = |_| {
            let mut payload = ChunkPayload::default();
            for _ in 0..CUT_TICKS {
                let one_more = u64::from(random.next() % CUT_TICKS < rest);
                let length = mean / 2 + random.next() % (mean + 1) + one_more;
                let mut packet: Vec<u8> = (0..length).map(|_| random.next() as u8).collect();
                packet[0] = TOC;
                payload.push(&packet);
            }
            payload.0
        };
        Arc::new(Self((0..PAYLOADS).map(chunk).collect()))
    }

    /// These packets, over and over.
    pub(crate) fn of_packets(packets: &[Vec<u8>]) -> Arc<Self> {
        let mut packets = packets.iter().cycle();
        let chunk = |_| {
            let mut payload = ChunkPayload::default();
            packets.by_ref().take(CUT_TICKS as usize).for_each(|packet| payload.push(packet));
            payload.0
        };
        Arc::new(Self((0..PAYLOADS).map(chunk).collect()))
    }

    fn get(&self, index: u64) -> &[u8] {
        &self.0[index as usize % PAYLOADS]
    }

    pub(crate) fn bytes_mean(&self) -> f64 {
        self.0.iter().map(Vec::len).sum::<usize>() as f64 / PAYLOADS as f64
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}
