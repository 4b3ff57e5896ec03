//! One stream of a track: from RTP packets in any order to samples on the track's time line.
//!
//! ```text
//! packet → count → duplicate? ─► counted
//!                → stray?     ─► waits for the packet that confirms it
//!                → in order and anchored ──────────────► lay down
//!                → else: reorder queue, at most a window ─┘
//! ```
//! Laying down: ask the clock for the place, conceal what is missing before it, decode, stretch by a sample if the clock asks
//! for it, write. Order of packets is that of sequence numbers; time is that of timestamps.

use crate::TrackAccounting;
use crate::clock::{SamplePosition, StreamClock};
use crate::conceal::{self, BLEND_SAMPLES_MAX, CONCEALED_SAMPLES_MAX, Concealment, History};
use crate::g711::Law;
use crate::jitter::InterarrivalJitter;
use crate::output::{Admission, Output};
use crate::payload::{PayloadKind, PayloadTable};
use crate::reorder::{Packet, ReorderQueue};
use crate::rtp::{self, RtpHeader};
use crate::sequence::{ExtendedSequence, SequenceCounter, Verdict};
use crate::stretch::resample;
use crate::{ChunkSink, StreamSlot};
use sidetone_calls::StreamFormat;
use sidetone_model::{CaptureTime, StreamKey};

/// Samples decoded at a time; nearly every packet is one block.
const BLOCK_SAMPLES: usize = 512;
/// The longest packet taken for audio: 256 ms of G.711. Longer ones are malformed.
const PAYLOAD_BYTES_MAX: usize = 2048;
/// Frames shorter than this are not stretched.
const STRETCHED_SAMPLES_MIN: usize = 40;
/// A step of extended sequence numbers beyond this is a restart, not a loss.
const LOST_PACKETS_MAX: u64 = 0x1_0000;

/// What a stream needs while packets come: 6 KB. Handed from streams that have fallen silent to those that speak.
#[derive(Debug)]
pub(crate) struct StreamBuffers {
    pub(crate) queue: ReorderQueue,
    history: History,
}

impl StreamBuffers {
    pub(crate) fn new() -> Self {
        Self { queue: ReorderQueue::new(), history: History::new() }
    }
}

/// Where the last packet laid down ended.
#[derive(Clone, Copy, Debug)]
struct LastFrame {
    /// Extended timestamp of the sample after it.
    next_timestamp: i64,
    samples: usize,
    /// Place on the time line after it.
    end: SamplePosition,
}

#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) key: StreamKey,
    slot: StreamSlot,
    formats: PayloadTable,
    pub(crate) was_encrypted: bool,
    pub(crate) buffers: Option<Box<StreamBuffers>>,
    pub(crate) first_at: Option<CaptureTime>,
    pub(crate) last_at: CaptureTime,
    sequence: SequenceCounter,
    pub(crate) jitter: InterarrivalJitter,
    pub(crate) accounting: TrackAccounting,
    pub(crate) reordered: u64,
    /// The name of the codec that most packets use: candidate and lead (Boyer and Moore's vote).
    codec: Option<String>,
    codec_type: Option<u8>,
    codec_lead: u64,
    clock: Option<StreamClock>,
    /// The sequence number that comes next in order.
    next: Option<ExtendedSequence>,
    last_frame: Option<LastFrame>,
}

/// The packet begins another time line: it has to wait for its anchor.
struct NotAnchored;

impl Stream {
    pub(crate) fn new(key: StreamKey, slot: StreamSlot, format: &StreamFormat) -> Self {
        Self {
            key,
            slot,
            formats: PayloadTable::new(format),
            was_encrypted: format.encrypted,
            buffers: None,
            first_at: None,
            last_at: CaptureTime::ZERO,
            sequence: SequenceCounter::new(),
            jitter: InterarrivalJitter::default(),
            accounting: TrackAccounting::default(),
            reordered: 0,
            codec: None,
            codec_type: None,
            codec_lead: 0,
            clock: None,
            next: None,
            last_frame: None,
        }
    }

    pub(crate) fn set_format(&mut self, format: &StreamFormat) {
        // A name once voted for stays readable after its payload type got another meaning.
        self.codec = self.codec_name();
        self.formats = PayloadTable::new(format);
        self.was_encrypted |= format.encrypted;
        if let Some(payload_type) = self.codec_type
            && self.codec.as_deref() != Some(&self.formats.name(payload_type))
        {
            self.codec_type = None;
        }
    }

