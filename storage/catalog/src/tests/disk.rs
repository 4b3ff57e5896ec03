//! The catalog's directory: opened again, read beside its writer, damaged, of another version, saved and restored.

use super::fixture::*;
use crate::order::OrderKey;
use crate::*;
use sidetone_log::{Fact, VolumeNumber};
use sidetone_model::{CaptureTime, Recording, RecordingId, Seed, Tick, TrackId};
use std::io::Write;
use std::path::Path;
use std::process::Command;

/// Some recordings with everything that a catalog holds.
fn fill(catalog: &dyn Catalog, numbers: std::ops::Range<u8>) {
    catalog.apply(&filling(numbers), &[(VolumeNumber(0), position(9))]).unwrap();
}

fn filling(numbers: std::ops::Range<u8>) -> Changes {
    let sequence = u64::from(numbers.start) * 10 + 1;
    let facts = numbers.flat_map(|number| {
        let name = format!("Anna {number}");
        let parties = [("+493012345", name.as_str()), ("100", "")];
        let document = document(&recording(number, u64::from(number) * 5_000_000, STATES[1], &parties));
        let case = number.to_string();
        let sealed = Fact::Sealed { recording: id(number), run: run(0, 1, u64::from(number), 7), through: vec![] };
        [document, tagged(id(number), &[("case", &case)], number % 2 == 0), sealed]
    });
    let mut changes = Changes::default();
    (sequence..).zip(facts).for_each(|(sequence, of)| changes.fact(fact(sequence, of), &[]));
    changes.chunk(&header(id(0), 0, 3, 50), VolumeNumber(0), located(3));
    let replayed = Fact::Replayed { digest: "abc".into(), at: CaptureTime(1) };
    changes.fact(fact(2000, replayed), &[(VolumeNumber(0), position(7))]);
    changes
}

fn lines(catalog: &dyn Catalog) -> Result<Vec<String>, CatalogError> {
    let mut lines = Vec::new();
    dump(catalog, &mut |line| lines.push(line.to_owned()))?;
    lines.push(format!("{:?}", catalog.pending()?));
    lines.push(format!("{:?}", catalog.journal_chunks(id(0), TrackId(0), Tick(0), Tick(99))?));
    lines.push(format!("{:?}", (catalog.sequence()?, catalog.applied()?)));
    Ok(lines)
}

fn names_the_remedy(error: &CatalogError) -> bool {
    error.to_string().contains("`sidetone store rebuild`")
}

#[test]
fn reopened_and_secondary_catalogs_show_the_same() {
    let (directory, catalog) = open();
    let path = directory.path().join("catalog");
    let scratch = tempfile::tempdir().unwrap();
    fill(&catalog, 0..4);
    let secondary = RocksCatalog::open_secondary(&path, scratch.path()).unwrap();
    assert_eq!(lines(&secondary).unwrap(), lines(&catalog).unwrap());
    assert!(secondary.has_replayed("abc").unwrap() && !secondary.has_replayed("ab").unwrap());
    fill(&catalog, 4..9);
    assert_ne!(lines(&secondary).unwrap(), lines(&catalog).unwrap());
    secondary.refresh().unwrap();
    assert_eq!(lines(&secondary).unwrap(), lines(&catalog).unwrap());
    let statistics = CatalogStatistics { size_bytes: 0, ..catalog.statistics().unwrap() };
    assert_eq!(CatalogStatistics { size_bytes: 0, ..secondary.statistics().unwrap() }, statistics);
    assert_eq!((statistics.recordings, statistics.recordings_on_hold, statistics.runs), (9, 5, 9));
    let before = lines(&catalog).unwrap();
    drop((secondary, catalog));
    let reopened = RocksCatalog::open(&path).unwrap();
    assert_eq!(lines(&reopened).unwrap(), before);
    assert_eq!(CatalogStatistics { size_bytes: 0, ..reopened.statistics().unwrap() }, statistics);
}

