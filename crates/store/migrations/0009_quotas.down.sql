DROP INDEX tenants_deleting;
DROP TABLE quota_usage;
DROP TABLE quotas;
ALTER TABLE tenants DROP COLUMN counted;
ALTER TABLE tenants DROP COLUMN metadata;
ALTER TABLE tenants DROP COLUMN status;
