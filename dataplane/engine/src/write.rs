//! The writer thread: chunks and facts into the store, one flush for all.
//!
//! Order matters: facts are taken out of their ring before the chunk rings are emptied, and appended after. A fact therefore
//! follows all audio that its recording had when the fact was made (docs/architecture.md, decision 6).
//!
//! Nothing here waits for a disk while calls go on: flushes are begun and looked after. What the store has taken it keeps; what it
//! refuses is counted here, against the recording that loses by it.

use crate::counters::WriterCounters;
use crate::flush::FlushPlan;
use crate::message::WriterLoss;
use crate::ring::MessageConsumer;
use sidetone_log::{ChunkHeader, Fact};
use sidetone_model::{CaptureTime, Recording, RecordingId, RecordingState, Tick, Track, TrackId};
use sidetone_store::{StoreError, StoreWriter};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// A store that goes on failing is in the log so often.
const TELL_INTERVAL: Duration = Duration::from_secs(10);

/// What the store has refused is offered again so often.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);

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
    plan: FlushPlan,
    /// The newest fact of each recording that the store refused, to be appended again: bounded by recordings, not by time.
    refused: BTreeMap<RecordingId, Fact>,
    /// When they were offered again last.
    retried_at: CaptureTime,
    /// What was lost here, per track of recordings that are not over.
    lost: BTreeMap<(RecordingId, TrackId), LostAudio>,
    /// The system clock was set, and no fact tells of it yet: when, and by how many seconds.
    stepped: Option<(CaptureTime, f64)>,
    /// When a failure was logged last, and how many there were since.
    told_at: CaptureTime,
    untold: u64,
    scratch: Vec<u8>,
}

/// What a track has lost here.
#[derive(Default)]
struct LostAudio {
    packets: u64,
    /// The end of the last chunk lost.
    until: Tick,
}

impl LostAudio {
    /// Adds a chunk. Gives the packets that are not whole because of it, and were before.
    fn add(&mut self, chunk: &ChunkHeader) -> u32 {
        // A chunk without a packet of its own holds the end of the one before it; that may be lost already.
        let is_end = chunk.packets == 0 && self.until != chunk.first_tick;
        let packets = if is_end { 1 } else { u32::from(chunk.packets) };
        self.packets += u64::from(packets);
        self.until = Tick(chunk.first_tick.0.saturating_add(u64::from(chunk.ticks)));
        packets
    }
}

impl Writer {
    pub(crate) fn new(store: StoreWriter, rings: WriterRings, counters: Arc<WriterCounters>, plan: FlushPlan) -> Self {
        Self {
            store,
            rings,
            counters,
            plan,
            refused: BTreeMap::new(),
            retried_at: CaptureTime::ZERO,
            lost: BTreeMap::new(),
            stepped: None,
            told_at: CaptureTime::ZERO,
            untold: 0,
            scratch: Vec::with_capacity(64 * 1024),
        }
    }

    /// Appends what has come, and makes it durable in time. True when something came. To be called some hundred times a second.
    pub(crate) fn step(&mut self, now: CaptureTime) -> bool {
        let busy = self.take(now);
        if self.plan.begins(now) {
            self.store.begin_flush();
        }
        let durable = self.store.poll();
        self.plan.on_durable(durable.before, now, &self.counters);
        self.counters.failing.set(u64::from(!self.store.takes_audio()));
        busy
    }

    /// Appends what has come. True when there was anything.
    pub(crate) fn take(&mut self, now: CaptureTime) -> bool {
        let retries = now.since(self.retried_at) >= RETRY_INTERVAL || now < self.retried_at;
        let refused = if retries { std::mem::take(&mut self.refused) } else { BTreeMap::new() };
        let mut facts: Vec<Fact> = refused.into_values().collect();
        let mut busy = false;
        while let Ok(fact) = self.rings.facts.pop() {
            facts.push(fact);
            busy = true;
        }
        for encoder in 0..self.rings.chunks.len() {
            while let Ok(header) = self.rings.chunks[encoder].1.pop() {
                let payload = self.rings.chunks[encoder].0.pop(&mut self.scratch);
                assert!(payload.is_some(), "a chunk's payload is put into its ring before its header");
                self.append_chunk(&header, now);
                busy = true;
            }
        }
        for fact in facts {
            self.append_fact(fact, now);
        }
        if retries {
            self.retried_at = now;
            self.tell_clock_step(now);
        }
        busy
    }

