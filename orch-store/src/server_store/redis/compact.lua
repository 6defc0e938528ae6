#!lua flags=allow-oom
-- KEYS: log, meta. ARGV: the revision up to which the log is forgotten; the most memory that the log may take, empty for
-- any.
local log, meta = KEYS[1], KEYS[2]
local head = tonumber(redis.call('HGET', meta, 'revision') or '0')
local oldest = tonumber(redis.call('HGET', meta, 'oldest') or '0')
local function forget(wanted)
    oldest = wanted
    redis.call('HSET', meta, 'oldest', string.format('%.0f', wanted))
    redis.call('XTRIM', log, 'MINID', string.format('%.0f-0', wanted + 1))
end
local wanted = math.min(tonumber(ARGV[1]), head)
if wanted > oldest then
    forget(wanted)
end
local most = tonumber(ARGV[2])
while most and oldest < head and (redis.call('MEMORY', 'USAGE', log, 'SAMPLES', 0) or 0) > most do
    forget(oldest + math.ceil((head - oldest) / 8))
end
return redis.status_reply('OK')
