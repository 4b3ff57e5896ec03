//! Which stream belongs to which side of which call.
//!
//! Constraints: a stream feeds at most one track at a time; a running stream of a live call is never taken from it by
//! another call; the work per input is bounded, however many calls share one address.

use crate::binding::{BindingNumber, stream_format};
use crate::call::{Call, CallNumber, LegNumber, OrphanPair, Phase, party_of, side_index};
use crate::clock::Moment;
use crate::flow::{Claim, Flow, FlowNumber, FlowState, Match, Quality, Rank, Recency};
use crate::take::track_id;
use crate::tracker::Tracker;
use crate::{Command, StreamFormat, StreamGone, StreamSighting};
use sidetone_model::{ConversationId, Domain};
use sidetone_signalling::event::{Identity, LegSide};
use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

/// Legs on one address that are considered for one stream, the newest first.
const SCAN_MAX: usize = 4096;
/// The search is over when this many legs in a row were no better than the best one before them.
const SCAN_ENOUGH: usize = 256;
/// Streams that one call can have at a time; only an attack has more.
const FLOWS_PER_CALL_MAX: usize = 256;
/// Unclaimed streams on one address that a call looks at, the newest first; only an attack has more.
const CANDIDATES_MAX: usize = 1024;
/// Streams in the opposite direction that are looked at.
const PARTNERS_MAX: usize = 16;
/// A call answered this recently expects its streams.
const EXPECTATION: Duration = Duration::from_secs(5);
/// A track without packets for this long may be fed by another stream with the same voice.
const TRACK_SILENCE: Duration = Duration::from_secs(2);

impl Tracker {
    pub(crate) fn sight(&mut self, sighting: &StreamSighting, out: &mut Vec<Command>) {
        let now = self.clock.now();
        if let Some(number) = self.flows.number(sighting.flow) {
            let Some(flow) = self.flows.get_mut(number) else { return };
            if flow.key == sighting.key {
                if matches!(flow.state, FlowState::Discarded) {
                    flow.state = FlowState::Waiting { call: None };
                    flow.seen = now;
                }
                flow.payload_type = sighting.payload_type;
                let due = now.plus(self.config.pre_roll_wait);
                if matches!(flow.state, FlowState::Waiting { .. }) {
                    self.schedule_flow(number, Some(due));
                }
                self.decide(number, out);
                return;
            }
            // The slot has another tenant, and the end of the former one was not told.
            self.drop_flow(number, out);
        }
        if self.flows.len() >= self.config.max_streams {
            self.statistics.streams_over_limit += 1;
            out.push(Command::Discard { flow: sighting.flow, key: sighting.key });
            return;
        }
        let number =
            self.flows.insert(sighting.flow, sighting.key, sighting.first_packet_at, sighting.payload_type, now);
        self.schedule_flow(number, Some(now.plus(self.config.pre_roll_wait)));
        self.decide(number, out);
    }

    pub(crate) fn forget_stream(&mut self, gone: &StreamGone, out: &mut Vec<Command>) {
        let Some(number) = self.flows.number(gone.flow) else {
            // It was refused, or belonged to a process before this one.
            self.statistics.streams_never_claimed += 1;
            self.unclaimed.push(gone);
            return;
        };
        if self.flows.get(number).is_some_and(|flow| flow.key == gone.key && !flow.accounted) {
            self.statistics.streams_never_claimed += 1;
            self.unclaimed.push(gone);
        }
        self.drop_flow(number, out);
    }

    fn drop_flow(&mut self, number: FlowNumber, out: &mut Vec<Command>) {
        self.schedule_flow(number, None);
        let Some(flow) = self.flows.remove(number) else { return };
        let Some(call_number) = flow.call() else { return };
        if let Some(call) = self.calls.get_mut(&call_number) {
            call.flows.remove(&number);
            if let Some(claim) = flow.claim() {
                let side = claim.side;
                self.promote(call_number, side, out);
            }
        }
    }

