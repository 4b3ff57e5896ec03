//! Calls that block (the store), a bounded number at a time.

use crate::problem::Problem;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// Reads of the store that may run at once: enough to keep a disk busy, few enough to leave memory and the cores alone.
const CONCURRENT_READS: usize = 8;

/// The way into tokio's blocking threads.
#[derive(Clone)]
pub(crate) struct Blocking(Arc<Semaphore>);

impl Blocking {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Semaphore::new(CONCURRENT_READS)))
    }

    /// Runs `work` on a blocking thread once there is room; a panic in it is this request's failure alone. When the
    /// caller goes away, work that has begun still runs to its end, and keeps its place until then.
    pub(crate) async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Problem> {
        let permit = Arc::clone(&self.0).acquire_owned().await.map_err(|error| Problem::internal(&error))?;
        tokio::task::spawn_blocking(move || {
            let _permit = permit;
            work()
        })
        .await
        .map_err(|error| Problem::internal(&error))
    }
}
