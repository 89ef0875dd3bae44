//! Debian's own registry behind a password, filled by skopeo: neither is ours.

use super::archives::{Image, Layer, paths};
use super::{config, open, quiet, tenant};
use crate::jail::Scratch;
use aether_core::secret::Secret;
use aether_node::images::{Credentials, ImageError, PullSpec};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const USER: &str = "keeper";
const PASSWORD: &str = "correct-horse";

struct Registry {
    process: Child,
    address: String,
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = (self.process.kill(), self.process.wait());
    }
}

fn run(program: &str, args: &[&str]) -> Vec<u8> {
    let out = Command::new(program).args(args).stdin(Stdio::null()).output().expect(program);
    assert!(out.status.success(), "{program}: {}", String::from_utf8_lossy(&out.stderr));
    out.stdout
}

impl Registry {
    async fn start(dir: &Path) -> Self {
        std::fs::write(dir.join("users"), run("htpasswd", &["-nbB", USER, PASSWORD])).expect("users");
        // Free a moment ago: a second try is for when another took it.
        for _ in 0..5 {
            let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
            let address = free.local_addr().expect("address").to_string();
            drop(free);
            let text = format!(
                "version: 0.1\nlog: {{ level: error }}\nstorage: {{ filesystem: {{ rootdirectory: {0}/blobs }} }}\n\
                 http: {{ addr: {address} }}\nauth: {{ htpasswd: {{ realm: test, path: {0}/users }} }}\n",
                dir.display()
            );
            std::fs::write(dir.join("registry.yml"), text).expect("config");
            let log = std::fs::File::create(dir.join("registry.log")).expect("log");
            let process = Command::new("docker-registry")
                .arg("serve")
                .arg(dir.join("registry.yml"))
                .stdout(Stdio::null())
                .stderr(log)
                .spawn()
                .expect("docker-registry: run scripts/deps.sh test");
            let mut registry = Self { process, address };
            if registry.answers().await {
                return registry;
            }
        }
        panic!("no registry: {}", std::fs::read_to_string(dir.join("registry.log")).unwrap_or_default());
    }

    async fn answers(&mut self) -> bool {
        for _ in 0..1200 {
            if tokio::net::TcpStream::connect(&self.address).await.is_ok() {
                return self.process.try_wait().expect("waits").is_none();
            }
            if self.process.try_wait().expect("waits").is_some() {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        false
    }

    /// With skopeo, as users push.
    fn push(&self, dir: &Path, image: &Image) {
        let archive = dir.join("image.tar");
        std::fs::write(&archive, image.oci_archive(None)).expect("archive");
        let (from, to) =
            (format!("oci-archive:{}", archive.display()), format!("docker://{}/team/app:1", self.address));
        let credentials = format!("{USER}:{PASSWORD}");
        run(
            "skopeo",
            &["copy", "--insecure-policy", "--dest-tls-verify=false", "--dest-creds", &credentials, &from, &to],
        );
    }
}

#[tokio::test]
async fn a_real_registry_gives_to_those_it_knows_and_its_images_are_collected() {
    let scratch = Scratch::new("real-registry");
    let dir = scratch.0.join("registry");
    std::fs::create_dir(&dir).expect("folder");
    let registry = Registry::start(&dir).await;
    let image = Image::new(vec![Layer::new().file("bin/app", "app".repeat(50_000)).gzip()]);
    registry.push(&dir, &image);

    let images = open(config(&scratch.0.join("images"))).await;
    let (mine, name) = (tenant("default"), format!("{}/team/app:1", registry.address));
    let mut spec = PullSpec::parse(&name).expect("reference");
    let refused = images.pull(&mine, spec.clone(), quiet()).await.expect_err("nobody");
    assert!(matches!(refused, ImageError::Unauthorized { .. }), "{refused}");
    let known = |password: &str| Some(Credentials { username: USER.into(), password: Secret::new(password) });
    spec.credentials = known("wrong");
    let refused = images.pull(&mine, spec.clone(), quiet()).await.expect_err("a wrong password");
    assert!(matches!(refused, ImageError::Unauthorized { .. }), "{refused}");
    spec.credentials = known(PASSWORD);
    let record = images.pull(&mine, spec.clone(), quiet()).await.expect("with the password");
    assert_eq!(record.digest, image.digest());
    assert!(paths(&record.device).contains(&"bin/app".to_owned()));

    // The loopback is the operator's, not every tenant's.
    let refused = images.pull(&tenant("other"), spec, quiet()).await.expect_err("another tenant");
    assert!(matches!(refused, ImageError::Refused(_)), "{refused}");

    images.gc().await.expect("collects");
    assert!(record.device.exists(), "what has a name stays");
    images.remove(&mine, &name).await.expect("removed");
    images.gc().await.expect("collects");
    assert!(!record.device.exists(), "what nobody needs goes");
}

#[tokio::test]
async fn a_loopback_registry_that_the_operator_opened_is_for_every_tenant() {
    let scratch = Scratch::new("opened-registry");
    let mut settings = config(&scratch.0);
    settings.allow_insecure_hosts = vec!["127.0.0.1:9".into()];
    settings.timeouts.retries = 0;
    let images = open(settings).await;
    let other = tenant("other");
    let pull = |name: &str| images.pull(&other, PullSpec::parse(name).expect("reference"), quiet());
    // Nobody listens on the discard port: it was asked, and that is enough.
    let asked = pull("127.0.0.1:9/t/img:1").await.expect_err("nobody there");
    assert!(!matches!(asked, ImageError::Refused(_)), "{asked}");
    for name in ["127.0.0.1:8/t/img:1", "localhost:9/t/img:1", "127.0.0.2:9/t/img:1"] {
        let refused = pull(name).await.expect_err(name);
        assert!(matches!(refused, ImageError::Refused(_)), "{name}: {refused}");
    }
}
