CREATE TABLE tenants (
  id TEXT NOT NULL PRIMARY KEY,
  name TEXT NOT NULL,
  created_ms BIGINT NOT NULL
)/*STRICT*/;

INSERT INTO tenants (id, name, created_ms) VALUES ('default', 'default', 0);

CREATE TABLE api_keys (
  id TEXT NOT NULL PRIMARY KEY,
  tenant_id TEXT NOT NULL REFERENCES tenants (id),
  name TEXT NOT NULL,
  -- Keyed hash of the secret, which nobody stores.
  hash BYTEA NOT NULL UNIQUE,
  prefix TEXT NOT NULL,
  role TEXT NOT NULL,
  -- JSON array of permissions; NULL: the whole role.
  scopes TEXT,
  created_ms BIGINT NOT NULL,
  expires_ms BIGINT,
  last_used_ms BIGINT,
  revoked_ms BIGINT
)/*STRICT*/;

CREATE INDEX api_keys_by_tenant ON api_keys (tenant_id, created_ms);

CREATE TABLE audit_logs (
  seq BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  at_ms BIGINT NOT NULL,
  -- NULL: of the platform.
  tenant_id TEXT,
  actor TEXT NOT NULL,
  action TEXT NOT NULL,
  resource TEXT NOT NULL,
  resource_id TEXT,
  result TEXT NOT NULL,
  address TEXT,
  details TEXT NOT NULL,
  error TEXT
)/*STRICT*/;

CREATE INDEX audit_logs_by_tenant ON audit_logs (tenant_id, seq);
CREATE INDEX audit_logs_by_resource ON audit_logs (tenant_id, resource_id, seq);
