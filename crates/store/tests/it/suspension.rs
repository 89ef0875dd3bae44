//! Tenants that are suspended, and tenants that are deleted.

use crate::fixture::{Fixture, new_agent, scope};
use aether_core::source::OsRng;
use aether_core::state::{Desired, Observed};
use aether_core::tenant::{TenantStatus, Tier};
use aether_core::{ExecId, KeyId, Role, TenantId, TenantScope};
use aether_store::*;

crate::on_both![
    a_suspended_tenant_begins_nothing,
    a_deleted_tenant_leaves_its_audit_alone,
    the_default_tenant_stays,
    tenants_are_listed_by_id,
];

const SUSPENDED: StoreError = StoreError::TenantInactive { status: TenantStatus::Suspended };

fn key() -> NewKey {
    NewKey::new(KeyId::generate("c0", &OsRng), "k", ([7; 32], "p".to_owned()), Role::Admin)
}

async fn waiting(fx: &Fixture) -> usize {
    fx.store.pending_agents(None, 100).await.expect("lists").len()
}

async fn a_suspended_tenant_begins_nothing(fx: Fixture) {
    let acme = fx.other().await;
    let (epoch, node) = (fx.leader().await, fx.node(4, 4096).await);
    let make = |name: &'static str| fx.store.create_agent(&acme, new_agent(name));
    let running = make("running").await.expect("creates").agent.id;
    fx.place(&epoch, &running, &node).await;
    fx.report(&node, &running, Observed::Running).await;
    let stopped = make("stopped").await.expect("creates").agent.id;
    let want = |id, desired| fx.store.set_desired(&acme, id, desired, DesireOptions::default(), None);
    want(&stopped, Desired::Stopped).await.expect("desires");
    make("waits").await.expect("creates");
    fx.store.create_key(&acme, key()).await.expect("creates");
    assert_eq!(waiting(&fx).await, 1);
    let seen = fx.store.events_end().await.expect("reads");

    let row = fx.store.set_tenant_active(&scope(), acme.tenant(), false).await.expect("suspends");
    assert_eq!(row.status, TenantStatus::Suspended);
    assert_eq!(make("new").await, Err(SUSPENDED));
    assert_eq!(want(&stopped, Desired::Running).await, Err(SUSPENDED));
    assert_eq!(waiting(&fx).await, 0, "nor is what waits placed");
    let late = fx.store.find_agent(&acme, "waits").await.expect("looks").expect("is there");
    assert_eq!(fx.store.place(&epoch, crate::fixture::place_request(&late, &node)).await, Err(SUSPENDED));
    let intent = ExecIntent { exec_id: ExecId::generate("c0", &OsRng), command: vec!["true".into()], user: None };
    assert_eq!(fx.store.record_exec(&acme, &running, intent, None).await, Err(SUSPENDED));
    let known = fx.store.find_key_by_hash(&[7; 32]).await.expect("looks").expect("is there");
    assert_eq!(known.tenant_status, TenantStatus::Suspended, "who presents the key is told at once");
    // What runs goes on, and may end.
    assert_eq!(fx.get(&running).await.desired, Desired::Running);
    want(&running, Desired::Stopped).await.expect("stops");
    fx.store.create_agent(&scope(), new_agent("other")).await.expect("another tenant works on");

    fx.store.set_tenant_active(&scope(), acme.tenant(), true).await.expect("resumes");
    assert_eq!(waiting(&fx).await, 2);
    let mut woken = Vec::new();
    for _ in 0..100 {
        woken = fx.store.began_to_wait(seen, 1000).await.expect("reads").0;
        if woken.len() == 2 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert!(woken.iter().any(|row| row.name.as_str() == "waits"), "news for the scheduler: {woken:?}");
    make("new").await.expect("works again");
}

async fn a_deleted_tenant_leaves_its_audit_alone(fx: Fixture) {
    let acme = fx.other().await;
    let (epoch, node) = (fx.leader().await, fx.node(4, 4096).await);
    let a = fx.store.create_agent(&acme, new_agent("a")).await.expect("creates").agent.id;
    fx.place(&epoch, &a, &node).await;
    fx.report(&node, &a, Observed::Running).await;
    let mut b = new_agent("b");
    b.spec.labels.insert("k".to_owned(), "v".to_owned());
    b.idempotency = Some(Idempotency { key: "once".to_owned(), request_hash: [1; 32] });
    fx.store.create_agent(&acme, b).await.expect("creates");
    let intent = ExecIntent { exec_id: ExecId::generate("c0", &OsRng), command: vec!["true".into()], user: None };
    fx.store.record_exec(&acme, &a, intent, None).await.expect("records");
    fx.store.create_key(&acme, key()).await.expect("creates");
    fx.store.set_quota(&scope(), acme.tenant(), Tier::Pro, Tier::Pro.limits()).await.expect("sets");

    let erasure = fx.store.delete_tenant(&scope(), acme.tenant()).await.expect("begins");
    assert_eq!(erasure, TenantErasure { keys_revoked: 1, agents_left: 2 });
    let deleting = StoreError::TenantInactive { status: TenantStatus::Deleting };
    assert_eq!(fx.store.create_agent(&acme, new_agent("c")).await, Err(deleting.clone()));
    assert_eq!(fx.store.set_tenant_active(&scope(), acme.tenant(), true).await, Err(deleting));
    // One that waited is over; one on a node is, when that says so.
    assert_eq!(fx.store.next_deletion(None).await, Ok(Some(acme.tenant().clone())));
    assert_eq!(fx.store.next_deletion(Some(acme.tenant().clone())).await, Ok(None));
    assert_eq!(fx.store.tend_deletion(&epoch, acme.tenant()).await, Ok(false));
    let again = fx.store.delete_tenant(&scope(), acme.tenant()).await.expect("tells");
    assert_eq!(again, TenantErasure { keys_revoked: 0, agents_left: 1 });
    assert_eq!(fx.get(&a).await.desired, Desired::Gone);
    fx.report(&node, &a, Observed::Gone).await;
    // A stale leader erases nothing.
    let newer = fx.store.take_leadership("other").await.expect("leads");
    assert!(matches!(fx.store.tend_deletion(&epoch, acme.tenant()).await, Err(StoreError::Fenced { .. })));
    assert_eq!(fx.store.tend_deletion(&newer, acme.tenant()).await, Ok(true));
    assert_eq!(fx.store.next_deletion(None).await, Ok(None));
    let erased = fx.store.find_tenant(acme.tenant()).await.expect("looks").expect("a row stays");
    assert_eq!((erased.status, erased.name.as_str()), (TenantStatus::Erased, "acme"));
    let page = PageRequest { limit: 10, ..PageRequest::default() };
    let left = fx.store.list_agents(&acme, AgentFilter::default(), page).await.expect("lists");
    assert_eq!((left.rows.len(), left.total), (0, 0));
    assert_eq!(fx.store.find_key_by_hash(&[7; 32]).await, Ok(None));
    assert_eq!(fx.store.agent_by_id(&a).await, Ok(None));
    let kept = fx.store.audit_list(&acme, AuditFilter { limit: 100, ..AuditFilter::default() }).await.expect("lists");
    assert!(kept.iter().any(|record| record.action == "exec"), "{kept:?}");
    // Whoever had the id next would have its records.
    let again = fx.store.create_tenant(&scope(), NewTenant::new(acme.tenant(), Tier::Free)).await;
    assert_eq!(again, Err(StoreError::AlreadyExists { what: "tenant" }));
    let refused = StoreError::TenantInactive { status: TenantStatus::Erased };
    assert_eq!(fx.store.create_agent(&acme, new_agent("a")).await, Err(refused));
    assert_eq!(fx.store.list_tenants(None, 10).await.map(|(rows, total)| (rows.len(), total)), Ok((1, 1)));
    let gone = StoreError::NotFound { what: "tenant" };
    assert_eq!(fx.store.delete_tenant(&scope(), acme.tenant()).await, Err(gone));
}

async fn the_default_tenant_stays(fx: Fixture) {
    let default = TenantId::default_tenant();
    assert_eq!(fx.store.set_tenant_active(&scope(), &default, false).await, Err(StoreError::DefaultTenant));
    assert_eq!(fx.store.delete_tenant(&scope(), &default).await, Err(StoreError::DefaultTenant));
    let nobody: TenantId = "nobody".parse().expect("an id");
    let absent = StoreError::NotFound { what: "tenant" };
    assert_eq!(fx.store.delete_tenant(&scope(), &nobody).await, Err(absent.clone()));
    assert_eq!(fx.store.set_tenant_active(&scope(), &nobody, false).await, Err(absent.clone()));
    assert_eq!(fx.store.set_quota(&scope(), &nobody, Tier::Free, Tier::Free.limits()).await, Err(absent.clone()));
    assert_eq!(fx.store.update_tenant(&scope(), &nobody, TenantChange::default()).await, Err(absent));
}

async fn tenants_are_listed_by_id(fx: Fixture) {
    for id in ["b", "a", "c"] {
        fx.tenant(&id.parse().expect("an id"), Tier::Pro).await;
    }
    let ids = |rows: Vec<TenantRow>| rows.into_iter().map(|row| row.id.to_string()).collect::<Vec<_>>();
    let (first, total) = fx.store.list_tenants(None, 3).await.expect("lists");
    assert_eq!((total, ids(first.clone())), (4, vec!["a".into(), "b".into(), "c".into()]));
    let (rest, _) = fx.store.list_tenants(first.last().map(|row| row.id.clone()), 3).await.expect("lists");
    assert_eq!(ids(rest), ["default"]);
    let quota = fx.store.quota(&first[0].id).await.expect("reads");
    assert_eq!((quota.tier, quota.limits), (Tier::Pro, Tier::Pro.limits()));
    let scope = TenantScope::system(first[0].id.clone(), "test");
    assert_eq!(fx.store.list_keys(&scope).await, Ok(vec![]));
}
