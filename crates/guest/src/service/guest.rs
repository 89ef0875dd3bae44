//! The control lane: identity, reseed, health, stats, quiesce, shutdown.

use crate::identity::split_env;
use crate::main_process::{Restart, Spec};
use crate::probe::{Check, Probe};
use crate::process::exec::About;
use crate::{Guest, Role, lock, main_process, net, shutdown, sys};
use aether_proto::guest::aether::guest::v1::{self as wire, Guest as Rpc};
use connectrpc::{ConnectError, RequestContext, Response, ServiceRequest, ServiceResult, ServiceStream};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

pub struct Service(pub Arc<Guest>);

/// As long as a shutdown may be asked to wait.
const GRACE_LIMIT: Duration = Duration::from_secs(600);

#[allow(refining_impl_trait, reason = "the answers are owned messages")]
impl Rpc for Service {
    async fn identify(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, wire::IdentifyRequest>,
    ) -> ServiceResult<wire::IdentifyResponse> {
        identify(&self.0, request.to_owned_message()).await.map(Response::new)
    }

    async fn reseed(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, wire::ReseedRequest>,
    ) -> ServiceResult<wire::ReseedResponse> {
        let request = request.to_owned_message();
        renew(&self.0, &request.entropy, request.unix_ns)?;
        let neighbour = {
            let identity = lock(&self.0.identity);
            identity.gateway.map(|gateway| (identity.interface.clone(), gateway))
        };
        if let (Role::Init, Some((interface, gateway))) = (self.0.role, neighbour) {
            net::forget_neighbour(&interface, gateway)
                .map_err(|error| ConnectError::internal(format!("cannot flush the neighbour: {error}")))?;
        }
        Response::ok(wire::ReseedResponse::default())
    }

    async fn health(
        &self,
        _context: RequestContext,
        _request: ServiceRequest<'_, wire::HealthRequest>,
    ) -> ServiceResult<wire::HealthResponse> {
        let identified = lock(&self.0.identity).answered.is_some();
        let probe = self.0.probe.state();
        Response::ok(wire::HealthResponse {
            healthy: true,
            message: if identified { "ready" } else { "waiting for its identity" }.to_owned(),
            uptime_ms: sys::uptime_ms(),
            identified,
            probe: probe.status.as_str().to_owned(),
            probe_message: probe.message,
            probe_failures: probe.failures,
            probe_checked_at_ms: probe.checked_at_ms,
            ..Default::default()
        })
    }

    async fn stats(
        &self,
        _context: RequestContext,
        _request: ServiceRequest<'_, wire::StatsRequest>,
    ) -> ServiceResult<wire::StatsResponse> {
        Response::ok(super::stats::read().await)
    }

    async fn quiesce(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, wire::QuiesceRequest>,
    ) -> ServiceResult<wire::QuiesceResponse> {
        let limit = Duration::from_millis(u64::from(request.max_ms));
        if limit.is_zero() {
            return Err(ConnectError::invalid_argument("max_ms must be above 0"));
        }
        let frozen = self.0.frozen.freeze(&self.0, limit);
        frozen.map_err(|error| ConnectError::internal(format!("cannot freeze the disk: {error}")))?;
        Response::ok(wire::QuiesceResponse::default())
    }

    async fn thaw(
        &self,
        _context: RequestContext,
        _request: ServiceRequest<'_, wire::ThawRequest>,
    ) -> ServiceResult<wire::ThawResponse> {
        self.0.frozen.thaw();
        Response::ok(wire::ThawResponse::default())
    }

    async fn shutdown(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, wire::ShutdownRequest>,
    ) -> ServiceResult<wire::ShutdownResponse> {
        let grace = Duration::from_millis(u64::from(request.grace_ms)).min(GRACE_LIMIT);
        let exit = shutdown::end_all(&self.0, grace).await;
        shutdown::power_off_soon(self.0.role);
        Response::ok(wire::ShutdownResponse {
            main_exit_code: exit.as_ref().and_then(|exit| exit.code),
            main_signal: exit.and_then(|exit| exit.signal).map(crate::process::signal_name),
            ..Default::default()
        })
    }

    async fn events(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, wire::EventsRequest>,
    ) -> ServiceResult<ServiceStream<wire::Event>> {
        let log = self.0.events.clone();
        let state = (log.watch(), request.after, std::collections::VecDeque::new());
        Response::stream_ok(futures::stream::unfold(state, move |(mut watch, mut after, mut ready)| {
            let log = log.clone();
            async move {
                loop {
                    if let Some(event) = ready.pop_front() {
                        let event: wire::Event = event;
                        after = event.sequence;
                        return Some((Ok(event), (watch, after, ready)));
                    }
                    watch.borrow_and_update();
                    ready.extend(log.after(after));
                    if ready.is_empty() {
                        watch.changed().await.ok()?;
                    }
                }
            }
        }))
    }
}

