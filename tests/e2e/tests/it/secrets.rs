//! Secrets in real guests: where they arrive, and (test 5) that no canary is
//! in any place where none may be.

use aether_canaries::bao::Bao;
use aether_canaries::{Search, canary};
use aether_e2e::{Cli, Counted, LONG, Server, Settings, files, hits_in, http, memory, tiny_image, wait_for};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

fn start(settings: Settings) -> Server {
    let server = Server::start(settings);
    let image = tiny_image(server.dir.path(), "secrets");
    server.cli().ok(&["image", "import", "--name", "tiny:1", &image.to_string_lossy()]);
    server
}

/// As a user does it: the value on standard input.
fn set(cli: &Cli, name: &str, value: &str) {
    let mut child =
        cli.command(&["secret", "set", name]).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("starts");
    child.stdin.take().expect("a pipe").write_all(format!("{value}\n").as_bytes()).expect("writes");
    assert!(child.wait().expect("ends").success(), "secret set {name}");
}

const SMALL: [&str; 6] = ["--image", "tiny:1", "--memory", "128", "--disk", "1024"];

#[test]
fn a_run_gets_its_secrets_as_variables_and_files() {
    let server = start(Settings::default());
    let cli = server.cli();
    set(&cli, "DB", "first value");
    set(&cli, "cert", "line one\nline two");
    let refused = cli.run(&[&["agent", "create", "--name", "none"], &SMALL[..], &["--secret", "NONE"]].concat());
    assert!(refused.code == Some(1) && refused.stderr.contains("secrets[0].name"), "{}", refused.stderr);

    let named = ["--name", "one", "--user", "1000", "--wait"];
    let secrets = [
        "--secret",
        "DB",
        "--secret",
        "DB=AGAIN",
        "--secret",
        "cert:/etc/tls/deep/cert.pem",
        "--secret",
        "cert:/run/secrets/cert:0444",
    ];
    // As many and as large as one agent may have, nearly.
    let large = server.path("large");
    std::fs::write(&large, vec![0xff; 65_536]).expect("writes");
    let many: Vec<String> = (0..15).flat_map(|n| ["--secret".to_owned(), format!("large{n}:/run/large/{n}")]).collect();
    for n in 0..15 {
        cli.ok(&["secret", "set", &format!("large{n}"), "--from-file", &large.to_string_lossy()]);
    }
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let main = ["--", "sh", "-c", "echo main:$DB; cat /etc/tls/deep/cert.pem; echo; exec sleep 100000"];
    cli.ok(&[&["agent", "create"], &named[..], &SMALL, &secrets, &many, &main].concat());
    let told = |what: &str| cli.ok(&["exec", "one", "--", "sh", "-c", what]);
    assert_eq!(told("echo $DB:$AGAIN"), "first value:first value\n", "an exec has them as the main process has");
    assert_eq!(told("cat /etc/tls/deep/cert.pem"), "line one\nline two");
    assert_eq!(told("stat -c '%a %u' /etc/tls/deep/cert.pem /run/secrets/cert"), "400 1000\n444 1000\n");
    assert!(told("grep ' /etc/tls/deep/cert.pem ' /proc/mounts").contains(" tmpfs "), "in memory");
    assert_eq!(told("cat /run/large/* | wc -c").trim(), (15 * 65_536).to_string());
    let other = cli.run(&["exec", "--user", "1001", "one", "--", "cat", "/etc/tls/deep/cert.pem"]);
    assert_ne!(other.code, Some(0), "another user reads it not");
    wait_for("the main process to say it", LONG, || {
        let logs = cli.ok(&["logs", "one"]);
        (logs.contains("main:first value") && logs.contains("line two")).then_some(())
    });

    // A new version is the next start's; until then the run keeps its own.
    set(&cli, "DB", "second value");
    assert_eq!(told("echo $DB"), "first value\n");
    let versions = |cli: &Cli| {
        let all = cli.json(&["agent", "get", "one"])["secret_versions"].clone();
        (all["DB"].as_u64(), all["cert"].as_u64(), all.as_object().map(serde_json::Map::len))
    };
    assert_eq!(versions(&cli), (Some(1), Some(1), Some(17)));
    cli.ok(&["agent", "stop", "--force", "one"]);
    cli.ok(&["agent", "start", "--wait", "one"]);
    assert_eq!(told("echo $DB"), "second value\n");
    assert_eq!(versions(&cli), (Some(2), Some(1), Some(17)));

    // Deleted, it is missed at the next start, and the reason is told.
    cli.ok(&["secret", "rm", "--yes", "cert"]);
    assert_eq!(told("echo $DB"), "second value\n");
    cli.ok(&["agent", "stop", "--force", "one"]);
    let missed = cli.run(&["agent", "start", "one"]);
    assert!(missed.code == Some(1) && missed.stderr.contains("the secret cert"), "{}", missed.stderr);
    let uses = cli.json(&["audit", "list", "--action", "use"]);
    assert_eq!(uses.as_array().map(Vec::len), Some(34), "17 secrets, two starts: {uses}");
    assert_eq!(server.finish(), Vec::<String>::new());
}

