//! The tracker's inputs, its timers, and the questions it answers. What an input means is in `legs` (signalling),
//! `streams` (media) and `recordings` (documents).

use crate::binding::BindingIndex;
use crate::call::{Call, CallLeg, CallNumber, LegNumber, OrphanPair, Phase};
use crate::clock::{Clock, Moment};
use crate::flow::{Flow, FlowNumber, FlowState, FlowTable};
use crate::unclaimed::UnclaimedList;
use crate::{
    Command, FinishAll, Orphans, StreamGone, StreamSighting, TrackReport, TrackerConfig, TrackerStatistics,
    UnclaimedStream,
};
use sidetone_model::{CaptureTime, EndReason, Recording, RecordingId};
use sidetone_signalling::event::{CallEvent, CallEventKind, LegRef, Relation};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

/// A call of several legs of which one was hung up: the others follow at once, or their end was not seen.
const OTHER_LEGS_WAIT: Duration = Duration::from_secs(10);
/// The session timer ran out, and yet there is media: the refresh was not seen. It is believed once this long silent.
const EXPIRED_SILENCE: Duration = Duration::from_secs(10);

type Map<K, V> = HashMap<K, V, foldhash::quality::RandomState>;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Timer {
    Call(CallNumber),
    Flow(FlowNumber),
}

/// Calls, their legs and streams, and the recordings that are made of them. See the crate's documentation.
#[derive(Debug)]
pub struct Tracker {
    pub(crate) config: TrackerConfig,
    pub(crate) clock: Clock,
    pub(crate) calls: BTreeMap<CallNumber, Call>,
    pub(crate) legs: BTreeMap<LegNumber, CallLeg>,
    // Hash maps are only looked up, never walked: their order is another in every process.
    pub(crate) leg_numbers: Map<LegRef, LegNumber>,
    pub(crate) recordings: Map<RecordingId, CallNumber>,
    pub(crate) legs_by_call_id: BTreeSet<(Arc<str>, LegNumber)>,
    /// Legs that named another one which has not been seen yet.
    pub(crate) awaited_legs: BTreeMap<(Arc<str>, LegNumber), Relation>,
    pub(crate) bindings: BindingIndex,
    pub(crate) flows: FlowTable,
    pub(crate) orphans: BTreeSet<(OrphanPair, CallNumber)>,
    pub(crate) timers: BTreeSet<(Moment, Timer)>,
    /// Calls whose document is to be saved before the current input returns.
    pub(crate) to_save: BTreeSet<CallNumber>,
    pub(crate) unclaimed: UnclaimedList,
    pub(crate) given_up_legs: Vec<LegRef>,
    pub(crate) statistics: TrackerStatistics,
    pub(crate) next_call: u64,
    /// [`Self::finish_all`] was called: nothing new begins.
    pub(crate) is_finished: bool,
    /// The store takes new recordings.
    pub(crate) has_room: bool,
    /// Calls without a recording because there was no room.
    pub(crate) refused: BTreeSet<CallNumber>,
    pub(crate) next_leg: u64,
}

impl Tracker {
    pub fn new(config: TrackerConfig) -> Self {
        Self {
            unclaimed: UnclaimedList::new(config.max_unclaimed),
            config,
            clock: Clock::default(),
            calls: BTreeMap::new(),
            legs: BTreeMap::new(),
            leg_numbers: Map::default(),
            recordings: Map::default(),
            legs_by_call_id: BTreeSet::new(),
            awaited_legs: BTreeMap::new(),
            bindings: BindingIndex::default(),
            flows: FlowTable::default(),
            orphans: BTreeSet::new(),
            timers: BTreeSet::new(),
            to_save: BTreeSet::new(),
            given_up_legs: Vec::new(),
            statistics: TrackerStatistics::default(),
            next_call: 0,
            is_finished: false,
            has_room: true,
            refused: BTreeSet::new(),
            next_leg: 0,
        }
    }

    /// What signalling says.
    pub fn on_event(&mut self, event: &CallEvent, out: &mut Vec<Command>) {
        self.clock.advance(event.time);
        if let CallEventKind::Started(start) = &event.kind {
            self.start_leg(&event.leg, start, event.time, out);
        } else if let Some(&leg) = self.leg_numbers.get(&event.leg) {
            self.on_leg_event(leg, event, out);
        } else {
            self.statistics.events_of_unknown_legs += 1;
        }
        self.save_pending(out);
    }

    /// A stream that nobody has claimed was seen by a receive thread.
    pub fn on_sighting(&mut self, sighting: &StreamSighting, out: &mut Vec<Command>) {
        self.clock.advance(sighting.first_packet_at);
        self.sight(sighting, out);
        self.save_pending(out);
    }

    /// A stream has left its flow table.
    pub fn on_gone(&mut self, gone: &StreamGone, out: &mut Vec<Command>) {
        self.forget_stream(gone, out);
        self.save_pending(out);
    }

