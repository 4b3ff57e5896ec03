//! How long audio stays in a track: from the arrival of its packet until the chunk that holds it is sealed, by the clock of the
//! capture. What remains of the flush interval is the disk's (`LatencyBudget`).
#![forbid(unsafe_code)]

mod support;

use sidetone_log::ChunkHeader;
use sidetone_media::{ChunkSink, LatencyBudget, Track, TrackConfig};
use sidetone_model::{CaptureTime, NANOS_PER_TICK};
use std::collections::BTreeMap;
use std::time::Duration;
use support::*;

/// The threads look at the time so often, in ms.
const STEP_MS: u64 = 5;
/// An encoder visits its tracks so often, besides at cuts.
const ROUND_MS: u64 = 100;

/// What a sender and a network do.
#[derive(Clone, Copy, Debug)]
struct Path {
    frame_ms: u64,
    jitter_ms: f64,
    /// Losses begin with one packet in so many, and last for up to so many packets.
    loss: Option<(u64, u64)>,
    /// Sends in spurts, with pauses of up to so many packets.
    pauses: Option<u64>,
}

/// A packet to be: when it is sent and when it arrives, in ns after `EPOCH_NS`.
struct Sent {
    at: u64,
    arrived: u64,
    packet: Rtp,
}

fn sent(path: &Path, seconds: u64, random: &mut Random) -> Vec<Sent> {
    let samples = path.frame_ms as usize * 8;
    let speech = warble(samples * 50);
    let frames = packets_of(&speech, samples, 0, 0);
    let begin = random.next_u64() % 1_000_000_000;
    let (mut sequence, mut lost, mut spurt) = (random.next_u64() as u16, 0, 20);
    let mut arrivals = Vec::new();
    for i in 0..seconds * 1000 / path.frame_ms {
        if let Some(longest) = path.pauses {
            spurt -= 1;
            match spurt {
                ..=0 if spurt <= -(longest as i64) => spurt = 5 + (random.next_u64() % 60) as i64,
                ..=0 => continue,
                _ => {}
            }
            if spurt == 1 {
                spurt = -((random.next_u64() % longest) as i64);
            }
        }
        sequence = sequence.wrapping_add(1);
        if let Some((one_in, longest)) = path.loss {
            if lost == 0 && random.next_u64().is_multiple_of(one_in) {
                lost = 1 + random.next_u64() % longest;
            }
            if lost > 0 {
                lost -= 1;
                continue;
            }
        }
        let at = begin + i * path.frame_ms * 1_000_000;
        let delay = if i < 5 { 0.0 } else { random.unit().powi(3) * path.jitter_ms * 1e6 };
        let packet = Rtp { sequence, timestamp: (i * samples as u64) as u32, ..frames[i as usize % 50].clone() };
        arrivals.push(Sent { at, arrived: at + delay as u64, packet });
    }
    arrivals.sort_by_key(|sent| sent.arrived);
    arrivals
}

/// When each grid step was sealed.
struct Sealed<'a> {
    config: &'a TrackConfig,
    now: u64,
    ticks: BTreeMap<u64, u64>,
}

impl ChunkSink for Sealed<'_> {
    fn chunk(&mut self, header: &ChunkHeader, _payload: &[u8]) -> bool {
        let first = header.first_tick.0;
        let end = first + u64::from(header.ticks);
        for tick in first..end {
            self.ticks.insert(tick, self.now);
        }
        let cut = self.config.cut_at(CaptureTime(EPOCH_NS + self.now)).0;
        // One that begins with what came late for the chunk before may be full early.
        assert!(end <= cut || first < cut, "{first} to {end} was sealed when the last cut was {cut}");
        true
    }
}

/// What a run showed.
#[derive(Clone, Copy, Default, Debug)]
struct Measured {
    /// From the arrival of a packet to the sealing of its last sample, at most, in ms.
    since_arrival_ms: f64,
    /// The same from when that sample was heard, if it was later.
    since_heard_ms: f64,
    late: u64,
}

impl Measured {
    fn max(self, other: Self) -> Self {
        Self {
            since_arrival_ms: self.since_arrival_ms.max(other.since_arrival_ms),
            since_heard_ms: self.since_heard_ms.max(other.since_heard_ms),
            late: self.late + other.late,
        }
    }
}