#[test]
fn a_catalog_that_was_built_is_the_same() {
    let (directory, catalog) = open();
    let path = directory.path().join("built");
    let builder = CatalogBuilder::create(&path, &CatalogOptions::default()).unwrap();
    std::thread::scope(|scope| {
        let builder = &builder;
        // The last has some that are there, and some that are not.
        for start in [5, 0, 8] {
            fill(&catalog, start..start + 5);
            scope.spawn(move || builder.add(&filling(start..start + 5)).unwrap());
        }
    });
    let built = builder.finish(2, &mut |_| {}).unwrap();
    built.apply(&Changes::default(), &[(VolumeNumber(0), position(9))]).unwrap();
    built.persist().unwrap();
    assert_eq!(lines(&built).unwrap(), lines(&catalog).unwrap());
    drop(built);
    let built = RocksCatalog::open(&path).unwrap();
    assert_eq!(lines(&built).unwrap(), lines(&catalog).unwrap());
    assert_eq!(digest(&built).unwrap(), digest(&catalog).unwrap());
    assert_eq!(all_pages(&built, &Filter::party("nna 7"), 5), all_pages(&catalog, &Filter::party("nna 7"), 5));
    fill(&built, 5..6);
    assert_eq!(digest(&built).unwrap(), digest(&catalog).unwrap());
}

/// Some of each thousand begin at another time than their identifier says; some have audio only.
#[test]
fn a_catalog_that_was_built_from_more_than_one_run_in_several_ranges_is_the_same() {
    const RECORDINGS: u64 = 24_000;
    let (directory, catalog) = open();
    let path = directory.path().join("built");
    let builder = CatalogBuilder::create(&path, &CatalogOptions::default()).unwrap();
    let changes = |part: u64, numbers: std::ops::Range<u64>| {
        let mut changes = Changes::default();
        for number in numbers {
            let time = 1_000_000 * (1_700_000_000_000 + number * 7919 % RECORDINGS / 2 * 50);
            let mut told = recording(0, time, STATES[(number % 3) as usize], &[]);
            told.id = RecordingId::derive(Seed([3; 16]), CaptureTime(time), &number.to_string());
            told.started_at.0 += u64::from(number % 1000 == 7) * 3_000_000;
            let names = [format!("Anna {}", number % 3000), format!("+4930{}", number % 700)];
            told.parties = recording(0, time, STATES[0], &[(&names[1], &names[0])]).parties;
            let id = told.id;
            let of = match part {
                0 if number % 1000 != 9 => document(&told),
                1 if number % 5 == 0 => tagged(id, &[("case", &names[0])], number % 10 == 0),
                2 => Fact::Sealed { recording: id, run: run(0, 1, number, 7), through: vec![] },
                _ => continue,
            };
            changes.fact(fact(part * RECORDINGS + number + 1, of), &[]);
        }
        changes
    };
    std::thread::scope(|scope| {
        for part in [2, 0, 1] {
            let (builder, changes) = (&builder, &changes);
            let batches = (0..RECORDINGS).step_by(1000).map(move |first| changes(part, first..first + 1000));
            batches.clone().for_each(|batch| catalog.apply(&batch, &[]).unwrap());
            scope.spawn(move || batches.for_each(|batch| builder.add(&batch).unwrap()));
        }
    });
    let built = builder.finish(2, &mut |_| {}).unwrap();
    built.persist().unwrap();
    let tables = std::fs::read_dir(&path)
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().path().extension().is_some_and(|extension| extension == "sst"));
    assert!(tables.count() > 10, "several ranges");
    assert!(!path.join("building").exists());
    assert_eq!(digest(&built).unwrap(), digest(&catalog).unwrap());
    let statistics = |catalog: &RocksCatalog| CatalogStatistics { size_bytes: 0, ..catalog.statistics().unwrap() };
    assert_eq!(statistics(&built), statistics(&catalog));
    assert_eq!(statistics(&built).recordings, RECORDINGS - RECORDINGS / 1000);
    for filter in [Filter::party("nna 2999"), Filter::party("930699"), Filter::OnHold, Filter::State(STATES[2])] {
        assert_eq!(all_pages(&built, &filter, 100), all_pages(&catalog, &filter, 100), "{filter:?}");
    }
    built.lacks(&catalog, &mut |recording| panic!("{recording} is not whole")).unwrap();
}

