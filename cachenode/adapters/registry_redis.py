"""The registry in Redis or Valkey: one script prunes, admits and counts epochs, in one step.

So all members see one sequence of views.

Three keys with a common hash tag, so that a Redis Cluster keeps them together; none has a time to live, for the epoch
and the ring's seed are worth keeping while no node runs:

- ``cn:{cluster}:registry``: the epoch and the seed;
- ``cn:{cluster}:members``: id → member, as a JSON list;
- ``cn:{cluster}:leases``: id → end of its lease, in milliseconds of the server's clock.

**Lost history.** A Redis that restarts empty, or fails over to a replica that was behind, has forgotten epochs that
nodes act by. A node tells the view it knows. If that view is ahead of the registry, or has the same epoch and other
members, history was lost: the known members are taken over with fresh leases (the dead among them leave when those
end), the known seed returns, and the epoch jumps by `LOST_HISTORY_STRIDE`: others may know epochs above the caller's,
and an epoch number must not be given out twice for two member sets.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

from cachenode.adapters.redis_client import FAILURES, check_cluster, reason
from cachenode.adapters.redis_cluster import script_of
from cachenode.adapters.registry_memory import new_seed, twin_text
from cachenode.errors import RegistryError
from cachenode.ports import LOST_HISTORY_STRIDE, Renewal
from cachenode_api.errors import InvalidView
from cachenode_api.view import Member, View

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from redis.asyncio import Redis

__all__ = ["RedisRegistry"]

_COMMON = """#!lua flags=allow-oom
local state, members, leases = KEYS[1], KEYS[2], KEYS[3]
local function identity(record)
  local member = cjson.decode(record)
  return cjson.encode({member[1], member[2], member[3], tostring(member[5])})
end
"""

_RENEW = (
    _COMMON
    + """
-- ARGV: member, lease in ms, new seed, stride, known epoch (0 = none), known seed, known members...
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local lease = now + tonumber(ARGV[2])
local me = cjson.decode(ARGV[1])
local epoch = tonumber(redis.call('HGET', state, 'epoch') or '0')
local seed = redis.call('HGET', state, 'seed')
local known_epoch, known_seed = tonumber(ARGV[5]), ARGV[6]
local changed, floor = false, 0

local function admit(id, record)
  local old = redis.call('HGET', members, id)
  if not old or identity(old) ~= identity(record) then
    changed = true
  end
  redis.call('HSET', members, id, record)
  redis.call('ZADD', leases, lease, id)
end

local lost = known_epoch > epoch
if known_epoch > 0 and known_epoch == epoch then
  lost = redis.call('HLEN', members) ~= #ARGV - 6
  for i = 7, #ARGV do
    local old = redis.call('HGET', members, cjson.decode(ARGV[i])[1])
    lost = lost or not old or identity(old) ~= identity(ARGV[i])
  end
end
if lost then
  floor, seed = known_epoch + tonumber(ARGV[4]) - 1, known_seed
  for i = 7, #ARGV do
    local id = cjson.decode(ARGV[i])[1]
    if id ~= me[1] and redis.call('HEXISTS', members, id) == 0 then
      admit(id, ARGV[i])
    end
  end
end

local was_live = true -- nobody saw the set without me if I am late but first, so that alone is no change
for _, id in ipairs(redis.call('ZRANGEBYSCORE', leases, '-inf', now)) do
  if id == me[1] then
    was_live = false
  else
    redis.call('HDEL', members, id)
    redis.call('ZREM', leases, id)
    changed = true
  end
end

local twin, replaced, old = false, 0, redis.call('HGET', members, me[1])
if old and was_live then
  local other = cjson.decode(old)
  if other[2] ~= me[2] and other[3] ~= me[3] then
    twin = other[3]
  elseif other[2] ~= me[2] then
    replaced = 1
  end
end
if not twin then
  if not seed or seed == '' then
    seed = known_epoch > 0 and known_seed or ARGV[3]
  end
  admit(me[1], ARGV[1])
end
if lost or changed then
  epoch = math.max(epoch, floor) + 1
end
redis.call('HSET', state, 'epoch', string.format('%d', epoch), 'seed', seed or '')
return {twin, epoch, seed or '', redis.call('HVALS', members), replaced}
"""
)

_LEAVE = (
    _COMMON
    + """
