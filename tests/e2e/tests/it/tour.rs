//! The tour of the README: what a new user types, and what it answers.

use aether_e2e::{Server, Settings};

#[test]
fn run_prints_the_answer_and_leaves_nothing() {
    let server = Server::with_image(Settings::default());
    let cli = server.cli();
    assert_eq!(cli.ok(&["run", "python:3.11", "--", "python3", "-c", "print(6*7)"]), "42\n");
    assert_eq!(cli.run(&["run", "python:3.11", "--", "sh", "-c", "exit 7"]).code, Some(7));
    assert_eq!(cli.ok(&["agent", "list", "--quiet"]), "");
    assert_eq!(server.finish(), Vec::<String>::new());
}
