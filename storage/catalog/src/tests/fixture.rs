//! Recordings, facts and chunks for tests.

use crate::*;
use proptest::prelude::*;
use sidetone_log::{
    ChunkCodec, ChunkHeader, Fact, FactRecord, FactSequence, Located, LogPosition, Run, SegmentNumber, VolumeNumber,
};
use sidetone_model::*;
use std::collections::BTreeMap;
use std::sync::Arc;
use tempfile::TempDir;
use uuid::Uuid;

pub(super) const STATES: [RecordingState; 3] =
    [RecordingState::Active, RecordingState::Complete, RecordingState::Incomplete];

/// More cases than by default: `CATALOG_CASES=2000 cargo test …`.
pub(super) fn cases(default: u32) -> ProptestConfig {
    let cases = std::env::var("CATALOG_CASES").ok().and_then(|cases| cases.parse().ok());
    ProptestConfig { max_shrink_iters: 400, ..ProptestConfig::with_cases(cases.unwrap_or(default)) }
}

pub(super) fn id(number: u8) -> RecordingId {
    RecordingId(Uuid::from_u128(u128::from(number) + 1))
}

pub(super) fn recording(number: u8, time: u64, state: RecordingState, parties: &[(&str, &str)]) -> Recording {
    let parties = parties.iter().enumerate().map(|(id, (number, name))| Party {
        id: id as u8,
        role: if id == 0 { PartyRole::Caller } else { PartyRole::Callee },
        number: (*number).to_owned(),
        name: (*name).to_owned(),
        address: format!("192.0.2.{id}:5060"),
        joined_at: CaptureTime(time),
        left_at: None,
    });
    Recording {
        schema: SCHEMA_VERSION,
        id: id(number),
        node: NodeName("box-1".into()),
        conversation_id: ConversationId(Uuid::from_u128(9)),
        state,
        started_at: CaptureTime(time),
        answered_at: None,
        ended_at: None,
        duration_seconds: 1.5,
        end_reason: None,
        users: Vec::new(),
        gaps: Vec::new(),
        pauses: Vec::new(),
        legs: Vec::new(),
        parties: parties.collect(),
        tracks: Vec::new(),
        annotations: Annotations::default(),
        proof: None,
    }
}

pub(super) fn fact(sequence: u64, fact: Fact) -> FactRecord {
    FactRecord { sequence: FactSequence(sequence), fact }
}

pub(super) fn document(recording: &Recording) -> Fact {
    Fact::Recording { recording: Arc::new(recording.clone()), resume: None }
}

pub(super) fn tagged(recording: RecordingId, tags: &[(&str, &str)], hold: bool) -> Fact {
    let tags: BTreeMap<_, _> = tags.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let hold = hold.then(|| Hold { reason: "case 7".into(), by: "anna".into(), at: CaptureTime(77) });
    Fact::Annotations { recording, annotations: Annotations { tags, hold, retention: None } }
}

pub(super) fn position(offset: u64) -> LogPosition {
    LogPosition { file: 1 + (offset / 16) as u32, offset: offset % 16 * 64 }
}

pub(super) fn run(volume: u8, segment: u32, offset: u64, first_tick: u64) -> Run {
    Run {
        volume: VolumeNumber(volume),
        segment: SegmentNumber(segment),
        offset,
        length: 5000 + offset,
        index_offset: 4900 + offset,
        chunks: 3,
        payload_bytes: 4000,
        first_tick: Tick(first_tick),
        end_tick: Tick(first_tick + 150),
        root: MerkleRoot([volume ^ segment as u8 ^ offset as u8; 32]),
    }
}

pub(super) fn header(recording: RecordingId, track: u8, first_tick: u64, ticks: u16) -> ChunkHeader {
    ChunkHeader {
        recording,
        track: TrackId(track),
        first_tick: Tick(first_tick),
        ticks,
        packets: ticks,
        codec: ChunkCodec::OpusNarrowband,
        key_id: [0; 16],
        nonce: [0; 12],
        tag: [0; 16],
    }
}

