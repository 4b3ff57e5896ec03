//! Calls that block (the store), a bounded number at a time.

use crate::problem::{Problem, ProblemKind};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

/// The longest wait for room: who waits longer has left or should.
const ROOM_TIMEOUT: Duration = Duration::from_secs(10);

/// The way into tokio's blocking threads.
#[derive(Clone)]
pub(crate) struct Blocking(Arc<Semaphore>);

impl Blocking {
    /// Lets so many calls run at once.
    pub(crate) fn new(concurrent: usize) -> Self {
        Self(Arc::new(Semaphore::new(concurrent)))
    }

    /// Runs `work` on a blocking thread once there is room; a panic in it is this request's failure alone. When the
    /// caller goes away, work that has begun still runs to its end, and keeps its place until then.
    pub(crate) async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Problem> {
        let room =
            tokio::time::timeout(ROOM_TIMEOUT, Arc::clone(&self.0).acquire_owned()).await.map_err(|_elapsed| {
                tracing::warn!("the API's reads of the store have taken all their places for {ROOM_TIMEOUT:?}");
                Problem::new(ProblemKind::Busy, "the store answers too slowly for all who ask")
                    .remedy("try again; when it lasts, look at the disk and at the log")
            })?;
        let permit = room.map_err(|error| Problem::internal(&error))?;
        tokio::task::spawn_blocking(move || {
            let _permit = permit;
            work()
        })
        .await
        .map_err(|error| Problem::internal(&error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[tokio::test]
    async fn work_is_bounded_and_its_panics_stay_with_it() {
        let blocking = Blocking::new(2);
        assert!(blocking.run(|| panic!("on purpose")).await.is_err());
        let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let mut all = tokio::task::JoinSet::new();
        for _ in 0..10 {
            let (blocking, running, most) = (blocking.clone(), Arc::clone(&running), Arc::clone(&most));
            all.spawn(async move {
                let work = move || {
                    most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    std::thread::sleep(Duration::from_millis(20));
                    running.fetch_sub(1, Ordering::SeqCst);
                };
                blocking.run(work).await.is_ok()
            });
        }
        assert!(all.join_all().await.into_iter().all(|done| done));
        assert_eq!(most.load(Ordering::SeqCst), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_too_long_for_room_is_told() {
        let blocking = Blocking::new(0);
        assert!(blocking.run(|| ()).await.is_err());
    }
}
