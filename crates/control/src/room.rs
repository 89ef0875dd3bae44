//! Whether the server's own disk has room for something new. What lies beyond
//! the low water mark is for reading and deleting.

use crate::problem::ApiError;
use aether_core::Code;
use aether_reserve::{Reserve, Space};
use std::path::Path;

/// Seconds; somebody has to free space first.
const RETRY_AFTER: u64 = 30;

/// Refuses what is new while the disk of the embedded store is nearly full.
pub(crate) fn check(store_dir: Option<&Path>) -> Result<(), ApiError> {
    let Some(dir) = store_dir else { return Ok(()) };
    judge(Space::of(dir), Reserve::default())
}

fn judge(space: std::io::Result<Space>, reserve: Reserve) -> Result<(), ApiError> {
    // Who cannot be asked is no reason to refuse: a write that fails says so.
    let Ok(space) = space else { return Ok(()) };
    if space.above_low_water(reserve) {
        return Ok(());
    }
    let (free, kept) = (space.free_mb, space.reserve_mb(reserve));
    Err(ApiError::new(
        Code::InsufficientStorage,
        format!("The server's disk is nearly full: {free} MB are free, and {kept} MB are kept for what must go on."),
        "Free space on it: `aether image prune`, `aether system prune`, or destroy agents.",
    )
    .retry_after(RETRY_AFTER))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nearly_full_disk_refuses_with_cause_and_remedy() {
        let space = |free_mb| Ok(Space { total_mb: 1000, free_mb });
        assert!(judge(space(51), Reserve::default()).is_ok());
        let refused = judge(space(50), Reserve::default()).expect_err("refused").problem;
        assert_eq!((refused.status, refused.retry_after), (507, Some(RETRY_AFTER)));
        assert!(refused.detail.contains("50 MB are free") && refused.remedy.contains("prune"), "{refused:?}");
        assert!(judge(Err(std::io::ErrorKind::NotFound.into()), Reserve::default()).is_ok());
        assert!(check(None).is_ok());
    }
}
