//! The operations, each written once for both engines.
//!
//! Rules that hold for every one of them: rows are locked in the order epoch,
//! node, agent, tenant, counts; several of a kind in the order of their names; a row is locked before it is read for writing; what can be
//! refused is refused before the first write, so that batches need no
//! savepoints; the change, its event and its audit record are one transaction.

pub(crate) mod agent_row;
pub(crate) mod agents;
pub(crate) mod assign;
pub(crate) mod audit;
pub(crate) mod audit_chain;
pub(crate) mod audit_digests;
pub(crate) mod audit_export;
pub(crate) mod budgets;
pub(crate) mod counts;
pub(crate) mod desire;
pub(crate) mod events;
pub(crate) mod execs;
pub(crate) mod idempotency;
pub(crate) mod keys;
pub(crate) mod leadership;
pub(crate) mod listing;
pub(crate) mod master;
pub(crate) mod nodes;
pub(crate) mod once;
pub(crate) mod place;
pub(crate) mod prune;
pub(crate) mod quota;
pub(crate) mod reach;
pub(crate) mod recover;
pub(crate) mod renumber;
pub(crate) mod reports;
pub(crate) mod reservation;
pub(crate) mod roles;
pub(crate) mod secrets;
pub(crate) mod service_accounts;
pub(crate) mod sessions;
pub(crate) mod tenants;
pub(crate) mod update;
pub(crate) mod users;
