//! Every byte of a log file that means anything is checked: flipped bits and cut files are found, and nothing panics.
//!
//! `SIDETONE_FLIPS=1000000` for so many; by default some thousands.

use super::segments::{Given, World, annotations, small_segments};
use super::{ALL, identity, small, write_flush};
use crate::format::{ALIGNMENT_BYTES, Frame, Meaning, RECORD_ALIGNMENT_BYTES, aligned, decode_frame, interpret};
use crate::simulation::{Random, SimulatedDisk};
use crate::*;
use std::collections::BTreeSet;
use std::ops::{ControlFlow, Range};
use std::path::PathBuf;
use std::sync::Arc;

/// Flips for each kind of file.
fn flips() -> u64 {
    std::env::var("SIDETONE_FLIPS").ok().and_then(|flips| flips.parse().ok()).unwrap_or(6000) / 4
}

/// A log file, and what is known of it.
struct Subject {
    world: World,
    disk: SimulatedDisk,
    journal: JournalReader,
    number: u32,
    path: PathBuf,
    bytes: Vec<u8>,
    expected: Expected,
    given: Vec<(Given, Run)>,
}

#[derive(Clone, Copy)]
enum Expected {
    Journal { durable: u64 },
    Segment { durable: u64, closed: bool },
}

impl Subject {
    fn journal(last: bool) -> Self {
        let (world, disk) = World::simulated(1);
        let open = || {
            Journal::open(Arc::clone(&world.io), &world.directory, &identity(), &small(), LogPosition::default())
                .unwrap()
        };
        let mut journal = open();
        let mut next = 0;
        for count in [3, 1, 7, 2] {
            write_flush(&mut journal, &mut next, count);
        }
        let durable = journal.durable().offset;
        drop(journal);
        if !last {
            drop(open());
        }
        let durable = if last { durable } else { 0 };
        Self::new(world, disk, 1, Expected::Journal { durable }, Vec::new())
    }

    fn segment(closed: bool) -> Self {
        let (world, disk) = World::simulated(1);
        let mut writer = world.create(1).unwrap();
        let mut given = Vec::new();
        let mut durable = 0;
        for number in 0..6 {
            let run = Given::new(number, 1 + number % 4, 100 + number as usize * 150);
            let written = run.append(&mut writer).unwrap();
            given.push((run, written));
            if number % 2 == 1 {
                writer.append_facts(&[annotations(1, number), annotations(2, number)]).unwrap();
                durable = writer.flush().unwrap();
            }
        }
        if closed {
            writer.close().unwrap();
        } else {
            writer.abandon();
        }
        Self::new(world, disk, 1, Expected::Segment { durable, closed }, given)
    }

    fn new(world: World, disk: SimulatedDisk, number: u32, expected: Expected, given: Vec<(Given, Run)>) -> Self {
        let owner = Owner { store_id: super::STORE, volume: VolumeNumber(0) };
        let journal = JournalReader::open(world.reader.files(), &world.directory, owner);
        let path = match expected {
            Expected::Journal { .. } => journal.path(number),
            Expected::Segment { .. } => world.reader.path(SegmentNumber(number)),
        };
        let bytes = world.io.read(&path).unwrap();
        Self { world, disk, journal, number, path, bytes, expected, given }
    }

    fn verify(&self) -> Result<(Verified, Vec<Damage>), LogError> {
        let mut damages = Vec::new();
        let mut watch = |finding| {
            if let Finding::Damage(damage) = finding {
                damages.push(damage);
            }
            ControlFlow::Continue(())
        };
        let verified = match self.expected {
            Expected::Journal { durable } => self.journal.verify_file(self.number, durable, &mut watch),
            Expected::Segment { durable, closed } => {
                self.world.reader.verify_file(SegmentNumber(self.number), durable, closed, &mut watch)
            }
        }?;
        assert_eq!(verified.damages, damages.len() as u64);
        Ok((verified, damages))
    }

