//! What a jailed process is and is not, seen from outside on the running
//! process.

use aether_node::cgroup;
use aether_node::jail::{Command, JailError, JailLimits, Jailed, remove_dir};
use std::io::{Read, Seek};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// The verb, without the rest of the binary.
pub(crate) fn verb() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_aether-jail-test"))
}

/// A folder of root's own, removed at the end.
pub(crate) struct Scratch(pub(crate) PathBuf);

impl Scratch {
    pub(crate) fn new(name: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = PathBuf::from(format!("/run/aether-it-{}-{name}-{n}", std::process::id()));
        std::fs::create_dir(&path).expect("scratch folder; these tests need root");
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Uids that no other test uses at the same time.
fn fresh_uid() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    1_500_000 + std::process::id() % 10_000 * 32 + NEXT.fetch_add(1, Ordering::Relaxed)
}

/// The host's own programs and libraries, read-only.
fn shell(scratch: &Scratch, script: &str) -> Command {
    let uid = fresh_uid();
    let mut command = Command::new("/usr/bin/sh", scratch.0.join("jail")).args(["-c", script]).uid_gid(uid, uid);
    for (source, target) in
        [("/usr/bin", "/usr/bin"), ("/usr/lib", "/usr/lib"), ("/usr/lib", "/lib"), ("/usr/lib64", "/lib64")]
    {
        command = command.exec_bind(source, target);
    }
    command
}

fn memory_file() -> (OwnedFd, std::fs::File) {
    let fd = rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::CLOEXEC).expect("memfd");
    let reader = std::fs::File::from(fd.try_clone().expect("dup"));
    (fd, reader)
}

fn text(mut file: std::fs::File) -> String {
    let mut out = String::new();
    file.rewind().expect("rewind");
    file.read_to_string(&mut out).expect("read");
    out
}

/// Runs a script to its end; (stdout and stderr, exit).
async fn run(scratch: &Scratch, script: &str, limits: JailLimits) -> (String, (Option<i32>, Option<i32>)) {
    let (out, reader) = memory_file();
    let err = out.try_clone().expect("dup");
    let command = shell(scratch, script).limits(limits).stdout(out).stderr(err);
    let jailed = command.spawn(verb()).await.expect("spawn");
    let exit = jailed.wait().await;
    (text(reader), exit)
}

fn writing() -> JailLimits {
    JailLimits { fsize_bytes: 1 << 20, ..JailLimits::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_a_program_and_reports_its_exit() {
    let scratch = Scratch::new("exit");
    let (out, exit) = run(&scratch, "echo hello; exit 7", writing()).await;
    assert_eq!((out.as_str(), exit), ("hello\n", (Some(7), None)));
}
