//! What signalling says: legs that start, change, belong together and end.

use crate::call::{Bound, Call, CallLeg, CallNumber, LegNumber, Phase, party_of, side_index};
use crate::clock::Moment;
use crate::tracker::Tracker;
use crate::{Command, NotRecordedReason};
use sidetone_model::{CaptureTime, ConversationId, EndReason, Leg};
use sidetone_signalling::event::{
    CallEvent, CallEventKind, Identity, LegRef, LegSide, LegStart, MediaBinding, MediaKind, MediaPhase, Relation,
};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// Legs of one call. More than this is no call but a loop or an attack.
const LEGS_MAX: usize = 32;
/// Addresses in the index, per call that is allowed.
const ADDRESSES_PER_CALL: usize = 32;
/// Legs on one address that are looked at for a shared call.
const SHARED_SCAN_MAX: usize = 256;
/// Connected-party information this soon after the answer belongs to the person who answered.
const IDENTITY_SETTLES: Duration = Duration::from_secs(1);

/// The text from which a call's identifiers are derived: the leg's name in full, since one call reference may be in
/// use in several networks and attempts.
pub(crate) fn reference_text(leg: &LegRef) -> String {
    format!("{} {}\n{}\n{}", leg.protocol.name(), leg.domain, leg.call_id, leg.attempt)
}

impl Tracker {
    pub(crate) fn start_leg(&mut self, leg: &LegRef, start: &LegStart, time: CaptureTime, out: &mut Vec<Command>) {
        if let Some(&known) = self.leg_numbers.get(leg) {
            // Restored after a restart, and met again by a decoder that knows nothing of it.
            self.improve_identity(known, LegSide::Caller, &start.caller, time);
            self.improve_identity(known, LegSide::Callee, &start.callee, time);
            return;
        }
        self.statistics.calls_seen += 1;
        if self.calls.len() >= self.config.max_calls {
            self.not_recorded(leg.call_id.clone(), time, NotRecordedReason::TooManyCalls, out);
            return;
        }
        let now = self.clock.now();
        let call_number = CallNumber(self.next_call);
        self.next_call += 1;
        self.calls.insert(
            call_number,
            Call {
                started_at: time,
                conversation: ConversationId::derive(self.config.seed, time, &reference_text(leg)),
                legs: Vec::new(),
                orphan: None,
                orphan_caller: None,
                flows: BTreeSet::new(),
                parties: vec![
                    party_of(0, LegSide::Caller, &start.caller, time),
                    party_of(1, LegSide::Callee, &start.callee, time),
                ],
                phase: Phase::Live,
                take: None,
                had_stream: [false; 2],
                saw_other_media: false,
                refused_since: None,
                last_signalling: (now, time),
                last_media: None,
                due: Moment::default(),
            },
        );
        let document = Leg {
            protocol: leg.protocol.name().to_owned(),
            call_id: leg.call_id.to_string(),
            from: start.from.clone(),
            to: start.to.clone(),
            started_at: time,
            answered_at: None,
            ended_at: None,
            end_reason: None,
        };
        let number = self.add_leg(CallLeg {
            call: call_number,
            reference: leg.clone(),
            document,
            caller: start.caller.clone(),
            callee: start.callee.clone(),
            flipped: false,
            in_progress: start.in_progress,
            replaced: false,
            sides: Default::default(),
            bound: Vec::new(),
            answered: None,
            ended: false,
            expires: None,
        });
        self.schedule_call(call_number);
        self.join_copy_in_other_domain(number, out);
        self.relate_awaited(number, out);
    }

    /// Enters a leg into its call and into the indices.
    pub(crate) fn add_leg(&mut self, leg: CallLeg) -> LegNumber {
        let number = LegNumber(self.next_leg);
        self.next_leg += 1;
        self.leg_numbers.insert(leg.reference.clone(), number);
        self.legs_by_call_id.insert((leg.reference.call_id.clone(), number));
        if let Some(call) = self.calls.get_mut(&leg.call) {
            call.legs.push(number);
        }
        self.legs.insert(number, leg);
        number
    }

