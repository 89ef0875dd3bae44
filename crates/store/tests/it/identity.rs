//! Rotation of keys, service accounts, a tenant's own roles.

use crate::fixture::{Fixture, scope};
use aether_core::source::OsRng;
use aether_core::{
    AgentName, Clock, KeyId, Permission, PermissionSet, Role, RoleName, ServiceAccountId, TenantScope, Timestamp,
};
use aether_store::*;
use std::sync::Arc;
use std::time::Duration;

crate::on_both![
    two_secrets_of_one_key_overlap,
    a_key_is_renamed_and_its_end_moved,
    a_role_changes_at_once_for_who_has_it,
    a_role_in_use_stays,
    a_service_account_is_all_of_its_keys,
    another_tenants_are_not_there,
];

fn new_key(hash: u8, role: impl Into<RoleName>) -> NewKey {
    NewKey::new(KeyId::generate("c0", &OsRng), "ci", ([hash; 32], format!("aether_sk_{hash}")), role)
}

fn name(text: &str) -> AgentName {
    text.parse().expect("a name")
}

fn rotation(fx: &Fixture, hash: u8, overlap_s: u64) -> Rotation {
    let previous_until = fx.clock.now().plus(Duration::from_secs(overlap_s));
    Rotation { hash: [hash; 32], prefix: format!("aether_sk_{hash}"), previous_until }
}

fn set(permissions: &[Permission]) -> PermissionSet {
    permissions.iter().copied().collect()
}

impl Fixture {
    async fn by_hash(&self, hash: u8) -> Option<Arc<KeyRow>> {
        self.store.find_key_by_hash(&[hash; 32]).await.expect("looks")
    }

    async fn taken(&self, hash: u8) -> bool {
        self.by_hash(hash).await.is_some_and(|row| row.usable(self.clock.now()))
    }

    async fn account(&self, scope: &TenantScope, called: &str, role: impl Into<RoleName>) -> ServiceAccountRow {
        let id = ServiceAccountId::generate("c0", &OsRng);
        let new = NewServiceAccount { id, name: name(called), role: role.into() };
        self.store.create_service_account(scope, new).await.expect("creates")
    }

    async fn last_audit(&self, action: &str) -> AuditRow {
        let of = AuditOf::Tenant(scope());
        let page = self.store.audit_page(&of, AuditFilter { limit: 100, ..AuditFilter::default() }).await;
        let found = page.expect("reads").rows.into_iter().find(|row| row.action == action);
        found.unwrap_or_else(|| panic!("no record of {action}"))
    }
}

async fn two_secrets_of_one_key_overlap(fx: Fixture) {
    let made = fx.store.create_key(&scope(), new_key(1, Role::Viewer)).await.expect("creates");
    let rotate = async |hash: u8, overlap: u64| {
        fx.store.rotate_key(&scope(), &made.id, rotation(&fx, hash, overlap)).await.expect("rotates")
    };
    let row = rotate(2, 60).await;
    assert_eq!((&row.id, row.prefix.as_str(), row.rotated_at), (&made.id, "aether_sk_2", Some(fx.clock.now())));
    let (old, new) = (fx.by_hash(1).await.expect("is there"), fx.by_hash(2).await.expect("is there"));
    assert_eq!((&old.id, old.secret_until), (&made.id, row.previous_until));
    assert_eq!((&new.id, new.secret_until, new.previous_until), (&made.id, None, row.previous_until));
    fx.clock.advance(Duration::from_millis(59_999));
    assert!(fx.taken(1).await && fx.taken(2).await);
    fx.clock.advance(Duration::from_millis(1));
    assert!(!fx.taken(1).await && fx.taken(2).await, "over to the millisecond");
    let record = fx.last_audit("rotate").await;
    assert_eq!(record.resource_id.as_deref(), Some(made.id.as_str()));
    assert_eq!(record.details["previous_prefix"], "aether_sk_1");
    assert_eq!(record.details["prefix"], "aether_sk_2");
    // A rotation more shortens no overlap: its first answer may be lost.
    rotate(3, 60).await;
    rotate(4, 30).await;
    assert!(fx.taken(2).await && fx.taken(3).await && fx.taken(4).await && !fx.taken(1).await);
    fx.clock.advance(Duration::from_secs(30));
    assert!(fx.taken(2).await && !fx.taken(3).await && fx.taken(4).await);
    // One without ends all that were before.
    rotate(5, 0).await;
    assert!(!fx.taken(2).await && !fx.taken(4).await && fx.taken(5).await);
    for n in 0..8 {
        rotate(10 + n, 60).await;
    }
    let many = fx.store.rotate_key(&scope(), &made.id, rotation(&fx, 20, 60)).await;
    assert!(matches!(many, Err(StoreError::TooMany { most: 8, .. })), "{many:?}");
    assert!(fx.taken(5).await && fx.taken(17).await && !fx.taken(20).await);
    fx.store.revoke_key(&scope(), &made.id).await.expect("revokes");
    assert!(!fx.taken(5).await && !fx.taken(17).await, "a revocation ends all");
    let late = fx.store.rotate_key(&scope(), &made.id, rotation(&fx, 7, 60)).await;
    assert_eq!(late, Err(StoreError::NotFound { what: "key" }));
}

