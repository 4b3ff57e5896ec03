//! The parts of the data plane and the rings between them, put together once for live capture and for replay.

use crate::call::{CallParts, CallRings, CallStatistics, CallThread, EncoderEnd, LiveCalls, ReceiverLink};
use crate::config::EngineConfig;
use crate::counters::{CallCounters, EncoderCounters, PacketEnd, ReceiveCounters, WriterCounters};
use crate::encode::{ChunkLink, Encoder, EncoderRings};
use crate::flush::FlushPlan;
use crate::keep::Room;
use crate::message::EventSink;
use crate::receive::{EncoderLink, Receiver, ReceiverRings};
use crate::ring::message_ring;
use crate::write::{Writer, WriterRings};
use rtrb::RingBuffer;
use sidetone_calls::TrackerConfig;
use sidetone_capture::TapControl;
use sidetone_media::{LatencyBudget, TrackConfig};
use sidetone_signalling::SipConfig;
use sidetone_store::StoreWriter;
use std::sync::{Arc, Mutex};

/// Everything the data plane is told once.
#[derive(Clone)]
pub struct Setup {
    pub engine: EngineConfig,
    pub sip: SipConfig,
    /// UDP and TCP ports that carry SIP; other ports are recognised by their content where frames of them arrive.
    pub signalling_ports: Vec<u16>,
    pub tracker: TrackerConfig,
    /// Its times are replaced by those that [`EngineConfig::flush_interval`] allows ([`LatencyBudget`]).
    pub track: TrackConfig,
    pub events: EventSink,
}

/// What all threads count, for metrics, the status page and the equations.
#[derive(Clone)]
pub struct Observed {
    pub receive: Vec<Arc<ReceiveCounters>>,
    pub call: Arc<CallCounters>,
    pub encoders: Vec<Arc<EncoderCounters>>,
    pub writer: Arc<WriterCounters>,
    pub live: Arc<LiveCalls>,
    pub room: Arc<Room>,
    pub(crate) statistics: Arc<Mutex<CallStatistics>>,
}

impl Observed {
    /// Packets on tracks that ended so, over all threads.
    pub fn packets_ended(&self, end: PacketEnd) -> u64 {
        let encoders: u64 = self.encoders.iter().map(|encoder| encoder.ended(end)).sum();
        match end {
            PacketEnd::LostToEncoder => encoders + self.receive.iter().map(|q| q.lost_to_encoder.get()).sum::<u64>(),
            _ => encoders,
        }
    }

    /// What the call thread said of itself last, at most about a second ago.
    pub fn call_statistics(&self) -> CallStatistics {
        self.statistics.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }
}

pub(crate) struct Parts {
    pub(crate) receivers: Vec<Receiver>,
    pub(crate) call: CallThread,
    pub(crate) encoders: Vec<Encoder>,
    pub(crate) writer: Writer,
    pub(crate) observed: Observed,
}

/// Notices and commands that wait between two threads; each is rare compared with packets.
const NOTICE_RING: usize = 16 * 1024;
const COMMAND_RING: usize = 16 * 1024;
const REPORT_RING: usize = 16 * 1024;
const FACT_RING: usize = 16 * 1024;
const CHUNK_HEADER_RING: usize = 16 * 1024;

pub(crate) fn assemble(
    setup: &Setup,
    queues: u16,
    encoder_threads: u16,
    store: StoreWriter,
    taps: Vec<TapControl>,
) -> Parts {
    let config = &setup.engine;
    let kib = |kib: u32| kib as usize * 1024;
    let observed = Observed {
        receive: (0..queues).map(|_| Arc::default()).collect(),
        call: Arc::default(),
        encoders: (0..encoder_threads).map(|_| Arc::default()).collect(),
        writer: Arc::default(),
        live: Arc::default(),
        room: Arc::default(),
        statistics: Arc::default(),
    };

    let mut receivers = Vec::new();
    let mut receiver_links = Vec::new();
    let mut encoder_inputs: Vec<Vec<_>> = (0..encoder_threads).map(|_| Vec::new()).collect();
    for queue in 0..queues {
        let (to_call, frames) = message_ring(kib(config.signalling_ring_kib));
        let (notices, notices_out) = RingBuffer::new(NOTICE_RING);
        let (commands_in, commands) = RingBuffer::new(COMMAND_RING);
        let encoders = encoder_inputs
            .iter_mut()
            .map(|inputs| {
                let (messages, messages_out) = message_ring(kib(config.media_ring_kib));
                let (opened, opened_out) = RingBuffer::new(COMMAND_RING);
                inputs.push((messages_out, opened_out));
                EncoderLink { messages, opened }
            })
            .collect();
        let rings = ReceiverRings { to_call, notices, commands, encoders };
        let counters = observed.receive[usize::from(queue)].clone();
        receivers.push(Receiver::new(queue, config, &setup.signalling_ports, rings, counters));
        receiver_links.push(ReceiverLink { frames, notices: notices_out, commands: commands_in });
    }

    let track = setup.track.clone().with_budget(&LatencyBudget::of(config.flush_interval()));
    let mut encoders = Vec::new();
    let mut encoder_ends = Vec::new();
    let mut chunk_links = Vec::new();
    for (inputs, counters) in encoder_inputs.into_iter().zip(&observed.encoders) {
        let (finish, finish_out) = RingBuffer::new(COMMAND_RING);
        let (reports, reports_out) = RingBuffer::new(REPORT_RING);
        let (payloads, payloads_out) = message_ring(kib(config.chunk_ring_kib));
        let (headers, headers_out) = RingBuffer::new(CHUNK_HEADER_RING);
        let chunks = ChunkLink::new(payloads, headers, counters.clone());
        let rings = EncoderRings { receivers: inputs, finish: finish_out, reports, chunks };
        encoders.push(Encoder::new(rings, track.clone(), counters.clone()));
        encoder_ends.push(EncoderEnd { finish, reports: reports_out });
        chunk_links.push((payloads_out, headers_out));
    }

    let (facts, facts_out) = RingBuffer::new(FACT_RING);
    let (losses, losses_out) = RingBuffer::new(FACT_RING);
    let call = CallThread::new(
        CallRings { receivers: receiver_links, encoders: encoder_ends, facts, losses: losses_out },
        CallParts {
            sip: setup.sip.clone(),
            tracker: setup.tracker.clone(),
            taps,
            signalling_ports: setup.signalling_ports.iter().copied().collect(),
            events: setup.events.clone(),
            live: observed.live.clone(),
            statistics: observed.statistics.clone(),
            counters: observed.call.clone(),
            room: observed.room.clone(),
        },
    );
    let rings = WriterRings { facts: facts_out, chunks: chunk_links, losses };
    let writer = Writer::new(store, rings, observed.writer.clone(), FlushPlan::new(config.flush_interval()));
    Parts { receivers, call, encoders, writer, observed }
}
