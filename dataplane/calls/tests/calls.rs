//! Scenarios: what is on the wire, and what recordings come of it.

mod world;

use sidetone_calls::{NotRecordedReason, Orphans, RestoreError, StoredAudio, TrackerConfig};
use sidetone_model::{CaptureTime, Domain, EndReason, Losses, RecordingState, SavedCall, Side, TrackId};
use sidetone_signalling::event::*;
use std::time::Duration;
use world::*;

const A: &str = "10.0.0.1:4000";
const B: &str = "10.0.0.2:6000";

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn an_answered_call_becomes_one_recording_with_two_tracks() {
    let mut world = World::new(config());
    let call = leg("1@a");
    world.answered_call(&call, A, B);
    let near = world.stream(A, B, 1);
    let far = world.stream(B, A, 2);
    world.talk(&[near, far], 30);
    world.hang_up(&call);
    world.pass(seconds(10));
    let recording = world.recording();
    assert_eq!(recording.state, RecordingState::Complete);
    assert_eq!(recording.end_reason, Some(EndReason::CallerHungUp));
    assert_eq!(recording.started_at, START);
    assert_eq!(recording.answered_at.unwrap().since(START), Duration::from_millis(500));
    assert_eq!(recording.legs.len(), 1);
    assert_eq!(recording.legs[0].call_id, "1@a");
    assert_eq!(recording.legs[0].answered_at, recording.answered_at);
    assert_eq!(recording.parties.iter().map(|p| p.number.as_str()).collect::<Vec<_>>(), ["100", "200"]);
    assert_eq!(recording.tracks.len(), 2);
    assert_eq!((recording.tracks[0].side, recording.tracks[0].party), (Side::Near, Some(0)));
    assert_eq!(recording.tracks[0].streams[0].source, A);
    assert_eq!(recording.tracks[1].streams[0].source, B);
    assert_eq!(recording.tracks[0].streams[0].packets, 1500);
    assert!((recording.duration_seconds - 30.0).abs() < 0.001, "{}", recording.duration_seconds);
    assert_eq!(world.closed[&recording.id], 1);
    let statistics = world.tracker.statistics();
    assert_eq!((statistics.calls_seen, statistics.calls_recorded, statistics.calls_active), (1, 1, 0));
}

#[test]
fn media_before_its_signalling_is_claimed_from_the_pre_roll() {
    let mut world = World::new(config());
    let near = world.stream(A, B, 1);
    let far = world.stream(B, A, 2);
    world.pass(seconds(3));
    assert!(world.tracks.is_empty() && world.discarded.is_empty());
    world.answered_call(&leg("1@a"), A, B);
    assert_eq!(world.track_of(near).unwrap().1, 0);
    assert_eq!(world.track_of(far).unwrap().1, 1);
}

#[test]
fn early_media_waits_for_the_answer() {
    let mut world = World::new(config());
    let call = leg("1@a");
    world.start(&call, identity("1", "10.0.0.1:5060"), identity("2", "10.0.0.2:5060"));
    world.media(&call, LegSide::Caller, MediaPhase::Preview, vec![audio(A)]);
    let ringback = world.stream(B, A, 2);
    world.pass(seconds(25));
    assert!(world.tracks.is_empty() && world.discarded.is_empty(), "{:?}", world.history);
    world.answer(&call, A, B);
    assert_eq!(world.track_of(ringback).unwrap().1, 1);
}

#[test]
fn an_unanswered_call_is_not_recorded_unless_it_is_wanted() {
    for (keep, recordings) in [(false, 0), (true, 1)] {
        let mut world = World::new(TrackerConfig { keep_unanswered: keep, ..config() });
        let call = leg("1@a");
        world.start(&call, identity("1", "10.0.0.1:5060"), identity("2", "10.0.0.2:5060"));
        world.media(&call, LegSide::Caller, MediaPhase::Preview, vec![audio(A)]);
        let ringback = world.stream(B, A, 2);
        world.talk(&[ringback], 5);
        world.event(&call, CallEventKind::Ended { reason: EndReason::Cancelled, detail: "487".into() });
        world.pass(seconds(20));
        assert_eq!(world.documents.len(), recordings);
        if keep {
            assert_eq!(world.recording().answered_at, None);
            assert_eq!(world.recording().end_reason, Some(EndReason::Cancelled));
        } else {
            assert_eq!(world.not_recorded, [("1@a".to_owned(), NotRecordedReason::Unanswered)]);
            assert!(world.discarded.contains(&ringback));
            world.gone(ringback);
            let unclaimed: Vec<_> = world.tracker.unclaimed().collect();
            assert_eq!((unclaimed.len(), unclaimed[0].packets), (1, 250));
        }
    }
}

