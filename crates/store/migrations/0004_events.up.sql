-- The outbox. On SQLite the one writer numbers in commit order; on
-- PostgreSQL the order is (xid, seq), read below the oldest running
-- transaction.
CREATE TABLE events (
  seq BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
--postgres  xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
  at_ms BIGINT NOT NULL,
  tenant_id TEXT,
  kind TEXT NOT NULL,
  agent_id TEXT,
  node_id TEXT,
  version BIGINT NOT NULL,
  generation BIGINT NOT NULL,
  desired TEXT,
  observed TEXT,
  data TEXT NOT NULL
)/*STRICT*/;

--postgres CREATE INDEX events_in_order ON events (xid, seq);
CREATE INDEX events_by_age ON events (at_ms);

-- One row: the newest event that retention has removed.
CREATE TABLE events_floor (
  id BIGINT NOT NULL PRIMARY KEY CHECK (id = 1),
  txn BIGINT NOT NULL,
  seq BIGINT NOT NULL
)/*STRICT*/;

INSERT INTO events_floor (id, txn, seq) VALUES (1, 0, 0);
