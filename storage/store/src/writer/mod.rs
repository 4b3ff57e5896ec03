//! The side that appends: chunks to the volume of their recording, facts to all volumes.
//!
//! Constraints: belongs to one thread at a time. It waits for nobody but the volume that it appends to, and for that no longer
//! than [`Limits::stall`](crate::Limits): not for the keeper, the catalog or a segment. Every queue has a limit, and what does
//! not fit is an error of the call that brought it.
//!
//! Order between volumes: a fact that says that a recording is over goes into no journal before all its audio is durable,
//! on whichever volume. So no crash leaves a recording that shows as complete and is not whole.
//!
//! When a volume fails, the journal gives back what is not durable, and it goes to the volumes that are left; when there is
//! none, it waits in memory (what was taken before the failure, no more). Nothing that was appended without an error is
//! dropped while the process lives.

mod facts;
mod faults;
mod place;
mod settle;

use crate::batch::Batch;
use crate::handle::{Refusal, Submission};
use crate::lane::{Item, Lane, What};
use crate::shared::{Shared, is_fault, lock};
use crate::{StoreError, VolumeState, WriterStatistics};
use facts::says_over;
use place::NAP;
use sidetone_log::format::{CHUNK_PAYLOAD_OFFSET, fact_record};
use sidetone_log::{ChunkHeader, Fact, FactRecord, FactSequence, Journal, VolumeNumber};
use sidetone_model::{CaptureTime, RecordingId};
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender};

/// Counts what was appended, from 0 on, in the order of the calls.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct AppendNumber(pub u64);

/// What has become durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Durable {
    /// Everything that was appended under a lower number is durable, on each volume that it went to and that answers.
    pub before: AppendNumber,
    /// Since the last report: chunks and facts, and the bytes of their records. A fact counts once, on however many volumes.
    pub chunks: u64,
    pub facts: u64,
    pub bytes: u64,
}

/// Appends chunks and facts. Belongs to one thread at a time. Dropping it flushes what is left.
pub struct StoreWriter {
    pub(crate) lanes: Vec<Lane>,
    known: HashMap<RecordingId, Known>,
    /// Facts that wait for the audio of their recording.
    held: VecDeque<Held>,
    /// Volumes that have missed a fact, and whom it was about: told with the next batch.
    owed: BTreeSet<(VolumeNumber, RecordingId)>,
    /// Taken back from volumes that failed.
    stranded: VecDeque<(Item, Vec<u8>)>,
    next_number: u64,
    sequence: FactSequence,
    /// Something should not wait for the next call of `begin_flush`.
    urgent: bool,
    forgot_at: CaptureTime,
    gathered: Durable,
    statistics: WriterStatistics,
    pub(crate) shared: Arc<Shared>,
    submissions: Receiver<Submission>,
    /// Journals of volumes that the keeper has brought back.
    revived: Receiver<(usize, Journal)>,
    batches: Option<SyncSender<Batch>>,
}

/// A recording of which something is to be remembered.
struct Known {
    lane: Option<usize>,
    /// Chunks of it that are not durable.
    outstanding: u32,
    /// Its last fact was written: it is forgotten as soon as nothing is outstanding.
    over: bool,
    /// It was there before: it goes on where a recording that begins is refused.
    running: bool,
    touched: CaptureTime,
}

/// A fact that waits.
struct Held {
    number: u64,
    recording: RecordingId,
    record: Arc<FactRecord>,
}

/// The writer's ends of the queues.
pub(crate) struct Queues {
    pub(crate) submissions: Receiver<Submission>,
    pub(crate) revived: Receiver<(usize, Journal)>,
    pub(crate) batches: SyncSender<Batch>,
}

