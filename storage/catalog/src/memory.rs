//! A catalog in memory, as plain as can be: what the other is tested against, and what tests of the store crash.

use crate::changes::{ChunkChange, FactChange};
use crate::condition::Condition;
use crate::order::OrderKey;
use crate::{
    BackupProgress, COUNT_EXACT_MAX, Catalog, CatalogError, CatalogStatistics, Changes, ChunkLocation, Count, Filter,
    HeldFact, PAGE_LIMIT_MAX, Pending, Query, RecordingPage,
};
use sidetone_log::merkle::recording_root;
use sidetone_log::{Fact, FactRecord, FactSequence, LogPosition, Run, SegmentNumber, VolumeNumber};
use sidetone_model::{Annotations, Proof, Recording, RecordingId, RecordingState, SavedCall, Tick, TrackId};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use uuid::Uuid;

/// A catalog in memory. It is durable in the sense of a disk: [`Self::crash`] takes back what was not persisted.
#[derive(Default)]
pub struct MemoryCatalog {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    shown: State,
    durable: State,
    /// What was applied since `durable`.
    applied: Vec<(Changes, Vec<(VolumeNumber, LogPosition)>)>,
}

impl MemoryCatalog {
    pub fn new() -> Self {
        Self::default()
    }

    /// How many calls of [`Catalog::apply`] a crash could take back.
    pub fn unpersisted(&self) -> usize {
        self.lock().applied.len()
    }

