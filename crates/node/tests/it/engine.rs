//! Real VMs, with a tiny first process of our own.

use crate::jail::{Scratch, assert_confined, names_in, verb};
use aether_core::AgentId;
use aether_node::engine::qemu::{Accel, QemuConfig, QemuEngine};
use aether_node::engine::{BootRequest, ChannelToken, Disk, Engine, EngineError, Vmm, VmmIdentity};
use aether_node::kernel::GuestBinary;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const TOKEN: [u8; 16] = *b"0123456789abcdef";
/// Emulation on a busy machine.
const LONG: Duration = Duration::from_secs(120);

/// Compiled once per test run.
fn first_process() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT
        .get_or_init(|| {
            let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join("engine-test-init");
            let status = Command::new(std::env::var("RUSTC").unwrap_or_else(|_| "rustc".into()))
                .args(["--edition", "2024", "-O", "-C", "target-feature=+crt-static", "-C", "panic=abort", "-o"])
                .arg(&out)
                .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/fixtures/init.rs"))
                .status()
                .expect("rustc");
            assert!(status.success());
            out
        })
        .clone()
}

struct World {
    scratch: Scratch,
    config: QemuConfig,
    engine: QemuEngine,
}

fn config(scratch: &Scratch) -> QemuConfig {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let base = &scratch.0;
    let guest = GuestBinary::Path(first_process());
    let mut config = QemuConfig::new(base.join("state"), base.join("run"), verb(), guest);
    // Apart from every other test, in this process and in others.
    config.uid_base = 100_000_000 + std::process::id() * 700 + NEXT.fetch_add(1, Ordering::Relaxed) * 70_000;
    config.accel = Accel::Tcg;
    config
}

impl World {
    async fn new(name: &str) -> Self {
        let scratch = Scratch::new(name);
        let config = config(&scratch);
        let engine = QemuEngine::open(config.clone()).await.expect("engine");
        Self { scratch, config, engine }
    }

    async fn request(&self, slot: u32) -> BootRequest {
        let image = self.scratch.0.join("image");
        if !image.exists() {
            let content = self.scratch.0.join("content");
            std::fs::create_dir(&content).expect("content");
            std::fs::write(content.join("file"), b"from the image").expect("content");
            let made = Command::new("mksquashfs").arg(&content).arg(&image).args(["-quiet", "-no-progress"]).status();
            assert!(made.expect("mksquashfs").success());
        }
        let path = self.scratch.0.join(format!("disk-{slot}"));
        let format = self.engine.make_disk(&path, 64).await.expect("disk");
        BootRequest {
            slot,
            agent_id: AgentId::generate("c0", &aether_core::source::OsRng),
            vcpus: 1,
            memory_mb: 128,
            image_device: image,
            disk: Disk { path, format },
            tap: None,
            mac: [2, 0, 0, 0, 0, 1],
            token: ChannelToken(TOKEN),
        }
    }

    /// The console so far, as the VMM's stdout.
    fn console(vmm: &Vmm) -> String {
        let bytes = std::fs::read(format!("/proc/{}/fd/1", vmm.identity.pid)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).trim_end_matches('\0').to_string()
    }

