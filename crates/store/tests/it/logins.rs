//! Users, sessions with their refresh tokens, revoked tokens.

use crate::fixture::{Fixture, scope};
use aether_core::source::OsRng;
use aether_core::{Clock, KeyId, Role, Secret, SessionId, Timestamp, UserId};
use aether_store::*;
use std::time::Duration;

crate::on_both![
    users_are_of_one_tenant,
    a_refresh_token_is_good_once,
    one_refresh_wins,
    what_ends_sessions,
    revoked_tokens_are_forgotten_after_their_end,
    a_deleted_tenant_leaves_no_users,
];

fn new_user(name: &str) -> NewUser {
    let password = Some(Secret::new("$argon2id$x"));
    NewUser { id: UserId::generate("c0", &OsRng), name: name.to_owned(), role: Role::Developer, password }
}

fn session(fx: &Fixture, subject: Subject) -> NewSession {
    let expires_at = fx.clock.now().plus(Duration::from_secs(60));
    NewSession { id: SessionId::generate("c0", &OsRng), subject, secret: [9; 32], expires_at }
}

async fn users_are_of_one_tenant(fx: Fixture) {
    let other = fx.other().await;
    let ann = fx.store.create_user(&scope(), new_user("ann")).await.expect("creates");
    let again = fx.store.create_user(&scope(), new_user("ann")).await;
    assert_eq!(again.map(|_| ()), Err(StoreError::AlreadyExists { what: "user" }));
    let theirs = fx.store.create_user(&other, new_user("ann")).await.expect("another tenant's");
    for text in ["ann", ann.id.as_str()] {
        assert_eq!(fx.store.get_user(&scope(), text).await, Ok(Some(ann.clone())), "{text}");
    }
    assert_eq!(fx.store.get_user(&other, ann.id.as_str()).await, Ok(None));
    assert_eq!(fx.store.find_user_by_name(other.tenant(), "ann").await, Ok(Some(theirs.clone())));
    assert_eq!(fx.store.list_users(&other).await, Ok(vec![theirs.clone()]));
    let absent = Err(StoreError::NotFound { what: "user" });
    assert_eq!(fx.store.update_user(&scope(), &theirs.id, UserChange::default()).await, absent);
    assert_eq!(fx.store.delete_user(&scope(), &theirs.id).await, Err(StoreError::NotFound { what: "user" }));
    let change = UserChange { role: Some(Role::Viewer), disabled: Some(true), password: None };
    let changed = fx.store.update_user(&scope(), &ann.id, change).await.expect("changes");
    assert_eq!((changed.role, changed.disabled_at), (Role::Viewer, Some(fx.clock.now())));
    assert_eq!(fx.store.find_user(&ann.id).await, Ok(Some(changed)));
    fx.store.delete_user(&scope(), &ann.id).await.expect("deletes");
    assert_eq!(fx.store.find_user(&ann.id).await, Ok(None));
    assert!(fx.store.find_user(&theirs.id).await.expect("looks").is_some());
}

async fn a_refresh_token_is_good_once(fx: Fixture) {
    let new = session(&fx, Subject::Key(KeyId::generate("c0", &OsRng)));
    fx.store.begin_session(&scope(), new.clone()).await.expect("begins");
    assert_eq!(fx.store.find_session(&new.id, [8; 32]).await, Ok(None), "another secret");
    let found = fx.store.find_session(&new.id, [9; 32]).await.expect("looks").expect("is there");
    assert_eq!((found.counter, &found.subject), (0, &new.subject));
    let refresh = async |counter| fx.store.refresh_session(&scope(), &new.id, counter).await.expect("answers");
    for counter in 0..3 {
        let Refreshed::Next(row) = refresh(counter).await else { panic!("not refreshed") };
        assert_eq!(row.counter, counter + 1);
    }
    let other = fx.other().await;
    assert_eq!(fx.store.refresh_session(&other, &new.id, 3).await, Ok(Refreshed::Gone), "another tenant's");
    assert_eq!(fx.store.token_stands("t", Some(&new.id)).await, Ok(true));
    assert_eq!(refresh(1).await, Refreshed::Reused);
    assert_eq!(refresh(3).await, Refreshed::Gone, "the good one has gone with it");
    assert_eq!(fx.store.token_stands("t", Some(&new.id)).await, Ok(false));
}

