//! Execs: an intent in the store before, the end in the store after, and the
//! node's stream between. The work outlives the request that asked for it.
//!
//! An idempotency key names one exec for good: a repeat attaches to it and
//! never starts a second one; where the guest is gone the outcome is
//! `unknown`.

mod outliving;
mod replay;

use outliving::Outliving;
pub(crate) use replay::Past;

use crate::api::Caller;
use crate::app::{App, not_reachable};
use crate::dialer::DataClient;
use crate::inflight;
use crate::problem::{ApiError, clean};
use crate::telemetry;
use aether_core::api::{ExecRequest as Asked, ExecResult};
use aether_core::id::DEFAULT_CELL;
use aether_core::spec::{valid_user, validate_env};
use aether_core::{Code, ExecId, FieldError, Observed, TenantScope};
use aether_proto::node::exec_request::Message as ToNode;
use aether_proto::node::exec_response::Message as FromNode;
use aether_proto::node::{ExecAttach, ExecExited, ExecRequest, ExecResponse, ExecSignalRequest, ExecStart};
use aether_store::{AgentRow, ExecEnd, ExecIntent, Idempotency, Store};
use bytes::Bytes;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};
use tonic::Streaming;

pub(crate) const TIMEOUT_S: u64 = 30;
pub(crate) const TIMEOUT_MOST_S: u64 = 300;
/// A stream's time-out has no default and is only kept from overflowing.
const STREAM_TIMEOUT_MOST_S: u64 = 30 * 86_400;
/// Of each output stream in a POST's answer.
const OUTPUT_MOST: usize = 1 << 20;
/// Frames towards the node before the sender waits.
const TO_NODE: usize = 8;
/// Stdin is cut to this, far below the message limit.
const STDIN_CHUNK: usize = 64 * 1024;
const MAX_ARGS: usize = 512;
const MAX_ARG_BYTES: usize = 65_536;
const MAX_PATH: usize = 4096;
const MAX_SIZE: u32 = 10_000;

/// Everything wrong with a request, for the POST form or the stream.
pub(crate) fn check(asked: &Asked, stream: bool) -> Result<(), ApiError> {
    let mut errors = validate_env(&asked.env);
    let mut bad = |field: &str, message: String| errors.push(FieldError::new(field, message));
    if asked.command.first().is_none_or(String::is_empty) {
        bad("command", "must name a program".to_owned());
    }
    if asked.command.len() > MAX_ARGS || asked.command.iter().any(|a| a.len() > MAX_ARG_BYTES || a.contains('\0')) {
        bad("command", format!("at most {MAX_ARGS} entries of {MAX_ARG_BYTES} bytes, without NUL"));
    }
    let most = if stream { STREAM_TIMEOUT_MOST_S } else { TIMEOUT_MOST_S };
    if asked.timeout.is_some_and(|t| !(1..=most).contains(&t)) {
        bad("timeout", format!("must be 1 to {most} seconds"));
    }
    if asked.cwd.as_ref().is_some_and(|d| !d.starts_with('/') || d.len() > MAX_PATH || d.contains('\0')) {
        bad("cwd", format!("must be an absolute path of at most {MAX_PATH} bytes"));
    }
    if asked.user.as_ref().is_some_and(|u| !valid_user(u)) {
        bad("user", "must be a name or number, optionally :group".to_owned());
    }
    for (field, size) in [("cols", asked.cols), ("rows", asked.rows)] {
        if size.is_some_and(|n| !(1..=MAX_SIZE).contains(&n)) {
            bad(field, format!("must be 1 to {MAX_SIZE}"));
        }
    }
    if stream && asked.stdin.is_some() {
        bad("stdin", "comes in binary frames; set open_stdin".to_owned());
    }
    if !stream && (asked.tty || asked.open_stdin) {
        bad(if asked.tty { "tty" } else { "open_stdin" }, "needs the streaming form: GET with an upgrade".to_owned());
    }
    if errors.is_empty() { Ok(()) } else { Err(ApiError::validation(errors)) }
}

