//! `aether run IMAGE` on a node that has nothing: from the command to its
//! first output, and where the time goes. The registry is on loopback.

use super::{IMAGE, archive};
use crate::Setup;
use crate::bare::Bare;
use crate::record::Record;
use crate::server::{Server, free_port};
use crate::stats::{bootstrap, median};
use anyhow::{Context, ensure};
use std::collections::BTreeMap;
use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tokio::time::Instant;

const RUNS: usize = 6;

pub(crate) async fn run(setup: &Setup) -> anyhow::Result<Vec<Record>> {
    let registry = Registry::start(setup).await?;
    let kernel = kernel_share(setup).await?;
    let mut parts: BTreeMap<&'static str, Vec<f64>> = BTreeMap::new();
    for _ in 0..RUNS {
        for (name, ms) in one(setup, &registry, &kernel).await? {
            parts.entry(name).or_default().push(ms);
        }
    }
    let mut records = Vec::new();
    for (name, what) in PARTS {
        let values = parts.get(name).with_context(|| format!("the part {name}"))?;
        eprintln!("   {name:12} {:8.1} ms", median(values));
        let row = if name == "total" { "cold".to_owned() } else { format!("cold.{name}") };
        records.push(Record::amount(&row, what, "ms", bootstrap(values), values.len(), None));
    }
    Ok(records)
}

const PARTS: [(&str, &str); 9] = [
    ("total", "`aether run` of an image from a registry → first output, nothing cached"),
    ("pull", "of it: download, with its digests checked"),
    ("convert", "of it: layers to a device, in the jail"),
    ("slot", "of it: queue, network slot, the agent's disk"),
    ("vmm", "of it: jail, QEMU's start, its greeting, firmware and load of the kernel"),
    ("kernel", "of it: the guest's kernel to its first process"),
    ("guest", "of it: modules, mounts, channel, first answer"),
    ("identity", "of it: hostname, network, entropy, token"),
    ("exec", "of it: the command itself, CLI, API, placement, reports"),
];

/// What one boot's time in the guest is made of, in milliseconds.
struct Kernel {
    to_init: f64,
    to_ready: f64,
}

async fn kernel_share(setup: &Setup) -> anyhow::Result<Kernel> {
    let server = Server::start(setup, 1, None).await?;
    server.cli_ok(&["image", "import", &archive(setup)])?;
    let id = server.create("kernel", IMAGE).await?;
    let bare = Bare::of(setup, &server).await?;
    let (mut init, mut ready) = (Vec::new(), Vec::new());
    for _ in 0..5 {
        let vm = bare.boot().await?;
        #[allow(clippy::cast_precision_loss, reason = "milliseconds of a boot")]
        ready.push(vm.client.health().await?.uptime_ms as f64);
        vm.identify().await?;
        let log = String::from_utf8_lossy(&vm.exec("dmesg", &["dmesg"]).await?).into_owned();
        let line = log.lines().find(|l| l.contains("Run /init")).context("the kernel says when it runs /init")?;
        let seconds: f64 = line.trim_start_matches('[').split(']').next().unwrap_or_default().trim().parse()?;
        init.push(seconds * 1000.0);
    }
    server.destroy(&id).await?;
    server.stop()?;
    Ok(Kernel { to_init: median(&init), to_ready: median(&ready) })
}

async fn one(setup: &Setup, registry: &Registry, kernel: &Kernel) -> anyhow::Result<Vec<(&'static str, f64)>> {
    let host = format!("127.0.0.1:{}", registry.port);
    let server = Server::start(setup, 1, Some(&host)).await?;
    let image = format!("{host}/python:3.11");
    let began = Instant::now();
    let mut child = server
        .cli(&["--quiet", "run", &image, "--", "python3", "-c", "print(6*7)"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut stdout = child.stdout.take().context("a pipe")?;
    let first = tokio::task::spawn_blocking(move || {
        let mut byte = [0u8; 3];
        stdout.read_exact(&mut byte).map(|()| byte)
    });
    let first = first.await?;
    let total = began.elapsed().as_secs_f64() * 1000.0;
    let output = child.wait_with_output()?;
    let talk = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success() && first.ok().as_ref() == Some(b"42\n"), "not 42: {talk}");
    let pulled = server.log_line("pulled", |_| true)?;
    // The log writes what needs more than 64 bits as text.
    let number = |name: &str| {
        let value = pulled[name].as_f64().or_else(|| pulled[name].as_str()?.parse().ok());
        value.with_context(|| format!("{name} in the log"))
    };
    let line = server.log_line("booted", |_| true)?;
    let id = line["agent"].as_str().context("the agent's id")?.to_owned();
    let (steps, _) = server.booted(&id).await?;
    let step = |name: &str| steps.iter().find(|(n, _)| n == name).map_or(0.0, |(_, ms)| *ms);
    let (pull, convert) = (number("download_ms")?, number("convert_ms")?);
    let slot = step("queue") + step("slot") + step("disk");
    let guest = kernel.to_ready - kernel.to_init;
    let vmm = step("vmm") + (step("guest") - kernel.to_ready).max(0.0);
    let identity = step("identity");
    let exec = total - pull - convert - slot - vmm - kernel.to_init - guest - identity;
    server.stop()?;
    Ok(vec![
        ("total", total),
        ("pull", pull),
        ("convert", convert),
        ("slot", slot),
        ("vmm", vmm),
        ("kernel", kernel.to_init),
        ("guest", guest),
        ("identity", identity),
        ("exec", exec),
    ])
}

/// A registry on loopback with the demo's image in it.
struct Registry {
    child: Child,
    port: u16,
    _dir: tempfile::TempDir,
}

impl Registry {
    async fn start(setup: &Setup) -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("aether-registry-").tempdir()?;
        let port = free_port()?;
        let config = format!(
            "version: 0.1\nlog: {{ level: error }}\nstorage: {{ filesystem: {{ rootdirectory: {} }} }}\n\
             http: {{ addr: \"127.0.0.1:{port}\" }}\n",
            dir.path().join("data").display()
        );
        std::fs::write(dir.path().join("registry.yml"), config)?;
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(dir.path().join("registry.yml"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("start docker-registry")?;
        let registry = Self { child, port, _dir: dir };
        for _ in 0..100 {
            if std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let from = format!("oci:{}", setup.demo.join("python").display());
        let to = format!("docker://127.0.0.1:{port}/python:3.11");
        let output =
            Command::new("skopeo").args(["copy", "--quiet", "--dest-tls-verify=false", &from, &to]).output()?;
        ensure!(output.status.success(), "skopeo: {}", String::from_utf8_lossy(&output.stderr));
        Ok(registry)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
