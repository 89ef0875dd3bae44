//! Secrets over the API, what a node is given of them, and Vault: a real
//! OpenBao, also while it is away.

use crate::harness::{Server, ok, problem, start, start_with};
use aether_canaries::bao::Bao;
use aether_canaries::{Search, canary};
use aether_control::{Control, ControlConfig, VaultConfig};
use aether_core::{Permission, Role, Secret, TenantId};
use aether_proto::node::node_control_client::NodeControlClient;
use aether_proto::node::{SecretsRequest, SecretsResponse};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::time::Instant;
use tonic::Status;

/// Of every OpenBao of these tests.
const TOKEN: &str = "root-of-tests";

/// One for all that do not end it.
async fn bao() -> &'static Bao {
    static BAO: OnceLock<Bao> = OnceLock::new();
    tokio::task::spawn_blocking(|| BAO.get_or_init(|| Bao::start(TOKEN))).await.expect("starts")
}

fn vault(address: String, prefix: &str) -> VaultConfig {
    VaultConfig { address, token: Secret::new(TOKEN), prefix: prefix.to_owned(), ..VaultConfig::default() }
}

async fn set(server: &Server, name: &str, value: &str) -> Value {
    let path = format!("/v1/secrets/{name}");
    let (status, set) = ok(server.request(Method::PUT, &path).json(&json!({ "value": value }))).await;
    assert!(status.is_success(), "{status}: {set}");
    set
}

/// An agent that names these, and its generation as its node has it.
async fn agent(server: &Server, name: &str, secrets: &[&str]) -> (String, u64) {
    let body = json!({ "image": "python:3.11", "name": name, "secrets": secrets });
    let (status, agent) = ok(server.post("/v1/agents?wait=running", body)).await;
    assert_eq!((status, agent["status"].as_str()), (StatusCode::CREATED, Some("running")), "{agent}");
    (agent["id"].as_str().expect("id").to_owned(), agent["generation"].as_u64().expect("a number"))
}

/// As the node of the agent asks.
async fn ask(server: &Server, (agent, generation): &(String, u64)) -> Result<SecretsResponse, Status> {
    let node = server.store.nodes().await.expect("nodes").remove(0);
    let mut client = NodeControlClient::new(server.control.channel());
    let request = SecretsRequest {
        node_id: node.id.to_string(),
        node_epoch: node.node_epoch,
        agent_id: agent.clone(),
        generation: *generation,
    };
    client.secrets(request).await.map(tonic::Response::into_inner)
}

async fn given(server: &Server, agent: &(String, u64)) -> Vec<(String, Vec<u8>)> {
    let answer = ask(server, agent).await.expect("answered");
    assert_eq!(answer.refusal, "");
    answer.secrets.into_iter().map(|s| (s.name, s.value.to_vec())).collect()
}

