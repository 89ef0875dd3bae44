//! E2B's `process.Process`, mapped onto the exec table.

use super::access;
use super::exec::{check_argv, check_env, check_size, input_error, start_error};
use crate::process::exec::{About, Exec, Exit, Item, Reader};
use crate::process::table::Start;
use crate::{Guest, lock};
use aether_proto::guest::process::{
    self as wire, __buffa::oneof::process_event::Event, __buffa::oneof::process_event::data_event::Output,
    __buffa::oneof::process_input::Input, __buffa::oneof::process_selector::Selector,
    __buffa::oneof::stream_input_request::Event as InputEvent, Process as Rpc, process_event,
};
use connectrpc::{ConnectError, InboundStream, RequestContext, Response, ServiceRequest, ServiceResult, ServiceStream};
use futures::{Stream, StreamExt};
use nix::sys::signal::Signal;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

pub struct Service(pub Arc<Guest>);

/// How long a late `Connect` still meets the end.
const END_KEPT: Duration = Duration::from_secs(30);
const KEEP_ALIVE: Duration = Duration::from_secs(90);

impl Service {
    fn find(&self, selector: &wire::ProcessSelector) -> Result<Arc<Exec>, ConnectError> {
        let wanted = selector.selector.as_ref();
        let wanted = wanted.ok_or_else(|| ConnectError::invalid_argument("name a pid or a tag"))?;
        let fits = |exec: &Exec| match wanted {
            Selector::Pid(pid) => exec.pid == *pid && *pid != 0,
            Selector::Tag(tag) => exec.about.tag.as_ref() == Some(tag),
        };
        let recent = |exec: &Exec| exec.running() || exec.ended_within(END_KEPT);
        let mut found: Vec<_> = self.0.execs.all().into_iter().filter(|exec| fits(exec) && recent(exec)).collect();
        // A pid may have been taken again: the youngest has it.
        found.sort_by_key(|exec| (exec.running(), exec.started_at_ms));
        found.pop().ok_or_else(|| ConnectError::not_found("no such process"))
    }

    fn wanted(&self, context: &RequestContext, request: wire::StartRequest) -> Result<Start, ConnectError> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let process = request.process.into_option().ok_or_else(|| ConnectError::invalid_argument("no process"))?;
        let mut argv = vec![process.cmd];
        argv.extend(process.args);
        check_argv(&argv)?;
        check_env(process.envs.iter())?;
        let size = request.pty.as_option().map(|pty| {
            let size = pty.size.as_option().cloned().unwrap_or_default();
            // An absent size is the customary one.
            check_size(if size.cols == 0 { 80 } else { size.cols }, if size.rows == 0 { 24 } else { size.rows })
        });
        let user = access::basic_user(context.header(http::header::AUTHORIZATION));
        let account = access::account(&lock(&self.0.identity), user.as_deref());
        let account = account.map_err(|error| ConnectError::unauthenticated(error.to_string()))?;
        Ok(Start {
            id: format!("e2b-{}", NUMBER.fetch_add(1, Ordering::Relaxed)),
            about: About { argv, env: process.envs.into_iter().collect(), cwd: process.cwd, tag: request.tag },
            user: account.name,
            stdin: request.stdin.unwrap_or(true),
            terminal: size.transpose()?,
            timeout: context.time_remaining(),
            logged: false,
            starter_attaches: true,
            replace_ended: false,
        })
    }
}

fn selector(field: Option<&wire::ProcessSelector>) -> Result<&wire::ProcessSelector, ConnectError> {
    field.ok_or_else(|| ConnectError::invalid_argument("no process selected"))
}

/// `start`, then data, with a sign of life in silence, last `end`.
fn events(exec: Arc<Exec>, every: Duration) -> impl Stream<Item = wire::ProcessEvent> + Send {
    enum Step {
        Begin(Arc<Exec>),
        Running(Arc<Exec>, Reader),
        Over,
    }
    futures::stream::unfold(Step::Begin(exec), move |step| async move {
        let (event, next): (Option<Event>, Step) = match step {
            Step::Begin(exec) => {
                let start = process_event::StartEvent { pid: exec.pid, ..Default::default() };
                let reader = exec.attach(exec.span().0);
                (start.into(), Step::Running(exec, reader))
            }
            Step::Running(exec, mut reader) => {
                // A gap is passed over: E2B's protocol has no word for it.
                let item = tokio::time::timeout(every, async {
                    loop {
                        match reader.next().await {
                            Item::Gap { .. } => {}
                            other => return other,
                        }
                    }
                })
                .await;
                match item {
                    Err(_) => (process_event::KeepAlive::default().into(), Step::Running(exec, reader)),
                    Ok(Item::Output(chunk)) => {
                        let output = match (exec.tty, chunk.stream) {
                            (true, _) => Output::Pty(chunk.data),
                            (false, 2) => Output::Stderr(chunk.data),
                            (false, _) => Output::Stdout(chunk.data),
                        };
                        let data = process_event::DataEvent { output: Some(output), ..Default::default() };
                        (data.into(), Step::Running(exec, reader))
                    }
                    Ok(_) => (end(exec.exit()).into(), Step::Over),
                }
            }
            Step::Over => return None,
        };
        Some((wire::ProcessEvent { event, ..Default::default() }, next))
    })
}

