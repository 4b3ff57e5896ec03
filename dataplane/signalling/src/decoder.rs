//! Follows SIP dialogs passively, from INVITE to BYE, and tells the story in [`CallEvent`]s.
//!
//! Constraints: no I/O and no clock; the time comes with each message and tick. Idempotent: retransmissions, exact
//! duplicates and the copies that every proxy hop shows change nothing twice. Bounded by [`SipConfig`]: legs by
//! number, kept session descriptions by bytes, and every leg ends or is forgotten in time.

mod leg;
mod links;
mod media;
mod outcome;
#[cfg(test)]
mod tests;

use crate::body::{self, Body};
use crate::event::{CallEvent, CallEventKind, Identity, LegRef, LegSide, Protocol, Relation};
use crate::header::{NameAddress, TEXT_CHARS_MAX, list, parameter, session_interval_seconds, uri_user_and_host};
use crate::message::{self, HeaderName, Message, Method, ParseError, StartLine};
use crate::sdp;
use foldhash::quality::{FixedState, RandomState};
use leg::{IdentityRank, Leg, Phase, Seen};
use links::LinkTable;
use media::{BySide, Hop, Kept};
pub use outcome::{MalformedReason, MessageOutcome, SipStatistics};
use sidetone_model::{CaptureTime, Domain};
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::hash::{BuildHasher, Hasher};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// Call-ID and tags longer than this are refused.
const FIELD_BYTES_MAX: usize = 512;
/// Attempts and legs under one Call-ID that are told apart; more is an attack.
const LEGS_PER_CALL_ID_MAX: usize = 32;
/// The mirror's second copy of a packet arrives within this time.
const DUPLICATE_WINDOW: Duration = Duration::from_millis(100);
/// Messages remembered to recognise exact duplicates; a power of two.
const DUPLICATE_SLOTS: usize = 4096;

/// Bounds and times; the defaults suit a box with thousands of calls.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SipConfig {
    /// Legs held at once. When it is reached, those ended longest ago go first; if none has ended, a new leg is
    /// refused and counted.
    pub max_dialogs: usize,
    /// Bytes of session descriptions (as received) kept over all legs. Beyond it, new ones are refused and counted.
    pub max_description_bytes: usize,
    /// An INVITE without any response ends as failed after this: 64·T1 (RFC 3261 §17.1.1.2), doubled.
    pub no_response_timeout: Duration,
    /// An INVITE with provisional responses ends as failed after this time without any message: a little above the
    /// three minutes of timer C (RFC 3261 §16.6).
    pub ringing_timeout: Duration,
    /// How long a refused INVITE may take to come back with credentials or another address, and a cancelled one
    /// to get its final response.
    pub retry_timeout: Duration,
    /// How long an ended leg is remembered, to recognise stragglers: 64·T1.
    pub linger: Duration,
    /// An answered leg without any signalling is forgotten after this, without an event.
    pub silent_leg_timeout: Duration,
    /// Grace beyond Session-Expires before the leg counts as dead.
    pub session_expiry_grace: Duration,
}

