#!lua flags=allow-oom
-- KEYS: log, meta, void. ARGV: the id of a commit, the revision after which it may be, the most revisions to look at, and 2 for
-- the first step, later 1 if some were not looked at before, else 0.
-- Returns a word, a text and a number: 'found' and its revision; 'void' for one that is not there and was settled as void; 'gap'
-- and the oldest position for one that is not among the revisions that are left; or 'more' with the revision to go on after and
-- 1 or 0 for that.
local log, meta, void = KEYS[1], KEYS[2], KEYS[3]
local id, after, left, gap = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4] == '1'
local known = redis.call('HMGET', meta, 'revision', 'oldest', 'format')
if tonumber(known[3] or '2') > 2 then
    return redis.error_reply('NEWER ' .. known[3])
end
local head = tonumber(string.match(known[1] or '0', '^%d+') or '')
local oldest = tonumber(string.match(known[2] or '0', '^%d+') or '')
if not head or not oldest then
    return redis.error_reply('DAMAGED ' .. meta .. ' has no positions')
end
if ARGV[4] == '2' then
    -- The first step: all that is left is looked at, because the revision may be of a lost history.
    after, gap = oldest, after < oldest
elseif after < oldest then
    after, gap = oldest, true
end
while after < head do
    if left <= 0 then
        return {'more', string.format('%.0f', after), gap and 1 or 0}
    end
    local start = string.format('%.0f-0', after + 1)
    local found = redis.call('XRANGE', log, start, string.format('%.0f', head), 'COUNT', math.min(left, 16))
    if #found == 0 then
        -- Somebody deleted the rest.
        after, gap = head, true
    end
    for _, entry in ipairs(found) do
        local revision = tonumber(string.match(entry[1], '^%d+'))
        if entry[2][3] == 'commit' and entry[2][4] == id then
            return {'found', string.format('%.0f', revision), 0}
        end
        gap = gap or revision ~= after + 1
        after, left = revision, left - 1
    end
end
if gap then
    return {'gap', known[2] or '0', 1}
end
local now = redis.call('TIME')
redis.call('ZADD', void, now[1] * 1000000 + now[2], id)
-- The newest thousand stay.
redis.call('ZREMRANGEBYRANK', void, 0, -1025)
return {'void', '', 0}
