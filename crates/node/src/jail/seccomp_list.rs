//! Which system calls a jailed process may not make.
//!
//! A deny list, since what is jailed differs (an emulator, a filesystem
//! maker); each brings its own tighter filter where it has one. It closes the
//! doors that matter for an escape: other namespaces, mounts, other
//! processes, kernel code, keys, and sockets other than Unix ones (AF_VSOCK
//! and AF_ALG are not bounded by a network namespace).

use super::JailError;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};
use std::collections::BTreeMap;

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

#[cfg(target_arch = "x86_64")]
const ARCH: TargetArch = TargetArch::x86_64;
#[cfg(target_arch = "aarch64")]
const ARCH: TargetArch = TargetArch::aarch64;

/// On x86-64 a kernel may know a second set of numbers (x32).
#[cfg(target_arch = "x86_64")]
const X32_BIT: Option<i64> = Some(0x4000_0000);
#[cfg(not(target_arch = "x86_64"))]
const X32_BIT: Option<i64> = None;

const DENIED: &[i64] = &[
    // file systems and roots
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_mount_setattr,
    libc::SYS_mknodat,
    libc::SYS_open_by_handle_at,
    libc::SYS_name_to_handle_at,
    libc::SYS_quotactl,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    // other namespaces and processes
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_migrate_pages,
    libc::SYS_move_pages,
    // kernel code and its inner views
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_syslog,
    libc::SYS_reboot,
    libc::SYS_acct,
    // keys
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    // clocks and names of the host
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_vhangup,
    // ids: there is nothing to change to
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setgroups,
    libc::SYS_setfsuid,
    libc::SYS_setfsgid,
    libc::SYS_capset,
    libc::SYS_personality,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_kexec_file_load,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_mknod,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_uselib,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ustat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_sysfs,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_modify_ldt,
];

const NAMESPACE_FLAGS: [i32; 7] = [
    libc::CLONE_NEWNS,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWCGROUP,
];

/// Terminal tricks that put bytes into somebody else's input.
const DENIED_IOCTLS: [u64; 2] = [libc::TIOCSTI, libc::TIOCLINUX];

fn condition(
    argument: u8,
    length: SeccompCmpArgLen,
    operator: SeccompCmpOp,
    value: u64,
) -> Result<SeccompRule, JailError> {
    SeccompCondition::new(argument, length, operator, value)
        .and_then(|c| SeccompRule::new(vec![c]))
        .map_err(|e| JailError::Refused(format!("cannot build the system call filter: {e}")))
}

fn denied() -> Result<Rules, JailError> {
    let mut rules: Rules = DENIED.iter().map(|nr| (*nr, Vec::new())).collect();
    let mut clone = Vec::new();
    for flag in NAMESPACE_FLAGS {
        let flag = u64::from(flag.unsigned_abs());
        clone.push(condition(0, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(flag), flag)?);
    }
    rules.insert(libc::SYS_clone, clone);
    let family = u64::from(libc::AF_UNIX.unsigned_abs());
    rules.insert(libc::SYS_socket, vec![condition(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, family)?]);
    let mut ioctls = Vec::new();
    for request in DENIED_IOCTLS {
        // The kernel looks at the low word only, so the filter must as well.
        ioctls.push(condition(1, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, request)?);
    }
    rules.insert(libc::SYS_ioctl, ioctls);
    Ok(rules)
}

fn compile(mut rules: Rules, error: i32) -> Result<BpfProgram, JailError> {
    if let Some(bit) = X32_BIT {
        let twins: Rules = rules.iter().map(|(nr, rule)| (nr | bit, rule.clone())).collect();
        rules.extend(twins);
    }
    let action = SeccompAction::Errno(error.unsigned_abs());
    SeccompFilter::new(rules, SeccompAction::Allow, action, ARCH)
        .and_then(BpfProgram::try_from)
        .map_err(|e| JailError::Refused(format!("cannot build the system call filter: {e}")))
}

/// The filters, in the order in which to install them.
pub(super) fn programs() -> Result<Vec<BpfProgram>, JailError> {
    // clone3 takes its flags from memory, where a filter cannot look. "Not
    // known" makes the C library fall back to clone.
    let clone3: Rules = [(libc::SYS_clone3, Vec::new())].into();
    Ok(vec![compile(clone3, libc::ENOSYS)?, compile(denied()?, libc::EPERM)?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filters_compile_and_fit() {
        let programs = programs().expect("valid filters");
        assert_eq!(programs.len(), 2);
        for program in programs {
            assert!(program.len() < 4096, "the kernel takes 4096 instructions, not {}", program.len());
        }
    }

    #[test]
    fn no_call_is_listed_twice() {
        let unique: std::collections::BTreeSet<_> = DENIED.iter().collect();
        assert_eq!(unique.len(), DENIED.len());
    }
}
