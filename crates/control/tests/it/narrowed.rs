//! A key that is narrowed to labels and images, over HTTP. That what it does
//! not reach is as absent as another tenant's, in every operation, is the
//! matrix's.

use crate::harness::{Server, ok, problem, start};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

impl Server {
    async fn narrowed(&self, allow: Value) -> String {
        let body = json!({ "name": "narrow", "role": "admin", "allow": allow });
        let (status, made) = ok(self.post("/v1/auth/keys", body)).await;
        assert_eq!((status, &made["allow"]), (StatusCode::CREATED, &allow), "{made}");
        made["key"].as_str().expect("a key").to_owned()
    }

    async fn pull_as(&self, key: &str, reference: &str) -> StatusCode {
        let body = json!({ "reference": reference });
        let response = self.as_key(key, Method::POST, "/v1/images").json(&body).send().await.expect("answered");
        let status = response.status();
        let text = response.text().await.expect("text");
        assert!(status != StatusCode::OK || text.contains("done"), "{text}");
        status
    }
}

#[tokio::test]
async fn it_makes_and_sees_what_carries_its_labels() {
    let server = start().await;
    let key = server.narrowed(json!({ "labels": { "team": "a" } })).await;
    let hidden = server.agent("hidden").await;
    let as_key = |method: Method, path: &str| server.as_key(&key, method, path);
    let create = |body: Value| as_key(Method::POST, "/v1/agents?wait=running").json(&body);
    let (status, made) = ok(create(json!({ "image": "python:3.11", "name": "own", "labels": { "x": "y" } }))).await;
    assert_eq!(status, StatusCode::CREATED, "{made}");
    assert_eq!(made["config"]["labels"], json!({ "team": "a", "x": "y" }));
    let refused = problem(create(json!({ "image": "a", "labels": { "team": "b" } })), 403, "FORBIDDEN").await;
    assert!(refused["detail"].as_str().is_some_and(|text| text.contains("team=a")), "{refused}");
    let bulk = json!({ "agents": [{ "image": "never" }, { "image": "never", "labels": { "team": "b" } }] });
    let (_, bulk) = ok(as_key(Method::POST, "/v1/agents/bulk/create").json(&bulk)).await;
    assert_eq!((bulk["results"][0]["status"].as_u64(), bulk["results"][1]["status"].as_u64()), (Some(201), Some(403)));
    let (_, listed) = ok(as_key(Method::GET, "/v1/agents")).await;
    assert_eq!(listed["total"], 2, "{listed}");
    let delete = json!({ "ids": [hidden, bulk["results"][0]["agent"]["id"], "hidden"] });
    let (_, deleted) = ok(as_key(Method::POST, "/v1/agents/bulk/delete").json(&delete)).await;
    let statuses: Vec<_> =
        deleted["results"].as_array().expect("results").iter().map(|r| r["status"].as_u64()).collect();
    assert_eq!(statuses, [Some(404), Some(204), Some(404)]);
    // It stays within, and what it does there works.
    let exec = as_key(Method::POST, "/v1/agents/own/exec").json(&json!({ "command": ["echo", "a"] }));
    assert_eq!(ok(exec).await.1["exit_code"], 0);
    let away = as_key(Method::PATCH, "/v1/agents/own").json(&json!({ "labels": { "team": null } }));
    problem(away, 403, "FORBIDDEN").await;
    let (_, events) = ok(as_key(Method::GET, "/v1/events?limit=1000")).await;
    assert!(
        !events["data"].as_array().expect("events").is_empty() && !events.to_string().contains(&hidden),
        "{events}"
    );
    let named = as_key(Method::GET, &format!("/v1/events?agent={hidden}"));
    assert_eq!(ok(named).await.1["data"], json!([]));
    for path in ["/v1/auth/keys", "/v1/audit", "/v1/roles", "/v1/service-accounts"] {
        problem(as_key(Method::GET, path), 403, "FORBIDDEN").await;
    }
    // The owner takes the label away: gone, for the key, at once.
    let (_, _) = ok(server.request(Method::PATCH, "/v1/agents/own").json(&json!({ "labels": { "team": null } }))).await;
    problem(as_key(Method::GET, "/v1/agents/own"), 404, "NOT_FOUND").await;
    assert_eq!(ok(as_key(Method::GET, "/v1/agents")).await.1["total"], 0);
    // The same spelling of a key of idempotency is another's.
    let once = |key: &str, name: &str| {
        let body = json!({ "image": "never", "name": name });
        server.as_key(key, Method::POST, "/v1/agents").header("idempotency-key", "k").json(&body)
    };
    let (_, first) = ok(once(&server.admin, "first")).await;
    let (status, own) = ok(once(&key, "first-too")).await;
    assert!(status == StatusCode::CREATED && own["id"] != first["id"], "{own}");
}

