//! From verified layers to a device: two jailed processes and a pipe.
//!
//! ```text
//! jail: aether image-convert ──tar──▶ jail: sqfstar ──▶ tmp/…  ──sync, rename──▶ devices/KEY
//! ```
//!
//! Both run as the converter's uid, so one conversion runs at a time. It is
//! a task of its own: cancelling asks it to stop, and it always cleans up
//! behind itself before the next one may start.

use super::blobs::{Folders, sync_dir};
use super::catalogue::DeviceRow;
use super::convert::{self, ConvertLayer, ConvertLimits, ConvertPlan};
use super::manifest::Resolved;
use super::{ImageError, ImagesConfig, text};
use crate::cgroup::{self, OutOfMemory};
use crate::jail::{self, JailError, JailLimits, Jailed};
use crate::memory::HostMemory;
use crate::uids;
use aether_core::Live;
use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

const TIME_LIMIT: Duration = Duration::from_secs(20 * 60);
/// The tree of the largest image allowed fits.
const MERGE_MEMORY_MB: u64 = 2048;
const SQUASH_MEMORY_MB: u64 = 1536;
/// sqfstar's own caches; it needs about as much again.
const SQUASH_CACHE: &str = "512M";
/// What an image of some hundred megabytes takes; a node that has not even
/// that begins none.
const CONVERT_MB: u64 = 256;
/// A conversion can be repeated, what a guest holds in memory cannot: where
/// the kernel must choose, it ends the conversion.
const OOM_SCORE_ADJ: i32 = 800;
const PATH_IN_JAIL: &str = "/out/device";
/// Where Debian and its kin have it.
const SQFSTAR: [&str; 3] = ["/usr/bin/sqfstar", "/usr/local/bin/sqfstar", "/usr/sbin/sqfstar"];
const LIBRARIES: [&str; 4] = ["/lib", "/lib64", "/usr/lib", "/usr/lib64"];

/// Makes devices for one node.
#[derive(Clone)]
pub(super) struct Converter {
    pub folders: Folders,
    pub aether_exe: PathBuf,
    pub uid: u32,
    /// Of the conversion that this clone makes.
    pub max_bytes: u64,
    pub max_files: u64,
    config: Live<ImagesConfig>,
    one: Arc<Semaphore>,
}

impl Converter {
    pub(super) fn new(folders: Folders, live: &Live<ImagesConfig>) -> Self {
        let config = live.get();
        Self {
            folders,
            aether_exe: config.aether_exe.clone(),
            uid: config.converter_uid,
            max_bytes: config.max_image_bytes,
            max_files: config.max_files,
            config: live.clone(),
            one: Arc::new(Semaphore::new(1)),
        }
    }

    fn group(&self) -> String {
        format!("aether-images-{}", self.uid)
    }

    /// Ends and removes what an earlier process's conversion left. Blocks.
    pub(super) fn sweep(&self) -> Result<(), ImageError> {
        if !uids::kill(self.uid).map_err(ImageError::io("end the converters"))? {
            return Err(ImageError::Converter("a converter survives SIGKILL".into()));
        }
        for name in ["merge", "squash"] {
            self.clean(name)?;
        }
        cgroup::remove(&self.group()).map_err(ImageError::io("remove the converter's cgroup"))
    }

    /// The right to convert, if nobody has it now.
    pub(super) fn idle(&self) -> Option<OwnedSemaphorePermit> {
        self.one.clone().try_acquire_owned().ok()
    }

    /// What there is of conversions: nothing, while none is under way. Blocks.
    pub(super) fn left(&self) -> Result<Vec<String>, ImageError> {
        let mut left = Vec::new();
        let alive = uids::alive(&(self.uid..self.uid + 1)).map_err(ImageError::io("look for converters"))?;
        left.extend(alive.iter().map(|(_, pid)| format!("converter {pid}")));
        left.extend(cgroup::children(&self.group()).into_iter().map(|name| format!("a converter's cgroup {name}")));
        let jails = ["merge", "squash"].map(|name| self.folders.jail.join(name));
        let jails = jails.iter().filter(|dir| dir.symlink_metadata().is_ok());
        left.extend(jails.map(|dir| format!("a converter's jail {}", dir.display())));
        Ok(left)
    }

