//! Devices by the names that the engine gave them, never by order.

use std::path::PathBuf;

/// `/dev/vdX` whose serial it is.
pub fn by_serial(serial: &str) -> Option<PathBuf> {
    named_in("/sys/block", "serial", serial)
}

/// `/dev/vportNpM` whose name it is.
pub fn port_by_name(name: &str) -> Option<PathBuf> {
    named_in("/sys/class/virtio-ports", "name", name)
}

fn named_in(folder: &str, attribute: &str, wanted: &str) -> Option<PathBuf> {
    let entries = std::fs::read_dir(folder).ok()?;
    entries.flatten().find_map(|entry| {
        let value = std::fs::read_to_string(entry.path().join(attribute)).ok()?;
        (value.trim() == wanted).then(|| PathBuf::from("/dev").join(entry.file_name()))
    })
}
