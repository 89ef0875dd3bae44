//! Who may come in: API keys, service accounts, a tenant's own roles.

use super::Store;
use crate::error::StoreError;
use crate::model::{KeyChange, KeyRow, NewKey, NewServiceAccount, RoleRow, Rotation, ServiceAccountRow};
use crate::ops::{keys, roles, service_accounts};
use aether_core::{AgentName, KeyId, PermissionSet, ServiceAccountId, TenantScope};

/// API keys.
impl Store {
    pub async fn create_key(&self, scope: &TenantScope, new: NewKey) -> Result<KeyRow, StoreError> {
        self.write((scope.clone(), new), |tx, cx, (scope, new)| Box::pin(keys::create(tx, cx, scope, new))).await
    }

    /// Revoked ones too.
    pub async fn find_key(&self, scope: &TenantScope, id: &KeyId) -> Result<Option<KeyRow>, StoreError> {
        self.read((scope.clone(), id.clone()), |tx, _, (scope, id)| Box::pin(keys::find(tx, scope, id))).await
    }

    /// Of any tenant, by its id: for who was let in by it.
    pub async fn find_key_in_use(&self, id: &KeyId) -> Result<Option<KeyRow>, StoreError> {
        self.read(id.clone(), |tx, _, id| Box::pin(keys::find_in_use(tx, id))).await
    }

    pub async fn list_keys(&self, scope: &TenantScope) -> Result<Vec<KeyRow>, StoreError> {
        self.read(scope.clone(), |tx, _, scope| Box::pin(keys::list(tx, scope))).await
    }

    /// A new secret under the same id.
    pub async fn rotate_key(&self, scope: &TenantScope, id: &KeyId, new: Rotation) -> Result<KeyRow, StoreError> {
        self.write((scope.clone(), id.clone(), new), |tx, cx, (scope, id, new)| {
            Box::pin(keys::rotate(tx, cx, scope, (id, new)))
        })
        .await
    }

    pub async fn update_key(&self, scope: &TenantScope, id: &KeyId, change: KeyChange) -> Result<KeyRow, StoreError> {
        self.write((scope.clone(), id.clone(), change), |tx, cx, (scope, id, change)| {
            Box::pin(keys::update(tx, cx, scope, (id, change)))
        })
        .await
    }

    pub async fn revoke_key(&self, scope: &TenantScope, id: &KeyId) -> Result<(), StoreError> {
        self.write((scope.clone(), id.clone()), |tx, cx, (scope, id)| Box::pin(keys::revoke(tx, cx, scope, id))).await
    }

    /// Notes a use, at most once a minute.
    pub async fn touch_key(&self, id: &KeyId) -> Result<(), StoreError> {
        self.write(id.clone(), |tx, cx, id| Box::pin(keys::touch(tx, cx, id))).await
    }

    /// Of all tenants, revoked ones apart.
    pub async fn count_keys(&self) -> Result<u64, StoreError> {
        self.read((), |tx, _, ()| Box::pin(keys::count(tx))).await
    }
}

/// Service accounts.
impl Store {
    pub async fn create_service_account(
        &self,
        scope: &TenantScope,
        new: NewServiceAccount,
    ) -> Result<ServiceAccountRow, StoreError> {
        self.write((scope.clone(), new), |tx, cx, (scope, new)| Box::pin(service_accounts::create(tx, cx, scope, new)))
            .await
    }

    pub async fn find_service_account(
        &self,
        scope: &TenantScope,
        id_or_name: &str,
    ) -> Result<Option<ServiceAccountRow>, StoreError> {
        self.read((scope.clone(), id_or_name.to_owned()), |tx, _, (scope, id_or_name)| {
            Box::pin(service_accounts::find(tx, scope, id_or_name))
        })
        .await
    }

    pub async fn list_service_accounts(&self, scope: &TenantScope) -> Result<Vec<ServiceAccountRow>, StoreError> {
        self.read(scope.clone(), |tx, _, scope| Box::pin(service_accounts::list(tx, scope))).await
    }

    /// From its return on no key of a disabled one is taken.
    pub async fn set_service_account_enabled(
        &self,
        scope: &TenantScope,
        id: &ServiceAccountId,
        enabled: bool,
    ) -> Result<(), StoreError> {
        self.write((scope.clone(), id.clone(), enabled), |tx, cx, (scope, id, enabled)| {
            Box::pin(service_accounts::set_enabled(tx, cx, scope, (id, *enabled)))
        })
        .await
    }

    /// Revokes its keys; tells how many.
    pub async fn delete_service_account(&self, scope: &TenantScope, id: &ServiceAccountId) -> Result<u64, StoreError> {
        self.write((scope.clone(), id.clone()), |tx, cx, (scope, id)| {
            Box::pin(service_accounts::delete(tx, cx, scope, id))
        })
        .await
    }
}

/// Roles of a tenant's own.
impl Store {
    pub async fn create_role(
        &self,
        scope: &TenantScope,
        name: &AgentName,
        permissions: PermissionSet,
    ) -> Result<RoleRow, StoreError> {
        self.write((scope.clone(), name.clone(), permissions), |tx, cx, (scope, name, permissions)| {
            Box::pin(roles::create(tx, cx, scope, (name, *permissions)))
        })
        .await
    }

    pub async fn find_role(&self, scope: &TenantScope, name: &AgentName) -> Result<Option<RoleRow>, StoreError> {
        self.read((scope.clone(), name.clone()), |tx, _, (scope, name)| Box::pin(roles::find(tx, scope, name))).await
    }

    pub async fn list_roles(&self, scope: &TenantScope) -> Result<Vec<RoleRow>, StoreError> {
        self.read(scope.clone(), |tx, _, scope| Box::pin(roles::list(tx, scope))).await
    }

    /// Holds from its return on for whoever has the role.
    pub async fn update_role(
        &self,
        scope: &TenantScope,
        name: &AgentName,
        permissions: PermissionSet,
    ) -> Result<RoleRow, StoreError> {
        self.write((scope.clone(), name.clone(), permissions), |tx, cx, (scope, name, permissions)| {
            Box::pin(roles::update(tx, cx, scope, (name, *permissions)))
        })
        .await
    }

    /// `InUse` while somebody has it.
    pub async fn delete_role(&self, scope: &TenantScope, name: &AgentName) -> Result<(), StoreError> {
        self.write((scope.clone(), name.clone()), |tx, cx, (scope, name)| Box::pin(roles::delete(tx, cx, scope, name)))
            .await
    }
}
