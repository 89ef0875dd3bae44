//! Images against real archives, a real registry, and the real jail.

mod archives;
mod hostile;
mod import;
mod real;
mod registry;
mod tidy;

use aether_core::source::{OsRng, SystemClock};
use aether_core::{AgentId, TenantId};
use aether_node::images::{Images, ImagesConfig, Progress};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Uids that no other test's converter uses at the same time.
fn converter_uid() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    1_900_000 + std::process::id() % 20_000 * 64 + NEXT.fetch_add(1, Ordering::Relaxed)
}

fn config(dir: &Path) -> ImagesConfig {
    let mut config = ImagesConfig::new(dir, crate::jail::verb());
    config.converter_uid = converter_uid();
    config.gc_grace = Duration::ZERO;
    config
}

async fn open(config: ImagesConfig) -> Images {
    Images::open(config, Arc::new(SystemClock::default()), Arc::new(OsRng)).await.expect("open the images")
}

fn tenant(name: &str) -> TenantId {
    name.parse().expect("a tenant id")
}

fn agent() -> AgentId {
    AgentId::generate("a", &OsRng)
}

fn quiet() -> Progress {
    Progress::none()
}
