What security_log keeps in security.db: how far each log was read, which addresses were seen, which accounts there were.

-- schema: of a new file
CREATE TABLE marks (
    log TEXT PRIMARY KEY, -- path of a file, or `journal`
    mark TEXT NOT NULL    -- JSON
);
CREATE TABLE addresses (
    address TEXT PRIMARY KEY,
    first INTEGER NOT NULL, -- seconds since the epoch, as `last`
    last INTEGER NOT NULL,
    failed INTEGER NOT NULL, -- attempts of all kinds
    accepted INTEGER NOT NULL
);
CREATE INDEX addresses_by_last ON addresses (last);
CREATE TABLE accounts (
    name TEXT PRIMARY KEY,
    uid INTEGER NOT NULL
)

-- mark: how far a log was read
SELECT mark FROM marks WHERE log = ?

-- put_mark: how far it is read now
INSERT INTO marks (log, mark) VALUES (?, ?) ON CONFLICT (log) DO UPDATE SET mark = excluded.mark

-- address: what was seen of it
SELECT failed, accepted FROM addresses WHERE address = ?

-- put_address: what is seen of it now
INSERT INTO addresses (address, first, last, failed, accepted) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (address) DO UPDATE SET
    last = excluded.last, failed = failed + excluded.failed, accepted = accepted + excluded.accepted

-- count_addresses: how many are known
SELECT count(*) FROM addresses

-- drop_addresses: the longest unseen of those that never got in
DELETE FROM addresses WHERE address IN (
    SELECT address FROM addresses WHERE accepted = 0 ORDER BY last LIMIT ?
)

-- accounts: those of the last run
SELECT name, uid FROM accounts

-- drop_accounts: to be written anew
DELETE FROM accounts

-- put_account: one of them
INSERT INTO accounts (name, uid) VALUES (?, ?) ON CONFLICT DO NOTHING
