-- Records in the order in which their transactions may be read: see events.
--postgres ALTER TABLE audit_logs ADD COLUMN xid xid8 NOT NULL DEFAULT pg_current_xact_id();
--postgres CREATE INDEX audit_logs_in_order ON audit_logs (xid, seq);

-- Each record's place in its tenant's chain; the chain '' is the platform's.
-- Written beside the records, so that no change of a tenant waits for it.
CREATE TABLE audit_chain (
  chain TEXT NOT NULL,
  position BIGINT NOT NULL,
  seq BIGINT NOT NULL UNIQUE,
  hash BYTEA NOT NULL,
  PRIMARY KEY (chain, position)
)/*STRICT*/;

CREATE TABLE audit_heads (
  chain TEXT NOT NULL PRIMARY KEY,
  position BIGINT NOT NULL,
  hash BYTEA NOT NULL,
  -- The last position that retention removed, and its hash.
  floor BIGINT NOT NULL,
  floor_hash BYTEA NOT NULL,
  -- What the newest signed digest covers, its number and its signature.
  digest_to BIGINT NOT NULL,
  digest_number BIGINT NOT NULL,
  digest_signature BYTEA
)/*STRICT*/;

CREATE TABLE audit_digests (
  id BIGINT NOT NULL PRIMARY KEY,
  chain TEXT NOT NULL,
  number BIGINT NOT NULL,
  kind TEXT NOT NULL,
  to_position BIGINT NOT NULL,
  document TEXT NOT NULL,
  UNIQUE (chain, number)
)/*STRICT*/;

-- One row: the last record that was linked, in the order of reading.
CREATE TABLE audit_linked (
  id BIGINT NOT NULL PRIMARY KEY CHECK (id = 1),
  txn BIGINT NOT NULL,
  seq BIGINT NOT NULL
)/*STRICT*/;

INSERT INTO audit_linked (id, txn, seq) VALUES (1, 0, 0);
