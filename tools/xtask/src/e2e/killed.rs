//! The recorder is killed again and again under a hundred calls, at moments from a seed, and started again at once. What it had told
//! of is there afterwards; of each call no more is missing than one flush interval before a kill and the time until the next process
//! records; the recordings say where; and nothing in the store is damaged.

use super::coverage::{self, Heard, PACKET_NS};
use super::yardstick::{Speed, Yardstick};
use super::{Environment, store};
use crate::report::{self, Checks, Recording};
use anyhow::{Context, Result};
use serde_json::Value;
use sidetone_testkit::bed::Bed;
use sidetone_testkit::g711::Law;
use sidetone_testkit::interrupt;
use sidetone_testkit::random::Random;
use sidetone_testkit::recorder::Recorder;
use sidetone_testkit::reference::Reference;
use sidetone_testkit::sipp::{Calls, Plan, Ports};
use sidetone_testkit::speech::Conversation;
use sidetone_testkit::time::{nanos, now_ns};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

const PAIRS: u8 = 4;
const CALLS_PER_PAIR: u32 = 25;
const CALLS: usize = PAIRS as usize * CALLS_PER_PAIR as usize;
/// Calls that come and go meanwhile, one a second: they end between kills and over them.
const SHORT_SECONDS: u32 = 4;
/// From the start of the calls to the first kill: each has begun, and is known to be recorded.
const SETTLED: Duration = Duration::from_secs(12);
/// From one process's being ready to its end.
const LIFE_MS: std::ops::Range<u64> = 500..5500;
/// One process in so many is killed while it starts, within so many milliseconds.
const KILLED_EARLY: u64 = 5;
const EARLY_MS: u64 = 600;
/// Reckoned for a start, in seconds, when the length of the calls is chosen.
const START_SECONDS: u32 = 3;

/// The promise, as it is configured by default.
const FLUSH_INTERVAL_NS: u64 = 1_000_000_000;
/// A disk that takes longer is taken for one that does not answer.
const MACHINE_MS_MAX: f64 = 2000.0;
/// What is heard is known to within a packet at either end, and half a one of the phones' wandering.
const TOLERANCE_NS: u64 = 3 * PACKET_NS / 2;

/// A process that was killed, and the next one.
#[derive(Clone, Copy, Debug)]
struct Outage {
    killed_at: u64,
    started_at: u64,
    /// When it said that it records; or was killed, before it could.
    ready_at: u64,
    killed_early: bool,
    /// How much longer than the promise reckons with the machine's disk took about that time.
    late_ns: u64,
}

impl Outage {
    /// Where audio may be missing.
    fn covers(&self, time: u64) -> bool {
        let from = self.killed_at - FLUSH_INTERVAL_NS - self.late_ns - TOLERANCE_NS;
        (from..self.ready_at + TOLERANCE_NS).contains(&time)
    }
}

/// What the recorder has said it has.
#[derive(Default)]
struct Told {
    /// Newest document of each recording.
    recordings: BTreeMap<String, Value>,
    /// Journal file and offset up to which each volume is durable.
    durable: BTreeMap<String, (u64, u64)>,
}

