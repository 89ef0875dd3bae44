//! Taking over a sandbox that an earlier process of this node left. What
//! lives goes on; what was half begun is left to the policy, which undoes it.

use super::run::Run;
use super::sandbox::Sandbox;
use crate::channel::GuestClient;
use crate::engine::{ChannelToken, Vmm, VmmExit};
use crate::journal::Step;
use std::sync::Arc;
use std::time::Duration;

/// A living guest answers at once, even an emulated one; one that is busy
/// gets this long before it is adopted as unhealthy.
const ANSWER: Duration = Duration::from_secs(10);
/// Where its time is over before that.
const LEAST_ANSWER: Duration = Duration::from_millis(500);

impl Sandbox {
    /// Counts what the journal's row holds, before anything else may take it.
    pub(crate) fn claim(&self) {
        if let Some(slot) = self.row.slot {
            self.host.slots.take_exact(slot);
            self.host.ledger.count(&self.row.agent_id, self.row.memory_mb);
        }
        self.tell();
    }

    /// Looks at what the journal's row names. Changes nothing on the host
    /// but the resolver's sockets; the policy acts upon what is found.
    pub(crate) async fn adopt(&mut self) {
        if !matches!(self.row.step, Step::Identify | Step::Up | Step::Stopping) {
            return;
        }
        match self.find_vmm().await {
            Some(vmm) => self.take_over(Arc::new(vmm)).await,
            None => {
                self.died = Some(VmmExit { detail: "it ended while the node was down".into(), ..VmmExit::default() })
            }
        }
        self.tell();
    }

    async fn find_vmm(&self) -> Option<Vmm> {
        let identity = self.row.vmm.as_ref()?;
        match self.host.engine.adopt(identity).await {
            Ok(found) => found,
            Err(e) => {
                tracing::error!(agent = %self.agent_id(), error = %e, "the VMM cannot be looked at");
                None
            }
        }
    }

    async fn take_over(&mut self, vmm: Arc<Vmm>) {
        let policy = self.wish.borrow().assigned.spec.network;
        if let Some(slot) = self.row.slot {
            match self.host.network.adopt(slot, policy).await {
                Ok(true) => {}
                Ok(false) => tracing::error!(agent = %self.agent_id(), slot, "the network of a living sandbox is gone"),
                Err(e) => {
                    tracing::error!(agent = %self.agent_id(), slot, error = %e, "the network cannot be taken over")
                }
            }
        }
        // A restart may have come while the token was being renewed: the new
        // one is more often right, as the guest takes it before it answers.
        let tokens = [self.row.secrets.next_token.take(), self.row.secrets.token.take()];
        let tokens: Vec<ChannelToken> = tokens.into_iter().flatten().collect();
        // A run whose time is over does not live on by not answering.
        self.look_at_deadline();
        let left = self.deadline.map_or(Duration::MAX, |d| d.left(&*self.host.clock).max(LEAST_ANSWER));
        let limit = self.host.stretched(ANSWER).min(left) / u32::try_from(tokens.len().max(1)).unwrap_or(1);
        let mut found = None;
        for token in &tokens {
            let client = GuestClient::open(vmm.control_socket.clone(), vmm.data_socket.clone(), token.clone());
            let answered = client.wait_ready(limit).await;
            if answered.is_ok() {
                found = Some((client, token.clone()));
                break;
            }
            client.close();
        }
        let healthy = found.is_some();
        let (client, token) = match found {
            Some(found) => found,
            None => {
                let Some(token) = tokens.first().cloned() else { return self.lost(vmm, "it has no channel") };
                let client = GuestClient::open(vmm.control_socket.clone(), vmm.data_socket.clone(), token.clone());
                (client, token)
            }
        };
        if self.row.step == Step::Identify {
            match identified(&client, healthy).await {
                Some(true) => {
                    tracing::info!(agent = %self.agent_id(), "adopted: its guest has its identity");
                    self.row.step = Step::Up;
                    self.row.observed = aether_core::Observed::Running;
                    self.row.started_at = Some(self.host.clock.now());
                }
                // No user code ran: the policy undoes it and begins again.
                Some(false) => return self.row.step = Step::Guest,
                None => return self.lost(vmm, "its guest does not answer"),
            }
        }
        self.row.secrets.token = Some(token);
        let mut run = Run::new(&self.host, vmm, client);
        run.watch_guest(&self.host, self.row.guest_event, healthy);
        self.run = Some(run);
        if !healthy {
            tracing::warn!(agent = %self.agent_id(), "adopted, but its guest does not answer");
            self.status.send_modify(|s| s.unwell = Some("the guest does not answer".to_owned()));
        }
        if let Err(e) = self.host.journal.put(&self.row).await {
            tracing::error!(agent = %self.agent_id(), error = %e, "the adoption is not journaled");
        }
        tracing::info!(agent = %self.agent_id(), slot = ?self.row.slot, step = ?self.row.step, "adopted");
    }

    /// User code may have run, and nobody can tell: taken for dead; the
    /// policy kills what is left of it.
    fn lost(&mut self, vmm: Arc<Vmm>, why: &str) {
        tracing::warn!(agent = %self.agent_id(), pid = vmm.identity.pid, why, "not adopted");
        self.died = Some(VmmExit { detail: why.to_owned(), ..VmmExit::default() });
    }
}

async fn identified(client: &GuestClient, healthy: bool) -> Option<bool> {
    if !healthy {
        return None;
    }
    client.health().await.ok().map(|health| health.identified)
}
