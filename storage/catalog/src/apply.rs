//! How changes come into the catalog: one write batch with the rows, all their index entries, the counters and the positions.
//!
//! Constraints: one at a time. Nothing is changed in memory before the batch is written.

use crate::changes::{ChunkChange, FactChange};
use crate::database::{Database, Family, View};
use crate::document::LAYOUT;
use crate::keys::{
    Counters, META_APPLIED, META_COUNTERS, META_SEQUENCE, Need, Term, chunk_key, chunk_value, clock_key, owed_key,
    parse_chunk, part_keys, replayed_key, segment_key, text_key,
};
use crate::order::{OrderKey, TimeKey, parse_time};
use crate::row::{BadRow, Newest, Places, Row, forget_settled, lower, raise, read_places, write_places};
use crate::{CatalogError, Changes};
use rocksdb::WriteBatch;
use sidetone_log::{Fact, FactSequence, LogPosition, Through, VolumeNumber};
use sidetone_model::{CaptureTime, RecordingId, SavedCall};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use uuid::Uuid;

/// The identifier that stands for facts that are about no recording.
pub(crate) const NO_RECORDING: RecordingId = RecordingId(Uuid::nil());

/// What the writing side keeps in memory of the database.
#[derive(Clone, Default)]
pub(crate) struct Totals {
    pub(crate) counters: Counters,
    pub(crate) sequence: FactSequence,
    pub(crate) applied: Places,
}

impl Totals {
    pub(crate) fn load(database: &Database) -> Result<Self, CatalogError> {
        let mut totals = Self::default();
        if let Some(value) = database.get(Family::Meta, META_COUNTERS)? {
            let counters = Counters::read(&mut crate::bytes::Reader(&value));
            totals.counters = counters.ok_or_else(|| database.damaged("its counters"))?;
        }
        if let Some(value) = database.get(Family::Meta, META_SEQUENCE)? {
            let bytes = <[u8; 8]>::try_from(&value[..]).ok().ok_or_else(|| database.damaged("its highest sequence"))?;
            totals.sequence = FactSequence(u64::from_le_bytes(bytes));
        }
        if let Some(value) = database.get(Family::Meta, META_APPLIED)? {
            let places = read_places(&mut crate::bytes::Reader(&value));
            totals.applied = places.ok_or_else(|| database.damaged("its applied positions"))?;
        }
        Ok(totals)
    }

    pub(crate) fn write(&self, database: &Database, batch: &mut WriteBatch) {
        let meta = database.family(Family::Meta);
        let mut applied = crate::bytes::Writer::default();
        write_places(&mut applied, &self.applied);
        batch.put_cf(meta, META_COUNTERS, self.counters.encode());
        batch.put_cf(meta, META_SEQUENCE, self.sequence.0.to_le_bytes());
        batch.put_cf(meta, META_APPLIED, applied.0);
    }
}

/// Texts that are known to be in the catalog: a guess at what comes again, of fixed size.
pub(crate) struct KnownTexts {
    hasher: std::hash::RandomState,
    hashes: Vec<u64>,
}

impl KnownTexts {
    const SLOTS: usize = 1 << 18;

    pub(crate) fn new() -> Self {
        Self { hasher: std::hash::RandomState::new(), hashes: vec![0; Self::SLOTS] }
    }

    /// Whether it is not known of the bytes of a term. It is from now on.
    pub(crate) fn is_new(&mut self, term: &[u8]) -> bool {
        let hash = self.hash(term);
        let is_new = !self.contains(hash);
        self.insert(hash);
        is_new
    }

    fn hash(&self, term: &[u8]) -> u64 {
        std::hash::BuildHasher::hash_one(&self.hasher, term)
    }

    fn contains(&self, hash: u64) -> bool {
        hash != 0 && self.hashes[hash as usize % Self::SLOTS] == hash
    }

    fn insert(&mut self, hash: u64) {
        self.hashes[hash as usize % Self::SLOTS] = hash;
    }
}

