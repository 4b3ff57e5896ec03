use super::*;
use crate::testing::{FIRST_TICK, MemorySource, document, party, track};
use crate::{Channels, Format};
use proptest::prelude::*;
use sidetone_model::{PartyRole, Side};

const NEAR: TrackId = TrackId(0);
const FAR: TrackId = TrackId(1);
const LATER: TrackId = TrackId(2);

/// Packets of 20 ms with these lengths; 0 for none. Only their lengths matter here.
fn packets(lengths: &[usize]) -> Vec<Vec<u8>> {
    let packet = |&length: &usize| match length {
        0 => Vec::new(),
        length => [&[0x08][..], &vec![0x55; length - 1]].concat(),
    };
    lengths.iter().map(packet).collect()
}

/// A second track of the caller, such as after a transfer.
fn document_with_three_tracks() -> Recording {
    let mut document = document();
    document.parties.push(party(2, PartyRole::Callee, "300", ""));
    document.tracks.push(track(2, Side::Far, Some(2)));
    document
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn tables_say_how_long_the_blocks_are(
        near in proptest::collection::vec(prop_oneof![Just(0usize), 1usize..90, 1usize..400], 1..900),
        far in proptest::collection::vec(prop_oneof![Just(0usize), 1usize..90], 1..900),
        later in proptest::collection::vec(0usize..60, 1..200),
        (shift, joined, cut) in (0u64..500, 0u64..600, 0u64..1200),
    ) {
        let document = document_with_three_tracks();
        let first = FIRST_TICK.0 + shift;
        let source = MemorySource::default();
        source.store(NEAR, Tick(first), &packets(&near));
        source.store(FAR, Tick(first + joined), &packets(&far));
        source.store(LATER, Tick(first + joined / 2), &packets(&later));
        prop_assume!(!source.0.lock().unwrap().chunks.is_empty());
        let files = |source: &MemorySource| {
            let file = |channels: Channels| source.open(&document, Format::Opus, channels).ok().map(|mut file| {
                let mut bytes = Vec::new();
                crate::write_to(&mut file, &mut bytes).unwrap();
                (file.etag().to_owned(), bytes)
            });
            // Not the mix: its packets are made, and all of one length.
            [Channels::Dual, Channels::Near, Channels::Far, Channels::Caller, Channels::Callee].map(file)
        };
        let before = files(&source);
        // Sealed in two parts, anywhere.
        source.seal_if_any(&document, Tick(first + cut));
        prop_assert!(files(&source) == before);
        source.seal_if_any(&document, Tick(u64::MAX));
        prop_assert!(files(&source) == before);
    }

    #[test]
    fn whatever_a_table_holds_is_read_without_harm(
        table in proptest::collection::vec(any::<u8>(), 0..40),
        run in (any::<u64>(), any::<u64>()),
        steps in (any::<u64>(), any::<u64>()),
    ) {
        block_bytes(&table, &(Tick(run.0)..Tick(run.1)), &(Tick(steps.0)..Tick(steps.1)));
    }
}

#[test]
fn equal_choices_share_a_table_and_long_runs_have_none() {
    let source = MemorySource::default();
    source.store(NEAR, FIRST_TICK, &packets(&[40; 100]));
    source.store(FAR, FIRST_TICK, &packets(&[40; 100]));
    source.seal(&document(), Tick(u64::MAX));
    assert_eq!(source.table_names(), ["opus blocks 1: 0|1", "opus blocks 1: 0", "opus blocks 1: 1"]);

    let source = MemorySource::default();
    source.store(NEAR, FIRST_TICK, &packets(&[40; 100]));
    source.store(FAR, Tick(FIRST_TICK.0 + 25 * 3600 * 50), &packets(&[40; 100]));
    source.seal(&document(), Tick(u64::MAX));
    assert!(source.table_names().is_empty());
}

#[test]
fn the_tables_of_an_hour_take_five_kilobytes() {
    let source = MemorySource::default();
    let hour = packets(&vec![40; 3600 * 50]);
    source.store(NEAR, FIRST_TICK, &hour);
    source.store(FAR, FIRST_TICK, &hour);
    source.seal(&document(), Tick(u64::MAX));
    assert!((4300..5000).contains(&source.table_bytes()), "{}", source.table_bytes());
}
