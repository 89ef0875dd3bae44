//! What single values cannot tell: how they fit together.

use super::keys::Config;
use super::load::Values;
use super::setting::Listen;
use crate::error::CliError;

/// The path of a Unix socket must fit into `sun_path`.
/// Of a DNS name.
const MAX_NAME: usize = 253;
const MAX_SOCKET_PATH: usize = 107;

/// Errors name all that does not fit, each with the key's source; warnings
/// come back.
pub(super) fn check(config: &Config, values: &Values) -> Result<Vec<String>, CliError> {
    let mut said = Said { values, errors: Vec::new(), warnings: Vec::new() };
    server(&mut said, config);
    cors(&mut said, config);
    scheduler(&mut said, config);
    node(&mut said, config);
    registries(&mut said, config);
    security(&mut said, config);
    vault(&mut said, config);
    let Said { errors, warnings, .. } = said;
    if errors.is_empty() { Ok(warnings) } else { Err(CliError::failed(errors.join("\n"))) }
}

struct Said<'a> {
    values: &'a Values,
    errors: Vec<String>,
    warnings: Vec<String>,
}

impl Said<'_> {
    fn wrong(&mut self, key: &str, why: impl std::fmt::Display) {
        let key = self.values.named(key);
        self.errors.push(format!("{key}: {why}"));
    }
}

fn server(said: &mut Said, config: &Config) {
    let server = &config.server;
    if server.tls_cert.is_some() != server.tls_key.is_some() {
        let given = if server.tls_cert.is_some() { "server.tls_cert" } else { "server.tls_key" };
        said.wrong(given, "server.tls_cert and server.tls_key go together: set both or none");
    }
    for name in &server.tls_names {
        let letters = |c: char| c.is_ascii_alphanumeric() || "-.:*".contains(c);
        if name.is_empty() || name.len() > MAX_NAME || !name.chars().all(letters) {
            said.wrong("server.tls_names", format!("{name:?} is neither a DNS name nor an address"));
        }
    }
    if let Listen::On(addresses) = &server.address
        && let Some(open) = addresses.iter().find(|a| !a.ip().is_loopback())
    {
        if !server.enable_auth {
            said.wrong(
                "server.enable_auth",
                format!("off, but {open} is not a loopback address: turn it on, or listen on 127.0.0.1"),
            );
        } else if server.tls_cert.is_none() && !server.tls_own_ca {
            said.warnings.push(format!(
                "{open} is served without TLS: keys and data can be read on the way; set server.tls_cert and server.tls_key, or server.tls_own_ca"
            ));
        }
    }
    let socket = config.socket();
    let length = socket.as_os_str().len();
    if length > MAX_SOCKET_PATH {
        let given = if server.socket.is_some() { "server.socket" } else { "server.run_dir" };
        said.wrong(
            given,
            format!("the path of server.socket may have at most {MAX_SOCKET_PATH} bytes, {socket:?} has {length}"),
        );
    }
}

fn cors(said: &mut Said, config: &Config) {
    let server = &config.server;
    for origin in &server.allowed_origins {
        let plain = origin.bytes().all(|b| b.is_ascii_graphic());
        if origin == "*" || !origin.contains("://") || !plain {
            said.wrong("server.allowed_origins", format!("{origin:?} must be scheme://host[:port]; `*` is refused"));
        }
    }
    if server.enable_cors && server.allowed_origins.is_empty() {
        said.wrong("server.enable_cors", "needs server.allowed_origins");
    }
}

fn scheduler(said: &mut Said, config: &Config) {
    let (lease, beat) = (config.scheduler.node_lease, config.scheduler.heartbeat_interval);
    if beat * 2 > lease {
        said.wrong(
            "scheduler.node_lease",
            format!("{lease:?} must be at least twice scheduler.heartbeat_interval, which is {beat:?}"),
        );
    }
}

fn node(said: &mut Said, config: &Config) {
    let node = &config.node;
    let slots = node.network_slots;
    if node.network_spare > slots {
        let spare = node.network_spare;
        said.wrong("node.network_spare", format!("{spare} must not be more than node.network_slots, which is {slots}"));
    }
    if let Some(net) = node.uplink_net.map(|c| c.0)
        && u64::from(slots) * 2 > 1 << (32 - net.prefix_len())
    {
        said.wrong("node.uplink_net", format!("{net} is too small for {slots} slots of two addresses"));
    }
    if let Some(net) = node.ipv6_prefix.map(|c| c.0)
        && net.prefix_len() > 112
    {
        said.wrong("node.ipv6_prefix", format!("{net} is too small: /112 or wider is needed"));
    }
    // It begins names of network devices, which have 15 characters at most.
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let letter_first = node.prefix.starts_with(|c: char| c.is_ascii_lowercase());
    if !letter_first || node.prefix.len() > 9 || !node.prefix.chars().all(plain) {
        said.wrong("node.prefix", format!("{:?} must be a letter and at most 8 more of a-z and 0-9", node.prefix));
    }
}

fn security(said: &mut Said, config: &Config) {
    let security = &config.security;
    if security.jwt_public_key_path.is_some() && security.jwt_private_key_path.is_none() {
        let why = "a public key alone signs nothing: set security.jwt_private_key_path too";
        said.wrong("security.jwt_public_key_path", why);
    }
    if security.jwt_issuer.is_empty() || !security.jwt_issuer.bytes().all(|b| b.is_ascii_graphic()) {
        said.wrong("security.jwt_issuer", "must be printable ASCII without spaces");
    }
}

fn vault(said: &mut Said, config: &Config) {
    let security = &config.security;
    if !security.vault_enabled {
        return;
    }
    if security.vault_address.is_empty() {
        said.wrong("security.vault_enabled", "needs security.vault_address");
    } else if !["http://", "https://"].iter().any(|scheme| security.vault_address.starts_with(scheme)) {
        said.wrong("security.vault_address", "must be http:// or https://, host and port");
    }
    if security.vault_token.is_empty() && security.vault_token_file.is_none() {
        said.wrong("security.vault_enabled", "needs security.vault_token or security.vault_token_file");
    }
    if let Some(host) = security.vault_address.strip_prefix("http://")
        && !["127.", "localhost", "[::1]"].iter().any(|own| host.starts_with(own))
    {
        said.warnings
            .push(format!("Vault is spoken to without TLS at {host}: token and values can be read on the way"));
    }
}

fn registries(said: &mut Said, config: &Config) {
    for (key, hosts) in [
        ("images.allow_hosts", &config.images.allow_hosts),
        ("images.allow_insecure_hosts", &config.images.allow_insecure_hosts),
    ] {
        for host in hosts.iter().filter(|host| host.contains(['/', '@', ' '])) {
            said.wrong(key, format!("{host:?} must be host or host:port, without scheme and path"));
        }
    }
}
