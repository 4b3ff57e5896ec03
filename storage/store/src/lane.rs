//! One volume as the writer sees it: its journal, and what was appended to it and is not durable yet.

use crate::batch::Note;
use crate::handle::Delivery;
use crate::shared::SharedVolume;
use sidetone_catalog::Changes;
use sidetone_log::{ChunkHeader, FactRecord, Flushed, Journal, Located, LogError, LogPosition, VolumeNumber};
use sidetone_model::RecordingId;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

pub(crate) struct Lane {
    pub(crate) shared: Arc<SharedVolume>,
    /// Absent while the volume is missing, and while its journal could not be opened.
    pub(crate) journal: Option<Journal>,
    /// Appended and not durable, in the order of the journal.
    items: VecDeque<Item>,
    /// Their numbers do not ascend: some came from a volume that failed.
    mixed: bool,
    /// When the flush began that is in flight, by the clock that is never set.
    pub(crate) flush_began: Option<Duration>,
    /// Durable, and not told of yet.
    pub(crate) outbox: VecDeque<Settled>,
    /// Where the last batch ended.
    pub(crate) told: LogPosition,
    /// The keeper has missed a batch, and does not know yet.
    pub(crate) behind: bool,
    /// Durable here, and to be resolved when the keeper gets there.
    pub(crate) carried: Vec<Arc<Delivery>>,
}

/// A record that was appended.
pub(crate) struct Item {
    pub(crate) number: u64,
    pub(crate) located: Located,
    pub(crate) what: What,
}

#[derive(Clone)]
pub(crate) enum What {
    Chunk(ChunkHeader),
    Fact(LaneFact),
}

/// A fact on one of the lanes that have it.
#[derive(Clone)]
pub(crate) struct LaneFact {
    pub(crate) record: Arc<FactRecord>,
    pub(crate) delivery: Option<Arc<Delivery>>,
    /// The first of the lanes that took it: there it is counted.
    pub(crate) leads: bool,
    /// Volumes that did not take it; told of once.
    pub(crate) missing: Vec<VolumeNumber>,
}

impl What {
    pub(crate) fn fact(&self) -> Option<&LaneFact> {
        match self {
            Self::Chunk(_) => None,
            Self::Fact(fact) => Some(fact),
        }
    }
}

impl LaneFact {
    /// The recording; the nil one stands for none.
    pub(crate) fn about(&self) -> RecordingId {
        self.record.fact.recording().unwrap_or(RecordingId(Uuid::nil()))
    }
}

/// What a flush made durable.
#[derive(Default)]
pub(crate) struct Settled {
    /// The recordings of the chunks.
    pub(crate) chunks: Vec<RecordingId>,
    /// Facts that this lane counts.
    pub(crate) facts: u64,
    /// The numbers of all facts, and whom they are about.
    pub(crate) about: Vec<(u64, RecordingId)>,
    pub(crate) bytes: u64,
    pub(crate) to: LogPosition,
    pub(crate) changes: Changes,
    pub(crate) notes: Vec<Note>,
    pub(crate) owed: Vec<(VolumeNumber, RecordingId)>,
    pub(crate) deliveries: Vec<Arc<Delivery>>,
}

impl Lane {
    pub(crate) fn new(shared: Arc<SharedVolume>, journal: Option<Journal>) -> Self {
        let told = journal.as_ref().map(Journal::durable).unwrap_or_default();
        Self {
            shared,
            journal,
            items: VecDeque::new(),
            mixed: false,
            flush_began: None,
            told,
            outbox: VecDeque::new(),
            behind: false,
            carried: Vec::new(),
        }
    }

    /// Records can be appended.
    pub(crate) fn is_writable(&self) -> bool {
        self.shared.state().takes_facts() && self.journal.as_ref().is_some_and(|journal| !journal.has_failed())
    }

    pub(crate) fn is_flushing(&self) -> bool {
        self.flush_began.is_some()
    }

    /// Something is not durable.
    pub(crate) fn has_backlog(&self) -> bool {
        !self.items.is_empty()
    }

    /// Facts that are not durable here: their numbers, and whom they are about.
    pub(crate) fn facts(&self) -> impl Iterator<Item = (u64, RecordingId)> {
        self.items.iter().filter_map(|item| Some((item.number, item.what.fact()?.about())))
    }

