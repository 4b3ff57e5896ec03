//! One leg: a call attempt from its first INVITE, over all retries, hops and forks, to its end.
//!
//! Constraints: every function may be called with any message whose Call-ID and tags fit, in any order and any number
//! of times. After [`CallEventKind::Ended`] a leg says nothing more.

use super::SipConfig;
use super::media::{BySide, Descriptions, EarlySession, Ending, Exchange, ExchangeState, FORKS_MAX, Hop, Kept};
use crate::event::{CallEvent, CallEventKind, Identity, LegRef, LegSide, LegStart, MediaBinding, MediaPhase};
use crate::message::Method;
use sidetone_model::{CaptureTime, EndReason};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// `Refreshed` is not repeated within this time unless the session's expiry changed.
const REFRESH_INTERVAL: Duration = Duration::from_secs(1);

/// An INVITE that comes so long after the end of an answered call cannot be a straggler of it.
const REDIAL_AFTER: Duration = Duration::from_secs(1);

/// What a leg needs to know of a message that belongs to it.
#[derive(Debug)]
pub(super) struct Seen<'m> {
    pub(super) time: CaptureTime,
    pub(super) source: SocketAddr,
    pub(super) destination: SocketAddr,
    /// Who sent the request, also where this is a response to it.
    pub(super) by: LegSide,
    pub(super) method: Method,
    pub(super) cseq: u32,
    /// `None` for requests.
    pub(super) status: Option<u16>,
    /// Reason phrase and Reason field, for people.
    pub(super) reason: String,
    pub(super) hop: Hop,
    pub(super) via_count: usize,
    pub(super) from_tag: &'m str,
    pub(super) to_tag: &'m str,
    pub(super) description: Option<Arc<Kept>>,
    /// What the sender of this message is asserted to be, and how much that is worth.
    pub(super) identity: Option<(IdentityRank, Identity)>,
    pub(super) session_interval: Option<Duration>,
}