/// Writes `changes`, and gives the totals that hold from now on.
pub(crate) fn apply(
    database: &Database,
    totals: &Totals,
    texts: &mut KnownTexts,
    changes: &Changes,
    applied: &[(VolumeNumber, LogPosition)],
) -> Result<Totals, CatalogError> {
    let mut by_recording: BTreeMap<RecordingId, Part<'_>> = BTreeMap::new();
    for chunk in &changes.chunks {
        by_recording.entry(chunk.recording).or_default().chunks.push(chunk);
    }
    let mut writing = Writing {
        database,
        view: database.latest(),
        batch: WriteBatch::default(),
        postings: Vec::new(),
        old_postings: Vec::new(),
        texts,
        new_texts: HashSet::new(),
        parts: Vec::new(),
        totals: totals.clone(),
    };
    for fact in &changes.facts {
        let about = fact.record.fact.recording().unwrap_or(NO_RECORDING);
        by_recording.entry(about).or_default().facts.push(fact);
        writing.totals.sequence = writing.totals.sequence.max(fact.record.sequence);
    }
    for (recording, through) in &changes.settled {
        by_recording.entry(*recording).or_default().settled.push(*through);
    }
    let owed = database.family(Family::Owed);
    changes.paid.iter().for_each(|&(volume, recording)| writing.batch.delete_cf(owed, owed_key(volume, recording)));
    changes.owed.iter().for_each(|&(volume, recording)| writing.batch.put_cf(owed, owed_key(volume, recording), []));
    for &(volume, position) in applied {
        raise(&mut writing.totals.applied, volume, position);
    }
    writing.segment_ends(changes)?;
    for (recording, part) in &by_recording {
        writing.recording(*recording, part)?;
    }
    writing.finish()
}

/// The changes of one recording.
#[derive(Default)]
struct Part<'a> {
    chunks: Vec<&'a ChunkChange>,
    facts: Vec<&'a FactChange>,
    settled: Vec<Through>,
}

struct Writing<'a> {
    database: &'a Database,
    view: View<'a>,
    batch: WriteBatch,
    postings: Vec<Vec<u8>>,
    /// Goes before `postings` come: what one recording leaves another may have taken up in the same batch.
    old_postings: Vec<Vec<u8>>,
    texts: &'a mut KnownTexts,
    new_texts: HashSet<u64>,
    parts: Vec<Vec<u8>>,
    totals: Totals,
}

