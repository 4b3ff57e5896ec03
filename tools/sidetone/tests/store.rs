//! Looking after a store with the binary: searching, tags, checks, a new catalog; with a recorder running and without.

mod support;

use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use support::{Recorder, is_root, json_of, path, refused, sidetone, store_of_two_calls, text};

fn listed(store: &str, conditions: &[&str]) -> Vec<String> {
    let arguments = [&["recordings", "list", "--store", store, "--json"], conditions].concat();
    let document = json_of(&arguments, 0);
    let recordings = document["recordings"].as_array().unwrap().iter();
    recordings.map(|recording| recording["id"].as_str().unwrap().to_owned()).collect()
}

fn show(store: &str, id: &str) -> Value {
    json_of(&["recordings", "show", id, "--store", store, "--json"], 0)
}

#[test]
fn recordings_are_found_by_every_condition_and_counted() {
    let directory = tempfile::tempdir().unwrap();
    let store = path(directory.path(), "store");
    let ids = store_of_two_calls(directory.path(), &store);
    let recording = show(&store, &ids[0]);
    let text_of = |pointer: &str| recording.pointer(pointer).unwrap().as_str().unwrap().to_owned();
    let (number, name) = (text_of("/parties/1/number"), text_of("/parties/1/name"));
    let call_id = text_of("/legs/0/call_id");
    let one = [ids[0].clone()];
    for conditions in [
        ["--number", &number],
        ["--number-prefix", &number[..number.len() - 1]],
        ["--number-suffix", &number[3..]],
        ["--name", &name],
        ["--party", &number],
        ["--text", &number],
        ["--call-id", &call_id],
        ["--to", recording["started_at"].as_str().unwrap().replace("00.001", "00.002").as_str()],
    ] {
        assert_eq!(listed(&store, &conditions), one, "{conditions:?}");
    }
    assert_eq!(listed(&store, &["--state", "finished", "--codec", "pcma"]).len(), 2);
    for conditions in [
        &["--number", "1"][..],
        &["--user", "nobody"],
        &["--address", "203.0.113.1"],
        &["--node", "elsewhere"],
        &["--state", "active"],
        &["--min-duration-seconds", "3600"],
        &["--max-duration-seconds", "1"],
        &["--min-loss-percent", "1"],
        &["--min-jitter-ms", "500"],
        &["--min-concealed-seconds", "5"],
        &["--tag", "none"],
        &["--hold"],
    ] {
        assert!(listed(&store, conditions).is_empty(), "{conditions:?}");
    }
    // A date alone is its first moment.
    let (day, _) = recording["started_at"].as_str().unwrap().split_once('T').unwrap();
    assert_eq!(listed(&store, &["--from", day]).len(), 2);
    assert!(listed(&store, &["--to", day]).is_empty());
    let counted = json_of(&["recordings", "list", "--store", &store, "--limit", "1", "--count", "--json"], 0);
    assert_eq!(counted["count"], json!({ "value": 2, "exact": true }));
    assert_eq!((counted["recordings"].as_array().unwrap().len(), &counted["more"]), (1, &json!(true)));
    let output = sidetone(&["recordings", "list", "--store", &store, "--count", "--hold", "false"]);
    assert!(text(&output.stdout).ends_with("\n2 recordings match\n"), "{}", text(&output.stdout));
    refused(&["recordings", "list", "--store", &store, "--max-duration-seconds", "-1"], &["--max-duration-seconds"]);
    let backwards = ["--from", "2026-01-02T00:00:00Z", "--to", "2026-01-01T00:00:00Z"];
    refused(&[&["recordings", "list", "--store", &store][..], &backwards].concat(), &["--from", "exchange"]);
}