    /// Looks at a stream again: claims it, moves it, or leaves it.
    pub(crate) fn decide(&mut self, number: FlowNumber, out: &mut Vec<Command>) {
        let Some(flow) = self.flows.get(number) else { return };
        if let Some(claim) = flow.claim() {
            let own = claim.call;
            if self.calls.get(&own).is_some_and(|call| call.is_live() && call.orphan.is_none()) {
                match self.best_match(flow, Some(own)) {
                    Some(found) if found.is_audio => self.update_claim(number, found, out),
                    _ => self.move_or_mark_unmatched(number, out),
                }
            } else if let Some(found) = self.better_owner(flow, own) {
                self.release(number, out);
                self.claim(number, found, out);
            }
            return;
        }
        let first_packet_at = flow.first_packet_at;
        let Some(found) = self.best_match(flow, None) else {
            self.wait(number, None, out);
            return;
        };
        let recordable = self.is_recordable(found.call);
        let Some(call) = self.calls.get_mut(&found.call) else { return };
        if !found.is_audio {
            call.saw_other_media = true;
            self.discard(number, true, out);
            return;
        }
        if call.flows.len() >= FLOWS_PER_CALL_MAX && !call.flows.contains(&number) {
            self.statistics.streams_over_limit += 1;
            self.discard(number, false, out);
            return;
        }
        let has_room = self.has_room || call.take.is_some();
        match call.phase {
            Phase::Live if recordable && has_room => self.claim(number, found, out),
            Phase::Live => {
                if recordable {
                    call.refused_since.get_or_insert(first_packet_at);
                    self.refused.insert(found.call);
                }
                self.wait(number, Some(found.call), out);
            }
            Phase::Ending { at, .. } if first_packet_at <= at && recordable && has_room => {
                self.claim(number, found, out);
            }
            Phase::Ending { .. } | Phase::Finishing { .. } => self.discard(number, true, out),
        }
    }

    /// A live call that has a better right to the stream than `own`, which is over or has no signalling.
    fn better_owner(&self, flow: &Flow, own: CallNumber) -> Option<Match> {
        self.best_match(flow, None)
            .filter(|found| found.call != own && found.is_audio && found.rank.live && self.is_recordable(found.call))
    }

    fn move_or_mark_unmatched(&mut self, number: FlowNumber, out: &mut Vec<Command>) {
        let now = self.clock.now();
        let Some(flow) = self.flows.get(number) else { return };
        let Some(own) = flow.call() else { return };
        if let Some(found) = self.better_owner(flow, own) {
            self.release(number, out);
            self.claim(number, found, out);
            return;
        }
        let grace = self.config.end_grace;
        let Some(flow) = self.flows.get_mut(number) else { return };
        let FlowState::Recorded(claim) = &mut flow.state else { return };
        let since = *claim.unmatched_since.get_or_insert(now);
        self.schedule_flow(number, Some(since.plus(grace)));
    }

    /// Looks again at all streams that a call has or could have, those that match best first.
    pub(crate) fn reconsider_call(&mut self, number: CallNumber, out: &mut Vec<Command>) {
        let Some(call) = self.calls.get(&number) else { return };
        let mut candidates: BTreeSet<FlowNumber> = call.flows.clone();
        for leg in call.legs.iter().map(|leg| &self.legs[leg]) {
            for bound in &leg.bound {
                candidates.extend(self.flows.claimable_at(leg.domain(), bound.address).rev().take(CANDIDATES_MAX));
            }
        }
        let mut ordered: Vec<(Reverse<Option<Quality>>, FlowNumber)> = candidates
            .into_iter()
            .filter_map(|candidate| {
                let found = self.best_match(self.flows.get(candidate)?, None);
                Some((Reverse(found.map(|found| found.rank.quality)), candidate))
            })
            .collect();
        ordered.sort_unstable();
        for (_, candidate) in ordered {
            self.decide(candidate, out);
        }
    }

    pub(crate) fn on_flow_due(&mut self, number: FlowNumber, out: &mut Vec<Command>) {
        let Some(flow) = self.flows.get_mut(number) else { return };
        flow.due = None;
        self.decide(number, out);
        let now = self.clock.now();
        let grace = self.config.end_grace;
        let Some(flow) = self.flows.get(number) else { return };
        match &flow.state {
            FlowState::Waiting { call: None } if flow.due.is_none_or(|due| due <= now) => {
                self.give_up_waiting(number, out);
            }
            FlowState::Recorded(Claim { unmatched_since: Some(since), .. }) if since.plus(grace) <= now => {
                self.release(number, out);
                self.wait(number, None, out);
            }
            _ => {}
        }
    }

