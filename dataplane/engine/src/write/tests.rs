//! The writer on a store whose disk fails on demand.

use super::*;
use crate::clock::ThreadClock;
use crate::keep::{self, Room};
use crate::live::run_writer;
use crate::message::EngineEvent;
use crate::ring::{MessageHeader, MessageProducer, message_ring};
use rtrb::RingBuffer;
use rustix::time::{ClockId, clock_gettime};
use sidetone_capture::{CaptureClock, monotonic_ns};
use sidetone_catalog::{Catalog, MemoryCatalog};
use sidetone_log::simulation::SimulatedDisk;
use sidetone_log::{ChunkCodec, Content, Entry, FactRecord, JournalReader, KnownEnd, LogPosition, OpenFiles, Owner};
use sidetone_model::{ConversationId, Losses, NodeName, Side, Tick, TrackKind};
use sidetone_store::{JournalConfig, Keeper, Store, StoreOptions, StoreReader, VolumeState};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

const HOME: &str = "/home";
const OTHER: &str = "/other";
/// What a volume keeps in memory at most.
const BUFFER_BYTES: usize = 2 << 20;
/// A cut.
const CUT: u64 = 35 * 2_571_428_600;

/// The writer thread and the keeper thread, stepped in turn.
struct Desk {
    disk: SimulatedDisk,
    writer: Writer,
    keeper: Keeper,
    reader: Arc<StoreReader>,
    room: Arc<Room>,
    facts: rtrb::Producer<Fact>,
    payloads: MessageProducer,
    headers: rtrb::Producer<ChunkHeader>,
    losses: rtrb::Consumer<WriterLoss>,
    counters: Arc<WriterCounters>,
    events: Arc<Mutex<Vec<EngineEvent>>>,
    now: CaptureTime,
    packet_bytes: u8,
}

impl Desk {
    fn new(seed: u64) -> Self {
        let disk = SimulatedDisk::new(seed);
        for volume in [HOME, OTHER] {
            disk.mount(Path::new(volume));
            disk.set_delay(Path::new(volume), 3);
        }
        let mut options = StoreOptions::new(NodeName("test".into()));
        options.volumes = vec!["/other/volume".into()];
        options.journal = JournalConfig { file_bytes: 8 << 20, buffer_bytes: BUFFER_BYTES, ..JournalConfig::default() };
        let catalog: Arc<dyn Catalog> = Arc::new(MemoryCatalog::new());
        let open_catalog = |_: &Path| Ok(Arc::clone(&catalog));
        let store = Store::open_on(disk.process(), &open_catalog, Path::new("/home/store"), &options).unwrap();
        let (store, mut keeper, reader, _) = store.split();
        let (facts, facts_out) = RingBuffer::new(1024);
        let (payloads, payloads_out) = message_ring(1 << 20);
        let (headers, headers_out) = RingBuffer::new(1024);
        let (losses_in, losses) = RingBuffer::new(4);
        let rings = WriterRings { facts: facts_out, chunks: vec![(payloads_out, headers_out)], losses: losses_in };
        let counters = Arc::new(WriterCounters::default());
        let writer = Writer::new(store, rings, counters.clone(), FlushPlan::new(Duration::from_secs(1)));
        let (room, events): (Arc<Room>, Arc<Mutex<Vec<EngineEvent>>>) = Default::default();
        let heard = events.clone();
        let sink: crate::message::EventSink = Arc::new(move |event| heard.lock().unwrap().push(event));
        keep::watch(&mut keeper, &reader, &room, &sink).unwrap();
        let now = Tick(CUT).start();
        let packet_bytes = 4;
        Self {
            disk,
            writer,
            keeper,
            reader,
            room,
            facts,
            payloads,
            headers,
            losses,
            counters,
            events,
            now,
            packet_bytes,
        }
    }