#[test]
fn calls_without_audio_are_not_recorded_with_the_reason() {
    let mut fax = audio(A);
    fax.kind = MediaKind::Image;
    let mut video = audio(A);
    video.kind = MediaKind::Video;
    video.formats = vec![format(34, "H263")];
    let mut silent_audio = audio("10.0.0.1:4002");
    silent_audio.formats = vec![format(8, "PCMA")];
    let table = [
        ("answered, no stream", vec![audio(A)], None, NotRecordedReason::NoMedia),
        ("fax only", vec![fax], None, NotRecordedReason::NoAudio),
        ("video stream, silent audio", vec![silent_audio, video], Some(34), NotRecordedReason::NoAudio),
    ];
    for (what, bindings, payload_type, reason) in table {
        let mut world = World::new(config());
        let call = leg("1@a");
        world.start(&call, identity("1", "10.0.0.1:5060"), identity("2", "10.0.0.2:5060"));
        world.media(&call, LegSide::Caller, MediaPhase::Committed, bindings);
        world.event(&call, CallEventKind::Answered);
        if let Some(payload_type) = payload_type {
            let stream = world.stream_of(Domain::default(), B, A, 9, payload_type);
            assert!(world.discarded.contains(&stream), "{what}");
        }
        world.hang_up(&call);
        world.pass(seconds(5));
        assert_eq!(world.not_recorded, [("1@a".to_owned(), reason)], "{what}");
        assert!(world.documents.is_empty(), "{what}");
    }
}

#[test]
fn packets_in_flight_after_the_end_belong_to_the_call() {
    let mut world = World::new(config());
    let call = leg("1@a");
    world.answered_call(&call, A, B);
    let near = world.stream(A, B, 1);
    world.talk(&[near], 5);
    world.hang_up(&call);
    world.talk(&[near], 1);
    assert!(world.track_of(near).is_some());
    world.pass(seconds(2));
    assert!(world.track_of(near).is_none());
    assert_eq!(world.recording().tracks[0].streams[0].packets, 300);
}

#[test]
fn consecutive_calls_on_one_address_are_kept_apart() {
    // As in captures where eight calls use one address and payload type with eight codecs, 0.1 s apart.
    let mut world = World::new(config());
    let mut slots = Vec::new();
    for n in 0..8u32 {
        let call = leg(&format!("{n}@a"));
        let callee = format!("10.0.0.2:{}", 6000 + 2 * n);
        world.answered_call(&call, A, &callee);
        let far = world.stream(&callee, A, 100 + n);
        slots.push(world.track_of(far).expect("claimed").0);
        world.talk(&[far], 8);
        world.hang_up(&call);
        world.pass(Duration::from_millis(100));
    }
    world.pass(seconds(10));
    assert_eq!(world.closed.len(), 8);
    for (n, id) in slots.iter().enumerate() {
        let recording = &world.documents[id];
        assert_eq!(recording.legs[0].call_id, format!("{n}@a"));
        assert_eq!(recording.tracks[0].streams.len(), 1);
        assert_eq!(recording.tracks[0].streams[0].ssrc, format!("0x{:08x}", 100 + n));
    }
}

#[test]
fn a_stream_that_runs_on_goes_to_the_next_call_from_its_answer_on() {
    let mut world = World::new(config());
    let (first, second) = (leg("1@a"), leg("2@a"));
    world.answered_call(&first, A, B);
    let far = world.stream(B, A, 2);
    world.talk(&[far], 5);
    let recording = world.track_of(far).unwrap().0;
    world.hang_up(&first);
    world.answered_call(&second, A, B);
    let next = world.track_of(far).unwrap().0;
    assert_ne!(recording, next);
    assert_eq!(world.history, ["record 0 1", "release 0", "record 0 1"]);
}

#[test]
fn a_running_stream_is_not_taken_from_a_live_call() {
    let mut world = World::new(config());
    world.answered_call(&leg("1@a"), A, B);
    let far = world.stream(B, A, 2);
    world.talk(&[far], 10);
    let before = world.track_of(far);
    world.answered_call(&leg("2@a"), A, B);
    world.talk(&[far], 1);
    assert_eq!(world.track_of(far), before);
    let new = world.stream(B, A, 3);
    assert_ne!(world.track_of(new).unwrap().0, before.unwrap().0);
}

#[test]
fn all_calls_on_one_port_pair_are_told_apart_by_time_and_ssrc() {
    let mut world = World::new(config());
    let mut pairs = Vec::new();
    for n in 0..100u32 {
        let call = leg(&format!("{n}@a"));
        world.start(&call, identity("100", "10.0.0.1:5060"), identity("200", "10.0.0.2:5060"));
        world.media(&call, LegSide::Caller, MediaPhase::Preview, vec![audio(A)]);
        world.answer(&call, A, B);
        if n % 5 == 4 {
            // Five calls are answered before the first of them talks.
            for ssrc in n - 4..=n {
                let near = world.stream(A, B, 1000 + ssrc);
                let far = world.stream(B, A, 1000 + ssrc);
                pairs.push((ssrc, near, far));
            }
        }
        world.pass(Duration::from_millis(40));
    }
    assert_eq!(world.documents.len(), 100);
    for (n, near, far) in pairs {
        let (near, far) = (world.track_of(near).unwrap(), world.track_of(far).unwrap());
        assert_eq!((near.0, near.1, far.1), (far.0, 0, 1));
        assert_eq!(world.documents[&near.0].legs[0].call_id, format!("{n}@a"));
        assert_eq!(world.documents[&near.0].legs.len(), 1);
    }
}

#[test]
fn a_phone_behind_an_address_translator_is_found_by_its_peer() {
    // The callee says 192.168.5.151:4000 and is seen as 192.168.20.1:4000.
    let mut world = World::new(config());
    let call = leg("1@a");
    world.start(&call, identity("1", "192.168.20.130:5060"), identity("2", "192.168.20.1:51019"));
    world.answer(&call, "192.168.20.130:17004", "192.168.5.151:4000");
    let near = world.stream("192.168.20.130:17004", "192.168.20.1:4000", 1);
    let far = world.stream("192.168.20.1:4000", "192.168.20.130:17004", 2);
    assert_eq!(world.track_of(near).unwrap().1, 0);
    assert_eq!(world.track_of(far).unwrap().1, 1);
}

