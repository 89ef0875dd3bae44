//! Named points at which a test lets the node die, fail or hang.
//!
//! Every side effect of a boot, of an end, of an image and of an exec runs
//! through [`step!`], which puts one point before it and one after it; a test
//! beside this file fails on one that does not. The environment variable
//! `AETHER_FAILPOINT` arms points as `NAME[=crash|error|hang:SECONDS]`,
//! several with commas between them; each acts once per process. The name of
//! a step with `=twice` has its work done twice in a row each time, which is
//! what a repeat after a lost answer does.
//!
//! In builds without debug assertions they are nothing.

use std::future::Future;

/// Declares the steps, and from them the points: a point cannot be forgotten.
macro_rules! steps {
    ($($name:literal)*) => {
        pub const STEPS: &[&str] = &[$($name),*];
        /// Every point there is: a test goes through all.
        pub const POINTS: &[&str] = &[$(concat!($name, ".before"), concat!($name, ".after")),*];
    };
}

steps! {
    "boot.note_begin" "boot.note_image" "boot.hold_image" "boot.note_queued" "boot.note_slot" "boot.claim_slot"
    "boot.note_disk" "boot.make_disk" "boot.note_disk_made" "boot.note_vmm" "boot.start_vmm"
    "boot.note_guest" "boot.await_guest" "boot.note_identity" "boot.identify" "boot.note_up"
    "stop.keep_logs" "stop.note_begin" "stop.note_end"
    "end.ask_guest" "end.kill" "end.reap" "end.release_slot" "end.note_free"
    "fail.remove_disk" "fail.release_image" "fail.note" "undo.note"
    "destroy.note_begin" "destroy.release_image" "destroy.remove_disk" "destroy.remove_logs" "destroy.bury"
    "image.fetch" "image.read" "image.convert" "image.note_device" "image.commit"
    "exec.start" "rest.note" "rest.note_generation" "event.note" "settle.note"
}

/// For [`step!`], while it compiles.
pub(crate) const fn listed(name: &str) -> bool {
    let mut at = 0;
    while at < STEPS.len() {
        if same(STEPS[at].as_bytes(), name.as_bytes()) {
            return true;
        }
        at += 1;
    }
    false
}

const fn same(a: &[u8], b: &[u8]) -> bool {
    let mut at = 0;
    while at < a.len() && at < b.len() && a[at] == b[at] {
        at += 1;
    }
    at == a.len() && at == b.len()
}

/// An error as the step itself might answer it.
#[cfg_attr(not(debug_assertions), allow(dead_code, reason = "no point ever fails"))]
pub(crate) trait Injected {
    fn injected() -> Self;
}

impl Injected for std::io::Error {
    fn injected() -> Self {
        std::io::Error::other("failpoint")
    }
}

impl Injected for crate::engine::EngineError {
    fn injected() -> Self {
        Self::io("pass a failpoint")(std::io::Error::injected())
    }
}

impl Injected for crate::network::NetworkError {
    fn injected() -> Self {
        Self::Io { doing: "pass a failpoint".into(), source: std::io::Error::injected() }
    }
}

impl Injected for crate::images::ImageError {
    fn injected() -> Self {
        Self::io("pass a failpoint")(std::io::Error::injected())
    }
}

impl Injected for crate::journal::JournalError {
    fn injected() -> Self {
        Self::Sqlite(rusqlite::Error::InvalidQuery)
    }
}

impl Injected for crate::channel::ChannelError {
    fn injected() -> Self {
        Self::Gone
    }
}

impl Injected for crate::runtime::Fault {
    fn injected() -> Self {
        Self::Journal(Injected::injected())
    }
}

impl Injected for crate::runtime::BootEnd {
    fn injected() -> Self {
        crate::engine::EngineError::injected().into()
    }
}

/// Runs a step between its two points.
pub(crate) async fn around<T, E: Injected>(
    before: &'static str,
    after: &'static str,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    reach(before).await?;
    let done = work.await?;
    reach(after).await?;
    Ok(done)
}

