//! The binary as its user meets it: what it prints, and how it ends.

mod support;

use std::path::Path;
use std::process::{Command, Stdio};
use support::{path, refused, sidetone, store_of_two_calls, text};

#[test]
fn what_cannot_begin_is_refused_with_cause_and_remedy() {
    let directory = tempfile::tempdir().unwrap();
    let store = path(directory.path(), "store");
    let config = path(directory.path(), "sidetone.toml");

    refused(
        &["config", "check", "--config", "/nonexistent/sidetone.toml"],
        &["/nonexistent/sidetone.toml", "No such file"],
    );
    std::fs::write(&config, "[audio]\ncomplexty = 3\n").unwrap();
    refused(&["config", "check", "--config", &config], &["complexty", "did you mean 'complexity'?"]);
    std::fs::write(&config, "[audio\n").unwrap();
    refused(&["config", "check", "--config", &config], &["line 1"]);

    refused(&["run", "--store", &store], &["--interface"]);
    refused(&["run", "--store", &store, "--interface", "nosuch0", "--listen", "127.0.0.1:0"], &["nosuch0", "ip link"]);
    refused(&["run", "--store", &store, "--interface", "lo", "--listen", "0.0.0.0:0"], &["0.0.0.0", "127.0.0.1"]);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    refused(&["run", "--store", &store, "--interface", "lo", "--listen", &address], &[&address, "in use"]);

    refused(&["replay", "/nonexistent.pcap", "--store", &store], &["/nonexistent.pcap"]);
    refused(&["replay", "/nonexistent.pcap", "--store", &store, "--json"], &["/nonexistent.pcap"]);
    let garbage = path(directory.path(), "garbage.pcap");
    std::fs::write(&garbage, vec![0x5a; 4096]).unwrap();
    refused(&["replay", &garbage, "--store", &store], &["garbage.pcap", "not a capture file"]);

    let foreign = path(directory.path(), "foreign");
    std::fs::create_dir(&foreign).unwrap();
    std::fs::write(path(Path::new(&foreign), "letters.txt"), "dear").unwrap();
    refused(&["recordings", "list", "--store", &foreign], &["foreign"]);
    for json in [&[][..], &["--json"]] {
        refused(&[&["recordings", "list", "--store", "/nonexistent-store"], json].concat(), &["/nonexistent-store"]);
    }
    let output = sidetone(&["replay", "call.pcap"]);
    assert!(output.status.code() == Some(2) && text(&output.stderr).contains("--store"), "{}", text(&output.stderr));
}

#[test]
fn a_capture_becomes_recordings_that_can_be_listed_shown_and_exported() {
    let directory = tempfile::tempdir().unwrap();
    let capture = path(directory.path(), "calls.pcap");
    let store = path(directory.path(), "store");
    let truth = support::two_calls(Path::new(&capture));

    let output = sidetone(&["replay", &capture, "--store", &store, "--json"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let first: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let recordings = first["recordings"].as_array().unwrap();
    assert_eq!(recordings.len(), truth.len(), "{first:#}");
    for (recording, call) in recordings.iter().zip(&truth) {
        assert_eq!(recording["state"], "complete");
        assert_eq!(recording["legs"][0]["call_id"], call.call_id);
        assert_eq!(recording["end_reason"], "caller_hung_up");
        let tracks = recording["tracks"].as_array().unwrap();
        assert_eq!(tracks.len(), 2);
        for (track, packets) in tracks.iter().zip(call.packets) {
            assert_eq!(track["streams"][0]["packets"], packets);
            assert_eq!(track["streams"][0]["lost"], 0);
            let seconds = track["duration_seconds"].as_f64().unwrap();
            assert!((seconds - packets as f64 * 0.02).abs() <= 0.04, "{seconds} s from {packets} packets");
        }
    }

    // The same capture again: same answer, nothing added.
    let size = stored(Path::new(&store));
    let output = sidetone(&["replay", &capture, "--store", &store, "--json"]);
    let second: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(second["recordings"], first["recordings"]);
    assert_eq!(second["captures"][0]["already_in_store"], true);
    assert_eq!(stored(Path::new(&store)), size);

    let output = sidetone(&["recordings", "list", "--store", &store, "--json"]);
    let listed: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(listed["recordings"].as_array().unwrap().len(), truth.len());

    let id = recordings[0]["id"].as_str().unwrap();
    let output = sidetone(&["recordings", "show", id, "--store", &store, "--json"]);
    let mut shown: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let proof = shown.as_object_mut().unwrap().remove("proof");
    assert!(proof.is_some_and(|proof| proof["chunks"].as_u64() > Some(5)), "it is sealed when the command ends");
    assert_eq!(shown, recordings[0]);

    for (format, magic) in [("opus", &b"OggS"[..]), ("wav", &b"RIFF"[..])] {
        for channels in ["dual", "mix", "near", "far", "caller", "callee"] {
            let file = path(directory.path(), &format!("{channels}.{format}"));
            let arguments = [
                "recordings",
                "export",
                id,
                "--store",
                &store,
                "--format",
                format,
                "--channels",
                channels,
                "-o",
                &file,
            ];
            let output = sidetone(&arguments);
            assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
            assert!(std::fs::read(&file).unwrap().starts_with(magic));
            refused(&arguments, &["cannot create", "never replaced"]);
        }
    }
    refused(&["recordings", "show", "00000000-0000-7000-8000-000000000000", "--store", &store], &["no recording"]);
}

#[test]
fn a_truncated_capture_is_replayed_up_to_its_end_and_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let capture = path(directory.path(), "calls.pcap");
    support::two_calls(Path::new(&capture));
    let whole = std::fs::read(&capture).unwrap();
    std::fs::write(&capture, &whole[..whole.len() / 2 + 7]).unwrap();
    let store = path(directory.path(), "store");
    // The store that the configuration names.
    let config = path(directory.path(), "sidetone.toml");
    std::fs::write(&config, format!("[store]\ndirectory = \"{store}\"\n")).unwrap();
    let output = sidetone(&["replay", &capture, "-c", &config, "--json"]);
    assert!(output.status.success() && Path::new(&store).exists(), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("ends in the middle of a packet"), "{}", text(&output.stderr));
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["captures"][0]["truncated"], true);
    assert!(!document["recordings"].as_array().unwrap().is_empty());
}

