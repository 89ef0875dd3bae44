//! docs/reference.md: every route with its parameters, bodies and answers,
//! from the OpenAPI document and the table of routes.

use crate::api::document::documented;
use crate::api::routes::{self, Access, Deadline};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write;

const HEAD: &str = "\
# API reference

<!-- Written from the routes. Renew: UPDATE_DOCS=1 cargo test -p aether-control pages -->

Every route and every document, as the server has them; the same as [openapi.json](openapi.json), to be read.
[api.md](api.md) says how they are used, [errors.md](errors.md) what an error means, [limits.md](limits.md) what bounds
there are. Every route under `/v1` can also answer 401, 403, 429, 500 and 503.
";

#[test]
fn the_reference_is_up_to_date() {
    let document = serde_json::to_value(crate::api::openapi()).expect("serialises");
    let mut groups: BTreeMap<String, String> = BTreeMap::new();
    for entry in routes::table() {
        let path = documented(&entry.path);
        let item = serde_json::to_value(entry.document.paths.values().next()).expect("serialises");
        let method = item.as_object().and_then(|o| o.keys().next()).expect("one method").clone();
        let operation = &document["paths"][&path][&method];
        let group = operation["tags"][0].as_str().expect("each route has a tag").to_owned();
        write_route(groups.entry(group).or_default(), &method, &path, operation, entry.rule);
    }
    let mut page = HEAD.to_owned();
    for (group, routes) in groups {
        let _ = write!(page, "\n## {group}\n{routes}");
    }
    page.push_str("\n## Documents\n\nA field with a `*` is always there in answers, and needed in requests.\n");
    for (name, schema) in document["components"]["schemas"].as_object().expect("schemas") {
        write_schema(&mut page, name, schema);
    }
    super::compare("reference.md", &page);
}

fn write_route(page: &mut String, method: &str, path: &str, operation: &Value, rule: routes::Rule) {
    let access = match rule.access {
        Access::Open => "open to all".to_owned(),
        Access::Metrics => "open, or `agent:read` with `observability.metrics_auth`".to_owned(),
        Access::Caller => "needs any key or token".to_owned(),
        Access::Needs(permission) => format!("needs `{}`", permission.as_str()),
    };
    let deadline = match rule.deadline {
        Deadline::Short => "short deadline",
        Deadline::Wait => "may wait",
        Deadline::Exec => "as long as its command",
        Deadline::Stream => "a stream",
    };
    let _ = writeln!(page, "\n### {} `{path}`\n", method.to_uppercase());
    let summary = text(&operation["summary"]);
    let _ = writeln!(page, "{summary} *{access}; {deadline}.*");
    let parameters = operation["parameters"].as_array().map(Vec::as_slice).unwrap_or_default();
    if !parameters.is_empty() {
        page.push_str("\n| parameter | in | value | meaning |\n|---|---|---|---|\n");
    }
    for parameter in parameters {
        let needed = if parameter["required"] == true && parameter["in"] != "path" { "*" } else { "" };
        let _ = writeln!(
            page,
            "| `{}`{needed} | {} | {} | {} |",
            text(&parameter["name"]),
            text(&parameter["in"]),
            kind(&parameter["schema"]),
            text(&parameter["description"]),
        );
    }
    page.push('\n');
    for (media, body) in operation["requestBody"]["content"].as_object().into_iter().flatten() {
        let _ = writeln!(page, "- body: {}", content(media, body));
    }
    // That any may answer a problem the page's beginning says.
    let answers = operation["responses"].as_object().expect("answers");
    for (status, answer) in answers.iter().filter(|(status, _)| *status != "default") {
        let about = text(&answer["description"]);
        let about = if about.is_empty() { String::new() } else { format!(": {about}") };
        let bodies = answer["content"].as_object().into_iter().flatten();
        let bodies: Vec<String> = bodies.map(|(media, body)| content(media, body)).collect();
        let bodies = if bodies.is_empty() { String::new() } else { format!(" — {}", bodies.join(", or ")) };
        let _ = writeln!(page, "- {status}{about}{bodies}");
    }
}

/// A body: JSON by its document, anything else by its media type.
fn content(media: &str, body: &Value) -> String {
    match media {
        "application/json" | "application/problem+json" => kind(&body["schema"]),
        other => format!("`{other}`"),
    }
}

fn write_schema(page: &mut String, name: &str, schema: &Value) {
    let _ = writeln!(page, "\n### {name}\n");
    let about = text(&schema["description"]);
    if !about.is_empty() {
        let _ = writeln!(page, "{about}\n");
    }
    if let Some(values) = schema["enum"].as_array() {
        let values: Vec<String> = values.iter().map(|v| format!("`{}`", text(v))).collect();
        let _ = writeln!(page, "One of {}.", values.join(", "));
        return;
    }
    let parts = schema["allOf"].as_array().map_or_else(|| std::slice::from_ref(schema), Vec::as_slice);
    for part in parts.iter().filter(|p| p["$ref"].is_string()) {
        let _ = writeln!(page, "All of {}, and:\n", kind(part));
    }
    page.push_str("| field | value | meaning |\n|---|---|---|\n");
    for part in parts {
        let required = part["required"].as_array().map(Vec::as_slice).unwrap_or_default();
        for (field, value) in part["properties"].as_object().into_iter().flatten() {
            let needed = if required.iter().any(|r| r == field) { "*" } else { "" };
            let _ = writeln!(page, "| `{field}`{needed} | {} | {} |", kind(value), text(&value["description"]));
        }
    }
}

/// A type in words.
fn kind(schema: &Value) -> String {
    if let Some(reference) = schema["$ref"].as_str() {
        let name = reference.rsplit('/').next().unwrap_or_default();
        return format!("[{name}](#{})", name.to_lowercase());
    }
    if let Some(one) = schema["oneOf"].as_array().or(schema["allOf"].as_array()) {
        let kinds: Vec<String> = one.iter().filter(|s| s["type"] != "null").map(kind).collect();
        return kinds.join(" or ");
    }
    let mut types: Vec<&str> = match &schema["type"] {
        Value::Array(several) => several.iter().filter_map(Value::as_str).collect(),
        one => one.as_str().into_iter().collect(),
    };
    types.retain(|t| *t != "null");
    match (types.first().copied(), schema["format"].as_str()) {
        (Some("array"), _) => format!("list of {}", kind(&schema["items"])),
        (Some("object"), _) if schema["additionalProperties"].is_object() => {
            format!("map to {}", kind(&schema["additionalProperties"]))
        }
        (Some("string"), Some("date-time")) => "time (RFC 3339)".to_owned(),
        (Some("integer"), _) => "whole number".to_owned(),
        (Some("string"), _) => "text".to_owned(),
        (Some("boolean"), _) => "true or false".to_owned(),
        (Some(other), _) => other.to_owned(),
        (None, _) => "any".to_owned(),
    }
}

/// A description on one line of a table.
fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}
