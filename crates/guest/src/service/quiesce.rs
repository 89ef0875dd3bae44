//! Freezing the writable disk for a moment, with a timer that thaws it even
//! if the host never comes back.

use crate::boot::mounts;
use crate::{Guest, lock, sys};
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::task::AbortHandle;

/// A frozen disk stops every program that writes.
pub const LONGEST: Duration = Duration::from_secs(60);

#[derive(Default)]
pub struct Freezer {
    timer: Mutex<Option<AbortHandle>>,
}

impl Freezer {
    /// Syncs and freezes; again while frozen only sets the timer anew.
    pub fn freeze(&self, guest: &Arc<Guest>, limit: Duration) -> io::Result<()> {
        let mut timer = lock(&self.timer);
        match timer.take() {
            Some(running) => running.abort(),
            None => {
                nix::unistd::sync();
                if let Some(disk) = mounts::disk() {
                    sys::freeze(disk, true)?;
                }
            }
        }
        let guest = guest.clone();
        let limit = limit.min(LONGEST);
        let task = tokio::spawn(async move {
            tokio::time::sleep(limit).await;
            guest.frozen.thaw();
        });
        *timer = Some(task.abort_handle());
        Ok(())
    }

    /// Also when not frozen.
    pub fn thaw(&self) {
        if let Some(running) = lock(&self.timer).take() {
            if let Some(disk) = mounts::disk() {
                let _ = sys::freeze(disk, false);
            }
            running.abort();
        }
    }
}
