//! The control plane of Aether: HTTP API, authentication, scheduling loop and
//! node sessions. Stateless but for the store: any number of servers may run
//! on one, the scheduler's epoch decides whose placements count.
//!
//! ```text
//!  clients ──HTTP──► server ──► api (translate) ──► store
//!                                  │                  ▲ changes
//!                                  ▼ exec, files,     │
//!                               dialer ──gRPC──► node ┤ reports
//!                                            session ─┘ desired set
//! ```
//!
//! Not here: what a sandbox is (the node's), what may be written when (the
//! store's and `core::state`'s), where an agent fits (`aether-placement`).

mod api;
mod app;
mod audit;
pub mod auth;
mod config;
mod dialer;
mod exec;
mod inflight;
mod private_file;
mod problem;
mod rates;
mod reload;
mod room;
mod scheduler;
mod secrets;
mod server;
mod session;
mod telemetry;
mod wait;

pub use aether_placement::Strategy;
pub use api::openapi;
pub use audit::AuditKeyError;
pub use config::{
    AuditConfig, ConfigError, ControlConfig, CorsConfig, Deadlines, JwtConfig, Limits, NodeTimings, OidcIssuer,
    RateShares, RedisConfig, TlsConfig, VaultConfig,
};
pub use dialer::{DataDialer, DialError};
pub use problem::ApiError;
pub use reload::{Reload, Reloader};
pub use secrets::VaultSetupError;
pub use server::{ApiListeners, TlsError};
pub use session::{NodeControlService, NodeSessions};

use aether_core::principal::Credential;
use aether_core::{Clock, KeyId, Live, Principal, Rng, Role, Secret, TenantId};
use aether_store::{NewKey, Store, StoreError};
use std::path::Path;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// The control plane, checked and ready to serve.
pub struct Control {
    cfg: Live<ControlConfig>,
    store: Store,
    clock: Arc<dyn Clock>,
    rng: Arc<dyn Rng>,
    pepper: auth::Pepper,
    tokens: auth::LiveTokens,
    outside: Arc<auth::Outside>,
    audit: audit::Seal,
    secrets: secrets::Secrets,
    tls: server::LiveTls,
    places: server::Places,
    sessions: NodeSessions,
    channels: dialer::ChannelCache,
    /// Cancelled once what this process opens beside the API is open.
    opened: CancellationToken,
}

