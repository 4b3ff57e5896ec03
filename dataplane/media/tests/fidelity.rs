//! Recorded speech held against the speech that was said, by tools that are not ours: espeak-ng speaks, ffmpeg decodes
//! G.711, the Python package `pesq` judges (ITU-T P.862). A tool that is missing skips its test, loudly; under `CI` it
//! fails.
#![forbid(unsafe_code)]

mod support;

use opus::{Application, Bitrate, Channels, Decoder, Encoder};
use sidetone_media::TrackConfig;
use sidetone_media::g711::Law;
use sidetone_model::CaptureTime;
use std::io::Write as _;
use std::process::{Command, Stdio};
use support::*;

/// Runs a tool with bytes on its standard input; `None`, said aloud, when it cannot be had.
fn tool(test: &str, program: &str, arguments: &[&str], input: &[u8]) -> Option<Vec<u8>> {
    let spawned = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let outcome = spawned.and_then(|mut child| {
        let mut standard_input = child.stdin.take().expect("piped");
        let bytes = input.to_vec();
        let writer = std::thread::spawn(move || standard_input.write_all(&bytes));
        let output = child.wait_with_output()?;
        // A tool may stop reading before the end; its exit status tells whether it was content.
        drop(writer.join());
        Ok(output)
    });
    match outcome {
        Ok(output) if output.status.success() => Some(output.stdout),
        other => {
            let why = match other {
                Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
                Err(error) => error.to_string(),
            };
            println!("SKIPPED {test}: {program} cannot be used: {why}");
            assert!(std::env::var_os("CI").is_none(), "{program} is needed under CI");
            None
        }
    }
}

fn samples_of(bytes: &[u8]) -> Vec<i16> {
    bytes.chunks_exact(2).map(|b| i16::from_le_bytes([b[0], b[1]])).collect()
}

fn bytes_of(samples: &[i16]) -> Vec<u8> {
    samples.iter().flat_map(|s| s.to_le_bytes()).collect()
}

/// About 20 s of speech at 8 kHz, twice if need be.
fn speech(test: &str, voice: &str) -> Option<Vec<i16>> {
    let text = "The birch canoe slid on the smooth planks. Glue the sheet to the dark blue background. It is easy to tell \
                the depth of a well. These days a chicken leg is a rare dish. Rice is often served in round bowls. The \
                juice of lemons makes fine punch. The box was thrown beside the parked truck.";
    let wav = tool(test, "espeak-ng", &["-v", voice, "-s", "150", "--stdout", text], &[])?;
    let raw = tool(
        test,
        "ffmpeg",
        &["-v", "error", "-f", "wav", "-i", "pipe:0", "-f", "s16le", "-ac", "1", "-ar", "8000", "pipe:1"],
        &wav,
    )?;
    Some(samples_of(&raw))
}

/// P.862 narrowband of two signals of the same length.
fn pesq(test: &str, said: &[i16], heard: &[i16]) -> Option<f64> {
    let directory = tempfile::tempdir().expect("a directory");
    let write = |name: &str, samples: &[i16]| {
        let path = directory.path().join(name);
        std::fs::write(&path, bytes_of(samples)).expect("writing a file");
        path.to_str().expect("a path in UTF-8").to_owned()
    };
    let (said, heard) = (write("said", said), write("heard", heard));
    let program = "import sys, numpy, pesq\n\
                   a, b = (numpy.fromfile(p, dtype='<i2') for p in sys.argv[1:3])\n\
                   print(pesq.pesq(8000, a, b, 'nb'))";
    let output = tool(test, "python3", &["-c", program, &said, &heard], &[])?;
    String::from_utf8_lossy(&output).trim().parse().ok()
}

/// Straight through libopus at the track's setting, with the pre-skip taken off.
fn through_opus(samples: &[i16], config: &TrackConfig) -> Vec<i16> {
    let mut encoder = Encoder::new(8000, Channels::Mono, Application::Voip).unwrap();
    encoder.set_bitrate(Bitrate::Bits(config.bitrate_bits_per_second as i32)).unwrap();
    encoder.set_complexity(i32::from(config.complexity)).unwrap();
    let mut decoder = Decoder::new(8000, Channels::Mono).unwrap();
    let mut heard = Vec::new();
    let mut padded = samples.to_vec();
    padded.resize(samples.len().next_multiple_of(160) + 160, 0);
    for frame in padded.chunks_exact(160) {
        let packet = encoder.encode_vec(frame, 400).unwrap();
        let mut decoded = [0i16; 160];
        decoder.decode(&packet, &mut decoded, false).unwrap();
        heard.extend_from_slice(&decoded);
    }
    heard.drain(..PRE_SKIP);
    heard.truncate(samples.len());
    heard
}

