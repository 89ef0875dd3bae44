//! Long answers and open connections end when the right that they stand on
//! does: the key or token was revoked or has expired, the key or user lost the
//! permission or is disabled, or its tenant was suspended.
//!
//! Each right in use is looked at every [`ASKED_EVERY`], once for all that
//! stand on it, so that it holds whichever server took it back. Where the
//! store does not answer nothing ends: nobody could have taken anything back.
//! Not here: what a new request may do (`auth`, `api::guard`).

use super::Presented;
use crate::app::App;
use aether_core::principal::Credential;
use aether_core::{Permission, Principal, TenantId};
use axum::body::Body;
use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

const ASKED_EVERY: Duration = Duration::from_secs(1);

/// Who, for which tenant, by which token if any, to do what.
type Right = (Credential, TenantId, Option<String>, Permission);

/// The rights that something stands on, or did at the last look: however many
/// requests come by one, it is looked at once.
#[derive(Default)]
pub(crate) struct Standing(Mutex<BTreeMap<Right, Arc<CancellationToken>>>);

/// Kept by what stands on a right for as long as it does.
#[derive(Clone, Debug)]
pub(crate) struct Held(Arc<CancellationToken>);

impl Held {
    /// Returns when the right is no more.
    pub(crate) async fn lost(&self) {
        self.0.cancelled().await;
    }

    /// `body` for as long as the right holds; then it breaks off.
    pub(crate) fn body(&self, body: Body) -> Body {
        let lost = Box::pin(CancellationToken::clone(&self.0).cancelled_owned());
        Body::new(UntilLost { body, lost, _held: self.clone() })
    }
}

impl Standing {
    /// `None` for who has no credential that could be taken back.
    pub(crate) fn hold(
        app: &App,
        caller: &Principal,
        presented: Option<&Presented>,
        permission: Permission,
    ) -> Option<Held> {
        if matches!(caller.credential, Credential::LocalUser { .. } | Credential::Anonymous) {
            return None;
        }
        let token = presented.map(|token| token.id.clone());
        let right = (caller.credential.clone(), caller.tenant.clone(), token, permission);
        let mut rights = app.standing.0.lock();
        let token = rights.entry(right.clone()).or_insert_with(|| {
            let token = Arc::new(CancellationToken::new());
            tokio::spawn(ask(app.clone(), right, (caller.clone(), presented.cloned()), token.clone()));
            token
        });
        Some(Held(token.clone()))
    }

    /// Whether nothing stands on it any more; it is forgotten then.
    fn over(&self, right: &Right, token: &Arc<CancellationToken>) -> bool {
        let mut rights = self.0.lock();
        // Ours, and that of the map.
        let over = Arc::strong_count(token) <= 2;
        if over {
            rights.remove(right);
        }
        over
    }
}

async fn ask(
    app: App,
    right: Right,
    (caller, presented): (Principal, Option<Presented>),
    token: Arc<CancellationToken>,
) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(ASKED_EVERY) => {}
            () = app.draining.cancelled() => return,
        }
        if app.standing.over(&right, &token) {
            return;
        }
        match app.auth.still(&caller, presented.as_ref(), right.3).await {
            Ok(true) => {}
            Ok(false) => {
                // Forgotten first: one that is given back is a new one.
                app.standing.0.lock().remove(&right);
                return token.cancel();
            }
            Err(error) => tracing::debug!(%error, "whether a right still holds is not known"),
        }
    }
}

struct UntilLost {
    body: Body,
    lost: Pin<Box<WaitForCancellationFutureOwned>>,
    _held: Held,
}

impl HttpBody for UntilLost {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.lost.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Some(Err(axum::Error::new("the caller's right to it has ended"))));
        }
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