    /// No call has claimed the stream in time.
    pub(crate) fn give_up_waiting(&mut self, number: FlowNumber, out: &mut Vec<Command>) {
        let Some(flow) = self.flows.get(number) else { return };
        // Streams without signalling cannot take the room of calls.
        let has_room =
            self.calls.len() < self.config.max_calls && self.orphans.len() < self.config.max_calls.div_ceil(2);
        if !flow.accounted && self.records_orphans() && has_room && self.has_room {
            self.claim_as_orphan(number, out);
        } else {
            self.discard(number, false, out);
        }
    }

    pub(crate) fn is_recordable(&self, number: CallNumber) -> bool {
        self.config.keep_unanswered
            || self
                .calls
                .get(&number)
                .is_some_and(|call| call.take.is_some() || call.legs.iter().any(|leg| self.legs[leg].is_established()))
    }

    /// The leg that a stream most likely belongs to, of all calls or of one.
    fn best_match(&self, flow: &Flow, only: Option<CallNumber>) -> Option<Match> {
        let key = &flow.key;
        let (same_ssrc, reverse) = self.flows.partners(key, PARTNERS_MAX);
        let calls_of = |flows: &[&Flow]| -> Vec<CallNumber> {
            flows.iter().filter_map(|partner| partner.claim()).map(|claim| claim.call).collect()
        };
        let (same_ssrc, reverse) = (calls_of(&same_ssrc), calls_of(&reverse));
        let mut best: Option<Match> = None;
        let mut offer = |found: Match| {
            let is_better = best.as_ref().is_none_or(|best| found.rank > best.rank);
            if is_better {
                best = Some(found);
            }
            is_better
        };
        let rank = |leg_number: LegNumber, speaker: LegSide, quality: Quality, binding| {
            let leg = &self.legs[&leg_number];
            let call = &self.calls[&leg.call];
            let speaks = side_index(leg.side_of_call(speaker));
            let expecting =
                leg.answered.filter(|&answer| !call.had_stream[speaks] && self.clock.now().since(answer) < EXPECTATION);
            Rank {
                live: call.is_live() && !leg.ended,
                quality,
                has_partner: same_ssrc.contains(&leg.call),
                recency: match expecting {
                    Some(answer) => Recency::Expecting(Reverse((answer, leg_number))),
                    None => Recency::Settled(binding),
                },
            }
        };
        let mut since_better = 0;
        for (binding, leg_number, receiver) in self.legs_at(key.domain, key.destination, only, &same_ssrc) {
            let leg = &self.legs[&leg_number];
            let speaker = receiver.other();
            let both = leg.side(speaker).receives_at(key.source) || reverse.contains(&leg.call);
            let quality = if both { Quality::BothEnds } else { Quality::Destination };
            let is_better = offer(Match {
                rank: rank(leg_number, speaker, quality, binding),
                call: leg.call,
                leg: leg_number,
                speaker,
                is_audio: leg.side(receiver).is_audio(key.destination, flow.payload_type),
            });
            since_better = if is_better { 0 } else { since_better + 1 };
            if since_better >= SCAN_ENOUGH {
                break;
            }
        }
        let live_calls: BTreeSet<CallNumber> = self
            .bindings
            .at(key.domain, key.source)
            .take(PARTNERS_MAX)
            .map(|(_, leg, _)| self.legs[&leg].call)
            .filter(|call| self.calls[call].is_live())
            .take(2)
            .collect();
        let sources = self.legs_at(key.domain, key.source, only, &same_ssrc);
        for (binding, leg_number, speaker) in sources.into_iter().take(SCAN_ENOUGH) {
            let leg = &self.legs[&leg_number];
            let receiver = speaker.other();
            if leg.side(receiver).receives_at(key.destination) {
                continue;
            }
            let is_audio = leg.side(speaker).is_audio(key.source, flow.payload_type);
            // The receiver's description does not name the destination, so something else must speak for it: media
            // that flows the other way; or a payload type that was agreed, and either no second call with this
            // source or a destination where the receiver's signalling comes from.
            let understood = !is_audio
                || leg.side(receiver).names_payload_type(flow.payload_type)
                || leg.side(speaker).names_payload_type(flow.payload_type);
            let unique = live_calls.len() <= 1 || leg.signalling_ip(receiver) == Some(key.destination.ip());
            if reverse.contains(&leg.call) || (understood && unique) {
                offer(Match {
                    rank: rank(leg_number, speaker, Quality::SourceOnly, binding),
                    call: leg.call,
                    leg: leg_number,
                    speaker,
                    is_audio,
                });
            }
        }
        best
    }