#[test]
fn the_other_side_of_a_relay_without_signalling_is_left_alone() {
    let mut world = World::new(config());
    world.answered_call(&leg("1@a"), "200.57.7.196:40376", "200.57.7.204:8000");
    let far = world.stream("200.57.7.204:8000", "200.57.7.196:40376", 0xd2bd_4e3e);
    let far_copy = world.stream("200.57.7.196:40378", "200.57.7.199:4800", 0xd2bd_4e3e);
    let near_copy = world.stream("200.57.7.199:4800", "200.57.7.196:40378", 0x58f3_3dea);
    let near = world.stream("200.57.7.196:40376", "200.57.7.204:8000", 0x58f3_3dea);
    world.talk(&[far, far_copy, near_copy, near], 20);
    assert!(world.track_of(far).is_some() && world.track_of(near).is_some());
    assert!(world.discarded.contains(&far_copy) && world.discarded.contains(&near_copy));
    for slot in [far, far_copy, near_copy, near] {
        world.gone(slot);
    }
    let listed: Vec<_> = world.tracker.unclaimed().map(|u| (u.ssrc.as_str(), u.source.as_str(), u.packets)).collect();
    assert_eq!(listed, [("0xd2bd4e3e", "200.57.7.196:40378", 1000), ("0x58f33dea", "200.57.7.199:4800", 1000)]);
}

#[test]
fn the_same_packets_on_two_hops_feed_the_track_once() {
    let mut world = World::new(config());
    let (one, two) = (leg("1@a"), leg("2@box"));
    world.start(&one, identity("1", "10.0.0.1:5060"), identity("2", "10.0.0.9:5060"));
    world.start(&two, identity("1", "10.0.0.9:5060"), identity("2", "10.0.0.2:5060"));
    let relation = CallEventKind::Related { other_call_id: "1@a".into(), relation: Relation::SameCall };
    world.event(&two, relation);
    world.answer(&one, A, "10.0.0.9:7000");
    world.answer(&two, "10.0.0.9:7002", B);
    let before = world.stream(A, "10.0.0.9:7000", 5);
    let behind = world.stream("10.0.0.9:7002", B, 5);
    world.talk(&[before, behind], 10);
    assert_eq!(world.track_of(before).unwrap().1, 0);
    assert_eq!(world.track_of(behind), None);
    assert_eq!(world.recording().legs.len(), 2);
    // When the first one stops, the other takes over.
    world.talk(&[behind], 5);
    assert_eq!(world.track_of(behind).unwrap().1, 0);
    assert_eq!(world.track_of(before), None);
}

#[test]
fn two_legs_with_direct_media_are_one_recording() {
    // A B2BUA answers both legs itself, then moves the media to the direct path by re-INVITE.
    let mut world = World::new(config());
    let (one, two) = (leg("1@a"), leg("2@box"));
    world.start(&one, identity("telephone1", "172.16.98.1:5060"), identity("2302", "172.16.98.101:5060"));
    world.media(&one, LegSide::Caller, MediaPhase::Preview, vec![audio("172.16.98.1:8000")]);
    world.start(&two, identity("telephone1", "172.16.98.101:5060"), identity("telephone2", "172.16.98.145:40216"));
    world.media(&two, LegSide::Caller, MediaPhase::Preview, vec![audio("172.16.98.101:18010")]);
    world.pass(seconds(7));
    let answered_two = world.now;
    world.answer(&two, "172.16.98.101:18010", "172.16.98.145:8000");
    world.now = world.now.saturating_add(Duration::from_millis(5));
    let answered_one = world.now;
    world.answer(&one, "172.16.98.1:8000", "172.16.98.101:13060");
    world.media(&two, LegSide::Caller, MediaPhase::Preview, vec![audio("172.16.98.1:8000")]);
    world.media(&one, LegSide::Callee, MediaPhase::Preview, vec![audio("172.16.98.145:8000")]);
    world.media(&one, LegSide::Callee, MediaPhase::Committed, vec![audio("172.16.98.145:8000")]);
    world.media(&two, LegSide::Caller, MediaPhase::Committed, vec![audio("172.16.98.1:8000")]);
    let near = world.stream("172.16.98.1:8000", "172.16.98.145:8000", 1);
    let far = world.stream("172.16.98.145:8000", "172.16.98.1:8000", 2);
    world.talk(&[near, far], 7);
    world.hang_up(&one);
    world.media(&two, LegSide::Caller, MediaPhase::Preview, vec![audio("172.16.98.101:18010")]);
    world.pass(Duration::from_millis(240));
    world.hang_up(&two);
    world.pass(seconds(10));
    let recording = world.recording();
    let legs: Vec<_> = recording.legs.iter().map(|leg| (leg.call_id.as_str(), leg.answered_at)).collect();
    assert_eq!(legs, [("1@a", Some(answered_one)), ("2@box", Some(answered_two))]);
    assert_eq!(recording.tracks.len(), 2);
    assert_eq!(recording.state, RecordingState::Complete);
    let statistics = world.tracker.statistics();
    assert_eq!((statistics.calls_seen, statistics.calls_recorded), (1, 1));
}