    /// What an encoder measured; `is_final` after [`Command::Finish`].
    pub fn on_report(&mut self, report: &TrackReport, out: &mut Vec<Command>) {
        let Some(&number) = self.recordings.get(&report.recording) else {
            self.statistics.reports_of_unknown_tracks += 1;
            return;
        };
        self.measure(number, report, out);
        self.save_pending(out);
    }

    /// Whether the store takes new recordings; true at first. While it does not, no recording begins, and those that go on are
    /// not touched. Calls that still go on when it does again are recorded from then on, with a gap of reason `no_room`.
    pub fn on_room(&mut self, has_room: bool, out: &mut Vec<Command>) {
        self.has_room = has_room;
        if has_room {
            for call in std::mem::take(&mut self.refused) {
                self.reconsider_call(call, out);
            }
            self.save_pending(out);
        }
    }

    /// Time passes: to be called at least once a second of capture time.
    pub fn on_tick(&mut self, now: CaptureTime, out: &mut Vec<Command>) {
        self.clock.advance(now);
        // A timer that is set again to a time that has come is looked at in the next tick: no input works without end.
        let moment = self.clock.now();
        let due: Vec<_> = self.timers.iter().take_while(|(due, _)| *due <= moment).copied().collect();
        for (due, timer) in due {
            if !self.timers.remove(&(due, timer)) {
                continue;
            }
            match timer {
                Timer::Call(number) => self.on_call_due(number, out),
                Timer::Flow(number) => self.on_flow_due(number, out),
            }
        }
        self.save_pending(out);
    }

    /// Ends every call; streams that wait for one become orphans. Nothing new is to begin afterwards. The final reports are to be given to [`Self::on_report`] afterwards; what is then still not
    /// saved is saved by an [`Self::on_tick`] at `now` plus [`TrackerConfig::final_report_wait`].
    pub fn finish_all(&mut self, now: CaptureTime, reason: FinishAll, out: &mut Vec<Command>) {
        self.clock.advance(now);
        let end_reason = match reason {
            FinishAll::CaptureEnd => EndReason::CaptureEnd,
        };
        // No call will come for the streams that still wait for one.
        let waiting = |flow: &Flow| matches!(flow.state, FlowState::Waiting { call: None });
        let flows: Vec<FlowNumber> = self.flows.iter().filter(|flow| waiting(flow)).map(|flow| flow.number).collect();
        for flow in flows {
            self.give_up_waiting(flow, out);
        }
        self.is_finished = true;
        let numbers: Vec<CallNumber> = self.calls.keys().copied().collect();
        for &number in &numbers {
            if self.calls.get(&number).is_some_and(Call::is_live) {
                self.end_call(number, now, end_reason);
            }
        }
        self.save_pending(out);
        for number in numbers {
            if self.calls.get(&number).is_some_and(|call| matches!(call.phase, Phase::Ending { .. })) {
                self.finish_call(number, out);
            }
        }
        self.save_pending(out);
    }

    /// Saves every recording as it is, with what [`Self::restore`] needs to go on: before the process stops.
    pub fn suspend(&mut self, now: CaptureTime, out: &mut Vec<Command>) {
        self.clock.advance(now);
        let made = self.calls.iter().filter(|(_, call)| call.take.is_some()).map(|(&number, _)| number);
        self.to_save.extend(made);
        self.save_pending(out);
    }

    /// The recordings that are being made, oldest call first. Their documents are as of the last save.
    pub fn active(&self) -> impl Iterator<Item = &Recording> {
        self.calls.values().filter_map(|call| call.take.as_ref()).map(|take| &*take.document)
    }

    /// The legs of all calls that go on, and whether they were answered: what a decoder has to know after a restart.
    pub fn live_legs(&self) -> impl Iterator<Item = (&LegRef, bool)> {
        self.legs.values().filter(|leg| !leg.ended).map(|leg| (&leg.reference, leg.is_established()))
    }

    /// Legs that the tracker ended for reasons of its own (silence), since the last time it was asked: their decoder is to
    /// forget them, so that a call that goes on after all is met as a new one.
    pub fn take_given_up_legs(&mut self) -> Vec<LegRef> {
        std::mem::take(&mut self.given_up_legs)
    }

    pub fn statistics(&self) -> TrackerStatistics {
        let unclaimed = self.flows.iter().filter(|flow| !matches!(flow.state, FlowState::Recorded(_))).count();
        TrackerStatistics {
            calls_active: self.calls.values().filter(|call| call.orphan.is_none()).count() as u64,
            recordings_active: self.recordings.len() as u64,
            streams_active: self.flows.len() as u64,
            streams_unclaimed: unclaimed as u64,
            ..self.statistics.clone()
        }
    }

    /// Streams that ended without having been recorded, in the order in which they first ended; a stream that ended
    /// several times is one entry. The newest [`TrackerConfig::max_unclaimed`] are kept.
    pub fn unclaimed(&self) -> impl Iterator<Item = &UnclaimedStream> {
        self.unclaimed.iter()
    }