    pub(crate) fn on_leg_event(&mut self, number: LegNumber, event: &CallEvent, out: &mut Vec<Command>) {
        let now = self.clock.now();
        let Some(leg) = self.legs.get_mut(&number) else { return };
        let call_number = leg.call;
        if leg.ended || !self.calls.get(&call_number).is_some_and(Call::is_live) {
            return;
        }
        if let Some(call) = self.calls.get_mut(&call_number) {
            call.last_signalling = (now, event.time.max(call.last_signalling.1));
        }
        match &event.kind {
            CallEventKind::Started(_) | CallEventKind::Ringing => {}
            CallEventKind::Identity { side, identity } => {
                self.improve_identity(number, *side, identity, event.time);
            }
            CallEventKind::Media { side, phase, bindings } => self.bind(number, *side, *phase, bindings, out),
            CallEventKind::Answered => {
                leg.answered = Some(now);
                leg.document.answered_at.get_or_insert(event.time);
                self.to_save.insert(call_number);
                self.reconsider_call(call_number, out);
            }
            CallEventKind::Related { other_call_id, relation } => self.relate(number, other_call_id, *relation, out),
            CallEventKind::Refreshed { expires_at } => {
                leg.expires = expires_at.map(|at| (now.plus(at.since(event.time)), at)).or(leg.expires);
            }
            CallEventKind::Ended { reason, detail: _ } => self.end_leg(number, event.time, *reason),
        }
        // The leg may have moved to another call.
        if let Some(call) = self.legs.get(&number).map(|leg| leg.call) {
            self.schedule_call(call);
        }
    }

    fn improve_identity(&mut self, number: LegNumber, side: LegSide, identity: &Identity, time: CaptureTime) {
        let now = self.clock.now();
        let Some(leg) = self.legs.get_mut(&number) else { return };
        let known = match side {
            LegSide::Caller => &mut leg.caller,
            LegSide::Callee => &mut leg.callee,
        };
        if !identity.number.is_empty() {
            known.number.clone_from(&identity.number);
        }
        if !identity.name.is_empty() {
            known.name.clone_from(&identity.name);
        }
        known.address = identity.address.or(known.address);
        let settled = leg.in_progress || leg.answered.is_some_and(|answer| now.since(answer) > IDENTITY_SETTLES);
        let side = leg.side_of_call(side);
        let call_number = leg.call;
        let Some(call) = self.calls.get_mut(&call_number) else { return };
        // Between the legs of one call a box speaks for the parties: the first leg names the caller and the last one
        // whom he reached.
        let speaks = match side {
            LegSide::Caller => call.legs.first() == Some(&number),
            LegSide::Callee => call.legs.last() == Some(&number),
        };
        if speaks && call.improve_party(side, identity, time, settled) {
            self.to_save.insert(call_number);
        }
    }

    fn bind(
        &mut self,
        number: LegNumber,
        side: LegSide,
        phase: MediaPhase,
        bindings: &[MediaBinding],
        out: &mut Vec<Command>,
    ) {
        let Some(leg) = self.legs.get_mut(&number) else { return };
        leg.sides[side_index(side)].set(phase, bindings);
        let added = self.rebind(number, side, out);
        for &address in &added {
            if let Some((other, flip)) = self.shares_media(number, side, address) {
                self.join(number, other, flip, out);
            }
        }
        if let Some(call) = self.legs.get(&number).map(|leg| leg.call) {
            self.reconsider_call(call, out);
        }
    }

    /// Brings the index in step with what a side of a leg says; returns the addresses that are new.
    pub(crate) fn rebind(&mut self, number: LegNumber, side: LegSide, out: &mut Vec<Command>) -> BTreeSet<SocketAddr> {
        let Some(leg) = self.legs.get_mut(&number) else { return BTreeSet::new() };
        let domain = leg.reference.domain;
        let wanted: BTreeSet<SocketAddr> = leg.side(side).addresses().map(|(address, _)| address).collect();
        let audio: BTreeSet<SocketAddr> = leg
            .side(side)
            .addresses()
            .filter(|&(_, kind)| kind == MediaKind::Audio)
            .map(|(address, _)| address)
            .collect();
        let mut kept = BTreeSet::new();
        leg.bound.retain(|bound| {
            if bound.side != side {
                return true;
            }
            let keep = wanted.contains(&bound.address);
            if keep {
                kept.insert(bound.address);
            } else {
                self.bindings.remove(domain, bound.address, bound.number);
            }
            keep
        });
        let added: BTreeSet<SocketAddr> = wanted.difference(&kept).copied().collect();
        for &address in &added {
            if self.bindings.len() >= self.config.max_calls.saturating_mul(ADDRESSES_PER_CALL) {
                self.statistics.addresses_over_limit += 1;
                continue;
            }
            leg.bound.push(Bound { address, side, number: self.bindings.insert(domain, address, number, side) });
            if audio.contains(&address) {
                out.push(Command::Expect { address });
            }
        }
        added
    }

