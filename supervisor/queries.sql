-- Every statement of the store but the updates of single columns, which statements.py puts together. A statement begins
-- with its name and what it is for; {job}, {run} and so on stand for the columns of the row class in rows.py.
-- Each is answered through an index, whatever the number of runs: a test asks SQLite for the plan of every one.

-- definition.put: Keep a definition; it may be known already.
INSERT INTO definitions (hash, given) VALUES (?, ?) ON CONFLICT (hash) DO NOTHING;

-- definition.get: A definition by its hash.
SELECT given FROM definitions WHERE hash = ?;

-- definition.drop: Forget a definition if no job and no run refers to it.
DELETE FROM definitions
WHERE id = ?
AND NOT EXISTS (SELECT 1 FROM jobs WHERE jobs.definition = definitions.id)
AND NOT EXISTS (SELECT 1 FROM job_history WHERE job_history.definition = definitions.id);

-- job.add: A new job.
INSERT INTO jobs (
    job_id, source, owner, enabled, scheduled, on_event, watermark, next_slot, added, changed, given, origins, definition
)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, (SELECT id FROM definitions WHERE hash = ?));

-- job.get: One job, removed or not.
SELECT {job} FROM jobs WHERE uid = ?;

-- job.live: The living job of this id.
SELECT {job} FROM jobs WHERE job_id = ? AND removed IS NULL;

-- job.latest: The job that last had this id: the living one, else the one added last.
SELECT uid FROM jobs WHERE job_id = ? ORDER BY uid DESC LIMIT 1;

-- job.definition: The number of a job's definition, and its label.
SELECT definition, job_id FROM jobs WHERE uid = ?;

-- job.define: The job has a new definition.
UPDATE jobs SET definition = (SELECT id FROM definitions WHERE hash = ?) WHERE uid = ?;

-- job.rename: The job has another id.
UPDATE jobs SET job_id = ? WHERE uid = ?;

-- job.remove: The job is gone; its history stays.
UPDATE jobs SET removed = ?, next_slot = NULL WHERE uid = ?;

-- job.forget: Drop the row of a removed job that has no history left.
DELETE FROM jobs
WHERE uid = ?
AND removed IS NOT NULL
AND NOT EXISTS (SELECT 1 FROM job_history WHERE job_uid = jobs.uid);

-- jobs.page: Living jobs by id.
SELECT {job} FROM jobs WHERE removed IS NULL AND job_id > ? ORDER BY job_id LIMIT ?;

-- jobs.page_enabled: Living jobs by id, only those that are, or are not, enabled.
SELECT {job} FROM jobs WHERE removed IS NULL AND enabled = ? AND job_id > ? ORDER BY job_id LIMIT ?;

-- jobs.page_tag: Living jobs with a tag, by id.
SELECT {job} FROM jobs WHERE uid IN (SELECT uid FROM tags WHERE tag = ? AND job_id > ? ORDER BY job_id LIMIT ?)
ORDER BY job_id;

-- jobs.page_tag_enabled: The same, only those that are, or are not, enabled.
SELECT {job} FROM jobs
WHERE uid IN (
    SELECT tags.uid FROM tags CROSS JOIN jobs USING (uid)
    WHERE tags.tag = ? AND enabled = ? AND tags.job_id > ? ORDER BY tags.job_id LIMIT ?
)
ORDER BY job_id;

-- jobs.event: Living jobs that an event starts, by id.
SELECT {job} FROM jobs INDEXED BY jobs_event
WHERE removed IS NULL AND on_event IS NOT NULL AND on_event = ? ORDER BY job_id;

-- jobs.ids: What a reload compares, of every living job.
SELECT uid, job_id, (SELECT hash FROM definitions WHERE id = definition), source
FROM jobs WHERE removed IS NULL ORDER BY job_id;

-- jobs.complete: Ids that begin so, for completion in a shell.
SELECT job_id FROM jobs WHERE removed IS NULL AND job_id >= ? AND job_id < ? ORDER BY job_id LIMIT ?;

-- jobs.complete_events: Events that begin so, for completion in a shell.
SELECT DISTINCT on_event FROM jobs INDEXED BY jobs_event
WHERE removed IS NULL AND on_event IS NOT NULL AND on_event >= ? AND on_event < ? ORDER BY on_event LIMIT ?;

-- jobs.schedule: Living, enabled jobs with a schedule, the next to fire first.
SELECT uid, job_id, next_slot, watermark FROM jobs INDEXED BY jobs_schedule
WHERE removed IS NULL AND enabled AND scheduled ORDER BY next_slot;

