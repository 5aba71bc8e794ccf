"""The scripts that run inside the shared store. Fixed text: nothing is ever pasted into them.

WRITE, DROP and PROLONG know the envelope's layout (`cachenode.core.envelope`): format, kind, version (8), deadline (8),
the rest.

Three traps they avoid:

- A script's numbers are doubles, which hold 53 bits. Versions are compared as two halves of 32.
- A script's ``<`` on strings goes by the server's locale (strcoll), so it does not order bytes.
- A key may hold another type, put there by somebody else. Reading it inside ``pcall`` makes it absent, and SET
  replaces any type.

All but ``write`` may run when the store is out of memory (``allow-oom``): a store that is full must still be able to
forget.
"""

from __future__ import annotations

from hashlib import sha1

__all__ = [
    "DROP",
    "DROP_SHA",
    "FOLD",
    "FOLD_SHA",
    "LOCK",
    "LOCK_SHA",
    "NOTE",
    "NOTE_SHA",
    "PROLONG",
    "PROLONG_SHA",
    "UNLOCK",
    "UNLOCK_SHA",
    "WRITE",
    "WRITE_SHA",
]

_HALVES = """
local FORMAT, VALUE = string.char(0xC2), 0
local stored = redis.pcall('GETRANGE', KEYS[1], 0, 17)
local known = type(stored) == 'string' and #stored >= 10 and string.sub(stored, 1, 1) == FORMAT
local high, low, stored_high, stored_low
if known then
  stored_high, stored_low = struct.unpack('>I4I4', stored, 3)
end
"""

WRITE = (
    """#!lua
-- KEYS: the key. ARGV: head (format, kind, version), tail (flags, check, value), time to live in ms (0 = for ever).
-- Stores the value if its version is above the stored one. Returns 1 if it did, else 0.
"""
    + _HALVES
    + """
if known then
  high, low = struct.unpack('>I4I4', ARGV[1], 3)
  if stored_high > high or (stored_high == high and stored_low >= low) then
    return 0
  end
end
local ttl = tonumber(ARGV[3])
if ttl == 0 then
  redis.call('SET', KEYS[1], ARGV[1] .. string.rep('\\0', 8) .. ARGV[2])
else
  local time = redis.call('TIME')
  local deadline = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000) + ttl
  redis.call('SET', KEYS[1], ARGV[1] .. struct.pack('>I8', deadline) .. ARGV[2], 'PX', ARGV[3])
end
return 1
"""
)

DROP = (
    """#!lua flags=allow-oom
-- KEYS: the key. ARGV: head of the tombstone (format, kind, version), its life in ms.
-- Removes whatever is there and leaves a tombstone of the higher version. Returns 1 if a value was there, else 0.
"""
    + _HALVES
    + """
local tombstone, was_value = ARGV[1], 0
if known then
  high, low = struct.unpack('>I4I4', ARGV[1], 3)
  if stored_high > high or (stored_high == high and stored_low > low) then
    tombstone = string.sub(ARGV[1], 1, 2) .. string.sub(stored, 3, 10)
  end
  if string.byte(stored, 2) == VALUE then
    was_value = 1
  end
end
redis.call('SET', KEYS[1], tombstone, 'PX', ARGV[2])
return was_value
"""
)


PROLONG = """#!lua flags=allow-oom
-- KEYS: the key. ARGV: head of the value (format, kind, version), time to live in ms (0 = for ever).
-- Lets the value live longer if it is still there in that version. Returns 1 if its end is later now, else 0.
if redis.pcall('GETRANGE', KEYS[1], 0, 9) ~= ARGV[1] then
  return 0
end
local left, ttl = redis.call('PTTL', KEYS[1]), tonumber(ARGV[2])
if left < 0 or (ttl ~= 0 and ttl <= left) then
  return 0
end
if ttl == 0 then
  redis.call('SETRANGE', KEYS[1], 10, string.rep('\\0', 8))
  redis.call('PERSIST', KEYS[1])
else
  local time = redis.call('TIME')
  local deadline = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000) + ttl
  redis.call('SETRANGE', KEYS[1], 10, struct.pack('>I8', deadline))
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
return 1
"""


NOTE = """#!lua flags=allow-oom
-- KEYS: the barriers. ARGV: field (namespace, zero, kind, text), position in twenty digits.
-- Keeps the higher position of the field. Returns how many fields there are.
local stored = redis.call('HGET', KEYS[1], ARGV[1])
local newer = true
if stored and #stored == 20 then
  local high, low = tonumber(string.sub(ARGV[2], 1, 10)), tonumber(string.sub(ARGV[2], 11))
  local stored_high, stored_low = tonumber(string.sub(stored, 1, 10)), tonumber(string.sub(stored, 11))
  newer = high > stored_high or (high == stored_high and low > stored_low)
end
if newer then
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
end
return redis.call('HLEN', KEYS[1])
"""


FOLD = """#!lua flags=allow-oom
-- KEYS: the barriers. ARGV: field, the position that was read, in twenty digits.
-- Removes the field if it still has that position: a newer barrier of the same selector stays. Returns 1 if it did.
if redis.call('HGET', KEYS[1], ARGV[1]) == ARGV[2] then
  return redis.call('HDEL', KEYS[1], ARGV[1])
end
return 0
"""


LOCK = """#!lua flags=allow-oom
-- KEYS: the lock. ARGV: token, its life in ms.
-- Takes the lock if nobody has it, prolongs it for the token that has. Returns 1 if the token has it now, else 0.
if redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then
  return 1
end
if redis.pcall('GET', KEYS[1]) == ARGV[1] then
  return redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
return 0
"""


UNLOCK = """#!lua flags=allow-oom
-- KEYS: the lock. ARGV: token.
-- Removes the lock if the token has it: after its life it may be another's. Returns 1 if it did, else 0.
if redis.pcall('GET', KEYS[1]) == ARGV[1] then
  return redis.call('DEL', KEYS[1])
end
return 0
"""


def _sha(text: str) -> str:
    return sha1(text.encode(), usedforsecurity=False).hexdigest()


WRITE_SHA = _sha(WRITE)
DROP_SHA = _sha(DROP)
NOTE_SHA = _sha(NOTE)
PROLONG_SHA = _sha(PROLONG)
FOLD_SHA = _sha(FOLD)
LOCK_SHA = _sha(LOCK)
UNLOCK_SHA = _sha(UNLOCK)
