//! Counted test 16 on both engines: requests under one idempotency key, at
//! once, cut off in the middle, changed, and repeated until the key expires,
//! under a wall clock that jumps. `AETHER_STORE_KEYS` says how many keys.

use crate::fixture::*;
use crate::on_both;
use aether_core::source::OsRng;
use aether_core::state::Desired;
use aether_core::{AgentId, ExecId};
use aether_counted::{Counted, Dice, seed, trials};
use aether_store::*;
use std::collections::BTreeSet;
use std::time::Duration;

on_both!(a_key_has_one_effect_until_it_expires, wishes_happen_once);

const DAY: Duration = Duration::from_secs(24 * 3600);
const HOUR_MS: u64 = 3_600_000;

/// What one request asks for.
#[derive(Clone, Debug)]
enum Asked {
    Create,
    Exec(AgentId),
    Claim,
}

fn key(number: u64, hash: u8) -> Idempotency {
    Idempotency { key: format!("key-{number}"), request_hash: [hash; 32] }
}

/// Its resource, and whether this request made it.
async fn ask(store: &Store, asked: &Asked, key: Idempotency, try_number: u64) -> Result<(String, bool), StoreError> {
    match asked {
        Asked::Create => {
            let name = format!("{}-{try_number}", key.key);
            let made = store.create_agent(&scope(), NewAgent { idempotency: Some(key), ..new_agent(&name) }).await?;
            Ok((made.agent.id.to_string(), !made.replayed))
        }
        Asked::Exec(agent) => {
            let intent =
                ExecIntent { exec_id: ExecId::generate("c0", &OsRng), command: vec![key.key.clone()], user: None };
            let made = store.record_exec(&scope(), agent, intent, Some(key)).await?;
            assert_eq!(made.agent_id.as_ref(), Some(agent));
            Ok((made.exec_id.to_string(), !made.replayed))
        }
        Asked::Claim => {
            let mine = format!("resource-{try_number}");
            let first = store.claim_key(&scope(), "test", key, mine.clone()).await?;
            let fresh = first.is_none();
            Ok((first.unwrap_or(mine), fresh))
        }
    }
}

/// As a client does: again, while the first is at work.
async fn insist(store: &Store, asked: &Asked, key: Idempotency, number: u64) -> Result<(String, bool), StoreError> {
    loop {
        match ask(store, asked, key.clone(), number).await {
            Err(StoreError::InProgress) => tokio::time::sleep(Duration::from_millis(20)).await,
            answer => return answer,
        }
    }
}

/// One key's first requests: some at once, some of them cut off.
async fn burst(stores: &[Store], asked: &Asked, number: u64, dice: &mut Dice) -> (String, u64) {
    let mut tasks = Vec::new();
    for i in 0..=dice.roll(4) {
        let (store, asked) = (stores[dice.roll(stores.len() as u64) as usize].clone(), asked.clone());
        let task = tokio::spawn(async move { insist(&store, &asked, key(number, 1), i).await });
        let cut = (dice.roll(3) == 0).then(|| Duration::from_micros(dice.roll(3000)));
        tasks.push((task, cut));
    }
    let mut cuts = 0;
    for (task, cut) in &tasks {
        if let Some(after) = cut {
            tokio::time::sleep(*after).await;
            task.abort();
            cuts += 1;
        }
    }
    let mut told = BTreeSet::new();
    for (task, _) in tasks {
        // A cut one may have had its effect or not: nobody was told.
        if let Ok(answer) = task.await {
            told.insert(answer.expect("is answered").0);
        }
    }
    told.insert(insist(&stores[0], asked, key(number, 1), 99).await.expect("is answered").0);
    assert_eq!(told.len(), 1, "{asked:?} {number}");
    (told.pop_first().expect("one"), cuts)
}

