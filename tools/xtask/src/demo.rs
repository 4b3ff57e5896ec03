//! `cargo xtask demo`: from nothing to recordings that can be played, step by step.

use crate::product;
use crate::report::{self, Checks, Recording};
use crate::setup::{self, Purpose};
use crate::workspace::Workspace;
use anyhow::{Result, bail};
use clap::Args;
use serde_json::Value;
use sidetone_testkit::bed::Bed;
use sidetone_testkit::g711::Law;
use sidetone_testkit::reference::Reference;
use sidetone_testkit::sipp::{Calls, Plan, Ports};
use sidetone_testkit::speech::Library;
use sidetone_testkit::{Recorder, baresip, interrupt, recorder};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

#[derive(Args)]
pub(crate) struct Options {
    /// Check that every call was recorded whole, print the figures, clean up and end: 0 if so, 1 if not.
    #[arg(long)]
    once: bool,
    /// Do not ask before installing what is missing.
    #[arg(long)]
    yes: bool,
    /// Calls between SIPp phones; one more is placed between baresip phones.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(2..=200))]
    calls: u32,
    /// How long each call speaks.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(3..=600))]
    seconds: u32,
    /// Port of 127.0.0.1 for the web page; another one is taken when it is in use.
    #[arg(long, default_value_t = 8080)]
    port: u16,
}

pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<ExitCode> {
    setup::ensure(workspace, &[Purpose::Build, Purpose::Bed], options.yes)?;
    interrupt::install()?;
    let started = Instant::now();
    let step = |text: &str| println!("[{:5.1} s] {text}", started.elapsed().as_secs_f64());

    step("Building the XDP program and the recorder (the first time this takes half an hour: RocksDB)");
    let program = product::build(workspace)?;
    interrupt::check()?;

    step("Making two phone networks, a switch between them, and its mirror port");
    let run = workspace.run_directory("demo")?;
    let bed = Bed::create()?;
    println!("          phones 10.80.1.0/24 ── switch ── phones 10.80.2.0/24,  mirror port {}", bed.mirror_interface());

    step("Starting the recorder on the mirror port");
    let recorder = Recorder::start(recorder::Options {
        program,
        interface: bed.mirror_interface().to_owned(),
        store: run.path().join("store"),
        listen: recorder::free_port(Some(options.port))?,
        log: run.path().join("sidetone.log"),
        arguments: Vec::new(),
    })?;
    let mut checks = Checks::default();
    let mode = report::check_native(&recorder, &mut checks)?;
    println!("          capturing by {mode}; web page http://{}/", recorder.address());

    let capture = run.path().join("reference.pcap");
    let reference = if options.once { Some(bed.start_reference_capture(&capture)?) } else { None };
    step(&format!(
        "Placing {} calls of {} s between SIPp phones, and one between baresip phones",
        options.calls, options.seconds
    ));
    place_calls(&bed, &recorder, run.path(), workspace, options)?;

    step("All calls are over. The recordings:");
    let recordings = report::finished_recordings(&recorder, options.calls as usize + 1, Duration::from_secs(20));
    let recordings = match recordings {
        Ok(recordings) => recordings,
        Err(error) => {
            checks.expect(false, || format!("{error:#}"));
            recorder.recordings()?.iter().map(Recording::parse).collect::<Result<Vec<_>>>()?
        }
    };
    print_recordings(&recordings);

    if let Some(reference) = reference {
        let dropped = reference.finish()?;
        checks.expect(dropped == 0, || {
            format!("the reference capture lacks {dropped} frames: the machine is overloaded")
        });
        let reference = Reference::read(&capture)?;
        checks.expect(recordings.len() == options.calls as usize + 1, || {
            format!("{} recordings of {} calls", recordings.len(), options.calls + 1)
        });
        report::check_whole(&recordings, &reference, &mut checks);
        println!("  wire:       {}", report::wire_text(&reference));
        report::check_equations(&recorder, &mut checks)?;
        return finish_once(checks, recorder, &run, started);
    }
    serve(recorder, &recordings, &checks)?;
    Ok(ExitCode::SUCCESS)
}