#[test]
fn legs_that_turn_out_to_be_one_call_late_go_on_in_the_older_recording() {
    let mut world = World::new(config());
    let (one, two) = (leg("1@a"), leg("2@box"));
    world.start(&one, identity("1", "10.0.0.1:5060"), identity("2", "10.0.0.9:5060"));
    world.answer(&one, A, "10.0.0.9:7000");
    let first = world.stream(A, "10.0.0.9:7000", 5);
    world.start(&two, identity("1", "10.0.0.9:5060"), identity("2", "10.0.0.2:5060"));
    world.answer(&two, "10.0.0.9:7002", B);
    let second = world.stream(B, "10.0.0.9:7002", 6);
    world.talk(&[first, second], 5);
    let older = world.track_of(first).unwrap().0;
    let younger = world.track_of(second).unwrap().0;
    assert_ne!(older, younger);
    world.media(&two, LegSide::Caller, MediaPhase::Committed, vec![audio(A)]);
    let direct = world.stream(B, A, 7);
    assert_eq!(world.track_of(direct), Some((older, 1)));
    world.talk(&[direct], 5);
    world.hang_up(&one);
    world.hang_up(&two);
    world.pass(seconds(10));
    assert_eq!(world.closed.len(), 2);
    let (older, younger) = (&world.documents[&older], &world.documents[&younger]);
    assert_eq!(younger.end_reason, Some(EndReason::Replaced));
    assert_eq!(older.end_reason, Some(EndReason::CallerHungUp));
    assert_eq!(older.legs.len(), 2);
    assert_eq!(older.conversation_id, younger.conversation_id);
    assert!(younger.legs.iter().all(|leg| leg.answered_at.is_some()));
}

#[test]
fn a_transfer_is_a_call_of_its_own_in_the_same_conversation() {
    let mut world = World::new(config());
    let (one, two) = (leg("1@a"), leg("2@a"));
    world.answered_call(&one, A, B);
    let first = world.stream(B, A, 1);
    world.talk(&[first], 3);
    world.start(&two, identity("300", "10.0.0.3:5060"), identity("100", "10.0.0.1:5060"));
    world.event(&two, CallEventKind::Related { other_call_id: "1@a".into(), relation: Relation::Replaces });
    world.answer(&two, "10.0.0.3:4000", "10.0.0.1:4010");
    let second = world.stream("10.0.0.3:4000", "10.0.0.1:4010", 2);
    world.hang_up(&one);
    world.talk(&[second], 3);
    world.hang_up(&two);
    world.pass(seconds(10));
    let recordings = world.recordings();
    assert_eq!(recordings.len(), 2);
    assert_eq!(recordings[0].conversation_id, recordings[1].conversation_id);
    assert_eq!(recordings[0].end_reason, Some(EndReason::Replaced));
    assert_eq!(recordings[1].end_reason, Some(EndReason::CallerHungUp));
}

#[test]
fn a_changed_codec_is_told_to_the_encoder() {
    let mut world = World::new(config());
    let call = leg("1@a");
    world.answered_call(&call, A, B);
    let far = world.stream(B, A, 1);
    let mut wideband = audio(A);
    wideband.formats = vec![format(9, "G722")];
    world.media(&call, LegSide::Caller, MediaPhase::Committed, vec![wideband]);
    assert_eq!(world.history, ["record 0 1", "record 0 1"]);
    assert_eq!(&*world.tracks[&far].2.formats[0].encoding, "G722");
    // Said again, nothing changes.
    let mut again = audio(A);
    again.formats = vec![format(9, "G722")];
    world.media(&call, LegSide::Caller, MediaPhase::Committed, vec![again]);
    assert_eq!(world.history.len(), 2);
}

#[test]
fn a_changed_ssrc_stays_on_the_track_and_a_moved_peer_takes_over() {
    let mut world = World::new(config());
    let call = leg("1@a");
    world.answered_call(&call, A, B);
    let far = world.stream(B, A, 1);
    let near = world.stream(A, B, 9);
    world.talk(&[far, near], 3);
    let next = world.stream(B, A, 2);
    assert_eq!(world.track_of(next), world.track_of(far));
    // The callee moves; the caller keeps its SSRC and sends to the new address at once.
    world.media(&call, LegSide::Callee, MediaPhase::Committed, vec![audio("10.0.0.7:6100")]);
    let moved = world.stream(A, "10.0.0.7:6100", 9);
    assert_eq!(world.track_of(moved).unwrap().1, 0);
    assert_eq!(world.track_of(near), None);
}

#[test]
fn streams_that_no_binding_names_any_more_are_released_after_a_grace() {
    let mut world = World::new(config());
    let call = leg("1@a");
    world.answered_call(&call, A, B);
    let far = world.stream("10.0.0.2:6000", A, 1);
    world.media(&call, LegSide::Caller, MediaPhase::Committed, vec![audio("10.0.0.8:4000")]);
    world.media(&call, LegSide::Callee, MediaPhase::Committed, vec![audio("10.0.0.7:6000")]);
    world.talk(&[far], 1);
    assert!(world.track_of(far).is_some());
    world.pass(seconds(2));
    assert!(world.track_of(far).is_none());
}

