//! Tokens, logins, refresh tokens, users: over HTTP, from their begin to
//! their end. Forged tokens are the matrix's matter.

use crate::harness::{Server, ok, problem, start, start_with};
use aether_core::tenant::Tier;
use aether_core::{Permission, Role, TenantId, TenantScope};
use aether_store::NewTenant;
use data_encoding::BASE64URL_NOPAD;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::Duration;

const PASSWORD: &str = "correct horse battery";

fn text(value: &Value, field: &str) -> String {
    value[field].as_str().unwrap_or_else(|| panic!("{field} of {value}")).to_owned()
}

fn claims(token: &str) -> Value {
    let part = token.split('.').nth(1).expect("claims");
    serde_json::from_slice(&BASE64URL_NOPAD.decode(part.as_bytes()).expect("base 64")).expect("JSON")
}

impl Server {
    async fn open(&self, path: &str, body: Value) -> (StatusCode, Value) {
        ok(self.client.post(format!("{}{path}", self.url)).json(&body)).await
    }

    async fn login(&self, body: Value) -> (String, String) {
        let (status, login) = self.open("/v1/auth/login", body).await;
        assert_eq!(status, StatusCode::OK, "{login}");
        (text(&login, "token"), text(&login, "refresh_token"))
    }

    async fn refresh(&self, token: &str) -> (StatusCode, Value) {
        self.open("/v1/auth/refresh", json!({ "refresh_token": token })).await
    }

    async fn status(&self, token: &str, path: &str) -> u16 {
        self.as_key(token, Method::GET, path).send().await.expect("answered").status().as_u16()
    }

    /// The last audit records, newest first, as "actor action resource result".
    async fn audited(&self, key: &str) -> Vec<String> {
        let (_, page) = ok(self.as_key(key, Method::GET, "/v1/audit?per_page=20")).await;
        let field = |row: &Value, name: &str| row[name].as_str().unwrap_or_default().to_owned();
        let line = |row: &Value| ["actor", "action", "resource", "result"].map(|name| field(row, name)).join(" ");
        page["data"].as_array().expect("data").iter().map(line).collect()
    }
}

#[tokio::test]
async fn a_token_is_its_key_and_no_more() {
    let server = start().await;
    let scopes = BTreeSet::from([Permission::AgentRead, Permission::AgentExec, Permission::QuotaRead]);
    let key = server.key("acme", Role::Admin, Some(scopes)).await;
    let (status, made) = server.open("/v1/auth/token", json!({ "api_key": key })).await;
    assert_eq!(status, StatusCode::OK, "{made}");
    let (token, claims) = (text(&made, "token"), claims(&text(&made, "token")));
    assert_eq!(claims["exp"].as_u64().zip(claims["iat"].as_u64()).map(|(e, i)| e - i), made["expires_in"].as_u64());
    assert_eq!(
        (&claims["iss"], &claims["aud"], &claims["tenant"]),
        (&json!("aether"), &json!("aether-api"), &json!("acme"))
    );
    assert_eq!((&claims["role"], &claims["sub"]), (&json!("viewer"), &claims["user"]));
    assert_eq!(claims["scopes"], json!(["agent:read", "agent:exec", "quota:read"]));
    assert_eq!(server.status(&token, "/v1/agents").await, 200);
    assert_eq!(server.status(&token, "/v1/auth/keys").await, 403, "the key may not either");
    let narrow = json!({ "api_key": key, "scopes": ["quota:read", "key:manage"] });
    let (_, made) = server.open("/v1/auth/token", narrow).await;
    let narrow = text(&made, "token");
    assert_eq!(server.status(&narrow, "/v1/quotas/me").await, 200);
    for path in ["/v1/agents", "/v1/auth/keys"] {
        assert_eq!(server.status(&narrow, path).await, 403, "{path}");
    }
    let admin = server.key("acme", Role::Admin, None).await;
    let id = text(&claims, "sub");
    assert!(server.audited(&admin).await.contains(&format!("{id} login token success")));
    let revoke = server.as_key(&admin, Method::DELETE, &format!("/v1/auth/keys/{id}"));
    assert_eq!(revoke.send().await.expect("answered").status(), StatusCode::NO_CONTENT);
    for token in [&token, &narrow] {
        assert_eq!(server.status(token, "/v1/agents").await, 401, "with its key");
    }
}

