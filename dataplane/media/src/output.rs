//! What the streams of a track share: the time line, the encoder behind it, and the rule for streams that speak at once.
//!
//! **Two streams at once.** The stream that was opened last holds the time line: where it speaks, packets of older streams are
//! not laid down (`TrackAccounting::overlapped`). When it has been silent for [`HOLD_SAMPLES`], an older one takes over. Mixing was
//! rejected: what overlaps on one side of a call is nearly always the same voice twice (both sides of a relay, forked media), and the
//! sum of two copies a few milliseconds apart sounds like a comb filter.
//!
//! **Delay.** Samples are encoded when they are older than `reorder window + jitter allowance`, and then
//! [`TrackConfig::batch_ticks`] steps at a time, because an encoder's state falls out of the cache between its turns. Tracks
//! begin at different steps, so their batches fall on different instants. When the steps before a common cut are that old
//! (`budget`), all of them are encoded at once and the chunk is sealed.
//! A packet whose place has been encoded is late. The time line does not advance through silence: a packet that was held up
//! is late only if something later has already been encoded. What comes for a step before the last cut and still
//! finds its place open goes into the next chunk.

use crate::chunk::{ChunkCounts, ChunkSink, ChunkWriter};
use crate::clock::{NANOS_PER_SAMPLE, SAMPLES_PER_TICK, SamplePosition, time_of};
use crate::timeline::{RING_TICKS, Timeline};
use crate::{MediaError, StreamSlot, TrackConfig};
use sidetone_model::{CaptureTime, NANOS_PER_TICK, RecordingId, TrackId};
use std::time::Duration;

/// 100 ms.
const HOLD_SAMPLES: i64 = 800;
/// 10 min: a place that far before the open part of the time line means that the capture clock went back, not that the
/// packet is late.
const CLOCK_STEP_BACK_SAMPLES: i64 = 600 * 8000;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Admission {
    /// To be written.
    Open,
    /// Its place has been encoded.
    Late,
    /// Another stream holds its place.
    Overlapped,
}

#[derive(Clone, Copy, Debug)]
struct Hold {
    slot: StreamSlot,
    /// End of what the holder wrote last.
    until: SamplePosition,
}

pub(crate) struct Output {
    timeline: Timeline,
    writer: ChunkWriter,
    hold: Option<Hold>,
    reorder_window: Duration,
    delay_ns: u64,
    batch_ticks: u64,
    chunk_ticks: u64,
    /// Batches end so many steps after this one, the track's first.
    batches_from: u64,
    audio_from: Option<SamplePosition>,
    audio_until: Option<SamplePosition>,
    concealed_samples: u64,
    /// Packets on the time line that are not in a chunk yet.
    open_packets: u64,
}

impl Output {
    pub(crate) fn new(recording: RecordingId, track: TrackId, config: &TrackConfig) -> Result<Self, MediaError> {
        Ok(Self {
            timeline: Timeline::new(),
            writer: ChunkWriter::new(recording, track, config)?,
            hold: None,
            reorder_window: config.reorder_window,
            delay_ns: u64::try_from(config.look_back().as_nanos()).unwrap_or(u64::MAX),
            batch_ticks: u64::from(config.batch_ticks),
            chunk_ticks: u64::from(config.chunk_ticks),
            batches_from: 0,
            audio_from: None,
            audio_until: None,
            concealed_samples: 0,
            open_packets: 0,
        })
    }

    pub(crate) fn reorder_window(&self) -> Duration {
        self.reorder_window
    }

    pub(crate) fn holder(&self) -> Option<StreamSlot> {
        self.hold.map(|h| h.slot)
    }

    pub(crate) fn counts(&self) -> ChunkCounts {
        self.writer.counts()
    }

    /// Packets laid down whose chunk is not sealed yet.
    pub(crate) fn pending_packets(&self) -> u64 {
        self.open_packets + u64::from(self.writer.open_packets())
    }

    pub(crate) fn concealed_seconds(&self) -> f64 {
        self.concealed_samples as f64 / 8000.0
    }

    /// First instant of received audio, and the end of the last.
    pub(crate) fn audio_span(&self) -> (Option<CaptureTime>, Option<CaptureTime>) {
        (self.audio_from.map(time_of), self.audio_until.map(time_of))
    }

    /// Whether concealment may go on where this stream stopped: it was the last to speak, and that place is still open.
    pub(crate) fn can_continue(&self, slot: StreamSlot, end: SamplePosition) -> bool {
        self.holder() == Some(slot) && !self.timeline.is_empty() && end >= self.timeline.open_from()
    }

