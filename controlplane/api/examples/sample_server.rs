//! The API and its page over made-up recordings, without a network to record: for looking at the page, and for its
//! browser test.
//!
//! `cargo run --release -p sidetone-api --example sample_server -- [ADDRESS:PORT]` serves until its standard input ends.

#[path = "../tests/support/mod.rs"]
mod support;

use sidetone_api::Event;
use sidetone_model::{CaptureTime, Hold, Recording, RecordingState};
use sidetone_store::{AnnotationChange, VolumeState};
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const PEOPLE: [(&str, &str); 8] = [
    ("+4930555014", "Anna Schäfer"),
    ("+4940777120", "Jonas Berg"),
    ("+442079460018", "Priya Nair"),
    ("+33142685300", "Accueil Lyon"),
    ("1001", "Front desk"),
    ("+12025550147", "Marcus Webb"),
    ("", ""),
    ("+498932100100", "Dr. K. Lindqvist"),
];

fn main() {
    let listen = std::env::args().nth(1).map_or("127.0.0.1:0".to_owned(), |text| text).parse().expect("ADDRESS:PORT");
    let now = CaptureTime(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64));
    let kept: Vec<Recording> = (0..24).map(|number| sample(now, number)).collect();
    let mut server = support::Server::start_at(listen, &kept);
    println!("http://{}", server.address);
    dress_up(&server, &kept);

    let done = Arc::new(AtomicBool::new(false));
    let (told, events, stop) = (Arc::clone(&server.told), server.events.clone(), Arc::clone(&done));
    let beat = std::thread::spawn(move || {
        let mut calls: Vec<Arc<Recording>> =
            (0..3).map(|number| Arc::new(live(now, 100 + number, 20 + 47 * number))).collect();
        for call in &calls {
            events.publish(Event::CallStarted(Arc::clone(call)));
        }
        while !stop.load(Ordering::Relaxed) {
            told.calls.lock().unwrap().clone_from(&calls);
            std::thread::sleep(Duration::from_secs(1));
            for call in &mut calls {
                let call = Arc::make_mut(call);
                for track in &mut call.tracks {
                    track.duration_seconds += 1.0;
                    track.streams[0].packets += 50;
                }
                events.publish(Event::CallUpdated(Arc::new(call.clone())));
            }
        }
    });
    let mut input = Vec::new();
    std::io::stdin().read_to_end(&mut input).expect("standard input");
    done.store(true, Ordering::Relaxed);
    beat.join().expect("the thread that makes events");
    server.stop();
}

/// Volumes, of which one runs out of space, and annotations on some recordings.
fn dress_up(server: &support::Server, kept: &[Recording]) {
    *server.told.volumes.lock().unwrap() = vec![
        support::volume(0, "/var/lib/sidetone", VolumeState::Ok, 2_911_000_000_000),
        support::volume(1, "/mnt/archive", VolumeState::Low, 391_000_000_000),
        support::volume(2, "/mnt/usb", VolumeState::Missing, 0),
    ];
    for recording in kept.iter().step_by(3) {
        let tags = [("customer", "Nordwind GmbH"), ("case", "2026/4711"), ("checked", "")];
        let mut change = AnnotationChange::default();
        change.set_tags.extend(tags.map(|(key, value)| (key.to_owned(), value.to_owned())));
        if recording.id == kept[3].id {
            let reason = "Court order 5 O 17/26".to_owned();
            change.hold = Some(Some(Hold { reason, by: "A. Schäfer".into(), at: recording.started_at }));
        }
        server.store.annotate(recording.id, &change).expect("the store can be written");
    }
}

/// The newest is the shortest; every ninth has a gap, every sixth lost packets in the network.
fn sample(now: CaptureTime, number: u64) -> Recording {
    let age = 150 + number * 4100;
    let duration = [12.0, 41.0, 95.0, 7.0, 31.0, 63.0][number as usize % 6];
    let mut recording = dress(now.saturating_sub(Duration::from_secs(age)), number, duration);
    recording.gaps.clear();
    if number % 9 == 4 {
        recording.state = RecordingState::Incomplete;
        let from = recording.started_at.saturating_add(Duration::from_secs(11));
        let to = Some(from.saturating_add(Duration::from_secs(4)));
        recording.gaps.push(sidetone_model::Gap { from, to, reason: "the recorder was restarted".into() });
    }
    if number % 6 == 1 {
        recording.tracks[1].losses.network = 12;
        recording.tracks[1].streams[0].lost = 12;
        recording.tracks[1].concealed_seconds = 0.24;
    }
    recording
}

fn live(now: CaptureTime, number: u64, age_seconds: u64) -> Recording {
    let mut recording = dress(now.saturating_sub(Duration::from_secs(age_seconds)), number, age_seconds as f64);
    recording.state = RecordingState::Active;
    recording.ended_at = None;
    recording.end_reason = None;
    recording.gaps.clear();
    if age_seconds < 30 {
        recording.answered_at = None;
    }
    recording
}

fn dress(started_at: CaptureTime, number: u64, duration_seconds: f64) -> Recording {
    let at = |seconds: f64| started_at.saturating_add(Duration::from_secs_f64(seconds));
    let mut recording = support::sample::recording(number);
    recording.id = sidetone_model::RecordingId::derive(sidetone_model::Seed([9; 16]), started_at, &number.to_string());
    recording.node.0 = "hamburg-1".into();
    recording.started_at = started_at;
    recording.answered_at = Some(at(2.0));
    recording.ended_at = Some(at(duration_seconds + 2.0));
    recording.duration_seconds = duration_seconds;
    recording.legs[0].started_at = started_at;
    recording.legs[0].answered_at = recording.answered_at;
    recording.legs[0].ended_at = recording.ended_at;
    for (party, index) in recording.parties.iter_mut().zip([number, number * 3 + 1]) {
        let (digits, name) = PEOPLE[index as usize % PEOPLE.len()];
        (party.number, party.name) = (digits.into(), name.into());
        party.joined_at = started_at;
    }
    for (track, offset) in recording.tracks.iter_mut().zip([0.0, 0.4]) {
        track.start_offset_seconds = offset;
        track.duration_seconds = duration_seconds - offset;
        track.streams[0].from = at(2.0 + offset);
        track.streams[0].to = at(2.0 + duration_seconds);
        track.streams[0].packets = (track.duration_seconds * 50.0) as u64;
    }
    recording
}
