//! Sequence numbers of one stream (RFC 3550 §A.1, §A.3): extension over wraps, restarts, duplicates, losses.
//!
//! Invariants: `unique ≤ packets seen − duplicates`; a number handed out as new is never handed out as new again;
//! extended numbers only ever grow from one restart to the next, so they order packets over the stream's whole life.

/// RFC 3550 §A.1: a step forward below this is a gap, above it another run of numbers.
const MAX_DROPOUT: u16 = 3000;
/// RFC 3550 §A.1: how far behind the newest number a packet may come.
const MAX_MISORDER: u16 = 100;
/// Numbers whose arrival is remembered; more than `MAX_MISORDER`.
const HISTORY: u64 = 128;

/// Sequence number extended to 64 bits: ordered and unique over the life of a stream.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct ExtendedSequence(pub(crate) u64);

impl ExtendedSequence {
    pub(crate) fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    /// Newer than all before it.
    Newest(ExtendedSequence),
    /// New, but a newer one came before it.
    Reordered(ExtendedSequence),
    /// This number was received before, with this timestamp.
    Duplicate,
    /// Far from all the others: a stray, or the first of another run. The next packet tells.
    Suspect,
    /// The packet after a suspect one continues it: both belong to a new run, this one has the given number, and the
    /// suspect the one before.
    Restarted(ExtendedSequence),
}

#[derive(Clone, Debug)]
pub(crate) struct SequenceCounter {
    started: bool,
    /// Lowest and highest number of the current run.
    first: u64,
    highest: u64,
    /// Bit `i`: `highest - i` was received.
    received: u128,
    /// Timestamps of the numbers in `received`, by number modulo `HISTORY`.
    timestamps: [u32; HISTORY as usize],
    /// The number and timestamp of a suspect packet.
    suspect: Option<(u16, u32)>,
    expected_in_earlier_runs: u64,
    unique: u64,
}

impl SequenceCounter {
    pub(crate) fn new() -> Self {
        Self {
            started: false,
            first: 0,
            highest: 0,
            received: 0,
            timestamps: [0; HISTORY as usize],
            suspect: None,
            expected_in_earlier_runs: 0,
            unique: 0,
        }
    }

    pub(crate) fn observe(&mut self, sequence: u16, timestamp: u32) -> Verdict {
        if !self.started {
            self.started = true;
            // One cycle up, so that numbers before the first have room.
            self.begin_run(0x1_0000 + u64::from(sequence), timestamp);
            return Verdict::Newest(ExtendedSequence(self.highest));
        }
        let ahead = sequence.wrapping_sub(self.highest as u16);
        let behind = ahead.wrapping_neg();
        if ahead != 0 && ahead < MAX_DROPOUT {
            self.suspect = None;
            self.highest += u64::from(ahead);
            self.received = if u64::from(ahead) < HISTORY { self.received << ahead } else { 0 };
            self.remember(self.highest, timestamp);
            return Verdict::Newest(ExtendedSequence(self.highest));
        }
        if behind <= MAX_MISORDER {
            let number = self.highest - u64::from(behind);
            let bit = 1u128 << behind;
            if self.received & bit == 0 {
                self.suspect = None;
                self.first = self.first.min(number);
                self.remember(number, timestamp);
                return Verdict::Reordered(ExtendedSequence(number));
            }
            if self.timestamps[(number % HISTORY) as usize] == timestamp {
                return Verdict::Duplicate;
            }
        }
        self.judge_stranger(sequence, timestamp)
    }

    /// A packet that fits nowhere: the second in sequence begins a new run (RFC 3550 §A.1, `bad_seq`).
    fn judge_stranger(&mut self, sequence: u16, timestamp: u32) -> Verdict {
        match self.suspect {
            Some((number, suspect_timestamp)) if sequence == number.wrapping_add(1) => {
                self.suspect = None;
                self.expected_in_earlier_runs += self.highest - self.first + 1;
                // The next cycle but one: above every number given so far, with the same low 16 bits.
                let base = (self.highest & !0xffff) + 0x2_0000;
                self.begin_run(base + u64::from(number), suspect_timestamp);
                self.highest += 1;
                self.received <<= 1;
                self.remember(self.highest, timestamp);
                Verdict::Restarted(ExtendedSequence(self.highest))
            }
            Some((number, suspect_timestamp)) if sequence == number && timestamp == suspect_timestamp => {
                Verdict::Duplicate
            }
            _ => {
                self.suspect = Some((sequence, timestamp));
                Verdict::Suspect
            }
        }
    }

    fn begin_run(&mut self, number: u64, timestamp: u32) {
        self.first = number;
        self.highest = number;
        self.received = 0;
        self.remember(number, timestamp);
    }

    fn remember(&mut self, number: u64, timestamp: u32) {
        self.received |= 1u128 << (self.highest - number);
        self.timestamps[(number % HISTORY) as usize] = timestamp;
        self.unique += 1;
    }

    /// Numbers between the lowest and the highest of every run.
    pub(crate) fn expected(&self) -> u64 {
        let current = if self.started { self.highest - self.first + 1 } else { 0 };
        self.expected_in_earlier_runs + current
    }

