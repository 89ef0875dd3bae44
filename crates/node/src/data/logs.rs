//! Log lines: of a running agent from its guest, of one that ended from what
//! the node kept.

use super::{ANSWERS, Answers, DataService, error};
use crate::channel::{ChannelError, GuestClient, wire as guest};
use crate::runtime::{Status, kept_logs};
use aether_proto::node as wire;
use futures::StreamExt;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status as Refusal;

const AGAIN: Duration = Duration::from_millis(200);

impl DataService {
    pub(super) fn log_lines(&self, request: wire::LogsRequest) -> Result<Answers<wire::LogLine>, Refusal> {
        let (agent, status) = self.known(&request.agent_id)?;
        let now = status.borrow().clone();
        let Some(client) = now.client else {
            let lines = select(kept_logs(&self.host.config.logs_dir(), &agent), &request);
            return Ok(Box::pin(futures::stream::iter(lines.into_iter().map(Ok))));
        };
        // The guest's 0 means all, ours none: then only what comes from now on.
        let since_ms = match request.tail {
            0 => request.since_ms.max(self.host.clock.now().unix_ms()),
            _ => request.since_ms,
        };
        let request = guest::LogsRequest { follow: request.follow, tail: request.tail, since_ms, ..Default::default() };
        let (sender, receiver) = mpsc::channel(ANSWERS);
        let shutdown = self.host.shutdown.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = pump(client, status, request, sender.clone()) => {}
                () = shutdown.cancelled() => {}
                () = sender.closed() => {}
            }
        });
        Ok(Box::pin(ReceiverStream::new(receiver)))
    }
}

/// Lines until the end: of what there is, or, when following, of the run. A
/// cut channel is opened again after the last line that came.
async fn pump(
    client: GuestClient,
    status: watch::Receiver<Status>,
    mut request: guest::LogsRequest,
    sender: mpsc::Sender<Result<wire::LogLine, Refusal>>,
) {
    loop {
        let broken = match client.logs(request.clone()).await {
            Err(e) => e,
            Ok(lines) => {
                let mut lines = std::pin::pin!(lines);
                loop {
                    match lines.next().await {
                        None => return,
                        Some(Err(e)) => break e,
                        Some(Ok(line)) => {
                            request.since_ms = line.time_ms.saturating_add(1);
                            request.tail = 0;
                            let line =
                                wire::LogLine { time_ms: line.time_ms, stream: line.stream, line: line.line.into() };
                            if sender.send(Ok(line)).await.is_err() {
                                return;
                            }
                        }
                    }
                }
            }
        };
        let lives = status.borrow().client.is_some();
        match broken {
            ChannelError::Gone | ChannelError::Timeout if lives => tokio::time::sleep(AGAIN).await,
            // The run is over: so are its lines.
            ChannelError::Gone | ChannelError::Timeout => return,
            other => return drop(sender.send(Err(error::channel(other))).await),
        }
    }
}

fn select(lines: Vec<wire::LogLine>, request: &wire::LogsRequest) -> Vec<wire::LogLine> {
    let mut lines: Vec<_> = lines.into_iter().filter(|l| l.time_ms >= request.since_ms).collect();
    let tail = usize::try_from(request.tail).unwrap_or(usize::MAX);
    lines.drain(..lines.len().saturating_sub(tail));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tail_and_since_of_kept_lines() {
        let lines: Vec<_> = (1..=5).map(|n| wire::LogLine { time_ms: n, ..Default::default() }).collect();
        let times = |tail, since_ms| {
            let request = wire::LogsRequest { tail, since_ms, ..Default::default() };
            select(lines.clone(), &request).iter().map(|l| l.time_ms).collect::<Vec<_>>()
        };
        assert_eq!(times(2, 0), [4, 5]);
        assert_eq!(times(100, 3), [3, 4, 5]);
        assert_eq!(times(1, 3), [5]);
        assert!(times(0, 0).is_empty());
    }
}
