#!lua flags=no-writes
-- KEYS: log, meta, index. ARGV: the position to begin after, the most revisions, and the bytes after which it is enough.
-- Returns the oldest position, the newest, that with the revision to begin after (empty where there is none), and entries of
-- the log as XRANGE does, none when that is another position.
local known = redis.call('HMGET', KEYS[2], 'revision', 'oldest', 'format')
if tonumber(known[3] or '2') > 2 then
    return redis.error_reply('NEWER ' .. known[3])
end
if not known[1] and (redis.call('EXISTS', KEYS[1], KEYS[3]) > 0) then
    return redis.error_reply('DAMAGED ' .. KEYS[2] .. ' is missing')
end
local newest, oldest = known[1] or '0', known[2] or '0'
local function revision_of(position)
    return tonumber(string.match(position, '^%d+') or '')
end
local head, after = revision_of(newest), revision_of(ARGV[1])
if not head or not revision_of(oldest) then
    return redis.error_reply('DAMAGED ' .. KEYS[2] .. ' has no positions')
end
local left, bytes = tonumber(ARGV[2]), tonumber(ARGV[3])
local begin, entries = '', {}
if after == head then
    begin = newest
elseif after == revision_of(oldest) then
    begin = oldest
elseif after > revision_of(oldest) and after < head then
    local id = string.format('%.0f-0', after)
    local entry = redis.call('XRANGE', KEYS[1], id, id)[1]
    if entry then
        begin = string.format('%.0f', after)
        if entry[2][3] == 'commit' then
            begin = begin .. ':' .. entry[2][4]
        end
    end
end
while left > 0 and bytes > 0 and begin == ARGV[1] and after < head do
    local start = string.format('%.0f-0', after + 1)
    local found = redis.call('XRANGE', KEYS[1], start, string.format('%.0f', head), 'COUNT', math.min(left, 16))
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
return {oldest, newest, begin, entries}
