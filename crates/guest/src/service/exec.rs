//! `aether.guest.v1.Exec`: processes by id, with offsets and all signals.

use crate::process::exec::{About, Exec, Exit, InputError, Item};
use crate::process::table::Start;
use crate::process::{StartError, signal_name};
use crate::{Guest, lock};
use aether_proto::guest::aether::guest::v1::{self as wire, Exec as Rpc};
use connectrpc::{ConnectError, RequestContext, Response, ServiceRequest, ServiceResult, ServiceStream};
use std::sync::Arc;
use std::time::Duration;

pub struct Service(pub Arc<Guest>);

const ID_LIMIT: usize = 64;
/// As execve's own limit for the whole is about 2 MiB.
const ARGV_LIMIT: usize = 1024 * 1024;
const TERMINAL_LIMIT: u32 = 4096;
/// Answered by one read.
const READ_LIMIT: usize = 1024 * 1024;

pub fn check_argv(argv: &[String]) -> Result<(), ConnectError> {
    if argv.first().is_none_or(String::is_empty) {
        return Err(ConnectError::invalid_argument("argv must name a program"));
    }
    if argv.iter().map(|word| word.len() + 1).sum::<usize>() > ARGV_LIMIT {
        return Err(ConnectError::invalid_argument(format!("argv is longer than {ARGV_LIMIT} bytes")));
    }
    if argv.iter().any(|word| word.contains('\0')) {
        return Err(ConnectError::invalid_argument("argv holds a NUL"));
    }
    Ok(())
}

pub fn check_env<'a>(env: impl Iterator<Item = (&'a String, &'a String)>) -> Result<(), ConnectError> {
    for (key, value) in env {
        if key.is_empty() || key.contains(['=', '\0']) || value.contains('\0') {
            return Err(ConnectError::invalid_argument("env holds a bad key or a NUL"));
        }
    }
    Ok(())
}

fn check_id(id: &str) -> Result<(), ConnectError> {
    let fine = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if id.is_empty()
        || id.len() > ID_LIMIT
        || !id.bytes().all(fine)
        || matches!(id, crate::process::table::MAIN | crate::probe::ID)
    {
        return Err(ConnectError::invalid_argument("exec_id must be 1 to 64 letters, digits, '-', '_' or '.'"));
    }
    Ok(())
}

pub fn check_size(cols: u32, rows: u32) -> Result<(u16, u16), ConnectError> {
    let range = 1..=TERMINAL_LIMIT;
    match (u16::try_from(cols), u16::try_from(rows)) {
        (Ok(narrow), Ok(low)) if range.contains(&cols) && range.contains(&rows) => Ok((narrow, low)),
        _ => Err(ConnectError::invalid_argument(format!("a terminal has 1 to {TERMINAL_LIMIT} columns and rows"))),
    }
}

pub fn start_error(error: StartError) -> ConnectError {
    match error {
        StartError::Invalid(message) | StartError::Program { message, .. } => ConnectError::invalid_argument(message),
        StartError::Full(message) => ConnectError::resource_exhausted(message),
    }
}

pub fn input_error(error: InputError) -> ConnectError {
    match error {
        InputError::Ended => ConnectError::failed_precondition("the process has ended"),
        InputError::NoInput => ConnectError::failed_precondition("the process has no open input"),
        InputError::Io(message) => ConnectError::failed_precondition(format!("cannot write: {message}")),
    }
}

fn exit_message(exit: Exit) -> wire::Exit {
    wire::Exit {
        exit_code: exit.code,
        signal: exit.signal.map(signal_name),
        timed_out: exit.timed_out,
        error: exit.error,
        ..Default::default()
    }
}

fn state(exec: &Exec, existed: bool) -> wire::ExecState {
    let exit = exec.exit();
    let (output_start, output_end) = exec.span();
    wire::ExecState {
        exec_id: exec.id.clone(),
        pid: exec.pid,
        running: exit.is_none(),
        exit: exit.map(exit_message).into(),
        started_at_ms: exec.started_at_ms,
        duration_ms: u64::try_from(exec.duration().as_millis()).unwrap_or(u64::MAX),
        argv: exec.about.argv.clone(),
        tty: exec.tty,
        output_start,
        output_end,
        existed,
        ..Default::default()
    }
}

fn output(chunk: crate::process::ring::Chunk) -> wire::Output {
    wire::Output { stream: chunk.stream, data: chunk.data, offset: chunk.offset, ..Default::default() }
}

impl Service {
    fn find(&self, id: &str) -> Result<Arc<Exec>, ConnectError> {
        self.0.execs.get(id).ok_or_else(|| ConnectError::not_found("no exec of that id, or its outcome is forgotten"))
    }

    fn wanted(&self, request: wire::StartRequest) -> Result<Start, ConnectError> {
        check_id(&request.exec_id)?;
        check_argv(&request.argv)?;
        check_env(request.env.iter())?;
        let terminal = request.tty.as_option().map(|tty| check_size(tty.cols, tty.rows)).transpose()?;
        let user = if request.user.is_empty() { lock(&self.0.identity).image_user.clone() } else { request.user };
        Ok(Start {
            id: request.exec_id,
            about: About {
                argv: request.argv,
                env: request.env.into_iter().collect(),
                cwd: Some(request.cwd).filter(|cwd| !cwd.is_empty()),
                tag: None,
            },
            user,
            stdin: request.stdin,
            terminal,
            timeout: (request.timeout_ms > 0).then(|| Duration::from_millis(request.timeout_ms)),
            logged: false,
            starter_attaches: true,
            replace_ended: false,
        })
    }
}