-- jobs.next: The next of these to fire.
SELECT uid, job_id, next_slot, watermark FROM jobs INDEXED BY jobs_schedule
WHERE removed IS NULL AND enabled AND scheduled AND next_slot > 0 ORDER BY next_slot LIMIT ?;

-- jobs.count: How many live.
SELECT count(*) FROM jobs INDEXED BY jobs_enabled WHERE removed IS NULL;

-- jobs.count_enabled: How many of them are enabled.
SELECT count(*) FROM jobs WHERE removed IS NULL AND enabled = 1;

-- tags.add: A job has this tag.
INSERT INTO tags (tag, job_id, uid) VALUES (?, ?, ?) ON CONFLICT DO NOTHING;

-- tags.clear: A job has none.
DELETE FROM tags WHERE uid = ?;

-- tags.rename: A job has another id.
UPDATE tags SET job_id = ? WHERE uid = ?;

-- dependencies.add: A job depends on the job of this id.
INSERT INTO dependencies (child_uid, parent_id) VALUES (?, ?) ON CONFLICT DO NOTHING;

-- dependencies.clear: A job depends on none.
DELETE FROM dependencies WHERE child_uid = ?;

-- dependencies.children: Ids of the jobs that depend on this one.
SELECT job_id FROM dependencies JOIN jobs ON uid = child_uid WHERE parent_id = ? ORDER BY job_id;

-- dependencies.after: Jobs without a schedule that depend on this one.
SELECT uid FROM dependencies JOIN jobs ON uid = child_uid WHERE parent_id = ? AND NOT scheduled ORDER BY uid;

-- dependencies.all: Child and parent, for the check of the whole graph, and whether the child has a schedule.
SELECT job_id, parent_id, scheduled FROM dependencies CROSS JOIN jobs ON uid = child_uid;

-- hooks.add: The end of a job's run is to start the job of this id.
INSERT INTO hooks (job_uid, key, target_id) VALUES (?, ?, ?) ON CONFLICT DO NOTHING;

-- hooks.clear: It starts none.
DELETE FROM hooks WHERE job_uid = ?;

-- hooks.of: What the end of a job's run is to start.
SELECT key, target_id FROM hooks WHERE job_uid = ? ORDER BY key, target_id;

-- hooks.sources: Ids of the jobs that have this one in a hook.
SELECT DISTINCT job_id FROM hooks JOIN jobs ON uid = job_uid WHERE target_id = ? ORDER BY job_id;

-- hooks.all: Every hook, for the check of the whole graph.
SELECT job_id, key, target_id FROM hooks CROSS JOIN jobs ON uid = job_uid;

-- arrivals.put: A parent has a result for this child; an older one that it did not start on is gone.
INSERT INTO arrivals (child_uid, parent_uid, run_id) VALUES (?, ?, ?)
ON CONFLICT (child_uid, parent_uid) DO UPDATE SET run_id = excluded.run_id;

-- arrivals.of: What has come from its parents since its last start.
SELECT parent_uid, run_id FROM arrivals WHERE child_uid = ? ORDER BY parent_uid;

-- arrivals.clear: It has started on what had come.
DELETE FROM arrivals WHERE child_uid = ?;

-- pauses.put: A job, or with 0 the whole schedule, starts nothing by itself.
INSERT INTO pauses (job_uid, since, until, seconds, user, reason) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (job_uid) DO UPDATE SET
    since = excluded.since, until = excluded.until, seconds = excluded.seconds, user = excluded.user,
    reason = excluded.reason;

-- pauses.drop: It does again.
DELETE FROM pauses WHERE job_uid = ?;

-- pauses.get: One of them.
SELECT {pause} FROM pauses WHERE job_uid = ?;

-- pauses.all: All of them, of which there are few.
SELECT {pause} FROM pauses WHERE job_uid >= 0 ORDER BY job_uid;

-- run.add: One decision. A slot that was decided before adds nothing.
INSERT INTO job_history (
    job_uid, job_id, slot, slot_last, slots, trigger, status, reason, priority, queued, end_time, gate_until,
    max_attempts, profile, retry_of, requested_by, request, error, notes, definition
)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, (SELECT id FROM definitions WHERE hash = ?))
ON CONFLICT (job_uid, slot) DO NOTHING;

-- run.skip: A slot, or a gap of them, that was decided and did not run.
INSERT INTO job_history (
    job_uid, job_id, slot, slot_last, slots, trigger, status, reason, priority, queued, end_time, error, definition
)
VALUES (?, ?, ?, ?, ?, 'schedule', 'skipped', ?, ?, ?, ?, ?, (SELECT id FROM definitions WHERE hash = ?))
ON CONFLICT (job_uid, slot) DO NOTHING;

