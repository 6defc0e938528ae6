CREATE SCHEMA format_two;
CREATE FUNCTION format_two.apply(count integer, guard_txns integer[], guard_keys text[], guard_versions bigint[], write_txns integer[], write_keys text[], write_values bytea[], channel text, message text, OUT revisions bigint[], OUT places bigint[]) RETURNS record
    LANGUAGE plpgsql
    AS $$
DECLARE
    head int8;
    reached int8;
BEGIN
    -- The lock comes first: each statement after it sees all that was committed before.
    SELECT meta.revision INTO head FROM meta FOR NO KEY UPDATE;
    IF cardinality(guard_keys) = 0 THEN
        reached := head + count;
        revisions := ARRAY(SELECT generate_series(head + 1, reached));
    ELSE
        WITH failed AS (
            -- No version: nothing may be there.
            SELECT guard.txn, min(guard.place) AS place
            FROM unnest(guard_txns, guard_keys, guard_versions) WITH ORDINALITY AS guard (txn, key, version, place)
            LEFT JOIN records ON records.key = guard.key
            WHERE records.version IS DISTINCT FROM guard.version
            GROUP BY guard.txn
        ), decided AS (
            SELECT txn.txn, failed.place, head + count(*) FILTER (WHERE failed.place IS NULL) OVER (ORDER BY txn.txn) AS after
            FROM generate_series(0, count - 1) AS txn (txn) LEFT JOIN failed USING (txn)
        )
        SELECT array_agg(CASE WHEN decided.place IS NULL THEN decided.after END ORDER BY decided.txn),
            array_agg(decided.place ORDER BY decided.txn), max(decided.after)
        INTO revisions, places, reached FROM decided;
    END IF;
    IF reached = head THEN
        RETURN;
    END IF;
    INSERT INTO records (key, value, version)
    SELECT write.key, write.value, revisions[write.txn + 1]
    FROM unnest(write_txns, write_keys, write_values) AS write (txn, key, value)
    WHERE write.value IS NOT NULL AND revisions[write.txn + 1] IS NOT NULL
    ON CONFLICT (key) DO UPDATE SET value = excluded.value, version = excluded.version;
    INSERT INTO log (revision, key, value)
    SELECT revisions[write.txn + 1], write.key, write.value
    FROM unnest(write_txns, write_keys, write_values) AS write (txn, key, value)
    WHERE write.value IS NOT NULL AND revisions[write.txn + 1] IS NOT NULL;
    -- No value: a deletion, which is logged if there was something.
    IF array_position(write_values, NULL) IS NOT NULL THEN
        WITH deleted AS (
            DELETE FROM records
            USING unnest(write_txns, write_keys, write_values) AS write (txn, key, value)
            WHERE records.key = write.key AND write.value IS NULL AND revisions[write.txn + 1] IS NOT NULL
            RETURNING revisions[write.txn + 1] AS revision, records.key
        )
        INSERT INTO log (revision, key) SELECT deleted.revision, deleted.key FROM deleted;
    END IF;
    UPDATE meta SET revision = reached;
    PERFORM pg_notify(channel, message);
END $$;
CREATE FUNCTION format_two.as_text(value bytea) RETURNS text
    LANGUAGE plpgsql IMMUTABLE STRICT
    AS $$
BEGIN
    RETURN convert_from(value, 'UTF8');
EXCEPTION WHEN character_not_in_repertoire OR untranslatable_character THEN
    RETURN encode(value, 'escape');
END $$;
CREATE TABLE format_two.log (
    revision bigint NOT NULL,
    key text NOT NULL COLLATE pg_catalog."C",
    value bytea
);
CREATE TABLE format_two.meta (
    only_row boolean DEFAULT true NOT NULL,
    format integer NOT NULL,
    revision bigint NOT NULL,
    oldest bigint NOT NULL,
    CONSTRAINT meta_only_row_check CHECK (only_row)
)
WITH (fillfactor='10');
CREATE TABLE format_two.records (
    key text NOT NULL COLLATE pg_catalog."C",
    value bytea NOT NULL,
    version bigint NOT NULL
);
CREATE VIEW format_two.readable AS
 SELECT records.key,
    format_two.as_text(records.value) AS value,
    records.version
   FROM format_two.records;
INSERT INTO format_two.log VALUES (2, 'b', '\x32');
INSERT INTO format_two.log VALUES (3, 'c', '\x33');
INSERT INTO format_two.log VALUES (5, 'a', '\x34');
INSERT INTO format_two.log VALUES (5, 'c', NULL);
INSERT INTO format_two.meta VALUES (true, 2, 5, 1);
INSERT INTO format_two.records VALUES ('b', '\x32', 2);
INSERT INTO format_two.records VALUES ('a', '\x34', 5);
ALTER TABLE ONLY format_two.log
    ADD CONSTRAINT log_pkey PRIMARY KEY (revision, key);
ALTER TABLE ONLY format_two.meta
    ADD CONSTRAINT meta_pkey PRIMARY KEY (only_row);
ALTER TABLE ONLY format_two.records
    ADD CONSTRAINT records_pkey PRIMARY KEY (key);
