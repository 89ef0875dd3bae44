//! Named points at which a test lets the node die, as if by `kill -9`.
//!
//! In builds without debug assertions they are nothing. Elsewhere the
//! environment variable `AETHER_FAILPOINT` names one; at most one is armed,
//! once per process.

/// Every point there is, in the order in which a boot and an end pass them:
/// a test goes through all.
pub const POINTS: &[&str] = &[
    "boot.after_image",
    "boot.after_slot",
    "boot.after_disk",
    "boot.before_vmm",
    "boot.vmm_unjournaled",
    "boot.after_vmm",
    "boot.after_guest",
    "boot.before_identify",
    "boot.identified_unjournaled",
    "boot.after_identify",
    "end.before_kill",
    "end.after_kill",
    "end.after_clean",
    "end.after_release",
    "destroy.after_free",
    "destroy.after_disk",
];

#[cfg(debug_assertions)]
pub(crate) fn reach(name: &str) {
    use std::sync::OnceLock;
    static ARMED: OnceLock<Option<String>> = OnceLock::new();
    debug_assert!(POINTS.contains(&name), "{name} is not listed");
    let armed = ARMED.get_or_init(|| std::env::var("AETHER_FAILPOINT").ok());
    if armed.as_deref() == Some(name)
        && let Some(own) = rustix::process::Pid::from_raw(std::process::id().cast_signed())
    {
        // SIGKILL: no destructor runs, as in a real crash.
        let _ = rustix::process::kill_process(own, rustix::process::Signal::KILL);
    }
}

#[cfg(not(debug_assertions))]
#[inline]
pub(crate) fn reach(_: &str) {}

macro_rules! fail_point {
    ($name:literal) => {
        crate::failpoint::reach($name)
    };
}
pub(crate) use fail_point;