    pub(crate) fn unbind_all(&mut self, number: LegNumber) {
        let Some(leg) = self.legs.get_mut(&number) else { return };
        let domain = leg.reference.domain;
        for bound in leg.bound.drain(..) {
            self.bindings.remove(domain, bound.address, bound.number);
        }
    }

    fn end_leg(&mut self, number: LegNumber, time: CaptureTime, reason: EndReason) {
        let Some(leg) = self.legs.get_mut(&number) else { return };
        let hung_up = matches!(reason, EndReason::CallerHungUp | EndReason::CalleeHungUp | EndReason::Released);
        leg.ended = true;
        leg.document.ended_at = Some(time);
        leg.document.end_reason = Some(if leg.replaced && hung_up { EndReason::Replaced } else { reason });
        let call_number = leg.call;
        let Some(call) = self.calls.get(&call_number) else { return };
        let mut legs: Vec<&CallLeg> = call.legs.iter().map(|leg| &self.legs[leg]).collect();
        if legs.iter().any(|leg| !leg.ended) {
            self.to_save.insert(call_number);
            return;
        }
        // The leg that was hung up first is the cause; the others follow from it.
        legs.sort_by_key(|leg| (!leg.is_established(), leg.document.ended_at));
        let reason = legs.first().and_then(|leg| leg.end_reason_of_call()).unwrap_or(reason);
        self.end_call(call_number, time, reason);
    }

    fn join_copy_in_other_domain(&mut self, number: LegNumber, out: &mut Vec<Command>) {
        let Some(leg) = self.legs.get(&number) else { return };
        let (call_id, attempt) = (leg.reference.call_id.clone(), leg.reference.attempt.clone());
        let copy =
            self.legs_named(&call_id).find(|other| *other != number && self.legs[other].reference.attempt == attempt);
        if let Some(copy) = copy {
            self.join(number, copy, false, out);
        }
    }

    /// Live legs with this call reference, the newest first.
    fn legs_named(&self, call_id: &Arc<str>) -> impl Iterator<Item = LegNumber> {
        self.legs_by_call_id
            .range((call_id.clone(), LegNumber(0))..=(call_id.clone(), LegNumber(u64::MAX)))
            .rev()
            .map(|entry| entry.1)
            .filter(|number| !self.legs[number].ended)
    }

    fn relate(&mut self, number: LegNumber, other: &Arc<str>, relation: Relation, out: &mut Vec<Command>) {
        let Some(leg) = self.legs.get(&number) else { return };
        let domain = leg.reference.domain;
        let candidates: Vec<LegNumber> = self.legs_named(other).filter(|&found| found != number).collect();
        let same_domain = candidates.iter().find(|found| self.legs[found].reference.domain == domain);
        match same_domain.or(candidates.first()) {
            Some(&found) => self.apply_relation(number, found, relation, out),
            None if self.awaited_legs.len() < self.config.max_calls => {
                self.awaited_legs.insert((other.clone(), number), relation);
            }
            None => {}
        }
    }

    fn relate_awaited(&mut self, number: LegNumber, out: &mut Vec<Command>) {
        let Some(leg) = self.legs.get(&number) else { return };
        let call_id = leg.reference.call_id.clone();
        let range = (call_id.clone(), LegNumber(0))..=(call_id, LegNumber(u64::MAX));
        let waiting: Vec<_> = self.awaited_legs.range(range).map(|(key, &relation)| (key.clone(), relation)).collect();
        for (key, relation) in waiting {
            self.awaited_legs.remove(&key);
            if key.1 != number {
                self.apply_relation(key.1, number, relation, out);
            }
        }
    }

    fn apply_relation(&mut self, number: LegNumber, other: LegNumber, relation: Relation, out: &mut Vec<Command>) {
        match relation {
            Relation::SameCall => self.join(number, other, false, out),
            Relation::Replaces => {
                let (Some(new), Some(old)) = (self.legs.get(&number), self.legs.get(&other)) else { return };
                let (new, old) = (new.call, old.call);
                if new == old {
                    return;
                }
                if let Some(leg) = self.legs.get_mut(&other) {
                    leg.replaced = true;
                }
                let Some(conversation) = self.calls.get(&old).map(|call| call.conversation) else { return };
                if let Some(call) = self.calls.get_mut(&new) {
                    call.conversation = conversation;
                    self.to_save.insert(new);
                }
            }
        }
    }