pub(super) fn run(environment: &Environment<'_>, run: &Path, checks: &mut Checks) -> Result<()> {
    let (kills, seed) = (environment.kills, environment.seed);
    println!("  {kills} kills, seed {seed}");
    let mut random = Random(seed);
    let lives: u32 = kills * u32::try_from(LIFE_MS.end / 1000).unwrap_or(u32::MAX);
    let seconds = SETTLED.as_secs() as u32 + lives + kills * START_SECONDS + 10;

    let bed = Bed::create()?;
    let mut recorder = environment.start_recorder(&bed, run)?;
    report::check_native(&recorder, checks)?;
    let capture = run.join("reference.pcap");
    let reference = bed.start_reference_capture(&capture)?;
    let start = |number: u8, calls, calls_per_second, seconds| -> Result<Calls> {
        let conversation = Conversation::never_silent(seed ^ u64::from(number), seconds);
        let law = if number.is_multiple_of(2) { Law::A } else { Law::Mu };
        let plan = Plan { number, calls, calls_per_second, law, ports: Ports::PerCall, conversation };
        Calls::start(&bed, &run.join(format!("calls-{number}")), &plan)
    };
    let long = (0..PAIRS).map(|number| start(number, CALLS_PER_PAIR, 5, seconds)).collect::<Result<Vec<_>>>()?;
    interrupt::sleep(SETTLED)?;
    let live = recorder.calls()?.len();
    checks.expect(live == CALLS, || format!("{live} live calls of {CALLS}"));
    let short = start(PAIRS, seconds - SETTLED.as_secs() as u32 - SHORT_SECONDS - 4, 1, SHORT_SECONDS)?;

    let yardstick = Yardstick::start(&run.join("yardstick"))?;
    let mut told = Told::default();
    let mut outages: Vec<Outage> = Vec::new();
    for kill in 0..kills {
        let life = Duration::from_millis(LIFE_MS.start + random.below(LIFE_MS.end - LIFE_MS.start));
        let end = Instant::now() + life;
        while Instant::now() < end {
            told.hear(&recorder)?;
            interrupt::sleep(Duration::from_millis(150).min(end.saturating_duration_since(Instant::now())))?;
        }
        let mut killed_at = nanos(recorder.kill()?);
        if random.below(KILLED_EARLY) == 0 {
            // It may have begun to write: the next one recovers from a recovery.
            let early = environment.spawn_recorder(&bed, run)?;
            let started_at = nanos(early.started_at());
            interrupt::sleep(Duration::from_millis(random.below(EARLY_MS)))?;
            let killed_again_at = nanos(early.kill()?);
            outages.push(Outage { killed_at, started_at, ready_at: killed_again_at, killed_early: true, late_ns: 0 });
            killed_at = killed_again_at;
        }
        recorder = environment.spawn_recorder(&bed, run)?;
        let started_at = nanos(recorder.started_at());
        recorder.wait_until_ready()?;
        outages.push(Outage { killed_at, started_at, ready_at: now_ns(), killed_early: false, late_ns: 0 });
        told.check_kept(&recorder, kill, checks)?;
    }

    for pair in long {
        pair.wait()?;
    }
    short.wait()?;
    check_machine(&yardstick.finish()?, &mut outages, checks);
    let recordings = report::finished_recordings(&recorder, CALLS, Duration::from_secs(90))?;
    let frames_lacking = reference.finish()?;
    checks.expect(frames_lacking == 0, || format!("the reference capture lacks {frames_lacking} frames"));
    let reference = Reference::read(&capture)?;
    println!("  {}", report::wire_text(&reference));
    told.check_kept(&recorder, kills, checks)?;
    report::check_equations(&recorder, checks)?;

    let long: Vec<&Recording> = recordings.iter().filter(|recording| is_long(recording)).collect();
    checks.expect(long.len() == CALLS, || format!("{} recordings of {CALLS} long calls", long.len()));
    let mut heard = Vec::new();
    for recording in long {
        let tracks = coverage::listen(&recorder, recording, &reference, &run.join("heard.wav"))?;
        check_gaps(recording, &tracks, &outages, checks);
        heard.extend(tracks);
    }
    print_outages(&outages, &heard);
    recorder.stop()?;
    store::check_undamaged(environment, &run.join("store"), checks)
}

/// A machine whose disk does not answer shows nothing but that: audio is lost then, and counted.
fn check_machine(speed: &Speed, outages: &mut [Outage], checks: &mut Checks) {
    for outage in outages {
        outage.late_ns = speed.late_ns(outage.killed_at, FLUSH_INTERVAL_NS);
    }
    let (mean, slowest) = (speed.mean_ns() as f64 / 1e6, speed.slowest_ns() as f64 / 1e6);
    println!("  the disk beside the recorder: a block durable after {mean:.1} ms, at most {slowest:.0} ms");
    checks.expect(slowest < MACHINE_MS_MAX, || {
        format!("the disk took {slowest:.0} ms for a block: too slow for this test")
    });
}

/// By the numbers that the plans give.
fn is_long(recording: &Recording) -> bool {
    (0..PAIRS).any(|pair| recording.caller.contains(&format!("+4930{pair:03}")))
}

impl Told {
    fn hear(&mut self, recorder: &Recorder) -> Result<()> {
        for document in recorder.recordings()? {
            let id = document["id"].as_str().context("a recording without `id`")?.to_owned();
            self.recordings.insert(id, document);
        }
        self.durable.extend(store::durable_positions(&recorder.metrics()?)?);
        Ok(())
    }

    /// Nothing that was told is gone or was taken back.
    fn check_kept(&mut self, recorder: &Recorder, kill: u32, checks: &mut Checks) -> Result<()> {
        let before = std::mem::take(self);
        self.hear(recorder)?;
        for (id, told) in &before.recordings {
            let Some(now) = self.recordings.get(id) else {
                checks.expect(false, || format!("kill {kill}: recording {id} is gone: {told}"));
                continue;
            };
            if told["state"] == "active" {
                let seconds = |document: &Value| document["duration_seconds"].as_f64().unwrap_or(0.0);
                // An active recording tells what was heard, not what is durable.
                let kept = seconds(now) >= seconds(told) - FLUSH_INTERVAL_NS as f64 / 1e9;
                checks.expect(kept, || format!("kill {kill}: {id} had {} s and has {} s", seconds(told), seconds(now)));
                let gaps = |document: &Value| document["gaps"].as_array().map_or(0, Vec::len);
                checks.expect(gaps(now) >= gaps(told), || format!("kill {kill}: {id} has lost a gap"));
            } else {
                let same = what_was_said(told) == what_was_said(now);
                checks.expect(same, || format!("kill {kill}: {id} was over and has changed: {told} became {now}"));
            }
        }
        for (volume, told) in &before.durable {
            let now = self.durable.get(volume);
            checks.expect(now.is_some_and(|now| now >= told), || {
                format!("kill {kill}: volume {volume} was durable up to {told:?}, now up to {now:?}")
            });
        }
        Ok(())
    }
}

