//! Which modules a sandbox needs from this kernel, and in which order.
//!
//! The order comes from the modules' own `depends=`, since `modules.dep` is
//! not part of every kernel package.

use super::KernelError;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Path, PathBuf};

/// Without these a sandbox cannot run.
const REQUIRED: [&str; 8] =
    ["virtio_mmio", "virtio_console", "qemu_fw_cfg", "virtio_blk", "squashfs", "overlay", "ext4", "virtio_net"];
/// Used where there.
const OPTIONAL: [&str; 1] = ["virtio_rng"];
/// No module of ours is near this size; a bound on what is read and unpacked.
const MAX_MODULE: u64 = 32 << 20;
/// Deeper than any kernel tree.
const MAX_DEPTH: usize = 12;

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Module {
    pub(super) name: String,
    /// Unpacked.
    pub(super) data: Vec<u8>,
}

impl Module {
    pub(super) fn file_name(&self) -> String {
        format!("{}.ko", self.name)
    }
}

/// Everything to load, each after what it depends on.
pub(super) fn resolve(dir: &Path, release: &str) -> Result<Vec<Module>, KernelError> {
    let built_in = built_in(dir);
    let mut files = BTreeMap::new();
    index(&dir.join("kernel"), 0, &mut files)?;
    let mut set = Resolver { files, built_in, release: release.to_string(), done: BTreeSet::new(), order: Vec::new() };
    for name in REQUIRED {
        set.add(name, true, 0)?;
    }
    for name in OPTIONAL {
        set.add(name, false, 0)?;
    }
    Ok(set.order)
}

struct Resolver {
    files: BTreeMap<String, PathBuf>,
    built_in: BTreeSet<String>,
    release: String,
    done: BTreeSet<String>,
    order: Vec<Module>,
}

impl Resolver {
    fn add(&mut self, name: &str, required: bool, depth: usize) -> Result<(), KernelError> {
        let name = canonical(name);
        if self.built_in.contains(&name) || !self.done.insert(name.clone()) {
            return Ok(());
        }
        let Some(path) = self.files.get(&name).cloned() else {
            return if required {
                Err(KernelError::NoModule { release: self.release.clone(), module: name })
            } else {
                Ok(())
            };
        };
        let data = read(&path)?;
        let bad = |reason: String| KernelError::BadModule { path: path.clone(), reason };
        if depth > MAX_DEPTH {
            return Err(bad("its dependencies go too deep".into()));
        }
        for dependency in depends(&data).map_err(bad)? {
            self.add(&dependency, true, depth + 1)?;
        }
        self.order.push(Module { name, data });
        Ok(())
    }
}

/// Module names know no difference between `-` and `_`.
fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

fn module_name(file_name: &str) -> Option<String> {
    let stem = ["", ".xz", ".zst", ".gz"].iter().find_map(|end| file_name.strip_suffix(&format!(".ko{end}")))?;
    Some(canonical(stem))
}

fn built_in(dir: &Path) -> BTreeSet<String> {
    let text = std::fs::read_to_string(dir.join("modules.builtin")).unwrap_or_default();
    text.lines().filter_map(|line| module_name(line.rsplit('/').next()?)).collect()
}

fn index(dir: &Path, depth: usize, out: &mut BTreeMap<String, PathBuf>) -> Result<(), KernelError> {
    if depth > MAX_DEPTH {
        return Ok(());
    }
    let entries = std::fs::read_dir(dir).map_err(KernelError::io(format!("read {}", dir.display())))?;
    for entry in entries.flatten() {
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_dir() {
            index(&entry.path(), depth + 1, out)?;
        } else if let Some(name) = entry.file_name().to_str().and_then(module_name) {
            out.insert(name, entry.path());
        }
    }
    Ok(())
}

