//! Captures from the field with ground truth, each replayed through the product.

use crate::product;
use crate::report::Checks;
use crate::workspace::Workspace;
use anyhow::{Context, Result};
use serde_json::Value;
use sidetone_testkit::interrupt;
use sidetone_testkit::process::{self, Network, Running};
use std::fs;
use std::path::Path;
use std::time::Duration;

/// Captures whose calls must be recorded as the truth has them: their codecs and signalling are within what is built.
const WHOLE: [&str; 4] = ["SIP_CALL_RTP_G711", "sipnab-b2bua-asterisk", "sipnab-rtp-protocol", "voipshark-sip-rtp"];

/// The truth about this capture is wrong in one stream: after a T.38 offer that was declined (488), tshark takes 2010 of its 3848 RTP
/// packets for T.38, which the truth's own note says. It is held against the datagrams on the wire instead.
const DECLINED_FAX: Stream = Stream {
    capture: "FAX-Call-t38-CA-TDM-SIP-FB-1.pcap",
    source: ("10.35.60.100", 15580),
    destination: ("10.23.1.52", 16756),
};

struct Stream {
    capture: &'static str,
    source: (&'static str, u16),
    destination: (&'static str, u16),
}

/// Longest time for one capture.
const TIMEOUT: Duration = Duration::from_secs(120);

pub(crate) fn run(workspace: &Workspace, corpus: &Path) -> Result<Checks> {
    let program = product::build(workspace)?;
    let run = workspace.run_directory("corpus")?;
    let mut checks = Checks::default();
    let mut names = Vec::new();
    for entry in
        fs::read_dir(corpus.join("pcaps")).with_context(|| format!("cannot list {}/pcaps", corpus.display()))?
    {
        names.push(entry?.path());
    }
    names.sort();
    for (number, capture) in names.iter().enumerate() {
        interrupt::check()?;
        let name = capture.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let file = capture.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let store = run.path().join(format!("store-{number}"));
        if !is_capture(capture)? {
            let refused = refusal(&program, capture, &store, run.path());
            checks.expect(refused.is_ok(), || format!("{name}: {:#}", refused.unwrap_err()));
            continue;
        }
        match replay(&program, capture, &store, run.path()) {
            Ok(got) => {
                let extra = extra_recordings(corpus, &name, &file, &got)?;
                checks.expect(extra.is_empty(), || format!("{name}: recordings of no call: {}", extra.join(", ")));
                checks.expect(got["unclaimed_streams"].is_array(), || format!("{name}: no list of unclaimed streams"));
            }
            Err(error) => checks.expect(false, || format!("{name}: {error:#}")),
        }
        if store.exists() {
            fs::remove_dir_all(&store).with_context(|| format!("cannot remove {}", store.display()))?;
        }
    }
    score(&program, corpus, run.path(), &mut checks)?;
    declined_fax(&program, corpus, run.path(), &mut checks)?;
    checks.print();
    if checks.failed() > 0 {
        println!("  kept: {}", run.keep().display());
    }
    Ok(checks)
}

/// Whether it begins as pcap (of any byte order and precision) or pcapng. The corpus also has files of other tools.
fn is_capture(path: &Path) -> Result<bool> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let magic = bytes.first_chunk().map(|&magic| u32::from_be_bytes(magic));
    Ok(matches!(magic, Some(0xa1b2_c3d4 | 0xd4c3_b2a1 | 0xa1b2_3c4d | 0x4d3c_b2a1 | 0x0a0d_0d0a)))
}

/// What is no capture file is refused with exit code 2 and one line that names the file.
fn refusal(program: &Path, capture: &Path, store: &Path, run: &Path) -> Result<()> {
    let log = run.join(format!("refused-{}.log", capture.file_name().unwrap_or_default().to_string_lossy()));
    let mut command = process::command(&Network::Own, program);
    command.args(["replay", "--json", "--store"]).arg(store).arg(capture);
    let mut running = Running::start("sidetone replay", &mut command, &log)?;
    let status = running.wait(TIMEOUT)?;
    let text = running.log_tail();
    anyhow::ensure!(status.code() == Some(2), "no capture file, but it ended with {status}: {text}");
    let names_it = text.contains(&*capture.to_string_lossy());
    anyhow::ensure!(text.lines().count() == 1 && names_it, "not refused with one line that names it: {text}");
    Ok(())
}

fn replay(program: &Path, capture: &Path, store: &Path, run: &Path) -> Result<Value> {
    let output = run.join("replay.json");
    let log = run.join("replay.log");
    for path in [&output, &log] {
        if path.exists() {
            fs::remove_file(path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
    }
    let mut command = process::command(&Network::Own, "sh");
    // The document to a file of its own, messages to the log.
    command.args(["-c", "exec \"$0\" replay --json --store \"$1\" \"$2\" > \"$3\""]).arg(program).arg(store);
    command.arg(capture).arg(&output);
    let mut running = Running::start("sidetone replay", &mut command, &log)?;
    let status = running.wait(TIMEOUT)?;
    anyhow::ensure!(status.success(), "ended with {status}: {}", running.log_tail());
    let text = fs::read_to_string(&output).with_context(|| format!("cannot read {}", output.display()))?;
    serde_json::from_str(&text).context("what it printed is no JSON")
}

/// Recordings without a leg of any call that the truth has. Calls of other protocols are not in the truth's list.
fn extra_recordings(corpus: &Path, stem: &str, file: &str, got: &Value) -> Result<Vec<String>> {
    let candidates = [stem, file].map(|name| corpus.join("truth").join(format!("{name}.json")));
    let Some(path) = candidates.iter().find(|path| path.exists()) else { return Ok(Vec::new()) };
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let truth: Value = serde_json::from_str(&text).with_context(|| format!("{} is no JSON", path.display()))?;
    if truth["expected"]["other_protocol_calls"].as_u64().is_some_and(|count| count > 0) {
        return Ok(Vec::new());
    }
    let empty = Vec::new();
    let wanted: Vec<&str> =
        truth["calls"].as_array().unwrap_or(&empty).iter().filter_map(|call| call["call_id"].as_str()).collect();
    let recordings = got["recordings"].as_array().context("the document has no `recordings`")?;
    Ok(recordings
        .iter()
        .filter(|recording| {
            let legs = recording["legs"].as_array();
            !legs.is_some_and(|legs| {
                legs.iter().any(|leg| leg["call_id"].as_str().is_some_and(|id| wanted.contains(&id)))
            })
        })
        .map(|recording| recording["id"].to_string())
        .collect())
}

/// The score against the truth, by the corpus's own program, for the captures that must be whole.
fn score(program: &Path, corpus: &Path, run: &Path, checks: &mut Checks) -> Result<()> {
    let script = corpus.join("../tools/score_corpus.py");
    if !script.exists() {
        println!("  not scored: the corpus has no ../tools/score_corpus.py");
        return Ok(());
    }
    for name in WHOLE {
        interrupt::check()?;
        let log = run.join(format!("score-{name}.log"));
        let mut command = process::command(&Network::Own, "python3");
        command.arg(&script).arg("--sidetone").arg(program).arg("--corpus").arg(corpus).args(["--only", name]);
        let mut running = Running::start("score_corpus.py", &mut command, &log)?;
        let status = running.wait(TIMEOUT * 2)?;
        checks.expect(status.success(), || format!("{name}: {}", running.log_tail()));
    }
    Ok(())
}

/// Every datagram of the stream is in the one recording's far track, and none is missing by sequence number.
fn declined_fax(program: &Path, corpus: &Path, run: &Path, checks: &mut Checks) -> Result<()> {
    let Stream { capture, source, destination } = DECLINED_FAX;
    let path = corpus.join("pcaps").join(capture);
    if !path.exists() {
        return Ok(());
    }
    let filter = format!(
        "ip.src=={} && udp.srcport=={} && ip.dst=={} && udp.dstport=={}",
        source.0, source.1, destination.0, destination.1
    );
    let listing = run.join("declined-fax.txt");
    let mut command = process::command(&Network::Own, "sh");
    command.args(["-c", "exec tshark -r \"$0\" -Y \"$1\" > \"$2\""]).arg(&path).arg(filter).arg(&listing);
    let mut running = Running::start("tshark", &mut command, &run.join("declined-fax.log"))?;
    anyhow::ensure!(running.wait(TIMEOUT)?.success(), "tshark: {}", running.log_tail());
    let datagrams = fs::read_to_string(&listing).context("tshark's listing")?.lines().count();
    let got = replay(program, &path, &run.join("store-declined-fax"), run)?;
    let address = format!("{}:{}", source.0, source.1);
    let streams: Vec<&Value> = got["recordings"]
        .as_array()
        .into_iter()
        .flatten()
        .flat_map(|recording| recording["tracks"].as_array().into_iter().flatten())
        .flat_map(|track| track["streams"].as_array().into_iter().flatten())
        .filter(|stream| stream["source"] == address.as_str())
        .collect();
    let counted: u64 = streams.iter().filter_map(|stream| stream["packets"].as_u64()).sum();
    let lost: u64 = streams.iter().filter_map(|stream| stream["lost"].as_u64()).sum();
    let recordings = got["recordings"].as_array().map_or(0, Vec::len);
    checks.expect(recordings == 1, || format!("{capture}: {recordings} recordings of one call"));
    checks.expect(datagrams > 3000 && counted == datagrams as u64, || {
        format!("{capture}: {counted} packets of {address} recorded, {datagrams} on the wire")
    });
    checks.expect(lost == 0, || format!("{capture}: {lost} packets lost that are on the wire"));
    Ok(())
}
