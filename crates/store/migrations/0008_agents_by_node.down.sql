DROP INDEX agents_by_node;
CREATE INDEX agents_by_node ON agents (node_id, id) WHERE observed <> 'gone';
