//! Places for connections. Their number may change while they are taken.

use parking_lot::Mutex;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Cheap to clone; all clones share the places.
#[derive(Clone)]
pub(crate) struct Places {
    free: Arc<Semaphore>,
    /// How many there are, or will be once enough were given back.
    most: Arc<Mutex<usize>>,
}

impl Places {
    pub(crate) fn new(most: usize) -> Self {
        Self { free: Arc::new(Semaphore::new(most)), most: Arc::new(Mutex::new(most)) }
    }

    /// A place, if one is free.
    pub(super) fn try_take(&self) -> Option<OwnedSemaphorePermit> {
        self.free.clone().try_acquire_owned().ok()
    }

    /// Waits for a place; dropping it gives it back.
    pub(super) async fn take(&self) -> OwnedSemaphorePermit {
        self.free.clone().acquire_owned().await.expect("the semaphore is never closed")
    }

    /// Fewer places end no connection: those that are given back are not
    /// given out again until there are few enough.
    pub(crate) fn resize(&self, most: usize) {
        let mut now = self.most.lock();
        if most > *now {
            self.free.add_permits(most - *now);
        } else if let Ok(fewer @ 1..) = u32::try_from(*now - most) {
            let free = self.free.clone();
            // First in the queue: takes what is given back before new
            // connections do.
            tokio::spawn(async move {
                if let Ok(taken) = free.acquire_many_owned(fewer).await {
                    taken.forget();
                }
            });
        }
        *now = most;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn places_become_more_and_fewer() {
        let places = Places::new(2);
        let (first, second) = (places.take().await, places.take().await);
        let taken = |limit_ms| {
            let places = places.clone();
            async move { tokio::time::timeout(Duration::from_millis(limit_ms), places.take()).await.ok() }
        };
        assert!(taken(20).await.is_none(), "both are taken");
        places.resize(3);
        let third = taken(20_000).await.expect("a third place");
        places.resize(1);
        tokio::task::yield_now().await;
        drop((first, second));
        assert!(taken(20).await.is_none(), "one place, and it is taken");
        drop(third);
        let only = taken(20_000).await.expect("it was given back");
        assert!(taken(20).await.is_none());
        places.resize(2);
        assert!(taken(20_000).await.is_some());
        drop(only);
    }
}
