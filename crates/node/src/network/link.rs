//! Links, addresses and routes over rtnetlink. A handle belongs to the
//! namespace of the thread that opened it.

use super::config::{GATEWAY, GATEWAY_MAC, GATEWAY6, GUEST, GUEST_MAC, GUEST_PREFIX_LEN, GUEST6, GUEST6_PREFIX_LEN};
use super::tap::TAP;
use super::{NetworkError, SlotCounters};
use futures::TryStreamExt;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags};
use rtnetlink::packet_route::link::{InfoData, InfoVeth, LinkAttribute, LinkMessage};
use rtnetlink::packet_route::route::RouteAttribute;
use rtnetlink::{Handle, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, BorrowedFd};

/// The namespace's end of the link to the host.
pub(crate) const UP: &str = "up0";
/// The host's end, for IPv6: the same on every link.
const HOST6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

type Result<T> = std::result::Result<T, NetworkError>;

/// Opens a handle in the namespace of the runtime's threads.
pub(crate) fn open() -> Result<(Handle, tokio::task::JoinHandle<()>)> {
    let (connection, handle, _) = rtnetlink::new_connection().map_err(NetworkError::io("open rtnetlink"))?;
    Ok((handle, tokio::spawn(connection)))
}

/// Runs netlink work to its end on the calling thread, in its namespace.
pub(crate) fn block_on<T>(work: impl AsyncFnOnce(&Handle) -> Result<T>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .map_err(NetworkError::io("start a runtime"))?;
    runtime.block_on(async {
        let (handle, _connection) = open()?;
        work(&handle).await
    })
}

pub(crate) async fn find(handle: &Handle, name: &str) -> Result<Option<LinkMessage>> {
    match handle.link().get().match_name(name).execute().try_next().await {
        Ok(link) => Ok(link),
        Err(e) if code(&e) == Some(libc::ENODEV) => Ok(None),
        Err(e) => Err(NetworkError::netlink(format!("find interface {name}"))(e)),
    }
}

async fn index(handle: &Handle, name: &str) -> Result<u32> {
    let link = find(handle, name).await?;
    link.map(|l| l.header.index).ok_or_else(|| NetworkError::Netlink {
        doing: format!("find interface {name}"),
        message: "it is gone".to_owned(),
    })
}

/// Deletes a link; false when there was none.
pub(crate) async fn delete(handle: &Handle, name: &str) -> Result<bool> {
    let Some(link) = find(handle, name).await? else { return Ok(false) };
    match handle.link().del(link.header.index).execute().await {
        Ok(()) => Ok(true),
        // Its other end's namespace ended at this moment and took it along.
        Err(e) if code(&e) == Some(libc::ENODEV) => Ok(false),
        Err(e) => Err(NetworkError::netlink(format!("delete interface {name}"))(e)),
    }
}

/// Names of all links.
pub(crate) async fn names(handle: &Handle) -> Result<Vec<String>> {
    let links: Vec<LinkMessage> =
        handle.link().get().execute().try_collect().await.map_err(NetworkError::netlink("list interfaces"))?;
    Ok(links.iter().filter_map(|l| name_of(l).map(str::to_owned)).collect())
}

fn name_of(link: &LinkMessage) -> Option<&str> {
    link.attributes.iter().find_map(|a| match a {
        LinkAttribute::IfName(name) => Some(name.as_str()),
        _ => None,
    })
}

/// Every address of this namespace with its interface's name.
pub(crate) async fn addresses(handle: &Handle) -> Result<Vec<(IpAddr, String)>> {
    let links: Vec<LinkMessage> =
        handle.link().get().execute().try_collect().await.map_err(NetworkError::netlink("list interfaces"))?;
    let list: Vec<_> =
        handle.address().get().execute().try_collect().await.map_err(NetworkError::netlink("list addresses"))?;
    let mut out = Vec::new();
    for message in &list {
        let name = links.iter().find(|l| l.header.index == message.header.index).and_then(name_of).unwrap_or("?");
        out.extend(message.attributes.iter().filter_map(|a| match a {
            AddressAttribute::Address(ip) | AddressAttribute::Local(ip) => Some((*ip, name.to_owned())),
            _ => None,
        }));
    }
    Ok(out)
}

