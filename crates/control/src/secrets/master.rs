//! The key that seals, kept as the store says, and values that an older key
//! sealed, sealed anew: on every server, beside all else.

use aether_store::{Store, StoreError};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How soon every server seals with a key that was activated.
const EVERY: Duration = Duration::from_secs(3);

pub(crate) async fn tend(store: Store, shutdown: CancellationToken) {
    let mut warned = false;
    loop {
        match look(&store).await {
            Ok(true) => warned = false,
            Ok(false) if warned => {}
            Ok(false) => {
                warned = true;
                tracing::error!(
                    "the store's values are sealed with a key that this server's seal.key does not hold: copy the file \
                     of the server that added it, then send SIGHUP"
                );
            }
            Err(error) => tracing::warn!(%error, "the key that seals cannot be looked at"),
        }
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            () = shutdown.cancelled() => return,
        }
    }
}

/// False: this server lacks the key.
async fn look(store: &Store) -> Result<bool, StoreError> {
    if !store.follow_seal_key().await? {
        return Ok(false);
    }
    // With one key there is nothing that another could have sealed and it could open.
    if store.seal_keys().all().len() > 1 && store.sealed_by_others().await? > 0 {
        let (resealed, shut) = store.reseal().await?;
        if resealed > 0 {
            tracing::info!(resealed, "values were sealed anew with the active key");
        }
        if shut > 0 {
            tracing::error!(values = shut, "some values were sealed with a key that is not in this server's seal.key");
        }
    }
    Ok(true)
}
