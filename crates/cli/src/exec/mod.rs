//! One exec seen from here: its output to our output, our input to its
//! input, signals and sizes to it, its exit code back.
//!
//! ```text
//! stdin ──thread──► channel ─┐            ┌─► channel ──thread──► stdout, stderr
//!                            ▼            │
//! signals, SIGWINCH ───► the loop ◄──► WebSocket
//! ```
//!
//! The exec belongs to the guest: a stream that breaks is opened again at the
//! offset where it broke, and detaching leaves the exec running.

mod input;
mod interrupt;
mod output;
mod terminal;

pub(crate) use terminal::{install_panic_hook, read_password, restore, size as terminal_size, stdin_is_terminal};

use crate::client::websocket::Incoming;
use crate::client::{Client, Socket, encode};
use crate::error::CliError;
use aether_core::Observed;
use aether_core::api::{AgentInfo, ExecClientFrame, ExecRequest, ExecServerFrame};
use bytes::Bytes;
use input::{Input, Key};
use interrupt::{Interrupts, Press};
use output::{Chunk, Writer};
use std::time::Duration;
use terminal::RawMode;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::Instant;

/// How long a broken stream is tried again before we give up.
const REATTACH_LIMIT: Duration = Duration::from_secs(60);
/// How long an exec may be unknown to a server whose agent runs.
const UNKNOWN_LIMIT: Duration = Duration::from_secs(20);
const UNKNOWN_PAUSE: Duration = Duration::from_millis(500);

/// What to start, or what to attach to.
pub(crate) enum Start {
    New(Box<ExecRequest>),
    Attach(String),
}

pub(crate) struct Options {
    /// Pass standard input on.
    pub(crate) interactive: bool,
    pub(crate) tty: bool,
    /// End as soon as the exec has started.
    pub(crate) detach: bool,
}

/// How it ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// With the exit code for our own exit.
    Exited(u8),
    /// It runs on.
    Detached { exec_id: String },
    /// The user pressed ctrl-C twice.
    Killed,
    /// We got this signal.
    Terminated(i32),
    /// Nobody reads our output any more.
    BrokenPipe,
}

/// Runs one exec to its end, or to ours.
pub(crate) async fn run(client: &Client, agent: &str, start: Start, options: &Options) -> Result<Ended, CliError> {
    let mut session = Session::open(client, agent, start, options).await?;
    let raw = (options.tty && options.interactive).then(RawMode::enter).flatten();
    let result = session.pump().await;
    drop(raw);
    session.writer.finish().await;
    session.socket.close().await;
    result
}

struct Session<'a> {
    client: &'a Client,
    path: String,
    options: &'a Options,
    socket: Socket,
    exec_id: Option<String>,
    /// Of the exec's whole output; where to go on after a break.
    offset: u64,
    /// When the server first said that it knows nothing of the exec.
    unknown_since: Option<Instant>,
    writer: Writer,
    input: Input,
    interrupts: Interrupts,
    signals: Signals,
}

struct Signals {
    int: Signal,
    term: Signal,
    hup: Signal,
    winch: Signal,
}

impl Signals {
    fn listen() -> Result<Self, CliError> {
        let on = |kind| signal(kind).map_err(|e| CliError::failed(format!("cannot listen for signals: {e}")));
        Ok(Self {
            int: on(SignalKind::interrupt())?,
            term: on(SignalKind::terminate())?,
            hup: on(SignalKind::hangup())?,
            winch: on(SignalKind::window_change())?,
        })
    }
}

impl<'a> Session<'a> {
    async fn open(client: &'a Client, agent: &str, start: Start, options: &'a Options) -> Result<Self, CliError> {
        let path = format!("/v1/agents/{}/exec", encode(agent));
        let mut socket = Socket::open(client, &path).await?;
        let (first, exec_id) = match start {
            Start::New(mut request) => {
                if options.tty {
                    let (cols, rows) = terminal::size();
                    (request.cols, request.rows) = (Some(cols), Some(rows));
                }
                (ExecClientFrame::Start(*request), None)
            }
            Start::Attach(id) => (ExecClientFrame::Attach { exec_id: id.clone(), offset: 0 }, Some(id)),
        };
        let sent = socket.send(&first).await;
        sent.map_err(|e| CliError::failed(format!("the stream broke before the command was started: {e}")))?;
        Ok(Self {
            client,
            path,
            options,
            socket,
            exec_id,
            offset: 0,
            unknown_since: None,
            writer: Writer::start(),
            input: Input::new(options.interactive, options.tty),
            interrupts: Interrupts::default(),
            signals: Signals::listen()?,
        })
    }