    fn check_memory(&self, needed_mb: u64) -> Result<(), ImageError> {
        match HostMemory::read(Some(&self.group())) {
            Ok(memory) if !memory.has_room_for(needed_mb) => Err(ImageError::NoMemory(memory.to_string())),
            // Who cannot be asked is no reason to refuse.
            _ => Ok(()),
        }
    }

    fn clean(&self, name: &str) -> Result<(), ImageError> {
        jail::remove_dir(&self.folders.jail.join(name)).map_err(jail_error)?;
        cgroup::remove(&format!("{}/{name}", self.group())).map_err(ImageError::io("remove the converter's cgroup"))
    }

    /// Makes the image's device, or finds out why it cannot be made. When the
    /// future is dropped the work stops.
    pub(super) async fn make(
        &self,
        image: &Resolved,
        report: impl Fn(u64) + Send + 'static,
    ) -> Result<DeviceRow, ImageError> {
        let permit = self.one.clone().acquire_owned().await.map_err(|_| ImageError::Cancelled)?;
        self.check_memory(CONVERT_MB)?;
        let stop = CancellationToken::new();
        let on_drop = stop.clone().drop_guard();
        let (mut this, image) = (self.clone(), image.clone());
        this.max_bytes = self.config.get().max_image_bytes;
        let work = tokio::spawn(async move { this.run(&image, stop, permit, report).await });
        let made = work.await.map_err(|e| ImageError::Converter(e.to_string()))?;
        drop(on_drop);
        made
    }

    async fn run(
        &self,
        image: &Resolved,
        stop: CancellationToken,
        permit: OwnedSemaphorePermit,
        report: impl Fn(u64),
    ) -> Result<DeviceRow, ImageError> {
        let out = tempfile::Builder::new().prefix("device-").tempfile_in(&self.folders.tmp);
        let out = out.map_err(ImageError::io("create the device's file"))?;
        std::os::unix::fs::chown(out.path(), Some(self.uid), Some(self.uid))
            .map_err(ImageError::io("give the device's file to the converter"))?;
        let outcome = self.convert(image, out.path(), &stop, report).await;
        let this = self.clone();
        let cleaned = tokio::task::spawn_blocking(move || this.sweep()).await;
        drop(permit);
        if let Err(e) = outcome {
            // Room comes back at once: the jail's mounts hold the file until the kernel has undone them.
            let _ = out.as_file().set_len(0);
            return Err(e);
        }
        cleaned.map_err(|e| ImageError::Converter(e.to_string()))??;
        let (key, folders) = (image.device_key(), self.folders.clone());
        let (name, diff_ids) = (key.clone(), image.diff_ids.clone());
        let uid = self.uid;
        let size_bytes = tokio::task::spawn_blocking(move || keep(out, &folders, &name, uid))
            .await
            .map_err(|e| ImageError::Converter(e.to_string()))??;
        Ok(DeviceRow { key, size_bytes, converter: convert::VERSION.to_owned(), diff_ids })
    }

    async fn convert(
        &self,
        image: &Resolved,
        out: &Path,
        stop: &CancellationToken,
        report: impl Fn(u64),
    ) -> Result<(), ImageError> {
        let (tar_out, tar_in) = pipe_pair()?;
        let mut squash = self.start_squash(out, tar_out).await?;
        let mut merge = match self.start_merge(image, tar_in).await {
            Ok(merge) => merge,
            Err(e) => {
                kill(&squash.jailed);
                squash.finish().await;
                return Err(e);
            }
        };
        let processes = [merge.jailed.clone(), squash.jailed.clone()];
        let both = async { tokio::join!(merge.finish(), squash.finish()) };
        tokio::pin!(both);
        let deadline = tokio::time::sleep(TIME_LIMIT);
        tokio::pin!(deadline);
        let mut tick = tokio::time::interval(Duration::from_millis(250));
        let early = loop {
            tokio::select! {
                (merged, squashed) = &mut both => {
                    let killed = |name: &str| cgroup::out_of_memory(&format!("{}/{name}", self.group()));
                    return verdict(killed, &merged, &squashed, self.max_bytes);
                }
                () = stop.cancelled() => break ImageError::Cancelled,
                () = &mut deadline => break ImageError::Converter("it took more than 20 minutes".into()),
                _ = tick.tick() => {
                    report(fs::metadata(out).map_or(0, |m| m.len()));
                    if let Err(full) = self.folders.check_room().and_then(|()| self.check_memory(0)) {
                        break full;
                    }
                }
            }
        };
        processes.iter().for_each(kill);
        both.await;
        Err(early)
    }

