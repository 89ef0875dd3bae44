//! Requests that may come twice: each names its key, and has one effect for
//! as long as the key holds (24 hours). Beside [`Store::create_agent`], whose
//! key is part of what is created.

use super::Store;
use crate::error::StoreError;
use crate::model::{AgentRow, DesireOptions, ExecIntent, ExecIntentOutcome, Idempotency};
use crate::ops::{execs, idempotency, once};
use aether_core::state::Desired;
use aether_core::{AgentId, TenantScope};

/// Keys for work of several transactions.
impl Store {
    /// Claims the key for `resource`, durably and by itself, or tells what the
    /// first request with it claimed it for.
    pub async fn claim_key(
        &self,
        scope: &TenantScope,
        kind: &'static str,
        key: Idempotency,
        resource: String,
    ) -> Result<Option<String>, StoreError> {
        self.write((scope.clone(), kind, key, resource), |tx, cx, (scope, kind, key, resource)| {
            Box::pin(idempotency::claim(tx, cx, scope, kind, key, resource))
        })
        .await
    }
}

/// Wishes.
impl Store {
    /// As [`Store::set_desired`], once per key: a repeat changes nothing,
    /// whatever has become of the agent, and tells it as it is now. A refused
    /// wish leaves its key free.
    pub async fn set_desired_once(
        &self,
        scope: &TenantScope,
        id: &AgentId,
        desired: Desired,
        options: DesireOptions,
        key: Idempotency,
    ) -> Result<AgentRow, StoreError> {
        self.write((scope.clone(), id.clone(), desired, options, key), |tx, cx, (scope, id, desired, options, key)| {
            Box::pin(once::set_desired(tx, cx, scope, id, (*desired, *options, key)))
        })
        .await
    }

    /// The agent of an earlier wish with this key, as it is now, gone too.
    pub async fn known_wish(
        &self,
        scope: &TenantScope,
        desired: Desired,
        key: &Idempotency,
    ) -> Result<Option<AgentRow>, StoreError> {
        self.read((scope.clone(), desired, key.clone()), |tx, cx, (scope, desired, key)| {
            Box::pin(once::known(tx, cx, scope, *desired, key))
        })
        .await
    }
}

/// Execs.
impl Store {
    /// Before the node is asked. A repeated key tells the first exec.
    pub async fn record_exec(
        &self,
        scope: &TenantScope,
        agent: &AgentId,
        intent: ExecIntent,
        idempotency: Option<Idempotency>,
    ) -> Result<ExecIntentOutcome, StoreError> {
        self.write(
            (scope.clone(), agent.clone(), intent, idempotency),
            |tx, cx, (scope, agent, intent, idempotency)| {
                Box::pin(execs::record(tx, cx, scope, agent, (intent, idempotency.as_ref())))
            },
        )
        .await
    }

    /// What an earlier request with this key made, on whatever agent, and
    /// whatever became of that since.
    pub async fn known_exec(
        &self,
        scope: &TenantScope,
        key: &Idempotency,
    ) -> Result<Option<ExecIntentOutcome>, StoreError> {
        self.read((scope.clone(), key.clone()), |tx, cx, (scope, key)| Box::pin(execs::known(tx, cx, scope, key))).await
    }
}
