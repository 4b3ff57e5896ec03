//! The journal through random work, failures and crashes, compared with what it has acknowledged.
//!
//! `SIDETONE_SEEDS` says how many seeds to try, `SIDETONE_SEED` which one is the first. A failure names its seed.

use super::*;
use crate::simulation::{Defect, Operation, SimulatedDisk};

const DIRECTORY: &str = "/journal";
const STEPS: u64 = 120;

fn from_environment(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().expect("a number"))
}

#[test]
fn what_was_acknowledged_is_there_after_any_crash_and_nothing_that_was_never_appended() {
    let first = from_environment("SIDETONE_SEED", 0);
    let mut seen = Seen::default();
    for seed in first..first + from_environment("SIDETONE_SEEDS", 300) {
        if let Err(what) = Trial::new(seed).run(&mut seen) {
            panic!("seed {seed}: {what}");
        }
    }
    println!("{seen:?}");
    // The seeds go everywhere.
    if first == 0 {
        let Seen { acknowledged, crashes, kills, moves, failed, taken, rotated, recovered, retired, full } = seen;
        for count in [acknowledged, crashes, kills, moves, failed, taken, rotated, recovered, retired, full] {
            assert!(count > 10, "{seen:?}");
        }
    }
}

#[test]
fn a_disk_that_breaks_its_promises_is_found_out() {
    for defect in [Defect::SyncDoesNothing, Defect::DirectorySyncDoesNothing, Defect::SyncOvertakesWrites] {
        let found = (0..100).find(|&seed| Trial::with(seed, Some(defect)).run(&mut Seen::default()).is_err());
        println!("{defect:?}: seed {found:?}");
        assert!(found.is_some(), "{defect:?} goes unnoticed");
    }
}

/// How often things happened that a test of crashes has to meet.
#[derive(Clone, Copy, Default, Debug)]
struct Seen {
    acknowledged: u64,
    crashes: u64,
    kills: u64,
    moves: u64,
    failed: u64,
    taken: u64,
    rotated: u64,
    /// Records that were never acknowledged and are there all the same.
    recovered: u64,
    retired: u64,
    full: u64,
}

/// One journal over several lives of its process.
struct Trial {
    disk: SimulatedDisk,
    random: Random,
    journal: Option<Journal>,
    number: u64,
    /// Chunks that fill files.
    large_of_100: u64,
    /// Durable, in order, each where it lies.
    acknowledged: Vec<Appended>,
    /// Appended since, in order: of these a crash leaves the first few.
    pending: Vec<Appended>,
    /// Taken out of a failed journal, in which they may stand all the same until it begins a new file.
    taken: Vec<Appended>,
    /// The number of that journal file.
    taken_from: u32,
    /// The device fails to read at times. Then a torn tail may count as damage.
    reads_fail: bool,
    /// What a catalog might remember of the journal's end.
    remembered: LogPosition,
    /// Files before this one may have been removed.
    retired_before: u32,
}

impl Trial {
    fn new(seed: u64) -> Self {
        Self::with(seed, None)
    }

    fn with(seed: u64, defect: Option<Defect>) -> Self {
        let disk = SimulatedDisk::new(seed);
        disk.set_defect(Path::new("/"), defect);
        Self {
            disk,
            random: Random::new(seed ^ 0x5eed),
            journal: None,
            number: 0,
            reads_fail: seed.is_multiple_of(5),
            large_of_100: if seed.is_multiple_of(4) { 50 } else { 2 },
            acknowledged: Vec::new(),
            pending: Vec::new(),
            taken: Vec::new(),
            taken_from: 0,
            remembered: LogPosition::default(),
            retired_before: 0,
        }
    }

    fn run(&mut self, seen: &mut Seen) -> Result<(), String> {
        self.set_faults();
        for _ in 0..STEPS {
            if self.journal.is_none() {
                self.open(seen)?;
            }
            self.step(seen)?;
        }
        self.end_process(seen)?;
        self.clear_faults();
        self.open(seen)?;
        let Some(journal) = &mut self.journal else { return Err("a sound disk and no journal".into()) };
        let flushed = journal.flush().map_err(|error| format!("a sound disk, and {error}"))?;
        self.acknowledge(&flushed, seen)?;
        self.compare(seen)
    }

