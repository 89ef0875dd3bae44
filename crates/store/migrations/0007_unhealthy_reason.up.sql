-- Why a running agent is unhealthy, in words.
ALTER TABLE agents ADD COLUMN unhealthy_reason TEXT;
