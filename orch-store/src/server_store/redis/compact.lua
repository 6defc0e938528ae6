#!lua flags=allow-oom
-- KEYS: log, meta. ARGV: the revision up to which the log is forgotten; the most memory that the log may take, empty for
-- any.
local log, meta = KEYS[1], KEYS[2]
local known = redis.call('HMGET', meta, 'revision', 'oldest', 'format')
if tonumber(known[3] or '2') > 2 then
    return redis.error_reply('NEWER ' .. known[3])
end
local newest = known[1] or '0'
local head = tonumber(string.match(newest, '^%d+') or '')
local oldest = tonumber(string.match(known[2] or '0', '^%d+') or '')
if not head or not oldest then
    return redis.error_reply('DAMAGED ' .. meta .. ' has no positions')
end
local function forget(wanted)
    local id = string.format('%.0f-0', wanted)
    local entry = redis.call('XRANGE', log, id, id)[1]
    local position = newest
    if entry and wanted < head then
        position = string.format('%.0f', wanted)
        if entry[2][3] == 'commit' then
            position = position .. ':' .. entry[2][4]
        end
    else
        -- A log that lost this revision keeps nothing before its newest one.
        wanted = head
    end
    oldest = wanted
    redis.call('HSET', meta, 'oldest', position)
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