    /// Encoding name and clock of the codec that most packets use.
    pub(crate) fn codec_name(&self) -> Option<String> {
        self.codec_type.map(|t| self.formats.name(t)).or_else(|| self.codec.clone())
    }

    /// RFC 3550 §A.3, apart from what our own rings lost.
    pub(crate) fn lost_in_network(&self) -> u64 {
        let missing = self.sequence.expected().saturating_sub(self.sequence.unique());
        missing.saturating_sub(self.accounting.lost_before_encoder)
    }

    pub(crate) fn lost_before(&mut self, packets: u32) {
        self.accounting.packets += u64::from(packets);
        self.accounting.lost_before_encoder += u64::from(packets);
    }

    /// Takes a UDP payload. `buffers` must be there.
    pub(crate) fn receive(
        &mut self,
        arrived_at: CaptureTime,
        datagram: &[u8],
        output: &mut Output,
        sink: &mut dyn ChunkSink,
    ) {
        let Ok(header) = rtp::parse_fixed(datagram) else {
            self.accounting.not_rtp += 1;
            return;
        };
        self.first_at.get_or_insert(arrived_at);
        self.last_at = self.last_at.max(arrived_at);
        self.accounting.packets += 1;
        let (kind, payload) = self.read_payload(&header, datagram);
        match self.sequence.observe(header.sequence, header.timestamp) {
            Verdict::Duplicate => {
                self.accounting.duplicates += 1;
                return;
            }
            Verdict::Suspect => {
                self.drop_suspect();
                let packet = Packet { sequence: ExtendedSequence(0), timestamp: header.timestamp, arrived_at, kind };
                if !self.queue().keep_suspect(packet, payload) {
                    self.accounting.strays += 1;
                }
                return;
            }
            Verdict::Newest(sequence) => {
                self.drop_suspect();
                self.measure(arrived_at, &header, kind);
                self.take(Packet { sequence, timestamp: header.timestamp, arrived_at, kind }, payload, output, sink);
            }
            Verdict::Reordered(sequence) => {
                self.drop_suspect();
                self.reordered += 1;
                self.measure(arrived_at, &header, kind);
                self.take(Packet { sequence, timestamp: header.timestamp, arrived_at, kind }, payload, output, sink);
            }
            Verdict::Restarted(sequence) => {
                // What waits belongs to numbers that are over.
                self.release_all(output, sink);
                self.jitter.interrupt();
                self.measure(arrived_at, &header, kind);
                let first = ExtendedSequence(sequence.0 - 1);
                self.next = Some(if self.queue().confirm_suspect(first) { first } else { sequence });
                self.take(Packet { sequence, timestamp: header.timestamp, arrived_at, kind }, payload, output, sink);
            }
        }
        self.release_due(arrived_at, output, sink);
    }

