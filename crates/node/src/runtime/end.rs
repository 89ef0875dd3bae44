//! How a run ends: stopped, dead, undone or erased. Each ends in `free_run`,
//! which may be repeated at any point, and which gives a slot back only once
//! the process that had it is gone.

use super::failure;
use super::policy::StopReason;
use super::run::Signal;
use super::sandbox::{Fault, Sandbox};
use crate::engine::VmmExit;
use crate::failpoint::step;
use crate::journal::Step;
use aether_core::api::failure as code;
use aether_core::{Desired, Observed};
use std::path::Path;
use std::time::Duration;

/// Beyond the grace: for the guest to sync and power off.
const POWER_OFF: Duration = Duration::from_secs(2);
const LONGEST_POWER_OFF: Duration = Duration::from_secs(3);
/// A time to live is a bound: what is left of the run ends within 5 s, its
/// last lines, the grace and the power-off together.
const EXPIRED_LOGS: Duration = Duration::from_secs(1);
const EXPIRED_GRACE: Duration = Duration::from_secs(2);
const EXPIRED_POWER_OFF: Duration = Duration::from_secs(1);

/// How the waiting for a guest's end went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    /// It ended, or its time is over: what is left is killed.
    Over,
    NodeEnds,
}

impl Sandbox {
    /// Asks the guest to end, then kills. The disk stays.
    pub(super) async fn stop(&mut self, reason: StopReason) -> Result<(), Fault> {
        let wish = self.wish.borrow_and_update().assigned.clone();
        let grace = match reason {
            StopReason::MainEnded => self.host.config.destroy_grace,
            StopReason::Expired => self.host.config.stop_timeout.min(EXPIRED_GRACE),
            StopReason::Asked if wish.force => Duration::ZERO,
            StopReason::Asked if wish.stop_timeout_ms > 0 => Duration::from_millis(wish.stop_timeout_ms),
            StopReason::Asked => self.host.config.stop_timeout,
        };
        tracing::info!(agent = %self.agent_id(), ?reason, grace_ms = grace.as_millis(), "stopping");
        let (logs, power_off) = match reason {
            StopReason::Expired => (EXPIRED_LOGS, EXPIRED_POWER_OFF),
            _ => (super::logs::LIMIT, self.power_off()),
        };
        // A stop never fails for its logs.
        let _ = step!("stop.keep_logs", async {
            self.keep_logs(logs).await;
            Ok::<_, Fault>(())
        })
        .await;
        self.row.generation = self.row.generation.max(wish.generation);
        self.row.step = Step::Stopping;
        self.row.observed = Observed::Stopping;
        step!("stop.note_begin", self.save()).await?;
        if self.end_guest(grace, power_off, true).await == Ended::NodeEnds {
            // The journal says stopping: the next start goes on with it.
            return Ok(());
        }
        self.free_run().await?;
        self.rest_stopped().await
    }

    /// The VMM ended unasked, or while it was being stopped.
    pub(super) async fn take_in_death(&mut self) -> Result<(), Fault> {
        let exit = self.died.clone().unwrap_or_default();
        if self.row.step == Step::Stopping {
            // It was told to end, by us or by an earlier process.
            self.free_run().await?;
            return self.rest_stopped().await;
        }
        let wanted = self.wish.borrow_and_update().assigned.generation;
        self.row.generation = self.row.generation.max(wanted);
        let died = || failure::died(&exit, code::SANDBOX_DIED, "The sandbox ended unexpectedly");
        let failure = self.failing.take().unwrap_or_else(died);
        self.fail(failure).await
    }

    async fn rest_stopped(&mut self) -> Result<(), Fault> {
        let out_of_memory = self.row.outcome.error_code == code::OUT_OF_MEMORY;
        self.row.step = Step::Idle;
        self.row.observed = if out_of_memory { Observed::Failed } else { Observed::Stopped };
        self.row.settled = self.row.generation;
        self.row.stopped_at = Some(self.host.clock.now());
        self.main_ended = false;
        step!("stop.note_end", self.save()).await
    }

    /// Frees what an interrupted boot left. It is begun again if it is still
    /// wanted: no user code ran.
    pub(super) async fn undo(&mut self) -> Result<(), Fault> {
        self.free_run().await?;
        self.row.step = Step::Idle;
        self.drop_unused().await?;
        step!("undo.note", self.host.journal.put(&self.row)).await?;
        Ok(())
    }

