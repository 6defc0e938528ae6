#!lua
-- KEYS: values, versions, index, log, meta, void. ARGV: the channel; the id of the commit; the number of guards; for each its
-- key and the version it wants, empty for none; then for each write its key, 1 or 0 for a deletion, and its value.
-- Returns {revision}, or {0, the number of the guard that failed}, or {0, 0} for a commit that was settled as void.
-- What a script has written stays when it fails later. So all that can fail is asked before the first write; memory is, too:
-- the server asks for that before a script begins.
local values, versions, index, log, meta, void = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local id = ARGV[2]
local function ask(command, key, ...)
    local answer = redis.pcall(command, key, ...)
    if type(answer) == 'table' and answer.err then
        error(redis.error_reply('DAMAGED ' .. key .. ': ' .. answer.err))
    end
    return answer
end
-- Positions are a revision, a colon and the id of its commit. Earlier versions wrote revisions alone.
local function revision_of(position)
    return tonumber(string.match(position or '0', '^%d+') or '')
end
local known = ask('HMGET', meta, 'revision', 'oldest', 'format')
if tonumber(known[3] or '2') > 2 then
    return redis.error_reply('NEWER ' .. known[3])
end
local head, oldest = revision_of(known[1]), revision_of(known[2])
if not head or not oldest then
    return redis.error_reply('DAMAGED ' .. meta .. ' has no positions')
end
local records = ask('ZCARD', index)
if ask('HLEN', values) ~= records or ask('HLEN', versions) ~= records then
    return redis.error_reply('DAMAGED ' .. values .. ', ' .. versions .. ' and ' .. index .. ' hold different records')
end
if not known[1] and records > 0 then
    return redis.error_reply('DAMAGED ' .. meta .. ' is missing')
end
local length = ask('XLEN', log)
if length < head - oldest then
    return redis.error_reply('LOST ' .. log)
elseif length > head - oldest then
    return redis.error_reply('DAMAGED ' .. log .. ' goes on after revision ' .. string.format('%.0f', head))
end
if ask('ZSCORE', void, id) then
    return {0, 0}
end
local at = 4
for guard = 1, tonumber(ARGV[3]) do
    local version = redis.call('HGET', versions, ARGV[at]) or ''
    if version ~= ARGV[at + 1] then
        return {0, guard}
    end
    at = at + 2
end
local revision = string.format('%.0f', head + 1)
local position = revision .. ':' .. id
-- What changes, for watches.
local first, changes = at, {'revision', revision, 'commit', id}
while at <= #ARGV do
    local key = ARGV[at]
    if ARGV[at + 1] == '1' then
        changes[#changes + 1] = 'put ' .. key
        changes[#changes + 1] = ARGV[at + 2]
    elseif redis.call('HEXISTS', values, key) == 1 then
        changes[#changes + 1] = 'delete ' .. key
        changes[#changes + 1] = ''
    end
    at = at + 3
end
-- The first write is the only one that can fail: the log may have had a later revision once.
ask('XADD', log, revision .. '-0', unpack(changes))
redis.call('HSET', meta, 'revision', position, 'format', '2')
at = first
while at <= #ARGV do
    local key = ARGV[at]
    if ARGV[at + 1] == '1' then
        redis.call('HSET', values, key, ARGV[at + 2])
        redis.call('HSET', versions, key, position)
        redis.call('ZADD', index, 0, key)
    else
        redis.call('HDEL', values, key)
        redis.call('HDEL', versions, key)
        redis.call('ZREM', index, key)
    end
    at = at + 3
end
redis.call('PUBLISH', ARGV[1], revision)
return {tonumber(revision)}
