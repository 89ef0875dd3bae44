//! Where the server is, and the byte stream to it.

use crate::error::CliError;
use std::fmt;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// An address of the HTTP API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Endpoint {
    Unix(PathBuf),
    Tcp { host: String, port: u16, tls: bool },
}

pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl Endpoint {
    /// `unix:///path`, `/path`, `http://host[:port]`, `https://host[:port]`,
    /// `host:port`.
    pub(crate) fn parse(text: &str) -> Result<Self, CliError> {
        let wrong = |why: &str| {
            CliError::with_remedy(
                format!("{text:?} is not an address of a server: {why}"),
                "Write unix:///run/aether/aether.sock, http://host:8080 or https://host:8443.",
            )
        };
        if let Some(path) = text.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            if !path.starts_with('/') {
                return Err(wrong("the path of a socket is absolute"));
            }
            return Ok(Self::Unix(PathBuf::from(path)));
        }
        if text.starts_with('/') {
            return Ok(Self::Unix(PathBuf::from(text)));
        }
        let (rest, tls) = match text.split_once("://") {
            Some(("http" | "tcp", rest)) => (rest, false),
            Some(("https", rest)) => (rest, true),
            Some(_) => return Err(wrong("the scheme is unknown")),
            None => (text, false),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.contains(['/', '?', '#', '@', ' ']) {
            return Err(wrong("it has more than host and port"));
        }
        let authority: http::uri::Authority = rest.parse().map_err(|_| wrong("host and port cannot be read"))?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        if host.is_empty() {
            return Err(wrong("the host is missing"));
        }
        // `Authority` takes any digits for a port, and none.
        let port =
            match authority.as_str().rsplit_once(']').map_or(authority.as_str(), |(_, tail)| tail).rsplit_once(':') {
                Some((_, port)) => port.parse().map_err(|_| wrong("the port is not a number up to 65535"))?,
                None if tls => 443,
                None => 8080,
            };
        Ok(Self::Tcp { host, port, tls })
    }

    /// The value of the `Host` header.
    pub(crate) fn authority(&self) -> String {
        match self {
            Self::Unix(_) => "localhost".to_owned(),
            Self::Tcp { host, port, .. } if host.contains(':') => format!("[{host}]:{port}"),
            Self::Tcp { host, port, .. } => format!("{host}:{port}"),
        }
    }

    /// A key sent here could be read on the way.
    pub(crate) fn exposes_tokens(&self) -> bool {
        match self {
            Self::Tcp { host, tls: false, .. } => {
                host != "localhost" && !host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
            }
            _ => false,
        }
    }

    pub(crate) async fn connect(&self) -> Result<Box<dyn Stream>, CliError> {
        match tokio::time::timeout(CONNECT_LIMIT, self.open()).await {
            Ok(result) => result,
            Err(_) => Err(CliError::with_remedy(
                format!("no answer from {self} within {} seconds", CONNECT_LIMIT.as_secs()),
                "Check the address, and that no firewall is in between.",
            )),
        }
    }

    async fn open(&self) -> Result<Box<dyn Stream>, CliError> {
        match self {
            Self::Unix(path) => match UnixStream::connect(path).await {
                Ok(stream) => Ok(Box::new(stream)),
                Err(e) => Err(socket_error(path, &e)),
            },
            Self::Tcp { host, port, tls } => {
                let stream = TcpStream::connect((host.as_str(), *port)).await.map_err(|e| self.tcp_error(&e))?;
                // Keystrokes must not wait for acknowledgements.
                let _ = stream.set_nodelay(true);
                if *tls { self.secure(host, stream).await } else { Ok(Box::new(stream)) }
            }
        }
    }

    async fn secure(&self, host: &str, stream: TcpStream) -> Result<Box<dyn Stream>, CliError> {
        let mut roots = rustls::RootCertStore::empty();
        let found = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(found.certs);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| CliError::failed(format!("cannot set up TLS: {e}")))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = rustls::pki_types::ServerName::try_from(host.to_owned())
            .map_err(|_| CliError::failed(format!("{host:?} cannot be the name in a certificate")))?;
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        match connector.connect(name, stream).await {
            Ok(stream) => Ok(Box::new(stream)),
            Err(e) => Err(CliError::with_remedy(
                format!("no secure connection to {self}: {e}"),
                "Check that the server speaks TLS there. A certificate of your own authority is named by SSL_CERT_FILE.",
            )),
        }
    }

    fn tcp_error(&self, e: &std::io::Error) -> CliError {
        let remedy = match e.kind() {
            ErrorKind::ConnectionRefused => {
                "Is the server running there? Start it with `aether server`, or name another with --server."
            }
            _ => "Check the address given by --server or AETHER_SERVER.",
        };
        CliError::with_remedy(format!("cannot reach {self}: {e}"), remedy)
    }
}

