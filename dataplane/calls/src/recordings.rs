//! Recordings: when they begin, what their documents say, and how they end.

use crate::binding::SideBindings;
use crate::call::{CallLeg, CallNumber, Phase, side_index};
use crate::flow::FlowNumber;
use crate::legs::reference_text;
use crate::take::{GAP_NO_ROOM, Take, TrackState, side_of_track, track_id};
use crate::tracker::{Timer, Tracker};
use crate::{Command, NotRecordedReason, TrackReport};
use sidetone_model::{CaptureTime, EndReason, Recording, RecordingId, RecordingState, SCHEMA_VERSION, TrackId};
use sidetone_signalling::event::LegSide;
use std::sync::Arc;

impl Tracker {
    /// The recording of a call, made if there is none yet, with a track for the side.
    pub(crate) fn begin_track(&mut self, number: CallNumber, side: LegSide, encrypted: bool) -> Option<RecordingId> {
        let now = self.clock.now();
        let is_new = self.calls.get(&number)?.take.is_none();
        if is_new {
            let document = self.new_document(number)?;
            self.recordings.insert(document.id, number);
            let call = self.calls.get_mut(&number)?;
            let mut take = Take::new(document, now);
            if let Some(from) = call.refused_since {
                take.open_gap(from, GAP_NO_ROOM);
            }
            if let Phase::Ending { at, reason, .. } = call.phase {
                take.edit().ended_at = Some(at);
                take.edit().end_reason = Some(reason);
            }
            call.take = Some(Box::new(take));
            if call.orphan.is_some() {
                self.statistics.orphans_recorded += 1;
            } else {
                self.statistics.calls_recorded += 1;
            }
            self.to_save.insert(number);
        }
        let call = self.calls.get_mut(&number)?;
        call.had_stream[side_index(side)] = true;
        let at = call.last_media.map_or(call.last_signalling.1, |media| media.1);
        call.last_media = Some((now, at));
        let party = call.party(side);
        let take = call.take.as_mut()?;
        let track = take.tracks.entry(track_id(side)).or_insert_with(|| {
            take.dirty = true;
            Box::new(TrackState { party, ..TrackState::default() })
        });
        track.is_live = true;
        track.is_final = false;
        track.encrypted |= encrypted;
        Some(take.document.id)
    }

    fn new_document(&self, number: CallNumber) -> Option<Recording> {
        let call = self.calls.get(&number)?;
        let reference = match (call.legs.first().and_then(|leg| self.legs.get(leg)), call.orphan) {
            (Some(leg), _) => reference_text(&leg.reference),
            (None, orphan) => format!("{orphan:?} {number:?}"),
        };
        Some(Recording {
            schema: SCHEMA_VERSION,
            annotations: Default::default(),
            proof: None,
            id: RecordingId::derive(self.config.seed, call.started_at, &reference),
            node: self.config.node.clone(),
            conversation_id: call.conversation,
            state: RecordingState::Active,
            started_at: call.started_at,
            answered_at: None,
            ended_at: None,
            duration_seconds: 0.0,
            end_reason: None,
            users: Vec::new(),
            gaps: Vec::new(),
            pauses: Vec::new(),
            legs: Vec::new(),
            parties: Vec::new(),
            tracks: Vec::new(),
        })
    }

    /// Brings the document of a call's recording up to date.
    pub(crate) fn write_document(&mut self, number: CallNumber) {
        let Some(call) = self.calls.get_mut(&number) else { return };
        let parties = [call.party(LegSide::Caller), call.party(LegSide::Callee)];
        let Some(take) = &mut call.take else { return };
        let mut legs: Vec<&CallLeg> = call.legs.iter().filter_map(|leg| self.legs.get(leg)).collect();
        legs.sort_by_key(|leg| leg.document.started_at);
        for (&id, track) in &mut take.tracks {
            track.party = track.party.or(parties[side_index(side_of_track(id))]);
        }
        take.refresh();
        let document = take.edit();
        document.conversation_id = call.conversation;
        document.started_at = call.started_at;
        if !legs.is_empty() {
            let first = legs.first().and_then(|leg| leg.document.answered_at);
            document.answered_at = first.or_else(|| legs.iter().filter_map(|leg| leg.document.answered_at).min());
            document.legs = legs.iter().map(|leg| leg.document.clone()).collect();
        }
        document.parties.clone_from(&call.parties);
        if let Some(end) = document.ended_at {
            for party in &mut document.parties {
                party.left_at.get_or_insert(end);
            }
        }
    }

    pub(crate) fn save_pending(&mut self, out: &mut Vec<Command>) {
        while let Some(number) = self.to_save.pop_first() {
            self.write_document(number);
            let resume = self.resume(number);
            let now = self.clock.now();
            let Some(take) = self.calls.get_mut(&number).and_then(|call| call.take.as_mut()) else { continue };
            take.saved = now;
            take.dirty = false;
            out.push(Command::Save { recording: take.document.clone(), resume });
            self.schedule_call(number);
        }
    }

    pub(crate) fn measure(&mut self, number: CallNumber, report: &TrackReport, out: &mut Vec<Command>) {
        let now = self.clock.now();
        let Some(call) = self.calls.get_mut(&number) else { return };
        let Some(take) = &mut call.take else { return };
        if !take.tracks.contains_key(&report.track) {
            self.statistics.reports_of_unknown_tracks += 1;
            return;
        }
        let was_dirty = take.dirty;
        let has_gap_open = take.open_gap.is_some();
        let progress = take.measure(report.track, &report.measured, report.last_packet_at, now);
        if has_gap_open && take.open_gap.is_none() {
            self.to_save.insert(number);
        }
        if report.is_final
            && let Some(track) = take.tracks.get_mut(&report.track)
        {
            track.is_final = true;
        }
        let became_dirty = take.dirty && !was_dirty;
        let is_whole = take.tracks.values().all(|track| !track.is_live || track.is_final);
        if progress {
            call.last_media = Some((now, report.last_packet_at));
        }
        match call.phase {
            Phase::Finishing { .. } if is_whole => self.conclude_call(number, out),
            Phase::Live => {
                if !progress {
                    self.promote_if_silent(number, side_of_track(report.track), out);
                }
                // A silence timer that is too early looks again when it fires.
                if became_dirty {
                    self.schedule_call(number);
                }
            }
            _ => {}
        }
    }

