//! The whole server on a real PostgreSQL.

use crate::live::Live;
use crate::postgres::{connect, fresh_database};
use sqlx::Row;

async fn count(url: &str, sql: &str) -> i64 {
    let mut connection = connect(url).await;
    let row = sqlx::query(sql).fetch_one(&mut connection).await.expect("asks");
    row.get(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_on_postgresql_from_migration_to_restart() {
    let url = fresh_database().await;
    let mut live = Live::prepare(&[("DATABASE_URL", &url)]);
    let secret = "s".repeat(40);
    let version = |live: &Live, args: &[&str]| {
        let run = live.with_config(&[&["-o", "json", "migrate"][..], args].concat());
        assert_eq!(run.code, Some(0), "{run:?}");
        let v: serde_json::Value = serde_json::from_str(&run.stdout).expect("JSON");
        (v["current"].as_u64().expect("a number"), v["newest"].as_u64().expect("a number"))
    };
    let (none, newest) = version(&live, &["version"]);
    assert!(none == 0 && newest >= 1);
    let early = live.with_config(&["server"]);
    assert_eq!(early.code, Some(1), "{early:?}");
    assert!(early.stderr.contains("aether migrate up") && !early.stderr.contains(&url), "{early:?}");
    assert_eq!(version(&live, &["up"]), (newest, newest));
    assert_eq!(version(&live, &["up"]), (newest, newest), "a second time changes nothing");

    let lonely = live.with_config(&["server"]);
    assert_eq!(lonely.code, Some(1), "{lonely:?}");
    assert!(lonely.stderr.contains("security.jwt_secret_key"), "other servers need the same key: {lonely:?}");
    live.environment.push(("JWT_SECRET".to_owned(), secret));
    live.launch();
    let agent = live.waiting_agent("first");
    assert!(agent["placement_reason"].as_str().is_some_and(|r| r.contains("memory")), "{agent}");
    live.waiting_agent("second");
    assert_eq!(live.ok(&["agent", "list", "-q"]).lines().count(), 2);
    assert!(!live.dir.path().join("state/aether.db").exists(), "the truth is in PostgreSQL");
    assert_eq!(count(&url, "SELECT count(*) FROM agents WHERE observed = 'pending'").await, 2);
    live.ok(&["agent", "destroy", "first"]);
    assert_eq!(live.run(&["agent", "get", "first"]).code, Some(1));
    assert_eq!(count(&url, "SELECT count(*) FROM agents WHERE observed = 'gone'").await, 1);
    assert!(count(&url, "SELECT count(*) FROM audit_logs WHERE action = 'delete'").await >= 1);

    assert_eq!(live.terminate(), Some(0), "{}", live.log());
    live.launch();
    assert_eq!(live.json(&["agent", "list"])[0]["name"], "second");
    live.ok(&["agent", "destroy", "second"]);
    assert_eq!(live.terminate(), Some(0), "{}", live.log());
}
