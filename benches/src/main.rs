//! `make bench`: the rows of the table in docs/benchmarks.md, each ours
//! beside a peer or a bare baseline in the same run, interleaved, with an A-A
//! control. Results go to `results/bench.json`, one line per row.
//!
//! Names of rows as arguments run those alone; their lines replace the
//! earlier ones. A missed target is said and is no failure: a wrong answer is.
//!
//! Not here: tests. Nothing fails because it took long.

mod bare;
mod bare_store;
mod load;
mod pairs;
mod postgres;
mod record;
mod rows;
mod server;
mod stats;

use anyhow::{Context, bail};
use record::Book;
use std::path::{Path, PathBuf};

/// Where things are, from the environment that `make bench` sets.
pub(crate) struct Setup {
    /// The release build of the binary.
    aether: PathBuf,
    /// The folder of scripts/demo-image.sh.
    demo: PathBuf,
    guest: PathBuf,
}

impl Setup {
    fn from_env() -> anyhow::Result<Self> {
        let path = |name: &str| {
            let value = std::env::var_os(name).with_context(|| format!("{name} is not set: use `make bench`"))?;
            PathBuf::from(&value).canonicalize().with_context(|| format!("{name} names {}", value.display()))
        };
        Ok(Self { aether: path("AETHER_BIN")?, demo: path("AETHER_DEMO")?, guest: path("AETHER_GUEST_BIN")? })
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    if let [rows::BARE_SERVER, port, document] = wanted.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        return rows::serve(port.parse()?, Path::new(document)).await;
    }
    if let Some(unknown) = wanted.iter().find(|w| !rows::NAMES.contains(&w.as_str())) {
        bail!("no row {unknown}; there are: {}", rows::NAMES.join(", "));
    }
    let setup = Setup::from_env()?;
    let mut book = Book::open(PathBuf::from("results/bench.json"))?;
    for name in rows::NAMES {
        if !wanted.is_empty() && !wanted.iter().any(|w| w == name) {
            continue;
        }
        eprintln!("== {name}");
        let records = rows::run(name, &setup).await.with_context(|| format!("row {name}"))?;
        for record in &records {
            eprintln!("{}", record.sentence());
        }
        book.put(name, records)?;
    }
    Ok(())
}
