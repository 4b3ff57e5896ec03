//! A new catalog from facts that come in any order, by several threads: by sorting, twice, instead of inserting.
//!
//! First, what a batch of facts says of a recording becomes a *part*, and parts are sorted by recording. Then the parts of each
//! recording are put together: rows come out in the order of their keys and go into tables as they come; their index entries, and
//! what stands in other families, are sorted and go into tables in turn. Nothing is written twice, and nothing has to be looked up.
//!
//! Constraints: memory grows with the number of recordings only by a remembered key for each 128 KiB of what is sorted. Until [`CatalogBuilder::finish`] has returned, there is
//! nothing to read. The catalog is the one that [`Catalog::apply`](crate::Catalog::apply) of the same facts makes.

mod sorter;
mod tables;

use crate::apply::{KnownTexts, NO_RECORDING, Totals, bad_row};
use crate::bytes::{Reader, Writer};
use crate::changes::FactChange;
use crate::database::{CatalogOptions, Database, Family, Mode};
use crate::keys::{Counters, Term, part_keys, segment_key, text_key};
use crate::order::{OrderKey, TimeKey, parse_time, time_key};
use crate::row::Row;
use crate::{Catalog, CatalogError, Changes, RocksCatalog};
use rocksdb::WriteBatch;
use sidetone_log::FactSequence;
use sidetone_model::{RecordingId, RecordingState, SavedCall};
use sorter::{Batch, Merge, Sorter};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tables::{Table, Tables};
use uuid::Uuid;

/// Memory of each thread for what it sorts: small enough for a processor's cache to be of use.
const BATCH_BYTES: usize = 16 << 20;
/// So many ranges of keys for each thread, since they are not equal.
const RANGES_PER_THREAD: usize = 4;
/// Files on their way into the database; a directory in it.
const SCRATCH: &str = "building";

/// Makes a catalog.
pub struct CatalogBuilder {
    path: PathBuf,
    scratch: PathBuf,
    options: CatalogOptions,
    database: Database,
    /// Parts of recordings. Key: the recording's identifier in the order of catalogs; value: [`Part`].
    parts: Sorter,
    /// Entries of all families but rows that stand where their identifiers say. Key: the family, and the key there.
    entries: Sorter,
    segment_ends: Mutex<BTreeMap<[u8; 5], u64>>,
    sequence: AtomicU64,
    /// Texts that were found lately: as many sets as threads that look for them at the same time.
    texts: Mutex<Vec<KnownTexts>>,
    /// What no segment holds: applied one by one when the rest is in the database.
    rest: Mutex<Changes>,
}

/// What some facts say of a recording.
struct Part<'a> {
    /// The time of its document.
    time: Option<TimeKey>,
    counters: Counters,
    /// What it is listed under.
    terms: Vec<&'a [u8]>,
    /// Beside a document of a recording that runs; empty when there is none.
    tracker: &'a [u8],
    row: &'a [u8],
}

impl CatalogBuilder {
    /// In a directory that is empty or not there. A crash before [`Self::finish`] has returned leaves one that is of no use.
    pub fn create(directory: &Path, options: &CatalogOptions) -> Result<Self, CatalogError> {
        let database = Database::open(directory, options, Mode::Bulk, &mut |_| {})?;
        let scratch = directory.join(SCRATCH);
        let io = |source| CatalogError::Io { operation: "write to", path: scratch.clone(), source };
        std::fs::create_dir(&scratch).map_err(io)?;
        let parts = Sorter::new(&scratch, BATCH_BYTES).map_err(io)?;
        let entries = Sorter::new(&scratch, BATCH_BYTES).map_err(io)?;
        Ok(Self {
            path: directory.to_owned(),
            scratch,
            options: *options,
            database,
            parts,
            entries,
            segment_ends: Mutex::default(),
            sequence: AtomicU64::default(),
            texts: Mutex::default(),
            rest: Mutex::default(),
        })
    }