fn finish_once(
    mut checks: Checks,
    recorder: Recorder,
    run: &crate::workspace::RunDirectory,
    started: Instant,
) -> Result<ExitCode> {
    if let Err(error) = recorder.stop() {
        checks.expect(false, || format!("{error:#}"));
    }
    checks.print();
    let seconds = started.elapsed().as_secs();
    if checks.failed() == 0 {
        println!("Every call was recorded whole: {} checks held, in {seconds} s.", checks.passed);
        return Ok(ExitCode::SUCCESS);
    }
    println!(
        "{} of {} checks failed. Logs and captures: {}",
        checks.failed(),
        checks.failed() + checks.passed,
        run.keep().display()
    );
    Ok(ExitCode::FAILURE)
}

/// Half of the calls with a port each and A-law, half on one port and with µ-law, and the baresip call; shows the live
/// calls until all are over.
fn place_calls(bed: &Bed, recorder: &Recorder, run: &Path, workspace: &Workspace, options: &Options) -> Result<()> {
    let library = Library::open(&workspace.cache.join("speech"))?;
    let per_port = options.calls / 2;
    let mut pairs = Vec::new();
    for (number, calls, law, ports) in
        [(0, per_port, Law::A, Ports::PerCall), (1, options.calls - per_port, Law::Mu, Ports::Shared)]
    {
        let conversation = library.conversation(u64::from(number), options.seconds)?;
        let plan = Plan { number, calls, calls_per_second: 5, law, ports, conversation };
        pairs.push(Calls::start(bed, &run.join(format!("calls-{number}")), &plan)?);
    }
    let conversation = library.conversation(77, options.seconds + 5)?;
    let baresip = baresip::Call::start(bed, &run.join("baresip"), Law::A, &conversation, options.seconds)?;

    let mut shown = Instant::now() - Duration::from_secs(60);
    while !all_ended(&mut pairs)? {
        if shown.elapsed() >= Duration::from_secs(5) {
            shown = Instant::now();
            print_live(&recorder.calls()?);
        }
        interrupt::sleep(Duration::from_millis(200))?;
    }
    for pair in pairs {
        pair.wait()?;
    }
    baresip.wait()
}

fn all_ended(pairs: &mut [Calls]) -> Result<bool> {
    let mut ended = true;
    for pair in pairs {
        ended &= pair.ended()?;
    }
    Ok(ended)
}

fn print_live(calls: &[Value]) {
    const SHOWN: usize = 4;
    println!("          {} live calls", calls.len());
    for call in calls.iter().take(SHOWN) {
        match Recording::parse(call) {
            Ok(call) => {
                let since = call.started_at.get(11..19).unwrap_or(&call.started_at);
                println!("            {} → {}   since {since}", call.caller, call.callee);
            }
            Err(error) => println!("            {error:#}"),
        }
    }
    if calls.len() > SHOWN {
        println!("            … {} more", calls.len() - SHOWN);
    }
}

fn print_recordings(recordings: &[Recording]) {
    println!(
        "  {:<20}  {:<24}  {:<24}  {:>8}  {:>6}  {:<9} state",
        "started", "from", "to", "seconds", "lost", "codec"
    );
    for recording in recordings {
        let started = recording.started_at.get(..19).unwrap_or(&recording.started_at);
        println!(
            "  {started:<20}  {:<24}  {:<24}  {:>8.2}  {:>6}  {:<9} {}",
            recording.caller,
            recording.callee,
            recording.duration_seconds,
            recording.lost_by_recorder(),
            recording.codecs(),
            recording.state
        );
    }
}

fn serve(mut recorder: Recorder, recordings: &[Recording], checks: &Checks) -> Result<()> {
    checks.print();
    let address = recorder.address();
    println!("\nListen to them on the page      http://{address}/");
    if let Some(recording) = recordings.first() {
        let audio = format!("http://{address}/api/v1/recordings/{}/audio", recording.id);
        println!("or in any player, e.g.          ffplay '{audio}?format=opus&channels=dual'");
        println!("or as a file                    curl -o call.wav '{audio}?format=wav&channels=mix'");
    }
    println!(
        "The caller is left, the called party is right. Ctrl-C ends the demo and removes everything but the build."
    );
    while interrupt::sleep(Duration::from_millis(500)).is_ok() {
        if let Some(status) = recorder.ended()? {
            bail!("the recorder ended with {status}:\n{}", recorder.log_tail());
        }
    }
    println!("\nStopping the recorder and removing the networks");
    recorder.stop()
}
