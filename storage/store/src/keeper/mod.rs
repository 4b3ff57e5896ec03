//! What goes on behind the writer: the catalog is brought up to date, audio moves from the journals into segments, journal
//! files that nothing needs any more are removed, volumes that failed are tried again.
//!
//! Constraints: one thread, and everything in bounded steps. The order that keeps what was acknowledged, whatever crashes or
//! fails in between:
//!
//! 1. a record is durable in a journal before the catalog knows it;
//! 2. a run is durable in its segment before the fact that announces it goes to the writer;
//! 3. a segment is closed when all its runs' announcements are durable and in the catalog; until then opening looks for runs
//!    that were not announced;
//! 4. a journal file is removed when the catalog is durable and knows everything that it holds from elsewhere: its audio
//!    from runs, its facts from segments, from later files, or as replaced.
//!
//! So whatever is cut short is either found again at the next start or was of no consequence.

mod apply;
mod backfill;
mod damage;
mod probe;
mod retire;
mod seal;
mod segments;

use crate::batch::Batch;
use crate::catch_up::Damage;
use crate::handle::{Receipt, StoreHandle, Submission, Submitted};
use crate::logs::Logs;
use crate::shared::Shared;
use crate::{StoreError, StoreWriter, VolumeState};
use apply::Projection;
use backfill::Backfill;
use segments::Segments;
use sidetone_catalog::CatalogError;
use sidetone_log::{ChunkRecord, Fact, FactSequence, Journal, Run, SegmentNumber, Table, VolumeNumber};
use sidetone_model::{CaptureTime, Recording, RecordingId};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError};
use std::time::Duration;

pub(crate) use damage::gaps;
pub(crate) use probe::look_at_space;
pub(crate) use segments::OPEN_SPAN;

/// Batches applied in one step.
const BATCHES_AT_ONCE: usize = 64;
/// How long [`Keeper::run`] waits for a batch.
const IDLE: Duration = Duration::from_millis(50);

/// What happened in the store, for those who watch it.
#[derive(Clone, PartialEq, Debug)]
pub enum StoreEvent {
    /// The recording is over, and what the log has of it is durable and in the catalog. Told again at most after the
    /// keeper was far behind.
    RecordingOver(Arc<Recording>),
    VolumeChanged {
        volume: VolumeNumber,
        before: VolumeState,
        after: VolumeState,
    },
    /// The catalog cannot be written, or can again. Recording goes on without it.
    CatalogFailing {
        error: String,
    },
    CatalogRecovered,
    /// Bytes of a journal that were durable cannot be read any more; what they held is lost.
    JournalDamaged {
        volume: VolumeNumber,
        error: String,
    },
    /// Audio of a recording was damaged when it should be sealed; the recording is incomplete.
    AudioDamaged {
        recording: RecordingId,
        chunks: u64,
    },
}

/// Makes what is stored with a run beside its chunks.
type MakeTables = Box<dyn FnMut(&Recording, &[ChunkRecord]) -> Vec<Table> + Send>;

/// Keeps the catalog and the segments. Belongs to one thread at a time.
pub struct Keeper {
    shared: Arc<Shared>,
    logs: Logs,
    handle: StoreHandle,
    batches: Option<Receiver<Batch>>,
    revived: SyncSender<(usize, Journal)>,
    sink: Box<dyn FnMut(StoreEvent) + Send>,
    make_tables: MakeTables,
    projection: Projection,
    segments: Segments,
    backfill: Backfill,
    /// Facts about runs that are durable in their segments, on their way into the log.
    announcements: VecDeque<Announcement>,
    /// Recordings being sealed on a volume: from the beginning until the catalog knows.
    sealing: BTreeSet<(RecordingId, VolumeNumber)>,
    /// Recordings that could not be sealed: when to try again, and how often it was tried.
    put_off: BTreeMap<RecordingId, (CaptureTime, u32)>,
    /// Damage of journals that was found and not dealt with yet.
    damaged: Vec<Damage>,
    /// Facts that were written again lately.
    renewed: BTreeMap<(RecordingId, FactSequence), CaptureTime>,
    /// Segments that an earlier process has left without a footer; all that is in them is announced.
    left_open: Vec<(VolumeNumber, SegmentNumber)>,
    /// Bytes of segments that do not grow any more.
    sizes: BTreeMap<(VolumeNumber, SegmentNumber), u64>,
    /// Per volume, whether the writer has its journal.
    has_journal: Vec<bool>,
    /// As told to the sink.
    states: Vec<VolumeState>,
    sealed_at: Option<CaptureTime>,
    probed_at: Option<CaptureTime>,
}

