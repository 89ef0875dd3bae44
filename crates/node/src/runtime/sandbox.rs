//! One agent's task: the only owner of its row, its run and its status.

use super::Host;
use super::deadline::{Deadline, effective};
use super::policy::{Action, Facts, Live, Rest, decide};
use super::run::{Run, Signal};
use super::wish::Wish;
use crate::channel::{EventKind, GuestClient};
use crate::engine::Vmm;
use crate::failpoint::step;
use crate::journal::{JournalError, SandboxRow, Step};
use aether_core::{AgentId, Desired, Observed};
use aether_proto::node::AgentReport;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Between two tries of something that must not fail for ever.
const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_LAST: Duration = Duration::from_secs(10);

/// What others may know of a sandbox. Written by its task; read by the data
/// service.
#[derive(Clone, Debug)]
pub(crate) struct Status {
    pub observed: Observed,
    /// While the guest has its identity.
    pub client: Option<GuestClient>,
    pub vmm: Option<Arc<Vmm>>,
    pub slot: Option<u32>,
    /// Why the guest is not well; bounded, for it may have written it.
    pub unwell: Option<String>,
}

impl Status {
    pub(crate) fn of(row: &SandboxRow) -> Self {
        Self { observed: row.observed, client: None, vmm: None, slot: row.slot, unwell: None }
    }
}

