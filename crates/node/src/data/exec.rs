//! Exec over the data service. The process lives in the guest, apart from
//! any stream: a stream that ends leaves it running, and another attaches by
//! id and offset.

use super::{ANSWERS, Answers, DataService, Up, check, error};
use crate::channel::{ChannelError, GuestClient, OutputKind, wire as guest};
use crate::failpoint::step;
use crate::runtime::Status;
use aether_proto::node as wire;
use aether_proto::node::exec_request::Message as Ask;
use aether_proto::node::exec_response::Message as Say;
use futures::StreamExt;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status as Refusal, Streaming};

/// For a caller's first message.
const FIRST: Duration = Duration::from_secs(10);
/// Pieces of standard input that wait for a process to read them.
const STDIN: usize = 16;
/// After the channel to a living guest broke.
const AGAIN: Duration = Duration::from_millis(200);
const MAX_READ: u32 = 1 << 20;

type Sender = mpsc::Sender<Result<wire::ExecResponse, Refusal>>;

/// One exec that is being followed.
struct Follow {
    client: GuestClient,
    status: watch::Receiver<Status>,
    exec_id: String,
    offset: u64,
    sender: Sender,
    /// When the guest was asked for it, if that was by this stream.
    asked: Option<Instant>,
}

enum Ended {
    /// The caller went away, or has all there is.
    Done,
    /// The guest went away with the outcome.
    Unknown(&'static str),
    /// The node ends; the guest does not.
    Restarting,
    Refused(Refusal),
}

impl DataService {
    pub(super) async fn exec_stream(
        &self,
        mut requests: Streaming<wire::ExecRequest>,
    ) -> Result<Answers<wire::ExecResponse>, Refusal> {
        let first = tokio::time::timeout(FIRST, requests.message())
            .await
            .map_err(|_| Refusal::deadline_exceeded("no first message came"))??;
        let (sender, receiver) = mpsc::channel(ANSWERS);
        let (up, state, offset, asked) = match first.and_then(|m| m.message) {
            Some(Ask::Start(start)) => {
                let up = self.up(&start.agent_id)?;
                let request = start_request(start)?;
                let asked = Instant::now();
                let started = step!("exec.start", up.client.exec_start(request.clone())).await;
                (up, started.map_err(error::channel)?, 0, Some(asked))
            }
            Some(Ask::Attach(attach)) => {
                check::exec_id(&attach.exec_id)?;
                let (_, status) = self.known(&attach.agent_id)?;
                // Not: without a VMM. One that is being adopted has none yet.
                if !status.borrow().observed.on_node() {
                    let _ = sender.try_send(Ok(answer(Say::Unknown("the sandbox is gone".to_owned()))));
                    return Ok(Box::pin(ReceiverStream::new(receiver)));
                }
                let up = self.up(&attach.agent_id)?;
                let mut state = up.client.exec_get(&attach.exec_id).await.map_err(error::channel)?;
                state.existed = true;
                (up, state, attach.offset, None)
            }
            _ => return Err(Refusal::invalid_argument("the first message must be start or attach")),
        };
        let Up { client, status, agent } = up;
        tracing::debug!(%agent, exec = %state.exec_id, existed = state.existed, "exec");
        let started = wire::ExecStarted { exec_id: state.exec_id.clone(), pid: state.pid, attached: state.existed };
        let _ = sender.send(Ok(answer(Say::Started(started)))).await;
        let input = tokio::spawn(pump_input(requests, client.clone(), state.exec_id.clone(), sender.clone()));
        let input = tokio_util::task::AbortOnDropHandle::new(input);
        let follow = Follow { client, status, exec_id: state.exec_id, offset, sender, asked };
        let shutdown = self.host.shutdown.clone();
        tokio::spawn(async move {
            follow.run_to_end(shutdown).await;
            drop(input);
        });
        Ok(Box::pin(ReceiverStream::new(receiver)))
    }

    pub(super) async fn execs(&self, request: wire::ExecListRequest) -> Result<wire::ExecListResponse, Refusal> {
        let up = self.up(&request.agent_id)?;
        let execs = up.client.exec_list().await.map_err(error::channel)?;
        Ok(wire::ExecListResponse { execs: execs.into_iter().map(info).collect() })
    }