    fn set_faults(&mut self) {
        let directory = Path::new(DIRECTORY);
        let random = &mut self.random;
        self.disk.set_delay(directory, random.below(7) as u32);
        self.disk.set_preallocates(directory, random.chance(700));
        for (operation, most) in [
            (Operation::Write, 60),
            (Operation::Sync, 100),
            (Operation::Create, 150),
            (Operation::SyncDirectory, 150),
            (Operation::Remove, 100),
            (Operation::Truncate, 100),
            (Operation::Read, 20),
        ] {
            let may = operation != Operation::Read || self.reads_fail;
            let rate = if may && random.chance(400) { random.below(most) as u32 } else { 0 };
            self.disk.set_failure_rate(directory, operation, rate);
        }
    }

    fn clear_faults(&mut self) {
        let directory = Path::new(DIRECTORY);
        self.disk.set_down(directory, false);
        self.disk.set_capacity(directory, None);
        for operation in [
            Operation::Write,
            Operation::Sync,
            Operation::Create,
            Operation::SyncDirectory,
            Operation::Remove,
            Operation::Truncate,
            Operation::Read,
        ] {
            self.disk.set_failure_rate(directory, operation, 0);
        }
    }

    fn step(&mut self, seen: &mut Seen) -> Result<(), String> {
        let Some(journal) = &mut self.journal else { return Ok(()) };
        match self.random.below(100) {
            0..50 => {
                let length = match self.random.below(100) {
                    0..15 => None,
                    rest if rest < 15 + self.large_of_100 => Some(100_000 + self.random.below(900_000) as usize),
                    _ => Some(self.random.below(6000) as usize),
                };
                self.number += 1;
                let files = journal.statistics().files_created;
                let had_failed = journal.has_failed();
                // One that is refused must never show: its number is not used again.
                if let Ok(appended) = append(journal, self.number, length) {
                    self.pending.push(appended);
                }
                if !had_failed && journal.statistics().files_created > files {
                    seen.rotated += 1;
                }
            }
            50..62 => journal.begin_flush(),
            62..78 => {
                let flushed = match self.random.below(3) {
                    0 => journal.flush().map(Some),
                    1 => journal.poll_flush(true),
                    _ => journal.poll_flush(false),
                };
                match flushed {
                    Ok(Some(flushed)) => self.acknowledge(&flushed, seen)?,
                    Ok(None) => {}
                    Err(LogError::NoSpace { .. }) => seen.full += 1,
                    Err(_) => seen.failed += 1,
                }
            }
            78..83 if journal.has_failed() => self.take(seen)?,
            83..86 => {
                // May fail; the next step finds out.
                journal.retry().ok();
            }
            86..88 => self.disk.set_capacity(Path::new(DIRECTORY), Some(self.random.below(12 << 20))),
            88..91 => self.disk.set_capacity(Path::new(DIRECTORY), None),
            91 => self.disk.set_down(Path::new(DIRECTORY), true),
            92..94 => self.disk.set_down(Path::new(DIRECTORY), false),
            94 => {
                self.retired_before = self.remembered.file;
                if let Ok(removed) = journal.remove_files_before(self.remembered.file) {
                    seen.retired += u64::from(removed);
                }
            }
            95..97 => self.end_process(seen)?,
            _ => self.read_one()?,
        }
        // A later file says how far the failed one is good.
        if self.journal.as_ref().is_some_and(|journal| journal.durable().file > self.taken_from) {
            self.taken.clear();
        }
        Ok(())
    }

    /// Moves what a flush has made durable over to what must not be lost.
    fn acknowledge(&mut self, flushed: &Flushed, seen: &mut Seen) -> Result<(), String> {
        seen.moves += flushed.moves.len() as u64;
        for record in &mut self.pending {
            record.located = flushed.locate(record.located);
        }
        let durable = self.pending.iter().take_while(|record| record.located.position < flushed.durable).count();
        if self.pending[durable..].iter().any(|record| record.located.position < flushed.durable) {
            return Err("what is durable is not the beginning of what was appended".into());
        }
        seen.acknowledged += durable as u64;
        self.acknowledged.extend(self.pending.drain(..durable));
        if self.random.chance(300) {
            self.remembered = flushed.durable;
        }
        Ok(())
    }

    fn take(&mut self, seen: &mut Seen) -> Result<(), String> {
        let Some(journal) = &mut self.journal else { return Ok(()) };
        let unflushed = journal.take_unflushed();
        self.acknowledge(&unflushed.flushed, seen)?;
        let expected: Vec<Vec<u8>> = self.pending.iter().map(record_bytes).collect();
        if !unflushed.records.iter().map(|(_, record)| record).eq(&expected) {
            return Err("a failed journal does not give what waits in it".into());
        }
        if !unflushed.records.iter().map(|(located, _)| located).eq(self.pending.iter().map(|record| &record.located)) {
            return Err("a failed journal tells other places than it told before".into());
        }
        seen.taken += expected.len() as u64;
        self.taken.append(&mut self.pending);
        self.taken_from = unflushed.flushed.durable.file;
        Ok(())
    }

