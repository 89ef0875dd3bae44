//! Secrets of tenants: their versions, and what an agent is given of them.
//!
//! A value is sealed with a data key of its own, bound to tenant, secret and
//! version; the data key by the seal key, bound to the same: a row that was
//! moved opens nowhere. Who may have a value in clear is a node for an agent
//! that it begins ([`uses`]), and that is recorded before it is handed out.

use super::agent_row::{self, Trace};
use super::{audit, quota};
use crate::error::StoreError;
use crate::model::{
    AgentRow, HeldContent, HeldSecret, NewContent, NewSecret, SealedValue, SecretBackend, SecretRow, SecretUses,
    SecretVersionRow,
};
use crate::seal;
use crate::tx::{Context, Row, Tx, Value, params, query_one};
use aether_core::state::Desired;
use aether_core::{AgentId, FieldError, NodeId, SecretRef, TenantId, TenantScope};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use zeroize::Zeroizing;

/// Of one tenant.
const MAX_SECRETS: u64 = 500;
/// Versions of one secret; the oldest goes.
const VERSIONS_KEPT: u64 = 10;

const COLUMNS: &str =
    "s.name, s.description, s.version, v.backend, s.created_ms, s.created_by, s.updated_ms, s.updated_by";
const FROM: &str = "secrets s JOIN secret_versions v
    ON v.tenant_id = s.tenant_id AND v.name = s.name AND v.version = s.version";

fn backend(row: &Row) -> Result<SecretBackend, StoreError> {
    SecretBackend::from_text(&row.text("backend")?).ok_or_else(|| StoreError::internal("a secret is nowhere"))
}

fn decode(row: &Row) -> Result<SecretRow, StoreError> {
    Ok(SecretRow {
        name: row.text("name")?,
        description: row.text_opt("description")?,
        version: row.uint("version")?,
        backend: backend(row)?,
        created_at: row.time("created_ms")?,
        created_by: row.text("created_by")?,
        updated_at: row.time("updated_ms")?,
        updated_by: row.text("updated_by")?,
    })
}

fn no_secret() -> StoreError {
    StoreError::NotFound { what: "secret" }
}

/// Whom a version is bound to.
fn owner(tenant: &TenantId, name: &str, mark: &str, version: u64) -> Vec<String> {
    vec![tenant.to_string(), "secret".to_owned(), name.to_owned(), mark.to_owned(), version.to_string()]
}

/// The secret's mark and its newest version, locked.
async fn lock(tx: &mut dyn Tx, tenant: &TenantId, name: &str) -> Result<Option<(String, u64)>, StoreError> {
    let update = tx.dialect().for_update();
    let sql = format!("SELECT mark, version FROM secrets WHERE tenant_id = $1 AND name = $2{update}");
    let row = query_one(tx, &sql, params![tenant.as_str(), name]).await?;
    row.map(|row| Ok((row.text("mark")?, row.uint("version")?))).transpose()
}

/// A new secret, or a new version of one.
pub(crate) async fn put(
    tx: &mut dyn Tx,
    cx: &Context,
    scope: &TenantScope,
    new: &NewSecret,
) -> Result<SecretRow, StoreError> {
    quota::enter(tx, scope.tenant()).await?.require_active()?;
    let (tenant, name, now) = (scope.tenant(), new.name.as_str(), cx.now());
    let known = lock(tx, tenant, name).await?;
    let version = known.as_ref().map_or(1, |(_, version)| version + 1);
    let mark = match known {
        Some((mark, _)) => {
            tx.execute(
                "UPDATE secrets SET version = $1, updated_ms = $2, updated_by = $3,
                    description = COALESCE($4, description) WHERE tenant_id = $5 AND name = $6",
                params![version, now, scope.actor(), new.description.as_deref(), tenant.as_str(), name],
            )
            .await?;
            mark
        }
        None => first(tx, cx, scope, new).await?,
    };
    insert_version(tx, cx, scope, new, (&mark, version)).await?;
    if version > VERSIONS_KEPT {
        let sql = "DELETE FROM secret_versions WHERE tenant_id = $1 AND name = $2 AND version <= $3";
        tx.execute(sql, params![tenant.as_str(), name, version - VERSIONS_KEPT]).await?;
    }
    let action = if version == 1 { "create" } else { "update" };
    let row = find(tx, scope, name).await?.ok_or_else(no_secret)?;
    let details = json!({ "version": version, "backend": row.backend.as_str() });
    audit::success(tx, cx, scope, action, "secret", Some(name), details).await?;
    Ok(row)
}