    /// What the packet holds. A header that promises more than there is makes it malformed, not unseen: it was on the
    /// wire and has a sequence number.
    fn read_payload<'a>(&self, header: &RtpHeader, datagram: &'a [u8]) -> (PayloadKind, &'a [u8]) {
        let kind = self.formats.kind(header.payload_type);
        if self.formats.is_encrypted() {
            return (kind, &[]);
        }
        match rtp::parse(datagram) {
            Ok((_, [])) => (PayloadKind::NoAudio, &[]),
            Ok((_, payload)) if payload.len() <= PAYLOAD_BYTES_MAX => (kind, payload),
            Ok(_) | Err(_) => (PayloadKind::Undecodable, &[]),
        }
    }

    fn measure(&mut self, arrived_at: CaptureTime, header: &RtpHeader, kind: PayloadKind) {
        if kind == PayloadKind::NoAudio {
            self.jitter.interrupt();
            return;
        }
        if header.marker {
            self.jitter.interrupt();
        }
        self.jitter.observe(arrived_at, header.timestamp, self.formats.clock_rate(header.payload_type));
        if self.codec_type == Some(header.payload_type) {
            self.codec_lead += 1;
        } else if self.codec_lead == 0 {
            self.codec_type = Some(header.payload_type);
            self.codec_lead = 1;
        } else {
            self.codec_lead -= 1;
        }
    }

    fn queue(&mut self) -> &mut ReorderQueue {
        &mut self.buffers.as_mut().expect("a stream has buffers while it receives").queue
    }

    fn drop_suspect(&mut self) {
        if self.queue().drop_suspect() {
            self.accounting.strays += 1;
        }
    }

    /// Lays a packet down, or holds it until its turn.
    fn take(&mut self, packet: Packet, payload: &[u8], output: &mut Output, sink: &mut dyn ChunkSink) {
        if packet.kind.is_audio() && self.next.is_some_and(|next| packet.sequence < next) {
            self.accounting.late += 1;
            return;
        }
        if self.queue().is_empty()
            && self.next == Some(packet.sequence)
            && self.lay_down(packet, payload, output, sink).is_ok()
        {
            return;
        }
        while self.queue().insert(packet, payload).is_err() {
            self.release_front(output, sink);
        }
    }

    /// Lays down what is in order, and what has waited for longer than the window.
    pub(crate) fn release_due(&mut self, now: CaptureTime, output: &mut Output, sink: &mut dyn ChunkSink) {
        while let Some(buffers) = &self.buffers
            && let Some((front, _)) = buffers.queue.front()
            && let Some(since) = buffers.queue.waiting_since()
        {
            let waited = now.since(since) >= output.reorder_window();
            let anchored = self.clock.is_some() || !front.kind.is_audio();
            let in_order = self.next.is_some_and(|next| front.sequence <= next);
            if !(waited || anchored && in_order) {
                return;
            }
            if !self.try_release_front(output, sink) && !waited {
                // Its time line has changed: it waits for its anchor now.
                return;
            }
        }
    }

    /// Lays down everything that waits.
    pub(crate) fn release_all(&mut self, output: &mut Output, sink: &mut dyn ChunkSink) {
        while self.buffers.as_ref().is_some_and(|b| !b.queue.is_empty()) {
            self.release_front(output, sink);
        }
    }

    /// Nothing more will come for now: lays down what waits, forgets the suspect.
    pub(crate) fn finish(&mut self, output: &mut Output, sink: &mut dyn ChunkSink) {
        self.release_all(output, sink);
        if self.buffers.is_some() {
            self.drop_suspect();
        }
    }

    /// Gives the buffers away; what comes later begins a new time line.
    pub(crate) fn give_up_buffers(
        &mut self,
        output: &mut Output,
        sink: &mut dyn ChunkSink,
    ) -> Option<Box<StreamBuffers>> {
        self.finish(output, sink);
        self.clock = None;
        self.last_frame = None;
        let mut buffers = self.buffers.take()?;
        buffers.history.clear();
        Some(buffers)
    }

    /// The front packet leaves the queue, whatever it takes.
    fn release_front(&mut self, output: &mut Output, sink: &mut dyn ChunkSink) {
        if !self.try_release_front(output, sink) && !self.try_release_front(output, sink) {
            unreachable!("a packet agrees with the clock that was anchored at it");
        }
    }

    /// `false` when the packet turned out to begin another time line; it stays, and the next attempt anchors it.
    fn try_release_front(&mut self, output: &mut Output, sink: &mut dyn ChunkSink) -> bool {
        let Some(mut buffers) = self.buffers.take() else { return true };
        let mut released = true;
        if let Some((packet, payload)) = buffers.queue.front() {
            if self.clock.is_none() && packet.kind.is_audio() {
                let waiting = buffers.queue.packets().filter(|p| p.kind.is_audio());
                self.clock = StreamClock::anchor(waiting.map(|p| p.observation()));
            }
            released = self.lay_down_with(packet, payload, &mut buffers.history, output, sink).is_ok();
            if released {
                buffers.queue.drop_front();
            }
        }
        self.buffers = Some(buffers);
        released
    }

    fn lay_down(
        &mut self,
        packet: Packet,
        payload: &[u8],
        output: &mut Output,
        sink: &mut dyn ChunkSink,
    ) -> Result<(), NotAnchored> {
        let Some(mut buffers) = self.buffers.take() else { return Err(NotAnchored) };
        let result = self.lay_down_with(packet, payload, &mut buffers.history, output, sink);
        self.buffers = Some(buffers);
        result
    }

    /// The packet is the next in order, or what is missing before it has been given up.
    fn lay_down_with(
        &mut self,
        packet: Packet,
        payload: &[u8],
        history: &mut History,
        output: &mut Output,
        sink: &mut dyn ChunkSink,
    ) -> Result<(), NotAnchored> {
        let counter = match packet.kind {
            PayloadKind::G711(law) => return self.lay_down_audio(packet, law, payload, history, output, sink),
            PayloadKind::NoAudio => &mut self.accounting.no_audio,
            PayloadKind::Undecodable => &mut self.accounting.undecodable,
        };
        *counter += 1;
        self.advance(packet.sequence);
        Ok(())
    }

    /// Returns how many packets are missing between the last one in order and this one.
    fn advance(&mut self, sequence: ExtendedSequence) -> u64 {
        let missing = self.next.map_or(0, |next| sequence.0.saturating_sub(next.0));
        self.next = Some(self.next.map_or(sequence.next(), |next| next.max(sequence.next())));
        if missing > LOST_PACKETS_MAX { 0 } else { missing }
    }

    fn lay_down_audio(
        &mut self,
        packet: Packet,
        law: Law,
        payload: &[u8],
        history: &mut History,
        output: &mut Output,
        sink: &mut dyn ChunkSink,
    ) -> Result<(), NotAnchored> {
        let clock = self.clock.as_mut().ok_or(NotAnchored)?;
        let timestamp = clock.extend(packet.timestamp);
        let last = self.last_frame;
        // Senders whose packets hold a little more than their timestamps say overlap; others have begun anew.
        let goes_back = last.is_some_and(|last| timestamp <= last.next_timestamp - last.samples as i64);
        if goes_back || clock.disagrees(packet.observation()) {
            self.clock = None;
            self.last_frame = None;
            return Err(NotAnchored);
        }
        clock.observe(packet.observation());
        let gap = last.map_or(0, |last| timestamp - last.next_timestamp);
        let mut step = 0;
        if last.is_some() && gap <= 0 {
            clock.jump_over_standing_lag();
            if payload.len() >= STRETCHED_SAMPLES_MIN {
                step = clock.step(payload.len());
            }
        }
        let missing = self.advance(packet.sequence);
        let clock = self.clock.as_mut().ok_or(NotAnchored)?;
        let mut tail = [0i16; BLEND_SAMPLES_MAX];
        let mut blended_samples = 0;
        if let Some(last) = last
            && gap > 0
        {
            let lost_samples = usize::try_from(gap)
                .unwrap_or(usize::MAX)
                .min(usize::try_from(missing).unwrap_or(usize::MAX).saturating_mul(last.samples));
            let is_continuous = lost_samples as i64 == gap && lost_samples <= CONCEALED_SAMPLES_MAX;
            if !is_continuous {
                let earliest = last.end.saturating_add(lost_samples.min(CONCEALED_SAMPLES_MAX) as i64);
                clock.jump_in_silence(timestamp, Some(earliest));
            }
            if lost_samples > 0 && output.can_continue(self.slot, last.end) {
                let mut concealment = Concealment::new(history);
                let mut fill = [0i16; CONCEALED_SAMPLES_MAX];
                let fill = &mut fill[..lost_samples.min(CONCEALED_SAMPLES_MAX)];
                concealment.fill(fill);
                output.conceal(last.end, fill, sink);
                if is_continuous {
                    blended_samples = concealment.blend_samples(lost_samples);
                    concealment.fill(&mut tail[..blended_samples]);
                }
            }
        }
        // A step has already moved the clock, and takes effect at the end of this frame.
        let place = clock.place(timestamp).saturating_sub(step);
        let length = payload.len() as i64 + step;
        let admission = output.admit(self.slot, self.is_older_than_holder(output), place, length, sink);
        let mut decoded = [0i16; BLOCK_SAMPLES];
        let mut at = place;
        for (index, codes) in payload.chunks(BLOCK_SAMPLES).enumerate() {
            let samples = &mut decoded[..codes.len()];
            law.decode(codes, samples);
            history.push(samples);
            if index == 0 {
                conceal::blend(&tail[..blended_samples], samples);
            }
            if admission == Admission::Open {
                if index == 0 && step != 0 {
                    let mut stretched = [0i16; BLOCK_SAMPLES + 1];
                    let stretched = &mut stretched[..codes.len().saturating_add_signed(step as isize)];
                    resample(samples, stretched);
                    output.write(at, stretched, sink);
                    at += stretched.len() as i64;
                } else {
                    output.write(at, samples, sink);
                    at += samples.len() as i64;
                }
            }
        }
        match admission {
            Admission::Open => self.accounting.placed += 1,
            Admission::Late => self.accounting.late += 1,
            Admission::Overlapped => self.accounting.overlapped += 1,
        }
        self.last_frame = Some(LastFrame {
            next_timestamp: timestamp.saturating_add(payload.len() as i64),
            samples: payload.len(),
            end: place.saturating_add(length),
        });
        Ok(())
    }

    fn is_older_than_holder(&self, output: &Output) -> bool {
        output.holder().is_some_and(|holder| self.slot < holder)
    }
}
