//! The catalog against a naive one in memory.

use crate::*;
use proptest::prelude::*;
use sidetone_log::{ChunkCodec, ChunkHeader, Fact, Located, LogPosition};
use sidetone_model::{
    CaptureTime, ConversationId, NodeName, Party, PartyRole, Recording, RecordingId, RecordingState, SCHEMA_VERSION,
    Tick, TrackId,
};
use std::collections::BTreeMap;
use std::sync::Arc;
use tempfile::TempDir;
use uuid::Uuid;

const STATES: [RecordingState; 3] = [RecordingState::Active, RecordingState::Complete, RecordingState::Incomplete];

fn recording(number: u8, time: u64, state: RecordingState, parties: &[(String, String)]) -> Recording {
    let parties = parties.iter().enumerate().map(|(id, (number, name))| Party {
        id: id as u8,
        role: if id == 0 { PartyRole::Caller } else { PartyRole::Callee },
        number: number.clone(),
        name: name.clone(),
        address: "192.0.2.1:5060".into(),
        joined_at: CaptureTime(time),
        left_at: None,
    });
    Recording {
        schema: SCHEMA_VERSION,
        id: RecordingId(Uuid::from_u128(u128::from(number) + 1)),
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
    }
}

fn fact(recording: &Recording, resume: Option<u64>) -> Fact {
    Fact::Recording { recording: Arc::new(recording.clone()), resume: resume.map(serde_json::Value::from) }
}

fn open() -> (TempDir, RocksCatalog) {
    let directory = tempfile::tempdir().unwrap();
    let catalog = RocksCatalog::open(&directory.path().join("catalog")).unwrap();
    (directory, catalog)
}

fn apply(catalog: &RocksCatalog, facts: &[Fact]) {
    let mut changes = Changes::default();
    facts.iter().for_each(|fact| changes.fact(fact));
    catalog.apply(&changes, LogPosition { file: 1, offset: 4096 }).unwrap();
}

/// The naive catalog: every document, looked at one by one.
fn naive_search(all: &BTreeMap<RecordingId, Recording>, query: &RecordingQuery) -> Vec<Recording> {
    let part = query.party.as_deref().map(|party| party.trim().to_lowercase()).filter(|party| !party.is_empty());
    let mut found: Vec<Recording> =
        all.values()
            .filter(|recording| query.from.is_none_or(|from| recording.started_at >= from))
            .filter(|recording| query.to.is_none_or(|to| recording.started_at < to))
            .filter(|recording| query.state.is_none_or(|state| recording.state == state))
            .filter(|recording| {
                part.as_ref().is_none_or(|part| {
                    recording.parties.iter().any(|party| {
                        party.number.to_lowercase().contains(part) || party.name.to_lowercase().contains(part)
                    })
                })
            })
            .cloned()
            .collect();
    found.sort_by_key(|recording| std::cmp::Reverse((recording.started_at, recording.id)));
    found
}

/// All pages of a query, one after the other.
fn all_pages(catalog: &RocksCatalog, query: &RecordingQuery) -> Vec<Recording> {
    let mut query = query.clone();
    let mut found = Vec::new();
    for _ in 0..10_000 {
        let page = catalog.search(&query).unwrap();
        assert!(page.recordings.len() <= query.limit.clamp(1, PAGE_LIMIT_MAX));
        found.extend(page.recordings);
        match page.next {
            // Through its text, as a client would hand it back.
            Some(cursor) => query.cursor = Some(cursor.to_string().parse().unwrap()),
            None => return found,
        }
    }
    panic!("paging does not end");
}

fn number() -> impl Strategy<Value = String> {
    // Few digits, so that parts of numbers meet.
    prop_oneof![3 => "\\+?[0-3]{0,6}", 1 => "[aA][lL]ice", 1 => Just(String::new())]
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        2 => "(Anna|BOB|Zoë|Łukasz|İpek) ?(Ohm|ohM|Ωμέγα)?",
        1 => Just(String::new()),
        1 => "[a-c]{30,60}",
    ]
}

#[derive(Clone, Debug)]
struct Document {
    number: u8,
    time: u64,
    state: usize,
    parties: Vec<(String, String)>,
}

fn documents() -> impl Strategy<Value = Vec<Document>> {
    let document = (0u8..30, 0u64..12, 0usize..3, proptest::collection::vec((number(), name()), 0..3))
        .prop_map(|(number, time, state, parties)| Document { number, time, state, parties });
    proptest::collection::vec(document, 0..60)
}

