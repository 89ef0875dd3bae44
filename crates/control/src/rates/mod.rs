//! How fast a tenant may ask: buckets per tenant, per caller and per class of
//! route, in this process or shared by all servers (`shared`).
//!
//! The tenant's limit is read from the store and kept for [`KNOWN_FOR`]; where
//! the store does not answer, the last one known holds, or the free tier's:
//! never an error, never no limit. Operators of the platform are not limited.
//! Not here: how much a tenant may have (`store::ops::quota`).

mod bucket;
mod shared;

use crate::config::{ControlConfig, RateShares};
use crate::problem::ApiError;
use crate::telemetry;
use aether_core::tenant::{Limits, Tier};
use aether_core::{Clock, Code, Live, Permission, Principal, TenantId};
use aether_store::Store;
use bucket::{Bucket, Rate};
use http::{HeaderMap, HeaderName, HeaderValue};
use parking_lot::Mutex;
use shared::Shared;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

const KNOWN_FOR: Duration = Duration::from_secs(5);
/// surface.md §4: a lowered rate holds only after this time.
const GRACE: Duration = Duration::from_secs(300);
/// Buckets that nobody has asked for so long are dropped.
const IDLE: Duration = Duration::from_secs(3600);
const SWEEP_EVERY: Duration = Duration::from_secs(60);

/// What a request is counted as, beside a request of its tenant and caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Class {
    Other,
    /// Creating agents.
    Create,
    Exec,
}

impl Class {
    fn as_str(self) -> &'static str {
        match self {
            Class::Other => "other",
            Class::Create => "create",
            Class::Exec => "exec",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Of {
    Tenant,
    Caller(String),
    Class(Class),
}

impl fmt::Display for Of {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Of::Tenant => f.write_str("tenant"),
            Of::Caller(credential) => write!(f, "caller:{credential}"),
            Of::Class(class) => write!(f, "class:{}", class.as_str()),
        }
    }
}

/// Of one request.
#[derive(Clone, Copy, Debug)]
struct Cost {
    tokens: u64,
    /// Charged with the same request before.
    paid: u64,
}

impl Cost {
    /// Tokens that must be there. What is larger than a bucket needs a full
    /// one, but for what it paid already.
    fn needed(self, rate: Rate) -> u64 {
        self.tokens.min(rate.burst().saturating_sub(self.paid))
    }
}

/// What is left to a caller: of the bucket that has least.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Left {
    limit: u64,
    remaining: u64,
    reset: Duration,
}

impl Left {
    pub(crate) fn write(self, headers: &mut HeaderMap) {
        let mut set = |name, value: u64| headers.insert(HeaderName::from_static(name), HeaderValue::from(value));
        set("ratelimit-limit", self.limit);
        set("ratelimit-remaining", self.remaining);
        set("ratelimit-reset", whole_seconds(self.reset));
    }
}

fn whole_seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

/// Too fast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    wait: Duration,
    left: Left,
}

impl Refused {
    pub(crate) fn left(self) -> Left {
        self.left
    }
}

impl From<Refused> for ApiError {
    fn from(refused: Refused) -> Self {
        Self::new(
            Code::RateLimited,
            "The tenant, or this caller of it, asks faster than it may.",
            "Wait as long as Retry-After says; `aether quota get` shows the tenant's rate.",
        )
        .retry_after(whole_seconds(refused.wait).max(1))
    }
}

/// What is known of a tenant's rate.
#[derive(Clone, Copy)]
struct Known {
    per_minute: Option<u64>,
    /// Not a rate: kept here, since every exec asks for it.
    exec_sessions: Option<u64>,
    read_at: Duration,
    /// Before it was lowered, and until when that holds.
    before: Option<(Option<u64>, Duration)>,
}

impl Known {
    fn in_force(&self, now: Duration) -> Option<u64> {
        match self.before {
            Some((rate, until)) if now < until => rate,
            _ => self.per_minute,
        }
    }

