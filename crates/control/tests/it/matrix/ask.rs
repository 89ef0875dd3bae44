//! One request of the matrix, and what is compared of its answer.

use super::table::{Object, Row};
use super::world::{Actor, MINE, Names, SECRET, World, agent};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(30);

/// Where else in the request the owner's ids stand, beside where the operation
/// wants them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Nowhere,
    TenantHeader,
    /// One that other systems go by, and this one does not.
    StrangeHeader,
    Query,
    Body,
}

impl Place {
    pub(super) const ALL: [Place; 5] =
        [Place::Nowhere, Place::TenantHeader, Place::StrangeHeader, Place::Query, Place::Body];
}

#[derive(Clone, Debug)]
pub(super) struct Ask {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) body: Option<Value>,
    pub(super) headers: Vec<(&'static str, String)>,
}

#[derive(Debug, PartialEq)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: BTreeSet<String>,
    pub(super) body: String,
}

impl Ask {
    pub(super) fn new(method: &str, path: impl Into<String>, body: Option<Value>) -> Self {
        Self { method: method.to_owned(), path: path.into(), body, headers: Vec::new() }
    }

    /// The operation on these things. `gently`: what it does is undone, or
    /// hurts no later case.
    pub(super) fn of(row: &Row, names: &Names, gently: bool, number: u64) -> Self {
        let id = match row.object {
            Object::Key => &names.key,
            Object::User => &names.user,
            Object::Tenant => &names.tenant,
            Object::Account => &names.account,
            _ => &names.agent,
        };
        let new = format!("made/by-matrix:{number}");
        let new_secret = format!("made-{number}");
        let name = match row.object {
            Object::Source => &new,
            Object::Role => &names.role,
            Object::Secret => &names.secret,
            Object::NewSecret => &new_secret,
            _ => &names.image,
        };
        let mut path = row.path.replace("{exec_id}", &names.exec).replace("{tenant_id}", &names.tenant);
        path = path.replace("{label}", &names.label);
        path = path.replace("{id}", id).replace("{name}", name).replace("{port}", "7");
        if row.path.ends_with("/files") {
            path += if row.method == "DELETE" { "?path=/gone" } else { "?path=/a" };
        }
        let mut ask = Self::new(row.method, path, body(row, names, gently, number));
        if row.method == "GET" && (row.path.ends_with("/exec") || row.path.ends_with("/ports/{port}")) {
            ask.upgrade();
        }
        ask
    }

    /// To a WebSocket.
    pub(super) fn upgrade(&mut self) {
        for (name, value) in [
            ("connection", "upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ] {
            self.headers.push((name, value.to_owned()));
        }
    }

    pub(super) fn at(mut self, place: Place, names: &Names) -> Self {
        match place {
            Place::Nowhere => {}
            Place::TenantHeader => self.headers.push(("aether-tenant", MINE.to_owned())),
            Place::StrangeHeader => self.headers.push(("x-tenant-id", MINE.to_owned())),
            Place::Query => {
                let and = if self.path.contains('?') { '&' } else { '?' };
                self.path = format!("{}{and}tenant_id={MINE}&id={}", self.path, names.agent);
            }
            Place::Body => {
                let body = self.body.get_or_insert_with(|| json!({ "id": names.agent }));
                body["tenant_id"] = json!(MINE);
            }
        }
        self
    }

    fn text(&self) -> String {
        format!("{} {:?} {:?}", self.path, self.body, self.headers)
    }

    /// Sends it; an answer must not name the owner's things where the request
    /// does not.
    pub(super) async fn send(&self, world: &World, actor: &Actor, ids: &[String]) -> Result<Answer, String> {
        let method = self.method.parse().expect("a method");
        let mut request = world.server.client.request(method, format!("{}{}", world.server.url, self.path));
        if let Some(key) = &actor.key {
            request = request.bearer_auth(key);
        }
        for (name, value) in &self.headers {
            request = request.header(*name, value);
        }
        if self.path.contains("/files") && self.method == "PUT" {
            request = request.header("content-type", "application/octet-stream").body("abc");
        } else if let Some(body) = &self.body {
            request = request.json(body);
        }
        let answered = async {
            let response = request.send().await.map_err(|e| format!("no answer: {e}"))?;
            let status = response.status().as_u16();
            let headers = response.headers().keys().map(|name| name.as_str().to_owned()).collect();
            let body = match status {
                // The body is a socket.
                101 => String::new(),
                _ => response.text().await.map_err(|e| format!("no body: {e}"))?,
            };
            Ok(Answer { status, headers, body })
        };
        let answered = tokio::time::timeout(PATIENCE, answered).await;
        let answer: Answer = answered.unwrap_or_else(|_| Err("no answer in time".to_owned()))?;
        let leaks = answer.leaks(world, &self.text());
        if let (Some(leak), false) = (leaks, actor.acts_for_owner(self)) {
            return Err(format!("it tells of {leak}: {}", answer.body));
        }
        Ok(answer.without(ids))
    }
}

impl Actor {
    fn acts_for_owner(&self, ask: &Ask) -> bool {
        use super::world::Standing;
        let Standing::Of { tenant, role, .. } = self.standing else { return false };
        let named = ask.headers.iter().any(|(name, _)| *name == "aether-tenant");
        tenant == MINE || (role == aether_core::Role::PlatformAdmin && named)
    }
}

impl Answer {
    fn leaks<'a>(&self, world: &'a World, asked: &str) -> Option<&'a str> {
        let mine = &world.mine;
        let things =
            [&mine.agent, &mine.exec, &mine.key, &mine.account, &mine.role, &mine.user, &mine.secret, &world.digest];
        let told = things.into_iter().map(String::as_str).chain([SECRET]);
        told.into_iter().find(|id| self.body.contains(id) && !asked.contains(id))
    }

    /// What an answer about one thing and about another may differ in.
    fn without(mut self, ids: &[String]) -> Self {
        for id in ids {
            self.body = self.body.replace(id, "<id>");
        }
        if let Ok(mut body) = serde_json::from_str::<Value>(&self.body)
            && let Some(id) = body.get_mut("request_id")
        {
            *id = Value::Null;
            self.body = body.to_string();
        }
        self
    }
}

