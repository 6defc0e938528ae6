-- Sessions that the session $1 waits for, as text: first those that wait for no lock themselves.
SELECT format(
    'session %s (%s, user %s, %s%s)', pid, coalesce(nullif(application_name, ''), 'without a name'),
    coalesce(usename, 'unknown'), coalesce(state, 'in the background'),
    CASE WHEN wait_event IS NOT NULL THEN ', waits for ' || wait_event END
)
FROM pg_stat_activity WHERE pid = ANY (pg_blocking_pids($1))
ORDER BY wait_event_type IS NOT DISTINCT FROM 'Lock', xact_start LIMIT 4
