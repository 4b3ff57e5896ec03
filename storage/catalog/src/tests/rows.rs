//! Rows as bytes.

use super::fixture::*;
use crate::row::{BadRow, Newest, Places, Row};
use proptest::prelude::*;
use sidetone_log::{FactSequence, VolumeNumber};
use sidetone_model::*;
use std::sync::Arc;
use uuid::Uuid;

fn places() -> impl Strategy<Value = Places> {
    proptest::collection::btree_map((0u8..3).prop_map(VolumeNumber), (0u64..200).prop_map(position), 0..3)
}

fn rows() -> impl Strategy<Value = Row> {
    let document = (any::<u64>(), places(), any_recording(0..3, 0..u64::MAX));
    let annotations = (any::<u64>(), places(), any_annotations());
    let runs = proptest::collection::btree_set((0u8..2, 0u32..3, 0u64..9, any::<u32>()), 0..4);
    (proptest::option::of(document), proptest::option::of(annotations), runs, places()).prop_map(
        |(document, annotations, runs, through)| {
            let mut row = Row { through, ..Row::default() };
            runs.iter().for_each(|&(volume, segment, offset, tick)| {
                row.add_run(&run(volume, segment, offset, tick.into()));
            });
            row.document = document.map(|(sequence, places, recording)| Newest {
                sequence: FactSequence(sequence),
                value: Arc::new(recording),
                places,
            });
            row.annotations =
                annotations.map(|(sequence, places, value)| Newest { sequence: FactSequence(sequence), value, places });
            row
        },
    )
}

fn key(row: &Row) -> (RecordingId, Option<CaptureTime>) {
    let recording: Option<&Recording> = row.document.as_ref().map(|document| &*document.value);
    let started = |recording: &Recording| CaptureTime(recording.started_at.0 / 1_000_000 * 1_000_000);
    (recording.map_or(id(0), |recording| recording.id), recording.map(started))
}

proptest! {
    #![proptest_config(cases(512))]

    #[test]
    fn what_is_read_back_is_what_was_written(row in rows()) {
        let (id, started_at) = key(&row);
        prop_assert_eq!(Row::decode(&row.encode(), id, started_at), Ok(row));
    }

    #[test]
    fn bytes_that_are_no_row_are_refused_and_not_believed(
        row in rows(), cut in any::<prop::sample::Index>(), flipped in any::<prop::sample::Index>(), bit in 0u8..8,
    ) {
        let (id, started_at) = key(&row);
        let whole = row.encode();
        prop_assert_eq!(Row::decode(&whole[..cut.index(whole.len())], id, started_at), Err(BadRow::Damaged));
        prop_assert_eq!(Row::decode(&[&whole[..], &[0]].concat(), id, started_at), Err(BadRow::Damaged));
        let mut bad = whole.clone();
        bad[flipped.index(whole.len())] ^= 1 << bit;
        // Another row, or none; the block's checksum is what tells.
        let _read = Row::decode(&bad, id, started_at);
    }

    #[test]
    fn a_row_of_a_later_layout_is_refused_as_such(row in rows(), later in 1u8..=254) {
        let (id, started_at) = key(&row);
        let mut bytes = row.encode();
        bytes[0] += later;
        prop_assert_eq!(Row::decode(&bytes, id, started_at), Err(BadRow::Newer(1 + later)));
    }
}