#[test]
fn what_another_catalog_has_more_is_told() {
    let (_directory, catalog) = open();
    let (_elsewhere, other) = open();
    (0..9).for_each(|number| fill(&catalog, number..number + 1));
    (3..12).for_each(|number| fill(&other, number..number + 1));
    // Known here by its audio alone, and there with its document; and one that has a newer one there, at another time.
    let mut audio = Changes::default();
    audio.chunk(&header(id(10), 0, 3, 50), VolumeNumber(0), located(3));
    catalog.apply(&audio, &[]).unwrap();
    apply_facts(&other, 9000, [document(&recording(5, 77 * 5_000_000, STATES[1], &[]))]);
    let lacks = |one: &RocksCatalog, other: &RocksCatalog| {
        let mut told = Vec::new();
        one.lacks(other, &mut |recording| told.push(recording)).unwrap();
        told
    };
    assert_eq!(lacks(&catalog, &other), [5, 11, 10, 9].map(id));
    assert_eq!(lacks(&other, &catalog), [2, 1, 0].map(id));
    assert_eq!(lacks(&other, &other), []);
}

#[test]
fn after_an_error_of_the_disk_it_goes_on_with_what_is_durable() {
    let (directory, catalog) = open();
    let (path, away) = (directory.path().join("catalog"), directory.path().join("away"));
    fill(&catalog, 0..4);
    catalog.persist().unwrap();
    let durable = lines(&catalog).unwrap();
    // The mount goes away under it.
    std::fs::rename(&path, &away).unwrap();
    let refused = catalog.compact().unwrap_err();
    assert!(!names_the_remedy(&refused), "not damaged: {refused}");
    let missing = catalog.reopen().unwrap_err();
    assert!(!path.exists(), "nothing is made where it was: {missing}");
    assert_eq!(lines(&catalog).unwrap(), durable, "who searches meets no error");
    assert!(catalog.apply(&Changes::default(), &[]).is_err());
    std::fs::rename(&away, &path).unwrap();
    catalog.reopen().unwrap();
    assert_eq!(lines(&catalog).unwrap(), durable);
    let mut changes = Changes::default();
    changes.fact(fact(9000, document(&recording(9, 9, STATES[1], &[]))), &[]);
    catalog.apply(&changes, &[]).unwrap();
    assert_eq!(catalog.statistics().unwrap().recordings, 5);
}

/// A file system of its own, and small; gone when it is dropped.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// Needs the right to mount; without it the test is left out, but not where tests are to be complete.
    fn new(mebibytes: u32) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={mebibytes}m"), "tmpfs"]).arg(directory.path());
        if mount.status().is_ok_and(|status| status.success()) {
            return Some(Self(directory));
        }
        assert!(std::env::var_os("CI").is_none(), "this test mounts a file system, and must be run by root");
        eprintln!("NOT TESTED: a catalog on a full disk. Run as root.");
        None
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Leaves so many KiB.
    fn fill(&self, left: u64) {
        let mut ballast = std::fs::File::create(self.path().join("ballast")).unwrap();
        while ballast.write_all(&[1; 4096]).is_ok() {}
        let bytes = ballast.metadata().unwrap().len();
        ballast.set_len(bytes.saturating_sub(left << 10)).unwrap();
    }

    fn drain(&self) {
        std::fs::remove_file(self.path().join("ballast")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("--lazy").arg(self.path()).status();
        assert!(unmounted.is_ok_and(|status| status.success()) || std::thread::panicking());
    }
}

