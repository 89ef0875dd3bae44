//! What a run is given of its tenant's secrets: asked of the control plane
//! when the run begins, kept in memory until the guest has it, and nowhere
//! else. Without an answer the run fails; others are not touched.

use super::failure::{BootEnd, Failure};
use super::sandbox::Sandbox;
use super::wish::Wish;
use crate::channel::wire;
use aether_core::NodeId;
use aether_core::api::failure as code;
use aether_core::secrets::MAX_DELIVERED_BYTES;
use aether_proto::node::node_control_client::NodeControlClient;
use aether_proto::node::{SecretsRequest, SecretsResponse};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::transport::Channel;
use zeroize::Zeroizing;

/// In all, for a control plane or a Vault that comes back.
const LIMIT: Duration = Duration::from_secs(30);
/// For one answer; longer than the control plane waits for Vault.
const CALL_LIMIT: Duration = Duration::from_secs(12);
const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_LAST: Duration = Duration::from_secs(2);
/// Of all values, and what gRPC adds.
const MAX_MESSAGE: usize = 2 * MAX_DELIVERED_BYTES;

/// The way to the control plane while a session stands; the session sets it.
#[derive(Clone, Default)]
pub(crate) struct ControlLine(watch::Sender<Option<Line>>);

#[derive(Clone)]
struct Line {
    client: NodeControlClient<Channel>,
    node_id: String,
    epoch: u64,
}

impl ControlLine {
    pub(crate) fn open(&self, client: NodeControlClient<Channel>, node_id: &NodeId, epoch: u64) {
        let client = client.max_decoding_message_size(MAX_MESSAGE);
        self.0.send_replace(Some(Line { client, node_id: node_id.to_string(), epoch }));
    }

    pub(crate) fn close(&self) {
        self.0.send_replace(None);
    }
}

/// In memory alone, for the guest alone.
#[derive(Default)]
pub(super) struct Given {
    pub(super) env: BTreeMap<String, Zeroizing<String>>,
    pub(super) files: Vec<File>,
}

pub(super) struct File {
    path: String,
    data: Zeroizing<Vec<u8>>,
    mode: u32,
}

impl Given {
    /// Owned by this user; empty: the image's.
    pub(super) fn wire_files(&self, owner: &str) -> Vec<wire::SecretFile> {
        let file = |f: &File| wire::SecretFile {
            path: f.path.clone(),
            data: f.data.to_vec(),
            mode: f.mode,
            owner: owner.to_owned(),
            ..Default::default()
        };
        self.files.iter().map(file).collect()
    }
}

impl Sandbox {
    /// Before anything is made for the run: one that cannot have them costs
    /// nobody a boot.
    pub(super) async fn take_secrets(&mut self, wish: &Wish) -> Result<Given, BootEnd> {
        if wish.assigned.spec.secrets.is_empty() {
            return Ok(Given::default());
        }
        let mut unwanted = self.wish.clone();
        let line = self.host.control.0.subscribe();
        let asked = ask(line, self.row.agent_id.to_string(), wish.assigned.generation);
        let answer = tokio::select! {
            answer = asked => answer?,
            () = Sandbox::unwanted(&mut unwanted, &self.host) => return Err(BootEnd::Cancelled),
        };
        Ok(placed(wish, answer)?)
    }
}

fn unavailable(message: impl Into<String>) -> Failure {
    Failure::new(code::SECRET_UNAVAILABLE, message)
}