#[tokio::test]
async fn secrets_are_set_listed_rotated_and_deleted_and_never_shown() {
    let server = start().await;
    let value = canary("api");
    let body = json!({ "value": value, "description": "the database" });
    let (status, made) = ok(server.request(Method::PUT, "/v1/secrets/DB").json(&body)).await;
    assert_eq!(
        (status, made["version"].as_u64(), made["backend"].as_str()),
        (StatusCode::CREATED, Some(1), Some("sealed"))
    );
    let (status, again) = ok(server.request(Method::PUT, "/v1/secrets/DB").json(&json!({ "value": value }))).await;
    assert_eq!((status, again["version"].as_u64()), (StatusCode::OK, Some(2)));
    assert_eq!(again["description"], "the database", "it stays");
    let (_, bytes) = ok(server.request(Method::PUT, "/v1/secrets/raw").json(&json!({ "value_base64": "/wA=" }))).await;
    assert_eq!(bytes["version"], 1);
    let (_, list) = ok(server.get("/v1/secrets?per_page=1&page=2")).await;
    assert_eq!((list["total"].as_u64(), list["data"][0]["name"].as_str()), (Some(2), Some("raw")));
    let (_, rotated) = ok(server.post("/v1/secrets/DB/rotate", json!({ "bytes": 16 }))).await;
    assert_eq!(rotated["version"], 3);
    let (_, shown) = ok(server.get("/v1/secrets/DB")).await;
    let kept: Vec<_> = shown["versions"].as_array().expect("versions").iter().map(|v| v["version"].clone()).collect();
    assert_eq!(kept, [3, 2, 1].map(Value::from));
    for document in [&made, &again, &list, &shown] {
        assert!(Search::for_canaries().hits(document.to_string().as_bytes()).is_empty(), "{document}");
    }
    let one = agent(&server, "one", &["DB"]).await;
    let random = given(&server, &one).await.remove(0).1;
    assert_eq!(random.len(), 22, "16 bytes in base64url");
    let (status, _) = ok(server.request(Method::DELETE, "/v1/secrets/DB")).await;
    assert_eq!(status, StatusCode::NO_CONTENT);
    problem(server.get("/v1/secrets/DB"), 404, "NOT_FOUND").await;
    problem(server.post("/v1/secrets/DB/rotate", json!({})), 404, "NOT_FOUND").await;
    let refused =
        problem(server.post("/v1/agents", json!({ "image": "a", "secrets": ["raw", "DB"] })), 400, "VALIDATION_ERROR");
    assert_eq!(refused.await["errors"][0]["field"], "secrets[1].name");
}

#[tokio::test]
async fn what_is_wrong_is_told_without_the_value() {
    let server = start().await;
    let value = canary("refused");
    let bodies = [
        json!({}),
        json!({ "value": "" }),
        json!({ "value": value, "value_base64": "AA==" }),
        json!({ "value_base64": format!("{value}!") }),
        json!({ "value": value.repeat(2000) }),
        json!({ "value": value, "description": "x".repeat(257) }),
        json!({ "value": [value] }),
        json!(value),
        json!([[value]]),
    ];
    for body in bodies {
        let refused = server.request(Method::PUT, "/v1/secrets/A").json(&body);
        let text = problem(refused, 400, "VALIDATION_ERROR").await.to_string();
        assert!(Search::for_canaries().hits(text.as_bytes()).is_empty(), "{text}");
    }
    for name in ["-a", ".a", "a%20b", &"a".repeat(129)] {
        let refused = server.request(Method::PUT, &format!("/v1/secrets/{name}")).json(&json!({ "value": "x" }));
        let refused = problem(refused, 400, "VALIDATION_ERROR").await;
        assert_eq!(refused["errors"][0]["field"], "name", "{name}");
        problem(server.get(&format!("/v1/secrets/{name}")), 404, "NOT_FOUND").await;
    }
    assert!(ok(server.get("/v1/secrets")).await.1["data"].as_array().expect("a list").is_empty());
}

#[tokio::test]
async fn naming_a_secret_needs_a_permission_of_its_own() {
    let server = start().await;
    set(&server, "DB", "x").await;
    let key = |scopes: Vec<Permission>| {
        let server = &server;
        async move { server.key("default", Role::Admin, Some(BTreeSet::from_iter(scopes))).await }
    };
    let creates = key(vec![Permission::AgentCreate]).await;
    let uses = key(vec![Permission::AgentCreate, Permission::SecretUse]).await;
    let body = |name: &str| json!({ "image": "a", "name": name, "secrets": ["DB"] });
    let refused = server.as_key(&creates, Method::POST, "/v1/agents").json(&body("one"));
    let refused = problem(refused, 403, "FORBIDDEN").await;
    assert!(refused["detail"].as_str().expect("text").contains("secret:use"));
    let many = json!({ "agents": [body("one")] });
    let (_, each) = ok(server.as_key(&creates, Method::POST, "/v1/agents/bulk/create").json(&many)).await;
    assert_eq!(each["results"][0]["status"], 403, "{each}");
    let (status, made) = ok(server.as_key(&uses, Method::POST, "/v1/agents").json(&body("one"))).await;
    assert_eq!(status, StatusCode::CREATED, "{made}");
    // Nor does an env take a secret's variable, then or later.
    let clash = json!({ "image": "a", "secrets": ["DB"], "env": { "DB": "mine" } });
    problem(server.post("/v1/agents", clash), 400, "VALIDATION_ERROR").await;
    let patch = server.request(Method::PATCH, "/v1/agents/one").json(&json!({ "env": { "DB": "mine" } }));
    problem(patch, 400, "VALIDATION_ERROR").await;
}

