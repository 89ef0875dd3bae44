//! Ids in odd places: one that differs from the path's, cursors and
//! idempotency keys of somebody else.

use super::ask::Ask;
use super::world::{Actor, MINE, Names, ONCE, SECRET, Standing, World, absent, agent};
use aether_core::Role;
use futures::StreamExt;
use reqwest::Method;
use serde_json::json;
use tokio::net::TcpStream;
use tokio_tungstenite::client_async;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

/// Requests of a stranger about `names`, who may do such things to its own.
fn asks(names: &Names, own: &str, tenant: &str, number: u64) -> Vec<Ask> {
    let Names { agent: id, exec, image, .. } = names;
    let other_tenant = json!({ "image": "never", "tenant_id": names.tenant });
    let mut stream = Ask::new("GET", format!("/v1/agents/{own}/exec?exec_id={exec}"), None);
    stream.upgrade();
    vec![
        Ask::new("GET", format!("/v1/events?agent={id}"), None),
        Ask::new("GET", format!("/v1/events?agent={own}&agent={id}"), None),
        Ask::new("GET", format!("/v1/agents/{own}/execs/{exec}"), None),
        Ask::new("POST", format!("/v1/agents/{own}/execs/{exec}/signal"), Some(json!({ "signal": "9" }))),
        stream,
        Ask::new("GET", format!("/v1/agents/{own}?id={id}"), None),
        Ask::new("DELETE", format!("/v1/agents/{own}?id={id}"), None),
        Ask::new("POST", format!("/v1/agents/{own}/stop?id={id}"), None),
        Ask::new("PATCH", format!("/v1/agents/{own}"), Some(json!({ "id": id, "name": "taken" }))),
        Ask::new("PATCH", format!("/v1/agents/{own}"), Some(json!({ "tenant_id": names.tenant }))),
        Ask::new("POST", "/v1/agents/bulk/delete", Some(json!({ "ids": [id, "absent", id] }))),
        Ask::new("POST", "/v1/agents/bulk/create", Some(json!({ "agents": [other_tenant, other_tenant] }))),
        Ask::new("POST", "/v1/agents", Some(other_tenant)),
        Ask::new("PUT", format!("/v1/secrets/made-{number}"), Some(json!({ "value": "x", "tenant_id": names.tenant }))),
        Ask::new("POST", "/v1/agents", Some(json!({ "image": "never", "secrets": [names.secret] }))),
        Ask::new("PUT", format!("/v1/images/made/tag:{number}"), Some(json!({ "source": image }))),
        Ask::new("DELETE", format!("/v1/images/{image}"), None),
        Ask::new("GET", format!("/v1/quotas/me?tenant_id={}", names.tenant), None),
        Ask::new("PUT", format!("/v1/quotas/{tenant}"), Some(json!({ "tenant_id": names.tenant, "max_agents": 1 }))),
        Ask::new("PATCH", "/v1/tenants/me", Some(json!({ "id": names.tenant }))),
        Ask::new("PATCH", "/v1/tenants/me", Some(json!({ "tenant_id": names.tenant, "name": "x" }))),
        Ask::new("POST", "/v1/auth/keys", Some(json!({ "name": "k", "role": "viewer", "tenant_id": names.tenant }))),
    ]
}

/// The same of the owner's things and of nothing must be the same.
async fn compared(world: &World, actor: &Actor, tenant: &str, found: &mut Vec<Option<String>>) {
    let (number, nothing) = (world.number(), absent());
    let own = if tenant == MINE { &world.within } else { &world.own };
    // To whom is of that tenant, its name is none of somebody else's.
    let names_own =
        |ask: &Ask| tenant == MINE && ask.body.as_ref().is_some_and(|b| b.to_string().contains("tenant_id"));
    let of_mine = asks(&world.mine, own, tenant, number);
    for (ask, none) in of_mine.iter().zip(asks(&nothing, own, tenant, number)).filter(|(ask, _)| !names_own(ask)) {
        let ids = |n: &Names| [&n.agent, &n.exec, &n.image, &n.tenant, &n.secret].map(String::clone);
        let of_nothing = none.send(world, actor, &ids(&nothing)).await;
        let answers = (ask.send(world, actor, &ids(&world.mine)).await, of_nothing);
        found.push(match answers {
            // Streams are told of in their first frame; a filter that fits nothing finds nothing.
            (Ok(answer), Ok(none)) if answer == none => None,
            other => Some(format!("{ask:?} by {}: {other:?}", actor.name)),
        });
    }
}

