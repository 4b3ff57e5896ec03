//! What was recorded, heard: against the wire, and through other people's players.

use super::Environment;
use crate::product;
use crate::report::{Checks, Recording};
use crate::setup;
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use sidetone_testkit::process::{self, Network};
use sidetone_testkit::recorder::{self, Recorder};
use sidetone_testkit::reference::{Reference, Stream};
use sidetone_testkit::speech::RATE_HZ;
use sidetone_testkit::wav::Wav;
use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Recordings that are listened to.
const HEARD: usize = 5;
/// Caller and callee lie at most so far apart from how they lay on the wire.
const ALIGNMENT_MS: f64 = 20.0;
/// Recording costs at most so much quality beyond the codec itself.
const PESQ_LOSS: f64 = 0.05;

pub(super) fn check(
    environment: &Environment<'_>,
    recorder: &Recorder,
    recordings: &[Recording],
    reference: &Reference,
    run: &Path,
    checks: &mut Checks,
) -> Result<()> {
    let directory = run.join("audio");
    fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
    let direct = build_direct(environment)?;
    let step = (recordings.len() / HEARD).max(1);
    let mut tracks = Vec::new();
    for recording in recordings.iter().step_by(step).take(HEARD) {
        tracks.extend(prepare(recorder, recording, reference, &directory, &direct)?);
        players(environment, recorder, recording, run, &directory, checks)?;
    }
    compare(environment, &tracks, checks)
}

/// Fetches a recording with the caller left and the callee right, and writes each side's speech as it was on the wire.
fn prepare(
    recorder: &Recorder,
    recording: &Recording,
    reference: &Reference,
    directory: &Path,
    direct: &Path,
) -> Result<Vec<Value>> {
    let recorded = directory.join(format!("{}.wav", recording.id));
    let path = format!("/api/v1/recordings/{}/audio?format=wav&channels=dual", recording.id);
    fs::write(&recorded, recorder.get(&path)?.body).with_context(|| format!("cannot write {}", recorded.display()))?;

    let side = |name: &str| -> Result<&Stream> {
        let track = recording.tracks.iter().find(|track| track.side == name);
        track
            .and_then(|track| track.streams.first())
            .and_then(|stream| reference.streams.get(&stream.key))
            .with_context(|| format!("{}: the {name} side has no stream that was on the wire", recording.id))
    };
    let sides = [("near", side("near")?), ("far", side("far")?)];
    let origin = sides.iter().map(|(_, stream)| begin_ns(stream)).min().context("two sides")?;
    let mut tracks = Vec::new();
    for (channel, (name, stream)) in sides.iter().enumerate() {
        let wire = directory.join(format!("{}-{name}-wire.wav", recording.id));
        Wav::mono(RATE_HZ, stream.decode()?).write(&wire)?;
        let coded = directory.join(format!("{}-{name}-direct.wav", recording.id));
        process::output(Command::new(direct).arg(&wire).arg(&coded))?;
        tracks.push(json!({
            "name": format!("{} {name}", recording.id),
            "recorded": recorded,
            "channel": channel,
            "reference": wire,
            "reference_begins": (begin_ns(stream) - origin) * u64::from(RATE_HZ) / 1_000_000_000,
            "direct": coded,
        }));
    }
    Ok(tracks)
}

/// When a stream's first sample was sent, by its quickest packet: what the others lack is jitter of sender and machine.
fn begin_ns(stream: &Stream) -> u64 {
    let Some(first) = stream.packets.first() else { return 0 };
    let begin = |packet: &sidetone_testkit::reference::Packet| {
        let samples = packet.timestamp.wrapping_sub(first.timestamp).cast_signed();
        packet.time_ns as i64 - i64::from(samples) * 1_000_000_000 / i64::from(RATE_HZ)
    };
    stream.packets.iter().map(begin).min().map_or(0, |begin| begin as u64)
}