/// In Go's words, which E2B's clients show.
fn end(exit: Option<Exit>) -> process_event::EndEvent {
    let exit = exit.unwrap_or(Exit { code: Some(-1), signal: None, timed_out: false, error: String::new() });
    let status = match (exit.code, exit.signal) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("signal: {}", go_signal(signal)),
        (None, None) => "unknown".to_owned(),
    };
    let error = if exit.error.is_empty() { status.clone() } else { exit.error };
    process_event::EndEvent {
        exit_code: exit.code.unwrap_or(-1),
        exited: exit.code.is_some(),
        error: (exit.code != Some(0)).then_some(error),
        status,
        ..Default::default()
    }
}

fn go_signal(number: i32) -> String {
    let name = match Signal::try_from(number) {
        Ok(Signal::SIGHUP) => "hangup",
        Ok(Signal::SIGINT) => "interrupt",
        Ok(Signal::SIGQUIT) => "quit",
        Ok(Signal::SIGILL) => "illegal instruction",
        Ok(Signal::SIGTRAP) => "trace/breakpoint trap",
        Ok(Signal::SIGABRT) => "aborted",
        Ok(Signal::SIGBUS) => "bus error",
        Ok(Signal::SIGFPE) => "floating point exception",
        Ok(Signal::SIGKILL) => "killed",
        Ok(Signal::SIGUSR1) => "user defined signal 1",
        Ok(Signal::SIGSEGV) => "segmentation fault",
        Ok(Signal::SIGUSR2) => "user defined signal 2",
        Ok(Signal::SIGPIPE) => "broken pipe",
        Ok(Signal::SIGALRM) => "alarm clock",
        Ok(Signal::SIGTERM) => "terminated",
        _ => return format!("signal {number}"),
    };
    name.to_owned()
}

pub(super) fn keep_alive(context: &RequestContext) -> Duration {
    let asked = context.header("keepalive-ping-interval").and_then(|value| value.to_str().ok()?.parse().ok());
    asked.filter(|seconds| (1..=3600).contains(seconds)).map_or(KEEP_ALIVE, Duration::from_secs)
}

async fn feed(exec: &Exec, input: Option<&wire::ProcessInput>) -> Result<(), ConnectError> {
    match input.and_then(|input| input.input.as_ref()) {
        Some(Input::Stdin(data)) if !exec.tty => exec.write(data, false).await.map_err(input_error),
        Some(Input::Pty(data)) if exec.tty => exec.write(data, false).await.map_err(input_error),
        Some(_) => Err(ConnectError::failed_precondition("the process has the other kind of input")),
        None => Err(ConnectError::invalid_argument("no input")),
    }
}

#[allow(refining_impl_trait, reason = "the answers are owned messages")]
impl Rpc for Service {
    async fn list(
        &self,
        _context: RequestContext,
        _request: ServiceRequest<'_, wire::ListRequest>,
    ) -> ServiceResult<wire::ListResponse> {
        let live = self.0.execs.all().into_iter().filter(|exec| exec.running());
        let processes = live.map(|exec| wire::ProcessInfo {
            config: Some(wire::ProcessConfig {
                cmd: exec.about.argv.first().cloned().unwrap_or_default(),
                args: exec.about.argv.iter().skip(1).cloned().collect(),
                envs: exec.about.env.clone().into_iter().collect(),
                cwd: exec.about.cwd.clone(),
                ..Default::default()
            })
            .into(),
            pid: exec.pid,
            tag: exec.about.tag.clone(),
            ..Default::default()
        });
        Response::ok(wire::ListResponse { processes: processes.collect(), ..Default::default() })
    }