    /// Time goes on.
    fn pass(&mut self, milliseconds: u64) {
        for _ in 0..milliseconds / 5 {
            self.now = self.now.saturating_add(Duration::from_millis(5));
            self.disk.advance_clock(5_000_000);
            self.writer.step(self.now);
            while self.keeper.step() {}
        }
    }

    fn chunk(&mut self, recording: RecordingId, track: u8, first_tick: u64, ticks: u16) {
        self.chunk_of(recording, track, first_tick, ticks, ticks);
    }

    fn chunk_of(&mut self, recording: RecordingId, track: u8, first_tick: u64, ticks: u16, packets: u16) {
        let header = ChunkHeader {
            recording,
            track: TrackId(track),
            first_tick: Tick(first_tick),
            ticks,
            packets,
            codec: ChunkCodec::OpusNarrowband,
            key_id: [0; 16],
            nonce: [0; 12],
            tag: [0; 16],
        };
        let packet = |tick: u16| {
            [self.packet_bytes, 0].into_iter().chain(std::iter::repeat_n(tick as u8, self.packet_bytes.into()))
        };
        let payload: Vec<u8> = (0..ticks).flat_map(packet).collect();
        assert!(self.payloads.push(MessageHeader::default(), &payload));
        self.headers.push(header).unwrap();
    }

    fn save(&mut self, recording: Recording) {
        self.facts.push(Fact::Recording { recording: Arc::new(recording), resume: None }).unwrap();
    }

    fn completed(&self) -> Vec<Arc<Recording>> {
        let is_over = |event: &EngineEvent| match event {
            EngineEvent::RecordingCompleted(recording) => Some(recording.clone()),
            _ => None,
        };
        self.events.lock().unwrap().iter().filter_map(is_over).collect()
    }

    /// Packets in the chunks that the store has.
    fn stored_packets(&self, recording: RecordingId, track: u8) -> u64 {
        let all = Tick(0)..Tick(u64::MAX);
        let chunks = self.reader.chunk_locations(recording, TrackId(track), all).unwrap();
        chunks.iter().map(|chunk| u64::from(chunk.packets)).sum()
    }
}

fn id(number: u8) -> RecordingId {
    let mut bytes = [0; 16];
    bytes[0] = number;
    RecordingId(uuid::Uuid::from_bytes(bytes))
}

fn recording(number: u8, state: RecordingState) -> Recording {
    let track = |track| Track {
        id: TrackId(track),
        party: None,
        side: Side::Far,
        kind: TrackKind::Audio,
        encrypted: false,
        decodable: true,
        start_offset_seconds: 0.0,
        duration_seconds: 1.0,
        concealed_seconds: 0.0,
        losses: Losses::default(),
        streams: Vec::new(),
    };
    Recording {
        schema: 1,
        annotations: Default::default(),
        proof: None,
        id: id(number),
        node: NodeName("test".into()),
        conversation_id: ConversationId(Default::default()),
        state,
        started_at: Tick(CUT).start(),
        answered_at: None,
        ended_at: None,
        duration_seconds: 1.0,
        end_reason: None,
        users: Vec::new(),
        gaps: Vec::new(),
        pauses: Vec::new(),
        legs: Vec::new(),
        parties: Vec::new(),
        tracks: vec![track(0), track(1)],
    }
}

