//! What runs on the machine with the sandboxes: the server and the tools for
//! whoever keeps it.
//!
//! - `parts`: the configuration turned into the parts' own options
//! - `server`: the parts put together, run, and taken apart again
//! - `reload`: SIGHUP
//! - `folders`, `listen`, `notify`, `logging`: what a daemon needs of its host
//! - `migrate`, `doctor`: the same parts, looked at one by one

mod destroy;
mod doctor;
mod folders;
mod listen;
mod logging;
mod migrate;
mod notify;
mod parts;
mod reload;
mod server;

#[cfg(test)]
#[path = "wired_tests.rs"]
mod wired;

pub(crate) use doctor::doctor;
pub(crate) use migrate::migrate;
pub(crate) use server::server;

use std::ffi::OsStr;

/// Dispatches the verbs that a sandbox's processes are born through. They
/// never return; for any other command line this does nothing.
pub(crate) fn hidden_verb() {
    let mut args = std::env::args_os().skip(1);
    let Some(verb) = args.next() else { return };
    if verb == OsStr::new(aether_node::jail::VERB) {
        aether_node::jail::main(args)
    }
    if verb == OsStr::new(aether_node::images::convert::VERB) {
        aether_node::images::convert::main(args)
    }
}