#[test]
fn encrypted_media_is_recorded_and_flagged() {
    let mut world = World::new(config());
    let call = leg("1@a");
    let mut secure = audio(A);
    secure.security = MediaSecurity::Sdes(vec!["1 AES_CM_128_HMAC_SHA1_80 inline:x".into()]);
    world.start(&call, identity("1", "10.0.0.1:5060"), identity("2", "10.0.0.2:5060"));
    world.media(&call, LegSide::Caller, MediaPhase::Committed, vec![secure]);
    world.event(&call, CallEventKind::Answered);
    let far = world.stream(B, A, 1);
    assert!(world.tracks[&far].2.encrypted);
    world.talk(&[far], 2);
    world.hang_up(&call);
    world.pass(seconds(5));
    let track = &world.recording().tracks[0];
    assert!(track.encrypted && !track.decodable);
    assert_eq!(track.streams[0].packets, 100);
}

#[test]
fn a_missing_bye_ends_in_silence_at_the_last_packet() {
    let mut world = World::new(config());
    world.answered_call(&leg("1@a"), A, B);
    let far = world.stream(B, A, 1);
    world.talk(&[far], 10);
    let last = world.now;
    world.pass(seconds(55));
    assert_eq!(world.recording().state, RecordingState::Active);
    world.pass(seconds(20));
    let recording = world.recording();
    assert_eq!(recording.state, RecordingState::Complete);
    assert_eq!(recording.end_reason, Some(EndReason::MediaSilence));
    assert!(recording.ended_at.unwrap().signed_nanos_since(last).abs() < 100_000_000);
    assert_eq!(world.tracker.take_given_up_legs(), [leg("1@a")]);
    assert!(world.tracker.take_given_up_legs().is_empty() && world.tracker.live_legs().next().is_none());
}

#[test]
fn hold_is_no_end() {
    let mut world = World::new(config());
    let call = leg("1@a");
    world.answered_call(&call, A, B);
    let far = world.stream(B, A, 1);
    world.talk(&[far], 10);
    let mut held = audio(A);
    held.direction = MediaDirection::Inactive;
    world.media(&call, LegSide::Caller, MediaPhase::Committed, vec![held]);
    world.pass(seconds(3600));
    assert_eq!(world.recording().state, RecordingState::Active);
    world.media(&call, LegSide::Caller, MediaPhase::Committed, vec![audio(A)]);
    let again = world.stream(B, A, 1);
    assert!(world.track_of(again).is_some());
    world.pass(seconds(70));
    assert_eq!(world.recording().end_reason, Some(EndReason::MediaSilence));
}

#[test]
fn an_expired_session_ends_unless_somebody_speaks() {
    let mut world = World::new(TrackerConfig { media_silence: seconds(600), ..config() });
    let call = leg("1@a");
    world.answered_call(&call, A, B);
    let far = world.stream(B, A, 1);
    let expires_at = world.now.saturating_add(seconds(90));
    world.event(&call, CallEventKind::Refreshed { expires_at: Some(expires_at) });
    world.talk(&[far], 120);
    assert_eq!(world.recording().state, RecordingState::Active, "the refresh was missed, the call goes on");
    world.pass(seconds(20));
    assert_eq!(world.recording().end_reason, Some(EndReason::SessionExpired));
}

#[test]
fn a_call_in_progress_is_recorded_without_an_answer() {
    let mut world = World::new(config());
    let call = leg("1@a");
    world.start_with(&call, identity("1", "10.0.0.1:5060"), identity("2", "10.0.0.2:5060"), true);
    let far = world.stream(B, A, 1);
    world.pass(seconds(15));
    assert!(world.discarded.contains(&far));
    // A re-INVITE shows where its media is: what was discarded comes back.
    world.media(&call, LegSide::Caller, MediaPhase::Committed, vec![audio(A)]);
    assert!(world.expected.contains(&address(A)));
    assert_eq!(world.track_of(far).unwrap().1, 1);
    assert_eq!(world.recording().answered_at, None);
}

#[test]
fn domains_are_different_networks() {
    let vlan = Domain { vlan_outer: 7, ..Domain::default() };
    let mut world = World::new(config());
    world.answered_call(&leg("1@a"), A, B);
    world.answered_call(&leg_in("2@a", vlan), A, B);
    let plain = world.stream(A, B, 1);
    let tagged = world.stream_of(vlan, A, B, 1, 8);
    let (plain, tagged) = (world.track_of(plain).unwrap(), world.track_of(tagged).unwrap());
    assert_eq!(world.documents[&plain.0].legs[0].call_id, "1@a");
    assert_eq!(world.documents[&tagged.0].legs[0].call_id, "2@a");
}

#[test]
fn one_dialog_mirrored_in_two_domains_is_one_recording() {
    let vlan = Domain { vlan_outer: 7, ..Domain::default() };
    let mut world = World::new(config());
    for domain in [Domain::default(), vlan] {
        world.answered_call(&leg_in("1@a", domain), A, B);
    }
    let plain = world.stream(A, B, 1);
    let tagged = world.stream_of(vlan, A, B, 1, 8);
    assert!(world.track_of(plain).is_some() && world.track_of(tagged).is_none());
    assert_eq!(world.recording().legs.len(), 2);
}

