use super::*;
use crate::testing::{document, party, track};
use sidetone_model::TrackId;

fn all(_: &Track) -> bool {
    true
}

fn ids(lanes: Result<Vec<Lane>, String>) -> Vec<Vec<u8>> {
    lanes.unwrap().into_iter().map(|lane| lane.into_iter().map(|TrackId(id)| id).collect()).collect()
}

#[test]
fn the_caller_is_left_whoever_is_recorded() {
    let mut recording = document();
    assert_eq!(ids(lanes(&recording, Channels::Dual, all)), [[0], [1]]);
    // The recorded user was called: near is the callee.
    recording.users = vec!["200".to_owned()];
    recording.tracks[0].party = Some(1);
    recording.tracks[1].party = Some(0);
    assert_eq!(ids(lanes(&recording, Channels::Dual, all)), [[1], [0]]);
    assert_eq!(ids(lanes(&recording, Channels::Near, all)), [[0]]);
    assert_eq!(ids(lanes(&recording, Channels::Caller, all)), [[1]]);
}

#[test]
fn without_parties_near_is_the_caller_unless_a_user_is_known() {
    let mut recording = document();
    recording.parties.clear();
    assert_eq!(ids(lanes(&recording, Channels::Caller, all)), [[0]]);
    recording.users = vec!["200".to_owned()];
    assert_eq!(ids(lanes(&recording, Channels::Dual, all)), [[0], [1]]);
    assert!(lanes(&recording, Channels::Caller, all).is_err());
}

#[test]
fn tracks_without_audio_do_not_play() {
    let recording = document();
    let only_far = |track: &Track| track.side == Side::Far;
    assert_eq!(ids(lanes(&recording, Channels::Dual, only_far)), [vec![], vec![1]]);
    assert_eq!(ids(lanes(&recording, Channels::Mix, only_far)), [[1]]);
    assert!(lanes(&recording, Channels::Near, only_far).is_err());
}

#[test]
fn several_tracks_of_a_side_play_in_one_lane() {
    let mut recording = document();
    recording.parties.push(party(2, PartyRole::Callee, "201", "second agent"));
    recording.tracks.push(track(2, Side::Far, Some(2)));
    assert_eq!(ids(lanes(&recording, Channels::Dual, all)), [vec![0], vec![1, 2]]);
}

#[test]
fn a_mixed_track_alone_plays_everywhere() {
    let mut recording = document();
    recording.tracks = vec![track(0, Side::Mixed, None)];
    assert_eq!(ids(lanes(&recording, Channels::Dual, all)), [[0], [0]]);
    for channels in [Channels::Mix, Channels::Near, Channels::Far, Channels::Caller, Channels::Callee] {
        assert_eq!(ids(lanes(&recording, channels, all)), [[0]]);
    }
}

#[test]
fn the_reason_for_silence_is_told() {
    let none = |_: &Track| false;
    let reason = |recording: &Recording, channels| lanes(recording, channels, none).unwrap_err();
    let mut recording = document();
    assert_eq!(reason(&recording, Channels::Dual), "no audio was recorded");
    recording.state = RecordingState::Active;
    assert_eq!(reason(&recording, Channels::Dual), "no audio is on the disk yet; try again in a few seconds");
    recording.tracks[0].decodable = false;
    recording.tracks[0].streams.push(sidetone_model::Stream {
        domain: String::new(),
        ssrc: "0x00000001".to_owned(),
        source: "192.0.2.1:4000".to_owned(),
        destination: "192.0.2.2:4000".to_owned(),
        codec: "G729/8000".to_owned(),
        from: sidetone_model::CaptureTime::ZERO,
        to: sidetone_model::CaptureTime::ZERO,
        packets: 1,
        lost: 0,
        duplicates: 0,
        reordered: 0,
        late: 0,
        jitter_ms_mean: 0.0,
        jitter_ms_max: 0.0,
    });
    assert_eq!(reason(&recording, Channels::Mix), "there is no decoder for G729/8000");
    recording.tracks[0].encrypted = true;
    assert_eq!(reason(&recording, Channels::Mix), "the media is encrypted and its keys are not known");
    let far_only = |track: &Track| track.side == Side::Far;
    assert_eq!(
        lanes(&recording, Channels::Near, far_only).unwrap_err(),
        "nothing of the near side: the media is encrypted and its keys are not known"
    );
    recording.tracks.clear();
    assert_eq!(reason(&recording, Channels::Mix), "no media was seen");
}