async fn a_key_is_renamed_and_its_end_moved(fx: Fixture) {
    let made = fx.store.create_key(&scope(), new_key(1, Role::Viewer)).await.expect("creates");
    let at = Timestamp::from_unix_ms(fx.clock.now().unix_ms() + 1000);
    let change = KeyChange { name: Some("ci 2".into()), expires_at: Some(Some(at)), budget: None };
    let row = fx.store.update_key(&scope(), &made.id, change.clone()).await.expect("updates");
    assert_eq!(fx.store.find_key(&scope(), &made.id).await, Ok(Some(row.clone())));
    assert_eq!((row.name.as_str(), row.expires_at), ("ci 2", Some(at)));
    fx.clock.advance(Duration::from_secs(1));
    assert!(!fx.taken(1).await);
    let change = KeyChange { expires_at: Some(None), ..KeyChange::default() };
    fx.store.update_key(&scope(), &made.id, change).await.expect("updates");
    assert!(fx.taken(1).await);
    let of = AuditOf::Tenant(scope());
    let filter = || AuditFilter { limit: 100, ..AuditFilter::default() };
    let before = fx.store.audit_page(&of, filter()).await.expect("reads").rows.len();
    fx.store.update_key(&scope(), &made.id, KeyChange::default()).await.expect("changes nothing");
    assert_eq!(fx.store.audit_page(&of, filter()).await.expect("reads").rows.len(), before);
}

async fn a_role_changes_at_once_for_who_has_it(fx: Fixture) {
    let own = name("ci-runner");
    let role = RoleName::Own(own.clone());
    let missing = fx.store.create_key(&scope(), new_key(9, role.clone())).await;
    assert!(matches!(missing, Err(StoreError::Invalid { errors }) if errors[0].field == "role"));
    fx.store.create_role(&scope(), &own, set(&[Permission::AgentRead])).await.expect("creates");
    let again = fx.store.create_role(&scope(), &own, PermissionSet::EMPTY).await;
    assert_eq!(again, Err(StoreError::AlreadyExists { what: "role" }));
    fx.store.create_key(&scope(), new_key(1, role.clone())).await.expect("creates");
    let mut scoped = new_key(2, role.clone());
    scoped.scopes = Some([Permission::AgentExec].into());
    fx.store.create_key(&scope(), scoped).await.expect("creates");
    let mut by_account = new_key(3, Role::Admin);
    by_account.service_account = Some(fx.account(&scope(), "bot", role.clone()).await.id);
    fx.store.create_key(&scope(), by_account).await.expect("creates");
    let held = async |hash| fx.by_hash(hash).await.expect("is there").permissions;
    assert_eq!(held(1).await, set(&[Permission::AgentRead]));
    assert_eq!((held(2).await, held(3).await), (PermissionSet::EMPTY, set(&[Permission::AgentRead])));
    let more = set(&[Permission::AgentRead, Permission::AgentExec]);
    fx.store.update_role(&scope(), &own, more).await.expect("updates");
    assert_eq!((held(1).await, held(2).await, held(3).await), (more, set(&[Permission::AgentExec]), more));
    fx.store.update_role(&scope(), &own, PermissionSet::EMPTY).await.expect("updates");
    for hash in [1, 2, 3] {
        assert_eq!(held(hash).await, PermissionSet::EMPTY);
    }
    // Whatever stands in the table, a tenant's own role has nothing of the platform.
    fx.store.update_role(&scope(), &own, Role::PlatformAdmin.permissions()).await.expect("updates");
    assert_eq!(held(1).await, PermissionSet::of_tenant());
}

async fn a_role_in_use_stays(fx: Fixture) {
    let own = name("ci-runner");
    fx.store.create_role(&scope(), &own, set(&[Permission::AgentRead])).await.expect("creates");
    let key = fx.store.create_key(&scope(), new_key(1, RoleName::Own(own.clone()))).await.expect("creates");
    let account = fx.account(&scope(), "bot", RoleName::Own(own.clone())).await;
    let refused = fx.store.delete_role(&scope(), &own).await;
    let Err(StoreError::InUse { what: "role", by }) = refused else { panic!("{refused:?}") };
    assert_eq!(by.len(), 2);
    assert!(by.iter().any(|text| text.contains(key.id.as_str())), "{by:?}");
    assert!(by.iter().any(|text| text.contains("bot")), "{by:?}");
    fx.store.revoke_key(&scope(), &key.id).await.expect("revokes");
    assert!(fx.store.delete_role(&scope(), &own).await.is_err());
    fx.store.delete_service_account(&scope(), &account.id).await.expect("deletes");
    fx.store.delete_role(&scope(), &own).await.expect("nobody has it");
    assert_eq!(fx.store.delete_role(&scope(), &own).await, Err(StoreError::NotFound { what: "role" }));
    assert_eq!(fx.store.list_roles(&scope()).await, Ok(vec![]));
}

