"""The scripts of the write-behind queue that run inside the server. Fixed text: nothing is ever pasted into them.

What lies where is told by `queue_redis`. Records and envelopes begin with versions of eight bytes, compared as two
halves of 32 bits, since a script's numbers are doubles (see `l2_scripts`).

No key of the queue has a time to live, leases included: their ends are kept inside, by the server's clock. So a server
that evicts only keys with a time to live evicts nothing of the queue.

All but ``put`` may run when the server is out of memory: a full queue must be able to drain.
"""

from __future__ import annotations

from hashlib import sha1

__all__ = ["BURY", "DONE", "FETCH", "LETTERS", "NEWEST", "PUT", "RELEASE", "REPLAY", "SCRIPTS", "Script"]


class Script:
    """A script and the name by which a server knows it."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.sha = sha1(text.encode(), usedforsecurity=False).hexdigest()


_NEWER = """
local function newer(a, a_at, b, b_at)
  local a_high, a_low = struct.unpack('>I4I4', a, a_at)
  local b_high, b_low = struct.unpack('>I4I4', b, b_at)
  return a_high > b_high or (a_high == b_high and a_low > b_low)
end
"""

_NOW = """
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
"""

_HELD = (
    _NOW
    + """
local function held(lease, consumer)
  return lease and string.sub(lease, 9) == consumer and struct.unpack('>I8', lease) > now
end
"""
)

PUT = Script(
    """#!lua
-- KEYS: records, stream, dead letters; if values lie here too, the key in the shared store.
-- ARGV: key, record, most keys; with the fourth key: head and tail of its envelope, time to live in ms (0 = for ever).
-- A removal has no tail. Returns an outcome, plus 16 if the shared store had a value.
"""
    + _NEWER
    + _NOW
    + """
local queued = redis.call('HGET', KEYS[1], ARGV[1])
if queued then
  if not newer(ARGV[2], 2, queued, 2) then
    return 0
  end
elseif redis.call('HLEN', KEYS[1]) + redis.call('XLEN', KEYS[3]) >= tonumber(ARGV[3]) then
  return 3
end
local found = 0
if KEYS[4] then
  local stored = redis.pcall('GETRANGE', KEYS[4], 0, 17)
  if type(stored) == 'string' and #stored >= 10 and string.sub(stored, 1, 1) == string.char(0xC2) then
    if not newer(ARGV[4], 3, stored, 3) then
      return 0
    end
    if string.byte(stored, 2) == 0 then
      found = 16
    end
  end
  local ttl = tonumber(ARGV[6])
  if ARGV[5] == '' then
    redis.call('SET', KEYS[4], ARGV[4], 'PX', ARGV[6])
  elseif ttl == 0 then
    redis.call('SET', KEYS[4], ARGV[4] .. string.rep('\\0', 8) .. ARGV[5])
  else
    redis.call('SET', KEYS[4], ARGV[4] .. struct.pack('>I8', now + ttl) .. ARGV[5], 'PX', ARGV[6])
  end
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
if queued then
  return 2 + found
end
redis.call('XADD', KEYS[2], '*', 'k', ARGV[1])
return 1 + found
"""
)

NEWEST = Script(
    """#!lua flags=no-writes,allow-oom
-- KEYS: records. ARGV: most bytes (0 = any number), keys.
-- Returns the records of the keys, of fewer than asked for if they would be too many bytes.
local most, bytes, records = tonumber(ARGV[1]), 0, {}
for at = 2, #ARGV do
  local record = redis.call('HGET', KEYS[1], ARGV[at])
  bytes = bytes + (record and #record or 0)
  if most > 0 and bytes > most and at > 2 then
    break
  end
  records[at - 1] = record
end
return records
"""
)

FETCH = Script(
    """#!lua flags=allow-oom
-- KEYS: stream, lease. ARGV: consumer, lease in ms, most entries, cursor (empty = what was not delivered yet).
-- Returns: 1, now, entries in the stream, id of the oldest, cursor, entries, how many are lost. Or 0, the ms for which
-- another consumer has the shard. Or 2: the stream is not as it was left, so that all is to be claimed again.
"""
    + _HELD
    + """
local lease = redis.call('GET', KEYS[2])
if lease and not held(lease, ARGV[1]) then
  local left = struct.unpack('>I8', lease) - now
  if left > 0 then
    return {0, left}
  end
end
redis.call('SET', KEYS[2], struct.pack('>I8', now + tonumber(ARGV[2])) .. ARGV[1])
local cursor, entries, lost = '', {}, 0
if ARGV[4] ~= '' then
  redis.pcall('XGROUP', 'CREATE', KEYS[1], 'sink', '0', 'MKSTREAM')
end
if tonumber(ARGV[3]) > 0 then
  if ARGV[4] ~= '' then
    local claimed = redis.call('XAUTOCLAIM', KEYS[1], 'sink', ARGV[1], 0, ARGV[4], 'COUNT', ARGV[3])
    cursor, entries, lost = claimed[1], claimed[2], claimed[3] and #claimed[3] or 0
    if cursor == '0-0' then
      cursor = ''
    end
  else
    local read = redis.pcall('XREADGROUP', 'GROUP', 'sink', ARGV[1], 'COUNT', ARGV[3], 'STREAMS', KEYS[1], '>')
    if type(read) == 'table' and read.err then
      return {2}
    end
    entries = read and read[1] and read[1][2] or {}
  end
else
  cursor = ARGV[4]
end
local first = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)
return {1, now, redis.call('XLEN', KEYS[1]), first[1] and first[1][1] or '', cursor, entries, lost}
"""
)

DONE = Script(
    """#!lua flags=allow-oom
