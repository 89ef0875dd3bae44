//! Creating, finding, listing and wishing.

use crate::fixture::{Fixture, new_agent, scope};
use aether_core::source::OsRng;
use aether_core::state::{Desired, Observed};
use aether_core::{AgentId, ExecId};
use aether_store::*;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

crate::on_both![
    creates_and_finds,
    names_and_aliases_share_one_space,
    one_of_64_creates_of_a_name_wins,
    idempotency_keys_map_to_one_result,
    sixteen_requests_with_one_key_make_one_agent,
    pages_newest_first,
    filters_by_status_labels_and_metadata,
    env_is_read_only_through_the_audited_door,
    wishes_follow_the_rules,
    versions_are_compared,
    every_change_has_one_event_and_one_audit_record,
    execs_have_intent_and_end,
];

async fn creates_and_finds(fx: Fixture) {
    let mut new = new_agent("one");
    new.alias = Some("my-id".parse().expect("a name"));
    new.env = BTreeMap::from([("A".to_owned(), "quotes \" and\nnewlines ü".to_owned())]);
    let made = fx.store.create_agent(&scope(), new.clone()).await.expect("creates");
    assert!(!made.replayed);
    let row = made.agent;
    assert_eq!((row.desired, row.observed, row.version, row.generation), (Desired::Running, Observed::Pending, 1, 1));
    assert_eq!(row.env_names, ["A"]);
    for key in [row.id.as_str(), "one", "my-id"] {
        let found = fx.store.find_agent(&scope(), key).await.expect("looks").expect(key);
        assert_eq!(*found, row, "{key}");
    }
    for absent in ["two", "", "UPPER", "a b", "%", "agtc0aaaaaaaaaaaaaaaa"] {
        assert_eq!(fx.store.find_agent(&scope(), absent).await, Ok(None), "{absent}");
    }
    let again = fx.store.create_agent(&scope(), NewAgent { name: "x".parse().expect("a name"), ..new }).await;
    assert_eq!(again.map(|_| ()), Err(StoreError::AlreadyExists { what: "agent" }));
}

async fn names_and_aliases_share_one_space(fx: Fixture) {
    let with = |name: &str, alias: &str| NewAgent { alias: Some(alias.parse().expect("a name")), ..new_agent(name) };
    let first = fx.store.create_agent(&scope(), with("a", "b")).await.expect("creates").agent;
    let taken = |name: &str| Err(StoreError::NameTaken { name: name.to_owned() });
    for (new, name) in [(new_agent("a"), "a"), (new_agent("b"), "b"), (with("c", "a"), "a"), (with("c", "b"), "b")] {
        assert_eq!(fx.store.create_agent(&scope(), new).await.map(|_| ()), taken(name));
    }
    fx.store.create_agent(&scope(), with("same", "same")).await.expect("its own name as alias");
    // What was refused has left nothing: "c" is free.
    fx.agent("c").await;
    fx.desire(&first.id, Desired::Gone).await.expect("deletes");
    fx.agent("a").await;
    fx.agent("b").await;
}

async fn one_of_64_creates_of_a_name_wins(fx: Fixture) {
    let tasks: Vec<_> = (0..64)
        .map(|_| {
            let store = fx.store.clone();
            tokio::spawn(async move { store.create_agent(&scope(), new_agent("wanted")).await })
        })
        .collect();
    let mut won = 0;
    for task in tasks {
        match task.await.expect("runs") {
            Ok(_) => won += 1,
            Err(e) => assert_eq!(e, StoreError::NameTaken { name: "wanted".to_owned() }),
        }
    }
    assert_eq!(won, 1);
    let page = PageRequest { limit: 10, ..PageRequest::default() };
    assert_eq!(fx.store.list_agents(&scope(), AgentFilter::default(), page).await.expect("lists").total, 1);
}

