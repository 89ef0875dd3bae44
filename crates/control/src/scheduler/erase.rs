//! Ends and erases tenants that are being deleted, beside the scheduling loop:
//! one tenant after the other, so that many of them hold nobody up.

use crate::secrets::Secrets;
use aether_core::TenantId;
use aether_store::{Epoch, Store, StoreError};
use std::time::Duration;

/// Between two rounds over all of them.
const PAUSE: Duration = Duration::from_millis(1500);

/// Works until somebody else leads; returns the error that said so.
pub(super) async fn run(store: &Store, secrets: &Secrets, epoch: &Epoch) -> StoreError {
    let mut after: Option<TenantId> = None;
    loop {
        let next = match store.next_deletion(after.take()).await {
            Ok(next) => next,
            Err(error) => {
                tracing::warn!(%error, "the tenants that are to be erased cannot be read");
                None
            }
        };
        let Some(tenant) = next else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        if let Err(error) = secrets.erase(&tenant).await {
            tracing::warn!(%error, %tenant, "secrets of a tenant stay in Vault; its erasure waits for it");
        }
        match store.tend_deletion(epoch, &tenant).await {
            Ok(true) => tracing::info!(%tenant, "erased"),
            Ok(false) => {}
            Err(fenced @ StoreError::Fenced { .. }) => return fenced,
            // The next one is not to wait for it.
            Err(error) => tracing::warn!(%error, %tenant, "the erasure of a tenant goes on later"),
        }
        after = Some(tenant);
    }
}
