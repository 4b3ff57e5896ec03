//! Reads everything that a store holds and tells what is not as it was written: every byte of journals and segments that means
//! anything, every Merkle root against its announcement, and the catalog against the log.
//!
//! Constraints: changes nothing and works beside a writer, in this process or another. What is being written meanwhile is
//! left out, and the report says so. Memory is bounded whatever is damaged.

use crate::logs::VolumeLogs;
use crate::reader::StoreReader;
use crate::{StoreError, backup};
use serde::{Deserialize, Serialize};
use sidetone_catalog::{Catalog, CatalogError, Filter, Query};
use sidetone_log::{
    Content, Damage, Fact, FactRecord, FactSequence, Fault, Finding, KnownEnd, LogError, LogPosition, SegmentEntry,
    SegmentNumber, Verified, VolumeNumber, merkle,
};
use sidetone_model::{CaptureTime, Recording, RecordingId, Tick, TrackId};
use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::{Duration, Instant};

/// Bad places told one by one; of those behind only the number.
const PLACES_MAX: usize = 10_000;
/// So many of the newest segments of a volume can be without footer for good reasons.
const MAY_BE_OPEN: u32 = 2 * crate::keeper::OPEN_SPAN;

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VerifyOptions {
    /// Not faster than this, so that recording has its disks. Absent: as fast as they are.
    pub bytes_per_second: Option<u64>,
    /// The catalog was copied before the logs, and nobody has opened the store since: what only the journals
    /// tell of is not its damage.
    pub catalog_is_older: bool,
}

/// How far it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct VerifyProgress {
    pub bytes: u64,
    /// Of all files as they were at the beginning, preallocated space included.
    pub bytes_total: u64,
    pub files: u64,
    pub files_total: u64,
    pub bad_places: u64,
}

/// What was read, and what is wrong.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct VerifyReport {
    pub files: u64,
    pub bytes: u64,
    pub records: u64,
    pub chunks: u64,
    pub facts: u64,
    pub runs: u64,
    /// Recordings of which the catalog was held against the log.
    pub recordings: u64,
    pub bad_places: u64,
    /// The first of them.
    pub bad: Vec<BadPlace>,
    /// What was left out, and why.
    pub skipped: Vec<Skipped>,
    /// Whoever watched wanted it to stop.
    pub stopped: bool,
}

impl VerifyReport {
    /// Everything that was read is as it was written.
    pub fn is_clean(&self) -> bool {
        self.bad_places == 0
    }
}

/// A file of a store.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFileName {
    Journal(u32),
    Segment(SegmentNumber),
}

impl fmt::Display for LogFileName {
    /// As its path below the volume.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Journal(file) => write!(f, "journal/{file:010}.jnl"),
            Self::Segment(segment) => write!(f, "segments/{:010}.seg", segment.0),
        }
    }
}

/// Something that is not as it was written.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BadPlace {
    /// Absent when it is only in the catalog.
    pub volume: Option<VolumeNumber>,
    /// Absent, too, when it is the whole volume.
    pub file: Option<LogFileName>,
    /// In bytes of the file.
    pub from: u64,
    pub to: u64,
    pub what: String,
    /// Whose audio or facts it is, as far as an index or the catalog tells.
    pub recording: Option<RecordingId>,
    pub track: Option<TrackId>,
    pub from_time: Option<CaptureTime>,
    pub to_time: Option<CaptureTime>,
}

/// Something that could not be read now.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Skipped {
    pub volume: VolumeNumber,
    pub file: LogFileName,
    /// From this byte on.
    pub from: u64,
    pub why: String,
}