-- KEYS: records, stream, lease. ARGV: consumer; id, key, version of each.
-- Returns for each 1 if a newer write is queued, else 0; or nothing at all if the shard is another consumer's.
"""
    + _NEWER
    + _HELD
    + """
if not held(redis.call('GET', KEYS[3]), ARGV[1]) then
  return {}
end
local left = {}
for at = 2, #ARGV, 3 do
  local record = redis.call('HGET', KEYS[1], ARGV[at + 1])
  if record and newer(record, 2, ARGV[at + 2], 1) then
    left[#left + 1] = 1
  else
    redis.call('HDEL', KEYS[1], ARGV[at + 1])
    redis.call('XACK', KEYS[2], 'sink', ARGV[at])
    redis.call('XDEL', KEYS[2], ARGV[at])
    left[#left + 1] = 0
  end
end
return left
"""
)

BURY = Script(
    """#!lua flags=allow-oom
-- KEYS: records, stream, lease, dead letters. ARGV: consumer; id, key, version, attempts, reason of each.
-- Returns as DONE. The record goes to the dead letters in the same step: it is never nowhere.
"""
    + _NEWER
    + _HELD
    + """
if not held(redis.call('GET', KEYS[3]), ARGV[1]) then
  return {}
end
local left = {}
for at = 2, #ARGV, 5 do
  local record = redis.call('HGET', KEYS[1], ARGV[at + 1])
  if record and newer(record, 2, ARGV[at + 2], 1) then
    left[#left + 1] = 1
  else
    if record then
      redis.call('XADD', KEYS[4], '*', 'k', ARGV[at + 1], 'r', record, 'n', ARGV[at + 3], 'e', ARGV[at + 4])
      redis.call('HDEL', KEYS[1], ARGV[at + 1])
    end
    redis.call('XACK', KEYS[2], 'sink', ARGV[at])
    redis.call('XDEL', KEYS[2], ARGV[at])
    left[#left + 1] = 0
  end
end
return left
"""
)

RELEASE = Script(
    """#!lua flags=allow-oom
-- KEYS: lease. ARGV: consumer. Gives the shard back. Returns 1 if the consumer had it, else 0.
local lease = redis.call('GET', KEYS[1])
if lease and string.sub(lease, 9) == ARGV[1] then
  return redis.call('DEL', KEYS[1])
end
return 0
"""
)

LETTERS = Script(
    """#!lua flags=no-writes,allow-oom
-- KEYS: dead letters. ARGV: the id before the first, most. Returns now, then for each: id, key, head of the record (its
-- first 13 bytes), bytes of its value, attempts, reason.
"""
    + _NOW
    + """
local from, letters = ARGV[1] == '' and '-' or '(' .. ARGV[1], {}
for _, entry in ipairs(redis.call('XRANGE', KEYS[1], from, '+', 'COUNT', ARGV[2])) do
  local fields = entry[2]
  letters[#letters + 1] = {entry[1], fields[2], string.sub(fields[4], 1, 13), #fields[4] - 13, fields[6], fields[8]}
end
return {now, letters}
"""
)

REPLAY = Script(
    """#!lua flags=allow-oom
-- KEYS: records, stream, dead letters. ARGV: id. Queues a dead letter again, unless a newer write of its key is queued.
-- Returns 1 if it did, else 0.
"""
    + _NEWER
    + """
local entry = redis.call('XRANGE', KEYS[3], ARGV[1], ARGV[1])[1]
if not entry then
  return 0
end
local key, record = entry[2][2], entry[2][4]
local queued = redis.call('HGET', KEYS[1], key)
redis.call('XDEL', KEYS[3], ARGV[1])
if queued and not newer(record, 2, queued, 2) then
  return 0
end
redis.call('HSET', KEYS[1], key, record)
if not queued then
  redis.call('XADD', KEYS[2], '*', 'k', key)
end
return 1
"""
)

SCRIPTS = (PUT, NEWEST, FETCH, DONE, BURY, RELEASE, LETTERS, REPLAY)
