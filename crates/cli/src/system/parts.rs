//! The configuration turned into the options of each part.

use super::folders;
use crate::config::{AccelKind, Config, HostPort, Listen, StrategyKind};
use crate::error::CliError;
use crate::values::duration;
use aether_control::{
    AuditConfig, ControlConfig, CorsConfig, Deadlines, JwtConfig, Limits, NodeTimings, OidcIssuer, RateShares,
    RedisConfig, Strategy, TlsConfig, VaultConfig,
};
use aether_core::Secret;
use aether_node::NodeConfig;
use aether_node::engine::qemu::{Accel, DiskRate, QemuConfig};
use aether_node::images::ImagesConfig;
use aether_node::kernel::GuestBinary;
use aether_node::network::{NetworkConfig, Share};
use aether_store::StoreConfig;
use std::path::PathBuf;

/// The guest that was built into this executable, where one was.
#[cfg(embedded_guest)]
const EMBEDDED_GUEST: Option<&[u8]> = Some(include_bytes!(concat!(env!("OUT_DIR"), "/aether-guest")));
#[cfg(not(embedded_guest))]
const EMBEDDED_GUEST: Option<&[u8]> = None;

/// What is executed again for the hidden verbs.
pub(super) fn own_executable() -> Result<PathBuf, CliError> {
    let path = std::env::current_exe().map_err(|e| CliError::failed(format!("cannot find this executable: {e}")))?;
    if !path.is_file() {
        return Err(CliError::with_remedy(
            format!("this executable was replaced on disk: {}", path.display()),
            "Start the new one.",
        ));
    }
    Ok(path)
}

fn guest_beside() -> Result<PathBuf, CliError> {
    Ok(own_executable()?.with_file_name("aether-guest"))
}

/// Configured, built in, or beside this executable.
pub(super) fn guest(config: &Config) -> Result<GuestBinary, CliError> {
    if let Some(path) = &config.engine.guest_path {
        return Ok(GuestBinary::Path(path.clone()));
    }
    if let Some(bytes) = EMBEDDED_GUEST {
        return Ok(GuestBinary::Embedded(bytes));
    }
    let beside = guest_beside()?;
    if beside.is_file() {
        return Ok(GuestBinary::Path(beside));
    }
    Err(CliError::with_remedy(
        format!("the guest executable is missing: this build holds none, and there is no {}", beside.display()),
        "Build with `make build`, or set engine.guest_path.",
    ))
}

pub(super) fn engine(config: &Config) -> Result<QemuConfig, CliError> {
    engine_with(config, guest(config)?)
}

/// For the checks, which go on where the guest is missing.
pub(super) fn engine_to_check(config: &Config) -> Result<QemuConfig, CliError> {
    engine_with(config, guest(config).unwrap_or(GuestBinary::Path(guest_beside()?)))
}

fn engine_with(config: &Config, guest: GuestBinary) -> Result<QemuConfig, CliError> {
    let state = config.server.state_dir.join("engine");
    let run = config.server.run_dir.join("sandboxes");
    let mut options = QemuConfig::new(state, run, own_executable()?, guest);
    let engine = &config.engine;
    options.uid_base = config.node.uid_base;
    options.qemu_path.clone_from(&engine.qemu_path);
    options.kernel_path.clone_from(&engine.kernel_path);
    options.modules_dir.clone_from(&engine.modules_dir);
    options.extra_kernel_args.clone_from(&engine.extra_kernel_args);
    options.encrypt_disks = engine.encrypt_disks;
    options.disk_rate = DiskRate { mb_per_s: config.node.disk_mb_per_s, iops: config.node.disk_iops };
    options.accel = match engine.accel {
        AccelKind::Auto => Accel::Auto,
        AccelKind::Kvm => Accel::Kvm,
        AccelKind::Tcg => Accel::Tcg,
    };
    Ok(options)
}

pub(super) fn network(config: &Config) -> Result<NetworkConfig, CliError> {
    let node = &config.node;
    let mut options = NetworkConfig::new(&config.server.run_dir, node.prefix.clone());
    options.slots = node.network_slots;
    options.spare = node.network_spare;
    options.upstream_dns = node.upstream_dns.iter().map(|d| d.0).collect();
    options.allow = node.network_allow.iter().map(|c| c.0).collect();
    options.deny = node.network_deny.iter().map(|c| c.0).collect();
    if let Some(net) = node.uplink_net {
        options.uplink_net = net.0;
    }
    options.ipv6_prefix = node.ipv6_prefix.map(|c| c.0);
    options.mtu = node.mtu;
    options.share =
        Share { mb_per_s: node.network_mb_per_s, packets_per_s: node.network_packets_per_s, flows: node.network_flows };
    options.uid_base = node.uid_base;
    options.validate().map_err(|e| CliError::failed(e.to_string()))?;
    Ok(options)
}

