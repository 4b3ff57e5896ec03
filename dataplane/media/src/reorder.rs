//! Packets of one stream that wait: for a number before them, for the anchor of their clock, or for the packet that tells
//! whether they are strays.
//!
//! Fixed memory, allocated with the queue: [`HELD_PACKETS_MAX`] packets and [`HELD_BYTES_MAX`] bytes of payload. Packets
//! leave within the reorder window, so their bytes lie in one buffer in order of arrival, and are moved together only when
//! its end is reached.

use crate::clock::Observation;
use crate::payload::PayloadKind;
use crate::sequence::ExtendedSequence;
use sidetone_model::CaptureTime;

pub(crate) const HELD_PACKETS_MAX: usize = 32;
/// 320 ms of G.711; more than the reorder window.
pub(crate) const HELD_BYTES_MAX: usize = 2560;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Packet {
    pub(crate) sequence: ExtendedSequence,
    pub(crate) timestamp: u32,
    pub(crate) arrived_at: CaptureTime,
    pub(crate) kind: PayloadKind,
}

impl Packet {
    pub(crate) fn observation(&self) -> Observation {
        Observation { arrived_at: self.arrived_at, timestamp: self.timestamp }
    }
}

#[derive(Clone, Copy, Debug)]
struct Held {
    packet: Packet,
    start: u16,
    length: u16,
}

impl Held {
    fn bytes<'a>(&self, buffer: &'a [u8]) -> &'a [u8] {
        &buffer[usize::from(self.start)..usize::from(self.start) + usize::from(self.length)]
    }
}

/// No room; the oldest packet has to leave first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Full;

#[derive(Debug)]
pub(crate) struct ReorderQueue {
    /// In order of sequence.
    held: Vec<Held>,
    suspect: Option<Held>,
    buffer: Vec<u8>,
}

impl ReorderQueue {
    pub(crate) fn new() -> Self {
        Self { held: Vec::with_capacity(HELD_PACKETS_MAX), suspect: None, buffer: Vec::with_capacity(HELD_BYTES_MAX) }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.held.len() + usize::from(self.suspect.is_some())
    }

    /// Holds a packet in its place. Payload is kept of audio only.
    pub(crate) fn insert(&mut self, packet: Packet, payload: &[u8]) -> Result<(), Full> {
        if self.held.len() == HELD_PACKETS_MAX {
            return Err(Full);
        }
        let held = self.store(packet, payload)?;
        let place = self.held.partition_point(|h| h.packet.sequence < packet.sequence);
        self.held.insert(place, held);
        Ok(())
    }

    /// Keeps a packet until [`Self::take_suspect`] or [`Self::drop_suspect`]; `false` when there is no room for it.
    pub(crate) fn keep_suspect(&mut self, packet: Packet, payload: &[u8]) -> bool {
        self.suspect = None;
        self.suspect = self.store(packet, payload).ok();
        self.suspect.is_some()
    }

    pub(crate) fn drop_suspect(&mut self) -> bool {
        let was_there = self.suspect.take().is_some();
        self.forget_bytes();
        was_there
    }

    /// Moves the suspect into the queue under the number that it turned out to have; `false` when there is none.
    pub(crate) fn confirm_suspect(&mut self, sequence: ExtendedSequence) -> bool {
        let Some(mut held) = self.suspect.take() else { return false };
        held.packet.sequence = sequence;
        let place = self.held.partition_point(|h| h.packet.sequence < sequence);
        if self.held.len() == HELD_PACKETS_MAX {
            return false;
        }
        self.held.insert(place, held);
        true
    }

    pub(crate) fn front(&self) -> Option<(Packet, &[u8])> {
        self.held.first().map(|h| (h.packet, h.bytes(&self.buffer)))
    }

    pub(crate) fn drop_front(&mut self) {
        self.held.remove(0);
        self.forget_bytes();
    }

    /// The packets in order of sequence.
    pub(crate) fn packets(&self) -> impl Iterator<Item = Packet> {
        self.held.iter().map(|h| h.packet)
    }

