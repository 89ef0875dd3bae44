//! A writer of the `newc` archives that the kernel unpacks as its initramfs.

/// Mode bits of the kinds we write.
const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const CHARACTER: u32 = 0o020_000;

/// Owners are root and times zero, so that equal input gives equal bytes.
#[derive(Debug, Default)]
pub(super) struct Writer {
    out: Vec<u8>,
    inode: u32,
}

impl Writer {
    pub(super) fn directory(&mut self, name: &str) {
        self.entry(name, DIRECTORY | 0o755, &[], (0, 0));
    }

    pub(super) fn file(&mut self, name: &str, mode: u32, data: &[u8]) {
        self.entry(name, REGULAR | mode, data, (0, 0));
    }

    pub(super) fn character_device(&mut self, name: &str, mode: u32, major: u32, minor: u32) {
        self.entry(name, CHARACTER | mode, &[], (major, minor));
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        self.inode = 0;
        self.entry_with_inode("TRAILER!!!", 0, &[], (0, 0), 0);
        self.out
    }

    fn entry(&mut self, name: &str, mode: u32, data: &[u8], device: (u32, u32)) {
        self.inode += 1;
        self.entry_with_inode(name, mode, data, device, self.inode);
    }

    fn entry_with_inode(&mut self, name: &str, mode: u32, data: &[u8], device: (u32, u32), inode: u32) {
        let links = if mode & DIRECTORY == DIRECTORY { 2 } else { 1 };
        // The format has 32 bits for a size; nothing here comes near them.
        let size = u32::try_from(data.len()).unwrap_or(u32::MAX);
        let name_size = u32::try_from(name.len() + 1).unwrap_or(u32::MAX);
        let fields = [inode, mode, 0, 0, links, 0, size, 0, 0, device.0, device.1, name_size, 0];
        self.out.extend_from_slice(b"070701");
        for field in fields {
            self.out.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.out.extend_from_slice(name.as_bytes());
        self.out.push(0);
        self.pad();
        self.out.extend_from_slice(data);
        self.pad();
    }

    fn pad(&mut self) {
        while !self.out.len().is_multiple_of(4) {
            self.out.push(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_what_the_kernel_reads() {
        let mut writer = Writer::default();
        writer.directory("modules");
        writer.file("init", 0o755, b"hello");
        writer.character_device("console", 0o600, 5, 1);
        let out = writer.finish();
        assert_eq!(out.len() % 4, 0);
        let text = String::from_utf8(out).expect("ascii and zeros");
        let header = "0707010000000200 0081ed000000000000000000000001000000000000000500000000".replace(' ', "");
        assert!(text.contains(&header), "{text}");
        assert!(text.contains("init\0\0hello\0\0\0"), "name and data are padded to four bytes: {text:?}");
        assert!(text.contains("TRAILER!!!"));
    }

    /// Against the real reader.
    #[test]
    fn cpio_lists_it() {
        let mut writer = Writer::default();
        writer.directory("modules");
        writer.file("modules/a.ko", 0o644, &[7; 1001]);
        writer.file("init", 0o755, b"x");
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("archive");
        std::fs::write(&path, writer.finish()).expect("write");
        let listing = std::process::Command::new("cpio")
            .args(["-t", "--quiet"])
            .stdin(std::fs::File::open(&path).expect("open"))
            .output()
            .expect("cpio is among the test prerequisites");
        assert_eq!(String::from_utf8_lossy(&listing.stdout), "modules\nmodules/a.ko\ninit\n");
    }
}