    /// Everything that reads, as far as it comes: it may fail, and must neither panic nor give out what was never written.
    fn read_all(&self) {
        match self.expected {
            Expected::Journal { durable } => {
                let at_least = KnownEnd::AtLeast(LogPosition { file: 1, offset: durable });
                for end in [ALL, at_least, KnownEnd::At(LogPosition { file: 1, offset: durable.max(4096) })] {
                    let entries = self.journal.scan(LogPosition::default(), end).into_iter().flatten();
                    for entry in entries.flatten() {
                        if let Content::Chunk(chunk) = &entry.content {
                            assert_eq!(&self.journal.read_chunk(entry.located).unwrap().into_chunk(), chunk);
                        }
                    }
                }
            }
            Expected::Segment { durable, .. } => {
                let reader = &self.world.reader;
                let contents = reader.contents(SegmentNumber(1), durable);
                for entry in contents.iter().flat_map(|contents| &contents.entries) {
                    match entry {
                        SegmentEntry::Run(sealed) => {
                            assert!(
                                self.given.iter().any(|(_, run)| *run == sealed.run),
                                "a run that never was: {sealed:?}"
                            );
                        }
                        SegmentEntry::Facts(_) => {
                            reader.facts(SegmentNumber(1), entry.bytes()).unwrap().for_each(drop);
                        }
                    }
                }
                for record in reader.scan(SegmentNumber(1), durable).into_iter().flatten().flatten() {
                    if let SegmentContent::Chunk(chunk) = &record.content {
                        let known =
                            |given: &ChunkRecord| *given.header() == chunk.header && given.payload() == chunk.payload;
                        assert!(
                            self.given.iter().flat_map(|(given, _)| &given.chunks).any(known),
                            "a chunk that never was"
                        );
                    }
                }
                for (given, run) in &self.given {
                    let Ok(index) = reader.run_index(given.recording, run) else { continue };
                    reader.run_facts(run, &index).unwrap().for_each(drop);
                    for (entry, chunk) in index.entries.iter().zip(&given.chunks) {
                        let read = reader.read_chunk(given.recording, run, entry);
                        assert!(read.is_err() || read.as_ref().unwrap() == chunk, "a chunk that never was");
                    }
                }
            }
        }
    }

    /// Where whole records lie, the file header being the first.
    fn records(&self) -> Vec<Range<usize>> {
        let mut records = Vec::new();
        records.push(0..ALIGNMENT_BYTES);
        let mut at = ALIGNMENT_BYTES;
        while let Frame::Record(record) = decode_frame(&self.bytes[at..]) {
            records.push(at..at + record.length as usize);
            at += aligned(record.length as usize);
        }
        assert_eq!(at, self.bytes.len(), "these files hold records to their end");
        records
    }

    fn flip(&self, byte: usize, mask: u8) {
        self.disk.damage(&self.path, byte as u64, mask);
    }

    fn restore(&self) {
        self.world.io.write_small(&self.path, &self.bytes).unwrap();
    }
}

fn subjects() -> [Subject; 4] {
    [Subject::journal(false), Subject::journal(true), Subject::segment(true), Subject::segment(false)]
}

#[test]
fn files_that_are_whole_have_no_damage() {
    for subject in subjects() {
        let (verified, damages) = subject.verify().unwrap();
        assert!(damages.is_empty(), "{}: {damages:?}", subject.path.display());
        assert_eq!(verified.end, subject.bytes.len() as u64);
        assert_eq!(verified.records, subject.records().len() as u64 - 1);
    }
}

