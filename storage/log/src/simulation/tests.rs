//! Each thing that the simulated machine is to do to files does happen, for some seed, and nothing else for any.

use super::*;
use crate::block::Block;
use crate::io::{Progress, Write};
use std::collections::BTreeSet;

const SEEDS: u64 = 200;
const BLOCK: usize = 4096;

fn path(name: &str) -> PathBuf {
    Path::new("/").join(name)
}

fn root() -> &'static Path {
    Path::new("/")
}

fn new_file(bytes: u64) -> NewFile {
    let block = Block::allocate(1, BLOCK).unwrap().pop().unwrap();
    NewFile { bytes, direct: true, memory: block.memory().clone() }
}

fn block(fill: u8) -> Block {
    let mut block = Block::allocate(1, BLOCK).unwrap().pop().unwrap();
    block.fill(fill);
    block
}

fn submit(file: &mut dyn OutputFile, fill: u8, offset: u64) {
    file.submit(Write { block: block(fill), length: BLOCK, offset });
}

fn settle(file: &mut dyn OutputFile) -> Progress {
    let mut all = Progress::default();
    while !all.idle {
        let progress = file.poll(true);
        all.writes.extend(progress.writes);
        all.failure = all.failure.or(progress.failure);
        all.synced |= progress.synced;
        all.idle = progress.idle;
    }
    all
}

fn sync(file: &mut dyn OutputFile) -> Progress {
    file.begin_sync();
    settle(file)
}

/// A file with a durable name and a durable block of ones, and a second block of twos that is not durable.
fn half_durable(disk: &SimulatedDisk) -> Box<dyn OutputFile> {
    let mut file = disk.create(&path("a"), &new_file(4 * BLOCK as u64)).unwrap();
    disk.sync_directory(root()).unwrap();
    submit(&mut *file, 1, 0);
    assert!(settle(&mut *file).failure.is_none());
    assert!(sync(&mut *file).synced);
    submit(&mut *file, 2, BLOCK as u64);
    assert!(settle(&mut *file).failure.is_none());
    file
}

#[test]
fn of_what_was_not_synced_any_sectors_survive_a_crash() {
    let (mut none, mut all, mut some, mut sector_sets) = (0, 0, 0, BTreeSet::new());
    for seed in 0..SEEDS {
        let disk = SimulatedDisk::new(seed);
        let file = half_durable(&disk);
        assert_eq!(disk.read(&path("a")).unwrap()[BLOCK..2 * BLOCK], [2; BLOCK], "readable at once");
        disk.crash();
        drop(file);
        let bytes = disk.read(&path("a")).unwrap();
        assert_eq!(bytes.len(), 4 * BLOCK);
        assert_eq!(bytes[..BLOCK], [1; BLOCK], "seed {seed}: what was synced is there");
        let sectors: Vec<bool> = bytes[BLOCK..2 * BLOCK]
            .chunks(512)
            .map(|sector| {
                assert!(sector == [0; 512] || sector == [2; 512], "seed {seed}: a sector is whole");
                sector[0] == 2
            })
            .collect();
        match sectors.iter().filter(|&&survived| survived).count() {
            0 => none += 1,
            8 => all += 1,
            _ => some += 1,
        }
        sector_sets.insert(sectors);
    }
    assert!(none > 10 && all > 10 && some > 10, "{none} {all} {some}");
    assert!(sector_sets.len() > 20, "{} sets of sectors", sector_sets.len());
}

#[test]
fn writes_that_are_still_in_flight_survive_or_not() {
    let mut outcomes = BTreeSet::new();
    for seed in 0..SEEDS {
        let disk = SimulatedDisk::new(seed);
        disk.set_delay(root(), 5);
        let mut file = half_durable(&disk);
        submit(&mut *file, 3, 2 * BLOCK as u64);
        submit(&mut *file, 4, 3 * BLOCK as u64);
        disk.crash();
        let progress = settle(&mut *file);
        assert_eq!(progress.writes.len(), 2, "the blocks come back from a dead file");
        assert_eq!(progress.failure.unwrap().raw_os_error(), Some(libc::EIO));
        let bytes = disk.read(&path("a")).unwrap();
        outcomes.insert((bytes[2 * BLOCK], bytes[3 * BLOCK]));
    }
    // In any order: the second without the first as well.
    assert_eq!(outcomes, BTreeSet::from([(0, 0), (3, 0), (0, 4), (3, 4)]));
}

