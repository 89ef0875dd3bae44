//! A narrowed scope: what it does not reach is as absent as another tenant's,
//! in every function that takes a scope.

use crate::fixture::{Fixture, new_agent, scope};
use aether_core::api::{AgentConfig, CheckedPatch, MapPatch};
use aether_core::source::OsRng;
use aether_core::state::Desired;
use aether_core::{AgentId, ExecId, KeyId, Reach, TenantScope};
use aether_counted::{Dice, seed};
use aether_store::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

crate::on_both![
    out_of_reach_is_absent,
    a_narrowed_creator_makes_what_it_reaches,
    nobody_leaves_their_reach_by_a_patch,
    keys_of_idempotency_are_its_own,
    lists_and_single_rows_agree,
];

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

fn narrowed(pairs: &[(&str, &str)], images: &[&str]) -> TenantScope {
    let images: Vec<String> = images.iter().map(|image| (*image).to_owned()).collect();
    let reach = Reach::check(&labels(pairs), &images).expect("a reach");
    scope().narrowed(Some(Arc::new(reach)), Some(KeyId::generate("c0", &OsRng)))
}

fn team_a() -> TenantScope {
    narrowed(&[("team", "a")], &[])
}

impl Fixture {
    async fn labelled(&self, name: &str, pairs: &[(&str, &str)], image: &str) -> AgentId {
        let mut new = new_agent(name);
        new.spec = AgentConfig::for_image(image).check().expect("valid").spec;
        new.spec.labels = labels(pairs);
        self.store.create_agent(&scope(), new).await.expect("creates").agent.id
    }

    async fn listed(&self, scope: &TenantScope, filter: AgentFilter) -> (BTreeSet<AgentId>, u64) {
        let page = PageRequest { limit: 1000, ..PageRequest::default() };
        let page = self.store.list_agents(scope, filter, page).await.expect("lists");
        (page.rows.into_iter().map(|row| row.id).collect(), page.total)
    }
}

async fn out_of_reach_is_absent(fx: Fixture) {
    let a = fx.labelled("in-a", &[("team", "a")], "python").await;
    let b = fx.labelled("in-b", &[("team", "b")], "python").await;
    let bare = fx.labelled("bare", &[], "python").await;
    let key = Idempotency { key: "once".into(), request_hash: [1; 32] };
    let intent = || ExecIntent { exec_id: ExecId::generate("c0", &OsRng), command: vec!["true".into()], user: None };
    fx.store.record_exec(&scope(), &b, intent(), Some(key.clone())).await.expect("records");
    let no_agent = StoreError::NotFound { what: "agent" };
    let all = fx.listed(&scope(), AgentFilter::default()).await;
    assert_eq!((all.0.len(), all.1), (3, 3));
    assert_eq!(fx.listed(&team_a(), AgentFilter::default()).await, (BTreeSet::from([a.clone()]), 1));
    let others = AgentFilter { labels: labels(&[("team", "b")]), ..AgentFilter::default() };
    assert_eq!(fx.listed(&team_a(), others).await, (BTreeSet::new(), 0));
    for hidden in [&b, &bare] {
        // First by who reaches it: what is kept in memory is not for all.
        assert!(fx.store.find_agent(&scope(), hidden.as_str()).await.expect("looks").is_some());
        assert_eq!(fx.store.find_agent(&team_a(), hidden.as_str()).await, Ok(None));
        let by_name = if hidden == &b { "in-b" } else { "bare" };
        assert_eq!(fx.store.find_agent(&team_a(), by_name).await, Ok(None));
        for desired in Desired::ALL {
            let wish = fx.store.set_desired(&team_a(), hidden, *desired, DesireOptions::default(), None).await;
            assert_eq!(wish.map(|_| ()), Err(no_agent.clone()));
        }
        let patch = CheckedPatch { labels: map(&[("team", Some("a"))]), ..CheckedPatch::default() };
        assert_eq!(fx.store.update_agent(&team_a(), hidden, patch, None).await.map(|_| ()), Err(no_agent.clone()));
        assert_eq!(fx.store.agent_env(&team_a(), hidden).await, Err(no_agent.clone()));
        assert_eq!(fx.store.record_exec(&team_a(), hidden, intent(), None).await, Err(no_agent.clone()));
        assert_eq!(fx.store.list_execs(&team_a(), hidden, 10).await, Ok(vec![]));
    }
    assert_eq!(fx.store.list_execs(&scope(), &b, 10).await.expect("lists").len(), 1);
    assert_eq!(fx.store.known_exec(&team_a(), &key).await, Ok(None));
    fx.store.record_exec(&team_a(), &a, intent(), Some(key)).await.expect("its own key, its own agent");
    assert_eq!(fx.store.list_execs(&team_a(), &a, 10).await.expect("lists").len(), 1);
    fx.events(3).await;
    let told = fx.store.tenant_events_after(&team_a(), EventCursor::default(), 100).await.expect("reads").0;
    assert!(!told.is_empty() && told.iter().all(|event| event.agent_id.as_ref() == Some(&a)), "{told:?}");
    let told = fx.store.tenant_events_after(&scope(), EventCursor::default(), 100).await.expect("reads").0;
    assert!(told.len() >= 3);
}