/// A document without the proof that is added when its audio is sealed.
fn what_was_said(document: &Value) -> Value {
    let mut said = document.clone();
    if let Some(fields) = said.as_object_mut() {
        fields.remove("audio");
        fields.remove("proof");
    }
    said
}

/// What is missing lies around a kill, and in a gap; gaps lie around kills.
fn check_gaps(recording: &Recording, tracks: &[Heard], outages: &[Outage], checks: &mut Checks) {
    let who = format!("{} → {} ({})", recording.caller, recording.callee, recording.id);
    checks.expect(recording.state == "incomplete", || format!("{who}: {} after a kill", recording.state));
    for gap in &recording.gaps {
        checks.expect(gap.reason == "restart", || format!("{who}: a gap of reason {}", gap.reason));
        let ends = [Some(gap.from), gap.to];
        let around = ends.iter().all(|end| end.is_some_and(|time| outages.iter().any(|outage| outage.covers(time))));
        checks.expect(around, || format!("{who}: a gap that no kill explains: {gap:?}"));
    }
    for track in tracks {
        let unexplained = track.missing.iter().filter(|&&time| !outages.iter().any(|outage| outage.covers(time)));
        let count = unexplained.clone().count();
        checks.expect(count == 0, || {
            let first = unexplained.clone().next().copied().unwrap_or_default();
            format!("{}: {count} packets are missing that no kill explains, the first at {first}", track.who)
        });
        let told = |time: u64| {
            let is_in =
                |gap: &report::Gap| time + TOLERANCE_NS >= gap.from && gap.to.is_none_or(|to| time < to + TOLERANCE_NS);
            recording.gaps.iter().any(is_in)
        };
        let untold: Vec<u64> = track.missing.iter().copied().filter(|&time| !told(time)).collect();
        checks.expect(untold.is_empty(), || {
            format!("{}: {} missing packets are in no gap, the first at {}", track.who, untold.len(), untold[0])
        });
    }
}

/// How much was lost before the kills, and how soon recording went on.
fn print_outages(outages: &[Outage], heard: &[Heard]) {
    let milliseconds = |from: u64, to: u64| (to as f64 - from as f64) / 1e6;
    let (mut before, mut after, mut ready) = (Vec::new(), Vec::new(), Vec::new());
    for outage in outages {
        let missing = || heard.iter().flat_map(|track| &track.missing).filter(|&&time| outage.covers(time));
        let (Some(&first), Some(&last)) = (missing().min(), missing().max()) else { continue };
        before.push(milliseconds(first, outage.killed_at));
        let down = milliseconds(outage.killed_at, outage.started_at);
        print!("    killed: {:.0} ms of audio missing before", before[before.len() - 1]);
        if outage.late_ns > 0 {
            print!(" (the disk was {:.0} ms late)", outage.late_ns as f64 / 1e6);
        }
        print!("; started {down:.0} ms later");
        if outage.killed_early {
            println!(", and killed {:.0} ms after that", milliseconds(outage.started_at, outage.ready_at));
            continue;
        }
        after.push(milliseconds(outage.started_at, last + PACKET_NS));
        ready.push(milliseconds(outage.started_at, outage.ready_at));
        println!("; audio again {:.0} ms after that, ready {:.0} ms", after[after.len() - 1], ready[ready.len() - 1]);
    }
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len().max(1) as f64;
    let most = |values: &[f64]| values.iter().copied().fold(0.0, f64::max);
    let missing: usize = heard.iter().map(|track| track.missing.len()).sum();
    let packets: usize = heard.iter().map(|track| track.packets).sum();
    println!(
        "  of audio heard before a kill at most {:.0} ms missing (mean of the worst tracks {:.0} ms); audio went on at most {:.0} ms after the next start (mean {:.0} ms), which said so after at most {:.0} ms (mean {:.0} ms); {missing} of {packets} packets missing over {} kills",
        most(&before),
        mean(&before),
        most(&after),
        mean(&after),
        most(&ready),
        mean(&ready),
        outages.len()
    );
}
