//! What is asked for again and again, kept in memory where that is exact: see
//! `sqlite::kept`.

use super::{Engine, Store};
use crate::error::StoreError;
use crate::model::{AgentFilter, AgentPage, AgentRow, KeyRow, PageRequest};
use crate::ops::{agents, keys, listing, reach};
use crate::sqlite::{Kept, Shelf};
use crate::tx::{Context, OpFuture, Tx};
use aether_core::TenantScope;
use std::sync::Arc;

impl Store {
    /// By id, name or alias; never one whose desire is gone, or that the scope
    /// does not reach.
    pub async fn find_agent(&self, scope: &TenantScope, id_or_name: &str) -> Result<Option<Arc<AgentRow>>, StoreError> {
        // No tenant's id has a slash.
        let key = [scope.tenant().as_str(), "/", id_or_name].concat();
        let found = self.keep(
            |kept| &kept.agents,
            key,
            || (scope.clone(), id_or_name.to_owned()),
            |tx, _, (scope, id_or_name)| Box::pin(agents::find(tx, scope, id_or_name)),
            // Its other columns are short.
            |row| serde_json::to_vec(&row.spec).map_or(usize::MAX, |spec| 2048 + 2 * spec.len()),
        );
        // Kept for all of the tenant's callers, told to those who reach it.
        Ok(found.await?.filter(|row| reach::reaches(scope, row)))
    }

    /// Revoked and expired ones too: judge with [`KeyRow::usable`].
    pub async fn find_key_by_hash(&self, hash: &[u8; 32]) -> Result<Option<Arc<KeyRow>>, StoreError> {
        self.keep(
            |kept| &kept.keys,
            *hash,
            || *hash,
            |tx, _, hash| Box::pin(keys::find_by_hash(tx, hash)),
            // What it is narrowed to may be long.
            |row| size_of::<KeyRow>() + if row.reach.is_some() { 32 << 10 } else { 1024 },
        )
        .await
    }

    /// Newest first. The total is counted only where something was written since
    /// it was counted last.
    pub async fn list_agents(
        &self,
        scope: &TenantScope,
        filter: AgentFilter,
        page: PageRequest,
    ) -> Result<AgentPage, StoreError> {
        let kept = match &self.inner.engine {
            Engine::Sqlite(engine) => {
                let version = engine.kept().version(&engine.kept().totals);
                version.map(|version| {
                    (engine.kept(), format!("{}/{filter:?}/{:?}", scope.tenant().as_str(), scope.reach()), version)
                })
            }
            Engine::Postgres(_) => None,
        };
        let known = kept.as_ref().and_then(|(kept, key, version)| kept.totals.get(key, *version)).map(|total| *total);
        let read = self.read((scope.clone(), filter, page, known), |tx, _, (scope, filter, page, known)| {
            Box::pin(listing::list(tx, scope, filter, page, *known))
        });
        let found = read.await?;
        if let (Some((kept, key, version)), None) = (kept, known) {
            let bytes = key.len() + 64;
            kept.totals.put(key, version, Arc::new(found.total), bytes);
        }
        Ok(found)
    }

    /// The kept row, or a new reading of it. What is absent is not kept.
    async fn keep<K, V, P, F>(
        &self,
        shelf: fn(&Kept) -> &Shelf<K, V>,
        key: K,
        params: impl FnOnce() -> P,
        op: F,
        bytes: fn(&V) -> usize,
    ) -> Result<Option<Arc<V>>, StoreError>
    where
        K: Ord,
        P: Send + Sync + 'static,
        V: Send + 'static,
        F: for<'a> Fn(&'a mut dyn Tx, &'a Context, &'a P) -> OpFuture<'a, Option<V>> + Send + Sync + 'static,
    {
        let Engine::Sqlite(engine) = &self.inner.engine else {
            return Ok(self.read(params(), op).await?.map(Arc::new));
        };
        let shelf = shelf(engine.kept());
        let version = engine.kept().version(shelf);
        if let Some(row) = version.and_then(|version| shelf.get(&key, version)) {
            return Ok(Some(row));
        }
        let found = engine.read(&self.inner.context, params(), op).await?.map(Arc::new);
        if let (Some(version), Some(row)) = (version, &found) {
            shelf.put(key, version, row.clone(), bytes(row));
        }
        Ok(found)
    }
}