#[test]
fn tags_are_set_and_removed_on_a_store_that_nobody_has_open() {
    let directory = tempfile::tempdir().unwrap();
    let store = path(directory.path(), "store");
    let ids = store_of_two_calls(directory.path(), &store);
    let tag = |arguments: &[&str]| {
        json_of(&[&["recordings", "tag", &ids[0], "--store", &store, "--json"], arguments].concat(), 0)
    };
    let answer = tag(&["case=17", "who=Ada = L."]);
    assert_eq!(answer["annotations"]["tags"], json!({ "case": "17", "who": "Ada = L." }));
    assert_eq!(answer["through"], "the store");
    assert_eq!(show(&store, &ids[0])["annotations"], answer["annotations"]);
    assert_eq!(listed(&store, &["--tag", "case=17", "--tag", "who"]), [ids[0].clone()]);
    let answer = tag(&["--remove", "case", "seen=", "--remove", "cause"]);
    assert_eq!(answer["annotations"]["tags"], json!({ "seen": "", "who": "Ada = L." }));
    assert_eq!(answer["not_there"], json!(["cause"]));
    let output = sidetone(&["recordings", "tag", &ids[0], "--store", &store, "--remove", "case"]);
    assert!(text(&output.stdout).contains("there was no tag case to remove\n"), "{}", text(&output.stdout));
    assert!(listed(&store, &["--tag", "case"]).is_empty());

    let on = ["--store", store.as_str()];
    let tag = |arguments: &[&'static str]| [&["recordings", "tag"], arguments, &on].concat();
    refused(&tag(&["00000000-0000-7000-8000-000000000000", "a=b"]), &["no recording", "recordings list"]);
    let id: &'static str = ids[0].clone().leak();
    let on_first = |arguments: &[&'static str]| tag(&[&[id], arguments].concat());
    refused(&on_first(&["a=b", "--remove", "a"]), &["leave one of them out"]);
    let too_long: &'static str = format!("{}=x", "k".repeat(200)).leak();
    refused(&on_first(&[too_long]), &["128 bytes"]);
    let output = sidetone(&on_first(&["novalue"]));
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("KEY=VALUE"), "{}", text(&output.stderr));
    assert_eq!(sidetone(&on_first(&[])).status.code(), Some(2), "nothing to do is a mistake");
}

#[test]
fn beside_a_running_recorder_tags_go_through_it_and_a_rebuild_is_refused() {
    if !is_root("a recorder on the loopback interface") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let store = path(directory.path(), "store");
    let ids = store_of_two_calls(directory.path(), &store);
    let recorder = Recorder::start(directory.path(), &store, "");
    let answer =
        json_of(&["recordings", "tag", &ids[1], "case=18", "--remove", "seen", "--store", &store, "--json"], 0);
    assert_eq!((&answer["annotations"]["tags"]["case"], &answer["not_there"]), (&json!("18"), &json!(["seen"])));
    let through = answer["through"].as_str().unwrap();
    assert_eq!(through, format!("the recorder (process {})", recorder.process()));
    assert_eq!(listed(&store, &["--tag", "case"]), [ids[1].clone()]);
    let (status, body) = recorder.get("/api/v1/recordings?tag=case").unwrap();
    assert!(status == 200 && body.contains(&ids[1]), "{body}");
    refused(
        &["recordings", "tag", "00000000-0000-7000-8000-000000000000", "a=b", "--store", &store],
        &["the recorder refuses (404)", "no recording"],
    );

    let process = recorder.process().to_string();
    refused(&["store", "rebuild", "--store", &store], &["in use", &process, "systemctl stop"]);
    refused(&["replay", &path(directory.path(), "calls.pcap"), "--store", &store], &["in use", &process]);
    let report = json_of(&["store", "verify", "--store", &store, "--json"], 0);
    assert_eq!((&report["bad_places"], &report["recordings"]), (&json!(0), &json!(2)), "{report:#}");
    let (status, body) = recorder.get("/readyz").unwrap();
    let ready: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status, &ready["volumes"][0]["volume"]), (200, &json!(0)), "{body}");

    assert_eq!(recorder.stop(), Some(0));
    assert!(!Path::new(&store).join("control.sock").exists());
    let answer = json_of(&["recordings", "tag", &ids[1], "--remove", "case", "--store", &store, "--json"], 0);
    assert_eq!((&answer["through"], &answer["annotations"]["tags"]), (&json!("the store"), &json!({})));
}