    /// The legs on an address: of one call; or of the calls in `first`, and then of all, the newest first.
    fn legs_at(
        &self,
        domain: Domain,
        address: SocketAddr,
        only: Option<CallNumber>,
        first: &[CallNumber],
    ) -> impl Iterator<Item = (BindingNumber, LegNumber, LegSide)> {
        let of_call = move |call: CallNumber| {
            let legs = self.calls.get(&call).into_iter().flat_map(|call| &call.legs);
            let legs = legs.map(|number| (*number, &self.legs[number])).filter(move |(_, leg)| leg.domain() == domain);
            legs.flat_map(move |(number, leg)| {
                let bound = leg.bound.iter().filter(move |bound| bound.address == address);
                bound.map(move |bound| (bound.number, number, bound.side))
            })
        };
        let named: Vec<CallNumber> = only.map_or_else(|| first.to_vec(), |only| vec![only]);
        let others = self.bindings.at(domain, address).take(if only.is_some() { 0 } else { SCAN_MAX });
        named.into_iter().flat_map(of_call).chain(others)
    }

    fn format_of(&self, flow: &Flow, found: &Match) -> StreamFormat {
        let leg = &self.legs[&found.leg];
        stream_format(leg.side(found.speaker.other()), leg.side(found.speaker), flow.key.destination)
    }

    fn claim(&mut self, number: FlowNumber, found: Match, out: &mut Vec<Command>) {
        let Some(flow) = self.flows.get(number) else { return };
        let side = self.legs[&found.leg].side_of_call(found.speaker);
        let format = self.format_of(flow, &found);
        let (rivals, beaten) = self.rivals(flow, &found, side);
        if !beaten {
            self.stand_by(number, found.call);
            return;
        }
        for rival in rivals {
            self.release(rival, out);
            self.stand_by(rival, found.call);
        }
        let claim = Claim {
            call: found.call,
            leg: Some(found.leg),
            side,
            quality: found.rank.quality,
            format,
            since: self.clock.now(),
            unmatched_since: None,
        };
        self.record(number, claim, out);
    }

    /// The streams of the same side that bring the same voice another way (see the crate's documentation), and whether
    /// this one is to take their place.
    fn rivals(&self, flow: &Flow, found: &Match, side: LegSide) -> (Vec<FlowNumber>, bool) {
        let now = self.clock.now();
        let Some(call) = self.calls.get(&found.call) else { return (Vec::new(), false) };
        let track = call.take.as_ref().and_then(|take| take.tracks.get(&track_id(side)));
        let last_progress = track.and_then(|track| track.last_progress);
        let mut rivals = Vec::new();
        let mut beaten = true;
        for &other_number in &call.flows {
            let Some(other) = self.flows.get(other_number) else { continue };
            let Some(claim) = other.claim() else { continue };
            if claim.side != side || other_number == flow.number || other.same_path(&flow.key) {
                continue;
            }
            let other_leg = claim.leg.and_then(|leg| self.legs.get(&leg));
            let shares_leg = claim.leg == Some(found.leg)
                || other_leg.is_some_and(|leg| {
                    leg.sides.iter().any(|s| s.receives_at(flow.key.destination) || s.receives_at(flow.key.source))
                });
            if shares_leg && other.key.ssrc != flow.key.ssrc {
                continue;
            }
            let silent = now.since(last_progress.unwrap_or(claim.since).max(claim.since)) >= TRACK_SILENCE;
            let other_is_over = claim.unmatched_since.is_some() || other_leg.is_some_and(|leg| leg.ended);
            beaten &= found.rank.quality > claim.quality || silent || other_is_over;
            rivals.push(other_number);
        }
        (rivals, beaten)
    }

