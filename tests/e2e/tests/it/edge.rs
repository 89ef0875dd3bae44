//! The proxies of docs/edge.md, taken from the page, in front of a real
//! server: create, list, events and a streamed exec go through each.

use aether_e2e::{LONG, Server, Settings, fenced, repo, wait_for};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

struct Proxy {
    child: Child,
    url: String,
    dir: PathBuf,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // Its workers go with it on a signal, not on a kill.
        let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        let _ = self.child.wait();
    }
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port()
}

fn run(program: &str, args: &[&str]) {
    let out = Command::new(program).args(args).output().unwrap_or_else(|e| panic!("{program}: {e}"));
    assert!(out.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&out.stderr));
}

/// A certificate for loopback; both files in one for HAProxy.
fn certificate(dir: &Path) {
    let at = |name: &str| dir.join(name).to_string_lossy().into_owned();
    let (key, crt) = (at("edge.key"), at("edge.crt"));
    let request = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"];
    let about =
        ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=CA:FALSE"];
    let files = ["-keyout", &key, "-out", &crt];
    run("openssl", &[&request[..], &about, &files].concat());
    let both = [crt, key].map(|f| std::fs::read(f).expect("was made")).concat();
    std::fs::write(dir.join("edge.pem"), both).expect("writes");
}

/// The page's text with this test's ports and folder; each must be there.
fn adapted(page: &str, language: &str, changes: &[(&str, &str)]) -> String {
    let mut text = fenced(page, language).to_owned();
    for (from, to) in changes {
        assert!(text.contains(from), "{language}: {from}");
        text = text.replace(from, to);
    }
    text
}

fn started(program: &str, args: &[&str], port: u16, dir: &Path) -> Proxy {
    let log = std::fs::File::create(dir.join(format!("{program}.log"))).expect("a log");
    let child = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("dup"))
        .stderr(log)
        .spawn()
        .unwrap_or_else(|e| panic!("{program}: {e}"));
    let proxy = Proxy { child, url: format!("https://127.0.0.1:{port}"), dir: dir.to_owned() };
    wait_for(program, LONG, || {
        let answer = proxy.curl(&["-o", "/dev/null", "-w", "%{http_code}"], "/readiness");
        (answer == "200").then_some(())
    });
    proxy
}

impl Proxy {
    fn nginx(page: &str, backend: &str, dir: &Path) -> Self {
        let port = free_port();
        let etc = dir.to_string_lossy().into_owned();
        let listen = format!("listen 127.0.0.1:{port} ssl");
        let snippet =
            adapted(page, "nginx", &[("listen 443 ssl", &listen), ("/etc/aether", &etc), ("127.0.0.1:8080", backend)]);
        let temp = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
        let temp: String = temp.iter().map(|t| format!("{t}_temp_path {etc}/{t};\n")).collect();
        let whole = format!(
            "user root;\ndaemon off;\npid {etc}/nginx.pid;\nerror_log stderr;\nevents {{}}\n\
             http {{\naccess_log off;\n{temp}{snippet}}}\n"
        );
        let conf = dir.join("nginx.conf");
        std::fs::write(&conf, whole).expect("writes");
        let conf = conf.to_string_lossy();
        run("nginx", &["-t", "-c", &conf, "-p", &etc]);
        started("nginx", &["-c", &conf, "-p", &etc], port, dir)
    }

    fn haproxy(page: &str, backend: &str, dir: &Path) -> Self {
        let port = free_port();
        let etc = dir.to_string_lossy().into_owned();
        let bind = format!("bind 127.0.0.1:{port}");
        let snippet =
            adapted(page, "haproxy", &[("bind :443", &bind), ("/etc/aether", &etc), ("127.0.0.1:8080", backend)]);
        let conf = dir.join("haproxy.cfg");
        std::fs::write(&conf, snippet).expect("writes");
        let conf = conf.to_string_lossy();
        run("haproxy", &["-c", "-f", &conf]);
        started("haproxy", &["-db", "-f", &conf], port, dir)
    }

    fn command(&self, more: &[&str], path: &str) -> Command {
        let mut command = Command::new("curl");
        let trust = self.dir.join("edge.crt");
        command.args(["-sS", "-m", "120", "--cacert"]).arg(trust).args(more).arg(format!("{}{path}", self.url));
        command
    }

