//! Real VMs, with a tiny first process of our own.

use crate::jail::{Scratch, verb};
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
    fn drop(&mut self) {
        let _ = aether_node::cgroup::remove(&self.config.cgroup_parent());
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
    world.engine.kill(&vmm, LONG).await.expect("kill");
    world.engine.clean(3).await.expect("clean");
    world.assert_nothing_left(3);
}
