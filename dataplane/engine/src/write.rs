//! The writer thread: chunks and facts into the store, one flush for all.
//!
//! Order matters: facts are taken out of their ring before the chunk rings are emptied, and appended after. A fact therefore
//! follows all audio that its recording had when the fact was made (docs/architecture.md, decision 6).

use crate::counters::WriterCounters;
use crate::message::{EngineEvent, EventSink, WriterLoss};
use crate::ring::MessageConsumer;
use sidetone_log::{ChunkHeader, Fact};
use sidetone_model::{Recording, RecordingId, RecordingState, Track, TrackId};
use sidetone_store::{StoreError, StoreWriter};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

/// The ends of the rings that the writer thread holds.
pub(crate) struct WriterRings {
    pub(crate) facts: rtrb::Consumer<Fact>,
    /// Per encoder: payloads and headers.
    pub(crate) chunks: Vec<(MessageConsumer, rtrb::Consumer<ChunkHeader>)>,
    pub(crate) losses: rtrb::Producer<WriterLoss>,
}

pub(crate) struct Writer {
    store: StoreWriter,
    rings: WriterRings,
    counters: Arc<WriterCounters>,
    events: EventSink,
    /// Recordings whose last fact was appended and is not durable yet.
    completed: Vec<Arc<Recording>>,
    unflushed: bool,
    /// The newest fact of each recording that the store refused, to be appended again: bounded by recordings, not by time.
    refused: BTreeMap<RecordingId, Fact>,
    /// Packets whose audio was lost here, per track of recordings that are not over.
    lost: BTreeMap<(RecordingId, TrackId), u64>,
    scratch: Vec<u8>,
}

impl Writer {
    pub(crate) fn new(
        store: StoreWriter,
        rings: WriterRings,
        counters: Arc<WriterCounters>,
        events: EventSink,
    ) -> Self {
        Self {
            store,
            rings,
            counters,
            events,
            completed: Vec::new(),
            unflushed: false,
            refused: BTreeMap::new(),
            lost: BTreeMap::new(),
            scratch: Vec::with_capacity(64 * 1024),
        }
    }

    /// Appends what has come. True when there was anything.
    pub(crate) fn step(&mut self) -> bool {
        let mut facts: Vec<Fact> = std::mem::take(&mut self.refused).into_values().collect();
        while let Ok(fact) = self.rings.facts.pop() {
            facts.push(fact);
        }
        let mut busy = false;
        for encoder in 0..self.rings.chunks.len() {
            while let Ok(header) = self.rings.chunks[encoder].1.pop() {
                let payload = self.rings.chunks[encoder].0.pop(&mut self.scratch);
                assert!(payload.is_some(), "a chunk's payload is put into its ring before its header");
                self.append_chunk(&header);
                busy = true;
            }
        }
        for fact in facts {
            busy = true;
            self.append_fact(fact);
        }
        self.unflushed |= busy;
        busy
    }

    fn append_chunk(&mut self, header: &ChunkHeader) {
        match self.store.append_chunk(header, &self.scratch) {
            Ok(()) => {
                self.counters.chunks.add(1);
                self.counters.bytes.add(self.scratch.len() as u64);
            }
            Err(error) => {
                self.counters.lost_packets.add(u64::from(header.packets));
                self.on_error(&error);
                *self.lost.entry((header.recording, header.track)).or_default() += u64::from(header.packets);
                // For the live view. When the ring is full, the recording's last fact tells all the same.
                let loss = WriterLoss { recording: header.recording, track: header.track, packets: header.packets };
                let _ring_full = self.rings.losses.push(loss);
            }
        }
    }