    /// Ends and erases everything. Needs no slot, no image, no answer.
    pub(super) async fn destroy(&mut self) -> Result<(), Fault> {
        let wanted = self.wish.borrow_and_update().assigned.generation;
        self.row.generation = self.row.generation.max(wanted);
        let told_guest = matches!(self.row.step, Step::Up | Step::Stopping);
        self.row.step = Step::Erasing;
        if matches!(self.row.observed, Observed::Creating | Observed::Running) {
            self.row.observed = Observed::Stopping;
        }
        step!("destroy.note_begin", self.save()).await?;
        let grace = if told_guest { self.host.config.destroy_grace } else { Duration::ZERO };
        self.end_guest(grace, self.power_off(), false).await;
        self.free_run().await?;
        // Held or not: releasing is safe to repeat.
        if let Some(held) = &self.row.image {
            step!("destroy.release_image", async {
                self.host.images.release(&held.digest, &self.row.agent_id);
                Ok::<_, Fault>(())
            })
            .await?;
        }
        if let Some(disk) = &self.row.disk {
            step!("destroy.remove_disk", async { remove_file(&disk.path) })
                .await
                .map_err(|source| Fault::Remove { what: "the agent's disk", source })?;
        }
        step!("destroy.remove_logs", async { self.erase_logs() })
            .await
            .map_err(|source| Fault::Remove { what: "the agent's logs", source })?;
        let (agent, now) = (&self.row.agent_id, self.host.clock.now());
        step!("destroy.bury", self.host.journal.bury(agent, self.row.generation, now)).await?;
        tracing::info!(agent = %self.agent_id(), "gone");
        self.host.reports.tell_gone(&self.row.agent_id, self.row.generation);
        self.gone = true;
        Ok(())
    }

    fn power_off(&self) -> Duration {
        self.host.stretched(POWER_OFF).min(LONGEST_POWER_OFF)
    }

    /// Lets the guest end by itself within `grace`; returns in any case. A
    /// harder wish that comes meanwhile cuts it short.
    async fn end_guest(&mut self, grace: Duration, power_off: Duration, stopping: bool) -> Ended {
        if grace.is_zero() || self.died.is_some() {
            return Ended::Over;
        }
        let Some(run) = self.run.as_mut() else { return Ended::Over };
        let client = run.client.clone();
        let shutdown = tokio::spawn(async move { step!("end.ask_guest", client.shutdown(grace)).await });
        let mut shutdown = tokio_util::task::AbortOnDropHandle::new(shutdown);
        let limit = tokio::time::sleep(grace + power_off);
        tokio::pin!(limit);
        let mut wish = self.wish.clone();
        let mut answered = false;
        let shutdown_of_node = self.host.shutdown.clone();
        loop {
            let Some(run) = self.run.as_mut() else { return Ended::Over };
            tokio::select! {
                signal = run.next() => {
                    if let Signal::Ended(exit) = signal {
                        self.died = Some(exit);
                        return Ended::Over;
                    }
                    if let Err(fault) = self.take_in(signal).await {
                        tracing::warn!(error = %fault, "a guest event was not journaled");
                    }
                }
                answer = &mut shutdown, if !answered => {
                    answered = true;
                    if let Ok(Ok(answer)) = answer
                        && self.row.outcome.exit_code.is_none()
                        && self.row.outcome.exit_signal.is_none()
                    {
                        self.row.outcome.exit_code = answer.main_exit_code;
                        self.row.outcome.exit_signal = answer.main_signal.map(|s| s.chars().take(16).collect());
                    }
                }
                () = harder(&mut wish), if stopping => return Ended::Over,
                () = shutdown_of_node.cancelled(), if stopping => return Ended::NodeEnds,
                () = &mut limit => return Ended::Over,
            }
        }
    }

    /// Gives back what a run holds on the host: first the process, then
    /// what was its. Safe to repeat.
    pub(super) async fn free_run(&mut self) -> Result<(), Fault> {
        let engine = self.host.engine.clone();
        if let Some(identity) = self.row.vmm.clone() {
            let vmm = match &self.run {
                Some(run) => Some(run.vmm.clone()),
                None => engine.adopt(&identity).await?.map(std::sync::Arc::new),
            };
            if let Some(vmm) = vmm {
                let exit: VmmExit = step!("end.kill", engine.kill(&vmm, self.host.config.kill_limit)).await?;
                tracing::debug!(agent = %self.agent_id(), ?exit, "the VMM is gone");
                // Until all is freed: a try that fails must not look like a boot that was cut short.
                self.died.get_or_insert(exit);
            }
        }
        // Drops the channel and the watchers: their process is gone.
        self.run = None;
        self.status.send_modify(|s| (s.client, s.vmm) = (None, None));
        if let Some(slot) = self.row.slot {
            // A process whose start was not journaled is found by its uid.
            step!("end.reap", engine.reap(slot)).await?;
            step!("end.release_slot", self.host.network.release(slot)).await?;
            // Ours again only once that is durable: a try that fails is repeated.
            let mut freed = self.row.clone();
            freed.slot = None;
            freed.vmm = None;
            (freed.secrets.token, freed.secrets.next_token) = (None, None);
            step!("end.note_free", self.host.journal.put(&freed)).await?;
            self.row = freed;
            self.host.slots.free(slot);
        }
        self.died = None;
        self.host.ledger.release(&self.row.agent_id);
        Ok(())
    }
}

/// Returns when the wish turns to kill at once, or to erase.
async fn harder(wish: &mut tokio::sync::watch::Receiver<super::wish::Wish>) {
    loop {
        {
            let now = wish.borrow_and_update();
            let forced = now.assigned.force && now.assigned.desired == Desired::Stopped;
            if forced || now.assigned.desired == Desired::Gone {
                return;
            }
        }
        if wish.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// A file that is not there is removed.
pub(super) fn remove_file(path: &Path) -> std::io::Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}