#[test]
fn while_the_disk_is_full_searches_go_on_and_it_is_opened_again_when_there_is_room() {
    let Some(disk) = SmallDisk::new(48) else { return };
    let catalog = RocksCatalog::open(&disk.path().join("catalog")).unwrap();
    // Some megabytes, which are in the write-ahead log only.
    let changes = |numbers: std::ops::Range<u32>| {
        let mut changes = Changes::default();
        for number in numbers {
            // No two alike, and not to be compressed.
            let word = |index: u32| u64::from(number * 32 + index + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).swap_bytes();
            let name: String = (0..24).map(|index| format!("{:016x} ", word(index))).collect();
            let mut one = recording(0, u64::from(number) * 5_000_000, STATES[1], &[("1", name.as_str())]);
            one.id = RecordingId(uuid::Uuid::from_u128(u128::from(number) + 1));
            changes.fact(fact(u64::from(number) + 1, document(&one)), &[]);
        }
        changes
    };
    (0..100).for_each(|batch| catalog.apply(&changes(batch * 10..(batch + 1) * 10), &[]).unwrap());
    catalog.persist().unwrap();
    let shown = |catalog: &RocksCatalog| all_pages(catalog, &Filter::everything(), 100);
    let mut next = 1000;
    // Room for the probe, and not for the tables that opening writes; then not even for the probe.
    for left in [600, 64] {
        let mut attempts = 0;
        'full: loop {
            attempts += 1;
            assert!(attempts <= 10, "it was never refused for want of {left} KiB");
            disk.fill(64);
            let refused = loop {
                assert!(next < 9000, "the disk is not full");
                match catalog.apply(&changes(next..next + 1), &[]) {
                    Ok(()) => next += 1,
                    Err(error) => break error,
                }
            };
            assert!(!names_the_remedy(&refused), "{refused}");
            let before = shown(&catalog);
            assert_eq!(before.len(), next as usize);
            disk.fill(left);
            for _ in 0..3 {
                // A flush that was under way when the disk was filled gives back what it had written, and there is room again.
                let Err(refused) = catalog.reopen() else {
                    assert_eq!(shown(&catalog), before);
                    continue 'full;
                };
                assert!(!names_the_remedy(&refused), "{refused}");
                assert_eq!(matches!(refused, CatalogError::Io { operation: "write", .. }), left == 64, "{refused}");
                assert_eq!(shown(&catalog), before);
                let refused = [catalog.apply(&changes(0..10), &[]).unwrap_err(), catalog.persist().unwrap_err()];
                let is_read_only = |error: &CatalogError| matches!(error, CatalogError::ReadOnly { .. });
                assert!(refused.iter().all(|error| is_read_only(error) == (left != 64)), "{refused:?}");
            }
            disk.drain();
            catalog.reopen().unwrap();
            assert_eq!(shown(&catalog), before);
            catalog.apply(&changes(0..10), &[]).unwrap();
            catalog.persist().unwrap();
            break;
        }
    }
}

#[test]
fn a_damaged_row_is_told_and_no_reason_to_open_it_again() {
    let (directory, catalog) = open();
    let path = directory.path().join("catalog");
    fill(&catalog, 0..4);
    drop(catalog);
    {
        let families = rocksdb::DB::list_cf(&rocksdb::Options::default(), &path).unwrap();
        let database = rocksdb::DB::open_cf(&rocksdb::Options::default(), &path, families).unwrap();
        let family = database.cf_handle("documents").unwrap();
        database.put_cf(family, OrderKey::new(CaptureTime(5_000_000), id(1)).as_bytes(), b"\x01").unwrap();
    }
    let catalog = RocksCatalog::open(&path).unwrap();
    catalog.reopen().unwrap();
    let of = |number: u8| {
        let mut changes = Changes::default();
        let one = recording(number, u64::from(number) * 5_000_000, STATES[1], &[]);
        changes.fact(fact(5000, document(&one)), &[]);
        changes
    };
    assert!(names_the_remedy(&catalog.apply(&of(1), &[]).unwrap_err()));
    for _ in 0..2 {
        let told = catalog.reopen().unwrap_err();
        assert!(matches!(&told, CatalogError::Damaged { what, .. } if what.contains(&id(1).to_string())), "{told}");
    }
    assert!(catalog.recording(id(2)).unwrap().is_some());
    catalog.apply(&of(2), &[]).unwrap();
}

