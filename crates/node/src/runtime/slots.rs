//! Which slot numbers are taken. A slot stands for a uid, a cgroup, a jail
//! folder and a network namespace: it has one owner at a time.

use parking_lot::Mutex;
use std::collections::BTreeSet;

pub(crate) struct Slots {
    limit: u32,
    taken: Mutex<BTreeSet<u32>>,
}

impl Slots {
    pub(crate) fn new(limit: u32) -> Self {
        Self { limit, taken: Mutex::default() }
    }

    /// A free slot, one of `ready` if there is any; none when all are taken.
    pub(crate) fn take(&self, ready: &[u32]) -> Option<u32> {
        let mut taken = self.taken.lock();
        let free = |slot: &u32| *slot < self.limit && !taken.contains(slot);
        let slot = ready.iter().copied().find(free).or_else(|| (0..self.limit).find(free))?;
        taken.insert(slot);
        Some(slot)
    }

    /// This very slot; false when it is taken.
    pub(crate) fn take_exact(&self, slot: u32) -> bool {
        self.taken.lock().insert(slot)
    }

    pub(crate) fn free(&self, slot: u32) {
        self.taken.lock().remove(&slot);
    }

    pub(crate) fn taken(&self) -> BTreeSet<u32> {
        self.taken.lock().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_ones_first_and_none_twice() {
        let slots = Slots::new(3);
        assert_eq!(slots.take(&[7, 2]), Some(2));
        assert_eq!(slots.take(&[2]), Some(0));
        assert!(!slots.take_exact(0));
        assert_eq!(slots.take(&[]), Some(1));
        assert_eq!(slots.take(&[2]), None);
        slots.free(2);
        assert_eq!(slots.take(&[]), Some(2));
        assert_eq!(slots.taken(), BTreeSet::from([0, 1, 2]));
    }
}
