//! A hundred calls at once, for a minute.

use super::{Environment, audio, usage};
use crate::report::{self, Checks};
use anyhow::Result;
use sidetone_testkit::bed::Bed;
use sidetone_testkit::g711::Law;
use sidetone_testkit::interrupt;
use sidetone_testkit::reference::Reference;
use sidetone_testkit::sipp::{Calls, Plan, Ports};
use sidetone_testkit::speech::Library;
use std::path::Path;
use std::time::Duration;

/// Frames of neighbour discovery that the reference capture may lack.
const STRAY_FRAMES_MAX: f64 = 32.0;
const CALLS: u32 = 100;
const CALLS_PER_SECOND: u32 = 20;
/// Long enough that all calls speak at once for 60 s, the first ones having begun five seconds before the last.
const SPEECH_SECONDS: u32 = 60 + CALLS / CALLS_PER_SECOND + 1;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Layout {
    PortPerCall,
    OnePort,
}

pub(super) fn run(environment: &Environment<'_>, run: &Path, layout: Layout, checks: &mut Checks) -> Result<()> {
    let library = Library::open(&environment.workspace.cache.join("speech"))?;
    let bed = Bed::create()?;
    let recorder = environment.start_recorder(&bed, run)?;
    let mode = report::check_native(&recorder, checks)?;
    let (_, memory_before) = usage(recorder.pid())?;
    let capture = run.join("reference.pcap");
    let reference = bed.start_reference_capture(&capture)?;

    // With a port per call: four pairs of phones, so that four conversations in two codecs are heard. One pair has one
    // stream port, so that one pair makes all calls share it.
    let pairs: u8 = if layout == Layout::PortPerCall { 4 } else { 1 };
    let mut calls = Vec::new();
    for number in 0..pairs {
        let plan = Plan {
            number,
            calls: CALLS / u32::from(pairs),
            calls_per_second: CALLS_PER_SECOND / u32::from(pairs),
            law: if number % 2 == 0 { Law::A } else { Law::Mu },
            ports: if layout == Layout::PortPerCall { Ports::PerCall } else { Ports::Shared },
            conversation: library.conversation(1000 + u64::from(number), SPEECH_SECONDS)?,
        };
        calls.push(Calls::start(&bed, &run.join(format!("calls-{number}")), &plan)?);
    }
    let mut most = 0;
    let mut memory_most = 0.0f64;
    loop {
        let mut ended = true;
        for pair in &mut calls {
            ended &= pair.ended()?;
        }
        if ended {
            break;
        }
        most = most.max(recorder.calls()?.len());
        memory_most = memory_most.max(usage(recorder.pid())?.1);
        interrupt::sleep(Duration::from_secs(1))?;
    }
    for pair in calls {
        pair.wait()?;
    }
    let (processor_seconds, _) = usage(recorder.pid())?;
    let recordings = report::finished_recordings(&recorder, CALLS as usize, Duration::from_secs(30))?;
    let frames_lacking = reference.finish()?;
    let mirror = bed.mirror_counts()?;
    let reference = Reference::read(&capture)?;

    println!("  {}", report::wire_text(&reference));
    println!("  captured by {mode}; at most {most} live calls; {} recordings", recordings.len());
    println!(
        "  the recorder used {processor_seconds:.1} s of processor time, {:.2} ms per call-second, and {:.0} MiB more memory, {:.0} KiB per call",
        processor_seconds * 1000.0 / f64::from(CALLS * SPEECH_SECONDS),
        memory_most - memory_before,
        (memory_most - memory_before) * 1024.0 / f64::from(CALLS)
    );
    checks.expect(frames_lacking == 0, || {
        format!("the reference capture lacks {frames_lacking} frames: the machine is overloaded")
    });
    checks.expect(mirror.dropped == 0, || {
        format!(
            "the mirror port itself dropped {} of {} frames: the machine is overloaded",
            mirror.dropped, mirror.sent
        )
    });
    checks.expect(most == CALLS as usize, || format!("at most {most} live calls at once instead of {CALLS}"));
    checks.expect(recordings.len() == CALLS as usize, || format!("{} recordings of {CALLS} calls", recordings.len()));
    checks.expect(reference.streams.len() == 2 * CALLS as usize, || {
        format!("{} streams on the wire of {CALLS} calls", reference.streams.len())
    });
    report::check_whole(&recordings, &reference, checks);
    let metrics = report::check_equations(&recorder, checks)?;
    // Of what matters, every frame. Besides, the namespaces' own neighbour discovery may come a moment before the reference
    // capture begins or after it ends.
    let rtp: usize = reference.streams.values().map(|stream| stream.packets.len()).sum();
    let telephony = rtp as u64 + reference.sip_messages + reference.rtcp_packets;
    let kept = metrics.sum("sidetone_frames_total", &[])?;
    checks.expect(kept == telephony as f64, || {
        format!("{kept} frames kept of {telephony} with telephony on the mirror port")
    });
    let strays = metrics.sum("sidetone_frames_received_total", &[])? - reference.frames as f64;
    checks.expect((0.0..=STRAY_FRAMES_MAX).contains(&strays), || {
        format!("frames received differ by {strays} from the {} on the mirror port", reference.frames)
    });
    audio::check(environment, &recorder, &recordings, &reference, run, checks)?;
    recorder.stop()
}
