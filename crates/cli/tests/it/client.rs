//! The client against a server that the test plays: what must be sent, and
//! what is made of strange answers.

use crate::{Run, aether};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;

/// Answers one request with these bytes; gives back what was asked.
#[allow(clippy::disallowed_methods, reason = "a server for one request, in a test")]
fn serve_once(answer: &'static str) -> (String, std::thread::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
    let address = format!("http://{}", listener.local_addr().expect("address"));
    let handle = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("accepts");
        let mut request = Vec::new();
        let mut buffer = [0; 4096];
        while !request.windows(4).any(|w| w == b"\r\n\r\n") {
            let count = stream.read(&mut buffer).expect("reads");
            if count == 0 {
                break;
            }
            request.extend_from_slice(&buffer[..count]);
        }
        stream.write_all(answer.as_bytes()).expect("writes");
        String::from_utf8_lossy(&request).into_owned()
    });
    (address, handle)
}

fn ask(dir: &Path, address: &str, args: &[&str]) -> Run {
    let mut all = vec!["--server", address];
    all.extend_from_slice(args);
    aether(dir, &all).env("AETHER_TOKEN", "aether_sk_test").output().expect("starts").into()
}

#[test]
fn the_token_goes_into_the_header_and_names_into_the_path() {
    let dir = tempfile::tempdir().expect("tempdir");
    let (address, server) = serve_once("HTTP/1.1 204 No Content\r\n\r\n");
    let run = ask(dir.path(), &address, &["image", "rm", "ghcr.io/a/b:1"]);
    assert_eq!((run.code, run.stdout.as_str()), (Some(0), "ghcr.io/a/b:1\n"), "{run:?}");
    let request = server.join().expect("served").to_ascii_lowercase();
    assert!(request.starts_with("delete /v1/images/ghcr.io%2fa%2fb%3a1 http/1.1\r\n"), "{request}");
    assert!(request.contains("\r\nauthorization: bearer aether_sk_test\r\n"), "{request}");
    assert!(request.contains("\r\nhost: 127.0.0.1:"), "{request}");
}

#[test]
fn a_problem_is_shown_with_its_remedy_and_as_json_whole() {
    let answer = "HTTP/1.1 409 Conflict\r\ncontent-type: application/problem+json\r\nconnection: close\r\n\r\n\
        {\"type\":\"t\",\"title\":\"T\",\"status\":409,\"detail\":\"the image is \\u001b[31min use\",\"code\":\"CONFLICT\",\
        \"remedy\":\"Destroy its agents.\",\"suggestion\":\"s\",\"retryable\":false}";
    let dir = tempfile::tempdir().expect("tempdir");
    let (address, server) = serve_once(answer);
    let run = ask(dir.path(), &address, &["image", "rm", "a"]);
    server.join().expect("served");
    assert_eq!(run.code, Some(1));
    assert_eq!(run.stderr, "error: the image is \u{fffd}[31min use\nhint: Destroy its agents.\n");
    let (address, server) = serve_once(answer);
    let run = ask(dir.path(), &address, &["-o", "json", "image", "rm", "a"]);
    server.join().expect("served");
    let problem: serde_json::Value = serde_json::from_str(&run.stderr).expect("JSON");
    assert_eq!(problem["code"], "CONFLICT");
}

#[test]
fn strange_answers_are_errors() {
    let dir = tempfile::tempdir().expect("tempdir");
    for (answer, part) in [
        ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello", "cannot be read"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\nhello", "broke off"),
        ("HTTP/1.1 502 Bad Gateway\r\ncontent-length: 5\r\n\r\nnginx", "502 Bad Gateway: nginx"),
        ("SSH-2.0-OpenSSH_9.2\r\n", "failed"),
        ("", "failed"),
        ("HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n", "401"),
    ] {
        let (address, server) = serve_once(answer);
        let run = ask(dir.path(), &address, &["agent", "list"]);
        server.join().expect("served");
        assert_eq!(run.code, Some(1), "{answer:?}: {run:?}");
        assert!(run.stderr.contains(part), "{answer:?}: {run:?}");
    }
}
