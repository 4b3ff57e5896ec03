//! A store being written as the engine does it: one thread appends, begins a flush at each cut and looks after it every 5 ms; the
//! keeper has a thread of its own.

use crate::calls::{CALL_LENGTH, CUT, CUT_TICKS, Calls};
use crate::measure::{Times, thread_cpu_seconds};
use anyhow::{Context, Result, anyhow};
use sidetone_log::format::CHUNK_PAYLOAD_OFFSET;
use sidetone_log::{ChunkHeader, Fact};
use sidetone_model::{CaptureTime, NodeName, Tick};
use sidetone_store::{
    AppendNumber, Keeper, KeeperStatistics, Receipt, Store, StoreError, StoreHandle, StoreOptions, StoreReader,
    StoreWriter,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How often the engine's writer looks after its store when nothing comes.
const IDLE: Duration = Duration::from_millis(5);
/// Between two beginnings of a flush.
const SPACING: Duration = Duration::from_millis(50);
/// Longer than any flush or catching up that is worth a figure.
const PATIENCE: Duration = Duration::from_secs(120);

/// The past that a store is filled with: calls have ended since, and journal files have gone.
const FILLED: Duration = Duration::from_secs(2 * CALL_LENGTH.as_secs());
/// A keeper at rest seals what is over within seconds.
const BEHIND: Duration = Duration::from_secs(30);

pub(crate) const KEEPER_THREAD: &str = "keeper";

pub(crate) fn store_options() -> StoreOptions {
    StoreOptions::new(NodeName("perf".into()))
}

/// The system's clock.
pub(crate) fn now() -> CaptureTime {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    CaptureTime(u64::try_from(since_epoch.as_nanos()).unwrap_or(u64::MAX))
}

/// The last cut before an instant.
pub(crate) fn cut_before(time: CaptureTime) -> Tick {
    Tick(time.tick().0 / CUT_TICKS * CUT_TICKS)
}

/// When calls begin that are to be as they are by now: [`Running::fill`].
pub(crate) fn fill_begin() -> Tick {
    cut_before(CaptureTime(now().0 - FILLED.as_nanos() as u64))
}

/// The side that appends.
pub(crate) struct Recorder {
    writer: StoreWriter,
    next: AppendNumber,
    /// What the flush in flight is for, and when it began.
    flight: Option<(AppendNumber, Instant)>,
    asked_at: Instant,
    pub(crate) tally: Tally,
}

/// What was appended and what became of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) chunks: u64,
    pub(crate) payload_bytes: u64,
    /// Of the whole records, without what fills them up to the next one.
    pub(crate) chunk_bytes: u64,
    pub(crate) facts: u64,
    /// Chunks and facts that the store did not take.
    pub(crate) refused: u64,
    pub(crate) durable_chunks: u64,
    /// From the beginning of a flush until everything before it was durable.
    pub(crate) flushes: Times,
    pub(crate) append_max: Duration,
}

impl Recorder {
    pub(crate) fn new(writer: StoreWriter) -> Self {
        let next = AppendNumber::default();
        Self { writer, next, flight: None, asked_at: Instant::now(), tally: Tally::default() }
    }

    pub(crate) fn append<'a>(
        &mut self,
        chunks: impl Iterator<Item = (ChunkHeader, &'a [u8])>,
        facts: Vec<Fact>,
    ) -> Result<()> {
        let started = Instant::now();
        for (header, payload) in chunks {
            let taken = self.writer.append_chunk(&header, payload);
            if self.count(taken)? {
                self.tally.chunks += 1;
                self.tally.payload_bytes += payload.len() as u64;
                self.tally.chunk_bytes += (CHUNK_PAYLOAD_OFFSET + payload.len()) as u64;
            }
        }
        for fact in facts {
            let taken = self.writer.append_fact(fact);
            self.tally.facts += u64::from(self.count(taken)?);
        }
        self.tally.append_max = self.tally.append_max.max(started.elapsed());
        Ok(())
    }

    fn count(&mut self, taken: Result<AppendNumber, StoreError>) -> Result<bool> {
        match taken {
            Ok(number) => {
                self.next = AppendNumber(number.0 + 1);
                Ok(true)
            }
            Err(StoreError::Log(error)) => Err(error).context("the store does not take what the engine would give it"),
            Err(_no_room) => {
                self.tally.refused += 1;
                Ok(false)
            }
        }
    }

    pub(crate) fn begin_flush(&mut self) {
        let began = self.flight.map_or_else(Instant::now, |(_, began)| began);
        self.flight = Some((self.next, began));
        self.ask();
    }

    fn ask(&mut self) {
        self.writer.begin_flush();
        self.asked_at = Instant::now();
    }

    pub(crate) fn poll(&mut self) {
        let durable = self.writer.poll();
        self.tally.durable_chunks += durable.chunks;
        let Some((wanted, began)) = self.flight else { return };
        if durable.before >= wanted {
            self.flight = None;
            self.tally.flushes.push(began.elapsed());
        } else if self.asked_at.elapsed() >= SPACING {
            // Some of it came while a flush was in flight.
            self.ask();
        }
    }

    /// Looks after the store until an instant, at least once.
    pub(crate) fn wait_until(&mut self, due: Instant) {
        loop {
            self.poll();
            let left = due.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            std::thread::sleep(left.min(IDLE));
        }
    }