fn queries() -> impl Strategy<Value = Vec<RecordingQuery>> {
    let party = prop_oneof![
        2 => Just(None),
        4 => "[0-3]{1,4}".prop_map(Some),
        1 => number().prop_map(Some),
        1 => "( |ohm|Anna|łu|ZO|i̇|ωμ|a|[a-c]{33,40})".prop_map(Some),
    ];
    let time = || proptest::option::of((0u64..13).prop_map(CaptureTime));
    let query = (time(), time(), party, proptest::option::of((0usize..3).prop_map(|index| STATES[index])), 0usize..9)
        .prop_map(|(from, to, party, state, limit)| RecordingQuery { from, to, party, state, cursor: None, limit });
    proptest::collection::vec(query, 1..12)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn search_finds_what_looking_at_everything_finds(
        documents in documents(), queries in queries(), batch in 1usize..9
    ) {
        let (_directory, catalog) = open();
        let mut all = BTreeMap::new();
        let recordings: Vec<Recording> = documents
            .iter()
            .map(|document| recording(document.number, document.time, STATES[document.state], &document.parties))
            .collect();
        for batch in recordings.chunks(batch) {
            let facts: Vec<Fact> = batch.iter().map(|recording| fact(recording, Some(recording.started_at.0))).collect();
            apply(&catalog, &facts);
            all.extend(batch.iter().map(|recording| (recording.id, recording.clone())));
        }
        for query in &queries {
            prop_assert_eq!(all_pages(&catalog, query), naive_search(&all, query), "{:?}", query);
        }
        for recording in all.values() {
            let found = catalog.recording(recording.id).unwrap();
            prop_assert_eq!(found.as_ref(), Some(recording));
        }
        let statistics = catalog.statistics().unwrap();
        let count = |state| all.values().filter(|recording| recording.state == state).count() as u64;
        prop_assert_eq!(statistics.recordings, all.len() as u64);
        prop_assert_eq!(statistics.recordings_active, count(RecordingState::Active));
        prop_assert_eq!(statistics.recordings_incomplete, count(RecordingState::Incomplete));
        let active = catalog.active_with_resume().unwrap();
        prop_assert_eq!(active.len() as u64, statistics.recordings_active);
        for pair in active.windows(2) {
            prop_assert!((pair[0].0.started_at, pair[0].0.id) < (pair[1].0.started_at, pair[1].0.id));
        }
        for (recording, resume) in &active {
            prop_assert_eq!(resume, &serde_json::Value::from(recording.started_at.0));
        }
    }

    #[test]
    fn chunks_are_found_by_any_range_of_the_grid(
        chunks in proptest::collection::btree_map(0u64..400, (1u16..=50, 0u8..2), 0..40),
        from in 0u64..500, length in 0u64..200,
    ) {
        let (_directory, catalog) = open();
        let recording = RecordingId(Uuid::from_u128(5));
        let mut changes = Changes::default();
        for (&first, &(ticks, track)) in &chunks {
            changes.chunk(&header(recording, track, first, ticks), located(first));
        }
        // A neighbour, whose chunks are not asked for.
        changes.chunk(&header(RecordingId(Uuid::from_u128(6)), 0, 3, 50), located(3));
        // Twice is as once.
        catalog.apply(&changes, LogPosition { file: 1, offset: 8192 }).unwrap();
        catalog.apply(&changes, LogPosition { file: 1, offset: 8192 }).unwrap();
        for track in 0..2 {
            let found = catalog.chunks(recording, TrackId(track), Tick(from), Tick(from + length)).unwrap();
            let expected: Vec<ChunkLocation> = chunks
                .iter()
                .filter(|&(&first, &(ticks, of))| of == track && first < from + length && first + u64::from(ticks) > from)
                .map(|(&first, &(ticks, _))| ChunkLocation { first_tick: Tick(first), ticks, packets: ticks, located: located(first) })
                .collect();
            prop_assert_eq!(found, expected);
        }
        let statistics = catalog.statistics().unwrap();
        prop_assert_eq!(statistics.chunks, chunks.len() as u64 + 1);
        prop_assert_eq!(statistics.chunk_bytes, chunks.keys().map(|&first| 100 + first).sum::<u64>() + 103);
    }

    #[test]
    fn any_text_as_a_cursor_is_refused_or_means_itself(text in "\\PC{0,60}|[0-9a-f]{47,49}") {
        if let Ok(cursor) = text.parse::<Cursor>() {
            prop_assert_eq!(cursor.to_string(), text);
        }
    }
}