    #[cfg(test)]
    pub(crate) fn items(&self) -> impl Iterator<Item = &Item> {
        self.items.iter()
    }

    pub(crate) fn backlog(&self) -> usize {
        self.items.len()
    }

    /// The lowest number that is not durable.
    pub(crate) fn lowest(&self) -> Option<u64> {
        match self.mixed {
            false => self.items.front().map(|item| item.number),
            true => self.items.iter().map(|item| item.number).min(),
        }
    }

    pub(crate) fn push(&mut self, number: u64, located: Located, what: What) {
        self.mixed |= self.items.back().is_some_and(|last| last.number > number);
        self.items.push_back(Item { number, located, what });
    }

    /// Begins to make durable what was appended, unless a flush is in flight. True when one is, so that what was appended since it
    /// began has to wait for the next.
    pub(crate) fn begin_flush(&mut self, now: Duration) -> bool {
        let Some(journal) = &mut self.journal else { return false };
        if self.flush_began.is_some() {
            return true;
        }
        if !self.items.is_empty() && !journal.has_failed() {
            journal.begin_flush();
            self.flush_began = Some(now);
        }
        false
    }

    /// What the flush in flight has made durable, if it is over.
    pub(crate) fn poll(&mut self, index: usize) -> Result<Option<Settled>, LogError> {
        let Some(journal) = self.journal.as_mut().filter(|_| self.flush_began.is_some()) else { return Ok(None) };
        match journal.poll_flush(false) {
            Ok(None) => Ok(None),
            Ok(Some(flushed)) => {
                self.flush_began = None;
                Ok(Some(self.settle(&flushed, index)))
            }
            Err(error) => {
                self.flush_began = None;
                Err(error)
            }
        }
    }

    /// Takes what is durable by now off the books.
    fn settle(&mut self, flushed: &Flushed, index: usize) -> Settled {
        for item in &mut self.items {
            item.located = flushed.locate(item.located);
        }
        let mut settled = Settled { to: flushed.durable, ..Settled::default() };
        let volume = self.shared.volume.number;
        while let Some(item) = self.items.pop_front_if(|item| item.located.position < flushed.durable) {
            match item.what {
                What::Chunk(header) => {
                    settled.changes.chunk(&header, volume, item.located);
                    settled.chunks.push(header.recording);
                    settled.bytes += u64::from(item.located.length);
                }
                What::Fact(fact) => {
                    let about = fact.about();
                    let LaneFact { record, delivery, leads, missing } = fact;
                    settled.about.push((item.number, about));
                    settled.owed.extend(missing.into_iter().map(|volume| (volume, about)));
                    settled.facts += u64::from(leads);
                    settled.bytes += if leads { u64::from(item.located.length) } else { 0 };
                    settled.notes.extend(Note::of(&record));
                    settled.changes.fact(Arc::unwrap_or_clone(record), &[(volume, item.located.position)]);
                    settled.deliveries.extend(delivery.filter(|delivery| delivery.lane_is_through(index)));
                }
            }
        }
        self.mixed &= !self.items.is_empty();
        settled
    }

    /// The journal has failed: what became durable all the same, and the records that did not.
    pub(crate) fn give_up(&mut self, index: usize) -> (Settled, Vec<(Item, Vec<u8>)>) {
        self.flush_began = None;
        let journal = self.journal.as_mut().expect("a journal that failed is there");
        let unflushed = journal.take_unflushed();
        let settled = self.settle(&unflushed.flushed, index);
        assert_eq!(self.items.len(), unflushed.records.len(), "the journal gives back what it was given");
        let left = std::mem::take(&mut self.items).into_iter().zip(unflushed.records);
        let left = left.map(|(item, (located, record))| {
            assert_eq!(item.located, located, "in the same order");
            (item, record)
        });
        (settled, left.collect())
    }

    /// The volume does not answer: facts in flight here that other volumes have made durable, and which one.
    pub(crate) fn stall(&mut self, index: usize) -> Vec<(usize, Arc<Delivery>)> {
        let facts = self.items.iter().filter_map(|item| match &item.what {
            What::Fact(LaneFact { delivery, .. }) => delivery.as_ref(),
            What::Chunk(_) => None,
        });
        facts.filter_map(|delivery| Some((delivery.excuse_lane(index)?, Arc::clone(delivery)))).collect()
    }
}
