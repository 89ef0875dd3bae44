//! Certificates that change while the server runs: files that were replaced
//! are read anew, the own authority issues one each month. What cannot be used
//! is told, and the certificate in force stays.

use super::LiveTls;
use super::authority::RENEWED_AFTER;
use super::tls::acceptor;
use crate::config::{ControlConfig, TlsConfig};
use aether_core::{Clock, Live};
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

const LOOKED_AT_EVERY: Duration = Duration::from_secs(5);

/// What tells whether a file is another: device, inode, size, time.
type Stamp = [Option<(u64, u64, u64, i64)>; 2];

fn stamp(cfg: &TlsConfig) -> Stamp {
    [&cfg.cert_path, &cfg.key_path].map(|path| {
        let meta = std::fs::metadata(path).ok()?;
        Some((meta.dev(), meta.ino(), meta.size(), meta.mtime_nsec() ^ meta.mtime()))
    })
}

pub(crate) async fn keep(cfg: Live<ControlConfig>, tls: LiveTls, clock: Arc<dyn Clock>, stop: CancellationToken) {
    let Some(mut known) = cfg.get().tls.as_ref().map(stamp) else { return };
    let mut issued = clock.monotonic();
    while stop.run_until_cancelled(tokio::time::sleep(LOOKED_AT_EVERY)).await.is_some() {
        let Some(now_cfg) = cfg.get().tls.clone() else { return };
        let own = now_cfg.own.is_some();
        let due =
            if own { clock.monotonic().saturating_sub(issued) >= RENEWED_AFTER } else { stamp(&now_cfg) != known };
        if !due {
            continue;
        }
        // A file that is being written is whole at the next look.
        let read = clock.now();
        let made = tokio::task::spawn_blocking(move || (stamp(&now_cfg), acceptor(&now_cfg, read))).await;
        match made {
            Ok((now, Ok(acceptor))) => {
                (known, issued) = (now, clock.monotonic());
                tls.set(Some(acceptor));
                tracing::info!("the certificate was replaced");
            }
            Ok((_, Err(error))) => tracing::error!(%error, "the new certificate cannot be used: the old one stays"),
            Err(error) => tracing::error!(%error, "reading the certificate died"),
        }
    }
}