impl Writing<'_> {
    fn finish(mut self) -> Result<Totals, CatalogError> {
        // In order, which is how they are taken in fastest.
        self.postings.sort_unstable();
        self.parts.sort_unstable();
        let [postings, parts] = [Family::Postings, Family::Parts].map(|family| self.database.family(family));
        self.old_postings.iter().for_each(|key| self.batch.delete_cf(postings, key));
        self.postings.iter().for_each(|key| self.batch.put_cf(postings, key, []));
        self.parts.iter().for_each(|key| self.batch.put_cf(parts, key, []));
        self.totals.write(self.database, &mut self.batch);
        self.database.write(self.batch)?;
        self.new_texts.iter().for_each(|&hash| self.texts.insert(hash));
        Ok(self.totals)
    }

    /// Raises how far segments are known to be durable.
    fn segment_ends(&mut self, changes: &Changes) -> Result<(), CatalogError> {
        let mut ends: BTreeMap<[u8; 5], u64> = BTreeMap::new();
        let of_runs = changes.facts.iter().filter_map(FactChange::segment_end);
        for (volume, segment, end) in of_runs.chain(changes.segment_ends.iter().copied()) {
            let known = ends.entry(segment_key(volume, segment)).or_default();
            *known = end.max(*known);
        }
        for (key, end) in ends {
            if end > segment_end(&self.view, &key)? {
                self.batch.put_cf(self.database.family(Family::SegmentEnds), key, end.to_le_bytes());
            }
        }
        Ok(())
    }

    fn recording(&mut self, id: RecordingId, part: &Part<'_>) -> Result<(), CatalogError> {
        let old = load(&self.view, id)?;
        let mut row = old.clone().unwrap_or_default();
        let new_tracker = row.take_in(part.facts.iter().copied());
        part.settled.iter().for_each(|through| row.settle(through));
        row.forget_settled();
        let is_changed = !part.facts.is_empty() || !part.settled.is_empty();
        if is_changed && old.as_ref() != Some(&row) {
            self.replace_row(id, old.as_ref(), &row)?;
        }
        if let Some(resume) = new_tracker {
            self.put_tracker(id, &row, resume);
        }
        let mut facts = row.oldest_facts();
        if id == NO_RECORDING {
            self.others(&part.facts, old.as_ref(), &row, &mut facts)?;
        }
        let stored = self.view.need(id)?;
        self.need((id, part), old.as_ref(), &row, facts, stored)
    }

    fn replace_row(&mut self, id: RecordingId, old: Option<&Row>, new: &Row) -> Result<(), CatalogError> {
        let database = self.database;
        let [documents, orphans, ids] =
            [Family::Documents, Family::Orphans, Family::Ids].map(|family| database.family(family));
        let key = |row: &Row| row.document.as_ref().map(|document| OrderKey::of(&document.value));
        let (old_key, new_key) = (old.and_then(key), key(new));
        if let Some(old_key) = old_key.filter(|old| new_key.is_none_or(|new| new != *old)) {
            self.batch.delete_cf(documents, old_key.as_bytes());
        } else if old_key.is_none() && old.is_some() && new_key.is_some() {
            self.batch.delete_cf(orphans, id.0.as_bytes());
        }
        match new_key {
            Some(key) => self.batch.put_cf(documents, key.as_bytes(), new.encode()),
            None => self.batch.put_cf(orphans, id.0.as_bytes(), new.encode()),
        }
        // Who cannot be found by its identifier alone.
        let listed = |key: Option<OrderKey>| key.filter(|key| !key.is_derived()).map(|key| key.time());
        match (listed(old_key), listed(new_key)) {
            (old, Some(time)) if old != Some(time) => self.batch.put_cf(ids, id.0.as_bytes(), time),
            (Some(_), None) => self.batch.delete_cf(ids, id.0.as_bytes()),
            _ => {}
        }
        if let Some(old) = old {
            self.totals.counters.count(old, false);
        }
        self.totals.counters.count(new, true);

        let old_terms = old.map(Term::all_of).unwrap_or_default();
        let new_terms = Term::all_of(new);
        if let Some(old_key) = old_key {
            let moved = new_key.is_none_or(|new| new.time() != old_key.time());
            let gone = old_terms.iter().filter(|term| moved || !new_terms.contains(term));
            let gone: Vec<Vec<u8>> = gone.map(|term| term.posting(old_key.time())).collect();
            if !gone.is_empty() && !self.is_shared(old_key)? {
                self.old_postings.extend(gone);
            }
        }
        if let Some(new_key) = new_key {
            let moved = old_key.is_none_or(|old| old.time() != new_key.time());
            for term in new_terms.iter().filter(|term| moved || !old_terms.contains(term)) {
                self.postings.push(term.posting(new_key.time()));
                self.put_parts(term)?;
            }
        }
        Ok(())
    }

    /// Whether another recording started in the same millisecond: then its postings may be the same, and stay.
    fn is_shared(&self, key: OrderKey) -> Result<bool, CatalogError> {
        let mut list = self.view.list(Family::Documents, &key.time());
        let own = &key.as_bytes()[key.time().len()..];
        while let Some((found, _)) = list.entry()? {
            if found != own {
                return Ok(true);
            }
            list.advance();
        }
        Ok(false)
    }

    /// Makes a text's parts findable. They stay, also when no recording has the text any more.
    fn put_parts(&mut self, term: &Term) -> Result<(), CatalogError> {
        let Some((kind, text)) = term.as_text() else { return Ok(()) };
        let hash = self.texts.hash(term.as_bytes());
        if self.texts.contains(hash) || !self.new_texts.insert(hash) {
            return Ok(());
        }
        let key = text_key(kind, text);
        if self.view.get(Family::Texts, &key)?.is_none() {
            self.batch.put_cf(self.database.family(Family::Texts), key, []);
            self.parts.extend(part_keys(kind, text));
        }
        Ok(())
    }

    fn put_tracker(&mut self, id: RecordingId, row: &Row, resume: Option<&SavedCall>) {
        let trackers = self.database.family(Family::Trackers);
        let is_active = row.state() == Some(sidetone_model::RecordingState::Active);
        match resume.filter(|_| is_active) {
            Some(resume) => self.batch.put_cf(trackers, id.0.as_bytes(), resume.json()),
            None => self.batch.delete_cf(trackers, id.0.as_bytes()),
        }
    }

    /// Facts that are about no recording: of their rows, only those that change are written, however many there are. Lowers
    /// `oldest` to where those lie that need a journal.
    fn others(
        &mut self,
        changes: &[&FactChange],
        old_row: Option<&Row>,
        row: &Row,
        oldest: &mut Places,
    ) -> Result<(), CatalogError> {
        let mut known = self.view.need(NO_RECORDING)?.map(|need| need.facts).unwrap_or_default();
        let before = known.clone();
        forget_settled(&mut known, &row.through);
        // What was the oldest place may be none any more: then the others tell which one is.
        let mut is_stale = known != before || old_row.is_some_and(|old| old.oldest_facts() != row.oldest_facts());
        let mut changed: BTreeMap<Vec<u8>, Newest<Fact>> = BTreeMap::new();
        for FactChange { record, places } in changes {
            let key = match &record.fact {
                Fact::Replayed { digest, .. } => replayed_key(digest),
                Fact::Clock { .. } => clock_key(record.sequence),
                Fact::Recording { .. } | Fact::Annotations { .. } | Fact::Sealed { .. } => continue,
            };
            let mut fact = match changed.remove(&key) {
                Some(fact) => Some(fact),
                None => other_fact(&self.view, &key, row)?,
            };
            let old_places = fact.as_ref().map(|fact| fact.places.clone()).unwrap_or_default();
            Newest::take(&mut fact, record.sequence, places, || record.fact.clone());
            let mut fact = fact.expect("this one or a newer one");
            forget_settled(&mut fact.places, &row.through);
            let is_oldest = |(volume, place): (&VolumeNumber, &LogPosition)| known.get(volume) == Some(place);
            is_stale |= old_places.iter().any(|old| is_oldest(old) && fact.places.get(old.0) != Some(old.1));
            for (&volume, &position) in &fact.places {
                lower(&mut known, volume, position);
            }
            changed.insert(key, fact);
        }
        if is_stale {
            known.clear();
            let stored = other_facts(&self.view, row)?.into_iter().filter(|(key, _)| !changed.contains_key(key));
            let stored: Vec<Newest<Fact>> = stored.map(|(_, fact)| fact).collect();
            for (&volume, &position) in stored.iter().chain(changed.values()).flat_map(|fact| &fact.places) {
                lower(&mut known, volume, position);
            }
        }
        known.into_iter().for_each(|(volume, position)| lower(oldest, volume, position));
        let others = self.database.family(Family::Others);
        changed.iter().for_each(|(key, fact)| self.batch.put_cf(others, key, encode_other(fact)));
        Ok(())
    }

    /// Brings up to date what a recording needs journals for, and its chunks.
    fn need(
        &mut self,
        (id, part): (RecordingId, &Part<'_>),
        old_row: Option<&Row>,
        row: &Row,
        facts: Places,
        stored: Option<Need>,
    ) -> Result<(), CatalogError> {
        let database = self.database;
        let old = stored.clone().unwrap_or_default();
        let mut new = Need { state: row.state(), facts, ..old.clone() };
        let chunks = database.family(Family::Chunks);
        if old.chunk_count > 0 && old_row.is_none_or(|old| old.through != row.through) {
            // What is settled goes; what the others need is found anew.
            new = Need { state: new.state, facts: new.facts, ..Need::default() };
            let mut list = self.view.list(Family::Chunks, id.0.as_bytes());
            while let Some((rest, value)) = list.entry()? {
                let key = [id.0.as_bytes(), rest].concat();
                let location = parse_chunk(&key, value).ok_or_else(|| database.damaged("a chunk's place"))?;
                if row.is_unsettled(location.volume, location.located.position) {
                    let first_tick = location.first_tick;
                    add_chunk(
                        &mut new,
                        location.volume,
                        location.located.position,
                        first_tick,
                        location.located.length,
                    );
                } else {
                    self.batch.delete_cf(chunks, &key);
                }
                list.advance();
            }
        }
        let mut added = BTreeSet::new();
        for chunk in &part.chunks {
            let ChunkChange { recording: _, track, first_tick, ticks, packets, volume, located } = **chunk;
            let key = chunk_key(id, track, first_tick, volume, located.position);
            if !row.is_unsettled(volume, located.position) || !added.insert(key) {
                continue;
            }
            // Only who has chunks can have this one.
            if old.chunk_count == 0 || self.view.get(Family::Chunks, &key)?.is_none() {
                add_chunk(&mut new, volume, located.position, first_tick, located.length);
                self.batch.put_cf(chunks, key, chunk_value(located.length, ticks, packets));
            }
        }
        let counters = &mut self.totals.counters;
        counters.unsealed_chunks = (counters.unsealed_chunks + new.chunk_count).saturating_sub(old.chunk_count);
        counters.unsealed_bytes = (counters.unsealed_bytes + new.chunk_bytes).saturating_sub(old.chunk_bytes);
        let needs = database.family(Family::Needs);
        match stored {
            None if new.is_none() => {}
            Some(old) if old == new => {}
            _ if new.is_none() => self.batch.delete_cf(needs, id.0.as_bytes()),
            _ => self.batch.put_cf(needs, id.0.as_bytes(), new.encode()),
        }
        Ok(())
    }
}

