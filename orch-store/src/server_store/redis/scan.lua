#!lua flags=no-writes
-- KEYS: values, versions, index, meta. ARGV: the range as ZRANGEBYLEX takes it, and the most records.
-- Returns the position, then key, value and version of each record.
local found = redis.call('ZRANGEBYLEX', KEYS[3], ARGV[1], ARGV[2], 'LIMIT', 0, ARGV[3])
local known = redis.call('HMGET', KEYS[4], 'revision', 'format')
local revision = known[1]
if tonumber(known[2] or '2') > 2 then
    return redis.error_reply('NEWER ' .. known[2])
end
if not revision and #found > 0 then
    return redis.error_reply('DAMAGED ' .. KEYS[4] .. ' is missing')
end
local page = {revision or '0'}
for _, key in ipairs(found) do
    page[#page + 1] = key
    page[#page + 1] = redis.call('HGET', KEYS[1], key)
    page[#page + 1] = redis.call('HGET', KEYS[2], key)
end
return page