/// An exec whose intent is recorded, with its stream to the node.
pub(crate) struct Opened {
    agent: Arc<AgentRow>,
    /// Attached to, not started: its input is another request's.
    attached: bool,
    pub(crate) exec_id: ExecId,
    pub(crate) to_node: mpsc::Sender<ExecRequest>,
    pub(crate) from_node: Streaming<ExecResponse>,
    pub(crate) ledger: Ledger,
}

/// Writes the end of one exec, whoever comes to know it.
#[derive(Clone)]
pub(crate) struct Ledger {
    store: Store,
    scope: TenantScope,
    exec_id: ExecId,
    tenant: String,
    tasks: TaskTracker,
}

impl Ledger {
    fn new(app: &App, caller: &Caller, exec_id: &ExecId) -> Self {
        Self {
            store: app.store.clone(),
            scope: caller.scope(),
            exec_id: exec_id.clone(),
            tenant: caller.tenant().to_owned(),
            tasks: app.tasks.clone(),
        }
    }

    pub(crate) fn exited(&self, exited: &ExecExited) {
        self.write(ExecEnd {
            outcome: "exited".to_owned(),
            exit_code: exited.exit_code,
            exit_signal: exited.signal.as_deref().map(clean),
        });
    }

    pub(crate) fn unknown(&self) {
        self.write(ExecEnd { outcome: "unknown".to_owned(), exit_code: None, exit_signal: None });
    }

    /// The node refused, so nothing ran; or the way there broke, and nobody
    /// can tell.
    fn not_begun(&self, status: &tonic::Status) {
        use tonic::Code as T;
        let refused = matches!(
            status.code(),
            T::InvalidArgument
                | T::NotFound
                | T::FailedPrecondition
                | T::PermissionDenied
                | T::ResourceExhausted
                | T::Unimplemented
        );
        let outcome = if refused { "refused" } else { "unknown" };
        self.write(ExecEnd { outcome: outcome.to_owned(), exit_code: None, exit_signal: None });
    }

    fn instance(&self, agent: &AgentRow) -> String {
        format!("/v1/agents/{}/execs/{}", agent.id, self.exec_id)
    }

    /// Aside: nobody waits for the end of an exec to be on disk. What is lost
    /// in a crash reads as an intent without an end.
    fn write(&self, end: ExecEnd) {
        telemetry::operation("exec", &self.tenant, end.outcome == "exited");
        let ledger = self.clone();
        self.tasks.spawn(async move {
            if let Err(error) = ledger.store.finish_exec(&ledger.scope, &ledger.exec_id, end).await {
                tracing::warn!(exec = %ledger.exec_id, %error, "the end of an exec was not recorded");
            }
        });
    }
}

/// What a begin came to.
pub(crate) enum Begun {
    Running(Box<Opened>),
    Over(Past),
}

/// How an exec's stream begins.
pub(crate) enum Begin {
    Start { asked: Asked, idempotency: Option<Idempotency> },
    Attach { exec_id: ExecId, offset: u64 },
}

/// Records the intent and opens the stream. What the node refuses at once
/// (no such program is not among it: that is an exit) is an error. Of an agent
/// that does not run or is gone only a repeat learns anything.
pub(crate) async fn open(
    app: &App,
    caller: &Caller,
    found: Result<Arc<AgentRow>, ApiError>,
    begin: Begin,
) -> Result<Begun, ApiError> {
    let agent = match found {
        Ok(agent) if agent.observed == Observed::Running => agent,
        Ok(agent) => return no_guest(app, caller, begin, not_reachable(&agent)).await,
        Err(error) if error.problem.code == Code::NotFound => return no_guest(app, caller, begin, error).await,
        Err(error) => return Err(error),
    };
    let mut client = app.live_client(&agent).await?;
    match begin {
        Begin::Start { asked, idempotency } => start_new(app, caller, agent, &mut client, (asked, idempotency)).await,
        Begin::Attach { exec_id, offset } => {
            let ledger = Ledger::new(app, caller, &exec_id);
            match call(&mut client, attach(&agent, &exec_id, offset)).await {
                Ok(Call { to_node, from_node }) => {
                    let opened = Opened { agent, attached: true, exec_id, to_node, from_node, ledger };
                    Ok(Begun::Running(Box::new(opened)))
                }
                Err(status) => Err(ApiError::from(status).instance(ledger.instance(&agent))),
            }
        }
    }
}