#[test]
fn unclaimed_streams_are_discarded_after_the_pre_roll_and_come_back_with_signalling() {
    let mut world = World::new(config());
    let far = world.stream(B, A, 1);
    world.pass(seconds(9));
    assert!(world.discarded.is_empty());
    world.pass(seconds(2));
    assert_eq!(world.discarded.iter().copied().collect::<Vec<_>>(), [far]);
    world.answered_call(&leg("1@a"), A, B);
    assert!(world.expected.contains(&address(A)) && world.expected.contains(&address(B)));
    assert!(world.track_of(far).is_some());
}

#[test]
fn orphans_become_recordings_without_legs_with_both_directions() {
    let mut world = World::new(TrackerConfig { orphans: Orphans::Record, ..config() });
    let one = world.stream(A, B, 1);
    let other = world.stream(B, A, 2);
    let elsewhere = world.stream("10.9.9.9:4000", "10.9.9.8:4000", 3);
    world.talk(&[one, other, elsewhere], 20);
    assert_eq!(world.documents.len(), 2);
    assert_eq!(world.track_of(one).unwrap().0, world.track_of(other).unwrap().0);
    assert_ne!(world.track_of(one).unwrap().1, world.track_of(other).unwrap().1);
    let orphan = world.track_of(one).unwrap().0;
    // Signalling comes late: the call takes its streams.
    world.answered_call(&leg("1@a"), A, B);
    assert_ne!(world.track_of(one).unwrap().0, orphan);
    world.pass(seconds(120));
    assert!(world.documents[&orphan].legs.is_empty());
    assert_eq!(world.documents[&orphan].end_reason, Some(EndReason::MediaSilence));
    assert_eq!(world.tracker.statistics().orphans_recorded, 2);
    assert_eq!(world.closed.len(), 3);
}

#[test]
fn losses_of_the_recorder_make_a_recording_incomplete() {
    let mut world = World::new(config());
    world.losses = Losses { encoder: 3, network: 5, ..Losses::default() };
    let call = leg("1@a");
    world.answered_call(&call, A, B);
    let far = world.stream(B, A, 1);
    world.talk(&[far], 2);
    world.hang_up(&call);
    world.pass(seconds(5));
    assert_eq!(world.recording().state, RecordingState::Incomplete);
}

#[test]
fn an_encoder_that_does_not_answer_leaves_an_incomplete_recording() {
    let mut world = World::new(config());
    world.mute = true;
    let call = leg("1@a");
    world.answered_call(&call, A, B);
    let far = world.stream(B, A, 1);
    world.talk(&[far], 2);
    world.hang_up(&call);
    world.pass(seconds(8));
    assert_eq!(world.recording().state, RecordingState::Incomplete);
    assert_eq!(world.recording().gaps[0].reason, "encoder_lost");
    assert_eq!(world.tracker.statistics().final_reports_missing, 1);
}

#[test]
fn a_restart_goes_on_in_the_same_recording_with_a_gap() {
    let mut world = World::new(config());
    let call = leg("1@a");
    world.answered_call(&call, A, B);
    let (near, far) = (world.stream(A, B, 1), world.stream(B, A, 2));
    world.talk(&[near, far], 10);
    let id = world.recording().id;
    let until = world.now;
    world.restart(config(), seconds(3));
    let (near, far) = (world.stream(A, B, 1), world.stream(B, A, 2));
    assert_eq!((world.track_of(near), world.track_of(far)), (Some((id, 0)), Some((id, 1))));
    let back = world.now;
    world.talk(&[near, far], 5);
    assert_eq!(world.recording().gaps.len(), 1);
    world.hang_up(&call);
    world.pass(seconds(5));
    let recording = world.recording();
    assert_eq!(recording.state, RecordingState::Incomplete);
    assert_eq!(recording.gaps[0].reason, "restart");
    assert_eq!((recording.gaps[0].from, recording.gaps[0].to), (until, Some(back)));
    assert_eq!(recording.end_reason, Some(EndReason::CallerHungUp));
    assert_eq!(recording.tracks[0].streams.len(), 1);
    assert_eq!(recording.tracks[0].streams[0].packets, 750);
    assert!((recording.duration_seconds - 18.0).abs() < 0.001, "{}", recording.duration_seconds);
}

