//! Discovery document and keys of one issuer. Whoever answers for it could
//! point us inward: each address is judged before it is asked, names resolve
//! to allowed addresses alone (the connection goes to the one that was
//! judged), and nothing is followed anywhere.

use super::super::jose::strict;
use super::jwks::KeySet;
use crate::config::OidcIssuer;
use aether_core::address::is_internal;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::{Certificate, Client, Url};
use serde_json::Value;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

const CONNECT: Duration = Duration::from_secs(3);
/// Of each of the two documents, from first to last byte.
const WHOLE: Duration = Duration::from_secs(5);
const MAX_DOCUMENT: usize = 64 * 1024;
const MAX_KEYS: usize = 512 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error("the address {0:?} is not one that may be asked: {1}")]
    Address(String, &'static str),
    #[error("the certificates {path}: {why}")]
    Certificates { path: PathBuf, why: String },
    #[error("HTTP cannot be set up: {0}")]
    Client(String),
    #[error("{what} of the issuer: {why}")]
    Answer { what: &'static str, why: String },
}

pub(super) struct Source {
    http: Client,
    issuer: String,
    document: Url,
    allow_internal: bool,
}

impl Source {
    pub(super) fn new(cfg: &OidcIssuer) -> Result<Self, FetchError> {
        let text = format!("{}/.well-known/openid-configuration", cfg.issuer.trim_end_matches('/'));
        let document = Url::parse(&text).map_err(|_| FetchError::Address(text.clone(), "it is no URL"))?;
        let open = cfg.allow_internal.then(|| document.host_str().unwrap_or_default().to_ascii_lowercase());
        let mut http = Client::builder()
            .user_agent(concat!("aether/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .dns_resolver(Arc::new(Guarded { open }))
            // A proxy would resolve names itself, out of our sight.
            .no_proxy()
            .connect_timeout(CONNECT)
            .timeout(WHOLE);
        if let Some(path) = &cfg.ca_path {
            let wrong = |why: String| FetchError::Certificates { path: path.clone(), why };
            let pem = std::fs::read(path).map_err(|e| wrong(e.to_string()))?;
            for certificate in Certificate::from_pem_bundle(&pem).map_err(|e| wrong(e.to_string()))? {
                http = http.add_root_certificate(certificate);
            }
        }
        let http = http.build().map_err(|e| FetchError::Client(e.to_string()))?;
        let source = Self { http, issuer: cfg.issuer.clone(), document, allow_internal: cfg.allow_internal };
        source.judge(&source.document)?;
        Ok(source)
    }

    /// Whether a URL may be asked. Only the issuer's own place may be inside,
    /// and only where the configuration says so; plain HTTP is for loopback.
    fn judge(&self, url: &Url) -> Result<(), FetchError> {
        let refuse = |why| Err(FetchError::Address(url.as_str().chars().take(200).collect(), why));
        // Parsed by the URL's own rules: decimal and octal forms come out plain.
        let Some(host) = url.host_str().filter(|host| !host.is_empty()) else { return refuse("it has no host") };
        if !url.username().is_empty() || url.password().is_some() {
            return refuse("it has credentials in it");
        }
        let ip = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        let name = host.trim_end_matches('.').to_ascii_lowercase();
        let loopback = match ip {
            Ok(ip) => ip.is_loopback(),
            Err(_) => name == "localhost" || name.ends_with(".localhost"),
        };
        let own = self.allow_internal && url.origin() == self.document.origin();
        match url.scheme() {
            "https" => {}
            "http" if loopback && own => {}
            "http" => return refuse("plain HTTP is for loopback alone, with `allow_internal`"),
            _ => return refuse("only HTTPS is asked"),
        }
        if !own && (loopback || ip.is_ok_and(is_internal)) {
            return refuse("it is internal: only the issuer's own place may be, with `allow_internal`");
        }
        Ok(())
    }

    pub(super) async fn fetch(&self) -> Result<KeySet, FetchError> {
        let wrong = |what, why: &str| FetchError::Answer { what, why: why.to_owned() };
        let (what, bytes) = ("the discovery document", self.get(&self.document, MAX_DOCUMENT).await?);
        let document = strict(&bytes).ok_or_else(|| wrong(what, "it is not JSON"))?;
        if document.get("issuer").and_then(Value::as_str) != Some(&self.issuer) {
            return Err(wrong(what, "it is another issuer's"));
        }
        let keys = document.get("jwks_uri").and_then(Value::as_str).and_then(|uri| Url::parse(uri).ok());
        let keys = keys.ok_or_else(|| wrong(what, "it names no `jwks_uri`"))?;
        self.judge(&keys)?;
        let bytes = self.get(&keys, MAX_KEYS).await?;
        KeySet::parse(&bytes).ok_or_else(|| wrong("the keys", "they are no document of keys"))
    }

    async fn get(&self, url: &Url, most: usize) -> Result<Vec<u8>, FetchError> {
        let what = if *url == self.document { "the discovery document" } else { "the keys" };
        let wrong = |why: String| FetchError::Answer { what, why };
        // The cause says more than the message, and may be of any length.
        let failed = |e: reqwest::Error| {
            let mut cause: &dyn std::error::Error = &e;
            while let Some(next) = cause.source() {
                cause = next;
            }
            wrong(cause.to_string().chars().take(200).collect())
        };
        let mut response = self.http.get(url.clone()).send().await.map_err(failed)?;
        if response.status() != reqwest::StatusCode::OK {
            return Err(wrong(format!("it answers {}", response.status().as_u16())));
        }
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            if bytes.len() + chunk.len() > most {
                return Err(wrong(format!("it is larger than {most} bytes")));
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }
}

/// The system's resolver with internal addresses taken out.
struct Guarded {
    /// A host that may have them.
    open: Option<String>,
}

impl Resolve for Guarded {
    fn resolve(&self, name: Name) -> Resolving {
        let open = self.open.as_deref() == Some(name.as_str());
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let allowed: Vec<SocketAddr> = found.filter(|a| open || !is_internal(a.ip())).collect();
            if allowed.is_empty() {
                return Err("it resolves to no address that may be asked".into());
            }
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(issuer: &str, allow_internal: bool) -> Result<Source, FetchError> {
        Source::new(&OidcIssuer { allow_internal, ..OidcIssuer::new(issuer, "a") })
    }

    #[test]
    fn issuers_inside_are_named_as_such() {
        for (issuer, public, internal) in [
            ("https://login.example", true, true),
            ("https://login.example/realms/main/", true, true),
            ("https://8.8.8.8", true, true),
            ("http://login.example", false, false),
            ("https://127.0.0.1:1", false, true),
            ("http://127.0.0.1:1", false, true),
            ("http://[::1]:1", false, true),
            ("http://localhost:1", false, true),
            ("http://10.0.0.1", false, false),
            ("https://10.0.0.1", false, true),
            ("https://2130706433", false, true),
            ("https://[::ffff:169.254.169.254]", false, true),
            ("https://u:p@login.example", false, false),
            ("ftp://login.example", false, false),
            ("file:///etc/passwd", false, false),
            ("login.example", false, false),
        ] {
            assert_eq!((source(issuer, false).is_ok(), source(issuer, true).is_ok()), (public, internal), "{issuer}");
        }
    }

    #[test]
    fn keys_elsewhere_are_never_inside() {
        let source = source("https://10.0.0.1", true).expect("allowed");
        let judge = |url: &str| source.judge(&Url::parse(url).expect("a URL")).is_ok();
        assert!(judge("https://10.0.0.1/keys") && judge("https://keys.example/"));
        for inside in ["https://10.0.0.1:444/", "https://10.0.0.2/", "https://169.254.169.254/", "http://10.0.0.1/"] {
            assert!(!judge(inside), "{inside}");
        }
    }
}
