//! Disks fill up, become read-only, fail, are taken away and come back under running calls.
//!
//! First on the second of two volumes: the other takes over, and not a packet may be missing in the end. Then on the only one: what is
//! refused and what is lost is counted, to the packet, in the recordings that it belongs to; and when there is room again,
//! recording goes on by itself.

use super::{Environment, coverage, store};
use crate::report::{self, Checks, Recording};
use anyhow::{Context, Result};
use sidetone_testkit::bed::Bed;
use sidetone_testkit::disk::{self, Disk, InFlight};
use sidetone_testkit::g711::Law;
use sidetone_testkit::recorder::Recorder;
use sidetone_testkit::reference::Reference;
use sidetone_testkit::sipp::{Calls, Plan, Ports};
use sidetone_testkit::speech::Conversation;
use sidetone_testkit::{http, interrupt};
use std::path::Path;
use std::time::{Duration, Instant};

const CALLS_PER_SECOND: u32 = 3;
const CALL_SECONDS: u32 = 15;
/// How long each fault lasts.
const FAULT: Duration = Duration::from_secs(8);
/// A fault is to be seen, and to be over, within this time.
const NOTICED: Duration = Duration::from_secs(15);
/// From the end of a fault to the next.
const REST: Duration = Duration::from_secs(6);
/// The small disk that everything is on, in MiB: a few journal files and segments.
const SMALL_MIB: u64 = 512;
/// What is left of it when recordings may not begin any more: more than two journal files, fewer than four.
const NEARLY_FULL_MIB: u64 = 100;

pub(super) fn run(environment: &Environment<'_>, run: &Path, checks: &mut Checks) -> Result<()> {
    println!("  - the second of two volumes");
    second_volume(environment, &run.join("second"), checks)?;
    println!("  - the only volume");
    only_volume(environment, &run.join("only"), checks)
}

/// Calls that come and go for a while, and what the wire had of them.
struct Traffic<'a> {
    environment: &'a Environment<'a>,
    run: &'a Path,
    bed: Bed,
    calls: u32,
}

impl<'a> Traffic<'a> {
    fn new(environment: &'a Environment<'a>, run: &'a Path, seconds: u64) -> Result<Self> {
        std::fs::create_dir_all(run).with_context(|| format!("cannot make {}", run.display()))?;
        let calls = u32::try_from(seconds).context("a few minutes")? * CALLS_PER_SECOND;
        Ok(Self { environment, run, bed: Bed::create()?, calls })
    }

    fn recorder(&self, store: &Path, volumes: &[&Path]) -> Result<Recorder> {
        let config = self.run.join("sidetone.toml");
        let quoted: Vec<String> = volumes.iter().map(|volume| format!("{:?}", volume.display().to_string())).collect();
        std::fs::write(&config, format!("[store]\nvolumes = [{}]\n", quoted.join(", ")))
            .with_context(|| format!("cannot write {}", config.display()))?;
        let mut options = self.environment.recorder_options(&self.bed, self.run)?;
        options.store = store.to_owned();
        options.arguments = vec!["--config".into(), config.display().to_string()];
        Recorder::start(options)
    }

    fn start(&self) -> Result<Calls> {
        let conversation = Conversation::never_silent(self.environment.seed, CALL_SECONDS);
        let plan = Plan {
            number: 0,
            calls: self.calls,
            calls_per_second: CALLS_PER_SECOND,
            law: Law::A,
            ports: Ports::PerCall,
            conversation,
        };
        Calls::start(&self.bed, &self.run.join("calls"), &plan)
    }
}