#[test]
fn names_that_were_not_synced_vanish_or_come_back() {
    let mut outcomes = BTreeSet::new();
    for seed in 0..SEEDS {
        let disk = SimulatedDisk::new(seed);
        for name in ["kept", "removed", "moved"] {
            drop(disk.create(&path(name), &new_file(0)).unwrap());
        }
        disk.sync_directory(root()).unwrap();
        drop(disk.create(&path("made"), &new_file(0)).unwrap());
        disk.remove(&path("removed")).unwrap();
        assert_eq!(disk.list(root()).unwrap(), ["kept", "made", "moved"]);
        disk.crash();
        let names = disk.list(root()).unwrap();
        assert!(names.contains(&"kept".into()) && names.contains(&"moved".into()), "seed {seed}: {names:?}");
        outcomes.insert((names.contains(&"made".into()), names.contains(&"removed".into())));
    }
    assert_eq!(outcomes.len(), 4, "each independently: {outcomes:?}");

    let mut outcomes = BTreeSet::new();
    for seed in 0..SEEDS {
        let disk = SimulatedDisk::new(seed);
        disk.write_small(&path("old"), b"old").unwrap();
        disk.write_small(&path("new"), b"new").unwrap();
        disk.rename(&path("new"), &path("old")).unwrap();
        disk.crash();
        let old = disk.read(&path("old")).unwrap();
        // A rename is done or not done, never half.
        assert_eq!(disk.read(&path("new")).is_ok(), old == b"old", "seed {seed}");
        outcomes.insert(old);
    }
    assert_eq!(outcomes.len(), 2);
}

#[test]
fn a_file_made_again_under_a_name_may_be_the_old_one_after_a_crash() {
    let mut outcomes = BTreeSet::new();
    for seed in 0..SEEDS {
        let disk = SimulatedDisk::new(seed);
        disk.write_small(&path("a"), b"first").unwrap();
        disk.remove(&path("a")).unwrap();
        drop(disk.create(&path("a"), &new_file(0)).unwrap());
        disk.crash();
        outcomes.insert(disk.read(&path("a")).ok());
    }
    assert_eq!(outcomes, BTreeSet::from([None, Some(b"first".to_vec()), Some(Vec::new())]));
}

#[test]
fn lengths_that_were_not_synced_survive_or_not() {
    let mut outcomes = BTreeSet::new();
    for seed in 0..SEEDS {
        let disk = SimulatedDisk::new(seed);
        disk.set_preallocates(root(), false);
        let mut file = half_durable(&disk);
        assert_eq!(disk.size(&path("a")).unwrap().bytes, 2 * BLOCK as u64);
        if seed % 2 == 0 {
            file.set_len(512).unwrap();
        }
        disk.crash();
        outcomes.insert((seed % 2, disk.size(&path("a")).unwrap().bytes));
    }
    let block = BLOCK as u64;
    assert_eq!(outcomes, BTreeSet::from([(0, 512), (0, block), (0, 2 * block), (1, block), (1, 2 * block)]));
}

#[test]
fn after_a_failed_sync_a_later_one_succeeds_without_what_was_lost() {
    let (mut lost, mut kept) = (0, 0);
    for seed in 0..SEEDS {
        let disk = SimulatedDisk::new(seed);
        let mut file = half_durable(&disk);
        disk.fail(root(), Operation::Sync, 0, 1);
        assert!(sync(&mut *file).failure.is_some());
        assert!(sync(&mut *file).synced, "the error is told once");
        drop(file);
        assert_eq!(disk.read(&path("a")).unwrap()[BLOCK..2 * BLOCK], [2; BLOCK], "the cache shows it still");
        // Who asks for what is on the device is told the truth, and so is a crash.
        if seed % 2 == 0 {
            disk.sync_file(&path("a")).unwrap();
        } else {
            disk.crash();
        }
        match disk.read(&path("a")).unwrap()[BLOCK..2 * BLOCK] == [2; BLOCK] {
            true => kept += 1,
            false => lost += 1,
        }
    }
    assert!(lost > 10 && kept > 10, "{lost} {kept}");
}