fn socket_error(path: &Path, e: &std::io::Error) -> CliError {
    let shown = path.display();
    match e.kind() {
        ErrorKind::NotFound => CliError::with_remedy(
            format!("the server is not running: there is no socket {shown}"),
            "Start it with `aether server` (as root), or name another server with --server or AETHER_SERVER.",
        ),
        ErrorKind::ConnectionRefused => CliError::with_remedy(
            format!("the server is not running: nobody listens on {shown}"),
            "Start it with `aether server` (as root), or name another server with --server or AETHER_SERVER.",
        ),
        ErrorKind::PermissionDenied => CliError::with_remedy(
            format!("no permission to use the server's socket {shown}"),
            "Run it as root, or join the group: `sudo usermod -aG aether \"$USER\"`, then log in again.",
        ),
        _ => CliError::failed(format!("cannot reach the server's socket {shown}: {e}")),
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp { tls, .. } => write!(f, "{}://{}", if *tls { "https" } else { "http" }, self.authority()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(host: &str, port: u16, tls: bool) -> Endpoint {
        Endpoint::Tcp { host: host.into(), port, tls }
    }

    #[test]
    fn addresses() {
        for (text, expected) in [
            ("unix:///run/a.sock", Endpoint::Unix("/run/a.sock".into())),
            ("unix:/run/a.sock", Endpoint::Unix("/run/a.sock".into())),
            ("/run/a.sock", Endpoint::Unix("/run/a.sock".into())),
            ("http://h:1", tcp("h", 1, false)),
            ("http://h/", tcp("h", 8080, false)),
            ("https://h", tcp("h", 443, true)),
            ("127.0.0.1:9", tcp("127.0.0.1", 9, false)),
            ("http://[::1]:9", tcp("::1", 9, false)),
        ] {
            assert_eq!(Endpoint::parse(text).expect(text), expected, "{text}");
        }
    }

    #[test]
    fn bad_addresses() {
        for bad in
            ["", "unix://rel", "ftp://h", "http://", "http://h:99999", "http://h:", "http://u@h", "http://h/x", "h h"]
        {
            let e = Endpoint::parse(bad).expect_err(bad);
            assert!(e.render(false).contains("hint: "), "{bad}");
        }
    }

    #[test]
    fn tokens_are_exposed_only_in_the_clear() {
        assert!(tcp("10.0.0.1", 1, false).exposes_tokens());
        for safe in [tcp("127.0.0.9", 1, false), tcp("localhost", 1, false), tcp("::1", 1, false), tcp("h", 1, true)] {
            assert!(!safe.exposes_tokens(), "{safe}");
        }
    }

    #[test]
    fn socket_errors_name_the_remedy() {
        let path = Path::new("/run/aether/aether.sock");
        let text = |kind: ErrorKind| socket_error(path, &kind.into()).render(false);
        assert!(text(ErrorKind::NotFound).contains("`aether server`"));
        assert!(text(ErrorKind::ConnectionRefused).contains("`aether server`"));
        assert!(text(ErrorKind::PermissionDenied).contains("usermod -aG aether"));
    }
}
