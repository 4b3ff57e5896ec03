//! The files in the hands of other programs: ffmpeg (its own decoder and libopus), ffprobe, opusdec, opusinfo. A program
//! that is not installed is named loudly and skipped; under CI it fails the test.

use crate::testing::{FIRST_TICK, MemorySource, amplitude, babble, document, encode, tone};
use crate::{Channels, Format};
use sidetone_model::{Tick, TrackId};
use std::path::Path;
use std::process::Command;

const CALLER_HZ: f64 = 440.0;
const CALLEE_HZ: f64 = 1100.0;
const SECONDS: usize = 23;
/// The caller says nothing from 8 s to 12 s; the callee is there from 3.5 s on.
const CALLER_PAUSE_TICKS: std::ops::Range<usize> = 400..600;
const CALLEE_OFFSET_TICKS: u64 = 175;
/// At 48 kHz: 23 s less the pre-skip.
const SAMPLES: usize = SECONDS * 48_000 - 312;

fn is_installed(program: &str) -> bool {
    let found = Command::new(program).arg("-version").output().is_ok();
    if !found {
        eprintln!("SKIPPED: {program} is not installed, so its reading of our files is not checked");
        assert!(std::env::var_os("CI").is_none(), "{program} has to be installed under CI");
    }
    found
}

fn run(program: &str, arguments: &[&str]) -> (Vec<u8>, String) {
    let output = Command::new(program).args(arguments).output().unwrap();
    let messages = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{program} {arguments:?}: {messages}");
    (output.stdout, messages)
}

fn samples(bytes: &[u8]) -> Vec<i16> {
    bytes.chunks_exact(2).map(|pair| i16::from_le_bytes([pair[0], pair[1]])).collect()
}

fn two_tones() -> MemorySource {
    let source = MemorySource::default();
    let caller = encode(&tone(CALLER_HZ, SECONDS as f64), |tick| !CALLER_PAUSE_TICKS.contains(&tick));
    let callee = encode(&tone(CALLEE_HZ, SECONDS as f64 - 3.5), |_| true);
    source.store(TrackId(0), FIRST_TICK, &caller);
    source.store(TrackId(1), Tick(FIRST_TICK.0 + CALLEE_OFFSET_TICKS), &callee);
    source
}

/// Which tone is where, in half seconds; `samples` at 48 kHz, two channels.
fn check_two_tones(samples: &[i16], player: &str) {
    assert_eq!(samples.len(), SAMPLES * 2, "{player}: length in samples");
    for half in 0..SECONDS * 2 {
        let window = half * 24_000..((half + 1) * 24_000).min(SAMPLES);
        let channel = |channel: usize| -> Vec<i16> {
            samples[window.start * 2..window.end * 2].iter().skip(channel).step_by(2).copied().collect()
        };
        let (left, right) = (channel(0), channel(1));
        let caller_speaks = !(16..24).contains(&half);
        let callee_speaks = half >= 7;
        let loudness = [
            ("caller left", amplitude(&left, CALLER_HZ, 48_000.0), caller_speaks),
            ("callee right", amplitude(&right, CALLEE_HZ, 48_000.0), callee_speaks),
            ("callee left", amplitude(&left, CALLEE_HZ, 48_000.0), false),
            ("caller right", amplitude(&right, CALLER_HZ, 48_000.0), false),
        ];
        for (what, amplitude, speaks) in loudness {
            let as_expected = if speaks { (6000.0..10_000.0).contains(&amplitude) } else { amplitude < 250.0 };
            assert!(as_expected, "{player}: {what} at {} s has amplitude {amplitude:.0}", half as f64 / 2.0);
        }
    }
    // The callee begins to the millisecond where it should: 3.5 s.
    let right: Vec<i16> = samples.iter().skip(1).step_by(2).copied().collect();
    let onset = right.iter().position(|sample| sample.abs() > 2000).unwrap();
    assert!((168_000 - 48..168_000 + 96).contains(&onset), "{player}: the callee begins at sample {onset}");
}

