//! Up, down, up again with data; side by side; refusals.

use crate::fixture::{Fixture, connect, new_agent, scope, seal};
use aether_core::source::OsRng;
use aether_store::*;
use std::sync::Arc;

crate::on_both![
    each_step_goes_up_down_and_up_with_data,
    migrators_side_by_side_apply_each_step_once,
    a_wrong_schema_is_refused,
];

async fn open(fx: &Fixture) -> Result<Store, StoreError> {
    Store::open(fx.config.clone(), seal(), fx.clock.clone(), Arc::new(OsRng)).await
}

/// Rows in every table, so that each undo meets data.
async fn fill(fx: &Fixture) {
    let (epoch, node) = (fx.leader().await, fx.node(8, 8192).await);
    let mut new = new_agent("a");
    new.env.insert("A".to_owned(), "1".to_owned());
    new.spec.labels.insert("team".to_owned(), "x".to_owned());
    new.idempotency = Some(Idempotency { key: "k".to_owned(), request_hash: [1; 32] });
    let agent = fx.store.create_agent(&scope(), new).await.expect("creates").agent.id;
    fx.place(&epoch, &agent, &node).await;
    let exec_id = aether_core::ExecId::generate("c0", &OsRng);
    let intent = ExecIntent { exec_id, command: vec!["true".into()], user: None };
    fx.store.record_exec(&scope(), &agent, intent, None).await.expect("records");
    let own: aether_core::AgentName = "deployers".parse().expect("a name");
    let permissions = aether_core::Role::Viewer.permissions();
    fx.store.create_role(&scope(), &own, permissions).await.expect("creates");
    let account = NewServiceAccount {
        id: aether_core::ServiceAccountId::generate("c0", &OsRng),
        name: own.clone(),
        role: aether_core::RoleName::Own(own),
    };
    let account = fx.store.create_service_account(&scope(), account).await.expect("creates");
    let id = || aether_core::KeyId::generate("c0", &OsRng);
    let mut key = NewKey::new(id(), "s", ([2; 32], "s".to_owned()), aether_core::Role::Admin);
    key.service_account = Some(account.id);
    key.budget = Some(aether_core::tenant::Limits { agents: Some(3), ..Default::default() });
    fx.store.create_key(&scope(), key).await.expect("creates");
    let key = NewKey::new(id(), "k", ([1; 32], "p".to_owned()), aether_core::Role::Admin);
    fx.store.create_key(&scope(), key).await.expect("creates");
    let id = aether_core::UserId::generate("c0", &OsRng);
    let user = NewUser { id: id.clone(), name: "ann".to_owned(), role: aether_core::Role::Admin, password: None };
    fx.store.create_user(&scope(), user).await.expect("creates");
    let (id, expires_at) = (Subject::User(id), aether_core::Clock::now(fx.clock.as_ref()));
    let session = aether_core::SessionId::generate("c0", &OsRng);
    let session = NewSession { id: session, subject: id, secret: [1; 32], expires_at };
    fx.store.begin_session(&scope(), session).await.expect("begins");
    fx.store.revoke_token(&scope(), "t", expires_at, None).await.expect("revokes");
}

async fn each_step_goes_up_down_and_up_with_data(fx: Fixture) {
    let (_, newest) = fx.store.schema_version().await.expect("reads");
    assert!(newest >= 4);
    for depth in 1..=newest {
        fill(&fx).await;
        let undone = fx.store.migrate_down(depth).await.expect("goes down");
        assert_eq!(undone, (newest - depth + 1..=newest).rev().collect::<Vec<_>>());
        assert_eq!(fx.store.schema_version().await, Ok((newest - depth, newest)));
        let refused = open(&fx).await.map(|_| ());
        assert_eq!(refused, Err(StoreError::SchemaTooOld { found: newest - depth, known: newest }));
        let applied = fx.store.migrate_up().await.expect("goes up");
        assert_eq!(applied, (newest - depth + 1..=newest).collect::<Vec<_>>());
        assert_eq!(fx.store.migrate_up().await, Ok(Vec::new()), "twice is no error");
        // Everything goes, so that the next round fills empty tables.
        fx.store.migrate_down(newest).await.expect("goes down");
        assert_eq!(fx.store.migrate_down(1).await, Ok(Vec::new()), "below the first is no error");
        fx.store.migrate_up().await.expect("goes up");
    }
    fill(&fx).await;
    let reopened = open(&fx).await.expect("fits");
    assert!(reopened.find_agent(&scope(), "a").await.expect("looks").is_some());
    reopened.close().await;
}

async fn migrators_side_by_side_apply_each_step_once(fx: Fixture) {
    let (_, newest) = fx.store.schema_version().await.expect("reads");
    fx.store.migrate_down(newest).await.expect("goes down");
    let mut tasks = Vec::new();
    for _ in 0..4 {
        let store = connect(&fx.config, &fx.clock).await;
        tasks.push(tokio::spawn(async move {
            let applied = store.migrate_up().await;
            store.close().await;
            applied
        }));
    }
    let mut all = Vec::new();
    for task in tasks {
        all.extend(task.await.expect("runs").expect("migrates"));
    }
    all.sort_unstable();
    assert_eq!(all, (1..=newest).collect::<Vec<_>>());
}

async fn a_wrong_schema_is_refused(fx: Fixture) {
    let (_, newest) = fx.store.schema_version().await.expect("reads");
    let bent = "UPDATE schema_migrations SET checksum = '' WHERE version = 2";
    run(&fx, if fx.url().is_some() { bent } else { "UPDATE schema_migrations SET checksum = x'' WHERE version = 2" })
        .await;
    assert_eq!(open(&fx).await.map(|_| ()), Err(StoreError::SchemaMismatch { version: 2 }));
    assert_eq!(fx.store.migrate_up().await, Err(StoreError::SchemaMismatch { version: 2 }));
    let fx = if fx.url().is_some() { Fixture::postgres().await } else { Fixture::sqlite().await };
    let newer = "INSERT INTO schema_migrations (version, name, checksum, applied_ms) SELECT 9999, 'x', checksum, 0
        FROM schema_migrations WHERE version = 1";
    run(&fx, newer).await;
    let too_new = StoreError::SchemaTooNew { found: 9999, known: newest };
    assert_eq!(open(&fx).await.map(|_| ()), Err(too_new.clone()));
    assert_eq!(fx.store.migrate_up().await, Err(too_new.clone()));
    assert_eq!(fx.store.migrate_down(1).await, Err(too_new));
}

/// A statement past the store.
async fn run(fx: &Fixture, sql: &str) {
    match &fx.config {
        StoreConfig::Sqlite { path } => {
            let connection = rusqlite::Connection::open(path).expect("opens");
            connection.execute_batch(sql).expect("runs");
        }
        StoreConfig::Postgres { url, .. } => {
            let mut connection = crate::postgres::connect(url.expose()).await;
            sqlx::Executor::execute(&mut connection, sql).await.expect("runs");
        }
    }
}
