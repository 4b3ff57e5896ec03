//! Passive TCP reassembly: segments seen on a mirror port → byte streams, one per direction (RFC 9293 §3.4).
//!
//! Constraints: no I/O, no clock (time comes with the segments), no panic on any bytes; memory is bounded by
//! [`TcpLimits`]. Every segment pushed has exactly one end in [`TcpStatistics`], or is still held.
//!
//! What passive listening means here:
//! * A stream may begin in its middle. The first segment with data is then taken as its beginning.
//! * What the mirror port lost is never sent again. A hole is waited for (reordered and retransmitted segments fill
//!   it), for `gap_timeout` or until the stream holds more than its share of memory, then reported as
//!   [`TcpEvent::Gap`], and the stream goes on behind it.
//! * Where segments overlap, the bytes that came first count: they are what most receivers keep.
//! * A segment far outside the window is kept aside as a *stray*. When the next one continues it, or the stream
//!   stays silent, the listener has lost the thread and goes on there; a single forged segment cannot do that.

use crate::Packet;
use foldhash::fast::RandomState;
use sidetone_model::{CaptureTime, Domain};
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::time::Duration;

/// Segments this far ahead of or behind the expected byte belong to the stream; others are strays.
const WINDOW_BYTES: i64 = 4 << 20;
/// Out-of-order pieces held by one stream.
const PIECES_PER_STREAM_MAX: usize = 1024;
/// What a held piece costs besides its bytes, for the memory bound.
const PIECE_OVERHEAD_BYTES: usize = 64;

/// How long an ended stream is remembered, so that late copies of its segments are known as such.
const ENDED_REMEMBERED: Duration = Duration::from_secs(30);

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TcpLimits {
    /// Directions of connections in the table; the longest silent one makes room.
    pub streams_max: usize,
    /// Out-of-order bytes that one stream may hold before a hole is given up.
    pub held_bytes_per_stream_max: usize,
    /// The same over all streams.
    pub held_bytes_max: usize,
    /// How long a hole is waited for.
    pub gap_timeout: Duration,
    /// Silence after which a stream is forgotten.
    pub idle_timeout: Duration,
}

impl Default for TcpLimits {
    fn default() -> Self {
        Self {
            streams_max: 65_536,
            held_bytes_per_stream_max: 256 << 10,
            held_bytes_max: 64 << 20,
            gap_timeout: Duration::from_secs(2),
            idle_timeout: Duration::from_secs(600),
        }
    }
}

/// One direction of one connection; never used again for another.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct StreamId(pub u64);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TcpEvent<'a> {
    /// The next bytes of a stream, in order.
    Bytes {
        stream: StreamId,
        domain: Domain,
        source: SocketAddr,
        destination: SocketAddr,
        /// When these bytes and all before them had arrived.
        time: CaptureTime,
        bytes: &'a [u8],
    },
    /// Bytes are missing here and will not come. `missing_bytes` is absent where the listener had lost the thread.
    Gap { stream: StreamId, time: CaptureTime, missing_bytes: Option<u64> },
    /// Nothing follows under this identifier. What was held behind a hole has been handed out before.
    End { stream: StreamId, time: CaptureTime, reason: TcpEnd },
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum TcpEnd {
    /// FIN, and every byte before it.
    Finished,
    /// RST from either side.
    Reset,
    /// A new connection between the same ports began.
    Replaced,
    /// Silent for `idle_timeout`.
    Idle,
    /// Made room for newer streams.
    Evicted,
}

/// What became of a pushed segment for now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TcpOutcome {
    /// Its bytes, at least some, were handed out.
    Delivered,
    /// Waits for bytes before it, or for confirmation; counted later as `delivered` or `out_of_window`.
    Held,
    /// Connection control without data: SYN, FIN, RST, acknowledgements.
    Control,
    Dropped(TcpDrop),
}

/// Why a segment's bytes were not handed out. Each is one drop label.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum TcpDrop {
    /// No TCP header.
    Malformed,
    /// All its bytes had been seen before, or lie before the first byte seen.
    Retransmission,
    /// After the stream's end.
    AfterEnd,
    /// Far from where the stream stands, and nothing confirmed it.
    OutOfWindow,
}