#[test]
fn a_backup_grows_with_its_store_and_becomes_one_again() {
    let directory = tempfile::tempdir().unwrap();
    let (store, copy) = (path(directory.path(), "store"), path(directory.path(), "copy"));
    let ids = store_of_two_calls(directory.path(), &store);
    let backup = |arguments: &[&str]| {
        json_of(&[&["store", "backup", copy.as_str(), "--store", store.as_str(), "--json"], arguments].concat(), 0)
    };
    let first = backup(&[]);
    assert_eq!((&first["through"], &first["result"]["volumes_missing"]), (&json!("the store"), &json!(0)));
    assert!(first["result"]["files"].as_u64() > Some(1), "{first:#}");
    let again = backup(&[]);
    assert!(again["result"]["files_kept"].as_u64() > Some(0), "nothing has changed: {again:#}");
    json_of(&["recordings", "tag", &ids[0], "case=17", "--store", &store, "--json"], 0);
    backup(&[]);

    let restored = path(directory.path(), "restored");
    let arguments = ["store", "restore", copy.as_str(), "--store", &restored, "--json"];
    let made = json_of(&arguments, 0);
    assert_eq!((&made["check"]["bad_places"], &made["check"]["recordings"]), (&json!(0), &json!(2)), "{made:#}");
    assert_eq!(json_of(&["store", "verify", "--store", &copy, "--json"], 0)["recordings"], 2);
    assert_eq!(listed(&restored, &["--tag", "case=17"]), [ids[0].clone()]);
    for id in &ids {
        assert_eq!(show(&restored, id), show(&store, id));
        let [before, after] = [&store, &restored].map(|store| {
            let file = path(directory.path(), &format!("{}-{id}.opus", store.len()));
            assert_eq!(export(store, id, "opus", &file).status.code(), Some(0));
            std::fs::read(file).unwrap()
        });
        assert!(before == after);
    }
    assert_eq!(json_of(&["store", "verify", "--store", &restored, "--json"], 0)["bad_places"], 0);
    json_of(&["recordings", "tag", &ids[1], "after=yes", "--store", &restored, "--json"], 0);

    refused(&arguments, &["restored", "a store", "already"]);
    let more = ["--volume", "/tmp/v"];
    let elsewhere = path(directory.path(), "elsewhere");
    refused(&[&["store", "restore", copy.as_str(), "--store", &elsewhere][..], &more].concat(), &["0 volumes"]);
    refused(&["store", "restore", &store, "--store", &elsewhere], &["no backup"]);
    refused(&["store", "backup", &restored, "--store", &store], &["no backup of this store"]);
    refused(&["store", "backup", &path(Path::new(&store), "copy"), "--store", &store], &["elsewhere"]);
    let deep = path(directory.path(), "mnt/copy");
    refused(&["store", "backup", &deep, "--store", &store], &["mnt is not there", "--parents"]);
    json_of(&["store", "backup", &deep, "--store", &store, "--parents", "--json"], 0);

    // The store loses what the backup has: the backup keeps it and says so; the restored store is checked.
    let segment = "segments/0000000001.seg";
    let kept = Path::new(&copy).join("volumes/000").join(segment);
    let whole = std::fs::read(&kept).unwrap();
    std::fs::write(Path::new(&store).join(segment), &whole[..8192]).unwrap();
    let output = sidetone(&["store", "backup", &copy, "--store", &store]);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(&format!("DIFFERS {}", kept.display())) && said.contains("store verify"), "{said}");
    assert_eq!(std::fs::read(&kept).unwrap(), whole);
    std::fs::write(&kept, &whole[..8192]).unwrap();
    let damaged = ["store", "restore", copy.as_str(), "--store", &path(directory.path(), "damaged"), "--json"];
    assert!(json_of(&damaged, 1)["check"]["bad_places"].as_u64() > Some(0));
    let unchecked =
        ["store", "restore", copy.as_str(), "--no-verify", "--store", &path(directory.path(), "unchecked"), "--json"];
    assert!(json_of(&unchecked, 0)["check"].is_null());
}

#[test]
fn a_running_recorder_makes_the_backup_itself_and_lets_nobody_else_ask() {
    if !is_root("a recorder on the loopback interface") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let (store, copy) = (path(directory.path(), "store"), path(directory.path(), "copy"));
    let ids = store_of_two_calls(directory.path(), &store);
    let recorder = Recorder::start(directory.path(), &store, "");
    let made = json_of(&["store", "backup", &copy, "--store", &store, "--json"], 0);
    assert_eq!(made["through"], format!("the recorder (process {})", recorder.process()));
    refused(&["store", "backup", &directory.path().to_string_lossy(), "--store", &store], &["no backup of this store"]);
    let mode = std::fs::metadata(Path::new(&store).join("control.sock")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "only the recorder's user may ask");
    let (status, body) = recorder.get("/control/nothing").unwrap();
    assert_eq!(status, 404, "{body}");
    assert_eq!(recorder.stop(), Some(0));

    let restored = path(directory.path(), "restored");
    json_of(&["store", "restore", &copy, "--store", &restored, "--json"], 0);
    assert_eq!(listed(&restored, &[]).len(), ids.len());
    assert_eq!(json_of(&["store", "verify", "--store", &restored, "--json"], 0)["bad_places"], 0);
}