fn read(path: &Path) -> Result<Vec<u8>, KernelError> {
    let doing = || format!("read {}", path.display());
    let bad = |reason: String| KernelError::BadModule { path: path.to_path_buf(), reason };
    let file = std::fs::File::open(path).map_err(KernelError::io(doing()))?;
    let mut packed = Vec::new();
    file.take(MAX_MODULE).read_to_end(&mut packed).map_err(KernelError::io(doing()))?;
    let name = path.to_string_lossy();
    let mut data = Vec::new();
    if name.ends_with(".xz") {
        let mut out = Bounded(&mut data);
        lzma_rs::xz_decompress(&mut packed.as_slice(), &mut out).map_err(|e| bad(format!("{e:?}")))?;
    } else if name.ends_with(".zst") {
        let reader = zstd::Decoder::new(packed.as_slice()).map_err(|e| bad(e.to_string()))?;
        reader.take(MAX_MODULE).read_to_end(&mut data).map_err(|e| bad(e.to_string()))?;
    } else if name.ends_with(".gz") {
        let reader = flate2::read::MultiGzDecoder::new(packed.as_slice());
        reader.take(MAX_MODULE).read_to_end(&mut data).map_err(|e| bad(e.to_string()))?;
    } else {
        data = packed;
    }
    Ok(data)
}

/// Stops an unpacker that would fill the memory.
struct Bounded<'a>(&'a mut Vec<u8>);

