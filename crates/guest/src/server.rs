//! Both lanes on their threads, until they end.

use crate::lane::{self, Lane, Medium};
use crate::port::Port;
use crate::reaper::Reaper;
use crate::{Guest, Role, boot};
use std::fs::File;
use std::sync::Arc;

/// One thread and one runtime for each lane: control never waits behind bulk.
pub fn serve(
    role: Role,
    token: [u8; 16],
    reaper: Arc<Reaper>,
    control: File,
    data: File,
    medium: Medium,
) -> Result<(), String> {
    let (control_runtime, data_runtime) = (runtime()?, runtime()?);
    let guest = Guest::new(role, token, data_runtime.handle().clone(), reaper);
    if role == Role::Init
        && let Err(error) = guest.oom.start(guest.events.clone())
    {
        boot::say(&format!("out-of-memory kills will not be seen: {error}"));
    }
    let own = guest.clone();
    let data_thread = std::thread::Builder::new()
        .name("data".into())
        .spawn(move || data_runtime.block_on(run(own, data, Lane::Data, medium)))
        .map_err(|error| format!("cannot start the data lane: {error}"))?;
    control_runtime.block_on(run(guest, control, Lane::Control, medium))?;
    data_thread.join().map_err(|_| "the data lane panicked".to_owned())?
}

async fn run(guest: Arc<Guest>, file: File, which: Lane, medium: Medium) -> Result<(), String> {
    let port = Port::new(file).map_err(|error| format!("cannot use the {which:?} port: {error}"))?;
    lane::serve(guest, port, which, medium).await.map_err(|error| format!("the {which:?} lane failed: {error}"))
}

fn runtime() -> Result<tokio::runtime::Runtime, String> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        // Each holds one file transfer or one tree walk.
        .max_blocking_threads(64)
        .build()
        .map_err(|error| format!("cannot start the runtime: {error}"))
}
