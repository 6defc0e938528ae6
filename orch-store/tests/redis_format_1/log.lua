#!lua flags=no-writes
-- KEYS: log, meta. ARGV: the revision to begin after, the most revisions, and the bytes after which it is enough.
-- Returns the oldest and the newest revision, and entries of the log as XRANGE does.
local oldest = redis.call('HGET', KEYS[2], 'oldest') or '0'
local head = redis.call('HGET', KEYS[2], 'revision') or '0'
local after, left, bytes = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local entries = {}
while left > 0 and bytes > 0 and after >= tonumber(oldest) do
    local start = string.format('%.0f-0', after + 1)
    local found = redis.call('XRANGE', KEYS[1], start, '+', 'COUNT', math.min(left, 16))
    if #found == 0 then
        break
    end
    for _, entry in ipairs(found) do
        entries[#entries + 1] = entry
        after = after + 1
        left = left - 1
        for _, text in ipairs(entry[2]) do
            bytes = bytes - #text
        end
        if bytes <= 0 then
            break
        end
    end
end
return {oldest, head, entries}
