//! The same changes in any order, any number of times, in any batches: the same catalog as the plain one.

use super::fixture::*;
use crate::*;
use proptest::prelude::*;
use sidetone_log::{Fact, LogPosition, Through, VolumeNumber};
use sidetone_model::{Annotations, CaptureTime, RecordingId, SavedCall, Tick, TrackId};
use std::sync::Arc;
use uuid::Uuid;

/// Recordings that the changes are about.
const RECORDINGS: u8 = 4;
const NO_RECORDING: RecordingId = RecordingId(Uuid::nil());

#[derive(Clone, Debug)]
enum Change {
    /// A fact, and where it lies: a position, or none, in each of two volumes.
    Fact(Fact, [Option<u64>; 2]),
    Chunk {
        number: u8,
        track: u8,
        tick: u64,
        volume: u8,
        offset: u64,
    },
    Settle(RecordingId, Through),
}

fn about() -> impl Strategy<Value = RecordingId> {
    prop_oneof![5 => (0..RECORDINGS).prop_map(id), 1 => Just(NO_RECORDING)]
}

fn through() -> impl Strategy<Value = Through> {
    (0u8..2, 0u64..60).prop_map(|(volume, offset)| Through { volume: VolumeNumber(volume), position: position(offset) })
}

fn change() -> impl Strategy<Value = Change> {
    let recording = (any_recording(0..RECORDINGS, 0..4), proptest::option::of(any::<u8>()), any::<bool>());
    let recording = recording.prop_map(|(mut recording, resume, has_extra)| {
        if has_extra {
            // Not the document's to say.
            recording.annotations.tags.insert("a".into(), "stray".into());
        }
        Fact::Recording { recording: Arc::new(recording), resume: resume.map(|turn| SavedCall::of(&turn).unwrap()) }
    });
    let annotations = ((0..RECORDINGS).prop_map(id), any_annotations())
        .prop_map(|(recording, annotations)| Fact::Annotations { recording, annotations });
    let sealed = ((0..RECORDINGS).prop_map(id), 0u8..2, 0u32..2, 0u64..3, proptest::collection::vec(through(), 0..3));
    let sealed = sealed.prop_map(|(recording, volume, segment, offset, through)| Fact::Sealed {
        recording,
        run: run(volume, segment, offset, offset * 7 % 3),
        through,
    });
    let replayed = ("[ab]", 0u64..3).prop_map(|(digest, at)| Fact::Replayed { digest, at: CaptureTime(at) });
    let clock = (0u64..3).prop_map(|at| Fact::Clock { at: CaptureTime(at), stepped_seconds: -1.5 });
    let places = || proptest::array::uniform2(proptest::option::of(0u64..60));
    prop_oneof![
        3 => (recording, places()).prop_map(|(fact, places)| Change::Fact(fact, places)),
        1 => (annotations, places()).prop_map(|(fact, places)| Change::Fact(fact, places)),
        2 => (sealed, places()).prop_map(|(fact, places)| Change::Fact(fact, places)),
        1 => (prop_oneof![replayed, clock], places()).prop_map(|(fact, places)| Change::Fact(fact, places)),
        4 => (0..RECORDINGS, 0u8..2, 0u64..3, 0u8..2, 0u64..60)
            .prop_map(|(number, track, tick, volume, offset)| Change::Chunk { number, track, tick, volume, offset }),
        1 => (about(), through()).prop_map(|(about, through)| Change::Settle(about, through)),
    ]
}

/// The sequence of a fact is its place in the list, so that no two facts have the same.
fn add(changes: &mut Changes, sequence: usize, change: &Change) {
    match change {
        Change::Fact(of, places) => {
            let volumes = (0..).map(VolumeNumber);
            let places = volumes.zip(places).filter_map(|(volume, place)| Some((volume, position((*place)?))));
            let places: Vec<(VolumeNumber, LogPosition)> = places.collect();
            changes.fact(fact(sequence as u64 + 1, of.clone()), &places);
        }
        Change::Chunk { number, track, tick, volume, offset } => {
            let header = header(id(*number), *track, tick * 10, 10 + (offset % 20) as u16);
            changes.chunk(&header, VolumeNumber(*volume), located(*offset));
        }
        Change::Settle(about, through) => changes.settle(*about, *through),
    }
}