    /// Takes in facts that were read from segments. What else there is in `changes` is kept in memory until the end.
    pub fn add(&self, changes: &Changes) -> Result<(), CatalogError> {
        let Changes { chunks, facts, settled, owed, paid, segment_ends } = changes;
        let mut of_recordings: BTreeMap<RecordingId, Vec<&FactChange>> = BTreeMap::new();
        let mut rest = Changes {
            chunks: chunks.clone(),
            facts: Vec::new(),
            settled: settled.clone(),
            owed: owed.clone(),
            paid: paid.clone(),
            segment_ends: segment_ends.clone(),
        };
        let (mut sequence, mut ends) = (FactSequence::default(), BTreeMap::new());
        for fact in facts {
            match fact.record.fact.recording().filter(|id| *id != NO_RECORDING && fact.places.is_empty()) {
                Some(recording) => of_recordings.entry(recording).or_default().push(fact),
                None => rest.facts.push(fact.clone()),
            }
            sequence = sequence.max(fact.record.sequence);
            if let Some((volume, segment, end)) = fact.segment_end() {
                raise(&mut ends, segment_key(volume, segment), end);
            }
        }
        let put = |batch: &mut Batch| of_recordings.iter().for_each(|(id, facts)| put_part(batch, *id, facts));
        self.parts.fill(put).map_err(|source| self.io("write to", source))?;
        self.sequence.fetch_max(sequence.0, Ordering::Relaxed);
        let mut segment_ends = self.segment_ends.lock().unwrap_or_else(PoisonError::into_inner);
        ends.into_iter().for_each(|(key, end)| raise(&mut segment_ends, key, end));
        self.rest.lock().unwrap_or_else(PoisonError::into_inner).append(rest);
        Ok(())
    }

    /// The catalog of all that was added. So many threads make it; `progress` is told how many hundredths are done. Until [`Catalog::persist`], nothing of it is durable; until it
    /// is opened anew, writing to it is not safe against crashes.
    pub fn finish(self, threads: usize, progress: &mut dyn FnMut(u8)) -> Result<RocksCatalog, CatalogError> {
        self.parts.seal().map_err(|source| self.io("write to", source))?;
        let tables = Tables::new(&self.database, &self.scratch, &self.options);
        let counters = Mutex::new(Counters::default());
        self.in_ranges(&self.parts, threads, &mut |part| progress((part * 60.0) as u8), &|parts| {
            let sum = self.put_together(parts, &tables)?;
            counters.lock().unwrap_or_else(PoisonError::into_inner).add(&sum);
            Ok(())
        })?;
        tables.ingest()?;
        self.parts.clear().map_err(|source| self.io("cut", source))?;
        self.entries.seal().map_err(|source| self.io("write to", source))?;
        let tables = Tables::new(&self.database, &self.scratch, &self.options);
        let mut second = |part| progress((60.0 + part * 40.0) as u8);
        self.in_ranges(&self.entries, threads, &mut second, &|entries| self.write_entries(entries, &tables))?;
        tables.ingest()?;
        std::fs::remove_dir(&self.scratch).map_err(|source| self.io("remove", source))?;

        let mut batch = WriteBatch::default();
        self.entries.clear().map_err(|source| self.io("cut", source))?;
        let ends = self.segment_ends.into_inner().unwrap_or_else(PoisonError::into_inner);
        let family = self.database.family(Family::SegmentEnds);
        ends.iter().for_each(|(key, end)| batch.put_cf(family, key, end.to_le_bytes()));
        let totals = Totals {
            counters: counters.into_inner().unwrap_or_else(PoisonError::into_inner),
            sequence: FactSequence(self.sequence.into_inner()),
            ..Totals::default()
        };
        totals.write(&self.database, &mut batch);
        self.database.write(batch)?;
        let catalog = RocksCatalog::of(self.path, self.options, Mode::Bulk, self.database)?;
        catalog.apply(&self.rest.into_inner().unwrap_or_else(PoisonError::into_inner), &[])?;
        Ok(catalog)
    }

