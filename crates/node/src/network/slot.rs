//! One slot's host objects: how they are made, reset, changed and removed.
//! Every step is safe to repeat, and `remove` copes with whatever a crash
//! left; everything hangs on the namespace and the host's end of the link.

use super::config::{GATEWAY, NetworkConfig};
use super::deny::Lists;
use super::link::{self, LinkPlan};
use super::{NetworkError, SlotCounters, conntrack, netns, nft, rules, tap};
use aether_core::spec::NetworkPolicy;
use rtnetlink::Handle;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

type Result<T> = std::result::Result<T, NetworkError>;

/// What all slots have in common.
#[derive(Debug)]
pub(crate) struct Floor {
    pub(crate) cfg: NetworkConfig,
    pub(crate) mtu: u32,
    pub(crate) host: Handle,
    rules_public: Arc<str>,
    rules_none: Arc<str>,
}

/// The resolver's sockets in a slot's namespace, not yet on a runtime.
#[derive(Debug)]
pub(crate) struct DnsSockets {
    pub(crate) udp: UdpSocket,
    pub(crate) tcp: TcpListener,
}

impl Floor {
    pub(crate) fn new(cfg: NetworkConfig, lists: &Lists, mtu: u32, host: Handle) -> Self {
        let rules_public = rules::slot_rules(&cfg, lists, NetworkPolicy::Public).into();
        let rules_none = rules::slot_rules(&cfg, lists, NetworkPolicy::None).into();
        Self { cfg, mtu, host, rules_public, rules_none }
    }

    fn rules(&self, policy: NetworkPolicy) -> Arc<str> {
        match policy {
            NetworkPolicy::Public => self.rules_public.clone(),
            NetworkPolicy::None => self.rules_none.clone(),
        }
    }

    fn plan(&self, slot: u32) -> LinkPlan {
        let (host, inner) = self.cfg.link_addresses(slot);
        LinkPlan { host, inner, outer6: self.cfg.outer6(slot), mtu: self.mtu }
    }

    pub(crate) fn exists(&self, slot: u32) -> bool {
        netns::exists(&self.cfg.netns_path(slot))
    }

    /// Whether anything at all is there under the slot's name.
    pub(crate) async fn has_trace(&self, slot: u32) -> Result<bool> {
        Ok(self.cfg.netns_path(slot).symlink_metadata().is_ok()
            || link::find(&self.host, &self.cfg.name(slot)).await?.is_some())
    }

    /// Makes the slot with the rules of `public` and no guest on its tap. On
    /// error nothing is left.
    pub(crate) async fn make(&self, slot: u32) -> Result<()> {
        self.remove(slot).await?;
        let made = self.make_steps(slot).await;
        if made.is_err()
            && let Err(e) = self.remove(slot).await
        {
            tracing::warn!(slot, error = %e, "a slot that could not be made could not be removed: the next sweep will");
        }
        made
    }

    async fn make_steps(&self, slot: u32) -> Result<()> {
        let path = self.cfg.netns_path(slot);
        let (v6, owner) = (self.cfg.ipv6_prefix.is_some(), self.cfg.uid_base.saturating_add(slot));
        let rules = self.rules(NetworkPolicy::Public);
        netns::create(path.clone(), move || {
            settings(v6)?;
            tap::create(owner)?;
            nft::load("a slot's rules", &rules)
        })
        .await?;
        let ns = std::fs::File::open(&path).map_err(NetworkError::io("open the new namespace"))?;
        let plan = self.plan(slot);
        link::make_pair(&self.host, &self.cfg.name(slot), ns.as_fd(), plan).await?;
        netns::inside(path, move || {
            link::block_on(async |handle| {
                link::furnish_tap(handle, plan.mtu, v6).await?;
                link::open_uplink(handle, plan).await
            })
        })
        .await
    }

    /// After a guest: a fresh tap (whoever still holds the old one holds a
    /// dead descriptor), no connections, the rules of `public`.
    pub(crate) async fn reset(&self, slot: u32) -> Result<()> {
        let plan = self.plan(slot);
        let (v6, owner) = (self.cfg.ipv6_prefix.is_some(), self.cfg.uid_base.saturating_add(slot));
        let rules = self.rules(NetworkPolicy::Public);
        netns::inside(self.cfg.netns_path(slot), move || {
            link::block_on(async |handle| {
                link::shut_uplink(handle).await?;
                link::delete(handle, tap::TAP).await
            })?;
            tap::create(owner)?;
            nft::load("a slot's rules", &rules)?;
            conntrack::flush_all()?;
            link::block_on(async |handle| {
                link::furnish_tap(handle, plan.mtu, v6).await?;
                link::open_uplink(handle, plan).await
            })
        })
        .await?;
        self.flush_host(slot).await
    }

