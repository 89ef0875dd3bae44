//! Does KVM really run a guest here? Some hosts offer a `/dev/kvm` that opens
//! and faults on ordinary instructions, so its existence says nothing: a guest
//! is booted, once per host boot.

use super::boot::{self, Parts};
use super::config::MAX_SLOTS;
use super::slot::Sinks;
use crate::jail::Jailed;
use serde::{Deserialize, Serialize};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::Instant;

const LIMIT: Duration = Duration::from_secs(10);
/// The slot that no sandbox gets.
pub(super) const SLOT: u32 = MAX_SLOTS;
/// What the kernel says once it is about to run our first process.
const REACHED: &str = "Run /init as init process";

/// Also what is kept on the disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Verdict {
    pub(super) works: bool,
    pub(super) reason: String,
    /// Valid for this host boot and this QEMU, kernel and guest.
    key: String,
}

fn cache(state_dir: &Path) -> PathBuf {
    state_dir.join("kvm-probe.json")
}

fn key(parts: &Parts<'_>) -> String {
    let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    format!("{}|{}|{}", boot_id.trim(), parts.bundle.dir().display(), parts.artifacts.kernel.display())
}

/// What an earlier probe of this host boot found.
pub(super) fn known(state_dir: &Path, key: &str) -> Option<Verdict> {
    let text = std::fs::read(cache(state_dir)).ok()?;
    serde_json::from_slice::<Verdict>(&text).ok().filter(|verdict| verdict.key == key)
}

/// `parts.kvm` must be set.
pub(super) async fn run(parts: &Parts<'_>, clean: impl AsyncFn(u32)) -> Verdict {
    let key = key(parts);
    if let Some(verdict) = known(&parts.config.state_dir, &key) {
        return verdict;
    }
    let (works, reason) = if Path::new("/dev/kvm").exists() {
        clean(SLOT).await;
        let answer = try_boot(parts).await;
        clean(SLOT).await;
        answer
    } else {
        (false, "there is no /dev/kvm".to_string())
    };
    let verdict = Verdict { works, reason, key };
    if let Err(error) = remember(&parts.config.state_dir, &verdict) {
        tracing::warn!(%error, "the KVM probe's result cannot be kept; it will run again at the next start");
    }
    verdict
}

async fn try_boot(parts: &Parts<'_>) -> (bool, String) {
    match boot::start_probe(parts, SLOT).await {
        Ok((jailed, sinks)) => {
            let answer = watch(&jailed, &sinks).await;
            let _ = jailed.kill();
            jailed.wait().await;
            answer
        }
        Err(error) => (false, format!("a probe guest could not be started: {error}")),
    }
}

async fn watch(jailed: &Jailed, sinks: &Sinks) -> (bool, String) {
    let start = Instant::now();
    loop {
        if sinks.serial().contains(REACHED) {
            return (true, format!("a probe guest booted in {} ms", start.elapsed().as_millis()));
        }
        let stderr = sinks.stderr();
        let ended = crate::jail::has_ended(&jailed.pidfd);
        // QEMU reports a fault of KVM and then waits, paused.
        if ended || stderr.contains("KVM") || stderr.contains("kvm") {
            return (false, format!("/dev/kvm does not run a guest: {}", first_line(&stderr)));
        }
        if start.elapsed() > LIMIT {
            let seconds = LIMIT.as_secs();
            return (false, format!("/dev/kvm does not run a guest: it reached nothing within {seconds} s"));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn first_line(text: &str) -> String {
    let line = text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("it ended without a word");
    line.chars().filter(|c| !c.is_control()).take(200).collect()
}

fn remember(state_dir: &Path, verdict: &Verdict) -> std::io::Result<()> {
    let mut file = tempfile::Builder::new().prefix(".new-").tempfile_in(state_dir)?;
    file.write_all(&serde_json::to_vec(verdict)?)?;
    file.persist(cache(state_dir)).map_err(|e| e.error)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_holds_for_its_own_key() {
        let dir = tempfile::tempdir().expect("temp dir");
        let verdict = Verdict { works: false, reason: "no".into(), key: "boot-1|qemu".into() };
        remember(dir.path(), &verdict).expect("kept");
        assert_eq!(known(dir.path(), "boot-1|qemu"), Some(verdict));
        assert_eq!(known(dir.path(), "boot-2|qemu"), None);
        std::fs::write(cache(dir.path()), b"{ torn").expect("write");
        assert_eq!(known(dir.path(), "boot-1|qemu"), None);
    }
}
