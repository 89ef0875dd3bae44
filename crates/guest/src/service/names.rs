//! The files that say who and where we are: hostname, hosts, resolv.conf,
//! machine-id.

use crate::net::Config;
use std::fs;
use std::io;
use std::path::Path;

/// A file of ours in place of whatever the image has there: a link into a
/// folder that nobody fills (`/run/systemd/…`) must not be followed.
fn replace(path: &str, text: &str) -> io::Result<()> {
    let temporary = format!("{path}.aether");
    if let Some(folder) = Path::new(path).parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(&temporary, text)?;
    fs::rename(&temporary, path)
}

pub(super) fn write(hostname: &str, dns: &str, network: Option<&Config>, entropy: &[u8]) -> io::Result<()> {
    if !hostname.is_empty() {
        if !valid_hostname(hostname) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "bad hostname"));
        }
        nix::unistd::sethostname(hostname)?;
        replace("/etc/hostname", &format!("{hostname}\n"))?;
    }
    replace("/etc/hosts", &hosts(hostname, network))?;
    if !dns.is_empty() {
        dns.parse::<std::net::IpAddr>().map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "bad dns address"))?;
        replace("/etc/resolv.conf", &format!("nameserver {dns}\noptions timeout:2 attempts:3\n"))?;
    }
    machine_id(entropy)
}

fn valid_hostname(name: &str) -> bool {
    name.len() <= 63 && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.')
}

fn hosts(hostname: &str, network: Option<&Config>) -> String {
    let mut text = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n".to_owned();
    if !hostname.is_empty() {
        let address = network.map_or_else(|| "127.0.1.1".to_owned(), |network| network.address.to_string());
        text.push_str(&format!("{address}\t{hostname}\n"));
    }
    text
}

/// Left alone when the image has one; an empty or missing one is filled, so
/// that two sandboxes of one image are told apart.
fn machine_id(entropy: &[u8]) -> io::Result<()> {
    let held = fs::read_to_string("/etc/machine-id").unwrap_or_default();
    let missing = held.trim().is_empty() || held.trim() == "uninitialized";
    // The last bytes: the first seeded the kernel.
    match entropy.len().checked_sub(16) {
        Some(from) if missing => replace("/etc/machine-id", &format!("{}\n", hex(&entropy[from..]))),
        _ => Ok(()),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_name_the_sandbox() {
        let text = hosts("web", None);
        assert!(text.starts_with("127.0.0.1\tlocalhost\n"));
        assert!(text.ends_with("127.0.1.1\tweb\n"));
        assert!(!hosts("", None).contains("127.0.1.1"));
    }

    #[test]
    fn hostnames() {
        assert!(valid_hostname("my-agent.example"));
        assert!(!valid_hostname("a b"));
        assert!(!valid_hostname(&"x".repeat(64)));
        assert_eq!(hex(&[0, 255]), "00ff");
    }
}
