DROP TABLE events_floor;
DROP TABLE events;