fn map(pairs: &[(&str, Option<&str>)]) -> MapPatch {
    serde_json::from_value(serde_json::json!(pairs.iter().copied().collect::<BTreeMap<_, _>>())).expect("a patch")
}

async fn a_narrowed_creator_makes_what_it_reaches(fx: Fixture) {
    let by = narrowed(&[("team", "a"), ("env", "ci")], &["python:3.*", "team/app"]);
    let make = async |name: &str, image: &str, pairs: &[(&str, &str)]| {
        let mut new = new_agent(name);
        new.spec.image = image.to_owned();
        new.spec.labels = labels(pairs);
        fx.store.create_agent(&by, new).await.map(|created| created.agent)
    };
    let made = make("one", "python:3.11", &[("own", "x")]).await.expect("creates");
    assert_eq!(made.spec.labels, labels(&[("env", "ci"), ("own", "x"), ("team", "a")]));
    assert_eq!(made.key.as_ref(), by.key());
    assert!(fx.store.find_agent(&by, "one").await.expect("looks").is_some());
    assert_eq!(fx.listed(&by, AgentFilter::default()).await.1, 1);
    make("two", "docker.io/library/python:3.9", &[("team", "a")]).await.expect("in any spelling");
    make("three", "team/app:latest", &[]).await.expect("the other image");
    for (image, pairs) in [
        ("python:4", &[][..]),
        ("team/app:2", &[]),
        ("node", &[]),
        ("python:3.11", &[("team", "b")]),
        ("python:3.11", &[("env", "")]),
    ] {
        let refused = make("refused", image, pairs).await;
        assert!(matches!(refused, Err(StoreError::Narrowed { .. })), "{image} {pairs:?}: {refused:?}");
    }
    assert_eq!(fx.listed(&scope(), AgentFilter::default()).await.1, 3, "a refused one leaves nothing");
    // With the labels but of another image, made by somebody else.
    let other = fx.labelled("other", &[("team", "a"), ("env", "ci")], "node").await;
    assert_eq!(fx.store.find_agent(&by, "other").await, Ok(None));
    assert!(!fx.listed(&by, AgentFilter::default()).await.0.contains(&other));
}

async fn nobody_leaves_their_reach_by_a_patch(fx: Fixture) {
    let id = fx.labelled("one", &[("team", "a"), ("own", "x")], "python").await;
    for away in [&[("team", None)][..], &[("team", Some("b"))], &[("team", Some(""))]] {
        let patch = CheckedPatch { labels: map(away), ..CheckedPatch::default() };
        let refused = fx.store.update_agent(&team_a(), &id, patch, None).await;
        assert!(matches!(refused, Err(StoreError::Narrowed { .. })), "{away:?}");
    }
    let patch = CheckedPatch { labels: map(&[("own", None), ("more", Some("y"))]), ..CheckedPatch::default() };
    let patched = fx.store.update_agent(&team_a(), &id, patch, None).await.expect("its other labels");
    assert_eq!(patched.agent.spec.labels, labels(&[("more", "y"), ("team", "a")]));
    // Who reaches all may take it away, and then it is gone for the others.
    let patch = CheckedPatch { labels: map(&[("team", None)]), ..CheckedPatch::default() };
    fx.store.update_agent(&scope(), &id, patch, None).await.expect("updates");
    assert_eq!(fx.store.find_agent(&team_a(), "one").await, Ok(None));
}

