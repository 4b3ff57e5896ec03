//! A track: the streams of one side of a recording, in; chunks, out.

use crate::chunk::ChunkSink;
use crate::output::Output;
use crate::stream::{Stream, StreamBuffers};
use crate::{MediaError, StreamSlot, TrackAccounting, TrackConfig};
use sidetone_calls::{MeasuredTrack, StreamFormat};
use sidetone_model::{CaptureTime, Losses, RecordingId, StreamKey, TrackId};
use std::time::Duration;

/// Streams with a reorder queue of their own; more than ever speak at once on one side of a call.
const STREAMS_LIVE_MAX: usize = 4;
/// Streams that a track tells apart. Packets of further ones are counted together.
const STREAMS_MAX: usize = 256;

/// Packets that arrived longer ago than this were held back before they came here.
const CATCHING_UP: Duration = Duration::from_millis(250);

/// The audio of one party: takes the packets of its streams, gives chunks.
///
/// All memory is taken by [`Track::new`] and [`Track::open_stream`]; packets and ticks take none.
pub struct Track {
    streams: Vec<Stream>,
    buffers_made: usize,
    output: Output,
    /// Packets of streams beyond the limit.
    refused: u64,
    /// The latest arrival of a packet since the last tick.
    arrived_since_tick: Option<CaptureTime>,
}

impl Track {
    /// # Errors
    /// A configuration out of range; an encoder that libopus would not make.
    pub fn new(recording: RecordingId, id: TrackId, config: &TrackConfig) -> Result<Self, MediaError> {
        config.check()?;
        Ok(Self {
            streams: Vec::with_capacity(1),
            buffers_made: 0,
            output: Output::new(recording, id, config)?,
            refused: 0,
            arrived_since_tick: None,
        })
    }

    /// A stream of this track; its packets are given with the slot. Opening a stream that is open already sets its format
    /// and returns its slot. A stream opened later speaks over one opened earlier.
    pub fn open_stream(&mut self, key: &StreamKey, format: &StreamFormat) -> StreamSlot {
        if let Some(known) = self.streams.iter().position(|s| s.key == *key) {
            self.streams[known].set_format(format);
            return slot_of(known);
        }
        if self.streams.len() == STREAMS_MAX {
            return StreamSlot::BEYOND_LIMIT;
        }
        let slot = slot_of(self.streams.len());
        let mut stream = Stream::new(*key, slot, format);
        if self.buffers_made < STREAMS_LIVE_MAX {
            self.buffers_made += 1;
            stream.buffers = Some(Box::new(StreamBuffers::new()));
        }
        self.streams.push(stream);
        slot
    }

    /// The stream's packets are read with other formats from now on (re-INVITE).
    pub fn set_format(&mut self, slot: StreamSlot, format: &StreamFormat) {
        if let Some(stream) = self.streams.get_mut(slot.index()) {
            stream.set_format(format);
        }
    }

    /// Takes one UDP payload of a stream. Bytes that are no RTP are counted and otherwise ignored.
    pub fn on_packet(&mut self, slot: StreamSlot, arrived_at: CaptureTime, rtp: &[u8], sink: &mut dyn ChunkSink) {
        if slot.index() >= self.streams.len() {
            self.refused += 1;
            return;
        }
        self.ensure_buffers(slot, sink);
        self.arrived_since_tick = self.arrived_since_tick.max(Some(arrived_at));
        self.streams[slot.index()].receive(arrived_at, rtp, &mut self.output, sink);
        if self.output.reaches_cut(arrived_at) {
            // Other streams may hold packets that have waited for long enough.
            self.release_due(arrived_at, sink);
        }
        self.output.advance(arrived_at, sink);
    }

    /// So many packets of the stream came to the encoder's ring and found it full: `losses.encoder`.
    pub fn on_lost_before(&mut self, slot: StreamSlot, packets: u32) {
        match self.streams.get_mut(slot.index()) {
            Some(stream) => stream.lost_before(packets),
            None => self.refused += u64::from(packets),
        }
    }

    /// Time has passed: gives up what was waited for long enough, encodes what is old enough. To be called every 20 to
    /// 200 ms, and whenever [`TrackConfig::cut_at`] moves on: a track without packets seals its chunk only then.
    pub fn on_tick(&mut self, now: CaptureTime, sink: &mut dyn ChunkSink) {
        // Packets from the pre-roll arrived long ago, and more of them may follow: their time is what counts until
        // they have caught up.
        let now = match self.arrived_since_tick.take() {
            Some(arrived_at) if now.since(arrived_at) > CATCHING_UP => arrived_at,
            _ => now,
        };
        self.release_due(now, sink);
        self.output.advance(now, sink);
    }

