//! Processes by their uid. A uid of the node's range is one sandbox's (or the
//! converter's) and nobody else's, so that what runs as it can be found and
//! ended without a pid that may be somebody else's by now.

use rustix::process::Signal;
use std::io;
use std::ops::Range;
use std::os::unix::process::CommandExt;
use std::time::Duration;

/// Each try kills all there is; what is left is on its way out.
const TRIES: u32 = 250;
const PAUSE: Duration = Duration::from_millis(20);

/// Live processes of the uids in `range`: (uid, pid). Zombies do not count:
/// they hold nothing any more.
pub(crate) fn alive(range: &Range<u32>) -> io::Result<Vec<(u32, u32)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else { continue };
        // The folder's owner is the process's uid, and costs no read; but the kernel shows root
        // where a process is not dumpable, hence the status.
        let Some(uid) = of_process(pid) else { continue };
        if range.contains(&uid) {
            found.push((uid, pid));
        }
    }
    Ok(found)
}

/// The real uid of a process that lives.
pub(crate) fn of_process(pid: u32) -> Option<u32> {
    uid_if_alive(&std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?)
}

fn uid_if_alive(status: &str) -> Option<u32> {
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    if field("State:")?.starts_with(['Z', 'X']) {
        return None;
    }
    field("Uid:")?.split_whitespace().next()?.parse().ok()
}

/// SIGKILL to all of a uid, again until none is left or the tries are used
/// up. Blocks; true when none is left.
pub(crate) fn kill(uid: u32) -> io::Result<bool> {
    for _ in 0..TRIES {
        // First, and not only if somebody was seen: one that forks all the time is hardly ever.
        signal_all(uid)?;
        if alive(&(uid..uid + 1))?.is_empty() {
            return Ok(true);
        }
        std::thread::sleep(PAUSE);
    }
    Ok(false)
}

/// A child becomes the uid and signals everyone it may: no pid is read
/// before it is used, and a process that forks all the time cannot run away
/// from it, since a fork under way fails.
#[allow(unsafe_code, reason = "between fork and exec, where there is no exec")]
fn signal_all(uid: u32) -> io::Result<()> {
    if uid == 0 {
        return Err(io::Error::other("everybody's uid is not a sandbox's"));
    }
    let mut command = std::process::Command::new("/");
    command.env_clear().uid(uid).gid(uid);
    // SAFETY: the closure runs in the child, after its ids were set; it makes system calls only and
    // takes no lock and no memory. Its error ends the child before anything is executed.
    unsafe {
        command.pre_exec(move || {
            if rustix::process::getuid().as_raw() == uid && rustix::process::geteuid().as_raw() == uid {
                // All but itself and the first process.
                libc::kill(-1, Signal::KILL.as_raw());
            }
            Err(io::Error::from_raw_os_error(libc::ECANCELED))
        });
    }
    match command.spawn() {
        Err(e) if e.raw_os_error() == Some(libc::ECANCELED) => Ok(()),
        Err(e) => Err(e),
        // One of those to be ended was quicker and ended it: the next try.
        Ok(mut child) => child.wait().map(drop),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zombies_are_not_alive() {
        assert_eq!(uid_if_alive("Name:\tx\nState:\tS (sleeping)\nUid:\t700003\t1\t1\t1\n"), Some(700_003));
        assert_eq!(uid_if_alive("Name:\tx\nState:\tZ (zombie)\nUid:\t700003\t1\t1\t1\n"), None);
    }

    #[test]
    fn a_uid_that_forks_faster_than_it_can_be_listed_is_ended() {
        let uid = 1_900_000 + std::process::id() % 100_000;
        let dir = tempfile::tempdir().expect("a folder");
        let beat = dir.path().join("beat");
        let loops = "while True:\n  os.write(f, b'.')\n  if os.fork(): os._exit(0)\n";
        let script = format!(
            "import os\nf = os.open('{}', os.O_CREAT | os.O_WRONLY | os.O_APPEND)\nos.setgid({uid}); os.setuid({uid})\n{loops}",
            beat.display()
        );
        let mut first =
            std::process::Command::new("python3").args(["-c", &script]).spawn().expect("python3 as another uid");
        first.wait().expect("its first link ends");
        let mut other = std::process::Command::new("sleep").arg("1000").uid(uid + 1).spawn().expect("a neighbour");
        let beats = || std::fs::metadata(&beat).map_or(0, |m| m.len());
        while beats() < 20 {
            std::thread::sleep(PAUSE);
        }
        assert!(kill(uid).expect("kills"), "something of the uid lives");
        let last = beats();
        std::thread::sleep(PAUSE * 10);
        assert_eq!(beats(), last, "it goes on");
        assert_eq!(other.try_wait().expect("looks"), None, "the neighbour was touched");
        other.kill().expect("ends");
        other.wait().expect("waits");
        assert!(kill(0).is_err(), "root is nobody's");
    }
}