#[test]
fn operations_fail_on_demand_and_by_seed() {
    let disk = SimulatedDisk::new(1);
    disk.fail(root(), Operation::Write, 1, 1);
    let mut file = disk.create(&path("a"), &new_file(4 * BLOCK as u64)).unwrap();
    for fails in [false, true, false] {
        submit(&mut *file, 1, 0);
        let progress = settle(&mut *file);
        assert_eq!((progress.failure.is_some(), progress.writes.len()), (fails, 1));
    }
    disk.fail(root(), Operation::Create, 0, 1);
    assert!(disk.create(&path("b"), &new_file(0)).is_err());
    assert!(disk.create(&path("b"), &new_file(0)).is_ok());

    let failures = |seed: u64| {
        let disk = SimulatedDisk::new(seed);
        disk.set_failure_rate(root(), Operation::List, 250);
        (0..1000).map(|_| disk.list(root()).is_err()).collect::<Vec<_>>()
    };
    let count = failures(1).iter().filter(|&&failed| failed).count();
    assert!((150..350).contains(&count), "{count}");
    assert_eq!(failures(1), failures(1));
    assert_ne!(failures(1), failures(2));
}

#[test]
fn a_device_fills_up_and_an_open_file_keeps_its_space() {
    let disk = SimulatedDisk::new(1);
    disk.set_capacity(root(), Some(10 * BLOCK as u64));
    let file = disk.create(&path("a"), &new_file(8 * BLOCK as u64)).unwrap();
    let refused = disk.create(&path("b"), &new_file(3 * BLOCK as u64)).err().unwrap();
    assert_eq!(refused.raw_os_error(), Some(libc::ENOSPC));
    disk.remove(&path("a")).unwrap();
    assert_eq!(disk.space(root()).unwrap().free_bytes, 2 * BLOCK as u64, "removed and still open");
    assert_eq!(disk.open_files(root()), 1);
    drop(file);
    assert_eq!(disk.space(root()).unwrap(), Space { free_bytes: 10 * BLOCK as u64, total_bytes: 10 * BLOCK as u64 });

    // Where nothing can be set aside, a write fails.
    disk.set_preallocates(root(), false);
    let mut file = disk.create(&path("c"), &new_file(30 * BLOCK as u64)).unwrap();
    assert!(!file.preallocated());
    for offset in 0..11 {
        submit(&mut *file, 1, offset * BLOCK as u64);
        let failure = settle(&mut *file).failure.and_then(|error| error.raw_os_error());
        assert_eq!(failure, (offset == 10).then_some(libc::ENOSPC));
    }
    assert!(disk.write_small(&path("d"), b"x").is_err());
}

#[test]
fn a_device_that_is_down_answers_nothing_and_comes_back_with_what_it_held() {
    let disk = SimulatedDisk::new(1);
    let mut file = half_durable(&disk);
    let input = disk.open(&path("a")).unwrap();
    disk.set_down(root(), true);
    assert!(sync(&mut *file).failure.is_some());
    assert!(input.bytes().is_err() && input.read_at(&mut [0; 10], 0).is_err());
    assert!(disk.list(root()).is_err() && disk.space(root()).is_err() && disk.read(&path("a")).is_err());
    assert!(disk.create(&path("b"), &new_file(0)).is_err() && disk.remove(&path("a")).is_err());
    assert!(disk.sync_directory(root()).is_err() && disk.write_small(&path("b"), b"x").is_err());
    disk.set_down(root(), false);
    assert_eq!(disk.read(&path("a")).unwrap()[..BLOCK], [1; BLOCK]);
}

#[test]
fn writes_and_syncs_take_polls_and_end_in_any_order() {
    let mut orders = BTreeSet::new();
    for seed in 0..SEEDS {
        let disk = SimulatedDisk::new(seed);
        disk.set_delay(root(), 6);
        let mut file = disk.create(&path("a"), &new_file(4 * BLOCK as u64)).unwrap();
        (0..3).for_each(|number| submit(&mut *file, number, u64::from(number) * BLOCK as u64));
        let (mut order, mut polls) = (Vec::new(), 0);
        loop {
            let progress = file.poll(false);
            order.extend(progress.writes.iter().map(|write| write.offset));
            polls += 1;
            assert!(polls <= 7, "a delay ends");
            if progress.idle {
                break;
            }
        }
        orders.insert((order, polls));
        file.begin_sync();
        assert!(sync_polls(&mut *file) <= 7);
    }
    assert!(orders.iter().any(|(order, _)| *order == [8192, 4096, 0]) && orders.len() > 10, "{orders:?}");
    assert!(orders.iter().any(|(_, polls)| *polls == 7) && orders.iter().any(|(_, polls)| *polls < 5));
}

