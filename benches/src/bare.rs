//! The bare baseline: the command line of one of our VMMs, taken from
//! `/proc`, started as from a shell. No jail, no journal, no API; the same
//! kernel, image, kind of disk and channel.

use crate::Setup;
use crate::rows::IMAGE;
use crate::server::Server;
use aether_core::Rng as _;
use aether_core::source::OsRng;
use aether_node::channel::{GuestClient, OutputKind, wire};
use aether_node::engine::qemu::{QemuConfig, QemuEngine};
use aether_node::engine::{ChannelToken, DiskFormat, Engine};
use aether_node::kernel::GuestBinary;
use anyhow::{Context, bail, ensure};
use futures::StreamExt;
use serde_json::Value;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::UnixStream;
use tokio::time::Instant;

const DISK_MB: u64 = 10_240;
const LIMIT: Duration = Duration::from_secs(60);

pub(crate) struct Bare {
    dir: tempfile::TempDir,
    args: Vec<String>,
    /// What a guest is told of its image, as a server tells it: a program
    /// that finds another locale or search path does other work.
    image: wire::ImageConfig,
    /// Goes with the last VMM.
    _tap: Tap,
    engine: QemuEngine,
}

/// A VMM from the bare line; killed when dropped.
pub(crate) struct BareVm {
    child: Child,
    image: wire::ImageConfig,
    pub(crate) client: GuestClient,
    /// From the spawn to QEMU's greeting on its monitor, in milliseconds.
    pub(crate) greeted_ms: f64,
    /// From the spawn to the guest's first good answer, in milliseconds.
    pub(crate) ready_ms: f64,
}

