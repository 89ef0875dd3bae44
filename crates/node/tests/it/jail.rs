//! What a jailed process is and is not, seen from outside on the running
//! process.

use aether_node::cgroup::{self, OutOfMemory};
use aether_node::jail::{Bundle, Command, JailError, JailLimits, remove_dir};
use std::collections::BTreeSet;
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
    for (source, target) in [
        ("/usr/bin", "/usr/bin"),
        ("/usr/sbin", "/usr/sbin"),
        ("/usr/lib", "/usr/lib"),
        ("/usr/lib", "/lib"),
        ("/usr/lib64", "/lib64"),
    ] {
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

/// Runs it to its end; (stdout and stderr, exit).
async fn run(command: Command) -> (String, (Option<i32>, Option<i32>)) {
    let (out, reader) = memory_file();
    let err = out.try_clone().expect("dup");
    let jailed = command.stdout(out).stderr(err).spawn(verb()).await.expect("spawn");
    let exit = jailed.wait().await;
    (text(reader), exit)
}

fn writing() -> JailLimits {
    JailLimits { fsize_bytes: 1 << 20, ..JailLimits::default() }
}

fn fields(pid: u32, task: &str) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/task/{task}/status")).expect("status")
}

fn field<'a>(status: &'a str, name: &str) -> Vec<&'a str> {
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("no {name}"));
    line.split_whitespace().collect()
}

/// The assertions of the isolation checklist that hold for anything jailed.
pub(crate) fn assert_confined(pid: u32, uid: u32) {
    let uid = uid.to_string();
    for task in std::fs::read_dir(format!("/proc/{pid}/task")).expect("tasks").flatten() {
        let status = fields(pid, &task.file_name().to_string_lossy());
        assert_eq!(field(&status, "Uid:"), [uid.as_str(); 4]);
        assert_eq!(field(&status, "Gid:"), [uid.as_str(); 4]);
        assert_eq!(field(&status, "Groups:"), [""; 0]);
        for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
            assert_eq!(field(&status, set), ["0000000000000000"], "{set}");
        }
        assert_eq!(field(&status, "NoNewPrivs:"), ["1"]);
        assert_eq!(field(&status, "Seccomp:"), ["2"]);
    }
    for kind in ["mnt", "pid", "net", "ipc", "uts", "cgroup"] {
        let of = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).expect("namespace");
        assert_ne!(of(&pid.to_string()), of("self"), "{kind}");
    }
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).expect("limits");
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).expect("core");
    assert_eq!(core.split_whitespace().nth(4), Some("0"));
    let adjusted = std::fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).expect("oom_score_adj");
    assert!(adjusted.trim().parse::<i32>().expect("number") > 0);
}