    /// Looks after the store until what was appended is durable.
    pub(crate) fn settle(&mut self, nap: Duration) -> Result<()> {
        self.begin_flush();
        let began = Instant::now();
        while self.flight.is_some() {
            anyhow::ensure!(began.elapsed() < PATIENCE, "a flush does not end");
            self.poll();
            std::thread::sleep(nap);
        }
        Ok(())
    }

    /// Looks after the store until nothing is in flight, what others have appended included.
    pub(crate) fn finish_all(&mut self, nap: Duration) -> Result<()> {
        let began = Instant::now();
        loop {
            self.writer.begin_flush();
            self.poll();
            if self.writer.statistics().backlog == 0 {
                return Ok(());
            }
            anyhow::ensure!(began.elapsed() < PATIENCE, "a flush does not end");
            std::thread::sleep(nap);
        }
    }

    /// What was tallied since the last call.
    pub(crate) fn take_tally(&mut self) -> Tally {
        std::mem::take(&mut self.tally)
    }

    pub(crate) fn into_writer(self) -> StoreWriter {
        self.writer
    }
}

/// An open store with its keeper at work.
pub(crate) struct Running {
    pub(crate) recorder: Recorder,
    pub(crate) reader: Arc<StoreReader>,
    pub(crate) handle: StoreHandle,
    stop: Arc<AtomicBool>,
    keeper: JoinHandle<Keeper>,
}

impl Running {
    pub(crate) fn start(store: Store) -> Result<Self> {
        let (writer, mut keeper, reader, handle) = store.split();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let keeper = std::thread::Builder::new().name(KEEPER_THREAD.into()).spawn(move || {
            keeper.run(&stopped);
            keeper
        });
        let keeper = keeper.context("cannot start the keeper's thread")?;
        Ok(Self { recorder: Recorder::new(writer), reader, handle, stop, keeper })
    }

    /// Waits until the catalog has everything that was appended; tells how long that took.
    pub(crate) fn settle(&mut self) -> Result<Duration> {
        self.recorder.settle(Duration::from_millis(1))?;
        let began = Instant::now();
        let receipt = self.mark()?;
        loop {
            self.recorder.poll();
            if let Some(outcome) = receipt.outcome() {
                outcome.context("a fact did not get into the catalog")?;
                return Ok(began.elapsed());
            }
            anyhow::ensure!(began.elapsed() < PATIENCE, "the catalog does not catch up");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Gives the store everything there is of calls that began at [`fill_begin`] one after the other, as fast as it takes it,
    /// and waits until what is over is sealed. Gives the cut at which it is then: from there on as much audio is sealed
    /// as comes in, and as many journal files go as are begun.
    pub(crate) fn fill(&mut self, calls: &mut Calls) -> Result<Tick> {
        let until = cut_before(now());
        let cuts = (FILLED.as_nanos() / CUT.as_nanos()) as u64;
        for step in (0..cuts).rev() {
            let cut = Tick(until.0 - step * CUT_TICKS);
            let facts = calls.facts(0..calls.len(), cut);
            self.recorder.append(calls.chunks(0..calls.len(), cut), facts)?;
            self.recorder.begin_flush();
            self.recorder.poll();
        }
        self.settle()?;
        let began = Instant::now();
        let behind =
            |keeper: &KeeperStatistics| Duration::from_secs(keeper.unsealed_seconds_max) > CALL_LENGTH + BEHIND;
        while self.keeper()?.pending_recordings == 0 || behind(&self.keeper()?) {
            anyhow::ensure!(began.elapsed() < PATIENCE, "the keeper does not seal what is over");
            self.recorder.wait_until(Instant::now() + Duration::from_millis(100));
        }
        Ok(cut_before(now()))
    }

    pub(crate) fn keeper(&self) -> Result<KeeperStatistics> {
        Ok(self.reader.statistics()?.keeper.unwrap_or_default())
    }

    /// Calls in real time: everything that ends at a cut at once, then a flush. Gives the last cut, and the CPU seconds that
    /// making the documents took.
    pub(crate) fn record(&mut self, calls: &mut Calls, mut cut: Tick, cuts: u32) -> Result<(Tick, f64)> {
        let began = Instant::now();
        let mut making = 0.0;
        for step in 1..=cuts {
            cut = Tick(cut.0 + CUT_TICKS);
            let making_began = thread_cpu_seconds();
            let facts = calls.facts(0..calls.len(), cut);
            making += thread_cpu_seconds() - making_began;
            self.recorder.append(calls.chunks(0..calls.len(), cut), facts)?;
            self.recorder.begin_flush();
            self.recorder.wait_until(began + CUT * step);
        }
        Ok((cut, making))
    }

    fn mark(&self) -> Result<Receipt> {
        Ok(self.handle.submit(Fact::Clock { at: now(), stepped_seconds: 0.0 })?)
    }

    pub(crate) fn close(self) -> Result<()> {
        self.stop.store(true, Ordering::Release);
        let keeper = self.keeper.join().map_err(|_panic| anyhow!("the keeper's thread panicked"))?;
        Ok(keeper.close(self.recorder.into_writer())?)
    }
}
