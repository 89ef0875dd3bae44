//! `/v1/system/master-key`: changing the key that seals, step by step. Keys
//! are told by their fingerprints alone.

use super::Caller;
use super::extract::{Json, Params};
use crate::app::App;
use crate::problem::ApiError;
use aether_core::Problem;
use aether_core::api::{MasterKey, MasterKeyRequest, MasterKeyState, MasterKeyStep};
use aether_store::{MasterKeyError, SealKeyError, Store, StoreError};
use axum::extract::State;

/// The keys of this server's file, which one seals, and what is still sealed with another.
#[utoipa::path(
    get, path = "/v1/system/master-key", operation_id = "get_master_key", tag = "system",
    responses((status = 200, body = MasterKeyState))
)]
pub(crate) async fn get(
    State(app): State<App>,
    _caller: Caller,
    params: Params,
) -> Result<axum::Json<MasterKeyState>, ApiError> {
    params.done()?;
    Ok(axum::Json(state(&app.store).await?))
}

/// Take one step: add a key, activate the newest, or drop those that seal nothing.
#[utoipa::path(
    post, path = "/v1/system/master-key", operation_id = "change_master_key", tag = "system",
    request_body = MasterKeyRequest,
    responses((status = 200, body = MasterKeyState), (status = 400, body = Problem), (status = 409, body = Problem))
)]
pub(crate) async fn change(
    State(app): State<App>,
    caller: Caller,
    params: Params,
    Json(request): Json<MasterKeyRequest>,
) -> Result<axum::Json<MasterKeyState>, ApiError> {
    params.done()?;
    let scope = caller.scope();
    match request.step {
        MasterKeyStep::Add => app.store.add_seal_key(&scope).await.map_err(refused)?,
        MasterKeyStep::Activate => app.store.activate_seal_key(&scope).await?,
        MasterKeyStep::Drop => app.store.drop_seal_keys(&scope).await.map_err(refused)?,
    }
    Ok(axum::Json(state(&app.store).await?))
}

async fn state(store: &Store) -> Result<MasterKeyState, StoreError> {
    let keys = store.seal_keys();
    let active = keys.active().fingerprint();
    let key = |id: String| MasterKey { active: id == active, id };
    let all = keys.all().iter().map(|k| key(k.fingerprint())).collect();
    Ok(MasterKeyState { keys: all, left: store.sealed_by_others().await? })
}

fn refused(error: MasterKeyError) -> ApiError {
    match error {
        MasterKeyError::Store(error) => error.into(),
        MasterKeyError::File(error @ SealKeyError::Full { .. }) => {
            ApiError::conflict("The key file holds as many keys as it may.", "Take the step `drop` first.")
                .inward(error.to_string())
        }
        MasterKeyError::File(error @ SealKeyError::NoFile) => {
            ApiError::conflict("This server has no key file.", "Start it with one.").inward(error.to_string())
        }
        MasterKeyError::File(error) => ApiError::internal(error.to_string()),
        MasterKeyError::Interrupted => ApiError::internal("the change of the key file was interrupted"),
    }
}