#[test]
fn audio_is_durable_within_the_interval_by_one_flush_a_cut() {
    let mut desk = Desk::new(1);
    const CALLS: u8 = 20;
    const CUTS: u64 = 30;
    for call in 0..CALLS {
        desk.save(recording(call, RecordingState::Active));
    }
    desk.pass(900);
    for cut in 0..CUTS {
        let first = CUT + cut * 35;
        for call in 0..CALLS {
            // Each sealed some ms after the look-back, as encoders get round to it.
            desk.chunk(id(call), 0, first, 35);
            desk.chunk(id(call), 1, first + u64::from(call % 3), 35 - u16::from(call % 3));
            if call % 10 == 9 {
                desk.pass(10);
            }
        }
        desk.pass(700 - u64::from(CALLS));
    }
    let flushes = desk.counters.flushes.get();
    assert!((CUTS..=CUTS + 2).contains(&flushes), "{flushes} flushes for {CUTS} cuts");
    let (chunks, late) = (desk.counters.durable_after.count(), desk.counters.durable_after.up_to());
    assert_eq!(chunks, CUTS * u64::from(CALLS) * 2);
    let within = late.filter(|(bound_ms, _)| *bound_ms == 1000).map(|(_, count)| count).next();
    assert_eq!(within, Some(chunks), "durable within a second");
    for call in 0..CALLS {
        desk.save(recording(call, RecordingState::Complete));
    }
    desk.pass(1000);
    let completed = desk.completed();
    assert_eq!(completed.len(), usize::from(CALLS));
    assert!(completed.iter().all(|recording| recording.state == RecordingState::Complete));
    assert_eq!(desk.stored_packets(id(3), 0), CUTS * 35);
    assert_eq!((desk.counters.errors.get(), desk.counters.lost_packets.get()), (0, 0));
}

#[test]
fn nothing_is_lost_while_another_volume_takes_it() {
    let mut desk = Desk::new(2);
    for call in 0..8 {
        desk.save(recording(call, RecordingState::Active));
        desk.chunk(id(call), 0, CUT, 35);
    }
    desk.pass(700);
    for (volume, other) in [(HOME, OTHER), (OTHER, HOME)] {
        desk.disk.set_down(Path::new(volume), true);
        for round in 0..4 {
            for call in 0..8 {
                desk.chunk(id(call), 1, desk.now.tick().0 / 35 * 35, 35);
            }
            desk.pass(700);
            assert!(!desk.counters.is_failing(), "round {round}: {other} takes everything");
        }
        assert!(desk.room.troubled().iter().any(|(_, state)| *state == VolumeState::Failed));
        assert!(desk.room.takes_new());
        desk.disk.set_down(Path::new(volume), false);
        desk.pass(5000);
        assert_eq!(desk.room.troubled(), [], "{volume} is back");
    }
    for call in 0..8 {
        desk.save(recording(call, RecordingState::Complete));
    }
    desk.pass(1000);
    assert_eq!(desk.completed().len(), 8);
    assert!(desk.completed().iter().all(|recording| recording.state == RecordingState::Complete));
    for call in 0..8 {
        assert_eq!((desk.stored_packets(id(call), 0), desk.stored_packets(id(call), 1)), (35, 8 * 35));
    }
    assert_eq!((desk.counters.errors.get(), desk.counters.lost_packets.get()), (0, 0));
}

#[test]
fn what_no_volume_takes_is_told_to_the_packet_by_the_recording_that_lost_it() {
    let mut desk = Desk::new(3);
    for call in 0..4 {
        desk.save(recording(call, RecordingState::Active));
        desk.chunk(id(call), 0, CUT, 35);
    }
    desk.pass(700);
    for volume in [HOME, OTHER] {
        desk.disk.set_down(Path::new(volume), true);
    }
    let mut offered = [0u64; 4];
    for round in 0..10u64 {
        for call in 0..4u8 {
            let ticks = 30 - u16::from(call);
            desk.chunk(id(call), 1, CUT + 100 + round * 35, ticks);
            offered[usize::from(call)] += u64::from(ticks);
        }
        if round == 5 {
            desk.save(recording(1, RecordingState::Complete));
        }
        desk.pass(700);
    }
    assert!(desk.counters.is_failing() && !desk.room.takes_new());
    assert!(desk.completed().is_empty(), "what is not durable is not told");
    for volume in [HOME, OTHER] {
        desk.disk.set_down(Path::new(volume), false);
    }
    desk.pass(8000);
    assert!(!desk.counters.is_failing() && desk.room.takes_new());
    for call in [0, 2, 3] {
        desk.save(recording(call, RecordingState::Complete));
    }
    desk.pass(2000);
    let completed = desk.completed();
    assert_eq!(completed.len(), 4);
    let mut told = 0;
    for recording in completed {
        let call = recording.id.0.as_bytes()[0];
        let lost = recording.tracks[1].losses.writer;
        let stored = desk.stored_packets(recording.id, 1);
        assert!(lost > 0 && recording.state == RecordingState::Incomplete, "{call}: {lost}");
        if call != 1 {
            // The second one told its losses in the middle of the fault.
            assert_eq!(stored + lost, offered[usize::from(call)], "{call}");
            told += lost;
        }
        assert_eq!((recording.tracks[0].losses.writer, desk.stored_packets(recording.id, 0)), (0, 35));
    }
    assert!(told > 0 && desk.counters.lost_packets.get() > told);
    let for_live_view = std::iter::from_fn(|| desk.losses.pop().ok()).count();
    assert_eq!(for_live_view, 4, "a full ring holds nobody up");
}

