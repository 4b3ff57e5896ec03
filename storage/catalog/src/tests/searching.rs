//! Search against looking at everything.

use super::fixture::*;
use crate::plan::Limits;
use crate::*;
use proptest::prelude::*;
use sidetone_model::{CaptureTime, Recording, RecordingId, Stream};
use std::collections::BTreeMap;

/// What a text is compared as, in the words of the documentation.
fn plain(text: &str) -> String {
    let spaced: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    spaced.to_lowercase().split_whitespace().collect::<Vec<_>>().join(" ")
}

fn plain_in(field: TextField, text: &str) -> String {
    let text = plain(text);
    let is_number =
        text.contains(|c: char| c.is_ascii_digit()) && text.chars().all(|c| "0123456789+*# -./()".contains(c));
    match field {
        TextField::Number if is_number => text.replace([' ', '-', '.', '/', '(', ')'], ""),
        TextField::Address => match text.parse::<std::net::SocketAddr>() {
            Ok(address) => address.ip().to_string(),
            Err(_) => text,
        },
        _ => text,
    }
}

fn texts(recording: &Recording, field: TextField) -> Vec<String> {
    let raw: Vec<&String> = match field {
        TextField::Number => recording.parties.iter().map(|party| &party.number).collect(),
        TextField::Name => recording.parties.iter().map(|party| &party.name).collect(),
        TextField::Address => recording.parties.iter().map(|party| &party.address).collect(),
        TextField::User => recording.users.iter().collect(),
        TextField::Node => vec![&recording.node.0],
        TextField::Protocol => recording.legs.iter().map(|leg| &leg.protocol).collect(),
        TextField::CallId => recording.legs.iter().map(|leg| &leg.call_id).collect(),
    };
    let is_indexed = !matches!(field, TextField::Node | TextField::Protocol | TextField::CallId);
    let bytes_max = if is_indexed { 64 } else { usize::MAX };
    let cut = |text: String| {
        let ends = text.char_indices().map(|(at, c)| at + c.len_utf8()).filter(|&end| end <= bytes_max);
        text[..ends.max().unwrap_or(0)].to_owned()
    };
    raw.into_iter().map(|text| cut(plain_in(field, text))).filter(|text| !text.is_empty()).collect()
}

fn matches(filter: &Filter, recording: &Recording) -> bool {
    let streams = || recording.tracks.iter().flat_map(|track| &track.streams);
    let worst = |of: &dyn Fn(&Stream) -> f64| streams().map(of).fold(0.0, f64::max);
    match filter {
        Filter::And(all) => all.iter().all(|part| matches(part, recording)),
        Filter::Or(any) => any.iter().any(|part| matches(part, recording)),
        Filter::Not(part) => !matches(part, recording),
        Filter::Started(span) => span.contains(recording.started_at),
        Filter::State(state) => recording.state == *state,
        Filter::Duration(span) => span.contains(recording.duration_seconds),
        Filter::Text(field, matching) => texts(recording, *field).iter().any(|text| match matching {
            TextMatch::Is(part) => *text == plain_in(*field, part),
            TextMatch::StartsWith(part) => text.starts_with(&plain_in(*field, part)),
            TextMatch::EndsWith(part) => text.ends_with(&plain_in(*field, part)),
            TextMatch::Contains(part) => text.contains(&plain_in(*field, part)),
            TextMatch::WordStartsWith(part) => {
                let characters: Vec<(usize, char)> = text.char_indices().collect();
                characters.iter().enumerate().any(|(at, (offset, c))| {
                    let is_start = at == 0 || !characters[at - 1].1.is_alphanumeric();
                    is_start && c.is_alphanumeric() && text[*offset..].starts_with(&plain_in(*field, part))
                })
            }
        }),
        Filter::Codec(name) => streams().any(|stream| {
            let codec = stream.codec.to_lowercase();
            let name = name.to_lowercase();
            codec == name || codec.split('/').next() == Some(&name)
        }),
        Filter::Quality(Measure::LossShare, span) => span.contains(worst(&|stream| {
            let expected = stream.packets.saturating_sub(stream.duplicates) + stream.lost;
            if expected == 0 { 0.0 } else { stream.lost as f64 / expected as f64 }
        })),
        Filter::Quality(Measure::JitterMs, span) => span.contains(worst(&|stream| stream.jitter_ms_mean)),
        Filter::Quality(Measure::ConcealedSeconds, span) => {
            span.contains(recording.tracks.iter().map(|track| track.concealed_seconds).fold(0.0, f64::max))
        }
        Filter::Tag { key, value: None } => recording.annotations.tags.contains_key(key),
        Filter::Tag { key, value } => recording.annotations.tags.get(key) == value.as_ref(),
        Filter::OnHold => recording.annotations.hold.is_some(),
    }
}

fn span<T: Clone + std::fmt::Debug + 'static>(
    value: impl Strategy<Value = T> + Clone + 'static,
) -> impl Strategy<Value = Span<T>> {
    let end = proptest::option::of(value);
    (end.clone(), end).prop_map(|(from, to)| Span { from, to })
}

