//! Going on with a recording after a restart of the process: what is saved with it, and how it is taken up again.
//!
//! Constraint: what was saved is bytes from a disk. It is checked, never trusted.

use crate::binding::SideBindings;
use crate::call::{Call, CallLeg, CallNumber, OrphanPair, Phase, side_index};
use crate::clock::Moment;
use crate::take::{GAP_RESTART, Take, TrackState, side_of_track};
use crate::tracker::Tracker;
use crate::{Command, MeasuredTrack, RestoreError, StoredAudio};
use serde::{Deserialize, Serialize};
use sidetone_model::{CaptureTime, Domain, Leg, Recording, RecordingState, SavedCall, TrackId};
use sidetone_signalling::event::{Identity, LegRef, LegSide};
use std::collections::BTreeSet;
use std::net::SocketAddr;

const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Resume {
    version: u32,
    legs: Vec<SavedLeg>,
    tracks: Vec<SavedTrack>,
    orphan: Option<SavedOrphan>,
}

#[derive(Deserialize)]
struct Version {
    version: u32,
}

#[derive(Serialize, Deserialize)]
struct SavedLeg {
    reference: LegRef,
    document: Leg,
    caller: Identity,
    callee: Identity,
    flipped: bool,
    in_progress: bool,
    replaced: bool,
    sides: [SideBindings; 2],
    expires_at: Option<CaptureTime>,
}

/// What the document does not say of a track.
#[derive(Serialize, Deserialize)]
struct SavedTrack {
    id: TrackId,
    first_audio_at: Option<CaptureTime>,
    audio_until: Option<CaptureTime>,
}

#[derive(Serialize, Deserialize)]
struct SavedOrphan {
    domain: Domain,
    caller: SocketAddr,
    callee: SocketAddr,
}

impl Tracker {
    /// What [`Self::restore`] needs to go on with the recording of a call.
    pub(crate) fn resume(&self, number: CallNumber) -> Option<SavedCall> {
        let call = self.calls.get(&number)?;
        let take = call.take.as_ref()?;
        let legs = call.legs.iter().filter_map(|leg| self.legs.get(leg)).map(|leg| SavedLeg {
            reference: leg.reference.clone(),
            document: leg.document.clone(),
            caller: leg.caller.clone(),
            callee: leg.callee.clone(),
            flipped: leg.flipped,
            in_progress: leg.in_progress,
            replaced: leg.replaced,
            sides: leg.sides.clone(),
            expires_at: leg.expires.map(|(_, at)| at),
        });
        let tracks = take.tracks.iter().map(|(&id, track)| SavedTrack {
            id,
            first_audio_at: track.first_audio_at(),
            audio_until: track.audio_until(),
        });
        let orphan = call.orphan.zip(call.orphan_caller).map(|(pair, caller)| SavedOrphan {
            domain: pair.domain,
            caller,
            callee: if pair.low == caller { pair.high } else { pair.low },
        });
        let resume = Resume { version: VERSION, legs: legs.collect(), tracks: tracks.collect(), orphan };
        // Only maps with keys that are no strings can fail here, and there are none.
        Some(SavedCall::of(&resume).unwrap_or_default())
    }

    /// Goes on with a recording that was active when the process stopped. `recording` and `resume` are those of the
    /// newest [`Command::Save`]; `stored` is the audio that the store holds of it, which may be older (a process that was
    /// killed had saved what it never made durable) and newer (it made durable what it never saved); `now` is the current
    /// capture time. The document gets a gap of reason `restart` from the last audio there is to the first that comes.
    pub fn restore(
        &mut self,
        recording: &Recording,
        resume: &SavedCall,
        stored: &[StoredAudio],
        now: CaptureTime,
        out: &mut Vec<Command>,
    ) -> Result<(), RestoreError> {
        let id = recording.id;
        if recording.state != RecordingState::Active {
            return Err(RestoreError::NotActive { recording: id });
        }
        if self.recordings.contains_key(&id) {
            return Err(RestoreError::AlreadyKnown { recording: id });
        }
        if self.calls.len() >= self.config.max_calls {
            return Err(RestoreError::TooManyCalls { recording: id, limit: self.config.max_calls });
        }
        let found = resume.read::<Version>().map_or(0, |found| found.version);
        if found != VERSION {
            return Err(RestoreError::Version { recording: id, found, expected: VERSION });
        }
        let saved = resume.read::<Resume>().map_err(|source| RestoreError::Unreadable { recording: id, source })?;
        self.clock.advance(now);
        self.take_up(recording, saved, stored, now, out);
        self.save_pending(out);
        Ok(())
    }

