//! Keeps one task per agent, and tells each what is wanted of it.
//!
//! The only writer of the journal's assignments. What it admits: for an agent
//! it knows, generations above the known one; at the same generation only a
//! moved deadline or time to live, and the env that a restart lost.

use super::wish::{Env, Wish};
use super::{Host, Sandbox, Status};
use crate::journal::{Assigned, Contents, JournalError, SandboxRow};
use aether_core::api::failure;
use aether_core::{AgentId, AgentSpec, Desired, Observed, TenantId, Timestamp};
use aether_proto::node::{AgentAssignment, AgentReport, DesiredSet};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tokio::sync::watch;

pub(crate) struct Supervisor {
    host: Arc<Host>,
    agents: Mutex<BTreeMap<AgentId, Handle>>,
    /// Sets are taken in one after another.
    taking: tokio::sync::Mutex<()>,
}

struct Handle {
    wish: watch::Sender<Wish>,
    status: watch::Receiver<Status>,
    task: tokio::task::JoinHandle<()>,
}

/// An assignment that was understood.
struct Parsed {
    assigned: Assigned,
    env: Env,
}

impl Supervisor {
    pub(crate) fn new(host: Arc<Host>) -> Arc<Self> {
        Arc::new(Self { host, agents: Mutex::default(), taking: tokio::sync::Mutex::default() })
    }

    /// Takes over what the journal holds, then sweeps what it does not.
    pub(crate) async fn take_over(self: &Arc<Self>, contents: Contents) {
        for damaged in &contents.damaged {
            tracing::error!(%damaged, "quarantined: the journal's row cannot be read");
        }
        for slot in contents.damaged_slots {
            self.host.slots.take_exact(slot);
        }
        let Contents { assignments, mut sandboxes, .. } = contents;
        let names: BTreeSet<AgentId> = assignments.keys().chain(sandboxes.keys()).cloned().collect();
        let mut found = Vec::new();
        for (agent, assigned) in assignments {
            let row =
                sandboxes.remove(&agent).unwrap_or_else(|| SandboxRow::new(agent.clone(), assigned.tenant_id.clone()));
            found.push((Wish { assigned, env: None }, row));
        }
        // A row without an assignment is kept as it is until a full set
        // says what is wanted of it.
        found.extend(sandboxes.into_values().map(|row| (Wish { assigned: unknown_wish(&row), env: None }, row)));
        let mut tasks = Vec::new();
        for (wish, row) in found {
            let (wish, receiver) = watch::channel(wish);
            let (sender, status) = watch::channel(Status::of(&row));
            let sandbox = Sandbox::new(self.host.clone(), row, receiver, sender);
            sandbox.claim();
            tasks.push((wish, status, sandbox));
        }
        self.host.sweep_at_start(&names).await;
        let mut agents = self.agents.lock();
        for (wish, status, sandbox) in tasks {
            let agent = sandbox.agent_id().clone();
            let task = tokio::spawn(self.clone().keep(sandbox, true));
            agents.insert(agent, Handle { wish, status, task });
        }
    }

    /// Runs an agent's task until it is gone and nothing newer is wanted.
    async fn keep(self: Arc<Self>, mut sandbox: Sandbox, adopt: bool) {
        if adopt {
            sandbox.adopt().await;
        }
        loop {
            let Some(buried) = sandbox.work().await else { return };
            // Whoever sends a wish holds this lock: none is missed.
            let mut agents = self.agents.lock();
            let wish = sandbox.latest_wish();
            if wish.assigned.generation <= buried {
                agents.remove(&wish.assigned.agent_id);
                return;
            }
            sandbox = sandbox.begin_anew();
        }
    }

    /// An agent's status, now and later; none when it is not on this node.
    pub(crate) fn watch(&self, agent: &AgentId) -> Option<watch::Receiver<Status>> {
        self.agents.lock().get(agent).map(|handle| handle.status.clone())
    }

    /// The tenant's agents on this node.
    pub(crate) fn of_tenant(&self, tenant: &TenantId) -> Vec<AgentId> {
        let agents = self.agents.lock();
        let own = agents.iter().filter(|(_, handle)| handle.wish.borrow().assigned.tenant_id == *tenant);
        own.map(|(agent, _)| agent.clone()).collect()
    }