/// Why the control plane does not start, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Pepper(#[from] auth::PepperError),
    #[error(transparent)]
    JwtKey(#[from] auth::JwtKeyError),
    #[error("an outside issuer: {0}")]
    Oidc(#[from] auth::FetchError),
    #[error(transparent)]
    AuditKey(#[from] AuditKeyError),
    #[error(transparent)]
    Vault(#[from] VaultSetupError),
    #[error(transparent)]
    SealFile(#[from] aether_store::SealKeyError),
    #[error(
        "the store's values are sealed with a key that seal.key does not hold: restore it, or copy it from a server that \
         runs on this store"
    )]
    SealKey,
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("cannot accept connections: {0}")]
    Accept(#[from] std::io::Error),
}

impl Control {
    /// Checks the configuration whole, reads keys and certificates. Binds
    /// nothing and starts nothing.
    pub async fn start(
        cfg: ControlConfig,
        store: Store,
        clock: Arc<dyn Clock>,
        rng: Arc<dyn Rng>,
    ) -> Result<Self, ControlError> {
        for warning in cfg.check()? {
            tracing::warn!("{warning}");
        }
        let pepper = auth::Pepper::load_or_create(&cfg.pepper_path, rng.as_ref())?;
        let tokens = auth::Tokens::new(&cfg.jwt, auth::Keys::load(&cfg.jwt, rng.as_ref())?);
        let outside = Arc::new(auth::Outside::new(&cfg.oidc, clock.clone())?);
        let audit = audit::Seal::open(&cfg.audit, rng.as_ref())?;
        let tls = cfg.tls.as_ref().map(|tls| server::tls_acceptor(tls, clock.now())).transpose()?;
        store.ping().await?;
        if !store.follow_seal_key().await? {
            return Err(ControlError::SealKey);
        }
        let secrets = secrets::Secrets::open(cfg.vault.as_ref(), store.clone())?;
        telemetry::install();
        let channels = dialer::ChannelCache::default();
        let sessions = NodeSessions::new(&cfg, store.clone(), channels.clone(), secrets.clone());
        let places = server::Places::new(cfg.limits.max_connections);
        let opened = CancellationToken::new();
        opened.cancel();
        let (cfg, tls, tokens) = (Live::new(cfg), Live::new(tls), Live::new(tokens));
        Ok(Self {
            cfg,
            store,
            clock,
            rng,
            pepper,
            tokens,
            outside,
            audit,
            secrets,
            tls,
            places,
            sessions,
            channels,
            opened,
        })
    }

    /// Serves what the store knows while this process still opens its node;
    /// places nobody, declares no node lost and is not ready until `opened`
    /// is cancelled.
    #[must_use]
    pub fn before_its_node(mut self, opened: CancellationToken) -> Self {
        self.opened = opened;
        self
    }

    /// For changing settings while it runs.
    pub fn reloader(&self) -> Reloader {
        let live = (self.cfg.clone(), self.tls.clone(), self.tokens.clone());
        let seal = self.store.seal_keys().clone();
        Reloader::new(live, self.places.clone(), seal, (self.rng.clone(), self.clock.clone()))
    }

    /// What nodes dial: serve it on the in-memory pipe or on an mTLS
    /// listener. The listener vouches for who the node is.
    pub fn node_control_service(&self) -> NodeControlService {
        self.sessions.service()
    }

    /// Serves until `shutdown`, then lets running requests end within the
    /// drain limit. Sandboxes are not touched.
    pub async fn run(
        self,
        listeners: ApiListeners,
        dialer: Arc<dyn DataDialer>,
        shutdown: CancellationToken,
    ) -> Result<(), ControlError> {
        let app = app::App::new(&self, dialer, shutdown.child_token());
        let keeper = audit::Keeper::new(&self.cfg, self.store.clone(), self.clock.clone(), self.audit.clone());
        let scheduler =
            scheduler::Scheduler::new(&self.cfg, self.store.clone(), self.clock.clone(), keeper, self.secrets.clone());
        let (opened, stop) = (self.opened.clone(), shutdown.child_token());
        let scheduler = tokio::spawn(async move {
            if stop.run_until_cancelled(opened.cancelled()).await.is_some() {
                scheduler.run(stop).await;
            }
        });
        let master = tokio::spawn(secrets::tend(self.store.clone(), shutdown.child_token()));
        let gauges = tokio::spawn(telemetry::keep_gauges(self.store.clone(), shutdown.child_token()));
        let (cfg, tls, clock) = (self.cfg.clone(), self.tls.clone(), self.clock.clone());
        let certificate = tokio::spawn(server::keep_certificate(cfg, tls, clock, shutdown.child_token()));
        server::serve(listeners, self.tls.clone(), self.places.clone(), api::router(&app), &app, shutdown.clone())
            .await?;
        self.sessions.close();
        for task in [scheduler, gauges, certificate, master] {
            if let Err(error) = task.await {
                tracing::error!(%error, "a background task of the control plane died");
            }
        }
        Ok(())
    }
}

/// Makes the first admin key of a store that has no key at all. `None` where
/// there is one. The secret is given once: the CLI writes it to a 0600 file.
pub async fn first_admin_key(store: &Store, pepper_path: &Path, rng: &dyn Rng) -> Result<Option<Secret>, ControlError> {
    if store.count_keys().await? > 0 {
        return Ok(None);
    }
    let pepper = auth::Pepper::load_or_create(pepper_path, rng)?;
    let key = auth::ApiKey::generate(rng);
    let first_start = Credential::LocalUser { uid: 0 };
    let principal = Principal::new(TenantId::default_tenant(), first_start, Role::PlatformAdmin.permissions());
    let secret = (pepper.hash(&key), key.prefix());
    let id = KeyId::generate(aether_core::id::DEFAULT_CELL, rng);
    let new = NewKey::new(id, "first admin key", secret, Role::Admin);
    store.create_key(&principal.scope(), new).await?;
    Ok(Some(key.text()))
}
