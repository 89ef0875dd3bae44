//! Rotation of keys, service accounts and a tenant's own roles, over HTTP and
//! on two servers of one store.

use crate::harness::{Server, ok, problem, start};
use aether_core::{Permission, Role};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::collections::BTreeSet;

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_else(|| panic!("{field} of {value}"))
}

impl Server {
    async fn make(&self, path: &str, body: Value) -> Value {
        let (status, made) = ok(self.post(path, body)).await;
        assert!(status.is_success(), "{status} {made}");
        made
    }

    /// What a request with the key comes to, here and on the other server.
    async fn taken(&self, other: &str, key: &str) -> [u16; 2] {
        let mut statuses = [0; 2];
        for (status, url) in statuses.iter_mut().zip([self.url.as_str(), other]) {
            let request = self.client.get(format!("{url}/v1/agents")).bearer_auth(key);
            *status = request.send().await.expect("answered").status().as_u16();
        }
        statuses
    }
}

#[tokio::test]
async fn a_rotated_key_is_the_same_with_two_secrets() {
    let server = start().await;
    let second = server.second().await;
    let made = server.make("/v1/auth/keys", json!({ "name": "ci", "role": "viewer" })).await;
    let (id, old) = (text(&made, "id"), text(&made, "key"));
    let path = format!("/v1/auth/keys/{id}");
    let rotated = server.make(&format!("{path}/rotate"), json!({ "overlap": "1h" })).await;
    let new = text(&rotated, "key");
    assert!(text(&rotated, "id") == id && new != old && new.starts_with(text(&rotated, "prefix")));
    assert!(rotated["previous_until"].is_string() && rotated["rotated_at"].is_string(), "{rotated}");
    for key in [old, new, text(&rotated, "e2b_key")] {
        assert_eq!(server.taken(&second, key).await, [200; 2]);
    }
    let (_, shown) = ok(server.get(&path)).await;
    assert_eq!((text(&shown, "id"), text(&shown, "name")), (id, "ci"));
    assert!(!shown.to_string().contains(new) && shown.get("key").is_none(), "{shown}");
    let (_, listed) = ok(server.get("/v1/auth/keys")).await;
    assert_eq!(listed["total"], 2, "no other key: {listed}");
    // The default overlap is a day; 0s is none, for all that were before.
    let by_default = server.make(&format!("{path}/rotate"), json!({})).await;
    assert_eq!(server.taken(&second, new).await, [200; 2]);
    let last = server.make(&format!("{path}/rotate"), json!({ "overlap": "0s" })).await;
    assert!(last.get("previous_until").is_none(), "{last}");
    for key in [old, new, text(&by_default, "key")] {
        assert_eq!(server.taken(&second, key).await, [401; 2]);
    }
    assert_eq!(server.taken(&second, text(&last, "key")).await, [200; 2]);
    let (_, audit) = ok(server.get(&format!("/v1/audit?action=rotate&resource_id={id}"))).await;
    assert_eq!(audit["total"], 3, "{audit}");
    let told = audit["data"].to_string();
    assert!(told.contains("previous_prefix") && !told.contains(new) && !told.contains(text(&last, "key")));
    for overlap in ["721h", "-1s", "soon", ""] {
        let bad = server.post(&format!("{path}/rotate"), json!({ "overlap": overlap }));
        problem(bad, 400, "VALIDATION_ERROR").await;
    }
    ok(server.request(Method::DELETE, &path)).await;
    assert_eq!(server.taken(&second, text(&last, "key")).await, [401; 2]);
    problem(server.post(&format!("{path}/rotate"), json!({})), 404, "NOT_FOUND").await;
    problem(server.post("/v1/auth/keys/nonsense/rotate", json!({})), 404, "NOT_FOUND").await;
}

