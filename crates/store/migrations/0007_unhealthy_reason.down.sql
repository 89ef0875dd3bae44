ALTER TABLE agents DROP COLUMN unhealthy_reason;
