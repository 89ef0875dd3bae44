//! The same protocol over TCP with mutual TLS: a node that was given
//! addresses and certificates instead of a pipe.

use super::exec::run;
use super::server::{Data, Server};
use super::spec;
use super::world::{Here, import, new_netns};
use aether_node::{ControlDialer, DataListener};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::net::TcpListener;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity, ServerTlsConfig};

/// A certificate authority of the test's own.
struct Ca(CertifiedIssuer<'static, KeyPair>);

impl Ca {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("params");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("signs"))
    }

    fn identity(&self, name: &str) -> Identity {
        let key = KeyPair::generate().expect("a key");
        let cert =
            CertificateParams::new(vec![name.to_owned()]).expect("params").signed_by(&key, &self.0).expect("signs");
        Identity::from_pem(cert.pem(), key.serialize_pem())
    }

    fn certificate(&self) -> Certificate {
        Certificate::from_pem(self.0.pem())
    }

    fn serving(&self, name: &str) -> ServerTlsConfig {
        ServerTlsConfig::new().identity(self.identity(name)).client_ca_root(self.certificate())
    }

    fn calling(&self, identity: Option<Identity>, name: &str) -> ClientTlsConfig {
        let tls = ClientTlsConfig::new().ca_certificate(self.certificate()).domain_name(name);
        match identity {
            Some(identity) => tls.identity(identity),
            None => tls,
        }
    }
}

fn endpoint(address: std::net::SocketAddr, tls: ClientTlsConfig) -> Endpoint {
    Endpoint::from_shared(format!("https://{address}")).expect("an address").tls_config(tls).expect("tls")
}

async fn reaches(channel: Result<Channel, tonic::transport::Error>) -> bool {
    // With TLS 1.3 a client learns of its refusal at its first read.
    let Ok(channel) = channel else { return false };
    let request = aether_proto::node::ImageListRequest { tenant_id: "default".into() };
    Data::new(channel).image_list(request).await.is_ok()
}

/// The node's network must not be the machine's: once more, in a namespace.
#[test]
fn the_protocol_over_tcp_with_mutual_tls() {
    let netns = new_netns();
    let status = std::process::Command::new("nsenter")
        .arg(format!("--net=/run/netns/{netns}"))
        .arg(std::env::current_exe().expect("own path"))
        .args(["--exact", "runtime::mtls::inside", "--nocapture"])
        .env("AETHER_TEST_MTLS", "1")
        .status();
    let _ = std::process::Command::new("ip").args(["netns", "del", &netns]).status();
    assert!(status.expect("nsenter").success());
}

/// Not a test of its own: the one above, inside its namespace.
#[tokio::test(flavor = "multi_thread")]
async fn inside() {
    if std::env::var_os("AETHER_TEST_MTLS").is_none() {
        return;
    }
    let (ca, stranger) = (Ca::new(), Ca::new());
    let server = Server::default();
    let control = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let control_at = control.local_addr().expect("an address");
    let router = tonic::transport::Server::builder()
        .tls_config(ca.serving("control.test"))
        .expect("tls")
        .add_service(server.service());
    tokio::spawn(router.serve_with_incoming(tonic::transport::server::TcpIncoming::from(control)));

    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let data_at = listener.local_addr().expect("an address");
    let dial = endpoint(control_at, ca.calling(Some(ca.identity("node.test")), "control.test"));
    let dialer = ControlDialer::Endpoint(Box::new(dial));
    let data = DataListener::Tls { listener, tls: Box::new(ca.serving("node.test")) };
    let here = Here::start("mtls", dialer, data).await;
    server.hello(1).await;

    let mine = |tls| endpoint(data_at, tls);
    let good = mine(ca.calling(Some(ca.identity("control.test")), "node.test")).connect().await.expect("connects");
    assert!(!reaches(mine(ca.calling(None, "node.test")).connect().await).await, "without a certificate");
    let forged = ca.calling(Some(stranger.identity("control.test")), "node.test");
    assert!(!reaches(mine(forged).connect().await).await, "with a stranger's certificate");
    let mut data = Data::new(good);
    import(&mut data, "one:v1", "one").await;
    let agent = server.create(&spec("one:v1"));
    server.observed(&agent, "running").await;
    server.acked().await;
    assert_eq!(run(&mut data, &agent, &["/bin/echo", "over", "TLS"]).await.stdout, "over TLS\n");
    server.want(&agent, "gone");
    server.observed(&agent, "gone").await;
    here.end().await;
}
