//! A scripted node: the peer at the protocol boundary of the control plane.
//! It speaks the real node.proto over the in-memory pipe and runs nothing.

use aether_proto::node::exec_request::Message as In;
use aether_proto::node::exec_response::Message as Out;
use aether_proto::node::file_read_response::Message as Read;
use aether_proto::node::file_write_request::Message as Write;
use aether_proto::node::image_import_request::Message as Import;
use aether_proto::node::node_control_client::NodeControlClient;
use aether_proto::node::node_data_server::{NodeData, NodeDataServer};
use aether_proto::node::node_message::Message as ToControl;
use aether_proto::node::server_message::Message as FromControl;
use aether_proto::node::*;
use aether_proto::pipe::{Connector, pipe};
use bytes::Bytes;
use futures::Stream;
use sha2::Digest;
use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{Notify, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

pub(crate) const NODE_ID: &str = "nodc0aaaaaaaaaaaaaaaa";

#[derive(Clone, Default)]
pub(crate) struct FakeNode(Arc<State>);

#[derive(Default)]
struct State {
    /// Streams of execs that were begun.
    ways: AtomicU32,
    /// How often each exec was really started.
    runs: Mutex<BTreeMap<String, u32>>,
    /// On which agent.
    homes: Mutex<BTreeMap<String, String>>,
    /// What each exec was given on standard input, by whom ever.
    stdin: Mutex<BTreeMap<String, Vec<u8>>>,
    /// What each `say` has said, once it has.
    said: Mutex<BTreeMap<String, Option<Bytes>>>,
    signals: Mutex<BTreeMap<String, Arc<Signal>>>,
    files: Mutex<BTreeMap<String, Vec<u8>>>,
    written: Mutex<BTreeMap<String, u64>>,
    env_seen: Mutex<BTreeMap<String, BTreeMap<String, String>>>,
    log: Notify,
    /// By tenant and name.
    images: Mutex<BTreeMap<(String, String), Image>>,
    desired_sets: Mutex<Vec<(bool, Vec<String>)>>,
}

type Signal = (Notify, Mutex<String>);
type Reply<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn reply<T: Send + 'static>(receiver: mpsc::Receiver<Result<T, Status>>) -> Reply<T> {
    Box::pin(ReceiverStream::new(receiver))
}

impl FakeNode {
    /// Serves the data side; the connector is for the control plane.
    pub(crate) fn serve(&self, stop: CancellationToken) -> Connector {
        let (connector, incoming) = pipe();
        let service = NodeDataServer::new(self.clone());
        tokio::spawn(async move {
            let server = tonic::transport::Server::builder().add_service(service);
            let _ = server.serve_with_incoming_shutdown(incoming, stop.cancelled_owned()).await;
        });
        connector
    }

