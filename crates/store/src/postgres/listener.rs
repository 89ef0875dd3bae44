//! Hears NOTIFY and wakes who waits for changes. It may miss some while it
//! reconnects, and so wakes once more when it is back; readers go by cursor.

use super::CHANNEL;
use sqlx::PgPool;
use sqlx::postgres::PgListener;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::AbortHandle;

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LAST_PAUSE: Duration = Duration::from_secs(5);

/// The background task; ends with this handle.
pub(super) struct Listener(AbortHandle);

impl Listener {
    pub(super) fn start(pool: PgPool, changes: watch::Sender<u64>) -> Self {
        Self(tokio::spawn(run(pool, changes)).abort_handle())
    }

    pub(super) fn stop(&self) {
        self.0.abort();
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.stop();
    }
}

async fn run(pool: PgPool, changes: watch::Sender<u64>) {
    let wake = || changes.send_modify(|n| *n = n.wrapping_add(1));
    let mut pause = FIRST_PAUSE;
    loop {
        match listen(&pool).await {
            Ok(mut listener) => {
                pause = FIRST_PAUSE;
                wake();
                while listener.recv().await.is_ok() {
                    wake();
                }
            }
            Err(sqlx::Error::PoolClosed) => return,
            Err(_) => tracing::warn!("the listener for changes has no connection; readers poll meanwhile"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LAST_PAUSE);
    }
}

async fn listen(pool: &PgPool) -> Result<PgListener, sqlx::Error> {
    let mut listener = PgListener::connect_with(pool).await?;
    listener.listen(CHANNEL).await?;
    Ok(listener)
}