/// A secret of a key is all that the key may.
#[tokio::test]
async fn nobody_rotates_or_lengthens_what_they_do_not_hold() {
    let server = start().await;
    let weak = BTreeSet::from([Permission::KeyManage, Permission::AgentRead]);
    let weak = server.key("default", Role::Admin, Some(weak)).await;
    let strong = server.make("/v1/auth/keys", json!({ "name": "strong", "role": "admin" })).await;
    let path = format!("/v1/auth/keys/{}", text(&strong, "id"));
    problem(server.as_key(&weak, Method::POST, &format!("{path}/rotate")), 403, "FORBIDDEN").await;
    let longer = server.as_key(&weak, Method::PATCH, &path).json(&json!({ "expires_at": null }));
    problem(longer, 403, "FORBIDDEN").await;
    problem(server.as_key(&weak, Method::GET, "/v1/roles/absent"), 404, "NOT_FOUND").await;
    for (path, body) in [
        ("/v1/auth/keys", json!({ "name": "x", "role": "developer" })),
        ("/v1/service-accounts", json!({ "name": "x", "role": "developer" })),
        ("/v1/roles", json!({ "name": "x", "permissions": ["agent:exec"] })),
    ] {
        problem(server.as_key(&weak, Method::POST, path).json(&body), 403, "FORBIDDEN").await;
    }
    // A role and an account that hold more than the caller are not its to hand out, or to wake.
    server.make("/v1/roles", json!({ "name": "runner", "permissions": ["agent:exec"] })).await;
    server.make("/v1/service-accounts", json!({ "name": "bot", "role": "runner" })).await;
    for body in [json!({ "name": "x", "role": "runner" }), json!({ "name": "x", "service_account": "bot" })] {
        problem(server.as_key(&weak, Method::POST, "/v1/auth/keys").json(&body), 403, "FORBIDDEN").await;
    }
    let account = "/v1/service-accounts/bot";
    assert_eq!(ok(server.as_key(&weak, Method::POST, &format!("{account}/disable"))).await.0, StatusCode::OK);
    problem(server.as_key(&weak, Method::POST, &format!("{account}/enable")), 403, "FORBIDDEN").await;
    let more = server.as_key(&weak, Method::PATCH, "/v1/roles/runner").json(&json!({ "permissions": ["agent:logs"] }));
    problem(more, 403, "FORBIDDEN").await;
    let less = server.as_key(&weak, Method::PATCH, "/v1/roles/runner").json(&json!({ "permissions": ["agent:read"] }));
    assert_eq!(ok(less).await.0, StatusCode::OK);
}

#[tokio::test]
async fn a_key_is_patched_and_refused() {
    let server = start().await;
    let made = server.make("/v1/auth/keys", json!({ "name": "ci", "role": "viewer" })).await;
    let path = format!("/v1/auth/keys/{}", text(&made, "id"));
    let patch = |body: Value| server.request(Method::PATCH, &path).json(&body);
    let (_, shown) = ok(patch(json!({ "name": "ci 2", "expires_at": "2999-01-01T00:00:00Z" }))).await;
    assert_eq!((text(&shown, "name"), text(&shown, "expires_at")), ("ci 2", "2999-01-01T00:00:00.000Z"));
    let (_, shown) = ok(patch(json!({ "expires_at": null }))).await;
    assert!(shown.get("expires_at").is_none() && shown["name"] == "ci 2");
    for bad in [
        json!({ "name": "" }),
        json!({ "expires_at": "2001-01-01T00:00:00Z" }),
        json!({ "budget": {} }),
        json!({ "role": "admin" }),
        json!({ "scopes": [] }),
        json!({ "allow": null }),
    ] {
        problem(patch(bad), 400, "VALIDATION_ERROR").await;
    }
    for bad in [
        json!({ "name": "x", "allow": {} }),
        json!({ "name": "x", "allow": { "images": ["*"] } }),
        json!({ "name": "x", "allow": { "label": {} } }),
        json!({ "name": "x", "budget": { "max_agents": 1_u64 << 60 } }),
        json!({ "name": "x", "service_account": "nobody" }),
        json!({ "name": "x", "role": "nobodys-own" }),
    ] {
        problem(server.post("/v1/auth/keys", bad), 400, "VALIDATION_ERROR").await;
    }
}

