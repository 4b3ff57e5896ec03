//! Facts from everybody but the engine: annotations, seals, the system clock's steps.
//!
//! Constraints: the way to the writer is a bounded queue. Who submits waits, if at all, on what the keeper resolves; the
//! writer waits for nobody.

use crate::shared::{Shared, lock};
use crate::{StoreError, StoreReader};
use sidetone_log::{Fact, FactRecord};
use std::sync::mpsc::{SyncSender, TrySendError};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Submits facts. Cheap to clone, for any thread.
#[derive(Clone)]
pub struct StoreHandle {
    pub(crate) shared: Arc<Shared>,
    pub(crate) reader: Arc<StoreReader>,
    pub(crate) submissions: SyncSender<Submission>,
}

/// What waits for the writer.
pub(crate) struct Submission {
    pub(crate) fact: Submitted,
    pub(crate) delivery: Option<Arc<Delivery>>,
}

pub(crate) enum Submitted {
    New(Fact),
    /// A fact that the log holds already, to be written again as it is.
    Again(FactRecord),
}

impl StoreHandle {
    /// Gives the writer a fact and does not wait.
    ///
    /// # Errors
    /// [`StoreError::Busy`] when the queue is full, [`StoreError::Closed`] when there is no writer any more.
    pub fn submit(&self, fact: Fact) -> Result<Receipt, StoreError> {
        let delivery = Arc::new(Delivery::new(None));
        self.send(Submission { fact: Submitted::New(fact), delivery: Some(Arc::clone(&delivery)) })?;
        Ok(Receipt { delivery })
    }

    pub fn reader(&self) -> &Arc<StoreReader> {
        &self.reader
    }

    pub(crate) fn send(&self, submission: Submission) -> Result<(), StoreError> {
        self.submissions.try_send(submission).map_err(|error| match error {
            TrySendError::Full(_) => StoreError::Busy,
            TrySendError::Disconnected(_) => StoreError::Closed,
        })
    }
}

/// For a fact that was submitted.
pub struct Receipt {
    pub(crate) delivery: Arc<Delivery>,
}

impl Receipt {
    /// Returns when the fact is durable and in the catalog.
    ///
    /// # Errors
    /// [`StoreError::TimedOut`]: it may be written yet. Other errors: it was not.
    pub fn wait(&self, timeout: Duration) -> Result<(), StoreError> {
        self.delivery.wait(timeout)
    }

    /// Whether it is over; `None` while it is not.
    pub fn outcome(&self) -> Option<Result<(), StoreError>> {
        let state = lock(&self.delivery.state);
        state.outcome.map(|outcome| outcome.map_err(Refusal::into))
    }
}

/// What becomes of one submitted fact.
pub(crate) struct Delivery {
    state: Mutex<DeliveryState>,
    changed: Condvar,
    /// Done with the outcome, by the one who resolves it.
    on_resolved: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

#[derive(Default)]
struct DeliveryState {
    /// Lanes whose flush it waits for.
    lanes: Vec<usize>,
    /// The last one that made it durable.
    durable_on: Option<usize>,
    outcome: Option<Result<(), Refusal>>,
}

/// Why a submitted fact was not written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Refusal {
    NoVolume,
    TooLong,
    Closed,
}

impl From<Refusal> for StoreError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::NoVolume => Self::NoVolume { states: Vec::new() },
            Refusal::TooLong => Self::BadAnnotation { what: "it is longer than a record may be".into() },
            Refusal::Closed => Self::Closed,
        }
    }
}

impl Delivery {
    pub(crate) fn new(on_resolved: Option<Box<dyn FnOnce() + Send>>) -> Self {
        Self { state: Mutex::default(), changed: Condvar::new(), on_resolved: Mutex::new(on_resolved) }
    }

    /// It waits for one lane more.
    pub(crate) fn await_lane(&self, lane: usize) {
        let mut state = lock(&self.state);
        if !state.lanes.contains(&lane) {
            state.lanes.push(lane);
        }
    }

    /// A lane has made it durable. True when it was the last one.
    pub(crate) fn lane_is_through(&self, lane: usize) -> bool {
        let mut state = lock(&self.state);
        let before = state.lanes.len();
        state.lanes.retain(|&awaited| awaited != lane);
        state.durable_on = Some(lane);
        before > 0 && state.lanes.is_empty()
    }

    /// A lane cannot be waited for. When it was the last one, tells which has made it durable; when none has, it waits all
    /// the same.
    pub(crate) fn excuse_lane(&self, lane: usize) -> Option<usize> {
        let mut state = lock(&self.state);
        if state.lanes == [lane] && state.durable_on.is_none() {
            return None;
        }
        let before = state.lanes.len();
        state.lanes.retain(|&awaited| awaited != lane);
        state.durable_on.filter(|_| before > 0 && state.lanes.is_empty())
    }

    /// A lane has failed, and will never make it durable. When it was the last one, tells which has.
    pub(crate) fn give_up_lane(&self, lane: usize) -> Option<usize> {
        let mut state = lock(&self.state);
        let before = state.lanes.len();
        state.lanes.retain(|&awaited| awaited != lane);
        state.durable_on.filter(|_| before > 0 && state.lanes.is_empty())
    }

    pub(crate) fn resolve(&self, outcome: Result<(), Refusal>) {
        {
            let mut state = lock(&self.state);
            if state.outcome.is_some() {
                return;
            }
            state.outcome = Some(outcome);
        }
        self.changed.notify_all();
        let on_resolved = lock(&self.on_resolved).take();
        if let Some(on_resolved) = on_resolved {
            on_resolved();
        }
    }

    pub(crate) fn wait(&self, timeout: Duration) -> Result<(), StoreError> {
        let deadline = Instant::now() + timeout;
        let mut state = lock(&self.state);
        loop {
            if let Some(outcome) = state.outcome {
                return outcome.map_err(Refusal::into);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(StoreError::TimedOut);
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}
