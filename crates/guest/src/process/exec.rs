//! One process, live or ended, with its output ring.
//!
//! ```text
//! running ──(reaped)──► ended, draining ──(pipes empty)──► ended, drained
//! ```
//!
//! Readers attach and detach; while one is attached and a full ring behind,
//! the pipes are not read, so the process waits and nothing is lost. Without
//! readers the oldest output is overwritten; a starter that is to attach by a
//! second call counts as one until it does, for a while. After the end, a pipe
//! that a background child still holds is read and thrown away: closing it
//! would kill that child.

use super::ring::{CAPACITY, CHUNK, Chunk, Ring};
use super::spawn::Spawned;
use crate::logs::LogRing;
use crate::reaper::Ended;
use crate::{lock, sys};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio::time::Instant;

/// A terminal hands its last bytes over a moment after the process is gone.
const TERMINAL_DRAIN: Duration = Duration::from_millis(200);
/// How long output is held for a starter that has not attached yet.
const STARTER_HOLD: Duration = Duration::from_secs(10);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    pub code: Option<i32>,
    pub signal: Option<i32>,
    pub timed_out: bool,
    pub error: String,
}

/// What a caller may want to see again of a start.
#[derive(Clone, Debug, Default)]
pub struct About {
    pub argv: Vec<String>,
    pub env: BTreeMap<String, String>,
    pub cwd: Option<String>,
    pub tag: Option<String>,
}

pub struct Exec {
    pub id: String,
    pub about: About,
    pub pid: u32,
    pub tty: bool,
    pub has_stdin: bool,
    pub started_at_ms: u64,
    started: Instant,
    state: Mutex<State>,
    /// Output or an end: readers wake.
    changed: watch::Sender<()>,
    /// A reader advanced or left: pumps wake.
    room: watch::Sender<()>,
    /// Held across a write, so that inputs do not mix.
    input: tokio::sync::Mutex<Option<AsyncFd<File>>>,
    terminal: Option<File>,
    logs: Option<Arc<LogRing>>,
}

struct State {
    ring: Ring,
    readers: BTreeMap<u64, u64>,
    next_reader: u64,
    /// Until then the starter counts as a reader that has read nothing.
    held_until: Option<Instant>,
    exit: Option<(Exit, Duration)>,
    timed_out: bool,
    undrained: usize,
}

/// What a reader gets next.
#[derive(Debug, PartialEq, Eq)]
pub enum Item {
    Output(Chunk),
    Gap { from: u64, to: u64 },
    End,
}

#[derive(Debug, PartialEq, Eq)]
pub enum InputError {
    Ended,
    NoInput,
    Io(String),
}

impl Exec {
    /// Takes over a fresh process. Must be called on the runtime that is to
    /// own its pipes.
    pub fn adopt(
        id: String,
        about: About,
        spawned: Spawned,
        timeout: Option<Duration>,
        logs: Option<Arc<LogRing>>,
        starter_attaches: bool,
    ) -> io::Result<Arc<Self>> {
        let Spawned { pid, ended, input, outputs, terminal } = spawned;
        let input = input.map(|file| asynchronous(file, Interest::WRITABLE)).transpose()?;
        let outputs = outputs
            .into_iter()
            .map(|(stream, file)| Ok((stream, asynchronous(file, Interest::READABLE)?)))
            .collect::<io::Result<Vec<_>>>()?;
        let held_until = starter_attaches.then(|| Instant::now() + STARTER_HOLD);
        let exec = Arc::new(Self {
            has_stdin: input.is_some(),
            state: Mutex::new(State { held_until, ..State::new(outputs.len()) }),
            input: tokio::sync::Mutex::new(input),
            tty: terminal.is_some(),
            terminal,
            ..Self::blank(id, about, pid, logs)
        });
        let (over, over_seen) = watch::channel(false);
        for (stream, file) in outputs {
            tokio::spawn(exec.clone().pump(stream, file, over_seen.clone()));
        }
        let own = exec.clone();
        tokio::spawn(async move {
            let ended = own.wait_for(ended, timeout).await;
            own.finish(ended);
            over.send_replace(true);
            // Input to a dead process is refused; a waiting one is let go.
            own.input.lock().await.take();
        });
        Ok(exec)
    }

    /// A start that failed: kept, so that a repeat gets the same answer.
    pub fn stillborn(id: String, about: About, exit_code: i32, error: String) -> Arc<Self> {
        let exec = Self::blank(id, about, 0, None);
        let exit = Exit { code: Some(exit_code), signal: None, timed_out: false, error };
        lock(&exec.state).exit = Some((exit, Duration::ZERO));
        Arc::new(exec)
    }