    async fn connect(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, wire::ConnectRequest>,
    ) -> ServiceResult<ServiceStream<wire::ConnectResponse>> {
        let request = request.to_owned_message();
        let exec = self.find(selector(request.process.as_option())?)?;
        Response::stream_ok(
            events(exec, keep_alive(&context))
                .map(|event| Ok(wire::ConnectResponse { event: Some(event).into(), ..Default::default() })),
        )
    }

    async fn start(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, wire::StartRequest>,
    ) -> ServiceResult<ServiceStream<wire::StartResponse>> {
        if lock(&self.0.identity).answered.is_none() {
            return Err(ConnectError::unavailable("the sandbox has no identity yet"));
        }
        let start = self.wanted(&context, request.to_owned_message())?;
        let (exec, _) = self.0.execs.start(&self.0, start).map_err(start_error)?;
        if let Some(exit) = exec.exit().filter(|exit| !exit.error.is_empty()) {
            return Err(ConnectError::invalid_argument(exit.error));
        }
        Response::stream_ok(
            events(exec, keep_alive(&context))
                .map(|event| Ok(wire::StartResponse { event: Some(event).into(), ..Default::default() })),
        )
    }

    async fn update(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, wire::UpdateRequest>,
    ) -> ServiceResult<wire::UpdateResponse> {
        let request = request.to_owned_message();
        let exec = self.find(selector(request.process.as_option())?)?;
        if let Some(size) = request.pty.as_option().and_then(|pty| pty.size.as_option()) {
            let (cols, rows) = check_size(size.cols, size.rows)?;
            exec.resize(cols, rows).map_err(|error| ConnectError::failed_precondition(error.to_string()))?;
        }
        Response::ok(wire::UpdateResponse::default())
    }

    async fn stream_input(
        &self,
        _context: RequestContext,
        mut requests: InboundStream<wire::StreamInputRequest>,
    ) -> ServiceResult<wire::StreamInputResponse> {
        let mut exec = None;
        while let Some(request) = requests.next().await {
            match (request?.to_owned_message().event, &exec) {
                (Some(InputEvent::Start(start)), None) => {
                    exec = Some(self.find(selector(start.process.as_option())?)?);
                }
                (Some(InputEvent::Data(data)), Some(exec)) => feed(exec, data.input.as_option()).await?,
                (Some(InputEvent::Keepalive(_)), _) => {}
                _ => return Err(ConnectError::invalid_argument("the first event is start, and only the first")),
            }
        }
        Response::ok(wire::StreamInputResponse::default())
    }

    async fn send_input(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, wire::SendInputRequest>,
    ) -> ServiceResult<wire::SendInputResponse> {
        let request = request.to_owned_message();
        let exec = self.find(selector(request.process.as_option())?)?;
        feed(&exec, request.input.as_option()).await?;
        Response::ok(wire::SendInputResponse::default())
    }

    async fn send_signal(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, wire::SendSignalRequest>,
    ) -> ServiceResult<wire::SendSignalResponse> {
        let request = request.to_owned_message();
        let exec = self.find(selector(request.process.as_option())?)?;
        let signal = match request.signal.to_i32() {
            number @ (9 | 15) => number,
            other => return Err(ConnectError::unimplemented(format!("signal {other} is not served"))),
        };
        exec.signal(signal).map_err(|_| ConnectError::not_found("the process has ended"))?;
        Response::ok(wire::SendSignalResponse::default())
    }

    async fn close_stdin(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, wire::CloseStdinRequest>,
    ) -> ServiceResult<wire::CloseStdinResponse> {
        let request = request.to_owned_message();
        let exec = self.find(selector(request.process.as_option())?)?;
        if exec.tty {
            return Err(ConnectError::failed_precondition("a terminal has no end of input: send ctrl-D"));
        }
        exec.write(&[], true).await.map_err(input_error)?;
        Response::ok(wire::CloseStdinResponse::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_in_gos_words() {
        let exit = |code, signal| Some(Exit { code, signal, timed_out: false, error: String::new() });
        let fine = end(exit(Some(0), None));
        assert_eq!((fine.exit_code, fine.exited, fine.status.as_str(), fine.error), (0, true, "exit status 0", None));
        let failed = end(exit(Some(3), None));
        assert_eq!((failed.status.as_str(), failed.error.as_deref()), ("exit status 3", Some("exit status 3")));
        let killed = end(exit(None, Some(9)));
        assert_eq!((killed.exit_code, killed.exited, killed.status.as_str()), (-1, false, "signal: killed"));
        assert_eq!(end(exit(None, Some(40))).status, "signal: signal 40");
    }
}