    fn release_due(&mut self, now: CaptureTime, sink: &mut dyn ChunkSink) {
        for stream in &mut self.streams {
            stream.release_due(now, &mut self.output, sink);
        }
    }

    /// The call is over at `at`: everything received is encoded and handed to the sink.
    pub fn finish(&mut self, at: CaptureTime, sink: &mut dyn ChunkSink) {
        self.release_due(at, sink);
        for stream in &mut self.streams {
            stream.finish(&mut self.output, sink);
        }
        self.output.flush(sink);
        self.output.seal(sink);
    }

    /// The track as it stands. Streams are listed in the order in which they were opened, once they had a packet.
    pub fn measured(&self) -> MeasuredTrack {
        let accounting = self.accounting();
        let (first_audio_at, audio_until) = self.output.audio_span();
        MeasuredTrack {
            first_audio_at,
            audio_until,
            concealed_seconds: self.output.concealed_seconds(),
            losses: Losses {
                network: self.streams.iter().map(Stream::lost_in_network).sum(),
                capture: 0,
                encoder: accounting.lost_to_encoder(),
                writer: accounting.lost_to_writer + accounting.cut_short,
            },
            encrypted: self.streams.iter().any(|s| s.was_encrypted),
            decodable: accounting.undecodable == 0 || accounting.decoded() > 0,
            streams: self.streams.iter().filter_map(describe).collect(),
        }
    }

    /// Where every packet of the track went.
    pub fn accounting(&self) -> TrackAccounting {
        let counts = self.output.counts();
        let mut sum = TrackAccounting {
            encoded: counts.taken,
            lost_to_writer: counts.refused,
            cut_short: counts.cut_short,
            failed: counts.failed,
            pending: self.output.pending_packets(),
            beyond_stream_limit: self.refused,
            packets: self.refused,
            ticks_encoded: counts.ticks_encoded,
            ..TrackAccounting::default()
        };
        for stream in &self.streams {
            let of_stream = &stream.accounting;
            sum.packets += of_stream.packets;
            sum.placed += of_stream.placed;
            sum.duplicates += of_stream.duplicates;
            sum.late += of_stream.late;
            sum.overlapped += of_stream.overlapped;
            sum.no_audio += of_stream.no_audio;
            sum.undecodable += of_stream.undecodable;
            sum.strays += of_stream.strays;
            sum.lost_before_encoder += of_stream.lost_before_encoder;
            sum.not_rtp += of_stream.not_rtp;
            sum.pending += stream.buffers.as_ref().map_or(0, |b| b.queue.len() as u64);
        }
        sum
    }

    /// Gives a stream buffers, if need be those of the one that has been silent for longest.
    fn ensure_buffers(&mut self, slot: StreamSlot, sink: &mut dyn ChunkSink) {
        if self.streams[slot.index()].buffers.is_some() {
            return;
        }
        let silent = self.streams.iter_mut().filter(|s| s.buffers.is_some()).min_by_key(|s| s.last_at);
        let buffers = silent.and_then(|s| s.give_up_buffers(&mut self.output, sink));
        self.streams[slot.index()].buffers = buffers;
    }
}

fn slot_of(index: usize) -> StreamSlot {
    StreamSlot(u16::try_from(index).expect("the number of streams is bounded"))
}

fn describe(stream: &Stream) -> Option<sidetone_model::Stream> {
    let from = stream.first_at?;
    Some(sidetone_model::Stream {
        domain: stream.key.domain.to_string(),
        ssrc: format!("0x{:08x}", stream.key.ssrc),
        source: stream.key.source.to_string(),
        destination: stream.key.destination.to_string(),
        codec: stream.codec_name().unwrap_or_default(),
        from,
        to: stream.last_at,
        packets: stream.accounting.packets,
        lost: stream.lost_in_network(),
        duplicates: stream.accounting.duplicates,
        reordered: stream.reordered,
        late: stream.accounting.late,
        jitter_ms_mean: stream.jitter.mean_ms(),
        jitter_ms_max: stream.jitter.max_ms(),
    })
}
