//! Stores and disks that are not as they should be: one clear line and exit code 2, or what the manual says that happens instead.

mod support;

use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use support::{Recorder, is_refusal, is_root, json_of, path, refused, sidetone, store_of_two_calls, text, two_calls};

/// Every command that opens a store, and then those that open it for writing.
fn commands<'a>(store: &'a str, capture: &'a str) -> Vec<Vec<&'a str>> {
    const ID: &str = "00000000-0000-7000-8000-000000000000";
    vec![
        vec!["recordings", "list", "--store", store],
        vec!["recordings", "show", ID, "--store", store],
        vec!["recordings", "export", ID, "--store", store],
        vec!["store", "stats", "--store", store],
        vec!["store", "verify", "--store", store],
        vec!["store", "rebuild", "--store", store],
        vec!["recordings", "tag", ID, "a=b", "--store", store],
        vec!["replay", capture, "--store", store],
        vec!["run", "--interface", "lo", "--listen", "127.0.0.1:0", "--store", store],
    ]
}

#[test]
fn a_store_of_a_newer_version_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let store = path(directory.path(), "store");
    store_of_two_calls(directory.path(), &store);
    let description = Path::new(&store).join("sidetone-store.json");
    let mut document: Value = serde_json::from_slice(&std::fs::read(&description).unwrap()).unwrap();
    let version = document["version"].as_u64().unwrap();
    document["version"] = json!(version + 40);
    std::fs::write(&description, document.to_string()).unwrap();
    for command in commands(&store, &path(directory.path(), "calls.pcap")) {
        refused(&command, &[&store, &format!("version {}", version + 40), "use a newer"]);
    }
    for nonsense in ["", "{", "[]", "{\"version\": \"x\"}"] {
        std::fs::write(&description, nonsense).unwrap();
        refused(&["store", "stats", "--store", &store], &["sidetone-store.json"]);
    }
}

#[test]
fn a_directory_that_is_no_store_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let capture = path(directory.path(), "calls.pcap");
    two_calls(Path::new(&capture));
    let foreign = path(directory.path(), "letters");
    std::fs::create_dir(&foreign).unwrap();
    std::fs::write(Path::new(&foreign).join("dear.txt"), "dear").unwrap();
    for command in commands(&foreign, &capture) {
        refused(&command, &[&foreign]);
    }
    let names: Vec<_> = std::fs::read_dir(&foreign).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["dear.txt"], "nothing was added");
    // A file is no directory, and what is not there is only made by what writes.
    for command in commands(&capture, &capture) {
        refused(&command, &[&capture]);
    }
    let nowhere = path(directory.path(), "nowhere");
    for command in &commands(&nowhere, &capture)[..7] {
        refused(command, &[&nowhere, "no store"]);
    }
    assert!(!Path::new(&nowhere).exists());
}

/// The check goes on without the catalog, and names what mends it.
fn tells_bad_catalog(command: &[&str]) {
    let output = sidetone(command);
    let (out, error) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(1), "{command:?}: {out} {error}");
    assert!(out.contains("catalog") && out.contains("sidetone store rebuild"), "{command:?}: {out} {error}");
    assert!(out.contains("2 recordings checked") && out.contains(": 1 damaged or missing place"), "{command:?}: {out}");
    assert!(!error.contains("panicked"), "{error}");
}

#[test]
fn a_truncated_catalog_is_refused_with_the_command_that_mends_it() {
    let directory = tempfile::tempdir().unwrap();
    let store = path(directory.path(), "store");
    store_of_two_calls(directory.path(), &store);
    let catalog = Path::new(&store).join("catalog");
    let current = std::fs::read_to_string(catalog.join("CURRENT")).unwrap();
    for (file, length) in [(current.trim(), 40), ("CURRENT", 3), (current.trim(), 0)] {
        let opened = std::fs::File::options().write(true).open(catalog.join(file)).unwrap();
        opened.set_len(length).unwrap();
        for command in commands(&store, &path(directory.path(), "calls.pcap")) {
            match command[..2] {
                ["store", "rebuild"] => {}
                ["store", "verify"] => tells_bad_catalog(&command),
                _ => refused(&command, &["catalog", "sidetone store rebuild"]),
            }
        }
    }
    assert_eq!(json_of(&["store", "rebuild", "--store", &store, "--json"], 0)["runs"], 2);
    assert_eq!(json_of(&["store", "verify", "--store", &store, "--json"], 0)["bad_places"], 0);
}

