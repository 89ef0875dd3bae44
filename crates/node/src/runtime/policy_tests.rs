//! The policy against a model of the world: whatever the state, the wish and
//! the moment of a crash, it converges to what is wanted, and holds nothing
//! that is not.

use super::*;
use proptest::prelude::*;

/// A sandbox and its surroundings, as far as the policy can tell.
#[derive(Clone, Debug)]
struct World {
    f: Facts,
    disk: bool,
    gone: bool,
    /// Runs of user code begun for each generation; never two for one.
    begun: Vec<u64>,
}

/// What carrying out an action does, cut short after `steps` journaled steps.
fn act(w: &mut World, action: Action, steps: usize) {
    let done = |n: usize| steps > n;
    match action {
        Action::Rest(_) => {}
        Action::Settle => {
            w.f.settled = w.f.generation;
            if !matches!(w.f.observed, Observed::Stopped | Observed::Failed) {
                w.f.observed = Observed::Stopped;
            }
        }
        Action::Boot => {
            w.f.observed = Observed::Creating;
            for (n, step) in [Step::Image, Step::Queued, Step::Slot, Step::Disk, Step::Vmm, Step::Guest, Step::Identify]
                .into_iter()
                .enumerate()
            {
                if !done(n) {
                    return;
                }
                w.f.step = step;
                match step {
                    Step::Slot => w.f.holds_run = true,
                    Step::Disk => w.disk = true,
                    Step::Guest => w.f.live = Live::Alive,
                    Step::Identify => w.begun.push(w.f.generation),
                    _ => {}
                }
            }
            w.f.step = Step::Up;
            w.f.observed = Observed::Running;
            w.f.main_ended = false;
            w.f.expired = false;
        }
        Action::Stop(_) => {
            w.f.step = Step::Stopping;
            w.f.observed = Observed::Stopping;
            if !done(0) {
                return;
            }
            end_run(w, Observed::Stopped);
        }
        Action::Bury => end_run(w, Observed::Failed),
        Action::Undo => {
            if !done(0) {
                return;
            }
            w.f.live = Live::None;
            w.f.holds_run = false;
            w.f.step = Step::Idle;
        }
        Action::Destroy => {
            w.f.step = Step::Erasing;
            if !done(0) {
                return;
            }
            w.f.live = Live::None;
            w.f.holds_run = false;
            if !done(1) {
                return;
            }
            w.disk = false;
            w.gone = true;
        }
    }
}

fn end_run(w: &mut World, observed: Observed) {
    w.f.live = Live::None;
    w.f.holds_run = false;
    w.f.step = Step::Idle;
    w.f.observed = observed;
    w.f.settled = w.f.settled.max(w.f.generation);
}

/// A daemon that crashed comes back: it knows the journal and what lives. The
/// runtime takes a run whose guest has its identity for up.
fn restart(w: &mut World) {
    w.f.env_known = false;
    if w.f.step == Step::Identify && w.begun.last() == Some(&w.f.generation) && w.f.live == Live::Alive {
        w.f.step = Step::Up;
    }
}

fn converge(w: &mut World) -> Result<(), TestCaseError> {
    for _ in 0..12 {
        if w.gone {
            return Ok(());
        }
        let action = decide(&w.f);
        if let Action::Rest(why) = action {
            if why == Rest::AwaitsEnv {
                // The next desired set brings it.
                w.f.env_known = true;
                continue;
            }
            return Ok(());
        }
        act(w, action, usize::MAX);
    }
    Err(TestCaseError::fail(format!("does not come to rest: {w:?}")))
}

fn check_rest(w: &World) -> Result<(), TestCaseError> {
    match w.f.desired {
        Desired::Gone => prop_assert!(w.gone && !w.disk && !w.f.holds_run),
        _ if w.gone => prop_assert!(!w.disk && !w.f.holds_run),
        Desired::Stopped => {
            prop_assert!(!w.f.holds_run && w.f.live == Live::None, "stopped holds a run: {w:?}");
            prop_assert!(matches!(w.f.observed, Observed::Stopped | Observed::Failed));
        }
        _ => {
            let up = w.f.step == Step::Up && w.f.live == Live::Alive && w.f.observed == Observed::Running;
            let over = w.f.settled >= w.f.generation && !w.f.holds_run;
            prop_assert!(up || over, "neither up nor over: {w:?}");
        }
    }
    let mut begun = w.begun.clone();
    begun.dedup();
    prop_assert_eq!(&begun, &w.begun, "user code began twice for one generation");
    Ok(())
}

