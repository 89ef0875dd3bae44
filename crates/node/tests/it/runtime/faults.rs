//! Death of the node, of a guest, of the control plane; guests that never
//! answer; more than fits.

use super::exec::{open, run, start_message};
use super::spec;
use super::world::World;
use aether_proto::node as wire;
use aether_proto::node::exec_request::Message as Ask;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_node_adopts_its_sandboxes_and_their_execs() {
    let mut world = World::new("adopt").await;
    world.import("one:v1", "one").await;
    let agent = world.server.create(&spec("one:v1"));
    world.server.observed(&agent, "running").await;
    let mut data = world.data().await;
    let boot_id = run(&mut data, &agent, &["/bin/cat", "/proc/sys/kernel/random/boot_id"]).await.stdout;
    let script = "n=0; while true; do n=$((n+1)); echo $n; test $n = 40 && exit 9; sleep 0.2; done";
    let mut live =
        open(&mut data, Ask::Start(start_message(&agent, &["/bin/sh", "-c", script]))).await.expect("starts");
    live.read_until(|r| r.stdout.ends_with("3\n")).await.expect("counts");
    world.kill();
    let _ = live.read_until(|_| false).await;
    let seen = live.ran.stdout.clone();
    let (id, offset) = (live.id.clone(), live.ran.next_offset);
    world.start(None);
    assert_eq!(world.server.hello(2).await.node_epoch, 2);
    let mut data = world.data().await;
    let attach = || Ask::Attach(wire::ExecAttach { agent_id: agent.clone(), exec_id: id.clone(), offset });
    let mut again = loop {
        match open(&mut data, attach()).await {
            Ok(live) => break live,
            Err(e) if matches!(e.code(), tonic::Code::Unavailable | tonic::Code::FailedPrecondition) => {
                tokio::time::sleep(Duration::from_millis(50)).await
            }
            Err(e) => panic!("{e}"),
        }
    };
    again.read_until(|_| false).await.expect("ends");
    let all: Vec<String> = (seen + &again.ran.stdout).lines().map(str::to_owned).collect();
    assert_eq!(all, (1..=40).map(|n| n.to_string()).collect::<Vec<_>>(), "no line lost or twice");
    assert_eq!(again.ran.code, Some(9));
    let same = run(&mut data, &agent, &["/bin/cat", "/proc/sys/kernel/random/boot_id"]).await.stdout;
    assert_eq!(same, boot_id, "the guest was not restarted");

    // Now the guest dies in mid-exec: the outcome is unknown, the agent failed.
    let mut live = open(&mut data, Ask::Start(start_message(&agent, &["/bin/sh", "-c", "echo on; sleep 1000"])))
        .await
        .expect("starts");
    live.read_until(|r| r.stdout == "on\n").await.expect("runs");
    world.kill_vmm();
    live.read_until(|_| false).await.expect("ends");
    assert!(live.ran.unknown.is_some() && live.ran.code.is_none(), "{:?}", live.ran);
    let report = world.server.observed(&agent, "failed").await;
    assert_eq!(report.error_code, "SANDBOX_DIED");
    world.server.want(&agent, "gone");
    world.server.observed(&agent, "gone").await;
    world.assert_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_never_answers_is_failed_in_time() {
    // A kernel without our guest: busybox as the first process.
    let mut world = World::with("mute", |setup| {
        setup.guest = "/bin/busybox".into();
        setup.boot_timeout_ms = 1500;
    })
    .await;
    world.import("one:v1", "one").await;
    let agent = world.server.create(&spec("one:v1"));
    let report = world.server.observed(&agent, "failed").await;
    assert!(["BOOT_TIMEOUT", "BOOT_FAILED"].contains(&report.error_code.as_str()), "{report:?}");
    assert_eq!(world.server.states_of(&agent), ["creating", "failed"]);
    world.server.want(&agent, "gone");
    world.server.observed(&agent, "gone").await;
    world.assert_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn time_to_live_is_kept_while_the_control_plane_is_away() {
    let mut world = World::new("ttl").await;
    world.import("one:v1", "one").await;
    let mut short = spec("one:v1");
    short.ttl_s = Some(6);
    let agent = world.server.create(&short);
    let started = world.server.observed(&agent, "running").await.started_at_ms.expect("started");
    world.silence();
    tokio::time::sleep(Duration::from_secs(14)).await;
    world.serve();
    let report = world.server.observed(&agent, "stopped").await;
    let lived = report.stopped_at_ms.expect("stopped") - started;
    assert!((6_000..14_000).contains(&lived), "it lived {lived} ms");
    world.server.want(&agent, "gone");
    world.server.observed(&agent, "gone").await;
    world.assert_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn eight_at_once_boot_two_by_two_and_the_queue_is_seen() {
    let mut world = World::new("queue").await;
    world.import("one:v1", "one").await;
    let agents: Vec<String> = (0..8).map(|_| world.server.create(&spec("one:v1"))).collect();
    for agent in &agents {
        world.server.observed(agent, "running").await;
    }
    let beats = world.server.beats();
    assert!(beats.iter().all(|b| b.boots_running <= 2), "{beats:?}");
    assert!(beats.iter().any(|b| b.boots_queued > 0), "{beats:?}");
    // Who stands where is decided by who reached the queue first, not by who was created first.
    let positions = |agent: &String| -> Vec<u32> {
        world.server.reports_of(agent).iter().map(|r| r.queue_position).filter(|p| *p > 0).collect()
    };
    let seen: Vec<Vec<u32>> = agents.iter().map(positions).collect();
    assert!(seen.iter().all(|p| p.is_sorted_by(|a, b| a >= b)), "{seen:?}");
    assert!(seen.iter().any(|p| !p.is_empty()), "{seen:?}");
    for agent in &agents {
        world.server.want(agent, "gone");
    }
    for agent in &agents {
        world.server.observed(agent, "gone").await;
    }
    world.assert_nothing_left().await;
}
