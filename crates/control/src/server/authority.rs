//! A certificate authority of the server's own, for who has none: made once,
//! kept in a folder, and trusted by whoever is given its certificate. It
//! issues the server's certificate anew at each start and each month.
//!
//! Not here: certificates of others (`tls`), of nodes.

use super::tls::TlsError;
use crate::config::TlsConfig;
use crate::private_file::{self, PrivateFileError};
use aether_core::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use std::path::{Path, PathBuf};
use std::time::Duration;
use zeroize::Zeroizing;

const DAY: Duration = Duration::from_secs(24 * 3600);
const ROOT_HOLDS: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
const HOLDS: Duration = Duration::from_secs(90 * 24 * 3600);
/// What is a month old is made anew, two before it ends.
pub(super) const RENEWED_AFTER: Duration = Duration::from_secs(30 * 24 * 3600);

/// The certificate that clients are given; the key beside it is `ca.key`.
fn root_path(cfg: &TlsConfig) -> PathBuf {
    cfg.cert_path.with_file_name("ca.pem")
}

/// Makes the authority where there is none, and a certificate for `names`
/// (DNS names and addresses) in `cfg`'s two files.
pub(super) fn issue(cfg: &TlsConfig, names: &[String], now: Timestamp) -> Result<(), TlsError> {
    let folder = cfg.cert_path.parent().unwrap_or(Path::new("."));
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| TlsError::Io { path, source }
    };
    std::fs::create_dir_all(folder).map_err(io(folder))?;
    let (root, root_key) = (root_path(cfg), cfg.cert_path.with_file_name("ca.key"));
    let issuer = match (found(std::fs::read_to_string(&root)).map_err(io(&root))?, private(&root_key)?) {
        (Some(pem), Some(key)) => issuer(&root, &pem, &key)?,
        // The one without the other is of no use, and not ours to throw away.
        (None, None) => {
            let (pem, key) = new_root(now)?;
            private_file::replace(&root_key, &key, 0o600).map_err(io(&root_key))?;
            private_file::replace(&root, &pem, 0o644).map_err(io(&root))?;
            tracing::info!(path = %root.display(), "an authority was made: clients that trust this file trust the server");
            issuer(&root, &pem, &key)?
        }
        (Some(_), None) => return Err(TlsError::HalfAuthority(root_key)),
        (None, Some(_)) => return Err(TlsError::HalfAuthority(root)),
    };
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(names.to_vec())?;
    params.distinguished_name = named("Aether server");
    valid(&mut params, now, HOLDS);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    let certificate = params.signed_by(&key, &issuer)?;
    private_file::replace(&cfg.key_path, &key.serialize_pem(), 0o600).map_err(io(&cfg.key_path))?;
    private_file::replace(&cfg.cert_path, &certificate.pem(), 0o644).map_err(io(&cfg.cert_path))
}

fn new_root(now: Timestamp) -> Result<(String, String), TlsError> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name = named("Aether authority");
    valid(&mut params, now, ROOT_HOLDS);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok((params.self_signed(&key)?.pem(), key.serialize_pem()))
}

fn issuer(path: &Path, pem: &str, key: &str) -> Result<Issuer<'static, KeyPair>, TlsError> {
    let key = KeyPair::from_pem(key).map_err(|_| TlsError::Pem {
        path: path.with_file_name("ca.key"),
        detail: "it holds no private key".to_owned(),
    })?;
    Issuer::from_ca_cert_pem(pem, key).map_err(|e| TlsError::Pem { path: path.to_owned(), detail: e.to_string() })
}

fn named(name: &str) -> DistinguishedName {
    let mut named = DistinguishedName::new();
    named.push(DnType::CommonName, name);
    named
}

/// From yesterday on, for clocks that differ, to the day after `holds`.
fn valid(params: &mut CertificateParams, now: Timestamp, holds: Duration) {
    let day = |at: Timestamp| {
        let text = at.to_string();
        let part = |range| text.get(range).and_then(|t: &str| t.parse::<u16>().ok()).unwrap_or(1);
        let small = |range| u8::try_from(part(range)).unwrap_or(1);
        rcgen::date_time_ymd(i32::from(part(0..4)), small(5..7), small(8..10))
    };
    (params.not_before, params.not_after) = (day(now.minus(DAY)), day(now.plus(holds)));
}

fn found<T>(read: std::io::Result<T>) -> std::io::Result<Option<T>> {
    match read {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        read => read.map(Some),
    }
}

fn private(path: &Path) -> Result<Option<Zeroizing<String>>, PrivateFileError> {
    match private_file::read(path) {
        Err(PrivateFileError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(None),
        read => read.map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn config(dir: &Path) -> TlsConfig {
        let (cert_path, key_path) = (dir.join("server.pem"), dir.join("server.key"));
        TlsConfig { cert_path, key_path, allow_tls12: false, own: Some(Vec::new()) }
    }

    fn now() -> Timestamp {
        Timestamp::from_unix_ms(1_790_000_000_000)
    }

    #[test]
    fn the_authority_is_made_once_and_its_keys_are_private() {
        let dir = tempfile::tempdir().expect("dir");
        let (folder, names) = (dir.path().join("tls"), ["localhost".to_owned(), "10.0.0.1".to_owned()]);
        let cfg = config(&folder);
        issue(&cfg, &names, now()).expect("issues");
        let read = |name: &str| std::fs::read_to_string(folder.join(name)).expect("a file");
        let (root, first) = (read("ca.pem"), read("server.pem"));
        issue(&cfg, &names, now().plus(RENEWED_AFTER)).expect("issues");
        assert_eq!(read("ca.pem"), root);
        assert_ne!(read("server.pem"), first);
        for key in ["ca.key", "server.key"] {
            let mode = std::fs::metadata(folder.join(key)).expect("a file").permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{key}");
        }
        assert_eq!(std::fs::read_dir(&folder).expect("dir").count(), 4, "nothing is left aside");
    }

    #[test]
    fn half_an_authority_and_one_that_others_read_are_refused() {
        let dir = tempfile::tempdir().expect("dir");
        let cfg = config(dir.path());
        issue(&cfg, &[], now()).expect("issues");
        std::fs::set_permissions(dir.path().join("ca.key"), std::fs::Permissions::from_mode(0o640)).expect("chmod");
        assert!(matches!(issue(&cfg, &[], now()), Err(TlsError::Key(PrivateFileError::Readable(_)))));
        std::fs::remove_file(dir.path().join("ca.key")).expect("removed");
        assert!(matches!(issue(&cfg, &[], now()), Err(TlsError::HalfAuthority(_))));
        std::fs::write(dir.path().join("ca.key"), "no key").expect("written");
        std::fs::set_permissions(dir.path().join("ca.key"), std::fs::Permissions::from_mode(0o600)).expect("chmod");
        assert!(matches!(issue(&cfg, &[], now()), Err(TlsError::Pem { .. })));
    }
}