fn filters() -> impl Strategy<Value = Filter> {
    let field = prop_oneof![
        4 => Just(TextField::Number),
        4 => Just(TextField::Name),
        1 => Just(TextField::User),
        2 => Just(TextField::Address),
        1 => Just(TextField::Node),
        1 => Just(TextField::Protocol),
        1 => Just(TextField::CallId),
    ];
    let part = prop_oneof![
        4 => "[0-3]{1,5}",
        1 => number(),
        1 => name(),
        2 => "( |ohm|Anna|łu|ZO|i̇|ωμ|a|an|[a-c]{3,5}|[a-c]{60,66}|-|\\.0\\.|192\\.0|2001:)",
        1 => "(sip|box|[0-9a-f]{2}|PBX|[A-C]{2})",
        1 => Just(String::new()),
    ];
    let text = (field, part, 0usize..5).prop_map(|(field, part, how)| {
        let how =
            [TextMatch::Is, TextMatch::StartsWith, TextMatch::EndsWith, TextMatch::Contains, TextMatch::WordStartsWith]
                [how];
        Filter::Text(field, how(part))
    });
    let measure = prop_oneof![Just(Measure::LossShare), Just(Measure::ConcealedSeconds), Just(Measure::JitterMs)];
    let quality = (measure, span(0.0f64..20.0), any::<bool>()).prop_map(|(measure, span, small)| {
        let scale = |end: f64| if small { end / 100.0 } else { end };
        Filter::Quality(measure, Span { from: span.from.map(scale), to: span.to.map(scale) })
    });
    let leaf = prop_oneof![
        6 => text,
        2 => span((0u64..80).prop_map(|time| CaptureTime(time * TIME_UNIT_NANOS / 2))).prop_map(Filter::Started),
        2 => (0usize..3).prop_map(|state| Filter::State(STATES[state])),
        1 => span(0.0f64..20.0).prop_map(Filter::Duration),
        1 => "pcma|G722/8000|opus|x".prop_map(Filter::Codec),
        1 => quality,
        1 => ("[ab]|case|\u{0}", proptest::option::of("[0-2]|\u{0}x|")).prop_map(|(key, value)| Filter::Tag { key, value }),
        1 => Just(Filter::OnHold),
        1 => "[0-3]{1,3}|(an|oh) ?[0-3]{0,2}".prop_map(|text| Filter::free_text(&text)),
        1 => "[0-3]{1,3}|an".prop_map(|text| Filter::party(&text)),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            3 => proptest::collection::vec(inner.clone(), 0..4).prop_map(Filter::And),
            2 => proptest::collection::vec(inner.clone(), 0..4).prop_map(Filter::Or),
            1 => inner.prop_map(|part| Filter::Not(Box::new(part))),
        ]
    })
}

/// So tight that every way of answering is taken.
fn limits() -> impl Strategy<Value = Limits> {
    (prop_oneof![1 => 0u64..60, 1 => Just(4000)], 0u64..200, 0usize..6, 1usize..20, 0usize..4).prop_map(
        |(page_work, count_work, texts, part_entries, short_list)| Limits {
            page_work,
            count_work,
            texts,
            part_entries,
            short_list,
        },
    )
}

proptest! {
    #![proptest_config(cases(64))]

    #[test]
    fn search_finds_what_looking_at_everything_finds(
        recordings in proptest::collection::vec((any_recording(0..40, 0..30), any_annotations()), 0..50),
        filters in proptest::collection::vec((filters(), 0usize..9, limits()), 1..25),
        batch in 1usize..9,
    ) {
        let (_directory, mut catalog) = open();
        let mut all = BTreeMap::new();
        for (number, part) in recordings.chunks(batch).enumerate() {
            let facts = part.iter().flat_map(|(recording, annotations)| {
                let annotations = annotations.clone();
                [document(recording), sidetone_log::Fact::Annotations { recording: recording.id, annotations }]
            });
            apply_facts(&catalog, (number * 100) as u64 + 1, facts);
            for (recording, annotations) in part {
                let shown = Recording { annotations: annotations.clone(), ..recording.clone() };
                all.insert(recording.id, shown);
            }
        }
        for (filter, limit, limits) in &filters {
            catalog = catalog.with_limits(*limits);
            let mut expected: Vec<RecordingId> =
                all.values().filter(|recording| matches(filter, recording)).map(|recording| recording.id).collect();
            let found = all_pages(&catalog, filter, *limit);
            prop_assert!(found.is_sorted_by_key(|recording| std::cmp::Reverse(recording.started_at.0 / 1_000_000)));
            for recording in &found {
                prop_assert_eq!(Some(recording), all.get(&recording.id));
            }
            let mut ids: Vec<RecordingId> = found.iter().map(|recording| recording.id).collect();
            ids.sort_unstable();
            expected.sort_unstable();
            prop_assert_eq!(&ids, &expected, "{:?}", filter);
            let count = catalog.count(filter).unwrap();
            prop_assert!(!count.exact || count.recordings == expected.len() as u64, "{count:?} {}", expected.len());
            prop_assert!(count.exact || limits.count_work < 200);
        }
    }

    #[test]
    fn any_text_as_a_cursor_is_refused_or_means_itself(text in "\\PC{0,60}|[0-9a-f]{47,49}") {
        if let Ok(cursor) = text.parse::<Cursor>() {
            prop_assert_eq!(cursor.to_string(), text);
        }
    }
}