#[test]
fn a_call_that_lost_only_the_end_of_its_last_packet_is_not_whole() {
    let mut desk = Desk::new(6);
    for call in 0..2 {
        desk.save(recording(call, RecordingState::Active));
        for track in 0..2 {
            desk.chunk(id(call), track, CUT, 35);
        }
    }
    desk.pass(700);
    for volume in [HOME, OTHER] {
        desk.disk.set_down(Path::new(volume), true);
    }
    desk.pass(700);
    assert!(desk.counters.is_failing());
    // The last packet of one call lies over a cut; the other call goes on over it, and loses the packets behind it with their end.
    desk.chunk_of(id(0), 1, CUT + 35, 2, 0);
    desk.chunk(id(1), 1, CUT + 35, 35);
    desk.chunk_of(id(1), 1, CUT + 70, 1, 0);
    desk.pass(700);
    for volume in [HOME, OTHER] {
        desk.disk.set_down(Path::new(volume), false);
    }
    desk.pass(8000);
    for call in 0..2 {
        desk.save(recording(call, RecordingState::Complete));
    }
    desk.pass(2000);
    let told: Vec<_> = desk
        .completed()
        .iter()
        .map(|recording| (recording.id, recording.state, recording.tracks[1].losses.writer))
        .collect();
    assert_eq!(told, [(id(0), RecordingState::Incomplete, 1), (id(1), RecordingState::Incomplete, 35)]);
    assert_eq!(desk.counters.lost_packets.get(), 36);
}

#[test]
fn a_recording_whose_audio_was_lost_after_its_last_report_is_incomplete() {
    let mut recording = recording(1, RecordingState::Complete);
    recording.tracks[1].losses.writer = 20;
    let lost = |packets| BTreeMap::from([((recording.id, TrackId(1)), LostAudio { packets, until: Tick(CUT) })]);
    let corrected = with_losses(&recording, &lost(50)).expect("30 packets more were lost than it tells");
    assert_eq!((corrected.state, corrected.tracks[1].losses.writer), (RecordingState::Incomplete, 50));
    assert_eq!(with_losses(&recording, &lost(20)), None);
    let active = Recording { state: RecordingState::Active, ..recording.clone() };
    assert_eq!(with_losses(&active, &lost(50)), None, "the call thread still tells it");
}

/// Flushes of a volume's journal.
fn flushes(desk: &Desk, volume: usize) -> u64 {
    desk.reader.statistics().unwrap().volumes[volume].journal.as_ref().unwrap().flushes
}