-- ARGV: member.
local me = cjson.decode(ARGV[1])
local old = redis.call('HGET', members, me[1])
if old and cjson.decode(old)[2] == me[2] then
  redis.call('HDEL', members, me[1])
  redis.call('ZREM', leases, me[1])
  local epoch = redis.call('HINCRBY', state, 'epoch', 1)
  return {epoch, redis.call('HGET', state, 'seed') or '', redis.call('HVALS', members)}
end
return 0
"""
)


class RedisRegistry:
    """A `Registry` in Redis 7.0 or later, or Valkey.

    Guarantees: the calls of all nodes take effect one after the other; the epoch of a returned view never falls while
        the server keeps its data, and rises above whatever the callers know if it lost it.

    Not guaranteed: one sequence of views while a failover forgets acknowledged writes: until the nodes have renewed
    once more they may hold different views.

    Args:
        client: See `redis_client.connect`; its time limits should be seconds, not the hot path's. Closed with the
            registry. cluster: Name of the cluster; part of the keys. lease_s: A member that does not renew for so
            long leaves when anybody renews. timeout_s: Time limit of a call, connecting included.

    Raises:
        ConfigError: The cluster's name is not valid.
    """

    def __init__(self, client: Redis, cluster: str, *, lease_s: float = 4.0, timeout_s: float = 1.0) -> None:
        tag = f"cn:{{{check_cluster(cluster)}}}:"
        self._keys = [f"{tag}registry", f"{tag}members", f"{tag}leases"]
        self._client = client
        self._lease_ms = max(1, round(lease_s * 1_000))
        self._timeout_s = timeout_s
        self._renew = script_of(client, _RENEW)
        self._leave = script_of(client, _LEAVE)
        self._lost_answer = False

    async def renew(self, member: Member, known: View | None) -> Renewal:
        """Join, or renew the member's lease, and return the view in force.

        Raises:
            RegistryError: It cannot be reached or holds what it should not, or the member has a twin.
        """
        arguments: list[Any] = [_encode(member), self._lease_ms, new_seed(), LOST_HISTORY_STRIDE]
        if known is None:
            arguments += [0, b""]
        else:
            arguments += [known.epoch, known.ring_seed, *map(_encode, known.members)]
            self._lost_answer = False  # it counts only while joining: who knows a view has joined
        reply = await self._call(self._renew(keys=self._keys, args=arguments))
        try:
            twin, epoch, seed, members, replaced = reply
            if twin is None:
                view = View(int(epoch), bytes(seed), tuple(map(_decode, members)))
                return Renewal(view, replaced=bool(replaced) or self._lost_answer)
        except (InvalidView, TypeError, ValueError) as error:
            raise RegistryError(
                f"the registry holds something else than a cluster's members: {type(error).__name__}"
            ) from None
        raise RegistryError(twin_text(member.id, twin.decode()))

    async def leave(self, member: Member) -> View | None:
        """End the member's lease now, and return the view without it.

        Does nothing, and returns None, if it has none or another incarnation took its place.

        Raises:
            RegistryError: It cannot be reached.
        """
        reply = await self._call(self._leave(keys=self._keys, args=[_encode(member)]))
        try:
            epoch, seed, members = reply
            return View(int(epoch), bytes(seed), tuple(map(_decode, members)))
        except (InvalidView, TypeError, ValueError):
            return None

    async def close(self) -> None:
        """Give back connections. Safe to call twice."""
        await self._client.aclose()

    async def _call(self, script: Awaitable[Any]) -> Any:  # noqa: ANN401  (what a script returns)
        try:
            async with asyncio.timeout(self._timeout_s):
                return await script
        except FAILURES as error:
            self._lost_answer = True
            why = f"no answer within {self._timeout_s:g} s" if type(error) is TimeoutError else reason(error)
            raise RegistryError(f"the registry cannot be reached: {why}") from None


def _encode(member: Member) -> bytes:
    return json.dumps([member.id, member.incarnation, member.address, member.http_address, member.weight]).encode()


def _decode(record: bytes) -> Member:
    name, incarnation, address, http_address, weight = json.loads(record)
    return Member(name, incarnation, address, http_address, int(weight))