async fn one_refresh_wins(fx: Fixture) {
    let new = session(&fx, Subject::Key(KeyId::generate("c0", &OsRng)));
    fx.store.begin_session(&scope(), new.clone()).await.expect("begins");
    let all = (0..8).map(|_| {
        let (store, id) = (fx.store.clone(), new.id.clone());
        tokio::spawn(async move { store.refresh_session(&scope(), &id, 0).await.expect("answers") })
    });
    let mut next = 0;
    for task in all.collect::<Vec<_>>() {
        next += u32::from(matches!(task.await.expect("runs"), Refreshed::Next(_)));
    }
    assert_eq!(next, 1);
    assert_eq!(fx.store.token_stands("t", Some(&new.id)).await, Ok(false), "the others ended it");
}

async fn what_ends_sessions(fx: Fixture) {
    let ann = fx.store.create_user(&scope(), new_user("ann")).await.expect("creates");
    let begin = async || {
        let new = session(&fx, Subject::User(ann.id.clone()));
        fx.store.begin_session(&scope(), new.clone()).await.expect("begins");
        new.id
    };
    let stands = async |id: &SessionId| fx.store.token_stands("t", Some(id)).await.expect("answers");
    let id = begin().await;
    let seen = fx.store.find_user(&ann.id).await.expect("looks").expect("is there");
    assert_eq!(seen.last_login_at, Some(fx.clock.now()));
    let role = UserChange { role: Some(Role::Viewer), ..UserChange::default() };
    fx.store.update_user(&scope(), &ann.id, role).await.expect("changes");
    assert!(stands(&id).await, "another role logs nobody out");
    let password = UserChange { password: Some(Secret::new("$argon2id$y")), ..UserChange::default() };
    let disabled = UserChange { disabled: Some(true), ..UserChange::default() };
    for change in [password, disabled] {
        let id = begin().await;
        assert!(stands(&id).await);
        fx.store.update_user(&scope(), &ann.id, change).await.expect("changes");
        assert!(!stands(&id).await);
    }
    let id = begin().await;
    fx.clock.advance(Duration::from_secs(60));
    assert!(!stands(&id).await, "it has expired");
    let first = begin().await;
    for _ in 0..100 {
        fx.clock.advance(Duration::from_millis(1));
        assert!(stands(&first).await);
        begin().await;
    }
    assert!(!stands(&first).await, "the oldest goes");
    let last = begin().await;
    fx.store.delete_user(&scope(), &ann.id).await.expect("deletes");
    assert!(!stands(&last).await);
}

async fn revoked_tokens_are_forgotten_after_their_end(fx: Fixture) {
    let new = session(&fx, Subject::Key(KeyId::generate("c0", &OsRng)));
    fx.store.begin_session(&scope(), new.clone()).await.expect("begins");
    let ends = fx.clock.now().plus(Duration::from_secs(10));
    assert_eq!(fx.store.token_stands("a", None).await, Ok(true));
    for _ in 0..2 {
        fx.store.revoke_token(&scope(), "a", ends, Some(&new.id)).await.expect("revokes");
    }
    assert_eq!(fx.store.token_stands("a", None).await, Ok(false));
    assert_eq!(fx.store.token_stands("b", Some(&new.id)).await, Ok(false), "its session has ended");
    let prune = async || fx.store.prune(Duration::from_secs(3600)).await.expect("prunes");
    fx.clock.set_ms(ends.plus(Duration::from_secs(299)).unix_ms());
    prune().await;
    assert_eq!(fx.store.token_stands("a", None).await, Ok(false));
    fx.clock.advance(Duration::from_secs(2));
    prune().await;
    assert_eq!(fx.store.token_stands("a", None).await, Ok(true), "its own end refuses it");
    let _ = Timestamp::from_unix_ms(0);
}

async fn a_deleted_tenant_leaves_no_users(fx: Fixture) {
    let (other, leader) = (fx.other().await, fx.leader().await);
    let ann = fx.store.create_user(&other, new_user("ann")).await.expect("creates");
    let new = session(&fx, Subject::User(ann.id.clone()));
    fx.store.begin_session(&other, new.clone()).await.expect("begins");
    fx.store.delete_tenant(&scope(), other.tenant()).await.expect("begins");
    let refused = fx.store.begin_session(&other, session(&fx, Subject::User(ann.id.clone()))).await;
    assert!(matches!(refused, Err(StoreError::TenantInactive { .. })), "{refused:?}");
    while !fx.store.tend_deletion(&leader, other.tenant()).await.expect("tends") {}
    assert_eq!(fx.store.find_user(&ann.id).await, Ok(None));
    assert_eq!(fx.store.token_stands("t", Some(&new.id)).await, Ok(false));
}
