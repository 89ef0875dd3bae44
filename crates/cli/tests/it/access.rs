//! `aether key`, `service-account`, `role` and `quota --label` against a live
//! server: what docs/keys.md shows.

use crate::live::Live;
use serde_json::json;

#[test]
fn keys_accounts_roles_and_budgets_from_the_command_line() {
    let mut live = Live::start(&[]);
    let text = |value: &serde_json::Value, field: &str| value[field].as_str().unwrap_or_default().to_owned();
    // A narrowed key with a budget.
    let narrow = ["--allow-label", "team=a", "--allow-image", "python:3.*", "--max-agents", "1"];
    let made = live.json(&[&["key", "create", "--name", "team-a"][..], &narrow].concat());
    let (id, key) = (text(&made, "id"), text(&made, "key"));
    live.waiting_agent("hidden");
    assert_eq!(live.as_key(&key, &["agent", "get", "hidden"]).code, Some(1));
    // More than the machine has: it waits.
    let create = |name: &str| {
        let resources = json!({ "memory_mb": 131_072 });
        live.create(&json!({ "image": "python:3.11", "name": name, "labels": { "team": "a" }, "resources": resources }))
    };
    assert!(create("own").starts_with("HTTP/1.1 201 "));
    assert_eq!(live.as_key(&key, &["agent", "get", "own"]).code, Some(0));
    let away = live.as_key(&key, &["agent", "update", "own", "--label", "team=b"]);
    assert!(away.code == Some(1) && away.stderr.contains("narrowed to agents with the label team=a"), "{away:?}");
    let shown = live.ok(&["key", "get", &id]);
    assert!(shown.contains("team=a, python:3.*") && shown.contains("agents 0 / 1") && !shown.contains(&key), "{shown}");
    live.ok(&["key", "update", &id, "--max-agents", "2", "--name", "team a"]);
    assert!(live.ok(&["key", "get", &id]).contains("agents 0 / 2"));
    live.ok(&["key", "update", &id, "--no-budget"]);
    assert_eq!(live.run(&["key", "update", &id]).code, Some(2), "nothing to change");
    // Two secrets, then one.
    let new = text(&live.json(&["key", "rotate", &id, "--overlap", "1h"]), "key");
    for key in [&key, &new] {
        assert_eq!(live.as_key(key, &["agent", "list"]).code, Some(0));
    }
    let last = text(&live.json(&["key", "rotate", &id, "--overlap", "0s"]), "key");
    for (key, code) in [(&key, 1), (&new, 1), (&last, 0)] {
        assert_eq!(live.as_key(key, &["agent", "list"]).code, Some(code));
    }
    assert_eq!(live.run(&["key", "rotate", &id, "--overlap", "soon"]).code, Some(2));
    // Roles and service accounts.
    live.ok(&["role", "create", "reader", "--permission", "agent:read"]);
    live.ok(&["sa", "create", "bot", "--role", "reader"]);
    let bots = text(&live.json(&["key", "create", "--name", "b", "--service-account", "bot"]), "key");
    assert_eq!(live.as_key(&bots, &["agent", "list"]).code, Some(0));
    let used = live.run(&["role", "delete", "reader"]);
    assert!(used.code == Some(1) && used.stderr.contains("bot"), "{used:?}");
    live.ok(&["role", "update", "reader", "--permission", "quota:read"]);
    assert_eq!(live.as_key(&bots, &["agent", "list"]).code, Some(1));
    assert_eq!(live.as_key(&bots, &["quota", "get"]).code, Some(0));
    live.ok(&["sa", "disable", "bot"]);
    assert_eq!(live.as_key(&bots, &["quota", "get"]).code, Some(1));
    live.ok(&["service-account", "enable", "bot"]);
    assert_eq!(live.as_key(&bots, &["quota", "get"]).code, Some(0));
    assert!(live.ok(&["sa", "list"]).contains("reader"));
    live.ok(&["sa", "delete", "bot"]);
    live.ok(&["role", "delete", "reader"]);
    assert!(live.json(&["role", "list"]).as_array().is_some_and(|roles| roles.len() == 6));
    // A label's budget.
    live.ok(&["quota", "set", "me", "--label", "team=a", "--agents", "2", "--memory", "none"]);
    assert!(create("second").starts_with("HTTP/1.1 201 "));
    let full = create("third");
    assert!(full.starts_with("HTTP/1.1 429 ") && full.contains("label team=a"), "{full}");
    assert!(live.ok(&["quota", "get", "--label", "team=a"]).contains("2 / 2"));
    assert!(live.ok(&["quota", "labels"]).contains("team=a"));
    live.ok(&["quota", "lift", "me", "--label", "team=a"]);
    assert_eq!(live.run(&["quota", "get", "--label", "team=a"]).code, Some(1));
    assert_eq!(live.terminate(), Some(0), "{}", live.log());
    let log = live.log();
    assert!([&key, &new, &last, &bots].iter().all(|secret| !log.contains(secret.as_str())));
}