#[test]
fn ten_thousand_facts_that_are_about_no_recording_take_a_row_each() {
    const FACTS: u64 = 10_000;
    let (directory, catalog) = open();
    let volume = VolumeNumber(0);
    let place = |number: u64| sidetone_log::LogPosition { file: 1, offset: number * 4096 };
    for number in 1..=FACTS {
        let at = CaptureTime(number);
        let mut changes = Changes::default();
        let of = match number % 2 {
            0 => Fact::Clock { at, stepped_seconds: 0.5 },
            _ => Fact::Replayed { digest: format!("{number:064}"), at },
        };
        changes.fact(fact(number, of), &[(volume, place(number))]);
        catalog.apply(&changes, &[(volume, place(number + 1))]).unwrap();
    }
    let nobody = RecordingId(uuid::Uuid::nil());
    let settle = |number: u64| {
        let mut changes = Changes::default();
        changes.settle(nobody, sidetone_log::Through { volume, position: place(number) });
        catalog.apply(&changes, &[]).unwrap();
    };
    assert_eq!(catalog.pending().unwrap()[0].oldest, [(volume, place(1))]);
    settle(FACTS / 2);
    assert_eq!(catalog.pending().unwrap()[0].oldest, [(volume, place(FACTS / 2))]);
    let facts = catalog.facts(nobody).unwrap();
    assert_eq!(facts.len() as u64, FACTS);
    let needing = facts.iter().filter(|fact| !fact.places.is_empty()).count() as u64;
    assert_eq!(needing, FACTS / 2 + 1);
    settle(FACTS + 1);
    assert!(catalog.pending().unwrap().is_empty());
    drop(catalog);
    let path = directory.path().join("catalog");
    let families = rocksdb::DB::list_cf(&rocksdb::Options::default(), &path).unwrap();
    let database = rocksdb::DB::open_cf(&rocksdb::Options::default(), &path, families).unwrap();
    // The fact, what is needed, and three numbers of the catalog's own.
    let written = database.latest_sequence_number();
    assert!(written < FACTS * 5 + 100, "{written} rows were written");
}

#[test]
fn who_reads_while_it_is_opened_again_waits_and_sees_no_error() {
    let (_directory, catalog) = open();
    fill(&catalog, 0..20);
    catalog.persist().unwrap();
    let expected = catalog.search(&Query::default()).unwrap();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    assert_eq!(catalog.search(&Query::default()).unwrap(), expected);
                }
            });
        }
        scope.spawn(|| {
            for _ in 0..5 {
                fill(&catalog, 0..20);
                catalog.reopen().unwrap();
            }
            done.store(true, std::sync::atomic::Ordering::Relaxed);
        });
    });
}

/// Copies a directory of files.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// Opens a catalog and looks at everything in it.
type Look = fn(&Path) -> Result<Vec<String>, CatalogError>;

fn look(catalog: &dyn Catalog) -> Result<Vec<String>, CatalogError> {
    let found = lines(catalog)?;
    catalog.search(&Query::new(Filter::party("nna 7")))?;
    Ok(found)
}