/// Clock and entropy, before any program may ask for either.
fn renew(guest: &Guest, entropy: &[u8], unix_ns: u64) -> Result<(), ConnectError> {
    if entropy.len() < 32 {
        return Err(ConnectError::invalid_argument("entropy must have 32 bytes or more"));
    }
    if guest.role == Role::Init {
        sys::add_entropy(entropy).map_err(|error| ConnectError::internal(format!("cannot reseed: {error}")))?;
        if unix_ns != 0 {
            let set = sys::set_clock(unix_ns);
            set.map_err(|error| ConnectError::internal(format!("cannot set the clock: {error}")))?;
        }
    }
    Ok(())
}

async fn identify(guest: &Arc<Guest>, request: wire::IdentifyRequest) -> Result<wire::IdentifyResponse, ConnectError> {
    let token = aether_proto::channel::unveiled(&request.channel_token)
        .ok_or_else(|| ConnectError::invalid_argument("channel_token must be 16 bytes"))?;
    // The answer to the first was lost: say it again, start nothing twice.
    if *lock(&guest.token) == token
        && let Some(answered) = lock(&guest.identity).answered.clone()
    {
        return Ok(answered);
    }
    let main = request.main.as_option().map(main_spec).transpose()?;
    let network = request.network.as_option().map(network_config).transpose()?;
    let probe = request.probe.as_option().map(probe_of).transpose()?;
    renew(guest, &request.entropy, request.unix_ns)?;
    if guest.role == Role::Init {
        let dns = request.network.as_option().map(|network| network.dns.clone()).unwrap_or_default();
        super::names::write(&request.hostname, &dns, network.as_ref(), &request.entropy)
            .map_err(|error| ConnectError::internal(format!("cannot write the names: {error}")))?;
        if let Some(config) = &network {
            net::configure(config)
                .map_err(|error| ConnectError::internal(format!("cannot set the network up: {error}")))?;
        }
    }
    {
        let mut identity = lock(&guest.identity);
        identity.agent_id = request.agent_id;
        identity.env = request.env.into_iter().collect();
        if let Some(image) = request.image.as_option() {
            identity.image_env = split_env(&image.env);
            identity.image_workdir = image.workdir.clone();
            identity.image_user = image.user.clone();
        }
        identity.access_token = request.access_token;
        identity.gateway = network.as_ref().and_then(|network| network.gateway);
        identity.interface = network.map(|network| network.interface).unwrap_or_default();
    }
    place_secrets(guest, &request.files)?;
    let (main_pid, main_error) = start_main(guest, main).await;
    if let Some(probe) = probe {
        start_probe(guest, probe);
    }
    let answer = wire::IdentifyResponse {
        kernel_release: read_line("/proc/sys/kernel/osrelease"),
        boot_id: read_line("/proc/sys/kernel/random/boot_id"),
        uptime_ms: sys::uptime_ms(),
        main_pid,
        main_error,
        guest_version: env!("CARGO_PKG_VERSION").to_owned(),
        ..Default::default()
    };
    lock(&guest.identity).answered = Some(answer.clone());
    *lock(&guest.token) = token;
    Ok(answer)
}

fn place_secrets(guest: &Guest, files: &[wire::SecretFile]) -> Result<(), ConnectError> {
    if guest.role != Role::Init {
        return Ok(());
    }
    super::secrets::place(files, &lock(&guest.identity).image_user)
        .map_err(|error| ConnectError::failed_precondition(format!("a secret's file cannot be placed: {error}")))
}

async fn start_main(guest: &Arc<Guest>, spec: Option<Spec>) -> (u32, String) {
    let Some(mut spec) = spec else { return (0, String::new()) };
    if spec.user.is_empty() {
        spec.user = lock(&guest.identity).image_user.clone();
    }
    let own = guest.clone();
    // Its pipes belong to the data lane's runtime.
    let started = guest.work.spawn(async move { main_process::start(&own, spec) }).await;
    match started {
        Ok(Ok(pid)) => (pid, String::new()),
        Ok(Err(error)) => (0, error),
        Err(_) => (0, "the start was interrupted".to_owned()),
    }
}

fn main_spec(main: &wire::MainProcess) -> Result<Spec, ConnectError> {
    super::exec::check_argv(&main.argv)?;
    let restart = Restart::parse(&main.restart)
        .ok_or_else(|| ConnectError::invalid_argument("restart must be never, on_failure or always"))?;
    let cwd = Some(main.workdir.clone()).filter(|workdir| !workdir.is_empty());
    Ok(Spec {
        about: About { argv: main.argv.clone(), cwd, ..Default::default() },
        user: main.user.clone(),
        stdin: main.stdin,
        tty: main.tty,
        restart,
    })
}

/// Its commands and connections belong to the data lane's runtime.
fn start_probe(guest: &Arc<Guest>, mut probe: Probe) {
    if probe.user.is_empty() {
        probe.user = lock(&guest.identity).image_user.clone();
    }
    guest.work.spawn(crate::probe::run(guest.clone(), probe));
}

