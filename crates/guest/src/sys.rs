//! Calls to the kernel that no crate of ours wraps. Each is small and says
//! why it is sound.
#![allow(unsafe_code, reason = "calls the kernel; each block has a SAFETY note")]

use nix::libc;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn clock(id: libc::clockid_t) -> libc::timespec {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a valid timespec to write to; the clocks used exist.
    unsafe { libc::clock_gettime(id, &mut now) };
    now
}

/// The sandbox's wall clock.
pub fn unix_ms() -> u64 {
    let now = clock(libc::CLOCK_REALTIME);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1000 + u64::try_from(now.tv_nsec).unwrap_or(0) / 1_000_000
}

/// Since boot, with the time spent suspended.
pub fn uptime_ms() -> u64 {
    let now = clock(libc::CLOCK_BOOTTIME);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1000 + u64::try_from(now.tv_nsec).unwrap_or(0) / 1_000_000
}

pub fn set_clock(unix_ns: u64) -> io::Result<()> {
    let seconds = libc::time_t::try_from(unix_ns / 1_000_000_000).map_err(|_| io::ErrorKind::InvalidInput)?;
    let time = libc::timespec { tv_sec: seconds, tv_nsec: (unix_ns % 1_000_000_000) as libc::c_long };
    // SAFETY: `time` is a valid timespec to read from.
    check(unsafe { libc::clock_settime(libc::CLOCK_REALTIME, &time) }).map(drop)
}

/// `RNDADDENTROPY`, then `RNDRESEEDCRNG`: without the second the new bytes
/// would wait in the pool for up to five minutes.
pub fn add_entropy(bytes: &[u8]) -> io::Result<()> {
    const RNDADDENTROPY: libc::c_ulong = 0x4008_5203;
    const RNDRESEEDCRNG: libc::c_ulong = 0x5207;
    #[repr(C)]
    struct Pool {
        bits: libc::c_int,
        size: libc::c_int,
        bytes: [u8; 512],
    }
    let taken = &bytes[..bytes.len().min(512)];
    let size = taken.len() as libc::c_int;
    let mut pool = Pool { bits: size * 8, size, bytes: [0; 512] };
    pool.bytes[..taken.len()].copy_from_slice(taken);
    let random = File::options().read(true).write(true).open("/dev/urandom")?;
    // SAFETY: `pool` has the layout of rand_pool_info with `size` bytes behind it.
    check(unsafe { libc::ioctl(random.as_raw_fd(), RNDADDENTROPY as _, &pool) })?;
    // SAFETY: takes no argument.
    check(unsafe { libc::ioctl(random.as_raw_fd(), RNDRESEEDCRNG as _, 0) }).map(drop)
}

/// Freezes or thaws the file system that `folder` is on.
pub fn freeze(folder: &File, frozen: bool) -> io::Result<()> {
    const FIFREEZE: libc::c_ulong = 0xC004_5877;
    const FITHAW: libc::c_ulong = 0xC004_5878;
    let request = if frozen { FIFREEZE } else { FITHAW };
    // SAFETY: the argument is ignored by the kernel.
    check(unsafe { libc::ioctl(folder.as_raw_fd(), request as _, 0) }).map(drop)
}

/// Loads a kernel module from an open file.
pub fn load_module(file: &File) -> io::Result<()> {
    // SAFETY: the descriptor is open, the parameter string is empty and ends in NUL.
    let result = unsafe { libc::syscall(libc::SYS_finit_module, file.as_raw_fd(), c"".as_ptr(), 0) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Makes the terminal on `fd` the controlling one of this session.
pub fn take_terminal(fd: libc::c_int) -> io::Result<()> {
    // SAFETY: takes an integer argument.
    check(unsafe { libc::ioctl(fd, libc::TIOCSCTTY, 0) }).map(drop)
}

pub fn resize_terminal(fd: &impl AsRawFd, cols: u16, rows: u16) -> io::Result<()> {
    let size = libc::winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: `size` is a valid winsize to read from.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCSWINSZ, &size) }).map(drop)
}

/// File-system identity of the calling thread alone. glibc's wrappers would
/// change every thread's, so these are the bare calls.
pub fn thread_identity(uid: u32, gid: u32, groups: &[u32]) -> io::Result<()> {
    // SAFETY: the pointer and the length describe `groups`.
    let result = unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: plain integers. They answer the previous id, never an error, so
    // a second call with an invalid id reads back what is set.
    let set = unsafe {
        libc::syscall(libc::SYS_setfsgid, gid);
        libc::syscall(libc::SYS_setfsuid, uid);
        (libc::syscall(libc::SYS_setfsuid, u32::MAX), libc::syscall(libc::SYS_setfsgid, u32::MAX))
    };
    if set == (i64::from(uid), i64::from(gid)) { Ok(()) } else { Err(io::ErrorKind::PermissionDenied.into()) }
}

/// For the child between fork and exec: groups, gid, uid, in that order.
pub fn become_user(uid: u32, gid: u32, groups: &[u32]) -> io::Result<()> {
    // SAFETY: after fork there is one thread; glibc's wrappers are then plain
    // system calls. The pointer and the length describe `groups`.
    unsafe {
        check(libc::setgroups(groups.len(), groups.as_ptr()))?;
        check(libc::setresgid(gid, gid, gid))?;
        check(libc::setresuid(uid, uid, uid))?;
    }
    Ok(())
}

/// Bytes free and in all of the file system at `path`.
pub fn space(path: &std::ffi::CStr) -> io::Result<(u64, u64)> {
    // SAFETY: statvfs is plain data; all zero is a valid value.
    let mut stat: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: the path ends in NUL and `stat` is valid to write to.
    check(unsafe { libc::statvfs(path.as_ptr(), &mut stat) })?;
    Ok((stat.f_bfree.saturating_mul(stat.f_frsize), stat.f_blocks.saturating_mul(stat.f_frsize)))
}

/// Any signal by number (real-time ones too), to a process group.
pub fn kill_group(pid: nix::unistd::Pid, number: i32) -> Result<(), nix::errno::Errno> {
    // SAFETY: plain integers.
    nix::errno::Errno::result(unsafe { libc::kill(-pid.as_raw(), number) }).map(drop)
}

/// SIGKILL to every process but ourselves and, as PID 1, to all there are.
pub fn kill_everyone() {
    // SAFETY: plain integers. The guard keeps an ordinary process (tests)
    // from killing the machine that it runs on.
    if std::process::id() == 1 {
        unsafe { libc::kill(-1, libc::SIGKILL) };
    }
}

/// Registers a descriptor with the current runtime.
pub fn watch<T>(owner: T, interest: tokio::io::Interest) -> io::Result<tokio::io::unix::AsyncFd<T>>
where
    T: AsRawFd + OwnsDescriptor,
{
    // SAFETY: the types named by `OwnsDescriptor` own their descriptor and
    // never close it before they are dropped.
    let registered = unsafe { tokio::io::unix::AsyncFd::register_with_interest(owner, interest) };
    registered.map_err(io::Error::from)
}

/// Types that keep one descriptor open for as long as they live.
pub trait OwnsDescriptor {}

impl OwnsDescriptor for File {}

/// Gives the terminal on descriptor 0 to a user. Between fork and exec:
/// `std::io::stdin` would allocate.
pub fn own_terminal(uid: u32) -> io::Result<()> {
    // SAFETY: plain integers; `u32::MAX` leaves the group alone.
    check(unsafe { libc::fchown(0, uid, u32::MAX) }).map(drop)
}
