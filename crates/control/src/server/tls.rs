//! TLS from PEM files: 1.3, and 1.2 only where the operator asks for it.

use super::authority;
use crate::config::TlsConfig;
use crate::private_file::PrivateFileError;
use aether_core::Timestamp;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::path::PathBuf;
use std::sync::Arc;
use tokio_rustls::TlsAcceptor;

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot read {path} as PEM: {detail}")]
    Pem { path: PathBuf, detail: String },
    #[error("{0} holds no certificate")]
    NoCertificate(PathBuf),
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Key(#[from] PrivateFileError),
    #[error("{0} is missing, and its other half is there: restore it, or remove that for a new authority")]
    HalfAuthority(PathBuf),
    #[error("the certificate cannot be made: {0}")]
    Issue(#[from] rcgen::Error),
    #[error("certificate and key cannot be used: {0}")]
    Rustls(#[from] rustls::Error),
}

/// Reads the files, after issuing them where the authority is our own.
pub(crate) fn acceptor(cfg: &TlsConfig, now: Timestamp) -> Result<TlsAcceptor, TlsError> {
    if let Some(names) = &cfg.own {
        authority::issue(cfg, names, now)?;
    }
    let pem =
        |path: &PathBuf, e: rustls::pki_types::pem::Error| TlsError::Pem { path: path.clone(), detail: e.to_string() };
    let chain = CertificateDer::pem_file_iter(&cfg.cert_path)
        .and_then(|certs| certs.collect::<Result<Vec<_>, _>>())
        .map_err(|e| pem(&cfg.cert_path, e))?;
    if chain.is_empty() {
        return Err(TlsError::NoCertificate(cfg.cert_path.clone()));
    }
    let key = PrivateKeyDer::from_pem_file(&cfg.key_path).map_err(|e| pem(&cfg.key_path, e))?;
    let versions: &[&rustls::SupportedProtocolVersion] =
        if cfg.allow_tls12 { &[&rustls::version::TLS13, &rustls::version::TLS12] } else { &[&rustls::version::TLS13] };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut server = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(server)))
}