fn add_chunk(
    need: &mut Need,
    volume: VolumeNumber,
    position: LogPosition,
    first_tick: sidetone_model::Tick,
    length: u32,
) {
    lower(&mut need.chunks, volume, position);
    need.first_tick = if need.chunk_count == 0 { first_tick } else { need.first_tick.min(first_tick) };
    need.chunk_count += 1;
    need.chunk_bytes += u64::from(length);
}

/// Up to which offset a segment is known to be durable.
pub(crate) fn segment_end(view: &View<'_>, key: &[u8]) -> Result<u64, CatalogError> {
    let Some(value) = view.get(Family::SegmentEnds, key)? else { return Ok(0) };
    let bytes = <[u8; 8]>::try_from(&value[..]).ok().ok_or_else(|| view.database.damaged("a segment's end"))?;
    Ok(u64::from_le_bytes(bytes))
}

/// What the catalog holds of a recording.
pub(crate) fn load(view: &View<'_>, id: RecordingId) -> Result<Option<Row>, CatalogError> {
    let database = view.database;
    let derived = OrderKey::derived(id);
    if let Some(row) = view.get(Family::Documents, derived.as_bytes())? {
        return decode(database, &row, id, parse_time(derived.time())).map(Some);
    }
    let Some(time) = view.get(Family::Ids, id.0.as_bytes())? else {
        let orphan = view.get(Family::Orphans, id.0.as_bytes())?;
        return orphan.map(|value| decode(database, &value, id, None)).transpose();
    };
    let time = TimeKey::try_from(&time[..]).ok().and_then(parse_time);
    let started = time.ok_or_else(|| database.damaged("a recording's time"))?;
    let row = view.get(Family::Documents, OrderKey::new(started, id).as_bytes())?;
    let row = row.ok_or_else(|| database.damaged("a recording without its document"))?;
    decode(database, &row, id, Some(started)).map(Some)
}

