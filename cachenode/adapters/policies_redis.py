"""Keeps the settings that were changed while the cluster runs in the Redis that keeps the membership, or else in L2.

One hash, ``cn:{cluster}:policies``: namespace → version and texts, as JSON. It has no time to live.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping
from typing import Any

from redis.asyncio import Redis

from cachenode.adapters.redis_client import FAILURES, check_cluster, reason
from cachenode.adapters.redis_cluster import script_of
from cachenode.core.live_policy import LivePolicy
from cachenode.errors import RegistryError

__all__ = ["RedisPolicies"]

_PUT = """#!lua flags=allow-oom
local old = redis.call('HGET', KEYS[1], ARGV[1])
if old then
  local version = tonumber(cjson.decode(old).version)
  if version > tonumber(ARGV[2]) or (version == tonumber(ARGV[2]) and old > ARGV[3]) then
    return old
  end
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
return ARGV[3]
"""


class RedisPolicies:
    """A `PolicyStore` in Redis 7.0 or later, or Valkey.

    Args:
        client: See `redis_client.connect`. Closed with the store.
        cluster: Name of the cluster; part of the key.
        timeout_s: Time limit of a call, connecting included.
    """

    def __init__(self, client: Redis, cluster: str, *, timeout_s: float = 1.0) -> None:
        self._client = client
        self._key = f"cn:{{{check_cluster(cluster)}}}:policies"
        self._timeout_s = timeout_s
        self._put = script_of(client, _PUT)

    async def read(self) -> Mapping[str, LivePolicy]:
        """Return all that is kept (see `cachenode.ports.PolicyStore`)."""
        found = await self._call(self._client.hgetall(self._key))
        policies: dict[str, LivePolicy] = {}
        for name, text in found.items():
            try:
                policies[name.decode()] = LivePolicy.parse(text)
            except ValueError as error:
                raise RegistryError(f"the store of changed settings holds something else: {error}") from None
        return policies

    async def put(self, namespace: str, policy: LivePolicy) -> LivePolicy:
        """Keep the newer one, and return it (see `cachenode.ports.PolicyStore`)."""
        arguments: list[str | int] = [namespace, policy.version, policy.text]
        return LivePolicy.parse(await self._call(self._put(keys=[self._key], args=arguments)))

    async def close(self) -> None:
        """Give back connections. Safe to call twice."""
        await self._client.aclose()

    async def _call(self, call: Awaitable[Any]) -> Any:  # noqa: ANN401 - what a command returns
        try:
            async with asyncio.timeout(self._timeout_s):
                return await call
        except FAILURES as error:
            why = f"no answer within {self._timeout_s:g} s" if type(error) is TimeoutError else reason(error)
            raise RegistryError(f"the store of changed settings cannot be reached: {why}") from None