/// `step!("boot.claim_slot", future)`: the future, with a point at each end;
/// made and awaited once more where a test asks for it.
macro_rules! step {
    ($name:literal, $work:expr) => {{
        const { assert!(crate::failpoint::listed($name), "the step is not listed in failpoint.rs") };
        async {
            #[cfg(debug_assertions)]
            if crate::failpoint::twice($name) {
                $work.await?;
            }
            crate::failpoint::around(concat!($name, ".before"), concat!($name, ".after"), $work).await
        }
    }};
}
pub(crate) use step;

/// Whether a test wants this step's work done twice.
#[cfg(debug_assertions)]
pub(crate) fn twice(name: &str) -> bool {
    let wanted = armed::take(name).is_some();
    if wanted {
        tracing::warn!(name, "twice");
    }
    wanted
}

#[cfg(not(debug_assertions))]
#[inline]
async fn reach<E: Injected>(_: &str) -> Result<(), E> {
    Ok(())
}

#[cfg(debug_assertions)]
async fn reach<E: Injected>(name: &str) -> Result<(), E> {
    let Some(fault) = armed::take(name) else { return Ok(()) };
    tracing::warn!(name, ?fault, "failpoint");
    match fault {
        armed::Fault::Crash => {
            if let Some(own) = rustix::process::Pid::from_raw(std::process::id().cast_signed()) {
                // SIGKILL: no destructor runs, as in a real crash.
                let _ = rustix::process::kill_process(own, rustix::process::Signal::KILL);
            }
            Ok(())
        }
        armed::Fault::Error => Err(E::injected()),
        armed::Fault::Hang(time) => {
            tokio::time::sleep(time).await;
            Ok(())
        }
        // Of steps alone, which are no points.
        armed::Fault::Twice => Ok(()),
    }
}

#[cfg(debug_assertions)]
mod armed {
    use parking_lot::Mutex;
    use std::collections::BTreeMap;
    use std::sync::OnceLock;
    use std::time::Duration;

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) enum Fault {
        Crash,
        Error,
        Hang(Duration),
        Twice,
    }

    /// What the point or step is to do; a point is told once.
    pub(super) fn take(name: &str) -> Option<Fault> {
        static ARMED: OnceLock<Mutex<BTreeMap<String, Fault>>> = OnceLock::new();
        let mut armed = ARMED
            .get_or_init(|| {
                let text = std::env::var("AETHER_FAILPOINT").unwrap_or_default();
                // A test with a mistake in it must not look like one that passes.
                let armed = parse(&text).unwrap_or_else(|reason| {
                    tracing::error!(reason, "AETHER_FAILPOINT");
                    std::process::abort()
                });
                Mutex::new(armed)
            })
            .lock();
        match armed.get(name) {
            Some(Fault::Twice) => Some(Fault::Twice),
            _ => armed.remove(name),
        }
    }

    pub(super) fn parse(text: &str) -> Result<BTreeMap<String, Fault>, String> {
        text.split(',').filter(|one| !one.is_empty()).map(parse_one).collect()
    }

    fn parse_one(text: &str) -> Result<(String, Fault), String> {
        let (name, what) = text.split_once('=').unwrap_or((text, "crash"));
        if what == "twice" && super::STEPS.contains(&name) {
            return Ok((name.to_owned(), Fault::Twice));
        }
        if !super::POINTS.contains(&name) {
            return Err(format!("{name:?} is no failpoint: see failpoint.rs"));
        }
        let fault = match (what, what.strip_prefix("hang:").map(str::parse)) {
            ("crash", _) => Fault::Crash,
            ("error", _) => Fault::Error,
            (_, Some(Ok(seconds))) => Fault::Hang(Duration::from_secs(seconds)),
            _ => return Err(format!("{what:?} is none of crash, error, hang:SECONDS")),
        };
        Ok((name.to_owned(), fault))
    }
}

#[cfg(test)]
#[path = "failpoint_tests.rs"]
mod tests;
