DROP INDEX tenants_deleting;
DROP INDEX agents_ending_by_tenant;
ALTER TABLE agents DROP COLUMN run_memory_mb;
ALTER TABLE agents DROP COLUMN run_cpu_millicores;
DROP TABLE quota_usage;
DROP TABLE quotas;
ALTER TABLE tenants DROP COLUMN counted;
ALTER TABLE tenants DROP COLUMN metadata;
ALTER TABLE tenants DROP COLUMN status;
