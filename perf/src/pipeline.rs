//! CPU time of the whole data plane per call-second, and how much of it is Opus.
//!
//! A capture of generated calls is replayed into a store in a temporary directory. Beside it, in the same run and in turn, the
//! same number of 20 ms frames of the same speech is encoded by Opus alone, at the same setting and in the same batches. Both are measured in CPU
//! time of this thread and its helpers (`getrusage`), so that other work on the machine matters little; rounds take
//! turns, and the median counts. A call-second is one second of one two-way call.
//!
//! Memory is the difference between the peaks of two processes that replay the same number of calls of the same length, in
//! one all at the same time, in the other few at a time: rings, journal and catalog are filled alike.

use anyhow::{Context, Result};
use rustix::process::Pid;
use serde::Serialize;
use sidetone_callgen::{Options as Traffic, Side, write_pcap};
use sidetone_calls::TrackerConfig;
use sidetone_capture::CaptureFile;
use sidetone_engine::{EngineConfig, Setup, replay};
use sidetone_media::TrackConfig;
use sidetone_model::{NodeName, Seed};
use sidetone_signalling::SipConfig;
use sidetone_store::{Store, StoreOptions};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Print one JSON document instead of text.
    #[arg(long)]
    json: bool,
    /// Concurrent calls.
    #[arg(long, default_value_t = 100)]
    calls: usize,
    /// Length of each call in seconds.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Rounds; the median counts.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Replay this capture, print the peak of resident memory in KiB, and nothing else.
    #[arg(long, hide = true)]
    peak_of: Option<PathBuf>,
}

/// Simultaneous calls, on average, in the capture that shows what memory does not depend on their number.
const FEW_CALLS: usize = 10;

#[derive(Serialize)]
struct Outcome {
    calls: usize,
    call_seconds: f64,
    /// CPU milliseconds of replay per call-second: reading, parsing, tracking, decoding, encoding, journal, catalog.
    replay_ms_per_call_second: f64,
    /// Of which Opus alone, for the same frames at the same setting.
    opus_ms_per_call_second: f64,
    opus_share: f64,
    /// Resident memory that each concurrent call adds, in KiB: tracks, dialog, flows, document.
    memory_kib_per_call: f64,
    bitrate_bits_per_second: u32,
    complexity: u8,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let directory = tempfile::tempdir().context("no temporary directory")?;
    if let Some(capture) = &options.peak_of {
        replay_once(capture, &directory.path().join("store"), &TrackConfig::default())?;
        println!("{}", peak_resident_kib()?);
        return Ok(());
    }
    let capture = directory.path().join("calls.pcap");
    let traffic = Traffic {
        calls: options.calls,
        ramp: Duration::from_secs(2),
        talk: Duration::from_secs(options.seconds),
        ..Traffic::default()
    };
    let mut frames = sidetone_callgen::Traffic::new(&traffic)?;
    let file = std::io::BufWriter::with_capacity(1 << 20, std::fs::File::create(&capture)?);
    write_pcap(file, frames.by_ref()).context("cannot write the capture")?;
    let truth = frames.into_truth();
    let packets: u64 = truth.calls.iter().flat_map(|call| &call.streams).map(|stream| stream.packets).sum();
    let call_seconds = packets as f64 * 0.02 / 2.0;
    let speech: Vec<i16> = sidetone_callgen::Traffic::reference(&traffic, 0, Side::Caller);

    let track = TrackConfig::default();
    let memory = Memory::prepare(directory.path(), options)?;
    let (mut replays, mut encodings, mut memories) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..options.rounds {
        memories.push(memory.kib_per_call()?);
        let cpu = cpu_seconds();
        replay_once(&capture, &directory.path().join(format!("store-{round}")), &track)?;
        replays.push(cpu_seconds() - cpu);
        let cpu = cpu_seconds();
        encode_alone(&speech, packets, options.calls * 2, &track)?;
        encodings.push(cpu_seconds() - cpu);
    }
    let (replay_seconds, opus_seconds) = (median(&mut replays), median(&mut encodings));
    let result = Outcome {
        calls: options.calls,
        call_seconds,
        replay_ms_per_call_second: replay_seconds * 1000.0 / call_seconds,
        opus_ms_per_call_second: opus_seconds * 1000.0 / call_seconds,
        opus_share: opus_seconds / replay_seconds,
        memory_kib_per_call: median(&mut memories),
        bitrate_bits_per_second: track.bitrate_bits_per_second,
        complexity: track.complexity,
    };
    if options.json {
        println!("{}", serde_json::to_string_pretty(&result)?);
        return Ok(());
    }
    println!("{} concurrent calls, {:.0} call-seconds, {} rounds", result.calls, result.call_seconds, options.rounds);
    println!("replay        {:7.3} ms of CPU per call-second", result.replay_ms_per_call_second);
    println!(
        "  of it Opus  {:7.3} ms ({:.0} %), {} bit/s, complexity {}",
        result.opus_ms_per_call_second,
        result.opus_share * 100.0,
        result.bitrate_bits_per_second,
        result.complexity
    );
    println!("memory        {:7.1} KiB per concurrent call", result.memory_kib_per_call);
    Ok(())
}

