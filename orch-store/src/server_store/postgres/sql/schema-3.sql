-- Each commit has an id, by which its outcome can be asked for. Together with the revision it says which history a
-- record or a watch has seen: a server that comes back older gives out the same revisions again. Zero is for commits
-- from before this format.
ALTER TABLE records ADD COLUMN commit bigint NOT NULL DEFAULT 0;
COMMENT ON COLUMN records.commit IS 'the id of the commit that wrote it';
ALTER TABLE log ADD COLUMN commit bigint NOT NULL DEFAULT 0;
COMMENT ON COLUMN log.commit IS 'the id of the commit; one that changed nothing has one row, with an empty key';
ALTER TABLE meta ADD COLUMN commit bigint NOT NULL DEFAULT 0, ADD COLUMN oldest_commit bigint NOT NULL DEFAULT 0,
    ADD COLUMN unnamed bigint NOT NULL DEFAULT 0, ADD COLUMN settled boolean NOT NULL DEFAULT false;
UPDATE meta SET unnamed = revision;
COMMENT ON COLUMN meta.commit IS 'the id of the commit of the newest revision';
COMMENT ON COLUMN meta.oldest_commit IS 'the id of the commit of the oldest revision';
COMMENT ON COLUMN meta.unnamed IS 'the newest revision without an id; each after it has a row in the log at least';
COMMENT ON COLUMN meta.settled IS 'there are ids in the table settled';

CREATE TABLE settled (
    commit bigint NOT NULL PRIMARY KEY,
    place  bigint NOT NULL
);
COMMENT ON TABLE settled IS 'ids of commits that were asked for before they arrived, and must not happen any more';

-- The function of the format before, for processes that have not ended yet.
CREATE OR REPLACE FUNCTION apply(
    count int4, guard_txns int4[], guard_keys text[], guard_versions int8[],
    write_txns int4[], write_keys text[], write_values bytea[], channel text, message text,
    OUT revisions int8[], OUT places int8[]
) LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the schema was brought to format 3 by a newer version of orch; start this process again with that version'
        USING ERRCODE = 'feature_not_supported';
END $$;

-- Decides and applies transactions that are numbered from 0 and have these ids, all on the state before, and wakes those
-- who listen at `channel`. None of them may look at or write what another one with a smaller number writes; `quiet` says
-- that some may change nothing. Returns for each its revision, or else the place of the first of its guards that did not
-- hold, counted from one in the list of guards, or zero when it was settled before; and the newest revision of before with
-- its commit.
CREATE FUNCTION apply_step(
    commits int8[], guard_txns int4[], guard_keys text[], guard_versions int8[], guard_commits int8[],
    write_txns int4[], write_keys text[], write_values bytea[], quiet boolean, channel text, message text,
    OUT revisions int8[], OUT places int8[], OUT head int8, OUT head_commit int8
) LANGUAGE plpgsql AS $$
DECLARE
    refusing boolean;
    late int4[] := '{}';
    reached int8;
BEGIN
    -- The lock comes first: each statement after it sees all that was committed before.
    SELECT meta.revision, meta.commit, meta.settled INTO head, head_commit, refusing FROM meta FOR NO KEY UPDATE;
    IF cardinality(guard_keys) = 0 AND NOT refusing THEN
        reached := head + cardinality(commits);
        revisions := ARRAY(SELECT generate_series(head + 1, reached));
    ELSE
        IF refusing THEN
            late := ARRAY(
                SELECT txn.number - 1 FROM unnest(commits) WITH ORDINALITY AS txn (commit, number)
                JOIN settled USING (commit)
            );
        END IF;
        WITH failed AS (
            -- No version: nothing may be there.
            SELECT guard.txn, min(guard.place) AS place
            FROM unnest(guard_txns, guard_keys, guard_versions, guard_commits) WITH ORDINALITY
                AS guard (txn, key, version, commit, place)
            LEFT JOIN records ON records.key = guard.key
            WHERE records.version IS DISTINCT FROM guard.version OR records.commit IS DISTINCT FROM guard.commit
            GROUP BY guard.txn
        ), checked AS (
            SELECT txn.txn, CASE WHEN txn.txn = ANY (late) THEN 0 ELSE failed.place END AS place
            FROM generate_series(0, cardinality(commits) - 1) AS txn (txn) LEFT JOIN failed USING (txn)
        ), decided AS (
            SELECT txn, place, head + count(*) FILTER (WHERE place IS NULL) OVER (ORDER BY txn) AS after FROM checked
        )
        SELECT array_agg(CASE WHEN decided.place IS NULL THEN decided.after END ORDER BY decided.txn),
            array_agg(decided.place ORDER BY decided.txn), max(decided.after)
        INTO revisions, places, reached FROM decided;
    END IF;
    IF reached = head THEN
        RETURN;
    END IF;
    INSERT INTO records (key, value, version, commit)
    SELECT write.key, write.value, revisions[write.txn + 1], commits[write.txn + 1]
    FROM unnest(write_txns, write_keys, write_values) AS write (txn, key, value)
    WHERE write.value IS NOT NULL AND revisions[write.txn + 1] IS NOT NULL
    ON CONFLICT (key) DO UPDATE SET value = excluded.value, version = excluded.version, commit = excluded.commit;
    INSERT INTO log (revision, key, value, commit)
    SELECT revisions[write.txn + 1], write.key, write.value, commits[write.txn + 1]
    FROM unnest(write_txns, write_keys, write_values) AS write (txn, key, value)
    WHERE write.value IS NOT NULL AND revisions[write.txn + 1] IS NOT NULL;
    IF quiet THEN
        -- No value: a deletion, which is logged if there was something.
        WITH deleted AS (
            DELETE FROM records
            USING unnest(write_txns, write_keys, write_values) AS write (txn, key, value)
            WHERE records.key = write.key AND write.value IS NULL AND revisions[write.txn + 1] IS NOT NULL
            RETURNING write.txn + 1 AS number, records.key
        )
        INSERT INTO log (revision, key, commit)
        SELECT revisions[deleted.number], deleted.key, commits[deleted.number] FROM deleted;
        INSERT INTO log (revision, key, commit)
        SELECT revisions[number], '', commits[number] FROM generate_subscripts(commits, 1) AS number
        WHERE revisions[number] IS NOT NULL AND NOT EXISTS (SELECT FROM log WHERE log.revision = revisions[number]);
    END IF;
    UPDATE meta SET revision = reached, commit = commits[array_position(revisions, reached)];
    PERFORM pg_notify(channel, message);
