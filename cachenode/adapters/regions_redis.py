"""What a region keeps of its links to others, in its own Redis or Valkey.

::

    cn:{cluster}:regions:outbox           hash: id, number of the newest entry, how far each other region has acted
    cn:{cluster}:regions:entries          stream: an entry with the id <number>-0 each
    cn:{cluster}:regions:lease:{remote}   who sends to a region, with a time to live
    cn:{cluster}:regions:paused           hash: regions that nothing is sent to
    cn:{cluster}:regions:cursors          hash: how far this region has acted on the outboxes of others

The outbox's id begins with the server's run id. A server that was started anew, or a replica that has taken its place,
may lack the newest entries, which somebody may have been told already; were their numbers given again, the new entries
would be taken for these. So under another run id, or when the hash is gone because the server had to evict it, a new
outbox begins: the stream goes, numbers start at 1, and each other region learns of a gap.

A stream that alone was evicted shows as entries that are missing, which is a gap too. So a server that evicts loses no
invalidation; it only costs other regions their caches. `noeviction`, or a server of its own (``regions.url``), avoids
that.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Sequence
from typing import TYPE_CHECKING, Any

from cachenode.adapters.batching import TurnBatcher
from cachenode.adapters.redis_client import FAILURES, check_cluster, reason
from cachenode.adapters.redis_cluster import script_of
from cachenode.core.regions import Cursor, Outgoing, RegionEntry
from cachenode.errors import L2Unavailable
from cachenode.wire import region_entry_from_wire, region_entry_to_wire
from cachenode_api.v1 import region_pb2

if TYPE_CHECKING:
    from redis.asyncio import Redis

__all__ = ["RedisRegions"]


_SHIPMENT_BYTES = 32 * 1_024
"""With the largest entry, and with what the message has around them, less than the smallest frame."""

_OPEN = """
local function open(outbox, entries, nonce)
  local run = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
  local id = redis.call('HGET', outbox, 'id')
  if not id or string.sub(id, 1, #run) ~= run then
    id = run .. ':' .. nonce
    redis.call('DEL', outbox, entries)
    redis.call('HSET', outbox, 'id', id, 'head', 0)
  end
  return id, tonumber(redis.call('HGET', outbox, 'head'))
end
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
"""

_APPEND = (
    """#!lua flags=allow-oom
-- KEYS: outbox, entries. ARGV: nonce, most entries, then the entries.
"""
    + _OPEN
    + """
local id, head = open(KEYS[1], KEYS[2], ARGV[1])
for at = 3, #ARGV do
  head = head + 1
  redis.call('XADD', KEYS[2], string.format('%.0f-0', head), 'e', ARGV[at], 't', now)
end
redis.call('HSET', KEYS[1], 'head', string.format('%.0f', head))
redis.call('XTRIM', KEYS[2], 'MAXLEN', ARGV[2])
return 0
"""
)

_FETCH = (
    """#!lua flags=allow-oom
-- KEYS: outbox, entries, lease, paused. ARGV: nonce, sender, lease in ms, most entries, most bytes, the cursor's outbox
-- and number, then the regions, the first of which is the one to send to.
"""
    + _OPEN
    + """
local holder = redis.call('GET', KEYS[3])
if holder and holder ~= ARGV[2] then
  return false
end
redis.call('SET', KEYS[3], ARGV[2], 'PX', ARGV[3])
local id, head = open(KEYS[1], KEYS[2], ARGV[1])
local mine = 'acted:' .. ARGV[8]
local after = tonumber(redis.call('HGET', KEYS[1], mine) or '0')
local told = tonumber(ARGV[7])
if ARGV[6] == id and told <= head and told ~= after then
  after = told
  redis.call('HSET', KEYS[1], mine, ARGV[7])
  local least = after
  for at = 9, #ARGV do
    least = math.min(least, tonumber(redis.call('HGET', KEYS[1], 'acted:' .. ARGV[at]) or '0'))
  end
  redis.call('XTRIM', KEYS[2], 'MINID', string.format('%.0f-0', least + 1))
end
local found = redis.call('XRANGE', KEYS[2], string.format('%.0f-0', after + 1), '+', 'COUNT', ARGV[4])
local entries, bytes = {}, 0
for _, entry in ipairs(found) do
  bytes = bytes + #entry[2][2]
  if #entries > 0 and bytes > tonumber(ARGV[5]) then
    break
  end
  entries[#entries + 1] = {entry[1], entry[2][2]}
end
local age = found[1] and now - tonumber(found[1][2][4]) or 0
return {id, head, after, age, redis.call('HEXISTS', KEYS[4], ARGV[8]), entries}
"""
)

_RELEASE = """#!lua flags=allow-oom
if redis.call('GET', KEYS[1]) == ARGV[1] then
  redis.call('DEL', KEYS[1])
end
return 0
"""

_ADVANCE = """#!lua flags=allow-oom
if (redis.call('HGET', KEYS[1], ARGV[1]) or '') ~= ARGV[2] then
  return 0
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
return 1
"""


class RedisRegions:
    """A `RegionStore` in Redis 7.0 or later, or Valkey.

    Appends of one turn share a round trip. An entry is as safe as what the server acknowledges: with the defaults of
    Redis it survives every node, and not the server; what that costs is said above.

    Args:
        client: See `redis_client.connect`. Closed with the store.
        cluster: Name of the cluster; part of every key.
        remotes: The other regions: what all of them have acted on is removed.
        most: Entries that the outbox holds.
        append_timeout_s: Time limit of an append.
        timeout_s: Time limit of everything else.
    """

    def __init__(
        self,
        client: Redis,
        cluster: str,
        remotes: Sequence[str],
        *,
        most: int = 100_000,
        append_timeout_s: float = 0.2,
        timeout_s: float = 1.0,
    ) -> None:
        self._client = client
        self._prefix = f"cn:{{{check_cluster(cluster)}}}:regions:"
        self._outbox, self._entries = f"{self._prefix}outbox", f"{self._prefix}entries"
        self._paused, self._cursors = f"{self._prefix}paused", f"{self._prefix}cursors"
        self._remotes = tuple(remotes)
        self._most = most
        self._timeout_s = timeout_s
        self._append = script_of(client, _APPEND)
        self._fetch = script_of(client, _FETCH)
        self._release = script_of(client, _RELEASE)
        self._advance = script_of(client, _ADVANCE)
        self._appends: TurnBatcher[bytes, None] = TurnBatcher(
            self._append_all, in_flight=2, limit_s=append_timeout_s, max_items=500, size=len
        )

    async def append(self, entries: Sequence[RegionEntry]) -> None:
        """Add entries at the end of the outbox."""
        await self._appends.submit([region_entry_to_wire(entry).SerializeToString() for entry in entries])

    async def _append_all(self, entries: list[bytes]) -> list[None]:
        await self._append(keys=[self._outbox, self._entries], args=[secrets.token_hex(8), self._most, *entries])
        return [None] * len(entries)

    async def fetch(
        self, remote: str, sender: str, *, lease_s: float, after: Cursor | None, most: int
    ) -> Outgoing | None:
        """Take the link to another region, and return what is to be told there."""
        outbox, number = after or ("", 0)
        others = [each for each in self._remotes if each != remote]
        lease_ms = max(1, round(lease_s * 1_000))
        found = await self._call(
            self._fetch(
                keys=[self._outbox, self._entries, self._lease(remote), self._paused],
                args=[secrets.token_hex(8), sender, lease_ms, most, _SHIPMENT_BYTES, outbox, number, remote, *others],
            )
        )
        if found is None:
            return None
        id_, head, start, age_ms, paused, entries = found
        return Outgoing(
            id_.decode(),
            head,
            start,
            tuple((int(at.partition(b"-")[0]), _entry(text)) for at, text in entries),
            max(0, age_ms) / 1_000,
            bool(paused),
        )

    async def release(self, remote: str, sender: str) -> None:
        """Give the link back, if the sender has it."""
        await self._call(self._release(keys=[self._lease(remote)], args=[sender]))

    async def pause(self, remote: str, *, paused: bool) -> None:
        """Have nothing sent to a region any more, or again."""
        call = self._client.hset(self._paused, remote, "1") if paused else self._client.hdel(self._paused, remote)
        await self._call(call)

    async def cursor(self, origin: str) -> Cursor | None:
        """Return up to where this region has acted on another's outbox."""
        found = await self._call(self._client.hget(self._cursors, origin))
        if not found:
            return None
        outbox, _, number = found.decode().rpartition(" ")
        return Cursor(outbox, int(number))

    async def advance(self, origin: str, known: Cursor | None, to: Cursor) -> bool:
        """Move the cursor of another region's outbox, unless it is no more the one that is known."""
        arguments = [origin, _text(known), _text(to)]
        return bool(await self._call(self._advance(keys=[self._cursors], args=arguments)))

    async def close(self) -> None:
        """Give back connections. Safe to call twice."""
        await self._appends.close()
        await self._client.aclose()

    def _lease(self, remote: str) -> str:
        return f"{self._prefix}lease:{remote}"

    async def _call(self, call: Awaitable[Any]) -> Any:  # noqa: ANN401 - what a command returns
        try:
            async with asyncio.timeout(self._timeout_s):
                return await call
        except FAILURES as error:
            why = f"no answer within {self._timeout_s:g} s" if type(error) is TimeoutError else reason(error)
            raise L2Unavailable(why) from None


def _text(cursor: Cursor | None) -> str:
    return "" if cursor is None else f"{cursor.outbox} {cursor.sequence}"


def _entry(text: bytes) -> RegionEntry:
    return region_entry_from_wire(region_pb2.RegionEntry.FromString(text))
