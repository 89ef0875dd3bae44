//! The README's quickstart, and the worked examples: run as their pages say.
//! What the examples print is what their pages show.

use aether_e2e::{Server, Settings, aether_bin, demo_dir, fenced, repo};
use std::process::{Command, Stdio};
use std::sync::Mutex;

/// The longest begin first, from the end.
const EXAMPLES: [&str; 5] = ["llm-agent", "code-interpreter", "function", "multi-tenant", "ci-job"];

/// Pages call `aether` as users do.
fn path_with_aether(server: &Server) -> String {
    let bin = server.path("bin");
    std::fs::create_dir_all(&bin).expect("mkdir");
    std::os::unix::fs::symlink(aether_bin(), bin.join("aether")).expect("links");
    format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default())
}

fn socket(server: &Server) -> String {
    server.path("run/aether.sock").to_string_lossy().into_owned()
}

#[test]
fn the_quickstart_works_as_it_stands() {
    let server = Server::start(Settings::default());
    let page = std::fs::read_to_string(repo().join("README.md")).expect("the README");
    // Where the page is, but for the files that it makes.
    let folder = server.path("clone");
    std::fs::create_dir_all(folder.join("target")).expect("mkdir");
    std::os::unix::fs::symlink(demo_dir(), folder.join("target/demo")).expect("links");
    let output = Command::new("bash")
        .args(["-c", &format!("set -euxo pipefail\n{}", fenced(&page, "sh"))])
        .current_dir(&folder)
        .env("PATH", path_with_aether(&server))
        .env("AETHER_SERVER", format!("unix://{}", socket(&server)))
        .stdin(Stdio::null())
        .output()
        .expect("bash runs");
    let (printed, told) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{printed}\n{told}");
    for part in ["42\n", "from my machine\n", "hello.py\n", "my-first-agent", "agent.created"] {
        assert!(printed.contains(part), "{part}: {printed}\n{told}");
    }
    assert_eq!(server.finish(), Vec::<String>::new());
}

fn run(name: &str, socket: &str, path: &str) -> Result<(), String> {
    let folder = repo().join("examples").join(name);
    let page = std::fs::read_to_string(folder.join("README.md")).expect("each example has a page");
    let output = Command::new("bash")
        .args(["-c", &format!("set -euo pipefail\n{}", fenced(&page, "sh"))])
        .current_dir(&folder)
        .env("PATH", path)
        .env("AETHER_SERVER", format!("unix://{socket}"))
        // Else Python leaves its compiled form in the repository.
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdin(Stdio::null())
        .output()
        .expect("bash runs");
    let printed = String::from_utf8_lossy(&output.stdout);
    if std::env::var_os("UPDATE_DOCS").is_some() && output.status.success() {
        let (old, new) = (format!("```text\n{}", fenced(&page, "text")), format!("```text\n{printed}"));
        std::fs::write(folder.join("README.md"), page.replacen(&old, &new, 1)).expect("writes the page");
        return Ok(());
    }
    if output.status.success() && printed == fenced(&page, "text") {
        return Ok(());
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    Err(format!("{name}: {}\n--- printed\n{printed}--- on standard error\n{errors}", output.status))
}

#[test]
fn every_example_does_what_its_page_shows() {
    let server = Server::with_image(Settings::default());
    let (path, socket) = (path_with_aether(&server), socket(&server));

    let folders = std::fs::read_dir(repo().join("examples")).expect("the folder");
    let mut there: Vec<String> =
        folders.flatten().filter(is_example).map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    there.sort();
    let mut known: Vec<String> = EXAMPLES.map(str::to_owned).into();
    known.sort();
    assert_eq!(there, known, "each folder is run");

    // Two at a time: boots of one overlap with the waiting of another.
    let (left, failed) = (Mutex::new(EXAMPLES.to_vec()), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let Some(name) = left.lock().expect("not poisoned").pop() else { return };
                    if let Err(told) = run(name, &socket, &path) {
                        failed.lock().expect("not poisoned").push(told);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().expect("not poisoned");
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    assert_eq!(server.cli().ok(&["agent", "list", "--quiet"]), "", "each example tidies up");
    assert_eq!(server.finish(), Vec::<String>::new());
}

fn is_example(entry: &std::fs::DirEntry) -> bool {
    entry.path().join("README.md").exists()
}
