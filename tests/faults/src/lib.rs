//! Makes the machine fail under a program, without the program's help: a
//! shared object, built here from C, is preloaded into it and fails the calls
//! that write under one folder. A control file says which, how and when, so
//! that a test arms and disarms it while the program runs.
//!
//! What goes past the C library (rustix, the kernel's own work, a VMM in its
//! jail) is not reached; a small tmpfs is for that.
#![allow(clippy::expect_used, reason = "a test harness: a failed expectation is a failed test")]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Calls that write. `|` them.
pub mod calls {
    /// write, pwrite, writev, `copy_file_range`, sendfile
    pub const WRITE: u64 = 1;
    /// fsync, fdatasync
    pub const SYNC: u64 = 2;
    /// ftruncate, fallocate
    pub const TRUNCATE: u64 = 4;
    /// open that makes a file, mkdir
    pub const CREATE: u64 = 8;
    /// rename, link
    pub const RENAME: u64 = 16;
    /// unlink, rmdir: a full disk does not fail these, a broken one does
    pub const REMOVE: u64 = 32;
    /// All that a full disk may fail.
    pub const ALL: u64 = 31;
}

/// How a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// With the error.
    Error,
    /// A write writes half and says so; other calls get the error.
    Short,
    /// As `Error`; a sync also loses what was written since the last good one,
    /// as a kernel does that drops the pages which it could not write.
    Lose,
}

/// What is to fail.
#[derive(Clone, Debug)]
pub struct Plan {
    /// A folder; or a file, with those that belong to it (`-wal`).
    pub under: PathBuf,
    pub calls: u64,
    pub errno: i32,
    pub how: How,
    /// Calls that still work before the first one fails.
    pub skip: u64,
    /// How many fail; none: all, until it is disarmed.
    pub times: Option<u64>,
}

impl Plan {
    /// Each call under the folder fails with this error until disarmed.
    pub fn all(under: &Path, errno: i32) -> Self {
        Self { under: under.to_owned(), calls: calls::ALL, errno, how: How::Error, skip: 0, times: None }
    }
}

/// The shim and its control file; they go with this.
#[derive(Debug)]
pub struct Faults {
    control: File,
    dir: tempfile::TempDir,
}

const WORDS: u64 = 8;
const FOLDER: usize = 4032;
const HITS: u64 = 6;
const CLOCK: u64 = 7;

impl Faults {
    pub fn build() -> Self {
        let dir = tempfile::Builder::new().prefix("aether-faults-").tempdir().expect("a folder");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/shim.c");
        let built = Command::new("cc")
            .args(["-O1", "-Wall", "-Werror", "-shared", "-fPIC", "-pthread", "-o"])
            .arg(dir.path().join("shim.so"))
            .arg(&source)
            .output()
            .expect("cc is installed");
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        let path = dir.path().join("control");
        let control = File::options().read(true).write(true).create_new(true).open(path).expect("creates");
        control.set_len(WORDS * 8 + FOLDER as u64).expect("sizes");
        Self { control, dir }
    }

    /// For the program's environment.
    pub fn env(&self) -> [(String, String); 2] {
        let text = |name: &str| self.dir.path().join(name).to_string_lossy().into_owned();
        [("LD_PRELOAD".to_owned(), text("shim.so")), ("AETHER_FAULTS".to_owned(), text("control"))]
    }

    pub fn arm(&self, plan: &Plan) {
        self.disarm();
        let mut folder = [0u8; FOLDER];
        let path = plan.under.canonicalize().expect("the folder is there");
        let bytes = path.as_os_str().as_encoded_bytes();
        folder[..bytes.len()].copy_from_slice(bytes);
        self.control.write_all_at(&folder, WORDS * 8).expect("writes");
        let mode = match plan.how {
            How::Error => 0,
            How::Short => 1,
            How::Lose => 2,
        };
        let errno = u64::try_from(plan.errno).expect("an error number");
        for (word, value) in [plan.calls, errno, mode, plan.skip, plan.times.unwrap_or(u64::MAX), 0].iter().enumerate()
        {
            self.set(word as u64 + 1, *value);
        }
        self.set(0, 1);
    }

    pub fn disarm(&self) {
        self.set(0, 0);
    }

