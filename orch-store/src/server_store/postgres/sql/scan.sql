-- Records from $1 on, after $2 and before $3 where these are given, at most $4, with the revision of the same moment. The
-- rows are in no certain order: to sort them here would hold back the first until the last is read.
SELECT meta.revision, meta.commit, page.key, page.value, page.version, page.commit
FROM meta LEFT JOIN LATERAL (
    SELECT key, value, version, commit FROM records
    WHERE key >= $1 AND ($2::text IS NULL OR key > $2) AND ($3::text IS NULL OR key < $3)
    ORDER BY key LIMIT $4
) AS page ON true