/// Checks the store in `home`, or the backup that lies there; `progress` is called now and then and can stop it.
pub fn verify(
    home: &Path,
    options: &VerifyOptions,
    progress: &mut dyn FnMut(&VerifyProgress) -> ControlFlow<()>,
) -> Result<VerifyReport, StoreError> {
    let (reader, fault, catalog_is_older) = match backup::open(home)? {
        Some((reader, fault)) => (reader, fault, true),
        None => {
            let (reader, fault) = StoreReader::open_to_check(home)?;
            (reader, fault, options.catalog_is_older)
        }
    };
    // One that was made of the logs just now is not older.
    let catalog_is_older = catalog_is_older && fault.is_none();
    reader.check(&VerifyOptions { catalog_is_older, ..*options }, fault, progress)
}

impl StoreReader {
    /// As [`verify`].
    pub fn verify(
        &self,
        options: &VerifyOptions,
        progress: &mut dyn FnMut(&VerifyProgress) -> ControlFlow<()>,
    ) -> Result<VerifyReport, StoreError> {
        self.check(options, None, progress)
    }

    /// `fault` is what is wrong with the catalog in place of which this reader has another.
    fn check(
        &self,
        options: &VerifyOptions,
        fault: Option<CatalogError>,
        progress: &mut dyn FnMut(&VerifyProgress) -> ControlFlow<()>,
    ) -> Result<VerifyReport, StoreError> {
        let mut check = Check {
            reader: self,
            applied: BTreeMap::new(),
            catalog_fault: None,
            report: VerifyReport::default(),
            progress: VerifyProgress::default(),
            behind: Behind::default(),
            pace: Pace { bytes_per_second: options.bytes_per_second, began: Instant::now() },
            tell: progress,
        };
        if let Some(fault) = fault {
            check.bad(BadPlace::of_catalog(None, fault.to_string()));
        }
        check.run(options.catalog_is_older)?;
        Ok(check.report)
    }
}

/// Keeps to a rate.
struct Pace {
    bytes_per_second: Option<u64>,
    began: Instant,
}

impl Pace {
    fn keep(&self, bytes: u64) {
        let Some(rate) = self.bytes_per_second.filter(|rate| *rate > 0) else { return };
        let due = Duration::from_secs_f64(bytes as f64 / rate as f64);
        std::thread::sleep(due.saturating_sub(self.began.elapsed()));
    }
}

/// Facts by what they are about and their sequence, and the runs that they announce, by recording, segment and offset.
#[derive(Default)]
struct Behind {
    facts: HashSet<(Option<RecordingId>, FactSequence)>,
    runs: HashSet<(RecordingId, SegmentNumber, u64)>,
}

impl Behind {
    /// In a segment, the document of a recording that goes on has the sequence before that of the whole.
    fn knows(&self, record: &FactRecord) -> bool {
        let about = record.fact.recording();
        let whole = FactSequence(record.sequence.0.saturating_add(1));
        [record.sequence, whole].into_iter().any(|sequence| self.facts.contains(&(about, sequence)))
    }
}

struct Check<'a> {
    reader: &'a StoreReader,
    /// Everything in the journals before these positions is durable and in the catalog.
    applied: BTreeMap<VolumeNumber, LogPosition>,
    /// Why the catalog could not answer, the last time.
    catalog_fault: Option<String>,
    /// What the journals hold that an older catalog does not know yet.
    behind: Behind,
    report: VerifyReport,
    progress: VerifyProgress,
    pace: Pace,
    tell: &'a mut dyn FnMut(&VerifyProgress) -> ControlFlow<()>,
}

