//! What a guest is told after its boot: who it is and what it runs.

use super::failure::Failure;
use super::secrets::Given;
use super::wish::{Env, Wish};
use crate::channel::wire;
use crate::engine::ChannelToken;
use crate::images::ImageConfig;
use crate::network::{GuestNet, GuestNet6};
use aether_core::api::failure;
use aether_core::probe::HealthProbe;
use aether_core::spec::{AgentSpec, NetworkPolicy, ProcessRestart};
use aether_core::{Clock, Rng};

const ENTROPY_BYTES: usize = 64;

/// A random token for a channel.
pub(super) fn new_token(rng: &dyn Rng) -> ChannelToken {
    let mut token = [0u8; 16];
    rng.fill(&mut token);
    ChannelToken(token)
}

pub(super) fn request(
    wish: &Wish,
    (env, secrets): (&Env, &Given),
    image: &ImageConfig,
    net: &GuestNet,
    token: &ChannelToken,
    (clock, rng): (&dyn Clock, &dyn Rng),
) -> Result<wire::IdentifyRequest, Failure> {
    let spec = &wish.assigned.spec;
    let mut entropy = vec![0u8; ENTROPY_BYTES];
    rng.fill(&mut entropy);
    let image_config = wire::ImageConfig {
        env: image.env.clone(),
        workdir: image.workdir.clone(),
        user: image.user.clone(),
        ..Default::default()
    };
    Ok(wire::IdentifyRequest {
        agent_id: wish.assigned.agent_id.to_string(),
        hostname: hostname(&wish.assigned.name),
        unix_ns: clock.now().unix_ms().saturating_mul(1_000_000),
        entropy,
        channel_token: token.0.to_vec(),
        env: env
            .iter()
            .chain(secrets.env.iter().map(|(name, value)| (name.as_str(), value.as_str())))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect(),
        files: secrets.wire_files(spec.user.as_deref().unwrap_or_default()),
        network: (spec.network != NetworkPolicy::None).then(|| network(net)).into(),
        image: Some(image_config).into(),
        main: main_process(spec, image)?.into(),
        probe: spec.health.as_ref().map(|health| probe(health, spec)).into(),
        ..Default::default()
    })
}

fn network(net: &GuestNet) -> wire::NetworkConfig {
    wire::NetworkConfig {
        interface: "eth0".to_owned(),
        address: net.address.to_string(),
        prefix_len: u32::from(net.prefix_len),
        gateway: net.gateway.to_string(),
        dns: net.dns.to_string(),
        mtu: net.mtu,
        ipv6: net.ipv6.as_ref().map(network6).into(),
        ..Default::default()
    }
}

fn network6(net: &GuestNet6) -> wire::NetworkConfig6 {
    wire::NetworkConfig6 {
        address: net.address.to_string(),
        prefix_len: u32::from(net.prefix_len),
        gateway: net.gateway.to_string(),
        ..Default::default()
    }
}

fn probe(health: &HealthProbe, spec: &AgentSpec) -> wire::Probe {
    let ms = |seconds: u32| seconds.saturating_mul(1000);
    wire::Probe {
        command: health.command.clone(),
        http_port: health.http.as_ref().map_or(0, |http| u32::from(http.port)),
        http_path: health.http.as_ref().map(|http| http.path.clone()).unwrap_or_default(),
        tcp_port: health.tcp.map_or(0, |tcp| u32::from(tcp.port)),
        interval_ms: ms(health.interval_s),
        timeout_ms: ms(health.timeout_s),
        retries: health.retries,
        start_period_ms: ms(health.start_period_s),
        restart: health.restart,
        workdir: spec.workdir.clone().unwrap_or_default(),
        user: spec.user.clone().unwrap_or_default(),
        ..Default::default()
    }
}

/// A name may hold `_`, which host names may not, and be longer than Linux
/// allows a host name to be.
fn hostname(name: &str) -> String {
    name.chars().map(|c| if c == '_' { '-' } else { c }).take(63).collect()
}

/// The command; or, where asked for, the image's own, whose arguments the
/// spec's replace; or none: the agent idles.
fn main_process(spec: &AgentSpec, image: &ImageConfig) -> Result<Option<wire::MainProcess>, Failure> {
    let argv: Vec<String> = if !spec.command.is_empty() {
        spec.command.iter().chain(&spec.args).cloned().collect()
    } else if spec.run_image_command {
        let args = if spec.args.is_empty() { &image.cmd } else { &spec.args };
        let argv: Vec<String> = image.entrypoint.iter().chain(args).cloned().collect();
        if argv.is_empty() {
            return Err(Failure::new(
                failure::COMMAND_NOT_STARTED,
                "run_image_command is set, but the image has neither entrypoint nor command. Give a command.",
            ));
        }
        argv
    } else {
        return Ok(None);
    };
    let restart = match spec.process_restart {
        ProcessRestart::Never => "never",
        ProcessRestart::OnFailure => "on_failure",
        ProcessRestart::Always => "always",
    };
    Ok(Some(wire::MainProcess {
        argv,
        workdir: spec.workdir.clone().unwrap_or_default(),
        user: spec.user.clone().unwrap_or_default(),
        stdin: spec.stdin,
        tty: spec.tty,
        restart: restart.to_owned(),
        ..Default::default()
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn argv(spec: &AgentSpec, image: &ImageConfig) -> Option<Vec<String>> {
        main_process(spec, image).expect("a process or none").map(|m| m.argv)
    }

    #[test]
    fn which_process_is_the_main_one() {
        let image = ImageConfig { entrypoint: vec!["/init".into()], cmd: vec!["a".into()], ..Default::default() };
        let mut spec = AgentSpec::for_image("x");
        assert_eq!(argv(&spec, &image), None, "an agent without a command idles");
        spec.run_image_command = true;
        assert_eq!(argv(&spec, &image), Some(vec!["/init".into(), "a".into()]));
        spec.args = vec!["b".into()];
        assert_eq!(argv(&spec, &image), Some(vec!["/init".into(), "b".into()]));
        spec.command = vec!["sh".into()];
        assert_eq!(argv(&spec, &image), Some(vec!["sh".into(), "b".into()]));
        spec = AgentSpec { run_image_command: true, ..AgentSpec::for_image("x") };
        let none = main_process(&spec, &ImageConfig::default()).expect_err("nothing to run");
        assert_eq!(none.code, failure::COMMAND_NOT_STARTED);
    }

    #[test]
    fn ipv6_is_told_where_the_slot_has_it() {
        let mut net = GuestNet {
            address: [10, 200, 0, 2].into(),
            prefix_len: 30,
            gateway: [10, 200, 0, 1].into(),
            dns: [10, 200, 0, 1].into(),
            mac: [2, 0, 0, 0, 0, 2],
            mtu: 1500,
            ipv6: None,
        };
        assert!(network(&net).ipv6.as_option().is_none(), "none without a prefix");
        net.ipv6 = Some(GuestNet6 {
            address: "fdae::2".parse().expect("an address"),
            prefix_len: 126,
            gateway: "fdae::1".parse().expect("an address"),
        });
        let told = network(&net);
        let told = told.ipv6.as_option().expect("told");
        assert_eq!((told.address.as_str(), told.prefix_len, told.gateway.as_str()), ("fdae::2", 126, "fdae::1"));
    }

    #[test]
    fn host_names_are_legal() {
        assert_eq!(hostname("my_first.agent"), "my-first.agent");
        assert_eq!(hostname(&"a".repeat(64)).len(), 63);
    }
}