/// What was saved is older than what was stored on one track, newer on none, and lacks a track.
#[test]
fn after_a_kill_the_gap_begins_where_the_store_has_no_more_audio() {
    let mut world = World::new(config());
    let call = leg("1@a");
    world.answered_call(&call, A, B);
    let near = world.stream(A, B, 1);
    let begin = world.now;
    world.talk(&[near], 12);
    let far = world.stream(B, A, 2);
    world.talk(&[near, far], 4);
    let saved = world.recording().clone();
    assert!(saved.duration_seconds < 12.0 && saved.tracks.len() == 1, "saved a while ago: {saved:?}");
    let stored_until = world.now.saturating_sub(Duration::from_millis(700));
    let stored = |until: CaptureTime| {
        let far_from = begin.saturating_add(seconds(12));
        vec![
            StoredAudio { track: TrackId(0), spans: vec![(begin, until)] },
            StoredAudio { track: TrackId(1), spans: vec![(far_from, until)] },
        ]
    };
    world.kill(config(), seconds(2), &stored(stored_until));
    let gap = world.recording().gaps[0].clone();
    assert_eq!((gap.from, gap.to, gap.reason.as_str()), (stored_until, None, "restart"));
    assert_eq!(world.recording().tracks.len(), 2, "a track that was never saved is known by its audio");

    // It is heard again, and killed before anything is saved of it: the first gap ends where the store's audio goes on.
    world.stream(A, B, 1);
    world.stream(B, A, 2);
    let back = world.now.saturating_add(Duration::from_millis(40));
    world.pass(seconds(3));
    let second_until = world.now.saturating_sub(Duration::from_millis(300));
    let mut audio = stored(stored_until);
    audio[0].spans.push((back, second_until));
    audio[1].spans.push((back.saturating_add(Duration::from_millis(20)), second_until));
    world.kill(config(), seconds(2), &audio);
    let gaps = world.recording().gaps.clone();
    assert_eq!(gaps.len(), 2, "{gaps:?}");
    assert_eq!((gaps[0].from, gaps[0].to), (stored_until, Some(back)));
    assert_eq!((gaps[1].from, gaps[1].to), (second_until, None));

    // Killed again before there was any audio: the gap goes on.
    world.kill(config(), seconds(2), &audio);
    assert_eq!(world.recording().gaps, gaps);
    let (near, far) = (world.stream(A, B, 1), world.stream(B, A, 2));
    let back = world.now;
    world.talk(&[near, far], 5);
    world.hang_up(&call);
    world.pass(seconds(5));
    let recording = world.recording();
    assert_eq!((recording.state, recording.gaps.len()), (RecordingState::Incomplete, 2));
    assert_eq!(recording.gaps[1].to, Some(back));
    let length = world.measured.values().filter_map(|track| track.audio_until).max().unwrap().since(begin);
    assert!((recording.duration_seconds - length.as_secs_f64()).abs() < 0.001, "{}", recording.duration_seconds);
}

#[test]
fn without_room_nothing_new_is_recorded_and_what_runs_goes_on() {
    let mut world = World::new(config());
    world.answered_call(&leg("1@a"), A, B);
    let running = world.stream(B, A, 1);
    world.talk(&[running], 2);
    let first = world.recording().id;
    world.room(false);
    let (c, d) = ("10.0.0.3:4000", "10.0.0.4:4000");
    world.answered_call(&leg("2@a"), c, d);
    let refused = world.stream(d, c, 2);
    // A second stream of the recording that runs.
    let near = world.stream(A, B, 3);
    world.talk(&[running, refused, near], 5);
    assert_eq!(world.track_of(near), Some((first, 0)));
    assert_eq!((world.track_of(refused), world.documents.len()), (None, 1));
    world.hang_up(&leg("2@a"));
    world.pass(seconds(5));
    assert_eq!(world.not_recorded, [("2@a".to_owned(), NotRecordedReason::NoRoom)]);
    assert_eq!(world.tracker.statistics().not_recorded_no_room, 1);
    assert_eq!(world.tracker.statistics().not_recorded(), 1);
}

#[test]
fn a_call_that_was_refused_is_recorded_once_there_is_room() {
    let mut world = World::new(config());
    world.room(false);
    let call = leg("1@a");
    world.answered_call(&call, A, B);
    let from = world.now;
    let far = world.stream(B, A, 1);
    world.talk(&[far], 20);
    assert!(world.documents.is_empty());
    world.room(true);
    let back = world.now;
    world.talk(&[far], 5);
    let gap = world.recording().gaps[0].clone();
    assert_eq!((gap.from, gap.reason.as_str()), (from, "no_room"));
    assert!(gap.to.is_some_and(|to| to >= back), "{gap:?}");
    world.hang_up(&call);
    world.pass(seconds(5));
    assert_eq!(world.recording().state, RecordingState::Incomplete);
    assert!(world.not_recorded.is_empty());
}

#[test]
fn a_call_that_ended_while_the_process_was_down_is_closed() {
    let mut world = World::new(config());
    world.answered_call(&leg("1@a"), A, B);
    let far = world.stream(B, A, 2);
    world.talk(&[far], 10);
    world.restart(config(), seconds(3));
    world.pass(seconds(70));
    let recording = world.recording();
    assert_eq!(recording.state, RecordingState::Incomplete);
    assert_eq!(recording.end_reason, Some(EndReason::MediaSilence));
}

#[test]
fn what_cannot_be_restored_is_refused_with_the_cause() {
    let mut world = World::new(config());
    world.answered_call(&leg("1@a"), A, B);
    world.stream(B, A, 2);
    let active = world.recording().clone();
    let mut closed = active.clone();
    closed.state = RecordingState::Complete;
    let resume = world.resumes[&active.id].clone();
    let mut out = Vec::new();
    let now = world.now;
    let known = world.tracker.restore(&active, &resume, &[], now, &mut out);
    assert!(matches!(known, Err(RestoreError::AlreadyKnown { .. })));
    let mut fresh = sidetone_calls::Tracker::new(config());
    let ended = fresh.restore(&closed, &resume, &[], now, &mut out);
    assert!(matches!(ended, Err(RestoreError::NotActive { .. })));
    let other = fresh.restore(&active, &SavedCall::from_json(b"{\"version\": 99}").unwrap(), &[], now, &mut out);
    assert!(matches!(other, Err(RestoreError::Version { found: 99, .. })));
    let garbage =
        fresh.restore(&active, &SavedCall::from_json(b"{\"version\": 1, \"legs\": 3}").unwrap(), &[], now, &mut out);
    assert!(matches!(garbage, Err(RestoreError::Unreadable { .. })));
    assert!(out.is_empty() && fresh.restore(&active, &resume, &[], now, &mut out).is_ok());
}