/// The MTU of the interface that the default route leaves by.
pub(crate) async fn default_mtu(handle: &Handle) -> Result<Option<u32>> {
    let routes: Vec<_> = handle
        .route()
        .get(RouteMessageBuilder::<Ipv4Addr>::new().build())
        .execute()
        .try_collect()
        .await
        .map_err(NetworkError::netlink("list routes"))?;
    let mut smallest = None;
    for route in routes.iter().filter(|r| r.header.destination_prefix_length == 0) {
        let Some(oif) = route.attributes.iter().find_map(|a| match a {
            RouteAttribute::Oif(i) => Some(*i),
            _ => None,
        }) else {
            continue;
        };
        let Ok(Some(link)) = handle.link().get().match_index(oif).execute().try_next().await else { continue };
        let mtu = link.attributes.iter().find_map(|a| match a {
            LinkAttribute::Mtu(m) => Some(*m),
            _ => None,
        });
        smallest = smallest.into_iter().chain(mtu).min();
    }
    Ok(smallest)
}

/// The host's end counts for the sandbox: what the host sends is received.
pub(crate) async fn counters(handle: &Handle, name: &str) -> Result<Option<SlotCounters>> {
    let Some(link) = find(handle, name).await? else { return Ok(None) };
    Ok(link.attributes.iter().find_map(|a| match a {
        LinkAttribute::Stats64(s) => Some(SlotCounters {
            rx_bytes: s.tx_bytes,
            rx_packets: s.tx_packets,
            tx_bytes: s.rx_bytes,
            tx_packets: s.rx_packets,
        }),
        _ => None,
    }))
}

/// A slot's link, as both sides need it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LinkPlan {
    pub(crate) host: Ipv4Addr,
    pub(crate) inner: Ipv4Addr,
    pub(crate) outer6: Option<Ipv6Addr>,
    pub(crate) mtu: u32,
}

/// Makes the pair with one end in the namespace `ns`, from the host.
pub(crate) async fn make_pair(handle: &Handle, name: &str, ns: BorrowedFd<'_>, plan: LinkPlan) -> Result<()> {
    let doing = || format!("make interface {name}");
    let peer = LinkMessageBuilder::<LinkUnspec>::new()
        .name(UP)
        .mtu(plan.mtu)
        .append_extra_attribute(LinkAttribute::NetNsFd(ns.as_raw_fd()))
        .build();
    let pair = LinkMessageBuilder::<LinkVeth>::new(name, UP)
        .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
        .mtu(plan.mtu)
        .build();
    handle.link().add(pair).execute().await.map_err(NetworkError::netlink(doing()))?;
    let i = index(handle, name).await?;
    // Before it is up: no link-local address of the kernel's choice.
    sysctl(&format!("net/ipv6/conf/{name}/disable_ipv6"), if plan.outer6.is_some() { "0" } else { "1" })?;
    handle.address().add(i, plan.host.into(), 31).execute().await.map_err(NetworkError::netlink(doing()))?;
    set_up(handle, i, name).await?;
    if let Some(outer) = plan.outer6 {
        add_address6(handle, i, HOST6, 64).await.map_err(NetworkError::netlink(doing()))?;
        let route = RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(outer, 128).output_interface(i).build();
        handle.route().add(route).replace().execute().await.map_err(NetworkError::netlink(doing()))?;
    }
    Ok(())
}