/// Inserts the secret itself; its mark.
async fn first(tx: &mut dyn Tx, cx: &Context, scope: &TenantScope, new: &NewSecret) -> Result<String, StoreError> {
    let (tenant, now) = (scope.tenant(), cx.now());
    let count =
        query_one(tx, "SELECT count(*) AS n FROM secrets WHERE tenant_id = $1", params![tenant.as_str()]).await?;
    if count.map_or(Ok(0), |row| row.uint("n"))? >= MAX_SECRETS {
        let error = FieldError::new("name", format!("a tenant has at most {MAX_SECRETS} secrets; delete some"));
        return Err(StoreError::Invalid { errors: vec![error] });
    }
    let mut random = [0u8; 8];
    cx.rng.fill(&mut random);
    let mark = format!("{:016x}", u64::from_le_bytes(random));
    let made = tx
        .execute(
            "INSERT INTO secrets (tenant_id, name, mark, description, version, created_ms, created_by, updated_ms,
                updated_by) VALUES ($1, $2, $3, $4, 1, $5, $6, $5, $6) ON CONFLICT DO NOTHING",
            params![tenant.as_str(), new.name.as_str(), &mark, new.description.as_deref(), now, scope.actor()],
        )
        .await?;
    // Somebody else made it this moment: the same again is a new version.
    if made == 1 { Ok(mark) } else { Err(StoreError::Locked) }
}

async fn insert_version(
    tx: &mut dyn Tx,
    cx: &Context,
    scope: &TenantScope,
    new: &NewSecret,
    (mark, version): (&str, u64),
) -> Result<(), StoreError> {
    let owner = owner(scope.tenant(), new.name.as_str(), mark, version);
    let owner: Vec<&str> = owner.iter().map(String::as_str).collect();
    let (backend, sealed, wrapped, vault, bytes) = match &new.content {
        NewContent::Sealed(clear) => {
            let mut key = Zeroizing::new([0u8; 32]);
            cx.rng.fill(key.as_mut());
            let sealed = seal::seal_with(&key, &owner, clear, &*cx.rng)?;
            let wrapped = cx.seal.seal(&owner, key.as_ref(), &*cx.rng)?;
            (SecretBackend::Sealed, Some(sealed), Some(wrapped), None, clear.len() as u64)
        }
        NewContent::Transit { clear, key, wrapped } => {
            let sealed = seal::seal_with(key, &owner, clear, &*cx.rng)?;
            (SecretBackend::Transit, Some(sealed), Some(wrapped.clone().into_bytes()), None, clear.len() as u64)
        }
        NewContent::Vault { version, bytes } => (SecretBackend::Vault, None, None, Some(*version), *bytes),
    };
    tx.execute(
        "INSERT INTO secret_versions (tenant_id, name, version, backend, sealed, wrapped_key, vault_version, bytes,
            created_ms, created_by) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
        params![
            scope.tenant().as_str(),
            new.name.as_str(),
            version,
            backend.as_str(),
            sealed,
            wrapped,
            vault.map_or(Value::Int(None), Value::from),
            bytes,
            cx.now(),
            scope.actor(),
        ],
    )
    .await?;
    Ok(())
}

pub(crate) async fn find(tx: &mut dyn Tx, scope: &TenantScope, name: &str) -> Result<Option<SecretRow>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM {FROM} WHERE s.tenant_id = $1 AND s.name = $2");
    query_one(tx, &sql, params![scope.tenant().as_str(), name]).await?.as_ref().map(decode).transpose()
}

/// By name; there are few.
pub(crate) async fn list(tx: &mut dyn Tx, scope: &TenantScope) -> Result<Vec<SecretRow>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM {FROM} WHERE s.tenant_id = $1 ORDER BY s.name LIMIT 1000");
    tx.query(&sql, params![scope.tenant().as_str()]).await?.iter().map(decode).collect()
}

