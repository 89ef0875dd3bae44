DROP TABLE audit_linked;
DROP TABLE audit_digests;
DROP TABLE audit_heads;
DROP TABLE audit_chain;
--postgres DROP INDEX audit_logs_in_order;
--postgres ALTER TABLE audit_logs DROP COLUMN xid;
