//! The data service: what servers ask of a node about its agents. Checks the
//! input, finds the guest, translates, and maps the errors; nothing more.
//!
//! - `exec`: streams, state, signals
//! - `logs`, `files`: from the guest; logs of an ended agent from the node
//! - `images`: of a tenant on this node
//! - `port`: TCP connections into a sandbox
//!
//! Bodies stream with back-pressure; none is held whole. Not here: who may
//! ask. The control plane has resolved and authorised before it calls, and
//! only it holds a certificate (or the pipe).

mod check;
mod error;
mod exec;
mod files;
mod images;
mod logs;
mod port;
mod telemetry;

use crate::channel::GuestClient;
use crate::runtime::{Host, Status, Supervisor};
use aether_core::{AgentId, Observed};
use aether_proto::node as wire;
use aether_proto::node::node_data_server::NodeData;
use futures::Stream;
use std::pin::Pin;
use std::sync::Arc;
use tokio::sync::watch;
use tonic::{Request, Response, Status as Refusal, Streaming};

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Refusal>> + Send>>;

/// Answers that wait for a slow reader, per stream.
const ANSWERS: usize = 8;
/// gRPC messages are at most 4 MiB; bytes travel in pieces of at most this.
const PIECE: usize = 256 * 1024;

#[derive(Clone)]
pub(crate) struct DataService {
    host: Arc<Host>,
    supervisor: Arc<Supervisor>,
}

/// An agent whose guest can be spoken to.
struct Up {
    agent: AgentId,
    client: GuestClient,
    status: watch::Receiver<Status>,
}

impl DataService {
    pub(crate) fn new(host: Arc<Host>, supervisor: Arc<Supervisor>) -> Self {
        Self { host, supervisor }
    }

    fn known(&self, agent: &str) -> Result<(AgentId, watch::Receiver<Status>), Refusal> {
        let agent = check::agent(agent)?;
        match self.supervisor.watch(&agent) {
            Some(status) => Ok((agent, status)),
            None => Err(Refusal::not_found(format!("agent {agent} is not on this node"))),
        }
    }

    fn up(&self, agent: &str) -> Result<Up, Refusal> {
        let (agent, status) = self.known(agent)?;
        let now = status.borrow().clone();
        match now.client {
            Some(client) => Ok(Up { agent, client, status }),
            // After a restart of the node, until its guest has answered.
            None if now.observed == Observed::Running => {
                Err(Refusal::unavailable("the node is taking the sandbox over: try again"))
            }
            None => Err(Refusal::failed_precondition(format!("the agent is {}, not running", now.observed))),
        }
    }
}

#[tonic::async_trait]
impl NodeData for DataService {
    type ExecStream = Answers<wire::ExecResponse>;
    type LogsStream = Answers<wire::LogLine>;
    type FileReadStream = Answers<wire::FileReadResponse>;
    type ImagePullStream = Answers<wire::ImageProgress>;
    type ImageImportStream = Answers<wire::ImageProgress>;
    type PortStream = Answers<wire::PortPiece>;

