-- The revisions after $1 up to $2, and no more of them than come to $3 bytes, but one at least. Beside them where the log
-- begins and ends, the commit at $1, the newest revision that may have no row, and the first revision that was left out for its bytes.
WITH sized AS (
    SELECT revision, sum(octet_length(value)) OVER (ORDER BY revision) AS bytes, min(revision) OVER () AS first
    FROM log WHERE revision > $1 AND revision <= $2
), cut AS (
    SELECT min(revision) AS at FROM sized WHERE bytes > $3 AND revision > first
)
SELECT meta.oldest, meta.oldest_commit, meta.revision, meta.commit,
    (SELECT start.commit FROM log AS start WHERE start.revision = $1 LIMIT 1), meta.unnamed, cut.at,
    log.revision, log.commit, log.key, log.value
FROM meta CROSS JOIN cut
LEFT JOIN log ON log.revision > $1 AND log.revision <= $2 AND (cut.at IS NULL OR log.revision < cut.at)
ORDER BY log.revision, log.key