fn keyed(name: &str, hash: u8) -> NewAgent {
    let idempotency = Some(Idempotency { key: "key-1".to_owned(), request_hash: [hash; 32] });
    NewAgent { idempotency, ..new_agent(name) }
}

async fn idempotency_keys_map_to_one_result(fx: Fixture) {
    let first = fx.store.create_agent(&scope(), keyed("one", 1)).await.expect("creates").agent;
    let again = fx.store.create_agent(&scope(), keyed("one", 1)).await.expect("replays");
    assert_eq!((again.replayed, &again.agent), (true, &first));
    let other = fx.store.create_agent(&scope(), keyed("two", 2)).await;
    assert_eq!(other.map(|_| ()), Err(StoreError::IdempotencyMismatch));
    // A refused create leaves its key free.
    let refused = NewAgent {
        idempotency: Some(Idempotency { key: "key-2".to_owned(), request_hash: [3; 32] }),
        ..new_agent("one")
    };
    assert!(matches!(fx.store.create_agent(&scope(), refused.clone()).await, Err(StoreError::NameTaken { .. })));
    let name = "other".parse().expect("a name");
    assert!(!fx.store.create_agent(&scope(), NewAgent { name, ..refused }).await.expect("creates").replayed);
    // Another tenant's keys are its own.
    let acme = fx.other().await;
    assert!(!fx.store.create_agent(&acme, keyed("one", 9)).await.expect("creates").replayed);
    // Deleted, the first result is still the answer.
    fx.desire(&first.id, Desired::Gone).await.expect("deletes");
    let gone = fx.store.create_agent(&scope(), keyed("one", 1)).await.expect("replays");
    assert_eq!((gone.replayed, gone.agent.desired), (true, Desired::Gone));
    // A day later the key is free.
    fx.clock.advance(Duration::from_secs(24 * 3600 + 1));
    assert!(!fx.store.create_agent(&scope(), keyed("one", 7)).await.expect("creates").replayed);
}

async fn sixteen_requests_with_one_key_make_one_agent(fx: Fixture) {
    let tasks: Vec<_> = (0..16)
        .map(|_| {
            let store = fx.store.clone();
            tokio::spawn(async move { store.create_agent(&scope(), keyed("one", 1)).await })
        })
        .collect();
    let mut ids = BTreeSet::new();
    let mut fresh = 0;
    for task in tasks {
        let created = task.await.expect("runs").expect("creates or replays");
        ids.insert(created.agent.id);
        fresh += u32::from(!created.replayed);
    }
    assert_eq!((ids.len(), fresh), (1, 1));
}

async fn pages_newest_first(fx: Fixture) {
    let mut made = Vec::new();
    for i in 0..25 {
        made.push(fx.agent(&format!("a{i}")).await.id);
        // Several in one millisecond: the id decides.
        fx.clock.advance(Duration::from_millis(i % 2));
    }
    let mut seen = Vec::new();
    let mut cursor = None;
    loop {
        let page = PageRequest { limit: 10, cursor, page: None };
        let page = fx.store.list_agents(&scope(), AgentFilter::default(), page).await.expect("lists");
        assert_eq!(page.total, 25);
        seen.extend(page.rows);
        cursor = page.next_cursor;
        if cursor.is_none() {
            break;
        }
    }
    assert!(seen.windows(2).all(|w| (w[0].created_at, &w[0].id) > (w[1].created_at, &w[1].id)));
    assert_eq!(seen.iter().map(|r| &r.id).collect::<BTreeSet<_>>(), made.iter().collect::<BTreeSet<_>>());
    let third = PageRequest { limit: 10, cursor: None, page: Some(3) };
    let third = fx.store.list_agents(&scope(), AgentFilter::default(), third).await.expect("lists");
    assert_eq!((third.rows.as_slice(), third.next_cursor), (&seen[20..], None));
    for bad in ["", "x", "1-x", "1-", "-agtc0aaaaaaaaaaaaaaaa", "1' OR 1=1--"] {
        let page = PageRequest { limit: 10, cursor: Some(bad.to_owned()), page: None };
        let refused = fx.store.list_agents(&scope(), AgentFilter::default(), page).await;
        assert_eq!(refused.map(|_| ()), Err(StoreError::BadCursor), "{bad}");
    }
}