    /// Loads the rules and, with `cut`, ends what was flowing.
    pub(crate) async fn load(&self, slot: u32, policy: NetworkPolicy, cut: bool) -> Result<()> {
        let plan = self.plan(slot);
        let rules = self.rules(policy);
        netns::inside(self.cfg.netns_path(slot), move || {
            nft::load("a slot's rules", &rules)?;
            if cut {
                conntrack::flush_all()?;
            }
            link::block_on(async |handle| match policy {
                NetworkPolicy::None => link::shut_uplink(handle).await,
                NetworkPolicy::Public => link::open_uplink(handle, plan).await,
            })
        })
        .await?;
        if cut { self.flush_host(slot).await } else { Ok(()) }
    }

    async fn flush_host(&self, slot: u32) -> Result<()> {
        let (_, inner) = self.cfg.link_addresses(slot);
        let outer6 = self.cfg.outer6(slot);
        blocking(move || {
            conntrack::flush_from(inner.into())?;
            outer6.map_or(Ok(()), |a| conntrack::flush_from(a.into()))
        })
        .await
    }

    /// Attaches to the tap and, where the policy has a resolver, opens its
    /// sockets: one visit to the namespace.
    pub(crate) async fn enter(
        &self,
        slot: u32,
        with_tap: bool,
        dns: bool,
    ) -> Result<(Option<OwnedFd>, Option<DnsSockets>)> {
        netns::inside(self.cfg.netns_path(slot), move || {
            let tap = with_tap.then(|| tap::attach(slot)).transpose()?;
            Ok((tap, dns.then(dns_sockets).transpose()?))
        })
        .await
    }

    /// Removes the slot's objects, in any state of completeness; names what
    /// there was.
    pub(crate) async fn remove(&self, slot: u32) -> Result<Vec<String>> {
        let name = self.cfg.name(slot);
        let mut found = Vec::new();
        // The link first: with the namespace alone it would go later, and a
        // slot made meanwhile under the same name would fail.
        if link::delete(&self.host, &name).await? {
            found.push(format!("interface {name}"));
        }
        let path = self.cfg.netns_path(slot);
        found.extend(blocking(move || netns::remove(&path)).await?.into_iter().map(|what| format!("{what} {name}")));
        self.flush_host(slot).await?;
        Ok(found)
    }

    pub(crate) async fn counters(&self, slot: u32) -> Result<SlotCounters> {
        Ok(link::counters(&self.host, &self.cfg.name(slot)).await?.unwrap_or_default())
    }
}

/// Settings of a fresh namespace. IPv4's are inherited from the host, so
/// that each one that matters is set.
fn settings(v6: bool) -> Result<()> {
    let v4 = [
        ("net/ipv4/ip_forward", "1"),
        ("net/ipv4/conf/all/rp_filter", "0"),
        ("net/ipv4/conf/default/rp_filter", "1"),
        // The tap answers for the gateway's address only.
        ("net/ipv4/conf/all/arp_ignore", "1"),
        ("net/ipv4/conf/default/arp_ignore", "1"),
        ("net/ipv4/conf/all/accept_redirects", "0"),
        ("net/ipv4/conf/default/accept_redirects", "0"),
        ("net/ipv4/conf/all/send_redirects", "0"),
        ("net/ipv4/conf/default/send_redirects", "0"),
        ("net/ipv4/conf/all/accept_source_route", "0"),
        ("net/ipv4/conf/default/accept_source_route", "0"),
    ];
    let on = [
        ("net/ipv6/conf/all/forwarding", "1"),
        ("net/ipv6/conf/default/accept_ra", "0"),
        ("net/ipv6/conf/default/accept_redirects", "0"),
    ];
    let off = [("net/ipv6/conf/all/disable_ipv6", "1"), ("net/ipv6/conf/default/disable_ipv6", "1")];
    let v6_settings: &[_] = if v6 { &on } else { &off };
    for (key, value) in v4.iter().chain(v6_settings) {
        // A kernel built without IPv6 has none to drop.
        if key.starts_with("net/ipv6/") && !std::path::Path::new("/proc/sys/net/ipv6").exists() {
            continue;
        }
        link::sysctl(key, value)?;
    }
    Ok(())
}

fn dns_sockets() -> Result<DnsSockets> {
    let at = SocketAddr::from((GATEWAY, 53));
    let open = || {
        let udp = UdpSocket::bind(at)?;
        udp.set_nonblocking(true)?;
        let tcp = TcpListener::bind(at)?;
        tcp.set_nonblocking(true)?;
        Ok(DnsSockets { udp, tcp })
    };
    open().map_err(NetworkError::io("open the resolver's sockets"))
}

pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|e| Err(NetworkError::Io { doing: "work".to_owned(), source: std::io::Error::other(e) }))
}