/// Counts since the start. `segments = delivered + control + Σ dropped + held_segments` holds at any moment.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct TcpStatistics {
    pub segments: u64,
    pub delivered: u64,
    pub control: u64,
    pub malformed: u64,
    pub retransmission: u64,
    pub after_end: u64,
    pub out_of_window: u64,
    pub delivered_bytes: u64,
    pub gaps: u64,
    pub gap_bytes: u64,
    /// Streams begun, and ended for want of room.
    pub streams: u64,
    pub evicted_streams: u64,
    /// Segments held now.
    pub held_segments: u64,
    /// Out-of-order bytes held now, bookkeeping included.
    pub held_bytes: u64,
    /// Streams in the table now.
    pub open_streams: u64,
}

impl TcpStatistics {
    /// Segments dropped, over all reasons.
    pub fn dropped(&self) -> u64 {
        self.malformed + self.retransmission + self.after_end + self.out_of_window
    }

    fn count(&mut self, reason: TcpDrop, segments: u64) {
        let counter = match reason {
            TcpDrop::Malformed => &mut self.malformed,
            TcpDrop::Retransmission => &mut self.retransmission,
            TcpDrop::AfterEnd => &mut self.after_end,
            TcpDrop::OutOfWindow => &mut self.out_of_window,
        };
        *counter += segments;
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Key {
    domain: Domain,
    source: SocketAddr,
    destination: SocketAddr,
}

impl Key {
    fn reversed(self) -> Self {
        Self { domain: self.domain, source: self.destination, destination: self.source }
    }
}

struct Segment<'a> {
    sequence: u32,
    flags: u8,
    data: &'a [u8],
}

/// Out-of-order bytes. A segment that was cut by earlier ones lies here in several pieces, of which one counts.
struct Piece {
    time: CaptureTime,
    bytes: Vec<u8>,
    counts_as_segment: bool,
}

struct Stray {
    time: CaptureTime,
    sequence: u32,
    bytes: Vec<u8>,
}

/// One direction. Positions in the stream are 64-bit offsets; offset 0 is the first byte after SYN, or the first seen.
struct Stream {
    key: Key,
    id: StreamId,
    /// Sequence number of the SYN, when it was seen.
    initial_sequence: Option<u32>,
    next_offset: u64,
    /// Sequence number of the byte at `next_offset`.
    next_sequence: u32,
    /// By offset; all beyond `next_offset`, not overlapping.
    held: BTreeMap<u64, Piece>,
    held_bytes: usize,
    /// Where FIN says the stream ends.
    finish_offset: Option<u64>,
    stray: Option<Stray>,
    /// Kept only to recognise what still comes after the end.
    ended: bool,
    last_active: CaptureTime,
    /// Time of the latest event; events of a stream never go back in time.
    last_event: CaptureTime,
    /// This stream's entry in `TcpReassembler::idle`.
    idle_at: CaptureTime,
    /// This stream's entry in `TcpReassembler::waiting`, and the offset at which it waits.
    waiting: Option<(CaptureTime, u64)>,
}

/// Puts TCP segments together into byte streams.
pub struct TcpReassembler {
    limits: TcpLimits,
    streams: HashMap<Key, Stream, RandomState>,
    /// When each stream is to be looked at for idleness; an entry is moved on only when it comes up.
    idle: BTreeMap<(CaptureTime, StreamId), Key>,
    /// Streams that wait for a hole to be filled or a stray to be confirmed, by when they give up.
    waiting: BTreeMap<(CaptureTime, StreamId), Key>,
    next_id: u64,
    statistics: TcpStatistics,
}

impl TcpReassembler {
    pub fn new(limits: TcpLimits) -> Self {
        Self {
            limits,
            streams: HashMap::default(),
            idle: BTreeMap::new(),
            waiting: BTreeMap::new(),
            next_id: 0,
            statistics: TcpStatistics::default(),
        }
    }

