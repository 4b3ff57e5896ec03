//! The receive thread's flow table: a stream's entry, and the pre-roll in which its packets wait for a call.
//!
//! Everything is sized once from the configuration: the table by `max_flows`, the pre-roll by bytes. No packet allocates.
//! The pre-roll is a slab of fixed blocks; a packet lies in one or more of them, a flow's packets form a queue.

use sidetone_calls::FlowRef;
use sidetone_model::{CaptureTime, StreamKey};
use std::collections::HashMap;
use std::time::Duration;

/// What the call tracker has said of a flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum FlowState {
    /// Nobody has claimed it: packets wait in the pre-roll.
    Waiting,
    /// Packets go to this stream of this encoder.
    Recording { encoder: u16, stream: u32 },
    /// Nobody wants it: packets are dropped.
    Discarded,
}

pub(crate) struct Flow {
    pub(crate) key: StreamKey,
    pub(crate) generation: u32,
    pub(crate) state: FlowState,
    pub(crate) first_packet_at: CaptureTime,
    pub(crate) last_packet_at: CaptureTime,
    pub(crate) packets: u64,
    pub(crate) payload_type: u8,
    /// The tracker knows of this flow.
    pub(crate) sighted: bool,
    /// When it was last told of it.
    pub(crate) sighted_at: CaptureTime,
    /// Packets that found the encoder's ring full since the last one that did not.
    pub(crate) lost_before: u32,
    held: Queue,
    occupied: bool,
}

impl Flow {
    /// Packets of it in the pre-roll.
    pub(crate) fn held_packets(&self) -> usize {
        self.held.packets as usize
    }
}

pub(crate) struct FlowTable {
    index: HashMap<StreamKey, u32, foldhash::fast::RandomState>,
    flows: Vec<Flow>,
    free: Vec<u32>,
    queue: u16,
    pre_roll: PreRoll,
    held_packets: u64,
    expiry_cursor: usize,
}

impl FlowTable {
    pub(crate) fn new(queue: u16, max_flows: usize, pre_roll_bytes: usize) -> Self {
        let empty = |_| Flow {
            key: StreamKey {
                domain: Default::default(),
                source: (std::net::Ipv4Addr::UNSPECIFIED, 0).into(),
                destination: (std::net::Ipv4Addr::UNSPECIFIED, 0).into(),
                ssrc: 0,
            },
            generation: 0,
            state: FlowState::Waiting,
            first_packet_at: CaptureTime::ZERO,
            last_packet_at: CaptureTime::ZERO,
            packets: 0,
            payload_type: 0,
            sighted: false,
            sighted_at: CaptureTime::ZERO,
            lost_before: 0,
            held: Queue::EMPTY,
            occupied: false,
        };
        let slots = u32::try_from(max_flows).expect("max_flows fits 32 bits");
        Self {
            index: HashMap::with_capacity_and_hasher(max_flows, foldhash::fast::RandomState::default()),
            flows: (0..max_flows).map(empty).collect(),
            free: (0..slots).rev().collect(),
            queue,
            pre_roll: PreRoll::new(pre_roll_bytes),
            held_packets: 0,
            expiry_cursor: 0,
        }
    }

    /// The flow's slot, a new one if it is unknown; `None` when the table is full.
    pub(crate) fn find_or_insert(&mut self, key: &StreamKey, now: CaptureTime, payload_type: u8) -> Option<u32> {
        if let Some(slot) = self.index.get(key) {
            return Some(*slot);
        }
        let slot = self.free.pop()?;
        self.index.insert(*key, slot);
        let flow = &mut self.flows[slot as usize];
        *flow = Flow {
            key: *key,
            generation: flow.generation.wrapping_add(1),
            state: FlowState::Waiting,
            first_packet_at: now,
            last_packet_at: now,
            packets: 0,
            payload_type,
            sighted: false,
            sighted_at: CaptureTime::ZERO,
            lost_before: 0,
            held: Queue::EMPTY,
            occupied: true,
        };
        Some(slot)
    }

    pub(crate) fn get_mut(&mut self, slot: u32) -> &mut Flow {
        &mut self.flows[slot as usize]
    }

    pub(crate) fn flow_ref(&self, slot: u32) -> FlowRef {
        FlowRef { queue: self.queue, slot, generation: self.flows[slot as usize].generation }
    }

    /// The flow that `reference` names, unless its slot has been reused since.
    pub(crate) fn resolve(&mut self, reference: FlowRef) -> Option<&mut Flow> {
        let flow = self.flows.get_mut(reference.slot as usize)?;
        (flow.occupied && flow.generation == reference.generation).then_some(flow)
    }