fn probe_of(probe: &wire::Probe) -> Result<Probe, ConnectError> {
    let wrong = |what: &str| ConnectError::invalid_argument(format!("probe: {what}"));
    let port = |port: u32| u16::try_from(port).ok().filter(|port| *port > 0).ok_or_else(|| wrong("not a port"));
    let check = match (probe.command.is_empty(), probe.http_port, probe.tcp_port) {
        (false, 0, 0) => {
            super::exec::check_argv(&probe.command)?;
            Check::Command(probe.command.clone())
        }
        (true, http, 0) if http > 0 => {
            let plain = probe.http_path.starts_with('/') && probe.http_path.bytes().all(|c| c.is_ascii_graphic());
            let path = Some(probe.http_path.clone()).filter(|_| plain).ok_or_else(|| wrong("not a path"))?;
            Check::Http { port: port(http)?, path }
        }
        (true, 0, tcp) if tcp > 0 => Check::Tcp { port: port(tcp)? },
        _ => return Err(wrong("exactly one of command, http and tcp")),
    };
    let time = |ms: u32| Duration::from_millis(u64::from(ms));
    if probe.interval_ms == 0 || probe.timeout_ms == 0 || probe.retries == 0 {
        return Err(wrong("interval, timeout and retries must be above 0"));
    }
    Ok(Probe {
        check,
        user: probe.user.clone(),
        cwd: Some(probe.workdir.clone()).filter(|workdir| !workdir.is_empty()),
        interval: time(probe.interval_ms),
        timeout: time(probe.timeout_ms),
        retries: probe.retries,
        start_period: time(probe.start_period_ms),
        restart: probe.restart,
    })
}

fn network_config(network: &wire::NetworkConfig) -> Result<net::Config, ConnectError> {
    let ip = |name: &str, text: &str| {
        text.parse::<Ipv4Addr>().map_err(|_| ConnectError::invalid_argument(format!("{name} is not an IPv4 address")))
    };
    if net::netmask(network.prefix_len).is_none() {
        return Err(ConnectError::invalid_argument("prefix_len is above 32"));
    }
    let gateway = Some(network.gateway.as_str()).filter(|text| !text.is_empty());
    Ok(net::Config {
        interface: if network.interface.is_empty() { "eth0".to_owned() } else { network.interface.clone() },
        address: ip("address", &network.address)?,
        prefix_len: network.prefix_len,
        gateway: gateway.map(|text| ip("gateway", text)).transpose()?,
        mtu: network.mtu,
        ipv6: network.ipv6.as_option().map(network6).transpose()?,
    })
}

fn network6(network: &wire::NetworkConfig6) -> Result<net::Config6, ConnectError> {
    let ip = |name: &str, text: &str| {
        text.parse::<Ipv6Addr>().map_err(|_| ConnectError::invalid_argument(format!("{name} is not an IPv6 address")))
    };
    if network.prefix_len > 128 {
        return Err(ConnectError::invalid_argument("ipv6.prefix_len is above 128"));
    }
    let gateway = Some(network.gateway.as_str()).filter(|text| !text.is_empty());
    Ok(net::Config6 {
        address: ip("ipv6.address", &network.address)?,
        prefix_len: network.prefix_len,
        gateway: gateway.map(|text| ip("ipv6.gateway", text)).transpose()?,
    })
}

fn read_line(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_is_checked_before_it_is_used() {
        let good = || wire::NetworkConfig {
            interface: "eth0".into(),
            address: "10.200.0.2".into(),
            prefix_len: 30,
            gateway: "10.200.0.1".into(),
            ..Default::default()
        };
        let six = |address: &str, prefix_len: u32, gateway: &str| wire::NetworkConfig {
            ipv6: Some(wire::NetworkConfig6 {
                address: address.into(),
                prefix_len,
                gateway: gateway.into(),
                ..Default::default()
            })
            .into(),
            ..good()
        };
        assert_eq!(network_config(&good()).expect("good").ipv6, None);
        let both = network_config(&six("fdae::2", 126, "fdae::1")).expect("good");
        let (address, gateway) = ("fdae::2".parse().expect("one"), "fdae::1".parse().ok());
        assert_eq!(both.ipv6, Some(net::Config6 { address, prefix_len: 126, gateway }));
        assert_eq!(network_config(&six("fdae::2", 128, "")).expect("good").ipv6.and_then(|ipv6| ipv6.gateway), None);
        let wrong = [
            (six("10.0.0.1", 64, ""), "ipv6.address"),
            (six("", 64, ""), "ipv6.address"),
            (six("fdae::2", 129, ""), "ipv6.prefix_len"),
            (six("fdae::2", 64, "x"), "ipv6.gateway"),
            (wire::NetworkConfig { prefix_len: 33, ..good() }, "prefix_len"),
            (wire::NetworkConfig { address: "::1".into(), ..good() }, "address"),
        ];
        for (config, names) in wrong {
            let error = network_config(&config).expect_err(names);
            assert!(error.to_string().contains(names), "{error}");
        }
    }
}