    async fn pump(&mut self) -> Result<Ended, CliError> {
        loop {
            let event = tokio::select! {
                incoming = read_when_there_is_room(&mut self.socket, &self.writer) => Event::Incoming(incoming),
                key = self.input.next() => Event::Key(key),
                _ = self.signals.int.recv() => Event::Interrupt,
                _ = self.signals.term.recv() => Event::End(libc_signal::TERM),
                _ = self.signals.hup.recv() => Event::End(libc_signal::HUP),
                _ = self.signals.winch.recv() => Event::Resized,
            };
            let ended = match event {
                Event::Incoming(None) => {
                    self.tell_signal("SIGHUP").await;
                    Some(Ended::BrokenPipe)
                }
                Event::Incoming(Some(incoming)) => self.take(incoming).await?,
                Event::Key(key) => self.press(key).await,
                Event::Interrupt => self.interrupt().await,
                Event::End(number) => {
                    self.tell_signal(if number == libc_signal::TERM { "SIGTERM" } else { "SIGHUP" }).await;
                    Some(Ended::Terminated(number))
                }
                Event::Resized => {
                    self.resize().await;
                    None
                }
            };
            if let Some(ended) = ended {
                return Ok(ended);
            }
        }
    }

    /// What the server said.
    async fn take(&mut self, incoming: Incoming) -> Result<Option<Ended>, CliError> {
        match incoming {
            Incoming::Stdout(bytes) => self.print(Chunk::Stdout(bytes)).await,
            Incoming::Stderr(bytes) => self.print(Chunk::Stderr(bytes)).await,
            Incoming::Frame(frame) => return self.frame(frame).await,
            Incoming::Lost(reason) => self.reattach(&reason).await?,
        }
        Ok(None)
    }

    async fn print(&mut self, chunk: Chunk) {
        self.offset = self.offset.saturating_add(chunk.len());
        self.interrupts.saw_output(chunk.bytes());
        self.writer.write(chunk).await;
    }

    async fn frame(&mut self, frame: ExecServerFrame) -> Result<Option<Ended>, CliError> {
        match frame {
            ExecServerFrame::Started { exec_id, .. } => {
                self.exec_id = Some(exec_id.clone());
                self.unknown_since = None;
                if self.options.detach {
                    return Ok(Some(Ended::Detached { exec_id }));
                }
                if self.options.tty {
                    self.resize().await;
                }
            }
            ExecServerFrame::Gap { from, to } => {
                self.offset = self.offset.max(to);
                let lost = to.saturating_sub(from);
                self.writer.write(Chunk::note(format!("[{lost} bytes of output were lost]\n"))).await;
            }
            ExecServerFrame::Exited { exit_code, signal, timed_out, error, .. } => {
                if let Some(error) = &error {
                    self.writer.write(Chunk::note(format!("error: {}\n", crate::error::printable(error)))).await;
                } else if timed_out {
                    self.writer.write(Chunk::note("error: killed: its time was over\n".to_owned())).await;
                }
                return Ok(Some(Ended::Exited(exit_status(exit_code, signal.as_deref()))));
            }
            ExecServerFrame::Unknown { reason } => {
                if self.may_come_back().await {
                    self.reattach(&reason).await?;
                    return Ok(None);
                }
                return Err(CliError::with_remedy(
                    format!("the sandbox went away, and how the command ended is not known: {reason}"),
                    "See `aether agent get` and `aether agent logs` for what became of it.",
                ));
            }
            // A server that shuts down; the next one finds the exec again.
            ExecServerFrame::Error { problem } if problem.status == 503 && self.exec_id.is_some() => {
                self.reattach(&problem.detail).await?;
            }
            ExecServerFrame::Error { problem } => return Err(CliError::Problem(problem)),
        }
        Ok(None)
    }

    /// What the user typed, or the end of what a pipe held.
    async fn press(&mut self, key: Key) -> Option<Ended> {
        match key {
            Key::Bytes(bytes) => {
                let second = self.options.tty && bytes.contains(&interrupt::CTRL_C) && {
                    self.interrupts.press(Instant::now(), true) == Press::Second
                };
                if second {
                    self.tell_signal("SIGKILL").await;
                    return Some(Ended::Killed);
                }
                // A failure shows on the reading side, which reattaches.
                let _ = self.socket.send_stdin(bytes).await;
                None
            }
            Key::End => {
                let _ = self.socket.send(&ExecClientFrame::CloseStdin).await;
                None
            }
            Key::Detach => self.exec_id.clone().map(|exec_id| Ended::Detached { exec_id }),
        }
    }

