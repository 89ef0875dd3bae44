//! SIGHUP at a server that runs: what changes, what waits, and that a bad file
//! changes nothing.

use crate::live::{Live, wait_for};
use nix::sys::signal::Signal;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

/// Writes the file with these lines more, sends the signal, and waits for
/// what the log says of it.
fn reload(live: &Live, base: &str, more: &str) -> String {
    std::fs::write(&live.config, format!("{base}{more}")).expect("writes");
    reload_again(live)
}

fn reload_again(live: &Live) -> String {
    let before = live.log().len();
    live.signal(Signal::SIGHUP);
    wait_for("the reload", || {
        let log = live.log()[before..].to_owned();
        ["the configuration was reloaded", "the configuration was not reloaded"]
            .iter()
            .any(|end| log.lines().any(|line| line.contains(end)) && log.ends_with('\n'))
            .then_some(log)
    })
}

/// The status of one request over TCP; 0 where the server closes.
fn ask(live: &Live, path: &str) -> u16 {
    let mut stream = connect(live);
    let asked = write!(stream, "GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
    let mut answer = String::new();
    if asked.is_err() || stream.read_to_string(&mut answer).is_err() {
        return 0;
    }
    answer.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0)
}

fn metrics(live: &Live) -> String {
    let mut stream = connect(live);
    write!(stream, "GET /metrics HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").expect("asks");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("answers");
    answer
}

fn connect(live: &Live) -> TcpStream {
    let stream = TcpStream::connect(live.address()).expect("connects");
    stream.set_read_timeout(Some(Duration::from_secs(60))).expect("sets");
    stream
}

/// Whether the server keeps a connection beside another one.
fn two_at_once(live: &Live) -> bool {
    let mut held = connect(live);
    let asked = write!(held, "GET /health HTTP/1.1\r\nhost: a\r\n\r\n");
    asked.is_ok() && held.read_exact(&mut [0; 12]).is_ok() && ask(live, "/health") == 200
}

#[test]
fn a_reload_changes_what_can_change_and_a_bad_file_nothing() {
    let mut live = Live::start(&[]);
    let base = std::fs::read_to_string(&live.config).expect("the file");
    assert_eq!((ask(&live, "/metrics"), two_at_once(&live)), (200, true));
    assert!(!live.log().contains("DEBUG"));

    let more = "server.max_connections_per_peer: 1\nobservability.metrics_auth: true\n\
                observability.log_level: debug\nnode.boot_timeout: 40s\nimages.gc_grace: 2h\n";
    let log = reload(&live, &base, more);
    assert!(log.contains("was reloaded; changed: ") && log.contains("node.boot_timeout \"40s\", was \"30s\""), "{log}");
    assert!(!two_at_once(&live), "one connection alone");
    wait_for("the place", || (ask(&live, "/metrics") == 401).then_some(()));
    wait_for("a word at the new level", || live.log().contains("DEBUG").then_some(()));

    // Bad in each way, and beside it what would be taken from a good one.
    for (bad, why) in [
        ("observability.metrics_auth: false\nserver.max_conections: 5\n", "did you mean server.max_connections?"),
        ("observability.metrics_auth: false\nnode.boot_timeout: soon\n", "must be a duration"),
        ("observability.metrics_auth: false\nserver.max_connections: 0\n", "\"0\" must be 1 to 1000000"),
        ("observability.metrics_auth: false\nserver.tls_cert: /none\n", "go together"),
        ("observability: [\n", "not valid YAML"),
    ] {
        let log = reload(&live, &base, bad);
        assert!(log.contains("was not reloaded, the running one stays") && log.contains(why), "{log}");
        wait_for("the place", || (ask(&live, "/health") == 200).then_some(()));
        wait_for("the old setting", || (ask(&live, "/metrics") == 401).then_some(()));
    }
    std::fs::remove_file(&live.config).expect("removes");
    let log = reload_again(&live);
    assert!(log.contains("was not reloaded") && log.contains("No such file"), "{log}");

    // Back to the start, with a key that waits.
    let log = reload(&live, &base.replace("network_slots: 4", "network_slots: 5"), "");
    assert!(log.contains("taken at the next start only: node.network_slots"), "{log}");
    assert!(log.contains("observability.log_level \"info\", was \"debug\" (from default)"), "{log}");
    wait_for("two connections", || two_at_once(&live).then_some(()));
    assert_eq!(ask(&live, "/metrics"), 200);
    reload(&live, &base, "observability.metrics_enabled: false\n");
    assert_eq!(ask(&live, "/metrics"), 404);
    reload(&live, &base, "scheduler.strategy: spread\n");
    live.waiting_agent("one");
    wait_for("a pass by the new strategy", || metrics(&live).contains("strategy=\"spread\"").then_some(()));
    live.ok(&["agent", "destroy", "one"]);
    reload(&live, &base, "");
    let log = reload(&live, &base, "");
    assert!(log.contains("changed: no key that can change now") && !log.contains("next start"), "{log}");
    assert!(live.terminate() == Some(0), "{}", live.log());
}

