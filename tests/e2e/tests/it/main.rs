//! End to end, in real microVMs. `make e2e` builds what they need and runs them.
#![allow(clippy::disallowed_methods, clippy::expect_used, reason = "tests wait on the real clock")]

mod api;
mod breadth;
mod clock;
mod crash;
mod edge;
mod examples;
mod faults;
mod full_disk;
mod growth;
mod idempotency;
mod ipv6;
mod isolation;
mod leaks;
mod machine;
mod memory;
mod neighbours;
mod secrets;
mod terminal;
mod tour;