#[tokio::test]
async fn what_is_wrong_with_a_login() {
    let server = start().await;
    for (path, body, status) in [
        ("/v1/auth/token", json!({ "api_key": "aether_sk_x" }), 401),
        ("/v1/auth/token", json!({ "api_key": server.admin, "scopes": ["no:such"] }), 400),
        ("/v1/auth/token", json!({ "api_key": server.admin, "more": 1 }), 400),
        ("/v1/auth/token", json!({}), 400),
        ("/v1/auth/login", json!({}), 400),
        ("/v1/auth/login", json!({ "api_key": server.admin, "user": "ann" }), 400),
        ("/v1/auth/login", json!({ "api_key": "x" }), 401),
        // Local users are off.
        ("/v1/auth/login", json!({ "user": "ann", "password": PASSWORD }), 400),
        ("/v1/auth/refresh", json!({ "refresh_token": "x" }), 401),
        ("/v1/auth/refresh", json!({ "refresh_token": server.admin }), 401),
    ] {
        let (got, answer) = server.open(path, body.clone()).await;
        assert_eq!(got.as_u16(), status, "{path} {body}: {answer}");
    }
    let (_, made) = server.open("/v1/auth/token", json!({ "api_key": server.admin })).await;
    let token = text(&made, "token");
    let (status, _) = server.open("/v1/auth/token", json!({ "api_key": token })).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED, "a token makes no token");
    let logout = server.as_key(&server.admin, Method::POST, "/v1/auth/logout");
    problem(logout, 400, "BAD_REQUEST").await;
}

#[tokio::test]
async fn a_login_is_refreshed_until_a_token_comes_twice() {
    let server = start().await;
    let key = server.key("acme", Role::Admin, None).await;
    let (token, first) = server.login(json!({ "api_key": key })).await;
    let (_, other) = server.login(json!({ "api_key": key })).await;
    assert_eq!(server.status(&token, "/v1/agents").await, 200);
    let (status, next) = server.refresh(&first).await;
    assert_eq!(status, StatusCode::OK, "{next}");
    let (newer, second) = (text(&next, "token"), text(&next, "refresh_token"));
    assert!(newer != token && second != first);
    assert_eq!(server.refresh(&first).await.0, StatusCode::UNAUTHORIZED, "spent");
    assert_eq!(server.refresh(&second).await.0, StatusCode::UNAUTHORIZED, "the whole login is ended");
    for token in [&token, &newer] {
        assert_eq!(server.status(token, "/v1/agents").await, 401);
    }
    let records = server.audited(&key).await;
    assert!(records.iter().any(|line| line.ends_with("refresh session denied")), "{records:?}");
    assert_eq!(server.refresh(&other).await.0, StatusCode::OK, "another login goes on");
}

#[tokio::test]
async fn who_logs_out_is_out_everywhere() {
    let server = start().await;
    let second = server.second().await;
    let key = server.key("acme", Role::Developer, None).await;
    let (token, refresh) = server.login(json!({ "api_key": key })).await;
    let (_, made) = server.open("/v1/auth/token", json!({ "api_key": key })).await;
    let alone = text(&made, "token");
    let elsewhere = async |token: &str| {
        let request = server.client.get(format!("{second}/v1/agents")).bearer_auth(token);
        request.send().await.expect("answered").status().as_u16()
    };
    for token in [&token, &alone] {
        assert_eq!((server.status(token, "/v1/agents").await, elsewhere(token).await), (200, 200));
        let logout = server.as_key(token, Method::POST, "/v1/auth/logout").send().await.expect("answered");
        assert_eq!(logout.status(), StatusCode::NO_CONTENT);
        assert_eq!((server.status(token, "/v1/agents").await, elsewhere(token).await), (401, 401));
    }
    assert_eq!(server.refresh(&refresh).await.0, StatusCode::UNAUTHORIZED);
    assert_eq!(server.status(&key, "/v1/agents").await, 200, "the key itself is none the worse");
}

async fn user(server: &Server, admin: &str, body: Value) -> String {
    let (status, made) = ok(server.as_key(admin, Method::POST, "/v1/users").json(&body)).await;
    assert_eq!(status, StatusCode::CREATED, "{made}");
    assert!(!made.to_string().contains("argon2") && made["has_password"].is_boolean());
    text(&made, "id")
}

