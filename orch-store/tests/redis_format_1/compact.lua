#!lua
-- KEYS: log, meta. ARGV: the revision up to which the log is forgotten.
local head = tonumber(redis.call('HGET', KEYS[2], 'revision') or '0')
local oldest = tonumber(redis.call('HGET', KEYS[2], 'oldest') or '0')
local wanted = math.min(tonumber(ARGV[1]), head)
if wanted > oldest then
    redis.call('HSET', KEYS[2], 'oldest', string.format('%.0f', wanted))
    redis.call('XTRIM', KEYS[1], 'MINID', string.format('%.0f-0', wanted + 1))
end
return redis.status_reply('OK')