/// A fact that has to get into the log.
struct Announcement {
    fact: Fact,
    /// Absent until it is submitted.
    receipt: Option<Receipt>,
}

impl Keeper {
    pub(crate) fn new(
        shared: Arc<Shared>,
        logs: Logs,
        handle: StoreHandle,
        batches: Receiver<Batch>,
        revived: SyncSender<(usize, Journal)>,
    ) -> Result<Self, StoreError> {
        let projection = Projection::new(&shared)?;
        let states = shared.volumes.iter().map(|volume| volume.state()).collect();
        Ok(Self {
            segments: Segments::new(Arc::clone(&shared)),
            backfill: Backfill::default(),
            shared,
            logs,
            handle,
            batches: Some(batches),
            revived,
            sink: Box::new(|_| {}),
            make_tables: Box::new(|_, _| Vec::new()),
            projection,
            announcements: VecDeque::new(),
            sealing: BTreeSet::new(),
            put_off: BTreeMap::new(),
            damaged: Vec::new(),
            renewed: BTreeMap::new(),
            sizes: BTreeMap::new(),
            has_journal: Vec::new(),
            left_open: Vec::new(),
            states,
            sealed_at: None,
            probed_at: None,
        })
    }

    /// Where events go, from now on. Called on the keeper's thread; it should not wait.
    pub fn on_event(&mut self, sink: impl FnMut(StoreEvent) + Send + 'static) {
        self.sink = Box::new(sink);
    }

    /// What is stored with each run from now on, in the run's index. `make` gets the recording as it is known then and the
    /// chunks of the run, in the order of track and time; it is called on the keeper's thread. All tables of a run together are
    /// to take some kilobytes: the index is one record.
    pub fn on_run(&mut self, make: impl FnMut(&Recording, &[ChunkRecord]) -> Vec<Table> + Send + 'static) {
        self.make_tables = Box::new(make);
    }

    /// Does what is due. True when there is more to do at once.
    pub fn step(&mut self) -> bool {
        let mut busy = self.take_batches();
        self.tell_volume_states();
        busy |= self.announce();
        let now = self.shared.io.now();
        if is_due(&mut self.probed_at, now, self.shared.options.limits.probe) {
            self.probe();
        }
        if self.projection.is_failing() {
            return busy;
        }
        if is_due(&mut self.sealed_at, now, self.shared.options.sealing.interval) {
            match self.keep(now) {
                // Soon again: there is more than one step does.
                Ok(true) => {
                    self.sealed_at = None;
                    busy = true;
                }
                Ok(false) => {}
                Err(error) => self.on_catalog_error(&error),
            }
        }
        busy
    }

    /// Works until `stop` is set, then until the writer is gone and everything is applied; waits for batches in between.
    pub fn run(&mut self, stop: &AtomicBool) {
        while !stop.load(Ordering::Acquire) {
            if !self.step() {
                self.wait();
            }
        }
        self.take_batches();
    }

    /// Ends the store in order: everything is made durable, applied and announced, segments get their footers. Without it, the
    /// next start does the same.
    ///
    /// # Errors
    /// Something could not be written. Nothing is lost that was acknowledged.
    pub fn close(mut self, mut writer: StoreWriter) -> Result<(), StoreError> {
        let mut outcome = writer.flush().map(|_| ());
        // Each round takes announcements one step further: submitted, flushed, applied.
        for _round in 0..4 {
            self.take_batches();
            self.announce();
            if outcome.is_ok() && !self.announcements.is_empty() {
                outcome = writer.flush().map(|_| ());
            }
        }
        drop(writer);
        self.take_batches();
        self.close_segments(true);
        outcome.and(self.shared.catalog.persist().map_err(StoreError::from))
    }

    /// Takes what the writer has sent and gives it what has to get into the log.
    pub(crate) fn pass_on(&mut self) {
        self.take_batches();
        self.announce();
    }

    /// Everything that was to be announced is in the catalog.
    pub(crate) fn has_announced(&self) -> bool {
        self.announcements.is_empty()
    }

    fn wait(&mut self) {
        let Some(batches) = &self.batches else {
            std::thread::sleep(IDLE);
            return;
        };
        match batches.recv_timeout(IDLE) {
            Ok(batch) => self.take(batch),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => self.batches = None,
        }
    }

