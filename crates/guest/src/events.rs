//! What happened to the main process, for the host: kept so that a late or
//! reconnected caller gets what it has not seen.

use crate::{lock, sys};
use aether_proto::guest::aether::guest::v1::{__buffa::oneof::event::Event as Kind, Event};
use std::collections::VecDeque;
use std::sync::Mutex;
use tokio::sync::watch;

/// A restart storm must not grow us; the host is told of the newest.
const KEPT: usize = 256;

pub struct EventLog {
    events: Mutex<VecDeque<Event>>,
    /// The newest sequence; readers wake on it.
    newest: watch::Sender<u64>,
}

impl Default for EventLog {
    fn default() -> Self {
        Self { events: Mutex::default(), newest: watch::Sender::new(0) }
    }
}

impl EventLog {
    pub fn push(&self, kind: Kind) {
        let mut events = lock(&self.events);
        let sequence = *self.newest.borrow() + 1;
        let event = Event { sequence, time_ms: sys::unix_ms(), event: Some(kind), ..Default::default() };
        events.push_back(event);
        if events.len() > KEPT {
            events.pop_front();
        }
        self.newest.send_replace(sequence);
    }

    /// Those above `after`, oldest first.
    pub fn after(&self, after: u64) -> Vec<Event> {
        lock(&self.events).iter().filter(|event| event.sequence > after).cloned().collect()
    }

    pub fn watch(&self) -> watch::Receiver<u64> {
        self.newest.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aether_proto::guest::aether::guest::v1::MainStarted;

    #[test]
    fn numbered_from_one_and_bounded() {
        let log = EventLog::default();
        for pid in 0..300 {
            log.push(MainStarted { pid, ..Default::default() }.into());
        }
        let all = log.after(0);
        assert_eq!(all.len(), KEPT);
        assert_eq!(all.last().map(|event| event.sequence), Some(300));
        assert_eq!(log.after(299).len(), 1);
        assert_eq!(log.after(300).len(), 0);
    }
}