    fn end_process(&mut self, seen: &mut Seen) -> Result<(), String> {
        match self.random.below(5) {
            0 => {
                // In good order, as far as the disk lets it: what was pending may or may not be durable.
                self.journal = None;
                self.disk.kill();
            }
            1 => {
                seen.kills += 1;
                self.disk.kill();
            }
            _ => {
                seen.crashes += 1;
                self.disk.crash();
            }
        }
        self.journal = None;
        self.disk.set_down(Path::new(DIRECTORY), false);
        self.set_faults();
        Ok(())
    }

    /// A new process opens the journal, and what it finds is compared.
    fn open(&mut self, seen: &mut Seen) -> Result<(), String> {
        for attempt in 0.. {
            if attempt > 20 {
                return Err("the journal cannot be opened".into());
            }
            if attempt > 5 {
                self.clear_faults();
            }
            let (io, directory) = (self.disk.process(), Path::new(DIRECTORY));
            match Journal::open(io, directory, &identity(), &small(), self.remembered) {
                Ok(journal) => {
                    self.journal = Some(journal);
                    break;
                }
                Err(LogError::Io { .. } | LogError::NoSpace { .. }) if self.random.chance(500) => self.disk.crash(),
                Err(LogError::Io { .. } | LogError::NoSpace { .. }) => {}
                Err(error) => return Err(format!("the journal cannot be opened: {error}")),
            }
        }
        self.compare(seen)
    }

    /// What is in the journal is what was acknowledged, and then a beginning of what was not.
    fn compare(&mut self, seen: &mut Seen) -> Result<(), String> {
        self.disk.set_failure_rate(Path::new(DIRECTORY), Operation::Read, 0);
        let reader = reader(self.disk.process(), Path::new(DIRECTORY), STORE);
        let first_file = reader.files().map_err(|error| error.to_string())?.first().copied().unwrap_or_default();
        self.acknowledged.retain(|record| record.located.position.file >= first_file.min(self.retired_before));
        let scan = reader.scan(LogPosition::default(), KnownEnd::AtLeast(self.remembered));
        let mut entries = Vec::new();
        for item in scan.map_err(|error| error.to_string())? {
            match item {
                Ok(entry) => entries.push(entry),
                Err(error) if self.reads_fail && error.is_damage() => {}
                Err(error) => return Err(format!("reading meets {error}")),
            }
        }
        let mut entries = entries.into_iter();
        for record in &self.acknowledged {
            match entries.next() {
                Some(entry) if entry.content == record.content() && entry.located == record.located => {}
                found => {
                    let found = found.map(|entry| entry.located);
                    return Err(format!("record {} was at {:?}; found {found:?}", record.number, record.located));
                }
            }
        }
        let mut uncertain = self.taken.drain(..).chain(self.pending.drain(..));
        for entry in entries {
            let same = |record: &Appended| record.content() == entry.content;
            let record = match uncertain.next() {
                Some(record) if same(&record) => Some(record),
                _ if self.reads_fail => uncertain.find(same),
                _ => None,
            };
            let Some(record) = record else { return Err(format!("what lies at {:?} is out of order", entry.located)) };
            self.acknowledged.push(Appended { located: entry.located, ..record });
            seen.recovered += 1;
        }
        Ok(())
    }

    /// One acknowledged chunk, beside the writer.
    fn read_one(&mut self) -> Result<(), String> {
        if self.acknowledged.is_empty() {
            return Ok(());
        }
        let record = &self.acknowledged[self.random.below(self.acknowledged.len() as u64) as usize];
        if record.length.is_none() {
            return Ok(());
        }
        let reader = reader(self.disk.process(), Path::new(DIRECTORY), STORE);
        match reader.read_chunk(record.located) {
            Ok(chunk) if Content::Chunk(chunk.clone().into_chunk()) == record.content() => Ok(()),
            Ok(_) => Err(format!("another chunk lies at {:?}", record.located)),
            Err(LogError::Retired { .. }) if record.located.position.file < self.retired_before => Ok(()),
            Err(LogError::Io { .. }) => Ok(()),
            Err(error) => Err(format!("an acknowledged chunk cannot be read: {error}")),
        }
    }
}

fn record_bytes(appended: &Appended) -> Vec<u8> {
    match appended.content() {
        Content::Chunk(chunk) => chunk_record(&chunk.header, &chunk.payload).unwrap(),
        Content::Fact(fact) => fact_record(&fact).unwrap(),
    }
}
