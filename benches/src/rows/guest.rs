//! How large the guest is that every sandbox carries.

use crate::Setup;
use crate::record::Record;
use crate::stats::Interval;

pub(crate) fn run(setup: &Setup) -> anyhow::Result<Vec<Record>> {
    #[allow(clippy::cast_precision_loss, reason = "a few megabytes")]
    let mib = std::fs::metadata(&setup.guest)?.len() as f64 / f64::from(1 << 20);
    let value = Interval { mid: mib, low: mib, high: mib };
    Ok(vec![Record::amount("guest", "size of the static guest executable", "MiB", value, 1, Some(4.0))])
}
