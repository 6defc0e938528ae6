-- What lies under each key. Keys are compared byte by byte.
CREATE TABLE records (
    key     TEXT NOT NULL PRIMARY KEY,
    value   BLOB NOT NULL,
    -- The revision that wrote it.
    version INTEGER NOT NULL
);

-- What each revision changed, for watches. A value of NULL is a deletion. Holds the revisions after `meta.oldest`;
-- one that changed nothing has no row.
CREATE TABLE log (
    revision INTEGER NOT NULL,
    key      TEXT NOT NULL,
    value    BLOB,
    PRIMARY KEY (revision, key)
) WITHOUT ROWID;

-- One row: the newest revision, and the earliest that a watch may start from.
CREATE TABLE meta (
    id       INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),
    revision INTEGER NOT NULL,
    oldest   INTEGER NOT NULL
);
INSERT INTO meta (id, revision, oldest) VALUES (1, 0, 0);

-- The records as text, for people.
CREATE VIEW readable AS SELECT key, CAST(value AS TEXT) AS value, version FROM records;
