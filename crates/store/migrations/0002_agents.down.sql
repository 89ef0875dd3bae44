DROP TABLE execs;
DROP TABLE idempotency_keys;
DROP TABLE agent_labels;
DROP TABLE agent_names;
DROP TABLE agents;
