CREATE TABLE scheduler_nodes (
  id TEXT NOT NULL PRIMARY KEY,
  status TEXT NOT NULL CHECK (status IN ('ready', 'cordoned', 'draining', 'lost')),
  version TEXT NOT NULL,
  node_epoch BIGINT NOT NULL,
  features TEXT NOT NULL,
  labels TEXT NOT NULL,
  engine TEXT NOT NULL,
  isolation TEXT NOT NULL,
  data_address TEXT,
  capacity_cpu BIGINT NOT NULL,
  capacity_mem BIGINT NOT NULL,
  capacity_disk BIGINT NOT NULL,
  -- The sums of agent_placements, kept here so that one row decides.
  reserved_cpu BIGINT NOT NULL CHECK (reserved_cpu >= 0),
  reserved_mem BIGINT NOT NULL CHECK (reserved_mem >= 0),
  reserved_disk BIGINT NOT NULL CHECK (reserved_disk >= 0),
  boots_queued BIGINT NOT NULL,
  boots_running BIGINT NOT NULL,
  sandboxes BIGINT NOT NULL,
  memory_free_mb BIGINT NOT NULL,
  disk_free_mb BIGINT NOT NULL,
  registered_ms BIGINT NOT NULL,
  lease_renewed_ms BIGINT NOT NULL
)/*STRICT*/;

-- What each agent holds on its node now. A stopped agent holds its disk.
CREATE TABLE agent_placements (
  agent_id TEXT NOT NULL PRIMARY KEY REFERENCES agents (id),
  tenant_id TEXT NOT NULL,
  node_id TEXT NOT NULL REFERENCES scheduler_nodes (id),
  cpu BIGINT NOT NULL,
  mem BIGINT NOT NULL,
  disk BIGINT NOT NULL,
  placed_ms BIGINT NOT NULL
)/*STRICT*/;

CREATE INDEX agent_placements_by_node ON agent_placements (node_id);

-- One row: the fence of the control plane.
CREATE TABLE control_epoch (
  id BIGINT NOT NULL PRIMARY KEY CHECK (id = 1),
  epoch BIGINT NOT NULL,
  server_id TEXT,
  renewed_ms BIGINT NOT NULL
)/*STRICT*/;

INSERT INTO control_epoch (id, epoch, server_id, renewed_ms) VALUES (1, 0, NULL, 0);
