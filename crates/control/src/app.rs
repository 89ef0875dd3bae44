//! What every request handler holds.

use crate::Control;
use crate::api::{Caller, Shown};
use crate::audit::Seal;
use crate::auth::{Attempts, Authenticator, LocalUsers, Passwords, Standing};
use crate::config::ControlConfig;
use crate::dialer::{DataClient, DataDialer, Nodes};
use crate::inflight::InFlight;
use crate::problem::ApiError;
use crate::rates::Rates;
use crate::secrets::Secrets;
use aether_core::tenant::Resource;
use aether_core::{Clock, Live, Rng};
use aether_store::{AgentRow, Store};
use std::ops::Deref;
use std::sync::Arc;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Shared by all handlers; cheap to clone.
#[derive(Clone)]
pub(crate) struct App(Arc<AppState>);

pub(crate) struct AppState {
    cfg: Live<ControlConfig>,
    pub(crate) store: Store,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) rng: Arc<dyn Rng>,
    pub(crate) auth: Authenticator,
    pub(crate) attempts: Attempts,
    pub(crate) passwords: Passwords,
    pub(crate) rates: Rates,
    pub(crate) standing: Standing,
    pub(crate) nodes: Nodes,
    pub(crate) audit: Seal,
    pub(crate) secrets: Secrets,
    /// Cancelled when the server begins to drain: new requests get 503,
    /// streams say goodbye.
    pub(crate) draining: CancellationToken,
    /// Cancelled once the node of this process is open, if it has one.
    pub(crate) opened: CancellationToken,
    /// Bytes of JSON bodies that may come in at once.
    pub(crate) bodies: Arc<Semaphore>,
    /// Large JSON bodies that may be parsed at once: half the processors'.
    pub(crate) readers: Arc<Semaphore>,
    pub(crate) shown: Shown,
    pub(crate) execs: InFlight,
    pub(crate) images: InFlight,
    /// Work that outlives its request: execs, upgraded streams.
    pub(crate) tasks: TaskTracker,
}

impl Deref for App {
    type Target = AppState;
    fn deref(&self) -> &AppState {
        &self.0
    }
}

impl App {
    pub(crate) fn new(control: &Control, dialer: Arc<dyn DataDialer>, draining: CancellationToken) -> Self {
        let store = control.store.clone();
        Self(Arc::new(AppState {
            cfg: control.cfg.clone(),
            clock: control.clock.clone(),
            rng: control.rng.clone(),
            auth: Authenticator {
                store: store.clone(),
                pepper: control.pepper.clone(),
                tokens: control.tokens.clone(),
                outside: control.outside.clone(),
                clock: control.clock.clone(),
                enabled: control.cfg.get().enable_auth,
                local: LocalUsers::new(),
            },
            attempts: Attempts::default(),
            passwords: Passwords::new(control.rng.as_ref()),
            rates: Rates::new(store.clone(), control.clock.clone(), control.cfg.clone()),
            standing: Standing::default(),
            nodes: Nodes::new(dialer, store.clone(), control.channels.clone()),
            audit: control.audit.clone(),
            secrets: control.secrets.clone(),
            store,
            draining,
            opened: control.opened.clone(),
            bodies: Arc::new(Semaphore::new(control.cfg.get().limits.json_bytes_in_all)),
            readers: Arc::new(Semaphore::new(std::thread::available_parallelism().map_or(1, |n| n.get().div_ceil(2)))),
            shown: Shown::default(),
            execs: InFlight::new(Resource::ExecSessions),
            images: InFlight::new(Resource::Images),
            tasks: TaskTracker::new(),
        }))
    }

    /// The settings in force: a reload replaces them.
    pub(crate) fn cfg(&self) -> Arc<ControlConfig> {
        self.cfg.get()
    }

    pub(crate) fn live_cfg(&self) -> &Live<ControlConfig> {
        &self.cfg
    }

    /// The agent by id, name or alias; 404 for an unknown one, and the same
    /// for another tenant's.
    pub(crate) async fn agent(&self, caller: &Caller, id: &str) -> Result<Arc<AgentRow>, ApiError> {
        self.store.find_agent(&caller.scope(), id).await?.ok_or_else(ApiError::no_agent)
    }

    /// The data service of the node that holds the agent.
    pub(crate) async fn client_for(&self, agent: &AgentRow) -> Result<DataClient, ApiError> {
        let node = agent.node_id.as_ref().ok_or_else(|| not_reachable(agent))?;
        self.nodes.client(node).await
    }

    /// As [`App::client_for`], for what only a live guest can answer.
    pub(crate) async fn live_client(&self, agent: &AgentRow) -> Result<DataClient, ApiError> {
        if agent.observed != aether_core::Observed::Running {
            return Err(not_reachable(agent));
        }
        self.client_for(agent).await
    }
}

/// 409 with the state and what to do about it.
pub(crate) fn not_reachable(agent: &AgentRow) -> ApiError {
    use aether_core::Observed as O;
    let remedy = match agent.observed {
        O::Pending | O::Creating | O::Resuming | O::Restoring => "Wait until it is running; `?wait=true` does.",
        O::Stopped | O::Failed => "Start it first.",
        O::Stopping | O::Pausing => "Wait until it is stopped, then start it.",
        O::Paused => "Resume it first.",
        O::Lost => "Wait until its node is back, or delete it.",
        O::Running | O::Gone => "Look at its status and try again.",
    };
    ApiError::conflict(format!("The agent is {}, not running.", agent.observed), remedy)
}
