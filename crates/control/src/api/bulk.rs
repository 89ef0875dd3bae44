//! `POST /v1/agents/bulk/create` and `/delete`: up to a hundred at once, each
//! with its own result.
//!
//! With an `Idempotency-Key` the request as a whole is claimed first, in a
//! transaction of its own, under which each create has a key of its own and
//! each delete the agent that its name meant. A server that dies in the
//! middle is met by the repeat: what was done is answered, the rest is done.

use super::Caller;
use super::agents::{checked, info, insert};
use super::extract::{Json, Params, idempotency, parse};
use super::wishes::{GRACE, GRACE_MOST};
use crate::app::App;
use crate::problem::ApiError;
use crate::rates::Class;
use crate::telemetry;
use aether_core::api::{
    AgentConfig, BULK_MOST, BulkCreate, BulkCreateResult, BulkCreated, BulkDelete, BulkDeleteResult, BulkDeleted,
};
use aether_core::id::DEFAULT_CELL;
use aether_core::{AgentId, Desired, Problem, RequestId};
use aether_store::{AgentRow, DesireOptions, Idempotency, StoreError};
use axum::extract::State;
use futures::StreamExt;
use http::{HeaderMap, StatusCode};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;

const CREATE: &str = "agent.bulk_create";
const DELETE: &str = "agent.bulk_delete";
/// At work at once: enough to share commits, not the whole store.
const TOGETHER: usize = 16;

/// Create up to 100 agents and start them.
#[utoipa::path(
    post, path = "/v1/agents/bulk/create", operation_id = "bulk_create_agents", tag = "agents",
    request_body = BulkCreate,
    params(("Idempotency-Key" = Option<String>, Header, description = "A repeat goes on where the first ended")),
    responses(
        (status = 207, description = "One result per agent, in order", body = BulkCreated),
        (status = 400, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem),
    )
)]
pub(crate) async fn create(
    State(app): State<App>,
    caller: Caller,
    headers: HeaderMap,
    params: Params,
    Json(body): Json<BulkCreate>,
) -> Result<(StatusCode, axum::Json<BulkCreated>), ApiError> {
    params.done()?;
    count("agents", body.agents.len())?;
    each_counts(&app, &caller, Class::Create, body.agents.len()).await?;
    let batch = match idempotency(&headers, &body)? {
        Some(key) => {
            let ours = RequestId::generate(DEFAULT_CELL, app.rng.as_ref()).to_string();
            let first = app.store.claim_key(&caller.scope(), CREATE, key, ours.clone()).await?;
            Some(first.unwrap_or(ours))
        }
        None => None,
    };
    let items: Vec<_> = without_doubles(body.agents).into_iter().enumerate().collect();
    let results = futures::stream::iter(items)
        .map(|(index, item)| create_one(&app, &caller, batch.as_deref(), index, item))
        .buffered(TOGETHER)
        .collect();
    // Large, and room for it would be kept while the body is still to come.
    let results = Box::pin(results).await;
    Ok((StatusCode::MULTI_STATUS, axum::Json(BulkCreated { results })))
}

fn count(field: &str, count: usize) -> Result<(), ApiError> {
    if (1..=BULK_MOST).contains(&count) {
        return Ok(());
    }
    Err(ApiError::field(field, format!("must have 1 to {BULK_MOST} entries, has {count}")))
}

/// One was counted with the request.
async fn each_counts(app: &App, caller: &Caller, class: Class, items: usize) -> Result<(), ApiError> {
    Ok(app.rates.charge_others(caller, class, items.saturating_sub(1) as u64).await?)
}

type Item = Result<serde_json::Value, ApiError>;

/// Of two items with one name the first has it, whichever is at work first.
fn without_doubles(items: Vec<serde_json::Value>) -> Vec<Item> {
    let mut names = BTreeSet::new();
    items
        .into_iter()
        .map(|item| {
            let taken = ["name", "id"].into_iter().find_map(|field| {
                let name = item[field].as_str()?.to_owned();
                let own = field == "id" && item["name"].as_str() == Some(&name);
                (!own && !names.insert(name.clone())).then_some(name)
            });
            match taken {
                None => Ok(item),
                Some(name) => Err(StoreError::NameTaken { name }.into()),
            }
        })
        .collect()
}

async fn create_one(app: &App, caller: &Caller, batch: Option<&str>, index: usize, item: Item) -> BulkCreateResult {
    let made = try_create(app, caller, batch.map(|batch| (batch, index)), item).await;
    telemetry::operation("create", caller.tenant(), made.is_ok());
    let index = u32::try_from(index).unwrap_or(u32::MAX);
    match made {
        Ok(row) => BulkCreateResult { index, status: 201, agent: Some(info(row)), problem: None },
        Err(error) => {
            let problem = outward(error);
            BulkCreateResult { index, status: problem.status, agent: None, problem: Some(problem) }
        }
    }
}

