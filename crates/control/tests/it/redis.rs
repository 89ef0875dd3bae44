//! Rates that several servers count together, in a real Redis; and what
//! happens while it is away.

use crate::harness::{Server, ok, start_with};
use aether_control::{ControlConfig, RedisConfig};
use aether_core::{Role, Secret};
use reqwest::{Method, StatusCode};
use serde_json::json;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const PASSWORD: &str = "not-to-be-seen";

/// A Redis of its own, which can be ended and begun again.
struct Redis {
    port: u16,
    child: Option<Child>,
    dir: tempfile::TempDir,
}

impl Redis {
    fn start() -> Self {
        let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port();
        let mut redis = Self { port, child: None, dir: tempfile::tempdir().expect("dir") };
        redis.begin();
        redis
    }

    fn begin(&mut self) {
        let config = self.dir.path().join("redis.conf");
        let text = format!("port {}\nbind 127.0.0.1\nsave \"\"\nrequirepass {PASSWORD}\n", self.port);
        std::fs::write(&config, text).expect("writes");
        let mut command = Command::new("redis-server");
        command.arg(&config).current_dir(self.dir.path()).stdout(Stdio::null()).stderr(Stdio::null());
        self.child = Some(command.spawn().expect("redis-server starts: scripts/deps.sh test installs it"));
        for _ in 0..600 {
            if std::net::TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("Redis does not listen");
    }

    fn end(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    fn config(&self) -> RedisConfig {
        at(self.port)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.end();
    }
}

fn at(port: u16) -> RedisConfig {
    RedisConfig { host: "127.0.0.1".into(), port, password: Secret::new(PASSWORD), db: 3, tls: false }
}

fn with(redis: RedisConfig) -> impl FnOnce(&mut ControlConfig) {
    move |cfg: &mut ControlConfig| {
        cfg.redis = Some(redis);
        cfg.rates.caller_percent = 100;
    }
}

/// A tenant with one request a minute; its key.
async fn slow_tenant(server: &Server, tenant: &str) -> String {
    let operator = server.key("default", Role::PlatformAdmin, None).await;
    let key = server.key(tenant, Role::Admin, None).await;
    let limit = json!({ "max_requests_per_minute": 1 });
    let put = server.as_key(&operator, Method::PUT, &format!("/v1/quotas/{tenant}")).json(&limit);
    assert_eq!(ok(put).await.0, StatusCode::OK);
    key
}

/// How many of forty requests, to each server in turn, are let through, and
/// what the first refusal said.
async fn passes(server: &Server, urls: &[&str], key: &str) -> (usize, u64) {
    let (mut passed, mut wait) = (0, 0);
    for n in 0..40 {
        let request = server.client.get(format!("{}/v1/agents", urls[n % urls.len()])).bearer_auth(key);
        let response = request.send().await.expect("answered");
        let headers = response.headers();
        assert_eq!(headers["ratelimit-limit"], "1");
        match response.status() {
            StatusCode::OK => passed += 1,
            StatusCode::TOO_MANY_REQUESTS => {
                wait = headers["retry-after"].to_str().ok().and_then(|t| t.parse().ok()).expect("seconds");
            }
            other => panic!("{other}"),
        }
    }
    (passed, wait)
}

#[tokio::test]
async fn servers_share_buckets_and_count_alone_while_redis_is_away() {
    let mut redis = Redis::start();
    let server = start_with(with(redis.config())).await;
    let second = server.second_with(with(redis.config())).await;
    let urls = [server.url.as_str(), second.as_str()];
    let (first, wait) = passes(&server, &urls, &slow_tenant(&server, "acme").await).await;
    assert!(first == 1 && (30..=60).contains(&wait), "{first} by both servers, {wait} s");
    // Another tenant has its own.
    let other = slow_tenant(&server, "other").await;
    assert_eq!(passes(&server, &urls, &other).await.0, 1);

    redis.end();
    let alone = slow_tenant(&server, "alone").await;
    let (of_two, _) = passes(&server, &urls, &alone).await;
    assert_eq!(of_two, 2, "one by each server, and not without limit");
    let metrics = server.client.get(format!("{}/metrics", server.url)).send().await.expect("answered");
    let metrics = metrics.text().await.expect("text");
    assert!(metrics.contains("aether_rate_counted_alone_total"), "{metrics}");

    redis.begin();
    // It is left alone for a second, and the connection is made anew.
    for round in 0.. {
        let again = slow_tenant(&server, &format!("again{round}")).await;
        let (passed, _) = passes(&server, &urls, &again).await;
        if passed == 1 {
            break;
        }
        assert!(round < 60, "{passed} pass, and Redis is back");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

#[tokio::test]
async fn what_is_no_redis_costs_little_and_opens_nothing() {
    // One that takes connections and says nothing, one that is not there, and
    // one that answers something else.
    let silent = TcpListener::bind("127.0.0.1:0").expect("binds");
    let gone = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port();
    let chatty = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let chatty_port = chatty.local_addr().expect("an address").port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = chatty.accept().await {
            let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    for port in [silent.local_addr().expect("an address").port(), gone, chatty_port] {
        let server = start_with(with(at(port))).await;
        let key = slow_tenant(&server, "acme").await;
        let (passed, _) = passes(&server, &[&server.url], &key).await;
        assert_eq!(passed, 1);
    }
}
