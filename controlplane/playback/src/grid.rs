//! The grid steps of a file, in blocks and pages.
//!
//! Both begin at whole multiples since the epoch, not counted from the file's beginning: so what a block holds can be told
//! when its audio is sealed, before anybody knows where the file begins and ends. The first and the last may be shorter.

use sidetone_model::Tick;
use std::ops::Range;

/// Ten seconds: what is made, and remembered in tables, as one.
pub(crate) const BLOCK_TICKS: u64 = 500;
/// One second. A whole number of them is a block.
pub(crate) const PAGE_TICKS: u64 = 50;

/// The grid steps of a file: at least one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct FileGrid {
    pub(crate) first: Tick,
    /// How many there are.
    pub(crate) ticks: u64,
}

impl FileGrid {
    pub(crate) fn end(&self) -> Tick {
        Tick(self.first.0 + self.ticks)
    }

    pub(crate) fn blocks(&self) -> u64 {
        self.end().0.div_ceil(BLOCK_TICKS) - self.first.0 / BLOCK_TICKS
    }

    /// The steps of a block, counted from the file's beginning; for the number behind the last one an empty range at the
    /// file's end.
    pub(crate) fn block(&self, block: u64) -> Range<u64> {
        let begin = (self.first.0 / BLOCK_TICKS + block) * BLOCK_TICKS;
        let within = |tick: u64| tick.clamp(self.first.0, self.end().0) - self.first.0;
        within(begin)..within(begin + BLOCK_TICKS)
    }

    /// The same steps, since the epoch.
    pub(crate) fn block_since_epoch(&self, block: u64) -> Range<Tick> {
        let ticks = self.block(block);
        Tick(self.first.0 + ticks.start)..Tick(self.first.0 + ticks.end)
    }

    /// Pages that begin before a step counted from the file's beginning, when each holds a second.
    pub(crate) fn pages_before(&self, tick: u64) -> u64 {
        if tick == 0 { 0 } else { (self.first.0 + tick).div_ceil(PAGE_TICKS) - self.first.0 / PAGE_TICKS }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn blocks_follow_each_other_from_the_first_step_to_the_last(first in 0u64..3000, ticks in 1u64..3000) {
            let grid = FileGrid { first: Tick(first), ticks };
            let mut at = 0;
            for block in 0..grid.blocks() {
                let steps = grid.block(block);
                prop_assert_eq!(steps.start, at);
                prop_assert!(steps.end > steps.start && steps.end - steps.start <= BLOCK_TICKS);
                let boundary = |tick: u64| (first + tick).is_multiple_of(BLOCK_TICKS);
                prop_assert!(block == 0 || boundary(steps.start));
                prop_assert!(steps.end == ticks || boundary(steps.end));
                at = steps.end;
            }
            prop_assert_eq!(at, ticks);
            prop_assert_eq!(grid.block(grid.blocks()), ticks..ticks);
        }

        #[test]
        fn a_page_begins_at_the_first_step_and_at_every_whole_second(first in 0u64..300, ticks in 1u64..300) {
            let grid = FileGrid { first: Tick(first), ticks };
            let mut pages = 0;
            for tick in 0..=ticks {
                prop_assert_eq!(grid.pages_before(tick), pages);
                if tick == 0 || (first + tick).is_multiple_of(PAGE_TICKS) {
                    pages += 1;
                }
            }
        }
    }
}
