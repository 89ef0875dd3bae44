//! Secrets: versions, whose they are, and what a run is given.

use crate::fixture::{Fixture, connect, new_agent, scope, seal};
use aether_core::secrets::MAX_VALUE_BYTES;
use aether_core::state::Desired;
use aether_core::{AgentId, NodeId, SecretName, SecretRef, TenantScope};
use aether_store::*;
use std::collections::BTreeMap;
use zeroize::Zeroizing;

crate::on_both![
    versions_rise_and_the_oldest_go,
    values_are_sealed_and_bound_to_their_owner,
    another_tenants_secret_is_not_found,
    an_agent_names_what_is_there,
    a_run_is_given_the_newest_and_it_is_recorded,
    only_the_node_that_begins_the_run_is_given_them,
    a_start_without_its_secret_is_refused,
    a_tenant_is_erased_with_its_secrets,
    a_tenant_has_so_many,
];

pub(crate) fn name(text: &str) -> SecretName {
    text.parse().expect("a name")
}

pub(crate) fn sealed(text: &str, value: &str) -> NewSecret {
    let content = NewContent::Sealed(Zeroizing::new(value.as_bytes().to_vec()));
    NewSecret { name: name(text), description: None, content }
}

fn naming(agent: &str, secrets: &[&str]) -> NewAgent {
    let mut new = new_agent(agent);
    new.spec.secrets = secrets.iter().map(|s| SecretRef::named(*s)).collect();
    new
}

/// A placed agent that names these.
async fn placed(fx: &Fixture, secrets: &[&str]) -> (AgentRow, NodeId) {
    let agent = fx.store.create_agent(&scope(), naming("one", secrets)).await.expect("creates").agent;
    let (epoch, node) = (fx.leader().await, fx.node(4, 4096).await);
    (fx.place(&epoch, &agent.id, &node).await, node)
}

async fn given(fx: &Fixture, agent: &AgentRow, node: &NodeId) -> Result<Vec<(String, u64, Vec<u8>)>, StoreError> {
    let uses = fx.store.secret_uses((node, 1), (&agent.id, agent.generation)).await?;
    let clear = |held: HeldSecret| match held.content {
        HeldContent::Clear(value) => (held.name, held.version, value.to_vec()),
        _ => panic!("it is sealed"),
    };
    Ok(uses.secrets.into_iter().map(clear).collect())
}

/// All that is in the database's files, or all rows of these tables.
pub(crate) async fn bytes_of(fx: &Fixture) -> Vec<u8> {
    match &fx.config {
        StoreConfig::Sqlite { path } => {
            let mut all = std::fs::read(path).expect("the file");
            all.extend(std::fs::read(path.with_extension("db-wal")).unwrap_or_default());
            all
        }
        StoreConfig::Postgres { url, .. } => {
            let mut connection = crate::postgres::connect(url.expose()).await;
            let mut all = Vec::new();
            for table in ["secrets", "secret_versions", "agents", "audit_logs", "events"] {
                let rows: Vec<String> = sqlx::query_scalar(&format!("SELECT t::text FROM {table} t"))
                    .fetch_all(&mut connection)
                    .await
                    .expect("rows");
                all.extend(rows.concat().into_bytes());
            }
            all
        }
    }
}

/// A statement past the store.
async fn run(fx: &Fixture, sql: &str) {
    match &fx.config {
        StoreConfig::Sqlite { path } => {
            rusqlite::Connection::open(path).and_then(|c| c.execute_batch(sql)).expect("runs");
        }
        StoreConfig::Postgres { url, .. } => {
            let mut connection = crate::postgres::connect(url.expose()).await;
            sqlx::Executor::execute(&mut connection, sql).await.expect("runs");
        }
    }
}

