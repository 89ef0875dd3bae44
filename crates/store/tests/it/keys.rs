//! API keys, tenants, leadership.

use crate::fixture::{Fixture, scope};
use aether_core::source::OsRng;
use aether_core::tenant::Tier;
use aether_core::{Clock, KeyId, Permission, Role, Timestamp};
use aether_store::*;
use std::collections::BTreeSet;
use std::time::Duration;

crate::on_both![keys_live_and_end, tenants_are_made_once, leadership_is_fenced, pings];

fn key(hash: u8) -> NewKey {
    let secret = ([hash; 32], "aether_sk_ab".to_owned());
    NewKey {
        scopes: Some(BTreeSet::from([Permission::AgentRead, Permission::AgentCreate])),
        expires_at: Some(Timestamp::from_unix_ms(1_700_000_060_000)),
        ..NewKey::new(KeyId::generate("c0", &OsRng), "ci", secret, Role::Developer)
    }
}

async fn keys_live_and_end(fx: Fixture) {
    assert_eq!(fx.store.count_keys().await, Ok(0));
    let made = fx.store.create_key(&scope(), key(1)).await.expect("creates");
    let again = fx.store.create_key(&scope(), key(1)).await;
    assert_eq!(again, Err(StoreError::AlreadyExists { what: "key" }), "a hash is unique");
    assert_eq!(fx.store.find_key_by_hash(&[2; 32]).await, Ok(None));
    let found = fx.store.find_key_by_hash(&[1; 32]).await.expect("looks").expect("is there");
    assert_eq!(*found, made);
    assert!(found.usable(fx.clock.now()));
    fx.clock.advance(Duration::from_secs(59));
    fx.store.touch_key(&made.id).await.expect("notes");
    let used = fx.store.find_key_by_hash(&[1; 32]).await.expect("looks").expect("is there");
    assert_eq!(used.last_used_at, Some(fx.clock.now()));
    fx.clock.advance(Duration::from_secs(1));
    assert!(!used.usable(fx.clock.now()), "expired to the millisecond");
    assert_eq!(fx.store.count_keys().await, Ok(1));
    fx.store.revoke_key(&scope(), &made.id).await.expect("revokes");
    assert_eq!(fx.store.revoke_key(&scope(), &made.id).await, Err(StoreError::NotFound { what: "key" }));
    assert_eq!(fx.store.count_keys().await, Ok(0));
    let revoked = fx.store.find_key_by_hash(&[1; 32]).await.expect("looks").expect("is there");
    assert!(!revoked.usable(Timestamp::from_unix_ms(0)));
    assert_eq!(fx.store.list_keys(&scope()).await.expect("lists"), [revoked.as_ref().clone()]);
}

async fn tenants_are_made_once(fx: Fixture) {
    let acme = fx.other().await;
    let again = fx.store.create_tenant(&scope(), NewTenant::new(acme.tenant(), Tier::Free)).await;
    assert_eq!(again, Err(StoreError::AlreadyExists { what: "tenant" }));
    let default = fx.store.find_tenant(scope().tenant()).await.expect("looks");
    assert!(default.is_some(), "the schema brings it");
    let nobody = aether_core::TenantScope::system("nobody".parse().expect("an id"), "test");
    let refused = fx.store.create_agent(&nobody, crate::fixture::new_agent("a")).await;
    assert_eq!(refused.map(|_| ()), Err(StoreError::NotFound { what: "tenant" }));
}

async fn leadership_is_fenced(fx: Fixture) {
    let first = fx.store.take_leadership("one").await.expect("leads");
    fx.clock.advance(Duration::from_secs(3));
    fx.store.renew_leadership(&first).await.expect("renews");
    let row = fx.store.leadership().await.expect("reads");
    assert_eq!((row.epoch, row.server_id.as_deref(), row.renewed_at), (1, Some("one"), fx.clock.now()));
    let second = fx.store.take_leadership("two").await.expect("leads");
    assert_eq!((first.value(), second.value()), (1, 2));
    let fenced = StoreError::Fenced { held: 1, current: 2 };
    assert_eq!(fx.store.renew_leadership(&first).await, Err(fenced.clone()));
    let (agent, node) = (fx.agent("a").await, fx.node(4, 4096).await);
    let request = crate::fixture::place_request(&agent, &node);
    assert_eq!(fx.store.place(&first, request.clone()).await, Err(fenced.clone()));
    assert_eq!(fx.store.explain_pending(&first, vec![(agent.id.clone(), "why".into())]).await, Err(fenced.clone()));
    assert_eq!(fx.store.expire_nodes(&first, Duration::ZERO, fx.clock.now()).await, Err(fenced));
    assert_eq!(fx.get(&agent.id).await, agent, "a fenced write leaves nothing");
    fx.store.place(&second, request).await.expect("the leader places");
}

async fn pings(fx: Fixture) {
    fx.store.ping().await.expect("answers");
    fx.store.close().await;
    assert!(matches!(fx.store.ping().await, Err(StoreError::Unavailable { .. })));
    let late = fx.store.create_agent(&scope(), crate::fixture::new_agent("a")).await;
    assert!(matches!(late, Err(StoreError::Unavailable { .. })));
}
