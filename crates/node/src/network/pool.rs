//! The pool: which slot is in which hands.
//!
//! ```text
//!            make (filler)          claim
//!   absent ───────────────► spare ─────────► claimed
//!     ▲  ▲                    ▲                │  ▲
//!     │  └── close, surplus ──┤   release      │  │ adopt (after a restart)
//!     └────────────────────── ┴────────────────┘  absent, namespace exists
//! ```
//!
//! A slot's state is behind its own lock, which is held for the whole of a
//! change: different slots never wait for each other. Changes run on tasks
//! of their own, so that a caller who gives up does not stop one half-way.
//! Truth is the kernel: this map only knows what this process did, and
//! `sweep` removes what nobody knows.

use super::deny::Lists;
use super::dns::{DnsServer, Resolver};
use super::host::{self, Lock};
use super::slot::{DnsSockets, Floor};
use super::{NetworkConfig, NetworkError, config, link};
use aether_core::spec::NetworkPolicy;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::{Notify, OwnedMutexGuard};
use tokio_util::sync::CancellationToken;

const DEFAULT_MTU: u32 = 1500;
const MIN_MTU: u32 = 1280;
/// The filler's pause after a failure, doubling.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

type Result<T> = std::result::Result<T, NetworkError>;

/// What the guest is told. The same in every slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestNet {
    pub address: Ipv4Addr,
    pub prefix_len: u8,
    pub gateway: Ipv4Addr,
    pub dns: Ipv4Addr,
    pub mac: [u8; 6],
    pub mtu: u32,
    /// Only where the operator gave sandboxes a prefix.
    pub ipv6: Option<GuestNet6>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestNet6 {
    pub address: Ipv6Addr,
    pub prefix_len: u8,
    pub gateway: Ipv6Addr,
}

/// A slot in the caller's hands.
#[derive(Debug)]
pub struct ClaimedNet {
    /// IFF_TAP | IFF_NO_PI | IFF_VNET_HDR; the VMM's only way out. Always there after a claim.
    pub tap: Option<OwnedFd>,
    pub guest: GuestNet,
}

/// Since the claim (after a restart: since the slot was made), as the host's
/// end of the link counts them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SlotCounters {
    /// Towards the sandbox.
    pub rx_bytes: u64,
    pub rx_packets: u64,
    /// From the sandbox.
    pub tx_bytes: u64,
    pub tx_packets: u64,
}

impl SlotCounters {
    fn since(self, base: Self) -> Self {
        Self {
            rx_bytes: self.rx_bytes.saturating_sub(base.rx_bytes),
            rx_packets: self.rx_packets.saturating_sub(base.rx_packets),
            tx_bytes: self.tx_bytes.saturating_sub(base.tx_bytes),
            tx_packets: self.tx_packets.saturating_sub(base.tx_packets),
        }
    }
}

/// Written by whoever holds the slot's lock.
#[derive(Debug, Default)]
pub(super) enum Slot {
    #[default]
    Absent,
    Spare,
    Claimed {
        base: SlotCounters,
        /// Its drop ends the resolver in this slot. None under policy `none`.
        dns: Option<DnsServer>,
    },
}

/// Cheap to clone; all clones are one pool.
#[derive(Clone, Debug)]
pub struct NetworkPool {
    pub(super) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) floor: Floor,
    pub(super) lists: Arc<Lists>,
    resolver: Arc<Resolver>,
    slots: Mutex<BTreeMap<u32, Arc<tokio::sync::Mutex<Slot>>>>,
    /// Spare slots, as `claim` and `release` leave them; wakes nobody.
    ready: Mutex<BTreeSet<u32>>,
    /// Wakes the filler.
    pub(super) wanted: Arc<Notify>,
    closed: CancellationToken,
    netlink: tokio::task::JoinHandle<()>,
    lock: Mutex<Option<Lock>>,
    /// The host's table as the kernel had it once it was loaded.
    pub(super) loaded: Mutex<Option<String>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.closed.cancel();
        self.netlink.abort();
    }
}

