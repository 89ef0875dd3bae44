//! What to do next with one sandbox. Pure: facts in, an action with its
//! reason out; no I/O, no clock.
//!
//! The same function serves a fresh assignment, a change of mind in
//! mid-flight, a death, a deadline, and the first look after a crash: it sees
//! levels, never edges, so it may be asked at any moment and as often as one
//! likes. Carrying out an action changes the facts; `Rest` means that nothing
//! is to be done until they change.

use crate::journal::Step;
use aether_core::{Desired, Observed};

/// What is known of the VMM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Live {
    /// None was started, or its end was taken in.
    None,
    Alive,
    /// It ended, and nobody asked it to.
    Died,
}

/// Everything that the decision rests on.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    pub desired: Desired,
    /// Of the newest admitted assignment.
    pub generation: u64,
    /// The env of that generation is in memory: a boot can begin.
    pub env_known: bool,
    pub settled: u64,
    pub observed: Observed,
    pub step: Step,
    pub live: Live,
    /// Slot, uid or VMM may still be taken.
    pub holds_run: bool,
    /// A guest event said that the main process ended for good.
    pub main_ended: bool,
    /// The deadline of the present run has passed.
    pub expired: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Rest(Rest),
    Boot,
    /// Ask the guest to end, then kill; keep the disk.
    Stop(StopReason),
    /// The VMM died: take in how, free what it held, keep the disk.
    Bury,
    /// Free what an interrupted run left; the run is not settled by that.
    Undo,
    /// There is no run, and none is wanted: say so.
    Settle,
    /// End at once, erase everything, then gone.
    Destroy,
}

/// Why there is nothing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rest {
    /// Up, as wanted.
    AsWanted,
    /// This generation's run is over; only a newer one begins another.
    Settled,
    /// The env comes with the next desired set.
    AwaitsEnv,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StopReason {
    Asked,
    Expired,
    MainEnded,
}

pub(crate) fn decide(f: &Facts) -> Action {
    if f.desired == Desired::Gone {
        return Action::Destroy;
    }
    if f.step == Step::Erasing {
        // Erasing began and cannot be taken back: half a disk is no disk.
        return Action::Destroy;
    }
    match (f.live, f.step) {
        // From `Identify` on user code may have run: it is not run again.
        (Live::Died, Step::Identify | Step::Up | Step::Stopping) => return Action::Bury,
        (Live::Alive, Step::Up) => return with_run(f),
        // A stop that was cut short goes on, whatever is wanted since.
        (Live::Alive, Step::Stopping) if f.expired => return Action::Stop(StopReason::Expired),
        (Live::Alive, Step::Stopping) => return Action::Stop(StopReason::Asked),
        _ => {}
    }
    if f.holds_run {
        return Action::Undo;
    }
    without_run(f)
}

fn with_run(f: &Facts) -> Action {
    if f.main_ended {
        return Action::Stop(StopReason::MainEnded);
    }
    match f.desired {
        Desired::Stopped => Action::Stop(StopReason::Asked),
        _ if f.expired => Action::Stop(StopReason::Expired),
        // Pausing is not offered by this node's features: a server that asks
        // for it all the same gets what it had.
        _ => Action::Rest(Rest::AsWanted),
    }
}

fn without_run(f: &Facts) -> Action {
    if f.generation <= f.settled {
        let ended = matches!(f.observed, Observed::Stopped | Observed::Failed);
        return if ended { Action::Rest(Rest::Settled) } else { Action::Settle };
    }
    match f.desired {
        Desired::Running if f.env_known => Action::Boot,
        Desired::Running => Action::Rest(Rest::AwaitsEnv),
        _ => Action::Settle,
    }
}

#[cfg(test)]
#[path = "policy_tests.rs"]
mod tests;