fn header(recording: RecordingId, track: u8, first_tick: u64, ticks: u16) -> ChunkHeader {
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

fn located(first_tick: u64) -> Located {
    let position = LogPosition { file: 1 + (first_tick % 3) as u32, offset: first_tick * 16 };
    Located { position, length: 100 + first_tick as u32 }
}

#[test]
fn a_later_document_replaces_every_trace_of_the_earlier_one() {
    let (_directory, catalog) = open();
    let parties = |number: &str| [(number.to_owned(), "Old Name".to_owned())];
    let old = recording(1, 1000, RecordingState::Active, &parties("5551000"));
    let mut new = recording(1, 1000, RecordingState::Complete, &parties("5552000"));
    new.parties[0].name = "New Name".into();
    apply(&catalog, &[fact(&old, Some(7))]);
    assert_eq!(catalog.active_with_resume().unwrap(), [(old.clone(), serde_json::Value::from(7))]);
    // Also when both are in one batch.
    apply(&catalog, &[fact(&old, Some(7)), fact(&new, None)]);
    let search = |party: &str, state| {
        let query = RecordingQuery { party: Some(party.into()), state, ..RecordingQuery::default() };
        catalog.search(&query).unwrap().recordings
    };
    assert!(search("5551000", None).is_empty());
    assert!(search("old name", None).is_empty());
    assert!(search("2000", Some(RecordingState::Active)).is_empty());
    assert_eq!(search("2000", Some(RecordingState::Complete)), [new.clone()]);
    assert_eq!(search("w nam", None), [new]);
    assert!(catalog.active_with_resume().unwrap().is_empty());
    assert_eq!(catalog.statistics().unwrap().recordings, 1);
}

#[test]
fn a_part_that_very_many_numbers_contain_is_found_all_the_same() {
    let (_directory, catalog) = open();
    let all: BTreeMap<RecordingId, Recording> = (0..200u8)
        .map(|number| {
            let parties = [(format!("+4930{:05}", u32::from(number) * 37), String::new())];
            recording(number, u64::from(number % 50), STATES[usize::from(number % 3)], &parties)
        })
        .map(|recording| (recording.id, recording))
        .collect();
    apply(&catalog, &all.values().map(|recording| fact(recording, None)).collect::<Vec<_>>());
    for party in ["0", "4930", "37", "00", "+49300"] {
        for state in [None, Some(RecordingState::Complete)] {
            let query = RecordingQuery { party: Some(party.into()), state, limit: 7, ..RecordingQuery::default() };
            assert_eq!(all_pages(&catalog, &query), naive_search(&all, &query), "{query:?}");
        }
    }
}

#[test]
fn paging_is_stable_while_recordings_arrive() {
    let (_directory, catalog) = open();
    let make = |number: u8, time| recording(number, time, RecordingState::Complete, &[]);
    apply(&catalog, &(0..20).map(|number| fact(&make(number, 100), None)).collect::<Vec<_>>());
    let query = RecordingQuery { limit: 6, ..RecordingQuery::default() };
    let first = catalog.search(&query).unwrap();
    // Newer ones arrive, and one on the first page changes its state.
    apply(&catalog, &(50..60).map(|number| fact(&make(number, 200), None)).collect::<Vec<_>>());
    apply(&catalog, &[fact(&recording(19, 100, RecordingState::Incomplete, &[]), None)]);
    let mut seen: Vec<RecordingId> = first.recordings.iter().map(|recording| recording.id).collect();
    let rest = all_pages(&catalog, &RecordingQuery { cursor: first.next, ..query });
    seen.extend(rest.iter().map(|recording| recording.id));
    let expected: Vec<RecordingId> = (0..20).rev().map(|number| make(number, 100).id).collect();
    assert_eq!(seen, expected);
}

#[test]
fn reopened_and_secondary_catalogs_show_the_same() {
    let (directory, catalog) = open();
    let path = directory.path().join("catalog");
    let scratch = tempfile::tempdir().unwrap();
    let first = recording(1, 1, RecordingState::Active, &[("100".into(), String::new())]);
    apply(&catalog, &[fact(&first, Some(1)), Fact::Replayed { digest: "abc".into(), at: CaptureTime(1) }]);
    let secondary = RocksCatalog::open_secondary(&path, scratch.path()).unwrap();
    assert_eq!(secondary.recording(first.id).unwrap().as_ref(), Some(&first));
    assert!(secondary.has_replayed("abc").unwrap() && !secondary.has_replayed("ab").unwrap());
    let second = recording(2, 2, RecordingState::Complete, &[("200".into(), String::new())]);
    apply(&catalog, &[fact(&second, None)]);
    secondary.refresh().unwrap();
    let newest = secondary.search(&RecordingQuery::default()).unwrap();
    assert_eq!(newest.recordings, [second.clone(), first.clone()]);
    let statistics = secondary.statistics().unwrap();
    assert_eq!((statistics.recordings, statistics.applied), (2, LogPosition { file: 1, offset: 4096 }));
    drop(secondary);
    drop(catalog);
    let reopened = RocksCatalog::open(&path).unwrap();
    assert_eq!(reopened.search(&RecordingQuery::default()).unwrap().recordings, [second, first]);
    assert_eq!(reopened.applied().unwrap(), LogPosition { file: 1, offset: 4096 });
    assert_eq!(reopened.statistics().unwrap().recordings, 2);
}

#[test]
fn long_and_strange_texts_are_found_by_what_is_kept_of_them() {
    let (_directory, catalog) = open();
    let name = format!("  Straße\tNord\u{0} {}", "x".repeat(300));
    let found = recording(1, 1, RecordingState::Complete, &[(String::new(), name)]);
    apply(&catalog, &[fact(&found, None)]);
    let search = |party: &str| {
        let query = RecordingQuery { party: Some(party.into()), ..RecordingQuery::default() };
        catalog.search(&query).unwrap().recordings.len()
    };
    assert_eq!(search("straße nord"), 1);
    assert_eq!(search(&"x".repeat(100)), 1);
    assert_eq!(search(&"x".repeat(200)), 0);
    assert_eq!(search(&"x".repeat(100_000)), 0);
    assert_eq!(search("\u{0}"), 1, "white space alone is no condition");
}