#[tokio::test]
async fn it_sees_its_images_alone() {
    let server = start().await;
    let key = server.narrowed(json!({ "images": ["team/*"] })).await;
    for image in ["other/app:1", "other/app:2"] {
        assert_eq!(server.pull_as(&server.admin, image).await, StatusCode::OK);
    }
    let as_key = |method: Method, path: &str| server.as_key(&key, method, path);
    let (_, all) = ok(server.get("/v1/images")).await;
    let digest = all[0]["digest"].as_str().expect("a digest").to_owned();
    assert_eq!(ok(as_key(Method::GET, "/v1/images")).await.1, json!([]));
    for name in ["other/app:1", digest.as_str()] {
        problem(as_key(Method::GET, &format!("/v1/images/{name}")), 404, "NOT_FOUND").await;
        problem(as_key(Method::DELETE, &format!("/v1/images/{name}")), 404, "NOT_FOUND").await;
        let tag = as_key(Method::PUT, "/v1/images/team/taken:1").json(&json!({ "source": name }));
        problem(tag, 404, "NOT_FOUND").await;
    }
    assert_eq!(server.pull_as(&key, "other/app:3").await, StatusCode::FORBIDDEN);
    let archive = as_key(Method::POST, "/v1/images?name=team/made:1").header("content-type", "application/x-tar");
    problem(archive.body("x"), 403, "FORBIDDEN").await;
    assert_eq!(ok(as_key(Method::GET, "/v1/system/df")).await.1["images"]["count"], 0);
    assert_eq!(ok(as_key(Method::POST, "/v1/images/prune").json(&json!({}))).await.1["images"], json!([]));
    assert_eq!(ok(server.get("/v1/images")).await.1, all, "and nothing was removed");
    // Its own, of the same digest here: with its own name alone.
    assert_eq!(server.pull_as(&key, "team/app:1").await, StatusCode::OK);
    let (_, seen) = ok(as_key(Method::GET, "/v1/images")).await;
    assert_eq!((seen.as_array().map(Vec::len), &seen[0]["names"]), (Some(1), &json!(["team/app:1"])));
    let tag = as_key(Method::PUT, "/v1/images/team/app:2").json(&json!({ "source": "team/app:1" }));
    assert_eq!(ok(tag).await.0, StatusCode::OK);
    let tag = as_key(Method::PUT, "/v1/images/other/app:9").json(&json!({ "source": "team/app:1" }));
    problem(tag, 403, "FORBIDDEN").await;
    assert_eq!(ok(as_key(Method::DELETE, "/v1/images/team/app:1")).await.0, StatusCode::NO_CONTENT);
    problem(as_key(Method::GET, "/v1/images/team/app:1"), 404, "NOT_FOUND").await;
    // Agents of other images are made by others, and seen by others.
    let create =
        |key: &str, image: &str| server.as_key(key, Method::POST, "/v1/agents").json(&json!({ "image": image }));
    problem(create(&key, "other/app:1"), 403, "FORBIDDEN").await;
    assert_eq!(ok(create(&key, "team/app:7")).await.0, StatusCode::CREATED);
    assert_eq!(ok(create(&server.admin, "other/app:1")).await.0, StatusCode::CREATED);
    assert_eq!(ok(as_key(Method::GET, "/v1/agents")).await.1["total"], 1);
}
