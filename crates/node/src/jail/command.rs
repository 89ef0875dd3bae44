//! The daemon's side: a builder like `std::process::Command`.

use super::JailError;
use super::plan::{Bind, InlineFile, JailLimits, JailPlan};
use super::spawn::{self, Jailed};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// Describes one jailed process. Its network namespace is always new and
/// empty: descriptors that are passed in are its only ways out.
#[derive(Debug)]
pub struct Command {
    plan: JailPlan,
    fds: Vec<OwnedFd>,
}

impl Command {
    /// `program` is a path inside the jail. `dir` is a host folder that must
    /// not exist yet; it holds the private root's mount point and is the
    /// caller's to remove afterwards ([`remove_dir`]).
    pub fn new(program: impl Into<PathBuf>, dir: impl Into<PathBuf>) -> Self {
        Self {
            plan: JailPlan {
                program: program.into(),
                args: Vec::new(),
                env: Vec::new(),
                uid: 0,
                gid: 0,
                dir: dir.into(),
                binds: Vec::new(),
                files: Vec::new(),
                kvm: false,
                tmp_mb: 0,
                fds: Vec::new(),
                cgroup: None,
                limits: JailLimits::default(),
            },
            fds: Vec::new(),
        }
    }

    pub fn arg(mut self, arg: impl Into<String>) -> Self {
        self.plan.args.push(arg.into());
        self
    }

    pub fn args<S: Into<String>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.plan.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// The environment starts empty.
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.plan.env.push((name.into(), value.into()));
        self
    }

    /// Never root; the caller sees to it that no two live jails share one.
    pub fn uid_gid(mut self, uid: u32, gid: u32) -> Self {
        self.plan.uid = uid;
        self.plan.gid = gid;
        self
    }

    /// A file or folder, read-only, nosuid, nodev, noexec.
    pub fn ro_bind(self, source: impl Into<PathBuf>, target: impl Into<PathBuf>) -> Self {
        self.bind(source, target, false, false)
    }

    /// A file or folder from which programs and libraries are run.
    pub fn exec_bind(self, source: impl Into<PathBuf>, target: impl Into<PathBuf>) -> Self {
        self.bind(source, target, false, true)
    }

    pub fn rw_bind(self, source: impl Into<PathBuf>, target: impl Into<PathBuf>) -> Self {
        self.bind(source, target, true, false)
    }

    fn bind(mut self, source: impl Into<PathBuf>, target: impl Into<PathBuf>, writable: bool, exec: bool) -> Self {
        self.plan.binds.push(Bind { source: source.into(), target: target.into(), writable, exec });
        self
    }

    /// A small file that exists in the private root alone; for secrets.
    pub fn file(mut self, target: impl Into<PathBuf>, content: impl Into<Vec<u8>>) -> Self {
        self.plan.files.push(InlineFile { target: target.into(), content: content.into() });
        self
    }

    /// A private, empty /tmp of this size.
    pub fn tmp_mb(mut self, size: u64) -> Self {
        self.plan.tmp_mb = size;
        self
    }

    /// Show /dev/kvm.
    pub fn kvm(mut self, show: bool) -> Self {
        self.plan.kvm = show;
        self
    }

    /// The descriptor appears in the program under `number`.
    pub fn fd(mut self, fd: OwnedFd, number: i32) -> Self {
        self.plan.fds.push(number);
        self.fds.push(fd);
        self
    }

    pub fn stdin(self, fd: OwnedFd) -> Self {
        self.fd(fd, 0)
    }

    pub fn stdout(self, fd: OwnedFd) -> Self {
        self.fd(fd, 1)
    }

    pub fn stderr(self, fd: OwnedFd) -> Self {
        self.fd(fd, 2)
    }

    pub fn limits(mut self, limits: JailLimits) -> Self {
        self.plan.limits = limits;
        self
    }

    /// A path below each controller's root; made by the verb, removed by
    /// [`crate::cgroup::remove`].
    pub fn cgroup(mut self, name: impl Into<String>) -> Self {
        self.plan.cgroup = Some(name.into());
        self
    }

    pub fn plan(&self) -> &JailPlan {
        &self.plan
    }

    /// Starts it: `aether_exe` is run as `aether jail`. Returns once the
    /// program has been executed, so a missing program is an error here. On
    /// error no process is left; the folder and the cgroup may be.
    pub async fn spawn(self, aether_exe: &Path) -> Result<Jailed, JailError> {
        self.plan.check()?;
        spawn::spawn(self.plan, self.fds, aether_exe.to_path_buf()).await
    }
}
