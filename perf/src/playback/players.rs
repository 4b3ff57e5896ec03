//! Hundreds of players while calls are recorded into the same store: no append may be refused, and flushes should take as long as
//! without them.

use super::Options;
use super::first_byte::PIECE_BYTES;
use crate::calls::{CALL_LENGTH, CUT, Calls, PAYLOAD_BYTES, Payloads, Random};
use crate::measure::{CpuTimes, TimeSummary, Times, forget_cached};
use crate::recorder::{Running, fill_begin, store_options};
use anyhow::{Context, Result, anyhow};
use serde::Serialize;
use sidetone_model::RecordingId;
use sidetone_playback::{Channels, Format, Rendition};
use sidetone_store::{Store, StoreReader};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What players read each second: one side at its lowest, both sides, somebody who listens faster.
const PACES_BYTES: [u64; 5] = [1024, 2048, 4096, 8192, 16_384];
const PACE: Duration = Duration::from_secs(1);

#[derive(Serialize)]
pub(super) struct Outcome {
    calls: usize,
    players: usize,
    downloads: usize,
    refused: u64,
    /// Chunks that were appended and are not durable in the end.
    lost: u64,
    without: Part,
    with: Part,
    /// Of players: how long reading a second's bytes took, and what came more than a second late.
    reads: TimeSummary,
    reads_late: u64,
    played_mib: f64,
    downloaded_mib_per_second: f64,
}

#[derive(Serialize)]
struct Part {
    flush: TimeSummary,
    /// The longest that the appends of one cut took.
    append_max_ms: f64,
    /// CPU of everything, in cores.
    cores: f64,
}

pub(super) fn measure(options: &Options, directory: &Path, recordings: &[RecordingId]) -> Result<Outcome> {
    let mut store = Running::start(Store::open(directory, &store_options())?)?;
    let payloads = Payloads::random(PAYLOAD_BYTES);
    let mut calls = Calls::beginning(options.calls, CALL_LENGTH, fill_begin(), &payloads);
    let mut cut = store.fill(&mut calls)?;
    let filled = store.recorder.take_tally();
    let cuts = (Duration::from_secs(options.seconds).as_nanos() / CUT.as_nanos()) as u32;
    let mut refused = filled.refused;
    let (mut appended, mut durable) = (filled.chunks, filled.durable_chunks);
    let mut record = |store: &mut Running| -> Result<Part> {
        let before = CpuTimes::now()?;
        let began = Instant::now();
        (cut, _) = store.record(&mut calls, cut, cuts)?;
        let elapsed = began.elapsed().as_secs_f64();
        store.recorder.settle(Duration::from_millis(1))?;
        let tally = store.recorder.take_tally();
        refused += tally.refused;
        appended += tally.chunks;
        durable += tally.durable_chunks;
        Ok(Part {
            flush: tally.flushes.summary(),
            append_max_ms: tally.append_max.as_secs_f64() * 1e3,
            cores: (&CpuTimes::now()? - &before).process / elapsed,
        })
    };
    let without = record(&mut store)?;
    forget_cached(directory)?;
    let players = Players::start(options, &store.reader, recordings)?;
    let with = record(&mut store)?;
    let heard = players.stop()?;
    store.close()?;
    Ok(Outcome {
        calls: options.calls,
        players: options.players,
        downloads: options.downloads,
        refused,
        lost: appended - durable,
        without,
        with,
        reads: heard.reads.summary(),
        reads_late: heard.late,
        played_mib: heard.played_bytes as f64 / f64::from(1 << 20),
        downloaded_mib_per_second: heard.downloaded_bytes as f64 / f64::from(1 << 20) / (CUT * cuts).as_secs_f64(),
    })
}

/// Each in a thread of its own; more at a time than the API would let read.
struct Players {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Result<Heard>>>,
}

#[derive(Default)]
struct Heard {
    reads: Times,
    late: u64,
    played_bytes: u64,
    downloaded_bytes: u64,
}