/// Asks until there is an answer, or until the limit.
async fn ask(
    mut line: watch::Receiver<Option<Line>>,
    agent_id: String,
    generation: u64,
) -> Result<SecretsResponse, Failure> {
    let end = Instant::now() + LIMIT;
    let mut pause = RETRY_FIRST;
    let mut last = "The control plane could not be reached.".to_owned();
    loop {
        // A closed watch is a node that ends: the caller is told by other means.
        let open = tokio::time::timeout_at(end, line.wait_for(Option::is_some)).await;
        let Some(mut to) = open.ok().and_then(Result::ok).and_then(|line| line.clone()) else {
            return Err(unavailable(format!("The agent's secrets were not given in time. {last} Start it again.")));
        };
        let request = SecretsRequest {
            node_id: to.node_id.clone(),
            node_epoch: to.epoch,
            agent_id: agent_id.clone(),
            generation,
        };
        let limit = end.min(Instant::now() + CALL_LIMIT);
        match tokio::time::timeout_at(limit, to.client.secrets(request)).await {
            Ok(Ok(answer)) => {
                let answer = answer.into_inner();
                if answer.refusal.is_empty() {
                    return Ok(answer);
                }
                return Err(unavailable(answer.refusal));
            }
            Ok(Err(status)) => status.message().clone_into(&mut last),
            Err(_) => "The control plane did not answer.".clone_into(&mut last),
        }
        tracing::warn!(agent = %agent_id, reason = %last, "secrets are not given yet");
        tokio::time::sleep_until(end.min(Instant::now() + pause)).await;
        pause = (pause * 2).min(RETRY_LAST);
    }
}

/// Each value in its place, as the spec has it.
fn placed(wish: &Wish, answer: SecretsResponse) -> Result<Given, Failure> {
    let values: BTreeMap<String, Zeroizing<Vec<u8>>> =
        answer.secrets.into_iter().map(|s| (s.name, Zeroizing::new(s.value.to_vec()))).collect();
    let mut given = Given::default();
    for wanted in &wish.assigned.spec.secrets {
        let name = &wanted.name;
        let value = values.get(name).ok_or_else(|| unavailable(format!("The secret {name} was not given.")))?;
        if let Some(variable) = &wanted.env {
            let text = std::str::from_utf8(value).ok().filter(|text| !text.contains('\0'));
            let text = text.ok_or_else(|| {
                unavailable(format!("The secret {name} is no text, as a variable has to be. Take it as a file."))
            })?;
            given.env.insert(variable.clone(), Zeroizing::new(text.to_owned()));
        }
        if let Some(path) = &wanted.file {
            given.files.push(File { path: path.clone(), data: value.clone(), mode: wanted.mode() });
        }
    }
    Ok(given)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::supervisor_wish;
    use aether_core::SecretRef;
    use aether_proto::node::SecretValue;

    fn answer(name: &str, value: &[u8]) -> SecretsResponse {
        let secrets = vec![SecretValue { name: name.into(), value: value.to_vec().into() }];
        SecretsResponse { secrets, refusal: String::new() }
    }

    #[test]
    fn each_value_goes_where_the_spec_says() {
        let file = SecretRef { env: None, file: Some("/run/a".into()), mode: Some("440".into()), name: "a".into() };
        let wish = supervisor_wish(vec![SecretRef { env: Some("A".into()), ..SecretRef::named("a") }, file]);
        let given = placed(&wish, answer("a", b"x")).expect("placed");
        assert_eq!(given.env["A"].as_str(), "x");
        let files = given.wire_files("me");
        assert_eq!((files[0].path.as_str(), files[0].data.as_slice(), files[0].mode), ("/run/a", &b"x"[..], 0o440));
        assert_eq!(files[0].owner, "me");
    }

    #[test]
    fn what_cannot_be_a_variable_or_is_not_there_is_named() {
        let wish = supervisor_wish(vec![SecretRef::named("A")]);
        for value in [&b"\xff"[..], b"a\0b"] {
            let failure = placed(&wish, answer("A", value)).err().expect("no text");
            assert_eq!(failure.code, code::SECRET_UNAVAILABLE);
            assert!(failure.message.contains("The secret A is no text"), "{}", failure.message);
        }
        let failure = placed(&wish, answer("B", b"x")).err().expect("not there");
        assert!(failure.message.contains("A was not given"), "{}", failure.message);
    }
}