async fn a_service_account_is_all_of_its_keys(fx: Fixture) {
    let account = fx.account(&scope(), "bot", Role::Developer).await;
    for hash in [1, 2] {
        let mut key = new_key(hash, Role::Admin);
        key.service_account = Some(account.id.clone());
        let row = fx.store.create_key(&scope(), key).await.expect("creates");
        assert_eq!(row.role, RoleName::BuiltIn(Role::Developer), "the account's, whatever was asked");
        assert_eq!(row.permissions, Role::Developer.permissions());
    }
    fx.store.create_key(&scope(), new_key(3, Role::Viewer)).await.expect("creates");
    let found = fx.store.find_service_account(&scope(), "bot").await.expect("looks").expect("is there");
    assert_eq!((found.keys, found.enabled, &found.id), (2, true, &account.id));
    for enabled in [false, false, true, false] {
        fx.store.set_service_account_enabled(&scope(), &account.id, enabled).await.expect("sets");
        assert_eq!((fx.taken(1).await, fx.taken(2).await, fx.taken(3).await), (enabled, enabled, true));
    }
    fx.store.set_service_account_enabled(&scope(), &account.id, true).await.expect("sets");
    assert_eq!(fx.store.delete_service_account(&scope(), &account.id).await, Ok(2));
    assert_eq!((fx.taken(1).await, fx.taken(2).await, fx.taken(3).await), (false, false, true));
    assert_eq!(fx.store.find_service_account(&scope(), "bot").await, Ok(None));
    let named = fx.by_hash(1).await.expect("is there").account.clone().expect("says whose it was");
    assert_eq!((named.id, named.name), (account.id.clone(), None));
    let mut late = new_key(4, Role::Admin);
    late.service_account = Some(account.id);
    let late = fx.store.create_key(&scope(), late).await;
    assert_eq!(late.map(|_| ()), Err(StoreError::NotFound { what: "service account" }));
    // Its name is free.
    fx.account(&scope(), "bot", Role::Viewer).await;
}

async fn another_tenants_are_not_there(fx: Fixture) {
    let acme = fx.other().await;
    let own = name("ci-runner");
    fx.store.create_role(&scope(), &own, set(&[Permission::AgentRead])).await.expect("creates");
    let account = fx.account(&scope(), "bot", Role::Viewer).await;
    let key = fx.store.create_key(&scope(), new_key(1, Role::Viewer)).await.expect("creates");
    let none = |what| StoreError::NotFound { what };
    assert_eq!(fx.store.find_role(&acme, &own).await, Ok(None));
    assert_eq!(fx.store.update_role(&acme, &own, PermissionSet::EMPTY).await, Err(none("role")));
    assert_eq!(fx.store.delete_role(&acme, &own).await, Err(none("role")));
    for text in [account.id.as_str(), "bot"] {
        assert_eq!(fx.store.find_service_account(&acme, text).await, Ok(None));
    }
    let set_enabled = fx.store.set_service_account_enabled(&acme, &account.id, false).await;
    assert_eq!(set_enabled, Err(none("service account")));
    assert_eq!(fx.store.delete_service_account(&acme, &account.id).await, Err(none("service account")));
    assert_eq!(fx.store.find_key(&acme, &key.id).await, Ok(None));
    assert_eq!(fx.store.update_key(&acme, &key.id, KeyChange::default()).await, Err(none("key")));
    let rotation = Rotation { hash: [8; 32], prefix: "p".into(), previous_until: fx.clock.now() };
    assert_eq!(fx.store.rotate_key(&acme, &key.id, rotation).await, Err(none("key")));
    let mut of_another = new_key(2, Role::Viewer);
    of_another.service_account = Some(account.id);
    let of_another = fx.store.create_key(&acme, of_another).await;
    assert_eq!(of_another.map(|_| ()), Err(none("service account")));
    let role = fx.store.create_key(&acme, new_key(3, RoleName::Own(own))).await;
    assert!(matches!(role, Err(StoreError::Invalid { .. })), "another tenant's role is none");
    assert_eq!(fx.store.list_roles(&acme).await, Ok(vec![]));
    assert_eq!(fx.store.list_service_accounts(&acme).await, Ok(vec![]));
}