#[test]
fn a_volume_that_does_not_answer_costs_the_others_neither_audio_nor_flushes() {
    let mut desk = Desk::new(4);
    const CALLS: u8 = 8;
    for call in 0..CALLS {
        desk.save(recording(call, RecordingState::Active));
        desk.chunk(id(call), 0, CUT, 35);
    }
    desk.pass(1400);
    assert_eq!(desk.room.troubled(), []);
    // Whatever is asked of it takes minutes.
    desk.disk.set_delay(Path::new(OTHER), 50_000);
    let mut offered = [0u64; CALLS as usize];
    let mut talk = |desk: &mut Desk, cuts: u64| {
        for _ in 0..cuts {
            let first = desk.now.tick().0 / 35 * 35;
            for call in 0..CALLS {
                desk.chunk(id(call), 1, first, 35);
                offered[usize::from(call)] += 35;
                // Some encoders are late.
                desk.pass(80);
            }
            desk.pass(60);
        }
    };
    talk(&mut desk, 6);
    assert_eq!(desk.room.troubled().iter().map(|(_, state)| *state).collect::<Vec<_>>(), [VolumeState::Stalled]);
    let before = flushes(&desk, 0);
    talk(&mut desk, 100);
    let flushed = flushes(&desk, 0) - before;
    // Two a cut: one at the cut, one for those that were late for it.
    assert!((90..=220).contains(&flushed), "{flushed} flushes in 70 s");
    assert_eq!((desk.counters.errors.get(), desk.counters.lost_packets.get()), (0, 0));
    assert!(!desk.counters.is_failing() && desk.room.takes_new());

    desk.disk.set_delay(Path::new(OTHER), 3);
    for call in 0..CALLS {
        desk.save(recording(call, RecordingState::Complete));
    }
    let until = desk.now.saturating_add(Duration::from_secs(900));
    while !desk.room.troubled().is_empty() {
        assert!(desk.now < until, "the volume answers at last");
        desk.pass(5000);
    }
    assert_eq!(desk.completed().len(), usize::from(CALLS));
    for recording in desk.completed() {
        assert_eq!(recording.state, RecordingState::Complete);
        let call = usize::from(recording.id.0.as_bytes()[0]);
        assert_eq!(desk.stored_packets(recording.id, 1), offered[call], "{call}");
    }
}

#[test]
fn while_the_only_volume_does_not_answer_memory_is_bounded_and_each_loss_is_told() {
    let mut desk = Desk::new(5);
    desk.disk.set_down(Path::new(OTHER), true);
    for call in 0..4 {
        desk.save(recording(call, RecordingState::Active));
        desk.chunk(id(call), 0, CUT, 35);
    }
    desk.pass(5000);
    desk.disk.set_delay(Path::new(HOME), 50_000);
    desk.packet_bytes = 200;
    let mut offered = [0u64; 4];
    let (mut lost_after, mut pending_most) = (None, 0);
    for cut in 0..200 {
        let first = desk.now.tick().0 / 35 * 35;
        for call in 0..4 {
            desk.chunk(id(call), 1, first, 35);
            offered[usize::from(call)] += 35;
        }
        desk.pass(700);
        if desk.counters.lost_packets.get() > 0 {
            lost_after.get_or_insert(cut);
        }
        let volumes = desk.reader.statistics().unwrap().volumes;
        pending_most = pending_most.max(volumes[0].journal.as_ref().unwrap().pending_bytes);
    }
    assert!(desk.counters.is_failing() && !desk.room.takes_new());
    // Each cut brings 28 kB: nothing is lost while there is room in memory.
    assert!((40..75).contains(&lost_after.unwrap()), "{lost_after:?}");
    assert!((1 << 20..=BUFFER_BYTES as u64).contains(&pending_most), "{pending_most} bytes in memory");
    desk.disk.set_delay(Path::new(HOME), 3);
    let until = desk.now.saturating_add(Duration::from_secs(900));
    while desk.counters.is_failing() {
        assert!(desk.now < until, "the volume answers at last");
        desk.pass(5000);
    }
    for call in 0..4 {
        desk.save(recording(call, RecordingState::Complete));
    }
    desk.pass(5000);
    let completed = desk.completed();
    assert_eq!(completed.len(), 4);
    let mut told = 0;
    for recording in completed {
        let call = usize::from(recording.id.0.as_bytes()[0]);
        let lost = recording.tracks[1].losses.writer;
        assert!(lost > 0 && recording.state == RecordingState::Incomplete, "{call}: {lost}");
        assert_eq!(desk.stored_packets(recording.id, 1) + lost, offered[call], "{call}");
        told += lost;
    }
    assert_eq!(desk.counters.lost_packets.get(), told);
}