    fn take_up(
        &mut self,
        recording: &Recording,
        saved: Resume,
        stored: &[StoredAudio],
        now: CaptureTime,
        out: &mut Vec<Command>,
    ) {
        let moment = self.clock.now();
        let number = CallNumber(self.next_call);
        self.next_call += 1;
        let mut take = Take::new(recording.clone(), moment);
        let mut had_stream = [false; 2];
        for track in &recording.tracks {
            let times = saved.tracks.iter().find(|saved| saved.id == track.id);
            had_stream[side_index(side_of_track(track.id))] = true;
            let before = MeasuredTrack {
                first_audio_at: times.and_then(|times| times.first_audio_at),
                audio_until: times.and_then(|times| times.audio_until),
                concealed_seconds: track.concealed_seconds,
                losses: track.losses,
                encrypted: track.encrypted,
                decodable: track.decodable,
                streams: track.streams.clone(),
            };
            take.tracks.insert(track.id, Box::new(TrackState { party: track.party, before, ..TrackState::default() }));
        }
        for audio in stored {
            had_stream[side_index(side_of_track(audio.track))] = true;
            take.take_up_stored(audio);
        }
        let from = take.audio_until().unwrap_or(recording.started_at);
        // A gap that the last process had not closed ends where there is audio behind it. Without any, it goes on.
        let goes_on = match recording.gaps.iter().position(|gap| gap.to.is_none()) {
            Some(open) => {
                let behind = |&&(begin, _): &&(CaptureTime, CaptureTime)| begin >= recording.gaps[open].from;
                let audio = stored.iter().filter_map(|audio| audio.spans.iter().find(behind)).map(|(begin, _)| *begin);
                let end = audio.min();
                if end.is_some() {
                    take.edit().gaps[open].to = end;
                } else {
                    take.open_gap = Some(open);
                }
                end.is_none()
            }
            None => false,
        };
        if !goes_on {
            take.open_gap(take.whole_until().unwrap_or(from), GAP_RESTART);
        }
        let pair = saved.orphan.as_ref().map(|o| OrphanPair::of(o.domain, o.caller, o.callee));
        self.calls.insert(
            number,
            Call {
                started_at: recording.started_at,
                conversation: recording.conversation_id,
                legs: Vec::new(),
                orphan: pair,
                orphan_caller: saved.orphan.map(|orphan| orphan.caller),
                flows: BTreeSet::new(),
                parties: recording.parties.clone(),
                phase: Phase::Live,
                take: Some(Box::new(take)),
                had_stream,
                saw_other_media: false,
                refused_since: None,
                last_signalling: (moment, from),
                last_media: None,
                due: Moment::default(),
            },
        );
        if let Some(pair) = pair {
            self.orphans.insert((pair, number));
        }
        self.recordings.insert(recording.id, number);
        self.statistics.recordings_restored += 1;
        for leg in saved.legs {
            if !self.leg_numbers.contains_key(&leg.reference) {
                self.take_up_leg(number, leg, now, out);
            }
        }
        if let (Some(at), Some(reason)) = (recording.ended_at, recording.end_reason) {
            self.end_call(number, at, reason);
        } else {
            self.to_save.insert(number);
            self.schedule_call(number);
            self.reconsider_call(number, out);
        }
    }

    fn take_up_leg(&mut self, call: CallNumber, saved: SavedLeg, now: CaptureTime, out: &mut Vec<Command>) {
        let moment = self.clock.now();
        let ended = saved.document.ended_at.is_some();
        let leg = self.add_leg(CallLeg {
            call,
            reference: saved.reference,
            answered: saved.document.answered_at.map(|_| Moment::default()),
            document: saved.document,
            caller: saved.caller,
            callee: saved.callee,
            flipped: saved.flipped,
            in_progress: saved.in_progress,
            replaced: saved.replaced,
            sides: saved.sides,
            bound: Vec::new(),
            ended,
            expires: saved.expires_at.map(|at| (moment.plus(at.since(now)), at)),
        });
        if !ended {
            for side in [LegSide::Caller, LegSide::Callee] {
                self.rebind(leg, side, out);
            }
        }
    }
}
