CREATE TABLE users (
  id TEXT NOT NULL PRIMARY KEY,
  tenant_id TEXT NOT NULL REFERENCES tenants (id),
  name TEXT NOT NULL,
  role TEXT NOT NULL,
  -- Argon2id in PHC form. NULL: nobody logs in by it.
  password TEXT,
  created_ms BIGINT NOT NULL,
  disabled_ms BIGINT,
  last_login_ms BIGINT,
  UNIQUE (tenant_id, name)
)/*STRICT*/;

-- Logins that can be refreshed: one row each, whatever number of times.
CREATE TABLE sessions (
  id TEXT NOT NULL PRIMARY KEY,
  tenant_id TEXT NOT NULL REFERENCES tenants (id),
  -- The id of a key or of a user: its prefix tells which.
  subject TEXT NOT NULL,
  -- Keyed hash of the refresh tokens' secret, which nobody stores.
  secret BYTEA NOT NULL,
  -- Of the one refresh token that is good.
  counter BIGINT NOT NULL,
  created_ms BIGINT NOT NULL,
  expires_ms BIGINT NOT NULL
)/*STRICT*/;

CREATE INDEX sessions_by_subject ON sessions (subject, created_ms);
CREATE INDEX sessions_by_end ON sessions (expires_ms);

-- Tokens that are refused before they expire.
CREATE TABLE revoked_tokens (
  id TEXT NOT NULL PRIMARY KEY,
  tenant_id TEXT NOT NULL,
  expires_ms BIGINT NOT NULL
)/*STRICT*/;

CREATE INDEX revoked_tokens_by_end ON revoked_tokens (expires_ms);