impl Players {
    fn start(options: &Options, reader: &Arc<StoreReader>, recordings: &[RecordingId]) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut players = Self { stop: Arc::clone(&stop), threads: Vec::new() };
        let mut random = Random(2);
        for number in 0..options.players + options.downloads {
            let (reader, stop) = (Arc::clone(reader), Arc::clone(&stop));
            let recording = recordings[random.next() as usize % recordings.len()];
            // They did not all press the button at once.
            let first = Instant::now() + Duration::from_millis(random.next() % 2000);
            let following: Vec<RecordingId> = recordings.iter().skip(number % recordings.len()).copied().collect();
            let is_player = number < options.players;
            let work = move || match is_player {
                true => play(&reader, recording, number, first, &stop),
                false => download(&reader, &following, &stop),
            };
            let thread = std::thread::Builder::new().name("player".into()).stack_size(512 << 10).spawn(work);
            players.threads.push(thread.context("cannot start a player's thread")?);
        }
        Ok(players)
    }

    fn stop(self) -> Result<Heard> {
        self.stop.store(true, Ordering::Release);
        let mut all = Heard::default();
        for thread in self.threads {
            let heard = thread.join().map_err(|_panic| anyhow!("a player panicked"))??;
            all.reads.extend(&heard.reads);
            all.late += heard.late;
            all.played_bytes += heard.played_bytes;
            all.downloaded_bytes += heard.downloaded_bytes;
        }
        Ok(all)
    }
}

/// Reads a second's bytes every second, from somewhere in the file on, and from the beginning when it ends.
fn play(
    reader: &Arc<StoreReader>,
    recording: RecordingId,
    number: usize,
    first: Instant,
    stop: &AtomicBool,
) -> Result<Heard> {
    let mut heard = Heard::default();
    let mut rendition: Option<Rendition> = None;
    let (pace, mut at) = (PACES_BYTES[number % PACES_BYTES.len()], 0);
    let mut due = first;
    let mut bytes = Vec::new();
    loop {
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        if stop.load(Ordering::Acquire) {
            return Ok(heard);
        }
        let rendition = match &mut rendition {
            Some(rendition) => rendition,
            // One in eight has a player that wants samples.
            None => {
                let format = if number % 8 == 7 { Format::Wav } else { Format::Opus };
                let opened = Rendition::open(Arc::clone(reader), recording, format, Channels::Dual)?;
                at = opened.len() / 8 * (number as u64 % 8);
                rendition.insert(opened)
            }
        };
        let end = rendition.len().min(at + pace);
        bytes.clear();
        rendition.read(at..end, &mut bytes)?;
        heard.played_bytes += end - at;
        at = if end == rendition.len() { 0 } else { end };
        let took = due.elapsed();
        heard.reads.push(took);
        heard.late += u64::from(took > PACE);
        due += PACE;
    }
}

fn download(reader: &Arc<StoreReader>, recordings: &[RecordingId], stop: &AtomicBool) -> Result<Heard> {
    let mut heard = Heard::default();
    let mut bytes = Vec::new();
    for &recording in recordings.iter().cycle() {
        let mut rendition = Rendition::open(Arc::clone(reader), recording, Format::Opus, Channels::Dual)?;
        let mut at = 0;
        while at < rendition.len() {
            if stop.load(Ordering::Acquire) {
                return Ok(heard);
            }
            let end = rendition.len().min(at + PIECE_BYTES);
            bytes.clear();
            rendition.read(at..end, &mut bytes)?;
            heard.downloaded_bytes += end - at;
            at = end;
        }
    }
    Ok(heard)
}

impl Outcome {
    pub(super) fn print(&self) {
        println!("{} calls recorded, beside {} players and {} downloads", self.calls, self.players, self.downloads);
        println!("  refused      {:9}, lost {}", self.refused, self.lost);
        for (name, part) in [("without", &self.without), ("with", &self.with)] {
            println!(
                "  {name:<12} {:9.1} ms p50 of {} flushes, {:.1} ms p99, appends {:.1} ms at most; {:.2} cores",
                part.flush.p50_ms, part.flush.count, part.flush.p99_ms, part.append_max_ms, part.cores
            );
        }
        println!(
            "  players      {:9.1} ms p50 of {} reads, {:.1} ms p99, {} came late; {:.1} MiB",
            self.reads.p50_ms, self.reads.count, self.reads.p99_ms, self.reads_late, self.played_mib
        );
        println!("  downloads    {:9.1} MiB/s together", self.downloaded_mib_per_second);
    }
}