#[test]
fn a_damaged_catalog_is_told_with_its_remedy_or_shows_what_it_showed() {
    let (directory, catalog) = open();
    let path = directory.path().join("catalog");
    fill(&catalog, 0..100);
    catalog.compact().unwrap();
    let first = lines(&catalog).unwrap();
    // These are in the write-ahead log only.
    fill(&catalog, 100..110);
    let second = lines(&catalog).unwrap();
    drop(catalog);
    type Damage = fn(&Path, &mut Vec<u8>);
    let ways: [(&str, Damage); 5] = [
        ("cut in half", |_, bytes| bytes.truncate(bytes.len() / 2)),
        ("empty", |_, bytes| bytes.clear()),
        ("garbled", |_, bytes| bytes.iter_mut().step_by(7).for_each(|byte| *byte ^= 0x55)),
        ("one bit", |_, bytes| {
            let middle = bytes.len() / 3;
            bytes[middle] ^= 4;
        }),
        ("removed", |path, _| std::fs::remove_file(path).unwrap()),
    ];
    let openings: [(&str, Look); 2] = [
        ("for reading", |path| {
            let scratch = tempfile::tempdir().unwrap();
            look(&RocksCatalog::open_secondary(path, scratch.path())?)
        }),
        ("for writing", |path| look(&RocksCatalog::open(path)?)),
    ];
    for (opening, look) in openings {
        let (mut told, mut tables) = (0, 0);
        for entry in std::fs::read_dir(&path).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            tables += u32::from(name.ends_with(".sst"));
            for (way, damage) in ways {
                let bad = tempfile::tempdir_in(directory.path()).unwrap();
                let bad = bad.path().join("catalog");
                copy(&path, &bad);
                let file = bad.join(&name);
                let mut bytes = std::fs::read(&file).unwrap();
                if bytes.is_empty() {
                    continue;
                }
                damage(&file, &mut bytes);
                if file.exists() {
                    std::fs::write(&file, bytes).unwrap();
                }
                match look(&bad) {
                    Ok(found) => {
                        // A log may end early: what is missing is applied again from the journal, as the position tells.
                        let is_log = name.ends_with(".log");
                        assert!(found == second || (is_log && found == first), "{name} {way}, opened {opening}");
                    }
                    Err(error) => {
                        told += 1;
                        assert!(names_the_remedy(&error), "{name} {way}, opened {opening}: {error}");
                    }
                }
            }
        }
        assert!(tables >= 8 && told >= 4 * tables, "only {told} of {tables} tables, opened {opening}");
    }
}

#[test]
fn tables_that_the_writer_replaces_meanwhile_are_no_damage() {
    let (directory, catalog) = open();
    let path = directory.path().join("catalog");
    fill(&catalog, 0..20);
    catalog.compact().unwrap();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                fill(&catalog, 0..20);
                catalog.compact().unwrap();
            }
        });
        let opened = (0..20).map(|_| {
            let scratch = tempfile::tempdir().unwrap();
            RocksCatalog::open_secondary(&path, scratch.path()).map(drop)
        });
        let opened: Vec<_> = opened.collect();
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(opened.iter().all(Result::is_ok), "{opened:?}");
    });
}

#[test]
fn a_catalog_that_is_not_there_cannot_be_read_and_is_told_with_its_remedy() {
    let directory = tempfile::tempdir().unwrap();
    for path in [directory.path().join("nowhere"), directory.path().to_owned()] {
        let scratch = tempfile::tempdir().unwrap();
        let refused = RocksCatalog::open_secondary(&path, scratch.path()).err().unwrap();
        assert!(names_the_remedy(&refused) && refused.to_string().contains("not there"), "{refused}");
        assert!(!path.join("CURRENT").exists());
    }
}

#[test]
fn a_catalog_of_a_later_version_is_refused() {
    let (directory, catalog) = open();
    let path = directory.path().join("catalog");
    drop(catalog);
    let raw = |change: &dyn Fn(&rocksdb::DB)| {
        let families = rocksdb::DB::list_cf(&rocksdb::Options::default(), &path).unwrap();
        let database = rocksdb::DB::open_cf(&rocksdb::Options::default(), &path, families).unwrap();
        change(&database);
    };
    raw(&|database| database.put_cf(database.cf_handle("meta").unwrap(), "version", 3u32.to_le_bytes()).unwrap());
    let scratch = tempfile::tempdir().unwrap();
    for refused in [RocksCatalog::open(&path), RocksCatalog::open_secondary(&path, scratch.path())] {
        assert!(matches!(refused, Err(CatalogError::NewerVersion { version: 3, readable: 2, .. })));
    }
    raw(&|database| database.put_cf(database.cf_handle("meta").unwrap(), "version", [2]).unwrap());
    assert!(names_the_remedy(&RocksCatalog::open(&path).err().unwrap()));
}