    fn append_chunk(&mut self, header: &ChunkHeader, now: CaptureTime) {
        match self.store.append_chunk(header, &self.scratch) {
            Ok(number) => {
                self.plan.on_chunk(number, header);
                self.counters.chunks.add(1);
                self.counters.bytes.add(self.scratch.len() as u64);
            }
            Err(error) => {
                let packets = self.lost.entry((header.recording, header.track)).or_default().add(header);
                self.counters.lost_packets.add(u64::from(packets));
                self.on_error(&error, "audio is lost until the store takes it again", now);
                // For the live view. When the ring is full, the recording's last fact tells all the same.
                let loss = WriterLoss { recording: header.recording, track: header.track, packets };
                let _ring_full = self.rings.losses.push(loss);
            }
        }
    }

    fn append_fact(&mut self, mut fact: Fact, now: CaptureTime) {
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
        match self.store.append_fact(fact.clone()) {
            Ok(number) => {
                self.plan.on_fact(number, now);
                self.counters.facts.add(1);
                if recording.state != RecordingState::Active {
                    self.lost.retain(|(id, _), _| *id != recording.id);
                }
            }
            Err(error) => {
                self.on_error(&error, "facts wait in memory until the store takes them", now);
                self.refused.insert(recording.id, fact);
            }
        }
    }

    /// The system clock was set, by so many nanoseconds: times of recordings before and after it do not compare.
    pub(crate) fn on_clock_step(&mut self, stepped_nanos: i64, now: CaptureTime) {
        let stepped_seconds = stepped_nanos as f64 / 1e9;
        tracing::warn!(stepped_seconds, "somebody has set the system clock; the capture clock follows it slowly");
        self.counters.clock_steps.add(1);
        let (at, before) = self.stepped.unwrap_or((now, 0.0));
        self.stepped = Some((at, before + stepped_seconds));
        self.tell_clock_step(now);
    }

    /// Steps that the store does not take are told as one, as soon as it does.
    fn tell_clock_step(&mut self, now: CaptureTime) {
        let Some((at, stepped_seconds)) = self.stepped else { return };
        match self.store.append_fact(Fact::Clock { at, stepped_seconds }) {
            Ok(number) => {
                self.stepped = None;
                self.plan.on_fact(number, now);
                self.counters.facts.add(1);
            }
            Err(error) => self.on_error(&error, "facts wait in memory until the store takes them", now),
        }
    }

    /// Makes everything appended durable, and waits for it. False when that is not possible now.
    pub(crate) fn flush(&mut self, now: CaptureTime) -> bool {
        match self.store.flush() {
            Ok(_) => {
                self.plan.forget();
                self.counters.flushes.add(1);
                self.counters.failing.set(0);
                self.refused.is_empty() && self.stepped.is_none()
            }
            Err(error) => {
                self.on_error(&error, "what is in memory is not durable", now);
                false
            }
        }
    }

    fn on_error(&mut self, error: &StoreError, consequence: &str, now: CaptureTime) {
        self.counters.errors.add(1);
        self.counters.failing.set(1);
        self.untold += 1;
        if now.since(self.told_at) >= TELL_INTERVAL || now < self.told_at {
            tracing::error!(error = %error, failures = self.untold, "the store cannot be written: {consequence}");
            (self.told_at, self.untold) = (now, 0);
        }
    }

    /// The store, and how many facts it did not take.
    pub(crate) fn into_store(self) -> (StoreWriter, usize) {
        (self.store, self.refused.len() + usize::from(self.stepped.is_some()))
    }
}

/// A recording that is over is not complete if its audio was lost here, also when the call thread could not know in time.
/// `None` when its document tells of every loss already.
fn with_losses(recording: &Recording, lost: &BTreeMap<(RecordingId, TrackId), LostAudio>) -> Option<Recording> {
    let here = |track: &Track| lost.get(&(recording.id, track.id)).map_or(0, |lost| lost.packets);
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
mod tests;