#[tokio::test]
async fn a_user_logs_in_and_is_who_the_tenant_says() {
    let server = start_with(|cfg| cfg.local_users = true).await;
    let admin = server.key("acme", Role::Admin, None).await;
    let id = user(&server, &admin, json!({ "name": "ann", "role": "developer", "password": PASSWORD })).await;
    user(&server, &admin, json!({ "name": "bob" })).await;
    let ann = json!({ "user": "ann", "password": PASSWORD, "tenant": "acme" });
    let (token, refresh) = server.login(ann.clone()).await;
    assert_eq!((server.status(&token, "/v1/agents").await, server.status(&token, "/v1/users").await), (200, 403));
    let (_, shown) = ok(server.as_key(&admin, Method::GET, "/v1/users/ann")).await;
    assert!(shown["last_login_at"].is_string() && shown["id"] == json!(id), "{shown}");
    for (user, password, tenant) in [
        ("ann", "wrong", "acme"),
        ("ann", PASSWORD, "default"),
        ("bob", "", "acme"),
        ("bob", "x", "acme"),
        ("eve", "x", "acme"),
        ("ann", PASSWORD, "No!"),
    ] {
        let body = json!({ "user": user, "password": password, "tenant": tenant });
        assert_eq!(server.open("/v1/auth/login", body).await.0, StatusCode::UNAUTHORIZED, "{user} {tenant}");
    }
    let records = server.audited(&admin).await;
    assert!(records.contains(&format!("{id} login session success")), "{records:?}");
    assert!(records.contains(&"system:login login user denied".to_owned()), "{records:?}");
    let patch = async |body: Value| {
        let request = server.as_key(&admin, Method::PATCH, &format!("/v1/users/{id}")).json(&body);
        assert_eq!(request.send().await.expect("answered").status(), StatusCode::OK, "{body}");
    };
    patch(json!({ "role": "viewer" })).await;
    let create = server.as_key(&token, Method::POST, "/v1/agents").json(&json!({ "image": "never" }));
    problem(create, 403, "FORBIDDEN").await;
    patch(json!({ "password": "another one of them" })).await;
    assert_eq!((server.status(&token, "/v1/agents").await, server.refresh(&refresh).await.0.as_u16()), (401, 401));
    assert_eq!(server.open("/v1/auth/login", ann).await.0, StatusCode::UNAUTHORIZED, "the old password");
    let ann = json!({ "user": "ann", "password": "another one of them", "tenant": "acme" });
    let (token, _) = server.login(ann.clone()).await;
    patch(json!({ "disabled": true })).await;
    assert_eq!(server.status(&token, "/v1/agents").await, 401);
    assert_eq!(server.open("/v1/auth/login", ann.clone()).await.0, StatusCode::UNAUTHORIZED);
    patch(json!({ "disabled": false })).await;
    let (token, _) = server.login(ann).await;
    let gone = server.as_key(&admin, Method::DELETE, "/v1/users/ann").send().await.expect("answered");
    assert_eq!((gone.status(), server.status(&token, "/v1/agents").await), (StatusCode::NO_CONTENT, 401));
}

#[tokio::test]
async fn nobody_makes_a_user_who_may_more() {
    let server = start().await;
    let admin = server.key("acme", Role::Admin, None).await;
    let post = |key: &str, body: Value| server.as_key(key, Method::POST, "/v1/users").json(&body);
    for role in ["platform_admin", "operator"] {
        problem(post(&admin, json!({ "name": "eve", "role": role })), 400, "VALIDATION_ERROR").await;
        problem(post(&server.admin, json!({ "name": "eve", "role": role })), 403, "FORBIDDEN").await;
    }
    let platform = server.key("default", Role::PlatformAdmin, None).await;
    let root = user(&server, &platform, json!({ "name": "root", "role": "platform_admin" })).await;
    // An admin of the same tenant, who may less.
    let path = format!("/v1/users/{root}");
    for body in [json!({ "disabled": true }), json!({ "password": PASSWORD }), json!({ "role": "viewer" })] {
        problem(server.as_key(&server.admin, Method::PATCH, &path).json(&body), 403, "FORBIDDEN").await;
    }
    problem(server.as_key(&server.admin, Method::DELETE, &path), 403, "FORBIDDEN").await;
    let manager = server.key("acme", Role::Admin, Some(BTreeSet::from([Permission::KeyManage]))).await;
    problem(post(&manager, json!({ "name": "eve", "role": "viewer" })), 403, "FORBIDDEN").await;
    for body in [
        json!({ "name": "Eve" }),
        json!({ "name": "eve", "role": "king" }),
        json!({ "name": "eve", "password": "too short" }),
        json!({ "name": "eve", "password": "x".repeat(257) }),
        json!({ "name": "eve", "disabled": true }),
    ] {
        problem(post(&admin, body), 400, "VALIDATION_ERROR").await;
    }
    user(&server, &admin, json!({ "name": "eve" })).await;
    problem(post(&admin, json!({ "name": "eve" })), 409, "CONFLICT").await;
}

