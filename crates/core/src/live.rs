//! A value that is replaced while others read it: settings that a running
//! server takes anew. Readers see the old or the new one, never a mixture,
//! and keep what they have got for as long as they hold it.

use std::sync::{Arc, PoisonError, RwLock};

/// Cheap to clone; all clones are one value.
#[derive(Debug, Default)]
pub struct Live<T>(Arc<RwLock<Arc<T>>>);

impl<T> Clone for Live<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Live<T> {
    pub fn new(value: T) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(value))))
    }

    /// What is in force now.
    pub fn get(&self) -> Arc<T> {
        // Nothing can panic while the lock is held: the value is whole.
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn set(&self, value: T) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_see_the_new_value_and_holders_keep_the_old() {
        let live = Live::new(1);
        let (other, held) = (live.clone(), live.get());
        live.set(2);
        assert_eq!((*other.get(), *held), (2, 1));
    }
}
