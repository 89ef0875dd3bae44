//! Row 1: `GET` of one agent with key check, tenant check, JSON and access
//! log, beside the least axum server that answers with the same document.

use crate::Setup;
use crate::load::{Load, SERVER_CORE, Wrk};
use crate::pairs::{Pairs, Side, order};
use crate::record::Record;
use crate::server::{Server, free_port};
use aether_core::api::AgentInfo;
use anyhow::{Context, ensure};
use axum::Router;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use axum::serve::ListenerExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

const PAIRS: usize = 15;
const SECONDS: u32 = 2;
const CONNECTIONS: u32 = 32;

pub(crate) async fn run(setup: &Setup) -> anyhow::Result<Vec<Record>> {
    let server = Server::start_on(setup, 1, SERVER_CORE).await?;
    let id = server.create_waiting("read").await?;
    let document = server.get(&id).await?;
    let peer = Peer::start(&server, &serde_json::to_string(&document)?).await?;
    let ours = wrk(format!("{}/v1/agents/{id}", server.url), Some(server.key.clone()));
    let bare = wrk(format!("{}/v1/agents/{id}", peer.url), None);
    ensure!(peer.document().await? == document, "the peer answers with another document");
    // Warm both.
    ours.run()?;
    bare.run()?;
    let (mut rate, mut tail) = (Pairs::default(), Pairs::default());
    for n in 0..PAIRS {
        for side in order(n) {
            let Load { per_second, p99_ms, .. } = match side {
                Side::Ours | Side::Between => ours.run()?,
                Side::Peer | Side::Again => bare.run()?,
            };
            rate.push(side, per_second);
            tail.push(side, p99_ms);
        }
    }
    let logged = server.log().lines().filter(|l| l.contains("\"message\":\"request\"")).count();
    ensure!(logged > PAIRS, "ours kept no access log");
    drop(peer);
    server.stop()?;
    Ok(vec![
        rate.ratio_at_least("1", "GET of one agent, 32 connections, one core, over bare axum", "requests/s", 0.6),
        tail.ratio("1.p99", "the same at the 99th percentile of each run", "ms", 2.0),
    ])
}

fn wrk(url: String, key: Option<String>) -> Wrk {
    Wrk { url, connections: CONNECTIONS, seconds: SECONDS, script: None, key }
}

/// The bare server, in a process of its own on the server's core.
struct Peer {
    child: Child,
    url: String,
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Peer {
    async fn start(server: &Server, document: &str) -> anyhow::Result<Self> {
        let path = server.dir.path().join("document.json");
        std::fs::write(&path, document)?;
        let port = free_port()?;
        let child = Command::new("taskset")
            .args(["-c", SERVER_CORE])
            .arg(std::env::current_exe()?)
            .args([super::BARE_SERVER, &port.to_string()])
            .arg(path)
            .stdin(Stdio::null())
            .spawn()
            .context("start the bare server")?;
        let peer = Self { child, url: format!("http://127.0.0.1:{port}") };
        for _ in 0..100 {
            if peer.document().await.is_ok() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(peer)
    }

    async fn document(&self) -> anyhow::Result<serde_json::Value> {
        let answer = reqwest::get(format!("{}/v1/agents/any", self.url)).await?.error_for_status()?;
        Ok(serde_json::from_str(&answer.text().await?)?)
    }
}

async fn document(State(agent): State<Arc<AgentInfo>>) -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/json")], serde_json::to_vec(agent.as_ref()).unwrap_or_default())
}

/// The bare server itself: `aether-bench bare-server PORT FILE`.
pub(crate) async fn serve(port: u16, file: &Path) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(file)?;
    let agent: Arc<AgentInfo> = Arc::new(serde_json::from_str(&text)?);
    let app = Router::new().route("/v1/agents/{id}", get(document)).with_state(agent);
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
    axum::serve(listener.tap_io(|tcp| drop(tcp.set_nodelay(true))), app).await?;
    Ok(())
}