    async fn exec(&self, r: Request<Streaming<wire::ExecRequest>>) -> Result<Response<Self::ExecStream>, Refusal> {
        self.exec_stream(r.into_inner()).await.map(Response::new)
    }
    async fn exec_list(&self, r: Request<wire::ExecListRequest>) -> Result<Response<wire::ExecListResponse>, Refusal> {
        self.execs(r.into_inner()).await.map(Response::new)
    }
    async fn exec_get(&self, r: Request<wire::ExecGetRequest>) -> Result<Response<wire::ExecGetResponse>, Refusal> {
        self.exec_state(r.into_inner()).await.map(Response::new)
    }
    async fn exec_signal(&self, r: Request<wire::ExecSignalRequest>) -> Result<Response<wire::Empty>, Refusal> {
        self.signal_exec(r.into_inner()).await.map(Response::new)
    }
    async fn logs(&self, r: Request<wire::LogsRequest>) -> Result<Response<Self::LogsStream>, Refusal> {
        self.log_lines(r.into_inner()).map(Response::new)
    }
    async fn file_read(&self, r: Request<wire::FileReadRequest>) -> Result<Response<Self::FileReadStream>, Refusal> {
        self.read_file(r.into_inner()).await.map(Response::new)
    }
    async fn file_write(
        &self,
        r: Request<Streaming<wire::FileWriteRequest>>,
    ) -> Result<Response<wire::FileEntry>, Refusal> {
        self.write_file(r.into_inner()).await.map(Response::new)
    }
    async fn file_stat(&self, r: Request<wire::FilePathRequest>) -> Result<Response<wire::FileEntry>, Refusal> {
        self.stat_file(r.into_inner()).await.map(Response::new)
    }
    async fn file_list(&self, r: Request<wire::FileListRequest>) -> Result<Response<wire::FileListResponse>, Refusal> {
        self.list_files(r.into_inner()).await.map(Response::new)
    }
    async fn file_make_dir(&self, r: Request<wire::FilePathRequest>) -> Result<Response<wire::FileEntry>, Refusal> {
        self.make_dir(r.into_inner()).await.map(Response::new)
    }
    async fn file_remove(&self, r: Request<wire::FilePathRequest>) -> Result<Response<wire::Empty>, Refusal> {
        self.remove_file(r.into_inner()).await.map(Response::new)
    }
    async fn file_move(&self, r: Request<wire::FileMoveRequest>) -> Result<Response<wire::FileEntry>, Refusal> {
        self.move_file(r.into_inner()).await.map(Response::new)
    }
    async fn health(&self, r: Request<wire::AgentRequest>) -> Result<Response<wire::HealthResponse>, Refusal> {
        self.agent_health(&r.into_inner().agent_id).await.map(Response::new)
    }
    async fn stats(&self, r: Request<wire::AgentRequest>) -> Result<Response<wire::StatsResponse>, Refusal> {
        self.agent_stats(&r.into_inner().agent_id).await.map(Response::new)
    }
    async fn image_pull(&self, r: Request<wire::ImagePullRequest>) -> Result<Response<Self::ImagePullStream>, Refusal> {
        self.pull_image(r.into_inner()).map(Response::new)
    }
    async fn image_import(
        &self,
        r: Request<Streaming<wire::ImageImportRequest>>,
    ) -> Result<Response<Self::ImageImportStream>, Refusal> {
        self.import_image(r.into_inner()).await.map(Response::new)
    }
    async fn image_list(
        &self,
        r: Request<wire::ImageListRequest>,
    ) -> Result<Response<wire::ImageListResponse>, Refusal> {
        self.list_images(r.into_inner()).await.map(Response::new)
    }
    async fn image_get(&self, r: Request<wire::ImageGetRequest>) -> Result<Response<wire::Image>, Refusal> {
        self.get_image(r.into_inner()).await.map(Response::new)
    }
    async fn image_remove(&self, r: Request<wire::ImageGetRequest>) -> Result<Response<wire::Empty>, Refusal> {
        self.remove_image(r.into_inner()).await.map(Response::new)
    }
    async fn image_tag(&self, r: Request<wire::ImageTagRequest>) -> Result<Response<wire::Image>, Refusal> {
        self.tag_image(r.into_inner()).await.map(Response::new)
    }
    async fn image_prune(
        &self,
        r: Request<wire::ImagePruneRequest>,
    ) -> Result<Response<wire::ImagePruneResponse>, Refusal> {
        self.prune_images(r.into_inner()).await.map(Response::new)
    }
    async fn disk_usage(
        &self,
        r: Request<wire::DiskUsageRequest>,
    ) -> Result<Response<wire::DiskUsageResponse>, Refusal> {
        self.tenant_disks(&r.into_inner().tenant_id).await.map(Response::new)
    }
    async fn port(&self, r: Request<Streaming<wire::PortRequest>>) -> Result<Response<Self::PortStream>, Refusal> {
        self.port_stream(r.into_inner()).await.map(Response::new)
    }
}
