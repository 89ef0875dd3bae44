//! `GET /v1/audit/export`: a whole chain as JSON lines, with what proves it.
//!
//! ```text
//! begin ─► digests, by pages ─► records, by pages ─► end (signed, anchored)
//! ```
//!
//! A page is read when the one before was taken: a long log costs the memory
//! of a page. What ends without its `end` was cut off, and the verifier says so.

use super::Caller;
use super::audit::of;
use super::extract::Params;
use crate::app::App;
use crate::audit::blocking;
use crate::problem::ApiError;
use aether_core::Problem;
use aether_core::audit::{Begin, DigestKind, Hash, Head, Line, Record, Signature, ocsf};
use aether_store::{AuditEntry, AuditHead, AuditOf, StoreError};
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use bytes::Bytes;
use http::HeaderValue;
use http::header::CONTENT_TYPE;
use std::time::Duration;

/// Rows of one read, and so of memory per export.
const BATCH: u32 = 500;
/// More than a page of records that are not linked is waited for: between two
/// pages some would be, and stand in neither.
const LINKED_SOON: Duration = Duration::from_millis(200);
const WAITED: u32 = 150;

/// The tenant's whole audit log with its proofs, as JSON lines: see docs/audit.md.
#[utoipa::path(
    get, path = "/v1/audit/export", operation_id = "export_audit", tag = "audit",
    params(
        ("format" = Option<String>, Query, description = "`jsonl`, which `aether audit verify` reads, or `ocsf`: events \
            of the class API Activity (6003), without proofs"),
        ("platform" = Option<bool>, Query, description = "The platform's own records; needs platform:admin"),
    ),
    responses(
        (status = 200, body = String, content_type = "application/x-ndjson"),
        (status = 400, body = Problem),
    )
)]
pub(crate) async fn export(State(app): State<App>, caller: Caller, mut params: Params) -> Result<Response, ApiError> {
    let ocsf = match params.text("format").as_deref() {
        None | Some("jsonl") => false,
        Some("ocsf") => true,
        Some(_) => {
            params.bad("format", "must be jsonl or ocsf");
            false
        }
    };
    let platform = params.flag("platform");
    params.done()?;
    let of = of(&caller, platform)?;
    // Who took the log with them is in it.
    let entry = AuditEntry {
        action: "export".to_owned(),
        resource: "audit".to_owned(),
        resource_id: None,
        result: "success".to_owned(),
        details: serde_json::json!({ "ocsf": ocsf, "platform": platform }),
        error: None,
    };
    app.store.audit(&caller.scope(), entry).await?;
    let head = app.store.audit_head(&of).await?;
    let export = Export {
        app,
        of,
        ocsf,
        start: head.clone(),
        next: Next::Begin,
        known: head,
        tail: None,
        unsealed: 0,
        waited: 0,
        digest: (0, None),
    };
    let stream = futures::stream::unfold(export, |mut export| async move {
        match export.chunk().await {
            Ok(Some(text)) => Some((Ok(Bytes::from(text)), export)),
            Ok(None) => None,
            Err(error) => {
                tracing::warn!(%error, "an export of the audit log ended early");
                export.next = Next::Done;
                Some((Err(error), export))
            }
        }
    });
    let mut response = Response::new(Body::from_stream(stream));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    Ok(response)
}

/// What comes next.
enum Next {
    Begin,
    Digests,
    /// Records after this position, and those that are not linked yet.
    Records(u64),
    End,
    Done,
}

struct Export {
    app: App,
    of: AuditOf,
    ocsf: bool,
    /// As it was at the start: where the chain begins.
    start: AuditHead,
    next: Next,
    /// The last linked record that was written.
    known: AuditHead,
    /// Of the records after it.
    tail: Option<Hash>,
    unsealed: u64,
    /// Times that it waited for records to be linked.
    waited: u32,
    /// The last digest that was written.
    digest: (u64, Option<Signature>),
}

