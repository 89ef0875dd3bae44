//! What each operation needs and whose things it touches, said here a second
//! time: what the server's own table says does not count.

use aether_core::Role;

/// What the ids of an operation stand for, and where they stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Object {
    /// Nobody's: no key is asked for.
    Open,
    /// All that the caller's own tenant has.
    Own,
    /// The platform's, or every tenant's.
    Platform,
    Agent,
    /// Of an agent.
    Exec,
    Key,
    User,
    Secret,
    /// One of a name that nobody has.
    NewSecret,
    Image,
    /// An image, in the body.
    Source,
    /// Agents, in the body.
    Agents,
    /// A tenant that its own people may look at.
    Quota,
    /// A label of such a tenant.
    Label,
    Account,
    Role,
    Tenant,
}

pub(super) struct Row {
    pub(super) method: &'static str,
    pub(super) path: &'static str,
    pub(super) needs: &'static str,
    pub(super) object: Object,
}

const fn row(method: &'static str, path: &'static str, needs: &'static str, object: Object) -> Row {
    Row { method, path, needs, object }
}

use Object as O;

/// Whoever is let in at all.
pub(super) const ANYTHING: &str = "anything";

pub(super) const TABLE: &[Row] = &[
    row("GET", "/health", "", O::Open),
    row("GET", "/v1/health", "", O::Open),
    row("GET", "/readiness", "", O::Open),
    row("GET", "/metrics", "", O::Open),
    row("GET", "/v1/version", "", O::Open),
    row("GET", "/openapi.json", "", O::Open),
    row("GET", "/v1/openapi.json", "", O::Open),
    row("GET", "/.well-known/jwks.json", "", O::Open),
    row("POST", "/v1/auth/token", "", O::Open),
    row("POST", "/v1/auth/login", "", O::Open),
    row("POST", "/v1/auth/refresh", "", O::Open),
    row("POST", "/v1/auth/logout", ANYTHING, O::Own),
    row("POST", "/v1/users", "key:manage", O::Own),
    row("GET", "/v1/users", "key:manage", O::Own),
    row("GET", "/v1/users/{id}", "key:manage", O::User),
    row("PATCH", "/v1/users/{id}", "key:manage", O::User),
    row("DELETE", "/v1/users/{id}", "key:manage", O::User),
    row("GET", "/v1/scheduler/nodes", "scheduler:read", O::Platform),
    row("POST", "/v1/auth/keys", "key:manage", O::Own),
    row("GET", "/v1/auth/keys", "key:manage", O::Own),
    row("GET", "/v1/auth/keys/{id}", "key:manage", O::Key),
    row("PATCH", "/v1/auth/keys/{id}", "key:manage", O::Key),
    row("POST", "/v1/auth/keys/{id}/rotate", "key:manage", O::Key),
    row("DELETE", "/v1/auth/keys/{id}", "key:manage", O::Key),
    row("POST", "/v1/service-accounts", "key:manage", O::Own),
    row("GET", "/v1/service-accounts", "key:manage", O::Own),
    row("GET", "/v1/service-accounts/{id}", "key:manage", O::Account),
    row("POST", "/v1/service-accounts/{id}/disable", "key:manage", O::Account),
    row("POST", "/v1/service-accounts/{id}/enable", "key:manage", O::Account),
    row("DELETE", "/v1/service-accounts/{id}", "key:manage", O::Account),
    row("POST", "/v1/roles", "key:manage", O::Own),
    row("GET", "/v1/roles", "key:manage", O::Own),
    row("GET", "/v1/roles/{name}", "key:manage", O::Role),
    row("PATCH", "/v1/roles/{name}", "key:manage", O::Role),
    row("DELETE", "/v1/roles/{name}", "key:manage", O::Role),
    row("GET", "/v1/tenants/me", "tenant:read", O::Own),
    row("PATCH", "/v1/tenants/me", "tenant:write", O::Own),
    row("GET", "/v1/tenants", "platform:admin", O::Platform),
    row("POST", "/v1/tenants", "platform:admin", O::Platform),
    row("GET", "/v1/tenants/{id}", "platform:admin", O::Tenant),
    row("PATCH", "/v1/tenants/{id}", "platform:admin", O::Tenant),
    row("DELETE", "/v1/tenants/{id}", "platform:admin", O::Tenant),
    row("POST", "/v1/tenants/{id}/suspend", "platform:admin", O::Tenant),
    row("POST", "/v1/tenants/{id}/resume", "platform:admin", O::Tenant),
    row("GET", "/v1/quotas", "platform:admin", O::Platform),
    row("GET", "/v1/quotas/{tenant_id}", "quota:read", O::Quota),
    row("GET", "/v1/quotas/{tenant_id}/usage", "quota:read", O::Quota),
    row("PUT", "/v1/quotas/{tenant_id}", "quota:write", O::Quota),
    row("GET", "/v1/quotas/{tenant_id}/labels", "quota:read", O::Quota),
    row("PUT", "/v1/quotas/{tenant_id}/labels/{label}", "tenant:write", O::Label),
    row("DELETE", "/v1/quotas/{tenant_id}/labels/{label}", "tenant:write", O::Label),
    row("GET", "/v1/secrets", "secret:read", O::Own),
    row("GET", "/v1/secrets/{name}", "secret:read", O::Secret),
    row("PUT", "/v1/secrets/{name}", "secret:write", O::NewSecret),
    row("DELETE", "/v1/secrets/{name}", "secret:write", O::Secret),
    row("POST", "/v1/secrets/{name}/rotate", "secret:write", O::Secret),
    row("GET", "/v1/system/master-key", "platform:admin", O::Platform),
    row("POST", "/v1/system/master-key", "platform:admin", O::Platform),
    row("GET", "/v1/agents", "agent:read", O::Own),
    row("POST", "/v1/agents", "agent:create", O::Own),
    row("POST", "/v1/agents/bulk/create", "agent:create", O::Own),
    row("POST", "/v1/agents/bulk/delete", "agent:delete", O::Agents),
    row("GET", "/v1/agents/{id}", "agent:read", O::Agent),
    row("PATCH", "/v1/agents/{id}", "agent:update", O::Agent),
    row("DELETE", "/v1/agents/{id}", "agent:delete", O::Agent),
    row("POST", "/v1/agents/{id}/start", "agent:update", O::Agent),
    row("POST", "/v1/agents/{id}/stop", "agent:update", O::Agent),
    row("GET", "/v1/agents/{id}/health", "agent:read", O::Agent),
    row("GET", "/v1/agents/{id}/stats", "agent:read", O::Agent),
    row("GET", "/v1/agents/{id}/logs", "agent:logs", O::Agent),
    row("POST", "/v1/agents/{id}/exec", "agent:exec", O::Agent),
    row("GET", "/v1/agents/{id}/exec", "agent:exec", O::Agent),
    row("GET", "/v1/agents/{id}/execs", "agent:exec", O::Agent),
    row("GET", "/v1/agents/{id}/execs/{exec_id}", "agent:exec", O::Exec),
    row("POST", "/v1/agents/{id}/execs/{exec_id}/signal", "agent:exec", O::Exec),
    row("GET", "/v1/agents/{id}/files", "agent:exec", O::Agent),
    row("HEAD", "/v1/agents/{id}/files", "agent:exec", O::Agent),
    row("PUT", "/v1/agents/{id}/files", "agent:exec", O::Agent),
    row("DELETE", "/v1/agents/{id}/files", "agent:exec", O::Agent),
    row("GET", "/v1/agents/{id}/ports/{port}", "agent:exec", O::Agent),
    row("GET", "/v1/audit", "audit:read", O::Own),
    row("GET", "/v1/audit/export", "audit:read", O::Own),
    row("GET", "/v1/events", "agent:read", O::Own),
    row("GET", "/v1/system/df", "agent:read", O::Own),
    row("GET", "/v1/images", "agent:read", O::Own),
    row("POST", "/v1/images", "agent:create", O::Own),
    row("GET", "/v1/images/{name}", "agent:read", O::Image),
    row("DELETE", "/v1/images/{name}", "agent:create", O::Image),
    row("PUT", "/v1/images/{name}", "agent:create", O::Source),
    row("POST", "/v1/images/prune", "agent:create", O::Own),
];