async fn filters_by_status_labels_and_metadata(fx: Fixture) {
    for (name, team, run) in [("a", "x", "1"), ("b", "x", "2"), ("c", "y", "1")] {
        let mut new = new_agent(name);
        new.spec.labels = BTreeMap::from([("team".to_owned(), team.to_owned())]);
        new.spec.metadata = BTreeMap::from([("run".to_owned(), run.to_owned())]);
        fx.store.create_agent(&scope(), new).await.expect("creates");
    }
    let stopped = fx.store.find_agent(&scope(), "a").await.expect("looks").expect("a").id.clone();
    fx.desire(&stopped, Desired::Stopped).await.expect("stops");
    let pair = |k: &str, v: &str| BTreeMap::from([(k.to_owned(), v.to_owned())]);
    let named = async |filter: AgentFilter| {
        let page = PageRequest { limit: 100, ..PageRequest::default() };
        let page = fx.store.list_agents(&scope(), filter, page).await.expect("lists");
        assert_eq!(page.total as usize, page.rows.len());
        page.rows.iter().map(|r| r.name.to_string()).collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>().join(",")
    };
    let all = AgentFilter::default();
    assert_eq!(named(all.clone()).await, "a,b,c");
    assert_eq!(named(AgentFilter { labels: pair("team", "x"), ..all.clone() }).await, "a,b");
    assert_eq!(named(AgentFilter { metadata: pair("run", "1"), ..all.clone() }).await, "a,c");
    assert_eq!(named(AgentFilter { labels: pair("team", "x"), metadata: pair("run", "1"), ..all.clone() }).await, "a");
    assert_eq!(named(AgentFilter { labels: pair("run", "1"), ..all.clone() }).await, "", "labels are not metadata");
    assert_eq!(named(AgentFilter { status: vec![Observed::Pending], ..all.clone() }).await, "b,c");
    let both = vec![Observed::Pending, Observed::Stopped];
    assert_eq!(named(AgentFilter { status: both, ..all }).await, "a,b,c");
}

async fn env_is_read_only_through_the_audited_door(fx: Fixture) {
    let env = BTreeMap::from([("TOKEN".to_owned(), "s3cret".to_owned()), ("B".to_owned(), String::new())]);
    let row =
        fx.store.create_agent(&scope(), NewAgent { env: env.clone(), ..new_agent("a") }).await.expect("creates").agent;
    assert_eq!(row.env_names, ["B", "TOKEN"]);
    assert!(!format!("{row:?}").contains("s3cret"));
    assert_eq!(fx.store.agent_env(&scope(), &row.id).await, Ok(env));
    let filter = AuditFilter { action: Some("read_env".to_owned()), limit: 10, ..AuditFilter::default() };
    let records = fx.store.audit_list(&scope(), filter).await.expect("lists");
    assert_eq!(records.len(), 1);
    assert_eq!((records[0].actor.as_str(), records[0].resource_id.as_deref()), ("system:test", Some(row.id.as_str())));
    let plain = fx.agent("b").await;
    assert_eq!(fx.store.agent_env(&scope(), &plain.id).await, Ok(BTreeMap::new()));
    fx.desire(&row.id, Desired::Gone).await.expect("deletes");
    assert_eq!(fx.store.agent_env(&scope(), &row.id).await, Err(StoreError::NotFound { what: "agent" }));
}

