ALTER TABLE tenants ADD COLUMN status TEXT NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'suspended', 'deleting', 'erased'));
-- JSON object of texts.
ALTER TABLE tenants ADD COLUMN metadata TEXT NOT NULL DEFAULT '{}';
-- Whether any amount that agents hold has a limit, so that quota_usage is kept.
ALTER TABLE tenants ADD COLUMN counted BIGINT NOT NULL DEFAULT 0 CHECK (counted IN (0, 1));

-- What a tenant may have. NULL: no limit but the nodes'. Without a row: free.
CREATE TABLE quotas (
  tenant_id TEXT NOT NULL PRIMARY KEY REFERENCES tenants (id) ON DELETE CASCADE,
  tier TEXT NOT NULL CHECK (tier IN ('free', 'pro', 'enterprise', 'unlimited')),
  max_agents BIGINT,
  max_cpu_millicores BIGINT,
  max_memory_mb BIGINT,
  max_disk_mb BIGINT,
  max_network_bandwidth_mbps BIGINT,
  max_requests_per_minute BIGINT,
  updated_ms BIGINT NOT NULL
)/*STRICT*/;

-- Nobody had limits before.
INSERT INTO quotas (tenant_id, tier, updated_ms) SELECT id, 'unlimited', 0 FROM tenants;

-- What the agents of a counted tenant hold.
CREATE TABLE quota_usage (
  tenant_id TEXT NOT NULL PRIMARY KEY REFERENCES tenants (id) ON DELETE CASCADE,
  agents BIGINT NOT NULL CHECK (agents >= 0),
  cpu_millicores BIGINT NOT NULL CHECK (cpu_millicores >= 0),
  memory_mb BIGINT NOT NULL CHECK (memory_mb >= 0),
  disk_mb BIGINT NOT NULL CHECK (disk_mb >= 0)
)/*STRICT*/;

-- What the run that goes on was begun with, where the agent was made another
-- size since; NULL: the size of its spec.
ALTER TABLE agents ADD COLUMN run_cpu_millicores BIGINT;
ALTER TABLE agents ADD COLUMN run_memory_mb BIGINT;
-- Beside agents_live_by_tenant: all that a tenant has.
CREATE INDEX agents_ending_by_tenant ON agents (tenant_id) WHERE desired = 'gone';

CREATE INDEX tenants_deleting ON tenants (id) WHERE status = 'deleting';
