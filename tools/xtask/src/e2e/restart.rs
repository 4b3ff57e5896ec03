//! The recorder is stopped in the middle of calls and started again: what it had heard is on disk, the calls go on in the
//! same recordings with a gap that says so, new calls are recorded, and the XDP program stays on the interface throughout.

use super::Environment;
use crate::report::{self, Checks, Recording};
use anyhow::{Context, Result};
use serde_json::Value;
use sidetone_testkit::bed::Bed;
use sidetone_testkit::g711::Law;
use sidetone_testkit::process::{self, Network};
use sidetone_testkit::reference::{Reference, StreamKey};
use sidetone_testkit::sipp::{Calls, Plan, Ports};
use sidetone_testkit::speech::Library;
use sidetone_testkit::time::now_ns;
use sidetone_testkit::{interrupt, recorder};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::path::Path;
use std::time::Duration;

const LONG_CALLS: u32 = 10;
const LONG_SECONDS: u32 = 40;
const NEW_CALLS: u32 = 5;
const NEW_SECONDS: u32 = 8;
/// Between the end of the first process and the start of the second.
const PAUSE: Duration = Duration::from_secs(3);

pub(super) fn run(environment: &Environment<'_>, run: &Path, checks: &mut Checks) -> Result<()> {
    let library = Library::open(&environment.workspace.cache.join("speech"))?;
    let bed = Bed::create()?;
    let interface = bed.mirror_interface().to_owned();
    let recorder = environment.start_recorder(&bed, run)?;
    report::check_native(&recorder, checks)?;
    let capture = run.join("reference.pcap");
    let reference = bed.start_reference_capture(&capture)?;

    let plan = |number, calls, seconds, ports| -> Result<Plan> {
        let conversation = library.conversation(2000 + u64::from(number), seconds)?;
        Ok(Plan { number, calls, calls_per_second: 10, law: Law::A, ports, conversation })
    };
    let long = Calls::start(&bed, &run.join("calls-long"), &plan(0, LONG_CALLS, LONG_SECONDS, Ports::PerCall)?)?;
    interrupt::sleep(Duration::from_secs(12))?;
    let before = recorder.calls()?;
    checks.expect(before.len() == LONG_CALLS as usize, || format!("{} live calls of {LONG_CALLS}", before.len()));
    let program_before = xdp_program(&interface)?;

    let stopped_at = now_ns();
    recorder.stop()?;
    checks.expect(xdp_program(&interface)? == program_before, || "the XDP program left with the process".to_owned());
    let active = stored(environment, run)?.iter().filter(|recording| recording["state"] == "active").count();
    checks.expect(active == LONG_CALLS as usize, || {
        format!("{active} recordings are active after SIGTERM instead of {LONG_CALLS}")
    });
    interrupt::sleep(PAUSE)?;
    checks.expect(xdp_program(&interface)? == program_before, || "the XDP program did not stay".to_owned());

    let recorder = environment.start_recorder(&bed, run)?;
    let started_at = now_ns();
    checks.expect(xdp_program(&interface)? == program_before, || "the XDP program was replaced".to_owned());
    report::check_native(&recorder, checks)?;
    interrupt::sleep(Duration::from_secs(2))?;
    let after = ids(&recorder.calls()?);
    checks.expect(after == ids(&before), || {
        format!("{} of {LONG_CALLS} calls go on in their recordings", after.intersection(&ids(&before)).count())
    });
    let new = Calls::start(&bed, &run.join("calls-new"), &plan(1, NEW_CALLS, NEW_SECONDS, Ports::Shared)?)?;
    new.wait()?;
    long.wait()?;
    let count = (LONG_CALLS + NEW_CALLS) as usize;
    let recordings = report::finished_recordings(&recorder, count, Duration::from_secs(30))?;
    let frames_lacking = reference.finish()?;
    checks.expect(frames_lacking == 0, || format!("the reference capture lacks {frames_lacking} frames"));
    let mut reference = Reference::read(&capture)?;
    println!("  {}", report::wire_text(&reference));
    checks.expect(recordings.len() == count, || format!("{} recordings of {count} calls", recordings.len()));

    let (went_on, fresh): (Vec<Recording>, Vec<Recording>) =
        recordings.into_iter().partition(|recording| ids(&before).contains(&recording.id));
    checks.expect(went_on.len() == LONG_CALLS as usize, || {
        format!("{} of {LONG_CALLS} recordings went on", went_on.len())
    });
    for recording in &went_on {
        check_continued(recording, &mut reference, stopped_at, started_at, checks);
    }
    // What is left of the wire are the new calls, and these are whole.
    report::check_whole(&fresh, &reference, checks);
    report::check_equations(&recorder, checks)?;
    recorder.stop()
}