    /// What was read last, after what was read before.
    fn after(old: Option<&Known>, limits: Limits, now: Duration) -> Self {
        let per_minute = limits.requests_per_minute;
        let lowered = |old: &Known| {
            let had = old.in_force(now);
            let lower = per_minute.is_some_and(|new| had.is_none_or(|had| new < had));
            match old.before {
                // The grace runs from the first lowering on.
                Some((rate, until)) if now < until && lower => Some((rate, until)),
                _ => lower.then_some((had, now + GRACE)),
            }
        };
        let changed = old.filter(|old| old.per_minute != per_minute || old.before.is_some());
        let exec_sessions = limits.exec_sessions;
        Self { per_minute, exec_sessions, read_at: now, before: changed.and_then(lowered) }
    }
}

#[derive(Default)]
struct State {
    buckets: BTreeMap<(TenantId, Of), Bucket>,
    tenants: BTreeMap<TenantId, Known>,
    swept_at: Duration,
}

pub(crate) struct Rates {
    store: Store,
    clock: Arc<dyn Clock>,
    cfg: Live<ControlConfig>,
    state: Mutex<State>,
    shared: Option<Shared>,
}

impl Rates {
    pub(crate) fn new(store: Store, clock: Arc<dyn Clock>, cfg: Live<ControlConfig>) -> Self {
        let shared = cfg.get().redis.as_ref().and_then(|redis| match Shared::new(redis) {
            Ok(shared) => Some(shared),
            Err(error) => {
                tracing::error!(%error, "Redis cannot be used: each server counts rates for itself");
                None
            }
        });
        Self { store, clock, cfg, state: Mutex::new(State::default()), shared }
    }

    /// Takes a token from each bucket that counts, or none from any. `None`:
    /// nobody counts this caller.
    pub(crate) async fn charge(&self, caller: &Principal, class: Class) -> Result<Option<Left>, Refused> {
        self.take(caller, class, Cost { tokens: 1, paid: 0 }).await
    }

    /// For a request of several things, of which one was charged: the others.
    pub(crate) async fn charge_others(&self, caller: &Principal, class: Class, others: u64) -> Result<(), Refused> {
        if others == 0 {
            return Ok(());
        }
        self.take(caller, class, Cost { tokens: others, paid: 1 }).await.map(|_| ())
    }

    async fn take(&self, caller: &Principal, class: Class, cost: Cost) -> Result<Option<Left>, Refused> {
        if caller.may(Permission::PlatformAdmin) {
            return Ok(None);
        }
        let Some(per_minute) = self.rate_of(&caller.tenant).await else { return Ok(None) };
        let now = self.clock.monotonic();
        let counted = counted(caller, class, (Rate::per_minute(per_minute), self.cfg.get().rates));
        let shared = match &self.shared {
            Some(shared) => shared.charge(&caller.tenant, &counted, cost, now).await,
            None => None,
        };
        let charged = shared.unwrap_or_else(|| self.state.lock().charge(&caller.tenant, counted, cost, now));
        if charged.is_err() {
            telemetry::rate_limited(class.as_str(), caller.tenant.as_str());
        }
        charged.map(Some)
    }

    async fn rate_of(&self, tenant: &TenantId) -> Option<u64> {
        let known = self.known(tenant).await;
        known.map_or(Tier::Free.limits().requests_per_minute, |known| known.in_force(self.clock.monotonic()))
    }

    /// How many execs the tenant may have at work.
    pub(crate) async fn exec_sessions(&self, tenant: &TenantId) -> Option<u64> {
        self.known(tenant).await.map_or(Tier::Free.limits().exec_sessions, |known| known.exec_sessions)
    }

    /// Of the last seconds, or the last that could be read; none: never.
    async fn known(&self, tenant: &TenantId) -> Option<Known> {
        let now = self.clock.monotonic();
        let known = {
            let mut state = self.state.lock();
            match state.tenants.get_mut(tenant) {
                Some(known) if now.saturating_sub(known.read_at) < KNOWN_FOR => return Some(*known),
                Some(known) => {
                    // One request reads, the others go on with what is known.
                    known.read_at = now;
                    Some(*known)
                }
                None => None,
            }
        };
        let read = match self.store.tenant_limits(tenant).await {
            Ok(limits) => limits,
            Err(error) => {
                tracing::warn!(%error, %tenant, "the rate of a tenant cannot be read: the last one known holds");
                return known;
            }
        };
        let mut state = self.state.lock();
        let next = Known::after(state.tenants.get(tenant), read, now);
        state.tenants.insert(tenant.clone(), next);
        Some(next)
    }
}