fn certificate(dir: &Path, name: &str) -> Vec<u8> {
    let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).expect("a certificate");
    std::fs::write(dir.join("cert.pem"), made.cert.pem()).expect("writes");
    std::fs::write(dir.join("key.pem"), made.signing_key.serialize_pem()).expect("writes");
    made.cert.der().to_vec()
}

/// The certificate that the server shows.
fn presented(live: &Live) -> Vec<u8> {
    use rustls::client::danger::HandshakeSignatureValid as Signature;
    use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
    #[derive(Debug)]
    struct Any;
    impl rustls::client::danger::ServerCertVerifier for Any {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
            Ok(rustls::client::danger::ServerCertVerified::assertion())
        }
        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &rustls::DigitallySignedStruct,
        ) -> Result<Signature, rustls::Error> {
            Ok(Signature::assertion())
        }
        fn verify_tls13_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &rustls::DigitallySignedStruct,
        ) -> Result<Signature, rustls::Error> {
            Ok(Signature::assertion())
        }
        fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
            rustls::crypto::ring::default_provider().signature_verification_algorithms.supported_schemes()
        }
    }
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .dangerous()
        .with_custom_certificate_verifier(std::sync::Arc::new(Any))
        .with_no_client_auth();
    let name = ServerName::try_from("a.example").expect("a name");
    let mut tls = rustls::ClientConnection::new(std::sync::Arc::new(client), name).expect("a client");
    let mut tcp = connect(live);
    while tls.is_handshaking() {
        tls.complete_io(&mut tcp).expect("the handshake");
    }
    tls.peer_certificates().expect("a certificate")[0].to_vec()
}

#[test]
fn a_reload_takes_a_renewed_certificate_and_keeps_the_old_one_where_it_is_broken() {
    let mut live = Live::prepare(&[]);
    let dir = live.dir.path().to_owned();
    let first = certificate(&dir, "first.example");
    let base = std::fs::read_to_string(&live.config).expect("the file");
    let at = dir.display();
    let with_tls = format!("{base}server.tls_cert: {at}/cert.pem\nserver.tls_key: {at}/key.pem\n");
    std::fs::write(&live.config, &with_tls).expect("writes");
    live.launch();
    assert_eq!(presented(&live), first);

    let second = certificate(&dir, "second.example");
    assert_eq!(presented(&live), first, "files alone change nothing");
    assert!(reload_again(&live).contains("was reloaded"));
    assert_eq!(presented(&live), second);

    std::fs::write(dir.join("cert.pem"), "-----BEGIN CERTIFICATE-----\nAAAA").expect("writes");
    let log = reload(&live, &with_tls, "observability.log_level: debug\n");
    assert!(log.contains("was not reloaded") && log.contains("cert.pem"), "{log}");
    assert_eq!(presented(&live), second);
    assert!(!live.log().contains("DEBUG"), "nothing of that file was taken");

    // Without TLS at all it would be plain HTTP at once: not without a restart.
    certificate(&dir, "third.example");
    let log = reload(&live, &base, "");
    assert!(log.contains("taken at the next start only: server.tls_cert, server.tls_key"), "{log}");
    assert_ne!(presented(&live), second, "the files are read anew all the same");
    assert!(live.terminate() == Some(0), "{}", live.log());
}
