//! The guest's kernel and our initramfs.

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