/// Everything in a directory, and itself, that others than its owner may look at.
fn open_to_others(path: &Path) -> Vec<String> {
    let mode = std::fs::symlink_metadata(path).unwrap().permissions().mode();
    let mut found = Vec::new();
    if mode & 0o077 != 0 {
        found.push(format!("{} {mode:o}", path.display()));
    }
    if path.is_dir() {
        let entries = std::fs::read_dir(path).unwrap();
        found.extend(entries.flat_map(|entry| open_to_others(&entry.unwrap().path())));
    }
    found
}

#[test]
fn what_is_made_is_its_owners_alone_and_an_exported_file_as_its_user_wants_it() {
    let directory = tempfile::tempdir().unwrap();
    let [store, disk, copy, restored, other] =
        ["store", "disk", "copy", "restored", "other"].map(|name| path(directory.path(), name));
    let ids = store_of_two_calls(directory.path(), &store);
    if is_root("a recorder on the loopback interface") {
        let volumes = format!("[store]\nvolumes = [\"{disk}\"]\ncreate_volumes = true");
        let recorder = Recorder::start(directory.path(), &store, &volumes);
        json_of(&["store", "backup", &copy, "--store", &store, "--json"], 0);
        assert_eq!(open_to_others(Path::new(&store)), [""; 0], "while it runs");
        assert_eq!(recorder.stop(), Some(0));
        assert_eq!(open_to_others(Path::new(&disk)), [""; 0]);
        json_of(&["store", "restore", &copy, "--store", &restored, "--volume", &other, "--json"], 0);
    } else {
        json_of(&["store", "backup", &copy, "--store", &store, "--json"], 0);
        json_of(&["store", "restore", &copy, "--store", &restored, "--json"], 0);
    }
    json_of(&["recordings", "tag", &ids[0], "case=17", "--store", &store, "--json"], 0);
    json_of(&["store", "rebuild", "--store", &store, "--json"], 0);
    json_of(&["store", "verify", "--store", &store, "--json"], 0);
    for made in [store.as_str(), &copy, &restored] {
        assert_eq!(open_to_others(Path::new(made)), [""; 0]);
    }
    for (mask, mode) in [("022", 0o644), ("007", 0o660)] {
        let file = path(directory.path(), mask);
        let script = format!("umask {mask}; exec \"$@\"");
        let command = [env!("CARGO_BIN_EXE_sidetone"), "recordings", "export", &ids[0], "--store", &store, "-o", &file];
        let status =
            Command::new("sh").args(["-c", &script, "sh"]).args(command).stdout(Stdio::null()).status().unwrap();
        assert!(status.success());
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, mode);
    }
}

/// Where a recording's identifier stands in a file.
fn places_of(id: &str, bytes: &[u8]) -> Vec<usize> {
    let digits = id.replace('-', "");
    let id: Vec<u8> =
        (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect();
    (0..bytes.len() - id.len()).filter(|&at| bytes[at..].starts_with(&id)).collect()
}

#[test]
fn a_check_finds_damage_names_the_recording_and_ends_with_1() {
    let directory = tempfile::tempdir().unwrap();
    let store = path(directory.path(), "store");
    let ids = store_of_two_calls(directory.path(), &store);
    let clean = json_of(&["store", "verify", "--store", &store, "--json"], 0);
    assert_eq!((&clean["bad_places"], &clean["runs"], &clean["recordings"]), (&json!(0), &json!(2), &json!(2)));
    let output = sidetone(&["store", "verify", "--store", &store, "--rate", "100"]);
    assert!(output.status.success() && text(&output.stdout).contains(": no damage\n"), "{}", text(&output.stdout));
    assert_eq!(sidetone(&["store", "verify", "--store", &store, "--rate", "0"]).status.code(), Some(2));

    // A packet in the middle of the first recording's audio.
    let wav = path(directory.path(), "before.wav");
    assert_eq!(export(&store, &ids[0], "wav", &wav).status.code(), Some(0));
    let segment = Path::new(&store).join("segments/0000000001.seg");
    let mut bytes = std::fs::read(&segment).unwrap();
    // The bodies of chunk records begin with the identifier; a fact's head holds it, too.
    let chunks = places_of(&ids[0], &bytes);
    let chunk = chunks[chunks.len() / 2];
    bytes[chunk + 200] ^= 1;
    std::fs::write(&segment, bytes).unwrap();

    let report = json_of(&["store", "verify", "--store", &store, "--json"], 1);
    let bad = report["bad"].as_array().unwrap();
    assert!(!bad.is_empty(), "{report:#}");
    let named = bad.iter().filter(|place| place["recording"] == ids[0].as_str());
    assert!(named.clone().count() > 0, "{report:#}");
    assert!(named.clone().any(|place| place["from_time"].is_string()), "{report:#}");
    let output = sidetone(&["store", "verify", "--store", &store]);
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stdout);
    assert!(said.contains("DAMAGED volume 0 segments/0000000001.seg") && said.contains(&ids[0]), "{said}");

    // What is left plays, and what is not there is told.
    let after = path(directory.path(), "after.wav");
    let output = export(&store, &ids[0], "wav", &after);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("gap: track"), "{}", text(&output.stdout));
    let (before, after) = (std::fs::read(&wav).unwrap(), std::fs::read(&after).unwrap());
    assert_eq!(before.len(), after.len());
    let same = before.iter().zip(&after).filter(|(before, after)| before == after).count();
    assert!(same > before.len() / 2 && before != after, "{same} of {}", before.len());
    assert_eq!(export(&store, &ids[1], "opus", &path(directory.path(), "other.opus")).status.code(), Some(0));
}

