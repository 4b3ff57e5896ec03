//! A recording in the making: its document, and what encoders measured of its tracks.

use crate::clock::Moment;
use crate::{MeasuredTrack, StoredAudio};
use sidetone_model::{CaptureTime, Gap, Losses, Recording, RecordingState, Side, Stream, Track, TrackId, TrackKind};
use sidetone_signalling::event::LegSide;
use std::collections::BTreeMap;
use std::sync::Arc;

pub(crate) const GAP_RESTART: &str = "restart";
pub(crate) const GAP_NO_ROOM: &str = "no_room";
pub(crate) const GAP_NO_FINAL_REPORT: &str = "encoder_lost";

pub(crate) fn track_id(side: LegSide) -> TrackId {
    match side {
        LegSide::Caller => TrackId(0),
        LegSide::Callee => TrackId(1),
    }
}

pub(crate) fn side_of_track(id: TrackId) -> LegSide {
    if id == TrackId(0) { LegSide::Caller } else { LegSide::Callee }
}

#[derive(Debug)]
pub(crate) struct Take {
    pub document: Arc<Recording>,
    pub tracks: BTreeMap<TrackId, Box<TrackState>>,
    /// Measurements changed since the document was saved.
    pub dirty: bool,
    pub saved: Moment,
    /// Where `document.gaps` has the gap that the next audio closes.
    pub open_gap: Option<usize>,
}

#[derive(Debug, Default)]
pub(crate) struct TrackState {
    pub party: Option<u8>,
    /// Signalling says that its media is encrypted.
    pub encrypted: bool,
    /// What processes before this one measured.
    pub before: MeasuredTrack,
    pub measured: MeasuredTrack,
    pub last_packet_at: Option<CaptureTime>,
    /// When a report last showed progress.
    pub last_progress: Option<Moment>,
    /// An encoder of this process has it.
    pub is_live: bool,
    pub is_final: bool,
    /// An encoder has said whether it can decode the track.
    pub is_judged: bool,
}

impl TrackState {
    pub(crate) fn first_audio_at(&self) -> Option<CaptureTime> {
        earliest(self.before.first_audio_at, self.measured.first_audio_at)
    }

    pub(crate) fn audio_until(&self) -> Option<CaptureTime> {
        self.before.audio_until.max(self.measured.audio_until)
    }
}

fn earliest(one: Option<CaptureTime>, other: Option<CaptureTime>) -> Option<CaptureTime> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

impl Take {
    pub(crate) fn new(document: Recording, now: Moment) -> Self {
        Self { document: Arc::new(document), tracks: BTreeMap::new(), dirty: false, saved: now, open_gap: None }
    }

    pub(crate) fn edit(&mut self) -> &mut Recording {
        Arc::make_mut(&mut self.document)
    }

    /// Something is missing from here to the next audio.
    pub(crate) fn open_gap(&mut self, from: CaptureTime, reason: &str) {
        self.open_gap = Some(self.document.gaps.len());
        self.edit().gaps.push(Gap { from, to: None, reason: reason.to_owned() });
    }

    /// Last instant of audio over all tracks.
    pub(crate) fn audio_until(&self) -> Option<CaptureTime> {
        self.tracks.values().filter_map(|track| track.audio_until()).max()
    }

    /// Until when no side lacks audio because a crash fell between the chunks of a flush: one side may have one that the other has
    /// not. A side that ended long before was silent.
    pub(crate) fn whole_until(&self) -> Option<CaptureTime> {
        const FLUSH_SPLIT_MAX: std::time::Duration = std::time::Duration::from_secs(3);
        let last = self.audio_until()?;
        let ends = self.tracks.values().filter_map(|track| track.audio_until());
        ends.filter(|&end| last.since(end) <= FLUSH_SPLIT_MAX).min()
    }

    /// First instant of audio that this process has seen.
    pub(crate) fn first_new_audio(&self) -> Option<CaptureTime> {
        self.tracks.values().filter_map(|track| track.measured.first_audio_at).min()
    }

    /// The audio of an earlier process, by what the store holds of it: what that process saved is from another moment.
    pub(crate) fn take_up_stored(&mut self, audio: &StoredAudio) {
        let Some(&(first, _)) = audio.spans.first() else { return };
        let track = self.tracks.entry(audio.track).or_insert_with(|| {
            // It began after the document was saved. What it holds was decoded.
            let before = MeasuredTrack { decodable: true, ..MeasuredTrack::default() };
            Box::new(TrackState { before, ..TrackState::default() })
        });
        track.before.first_audio_at.get_or_insert(first);
        track.before.audio_until = audio.spans.iter().map(|(_, end)| *end).max();
    }