    async fn interrupt(&mut self) -> Option<Ended> {
        match self.interrupts.press(Instant::now(), false) {
            Press::First => {
                self.tell_signal("SIGINT").await;
                None
            }
            Press::Second => {
                self.tell_signal("SIGKILL").await;
                Some(Ended::Killed)
            }
        }
    }

    async fn tell_signal(&mut self, name: &str) {
        let frame = ExecClientFrame::Signal { signal: name.to_owned() };
        let _ = tokio::time::timeout(Duration::from_secs(2), self.socket.send(&frame)).await;
    }

    async fn resize(&mut self) {
        if self.options.tty {
            let (cols, rows) = terminal::size();
            let _ = self.socket.send(&ExecClientFrame::Resize { cols, rows }).await;
        }
    }

    /// A server that was just started may not have taken over its sandboxes
    /// yet: as long as it says that the agent runs, its word that the exec is
    /// unknown is not the last.
    async fn may_come_back(&mut self) -> bool {
        let since = *self.unknown_since.get_or_insert_with(Instant::now);
        if self.exec_id.is_none() || since.elapsed() > UNKNOWN_LIMIT {
            return false;
        }
        tokio::time::sleep(UNKNOWN_PAUSE).await;
        let path = self.path.trim_end_matches("/exec");
        match self.client.get::<AgentInfo>(path).await {
            Ok(agent) => matches!(agent.status, Observed::Running | Observed::Lost),
            // Not reachable: that is for reattaching to sort out.
            Err(CliError::Failed { .. }) => true,
            Err(_) => false,
        }
    }

    /// Opens the stream again where it broke. A server that was restarted
    /// finds the exec again, since the guest owns it.
    async fn reattach(&mut self, reason: &str) -> Result<(), CliError> {
        let broken = || CliError::failed(format!("the stream to the command broke: {reason}"));
        let exec_id = self.exec_id.clone().ok_or_else(broken)?;
        let give_up = Instant::now() + REATTACH_LIMIT;
        let mut pause = Duration::from_millis(100);
        loop {
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                _ = self.signals.int.recv() => return Err(broken()),
                _ = self.signals.term.recv() => return Err(broken()),
            }
            match Socket::open(self.client, &self.path).await {
                Ok(mut socket) => {
                    let attach = ExecClientFrame::Attach { exec_id: exec_id.clone(), offset: self.offset };
                    if socket.send(&attach).await.is_ok() {
                        self.socket = socket;
                        return Ok(());
                    }
                }
                // The agent is gone, or we may not: trying again changes nothing.
                Err(CliError::Problem(p)) if p.status < 500 && p.status != 429 => return Err(CliError::Problem(p)),
                Err(_) => {}
            }
            if Instant::now() >= give_up {
                return Err(broken());
            }
            pause = (pause * 2).min(Duration::from_secs(2));
        }
    }
}

enum Event {
    Incoming(Option<Incoming>),
    Key(Key),
    Interrupt,
    End(i32),
    Resized,
}

/// Reads only when the output can take more, so that a slow reader of ours
/// slows the command and fills no memory. None: nobody reads any more.
async fn read_when_there_is_room(socket: &mut Socket, writer: &Writer) -> Option<Incoming> {
    writer.has_room().await?;
    Some(socket.next().await)
}

mod libc_signal {
    pub(super) const TERM: i32 = nix::libc::SIGTERM;
    pub(super) const HUP: i32 = nix::libc::SIGHUP;
}

/// Our exit code for the command's end.
fn exit_status(code: Option<i32>, signal: Option<&str>) -> u8 {
    if let Some(signal) = signal {
        return 128u8.saturating_add(signal_number(signal));
    }
    match code {
        Some(code) => u8::try_from(code & 0xff).unwrap_or(1),
        None => 125,
    }
}

fn signal_number(name: &str) -> u8 {
    let full = if name.starts_with("SIG") { name.to_owned() } else { format!("SIG{name}") };
    let number = full.parse::<nix::sys::signal::Signal>().map(|s| s as i32).or_else(|_| name.parse::<i32>());
    u8::try_from(number.unwrap_or(0)).unwrap_or(0)
}

/// For what has no input: stays pending.
pub(super) async fn never() -> Bytes {
    std::future::pending().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes() {
        assert_eq!(exit_status(Some(0), None), 0);
        assert_eq!(exit_status(Some(42), None), 42);
        assert_eq!(exit_status(Some(127), None), 127);
        assert_eq!(exit_status(None, Some("SIGKILL")), 137);
        assert_eq!(exit_status(None, Some("TERM")), 143);
        assert_eq!(exit_status(None, Some("9")), 137);
        assert_eq!(exit_status(Some(256), None), 0);
        assert_eq!(exit_status(None, None), 125);
    }
}