fn apply_in(catalog: &dyn Catalog, changes: &[Change], order: &[usize], batch: usize) {
    for part in order.chunks(batch) {
        let mut batch = Changes::default();
        part.iter().for_each(|&index| add(&mut batch, index, &changes[index]));
        let applied: Vec<(VolumeNumber, LogPosition)> =
            part.iter().map(|&index| (VolumeNumber((index % 2) as u8), position(index as u64))).collect();
        catalog.apply(&batch, &applied).unwrap();
    }
}

/// Everything that can be asked.
fn everything(catalog: &dyn Catalog) -> Vec<String> {
    let mut answers = Vec::new();
    for about in (0..RECORDINGS).map(id).chain([NO_RECORDING]) {
        answers.push(format!("{:?}", catalog.recording(about).unwrap()));
        answers.push(format!("{:?}", catalog.facts(about).unwrap()));
        answers.push(format!("{:?}", catalog.runs(about).unwrap()));
        answers.push(format!("{:?}", catalog.annotations(about).unwrap()));
        for track in (0..2).map(TrackId) {
            for (from, to) in [(0, u64::MAX), (9, 11), (20, 21)] {
                let chunks = catalog.journal_chunks(about, track, Tick(from), Tick(to)).unwrap();
                answers.push(format!("{chunks:?}"));
            }
        }
    }
    for volume in (0..2).map(VolumeNumber) {
        answers.push(format!("{:?}", catalog.segment_ends(volume).unwrap()));
    }
    answers.push(format!("{:?}", catalog.pending().unwrap()));
    answers.push(format!("{:?}", catalog.active_with_resume().unwrap()));
    answers.push(format!("{:?}", [catalog.has_replayed("a").unwrap(), catalog.has_replayed("b").unwrap()]));
    answers.push(format!("{:?}", CatalogStatistics { size_bytes: 0, ..catalog.statistics().unwrap() }));
    answers.push(format!("{:?} {:?}", catalog.sequence().unwrap(), catalog.applied().unwrap()));
    for filter in [
        Filter::everything(),
        Filter::State(sidetone_model::RecordingState::Incomplete),
        Filter::Tag { key: "a".into(), value: None },
        Filter::OnHold,
        Filter::Text(TextField::Number, TextMatch::Contains("010".into())),
        Filter::Text(TextField::Name, TextMatch::WordStartsWith("ohm".into())),
        Filter::Text(TextField::Address, TextMatch::StartsWith("192.".into())),
    ] {
        answers.push(format!("{:?}", all_pages(catalog, &filter, 3)));
        answers.push(format!("{:?}", catalog.count(&filter).unwrap()));
    }
    dump(catalog, &mut |line| answers.push(line.to_owned())).unwrap();
    answers
}

proptest! {
    #![proptest_config(cases(64))]

    #[test]
    fn order_repetition_and_batches_make_no_difference(
        changes in proptest::collection::vec(change(), 1..40),
        shuffle in proptest::collection::vec(any::<prop::sample::Index>(), 60),
        repeated in proptest::collection::vec(any::<prop::sample::Index>(), 0..20),
        batches in (1usize..12, 1usize..12),
    ) {
        let straight: Vec<usize> = (0..changes.len()).collect();
        let mut crooked: Vec<usize> = straight.clone();
        crooked.extend(repeated.iter().map(|index| index.index(changes.len())));
        for (at, index) in shuffle.iter().enumerate().take(crooked.len()) {
            let with = index.index(crooked.len());
            crooked.swap(at, with);
        }
        let plain = MemoryCatalog::new();
        apply_in(&plain, &changes, &straight, changes.len());
        let expected = everything(&plain);

        let other = MemoryCatalog::new();
        apply_in(&other, &changes, &crooked, batches.0);
        prop_assert_eq!(everything(&other), expected.clone());
        let (_directory, rocks) = open();
        apply_in(&rocks, &changes, &crooked, batches.1);
        prop_assert_eq!(everything(&rocks), expected.clone());
        // Once more, over what is there.
        apply_in(&rocks, &changes, &straight, batches.0);
        prop_assert_eq!(everything(&rocks), expected);
    }
}

