-- The rules of a room inside Redis: every function is one atomic step of the core in `room/`, in its words.
--
-- KEYS[1] is a shard's prefix, `farcall1:{shard}:`; a room and everything in it lives under one, hence in one slot of a
-- cluster. Below it:
--
--   s:ID     hash    a session; `line` is `a` (a stream is there, `at` is when its lease runs out) or `d` (none, since `at`)
--   q:ID     list    its log from `acked` + 1 to `last`: `M<time> <from>\n<message>`
--                    or `P<time> <session> <ordinal> <presence> <before>\n<profile>`
--   u:ID     zset    client_seqs of its frames that had nobody to go to
--   e:ID     string  how it ended under a stream: `<epoch> <reason> <when to forget>`
--   r:ROOM   hash    ordinals of its members, and under `#` the last one given
--   rooms    set     names of the rooms
--   due      zset    when to look at a session again. Never later than its deadline, often earlier: a heartbeat moves
--                    the deadline alone, and whoever looks puts the entry right.
--
-- Presences: `c`onnected, `r`econnecting, or why it left: `l`eft, e`x`pired, re`m`oved, `o`verflow, re`p`laced; `-` is none yet.
-- ARGV[1] is the time in ms, empty for the server's own. A bell is a session's id, published to the node of its stream.

local P, now, limits
local sessions, rooms, dirty, bells

local OK, ROOM_FULL, SERVER_FULL, LOG_FULL, NOT_FOUND, BAD_SECRET, GAP, BEYOND, MAY_NOT_CREATE =
    0, 1, 2, 3, 4, 5, 6, 7, 8

local function read_time(given)
    if given ~= '' then return tonumber(given) end
    local time = redis.call('TIME')
    return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

local limits_text = nil