    /// Takes everything out of a sorter: ranges of it in turn, several threads at the same time.
    fn in_ranges(
        &self,
        sorter: &Sorter,
        threads: usize,
        progress: &mut dyn FnMut(f64),
        take: &(dyn Fn(Merge<'_>) -> Result<(), CatalogError> + Sync),
    ) -> Result<(), CatalogError> {
        let splits = sorter.splits(threads * RANGES_PER_THREAD);
        let next = AtomicUsize::new(0);
        let work = |progress: &mut dyn FnMut(f64)| {
            loop {
                let range = next.fetch_add(1, Ordering::Relaxed);
                if range > splits.len() {
                    return Ok(());
                }
                progress(range as f64 / (splits.len() + 1) as f64);
                let from = range.checked_sub(1).map(|before| &splits[before][..]);
                let merge = sorter.merge(from, splits.get(range).map(|to| &to[..]));
                let done = merge.map_err(|source| self.io("read from", source)).and_then(take);
                if done.is_err() {
                    // Nobody has to begin anything more.
                    next.store(splits.len() + 1, Ordering::Relaxed);
                    return done;
                }
            }
        };
        std::thread::scope(|scope| {
            let others: Vec<_> = (1..threads).map(|_| scope.spawn(|| work(&mut |_| {}))).collect();
            let own = work(progress);
            let joined =
                others.into_iter().map(|other| other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
            joined.fold(own, Result::and)
        })
    }

    /// Rows of a range of recordings, with all that is found by them.
    fn put_together(&self, mut parts: Merge<'_>, tables: &Tables<'_>) -> Result<Counters, CatalogError> {
        let read = |source| self.io("read from", source);
        let mut table = tables.begin();
        let mut counters = Counters::default();
        let mut texts = self.texts().pop().unwrap_or_else(KnownTexts::new);
        let mut next = parts.next().map_err(read)?.map(owned);
        while let Some((key, first)) = next {
            let mut others: Vec<Vec<u8>> = Vec::new();
            next = loop {
                match parts.next().map_err(read)? {
                    Some((of, part)) if of == key => others.push(part.to_vec()),
                    entry => break entry.map(owned),
                }
            };
            let id = recording_of(&key);
            let whole = if others.is_empty() { first } else { self.merge(id, &first, &others)? };
            let part = Part::read(&whole).ok_or_else(|| self.database.damaged("a part of a recording"))?;
            counters.add(&part.counters);
            self.put(id, &part, &mut texts, &mut table)?;
        }
        table.end()?;
        self.texts().push(texts);
        Ok(counters)
    }

    /// One part that says what all of them say.
    fn merge(&self, id: RecordingId, first: &[u8], others: &[Vec<u8>]) -> Result<Vec<u8>, CatalogError> {
        let read = |bytes| {
            let damaged = || self.database.damaged("a part of a recording");
            let part = Part::read(bytes).ok_or_else(damaged)?;
            let row = Row::decode(part.row, id, part.time.and_then(parse_time));
            let tracker = SavedCall::from_json(part.tracker).ok().filter(|_| !part.tracker.is_empty());
            Ok::<_, CatalogError>((row.map_err(|bad| bad_row(&self.database, bad, id))?, tracker))
        };
        let (mut row, mut tracker) = read(first)?;
        for other in others {
            let (other, of_other) = read(other)?;
            if row.merge(other) {
                tracker = of_other;
            }
        }
        row.forget_settled();
        Ok(part_of(&row, tracker.as_ref()))
    }

    /// A row that is whole, and what it is found by.
    fn put(
        &self,
        id: RecordingId,
        part: &Part<'_>,
        texts: &mut KnownTexts,
        table: &mut Table<'_>,
    ) -> Result<(), CatalogError> {
        let key = part.time.and_then(parse_time).map(|started| OrderKey::new(started, id));
        if let Some(key) = key.filter(OrderKey::is_derived) {
            table.put(Family::Documents, key.as_bytes(), part.row)?;
        }
        let put = |batch: &mut Batch| {
            let mut entry = |family: Family, key: &[&[u8]], value: &[u8]| {
                let [a, b, c] = [0, 1, 2].map(|at| key.get(at).copied().unwrap_or_default());
                batch.push(&[&[family as u8], a, b, c], &[value]);
            };
            match (key, part.time) {
                (Some(key), Some(time)) => {
                    if !key.is_derived() {
                        entry(Family::Documents, &[key.as_bytes()], part.row);
                        entry(Family::Ids, &[id.0.as_bytes()], &time);
                    }
                    for term in &part.terms {
                        entry(Family::Postings, &[term, &time], &[]);
                        if let Some((kind, text)) = Term::parse_text(term)
                            && texts.is_new(term)
                        {
                            entry(Family::Texts, &[&text_key(kind, text)], &[]);
                            part_keys(kind, text).for_each(|key| entry(Family::Parts, &[&key], &[]));
                        }
                    }
                }
                _ => entry(Family::Orphans, &[id.0.as_bytes()], part.row),
            }
            if !part.tracker.is_empty() {
                entry(Family::Trackers, &[id.0.as_bytes()], part.tracker);
            }
        };
        self.entries.fill(put).map_err(|source| self.io("write to", source))
    }

    /// Index entries and the like of a range, each once.
    fn write_entries(&self, mut entries: Merge<'_>, tables: &Tables<'_>) -> Result<(), CatalogError> {
        let mut table = tables.begin();
        let mut last = Vec::new();
        while let Some((key, value)) = entries.next().map_err(|source| self.io("read from", source))? {
            // Two recordings of one millisecond have the same posting, and two ranges have found the same text.
            if key == last {
                continue;
            }
            last.clear();
            last.extend_from_slice(key);
            let (&family, key) = key.split_first().expect("each key begins with its family");
            table.put(Family::ALL[usize::from(family)], key, value)?;
        }
        table.end()
    }

    fn texts(&self) -> MutexGuard<'_, Vec<KnownTexts>> {
        self.texts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn io(&self, operation: &'static str, source: std::io::Error) -> CatalogError {
        CatalogError::Io { operation, path: self.scratch.clone(), source }
    }
}

/// Rows come in the order of these keys when identifiers say when their recordings began.
fn part_key(id: RecordingId) -> [u8; 16] {
    let mut key = *id.0.as_bytes();
    key[..size_of::<TimeKey>()].iter_mut().for_each(|byte| *byte = !*byte);
    key
}

fn recording_of(key: &[u8]) -> RecordingId {
    let key = <[u8; 16]>::try_from(key).expect("a key of `part_key`");
    RecordingId(Uuid::from_bytes(part_key(RecordingId(Uuid::from_bytes(key)))))
}

fn put_part(batch: &mut Batch, id: RecordingId, facts: &[&FactChange]) {
    let mut row = Row::default();
    let tracker = row.take_in(facts.iter().copied()).flatten();
    row.forget_settled();
    batch.push(&[&part_key(id)], &[&part_of(&row, tracker)]);
}

/// A part as bytes: the document's time, if there is a document; counters; the terms; the tracker's state; the row.
fn part_of(row: &Row, tracker: Option<&SavedCall>) -> Vec<u8> {
    let mut writer = Writer(Vec::with_capacity(1024));
    writer.byte(u8::from(row.document.is_some()));
    if let Some(document) = &row.document {
        writer.bytes(&time_key(document.value.started_at));
    }
    let mut counters = Counters::default();
    counters.count(row, true);
    writer.bytes(&counters.encode());
    let terms = Term::all_of(row);
    writer.number(terms.len() as u64);
    for term in terms {
        writer.number(term.as_bytes().len() as u64);
        writer.bytes(term.as_bytes());
    }
    let is_active = row.state() == Some(RecordingState::Active);
    let tracker = tracker.filter(|_| is_active).map_or("", SavedCall::json);
    writer.number(tracker.len() as u64);
    writer.bytes(tracker.as_bytes());
    writer.bytes(&row.encode());
    writer.0
}

impl<'a> Part<'a> {
    fn read(bytes: &'a [u8]) -> Option<Self> {
        let mut reader = Reader(bytes);
        let time = if reader.byte()? == 0 { None } else { Some(reader.array()?) };
        let counters = Counters::read(&mut reader)?;
        let terms = (0..reader.count()?).map(|_| {
            let length = reader.number()?;
            reader.bytes(length)
        });
        let terms = terms.collect::<Option<_>>()?;
        let length = reader.number()?;
        let tracker = reader.bytes(length)?;
        Some(Self { time, counters, terms, tracker, row: reader.0 })
    }
}

fn raise(ends: &mut BTreeMap<[u8; 5], u64>, key: [u8; 5], end: u64) {
    let known = ends.entry(key).or_default();
    *known = end.max(*known);
}

fn owned((key, value): (&[u8], &[u8])) -> (Vec<u8>, Vec<u8>) {
    (key.to_vec(), value.to_vec())
}
