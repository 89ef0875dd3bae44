//! From an image reference or archive to a read-only device.