    /// Calls that failed since it was armed.
    pub fn hits(&self) -> u64 {
        let mut bytes = [0; 8];
        self.control.read_exact_at(&mut bytes, HITS * 8).expect("reads");
        u64::from_ne_bytes(bytes)
    }

    /// Moves the program's wall clock, from now on.
    pub fn shift_clock(&self, seconds: i64) {
        let ns = seconds * 1_000_000_000;
        self.control.write_all_at(&ns.to_ne_bytes(), CLOCK * 8).expect("writes");
    }

    fn set(&self, word: u64, value: u64) {
        self.control.write_all_at(&value.to_ne_bytes(), word * 8).expect("writes");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `dd` is a program that writes, syncs and tells.
    fn dd(faults: &Faults, to: &Path) -> (bool, u64) {
        let status = Command::new("dd")
            .args(["if=/dev/zero", "bs=1000", "count=4", "conv=fsync", "status=none"])
            .arg(format!("of={}", to.display()))
            .envs(faults.env())
            .stderr(std::process::Stdio::null())
            .status();
        (status.expect("runs").success(), std::fs::metadata(to).map_or(0, |m| m.len()))
    }

    #[test]
    fn what_is_asked_for_fails_and_nothing_else() {
        let (faults, dir) = (Faults::build(), tempfile::tempdir().expect("a folder"));
        let (inside, outside) = (dir.path().join("in"), dir.path().join("out"));
        std::fs::create_dir_all(&inside).and_then(|()| std::fs::create_dir_all(&outside)).expect("folders");
        let file = inside.join("f");
        assert_eq!(dd(&faults, &file), (true, 4000));
        let plan = |calls, how, skip| Plan { calls, how, skip, times: Some(1), ..Plan::all(&inside, libc::ENOSPC) };
        faults.arm(&plan(calls::WRITE, How::Error, 2));
        assert_eq!((dd(&faults, &file), faults.hits()), ((false, 2000), 1), "the third write fails");
        faults.arm(&plan(calls::WRITE, How::Short, 3));
        let (_, length) = dd(&faults, &file);
        assert!(matches!(length, 3500 | 4000) && faults.hits() == 1, "{length}");
        faults.arm(&plan(calls::SYNC, How::Error, 0));
        assert_eq!((dd(&faults, &file), faults.hits()), ((false, 4000), 1));
        std::fs::remove_file(&file).expect("removes");
        faults.arm(&plan(calls::CREATE, How::Error, 0));
        assert_eq!((dd(&faults, &file), faults.hits()), ((false, 0), 1));
        faults.arm(&Plan::all(&inside, libc::EIO));
        assert_eq!((dd(&faults, &outside.join("f")), faults.hits()), ((true, 4000), 0));
        let other = inside.join("g");
        std::fs::write(&other, b"").expect("writes");
        faults.arm(&Plan::all(&other, libc::EIO));
        assert_eq!((dd(&faults, &file), faults.hits()), ((true, 4000), 0), "another file");
        assert!(!dd(&faults, &inside.join("g-wal")).0 && faults.hits() > 0, "what belongs to it");
        let rm = || Command::new("rm").arg(&other).envs(faults.env()).stderr(std::process::Stdio::null()).status();
        assert!(rm().expect("runs").success(), "a full disk removes");
        std::fs::write(&other, b"").expect("writes");
        faults.arm(&Plan { calls: calls::REMOVE, ..Plan::all(&inside, libc::EIO) });
        assert!(!rm().expect("runs").success() && other.exists());
        faults.disarm();
        assert_eq!(dd(&faults, &file), (true, 4000));
    }

    #[test]
    fn the_wall_clock_moves() {
        let faults = Faults::build();
        let year = |faults: &Faults| {
            let out = Command::new("date").arg("+%s").envs(faults.env()).output().expect("runs");
            String::from_utf8_lossy(&out.stdout).trim().parse::<i64>().expect("seconds")
        };
        let now = year(&faults);
        faults.shift_clock(3600);
        assert!((3600..3700).contains(&(year(&faults) - now)));
        faults.shift_clock(-3600);
        assert!((-3600..-3500).contains(&(year(&faults) - now)));
    }
}
