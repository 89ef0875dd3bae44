//! What the main process said, kept when its sandbox ends, so that a stopped
//! agent can still be asked why. Bounded; erased with the agent.

use super::sandbox::Sandbox;
use crate::channel::{GuestClient, wire};
use aether_core::AgentId;
use aether_proto::node::LogLine;
use futures::StreamExt;
use prost::Message;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The newest lines are kept, up to both limits.
const MAX_LINES: u32 = 2000;
const MAX_BYTES: usize = 1 << 20;
/// A guest that does not answer does not hold up its own end.
pub(super) const LIMIT: Duration = Duration::from_secs(2);

impl Sandbox {
    fn logs_path(&self) -> PathBuf {
        path_of(&self.host.config.logs_dir(), self.agent_id())
    }

    /// Takes the last lines out of a guest that is about to end. What cannot
    /// be had is left: a stop never fails for its logs.
    pub(super) async fn keep_logs(&mut self, limit: Duration) {
        let Some(run) = &self.run else { return };
        let lines = match tokio::time::timeout(limit, last_lines(&run.client)).await {
            Ok(Ok(lines)) => lines,
            Ok(Err(e)) => return tracing::debug!(agent = %self.agent_id(), error = %e, "no logs to keep"),
            Err(_) => return tracing::debug!(agent = %self.agent_id(), "the guest's logs took too long"),
        };
        let path = self.logs_path();
        if lines.is_empty() {
            let _ = super::end::remove_file(&path);
            return;
        }
        if let Err(e) = write(&path, &lines) {
            tracing::warn!(agent = %self.agent_id(), error = %e, "logs are not kept");
        }
    }

    pub(super) fn erase_logs(&self) -> io::Result<()> {
        super::end::remove_file(&self.logs_path())
    }
}

fn path_of(logs_dir: &Path, agent: &AgentId) -> PathBuf {
    logs_dir.join(format!("{agent}.log"))
}

async fn last_lines(client: &GuestClient) -> Result<Vec<LogLine>, crate::channel::ChannelError> {
    let request = wire::LogsRequest { tail: MAX_LINES, ..Default::default() };
    let mut stream = std::pin::pin!(client.logs(request).await?);
    let (mut lines, mut bytes) = (std::collections::VecDeque::new(), 0usize);
    while let Some(line) = stream.next().await {
        let line = line?;
        bytes += line.line.len();
        lines.push_back(LogLine { time_ms: line.time_ms, stream: line.stream, line: line.line.into() });
        while bytes > MAX_BYTES || lines.len() > usize::try_from(MAX_LINES).unwrap_or(usize::MAX) {
            bytes -= lines.pop_front().map_or(bytes, |l: LogLine| l.line.len());
        }
    }
    Ok(lines.into())
}

/// Length-delimited messages, written whole or not at all.
fn write(path: &Path, lines: &[LogLine]) -> io::Result<()> {
    let mut out = Vec::new();
    for line in lines {
        line.encode_length_delimited(&mut out).map_err(io::Error::other)?;
    }
    let temporary = path.with_extension("new");
    std::fs::write(&temporary, &out)?;
    std::fs::rename(&temporary, path)
}

/// The kept lines of an agent that does not run; none when none were kept.
pub(crate) fn kept(logs_dir: &Path, agent: &AgentId) -> Vec<LogLine> {
    let Ok(bytes) = std::fs::read(path_of(logs_dir, agent)) else { return Vec::new() };
    let mut rest = bytes.as_slice();
    let mut lines = Vec::new();
    while !rest.is_empty() {
        match LogLine::decode_length_delimited(&mut rest) {
            Ok(line) => lines.push(line),
            Err(_) => break,
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use aether_core::source::OsRng;

    #[test]
    fn kept_lines_come_back_and_damage_is_no_crash() {
        let dir = tempfile::tempdir().expect("a folder");
        let agent = AgentId::generate("c0", &OsRng);
        assert!(kept(dir.path(), &agent).is_empty());
        let lines: Vec<LogLine> =
            (0u8..3).map(|n| LogLine { time_ms: n.into(), stream: 1, line: vec![n; 5].into() }).collect();
        let path = path_of(dir.path(), &agent);
        write(&path, &lines).expect("writes");
        assert_eq!(kept(dir.path(), &agent), lines);
        let whole = std::fs::read(&path).expect("reads");
        std::fs::write(&path, &whole[..whole.len() - 2]).expect("cuts");
        assert_eq!(kept(dir.path(), &agent), lines[..2]);
    }
}