/// What the journal of a volume tells of steps of the system clock.
fn clock_steps(disk: &SimulatedDisk, reader: &StoreReader, volume: &str) -> Vec<(CaptureTime, f64)> {
    let statistics = reader.statistics().unwrap();
    let volume = statistics.volumes.iter().find(|one| one.directory == Path::new(volume)).unwrap();
    let owner = Owner { store_id: statistics.store_id, volume: volume.volume };
    let files = OpenFiles::new(disk.process(), 8);
    let journal = JournalReader::open(&files, &volume.directory.join("journal"), owner);
    let scan = journal.scan(LogPosition::default(), KnownEnd::AtLeast(LogPosition::default())).unwrap();
    let step = |entry: Entry| match entry.content {
        Content::Fact(FactRecord { fact: Fact::Clock { at, stepped_seconds }, .. }) => Some((at, stepped_seconds)),
        _ => None,
    };
    scan.filter_map(|entry| step(entry.unwrap())).collect()
}

#[test]
fn a_step_of_the_system_clock_is_counted_and_in_the_log_of_each_volume() {
    let mut desk = Desk::new(6);
    let at = desk.now;
    desk.writer.on_clock_step(-3_600_500_000_000, at);
    desk.pass(1000);
    for volume in ["/home/store", "/other/volume"] {
        assert_eq!(clock_steps(&desk.disk, &desk.reader, volume), [(at, -3600.5)], "{volume}");
    }
    assert_eq!(desk.counters.clock_steps.get(), 1);

    // What no volume takes is told later, as one.
    for volume in [HOME, OTHER] {
        desk.disk.set_down(Path::new(volume), true);
    }
    desk.save(recording(1, RecordingState::Active));
    desk.pass(5000);
    let later = desk.now;
    desk.writer.on_clock_step(1_000_000_000, later);
    desk.writer.on_clock_step(2_000_000_000, later);
    for volume in [HOME, OTHER] {
        desk.disk.set_down(Path::new(volume), false);
    }
    desk.pass(8000);
    for volume in ["/home/store", "/other/volume"] {
        // The first may have moved into a segment by now.
        let mut told = clock_steps(&desk.disk, &desk.reader, volume);
        told.retain(|step| *step != (at, -3600.5));
        assert_eq!(told, [(later, 3.0)], "{volume}");
    }
    assert_eq!(desk.counters.clock_steps.get(), 3);
}

#[test]
fn the_writer_thread_notices_that_the_system_clock_was_set() {
    let Desk { disk, writer, reader, counters, keeper: _keeper, .. } = Desk::new(7);
    let (monotonic, realtime) = (monotonic_ns(), clock_gettime(ClockId::Realtime));
    let realtime = realtime.tv_sec.unsigned_abs() * 1_000_000_000 + realtime.tv_nsec.unsigned_abs();
    // As if it had been started before somebody set the clock an hour ahead.
    let clock = ThreadClock::of(CaptureClock::new(monotonic, realtime - 3600 * 1_000_000_000));
    let stop = AtomicBool::new(false);
    let (_store, facts) = std::thread::scope(|scope| {
        let running = scope.spawn(|| run_writer(writer, clock, &stop));
        let until = Instant::now() + Duration::from_secs(20);
        while counters.clock_steps.get() == 0 && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
        }
        stop.store(true, Ordering::Release);
        running.join().unwrap()
    });
    assert_eq!((facts, counters.clock_steps.get()), (0, 1));
    let told = clock_steps(&disk, &reader, "/home/store");
    assert!(matches!(told[..], [(_, seconds)] if (seconds - 3600.0).abs() < 1.0), "{told:?}");
}