/// The intent, and then the node's answer. The way to the node is made while
/// the intent goes to the disk; nothing is said along it before.
async fn start_new(
    app: &App,
    caller: &Caller,
    agent: Arc<AgentRow>,
    client: &mut DataClient,
    (asked, idempotency): (Asked, Option<Idempotency>),
) -> Result<Begun, ApiError> {
    let intent = ExecIntent {
        exec_id: ExecId::generate(DEFAULT_CELL, app.rng.as_ref()),
        command: asked.command.clone(),
        user: asked.user.clone(),
    };
    let (to_node, requests) = mpsc::channel(TO_NODE);
    let mut way = std::pin::pin!(client.exec(ReceiverStream::new(requests)));
    let scope = caller.scope();
    let recording = app.store.record_exec(&scope, &agent.id, intent, idempotency);
    let (recorded, early) = beside(recording, way.as_mut()).await;
    let recorded = recorded?;
    if recorded.replayed {
        return replay::begin(app, caller, Some(&agent), recorded).await;
    }
    let exec_id = recorded.exec_id;
    let ledger = Ledger::new(app, caller, &exec_id);
    // Not taken where the way has ended already, which `early` tells of.
    let _ = to_node.try_send(ExecRequest { message: Some(start(&agent, &exec_id, asked)) });
    let answer = match early {
        Some(answer) => answer,
        None => way.await,
    };
    match answer {
        Ok(answer) => {
            let from_node = answer.into_inner();
            let opened = Opened { agent, attached: false, exec_id, to_node, from_node, ledger };
            Ok(Begun::Running(Box::new(opened)))
        }
        Err(status) => {
            ledger.not_begun(&status);
            Err(ApiError::from(status).instance(ledger.instance(&agent)))
        }
    }
}

/// What an earlier request with the key came to, else `error`.
async fn no_guest(app: &App, caller: &Caller, begin: Begin, error: ApiError) -> Result<Begun, ApiError> {
    let Begin::Start { idempotency: Some(key), .. } = begin else { return Err(error) };
    match app.store.known_exec(&caller.scope(), &key).await? {
        Some(known) => replay::begin(app, caller, None, known).await,
        None => Err(error),
    }
}

/// A stream to the node that has begun.
struct Call {
    to_node: mpsc::Sender<ExecRequest>,
    from_node: Streaming<ExecResponse>,
}

async fn call(client: &mut DataClient, first: ToNode) -> Result<Call, tonic::Status> {
    let (to_node, requests) = mpsc::channel(TO_NODE);
    to_node.try_send(ExecRequest { message: Some(first) }).expect("a new channel has room");
    let answer = client.exec(ReceiverStream::new(requests)).await?;
    Ok(Call { to_node, from_node: answer.into_inner() })
}

/// Waits for `first`; what `second` comes to meanwhile is kept.
async fn beside<A, B>(first: impl Future<Output = A>, mut second: Pin<&mut impl Future<Output = B>>) -> (A, Option<B>) {
    let mut first = std::pin::pin!(first);
    let mut early = None;
    loop {
        tokio::select! {
            biased;
            first = &mut first => return (first, early),
            second = &mut second, if early.is_none() => early = Some(second),
        }
    }
}

fn attach(agent: &AgentRow, exec_id: &ExecId, offset: u64) -> ToNode {
    ToNode::Attach(ExecAttach { agent_id: agent.id.to_string(), exec_id: exec_id.to_string(), offset })
}

fn start(agent: &AgentRow, exec_id: &ExecId, asked: Asked) -> ToNode {
    ToNode::Start(ExecStart {
        agent_id: agent.id.to_string(),
        exec_id: exec_id.to_string(),
        command: asked.command,
        env: asked.env.into_iter().collect(),
        cwd: asked.cwd.unwrap_or_default(),
        user: asked.user.unwrap_or_default(),
        tty: asked.tty,
        stdin: asked.open_stdin || asked.stdin.is_some(),
        cols: asked.cols.unwrap_or_default(),
        rows: asked.rows.unwrap_or_default(),
        timeout_ms: asked.timeout.unwrap_or_default().saturating_mul(1000),
    })
}

