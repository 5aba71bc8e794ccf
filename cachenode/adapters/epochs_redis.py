"""Counts the epochs of a cluster that has an L2 but no registry.

The entries of L2 carry versions of former lives of the nodes. A node that began again at epoch 1 would write versions
below those and be refused, so the epoch of every view is counted up in the same Redis.
"""

from __future__ import annotations

import asyncio

from redis.asyncio import Redis

from cachenode.adapters.redis_client import FAILURES, check_cluster
from cachenode.adapters.redis_cluster import script_of

__all__ = ["RedisEpochs"]

_AFTER = """
local epoch = tonumber(redis.call('GET', KEYS[1]) or '0')
local above = tonumber(ARGV[1])
if epoch < above then epoch = above end
epoch = epoch + 1
redis.call('SET', KEYS[1], string.format('%.0f', epoch))
return epoch
"""


class RedisEpochs:
    """A counter of epochs that outlives the nodes.

    Args:
        client: See `redis_client.connect`. Closed with the counter.
        cluster: Name of the cluster; part of the key.
        timeout_s: Time limit of a call, connecting included.
    """

    def __init__(self, client: Redis, cluster: str, *, timeout_s: float = 1.0) -> None:
        self._client = client
        self._key = f"cn:{{{check_cluster(cluster)}}}:epoch"
        self._after = script_of(client, _AFTER)
        self._timeout_s = timeout_s

    async def after(self, epoch: int) -> tuple[int, bool]:
        """Return an epoch above the given one, and whether it is surely above those of all former lives.

        It is not if Redis cannot be reached; then it is only the next one.
        """
        try:
            async with asyncio.timeout(self._timeout_s):
                return int(await self._after(keys=[self._key], args=[epoch])), True
        except FAILURES:
            return epoch + 1, False

    async def close(self) -> None:
        """Give back connections."""
        await self._client.aclose()
