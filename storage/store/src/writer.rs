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

use crate::batch::Batch;
use crate::handle::{Delivery, Refusal, Submission, Submitted};
use crate::lane::{Item, Lane, LaneFact, Settled, What};
use crate::placement::{Candidate, place_new, place_running};
use crate::sabotage::Sabotage;
use crate::shared::{Shared, is_fault, lock};
use crate::{StoreError, VolumeState, WriterStatistics};
use sidetone_catalog::Changes;
use sidetone_log::format::{CHUNK_PAYLOAD_OFFSET, fact_record};
use sidetone_log::{ChunkHeader, Fact, FactRecord, FactSequence, Journal, LogError, LogPosition, VolumeNumber};
use sidetone_model::{CaptureTime, RecordingId, RecordingState};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError};
use std::time::Duration;

/// Facts of others that are taken at once, so that they do not hold up the audio.
const SUBMISSIONS_AT_ONCE: usize = 256;
/// How long to sleep while a device is at work; simulated ones work while they are asked.
const NAP: Duration = if cfg!(test) { Duration::ZERO } else { Duration::from_micros(100) };
/// Recordings of which nothing was heard for so long are forgotten, `so many seconds` by the system's clock.
const FORGET_AFTER: Duration = Duration::from_secs(6 * 3600);
const FORGET_INTERVAL: Duration = Duration::from_secs(60);

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
    /// `running` are the recordings that are active, with the volume that their last audio is on.
    pub(crate) fn new(
        shared: Arc<Shared>,
        lanes: Vec<Lane>,
        sequence: FactSequence,
        running: Vec<(RecordingId, Option<usize>)>,
        queues: Queues,
    ) -> Self {
        let now = shared.io.now();
        let mut writer = Self {
            lanes,
            known: HashMap::new(),
            held: VecDeque::new(),
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
        for (recording, lane) in running {
            let known = Known { lane, outstanding: 0, over: false, running: true, touched: now };
            writer.count_placed(lane, 1);
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
            let lane = self.place(header.recording)?;
            if !self.make_room(lane, CHUNK_PAYLOAD_OFFSET + payload.len()) {
                continue;
            }
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
            && !self.shared.is_sabotaged(Sabotage::EndBeforeAudio)
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
        let now = self.shared.io.now();
        self.take_submissions();
        self.release_held();
        self.place_stranded();
        for lane in &mut self.lanes {
            lane.begin_flush(now);
        }
        #[cfg(test)]
        if self.shared.is_sabotaged(Sabotage::TellBeforeDurable) {
            self.tell_before_durable();
        }
        self.forget(now);
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
        let mut waited = self.shared.io.now();
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
            let now = self.shared.io.now();
            if lowest > before {
                waited = now;
            } else if now.since(waited) > self.shared.options.limits.stall.saturating_mul(2) {
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
            let now = self.shared.io.now();
            for lane in &mut self.lanes {
                lane.begin_flush(now);
            }
        }
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

    // ---- where audio goes

    /// The lane that a recording's audio goes to.
    fn place(&mut self, recording: RecordingId) -> Result<usize, StoreError> {
        let now = self.shared.io.now();
        let takes_audio = |lane: &Lane| lane.is_writable() && lane.shared.state().takes_audio();
        let known = self.known.get_mut(&recording);
        let is_running = match known {
            Some(known) => {
                known.touched = now;
                match known.lane {
                    Some(lane) if takes_audio(&self.lanes[lane]) => return Ok(lane),
                    lane => lane.is_some() || known.running,
                }
            }
            None => false,
        };
        let candidates =
            self.lanes.iter().enumerate().filter(|(_, lane)| lane.is_writable()).map(|(_, lane)| Candidate {
                volume: lane.shared.volume.number,
                state: lane.shared.state(),
                free_bytes: lane.shared.free_bytes.load(Ordering::Relaxed),
                recordings: lane.shared.recordings.load(Ordering::Relaxed),
            });
        let volume = if is_running { place_running(candidates) } else { place_new(candidates) };
        let Some(lane) =
            volume.and_then(|volume| self.lanes.iter().position(|lane| lane.shared.volume.number == volume))
        else {
            let states = self.shared.states();
            return Err(if is_running || !self.takes_audio() {
                self.statistics.chunks_refused += 1;
                StoreError::NoVolumeForAudio { states }
            } else {
                self.statistics.chunks_refused_new += 1;
                StoreError::NoVolumeForNew { states }
            });
        };
        self.assign(recording, lane, now);
        Ok(lane)
    }

    fn assign(&mut self, recording: RecordingId, lane: usize, now: CaptureTime) {
        let new = Known { lane: None, outstanding: 0, over: false, running: false, touched: now };
        let before = self.known.entry(recording).or_insert(new).lane.replace(lane);
        self.count_placed(before, -1);
        self.count_placed(Some(lane), 1);
    }

    fn count_placed(&self, lane: Option<usize>, by: i64) {
        if let Some(lane) = lane {
            self.lanes[lane].shared.recordings.fetch_add(by as u64, Ordering::Relaxed);
        }
    }

    /// Waits until a lane takes a record without waiting for its device more than for a new file. False when it cannot be
    /// waited for: it has failed, or does not answer.
    fn make_room(&mut self, lane: usize, bytes: usize) -> bool {
        loop {
            let Some(journal) = self.lanes[lane].journal.as_ref().filter(|_| self.lanes[lane].is_writable()) else {
                return false;
            };
            // With nothing in the buffers only the file can be full: appending begins the next one.
            if journal.takes(bytes) || !self.lanes[lane].has_backlog() {
                return true;
            }
            let now = self.shared.io.now();
            self.lanes[lane].begin_flush(now);
            self.poll_lane(lane);
            if self.lanes[lane].is_flushing() {
                std::thread::sleep(NAP);
            }
        }
    }

    // ---- facts

    /// Appends a fact to every lane that can be written.
    ///
    /// # Errors
    /// It is in none.
    fn write_fact(
        &mut self,
        number: u64,
        record: &Arc<FactRecord>,
        delivery: Option<&Arc<Delivery>>,
    ) -> Result<(), StoreError> {
        let bytes = fact_record(record)?;
        let fact = LaneFact { record: Arc::clone(record), delivery: delivery.cloned(), leads: true };
        if !self.append_everywhere(number, &bytes, &fact) {
            return Err(self.no_volume());
        }
        if let Some(recording) = record.fact.recording().filter(|_| says_over(&record.fact)) {
            self.end(recording);
        }
        Ok(())
    }

    /// True when at least one lane has taken it.
    fn append_everywhere(&mut self, number: u64, bytes: &[u8], fact: &LaneFact) -> bool {
        let mut taken = false;
        for lane in 0..self.lanes.len() {
            if !self.make_room(lane, bytes.len()) {
                continue;
            }
            match self.journal(lane).append_raw(bytes) {
                Ok(located) => {
                    if let Some(delivery) = &fact.delivery {
                        delivery.await_lane(lane);
                    }
                    let leads = !std::mem::replace(&mut taken, true);
                    self.lanes[lane].push(number, located, What::Fact(LaneFact { leads, ..fact.clone() }));
                }
                Err(error) => self.fail(lane, &error),
            }
        }
        taken
    }

    /// Facts whose recordings' audio is durable now.
    fn release_held(&mut self) {
        if self.held.is_empty() {
            return;
        }
        let known = &self.known;
        let is_ready = |held: &Held| known.get(&held.recording).is_none_or(|known| known.outstanding == 0);
        let (ready, waiting): (VecDeque<_>, VecDeque<_>) =
            std::mem::take(&mut self.held).into_iter().partition(is_ready);
        self.held = waiting;
        for held in ready {
            match self.write_fact(held.number, &held.record, None) {
                Ok(()) => self.urgent = true,
                // Later.
                Err(_no_volume) => self.held.push_back(held),
            }
        }
    }

    fn take_submissions(&mut self) {
        for _ in 0..SUBMISSIONS_AT_ONCE {
            let Ok(submission) = self.submissions.try_recv() else { return };
            let record = match submission.fact {
                Submitted::New(fact) => FactRecord { sequence: self.draw_sequence(), fact },
                Submitted::Again(record) => record,
            };
            let number = self.draw_number();
            match self.write_fact(number, &Arc::new(record), submission.delivery.as_ref()) {
                Ok(()) => self.urgent = true,
                Err(error) => {
                    tracing::error!(%error, "a fact was not written");
                    let refusal = match error {
                        StoreError::Log(LogError::TooLong { .. }) => Refusal::TooLong,
                        _ => Refusal::NoVolume,
                    };
                    submission.delivery.inspect(|delivery| delivery.resolve(Err(refusal)));
                }
            }
        }
        // There may be more.
        self.urgent = true;
    }

    // ---- what becomes durable

    fn poll_lane(&mut self, lane: usize) {
        match self.lanes[lane].poll(false, lane) {
            Ok(Some(settled)) => {
                if self.lanes[lane].shared.fault() == VolumeState::Stalled {
                    self.lanes[lane].shared.set_fault(VolumeState::Ok);
                    tracing::warn!(volume = self.lanes[lane].shared.volume.number.0, "a volume answers again");
                }
                self.settle(lane, settled);
            }
            Ok(None) => self.look_for_stall(lane),
            Err(error) => self.fail(lane, &error),
        }
        // A new file could not be begun when an append wanted one.
        let Lane { shared, journal: Some(journal), .. } = &self.lanes[lane] else { return };
        if journal.has_failed() && shared.fault().takes_facts() {
            let path = shared.volume.journal();
            self.fail(lane, &LogError::Failed { path });
        }
    }

    pub(crate) fn settle(&mut self, lane: usize, settled: Settled) {
        self.gathered.chunks += settled.chunks.len() as u64;
        self.gathered.facts += settled.facts;
        self.gathered.bytes += settled.bytes;
        for recording in settled.chunks {
            if let Some(known) = self.known.get_mut(&recording) {
                known.outstanding -= 1;
                if known.over && known.outstanding == 0 {
                    self.drop_known(recording);
                }
            }
        }
        let after = self.told();
        self.lanes[lane].told = settled.to;
        self.send(
            lane,
            Batch {
                volume: self.lanes[lane].shared.volume.number,
                after,
                to: settled.to,
                changes: settled.changes,
                notes: settled.notes,
                deliveries: settled.deliveries,
            },
        );
    }

    fn told(&self) -> Vec<(VolumeNumber, LogPosition)> {
        self.lanes.iter().map(|lane| (lane.shared.volume.number, lane.told)).collect()
    }

    /// A recording's last fact is written.
    fn end(&mut self, recording: RecordingId) {
        if let Some(known) = self.known.get_mut(&recording) {
            known.over = true;
            if known.outstanding == 0 {
                self.drop_known(recording);
            }
        }
    }

    fn drop_known(&mut self, recording: RecordingId) {
        if let Some(known) = self.known.remove(&recording) {
            self.count_placed(known.lane, -1);
        }
    }

    /// Recordings whose end never came.
    fn forget(&mut self, now: CaptureTime) {
        if now.since(self.forgot_at) < FORGET_INTERVAL {
            self.forgot_at = self.forgot_at.min(now);
            return;
        }
        self.forgot_at = now;
        let is_stale = |known: &Known| known.outstanding == 0 && now.since(known.touched) > FORGET_AFTER;
        let stale: Vec<RecordingId> =
            self.known.iter().filter(|(_, known)| is_stale(known)).map(|(&recording, _)| recording).collect();
        for recording in stale {
            self.drop_known(recording);
        }
    }

    fn send(&mut self, lane: usize, batch: Batch) {
        let Some(batches) = &self.batches else { return };
        match batches.try_send(batch) {
            Ok(()) => {}
            Err(TrySendError::Full(batch)) => {
                self.statistics.batches_dropped += u64::from(!batch.changes.is_empty());
                self.lanes[lane].behind = true;
                self.lanes[lane].carried.extend(batch.deliveries);
            }
            Err(TrySendError::Disconnected(batch)) => {
                batch.deliveries.iter().for_each(|delivery| delivery.resolve(Err(Refusal::Closed)));
            }
        }
    }

    /// Tells the keeper of what it has missed, as soon as it has room.
    fn nudge(&mut self) {
        for lane in 0..self.lanes.len() {
            if !std::mem::take(&mut self.lanes[lane].behind) && self.lanes[lane].carried.is_empty() {
                continue;
            }
            let (volume, to) = (self.lanes[lane].shared.volume.number, self.lanes[lane].told);
            let deliveries = std::mem::take(&mut self.lanes[lane].carried);
            let changes = Changes::default();
            self.send(lane, Batch { volume, after: self.told(), to, changes, notes: Vec::new(), deliveries });
        }
    }

    // ---- volumes that fail

    fn look_for_stall(&mut self, lane: usize) {
        let Some(began) = self.lanes[lane].flush_began else { return };
        let shared = &self.lanes[lane].shared;
        let elapsed = self.shared.io.now().since(began);
        if elapsed < self.shared.options.limits.stall || shared.fault() == VolumeState::Stalled {
            return;
        }
        tracing::error!(
            volume = shared.volume.number.0,
            seconds = elapsed.as_secs_f64(),
            "a volume does not answer: others take its recordings until it does"
        );
        shared.set_fault(VolumeState::Stalled);
        shared.details().faults.stalled += 1;
        for (durable_on, delivery) in self.lanes[lane].stall(lane) {
            self.lanes[durable_on].carried.push(delivery);
        }
    }

    /// A journal has failed: what is not durable in it goes to the other lanes.
    fn fail(&mut self, lane: usize, error: &LogError) {
        let shared = &self.lanes[lane].shared;
        let state = shared.count_fault(error);
        shared.set_fault(state);
        shared.may_retry.store(false, Ordering::Release);
        tracing::error!(volume = shared.volume.number.0, %error, "a volume cannot be written: others take its recordings until it can");
        if !self.lanes[lane].journal.as_ref().is_some_and(Journal::has_failed) {
            return;
        }
        let (settled, left) = self.lanes[lane].give_up(lane);
        self.settle(lane, settled);
        self.stranded.extend(left);
        self.urgent = true;
    }

    /// Brings what volumes left to others, in order, as far as they take it.
    fn place_stranded(&mut self) {
        while let Some((item, record)) = self.stranded.pop_front() {
            let placed = match &item.what {
                What::Chunk(header) => self.place_stranded_chunk(&item, header.recording, &record),
                What::Fact(fact) => self.append_everywhere(item.number, &record, fact),
            };
            if !placed {
                self.stranded.push_front((item, record));
                return;
            }
            self.urgent = true;
        }
    }

    fn place_stranded_chunk(&mut self, item: &Item, recording: RecordingId, record: &[u8]) -> bool {
        // It was taken once: any lane that can be written at all will do.
        let writable = |lane: &Lane| lane.is_writable();
        let home = self.known.get(&recording).and_then(|known| known.lane);
        let home = home.filter(|&lane| writable(&self.lanes[lane]));
        let Some(lane) = home.or_else(|| self.lanes.iter().position(writable)) else { return false };
        if home.is_none() {
            self.assign(recording, lane, self.shared.io.now());
        }
        if !self.make_room(lane, record.len()) {
            return false;
        }
        match self.journal(lane).append_raw(record) {
            Ok(located) => {
                self.lanes[lane].push(item.number, located, item.what.clone());
                true
            }
            Err(error) => {
                self.fail(lane, &error);
                false
            }
        }
    }

    /// Volumes that the keeper could write to.
    fn retry_probed(&mut self) {
        for lane in 0..self.lanes.len() {
            if self.lanes[lane].shared.may_retry.swap(false, Ordering::AcqRel)
                && let Err(error) = self.retry(lane)
            {
                let shared = &self.lanes[lane].shared;
                shared.set_fault(shared.count_fault(&error));
                tracing::warn!(volume = shared.volume.number.0, %error, "a volume still cannot be written");
            }
        }
    }

    fn retry(&mut self, lane: usize) -> Result<(), LogError> {
        let Lane { shared, journal: Some(journal), .. } = &mut self.lanes[lane] else { return Ok(()) };
        if matches!(shared.fault(), VolumeState::Full | VolumeState::Failed) {
            journal.retry()?;
            shared.set_fault(VolumeState::Ok);
            tracing::warn!(volume = shared.volume.number.0, "a volume can be written again");
        }
        Ok(())
    }

    fn retry_all(&mut self) -> Result<(), StoreError> {
        let mut first = None;
        for lane in 0..self.lanes.len() {
            if let Err(error) = self.retry(lane) {
                first.get_or_insert(error);
            }
        }
        match first {
            _ if self.lanes.iter().any(Lane::is_writable) => Ok(()),
            Some(error) => Err(error.into()),
            None => Err(self.no_volume()),
        }
    }

    fn no_volume(&self) -> StoreError {
        StoreError::NoVolume { states: self.shared.states() }
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

/// A recording's fact that says that it is over.
fn says_over(fact: &Fact) -> bool {
    matches!(fact, Fact::Recording { recording, .. } if recording.state != RecordingState::Active)
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
