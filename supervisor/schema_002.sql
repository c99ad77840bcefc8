-- The store, version 2: a change of many jobs is written down here piece by piece, decided as a whole (meta 'plan'), and
-- then carried out piece by piece, each row being deleted with what it has changed. So it holds up nothing however large
-- it is, and a daemon that is killed in between goes on with it, or forgets it if it was not decided.
CREATE TABLE planned (
    seq INTEGER PRIMARY KEY,
    action TEXT NOT NULL, -- add, change or remove
    job_id TEXT NOT NULL,
    source TEXT, -- NULL: removed
    given TEXT, -- JSON
    origins TEXT -- JSON
);