    async fn start_merge(&self, image: &Resolved, tar_in: OwnedFd) -> Result<Process, ImageError> {
        let in_jail = |n: usize| PathBuf::from(format!("/layers/{n}"));
        let plan = ConvertPlan {
            layers: (image.diff_ids.iter().enumerate())
                .map(|(n, diff_id)| ConvertLayer { path: in_jail(n), diff_id: diff_id.clone() })
                .collect(),
            limits: ConvertLimits { bytes: self.max_bytes, entries: self.max_files },
            reserved_id: self.uid,
        };
        let plan = serde_json::to_string(&plan).map_err(|e| ImageError::Converter(e.to_string()))?;
        let exe = fs::canonicalize(&self.aether_exe).map_err(ImageError::io_at("find", &self.aether_exe))?;
        let mut command = self.command("merge", "/aether", MERGE_MEMORY_MB, 0)?.exec_bind(exe, "/aether");
        for (n, layer) in image.layers.iter().enumerate() {
            command = command.ro_bind(self.folders.blob(&layer.digest), in_jail(n));
        }
        self.start("merge", command.arg(convert::VERB).arg(plan).stdout(tar_in)).await
    }

    async fn start_squash(&self, out: &Path, tar_out: OwnedFd) -> Result<Process, ImageError> {
        // A symlink to mksquashfs, which goes by the name it is called.
        let sqfstar = SQFSTAR.iter().find_map(|p| fs::canonicalize(p).ok()).ok_or_else(|| ImageError::Missing {
            what: "sqfstar".into(),
            remedy: "Install squashfs-tools (4.5 or newer).".into(),
        })?;
        // Metadata on top of incompressible data stays well below this.
        let quota = self.max_bytes.saturating_add(self.max_bytes / 8).saturating_add(64 << 20);
        // Without its mode the root would be writable for everyone; its owner
        // is put right by `give_root_to_root`, which needs a plain id table.
        let root = ["-root-mode", "0755", "-noId"];
        let args =
            ["-reproducible", "-mkfs-time", "0", "-comp", "lz4", "-no-progress", "-quiet", "-force", "-exit-on-error"];
        let command = self
            .command("squash", "/sqfstar", SQUASH_MEMORY_MB, quota)?
            .exec_bind(sqfstar, "/sqfstar")
            .rw_bind(out, PATH_IN_JAIL)
            .args(args)
            .args(root)
            .args(["-mem", SQUASH_CACHE, "-processors", "2", PATH_IN_JAIL])
            .stdin(tar_out);
        self.start("squash", command).await
    }

    fn command(&self, name: &str, program: &str, memory_mb: u64, fsize: u64) -> Result<jail::Command, ImageError> {
        let dir = self.folders.jail.join(name);
        let mut command = jail::Command::new(program, dir)
            .uid_gid(self.uid, self.uid)
            .limits(JailLimits {
                memory_mb,
                pids: 64,
                cpu_percent: 200,
                fsize_bytes: fsize,
                nofile: 256,
                oom_score_adj: OOM_SCORE_ADJ,
            })
            .cgroup(format!("{}/{name}", self.group()));
        // Some of them are symlinks, on hosts with one /usr.
        for (source, dir) in LIBRARIES.iter().filter_map(|d| Some((fs::canonicalize(d).ok()?, d))) {
            command = command.exec_bind(source, *dir);
        }
        Ok(command)
    }