    /// Another live leg that is the same call because it names the same receiver: a box between the two legs passes
    /// the descriptions through. With it, whether the two legs look at the call from opposite sides.
    fn shares_media(&self, number: LegNumber, side: LegSide, address: SocketAddr) -> Option<(LegNumber, bool)> {
        let leg = self.legs.get(&number)?;
        let ip = |leg: &CallLeg, side: LegSide| leg.signalling_ip(side);
        let (caller, callee) = (ip(leg, LegSide::Caller)?, ip(leg, LegSide::Callee)?);
        self.bindings.at(leg.domain(), address).take(SHARED_SCAN_MAX).find_map(|(_, other_number, other_side)| {
            let other = self.legs.get(&other_number)?;
            let other_call = self.calls.get(&other.call)?;
            if other.call == leg.call || other.ended || !other_call.is_live() {
                return None;
            }
            let (other_caller, other_callee) = (ip(other, LegSide::Caller)?, ip(other, LegSide::Callee)?);
            let same_ends = caller == other_caller && callee == other_callee;
            let in_chain = callee == other_caller || caller == other_callee;
            let third_party = caller == other_caller && callee != other_callee;
            if side == other_side && in_chain && !same_ends {
                Some((other_number, false))
            } else if side != other_side && third_party {
                Some((other_number, true))
            } else {
                None
            }
        })
    }

    /// Makes the calls of two legs one.
    fn join(&mut self, number: LegNumber, other: LegNumber, opposite: bool, out: &mut Vec<Command>) {
        let (Some(one), Some(two)) = (self.legs.get(&number), self.legs.get(&other)) else { return };
        let flip = opposite ^ one.flipped ^ two.flipped;
        let (older, younger) = (one.call.min(two.call), one.call.max(two.call));
        let (Some(old), Some(young)) = (self.calls.get(&older), self.calls.get(&younger)) else { return };
        let fits = old.legs.len() + young.legs.len() <= LEGS_MAX;
        if older == younger || !fits || !old.is_live() || !young.is_live() {
            return;
        }
        // What has a recording stays. Where both have one, the younger recording ends.
        let (stays, goes) =
            if young.take.is_some() && old.take.is_none() { (younger, older) } else { (older, younger) };
        if self.calls[&goes].take.is_some() {
            self.leave_recording_behind(stays, goes);
        } else {
            self.absorb(stays, goes);
        }
        for leg in &self.calls[&stays].legs.clone() {
            if let Some(leg) = self.legs.get_mut(leg)
                && leg.call != stays
            {
                leg.call = stays;
                leg.flipped ^= flip;
            }
        }
        self.to_save.insert(stays);
        self.schedule_call(stays);
        self.reconsider_call(stays, out);
    }

    fn absorb(&mut self, stays: CallNumber, goes: CallNumber) {
        let Some(gone) = self.calls.remove(&goes) else { return };
        self.timers.remove(&(gone.due, crate::tracker::Timer::Call(goes)));
        self.to_save.remove(&goes);
        self.refused.remove(&goes);
        self.statistics.calls_seen -= 1;
        for &flow in &gone.flows {
            self.flows.get_mut(flow).into_iter().for_each(|flow| flow.move_to(stays));
        }
        let Some(call) = self.calls.get_mut(&stays) else { return };
        let gone_is_earlier = gone.started_at < call.started_at;
        call.flows.extend(&gone.flows);
        call.saw_other_media |= gone.saw_other_media;
        if let Some(since) = gone.refused_since.filter(|_| call.take.is_none()) {
            call.refused_since = Some(call.refused_since.map_or(since, |own| own.min(since)));
            self.refused.insert(stays);
        }
        call.last_signalling = call.last_signalling.max(gone.last_signalling);
        if gone_is_earlier {
            call.started_at = gone.started_at;
            call.legs.splice(0..0, gone.legs);
            if call.take.is_none() {
                call.conversation = gone.conversation;
                call.parties = gone.parties;
            }
        } else {
            call.legs.extend(gone.legs);
        }
    }

    /// The legs go over to the call that stays; the recording of the other one ends here.
    fn leave_recording_behind(&mut self, stays: CallNumber, goes: CallNumber) {
        let at = self.calls[&goes].last_signalling.1;
        let conversation = self.calls[&stays].conversation;
        if let Some(call) = self.calls.get_mut(&goes) {
            call.conversation = conversation;
        }
        self.write_document(goes);
        let Some(call) = self.calls.get_mut(&goes) else { return };
        let legs = std::mem::take(&mut call.legs);
        if let Some(take) = &mut call.take {
            for leg in &mut take.edit().legs {
                leg.ended_at.get_or_insert(at);
                leg.end_reason.get_or_insert(EndReason::Replaced);
            }
        }
        self.end_call(goes, at, EndReason::Replaced);
        if let Some(call) = self.calls.get_mut(&stays) {
            call.legs.extend(legs);
        }
    }
}