fn sync_polls(file: &mut dyn OutputFile) -> u32 {
    (1..).find(|_| file.poll(false).synced).unwrap()
}

#[test]
fn the_end_of_a_process_takes_only_what_was_in_flight() {
    let disk = SimulatedDisk::new(1);
    let mut file = half_durable(&disk);
    let input = disk.open(&path("a")).unwrap();
    let lock = disk.lock(&path("lock")).unwrap();
    assert_eq!(disk.lock(&path("lock")).err().unwrap().kind(), io::ErrorKind::WouldBlock);
    drop(disk.create(&path("b"), &new_file(0)).unwrap());
    let boot = disk.boot_id();
    disk.kill();
    assert_eq!(disk.read(&path("a")).unwrap()[..2 * BLOCK], [[1; BLOCK], [2; BLOCK]].concat());
    assert_eq!(disk.list(root()).unwrap(), ["a", "b", "lock"]);
    assert!(sync(&mut *file).failure.is_some() && input.bytes().is_err(), "what was open is dead");
    assert_eq!(disk.open_files(root()), 0);
    let again = disk.lock(&path("lock")).unwrap();
    drop(lock);
    assert!(disk.lock(&path("lock")).is_err(), "a dead guard frees nothing");
    drop(again);
    assert_eq!(disk.boot_id(), boot);
    disk.crash();
    assert_ne!(disk.boot_id(), boot);
}

#[test]
fn a_defective_device_says_that_things_are_durable_and_they_are_not() {
    let lost = |defect: Defect| {
        (0..SEEDS).any(|seed| {
            let disk = SimulatedDisk::new(seed);
            disk.set_defect(root(), Some(defect));
            let mut file = half_durable(&disk);
            assert!(sync(&mut *file).synced);
            disk.crash();
            disk.read(&path("a")).map_or(true, |bytes| bytes.get(BLOCK..2 * BLOCK) != Some(&[2; BLOCK]))
        })
    };
    assert!(lost(Defect::SyncDoesNothing));
    assert!(lost(Defect::DirectorySyncDoesNothing));
    assert!(lost(Defect::SyncOvertakesWrites));
}

#[test]
fn devices_have_their_own_space_and_faults_and_can_be_taken_away() {
    let disk = SimulatedDisk::new(1);
    disk.mount(&path("v1"));
    let on_volume = path("v1/a");
    disk.write_small(&on_volume, b"one").unwrap();
    disk.set_down(&path("v1"), true);
    assert!(disk.read(&on_volume).is_err() && disk.list(root()).is_ok());
    disk.set_down(&path("v1"), false);
    disk.unmount(&path("v1"));
    assert_eq!(disk.list(&path("v1")).unwrap(), [""; 0], "the mount point is there, and empty");
    disk.crash();
    assert_eq!(disk.read(&on_volume).err().unwrap().kind(), io::ErrorKind::NotFound);
    disk.mount(&path("v1"));
    assert_eq!(disk.read(&on_volume).unwrap(), b"one");
    assert!(disk.rename(&on_volume, &path("b")).is_err());
}

#[test]
fn bytes_rot_and_become_unreadable() {
    let disk = SimulatedDisk::new(1);
    drop(half_durable(&disk));
    disk.damage(&path("a"), 7, 0x10);
    disk.crash();
    assert_eq!(disk.read(&path("a")).unwrap()[6..9], [1, 0x11, 1]);
    disk.set_unreadable(&path("a"), 4096..4608);
    let input = disk.open(&path("a")).unwrap();
    assert!(input.read_at(&mut [0; 4096], 0).is_ok() && input.read_at(&mut [0; 4097], 0).is_err());
    assert!(input.read_at(&mut [0; 512], 4608).is_ok());
    disk.set_readable(&path("a"));
    assert!(input.read_at(&mut [0; 4097], 0).is_ok());
}

#[test]
fn the_clock_is_set_back_and_time_passes_on() {
    let disk = SimulatedDisk::new(1);
    let (time, clock) = (disk.monotonic(), disk.now());
    disk.advance_clock(5_000_000_000);
    disk.step_clock(-3_600_000_000_000);
    assert_eq!((disk.monotonic() - time).as_secs(), 5);
    assert_eq!(clock.since(disk.now()).as_secs(), 3594);
    disk.crash();
    disk.step_clock(3_600_000_000_000);
    assert_eq!((disk.monotonic() - time).as_secs(), 5);
    assert_eq!(disk.now().since(clock).as_secs(), 5);
}
