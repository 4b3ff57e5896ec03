//! Nothing on the packet path allocates once a stream is set up; what a track takes in memory and time.
//!
//! A binary of its own, because the counting allocator is the program's.
#![allow(unsafe_code, reason = "a global allocator can only be written with unsafe")]

mod support;

use sidetone_log::ChunkHeader;
use sidetone_media::{ChunkSink, TrackConfig};
use sidetone_model::CaptureTime;
use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use support::*;

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: every call is handed on to the system allocator unchanged, which upholds the contract; counting touches
// nothing but an atomic.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promises about `layout` are the ones that `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: `pointer` came from `System` with this layout, because `alloc` hands on to it.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as for `dealloc`; `size` is the caller's promise.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Tests of this binary measure the whole process: one at a time.
static ALONE: Mutex<()> = Mutex::new(());

/// Takes every chunk and keeps none.
struct Sponge(u64);

impl ChunkSink for Sponge {
    fn chunk(&mut self, header: &ChunkHeader, payload: &[u8]) -> bool {
        self.0 += u64::from(header.packets) + u64::from(payload[0] == 0);
        true
    }
}

#[test]
fn a_hundred_thousand_rough_packets_allocate_nothing() {
    let _alone = ALONE.lock().unwrap();
    let mut track = new_track(&TrackConfig { complexity: 0, ..TrackConfig::default() });
    let slots: Vec<_> = (0..6).map(|ssrc| open(&mut track, ssrc)).collect();
    let speech = warble(8000 * 5);
    let templates: Vec<Vec<u8>> = packets_of(&speech, 160, 0, 0).iter().map(Rtp::bytes).collect();
    let mut random = Random(42);
    let mut sink = Sponge(0);
    let mut packet = Vec::with_capacity(4096);
    let mut sequences = [0u16; 6];
    let mut before = 0;
    let mut measured_packets = 0u64;
    for i in 0..110_000u64 {
        if i == 10_000 {
            before = ALLOCATIONS.load(Ordering::Relaxed);
        }
        let fate = random.next_u64() % 1000;
        // Mostly one stream, sometimes others, so that buffers change hands.
        let which = if fate < 20 { 1 + (fate % 5) as usize } else { 0 };
        let mut sequence = sequences[which].wrapping_add(1);
        match fate {
            900..950 => sequence = sequence.wrapping_add((fate % 7) as u16),
            950..960 => sequence = random.next_u64() as u16,
            960..990 => sequence = sequence.wrapping_sub(3),
            _ => {}
        }
        let mut timestamp = u32::from(sequence).wrapping_mul(160).wrapping_add((i / 20_000) as u32 * 99_999_999);
        if fate == 999 {
            timestamp = random.next_u64() as u32;
        }
        packet.clear();
        packet.extend_from_slice(&templates[i as usize % templates.len()]);
        packet[1] = if (800..810).contains(&fate) { 101 } else { 8 };
        packet[2..4].copy_from_slice(&sequence.to_be_bytes());
        packet[4..8].copy_from_slice(&timestamp.to_be_bytes());
        if !(950..990).contains(&fate) {
            sequences[which] = sequence;
        }
        let now = CaptureTime(EPOCH_NS + i * 20_000_000 + random.next_u64() % 30_000_000);
        track.on_packet(slots[which], now, &packet, &mut sink);
        if i % 5 == 0 {
            track.on_tick(now, &mut sink);
        }
        measured_packets += u64::from(i >= 10_000);
    }
    let allocations = ALLOCATIONS.load(Ordering::Relaxed) - before;
    let accounting = track.accounting();
    println!("{measured_packets} packets after warm-up: {allocations} allocations; {accounting:?}");
    assert_eq!(allocations, 0);
    assert!(accounting.is_balanced() && sink.0 > 50_000);
    for (what, count) in [
        ("duplicates", accounting.duplicates),
        ("late", accounting.late),
        ("strays", accounting.strays),
        ("no audio", accounting.no_audio),
        ("overlapped", accounting.overlapped),
    ] {
        assert!(count > 0, "the traffic was meant to exercise: {what}");
    }
}

/// Resident bytes of this process, by Linux's account.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|l| l.starts_with("VmRSS:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib * 1024)
}

#[test]
fn a_call_fits_into_its_memory() {
    const CALLS: usize = 200;
    let _alone = ALONE.lock().unwrap();
    let Some(before) = resident_bytes() else {
        println!("SKIPPED: no /proc/self/status here, memory is not measured");
        return;
    };
    let packets: Vec<Vec<u8>> = packets_of(&warble(8000 * 2), 160, 0, 0).iter().map(Rtp::bytes).collect();
    let mut sink = Sponge(0);
    let tracks: Vec<_> = (0..2 * CALLS)
        .map(|_| {
            let mut track = new_track(&TrackConfig::default());
            let slot = open(&mut track, 1);
            for (i, packet) in packets.iter().enumerate() {
                track.on_packet(slot, CaptureTime(EPOCH_NS + i as u64 * 20_000_000), packet, &mut sink);
            }
            track
        })
        .collect();
    let per_call = (resident_bytes().unwrap() - before) / CALLS as u64;
    println!("{per_call} bytes of resident memory per call (two tracks, a stream each)");
    assert!(per_call < 130_000, "{per_call}");
    black_box(&tracks);
}

#[test]
fn what_a_frame_costs() {
    let _alone = ALONE.lock().unwrap();
    let packets: Vec<Vec<u8>> = packets_of(&warble(8000 * 20), 160, 0, 0).iter().map(Rtp::bytes).collect();
    let mut sink = Sponge(0);
    let mut track = new_track(&TrackConfig::default());
    let slot = open(&mut track, 1);
    let started = Instant::now();
    for (i, packet) in packets.iter().enumerate() {
        track.on_packet(slot, CaptureTime(EPOCH_NS + i as u64 * 20_000_000), packet, &mut sink);
    }
    track.finish(CaptureTime(EPOCH_NS + 20_000_000_000), &mut sink);
    let with_opus = started.elapsed().as_nanos() as f64 / packets.len() as f64;

    // The same without Opus: only as many packets as come before the first batch is due.
    let rounds = 2000;
    let mut spent = Duration::ZERO;
    let mut frames = 0u32;
    let long = Duration::from_millis(300);
    let patient = TrackConfig { reorder_window: long, jitter_allowance: long, ..TrackConfig::default() };
    for _ in 0..rounds {
        let mut track = new_track(&patient);
        let slot = open(&mut track, 1);
        // The first 16 anchor the stream and are not measured.
        for (i, packet) in packets.iter().take(16).enumerate() {
            track.on_packet(slot, CaptureTime(EPOCH_NS + i as u64 * 20_000_000), packet, &mut sink);
        }
        let started = Instant::now();
        for (i, packet) in packets.iter().enumerate().take(31).skip(16) {
            track.on_packet(slot, CaptureTime(EPOCH_NS + i as u64 * 20_000_000), packet, &mut sink);
        }
        spent += started.elapsed();
        frames += 15;
        assert_eq!(track.accounting().ticks_encoded, 0);
    }
    let without_opus = spent.as_nanos() as f64 / f64::from(frames);
    println!("per 20 ms frame of G.711: {with_opus:.0} ns, {without_opus:.0} ns of it apart from Opus");
    // Generous: a debug build on a busy machine passes; a quadratic mistake does not.
    assert!(without_opus < 20_000.0);
}