impl Default for SipConfig {
    fn default() -> Self {
        Self {
            max_dialogs: 50_000,
            max_description_bytes: 256 << 20,
            no_response_timeout: Duration::from_secs(64),
            ringing_timeout: Duration::from_secs(200),
            retry_timeout: Duration::from_secs(32),
            linger: Duration::from_secs(32),
            silent_leg_timeout: Duration::from_secs(24 * 3600),
            session_expiry_grace: Duration::from_secs(32),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Transport {
    Udp,
    Tcp,
}

/// One SIP message as it was seen: a UDP payload, or what a [`crate::SipFramer`] cut out of a TCP stream.
#[derive(Clone, Copy, Debug)]
pub struct Datagram<'a> {
    pub time: CaptureTime,
    pub domain: Domain,
    pub transport: Transport,
    pub source: SocketAddr,
    pub destination: SocketAddr,
    pub bytes: &'a [u8],
}

/// Position in the table of legs, told from the slot's former tenants by the generation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct LegIndex {
    slot: u32,
    generation: u32,
}

#[derive(Debug)]
struct Slot {
    generation: u32,
    leg: Option<Leg>,
    /// The leg's entry in `timers`; never later than its deadline.
    timer: CaptureTime,
    description_bytes: usize,
}

/// Follows every SIP dialog of one capture.
#[derive(Debug)]
pub struct SipDecoder {
    config: SipConfig,
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// Legs by Call-ID, oldest first.
    calls: HashMap<Domain, HashMap<Arc<str>, Vec<LegIndex>, RandomState>, RandomState>,
    timers: BTreeSet<(CaptureTime, LegIndex)>,
    /// Ended legs, longest ago first; entries of forgotten ones are passed over.
    ended: VecDeque<LegIndex>,
    links: LinkTable,
    /// Digest and time of recent messages, by digest.
    recent: Vec<(u64, CaptureTime)>,
    statistics: SipStatistics,
}

/// The fields by which a message finds its leg.
#[derive(Debug)]
struct Address<'m> {
    domain: Domain,
    call_id: &'m str,
    from_tag: &'m str,
    to_tag: &'m str,
    from: NameAddress<'m>,
    to: NameAddress<'m>,
    cseq: u32,
    method: Method,
    status: Option<u16>,
    has_description: bool,
}

impl SipDecoder {
    pub fn new(config: &SipConfig) -> Self {
        Self {
            config: SipConfig { max_dialogs: config.max_dialogs.clamp(1, 1 << 24), ..config.clone() },
            slots: Vec::new(),
            free: Vec::new(),
            calls: HashMap::default(),
            timers: BTreeSet::new(),
            ended: VecDeque::new(),
            links: LinkTable::default(),
            recent: vec![(0, CaptureTime::ZERO); DUPLICATE_SLOTS],
            statistics: SipStatistics::default(),
        }
    }

    pub fn statistics(&self) -> SipStatistics {
        self.statistics
    }

    /// One message in capture order (small reorderings are allowed for). Events are appended to `out`. An event's
    /// time is the message's, but for ends that only time has shown, see [`Self::on_tick`].
    pub fn on_message(&mut self, datagram: &Datagram<'_>, out: &mut Vec<CallEvent>) -> MessageOutcome {
        let bytes = message::skip_empty_lines(datagram.bytes);
        if bytes.iter().all(|&byte| byte == 0 || byte.is_ascii_whitespace()) {
            return MessageOutcome::Keepalive;
        }
        let message = match message::parse(bytes) {
            Ok(message) => message,
            Err(ParseError::NotSip) => return MessageOutcome::NotSip,
            Err(ParseError::UnsupportedVersion) => return MessageOutcome::Malformed(MalformedReason::Version),
            Err(ParseError::StatusCode) => return MessageOutcome::Malformed(MalformedReason::StatusCode),
            Err(ParseError::TooManyHeaders) => return MessageOutcome::Malformed(MalformedReason::TooManyHeaders),
        };
        if self.is_duplicate(datagram) {
            return MessageOutcome::Duplicate;
        }
        match self.follow(datagram, &message, out) {
            Ok(()) if matches!(message.start, StartLine::Request { .. }) => MessageOutcome::Request,
            Ok(()) => MessageOutcome::Response,
            Err(refused) => refused,
        }
    }

    /// Lets time pass: legs whose INVITE was never answered or not repeated, whose session expired or who are long over
    /// end here. To be called about once a second. The time of such an `Ended` is when the leg was over, which lies before
    /// `now`.
    pub fn on_tick(&mut self, now: CaptureTime, out: &mut Vec<CallEvent>) {
        while let Some(&(timer, index)) = self.timers.first()
            && timer <= now
        {
            let Some(leg) = self.slots[index.slot as usize].leg.as_mut() else { unreachable!("a timer without a leg") };
            if leg.deadline(&self.config) > now {
                self.reschedule(index);
                continue;
            }
            let answered = leg.phase == Phase::Answered;
            if leg.on_deadline(now, &self.config, out) {
                self.settle(index, true);
            } else {
                self.statistics.legs_forgotten += u64::from(answered);
                self.remove(index);
            }
        }
    }