impl Export {
    /// The next lines; none at the end.
    async fn chunk(&mut self) -> Result<Option<String>, StoreError> {
        loop {
            let text = match self.next {
                Next::Begin => self.begin(),
                Next::Digests => self.digests().await?,
                Next::Records(position) => self.records(position).await?,
                Next::End => self.end().await,
                Next::Done => return Ok(None),
            };
            if !text.is_empty() {
                return Ok(Some(text));
            }
        }
    }

    fn begin(&mut self) -> String {
        let (floor, floor_hash) = (self.start.floor, self.start.floor_hash);
        (self.known.position, self.known.hash) = (floor, floor_hash);
        if self.ocsf {
            self.next = Next::Records(floor);
            return String::new();
        }
        self.next = Next::Digests;
        let begin = Begin {
            version: 1,
            tenant: self.start.tenant.clone(),
            from: floor + 1,
            prev: floor_hash,
            time: self.app.clock.now(),
            key: self.app.audit.signer.public_key(),
        };
        text(&Line::Begin(begin))
    }

    async fn digests(&mut self) -> Result<String, StoreError> {
        let page = self.app.store.audit_digests(&self.of, self.digest.0, BATCH).await?;
        let mut out = String::new();
        for kept in &page {
            // Made since: they cover what may come after the end of this file.
            if kept.digest.number > self.start.digest_number {
                break;
            }
            self.digest = (kept.digest.number, Some(kept.digest.signature));
            out.push_str(&text(&Line::Digest(kept.digest.clone())));
        }
        if out.is_empty() || page.len() < BATCH as usize || self.digest.0 >= self.start.digest_number {
            self.next = Next::Records(self.start.floor);
        }
        Ok(out)
    }

    async fn records(&mut self, position: u64) -> Result<String, StoreError> {
        let page = self.app.store.audit_export(&self.of, position, BATCH).await?;
        if page.head.floor > position.max(self.start.floor) {
            // Retention has overtaken us: the file would have a hole.
            return Err(StoreError::CursorExpired);
        }
        let mut out = String::new();
        let mut next = position;
        for record in page.linked {
            if let (Some(position), Some(hash)) = (record.position, record.hash) {
                next = position;
                (self.known.position, self.known.hash) = (position, hash);
            }
            self.write(&mut out, record);
        }
        if page.more {
            if !out.is_empty() {
                self.next = Next::Records(next);
                return Ok(out);
            }
            self.waited += 1;
            if self.waited > WAITED {
                return Err(StoreError::CursorExpired);
            }
            tokio::time::sleep(LINKED_SOON).await;
            return Ok(out);
        }
        for record in page.unlinked {
            self.unsealed += 1;
            self.tail = Some(record.fields().hash(&self.tail.unwrap_or(self.known.hash), 0));
            self.write(&mut out, record);
        }
        self.next = Next::End;
        Ok(out)
    }

    fn write(&self, out: &mut String, record: Record) {
        if self.ocsf {
            out.push_str(&ocsf(&record).to_string());
            out.push('\n');
        } else {
            out.push_str(&text(&Line::Record(Box::new(record))));
        }
    }

    async fn end(&mut self) -> String {
        self.next = Next::Done;
        if self.ocsf {
            return String::new();
        }
        let digest = self.app.audit.signer.sign(Head {
            kind: DigestKind::Export,
            number: self.digest.0,
            tenant: self.start.tenant.clone(),
            from: self.start.floor + 1,
            to: self.known.position,
            unsealed: self.unsealed,
            head: self.known.hash,
            tail: self.tail,
            previous: self.digest.1,
            time: self.app.clock.now(),
        });
        let (anchor, anchored) = (self.app.audit.anchor.clone(), digest.clone());
        if let Err(error) = blocking(move || anchor.append_export(&anchored)).await {
            tracing::error!(%error, "the digest of an export was not anchored");
        }
        text(&Line::End(digest))
    }
}

fn text(line: &Line) -> String {
    line.text().unwrap_or_default()
}
