//! The table of routes: who may call each, and how long it may take. A
//! handler that is not in it is not served, and it cannot be in it without
//! saying both.

use super::{
    agents, audit, audit_export, auth, budgets, bulk, events, exec, exec_stream, files, images, keys, logs, master_key,
    ports, quotas, roles, secrets, service_accounts, system, tenants, update, usage, users, wishes,
};
use crate::app::App;
use crate::rates::Class;
use aether_core::Permission as P;
use axum::routing::MethodRouter;
use utoipa::openapi::RefOr;
use utoipa::openapi::path::Paths;
use utoipa::openapi::schema::Schema;
use utoipa_axum::routes;

/// What a caller needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Open,
    /// Open, or a key with `agent:read`, by configuration.
    Metrics,
    /// Whoever is known, whatever they may do.
    Caller,
    Needs(P),
}

/// Which row of `config::Deadlines` holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deadline {
    Short,
    /// The handler waits within the `wait` limit by itself.
    Wait,
    /// The exec's own time-out, kept by the handler.
    Exec,
    /// None: a stream lives as long as both ends want.
    Stream,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Rule {
    pub(crate) access: Access,
    pub(crate) deadline: Deadline,
    /// Which rate holds beside those of tenant and caller.
    pub(crate) class: Class,
}

/// One operation: its rule, its handler, its part of the OpenAPI document.
pub(crate) struct Entry {
    pub(crate) rule: Rule,
    /// As axum writes it (`{*name}`).
    pub(crate) path: String,
    pub(crate) handlers: MethodRouter<App>,
    pub(crate) document: Paths,
    pub(crate) schemas: Vec<(String, RefOr<Schema>)>,
}

fn entry(access: Access, deadline: Deadline, routes: utoipa_axum::router::UtoipaMethodRouter<App>) -> Entry {
    let (schemas, document, handlers) = routes;
    let path = document.paths.keys().next().cloned().expect("each entry documents one path");
    Entry { rule: Rule { access, deadline, class: Class::Other }, path, handlers, document, schemas }
}

impl Entry {
    fn of(mut self, class: Class) -> Self {
        self.rule.class = class;
        self
    }
}