    fn blank(id: String, about: About, pid: u32, logs: Option<Arc<LogRing>>) -> Self {
        Self {
            id,
            about,
            pid,
            tty: false,
            has_stdin: false,
            started_at_ms: sys::unix_ms(),
            started: Instant::now(),
            state: Mutex::new(State::new(0)),
            changed: watch::Sender::new(()),
            room: watch::Sender::new(()),
            input: tokio::sync::Mutex::new(None),
            terminal: None,
            logs,
        }
    }

    async fn wait_for(&self, mut ended: tokio::sync::oneshot::Receiver<Ended>, timeout: Option<Duration>) -> Ended {
        if let Some(limit) = timeout {
            match tokio::time::timeout(limit, &mut ended).await {
                Ok(ended) => return ended.unwrap_or(Ended::Code(255)),
                Err(_) => {
                    lock(&self.state).timed_out = true;
                    let _ = self.signal(Signal::SIGKILL as i32);
                }
            }
        }
        ended.await.unwrap_or(Ended::Code(255))
    }

    fn finish(&self, ended: Ended) {
        let mut state = lock(&self.state);
        let (code, signal) = match ended {
            Ended::Code(code) => (Some(code), None),
            Ended::Signal(signal) => (None, Some(signal)),
        };
        let exit = Exit { code, signal, timed_out: state.timed_out, error: String::new() };
        state.exit = Some((exit, self.started.elapsed()));
        drop(state);
        self.changed.send_replace(());
    }

    async fn pump(self: Arc<Self>, stream: u32, file: AsyncFd<File>, mut over: watch::Receiver<bool>) {
        let mut buffer = vec![0; CHUNK];
        let mut room = self.room.subscribe();
        loop {
            loop {
                let held_until = {
                    let state = lock(&self.state);
                    if state.has_room() {
                        break;
                    }
                    state.held_until
                };
                match held_until {
                    None => drop(room.changed().await),
                    Some(until) => drop(tokio::time::timeout_at(until, room.changed()).await),
                }
            }
            let live = tokio::select! {
                biased;
                read = read_some(&file, &mut buffer) => Some(read),
                _ = over.wait_for(|over| *over) => None,
            };
            let read = match live {
                Some(read) => read,
                None if self.tty => {
                    tokio::time::timeout(TERMINAL_DRAIN, read_some(&file, &mut buffer)).await.unwrap_or(Ok(0))
                }
                // What the process wrote is in the pipe by now.
                None => read_now(&file, &mut buffer),
            };
            match read {
                Ok(count) if count > 0 => self.append(stream, &buffer[..count]),
                _ => break,
            }
        }
        lock(&self.state).undrained -= 1;
        self.changed.send_replace(());
        if *over.borrow() && !self.tty {
            while let Ok(1..) = read_some(&file, &mut buffer).await {}
        }
    }

    fn append(&self, stream: u32, data: &[u8]) {
        lock(&self.state).ring.push(stream, data);
        if let Some(logs) = &self.logs {
            logs.push(stream, data);
        }
        self.changed.send_replace(());
    }

    pub fn exit(&self) -> Option<Exit> {
        lock(&self.state).exit.as_ref().map(|(exit, _)| exit.clone())
    }

    pub fn running(&self) -> bool {
        lock(&self.state).exit.is_none()
    }

    /// All output has been taken over from an ended process.
    pub fn drained(&self) -> bool {
        lock(&self.state).drained()
    }

    pub fn duration(&self) -> Duration {
        lock(&self.state).exit.as_ref().map_or_else(|| self.started.elapsed(), |(_, duration)| *duration)
    }

    pub fn ended_within(&self, limit: Duration) -> bool {
        let state = lock(&self.state);
        state.exit.as_ref().is_some_and(|(_, duration)| self.started.elapsed().saturating_sub(*duration) < limit)
    }

    /// Oldest and next offset of the output.
    pub fn span(&self) -> (u64, u64) {
        let state = lock(&self.state);
        (state.ring.start(), state.ring.end())
    }

