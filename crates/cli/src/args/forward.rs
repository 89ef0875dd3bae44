//! `aether port-forward`.

use clap::Args;
use std::net::IpAddr;

/// Listens on this machine and carries each connection to a port inside the
/// agent, until ctrl-C. What listens there need not be reachable otherwise:
/// the bytes travel over the agent's own channel.
#[derive(Debug, Args)]
pub(crate) struct PortForwardArgs {
    /// Name or id
    pub(crate) agent: String,
    /// [LOCAL:]PORT; 0 as LOCAL takes a free one
    #[arg(required = true, value_name = "[LOCAL:]PORT", value_parser = ports)]
    pub(crate) ports: Vec<(u16, u16)>,
    /// The address to listen on
    #[arg(long, default_value = "127.0.0.1", value_name = "IP")]
    pub(crate) address: IpAddr,
}

fn ports(text: &str) -> Result<(u16, u16), String> {
    let number = |text: &str, least: u16| {
        text.parse::<u16>().ok().filter(|n| *n >= least).ok_or_else(|| format!("{text:?} is not a port"))
    };
    match text.split_once(':') {
        Some((local, port)) => Ok((number(local, 0)?, number(port, 1)?)),
        None => number(text, 1).map(|port| (port, port)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_of_ports() {
        assert_eq!(ports("8080"), Ok((8080, 8080)));
        assert_eq!((ports("0:80"), ports("9000:80")), (Ok((0, 80)), Ok((9000, 80))));
        for bad in ["", "0", "80:0", "a:80", "80:", ":80", "65536", "1:2:3"] {
            assert!(ports(bad).is_err(), "{bad}");
        }
    }
}