/// A row with something in most fields.
fn first_row() -> Row {
    let time = |nanos: u64| CaptureTime(1_700_000_000_000_000_000 + nanos);
    let party = |id, role, number: &str, left_at| Party {
        id,
        role,
        number: number.into(),
        name: "Zoë Ohm".into(),
        address: "192.0.2.7:5060".into(),
        joined_at: time(250),
        left_at,
    };
    let stream = Stream {
        domain: "vlan 100".into(),
        ssrc: "0xdeadbeef".into(),
        source: "[2001:db8::1]:4000".into(),
        destination: "192.0.2.9:5002".into(),
        codec: "PCMA/8000".into(),
        from: time(3_000_000_123),
        to: time(8_999_999_999),
        packets: 300,
        lost: 2,
        duplicates: 1,
        reordered: 0,
        late: 4,
        jitter_ms_mean: 1.0 / 3.0,
        jitter_ms_max: 2.5,
    };
    let track = Track {
        id: TrackId(1),
        party: Some(1),
        side: Side::Far,
        kind: TrackKind::Audio,
        encrypted: false,
        decodable: true,
        start_offset_seconds: 0.02,
        duration_seconds: 6.0,
        concealed_seconds: 0.04,
        losses: Losses { network: 2, capture: 0, encoder: 5, writer: 0 },
        streams: vec![stream],
    };
    let leg = Leg {
        protocol: "sip".into(),
        call_id: "f81d4fae-7dec-11d0-a765-00a0c91e6bf6@pbx".into(),
        from: "sip:100@pbx".into(),
        to: "sip:200@pbx".into(),
        started_at: time(250),
        answered_at: Some(time(3_000_000_000)),
        ended_at: Some(time(9_000_000_000)),
        end_reason: Some(EndReason::CalleeHungUp),
    };
    let document = Recording {
        conversation_id: ConversationId(Uuid::from_u128(7)),
        answered_at: Some(time(3_000_000_000)),
        ended_at: Some(time(9_000_000_000)),
        duration_seconds: 6.000125,
        end_reason: Some(EndReason::CalleeHungUp),
        users: vec!["zoë".into()],
        gaps: vec![Gap { from: time(4_000_000_000), to: None, reason: "restarted".into() }],
        legs: vec![leg],
        parties: vec![party(0, PartyRole::Caller, "+4930123", None), party(1, PartyRole::Callee, "200", Some(time(9)))],
        tracks: vec![track],
        ..recording(4, time(250).0, STATES[2], &[])
    };
    let tags = [("case".to_owned(), "C-7".to_owned())].into();
    let hold = Hold { reason: "court".into(), by: "anna".into(), at: time(60_000_000_000) };
    let retention = Retention { class: "standard".into(), expires_at: Some(time(31_536_000_000_000_000)) };
    let annotations = Annotations { tags, hold: Some(hold), retention: Some(retention) };
    let mut row = Row::default();
    row.add_run(&run(1, 300, 4096, 85_000_000_150));
    row.through.insert(VolumeNumber(1), position(100));
    row.annotations = Some(Newest { sequence: FactSequence(78), value: annotations, places: Places::new() });
    let places = [(VolumeNumber(0), position(300))].into();
    row.document = Some(Newest { sequence: FactSequence(77), value: Arc::new(document), places });
    row
}

/// [`first_row`], as the first version of the first layout wrote it.
const FIRST_LAYOUT: &str = "\
    010303fa010681f70201010780020101ac0280208847c90103a01fac02ac022d2d2d2d2d2d2d2d2d2d2d2d2d2d2d2d2d2d2d\
    2d2d2d2d2d2d2d2d2d2d2d2d2d4e0001206361736518432d370128636f75727420616e6e6180e0ba84bf0301407374616e64\
    61726401808098dae5f484704d0100138006e4a097e8b201e4a0c6b89804020128626f782d31000000000000000000000000\
    000000000701207a6fc3ab0185c0b2cd3b004872657374617274656400011873697004f81d4fae7dec11d0a76500a0c91e6b\
    f62040706278587369703a31303040706278587369703a3230304070627801020302020000402b34393330313233405a6fc3\
    ab204f686d01c000020713c40100010118323030405a6fc3ab204f686d01c000020713c4019c1e0109010202010006020202\
    0005000140766c616e203130304850434d412f383030300220010db80000000000000000000000010fa001c0000209138a05\
    deadbeefb50f1eac0202010004ff555555555555d53f027d";

#[test]
fn rows_of_the_first_layout_stay_readable() {
    // When a field is added, this text does not change: the field is at its default.
    let bytes: Vec<u8> = (0..FIRST_LAYOUT.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&FIRST_LAYOUT[at..at + 2], 16).unwrap())
        .collect();
    let written: String = first_row().encode().iter().map(|byte| format!("{byte:02x}")).collect();
    println!("today it is {written}");
    assert_eq!(Row::decode(&bytes, id(4), Some(CaptureTime(1_700_000_000_000_000_000))), Ok(first_row()));
}