async fn versions_rise_and_the_oldest_go(fx: Fixture) {
    let mut new = sealed("DB", "one");
    new.description = Some("the database".into());
    let made = fx.store.put_secret(&scope(), new).await.expect("sets");
    assert_eq!((made.version, made.backend, made.created_by.as_str()), (1, SecretBackend::Sealed, "system:test"));
    for n in 2..=12u64 {
        fx.clock.advance(std::time::Duration::from_secs(1));
        let row = fx.store.put_secret(&scope(), sealed("DB", &format!("value {n}"))).await.expect("sets");
        assert_eq!((row.version, row.description.as_deref()), (n, Some("the database")));
        assert!(row.updated_at > row.created_at);
    }
    let (_, versions) = fx.store.find_secret(&scope(), &name("DB")).await.expect("looks").expect("is there");
    assert_eq!(versions.iter().map(|v| v.version).collect::<Vec<_>>(), (3..=12).rev().collect::<Vec<_>>());
    assert_eq!(versions[0].bytes, 8);
    fx.store.put_secret(&scope(), sealed("A", "x")).await.expect("sets");
    let all = fx.store.list_secrets(&scope()).await.expect("lists");
    assert_eq!(all.iter().map(|s| s.name.as_str()).collect::<Vec<_>>(), ["A", "DB"]);
    fx.store.delete_secret(&scope(), &name("DB")).await.expect("deletes");
    let gone = StoreError::NotFound { what: "secret" };
    assert_eq!(fx.store.delete_secret(&scope(), &name("DB")).await, Err(gone));
    assert_eq!(fx.store.find_secret(&scope(), &name("DB")).await, Ok(None));
    let again = fx.store.put_secret(&scope(), sealed("DB", "new")).await.expect("sets");
    assert_eq!((again.version, again.description), (1, None), "another secret of the same name");
}

async fn values_are_sealed_and_bound_to_their_owner(fx: Fixture) {
    let other = fx.other().await;
    for who in [&scope(), &other] {
        for (name, value) in [("A", "canary-alpha"), ("A", "canary-beta"), ("B", "canary-gamma")] {
            fx.store.put_secret(who, sealed(name, value)).await.expect("sets");
        }
    }
    let bytes = bytes_of(&fx).await;
    assert!(!bytes.windows(6).any(|w| w == b"canary"), "a value is in the database");
    let (agent, node) = placed(&fx, &["A", "B"]).await;
    let got = given(&fx, &agent, &node).await.expect("given");
    assert_eq!(got, [("A".into(), 2, b"canary-beta".to_vec()), ("B".into(), 1, b"canary-gamma".to_vec())]);
    // To another version, name or tenant, with or without its wrapped key.
    for from in [
        "tenant_id = 'default' AND name = 'A' AND version = 1",
        "tenant_id = 'default' AND name = 'B'",
        "tenant_id = 'acme' AND name = 'A' AND version = 2",
    ] {
        for columns in [&["sealed"][..], &["wrapped_key"], &["sealed", "wrapped_key"]] {
            let place = "tenant_id = 'default' AND name = 'A' AND version = 2";
            run(&fx, &format!("CREATE TABLE kept AS SELECT sealed, wrapped_key FROM secret_versions WHERE {place}"))
                .await;
            for column in columns {
                let other = format!("(SELECT {column} FROM secret_versions WHERE {from})");
                run(&fx, &format!("UPDATE secret_versions SET {column} = {other} WHERE {place}")).await;
            }
            assert_eq!(given(&fx, &agent, &node).await, Err(StoreError::Unsealable), "{columns:?} of {from}");
            let back = "sealed = (SELECT sealed FROM kept), wrapped_key = (SELECT wrapped_key FROM kept)";
            run(&fx, &format!("UPDATE secret_versions SET {back} WHERE {place}; DROP TABLE kept")).await;
        }
    }
    assert!(given(&fx, &agent, &node).await.is_ok(), "all is as it was");
    // Nor does it open for a later secret of the same name.
    run(&fx, "UPDATE secrets SET mark = '0' WHERE tenant_id = 'default' AND name = 'A'").await;
    assert_eq!(given(&fx, &agent, &node).await, Err(StoreError::Unsealable));
}

