//! A living VMM with its client and the tasks that watch it. Dropping it
//! ends the watching and leaves the VMM alone.

use super::Host;
use crate::channel::{GuestClient, wire};
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

#[derive(Debug)]
pub(super) enum Signal {
    /// The VMM ended.
    Ended(VmmExit),
    Guest(wire::Event),
    /// Told when it changes.
    Healthy(bool),
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

    /// From now on also the guest's events and its health.
    pub(super) fn watch_guest(&mut self, host: &Arc<Host>, after: u64) {
        self.tasks.push(spawn(watch_events(self.client.clone(), after, self.sender.clone())));
        let interval = host.config.health_interval;
        self.tasks.push(spawn(watch_health(self.client.clone(), interval, self.sender.clone())));
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

async fn watch_health(client: GuestClient, interval: Duration, sender: mpsc::Sender<Signal>) {
    let (mut misses, mut healthy) = (0u32, true);
    loop {
        tokio::time::sleep(interval).await;
        let answer = client.health_within(interval.max(Duration::from_secs(10))).await;
        // The guest has counted the probe's failures already.
        let probed = answer.as_ref().is_ok_and(|h| h.probe == "unhealthy");
        misses = if answer.is_ok_and(|h| h.healthy) { 0 } else { misses.saturating_add(1) };
        let now = misses < HEALTH_MISSES && !probed;
        if now != healthy {
            healthy = now;
            if sender.send(Signal::Healthy(healthy)).await.is_err() {
                return;
            }
        }
    }
}
