//! The part of a track that is not encoded yet: a ring of grid steps, into which streams write samples and out of which
//! the encoder takes whole steps, oldest first.
//!
//! Invariants: all samples written lie in `[open_from, open_from + RING_TICKS)`; a step that holds no sample of any stream
//! is not covered and is never encoded; taking a step moves `open_from` behind it, and nothing is written before it any
//! more. No time distance makes it loop: only covered steps are visited.

use crate::clock::{SAMPLES_PER_TICK, SamplePosition};

/// 640 ms: the delay before encoding, one batch, and a packet.
pub(crate) const RING_TICKS: u64 = 32;
/// More packets than any sender puts into 20 ms; the rest of a flood is not taken.
pub(crate) const PACKETS_PER_TICK_MAX: u16 = 1000;

/// One grid step of samples.
pub(crate) type TickSamples = [i16; SAMPLES_PER_TICK];

#[derive(Debug)]
pub(crate) struct Timeline {
    samples: Box<[TickSamples; RING_TICKS as usize]>,
    packets: [u16; RING_TICKS as usize],
    /// Bit `tick % RING_TICKS`: some stream wrote into the step.
    covered: u32,
    /// First step that is still open, as a number of grid steps since the epoch.
    open_from: u64,
}

/// A covered step taken out for encoding.
pub(crate) struct TakenTick {
    pub(crate) tick: u64,
    pub(crate) samples: TickSamples,
    /// Packets whose first sample lies here.
    pub(crate) packets: u16,
}

fn tick_of(position: SamplePosition) -> u64 {
    u64::try_from(position).unwrap_or(0) / SAMPLES_PER_TICK as u64
}

fn index_of(tick: u64) -> usize {
    (tick % RING_TICKS) as usize
}

impl Timeline {
    pub(crate) fn new() -> Self {
        Self {
            samples: Box::new([[0; SAMPLES_PER_TICK]; RING_TICKS as usize]),
            packets: [0; RING_TICKS as usize],
            covered: 0,
            open_from: 0,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.covered == 0
    }

    /// The oldest step that holds samples.
    pub(crate) fn first_covered(&self) -> Option<u64> {
        if self.covered == 0 {
            return None;
        }
        let distance = self.covered.rotate_right(index_of(self.open_from) as u32).trailing_zeros();
        Some(self.open_from + u64::from(distance))
    }

    /// First sample that can still be written.
    pub(crate) fn open_from(&self) -> SamplePosition {
        i64::try_from(self.open_from.saturating_mul(SAMPLES_PER_TICK as u64)).unwrap_or(i64::MAX)
    }

    /// Whether the step of this sample is not beyond the ring.
    pub(crate) fn reaches(&self, position: SamplePosition) -> bool {
        tick_of(position) < self.open_from + RING_TICKS
    }

    /// Closes everything before `tick`. The ring must be empty: then the next step may lie anywhere, also earlier.
    pub(crate) fn open_at(&mut self, tick: u64) {
        assert!(self.is_empty(), "a step with samples is encoded before the time line moves");
        self.open_from = tick;
    }

    /// Closes what lies before `tick`; it must hold no samples.
    pub(crate) fn close_before(&mut self, tick: u64) {
        assert!(self.first_covered().is_none_or(|first| first >= tick), "a step with samples is encoded, not closed");
        self.open_from = self.open_from.max(tick);
    }

    pub(crate) fn tick_of(position: SamplePosition) -> u64 {
        tick_of(position)
    }

    /// Writes samples; replaces what is there. The range must be open and within reach.
    pub(crate) fn write(&mut self, mut position: SamplePosition, mut samples: &[i16]) {
        while !samples.is_empty() {
            assert!(position >= self.open_from() && self.reaches(position), "samples are written into open steps only");
            let tick = tick_of(position);
            let offset = (position % SAMPLES_PER_TICK as i64) as usize;
            let length = samples.len().min(SAMPLES_PER_TICK - offset);
            let (now, later) = samples.split_at(length);
            self.samples[index_of(tick)][offset..offset + length].copy_from_slice(now);
            self.covered |= 1 << index_of(tick);
            position += length as i64;
            samples = later;
        }
    }

    /// Books a packet to the step in which it begins; `false` when the step holds too many already.
    pub(crate) fn book_packet(&mut self, position: SamplePosition) -> bool {
        let packets = &mut self.packets[index_of(tick_of(position))];
        if *packets >= PACKETS_PER_TICK_MAX {
            return false;
        }
        *packets += 1;
        true
    }

    /// Takes out the oldest covered step, and closes the time line up to behind it.
    pub(crate) fn take_first(&mut self) -> Option<TakenTick> {
        let tick = self.first_covered()?;
        let index = index_of(tick);
        let taken = TakenTick { tick, samples: self.samples[index], packets: self.packets[index] };
        self.samples[index] = [0; SAMPLES_PER_TICK];
        self.packets[index] = 0;
        self.covered &= !(1 << index);
        self.open_from = tick + 1;
        Some(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: u64 = 85_000_000_000;

    #[test]
    fn steps_come_out_in_order_and_only_where_samples_were_written() {
        let mut timeline = Timeline::new();
        timeline.open_at(START);
        let position = (START * 160) as i64;
        timeline.write(position + 160 * 5 + 100, &[7; 120]);
        timeline.write(position + 30, &[1; 10]);
        assert!(timeline.book_packet(position + 30));
        let first = timeline.take_first().unwrap();
        assert_eq!((first.tick, first.packets), (START, 1));
        assert_eq!(first.samples[30..40], [1; 10]);
        assert_eq!(first.samples.iter().filter(|s| **s != 0).count(), 10);
        let second = timeline.take_first().unwrap();
        assert_eq!((second.tick, second.samples[159], second.samples[99]), (START + 5, 7, 0));
        assert_eq!(timeline.take_first().unwrap().samples[..61].iter().filter(|s| **s == 7).count(), 60);
        assert!(timeline.take_first().is_none());
        assert_eq!(timeline.open_from(), position + 160 * 7);
    }

    #[test]
    fn a_reused_slot_is_silent() {
        let mut timeline = Timeline::new();
        timeline.open_at(START);
        for tick in START..START + 100 {
            timeline.write((tick * 160 + 80) as i64, &[5; 80]);
            let taken = timeline.take_first().unwrap();
            assert_eq!(taken.tick, tick);
            assert_eq!(taken.samples[..80], [0; 80]);
        }
    }
}
