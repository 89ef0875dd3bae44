//! `GET /v1/audit`: the tenant's audit records, newest first; or those that
//! were linked into the chain, oldest first, for who follows.

use super::Caller;
use super::extract::Params;
use crate::app::App;
use crate::problem::ApiError;
use aether_core::api::{AuditRecord, Page};
use aether_core::{Permission, Problem, Timestamp};
use aether_store::{AuditFilter, AuditOf, AuditRow};
use axum::extract::State;

const LIMIT: u64 = 100;
const LIMIT_MOST: u64 = 1000;
const MAX_TEXT: usize = 256;
const RESULTS: [&str; 3] = ["success", "failure", "denied"];

/// Whose records the caller asks for: the platform's only for its admins.
pub(super) fn of(caller: &Caller, platform: bool) -> Result<AuditOf, ApiError> {
    match platform {
        false => Ok(AuditOf::Tenant(caller.scope())),
        true if caller.may(Permission::PlatformAdmin) => Ok(AuditOf::Platform),
        true => Err(ApiError::forbidden(Permission::PlatformAdmin.as_str())),
    }
}

/// Who did what in the tenant, newest first.
#[utoipa::path(
    get, path = "/v1/audit", operation_id = "list_audit", tag = "audit",
    params(
        ("actor" = Option<String>, Query, description = "Only of this one: the id of an API key, `local:UID`; `user` is the same"),
        ("action" = Option<String>, Query, description = "Only this action: create, delete, exec …"),
        ("resource" = Option<String>, Query, description = "Only of this kind: agent, api_key …"),
        ("resource_id" = Option<String>, Query, description = "Only about this one"),
        ("result" = Option<String>, Query, description = "success, failure or denied"),
        ("since" = Option<String>, Query, description = "At this RFC 3339 time or later, or an age (5m)"),
        ("until" = Option<String>, Query, description = "Before this RFC 3339 time, or an age (5m)"),
        ("per_page" = Option<u32>, Query, description = "1 to 1000, default 100; `limit` is the same"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
        ("after" = Option<String>, Query, description = "Instead: records in the chain alone, oldest first, after this \
            position, or `head`: from now on. `next_cursor` is the next `after`, whether or not there is more"),
        ("platform" = Option<bool>, Query, description = "The platform's own records; needs platform:admin"),
    ),
    responses(
        (status = 200, description = "`total` counts to 10,000 and no further", body = Page<AuditRecord>),
        (status = 400, body = Problem),
    )
)]
pub(crate) async fn list(
    State(app): State<App>,
    caller: Caller,
    mut params: Params,
) -> Result<axum::Json<Page<AuditRecord>>, ApiError> {
    let mut filter = request(&mut params, app.clock.now());
    let (platform, after) = (params.flag("platform"), params.text("after"));
    filter.after = after.as_deref().filter(|text| *text != "head").and_then(|text| number(&mut params, "after", text));
    if after.is_some() && filter.before.is_some() {
        params.bad("after", "goes without cursor");
    }
    params.done()?;
    let of = of(&caller, platform)?;
    let follows = after.is_some();
    if follows && filter.after.is_none() {
        filter.after = Some(app.store.audit_head(&of).await?.position);
    }
    let (per_page, from) = (filter.limit, filter.after);
    let found = app.store.audit_page(&of, filter).await?;
    let next_cursor = match (follows, found.rows.last()) {
        (true, last) => last.and_then(|row| row.position).or(from),
        (false, last) => last.filter(|_| found.more).map(|row| row.sequence),
    };
    Ok(axum::Json(Page {
        data: found.rows.into_iter().map(shown).collect(),
        page: 1,
        per_page,
        total: found.total,
        next_cursor: next_cursor.map(|n| n.to_string()),
    }))
}

fn request(params: &mut Params, now: Timestamp) -> AuditFilter {
    let mut text = |name: &str| {
        let text = params.text(name);
        if text.as_ref().is_some_and(|t| t.is_empty() || t.len() > MAX_TEXT) {
            params.bad(name, format!("must have 1 to {MAX_TEXT} bytes"));
        }
        text
    };
    let (actor, user) = (text("actor"), text("user"));
    let (action, resource, resource_id) = (text("action"), text("resource"), text("resource_id"));
    let (result, cursor) = (text("result"), text("cursor"));
    if actor.is_some() && user.is_some() {
        params.bad("user", "is another name of actor: give one of them");
    }
    if result.as_deref().is_some_and(|r| !RESULTS.contains(&r)) {
        params.bad("result", "must be success, failure or denied");
    }
    let before = cursor.and_then(|text| number(params, "cursor", &text));
    let (since, until) = (params.time("since", now), params.time("until", now));
    if let (Some(since), Some(until)) = (since, until)
        && since >= until
    {
        params.bad("until", "must be later than since");
    }
    let per_page = params.number("per_page", 1..=LIMIT_MOST);
    let limit = params.number("limit", 1..=LIMIT_MOST).or(per_page).unwrap_or(LIMIT);
    AuditFilter {
        actor: actor.or(user),
        action,
        resource,
        resource_id,
        result,
        since,
        until,
        before,
        after: None,
        limit: u32::try_from(limit).unwrap_or(u32::MAX),
    }
}

fn number(params: &mut Params, name: &str, text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let found = digits.then(|| text.parse::<u64>().ok()).flatten().filter(|n| i64::try_from(*n).is_ok());
    if found.is_none() {
        params.bad(name, "is not of a page of this list");
    }
    found
}

fn shown(row: AuditRow) -> AuditRecord {
    AuditRecord {
        id: row.sequence,
        time: row.at,
        tenant: row.tenant.map(|t| t.to_string()),
        actor: row.actor,
        action: row.action,
        resource: row.resource,
        resource_id: row.resource_id,
        result: row.result,
        address: row.address,
        details: row.details,
        error: row.error,
        position: row.position,
        hash: row.hash.map(|h| h.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_filters_are_named() {
        for (name, value) in [
            ("result", "maybe"),
            ("cursor", "x"),
            ("cursor", "99999999999999999999"),
            ("since", "noon"),
            ("per_page", "0"),
            ("limit", "1001"),
            ("actor", ""),
            ("colour", "red"),
        ] {
            let mut params = Params::of(&[(name, value)]);
            request(&mut params, Timestamp::from_unix_ms(1));
            let error = params.done().expect_err(name);
            let fields: Vec<_> = error.problem.errors.iter().map(|e| e.field.clone()).collect();
            assert_eq!(fields, [name], "{value}");
        }
        let mut params = Params::of(&[("since", "1h"), ("until", "2h"), ("user", "u"), ("actor", "a")]);
        request(&mut params, Timestamp::from_unix_ms(100_000_000));
        assert_eq!(params.done().expect_err("two faults").problem.errors.len(), 2);
    }
}