    /// The call's descriptions changed under a stream that it already has.
    fn update_claim(&mut self, number: FlowNumber, found: Match, out: &mut Vec<Command>) {
        let Some(flow) = self.flows.get(number) else { return };
        let side = self.legs[&found.leg].side_of_call(found.speaker);
        let format = self.format_of(flow, &found);
        let Some(claim) = flow.claim() else { return };
        if claim.side != side {
            self.release(number, out);
            self.claim(number, found, out);
            return;
        }
        let changed = claim.format != format;
        let claim =
            Claim { leg: Some(found.leg), quality: found.rank.quality, format, unmatched_since: None, ..claim.clone() };
        if changed {
            self.record(number, claim, out);
        } else if let Some(flow) = self.flows.get_mut(number) {
            flow.state = FlowState::Recorded(claim);
        }
        self.schedule_flow(number, None);
    }

    fn record(&mut self, number: FlowNumber, claim: Claim, out: &mut Vec<Command>) {
        self.leave_call(number);
        let call_number = claim.call;
        let Some(recording) = self.begin_track(call_number, claim.side, claim.format.encrypted) else { return };
        let Some(flow) = self.flows.get_mut(number) else { return };
        out.push(Command::Record {
            flow: flow.flow,
            key: flow.key,
            recording,
            track: track_id(claim.side),
            format: claim.format.clone(),
        });
        flow.accounted = true;
        flow.state = FlowState::Recorded(claim);
        let mut claimable = false;
        if let Some(call) = self.calls.get_mut(&call_number) {
            call.flows.insert(number);
            claimable = !call.is_live() || call.orphan.is_some();
        }
        self.flows.set_claimable(number, claimable);
        self.schedule_flow(number, None);
        self.schedule_call(call_number);
    }

    /// Takes a recorded stream off its track; the caller gives it a new state.
    pub(crate) fn release(&mut self, number: FlowNumber, out: &mut Vec<Command>) {
        self.leave_call(number);
        let now = self.clock.now();
        let Some(flow) = self.flows.get_mut(number) else { return };
        if flow.claim().is_some() {
            out.push(Command::Release { flow: flow.flow });
            flow.seen = now;
        }
        flow.state = FlowState::Waiting { call: None };
        self.flows.set_claimable(number, true);
    }

    fn leave_call(&mut self, number: FlowNumber) {
        let Some(call) = self.flows.get(number).and_then(Flow::call) else { return };
        if let Some(call) = self.calls.get_mut(&call) {
            call.flows.remove(&number);
        }
    }

    /// To wait for a call's answer, or for any call.
    pub(crate) fn wait(&mut self, number: FlowNumber, call: Option<CallNumber>, out: &mut Vec<Command>) {
        self.leave_call(number);
        let Some(flow) = self.flows.get_mut(number) else { return };
        if matches!(flow.state, FlowState::Discarded) {
            if call.is_none() {
                return;
            }
            // A call may want it after all: its packets are to be held again.
            out.push(Command::Release { flow: flow.flow });
        }
        flow.state = FlowState::Waiting { call };
        let due = flow.seen.plus(self.config.pre_roll_wait).max(self.clock.now());
        match call.and_then(|call| self.calls.get_mut(&call)) {
            Some(call) => {
                call.flows.insert(number);
                self.schedule_flow(number, None);
            }
            None => self.schedule_flow(number, Some(due)),
        }
    }

    fn stand_by(&mut self, number: FlowNumber, call_number: CallNumber) {
        self.leave_call(number);
        let Some(flow) = self.flows.get_mut(number) else { return };
        flow.state = FlowState::Standby { call: call_number };
        if let Some(call) = self.calls.get_mut(&call_number) {
            call.flows.insert(number);
        }
        self.schedule_flow(number, None);
    }

