//! What the tracker knows of a call, of its legs and of the recording that is being made of it.

use crate::binding::{BindingNumber, SideBindings};
use crate::clock::Moment;
use crate::flow::FlowNumber;
use crate::take::Take;
use sidetone_model::{CaptureTime, ConversationId, Domain, EndReason, Leg, Party, PartyRole};
use sidetone_signalling::event::{Identity, LegRef, LegSide};
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct CallNumber(pub u64);

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct LegNumber(pub u64);

/// Index of a side in arrays of two.
pub(crate) fn side_index(side: LegSide) -> usize {
    match side {
        LegSide::Caller => 0,
        LegSide::Callee => 1,
    }
}

/// Parties that one call can have over its life (connected parties, transfers).
const PARTIES_MAX: usize = 16;

/// An address that a leg has in the index of bindings.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bound {
    pub address: SocketAddr,
    pub side: LegSide,
    pub number: BindingNumber,
}

#[derive(Debug)]
pub(crate) struct CallLeg {
    pub call: CallNumber,
    pub reference: LegRef,
    pub document: Leg,
    pub caller: Identity,
    pub callee: Identity,
    /// The caller of this leg is on the callee's side of the call (third-party call control, RFC 3725).
    pub flipped: bool,
    pub in_progress: bool,
    /// Another leg has taken this one's place (RFC 3891): its end is part of a transfer.
    pub replaced: bool,
    pub sides: [SideBindings; 2],
    pub bound: Vec<Bound>,
    pub answered: Option<Moment>,
    pub ended: bool,
    /// When the session timer runs out (RFC 4028).
    pub expires: Option<(Moment, CaptureTime)>,
}

impl CallLeg {
    pub(crate) fn domain(&self) -> Domain {
        self.reference.domain
    }

    pub(crate) fn side(&self, side: LegSide) -> &SideBindings {
        &self.sides[side_index(side)]
    }

    /// A side of this leg as a side of the whole call.
    pub(crate) fn side_of_call(&self, side: LegSide) -> LegSide {
        if self.flipped { side.other() } else { side }
    }

    pub(crate) fn is_established(&self) -> bool {
        self.answered.is_some() || self.in_progress
    }

    pub(crate) fn identity(&self, side: LegSide) -> &Identity {
        match side {
            LegSide::Caller => &self.caller,
            LegSide::Callee => &self.callee,
        }
    }

    pub(crate) fn signalling_ip(&self, side: LegSide) -> Option<IpAddr> {
        self.identity(side).address.map(|address| address.ip())
    }

    pub(crate) fn is_on_hold(&self) -> bool {
        self.sides.iter().any(SideBindings::is_on_hold)
    }

    /// Its end reason from the point of view of the whole call.
    pub(crate) fn end_reason_of_call(&self) -> Option<EndReason> {
        self.document.end_reason.map(|reason| match (reason, self.flipped) {
            (EndReason::CallerHungUp, true) => EndReason::CalleeHungUp,
            (EndReason::CalleeHungUp, true) => EndReason::CallerHungUp,
            (reason, _) => reason,
        })
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Phase {
    Live,
    /// Over at `at`; packets in flight still belong to it.
    Ending {
        at: CaptureTime,
        reason: EndReason,
        until: Moment,
    },
    /// Its tracks are being finished by the encoder.
    Finishing {
        until: Moment,
    },
}

/// A stream without signalling and its reverse direction: the addresses in ascending order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct OrphanPair {
    pub domain: Domain,
    pub low: SocketAddr,
    pub high: SocketAddr,
}

impl OrphanPair {
    pub(crate) fn of(domain: Domain, one: SocketAddr, other: SocketAddr) -> Self {
        Self { domain, low: one.min(other), high: one.max(other) }
    }
}

#[derive(Debug)]
pub(crate) struct Call {
    pub started_at: CaptureTime,
    pub conversation: ConversationId,
    /// In the order in which they became part of the call; empty for a stream without signalling.
    pub legs: Vec<LegNumber>,
    pub orphan: Option<OrphanPair>,
    /// For an orphan: the source of its first stream, which plays the caller.
    pub orphan_caller: Option<SocketAddr>,
    /// Streams that belong to it: recorded, on standby, or waiting for its answer.
    pub flows: BTreeSet<FlowNumber>,
    pub parties: Vec<Party>,
    pub phase: Phase,
    pub take: Option<Box<Take>>,
    /// Whether a stream was ever recorded of the side.
    pub had_stream: [bool; 2],
    /// A stream of video or other media was seen for it.
    pub saw_other_media: bool,
    /// Since when it has media that the store has no room for.
    pub refused_since: Option<CaptureTime>,
    pub last_signalling: (Moment, CaptureTime),
    pub last_media: Option<(Moment, CaptureTime)>,
    /// When the tracker must look at it next.
    pub due: Moment,
}

impl Call {
    pub(crate) fn is_live(&self) -> bool {
        self.phase == Phase::Live
    }

    /// The party that speaks on this side now.
    pub(crate) fn party(&self, side: LegSide) -> Option<u8> {
        let role = role_of(side);
        self.parties.iter().rev().find(|party| party.role == role).map(|party| party.id)
    }

    /// What became known of a party. A different number in an established call is a different person (connected
    /// party, transfer); everything else improves what is known. Returns whether anything changed.
    pub(crate) fn improve_party(&mut self, side: LegSide, identity: &Identity, at: CaptureTime, settled: bool) -> bool {
        let role = role_of(side);
        let next_id = u8::try_from(self.parties.len()).unwrap_or(u8::MAX);
        let Some(party) = self.parties.iter_mut().rev().find(|party| party.role == role) else {
            if self.parties.len() >= PARTIES_MAX {
                return false;
            }
            self.parties.push(party_of(next_id, side, identity, at));
            return true;
        };
        let is_another =
            settled && !identity.number.is_empty() && !party.number.is_empty() && party.number != identity.number;
        if is_another && usize::from(next_id) < PARTIES_MAX {
            party.left_at = Some(at);
            self.parties.push(party_of(next_id, side, identity, at));
            return true;
        }
        let before = party.clone();
        if !identity.number.is_empty() {
            party.number.clone_from(&identity.number);
        }
        if !identity.name.is_empty() {
            party.name.clone_from(&identity.name);
        }
        if let Some(address) = identity.address {
            party.address = address.to_string();
        }
        *party != before
    }
}

pub(crate) fn party_of(id: u8, side: LegSide, identity: &Identity, at: CaptureTime) -> Party {
    Party {
        id,
        role: role_of(side),
        number: identity.number.clone(),
        name: identity.name.clone(),
        address: identity.address.map(|address| address.to_string()).unwrap_or_default(),
        joined_at: at,
        left_at: None,
    }
}

fn role_of(side: LegSide) -> PartyRole {
    match side {
        LegSide::Caller => PartyRole::Caller,
        LegSide::Callee => PartyRole::Callee,
    }
}
