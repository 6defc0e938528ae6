-- A store of format 1, as SQLite dumps it.
PRAGMA journal_mode = WAL;
BEGIN TRANSACTION;
CREATE TABLE records (
    key     TEXT NOT NULL PRIMARY KEY,
    value   BLOB NOT NULL,
    version INTEGER NOT NULL
);
INSERT INTO records VALUES ('a', x'32', 2), ('b', x'33', 3);
CREATE TABLE log (
    revision INTEGER NOT NULL,
    key      TEXT NOT NULL,
    value    BLOB,
    PRIMARY KEY (revision, key)
) WITHOUT ROWID;
INSERT INTO log VALUES (2, 'a', x'32'), (3, 'b', x'33'), (3, 'c', NULL);
CREATE TABLE meta (
    id       INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),
    revision INTEGER NOT NULL,
    oldest   INTEGER NOT NULL
);
INSERT INTO meta VALUES (1, 3, 1);
CREATE VIEW readable AS SELECT key, CAST(value AS TEXT) AS value, version FROM records;
PRAGMA application_id = 1869767528;
PRAGMA user_version = 1;
COMMIT;