    /// Sandboxes that are up or on the way.
    pub(crate) fn living(&self) -> usize {
        self.agents.lock().values().filter(|h| h.status.borrow().observed.on_node()).count()
    }

    /// Waits for the tasks after the shutdown was called.
    pub(crate) async fn join(&self) {
        let tasks: Vec<_> = std::mem::take(&mut *self.agents.lock()).into_values().map(|h| (h.wish, h.task)).collect();
        for (_wish, task) in tasks {
            if let Err(e) = task.await {
                tracing::error!(error = %e, "a sandbox's task ended badly");
            }
        }
    }

    /// Takes in what is wanted; when this returns it is journaled.
    pub(crate) async fn take(self: &Arc<Self>, set: DesiredSet) -> Result<u64, JournalError> {
        let _one_at_a_time = self.taking.lock().await;
        let mut named = BTreeSet::new();
        let mut accepted = Vec::new();
        for assignment in set.agents {
            match parse(assignment) {
                Ok(parsed) => {
                    named.insert(parsed.assigned.agent_id.clone());
                    accepted.extend(self.admit(parsed).await?);
                }
                Err(Unreadable { agent, generation, reason }) => {
                    tracing::error!(?agent, %reason, "an assignment was not understood");
                    if let Some(agent) = agent {
                        self.refuse(&agent, generation, &reason);
                        named.insert(agent);
                    }
                }
            }
        }
        if set.full {
            accepted.extend(self.unwanted(&named));
        }
        self.host.journal.assign(set.revision, accepted.iter().map(|w| w.assigned.clone()).collect()).await?;
        for wish in accepted {
            self.tell(wish);
        }
        Ok(set.revision)
    }

    /// The wish that an assignment makes, if it makes any.
    async fn admit(&self, parsed: Parsed) -> Result<Option<Wish>, JournalError> {
        let Parsed { assigned, env } = parsed;
        let agent = assigned.agent_id.clone();
        let known = self.agents.lock().get(&agent).map(|handle| handle.wish.borrow().clone());
        if let Some(known) = known {
            return Ok(admit_known(&known, assigned, env));
        }
        // A stale message brings nothing back; and what is not here and is not
        // wanted is gone.
        let buried = self.host.journal.tombstone(&agent).await?;
        let stale = buried.is_some_and(|generation| assigned.generation <= generation);
        if stale || assigned.desired == Desired::Gone {
            let generation = assigned.generation.max(buried.unwrap_or(0));
            self.host.reports.tell_gone(&agent, generation);
            return Ok(None);
        }
        Ok(Some(Wish { assigned, env: Some(env) }))
    }

    /// A full set names all that is wanted here.
    fn unwanted(&self, named: &BTreeSet<AgentId>) -> Vec<Wish> {
        let agents = self.agents.lock();
        let absent = agents.iter().filter(|(agent, _)| !named.contains(*agent));
        absent
            .map(|(_, handle)| handle.wish.borrow().clone())
            .filter(|wish| wish.assigned.desired != Desired::Gone)
            .map(|wish| {
                tracing::warn!(agent = %wish.assigned.agent_id, "not in the full set: it is removed");
                Wish { assigned: Assigned { desired: Desired::Gone, ..wish.assigned }, env: None }
            })
            .collect()
    }

    fn tell(self: &Arc<Self>, wish: Wish) {
        let agent = wish.assigned.agent_id.clone();
        let mut agents = self.agents.lock();
        if let Some(handle) = agents.get(&agent) {
            handle.wish.send_replace(wish);
            return;
        }
        let row = SandboxRow::new(agent.clone(), wish.assigned.tenant_id.clone());
        let (wish, receiver) = watch::channel(wish);
        let (sender, status) = watch::channel(Status::of(&row));
        let sandbox = Sandbox::new(self.host.clone(), row, receiver, sender);
        let task = tokio::spawn(self.clone().keep(sandbox, false));
        agents.insert(agent, Handle { wish, status, task });
    }

