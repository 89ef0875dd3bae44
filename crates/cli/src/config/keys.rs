//! Every key, with its type, default and meaning.

use super::load::Values;
use super::oidc::Issuers;
use super::setting::{
    AccelKind, Cidr, Cidr4, Cidr6, DnsServer, EngineKind, Factor, HostPort, JwtSecret, JwtSecrets, Listen, LogFormat,
    LogLevel, Setting, SslMode, StrategyKind,
};
use crate::error::CliError;
use aether_core::Secret;
use std::path::PathBuf;
use std::time::Duration;

/// What is known of a key without its value.
#[derive(Debug)]
pub(crate) struct Key {
    pub(crate) name: &'static str,
    pub(crate) default: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) secret: bool,
    /// The least and the most, where the kind alone does not say it.
    pub(crate) limits: Option<(&'static str, &'static str)>,
    pub(crate) reload: Reload,
    pub(crate) doc: &'static [&'static str],
}

/// What a reload (SIGHUP) does with a changed key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reload {
    /// It is taken.
    Live,
    /// It is named in a warning and waits for the next start.
    Restart,
}

impl Reload {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Restart => "restart",
        }
    }
}

macro_rules! settings {
    (@limits) => { None };
    (@limits $least:literal $most:literal) => { Some(($least, $most)) };
    // key: type = "default" [in "least" to "most"], Live or Restart;
    ($(
        $(#[doc = $group_doc:literal])+
        $group:ident: $Group:ident {
            $(
                $(#[doc = $doc:literal])+
                $key:ident: $type:ty = $default:literal $(in $least:literal to $most:literal)?, $reload:ident;
            )+
        }
    )+) => {
        $(
            $(#[doc = $group_doc])+
            #[derive(Debug, Clone)]
            pub(crate) struct $Group { $( $(#[doc = $doc])+ pub(crate) $key: $type, )+ }
        )+

        /// The whole configuration.
        #[derive(Debug, Clone)]
        pub(crate) struct Config { $( pub(crate) $group: $Group, )+ }

        impl Config {
            /// Reads every key; the errors name all that are wrong.
            pub(super) fn read(values: &Values) -> Result<Self, CliError> {
                let mut errors = Vec::new();
                let config = Self {
                    $( $group: $Group {
                        $( $key: values.get::<$type>(
                            concat!(stringify!($group), ".", stringify!($key)),
                            $default,
                            settings!(@limits $($least $most)?),
                            &mut errors,
                        ), )+
                    }, )+
                };
                if errors.is_empty() { Ok(config) } else { Err(CliError::failed(errors.join("\n"))) }
            }
        }

        pub(crate) const KEYS: &[Key] = &[$($(
            Key {
                name: concat!(stringify!($group), ".", stringify!($key)),
                default: $default,
                kind: <$type as Setting>::KIND,
                secret: <$type as Setting>::SECRET,
                limits: settings!(@limits $($least $most)?),
                reload: Reload::$reload,
                doc: &[$($doc),+],
            },
        )+)+];

        /// The groups with what they are for.
        #[cfg(test)]
        pub(crate) const GROUPS: &[(&str, &[&str])] = &[$( (stringify!($group), &[$($group_doc),+]), )+];
    };
}

settings! {
    /// The API server and its folders.
    server: ServerSettings {
        /// Where the HTTP API listens. `:8080` means all interfaces: a warning without TLS, refused without
        /// authentication. `none` leaves the local socket alone.
        address: Listen = "127.0.0.1:8080", Restart;
        /// The local socket; empty: `aether.sock` in `server.run_dir`. Root and members of the group `aether` may
        /// use it, without a key.
        socket: Option<PathBuf> = "", Restart;
        /// Durable state: the database, keys, images, disks.
        state_dir: PathBuf = "/var/lib/aether", Restart;
        /// Sockets and other files that do not outlive a reboot.
        run_dir: PathBuf = "/run/aether", Restart;
        /// The certificate chain (PEM) for HTTPS; needs `server.tls_key`. A reload reads both files anew; from plain
        /// HTTP to HTTPS and back takes a restart.
        tls_cert: Option<PathBuf> = "", Live;
        /// The certificate's key (PEM).
        tls_key: Option<PathBuf> = "", Live;
        /// Where `server.tls_cert` is not set: HTTPS with a certificate of the server's own authority, made in the
        /// folder `tls` of `server.state_dir`; clients trust its `ca.pem` (for the command line `SSL_CERT_FILE`).
        /// `aether server --tls` sets it.
        tls_own_ca: bool = "false", Restart;
        /// Names and addresses that clients reach the server by, beside its host name, `localhost` and its own
        /// addresses; for `server.tls_own_ca`.
        tls_names: Vec<String> = "", Live;
        /// Take TLS 1.2 too, not 1.3 alone.
        allow_tls12: bool = "false", Live;
        /// Off, whoever reaches the port is an admin of the tenant `default`; refused unless every address is
        /// loopback.
        enable_auth: bool = "true", Restart;
        /// How long the head of a request may take to arrive, its JSON body again, and how long a connection may idle.
        read_timeout: Duration = "8s" in "10ms" to "1h", Live;
        /// The deadline of routes that neither wait nor stream.
        write_timeout: Duration = "15s" in "10ms" to "1h", Live;
        /// How long requests may end after a shutdown began.
        shutdown_timeout: Duration = "10s" in "0s" to "5m", Live;
        /// Connections at one time.
        max_connections: usize = "4096" in "1" to "1000000", Live;
        /// Those of one peer: an IPv4 address, an IPv6 /64, or a user of the local socket. Behind a load balancer all
        /// clients are one peer.
        max_connections_per_peer: usize = "1024" in "1" to "1000000", Live;
        /// Let browsers call from `server.allowed_origins`.
        enable_cors: bool = "false", Restart;
        /// Origins as scheme://host[:port]. A literal `*` is refused, since answers carry credentials.
        allowed_origins: Vec<String> = "", Live;
    }

    /// Where the truth is kept: SQLite in `server.state_dir`, or PostgreSQL when an URL or a host is given.
    database: DatabaseSettings {
        /// A postgres:// URL; wins over the single keys. `DATABASE_URL` sets it too.
        url: Secret = "", Restart;
        /// The host of a PostgreSQL server.
        host: String = "", Restart;
        /// Its port.
        port: u16 = "5432" in "1" to "65535", Restart;
        /// The name of the database.
        database: String = "aether", Restart;
        /// The user.
        user: String = "aether", Restart;
        /// The password.
        password: Secret = "", Restart;
        /// How TLS is used: disable, prefer, require, verify-ca, verify-full.
        ssl_mode: SslMode = "disable", Restart;
        /// Connections at one time.
        max_open_conns: u32 = "25" in "1" to "10000", Restart;
    }

    /// Parts of a tenant's request rate, which its quota sets; none is below one a second.
    rate_limits: RateLimitSettings {
        /// What one API key or user may take of its tenant's rate, in percent.
        caller_percent: u32 = "10" in "1" to "100", Live;
        /// What creating agents may take.
        create_percent: u32 = "20" in "1" to "100", Live;
        /// What execs may take.
        exec_percent: u32 = "10" in "1" to "100", Live;
    }

    /// Redis, where several servers count request rates together. Without it each counts for itself; while it is away
    /// too.
    redis: RedisSettings {
        /// `host:port`; empty: no Redis.
        address: Option<HostPort> = "", Restart;
        /// The password.
        password: Secret = "", Restart;
        /// The number of the database; two installations on one Redis need two.
        db: u32 = "0" in "0" to "65535", Restart;
        /// TLS, with the system's roots.
        tls: bool = "false", Restart;
    }

    /// The scheduling loop and the nodes' leases.
    scheduler: SchedulerSettings {
        /// Which of the nodes that fit is taken: the fullest (bin-packing), the emptiest (spread), or the one with the
        /// least left over (best-fit).
        strategy: StrategyKind = "bin-packing", Live;
        /// A fallback: events wake the scheduler at once.
        interval: Duration = "1s" in "1ms" to "1h", Live;
        /// How often a node renews its lease.
        heartbeat_interval: Duration = "2s" in "10ms" to "1h", Restart;
        /// After this time without a heartbeat a node is lost; at least twice the interval.
        node_lease: Duration = "6s" in "20ms" to "24h", Restart;
    }

    /// The audit log's proofs and its retention.
    audit: AuditSettings {
        /// The file that signed digests are appended to, outside of the database; empty: `audit-anchor.jsonl` in
        /// `server.state_dir`. It proves most where the server's own user cannot rewrite it.
        anchor_path: Option<PathBuf> = "", Restart;
        /// How often a tenant's chain is signed and anchored, where it grew.
        digest_interval: Duration = "1m" in "1s" to "24h", Live;
        /// Days that records are kept; 0: for ever. What is removed leaves a signed digest behind.
        retention: u32 = "0" in "0" to "36500", Live;
    }

    /// Tokens and logins: see [authentication.md](authentication.md). Secrets of tenants, in the store or with Vault (or
    /// OpenBao): see [secrets.md](secrets.md).
    security: SecuritySettings {
        /// Signs tokens (HS256). Where neither this nor a private key is given, a server with a database of its own
        /// makes a key (EdDSA, `jwt-signing.key` in `server.state_dir`), and one on PostgreSQL does not start.
        jwt_secret_key: Option<JwtSecret> = "", Live;
        /// Signs tokens by a private key in PEM (PKCS#8, mode 0600): RS256, ES256 or EdDSA, by what it is. A secret
        /// beside it only verifies.
        jwt_private_key_path: Option<PathBuf> = "", Live;
        /// Its public half, where it is to be checked that the two fit.
        jwt_public_key_path: Option<PathBuf> = "", Live;
        /// Secrets that signed before: their tokens hold until they end.
        jwt_previous_secrets: JwtSecrets = "", Live;
        /// The same of public keys (PEM), also those that another server signs with already.
        jwt_previous_key_paths: Vec<PathBuf> = "", Live;
        /// How long a token holds.
        jwt_token_duration: Duration = "1h" in "1s" to "24h", Live;
        /// How long a login can be refreshed.
        jwt_session_duration: Duration = "720h" in "1s" to "8760h", Live;
        /// The claim `iss` of tokens.
        jwt_issuer: String = "aether", Live;
        /// Users log in with a password.
        local_users: bool = "false", Live;
        /// Whose tokens are taken beside our own (OpenID Connect): entries as in the page above.
        oidc: Issuers = "", Restart;
        /// New secrets go to Vault KV version 2, or are sealed with a key that its transit wraps. Vault is required
        /// then: while it is away secrets can be neither set nor given to agents that start; what runs goes on.
        vault_enabled: bool = "false", Restart;
        /// http:// or https://, host and port.
        vault_address: String = "", Restart;
        /// The token for it.
        vault_token: Secret = "", Restart;
        /// A file with the token, read at each use, for whoever renews it; wins over `security.vault_token`.
        vault_token_file: Option<PathBuf> = "", Restart;
        /// The namespace; empty: none.
        vault_namespace: String = "", Restart;
        /// Where KV version 2 is mounted.
        vault_mount: String = "secret", Restart;
        /// The path below the mount: values are at this path, the tenant, the secret's name.
        vault_path: String = "aether", Restart;
        /// A transit key that wraps data keys; values stay in the store then. Empty: KV.
        vault_transit_key: String = "", Restart;
        /// Where transit is mounted.
        vault_transit_mount: String = "transit", Restart;
        /// Certificates (PEM) to trust beside the system's.
        vault_ca_file: Option<PathBuf> = "", Restart;
        /// The limit of one call.
        vault_timeout: Duration = "5s" in "100ms" to "10s", Restart;
    }

    /// Logs and metrics.
    observability: ObservabilitySettings {
        /// error, warn, info, debug or trace.
        log_level: LogLevel = "info", Live;
        /// json, text, or auto: text on a terminal, JSON elsewhere.
        log_format: LogFormat = "auto", Restart;
        /// Off, `/metrics` answers 404.
        metrics_enabled: bool = "true", Live;
        /// `/metrics` needs a key that may read agents.
        metrics_auth: bool = "false", Live;
    }

    /// What runs the sandboxes.
    engine: EngineSettings {
        /// The engine.
        kind: EngineKind = "qemu", Restart;
        /// kvm, tcg, or auto: KVM when a probe guest really runs on it, else emulation, which is no security
        /// boundary and is reported as `vm-emulated`.
        accel: AccelKind = "auto", Restart;
        /// The QEMU executable, version 9 or newer; empty: looked for.
        qemu_path: Option<PathBuf> = "", Restart;
        /// The guest's kernel; empty: the newest in /boot that fits.
        kernel_path: Option<PathBuf> = "", Restart;
        /// The modules of that kernel; empty: /lib/modules and its release.
        modules_dir: Option<PathBuf> = "", Restart;
        /// The guest executable; empty: the one in this binary, else `aether-guest` beside it.
        guest_path: Option<PathBuf> = "", Restart;
        /// More words for the guest kernel's command line.
        extra_kernel_args: String = "", Restart;
        /// Encrypt each agent's writable disk with a key that dies with it.
        encrypt_disks: bool = "true", Restart;
        /// Let tenants other than `default` run where the engine only emulates.
        allow_emulation: bool = "false", Live;
    }

    /// The node: how much it takes, and the names it uses on the host.
    node: NodeSettings {
        /// Processors are a weight: so many times more are given out than there are.
        cpu_overcommit: u32 = "64" in "1" to "1000", Restart;
        /// Memory given out over memory there is.
        memory_overcommit: Factor = "1", Restart;
        /// Disk given out over disk there is: an agent's disk takes what was written to it, most often a few
        /// megabytes of its size.
        disk_overcommit: Factor = "10", Restart;
        /// Boots at one time; 0: by the number of processors.
        max_boots: u32 = "0" in "0" to "1024", Restart;
        /// From the start of the boot to the guest's answer; stretched under emulation. Time in the queue does not
        /// count.
        boot_timeout: Duration = "30s" in "1ms" to "1h", Live;
        /// Network slots, which is sandboxes, at most.
        network_slots: u32 = "256" in "1" to "4096", Restart;
        /// Network slots kept ready.
        network_spare: u32 = "4" in "0" to "4096", Restart;
        /// DNS servers for sandboxes; empty: those of this machine.
        upstream_dns: Vec<DnsServer> = "", Restart;
        /// Ranges that sandboxes may reach although they are private; nothing else opens them.
        network_allow: Vec<Cidr> = "", Restart;
        /// Ranges that sandboxes may not reach although they are public: the control plane's addresses, say.
        network_deny: Vec<Cidr> = "", Restart;
        /// The IPv4 range between this machine and its sandboxes, two addresses per slot; empty: a /20 of
        /// 100.96.0.0/11 that follows from `node.prefix`.
        uplink_net: Option<Cidr4> = "", Restart;
        /// Gives sandboxes IPv6: a range of /112 or wider that is routed to this machine. Empty: they have none.
        ipv6_prefix: Option<Cidr6> = "", Restart;
        /// The largest packet of sandboxes; empty: that of the default route.
        mtu: Option<u32> = "" in "1280" to "65521", Restart;
        /// MiB a second that one sandbox may read and write on its disks, together; 0: no limit.
        disk_mb_per_s: u32 = "400" in "0" to "1000000", Restart;
        /// Requests a second of one sandbox to its disks; 0: no limit.
        disk_iops: u32 = "20000" in "0" to "100000000", Restart;
        /// MiB a second that one sandbox may send, and again receive; 0: no limit.
        network_mb_per_s: u32 = "125" in "0" to "10000", Restart;
        /// Packets a second that one sandbox may send, and again receive; 0: no limit.
        network_packets_per_s: u32 = "100000" in "0" to "100000000", Restart;
        /// Connections that one sandbox may hold open; 0: no limit.
        network_flows: u32 = "8192" in "0" to "1000000", Restart;
        /// Sandboxes run as this user id plus their slot.
        uid_base: u32 = "700000" in "100000" to "4000000000", Restart;
        /// Begins the names of namespaces, links, rules and groups; two servers on one machine need two.
        prefix: String = "aether", Restart;
    }

    /// Pulling and keeping images.
    images: ImageSettings {
        /// Registries (host or host:port) that may be spoken to in plain HTTP. Loopback always may.
        allow_insecure_hosts: Vec<String> = "", Live;
        /// Registries (host or host:port), and hosts they redirect to, that may lie at private addresses. Loopback
        /// needs no entry.
        allow_hosts: Vec<String> = "", Live;
        /// The largest image taken, in bytes: of its compressed layers, and again of their contents.
        max_image_bytes: u64 = "17179869184" in "1048576" to "1125899906842624", Live;
        /// How long an image without a name stays before it is collected.
        gc_grace: Duration = "1h" in "0s" to "8760h", Live;
    }
}

impl Config {
    /// The local socket's path.
    pub(crate) fn socket(&self) -> PathBuf {
        self.server.socket.clone().unwrap_or_else(|| self.server.run_dir.join("aether.sock"))
    }
}

/// Variables that name a key beside `AETHER_GROUP_KEY`. Where both are set,
/// the long form wins.
pub(crate) const ALIASES: &[(&str, &str)] = &[
    ("DATABASE_URL", "database.url"),
    ("SERVER_ADDRESS", "server.address"),
    ("JWT_SECRET", "security.jwt_secret_key"),
    ("AETHER_STATE_DIR", "server.state_dir"),
    ("AETHER_RUN_DIR", "server.run_dir"),
];

/// Variables that are ours and no keys.
pub(super) const OTHER_VARIABLES: &[&str] =
    &["AETHER_SERVER", "AETHER_TOKEN", "AETHER_API_KEY", "AETHER_REGISTRY_PASSWORD"];

/// Keys of the earlier version that nothing reads yet: said aloud, never
/// swallowed.
pub(crate) const NOT_USED: &[&str] = &[
    "scheduler.event_buffer_size",
    "scheduler.mode",
    "scheduler.scheduler_id",
    "scheduler.instance_id",
    "scheduler.hostname",
    "scheduler.virtual_nodes",
    "scheduler.num_workers",
    "database.max_idle_conns",
    "database.conn_max_lifetime",
    "database.migrations_path",
    "redis.node_ttl",
    "kafka.brokers",
    "kafka.topic",
    "kafka.dlq_topic",
    "kafka.consumer_group",
    "kafka.max_retries",
    "kafka.request_timeout",
    "kafka.partition_strategy",
    "etcd.endpoints",
    "etcd.key_prefix",
    "etcd.session_ttl",
    "observability.metrics_port",
    "observability.metrics_path",
    "observability.tracing_enabled",
    "observability.tracing_sample_rate",
    "observability.jaeger_endpoint",
    "observability.otlp_endpoint",
];
