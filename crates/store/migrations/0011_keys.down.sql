ALTER TABLE quotas DROP COLUMN max_exec_sessions;
ALTER TABLE quotas DROP COLUMN max_images;
ALTER TABLE agents DROP COLUMN image_ref;
ALTER TABLE agents DROP COLUMN key_id;
ALTER TABLE tenants DROP COLUMN budgeted;
DROP TABLE budgets;
-- What an older program would take for a key of the whole tenant, or for one
-- of a role that it does not know, is no key any more.
UPDATE api_keys SET revoked_ms = 0 WHERE revoked_ms IS NULL AND (reach IS NOT NULL OR budgeted = 1
  OR service_account_id IS NOT NULL
  OR role NOT IN ('platform_admin', 'operator', 'admin', 'developer', 'viewer', 'auditor'));
UPDATE api_keys SET role = 'viewer'
  WHERE role NOT IN ('platform_admin', 'operator', 'admin', 'developer', 'viewer', 'auditor');
DROP INDEX api_keys_by_service_account;
ALTER TABLE api_keys DROP COLUMN service_account_id;
ALTER TABLE api_keys DROP COLUMN budgeted;
ALTER TABLE api_keys DROP COLUMN reach;
ALTER TABLE api_keys DROP COLUMN rotated_ms;
DROP TABLE api_key_secrets;
DROP TABLE service_accounts;
DROP TABLE roles;