/// Something on the host that would not be removed, or a journal that would
/// not be written: tried again until it works.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error(transparent)]
    Engine(#[from] crate::engine::EngineError),
    #[error(transparent)]
    Network(#[from] crate::network::NetworkError),
    #[error("cannot remove {what}: {source}")]
    Remove { what: &'static str, source: std::io::Error },
}

pub(crate) struct Sandbox {
    pub(super) host: Arc<Host>,
    pub(super) row: SandboxRow,
    pub(super) wish: watch::Receiver<Wish>,
    pub(super) status: watch::Sender<Status>,
    pub(super) run: Option<Run>,
    /// The VMM ended, and what it held is not all freed.
    pub(super) died: Option<crate::engine::VmmExit>,
    /// A run is ending as failed for this.
    pub(super) failing: Option<super::failure::Failure>,
    pub(super) main_ended: bool,
    pub(super) deadline: Option<Deadline>,
    pub(super) queue_position: u32,
    pub(super) gone: bool,
}

impl Sandbox {
    pub(crate) fn new(
        host: Arc<Host>,
        row: SandboxRow,
        wish: watch::Receiver<Wish>,
        status: watch::Sender<Status>,
    ) -> Self {
        Self {
            host,
            row,
            wish,
            status,
            run: None,
            died: None,
            failing: None,
            main_ended: false,
            deadline: None,
            queue_position: 0,
            gone: false,
        }
    }

    pub(crate) fn agent_id(&self) -> &AgentId {
        &self.row.agent_id
    }

    pub(crate) fn latest_wish(&self) -> Wish {
        self.wish.borrow().clone()
    }

    /// After it was gone, a newer generation is wanted: from nothing.
    pub(crate) fn begin_anew(self) -> Self {
        let row = SandboxRow::new(self.row.agent_id.clone(), self.row.tenant_id.clone());
        Self::new(self.host, row, self.wish, self.status)
    }

    /// Works until the agent is gone, or until the node ends: then the
    /// sandbox lives on. Answers the generation at which it became gone.
    pub(crate) async fn work(&mut self) -> Option<u64> {
        let mut pause = RETRY_FIRST;
        // An action that failed may have changed the row without having noted it.
        let mut noted = true;
        while !self.host.shutdown.is_cancelled() {
            noted &= !self.look_at_deadline();
            let action = decide(&self.facts());
            tracing::debug!(agent = %self.agent_id(), ?action, "next");
            let done = match action {
                Action::Rest(_) if !noted => step!("rest.note", self.save()).await,
                Action::Rest(why) => self.rest(why).await,
                Action::Boot => self.boot().await,
                Action::Stop(reason) => self.stop(reason).await,
                Action::Bury => self.take_in_death().await,
                Action::Undo => self.undo().await,
                Action::Settle => self.settle().await,
                Action::Destroy => self.destroy().await,
            };
            noted = done.is_ok();
            match done {
                Ok(()) => pause = RETRY_FIRST,
                Err(fault) => {
                    tracing::error!(agent = %self.agent_id(), ?action, error = %fault, "failed; trying again");
                    tokio::select! {
                        () = tokio::time::sleep(pause) => {}
                        () = self.host.shutdown.cancelled() => {}
                    }
                    pause = (pause * 2).min(RETRY_LAST);
                }
            }
            if self.gone {
                return Some(self.row.generation);
            }
        }
        self.leave().await;
        None
    }

    /// The daemon ends: a run that is up lives on, one that is half begun is
    /// undone while we are here.
    async fn leave(&mut self) {
        self.run = None;
        if (Step::Image..=Step::Guest).contains(&self.row.step)
            && let Err(fault) = self.undo().await
        {
            tracing::warn!(agent = %self.agent_id(), error = %fault, "a boot is left for the next start to undo");
        }
    }

    /// Marks the wish as seen: one that comes after this wakes `rest`.
    fn facts(&mut self) -> Facts {
        let wish = self.wish.borrow_and_update();
        let live = match (&self.run, &self.died) {
            (_, Some(_)) => Live::Died,
            (Some(_), None) => Live::Alive,
            (None, None) => Live::None,
        };
        Facts {
            desired: wish.assigned.desired,
            generation: wish.assigned.generation,
            env_known: wish.env.is_some(),
            settled: self.row.settled,
            observed: self.row.observed,
            step: self.row.step,
            live,
            holds_run: self.row.holds_run(),
            main_ended: self.main_ended,
            expired: self.deadline.is_some_and(|d| d.passed(&*self.host.clock)),
        }
    }

    /// Keeps the deadline in step with the wish, which may move it; true when
    /// it is another one, to be noted.
    pub(super) fn look_at_deadline(&mut self) -> bool {
        let runs = matches!(self.row.step, Step::Up | Step::Stopping);
        let at = self.row.started_at.filter(|_| runs).and_then(|started| {
            let wish = self.wish.borrow();
            effective(started, wish.assigned.expires_at, wish.assigned.spec.ttl_s)
        });
        if self.deadline.map(|d| d.at()) != at {
            self.deadline = at.map(|at| Deadline::new(at, self.row.ends, &*self.host.clock));
        }
        let ends = self.deadline.map(|d| d.noted());
        std::mem::replace(&mut self.row.ends, ends) != ends
    }

    /// Nothing to do: says so where a newer generation asks for what is, then
    /// waits for a fact to change.
    async fn rest(&mut self, why: Rest) -> Result<(), Fault> {
        let generation = self.wish.borrow().assigned.generation;
        if why == Rest::AsWanted && generation > self.row.generation {
            self.row.generation = generation;
            step!("rest.note_generation", self.save()).await?;
        }
        let look = self.deadline.map(|d| d.next_look(&*self.host.clock));
        let look = async {
            match look {
                Some(look) => tokio::time::sleep(look).await,
                None => std::future::pending().await,
            }
        };
        let signal = async {
            match self.run.as_mut() {
                Some(run) => run.next().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = self.wish.changed() => {
                if changed.is_err() {
                    // The supervisor is gone, so the node ends.
                    self.host.shutdown.cancelled().await;
                }
            }
            signal = signal => self.take_in(signal).await?,
            () = look => {}
            () = self.host.shutdown.cancelled() => {}
        }
        Ok(())
    }

    /// A fact from the run's watchers.
    pub(super) async fn take_in(&mut self, signal: Signal) -> Result<(), Fault> {
        match signal {
            Signal::Ended(exit) => self.died = Some(exit),
            Signal::Health(unwell) => {
                tracing::info!(agent = %self.agent_id(), why = unwell.as_deref().unwrap_or("well"), "the guest's health");
                self.status.send_modify(|s| s.unwell = unwell);
                self.tell();
            }
            Signal::Guest(event) => {
                self.row.guest_event = event.sequence;
                match event.event {
                    Some(EventKind::MainStarted(started)) => self.row.restarts = started.restarts,
                    Some(EventKind::MainExited(exited)) if !exited.will_restart => {
                        self.main_ended = true;
                        self.row.outcome.exit_code = exited.exit_code;
                        self.row.outcome.exit_signal = exited.exit_signal();
                        if exited.oom {
                            self.row.outcome.error_code = aether_core::api::failure::OUT_OF_MEMORY.to_owned();
                            self.row.outcome.error_message =
                                "The main process was killed: the sandbox was out of memory.".to_owned();
                        }
                    }
                    Some(EventKind::MainExited(_)) => {}
                    Some(EventKind::Oom(oom)) => {
                        tracing::info!(agent = %self.agent_id(), process = %oom.process, "out of memory in the guest");
                    }
                    None => {}
                }
                step!("event.note", self.host.journal.put(&self.row)).await?;
                self.tell();
            }
        }
        Ok(())
    }

    /// There is no run and none is wanted.
    async fn settle(&mut self) -> Result<(), Fault> {
        self.row.generation = self.row.generation.max(self.wish.borrow_and_update().assigned.generation);
        self.row.settled = self.row.generation;
        self.row.step = Step::Idle;
        if !matches!(self.row.observed, Observed::Stopped | Observed::Failed) {
            self.row.observed = Observed::Stopped;
            self.row.stopped_at = Some(self.host.clock.now());
        }
        step!("settle.note", self.save()).await
    }

    /// Journals the row, then tells it: never the other way round.
    pub(super) async fn save(&mut self) -> Result<(), Fault> {
        self.host.journal.put(&self.row).await?;
        self.tell();
        Ok(())
    }

    /// Publishes what the row says to the data service and the session.
    pub(crate) fn tell(&self) {
        let up = matches!(self.row.step, Step::Up);
        self.status.send_modify(|s| {
            s.observed = self.row.observed;
            s.slot = self.row.slot;
            s.client = self.run.as_ref().filter(|_| up).map(|run| run.client.clone());
            s.vmm = self.run.as_ref().map(|run| run.vmm.clone());
            s.unwell.take_if(|_| !up);
        });
        if self.row.observed != Observed::Pending {
            self.host.reports.tell(self.agent_id(), self.report());
        }
    }

    fn report(&self) -> AgentReport {
        let row = &self.row;
        let unwell = self.status.borrow().unwell.clone();
        let disk_encryption = match &row.disk {
            Some(disk) if disk.encrypted => "luks",
            Some(_) => "none",
            None => "",
        };
        AgentReport {
            agent_id: row.agent_id.to_string(),
            generation: row.generation,
            observed: row.observed.as_str().to_owned(),
            exit_code: row.outcome.exit_code,
            exit_signal: row.outcome.exit_signal.clone(),
            error_code: row.outcome.error_code.clone(),
            error_message: row.outcome.error_message.clone(),
            started_at_ms: row.started_at.map(|t| t.unix_ms()),
            stopped_at_ms: row.stopped_at.map(|t| t.unix_ms()),
            isolation: row.isolation.clone(),
            engine: row.engine.clone(),
            disk_encryption: disk_encryption.to_owned(),
            queue_position: self.queue_position,
            restarts: row.restarts,
            image_digest: row.image.as_ref().map(|i| i.digest.clone()).unwrap_or_default(),
            unhealthy: unwell.is_some(),
            unhealthy_reason: unwell.unwrap_or_default(),
            sequence: 0,
        }
    }

    /// Returns when running is no longer wanted, or the node ends.
    pub(super) async fn unwanted(wish: &mut watch::Receiver<Wish>, host: &Host) {
        loop {
            if wish.borrow_and_update().assigned.desired != Desired::Running {
                return;
            }
            tokio::select! {
                changed = wish.changed() => if changed.is_err() {
                    return;
                },
                () = host.shutdown.cancelled() => return,
            }
        }
    }

    /// Whether to go on with a boot at a point between two steps.
    pub(super) fn still_wanted(&self) -> bool {
        self.wish.borrow().assigned.desired == Desired::Running && !self.host.shutdown.is_cancelled()
    }
}

/// The signal of an exit as text, bounded: the guest wrote it.
trait ExitSignal {
    fn exit_signal(&self) -> Option<String>;
}

impl ExitSignal for crate::channel::wire::MainExited {
    fn exit_signal(&self) -> Option<String> {
        self.signal.as_ref().map(|s| s.chars().filter(|c| c.is_ascii_alphanumeric()).take(16).collect())
    }
}
