//! `/v1/quotas/{tenant_id}/labels`: what the agents that carry a label may
//! have together, under the tenant's quota. Budgets of keys are with the keys.

use super::Caller;
use super::extract::{Json, Params};
use super::quotas::visible;
use super::tenants::kept;
use crate::app::App;
use crate::problem::ApiError;
use aether_core::Problem;
use aether_core::api::{Budget, LabelBudget, QuotaUsage};
use aether_core::spec::validate_pairs;
use aether_core::tenant::BudgetOf;
use aether_store::BudgetRow;
use axum::extract::{Path, State};
use http::StatusCode;
use std::collections::BTreeMap;

/// None: of a key.
fn document(row: &BudgetRow) -> Option<LabelBudget> {
    let BudgetOf::Label { key, value } = &row.of else { return None };
    let budget = Budget::from(row.limits);
    Some(LabelBudget { label: format!("{key}={value}"), budget, usage: QuotaUsage::from(row.used) })
}

fn pair(text: &str) -> Result<(String, String), ApiError> {
    let Some(BudgetOf::Label { key, value }) = BudgetOf::label(text) else {
        return Err(ApiError::field("label", "must be key=value"));
    };
    let errors = validate_pairs("label", &BTreeMap::from([(key.clone(), value.clone())]));
    if errors.is_empty() { Ok((key, value)) } else { Err(ApiError::validation(errors)) }
}

/// The budgets of a tenant's labels, with what is held of each.
#[utoipa::path(
    get, path = "/v1/quotas/{tenant_id}/labels", operation_id = "list_label_budgets", tag = "quotas",
    params(("tenant_id" = String, Path, description = "The caller's own (also as `me`), or any for an operator")),
    responses((status = 200, body = Vec<LabelBudget>), (status = 404, body = Problem))
)]
pub(crate) async fn list(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
    params: Params,
) -> Result<axum::Json<Vec<LabelBudget>>, ApiError> {
    params.done()?;
    let id = visible(&app, &caller, &id).await?;
    let rows = app.store.budgets(&id).await?;
    Ok(axum::Json(rows.iter().filter_map(document).collect()))
}

/// Set the budget of a label. What its agents hold already stays, above a new
/// limit too.
#[utoipa::path(
    put, path = "/v1/quotas/{tenant_id}/labels/{label}", operation_id = "set_label_budget", tag = "quotas",
    request_body = Budget,
    params(
        ("tenant_id" = String, Path, description = "The caller's own (also as `me`), or any for an operator"),
        ("label" = String, Path, description = "`key=value`"),
    ),
    responses(
        (status = 200, body = LabelBudget), (status = 400, body = Problem), (status = 404, body = Problem),
        (status = 409, body = Problem),
    )
)]
pub(crate) async fn set(
    State(app): State<App>,
    caller: Caller,
    Path((id, label)): Path<(String, String)>,
    params: Params,
    Json(budget): Json<Budget>,
) -> Result<axum::Json<LabelBudget>, ApiError> {
    params.done()?;
    let id = visible(&app, &caller, &id).await?;
    let label = pair(&label)?;
    let limits = budget.check().map_err(ApiError::validation)?;
    let row = app.store.set_label_budget(&caller.scope(), &id, label, Some(limits)).await.map_err(kept)?;
    let shown = row.as_ref().and_then(document);
    shown.map(axum::Json).ok_or_else(|| ApiError::internal("a budget that was set is not there"))
}

/// Lift the budget of a label.
#[utoipa::path(
    delete, path = "/v1/quotas/{tenant_id}/labels/{label}", operation_id = "lift_label_budget", tag = "quotas",
    params(
        ("tenant_id" = String, Path, description = "The caller's own (also as `me`), or any for an operator"),
        ("label" = String, Path, description = "`key=value`"),
    ),
    responses((status = 204), (status = 404, body = Problem), (status = 409, body = Problem))
)]
pub(crate) async fn lift(
    State(app): State<App>,
    caller: Caller,
    Path((id, label)): Path<(String, String)>,
    params: Params,
) -> Result<StatusCode, ApiError> {
    params.done()?;
    let id = visible(&app, &caller, &id).await?;
    app.store.set_label_budget(&caller.scope(), &id, pair(&label)?, None).await.map_err(kept)?;
    Ok(StatusCode::NO_CONTENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_of_paths() {
        assert_eq!(pair("team=a").ok(), Some(("team".into(), "a".into())));
        assert_eq!(pair("a=b=c").ok(), Some(("a".into(), "b=c".into())));
        for bad in ["", "team", "=a", &"k".repeat(5000)] {
            assert!(pair(bad).is_err(), "{bad:.20}");
        }
        let long = format!("team={}", "v".repeat(5000));
        assert_eq!(pair(&long).expect_err("too long").problem.errors[0].field, "label");
    }
}