    pub(super) async fn exec_state(&self, request: wire::ExecGetRequest) -> Result<wire::ExecGetResponse, Refusal> {
        check::exec_id(&request.exec_id)?;
        let up = self.up(&request.agent_id)?;
        if request.max_bytes == 0 {
            let state = up.client.exec_get(&request.exec_id).await.map_err(error::channel)?;
            let next_offset = request.offset;
            return Ok(wire::ExecGetResponse { info: Some(info(state)), next_offset, ..Default::default() });
        }
        let max = request.max_bytes.min(MAX_READ);
        let read = up.client.exec_read(&request.exec_id, request.offset, max).await.map_err(error::channel)?;
        Ok(wire::ExecGetResponse {
            info: read.state.into_option().map(info),
            output: read.output.into_iter().map(output).collect(),
            next_offset: read.next_offset,
            truncated: read.gap,
        })
    }

    pub(super) async fn signal_exec(&self, request: wire::ExecSignalRequest) -> Result<wire::Empty, Refusal> {
        check::exec_id(&request.exec_id)?;
        let signal = check::signal(&request.signal)?;
        let up = self.up(&request.agent_id)?;
        up.client.exec_signal(&request.exec_id, signal).await.map_err(error::channel)?;
        Ok(wire::Empty {})
    }
}

impl Follow {
    async fn run_to_end(mut self, shutdown: tokio_util::sync::CancellationToken) {
        let last = match self.follow(&shutdown).await {
            Ended::Done => return,
            Ended::Unknown(why) => Ok(answer(Say::Unknown(why.to_owned()))),
            Ended::Restarting => Err(Refusal::unavailable("the node restarts: attach again")),
            Ended::Refused(refusal) => Err(refusal),
        };
        let _ = self.sender.send(last).await;
    }

    async fn follow(&mut self, shutdown: &tokio_util::sync::CancellationToken) -> Ended {
        let mut status = self.status.clone();
        loop {
            let mut events = std::pin::pin!(self.client.exec_output(&self.exec_id, self.offset));
            let broken = loop {
                let event = tokio::select! {
                    event = events.next() => event,
                    () = sandbox_gone(&mut status) => {
                        return if shutdown.is_cancelled() { Ended::Restarting } else { Ended::Unknown("the sandbox is gone") };
                    }
                    () = shutdown.cancelled() => return Ended::Restarting,
                    () = self.sender.closed() => return Ended::Done,
                };
                match event {
                    Some(Ok(event)) => {
                        let (message, last) = match self.take(event) {
                            Some(taken) => taken,
                            None => continue,
                        };
                        let ended = last.then(Instant::now);
                        let sent = self.sender.send(Ok(answer(message))).await;
                        if let Some(ended) = ended {
                            self.tell(ended);
                        }
                        if last || sent.is_err() {
                            return Ended::Done;
                        }
                    }
                    Some(Err(e)) => break e,
                    None => break ChannelError::Gone,
                }
            };
            match broken {
                ChannelError::Gone | ChannelError::Timeout => {
                    tracing::debug!(exec = %self.exec_id, "the channel broke; again");
                    tokio::time::sleep(AGAIN).await;
                }
                other => return Ended::Refused(error::channel(other)),
            }
        }
    }

    /// What an exec takes without the way to the node and back.
    fn tell(&self, ended: Instant) {
        let Some(asked) = self.asked else { return };
        let channel_us = u64::try_from(ended.duration_since(asked).as_micros()).unwrap_or(u64::MAX);
        tracing::debug!(exec = %self.exec_id, channel_us, "exec ended");
    }

