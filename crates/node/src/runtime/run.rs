//! A living VMM with its client and the tasks that watch it. Dropping it
//! ends the watching and leaves the VMM alone.

use super::Host;
use crate::channel::{ChannelError, GuestClient, wire};
use crate::engine::{Vmm, VmmExit};
use futures::StreamExt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

/// Facts wait here until the sandbox's task takes them in; a watcher that is
/// ahead waits.
const SIGNALS: usize = 16;
/// After the events' stream broke.
const EVENTS_PAUSE: Duration = Duration::from_secs(1);
/// One lost answer is no illness: an emulated guest under load is slow.
const HEALTH_MISSES: u32 = 2;
/// A guest that breaks the protocol all the time is not looked at all the time.
const BREACH_PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) enum Signal {
    /// The VMM ended.
    Ended(VmmExit),
    Guest(wire::Event),
    /// Why the guest is not well; none: it is. Told when it changes.
    Health(Option<String>),
}

pub(super) struct Run {
    pub(super) vmm: Arc<Vmm>,
    pub(super) client: GuestClient,
    signals: mpsc::Receiver<Signal>,
    sender: mpsc::Sender<Signal>,
    tasks: Vec<AbortOnDropHandle<()>>,
}

impl Drop for Run {
    fn drop(&mut self) {
        self.client.close();
    }
}

impl Run {
    /// Watches the process alone: the guest has not answered yet.
    pub(super) fn new(host: &Arc<Host>, vmm: Arc<Vmm>, client: GuestClient) -> Self {
        let (sender, signals) = mpsc::channel(SIGNALS);
        let watcher = {
            let (host, vmm, sender) = (host.clone(), vmm.clone(), sender.clone());
            async move {
                let exit = host.engine.wait(&vmm).await;
                // Nobody listens once the run was dropped.
                let _ = sender.send(Signal::Ended(exit)).await;
            }
        };
        Self { vmm, client, signals, sender, tasks: vec![spawn(watcher)] }
    }

    /// From now on also the guest's events and its health, of which this is
    /// known.
    pub(super) fn watch_guest(&mut self, host: &Arc<Host>, after: u64, well: bool) {
        self.tasks.push(spawn(watch_events(self.client.clone(), after, self.sender.clone())));
        let interval = host.config.health_interval;
        self.tasks.push(spawn(watch_health(self.client.clone(), interval, well, self.sender.clone())));
    }

    pub(super) async fn next(&mut self) -> Signal {
        match self.signals.recv().await {
            Some(signal) => signal,
            // We hold a sender ourselves.
            None => std::future::pending().await,
        }
    }
}

fn spawn(work: impl Future<Output = ()> + Send + 'static) -> AbortOnDropHandle<()> {
    AbortOnDropHandle::new(tokio::spawn(work))
}

async fn watch_events(client: GuestClient, mut after: u64, sender: mpsc::Sender<Signal>) {
    loop {
        let mut events = std::pin::pin!(client.events(after));
        while let Some(event) = events.next().await {
            match event {
                Ok(event) => {
                    after = event.sequence;
                    if sender.send(Signal::Guest(event)).await.is_err() {
                        return;
                    }
                }
                Err(e) => tracing::debug!(error = %e, "guest events"),
            }
        }
        tokio::time::sleep(EVENTS_PAUSE).await;
    }
}

async fn watch_health(client: GuestClient, interval: Duration, well: bool, sender: mpsc::Sender<Signal>) {
    let (mut misses, mut told) = if well { (0, State::Well) } else { (HEALTH_MISSES, State::Silent) };
    loop {
        tokio::select! {
            () = tokio::time::sleep(interval) => {}
            () = client.breached() => tokio::time::sleep(BREACH_PAUSE).await,
        }
        let answer = client.health_within(interval.max(Duration::from_secs(10))).await;
        misses = if answer.as_ref().is_ok_and(|h| h.healthy) { 0 } else { misses.saturating_add(1) };
        let (state, why) = judge(&answer, client.breach(), misses);
        if state != told {
            told = state;
            if sender.send(Signal::Health((state != State::Well).then_some(why))).await.is_err() {
                return;
            }
        }
    }
}

/// How a guest is; told when it changes, not with each other wording.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Well,
    /// It answers, and it lies or leaves calls open.
    Misbehaves,
    Silent,
    /// By its own account.
    Unwell,
    ProbeFails,
}

type Health = Result<wire::HealthResponse, ChannelError>;

fn judge(answer: &Health, breach: Option<String>, misses: u32) -> (State, String) {
    if let Some(why) = breach {
        return (State::Misbehaves, why);
    }
    match answer {
        // The guest has counted the probe's failures already.
        Ok(h) if h.probe == "unhealthy" => (State::ProbeFails, format!("the probe fails: {}", h.probe_message)),
        _ if misses < HEALTH_MISSES => (State::Well, String::new()),
        Ok(h) => (State::Unwell, format!("the guest says that it is not well: {}", h.message)),
        Err(error) => (State::Silent, error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_lost_answer_is_no_illness_and_one_lie_is() {
        let well = || Ok(wire::HealthResponse { healthy: true, ..Default::default() });
        let state = |answer: Health, breach: Option<&str>, misses| judge(&answer, breach.map(str::to_owned), misses).0;
        assert_eq!(state(well(), None, 0), State::Well);
        assert_eq!(state(Err(ChannelError::Timeout), None, 1), State::Well);
        assert_eq!(state(Err(ChannelError::Timeout), None, 2), State::Silent);
        assert_eq!(state(Ok(wire::HealthResponse::default()), None, 2), State::Unwell);
        assert_eq!(state(well(), Some("it lies"), 0), State::Misbehaves);
        let probe = |probe_message: &str| wire::HealthResponse {
            healthy: true,
            probe: "unhealthy".into(),
            probe_message: probe_message.into(),
            ..Default::default()
        };
        let (state, why) = judge(&Ok(probe("500")), None, 0);
        assert_eq!((state, why.as_str()), (State::ProbeFails, "the probe fails: 500"));
    }
}