    /// A crash: of the calls of [`Catalog::apply`] since the last [`Catalog::persist`] the first `kept` are left.
    pub fn crash(&self, kept: usize) {
        let inner = &mut *self.lock();
        inner.applied.truncate(kept);
        inner.shown = inner.durable.clone();
        for (changes, applied) in &inner.applied {
            inner.shown.apply(changes, applied);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn location(chunk: &ChunkChange) -> ChunkLocation {
    ChunkLocation {
        track: chunk.track,
        volume: chunk.volume,
        first_tick: chunk.first_tick,
        ticks: chunk.ticks,
        packets: chunk.packets,
        located: chunk.located,
    }
}

type Places = BTreeMap<VolumeNumber, LogPosition>;

/// The newest fact of a kind, and the last place of it in each journal.
#[derive(Clone)]
struct Newest<T> {
    sequence: FactSequence,
    value: T,
    places: Places,
}

impl<T> Newest<T> {
    fn replace(held: &mut Option<Self>, sequence: FactSequence, value: T, places: &[(VolumeNumber, LogPosition)]) {
        if held.as_ref().is_some_and(|held| held.sequence > sequence) {
            return;
        }
        if held.as_ref().is_none_or(|held| held.sequence < sequence) {
            *held = Some(Self { sequence, value, places: Places::new() });
        }
        let held = held.as_mut().expect("just made");
        for &(volume, position) in places {
            let place = held.places.entry(volume).or_insert(position);
            *place = position.max(*place);
        }
    }

    fn held(&self, through: &Places, fact: impl FnOnce(&T) -> Fact) -> HeldFact {
        HeldFact {
            record: FactRecord { sequence: self.sequence, fact: fact(&self.value) },
            places: unsettled(&self.places, through),
        }
    }
}

fn unsettled(places: &Places, through: &Places) -> Vec<(VolumeNumber, LogPosition)> {
    let is_unsettled = |volume: &VolumeNumber, position| through.get(volume).is_none_or(|through| position >= *through);
    places.iter().filter(|(volume, position)| is_unsettled(volume, **position)).map(|(&v, &p)| (v, p)).collect()
}

#[derive(Clone, Default)]
struct State {
    applied: Places,
    sequence: FactSequence,
    /// The nil identifier holds the facts that are about no recording.
    entries: BTreeMap<RecordingId, Entry>,
    owed: BTreeSet<(VolumeNumber, RecordingId)>,
    segment_ends: BTreeMap<(VolumeNumber, SegmentNumber), u64>,
}

#[derive(Clone, Default)]
struct Entry {
    document: Option<Newest<(Arc<Recording>, Option<SavedCall>)>>,
    annotations: Option<Newest<Annotations>>,
    runs: BTreeMap<(VolumeNumber, u32, u64), Run>,
    through: Places,
    /// By track, first grid step, volume, position.
    chunks: BTreeMap<(TrackId, Tick, VolumeNumber, LogPosition), ChunkChange>,
    /// Facts about no recording, by what tells them apart.
    others: BTreeMap<String, Option<Newest<Fact>>>,
}

impl State {
    fn apply(&mut self, changes: &Changes, applied: &[(VolumeNumber, LogPosition)]) {
        for chunk in &changes.chunks {
            self.entries.entry(chunk.recording).or_default().chunk(chunk);
        }
        let of_runs = changes.facts.iter().filter_map(FactChange::segment_end);
        for (volume, segment, end) in of_runs.chain(changes.segment_ends.iter().copied()) {
            let known = self.segment_ends.entry((volume, segment)).or_default();
            *known = end.max(*known);
        }
        for FactChange { record, places } in &changes.facts {
            self.sequence = self.sequence.max(record.sequence);
            let about = record.fact.recording().unwrap_or(RecordingId(Uuid::nil()));
            self.entries.entry(about).or_default().fact(record, places);
        }
        for (recording, through) in &changes.settled {
            self.entries.entry(*recording).or_default().settle(through.volume, through.position);
        }
        for paid in &changes.paid {
            self.owed.remove(paid);
        }
        self.owed.extend(changes.owed.iter().copied());
        for &(volume, position) in applied {
            let held = self.applied.entry(volume).or_default();
            *held = position.max(*held);
        }
    }
}

impl Entry {
    fn chunk(&mut self, chunk: &ChunkChange) {
        let position = chunk.located.position;
        if self.through.get(&chunk.volume).is_none_or(|through| position >= *through) {
            self.chunks.insert((chunk.track, chunk.first_tick, chunk.volume, position), *chunk);
        }
    }

    fn fact(&mut self, record: &FactRecord, places: &[(VolumeNumber, LogPosition)]) {
        let sequence = record.sequence;
        match &record.fact {
            Fact::Recording { recording, resume } => {
                // These two are not the document's.
                let bare =
                    Recording { annotations: Annotations::default(), proof: None, ..Recording::clone(recording) };
                Newest::replace(&mut self.document, sequence, (Arc::new(bare), resume.clone()), places);
            }
            Fact::Annotations { annotations, .. } => {
                Newest::replace(&mut self.annotations, sequence, annotations.clone(), places);
            }
            Fact::Sealed { run, through, .. } => {
                self.runs.insert((run.volume, run.segment.0, run.offset), run.clone());
                through.iter().for_each(|through| self.settle(through.volume, through.position));
            }
            fact @ Fact::Replayed { digest, .. } => {
                let held = self.others.entry(format!("replayed {digest}")).or_default();
                Newest::replace(held, sequence, fact.clone(), places);
            }
            fact @ Fact::Clock { .. } => {
                let held = self.others.entry(format!("clock {}", sequence.0)).or_default();
                Newest::replace(held, sequence, fact.clone(), places);
            }
        }
    }

    fn settle(&mut self, volume: VolumeNumber, position: LogPosition) {
        let through = self.through.entry(volume).or_default();
        *through = position.max(*through);
        self.chunks.retain(|&(.., of, position), _| of != volume || position >= *through);
    }

    fn shown(&self) -> Option<Recording> {
        let mut recording = Recording::clone(&self.document.as_ref()?.value.0);
        recording.annotations = self.annotations();
        let is_sealed = recording.state != RecordingState::Active && self.chunks.is_empty() && !self.runs.is_empty();
        recording.proof = is_sealed.then(|| Proof {
            chunks: self.runs.values().map(|run| u64::from(run.chunks)).sum(),
            bytes: self.runs.values().map(|run| run.payload_bytes).sum(),
            merkle_root: recording_root(&self.runs()),
        });
        Some(recording)
    }

    fn annotations(&self) -> Annotations {
        self.annotations.as_ref().map(|newest| newest.value.clone()).unwrap_or_default()
    }

    fn runs(&self) -> Vec<Run> {
        let mut runs: Vec<Run> = self.runs.values().cloned().collect();
        runs.sort_by_key(|run| (run.first_tick, run.volume, run.segment, run.offset));
        runs
    }

    fn facts(&self) -> Vec<HeldFact> {
        let mut facts = Vec::new();
        if let Some(document) = &self.document {
            let fact = |value: &(Arc<Recording>, _)| Fact::Recording { recording: Arc::clone(&value.0), resume: None };
            facts.push(document.held(&self.through, fact));
        }
        facts.extend(self.others.values().flatten().map(|newest| newest.held(&self.through, Fact::clone)));
        facts
    }

    fn pending(&self, recording: RecordingId) -> Option<Pending> {
        let mut oldest = Places::new();
        let chunks = self.chunks.values().map(|chunk| (chunk.volume, chunk.located.position));
        let mut held = self.facts();
        held.extend(self.held_annotations(recording));
        for (volume, position) in chunks.chain(held.into_iter().flat_map(|fact| fact.places)) {
            let place = oldest.entry(volume).or_insert(position);
            *place = position.min(*place);
        }
        (!oldest.is_empty()).then(|| Pending {
            recording,
            state: self.document.as_ref().map(|document| document.value.0.state),
            oldest: oldest.into_iter().collect(),
            first_tick: self.chunks.values().map(|chunk| chunk.first_tick).min(),
            unsealed_chunks: self.chunks.len() as u64,
            unsealed_bytes: self.chunks.values().map(|chunk| u64::from(chunk.located.length)).sum(),
        })
    }

    fn held_annotations(&self, recording: RecordingId) -> Option<HeldFact> {
        let fact = |annotations: &Annotations| Fact::Annotations { recording, annotations: annotations.clone() };
        Some(self.annotations.as_ref()?.held(&self.through, fact))
    }
}

impl State {
    /// Everything that matches, newest first.
    fn matching(&self, filter: &Filter) -> Result<Vec<Recording>, CatalogError> {
        let condition = Condition::new(filter)?;
        let mut found: Vec<Recording> =
            self.entries.values().filter_map(Entry::shown).filter(|recording| condition.matches(recording)).collect();
        found.sort_by_cached_key(|recording| OrderKey::of(recording).as_bytes().to_vec());
        Ok(found)
    }
}

impl Catalog for MemoryCatalog {
    fn apply(&self, changes: &Changes, applied: &[(VolumeNumber, LogPosition)]) -> Result<(), CatalogError> {
        let inner = &mut *self.lock();
        inner.shown.apply(changes, applied);
        inner.applied.push((changes.clone(), applied.to_vec()));
        Ok(())
    }

    fn applied(&self) -> Result<BTreeMap<VolumeNumber, LogPosition>, CatalogError> {
        Ok(self.lock().shown.applied.clone())
    }

    fn sequence(&self) -> Result<FactSequence, CatalogError> {
        Ok(self.lock().shown.sequence)
    }

    fn persist(&self) -> Result<(), CatalogError> {
        let inner = &mut *self.lock();
        for (changes, applied) in inner.applied.drain(..) {
            inner.durable.apply(&changes, &applied);
        }
        Ok(())
    }

    fn reopen(&self) -> Result<(), CatalogError> {
        self.crash(0);
        Ok(())
    }

    fn refresh(&self) -> Result<(), CatalogError> {
        Ok(())
    }

    fn recording(&self, recording: RecordingId) -> Result<Option<Recording>, CatalogError> {
        Ok(self.lock().shown.entries.get(&recording).and_then(Entry::shown))
    }

    fn search(&self, query: &Query) -> Result<RecordingPage, CatalogError> {
        let mut recordings = self.lock().shown.matching(&query.filter)?;
        if let Some(cursor) = query.cursor {
            let cursor = OrderKey::from(cursor);
            recordings.retain(|recording| OrderKey::of(recording).as_bytes() > cursor.as_bytes());
        }
        let limit = query.limit.clamp(1, PAGE_LIMIT_MAX);
        let more = recordings.len() > limit;
        recordings.truncate(limit);
        let next = recordings.last().filter(|_| more).map(crate::Cursor::after);
        Ok(RecordingPage { recordings, next })
    }

    /// Always exact.
    fn count(&self, filter: &Filter) -> Result<Count, CatalogError> {
        let recordings = self.lock().shown.matching(filter)?.len() as u64;
        Ok(Count { recordings, exact: recordings <= COUNT_EXACT_MAX })
    }

    fn journal_chunks(
        &self,
        recording: RecordingId,
        track: TrackId,
        from: Tick,
        to: Tick,
    ) -> Result<Vec<ChunkLocation>, CatalogError> {
        let inner = self.lock();
        let Some(entry) = inner.shown.entries.get(&recording) else { return Ok(Vec::new()) };
        // Later places replace earlier ones.
        let chunks: BTreeMap<Tick, &ChunkChange> =
            entry.chunks.values().filter(|chunk| chunk.track == track).map(|chunk| (chunk.first_tick, chunk)).collect();
        let covers = |chunk: &&&ChunkChange| {
            chunk.first_tick < to && chunk.first_tick.0.saturating_add(u64::from(chunk.ticks)) > from.0
        };
        Ok(chunks.values().filter(covers).map(|chunk| location(chunk)).collect())
    }

    fn unsealed(&self, recording: RecordingId) -> Result<Vec<ChunkLocation>, CatalogError> {
        let inner = self.lock();
        let entry = inner.shown.entries.get(&recording);
        Ok(entry.map(|entry| entry.chunks.values().map(location).collect()).unwrap_or_default())
    }

    fn owed(
        &self,
        volume: VolumeNumber,
        after: Option<RecordingId>,
        limit: usize,
    ) -> Result<Vec<RecordingId>, CatalogError> {
        let inner = self.lock();
        let owed = inner.shown.owed.iter().filter(|(of, recording)| *of == volume && Some(*recording) > after);
        Ok(owed.map(|(_, recording)| *recording).take(limit).collect())
    }

    fn runs(&self, recording: RecordingId) -> Result<Vec<Run>, CatalogError> {
        Ok(self.lock().shown.entries.get(&recording).map(Entry::runs).unwrap_or_default())
    }

    fn segment_end(&self, volume: VolumeNumber, segment: SegmentNumber) -> Result<u64, CatalogError> {
        Ok(self.lock().shown.segment_ends.get(&(volume, segment)).copied().unwrap_or_default())
    }

    fn segment_ends(&self, volume: VolumeNumber) -> Result<Vec<(SegmentNumber, u64)>, CatalogError> {
        let inner = self.lock();
        let ends = inner.shown.segment_ends.iter().filter(|((of, _), _)| *of == volume);
        Ok(ends.map(|((_, segment), end)| (*segment, *end)).collect())
    }

    fn pending(&self) -> Result<Vec<Pending>, CatalogError> {
        Ok(self.lock().shown.entries.iter().filter_map(|(&recording, entry)| entry.pending(recording)).collect())
    }

    fn facts(&self, recording: RecordingId) -> Result<Vec<HeldFact>, CatalogError> {
        let inner = self.lock();
        let Some(entry) = inner.shown.entries.get(&recording) else { return Ok(Vec::new()) };
        let mut facts = entry.facts();
        facts.extend(entry.held_annotations(recording));
        if recording.0.is_nil() {
            facts.sort_by_key(|fact| fact.record.sequence);
        }
        Ok(facts)
    }

    fn annotations(&self, recording: RecordingId) -> Result<Annotations, CatalogError> {
        Ok(self.lock().shown.entries.get(&recording).map(Entry::annotations).unwrap_or_default())
    }

    fn active_with_resume(&self) -> Result<Vec<(Recording, SavedCall)>, CatalogError> {
        let inner = self.lock();
        let mut active = inner.shown.matching(&Filter::State(RecordingState::Active))?;
        active.reverse();
        let resume = |recording: &Recording| {
            let document = inner.shown.entries.get(&recording.id)?.document.as_ref()?;
            document.value.1.clone()
        };
        let with_resume = |recording: Recording| {
            let resume = resume(&recording).unwrap_or_default();
            (recording, resume)
        };
        Ok(active.into_iter().map(with_resume).collect())
    }

    fn has_replayed(&self, digest: &str) -> Result<bool, CatalogError> {
        let inner = self.lock();
        let others = inner.shown.entries.get(&RecordingId(Uuid::nil())).map(|entry| &entry.others);
        Ok(others.is_some_and(|others| others.contains_key(&format!("replayed {digest}"))))
    }

    fn statistics(&self) -> Result<CatalogStatistics, CatalogError> {
        let state = &self.lock().shown;
        let mut statistics =
            CatalogStatistics { applied: state.applied.clone(), sequence: state.sequence, ..Default::default() };
        for entry in state.entries.values() {
            if let Some(recording) = entry.shown() {
                statistics.recordings += 1;
                statistics.recordings_active += u64::from(recording.state == RecordingState::Active);
                statistics.recordings_incomplete += u64::from(recording.state == RecordingState::Incomplete);
                statistics.recordings_on_hold += u64::from(recording.annotations.hold.is_some());
            }
            statistics.chunks_unsealed += entry.chunks.len() as u64;
            let records = entry.chunks.values().map(|chunk| u64::from(chunk.located.length));
            statistics.chunk_bytes_unsealed += records.sum::<u64>();
            statistics.runs += entry.runs.len() as u64;
            statistics.chunks += entry.runs.values().map(|run| u64::from(run.chunks)).sum::<u64>();
            statistics.chunk_bytes += entry.runs.values().map(|run| run.length).sum::<u64>();
        }
        statistics.chunks += statistics.chunks_unsealed;
        statistics.chunk_bytes += statistics.chunk_bytes_unsealed;
        Ok(statistics)
    }

    fn backup(&self, _: &Path, _: &mut dyn FnMut(BackupProgress)) -> Result<(), CatalogError> {
        Err(CatalogError::NotOnDisk)
    }
}
