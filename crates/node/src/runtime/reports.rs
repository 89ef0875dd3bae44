//! What the node has to tell: at least once, in order, with rising numbers.
//!
//! While a session lives, every move is queued for it. While none does,
//! nothing is: the next session begins with all that is. A report says what
//! is, not what happened: the store takes it from whatever it saw last.

use aether_core::{AgentId, Observed};
use aether_proto::node::AgentReport;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use tokio::sync::Notify;

/// A session that is this far behind starts over from the present state.
const MAX_PENDING: usize = 8192;

#[derive(Default)]
pub(crate) struct Reports {
    state: Mutex<State>,
    /// Wakes the session.
    news: Notify,
}

#[derive(Default)]
struct State {
    sequence: u64,
    connected: bool,
    pending: Vec<AgentReport>,
    latest: BTreeMap<AgentId, AgentReport>,
}

impl State {
    fn number(&mut self, mut report: AgentReport) -> AgentReport {
        self.sequence += 1;
        report.sequence = self.sequence;
        report
    }

    fn all(&mut self) -> Vec<AgentReport> {
        let latest: Vec<AgentReport> = self.latest.values().cloned().collect();
        latest.into_iter().map(|report| self.number(report)).collect()
    }
}

impl Reports {
    /// Tells an agent's present state. The same state again replaces what
    /// waits of it.
    pub(crate) fn tell(&self, agent: &AgentId, report: AgentReport) {
        let mut state = self.state.lock();
        state.latest.insert(agent.clone(), report.clone());
        queue(&mut state, report);
        drop(state);
        self.news.notify_one();
    }

    /// Tells that an agent is gone. It is not among the known ones any more;
    /// should this get lost, the next full set asks for it again.
    pub(crate) fn tell_gone(&self, agent: &AgentId, generation: u64) {
        let mut state = self.state.lock();
        state.latest.remove(agent);
        let gone = AgentReport {
            agent_id: agent.to_string(),
            generation,
            observed: Observed::Gone.as_str().to_owned(),
            ..AgentReport::default()
        };
        queue(&mut state, gone);
        drop(state);
        self.news.notify_one();
    }

    /// For the hello: every agent as it is.
    pub(crate) fn begin_session(&self) -> Vec<AgentReport> {
        let mut state = self.state.lock();
        state.connected = true;
        state.pending = state.all();
        drop(state);
        self.news.notify_one();
        self.state.lock().latest.values().cloned().collect()
    }

    pub(crate) fn end_session(&self) {
        let mut state = self.state.lock();
        state.connected = false;
        state.pending.clear();
    }

    /// What waits to be sent; returns when there is something.
    pub(crate) async fn next(&self) -> Vec<AgentReport> {
        loop {
            let pending = std::mem::take(&mut self.state.lock().pending);
            if !pending.is_empty() {
                return pending;
            }
            self.news.notified().await;
        }
    }
}

fn queue(state: &mut State, report: AgentReport) {
    if !state.connected {
        return;
    }
    let same = |r: &AgentReport| {
        (&r.agent_id, r.generation, &r.observed) == (&report.agent_id, report.generation, &report.observed)
    };
    let last = state.pending.iter().rposition(|r| r.agent_id == report.agent_id);
    if let Some(index) = last.filter(|index| same(&state.pending[*index])) {
        state.pending.remove(index);
    }
    if state.pending.len() >= MAX_PENDING {
        state.pending = state.all();
        return;
    }
    let report = state.number(report);
    state.pending.push(report);
}

#[cfg(test)]
mod tests {
    use super::*;
    use aether_core::source::OsRng;

    fn report(agent: &AgentId, observed: &str) -> AgentReport {
        AgentReport { agent_id: agent.to_string(), generation: 1, observed: observed.into(), ..Default::default() }
    }

    fn states(reports: &[AgentReport]) -> Vec<&str> {
        reports.iter().map(|r| r.observed.as_str()).collect()
    }

    #[tokio::test]
    async fn every_move_in_order_with_rising_numbers() {
        let (reports, a) = (Reports::default(), AgentId::generate("c0", &OsRng));
        assert!(reports.begin_session().is_empty());
        for state in ["creating", "creating", "running", "stopping", "stopped"] {
            reports.tell(&a, report(&a, state));
        }
        let sent = reports.next().await;
        assert_eq!(states(&sent), ["creating", "running", "stopping", "stopped"]);
        assert!(sent.windows(2).all(|w| w[0].sequence < w[1].sequence));
    }

    #[tokio::test]
    async fn a_new_session_gets_the_present_and_nothing_before_it() {
        let (reports, a) = (Reports::default(), AgentId::generate("c0", &OsRng));
        for state in ["creating", "running", "stopped"] {
            reports.tell(&a, report(&a, state));
        }
        assert_eq!(states(&reports.begin_session()), ["stopped"]);
        assert_eq!(states(&reports.next().await), ["stopped"]);
        reports.end_session();
        reports.tell_gone(&a, 2);
        assert!(reports.begin_session().is_empty());
        reports.tell_gone(&a, 2);
        assert_eq!(states(&reports.next().await), ["gone"]);
    }
}