    /// Takes over what an encoder measured; returns whether packets arrived since the last report.
    pub(crate) fn measure(&mut self, id: TrackId, measured: &MeasuredTrack, last: CaptureTime, now: Moment) -> bool {
        let Some(track) = self.tracks.get_mut(&id) else { return false };
        let packets = |measured: &MeasuredTrack| measured.streams.iter().map(|s| s.packets).sum::<u64>();
        let progress = track.last_packet_at != Some(last) || packets(&track.measured) != packets(measured);
        if progress {
            track.last_progress = Some(now);
        }
        track.last_packet_at = Some(last);
        if track.measured != *measured || !track.is_judged {
            track.measured.clone_from(measured);
            self.dirty = true;
        }
        track.is_judged = true;
        if let (Some(index), Some(first)) = (self.open_gap, self.first_new_audio()) {
            self.open_gap = None;
            if let Some(gap) = self.edit().gaps.get_mut(index) {
                gap.to = Some(first.max(gap.from));
            }
        }
        progress
    }

    /// Brings the document's tracks and times up to date.
    pub(crate) fn refresh(&mut self) {
        let first = self.tracks.values().filter_map(|track| track.first_audio_at()).min();
        let until = self.audio_until();
        let tracks: Vec<Track> = self.tracks.iter().map(|(&id, state)| track_document(id, state, first)).collect();
        let document = Arc::make_mut(&mut self.document);
        document.tracks = tracks;
        document.duration_seconds = match (first, until) {
            (Some(first), Some(until)) => until.since(first).as_secs_f64(),
            _ => 0.0,
        };
    }

    /// Closes the document: nothing more will come.
    pub(crate) fn conclude(&mut self) {
        let missing = self.tracks.values().any(|track| track.is_live && !track.is_final);
        let until = self.audio_until();
        let open = self.open_gap.take();
        let document = Arc::make_mut(&mut self.document);
        let end = document.ended_at;
        if let Some(gap) = open.and_then(|index| document.gaps.get_mut(index)) {
            gap.to = end.map(|end| end.max(gap.from));
        }
        if missing {
            let from = until.unwrap_or(document.started_at);
            document.gaps.push(Gap { from, to: end.map(|end| end.max(from)), reason: GAP_NO_FINAL_REPORT.to_owned() });
        }
        self.refresh();
        let document = Arc::make_mut(&mut self.document);
        let lost = document.tracks.iter().any(|track| track.losses.by_recorder() > 0);
        // Encrypted, or in a codec that cannot be read: it was on the wire, and is not here.
        let unheard = document.tracks.iter().any(|track| !track.decodable);
        let whole = !lost && !unheard && document.gaps.is_empty();
        document.state = if whole { RecordingState::Complete } else { RecordingState::Incomplete };
    }
}

fn track_document(id: TrackId, state: &TrackState, first: Option<CaptureTime>) -> Track {
    let start = state.first_audio_at();
    let encrypted = state.encrypted || state.measured.encrypted || state.before.encrypted;
    let decodable = match (state.is_judged, state.before.streams.is_empty()) {
        (true, _) => state.measured.decodable || state.before.decodable,
        (false, false) => state.before.decodable,
        (false, true) => true,
    };
    Track {
        id,
        party: state.party,
        side: if id == TrackId(0) { Side::Near } else { Side::Far },
        kind: TrackKind::Audio,
        encrypted,
        decodable: decodable && !encrypted,
        start_offset_seconds: match (first, start) {
            (Some(first), Some(start)) => start.since(first).as_secs_f64(),
            _ => 0.0,
        },
        duration_seconds: match (start, state.audio_until()) {
            (Some(start), Some(until)) => until.since(start).as_secs_f64(),
            _ => 0.0,
        },
        concealed_seconds: state.before.concealed_seconds + state.measured.concealed_seconds,
        losses: sum(state.before.losses, state.measured.losses),
        streams: join_streams(&state.before.streams, &state.measured.streams),
    }
}

fn sum(one: Losses, other: Losses) -> Losses {
    Losses {
        network: one.network.saturating_add(other.network),
        capture: one.capture.saturating_add(other.capture),
        encoder: one.encoder.saturating_add(other.encoder),
        writer: one.writer.saturating_add(other.writer),
    }
}

/// Streams as one process after the other saw them: the same stream becomes one entry.
fn join_streams(before: &[Stream], after: &[Stream]) -> Vec<Stream> {
    let mut streams = Vec::with_capacity(before.len() + after.len());
    streams.extend_from_slice(before);
    for new in after {
        let same = |old: &&mut Stream| {
            old.domain == new.domain
                && old.ssrc == new.ssrc
                && old.source == new.source
                && old.destination == new.destination
                && old.codec == new.codec
                && old.to <= new.from
        };
        // Only what another process saw is joined: an encoder tells apart what it wants to tell apart.
        let Some(old) = streams[..before.len()].iter_mut().find(same) else {
            streams.push(new.clone());
            continue;
        };
        let weight = |stream: &Stream| stream.packets as f64;
        let packets = weight(old) + weight(new);
        if packets > 0.0 {
            old.jitter_ms_mean = (old.jitter_ms_mean * weight(old) + new.jitter_ms_mean * weight(new)) / packets;
        }
        old.jitter_ms_max = old.jitter_ms_max.max(new.jitter_ms_max);
        old.to = new.to;
        old.packets += new.packets;
        old.lost += new.lost;
        old.duplicates += new.duplicates;
        old.reordered += new.reordered;
        old.late += new.late;
    }
    streams
}