fn body(row: &Row, names: &Names, gently: bool, number: u64) -> Option<Value> {
    Some(match (row.method, row.path) {
        ("POST", "/v1/agents") => agent(&format!("made-{number}"), "never"),
        ("POST", "/v1/agents/bulk/create") => json!({ "agents": [agent(&format!("made-{number}"), "never")] }),
        ("POST", "/v1/agents/bulk/delete") => json!({ "ids": [names.agent] }),
        ("PATCH", "/v1/agents/{id}") => json!({ "labels": { "n": number.to_string() } }),
        ("POST", "/v1/agents/{id}/exec") => json!({ "command": ["echo", "a"] }),
        ("POST", "/v1/agents/{id}/execs/{exec_id}/signal") => json!({ "signal": "9" }),
        ("POST", "/v1/agents/{id}/stop") => json!({ "force": true }),
        ("POST", "/v1/auth/keys") => json!({ "name": "made", "role": "viewer" }),
        ("PATCH", "/v1/auth/keys/{id}") => json!({ "name": format!("N {number}") }),
        ("POST", "/v1/auth/keys/{id}/rotate") => json!({ "overlap": "1h" }),
        ("POST", "/v1/service-accounts") => json!({ "name": format!("made-{number}"), "role": "viewer" }),
        ("POST", "/v1/roles") => json!({ "name": format!("made-{number}"), "permissions": ["agent:read"] }),
        ("PATCH", "/v1/roles/{name}") => json!({ "permissions": ["agent:read", "quota:read"] }),
        ("PUT", "/v1/quotas/{tenant_id}/labels/{label}") => json!({ "max_agents": 10_000 + number }),
        // Wrong ones are counted, so whoever only asks sends none.
        ("POST", "/v1/auth/token" | "/v1/auth/login") if gently => json!({ "api_key": "x" }),
        ("POST", "/v1/auth/refresh") if gently => json!({ "refresh_token": "x" }),
        ("POST", "/v1/users") => json!({ "name": format!("made-{number}"), "role": "viewer" }),
        ("PATCH", "/v1/users/{id}") => json!({ "role": if number.is_multiple_of(2) { "viewer" } else { "developer" } }),
        ("POST", "/v1/tenants") => json!({ "id": format!("made-{number}") }),
        ("PATCH", "/v1/tenants/{id}" | "/v1/tenants/me") => json!({ "name": format!("N {number}") }),
        ("PUT", "/v1/quotas/{tenant_id}") => json!({ "max_agents": 10_000 + number }),
        ("PUT", "/v1/secrets/{name}") => json!({ "value": format!("value {number}") }),
        ("POST", "/v1/secrets/{name}/rotate") => json!({ "bytes": 32 }),
        ("POST", "/v1/system/master-key") => json!({ "step": "drop" }),
        ("POST", "/v1/images") => json!({ "reference": format!("made/app:{number}") }),
        ("PUT", "/v1/images/{name}") => json!({ "source": names.image }),
        ("POST", "/v1/images/prune") => json!({ "dry_run": gently }),
        _ => return None,
    })
}