proptest! {
    #![proptest_config(cases(64))]

    #[test]
    fn a_catalog_that_was_built_of_batches_is_the_same(
        changes in proptest::collection::vec(change(), 1..40),
        batch in 1usize..12,
        threads in 1usize..3,
    ) {
        let order: Vec<usize> = (0..changes.len()).collect();
        let plain = MemoryCatalog::new();
        apply_in(&plain, &changes, &order, changes.len());

        let directory = tempfile::tempdir().unwrap();
        let builder = CatalogBuilder::create(&directory.path().join("new"), &CatalogOptions::default()).unwrap();
        std::thread::scope(|scope| {
            for part in order.chunks(batch) {
                let (builder, changes) = (&builder, &changes);
                scope.spawn(move || {
                    let mut batch = Changes::default();
                    part.iter().for_each(|&index| add(&mut batch, index, &changes[index]));
                    builder.add(&batch).unwrap();
                });
            }
        });
        let built = builder.finish(threads, &mut |hundredths| assert!(hundredths <= 100)).unwrap();
        let applied = order.iter().map(|&index| (VolumeNumber((index % 2) as u8), position(index as u64)));
        built.apply(&Changes::default(), &applied.collect::<Vec<_>>()).unwrap();
        prop_assert_eq!(everything(&built), everything(&plain));
        // And once more, over what is there.
        apply_in(&built, &changes, &order, batch);
        prop_assert_eq!(everything(&built), everything(&plain));
    }
}

#[test]
fn a_later_document_replaces_every_trace_of_the_earlier_one() {
    let (_directory, catalog) = open();
    let old = recording(1, 1000, STATES[0], &[("5551000", "Old Name")]);
    let mut new = recording(1, 1000, STATES[1], &[("5552000", "New Name")]);
    let with_resume = |recording: &sidetone_model::Recording| Fact::Recording {
        recording: Arc::new(recording.clone()),
        resume: Some(SavedCall::of(&7).unwrap()),
    };
    apply_facts(&catalog, 1, [with_resume(&old)]);
    assert_eq!(catalog.active_with_resume().unwrap(), [(old.clone(), SavedCall::of(&7).unwrap())]);
    apply_facts(&catalog, 2, [tagged(old.id, &[("case", "1")], true), document(&new)]);
    new.annotations = catalog.annotations(new.id).unwrap();
    assert_eq!(new.annotations.tags["case"], "1");
    let search = |filter: Filter| all_pages(&catalog, &filter, 10);
    assert!(search(Filter::party("5551000")).is_empty());
    assert!(search(Filter::party("old name")).is_empty());
    assert!(search(Filter::State(STATES[0])).is_empty());
    for found in [Filter::party("2000"), Filter::party("w nam"), Filter::OnHold] {
        assert_eq!(search(found), [new.clone()]);
    }
    assert!(catalog.active_with_resume().unwrap().is_empty());
    apply_facts(&catalog, 4, [tagged(old.id, &[], false)]);
    assert_eq!(catalog.annotations(old.id).unwrap(), Annotations::default());
    assert!(search(Filter::OnHold).is_empty());
    assert!(search(Filter::Tag { key: "case".into(), value: None }).is_empty());
    // An old fact that comes late changes nothing.
    apply_facts(&catalog, 1, [with_resume(&old)]);
    assert!(search(Filter::party("5551000")).is_empty());
    assert_eq!(catalog.statistics().unwrap().recordings, 1);
}