#[test]
fn a_piece_of_a_store_that_is_missing_is_named_with_the_remedy() {
    let directory = tempfile::tempdir().unwrap();
    let (store, disk, copy) =
        (path(directory.path(), "store"), path(directory.path(), "disk"), path(directory.path(), "copy"));
    let (capture, config) = (path(directory.path(), "calls.pcap"), path(directory.path(), "sidetone.toml"));
    two_calls(Path::new(&capture));
    std::fs::write(&config, format!("[store]\ndirectory = \"{store}\"\nvolumes = [\"{disk}\"]\n")).unwrap();
    json_of(&["replay", &capture, "--store", &store, "--config", &config, "--json"], 0);
    json_of(&["store", "backup", &copy, "--store", &store, "--json"], 0);
    let list = |store: &str| json_of(&["recordings", "list", "--store", store, "--json"], 0);
    let before = list(&store);
    assert_eq!(before["recordings"].as_array().unwrap().len(), 2);

    let at = |name: &str| Path::new(&store).join(name);
    for piece in ["catalog/CURRENT", "catalog"] {
        std::fs::rename(at(piece), directory.path().join("away")).unwrap();
        for command in &commands(&store, &capture)[..5] {
            match command[..2] {
                ["store", "verify"] => tells_bad_catalog(command),
                _ => refused(command, &["catalog", "sidetone store rebuild"]),
            }
        }
        std::fs::rename(directory.path().join("away"), at(piece)).unwrap();
    }
    // A volume is not the store.
    for command in commands(&disk, &capture) {
        refused(&command, &[&disk, "is a volume of a store"]);
    }
    let description = at("sidetone-store.json");
    std::fs::remove_file(&description).unwrap();
    for command in commands(&store, &capture) {
        refused(&command, &[&store, "sidetone-store.json is missing", "backup"]);
    }
    std::fs::copy(Path::new(&copy).join("sidetone-store.json"), &description).unwrap();
    assert_eq!(list(&store), before);
    std::fs::remove_dir_all(at("catalog")).unwrap();
    assert_eq!(json_of(&["store", "rebuild", "--store", &store, "--json"], 0)["damaged_places"], 0);
    assert_eq!(list(&store), before);
}

#[test]
fn without_permission_it_says_for_what() {
    let directory = tempfile::tempdir().unwrap();
    let store = path(directory.path(), "store");
    store_of_two_calls(directory.path(), &store);
    let capture = path(directory.path(), "calls.pcap");
    let set_mode = |path: &str, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    set_mode(&directory.path().to_string_lossy(), 0o755);
    set_mode(&store, 0o700);
    // Where it was built may be closed to others.
    let program = directory.path().join("sidetone");
    std::fs::copy(env!("CARGO_BIN_EXE_sidetone"), &program).unwrap();
    let run = |command: &[&str]| {
        let mut process = Command::new(&program);
        process.args(command);
        if is_root("(nobody's permissions are tried as nobody)") {
            process.uid(65_534).gid(65_534);
        }
        process.output().unwrap()
    };
    if !is_root("permissions of another user") {
        set_mode(&store, 0o000);
    }
    for command in commands(&store, &capture) {
        if command[0] != "run" {
            is_refusal(&run(&command), &command, &["permission", &store]);
        }
    }
    set_mode(&store, 0o700);
    // Where reading is allowed and writing is not.
    for (name, mode) in [("", 0o755), ("catalog", 0o755), ("journal", 0o755), ("segments", 0o755)] {
        set_mode(&Path::new(&store).join(name).to_string_lossy(), mode);
    }
    let parent = path(directory.path(), "mine/store");
    std::fs::create_dir(directory.path().join("mine")).unwrap();
    set_mode(&path(directory.path(), "mine"), 0o555);
    let command = ["replay", capture.as_str(), "--store", &parent];
    is_refusal(&run(&command), &command, &["permission", &parent]);
}

