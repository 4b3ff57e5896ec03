//! Twelve questions as people ask them, each with other values every time.

use super::world::{AGENTS, Random, World, YEARS_SECONDS};
use sidetone_catalog::{Filter, Measure, Query, Span, TextField, TextMatch};
use sidetone_model::{CaptureTime, RecordingState};
use std::time::Duration;

pub(super) const QUESTIONS: [&str; 12] = [
    "the newest",
    "of one day",
    "number",
    "last six digits of a number",
    "first nine characters of a number",
    "six digits within a number",
    "beginning of a word of a name, in a week",
    "one of two users, not incomplete, in a month",
    "incomplete, in a month",
    "longer than 15 min with loss, on a day",
    "tag with a value",
    "free text: a name, and digits",
];

pub(super) fn question(world: &World, index: usize, random: &mut Random) -> Query {
    let known = random.below(world.recordings);
    let recording = world.recording(known);
    let outside = recording.parties.iter().find(|party| party.number.starts_with('+')).unwrap_or(&recording.parties[0]);
    let digits = &outside.number;
    let number = |matching| Filter::Text(TextField::Number, matching);
    let filter = match index {
        0 => Filter::everything(),
        1 => days(random, 1),
        2 => number(TextMatch::Is(digits.clone())),
        3 => number(TextMatch::EndsWith(digits[digits.len().saturating_sub(6)..].to_owned())),
        4 => number(TextMatch::StartsWith(digits[..digits.len().min(9)].to_owned())),
        5 => number(TextMatch::Contains(digits[digits.len().saturating_sub(7)..digits.len() - 1].to_owned())),
        6 => {
            let name = world.agent(random.below(AGENTS)).name;
            let last = name.split(' ').next_back().unwrap_or_default();
            let start: String = last.chars().take(5).collect();
            Filter::And(vec![Filter::Text(TextField::Name, TextMatch::WordStartsWith(start)), days(random, 7)])
        }
        7 => {
            let mut user = || {
                let user = world.agent(random.below(AGENTS)).user.unwrap_or_default();
                Filter::Text(TextField::User, TextMatch::Is(user))
            };
            let either = Filter::Or(vec![user(), user()]);
            let not = Filter::Not(Box::new(Filter::State(RecordingState::Incomplete)));
            Filter::And(vec![either, not, days(random, 30)])
        }
        8 => Filter::And(vec![Filter::State(RecordingState::Incomplete), days(random, 30)]),
        9 => {
            let long = Filter::Duration(Span { from: Some(900.0), to: None });
            let lossy = Filter::Quality(Measure::LossShare, Span { from: Some(0.002), to: None });
            Filter::And(vec![days(random, 1), long, lossy])
        }
        10 => {
            let case = (known..).find_map(|number| world.case(number)).unwrap_or_default();
            Filter::Tag { key: "case".into(), value: Some(format!("C-{case:07}")) }
        }
        _ => {
            let name = world.agent(random.below(AGENTS)).name;
            let last = name.split(' ').next_back().unwrap_or_default();
            Filter::free_text(&format!("{last} {}", &digits[digits.len().saturating_sub(5)..]))
        }
    };
    Query::new(filter)
}

fn days(random: &mut Random, days: u64) -> Filter {
    let world = World { seed: 0, recordings: 1 };
    let before = Duration::from_secs(random.below(YEARS_SECONDS - days * 86_400));
    let to = world.end().saturating_sub(before);
    let from: CaptureTime = to.saturating_sub(Duration::from_secs(days * 86_400));
    Filter::Started((from..to).into())
}