#[test]
fn every_flipped_bit_of_a_log_file_is_found() {
    for (kind, subject) in subjects().iter().enumerate() {
        let records = subject.records();
        let mut random = Random::new(kind as u64);
        let mut fill = 0;
        for _ in 0..flips() {
            let (byte, mask) = (random.below(subject.bytes.len() as u64) as usize, 1u8 << random.below(8));
            subject.flip(byte, mask);
            let (_, damages) = subject.verify().unwrap();
            let place = format!("{}: bit {mask:#x} of byte {byte}", subject.path.display());
            assert!(!damages.is_empty(), "{place} was not found");
            let record = records.iter().find(|record| record.contains(&byte));
            match record {
                // What is told lies where the flip is, at least with one of its ends.
                Some(record) => {
                    let near = |damage: &Damage| damage.from <= record.start as u64 && damage.to >= record.start as u64;
                    assert!(damages.iter().any(near), "{place} in {record:?}: {damages:?}");
                }
                None => {
                    fill += 1;
                    assert!(matches!(damages[..], [Damage { fault: Fault::Fill, .. }]), "{place}: {damages:?}");
                }
            }
            if kind == 2 {
                check_attribution(subject, byte, &damages, &place);
                check_scan(subject, byte, &damages, &place);
            }
            subject.read_all();
            subject.flip(byte, mask);
        }
        assert!(fill > 0, "some flips did hit fill");
        assert!(subject.verify().unwrap().1.is_empty(), "the flips were undone");
    }
}

/// In a closed segment a flip costs one chunk, or one fact, or one index, and is told so.
fn check_attribution(subject: &Subject, byte: usize, damages: &[Damage], place: &str) {
    for (given, run) in &subject.given {
        let inside = |begin: u64, bytes: usize| (begin as usize..begin as usize + bytes).contains(&byte);
        let mut offset = run.offset;
        for fact in &given.facts {
            let bytes = format::fact_record(fact).unwrap().len();
            if inside(offset, bytes) {
                assert!(
                    matches!(damages, [Damage { fault: Fault::Records, recording: Some(recording), ticks: None, .. }]
                        if *recording == given.recording),
                    "{place}: {damages:?}"
                );
            }
            offset += aligned(bytes) as u64;
        }
        for chunk in &given.chunks {
            let (header, bytes) = (chunk.header(), chunk.bytes().len());
            if inside(offset, bytes) {
                let [damage] = damages else { panic!("{place}: {damages:?}") };
                let ticks = header.first_tick..sidetone_model::Tick(header.first_tick.0 + u64::from(header.ticks));
                assert_eq!(damage.fault, Fault::Records, "{place}");
                assert_eq!(damage.recording, Some(given.recording), "{place}");
                assert_eq!((damage.track, damage.ticks.clone()), (Some(header.track), Some(ticks)), "{place}");
            }
            offset += aligned(bytes) as u64;
        }
        if inside(offset, (run.length - run.index_offset) as usize) {
            assert!(
                matches!(damages, [Damage { fault: Fault::Run, recording: Some(recording), .. }]
                    if *recording == given.recording),
                "{place}: {damages:?}"
            );
        }
    }
}

/// A scan of a closed segment tells the same places, and gives everything else. Only where a fact's length is damaged, the
/// facts behind it are lost with it: no index tells where they begin.
fn check_scan(subject: &Subject, byte: usize, damages: &[Damage], place: &str) {
    let (mut given, mut lost) = (BTreeSet::new(), Vec::new());
    for record in subject.world.reader.scan(SegmentNumber(1), 0).unwrap() {
        match record {
            Ok(record) => _ = given.insert(record.offset as usize),
            Err(LogError::DamagedSegment { from, to, .. }) => lost.push(from..to),
            Err(error) => panic!("{place}: {error}"),
        }
    }
    let mut is_behind_length = false;
    for record in subject.records().into_iter().skip(1) {
        let Frame::Record(found) = decode_frame(&subject.bytes[record.clone()]) else { unreachable!("as above") };
        let (Meaning::Content(_) | Meaning::RunIndex(_)) = interpret(&found) else { continue };
        let is_fact = matches!(interpret(&found), Meaning::Content(Content::Fact(_)));
        let is_hit = record.contains(&byte);
        is_behind_length = is_fact && (is_behind_length || (record.start..record.start + 4).contains(&byte));
        assert!(!is_hit || !given.contains(&record.start), "{place} was not noticed");
        if !given.contains(&record.start) {
            assert!(is_hit || is_behind_length, "{place} lost the record at {record:?}: {lost:?}");
            let inside = |lost: &Range<u64>| lost.start <= record.start as u64 && record.end as u64 <= lost.end;
            assert!(lost.iter().any(inside), "{place}: the loss of {record:?} was not told: {lost:?}");
        }
    }
    for damage in damages.iter().filter(|damage| damage.recording.is_some()) {
        assert!(lost.iter().any(|bytes| bytes.start <= damage.from && damage.to <= bytes.end), "{place}: {lost:?}");
    }
}

