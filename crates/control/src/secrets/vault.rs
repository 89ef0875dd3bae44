//! Vault, or OpenBao: KV version 2 for values, transit for data keys. Every
//! call has a time limit and every answer a size limit; redirects and proxies
//! are not followed, since they would take the token elsewhere.

use crate::config::VaultConfig;
use aether_core::{Secret, TenantId};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use reqwest::{Client, Method, StatusCode, Url};
use serde::Deserialize;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::Duration;
use zeroize::Zeroizing;

/// A value of 64 KiB in base64, and what Vault says around it.
const MAX_ANSWER: usize = 256 * 1024;
const MAX_TOKEN: u64 = 4096;

/// What is wrong with the settings.
#[derive(Debug, thiserror::Error)]
pub enum VaultSetupError {
    #[error("security.vault_address must be http:// or https://, host and port, without a path, user or query")]
    Address,
    #[error("security.{0} must be segments of letters, digits, '-', '_' and '.', joined by '/'")]
    Path(&'static str),
    #[error("security.vault_token or security.vault_token_file is needed: Vault answers nobody without a token")]
    NoToken,
    #[error("security.vault_ca_file {path}: {reason}")]
    Ca { path: PathBuf, reason: String },
    #[error("the client for Vault: {0}")]
    Client(String),
}

/// Why Vault gave nothing. The texts of Vault and of the network are for the
/// log; neither holds a value or the token.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VaultError {
    #[error("Vault cannot be reached: {0}")]
    Unreachable(String),
    #[error("Vault did not answer within {} s", .0.as_secs_f64())]
    Timeout(Duration),
    #[error("Vault is sealed, on standby or not ready ({0})")]
    NotReady(StatusCode),
    #[error("Vault refused the token ({0}): {1}")]
    Denied(StatusCode, String),
    #[error("Vault has no such value")]
    Missing,
    #[error("Vault answered {0}: {1}")]
    Status(StatusCode, String),
    #[error("Vault's answer is not what it should be: {0}")]
    Malformed(&'static str),
    #[error("security.vault_token_file: {0}")]
    TokenFile(String),
}

impl VaultError {
    pub(crate) const REMEDY: &'static str = "See that Vault runs and is unsealed, and that the server's token is valid and may use the path; then try again.";

    /// Whether the same may succeed a little later.
    pub(crate) fn passes(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::Timeout(_) | Self::NotReady(_))
    }

    /// For tenants: no address, no path.
    pub(crate) fn outward(&self) -> &'static str {
        match self {
            Self::Unreachable(_) | Self::Timeout(_) => "Vault does not answer.",
            Self::NotReady(_) => "Vault is sealed or not ready.",
            Self::Denied(..) | Self::TokenFile(_) => "Vault refused the server.",
            Self::Missing => "Vault does not have it any more.",
            Self::Status(..) | Self::Malformed(_) => "Vault answered with an error.",
        }
    }
}

pub(crate) struct Vault {
    client: Client,
    base: Url,
    token: Secret,
    token_file: Option<PathBuf>,
    namespace: Option<String>,
    mount: String,
    prefix: String,
    /// Mount and name of the key; none: values are in KV.
    transit: Option<(String, String)>,
    limit: Duration,
}

fn is_path(text: &str) -> bool {
    let plain = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.');
    let segment = |s: &str| !s.is_empty() && s != "." && s != ".." && s.bytes().all(plain);
    text.split('/').all(segment) && text.len() <= 256
}

fn base(address: &str) -> Option<Url> {
    let url = Url::parse(address).ok()?;
    let plain = matches!(url.scheme(), "http" | "https")
        && url.has_host()
        && url.username().is_empty()
        && url.password().is_none()
        && url.query().is_none()
        && url.fragment().is_none()
        && url.path() == "/";
    plain.then_some(url)
}

impl Vault {
    pub(crate) fn new(cfg: &VaultConfig) -> Result<Self, VaultSetupError> {
        let base = base(&cfg.address).ok_or(VaultSetupError::Address)?;
        for (key, path) in [
            ("vault_mount", Some(&cfg.mount)),
            ("vault_path", Some(&cfg.prefix)),
            ("vault_transit_mount", Some(&cfg.transit_mount)),
            ("vault_transit_key", cfg.transit_key.as_ref()),
            ("vault_namespace", cfg.namespace.as_ref()),
        ] {
            if path.is_some_and(|path| !is_path(path)) {
                return Err(VaultSetupError::Path(key));
            }
        }
        if cfg.token.is_empty() && cfg.token_file.is_none() {
            return Err(VaultSetupError::NoToken);
        }
        let mut client = Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .connect_timeout(cfg.timeout)
            .timeout(cfg.timeout)
            .pool_idle_timeout(Duration::from_secs(30));
        if let Some(path) = &cfg.ca_file {
            let bad = |reason: String| VaultSetupError::Ca { path: path.clone(), reason };
            let pem = std::fs::read(path).map_err(|e| bad(e.to_string()))?;
            let certificates = reqwest::Certificate::from_pem_bundle(&pem).map_err(|e| bad(e.to_string()))?;
            if certificates.is_empty() {
                return Err(bad("holds no certificate".to_owned()));
            }
            client = certificates.into_iter().fold(client, reqwest::ClientBuilder::add_root_certificate);
        }
        let client = client.build().map_err(|e| VaultSetupError::Client(e.to_string()))?;
        Ok(Self {
            client,
            base,
            token: cfg.token.clone(),
            token_file: cfg.token_file.clone(),
            namespace: cfg.namespace.clone(),
            mount: cfg.mount.clone(),
            prefix: cfg.prefix.clone(),
            transit: cfg.transit_key.clone().map(|key| (cfg.transit_mount.clone(), key)),
            limit: cfg.timeout,
        })
    }

