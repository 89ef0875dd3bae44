//! What the control plane is told at its start. Read and checked whole before
//! a port binds; files and environment are the CLI's business.

use aether_core::{Role, Secret, TenantId};
use aether_placement::Strategy;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Settings of one API server.
#[derive(Clone, Debug)]
pub struct ControlConfig {
    /// Unique among the servers of one store.
    pub server_id: String,
    /// The addresses the operator asked for; for checks and messages. The
    /// listeners themselves come bound to [`crate::Control::run`].
    pub tcp: Vec<SocketAddr>,
    pub tls: Option<TlsConfig>,
    /// Off only where every TCP address is loopback.
    pub enable_auth: bool,
    /// The server's secret for API keys' hashes: [`crate::auth::Pepper`].
    pub pepper_path: PathBuf,
    /// Off, `/metrics` is no route.
    pub metrics_enabled: bool,
    /// `/metrics` needs a key with `agent:read`.
    pub metrics_auth: bool,
    pub cors: Option<CorsConfig>,
    pub deadlines: Deadlines,
    pub limits: Limits,
    pub rates: RateShares,
    /// Where request rates are counted for all servers together; absent: each
    /// counts for itself.
    pub redis: Option<RedisConfig>,
    pub node: NodeTimings,
    pub audit: AuditConfig,
    pub jwt: JwtConfig,
    /// Users log in with a password.
    pub local_users: bool,
    /// Whose tokens are taken beside our own.
    pub oidc: Vec<OidcIssuer>,
    /// Where secrets are kept, or their data keys wrapped; absent: the store, with the seal key.
    pub vault: Option<VaultConfig>,
    /// Fallback of the scheduler's wake-ups.
    pub schedule_interval: Duration,
    /// How nodes that fit are ranked.
    pub strategy: Strategy,
    /// The build's commit, for `/v1/version`.
    pub commit: String,
    /// The folder of the embedded store: while its disk is nearly full nothing
    /// is created. Absent: the store is elsewhere.
    pub store_dir: Option<PathBuf>,
}

/// A certificate chain and its key, in PEM files.
#[derive(Clone, Debug)]
pub struct TlsConfig {
    pub cert_path: PathBuf,
    pub key_path: PathBuf,
    /// TLS 1.3 alone unless this is set.
    pub allow_tls12: bool,
    /// The two files are issued here for these names, by an authority that is
    /// kept beside them (`ca.pem`).
    pub own: Option<Vec<String>>,
}

/// Origins that browsers may call from. A literal `*` is refused: answers
/// carry credentials.
#[derive(Clone, Debug, Default)]
pub struct CorsConfig {
    pub allowed_origins: Vec<String>,
}

/// The table of deadlines; each route names its row (see `api::routes`).
#[derive(Clone, Debug)]
pub struct Deadlines {
    /// Routes that neither wait nor stream.
    pub short: Duration,
    /// The longest `wait`; after it a 202 tells the current state.
    pub wait: Duration,
    /// On top of an exec's own timeout, for the way there and back.
    pub exec_margin: Duration,
    /// A stream whose peer moves no byte for so long is cut.
    pub stream_idle: Duration,
    /// How long requests may end after the shutdown began.
    pub drain: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            short: Duration::from_secs(15),
            wait: Duration::from_secs(60),
            exec_margin: Duration::from_secs(10),
            stream_idle: Duration::from_secs(120),
            drain: Duration::from_secs(10),
        }
    }
}

/// What one stranger can take.
#[derive(Clone, Debug)]
pub struct Limits {
    /// From accept, or from the last answer, to a whole head; then again to
    /// a whole JSON body.
    pub header_timeout: Duration,
    /// A peer that leaves an answer lying for so long is cut.
    pub untaken: Duration,
    /// The same for streams, whose reader may have been paused by a human.
    pub untaken_stream: Duration,
    pub max_connections: usize,
    pub max_connections_per_peer: usize,
    pub json_body_bytes: usize,
    /// Of all JSON bodies that are coming in, beyond the first of each.
    pub json_bytes_in_all: usize,
    pub h2_streams: u32,
    pub h2_pending_resets: usize,
    pub header_bytes: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            header_timeout: Duration::from_secs(8),
            untaken: Duration::from_secs(8),
            untaken_stream: Duration::from_secs(600),
            max_connections: 4096,
            max_connections_per_peer: 1024,
            json_body_bytes: 1 << 20,
            json_bytes_in_all: 32 << 20,
            h2_streams: 128,
            h2_pending_resets: 20,
            header_bytes: 32 * 1024,
        }
    }
}