/// What was planted, and what came back while that was done.
struct Lab {
    server: Server,
    counted: Counted,
    /// Canaries by the path they took.
    planted: Vec<(&'static str, String)>,
    /// Bodies of refusals, and of everything that can be asked for.
    refusals: String,
    answers: String,
    search: Search,
    watched: Arc<Watched>,
}

/// Command lines and environments of all processes, looked at all the time.
#[derive(Default)]
struct Watched {
    over: AtomicBool,
    argv: Mutex<BTreeSet<String>>,
    environ: Mutex<BTreeSet<String>>,
    looks: std::sync::atomic::AtomicU64,
}

impl Watched {
    fn start() -> Arc<Self> {
        let watched = Arc::new(Self::default());
        let own = watched.clone();
        std::thread::spawn(move || {
            let search = Search::for_canaries();
            while !own.over.load(Ordering::SeqCst) {
                for process in std::fs::read_dir("/proc").expect("proc").flatten() {
                    if !process.file_name().to_string_lossy().bytes().all(|b| b.is_ascii_digit()) {
                        continue;
                    }
                    let read = |name: &str| std::fs::read(process.path().join(name)).unwrap_or_default();
                    let (argv, environ) = (read("cmdline"), read("environ"));
                    own.argv.lock().expect("whole").extend(search.hits(&argv));
                    // OpenBao is given its token so; it is Vault, not Aether.
                    if !environ.windows(21).any(|w| w == b"BAO_DEV_ROOT_TOKEN_ID") {
                        own.environ.lock().expect("whole").extend(search.hits(&environ));
                    }
                }
                own.looks.fetch_add(1, Ordering::SeqCst);
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        watched
    }
}

impl Lab {
    fn canary(&mut self, path: &'static str) -> String {
        let value = canary(path);
        self.planted.push((path, value.clone()));
        value
    }

    fn ask(&mut self, method: &str, path: &str, body: &Value) -> (u16, String) {
        let text = if body.is_null() { String::new() } else { body.to_string() };
        self.ask_with(method, path, &[], &text)
    }

    fn ask_with(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> (u16, String) {
        let (status, answer) = http(&self.server.path("run/aether.sock"), method, path, headers, body);
        if status >= 400 {
            self.refusals.push_str(&answer);
        }
        (status, answer)
    }

    fn good(&mut self, method: &str, path: &str, body: &Value) -> Value {
        let (status, answer) = self.ask(method, path, body);
        assert!((200..300).contains(&status), "{method} {path}: {status} {answer}");
        serde_json::from_str(&answer).unwrap_or_default()
    }

    fn refused(&mut self, method: &str, path: &str, body: &str) {
        let (status, answer) = self.ask_with(method, path, &[], body);
        assert!(status >= 400, "{method} {path}: {status} {answer}");
    }

    /// In the guest, as its variable or file says.
    fn seen(&self, agent: &str, command: &str) -> String {
        self.server.cli().ok(&["exec", agent, "--", "sh", "-c", command])
    }
}

fn small(name: &str) -> Value {
    json!({ "name": name, "image": "tiny:1", "resources": { "memory_mb": 128, "disk_mb": 1024 } })
}

/// Secrets of several versions, as variables and files, beside a plain env.
fn plant_in_an_agent(lab: &mut Lab) {
    let mut agent = small("owner");
    let (mut env, mut secrets) = (serde_json::Map::new(), Vec::new());
    for n in 0..6 {
        env.insert(format!("PLAIN{n}"), json!(lab.canary("env")));
    }
    for n in 0..8 {
        let (name, old, new) = (format!("SECRET{n}"), lab.canary("oldversion"), lab.canary("secretenv"));
        for value in [&old, &new] {
            lab.good("PUT", &format!("/v1/secrets/{name}"), &json!({ "value": value }));
        }
        secrets.push(json!(name));
    }
    for n in 0..6 {
        let (name, value) = (format!("file{n}"), lab.canary("secretfile"));
        set(&lab.server.cli(), &name, &value);
        secrets.push(json!({ "name": name, "file": format!("/etc/keys/{n}") }));
    }
    agent["env"] = env.into();
    agent["secrets"] = secrets.into();
    let made = lab.good("POST", "/v1/agents?wait=true", &agent);
    assert_eq!(made["status"], "running", "{made}");
    let expected = |lab: &Lab, path: &str, at: usize| {
        lab.planted.iter().filter(|(p, _)| *p == path).nth(at).map(|(_, v)| v.clone()).expect("planted")
    };
    assert_eq!(
        lab.seen("owner", "echo $PLAIN3 $SECRET5; cat /etc/keys/2"),
        format!("{} {}\n{}", expected(lab, "env", 3), expected(lab, "secretenv", 5), expected(lab, "secretfile", 2))
    );
    // A random value, which is read where alone it can be.
    lab.good("POST", "/v1/secrets/SECRET0/rotate", &json!({}));
}

fn plant_in_execs(lab: &mut Lab) {
    for n in 0..4 {
        let (input, variable) = (lab.canary("execstdin"), lab.canary("execenv"));
        let body = json!({ "command": ["sh", "-c", "read x; test -n \"$x\" && test -n \"$E\""], "stdin": format!("{input}\n"), "env": { "E": variable } });
        let done = lab.good("POST", "/v1/agents/owner/exec", &body);
        assert_eq!(done["exit_code"], 0, "{n}: {done}");
    }
}

/// A registry that asks for a password and refuses it.
fn refusing_registry() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.set_read_timeout(Some(Duration::from_millis(300)));
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(
                b"HTTP/1.1 401 Unauthorized\r\nwww-authenticate: Basic realm=\"r\"\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
            );
        }
    });
    port
}

fn plant_in_credentials(lab: &mut Lab) {
    let registry = refusing_registry();
    for port in [1, registry] {
        let body = json!({ "reference": format!("127.0.0.1:{port}/a:1"), "username": "me", "password": lab.canary("registry") });
        let (_, answer) = lab.ask("POST", "/v1/images", &body);
        lab.refusals.push_str(&answer);
    }
    for n in 0..4 {
        let made = lab.good("POST", "/v1/auth/keys", &json!({ "name": format!("key {n}"), "role": "viewer" }));
        let (key, other) =
            (made["key"].as_str().expect("a key").to_owned(), made["e2b_key"].as_str().expect("a key").to_owned());
        for (name, value) in [("authorization", format!("Bearer {key}")), ("x-api-key", other.clone())] {
            lab.ask_with("GET", "/v1/agents", &[(name, &value)], "");
            lab.ask_with("GET", "/v1/secrets/none", &[(name, &value)], "");
        }
        // Their beginnings are shown, to tell them apart.
        for text in [&key, &other] {
            let search = std::mem::replace(&mut lab.search, Search::for_canaries());
            lab.search = search.and("an API key", &text.as_bytes()[text.len() - 24..]);
            lab.planted.push(("apikey", String::new()));
        }
    }
    for header in ["authorization", "x-api-key"] {
        let wrong = format!("Bearer {}", lab.canary("wrongkey"));
        lab.ask_with("GET", "/v1/agents", &[(header, &wrong)], "");
    }
    // JWT, refresh tokens and OIDC: to come with their routes.
}

/// In requests that are refused: what is wrong is told, and not what it held.
fn plant_in_refusals(lab: &mut Lab) {
    let long = lab.canary("refusedvalue").repeat(2000);
    lab.refused("PUT", "/v1/secrets/LONG", &json!({ "value": long }).to_string());
    let both = json!({ "value": lab.canary("refusedvalue"), "value_base64": "AA==" });
    lab.refused("PUT", "/v1/secrets/BOTH", &both.to_string());
    let bare = json!(lab.canary("refusedvalue"));
    lab.refused("PUT", "/v1/secrets/BARE", &bare.to_string());
    let cut = format!("{{\"value\": \"{}\"", lab.canary("refusedvalue"));
    lab.refused("PUT", "/v1/secrets/CUT", &cut);
    let mut agent = small("-");
    agent["env"] = json!({ "A": lab.canary("refusedenv") });
    lab.refused("POST", "/v1/agents", &agent.to_string());
    agent["env"] = json!(lab.canary("refusedenv"));
    lab.refused("POST", "/v1/agents", &agent.to_string());
}

fn plant_in_vault(lab: &mut Lab) {
    let mut bao = Bao::start(&lab.canary("vaulttoken"));
    let token = lab.server.path("vault.token");
    std::fs::write(&token, &bao.token).expect("writes");
    lab.server.terminate();
    for (key, value) in [
        ("security.vault_enabled", "true".to_owned()),
        ("security.vault_address", bao.address()),
        ("security.vault_token_file", token.display().to_string()),
    ] {
        lab.server.set(key, &value);
    }
    lab.server.launch();
    let mut agent = small("of-vault");
    let mut secrets = Vec::new();
    for n in 0..4 {
        let value = lab.canary("vault");
        let made = lab.good("PUT", &format!("/v1/secrets/VAULT{n}"), &json!({ "value": value }));
        assert_eq!(made["backend"], "vault");
        secrets.push(json!(format!("VAULT{n}")));
    }
    // One that was sealed before goes on to be.
    secrets.push(json!("SECRET1"));
    agent["secrets"] = secrets.into();
    let made = lab.good("POST", "/v1/agents?wait=true", &agent);
    assert_eq!(made["status"], "running", "{made}");
    let held = lab.planted.iter().rev().find(|(path, _)| *path == "vault").map(|(_, v)| v.clone()).expect("planted");
    assert_eq!(lab.seen("of-vault", "echo $VAULT3"), format!("{held}\n"));
    bao.kill();
    let away = json!({ "value": lab.canary("vaultaway") });
    let (status, answer) = lab.ask("PUT", "/v1/secrets/VAULT0", &away);
    assert!(status == 503 && answer.contains("Vault does not answer"), "{status} {answer}");
    assert_eq!(lab.seen("of-vault", "echo $VAULT3"), format!("{held}\n"), "what runs is not touched");
}

/// The one that came up since.
fn vmm_of(server: &Server, before: &[i32]) -> i32 {
    let new: Vec<i32> = server.vmms().into_iter().filter(|pid| !before.contains(pid)).collect();
    assert_eq!(new.len(), 1, "one VMM came up");
    new[0]
}

fn sinks(lab: &mut Lab, other: i32) -> Vec<(&'static str, Vec<String>)> {
    let state = lab.server.path("state");
    let database = ["aether.db", "aether.db-wal"].map(|name| state.join(name));
    let keys = ["seal.key", "api-keys.pepper", "audit-signing.key", "node/node.key"].map(|name| state.join(name));
    for (key, path) in ["seal key", "pepper", "audit key", "node key"].into_iter().zip(&keys) {
        let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let search = std::mem::replace(&mut lab.search, Search::for_canaries());
        lab.search = search.and(key, bytes.trim_ascii_end());
        lab.planted.push(("keyfile", String::new()));
    }
    let metrics = lab.ask("GET", "/metrics", &Value::Null).1;
    let events = lab.ask("GET", "/v1/events?limit=1000", &Value::Null).1;
    let mut audit = String::new();
    for path in ["/v1/audit?limit=1000", "/v1/audit/export", "/v1/audit/export?format=ocsf"] {
        audit.push_str(&lab.ask("GET", path, &Value::Null).1);
    }
    audit.push_str(&std::fs::read_to_string(state.join("audit-anchor.jsonl")).unwrap_or_default());
    for path in [
        "/v1/agents",
        "/v1/agents/owner",
        "/v1/agents/of-vault",
        "/v1/agents/owner/execs",
        "/v1/secrets",
        "/v1/secrets/SECRET0",
        "/v1/secrets/VAULT0",
        "/v1/auth/keys",
        "/v1/tenants/me",
        "/v1/system/master-key",
        "/v1/images",
        "/v1/scheduler/nodes",
        "/v1/agents/owner/logs",
        "/readiness",
    ] {
        let answer = lab.ask("GET", path, &Value::Null).1;
        lab.answers.push_str(&answer);
    }
    for (what, text) in [("metrics", &metrics), ("events", &events), ("audit", &audit), ("answers", &lab.answers)] {
        assert!(text.len() > 500, "{what} say too little to be searched: {text}");
    }
    let others: Vec<PathBuf> = [&database[..], &keys].concat();
    let all = files(&[state.clone(), lab.server.path("run")], &others);
    assert!(
        all.iter().any(|f| f.ends_with("journal.db") || f.to_string_lossy().contains("journal")),
        "no journal: {all:?}"
    );
    let s = &lab.search;
    let in_files = |files: &[PathBuf]| files.iter().flat_map(|f| hits_in(s, f)).collect::<Vec<_>>();
    let watched = |set: &Mutex<BTreeSet<String>>| set.lock().expect("whole").iter().cloned().collect::<Vec<_>>();
    vec![
        ("the server's log at its most talkative", s.hits(lab.server.log().as_bytes())),
        ("metrics", s.hits(metrics.as_bytes())),
        ("the database and its log", in_files(&database)),
        ("events", s.hits(events.as_bytes())),
        ("the audit log, its exports and anchors", s.hits(audit.as_bytes())),
        ("error bodies", s.hits(lab.refusals.as_bytes())),
        ("answers of the API", s.hits(lab.answers.as_bytes())),
        ("command lines", watched(&lab.watched.argv)),
        ("environments", watched(&lab.watched.environ)),
        ("disks, journal, images, logs", in_files(&all)),
        ("another sandbox's memory", s.hits(&memory(other))),
    ]
}

/// That what finds nothing would find something.
fn controls(lab: &Lab, owner: i32) {
    let found = lab.search.hits(&memory(owner));
    assert!(!found.is_empty(), "the owner's VMM holds its guest's canaries, and they are not found there");
    let mark = canary("control");
    lab.seen("owner", &format!("echo {}; echo {} > /kept && sync", "well", mark.replace("cNr9", "xNr9")));
    let control = Search::for_canaries().and("the control", mark.replace("cNr9", "xNr9").as_bytes());
    let disks = files(&[lab.server.path("state/node")], &[]);
    let found: Vec<_> = disks.iter().flat_map(|f| hits_in(&control, f)).collect();
    assert!(found.iter().any(|hit| hit.contains("the control")), "what a guest writes is not found on its disk");
    assert!(lab.watched.looks.load(Ordering::SeqCst) > 50, "processes were not looked at");
}

#[test]
fn canaries_are_in_no_place_where_none_may_be() {
    // Disks in clear: what comes to one is to be seen.
    let settings = Settings::default().with("observability.log_level", "trace").with("engine.encrypt_disks", "false");
    let server = start(settings);
    let counted = Counted::new("secrets", 5, "canary secrets by every path, looked for in every sink", 0);
    let watched = Watched::start();
    let mut lab = Lab {
        server,
        counted,
        planted: Vec::new(),
        refusals: String::new(),
        answers: String::new(),
        search: Search::for_canaries(),
        watched,
    };
    lab.good("POST", "/v1/agents?wait=true", &small("other"));
    let other = vmm_of(&lab.server, &[]);
    plant_in_an_agent(&mut lab);
    let owner = vmm_of(&lab.server, &[other]);
    plant_in_execs(&mut lab);
    plant_in_credentials(&mut lab);
    plant_in_refusals(&mut lab);
    plant_in_vault(&mut lab);
    lab.seen("other", "echo well");
    let found = sinks(&mut lab, other);
    controls(&lab, owner);
    lab.watched.over.store(true, Ordering::SeqCst);
    let paths: BTreeSet<&str> = lab.planted.iter().map(|(path, _)| *path).collect();
    lab.counted.n = (lab.planted.len() * found.len()) as u64;
    lab.counted.tell("canaries", lab.planted.len());
    lab.counted.tell("paths", paths.len());
    lab.counted.tell("sinks", found.len());
    assert!(lab.planted.len() >= 50 && found.len() >= 10, "{} canaries in {} sinks", lab.planted.len(), found.len());
    let wrong: Vec<String> =
        found.into_iter().flat_map(|(sink, hits)| hits.into_iter().map(move |hit| format!("{sink}: {hit}"))).collect();
    lab.counted.failures = wrong.len() as u64;
    assert!(wrong.is_empty(), "{} finds:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(lab.server.finish(), Vec::<String>::new());
}
