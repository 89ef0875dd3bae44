//! Another tenant's id is *not found*, whatever is asked.

use crate::fixture::{Fixture, new_agent, scope};
use aether_core::source::OsRng;
use aether_core::state::{Desired, Observed};
use aether_core::{ExecId, KeyId, Role};
use aether_store::*;

crate::on_both![a_foreign_scope_finds_nothing, the_operator_counts_the_agents_of_all];

async fn a_foreign_scope_finds_nothing(fx: Fixture) {
    let acme = fx.other().await;
    let mut new = new_agent("a");
    new.alias = Some("alias".parse().expect("a name"));
    new.env.insert("A".to_owned(), "1".to_owned());
    let id = fx.store.create_agent(&scope(), new).await.expect("creates").agent.id;
    let intent = ExecIntent { exec_id: ExecId::generate("c0", &OsRng), command: vec!["true".into()], user: None };
    fx.store.record_exec(&scope(), &id, intent.clone(), None).await.expect("records");
    let key = NewKey::new(KeyId::generate("c0", &OsRng), "k", ([1; 32], "p".to_owned()), Role::Admin);
    fx.store.create_key(&scope(), key.clone()).await.expect("creates");

    let no_agent = StoreError::NotFound { what: "agent" };
    for text in [id.as_str(), "a", "alias"] {
        assert_eq!(fx.store.find_agent(&acme, text).await, Ok(None));
    }
    let page = PageRequest { limit: 10, ..PageRequest::default() };
    let listed = fx.store.list_agents(&acme, AgentFilter::default(), page).await.expect("lists");
    assert_eq!((listed.rows.len(), listed.total), (0, 0));
    assert_eq!(fx.store.agent_env(&acme, &id).await, Err(no_agent.clone()));
    for desired in Desired::ALL {
        let refused = fx.store.set_desired(&acme, &id, *desired, DesireOptions::default(), None).await;
        assert_eq!(refused, Err(no_agent.clone()));
    }
    let foreign = ExecIntent { exec_id: ExecId::generate("c0", &OsRng), ..intent.clone() };
    assert_eq!(fx.store.record_exec(&acme, &id, foreign, None).await, Err(no_agent));
    let end = ExecEnd { outcome: "exited".to_owned(), ..ExecEnd::default() };
    let refused = fx.store.finish_exec(&acme, &intent.exec_id, end).await;
    assert_eq!(refused, Err(StoreError::NotFound { what: "exec" }));
    assert_eq!(fx.store.list_execs(&acme, &id, 10).await, Ok(Vec::new()));
    assert_eq!(fx.store.list_keys(&acme).await, Ok(Vec::new()));
    assert_eq!(fx.store.revoke_key(&acme, &key.id).await, Err(StoreError::NotFound { what: "key" }));
    let filter = AuditFilter { limit: 100, ..AuditFilter::default() };
    assert_eq!(fx.store.audit_list(&acme, filter).await, Ok(Vec::new()));
    fx.events(1).await;
    let (events, _) = fx.store.tenant_events_after(&acme, EventCursor::default(), 100).await.expect("reads");
    assert_eq!(events, Vec::new());
    // Its own names are its own.
    fx.store.create_agent(&acme, new_agent("a")).await.expect("the same name in another tenant");
    assert!(fx.store.find_agent(&scope(), id.as_str()).await.expect("looks").is_some(), "and nothing was changed");
}

async fn the_operator_counts_the_agents_of_all(fx: Fixture) {
    assert_eq!(fx.store.count_agents().await, Ok(Vec::new()));
    let acme = fx.other().await;
    let one = fx.store.create_agent(&scope(), new_agent("a")).await.expect("creates").agent.id;
    fx.store.create_agent(&acme, new_agent("a")).await.expect("creates");
    assert_eq!(fx.store.count_agents().await, Ok(vec![(Observed::Pending, 2)]));
    fx.desire(&one, Desired::Stopped).await.expect("desires");
    let mut counts = fx.store.count_agents().await.expect("counts");
    counts.sort();
    assert_eq!(counts.iter().map(|(_, n)| n).sum::<u64>(), 2, "{counts:?}");
    fx.desire(&one, Desired::Gone).await.expect("desires");
    assert_eq!(fx.store.count_agents().await, Ok(vec![(Observed::Pending, 1)]), "those to be gone do not count");
}
