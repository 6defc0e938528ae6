-- Decides and applies transactions in steps that follow each other, each as `apply` does: `counts` has the number of
-- transactions of each step, `guards` and `writes` the numbers of its guards and its writes, whose lists follow each
-- other. All of it is one statement, so that no part of it can happen without the others. Returns a row for each step.
CREATE FUNCTION apply_all(
    counts int4[], guards int4[], writes int4[], guard_txns int4[], guard_keys text[], guard_versions int8[],
    write_txns int4[], write_keys text[], write_values bytea[], channel text, message text
) RETURNS TABLE (revisions int8[], places int8[]) LANGUAGE plpgsql AS $$
DECLARE
    guard int4 := 1;
    write int4 := 1;
    next_guard int4;
    next_write int4;
BEGIN
    FOR step IN 1 .. cardinality(counts) LOOP
        next_guard := guard + guards[step];
        next_write := write + writes[step];
        RETURN QUERY SELECT done.revisions, done.places FROM apply(
            counts[step],
            guard_txns[guard : next_guard - 1], guard_keys[guard : next_guard - 1],
            guard_versions[guard : next_guard - 1],
            write_txns[write : next_write - 1], write_keys[write : next_write - 1],
            write_values[write : next_write - 1], channel, message
        ) AS done;
        guard := next_guard;
        write := next_write;
    END LOOP;
END $$;
