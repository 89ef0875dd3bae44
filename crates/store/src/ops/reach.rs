//! What a narrowed scope touches: the one place where the store asks. A row
//! out of reach is as absent as another tenant's; what a caller makes or
//! changes must stay within its reach. What that is, `core::reach` says.

use crate::error::StoreError;
use crate::model::AgentRow;
use crate::tx::Value;
use aether_core::spec::validate_pairs;
use aether_core::{AgentSpec, TenantScope};

pub(crate) fn reaches(scope: &TenantScope, row: &AgentRow) -> bool {
    scope.reach().is_none_or(|reach| reach.admits(&row.spec.labels, &row.spec.image))
}

/// The row, or that there is none.
pub(crate) fn found(scope: &TenantScope, row: AgentRow) -> Result<AgentRow, StoreError> {
    if reaches(scope, &row) { Ok(row) } else { Err(StoreError::no_agent()) }
}

/// The same as [`reaches`], of a row of `agents` in a query: conditions that
/// begin with AND, or nothing. Their parameters go to the end of `values`.
pub(crate) fn condition(scope: &TenantScope, values: &mut Vec<Value>) -> String {
    let Some(reach) = scope.reach() else { return String::new() };
    let mut push = |value: Value| {
        values.push(value);
        format!("${}", values.len())
    };
    let mut sql = String::new();
    for (key, value) in &reach.labels {
        let (tenant, key, value) =
            (push(scope.tenant().as_str().into()), push(key.as_str().into()), push(value.as_str().into()));
        sql.push_str(&format!(
            " AND id IN (SELECT agent_id FROM agent_labels
               WHERE tenant_id = {tenant} AND kind = 'label' AND key = {key} AND value = {value})"
        ));
    }
    if !reach.images.is_empty() {
        let any = reach.images.iter().map(|pattern| {
            let (form, begins) = pattern.parts();
            let text = push(form.into());
            if !begins {
                return format!("image_ref = {text}");
            }
            let length = push((form.chars().count() as u64).into());
            format!("(substr(image_ref, 1, CAST({length} AS INTEGER)) = {text} AND image_ref NOT LIKE '%@%')")
        });
        let any: Vec<String> = any.collect();
        sql.push_str(&format!(" AND ({})", any.join(" OR ")));
    }
    sql
}

/// Makes a new agent one that its maker reaches: labels that are absent are
/// added; another value, or another image, is refused.
pub(crate) fn narrow(scope: &TenantScope, spec: &mut AgentSpec) -> Result<(), StoreError> {
    let Some(reach) = scope.reach() else { return Ok(()) };
    for (key, value) in &reach.labels {
        spec.labels.entry(key.clone()).or_insert_with(|| value.clone());
    }
    keeps(scope, spec)?;
    let errors = validate_pairs("labels", &spec.labels);
    if errors.is_empty() { Ok(()) } else { Err(StoreError::Invalid { errors }) }
}

/// That a changed agent stays within the reach of who changes it.
pub(crate) fn keeps(scope: &TenantScope, spec: &AgentSpec) -> Result<(), StoreError> {
    let Some(reach) = scope.reach() else { return Ok(()) };
    if let Some((key, value)) = reach.misses(&spec.labels) {
        return Err(StoreError::Narrowed { detail: format!("agents with the label {key}={value}") });
    }
    if !reach.admits_image(&spec.image) {
        let images: Vec<&str> = reach.images.iter().map(|pattern| pattern.as_str()).collect();
        return Err(StoreError::Narrowed { detail: format!("the images {}", images.join(", ")) });
    }
    Ok(())
}