async fn wishes_follow_the_rules(fx: Fixture) {
    // Never placed: each wish is fulfilled by the store itself.
    let id = fx.agent("a").await.id;
    let stopped = fx.desire(&id, Desired::Stopped).await.expect("stops");
    assert_eq!((stopped.observed, stopped.generation, stopped.version), (Observed::Stopped, 2, 2));
    assert!(stopped.stopped_at.is_some());
    assert_eq!(fx.desire(&id, Desired::Stopped).await.expect("again").version, 2, "a repeated wish changes nothing");
    let started = fx.desire(&id, Desired::Running).await.expect("starts");
    assert_eq!((started.observed, started.generation, started.stopped_at), (Observed::Pending, 3, None));
    assert_eq!(fx.desire(&id, Desired::Running).await.expect("again").generation, 3);
    let refused = fx.desire(&id, Desired::Paused).await;
    let (observed, desired, wanted) = (Observed::Pending, Desired::Running, Desired::Paused);
    assert_eq!(refused, Err(StoreError::IllegalState { observed, desired, wanted }));
    let gone = fx.desire(&id, Desired::Gone).await.expect("deletes");
    assert_eq!((gone.desired, gone.observed), (Desired::Gone, Observed::Gone));
    for wish in Desired::ALL {
        assert_eq!(fx.desire(&id, *wish).await, Err(StoreError::NotFound { what: "agent" }));
    }
    assert_eq!(fx.store.find_agent(&scope(), id.as_str()).await, Ok(None));
    assert_eq!(fx.store.find_agent(&scope(), "a").await, Ok(None));
    assert_eq!(fx.store.pending_agents(None, 10).await, Ok(Vec::new()));

    // A stop on its way may be made harder, and a start does not overtake it.
    let (epoch, node) = (fx.leader().await, fx.node(4, 4096).await);
    let id = fx.agent("b").await.id;
    fx.place(&epoch, &id, &node).await;
    fx.report(&node, &id, Observed::Running).await;
    let soft = fx.desire(&id, Desired::Stopped).await.expect("stops");
    assert!(matches!(fx.desire(&id, Desired::Running).await, Err(StoreError::IllegalState { .. })));
    let options = DesireOptions { force: true, stop_timeout_ms: Some(5) };
    let hard = fx.store.set_desired(&scope(), &id, Desired::Stopped, options, None).await.expect("forces");
    assert_eq!((hard.force, hard.stop_timeout_ms, hard.generation), (true, Some(5), soft.generation + 1));
}

async fn versions_are_compared(fx: Fixture) {
    let row = fx.agent("a").await;
    let options = DesireOptions::default();
    let stale = fx.store.set_desired(&scope(), &row.id, Desired::Stopped, options, Some(7)).await;
    assert_eq!(stale, Err(StoreError::VersionConflict { current: 1 }));
    let wishes: Vec<_> = (0..16)
        .map(|i| {
            let (store, id) = (fx.store.clone(), row.id.clone());
            let wish = if i % 2 == 0 { Desired::Stopped } else { Desired::Gone };
            tokio::spawn(async move { store.set_desired(&scope(), &id, wish, options, Some(1)).await })
        })
        .collect();
    let mut won = 0;
    for wish in wishes {
        match wish.await.expect("runs") {
            Ok(_) => won += 1,
            Err(StoreError::VersionConflict { .. } | StoreError::NotFound { .. }) => {}
            Err(e) => panic!("{e}"),
        }
    }
    assert_eq!(won, 1, "one compare-and-swap wins");
}