    /// The leg was restored after a restart of the process: its dialog is known again, so that messages of either
    /// side are taken for the right one. No event. Nothing happens if the leg is known already or the table is full.
    pub fn restore(&mut self, leg: &LegRef, answered: bool, now: CaptureTime) {
        let known = self.legs_of(leg.domain, &leg.call_id).iter().any(|&index| self.leg(index).reference == *leg);
        if known || !self.make_room(leg.domain, &leg.call_id) {
            return;
        }
        let caller_tag = leg.attempt.split('#').next().unwrap_or_default();
        let phase = if answered { Phase::Answered } else { Phase::Setup };
        let restored = Leg::new(leg.clone(), caller_tag, phase, BySide::default(), String::new(), now);
        self.insert(restored, now);
    }

    /// The tracker has ended this leg for reasons of its own (media silence). No event; if the call goes on after
    /// all, it is met as a running one.
    pub fn forget(&mut self, leg: &LegRef) {
        let indices = self.legs_of(leg.domain, &leg.call_id);
        let found = indices.iter().copied().find(|&index| self.leg(index).reference == *leg);
        if let Some(index) = found {
            self.statistics.legs_forgotten += 1;
            self.remove(index);
        }
    }

    fn is_duplicate(&mut self, datagram: &Datagram<'_>) -> bool {
        let mut hasher = FixedState::default().build_hasher();
        hasher.write(datagram.bytes);
        let digest =
            FixedState::with_seed(hasher.finish()).hash_one((datagram.domain, datagram.source, datagram.destination));
        let slots = self.recent.len() as u64;
        let slot = &mut self.recent[(digest % slots) as usize];
        let is_duplicate =
            slot.0 == digest && datagram.time.since(slot.1) <= DUPLICATE_WINDOW && slot.1 <= datagram.time;
        if !is_duplicate {
            *slot = (digest, datagram.time);
        }
        is_duplicate
    }

    /// Finds or opens the leg that the message is about, and lets it know.
    fn follow(
        &mut self,
        datagram: &Datagram<'_>,
        message: &Message<'_>,
        out: &mut Vec<CallEvent>,
    ) -> Result<(), MessageOutcome> {
        let malformed = MessageOutcome::Malformed;
        let call_id = message.call_id().ok_or(malformed(MalformedReason::MissingCallId))?;
        let (cseq, method) = message.cseq().ok_or(malformed(MalformedReason::MissingCseq))?;
        let from = message.header(HeaderName::From).ok_or(malformed(MalformedReason::MissingFrom))?;
        let from = NameAddress::parse(from);
        let to = NameAddress::parse(message.header(HeaderName::To).unwrap_or_default());
        let (from_tag, to_tag) = (from.tag().unwrap_or_default(), to.tag().unwrap_or_default());
        if [call_id, &from_tag, &to_tag].iter().any(|field| field.len() > FIELD_BYTES_MAX) {
            return Err(malformed(MalformedReason::FieldTooLong));
        }
        let status = match message.start {
            StartLine::Request { method: requested, .. } if requested != method => {
                return Err(malformed(MalformedReason::MethodMismatch));
            }
            StartLine::Request { .. } => None,
            StartLine::Response { status, .. } => Some(status),
        };
        if !is_about_calls(method) {
            // REGISTER, SUBSCRIBE, … have dialogs of their own, which are no calls.
            return Ok(());
        }
        let description = self.keep_description(message);
        let address = Address {
            domain: datagram.domain,
            call_id,
            from_tag: &from_tag,
            to_tag: &to_tag,
            from,
            to,
            cseq,
            method,
            status,
            has_description: description.is_some(),
        };
        let found = self.find(&address, datagram.time);
        let (hop, via_count) = top_via(message);
        let mut seen = Seen {
            time: datagram.time,
            source: datagram.source,
            destination: datagram.destination,
            by: found.map_or(LegSide::Caller, |(_, by)| by),
            method,
            cseq,
            status,
            reason: reason_text(message),
            hop,
            via_count,
            from_tag: &from_tag,
            to_tag: &to_tag,
            description,
            identity: asserted_identity(message, method, status),
            session_interval: session_interval(message),
        };
        let index = match found {
            Some((index, _)) => index,
            None => match self.open(&address, message, &mut seen, out)? {
                Some(index) => index,
                None => return Ok(()),
            },
        };
        let before = self.leg(index).phase;
        self.leg_mut(index).on_message(&seen, out);
        if method == Method::Invite && status.is_none() && before != Phase::Ended {
            self.relate(index, message, &seen, out);
        }
        let after = self.leg(index).phase;
        if before != Phase::Answered && after == Phase::Answered {
            self.mark_replaced(index);
        }
        self.settle(index, before != Phase::Ended && after == Phase::Ended);
        Ok(())
    }

