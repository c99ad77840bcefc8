-- The store, version 3: jobs that others start, and pauses.

-- The event that starts a job, taken out of its definition to be found by; and how many of its runs have failed in a row.
ALTER TABLE jobs ADD COLUMN on_event TEXT;
ALTER TABLE jobs ADD COLUMN failures INTEGER NOT NULL DEFAULT 0;
-- The last of its runs that ended and was no skip: its own gate asks for it, and retention leaves it.
ALTER TABLE jobs ADD COLUMN last_run INTEGER;
CREATE INDEX jobs_event ON jobs (on_event, job_id) WHERE removed IS NULL AND on_event IS NOT NULL;

-- Jobs to start at the end of a run, taken out of the definitions of the living jobs.
CREATE TABLE hooks (
    job_uid INTEGER NOT NULL,
    key TEXT NOT NULL, -- on_success, on_failure or on_change
    target_id TEXT NOT NULL,
    PRIMARY KEY (job_uid, key, target_id)
) WITHOUT ROWID;
CREATE INDEX hooks_target ON hooks (target_id);

-- What a job without a schedule has from its parents since its own last start: their newest results.
CREATE TABLE arrivals (
    child_uid INTEGER NOT NULL,
    parent_uid INTEGER NOT NULL,
    run_id INTEGER NOT NULL,
    PRIMARY KEY (child_uid, parent_uid)
) WITHOUT ROWID;

-- What is not to start by itself for a while.
CREATE TABLE pauses (
    job_uid INTEGER PRIMARY KEY, -- 0: the whole schedule
    since INTEGER NOT NULL,
    until INTEGER, -- NULL: until somebody resumes it
    seconds REAL, -- how long it is meant to be
    user TEXT NOT NULL,
    reason TEXT
);