#[test]
fn a_capture_that_is_damaged_in_the_middle_leaves_no_call_running() {
    let directory = tempfile::tempdir().unwrap();
    let capture = path(directory.path(), "calls.pcap");
    support::two_calls(Path::new(&capture));
    let mut bytes = std::fs::read(&capture).unwrap();
    let middle = bytes.len() / 2;
    bytes.splice(middle..middle, std::iter::repeat_n(0xa5, 3000));
    std::fs::write(&capture, bytes).unwrap();
    let store = path(directory.path(), "store");
    refused(&["replay", &capture, "--store", &store], &["calls.pcap", "corrupt at byte"]);
    let output = sidetone(&["recordings", "list", "--store", &store, "--json"]);
    let listed: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let recordings = listed["recordings"].as_array().unwrap();
    assert!(!recordings.is_empty(), "what was read is kept");
    assert!(recordings.iter().all(|recording| recording["state"] != "active"), "{listed:#}");
}

#[test]
fn a_closed_pipe_ends_a_command_quietly_and_a_full_disk_with_one_line() {
    let directory = tempfile::tempdir().unwrap();
    let [store, copy, restored, config] =
        ["store", "copy", "restored", "sidetone.toml"].map(|name| path(directory.path(), name));
    let ids = store_of_two_calls(directory.path(), &store);
    std::fs::write(&config, "").unwrap();
    let capture = path(directory.path(), "calls.pcap");
    // The second time a file is there already; that comes before anything is printed.
    let files = ["a", "b", "c", "d"].map(|name| path(directory.path(), name));
    let on = ["--store", store.as_str()];
    let mut files = files.iter();
    for json in [&[][..], &["--json"]] {
        let mut commands = vec![
            vec!["recordings", "list", "--count"],
            vec!["recordings", "show", &ids[0]],
            vec!["recordings", "tag", &ids[0], "a=b"],
            vec!["store", "stats"],
            vec!["store", "verify"],
            vec!["store", "rebuild"],
            vec!["store", "backup", &copy],
            vec!["replay", &capture],
        ];
        commands.iter_mut().for_each(|command| command.extend(on.iter().chain(json)));
        commands.push([&["config", "check", "--config", &config][..], json].concat());
        commands.push([&["config", "print"][..], json].concat());
        commands.push([&["config", "print", "--config", &config][..], json].concat());
        if json.is_empty() {
            commands.extend([vec!["--help"], vec!["--version"], vec!["store", "rebuild", "--help"]]);
        }
        for (full, code) in [(false, 0), (true, 1)] {
            let mut commands = commands.clone();
            commands.push([&["recordings", "export", &ids[0], "-o", files.next().unwrap()][..], &on, json].concat());
            commands.push([&["store", "restore", copy.as_str(), "--store", &restored][..], json].concat());
            for command in &commands {
                let out: Stdio = match full {
                    true => std::fs::File::options().write(true).open("/dev/full").unwrap().into(),
                    // The reading end is gone.
                    false => std::io::pipe().unwrap().1.into(),
                };
                let mut process = Command::new(env!("CARGO_BIN_EXE_sidetone"));
                let output = process.args(command).stdout(out).stderr(Stdio::piped()).output().unwrap();
                let said = text(&output.stderr);
                assert_eq!(output.status.code(), Some(code), "{command:?}: {said}");
                assert_eq!(
                    said.contains("cannot write to standard output: No space left"),
                    full,
                    "{command:?}: {said}"
                );
                assert_eq!(said.lines().count(), usize::from(full), "{command:?}: {said}");
            }
            std::fs::remove_dir_all(&restored).unwrap();
        }
    }
}

#[test]
fn a_log_that_nobody_reads_any_more_ends_no_command() {
    let directory = tempfile::tempdir().unwrap();
    let capture = path(directory.path(), "calls.pcap");
    support::two_calls(Path::new(&capture));
    let mut process = Command::new(env!("CARGO_BIN_EXE_sidetone"));
    process.args(["replay", &capture, "--store", &path(directory.path(), "store")]).env("SIDETONE_LOG", "debug");
    let output = process.stderr(std::io::pipe().unwrap().1).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stdout));
    // An error has nowhere to go, either.
    let mut process = Command::new(env!("CARGO_BIN_EXE_sidetone"));
    let output = process.args(["replay", "/nonexistent"]).stderr(std::io::pipe().unwrap().1).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
}

/// Recordings, chunks and bytes of audio in the store.
fn stored(store: &Path) -> [u64; 3] {
    let output = sidetone(&["store", "stats", "--store", &store.to_string_lossy(), "--json"]);
    let statistics: serde_json::Value = serde_json::from_slice(&output.stdout).expect("store stats prints JSON");
    ["recordings", "chunks", "chunk_bytes"].map(|name| statistics["catalog"][name].as_u64().unwrap())
}