    fn discard(&mut self, number: FlowNumber, accounted: bool, out: &mut Vec<Command>) {
        self.leave_call(number);
        self.schedule_flow(number, None);
        let Some(flow) = self.flows.get_mut(number) else { return };
        flow.accounted |= accounted;
        if !matches!(flow.state, FlowState::Discarded) {
            flow.state = FlowState::Discarded;
            out.push(Command::Discard { flow: flow.flow, key: flow.key });
        }
    }

    /// Lets streams that bring the same voice take over from one that stopped.
    pub(crate) fn promote(&mut self, number: CallNumber, side: LegSide, out: &mut Vec<Command>) {
        let Some(call) = self.calls.get(&number) else { return };
        let standing_by: Vec<FlowNumber> = call
            .flows
            .iter()
            .copied()
            .filter(|&flow| {
                self.flows.get(flow).is_some_and(|flow| {
                    matches!(flow.state, FlowState::Standby { .. })
                        && self
                            .best_match(flow, Some(number))
                            .is_some_and(|found| self.legs[&found.leg].side_of_call(found.speaker) == side)
                })
            })
            .collect();
        for flow in standing_by {
            self.decide(flow, out);
        }
    }

    /// As [`Self::promote`], when an encoder says that a track has no packets.
    pub(crate) fn promote_if_silent(&mut self, number: CallNumber, side: LegSide, out: &mut Vec<Command>) {
        let now = self.clock.now();
        let Some(call) = self.calls.get(&number) else { return };
        let track = call.take.as_ref().and_then(|take| take.tracks.get(&track_id(side)));
        let since = track.and_then(|track| track.last_progress).unwrap_or(Moment::default());
        if now.since(since) >= TRACK_SILENCE && call.flows.len() > 1 {
            self.promote(number, side, out);
        }
    }

    /// A recording without legs for a stream that no call has claimed, or the recording of its reverse direction.
    fn claim_as_orphan(&mut self, number: FlowNumber, out: &mut Vec<Command>) {
        let now = self.clock.now();
        let Some(flow) = self.flows.get(number) else { return };
        let (key, first_packet_at) = (flow.key, flow.first_packet_at);
        let pair = OrphanPair::of(key.domain, key.source, key.destination);
        let range = (pair, CallNumber(0))..=(pair, CallNumber(u64::MAX));
        let existing = self.orphans.range(range).rev().take(PARTNERS_MAX).map(|entry| entry.1).find(|call| {
            let Some(call) = self.calls.get(call).filter(|call| call.is_live()) else { return false };
            let side = orphan_side(call, key.source);
            !call
                .flows
                .iter()
                .any(|other| self.flows.get(*other).and_then(Flow::claim).is_some_and(|claim| claim.side == side))
        });
        let call_number = existing.unwrap_or_else(|| {
            let call_number = CallNumber(self.next_call);
            self.next_call += 1;
            let identity = |address| Identity { address: Some(address), ..Identity::default() };
            self.calls.insert(
                call_number,
                Call {
                    started_at: first_packet_at,
                    conversation: ConversationId::derive(self.config.seed, first_packet_at, &key.to_string()),
                    legs: Vec::new(),
                    orphan: Some(pair),
                    orphan_caller: Some(key.source),
                    flows: BTreeSet::new(),
                    parties: vec![
                        party_of(0, LegSide::Caller, &identity(key.source), first_packet_at),
                        party_of(1, LegSide::Callee, &identity(key.destination), first_packet_at),
                    ],
                    phase: Phase::Live,
                    take: None,
                    had_stream: [false; 2],
                    saw_other_media: false,
                    refused_since: None,
                    last_signalling: (now, first_packet_at),
                    last_media: None,
                    due: Moment::default(),
                },
            );
            self.orphans.insert((pair, call_number));
            call_number
        });
        let side = orphan_side(&self.calls[&call_number], key.source);
        let claim = Claim {
            call: call_number,
            leg: None,
            side,
            quality: Quality::SourceOnly,
            format: StreamFormat { formats: Vec::new().into(), encrypted: false },
            since: now,
            unmatched_since: None,
        };
        self.record(number, claim, out);
    }
}

fn orphan_side(call: &Call, source: SocketAddr) -> LegSide {
    if call.orphan_caller == Some(source) { LegSide::Caller } else { LegSide::Callee }
}
