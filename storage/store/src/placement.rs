//! On which volume a recording's audio goes.

use crate::VolumeState;
use sidetone_log::VolumeNumber;

/// A volume as the choice sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Candidate {
    pub(crate) volume: VolumeNumber,
    pub(crate) state: VolumeState,
    pub(crate) free_bytes: u64,
    /// Recordings whose audio goes there at present.
    pub(crate) recordings: u64,
}

/// Where a recording goes that begins now; `None` when no volume takes it. Volumes that are not low go first; among them the
/// one with the most free space for each recording on it.
pub(crate) fn place_new(candidates: impl Iterator<Item = Candidate>) -> Option<VolumeNumber> {
    best(candidates.filter(|candidate| candidate.state.takes_new()))
}

/// Where the audio of a recording goes on whose volume takes no more.
pub(crate) fn place_running(candidates: impl Iterator<Item = Candidate>) -> Option<VolumeNumber> {
    best(candidates.filter(|candidate| candidate.state.takes_audio()))
}

fn best(candidates: impl Iterator<Item = Candidate>) -> Option<VolumeNumber> {
    let worth = |candidate: &Candidate| {
        let share = candidate.free_bytes / (candidate.recordings + 1);
        (std::cmp::Reverse(candidate.state), share, std::cmp::Reverse(candidate.volume))
    };
    candidates.max_by_key(worth).map(|candidate| candidate.volume)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(volume: u8, state: VolumeState, free_bytes: u64, recordings: u64) -> Candidate {
        Candidate { volume: VolumeNumber(volume), state, free_bytes, recordings }
    }

    #[test]
    fn recordings_spread_over_volumes_as_their_free_space_does() {
        let mut volumes = [candidate(0, VolumeState::Ok, 1 << 30, 0), candidate(1, VolumeState::Ok, 3 << 30, 0)];
        for _ in 0..400 {
            let chosen = place_new(volumes.iter().copied()).unwrap();
            volumes[usize::from(chosen.0)].recordings += 1;
        }
        assert_eq!(volumes.map(|volume| volume.recordings), [100, 300]);
    }

    #[test]
    fn a_recording_begins_where_there_is_room_and_goes_on_a_little_longer() {
        use VolumeState::{Failed, Low, NoNew, Ok, Reserve};
        let choose = |place: fn(std::array::IntoIter<Candidate, 2>) -> Option<VolumeNumber>,
                      states: [VolumeState; 2]| {
            let candidates = [candidate(0, states[0], 9, 0), candidate(1, states[1], 5, 0)];
            place(candidates.into_iter()).map(|volume| volume.0)
        };
        assert_eq!(choose(place_new, [Low, Ok]), Some(1));
        assert_eq!(choose(place_new, [NoNew, Low]), Some(1));
        assert_eq!(choose(place_new, [NoNew, Failed]), None);
        assert_eq!(choose(place_running, [NoNew, Failed]), Some(0));
        assert_eq!(choose(place_running, [Reserve, Failed]), None);
    }
}