    /// Decides whether a packet is laid down, books it, and makes the time line reach it.
    pub(crate) fn admit(
        &mut self,
        slot: StreamSlot,
        is_older_than_holder: bool,
        place: SamplePosition,
        length: i64,
        sink: &mut dyn ChunkSink,
    ) -> Admission {
        let end = place.saturating_add(length);
        if end.saturating_add(CLOCK_STEP_BACK_SAMPLES) < self.timeline.open_from() {
            self.flush(sink);
            self.writer.begin_anew(sink);
            self.hold = None;
            self.timeline.open_at(Timeline::tick_of(place));
        }
        if end <= self.timeline.open_from() || place < 0 {
            return Admission::Late;
        }
        if is_older_than_holder
            && let Some(hold) = self.hold
            && place < hold.until.saturating_add(HOLD_SAMPLES)
        {
            return Admission::Overlapped;
        }
        let first = place.max(self.timeline.open_from());
        self.reach(first, sink);
        if !self.timeline.book_packet(first) {
            return Admission::Overlapped;
        }
        if self.audio_from.is_none() {
            self.batches_from = Timeline::tick_of(first);
        }
        self.open_packets += 1;
        self.hold = Some(Hold { slot, until: end });
        self.audio_from = Some(self.audio_from.map_or(first, |from| from.min(first)));
        self.audio_until = Some(self.audio_until.map_or(end, |until| until.max(end)));
        Admission::Open
    }

    /// Writes samples of an admitted packet; what lies before the open part of the time line is left out.
    pub(crate) fn write(&mut self, place: SamplePosition, samples: &[i16], sink: &mut dyn ChunkSink) {
        let passed = usize::try_from(self.timeline.open_from().saturating_sub(place)).unwrap_or(0);
        let Some(open) = samples.get(passed..) else { return };
        let mut place = place.saturating_add(passed as i64);
        // A quarter of the ring at a time, so that any length fits.
        for part in open.chunks(RING_TICKS as usize / 4 * SAMPLES_PER_TICK) {
            self.reach(place.saturating_add(part.len() as i64 - 1), sink);
            self.timeline.write(place, part);
            place += part.len() as i64;
        }
    }

    /// Fills a loss.
    pub(crate) fn conceal(&mut self, place: SamplePosition, samples: &[i16], sink: &mut dyn ChunkSink) {
        self.concealed_samples += samples.len() as u64;
        self.write(place, samples, sink);
    }

    /// Makes the time line reach a place by encoding its oldest steps early.
    fn reach(&mut self, place: SamplePosition, sink: &mut dyn ChunkSink) {
        let lowest = (Timeline::tick_of(place) + 1).saturating_sub(RING_TICKS);
        while self.timeline.first_covered().is_some_and(|first| first < lowest) {
            self.encode_first(sink);
        }
        self.timeline.close_before(lowest);
    }

    fn encode_first(&mut self, sink: &mut dyn ChunkSink) -> bool {
        let Some(taken) = self.timeline.take_first() else { return false };
        self.open_packets -= u64::from(taken.packets);
        self.writer.push(&taken, sink);
        true
    }

    /// Whether the time of a cut has come that [`Self::advance`] has not carried out.
    pub(crate) fn reaches_cut(&self, now: CaptureTime) -> bool {
        let due = self.due(now);
        self.writer.is_open_at(due - due % self.chunk_ticks)
    }

    /// Steps before this one are old enough.
    fn due(&self, now: CaptureTime) -> u64 {
        now.0.saturating_sub(self.delay_ns) / NANOS_PER_TICK
    }

    /// Encodes what is old enough, by whole batches or up to a cut; seals the chunk that ends at a cut.
    pub(crate) fn advance(&mut self, now: CaptureTime, sink: &mut dyn ChunkSink) {
        let due = self.due(now);
        let cut = due - due % self.chunk_ticks;
        let batch_end = due - due.saturating_sub(self.batches_from) % self.batch_ticks;
        let end = cut.max(batch_end);
        while self.timeline.first_covered().is_some_and(|first| first < end) {
            self.encode_first(sink);
        }
        if self.writer.is_open_at(cut)
            && let Some(last) = self.writer.seal_at(cut, sink)
        {
            self.close_behind(last);
        }
    }

    /// `last` was encoded, perhaps as silence that no stream wrote.
    fn close_behind(&mut self, last: u64) {
        self.timeline.close_before(last + 1);
    }

    fn end_run(&mut self, sink: &mut dyn ChunkSink) {
        if let Some(last) = self.writer.end_run(sink) {
            self.close_behind(last);
        }
    }

    /// Encodes everything on the time line.
    pub(crate) fn flush(&mut self, sink: &mut dyn ChunkSink) {
        while self.encode_first(sink) {}
        self.end_run(sink);
    }

    pub(crate) fn seal(&mut self, sink: &mut dyn ChunkSink) {
        self.writer.seal(sink);
    }
}

const _: () = assert!(NANOS_PER_TICK as i64 == NANOS_PER_SAMPLE * SAMPLES_PER_TICK as i64);