impl std::io::Write for Bounded<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if (self.0.len() + bytes.len()) as u64 > MAX_MODULE {
            return Err(std::io::Error::other("unpacks to more than any module has"));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// What a module says it needs, from its `.modinfo`.
fn depends(elf: &[u8]) -> Result<Vec<String>, String> {
    let info = section(elf, b".modinfo").ok_or("it is not a kernel module")?;
    let found = info.split(|b| *b == 0).find_map(|entry| entry.strip_prefix(b"depends="));
    let text = std::str::from_utf8(found.unwrap_or_default()).map_err(|e| e.to_string())?;
    Ok(text.split(',').filter(|name| !name.is_empty()).map(str::to_string).collect())
}

/// A section of a 64-bit little-endian ELF file, by name.
fn section<'a>(elf: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let number = |at: usize, size: usize| -> Option<usize> {
        let bytes = elf.get(at..at.checked_add(size)?)?;
        let value = bytes.iter().rev().fold(0u64, |sum, b| (sum << 8) | u64::from(*b));
        usize::try_from(value).ok()
    };
    if elf.get(..6)? != b"\x7fELF\x02\x01" {
        return None;
    }
    let (table, size, count, names) = (number(0x28, 8)?, number(0x3a, 2)?, number(0x3c, 2)?, number(0x3e, 2)?);
    let header = |index: usize| table.checked_add(index.checked_mul(size)?);
    let contents = |header: usize| -> Option<&'a [u8]> {
        let (offset, length) = (number(header.checked_add(0x18)?, 8)?, number(header.checked_add(0x20)?, 8)?);
        elf.get(offset..offset.checked_add(length)?)
    };
    let strings = contents(header(names)?)?;
    (0..count).find_map(|index| {
        let at = header(index)?;
        let text = strings.get(number(at, 4)?..)?;
        let end = text.iter().position(|b| *b == 0)?;
        (&text[..end] == name).then(|| contents(at)).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The smallest ELF file with a `.modinfo`.
    pub(super) fn module(depends: &str) -> Vec<u8> {
        let info = format!("license=GPL\0depends={depends}\0name=x\0").into_bytes();
        let strings = b"\0.modinfo\0.shstrtab\0";
        let mut elf = vec![0u8; 64];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        let info_at = elf.len() as u64;
        elf.extend_from_slice(&info);
        let strings_at = elf.len() as u64;
        elf.extend_from_slice(strings);
        let table = elf.len() as u64;
        let mut section = |name: u32, offset: u64, size: usize| {
            let mut header = [0u8; 64];
            header[..4].copy_from_slice(&name.to_le_bytes());
            header[0x18..0x20].copy_from_slice(&offset.to_le_bytes());
            header[0x20..0x28].copy_from_slice(&(size as u64).to_le_bytes());
            elf.extend_from_slice(&header);
        };
        section(0, 0, 0);
        section(1, info_at, info.len());
        section(10, strings_at, strings.len());
        elf[0x28..0x30].copy_from_slice(&table.to_le_bytes());
        elf[0x3a..0x3c].copy_from_slice(&64u16.to_le_bytes());
        elf[0x3c..0x3e].copy_from_slice(&3u16.to_le_bytes());
        elf[0x3e..0x40].copy_from_slice(&2u16.to_le_bytes());
        elf
    }

    fn tree(built_in: &str, modules: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("temp dir");
        std::fs::create_dir_all(dir.path().join("kernel/drivers")).expect("folders");
        std::fs::write(dir.path().join("modules.builtin"), built_in).expect("built in");
        for (name, depends) in modules {
            std::fs::write(dir.path().join("kernel/drivers").join(name), module(depends)).expect("module");
        }
        dir
    }

    const BUILT_IN: &str = "kernel/fs/ext4/ext4.ko\nkernel/net/virtio_net.ko\nkernel/fw/qemu_fw_cfg.ko\n\
                            kernel/fs/squashfs/squashfs.ko\nkernel/fs/overlay.ko\nkernel/x/virtio_console.ko\n";

    #[test]
    fn loads_each_after_what_it_needs_and_skips_the_built_in() {
        let dir = tree(
            BUILT_IN,
            &[
                ("virtio_mmio.ko", "virtio,virtio_ring"),
                ("virtio.ko", "virtio_ring"),
                ("virtio_ring.ko", ""),
                ("virtio_blk.ko", "virtio,virtio_ring"),
                ("virtio-rng.ko", "virtio"),
            ],
        );
        let order: Vec<String> = resolve(dir.path(), "1").expect("resolved").iter().map(Module::file_name).collect();
        assert_eq!(order, ["virtio_ring.ko", "virtio.ko", "virtio_mmio.ko", "virtio_blk.ko", "virtio_rng.ko"]);
    }

    #[test]
    fn unpacks_what_distributions_pack() {
        let plain = module("");
        let dir = tempfile::tempdir().expect("temp dir");
        let mut xz = Vec::new();
        lzma_rs::xz_compress(&mut plain.as_slice(), &mut xz).expect("xz");
        let zst = zstd::encode_all(plain.as_slice(), 1).expect("zstd");
        let mut gz = Vec::new();
        flate2::read::GzEncoder::new(plain.as_slice(), flate2::Compression::fast()).read_to_end(&mut gz).expect("gz");
        for (name, packed) in [("a.ko", plain.clone()), ("a.ko.xz", xz), ("a.ko.zst", zst), ("a.ko.gz", gz)] {
            let path = dir.path().join(name);
            std::fs::write(&path, packed).expect("write");
            assert_eq!(read(&path).expect(name), plain, "{name}");
            assert_eq!(module_name(name).as_deref(), Some("a"));
        }
    }

    #[test]
    fn names_the_missing_module() {
        let dir = tree(BUILT_IN, &[("virtio_mmio.ko", "virtio")]);
        let error = resolve(dir.path(), "6.1").expect_err("virtio is absent");
        assert_eq!(error.to_string(), "the kernel 6.1 lacks `virtio`, which a sandbox needs");
    }

    #[test]
    fn refuses_what_is_no_module() {
        let dir = tree(BUILT_IN, &[("virtio_blk.ko", "")]);
        std::fs::write(dir.path().join("kernel/virtio_mmio.ko"), b"not an ELF file").expect("write");
        assert!(matches!(resolve(dir.path(), "1"), Err(KernelError::BadModule { .. })));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(mut elf in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = depends(&elf);
            elf.splice(0..0, *b"\x7fELF\x02\x01");
            let _ = depends(&elf);
        }
    }
}
