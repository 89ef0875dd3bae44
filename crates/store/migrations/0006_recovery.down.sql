DROP INDEX agents_to_recover;
ALTER TABLE agents DROP COLUMN recovered_ms;
ALTER TABLE agents DROP COLUMN recoveries;
ALTER TABLE agents DROP COLUMN recovery;
