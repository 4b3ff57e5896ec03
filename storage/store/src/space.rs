//! How full a volume is, and what that means for it.
//!
//! Constraints: pure functions over numbers; the writer asks for the state of a volume and never for the numbers, which the
//! keeper looks up.

use crate::options::{SpaceOptions, StoreOptions, Watermark, file_bytes};
use serde::{Deserialize, Serialize};
use std::fmt;

/// What a volume takes at present; each state takes less than the one before it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum VolumeState {
    Ok,
    /// Takes everything; somebody should know.
    Low,
    /// Recordings that begin go to another volume, or are refused when there is none.
    NoNew,
    /// Facts only; audio goes to another volume, or is lost when there is none.
    Reserve,
    /// Nothing could be written for want of space. Tried again.
    Full,
    /// Its disk does not answer in time. What it was given it still has.
    Stalled,
    /// Writing failed. Tried again.
    Failed,
    /// Not where it should be when the store was opened: an unmounted file system. Nothing is written to it.
    Missing,
}

impl VolumeState {
    pub const ALL: [Self; 8] =
        [Self::Ok, Self::Low, Self::NoNew, Self::Reserve, Self::Full, Self::Stalled, Self::Failed, Self::Missing];

    /// As in JSON and in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Low => "low",
            Self::NoNew => "no_new",
            Self::Reserve => "reserve",
            Self::Full => "full",
            Self::Stalled => "stalled",
            Self::Failed => "failed",
            Self::Missing => "missing",
        }
    }

    /// Recordings may begin here.
    pub fn takes_new(self) -> bool {
        self <= Self::Low
    }

    /// Audio of recordings that are here already may follow.
    pub fn takes_audio(self) -> bool {
        self <= Self::NoNew
    }

    /// Its journal can be written.
    pub fn takes_facts(self) -> bool {
        self <= Self::Reserve
    }
}

impl fmt::Display for VolumeState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Free bytes below which each state begins; ascending from `reserve` to `low`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Thresholds {
    total_bytes: u64,
    low: u64,
    no_new: u64,
    reserve: u64,
}

impl Thresholds {
    /// Of a volume of `total_bytes`.
    pub(crate) fn of_volume(options: &StoreOptions, total_bytes: u64) -> Self {
        Self::new(&options.space, total_bytes, file_bytes(options, total_bytes))
    }

    /// For a volume of `total_bytes` whose journal and segment files take up to `file_bytes` at once: such files are set aside
    /// whole, and a state must begin before the next file does not fit.
    pub(crate) fn new(options: &SpaceOptions, total_bytes: u64, file_bytes: u64) -> Self {
        let mark = |mark: Watermark| ((total_bytes as f64 * mark.part.clamp(0.0, 1.0)) as u64).min(mark.bytes_max);
        let reserve = mark(options.reserve).max(file_bytes.saturating_mul(2));
        let no_new = mark(options.no_new).max(reserve.saturating_add(file_bytes.saturating_mul(2)));
        let low = mark(options.low).max(no_new.saturating_add(file_bytes));
        Self { total_bytes, low, no_new, reserve }
    }

    /// The state by free space alone. Getting better takes an eighth more than getting worse, so that a volume at a
    /// threshold does not go back and forth.
    pub(crate) fn state(&self, free_bytes: u64, before: VolumeState) -> VolumeState {
        if self.total_bytes == 0 {
            // The file system does not tell: whether there is room turns out in writing.
            return VolumeState::Ok;
        }
        let below = |threshold: u64, state: VolumeState| {
            let returning = if before >= state { threshold / 8 } else { 0 };
            free_bytes < threshold.saturating_add(returning)
        };
        if below(self.reserve, VolumeState::Reserve) {
            VolumeState::Reserve
        } else if below(self.no_new, VolumeState::NoNew) {
            VolumeState::NoNew
        } else if below(self.low, VolumeState::Low) {
            VolumeState::Low
        } else {
            VolumeState::Ok
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MIB: u64 = 1 << 20;
    const GIB: u64 = 1 << 30;

    fn thresholds(total_bytes: u64, file_bytes: u64) -> Thresholds {
        Thresholds::new(&SpaceOptions::default(), total_bytes, file_bytes)
    }

    #[test]
    fn the_thresholds_of_a_large_volume_are_those_of_the_options() {
        let large = thresholds(1000 * GIB, 128 * MIB);
        assert_eq!((large.low, large.no_new, large.reserve), (200 * GIB, 5 * GIB, 256 * MIB));
    }

    #[test]
    fn a_volume_of_64_mebibytes_has_room_for_its_files_below_each_threshold() {
        let small = thresholds(64 * MIB, 4 * MIB);
        assert_eq!((small.low, small.no_new, small.reserve), (20 * MIB, 16 * MIB, 8 * MIB));
    }

    #[test]
    fn a_state_is_left_only_when_an_eighth_more_than_its_threshold_is_free() {
        let thresholds = thresholds(1000 * GIB, 128 * MIB);
        assert_eq!(thresholds.state(200 * GIB, VolumeState::Ok), VolumeState::Ok);
        assert_eq!(thresholds.state(200 * GIB - 1, VolumeState::Ok), VolumeState::Low);
        assert_eq!(thresholds.state(224 * GIB, VolumeState::Low), VolumeState::Low);
        assert_eq!(thresholds.state(225 * GIB, VolumeState::Low), VolumeState::Ok);
        assert_eq!(thresholds.state(GIB, VolumeState::Ok), VolumeState::NoNew);
        assert_eq!(thresholds.state(MIB, VolumeState::Ok), VolumeState::Reserve);
        assert_eq!(thresholds.state(260 * MIB, VolumeState::Full), VolumeState::Reserve);
        assert_eq!(thresholds.state(300 * MIB, VolumeState::Failed), VolumeState::NoNew);
    }

    proptest! {
        #[test]
        fn less_space_never_gives_a_better_state(
            total in 1u64..1 << 50, file in 0u64..GIB, a in any::<u64>(), b in any::<u64>(), before in 0usize..8,
        ) {
            let thresholds = thresholds(total, file);
            prop_assert!(thresholds.reserve <= thresholds.no_new && thresholds.no_new <= thresholds.low);
            let before = VolumeState::ALL[before];
            let (less, more) = (a.min(b), a.max(b));
            prop_assert!(thresholds.state(less, before) >= thresholds.state(more, before));
        }
    }
}
