//! `GET /v1/events`: the tenant's events as a page, or as server-sent events
//! that a client follows and resumes by `Last-Event-ID`.
//!
//! The store's cursor skips nothing, however late a transaction commits; what
//! a filter leaves out moves the cursor too, so that a resumed stream does not
//! read it again. The stream reads on only when the client has taken what
//! was read: a slow one costs a page of memory.

use super::Caller;
use super::extract::Params;
use crate::app::App;
use crate::problem::ApiError;
use aether_core::api::{EventInfo, EventPage};
use aether_core::{AgentId, Problem, TenantScope, Timestamp};
use aether_store::{EventCursor, EventRow, StoreError};
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue};
use std::collections::BTreeSet;
use std::convert::Infallible;
use std::fmt::Write;
use std::time::Duration;
use tokio::time::Instant;

/// Rows of one read, and so of memory per follower.
const BATCH: u32 = 100;
const LIMIT: u64 = 100;
const LIMIT_MOST: u64 = 1000;
const MAX_FILTERS: usize = 100;
/// Where a wake-up was lost, or the database holds events back, it is looked
/// this often all the same.
const FALLBACK: Duration = Duration::from_secs(1);
/// Keeps proxies from cutting a quiet stream.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// One page for those who page; a filter that matches little ends here.
const MAX_READS: usize = 20;

#[derive(Debug, Default)]
struct Filter {
    agents: BTreeSet<AgentId>,
    /// Exact, or with `*` at the end.
    kinds: Vec<String>,
    since: Option<Timestamp>,
}

impl Filter {
    fn lets(&self, row: &EventRow) -> bool {
        let agent = self.agents.is_empty() || row.agent_id.as_ref().is_some_and(|id| self.agents.contains(id));
        let kind = self.kinds.is_empty()
            || self.kinds.iter().any(|kind| match kind.strip_suffix('*') {
                Some(prefix) => row.kind.starts_with(prefix),
                None => row.kind == *kind,
            });
        agent && kind && self.since.is_none_or(|since| row.at >= since)
    }
}

/// What happened to the tenant's agents.
#[utoipa::path(
    get, path = "/v1/events", operation_id = "list_events", tag = "events",
    params(
        ("after" = Option<String>, Query, description = "Only events after this id; `Last-Event-ID` wins over it"),
        ("since" = Option<String>, Query, description = "Only since this RFC 3339 time, or this age (5m)"),
        ("agent" = Option<Vec<String>>, Query, description = "Only of these agents, by id or name"),
        ("kind" = Option<Vec<String>>, Query, description = "Only these kinds; `agent.*` for all that begin so"),
        ("limit" = Option<u32>, Query, description = "Of a page: 1 to 1000, default 100"),
        ("Last-Event-ID" = Option<String>, Header, description = "Where an earlier stream ended"),
    ),
    responses(
        (status = 200, description = "A page from the oldest event that is kept; with `Accept: text/event-stream` a \
            stream, from now on unless `after`, `since` or `Last-Event-ID` says otherwise", body = EventPage),
        (status = 400, body = Problem), (status = 404, body = Problem),
    )
)]
pub(crate) async fn events(
    State(app): State<App>,
    caller: Caller,
    headers: HeaderMap,
    mut params: Params,
) -> Result<Response, ApiError> {
    let given = headers.get("last-event-id").map(|v| v.to_str().unwrap_or("?").to_owned());
    let after = params.text("after");
    let after = given.or(after).filter(|text| !text.is_empty());
    let after = after.and_then(|text| match text.parse::<EventCursor>() {
        Ok(cursor) => Some(cursor),
        Err(_) => {
            params.bad("after", "is not the id of an event");
            None
        }
    });
    let limit = params.number("limit", 1..=LIMIT_MOST).unwrap_or(LIMIT);
    let since = params.time("since", app.clock.now());
    let (agents, kinds) = (params.all("agent"), params.all("kind"));
    if agents.len() > MAX_FILTERS || kinds.len() > MAX_FILTERS {
        params.bad("agent", format!("at most {MAX_FILTERS} agents and kinds"));
    }
    params.done()?;
    let filter = Filter { agents: resolve(&app, &caller, agents).await?, kinds, since };
    let streamed = headers.get_all(ACCEPT).iter().any(|v| v.to_str().is_ok_and(|t| t.contains("text/event-stream")));
    let scope = caller.scope();
    if !streamed {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let page = page(&app, &scope, &filter, after.unwrap_or_default(), limit).await?;
        return Ok(axum::Json(page).into_response());
    }
    let from = match (after, filter.since) {
        (Some(cursor), _) => cursor,
        (None, Some(_)) => EventCursor::default(),
        (None, None) => app.store.events_end().await?,
    };
    // An old cursor is refused while there still is an answer to refuse with.
    app.store.tenant_events_after(&scope, from, 1).await?;
    let follower = Follower { app, scope, filter, cursor: from, greeted: false };
    let mut response = Response::new(Body::from_stream(follower.stream()));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    response.headers_mut().insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(response)
}

/// Ids may be of agents that are gone; names are of those that are there.
async fn resolve(app: &App, caller: &Caller, names: Vec<String>) -> Result<BTreeSet<AgentId>, ApiError> {
    let mut ids = BTreeSet::new();
    for name in names {
        ids.insert(match name.parse::<AgentId>() {
            Ok(id) => id,
            Err(_) => app.agent(caller, &name).await?.id.clone(),
        });
    }
    Ok(ids)
}