/// A recording over the restart: a gap is told, everything outside it is there, and it spans the whole call. Takes its
/// streams out of `reference`.
fn check_continued(
    recording: &Recording,
    reference: &mut Reference,
    stopped_at: u64,
    started_at: u64,
    checks: &mut Checks,
) {
    let who = format!("{} → {} ({})", recording.caller, recording.callee, recording.id);
    checks.expect(!recording.gaps.is_empty(), || format!("{who}: no gap tells of the restart"));
    checks.expect(recording.tracks.len() == 2, || format!("{who}: {} tracks", recording.tracks.len()));
    for track in &recording.tracks {
        let mut packets: BTreeMap<StreamKey, u64> = BTreeMap::new();
        for stream in &track.streams {
            *packets.entry(stream.key).or_default() += stream.packets;
        }
        checks.expect(packets.len() == 1, || format!("{who}, {}: {} streams", track.side, packets.len()));
        for (key, recorded) in packets {
            let Some(wire) = reference.streams.remove(&key) else {
                checks.expect(false, || format!("{who}, {}: {key:?} was not on the wire", track.side));
                continue;
            };
            // Heard before the signal, and from a second after the new process was ready on.
            let surely = wire
                .packets
                .iter()
                .filter(|packet| packet.time_ns < stopped_at || packet.time_ns > started_at + 1_000_000_000)
                .count() as u64;
            let all = wire.packets.len() as u64;
            checks.expect((surely..=all).contains(&recorded), || {
                format!("{who}, {}: {recorded} packets; at least {surely} of {all} were to be heard", track.side)
            });
            let difference = track.duration_seconds - wire.rtp_seconds();
            checks.expect(difference.abs() <= report::DURATION_TOLERANCE_SECONDS, || {
                format!("{who}, {}: {:.3} s of {:.3} s", track.side, track.duration_seconds, wire.rtp_seconds())
            });
        }
    }
}

fn ids(recordings: &[Value]) -> BTreeSet<String> {
    recordings.iter().filter_map(|recording| recording["id"].as_str()).map(str::to_owned).collect()
}

/// The number that the kernel gave to the XDP program on an interface.
fn xdp_program(interface: &str) -> Result<u64> {
    let text = process::shell(&Network::Own, &format!("ip -j -d link show dev {interface}"))?;
    let value: Value = serde_json::from_str(&text).context("`ip -j` printed no JSON")?;
    value[0]["xdp"]["prog"]["id"].as_u64().with_context(|| format!("no XDP program on {interface}"))
}

/// What the store holds, read by the command line while no recorder runs.
fn stored(environment: &Environment<'_>, run: &Path) -> Result<Vec<Value>> {
    let store = run.join("store");
    let words = ["recordings", "list", "--json", "--store"].map(OsStr::new);
    let text = recorder::command_line(&environment.program, &[&words[..], &[store.as_os_str()]].concat())?;
    let value: Value = serde_json::from_str(&text).context("`recordings list --json` printed no JSON")?;
    let list = if value.is_array() { &value } else { &value["recordings"] };
    list.as_array().cloned().context("`recordings list --json` printed no list")
}
