//! The time from asking for a recording to the first piece of its file, with nothing of it in the page cache.

use super::{Options, http};
use crate::calls::Random;
use crate::measure::{Spread, TimeSummary, Times, forget_cached};
use crate::recorder::{Running, store_options};
use anyhow::Result;
use serde::Serialize;
use sidetone_model::RecordingId;
use sidetone_playback::{Channels, Format, Rendition};
use sidetone_store::{Store, StoreReader};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What the API makes before it sends the first byte.
pub(super) const PIECE_BYTES: u64 = 128 * 1024;

#[derive(Serialize)]
pub(super) struct Outcome {
    ways: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    way: &'static str,
    /// Of the rounds.
    p50_ms: Spread,
    p99_ms: Spread,
    /// Of all samples.
    all: TimeSummary,
}

const WAYS: [(&str, Way); 6] = [
    ("opus, opened only", Way { part: Part::Head, ..COLD_OPUS }),
    ("opus, first 128 KiB", COLD_OPUS),
    ("opus, 128 KiB from the middle", Way { part: Part::Middle, ..COLD_OPUS }),
    ("wav, first 128 KiB", Way { format: Format::Wav, ..COLD_OPUS }),
    ("opus, first byte over HTTP", Way { over_http: true, ..COLD_OPUS }),
    ("opus, first 128 KiB, cached", Way { is_cold: false, ..COLD_OPUS }),
];

const COLD_OPUS: Way = Way { format: Format::Opus, part: Part::Begin, over_http: false, is_cold: true };

#[derive(Clone, Copy)]
struct Way {
    format: Format,
    part: Part,
    over_http: bool,
    is_cold: bool,
}

#[derive(Clone, Copy)]
enum Part {
    Head,
    Begin,
    Middle,
}

pub(super) fn measure(options: &Options, directory: &Path, recordings: &[RecordingId]) -> Result<Outcome> {
    let mut random = Random(1);
    let mut times: Vec<Vec<Times>> = WAYS.iter().map(|_| Vec::new()).collect();
    for _ in 0..options.rounds {
        // RocksDB's own cache begins empty too.
        let store = Running::start(Store::open(directory, &store_options())?)?;
        let server = http::Server::start(store.handle.clone())?;
        for ((_, way), times) in WAYS.iter().zip(&mut times) {
            let mut of_round = Times::default();
            for _ in 0..options.samples {
                let recording = recordings[random.next() as usize % recordings.len()];
                if way.is_cold {
                    forget_cached(directory)?;
                } else {
                    way.take(&store.reader, &server, recording)?;
                }
                of_round.push(way.take(&store.reader, &server, recording)?);
            }
            times.push(of_round);
        }
        server.stop()?;
        store.close()?;
    }
    let row = |((way, _), times): (&(&'static str, Way), &Vec<Times>)| {
        let mut all = Times::default();
        times.iter().for_each(|times| all.extend(times));
        let spread = |of: fn(TimeSummary) -> f64| Spread::of(times.iter().map(|times| of(times.summary())));
        Row { way, p50_ms: spread(|of| of.p50_ms), p99_ms: spread(|of| of.p99_ms), all: all.summary() }
    };
    Ok(Outcome { ways: WAYS.iter().zip(&times).map(row).collect() })
}

impl Way {
    fn take(self, reader: &Arc<StoreReader>, server: &http::Server, recording: RecordingId) -> Result<Duration> {
        if self.over_http {
            return server.first_byte(recording);
        }
        let began = Instant::now();
        let mut rendition = Rendition::open(Arc::clone(reader), recording, self.format, Channels::Dual)?;
        let begin = match self.part {
            Part::Head => return Ok(began.elapsed()),
            Part::Begin => 0,
            Part::Middle => rendition.len() / 2,
        };
        let mut bytes = Vec::new();
        rendition.read(begin..rendition.len().min(begin + PIECE_BYTES), &mut bytes)?;
        Ok(began.elapsed())
    }
}

impl Outcome {
    pub(super) fn print(&self) {
        println!("first byte, two channels, nothing in the page cache          p50      p99    worst   (ms)");
        for Row { way, p50_ms, p99_ms, all } in &self.ways {
            println!("  {way:<54} {:8.2} {:8.2} {:8.2}", p50_ms.median, p99_ms.median, all.max_ms);
        }
    }
}