#[test]
fn a_part_that_very_many_numbers_contain_is_found_all_the_same() {
    let (_directory, catalog) = open();
    let all: Vec<Recording> = (0..200u8)
        .map(|number| {
            let party = format!("+4930{:05}", u32::from(number) * 37);
            recording(number, u64::from(number % 50), STATES[usize::from(number % 3)], &[(&party, "")])
        })
        .collect();
    apply_facts(&catalog, 1, all.iter().map(document));
    for part in ["0", "4930", "37", "00", "+49300"] {
        for state in STATES {
            let filter = Filter::And(vec![Filter::party(part), Filter::State(state)]);
            let expected = all.iter().filter(|recording| matches(&filter, recording)).count();
            assert_eq!(all_pages(&catalog, &filter, 7).len(), expected, "{filter:?}");
        }
    }
}

#[test]
fn paging_is_stable_while_recordings_arrive() {
    let (_directory, catalog) = open();
    let make = |number: u8, milliseconds: u64| recording(number, milliseconds * 1_000_000, STATES[1], &[]);
    apply_facts(&catalog, 1, (0..20).map(|number| document(&make(number, 100))));
    let query = Query { limit: 6, ..Query::default() };
    let first = catalog.search(&query).unwrap();
    // Newer ones arrive, and one on the first page changes its state.
    apply_facts(&catalog, 50, (50..60).map(|number| document(&make(number, 200))));
    let seen_first = first.recordings[0].clone();
    apply_facts(&catalog, 70, [document(&Recording { state: STATES[2], ..seen_first })]);
    let mut seen: Vec<RecordingId> = first.recordings.iter().map(|recording| recording.id).collect();
    let mut cursor = first.next;
    while let Some(at) = cursor {
        let page = catalog.search(&Query { cursor: Some(at), ..query.clone() }).unwrap();
        seen.extend(page.recordings.iter().map(|recording| recording.id));
        cursor = page.next;
    }
    seen.sort_unstable();
    assert_eq!(seen, (0..20).map(id).collect::<Vec<_>>());
}

#[test]
fn long_and_strange_texts_are_found_by_what_is_kept_of_them() {
    let (_directory, catalog) = open();
    let name = format!("  Straße\tNord\u{0} {}", "x".repeat(300));
    apply_facts(&catalog, 1, [document(&recording(1, 1, STATES[1], &[("", &name)]))]);
    let search = |part: &str| all_pages(&catalog, &Filter::party(part), 9).len();
    assert_eq!(search("straße nord"), 1);
    assert_eq!(search(&"x".repeat(51)), 1);
    assert_eq!(search(&"x".repeat(52)), 0);
    assert_eq!(search(&"x".repeat(100_000)), 0);
    let simple = RecordingQuery { party: Some(" \t".into()), ..RecordingQuery::default() };
    assert_eq!(catalog.search(&Query::from(&simple)).unwrap().recordings.len(), 1, "white space alone is no condition");
}

#[test]
fn a_count_is_exact_up_to_a_thousand_and_an_estimate_beyond() {
    let (_directory, catalog) = open();
    for start in [0u32, 1000] {
        let facts = (start..start + 1000).map(|number| {
            let mut one = recording(0, u64::from(number) * 1_000_000, STATES[1], &[("12345", "")]);
            one.id = RecordingId(uuid::Uuid::from_u128(u128::from(number) << 70));
            document(&one)
        });
        apply_facts(&catalog, u64::from(start) + 1, facts);
        let count = catalog.count(&Filter::party("234")).unwrap();
        assert_eq!(count, Count { recordings: 1000, exact: start == 0 });
        catalog.compact().unwrap();
    }
    // By the room that the rest takes in tables.
    let count = catalog.count(&Filter::party("234")).unwrap();
    assert!(!count.exact && (1500..2500).contains(&count.recordings), "{count:?}");
    let newest = Filter::Started((CaptureTime(1_500_000_000)..).into());
    assert_eq!(catalog.count(&newest).unwrap(), Count { recordings: 500, exact: true });
}

#[test]
fn a_filter_of_very_many_conditions_is_refused() {
    let (_directory, catalog) = open();
    let filter = |conditions| Filter::Or(vec![Filter::OnHold; conditions]);
    assert!(catalog.search(&Query::new(filter(FILTER_CONDITIONS_MAX - 1))).is_ok());
    assert!(matches!(catalog.search(&Query::new(filter(FILTER_CONDITIONS_MAX))), Err(CatalogError::FilterTooLarge)));
    assert!(matches!(catalog.count(&filter(FILTER_CONDITIONS_MAX)), Err(CatalogError::FilterTooLarge)));
}
