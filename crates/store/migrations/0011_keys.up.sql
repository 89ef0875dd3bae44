-- A tenant's own named sets of permissions, beside the built-in ones.
CREATE TABLE roles (
  tenant_id TEXT NOT NULL REFERENCES tenants (id) ON DELETE CASCADE,
  name TEXT NOT NULL,
  -- JSON array of permissions.
  permissions TEXT NOT NULL,
  created_ms BIGINT NOT NULL,
  updated_ms BIGINT NOT NULL,
  PRIMARY KEY (tenant_id, name)
)/*STRICT*/;

-- Principals of a tenant that are no people.
CREATE TABLE service_accounts (
  id TEXT NOT NULL PRIMARY KEY,
  tenant_id TEXT NOT NULL REFERENCES tenants (id) ON DELETE CASCADE,
  name TEXT NOT NULL,
  role TEXT NOT NULL,
  created_ms BIGINT NOT NULL,
  disabled_ms BIGINT,
  UNIQUE (tenant_id, name)
)/*STRICT*/;

-- Secrets that a key had before its rotations, and until when each works.
CREATE TABLE api_key_secrets (
  hash BYTEA NOT NULL PRIMARY KEY,
  key_id TEXT NOT NULL REFERENCES api_keys (id) ON DELETE CASCADE,
  until_ms BIGINT NOT NULL
)/*STRICT*/;
CREATE INDEX api_key_secrets_by_key ON api_key_secrets (key_id);

ALTER TABLE api_keys ADD COLUMN rotated_ms BIGINT;
-- JSON: the labels and images that it is narrowed to.
ALTER TABLE api_keys ADD COLUMN reach TEXT;
-- Whether budgets has a row for it. Written with each change of that row.
ALTER TABLE api_keys ADD COLUMN budgeted BIGINT NOT NULL DEFAULT 0 CHECK (budgeted IN (0, 1));
-- Its role is that one's. No foreign key: the keys of one that is deleted are
-- revoked, and say whose they were.
ALTER TABLE api_keys ADD COLUMN service_account_id TEXT;
CREATE INDEX api_keys_by_service_account ON api_keys (service_account_id);

-- What a part of a tenant may have, and what its agents hold: the agents that
-- a key made ('key:' and its id), or that carry a label ('label:k=v').
CREATE TABLE budgets (
  tenant_id TEXT NOT NULL REFERENCES tenants (id) ON DELETE CASCADE,
  part TEXT NOT NULL,
  max_agents BIGINT,
  max_cpu_millicores BIGINT,
  max_memory_mb BIGINT,
  max_disk_mb BIGINT,
  agents BIGINT NOT NULL CHECK (agents >= 0),
  cpu_millicores BIGINT NOT NULL CHECK (cpu_millicores >= 0),
  memory_mb BIGINT NOT NULL CHECK (memory_mb >= 0),
  disk_mb BIGINT NOT NULL CHECK (disk_mb >= 0),
  PRIMARY KEY (tenant_id, part)
)/*STRICT*/;

-- Whether it has any budget.
ALTER TABLE tenants ADD COLUMN budgeted BIGINT NOT NULL DEFAULT 0 CHECK (budgeted IN (0, 1));
-- The key that made the agent, and its image in canonical form. NULL: made
-- before this, and within the reach of no key that is narrowed to images.
ALTER TABLE agents ADD COLUMN key_id TEXT;
ALTER TABLE agents ADD COLUMN image_ref TEXT;

ALTER TABLE quotas ADD COLUMN max_images BIGINT;
ALTER TABLE quotas ADD COLUMN max_exec_sessions BIGINT;
UPDATE quotas SET max_images = 20, max_exec_sessions = 20 WHERE tier = 'free';
UPDATE quotas SET max_images = 200, max_exec_sessions = 200 WHERE tier = 'pro';
UPDATE quotas SET max_images = 2000, max_exec_sessions = 2000 WHERE tier = 'enterprise';