    /// Whether it wraps data keys, and keeps no values.
    pub(crate) fn wraps(&self) -> bool {
        self.transit.is_some()
    }

    /// Writes a value; Vault's number of this version.
    pub(crate) async fn put(&self, tenant: &TenantId, name: &str, value: &[u8]) -> Result<u64, VaultError> {
        #[derive(Deserialize)]
        struct Written {
            version: u64,
        }
        let data = match std::str::from_utf8(value) {
            Ok(text) => json!({ "value": text }),
            Err(_) => json!({ "value_base64": BASE64.encode(value) }),
        };
        let path = self.kv("data", tenant, name);
        let written: Written = self.ask(Method::POST, &path, Some(json!({ "data": data }))).await?;
        Ok(written.version)
    }

    pub(crate) async fn get(
        &self,
        tenant: &TenantId,
        name: &str,
        version: u64,
    ) -> Result<Zeroizing<Vec<u8>>, VaultError> {
        #[derive(Deserialize)]
        struct Read {
            data: Option<Kept>,
        }
        #[derive(Deserialize)]
        struct Kept {
            value: Option<String>,
            value_base64: Option<String>,
        }
        let path = format!("{}?version={version}", self.kv("data", tenant, name));
        let read: Read = self.ask(Method::GET, &path, None).await?;
        let malformed = VaultError::Malformed("the value is missing");
        match read.data.ok_or(VaultError::Missing)? {
            Kept { value: Some(text), .. } => Ok(Zeroizing::new(text.into_bytes())),
            Kept { value_base64: Some(text), .. } => BASE64.decode(text).map(Zeroizing::new).map_err(|_| malformed),
            Kept { .. } => Err(malformed),
        }
    }

