CREATE TABLE agents (
  id TEXT NOT NULL PRIMARY KEY,
  tenant_id TEXT NOT NULL REFERENCES tenants (id),
  name TEXT NOT NULL,
  alias TEXT,
  spec TEXT NOT NULL,
  env_names TEXT NOT NULL,
  env_sealed BYTEA,
  desired TEXT NOT NULL CHECK (desired IN ('running', 'paused', 'stopped', 'gone')),
  observed TEXT NOT NULL CHECK (observed IN ('pending', 'creating', 'running', 'pausing', 'paused',
    'resuming', 'restoring', 'stopping', 'stopped', 'failed', 'lost', 'gone')),
  version BIGINT NOT NULL,
  generation BIGINT NOT NULL,
  node_id TEXT,
  assigned BIGINT NOT NULL CHECK (assigned IN (0, 1)),
  report_epoch BIGINT NOT NULL DEFAULT 0,
  report_sequence BIGINT NOT NULL DEFAULT 0,
  isolation TEXT,
  engine TEXT,
  disk_encryption TEXT,
  image_digest TEXT,
  placement_reason TEXT,
  queue_position BIGINT,
  exit_code BIGINT,
  exit_signal TEXT,
  restarts BIGINT NOT NULL,
  unhealthy BIGINT NOT NULL CHECK (unhealthy IN (0, 1)),
  error_code TEXT,
  error_message TEXT,
  created_ms BIGINT NOT NULL,
  updated_ms BIGINT NOT NULL,
  started_ms BIGINT,
  stopped_ms BIGINT,
  expires_ms BIGINT,
  stop_force BIGINT NOT NULL CHECK (stop_force IN (0, 1)),
  stop_timeout_ms BIGINT
)/*STRICT*/;

CREATE INDEX agents_live_by_tenant ON agents (tenant_id, created_ms, id) WHERE desired <> 'gone';
CREATE INDEX agents_waiting ON agents (created_ms, id) WHERE observed = 'pending' AND assigned = 0;
CREATE INDEX agents_by_node ON agents (node_id, id) WHERE observed <> 'gone';
CREATE INDEX agents_tombstones ON agents (updated_ms) WHERE observed = 'gone';

-- Names and aliases of live agents in one space: an alias is never another
-- agent's name.
CREATE TABLE agent_names (
  tenant_id TEXT NOT NULL,
  name TEXT NOT NULL,
  agent_id TEXT NOT NULL REFERENCES agents (id) ON DELETE CASCADE,
  PRIMARY KEY (tenant_id, name)
)/*STRICT*/;

CREATE INDEX agent_names_by_agent ON agent_names (agent_id);

CREATE TABLE agent_labels (
  agent_id TEXT NOT NULL REFERENCES agents (id) ON DELETE CASCADE,
  tenant_id TEXT NOT NULL,
  kind TEXT NOT NULL CHECK (kind IN ('label', 'metadata')),
  key TEXT NOT NULL,
  value TEXT NOT NULL,
  PRIMARY KEY (agent_id, kind, key)
)/*STRICT*/;

CREATE INDEX agent_labels_by_pair ON agent_labels (tenant_id, kind, key, value);

CREATE TABLE idempotency_keys (
  tenant_id TEXT NOT NULL,
  key TEXT NOT NULL,
  kind TEXT NOT NULL,
  request_hash BYTEA NOT NULL,
  resource_id TEXT NOT NULL,
  created_ms BIGINT NOT NULL,
  PRIMARY KEY (tenant_id, key)
)/*STRICT*/;

CREATE INDEX idempotency_keys_by_age ON idempotency_keys (created_ms);

CREATE TABLE execs (
  id TEXT NOT NULL PRIMARY KEY,
  tenant_id TEXT NOT NULL,
  agent_id TEXT NOT NULL REFERENCES agents (id) ON DELETE CASCADE,
  command TEXT NOT NULL,
  run_as TEXT,
  actor TEXT NOT NULL,
  started_ms BIGINT NOT NULL,
  finished_ms BIGINT,
  outcome TEXT,
  exit_code BIGINT,
  exit_signal TEXT
)/*STRICT*/;

CREATE INDEX execs_by_agent ON execs (agent_id, started_ms);
CREATE INDEX execs_finished ON execs (finished_ms) WHERE finished_ms IS NOT NULL;