#[test]
fn every_cut_that_takes_a_byte_of_a_record_is_found() {
    for (kind, subject) in subjects().iter().enumerate() {
        let last = subject.records().last().unwrap().end;
        let mut random = Random::new(kind as u64);
        let boundaries: Vec<usize> = subject.records().iter().map(|record| record.end).collect();
        for _ in 0..flips() / 2 {
            // Between records, within them, at multiples of 4096.
            let cut = match random.below(3) {
                0 => boundaries[random.below(boundaries.len() as u64) as usize],
                1 => random.below(subject.bytes.len() as u64) as usize,
                _ => random.below((subject.bytes.len() / ALIGNMENT_BYTES) as u64) as usize * ALIGNMENT_BYTES,
            };
            subject.world.io.truncate(&subject.path, cut as u64).unwrap();
            let (_, damages) = subject.verify().unwrap();
            assert!(cut >= last || !damages.is_empty(), "{}: a cut at {cut} was not found", subject.path.display());
            subject.read_all();
            subject.restore();
        }
    }
}

/// Blocks of zeros, of rubbish, of other blocks; flips; cuts; several at once.
#[test]
fn whatever_becomes_of_a_file_nothing_panics_and_nothing_is_invented() {
    for (kind, subject) in subjects().iter().enumerate() {
        let mut random = Random::new(kind as u64);
        for round in 0..flips() / 4 {
            let mut bytes = subject.bytes.clone();
            for _ in 0..1 + random.below(4) {
                let unit = [RECORD_ALIGNMENT_BYTES, 512, ALIGNMENT_BYTES][random.below(3) as usize];
                let at = random.below((bytes.len() / unit) as u64) as usize * unit;
                let from = random.below((subject.bytes.len() / unit) as u64) as usize * unit;
                match random.below(6) {
                    0 => bytes[at..at + unit].fill(0),
                    1 => bytes[at..at + unit].copy_from_slice(&subject.bytes[from..from + unit]),
                    2 => bytes[at..at + unit].iter_mut().for_each(|byte| *byte = random.next() as u8),
                    3 => bytes[at] ^= 1 << random.below(8),
                    4 => bytes.truncate(at.max(ALIGNMENT_BYTES)),
                    _ => bytes.extend_from_slice(&subject.bytes[from..from + unit]),
                }
            }
            subject.world.io.write_small(&subject.path, &bytes).unwrap();
            subject.verify().unwrap();
            subject.read_all();
            if let Expected::Segment { durable, .. } = subject.expected {
                let durable = if round % 2 == 0 { durable } else { 0 };
                let closed =
                    close_left_open(&subject.world.reader, SegmentNumber(1), durable, &small_segments()).unwrap();
                for entry in closed.iter().flat_map(|contents| &contents.entries) {
                    if let SegmentEntry::Run(sealed) = entry {
                        assert!(subject.given.iter().any(|(_, run)| *run == sealed.run), "a run that never was");
                    }
                }
            }
            subject.restore();
        }
    }
}

#[test]
fn a_block_that_the_device_cannot_read_is_damage_and_the_rest_is_read() {
    let subject = Subject::segment(true);
    let (given, run) = &subject.given[5];
    let entry = subject.world.reader.run_index(given.recording, run).unwrap().entries[2];
    let at = run.offset + entry.offset + 40;
    subject.disk.set_unreadable(&subject.path, at..at + 1);
    let (_, damages) = subject.verify().unwrap();
    let hit = |damage: &Damage| damage.recording == Some(given.recording) && damage.track == Some(entry.track);
    assert!(damages.iter().any(hit), "{damages:?}");
    let lost: u64 = damages.iter().map(|damage| damage.to - damage.from).sum();
    assert!(lost <= 3 * ALIGNMENT_BYTES as u64, "{damages:?}");
}

