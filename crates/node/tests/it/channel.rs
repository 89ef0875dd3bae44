//! The channel's client against the real guest code, over a relay that
//! behaves as badly as a virtio-serial port: one client at a time, bytes of
//! the old session left over for the next, bytes lost at a cut. `lies` has a
//! scripted guest in its place.

mod exec;
mod files;
mod lies;
mod lifecycle;
mod port;
mod probe;
mod resync;
mod sandbox;
pub(crate) mod scripted;