/// Inside the namespace: the tap's side that the guest sees.
pub(crate) async fn furnish_tap(handle: &Handle, mtu: u32, v6: bool) -> Result<()> {
    let doing = || "furnish the tap".to_owned();
    let i = index(handle, TAP).await?;
    let set = LinkUnspec::new_with_index(i).address(GATEWAY_MAC.to_vec()).mtu(mtu).build();
    handle.link().set(set).execute().await.map_err(NetworkError::netlink(doing()))?;
    handle
        .address()
        .add(i, GATEWAY.into(), GUEST_PREFIX_LEN)
        .execute()
        .await
        .map_err(NetworkError::netlink(doing()))?;
    set_up(handle, i, TAP).await?;
    neighbour(handle, i, GUEST.into()).await?;
    if v6 {
        add_address6(handle, i, GATEWAY6, GUEST6_PREFIX_LEN).await.map_err(NetworkError::netlink(doing()))?;
        neighbour(handle, i, GUEST6.into()).await?;
    }
    Ok(())
}

/// The guest's hardware address is known: nothing it says can change it.
async fn neighbour(handle: &Handle, i: u32, guest: IpAddr) -> Result<()> {
    handle
        .neighbours()
        .add(i, guest)
        .link_layer_address(&GUEST_MAC)
        .state(rtnetlink::packet_route::neighbour::NeighbourState::Permanent)
        .replace()
        .execute()
        .await
        .map_err(NetworkError::netlink("pin the guest's hardware address"))
}

/// Inside the namespace: the way to the host is open. Safe to repeat.
pub(crate) async fn open_uplink(handle: &Handle, plan: LinkPlan) -> Result<()> {
    let doing = || "open the uplink".to_owned();
    let i = index(handle, UP).await?;
    let added = handle.address().add(i, plan.inner.into(), 31).replace().execute().await;
    ignore_exists(added).map_err(NetworkError::netlink(doing()))?;
    set_up(handle, i, UP).await?;
    let route = RouteMessageBuilder::<Ipv4Addr>::new().gateway(plan.host).output_interface(i).build();
    handle.route().add(route).replace().execute().await.map_err(NetworkError::netlink(doing()))?;
    if let Some(outer) = plan.outer6 {
        ignore_exists(add_address6(handle, i, outer, 128).await).map_err(NetworkError::netlink(doing()))?;
        let route = RouteMessageBuilder::<Ipv6Addr>::new().gateway(HOST6).output_interface(i).build();
        handle.route().add(route).replace().execute().await.map_err(NetworkError::netlink(doing()))?;
    }
    Ok(())
}

/// Inside the namespace: nothing can leave it, whatever the rules say.
pub(crate) async fn shut_uplink(handle: &Handle) -> Result<()> {
    let i = index(handle, UP).await?;
    let down = LinkUnspec::new_with_index(i).down().build();
    handle.link().set(down).execute().await.map_err(NetworkError::netlink("shut the uplink"))
}

async fn set_up(handle: &Handle, i: u32, name: &str) -> Result<()> {
    let up = LinkUnspec::new_with_index(i).up().build();
    handle.link().set(up).execute().await.map_err(NetworkError::netlink(format!("set {name} up")))
}

/// Without duplicate detection: it would take seconds and ask nobody.
async fn add_address6(
    handle: &Handle,
    i: u32,
    address: Ipv6Addr,
    len: u8,
) -> std::result::Result<(), rtnetlink::Error> {
    let mut request = handle.address().add(i, address.into(), len);
    request.message_mut().attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
    request.execute().await
}

fn ignore_exists(result: std::result::Result<(), rtnetlink::Error>) -> std::result::Result<(), rtnetlink::Error> {
    match result {
        Err(e) if code(&e) == Some(libc::EEXIST) => Ok(()),
        other => other,
    }
}

fn code(e: &rtnetlink::Error) -> Option<i32> {
    match e {
        rtnetlink::Error::NetlinkError(m) => m.code.map(|c| c.get().abs()),
        _ => None,
    }
}

/// Writes a setting of the calling thread's namespace.
pub(crate) fn sysctl(key: &str, value: &str) -> Result<()> {
    std::fs::write(format!("/proc/sys/{key}"), value).map_err(NetworkError::io(format!("set {key} to {value}")))
}
