//! Processes that are nobody's business but their own, at a pid of the test's
//! choice: as a pid comes round again, only at once.

use std::ffi::CString;
use std::io;
use std::time::Duration;

/// What a process is known by, for as long as it lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub pid: u32,
    pub start: u64,
    pub exe: (u64, u64),
}

/// None when nothing lives under that pid.
pub(super) fn identity(pid: u32) -> Option<Identity> {
    use std::os::unix::fs::MetadataExt;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut after = stat.rsplit_once(')')?.1.split_whitespace();
    if after.next()?.starts_with(['Z', 'X']) {
        return None;
    }
    let exe = std::fs::metadata(format!("/proc/{pid}/exe")).ok()?;
    Some(Identity { pid, start: after.nth(18)?.parse().ok()?, exe: (exe.dev(), exe.ino()) })
}

/// A child of this test that has done nothing wrong. Ended with the value.
pub(super) struct Stranger {
    pub identity: Identity,
}

impl Stranger {
    /// Its exec has been done when `spawn` returns.
    pub(super) fn of(child: std::process::Child) -> Self {
        Self { identity: identity(child.id()).expect("lives") }
    }

    pub(super) fn is_untouched(&self) -> bool {
        identity(self.identity.pid).as_ref() == Some(&self.identity)
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(self.identity.pid.cast_signed());
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        let _ = nix::sys::wait::waitpid(pid, None);
    }
}

/// Runs `argv` under this very pid, which was another's a moment ago. Fails
/// when the pid is taken, by its former owner's remains or by somebody else.
pub(super) fn spawn_at(pid: u32, argv: &[&str]) -> io::Result<Stranger> {
    let words: Vec<CString> = argv.iter().map(|w| CString::new(*w).expect("a word")).collect();
    let mut pointers: Vec<*const libc::c_char> = words.iter().map(|w| w.as_ptr()).collect();
    pointers.push(std::ptr::null());
    let mut tries = 0;
    loop {
        match clone_at(pid, &pointers) {
            Err(e) if e.raw_os_error() == Some(libc::EEXIST) && tries < 100 => {
                tries += 1;
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(e) => return Err(e),
            Ok(()) => break,
        }
    }
    // Its exec takes a moment: until then it looks like this test.
    let me = identity(std::process::id()).expect("ourselves");
    for _ in 0..400 {
        match identity(pid) {
            Some(now) if now.exe != me.exe => return Ok(Stranger { identity: now }),
            _ => std::thread::sleep(Duration::from_millis(5)),
        }
    }
    Err(io::Error::other("it did not start"))
}

#[allow(unsafe_code, reason = "no library sets the pid of a child")]
fn clone_at(pid: u32, argv: &[*const libc::c_char]) -> io::Result<()> {
    let tid = [pid.cast_signed()];
    // SAFETY: all-zero is a valid clone_args.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.exit_signal = libc::SIGCHLD as u64;
    args.set_tid = tid.as_ptr() as u64;
    args.set_tid_size = 1;
    // SAFETY: without CLONE_VM this is a fork; the child only executes what was prepared, or ends.
    unsafe {
        match libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<libc::clone_args>()) {
            -1 => Err(io::Error::last_os_error()),
            0 => {
                libc::execvp(argv[0], argv.as_ptr());
                libc::_exit(127)
            }
            _ => Ok(()),
        }
    }
}