async fn try_create(
    app: &App,
    caller: &Caller,
    place: Option<(&str, usize)>,
    item: Item,
) -> Result<AgentRow, ApiError> {
    let bytes =
        serde_json::to_vec(&item?).map_err(|e| ApiError::internal(format!("an item does not serialise: {e}")))?;
    let config: AgentConfig = parse(&bytes)?;
    let checked = checked(caller, config)?;
    // No client can send a key with a control character.
    let idempotency = place.map(|(batch, index)| Idempotency {
        key: format!("\u{1}{batch}/{index}"),
        request_hash: Sha256::digest(&bytes).into(),
    });
    Ok(insert(app, caller, checked, idempotency).await?.agent)
}

/// The inward part goes to the log here: the answer as a whole is no error.
fn outward(error: ApiError) -> Problem {
    if let Some(inward) = &error.inward {
        tracing::warn!(reason = ?inward, "an item of a bulk request failed");
    }
    *error.problem
}

/// Delete up to 100 agents, from whatever state, with their disks.
#[utoipa::path(
    post, path = "/v1/agents/bulk/delete", operation_id = "bulk_delete_agents", tag = "agents",
    request_body = BulkDelete,
    params(("Idempotency-Key" = Option<String>, Header,
        description = "A repeat deletes what the names meant at first, and nothing newer")),
    responses(
        (status = 207, description = "One result per id, in order", body = BulkDeleted),
        (status = 400, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem),
    )
)]
pub(crate) async fn delete(
    State(app): State<App>,
    caller: Caller,
    headers: HeaderMap,
    params: Params,
    Json(body): Json<BulkDelete>,
) -> Result<(StatusCode, axum::Json<BulkDeleted>), ApiError> {
    params.done()?;
    count("ids", body.ids.len())?;
    each_counts(&app, &caller, Class::Other, body.ids.len()).await?;
    let grace = match &body.grace {
        None => GRACE,
        Some(text) => aether_core::time::parse_duration(text)
            .filter(|grace| *grace <= GRACE_MOST)
            .ok_or_else(|| ApiError::field("grace", "must be seconds or a duration such as 5s, at most 30 s"))?,
    };
    let options = DesireOptions { force: grace.is_zero(), stop_timeout_ms: u32::try_from(grace.as_millis()).ok() };
    let key = idempotency(&headers, &body)?;
    let meant = resolve(&app, &caller, &body.ids).await?;
    let meant = match key {
        None => meant,
        Some(key) => {
            let ours = serde_json::to_string(&meant).map_err(|e| ApiError::internal(e.to_string()))?;
            match app.store.claim_key(&caller.scope(), DELETE, key, ours).await? {
                None => meant,
                Some(first) => {
                    serde_json::from_str(&first).map_err(|e| ApiError::internal(format!("a kept bulk delete: {e}")))?
                }
            }
        }
    };
    let items: Vec<_> = body.ids.into_iter().zip(meant).collect();
    let results = futures::stream::iter(items)
        .map(|(asked, agent)| delete_one(&app, &caller, asked, agent, options))
        .buffered(TOGETHER)
        .collect()
        .await;
    Ok((StatusCode::MULTI_STATUS, axum::Json(BulkDeleted { results })))
}

/// Which agent each name means now.
async fn resolve(app: &App, caller: &Caller, names: &[String]) -> Result<Vec<Option<AgentId>>, ApiError> {
    let mut ids = Vec::with_capacity(names.len());
    for name in names {
        ids.push(app.store.find_agent(&caller.scope(), name).await?.map(|row| row.id.clone()));
    }
    Ok(ids)
}

async fn delete_one(
    app: &App,
    caller: &Caller,
    id: String,
    agent: Option<AgentId>,
    options: DesireOptions,
) -> BulkDeleteResult {
    let done = match &agent {
        None => Err(ApiError::no_agent()),
        Some(agent) => match app.store.set_desired(&caller.scope(), agent, Desired::Gone, options, None).await {
            // It was there when it was named: somebody else was faster, or
            // this is a repeat.
            Ok(_) | Err(StoreError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        },
    };
    telemetry::operation("delete", caller.tenant(), done.is_ok());
    match done {
        Ok(()) => BulkDeleteResult { id, status: 204, problem: None },
        Err(error) => {
            let problem = outward(error);
            BulkDeleteResult { id, status: problem.status, problem: Some(problem) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_first_of_two_has_the_name() {
        let items = vec![
            json!({ "name": "a", "id": "a" }),
            json!({ "name": "b", "id": "a" }),
            json!({ "name": "a" }),
            json!({ "image": "x" }),
            json!("no object"),
        ];
        let fine: Vec<bool> = without_doubles(items).iter().map(Result::is_ok).collect();
        assert_eq!(fine, [true, false, false, true, true]);
    }
}
