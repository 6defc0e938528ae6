-- The commit that wrote each record, with the revision: no other commit has both, also in a copy of the file that went on
-- by itself. And CRC-32 of records and changes; NULL where an earlier version wrote them.
ALTER TABLE records ADD COLUMN incarnation INTEGER NOT NULL DEFAULT 0;
ALTER TABLE records ADD COLUMN checksum INTEGER;
ALTER TABLE log ADD COLUMN checksum INTEGER;

-- The commits whose changes are in the log; 0 for revisions of an earlier version, which have no row.
CREATE TABLE commits (
    revision    INTEGER NOT NULL PRIMARY KEY,
    incarnation INTEGER NOT NULL
);
ALTER TABLE meta ADD COLUMN incarnation INTEGER NOT NULL DEFAULT 0;
ALTER TABLE meta ADD COLUMN oldest_incarnation INTEGER NOT NULL DEFAULT 0;