impl StoreWriter {
    /// `running` are the recordings that are active.
    pub(crate) fn new(
        shared: Arc<Shared>,
        lanes: Vec<Lane>,
        sequence: FactSequence,
        running: Vec<RecordingId>,
        queues: Queues,
    ) -> Self {
        let now = shared.io.now();
        let mut writer = Self {
            lanes,
            known: HashMap::new(),
            held: VecDeque::new(),
            owed: BTreeSet::new(),
            stranded: VecDeque::new(),
            next_number: 0,
            sequence,
            urgent: false,
            forgot_at: now,
            gathered: Durable::default(),
            statistics: WriterStatistics::default(),
            shared,
            submissions: queues.submissions,
            revived: queues.revived,
            batches: Some(queues.batches),
        };
        for recording in running {
            let known = Known { lane: None, outstanding: 0, over: false, running: true, touched: now };
            writer.known.insert(recording, known);
        }
        writer
    }

    /// Takes a chunk of audio. It is durable when [`Durable::before`] is above the number that this gives.
    ///
    /// # Errors
    /// The chunk is not in the store, now or later; everything appended before is not touched.
    /// [`StoreError::NoVolumeForNew`], [`StoreError::NoVolumeForAudio`]: there is no room; a later chunk may find some.
    pub fn append_chunk(&mut self, header: &ChunkHeader, payload: &[u8]) -> Result<AppendNumber, StoreError> {
        loop {
            let lane = self.find_room(header.recording, CHUNK_PAYLOAD_OFFSET + payload.len())?;
            match self.journal(lane).append_chunk(header, payload) {
                Ok(located) => {
                    let number = self.draw_number();
                    self.lanes[lane].push(number, located, What::Chunk(*header));
                    let known = self.known.get_mut(&header.recording).expect("it was placed");
                    known.outstanding += 1;
                    return Ok(AppendNumber(number));
                }
                Err(error) if is_fault(&error) => self.fail(lane, &error),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Takes a fact; as [`Self::append_chunk`]. It is durable on every volume that can be written.
    ///
    /// # Errors
    /// The fact is not in the store, now or later. [`StoreError::NoVolume`]: no volume can be written.
    pub fn append_fact(&mut self, fact: Fact) -> Result<AppendNumber, StoreError> {
        let record = Arc::new(FactRecord { sequence: self.draw_sequence(), fact });
        let recording = record.fact.recording().filter(|_| says_over(&record.fact));
        if let Some(recording) = recording
            && self.known.get(&recording).is_some_and(|known| known.outstanding > 0)
            && !self.shared.is_sabotaged(crate::sabotage::Sabotage::EndBeforeAudio)
        {
            // What cannot be written is told now, and not when it is too late.
            fact_record(&record)?;
            if self.held.len() >= self.shared.options.limits.held_facts {
                return Err(StoreError::Busy);
            }
            let number = self.draw_number();
            self.held.push_back(Held { number, recording, record });
            return Ok(AppendNumber(number));
        }
        let number = self.next_number;
        self.write_fact(number, &record, None)?;
        self.next_number += 1;
        Ok(AppendNumber(number))
    }

    /// Begins to make durable what was appended, on every volume where no flush is in flight. Does not wait.
    pub fn begin_flush(&mut self) {
        let now = self.shared.io.monotonic();
        self.take_submissions();
        self.release_held();
        self.place_stranded();
        for lane in &mut self.lanes {
            lane.begin_flush(now);
        }
        #[cfg(test)]
        if self.shared.is_sabotaged(crate::sabotage::Sabotage::TellBeforeDurable) {
            self.tell_before_durable();
        }
        self.forget(self.shared.io.now());
    }

    /// Moves everything on that is under way, and does not wait: to be called often, some hundred times a second. What is
    /// urgent, facts of the control plane for one, is flushed without [`Self::begin_flush`].
    pub fn poll(&mut self) -> Durable {
        self.advance();
        self.report()
    }

    /// Makes durable everything appended. Waits. Volumes that failed are tried again when no other is left.
    ///
    /// # Errors
    /// What is not durable stays in memory, and the next call tries again.
    pub fn flush(&mut self) -> Result<Durable, StoreError> {
        let end = self.next_number;
        let mut waited = self.shared.io.monotonic();
        loop {
            self.begin_flush();
            let before = self.lowest();
            self.advance();
            let lowest = self.lowest();
            if lowest >= end {
                return Ok(self.report());
            }
            if !self.lanes.iter().any(Lane::is_writable) {
                self.retry_all()?;
            }
            let now = self.shared.io.monotonic();
            if lowest > before {
                waited = now;
            } else if now.saturating_sub(waited) > self.shared.options.limits.stall.saturating_mul(2) {
                return Err(self.no_volume());
            }
            std::thread::sleep(NAP);
        }
    }

    /// Some volume takes the audio of recordings that are under way.
    pub fn takes_audio(&self) -> bool {
        self.lanes.iter().any(|lane| lane.is_writable() && lane.shared.state().takes_audio())
    }

    pub fn statistics(&self) -> WriterStatistics {
        WriterStatistics {
            backlog: self.lanes.iter().map(|lane| lane.backlog() as u64).max().unwrap_or(0),
            held_facts: self.held.len() as u64,
            stranded: self.stranded.len() as u64,
            stranded_bytes: self.stranded.iter().map(|(_, record)| record.len() as u64).sum(),
            ..self.statistics.clone()
        }
    }

    fn advance(&mut self) {
        while let Ok((index, journal)) = self.revived.try_recv() {
            let lane = &mut self.lanes[index];
            lane.told = journal.durable();
            lane.journal = Some(journal);
            lane.shared.set_fault(VolumeState::Ok);
        }
        self.retry_probed();
        self.take_submissions();
        for lane in 0..self.lanes.len() {
            self.poll_lane(lane);
        }
        self.release_held();
        self.place_stranded();
        if std::mem::take(&mut self.urgent) {
            let now = self.shared.io.monotonic();
            for lane in &mut self.lanes {
                // One that does not answer is not waited for.
                let waits = lane.begin_flush(now) && lane.shared.fault() != VolumeState::Stalled;
                self.urgent |= waits;
            }
        }
        self.tell();
        self.nudge();
    }

    fn report(&mut self) -> Durable {
        self.publish();
        Durable { before: AppendNumber(self.lowest()), ..std::mem::take(&mut self.gathered) }
    }

    /// Everything below this number is durable.
    fn lowest(&self) -> u64 {
        let lanes = self.lanes.iter().filter_map(Lane::lowest);
        let held = self.held.iter().map(|held| held.number);
        let stranded = self.stranded.iter().map(|(item, _)| item.number);
        lanes.chain(held).chain(stranded).min().unwrap_or(self.next_number)
    }

    fn draw_number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number - 1
    }

    /// Above every sequence of this store, also of those on volumes that are missing: the system's clock goes in. Even: the
    /// odd ones are for documents in segments without the call tracker's state.
    fn draw_sequence(&mut self) -> FactSequence {
        self.sequence = FactSequence((self.sequence.0 + 2).max(self.shared.io.now().0) & !1);
        self.sequence
    }

    fn journal(&mut self, lane: usize) -> &mut Journal {
        self.lanes[lane].journal.as_mut().expect("a lane with room has a journal")
    }

    fn publish(&mut self) {
        self.statistics.chunks += self.gathered.chunks;
        self.statistics.facts += self.gathered.facts;
        self.statistics.bytes += self.gathered.bytes;
        // Whoever reads them holds the lock for a copy; then the next time will do.
        if let Ok(mut published) = self.shared.writer.try_lock() {
            *published = self.statistics();
        }
        for lane in &self.lanes {
            if let Ok(mut details) = lane.shared.details.try_lock() {
                details.journal = lane.journal.as_ref().map(Journal::statistics);
            }
        }
    }
}

impl Drop for StoreWriter {
    fn drop(&mut self) {
        // After a panic its books may be wrong: what is not durable was not acknowledged.
        if !std::thread::panicking()
            && let Err(error) = self.flush()
        {
            tracing::error!(%error, "the last records of the store could not be written");
        }
        while let Ok(submission) = self.submissions.try_recv() {
            submission.delivery.inspect(|delivery| delivery.resolve(Err(Refusal::Closed)));
        }
        // The keeper ends behind the last batch.
        drop(self.batches.take());
        *lock(&self.shared.writer) = self.statistics();
    }
}