    fn keep_description(&mut self, message: &Message<'_>) -> Option<Arc<Kept>> {
        let bytes = match body::find_sdp(message) {
            Body::Sdp(bytes) => bytes,
            Body::None => return None,
            Body::Encoded => {
                self.statistics.bodies_encoded += 1;
                return None;
            }
        };
        if self.statistics.description_bytes as usize + bytes.len() > self.config.max_description_bytes {
            self.statistics.descriptions_refused += 1;
            return None;
        }
        match sdp::parse(bytes) {
            Ok(description) => Some(Arc::new(Kept { description, bytes: bytes.len() })),
            Err(_no_description) => {
                self.statistics.descriptions_malformed += 1;
                None
            }
        }
    }

    /// The leg to which the message belongs, and who sent the request.
    fn find(&mut self, address: &Address<'_>, now: CaptureTime) -> Option<(LegIndex, LegSide)> {
        let indices = self.legs_of(address.domain, address.call_id);
        let opens = address.method == Method::Invite && address.status.is_none() && address.to_tag.is_empty();
        let mut ended = None;
        for &index in indices.iter().rev() {
            let leg = self.leg(index);
            let Some(by) = leg.sender_of(address.from_tag, address.to_tag, address.from.uri) else { continue };
            if leg.phase != Phase::Ended {
                return Some((index, by));
            }
            // The caller may start anew under the same Call-ID and tag.
            let starts_anew = opens && leg.may_start_anew(by, address.cseq, now);
            if !starts_anew && ended.is_none() {
                ended = Some((index, by));
            }
        }
        if ended.is_none() && opens {
            // Some callers come back from a challenge with a new tag.
            let waiting = indices.iter().copied().find(|&index| {
                let leg = self.leg(index);
                let is_later = leg.invite_cseq(LegSide::Caller).is_some_and(|cseq| address.cseq > cseq);
                leg.phase == Phase::Retry && leg.from == address.from.uri && is_later
            });
            if let Some(index) = waiting {
                self.leg_mut(index).rename_caller(address.from_tag);
                return Some((index, LegSide::Caller));
            }
        }
        ended
    }

    /// Opens a leg for a message that belongs to none, if it tells of one. Emits `Started`.
    fn open(
        &mut self,
        address: &Address<'_>,
        message: &Message<'_>,
        seen: &mut Seen<'_>,
        out: &mut Vec<CallEvent>,
    ) -> Result<Option<LegIndex>, MessageOutcome> {
        let Some(opening) = opening(address) else { return Ok(None) };
        if !self.make_room(address.domain, address.call_id) {
            return Err(MessageOutcome::TableFull);
        }
        let attempt = self.attempt_name(address);
        let reference = LegRef {
            protocol: Protocol::Sip,
            domain: address.domain,
            call_id: Arc::from(address.call_id),
            attempt: Arc::from(attempt),
        };
        let (caller, callee) = match address.status {
            None => (seen.source, seen.destination),
            Some(_) => (seen.destination, seen.source),
        };
        let mut called = address.to.identity();
        if let (true, StartLine::Request { uri, .. }) = (called.number.is_empty(), &message.start) {
            called.number = uri_user_and_host(uri).0;
        }
        let identities = BySide {
            caller: Identity { address: Some(caller), ..address.from.identity() },
            callee: Identity { address: Some(callee), ..called },
        };
        let phase = if opening == Opening::InProgress { Phase::Answered } else { Phase::Setup };
        let from = cut(address.from.uri);
        let mut leg = Leg::new(reference, address.from_tag, phase, identities, from, seen.time);
        leg.sides_unknown = opening == Opening::InProgress;
        leg.start(seen, cut(address.to.uri), opening == Opening::InProgress, out);
        seen.by = LegSide::Caller;
        let index = self.insert(leg, seen.time);
        self.statistics.legs_started += 1;
        Ok(Some(index))
    }