fn replay_once(capture: &Path, store: &Path, track: &TrackConfig) -> Result<()> {
    let node = NodeName("perf".into());
    let store = Store::open(store, &StoreOptions::new(node.clone()))?;
    let setup = Setup {
        engine: EngineConfig::default(),
        sip: SipConfig::default(),
        signalling_ports: vec![5060],
        tracker: TrackerConfig::new(node, Seed([1; 16])),
        track: track.clone(),
        events: Arc::new(|_| {}),
    };
    let (summary, store) = replay(&setup, CaptureFile::open(capture)?, store, &mut |_| {})?;
    anyhow::ensure!(summary.calls_seen > 0, "the replay saw no call");
    Ok(store.keeper.close(store.writer)?)
}

/// As many frames through Opus as the replay encodes, by as many encoders, several frames of one at a go.
fn encode_alone(speech: &[i16], packets: u64, streams: usize, track: &TrackConfig) -> Result<()> {
    const FRAME: usize = 160;
    let mut encoders = Vec::new();
    for _ in 0..streams {
        let mut encoder = opus::Encoder::new(8000, opus::Channels::Mono, opus::Application::Voip)?;
        encoder.set_bitrate(opus::Bitrate::Bits(i32::try_from(track.bitrate_bits_per_second)?))?;
        encoder.set_complexity(i32::from(track.complexity))?;
        encoder.set_vbr(true)?;
        encoders.push(encoder);
    }
    let frames: Vec<&[i16]> = speech.chunks_exact(FRAME).collect();
    let mut packet = [0u8; 1275];
    let batch = usize::from(track.batch_ticks);
    let mut left = packets as usize;
    let mut at = 0;
    while left > 0 {
        for encoder in &mut encoders {
            for _ in 0..batch.min(left) {
                encoder.encode(frames[at % frames.len()], &mut packet)?;
                at += 1;
            }
            left -= batch.min(left);
        }
    }
    Ok(())
}

/// The same calls at the same time, and a few at a time: what the first takes more is what so many calls more take.
struct Memory {
    many: PathBuf,
    few: PathBuf,
    more_calls: f64,
}

impl Memory {
    fn prepare(directory: &Path, options: &Options) -> Result<Self> {
        // So many that what a process takes now and then more or less does not count.
        let calls = options.calls * 4;
        let seconds = (options.seconds / 3).max(1);
        let many =
            Traffic { calls, ramp: Duration::from_secs(2), talk: Duration::from_secs(seconds), ..Traffic::default() };
        let one_after_the_other = Duration::from_secs(seconds * calls as u64 / FEW_CALLS as u64);
        let few = Traffic { ramp: one_after_the_other, ..many.clone() };
        let write = |name: &str, traffic: &Traffic| -> Result<PathBuf> {
            let path = directory.join(name);
            let file = std::io::BufWriter::with_capacity(1 << 20, std::fs::File::create(&path)?);
            write_pcap(file, sidetone_callgen::Traffic::new(traffic)?)?;
            Ok(path)
        };
        let more_calls = calls.saturating_sub(FEW_CALLS).max(1) as f64;
        Ok(Self { many: write("many.pcap", &many)?, few: write("few.pcap", &few)?, more_calls })
    }

    fn kib_per_call(&self) -> Result<f64> {
        Ok((peak_of(&self.many)? - peak_of(&self.few)?) / self.more_calls)
    }
}

/// CPU time of this process with all its threads.
fn cpu_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Highest resident set of a process of its own that replays this capture, in KiB.
fn peak_of(capture: &Path) -> Result<f64> {
    let program = std::env::current_exe().context("this program's path is not known")?;
    let output = Command::new(program).args(["pipeline", "--peak-of"]).arg(capture).output()?;
    anyhow::ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().parse().context("no peak was printed")
}

/// Highest resident set so far.
pub(crate) fn peak_resident_kib() -> Result<f64> {
    let pid = Pid::as_raw(Some(rustix::process::getpid()));
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("the kernel tells no VmHWM")?;
    line.trim().trim_end_matches("kB").trim().parse().context("VmHWM is no number")
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