#[tokio::test]
async fn a_node_is_given_what_its_agent_names_and_each_use_is_recorded() {
    let server = start().await;
    for (name, value) in [("A", "alpha"), ("B", "beta"), ("C", "gamma")] {
        set(&server, name, value).await;
    }
    let one = agent(&server, "one", &["A", "B"]).await;
    let expected = [("A".to_owned(), b"alpha".to_vec()), ("B".to_owned(), b"beta".to_vec())];
    assert_eq!(given(&server, &one).await, expected);
    let (_, shown) = ok(server.get("/v1/agents/one")).await;
    assert_eq!(shown["secret_versions"], json!({ "A": 1, "B": 1 }));
    let (_, uses) = ok(server.get("/v1/audit?action=use&resource=secret")).await;
    let names: BTreeSet<_> =
        uses["data"].as_array().expect("rows").iter().map(|r| r["resource_id"].to_string()).collect();
    assert_eq!(names, BTreeSet::from(["\"A\"".to_owned(), "\"B\"".to_owned()]));
    // Another run, another node, another agent: nothing.
    let other = (one.0.clone(), one.1 + 1);
    assert_eq!(ask(&server, &other).await.expect_err("no such run").code(), tonic::Code::Unavailable);
    let none = ("agtc0aaaaaaaaaaaaaaaa".to_owned(), 1);
    assert_eq!(ask(&server, &none).await.expect_err("no such agent").code(), tonic::Code::Unavailable);
    let bad = ("x".to_owned(), 1);
    assert_eq!(ask(&server, &bad).await.expect_err("no id").code(), tonic::Code::InvalidArgument);
    ok(server.request(Method::DELETE, "/v1/secrets/B")).await;
    let refused = ask(&server, &one).await.expect("answered");
    assert!(refused.secrets.is_empty() && refused.refusal.contains("the secret B"), "{refused:?}");
    let (_, uses) = ok(server.get("/v1/audit?action=use&resource=secret")).await;
    assert_eq!(uses["data"].as_array().map(Vec::len), Some(2), "what was not given is not recorded");
}