    /// Takes the packet into the flow's pre-roll. False when the pre-roll is full.
    pub(crate) fn hold(&mut self, slot: u32, arrived_at: CaptureTime, bytes: &[u8]) -> bool {
        let held = self.pre_roll.push(&mut self.flows[slot as usize].held, arrived_at, bytes);
        self.held_packets += u64::from(held);
        held
    }

    /// Drops the flow's held packets that arrived before `limit`; returns how many.
    pub(crate) fn drop_held_before(&mut self, slot: u32, limit: CaptureTime) -> u64 {
        let queue = &mut self.flows[slot as usize].held;
        let mut dropped = 0;
        while self.pre_roll.front_time(queue).is_some_and(|time| time < limit) {
            self.pre_roll.pop_front(queue);
            dropped += 1;
        }
        self.held_packets -= dropped;
        dropped
    }

    pub(crate) fn drop_all_held(&mut self, slot: u32) -> u64 {
        let queue = &mut self.flows[slot as usize].held;
        let mut dropped = 0;
        while self.pre_roll.pop_front(queue) {
            dropped += 1;
        }
        self.held_packets -= dropped;
        dropped
    }

    /// The flow's oldest held packet into `bytes`; its arrival time. `None` when it holds nothing.
    pub(crate) fn take_held(&mut self, slot: u32, bytes: &mut Vec<u8>) -> Option<CaptureTime> {
        let queue = &mut self.flows[slot as usize].held;
        let time = self.pre_roll.front_time(queue)?;
        self.pre_roll.copy_front(queue, bytes);
        self.pre_roll.pop_front(queue);
        self.held_packets -= 1;
        Some(time)
    }

    /// Packets in the pre-roll, over all flows.
    pub(crate) fn held_packets(&self) -> u64 {
        self.held_packets
    }

    pub(crate) fn len(&self) -> usize {
        self.index.len()
    }

    /// The next occupied slots whose last packet is older than `idle`, looking at no more than `budget` slots a call.
    pub(crate) fn next_idle(&mut self, now: CaptureTime, idle: Duration, budget: &mut usize) -> Option<u32> {
        while *budget > 0 && !self.flows.is_empty() {
            *budget -= 1;
            let slot = self.expiry_cursor % self.flows.len();
            self.expiry_cursor = slot + 1;
            let flow = &self.flows[slot];
            if flow.occupied && now.since(flow.last_packet_at) > idle {
                return Some(slot as u32);
            }
        }
        None
    }

    /// The occupied slots, in slot order.
    pub(crate) fn occupied(&self) -> impl Iterator<Item = u32> + '_ {
        (0..self.flows.len() as u32).filter(|slot| self.flows[*slot as usize].occupied)
    }

    /// Frees the slot. Its held packets must have been taken or dropped before.
    pub(crate) fn remove(&mut self, slot: u32) {
        let flow = &mut self.flows[slot as usize];
        assert!(flow.occupied && flow.held.packets == 0, "a flow is removed once, after its held packets");
        flow.occupied = false;
        self.index.remove(&flow.key);
        self.free.push(slot);
    }
}

const BLOCK_SIZE: usize = 256;
const BLOCK_BODY: usize = BLOCK_SIZE - 20;
const NONE: u32 = u32::MAX;

struct Block {
    next: u32,
    /// In a packet's first block: its length and arrival. Else unused.
    length: u16,
    time: CaptureTime,
    body: [u8; BLOCK_BODY],
}

/// A queue of packets in the slab: first and last block.
#[derive(Clone, Copy)]
struct Queue {
    head: u32,
    tail: u32,
    packets: u32,
}

impl Queue {
    const EMPTY: Self = Self { head: NONE, tail: NONE, packets: 0 };
}

struct PreRoll {
    blocks: Vec<Block>,
    free_head: u32,
    free_count: usize,
}

impl PreRoll {
    fn new(bytes: usize) -> Self {
        let count = (bytes / BLOCK_SIZE).min(NONE as usize - 1);
        let blocks = (0..count)
            .map(|i| Block {
                next: if i + 1 < count { i as u32 + 1 } else { NONE },
                length: 0,
                time: CaptureTime::ZERO,
                body: [0; BLOCK_BODY],
            })
            .collect();
        Self { blocks, free_head: if count > 0 { 0 } else { NONE }, free_count: count }
    }

    fn blocks_for(length: usize) -> usize {
        length.div_ceil(BLOCK_BODY).max(1)
    }

