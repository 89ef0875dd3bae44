//! Mass assignment: each field of each document that the API answers with, and
//! some that it never heard of, in the body of each operation that takes JSON.
//! All are refused, and what they are about stays as it was.

use super::ask::Ask;
use super::judge;
use super::table::{Object, TABLE};
use super::world::{MINE, World, agent};
use aether_counted::Counted;
use reqwest::Method;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// Names that other servers took, or that a parser may take for another.
const UNHEARD_OF: [&str; 16] = [
    "Role",
    "ROLE",
    "role ",
    "tenantId",
    "tenant-id",
    "isAdmin",
    "is_admin",
    "admin",
    "permissions",
    "owner",
    "$set",
    "__proto__",
    "constructor",
    "role\u{0}",
    "rоle",
    "",
];

/// The document's schemas.
struct Schemas(Value);

impl Schemas {
    fn resolve<'a>(&'a self, schema: &'a Value) -> &'a Value {
        let inner = schema["oneOf"].as_array().and_then(|all| all.iter().find(|s| s["$ref"].is_string()));
        let schema = inner.unwrap_or(schema);
        match schema["$ref"].as_str().and_then(|to| to.rsplit('/').next()) {
            Some(name) => &self.0["components"]["schemas"][name],
            None => schema,
        }
    }

    /// What it has by name, also where it is put together of others.
    fn fields(&self, schema: &Value) -> BTreeMap<String, Value> {
        let schema = self.resolve(schema);
        let parts = schema["allOf"].as_array().into_iter().flatten().flat_map(|part| self.fields(part));
        let own = schema["properties"].as_object().into_iter().flatten();
        parts.chain(own.map(|(name, schema)| (name.clone(), schema.clone()))).collect()
    }

    /// A value that the field could have.
    fn value(&self, name: &str, schema: &Value) -> Value {
        let telling = match name {
            "role" => Some("platform_admin"),
            "tenant_id" => Some("other"),
            "tier" => Some("unlimited"),
            "status" => Some("suspended"),
            "desired" => Some("gone"),
            _ => None,
        };
        if let Some(telling) = telling {
            return json!(telling);
        }
        let schema = self.resolve(schema);
        let kind = schema["type"].as_str().or_else(|| schema["type"][0].as_str());
        match (schema["enum"].get(0), kind) {
            (Some(word), _) => word.clone(),
            (None, Some("integer" | "number")) => json!(77),
            (None, Some("boolean")) => json!(true),
            (None, Some("array")) => json!([]),
            (None, Some("string")) => json!("taken"),
            _ => json!({}),
        }
    }

    /// Of all documents, by name and value.
    fn all(&self) -> Vec<(String, Value)> {
        let schemas = self.0["components"]["schemas"].as_object().expect("schemas");
        let mut all: BTreeMap<(String, String), Value> = BTreeMap::new();
        for schema in schemas.values() {
            for (name, of) in self.fields(schema) {
                let value = self.value(&name, &of);
                all.insert((name, value.to_string()), value);
            }
        }
        let heard_of = all.into_iter().map(|((name, _), value)| (name, value));
        heard_of.chain(UNHEARD_OF.map(|name| (name.to_owned(), json!("platform_admin")))).collect()
    }

    fn body(&self, method: &str, path: &str) -> Option<Value> {
        let content = &self.0["paths"][path][method.to_lowercase()]["requestBody"]["content"];
        Some(content["application/json"]["schema"].clone()).filter(|schema| !schema.is_null())
    }
}

/// The bodies with one field too many: at the top, and within each object.
fn widened(schemas: &Schemas, schema: &Value, body: &Value, extra: &(String, Value)) -> Vec<(String, Value)> {
    let known = schemas.fields(schema);
    let mut bodies = Vec::new();
    if !known.contains_key(&extra.0) {
        let mut wide = body.clone();
        wide[&extra.0] = extra.1.clone();
        bodies.push((extra.0.clone(), wide));
    }
    for (name, of) in known {
        let inner: BTreeSet<String> = schemas.fields(&of).into_keys().collect();
        if !inner.is_empty() && !inner.contains(&extra.0) {
            let mut wide = body.clone();
            wide[&name][&extra.0] = extra.1.clone();
            bodies.push((format!("{name}.{}", extra.0), wide));
        }
    }
    bodies
}