    /// One session with the control plane: says hello, then does at once
    /// whatever it is told.
    pub(crate) async fn session(self, control: Connector, epoch: u64, stop: CancellationToken) -> Result<(), Status> {
        let (sender, messages) = mpsc::channel(64);
        let say = |message| {
            let sender = sender.clone();
            async move { sender.send(NodeMessage { message: Some(message) }).await.expect("session open") }
        };
        say(ToControl::Hello(NodeHello {
            node_id: NODE_ID.into(),
            version: "test".into(),
            protocol: 1,
            node_epoch: epoch,
            capacity: Some(NodeCapacity { cpu_millicores: 64_000, memory_mb: 8192, disk_mb: 400_000 }),
            engine: "qemu".into(),
            isolation: "vm-emulated".into(),
            ..NodeHello::default()
        }))
        .await;
        let mut client = NodeControlClient::new(control.channel());
        let mut from_control = client.session(ReceiverStream::new(messages)).await?.into_inner();
        let mut beat = tokio::time::interval(Duration::from_millis(200));
        let mut sequence = 0;
        loop {
            let message = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                _ = beat.tick() => { say(ToControl::Heartbeat(NodeHeartbeat::default())).await; continue; }
                message = from_control.message() => message?,
            };
            let Some(message) = message else { return Ok(()) };
            let Some(FromControl::Desired(set)) = message.message else { continue };
            let ids = set.agents.iter().map(|a| a.agent_id.clone()).collect();
            self.0.desired_sets.lock().expect("lock").push((set.full, ids));
            say(ToControl::Ack(NodeAck { revision: set.revision })).await;
            for agent in set.agents {
                for report in self.obey(&agent) {
                    sequence += 1;
                    say(ToControl::Report(NodeReport { agents: vec![AgentReport { sequence, ..report }] })).await;
                }
            }
        }
    }

    fn obey(&self, agent: &AgentAssignment) -> Vec<AgentReport> {
        let spec: serde_json::Value = serde_json::from_slice(&agent.spec_json).expect("spec");
        let image = spec["image"].as_str().expect("image").to_owned();
        self.0.env_seen.lock().expect("lock").insert(agent.agent_id.clone(), agent.env.clone().into_iter().collect());
        let of = |observed: &str| AgentReport {
            agent_id: agent.agent_id.clone(),
            generation: agent.generation,
            observed: observed.into(),
            isolation: "vm-emulated".into(),
            engine: "qemu".into(),
            started_at_ms: (observed == "running").then_some(1_800_000_000_000),
            ..AgentReport::default()
        };
        match (agent.desired.as_str(), image.as_str()) {
            ("running", "never") => vec![of("creating")],
            ("running", "broken") => vec![
                of("creating"),
                AgentReport { error_code: "BOOT_FAILED".into(), error_message: "no\nboot".into(), ..of("failed") },
            ],
            ("running", "liar") => vec![
                of("creating"),
                of("running"),
                AgentReport { unhealthy: true, unhealthy_reason: "it\nlies".into(), ..of("running") },
            ],
            ("running", _) => vec![of("creating"), of("running")],
            ("stopped", _) => vec![of("stopping"), AgentReport { exit_code: Some(0), ..of("stopped") }],
            _ => vec![of("gone")],
        }
    }

    pub(crate) fn ways(&self) -> u32 {
        self.0.ways.load(Ordering::SeqCst)
    }

    pub(crate) fn runs(&self, exec_id: &str) -> u32 {
        self.0.runs.lock().expect("lock").get(exec_id).copied().unwrap_or(0)
    }

    pub(crate) fn all_runs(&self) -> u32 {
        self.0.runs.lock().expect("lock").values().sum()
    }

    pub(crate) fn stdin(&self, exec_id: &str) -> Vec<u8> {
        self.0.stdin.lock().expect("lock").get(exec_id).cloned().unwrap_or_default()
    }

    fn is_home(&self, agent_id: &str, exec_id: &str) -> bool {
        self.0.homes.lock().expect("lock").get(exec_id).is_some_and(|home| home == agent_id)
    }

    /// What an attached client sees of an exec that was started before.
    async fn attached(self, attach: ExecAttach, out: mpsc::Sender<Result<ExecResponse, Status>>) {
        let send = |message| out.send(Ok(ExecResponse { message: Some(message) }));
        let started = ExecStarted { exec_id: attach.exec_id.clone(), pid: 7, attached: true };
        let _ = send(Out::Started(started)).await;
        let said = self.0.said.lock().expect("lock").contains_key(&attach.exec_id);
        let (data, code) = if said {
            (self.what_it_said(&attach.exec_id).await, 3)
        } else {
            // Time for input that should not come.
            tokio::time::sleep(Duration::from_millis(50)).await;
            (Bytes::from_static(b"again\n"), 0)
        };
        let _ = send(Out::Output(ExecOutput { stream: 1, data, offset: attach.offset })).await;
        let _ = send(Out::Exited(ExecExited { exit_code: Some(code), ..ExecExited::default() })).await;
    }

    /// Its whole output, when it has ended.
    async fn what_it_said(&self, exec_id: &str) -> Bytes {
        loop {
            if let Some(Some(text)) = self.0.said.lock().expect("lock").get(exec_id) {
                return text.clone();
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    fn heard(&self, exec_id: &str, message: &In) {
        if let In::Stdin(data) = message {
            self.0.stdin.lock().expect("lock").entry(exec_id.to_owned()).or_default().extend_from_slice(data);
        }
    }

    pub(crate) fn written(&self, path: &str) -> Option<u64> {
        self.0.written.lock().expect("lock").get(path).copied()
    }

    pub(crate) fn env_of(&self, agent: &str) -> Option<BTreeMap<String, String>> {
        self.0.env_seen.lock().expect("lock").get(agent).cloned()
    }

    pub(crate) fn log_line(&self) {
        self.0.log.notify_one();
    }

    pub(crate) fn desired_sets(&self) -> Vec<(bool, Vec<String>)> {
        self.0.desired_sets.lock().expect("lock").clone()
    }

    fn signal_of(&self, exec_id: &str) -> Arc<Signal> {
        self.0.signals.lock().expect("lock").entry(exec_id.to_owned()).or_default().clone()
    }

    /// The scripted programs.
    async fn program(
        self,
        start: ExecStart,
        mut input: mpsc::Receiver<In>,
        out: mpsc::Sender<Result<ExecResponse, Status>>,
    ) {
        let send = |message| {
            let out = out.clone();
            async move { out.send(Ok(ExecResponse { message: Some(message) })).await.is_ok() }
        };
        let output =
            |stream, data: &[u8]| Out::Output(ExecOutput { stream, data: Bytes::copy_from_slice(data), offset: 0 });
        let exited = |code| ExecExited { exit_code: Some(code), duration_ms: 1, ..ExecExited::default() };
        send(Out::Started(ExecStarted { exec_id: start.exec_id.clone(), pid: 7, attached: false })).await;
        let args: Vec<&str> = start.command.iter().map(String::as_str).collect();
        let end = match args.as_slice() {
            ["echo", text] => {
                send(output(1, format!("{text}\n").as_bytes())).await;
                exited(0)
            }
            // Takes a moment, and is remembered for who attaches.
            ["say", text] => {
                tokio::time::sleep(Duration::from_millis(u64::from(start.exec_id.as_bytes()[6] % 8))).await;
                let text = Bytes::from(format!("{text} {}\n", start.exec_id));
                self.0.said.lock().expect("lock").insert(start.exec_id.clone(), Some(text.clone()));
                send(output(1, &text)).await;
                exited(3)
            }
            ["warn", text] => {
                send(output(2, text.as_bytes())).await;
                exited(0)
            }
            ["exit", code] => exited(code.parse().expect("code")),
            ["flood", n] => {
                let mut left: usize = n.parse().expect("number");
                while left > 0 {
                    let piece = left.min(32 * 1024);
                    if !send(output(1, &vec![b'x'; piece])).await {
                        return;
                    }
                    left -= piece;
                }
                exited(0)
            }
            ["vanish"] => {
                send(Out::Unknown("the guest died".into())).await;
                return;
            }
            ["cat"] => {
                loop {
                    match input.recv().await {
                        Some(In::Stdin(data)) => {
                            let _ = send(output(1, &data)).await;
                        }
                        Some(In::Resize(size)) => {
                            let _ = send(output(1, format!("{}x{}", size.cols, size.rows).as_bytes())).await;
                        }
                        Some(In::Signal(name)) => {
                            send(Out::Exited(ExecExited { signal: Some(name), ..ExecExited::default() })).await;
                            return;
                        }
                        Some(In::CloseStdin(_)) | None => break,
                        Some(_) => {}
                    }
                }
                exited(0)
            }
            ["sleep"] => {
                let signal = self.signal_of(&start.exec_id);
                let limit = if start.timeout_ms == 0 { 600_000 } else { start.timeout_ms };
                tokio::select! {
                    () = signal.0.notified() => {
                        let name = signal.1.lock().expect("lock").clone();
                        ExecExited { signal: Some(name), ..ExecExited::default() }
                    }
                    () = tokio::time::sleep(Duration::from_millis(limit)) => {
                        ExecExited { timed_out: true, signal: Some("SIGKILL".into()), duration_ms: limit, ..ExecExited::default() }
                    }
                }
            }
            other => ExecExited {
                exit_code: Some(127),
                error: format!("no such program: {other:?}"),
                ..ExecExited::default()
            },
        };
        send(Out::Exited(end)).await;
    }
}

fn entry(path: &str, size: u64, kind: &str) -> FileEntry {
    FileEntry {
        name: path.rsplit('/').next().unwrap_or_default().into(),
        path: path.into(),
        kind: kind.into(),
        size,
        mode: 0o644,
        owner: "user".into(),
        group: "user".into(),
        modified_ms: 1,
        ..FileEntry::default()
    }
}

pub(crate) const BIG: u64 = 256 << 20;

impl State {
    fn stat(&self, path: &str) -> Result<FileEntry, Status> {
        match path {
            "/big" => Ok(entry(path, BIG, "file")),
            "/dir" | "/home/user" => Ok(entry(path, 0, "directory")),
            _ => match self.files.lock().expect("lock").get(path) {
                Some(bytes) => Ok(entry(path, bytes.len() as u64, "file")),
                None => Err(Status::not_found(format!("no such file: {path}"))),
            },
        }
    }
}

#[tonic::async_trait]
impl NodeData for FakeNode {
    type ExecStream = Reply<ExecResponse>;
    async fn exec(&self, request: Request<Streaming<ExecRequest>>) -> Result<Response<Self::ExecStream>, Status> {
        let mut input = request.into_inner();
        self.0.ways.fetch_add(1, Ordering::SeqCst);
        let first = input.message().await?.and_then(|m| m.message);
        let (out, answers) = mpsc::channel(4);
        match first {
            // As a server that dies between the intent and the start.
            Some(In::Start(start)) if start.command == ["never-arrives"] => std::future::pending().await,
            Some(In::Start(start)) if start.command == ["cut"] => return Err(Status::unavailable("the wire broke")),
            Some(In::Start(start)) if start.command == ["refuse"] => {
                return Err(Status::failed_precondition("not in this state"));
            }
            Some(In::Start(start)) => {
                if start.command[0] == "say" {
                    self.0.said.lock().expect("lock").insert(start.exec_id.clone(), None);
                }
                self.0.homes.lock().expect("lock").insert(start.exec_id.clone(), start.agent_id.clone());
                *self.0.runs.lock().expect("lock").entry(start.exec_id.clone()).or_default() += 1;
                let (to_program, program_input) = mpsc::channel(4);
                let (node, exec_id) = (self.clone(), start.exec_id.clone());
                tokio::spawn(async move {
                    while let Ok(Some(message)) = input.message().await {
                        if let Some(message) = &message.message {
                            node.heard(&exec_id, message);
                        }
                        if let Some(message) = message.message
                            && to_program.send(message).await.is_err()
                        {
                            break;
                        }
                    }
                    // Standard input is left open for who attaches later.
                    to_program.closed().await;
                });
                tokio::spawn(self.clone().program(start, program_input, out));
            }
            Some(In::Attach(attach)) if self.is_home(&attach.agent_id, &attach.exec_id) => {
                let (node, exec_id) = (self.clone(), attach.exec_id.clone());
                tokio::spawn(async move {
                    while let Ok(Some(message)) = input.message().await {
                        if let Some(message) = &message.message {
                            node.heard(&exec_id, message);
                        }
                    }
                });
                tokio::spawn(self.clone().attached(attach, out));
            }
            _ => return Err(Status::not_found("no such exec")),
        }
        Ok(Response::new(reply(answers)))
    }

    async fn exec_list(&self, request: Request<ExecListRequest>) -> Result<Response<ExecListResponse>, Status> {
        let agent = request.into_inner().agent_id;
        let homes = self.0.homes.lock().expect("lock");
        let at_home = homes.iter().filter(|(_, home)| **home == agent);
        let execs =
            at_home.map(|(id, _)| ExecInfo { exec_id: id.clone(), state: "exited".into(), ..ExecInfo::default() });
        Ok(Response::new(ExecListResponse { execs: execs.collect() }))
    }

    async fn exec_get(&self, request: Request<ExecGetRequest>) -> Result<Response<ExecGetResponse>, Status> {
        let request = request.into_inner();
        if !self.is_home(&request.agent_id, &request.exec_id) {
            return Err(Status::not_found("no such exec"));
        }
        let output = ExecOutput { stream: 2, data: Bytes::from_static(b"late"), offset: request.offset };
        Ok(Response::new(ExecGetResponse {
            info: Some(ExecInfo { exec_id: request.exec_id, state: "running".into(), ..ExecInfo::default() }),
            output: vec![output],
            next_offset: request.offset + 4,
            truncated: false,
        }))
    }

    async fn exec_signal(&self, request: Request<ExecSignalRequest>) -> Result<Response<Empty>, Status> {
        let request = request.into_inner();
        if !self.is_home(&request.agent_id, &request.exec_id) {
            return Err(Status::not_found("no such exec"));
        }
        let signal = self.signal_of(&request.exec_id);
        *signal.1.lock().expect("lock") = request.signal;
        signal.0.notify_one();
        Ok(Response::new(Empty {}))
    }

    type LogsStream = Reply<LogLine>;
    async fn logs(&self, request: Request<LogsRequest>) -> Result<Response<Self::LogsStream>, Status> {
        let request = request.into_inner();
        let (out, lines) = mpsc::channel(4);
        let node = self.clone();
        tokio::spawn(async move {
            let line = |n: u64| LogLine { time_ms: n, stream: 1, line: format!("line {n}").into() };
            for n in 0..u64::from(request.tail.min(3)) {
                if out.send(Ok(line(n))).await.is_err() {
                    return;
                }
            }
            for n in 3.. {
                if !request.follow {
                    return;
                }
                node.0.log.notified().await;
                if out.send(Ok(line(n))).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(reply(lines)))
    }

    type FileReadStream = Reply<FileReadResponse>;
    async fn file_read(&self, request: Request<FileReadRequest>) -> Result<Response<Self::FileReadStream>, Status> {
        let request = request.into_inner();
        let stat = self.0.stat(&request.path)?;
        let total = stat.size;
        let content = self.0.files.lock().expect("lock").get(&request.path).cloned();
        let (out, chunks) = mpsc::channel(2);
        tokio::spawn(async move {
            let head = FileReadHead { entry: Some(stat), total_size: total, archive: request.archive };
            let _ = out.send(Ok(FileReadResponse { message: Some(Read::Head(head)) })).await;
            let chunk = |bytes: Bytes| Ok(FileReadResponse { message: Some(Read::Chunk(bytes)) });
            if request.archive {
                let _ = out.send(chunk(Bytes::from_static(b"tar bytes"))).await;
            } else if let Some(content) = content {
                let end = request.range_end.map_or(content.len(), |e| e as usize + 1);
                let part = content[request.range_start as usize..end].to_vec();
                let _ = out.send(chunk(part.into())).await;
            } else {
                let block = Bytes::from(vec![b'z'; 64 * 1024]);
                for _ in 0..total / block.len() as u64 {
                    if out.send(chunk(block.clone())).await.is_err() {
                        return;
                    }
                }
            }
        });
        Ok(Response::new(reply(chunks)))
    }

    async fn file_write(&self, request: Request<Streaming<FileWriteRequest>>) -> Result<Response<FileEntry>, Status> {
        let mut input = request.into_inner();
        let Some(Write::Head(head)) = input.message().await?.and_then(|m| m.message) else {
            return Err(Status::invalid_argument("no head"));
        };
        if head.path == "/full" {
            return Err(Status::resource_exhausted("No space left on device"));
        }
        let (mut total, mut kept) = (0u64, Vec::new());
        while let Some(message) = input.message().await? {
            if let Some(Write::Chunk(chunk)) = message.message {
                total += chunk.len() as u64;
                if kept.len() < 1 << 20 {
                    kept.extend_from_slice(&chunk);
                }
            }
        }
        self.0.written.lock().expect("lock").insert(head.path.clone(), total);
        if total < 1 << 20 {
            self.0.files.lock().expect("lock").insert(head.path.clone(), kept);
        }
        Ok(Response::new(entry(&head.path, total, if head.archive { "directory" } else { "file" })))
    }

    async fn file_stat(&self, request: Request<FilePathRequest>) -> Result<Response<FileEntry>, Status> {
        self.0.stat(&request.into_inner().path).map(Response::new)
    }

    async fn file_list(&self, _: Request<FileListRequest>) -> Result<Response<FileListResponse>, Status> {
        Ok(Response::new(FileListResponse { entries: vec![entry("/dir/a", 1, "file")] }))
    }

    async fn file_make_dir(&self, _: Request<FilePathRequest>) -> Result<Response<FileEntry>, Status> {
        Err(Status::unimplemented("not asked for"))
    }

    async fn file_remove(&self, request: Request<FilePathRequest>) -> Result<Response<Empty>, Status> {
        let path = request.into_inner().path;
        match self.0.files.lock().expect("lock").remove(&path) {
            Some(_) => Ok(Response::new(Empty {})),
            None => Err(Status::not_found("no such file")),
        }
    }

    async fn file_move(&self, _: Request<FileMoveRequest>) -> Result<Response<FileEntry>, Status> {
        Err(Status::unimplemented("not asked for"))
    }

    async fn health(&self, _: Request<AgentRequest>) -> Result<Response<HealthResponse>, Status> {
        Ok(Response::new(HealthResponse {
            healthy: true,
            message: "well".into(),
            checked_at_ms: 1,
            probe: "healthy".into(),
            probe_failures: 0,
        }))
    }

    async fn stats(&self, _: Request<AgentRequest>) -> Result<Response<StatsResponse>, Status> {
        Ok(Response::new(StatsResponse { processes: 3, sampled_at_ms: 5, ..StatsResponse::default() }))
    }

    type ImagePullStream = Reply<ImageProgress>;
    async fn image_pull(&self, request: Request<ImagePullRequest>) -> Result<Response<Self::ImagePullStream>, Status> {
        let request = request.into_inner();
        if request.reference.contains("absent") {
            return Err(Status::not_found("no such image in the registry"));
        }
        if request.reference.contains("internal") {
            let mut status = Status::permission_denied("10.0.0.1 is an internal address");
            status.metadata_mut().insert("aether-code", "FORBIDDEN".parse().expect("ascii"));
            status.metadata_mut().insert("aether-remedy", "images.allow_hosts opens it.".parse().expect("ascii"));
            return Err(status);
        }
        let (out, steps) = mpsc::channel(4);
        let step = |phase: &str| ImageProgress { phase: phase.into(), ..ImageProgress::default() };
        out.send(Ok(step("download"))).await.expect("room");
        if request.reference.contains("cut") {
            out.send(Err(Status::unavailable("registry 10.1.2.3 is down"))).await.expect("room");
        } else {
            let image = Some(self.image(&request.tenant_id, &request.reference));
            out.send(Ok(ImageProgress { image, ..step("done") })).await.expect("room");
        }
        Ok(Response::new(reply(steps)))
    }

    type ImageImportStream = Reply<ImageProgress>;
    async fn image_import(
        &self,
        request: Request<Streaming<ImageImportRequest>>,
    ) -> Result<Response<Self::ImageImportStream>, Status> {
        let mut input = request.into_inner();
        let Some(Import::Begin(begin)) = input.message().await?.and_then(|m| m.message) else {
            return Err(Status::invalid_argument("no begin"));
        };
        let (out, steps) = mpsc::channel(4);
        let node = self.clone();
        tokio::spawn(async move {
            let mut total = 0;
            loop {
                match input.message().await {
                    Ok(Some(m)) => {
                        if let Some(Import::Chunk(chunk)) = m.message {
                            total += chunk.len() as u64;
                            let step = ImageProgress {
                                phase: "download".into(),
                                done_bytes: total,
                                ..ImageProgress::default()
                            };
                            let _ = out.send(Ok(step)).await;
                        }
                    }
                    Ok(None) => break,
                    Err(_) => return,
                }
            }
            let image = node.image(&begin.tenant_id, &begin.name);
            let done = ImageProgress {
                phase: "done".into(),
                done_bytes: total,
                image: Some(image),
                ..ImageProgress::default()
            };
            let _ = out.send(Ok(done)).await;
        });
        Ok(Response::new(reply(steps)))
    }

    async fn image_list(&self, request: Request<ImageListRequest>) -> Result<Response<ImageListResponse>, Status> {
        let images = self.images_of(&request.into_inner().tenant_id);
        Ok(Response::new(ImageListResponse { images: images.into_iter().map(|(_, image)| image).collect() }))
    }

    async fn image_get(&self, request: Request<ImageGetRequest>) -> Result<Response<Image>, Status> {
        let request = request.into_inner();
        self.found(&request.tenant_id, &request.name_or_digest).map(Response::new)
    }

    async fn image_remove(&self, request: Request<ImageGetRequest>) -> Result<Response<Empty>, Status> {
        let ImageGetRequest { tenant_id, name_or_digest: name } = request.into_inner();
        if name == "busy" {
            return Err(Status::failed_precondition("an agent uses the image"));
        }
        self.found(&tenant_id, &name)?;
        let mut images = self.0.images.lock().expect("lock");
        images.retain(|(tenant, known), image| *tenant != tenant_id || (*known != name && image.digest != name));
        Ok(Response::new(Empty {}))
    }

    async fn image_tag(&self, request: Request<ImageTagRequest>) -> Result<Response<Image>, Status> {
        let request = request.into_inner();
        let image = self.found(&request.tenant_id, &request.source)?;
        let image = Image { names: vec![request.source, request.name.clone()], ..image };
        self.0.images.lock().expect("lock").insert((request.tenant_id, request.name), image.clone());
        Ok(Response::new(image))
    }

    async fn image_prune(&self, request: Request<ImagePruneRequest>) -> Result<Response<ImagePruneResponse>, Status> {
        let request = request.into_inner();
        if request.age_ms > 0 {
            return Ok(Response::new(ImagePruneResponse::default()));
        }
        let unused = self.images_of(&request.tenant_id).into_iter().map(|(_, image)| image).collect();
        if !request.dry_run {
            self.0.images.lock().expect("lock").retain(|(tenant, _), _| *tenant != request.tenant_id);
        }
        Ok(Response::new(ImagePruneResponse { images: unused, freed_bytes: 1000 }))
    }

    async fn disk_usage(&self, _: Request<DiskUsageRequest>) -> Result<Response<DiskUsageResponse>, Status> {
        // An agent of another tenant, or none, among them: the control plane looks.
        let known = self.0.env_seen.lock().expect("lock").keys().cloned().collect::<Vec<_>>();
        let disk = |agent_id: String| AgentDisk { agent_id, bytes: 1000 };
        let stranger = "agtc0zzzzzzzzzzzzzzzz".to_owned();
        Ok(Response::new(DiskUsageResponse { disks: known.into_iter().chain([stranger]).map(disk).collect() }))
    }

    type PortStream = Reply<PortPiece>;
    /// Port 7 says again what it is told, until it is told no more; port 9
    /// breaks after the first piece; nothing listens elsewhere.
    async fn port(&self, request: Request<Streaming<PortRequest>>) -> Result<Response<Self::PortStream>, Status> {
        let mut input = request.into_inner();
        let Some(port_request::Message::Open(open)) = input.message().await?.and_then(|m| m.message) else {
            return Err(Status::invalid_argument("no open"));
        };
        if !matches!(open.port, 7 | 9) {
            return Err(Status::failed_precondition("nothing listens"));
        }
        let (out, pieces) = mpsc::channel(4);
        tokio::spawn(async move {
            let _ = out.send(Ok(PortPiece::default())).await;
            while let Ok(Some(message)) = input.message().await {
                let Some(port_request::Message::Data(data)) = message.message else { return };
                let piece = if open.port == 9 { Err(Status::unavailable("cut")) } else { Ok(PortPiece { data }) };
                if out.send(piece).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(reply(pieces)))
    }
}

impl FakeNode {
    /// A new image of the tenant's, with one digest for all that it has.
    fn image(&self, tenant: &str, name: &str) -> Image {
        let digest = match tenant {
            "default" => "a".repeat(64),
            other => hex::encode(sha2::Sha256::digest(other)),
        };
        let image = Image {
            digest: format!("sha256:{digest}"),
            names: vec![name.to_owned()],
            state: "ready".into(),
            config_json: Bytes::from_static(b"{\"Env\":[\"A=b\"]}"),
            ..Image::default()
        };
        self.0.images.lock().expect("lock").insert((tenant.to_owned(), name.to_owned()), image.clone());
        image
    }

    fn images_of(&self, tenant: &str) -> Vec<(String, Image)> {
        let images = self.0.images.lock().expect("lock");
        images.iter().filter(|((of, _), _)| of == tenant).map(|((_, name), i)| (name.clone(), i.clone())).collect()
    }

    /// By name or digest.
    fn found(&self, tenant: &str, name: &str) -> Result<Image, Status> {
        let of_it = |(known, image): &(String, Image)| known == name || image.digest == name;
        let found = self.images_of(tenant).into_iter().find(of_it);
        found.map(|(_, image)| image).ok_or_else(|| Status::not_found("no such image"))
    }
}