    /// The caller's tag, with a suffix if a leg that is still remembered has that name.
    fn attempt_name(&self, address: &Address<'_>) -> String {
        let legs = self.legs_of(address.domain, address.call_id);
        let is_free = |name: &str| !legs.iter().any(|&index| *self.leg(index).reference.attempt == *name);
        let tag = address.from_tag;
        let again = (0..=legs.len()).map(|count| match count {
            0 => format!("{tag}#{}", address.cseq),
            _ => format!("{tag}#{}.{count}", address.cseq),
        });
        // There are more names than legs.
        std::iter::once(tag.to_owned()).chain(again).find(|name| is_free(name)).unwrap_or_default()
    }

    /// Emits `Related` for what the INVITE says of other legs.
    fn relate(&mut self, index: LegIndex, message: &Message<'_>, seen: &Seen<'_>, out: &mut Vec<CallEvent>) {
        let mut related: Vec<(Arc<str>, Relation)> = Vec::new();
        if let Some(replaced) = message.header(HeaderName::Replaces).and_then(|value| value.split(';').next()) {
            let replaced = replaced.trim();
            if !replaced.is_empty() && replaced.len() <= FIELD_BYTES_MAX {
                let replaced: Arc<str> = Arc::from(replaced);
                self.leg_mut(index).replaces = Some(Arc::clone(&replaced));
                related.push((replaced, Relation::Replaces));
            }
        }
        let own = Arc::clone(&self.leg(index).reference.call_id);
        for link in std::iter::once(links::own_link(&own)).chain(links::links(message)) {
            let known = &self.leg(index).links;
            if known.len() >= links::LINKS_PER_LEG_MAX || known.iter().any(|known| **known == *link) {
                continue;
            }
            let link: Arc<str> = Arc::from(link);
            related.extend(self.links.register(&link, &own).map(|other| (other, Relation::SameCall)));
            self.leg_mut(index).links.push(link);
        }
        let leg = self.leg_mut(index);
        for (other_call_id, relation) in related {
            if other_call_id != own && !leg.related.contains(&other_call_id) && leg.related.len() < LEGS_PER_CALL_ID_MAX
            {
                leg.related.push(Arc::clone(&other_call_id));
                leg.emit(seen.time, CallEventKind::Related { other_call_id, relation }, out);
            }
        }
    }

    /// The answered leg takes another's place: that one's end will be no hanging up.
    fn mark_replaced(&mut self, index: LegIndex) {
        let leg = self.leg(index);
        let Some(replaced) = leg.replaces.clone() else { return };
        for other in self.legs_of(leg.reference.domain, &replaced).to_vec() {
            if other != index {
                self.leg_mut(other).replaced = true;
            }
        }
    }

    fn legs_of(&self, domain: Domain, call_id: &str) -> &[LegIndex] {
        self.calls.get(&domain).and_then(|calls| calls.get(call_id)).map_or(&[], Vec::as_slice)
    }

    fn leg(&self, index: LegIndex) -> &Leg {
        match &self.slots[index.slot as usize] {
            Slot { generation, leg: Some(leg), .. } if *generation == index.generation => leg,
            _ => unreachable!("an index outlived its leg"),
        }
    }

    fn leg_mut(&mut self, index: LegIndex) -> &mut Leg {
        match &mut self.slots[index.slot as usize] {
            Slot { generation, leg: Some(leg), .. } if *generation == index.generation => leg,
            _ => unreachable!("an index outlived its leg"),
        }
    }