    fn append_fact(&mut self, mut fact: Fact) {
        if let Fact::Recording { recording, .. } = &mut fact
            && let Some(corrected) = with_losses(recording, &self.lost)
        {
            *recording = Arc::new(corrected);
        }
        let Fact::Recording { recording, .. } = &fact else { return };
        let recording = recording.clone();
        // The newest fact of a recording is the one that counts: it must not be overtaken by one that was refused before.
        if let Some(refused) = self.refused.get_mut(&recording.id) {
            *refused = fact;
            return;
        }
        if let Err(error) = self.store.append_fact(&fact) {
            self.on_error(&error);
            self.refused.insert(recording.id, fact);
            return;
        }
        self.counters.facts.add(1);
        if recording.state != RecordingState::Active {
            self.lost.retain(|(id, _), _| *id != recording.id);
            self.completed.push(recording);
        }
    }

    /// Makes everything appended durable, then tells of the recordings that are complete by it.
    pub(crate) fn flush(&mut self) {
        if !self.unflushed {
            return;
        }
        let started = Instant::now();
        match self.store.flush() {
            Ok(_) => {
                self.unflushed = false;
                self.counters.failing.set(0);
                self.counters.flushes.add(1);
                self.counters.flush_nanos.add(u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX));
                for recording in self.completed.drain(..) {
                    (self.events)(EngineEvent::RecordingCompleted(recording));
                }
            }
            Err(error) => self.on_error(&error),
        }
    }

    fn on_error(&mut self, error: &StoreError) {
        self.counters.errors.add(1);
        if !self.counters.is_failing() {
            tracing::error!(error = %error, "the store cannot be written; audio is lost until it can");
        }
        self.counters.failing.set(1);
    }

    /// The store cannot be written at the moment.
    pub(crate) fn is_failing(&self) -> bool {
        self.counters.is_failing()
    }

    /// The store, and how many facts it did not take.
    pub(crate) fn into_store(self) -> (StoreWriter, usize) {
        (self.store, self.refused.len())
    }
}

/// A recording that is over is not complete if its audio was lost here, also when the call thread could not know in time.
/// `None` when its document tells of every loss already.
fn with_losses(recording: &Recording, lost: &BTreeMap<(RecordingId, TrackId), u64>) -> Option<Recording> {
    let here = |track: &Track| lost.get(&(recording.id, track.id)).copied().unwrap_or(0);
    let is_told = recording.tracks.iter().all(|track| track.losses.writer >= here(track));
    if recording.state == RecordingState::Active || is_told {
        return None;
    }
    let mut corrected = recording.clone();
    for track in &mut corrected.tracks {
        track.losses.writer = track.losses.writer.max(here(track));
    }
    corrected.state = RecordingState::Incomplete;
    Some(corrected)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sidetone_model::{CaptureTime, ConversationId, Losses, NodeName, Side, TrackKind};

    #[test]
    fn a_recording_whose_audio_was_lost_after_its_last_report_is_incomplete() {
        let track = Track {
            id: TrackId(1),
            party: None,
            side: Side::Far,
            kind: TrackKind::Audio,
            encrypted: false,
            decodable: true,
            start_offset_seconds: 0.0,
            duration_seconds: 1.0,
            concealed_seconds: 0.0,
            losses: Losses { writer: 20, ..Losses::default() },
            streams: Vec::new(),
        };
        let recording = Recording {
            schema: 1,
            id: RecordingId(Default::default()),
            node: NodeName("test".into()),
            conversation_id: ConversationId(Default::default()),
            state: RecordingState::Complete,
            started_at: CaptureTime(1),
            answered_at: None,
            ended_at: Some(CaptureTime(2)),
            duration_seconds: 1.0,
            end_reason: None,
            users: Vec::new(),
            gaps: Vec::new(),
            pauses: Vec::new(),
            legs: Vec::new(),
            parties: Vec::new(),
            tracks: vec![track],
        };
        let lost = |packets| BTreeMap::from([((recording.id, TrackId(1)), packets)]);
        let corrected = with_losses(&recording, &lost(50)).expect("30 packets more were lost than it tells");
        assert_eq!((corrected.state, corrected.tracks[0].losses.writer), (RecordingState::Incomplete, 50));
        assert_eq!(with_losses(&recording, &lost(20)), None);
        let active = Recording { state: RecordingState::Active, ..recording.clone() };
        assert_eq!(with_losses(&active, &lost(50)), None, "the call thread still tells it");
    }
}
