//! The guest's kernel and our initramfs.
//!
//! Any distribution kernel serves: the initramfs holds the guest executable
//! and the modules that this kernel needs to find its devices. It is built
//! once per combination of the two and kept under the digest of what went in.
//!
//! Not here: what the guest does with it (crate `guest`).

mod cpio;
mod find;
mod initramfs;
mod modules;

pub use initramfs::{Artifacts, prepare};

use std::path::PathBuf;

/// Our first process in the sandbox.
#[derive(Clone, Debug)]
pub enum GuestBinary {
    /// Built into this executable.
    Embedded(&'static [u8]),
    Path(PathBuf),
}

/// What was found on this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelFacts {
    pub path: PathBuf,
    /// As in /lib/modules/RELEASE.
    pub release: String,
    pub modules: PathBuf,
    /// File names in the order in which the guest loads them.
    pub module_order: Vec<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    #[error("cannot {doing}: {source}")]
    Io { doing: String, source: std::io::Error },
    #[error("no guest kernel was found in {0}")]
    NoKernel(PathBuf),
    #[error("the kernel {kernel} has no modules in {modules}")]
    NoModules { kernel: PathBuf, modules: PathBuf },
    #[error("the kernel {release} lacks `{module}`, which a sandbox needs")]
    NoModule { release: String, module: String },
    #[error("the kernel module {path} cannot be read: {reason}")]
    BadModule { path: PathBuf, reason: String },
    #[error("the guest executable {path} cannot be used: {reason}")]
    BadGuest { path: PathBuf, reason: String },
}

impl KernelError {
    fn io(doing: impl Into<String>) -> impl FnOnce(std::io::Error) -> KernelError {
        let doing = doing.into();
        move |source| KernelError::Io { doing, source }
    }

    /// What the operator can do about it.
    pub fn remedy(&self) -> &'static str {
        match self {
            KernelError::NoKernel(_) | KernelError::NoModules { .. } | KernelError::NoModule { .. } => {
                "install a distribution kernel: `apt-get install linux-image-cloud-amd64`, or set `engine.kernel` and `engine.modules`"
            }
            KernelError::BadModule { .. } => "reinstall the kernel package",
            KernelError::BadGuest { .. } => "use a release build of aether, or set AETHER_GUEST to a static guest",
            KernelError::Io { .. } => "see the cause",
        }
    }
}

/// Finds the kernel without building anything.
pub fn find(kernel: Option<&std::path::Path>, modules: Option<&std::path::Path>) -> Result<KernelFacts, KernelError> {
    let found = find::find(kernel, modules, std::path::Path::new("/boot"), std::path::Path::new("/lib/modules"))?;
    let set = modules::resolve(&found.modules, &found.release)?;
    Ok(KernelFacts {
        path: found.path,
        release: found.release,
        modules: found.modules,
        module_order: set.iter().map(modules::Module::file_name).collect(),
    })
}
