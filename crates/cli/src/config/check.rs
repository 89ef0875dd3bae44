//! What single values cannot tell: how they fit together.

use super::keys::Config;
use super::setting::Listen;
use crate::error::CliError;

/// The path of a Unix socket must fit into `sun_path`.
const MAX_SOCKET_PATH: usize = 107;

/// Errors name all that does not fit; warnings come back.
pub(super) fn check(config: &Config) -> Result<Vec<String>, CliError> {
    let mut errors = Vec::new();
    let mut warnings = Vec::new();
    let (server, scheduler, node) = (&config.server, &config.scheduler, &config.node);
    if server.tls_cert.is_some() != server.tls_key.is_some() {
        errors.push("server.tls_cert and server.tls_key go together: set both or none".to_owned());
    }
    if let Listen::On(addresses) = &server.address {
        let open = addresses.iter().find(|a| !a.ip().is_loopback());
        if let Some(open) = open {
            if !server.enable_auth {
                errors.push(format!(
                    "server.enable_auth is off, but {open} is not a loopback address: turn it on, or listen on 127.0.0.1"
                ));
            } else if server.tls_cert.is_none() {
                warnings.push(format!(
                    "{open} is served without TLS: keys and data can be read on the way; set server.tls_cert and server.tls_key"
                ));
            }
        }
    }
    if config.socket().as_os_str().len() > MAX_SOCKET_PATH {
        errors.push(format!("server.socket: the path may have at most {MAX_SOCKET_PATH} bytes"));
    }
    for origin in &server.allowed_origins {
        if origin == "*" || !origin.contains("://") {
            errors.push(format!("server.allowed_origins: {origin:?} must be scheme://host[:port]; `*` is refused"));
        }
    }
    if server.enable_cors && server.allowed_origins.is_empty() {
        errors.push("server.enable_cors needs server.allowed_origins".to_owned());
    }
    if scheduler.heartbeat_interval.is_zero() || scheduler.heartbeat_interval * 2 > scheduler.node_lease {
        errors.push("scheduler.node_lease must be at least twice scheduler.heartbeat_interval".to_owned());
    }
    for (key, value) in [
        ("server.read_timeout", server.read_timeout),
        ("server.write_timeout", server.write_timeout),
        ("scheduler.interval", scheduler.interval),
        ("node.boot_timeout", node.boot_timeout),
    ] {
        if value.is_zero() {
            errors.push(format!("{key} must be longer than nothing"));
        }
    }
    for (key, value, least, most) in [
        ("server.max_connections", server.max_connections as u64, 1, 1_000_000),
        ("server.max_connections_per_peer", server.max_connections_per_peer as u64, 1, 1_000_000),
        ("database.max_open_conns", config.database.max_open_conns.into(), 1, 10_000),
        ("node.network_slots", node.network_slots.into(), 1, 4096),
        ("node.uid_base", node.uid_base.into(), 100_000, 4_000_000_000),
        ("node.cpu_overcommit", node.cpu_overcommit.into(), 1, 1000),
        ("node.mtu", node.mtu.unwrap_or(1500).into(), 1280, 65_521),
        ("images.max_image_bytes", config.images.max_image_bytes, 1 << 20, 1 << 50),
    ] {
        if !(least..=most).contains(&value) {
            errors.push(format!("{key} must be {least} to {most}, is {value}"));
        }
    }
    if node.network_spare > node.network_slots {
        errors.push("node.network_spare must not be more than node.network_slots".to_owned());
    }
    if let Some(net) = node.uplink_net.map(|c| c.0)
        && u64::from(node.network_slots) * 2 > 1 << (32 - net.prefix_len())
    {
        let slots = node.network_slots;
        errors.push(format!("node.uplink_net: {net} is too small for {slots} slots of two addresses"));
    }
    if let Some(net) = node.ipv6_prefix.map(|c| c.0)
        && net.prefix_len() > 112
    {
        errors.push(format!("node.ipv6_prefix: {net} is too small: /112 or wider is needed"));
    }
    for (key, host) in [
        ("images.allow_hosts", &config.images.allow_hosts),
        ("images.allow_insecure_hosts", &config.images.allow_insecure_hosts),
    ]
    .into_iter()
    .flat_map(|(key, hosts)| hosts.iter().map(move |host| (key, host)))
    {
        if host.contains(['/', '@', ' ']) {
            errors.push(format!("{key}: {host:?} must be host or host:port, without scheme and path"));
        }
    }
    // It begins names of network devices, which have 15 characters at most.
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let letter_first = node.prefix.starts_with(|c: char| c.is_ascii_lowercase());
    if !letter_first || node.prefix.len() > 9 || !node.prefix.chars().all(plain) {
        errors.push("node.prefix must be a letter and at most 8 more of a-z and 0-9".to_owned());
    }
    if errors.is_empty() { Ok(warnings) } else { Err(CliError::failed(errors.join("\n"))) }
}
