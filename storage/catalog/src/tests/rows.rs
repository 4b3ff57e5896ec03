//! Rows as bytes.

use super::fixture::*;
use crate::row::{BadRow, Newest, Places, Row};
use proptest::prelude::*;
use sidetone_log::{FactSequence, VolumeNumber};
use sidetone_model::{CaptureTime, Recording};
use std::sync::Arc;

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

fn key(row: &Row) -> (sidetone_model::RecordingId, Option<CaptureTime>) {
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