#[derive(Clone, Debug)]
enum Event {
    Wish(Desired),
    /// The server sends the same again.
    Repeat,
    Crash(usize),
    Dies,
    MainEnds,
    Expires,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        prop_oneof![Just(Desired::Running), Just(Desired::Stopped), Just(Desired::Gone)].prop_map(Event::Wish),
        Just(Event::Repeat),
        (0usize..9).prop_map(Event::Crash),
        Just(Event::Dies),
        Just(Event::MainEnds),
        Just(Event::Expires),
    ]
}

fn fresh() -> World {
    World {
        f: Facts {
            desired: Desired::Running,
            generation: 1,
            env_known: true,
            settled: 0,
            observed: Observed::Pending,
            step: Step::Idle,
            live: Live::None,
            holds_run: false,
            main_ended: false,
            expired: false,
        },
        disk: false,
        gone: false,
        begun: Vec::new(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_history_converges(events in proptest::collection::vec(event(), 0..14)) {
        let mut w = fresh();
        for event in events {
            if w.gone {
                break;
            }
            match event {
                Event::Wish(desired) => {
                    w.f.desired = desired;
                    w.f.generation += 1;
                    w.f.env_known = true;
                }
                Event::Repeat => w.f.env_known = true,
                Event::Crash(steps) => {
                    let action = decide(&w.f);
                    act(&mut w, action, steps);
                    restart(&mut w);
                    continue;
                }
                Event::Dies if w.f.live == Live::Alive => w.f.live = Live::Died,
                Event::MainEnds if w.f.step == Step::Up => w.f.main_ended = true,
                Event::Expires if w.f.step == Step::Up => w.f.expired = true,
                _ => {}
            }
            converge(&mut w)?;
            check_rest(&w)?;
        }
        converge(&mut w)?;
        check_rest(&w)?;
    }

    /// From any mixture of facts at all, also ones that no history yields.
    #[test]
    fn any_state_converges(
        desired in prop_oneof![Just(Desired::Running), Just(Desired::Stopped), Just(Desired::Paused), Just(Desired::Gone)],
        step in proptest::sample::select(Step::ALL.to_vec()),
        observed in proptest::sample::select(Observed::ALL.to_vec()),
        live in prop_oneof![Just(Live::None), Just(Live::Alive), Just(Live::Died)],
        (generation, settled) in (0u64..4, 0u64..4),
        (env_known, main_ended, expired) in any::<(bool, bool, bool)>(),
    ) {
        let holds_run = live != Live::None;
        let f = Facts { desired, generation, env_known, settled, observed, step, live, holds_run, main_ended, expired };
        let mut w = World { f, ..fresh() };
        converge(&mut w)?;
    }
}

#[test]
fn a_run_that_ended_is_not_begun_again_for_the_same_generation() {
    let mut w = fresh();
    act(&mut w, Action::Boot, usize::MAX);
    w.f.main_ended = true;
    assert_eq!(decide(&w.f), Action::Stop(StopReason::MainEnded));
    act(&mut w, Action::Stop(StopReason::MainEnded), usize::MAX);
    assert_eq!(decide(&w.f), Action::Rest(Rest::Settled));
    w.f.generation += 1;
    assert_eq!(decide(&w.f), Action::Boot);
}

#[test]
fn what_began_to_be_erased_is_erased() {
    let mut w = fresh();
    w.f.desired = Desired::Gone;
    act(&mut w, Action::Destroy, 1);
    w.f.desired = Desired::Running;
    w.f.generation += 1;
    assert_eq!(decide(&w.f), Action::Destroy);
}