fn run(config: &TrackConfig, path: &Path, seed: u64) -> Measured {
    let mut random = Random(seed);
    let arrivals = sent(path, 20, &mut random);
    let mut track = new_track(config);
    let slot = open(&mut track, 1);
    let mut sealed = Sealed { config, now: 0, ticks: BTreeMap::new() };
    let (mut next, mut last_round, mut last_cut) = (0, 0, Default::default());
    // The call goes on in silence for longer than the last chunk may take.
    for ms in (0..25_000).step_by(STEP_MS as usize) {
        let step = ms * 1_000_000;
        while let Some(sent) = arrivals.get(next).filter(|sent| sent.arrived <= step) {
            sealed.now = sent.arrived;
            delivery(&mut track, slot, CaptureTime(EPOCH_NS + sent.arrived), &sent.packet, &mut sealed);
            next += 1;
        }
        let now = CaptureTime(EPOCH_NS + step);
        if ms - last_round >= ROUND_MS || config.cut_at(now) != last_cut {
            (last_round, last_cut) = (ms, config.cut_at(now));
            sealed.now = step;
            track.on_tick(now, &mut sealed);
        }
    }
    let accounting = track.accounting();
    assert!(accounting.is_balanced() && accounting.pending == 0, "{path:?} {seed}: {accounting:?}");
    assert_eq!(accounting.placed + accounting.late, arrivals.len() as u64);
    let mut measured = Measured { late: accounting.late, ..Measured::default() };
    let mut found = 0;
    for sent in &arrivals {
        // A millisecond before its end: where it lies is known to within the clock's dead band. After a pause it lies later, by
        // what the quickest packet of the spurt was held up.
        let end = sent.at + (path.frame_ms - 1) * 1_000_000;
        let tick = (EPOCH_NS + end) / NANOS_PER_TICK;
        let later = path.jitter_ms as u64 / 20 + 1;
        let Some((_, sealed_at)) = sealed.ticks.range(tick..=tick + later).next() else { continue };
        let since = |begin: u64| sealed_at.saturating_sub(begin) as f64 / 1e6;
        let times =
            Measured { since_arrival_ms: since(sent.arrived), since_heard_ms: since(sent.arrived.max(end)), late: 0 };
        measured = measured.max(times);
        found += 1;
    }
    assert!(found >= accounting.encoded, "{path:?} {seed}: every packet that was encoded is in a chunk");
    measured
}

/// Ways of sending and delivering.
fn paths() -> [Path; 10] {
    let plain = Path { frame_ms: 20, jitter_ms: 0.0, loss: None, pauses: None };
    let rough = Path { jitter_ms: 60.0, loss: Some((20, 4)), ..plain };
    [
        plain,
        Path { frame_ms: 10, ..plain },
        Path { frame_ms: 60, ..plain },
        Path { jitter_ms: 60.0, ..plain },
        Path { jitter_ms: 150.0, ..plain },
        Path { loss: Some((10, 1)), ..plain },
        Path { loss: Some((50, 12)), ..plain },
        Path { pauses: Some(60), ..plain },
        Path { pauses: Some(300), ..rough },
        rough,
    ]
}

#[test]
fn all_audio_is_sealed_in_time_for_its_flush() {
    let runs = std::env::var("SIDETONE_LATENCY_RUNS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(10);
    for interval_ms in [250, 500, 1000, 2000] {
        let budget = LatencyBudget::of(Duration::from_millis(interval_ms));
        let config = TrackConfig { complexity: 0, ..TrackConfig::default() }.with_budget(&budget);
        let left_ms = interval_ms as f64 - budget.flush.as_secs_f64() * 1e3;
        let chunk_ms = f64::from(budget.chunk_ticks) * 20.0;
        for path in paths() {
            let seeds = (1..=runs).map(|seed: u64| seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            let worst = seeds.map(|seed| run(&config, &path, seed)).fold(Measured::default(), Measured::max);
            println!(
                "{interval_ms} ms, {path:?}: sealed at most {:.1} ms after its packet came, {:.1} ms after it was heard; {} late",
                worst.since_arrival_ms, worst.since_heard_ms, worst.late
            );
            assert!(worst.since_heard_ms <= left_ms, "{path:?}: {worst:?} of {left_ms} ms");
            assert!(worst.since_heard_ms > chunk_ms, "{path:?}: the worst case is among those measured");
        }
    }
}

/// Streams of four tracks that begin at different times: their chunks end at the same steps.
#[test]
fn all_tracks_are_cut_at_the_same_steps() {
    let config = TrackConfig { complexity: 0, ..TrackConfig::default() };
    let said = warble(8000 * 10);
    let ends = |start_ms: f64| -> Vec<u64> {
        let (mut track, mut writer): (Track, _) = (new_track(&config), Writer::default());
        let slot = open(&mut track, 1);
        for (i, packet) in packets_of(&said, 160, 0, 0).iter().enumerate() {
            delivery(&mut track, slot, at_ms(start_ms + i as f64 * 20.0), packet, &mut writer);
        }
        track.finish(at_ms(start_ms + 10_000.0), &mut writer);
        let ends: Vec<u64> = writer.chunks.iter().map(|(h, _)| h.first_tick.0 + u64::from(h.ticks)).collect();
        assert_eq!(writer.chunks.iter().map(|(h, _)| u64::from(h.ticks)).sum::<u64>(), writer.ticks().len() as u64);
        // The last one ends with the call.
        ends[..ends.len() - 1].to_vec()
    };
    let all: Vec<Vec<u64>> = [0.0, 7.7, 333.3, 650.1].into_iter().map(ends).collect();
    for ends in &all {
        assert!(ends.iter().all(|end| end % u64::from(config.chunk_ticks) == 0), "{ends:?}");
        assert!(ends.len() >= 13);
        assert!(ends.iter().filter(|end| all[0].contains(end)).count() >= 13, "{ends:?} and {:?}", all[0]);
    }
}