/// A stream that attaches to the owner's exec from the stranger's own agent.
async fn attached(world: &World, actor: &Actor, own: &str, found: &mut Vec<Option<String>>) {
    let path = format!("/v1/agents/{own}/exec?exec_id={}", world.mine.exec);
    let mut request = format!("ws://{}{path}", world.server.address).into_client_request().expect("a request");
    let key = format!("Bearer {}", actor.key.as_deref().unwrap_or_default());
    request.headers_mut().insert("authorization", key.parse().expect("a header"));
    let stream = TcpStream::connect(world.server.address).await.expect("connects");
    let first = match client_async(request, stream).await {
        Ok((mut socket, _)) => socket.next().await,
        Err(error) => Some(Err(error)),
    };
    let refused = matches!(&first, Some(Ok(Message::Text(text))) if text.contains("\"NOT_FOUND\""));
    found.push((!refused).then(|| format!("attached from another agent: {first:?}")));
}

/// What only the owner was told: where its lists go on, and its keys of
/// idempotency. To others they mean nothing, or something of their own.
async fn borrowed(world: &World, actor: &Actor, found: &mut Vec<Option<String>>) {
    let events = world.admin(Method::GET, "/v1/events?limit=1").send().await.expect("answered");
    let events: serde_json::Value = events.json().await.expect("JSON");
    let last = events["data"][0]["id"].as_str().expect("an event").to_owned();
    let mut once = Ask::new("POST", "/v1/agents", Some(agent("once", "never")));
    once.headers.push(("idempotency-key", ONCE.to_owned()));
    for ask in [
        Ask::new("GET", format!("/v1/events?after={last}"), None),
        once,
        Ask::new("GET", "/v1/agents?name_prefix=prime", None),
        Ask::new("GET", "/v1/agents?label=a%3Db", None),
        Ask::new("GET", format!("/v1/agents?image={}", world.digest), None),
    ] {
        // An answer that tells of the owner's things is an error of `send`.
        let answer = ask.send(world, actor, &[]).await;
        found.push(match answer {
            Ok(answer) if answer.status < 300 => None,
            other => Some(format!("{ask:?} by {}: {other:?}", actor.name)),
        });
    }
}

/// A query that needs more than its route does: values of the env.
async fn secrets(world: &World, actor: &Actor, found: &mut Vec<Option<String>>) {
    let ask = Ask::new("GET", "/v1/agents/prime?show=env", None);
    let wanted = match actor.standing {
        Standing::Nobody => 401,
        Standing::Of { tenant: MINE, role: Role::Admin | Role::Developer, scope: None } => 200,
        Standing::Of { tenant, role: Role::Admin | Role::PlatformAdmin, .. } if tenant != MINE => 404,
        Standing::Narrowed => 404,
        Standing::Of { .. } | Standing::Suspended => 403,
    };
    found.push(match ask.send(world, actor, &[]).await {
        Ok(answer) if answer.status == wanted && (wanted == 200) == answer.body.contains(SECRET) => None,
        other => Some(format!("{ask:?} by {}: {other:?}", actor.name)),
    });
}

/// One entry a case; what is wrong with it, if anything.
pub(super) async fn judged(world: &World) -> Vec<Option<String>> {
    let mut found = Vec::new();
    for actor in &world.actors {
        secrets(world, actor, &mut found).await;
        if let Standing::Of { tenant, role: Role::Admin, .. } = actor.standing
            && tenant != MINE
        {
            compared(world, actor, tenant, &mut found).await;
            attached(world, actor, &world.own, &mut found).await;
            borrowed(world, actor, &mut found).await;
        }
        if matches!(actor.standing, Standing::Narrowed) && actor.name.contains("label") {
            compared(world, actor, MINE, &mut found).await;
            attached(world, actor, &world.within, &mut found).await;
            borrowed(world, actor, &mut found).await;
        }
    }
    assert!(found.len() >= 25);
    found
}