    /// The call is over at `at`; what is in flight still belongs to it for a while.
    pub(crate) fn end_call(&mut self, number: CallNumber, at: CaptureTime, reason: EndReason) {
        let until = self.clock.now().plus(self.config.end_grace);
        let Some(call) = self.calls.get_mut(&number) else { return };
        call.phase = Phase::Ending { at, reason, until };
        for leg in &call.legs {
            if let Some(leg) = self.legs.get_mut(leg) {
                leg.ended = true;
                leg.document.ended_at.get_or_insert(at);
                leg.document.end_reason.get_or_insert(reason);
            }
        }
        for &flow in &call.flows {
            self.flows.set_claimable(flow, true);
        }
        if let Some(take) = &mut call.take {
            let document = take.edit();
            document.ended_at = Some(at);
            document.end_reason = Some(reason);
            self.to_save.insert(number);
        }
        self.schedule_call(number);
    }

    /// The grace is over: finishes the tracks, or tells why there are none.
    pub(crate) fn finish_call(&mut self, number: CallNumber, out: &mut Vec<Command>) {
        let Some(call) = self.calls.get(&number) else { return };
        let Phase::Ending { at, .. } = call.phase else { return };
        let flows: Vec<FlowNumber> = call.flows.iter().copied().collect();
        for leg in call.legs.clone() {
            self.unbind_all(leg);
        }
        for &flow in &flows {
            self.release(flow, out);
        }
        let until = self.clock.now().plus(self.config.final_report_wait);
        let Some(call) = self.calls.get_mut(&number) else { return };
        if let Some(take) = &call.take {
            let tracks: Vec<TrackId> =
                take.tracks.iter().filter(|(_, track)| track.is_live).map(|(&id, _)| id).collect();
            let recording = take.document.id;
            call.phase = Phase::Finishing { until };
            if tracks.is_empty() {
                self.conclude_call(number, out);
            } else {
                out.push(Command::Finish { recording, tracks, at });
                self.schedule_call(number);
            }
        } else {
            let reason = self.why_not_recorded(number);
            let call_id = self.calls[&number].legs.first().map(|leg| self.legs[leg].reference.call_id.clone());
            if let Some(call_id) = call_id {
                self.not_recorded(call_id, at, reason, out);
            }
            self.remove_call(number);
        }
        // Streams that run on wait for another call.
        for flow in flows {
            self.decide(flow, out);
        }
    }

    /// All tracks are whole, or will not become so: the last word on the recording.
    pub(crate) fn conclude_call(&mut self, number: CallNumber, out: &mut Vec<Command>) {
        self.write_document(number);
        if let Some(take) = self.calls.get_mut(&number).and_then(|call| call.take.as_mut()) {
            take.conclude();
            out.push(Command::Save { recording: take.document.clone(), resume: None });
        }
        self.remove_call(number);
    }

    fn remove_call(&mut self, number: CallNumber) {
        let Some(call) = self.calls.remove(&number) else { return };
        self.timers.remove(&(call.due, Timer::Call(number)));
        self.to_save.remove(&number);
        self.refused.remove(&number);
        if let Some(take) = &call.take {
            self.recordings.remove(&take.document.id);
        }
        if let Some(pair) = call.orphan {
            self.orphans.remove(&(pair, number));
        }
        for leg_number in call.legs {
            self.unbind_all(leg_number);
            let Some(leg) = self.legs.remove(&leg_number) else { continue };
            self.legs_by_call_id.remove(&(leg.reference.call_id.clone(), leg_number));
            self.leg_numbers.remove(&leg.reference);
        }
        self.forget_awaited();
    }

    /// Legs that are gone wait for no other any more.
    fn forget_awaited(&mut self) {
        if self.awaited_legs.len() > self.legs.len() {
            let legs = &self.legs;
            self.awaited_legs.retain(|(_, leg), _| legs.contains_key(leg));
        }
    }

    fn why_not_recorded(&self, number: CallNumber) -> NotRecordedReason {
        let Some(call) = self.calls.get(&number) else { return NotRecordedReason::NoMedia };
        let legs = || call.legs.iter().filter_map(|leg| self.legs.get(leg));
        let sides = || legs().flat_map(|leg| &leg.sides);
        if call.refused_since.is_some() {
            return NotRecordedReason::NoRoom;
        }
        if !self.config.keep_unanswered && !legs().any(CallLeg::is_established) {
            NotRecordedReason::Unanswered
        } else if call.saw_other_media
            || (!sides().any(SideBindings::has_audio) && sides().any(SideBindings::has_other_than_audio))
        {
            NotRecordedReason::NoAudio
        } else if legs().any(CallLeg::is_established) {
            NotRecordedReason::NoMedia
        } else {
            NotRecordedReason::Unanswered
        }
    }

    pub(crate) fn not_recorded(
        &mut self,
        call_id: Arc<str>,
        at: CaptureTime,
        reason: NotRecordedReason,
        out: &mut Vec<Command>,
    ) {
        self.statistics.count_not_recorded(reason);
        out.push(Command::NotRecorded { call_id, at, reason });
    }
}
