#!lua
-- KEYS: values, versions, index, log, meta. ARGV: the channel; the number of guards; for each its key and the version it
-- wants, empty for none; then for each write its key, 1 or 0 for a deletion, and its value.
-- Returns {revision} or {0, the number of the guard that failed}.
local values, versions, index, log, meta = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local at = 3
for guard = 1, tonumber(ARGV[2]) do
    local version = redis.call('HGET', versions, ARGV[at]) or ''
    if version ~= ARGV[at + 1] then
        return {0, guard}
    end
    at = at + 2
end
local revision = string.format('%.0f', redis.call('HINCRBY', meta, 'revision', 1))
-- What changed, for watches. An entry needs a field, also when nothing did.
local changes = {'revision', revision}
while at <= #ARGV do
    local key = ARGV[at]
    if ARGV[at + 1] == '1' then
        redis.call('HSET', values, key, ARGV[at + 2])
        redis.call('HSET', versions, key, revision)
        redis.call('ZADD', index, 0, key)
        changes[#changes + 1] = 'put ' .. key
        changes[#changes + 1] = ARGV[at + 2]
    elseif redis.call('HDEL', values, key) == 1 then
        redis.call('HDEL', versions, key)
        redis.call('ZREM', index, key)
        changes[#changes + 1] = 'delete ' .. key
        changes[#changes + 1] = ''
    end
    at = at + 3
end
redis.call('XADD', log, revision .. '-0', unpack(changes))
redis.call('PUBLISH', ARGV[1], revision)
return {tonumber(revision)}
