//! The smallest client that can speak to the guest: JSON over HTTP/2.

use aether_proto::channel::{AnswerScanner, hello};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::process::{Child, Command};

pub(crate) const LIMIT: Duration = Duration::from_secs(60);
pub(crate) const TOKEN: [u8; 16] = [0xab; 16];
const NEW_TOKEN: &str = "zc3Nzc3Nzc3Nzc3Nzc3NzQ==";

pub(crate) struct Running {
    child: Child,
    _dir: tempfile::TempDir,
    pub control: UnixStream,
    data: UnixStream,
}

type Sender = SendRequest<Full<bytes::Bytes>>;

pub(crate) struct Connected {
    _child: Child,
    _dir: tempfile::TempDir,
    pub pid: u32,
    control: Sender,
    data: Sender,
}

impl Running {
    pub(crate) async fn start(more: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = |name: &str| dir.path().join(name);
        let control = UnixListener::bind(path("control")).expect("bound");
        let data = UnixListener::bind(path("data")).expect("bound");
        let child = Command::new(env!("CARGO_BIN_EXE_aether-guest"))
            .arg("--serve-unix")
            .args([path("control"), path("data")])
            .args(["--token", &"ab".repeat(16)])
            .args(more)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("started");
        let accept = async { (control.accept().await.expect("control").0, data.accept().await.expect("data").0) };
        let (control, data) = tokio::time::timeout(LIMIT, accept).await.expect("it connects");
        Self { child, _dir: dir, control, data }
    }

    pub(crate) async fn connect(self) -> Connected {
        let pid = self.child.id().expect("it runs");
        let (control, data) = (session(self.control).await, session(self.data).await);
        Connected { _child: self.child, _dir: self._dir, pid, control, data }
    }
}

async fn session(mut stream: UnixStream) -> Sender {
    stream.write_all(&hello(&TOKEN, &[7; 16])).await.expect("written");
    let mut scanner = AnswerScanner::new([7; 16]);
    let mut byte = [0; 1];
    while stream.read(&mut byte).await.expect("read") == 1 {
        if scanner.feed(&byte).is_some() {
            break;
        }
    }
    let io = TokioIo::new(stream);
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.expect("a session");
    tokio::spawn(connection);
    sender
}

async fn call(mut sender: Sender, method: &str, message: Value) -> Result<Value, Value> {
    let request = http::Request::post(format!("http://guest/{method}"))
        .header("content-type", "application/json")
        .body(Full::from(message.to_string()))
        .expect("a request");
    let exchange = async {
        let answer = sender.send_request(request).await.expect("an answer");
        let fine = answer.status().is_success();
        let bytes = answer.into_body().collect().await.expect("a body").to_bytes();
        let value = serde_json::from_slice(&bytes).expect("JSON");
        if fine { Ok(value) } else { Err(value) }
    };
    tokio::time::timeout(LIMIT, exchange).await.expect("in time")
}

/// A stream's messages, one by one; the last is the end's.
pub(crate) struct Stream {
    body: hyper::body::Incoming,
    held: Vec<u8>,
}

impl Stream {
    pub(crate) async fn next(&mut self) -> Option<Value> {
        let read = async {
            loop {
                if let Some(length) = self.held.get(1..5) {
                    let end = 5 + u32::from_be_bytes(length.try_into().expect("four")) as usize;
                    if self.held.len() >= end {
                        let message = self.held.drain(..end).skip(5).collect::<Vec<u8>>();
                        return Some(serde_json::from_slice(&message).expect("JSON"));
                    }
                }
                let frame = self.body.frame().await?.expect("a frame");
                self.held.extend_from_slice(frame.data_ref().map_or(&[], |data| data));
            }
        };
        tokio::time::timeout(LIMIT, read).await.expect("in time")
    }
}

impl Connected {
    /// Posts a body to the plain routes: status and answer.
    pub(crate) async fn post(&self, path: &str, headers: &[(&str, &str)], body: Vec<u8>) -> (u16, Value) {
        let mut request = http::Request::post(format!("http://guest{path}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::from(body)).expect("a request");
        let exchange = async {
            let answer = self.data.clone().send_request(request).await.expect("an answer");
            let status = answer.status().as_u16();
            let bytes = answer.into_body().collect().await.expect("a body").to_bytes();
            (status, serde_json::from_slice(&bytes).expect("JSON"))
        };
        tokio::time::timeout(LIMIT, exchange).await.expect("in time")
    }

    /// Opens a server's stream that shows a sign of life each `every` seconds.
    pub(crate) async fn stream(&self, method: &str, message: Value, every: u32) -> Stream {
        let message = message.to_string();
        let length = u32::try_from(message.len()).expect("short");
        let body = [&[0], &length.to_be_bytes()[..], message.as_bytes()].concat();
        let request = http::Request::post(format!("http://guest/{method}"))
            .header("content-type", "application/connect+json")
            .header("keepalive-ping-interval", every)
            .body(Full::from(body))
            .expect("a request");
        let answer = tokio::time::timeout(LIMIT, self.data.clone().send_request(request)).await.expect("in time");
        Stream { body: answer.expect("an answer").into_body(), held: Vec::new() }
    }

    pub(crate) async fn identify(&self) {
        use base64::Engine as _;
        let entropy = base64::engine::general_purpose::STANDARD.encode([3; 32]);
        let request = json!({ "agentId": "a", "entropy": entropy, "channelToken": NEW_TOKEN });
        call(self.control.clone(), "aether.guest.v1.Guest/Identify", request).await.expect("identified");
    }

    pub(crate) async fn data(&self, method: &str, message: Value) -> Result<Value, Value> {
        call(self.data.clone(), method, message).await
    }

    pub(crate) async fn ended(&self, id: &str) -> Value {
        let wait = async {
            loop {
                let state = self.data("aether.guest.v1.Exec/Get", json!({ "execId": id })).await.expect("a state");
                if state["running"] != true {
                    return state;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(LIMIT, wait).await.expect("it ends")
    }
}