impl Check<'_> {
    fn run(&mut self, catalog_is_older: bool) -> Result<(), StoreError> {
        let reader = self.reader;
        let applied = reader.refresh().and_then(|()| Ok(self.catalog().applied()?));
        self.applied = self.answer(applied);
        if catalog_is_older {
            self.behind = self.behind();
        }
        let mut files = Vec::new();
        for logs in reader.logs().volumes() {
            let volume = logs.volume.number;
            if reader.is_missing(volume) {
                self.bad(BadPlace::of_volume(volume, "it is missing: mount it, and check again".to_owned()));
                continue;
            }
            match files_of(logs) {
                Ok(found) => files.extend(found.into_iter().map(|file| (volume, file))),
                Err(error) => {
                    self.bad(BadPlace::of_volume(volume, error.to_string()));
                    continue;
                }
            }
            let told = self.tell_missing(logs);
            self.answer(told);
        }
        self.progress.files_total = files.len() as u64;
        for &(volume, file) in &files {
            let logs = self.reader.logs().volume(volume)?;
            let size = self.reader.io().size(&path(logs, file));
            self.progress.bytes_total += size.map_or(0, |size| size.bytes);
        }
        for (volume, file) in files {
            if self.report.stopped {
                return Ok(());
            }
            self.check_file(volume, file)?;
            self.progress.files += 1;
            self.tell();
        }
        for (volume, end) in self.applied.clone() {
            if self.report.stopped {
                return Ok(());
            }
            if !self.reader.is_missing(volume) {
                let compared = self.compare_journal(volume, end);
                self.answer(compared);
            }
        }
        let compared = self.compare_recordings();
        self.answer(compared);
        Ok(())
    }

    /// What the catalog answers. That it cannot is its damage, told once, and keeps nothing else from being checked.
    fn answer<T: Default>(&mut self, answer: Result<T, StoreError>) -> T {
        answer.unwrap_or_else(|error| {
            let what = error.to_string();
            if self.catalog_fault.as_ref() != Some(&what) {
                self.bad(BadPlace::of_catalog(None, what.clone()));
                self.catalog_fault = Some(what);
            }
            T::default()
        })
    }

    // ---- files that are gone

    /// Tells the files that the catalog knows and that are not there.
    fn tell_missing(&mut self, logs: &VolumeLogs) -> Result<(), StoreError> {
        let mut gone = missing(self.catalog(), logs)?;
        if !gone.is_empty() {
            // One may have gone since the catalog was asked: it needs it no longer.
            self.reader.refresh()?;
            let still = missing(self.catalog(), logs)?;
            gone.retain(|file, _| still.contains_key(file));
        }
        for (file, end) in gone {
            let up_to =
                |to| BadPlace::of_file(logs.volume.number, file, 0, to, "the file is missing: put it back".to_owned());
            let mut found = match file {
                LogFileName::Journal(number) => self.chunks_in(&up_to(u64::MAX), number)?,
                // Its runs are looked at with the recordings.
                LogFileName::Segment(_) => Vec::new(),
            };
            if found.is_empty() {
                found.push(up_to(end));
            }
            found.into_iter().for_each(|bad| self.bad(bad));
        }
        Ok(())
    }

    fn catalog(&self) -> &dyn Catalog {
        &**self.reader.catalog()
    }

    // ---- files

    fn check_file(&mut self, volume: VolumeNumber, file: LogFileName) -> Result<(), StoreError> {
        let reader = self.reader;
        let logs = reader.logs().volume(volume)?;
        let applied = self.applied.get(&volume).copied().unwrap_or_default();
        let mut damages = Vec::new();
        let known_end = match file {
            LogFileName::Journal(number) if number == applied.file => applied.offset,
            LogFileName::Journal(_) => 0,
            LogFileName::Segment(number) => {
                let end = self.catalog().segment_end(volume, number).map_err(StoreError::from);
                self.answer(end)
            }
        };
        let mut watch = |finding: Finding| self.watch(finding, &mut damages);
        let verified = match file {
            LogFileName::Journal(number) => logs.journal.verify_file(number, known_end, &mut watch),
            LogFileName::Segment(number) => verify_segment(logs, number, known_end, &mut watch),
        };
        let verified = match verified {
            Ok(verified) => verified,
            Err(LogError::Retired { .. }) => {
                self.skip(volume, file, 0, "it was removed meanwhile: what it held has moved");
                return Ok(());
            }
            Err(error) => {
                let end = reader.io().size(&path(logs, file)).map_or(0, |size| size.bytes);
                self.bad(BadPlace::of_file(volume, file, 0, end, error.to_string()));
                return Ok(());
            }
        };
        self.count(&verified);
        let open_from = self.open_from(volume, file, &verified, applied)?;
        if let Some(from) = open_from {
            self.skip(volume, file, from, "it is being written, or its process has just ended");
        }
        for damage in damages {
            if open_from.is_some_and(|from| damage.from >= from) {
                continue;
            }
            let place = BadPlace::of_damage(volume, file, &damage);
            let told = match self.attribute(&place, damage.fault) {
                Ok(told) => told,
                Err(error) => {
                    self.answer::<()>(Err(error));
                    vec![place]
                }
            };
            told.into_iter().for_each(|bad| self.bad(bad));
        }
        if let LogFileName::Segment(segment) = file {
            let compared = self.compare_segment(logs, segment);
            self.answer(compared);
        }
        Ok(())
    }

    /// From where on a file may be in the middle of a change.
    fn open_from(
        &self,
        volume: VolumeNumber,
        file: LogFileName,
        verified: &Verified,
        applied: LogPosition,
    ) -> Result<Option<u64>, StoreError> {
        Ok(match file {
            LogFileName::Journal(number) => {
                // That they cannot be listed any more is told by the next one.
                let newest = self.reader.logs().volume(volume)?.journal.files().unwrap_or_default().last().copied();
                let from = if number == applied.file { applied.offset } else { 0 };
                (number >= applied.file && newest == Some(number)).then_some(from)
            }
            LogFileName::Segment(_) => (!verified.closed).then_some(verified.end),
        })
    }

    fn watch(&mut self, finding: Finding, damages: &mut Vec<Damage>) -> ControlFlow<()> {
        match finding {
            Finding::Read(bytes) => {
                self.progress.bytes += bytes;
                self.report.bytes += bytes;
                self.pace.keep(self.progress.bytes);
                self.tell();
            }
            Finding::Damage(damage) => {
                if damages.len() < PLACES_MAX {
                    damages.push(damage);
                }
            }
        }
        if self.report.stopped { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn tell(&mut self) {
        self.progress.bad_places = self.report.bad_places;
        self.report.stopped |= (self.tell)(&self.progress).is_break();
    }

    fn count(&mut self, verified: &Verified) {
        self.report.files += 1;
        self.report.records += verified.records;
        self.report.chunks += verified.chunks;
        self.report.facts += verified.facts;
        self.report.runs += verified.runs;
    }

    fn skip(&mut self, volume: VolumeNumber, file: LogFileName, from: u64, why: &str) {
        self.report.skipped.push(Skipped { volume, file, from, why: why.to_owned() });
    }

    fn bad(&mut self, bad: BadPlace) {
        self.report.bad_places += 1;
        if self.report.bad.len() < PLACES_MAX {
            self.report.bad.push(bad);
        }
    }

    /// Whose a damaged place is: a segment's index has told already; of a journal the catalog knows what lies there.
    fn attribute(&self, bad: &BadPlace, fault: Fault) -> Result<Vec<BadPlace>, StoreError> {
        let found = match bad.file {
            Some(LogFileName::Journal(number)) if fault != Fault::Fill => self.chunks_in(bad, number)?,
            _ => Vec::new(),
        };
        // What the catalog does not know was of no consequence any more: facts that were replaced, audio that is sealed.
        Ok(if found.is_empty() { vec![bad.clone()] } else { found })
    }

    /// A bad place of a journal file, by the chunks there that are in no run.
    fn chunks_in(&self, bad: &BadPlace, number: u32) -> Result<Vec<BadPlace>, StoreError> {
        let mut found = Vec::new();
        for pending in self.catalog().pending()?.iter().filter(|pending| pending.unsealed_chunks > 0) {
            for row in self.catalog().unsealed(pending.recording)? {
                let position = row.located.position;
                let end = position.offset + u64::from(row.located.length);
                let is_there = Some(row.volume) == bad.volume && position.file == number;
                if !is_there || position.offset >= bad.to || end <= bad.from {
                    continue;
                }
                let ticks = row.first_tick..Tick(row.first_tick.0 + u64::from(row.ticks));
                let (from_time, to_time) = times(Some(ticks));
                let (recording, track) = (Some(pending.recording), Some(row.track));
                let (from, to) = (position.offset, end);
                found.push(BadPlace { from, to, recording, track, from_time, to_time, ..bad.clone() });
            }
        }
        Ok(found)
    }

    // ---- the catalog against the log

    /// Everything that a journal holds up to where it is applied is in the catalog.
    fn compare_journal(&mut self, volume: VolumeNumber, end: LogPosition) -> Result<(), StoreError> {
        let logs = self.reader.logs().volume(volume)?;
        let scan = match logs.journal.scan(LogPosition::default(), KnownEnd::At(end)) {
            Ok(scan) => scan,
            Err(error) => {
                self.bad(BadPlace::of_catalog(None, format!("the catalog is ahead of volume {}: {error}", volume.0)));
                return Ok(());
            }
        };
        for entry in scan {
            // Damage was told by the check of the file; a file may go meanwhile.
            let Ok(entry) = entry else { continue };
            if self.report.stopped {
                return Ok(());
            }
            let what = match &entry.content {
                Content::Chunk(chunk) => {
                    let (recording, track, tick) =
                        (chunk.header.recording, chunk.header.track, chunk.header.first_tick);
                    let rows = self.catalog().journal_chunks(recording, track, tick, Tick(tick.0.saturating_add(1)))?;
                    let is_sealed = || {
                        Ok::<_, StoreError>(
                            self.catalog()
                                .runs(recording)?
                                .iter()
                                .any(|run| run.first_tick <= tick && tick < run.end_tick),
                        )
                    };
                    let is_known = rows.iter().any(|row| row.first_tick == tick) || is_sealed()?;
                    (!is_known).then_some((Some(recording), "the catalog does not know this audio"))
                }
                Content::Fact(record) => self.compare_fact(record)?,
            };
            if let Some((recording, what)) = what {
                let position = entry.located.position;
                let (from, to) = (position.offset, position.offset + u64::from(entry.located.length));
                let file = LogFileName::Journal(position.file);
                self.bad(BadPlace::of_catalog(
                    recording,
                    format!("{what} (volume {} {file} bytes {from}..{to})", volume.0),
                ));
            }
        }
        Ok(())
    }

    /// The facts of a segment are in the catalog, and so are its runs.
    fn compare_segment(&mut self, logs: &VolumeLogs, segment: SegmentNumber) -> Result<(), StoreError> {
        // What cannot be read was told by the check of the file.
        let at_least = self.catalog().segment_end(logs.volume.number, segment)?;
        let Ok(contents) = logs.segments.contents(segment, at_least) else { return Ok(()) };
        let file = LogFileName::Segment(segment);
        for entry in contents.entries {
            let bytes = entry.bytes();
            let place = format!("(volume {} {file} bytes {}..{})", logs.volume.number.0, bytes.start, bytes.end);
            let facts = match &entry {
                SegmentEntry::Run(sealed) => {
                    let is_known = |check: &Self| {
                        // One that is being announced is in no footer yet.
                        let is_known = !contents.closed
                            || check.behind.runs.contains(&(sealed.recording, sealed.run.segment, sealed.run.offset))
                            || check.catalog().runs(sealed.recording)?.contains(&sealed.run);
                        Ok(is_known)
                    };
                    if !self.ask_twice(is_known)? {
                        let what = format!("the catalog does not know this run, or knows another root {place}");
                        self.bad(BadPlace::of_catalog(Some(sealed.recording), what));
                    }
                    continue;
                }
                SegmentEntry::Facts(_) => logs.segments.facts(segment, bytes.clone()),
            };
            let Ok(facts) = facts else { continue };
            for record in facts.filter_map(Result::ok) {
                if let Some((recording, what)) = self.compare_fact(&record)? {
                    self.bad(BadPlace::of_catalog(recording, format!("{what} {place}")));
                }
            }
        }
        Ok(())
    }

    /// Whether the catalog knows something, now or as its writer has it: that may have been quicker than this check.
    fn ask_twice(&self, is_known: impl Fn(&Self) -> Result<bool, StoreError>) -> Result<bool, StoreError> {
        if is_known(self)? {
            return Ok(true);
        }
        self.reader.refresh()?;
        is_known(self)
    }

    /// What is wrong with the catalog as far as a fact is concerned.
    fn compare_fact(&self, record: &FactRecord) -> Result<Option<(Option<RecordingId>, &'static str)>, StoreError> {
        let is_known = self.ask_twice(|check| check.knows(record))?;
        let what = match &record.fact {
            Fact::Sealed { .. } => "the catalog does not know this run, or knows another root",
            _ => "the catalog does not know this fact",
        };
        Ok((!is_known).then_some((record.fact.recording(), what)))
    }

    /// What cannot be read of the journals is told by the check of their files.
    fn behind(&self) -> Behind {
        let mut behind = Behind::default();
        for logs in self.reader.logs().volumes() {
            let from = self.applied.get(&logs.volume.number).copied().unwrap_or_default();
            let Ok(scan) = logs.journal.scan(from, KnownEnd::AtLeast(from)) else { continue };
            for entry in scan.filter_map(Result::ok) {
                let Content::Fact(record) = entry.content else { continue };
                if let Fact::Sealed { recording, run, .. } = &record.fact {
                    behind.runs.insert((*recording, run.segment, run.offset));
                }
                behind.facts.insert((record.fact.recording(), record.sequence));
            }
        }
        behind
    }

    fn knows(&self, record: &FactRecord) -> Result<bool, StoreError> {
        let catalog = self.catalog();
        if self.behind.knows(record) {
            return Ok(true);
        }
        let newest = |is_kind: fn(&Fact) -> bool, id: RecordingId| {
            let held = catalog.facts(id)?;
            let held = held.iter().filter(|held| is_kind(&held.record.fact)).map(|held| held.record.sequence);
            Ok::<_, StoreError>(held.max())
        };
        Ok(match &record.fact {
            Fact::Recording { recording, .. } => {
                newest(|fact| matches!(fact, Fact::Recording { .. }), recording.id)? >= Some(record.sequence)
            }
            Fact::Annotations { recording, .. } => {
                newest(|fact| matches!(fact, Fact::Annotations { .. }), *recording)? >= Some(record.sequence)
            }
            Fact::Sealed { recording, run, .. } => catalog.runs(*recording)?.contains(run),
            Fact::Replayed { digest, .. } => catalog.has_replayed(digest)?,
            Fact::Clock { .. } => true,
        })
    }

    /// What the catalog says of recordings is there.
    fn compare_recordings(&mut self) -> Result<(), StoreError> {
        let mut query = Query { filter: Filter::everything(), cursor: None, limit: 1000 };
        loop {
            let page = self.catalog().search(&query)?;
            for recording in page.recordings {
                self.report.recordings += 1;
                self.compare_recording(&recording)?;
                if self.report.stopped {
                    return Ok(());
                }
            }
            self.tell();
            query.cursor = page.next;
            if query.cursor.is_none() {
                return Ok(());
            }
        }
    }

    fn compare_recording(&mut self, recording: &Recording) -> Result<(), StoreError> {
        let id = recording.id;
        let runs = self.catalog().runs(id)?;
        for run in runs.iter().filter(|run| !self.reader.is_missing(run.volume)) {
            // Its index has the root that was announced, and names the recording.
            if let Err(error) = self.reader.logs().run_index(id, run) {
                let (file, end) = (LogFileName::Segment(run.segment), run.offset + run.length);
                let bad = BadPlace::of_file(run.volume, file, run.offset, end, error.to_string());
                let (from_time, to_time) = times(Some(run.first_tick..run.end_tick));
                self.bad(BadPlace { recording: Some(id), from_time, to_time, ..bad });
            }
        }
        if let Some(proof) = &recording.proof
            && proof.merkle_root != merkle::recording_root(&runs)
        {
            self.bad(BadPlace::of_catalog(Some(id), "its Merkle root is not that of its runs".to_owned()));
        }
        Ok(())
    }
}

impl BadPlace {
    fn of_file(volume: VolumeNumber, file: LogFileName, from: u64, to: u64, what: String) -> Self {
        Self { volume: Some(volume), file: Some(file), from, to, ..Self::of_catalog(None, what) }
    }

    fn of_damage(volume: VolumeNumber, file: LogFileName, damage: &Damage) -> Self {
        let (from_time, to_time) = times(damage.ticks.clone());
        let (recording, track) = (damage.recording, damage.track);
        let bad = Self::of_file(volume, file, damage.from, damage.to, damage.fault.text().to_owned());
        Self { recording, track, from_time, to_time, ..bad }
    }

    fn of_volume(volume: VolumeNumber, what: String) -> Self {
        Self { volume: Some(volume), ..Self::of_catalog(None, what) }
    }

    fn of_catalog(recording: Option<RecordingId>, what: String) -> Self {
        Self { volume: None, file: None, from: 0, to: 0, what, recording, track: None, from_time: None, to_time: None }
    }
}

/// Files that must be there and are not, and up to where the catalog knows them.
pub(crate) fn missing(catalog: &dyn Catalog, logs: &VolumeLogs) -> Result<BTreeMap<LogFileName, u64>, StoreError> {
    let volume = logs.volume.number;
    let ends = catalog.segment_ends(volume)?.into_iter();
    let mut needed: BTreeMap<LogFileName, u64> =
        ends.map(|(segment, end)| (LogFileName::Segment(segment), end)).collect();
    let oldest = catalog.pending()?.into_iter().flat_map(|pending| pending.oldest);
    for (_, position) in catalog.applied()?.into_iter().chain(oldest).filter(|(of, _)| *of == volume) {
        if position != LogPosition::default() {
            let end = needed.entry(LogFileName::Journal(position.file)).or_default();
            *end = position.offset.max(*end);
        }
    }
    let found = files_of(logs)?;
    for pair in found.windows(2) {
        if let [LogFileName::Journal(before), LogFileName::Journal(behind)] = pair
            && before + 1 < *behind
        {
            // Their numbers run without a gap.
            needed.entry(LogFileName::Journal(before + 1)).or_default();
        }
    }
    needed.retain(|file, _| found.binary_search(file).is_err());
    Ok(needed)
}

/// The log files of a volume that are there, ascending.
fn files_of(logs: &VolumeLogs) -> Result<Vec<LogFileName>, LogError> {
    let journals = logs.journal.files()?.into_iter().map(LogFileName::Journal);
    let segments = logs.segments.segments()?.into_iter().map(LogFileName::Segment);
    Ok(journals.chain(segments).collect())
}

fn verify_segment(
    logs: &VolumeLogs,
    number: SegmentNumber,
    known_end: u64,
    watch: &mut dyn FnMut(Finding) -> ControlFlow<()>,
) -> Result<Verified, LogError> {
    let newest = logs.segments.segments()?.last().map_or(0, |last| last.0);
    let may_be_open = number.0 + MAY_BE_OPEN > newest;
    let closed = !may_be_open || logs.segments.is_closed(number)?;
    logs.segments.verify_file(number, known_end, closed, watch)
}

fn path(logs: &VolumeLogs, file: LogFileName) -> std::path::PathBuf {
    match file {
        LogFileName::Journal(file) => logs.journal.path(file),
        LogFileName::Segment(segment) => logs.segments.path(segment),
    }
}

fn times(ticks: Option<std::ops::Range<Tick>>) -> (Option<CaptureTime>, Option<CaptureTime>) {
    ticks.map_or((None, None), |ticks| (Some(ticks.start.start()), Some(ticks.end.start())))
}