impl Seen<'_> {
    /// The called side's tag: it tells forks apart.
    fn callee_tag(&self) -> &str {
        match self.by {
            LegSide::Caller => self.to_tag,
            LegSide::Callee => self.from_tag,
        }
    }

    fn sender(&self) -> LegSide {
        if self.status.is_some() { self.by.other() } else { self.by }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum IdentityRank {
    /// From and To: what the parties say of themselves.
    Claimed,
    /// Remote-Party-ID.
    Stated,
    /// P-Asserted-Identity (RFC 3325).
    Asserted,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Phase {
    /// INVITE sent, no final response.
    Setup,
    /// Refused in a way that the caller may answer with another INVITE of the same attempt.
    Retry,
    Answered,
    Ended,
}

/// A 2xx to the initial INVITE; several are possible when a proxy forks.
#[derive(Debug)]
struct Confirmed {
    tag: Arc<str>,
    answer: Descriptions,
    /// A BYE ended this one.
    gone: bool,
}

#[derive(Debug)]
struct Side {
    identity: Identity,
    rank: IdentityRank,
    /// Via count of the request that gave the address: the caller's address comes from the first hop, the callee's
    /// from the last.
    address_via: usize,
    published: Option<(MediaPhase, Vec<MediaBinding>)>,
}

#[derive(Debug)]
pub(super) struct Leg {
    pub(super) reference: LegRef,
    pub(super) from: String,
    caller_tag: Arc<str>,
    pub(super) phase: Phase,
    sides: BySide<Side>,
    invites: BySide<Option<Exchange>>,
    /// UPDATE and PRACK.
    updates: BySide<Option<Exchange>>,
    early: Option<EarlySession>,
    committed: BySide<Descriptions>,
    /// The transaction that `committed` comes from.
    in_force: Option<(LegSide, Method, u32)>,
    confirmed: Vec<Confirmed>,
    active_tag: Option<Arc<str>>,
    ringing: bool,
    /// The dialog was learned from a BYE, or in another way that does not tell the sides apart.
    pub(super) sides_unknown: bool,
    /// Another leg took this one's place (RFC 3891).
    pub(super) replaced: bool,
    cancelled: Option<Ending>,
    refused: Option<Ending>,
    session_interval: Option<Duration>,
    session_expires_at: Option<CaptureTime>,
    refreshed: Option<(CaptureTime, Option<CaptureTime>)>,
    /// Last message; once ended, the time of that.
    last_seen: CaptureTime,
    /// Identifiers shared with other legs, as registered.
    pub(super) links: Vec<Arc<str>>,
    pub(super) related: Vec<Arc<str>>,
    /// Call-ID of the leg that this one replaces.
    pub(super) replaces: Option<Arc<str>>,
}

impl Leg {
    pub(super) fn new(
        reference: LegRef,
        caller_tag: &str,
        phase: Phase,
        identities: BySide<Identity>,
        from: String,
        now: CaptureTime,
    ) -> Self {
        let side = |identity, address_via| Side { identity, rank: IdentityRank::Claimed, address_via, published: None };
        Self {
            reference,
            from,
            caller_tag: Arc::from(caller_tag),
            phase,
            sides: BySide { caller: side(identities.caller, usize::MAX), callee: side(identities.callee, 0) },
            invites: BySide::default(),
            updates: BySide::default(),
            early: None,
            committed: BySide::default(),
            in_force: None,
            confirmed: Vec::new(),
            active_tag: None,
            ringing: false,
            sides_unknown: false,
            replaced: false,
            cancelled: None,
            refused: None,
            session_interval: None,
            session_expires_at: None,
            refreshed: None,
            last_seen: now,
            links: Vec::new(),
            related: Vec::new(),
            replaces: None,
        }
    }

    /// Emits `Started`. Identity that the first message asserts is part of it.
    pub(super) fn start(&mut self, seen: &Seen<'_>, to: String, in_progress: bool, out: &mut Vec<CallEvent>) {
        if let (Some((rank, identity)), None) = (&seen.identity, seen.status) {
            let side = &mut self.sides[seen.by];
            side.rank = *rank;
            side.identity.number.clone_from(&identity.number);
            if !identity.name.is_empty() {
                side.identity.name.clone_from(&identity.name);
            }
        }
        let start = LegStart {
            caller: self.sides.caller.identity.clone(),
            callee: self.sides.callee.identity.clone(),
            from: self.from.clone(),
            to,
            in_progress,
        };
        self.emit(seen.time, CallEventKind::Started(start), out);
    }

    /// Which side sent a request with these tags; `None` when it is not of this leg. Tags that do not tell (RFC 2543
    /// allowed none) are helped out by the From address.
    pub(super) fn sender_of(&self, from_tag: &str, to_tag: &str, from_uri: &str) -> Option<LegSide> {
        match (from_tag == &*self.caller_tag, to_tag == &*self.caller_tag) {
            (true, true) if from_uri == self.from => Some(LegSide::Caller),
            (true, true) | (false, true) => Some(LegSide::Callee),
            (true, false) => Some(LegSide::Caller),
            (false, false) => None,
        }
    }

    /// Whether an INVITE without a To tag that reaches this ended leg opens another: a higher sequence number, or the
    /// same call placed again, which is no retransmission once the leg was answered and over.
    pub(super) fn may_start_anew(&self, by: LegSide, cseq: u32, now: CaptureTime) -> bool {
        let is_later = self.invite_cseq(by).is_some_and(|known| cseq > known);
        is_later || (self.active_tag.is_some() && now.since(self.last_seen) >= REDIAL_AFTER)
    }

    /// The caller comes back from a challenge with another tag.
    pub(super) fn rename_caller(&mut self, tag: &str) {
        self.caller_tag = Arc::from(tag);
    }

    pub(super) fn invite_cseq(&self, by: LegSide) -> Option<u32> {
        self.invites[by].as_ref().map(|exchange| exchange.cseq)
    }

    /// Bytes of session descriptions held, as received.
    pub(super) fn description_bytes(&self) -> usize {
        let exchanges = [&self.invites.caller, &self.invites.callee, &self.updates.caller, &self.updates.callee];
        let exchanged: usize = exchanges.into_iter().flatten().map(Exchange::bytes).sum();
        let early = self.early.as_ref().map_or(0, |early| early.sides.caller.bytes() + early.sides.callee.bytes());
        let confirmed: usize = self.confirmed.iter().map(|confirmed| confirmed.answer.bytes()).sum();
        exchanged + early + confirmed + self.committed.caller.bytes() + self.committed.callee.bytes()
    }

    /// When [`Self::on_deadline`] is due.
    pub(super) fn deadline(&self, config: &SipConfig) -> CaptureTime {
        match self.phase {
            Phase::Setup => match &self.cancelled {
                Some(cancelled) => cancelled.time.saturating_add(config.retry_timeout),
                None if self.invites.caller.as_ref().is_some_and(|invite| invite.response_seen) => {
                    self.last_seen.saturating_add(config.ringing_timeout)
                }
                None => self.last_seen.saturating_add(config.no_response_timeout),
            },
            Phase::Retry => {
                self.refused.as_ref().map_or(self.last_seen, |r| r.time).saturating_add(config.retry_timeout)
            }
            Phase::Answered => {
                let silent = self.last_seen.saturating_add(config.silent_leg_timeout);
                self.session_deadline(config).map_or(silent, |expiry| expiry.min(silent))
            }
            Phase::Ended => self.last_seen.saturating_add(config.linger),
        }
    }

    fn session_deadline(&self, config: &SipConfig) -> Option<CaptureTime> {
        self.session_expires_at.map(|expiry| expiry.saturating_add(config.session_expiry_grace))
    }

    /// The deadline has passed. False when the leg is to be forgotten.
    pub(super) fn on_deadline(&mut self, now: CaptureTime, config: &SipConfig, out: &mut Vec<CallEvent>) -> bool {
        let (ending, reason) = match self.phase {
            Phase::Setup => match self.cancelled.take() {
                Some(cancelled) => (Some(cancelled), EndReason::Cancelled),
                None => (None, EndReason::Failed),
            },
            Phase::Retry => (self.refused.take(), EndReason::Failed),
            Phase::Answered if self.session_deadline(config).is_some_and(|deadline| deadline <= now) => {
                let time = self.session_expires_at.unwrap_or(now);
                let detail = "the session timer ran out".to_owned();
                (Some(Ending { time, detail }), EndReason::SessionExpired)
            }
            Phase::Answered | Phase::Ended => return false,
        };
        let unseen = || Ending { time: now, detail: "no final response was seen".to_owned() };
        let Ending { time, detail } = ending.unwrap_or_else(unseen);
        self.end(time, reason, detail, out);
        self.last_seen = now;
        true
    }

    pub(super) fn on_message(&mut self, seen: &Seen<'_>, out: &mut Vec<CallEvent>) {
        if self.phase == Phase::Ended {
            return;
        }
        self.last_seen = self.last_seen.max(seen.time);
        match seen.status {
            None => self.on_request(seen, out),
            Some(status) => self.on_response(status, seen, out),
        }
        if self.phase != Phase::Ended {
            self.publish(LegSide::Caller, seen.time, out);
            self.publish(LegSide::Callee, seen.time, out);
        }
    }

    fn on_request(&mut self, seen: &Seen<'_>, out: &mut Vec<CallEvent>) {
        match seen.method {
            Method::Invite => self.on_invite(seen, out),
            Method::Ack => self.on_ack(seen, out),
            Method::Prack => self.on_prack(seen, out),
            Method::Update => self.on_update(seen, out),
            Method::Cancel => return self.on_cancel(seen),
            Method::Bye => return self.on_bye(seen, out),
            _ => {}
        }
        if self.phase == Phase::Answered && seen.method != Method::Ack {
            if let (Some(expiry), Some(interval)) = (self.session_expires_at, seen.session_interval) {
                // The response says what counts; should the mirror not show it, the call is alive all the same.
                self.session_expires_at = Some(expiry.max(seen.time.saturating_add(interval)));
            }
            self.refreshed(seen.time, out);
        }
    }

    fn on_response(&mut self, status: u16, seen: &Seen<'_>, out: &mut Vec<CallEvent>) {
        match (seen.method, status) {
            (Method::Invite, 100..=199) => self.on_provisional(status, seen, out),
            (Method::Invite, 200..=299) => self.on_accepted(seen, out),
            (Method::Invite, _) if self.is_early() => return self.on_refused(status, seen, out),
            (Method::Update | Method::Prack, 200..=299) => self.on_update_accepted(seen, out),
            _ => {}
        }
        if status >= 300 {
            if self.phase == Phase::Answered && matches!(status, 408 | 481) && seen.method.is_about_the_dialog() {
                // The other side does not know the dialog any more (RFC 3261 §12.2.1.2).
                return self.end(seen.time, EndReason::Released, describe(status, seen), out);
            }
            let exchange = match seen.method {
                Method::Invite => &mut self.invites[seen.by],
                _ => &mut self.updates[seen.by],
            };
            let refused = exchange.as_mut().filter(|e| e.cseq == seen.cseq && e.method == seen.method && e.is_open());
            if let Some(exchange) = refused.filter(|exchange| !exchange.is_downstream(seen.hop)) {
                exchange.state = ExchangeState::Void;
            }
        }
        if self.phase == Phase::Answered && status >= 200 {
            self.refreshed(seen.time, out);
        }
    }

    /// The exchange to which a message belongs; a newer sequence number opens the next one. `None` for stragglers of
    /// an older one.
    fn exchange_of<'e>(
        slots: &'e mut BySide<Option<Exchange>>,
        seen: &Seen<'_>,
        initial: bool,
    ) -> Option<&'e mut Exchange> {
        let slot = &mut slots[seen.by];
        match slot {
            Some(exchange) if exchange.cseq > seen.cseq => return None,
            Some(exchange) if exchange.cseq == seen.cseq && exchange.method == seen.method => {}
            _ => *slot = Some(Exchange::new(seen.method, seen.cseq, initial)),
        }
        slot.as_mut()
    }

    fn is_early(&self) -> bool {
        matches!(self.phase, Phase::Setup | Phase::Retry)
    }

    fn on_invite(&mut self, seen: &Seen<'_>, out: &mut Vec<CallEvent>) {
        let early = self.is_early();
        let next_attempt = self.invite_cseq(seen.by).is_none_or(|cseq| seen.cseq > cseq);
        let Some(exchange) = Self::exchange_of(&mut self.invites, seen, early) else { return };
        exchange.note_request(seen.hop, seen.via_count);
        if let Some(description) = &seen.description {
            exchange.offer.set(seen.hop, description);
        }
        let reference = exchange.is_reference_hop(seen.hop);
        let settled = exchange.state == ExchangeState::Completed;
        if early && next_attempt {
            self.phase = Phase::Setup;
            self.refused = None;
            self.cancelled = None;
            self.early = None;
        }
        if settled {
            // A hop's copy that came late, or the request behind its response.
            self.complete_invite(seen.by);
        }
        if early && seen.by == LegSide::Caller {
            self.note_address(LegSide::Caller, seen, out);
            self.note_address(LegSide::Callee, seen, out);
        }
        self.assert_identity(seen, reference, out);
    }

    /// The ends of the chain of hops seen are the parties' own addresses.
    fn note_address(&mut self, side: LegSide, seen: &Seen<'_>, out: &mut Vec<CallEvent>) {
        let known = &mut self.sides[side];
        let (outermost, address) = match side {
            LegSide::Caller => (seen.via_count < known.address_via, seen.source),
            LegSide::Callee => (seen.via_count > known.address_via, seen.destination),
        };
        if !outermost {
            return;
        }
        known.address_via = seen.via_count;
        if known.identity.address != Some(address) {
            known.identity.address = Some(address);
            let identity = known.identity.clone();
            self.emit(seen.time, CallEventKind::Identity { side, identity }, out);
        }
    }

    /// Takes over who the sender of this message is asserted to be. Hops may write the same number differently: a
    /// copy counts only if it is worth more than what is known.
    fn assert_identity(&mut self, seen: &Seen<'_>, reference_hop: bool, out: &mut Vec<CallEvent>) {
        let Some((rank, asserted)) = &seen.identity else { return };
        let side = seen.sender();
        let known = &mut self.sides[side];
        if *rank < known.rank || (*rank == known.rank && !reference_hop) {
            return;
        }
        known.rank = *rank;
        let same_number = known.identity.number == asserted.number;
        let keeps_name = asserted.name.is_empty() && same_number;
        if same_number && (keeps_name || known.identity.name == asserted.name) {
            return;
        }
        known.identity.number.clone_from(&asserted.number);
        known.identity.name.clone_from(&asserted.name);
        let identity = known.identity.clone();
        self.emit(seen.time, CallEventKind::Identity { side, identity }, out);
    }

    fn on_ack(&mut self, seen: &Seen<'_>, out: &mut Vec<CallEvent>) {
        if let (None, Some(description)) = (&self.invites[seen.by], &seen.description) {
            // The INVITE came before the capture began: this is the answer to a late offer.
            self.committed[seen.by].set(seen.hop, description);
        }
        let invite = self.invites[seen.by].as_ref().filter(|invite| invite.cseq == seen.cseq);
        // The ACK to a refusal has the INVITE's branch, the one to a 2xx has its own (RFC 3261 §17.1.1.3, §13.2.2.4).
        let acknowledges_2xx = invite.is_some_and(|invite| invite.request_seen && !invite.was_requested_on(seen.hop));
        if self.phase == Phase::Setup && seen.by == LegSide::Caller && acknowledges_2xx && !seen.to_tag.is_empty() {
            self.infer_answer(seen, out);
        }
        let Some(exchange) = self.invites[seen.by].as_mut().filter(|exchange| exchange.cseq == seen.cseq) else {
            return;
        };
        let accepted = exchange.forks.iter().any(|fork| fork.accepted);
        if exchange.is_late_offer()
            && let Some(description) = &seen.description
        {
            exchange.late_answer.set(seen.hop, description);
        }
        // The ACK ends a late offer's wait for an answer, with or without one.
        if accepted && exchange.state != ExchangeState::Void {
            self.complete_invite(seen.by);
        }
    }

    /// The 2xx was not seen, but this message could not be without it.
    fn infer_answer(&mut self, seen: &Seen<'_>, out: &mut Vec<CallEvent>) {
        let cseq = self.invite_cseq(LegSide::Caller).unwrap_or(seen.cseq);
        let (from_tag, to_tag) = match seen.by {
            LegSide::Caller => (seen.from_tag, seen.to_tag),
            LegSide::Callee => (seen.to_tag, seen.from_tag),
        };
        let accepted = Seen {
            by: LegSide::Caller,
            method: Method::Invite,
            cseq,
            status: Some(200),
            reason: String::new(),
            from_tag,
            to_tag,
            description: None,
            identity: None,
            session_interval: None,
            ..*seen
        };
        self.on_accepted(&accepted, out);
    }

    /// A PRACK answers an offer in a reliable provisional response, or makes one of its own (RFC 3262 §5).
    fn on_prack(&mut self, seen: &Seen<'_>, out: &mut Vec<CallEvent>) {
        let Some(description) = &seen.description else { return };
        let invite = self.invites[seen.by].as_mut().filter(|invite| invite.is_open() && invite.is_late_offer());
        match invite {
            Some(invite) => invite.late_answer.set(seen.hop, description),
            None => self.on_update(seen, out),
        }
    }

    fn on_update(&mut self, seen: &Seen<'_>, out: &mut Vec<CallEvent>) {
        let Some(exchange) = Self::exchange_of(&mut self.updates, seen, false) else { return };
        exchange.note_request(seen.hop, seen.via_count);
        if let Some(description) = &seen.description {
            exchange.offer.set(seen.hop, description);
        }
        let reference = exchange.is_reference_hop(seen.hop);
        if exchange.state == ExchangeState::Completed {
            // A hop's copy that came late, or the request behind its response.
            self.complete_update(seen);
        }
        self.assert_identity(seen, reference, out);
    }

    fn on_provisional(&mut self, status: u16, seen: &Seen<'_>, out: &mut Vec<CallEvent>) {
        let early = self.is_early();
        let Some(exchange) = Self::exchange_of(&mut self.invites, seen, early) else { return };
        exchange.response_seen = true;
        if exchange.state == ExchangeState::Void {
            return;
        }
        let reference = exchange.is_reference_hop(seen.hop);
        if let Some(description) = &seen.description
            && let Some(fork) = exchange.fork(seen.to_tag)
        {
            fork.provisional.set(seen.hop, description);
        }
        if self.phase == Phase::Retry {
            self.phase = Phase::Setup;
            self.refused = None;
        }
        if early && status > 100 {
            if !self.ringing && status <= 183 {
                self.ringing = true;
                self.emit(seen.time, CallEventKind::Ringing, out);
            }
            self.assert_identity(seen, reference, out);
        }
    }

    fn on_accepted(&mut self, seen: &Seen<'_>, out: &mut Vec<CallEvent>) {
        let early = self.is_early();
        let answers = early && seen.by == LegSide::Caller;
        if let Some(invite) = self.invites.caller.as_mut().filter(|invite| answers && invite.cseq > seen.cseq) {
            // Impatient callers send several INVITEs; the first that is accepted counts, and all offer the same.
            invite.cseq = seen.cseq;
        }
        let Some(exchange) = Self::exchange_of(&mut self.invites, seen, answers) else { return };
        exchange.response_seen = true;
        if exchange.state == ExchangeState::Void && !answers {
            return;
        }
        let initial = exchange.initial;
        let reference = exchange.is_reference_hop(seen.hop);
        let waits_for_answer = exchange.is_late_offer() && exchange.late_answer.is_empty();
        let mut answer = Descriptions::default();
        if let Some(fork) = exchange.fork(seen.to_tag) {
            fork.accepted = true;
            if let Some(description) = &seen.description {
                fork.accepting.set(seen.hop, description);
            }
            answer = fork.descriptions().clone();
        }
        if early {
            self.phase = Phase::Answered;
            self.refused = None;
            self.cancelled = None;
            self.emit(seen.time, CallEventKind::Answered, out);
        }
        if initial {
            self.active_tag.get_or_insert_with(|| Arc::from(seen.to_tag));
            let known = self.confirmed.iter().position(|confirmed| *confirmed.tag == *seen.to_tag);
            if let Some(position) = known {
                self.confirmed[position].answer = answer;
            } else if self.confirmed.len() < FORKS_MAX {
                self.confirmed.push(Confirmed { tag: Arc::from(seen.to_tag), answer, gone: false });
            }
        }
        self.assert_identity(seen, reference, out);
        if !waits_for_answer {
            self.complete_invite(seen.by);
        }
        self.restart_session_timer(seen);
    }

    /// Puts what the INVITE agreed in force. Repeated when another hop shows more of it.
    fn complete_invite(&mut self, by: LegSide) {
        let in_force = self.in_force;
        let Some(exchange) = self.invites[by].as_mut() else { return };
        let transaction = (by, Method::Invite, exchange.cseq);
        if exchange.state == ExchangeState::Completed && in_force != Some(transaction) {
            // A straggler of an exchange that a later one has replaced.
            return;
        }
        let winner = if exchange.initial { self.active_tag.as_deref() } else { None };
        let fork = match winner {
            Some(tag) => exchange.forks.iter().find(|fork| *fork.tag == *tag),
            None => exchange.forks.iter().rfind(|fork| fork.accepted),
        };
        let tag = fork.map(|fork| Arc::clone(&fork.tag));
        let mut requester = exchange.requester().clone();
        let mut responder = fork.map(|fork| fork.descriptions().clone()).unwrap_or_default();
        if exchange.initial
            && let Some(early) = self.early.as_ref().filter(|early| Some(&early.tag) == tag.as_ref())
        {
            // What an UPDATE settled since is newer, unless the 2xx speaks again.
            if !early.sides[by].is_empty() {
                requester = early.sides[by].clone();
            }
            if fork.is_none_or(|fork| fork.accepting.is_empty()) && !early.sides[by.other()].is_empty() {
                responder = early.sides[by.other()].clone();
            }
        }
        let first_time = exchange.state != ExchangeState::Completed;
        exchange.state = ExchangeState::Completed;
        if let Some(tag) = tag {
            exchange.forks.retain(|fork| fork.accepted || fork.tag == tag);
        }
        self.commit(transaction, requester, responder);
        if first_time {
            self.void_open_exchanges();
        }
    }

    /// What neither accepted nor refused exchanges proposed is overtaken by one that completed.
    fn void_open_exchanges(&mut self) {
        let invites = [&mut self.invites.caller, &mut self.invites.callee];
        let updates = [&mut self.updates.caller, &mut self.updates.callee];
        for exchange in invites.into_iter().chain(updates).flatten().filter(|exchange| exchange.is_open()) {
            exchange.state = ExchangeState::Void;
        }
    }

    fn commit(&mut self, transaction: (LegSide, Method, u32), requester: Descriptions, responder: Descriptions) {
        let by = transaction.0;
        self.in_force = Some(transaction);
        if !requester.is_empty() {
            self.committed[by] = requester;
        }
        if !responder.is_empty() {
            self.committed[by.other()] = responder;
        }
    }

    fn on_update_accepted(&mut self, seen: &Seen<'_>, out: &mut Vec<CallEvent>) {
        if seen.method == Method::Update && self.phase == Phase::Answered {
            self.restart_session_timer(seen);
        }
        let Some(description) = &seen.description else {
            // A refresh, or the acknowledgement of a response; an offer that gets no answer comes to nothing.
            let slot = self.updates[seen.by].as_mut();
            if let Some(exchange) = slot.filter(|exchange| exchange.cseq == seen.cseq && exchange.is_open()) {
                exchange.state = ExchangeState::Void;
            }
            return;
        };
        let Some(exchange) = Self::exchange_of(&mut self.updates, seen, false) else { return };
        let reference = exchange.is_reference_hop(seen.hop);
        if let Some(fork) = exchange.fork("") {
            fork.accepting.set(seen.hop, description);
        }
        self.complete_update(seen);
        self.assert_identity(seen, reference, out);
    }

    /// Puts what the UPDATE or PRACK agreed in force. Repeated when another hop shows more of it.
    fn complete_update(&mut self, seen: &Seen<'_>) {
        let (answered, in_force) = (self.phase == Phase::Answered, self.in_force);
        let Some(exchange) = self.updates[seen.by].as_mut() else { return };
        let transaction = (seen.by, seen.method, seen.cseq);
        let overtaken = exchange.state == ExchangeState::Completed && answered && in_force != Some(transaction);
        if exchange.state == ExchangeState::Void || overtaken {
            return;
        }
        exchange.state = ExchangeState::Completed;
        let requester = exchange.offer.clone();
        let responder = exchange.forks.first().map(|fork| fork.accepting.clone()).unwrap_or_default();
        if answered {
            self.commit(transaction, requester, responder);
        } else {
            let tag: Arc<str> = Arc::from(seen.callee_tag());
            let mut sides = BySide::default();
            sides[seen.by] = requester;
            sides[seen.by.other()] = responder;
            self.early = Some(EarlySession { tag, sides });
        }
    }

    fn on_refused(&mut self, status: u16, seen: &Seen<'_>, out: &mut Vec<CallEvent>) {
        let detail = describe(status, seen);
        match self.invites[seen.by].as_mut() {
            Some(exchange) if exchange.cseq != seen.cseq => return,
            Some(exchange) if exchange.is_downstream(seen.hop) => {
                // One branch of a fork is over; its early media with it.
                exchange.forks.retain(|fork| *fork.tag != *seen.to_tag || seen.to_tag.is_empty());
                return;
            }
            Some(exchange) => exchange.response_seen = true,
            None => {}
        }
        if self.cancelled.is_some() || status == 487 {
            let detail = match self.cancelled.take() {
                Some(cancelled) if !cancelled.detail.is_empty() => format!("{detail}; {}", cancelled.detail),
                _ => detail,
            };
            self.end(seen.time, EndReason::Cancelled, detail, out);
        } else if may_be_retried(status) {
            if self.phase != Phase::Retry {
                self.phase = Phase::Retry;
                self.refused = Some(Ending { time: seen.time, detail });
            }
        } else {
            self.end(seen.time, EndReason::Failed, detail, out);
        }
    }

    /// A CANCEL has the top Via of the INVITE that it means (RFC 3261 §9.1). Behind a proxy it ends one branch only.
    fn on_cancel(&mut self, seen: &Seen<'_>) {
        let invite = self.invites.caller.as_ref();
        let means_a_branch = invite.is_some_and(|invite| invite.cseq != seen.cseq || invite.is_downstream(seen.hop));
        if self.is_early() && seen.by == LegSide::Caller && !means_a_branch && self.cancelled.is_none() {
            self.cancelled = Some(Ending { time: seen.time, detail: seen.reason.clone() });
            self.phase = Phase::Setup;
        }
    }

    fn on_bye(&mut self, seen: &Seen<'_>, out: &mut Vec<CallEvent>) {
        if self.is_early() && seen.by == LegSide::Callee {
            // The called side may not end what it has not accepted (RFC 3261 §15).
            self.infer_answer(seen, out);
        }
        if self.is_early() {
            // It ends an early dialog; the INVITE's final response follows.
            if self.cancelled.is_none() {
                self.cancelled = Some(Ending { time: seen.time, detail: join("BYE before the answer", &seen.reason) });
                self.phase = Phase::Setup;
            }
            return;
        }
        let tag = seen.callee_tag();
        if let Some(position) = self.confirmed.iter().position(|confirmed| *confirmed.tag == *tag) {
            self.confirmed[position].gone = true;
            if let Some(alive) = self.confirmed.iter().find(|confirmed| !confirmed.gone) {
                // The caller keeps another of the forks that answered.
                if self.active_tag.as_deref() != Some(&*alive.tag) {
                    self.active_tag = Some(Arc::clone(&alive.tag));
                    self.committed.callee = alive.answer.clone();
                }
                return;
            }
        }
        let reason = match seen.by {
            _ if self.replaced => EndReason::Replaced,
            _ if self.sides_unknown => EndReason::Released,
            LegSide::Caller => EndReason::CallerHungUp,
            LegSide::Callee => EndReason::CalleeHungUp,
        };
        self.end(seen.time, reason, join("BYE", &seen.reason), out);
    }

    /// A 2xx without Session-Expires switches the timer off (RFC 4028 §7.2).
    fn restart_session_timer(&mut self, seen: &Seen<'_>) {
        self.session_interval = seen.session_interval;
        self.session_expires_at = seen.session_interval.map(|interval| seen.time.saturating_add(interval));
    }

    fn refreshed(&mut self, time: CaptureTime, out: &mut Vec<CallEvent>) {
        let expires_at = self.session_expires_at;
        let is_news = self
            .refreshed
            .map_or(expires_at.is_some(), |(at, said)| said != expires_at || time.since(at) >= REFRESH_INTERVAL);
        let first = self.refreshed.is_none();
        if is_news || first {
            self.refreshed = Some((time, expires_at));
        }
        if is_news {
            self.emit(time, CallEventKind::Refreshed { expires_at }, out);
        }
    }

    /// Emits `Media` if what is to be said of this side has changed.
    fn publish(&mut self, side: LegSide, time: CaptureTime, out: &mut Vec<CallEvent>) {
        let now = self.media(side);
        let published = &self.sides[side].published;
        if (now.1.is_empty() && published.is_none()) || published.as_ref() == Some(&now) {
            return;
        }
        let (phase, bindings) = now.clone();
        self.sides[side].published = Some(now);
        self.emit(time, CallEventKind::Media { side, phase, bindings }, out);
    }

    /// Where this side receives: as proposed while something is open, else as agreed.
    fn media(&self, side: LegSide) -> (MediaPhase, Vec<MediaBinding>) {
        let mut bindings = Vec::new();
        let open = |exchange: &&Exchange| exchange.is_open();
        if let Some(update) = self.updates[side].as_ref().filter(open) {
            update.offer.append_bindings(None, &mut bindings);
        }
        let early = self.early.as_ref().filter(|_| self.is_early());
        if let Some(early) = early {
            early.sides[side].append_bindings(None, &mut bindings);
        }
        if let Some(invite) = self.invites[side].as_ref().filter(open) {
            invite.requester().append_bindings(None, &mut bindings);
        }
        if let Some(invite) = self.invites[side.other()].as_ref().filter(open) {
            for fork in invite.forks.iter().filter(|fork| early.is_none_or(|early| early.tag != fork.tag)) {
                fork.descriptions().append_bindings(None, &mut bindings);
            }
        }
        let phase = match bindings.is_empty() {
            true => MediaPhase::Committed,
            false => MediaPhase::Preview,
        };
        if phase == MediaPhase::Committed {
            self.committed[side].append_bindings(Some(&self.committed[side.other()]), &mut bindings);
        }
        // They are kept as long as the call.
        bindings.shrink_to_fit();
        (phase, bindings)
    }

    /// The leg is over; what it holds is let go.
    fn end(&mut self, time: CaptureTime, reason: EndReason, detail: String, out: &mut Vec<CallEvent>) {
        self.emit(time, CallEventKind::Ended { reason, detail }, out);
        self.phase = Phase::Ended;
        for exchange in [&mut self.invites.caller, &mut self.invites.callee].into_iter().flatten() {
            // The sequence number stays, to tell stragglers from a new attempt.
            *exchange = Exchange::new(exchange.method, exchange.cseq, exchange.initial);
        }
        self.updates = BySide::default();
        self.early = None;
        self.committed = BySide::default();
        self.confirmed = Vec::new();
        self.sides.caller.published = None;
        self.sides.callee.published = None;
    }

    pub(super) fn emit(&self, time: CaptureTime, kind: CallEventKind, out: &mut Vec<CallEvent>) {
        out.push(CallEvent { time, leg: self.reference.clone(), kind });
    }
}

impl Method {
    /// A 481 or 408 to such a request means that the whole dialog is gone; to others it may speak of a subscription
    /// or of a provisional response (RFC 5057 §5).
    fn is_about_the_dialog(self) -> bool {
        matches!(self, Self::Invite | Self::Update | Self::Info | Self::Options | Self::Message | Self::Refer)
    }
}

/// Refusals after which the caller may try again within the same attempt: RFC 3261 §8.1.3.4 and §8.1.3.5,
/// RFC 4028 §7.3 (422), RFC 3329 (494), overlap dialling (484), credentials.
fn may_be_retried(status: u16) -> bool {
    matches!(status, 300..=399 | 401 | 407 | 413 | 415 | 416 | 420..=422 | 484 | 494)
}

fn describe(status: u16, seen: &Seen<'_>) -> String {
    join(&status.to_string(), &seen.reason)
}

fn join(first: &str, second: &str) -> String {
    if second.is_empty() { first.to_owned() } else { format!("{first} {second}") }
}