#[tokio::test]
async fn a_service_account_works_through_its_keys() {
    let server = start().await;
    let second = server.second().await;
    let account = server.make("/v1/service-accounts", json!({ "name": "deployer", "role": "developer" })).await;
    let id = text(&account, "id");
    let key = server.make("/v1/auth/keys", json!({ "name": "ci", "service_account": "deployer" })).await;
    assert_eq!((text(&key, "role"), text(&key, "service_account")), ("developer", "deployer"));
    let both = json!({ "name": "x", "service_account": "deployer", "role": "viewer" });
    problem(server.post("/v1/auth/keys", both), 400, "VALIDATION_ERROR").await;
    let secret = text(&key, "key");
    let create = server.as_key(secret, Method::POST, "/v1/agents").json(&json!({ "image": "never", "name": "a" }));
    assert_eq!(ok(create).await.0, StatusCode::CREATED);
    let actor = format!("{id}/{}", text(&key, "id"));
    let (_, audit) = ok(server.get(&format!("/v1/audit?actor={}&action=create", actor.replace('/', "%2F")))).await;
    assert_eq!(audit["total"], 1, "both are named: {audit}");
    let path = format!("/v1/service-accounts/{id}");
    for (verb, status) in [("disable", 401), ("enable", 200), ("disable", 401)] {
        let (_, shown) = ok(server.request(Method::POST, &format!("{path}/{verb}"))).await;
        assert_eq!((shown["enabled"].as_bool(), shown["keys"].as_u64()), (Some(verb == "enable"), Some(1)), "{shown}");
        assert_eq!(server.taken(&second, secret).await, [status; 2], "at once, after {verb}");
    }
    ok(server.request(Method::POST, "/v1/service-accounts/deployer/enable")).await;
    assert_eq!(ok(server.request(Method::DELETE, "/v1/service-accounts/deployer")).await.0, StatusCode::NO_CONTENT);
    assert_eq!(server.taken(&second, secret).await, [401; 2]);
    problem(server.get(&path), 404, "NOT_FOUND").await;
    let (_, shown) = ok(server.get(&format!("/v1/auth/keys/{}", text(&key, "id")))).await;
    assert!(shown["revoked_at"].is_string() && text(&shown, "service_account") == id, "{shown}");
    // A name is one at a time, and anybody's again after.
    server.make("/v1/service-accounts", json!({ "name": "deployer" })).await;
    problem(server.post("/v1/service-accounts", json!({ "name": "deployer" })), 409, "CONFLICT").await;
    for bad in [json!({ "name": "A b" }), json!({ "name": id }), json!({ "name": "x", "role": "king of" })] {
        problem(server.post("/v1/service-accounts", bad), 400, "VALIDATION_ERROR").await;
    }
    for role in ["platform_admin", "operator"] {
        let body = json!({ "name": "x", "role": role });
        problem(server.post("/v1/service-accounts", body), 403, "FORBIDDEN").await;
    }
}

#[tokio::test]
async fn a_role_of_ones_own() {
    let server = start().await;
    let second = server.second().await;
    let role = server.make("/v1/roles", json!({ "name": "reader", "permissions": ["agent:read"] })).await;
    assert_eq!(role["permissions"], json!(["agent:read"]));
    let key = server.make("/v1/auth/keys", json!({ "name": "r", "role": "reader" })).await;
    assert_eq!(key["permissions"], json!(["agent:read"]));
    let secret = text(&key, "key");
    let quota = async |url: &str| {
        let request = server.client.get(format!("{url}/v1/quotas/me")).bearer_auth(secret);
        request.send().await.expect("answered").status().as_u16()
    };
    assert_eq!(server.taken(&second, secret).await, [200; 2]);
    assert_eq!((quota(&server.url).await, quota(&second).await), (403, 403));
    let patch = |permissions: Value| {
        server.request(Method::PATCH, "/v1/roles/reader").json(&json!({ "permissions": permissions }))
    };
    ok(patch(json!(["quota:read"]))).await;
    assert_eq!((quota(&server.url).await, quota(&second).await), (200, 200), "at once");
    assert_eq!(server.taken(&second, secret).await, [403; 2]);
    let used = problem(server.request(Method::DELETE, "/v1/roles/reader"), 409, "CONFLICT").await;
    assert!(text(&used, "detail").contains(text(&key, "id")), "{used}");
    for built_in in ["admin", "viewer", "platform_admin"] {
        let body = json!({ "name": built_in, "permissions": ["agent:read"] });
        problem(server.post("/v1/roles", body), 400, "VALIDATION_ERROR").await;
        let path = format!("/v1/roles/{built_in}");
        assert_eq!(ok(server.get(&path)).await.1["built_in"], true);
        problem(server.request(Method::DELETE, &path), 409, "CONFLICT").await;
        let change = server.request(Method::PATCH, &path).json(&json!({ "permissions": ["agent:read"] }));
        problem(change, 409, "CONFLICT").await;
    }
    let platform = server.key("default", Role::PlatformAdmin, None).await;
    for permission in ["platform:admin", "quota:write", "scheduler:read", "scheduler:write", "nonsense"] {
        for key in [&server.admin, &platform] {
            let body = json!({ "name": "more", "permissions": [permission] });
            problem(server.as_key(key, Method::POST, "/v1/roles").json(&body), 400, "VALIDATION_ERROR").await;
        }
        problem(patch(json!([permission])), 400, "VALIDATION_ERROR").await;
    }
    ok(server.request(Method::DELETE, &format!("/v1/auth/keys/{}", text(&key, "id")))).await;
    assert_eq!(ok(server.request(Method::DELETE, "/v1/roles/reader")).await.0, StatusCode::NO_CONTENT);
    problem(server.get("/v1/roles/reader"), 404, "NOT_FOUND").await;
    let (_, roles) = ok(server.get("/v1/roles")).await;
    assert_eq!(roles.as_array().map(Vec::len), Some(Role::ALL.len()));
}