impl Drop for BareVm {
    fn drop(&mut self) {
        self.client.close();
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Bare {
    /// Of a server that runs exactly one sandbox.
    pub(crate) async fn of(setup: &Setup, server: &Server) -> anyhow::Result<Self> {
        let vmms = server.vmms();
        let [pid] = vmms.as_slice() else { bail!("one VMM should run, not {vmms:?}") };
        let proc = PathBuf::from(format!("/proc/{pid}"));
        let dir = tempfile::Builder::new().prefix("aether-bare-").tempdir()?;
        for name in ["kernel", "initramfs"] {
            std::fs::copy(proc.join("root").join(name), dir.path().join(name))?;
        }
        copy_folder(&proc.join("root/firmware"), &dir.path().join("firmware"))?;
        std::fs::copy(device_of(&proc)?, dir.path().join("image")).context("copy the image's device")?;
        let line = std::fs::read(proc.join("cmdline"))?;
        let args: Vec<String> = line
            .split(|b| *b == 0)
            .filter(|a| !a.is_empty())
            .map(|a| String::from_utf8_lossy(a).into_owned())
            .collect();
        let mut config = QemuConfig::new(
            dir.path().join("engine"),
            dir.path().join("run"),
            &setup.aether,
            GuestBinary::Path(setup.guest.clone()),
        );
        config.uid_base = server.uid_base + 70_000;
        config.encrypt_disks = args.iter().any(|a| a.starts_with("secret,"));
        let engine = QemuEngine::open(config).await.context("an engine that makes disks")?;
        let image = image_config(&server.image(IMAGE).await?["config"]);
        let tap = Tap::make(&format!("bench{}", std::process::id() % 10_000))?;
        let args = bare_args(&args[1..], dir.path(), &tap.name)?;
        Ok(Self { dir, args, image, _tap: tap, engine })
    }

    /// With one port more, which nothing of ours speaks on.
    pub(crate) fn with_raw_port(mut self) -> Self {
        for arg in &mut self.args {
            if arg.starts_with("virtio-serial-device") {
                "virtio-serial-device,max_ports=4".clone_into(arg);
            }
        }
        let chardev = format!("socket,id=raw,path={},server=on,wait=off", self.raw_port().display());
        let device = "virtserialport,nr=3,chardev=raw,name=bench.raw".to_owned();
        self.args.extend(["-chardev".to_owned(), chardev, "-device".to_owned(), device]);
        self
    }

    pub(crate) fn raw_port(&self) -> PathBuf {
        self.dir.path().join("raw")
    }

    pub(crate) fn line(&self) -> String {
        format!("qemu-system-x86_64 {}", self.args.join(" "))
    }

    /// Starts one on a fresh disk and waits for its guest. The disk is made
    /// before the clock starts.
    pub(crate) async fn boot(&self) -> anyhow::Result<BareVm> {
        let path = |name: &str| self.dir.path().join(name);
        for name in ["disk", "control", "data", "qmp", "raw"] {
            let _ = std::fs::remove_file(path(name));
        }
        if let DiskFormat::Qcow2Luks { key } = self.engine.make_disk(&path("disk"), DISK_MB).await? {
            let text: String = key.iter().map(|b| format!("{b:02x}")).collect();
            std::fs::write(path("disk-key"), text)?;
        }
        let token = ChannelToken(random());
        std::fs::File::create(path("token"))?.write_all(&token.0)?;
        let began = Instant::now();
        let child = Command::new("qemu-system-x86_64")
            .args(&self.args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            .spawn()
            .context("start qemu-system-x86_64")?;
        let client = GuestClient::open(path("control"), path("data"), token);
        let mut vm = BareVm { child, image: self.image.clone(), client, greeted_ms: 0.0, ready_ms: 0.0 };
        let monitor = loop {
            if let Ok(monitor) = UnixStream::connect(path("qmp")).await {
                break monitor;
            }
            if let Some(status) = vm.child.try_wait()? {
                bail!("the bare VMM ended with {status}");
            }
            ensure!(began.elapsed() < LIMIT, "the bare VMM made no sockets");
            tokio::time::sleep(Duration::from_millis(1)).await;
        };
        let mut greeting = String::new();
        BufReader::new(monitor).read_line(&mut greeting).await?;
        ensure!(greeting.contains("QMP"), "not a greeting: {greeting}");
        vm.greeted_ms = began.elapsed().as_secs_f64() * 1000.0;
        vm.client.wait_ready(LIMIT).await?;
        vm.ready_ms = began.elapsed().as_secs_f64() * 1000.0;
        Ok(vm)
    }
}

impl BareVm {
    /// Gives the guest an identity, so that it runs commands.
    pub(crate) async fn identify(&self) -> anyhow::Result<()> {
        let request = wire::IdentifyRequest {
            agent_id: "bare".into(),
            hostname: "bare".into(),
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a time after 1970")]
            unix_ns: crate::server::wall_ms() as u64 * 1_000_000,
            entropy: random::<64>().to_vec(),
            channel_token: random::<16>().to_vec(),
            image: Some(self.image.clone()).into(),
            ..Default::default()
        };
        let answer = self.client.identify(request).await?;
        ensure!(answer.main_error.is_empty(), "{}", answer.main_error);
        Ok(())
    }

    /// The spawn that an exec is, over the channel and nothing else.
    pub(crate) async fn exec(&self, id: &str, argv: &[&str]) -> anyhow::Result<Vec<u8>> {
        let request = wire::StartRequest {
            exec_id: id.to_owned(),
            argv: argv.iter().map(|a| (*a).to_owned()).collect(),
            timeout_ms: 30_000,
            ..Default::default()
        };
        let started = self.client.exec_start(request).await?;
        let mut events = std::pin::pin!(self.client.exec_output(&started.exec_id, 0));
        let mut out = Vec::new();
        while let Some(event) = events.next().await {
            match event?.event {
                Some(OutputKind::Output(output)) => out.extend_from_slice(&output.data),
                Some(OutputKind::Exited(state)) => {
                    let code = state.exit.as_option().and_then(|e| e.exit_code);
                    ensure!(code == Some(0), "{argv:?} exited with {code:?}");
                    return Ok(out);
                }
                _ => {}
            }
        }
        bail!("the output ended without an exit")
    }
}

fn image_config(config: &Value) -> wire::ImageConfig {
    let text = |name: &str| config[name].as_str().unwrap_or_default().to_owned();
    let env = config["Env"].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect();
    wire::ImageConfig { env, workdir: text("WorkingDir"), user: text("User"), ..Default::default() }
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    OsRng.fill(&mut bytes);
    bytes
}

/// The image's device, by the descriptors of a VMM.
fn device_of(proc: &Path) -> anyhow::Result<PathBuf> {
    for entry in std::fs::read_dir(proc.join("fd"))? {
        let target = std::fs::read_link(entry?.path()).unwrap_or_default();
        if target.parent().is_some_and(|p| p.ends_with("devices")) && target.is_file() {
            return Ok(target);
        }
    }
    bail!("the VMM has no image")
}

/// The same line with paths where a jail has descriptors.
fn bare_args(args: &[String], dir: &Path, tap: &str) -> anyhow::Result<Vec<String>> {
    let at = |name: &str| dir.join(name).display().to_string();
    let mut out: Vec<String> = Vec::new();
    for arg in args {
        let changed = match arg.as_str() {
            "/firmware" | "/kernel" | "/initramfs" => at(&arg[1..]),
            a if a.starts_with("fd=") => {
                ensure!(out.pop().as_deref() == Some("-add-fd"), "an unexpected descriptor: {a}");
                continue;
            }
            a => a
                .replace("/dev/fdset/1", &at("image"))
                .replace("/dev/fdset/2", &at("disk"))
                .replace("fd=13,", &format!("path={},", at("control")))
                .replace("fd=14,", &format!("path={},", at("data")))
                .replace("fd=15,", &format!("path={},", at("qmp")))
                .replace("id=net,fd=12,", &format!("id=net,ifname={tap},script=no,downscript=no,"))
                .replace("file=/disk-key", &format!("file={}", at("disk-key")))
                .replace("file=/token", &format!("file={}", at("token"))),
        };
        out.push(changed);
    }
    ensure!(!out.iter().any(|a| a.contains("fd=")), "a descriptor is left in {out:?}");
    Ok(out)
}

fn copy_folder(from: &Path, to: &Path) -> anyhow::Result<()> {
    std::fs::create_dir(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        if entry.metadata()?.is_file() {
            std::fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
    }
    Ok(())
}

/// A tap that leads nowhere.
struct Tap {
    name: String,
}

impl Tap {
    fn make(name: &str) -> anyhow::Result<Self> {
        let status = Command::new("ip").args(["tuntap", "add", "dev", name, "mode", "tap"]).status()?;
        ensure!(status.success(), "cannot make the tap {name}");
        let tap = Self { name: name.to_owned() };
        ensure!(Command::new("ip").args(["link", "set", name, "up"]).status()?.success(), "cannot set {name} up");
        Ok(tap)
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["link", "del", &self.name]).status();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_guest_learns_its_image_like_another() {
        let config = serde_json::json!({"Env": ["PATH=/bin", "LANG=C.UTF-8"], "WorkingDir": "/root", "User": "root"});
        let image = image_config(&config);
        assert_eq!(image.env, ["PATH=/bin", "LANG=C.UTF-8"]);
        assert_eq!((image.workdir.as_str(), image.user.as_str()), ("/root", "root"));
        assert_eq!(image_config(&Value::Null).env, Vec::<String>::new());
    }

    #[test]
    fn descriptors_become_paths() {
        let line = "-L /firmware -add-fd fd=10,set=1,opaque=image -blockdev driver=file,filename=/dev/fdset/1 \
                    -chardev socket,id=data,fd=14,server=on -netdev tap,id=net,fd=12,vhost=off";
        let args: Vec<String> = line.split(' ').map(str::to_owned).collect();
        let bare = bare_args(&args, Path::new("/d"), "t0").expect("a line").join(" ");
        assert_eq!(
            bare,
            "-L /d/firmware -blockdev driver=file,filename=/d/image -chardev socket,id=data,path=/d/data,server=on \
             -netdev tap,id=net,ifname=t0,script=no,downscript=no,vhost=off"
        );
    }
}
