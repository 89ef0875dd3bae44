//! An image becomes a device: `aether image import` (digests checked, jailed,
//! synced) beside unpacking by hand and `mksquashfs` with the same
//! compression.

use super::archive;
use crate::Setup;
use crate::pairs::{Pairs, Side, order};
use crate::record::Record;
use crate::server::Server;
use anyhow::ensure;
use std::path::Path;
use std::process::Command;
use tokio::time::Instant;

const PAIRS: usize = 15;
const BY_HAND: &str = r#"set -e
mkdir layout root
tar -xf "$1" -C layout
manifest=layout/blobs/sha256/$(jq -r '.manifests[0].digest' layout/index.json | cut -d: -f2)
for layer in $(jq -r '.layers[].digest' "$manifest" | cut -d: -f2); do
  tar -xzf "layout/blobs/sha256/$layer" -C root --numeric-owner --xattrs --xattrs-include='*'
done
mksquashfs root device -comp lz4 -no-progress -quiet -processors 2 -mem 512M
"#;

pub(crate) async fn run(setup: &Setup) -> anyhow::Result<Vec<Record>> {
    let archive = archive(setup);
    let mut pairs = Pairs::default();
    for n in 0..PAIRS {
        for side in order(n).into_iter().filter(|s| *s != Side::Between) {
            let took = match side {
                // A node keeps what it has: each import meets a new one.
                Side::Ours => {
                    let server = Server::start(setup, 1, None).await?;
                    let began = Instant::now();
                    server.cli_ok(&["image", "import", "--quiet", &archive])?;
                    let took = began.elapsed();
                    server.stop()?;
                    took
                }
                Side::Peer | Side::Again | Side::Between => {
                    let dir = tempfile::Builder::new().prefix("aether-hand-").tempdir()?;
                    let began = Instant::now();
                    by_hand(dir.path(), &archive)?;
                    began.elapsed()
                }
            };
            pairs.push(side, took.as_secs_f64() * 1000.0);
        }
    }
    Ok(vec![pairs.ratio("convert", "import of the demo's image over tar and mksquashfs by hand", "ms", 2.0)])
}

fn by_hand(dir: &Path, archive: &str) -> anyhow::Result<()> {
    let output = Command::new("sh").args(["-c", BY_HAND, "by-hand", archive]).current_dir(dir).output()?;
    ensure!(output.status.success(), "by hand: {}", String::from_utf8_lossy(&output.stderr));
    ensure!(std::fs::metadata(dir.join("device"))?.len() > 1 << 20, "by hand made nothing");
    Ok(())
}
