How full file systems were, one row a look, for the forecast of the reports.

-- schema: of a new file
CREATE TABLE looks (
    mount TEXT NOT NULL,
    at INTEGER NOT NULL, -- milliseconds since the epoch
    total INTEGER NOT NULL,
    used INTEGER NOT NULL,
    PRIMARY KEY (mount, at)
) WITHOUT ROWID

-- put: one look
INSERT INTO looks (mount, at, total, used) VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET used = excluded.used

-- of: all of one file system, oldest first
SELECT at, total, used FROM looks WHERE mount = ? ORDER BY at

-- forget: what is too old
DELETE FROM looks WHERE at < ?