#[allow(refining_impl_trait, reason = "the answers are owned messages")]
impl Rpc for Service {
    async fn start(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, wire::StartRequest>,
    ) -> ServiceResult<wire::ExecState> {
        // Before it no program runs: neither clock nor entropy are right.
        if lock(&self.0.identity).answered.is_none() {
            return Err(ConnectError::failed_precondition("the sandbox has no identity yet"));
        }
        let start = self.wanted(request.to_owned_message())?;
        let (exec, existed) = self.0.execs.start(&self.0, start).map_err(start_error)?;
        Response::ok(state(&exec, existed))
    }

    async fn output(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, wire::OutputRequest>,
    ) -> ServiceResult<ServiceStream<wire::OutputEvent>> {
        let exec = self.find(request.exec_id)?;
        let (_, end) = exec.span();
        if request.offset > end {
            return Err(ConnectError::out_of_range(format!("offset is above {end}")));
        }
        let reader = exec.attach(request.offset);
        Response::stream_ok(futures::stream::unfold(Some((exec, reader)), |running| async move {
            let (exec, mut reader) = running?;
            let event = match reader.next().await {
                Item::Output(chunk) => output(chunk).into(),
                Item::Gap { from, to } => wire::Gap { from, to, ..Default::default() }.into(),
                Item::End => {
                    let last = wire::OutputEvent { event: state(&exec, true).into(), ..Default::default() };
                    return Some((Ok(last), None));
                }
            };
            let event = wire::OutputEvent { event, ..Default::default() };
            Some((Ok(event), Some((exec, reader))))
        }))
    }

    async fn read(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, wire::ReadRequest>,
    ) -> ServiceResult<wire::ReadResponse> {
        let exec = self.find(request.exec_id)?;
        let limit = match request.max_bytes as usize {
            0 => READ_LIMIT,
            asked => asked.min(READ_LIMIT),
        };
        // The state first: what is appended after it is only more.
        let state = state(&exec, true);
        let mut answer = wire::ReadResponse {
            gap: request.offset < state.output_start,
            next_offset: request.offset.max(state.output_start),
            state: state.into(),
            ..Default::default()
        };
        let mut room = limit;
        while room > 0
            && let Some(chunk) = exec.peek(answer.next_offset, room)
        {
            room -= chunk.data.len();
            answer.next_offset = chunk.offset + chunk.data.len() as u64;
            answer.output.push(output(chunk));
        }
        Response::ok(answer)
    }

    async fn input(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, wire::InputRequest>,
    ) -> ServiceResult<wire::InputResponse> {
        let exec = self.find(request.exec_id)?;
        exec.write(request.data, request.eof).await.map_err(input_error)?;
        Response::ok(wire::InputResponse::default())
    }

    async fn signal(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, wire::SignalRequest>,
    ) -> ServiceResult<wire::SignalResponse> {
        if !(1..=64).contains(&request.signal) {
            return Err(ConnectError::invalid_argument("signal must be 1 to 64"));
        }
        let exec = self.find(request.exec_id)?;
        exec.signal(request.signal).map_err(|error| match error {
            nix::errno::Errno::ESRCH => ConnectError::failed_precondition("the process has ended"),
            other => ConnectError::internal(format!("cannot signal: {other}")),
        })?;
        Response::ok(wire::SignalResponse::default())
    }

    async fn resize(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, wire::ResizeRequest>,
    ) -> ServiceResult<wire::ResizeResponse> {
        let exec = self.find(request.exec_id)?;
        let (cols, rows) = check_size(request.cols, request.rows)?;
        exec.resize(cols, rows).map_err(|error| ConnectError::failed_precondition(error.to_string()))?;
        Response::ok(wire::ResizeResponse::default())
    }

    async fn get(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, wire::GetRequest>,
    ) -> ServiceResult<wire::ExecState> {
        Response::ok(state(&*self.find(request.exec_id)?, true))
    }

    async fn list(
        &self,
        _context: RequestContext,
        _request: ServiceRequest<'_, wire::ListRequest>,
    ) -> ServiceResult<wire::ListResponse> {
        let mut answer = wire::ListResponse::default();
        // Command lines may be long; the whole must fit into one message.
        let mut room = aether_proto::channel::MESSAGE_SIZE / 2;
        for exec in self.0.execs.all() {
            let mut state = state(&exec, true);
            let size = state.argv.iter().map(|word| word.len() + 8).sum::<usize>() + 256;
            if size > room {
                state.argv.clear();
            }
            room = room.saturating_sub(size.min(512));
            answer.execs.push(state);
        }
        Response::ok(answer)
    }

    async fn logs(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, wire::LogsRequest>,
    ) -> ServiceResult<ServiceStream<wire::LogLine>> {
        let logs = self.0.logs.clone();
        let follow = request.follow;
        let at = logs.start(request.tail, request.since_ms);
        let state = (logs.watch(), at, std::collections::VecDeque::new());
        Response::stream_ok(futures::stream::unfold(state, move |(mut watch, mut at, mut ready)| {
            let logs = logs.clone();
            async move {
                loop {
                    if let Some(line) = ready.pop_front() {
                        let line: crate::logs::Line = line;
                        at = line.sequence;
                        let message = wire::LogLine {
                            time_ms: line.time_ms,
                            stream: line.stream,
                            line: line.bytes.to_vec(),
                            ..Default::default()
                        };
                        return Some((Ok(message), (watch, at, ready)));
                    }
                    watch.borrow_and_update();
                    ready.extend(logs.after(at, 256));
                    if ready.is_empty() {
                        if !follow {
                            return None;
                        }
                        watch.changed().await.ok()?;
                    }
                }
            }
        }))
    }
}