#[test]
fn a_missing_volume_is_told_and_the_rest_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let (store, disk) = (path(directory.path(), "store"), path(directory.path(), "disk"));
    let config = path(directory.path(), "sidetone.toml");
    std::fs::create_dir(&disk).unwrap();
    std::fs::write(&config, format!("[store]\ndirectory = \"{store}\"\nvolumes = [\"{disk}\"]\n")).unwrap();
    let capture = path(directory.path(), "calls.pcap");
    two_calls(Path::new(&capture));
    let replay = ["replay", capture.as_str(), "--store", &store, "--config", &config, "--json"];
    let replayed = json_of(&replay, 0);
    assert_eq!(replayed["recordings"].as_array().unwrap().len(), 2);
    let volumes = |code| json_of(&["store", "stats", "--store", &store, "--json"], code)["volumes"].clone();
    assert_eq!(volumes(0).as_array().unwrap().len(), 2);
    assert_ne!(volumes(0)[1]["state"], "missing");
    assert!(Path::new(&disk).join("sidetone-volume.json").exists());

    // As an unmounted disk: its mount point is there and empty.
    let away = path(directory.path(), "away");
    std::fs::rename(&disk, &away).unwrap();
    std::fs::create_dir(&disk).unwrap();
    assert_eq!(volumes(0)[1]["state"], "missing");
    let listed = json_of(&["recordings", "list", "--store", &store, "--json"], 0);
    assert_eq!(listed["recordings"].as_array().unwrap().len(), 2, "what is known of the recordings is on every volume");
    let (mut played, mut refusals) = (0, Vec::new());
    for recording in replayed["recordings"].as_array().unwrap() {
        let id = recording["id"].as_str().unwrap();
        let output = sidetone(&["recordings", "export", id, "--store", &store, "-o", &path(directory.path(), id)]);
        match output.status.code() {
            Some(0) => played += 1,
            _ => refusals.push(text(&output.stderr)),
        }
    }
    assert!(played < 2, "one of the recordings is on the volume that is missing");
    assert!(refusals.iter().all(|error| error.contains("volume 1") && error.contains("mount it")), "{refusals:?}");
    let mount_again = || {
        std::fs::remove_dir(&disk).expect("nothing is written to a mount point without its disk");
        std::fs::rename(&away, &disk).unwrap();
    };
    if is_root("a recorder on the loopback interface") {
        let config = format!("[store]\nvolumes = [\"{disk}\"]");
        let recorder = Recorder::start(directory.path(), &store, &config);
        let (status, body) = recorder.get("/readyz").unwrap();
        let ready: Value = serde_json::from_str(&body).unwrap();
        assert_eq!((status, &ready["volumes"][1]["state"]), (200, &json!("missing")), "{body}");
        // There may be more: the machine's disk may run out of space.
        let warnings = ready["warnings"].as_array().unwrap();
        let tells = |warning: &Value| warning.as_str().unwrap().contains("is missing: mount it");
        assert!(warnings.iter().any(tells), "{body}");
        assert!(recorder.log().contains("a volume of the store is missing"), "{}", recorder.log());
        // It is looked for every few seconds.
        std::thread::sleep(Duration::from_secs(4));
        mount_again();
        let ends = Instant::now() + Duration::from_secs(20);
        loop {
            let (status, body) = recorder.get("/readyz").unwrap();
            let ready: Value = serde_json::from_str(&body).unwrap();
            if status == 200 && !["missing", "failed"].contains(&ready["volumes"][1]["state"].as_str().unwrap()) {
                break;
            }
            assert!(Instant::now() < ends, "the volume is there and not used: {body} {}", recorder.log());
            std::thread::sleep(Duration::from_millis(100));
        }
        assert_eq!(recorder.stop(), Some(0));
    } else {
        mount_again();
    }
    for recording in replayed["recordings"].as_array().unwrap() {
        let id = recording["id"].as_str().unwrap();
        let file = path(directory.path(), &format!("{id}.opus"));
        assert_eq!(sidetone(&["recordings", "export", id, "--store", &store, "-o", &file]).status.code(), Some(0));
    }
    assert_eq!(json_of(&["store", "verify", "--store", &store, "--json"], 0)["bad_places"], 0);
}

