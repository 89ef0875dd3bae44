//! HTTPS: versions, certificates of others that change, one's own authority.

use crate::harness::{Server, start_with};
use aether_control::TlsConfig;
use std::path::Path;

fn in_dir(dir: &Path) -> TlsConfig {
    let (cert_path, key_path) = (dir.join("server.pem"), dir.join("server.key"));
    TlsConfig { cert_path, key_path, allow_tls12: false, own: None }
}

/// A certificate for localhost, in the two files.
fn signed_by_itself(tls: &TlsConfig) -> reqwest::Certificate {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).expect("certificate");
    std::fs::write(&tls.key_path, made.signing_key.serialize_pem()).expect("written");
    std::fs::write(&tls.cert_path, made.cert.pem()).expect("written");
    reqwest::Certificate::from_pem(made.cert.pem().as_bytes()).expect("root")
}

fn trusting(root: &reqwest::Certificate) -> reqwest::ClientBuilder {
    reqwest::Client::builder().no_proxy().tls_built_in_root_certs(false).add_root_certificate(root.clone())
}

async fn answers(server: &Server, host: &str, client: reqwest::ClientBuilder) -> Option<reqwest::Response> {
    let url = format!("https://{host}:{}/health", server.address.port());
    client.build().expect("client").get(&url).send().await.ok()
}

#[tokio::test]
async fn tls_1_3_alone_unless_asked() {
    let dir = tempfile::tempdir().expect("dir");
    let root = signed_by_itself(&in_dir(dir.path()));
    for allow_tls12 in [false, true] {
        let tls = TlsConfig { allow_tls12, ..in_dir(dir.path()) };
        let server = start_with(|cfg| cfg.tls = Some(tls)).await;
        for (version, served) in [(reqwest::tls::Version::TLS_1_3, true), (reqwest::tls::Version::TLS_1_2, allow_tls12)]
        {
            let client = trusting(&root).min_tls_version(version).max_tls_version(version);
            let answer = answers(&server, "localhost", client).await;
            assert_eq!(answer.is_some(), served, "{version:?} with allow_tls12 {allow_tls12}");
            if let Some(answer) = answer {
                assert_eq!(answer.version(), reqwest::Version::HTTP_2);
                assert!(answer.headers().contains_key("strict-transport-security"));
            }
        }
    }
}

#[tokio::test]
async fn a_replaced_certificate_is_taken_and_a_broken_one_is_not() {
    let dir = tempfile::tempdir().expect("dir");
    let tls = in_dir(dir.path());
    let first = signed_by_itself(&tls);
    let served = tls.clone();
    let server = start_with(|cfg| cfg.tls = Some(served)).await;
    std::fs::write(&tls.key_path, "half a fi").expect("written");
    tokio::time::sleep(std::time::Duration::from_secs(6)).await;
    assert!(answers(&server, "localhost", trusting(&first)).await.is_some(), "the one in force stays");
    let second = signed_by_itself(&tls);
    server.until(|s| async { answers(s, "localhost", trusting(&second)).await.is_some() }).await;
    assert!(answers(&server, "localhost", trusting(&first)).await.is_none());
}

#[tokio::test]
async fn who_trusts_the_servers_own_authority_trusts_the_server() {
    let dir = tempfile::tempdir().expect("dir");
    let own = |names: &[&str]| TlsConfig {
        own: Some(names.iter().map(|name| (*name).to_owned()).collect()),
        ..in_dir(&dir.path().join("tls"))
    };
    let tls = own(&["localhost", "127.0.0.1"]);
    let server = start_with(|cfg| cfg.tls = Some(tls)).await;
    let root = std::fs::read(dir.path().join("tls/ca.pem")).expect("an authority");
    let root = reqwest::Certificate::from_pem(&root).expect("a certificate");
    for host in ["localhost", "127.0.0.1"] {
        assert!(answers(&server, host, trusting(&root)).await.is_some(), "{host}");
    }
    let stranger = reqwest::Client::builder().no_proxy();
    assert!(answers(&server, "localhost", stranger).await.is_none(), "nobody else trusts it");
    // The next start issues another one, by the same authority, for its names.
    let tls = own(&["localhost"]);
    let server = start_with(|cfg| cfg.tls = Some(tls)).await;
    assert!(answers(&server, "localhost", trusting(&root)).await.is_some());
    assert!(answers(&server, "127.0.0.1", trusting(&root)).await.is_none(), "not one of its names");
}
