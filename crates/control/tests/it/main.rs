//! The control plane over real HTTP and a real store, with a scripted node
//! at the protocol boundary. Real machines are the end-to-end tests' matter.

mod abuse;
mod agents;
mod audit;
mod auth;
mod budgets;
mod docs;
mod events;
mod exec;
mod files;
mod fuzz_api;
mod harness;
mod http_limits;
mod idempotency;
mod identity;
mod images;
mod logins;
mod matrix;
mod narrowed;
mod node;
mod oidc;
mod ports;
mod rates;
mod redis;
mod secrets;
mod sessions;
mod signer;
mod standing;
mod stream;
mod tenants;
mod tls;
