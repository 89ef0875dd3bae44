//! A PostgreSQL of the tests' own: a fresh cluster in a temporary folder, on
//! a Unix socket only. It ends with this process, however that ends: its
//! keeper waits for the end of a pipe that only this process holds.

use sqlx::{Connection, Executor, PgConnection};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

const USER: &str = "aether";

pub(crate) struct Server {
    dir: PathBuf,
    databases: AtomicU32,
    _keeper: Child,
}

static SERVER: OnceLock<Server> = OnceLock::new();

/// The folder with `initdb` and `postgres`; Debian keeps it off the PATH.
fn binaries() -> PathBuf {
    let mut found: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .map(|entries| entries.flatten().map(|e| e.path().join("bin")).collect())
        .unwrap_or_default();
    found.retain(|dir| dir.join("initdb").exists());
    found.sort();
    found.pop().expect("PostgreSQL is not installed: `apt-get install postgresql` (these tests are never skipped)")
}

/// PostgreSQL refuses to run as root.
fn unprivileged(program: &Path) -> Command {
    if rustix::process::geteuid().is_root() {
        let mut command = Command::new("runuser");
        command.args(["-u", "postgres", "--"]).arg(program);
        command
    } else {
        Command::new(program)
    }
}

fn start() -> Server {
    let bin = binaries();
    let dir = tempfile::Builder::new().prefix("aether-pg-").tempdir_in("/tmp").expect("temp dir").keep();
    if rustix::process::geteuid().is_root() {
        let owned = Command::new("chown").arg("postgres").arg(&dir).status().expect("chown runs");
        assert!(owned.success());
    }
    let data = dir.join("data");
    let init = unprivileged(&bin.join("initdb"))
        .args(["--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync", "--username", USER, "-D"])
        .arg(&data)
        .current_dir("/")
        .output()
        .expect("initdb runs");
    assert!(init.status.success(), "initdb: {}", String::from_utf8_lossy(&init.stderr));
    let script = format!(
        "'{bin}/postgres' -D '{data}' -c listen_addresses= -c unix_socket_directories='{dir}' -c fsync=off \
         -c max_connections=200 -c shared_buffers=32MB -c autovacuum=off </dev/null >'{dir}/log' 2>&1 & \
         read end; kill -QUIT $!; wait; cd /; rm -rf '{dir}'",
        bin = bin.display(),
        data = data.display(),
        dir = dir.display(),
    );
    let keeper = unprivileged(Path::new("/bin/sh"))
        .args(["-c", &script])
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the keeper starts");
    Server { dir, databases: AtomicU32::new(0), _keeper: keeper }
}

impl Server {
    fn url(&self, database: &str) -> String {
        format!("postgres://{USER}@localhost/{database}?host={}", self.dir.display())
    }
}

/// A connection of its own, past the store.
pub(crate) async fn connect(url: &str) -> PgConnection {
    let mut last = None;
    for _ in 0..600 {
        match PgConnection::connect(url).await {
            Ok(connection) => return connection,
            Err(e) => last = Some(e),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("PostgreSQL did not start within a minute: {last:?}");
}

/// The URL of a fresh, empty database.
pub(crate) async fn fresh_database() -> String {
    let server = tokio::task::spawn_blocking(|| SERVER.get_or_init(start)).await.expect("the server starts");
    let mut admin = connect(&server.url("postgres")).await;
    let name = format!("t{}", server.databases.fetch_add(1, Ordering::Relaxed));
    // Creating copies a template that must have no other user.
    for attempt in 0.. {
        match admin.execute(format!("CREATE DATABASE {name} TEMPLATE template0").as_str()).await {
            Ok(_) => break,
            Err(e) if attempt == 100 => panic!("{e}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
    server.url(&name)
}