pub(crate) fn names_in(dir: impl AsRef<Path>) -> BTreeSet<String> {
    let entries = std::fs::read_dir(dir).expect("list");
    entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| name.to_string()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_a_program_and_reports_its_exit() {
    let scratch = Scratch::new("exit");
    let (out, exit) = run(shell(&scratch, "echo hello; exit 7").limits(writing())).await;
    assert_eq!((out.as_str(), exit), ("hello\n", (Some(7), None)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_jailed_process_holds_nothing() {
    let scratch = Scratch::new("holds");
    let group = format!("aether-it-{}/holds", std::process::id());
    let (file, _reader) = memory_file();
    let command = shell(&scratch, "sleep 1000").cgroup(&group).file("/secret", *b"word").fd(file, 7);
    let uid = command.plan().uid;
    let jailed = command.spawn(verb()).await.expect("spawn");
    assert_confined(jailed.pid, uid);

    let proc = PathBuf::from(format!("/proc/{}", jailed.pid));
    assert_eq!(names_in(proc.join("root")), set(&["dev", "lib", "lib64", "secret", "usr"]));
    assert_eq!(names_in(proc.join("root/dev")), set(&["null", "urandom"]));
    // The program has just begun: its loader may still hold a library open.
    let held = set(&["0", "1", "2", "7"]);
    for _ in 0..100 {
        if names_in(proc.join("fd")) == held {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    assert_eq!(names_in(proc.join("fd")), held);
    let line = std::fs::read(proc.join("cmdline")).expect("cmdline");
    assert!(!line.windows(4).any(|w| w == b"word"), "secrets are not in argv");
    assert!(std::fs::read(proc.join("environ")).expect("environ").is_empty(), "nor is the daemon's environment");
    // Its session and its cgroup are not the daemon's: it outlives the daemon.
    let stat = std::fs::read_to_string(proc.join("stat")).expect("stat");
    let after = stat.rsplit_once(')').expect("stat").1.split_whitespace().collect::<Vec<_>>();
    assert_eq!(after[3], jailed.pid.to_string(), "session");
    assert!(std::fs::read_to_string(proc.join("cgroup")).expect("cgroup").contains(&group));

    jailed.kill().expect("kill");
    assert_eq!(jailed.wait().await, (None, Some(9)));
    cgroup::remove(&group).expect("remove the group");
    remove_dir(&scratch.0.join("jail")).expect("remove the folder");
    let _ = cgroup::remove_if_empty(&format!("aether-it-{}", std::process::id()));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doors_are_shut() {
    let scratch = Scratch::new("doors");
    let script = r#"
        try() { if "$@" >/dev/null 2>&1; then echo "OPEN: $*"; fi; }
        try mount -t tmpfs none /usr
        try unshare -U true
        try unshare -n true
        try touch /x /dev/x /usr/bin/x
        try mknod /dev/x c 1 1
        try chroot / true
        try python3 -c 'import socket; socket.socket(socket.AF_INET)'
        try python3 -c 'import socket; socket.socket(40, socket.SOCK_STREAM)'
        try cat /proc/self/status
        try cat /etc/passwd
        try hostname other
        try kill -0 2
        [ "$$" = 1 ] || echo "OPEN: pid $$"
        python3 -c 'import socket; socket.socket(socket.AF_UNIX); print("unix sockets work")'
        head -c 4 /dev/urandom | wc -c
    "#;
    let (out, exit) = run(shell(&scratch, script).limits(writing())).await;
    assert_eq!((out.as_str(), exit), ("unix sockets work\n4\n", (Some(0), None)));
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_hold() {
    let scratch = Scratch::new("limits");
    let group = format!("aether-it-{}/limits", std::process::id());
    let limits = JailLimits { memory_mb: 64, pids: 12, fsize_bytes: 4096, ..JailLimits::default() };
    let script = "head -c 100000 /dev/urandom > /tmp/big; wc -c < /tmp/big; \
                  for i in $(seq 24); do sleep 3 & done 2>&1 | grep -c -i fork";
    let (out, _) = run(shell(&scratch, script).tmp_mb(1).cgroup(&group).limits(limits.clone())).await;
    assert!(out.contains("4096\n"), "{out}");
    assert!(out.contains("\n1\n") || out.contains("ork"), "the limit of tasks: {out}");
    cgroup::remove(&group).expect("remove");

    remove_dir(&scratch.0.join("jail")).expect("remove");
    let hungry = "exec python3 -c 'x = bytearray(200 << 20); print(len(x))'";
    let limits = JailLimits { pids: 64, ..limits };
    let (out, exit) = run(shell(&scratch, hungry).cgroup(&group).limits(limits)).await;
    assert_eq!((out.contains("209715200"), exit.1), (false, Some(9)), "{out}");
    assert_eq!(cgroup::out_of_memory(&group), Some(OutOfMemory::Group));
    cgroup::remove(&group).expect("remove");
    let _ = cgroup::remove_if_empty(&format!("aether-it-{}", std::process::id()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_above_the_group_is_the_hosts() {
    let scratch = Scratch::new("host-memory");
    let parent = format!("aether-it-{}-host", std::process::id());
    let group = format!("{parent}/one");
    let limits = JailLimits { memory_mb: 1024, ..JailLimits::default() };
    let (_, exit) = run(shell(&scratch, "true").cgroup(&group).limits(limits.clone())).await;
    assert_eq!((exit, cgroup::out_of_memory(&group)), ((Some(0), None), None));
    remove_dir(&scratch.0.join("jail")).expect("remove");
    for file in ["memory.max", "memory/memory.limit_in_bytes"] {
        let (dir, name) = file.rsplit_once('/').unwrap_or(("", file));
        let path = Path::new("/sys/fs/cgroup").join(dir).join(&parent).join(name);
        if path.exists() {
            std::fs::write(path, (64 << 20).to_string()).expect("limits the parent");
        }
    }
    let bound = cgroup::memory_bound(&parent).expect("a limit");
    assert!(bound.limit_bytes == 64 << 20 && bound.left_bytes <= bound.limit_bytes, "{bound:?}");
    let hungry = "exec python3 -c 'x = bytearray(200 << 20); print(len(x))'";
    let (out, exit) = run(shell(&scratch, hungry).cgroup(&group).limits(limits)).await;
    assert_eq!((out.contains("209715200"), exit.1), (false, Some(9)), "{out}");
    assert_eq!(cgroup::out_of_memory(&group), Some(OutOfMemory::Host));
    cgroup::remove(&parent).expect("remove");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_holds_against_more_than_twice_as_much() {
    let scratch = Scratch::new("quota");
    let group = format!("aether-it-{}/quota", std::process::id());
    let limits = JailLimits { cpu_percent: 20, ..JailLimits::default() };
    let begun = tokio::time::Instant::now();
    let busy = "for i in 1 2 3; do while :; do :; done & done; sleep 3";
    let (out, _) = run(shell(&scratch, busy).cgroup(&group).limits(limits)).await;
    let (used, passed) = (cgroup::usage(&group).cpu_usage_us, begun.elapsed().as_micros() as u64);
    cgroup::remove(&group).expect("remove");
    let _ = cgroup::remove_if_empty(&format!("aether-it-{}", std::process::id()));
    // A period more than the quota of the time that passed.
    let allowed = passed / 5 + 100_000;
    assert!((passed / 100..allowed).contains(&used), "{used} µs of {passed} µs: {out}");
}

/// CVE-2026-1386: whatever lies at the jail's place is refused, not followed.
#[tokio::test(flavor = "multi_thread")]
async fn a_planted_folder_is_refused() {
    let scratch = Scratch::new("planted");
    let victim = scratch.0.join("victim");
    std::fs::write(&victim, b"precious").expect("victim");
    let place = scratch.0.join("jail");

    std::os::unix::fs::symlink(&scratch.0, &place).expect("symlink");
    let refused = shell(&scratch, "true").spawn(verb()).await.expect_err("a symlink");
    assert!(refused.to_string().contains("exists already"), "{refused}");
    remove_dir(&place).expect("removes the link alone");
    assert!(victim.exists());

    std::fs::create_dir(&place).expect("folder");
    std::fs::hard_link(&victim, place.join("root")).expect("hard link");
    let refused = shell(&scratch, "true").spawn(verb()).await.expect_err("a folder");
    assert!(refused.to_string().contains("exists already"), "{refused}");
    remove_dir(&place).expect("remove");
    assert_eq!(std::fs::read(&victim).expect("read"), b"precious");

    std::fs::set_permissions(&scratch.0, std::os::unix::fs::PermissionsExt::from_mode(0o777)).expect("mode");
    let refused = shell(&scratch, "true").spawn(verb()).await.expect_err("a parent open to all");
    assert!(refused.to_string().contains("nobody else can write"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_plans_and_absent_programs_are_errors() {
    let scratch = Scratch::new("bad");
    let root = Command::new("/usr/bin/sh", scratch.0.join("jail")).uid_gid(0, 0).spawn(verb()).await;
    assert!(matches!(root, Err(JailError::Plan(_))), "{root:?}");
    let dots = shell(&scratch, "true").ro_bind("/etc", "/../etc").spawn(verb()).await;
    assert!(matches!(dots, Err(JailError::Plan(_))), "{dots:?}");
    let group = shell(&scratch, "true").cgroup("../../escape").spawn(verb()).await;
    assert!(matches!(group, Err(JailError::Plan(_))), "{group:?}");

    let absent = Command::new("/usr/bin/absent", scratch.0.join("jail")).uid_gid(fresh_uid(), 1234);
    let error = absent.spawn(verb()).await.expect_err("no such program").to_string();
    assert!(error.contains("/usr/bin/absent") && error.contains("No such file"), "{error}");
    let other = shell(&scratch, "true").spawn(Path::new("/bin/true")).await.expect_err("not the binary").to_string();
    assert!(other.contains("without an answer"), "{other}");
    let none = shell(&scratch, "true").spawn(Path::new("/no/aether")).await.expect_err("no binary").to_string();
    assert!(none.contains("/no/aether"), "{none}");
}

#[test]
fn the_verb_is_not_for_people() {
    let output = std::process::Command::new(verb()).arg("jail").output().expect("run");
    assert_eq!(output.status.code(), Some(64));
    assert!(String::from_utf8_lossy(&output.stderr).contains("internal"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_runs_without_the_hosts_folders() {
    let scratch = Scratch::new("bundle");
    let bundle = Bundle::make(&scratch.0.join("cache"), &["/usr/bin/sh".into()], &[]).expect("bundle");
    let command = Command::new("/usr/bin/sh", scratch.0.join("jail")).args(["-c", "echo in /*"]);
    let uid = fresh_uid();
    let command = bundle.show(command.uid_gid(uid, uid)).expect("show").limits(writing());
    let (out, exit) = run(command).await;
    assert_eq!((out.as_str(), exit.0), ("in /dev /lib /lib64 /usr\n", Some(0)));
}