async fn another_tenants_secret_is_not_found(fx: Fixture) {
    let other = fx.other().await;
    fx.store.put_secret(&other, sealed("THEIRS", "x")).await.expect("sets");
    assert_eq!(fx.store.find_secret(&scope(), &name("THEIRS")).await, Ok(None));
    let gone = StoreError::NotFound { what: "secret" };
    assert_eq!(fx.store.delete_secret(&scope(), &name("THEIRS")).await, Err(gone));
    assert!(fx.store.list_secrets(&scope()).await.expect("lists").is_empty());
    let refused = fx.store.create_agent(&scope(), naming("one", &["THEIRS"])).await;
    assert!(matches!(refused, Err(StoreError::Invalid { errors }) if errors[0].field == "secrets[0].name"));
}

async fn an_agent_names_what_is_there(fx: Fixture) {
    fx.store.put_secret(&scope(), sealed("A", "x")).await.expect("sets");
    let refused = fx.store.create_agent(&scope(), naming("one", &["A", "NONE", "NOR_THIS"])).await;
    let Err(StoreError::Invalid { errors }) = refused else { panic!("it names what is not there") };
    assert_eq!(errors.iter().map(|e| e.field.as_str()).collect::<Vec<_>>(), ["secrets[1].name", "secrets[2].name"]);
    assert_eq!(fx.store.find_agent(&scope(), "one").await.expect("looks"), None, "nothing is left of it");
    let made = fx.store.create_agent(&scope(), naming("one", &["A"])).await.expect("creates").agent;
    assert!(made.secret_versions.is_empty());
}

async fn uses(fx: &Fixture, who: &TenantScope) -> Vec<(String, serde_json::Value)> {
    let filter = AuditFilter { action: Some("use".into()), limit: 100, ..AuditFilter::default() };
    let page = fx.store.audit_page(&AuditOf::Tenant(who.clone()), filter).await.expect("reads");
    page.rows.into_iter().map(|r| (r.resource_id.unwrap_or_default(), r.details)).collect()
}

async fn a_run_is_given_the_newest_and_it_is_recorded(fx: Fixture) {
    for (name, value) in [("A", "old"), ("A", "new"), ("B", "b")] {
        fx.store.put_secret(&scope(), sealed(name, value)).await.expect("sets");
    }
    let (agent, node) = placed(&fx, &["A", "B"]).await;
    assert_eq!(given(&fx, &agent, &node).await.expect("given")[0].2, b"new");
    assert!(uses(&fx, &scope()).await.is_empty(), "reading alone hands nothing out");
    let versions = BTreeMap::from([("A".to_owned(), 2), ("B".to_owned(), 1)]);
    let (by, run) = ((&node, 1), (&agent.id, agent.generation));
    fx.store.record_secret_use(by, run, versions.clone()).await.expect("records");
    assert_eq!(fx.get(&agent.id).await.secret_versions, versions);
    let recorded = uses(&fx, &scope()).await;
    assert_eq!(recorded.len(), 2);
    let of_a = recorded.iter().find(|(name, _)| name == "A").expect("is there");
    assert_eq!((of_a.1["version"].as_u64(), of_a.1["agent"].as_str()), (Some(2), Some(agent.id.as_str())));
    assert_eq!(of_a.1["node"].as_str(), Some(node.as_str()));
    // A run that is given them again is given them again.
    fx.store.record_secret_use(by, run, versions).await.expect("records");
    assert_eq!(uses(&fx, &scope()).await.len(), 4);
}

async fn only_the_node_that_begins_the_run_is_given_them(fx: Fixture) {
    fx.store.put_secret(&scope(), sealed("A", "x")).await.expect("sets");
    let (agent, node) = placed(&fx, &["A"]).await;
    let stranger = fx.node(4, 4096).await;
    let (id, generation) = (&agent.id, agent.generation);
    let none: AgentId = AgentId::generate("c0", &aether_core::source::OsRng);
    let versions = BTreeMap::from([("A".to_owned(), 1)]);
    for (by, run) in [
        ((&stranger, 1), (id, generation)),
        ((&node, 2), (id, generation)),
        ((&node, 1), (id, generation - 1)),
        ((&node, 1), (id, generation + 1)),
        ((&node, 1), (&none, generation)),
    ] {
        let refused = fx.store.secret_uses(by, run).await.expect_err("refused");
        assert!(matches!(refused, StoreError::NotFound { .. } | StoreError::Fenced { .. }), "{refused}");
        fx.store.record_secret_use(by, run, versions.clone()).await.expect_err("refused");
    }
    assert!(given(&fx, &agent, &node).await.is_ok());
    fx.desire(id, Desired::Stopped).await.expect("stops");
    let stopped = fx.get(id).await;
    assert!(fx.store.secret_uses((&node, 1), (id, stopped.generation)).await.is_err(), "it is to stop");
    assert!(uses(&fx, &scope()).await.is_empty());
}