pub(super) fn images(config: &Config) -> Result<ImagesConfig, CliError> {
    Ok(images_with(config, own_executable()?))
}

/// `exe` is what conversions are run with.
pub(super) fn images_with(config: &Config, exe: PathBuf) -> ImagesConfig {
    let mut options = ImagesConfig::new(config.server.state_dir.join("images"), exe);
    // Just below the sandboxes' own, so that two servers share no user.
    options.converter_uid = config.node.uid_base - 1;
    options.max_image_bytes = config.images.max_image_bytes;
    options.allow_insecure_hosts.clone_from(&config.images.allow_insecure_hosts);
    options.allow_hosts.clone_from(&config.images.allow_hosts);
    options.gc_grace = config.images.gc_grace;
    options
}

pub(super) fn node(config: &Config) -> NodeConfig {
    let node = &config.node;
    let mut options = NodeConfig::new(config.server.state_dir.join("node"));
    options.slots = node.network_slots;
    options.max_boots = usize::try_from(node.max_boots).ok().filter(|n| *n > 0);
    options.boot_timeout = node.boot_timeout;
    options.cpu_overcommit = node.cpu_overcommit;
    options.memory_overcommit = node.memory_overcommit.0;
    options.disk_overcommit = node.disk_overcommit.0;
    options.allow_emulation = config.engine.allow_emulation;
    options
}

/// What a certificate of our own is good for.
fn names(config: &Config) -> Vec<String> {
    let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned(), folders::host_name()];
    if let Listen::On(addresses) = &config.server.address {
        names.extend(addresses.iter().map(|a| a.ip()).filter(|ip| !ip.is_unspecified()).map(|ip| ip.to_string()));
    }
    names.extend(config.server.tls_names.iter().cloned());
    names.retain(|name| !name.is_empty());
    names.sort();
    names.dedup();
    names
}

pub(super) fn control(config: &Config) -> Result<ControlConfig, CliError> {
    let server = &config.server;
    let mut options = ControlConfig::new(folders::server_id(config)?, pepper_path(config));
    if let Listen::On(addresses) = &server.address {
        options.tcp.clone_from(addresses);
    }
    let allow_tls12 = server.allow_tls12;
    options.tls = match (&server.tls_cert, &server.tls_key) {
        (Some(cert), Some(key)) => {
            Some(TlsConfig { cert_path: cert.clone(), key_path: key.clone(), allow_tls12, own: None })
        }
        _ if server.tls_own_ca => {
            let folder = server.state_dir.join("tls");
            let (cert_path, key_path) = (folder.join("server.pem"), folder.join("server.key"));
            Some(TlsConfig { cert_path, key_path, allow_tls12, own: Some(names(config)) })
        }
        _ => None,
    };
    options.enable_auth = server.enable_auth;
    options.metrics_enabled = config.observability.metrics_enabled;
    options.metrics_auth = config.observability.metrics_auth;
    options.cors = server.enable_cors.then(|| CorsConfig { allowed_origins: server.allowed_origins.clone() });
    options.deadlines =
        Deadlines { short: server.write_timeout, drain: server.shutdown_timeout, ..Deadlines::default() };
    options.limits = Limits {
        header_timeout: server.read_timeout,
        max_connections: server.max_connections,
        max_connections_per_peer: server.max_connections_per_peer,
        ..Limits::default()
    };
    let rates = &config.rate_limits;
    options.rates = RateShares {
        caller_percent: rates.caller_percent,
        create_percent: rates.create_percent,
        exec_percent: rates.exec_percent,
    };
    let redis = &config.redis;
    options.redis = redis.address.clone().map(|HostPort { host, port }| RedisConfig {
        host,
        port,
        password: redis.password.clone(),
        db: redis.db,
        tls: redis.tls,
    });
    options.node = NodeTimings { lease: config.scheduler.node_lease, heartbeat: config.scheduler.heartbeat_interval };
    options.schedule_interval = config.scheduler.interval;
    options.strategy = match config.scheduler.strategy {
        StrategyKind::BinPacking => Strategy::BinPacking,
        StrategyKind::Spread => Strategy::Spread,
        StrategyKind::BestFit => Strategy::BestFit,
    };
    options.audit = AuditConfig::in_dir(&server.state_dir);
    if let Some(path) = &config.audit.anchor_path {
        options.audit.anchor_path.clone_from(path);
    }
    options.audit.digest_interval = config.audit.digest_interval;
    options.audit.retention_days = config.audit.retention;
    options.jwt = jwt(config);
    options.oidc = oidc(config)?;
    options.local_users = config.security.local_users;
    options.vault = vault(config);
    options.commit = crate::version::COMMIT.to_owned();
    options.store_dir = is_embedded(config).then(|| server.state_dir.clone());
    Ok(options)
}

