//! Playback: how long until the first byte when nothing is in the page cache, and what hundreds of players do to recording.

mod first_byte;
mod http;
mod players;

use crate::calls::{CALL_LENGTH, CUT, CUT_TICKS, Calls, Payloads, finished};
use crate::lockstep::Lockstep;
use crate::measure::load_average;
use crate::metered::Metered;
use crate::recorder::{cut_before, now, store_options};
use anyhow::{Context, Result};
use serde::Serialize;
use sidetone_callgen::{Options as Traffic, Side};
use sidetone_log::Fact;
use sidetone_media::TrackConfig;
use sidetone_model::{CaptureTime, RecordingId, RecordingState, Tick};
use std::path::{Path, PathBuf};
use std::sync::Arc;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Print one JSON document instead of text.
    #[arg(long)]
    json: bool,
    /// Recordings of three minutes in the store.
    #[arg(long, default_value_t = 400)]
    recordings: usize,
    /// Recordings without audio between them, so that the catalog is larger than what one read brings along.
    #[arg(long, default_value_t = 30_000)]
    others: u64,
    /// Rounds of first bytes.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// First bytes of each kind and round.
    #[arg(long, default_value_t = 60)]
    samples: usize,
    /// Players that play at the same time, each at its own pace.
    #[arg(long, default_value_t = 490)]
    players: usize,
    /// Further ones that take a file after the other as fast as they can.
    #[arg(long, default_value_t = 10)]
    downloads: usize,
    /// Calls that are recorded meanwhile.
    #[arg(long, default_value_t = 200)]
    calls: usize,
    /// How long they are, in seconds, and as long before without players.
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// Where the store is made, on the device to be measured; it is removed again.
    #[arg(long)]
    directory: Option<PathBuf>,
}

#[derive(Serialize)]
struct Outcome {
    /// Of the machine, before: what else it had to do.
    load_average: f64,
    recordings: usize,
    store_mib: f64,
    first_byte: first_byte::Outcome,
    players: players::Outcome,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    anyhow::ensure!(options.rounds > 0 && options.samples > 0 && options.seconds > 0, "at least one of each");
    let place = options.directory.clone().unwrap_or_else(std::env::temp_dir);
    let directory = tempfile::tempdir_in(&place).with_context(|| format!("no directory in {}", place.display()))?;
    let path = directory.path().join("store");
    let load_average = load_average()?;
    let (recordings, bytes) = make(options, &path)?;
    let outcome = Outcome {
        load_average,
        recordings: recordings.len(),
        store_mib: bytes as f64 / f64::from(1 << 20),
        first_byte: first_byte::measure(options, &path, &recordings)?,
        players: players::measure(options, &path, &recordings)?,
    };
    if options.json {
        println!("{}", serde_json::to_string_pretty(&outcome)?);
        return Ok(());
    }
    println!(
        "load average {:.1} before; {} recordings of {} s, {:.0} MiB of segments",
        outcome.load_average,
        outcome.recordings,
        CALL_LENGTH.as_secs(),
        outcome.store_mib
    );
    outcome.first_byte.print();
    outcome.players.print();
    Ok(())
}

/// A store with finished recordings, sealed, and others between them. Gives those with audio, and the bytes of segments.
fn make(options: &Options, directory: &Path) -> Result<(Vec<RecordingId>, u64)> {
    /// At a time: their audio is sealed as that of many calls is, a recording here and one there.
    const PLACES: usize = 50;
    let packets = speech_packets()?;
    let payloads = Payloads::of_packets(&packets);
    let rounds = options.recordings.div_ceil(PLACES) as u64;
    let cuts = rounds * (CALL_LENGTH.as_nanos() / CUT.as_nanos()) as u64;
    // The last are over when today's calls begin.
    let first = cut_before(CaptureTime(now().0 - 86_400_000_000_000));
    let io = Arc::new(Metered::new(first.start()));
    let mut store = Lockstep::open(&io, directory, &store_options())?;
    let mut calls = Calls::under_way(PLACES, CALL_LENGTH, first, &payloads);
    let mut whole = Vec::new();
    for step in 1..=cuts {
        let cut = Tick(first.0 + step * CUT_TICKS);
        let mut facts = calls.facts(0..PLACES, cut);
        whole.extend(facts.iter().filter_map(over));
        let others = options.others * (step - 1) / cuts..options.others * step / cuts;
        facts.extend(others.map(|number| finished(1_000_000 + number, cut)));
        store.step(cut.start(), calls.chunks(0..PLACES, cut), facts)?;
    }
    let end = Tick(first.0 + (cuts + 1) * CUT_TICKS);
    store.step(end.start(), std::iter::empty(), calls.end_all(Tick(end.0 - CUT_TICKS)))?;
    store.close()?;
    let mut store = Lockstep::open(&io, directory, &store_options())?;
    store.drain(end.start())?;
    let bytes = store.reader().statistics()?.volumes.iter().map(|volume| volume.segment_bytes).sum();
    store.close()?;
    // Those that were under way at the beginning are short.
    let whole: Vec<RecordingId> = whole.into_iter().skip(PLACES).collect();
    anyhow::ensure!(whole.len() >= PLACES, "at least {} recordings are needed", 2 * PLACES);
    Ok((whole, bytes))
}

fn over(fact: &Fact) -> Option<RecordingId> {
    match fact {
        Fact::Recording { recording, .. } if recording.state != RecordingState::Active => Some(recording.id),
        _ => None,
    }
}

/// Half a minute of speech as the recorder encodes it.
fn speech_packets() -> Result<Vec<Vec<u8>>> {
    const FRAME: usize = 160;
    let track = TrackConfig::default();
    let traffic = Traffic { calls: 1, talk: std::time::Duration::from_secs(30), ..Traffic::default() };
    let speech: Vec<i16> = sidetone_callgen::Traffic::reference(&traffic, 0, Side::Caller);
    let mut encoder = opus::Encoder::new(8000, opus::Channels::Mono, opus::Application::Voip)?;
    encoder.set_bitrate(opus::Bitrate::Bits(i32::try_from(track.bitrate_bits_per_second)?))?;
    encoder.set_complexity(i32::from(track.complexity))?;
    encoder.set_vbr(true)?;
    let mut packet = [0u8; 1275];
    let mut encode = |frame: &[i16]| -> Result<Vec<u8>> {
        let length = encoder.encode(frame, &mut packet)?;
        Ok(packet[..length].to_vec())
    };
    speech.chunks_exact(FRAME).map(&mut encode).collect()
}