pub(super) fn located(offset: u64) -> Located {
    Located { position: position(offset), length: 100 + offset as u32 }
}

pub(super) fn open() -> (TempDir, RocksCatalog) {
    let directory = tempfile::tempdir().unwrap();
    let catalog = RocksCatalog::open(&directory.path().join("catalog")).unwrap();
    (directory, catalog)
}

/// Facts, with sequences from `first` on, read from no journal.
pub(super) fn apply_facts(catalog: &dyn Catalog, first: u64, facts: impl IntoIterator<Item = Fact>) {
    let mut changes = Changes::default();
    for (sequence, of) in (first..).zip(facts) {
        changes.fact(fact(sequence, of), &[]);
    }
    catalog.apply(&changes, &[]).unwrap();
}

/// All pages of a query, one after the other.
pub(super) fn all_pages(catalog: &dyn Catalog, filter: &Filter, limit: usize) -> Vec<Recording> {
    let mut query = Query { filter: filter.clone(), cursor: None, limit };
    let mut found = Vec::new();
    for _ in 0..10_000 {
        let page = catalog.search(&query).unwrap();
        assert!(page.recordings.len() <= limit.clamp(1, PAGE_LIMIT_MAX));
        found.extend(page.recordings);
        match page.next {
            // Through its text, as a client would hand it back.
            Some(cursor) => query.cursor = Some(cursor.to_string().parse().unwrap()),
            None => return found,
        }
    }
    panic!("paging does not end");
}

pub(super) fn number() -> impl Strategy<Value = String> {
    // Few digits, so that parts of numbers meet.
    prop_oneof![
        3 => "\\+?[0-3]{0,6}",
        1 => "[0-3]{2}[- /][0-3]{2,4}",
        1 => "[aA][lL]ice",
        1 => Just(String::new())
    ]
}

pub(super) fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        2 => "(Anna|BOB|Zoë|Łukasz|İpek)[ -]?(Ohm|ohM|Ωμέγα)?",
        1 => Just(String::new()),
        1 => "[a-c]{50,70}",
    ]
}

fn option<T: Clone + std::fmt::Debug + 'static>(value: impl Strategy<Value = T> + 'static) -> BoxedStrategy<Option<T>> {
    proptest::option::of(value).boxed()
}

/// In this unit: fewer nanoseconds than a millisecond has, so that some are told apart by less.
pub(super) const TIME_UNIT_NANOS: u64 = 400_000;

