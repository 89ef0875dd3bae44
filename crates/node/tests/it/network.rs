//! The network as a guest meets it: every claim is probed with real sockets
//! or raw frames from the guest's side, with a control that the same probe
//! succeeds where it should.

#[path = "network/dns.rs"]
mod dns;
#[path = "network/frames.rs"]
mod frames;
#[path = "network/lab.rs"]
mod lab;
#[path = "network/life.rs"]
mod life;
#[path = "network/reach.rs"]
mod reach;