/// Runs one exec to its end, for the POST form. It outlives its request: a
/// client that goes away kills nothing, and the end is recorded.
pub(crate) async fn run(
    app: &App,
    caller: Caller,
    found: Result<Arc<AgentRow>, ApiError>,
    mut asked: Asked,
    idempotency: Option<Idempotency>,
) -> Result<ExecResult, ApiError> {
    let timeout = Duration::from_secs(*asked.timeout.get_or_insert(TIMEOUT_S));
    let (task_app, margin) = (app.clone(), app.cfg().deadlines.exec_margin);
    let work = async move {
        let _place = inflight::exec(&task_app, &caller).await?;
        let stdin = asked.stdin.clone();
        let begin = Begin::Start { asked, idempotency };
        let opened = match open(&task_app, &caller, found, begin).await? {
            Begun::Running(opened) => *opened,
            Begun::Over(past) => return Ok(past.result()),
        };
        collect(&task_app, opened, stdin, timeout + margin).await
    };
    Outliving::new(work, &app.tasks).await
}

async fn collect(app: &App, opened: Opened, stdin: Option<String>, limit: Duration) -> Result<ExecResult, ApiError> {
    let Opened { agent, attached, exec_id, to_node, mut from_node, ledger } = opened;
    let instance = ledger.instance(&agent);
    // The request side stays open until the exec ends: closing it could be
    // read as going away.
    let _open = to_node.clone();
    // The first request feeds it: twice the same input would be a second effect.
    let feed = |text| AbortOnDropHandle::new(tokio::spawn(feed(to_node, text)));
    // Apart from the reading: a program that writes before it reads all of
    // its input must not wait for us.
    let _feeder = stdin.filter(|_| !attached).map(feed);
    let started = Instant::now();
    let mut output = Output::default();
    let end = tokio::time::timeout_at(started + limit, output.read(&mut from_node)).await;
    let exited = match end {
        Ok(End::Exited(exited)) => exited,
        Ok(End::Unknown(reason)) => {
            ledger.unknown();
            return Ok(output.result(&exec_id, None, started.elapsed(), Some(reason)));
        }
        Err(_) => {
            // The guest should have killed it at its time-out.
            kill(app, &agent, &exec_id).await;
            ledger.unknown();
            return Err(timed_out(limit, &instance));
        }
    };
    ledger.exited(&exited);
    if exited.timed_out {
        return Err(timed_out(Duration::from_millis(exited.duration_ms), &instance));
    }
    Ok(output.result(&exec_id, Some(exited), started.elapsed(), None))
}

async fn feed(to_node: mpsc::Sender<ExecRequest>, text: String) {
    let mut bytes = Bytes::from(text);
    while !bytes.is_empty() {
        let chunk = bytes.split_to(bytes.len().min(STDIN_CHUNK));
        if to_node.send(ExecRequest { message: Some(ToNode::Stdin(chunk)) }).await.is_err() {
            return;
        }
    }
    let _ = to_node.send(ExecRequest { message: Some(ToNode::CloseStdin(true)) }).await;
}

fn timed_out(after: Duration, instance: &str) -> ApiError {
    ApiError::timeout(
        format!("The command was killed after {:.1} s.", after.as_secs_f64()),
        "Give it a longer timeout (at most 300 s), or use the streaming form, which has none.",
    )
    .instance(instance)
}

async fn kill(app: &App, agent: &AgentRow, exec_id: &ExecId) {
    let request = ExecSignalRequest {
        agent_id: agent.id.to_string(),
        exec_id: exec_id.to_string(),
        signal: "SIGKILL".to_owned(),
    };
    let sent = async {
        let mut client: DataClient = app.client_for(agent).await.ok()?;
        client.exec_signal(request).await.ok()
    };
    let _ = tokio::time::timeout(app.cfg().deadlines.short, sent).await;
}