#[tokio::test]
async fn guessing_ends_and_being_right_does_not() {
    let server = start().await;
    let wrong = || server.open("/v1/auth/login", json!({ "api_key": "aether_sk_x" }));
    for _ in 0..60 {
        server.login(json!({ "api_key": server.admin })).await;
    }
    let mut refused = 0;
    for _ in 0..30 {
        refused += u32::from(wrong().await.0 == StatusCode::TOO_MANY_REQUESTS);
    }
    assert!((5..=10).contains(&refused), "{refused} of 30 guesses");
    let request = server.client.post(format!("{}/v1/auth/token", server.url)).json(&json!({ "api_key": server.admin }));
    let answer = problem(request, 429, "RATE_LIMITED").await;
    assert_eq!(answer["retryable"], json!(true));
    assert_eq!(server.status(&server.admin, "/v1/agents").await, 200, "what a key is for goes on");
}

#[tokio::test]
async fn logins_count_as_requests_of_their_tenant() {
    let server = start().await;
    let by = TenantScope::system(TenantId::default_tenant(), "test");
    let small = NewTenant::new(&"small".parse().expect("an id"), Tier::Free);
    server.store.create_tenant(&by, small).await.expect("made");
    let key = server.key("small", Role::Admin, None).await;
    let mut refused = 0;
    for n in 0..40 {
        let path = if n % 2 == 0 { "/v1/auth/login" } else { "/v1/auth/token" };
        refused += u32::from(server.open(path, json!({ "api_key": key })).await.0 == StatusCode::TOO_MANY_REQUESTS);
    }
    assert!(refused > 10, "{refused} of 40");
}

#[tokio::test]
async fn the_public_keys_are_shown_and_a_secret_is_not() {
    let server = start().await;
    let (status, jwks) = ok(server.client.get(format!("{}/.well-known/jwks.json", server.url))).await;
    assert_eq!((status, &jwks["keys"][0]["kty"]), (StatusCode::OK, &json!("OKP")));
    let (_, made) = server.open("/v1/auth/token", json!({ "api_key": server.admin })).await;
    let (token, key) = (text(&made, "token"), &jwks["keys"][0]);
    let (signed, signature) = token.rsplit_once('.').expect("a token");
    let decode = |text: &str| BASE64URL_NOPAD.decode(text.as_bytes()).expect("base 64");
    let public = ring::signature::UnparsedPublicKey::new(&ring::signature::ED25519, decode(&text(key, "x")));
    public.verify(signed.as_bytes(), &decode(signature)).expect("anybody can verify it");
    let secret = aether_core::Secret::new("s".repeat(32));
    let server = start_with(|cfg| cfg.jwt.secret = Some(secret)).await;
    let (_, jwks) = ok(server.client.get(format!("{}/.well-known/jwks.json", server.url))).await;
    assert_eq!(jwks, json!({ "keys": [] }));
    let (token, _) = server.login(json!({ "api_key": server.admin })).await;
    assert_eq!(server.status(&token, "/v1/agents").await, 200);
    let short = Duration::from_secs(1);
    let server = start_with(|cfg| cfg.jwt.token_duration = short).await;
    let (token, _) = server.login(json!({ "api_key": server.admin })).await;
    tokio::time::sleep(short + Duration::from_millis(100)).await;
    assert_eq!(server.status(&token, "/v1/agents").await, 401, "it has expired");
}