    async fn start(&self, name: &str, command: jail::Command) -> Result<Process, ImageError> {
        let (said, say) = pipe_pair()?;
        let jailed = command.stderr(say).spawn(&self.aether_exe).await.map_err(|e| {
            // Killed before it was anything: the kernel's word counts.
            let killed = cgroup::out_of_memory(&format!("{}/{name}", self.group()));
            killed.map_or_else(|| jail_error(e), |whose| short_of_memory(name, whose))
        })?;
        let stderr = pipe::Receiver::from_owned_fd(said).map_err(ImageError::io("read from the converter"))?;
        Ok(Process { jailed, stderr })
    }
}

/// One jailed process and what it says.
struct Process {
    jailed: Jailed,
    stderr: pipe::Receiver,
}

struct Ended {
    code: Option<i32>,
    signal: Option<i32>,
    said: String,
}

impl Process {
    async fn finish(&mut self) -> Ended {
        let mut said = Vec::new();
        let mut buf = [0u8; 4096];
        // A broken pipe tells no more than its end.
        while let Ok(n @ 1..) = self.stderr.read(&mut buf).await {
            if said.len() < 16 << 10 {
                said.extend_from_slice(&buf[..n]);
            }
        }
        let (code, signal) = self.jailed.wait().await;
        let said = text::clip(String::from_utf8_lossy(&said).trim(), 500);
        Ended { code, signal, said }
    }
}

fn kill(process: &Jailed) {
    if let Err(e) = process.kill() {
        tracing::warn!(pid = process.pid, "cannot end the converter: {e}");
    }
}

fn short_of_memory(name: &str, whose: OutOfMemory) -> ImageError {
    match whose {
        OutOfMemory::Group => ImageError::Converter(format!("{name} needs more memory than it may use")),
        OutOfMemory::Host => ImageError::NoMemory("the kernel ended the conversion".to_owned()),
    }
}

fn verdict(
    killed: impl Fn(&str) -> Option<OutOfMemory>,
    merged: &Ended,
    squashed: &Ended,
    max_bytes: u64,
) -> Result<(), ImageError> {
    match merged.code {
        Some(convert::EXIT_INVALID) => return Err(ImageError::Invalid(merged.said.clone())),
        Some(convert::EXIT_TOO_LARGE) => return Err(too_large(&merged.said, max_bytes)),
        _ => {}
    }
    // The maker's failure breaks the merger's pipe, so it is the cause.
    if squashed.said.contains("No space left") || squashed.said.contains("Disk quota exceeded") {
        return Err(ImageError::DiskFull("the image's device".into()));
    }
    if squashed.signal == Some(libc::SIGXFSZ) || squashed.said.contains("File too large") {
        return Err(too_large("the device", max_bytes));
    }
    let ended = [("squash", squashed), ("merge", merged)];
    let bad = || ended.iter().filter(|(_, ended)| ended.code != Some(0));
    // Either's death is the other's error.
    if let Some((name, whose)) = bad().find_map(|(name, _)| Some((name, killed(name)?))) {
        return Err(short_of_memory(name, whose));
    }
    bad().next().map_or(Ok(()), |(name, ended)| {
        let Ended { code, signal, said } = ended;
        Err(ImageError::Converter(format!("{name} ended with code {code:?}, signal {signal:?}: {said}")))
    })
}

/// The verb's message carries its own limit.
fn too_large(said: &str, max_bytes: u64) -> ImageError {
    match said.rsplit_once(" is above the limit of ") {
        Some((what, limit)) => {
            ImageError::TooLarge { what: what.to_owned(), limit: limit.parse().unwrap_or(max_bytes) }
        }
        None => ImageError::TooLarge { what: said.to_owned(), limit: max_bytes },
    }
}

fn jail_error(e: JailError) -> ImageError {
    match e {
        JailError::Io { doing, source } => ImageError::io(doing)(source),
        other => ImageError::Converter(other.to_string()),
    }
}

fn pipe_pair() -> Result<(OwnedFd, OwnedFd), ImageError> {
    let made = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC);
    made.map_err(|e| ImageError::io("make a pipe")(e.into()))
}

