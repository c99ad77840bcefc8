What system_metrics keeps in metrics.db. A series is named once, its points lie together and in the order of their time.

-- schema: of a new file
CREATE TABLE series (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE
);
CREATE TABLE points (
    series INTEGER NOT NULL REFERENCES series (id),
    at INTEGER NOT NULL, -- milliseconds since the epoch
    value REAL NOT NULL,
    PRIMARY KEY (series, at)
) WITHOUT ROWID;
CREATE TABLE last ( -- what counters said at the last sample, to tell what has been added since
    only INTEGER PRIMARY KEY CHECK (only = 1),
    at INTEGER NOT NULL,
    boot TEXT NOT NULL,
    counters TEXT NOT NULL -- JSON, name to value
)

-- last: the counters of the last sample
SELECT at, boot, counters FROM last

-- put_last: in their place those of this one
INSERT INTO last (only, at, boot, counters) VALUES (1, ?, ?, ?)
ON CONFLICT (only) DO UPDATE SET at = excluded.at, boot = excluded.boot, counters = excluded.counters

-- put_series: a name, unless it has been there
INSERT INTO series (name) VALUES (?) ON CONFLICT DO NOTHING

-- put_point: one value; of two at the same instant the later one
INSERT INTO points (series, at, value) VALUES ((SELECT id FROM series WHERE name = ?), ?, ?)
ON CONFLICT DO UPDATE SET value = excluded.value

-- drop_old: of one series, which needs no index by time alone
DELETE FROM points WHERE series = ? AND at < ?

-- all_series: their numbers
SELECT id FROM series

-- drop_empty: of interfaces and mounts that are gone
DELETE FROM series WHERE NOT EXISTS (SELECT 1 FROM points WHERE points.series = series.id)

-- count: how many points there are
SELECT count(*) FROM points
