CREATE TABLE secrets (
  tenant_id TEXT NOT NULL REFERENCES tenants (id),
  name TEXT NOT NULL,
  -- Of this secret and no later one of the name: its sealed values are bound to it.
  mark TEXT NOT NULL,
  description TEXT,
  -- The newest.
  version BIGINT NOT NULL,
  created_ms BIGINT NOT NULL,
  created_by TEXT NOT NULL,
  updated_ms BIGINT NOT NULL,
  updated_by TEXT NOT NULL,
  PRIMARY KEY (tenant_id, name)
)/*STRICT*/;

CREATE TABLE secret_versions (
  tenant_id TEXT NOT NULL,
  name TEXT NOT NULL,
  version BIGINT NOT NULL,
  -- sealed: here, its data key by the seal key; transit: here, its data key by
  -- Vault; vault: in Vault.
  backend TEXT NOT NULL CHECK (backend IN ('sealed', 'transit', 'vault')),
  sealed BYTEA,
  wrapped_key BYTEA,
  vault_version BIGINT,
  bytes BIGINT NOT NULL,
  created_ms BIGINT NOT NULL,
  created_by TEXT NOT NULL,
  PRIMARY KEY (tenant_id, name, version),
  FOREIGN KEY (tenant_id, name) REFERENCES secrets (tenant_id, name) ON DELETE CASCADE
)/*STRICT*/;

-- What the run that goes on was given: a JSON object of names and versions.
ALTER TABLE agents ADD COLUMN secret_versions TEXT NOT NULL DEFAULT '{}';

-- One row: the fingerprint of the key that seals, on every server.
CREATE TABLE seal_keys (
  id BIGINT NOT NULL PRIMARY KEY CHECK (id = 1),
  active TEXT NOT NULL,
  since_ms BIGINT NOT NULL
)/*STRICT*/;
