//! Logins that can be refreshed, and tokens that are refused.
//!
//! A session is one row however often it is refreshed. Of its refresh tokens
//! one is good, by its counter; an earlier one that comes again is in two
//! hands, and ends the session. A token of a session that is not there is
//! refused, so ending one needs no list of its tokens; tokens without a
//! session are refused by name, until they would have expired.

use super::{audit, quota, users};
use crate::error::StoreError;
use crate::model::{AuditEntry, NewSession, Refreshed, SessionRow, Subject};
use crate::tx::{Context, Row, Tx, params, query_one};
use aether_core::{SessionId, TenantScope, Timestamp};
use serde_json::json;

const COLUMNS: &str = "id, tenant_id, subject, secret, counter, expires_ms";
/// Logins of one key or user that are kept: the newest.
const MOST: u32 = 100;

fn decode(row: &Row) -> Result<SessionRow, StoreError> {
    Ok(SessionRow {
        id: row.parse("id")?,
        tenant: row.parse("tenant_id")?,
        subject: row.parse("subject")?,
        counter: row.small("counter")?,
        expires_at: row.time("expires_ms")?,
    })
}

/// Begins one, in place of the oldest where its subject has too many.
pub(crate) async fn create(
    tx: &mut dyn Tx,
    cx: &Context,
    scope: &TenantScope,
    new: &NewSession,
) -> Result<(), StoreError> {
    quota::enter(tx, scope.tenant()).await?.require_active()?;
    let subject = new.subject.as_str();
    tx.execute(
        "DELETE FROM sessions WHERE id IN
           (SELECT id FROM sessions WHERE subject = $1 ORDER BY created_ms DESC, id LIMIT 1000 OFFSET $2)",
        params![subject, MOST - 1],
    )
    .await?;
    tx.execute(
        "INSERT INTO sessions (id, tenant_id, subject, secret, counter, created_ms, expires_ms)
         VALUES ($1, $2, $3, $4, 0, $5, $6)",
        params![new.id.as_str(), scope.tenant().as_str(), subject, new.secret.as_slice(), cx.now(), new.expires_at],
    )
    .await?;
    if let Subject::User(id) = &new.subject {
        users::logged_in(tx, cx, id).await?;
    }
    audit::success(tx, cx, scope, "login", "session", Some(new.id.as_str()), json!({})).await
}

/// One whose refresh tokens have this secret; expired ones too.
pub(crate) async fn find(tx: &mut dyn Tx, id: &SessionId, secret: &[u8; 32]) -> Result<Option<SessionRow>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM sessions WHERE id = $1 AND secret = $2");
    query_one(tx, &sql, params![id.as_str(), secret.as_slice()]).await?.as_ref().map(decode).transpose()
}

/// Spends the refresh token with this counter.
pub(crate) async fn refresh(
    tx: &mut dyn Tx,
    cx: &Context,
    scope: &TenantScope,
    (id, counter): (&SessionId, u32),
) -> Result<Refreshed, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM sessions WHERE id = $1 AND tenant_id = $2{}", tx.dialect().for_update());
    let Some(row) = query_one(tx, &sql, params![id.as_str(), scope.tenant().as_str()]).await? else {
        return Ok(Refreshed::Gone);
    };
    let mut row = decode(&row)?;
    if row.expires_at <= cx.now() {
        return Ok(Refreshed::Gone);
    }
    if counter != row.counter {
        tx.execute("DELETE FROM sessions WHERE id = $1", params![id.as_str()]).await?;
        let entry = AuditEntry {
            action: "refresh".to_owned(),
            resource: "session".to_owned(),
            resource_id: Some(id.to_string()),
            result: "denied".to_owned(),
            details: json!({ "reason": "a spent refresh token came again: the session is ended" }),
            error: None,
        };
        audit::record(tx, cx, scope, &entry).await?;
        return Ok(Refreshed::Reused);
    }
    row.counter += 1;
    tx.execute("UPDATE sessions SET counter = $1 WHERE id = $2", params![row.counter, id.as_str()]).await?;
    audit::success(tx, cx, scope, "refresh", "session", Some(id.as_str()), json!({})).await?;
    Ok(Refreshed::Next(row))
}

/// Refuses one token from now on, and its session if it has one.
pub(crate) async fn revoke(
    tx: &mut dyn Tx,
    cx: &Context,
    scope: &TenantScope,
    (token, expires_at, session): (&str, Timestamp, Option<&SessionId>),
) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO revoked_tokens (id, tenant_id, expires_ms) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
        params![token, scope.tenant().as_str(), expires_at],
    )
    .await?;
    if let Some(session) = session {
        let sql = "DELETE FROM sessions WHERE id = $1 AND tenant_id = $2";
        tx.execute(sql, params![session.as_str(), scope.tenant().as_str()]).await?;
    }
    let details = json!({ "session": session.map(SessionId::as_str) });
    audit::success(tx, cx, scope, "logout", "token", Some(token), details).await
}

/// Of a key or a user.
pub(super) async fn end_all(tx: &mut dyn Tx, subject: &Subject) -> Result<u64, StoreError> {
    tx.execute("DELETE FROM sessions WHERE subject = $1", params![subject.as_str()]).await
}

/// Whether the token is not refused by name, and its session goes on.
pub(crate) async fn stands(
    tx: &mut dyn Tx,
    cx: &Context,
    (token, session): (&str, Option<&SessionId>),
) -> Result<bool, StoreError> {
    let revoked = "SELECT 1 AS one FROM revoked_tokens WHERE id = $1";
    if query_one(tx, revoked, params![token]).await?.is_some() {
        return Ok(false);
    }
    let Some(session) = session else { return Ok(true) };
    let going = "SELECT 1 AS one FROM sessions WHERE id = $1 AND expires_ms > $2";
    Ok(query_one(tx, going, params![session.as_str(), cx.now()]).await?.is_some())
}