/// A catalog as version 1 wrote it.
fn write_version_1(path: &Path, recordings: &[Recording]) {
    let mut options = rocksdb::Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    let families =
        ["default", "meta", "recordings", "resume", "by_time", "by_state", "by_party", "party_texts", "chunks"];
    let database = rocksdb::DB::open_cf(&options, path, families).unwrap();
    let put = |family: &str, key: &[u8], value: &[u8]| {
        database.put_cf(database.cf_handle(family).unwrap(), key, value).unwrap();
    };
    put("meta", b"version", &1u32.to_le_bytes());
    put("meta", b"counters", &[0; 40]);
    put("meta", b"applied", &[&7u32.to_le_bytes()[..], &4096u64.to_le_bytes()].concat());
    put("meta", b"replayed/abc", &5u64.to_le_bytes());
    for recording in recordings {
        let id = recording.id.0.as_bytes();
        put("recordings", id, &[&[1], &serde_json::to_vec(recording).unwrap()[..]].concat());
        put("by_state", &[&[2; 25][..], &id[..]].concat(), &[]);
        put("resume", id, b"{\"turn\": 1}");
        let place = [&3u32.to_le_bytes()[..], &640u64.to_le_bytes(), &100u32.to_le_bytes(), &[50, 0, 49, 0]].concat();
        put("chunks", &[&id[..], &[1], &60u64.to_be_bytes()].concat(), &place);
    }
}

#[test]
fn a_catalog_of_version_1_is_brought_up_also_when_that_was_interrupted() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("catalog");
    let recordings: Vec<Recording> = (0..5000u32)
        .map(|number| {
            let mut one =
                recording(0, u64::from(number) * 1_000_000, STATES[(number % 3) as usize], &[("12345", "Anna Ohm")]);
            one.id = RecordingId(uuid::Uuid::from_u128(u128::from(number) + 1));
            one
        })
        .collect();
    write_version_1(&path, &recordings);
    let scratch = tempfile::tempdir().unwrap();
    let refused = RocksCatalog::open_secondary(&path, scratch.path());
    assert!(matches!(refused, Err(CatalogError::OlderVersion { version: 1, .. })));
    let interrupted = std::panic::catch_unwind(|| {
        let mut told = 0;
        RocksCatalog::open_with(&path, &CatalogOptions::default(), &mut |_| {
            told += 1;
            assert!(told < 2, "as if killed");
        })
    });
    assert!(interrupted.is_err());

    let mut told = Vec::new();
    let catalog = RocksCatalog::open_with(&path, &CatalogOptions::default(), &mut |done| told.push(done)).unwrap();
    assert_eq!(told.last(), Some(&5000));
    let check = |catalog: &RocksCatalog| {
        let found = all_pages(catalog, &Filter::Text(TextField::Name, TextMatch::WordStartsWith("oh".into())), 1000);
        assert_eq!(found, recordings.iter().rev().cloned().collect::<Vec<_>>());
        assert!(catalog.has_replayed("abc").unwrap());
        let active = catalog.active_with_resume().unwrap();
        assert_eq!((active.len(), active[0].1.json()), (1667, "{\"turn\": 1}"));
        let chunks = catalog.journal_chunks(recordings[3].id, TrackId(1), Tick(0), Tick(100)).unwrap();
        let position = sidetone_log::LogPosition { file: 3, offset: 640 };
        assert_eq!((chunks.len(), chunks[0].located.position, chunks[0].packets), (1, position, 49));
        let applied = sidetone_log::LogPosition { file: 7, offset: 4096 };
        assert_eq!(catalog.applied().unwrap(), [(VolumeNumber(0), applied)].into());
        // All of them need the journal, from its beginning on.
        let pending = catalog.pending().unwrap();
        assert_eq!(pending.len(), 5001);
        assert_eq!(pending[7].oldest, [(VolumeNumber(0), sidetone_log::LogPosition::default())]);
        let statistics = catalog.statistics().unwrap();
        assert_eq!((statistics.recordings, statistics.recordings_active, statistics.chunks), (5000, 1667, 5000));
    };
    check(&catalog);
    drop(catalog);
    let families = rocksdb::DB::list_cf(&rocksdb::Options::default(), &path).unwrap();
    assert!(!families.iter().any(|name| name == "by_party"), "{families:?}");
    check(&RocksCatalog::open_with(&path, &CatalogOptions::default(), &mut |_| panic!("once is enough")).unwrap());
}

