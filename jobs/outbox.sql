What reporting.alerts remembers: the conditions that it has told, and the messages that it has made of them. What is decided
and what is to be sent for it are one transaction, and a message is sent as it was made, however often it takes.

-- schema: of a new file
CREATE TABLE conditions (
    rule TEXT NOT NULL,
    job_id TEXT NOT NULL,
    since INTEGER NOT NULL, -- milliseconds since the epoch, as all times here
    told INTEGER NOT NULL,
    times INTEGER NOT NULL,
    text TEXT NOT NULL,
    PRIMARY KEY (rule, job_id)
) WITHOUT ROWID;
CREATE TABLE last ( -- of what is told each time that it happens
    rule TEXT NOT NULL,
    job_id TEXT NOT NULL,
    run INTEGER NOT NULL,
    PRIMARY KEY (rule, job_id)
) WITHOUT ROWID;
CREATE TABLE alerts (
    key TEXT PRIMARY KEY,
    alert TEXT NOT NULL, -- JSON
    due INTEGER NOT NULL,
    at INTEGER NOT NULL,
    composed INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE INDEX alerts_waiting ON alerts (due) WHERE NOT composed;
CREATE TABLE messages (
    id INTEGER PRIMARY KEY,
    key TEXT NOT NULL UNIQUE,
    target TEXT NOT NULL,
    subject TEXT NOT NULL,
    text TEXT NOT NULL,
    facts TEXT NOT NULL, -- JSON
    made INTEGER NOT NULL,
    sent INTEGER, -- or given up, and then there is an error
    tries INTEGER NOT NULL DEFAULT 0, -- how often it was refused for good, and at last taken
    error TEXT
);
CREATE INDEX messages_unsent ON messages (id) WHERE sent IS NULL

-- conditions: what has been told
SELECT rule, job_id, since, told, times, text FROM conditions

-- clear_conditions: before all of them are put again
DELETE FROM conditions

-- put_condition: one
INSERT INTO conditions (rule, job_id, since, told, times, text) VALUES (?, ?, ?, ?, ?, ?)

-- last: of each, which run it was told of
SELECT rule, job_id, run FROM last

-- put_last: one
INSERT INTO last (rule, job_id, run) VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET run = excluded.run

-- put_alert: one, unless it is there
INSERT INTO alerts (key, alert, due, at) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING

-- due: alerts that no message holds yet, and that may be told
SELECT key, alert FROM alerts WHERE NOT composed AND due <= ? ORDER BY at, key

-- composed: messages hold it
UPDATE alerts SET composed = 1 WHERE key = ?

-- put_message: one, unless it is there
INSERT INTO messages (key, target, subject, text, facts, made) VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING

-- waiting: the targets of what is unsent
SELECT target, count(*) FROM messages WHERE sent IS NULL GROUP BY target

-- drop: what is unsent of a target that is none any more
DELETE FROM messages WHERE sent IS NULL AND target = ?

-- unsent: of one target, in the order in which they were made
SELECT id, key, subject, text, facts, made, tries FROM messages WHERE sent IS NULL AND target = ? ORDER BY id LIMIT ?

-- sent: the target has taken it
UPDATE messages SET sent = ?, tries = tries + 1, error = NULL WHERE id = ?

-- failed: it may take it later
UPDATE messages SET error = ? WHERE id = ?

-- refused: it will not
UPDATE messages SET tries = tries + 1, error = ? WHERE id = ?

-- takes: what it has taken since a message was made
SELECT 1 FROM messages WHERE target = ? AND sent >= ? AND error IS NULL LIMIT 1

-- give_up: it is not tried again
UPDATE messages SET sent = ? WHERE id = ?

-- pending: how many are still to be sent, and how many wait for the end of quiet hours
SELECT (SELECT count(*) FROM messages WHERE sent IS NULL), (SELECT count(*) FROM alerts WHERE NOT composed)

-- forget_messages: what was sent, or given up, long ago
DELETE FROM messages WHERE sent < ?

-- forget_alerts: the same
DELETE FROM alerts WHERE composed AND at < ?