/// How a phone sends and a network delivers.
struct Network {
    ppm: f64,
    jitter_ms: f64,
    /// One packet in so many is lost, none at 0, beginning with this one.
    lost_every: usize,
    first_lost: usize,
}

/// Sends speech through a track, with the first packet undelayed at `EPOCH_NS + start_ns`. Gives what is heard at the
/// times at which it was said.
fn record(said: &[i16], law: Law, config: &TrackConfig, path: &Network, start_ns: u64) -> Vec<i16> {
    let mut track = new_track(config);
    let slot = open(&mut track, 1);
    let mut writer = Writer::default();
    let mut random = Random(0x5eed);
    let mut arrivals: Vec<(u64, Vec<u8>)> = said
        .chunks_exact(160)
        .enumerate()
        .filter(|(i, _)| path.lost_every == 0 || i % path.lost_every != path.first_lost)
        .map(|(i, frame)| {
            let packet = Rtp {
                payload_type: if law == Law::A { 8 } else { 0 },
                marker: i == 0,
                sequence: (i as u16).wrapping_add(65_000),
                timestamp: (i as u32 * 160).wrapping_sub(70_000),
                payload: encode_g711(law, frame),
            };
            let sent = (i as f64 * 20e6 / (1.0 + path.ppm * 1e-6)) as u64;
            // Mostly prompt, with a long tail.
            let delay = if i == 0 { 0.0 } else { random.unit().powi(3) * path.jitter_ms * 1e6 };
            (EPOCH_NS + start_ns + sent + delay as u64, packet.bytes())
        })
        .collect();
    arrivals.sort();
    for (i, (at, packet)) in arrivals.iter().enumerate() {
        track.on_packet(slot, CaptureTime(*at), packet, &mut writer);
        if i % 5 == 4 {
            track.on_tick(CaptureTime(*at), &mut writer);
        }
    }
    track.finish(CaptureTime(arrivals.last().unwrap().0), &mut writer);
    let accounting = track.accounting();
    assert!(accounting.is_balanced() && accounting.encoded == arrivals.len() as u64, "{accounting:?}");
    let (played_from, mut heard) = writer.play();
    let skip = (EPOCH_NS + start_ns - played_from) / SAMPLE_NS;
    heard.drain(..skip as usize);
    heard.resize(said.len(), 0);
    heard
}

#[test]
fn g711_tables_are_ffmpegs() {
    let codes: Vec<u8> = (0..=255).collect();
    for (law, name) in [(Law::A, "alaw"), (Law::Mu, "mulaw")] {
        let arguments = [
            "-v",
            "error",
            "-f",
            name,
            "-ar",
            "8000",
            "-ac",
            "1",
            "-i",
            "pipe:0",
            "-f",
            "s16le",
            "-c:a",
            "pcm_s16le",
            "pipe:1",
        ];
        let Some(decoded) = tool("g711_tables_are_ffmpegs", "ffmpeg", &arguments, &codes) else { return };
        let ours: Vec<i16> = codes.iter().map(|code| law.decode_sample(*code)).collect();
        assert_eq!(samples_of(&decoded), ours, "{name}: all 256 codes");
    }
}