    /// Applies what the writer has sent. True when there may be more.
    fn take_batches(&mut self) -> bool {
        for _ in 0..BATCHES_AT_ONCE {
            match self.batches.as_ref().map(Receiver::try_recv) {
                Some(Ok(batch)) => self.take(batch),
                Some(Err(TryRecvError::Disconnected)) => self.batches = None,
                Some(Err(TryRecvError::Empty)) | None => return false,
            }
        }
        true
    }

    /// Seals, closes and retires. True when there is more to do at once.
    fn keep(&mut self, now: CaptureTime) -> Result<bool, StoreError> {
        let pending = self.shared.catalog.pending()?;
        self.own_up(&pending)?;
        let mut more = self.seal(&pending, now)?;
        more |= self.retire(&pending, now)?;
        more |= self.fill_in(now)?;
        self.close_segments(false);
        Ok(more)
    }

    /// Damage that opening the store has found. It is told again when somebody listens.
    pub(crate) fn found_damaged(&mut self, damaged: Vec<Damage>) -> Result<(), StoreError> {
        self.damaged.extend(damaged.iter().cloned());
        self.own_up(&self.shared.catalog.pending()?)?;
        self.damaged = damaged;
        Ok(())
    }

    /// So much has to get into the log.
    pub(crate) fn to_announce(&self) -> usize {
        self.announcements.len()
    }

    /// Something has to get into the log; it is tried until it is there.
    pub(crate) fn add_announcement(&mut self, fact: Fact) {
        self.announcements.push_back(Announcement { fact, receipt: None });
    }

    /// Submits announcements, and again those that were refused. True when something was submitted.
    fn announce(&mut self) -> bool {
        let mut submitted = false;
        let mut waiting = VecDeque::new();
        while let Some(mut announcement) = self.announcements.pop_front() {
            let outcome = announcement.receipt.as_ref().and_then(Receipt::outcome);
            match (&announcement.receipt, outcome) {
                (Some(_), Some(Ok(()))) => continue,
                (Some(_), None) => {}
                (Some(_), Some(Err(_))) => announcement.receipt = None,
                (None, _) => match self.handle.submit(announcement.fact.clone()) {
                    Ok(receipt) => {
                        announcement.receipt = Some(receipt);
                        submitted = true;
                    }
                    Err(_busy) => {
                        waiting.push_back(announcement);
                        break;
                    }
                },
            }
            waiting.push_back(announcement);
        }
        waiting.append(&mut self.announcements);
        self.announcements = waiting;
        submitted
    }

    /// A run's announcement is durable and in the catalog.
    fn on_sealed(&mut self, recording: RecordingId, run: &Run) {
        self.sealing.remove(&(recording, run.volume));
        self.segments.announced(run);
    }

    fn submit_again(&self, record: sidetone_log::FactRecord) -> Result<(), StoreError> {
        self.handle.send(Submission { fact: Submitted::Again(record), delivery: None })
    }

    fn tell_volume_states(&mut self) {
        for index in 0..self.states.len() {
            let shared = &self.shared.volumes[index];
            let (volume, after) = (shared.volume.number, shared.state());
            let before = std::mem::replace(&mut self.states[index], after);
            if before == after {
                continue;
            }
            tracing::warn!(volume = volume.0, %before, %after, "a volume has changed its state");
            (self.sink)(StoreEvent::VolumeChanged { volume, before, after });
        }
    }

    fn on_catalog_error(&mut self, error: &StoreError) {
        match error {
            StoreError::Catalog(_) => {
                self.shared.keeper().catalog_failures += 1;
                if !self.projection.is_failing() {
                    tracing::error!(%error, "the catalog cannot be used: recording goes on, and it is brought up to date later");
                    (self.sink)(StoreEvent::CatalogFailing { error: error.to_string() });
                }
                let is_damaged = matches!(error, StoreError::Catalog(CatalogError::Damaged { .. }));
                self.projection.fail(is_damaged);
            }
            error => tracing::error!(%error, "moving audio into segments failed; it is tried again"),
        }
    }
}

/// Whether something that happens every `interval` is due; then it counts as done.
fn is_due(last: &mut Option<CaptureTime>, now: CaptureTime, interval: Duration) -> bool {
    // A clock that was set back makes it due.
    let is_due = last.is_none_or(|last| now < last || now.since(last) >= interval);
    if is_due {
        *last = Some(now);
    }
    is_due
}