    /// Resolves when the process is gone, output or not.
    pub async fn ended(&self) -> Exit {
        let mut changed = self.changed.subscribe();
        loop {
            if let Some(exit) = self.exit() {
                return exit;
            }
            if changed.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Resolves when nothing more will be written to the ring.
    pub async fn wait_drained(&self) {
        let mut changed = self.changed.subscribe();
        while !self.drained() && changed.changed().await.is_ok() {}
    }

    /// To the whole process group.
    pub fn signal(&self, number: i32) -> Result<(), nix::errno::Errno> {
        // Under the lock: a pid may be reused once its end is recorded.
        let state = lock(&self.state);
        let pid = i32::try_from(self.pid).map_err(|_| nix::errno::Errno::ESRCH)?;
        if state.exit.is_some() || pid <= 1 {
            return Err(nix::errno::Errno::ESRCH);
        }
        sys::kill_group(Pid::from_raw(pid), number)
    }

    pub fn resize(&self, cols: u16, rows: u16) -> io::Result<()> {
        match &self.terminal {
            Some(terminal) => sys::resize_terminal(terminal, cols, rows),
            None => Err(io::Error::new(io::ErrorKind::InvalidInput, "it has no terminal")),
        }
    }

    /// Writes all of `data`, then perhaps ends the input. Waits for the
    /// process to read; ends with an error when the process does.
    pub async fn write(&self, data: &[u8], eof: bool) -> Result<(), InputError> {
        let mut input = self.input.lock().await;
        let Some(file) = input.as_ref() else {
            return Err(if self.running() { InputError::NoInput } else { InputError::Ended });
        };
        tokio::select! {
            written = write_all(file, data) => written.map_err(|error| InputError::Io(error.to_string()))?,
            _ = self.ended() => return Err(InputError::Ended),
        }
        if eof {
            if self.tty {
                write_all(file, &[4]).await.map_err(|error| InputError::Io(error.to_string()))?;
            } else {
                input.take();
            }
        }
        Ok(())
    }

    /// Without waiting.
    pub fn peek(&self, offset: u64, max: usize) -> Option<Chunk> {
        lock(&self.state).ring.piece(offset, max)
    }

    /// Forgets the output of an ended process.
    pub fn forget_output(&self) {
        lock(&self.state).ring.clear();
    }

    pub fn attach(self: &Arc<Self>, offset: u64) -> Reader {
        let mut state = lock(&self.state);
        let id = state.next_reader;
        state.next_reader += 1;
        state.held_until = None;
        let held = offset.max(state.ring.start());
        state.readers.insert(id, held);
        Reader { exec: self.clone(), id, offset, changed: self.changed.subscribe() }
    }
}

impl State {
    fn new(outputs: usize) -> Self {
        Self {
            ring: Ring::new(CAPACITY),
            readers: BTreeMap::new(),
            next_reader: 0,
            held_until: None,
            exit: None,
            timed_out: false,
            undrained: outputs,
        }
    }

    fn has_room(&self) -> bool {
        let starter = self.held_until.filter(|until| Instant::now() < *until).map(|_| 0);
        self.ring.has_room(self.readers.values().min().copied().or(starter))
    }

    fn drained(&self) -> bool {
        self.exit.is_some() && self.undrained == 0
    }
}

/// Reads one process's output from an offset; dropping it detaches.
pub struct Reader {
    exec: Arc<Exec>,
    id: u64,
    offset: u64,
    changed: watch::Receiver<()>,
}

impl Reader {
    pub async fn next(&mut self) -> Item {
        loop {
            if let Some(item) = self.take() {
                return item;
            }
            if self.changed.changed().await.is_err() {
                return Item::End;
            }
        }
    }

    fn take(&mut self) -> Option<Item> {
        let mut state = lock(&self.exec.state);
        let start = state.ring.start();
        let item = if self.offset < start {
            Item::Gap { from: std::mem::replace(&mut self.offset, start), to: start }
        } else if let Some(chunk) = state.ring.piece(self.offset, CHUNK) {
            self.offset += chunk.data.len() as u64;
            Item::Output(chunk)
        } else if state.drained() {
            Item::End
        } else {
            return None;
        };
        state.readers.insert(self.id, self.offset);
        drop(state);
        self.exec.room.send_replace(());
        Some(item)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        lock(&self.exec.state).readers.remove(&self.id);
        self.exec.room.send_replace(());
    }
}

fn asynchronous(file: File, interest: Interest) -> io::Result<AsyncFd<File>> {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    let flags = OFlag::from_bits_retain(fcntl(&file, FcntlArg::F_GETFL)?);
    fcntl(&file, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    sys::watch(file, interest)
}

async fn read_some(file: &AsyncFd<File>, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        let mut ready = file.readable().await?;
        match ready.try_io(|file| file.get_ref().read(buffer)) {
            Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(result) => return result,
            Err(_would_block) => {}
        }
    }
}

fn read_now(file: &AsyncFd<File>, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match file.get_ref().read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

async fn write_all(file: &AsyncFd<File>, mut data: &[u8]) -> io::Result<()> {
    while !data.is_empty() {
        let mut ready = file.writable().await?;
        match ready.try_io(|file| file.get_ref().write(data)) {
            Ok(Ok(count)) => data = &data[count..],
            Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(Err(error)) => return Err(error),
            Err(_would_block) => {}
        }
    }
    Ok(())
}
