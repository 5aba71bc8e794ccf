"""Looks from time to time at how a node's servers are set, for the doctor. A server that does not say is believed."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import structlog
from redis.exceptions import ResponseError

from cachenode.adapters.redis_client import FAILURES
from cachenode.adapters.redis_cluster import pipeline_of
from cachenode.core.redis_settings import RedisProblem, Use, redis_problems

if TYPE_CHECKING:
    from redis.asyncio import Redis

__all__ = ["RedisChecks"]

_log = structlog.get_logger(__name__)

_EVERY_S = 60.0
_AGAIN_S = 5.0
_MIN_REPLICAS, _NODE_TIMEOUT = "min-replicas-to-write", "cluster-node-timeout"


class RedisChecks:
    """A loop that looks for as long as it is not stopped.

    Attributes:
        problems: What was found at the last look.

    Args:
        servers: A client for each URL, closed here, and what it is used for.
        lease_s: The lease of a member, which a failover should not outlast.
    """

    def __init__(self, servers: Sequence[tuple[Redis, Sequence[Use]]], *, lease_s: float = 4.0) -> None:
        self.problems: tuple[RedisProblem, ...] = ()
        self._servers = [(client, pipeline_of(client), uses) for client, uses in servers]
        self._lease_s = lease_s
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to look."""
        if self._servers:
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """Look no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for client, pipeline, _ in self._servers:
            await pipeline.close()
            await client.aclose()

    async def look(self) -> None:
        """Look once.

        Raises:
            RedisError: A server does not answer: what was found before stays; or OSError, or TimeoutError.
        """
        found: dict[RedisProblem, None] = {}  # masters of a Cluster are set alike, as a rule
        for _, pipeline, uses in self._servers:
            for server in await pipeline.all():
                asked = [("INFO",), *(("CONFIG", "GET", name) for name in (_MIN_REPLICAS, _NODE_TIMEOUT))]
                info, replicas, timeout = await server.round_trip(asked)
                timeout_ms = _number(timeout)
                problems = redis_problems(
                    _lines(info),
                    _number(replicas),
                    uses,
                    node_timeout_s=None if timeout_ms is None else timeout_ms / 1_000,
                    lease_s=self._lease_s,
                )
                found |= dict.fromkeys(problems)
        self.problems = tuple(found)

    async def _run(self) -> None:
        while True:
            pause_s = _EVERY_S
            try:
                await self.look()
            except FAILURES:
                pause_s = _AGAIN_S
            except Exception as error:  # noqa: BLE001 - a defect, or a reply that nobody foresaw
                _log.error("redis_look_failed", error_type=type(error).__name__, exc_info=error)
            await asyncio.sleep(pause_s)


def _lines(info: Any) -> Mapping[str, str]:  # noqa: ANN401 - a server's reply
    if isinstance(info, ResponseError):
        return {}
    pairs = (line.partition(":") for line in info.decode(errors="replace").splitlines())
    return {name: value for name, _, value in pairs}


def _number(setting: Any) -> int | None:  # noqa: ANN401 - as above
    if isinstance(setting, ResponseError) or len(setting) < 2:
        return None
    return int(setting[1])