/// A document with something in every field; `times` of the start are in [`TIME_UNIT_NANOS`].
pub(super) fn any_recording(numbers: std::ops::Range<u8>, times: std::ops::Range<u64>) -> BoxedStrategy<Recording> {
    let time = {
        let times = times.clone();
        move || prop_oneof![3 => times.clone().prop_map(CaptureTime), 1 => any::<u64>().prop_map(CaptureTime)]
    };
    let gap = (time(), option(time()), "[a-z ]{0,9}").prop_map(|(from, to, reason)| Gap { from, to, reason });
    let leg = (("sip|sccp", "[0-9a-f]{32}@pbx|[A-C]{2}"), (time(), option(time()), option(time())), 0usize..10);
    let leg = leg.prop_map(|((protocol, call_id), (started_at, answered_at, ended_at), reason)| Leg {
        protocol,
        call_id,
        from: "sip:1@192.0.2.1".into(),
        to: "sip:2@192.0.2.1".into(),
        started_at,
        answered_at,
        ended_at,
        end_reason: END_REASONS.get(reason).copied(),
    });
    let address = || "192\\.0\\.2\\.[1-5]:506[0-9]|\\[2001:db8::[1-3]\\]:5060|pbx";
    let party = ((0u8..4, any::<bool>(), number(), name()), address(), (time(), option(time())));
    let party = party.prop_map(|((id, is_caller, number, name), address, (joined_at, left_at))| Party {
        id,
        role: if is_caller { PartyRole::Caller } else { PartyRole::Callee },
        number,
        name,
        address,
        joined_at,
        left_at,
    });
    let stream = ((address(), address(), "PCM[AU]/8000|G722/8000|opus/48000"), (time(), time()), any::<[u16; 5]>());
    let stream = (stream, (any::<u32>(), 0.0f64..50.0)).prop_map(
        |(((source, destination, codec), (from, to), counts), (ssrc, jitter))| Stream {
            domain: if ssrc % 2 == 0 { String::new() } else { "vlan 100".into() },
            ssrc: format!("0x{ssrc:08x}"),
            source,
            destination,
            codec,
            from,
            to,
            packets: counts[0].into(),
            lost: u64::from(counts[1] % 100),
            duplicates: u64::from(counts[2] % 9),
            reordered: counts[3].into(),
            late: counts[4].into(),
            jitter_ms_mean: jitter,
            jitter_ms_max: jitter * 2.0,
        },
    );
    let seconds = || prop_oneof![2 => (0u64..500).prop_map(|ticks| ticks as f64 * 0.02), 1 => 0.0f64..1e6];
    let track = ((0u8..3, option(0u8..3), 0usize..3), any::<[bool; 2]>(), (seconds(), seconds(), seconds()));
    let track = (track, any::<[u16; 4]>(), proptest::collection::vec(stream, 0..3));
    let track = track.prop_map(|(((id, party, side), [encrypted, decodable], seconds), losses, streams)| Track {
        id: TrackId(id),
        party,
        side: [Side::Near, Side::Far, Side::Mixed][side],
        kind: TrackKind::Audio,
        encrypted,
        decodable,
        start_offset_seconds: seconds.0,
        duration_seconds: seconds.1,
        concealed_seconds: seconds.2,
        losses: Losses {
            network: losses[0].into(),
            capture: losses[1].into(),
            encoder: losses[2].into(),
            writer: losses[3].into(),
        },
        streams,
    });
    let head = (numbers, times, 0usize..3, option(time()), option(time()), 0usize..10, seconds());
    let lists = (
        proptest::collection::vec("[a-c]{1,3}", 0..3),
        proptest::collection::vec(gap, 0..2),
        proptest::collection::vec(leg, 0..3),
        proptest::collection::vec(party, 0..3),
        proptest::collection::vec(track, 0..3),
        any::<u128>(),
    );
    (head, lists)
        .prop_map(|((number, time, state, answered_at, ended_at, reason, duration_seconds), lists)| Recording {
            conversation_id: ConversationId(Uuid::from_u128(lists.5)),
            answered_at,
            ended_at,
            duration_seconds,
            end_reason: END_REASONS.get(reason).copied(),
            users: lists.0,
            pauses: lists.1.clone(),
            gaps: lists.1,
            legs: lists.2,
            parties: lists.3,
            tracks: lists.4,
            ..recording(number, time.saturating_mul(TIME_UNIT_NANOS), STATES[state], &[])
        })
        .boxed()
}

const END_REASONS: [EndReason; 9] = [
    EndReason::CallerHungUp,
    EndReason::CalleeHungUp,
    EndReason::Released,
    EndReason::Cancelled,
    EndReason::Failed,
    EndReason::SessionExpired,
    EndReason::MediaSilence,
    EndReason::Replaced,
    EndReason::CaptureEnd,
];

pub(super) fn any_annotations() -> impl Strategy<Value = Annotations> {
    let tags = proptest::collection::btree_map("[ab]|case|\u{0}", "[0-2]|\u{0}x|", 0..3);
    let hold = option(("[a-z]{0,5}", any::<u64>()));
    let retention = option(("[a-z]{1,5}", option(any::<u64>())));
    (tags, hold, retention).prop_map(|(tags, hold, retention)| Annotations {
        tags,
        hold: hold.map(|(reason, at)| Hold { reason, by: "anna".into(), at: CaptureTime(at) }),
        retention: retention.map(|(class, at)| Retention { class, expires_at: at.map(CaptureTime) }),
    })
}