    /// Different packets that were received and belong to a run.
    pub(crate) fn unique(&self) -> u64 {
        self.unique
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    fn feed(counter: &mut SequenceCounter, numbers: impl IntoIterator<Item = u16>) -> Vec<Verdict> {
        numbers.into_iter().map(|n| counter.observe(n, u32::from(n) * 160)).collect()
    }

    #[test]
    fn numbers_wrap_and_losses_are_counted_over_the_wrap() {
        let mut counter = SequenceCounter::new();
        feed(&mut counter, [65533, 65534, 1, 2]);
        assert_eq!((counter.expected(), counter.unique()), (6, 4));
        assert!(matches!(counter.observe(0, 0), Verdict::Reordered(_)));
        assert_eq!((counter.expected(), counter.unique()), (6, 5));
    }

    #[test]
    fn same_number_and_timestamp_is_a_duplicate() {
        let mut counter = SequenceCounter::new();
        let verdicts = feed(&mut counter, [7, 8, 8, 7, 9]);
        assert_eq!(verdicts[2..4], [Verdict::Duplicate; 2]);
        assert_eq!((counter.expected(), counter.unique()), (3, 3));
    }

    #[test]
    fn packets_before_the_first_lower_the_base() {
        let mut counter = SequenceCounter::new();
        feed(&mut counter, [5, 4, 2]);
        assert_eq!((counter.expected(), counter.unique()), (4, 3));
    }

    #[test]
    fn two_in_sequence_restart_and_one_stray_does_not() {
        let mut counter = SequenceCounter::new();
        let verdicts = feed(&mut counter, [100, 101, 40_000, 102, 50_000, 50_001, 50_002]);
        assert_eq!(verdicts[2], Verdict::Suspect);
        assert!(matches!(verdicts[3], Verdict::Newest(_)));
        assert_eq!(verdicts[4], Verdict::Suspect);
        assert!(matches!(verdicts[5], Verdict::Restarted(_)));
        assert_eq!((counter.expected(), counter.unique()), (3 + 3, 3 + 3));
    }

    #[test]
    fn restart_onto_numbers_just_used_is_seen_by_its_timestamps() {
        let mut counter = SequenceCounter::new();
        feed(&mut counter, 100..150);
        assert_eq!(counter.observe(120, 9_000_000), Verdict::Suspect);
        assert!(matches!(counter.observe(121, 9_000_160), Verdict::Restarted(_)));
        assert_eq!((counter.expected(), counter.unique()), (52, 52));
    }

    proptest! {
        /// Against a plain model: a random order of a random subset, disordered by less than RFC 3550's limit.
        #[test]
        fn losses_and_duplicates_match_a_set(
            start in any::<u16>(),
            fates in prop::collection::vec((0u8..10, 0usize..40), 2..600),
        ) {
            let mut order: Vec<(usize, u16)> = Vec::new();
            for (i, (fate, delay)) in fates.iter().enumerate() {
                let number = start.wrapping_add(i as u16);
                let copies = match fate { 0 => 0, 1 => 2, _ => 1 };
                for copy in 0..copies {
                    order.push((i + if *fate == 2 { *delay } else { copy }, number));
                }
            }
            order.sort_by_key(|(at, _)| *at);
            prop_assume!(!order.is_empty());
            let mut counter = SequenceCounter::new();
            let mut seen = HashSet::new();
            let mut duplicates = 0u64;
            for (_, number) in &order {
                let verdict = counter.observe(*number, u32::from(*number));
                let is_new = seen.insert(*number);
                match verdict {
                    Verdict::Duplicate => { duplicates += 1; prop_assert!(!is_new); }
                    Verdict::Newest(e) | Verdict::Reordered(e) => {
                        prop_assert!(is_new);
                        prop_assert_eq!(e.0 as u16, *number);
                    }
                    other => prop_assert!(false, "{:?}", other),
                }
            }
            let positions: Vec<u16> = seen.iter().map(|n| n.wrapping_sub(start)).collect();
            let expected = u64::from(positions.iter().max().unwrap() - positions.iter().min().unwrap()) + 1;
            prop_assert_eq!(counter.expected(), expected);
            prop_assert_eq!(counter.unique(), seen.len() as u64);
            prop_assert_eq!(duplicates, order.len() as u64 - seen.len() as u64);
        }

        #[test]
        fn any_numbers_keep_the_invariants(packets in prop::collection::vec((any::<u16>(), 0u32..4), 0..300)) {
            let mut counter = SequenceCounter::new();
            let mut handed_out = HashSet::new();
            let mut highest_of_runs = 0;
            for (number, timestamp) in packets {
                match counter.observe(number, timestamp) {
                    Verdict::Newest(e) => { prop_assert!(handed_out.insert(e.0)); highest_of_runs = e.0; }
                    Verdict::Reordered(e) => prop_assert!(handed_out.insert(e.0)),
                    Verdict::Restarted(e) => {
                        prop_assert!(e.0 > highest_of_runs + 1);
                        prop_assert!(handed_out.insert(e.0 - 1) && handed_out.insert(e.0));
                        highest_of_runs = e.0;
                    }
                    Verdict::Duplicate | Verdict::Suspect => {}
                }
                prop_assert_eq!(counter.unique(), handed_out.len() as u64);
                prop_assert!(counter.expected() >= counter.unique());
            }
        }
    }
}
