-- Forgets the revisions up to $1, and never more than there are.
WITH moved AS (
    UPDATE meta SET oldest = greatest(oldest, least($1::int8, revision)) RETURNING oldest
)
DELETE FROM log USING moved WHERE log.revision <= moved.oldest
