-- The newest revision that has to be forgotten for the log to hold no more than $1 bytes. Looks at the newest first, and
-- at no more than are kept and this one.
SELECT least(sized.revision, meta.revision - 1)
FROM meta, (
    SELECT revision, sum(octet_length(key) + coalesce(octet_length(value), 0)) OVER (ORDER BY revision DESC) AS bytes
    FROM log
) AS sized
WHERE sized.bytes > $1
ORDER BY sized.revision DESC LIMIT 1