    fn curl(&self, more: &[&str], path: &str) -> String {
        let out = self.command(more, path).stdin(Stdio::null()).output().expect("curl runs");
        String::from_utf8_lossy(&out.stdout).into_owned()
    }
}

/// Everything that a proxy can break, through one.
fn goes_through(proxy: &Proxy, server: &Server, key: &str, name: &str) {
    let bearer = format!("Authorization: Bearer {key}");
    assert!(proxy.curl(&[], "/v1/agents").contains("UNAUTHORIZED"), "{name}: a key is needed");
    assert_eq!(proxy.curl(&["-o", "/dev/null", "-w", "%{http_code}"], "/metrics"), "404", "{name}");

    // A follower, before there is anything to follow.
    let mut follower = proxy
        .command(&["-N", "-H", &bearer, "-H", "accept: text/event-stream"], "/v1/events?kind=agent.created")
        .stdout(Stdio::piped())
        .spawn()
        .expect("curl runs");
    let mut lines = BufReader::new(follower.stdout.take().expect("piped")).lines();
    std::thread::sleep(std::time::Duration::from_secs(1));

    // It waits longer than any short deadline, and comes back with the proxy's request id.
    let body = format!(r#"{{"name":"{name}","image":"python:3.11","resources":{{"memory_mb":256}}}}"#);
    let json = ["-i", "-H", "content-type: application/json", "-H", &bearer, "-d", &body];
    let created = proxy.curl(&json, "/v1/agents?wait=running");
    let head = created.to_ascii_lowercase();
    assert!(head.contains(" 201") && head.contains("strict-transport-security"), "{name}: {created}");
    let id = head.lines().find_map(|l| l.strip_prefix("x-request-id: ")).expect("a request id").trim().to_owned();
    assert!(!id.starts_with("req"), "{name}: {id}");
    // The log's thread writes a little later than the answer is sent.
    wait_for("the request in the log", LONG, || server.log().contains(&id).then_some(()));

    // The other proxy's agent is told, too.
    let ours = |line: &String| line.starts_with("data:") && line.contains(name);
    wait_for("the event", LONG, || lines.next()?.ok().filter(ours));
    follower.kill().expect("ends");
    follower.wait().expect("ends");
    assert!(proxy.curl(&["-H", &bearer], "/v1/agents").contains(name));
    // An encoded slash stays one.
    let image = proxy.curl(&["-H", &bearer], "/v1/images/docker.io%2Flibrary%2Fpython%3A3.11");
    assert!(image.contains("\"digest\""), "{name}: {image}");

    // A streamed exec: a WebSocket, bytes both ways.
    let mut exec = server
        .cli()
        .command(&["--server", &proxy.url, "exec", "-i", name, "--", "sh", "-c", "cat; exit 3"])
        .env("AETHER_TOKEN", key)
        .env("SSL_CERT_FILE", proxy.dir.join("edge.crt"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("starts");
    let sent = vec![b'x'; 3_000_000];
    let mut input = exec.stdin.take().expect("piped");
    let writer = std::thread::spawn({
        let sent = sent.clone();
        move || input.write_all(&sent)
    });
    let out = exec.wait_with_output().expect("ends");
    writer.join().expect("joins").expect("writes");
    assert_eq!((out.status.code(), out.stdout == sent), (Some(3), true), "{name}");
    assert_eq!(
        proxy.curl(&["-X", "DELETE", "-H", &bearer, "-w", "%{http_code}"], &format!("/v1/agents/{name}")),
        "204"
    );
}

#[test]
fn the_proxies_of_the_page_let_everything_through() {
    let port = free_port();
    let backend = format!("127.0.0.1:{port}");
    let server = Server::with_image(Settings::default().with("server.address", &backend));
    let key = std::fs::read_to_string(server.path("state/admin.key")).expect("the first key");
    let page = std::fs::read_to_string(repo().join("docs/edge.md")).expect("the page");
    let dir = server.path("edge");
    std::fs::create_dir_all(&dir).expect("mkdir");
    certificate(&dir);
    std::thread::scope(|scope| {
        for name in ["nginx", "haproxy"] {
            let (page, backend, dir, server, key) = (&page, &backend, &dir, &server, key.trim());
            scope.spawn(move || {
                let proxy = match name {
                    "nginx" => Proxy::nginx(page, backend, dir),
                    _ => Proxy::haproxy(page, backend, dir),
                };
                goes_through(&proxy, server, key, name);
            });
        }
    });
    assert_eq!(server.finish(), Vec::<String>::new());
}