    fn on_call_due(&mut self, number: CallNumber, out: &mut Vec<Command>) {
        let now = self.clock.now();
        let Some(call) = self.calls.get(&number) else { return };
        match call.phase {
            Phase::Live => {
                let (limit, reason) = self.end_by_silence(call);
                if now >= limit {
                    let heard = call.last_signalling.1.max(call.last_media.map_or(CaptureTime::ZERO, |media| media.1));
                    let at = match (reason, self.expiry(call)) {
                        (EndReason::SessionExpired, Some((_, at))) => at.max(heard),
                        _ => heard,
                    };
                    self.give_up_legs(number);
                    self.end_call(number, at, reason);
                } else {
                    let save = call
                        .take
                        .as_ref()
                        .is_some_and(|take| take.dirty && now >= take.saved.plus(self.config.save_interval));
                    if save {
                        self.to_save.insert(number);
                        self.save_pending(out);
                    }
                    self.schedule_call(number);
                }
            }
            Phase::Ending { until, .. } | Phase::Finishing { until } if now < until => self.schedule_call(number),
            Phase::Ending { .. } => self.finish_call(number, out),
            Phase::Finishing { .. } => {
                self.statistics.final_reports_missing += 1;
                self.conclude_call(number, out);
            }
        }
    }

    fn give_up_legs(&mut self, number: CallNumber) {
        let Some(call) = self.calls.get(&number) else { return };
        let room = self.config.max_calls.saturating_sub(self.given_up_legs.len());
        let legs = call.legs.iter().filter_map(|leg| self.legs.get(leg)).filter(|leg| !leg.ended);
        self.given_up_legs.extend(legs.take(room).map(|leg| leg.reference.clone()));
    }

    /// When the call is over if nothing more is heard of it, and what that is called.
    fn end_by_silence(&self, call: &Call) -> (Moment, EndReason) {
        let config = &self.config;
        let legs = || call.legs.iter().map(|leg| &self.legs[leg]);
        let last_media = call.last_media.map_or(Moment::default(), |media| media.0);
        let last = call.last_signalling.0.max(last_media);
        let on_hold = legs().any(|leg| !leg.ended && leg.is_on_hold());
        let had_stream = call.had_stream.contains(&true);
        if let Some(hung_up) = legs().find(|leg| leg.ended && leg.is_established()) {
            let reason = hung_up.end_reason_of_call().unwrap_or(EndReason::Released);
            return (last.plus(OTHER_LEGS_WAIT), reason);
        }
        let limit = if on_hold {
            config.hold_limit
        } else if had_stream || call.orphan.is_some() {
            config.media_silence
        } else {
            config.no_media_limit
        };
        let silent = (last.plus(limit), EndReason::MediaSilence);
        match self.expiry(call) {
            Some((expiry, _)) if had_stream || on_hold => {
                silent.min_by_time((expiry.max(last_media.plus(EXPIRED_SILENCE)), EndReason::SessionExpired))
            }
            Some((expiry, _)) => silent.min_by_time((expiry, EndReason::SessionExpired)),
            None => silent,
        }
    }

    fn expiry(&self, call: &Call) -> Option<(Moment, CaptureTime)> {
        let legs = call.legs.iter().map(|leg| &self.legs[leg]).filter(|leg| !leg.ended);
        legs.filter_map(|leg| leg.expires).max()
    }

    /// Sets the call's timer to the next time at which something is to be done about it.
    pub(crate) fn schedule_call(&mut self, number: CallNumber) {
        let Some(call) = self.calls.get(&number) else { return };
        let due = match call.phase {
            Phase::Live => {
                let (limit, _) = self.end_by_silence(call);
                let save = call.take.as_ref().filter(|take| take.dirty);
                save.map_or(limit, |take| limit.min(take.saved.plus(self.config.save_interval)))
            }
            Phase::Ending { until, .. } | Phase::Finishing { until } => until,
        };
        if let Some(call) = self.calls.get_mut(&number) {
            self.timers.remove(&(call.due, Timer::Call(number)));
            call.due = due;
            self.timers.insert((due, Timer::Call(number)));
        }
    }

    pub(crate) fn schedule_flow(&mut self, number: FlowNumber, due: Option<Moment>) {
        let Some(flow) = self.flows.get_mut(number) else { return };
        if let Some(old) = std::mem::replace(&mut flow.due, due) {
            self.timers.remove(&(old, Timer::Flow(number)));
        }
        if let Some(due) = due {
            self.timers.insert((due, Timer::Flow(number)));
        }
    }

    pub(crate) fn records_orphans(&self) -> bool {
        self.config.orphans == Orphans::Record && !self.is_finished
    }
}

trait Earlier: Sized {
    fn min_by_time(self, other: Self) -> Self;
}

impl Earlier for (Moment, EndReason) {
    fn min_by_time(self, other: Self) -> Self {
        if other.0 < self.0 { other } else { self }
    }
}