    /// The message that an event makes, and whether it is the last.
    fn take(&mut self, event: guest::OutputEvent) -> Option<(Say, bool)> {
        match event.event? {
            OutputKind::Output(piece) => {
                self.offset = piece.offset.saturating_add(piece.data.len() as u64);
                Some((Say::Output(output(*piece)), false))
            }
            OutputKind::Gap(gap) => {
                self.offset = gap.to;
                Some((Say::Gap(wire::ExecGap { from: gap.from, to: gap.to }), false))
            }
            OutputKind::Exited(state) => {
                let duration_ms = state.duration_ms;
                let exit = state.exit.into_option().unwrap_or_default();
                let exited = wire::ExecExited {
                    exit_code: exit.exit_code,
                    signal: exit.signal,
                    timed_out: exit.timed_out,
                    duration_ms,
                    error: exit.error,
                };
                Some((Say::Exited(exited), true))
            }
        }
    }
}

/// Returns when the VMM is gone for good.
async fn sandbox_gone(status: &mut watch::Receiver<Status>) {
    // An error means that its task has ended, which is the same.
    let _ = status.wait_for(|s| s.vmm.is_none()).await;
}

/// What the caller sends after its first message. Input waits for the
/// process; the rest does not wait for the input.
async fn pump_input(mut requests: Streaming<wire::ExecRequest>, client: GuestClient, exec_id: String, sender: Sender) {
    let (stdin, mut pieces) = mpsc::channel::<Option<bytes::Bytes>>(STDIN);
    let (writer, id) = (client.clone(), exec_id.clone());
    let writing = async move {
        while let Some(piece) = pieces.recv().await {
            let (data, eof) = piece.map_or((Vec::new(), true), |bytes| (bytes.to_vec(), false));
            if let Err(e) = writer.exec_input(&id, data, eof).await {
                // The process has ended or closed its input; its exit follows.
                return tracing::debug!(exec = %id, error = %e, "input not taken");
            }
        }
    };
    let reading = async {
        while let Ok(Some(request)) = requests.message().await {
            if let Err(refusal) = take_input(request, &client, &exec_id, &stdin).await {
                let _ = sender.send(Err(refusal)).await;
                return;
            }
        }
        drop(stdin);
    };
    tokio::join!(writing, reading);
}

async fn take_input(
    request: wire::ExecRequest,
    client: &GuestClient,
    exec_id: &str,
    stdin: &mpsc::Sender<Option<bytes::Bytes>>,
) -> Result<(), Refusal> {
    match request.message {
        Some(Ask::Stdin(data)) if data.len() > check::MAX_STDIN => {
            return Err(Refusal::invalid_argument(format!(
                "stdin must come in pieces of at most {}",
                check::MAX_STDIN
            )));
        }
        // Nobody listens: the process took no more input.
        Some(Ask::Stdin(data)) => drop(stdin.send(Some(data)).await),
        Some(Ask::CloseStdin(_)) => drop(stdin.send(None).await),
        Some(Ask::Resize(size)) => {
            let (cols, rows) = check::window(size.cols, size.rows)?;
            ignore_ended(client.exec_resize(exec_id, cols, rows).await)?;
        }
        Some(Ask::Signal(text)) => {
            let signal = check::signal(&text)?;
            ignore_ended(client.exec_signal(exec_id, signal).await)?;
        }
        Some(Ask::Start(_) | Ask::Attach(_)) | None => {
            return Err(Refusal::invalid_argument("only the first message may be start or attach"));
        }
    }
    Ok(())
}

/// A process that has just ended cannot be signalled or resized: its exit is
/// already on the way.
fn ignore_ended(done: Result<(), ChannelError>) -> Result<(), Refusal> {
    match done.map_err(error::channel) {
        Err(refusal)
            if matches!(
                refusal.code(),
                Code::InvalidArgument | Code::PermissionDenied | Code::Internal | Code::ResourceExhausted
            ) =>
        {
            Err(refusal)
        }
        _ => Ok(()),
    }
}

fn start_request(start: wire::ExecStart) -> Result<guest::StartRequest, Refusal> {
    check::exec_id(&start.exec_id)?;
    check::command(&start.command)?;
    check::env(start.env.iter())?;
    if !start.cwd.is_empty() {
        check::path("cwd", &start.cwd)?;
    }
    check::user(&start.user)?;
    let (cols, rows) = check::window(start.cols, start.rows)?;
    let terminal = start.tty.then(|| guest::Terminal { cols, rows, ..Default::default() });
    Ok(guest::StartRequest {
        exec_id: start.exec_id,
        argv: start.command,
        env: start.env.into_iter().collect(),
        cwd: start.cwd,
        user: start.user,
        stdin: start.stdin,
        tty: terminal.into(),
        timeout_ms: start.timeout_ms,
        ..Default::default()
    })
}

fn answer(message: Say) -> wire::ExecResponse {
    wire::ExecResponse { message: Some(message) }
}

fn output(piece: guest::Output) -> wire::ExecOutput {
    wire::ExecOutput { stream: piece.stream, data: piece.data.into(), offset: piece.offset }
}

fn info(state: guest::ExecState) -> wire::ExecInfo {
    let exit = state.exit.into_option().unwrap_or_default();
    wire::ExecInfo {
        exec_id: state.exec_id,
        command: state.argv,
        pid: state.pid,
        state: if state.running { "running" } else { "exited" }.to_owned(),
        exit_code: exit.exit_code,
        signal: exit.signal,
        started_at_ms: state.started_at_ms,
        duration_ms: state.duration_ms,
        tty: state.tty,
        timed_out: exit.timed_out,
    }
}