#[tokio::test]
async fn more_than_a_message_holds_is_refused() {
    let server = start().await;
    let names: Vec<String> = (0..17).map(|n| format!("S{n}")).collect();
    for name in &names {
        set(&server, name, &"x".repeat(65_536)).await;
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let one = agent(&server, "one", &names).await;
    let refused = ask(&server, &one).await.expect("answered").refusal;
    assert!(refused.contains("more than 1048576 bytes"), "{refused}");
    let two = agent(&server, "two", &names[..16]).await;
    assert_eq!(given(&server, &two).await.len(), 16);
}

#[tokio::test]
async fn vault_keeps_values_and_the_store_their_numbers() {
    let bao = bao().await;
    let server = start_with(|cfg| cfg.vault = Some(vault(bao.address(), "kv/one"))).await;
    let value = canary("vault");
    assert_eq!(set(&server, "DB", "first").await["backend"], "vault");
    set(&server, "DB", &value).await;
    let raw = server.request(Method::PUT, "/v1/secrets/raw").json(&json!({ "value_base64": "/wA=" }));
    assert_eq!(ok(raw).await.1["backend"], "vault");
    let kept = bao.ask("GET", "secret/data/kv/one/default/DB", "").expect("is in Vault");
    assert!(kept.contains(&value), "{kept}");
    let one = agent(&server, "one", &["DB"]).await;
    assert_eq!(given(&server, &one).await, [("DB".to_owned(), value.clone().into_bytes())]);
    let bytes = std::fs::read(&server.database).expect("the file");
    let log = std::fs::read(server.database.with_extension("db-wal")).unwrap_or_default();
    assert!(Search::for_canaries().hits(&[bytes, log].concat()).is_empty(), "the value is in the store");
    // A version that was removed in Vault itself.
    bao.ask("PUT", "secret/destroy/kv/one/default/DB", r#"{"versions":[2]}"#).expect("destroys");
    let gone = ask(&server, &one).await.expect("answered").refusal;
    assert!(gone.contains("The secret DB was not given: Vault does not have it any more."), "{gone}");
    ok(server.request(Method::DELETE, "/v1/secrets/DB")).await;
    assert!(bao.ask("GET", "secret/metadata/kv/one/default/DB", "").is_err(), "all versions are gone");
    assert!(bao.ask("GET", "secret/metadata/kv/one/default/raw", "").is_ok());
}

#[tokio::test]
async fn transit_wraps_the_data_key_and_values_stay_in_the_store() {
    let bao = bao().await;
    let wraps = |cfg: &mut ControlConfig| {
        cfg.vault = Some(VaultConfig { transit_key: Some("aether".into()), ..vault(bao.address(), "unused") });
    };
    let server = start_with(wraps).await;
    let value = canary("transit");
    assert_eq!(set(&server, "DB", &value).await["backend"], "transit");
    let one = agent(&server, "one", &["DB"]).await;
    assert_eq!(given(&server, &one).await, [("DB".to_owned(), value.clone().into_bytes())]);
    let bytes =
        [&server.database, &server.database.with_extension("db-wal")].map(|f| std::fs::read(f).unwrap_or_default());
    assert!(Search::for_canaries().hits(&bytes.concat()).is_empty());
    // Vault's key turns, and the old wrapping still opens.
    bao.ask("POST", "transit/keys/aether/rotate", "{}").expect("rotates");
    assert_eq!(given(&server, &one).await.len(), 1);
    set(&server, "DB", "after").await;
    assert_eq!(given(&server, &one).await[0].1, b"after");
}

#[tokio::test]
async fn a_vault_that_is_away_is_an_error_and_nothing_else() {
    let mut bao = tokio::task::spawn_blocking(|| Bao::start(TOKEN)).await.expect("starts");
    let limit = Duration::from_millis(700);
    let server =
        start_with(|cfg| cfg.vault = Some(VaultConfig { timeout: limit, ..vault(bao.address(), "away") })).await;
    set(&server, "DB", "x").await;
    let one = agent(&server, "one", &["DB"]).await;
    given(&server, &one).await;
    let away = async |how: &str| {
        let begun = Instant::now();
        let mut asked = vec![
            server.request(Method::PUT, "/v1/secrets/DB").json(&json!({ "value": canary("away") })),
            server.request(Method::PUT, "/v1/secrets/NEW").json(&json!({ "value": canary("away") })),
            server.post("/v1/secrets/DB/rotate", json!({})),
        ];
        // A silent one may do later what it was asked: to delete, too.
        if how == "gone" {
            asked.push(server.request(Method::DELETE, "/v1/secrets/DB"));
        }
        for refused in asked {
            let told = problem(refused, 503, "SERVICE_UNAVAILABLE").await;
            let text = told.to_string();
            assert!(text.contains("Vault does not answer.") && text.contains("unsealed"), "{how}: {text}");
            assert!(told["retryable"] == true && !text.contains("127.0.0.1"), "{how}: {text}");
            assert!(Search::for_canaries().hits(text.as_bytes()).is_empty());
        }
        let later = ask(&server, &one).await.expect_err("not given");
        assert_eq!(later.code(), tonic::Code::Unavailable, "{how}");
        assert!(later.message().contains("The secret DB was not given: Vault does not answer."), "{}", later.message());
        // Each is cut after its limit; far from a hang, whatever the machine is busy with.
        assert!(begun.elapsed() < limit * 5 + Duration::from_secs(10), "{how}: {:?}", begun.elapsed());
        // What runs goes on, what is known is shown, and nothing went elsewhere.
        let (_, ran) = server.exec(&one.0, json!({ "command": ["echo", "a"] })).await;
        assert_eq!(ran["exit_code"], 0, "{how}");
        let (_, list) = ok(server.get("/v1/secrets")).await;
        assert_eq!((list["total"].as_u64(), list["data"][0]["version"].as_u64()), (Some(1), Some(1)), "{how}");
        assert_eq!(list["data"][0]["backend"], "vault");
    };
    bao.freeze(true);
    away("silent").await;
    bao.freeze(false);
    assert_eq!(given(&server, &one).await[0].1, b"x", "it is back");
    bao.kill();
    away("gone").await;
    // Back without what it knew, as a development server is: told so, and set again.
    let bao = tokio::task::spawn_blocking(move || {
        bao.launch();
        bao
    });
    let bao = bao.await.expect("starts");
    server.until(|s| async { ask(s, &one).await.is_ok() }).await;
    let lost = ask(&server, &one).await.expect("answered").refusal;
    assert!(lost.contains("Vault does not have it any more"), "{lost}");
    set(&server, "DB", "again").await;
    assert_eq!(given(&server, &one).await[0].1, b"again");
    // A token that Vault does not take is another error, and not one that passes.
    let wrong =
        start_with(|cfg| cfg.vault = Some(VaultConfig { token: Secret::new("wrong"), ..vault(bao.address(), "a") }));
    let refused = wrong.await;
    let refused =
        problem(refused.request(Method::PUT, "/v1/secrets/A").json(&json!({ "value": "x" })), 502, "BAD_GATEWAY");
    let refused = refused.await.to_string();
    assert!(refused.contains("Vault refused the server.") && !refused.contains("wrong\""), "{refused}");
}

#[tokio::test]
async fn backends_stand_side_by_side_and_a_tenant_leaves_vault_too() {
    let bao = bao().await;
    let server = start().await;
    let tenant: TenantId = "acme".parse().expect("an id");
    let key = server.key("acme", Role::Admin, None).await;
    set(&server, "SEALED", "s").await;
    // The same store with Vault: a second server.
    let settings = vault(bao.address(), "beside");
    let url = server.second_with(|cfg| cfg.vault = Some(settings)).await;
    let put = |key: &str, name: &str| {
        let request = server.client.put(format!("{url}/v1/secrets/{name}")).bearer_auth(key);
        ok(request.json(&json!({ "value": "v" })))
    };
    assert_eq!(put(&server.admin, "IN_VAULT").await.1["backend"], "vault");
    assert_eq!(put(&server.admin, "SEALED").await.1["version"], 2, "the next version is Vault's");
    assert_eq!(put(&key, "THEIRS").await.1["backend"], "vault");
    let one = agent(&server, "one", &["IN_VAULT"]).await;
    // The node's server has no Vault: told, not guessed.
    let refused = ask(&server, &one).await.expect("answered").refusal;
    assert!(refused.contains("security.vault_enabled"), "{refused}");
    problem(server.request(Method::DELETE, "/v1/secrets/IN_VAULT"), 409, "CONFLICT").await;
    // The first server leads, and cannot erase what is in Vault; with it, it goes.
    let platform = server.key("default", Role::PlatformAdmin, None).await;
    let gone = server.as_key(&platform, Method::DELETE, "/v1/tenants/acme").send().await.expect("answered");
    assert!(gone.status().is_success(), "{gone:?}");
    assert!(bao.ask("GET", "secret/metadata/beside/acme/THEIRS", "").is_ok(), "it waits");
    let delete = server.client.delete(format!("{url}/v1/secrets/IN_VAULT")).bearer_auth(&server.admin);
    assert_eq!(ok(delete).await.0, StatusCode::NO_CONTENT);
    assert_eq!(server.store.secrets_in_vault(&tenant).await.expect("reads"), ["THEIRS"]);
}

#[tokio::test]
async fn an_erased_tenant_leaves_nothing_in_vault() {
    let bao = bao().await;
    let server = start_with(|cfg| cfg.vault = Some(vault(bao.address(), "erased"))).await;
    let key = server.key("acme", Role::Admin, None).await;
    for name in ["A", "B"] {
        let put = server.as_key(&key, Method::PUT, &format!("/v1/secrets/{name}")).json(&json!({ "value": "v" }));
        assert_eq!(ok(put).await.0, StatusCode::CREATED);
        assert!(bao.ask("GET", &format!("secret/metadata/erased/acme/{name}"), "").is_ok());
    }
    let platform = server.key("default", Role::PlatformAdmin, None).await;
    let gone = server.as_key(&platform, Method::DELETE, "/v1/tenants/acme").send().await.expect("answered");
    assert!(gone.status().is_success(), "{gone:?}");
    server
        .until(|s| async move {
            s.store
                .find_tenant(&"acme".parse().expect("an id"))
                .await
                .expect("reads")
                .is_some_and(|t| t.status.to_string() == "erased")
        })
        .await;
    for name in ["A", "B"] {
        assert!(bao.ask("GET", &format!("secret/metadata/erased/acme/{name}"), "").is_err(), "{name} is still there");
    }
}

#[tokio::test]
async fn a_server_without_the_key_that_seals_does_not_start() {
    let server = start().await;
    set(&server, "A", "x").await;
    let other = aether_store::SealKey::from_bytes([8; 32]);
    let clock = Arc::new(aether_core::source::SystemClock::default());
    let rng = Arc::new(aether_core::source::OsRng);
    let cfg = aether_store::StoreConfig::Sqlite { path: server.database.clone() };
    let store = aether_store::Store::connect(cfg, other, clock.clone(), rng.clone()).await.expect("opens");
    let dir = tempfile::tempdir().expect("dir");
    let started = Control::start(ControlConfig::new("other", dir.path().join("pepper")), store, clock, rng).await;
    let error = started.err().expect("refused").to_string();
    assert!(error.contains("seal.key does not hold"), "{error}");
}

#[tokio::test]
async fn the_key_that_seals_is_changed_over_the_api() {
    let server = start().await;
    let body = json!({ "image": "a", "name": "one", "env": { "TOKEN": "of-one" } });
    assert_eq!(ok(server.post("/v1/agents", body)).await.0, StatusCode::CREATED);
    set(&server, "DB", "x").await;
    let platform = server.key("default", Role::PlatformAdmin, None).await;
    let step = async |step: &str| {
        let request = server.as_key(&platform, Method::POST, "/v1/system/master-key").json(&json!({ "step": step }));
        let (status, state) = ok(request).await;
        assert_eq!(status, StatusCode::OK, "{state}");
        state
    };
    let first = step("drop").await["keys"].clone();
    assert_eq!(first.as_array().map(Vec::len), Some(1), "the one that seals is never dropped");
    let two = step("add").await;
    assert_eq!((two["keys"][0]["active"].as_bool(), two["keys"][1]["active"].as_bool()), (Some(true), Some(false)));
    step("activate").await;
    let left = async || ok(server.as_key(&platform, Method::GET, "/v1/system/master-key")).await.1;
    server.until(|_| async { left().await["left"] == 0 }).await;
    let after = step("drop").await;
    assert_eq!(after["keys"].as_array().map(Vec::len), Some(1));
    assert!(after["keys"][0]["active"] == true && after["keys"][0]["id"] != first[0]["id"], "{after}");
    let (_, shown) = ok(server.get("/v1/agents/one?show=env")).await;
    assert_eq!(shown["env"]["TOKEN"], "of-one");
    problem(server.get("/v1/system/master-key"), 403, "FORBIDDEN").await;
    let wrong = server.as_key(&platform, Method::POST, "/v1/system/master-key").json(&json!({ "step": "burn" }));
    problem(wrong, 400, "VALIDATION_ERROR").await;
}