/// Parts of a tenant's request rate, in percent; none is below one a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateShares {
    /// Of one key or user.
    pub caller_percent: u32,
    /// Of creating agents.
    pub create_percent: u32,
    /// Of execs.
    pub exec_percent: u32,
}

impl Default for RateShares {
    fn default() -> Self {
        Self { caller_percent: 10, create_percent: 20, exec_percent: 10 }
    }
}

/// A Redis server, or one that speaks its protocol and runs its scripts.
#[derive(Clone, Debug)]
pub struct RedisConfig {
    pub host: String,
    pub port: u16,
    /// Empty: none.
    pub password: Secret,
    pub db: u32,
    /// With the system's roots.
    pub tls: bool,
}

/// The audit log's proofs.
#[derive(Clone, Debug)]
pub struct AuditConfig {
    /// The key that signs digests; its public half is beside it (`.pub`).
    pub key_path: PathBuf,
    /// Where digests are appended, outside of the database.
    pub anchor_path: PathBuf,
    /// Between two digests of a chain that grows.
    pub digest_interval: Duration,
    /// Older records are removed; 0: none ever is.
    pub retention_days: u32,
}

impl AuditConfig {
    /// Key and anchors in a folder.
    pub fn in_dir(dir: &std::path::Path) -> Self {
        Self {
            key_path: dir.join("audit-signing.key"),
            anchor_path: dir.join("audit-anchor.jsonl"),
            digest_interval: Duration::from_secs(60),
            retention_days: 0,
        }
    }
}

/// The server's own tokens: which key signs them, which verify.
#[derive(Clone, Debug)]
pub struct JwtConfig {
    /// The claim `iss` of each.
    pub issuer: String,
    /// HS256.
    pub secret: Option<Secret>,
    /// RS256, ES256 or EdDSA, by what it is; signs, where it is given.
    pub private_key_path: Option<PathBuf>,
    /// Checked to be its other half.
    pub public_key_path: Option<PathBuf>,
    /// Those that signed before: their tokens hold until they end.
    pub previous_secrets: Vec<Secret>,
    pub previous_key_paths: Vec<PathBuf>,
    /// Where a key is made when none is given; absent: none may be made, since
    /// other servers need the same.
    pub made_key_path: Option<PathBuf>,
    /// How long a token holds.
    pub token_duration: Duration,
    /// How long a login can be refreshed.
    pub session_duration: Duration,
}

impl JwtConfig {
    /// A key of its own in a folder.
    pub fn in_dir(dir: &std::path::Path) -> Self {
        Self {
            issuer: "aether".to_owned(),
            secret: None,
            private_key_path: None,
            public_key_path: None,
            previous_secrets: Vec::new(),
            previous_key_paths: Vec::new(),
            made_key_path: Some(dir.join("jwt-signing.key")),
            token_duration: Duration::from_secs(3600),
            session_duration: Duration::from_secs(30 * 24 * 3600),
        }
    }
}

/// An outside issuer (OpenID Connect), and what its tokens are here.
#[derive(Clone, Debug, PartialEq)]
pub struct OidcIssuer {
    /// The claim `iss`, to the letter; the discovery document is below it.
    pub issuer: String,
    /// One of these must be in the claim `aud`.
    pub audiences: Vec<String>,
    /// Of RS256, ES256 and EdDSA.
    pub algorithms: Vec<String>,
    /// Who it is.
    pub user_claim: String,
    /// Whose values `roles` maps; a path with dots leads into other claims.
    pub role_claim: Option<String>,
    pub roles: BTreeMap<String, Role>,
    /// Where nothing is mapped; absent: the token is refused then.
    pub default_role: Option<Role>,
    /// Where all of them are,
    pub tenant: Option<TenantId>,
    /// or the claim that says it: by `tenants`, or where that is empty a
    /// tenant's id.
    pub tenant_claim: Option<String>,
    pub tenants: BTreeMap<String, TenantId>,
    /// Refuse tokens without `nbf`, which many issuers leave out.
    pub require_nbf: bool,
    /// Its host may have internal addresses.
    pub allow_internal: bool,
    /// More roots (PEM) beside the system's.
    pub ca_path: Option<PathBuf>,
    /// Keys are fetched at most so often.
    pub refetch_interval: Duration,
}

