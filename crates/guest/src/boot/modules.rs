//! Kernel modules, in the order that the initramfs names.

use std::fs::File;
use std::io;
use std::path::Path;

const FOLDER: &str = "/modules";

/// Loads all; answers a line for each that failed. One missing may not
/// matter (vsock), and if it does a later step says so.
pub fn load_all() -> io::Result<Vec<String>> {
    let folder = Path::new(FOLDER);
    let order = match std::fs::read_to_string(folder.join("order")) {
        Ok(order) => order,
        // A kernel with everything built in.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut failures = Vec::new();
    for name in order.lines().map(str::trim).filter(|name| !name.is_empty()) {
        let loaded = File::open(folder.join(name)).and_then(|file| crate::sys::load_module(&file));
        match loaded {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(nix::libc::EEXIST) => {}
            Err(error) => failures.push(format!("module {name}: {error}")),
        }
    }
    Ok(failures)
}
