//! Which tracks a choice of channels plays, and why there may be none.

use crate::Channels;
use crate::lane::Lane;
use sidetone_model::{PartyRole, Recording, RecordingState, Side, Track, TrackKind};

/// The lanes of a file. For [`Channels::Dual`] always two, left and right, of which one may be empty (silent); otherwise
/// those that are added up, none empty.
///
/// # Errors
/// The reason why nothing can be played, for a person to read.
pub(crate) fn lanes(
    recording: &Recording,
    channels: Channels,
    has_audio: impl Fn(&Track) -> bool,
) -> Result<Vec<Lane>, String> {
    let playable = |wanted: &dyn Fn(&Track) -> bool| -> Lane {
        let tracks = recording.tracks.iter().filter(|track| track.kind == TrackKind::Audio);
        tracks.filter(|track| wanted(track) && has_audio(track)).map(|track| track.id).collect()
    };
    let near = |track: &Track| track.side == Side::Near;
    let far = |track: &Track| track.side == Side::Far;
    let caller = |track: &Track| speaks_as(recording, track) == Some(PartyRole::Caller);
    let callee = |track: &Track| speaks_as(recording, track) == Some(PartyRole::Callee);

    let any = playable(&|_| true);
    if any.is_empty() {
        return Err(why_silent(recording, &|_| true));
    }
    // A recording that has only both sides together plays them wherever one of them is asked for.
    let mixed = playable(&|track| track.side == Side::Mixed);
    let only_mixed = mixed.len() == any.len();
    let (what, wanted): (&str, &dyn Fn(&Track) -> bool) = match channels {
        _ if only_mixed && channels == Channels::Dual => return Ok(vec![mixed.clone(), mixed]),
        _ if only_mixed => return Ok(vec![mixed]),
        Channels::Dual => {
            let lanes = [playable(&caller), playable(&callee)];
            if lanes.iter().all(Vec::is_empty) {
                // Nobody knows who called: near left, far right.
                return Ok(vec![playable(&near), playable(&far)]);
            }
            return Ok(lanes.into());
        }
        Channels::Mix => {
            let lanes = [playable(&near), playable(&far)];
            return Ok(lanes.into_iter().filter(|lane| !lane.is_empty()).collect());
        }
        Channels::Near => ("near side", &near),
        Channels::Far => ("far side", &far),
        Channels::Caller => ("caller", &caller),
        Channels::Callee => ("callee", &callee),
    };
    let lane = playable(wanted);
    if lane.is_empty() {
        return Err(format!("nothing of the {what}: {}", why_silent(recording, wanted)));
    }
    Ok(vec![lane])
}

/// The role of the party that a track holds. Where it is not known and no user either, the near side is the caller's.
fn speaks_as(recording: &Recording, track: &Track) -> Option<PartyRole> {
    let party = track.party.and_then(|id| recording.parties.iter().find(|party| party.id == id));
    match (party, track.side) {
        (Some(party), _) => Some(party.role),
        (None, Side::Near) if recording.users.is_empty() => Some(PartyRole::Caller),
        (None, Side::Far) if recording.users.is_empty() => Some(PartyRole::Callee),
        _ => None,
    }
}

fn why_silent(recording: &Recording, wanted: &dyn Fn(&Track) -> bool) -> String {
    let mut tracks = recording.tracks.iter().filter(|track| wanted(track)).peekable();
    if tracks.peek().is_none() {
        return "no media was seen".to_owned();
    }
    let codecs = |track: &Track| {
        let mut names: Vec<_> = track.streams.iter().map(|stream| stream.codec.as_str()).collect();
        names.dedup();
        names.join(", ")
    };
    for track in tracks {
        if track.encrypted {
            return "the media is encrypted and its keys are not known".to_owned();
        }
        if !track.decodable {
            return format!("there is no decoder for {}", codecs(track));
        }
    }
    match recording.state {
        RecordingState::Active => "no audio is on the disk yet; try again in a few seconds".to_owned(),
        RecordingState::Complete | RecordingState::Incomplete => "no audio was recorded".to_owned(),
    }
}

#[cfg(test)]
mod tests;
