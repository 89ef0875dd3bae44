-- What was changed of an agent since its run began, as JSON names.
ALTER TABLE agents ADD COLUMN pending_restart TEXT NOT NULL DEFAULT '[]';

-- The image of the spec, to filter by.
ALTER TABLE agents ADD COLUMN image TEXT NOT NULL DEFAULT '';
--sqlite UPDATE agents SET image = json_extract(spec, '$.image');
--postgres UPDATE agents SET image = spec::json ->> 'image';
CREATE INDEX agents_by_image ON agents (tenant_id, image) WHERE desired <> 'gone';

-- A tenant's readers must not walk over everybody's events.
--sqlite CREATE INDEX events_by_tenant ON events (tenant_id, seq);
--postgres CREATE INDEX events_by_tenant ON events (tenant_id, xid, seq);