impl OidcIssuer {
    /// All but tenant and roles.
    pub fn new(issuer: impl Into<String>, audience: impl Into<String>) -> Self {
        Self {
            issuer: issuer.into(),
            audiences: vec![audience.into()],
            algorithms: ["RS256", "ES256", "EdDSA"].map(str::to_owned).to_vec(),
            user_claim: "sub".to_owned(),
            role_claim: None,
            roles: BTreeMap::new(),
            default_role: None,
            tenant: None,
            tenant_claim: None,
            tenants: BTreeMap::new(),
            require_nbf: false,
            allow_internal: false,
            ca_path: None,
            refetch_interval: Duration::from_secs(30),
        }
    }

    /// What is missing, or does not fit together.
    pub fn check(&self) -> Result<(), &'static str> {
        let known = |a: &String| matches!(a.as_str(), "RS256" | "ES256" | "EdDSA");
        let texts = self.audiences.iter().chain([&self.user_claim, &self.issuer]);
        match () {
            () if texts.into_iter().any(String::is_empty) => Err("an issuer, an audience or a claim is empty"),
            () if self.audiences.is_empty() => Err("it needs `audiences`: its tokens for others are not for us"),
            () if self.algorithms.is_empty() || !self.algorithms.iter().all(known) => {
                Err("`algorithms` must be of RS256, ES256 and EdDSA")
            }
            () if self.tenant.is_some() == self.tenant_claim.is_some() => Err("it needs `tenant` or `tenant_claim`"),
            () if !self.tenants.is_empty() && self.tenant_claim.is_none() => Err("`tenants` needs `tenant_claim`"),
            () if self.roles.is_empty() != self.role_claim.is_none() => Err("`roles` and `role_claim` go together"),
            () if self.roles.is_empty() && self.default_role.is_none() => {
                Err("it needs `role_claim` with `roles`, or a `default_role`")
            }
            () => Ok(()),
        }
    }
}

/// Vault, or OpenBao.
#[derive(Clone, Debug)]
pub struct VaultConfig {
    /// Scheme, host and port.
    pub address: String,
    pub token: Secret,
    /// Wins over `token`; read at each use.
    pub token_file: Option<PathBuf>,
    pub namespace: Option<String>,
    /// Of KV version 2.
    pub mount: String,
    /// Below the mount: values are at `<prefix>/<tenant>/<name>`.
    pub prefix: String,
    /// Set: values stay in the store, and this key wraps their data keys.
    pub transit_key: Option<String>,
    pub transit_mount: String,
    /// Certificates (PEM) to trust beside the system's.
    pub ca_file: Option<PathBuf>,
    /// Of one call.
    pub timeout: Duration,
}

impl Default for VaultConfig {
    fn default() -> Self {
        Self {
            address: String::new(),
            token: Secret::default(),
            token_file: None,
            namespace: None,
            mount: "secret".to_owned(),
            prefix: "aether".to_owned(),
            transit_key: None,
            transit_mount: "transit".to_owned(),
            ca_file: None,
            timeout: Duration::from_secs(5),
        }
    }
}

/// Lease numbers that nodes are told in the welcome.
#[derive(Clone, Debug)]
pub struct NodeTimings {
    pub lease: Duration,
    pub heartbeat: Duration,
}

impl Default for NodeTimings {
    fn default() -> Self {
        Self { lease: Duration::from_secs(6), heartbeat: Duration::from_secs(2) }
    }
}

impl ControlConfig {
    /// Defaults around the two things that have none. The files of the
    /// audit log and of tokens are beside the pepper.
    pub fn new(server_id: impl Into<String>, pepper_path: impl Into<PathBuf>) -> Self {
        let pepper_path = pepper_path.into();
        let dir = pepper_path.parent().unwrap_or(std::path::Path::new("."));
        Self {
            server_id: server_id.into(),
            audit: AuditConfig::in_dir(dir),
            jwt: JwtConfig::in_dir(dir),
            local_users: false,
            oidc: Vec::new(),
            tcp: Vec::new(),
            tls: None,
            enable_auth: true,
            pepper_path,
            metrics_enabled: true,
            metrics_auth: false,
            cors: None,
            deadlines: Deadlines::default(),
            limits: Limits::default(),
            rates: RateShares::default(),
            redis: None,
            node: NodeTimings::default(),
            vault: None,
            schedule_interval: Duration::from_secs(1),
            strategy: Strategy::default(),
            store_dir: None,
            commit: String::new(),
        }
    }

