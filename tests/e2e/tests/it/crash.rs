//! The server dies by `kill -9`; sandboxes and their execs do not.

use aether_e2e::{Counted, Dice, LONG, Server, Settings, trials, wait_for};

#[test]
fn sandboxes_and_execs_survive_a_killed_server() {
    let mut counted = Counted::new("crash", 13, "kill -9 of the server with a live exec stream", 0);
    counted.n = 1;
    let mut server = Server::with_image(Settings::default());
    let cli = server.cli();
    cli.ok(&["agent", "create", "--name", "keeper", "--image", "python:3.11", "--wait"]);
    let boot_id = cli.ok(&["agent", "exec", "keeper", "--", "cat", "/proc/sys/kernel/random/boot_id"]);
    let script = "i=0; while [ $i -lt 400 ]; do i=$((i+1)); echo tick $i; sleep 0.1; done; exit 9";
    let mut live = cli
        .command(&["agent", "exec", "keeper", "--", "sh", "-c", script])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("starts");
    wait_for("the exec to run", LONG, || {
        let execs = cli.json(&["agent", "execs", "keeper"]);
        execs.as_array().is_some_and(|l| l.iter().any(|e| e["state"] == "running")).then_some(())
    });
    let vmms = server.vmms();
    server.crash();
    counted.faults += 1;
    assert_eq!(server.vmms(), vmms, "the VMM outlives the server");
    let _ = live.wait();
    server.launch();

    cli.wait_status("keeper", "running");
    assert_eq!(server.vmms(), vmms, "adopted, not restarted");
    let again = wait_for("the guest to answer", LONG, || {
        let run = cli.run(&["agent", "exec", "keeper", "--", "cat", "/proc/sys/kernel/random/boot_id"]);
        (run.code == Some(0)).then_some(run.stdout)
    });
    assert_eq!(again, boot_id);
    // The exec went on; attaching again gives its output from the first byte and its exit code.
    let execs = cli.json(&["agent", "execs", "keeper"]);
    let ticking = execs.as_array().expect("a list").iter().find(|e| e["command"].to_string().contains("tick"));
    let exec_id = ticking.expect("still known")["exec_id"].as_str().expect("id").to_owned();
    let rest = cli.run(&["agent", "exec", "--attach", &exec_id, "keeper"]);
    assert_eq!(rest.code, Some(9), "{}", rest.stderr);
    let ticks: Vec<_> = rest.stdout.lines().collect();
    assert_eq!(ticks.first().copied(), Some("tick 1"));
    assert_eq!(ticks.len(), 400, "nothing lost, nothing twice");
    assert_eq!(server.finish(), Vec::<String>::new());
}

#[test]
fn a_server_killed_at_random_moments_leaves_store_and_host_in_agreement() {
    let mut server = Server::with_image(Settings::default());
    let cli = server.cli();
    let seed = aether_e2e::seed();
    let mut counted = Counted::new("crash", 8, "kill -9 of the server at random moments of create and destroy", seed);
    let mut dice = Dice::new(seed);
    let rounds = trials("AETHER_CRASHES", 4);
    for round in 0..rounds {
        let name = format!("r{round}");
        cli.run(&["agent", "create", "--name", &name, "--image", "python:3.11", "--memory", "128"]);
        if round % 2 == 1 {
            cli.run(&["agent", "destroy", "--yes", &format!("r{}", round - 1)]);
        }
        std::thread::sleep(std::time::Duration::from_millis(dice.roll(3000)));
        server.crash();
        (counted.n, counted.faults) = (counted.n + 1, counted.faults + 1);
        server.launch();
    }
    // Whatever was acknowledged is as it was asked, and what runs is what the store says runs.
    wait_for("all to settle", LONG, || {
        let list = cli.json(&["agent", "list"]);
        let agents = list["data"].as_array().or(list.as_array())?.clone();
        let running = agents.iter().filter(|a| a["status"] == "running").count();
        let settled = agents.iter().all(|a| a["status"] == "running");
        (settled && running == server.vmms().len()).then_some(())
    });
    assert_eq!(server.finish(), Vec::<String>::new());
}