local function read_limits(text)
    if text == limits_text then return end
    local n = {}
    for number in string.gmatch(text, '%d+') do n[#n + 1] = tonumber(number) end
    limits = {
        room_size = n[1], log_frames = n[2], log_bytes = n[3], window = n[4], grace = n[5], lease = n[6],
        -- What a cluster that died as a whole leaves behind goes away by itself.
        keep = n[4] + n[6] + 3600 * 1000,
    }
    limits_text = text
end

local function whole(number) return string.format('%.0f', number) end

local FIELDS = {
    'room', 'secret', 'ordinal', 'presence', 'epoch', 'line', 'at', 'last', 'acked', 'bytes', 'taken', 'node', 'request',
    'who', 'joined',
}

local function session(id)
    local known = sessions[id]
    if known ~= nil then return known or nil end
    local v = redis.call('HMGET', P .. 's:' .. id, unpack(FIELDS))
    local s = false
    if v[1] then
        s = {
            id = id, room = v[1], secret = v[2], ordinal = tonumber(v[3]), presence = v[4], epoch = tonumber(v[5]),
            line = v[6], at = tonumber(v[7]), last = tonumber(v[8]), acked = tonumber(v[9]), bytes = tonumber(v[10]),
            taken = tonumber(v[11]), node = v[12], request = v[13], who = v[14], joined = tonumber(v[15]),
        }
    end
    sessions[id] = s
    return s or nil
end

local function profile(s)
    if not s.profile then s.profile = redis.call('HGET', P .. 's:' .. s.id, 'profile') or '' end
    return s.profile
end

-- In the order they joined. A member whose session is not there any more was left behind by a cluster that died.
local function members(room)
    local list = rooms[room]
    if list then return list end
    list = {}
    local flat = redis.call('HGETALL', P .. 'r:' .. room)
    for i = 1, #flat, 2 do
        if flat[i] ~= '#' then
            local s = session(flat[i])
            if s then list[#list + 1] = s else redis.call('HDEL', P .. 'r:' .. room, flat[i]) end
        end
    end
    if #flat > 0 and #list == 0 then
        redis.call('DEL', P .. 'r:' .. room)
        redis.call('SREM', P .. 'rooms', room)
    end
    table.sort(list, function(a, b) return a.ordinal < b.ordinal end)
    rooms[room] = list
    return list
end

local function ring(s)
    if s.node ~= '' then bells[s.node .. ' ' .. s.id] = s end
end

local function change(s) dirty[s.id] = s end

local function deadline(s)
    if s.line == 'a' then return s.at end
    if s.presence == 'c' then return s.at + math.min(limits.grace, limits.window) end
    return s.at + limits.window
end

-- To be looked at by its deadline, or before.
local function arm(s) redis.call('ZADD', P .. 'due', 'LT', deadline(s), s.id) end

-- To be looked at at its deadline, and kept until then.
local function rearm(s)
    redis.call('ZADD', P .. 'due', deadline(s), s.id)
    for _, key in ipairs({ 's:' .. s.id, 'q:' .. s.id, 'u:' .. s.id, 'r:' .. s.room, 'rooms', 'due' }) do
        redis.call('PEXPIRE', P .. key, limits.keep)
    end
end

local function append(s, entry, size)
    local key = P .. 'q:' .. s.id
    redis.call('RPUSH', key, entry)
    if s.last == s.acked then redis.call('PEXPIRE', key, limits.keep) end
    s.last = s.last + 1
    s.bytes = s.bytes + size
    change(s)
    ring(s)
end

local function trim(s, ack)
    if ack <= s.acked then return end
    local key = P .. 'q:' .. s.id
    if ack >= s.last then
        redis.call('DEL', key)
        s.bytes = 0
    else
        for _, entry in ipairs(redis.call('LPOP', key, ack - s.acked)) do
            if string.sub(entry, 1, 1) == 'M' then
                s.bytes = s.bytes - (#entry - string.find(entry, '\n', 1, true))
            end
        end
    end
    s.acked = ack
    change(s)
end

-- Tells everybody else in the room, and returns whose log that was too much for.
local function announce(s, before)
    local event = 'P' .. whole(now) .. ' ' .. s.id .. ' ' .. whole(s.ordinal) .. ' ' .. s.presence .. ' ' .. before
        .. '\n' .. profile(s)
    local overgrown = {}
    for _, other in ipairs(members(s.room)) do
        if other ~= s then
            append(other, event, 0)
            if other.last - other.acked > 2 * limits.log_frames then overgrown[#overgrown + 1] = other end
        end
    end
    return overgrown
end

local function leave_room(s)
    local list = members(s.room)
    for i = #list, 1, -1 do
        if list[i] == s then table.remove(list, i) end
    end
    redis.call('HDEL', P .. 'r:' .. s.room, s.id)
    if #list == 0 then
        redis.call('DEL', P .. 'r:' .. s.room)
        redis.call('SREM', P .. 'rooms', s.room)
    end
end

-- Ends sessions, and with them whatever the news of it is too much for.
local function finish(ending, reason)
    while #ending > 0 do
        local s = table.remove(ending)
        if sessions[s.id] then
            profile(s)
            leave_room(s)
            sessions[s.id] = false
            redis.call('DEL', P .. 's:' .. s.id, P .. 'q:' .. s.id, P .. 'u:' .. s.id)
            redis.call('ZREM', P .. 'due', s.id)
            if s.line == 'a' then
                local forget_at = now + limits.window
                local how = whole(s.epoch) .. ' ' .. reason .. ' ' .. whole(forget_at)
                redis.call('SET', P .. 'e:' .. s.id, how, 'PX', limits.window + 60000)
                ring(s)
            end
            local before = s.presence
            s.presence = reason
            for _, other in ipairs(announce(s, before)) do ending[#ending + 1] = other end
            -- Whoever follows is not the one that the reason was about.
            reason = 'o'
        end
    end
end

-- Changes what the others see of a session, if it is a change.
local function show(s, presence)
    local before = s.presence
    if before == presence then return end
    s.presence = presence
    change(s)
    finish(announce(s, before), 'o')
end

-- Does what the passing of time alone does, for the whole shard: what is over is over, however late the sweep.
local function pass()
    while true do
        local first = redis.call('ZRANGEBYSCORE', P .. 'due', '-inf', now, 'WITHSCORES', 'LIMIT', 0, 1)
        if #first == 0 then return end
        local s = session(first[1])
        if not s then
            redis.call('ZREM', P .. 'due', first[1])
        else
            local due = deadline(s)
            if due > tonumber(first[2]) then
                rearm(s)
            elseif s.line == 'a' then
                s.line, s.at = 'd', due
                change(s)
                ring(s)
                show(s, 'r')
                if sessions[s.id] then rearm(s) end
            elseif s.at + limits.window <= due then
                finish({ s }, 'x')
            else
                show(s, 'r')
                if sessions[s.id] then rearm(s) end
            end
        end
    end
end

local function begin(keys, args)
    P = keys[1]
    now = read_time(args[1])
    read_limits(args[2])
    sessions, rooms, dirty, bells = {}, {}, {}, {}
    pass()
end

-- Writes what changed, rings, and answers.
local function done(reply)
    for id, s in pairs(dirty) do
        if sessions[id] == s then
            redis.call('HSET', P .. 's:' .. id, 'presence', s.presence, 'epoch', s.epoch, 'line', s.line, 'at', s.at,
                'last', s.last, 'acked', s.acked, 'bytes', s.bytes, 'taken', s.taken, 'node', s.node)
        end
    end
    for to, s in pairs(bells) do
        redis.call('PUBLISH', 'farcall:bell:' .. string.sub(to, 1, #to - #s.id - 1), s.id)
    end
    return reply
end

local function room_count() return redis.call('SCARD', P .. 'rooms') end
local function session_count() return redis.call('ZCARD', P .. 'due') end

-- Gives a session a new stream, if the session survives that.
local function attach(s, node, received, outcome)
    if s.line == 'a' then ring(s) end
    s.epoch = s.epoch + 1
    s.line, s.at, s.node = 'a', now + limits.lease, node
    change(s)
    trim(s, received)
    rearm(s)
    show(s, 'c')
    if not sessions[s.id] then return nil end

    local reply = {
        OK, s.id, s.secret, s.epoch, outcome, s.acked, received < s.acked and 1 or 0, s.taken, s.ordinal, s.presence,
        profile(s), room_count(), session_count(), #members(s.room) - 1,
    }
    for _, other in ipairs(members(s.room)) do
        if other ~= s then
            for _, field in ipairs({ other.id, other.ordinal, other.presence, profile(other) }) do
                reply[#reply + 1] = field
            end
        end
    end
    -- The events still to come, for the caller to show the others as they were before them.
    if s.last > s.acked then
        for _, entry in ipairs(redis.call('LRANGE', P .. 'q:' .. s.id, 0, -1)) do
            if string.sub(entry, 1, 1) == 'P' then reply[#reply + 1] = entry end
        end
    end
    return reply
end

-- The session without a stream that a participant left in the room, the oldest if there are several.
local function left_behind(room, who)
    if who == '' then return nil end
    for _, member in ipairs(members(room)) do
        if member.line ~= 'a' and member.who == who then return member end
    end
end

-- time, limits, node, room, new id, new secret, vacant rooms, vacant sessions, request id or '', profile, who it is
-- or '', whether a room may be made or '' [, session to resume, its secret, last received seq]
local function join(keys, args)
    begin(keys, args)
    local node, room, request = args[3], args[4], args[9]
    local who, resumes = args[11], args[13]
    local resume = resumes and session(resumes)
    if resume and resume.room == room then
        local received = tonumber(args[15])
        if resume.secret ~= args[14] then return done({ BAD_SECRET }) end
        if received > resume.last then return done({ BEYOND, resume.last }) end
        -- The news of its return may be the last straw for a log of the others, and that news for its own.
        local joined = attach(resume, node, received, 'r')
        if joined then return done(joined) end
    end
    if request ~= '' then
        for _, member in ipairs(members(room)) do
            if member.request == request then
                local joined = attach(member, node, 0, resumes and 'y' or 'r')
                if joined then return done(joined) end
                break
            end
        end
    end

    local present = #members(room)
    local replaced = present >= limits.room_size and left_behind(room, who)
    if present >= limits.room_size and not replaced then return done({ ROOM_FULL }) end
    if present == 0 and args[12] == '' then return done({ MAY_NOT_CREATE }) end
    if present == 0 and tonumber(args[7]) <= 0 then return done({ SERVER_FULL }) end
    if tonumber(args[8]) <= 0 and not replaced then return done({ SERVER_FULL }) end
    if replaced then finish({ replaced }, 'p') end
    local id = args[5]
    local ordinal = redis.call('HINCRBY', P .. 'r:' .. room, '#', 1)
    redis.call('HSET', P .. 'r:' .. room, id, ordinal)
    redis.call('SADD', P .. 'rooms', room)
    redis.call('HSET', P .. 's:' .. id, 'room', room, 'secret', args[6], 'ordinal', ordinal, 'request', request,
        'profile', args[10], 'who', who, 'joined', whole(now))
    local s = {
        id = id, room = room, secret = args[6], ordinal = ordinal, presence = 'c', epoch = 0, line = 'd', at = now,
        last = 0, acked = 0, bytes = 0, taken = 0, node = '', request = request, profile = args[10],
        who = who, joined = now,
    }
    sessions[id] = s
    table.insert(rooms[room], s)
    change(s)
    finish(announce(s, '-'), 'o')
    return done(attach(s, node, 0, resumes and 'y' or 'n') or { NOT_FOUND })
end

local function has_room(s, size)
    return s.last - s.acked < limits.log_frames and s.bytes + size <= limits.log_bytes
end

local function receivers(s, to)
    local list = {}
    if to ~= '' then
        local one = session(to)
        if one and one ~= s and one.room == s.room then list[1] = one end
        return list
    end
    for _, member in ipairs(members(s.room)) do
        if member ~= s then list[#list + 1] = member end
    end
    return list
end

local UNDELIVERED = 512

-- time, limits, session, secret, ack, then for each frame: client_seq, to or '', message
local function send(keys, args)
    begin(keys, args)
    local s = session(args[3])
    if not s then return done({ NOT_FOUND }) end
    if s.secret ~= args[4] then return done({ BAD_SECRET }) end
    local ack = tonumber(args[5])
    if ack > s.last then return done({ BEYOND, s.last }) end
    trim(s, ack)
    -- Without a stream the window runs, whatever else is heard.
    if s.line == 'a' then s.at = now + limits.lease end
    change(s)

    local reply, undelivered = { OK, 0 }, P .. 'u:' .. s.id
    for i = 6, #args, 3 do
        local seq, message, expected = tonumber(args[i]), args[i + 2], s.taken + 1
        local index = (i - 6) / 3
        if seq > expected then
            return done({ GAP, expected, index })
        elseif seq < expected then
            if redis.call('ZSCORE', undelivered, whole(seq)) then reply[#reply + 1] = index end
        else
            local to = receivers(s, args[i + 1])
            for _, receiver in ipairs(to) do
                if not has_room(receiver, #message) then return done({ LOG_FULL, seq }) end
            end
            local entry = 'M' .. whole(now) .. ' ' .. s.id .. '\n' .. message
            for _, receiver in ipairs(to) do append(receiver, entry, #message) end
            s.taken = seq
            if #to == 0 then
                redis.call('ZADD', undelivered, seq, whole(seq))
                redis.call('ZREMRANGEBYRANK', undelivered, 0, -UNDELIVERED - 1)
                redis.call('PEXPIRE', undelivered, limits.keep)
                reply[#reply + 1] = index
            end
        end
    end
    reply[2] = s.taken
    return done(reply)
end

-- time, limits, session, secret
local function leave(keys, args)
    begin(keys, args)
    local s = session(args[3])
    if s and s.secret ~= args[4] then return done({ BAD_SECRET }) end
    if s then finish({ s }, 'l') end
    return done({ OK, room_count(), session_count() })
end

-- time, limits, session, epoch
local function detach(keys, args)
    begin(keys, args)
    local key, epoch = P .. 'e:' .. args[3], args[4]
    local how = redis.call('GET', key)
    if how and string.match(how, '^%d+') == epoch then redis.call('DEL', key) end
    local s = session(args[3])
    if s and s.line == 'a' and whole(s.epoch) == epoch then
        s.line, s.at, s.node = 'd', now, ''
        change(s)
        arm(s)
    end
    return done({ OK })
end

-- time, limits
local function sweep(keys, args)
    begin(keys, args)
    return done({ OK, room_count(), session_count() })
end

-- time, limits, session
local function remove(keys, args)
    begin(keys, args)
    local s = session(args[3])
    if s then finish({ s }, 'm') end
    return done({ OK, room_count(), session_count(), s and 1 or 0 })
end

-- time, limits, room
local function close(keys, args)
    begin(keys, args)
    local all = {}
    for _, member in ipairs(members(args[3])) do all[#all + 1] = member end
    -- One by one: none of them is told of the others' end for a reason that is not theirs.
    for _, member in ipairs(all) do finish({ member }, 'm') end
    return done({ OK, room_count(), session_count(), #all })
end

-- time, limits, room. Answers for each member: session, ordinal, presence, profile, whether it has a stream, when it
-- came, frames that wait.
local function view(keys, args)
    begin(keys, args)
    local reply = {}
    for _, s in ipairs(members(args[3])) do
        local seen = { s.id, s.ordinal, s.presence, profile(s), s.line == 'a' and 1 or 0, s.joined, s.last - s.acked }
        for _, field in ipairs(seen) do reply[#reply + 1] = field end
    end
    return done(reply)
end

-- Answers for each room: its name, and how many are in it.
local function rooms_of_shard(keys)
    local reply = {}
    for _, room in ipairs(redis.call('SMEMBERS', keys[1] .. 'rooms')) do
        reply[#reply + 1] = room
        reply[#reply + 1] = redis.call('HLEN', keys[1] .. 'r:' .. room) - 1
    end
    return reply
end

-- time, session, epoch, after, max
local function read(keys, args)
    local prefix, id, epoch = keys[1], args[2], args[3]
    local v = redis.call('HMGET', prefix .. 's:' .. id, 'epoch', 'line', 'acked', 'last')
    if not v[1] then
        local how = redis.call('GET', prefix .. 'e:' .. id)
        if not how then return { 1, 'f' } end
        local of, reason, forget_at = string.match(how, '^(%d+) (%a) (%d+)$')
        if tonumber(forget_at) <= read_time(args[1]) then return { 1, 'f' } end
        return { 1, of == epoch and reason or 's' }
    end
    if v[1] ~= epoch then return { 1, 's' } end
    if v[2] ~= 'a' then return { 1, 'u' } end
    local acked, after = tonumber(v[3]), tonumber(args[4])
    local skipped = math.max(after - acked, 0)
    local reply = { 0, acked + skipped }
    if acked + skipped < tonumber(v[4]) then
        for _, entry in ipairs(redis.call('LRANGE', prefix .. 'q:' .. id, skipped, skipped + tonumber(args[5]) - 1)) do
            reply[#reply + 1] = entry
        end
    end
    return reply
end

-- For each stream: session, epoch, last seq that it has read. Answers which of them should read again.
local function news(keys, args)
    local reply = {}
    for i = 1, #args, 3 do
        local v = redis.call('HMGET', keys[1] .. 's:' .. args[i], 'epoch', 'line', 'last')
        if v[1] ~= args[i + 1] or v[2] ~= 'a' or tonumber(v[3]) > tonumber(args[i + 2]) then
            reply[#reply + 1] = (i - 1) / 3
        end
    end
    return reply
end

local function register(name, callback, flags)
    redis.register_function({ function_name = '@NAME@_' .. name, callback = callback, flags = flags })
end

register('join', join, {})
register('send', send, {})
register('leave', leave, { 'allow-oom' })
register('detach', detach, { 'allow-oom' })
register('sweep', sweep, { 'allow-oom' })
register('remove', remove, { 'allow-oom' })
register('close', close, { 'allow-oom' })
register('view', view, { 'allow-oom' })
register('rooms', rooms_of_shard, { 'no-writes' })
register('read', read, { 'no-writes' })
register('news', news, { 'no-writes' })
