-- Decides and applies transactions that are numbered from 0 to count - 1, all on the state before, and wakes those who
-- listen at `channel`. None of them may look at or write what another one with a smaller number writes. Returns for each
-- its revision, or else the place of the first of its guards that did not hold, counted from one in the list of guards.
CREATE FUNCTION apply(
    count int4, guard_txns int4[], guard_keys text[], guard_versions int8[],
    write_txns int4[], write_keys text[], write_values bytea[], channel text, message text,
    OUT revisions int8[], OUT places int8[]
) LANGUAGE plpgsql AS $$
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
