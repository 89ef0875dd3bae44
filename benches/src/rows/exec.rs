//! Row 7: what the API adds to an exec. Ours: `POST …/exec` of `true` through
//! HTTP and authentication; the peer: a bare loop that asks a guest of the
//! same kind for the same spawn over the same kind of channel.

use super::{IMAGE, archive};
use crate::Setup;
use crate::bare::Bare;
use crate::pairs::{Pairs, Side, order};
use crate::record::Record;
use crate::server::Server;
use tokio::time::Instant;

const PAIRS: usize = 240;
const WARM_UP: usize = 30;
const ARGV: [&str; 1] = ["true"];

pub(crate) async fn run(setup: &Setup) -> anyhow::Result<Vec<Record>> {
    let server = Server::start(setup, 1, None).await?;
    server.cli_ok(&["image", "import", &archive(setup)])?;
    let id = server.create("exec", IMAGE).await?;
    let vm = Bare::of(setup, &server).await?;
    let vm = (vm.boot().await?, vm);
    let vm = &vm.0;
    vm.identify().await?;
    let mut pairs = Pairs::default();
    for n in 0..WARM_UP + PAIRS {
        for side in order(n) {
            let name = format!("{side:?}-{n}").to_lowercase();
            let began = Instant::now();
            match side {
                Side::Ours | Side::Between => drop(server.exec(&id, &ARGV).await?),
                Side::Peer | Side::Again => drop(vm.exec(&name, &ARGV).await?),
            }
            if n >= WARM_UP {
                pairs.push(side, began.elapsed().as_secs_f64() * 1000.0);
            }
        }
    }
    server.destroy(&id).await?;
    server.stop()?;
    Ok(vec![
        pairs.added("7", "added to a bare spawn over the channel: exec of `true` over HTTP", "ms", 1.0),
        pairs.p99("7.p99", "the same at the 99th percentile", "ms"),
    ])
}
