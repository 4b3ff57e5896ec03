//! The catalog follows the journals.
//!
//! Usually from batches, in the order in which they became durable. When one is missing, and when the store is opened, from
//! the journals themselves, up to where they are known to be durable.

use super::{Keeper, StoreEvent};
use crate::batch::{Batch, Note};
use crate::catch_up::{catch_up, owe_missed, owe_pending, read_forgotten, to_the_end};
use crate::handle::Delivery;
use crate::shared::Shared;
use crate::{StoreError, VolumeState};
use sidetone_catalog::Changes;
use sidetone_log::{FactSequence, KnownEnd, LogPosition, VolumeNumber};
use sidetone_model::RecordingId;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// Recordings remembered as told.
const TOLD_MAX: usize = 8192;

/// How far the catalog is.
pub(super) struct Projection {
    applied: BTreeMap<VolumeNumber, LogPosition>,
    /// The furthest that each journal is known to be durable.
    durable: BTreeMap<VolumeNumber, LogPosition>,
    /// Whose facts are in a batch that could not be applied.
    waiting: Vec<(VolumeNumber, LogPosition, Arc<Delivery>)>,
    failing: bool,
    /// It is damaged: opening it again helps nobody.
    damaged: bool,
    /// Volumes whose journal could not be read. They are left out until the next probe.
    unreadable: BTreeSet<VolumeNumber>,
    /// Recordings that were told to be over, so that copies of a fact are not told again.
    told: VecDeque<(RecordingId, FactSequence)>,
}

impl Projection {
    pub(super) fn new(shared: &Shared) -> Result<Self, StoreError> {
        let applied = shared.catalog.applied()?;
        Ok(Self {
            durable: applied.clone(),
            applied,
            waiting: Vec::new(),
            failing: false,
            damaged: false,
            unreadable: BTreeSet::new(),
            told: VecDeque::new(),
        })
    }

    pub(super) fn is_failing(&self) -> bool {
        self.failing
    }

    pub(super) fn fail(&mut self, is_damaged: bool) {
        self.failing = true;
        self.damaged |= is_damaged;
    }

    /// Volumes that could not be read are tried once more.
    pub(super) fn try_unreadable(&mut self) {
        self.unreadable.clear();
    }

    pub(super) fn applied(&self, volume: VolumeNumber) -> LogPosition {
        self.applied.get(&volume).copied().unwrap_or_default()
    }

    /// Everything that `after` says is in the catalog.
    fn has(&self, after: &[(VolumeNumber, LogPosition)]) -> bool {
        after.iter().all(|&(volume, position)| self.applied(volume) >= position || self.unreadable.contains(&volume))
    }

    fn is_told(&mut self, recording: RecordingId, sequence: FactSequence) -> bool {
        if self.told.contains(&(recording, sequence)) {
            return true;
        }
        if self.told.len() >= TOLD_MAX {
            self.told.pop_front();
        }
        self.told.push_back((recording, sequence));
        false
    }
}

impl Keeper {
    /// A batch has arrived.
    pub(super) fn take(&mut self, batch: Batch) {
        let Batch { volume, after, to, changes, notes, owed, deliveries } = batch;
        for (volume, position) in after.iter().copied().chain([(volume, to)]) {
            let durable = self.projection.durable.entry(volume).or_default();
            *durable = position.max(*durable);
        }
        self.projection.waiting.extend(deliveries.into_iter().map(|delivery| (volume, to, delivery)));
        if self.projection.failing {
            // What is owed is found out when it works again.
            return;
        }
        let mut owing = Changes::default();
        owed.into_iter().for_each(|(volume, recording)| owing.owe(volume, recording));
        // Of a volume that could not be read something is missing before this.
        let follows = self.projection.has(&after) && !self.projection.unreadable.contains(&volume);
        let result = if !follows {
            self.catch_up()
        } else if self.projection.applied(volume) < to {
            self.apply(volume, to, &changes, notes)
        } else {
            Ok(())
        };
        // Behind the facts themselves: who pays looks at the catalog.
        let result = result.and_then(|()| self.owe(&owing));
        match result {
            Ok(()) => self.resolve(),
            Err(error) => self.on_catalog_error(&error),
        }
    }

    fn apply(
        &mut self,
        volume: VolumeNumber,
        to: LogPosition,
        changes: &Changes,
        notes: Vec<Note>,
    ) -> Result<(), StoreError> {
        let started = std::time::Instant::now();
        self.shared.catalog.apply(changes, &[(volume, to)])?;
        self.projection.applied.insert(volume, to);
        let elapsed_ns = u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        {
            let mut statistics = self.shared.keeper();
            statistics.apply_ns_last = elapsed_ns;
            statistics.apply_ns_max = statistics.apply_ns_max.max(elapsed_ns);
        }
        notes.into_iter().for_each(|note| self.note(note));
        Ok(())
    }

