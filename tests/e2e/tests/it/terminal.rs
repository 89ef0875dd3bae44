//! `-it` as a person uses it: sizes, ctrl-C, detach, exit codes.

use aether_e2e::{LONG, Pty, Server, Settings};

#[test]
fn a_terminal_resizes_interrupts_detaches_and_exits() {
    let server = Server::with_image(Settings::default());
    let cli = server.cli();
    cli.ok(&["agent", "create", "--name", "box", "--image", "python:3.11", "--wait"]);

    let mut tty = Pty::spawn(cli.command(&["agent", "exec", "-it", "box", "--", "bash", "--norc"]), 100, 30);
    tty.type_text("stty size\n");
    tty.expect("30 100", LONG);
    tty.resize(77, 22);
    tty.type_text("sleep 1; stty size\n");
    tty.expect("22 77", LONG);
    // ctrl-C goes to the guest's foreground job, not to the CLI.
    tty.type_text("sleep 1000\n");
    std::thread::sleep(std::time::Duration::from_secs(2));
    tty.type_text("\x03");
    tty.type_text("echo interrupted=$?\n");
    tty.expect("interrupted=130", LONG);
    tty.type_text("echo still-$((40+2))\n");
    tty.expect("still-42", LONG);
    // Detach, then attach again to the same shell.
    tty.type_text("MARK=kept-over; echo set\n");
    tty.expect("set", LONG);
    tty.type_text("\x10\x11");
    assert_eq!(tty.wait(LONG), Some(0));
    let execs = cli.json(&["agent", "execs", "box"]);
    let running = execs.as_array().expect("a list").iter().find(|e| e["state"] == "running").expect("one runs");
    let exec_id = running["exec_id"].as_str().expect("an id").to_owned();
    let mut again = Pty::spawn(cli.command(&["agent", "exec", "-it", "--attach", &exec_id, "box"]), 80, 24);
    again.type_text("echo again-$MARK\n");
    again.expect("again-kept-over", LONG);
    again.type_text("exit 3\n");
    assert_eq!(again.wait(LONG), Some(3));
    assert_eq!(server.finish(), Vec::<String>::new());
}

#[test]
fn standard_input_reaches_a_command() {
    let server = Server::with_image(Settings::default());
    let cli = server.cli();
    let input = server.path("input");
    let text = "a line\n".repeat(50_000);
    std::fs::write(&input, &text).expect("writes");
    let out = cli
        .command(&["run", "-i", "python:3.11", "--", "sh", "-c", "cat; echo done >&2"])
        .stdin(std::fs::File::open(&input).expect("opens"))
        .output()
        .expect("runs");
    assert!(out.stdout == text.as_bytes(), "{} bytes came back of {}", out.stdout.len(), text.len());
    assert_eq!(out.status.code(), Some(0));
    assert_eq!(server.finish(), Vec::<String>::new());
}
