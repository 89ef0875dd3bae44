//! Exec as a test wants it: a command in, what came of it out.

use super::server::{Data, LONG};
use aether_core::ExecId;
use aether_core::source::OsRng;
use aether_proto::node as wire;
use aether_proto::node::exec_request::Message as Ask;
use aether_proto::node::exec_response::Message as Say;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

#[derive(Debug, Default)]
pub(super) struct Ran {
    pub stdout: String,
    pub stderr: String,
    pub code: Option<i32>,
    pub signal: Option<String>,
    pub unknown: Option<String>,
    pub next_offset: u64,
}

pub(super) struct Live {
    pub id: String,
    pub send: mpsc::Sender<wire::ExecRequest>,
    pub receive: Streaming<wire::ExecResponse>,
    pub ran: Ran,
}

pub(super) fn ask(message: Ask) -> wire::ExecRequest {
    wire::ExecRequest { message: Some(message) }
}

pub(super) fn start_message(agent: &str, command: &[&str]) -> wire::ExecStart {
    wire::ExecStart {
        agent_id: agent.into(),
        exec_id: ExecId::generate("c0", &OsRng).to_string(),
        command: command.iter().map(|w| (*w).to_owned()).collect(),
        stdin: true,
        ..Default::default()
    }
}

pub(super) async fn open(data: &mut Data, first: Ask) -> Result<Live, Status> {
    let id = match &first {
        Ask::Start(start) => start.exec_id.clone(),
        Ask::Attach(attach) => attach.exec_id.clone(),
        _ => String::new(),
    };
    let (send, receiver) = mpsc::channel(8);
    send.send(ask(first)).await.expect("room");
    let receive = data.exec(ReceiverStream::new(receiver)).await?.into_inner();
    Ok(Live { id, send, receive, ran: Ran::default() })
}

impl Live {
    /// Reads on until `done` says so, or the stream ends.
    pub(super) async fn read_until(&mut self, done: impl Fn(&Ran) -> bool) -> Result<(), Status> {
        let reading = async {
            while let Some(answer) = self.receive.message().await? {
                match answer.message.expect("a message") {
                    Say::Started(_) => {}
                    Say::Output(piece) => {
                        self.ran.next_offset = piece.offset + piece.data.len() as u64;
                        let text = String::from_utf8_lossy(&piece.data).into_owned();
                        if piece.stream == 1 { self.ran.stdout += &text } else { self.ran.stderr += &text }
                    }
                    Say::Exited(exited) => (self.ran.code, self.ran.signal) = (exited.exit_code, exited.signal),
                    Say::Unknown(why) => self.ran.unknown = Some(why),
                    Say::Gap(gap) => panic!("a gap: {gap:?}"),
                }
                if done(&self.ran) {
                    return Ok(());
                }
            }
            Ok(())
        };
        tokio::time::timeout(LONG, reading).await.expect("in time")
    }
}

/// What a client sees that asks by an id: none where it is to ask again.
pub(super) async fn try_run(data: &mut Data, start: &wire::ExecStart) -> Option<Ran> {
    let mut live = open(data, Ask::Start(start.clone())).await.ok()?;
    live.read_until(|_| false).await.ok()?;
    live.ran.code.is_some().then_some(live.ran)
}

pub(super) async fn run(data: &mut Data, agent: &str, command: &[&str]) -> Ran {
    let mut live = open(data, Ask::Start(start_message(agent, command))).await.expect("starts");
    live.read_until(|_| false).await.expect("ends");
    live.ran
}
