-- Decides and applies transactions that are numbered from 0 to $1 - 1, all on the state before. None of them may look
-- at or write what another one with a smaller number writes. The row of meta must be locked by this transaction.
WITH guards AS (
    -- No version: nothing may be there.
    SELECT * FROM unnest($2::int4[], $3::text[], $4::int8[]) WITH ORDINALITY AS guard (txn, key, version, place)
), failed AS (
    SELECT DISTINCT ON (guards.txn) guards.txn, guards.place
    FROM guards LEFT JOIN records ON records.key = guards.key
    WHERE records.version IS DISTINCT FROM guards.version
    ORDER BY guards.txn, guards.place
), applied AS (
    SELECT txn, meta.revision + row_number() OVER (ORDER BY txn) AS revision
    FROM generate_series(0, $1::int4 - 1) AS txn CROSS JOIN meta
    WHERE NOT EXISTS (SELECT FROM failed WHERE failed.txn = txn.txn)
), writes AS (
    -- No value: a deletion.
    SELECT applied.revision, write.key, write.value
    FROM unnest($5::int4[], $6::text[], $7::bytea[]) AS write (txn, key, value) JOIN applied USING (txn)
), put AS (
    INSERT INTO records (key, value, version)
    SELECT key, value, revision FROM writes WHERE value IS NOT NULL
    ON CONFLICT (key) DO UPDATE SET value = excluded.value, version = excluded.version
), deleted AS (
    DELETE FROM records USING writes
    WHERE records.key = writes.key AND writes.value IS NULL
    RETURNING writes.revision, writes.key
), logged AS (
    INSERT INTO log (revision, key, value)
    SELECT revision, key, value FROM writes WHERE value IS NOT NULL
    UNION ALL SELECT revision, key, NULL FROM deleted
), moved AS (
    UPDATE meta SET revision = (SELECT max(revision) FROM applied) WHERE EXISTS (SELECT FROM applied)
)
SELECT txn, revision, NULL::int8 AS place FROM applied
UNION ALL SELECT txn, NULL, place FROM failed
