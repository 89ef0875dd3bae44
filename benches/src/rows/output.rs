//! Row 8: a command's output from the guest to the client, beside a copier in
//! a bare guest that writes to a port of the same kind; then 1 GiB at once,
//! by its hash and by what it leaves in memory.

use super::{IMAGE, archive};
use crate::Setup;
use crate::bare::{Bare, BareVm};
use crate::pairs::{Pairs, Side, order};
use crate::record::Record;
use crate::rows::idle::rss_mib;
use crate::server::Server;
use crate::stats::bootstrap;
use anyhow::{Context, ensure};
use std::process::{Command, Stdio};
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::time::Instant;

const PAIRS: usize = 45;
const WARM_UP: usize = 1;
const BYTES: usize = 16 << 20;
const MIB: f64 = (1 << 20) as f64;

pub(crate) async fn run(setup: &Setup) -> anyhow::Result<Vec<Record>> {
    let server = Server::start(setup, 1, None).await?;
    server.cli_ok(&["image", "import", &archive(setup)])?;
    let id = server.create("output", IMAGE).await?;
    let bare = Bare::of(setup, &server).await?.with_raw_port();
    let vm = bare.boot().await?;
    vm.identify().await?;
    let mut raw = UnixStream::connect(bare.raw_port()).await.context("the raw port")?;
    let port = String::from_utf8(vm.exec("port", &["sh", "-c", PORT]).await?)?;
    let mut pairs = Pairs::default();
    for n in 0..WARM_UP + PAIRS {
        for side in order(n) {
            let began = Instant::now();
            match side {
                Side::Ours | Side::Between => tokio::task::block_in_place(|| ours(&server, &id))?,
                Side::Peer | Side::Again => copied(&vm, &mut raw, port.trim(), n, side).await?,
            }
            if n >= WARM_UP {
                pairs.push(side, BYTES as f64 / MIB / began.elapsed().as_secs_f64());
            }
        }
    }
    drop(vm);
    let (grown, seconds) = tokio::task::block_in_place(|| one_gib(&server, &id))?;
    server.destroy(&id).await?;
    server.stop()?;
    let what = "16 MiB of output to the client, over a copier from a pipe to the port in a bare guest";
    let growth = "growth of the server's memory in the course of 1 GiB, whose hash was right";
    Ok(vec![
        pairs.ratio_at_least("8", what, "MiB/s", 0.6),
        Record::amount("8.memory", growth, "MiB", bootstrap(&[grown]), 1, Some(16.0)),
        Record::amount("8.gib", "1 GiB of `seq` from a guest to the client", "s", bootstrap(&[seconds]), 1, None),
    ])
}

/// The device of the raw port, by its name.
const PORT: &str = "for p in /sys/class/virtio-ports/*; do \
    [ \"$(cat $p/name 2>/dev/null)\" = bench.raw ] && echo /dev/${p##*/}; done";

fn ours(server: &Server, id: &str) -> anyhow::Result<()> {
    let count = BYTES.to_string();
    let mut child =
        server.cli(&["exec", id, "--", "head", "-c", &count, "/dev/zero"]).stdout(Stdio::piped()).spawn()?;
    let mut out = child.stdout.take().context("a pipe")?;
    let read = std::io::copy(&mut out, &mut std::io::sink())?;
    ensure!(child.wait()?.success() && read == BYTES as u64, "{read} bytes came of {BYTES}");
    Ok(())
}

async fn copied(vm: &BareVm, raw: &mut UnixStream, port: &str, n: usize, side: Side) -> anyhow::Result<()> {
    let script = format!("head -c {BYTES} /dev/zero | cat > {port}");
    let name = format!("copy-{side:?}-{n}").to_lowercase();
    let argv = ["sh", "-c", &script];
    let reading = async {
        let (mut left, mut buffer) = (BYTES, vec![0; 1 << 16]);
        while left > 0 {
            let count = raw.read(&mut buffer).await?;
            ensure!(count > 0 && count <= left, "{count} bytes where {left} were due");
            left -= count;
        }
        Ok(())
    };
    let (ran, read) = tokio::join!(vm.exec(&name, &argv), reading);
    ran?;
    read
}

/// The growth of the server's memory in MiB, and how many seconds it took.
fn one_gib(server: &Server, id: &str) -> anyhow::Result<(f64, f64)> {
    const SCRIPT: &str = "seq 1 200000000 | head -c 1073741824";
    let due = hash(Command::new("sh").args(["-c", SCRIPT]))?;
    let before = rss_mib(server.pid())?;
    let began = Instant::now();
    let watch = Watch::start(server.pid());
    let came = hash(&mut server.cli(&["exec", id, "--", "sh", "-c", SCRIPT]))?;
    let took = began.elapsed().as_secs_f64();
    let most = watch.end();
    ensure!(came == due, "the output has another hash");
    Ok((most - before, took))
}

/// SHA-256 of what a command prints, by `sha256sum`.
fn hash(command: &mut Command) -> anyhow::Result<String> {
    let mut child = command.stdout(Stdio::piped()).spawn()?;
    let out = child.stdout.take().context("a pipe")?;
    let sum = Command::new("sha256sum").stdin(out).stdout(Stdio::piped()).spawn()?;
    let output = sum.wait_with_output()?;
    child.wait()?;
    Ok(String::from_utf8_lossy(&output.stdout).split(' ').next().unwrap_or_default().to_owned())
}

/// The most memory that a process has had since, in MiB.
struct Watch(std::thread::JoinHandle<f64>, std::sync::Arc<std::sync::atomic::AtomicBool>);

impl Watch {
    #[allow(clippy::disallowed_methods, reason = "a benchmark's own thread; nothing is simulated here")]
    fn start(pid: u32) -> Self {
        let over = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let seen = over.clone();
        let thread = std::thread::spawn(move || {
            let mut most = 0_f64;
            while !seen.load(std::sync::atomic::Ordering::Relaxed) {
                most = most.max(rss_mib(pid).unwrap_or_default());
                std::thread::sleep(Duration::from_millis(100));
            }
            most
        });
        Self(thread, over)
    }

    fn end(self) -> f64 {
        self.1.store(true, std::sync::atomic::Ordering::Relaxed);
        self.0.join().unwrap_or(f64::NAN)
    }
}
