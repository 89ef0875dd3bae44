//! Where requests may go. A registry, and whoever answers for it, could point
//! us at the node's own network; so each URL is judged before it is asked,
//! after every redirect again, and names only resolve to addresses that are
//! allowed: the connection goes to the very address that was judged.

use super::super::{ImageError, ImagesConfig, text};
use aether_core::address::is_internal;
use reqwest::Url;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// The rules of one pull.
#[derive(Clone)]
pub(super) struct Guard {
    /// `host[:port]` that may lie at internal addresses.
    open: BTreeSet<String>,
    /// `host[:port]` that may be asked over plain HTTP.
    insecure: BTreeSet<String>,
}

impl Guard {
    /// A loopback registry counts as allowed when it is named as such.
    pub(super) fn new(config: &ImagesConfig, registry: &str) -> Self {
        let mut open: BTreeSet<String> = config.allow_hosts.iter().map(|h| h.to_ascii_lowercase()).collect();
        let mut insecure: BTreeSet<String> =
            config.allow_insecure_hosts.iter().map(|h| h.to_ascii_lowercase()).collect();
        open.extend(insecure.iter().cloned());
        if is_loopback_name(registry) {
            open.insert(registry.to_ascii_lowercase());
            insecure.insert(registry.to_ascii_lowercase());
        }
        Self { open, insecure }
    }

    /// Whether the registry is to be asked over plain HTTP.
    pub(super) fn plain_http(&self, registry: &str, asked: bool) -> Result<bool, ImageError> {
        let allowed = self.insecure.contains(&registry.to_ascii_lowercase());
        if asked && !allowed {
            return Err(ImageError::Refused(format!(
                "plain HTTP is only for loopback registries and those in images.allow_insecure_hosts, and {registry} is neither"
            )));
        }
        Ok(allowed)
    }

    /// Judges a URL that is about to be asked.
    pub(super) fn check(&self, url: &Url) -> Result<(), ImageError> {
        let refuse = |why: &str| {
            let host = url.host_str().unwrap_or("nowhere");
            Err(ImageError::Refused(format!("{} {why}", text::clip(host, 200))))
        };
        // Parsed by the URL's own rules: decimal and octal forms come out plain.
        let Some(host) = url.host_str().filter(|h| !h.is_empty()) else { return refuse("is no host") };
        let names = host_forms(url);
        match url.scheme() {
            "https" => {}
            "http" if names.iter().any(|n| self.insecure.contains(n)) => {}
            "http" => return refuse("would be asked over plain HTTP, which is not allowed for it"),
            _ => return refuse("is to be asked with another protocol than HTTP"),
        }
        if !url.username().is_empty() || url.password().is_some() {
            return refuse("is given with credentials in the URL");
        }
        if names.iter().any(|n| self.open.contains(n)) {
            return Ok(());
        }
        let internal = match host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
            Ok(ip) => is_internal(ip),
            // Names below it are loopback's too, where a resolver knows them.
            Err(_) => is_loopback_name(host) || host.trim_end_matches('.').ends_with(".localhost"),
        };
        if internal { refuse("is an internal address") } else { Ok(()) }
    }

    /// Resolves names to allowed addresses only.
    pub(super) fn resolver(&self) -> Arc<GuardedResolver> {
        let hosts = self.open.iter().map(|h| without_port(h).to_owned()).collect();
        Arc::new(GuardedResolver { open_hosts: hosts })
    }
}

/// `host`, and `host:port` with the port that the scheme implies.
fn host_forms(url: &Url) -> Vec<String> {
    let host = url.host_str().unwrap_or_default().to_ascii_lowercase();
    let mut forms = vec![];
    match url.port() {
        Some(port) => forms.push(format!("{host}:{port}")),
        None => {
            let port = url.port_or_known_default().unwrap_or(443);
            forms.push(format!("{host}:{port}"));
            forms.push(host);
        }
    }
    forms
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    }
}

/// `localhost` or a loopback address, with or without port.
pub(super) fn is_loopback_name(host: &str) -> bool {
    let name = without_port(host).trim_start_matches('[').trim_end_matches(']');
    name.trim_end_matches('.').eq_ignore_ascii_case("localhost")
        || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// The system's resolver with internal addresses taken out.
pub(super) struct GuardedResolver {
    open_hosts: BTreeSet<String>,
}

impl Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let open = self.open_hosts.contains(&name.as_str().to_ascii_lowercase());
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let (allowed, denied): (Vec<SocketAddr>, Vec<SocketAddr>) =
                found.partition(|a| open || !is_internal(a.ip()));
            if allowed.is_empty() && !denied.is_empty() {
                return Err(Denied(name.as_str().to_owned()).into());
            }
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}

/// Found again in the chain of a failed request's causes.
#[derive(Debug, thiserror::Error)]
#[error("{0} resolves to internal addresses only")]
pub(super) struct Denied(pub String);

#[cfg(test)]
mod tests {
    use super::*;

    fn guard(registry: &str) -> Guard {
        let mut config = ImagesConfig::new("/nowhere", "/nowhere");
        config.allow_hosts = vec!["10.1.2.3:5000".into()];
        config.allow_insecure_hosts = vec!["registry.lan".into()];
        Guard::new(&config, registry)
    }

    #[test]
    fn urls_that_lead_inside_are_refused() {
        let guard = guard("registry.example");
        for bad in [
            "https://127.0.0.1/v2/",
            "https://2130706433/",
            "https://0x7f.1/",
            "https://0177.0.0.1/",
            "https://[::1]/",
            "https://[::ffff:10.0.0.1]/",
            "https://[64:ff9b::a00:1]/",
            "https://[fd00:ec2::254]/",
            "https://169.254.169.254/",
            "https://10.1.2.3/",
            "https://10.1.2.3:5001/",
            "https://localhost/",
            "https://localhost./",
            "https://x.localhost/",
            "https://100.64.0.1/",
            "https://0.0.0.0/",
            "http://registry.example/",
            "https://u:p@registry.example/",
            "file:///etc/passwd",
            "gopher://registry.example/",
            "https://[2002:7f00:1::]/",
            "https://[fe80::1]/",
        ] {
            let url = Url::parse(bad).expect(bad);
            assert!(matches!(guard.check(&url), Err(ImageError::Refused(_))), "{bad}");
        }
    }

    #[test]
    fn what_is_public_or_listed_may_be_asked() {
        let guard = guard("127.0.0.1:5000");
        for good in [
            "https://registry.example/",
            "https://8.8.8.8/",
            "https://[2606:4700::1]/",
            "https://10.1.2.3:5000/v2/",
            "http://registry.lan/v2/",
            "http://127.0.0.1:5000/v2/",
        ] {
            guard.check(&Url::parse(good).expect(good)).expect(good);
        }
        assert!(guard.check(&Url::parse("http://127.0.0.1:5001/").expect("url")).is_err());
        assert!(guard.plain_http("registry.example", true).is_err());
        assert_eq!(guard.plain_http("registry.example", false), Ok(false));
    }
}