-- runs.skip_ids: The next run gets a number that is so much higher.
UPDATE sqlite_sequence SET seq = seq + ? WHERE name = 'job_history';

-- runs.newest_reasons: What became of a job's newest slots.
SELECT reason FROM job_history WHERE job_uid = ? AND slot IS NOT NULL ORDER BY slot DESC LIMIT ?;

-- run.get: One run.
SELECT {run} FROM job_history WHERE run_id = ?;

-- run.result: What the function returned, as msgpack.
SELECT result FROM job_history WHERE run_id = ?;

-- runs.open: Runs that are not over, in the order of their decision.
SELECT {run} FROM job_history WHERE status IN ('pending', 'running', 'retrying') ORDER BY run_id;

-- runs.newest: A job's last run.
SELECT {run} FROM job_history WHERE job_uid = ? ORDER BY run_id DESC LIMIT 1;

-- runs.newest_unskipped: A job's last run that was no skip; at most a job's share of the history is looked at.
SELECT {run} FROM job_history INDEXED BY history_job
WHERE job_uid = ? AND run_id < ? AND status <> 'skipped' ORDER BY run_id DESC LIMIT 1;

-- runs.last_start: When a job's last run that started did so; at most a job's share of the history is looked at.
SELECT start_time FROM job_history INDEXED BY history_job
WHERE job_uid = ? AND start_time IS NOT NULL ORDER BY run_id DESC LIMIT 1;

-- runs.newest_slot: The row of a job's newest slot at or before a moment.
SELECT {run} FROM job_history WHERE job_uid = ? AND slot <= ? ORDER BY slot DESC LIMIT 1;

-- runs.oldest_slot: A job's oldest slot that has a row.
SELECT slot FROM job_history WHERE job_uid = ? AND slot IS NOT NULL ORDER BY slot LIMIT 1;

-- runs.count: How many runs have this status.
SELECT count(*) FROM job_history WHERE status = ?;

-- history.floor: The first run that was decided at or after a moment.
SELECT run_id FROM job_history WHERE queued >= ? ORDER BY queued, run_id LIMIT 1;

-- history.all: Runs, newest first.
SELECT {run} FROM job_history
WHERE run_id < ? AND run_id >= ? AND queued >= ? ORDER BY run_id DESC LIMIT ?;

-- snapshot.newest: The number of the last run.
SELECT max(run_id) FROM job_history;

-- snapshot.runs: What a report is made of, newest first, from a run on back; of the last day also what they returned, up to 16 KiB.
SELECT run_id, job_uid, job_id, slot, slots, trigger, status, reason, queued, start_time, end_time, duration,
attempts, exit_code, signal, substr(error, 1, 200),
CASE WHEN length(result) <= 16384
AND queued >= (SELECT queued FROM job_history WHERE run_id = (SELECT max(run_id) FROM job_history)) - 86400000
THEN result END
FROM job_history WHERE run_id <= ? AND run_id >= ? ORDER BY run_id DESC LIMIT ?;

-- snapshot.jobs: Living jobs by id.
SELECT uid, job_id, enabled, given, next_slot, last_success, failing_since, added
FROM jobs WHERE removed IS NULL AND job_id > ? ORDER BY job_id LIMIT ?;

-- snapshot.results: What a job returned last, of its last few runs; no bytes at all stand for too many.
SELECT run_id, CASE WHEN length(result) <= ?1 THEN result ELSE x'' END
FROM job_history INDEXED BY history_job WHERE job_uid = ?2 AND result IS NOT NULL AND run_id >= coalesce((
SELECT run_id FROM job_history INDEXED BY history_job WHERE job_uid = ?2 ORDER BY run_id DESC LIMIT 1 OFFSET 19), 0)
ORDER BY run_id DESC LIMIT 1;

-- history.job: Runs of one job.
SELECT {run} FROM job_history INDEXED BY history_job
WHERE job_uid = ? AND run_id < ? AND run_id >= ? AND queued >= ? ORDER BY run_id DESC LIMIT ?;

-- history.status: Runs of one status.
SELECT {run} FROM job_history INDEXED BY history_status
WHERE status = ? AND run_id < ? AND run_id >= ? AND queued >= ? ORDER BY run_id DESC LIMIT ?;

-- history.job_status: Runs of one job and one status.
SELECT {run} FROM job_history INDEXED BY history_job_status
WHERE job_uid = ? AND status = ? AND run_id < ? AND run_id >= ? AND queued >= ? ORDER BY run_id DESC LIMIT ?;

-- attempt.add: An attempt is about to be handed to the launcher.
INSERT INTO attempts (run_id, attempt, launched) VALUES (?, ?, ?);

