//! Images of a tenant on this node.

use super::{ANSWERS, Answers, DataService, check, error};
use crate::images::{Credentials, ImageError, ImageRecord, Progress, ProgressEvent, PullSpec};
use aether_core::Secret;
use aether_proto::node as wire;
use aether_proto::node::image_import_request::Message as Import;
use futures::StreamExt;
use std::future::Future;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status as Refusal, Streaming};

const FIRST: Duration = Duration::from_secs(10);
const MAX_SECRET: usize = 16 * 1024;
const MAX_PLATFORM: usize = 64;

type Sender = mpsc::Sender<Result<wire::ImageProgress, Refusal>>;

impl DataService {
    pub(super) fn pull_image(&self, request: wire::ImagePullRequest) -> Result<Answers<wire::ImageProgress>, Refusal> {
        let tenant = check::tenant(&request.tenant_id)?;
        if request.username.len() > MAX_SECRET || request.password.len() > MAX_SECRET {
            return Err(Refusal::invalid_argument(format!("credentials must be at most {MAX_SECRET} bytes each")));
        }
        if request.platform.len() > MAX_PLATFORM {
            return Err(Refusal::invalid_argument(format!("platform must be at most {MAX_PLATFORM} bytes")));
        }
        let mut spec = PullSpec::parse(check::reference(&request.reference)?).map_err(error::image)?;
        spec.insecure = request.insecure;
        spec.platform = Some(request.platform).filter(|p| !p.is_empty());
        spec.credentials = (!request.username.is_empty() || !request.password.is_empty())
            .then(|| Credentials { username: request.username, password: Secret::new(request.password) });
        let images = self.host.images.clone();
        let (sender, receiver) = mpsc::channel(ANSWERS);
        let progress = progress_to(&sender);
        tokio::spawn(until_done(sender, async move { images.pull(&tenant, spec, progress).await }));
        Ok(Box::pin(ReceiverStream::new(receiver)))
    }

    pub(super) async fn import_image(
        &self,
        mut requests: Streaming<wire::ImageImportRequest>,
    ) -> Result<Answers<wire::ImageProgress>, Refusal> {
        let first = tokio::time::timeout(FIRST, requests.message())
            .await
            .map_err(|_| Refusal::deadline_exceeded("no first message came"))??;
        let Some(Import::Begin(begin)) = first.and_then(|m| m.message) else {
            return Err(Refusal::invalid_argument("the first message must be begin"));
        };
        let tenant = check::tenant(&begin.tenant_id)?;
        let name = match begin.name.as_str() {
            "" => None,
            name => Some(crate::images::parse_reference(check::reference(name)?).map_err(error::image)?),
        };
        let images = self.host.images.clone();
        let (sender, receiver) = mpsc::channel(ANSWERS);
        let progress = progress_to(&sender);
        let chunks = requests.map(|message| match message.map(|m| m.message) {
            Ok(Some(Import::Chunk(bytes))) => Ok(bytes),
            Ok(_) => Err(std::io::Error::other("after begin only chunks may come")),
            Err(status) => Err(std::io::Error::other(status.message().to_owned())),
        });
        let archive = tokio_util::io::StreamReader::new(Box::pin(chunks));
        tokio::spawn(until_done(sender, async move { images.import(&tenant, name, archive, progress).await }));
        Ok(Box::pin(ReceiverStream::new(receiver)))
    }

    pub(super) async fn list_images(
        &self,
        request: wire::ImageListRequest,
    ) -> Result<wire::ImageListResponse, Refusal> {
        let tenant = check::tenant(&request.tenant_id)?;
        let records = self.host.images.list(&tenant).await.map_err(error::image)?;
        Ok(wire::ImageListResponse { images: records.into_iter().map(image).collect() })
    }

    pub(super) async fn get_image(&self, request: wire::ImageGetRequest) -> Result<wire::Image, Refusal> {
        let tenant = check::tenant(&request.tenant_id)?;
        let name = check::reference(&request.name_or_digest)?;
        let found = self.host.images.resolve(&tenant, name).await.map_err(error::image)?;
        found.map(image).ok_or_else(|| error::image(ImageError::NotFound(name.to_owned())))
    }

    pub(super) async fn remove_image(&self, request: wire::ImageGetRequest) -> Result<wire::Empty, Refusal> {
        let tenant = check::tenant(&request.tenant_id)?;
        let name = check::reference(&request.name_or_digest)?;
        self.host.images.remove(&tenant, name).await.map_err(error::image)?;
        let host = self.host.clone();
        tokio::spawn(async move { host.collect_images().await });
        Ok(wire::Empty {})
    }
}

impl DataService {
    pub(super) async fn tag_image(&self, request: wire::ImageTagRequest) -> Result<wire::Image, Refusal> {
        let tenant = check::tenant(&request.tenant_id)?;
        let source = check::reference(&request.source)?;
        let name = crate::images::parse_reference(check::reference(&request.name)?).map_err(error::image)?;
        self.host.images.tag(&tenant, source, name).await.map(image).map_err(error::image)
    }

    pub(super) async fn prune_images(
        &self,
        request: wire::ImagePruneRequest,
    ) -> Result<wire::ImagePruneResponse, Refusal> {
        let tenant = check::tenant(&request.tenant_id)?;
        let age = Duration::from_millis(request.age_ms);
        let pruned = self.host.images.prune(&tenant, age, request.dry_run).await.map_err(error::image)?;
        let freed_bytes = pruned.freed_bytes;
        Ok(wire::ImagePruneResponse { images: pruned.images.into_iter().map(image).collect(), freed_bytes })
    }
}

/// Steps that nobody reads in time are dropped: the next says more.
fn progress_to(sender: &Sender) -> Progress {
    // Weak: the last message comes from the work itself.
    let sender = sender.downgrade();
    Progress::new(move |event: ProgressEvent| {
        if let Some(sender) = sender.upgrade() {
            let _ = sender.try_send(Ok(wire::ImageProgress {
                phase: event.phase.as_str().to_owned(),
                done_bytes: event.done_bytes,
                total_bytes: event.total_bytes,
                ..Default::default()
            }));
        }
    })
}

/// The work ends when the caller goes away.
async fn until_done(sender: Sender, work: impl Future<Output = Result<ImageRecord, ImageError>>) {
    let last = tokio::select! {
        done = work => match done {
            Ok(record) => {
                let size = record.size_bytes;
                Ok(wire::ImageProgress {
                    phase: "done".to_owned(),
                    done_bytes: size,
                    total_bytes: size,
                    image: Some(image(record)),
                    ..Default::default()
                })
            }
            Err(e) => Err(error::image(e)),
        },
        () = sender.closed() => return,
    };
    let _ = sender.send(last).await;
}

fn image(record: ImageRecord) -> wire::Image {
    wire::Image {
        digest: record.digest,
        names: record.names,
        state: record.state,
        size_bytes: record.size_bytes,
        created_at_ms: record.created_at.unix_ms(),
        os: record.os,
        architecture: record.architecture,
        config_json: serde_json::to_vec(&record.config_json).unwrap_or_default().into(),
        layers: record.layers,
        agents: record.agents,
        converter: record.converter,
    }
}