/// The newest first.
pub(crate) async fn versions(
    tx: &mut dyn Tx,
    scope: &TenantScope,
    name: &str,
) -> Result<Vec<SecretVersionRow>, StoreError> {
    let sql = "SELECT version, backend, bytes, created_ms, created_by FROM secret_versions
        WHERE tenant_id = $1 AND name = $2 ORDER BY version DESC";
    let rows = tx.query(sql, params![scope.tenant().as_str(), name]).await?;
    let decode = |row: &Row| {
        Ok(SecretVersionRow {
            version: row.uint("version")?,
            backend: backend(row)?,
            bytes: row.uint("bytes")?,
            created_at: row.time("created_ms")?,
            created_by: row.text("created_by")?,
        })
    };
    rows.iter().map(decode).collect()
}

/// With all its versions. Who keeps a value in Vault removes it there first.
pub(crate) async fn delete(tx: &mut dyn Tx, cx: &Context, scope: &TenantScope, name: &str) -> Result<(), StoreError> {
    let sql = "DELETE FROM secrets WHERE tenant_id = $1 AND name = $2";
    if tx.execute(sql, params![scope.tenant().as_str(), name]).await? != 1 {
        return Err(no_secret());
    }
    audit::success(tx, cx, scope, "delete", "secret", Some(name), json!({})).await
}

/// Secrets of the tenant with a version that is in Vault.
pub(crate) async fn in_vault(tx: &mut dyn Tx, tenant: &TenantId) -> Result<Vec<String>, StoreError> {
    let sql = "SELECT DISTINCT name FROM secret_versions WHERE tenant_id = $1 AND backend = 'vault'
        ORDER BY name LIMIT 1000";
    tx.query(sql, params![tenant.as_str()]).await?.iter().map(|row| row.text("name")).collect()
}

/// Refuses an agent that names what its tenant does not have.
pub(crate) async fn require(tx: &mut dyn Tx, tenant: &TenantId, refs: &[SecretRef]) -> Result<(), StoreError> {
    let known = known(tx, tenant, refs).await?;
    let missing = |(i, secret): (usize, &SecretRef)| {
        let error = || FieldError::new(format!("secrets[{i}].name"), "the tenant has no such secret");
        (!known.contains(&secret.name)).then(error)
    };
    let errors: Vec<FieldError> = refs.iter().enumerate().filter_map(missing).collect();
    if errors.is_empty() { Ok(()) } else { Err(StoreError::Invalid { errors }) }
}

/// Which of them the tenant has.
async fn known(tx: &mut dyn Tx, tenant: &TenantId, refs: &[SecretRef]) -> Result<BTreeSet<String>, StoreError> {
    if refs.is_empty() {
        return Ok(BTreeSet::new());
    }
    let marks: Vec<String> = (0..refs.len()).map(|i| format!("${}", i + 2)).collect();
    let mut values = params![tenant.as_str()];
    values.extend(refs.iter().map(|secret| Value::from(&secret.name)));
    let sql = format!("SELECT name FROM secrets WHERE tenant_id = $1 AND name IN ({})", marks.join(", "));
    tx.query(&sql, values).await?.iter().map(|row| row.text("name")).collect()
}

/// The first secret of the agent that is not there any more.
pub(crate) async fn missing(tx: &mut dyn Tx, row: &AgentRow) -> Result<Option<String>, StoreError> {
    let known = known(tx, &row.tenant, &row.spec.secrets).await?;
    Ok(row.spec.secrets.iter().find(|secret| !known.contains(&secret.name)).map(|secret| secret.name.clone()))
}

/// Whether this run of the agent is this node's to begin, by its present run.
fn is_begun_by(row: &AgentRow, node: &NodeId, generation: u64) -> bool {
    row.node_id.as_ref() == Some(node)
        && row.assigned
        && row.generation == generation
        && row.desired == Desired::Running
}