#[test]
fn speech_is_as_good_as_opus_alone_and_in_its_place() {
    const TEST: &str = "speech_is_as_good_as_opus_alone_and_in_its_place";
    let config = TrackConfig::default();
    for (voice, law, start_ns) in [("en-us", Law::A, 0), ("en-us+f3", Law::Mu, 7_333_337)] {
        let Some(said) = speech(TEST, voice) else { return };
        let on_the_wire = through_g711(law, &said);
        let direct = through_opus(&on_the_wire, &config);
        let Some(direct_pesq) = pesq(TEST, &on_the_wire, &direct) else { return };
        println!("{voice} {law:?}: libopus alone: PESQ {direct_pesq:.3}");
        for (what, path, allowed) in [
            ("clean", Network { ppm: 0.0, jitter_ms: 0.0, lost_every: 0, first_lost: 8 }, 0.05),
            ("60 ms of jitter, +100 ppm", Network { ppm: 100.0, jitter_ms: 60.0, lost_every: 0, first_lost: 8 }, 0.05),
            ("60 ms of jitter, -200 ppm", Network { ppm: -200.0, jitter_ms: 60.0, lost_every: 0, first_lost: 8 }, 0.05),
            // What concealment leaves of it; silence instead would cost more than one.
            ("one packet in 50 lost", Network { ppm: 0.0, jitter_ms: 10.0, lost_every: 50, first_lost: 8 }, 0.8),
            (
                "one packet in 50 lost, 60 ms of jitter",
                Network { ppm: 0.0, jitter_ms: 60.0, lost_every: 50, first_lost: 8 },
                0.8,
            ),
            ("120 ms of jitter", Network { ppm: 0.0, jitter_ms: 120.0, lost_every: 0, first_lost: 8 }, 0.05),
        ] {
            let heard = record(&on_the_wire, law, &config, &path, start_ns);
            let Some(score) = pesq(TEST, &on_the_wire, &heard) else { return };
            let lags: Vec<f64> = (1..on_the_wire.len() / 8000 - 1)
                .map(|second| best_lag(&on_the_wire, &heard, second * 8000, 8000, 400))
                .filter(|(_, alike)| *alike > 0.6)
                .map(|(lag, _)| lag as f64 / 8.0)
                .collect();
            let worst = lags.iter().fold(0.0f64, |worst, lag| worst.max(lag.abs()));
            println!(
                "{voice} {law:?}: {what}: PESQ {score:.3}, at most {worst:.2} ms out of place in {} s",
                lags.len()
            );
            assert!(score >= direct_pesq - allowed, "{what}: {score} against {direct_pesq}");
            assert!(lags.len() >= 5 && worst <= 4.0, "{what}: {lags:?}");
        }
    }
}

#[test]
fn concealment_is_worth_having() {
    const TEST: &str = "concealment_is_worth_having";
    let config = TrackConfig { bitrate_bits_per_second: 32_000, ..TrackConfig::default() };
    let Some(said) = speech(TEST, "en-us") else { return };
    let on_the_wire = through_g711(Law::A, &said);
    let (mut with_silence, mut concealed) = (0.0, 0.0);
    // Which sounds are hit decides much: several patterns of loss.
    const PATTERNS: [usize; 4] = [3, 9, 15, 21];
    for first_lost in PATTERNS {
        let mut silenced = on_the_wire.clone();
        for (_, frame) in silenced.chunks_exact_mut(160).enumerate().filter(|(i, _)| i % 25 == first_lost) {
            frame.fill(0);
        }
        let network = Network { ppm: 0.0, jitter_ms: 0.0, lost_every: 25, first_lost };
        let Some(score) = pesq(TEST, &on_the_wire, &through_opus(&silenced, &config)) else { return };
        with_silence += score / PATTERNS.len() as f64;
        let Some(score) = pesq(TEST, &on_the_wire, &record(&on_the_wire, Law::A, &config, &network, 0)) else { return };
        concealed += score / PATTERNS.len() as f64;
    }
    println!("4 % of the packets lost: PESQ {concealed:.3} with concealment, {with_silence:.3} with silence");
    assert!(concealed > with_silence + 0.2);
}

/// Both phones of a call, one 100 ppm fast and one 100 ppm slow, for an hour: what is said at one moment is heard at one
/// moment. The audio itself is looked at, once every six minutes.
#[test]
fn an_hour_with_drifting_phones_stays_aligned() {
    const SECONDS: usize = 3600;
    let config = TrackConfig { complexity: 0, ..TrackConfig::default() };
    let period = warble(8000 * 30);
    // Said by the wall clock; each phone samples it with its own.
    let said: Vec<i16> = (0..SECONDS * 8000).map(|i| period[i % period.len()]).collect();
    let worst: Vec<f64> = [100.0, -100.0]
        .into_iter()
        .map(|ppm| {
            let sampled: Vec<i16> = (0..)
                .map(|i| (i as f64 / (1.0 + ppm * 1e-6)).round() as usize)
                .take_while(|i| *i < said.len())
                .map(|i| said[i])
                .collect();
            let path = Network { ppm, jitter_ms: 40.0, lost_every: 0, first_lost: 8 };
            let heard = record(&sampled, Law::A, &config, &path, 3_000_000);
            let lags: Vec<(i64, f64)> =
                (1..10).map(|i| best_lag(&said, &heard, i * 360 * 8000 + 4000, 8000, 320)).collect();
            assert!(lags.iter().all(|(_, alike)| *alike > 0.8), "{ppm} ppm: {lags:?}");
            lags.iter().map(|(lag, _)| (*lag as f64 / 8.0).abs()).fold(0.0, f64::max)
        })
        .collect();
    println!("an hour at +100 ppm: at most {:.2} ms out of place; at -100 ppm: {:.2} ms", worst[0], worst[1]);
    assert!(worst.iter().all(|ms| *ms <= 4.0), "{worst:?}");
}
