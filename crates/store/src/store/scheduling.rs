//! The control plane's own: leadership, scheduling, what retention removes.

use super::Store;
use crate::error::StoreError;
use crate::model::{AgentRow, Epoch, EventCursor, LeadershipRow, PlaceRequest};
use crate::ops::{agents, leadership, listing, place, prune, recover};
use aether_core::{AgentId, Timestamp};
use std::time::Duration;

impl Store {
    /// Whoever calls this leads; writes with an earlier epoch fail `Fenced`.
    pub async fn take_leadership(&self, server_id: &str) -> Result<Epoch, StoreError> {
        self.write(server_id.to_owned(), |tx, cx, server_id| Box::pin(leadership::take(tx, cx, server_id))).await
    }

    pub async fn renew_leadership(&self, epoch: &Epoch) -> Result<(), StoreError> {
        self.write(epoch.clone(), |tx, cx, epoch| Box::pin(leadership::renew(tx, cx, epoch))).await
    }

    pub async fn leadership(&self) -> Result<LeadershipRow, StoreError> {
        self.read((), |tx, _, ()| Box::pin(leadership::read(tx))).await
    }

    /// Desired running, pending, not handed to a node; oldest first, from
    /// after one that was created then. One with a `node_id` can only go there.
    pub async fn pending_agents(
        &self,
        after: Option<(Timestamp, AgentId)>,
        limit: u32,
    ) -> Result<Vec<AgentRow>, StoreError> {
        self.read((after, limit), |tx, _, (after, limit)| Box::pin(listing::waiting(tx, after.as_ref(), *limit))).await
    }

    /// Those of them that began to wait in the next `limit` events after the
    /// cursor; and where to go on.
    pub async fn began_to_wait(
        &self,
        cursor: EventCursor,
        limit: u32,
    ) -> Result<(Vec<AgentRow>, EventCursor), StoreError> {
        self.read((cursor, limit), |tx, _, (cursor, limit)| Box::pin(listing::began_to_wait(tx, *cursor, *limit))).await
    }

    /// One result per request, in order, in one transaction. A refused request
    /// (NoRoom, VersionConflict, IllegalState, NotFound) does not touch the
    /// others.
    pub async fn place_batch(
        &self,
        epoch: &Epoch,
        requests: Vec<PlaceRequest>,
    ) -> Result<Vec<Result<AgentRow, StoreError>>, StoreError> {
        self.write((epoch.clone(), requests), |tx, cx, (epoch, requests)| {
            Box::pin(place::place(tx, cx, epoch, requests))
        })
        .await
    }

    /// Makes pending again what died unasked and is to be started again, at
    /// most three times, half a minute apart; tells which.
    pub async fn recover_agents(&self, epoch: &Epoch) -> Result<Vec<AgentId>, StoreError> {
        // Mostly there is none: no write is made for that.
        if !self.read((), |tx, cx, ()| Box::pin(recover::any(tx, cx))).await? {
            return Ok(Vec::new());
        }
        self.write(epoch.clone(), |tx, cx, epoch| Box::pin(recover::recover(tx, cx, epoch))).await
    }

    /// Writes the reasons that are new, in one transaction.
    pub async fn explain_pending(&self, epoch: &Epoch, reasons: Vec<(AgentId, String)>) -> Result<(), StoreError> {
        self.write((epoch.clone(), reasons), |tx, cx, (epoch, reasons)| {
            Box::pin(place::explain(tx, cx, epoch, reasons))
        })
        .await
    }

    /// A row whatever its tenant, gone or not.
    pub async fn agent_by_id(&self, id: &AgentId) -> Result<Option<AgentRow>, StoreError> {
        self.read(id.clone(), |tx, _, id| Box::pin(agents::by_id(tx, id))).await
    }
}

impl Store {
    /// [`Store::place_batch`] of one.
    pub async fn place(&self, epoch: &Epoch, request: PlaceRequest) -> Result<AgentRow, StoreError> {
        let results = self.place_batch(epoch, vec![request]).await?;
        results.into_iter().next().unwrap_or_else(|| Err(StoreError::internal("a placement has no result")))
    }

    /// Removes events, tombstones, idempotency keys (a day old at least) and
    /// ended execs older than this, in small transactions; returns how many.
    pub async fn prune(&self, older_than: Duration) -> Result<u64, StoreError> {
        let mut removed = 0;
        loop {
            match self.write(older_than, |tx, cx, age| Box::pin(prune::batch(tx, cx, *age))).await? {
                0 => return Ok(removed),
                n => removed += n,
            }
        }
    }
}
