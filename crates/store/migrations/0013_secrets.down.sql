DROP TABLE seal_keys;
ALTER TABLE agents DROP COLUMN secret_versions;
DROP TABLE secret_versions;
DROP TABLE secrets;