/// The buckets that a request is counted in.
fn counted(caller: &Principal, class: Class, (rate, shares): (Rate, RateShares)) -> Vec<(Of, Rate)> {
    let mut counted =
        vec![(Of::Tenant, rate), (Of::Caller(caller.credential.to_string()), rate.share(shares.caller_percent))];
    match class {
        Class::Other => {}
        Class::Create => counted.push((Of::Class(class), rate.share(shares.create_percent))),
        Class::Exec => counted.push((Of::Class(class), rate.share(shares.exec_percent))),
    }
    counted
}

/// What to say of these buckets, from all of which `cost` was taken, or from
/// none.
fn judge(taken: bool, buckets: &[(Rate, Bucket)], cost: Cost, now: Duration) -> Result<Left, Refused> {
    let left = |(rate, bucket): &(Rate, Bucket)| {
        let (remaining, reset) = bucket.left(*rate, now);
        Left { limit: rate.burst(), remaining, reset }
    };
    if taken {
        let least = buckets.iter().map(left).min_by_key(|left| left.remaining);
        return Ok(least.expect("the tenant's bucket is always counted"));
    }
    let wait = |(rate, bucket): &(Rate, Bucket)| bucket.look(*rate, now, cost.needed(*rate)).err().unwrap_or_default();
    let longest = buckets.iter().max_by_key(|bucket| wait(bucket));
    let longest = longest.expect("the tenant's bucket is always counted");
    Err(Refused { wait: wait(longest), left: left(longest) })
}

impl State {
    fn charge(
        &mut self,
        tenant: &TenantId,
        counted: Vec<(Of, Rate)>,
        cost: Cost,
        now: Duration,
    ) -> Result<Left, Refused> {
        self.sweep(now);
        let keyed: Vec<_> = counted.into_iter().map(|(of, rate)| ((tenant.clone(), of), rate)).collect();
        let bucket = |key| self.buckets.get(key).copied().unwrap_or_default();
        let mut buckets: Vec<(Rate, Bucket)> = keyed.iter().map(|(key, rate)| (*rate, bucket(key))).collect();
        let taken = buckets.iter().all(|(rate, bucket)| bucket.look(*rate, now, cost.needed(*rate)).is_ok());
        if taken {
            for ((key, rate), (_, bucket)) in keyed.into_iter().zip(&mut buckets) {
                bucket.take(rate, now, cost.tokens);
                self.buckets.insert(key, *bucket);
            }
        }
        judge(taken, &buckets, cost, now)
    }