impl NetworkPool {
    /// Loads the host's rules, lets the host forward, and starts to make
    /// spare slots. Leaves the slots of an earlier daemon alone: `adopt` the
    /// live ones, then `sweep`.
    pub async fn open(cfg: NetworkConfig) -> Result<Self> {
        cfg.validate()?;
        let lock = host::lock_prefix(&cfg).await?;
        // Others go through the folder above to the daemon's socket; in here nobody has business.
        std::fs::create_dir_all(&cfg.run_dir).map_err(NetworkError::io(format!("make {}", cfg.run_dir.display())))?;
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(cfg.netns_dir())
            .map_err(NetworkError::io(format!("make {}", cfg.netns_dir().display())))?;
        let (handle, netlink) = link::open()?;
        host::check_uplink(&cfg, &handle).await?;
        let lists = Arc::new(Lists::new(&cfg));
        host::prepare(&cfg, &lists).await?;
        let loaded = host::table(&cfg).await?;
        for chain in host::forward_blockers().await? {
            tracing::warn!(
                chain,
                "another firewall drops forwarded packets: let it accept those of interfaces {}-*, or sandboxes reach nothing",
                cfg.prefix
            );
        }
        let mtu = match cfg.mtu {
            Some(mtu) => mtu,
            None => link::default_mtu(&handle).await?.unwrap_or(DEFAULT_MTU).clamp(MIN_MTU, DEFAULT_MTU),
        };
        let resolver = Arc::new(Resolver::new(&cfg.upstream_dns, lists.clone()));
        let inner = Arc::new(Inner {
            floor: Floor::new(cfg, &lists, mtu, handle),
            lists,
            resolver,
            slots: Mutex::default(),
            ready: Mutex::default(),
            wanted: Arc::new(Notify::new()),
            closed: CancellationToken::new(),
            netlink,
            lock: Mutex::new(Some(lock)),
            loaded: Mutex::new(loaded),
        });
        tokio::spawn(fill(Arc::downgrade(&inner), inner.wanted.clone(), inner.closed.clone()));
        inner.wanted.notify_one();
        Ok(Self { inner })
    }

    /// Takes a slot, ready-made if it is spare, else made now.
    pub async fn claim(&self, slot: u32, policy: NetworkPolicy) -> Result<ClaimedNet> {
        self.change(slot, move |inner, mut state| async move {
            match *state {
                Slot::Claimed { .. } => return Err(NetworkError::InUse { slot }),
                Slot::Spare => {}
                Slot::Absent => inner.floor.make(slot).await?,
            }
            inner.ready.lock().remove(&slot);
            inner.wanted.notify_one();
            match inner.take(slot, policy).await {
                Ok((tap, claimed)) => {
                    *state = claimed;
                    Ok(ClaimedNet { tap: Some(tap), guest: inner.guest() })
                }
                Err(e) => {
                    inner.discard(slot, &mut state).await;
                    Err(e)
                }
            }
        })
        .await
    }

    /// Slots that can be claimed without making anything, lowest first.
    pub fn ready_slots(&self) -> Vec<u32> {
        self.inner.ready.lock().iter().copied().collect()
    }

    /// After a restart of the daemon: the slot's sandbox lives. Rules are
    /// loaded anew, resolver sockets re-opened; the tap stays the VMM's.
    /// False when the namespace is gone.
    pub async fn adopt(&self, slot: u32, policy: NetworkPolicy) -> Result<bool> {
        self.change(slot, move |inner, mut state| async move {
            match *state {
                Slot::Claimed { .. } => return Ok(true),
                // Made by this process after the sandbox's own was gone.
                Slot::Spare => return Ok(false),
                Slot::Absent if !inner.floor.exists(slot) => return Ok(false),
                Slot::Absent => {}
            }
            // Flows go on: the rules judge each packet that leaves anew.
            inner.floor.load(slot, policy, false).await?;
            let (_, sockets) = inner.floor.enter(slot, false, has_dns(policy)).await?;
            *state = Slot::Claimed { base: SlotCounters::default(), dns: inner.serve(sockets)? };
            Ok(true)
        })
        .await
    }