enum End {
    Exited(ExecExited),
    Unknown(String),
}

/// The first MiB of each stream.
#[derive(Default)]
struct Output {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    truncated: bool,
}

impl Output {
    async fn read(&mut self, from_node: &mut Streaming<ExecResponse>) -> End {
        loop {
            match from_node.message().await {
                Ok(Some(ExecResponse { message: Some(message) })) => match message {
                    FromNode::Started(_) => {}
                    FromNode::Output(output) => self.keep(output.stream, &output.data),
                    FromNode::Gap(_) => self.truncated = true,
                    FromNode::Exited(exited) => return End::Exited(exited),
                    FromNode::Unknown(reason) => return End::Unknown(clean(&reason)),
                },
                Ok(Some(ExecResponse { message: None })) => {}
                Ok(None) => return End::Unknown("the node ended the stream".to_owned()),
                Err(status) => {
                    tracing::debug!(%status, "an exec's stream broke");
                    return End::Unknown("the way to the sandbox broke".to_owned());
                }
            }
        }
    }

    fn keep(&mut self, stream: u32, data: &[u8]) {
        let kept = if stream == 2 { &mut self.stderr } else { &mut self.stdout };
        let room = OUTPUT_MOST - kept.len();
        self.truncated |= data.len() > room;
        kept.extend_from_slice(&data[..data.len().min(room)]);
    }

    fn result(
        self,
        exec_id: &ExecId,
        exited: Option<ExecExited>,
        took: Duration,
        reason: Option<String>,
    ) -> ExecResult {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        let known = exited.is_some();
        let exited = exited.unwrap_or_default();
        let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        ExecResult {
            exec_id: exec_id.to_string(),
            outcome: if known { "exited" } else { "unknown" }.to_owned(),
            exit_code: exited.exit_code,
            exit_signal: exited.signal.as_deref().map(clean),
            stdout: text(self.stdout),
            stderr: text(self.stderr),
            truncated: self.truncated,
            timed_out: exited.timed_out,
            duration_ms: if known { exited.duration_ms } else { took_ms },
            error: reason.or_else(|| (!exited.error.is_empty()).then(|| clean(&exited.error))),
        }
    }
}

#[cfg(test)]
mod fuzz;

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(asked: &Asked, stream: bool) -> Vec<String> {
        check(asked, stream)
            .map_or_else(|e| e.problem.errors.iter().map(|f| f.field.clone()).collect(), |()| Vec::new())
    }

    #[test]
    fn requests_are_checked() {
        let good = Asked { command: vec!["true".into()], ..Asked::default() };
        assert!(fields(&good, false).is_empty() && fields(&good, true).is_empty());
        assert_eq!(fields(&Asked::default(), false), ["command"]);
        assert_eq!(fields(&Asked { command: vec!["a\0".into()], ..Asked::default() }, false), ["command"]);
        assert_eq!(fields(&Asked { timeout: Some(301), ..good.clone() }, false), ["timeout"]);
        assert_eq!(fields(&Asked { timeout: Some(0), ..good.clone() }, true), ["timeout"]);
        assert!(fields(&Asked { timeout: Some(301), ..good.clone() }, true).is_empty());
        assert_eq!(fields(&Asked { cwd: Some("a".into()), ..good.clone() }, false), ["cwd"]);
        assert_eq!(fields(&Asked { user: Some("a b".into()), ..good.clone() }, false), ["user"]);
        assert_eq!(fields(&Asked { tty: true, ..good.clone() }, false), ["tty"]);
        assert_eq!(fields(&Asked { rows: Some(0), ..good.clone() }, true), ["rows"]);
        assert_eq!(fields(&Asked { stdin: Some(String::new()), ..good }, true), ["stdin"]);
    }

    #[test]
    fn each_stream_keeps_its_first_mebibyte() {
        let mut output = Output::default();
        output.keep(1, &vec![b'a'; OUTPUT_MOST - 1]);
        output.keep(2, b"err");
        assert!(!output.truncated);
        output.keep(1, b"bc");
        assert!(output.truncated && output.stdout.len() == OUTPUT_MOST && output.stderr == b"err");
    }
}