async fn refused(world: &World, key: &str, ask: &Ask, what: &str) -> Option<String> {
    let method: Method = ask.method.parse().expect("a method");
    let body = ask.body.as_ref().expect("a body");
    let response = world.server.as_key(key, method, &ask.path).json(body).send().await.expect("answered");
    let (status, text) = (response.status().as_u16(), response.text().await.unwrap_or_default());
    // Each item of many is refused by itself.
    let fine = status == 400 || (status == 207 && text.contains("\"status\":400") && !text.contains("\"status\":201"));
    (!fine).then(|| format!("{} {} with {what}: {status} {text}", ask.method, ask.path))
}

/// Fields that a body does have, with a value that must not do what it says.
async fn own_fields(world: &World, wrong: &mut Vec<Option<String>>) {
    let key = |role: &str| Ask::new("POST", "/v1/auth/keys", Some(json!({ "name": "k", "role": role })));
    let mut asks = vec![key("platform_admin"), key("operator")];
    for id in [&world.mine.agent, "agtc0bbbbbbbbbbbbbbbb"] {
        let mut body = agent("with-an-id", "never");
        body["id"] = json!(id);
        asks.push(Ask::new("POST", "/v1/agents", Some(body)));
        asks.push(Ask::new("PATCH", "/v1/agents/prime", Some(json!({ "name": id }))));
    }
    let mut body = agent("of-others", "never");
    body["tenant_id"] = json!("other");
    asks.push(Ask::new("POST", "/v1/agents", Some(body)));
    for ask in asks {
        let method: Method = ask.method.parse().expect("a method");
        let body = ask.body.as_ref().expect("a body");
        let status = world.admin(method, &ask.path).json(body).send().await.expect("answered").status().as_u16();
        wrong.push((!matches!(status, 400 | 403)).then(|| format!("{ask:?}: {status}")));
    }
}

#[tokio::test]
async fn no_field_is_written_that_is_not_asked_for() {
    let world = World::new().await;
    let schemas = Schemas(serde_json::to_value(aether_control::openapi()).expect("JSON"));
    let mut counted = Counted::new("matrix", 24, "mass assignment: fields of answers in requests", 0);
    let (before, extras) = (world.state().await, schemas.all());
    let mut found = Vec::new();
    let mut routes = 0;
    for row in TABLE {
        let Some(schema) = schemas.body(row.method, row.path) else { continue };
        routes += 1;
        let ask = Ask::of(row, &world.mine, true, 1);
        let body = ask.body.clone().expect("each operation that takes JSON has a body here");
        let platform = row.object == Object::Platform || row.needs == "platform:admin" || row.needs == "quota:write";
        let key = if platform { &world.platform } else { &world.admin };
        for extra in &extras {
            let mut wide = widened(&schemas, &schema, &body, extra);
            if row.path.ends_with("/bulk/create") {
                let item = json!({ "$ref": "#/components/schemas/AgentConfig" });
                let items = widened(&schemas, &item, &body["agents"][0], extra).into_iter();
                wide.extend(items.map(|(what, item)| (format!("an item's {what}"), json!({ "agents": [item] }))));
            }
            for (what, body) in wide {
                let ask = Ask { body: Some(body), ..ask.clone() };
                found.push(refused(&world, key, &ask, &what).await);
            }
        }
    }
    assert!(routes >= 15, "{routes} routes take JSON");
    own_fields(&world, &mut found).await;
    for ((what, before), (_, after)) in before.into_iter().zip(world.state().await) {
        found.push((before != after).then(|| format!("{what} of {MINE} changed: {before} became {after}")));
    }
    counted.n = found.len() as u64;
    let wrong: Vec<String> = found.into_iter().flatten().collect();
    judge(&mut counted, &wrong);
    assert!(wrong.is_empty(), "{} of {} are wrong, the first: {}", wrong.len(), counted.n, wrong[0]);
}