    fn push(&mut self, queue: &mut Queue, time: CaptureTime, bytes: &[u8]) -> bool {
        let Ok(length) = u16::try_from(bytes.len()) else { return false };
        if self.free_count < Self::blocks_for(bytes.len()) {
            return false;
        }
        let mut rest = bytes;
        let mut first = true;
        while first || !rest.is_empty() {
            let index = self.free_head;
            let block = &mut self.blocks[index as usize];
            self.free_head = block.next;
            self.free_count -= 1;
            let (part, tail) = rest.split_at(rest.len().min(BLOCK_BODY));
            block.next = NONE;
            block.length = if first { length } else { 0 };
            block.time = time;
            block.body[..part.len()].copy_from_slice(part);
            if queue.tail == NONE {
                queue.head = index;
            } else {
                self.blocks[queue.tail as usize].next = index;
            }
            queue.tail = index;
            rest = tail;
            first = false;
        }
        queue.packets += 1;
        true
    }

    fn front_time(&self, queue: &Queue) -> Option<CaptureTime> {
        (queue.packets > 0).then(|| self.blocks[queue.head as usize].time)
    }

    fn copy_front(&self, queue: &Queue, bytes: &mut Vec<u8>) {
        bytes.clear();
        let mut index = queue.head;
        let mut rest = usize::from(self.blocks[index as usize].length);
        loop {
            let block = &self.blocks[index as usize];
            let part = rest.min(BLOCK_BODY);
            bytes.extend_from_slice(&block.body[..part]);
            rest -= part;
            if rest == 0 {
                return;
            }
            index = block.next;
        }
    }

    fn pop_front(&mut self, queue: &mut Queue) -> bool {
        if queue.packets == 0 {
            return false;
        }
        let length = usize::from(self.blocks[queue.head as usize].length);
        for _ in 0..Self::blocks_for(length) {
            let index = queue.head;
            queue.head = self.blocks[index as usize].next;
            self.blocks[index as usize].next = self.free_head;
            self.free_head = index;
            self.free_count += 1;
        }
        queue.packets -= 1;
        if queue.packets == 0 {
            *queue = Queue::EMPTY;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    fn key(ssrc: u32) -> StreamKey {
        StreamKey {
            domain: Default::default(),
            source: "192.0.2.1:4000".parse().unwrap(),
            destination: "192.0.2.2:4000".parse().unwrap(),
            ssrc,
        }
    }

    #[test]
    fn a_reused_slot_is_not_mistaken_for_its_former_tenant() {
        let mut table = FlowTable::new(0, 1, 4096);
        let slot = table.find_or_insert(&key(1), CaptureTime(1), 8).unwrap();
        let old = table.flow_ref(slot);
        assert!(table.find_or_insert(&key(2), CaptureTime(1), 8).is_none(), "the table is full");
        table.remove(slot);
        assert!(table.resolve(old).is_none());
        table.find_or_insert(&key(2), CaptureTime(2), 8).unwrap();
        assert!(table.resolve(old).is_none());
        let new = table.flow_ref(slot);
        assert_eq!(table.resolve(new).unwrap().key, key(2));
    }

    proptest! {
        /// The slab against a plain queue per flow: same packets, same order, full only when the bytes are really taken.
        #[test]
        fn pre_roll_keeps_packets_in_order(operations in prop::collection::vec((0..3u32, 0..600usize, 0..5u8), 1..300)) {
            let mut table = FlowTable::new(0, 4, 40 * BLOCK_SIZE);
            let mut oracle: Vec<VecDeque<(u64, Vec<u8>)>> = vec![VecDeque::new(); 3];
            let slots: Vec<u32> = (0..3).map(|i| table.find_or_insert(&key(i), CaptureTime(0), 0).unwrap()).collect();
            let mut bytes = Vec::new();
            for (step, (flow, length, what)) in operations.into_iter().enumerate() {
                let slot = slots[flow as usize];
                let expected = &mut oracle[flow as usize];
                match what {
                    0..=2 => {
                        let packet = vec![step as u8; length];
                        if table.hold(slot, CaptureTime(step as u64), &packet) {
                            expected.push_back((step as u64, packet));
                        } else {
                            let used: usize = oracle.iter().flatten().map(|(_, p)| PreRoll::blocks_for(p.len())).sum();
                            prop_assert!(used + PreRoll::blocks_for(length) > 40);
                        }
                    }
                    3 => {
                        let got = table.take_held(slot, &mut bytes).map(|t| (t.0, bytes.clone()));
                        prop_assert_eq!(got, expected.pop_front());
                    }
                    _ => {
                        let limit = step as u64 / 2;
                        let before = expected.len();
                        while expected.front().is_some_and(|(t, _)| *t < limit) { expected.pop_front(); }
                        prop_assert_eq!(table.drop_held_before(slot, CaptureTime(limit)), (before - expected.len()) as u64);
                    }
                }
                prop_assert_eq!(table.held_packets(), oracle.iter().map(|q| q.len() as u64).sum::<u64>());
            }
            for slot in slots { table.drop_all_held(slot); table.remove(slot); }
            prop_assert_eq!(table.held_packets(), 0);
            prop_assert_eq!(table.pre_roll.free_count, 40);
        }
    }
}