/// Puts a record with a right checksum in the place of another.
fn exchange(subject: &Subject, offset: u64, change: impl FnOnce(&mut Vec<u8>)) -> Vec<Damage> {
    let mut bytes = subject.bytes.clone();
    let Frame::Record(record) = decode_frame(&bytes[offset as usize..]) else { panic!("a record begins there") };
    let (kind, flags, version) = (record.kind, record.flags, record.version);
    let mut body = record.body.to_vec();
    change(&mut body);
    let record = format::record(kind, flags, version, &body).unwrap();
    bytes[offset as usize..offset as usize + record.len()].copy_from_slice(&record);
    subject.world.io.write_small(&subject.path, &bytes).unwrap();
    let (_, damages) = subject.verify().unwrap();
    subject.restore();
    damages
}

#[test]
fn a_record_that_was_exchanged_for_another_is_found_although_its_checksum_is_right() {
    for subject in [Subject::segment(true), Subject::segment(false)] {
        let (given, run) = &subject.given[3];
        let index = subject.world.reader.run_index(given.recording, run).unwrap();
        let chunk = run.offset + index.entries[2].offset;
        let of_run = |damages: &[Damage], fault: Fault| {
            assert!(!damages.is_empty(), "{fault:?}");
            let told = |damage: &Damage| damage.recording == Some(given.recording);
            assert!(damages.iter().any(|damage| damage.fault == fault) && damages.iter().all(told), "{damages:?}");
        };
        // Other audio; another time; another number of packets.
        of_run(&exchange(&subject, chunk, |body| body[100] ^= 1), Fault::Root);
        of_run(&exchange(&subject, chunk, |body| body[16] ^= 1), Fault::Run);
        of_run(&exchange(&subject, chunk, |body| body[26] ^= 1), Fault::Run);
        // The run index: another root, other places.
        let index = run.offset + run.index_offset;
        of_run(&exchange(&subject, index, |body| body[64] ^= 1), Fault::Root);
        for byte in [0, 32, 40, 48, 112] {
            assert!(!exchange(&subject, index, |body| body[byte] ^= 16).is_empty(), "byte {byte} of the run index");
        }
    }
    // The segment index, the footer.
    let subject = Subject::segment(true);
    let footer = (subject.bytes.len() - ALIGNMENT_BYTES) as u64;
    let Frame::Record(record) = decode_frame(&subject.bytes[footer as usize..]) else { panic!("the footer") };
    let index = u64::from_le_bytes(record.body[16..24].try_into().unwrap());
    for byte in [4, 5, 21, 29, 37, 45, 49, 57, 65, 73, 104] {
        let damages = exchange(&subject, index, |body| body[byte] ^= 1);
        assert!(damages.iter().any(|damage| damage.fault == Fault::Index), "byte {byte} of the index: {damages:?}");
    }
    for byte in [0, 16, 24, 32, 40, 44, 48] {
        let damages = exchange(&subject, footer, |body| body[byte] ^= 1);
        assert!(damages.iter().any(|damage| damage.fault == Fault::Index), "byte {byte} of the footer: {damages:?}");
    }
}

#[test]
fn who_watches_a_check_hears_of_every_byte_and_can_stop_it() {
    let subject = Subject::segment(true);
    let mut read = 0;
    let mut watch = |finding| {
        let Finding::Read(bytes) = finding else { panic!("nothing is damaged") };
        read += bytes;
        ControlFlow::Continue(())
    };
    subject.world.reader.verify_file(SegmentNumber(1), 0, true, &mut watch).unwrap();
    assert_eq!(read, subject.bytes.len() as u64);
    let mut longer = subject.world.create(2).unwrap();
    for number in 0..40 {
        Given::new(number, 20, 3000).append(&mut longer).unwrap();
    }
    longer.close().unwrap();
    let mut calls = 0;
    let mut stop = |_| {
        calls += 1;
        ControlFlow::Break(())
    };
    let verified = subject.world.reader.verify_file(SegmentNumber(2), 0, true, &mut stop).unwrap();
    assert!(verified.stopped && verified.runs < 20, "{verified:?}");
}