async fn require_epoch(tx: &mut dyn Tx, node: &NodeId, epoch: u64) -> Result<(), StoreError> {
    let row = query_one(tx, "SELECT node_epoch FROM scheduler_nodes WHERE id = $1", params![node.as_str()]).await?;
    let current = row.ok_or(StoreError::NotFound { what: "node" })?.uint("node_epoch")?;
    if current == epoch { Ok(()) } else { Err(StoreError::Fenced { held: epoch, current }) }
}

/// What the run gets, in the newest versions. Nothing is handed out before
/// [`record_use`] has said so.
pub(crate) async fn uses(
    tx: &mut dyn Tx,
    cx: &Context,
    (node, epoch): (&NodeId, u64),
    (agent, generation): (&AgentId, u64),
) -> Result<SecretUses, StoreError> {
    require_epoch(tx, node, epoch).await?;
    let row = super::agents::by_id(tx, agent).await?.filter(|row| is_begun_by(row, node, generation));
    let row = row.ok_or(StoreError::no_agent())?;
    let mut secrets: Vec<HeldSecret> = Vec::new();
    for wanted in &row.spec.secrets {
        if secrets.iter().all(|held| held.name != wanted.name) {
            secrets.push(held(tx, cx, &row.tenant, &wanted.name).await?);
        }
    }
    Ok(SecretUses { tenant: row.tenant, secrets })
}

async fn held(tx: &mut dyn Tx, cx: &Context, tenant: &TenantId, name: &str) -> Result<HeldSecret, StoreError> {
    let sql = format!(
        "SELECT s.mark, s.version, v.backend, v.sealed, v.wrapped_key, v.vault_version
         FROM {FROM} WHERE s.tenant_id = $1 AND s.name = $2"
    );
    let row = query_one(tx, &sql, params![tenant.as_str(), name]).await?;
    let row = row.ok_or_else(|| StoreError::SecretMissing { name: name.to_owned() })?;
    let version = row.uint("version")?;
    let owner = owner(tenant, name, &row.text("mark")?, version);
    let sealed = |row: &Row| row.bytes_opt("sealed")?.ok_or(StoreError::Unsealable);
    let wrapped = |row: &Row| row.bytes_opt("wrapped_key")?.ok_or(StoreError::Unsealable);
    let content = match backend(&row)? {
        SecretBackend::Sealed => {
            let parts: Vec<&str> = owner.iter().map(String::as_str).collect();
            let key = cx.seal.open(&parts, &wrapped(&row)?)?;
            HeldContent::Clear(seal::open_with(&key, &parts, &sealed(&row)?)?)
        }
        SecretBackend::Transit => HeldContent::Transit {
            wrapped: String::from_utf8(wrapped(&row)?).map_err(|_| StoreError::Unsealable)?,
            sealed: SealedValue { owner, bytes: sealed(&row)? },
        },
        SecretBackend::Vault => HeldContent::Vault { version: row.uint("vault_version")? },
    };
    Ok(HeldSecret { name: name.to_owned(), version, content })
}

/// That the run is given these, each with an audit record of its own.
pub(crate) async fn record_use(
    tx: &mut dyn Tx,
    cx: &Context,
    (node, epoch): (&NodeId, u64),
    (agent, generation): (&AgentId, u64),
    versions: &BTreeMap<String, u64>,
) -> Result<(), StoreError> {
    require_epoch(tx, node, epoch).await?;
    let (before, _) = agent_row::lock_any(tx, agent).await?.ok_or(StoreError::no_agent())?;
    if !is_begun_by(&before, node, generation) {
        return Err(StoreError::no_agent());
    }
    let scope = TenantScope::system(before.tenant.clone(), "secrets");
    for (name, version) in versions {
        let details =
            json!({ "version": version, "agent": agent.as_str(), "generation": generation, "node": node.as_str() });
        audit::success(tx, cx, &scope, "use", "secret", Some(name), details).await?;
    }
    if before.secret_versions == *versions {
        return Ok(());
    }
    let row = AgentRow { secret_versions: versions.clone(), ..before.clone() };
    let data = json!({ "secrets": versions });
    agent_row::save(tx, cx, &scope, &before, row, Trace { event: "agent.secrets", data, action: None }).await?;
    Ok(())
}
