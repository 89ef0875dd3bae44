//! The tour of the README: what a new user types, and what it answers.

use aether_e2e::{Server, Settings, demo_dir};

#[test]
fn run_prints_the_answer_and_leaves_nothing() {
    let server = Server::with_image(Settings::default());
    let cli = server.cli();
    assert_eq!(cli.ok(&["run", "python:3.11", "--", "python3", "-c", "print(6*7)"]), "42\n");
    let seven = cli.run(&["run", "python:3.11", "--", "sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!((seven.code, seven.stdout.as_str()), (Some(7), "out\n"));
    assert!(seven.stderr.contains("err\n"), "{}", seven.stderr);
    assert_eq!(cli.ok(&["agent", "list", "--quiet"]), "");
    assert_eq!(server.finish(), Vec::<String>::new());
}

#[test]
fn an_agent_lives_through_its_whole_life() {
    let server = Server::with_image(Settings::default());
    let cli = server.cli();
    let strange = "quotes \" ' and\nnewlines = $HOME";
    let env = format!("STRANGE={strange}");
    cli.ok(&["agent", "create", "--name", "my-first-agent", "--image", "python:3.11", "--env", &env, "--wait"]);

    let info = cli.json(&["agent", "get", "my-first-agent"]);
    assert_eq!(info["status"], "running");
    assert_eq!(info["env_names"], serde_json::json!(["STRANGE"]));
    assert!(!info.to_string().contains("newlines"), "values of env are not shown");
    assert!(["vm-kvm", "vm-emulated"].contains(&info["isolation"].as_str().expect("isolation")));
    let id = info["id"].as_str().expect("id").to_owned();

    // By name and by id; env arrives byte for byte; the guest has a kernel and a name of its own.
    assert_eq!(cli.ok(&["agent", "exec", &id, "--", "printenv", "STRANGE"]), format!("{strange}\n"));
    let kernel = cli.ok(&["agent", "exec", "my-first-agent", "--", "uname", "-r"]);
    let host = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("reads");
    assert_ne!(kernel.trim(), host.trim());
    assert_eq!(cli.ok(&["agent", "exec", "my-first-agent", "--", "hostname"]), "my-first-agent\n");
    assert_eq!(cli.ok(&["agent", "exec", "--user", "user", "my-first-agent", "--", "sudo", "id", "-u"]), "0\n");
    assert!(cli.ok(&["agent", "health", "my-first-agent"]).contains("healthy"));

    // Files both ways, one and a folder.
    let folder = server.path("folder");
    std::fs::create_dir_all(folder.join("sub")).expect("creates");
    let bytes: Vec<u8> = (0..1_000_000u32).map(|i| (i % 251) as u8).collect();
    std::fs::write(folder.join("sub/data.bin"), &bytes).expect("writes");
    let (from, back) = (folder.to_string_lossy().into_owned(), server.path("back").to_string_lossy().into_owned());
    cli.ok(&["agent", "cp", &from, "my-first-agent:/root/"]);
    let size = cli.ok(&["agent", "exec", "my-first-agent", "--", "stat", "-c", "%s", "/root/folder/sub/data.bin"]);
    assert_eq!(size, "1000000\n");
    cli.ok(&["agent", "cp", "my-first-agent:/root/folder/sub/data.bin", &back]);
    assert!(std::fs::read(server.path("back")).expect("reads") == bytes);

    // The disk outlives a stop; processes do not.
    cli.ok(&["agent", "stop", "my-first-agent"]);
    cli.wait_status("my-first-agent", "stopped");
    assert!(server.vmms().is_empty());
    cli.ok(&["agent", "start", "my-first-agent", "--wait"]);
    let size = cli.ok(&["agent", "exec", "my-first-agent", "--", "stat", "-c", "%s", "/root/folder/sub/data.bin"]);
    assert_eq!(size, "1000000\n");

    cli.ok(&["agent", "destroy", "--yes", "my-first-agent"]);
    assert_eq!(cli.status("my-first-agent"), "gone");
    assert_eq!(server.finish(), Vec::<String>::new());
}

#[test]
fn a_main_process_has_logs_and_an_exit_code() {
    let server = Server::with_image(Settings::default());
    let cli = server.cli();
    let script = "for i in 1 2 3; do echo line $i; done; echo oops >&2; sleep 2; exit 5";
    cli.ok(&["agent", "create", "--name", "worker", "--image", "python:3.11", "--wait", "--", "sh", "-c", script]);
    let logs = cli.ok(&["agent", "logs", "-f", "worker"]);
    for line in ["line 1", "line 2", "line 3", "oops"] {
        assert!(logs.contains(line), "{logs}");
    }
    cli.wait_status("worker", "stopped");
    assert_eq!(cli.json(&["agent", "get", "worker"])["exit_code"], 5);
    assert_eq!(server.finish(), Vec::<String>::new());
}

#[test]
fn two_images_side_by_side_are_apart() {
    let server = Server::with_image(Settings::default());
    let cli = server.cli();
    let other = server.path("other.tar");
    let status = std::process::Command::new(aether_e2e::repo().join("tests/e2e/busybox-image.sh"))
        .arg(&other)
        .status()
        .expect("the script runs");
    assert!(status.success());
    cli.ok(&["image", "import", "--name", "tiny:1", &other.to_string_lossy()]);
    let names = cli.ok(&["image", "list"]);
    assert!(names.contains("python:3.11") && names.contains("tiny:1"), "{names}");

    cli.ok(&["agent", "create", "--name", "a", "--image", "python:3.11", "--wait"]);
    cli.ok(&["agent", "create", "--name", "b", "--image", "tiny:1", "--wait"]);
    let release = |agent: &str| cli.ok(&["agent", "exec", agent, "--", "cat", "/etc/os-release"]);
    assert!(release("a").contains("Debian") && release("b").contains("ID=tiny"));
    cli.ok(&["agent", "exec", "a", "--", "sh", "-c", "echo mine > /tmp/mark && echo mine > /etc/mark"]);
    for path in ["/tmp/mark", "/etc/mark"] {
        assert_eq!(cli.run(&["agent", "exec", "b", "--", "test", "-e", path]).code, Some(1), "{path}");
    }
    // A third from the same image as the first does not see its writes either.
    assert_eq!(cli.run(&["run", "python:3.11", "--", "test", "-e", "/etc/mark"]).code, Some(1));
    assert!(cli.run(&["image", "rm", "tiny:1"]).stderr.contains("in use"));
    cli.ok(&["agent", "destroy", "--yes", "b"]);
    aether_e2e::wait_for("the image to be free", aether_e2e::LONG, || {
        (cli.run(&["image", "rm", "tiny:1"]).code == Some(0)).then_some(())
    });
    assert_eq!(server.finish(), Vec::<String>::new());
}

#[test]
fn a_folder_with_links_goes_in_and_comes_out() {
    let server = Server::with_image(Settings::default());
    let cli = server.cli();
    cli.ok(&["agent", "create", "--name", "a", "--image", "python:3.11", "--wait"]);
    // As a virtual environment: the interpreter is an absolute link.
    let (folder, back) = (server.path("venv"), server.path("back"));
    std::fs::create_dir_all(folder.join("bin")).expect("mkdir");
    std::fs::write(folder.join("data"), b"hello").expect("write");
    for (target, link) in [("/bin/sh", "bin/shell"), ("../data", "bin/data"), ("/no/such", "broken")] {
        std::os::unix::fs::symlink(target, folder.join(link)).expect("symlink");
    }
    cli.ok(&["cp", &folder.to_string_lossy(), "a:/opt/venv"]);
    assert_eq!(cli.ok(&["agent", "exec", "a", "--", "/opt/venv/bin/shell", "-c", "cat /opt/venv/bin/data"]), "hello");
    cli.ok(&["cp", "a:/opt/venv", &back.to_string_lossy()]);
    for link in ["bin/shell", "bin/data", "broken"] {
        let target = |root: &std::path::Path| std::fs::read_link(root.join(link)).expect("a link");
        assert_eq!(target(&back), target(&folder), "{link}");
    }
    assert_eq!(server.finish(), Vec::<String>::new());
}

#[test]
fn an_image_comes_from_a_folder_too() {
    let server = Server::start(Settings::default());
    let cli = server.cli();
    let layout = demo_dir().join("python");
    cli.ok(&["image", "import", &layout.to_string_lossy()]);
    let image = cli.json(&["image", "inspect", "python:3.11"]);
    assert_eq!(image["state"], "ready");
    cli.ok(&["image", "rm", "python:3.11"]);
    let missing = cli.run(&["image", "inspect", "python:3.11"]);
    assert_eq!(missing.code, Some(1));
    assert_eq!(server.finish(), Vec::<String>::new());
}
