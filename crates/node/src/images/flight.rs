//! Single flight: equal work that is asked for several times at once is done
//! once; everybody follows its progress and gets its outcome. When the last
//! one who waits goes away, the work is cancelled.

use super::ImageError;
use super::record::{Phase, Progress};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use tokio::sync::watch;
use tokio::task::AbortHandle;

/// Where the work reports; everyone who waits sees the latest.
#[derive(Clone)]
pub(super) struct Reporter(watch::Sender<(Phase, u64, u64)>);

impl Reporter {
    pub(super) fn report(&self, phase: Phase, done: u64, total: u64) {
        self.0.send_replace((phase, done, total));
    }
}

struct Flight<T> {
    progress: watch::Receiver<(Phase, u64, u64)>,
    outcome: watch::Receiver<Option<Result<T, ImageError>>>,
    abort: AbortHandle,
    waiters: u32,
    number: u64,
}

struct Table<T> {
    flights: BTreeMap<String, Flight<T>>,
    next: u64,
}

pub(super) struct Flights<T>(Arc<Mutex<Table<T>>>);

impl<T> Default for Flights<T> {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Table { flights: BTreeMap::new(), next: 0 })))
    }
}

/// One who waits.
struct Seat<T> {
    table: Arc<Mutex<Table<T>>>,
    key: String,
    number: u64,
}

impl<T> Drop for Seat<T> {
    fn drop(&mut self) {
        let mut table = self.table.lock();
        let Some(flight) = table.flights.get_mut(&self.key).filter(|f| f.number == self.number) else { return };
        flight.waiters -= 1;
        if flight.waiters == 0 {
            flight.abort.abort();
            table.flights.remove(&self.key);
        }
    }
}

impl<T: Clone + Send + Sync + 'static> Flights<T> {
    /// Joins the work under `key`, or starts it.
    pub(super) async fn run<F, Fut>(&self, key: &str, progress: &Progress, work: F) -> Result<T, ImageError>
    where
        F: FnOnce(Reporter) -> Fut,
        Fut: Future<Output = Result<T, ImageError>> + Send + 'static,
    {
        let (seat, mut seen, mut outcome) = self.board(key, work);
        loop {
            tokio::select! {
                biased;
                done = outcome.wait_for(Option::is_some) => {
                    drop(seat);
                    // A sender that is gone without an outcome: it panicked.
                    let lost = || Err(ImageError::Converter("the work ended without an outcome".into()));
                    return done.ok().and_then(|o| o.clone()).unwrap_or_else(lost);
                }
                Ok(()) = seen.changed() => {
                    let (phase, done, total) = *seen.borrow_and_update();
                    progress.report(phase, done, total);
                }
            }
        }
    }

    #[allow(clippy::type_complexity, reason = "the two receivers of one flight")]
    fn board<F, Fut>(
        &self,
        key: &str,
        work: F,
    ) -> (Seat<T>, watch::Receiver<(Phase, u64, u64)>, watch::Receiver<Option<Result<T, ImageError>>>)
    where
        F: FnOnce(Reporter) -> Fut,
        Fut: Future<Output = Result<T, ImageError>> + Send + 'static,
    {
        let mut table = self.0.lock();
        let seat = |number| Seat { table: self.0.clone(), key: key.to_owned(), number };
        if let Some(flight) = table.flights.get_mut(key) {
            flight.waiters += 1;
            return (seat(flight.number), flight.progress.clone(), flight.outcome.clone());
        }
        let (progress_in, progress) = watch::channel((Phase::Resolve, 0, 0));
        let (outcome_in, outcome) = watch::channel(None);
        let number = table.next;
        table.next += 1;
        let future = work(Reporter(progress_in));
        let (leave_table, leave_key) = (self.0.clone(), key.to_owned());
        let task = tokio::spawn(async move {
            let result = future.await;
            // Whoever comes from now on starts anew: a tag may have moved.
            let mut table = leave_table.lock();
            if table.flights.get(&leave_key).is_some_and(|f| f.number == number) {
                table.flights.remove(&leave_key);
            }
            drop(table);
            outcome_in.send_replace(Some(result));
        });
        let flight = Flight {
            progress: progress.clone(),
            outcome: outcome.clone(),
            abort: task.abort_handle(),
            waiters: 1,
            number,
        };
        table.flights.insert(key.to_owned(), flight);
        (seat(number), progress, outcome)
    }
}
