use crate::harness::{ok, problem, start};
use reqwest::Method;
use serde_json::{Value, json};

async fn lines(request: reqwest::RequestBuilder) -> Vec<Value> {
    let response = request.send().await.expect("answered");
    assert_eq!(response.headers()["content-type"], "application/x-ndjson");
    let text = response.text().await.expect("text");
    text.lines().map(|l| serde_json::from_str(l).expect("JSON")).collect()
}

#[tokio::test]
async fn pull_import_list_get_remove() {
    let server = start().await;
    let internal = server.post("/v1/images", json!({ "reference": "internal:1" }));
    assert_eq!(problem(internal, 403, "FORBIDDEN").await["remedy"], "images.allow_hosts opens it.");
    let steps = lines(server.post("/v1/images", json!({ "reference": "localhost:5000/team/python:3.11" }))).await;
    let last = steps.last().expect("steps");
    assert_eq!((last["phase"].as_str(), last["image"]["state"].as_str()), (Some("done"), Some("ready")));
    let name = "/v1/images/localhost:5000/team/python:3.11";
    let (_, image) = ok(server.get(name)).await;
    assert_eq!(image["config"]["Env"][0], "A=b");
    assert_eq!(ok(server.get("/v1/images")).await.1.as_array().map(Vec::len), Some(1));
    assert_eq!(ok(server.request(Method::DELETE, name)).await.0.as_u16(), 204);
    problem(server.get(name), 404, "NOT_FOUND").await;
    problem(server.request(Method::DELETE, "/v1/images/busy"), 409, "CONFLICT").await;
    let archive = vec![7u8; 3 << 20];
    let import = server.request(Method::POST, "/v1/images?name=mine:1").header("content-type", "application/x-tar");
    let steps = lines(import.body(archive)).await;
    assert_eq!(steps.last().expect("steps")["done_bytes"], 3 << 20);
}

#[tokio::test]
async fn failures_are_told() {
    let server = start().await;
    problem(server.post("/v1/images", json!({ "reference": "absent" })), 404, "NOT_FOUND").await;
    let steps = lines(server.post("/v1/images", json!({ "reference": "cut" }))).await;
    let last = steps.last().expect("steps");
    assert_eq!(
        (last["phase"].as_str(), last["problem"]["code"].as_str()),
        (Some("failed"), Some("SERVICE_UNAVAILABLE"))
    );
    assert!(!last.to_string().contains("10.1.2.3"));
    problem(server.post("/v1/images", json!({ "reference": "UPPER" })), 400, "VALIDATION_ERROR").await;
    problem(server.post("/v1/images?name=x", json!({ "reference": "a" })), 400, "VALIDATION_ERROR").await;
    problem(server.request(Method::POST, "/v1/images").body("x"), 415, "UNSUPPORTED_MEDIA_TYPE").await;
    let bad_name = server.request(Method::POST, "/v1/images?name=!!").header("content-type", "application/x-tar");
    problem(bad_name.body("x"), 400, "VALIDATION_ERROR").await;
}

#[tokio::test]
async fn names_are_given_and_what_nobody_uses_goes() {
    let server = start().await;
    lines(server.post("/v1/images", json!({ "reference": "python:3.11" }))).await;
    let tag = |name: &str, body: Value| server.request(Method::PUT, &format!("/v1/images/{name}")).json(&body);
    let (status, image) = ok(tag("localhost:5000/team/mine:1", json!({ "source": "python:3.11" }))).await;
    assert_eq!((status.as_u16(), image["names"].as_array().map(Vec::len)), (200, Some(2)), "{image}");
    problem(tag("mine:1", json!({ "source": "absent:1" })), 404, "NOT_FOUND").await;
    problem(tag("mine:1", json!({ "source": "!!" })), 404, "NOT_FOUND").await;
    let digest = format!("mine@sha256:{}", "a".repeat(64));
    for bad in ["UPPER", &digest] {
        problem(tag(bad, json!({ "source": "python:3.11" })), 400, "VALIDATION_ERROR").await;
    }
    problem(tag("mine:1", json!({})), 400, "VALIDATION_ERROR").await;
    let (_, usage) = ok(server.get("/v1/system/df")).await;
    assert_eq!((&usage["images"]["count"], &usage["images"]["active"]), (&json!(1), &json!(0)), "{usage}");
    let prune = |body: Value| server.post("/v1/images/prune", body);
    assert_eq!(ok(prune(json!({ "older_than": "24h" }))).await.1["images"], json!([]));
    for (body, left) in [(json!({ "dry_run": true }), 1), (json!({}), 0)] {
        let (_, pruned) = ok(prune(body)).await;
        assert_eq!((pruned["images"].as_array().map(Vec::len), &pruned["freed_bytes"]), (Some(1), &json!(1000)));
        assert_eq!(ok(server.get("/v1/images")).await.1.as_array().map(Vec::len), Some(left));
    }
    problem(prune(json!({ "older_than": "soon" })), 400, "VALIDATION_ERROR").await;
    let id = server.agent("one").await;
    server.agent("two").await;
    ok(server.request(Method::POST, "/v1/agents/two/stop?wait=stopped")).await;
    let (_, usage) = ok(server.get("/v1/system/df")).await;
    let agents = json!({ "count": 2, "active": 1, "bytes": 2000, "reclaimable_bytes": 1000 });
    assert_eq!(usage["agents"], agents, "{id}");
}