    /// Arrival of the packet that has waited longest.
    pub(crate) fn waiting_since(&self) -> Option<CaptureTime> {
        self.held.iter().map(|h| h.packet.arrived_at).min()
    }

    fn store(&mut self, packet: Packet, payload: &[u8]) -> Result<Held, Full> {
        let payload = if packet.kind.is_audio() { payload } else { &[] };
        if self.buffer.len() + payload.len() > HELD_BYTES_MAX {
            self.compact();
            if self.buffer.len() + payload.len() > HELD_BYTES_MAX {
                return Err(Full);
            }
        }
        let start = u16::try_from(self.buffer.len()).ok().ok_or(Full)?;
        let length = u16::try_from(payload.len()).ok().ok_or(Full)?;
        self.buffer.extend_from_slice(payload);
        Ok(Held { packet, start, length })
    }

    /// Nobody holds bytes any more: the buffer starts again.
    fn forget_bytes(&mut self) {
        if self.held.is_empty() && self.suspect.is_none() {
            self.buffer.clear();
        }
    }

    /// Moves the bytes still held together at the front, in the order in which they lie.
    fn compact(&mut self) {
        let mut end = 0u16;
        let mut moved_up_to = 0u16;
        loop {
            let next = self
                .held
                .iter_mut()
                .chain(&mut self.suspect)
                .filter(|h| h.length > 0 && h.start >= moved_up_to)
                .min_by_key(|h| h.start);
            let Some(held) = next else { break };
            let range = usize::from(held.start)..usize::from(held.start) + usize::from(held.length);
            moved_up_to = held.start + held.length;
            held.start = end;
            end += held.length;
            self.buffer.copy_within(range, usize::from(held.start));
        }
        self.buffer.truncate(usize::from(end));
        for held in self.held.iter_mut().chain(&mut self.suspect).filter(|h| h.length == 0) {
            held.start = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::g711::Law;
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use std::collections::btree_map::Entry;

    fn packet(sequence: u64) -> Packet {
        Packet {
            sequence: ExtendedSequence(sequence),
            timestamp: 0,
            arrived_at: CaptureTime(sequence),
            kind: PayloadKind::G711(Law::A),
        }
    }

    proptest! {
        /// Against a map: whatever goes in comes out in order, unchanged, and memory stays where it was.
        #[test]
        fn packets_come_out_in_order_with_their_bytes(
            steps in prop::collection::vec((any::<bool>(), 0u64..500, 0usize..700, any::<u8>()), 0..400),
        ) {
            let mut queue = ReorderQueue::new();
            let mut model: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
            let capacities = (queue.held.capacity(), queue.buffer.capacity());
            for (take, sequence, length, fill) in steps {
                if take {
                    let front = queue.front().map(|(p, bytes)| (p.sequence.0, bytes.to_vec()));
                    prop_assert_eq!(&front, &model.pop_first());
                    if front.is_some() {
                        queue.drop_front();
                    }
                } else {
                    let held: usize = model.values().map(Vec::len).sum();
                    let is_full = model.len() == HELD_PACKETS_MAX || held + length > HELD_BYTES_MAX;
                    if let Entry::Vacant(vacant) = model.entry(sequence) {
                        let bytes = vec![fill; length];
                        let result = queue.insert(packet(sequence), &bytes);
                        prop_assert_eq!(result, if is_full { Err(Full) } else { Ok(()) });
                        if result.is_ok() {
                            vacant.insert(bytes);
                        }
                    }
                }
                prop_assert_eq!(queue.len(), model.len());
                prop_assert_eq!((queue.held.capacity(), queue.buffer.capacity()), capacities);
            }
        }
    }

    #[test]
    fn a_suspect_joins_under_its_number_or_is_forgotten() {
        let mut queue = ReorderQueue::new();
        queue.insert(packet(5), &[5; 10]).unwrap();
        assert!(queue.keep_suspect(packet(0), &[9; 10]));
        assert_eq!(queue.len(), 2);
        assert!(queue.confirm_suspect(ExtendedSequence(3)));
        assert_eq!(queue.front().unwrap().1, [9; 10]);
        assert!(!queue.drop_suspect());
    }
}