#[test]
fn recordings_of_the_same_start_do_not_take_each_other_out_of_an_index() {
    let (_directory, catalog) = open();
    let parties = [("5551000", "Anna")];
    apply_facts(&catalog, 1, (1..4).map(|number| document(&recording(number, 5, STATES[2], &parties))));
    // The second goes on without what all three had in common; the third does so as another comes.
    apply_facts(&catalog, 4, [document(&recording(2, 5, STATES[1], &[]))]);
    let changed = [recording(3, 5, STATES[1], &[]), recording(4, 5, STATES[2], &parties)];
    apply_facts(&catalog, 5, changed.iter().map(document));
    for filter in [Filter::party("5551000"), Filter::party("nna"), Filter::State(STATES[2])] {
        let mut found: Vec<RecordingId> = all_pages(&catalog, &filter, 1).iter().map(|found| found.id).collect();
        found.sort_unstable();
        assert_eq!(found, [id(1), id(4)], "{filter:?}");
    }
}

#[test]
fn a_proof_shows_when_the_recording_is_over_and_no_chunk_is_left_in_a_journal() {
    let (_directory, catalog) = open();
    let proof = || catalog.recording(id(1)).unwrap().unwrap().proof;
    let sealed = |offset, through| Fact::Sealed {
        recording: id(1),
        run: run(0, 1, offset, 10),
        through: vec![Through { volume: VolumeNumber(0), position: position(through) }],
    };
    let mut changes = Changes::default();
    changes.chunk(&header(id(1), 0, 10, 50), VolumeNumber(0), located(1));
    changes.chunk(&header(id(1), 0, 60, 50), VolumeNumber(0), located(5));
    changes.fact(fact(1, document(&recording(1, 5, STATES[0], &[]))), &[(VolumeNumber(0), position(6))]);
    catalog.apply(&changes, &[]).unwrap();
    let pending = catalog.pending().unwrap();
    assert_eq!(pending.len(), 1);
    assert_eq!(pending[0].oldest, [(VolumeNumber(0), position(1))]);
    assert_eq!(
        (pending[0].first_tick, pending[0].unsealed_chunks, pending[0].unsealed_bytes),
        (Some(Tick(10)), 2, 206)
    );

    apply_facts(&catalog, 2, [sealed(0, 5)]);
    assert_eq!(catalog.pending().unwrap()[0].oldest, [(VolumeNumber(0), position(5))]);
    assert_eq!(catalog.journal_chunks(id(1), TrackId(0), Tick(0), Tick(1000)).unwrap().len(), 1);
    apply_facts(&catalog, 3, [document(&recording(1, 5, STATES[1], &[]))]);
    assert_eq!(proof(), None, "a chunk is in no run");
    apply_facts(&catalog, 4, [sealed(5000, 6)]);
    let shown = proof().unwrap();
    assert_eq!((shown.chunks, shown.bytes), (6, 8000));
    assert_eq!(shown.merkle_root, sidetone_log::merkle::recording_root(&catalog.runs(id(1)).unwrap()));
    assert!(catalog.pending().unwrap().is_empty(), "the last document lies in a segment");
    // A chunk that was sealed comes again.
    catalog.apply(&changes, &[]).unwrap();
    assert!(catalog.pending().unwrap().is_empty() && proof().is_some());
}

#[test]
fn a_crash_of_the_plain_catalog_takes_back_whole_calls_the_newest_first() {
    let catalog = MemoryCatalog::new();
    let mut states = vec![everything(&catalog)];
    for number in 0..4u8 {
        apply_facts(&catalog, u64::from(number) + 1, [document(&recording(number, 5, STATES[0], &[]))]);
        states.push(everything(&catalog));
        if number == 0 {
            catalog.persist().unwrap();
        }
    }
    assert_eq!(catalog.unpersisted(), 3);
    for kept in [3, 2, 0] {
        catalog.crash(kept);
        assert_eq!(everything(&catalog), states[1 + kept]);
        assert_eq!(catalog.unpersisted(), kept);
    }
}