fn second_volume(environment: &Environment<'_>, run: &Path, checks: &mut Checks) -> Result<()> {
    let faults: [(&str, &[&str]); 3] =
        [("full", &["no_new", "reserve", "full"]), ("read-only", &["failed"]), ("shut down", &["failed"])];
    let seconds = 10 + FAULT.as_secs() + faults.len() as u64 * (FAULT + NOTICED / 3 + REST).as_secs();
    let traffic = Traffic::new(environment, run, seconds)?;
    // As large as what the other volume has free, so that recordings go to both; hardly anything of it is ever written.
    let mut disk = Disk::create(run, "second", disk::free_bytes(run)? >> 20)?;
    let store = run.join("store");
    let recorder = traffic.recorder(&store, &[disk.path()])?;
    let capture = run.join("reference.pcap");
    let reference = traffic.bed.start_reference_capture(&capture)?;
    let calls = traffic.start()?;
    interrupt::sleep(Duration::from_secs(10))?;
    expect_state(&recorder, "0", &["ok", "low"], "before", checks)?;
    expect_state(&recorder, "1", &["ok"], "before", checks)?;
    let recordings = recorder.metrics()?.sum("sidetone_store_volume_recordings", &[("volume", "1")])?;
    checks.expect(recordings > 0.0, || "no recording goes to the volume that is to fail".to_owned());

    for (fault, states) in faults {
        let counted = faults_counted(&recorder)?;
        let began = Instant::now();
        match fault {
            "full" => disk.fill(0)?,
            "read-only" => disk.make_read_only()?,
            _ => disk.shut_down(InFlight::Lost)?,
        }
        expect_state(&recorder, "1", states, fault, checks)?;
        let noticed = began.elapsed();
        if fault == "shut down" {
            // The recorder has let go of it, and writes nothing into the directory that it was mounted on.
            disk.take_away()?;
            interrupt::sleep(FAULT)?;
            let written = std::fs::read_dir(disk.path()).context("the mount point is there")?.count();
            checks.expect(written == 0, || format!("{written} files were written where the volume is not mounted"));
        }
        interrupt::sleep(FAULT)?;
        expect_state(&recorder, "0", &["ok", "low"], fault, checks)?;
        let ready = http::get(recorder.address(), "/readyz")?.status;
        checks.expect(ready == 200, || format!("{fault}: /readyz answers {ready} though a volume takes everything"));
        let counts = faults_counted(&recorder)?;
        checks.expect(fault == "full" || counts > counted, || format!("{fault}: no fault was counted"));
        let ended = Instant::now();
        if fault == "full" {
            disk.drain()?;
        } else {
            disk.give_back()?;
        }
        expect_state(&recorder, "1", &["ok"], &format!("after {fault}"), checks)?;
        println!(
            "    {fault}: seen after {:.1} s, back after {:.1} s",
            noticed.as_secs_f64(),
            ended.elapsed().as_secs_f64()
        );
        interrupt::sleep(REST)?;
    }

    calls.wait()?;
    let recordings = report::finished_recordings(&recorder, traffic.calls as usize, Duration::from_secs(60))?;
    let frames_lacking = reference.finish()?;
    checks.expect(frames_lacking == 0, || format!("the reference capture lacks {frames_lacking} frames"));
    let reference = Reference::read(&capture)?;
    println!("  {}", report::wire_text(&reference));
    let count = recordings.len();
    checks.expect(count == traffic.calls as usize, || format!("{count} recordings of {} calls", traffic.calls));
    report::check_whole(&recordings, &reference, checks);
    report::check_equations(&recorder, checks)?;
    let mut missing = 0;
    for recording in &recordings {
        for track in coverage::listen(&recorder, recording, &reference, &run.join("heard.wav"))? {
            missing += track.missing.len();
            checks.expect(track.missing.is_empty(), || {
                format!("{}: {} of {} packets cannot be heard", track.who, track.missing.len(), track.packets)
            });
        }
    }
    println!("  {count} recordings over three faults, {missing} packets missing");
    recorder.stop()?;
    store::check_undamaged(environment, &store, checks)
}

fn only_volume(environment: &Environment<'_>, run: &Path, checks: &mut Checks) -> Result<()> {
    let traffic = Traffic::new(environment, run, 10 + 4 * FAULT.as_secs())?;
    let mut disk = Disk::create(run, "only", SMALL_MIB)?;
    let store = disk.path().join("store");
    let recorder = traffic.recorder(&store, &[])?;
    let capture = run.join("reference.pcap");
    let reference = traffic.bed.start_reference_capture(&capture)?;
    let calls = traffic.start()?;
    interrupt::sleep(Duration::from_secs(10))?;
    expect_state(&recorder, "0", &["ok", "low"], "before", checks)?;

    // Too little for new recordings, enough for those that run.
    disk.fill(NEARLY_FULL_MIB << 20)?;
    expect_state(&recorder, "0", &["no_new"], "nearly full", checks)?;
    let ready = http::get(recorder.address(), "/readyz")?.status;
    checks.expect(ready != 200, || "nearly full: /readyz says that new calls are recorded".to_owned());
    interrupt::sleep(FAULT)?;
    let lost = lost_packets(&recorder)?;
    checks.expect(lost == 0.0, || format!("nearly full: {lost} packets of running recordings lost"));
    disk.fill(0)?;
    expect_state(&recorder, "0", &["reserve", "full"], "full", checks)?;
    interrupt::sleep(FAULT)?;
    let lost = lost_packets(&recorder)?;
    checks.expect(lost > 0.0, || "full: nothing was lost: this test sees nothing".to_owned());
    let ended = Instant::now();
    disk.drain()?;
    expect_state(&recorder, "0", &["ok", "low"], "drained", checks)?;
    println!("    back after {:.1} s", ended.elapsed().as_secs_f64());
    let end = Instant::now() + NOTICED;
    while http::get(recorder.address(), "/readyz")?.status != 200 {
        if Instant::now() > end {
            checks.expect(false, || "drained: /readyz does not answer 200 again".to_owned());
            break;
        }
        interrupt::sleep(Duration::from_millis(200))?;
    }

    calls.wait()?;
    // A recording for each call that was not refused to its end.
    let refused = || recorder.metrics()?.sum("sidetone_calls_not_recorded_total", &[("reason", "no_room")]);
    interrupt::sleep(Duration::from_secs(8))?;
    let refused = refused()?;
    let expected = traffic.calls as usize - refused as usize;
    let recordings = report::finished_recordings(&recorder, expected, Duration::from_secs(60))?;
    let count = recordings.len();
    checks.expect(refused > 0.0, || "no call was refused: this test sees nothing".to_owned());
    checks.expect(count == expected, || format!("{count} recordings and {refused} refused calls of {}", traffic.calls));
    let frames_lacking = reference.finish()?;
    checks.expect(frames_lacking == 0, || format!("the reference capture lacks {frames_lacking} frames"));
    let reference = Reference::read(&capture)?;
    println!("  {}", report::wire_text(&reference));
    report::check_equations(&recorder, checks)?;
    check_losses(&recorder, &recordings, &reference, run, checks)?;
    recorder.stop()?;
    store::check_undamaged(environment, &store, checks)
}