async fn every_change_has_one_event_and_one_audit_record(fx: Fixture) {
    let (epoch, node) = (fx.leader().await, fx.node(4, 4096).await);
    let id = fx.agent("a").await.id;
    fx.place(&epoch, &id, &node).await;
    for state in [Observed::Creating, Observed::Running] {
        fx.report(&node, &id, state).await;
    }
    fx.desire(&id, Desired::Gone).await.expect("deletes");
    fx.report(&node, &id, Observed::Gone).await;
    let events = fx.events(7).await;
    let kinds: Vec<_> = events.iter().map(|e| e.kind.as_str()).collect();
    assert_eq!(
        kinds,
        [
            "node.registered",
            "agent.created",
            "agent.placed",
            "agent.observed",
            "agent.observed",
            "agent.desired",
            "agent.gone"
        ]
    );
    let versions: Vec<_> = events.iter().skip(1).map(|e| e.version).collect();
    assert_eq!(versions, [1, 2, 3, 4, 5, 6]);
    let filter = AuditFilter { resource_id: Some(id.to_string()), limit: 100, ..AuditFilter::default() };
    let mut actions: Vec<_> =
        fx.store.audit_list(&scope(), filter).await.expect("lists").into_iter().map(|r| r.action).collect();
    actions.reverse();
    assert_eq!(actions, ["create", "place", "observe", "observe", "delete", "erase"]);
}

async fn execs_have_intent_and_end(fx: Fixture) {
    let agent = fx.agent("a").await.id;
    let intent = |command: &str| ExecIntent {
        exec_id: ExecId::generate("c0", &OsRng),
        command: vec![command.to_owned()],
        user: Some("user".to_owned()),
    };
    let key = || Some(Idempotency { key: "k".to_owned(), request_hash: [1; 32] });
    let first = intent("true");
    let made = fx.store.record_exec(&scope(), &agent, first.clone(), key()).await.expect("records");
    assert_eq!((&made.exec_id, made.replayed, made.end), (&first.exec_id, false, None));
    let again = fx.store.record_exec(&scope(), &agent, intent("true"), key()).await.expect("replays");
    assert_eq!((&again.exec_id, again.replayed, again.end), (&first.exec_id, true, None));
    let end = ExecEnd { outcome: "exited".to_owned(), exit_code: Some(-3), exit_signal: None };
    fx.store.finish_exec(&scope(), &first.exec_id, end.clone()).await.expect("finishes");
    let late = ExecEnd { outcome: "unknown".to_owned(), ..ExecEnd::default() };
    fx.store.finish_exec(&scope(), &first.exec_id, late).await.expect("a second end is no error");
    let again = fx.store.record_exec(&scope(), &agent, intent("true"), key()).await.expect("replays");
    assert_eq!((again.replayed, again.started_at, again.end.as_ref()), (true, made.started_at, Some(&end)));
    let known = fx.store.known_exec(&scope(), &key().expect("a key")).await.expect("reads");
    assert_eq!(known, Some(again));
    let absent = Idempotency { key: "none".to_owned(), request_hash: [1; 32] };
    assert_eq!(fx.store.known_exec(&scope(), &absent).await, Ok(None));
    let changed = Idempotency { key: "k".to_owned(), request_hash: [2; 32] };
    assert_eq!(fx.store.known_exec(&scope(), &changed).await, Err(StoreError::IdempotencyMismatch));
    let foreign = fx.other().await;
    assert_eq!(fx.store.known_exec(&foreign, &key().expect("a key")).await, Ok(None));
    let other = Some(Idempotency { key: "k".to_owned(), request_hash: [2; 32] });
    let other = fx.store.record_exec(&scope(), &agent, intent("false"), other).await;
    assert_eq!(other, Err(StoreError::IdempotencyMismatch));
    let rows = fx.store.list_execs(&scope(), &agent, 10).await.expect("lists");
    assert_eq!(rows.len(), 1);
    assert_eq!((rows[0].command.as_slice(), rows[0].end.as_ref()), (["true".to_owned()].as_slice(), Some(&end)));
    let unknown = ExecId::generate("c0", &OsRng);
    assert_eq!(fx.store.finish_exec(&scope(), &unknown, end).await, Err(StoreError::NotFound { what: "exec" }));
    let nobody = AgentId::generate("c0", &OsRng);
    assert!(fx.store.record_exec(&scope(), &nobody, intent("true"), None).await.is_err());
}