#[test]
fn a_document_of_version_1_that_cannot_be_read_is_damage() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("catalog");
    write_version_1(&path, &[recording(1, 5, STATES[1], &[])]);
    {
        let families = rocksdb::DB::list_cf(&rocksdb::Options::default(), &path).unwrap();
        let database = rocksdb::DB::open_cf(&rocksdb::Options::default(), &path, families).unwrap();
        let family = database.cf_handle("recordings").unwrap();
        database.put_cf(family, id(1).0.as_bytes(), b"\x01{\"id\": 5}").unwrap();
    }
    assert!(names_the_remedy(&RocksCatalog::open(&path).err().unwrap()));
}

#[test]
fn a_backup_is_made_beside_the_writer_adds_only_what_is_new_and_is_restored_whole() {
    let (directory, catalog) = open();
    let [backups, restored] = ["backups", "restored"].map(|name| directory.path().join(name));
    assert!(matches!(restore(&backups, &restored), Err(CatalogError::NoBackup { .. })));
    fill(&catalog, 0..100);
    let mut told = Vec::new();
    catalog.backup(&backups, &mut |progress| told.push(progress)).unwrap();
    let first = told.last().unwrap().copied_bytes;
    assert!(first > 5000, "{told:?}");
    let saved = lines(&catalog).unwrap();

    fill(&catalog, 100..101);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| (101..140).for_each(|number| fill(&catalog, number..number + 1)));
        catalog.backup(&backups, &mut |_| {}).unwrap();
        writer.join().unwrap();
    });
    told.clear();
    catalog.backup(&backups, &mut |progress| told.push(progress)).unwrap();
    assert!(told.last().unwrap().copied_bytes < first, "{told:?}");
    let newest = lines(&catalog).unwrap();
    drop(catalog);

    restore(&backups, &restored).unwrap();
    assert_eq!(lines(&RocksCatalog::open(&restored).unwrap()).unwrap(), newest);
    assert!(matches!(restore(&backups, &restored), Err(CatalogError::NotEmpty { .. })));
    assert_ne!(saved, newest);
    purge_backups(&backups, 1).unwrap();
    let again = directory.path().join("again");
    restore(&backups, &again).unwrap();
    assert_eq!(lines(&RocksCatalog::open(&again).unwrap()).unwrap(), newest);
    // A backup that was changed is not taken for a catalog.
    let shared = backups.join("shared_checksum");
    let table = std::fs::read_dir(shared).unwrap().next().unwrap().unwrap().path();
    let mut bytes = std::fs::read(&table).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&table, bytes).unwrap();
    let refused = restore(&backups, &directory.path().join("bad"));
    assert!(matches!(refused, Err(CatalogError::Backup { .. })), "{refused:?}");
}

#[test]
fn a_row_of_a_later_layout_is_refused_by_itself() {
    let (directory, catalog) = open();
    let path = directory.path().join("catalog");
    fill(&catalog, 0..2);
    drop(catalog);
    {
        let families = rocksdb::DB::list_cf(&rocksdb::Options::default(), &path).unwrap();
        let database = rocksdb::DB::open_cf(&rocksdb::Options::default(), &path, families).unwrap();
        let family = database.cf_handle("documents").unwrap();
        let key = OrderKey::new(CaptureTime(5_000_000), id(1));
        let mut row = database.get_cf(family, key.as_bytes()).unwrap().unwrap();
        row[0] = 99;
        database.put_cf(family, key.as_bytes(), row).unwrap();
    }
    let catalog = RocksCatalog::open(&path).unwrap();
    assert!(catalog.recording(id(0)).unwrap().is_some());
    let refused = catalog.recording(id(1)).unwrap_err();
    assert!(matches!(refused, CatalogError::NewerDocument { layout: 99, readable: 1, .. }));
    assert!(names_the_remedy(&refused) && refused.to_string().contains(&id(1).to_string()));
}