#[test]
fn volumes_that_cannot_be_are_refused_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let (store, other) = (path(directory.path(), "store"), path(directory.path(), "other"));
    let capture = path(directory.path(), "calls.pcap");
    store_of_two_calls(directory.path(), &store);
    let config = path(directory.path(), "sidetone.toml");
    let (letters, disk) = (path(directory.path(), "letters"), path(directory.path(), "disk"));
    std::fs::create_dir(&letters).unwrap();
    std::fs::write(Path::new(&letters).join("dear.txt"), "dear").unwrap();
    std::fs::create_dir(&disk).unwrap();
    let replay = |store: &str, volume: &str, more: &str| {
        std::fs::write(&config, format!("[store]\ndirectory = \"{store}\"\nvolumes = [\"{volume}\"]\n{more}")).unwrap();
        sidetone(&["replay", &capture, "--store", store, "--config", &config, "--json"])
    };
    is_refusal(&replay(&store, &letters, ""), &["letters", "--json"], &[&letters, "holds files"]);
    // An empty directory may be a mount point without its disk: only when asked for does it become a volume of a store that is there.
    let output = replay(&store, &disk, "");
    let told = text(&output.stderr);
    assert!(output.status.success() && told.contains(&disk) && told.contains("create_volumes = true"), "{told}");
    assert_eq!(std::fs::read_dir(&disk).unwrap().count(), 0);
    let warned = || {
        let warnings = json_of(&["store", "stats", "--config", &config, "--json"], 0)["warnings"].clone();
        let warnings = warnings.as_array().unwrap().iter().map(|warning| warning.as_str().unwrap().to_owned());
        warnings.filter(|warning| warning.contains(&disk) && warning.contains("create_volumes = true")).count()
    };
    assert_eq!(warned(), 1);
    if is_root("a recorder on the loopback interface") {
        let volumes = format!("[store]\nvolumes = [\"{disk}\"]\n[store.space]\nlow_percent = 90");
        let recorder = Recorder::start(directory.path(), &store, &volumes);
        let ready: Value = serde_json::from_str(&recorder.get("/readyz").unwrap().1).unwrap();
        let warnings = ready["warnings"].to_string();
        assert!(warnings.contains(&disk) && warnings.contains("create_volumes = true"), "{ready:#}");
        assert!(recorder.log().contains("no volume of the store: mount its file system"), "{}", recorder.log());
        // The same free space is called the same.
        let config = path(directory.path(), "recorder.toml");
        let read = json_of(&["store", "stats", "--config", &config, "--store", &store, "--json"], 0);
        assert_eq!(read["volumes"][0]["state"], ready["volumes"][0]["state"]);
        assert_eq!(recorder.stop(), Some(0));
    }
    assert_eq!(replay(&store, &disk, "create_volumes = true").status.code(), Some(0));
    assert!(Path::new(&disk).join("sidetone-volume.json").exists());
    assert_eq!(warned(), 0);
    is_refusal(&replay(&other, &disk, ""), &["disk", "--json"], &[&disk, "another store"]);
}

#[test]
fn a_file_system_without_direct_writes_is_written_through_the_page_cache() {
    if !is_root("mounting a file system that has no O_DIRECT") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let capture = path(directory.path(), "calls.pcap");
    two_calls(Path::new(&capture));
    let mount = path(directory.path(), "mount");
    std::fs::create_dir(&mount).unwrap();
    // ramfs has none. The mount is this shell's own and ends with it.
    let script = "set -e; mount -t ramfs none \"$1\"; \"$2\" replay \"$3\" --store \"$1/store\" --json > \"$4\"; \
                  \"$2\" store verify --store \"$1/store\" > /dev/null";
    let out = path(directory.path(), "replayed.json");
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", script, "sh", &mount, env!("CARGO_BIN_EXE_sidetone"), &capture, &out])
        .output()
        .unwrap();
    let said = text(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("no O_DIRECT on this file system"), "{said}");
    let replayed: Value = serde_json::from_slice(&std::fs::read(&out).unwrap()).unwrap();
    let recordings = replayed["recordings"].as_array().unwrap();
    assert_eq!(recordings.len(), 2);
    assert!(recordings.iter().all(|recording| recording["state"] == "complete"), "{replayed:#}");
}