-- attempts.of: The attempts of a run.
SELECT {attempt} FROM attempts WHERE run_id = ? ORDER BY attempt;

-- output.oldest: Runs that are over and whose output is on disk, oldest first.
SELECT run_id, queued, output_stored FROM job_history INDEXED BY history_output
WHERE output_stored > 0 AND run_id > ? ORDER BY run_id LIMIT ?;

-- output.total: Bytes of output on disk.
SELECT coalesce(sum(output_stored), 0) FROM job_history INDEXED BY history_output
WHERE output_stored > 0 AND run_id > 0;

-- sweep.window: Where the next few runs end, and when the last of them was decided.
SELECT run_id, queued FROM job_history WHERE run_id > ? ORDER BY run_id LIMIT 1 OFFSET ?;

-- sweep.old: Runs in that window that ended before a moment and are nobody's newest.
SELECT run_id, queued, definition FROM job_history AS old
WHERE run_id > ? AND run_id <= ? AND coalesce(end_time, queued) < ?
AND status NOT IN ('pending', 'running', 'retrying')
AND NOT (
    EXISTS (SELECT 1 FROM jobs WHERE jobs.uid = old.job_uid AND removed IS NULL)
    AND run_id IN (
        (SELECT run_id FROM job_history WHERE job_uid = old.job_uid ORDER BY run_id DESC LIMIT 1),
        coalesce((
            SELECT run_id FROM job_history WHERE job_uid = old.job_uid AND slot IS NOT NULL ORDER BY slot DESC LIMIT 1
        ), 0),
        coalesce((SELECT last_run FROM jobs WHERE jobs.uid = old.job_uid), 0)
    )
);

-- sweep.jobs: The next few jobs, removed ones too.
SELECT uid, removed FROM jobs WHERE uid > ? ORDER BY uid LIMIT ?;

-- sweep.first_kept: The oldest of so many newest runs of a job; the number is one less.
SELECT run_id FROM job_history INDEXED BY history_job WHERE job_uid = ? ORDER BY run_id DESC LIMIT 1 OFFSET ?;

-- sweep.surplus: Runs of a job before that one, but its newest slot.
SELECT run_id, queued, definition FROM job_history INDEXED BY history_job
WHERE job_uid = ? AND run_id < ?
AND status NOT IN ('pending', 'running', 'retrying')
AND run_id <> coalesce((
    SELECT run_id FROM job_history WHERE job_uid = ? AND slot IS NOT NULL ORDER BY slot DESC LIMIT 1
), 0)
AND run_id <> coalesce((SELECT last_run FROM jobs WHERE jobs.uid = job_history.job_uid), 0)
ORDER BY run_id LIMIT ?;

-- sweep.purge: Runs of a job that are over, oldest first.
SELECT run_id, queued, definition FROM job_history INDEXED BY history_job
WHERE job_uid = ? AND status NOT IN ('pending', 'running', 'retrying') ORDER BY run_id LIMIT ?;

-- sweep.delete: Forget a run.
DELETE FROM job_history WHERE run_id = ?;

-- sweep.delete_attempts: And its attempts.
DELETE FROM attempts WHERE run_id = ?;

-- audit.add: Somebody did something.
INSERT INTO audit (time, uid, user, action, target, before, after) VALUES (?, ?, ?, ?, ?, ?, ?);

-- audit.page: The audit, newest first.
SELECT {audit} FROM audit WHERE id < ? ORDER BY id DESC LIMIT ?;

-- audit.of: What was done to one target lately, newest first.
SELECT {audit} FROM audit
WHERE id > (SELECT coalesce(max(id), 0) FROM audit) - 20000 AND target = ? ORDER BY id DESC LIMIT ?;

-- audit.forget: Delete what is too old among the oldest entries.
DELETE FROM audit WHERE id IN (SELECT id FROM audit WHERE id > 0 ORDER BY id LIMIT ?) AND time < ?;

-- meta.get: A remembered word.
SELECT value FROM meta WHERE key = ?;

-- meta.set: Remember a word.
INSERT INTO meta (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value;

-- meta.drop: Forget a word.
DELETE FROM meta WHERE key = ?;

-- meta.keys: The keys that begin so.
SELECT key FROM meta WHERE key >= ? AND key < ? ORDER BY key;

-- planned.add: What is to become of one job.
INSERT INTO planned (action, job_id, source, given, origins) VALUES (?, ?, ?, ?, ?);

-- planned.page: The next few.
SELECT {planned} FROM planned WHERE seq > 0 ORDER BY seq LIMIT ?;

-- planned.drop: They are done.
DELETE FROM planned WHERE seq IN (SELECT seq FROM planned WHERE seq > 0 ORDER BY seq LIMIT ?);
