//! Settings that change while the server runs. First everything is made
//! ready, which may fail and changes nothing; then it is put in force, which
//! cannot fail.
//!
//! Not here: where settings come from, and which keys they are (the CLI's).

use crate::ControlError;
use crate::auth::{Keys, LiveTokens, Tokens};
use crate::config::ControlConfig;
use crate::server::{LiveTls, Places, tls_acceptor};
use aether_core::{Clock, Live, Rng};
use aether_store::{SealKeyError, SealKeys};
use std::sync::Arc;
use tokio_rustls::TlsAcceptor;

/// Reaches into the running server; cheap to clone.
#[derive(Clone)]
pub struct Reloader {
    cfg: Live<ControlConfig>,
    tls: LiveTls,
    tokens: LiveTokens,
    places: Places,
    seal: SealKeys,
    rng: Arc<dyn Rng>,
    clock: Arc<dyn Clock>,
}

/// New settings that are good, and not yet in force.
pub struct Reload {
    of: Reloader,
    cfg: ControlConfig,
    tls: Option<TlsAcceptor>,
    tokens: Tokens,
}

impl Reloader {
    /// How long requests may end after a shutdown began, by now.
    pub fn drain_limit(&self) -> std::time::Duration {
        self.cfg.get().deadlines.drain
    }

    pub(crate) fn new(
        (cfg, tls, tokens): (Live<ControlConfig>, LiveTls, LiveTokens),
        places: Places,
        seal: SealKeys,
        (rng, clock): (Arc<dyn Rng>, Arc<dyn Clock>),
    ) -> Self {
        Self { cfg, tls, tokens, places, seal, rng, clock }
    }

    /// Checks the settings, and reads certificates and keys anew. What only a
    /// start can change stays as it is: addresses, authentication, whether
    /// there is TLS or CORS at all, the nodes' lease.
    pub fn prepare(&self, new: ControlConfig) -> Result<Reload, ControlError> {
        let old = self.cfg.get();
        let mut cfg = ControlConfig::clone(&old);
        cfg.metrics_enabled = new.metrics_enabled;
        cfg.metrics_auth = new.metrics_auth;
        cfg.deadlines = new.deadlines;
        cfg.limits = new.limits;
        cfg.rates = new.rates;
        cfg.schedule_interval = new.schedule_interval;
        cfg.strategy = new.strategy;
        cfg.audit.digest_interval = new.audit.digest_interval;
        cfg.audit.retention_days = new.audit.retention_days;
        cfg.jwt = new.jwt;
        cfg.local_users = new.local_users;
        if let (Some(cors), Some(new)) = (&mut cfg.cors, new.cors) {
            *cors = new;
        }
        if let (Some(tls), Some(new)) = (&mut cfg.tls, new.tls) {
            *tls = new;
        }
        cfg.check()?;
        let tls = cfg.tls.as_ref().map(|tls| tls_acceptor(tls, self.clock.now())).transpose()?;
        let tokens = Tokens::new(&cfg.jwt, Keys::load(&cfg.jwt, self.rng.as_ref())?);
        // More keys that open harm nothing that is not in force; which one seals is the store's to say.
        match self.seal.reload() {
            Ok(()) | Err(SealKeyError::NoFile) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(Reload { of: self.clone(), cfg, tls, tokens })
    }
}

impl Reload {
    /// For connections and requests that begin from here on. Needs the
    /// server's runtime.
    pub fn apply(self) {
        self.of.places.resize(self.cfg.limits.max_connections);
        self.of.tls.set(self.tls);
        self.of.tokens.set(self.tokens);
        self.of.cfg.set(self.cfg);
    }
}