    /// With all its versions; not there: well.
    pub(crate) async fn remove(&self, tenant: &TenantId, name: &str) -> Result<(), VaultError> {
        match self.send(Method::DELETE, &self.kv("metadata", tenant, name), None).await {
            Ok(_) | Err(VaultError::Missing) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn kv(&self, part: &str, tenant: &TenantId, name: &str) -> String {
        format!("{}/{part}/{}/{tenant}/{name}", self.mount, self.prefix)
    }

    fn key(&self) -> Result<&(String, String), VaultError> {
        self.transit.as_ref().ok_or(VaultError::Malformed("no transit key is named"))
    }

    /// A fresh data key, in clear and wrapped.
    pub(crate) async fn data_key(&self) -> Result<(Zeroizing<[u8; 32]>, String), VaultError> {
        #[derive(Deserialize)]
        struct Made {
            plaintext: Secret,
            ciphertext: String,
        }
        let (mount, key) = self.key()?;
        let path = format!("{mount}/datakey/plaintext/{key}");
        let made: Made = self.ask(Method::POST, &path, Some(json!({ "bits": 256 }))).await?;
        let malformed = || VaultError::Malformed("the data key is none");
        let bytes = Zeroizing::new(BASE64.decode(made.plaintext.expose()).map_err(|_| malformed())?);
        let key = <[u8; 32]>::try_from(bytes.as_slice()).map_err(|_| malformed())?;
        Ok((Zeroizing::new(key), made.ciphertext))
    }

    pub(crate) async fn unwrap_key(&self, wrapped: &str) -> Result<Zeroizing<Vec<u8>>, VaultError> {
        #[derive(Deserialize)]
        struct Opened {
            plaintext: Secret,
        }
        let (mount, key) = self.key()?;
        let path = format!("{mount}/decrypt/{key}");
        let opened: Opened = self.ask(Method::POST, &path, Some(json!({ "ciphertext": wrapped }))).await?;
        let decoded = BASE64.decode(opened.plaintext.expose());
        decoded.map(Zeroizing::new).map_err(|_| VaultError::Malformed("the data key is none"))
    }

    /// The `data` of an answer.
    async fn ask<T: for<'de> Deserialize<'de>>(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Result<T, VaultError> {
        #[derive(Deserialize)]
        struct Answer<T> {
            data: T,
        }
        let bytes = self.send(method, path, body).await?;
        let answer = serde_json::from_slice::<Answer<T>>(&bytes);
        answer.map(|answer| answer.data).map_err(|_| VaultError::Malformed("it does not parse"))
    }

    async fn send(&self, method: Method, path: &str, body: Option<Value>) -> Result<Zeroizing<Vec<u8>>, VaultError> {
        let url = self.base.join(&format!("v1/{path}")).map_err(|_| VaultError::Malformed("the path is none"))?;
        let mut request = self.client.request(method, url).header("x-vault-token", self.token()?.expose());
        if let Some(namespace) = &self.namespace {
            request = request.header("x-vault-namespace", namespace);
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        let whole = async {
            let response = request.send().await.map_err(|e| self.unreachable(&e))?;
            let status = response.status();
            Ok((status, self.body(response).await?))
        };
        // The client's own limit begins anew with some steps.
        let (status, bytes) =
            tokio::time::timeout(self.limit, whole).await.map_err(|_| VaultError::Timeout(self.limit))??;
        if status.is_success() { Ok(bytes) } else { Err(refused(status, &bytes)) }
    }

    async fn body(&self, mut response: reqwest::Response) -> Result<Zeroizing<Vec<u8>>, VaultError> {
        let mut bytes = Zeroizing::new(Vec::new());
        while let Some(chunk) = response.chunk().await.map_err(|e| self.unreachable(&e))? {
            if bytes.len() + chunk.len() > MAX_ANSWER {
                return Err(VaultError::Malformed("it is too large"));
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }

    fn unreachable(&self, error: &reqwest::Error) -> VaultError {
        if error.is_timeout() {
            return VaultError::Timeout(self.limit);
        }
        // The innermost says it: connection refused, a certificate, a name.
        let mut cause: &dyn std::error::Error = error;
        while let Some(inner) = cause.source() {
            cause = inner;
        }
        VaultError::Unreachable(crate::problem::clean(&cause.to_string()))
    }

    /// The file is read each time: whoever renews the token replaces it.
    fn token(&self) -> Result<Secret, VaultError> {
        use std::io::Read;
        let Some(path) = &self.token_file else { return Ok(self.token.clone()) };
        let bad = |e: std::io::Error| VaultError::TokenFile(e.to_string());
        let mut text = Zeroizing::new(String::new());
        std::fs::File::open(path).map_err(bad)?.take(MAX_TOKEN).read_to_string(&mut text).map_err(bad)?;
        Ok(Secret::new(text.trim()))
    }
}

fn refused(status: StatusCode, body: &[u8]) -> VaultError {
    #[derive(Deserialize)]
    struct Errors {
        #[serde(default)]
        errors: Vec<String>,
    }
    let errors = serde_json::from_slice::<Errors>(body).map(|e| e.errors.join("; ")).unwrap_or_default();
    let said = crate::problem::clean(&errors);
    match status.as_u16() {
        401 | 403 => VaultError::Denied(status, said),
        404 => VaultError::Missing,
        // KV says so for a moment after its start.
        400 if said.contains("Upgrading from non-versioned") => VaultError::NotReady(status),
        429 | 472 | 473 | 500..=599 => VaultError::NotReady(status),
        _ => VaultError::Status(status, said),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(address: &str) -> VaultConfig {
        VaultConfig { address: address.into(), token: Secret::new("t"), ..VaultConfig::default() }
    }

    #[test]
    fn settings_that_cannot_be_meant_are_refused() {
        for good in ["http://127.0.0.1:8200", "https://vault.example", "https://[::1]:8200/"] {
            assert!(Vault::new(&config(good)).is_ok(), "{good}");
        }
        for bad in ["", "vault", "ftp://a", "http://a/v1", "http://u:p@a", "http://a?x=y", "http://a#b"] {
            assert!(matches!(Vault::new(&config(bad)), Err(VaultSetupError::Address)), "{bad}");
        }
        let with = |change: fn(&mut VaultConfig)| {
            let mut cfg = config("http://127.0.0.1:1");
            change(&mut cfg);
            Vault::new(&cfg).err().expect("refused").to_string()
        };
        assert!(with(|c| c.mount = "a/../b".into()).contains("vault_mount"));
        assert!(with(|c| c.prefix = "a//b".into()).contains("vault_path"));
        assert!(with(|c| c.transit_key = Some("a b".into())).contains("vault_transit_key"));
        assert!(with(|c| c.token = Secret::default()).contains("vault_token"));
        assert!(with(|c| c.ca_file = Some("/no/such".into())).contains("vault_ca_file"));
    }

    #[test]
    fn what_vault_says_is_sorted() {
        let of = |code: u16| refused(StatusCode::from_u16(code).expect("a status"), br#"{"errors":["no\nway"]}"#);
        assert!(of(503).passes() && of(429).passes() && of(473).passes());
        let upgrading = br#"{"errors":["Upgrading from non-versioned to versioned data. "]}"#;
        assert!(refused(StatusCode::BAD_REQUEST, upgrading).passes());
        for code in [400, 403, 404] {
            assert!(!of(code).passes(), "{code}");
        }
        assert_eq!(of(403).to_string(), "Vault refused the token (403 Forbidden): no way");
    }
}