    /// After the VMM's end: flows cut, a fresh tap, back to the spares or
    /// removed. Safe to call again.
    pub async fn release(&self, slot: u32) -> Result<()> {
        self.change(slot, move |inner, mut state| async move {
            match std::mem::take(&mut *state) {
                Slot::Spare => {
                    *state = Slot::Spare;
                    return Ok(());
                }
                Slot::Claimed { dns: Some(dns), .. } => dns.stop().await,
                Slot::Claimed { dns: None, .. } => {}
                Slot::Absent => return inner.floor.remove(slot).await.map(drop),
            }
            let short = inner.ready.lock().len() < inner.floor.cfg.spare as usize;
            if !short || inner.closed.is_cancelled() {
                return inner.floor.remove(slot).await.map(drop);
            }
            if let Err(e) = inner.floor.reset(slot).await {
                tracing::warn!(slot, error = %e, "a slot could not be reset and is removed");
                return inner.floor.remove(slot).await.map(drop);
            }
            inner.keep(slot, &mut state).await
        })
        .await
    }

    /// Changes what a claimed slot may reach; existing flows are cut.
    pub async fn set_policy(&self, slot: u32, policy: NetworkPolicy) -> Result<()> {
        self.change(slot, move |inner, mut state| async move {
            let Slot::Claimed { dns, .. } = &mut *state else { return Err(NetworkError::NotClaimed { slot }) };
            // Ended before the sockets of the new policy can be bound.
            if let Some(old) = dns.take() {
                old.stop().await;
            }
            inner.floor.load(slot, policy, true).await?;
            let (_, sockets) = inner.floor.enter(slot, false, has_dns(policy)).await?;
            *dns = inner.serve(sockets)?;
            Ok(())
        })
        .await
    }

    pub async fn counters(&self, slot: u32) -> Result<SlotCounters> {
        self.inner.floor.cfg.check_slot(slot)?;
        let entry = self.inner.entry(slot);
        let state = entry.lock().await;
        let Slot::Claimed { base, .. } = &*state else { return Err(NetworkError::NotClaimed { slot }) };
        Ok(self.inner.floor.counters(slot).await?.since(*base))
    }

    /// Removes all that is not claimed. With nothing claimed, nothing is
    /// left: no namespace, link, mount, table or changed setting. Claimed
    /// slots keep working, but for the resolver, until another daemon adopts
    /// them.
    pub async fn close(self) -> Result<()> {
        self.inner.closed.cancel();
        let mut first_error = None;
        let mut claimed = 0_usize;
        for slot in self.inner.traces().await?.slots {
            let entry = self.inner.entry(slot);
            let mut state = entry.lock().await;
            match &mut *state {
                Slot::Claimed { dns, .. } => {
                    claimed += 1;
                    *dns = None;
                }
                Slot::Spare => {
                    *state = Slot::Absent;
                    self.inner.ready.lock().remove(&slot);
                    if let Err(e) = self.inner.floor.remove(slot).await {
                        first_error.get_or_insert(e);
                    }
                }
                // Not ours to judge: `sweep` was told what lives, this was not.
                Slot::Absent => claimed += 1,
            }
        }
        if claimed == 0 {
            host::undo(&self.inner.floor.cfg).await?;
            let _ = std::fs::remove_dir(self.inner.floor.cfg.netns_dir());
        }
        self.inner.lock.lock().take();
        first_error.map_or(Ok(()), Err)
    }

    async fn change<T, F, W>(&self, slot: u32, work: W) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
        W: FnOnce(Arc<Inner>, OwnedMutexGuard<Slot>) -> F,
    {
        self.inner.floor.cfg.check_slot(slot)?;
        if self.inner.closed.is_cancelled() {
            return Err(NetworkError::Closed);
        }
        self.change_any(slot, work).await
    }

    /// Runs `work` under the slot's lock, on a task that outlives the caller.
    pub(super) async fn change_any<T, F, W>(&self, slot: u32, work: W) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
        W: FnOnce(Arc<Inner>, OwnedMutexGuard<Slot>) -> F,
    {
        let guard = self.inner.entry(slot).lock_owned().await;
        tokio::spawn(work(self.inner.clone(), guard)).await.unwrap_or_else(|e| {
            Err(NetworkError::Io { doing: format!("change slot {slot}"), source: std::io::Error::other(e) })
        })
    }
}

