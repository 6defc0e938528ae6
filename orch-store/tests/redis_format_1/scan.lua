#!lua flags=no-writes
-- KEYS: values, versions, index, meta. ARGV: the range as ZRANGEBYLEX takes it, and the most records.
-- Returns the revision, then key, value and version of each record.
local found = redis.call('ZRANGEBYLEX', KEYS[3], ARGV[1], ARGV[2], 'LIMIT', 0, ARGV[3])
local page = {redis.call('HGET', KEYS[4], 'revision') or '0'}
for _, key in ipairs(found) do
    page[#page + 1] = key
    page[#page + 1] = redis.call('HGET', KEYS[1], key)
    page[#page + 1] = redis.call('HGET', KEYS[2], key)
end
return page