fn written(directory: &Path, name: &str, bytes: &[u8]) -> String {
    let path = directory.join(name);
    std::fs::write(&path, bytes).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn ffmpeg_plays_caller_left_and_callee_right() {
    if !is_installed("ffmpeg") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = written(directory.path(), "dual.opus", &two_tones().file(&document(), Format::Opus, Channels::Dual));
    for decoder in ["libopus", "opus"] {
        let arguments = ["-v", "warning", "-c:a", decoder, "-i", &path, "-f", "s16le", "-ac", "2", "-ar", "48000", "-"];
        let (bytes, messages) = run("ffmpeg", &arguments);
        assert_eq!(messages, "", "ffmpeg with {decoder}");
        check_two_tones(&samples(&bytes), decoder);
    }
}

#[test]
fn opusdec_plays_caller_left_and_callee_right() {
    if !is_installed("opusdec") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = written(directory.path(), "dual.opus", &two_tones().file(&document(), Format::Opus, Channels::Dual));
    let raw = directory.path().join("dual.raw");
    run("opusdec", &["--quiet", "--no-dither", "--rate", "48000", &path, raw.to_str().unwrap()]);
    check_two_tones(&samples(&std::fs::read(raw).unwrap()), "opusdec");
}

#[test]
fn ffprobe_and_opusinfo_find_nothing_to_complain_about() {
    let directory = tempfile::tempdir().unwrap();
    for (channels, count) in [(Channels::Dual, 2), (Channels::Mix, 1), (Channels::Far, 1)] {
        let file = two_tones().file(&document(), Format::Opus, channels);
        let path = written(directory.path(), "checked.opus", &file);
        if is_installed("ffprobe") {
            let fields = "stream=codec_name,channels,sample_rate:format=duration";
            let (bytes, messages) =
                run("ffprobe", &["-v", "warning", "-show_entries", fields, "-of", "csv=p=0", &path]);
            assert_eq!(messages, "", "ffprobe, {channels}");
            let expected = format!("opus,48000,{count}\n{:.6}\n", SECONDS as f64);
            // ffprobe counts the pre-skip as playing time.
            assert_eq!(String::from_utf8(bytes).unwrap(), expected, "{channels}");
        }
        if is_installed("opusinfo") {
            let (bytes, messages) = run("opusinfo", &[&path]);
            let text = String::from_utf8(bytes).unwrap();
            assert_eq!(messages, "", "opusinfo, {channels}");
            assert!(!text.to_lowercase().contains("warning"), "opusinfo, {channels}: {text}");
            assert!(text.contains("Playback length: 0m:22.993s"), "{channels}: {text}");
            assert!(text.contains("CALLEE=Büro \"Süd\" 200"), "{channels}: {text}");
            assert!(text.contains("Packet duration:   20.0ms (max),   20.0ms (avg),   20.0ms (min)"), "{text}");
        }
    }
}

#[test]
fn speech_in_a_dual_file_is_what_each_side_gives_alone() {
    if !is_installed("ffmpeg") {
        return;
    }
    let source = MemorySource::default();
    source.store(TrackId(0), FIRST_TICK, &encode(&babble(11, 30.0), |tick| tick % 50 != 31));
    source.store(TrackId(1), Tick(FIRST_TICK.0 + 40), &encode(&babble(12, 25.0), |tick| tick % 70 > 20));
    let directory = tempfile::tempdir().unwrap();
    let decode = |channels: Channels, count: &str| {
        let path = written(directory.path(), "speech.opus", &source.file(&document(), Format::Opus, channels));
        let arguments =
            ["-v", "error", "-c:a", "libopus", "-i", &path, "-f", "s16le", "-ac", count, "-ar", "48000", "-"];
        samples(&run("ffmpeg", &arguments).0)
    };
    let dual = decode(Channels::Dual, "2");
    for (index, channels) in [Channels::Caller, Channels::Callee].into_iter().enumerate() {
        let side: Vec<i16> = dual.iter().skip(index).step_by(2).copied().collect();
        assert_eq!(side, decode(channels, "1"), "{channels}");
    }
}

#[test]
fn a_wav_is_what_another_decoder_makes_of_the_opus_file() {
    if !is_installed("ffmpeg") {
        return;
    }
    let source = MemorySource::default();
    source.store(TrackId(0), FIRST_TICK, &encode(&babble(21, 30.0), |_| true));
    source.store(TrackId(1), Tick(FIRST_TICK.0 + 40), &encode(&babble(22, 28.0), |_| true));
    let directory = tempfile::tempdir().unwrap();
    let decode = |format: Format| {
        let path = written(directory.path(), "file", &source.file(&document(), format, Channels::Dual));
        let (bytes, messages) = run("ffmpeg", &["-v", "error", "-i", &path, "-f", "s16le", "-ar", "8000", "-"]);
        assert_eq!(messages, "", "{format}");
        samples(&bytes)
    };
    let (opus, wav) = (decode(Format::Opus), decode(Format::Wav));
    assert_eq!(wav.len(), (30 * 8000 - 52) * 2);
    assert_eq!(opus.len(), wav.len());
    // FFmpeg decodes at 48 kHz and filters on the way down to 8 kHz, so samples differ, but not their places.
    for channel in 0..2 {
        let of =
            |samples: &[i16]| -> Vec<f64> { samples.iter().skip(channel).step_by(2).map(|&s| f64::from(s)).collect() };
        let (opus, wav) = (of(&opus), of(&wav));
        let middle = 20_000..220_000;
        let product = |a: &[f64], b: &[f64]| -> f64 { a.iter().zip(b).map(|(a, b)| a * b).sum() };
        let energy = product(&wav[middle.clone()], &wav[middle.clone()]);
        let likeness = |lag: usize| {
            let theirs = &opus[middle.start + lag - 8..middle.end + lag - 8];
            product(theirs, &wav[middle.clone()]) / (energy * product(theirs, theirs)).sqrt()
        };
        let best = (0..17).max_by(|&a, &b| likeness(a).total_cmp(&likeness(b))).unwrap();
        assert!(best.abs_diff(8) <= 1, "channel {channel} is shifted by {best} - 8 samples of 125 µs");
        assert!(likeness(best) > 0.85, "channel {channel} is alike to {:.3}", likeness(best));
    }
}
