//! The failing disk fails as it says, and comes back.

use sidetone_testkit::disk::{Disk, InFlight};
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::PathBuf;

fn directory(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("sidetone-disks-{}-{name}", std::process::id()));
    fs::create_dir_all(&path).unwrap();
    path
}

const EIO: Option<i32> = Some(5);

#[test]
#[ignore = "needs root"]
fn a_full_disk_is_full_and_has_room_again() {
    let directory = directory("full");
    let mut disk = Disk::create(&directory, "a", 32).unwrap();
    let free = disk.free_bytes().unwrap();
    assert!(free > 20 << 20, "{free}");
    disk.fill(1 << 20).unwrap();
    assert!(disk.free_bytes().unwrap() <= 1 << 20);
    disk.fill(0).unwrap();
    let written = fs::write(disk.path().join("file"), vec![1; 1 << 20]);
    assert_eq!(written.unwrap_err().kind(), ErrorKind::StorageFull);
    disk.drain().unwrap();
    fs::write(disk.path().join("file"), vec![1; 1 << 20]).unwrap();
    let mounted = disk.path().to_owned();
    drop(disk);
    assert!(!mounted.exists());
    assert_eq!(fs::read_dir(&directory).unwrap().count(), 0, "nothing is left behind");
    fs::remove_dir(directory).unwrap();
}

#[test]
#[ignore = "needs root"]
fn a_disk_that_is_shut_down_comes_back_with_what_was_synced() {
    let directory = directory("shut-down");
    let disk = Disk::create(&directory, "a", 32).unwrap();
    let path = disk.path().join("file");
    let mut file = File::create(&path).unwrap();
    file.write_all(b"durable").unwrap();
    file.sync_all().unwrap();
    file.write_all(b" and not").unwrap();
    disk.shut_down(InFlight::Lost).unwrap();
    assert_eq!(file.sync_all().unwrap_err().raw_os_error(), EIO);
    assert_eq!(file.write_all(b"x").unwrap_err().raw_os_error(), EIO);
    assert!(File::create(disk.path().join("other")).is_err());
    drop(file);
    disk.give_back().unwrap();
    let found = fs::read(&path).unwrap();
    assert!(found.starts_with(b"durable"), "{found:?}");
    File::create(disk.path().join("other")).unwrap().write_all(b"again").unwrap();
    drop(disk);
    fs::remove_dir(directory).unwrap();
}

#[test]
#[ignore = "needs root"]
fn a_disk_becomes_read_only_under_open_files() {
    let directory = directory("read-only");
    let disk = Disk::create(&directory, "a", 32).unwrap();
    let mut file = File::create(disk.path().join("file")).unwrap();
    file.write_all(b"durable").unwrap();
    file.sync_all().unwrap();
    disk.make_read_only().unwrap();
    file.write_all(b"x").and_then(|()| file.sync_all()).unwrap_err();
    assert_eq!(File::create(disk.path().join("other")).unwrap_err().kind(), ErrorKind::ReadOnlyFilesystem);
    assert_eq!(fs::read(disk.path().join("file")).unwrap(), b"durable", "what is there can be read");
    drop(file);
    disk.give_back().unwrap();
    File::create(disk.path().join("other")).unwrap();
    drop(disk);
    fs::remove_dir(directory).unwrap();
}

#[test]
#[ignore = "needs root"]
fn a_disk_that_is_torn_away_leaves_an_empty_directory() {
    let directory = directory("torn");
    let disk = Disk::create(&directory, "a", 32).unwrap();
    let path = disk.path().join("file");
    let mut file = File::create(&path).unwrap();
    disk.detach().unwrap();
    assert!(!path.exists());
    file.write_all(b"goes on").unwrap();
    file.sync_all().unwrap();
    assert!(disk.give_back().is_err(), "it is still in use");
    drop(file);
    disk.give_back().unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"goes on");
    drop(disk);
    fs::remove_dir(directory).unwrap();
}
