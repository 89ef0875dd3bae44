//! What tenants have at work at one time in this process: execs, and images
//! that come in. A place is taken when the work begins and given back when it
//! is over, whichever way it ends, since it dies with its guard.
//!
//! Not in the store: it would have to be cleaned up after every crash. So
//! several servers do not know of each other's.

use crate::api::Caller;
use crate::app::App;
use crate::problem::ApiError;
use aether_core::TenantId;
use aether_core::tenant::{Excess, Resource};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;

#[derive(Clone, Debug)]
pub(crate) struct InFlight {
    resource: Resource,
    /// Tenants without any are not named.
    counts: Arc<Mutex<BTreeMap<TenantId, u64>>>,
}

/// A place, until it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    of: InFlight,
    tenant: TenantId,
}

impl InFlight {
    pub(crate) fn new(resource: Resource) -> Self {
        Self { resource, counts: Arc::default() }
    }

    /// One more beside the `held` that are there for good and those at work.
    pub(crate) fn begin(&self, tenant: &TenantId, held: u64, limit: Option<u64>) -> Result<Place, Excess> {
        let mut counts = self.counts.lock();
        let used = held.saturating_add(counts.get(tenant).copied().unwrap_or(0));
        if let Some(limit) = limit.filter(|limit| used >= *limit) {
            return Err(Excess { resource: self.resource, used, asked: 1, limit });
        }
        *counts.entry(tenant.clone()).or_default() += 1;
        Ok(Place { of: self.clone(), tenant: tenant.clone() })
    }
}

/// Of the execs that the caller's tenant may have: held for as long as somebody
/// here reads from one.
pub(crate) async fn exec(app: &App, caller: &Caller) -> Result<Place, ApiError> {
    let limit = app.rates.exec_sessions(&caller.tenant).await;
    app.execs.begin(&caller.tenant, 0, limit).map_err(|excess| ApiError::quota(None, excess))
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.of.counts.lock();
        if let Some(count) = counts.get_mut(&self.tenant) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                counts.remove(&self.tenant);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_given_back_once_and_forgotten() {
        let (all, acme, other) = (InFlight::new(Resource::ExecSessions), id("acme"), id("other"));
        let first = all.begin(&acme, 0, Some(2)).expect("there is room");
        let second = all.begin(&acme, 0, Some(2)).expect("there is room");
        let excess = all.begin(&acme, 0, Some(2)).expect_err("is full");
        assert_eq!(excess, Excess { resource: Resource::ExecSessions, used: 2, asked: 1, limit: 2 });
        let _others = all.begin(&other, 0, Some(1)).expect("is another's");
        let _unbounded = all.begin(&acme, 0, None).expect("has no limit");
        drop(first);
        all.begin(&acme, 0, Some(2)).expect_err("two are left");
        drop(second);
        let third = all.begin(&acme, 0, Some(2)).expect("one is left");
        all.begin(&acme, 8, Some(10)).expect_err("what is there for good counts");
        drop((third, _unbounded));
        assert_eq!(all.counts.lock().keys().collect::<Vec<_>>(), [&other]);
        all.begin(&acme, 0, Some(0)).expect_err("nothing may be at work");
    }

    fn id(text: &str) -> TenantId {
        text.parse().expect("an id")
    }
}