    /// Takes one packet of [`crate::Kind::Tcp`] and hands out what has become readable.
    pub fn push(&mut self, time: CaptureTime, packet: &Packet<'_>, out: &mut impl FnMut(TcpEvent<'_>)) -> TcpOutcome {
        self.statistics.segments += 1;
        self.run_timers(time, out);
        let key = Key { domain: packet.domain, source: packet.source, destination: packet.destination };
        let outcome = match parse(packet.transport) {
            None => TcpOutcome::Dropped(TcpDrop::Malformed),
            Some(segment) => self.dispatch(time, key, segment, out),
        };
        match outcome {
            TcpOutcome::Delivered => self.statistics.delivered += 1,
            TcpOutcome::Held => {} // counted in `held_segments` where it is held
            TcpOutcome::Control => self.statistics.control += 1,
            TcpOutcome::Dropped(reason) => self.statistics.count(reason, 1),
        }
        outcome
    }

    /// Gives up holes and streams whose time is over. Call it several times a second.
    pub fn on_tick(&mut self, now: CaptureTime, out: &mut impl FnMut(TcpEvent<'_>)) {
        self.run_timers(now, out);
    }

    /// Ends every stream as [`TcpEnd::Idle`] after handing out what it holds: for the end of a capture.
    pub fn finish(&mut self, now: CaptureTime, out: &mut impl FnMut(TcpEvent<'_>)) {
        while let Some((_, &key)) = self.idle.first_key_value() {
            self.remove(key, now, TcpEnd::Idle, out);
        }
    }

    pub fn statistics(&self) -> TcpStatistics {
        self.statistics
    }

    fn dispatch(
        &mut self,
        time: CaptureTime,
        key: Key,
        mut segment: Segment<'_>,
        out: &mut impl FnMut(TcpEvent<'_>),
    ) -> TcpOutcome {
        if segment.flags & RST != 0 {
            self.on_reset(time, key, segment.sequence, out);
            return TcpOutcome::Control;
        }
        if segment.flags & SYN != 0 {
            let initial_sequence = segment.sequence;
            segment.sequence = initial_sequence.wrapping_add(1);
            self.on_open(time, key, initial_sequence, out);
        } else if !self.streams.contains_key(&key) {
            if segment.data.is_empty() {
                return TcpOutcome::Control;
            }
            self.begin(time, key, None, segment.sequence, out);
        }
        let stream = self.streams.get_mut(&key).expect("was found or has just begun");
        if stream.ended {
            return match segment.data {
                [] => TcpOutcome::Control,
                _ => TcpOutcome::Dropped(TcpDrop::AfterEnd),
            };
        }
        stream.last_active = stream.last_active.max(time);
        let outcome = stream.accept(time, &segment, &mut self.statistics, out);
        self.settle(time, key, out);
        outcome
    }

    /// SYN: begins a stream, unless it is the SYN of the one that is here.
    fn on_open(&mut self, time: CaptureTime, key: Key, initial_sequence: u32, out: &mut impl FnMut(TcpEvent<'_>)) {
        let first_sequence = initial_sequence.wrapping_add(1);
        if let Some(stream) = self.streams.get_mut(&key) {
            let begins_here = stream.next_sequence.wrapping_sub(stream.next_offset as u32) == first_sequence;
            match stream.initial_sequence {
                // After an end even the same number begins anew: a refused connection is tried again with it.
                Some(known) if known == initial_sequence && !stream.ended => return,
                // The SYN was overtaken by the first data.
                None if begins_here && !stream.ended => {
                    stream.initial_sequence = Some(initial_sequence);
                    return;
                }
                _ => self.remove(key, time, TcpEnd::Replaced, out),
            }
        }
        self.begin(time, key, Some(initial_sequence), first_sequence, out);
    }

    /// RST: ends both directions, when it is plausible for the stream it claims to belong to.
    fn on_reset(&mut self, time: CaptureTime, key: Key, sequence: u32, out: &mut impl FnMut(TcpEvent<'_>)) {
        let plausible = match self.streams.get(&key) {
            Some(stream) => stream.distance(sequence).abs() <= WINDOW_BYTES,
            // A refused connection: the side that resets has never sent anything.
            None => self.streams.get(&key.reversed()).is_some_and(|other| other.next_offset == 0),
        };
        if plausible {
            self.end(key, time, TcpEnd::Reset, out);
            self.end(key.reversed(), time, TcpEnd::Reset, out);
        }
    }

    fn begin(
        &mut self,
        time: CaptureTime,
        key: Key,
        initial_sequence: Option<u32>,
        next_sequence: u32,
        out: &mut impl FnMut(TcpEvent<'_>),
    ) {
        while self.streams.len() >= self.limits.streams_max.max(1) {
            self.evict_longest_idle(time, out);
        }
        let id = StreamId(self.next_id);
        self.next_id += 1;
        let idle_at = time.saturating_add(self.limits.idle_timeout);
        let stream = Stream {
            key,
            id,
            initial_sequence,
            next_offset: 0,
            next_sequence,
            held: BTreeMap::new(),
            held_bytes: 0,
            finish_offset: None,
            stray: None,
            ended: false,
            last_active: time,
            last_event: CaptureTime::ZERO,
            idle_at,
            waiting: None,
        };
        self.streams.insert(key, stream);
        self.idle.insert((idle_at, id), key);
        self.statistics.streams += 1;
        self.statistics.open_streams += 1;
    }

    /// Brings limits and timers up to date after a stream has changed.
    fn settle(&mut self, now: CaptureTime, key: Key, out: &mut impl FnMut(TcpEvent<'_>)) {
        let limit = self.limits.held_bytes_per_stream_max;
        let Some(stream) = self.streams.get_mut(&key) else { return };
        while !stream.is_finished() && (stream.held_bytes > limit || stream.held.len() > PIECES_PER_STREAM_MAX) {
            stream.give_up_hole(now, &mut self.statistics, out);
        }
        if stream.is_finished() {
            self.end(key, now, TcpEnd::Finished, out);
        }
        self.reschedule(now, key);
        while self.statistics.held_bytes > self.limits.held_bytes_max as u64 {
            let Some((_, &key)) = self.waiting.first_key_value() else { break };
            self.give_up_hole(key, now, out);
        }
    }

    fn give_up_hole(&mut self, key: Key, now: CaptureTime, out: &mut impl FnMut(TcpEvent<'_>)) {
        let stream = self.streams.get_mut(&key).expect("waiting streams are in the table");
        stream.give_up_hole(now, &mut self.statistics, out);
        if stream.is_finished() {
            self.end(key, now, TcpEnd::Finished, out);
        }
        self.reschedule(now, key);
    }

    /// Keeps the stream's entry in `waiting`: as long as it waits at the same offset its deadline stays.
    fn reschedule(&mut self, now: CaptureTime, key: Key) {
        let stream = self.streams.get_mut(&key).expect("callers have it");
        let waits =
            !stream.ended && (!stream.held.is_empty() || stream.finish_offset.is_some() || stream.stray.is_some());
        let wanted = match stream.waiting {
            Some((at, offset)) if waits && offset == stream.next_offset => Some((at, offset)),
            _ if waits => Some((now.saturating_add(self.limits.gap_timeout), stream.next_offset)),
            _ => None,
        };
        if wanted == stream.waiting {
            return;
        }
        if let Some((at, _)) = stream.waiting {
            self.waiting.remove(&(at, stream.id));
        }
        if let Some((at, _)) = wanted {
            self.waiting.insert((at, stream.id), key);
        }
        stream.waiting = wanted;
    }

    fn run_timers(&mut self, now: CaptureTime, out: &mut impl FnMut(TcpEvent<'_>)) {
        while let Some((&(at, _), &key)) = self.waiting.first_key_value() {
            if at > now {
                break;
            }
            self.give_up_hole(key, now, out);
        }
        while let Some((&(at, _), &key)) = self.idle.first_key_value() {
            if at > now {
                break;
            }
            if self.idle_deadline(key) > now {
                self.move_idle_entry(key);
            } else {
                self.remove(key, now, TcpEnd::Idle, out);
            }
        }
    }

    /// When the stream will have been silent for too long, as things stand.
    fn idle_deadline(&self, key: Key) -> CaptureTime {
        let stream = &self.streams[&key];
        let patience = if stream.ended { ENDED_REMEMBERED } else { self.limits.idle_timeout };
        stream.last_active.saturating_add(patience)
    }

    fn move_idle_entry(&mut self, key: Key) {
        let deadline = self.idle_deadline(key);
        let stream = self.streams.get_mut(&key).expect("callers have it");
        self.idle.remove(&(stream.idle_at, stream.id));
        self.idle.insert((deadline, stream.id), key);
        stream.idle_at = deadline;
    }

    fn evict_longest_idle(&mut self, now: CaptureTime, out: &mut impl FnMut(TcpEvent<'_>)) {
        while let Some((&(at, _), &key)) = self.idle.first_key_value() {
            if self.idle_deadline(key) > at {
                self.move_idle_entry(key);
                continue;
            }
            if !self.streams[&key].ended {
                self.statistics.evicted_streams += 1;
            }
            self.remove(key, now, TcpEnd::Evicted, out);
            return;
        }
    }

    /// Ends a stream; it stays in the table for a while, so that what still comes is known as late.
    fn end(&mut self, key: Key, now: CaptureTime, reason: TcpEnd, out: &mut impl FnMut(TcpEvent<'_>)) {
        let Some(stream) = self.streams.get_mut(&key) else { return };
        if stream.ended {
            return;
        }
        stream.end(now, reason, &mut self.statistics, out);
        self.reschedule(now, key);
        self.move_idle_entry(key);
    }

    fn remove(&mut self, key: Key, now: CaptureTime, reason: TcpEnd, out: &mut impl FnMut(TcpEvent<'_>)) {
        self.end(key, now, reason, out);
        let stream = self.streams.remove(&key).expect("callers have it");
        self.idle.remove(&(stream.idle_at, stream.id));
        self.statistics.open_streams -= 1;
    }
}

impl Stream {
    /// How far ahead of the next expected byte a sequence number lies.
    fn distance(&self, sequence: u32) -> i64 {
        i64::from(sequence.wrapping_sub(self.next_sequence).cast_signed())
    }

    /// Everything up to FIN has been handed out.
    fn is_finished(&self) -> bool {
        self.finish_offset == Some(self.next_offset)
    }

    fn accept(
        &mut self,
        time: CaptureTime,
        segment: &Segment<'_>,
        statistics: &mut TcpStatistics,
        out: &mut impl FnMut(TcpEvent<'_>),
    ) -> TcpOutcome {
        let distance = self.distance(segment.sequence);
        if distance.abs() > WINDOW_BYTES {
            return match segment.data {
                [] => TcpOutcome::Control,
                _ => self.keep_stray(time, segment, statistics, out),
            };
        }
        let next = self.next_offset.cast_signed();
        let start = next + distance;
        let mut end = start + segment.data.len() as i64;
        let held_end = self.held.last_key_value().map_or(0, |(&offset, piece)| offset + piece.bytes.len() as u64);
        if segment.flags & FIN != 0 && self.finish_offset.is_none() && end >= next.max(held_end.cast_signed()) {
            self.finish_offset = Some(end.cast_unsigned());
        }
        if segment.data.is_empty() {
            return TcpOutcome::Control;
        }
        self.drop_stray(statistics);
        if let Some(finish) = self.finish_offset {
            end = end.min(finish.cast_signed());
            if start >= finish.cast_signed() {
                return TcpOutcome::Dropped(TcpDrop::AfterEnd);
            }
        }
        if end <= next {
            return TcpOutcome::Dropped(TcpDrop::Retransmission);
        }
        let begin = start.max(next);
        let data = &segment.data[(begin - start) as usize..(end - start) as usize];
        if begin == next {
            self.deliver_in_order(time, data, statistics, out);
            return TcpOutcome::Delivered;
        }
        if self.hold(time, begin.cast_unsigned(), data, statistics) {
            TcpOutcome::Held
        } else {
            TcpOutcome::Dropped(TcpDrop::Retransmission)
        }
    }

    /// Hands out `data`, which begins at `next_offset`, but keeps the bytes that are held already, and all that follows on.
    fn deliver_in_order(
        &mut self,
        time: CaptureTime,
        data: &[u8],
        statistics: &mut TcpStatistics,
        out: &mut impl FnMut(TcpEvent<'_>),
    ) {
        let start = self.next_offset;
        let end = start + data.len() as u64;
        while self.next_offset < end {
            let free_until = self.held.first_key_value().map_or(end, |(&offset, _)| offset.min(end));
            let from = (self.next_offset - start) as usize;
            self.emit(time, &data[from..(free_until - start) as usize], statistics, out);
            self.deliver_held(time, statistics, out);
        }
        self.deliver_held(time, statistics, out);
    }

    /// Hands out held pieces as long as they follow on.
    fn deliver_held(&mut self, time: CaptureTime, statistics: &mut TcpStatistics, out: &mut impl FnMut(TcpEvent<'_>)) {
        while let Some(entry) = self.held.first_entry() {
            if *entry.key() != self.next_offset {
                return;
            }
            let piece = entry.remove();
            let cost = piece.bytes.len() + PIECE_OVERHEAD_BYTES;
            self.held_bytes -= cost;
            statistics.held_bytes -= cost as u64;
            if piece.counts_as_segment {
                statistics.held_segments -= 1;
                statistics.delivered += 1;
            }
            self.emit(time.min(piece.time), &piece.bytes, statistics, out);
        }
    }

    /// Keeps the parts of `data` that are not held yet; false when there are none.
    fn hold(&mut self, time: CaptureTime, offset: u64, data: &[u8], statistics: &mut TcpStatistics) -> bool {
        let end = offset + data.len() as u64;
        let mut free = Vec::new();
        let mut cursor = offset;
        let before = self.held.range(..=offset).next_back();
        for (&held_offset, piece) in before.into_iter().chain(self.held.range(offset + 1..end)) {
            if held_offset > cursor {
                free.push(cursor..held_offset);
            }
            cursor = cursor.max(held_offset + piece.bytes.len() as u64);
        }
        if cursor < end {
            free.push(cursor..end);
        }
        for (index, range) in free.iter().enumerate() {
            let bytes = data[(range.start - offset) as usize..(range.end - offset) as usize].to_vec();
            let cost = bytes.len() + PIECE_OVERHEAD_BYTES;
            self.held_bytes += cost;
            statistics.held_bytes += cost as u64;
            self.held.insert(range.start, Piece { time, bytes, counts_as_segment: index == 0 });
        }
        statistics.held_segments += u64::from(!free.is_empty());
        !free.is_empty()
    }

    /// Goes on behind what is missing: at the next held piece, at the end that FIN announced, or at the stray.
    fn give_up_hole(&mut self, now: CaptureTime, statistics: &mut TcpStatistics, out: &mut impl FnMut(TcpEvent<'_>)) {
        let next = self.held.first_key_value().map(|(&offset, piece)| (offset, piece.time));
        let next = next.or(self.finish_offset.map(|offset| (offset, now)));
        if let Some((offset, time)) = next {
            let missing = offset - self.next_offset;
            self.next_offset = offset;
            self.next_sequence = self.next_sequence.wrapping_add(missing as u32);
            statistics.gap_bytes += missing;
            self.emit_gap(time, Some(missing), statistics, out);
            self.deliver_held(now, statistics, out);
        } else if let Some(stray) = self.stray.take() {
            self.release_stray(&stray, statistics);
            statistics.delivered += 1;
            self.resume_at(stray.time, stray.sequence, statistics, out);
            self.emit(stray.time, &stray.bytes, statistics, out);
        }
    }

    fn keep_stray(
        &mut self,
        time: CaptureTime,
        segment: &Segment<'_>,
        statistics: &mut TcpStatistics,
        out: &mut impl FnMut(TcpEvent<'_>),
    ) -> TcpOutcome {
        if let Some(stray) = self.stray.take() {
            if stray.sequence == segment.sequence {
                self.stray = Some(stray);
                return TcpOutcome::Dropped(TcpDrop::Retransmission);
            }
            let continued = stray.sequence.wrapping_add(stray.bytes.len() as u32) == segment.sequence;
            self.stray = Some(stray);
            if continued {
                // The pieces held lie before the point at which the stream goes on, and so does any end once announced.
                self.finish_offset = None;
                while !self.held.is_empty() {
                    self.give_up_hole(time, statistics, out);
                }
                self.give_up_hole(time, statistics, out);
                return self.accept(time, segment, statistics, out);
            }
            self.drop_stray(statistics);
        }
        let cost = segment.data.len() + PIECE_OVERHEAD_BYTES;
        self.held_bytes += cost;
        statistics.held_bytes += cost as u64;
        statistics.held_segments += 1;
        self.stray = Some(Stray { time, sequence: segment.sequence, bytes: segment.data.to_vec() });
        TcpOutcome::Held
    }

    fn drop_stray(&mut self, statistics: &mut TcpStatistics) {
        if let Some(stray) = self.stray.take() {
            self.release_stray(&stray, statistics);
            statistics.count(TcpDrop::OutOfWindow, 1);
        }
    }

    fn release_stray(&mut self, stray: &Stray, statistics: &mut TcpStatistics) {
        let cost = stray.bytes.len() + PIECE_OVERHEAD_BYTES;
        self.held_bytes -= cost;
        statistics.held_bytes -= cost as u64;
        statistics.held_segments -= 1;
    }

    /// Takes the stream up again at another sequence number. Offsets go on counting what was handed out.
    fn resume_at(
        &mut self,
        time: CaptureTime,
        sequence: u32,
        statistics: &mut TcpStatistics,
        out: &mut impl FnMut(TcpEvent<'_>),
    ) {
        self.next_sequence = sequence;
        // From here on the SYN's number says nothing about offsets any more; a SYN that comes is a new connection's.
        self.initial_sequence = None;
        self.emit_gap(time, None, statistics, out);
    }

    fn end(
        &mut self,
        now: CaptureTime,
        reason: TcpEnd,
        statistics: &mut TcpStatistics,
        out: &mut impl FnMut(TcpEvent<'_>),
    ) {
        while !self.held.is_empty() {
            self.give_up_hole(now, statistics, out);
        }
        self.drop_stray(statistics);
        self.ended = true;
        let time = self.event_time(now);
        out(TcpEvent::End { stream: self.id, time, reason });
    }

    fn emit(
        &mut self,
        time: CaptureTime,
        bytes: &[u8],
        statistics: &mut TcpStatistics,
        out: &mut impl FnMut(TcpEvent<'_>),
    ) {
        if bytes.is_empty() {
            return;
        }
        self.next_offset += bytes.len() as u64;
        self.next_sequence = self.next_sequence.wrapping_add(bytes.len() as u32);
        statistics.delivered_bytes += bytes.len() as u64;
        let time = self.event_time(time);
        let Key { domain, source, destination } = self.key;
        out(TcpEvent::Bytes { stream: self.id, domain, source, destination, time, bytes });
    }

    fn emit_gap(
        &mut self,
        time: CaptureTime,
        missing_bytes: Option<u64>,
        statistics: &mut TcpStatistics,
        out: &mut impl FnMut(TcpEvent<'_>),
    ) {
        statistics.gaps += 1;
        let time = self.event_time(time);
        out(TcpEvent::Gap { stream: self.id, time, missing_bytes });
    }

    fn event_time(&mut self, time: CaptureTime) -> CaptureTime {
        self.last_event = self.last_event.max(time);
        self.last_event
    }
}

/// RFC 9293 §3.1. Checksums are not verified: a mirror port shows packets before the NIC has filled them in.
fn parse(segment: &[u8]) -> Option<Segment<'_>> {
    let fixed: &[u8; 20] = segment.first_chunk()?;
    let header_length = usize::from(fixed[12] >> 4) * 4;
    if header_length < fixed.len() {
        return None;
    }
    Some(Segment {
        sequence: u32::from_be_bytes([fixed[4], fixed[5], fixed[6], fixed[7]]),
        flags: fixed[13],
        data: segment.get(header_length..)?,
    })
}

#[cfg(test)]
mod tests;