impl Inner {
    fn entry(&self, slot: u32) -> Arc<tokio::sync::Mutex<Slot>> {
        self.slots.lock().entry(slot).or_default().clone()
    }

    fn guest(&self) -> GuestNet {
        GuestNet {
            address: config::GUEST,
            prefix_len: config::GUEST_PREFIX_LEN,
            gateway: config::GATEWAY,
            dns: config::GATEWAY,
            mac: config::GUEST_MAC,
            mtu: self.floor.mtu,
            ipv6: self.floor.cfg.ipv6_prefix.map(|_| GuestNet6 {
                address: config::GUEST6,
                prefix_len: config::GUEST6_PREFIX_LEN,
                gateway: config::GATEWAY6,
            }),
        }
    }

    async fn take(&self, slot: u32, policy: NetworkPolicy) -> Result<(OwnedFd, Slot)> {
        if policy != NetworkPolicy::Public {
            self.floor.load(slot, policy, true).await?;
        }
        let (tap, sockets) = self.floor.enter(slot, true, has_dns(policy)).await?;
        let tap = tap.ok_or(NetworkError::TapBusy { slot })?;
        let base = self.floor.counters(slot).await?;
        Ok((tap, Slot::Claimed { base, dns: self.serve(sockets)? }))
    }

    fn serve(&self, sockets: Option<DnsSockets>) -> Result<Option<DnsServer>> {
        sockets.map(|s| DnsServer::start(s, self.resolver.clone())).transpose()
    }

    async fn discard(&self, slot: u32, state: &mut Slot) {
        *state = Slot::Absent;
        if let Err(e) = self.floor.remove(slot).await {
            tracing::warn!(slot, error = %e, "a slot could not be removed: the next sweep will");
        }
    }

    /// A slot that is whole and nobody's becomes a spare, unless others came
    /// first: a release may overtake the filler.
    async fn keep(&self, slot: u32, state: &mut Slot) -> Result<()> {
        let kept = {
            let mut ready = self.ready.lock();
            let room = ready.len() < self.floor.cfg.spare as usize && !self.closed.is_cancelled();
            room && ready.insert(slot)
        };
        if kept {
            *state = Slot::Spare;
            return Ok(());
        }
        self.floor.remove(slot).await.map(drop)
    }

    /// The lowest slot that nobody has and nothing is left of.
    async fn next_absent(&self) -> Result<Option<(u32, OwnedMutexGuard<Slot>)>> {
        for slot in 0..self.floor.cfg.slots {
            let Ok(state) = self.entry(slot).try_lock_owned() else { continue };
            if matches!(*state, Slot::Absent) && !self.floor.has_trace(slot).await? {
                return Ok(Some((slot, state)));
            }
        }
        Ok(None)
    }

    /// Makes one spare slot if one is wanted; whether it did.
    async fn fill_one(&self) -> Result<bool> {
        if self.closed.is_cancelled() || self.ready.lock().len() >= self.floor.cfg.spare as usize {
            return Ok(false);
        }
        let Some((slot, mut state)) = self.next_absent().await? else { return Ok(false) };
        self.floor.make(slot).await?;
        self.keep(slot, &mut state).await?;
        Ok(true)
    }
}

/// Policy `none` has no resolver: a name would be a way out.
fn has_dns(policy: NetworkPolicy) -> bool {
    policy == NetworkPolicy::Public
}

/// Keeps spare slots; ends with the pool, which it must not keep alive while
/// it waits.
async fn fill(pool: Weak<Inner>, wanted: Arc<Notify>, closed: CancellationToken) {
    let mut pause = FIRST_PAUSE;
    while !closed.is_cancelled() {
        let Some(inner) = pool.upgrade() else { return };
        match inner.fill_one().await {
            Ok(true) => pause = FIRST_PAUSE,
            Ok(false) => {
                drop(inner);
                tokio::select! {
                    () = wanted.notified() => {}
                    () = closed.cancelled() => return,
                }
            }
            Err(e) => {
                tracing::warn!(error = %e, "cannot make a spare network slot");
                drop(inner);
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = closed.cancelled() => return,
                }
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}