/// Every packet that the writer lost is told by one track, and what cannot be heard was lost, or lies before the recording.
fn check_losses(
    recorder: &Recorder,
    recordings: &[Recording],
    reference: &Reference,
    run: &Path,
    checks: &mut Checks,
) -> Result<()> {
    let told: u64 = recordings.iter().map(Recording::lost_by_recorder).sum();
    let counted = lost_packets(recorder)?;
    checks.expect(told as f64 == counted, || format!("recordings tell of {told} lost packets, metrics of {counted}"));
    let (mut unheard, mut whole) = (0, 0);
    for recording in recordings {
        let late: Vec<&report::Gap> = recording.gaps.iter().filter(|gap| gap.reason == "no_room").collect();
        let is_whole = recording.lost_by_recorder() == 0 && recording.gaps.is_empty();
        whole += usize::from(is_whole);
        let state = if is_whole { "complete" } else { "incomplete" };
        checks.expect(recording.state == state, || format!("{}: {} instead of {state}", recording.id, recording.state));
        // One that began late begins in the middle of the wire's stream: it cannot be laid beside it packet by packet. Nor can one
        // that has no audio at all.
        let packets: u64 = recording.tracks.iter().flat_map(|track| &track.streams).map(|stream| stream.packets).sum();
        if !late.is_empty() || recording.lost_by_recorder() == packets {
            continue;
        }
        for heard in coverage::listen(recorder, recording, reference, &run.join("heard.wav"))? {
            unheard += heard.missing.len();
            let lost = recording.lost_by_recorder() as usize;
            checks.expect(heard.missing.len() <= lost, || {
                let (missing, which) = (heard.missing.len(), heard.which());
                format!(
                    "{}: {missing} of {} packets cannot be heard ({which}), {lost} are told as lost",
                    heard.who, heard.packets
                )
            });
        }
    }
    println!(
        "  {} recordings, {whole} of them whole; {told} packets told as lost, {unheard} not heard",
        recordings.len()
    );
    checks.expect(whole > 0, || "no recording is whole".to_owned());
    Ok(())
}

/// Packets of tracks that the writer lost, by the metrics.
fn lost_packets(recorder: &Recorder) -> Result<f64> {
    let metrics = recorder.metrics()?;
    Ok(metrics.sum("sidetone_writer_packets_lost_total", &[])?
        + metrics.sum("sidetone_track_packets_total", &[("result", "lost_to_writer")])?)
}

fn faults_counted(recorder: &Recorder) -> Result<f64> {
    recorder.metrics()?.sum("sidetone_store_volume_faults_total", &[("volume", "1")])
}

fn expect_state(recorder: &Recorder, volume: &str, states: &[&str], when: &str, checks: &mut Checks) -> Result<()> {
    let end = Instant::now() + NOTICED;
    loop {
        let state = store::volume_state(&recorder.metrics()?, volume);
        let is_expected = state.as_deref().is_some_and(|state| states.contains(&state));
        if is_expected || Instant::now() >= end {
            checks.expect(is_expected, || format!("{when}: volume {volume} is {state:?} instead of {states:?}"));
            return Ok(());
        }
        interrupt::sleep(Duration::from_millis(100))?;
    }
}