async fn a_key_has_one_effect_until_it_expires(fx: Fixture) {
    let keys = trials("AETHER_STORE_KEYS", 150);
    let seed = seed();
    let mut dice = Dice::new(seed);
    let name = if fx.url().is_some() { "keys on PostgreSQL" } else { "keys on SQLite" };
    let mut counted = Counted::new("idempotency", 16, name, seed);
    let mut stores = vec![fx.store.clone()];
    if fx.url().is_some() {
        // As a second server would.
        stores.push(connect(&fx.config, &fx.clock).await);
    }
    let agent = fx.agent("runner").await.id;
    let mut first = Vec::new();
    let mut agents = 1;
    for number in 0..keys {
        let asked = match dice.roll(4) {
            0 => Asked::Exec(agent.clone()),
            1 => Asked::Claim,
            _ => Asked::Create,
        };
        agents += u64::from(matches!(asked, Asked::Create));
        let (resource, cuts) = burst(&stores, &asked, number, &mut dice).await;
        counted.faults += cuts;
        let changed = insist(&stores[0], &asked, key(number, 2), 0).await;
        assert_eq!(changed, Err(StoreError::IdempotencyMismatch), "{asked:?} {number}");
        let other = if matches!(asked, Asked::Claim) { Asked::Create } else { Asked::Claim };
        assert_eq!(insist(&stores[0], &other, key(number, 1), 0).await, Err(StoreError::IdempotencyMismatch));
        counted.n += 4;
        first.push((asked, resource));
        // The wall clock goes where it wants, within what a key holds.
        fx.clock.set_ms(START_MS + 11 * HOUR_MS + dice.roll(2) * HOUR_MS - dice.roll(2) * HOUR_MS);
    }
    // Up to 23 hours after the first, and after pruning: the same answers.
    fx.clock.set_ms(START_MS + 23 * HOUR_MS);
    fx.store.prune(Duration::from_secs(1)).await.expect("prunes");
    for (number, (asked, resource)) in first.iter().enumerate() {
        let again = insist(&stores[0], asked, key(number as u64, 1), 7).await.expect("is answered");
        assert_eq!(again, (resource.clone(), false), "{asked:?} {number}");
        counted.n += 1;
    }
    let page = PageRequest { limit: 1, ..PageRequest::default() };
    let total = fx.store.list_agents(&scope(), AgentFilter::default(), page).await.expect("lists").total;
    assert_eq!(total, agents, "each create made one agent");
    let execs = fx.store.list_execs(&scope(), &agent, 1000).await.expect("lists").len();
    assert_eq!(execs, first.iter().filter(|(a, _)| matches!(a, Asked::Exec(_))).count().min(1000));
    // A day after the last one each key is free.
    fx.clock.advance(DAY);
    for (number, (asked, resource)) in first.iter().enumerate() {
        let (anew, fresh) = insist(&stores[0], asked, key(number as u64, 3), 8).await.expect("is answered");
        assert!(fresh && anew != *resource, "{asked:?} {number}");
        counted.n += 1;
    }
}

async fn wishes_happen_once(fx: Fixture) {
    let id = fx.agent("a").await.id;
    let wish = |id: &AgentId, desired, hash| {
        let (store, id) = (fx.store.clone(), id.clone());
        let key = Idempotency { key: format!("{}", desired as u8), request_hash: [hash; 32] };
        async move { store.set_desired_once(&scope(), &id, desired, DesireOptions::default(), key).await }
    };
    let stopped = wish(&id, Desired::Stopped, 1).await.expect("stops");
    assert_eq!((stopped.desired, stopped.generation), (Desired::Stopped, 2));
    assert_eq!(wish(&id, Desired::Stopped, 1).await.expect("repeats"), stopped);
    assert_eq!(wish(&id, Desired::Stopped, 2).await, Err(StoreError::IdempotencyMismatch));
    let started = wish(&id, Desired::Running, 1).await.expect("starts");
    assert_eq!((started.desired, started.generation), (Desired::Running, 3));
    assert_eq!(wish(&id, Desired::Stopped, 1).await.expect("a late repeat"), started, "stops nothing again");
    let gone = wish(&id, Desired::Gone, 1).await.expect("deletes");
    assert_eq!(gone.desired, Desired::Gone);
    let newer = fx.agent("a").await;
    assert_eq!(wish(&newer.id, Desired::Gone, 1).await.expect("a late repeat").id, id, "deletes nothing newer");
    let key = |desired: Desired, hash| Idempotency { key: format!("{}", desired as u8), request_hash: [hash; 32] };
    let known = |desired, hash| {
        let (store, key) = (fx.store.clone(), key(desired, hash));
        async move { store.known_wish(&scope(), desired, &key).await.map(|row| row.map(|r| r.id)) }
    };
    assert_eq!(known(Desired::Gone, 1).await, Ok(Some(id.clone())));
    assert_eq!(known(Desired::Gone, 2).await, Err(StoreError::IdempotencyMismatch));
    assert_eq!(known(Desired::Paused, 1).await, Ok(None));
    let foreign = fx.other().await;
    assert_eq!(fx.store.known_wish(&foreign, Desired::Gone, &key(Desired::Gone, 1)).await, Ok(None));
    fx.clock.advance(DAY + Duration::from_millis(1));
    assert_eq!(known(Desired::Gone, 1).await, Ok(None));
    assert_eq!(wish(&newer.id, Desired::Gone, 9).await.expect("the key is free").id, newer.id);
}