    /// An assignment that names an agent and makes no sense otherwise.
    fn refuse(&self, agent: &AgentId, generation: u64, reason: &str) {
        if self.agents.lock().contains_key(agent) {
            return;
        }
        let report = |observed: Observed| AgentReport {
            agent_id: agent.to_string(),
            generation,
            observed: observed.as_str().to_owned(),
            ..AgentReport::default()
        };
        self.host.reports.tell(agent, report(Observed::Creating));
        self.host.reports.tell(
            agent,
            AgentReport {
                error_code: failure::NODE_ERROR.to_owned(),
                error_message: format!("The node does not understand the assignment: {reason}"),
                ..report(Observed::Failed)
            },
        );
    }
}

/// What a message makes of what is known already.
fn admit_known(known: &Wish, assigned: Assigned, env: Env) -> Option<Wish> {
    let now = &known.assigned;
    if assigned.generation < now.generation {
        return None;
    }
    if assigned.generation > now.generation {
        return Some(Wish { assigned, env: Some(env) });
    }
    if assigned.desired != now.desired {
        tracing::warn!(agent = %now.agent_id, "another wish at the same generation is ignored");
        return None;
    }
    let mut same = Assigned { expires_at: assigned.expires_at, force: assigned.force, ..now.clone() };
    same.spec.ttl_s = assigned.spec.ttl_s;
    let news = same != *now || known.env.is_none();
    news.then_some(Wish { assigned: same, env: Some(env) })
}

/// For a row whose assignment is missing: leave it as it is.
fn unknown_wish(row: &SandboxRow) -> Assigned {
    Assigned {
        agent_id: row.agent_id.clone(),
        tenant_id: row.tenant_id.clone(),
        generation: row.generation,
        desired: Desired::Running,
        name: row.agent_id.to_string(),
        spec: AgentSpec::for_image("unknown"),
        expires_at: None,
        image_digest: String::new(),
        stop_timeout_ms: 0,
        force: false,
    }
}

#[derive(Debug)]
struct Unreadable {
    agent: Option<AgentId>,
    generation: u64,
    reason: String,
}

/// A spec is larger than this only by mistake.
const MAX_SPEC_BYTES: usize = 1 << 20;

fn parse(a: AgentAssignment) -> Result<Parsed, Unreadable> {
    let agent: Option<AgentId> = a.agent_id.parse().ok();
    let unreadable = |reason: String| Unreadable { agent: agent.clone(), generation: a.generation, reason };
    let agent_id = agent.clone().ok_or_else(|| unreadable("the agent's id has no valid form".into()))?;
    let tenant_id: TenantId =
        a.tenant_id.parse().map_err(|_| unreadable("the tenant's id has no valid form".into()))?;
    let desired: Desired = a.desired.parse().map_err(|e| unreadable(format!("{e}")))?;
    if a.spec_json.len() > MAX_SPEC_BYTES {
        return Err(unreadable("the spec is too large".into()));
    }
    // What is to end need not be understood to be ended.
    let spec = match serde_json::from_slice::<AgentSpec>(&a.spec_json) {
        Ok(spec) => spec,
        Err(_) if desired != Desired::Running => AgentSpec::for_image("unknown"),
        Err(e) => return Err(unreadable(format!("the spec cannot be read: {e}"))),
    };
    if desired == Desired::Running
        && let Some(wrong) = spec.validate().first()
    {
        return Err(unreadable(format!("{}: {}", wrong.field, wrong.message)));
    }
    let name: String = a.name.chars().filter(|c| !c.is_control()).take(64).collect();
    Ok(Parsed {
        assigned: Assigned {
            agent_id,
            tenant_id,
            generation: a.generation,
            desired,
            name,
            spec,
            expires_at: a.expires_at_ms.map(Timestamp::from_unix_ms),
            image_digest: a.image_digest,
            stop_timeout_ms: u64::from(a.stop_timeout_ms),
            force: a.force,
        },
        env: Env::new(a.env),
    })
}

#[cfg(test)]
#[path = "supervisor_tests.rs"]
mod tests;