    /// Makes room for one more leg: the one that ended longest ago gives way. False when there is none.
    fn make_room(&mut self, domain: Domain, call_id: &str) -> bool {
        if self.legs_of(domain, call_id).len() >= LEGS_PER_CALL_ID_MAX {
            return false;
        }
        while self.statistics.legs >= self.config.max_dialogs as u64 {
            let Some(oldest) = self.ended.pop_front() else { return false };
            if self.is_current(oldest) {
                self.statistics.legs_evicted += 1;
                self.remove(oldest);
            }
        }
        true
    }

    fn is_current(&self, index: LegIndex) -> bool {
        let slot = &self.slots[index.slot as usize];
        slot.generation == index.generation && slot.leg.is_some()
    }

    fn insert(&mut self, leg: Leg, now: CaptureTime) -> LegIndex {
        let (domain, call_id) = (leg.reference.domain, Arc::clone(&leg.reference.call_id));
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { generation: 0, leg: None, timer: CaptureTime::ZERO, description_bytes: 0 });
            // `max_dialogs` is clamped far below.
            (self.slots.len() - 1) as u32
        });
        let place = &mut self.slots[slot as usize];
        let index = LegIndex { slot, generation: place.generation };
        place.timer = now;
        place.description_bytes = 0;
        place.leg = Some(leg);
        self.timers.insert((now, index));
        self.calls.entry(domain).or_default().entry(call_id).or_default().push(index);
        self.statistics.legs += 1;
        index
    }

    fn remove(&mut self, index: LegIndex) {
        let slot = &mut self.slots[index.slot as usize];
        let (timer, bytes) = (slot.timer, slot.description_bytes);
        let Some(leg) = slot.leg.take() else { unreachable!("an index outlived its leg") };
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(index.slot);
        self.timers.remove(&(timer, index));
        self.statistics.legs -= 1;
        self.statistics.description_bytes -= bytes as u64;
        for link in &leg.links {
            self.links.unregister(link, &leg.reference.call_id);
        }
        if let Some(calls) = self.calls.get_mut(&leg.reference.domain) {
            if let Some(legs) = calls.get_mut(&leg.reference.call_id) {
                legs.retain(|&other| other != index);
                if legs.is_empty() {
                    calls.remove(&leg.reference.call_id);
                }
            }
            if calls.is_empty() {
                self.calls.remove(&leg.reference.domain);
            }
        }
        // Legs are forgotten about in the order in which they ended: this keeps the queue as short as the table.
        while self.ended.front().is_some_and(|&oldest| !self.is_current(oldest)) {
            self.ended.pop_front();
        }
    }

    /// Brings the tables up to date with what a message or the time did to a leg.
    fn settle(&mut self, index: LegIndex, has_ended: bool) {
        if has_ended {
            self.ended.push_back(index);
            self.statistics.legs_ended += 1;
            if self.ended.len() > 2 * self.slots.len() {
                // Only where capture time jumps do forgotten legs pile up behind one that lingers.
                let slots = &self.slots;
                self.ended.retain(|index| slots[index.slot as usize].generation == index.generation);
            }
        }
        let bytes = self.leg(index).description_bytes();
        let slot = &mut self.slots[index.slot as usize];
        self.statistics.description_bytes =
            self.statistics.description_bytes + bytes as u64 - slot.description_bytes as u64;
        slot.description_bytes = bytes;
        if self.leg(index).deadline(&self.config) < self.slots[index.slot as usize].timer || has_ended {
            self.reschedule(index);
        }
    }

    /// A timer that is due too early costs one look; so it is moved only when it must be earlier, or was looked at.
    fn reschedule(&mut self, index: LegIndex) {
        let deadline = self.leg(index).deadline(&self.config);
        let slot = &mut self.slots[index.slot as usize];
        self.timers.remove(&(slot.timer, index));
        slot.timer = deadline;
        self.timers.insert((deadline, index));
    }
}

/// How a leg is met first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Opening {
    Attempt,
    /// The call was going on before the capture began.
    InProgress,
}