    fn sweep(&mut self, now: Duration) {
        if now.saturating_sub(self.swept_at) < SWEEP_EVERY {
            return;
        }
        self.swept_at = now;
        self.buckets.retain(|_, bucket| !bucket.idle(now, IDLE));
        self.tenants.retain(|_, known| now.saturating_sub(known.read_at) < IDLE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aether_core::Role;
    use aether_core::principal::Credential;

    const ONE: Cost = Cost { tokens: 1, paid: 0 };

    const SHARES: RateShares = RateShares { caller_percent: 50, create_percent: 20, exec_percent: 10 };

    fn caller(tenant: &str, key: &str) -> Principal {
        let id = format!("keyc0{key:a>16}").parse().expect("an id");
        let credential = Credential::ApiKey { id, service_account: None };
        Principal::new(tenant.parse().expect("an id"), credential, Role::Admin.permissions())
    }

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn charge(state: &mut State, who: &Principal, class: Class, cost: Cost, now: Duration) -> Result<Left, Refused> {
        let counted = counted(who, class, (Rate::per_minute(600), SHARES));
        state.charge(&who.tenant, counted, cost, now)
    }

    /// How many of a hundred requests at once are let through.
    fn passes(state: &mut State, who: &Principal, class: Class, now: Duration) -> usize {
        (0..100).filter(|_| charge(state, who, class, ONE, now).is_ok()).count()
    }

    #[test]
    fn tenants_callers_and_classes_are_counted_apart() {
        let mut state = State::default();
        let (a, b, other) = (caller("acme", "a"), caller("acme", "b"), caller("other", "a"));
        assert_eq!(passes(&mut state, &a, Class::Other, seconds(0)), 10, "half of the tenant's burst of 20");
        assert_eq!(passes(&mut state, &b, Class::Create, seconds(0)), 10, "a fifth, but ten at once");
        assert_eq!(passes(&mut state, &b, Class::Other, seconds(0)), 0, "the tenant has none left");
        assert_eq!(passes(&mut state, &other, Class::Other, seconds(0)), 10, "another tenant has its own");
        // Nothing was taken by what was refused.
        assert_eq!(passes(&mut state, &a, Class::Other, seconds(1)), 5);
        assert_eq!(passes(&mut state, &b, Class::Create, seconds(2)), 4, "a fifth of the tenant's rate");
    }

    #[test]
    fn what_is_refused_says_when_it_will_not_be() {
        let mut state = State::default();
        let who = caller("acme", "a");
        let fifty = Cost { tokens: 50, paid: 0 };
        let left = charge(&mut state, &who, Class::Other, fifty, seconds(0)).expect("a full bucket");
        assert_eq!((left.limit, left.remaining), (20, 0));
        let refused = charge(&mut state, &who, Class::Other, ONE, seconds(0)).expect_err("empty");
        let earlier = refused.wait - Duration::from_millis(1);
        assert!(charge(&mut state, &who, Class::Other, ONE, earlier).is_err());
        assert!(charge(&mut state, &who, Class::Other, ONE, refused.wait).is_ok());
        let error = ApiError::from(refused).problem;
        assert_eq!((error.status, error.retry_after), (429, Some(9)));
    }

    /// A request for more than a bucket holds is let through when it is full,
    /// its own first token apart, and paid for afterwards.
    #[test]
    fn many_things_at_once_need_a_full_bucket_and_no_more() {
        let who = caller("acme", "a");
        for others in [9, 10, 99] {
            let mut state = State::default();
            let mut create = |cost| charge(&mut state, &who, Class::Create, cost, seconds(0));
            assert!(create(ONE).is_ok());
            assert!(create(Cost { tokens: others, paid: 1 }).is_ok(), "{others}");
            assert!(create(ONE).is_err(), "{others}");
        }
    }

    #[test]
    fn a_lowered_rate_holds_after_its_grace() {
        let per_minute = |requests_per_minute| Limits { requests_per_minute, ..Limits::default() };
        let first = Known::after(None, per_minute(Some(6000)), seconds(0));
        let lowered = Known::after(Some(&first), per_minute(Some(600)), seconds(10));
        assert_eq!(lowered.in_force(seconds(11)), Some(6000));
        let again = Known::after(Some(&lowered), per_minute(Some(600)), seconds(200));
        assert_eq!((again.in_force(seconds(309)), again.in_force(seconds(310))), (Some(6000), Some(600)));
        let over = Known::after(Some(&again), per_minute(Some(600)), seconds(400));
        assert_eq!(over.in_force(seconds(400)), Some(600));
        let raised = Known::after(Some(&over), per_minute(Some(6000)), seconds(410));
        assert_eq!(raised.in_force(seconds(410)), Some(6000), "a raised one at once");
        let lifted = Known::after(Some(&raised), per_minute(None), seconds(420));
        assert_eq!(lifted.in_force(seconds(420)), None);
        let limited = Known::after(Some(&lifted), per_minute(Some(60)), seconds(430));
        assert_eq!((limited.in_force(seconds(431)), limited.in_force(seconds(731))), (None, Some(60)));
    }

    #[test]
    fn idle_buckets_are_dropped() {
        let mut state = State::default();
        passes(&mut state, &caller("acme", "a"), Class::Exec, seconds(0));
        assert_eq!(state.buckets.len(), 3);
        passes(&mut state, &caller("other", "a"), Class::Other, seconds(3700));
        assert_eq!(state.buckets.len(), 2);
    }
}