async fn keys_of_idempotency_are_its_own(fx: Fixture) {
    let key = Idempotency { key: "k".into(), request_hash: [1; 32] };
    let new = |name: &str| NewAgent { idempotency: Some(key.clone()), ..new_agent(name) };
    let first = fx.store.create_agent(&scope(), new("one")).await.expect("creates").agent;
    let by = team_a();
    let own = fx.store.create_agent(&by, new("two")).await.expect("creates");
    assert!(!own.replayed && own.agent.id != first.id);
    let again = fx.store.create_agent(&by, new("two")).await.expect("repeats");
    assert!(again.replayed && again.agent.id == own.agent.id);
    assert!(!fx.store.create_agent(&team_a(), new("three")).await.expect("creates").replayed, "of another key");
    let bulk = Idempotency { key: "b".into(), request_hash: [2; 32] };
    for by in [&scope(), &by] {
        assert_eq!(fx.store.claim_key(by, "bulk", bulk.clone(), "x".into()).await, Ok(None));
    }
    // A repeat about an agent that has left the reach finds nothing.
    let stop = Idempotency { key: "s".into(), request_hash: [3; 32] };
    let wish = async || {
        fx.store.set_desired_once(&by, &own.agent.id, Desired::Gone, DesireOptions::default(), stop.clone()).await
    };
    let patch = CheckedPatch { labels: map(&[("team", Some("b"))]), ..CheckedPatch::default() };
    let known = fx.store.create_agent(&by, new("two")).await.expect("repeats").agent.id;
    fx.store.update_agent(&scope(), &known, patch, None).await.expect("updates");
    let no_agent = StoreError::NotFound { what: "agent" };
    assert_eq!(fx.store.create_agent(&by, new("two")).await.map(|_| ()), Err(no_agent.clone()));
    assert_eq!(wish().await.map(|_| ()), Err(no_agent));
}

/// The condition in SQL and `core::reach` say the same, of random rows.
async fn lists_and_single_rows_agree(fx: Fixture) {
    let mut dice = Dice::new(seed());
    let digest = format!("python@sha256:{}", "a".repeat(64));
    let images = ["python", "python:3.11", "docker.io/library/python:3.9", "team/app", "ghcr.io/team/app:1", &digest];
    let (keys, values) = (["team", "env"], ["a", "b", ""]);
    let mut all = Vec::new();
    for n in 0..40 {
        let mut pairs = Vec::new();
        for key in keys {
            if dice.roll(3) > 0 {
                pairs.push((key, values[dice.roll(3) as usize]));
            }
        }
        all.push(fx.labelled(&format!("n{n}"), &pairs, images[dice.roll(images.len() as u64) as usize]).await);
    }
    let patterns = ["python:*", "python:3.11", "team/*", "ghcr.io/*", "python", &digest];
    for _ in 0..20 {
        let mut pairs = Vec::new();
        for key in keys {
            if dice.roll(2) > 0 {
                pairs.push((key, values[dice.roll(3) as usize]));
            }
        }
        let mut named: Vec<&str> = Vec::new();
        while pairs.is_empty() && named.is_empty() || dice.roll(2) > 0 {
            named.push(patterns[dice.roll(patterns.len() as u64) as usize]);
        }
        named.truncate(16);
        let by = narrowed(&pairs, &named);
        let (listed, total) = fx.listed(&by, AgentFilter::default()).await;
        let mut single = BTreeSet::new();
        for id in &all {
            single.extend(fx.store.find_agent(&by, id.as_str()).await.expect("looks").map(|row| row.id.clone()));
        }
        assert_eq!((&listed, total), (&single, single.len() as u64), "{pairs:?} {named:?}");
    }
}