    /// Refuses what would expose the server; warns of what merely might.
    pub fn check(&self) -> Result<Vec<String>, ConfigError> {
        let mut warnings = Vec::new();
        if !self.enable_auth {
            if let Some(open) = self.tcp.iter().find(|a| !a.ip().is_loopback()) {
                return Err(ConfigError::OpenWithoutAuth(*open));
            }
            warnings.push("authentication is off: every local user is an admin of the tenant `default`".to_owned());
        }
        if self.tls.is_none()
            && let Some(open) = self.tcp.iter().find(|a| !a.ip().is_loopback())
        {
            warnings.push(format!("{open} is served without TLS: keys and data can be read on the way"));
        }
        if let Some(cors) = &self.cors {
            for origin in &cors.allowed_origins {
                if origin == "*" || http::HeaderValue::from_str(origin).is_err() || !origin.contains("://") {
                    return Err(ConfigError::Origin(origin.clone()));
                }
            }
        }
        for (n, oidc) in self.oidc.iter().enumerate() {
            let wrong = |why| Err(ConfigError::Oidc { issuer: oidc.issuer.clone(), why });
            if let Err(why) = oidc.check() {
                return wrong(why);
            }
            if oidc.issuer == self.jwt.issuer || self.oidc[..n].iter().any(|other| other.issuer == oidc.issuer) {
                return wrong("it is named twice, or is this server itself");
            }
        }
        if self.node.heartbeat * 2 > self.node.lease {
            return Err(ConfigError::Lease);
        }
        Ok(warnings)
    }
}

/// A setting that cannot be served.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ConfigError {
    #[error("authentication is off, but {0} is not a loopback address: turn enable_auth on or listen on 127.0.0.1")]
    OpenWithoutAuth(SocketAddr),
    #[error("allowed origin {0:?} must be scheme://host[:port]; `*` is refused because requests carry credentials")]
    Origin(String),
    #[error("the outside issuer {issuer:?}: {why}")]
    Oidc { issuer: String, why: &'static str },
    #[error("the node lease must be at least twice the heartbeat interval")]
    Lease,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(tcp: &str) -> ControlConfig {
        ControlConfig { tcp: vec![tcp.parse().expect("address")], ..ControlConfig::new("s", "/nowhere") }
    }

    #[test]
    fn an_open_address_without_authentication_is_refused() {
        for (address, refused) in [("0.0.0.0:8080", true), ("[::]:1", true), ("127.0.0.1:1", false), ("[::1]:1", false)]
        {
            let c = ControlConfig { enable_auth: false, ..config(address) };
            assert_eq!(c.check().is_err(), refused, "{address}");
        }
    }

    #[test]
    fn an_open_address_without_tls_warns() {
        assert_eq!(config("0.0.0.0:8080").check().map(|w| w.len()), Ok(1));
        assert_eq!(config("127.0.0.1:8080").check().map(|w| w.len()), Ok(0));
    }

    #[test]
    fn an_issuer_is_whole_or_refused() {
        let good = OidcIssuer {
            tenant: Some(TenantId::default_tenant()),
            default_role: Some(Role::Viewer),
            ..OidcIssuer::new("https://a.example", "aether")
        };
        assert_eq!(good.check(), Ok(()));
        let changes: [fn(&mut OidcIssuer); 9] = [
            |o| o.audiences.clear(),
            |o| o.audiences.push(String::new()),
            |o| o.algorithms.push("HS256".into()),
            |o| o.algorithms.push("none".into()),
            |o| o.algorithms.clear(),
            |o| o.tenant = None,
            |o| o.tenant_claim = Some("org".into()),
            |o| o.default_role = None,
            |o| o.role_claim = Some("groups".into()),
        ];
        for (n, change) in changes.into_iter().enumerate() {
            let mut bad = good.clone();
            change(&mut bad);
            assert!(bad.check().is_err(), "change {n}");
        }
        let with = |oidc| ControlConfig { oidc, ..config("127.0.0.1:1") }.check().is_ok();
        assert!(with(vec![good.clone()]) && !with(vec![good.clone(), good.clone()]));
        assert!(!with(vec![OidcIssuer { issuer: "aether".into(), ..good }]), "our own");
    }

    #[test]
    fn any_origin_is_refused() {
        let mut c = config("127.0.0.1:1");
        c.cors = Some(CorsConfig { allowed_origins: vec!["*".into()] });
        assert_eq!(c.check(), Err(ConfigError::Origin("*".into())));
    }
}