#[test]
fn calls_beyond_the_limit_are_counted_with_a_reason() {
    let mut world = World::new(TrackerConfig { max_calls: 2, max_streams: 2, ..config() });
    for n in 0..4 {
        world.answered_call(&leg(&format!("{n}@a")), &format!("10.0.0.1:{}", 4000 + n), B);
        world.stream(B, &format!("10.0.0.1:{}", 4000 + n), n);
    }
    assert_eq!(world.documents.len(), 2);
    assert_eq!(world.not_recorded.iter().filter(|(_, r)| *r == NotRecordedReason::TooManyCalls).count(), 2);
    assert_eq!(world.discarded.len(), 2);
    let statistics = world.tracker.statistics();
    assert_eq!((statistics.calls_seen, statistics.streams_over_limit), (4, 2));
}

#[test]
fn saves_are_rare_while_only_measurements_change() {
    let mut world = World::new(config());
    world.answered_call(&leg("1@a"), A, B);
    let far = world.stream(B, A, 1);
    let before = world.saves;
    world.talk(&[far], 60);
    assert!((5..=7).contains(&(world.saves - before)), "{} saves in a minute", world.saves - before);
}

#[test]
fn better_identities_reach_the_document() {
    let mut world = World::new(config());
    let call = leg("1@a");
    world.answered_call(&call, A, B);
    world.stream(B, A, 1);
    let named = Identity { number: "200".into(), name: "Berta".into(), address: None };
    world.event(&call, CallEventKind::Identity { side: LegSide::Callee, identity: named });
    assert_eq!(world.recording().parties[1].name, "Berta");
    world.pass(seconds(20));
    let transferred = Identity { number: "300".into(), name: "Carl".into(), address: None };
    world.event(&call, CallEventKind::Identity { side: LegSide::Callee, identity: transferred });
    let recording = world.recording();
    assert_eq!(recording.parties.len(), 3);
    assert_eq!(recording.parties[1].left_at, Some(world.now));
    assert_eq!((recording.parties[2].number.as_str(), recording.parties[2].joined_at), ("300", world.now));
}

#[test]
fn the_end_of_a_capture_ends_what_goes_on() {
    let mut world = World::new(config());
    world.answered_call(&leg("1@a"), A, B);
    let far = world.stream(B, A, 1);
    world.talk(&[far], 5);
    world.start(&leg("2@a"), identity("1", "10.0.0.1:5060"), identity("2", "10.0.0.2:5060"));
    world.finish_all();
    assert_eq!(world.recording().end_reason, Some(EndReason::CaptureEnd));
    assert_eq!(world.recording().state, RecordingState::Complete);
    assert_eq!(world.not_recorded, [("2@a".to_owned(), NotRecordedReason::Unanswered)]);
}

#[test]
fn a_flood_of_streams_to_one_call_is_bounded() {
    let mut world = World::new(TrackerConfig { max_streams: 2000, ..config() });
    world.answered_call(&leg("1@a"), A, B);
    for ssrc in 0..3000 {
        world.stream(B, A, ssrc);
    }
    assert_eq!(world.tracks.len(), 256);
    let statistics = world.tracker.statistics();
    assert_eq!((statistics.streams_active, statistics.streams_over_limit), (2000, 2744));
}

#[test]
fn orphans_do_not_take_the_room_of_calls() {
    let mut world = World::new(TrackerConfig { orphans: Orphans::Record, max_calls: 4, ..config() });
    for n in 0..10 {
        world.stream(&format!("10.3.0.{n}:4000"), "10.3.1.1:5000", n);
    }
    world.pass(seconds(11));
    assert_eq!(world.documents.len(), 2);
    world.answered_call(&leg("1@a"), A, B);
    let far = world.stream(B, A, 1);
    assert!(world.track_of(far).is_some());
}

/// All on one pair of ports is the worst case of every index. (Ten thousand take the same path; the world is what is slow.)
#[test]
fn thousands_of_calls_on_one_port_pair_are_told_apart() {
    const CALLS: usize = 2000;
    let mut world = World::new(config());
    let mut pairs = Vec::new();
    for n in 0..CALLS as u32 {
        let call = leg(&format!("{n}@a"));
        world.start(&call, identity("100", "10.0.0.1:5060"), identity("200", "10.0.0.2:5060"));
        world.media(&call, LegSide::Caller, MediaPhase::Preview, vec![audio(A)]);
        world.answer(&call, A, B);
        let near = world.stream(A, B, 1 + n);
        let far = world.stream(B, A, 1 + n);
        pairs.push((n, near, far));
        world.now = world.now.saturating_add(Duration::from_millis(5));
    }
    assert_eq!(world.documents.len(), CALLS);
    for (n, near, far) in pairs {
        let (near, far) = (world.track_of(near).unwrap(), world.track_of(far).unwrap());
        assert_eq!((near.0, near.1, far.1), (far.0, 0, 1));
        assert_eq!(world.documents[&near.0].legs[0].call_id, format!("{n}@a"));
    }
    world.finish_all();
    assert_eq!(world.closed.len(), CALLS);
}
