//! Two tenants, what the first has, and everybody who may or may not ask for
//! it.

use crate::harness::{Server, ok, start};
use aether_control::auth::ApiKey;
use aether_core::source::{OsRng, SystemClock};
use aether_core::{Clock, Permission, Role};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The tenant whose things are asked for.
pub(super) const MINE: &str = "mine";
const OTHER: &str = "other";
const ASLEEP: &str = "asleep";
/// What has ended by itself within this time.
const SOON: Duration = Duration::from_secs(1);

/// What the server must make of a caller.
#[derive(Clone, Copy)]
pub(super) enum Standing {
    Nobody,
    Suspended,
    Of {
        tenant: &'static str,
        role: Role,
        scope: Option<&'static str>,
    },
    /// Of the owner's tenant, and reaches nothing of what is asked for.
    Narrowed,
}

pub(super) struct Actor {
    pub(super) name: &'static str,
    pub(super) key: Option<String>,
    pub(super) standing: Standing,
}

/// The ids of one set of things.
#[derive(Clone, Debug)]
pub(super) struct Names {
    pub(super) agent: String,
    pub(super) exec: String,
    pub(super) key: String,
    pub(super) user: String,
    pub(super) secret: String,
    pub(super) image: String,
    pub(super) tenant: String,
    /// A service account's id.
    pub(super) account: String,
    pub(super) role: String,
    pub(super) label: String,
}

pub(super) struct World {
    pub(super) server: Server,
    pub(super) actors: Vec<Actor>,
    /// By id; the agent's name and alias are [`NAME`] and [`ALIAS`].
    pub(super) mine: Names,
    pub(super) digest: String,
    /// Of the other tenant's own agent.
    pub(super) own: String,
    /// Of a narrowed key's own agent.
    pub(super) within: String,
    pub(super) admin: String,
    pub(super) platform: String,
    next: AtomicU64,
}

pub(super) const NAME: &str = "prime";
pub(super) const ALIAS: &str = "prime-too";
/// The idempotency key under which the owner's agent was made.
pub(super) const ONCE: &str = "once";
/// The secret that the owner keeps.
const KEPT: &str = "owners-secret";
/// What its env and the secret hold.
pub(super) const SECRET: &str = "of-mine";

/// What is nobody's, of each kind.
pub(super) fn absent() -> Names {
    Names {
        agent: "agtc0aaaaaaaaaaaaaaaa".into(),
        exec: "exec0aaaaaaaaaaaaaaaa".into(),
        key: "keyc0aaaaaaaaaaaaaaaa".into(),
        user: "usrc0aaaaaaaaaaaaaaaa".into(),
        secret: "nobodys-secret".into(),
        image: "absent/image:1".into(),
        tenant: "nobody".into(),
        account: "svac0aaaaaaaaaaaaaaaa".into(),
        role: "nobodys-own".into(),
        label: "absent=1".into(),
    }
}

/// An agent that takes little.
pub(super) fn agent(name: &str, image: &str) -> Value {
    json!({ "name": name, "image": image, "resources": { "memory_mb": 128, "disk_mb": 1024 } })
}

async fn made(request: reqwest::RequestBuilder) -> Value {
    let (status, body) = ok(request).await;
    assert!(status.is_success(), "{status}: {body}");
    body
}

fn text(value: &Value, field: &str) -> String {
    value[field].as_str().unwrap_or_else(|| panic!("{field} of {value}")).to_owned()
}

