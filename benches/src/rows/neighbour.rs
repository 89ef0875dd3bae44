//! What a hostile guest costs its neighbour: the 99th percentile of durable
//! creates while it attacks, over the same with the attacker held by SIGSTOP.
//! Its processors are then free, which they are beside a guest that rests.
//!
//! Not here: boots beside an attack, which share the processors that they
//! need with it (`make neighbours`).

use super::create::Client;
use super::{IMAGE, archive};
use crate::Setup;
use crate::pairs::{Pairs, Side, order};
use crate::record::Record;
use crate::server::{Server, signal};
use crate::stats::{median, quantile};
use anyhow::{Context, ensure};
use std::time::Duration;
use tokio::time::Instant;

#[allow(unreachable_pub, reason = "in its own crate it is reached")]
#[path = "../../../tests/e2e/src/attacks.rs"]
mod attacks;

const PAIRS: usize = 12;
/// Creates per turn.
const PER_TURN: usize = 200;
/// What is under way when the attacker is held or let go.
const SETTLE: Duration = Duration::from_millis(100);
/// For the attack to be in full swing.
const SWING: Duration = Duration::from_secs(3);

pub(crate) async fn run(setup: &Setup) -> anyhow::Result<Vec<Record>> {
    let server = Server::start(setup, 1, None).await?;
    server.cli_ok(&["image", "import", &archive(setup)])?;
    let client = Client::new(&server);
    let (mut tails, mut middles, mut made) = (Pairs::default(), Pairs::default(), 0);
    for (number, (what, script)) in attacks::ATTACKS.iter().enumerate() {
        let name = format!("attacker-{number}");
        server.cli_ok(&[
            "agent",
            "create",
            "--wait",
            "--restart",
            "always",
            "--name",
            &name,
            "--image",
            IMAGE,
            "--memory",
            "256",
            "--disk",
            "1024",
            "--",
            "sh",
            "-c",
            script,
        ])?;
        tokio::time::sleep(SWING).await;
        let vmm = server.vmms().into_iter().next().with_context(|| format!("{what}: the attacker has no VMM"))?;
        tails.begin_group();
        middles.begin_group();
        for n in 0..PAIRS {
            for side in order(n) {
                let attacks = matches!(side, Side::Ours | Side::Between);
                signal(vmm, if attacks { libc::SIGCONT } else { libc::SIGSTOP })?;
                tokio::time::sleep(SETTLE).await;
                let mut took = Vec::new();
                for _ in 0..PER_TURN {
                    made += 1;
                    let began = Instant::now();
                    tokio::task::block_in_place(|| client.create(made))?;
                    took.push(began.elapsed().as_secs_f64() * 1e6);
                }
                tails.push(side, quantile(&took, 0.99));
                middles.push(side, median(&took));
            }
        }
        signal(vmm, libc::SIGCONT)?;
        ensure!(server.vmms().contains(&vmm), "{what}: the attacker ended meanwhile");
        server.destroy(&name).await?;
    }
    // The others never ran.
    server.abandon()?;
    Ok(vec![
        tails.ratio(
            "neighbour",
            "99th percentile of durable creates beside an attack, over the same without",
            "µs",
            1.2,
        ),
        Record { target: None, met: None, ..middles.ratio("neighbour.p50", "the same at the median", "µs", f64::MAX) },
    ])
}