END $$;

-- Decides and applies transactions in steps that follow each other, each as `apply_step` does: `counts` has the number of
-- transactions of each step, `guards` and `writes` the numbers of its guards and its writes, whose lists follow each
-- other. All of it is one statement, so that no part of it can happen without the others. Returns a row for each step.
CREATE FUNCTION apply_steps(
    counts int4[], guards int4[], writes int4[],
    commits int8[], guard_txns int4[], guard_keys text[], guard_versions int8[], guard_commits int8[],
    write_txns int4[], write_keys text[], write_values bytea[], quiet boolean, channel text, message text
) RETURNS TABLE (revisions int8[], places int8[], head int8, head_commit int8) LANGUAGE plpgsql AS $$
DECLARE
    txn int4 := 0;
    guard int4 := 0;
    write int4 := 0;
BEGIN
    FOR step IN 1 .. cardinality(counts) LOOP
        RETURN QUERY SELECT done.revisions, done.places, done.head, done.head_commit FROM apply_step(
            commits[txn + 1 : txn + counts[step]],
            guard_txns[guard + 1 : guard + guards[step]], guard_keys[guard + 1 : guard + guards[step]],
            guard_versions[guard + 1 : guard + guards[step]], guard_commits[guard + 1 : guard + guards[step]],
            write_txns[write + 1 : write + writes[step]], write_keys[write + 1 : write + writes[step]],
            write_values[write + 1 : write + writes[step]], quiet, channel, message
        ) AS done;
        txn := txn + counts[step];
        guard := guard + guards[step];
        write := write + writes[step];
    END LOOP;
END $$;

-- Forgets the revisions up to `before`, never more than there are, and at most `count` of them, because nobody commits
-- meanwhile. Returns true when all of them are forgotten.
CREATE FUNCTION forget(before int8, count int8) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    head int8;
    start int8;
    reached int8;
BEGIN
    SELECT meta.revision, meta.oldest INTO head, start FROM meta FOR NO KEY UPDATE;
    reached := least(before, head, start + count);
    IF reached > start THEN
        UPDATE meta SET oldest = reached,
            oldest_commit = coalesce((SELECT log.commit FROM log WHERE log.revision = reached LIMIT 1), 0);
        DELETE FROM log WHERE log.revision <= reached;
    END IF;
    RETURN reached >= least(before, head);
END $$;

-- Looks for the revision of a commit. When there is none, and all after `since` are kept, the commit is refused from now
-- on: its request may still be on its way. The newest 1,024 such ids are remembered.
CREATE FUNCTION settle(id int8, since int8, OUT at int8, OUT oldest int8, OUT oldest_commit int8)
LANGUAGE plpgsql AS $$
DECLARE
    known int8;
    newest int8;
BEGIN
    -- Most of the log is looked at before others are held up. `since` may be of a history that is lost: the commit may
    -- have an earlier revision then.
    SELECT least(since, meta.revision) INTO known FROM meta;
    SELECT log.revision INTO at FROM log WHERE log.revision <= known AND log.commit = id LIMIT 1;
    -- Also where it was found: this transaction is answered when that commit is as durable as any other.
    PERFORM FROM meta FOR NO KEY UPDATE;
    IF at IS NULL THEN
        SELECT log.revision INTO at FROM log WHERE log.revision > known AND log.commit = id LIMIT 1;
    END IF;
    SELECT meta.oldest, meta.oldest_commit INTO oldest, oldest_commit FROM meta;
    IF at IS NULL AND since >= oldest AND NOT EXISTS (SELECT FROM settled WHERE settled.commit = id) THEN
        SELECT coalesce(max(settled.place), 0) + 1 INTO newest FROM settled;
        INSERT INTO settled (commit, place) VALUES (id, newest);
        DELETE FROM settled WHERE settled.place <= newest - 1024;
        UPDATE meta SET settled = true WHERE NOT meta.settled;
    END IF;
END $$;