fn export(store: &str, id: &str, format: &str, file: &str) -> std::process::Output {
    sidetone(&["recordings", "export", id, "--store", store, "--format", format, "-o", file])
}

#[test]
fn a_catalog_that_is_lost_or_damaged_is_made_again() {
    let directory = tempfile::tempdir().unwrap();
    let store = path(directory.path(), "store");
    let ids = store_of_two_calls(directory.path(), &store);
    json_of(&["recordings", "tag", &ids[0], "case=17", "--store", &store, "--json"], 0);
    let before: Vec<Value> = ids.iter().map(|id| show(&store, id)).collect();
    let catalog = Path::new(&store).join("catalog");
    let largest = || {
        let files = std::fs::read_dir(&catalog).unwrap().map(|entry| entry.unwrap().path());
        let tables =
            files.filter(|path| path.extension().is_some_and(|extension| extension == "sst" || extension == "log"));
        tables.max_by_key(|path| std::fs::metadata(path).unwrap().len()).unwrap()
    };
    for damage in ["gone", "no CURRENT", "manifest cut", "table cut"] {
        match damage {
            "gone" => std::fs::remove_dir_all(&catalog).unwrap(),
            "no CURRENT" => std::fs::remove_file(catalog.join("CURRENT")).unwrap(),
            "manifest cut" => {
                let current = std::fs::read_to_string(catalog.join("CURRENT")).unwrap();
                let manifest = std::fs::File::options().write(true).open(catalog.join(current.trim())).unwrap();
                manifest.set_len(17).unwrap();
            }
            _ => {
                let table = std::fs::File::options().write(true).open(largest()).unwrap();
                table.set_len(table.metadata().unwrap().len() / 2).unwrap();
            }
        }
        let made = json_of(&["store", "rebuild", "--store", &store, "--json"], 0);
        assert_eq!((&made["runs"], &made["damaged_places"]), (&json!(2), &json!(0)), "{damage}: {made:#}");
        let after: Vec<Value> = ids.iter().map(|id| show(&store, id)).collect();
        assert_eq!(after, before, "{damage}");
        assert_eq!(listed(&store, &["--tag", "case=17"]), [ids[0].clone()], "{damage}");
    }
    let output = sidetone(&["store", "rebuild", "--store", &store]);
    assert!(text(&output.stdout).starts_with("a new catalog from "), "{}", text(&output.stdout));
    assert!(json_of(&["store", "verify", "--store", &store, "--json"], 0)["bad"].as_array().unwrap().is_empty());
    // The index of a run; behind it only the segment's own index names the recording.
    let segment = Path::new(&store).join("segments/0000000001.seg");
    let mut bytes = std::fs::read(&segment).unwrap();
    let places = places_of(&ids[0], &bytes);
    bytes[places[places.len() - 2] + 20] ^= 0x10;
    std::fs::write(&segment, bytes).unwrap();
    json_of(&["store", "rebuild", "--store", &store, "--json"], 1);

    // Without it there is nothing left to make the catalog from.
    std::fs::remove_file(&segment).unwrap();
    let output = sidetone(&["store", "rebuild", "--store", &store]);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("misses 2 recordings") && said.contains(&ids[0]) && said.contains("--accept-missing"),
        "{said}"
    );
    assert_eq!(listed(&store, &[]).len(), 2, "the old catalog is kept");
    json_of(&["store", "rebuild", "--store", &store, "--accept-missing", "--json"], 0);
    assert!(listed(&store, &[]).is_empty());
}