impl World {
    pub(super) async fn new() -> Self {
        let server = start().await;
        let admin = server.key(MINE, Role::Admin, None).await;
        let other = server.key(OTHER, Role::Admin, None).await;
        let platform = server.key("default", Role::PlatformAdmin, None).await;
        let as_admin = |method: Method, path: &str| server.as_key(&admin, method, path);
        let body = json!({ "id": ALIAS, "env": { "SECRET": SECRET }, "labels": { "a": "b" } });
        let mut prime = agent(NAME, "python:3.11");
        prime.as_object_mut().expect("object").extend(body.as_object().expect("object").clone());
        let prime = as_admin(Method::POST, "/v1/agents?wait=running").header("idempotency-key", ONCE).json(&prime);
        let prime = made(prime).await;
        let path = format!("/v1/agents/{NAME}");
        let exec = as_admin(Method::POST, &format!("{path}/exec")).json(&json!({ "command": ["echo", "a"] }));
        let exec = made(exec).await;
        let file = as_admin(Method::PUT, &format!("{path}/files?path=/a")).body("a");
        made(file.header("content-type", "application/octet-stream")).await;
        let key = as_admin(Method::POST, "/v1/auth/keys").json(&json!({ "name": "kept", "role": "viewer" }));
        let key = made(key).await;
        let account = as_admin(Method::POST, "/v1/service-accounts").json(&json!({ "name": "bot", "role": "viewer" }));
        let account = made(account).await;
        let role = json!({ "name": "owners-own", "permissions": ["agent:read"] });
        made(as_admin(Method::POST, "/v1/roles").json(&role)).await;
        let user = as_admin(Method::POST, "/v1/users").json(&json!({ "name": "kept", "role": "viewer" }));
        let user = made(user).await;
        made(as_admin(Method::PUT, &format!("/v1/secrets/{KEPT}")).json(&json!({ "value": SECRET }))).await;
        let own = server.as_key(&other, Method::POST, "/v1/agents?wait=running").json(&agent("own", "python:3.11"));
        let own = text(&made(own).await, "id");
        let mine = Names {
            agent: text(&prime, "id"),
            exec: text(&exec, "exec_id"),
            key: text(&key, "id"),
            user: text(&user, "id"),
            secret: KEPT.into(),
            image: "team/app:1".into(),
            tenant: MINE.into(),
            account: text(&account, "id"),
            role: "owners-own".into(),
            label: "a=b".into(),
        };
        let actors = cast(&server, &admin, &other, &platform).await;
        let narrowed = actors.iter().find(|actor| matches!(actor.standing, Standing::Narrowed)).expect("is cast");
        let key = narrowed.key.as_deref().expect("a key");
        let within = server.as_key(key, Method::POST, "/v1/agents?wait=running").json(&agent("within", "python:3.11"));
        let within = text(&made(within).await, "id");
        let next = AtomicU64::new(1);
        let mut world = Self { server, actors, mine, digest: String::new(), own, within, admin, platform, next };
        world.pull().await;
        let image = world.admin(Method::GET, &format!("/v1/images/{}", world.mine.image));
        world.digest = text(&made(image).await, "digest");
        world
    }

    pub(super) fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn admin(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.server.as_key(&self.admin, method, path)
    }

    /// The image that [`Names::image`] names, again if it is gone.
    pub(super) async fn pull(&self) {
        let body = json!({ "reference": self.mine.image });
        let response = self.admin(Method::POST, "/v1/images").json(&body).send().await.expect("answered");
        assert_eq!(response.status(), StatusCode::OK);
        response.bytes().await.expect("body");
    }

    pub(super) async fn fresh_agent(&self) -> Names {
        let name = format!("fresh-{}", self.number());
        let agent = made(self.admin(Method::POST, "/v1/agents").json(&agent(&name, "never"))).await;
        Names { agent: text(&agent, "id"), ..self.mine.clone() }
    }

    pub(super) async fn fresh_key(&self) -> Names {
        let body = json!({ "name": "fresh", "role": "viewer" });
        let key = made(self.admin(Method::POST, "/v1/auth/keys").json(&body)).await;
        Names { key: text(&key, "id"), ..self.mine.clone() }
    }

    pub(super) async fn fresh_account(&self) -> Names {
        let body = json!({ "name": format!("fresh-{}", self.number()) });
        let account = made(self.admin(Method::POST, "/v1/service-accounts").json(&body)).await;
        Names { account: text(&account, "id"), ..self.mine.clone() }
    }

    pub(super) async fn fresh_role(&self) -> Names {
        let role = format!("fresh-{}", self.number());
        let body = json!({ "name": role, "permissions": ["agent:read"] });
        made(self.admin(Method::POST, "/v1/roles").json(&body)).await;
        Names { role, ..self.mine.clone() }
    }

    pub(super) async fn fresh_label(&self) -> Names {
        let label = format!("fresh={}", self.number());
        let put = self.admin(Method::PUT, &format!("/v1/quotas/me/labels/{label}"));
        made(put.json(&json!({ "max_agents": 10_000 }))).await;
        Names { label, ..self.mine.clone() }
    }

    pub(super) async fn fresh_user(&self) -> Names {
        let body = json!({ "name": format!("fresh-{}", self.number()), "role": "viewer" });
        let user = made(self.admin(Method::POST, "/v1/users").json(&body)).await;
        Names { user: text(&user, "id"), ..self.mine.clone() }
    }

    pub(super) async fn fresh_secret(&self) -> Names {
        let secret = format!("fresh-{}", self.number());
        made(self.admin(Method::PUT, &format!("/v1/secrets/{secret}")).json(&json!({ "value": "x" }))).await;
        Names { secret, ..self.mine.clone() }
    }

    pub(super) async fn fresh_tenant(&self) -> Names {
        let tenant = format!("fresh-{}", self.number());
        self.server.tenant(&tenant.parse().expect("a tenant")).await;
        Names { tenant, ..self.mine.clone() }
    }