fn opening(address: &Address<'_>) -> Option<Opening> {
    let in_dialog = !address.to_tag.is_empty();
    match (address.method, address.status) {
        (Method::Invite | Method::Update | Method::Info | Method::Bye, None) if in_dialog => Some(Opening::InProgress),
        (Method::Invite | Method::Cancel, None) => Some(Opening::Attempt),
        // Its INVITE was lost, or follows.
        (Method::Invite, Some(status)) => match status {
            // What was refused may have been a re-INVITE, which ends nothing.
            408 | 481 | 488 | 491 | 500 | 503 | 504 => None,
            _ => Some(Opening::Attempt),
        },
        // An early dialog: there is no PRACK after the answer.
        (Method::Prack, None) if in_dialog => Some(Opening::Attempt),
        // An ACK to a 2xx and one to a refusal look the same, but only the first has an answer in it.
        (Method::Ack, None) if in_dialog && address.has_description => Some(Opening::InProgress),
        _ => None,
    }
}

/// Requests that belong to an INVITE dialog, or may.
fn is_about_calls(method: Method) -> bool {
    !matches!(method, Method::Register | Method::Publish | Method::Subscribe | Method::Other)
}

/// Digest of the top Via, and how many Via values there are. A request and the responses to it carry the same top Via
/// on one hop (RFC 3261 §8.2.6.2).
fn top_via(message: &Message<'_>) -> (Hop, usize) {
    let mut values = message.headers_named(HeaderName::Via).flat_map(list);
    let digest = values.next().map_or(0, |top| {
        let parameters = top.find(';').map_or("", |at| &top[at..]);
        let branch = parameter(parameters, "branch").unwrap_or_default();
        // sent-by makes branches of careless senders differ; `received` and `rport` are added on the way and do not
        // count.
        let sent_by = top.split(';').next().unwrap_or_default().trim();
        FixedState::default().hash_one((sent_by, branch))
    });
    (Hop(digest), 1 + values.count())
}

/// Reason phrase of a response and Reason field (RFC 3326), as one text for people.
fn reason_text(message: &Message<'_>) -> String {
    let phrase = match &message.start {
        StartLine::Response { reason, .. } => reason.as_ref(),
        StartLine::Request { .. } => "",
    };
    let field = message.header(HeaderName::Reason).unwrap_or_default();
    let separator = if phrase.is_empty() || field.is_empty() { "" } else { "; " };
    cut(&[phrase, separator, field].concat())
}

/// Who the network says the sender of the message is (RFC 3325 §9.1; Remote-Party-ID as Cisco and others send it).
fn asserted_identity(message: &Message<'_>, method: Method, status: Option<u16>) -> Option<(IdentityRank, Identity)> {
    let tells =
        matches!(method, Method::Invite | Method::Update) && status.is_none_or(|status| (101..300).contains(&status));
    if !tells {
        return None;
    }
    let mut found = Identity::default();
    for value in message.headers_named(HeaderName::PAssertedIdentity).flat_map(list) {
        let identity = NameAddress::parse(value).identity();
        if found.number.is_empty() {
            found.number = identity.number;
        }
        if found.name.is_empty() {
            found.name = identity.name;
        }
    }
    if !found.number.is_empty() {
        return Some((IdentityRank::Asserted, found));
    }
    let other_party = if status.is_some() { "calling" } else { "called" };
    message.headers_named(HeaderName::RemotePartyId).flat_map(list).find_map(|value| {
        let address = NameAddress::parse(value);
        let party = parameter(address.parameters, "party").unwrap_or_default();
        let identity = address.identity();
        let is_sender = !party.eq_ignore_ascii_case(other_party) && !identity.number.is_empty();
        is_sender.then_some((IdentityRank::Stated, identity))
    })
}

fn session_interval(message: &Message<'_>) -> Option<Duration> {
    let seconds = message.header(HeaderName::SessionExpires).and_then(session_interval_seconds)?;
    (seconds > 0).then(|| Duration::from_secs(seconds.into()))
}

/// Bounded text without control characters.
fn cut(text: &str) -> String {
    text.trim().chars().filter(|character| !character.is_control()).take(TEXT_CHARS_MAX).collect()
}
