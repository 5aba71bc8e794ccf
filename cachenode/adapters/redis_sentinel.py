"""Connections to the master that sentinels name, and to nobody who has ceased to be it.

Sentinel promotes a replica when most sentinels miss the master. The old one knows nothing of that: frozen, or cut off,
it wakes up as a master, answers whoever is still connected, and is made a replica only some ten seconds later. What
keeps its answers out:

1. A new connection leads where the sentinels say, of whom the one with the highest configuration epoch is believed:
   one that was cut off, or has slept itself, names the former master.
2. They are asked again before a connection is used if nobody has asked for `LOOK_S`, and at once by who needs to be
   sure (`look`). If they name another master, or none answers that it is one, idle connections are closed.
3. Who reads through `redis_pipeline` uses no connection that was made before the newest change of master.

Sentinels that do not answer change nothing: the master in use stays in use.

Not kept out: who asks all sentinels in the same moments in which they do not know it themselves. Two masters may accept
writes for that long; those of the old one are lost. ``min-replicas-to-write`` bounds it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from redis.asyncio.sentinel import (
    MasterNotFoundError,
    Sentinel,
    SentinelConnectionPool,
    SentinelManagedConnection,
    SentinelManagedSSLConnection,
)
from redis.exceptions import RedisError, ResponseError

from cachenode.adapters.redis_connections import noticing

if TYPE_CHECKING:
    from redis.asyncio import Redis
    from redis.asyncio.connection import AbstractConnection

__all__ = ["LOOK_S", "MasterPool", "Sentinels", "ask_most"]

LOOK_S = 1.0
"""Who has not asked for so long where the masters are asks first."""
_FAILURES = (RedisError, OSError, TimeoutError)


async def ask_most(questions: Sequence[Any], limit_s: float) -> list[Any]:
    """Ask several servers at once; return the answers when more than half have come, or all that do in time.

    Args:
        questions: Coroutines; what fails is no answer.
        limit_s: How long to wait for a half that does not come.

    Raises:
        RedisError: None answered: what the last of them failed with; or OSError, or TimeoutError.
    """
    tasks = {asyncio.ensure_future(question) for question in questions}
    waiting, enough = set(tasks), len(tasks) // 2 + 1
    answers: list[Any] = []
    failure: BaseException = TimeoutError()
    loop = asyncio.get_running_loop()
    until = loop.time() + limit_s
    try:
        while waiting and len(answers) < enough and (left := until - loop.time()) > 0:
            done, waiting = await asyncio.wait(waiting, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                error = task.exception()
                if error is None:
                    answers.append(task.result())
                elif isinstance(error, _FAILURES):
                    failure = error
                else:
                    raise error
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
    if not answers:
        raise failure
    return answers


class Sentinels(Sentinel):
    """The sentinels, asked all at once.

    Args:
        hosts: Where they are; those that are named suffice, they are asked for masters, not for one another.
        limit_s: How long those that do not answer are waited for, if most do not.
        options: redis-py's, of connections to them.
    """

    def __init__(self, hosts: Sequence[tuple[str, int]], limit_s: float, options: Mapping[str, Any]) -> None:
        super().__init__(list(hosts), sentinel_kwargs=dict(options))  # type: ignore[no-untyped-call]
        self._limit_s = limit_s
        for sentinel in self.sentinels:
            pool = sentinel.connection_pool
            pool.connection_class = noticing(pool.connection_class)

    async def discover_master(self, service_name: str) -> tuple[str, int]:
        """Return where the master is.

        Raises:
            MasterNotFoundError: No sentinel answers, none knows a master of that name, or it is down.
        """
        try:
            states = await ask_most([self._ask(each, service_name) for each in self.sentinels], self._limit_s)
        except ResponseError:
            raise MasterNotFoundError("the sentinels do not know a master of the name in the URL") from None
        except _FAILURES as error:
            raise MasterNotFoundError(f"no sentinel answers: {str(error) or type(error).__name__}") from None
        newest = max(states, key=lambda state: int(state["config-epoch"]))
        if not newest["is_master"] or newest["is_sdown"] or newest["is_odown"]:
            raise MasterNotFoundError("the sentinels see no master that is up")
        return str(newest["ip"]), int(newest["port"])

    async def aclose(self) -> None:
        """Close the connections to the sentinels."""
        for sentinel in self.sentinels:
            await sentinel.aclose()

    async def _ask(self, sentinel: Redis, name: str) -> Mapping[str, Any]:
        state: Any = await sentinel.execute_command("SENTINEL MASTER", name)  # type: ignore[no-untyped-call]
        return dict(state)


class MasterPool(SentinelConnectionPool):
    """Connections to the master.

    Args:
        master: What the sentinels call it.
        sentinels: Closed with the pool.
        tls: Whether the master speaks TLS.
        options: redis-py's, of the connections.
    """

    def __init__(self, master: str, sentinels: Sentinels, *, tls: bool, **options: Any) -> None:  # noqa: ANN401 - as there
        kind = SentinelManagedSSLConnection if tls else SentinelManagedConnection
        super().__init__(master, sentinels, connection_class=noticing(kind), **options)  # type: ignore[no-untyped-call]
        self._sentinels = sentinels
        self._look_at = 0.0

    async def get_connection(self, *args: Any, **options: Any) -> AbstractConnection:  # noqa: ANN401 - as there
        """Return a connection to the master, as far as the sentinels know after `LOOK_S`."""
        if asyncio.get_running_loop().time() >= self._look_at:
            with contextlib.suppress(*_FAILURES):
                await self.look()
        connection: AbstractConnection = await super().get_connection(*args, **options)  # type: ignore[no-untyped-call]
        return connection

    async def get_master_address(self) -> tuple[str, int]:
        """Ask where the master is; close idle connections if it is another than before."""
        address: tuple[str, int] = await super().get_master_address()  # type: ignore[no-untyped-call]
        self._look_at = asyncio.get_running_loop().time() + LOOK_S
        return address

    async def look(self) -> None:
        """Make sure that no idle connection leads to a former master.

        Raises:
            MasterNotFoundError: The sentinels do not say which is the master.
        """
        self._look_at = asyncio.get_running_loop().time() + LOOK_S  # whoever comes meanwhile need not ask too
        await self.get_master_address()

    async def release(self, connection: AbstractConnection) -> None:
        """Take a connection back; one that leads to a former master is closed."""
        if self.master_address != (getattr(connection, "host", None), getattr(connection, "port", None)):
            await connection.disconnect(nowait=True)
        await super().release(connection)

    async def aclose(self) -> None:
        """Close all connections, those to the sentinels too."""
        await super().aclose()
        await self._sentinels.aclose()