async fn a_start_without_its_secret_is_refused(fx: Fixture) {
    fx.store.put_secret(&scope(), sealed("A", "x")).await.expect("sets");
    let (agent, node) = placed(&fx, &["A"]).await;
    fx.store.delete_secret(&scope(), &name("A")).await.expect("deletes");
    let missing = StoreError::SecretMissing { name: "A".into() };
    assert_eq!(given(&fx, &agent, &node).await, Err(missing.clone()), "the run that is to begin");
    fx.desire(&agent.id, Desired::Stopped).await.expect("stops");
    fx.report(&node, &agent.id, aether_core::Observed::Stopped).await;
    assert_eq!(fx.desire(&agent.id, Desired::Running).await, Err(missing));
    fx.store.put_secret(&scope(), sealed("A", "again")).await.expect("sets");
    fx.desire(&agent.id, Desired::Running).await.expect("starts");
}

async fn a_tenant_is_erased_with_its_secrets(fx: Fixture) {
    let other = fx.other().await;
    let in_vault = NewSecret { content: NewContent::Vault { version: 1, bytes: 3 }, ..sealed("V", "") };
    for new in [sealed("A", "x"), in_vault] {
        fx.store.put_secret(&other, new).await.expect("sets");
    }
    let epoch = fx.leader().await;
    fx.store.delete_tenant(&scope(), other.tenant()).await.expect("begins");
    let refused = fx.store.put_secret(&other, sealed("B", "x")).await;
    assert!(matches!(refused, Err(StoreError::TenantInactive { .. })));
    assert_eq!(fx.store.tend_deletion(&epoch, other.tenant()).await, Ok(false), "Vault comes first");
    assert_eq!(fx.store.secrets_in_vault(other.tenant()).await.expect("reads"), ["V"]);
    fx.store.delete_secret(&other, &name("V")).await.expect("deletes");
    assert_eq!(fx.store.tend_deletion(&epoch, other.tenant()).await, Ok(true));
    assert!(fx.store.list_secrets(&other).await.expect("lists").is_empty());
}

async fn a_tenant_has_so_many(fx: Fixture) {
    for n in 0..500 {
        fx.store.put_secret(&scope(), sealed(&format!("S{n}"), "x")).await.expect("sets");
    }
    let refused = fx.store.put_secret(&scope(), sealed("ONE_MORE", "x")).await;
    assert!(matches!(refused, Err(StoreError::Invalid { errors }) if errors[0].field == "name"));
    fx.store.put_secret(&scope(), sealed("S0", &"y".repeat(MAX_VALUE_BYTES))).await.expect("a new version");
}

#[tokio::test]
async fn another_seal_key_opens_none() {
    let fx = Fixture::sqlite().await;
    fx.store.put_secret(&scope(), sealed("A", "x")).await.expect("sets");
    let (agent, node) = placed(&fx, &["A"]).await;
    fx.store.close().await;
    let wrong = SealKey::from_bytes([1; 32]);
    assert!(wrong != seal());
    let other =
        Store::connect(fx.config.clone(), wrong, fx.clock.clone(), std::sync::Arc::new(aether_core::source::OsRng));
    let other = other.await.expect("opens");
    let got = other.secret_uses((&node, 1), (&agent.id, agent.generation)).await;
    assert_eq!(got.err(), Some(StoreError::Unsealable));
    other.close().await;
    assert!(connect(&fx.config, &fx.clock).await.secret_uses((&node, 1), (&agent.id, agent.generation)).await.is_ok());
}