    pub(super) async fn fresh_file(&self, path: &str) {
        let put = self.admin(Method::PUT, &format!("/v1/agents/{NAME}/files?path={path}")).body("a");
        made(put.header("content-type", "application/octet-stream")).await;
    }

    /// All that the first tenant has, and that happened to it.
    pub(super) async fn state(&self) -> Vec<(String, Value)> {
        let mut state = Vec::new();
        for path in [
            "/v1/agents?per_page=100&label=a%3Db",
            "/v1/agents/prime?show=env",
            "/v1/agents/prime/execs",
            "/v1/auth/keys?per_page=100",
            "/v1/users?per_page=100",
            "/v1/secrets?per_page=100",
            "/v1/secrets/owners-secret",
            "/v1/images",
            "/v1/service-accounts",
            "/v1/roles",
            "/v1/quotas/me/labels",
            "/v1/quotas/me",
            "/v1/events?limit=1000&agent=prime",
        ] {
            // Gone is a change too.
            let (_, mut document) = ok(self.admin(Method::GET, path)).await;
            // Of a key; that it is used is no change.
            for row in document.get_mut("data").and_then(Value::as_array_mut).into_iter().flatten() {
                row["last_used_at"] = Value::Null;
            }
            // How far the log is; narrowed keys make agents of their own.
            if let Some(next) = document.get_mut("next") {
                *next = Value::Null;
            }
            state.push((path.to_owned(), document));
        }
        state.push(("execs begun".into(), json!(self.server.node.all_runs())));
        state.push(("bytes of /a".into(), json!(self.server.node.written("/a"))));
        state
    }
}

/// One of each kind of caller.
async fn cast(server: &Server, admin: &str, other: &str, platform: &str) -> Vec<Actor> {
    let asleep = server.key(ASLEEP, Role::Admin, None).await;
    made(server.as_key(platform, Method::POST, &format!("/v1/tenants/{ASLEEP}/suspend"))).await;
    let revoked = server.as_key(admin, Method::POST, "/v1/auth/keys").json(&json!({ "name": "r", "role": "admin" }));
    let revoked = made(revoked).await;
    let path = format!("/v1/auth/keys/{}", text(&revoked, "id"));
    made(server.as_key(admin, Method::DELETE, &path)).await;
    let soon = SystemClock::default().now().plus(SOON);
    let expired = json!({ "name": "e", "role": "admin", "expires_at": soon });
    let expired = made(server.as_key(admin, Method::POST, "/v1/auth/keys").json(&expired)).await;
    tokio::time::sleep(SOON + Duration::from_millis(200)).await;
    let narrow = BTreeSet::from([Permission::AgentRead]);
    let narrow = server.key(MINE, Role::Admin, Some(narrow)).await;
    let narrowed = async |name: &str, allow: Value| {
        let body = json!({ "name": name, "role": "admin", "allow": allow });
        text(&made(server.as_key(admin, Method::POST, "/v1/auth/keys").json(&body)).await, "key")
    };
    let to_both = narrowed("both", json!({ "labels": { "team": "x" }, "images": ["never", "python:3.11"] })).await;
    let to_images = narrowed("images", json!({ "images": ["never"] })).await;
    let unknown = ApiKey::generate(&OsRng).text().expose().to_owned();
    let of = |tenant, role| Standing::Of { tenant, role, scope: None };
    let actor = |name, key: String, standing| Actor { name, key: Some(key), standing };
    vec![
        Actor { name: "anonymous", key: None, standing: Standing::Nobody },
        actor("an unknown key", unknown, Standing::Nobody),
        actor("a revoked key", text(&revoked, "key"), Standing::Nobody),
        actor("an expired key", text(&expired, "key"), Standing::Nobody),
        actor("a suspended tenant's admin", asleep, Standing::Suspended),
        actor("another tenant's admin", other.to_owned(), of(OTHER, Role::Admin)),
        actor("own viewer", server.key(MINE, Role::Viewer, None).await, of(MINE, Role::Viewer)),
        actor("own auditor", server.key(MINE, Role::Auditor, None).await, of(MINE, Role::Auditor)),
        actor("own developer", server.key(MINE, Role::Developer, None).await, of(MINE, Role::Developer)),
        actor("own admin", admin.to_owned(), of(MINE, Role::Admin)),
        actor("operator", server.key("default", Role::Operator, None).await, of("default", Role::Operator)),
        actor("platform admin", platform.to_owned(), of("default", Role::PlatformAdmin)),
        actor("own key narrowed to a label and images", to_both, Standing::Narrowed),
        actor("own key narrowed to an image", to_images, Standing::Narrowed),
        actor(
            "own key of one scope",
            narrow,
            Standing::Of { tenant: MINE, role: Role::Admin, scope: Some("agent:read") },
        ),
    ]
}
