//! The streams that the receive threads know, and what the tracker has decided about each.

use crate::binding::BindingNumber;
use crate::call::{CallNumber, LegNumber};
use crate::clock::Moment;
use crate::{FlowRef, StreamFormat};
use sidetone_model::{CaptureTime, Domain, StreamKey};
use sidetone_signalling::event::LegSide;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;

/// Streams in the order in which they were seen.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct FlowNumber(pub u64);

/// How surely a stream belongs to a leg; the better the greater.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Quality {
    /// It comes from where the other side receives (symmetric RTP, RFC 4961); where it goes is not known: a phone
    /// behind an address translator.
    SourceOnly,
    /// It goes where a side receives.
    Destination,
    /// Both.
    BothEnds,
}

/// Among legs that share an address, which one a new stream is meant for; the likelier the greater.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Recency {
    /// The newer binding wins.
    Settled(BindingNumber),
    /// Answered a moment ago and still without a stream of this side: first answered, first served.
    Expecting(Reverse<(Moment, LegNumber)>),
}

/// Compared field by field in this order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Rank {
    pub live: bool,
    pub quality: Quality,
    /// The call already has the opposite direction with the same SSRC.
    pub has_partner: bool,
    pub recency: Recency,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Match {
    pub rank: Rank,
    pub call: CallNumber,
    pub leg: LegNumber,
    /// The side of the leg that speaks.
    pub speaker: LegSide,
    /// False for video and other media.
    pub is_audio: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Claim {
    pub call: CallNumber,
    pub leg: Option<LegNumber>,
    /// The side of the call that speaks.
    pub side: LegSide,
    pub quality: Quality,
    pub format: StreamFormat,
    pub since: Moment,
    /// Set while no binding of its call names it any more.
    pub unmatched_since: Option<Moment>,
}

#[derive(Clone, Debug)]
pub(crate) enum FlowState {
    /// In the pre-roll: for a call to be answered, or for any call to come.
    Waiting {
        call: Option<CallNumber>,
    },
    Recorded(Claim),
    /// Another stream brings the same voice to the same track; this one takes over when that one stops.
    Standby {
        call: CallNumber,
    },
    Discarded,
}

#[derive(Clone, Debug)]
pub(crate) struct Flow {
    pub number: FlowNumber,
    pub flow: FlowRef,
    pub key: StreamKey,
    pub first_packet_at: CaptureTime,
    pub payload_type: u8,
    pub seen: Moment,
    pub state: FlowState,
    /// It was recorded once, or is known to be something else (video, the tail of a call).
    pub accounted: bool,
    pub due: Option<Moment>,
}

impl Flow {
    pub(crate) fn claim(&self) -> Option<&Claim> {
        match &self.state {
            FlowState::Recorded(claim) => Some(claim),
            _ => None,
        }
    }

    /// The call it belongs to, in whatever way.
    pub(crate) fn call(&self) -> Option<CallNumber> {
        match &self.state {
            FlowState::Waiting { call } => *call,
            FlowState::Recorded(claim) => Some(claim.call),
            FlowState::Standby { call } => Some(*call),
            FlowState::Discarded => None,
        }
    }

    /// Its call became part of another one.
    pub(crate) fn move_to(&mut self, to: CallNumber) {
        match &mut self.state {
            FlowState::Waiting { call } => *call = Some(to),
            FlowState::Recorded(claim) => claim.call = to,
            FlowState::Standby { call } => *call = to,
            FlowState::Discarded => {}
        }
    }

    pub(crate) fn same_path(&self, other: &StreamKey) -> bool {
        self.key.domain == other.domain && self.key.source == other.source && self.key.destination == other.destination
    }
}

/// All flows, found by what the receive threads call them, by address, and by direction.
#[derive(Debug, Default)]
pub(crate) struct FlowTable {
    flows: BTreeMap<FlowNumber, Flow>,
    numbers: HashMap<FlowRef, FlowNumber, foldhash::quality::RandomState>,
    by_direction: BTreeSet<(Domain, SocketAddr, SocketAddr, u32, FlowNumber)>,
    /// Flows that a new description may claim, under both of their addresses.
    claimable: BTreeSet<(Domain, SocketAddr, FlowNumber)>,
    next: u64,
}

impl FlowTable {
    pub(crate) fn insert(
        &mut self,
        flow: FlowRef,
        key: StreamKey,
        first: CaptureTime,
        pt: u8,
        seen: Moment,
    ) -> FlowNumber {
        let number = FlowNumber(self.next);
        self.next += 1;
        self.numbers.insert(flow, number);
        self.by_direction.insert((key.domain, key.source, key.destination, key.ssrc, number));
        self.flows.insert(
            number,
            Flow {
                number,
                flow,
                key,
                first_packet_at: first,
                payload_type: pt,
                seen,
                state: FlowState::Waiting { call: None },
                accounted: false,
                due: None,
            },
        );
        self.set_claimable(number, true);
        number
    }

    pub(crate) fn remove(&mut self, number: FlowNumber) -> Option<Flow> {
        self.set_claimable(number, false);
        let flow = self.flows.remove(&number)?;
        let key = flow.key;
        self.by_direction.remove(&(key.domain, key.source, key.destination, key.ssrc, number));
        // A slot that was given to another stream before this one's end was told already names that one.
        if self.numbers.get(&flow.flow) == Some(&number) {
            self.numbers.remove(&flow.flow);
        }
        Some(flow)
    }

    pub(crate) fn set_claimable(&mut self, number: FlowNumber, claimable: bool) {
        let Some(flow) = self.flows.get(&number) else { return };
        for address in [flow.key.source, flow.key.destination] {
            let entry = (flow.key.domain, address, number);
            if claimable {
                self.claimable.insert(entry);
            } else {
                self.claimable.remove(&entry);
            }
        }
    }

    pub(crate) fn claimable_at(
        &self,
        domain: Domain,
        address: SocketAddr,
    ) -> impl DoubleEndedIterator<Item = FlowNumber> {
        let range = (domain, address, FlowNumber(0))..=(domain, address, FlowNumber(u64::MAX));
        self.claimable.range(range).map(|&(_, _, number)| number)
    }

    /// Streams in the opposite direction of `key`: first those with the same SSRC, then any, `most` of each at most.
    pub(crate) fn partners(&self, key: &StreamKey, most: usize) -> (Vec<&Flow>, Vec<&Flow>) {
        let (domain, source, destination) = (key.domain, key.destination, key.source);
        let range = |low: u32, high: u32| {
            let from = (domain, source, destination, low, FlowNumber(0));
            let to = (domain, source, destination, high, FlowNumber(u64::MAX));
            self.by_direction.range(from..=to).rev().take(most).map(|entry| &self.flows[&entry.4]).collect()
        };
        (range(key.ssrc, key.ssrc), range(0, u32::MAX))
    }

    pub(crate) fn number(&self, flow: FlowRef) -> Option<FlowNumber> {
        self.numbers.get(&flow).copied()
    }

    pub(crate) fn get(&self, number: FlowNumber) -> Option<&Flow> {
        self.flows.get(&number)
    }

    pub(crate) fn get_mut(&mut self, number: FlowNumber) -> Option<&mut Flow> {
        self.flows.get_mut(&number)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Flow> {
        self.flows.values()
    }

    pub(crate) fn len(&self) -> usize {
        self.flows.len()
    }
}
