-- Forgets the revisions up to $1, never more than there are, and at most $2 of them at once, because nobody commits
-- meanwhile. Returns true when all of them are forgotten.
WITH moved AS (
    UPDATE meta SET oldest = greatest(oldest, least($1::int8, revision, oldest + $2::int8))
    RETURNING oldest, oldest >= least($1::int8, revision) AS done
), forgotten AS (
    DELETE FROM log USING moved WHERE log.revision <= moved.oldest
)
SELECT done FROM moved