/// Who holds a permission, beside the platform's admins, who hold all.
pub(super) fn holds(role: Role, permission: &str) -> bool {
    use Role::{Admin, Auditor, Developer, Operator, PlatformAdmin, Viewer};
    let holders: &[Role] = match permission {
        "agent:read" => &[Admin, Developer, Viewer, Auditor],
        "agent:logs" => &[Admin, Developer, Viewer],
        "agent:create" | "agent:update" | "agent:delete" | "agent:exec" => &[Admin, Developer],
        "quota:read" => &[Admin, Developer, Viewer, Operator],
        "key:manage" | "tenant:read" | "tenant:write" | "secret:read" | "secret:write" => &[Admin],
        "audit:read" => &[Admin, Auditor],
        ANYTHING => &[Admin, Developer, Viewer, Auditor, Operator],
        "scheduler:read" => &[Operator],
        "quota:write" | "platform:admin" => &[],
        other => panic!("{other} is not in the table of roles"),
    };
    role == PlatformAdmin || holders.contains(&role)
}

/// What a key that is narrowed to labels or images may at most.
pub(super) fn narrowed_may(permission: &str) -> bool {
    permission == ANYTHING || permission.starts_with("agent:") || matches!(permission, "quota:read" | "tenant:read")
}

/// An operation that the table does not have, or the document does not, is an
/// error.
pub(super) fn is_whole() {
    let document = serde_json::to_value(aether_control::openapi()).expect("JSON");
    let mut left: Vec<_> = TABLE.iter().map(|row| (row.method.to_owned(), row.path.to_owned())).collect();
    for (path, item) in document["paths"].as_object().expect("paths") {
        for method in item.as_object().expect("item").keys().filter(|m| m.parse::<http::Method>().is_ok()) {
            let operation = (method.to_uppercase(), path.clone());
            let known = left.iter().position(|row| *row == operation);
            left.swap_remove(known.unwrap_or_else(|| panic!("{operation:?} is not in the table of this test")));
        }
    }
    assert!(left.is_empty(), "no operation any more: {left:?}");
}
