//! A store written by one thread in a time of its own, as fast as it goes and still with every flush and every step of the
//! keeper that the same hours would have had. For stores that are made to be measured, and for counting bytes.

use crate::metered::Metered;
use crate::recorder::{Recorder, Tally};
use anyhow::Result;
use sidetone_catalog::{Catalog, RocksCatalog};
use sidetone_log::{ChunkHeader, Fact, Io};
use sidetone_model::CaptureTime;
use sidetone_store::{Keeper, Store, StoreError, StoreOptions, StoreReader};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const NAP: Duration = Duration::from_micros(100);

pub(crate) struct Lockstep {
    io: Arc<Metered>,
    recorder: Recorder,
    keeper: Keeper,
    reader: Arc<StoreReader>,
}

impl Lockstep {
    pub(crate) fn open(io: &Arc<Metered>, directory: &Path, options: &StoreOptions) -> Result<Self> {
        let open_catalog =
            |path: &Path| -> Result<Arc<dyn Catalog>, StoreError> { Ok(Arc::new(RocksCatalog::open(path)?)) };
        let world = Arc::clone(io) as Arc<dyn Io>;
        let (writer, keeper, reader, _) = Store::open_on(world, &open_catalog, directory, options)?.split();
        Ok(Self { io: Arc::clone(io), recorder: Recorder::new(writer), keeper, reader })
    }

    /// What comes at an instant: it is made durable, and the keeper does what is due.
    pub(crate) fn step<'a>(
        &mut self,
        now: CaptureTime,
        chunks: impl Iterator<Item = (ChunkHeader, &'a [u8])>,
        facts: Vec<Fact>,
    ) -> Result<()> {
        self.io.set_clock(now);
        self.recorder.append(chunks, facts)?;
        self.recorder.settle(NAP)?;
        while self.keeper.step() {
            self.recorder.poll();
        }
        // Before time goes on: a flush may not take seconds.
        self.recorder.finish_all(NAP)
    }

    /// Time passes until all audio is in segments and one journal file is left. Gives the time then.
    pub(crate) fn drain(&mut self, mut now: CaptureTime) -> Result<CaptureTime> {
        const STEPS_MAX: usize = 2000;
        for _ in 0..STEPS_MAX {
            now = now.saturating_add(Duration::from_secs(1));
            self.step(now, std::iter::empty(), Vec::new())?;
            let statistics = self.reader.statistics()?;
            let journal_files: u64 = statistics.volumes.iter().map(|volume| volume.journal_files).sum();
            if statistics.catalog.chunks_unsealed == 0 && journal_files <= 1 {
                return Ok(now);
            }
        }
        anyhow::bail!("the keeper leaves audio in the journals: {:?}", self.reader.statistics()?)
    }

    pub(crate) fn tally(&self) -> &Tally {
        &self.recorder.tally
    }

    pub(crate) fn reader(&self) -> &Arc<StoreReader> {
        &self.reader
    }

    pub(crate) fn close(self) -> Result<Tally> {
        let Self { mut recorder, keeper, .. } = self;
        let tally = recorder.take_tally();
        keeper.close(recorder.into_writer())?;
        Ok(tally)
    }
}
