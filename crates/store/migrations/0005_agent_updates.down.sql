DROP INDEX events_by_tenant;
DROP INDEX agents_by_image;
ALTER TABLE agents DROP COLUMN image;
ALTER TABLE agents DROP COLUMN pending_restart;