/// Checks what came out, and gives it its name for good.
fn keep(out: tempfile::NamedTempFile, folders: &Folders, key: &str, uid: u32) -> Result<u64, ImageError> {
    let path = folders.devices.join(key);
    let mut file = out.as_file();
    let meta = file.metadata().map_err(ImageError::io("read the device"))?;
    if !meta.is_file() || meta.nlink() != 1 || give_root_to_root(&mut file, uid).is_err() {
        return Err(ImageError::Converter("what came out is not the expected squashfs".into()));
    }
    std::os::unix::fs::chown(out.path(), Some(0), Some(0)).map_err(ImageError::io("take the device's file back"))?;
    file.set_permissions(fs::Permissions::from_mode(0o444))
        .and_then(|()| file.sync_all())
        .map_err(ImageError::io("sync the device"))?;
    out.persist(&path).map_err(|e| ImageError::io_at("name", &path)(e.error))?;
    sync_dir(&folders.devices)?;
    Ok(meta.len())
}

/// sqfstar makes whoever runs it the owner of the root folder and has no
/// option that works against that. Owners are kept as numbers into a table of
/// ids; the converter's own becomes 0 there. (Superblock: id count at 26, id
/// table at 48; the table is a list of blocks of at most 2048 ids, each with a
/// two-byte header whose top bit says "not compressed".)
fn give_root_to_root(file: &mut (impl Read + Write + Seek), uid: u32) -> std::io::Result<()> {
    let odd = || std::io::Error::other("not a squashfs as expected");
    let mut superblock = [0u8; 96];
    file.seek(SeekFrom::Start(0))?;
    file.read_exact(&mut superblock)?;
    let count = u64::from(u16::from_le_bytes([superblock[26], superblock[27]]));
    let table = u64::from_le_bytes(superblock[48..56].try_into().map_err(|_| odd())?);
    if &superblock[..4] != b"hsqs" {
        return Err(odd());
    }
    for block in 0..count.div_ceil(2048) {
        let mut pointer = [0u8; 8];
        file.seek(SeekFrom::Start(table.checked_add(block * 8).ok_or_else(odd)?))?;
        file.read_exact(&mut pointer)?;
        let at = u64::from_le_bytes(pointer);
        let mut header = [0u8; 2];
        file.seek(SeekFrom::Start(at))?;
        file.read_exact(&mut header)?;
        let header = u16::from_le_bytes(header);
        let mut ids = vec![0u8; usize::from(header & 0x7fff)];
        if header & 0x8000 == 0 || ids.len() > 8192 {
            return Err(odd());
        }
        file.read_exact(&mut ids)?;
        for id in ids.chunks_exact_mut(4).filter(|id| **id == uid.to_le_bytes()) {
            id.copy_from_slice(&[0; 4]);
        }
        file.seek(SeekFrom::Start(at + 2))?;
        file.write_all(&ids)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(code: Option<i32>, said: &str) -> Ended {
        Ended { code, signal: code.is_none().then_some(9), said: said.to_owned() }
    }

    #[test]
    fn a_kill_for_want_of_memory_is_told_and_whose_it_was() {
        // The other one of the two ends by it, with an error of its own.
        let (fine, cut, dead) = (ended(Some(0), ""), ended(Some(1), "broken pipe"), ended(None, ""));
        let killed = |who: &'static str, whose| move |name: &str| (name == who).then_some(whose);
        for (who, merged, squashed) in [("merge", &dead, &cut), ("squash", &cut, &dead)] {
            let host = verdict(killed(who, OutOfMemory::Host), merged, squashed, 1).expect_err("ended");
            assert!(matches!(&host, ImageError::NoMemory(_)), "{who}: {host}");
            assert_eq!((host.code().status(), host.code().retryable()), (503, true));
            let own = verdict(killed(who, OutOfMemory::Group), merged, squashed, 1).expect_err("ended");
            assert!(own.to_string().contains(&format!("{who} needs more memory than it may use")), "{own}");
        }
        let other = verdict(|_| None, &cut, &dead, 1).expect_err("ended").to_string();
        assert!(other.contains("squash ended with code None, signal Some(9)"), "{other}");
        // One that was killed and did its work all the same, as others of its group were: no error.
        assert_eq!(verdict(killed("merge", OutOfMemory::Host), &fine, &fine, 1), Ok(()));
    }
}