fn compare(environment: &Environment<'_>, tracks: &[Value], checks: &mut Checks) -> Result<()> {
    let python =
        setup::find_python(environment.workspace).context("no Python with numpy and pesq; run `cargo xtask setup`")?;
    let script = environment.workspace.root.join("tools/testkit/scripts/compare_audio.py");
    let mut child = Command::new(python)
        .arg(&script)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {}", script.display()))?;
    let request = serde_json::to_vec(&json!({ "tracks": tracks }))?;
    // Dropped after writing: the script reads to the end.
    child.stdin.take().context("its input was asked for")?.write_all(&request).context("cannot write to the script")?;
    let output = child.wait_with_output().context("cannot wait for the script")?;
    if !output.status.success() {
        bail!("{} ended with {}: {}", script.display(), output.status, String::from_utf8_lossy(&output.stderr));
    }
    let answer: Value = serde_json::from_slice(&output.stdout).context("the script printed no JSON")?;
    let results = answer["tracks"].as_array().context("the script printed no tracks")?;
    checks.expect(results.len() == tracks.len() && !results.is_empty(), || {
        format!("{} of {} tracks were compared", results.len(), tracks.len())
    });

    let number = |track: &Value, name: &str| track[name].as_f64().with_context(|| format!("no `{name}` in {track}"));
    let (mut apart_most, mut recorded_sum, mut direct_sum, mut loss_most) = (0.0f64, 0.0, 0.0, f64::MIN);
    for pair in results.chunks_exact(2) {
        let lags = (number(&pair[0], "lag_ms")?, number(&pair[1], "lag_ms")?);
        let apart = (lags.0 - lags.1).abs();
        apart_most = apart_most.max(apart);
        checks.expect(apart <= ALIGNMENT_MS, || {
            format!("{}: caller and callee are {apart:.1} ms apart from the wire (lags {lags:?})", pair[0]["name"])
        });
        // The file begins on the grid: at most one step before the first audio.
        checks.expect([lags.0, lags.1].iter().all(|lag| (-ALIGNMENT_MS..=20.0 + ALIGNMENT_MS).contains(lag)), || {
            format!("{}: lags {lags:?} ms behind the wire", pair[0]["name"])
        });
    }
    for track in results {
        let (recorded, direct) = (number(track, "pesq_recorded")?, number(track, "pesq_direct")?);
        recorded_sum += recorded;
        direct_sum += direct;
        loss_most = loss_most.max(direct - recorded);
    }
    let count = results.len() as f64;
    let (recorded, direct) = (recorded_sum / count, direct_sum / count);
    println!(
        "  {} tracks heard: PESQ {recorded:.3} recorded, {direct:.3} coded directly (largest loss {loss_most:.3}); sides at most {apart_most:.2} ms apart",
        results.len()
    );
    // Which frames of the speech fall together into a codec frame differs from the direct coding, which moves a single
    // track's score by some hundredths either way: the mean is held to the bound.
    checks.expect(direct - recorded <= PESQ_LOSS, || {
        format!("PESQ {recorded:.3} is more than {PESQ_LOSS} below {direct:.3}, the codec's own")
    });
    Ok(())
}

/// The two-channel file by HTTP and by the command line, decoded by ffmpeg and by opusdec.
fn players(
    environment: &Environment<'_>,
    recorder: &Recorder,
    recording: &Recording,
    run: &Path,
    directory: &Path,
    checks: &mut Checks,
) -> Result<()> {
    let id = &recording.id;
    let dual = directory.join(format!("{id}.opus"));
    let path = format!("/api/v1/recordings/{id}/audio?format=opus&channels=dual");
    let response = recorder.get(&path)?;
    fs::write(&dual, &response.body).with_context(|| format!("cannot write {}", dual.display()))?;

    let exported = directory.join(format!("{id}-exported.opus"));
    let store = run.join("store");
    let words: Vec<&OsStr> = ["recordings", "export", id, "--store"].map(OsStr::new).to_vec();
    let mut words = words;
    words.push(store.as_os_str());
    words.extend(["--format", "opus", "--channels", "dual", "-o"].map(OsStr::new));
    words.push(exported.as_os_str());
    recorder::command_line(&environment.program, &words)?;
    let same = fs::read(&exported).with_context(|| format!("cannot read {}", exported.display()))? == response.body;
    checks.expect(same, || format!("{id}: the exported file differs from the one that HTTP gives"));

    for player in ["ffmpeg", "opusdec"] {
        let decoded = directory.join(format!("{id}-{player}.wav"));
        let mut command = process::command(&Network::Own, player);
        match player {
            "ffmpeg" => command
                .args(["-v", "error", "-xerror", "-y", "-i"])
                .arg(&dual)
                .args(["-c:a", "pcm_s16le"])
                .arg(&decoded),
            _ => command.args(["--quiet", "--force-wav"]).arg(&dual).arg(&decoded),
        };
        process::output(&mut command)?;
        let wav = Wav::read(&decoded)?;
        checks.expect(wav.channels == 2, || format!("{id}: {player} decodes {} channels", wav.channels));
        let difference = wav.duration_seconds() - recording.duration_seconds;
        checks.expect(difference.abs() <= 0.04, || {
            format!("{id}: {player} decodes {:.3} s of {:.3} s", wav.duration_seconds(), recording.duration_seconds)
        });
        for (index, name) in ["caller", "callee"].iter().enumerate() {
            let power: f64 = wav.channel(index).iter().map(|&sample| f64::from(sample).powi(2)).sum();
            let level = (power / (wav.samples.len().max(1) as f64 / 2.0)).sqrt();
            checks.expect(level > 100.0, || format!("{id}: {player} hears no {name} (effective value {level:.0})"));
        }
    }
    Ok(())
}

fn build_direct(environment: &Environment<'_>) -> Result<PathBuf> {
    let workspace = environment.workspace;
    product::run_cargo(
        workspace,
        &["build", "--quiet", "--release", "--package", "sidetone-testkit", "--example", "opus-direct"],
    )?;
    Ok(workspace.target.join("release/examples/opus-direct"))
}
