//! What a daemon changes on the host once: its table of rules and, where it
//! was off, IPv4 forwarding; and how both are undone.
//!
//! Forwarding is one switch for the whole host, possibly shared by several
//! daemons. Each table carries an empty chain that says how the switch was
//! found; whoever removes the last table with "off" switches it off again.
//! The kernel keeps that note also when a daemon is killed.

use super::deny::Lists;
use super::slot::blocking;
use super::{NetworkConfig, NetworkError, link, nft, rules};
use rtnetlink::Handle;
use std::net::IpAddr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

const FORWARD4: &str = "net/ipv4/ip_forward";
const FORWARD6: &str = "net/ipv6/conf/all/forwarding";
/// A predecessor's descriptor may live in a child until its exec.
const LOCK_TRIES: u32 = 40;
const LOCK_PAUSE: Duration = Duration::from_millis(50);

type Result<T> = std::result::Result<T, NetworkError>;

/// A name in the abstract socket space: as wide as the network namespace
/// whose objects it guards, and gone with its holder.
#[derive(Debug)]
pub(crate) struct Lock(#[allow(dead_code, reason = "held, not used")] UnixDatagram);

async fn lock(name: &str) -> Result<Option<Lock>> {
    let address = SocketAddr::from_abstract_name(format!("aether-network/{name}").as_bytes())
        .map_err(NetworkError::io("name a lock"))?;
    for _ in 0..LOCK_TRIES {
        match UnixDatagram::bind_addr(&address) {
            Ok(socket) => return Ok(Some(Lock(socket))),
            Err(e) if e.kind() == std::io::ErrorKind::AddrInUse => tokio::time::sleep(LOCK_PAUSE).await,
            Err(e) => return Err(NetworkError::io("take a lock")(e)),
        }
    }
    Ok(None)
}

/// One daemon per prefix.
pub(crate) async fn lock_prefix(cfg: &NetworkConfig) -> Result<Lock> {
    lock(&format!("prefix/{}", cfg.prefix))
        .await?
        .ok_or_else(|| NetworkError::PrefixTaken { prefix: cfg.prefix.clone() })
}

async fn lock_forwarding() -> Result<Lock> {
    lock("forwarding").await?.ok_or_else(|| NetworkError::Io {
        doing: "wait for another daemon's change of ip_forward".to_owned(),
        source: std::io::ErrorKind::TimedOut.into(),
    })
}

/// Refuses a carve that somebody else's interface already uses.
pub(crate) async fn check_uplink(cfg: &NetworkConfig, handle: &Handle) -> Result<()> {
    for (address, interface) in link::addresses(handle).await? {
        if let IpAddr::V4(a) = address
            && cfg.uplink_net.contains(&a)
            && cfg.slot_of(&interface).is_none()
        {
            return Err(NetworkError::UplinkTaken { net: cfg.uplink_net, address, interface });
        }
    }
    Ok(())
}

/// Loads the table and lets the host forward.
pub(crate) async fn prepare(cfg: &NetworkConfig, lists: &Lists) -> Result<()> {
    if cfg.ipv6_prefix.is_some() && !is_on(FORWARD6)? {
        return Err(NetworkError::Config {
            key: "ipv6_prefix",
            reason: "needs a host that forwards IPv6: set net.ipv6.conf.all.forwarding to 1 \
                     (and accept_ra to 2 where addresses come from router advertisements)"
                .to_owned(),
        });
    }
    let _guard = lock_forwarding().await?;
    let was_on = is_on(FORWARD4)? && !notes().await?.off;
    let text = rules::host_rules(cfg, lists, was_on);
    blocking(move || {
        nft::load("the host's rules", &text)?;
        if is_on(FORWARD4)? { Ok(()) } else { link::sysctl(FORWARD4, "1") }
    })
    .await
}

/// Removes the table, and switches forwarding off if it was off before the
/// first daemon and no other is left.
pub(crate) async fn undo(cfg: &NetworkConfig) -> Result<()> {
    let _guard = lock_forwarding().await?;
    let before = notes().await?;
    let text = rules::drop_host_rules(cfg);
    blocking(move || nft::load("the removal of the host's rules", &text)).await?;
    if before.off && !notes().await?.any && is_on(FORWARD4)? {
        link::sysctl(FORWARD4, "0")?;
    }
    Ok(())
}

/// Our table as the kernel has it; none when it is not there, as after an
/// operator's `nft flush ruleset`.
pub(crate) async fn table(cfg: &NetworkConfig) -> Result<Option<String>> {
    let name = cfg.table();
    if !tables().await?.contains(&format!("inet {name}")) {
        return Ok(None);
    }
    let text = format!("list table inet {name}\n");
    blocking(move || nft::run("the list of the host's rules", ["-f", "-"], Some(&text))).await.map(Some)
}

/// Removes tables that begin as ours do and are not ours: those of another
/// version, or of nobody. Names them.
pub(crate) async fn drop_strays(cfg: &NetworkConfig) -> Result<Vec<String>> {
    let (own, prefix) = (format!("inet {}", cfg.table()), format!("{}_", cfg.prefix));
    let strays: Vec<String> = tables().await?.into_iter().filter(|t| *t != own && is_stray(t, &prefix)).collect();
    let mut removed = Vec::new();
    for stray in strays {
        let text = format!("delete table {stray}\n");
        blocking(move || nft::load("the removal of a table", &text)).await?;
        removed.push(format!("rules of table {stray}"));
    }
    Ok(removed)
}

/// Whether a table's name begins so. One that nft could not have been told
/// is not put into its language.
fn is_stray(table: &str, prefix: &str) -> bool {
    let Some((_, name)) = table.split_once(' ') else { return false };
    name.starts_with(prefix) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-./".contains(&b))
}

/// All tables, each as `family name`.
async fn tables() -> Result<Vec<String>> {
    let list = blocking(|| nft::run("the list of tables", ["list", "tables"], None)).await?;
    Ok(list.lines().filter_map(|line| Some(line.trim().strip_prefix("table ")?.to_owned())).collect())
}

#[derive(Default)]
struct Notes {
    /// Some daemon's table is there.
    any: bool,
    /// One of them says that forwarding was found off.
    off: bool,
}

async fn notes() -> Result<Notes> {
    let chains = blocking(|| nft::run("the list of chains", ["list", "chains", "inet"], None)).await?;
    let mut notes = Notes::default();
    for word in chains.split_whitespace() {
        notes.off |= word == rules::FOUND_OFF;
        notes.any |= word == rules::FOUND_OFF || word == rules::FOUND_ON;
    }
    Ok(notes)
}

/// Chains of others that drop forwarded packets unless told otherwise, as a
/// container engine's or a firewall's do: no rule of ours can overrule them.
/// Each as `family table chain`.
pub async fn forward_blockers() -> Result<Vec<String>> {
    let chains = blocking(|| nft::run("the list of chains", ["list", "chains"], None)).await?;
    Ok(dropping_forward(&chains))
}

fn dropping_forward(chains: &str) -> Vec<String> {
    let (mut table, mut chain) = ("", "");
    let mut found = Vec::new();
    for line in chains.lines().map(str::trim) {
        if let Some(rest) = line.strip_prefix("table ") {
            table = rest.trim_end_matches('{').trim();
        } else if let Some(rest) = line.strip_prefix("chain ") {
            chain = rest.trim_end_matches('{').trim();
        } else if line.contains("hook forward") && line.contains("policy drop") {
            found.push(format!("{table} {chain}"));
        }
    }
    found
}

fn is_on(key: &str) -> Result<bool> {
    match std::fs::read_to_string(format!("/proc/sys/{key}")) {
        Ok(text) => Ok(text.trim() != "0"),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(NetworkError::io(format!("read {key}"))(e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_tables_with_our_prefix_are_strays() {
        for ours in ["inet aether_old", "ip aether_net", "bridge aether_7"] {
            assert!(is_stray(ours, "aether_"), "{ours}");
        }
        for foreign in [
            "inet aether",
            "inet aetherx_net",
            "inet my_aether_net",
            "ip filter",
            "inet",
            "inet aether_x; flush ruleset",
        ] {
            assert!(!is_stray(foreign, "aether_"), "{foreign}");
        }
    }

    #[test]
    fn a_firewall_in_the_way_is_named() {
        let text = "table ip filter {\n\tchain INPUT {\n\t\ttype filter hook input priority filter; policy drop;\n\t}\n\
                    \tchain FORWARD {\n\t\ttype filter hook forward priority filter; policy drop;\n\t}\n}\n\
                    table inet aether {\n\tchain forward {\n\t\ttype filter hook forward priority -5; policy accept;\n\t}\n}\n";
        assert_eq!(dropping_forward(text), ["ip filter FORWARD"]);
        assert!(dropping_forward("").is_empty());
    }
}
