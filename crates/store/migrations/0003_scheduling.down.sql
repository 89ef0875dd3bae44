DROP TABLE control_epoch;
DROP TABLE agent_placements;
DROP TABLE scheduler_nodes;