fn jwt(config: &Config) -> JwtConfig {
    let security = &config.security;
    let mut options = JwtConfig::in_dir(&config.server.state_dir);
    options.issuer.clone_from(&security.jwt_issuer);
    options.secret = security.jwt_secret_key.as_ref().map(|secret| secret.0.clone());
    options.private_key_path.clone_from(&security.jwt_private_key_path);
    options.public_key_path.clone_from(&security.jwt_public_key_path);
    options.previous_secrets.clone_from(&security.jwt_previous_secrets.0);
    options.previous_key_paths.clone_from(&security.jwt_previous_key_paths);
    options.token_duration = security.jwt_token_duration;
    options.session_duration = security.jwt_session_duration;
    if !is_embedded(config) {
        // Other servers on the same database would not take its tokens.
        options.made_key_path = None;
    }
    options
}

fn oidc(config: &Config) -> Result<Vec<OidcIssuer>, CliError> {
    let mut issuers = Vec::new();
    for given in config.security.oidc.0.clone() {
        let mut issuer = OidcIssuer::new(given.issuer, String::new());
        issuer.audiences = given.audiences;
        issuer.algorithms = given.algorithms.unwrap_or(issuer.algorithms);
        issuer.user_claim = given.user_claim.unwrap_or(issuer.user_claim);
        issuer.role_claim = given.role_claim;
        issuer.roles = given.roles;
        issuer.default_role = given.default_role;
        issuer.tenant = given.tenant.map(|tenant| tenant.0);
        issuer.tenant_claim = given.tenant_claim;
        issuer.tenants = given.tenants.into_iter().map(|(value, tenant)| (value, tenant.0)).collect();
        issuer.require_nbf = given.require_nbf;
        issuer.allow_internal = given.allow_internal;
        issuer.ca_path = given.ca_path;
        if let Some(text) = given.refetch_interval {
            issuer.refetch_interval = duration("security.oidc: refetch_interval", &text)?;
        }
        issuers.push(issuer);
    }
    Ok(issuers)
}

fn vault(config: &Config) -> Option<VaultConfig> {
    let security = &config.security;
    let text = |text: &String| (!text.is_empty()).then(|| text.clone());
    security.vault_enabled.then(|| VaultConfig {
        address: security.vault_address.clone(),
        token: security.vault_token.clone(),
        token_file: security.vault_token_file.clone(),
        namespace: text(&security.vault_namespace),
        mount: security.vault_mount.clone(),
        prefix: security.vault_path.clone(),
        transit_key: text(&security.vault_transit_key),
        transit_mount: security.vault_transit_mount.clone(),
        ca_file: security.vault_ca_file.clone(),
        timeout: security.vault_timeout,
    })
}

pub(super) fn pepper_path(config: &Config) -> PathBuf {
    config.server.state_dir.join("api-keys.pepper")
}

/// PostgreSQL when an URL or a host is given, else SQLite.
pub(super) fn store(config: &Config) -> StoreConfig {
    let db = &config.database;
    let url = if !db.url.is_empty() {
        db.url.clone()
    } else if !db.host.is_empty() {
        let encode = crate::client::encode;
        let password =
            if db.password.is_empty() { String::new() } else { format!(":{}", encode(db.password.expose())) };
        Secret::new(format!(
            "postgres://{}{password}@{}:{}/{}?sslmode={}",
            encode(&db.user),
            if db.host.contains(':') { format!("[{}]", db.host) } else { db.host.clone() },
            db.port,
            encode(&db.database),
            db.ssl_mode.as_str(),
        ))
    } else {
        return StoreConfig::Sqlite { path: config.server.state_dir.join("aether.db") };
    };
    StoreConfig::Postgres { url, max_connections: db.max_open_conns }
}

pub(super) fn is_embedded(config: &Config) -> bool {
    config.database.url.is_empty() && config.database.host.is_empty()
}
