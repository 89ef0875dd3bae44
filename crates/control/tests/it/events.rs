//! Events as pages and as a stream that is resumed.

use crate::harness::{Server, ok, problem, start};
use aether_core::Role;
use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};
use std::time::Duration;

const LONG: Duration = Duration::from_secs(60);

/// A stream with what was read of it.
struct Stream {
    response: Response,
    text: String,
}

impl Stream {
    async fn open(server: &Server, path: &str, last: Option<&str>) -> Self {
        let mut request = server.get(path).header("accept", "text/event-stream");
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let response = request.send().await.expect("answered");
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self { response, text: String::new() }
    }

    /// Reads until an event of this kind is there; its id and data.
    async fn until(&mut self, kind: &str) -> (String, Value) {
        loop {
            let blocks = self.text.split_inclusive("\n\n").filter(|block| block.ends_with("\n\n"));
            for block in blocks {
                let field = |name: &str| block.lines().find_map(|l| l.strip_prefix(name)).unwrap_or_default();
                if field("event: ") == kind {
                    let found = (field("id: ").to_owned(), serde_json::from_str(field("data: ")).expect("JSON"));
                    return found;
                }
            }
            let chunk = tokio::time::timeout(LONG, self.response.chunk()).await.expect("in time").expect("unbroken");
            self.text.push_str(std::str::from_utf8(&chunk.expect("not at its end")).expect("text"));
        }
    }

    fn kinds(&self) -> Vec<&str> {
        self.text.lines().filter_map(|l| l.strip_prefix("event: ")).collect()
    }
}

#[tokio::test]
async fn a_stream_goes_on_where_the_last_one_ended() {
    let server = start().await;
    server.agent("before").await;
    let mut stream = Stream::open(&server, "/v1/events", None).await;
    let id = server.agent("one").await;
    let (first, created) = stream.until("agent.created").await;
    assert_eq!((created["agent_id"].as_str(), created["agent_name"].as_str()), (Some(id.as_str()), Some("one")));
    stream.until("agent.observed").await;
    assert!(!stream.text.contains("before"), "from now on: {}", stream.text);
    drop(stream);
    ok(server.request(Method::DELETE, "/v1/agents/one")).await;
    let mut resumed = Stream::open(&server, "/v1/events", Some(&first)).await;
    let (_, gone) = resumed.until("agent.gone").await;
    assert_eq!(gone["status"], "gone");
    let kinds = resumed.kinds();
    assert!(kinds.contains(&"agent.placed") && kinds.contains(&"agent.desired"), "{kinds:?}");
    assert!(!kinds.contains(&"agent.created"), "only what came after: {kinds:?}");
    // The same by page, whole and filtered.
    let (_, page) = ok(server.get(&format!("/v1/events?after={first}&agent={id}"))).await;
    let paged: Vec<_> = page["data"].as_array().expect("data").iter().map(|e| e["kind"].as_str()).collect();
    assert_eq!(paged, kinds.iter().copied().map(Some).collect::<Vec<_>>());
    let (_, some) = ok(server.get("/v1/events?kind=agent.created&kind=agent.go*&since=1h")).await;
    let some: Vec<_> = some["data"].as_array().expect("data").iter().map(|e| e["kind"].as_str()).collect();
    assert_eq!(some, [Some("agent.created"), Some("agent.created"), Some("agent.gone")]);
    for (query, code) in
        [("after=zzz", 400), ("limit=0", 400), ("since=noon", 400), ("agent=absent", 404), ("x=1", 400)]
    {
        let code_of = if code == 400 { "VALIDATION_ERROR" } else { "NOT_FOUND" };
        problem(server.get(&format!("/v1/events?{query}")), code, code_of).await;
    }
}

#[tokio::test]
async fn pages_and_a_thousand_events_meet() {
    let server = start().await;
    for n in 0..60 {
        ok(server.post("/v1/agents", json!({ "image": "never", "name": format!("a{n}") }))).await;
    }
    let (mut after, mut created) = ("0-0".to_owned(), Vec::new());
    loop {
        let (_, page) = ok(server.get(&format!("/v1/events?limit=7&kind=agent.created&after={after}"))).await;
        created.extend(page["data"].as_array().expect("data").iter().map(|e| e["agent_name"].clone()));
        page["next"].as_str().expect("next").clone_into(&mut after);
        if page["more"] == false {
            break;
        }
    }
    assert_eq!(created, (0..60).map(|n| json!(format!("a{n}"))).collect::<Vec<_>>());
}

#[tokio::test]
async fn each_tenant_has_its_own_events_and_a_drain_ends_the_stream() {
    let server = start().await;
    let id = server.agent("mine").await;
    let stranger = server.key("acme", Role::Admin, None).await;
    let (_, page) = ok(server.as_key(&stranger, Method::GET, &format!("/v1/events?agent={id}"))).await;
    assert_eq!(page["data"], json!([]));
    let auditor = server.key("default", Role::Operator, None).await;
    problem(server.as_key(&auditor, Method::GET, "/v1/events"), 403, "FORBIDDEN").await;
    let mut stream = Stream::open(&server, "/v1/events?since=1h&kind=agent.created", None).await;
    stream.until("agent.created").await;
    server.stop.cancel();
    let ended = async { while stream.response.chunk().await.expect("unbroken").is_some() {} };
    tokio::time::timeout(LONG, ended).await.expect("the stream ends with the server");
}
