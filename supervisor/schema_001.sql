-- The store, version 1. Times are epoch milliseconds in UTC, durations seconds, sizes bytes, truth 0 or 1. Text said to be
-- JSON is written and read by rows.py only. A migration file is never changed once it was released: the next has its number.

-- What the daemon remembers beside jobs and runs, for instance the boot id of the last @reboot.
CREATE TABLE meta (
    key TEXT PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;

-- Every definition that a job or a run refers to, once; the runs refer to it by number, because they are many.
CREATE TABLE definitions (
    id INTEGER PRIMARY KEY,
    hash TEXT NOT NULL UNIQUE,
    given TEXT NOT NULL -- JSON
);

-- A job keeps its row after its removal until its history is gone. AUTOINCREMENT: a uid is never used again.
CREATE TABLE jobs (
    uid INTEGER PRIMARY KEY AUTOINCREMENT,
    job_id TEXT NOT NULL,
    definition INTEGER NOT NULL, -- definitions.id
    source TEXT NOT NULL, -- cli, api or file:/path
    owner INTEGER NOT NULL, -- uid of who made it
    enabled INTEGER NOT NULL,
    scheduled INTEGER NOT NULL, -- has a schedule
    watermark INTEGER NOT NULL, -- the last decided slot
    next_slot INTEGER, -- NULL: none to come, or not known
    last_success INTEGER,
    failing_since INTEGER,
    added INTEGER NOT NULL,
    changed INTEGER NOT NULL,
    removed INTEGER, -- NULL: it lives
    given TEXT NOT NULL, -- JSON; differs from the definition's in what is runtime state
    origins TEXT NOT NULL -- JSON
);
CREATE UNIQUE INDEX jobs_live ON jobs (job_id) WHERE removed IS NULL;
CREATE INDEX jobs_label ON jobs (job_id);
CREATE INDEX jobs_enabled ON jobs (enabled, job_id, removed) WHERE removed IS NULL;
CREATE INDEX jobs_definition ON jobs (definition);
-- Everything that the schedule needs at a start, so that 100,000 definitions need not be read for it. SQLite takes an
-- index for enough only if it holds the columns of its own condition too.
CREATE INDEX jobs_schedule ON jobs (next_slot, watermark, job_id, enabled, scheduled, removed)
WHERE removed IS NULL AND enabled AND scheduled;

-- Tags and dependencies of the living jobs, taken out of their definitions to be found by.
CREATE TABLE tags (
    tag TEXT NOT NULL,
    job_id TEXT NOT NULL,
    uid INTEGER NOT NULL,
    PRIMARY KEY (tag, job_id)
) WITHOUT ROWID;
CREATE INDEX tags_job ON tags (uid);

CREATE TABLE dependencies (
    child_uid INTEGER NOT NULL,
    parent_id TEXT NOT NULL,
    PRIMARY KEY (child_uid, parent_id)
) WITHOUT ROWID;
CREATE INDEX dependencies_parent ON dependencies (parent_id);

-- One row a run. What is large stands last: SQLite reads a row only as far as the columns that are asked for.
CREATE TABLE job_history (
    run_id INTEGER PRIMARY KEY AUTOINCREMENT,
    job_uid INTEGER NOT NULL,
    job_id TEXT NOT NULL, -- its label when the run was decided
    slot INTEGER, -- NULL: not by schedule
    slot_last INTEGER, -- a gap in one row: its last slot, and how many
    slots INTEGER NOT NULL DEFAULT 1,
    trigger TEXT NOT NULL,
    status TEXT NOT NULL,
    reason TEXT,
    priority INTEGER NOT NULL,
    queued INTEGER NOT NULL, -- when it was decided
    start_time INTEGER,
    end_time INTEGER,
    duration REAL,
    gate_until INTEGER,
    retry_at INTEGER,
    attempts INTEGER NOT NULL DEFAULT 0, -- launched so far
    max_attempts INTEGER NOT NULL DEFAULT 1,
    exit_code INTEGER,
    signal TEXT,
    output_bytes INTEGER NOT NULL DEFAULT 0, -- written by the job
    output_stored INTEGER NOT NULL DEFAULT 0, -- of it on disk; 0 once it was removed
    truncated INTEGER NOT NULL DEFAULT 0,
    cpu_seconds REAL,
    max_memory INTEGER,
    processes INTEGER,
    uid INTEGER,
    profile TEXT,
    definition INTEGER NOT NULL, -- definitions.id
    retry_of INTEGER,
    requested_by TEXT,
    request TEXT, -- JSON: what a run by hand was asked with
    enforced TEXT NOT NULL DEFAULT '{}', -- JSON: layer -> state
    killed_count INTEGER NOT NULL DEFAULT 0,
    killed TEXT NOT NULL DEFAULT '[]', -- JSON: [[pid, command]]
    error TEXT,
    notes TEXT,
    result BLOB, -- msgpack
    UNIQUE (job_uid, slot)
);
CREATE INDEX history_job ON job_history (job_uid);
CREATE INDEX history_job_status ON job_history (job_uid, status);
CREATE INDEX history_status ON job_history (status);
CREATE INDEX history_queued ON job_history (queued);
CREATE INDEX history_definition ON job_history (definition);
CREATE INDEX history_output ON job_history (run_id, queued, output_stored) WHERE output_stored > 0;

-- One row a child process; it is committed before the launcher hears of the attempt.
CREATE TABLE attempts (
    run_id INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    launched INTEGER NOT NULL,
    ended INTEGER,
    status TEXT,
    reason TEXT,
    exit_code INTEGER,
    signal TEXT,
    error TEXT,
    duration REAL,
    cpu_seconds REAL,
    max_memory INTEGER,
    uid INTEGER,
    policy TEXT, -- hash of the policy that it was started with; NULL: it was not, or by another supervisor
    enforced TEXT NOT NULL DEFAULT '{}',
    killed TEXT NOT NULL DEFAULT '[]',
    killed_count INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (run_id, attempt)
) WITHOUT ROWID;

-- Who changed what, and who ran what by hand.
CREATE TABLE audit (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    time INTEGER NOT NULL,
    uid INTEGER NOT NULL,
    user TEXT NOT NULL,
    action TEXT NOT NULL,
    target TEXT NOT NULL,
    before TEXT, -- JSON
    after TEXT -- JSON
);