    /// Brings everything into the catalog that a journal holds up to a position, which is known to be durable.
    pub(super) fn reach(&mut self, volume: VolumeNumber, end: LogPosition) -> Result<(), StoreError> {
        let durable = self.projection.durable.entry(volume).or_default();
        *durable = end.max(*durable);
        self.catch_up()
    }

    /// Brings everything into the catalog that a volume holds which was away.
    pub(super) fn read_volume(&mut self, volume: VolumeNumber) -> Result<(), StoreError> {
        let (shared, logs) = (Arc::clone(&self.shared), self.logs.clone());
        owe_pending(&*shared.catalog, &shared.numbers())?;
        read_forgotten(&*shared.io, &*shared.catalog, &logs, &[volume])?;
        let end = to_the_end(&*shared.io, logs.volume(volume)?)?;
        owe_missed(&*shared.catalog, &logs, &[end])?;
        self.read_on(&[end])?.map_or(Ok(()), Err)
    }

    /// How far the journals that can be read are known to be durable.
    fn ends(&self) -> Vec<(VolumeNumber, KnownEnd)> {
        let is_there = |volume: &VolumeNumber| {
            let fault = self.shared.volume(*volume).map_or(VolumeState::Missing, |volume| volume.fault());
            !matches!(fault, VolumeState::Missing | VolumeState::Stalled)
                && !self.projection.unreadable.contains(volume)
        };
        let ends = self.projection.durable.iter().map(|(&volume, &position)| (volume, KnownEnd::At(position)));
        ends.filter(|(volume, _)| is_there(volume)).collect()
    }

    /// Reads from the journals what was missed.
    fn catch_up(&mut self) -> Result<(), StoreError> {
        self.read_on(&self.ends()).map(|_unreadable| ())
    }

    /// Gives the error of a journal that could not be read.
    fn read_on(&mut self, ends: &[(VolumeNumber, KnownEnd)]) -> Result<Option<StoreError>, StoreError> {
        let mut notes = Vec::new();
        let caught_up = catch_up(&*self.shared.catalog, &self.logs, ends, &mut |note| notes.push(note));
        // What was applied before an error is in the catalog too.
        self.projection.applied = self.shared.catalog.applied()?;
        notes.into_iter().for_each(|note| self.note(note));
        let caught_up = caught_up?;
        caught_up.count(&mut self.shared.keeper());
        self.damaged.extend(caught_up.damaged);
        for (volume, error) in &caught_up.unreadable {
            tracing::error!(volume = volume.0, %error, "the catalog cannot follow a volume's journal now; it is tried again");
            self.projection.unreadable.insert(*volume);
        }
        Ok(caught_up.unreadable.into_iter().next().map(|(_, error)| error))
    }

    fn note(&mut self, note: Note) {
        match note {
            Note::Over(recording, sequence) => {
                if !self.projection.is_told(recording.id, sequence) {
                    (self.sink)(StoreEvent::RecordingOver(recording));
                }
            }
            Note::Sealed(recording, run) => self.on_sealed(recording, &run),
        }
    }

    /// Tells those whose facts are in the catalog now.
    fn resolve(&mut self) {
        let applied = &self.projection.applied;
        self.projection.waiting.retain(|(volume, position, delivery)| {
            let is_there = applied.get(volume).is_some_and(|applied| applied >= position);
            if is_there {
                delivery.resolve(Ok(()));
            }
            !is_there
        });
    }

    /// Tries whether a catalog that has failed can be used again.
    pub(super) fn reopen_catalog(&mut self) {
        if !self.projection.failing || self.projection.damaged {
            return;
        }
        let reopened = self.shared.catalog.reopen().map_err(StoreError::from).and_then(|()| {
            self.projection.applied = self.shared.catalog.applied()?;
            owe_pending(&*self.shared.catalog, &self.shared.numbers())?;
            owe_missed(&*self.shared.catalog, &self.logs, &self.ends())?;
            self.catch_up()
        });
        match reopened {
            Ok(()) => {
                self.projection.failing = false;
                tracing::warn!("the catalog can be used again");
                (self.sink)(StoreEvent::CatalogRecovered);
                self.resolve();
            }
            Err(error) => {
                self.shared.keeper().catalog_failures += 1;
                tracing::debug!(%error, "the catalog still cannot be used");
            }
        }
    }
}
