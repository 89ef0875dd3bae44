-- What happens to an agent whose sandbox died: of the spec, to look for it;
-- and what was tried so far.
ALTER TABLE agents ADD COLUMN recovery TEXT NOT NULL DEFAULT 'none';
ALTER TABLE agents ADD COLUMN recoveries BIGINT NOT NULL DEFAULT 0;
ALTER TABLE agents ADD COLUMN recovered_ms BIGINT;
CREATE INDEX agents_to_recover ON agents (updated_ms, id)
  WHERE observed = 'failed' AND desired = 'running' AND recovery = 'restart';