    async fn ready(vmm: &Vmm) -> String {
        let ready = async {
            loop {
                let console = Self::console(vmm);
                if console.contains("T ready") {
                    return console;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        match tokio::time::timeout(LONG, ready).await {
            Ok(console) => console,
            Err(_) => panic!("the guest is not ready: {}", Self::console(vmm)),
        }
    }

    fn assert_nothing_left(&self, slot: u32) {
        assert!(!self.config.run_dir.join(format!("slots/{slot}")).exists());
        let parent = self.config.cgroup_parent();
        assert!(!aether_node::cgroup::children(&parent).contains(&format!("slot-{slot}")));
    }
}

impl Drop for World {
    /// A failed test leaves no VM either.
    fn drop(&mut self) {
        let (base, parent) = (self.config.uid_base, self.config.cgroup_parent());
        for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let pid = entry.file_name().to_str().and_then(|n| n.parse::<i32>().ok());
            let ours = entry.metadata().is_ok_and(|m| (base..base + 70_000).contains(&m.uid()));
            if let Some(pid) = pid.and_then(rustix::process::Pid::from_raw).filter(|_| ours) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
        for name in aether_node::cgroup::children(&parent) {
            let _ = aether_node::cgroup::remove(&format!("{parent}/{name}"));
        }
        let _ = aether_node::cgroup::remove(&parent);
    }
}

async fn say(vmm: &Vmm, text: &[u8]) -> tokio::net::UnixStream {
    let mut stream = tokio::net::UnixStream::connect(&vmm.control_socket).await.expect("connect");
    stream.write_all(text).await.expect("write");
    stream
}

async fn echo(vmm: &Vmm, text: &[u8]) {
    let mut stream = say(vmm, text).await;
    let mut answer = vec![0; text.len()];
    tokio::time::timeout(LONG, stream.read_exact(&mut answer)).await.expect("in time").expect("read");
    assert_eq!(answer, text);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_boots_with_what_it_was_given() {
    let world = World::new("boot").await;
    let vmm = world.engine.boot(world.request(3).await).await.expect("boot");
    let console = World::ready(&vmm).await;
    for line in [
        "T token 30313233343536373839616263646566",
        "T image mounted true",
        "T block disk sectors 131072 read-only 0",
        "T disk mounted true written true",
        "T cpus 0",
        "T rng virtio_rng.0",
    ] {
        assert!(console.contains(line), "no `{line}` in:\n{console}");
    }
    assert!(!console.contains("failed"), "{console}");
    echo(&vmm, b"hello").await;
    assert_jailed(&world, &vmm);
    let stats = world.engine.stats(&vmm).await.expect("stats");
    assert!(stats.cpu_usage_us > 100_000 && stats.memory_bytes > 32 << 20, "{stats:?}");
    world.engine.kill(&vmm, LONG).await.expect("kill");
    world.engine.clean(3).await.expect("clean");
    world.assert_nothing_left(3);
}

/// The isolation checklist, on the running VMM.
fn assert_jailed(world: &World, vmm: &Vmm) {
    let pid = vmm.identity.pid;
    assert_confined(pid, world.config.uid_base + vmm.identity.slot);
    let proc = PathBuf::from(format!("/proc/{pid}"));
    let root: Vec<String> = names_in(proc.join("root")).into_iter().collect();
    assert_eq!(root, ["dev", "disk-key", "firmware", "initramfs", "kernel", "lib", "lib64", "token", "usr"]);
    let exe = std::fs::metadata(proc.join("exe")).expect("exe");
    assert_eq!((exe.nlink(), exe.mode() & 0o222), (1, 0), "a copy of its own that nobody writes");
    let expected = [
        "/dev/null",
        "/dev/urandom",
        "/memfd:aether-serial",
        "/memfd:aether-stderr",
        "/image",
        "/disk-3",
        "socket:",
        "anon_inode:[eventfd]",
        "anon_inode:[signalfd]",
        "anon_inode:[eventpoll]",
    ];
    for fd in std::fs::read_dir(proc.join("fd")).expect("fds").flatten() {
        let link = std::fs::read_link(fd.path()).unwrap_or_default().to_string_lossy().into_owned();
        assert!(expected.iter().any(|e| link.contains(e)), "an unexpected descriptor: {link}");
    }
    let line = std::fs::read(proc.join("cmdline")).expect("cmdline");
    for secret in [TOKEN.as_slice(), b"30313233"] {
        assert!(!line.windows(secret.len()).any(|w| w == secret), "the token is in argv");
    }
    for socket in [&vmm.control_socket, &vmm.data_socket] {
        let meta = std::fs::metadata(socket).expect("socket");
        assert_eq!((meta.uid(), meta.mode() & 0o777), (0, 0o600));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_outlives_its_daemon_and_is_adopted() {
    let world = World::new("adopt").await;
    let vmm = world.engine.boot(world.request(5).await).await.expect("boot");
    World::ready(&vmm).await;
    let identity = vmm.identity.clone();
    assert_eq!(world.engine.traces().await.expect("traces"), [5]);

    // Another daemon, as after a kill -9.
    let later = QemuEngine::open(world.config.clone()).await.expect("engine");
    let recycled = VmmIdentity { start_time: identity.start_time + 1, ..identity.clone() };
    assert!(later.adopt(&recycled).await.expect("adopt").is_none());
    let adopted = later.adopt(&identity).await.expect("adopt").expect("alive");
    assert_eq!((&adopted.control_socket, &adopted.identity), (&vmm.control_socket, &identity));
    echo(&adopted, b"still here").await;
    assert!(later.clean(5).await.is_err(), "a living VMM is not cleaned");

    say(&adopted, b"off").await;
    let seen = tokio::time::timeout(LONG, later.wait(&adopted)).await.expect("powers off");
    assert!(later.adopt(&identity).await.expect("adopt").is_none(), "it is gone");
    // Both are this process, which is the parent: one of them reaped the VMM
    // and knows its code.
    let exits = [seen, world.engine.wait(&vmm).await];
    assert!(exits.iter().any(|exit| exit.code == Some(0)), "{exits:?}");
    assert!(exits.iter().all(|exit| exit.signal.is_none() && exit.out_of_memory.is_none()), "{exits:?}");
    later.clean(5).await.expect("clean");
    later.clean(5).await.expect("again");
    world.assert_nothing_left(5);
    assert!(later.traces().await.expect("traces").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_are_told_and_leave_nothing() {
    let world = World::new("fail").await;
    let mut request = world.request(1).await;
    request.image_device = world.scratch.0.join("absent");
    let error = world.engine.boot(request).await.expect_err("no image").to_string();
    assert!(error.contains("absent") && error.contains("No such file"), "{error}");
    world.assert_nothing_left(1);

    let mut request = world.request(2).await;
    request.vcpus = 0;
    assert!(world.engine.boot(request).await.is_err());

    // A key that does not open the disk: QEMU's own words are in the error.
    let mut request = world.request(4).await;
    let key = zeroize::Zeroizing::new(vec![7; 32]);
    request.disk.format = aether_node::engine::DiskFormat::Qcow2Luks { key };
    let error = world.engine.boot(request).await.expect_err("the wrong key");
    assert!(matches!(error, EngineError::DiedAtOnce(_)), "{error:?}");
    assert!(error.to_string().contains("password"), "{error}");
    world.assert_nothing_left(4);

    let slot = world.config.run_dir.join("slots/6");
    std::os::unix::fs::symlink("/etc", &slot).expect("plant");
    let error = world.engine.boot(world.request(6).await).await.expect_err("planted").to_string();
    assert!(error.contains("slot 6 is not clean"), "{error}");
    assert_eq!(world.engine.traces().await.expect("traces"), [6]);
    world.engine.reap(6).await.expect("reap");
    assert!(Path::new("/etc/passwd").exists());
    world.assert_nothing_left(6);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_without_an_owner_is_reaped() {
    let world = World::new("reap").await;
    let vmm = world.engine.boot(world.request(9).await).await.expect("boot");
    let later = QemuEngine::open(world.config.clone()).await.expect("engine");
    assert_eq!(later.traces().await.expect("traces"), [9]);
    later.reap(9).await.expect("reap");
    world.assert_nothing_left(9);
    let exit = world.engine.wait(&vmm).await;
    assert_eq!((exit.code, exit.signal), (None, Some(9)));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_names_the_isolation() {
    let scratch = Scratch::new("doctor");
    let checks = aether_node::engine::doctor::checks(&config(&scratch)).await;
    let engine = checks.iter().find(|check| check.name == "engine").expect("engine");
    assert!(engine.detail.contains("vm-emulated") && engine.detail.contains("TCG"), "{engine:?}");
    for check in &checks {
        assert_eq!(check.remedy.is_empty(), check.status == aether_node::engine::doctor::Status::Ok, "{check:?}");
    }
}

/// KVM is believed only after a guest ran on it.
#[tokio::test(flavor = "multi_thread")]
async fn kvm_is_probed_once() {
    let scratch = Scratch::new("probe");
    let mut config = config(&scratch);
    config.accel = Accel::Auto;
    let facts = QemuEngine::open(config.clone()).await.expect("engine").capabilities();
    assert!(!facts.reason.is_empty());
    assert!(config.state_dir.join("kvm-probe.json").exists());
    assert_eq!(QemuEngine::open(config.clone()).await.expect("again").capabilities().reason, facts.reason);
    assert!(!config.run_dir.join("slots").read_dir().expect("slots").any(|_| true), "the probe leaves nothing");
    if facts.isolation == aether_node::engine::Isolation::VmEmulated {
        config.accel = Accel::Kvm;
        let error = QemuEngine::open(config.clone()).await.expect_err("never weakened silently").to_string();
        assert!(error.contains("KVM"), "{error}");
    }
    let _ = aether_node::cgroup::remove(&config.cgroup_parent());
}