/// Every operation of the API.
pub(crate) fn table() -> Vec<Entry> {
    use Access::{Caller, Metrics, Needs, Open};
    use Deadline::{Exec, Short, Stream, Wait};
    vec![
        entry(Open, Short, routes!(system::health)),
        entry(Open, Short, routes!(system::health_v1)),
        entry(Open, Short, routes!(system::readiness)),
        entry(Metrics, Short, routes!(system::metrics)),
        entry(Open, Short, routes!(system::version)),
        entry(Open, Short, routes!(system::openapi_json)),
        entry(Open, Short, routes!(system::openapi_json_v1)),
        entry(Needs(P::SchedulerRead), Short, routes!(system::nodes)),
        entry(Open, Short, routes!(auth::jwks)),
        entry(Open, Short, routes!(auth::token)),
        entry(Open, Short, routes!(auth::login)),
        entry(Open, Short, routes!(auth::refresh)),
        entry(Caller, Short, routes!(auth::logout)),
        entry(Needs(P::KeyManage), Short, routes!(users::create)),
        entry(Needs(P::KeyManage), Short, routes!(users::list)),
        entry(Needs(P::KeyManage), Short, routes!(users::get)),
        entry(Needs(P::KeyManage), Short, routes!(users::update)),
        entry(Needs(P::KeyManage), Short, routes!(users::delete)),
        entry(Needs(P::KeyManage), Short, routes!(keys::create)),
        entry(Needs(P::KeyManage), Short, routes!(keys::list)),
        entry(Needs(P::KeyManage), Short, routes!(keys::get)),
        entry(Needs(P::KeyManage), Short, routes!(keys::update)),
        entry(Needs(P::KeyManage), Short, routes!(keys::rotate)),
        entry(Needs(P::KeyManage), Short, routes!(keys::revoke)),
        entry(Needs(P::KeyManage), Short, routes!(service_accounts::create)),
        entry(Needs(P::KeyManage), Short, routes!(service_accounts::list)),
        entry(Needs(P::KeyManage), Short, routes!(service_accounts::get)),
        entry(Needs(P::KeyManage), Short, routes!(service_accounts::disable)),
        entry(Needs(P::KeyManage), Short, routes!(service_accounts::enable)),
        entry(Needs(P::KeyManage), Short, routes!(service_accounts::delete)),
        entry(Needs(P::KeyManage), Short, routes!(roles::create)),
        entry(Needs(P::KeyManage), Short, routes!(roles::list)),
        entry(Needs(P::KeyManage), Short, routes!(roles::get)),
        entry(Needs(P::KeyManage), Short, routes!(roles::update)),
        entry(Needs(P::KeyManage), Short, routes!(roles::delete)),
        entry(Needs(P::TenantRead), Short, routes!(tenants::me)),
        entry(Needs(P::TenantWrite), Short, routes!(tenants::update_me)),
        entry(Needs(P::PlatformAdmin), Short, routes!(tenants::list)),
        entry(Needs(P::PlatformAdmin), Short, routes!(tenants::create)),
        entry(Needs(P::PlatformAdmin), Short, routes!(tenants::get)),
        entry(Needs(P::PlatformAdmin), Short, routes!(tenants::update)),
        entry(Needs(P::PlatformAdmin), Short, routes!(tenants::delete)),
        entry(Needs(P::PlatformAdmin), Short, routes!(tenants::suspend)),
        entry(Needs(P::PlatformAdmin), Short, routes!(tenants::resume)),
        entry(Needs(P::PlatformAdmin), Short, routes!(quotas::list)),
        entry(Needs(P::QuotaRead), Short, routes!(quotas::get)),
        entry(Needs(P::QuotaRead), Short, routes!(quotas::usage)),
        entry(Needs(P::QuotaWrite), Short, routes!(quotas::set)),
        entry(Needs(P::QuotaRead), Short, routes!(budgets::list)),
        entry(Needs(P::TenantWrite), Short, routes!(budgets::set)),
        entry(Needs(P::TenantWrite), Short, routes!(budgets::lift)),
        entry(Needs(P::SecretRead), Short, routes!(secrets::list)),
        entry(Needs(P::SecretRead), Short, routes!(secrets::get)),
        entry(Needs(P::SecretWrite), Short, routes!(secrets::set)),
        entry(Needs(P::SecretWrite), Short, routes!(secrets::delete)),
        entry(Needs(P::SecretWrite), Short, routes!(secrets::rotate)),
        entry(Needs(P::PlatformAdmin), Short, routes!(master_key::get)),
        entry(Needs(P::PlatformAdmin), Short, routes!(master_key::change)),
        entry(Needs(P::AgentRead), Short, routes!(agents::list)),
        entry(Needs(P::AgentCreate), Wait, routes!(agents::create)).of(Class::Create),
        entry(Needs(P::AgentCreate), Wait, routes!(bulk::create)).of(Class::Create),
        entry(Needs(P::AgentDelete), Wait, routes!(bulk::delete)),
        entry(Needs(P::AgentRead), Short, routes!(agents::get)),
        entry(Needs(P::AgentUpdate), Short, routes!(update::update)),
        entry(Needs(P::AgentDelete), Short, routes!(wishes::delete)),
        entry(Needs(P::AgentUpdate), Wait, routes!(wishes::start)),
        entry(Needs(P::AgentUpdate), Wait, routes!(wishes::stop)),
        entry(Needs(P::AgentRead), Short, routes!(agents::health)),
        entry(Needs(P::AgentRead), Short, routes!(agents::stats)),
        entry(Needs(P::AgentLogs), Stream, routes!(logs::logs)),
        entry(Needs(P::AgentExec), Exec, routes!(exec::run)).of(Class::Exec),
        entry(Needs(P::AgentExec), Stream, routes!(exec_stream::stream)).of(Class::Exec),
        entry(Needs(P::AgentExec), Short, routes!(exec::list)),
        entry(Needs(P::AgentExec), Short, routes!(exec::get)),
        entry(Needs(P::AgentExec), Short, routes!(exec::signal)),
        entry(Needs(P::AgentExec), Stream, routes!(files::get)),
        entry(Needs(P::AgentExec), Short, routes!(files::head)),
        entry(Needs(P::AgentExec), Stream, routes!(files::put)),
        entry(Needs(P::AgentExec), Short, routes!(files::delete)),
        entry(Needs(P::AgentRead), Stream, routes!(events::events)),
        entry(Needs(P::AuditRead), Short, routes!(audit::list)),
        entry(Needs(P::AuditRead), Stream, routes!(audit_export::export)),
        entry(Needs(P::AgentExec), Stream, routes!(ports::forward)),
        entry(Needs(P::AgentRead), Short, routes!(usage::df)),
        entry(Needs(P::AgentRead), Short, routes!(images::list)),
        entry(Needs(P::AgentCreate), Stream, routes!(images::add)),
        entry(Needs(P::AgentRead), Short, routes!(images::get)),
        entry(Needs(P::AgentCreate), Short, routes!(images::remove)),
        entry(Needs(P::AgentCreate), Short, routes!(usage::tag)),
        entry(Needs(P::AgentCreate), Short, routes!(usage::prune)),
    ]
}