async fn page(
    app: &App,
    scope: &TenantScope,
    filter: &Filter,
    mut cursor: EventCursor,
    limit: usize,
) -> Result<EventPage, StoreError> {
    let mut data = Vec::new();
    for _ in 0..MAX_READS {
        let (rows, next) = app.store.tenant_events_after(scope, cursor, BATCH).await?;
        let last_read = rows.len() < BATCH as usize;
        for row in rows {
            if data.len() == limit {
                return Ok(EventPage { data, next: cursor.to_string(), more: true });
            }
            cursor = row.cursor;
            data.extend(filter.lets(&row).then(|| shown(row)));
        }
        cursor = next;
        if last_read {
            return Ok(EventPage { data, next: cursor.to_string(), more: false });
        }
    }
    Ok(EventPage { data, next: cursor.to_string(), more: true })
}

fn shown(row: EventRow) -> EventInfo {
    EventInfo {
        id: row.cursor.to_string(),
        time: row.at,
        kind: row.kind,
        agent_id: row.agent_id,
        agent_name: row.agent_name,
        node: row.node_id.map(|n| n.to_string()),
        version: row.version,
        generation: row.generation,
        status: row.observed,
        desired: row.desired,
        data: row.data,
    }
}

struct Follower {
    app: App,
    scope: TenantScope,
    filter: Filter,
    cursor: EventCursor,
    greeted: bool,
}

impl Follower {
    fn stream(self) -> impl futures::Stream<Item = Result<Bytes, Infallible>> + Send {
        futures::stream::unfold(self, |mut follower| async move {
            let chunk = follower.next().await?;
            Some((Ok(Bytes::from(chunk)), follower))
        })
    }

    /// The next chunk; none when the server drains or the store fails: the
    /// client comes again with its `Last-Event-ID`.
    async fn next(&mut self) -> Option<String> {
        if !self.greeted {
            // Who is cut off before the first event resumes from here too.
            self.greeted = true;
            return Some(format!("retry: 1000\nid: {}\n\n", self.cursor));
        }
        let mut changes = self.app.store.changes();
        let quiet_until = Instant::now() + KEEP_ALIVE;
        loop {
            changes.mark_unchanged();
            let (rows, next) = match self.app.store.tenant_events_after(&self.scope, self.cursor, BATCH).await {
                Ok(read) => read,
                Err(error) => {
                    tracing::debug!(%error, "a stream of events ended");
                    return None;
                }
            };
            let more = rows.len() == BATCH as usize;
            self.cursor = next;
            let mut out = String::new();
            for row in rows.into_iter().filter(|row| self.filter.lets(row)) {
                write_event(&mut out, shown(row));
            }
            if !out.is_empty() {
                return Some(out);
            }
            if Instant::now() >= quiet_until {
                return Some(format!("id: {}\n\n: still here\n\n", self.cursor));
            }
            if more {
                continue;
            }
            tokio::select! {
                () = self.app.draining.cancelled() => return None,
                changed = tokio::time::timeout(FALLBACK, changes.changed()) => {
                    if let Ok(Err(_closed)) = changed {
                        return None;
                    }
                }
            }
        }
    }
}

fn write_event(out: &mut String, event: EventInfo) {
    // JSON on one line: serde_json escapes every line break.
    if let Ok(data) = serde_json::to_string(&event) {
        let _ = write!(out, "id: {}\nevent: {}\ndata: {data}\n\n", event.id, event.kind);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(kind: &str, agent: Option<&str>, at_ms: u64) -> EventRow {
        EventRow {
            cursor: EventCursor::default(),
            at: Timestamp::from_unix_ms(at_ms),
            tenant: None,
            kind: kind.to_owned(),
            agent_id: agent.map(|id| id.parse().expect("an id")),
            agent_name: Some("line\nbreak".to_owned()),
            node_id: None,
            version: 1,
            generation: 1,
            desired: None,
            observed: None,
            data: serde_json::json!({ "text": "a\nb" }),
        }
    }

    #[test]
    fn filters_by_agent_kind_and_time() {
        let agent = "agtc0aaaaaaaaaaaaaaaa";
        let filter = |agents: &[&str], kinds: &[&str], since: Option<u64>| Filter {
            agents: agents.iter().map(|id| id.parse().expect("an id")).collect(),
            kinds: kinds.iter().map(|k| (*k).to_owned()).collect(),
            since: since.map(Timestamp::from_unix_ms),
        };
        let row = row("agent.gone", Some(agent), 5);
        for (filter, lets) in [
            (filter(&[], &[], None), true),
            (filter(&[agent], &["agent.gone"], Some(5)), true),
            (filter(&["agtc0aaaaaaaaaaaaaaab"], &[], None), false),
            (filter(&[], &["agent.*"], None), true),
            (filter(&[], &["agent.go"], None), false),
            (filter(&[], &["node.*", "agent.created"], None), false),
            (filter(&[], &[], Some(6)), false),
        ] {
            assert_eq!(filter.lets(&row), lets, "{filter:?}");
        }
    }

    #[test]
    fn an_event_is_one_line_of_data() {
        let mut out = String::new();
        write_event(&mut out, shown(row("agent.gone", None, 5)));
        let lines: Vec<_> = out.lines().collect();
        assert_eq!((lines.len(), lines[0], lines[1]), (4, "id: 0-0", "event: agent.gone"));
        assert!(lines[2].starts_with("data: {") && lines[3].is_empty());
    }
}