pub(crate) fn decode(
    database: &Database,
    value: &[u8],
    id: RecordingId,
    started: Option<CaptureTime>,
) -> Result<Row, CatalogError> {
    Row::decode(value, id, started).map_err(|bad| bad_row(database, bad, id))
}

pub(crate) fn bad_row(database: &Database, bad: BadRow, id: RecordingId) -> CatalogError {
    match bad {
        BadRow::Damaged => database.damaged(format!("recording {id}")),
        BadRow::Newer(layout) => CatalogError::NewerDocument { recording: id, layout, readable: LAYOUT },
    }
}

/// A fact that is about no recording, and its key.
pub(crate) type OtherFact = (Vec<u8>, Newest<Fact>);

/// Every fact that is about no recording, by key. `row` is that of [`NO_RECORDING`]: which places are settled stands there.
pub(crate) fn other_facts(view: &View<'_>, row: &Row) -> Result<Vec<OtherFact>, CatalogError> {
    let mut list = view.list(Family::Others, &[]);
    let mut facts = Vec::new();
    while let Some((key, value)) = list.entry()? {
        let fact = decode_other(value, row).ok_or_else(|| list.damaged("a fact"))?;
        facts.push((key.to_vec(), fact));
        list.advance();
    }
    Ok(facts)
}

fn other_fact(view: &View<'_>, key: &[u8], row: &Row) -> Result<Option<Newest<Fact>>, CatalogError> {
    let value = view.get(Family::Others, key)?;
    value.map(|value| decode_other(&value, row).ok_or_else(|| view.database.damaged("a fact"))).transpose()
}

fn encode_other(fact: &Newest<Fact>) -> Vec<u8> {
    let mut writer = crate::bytes::Writer::default();
    writer.number(fact.sequence.0);
    write_places(&mut writer, &fact.places);
    writer.bytes(&serde_json::to_vec(&fact.value).expect("such a fact has only plain fields"));
    writer.0
}

fn decode_other(value: &[u8], row: &Row) -> Option<Newest<Fact>> {
    let mut reader = crate::bytes::Reader(value);
    let (sequence, mut places) = (FactSequence(reader.number()?), read_places(&mut reader)?);
    forget_settled(&mut places, &row.through);
    Some(Newest { sequence, value: serde_json::from_slice(reader.0).ok()?, places })
}
