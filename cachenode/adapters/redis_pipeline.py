"""Commands that travel to a Redis together, over connections that know which life of which server they lead to.

What redis-py's pipeline does, on the pool's connections but without the pipeline: half its time is Python that reads
options nobody gave.

**Lives.** A server that was started anew, or another that took its place, may have forgotten what was acknowledged. The
life that a connection leads to is the server's run id together with the id of its replication history, which changes
when a replica is promoted: so a master that was demoted and promoted again in between is not taken for what it was.

Interleavings:

1. A connection that was opened before another life was met (the former master, frozen, woke up as one) is not used
   again: it is opened anew first (``test_connections_of_a_former_life_are_not_used``).
2. What such a connection answers after the other life was met counts as lost
   (``test_answers_of_a_former_life_do_not_count``).
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar
from weakref import WeakKeyDictionary

from hiredis import pack_command
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError

from cachenode.adapters.redis_client import FAILURES, reason
from cachenode.adapters.redis_sentinel import MasterPool

if TYPE_CHECKING:
    from redis.asyncio import Redis

__all__ = ["Command", "RedisPipeline", "Server", "Unsent", "raise_first"]

Command = tuple[Any, ...]

_I = TypeVar("_I")
_R = TypeVar("_R")

_LIFE = re.compile(rb"^(?:run_id|master_replid):([0-9a-f]+)", re.MULTILINE)
_REPLICA = b"role:slave"


class Unsent(RedisError):
    """There is no connection: nothing was sent, so nothing was done."""


class Server(Protocol):
    """One server, as those see it who have something to ask there."""

    @property
    def history(self) -> int:
        """See `RedisPipeline`."""

    async def round_trip(self, commands: Sequence[Command]) -> list[Any]:
        """See `RedisPipeline.round_trip`."""


class RedisPipeline:
    """Round trips to one server.

    Attributes:
        history: Rises when a new connection leads to another server than before, or to the same one begun anew: it may
            have forgotten what was acknowledged.

    Args:
        client: See `redis_client.connect`. Not closed here.
    """

    def __init__(self, client: Redis) -> None:
        self.history: int = 0
        self._pool = client.connection_pool
        self._life: bytes | None = None
        self._met: WeakKeyDictionary[Any, bytes] = WeakKeyDictionary()

    async def round_trip(self, commands: Sequence[Command]) -> list[Any]:
        """Return the replies, in order; the server's complaints are among them as exceptions.

        A connection that fails, or whose caller is cancelled, is closed by what failed.

        Raises:
            Unsent: There is no connection.
            RedisError: The connection was lost, and it is not known what was done; or OSError, or TimeoutError.
        """
        pool = self._pool
        try:
            connection = await pool.get_connection()  # type: ignore[no-untyped-call]
        except FAILURES as error:
            raise Unsent(reason(error)) from error
        replies: list[Any] = []
        try:
            life = self._met.get(connection)
            if life is None or life != self._life:
                life = await self._introduce(connection, known=life is not None)
            await connection.send_packed_command([pack_command(command) for command in commands], check_health=False)
            for _ in commands:
                try:
                    replies.append(await connection.read_response())
                except ResponseError as complaint:
                    replies.append(complaint)
            self._check(life)
        except BaseException:
            await connection.disconnect(nowait=True)  # replies may still be on their way
            raise
        finally:
            await pool.release(connection)
        return replies

    def _check(self, life: bytes) -> None:
        if life != self._life:
            raise RedisConnectionError("another server has taken the place of the one that answered")

    async def scatter(
        self,
        items: Sequence[_I],
        key_of: Callable[[_I], bytes],
        send: Callable[[Server, Sequence[_I]], Awaitable[list[_R]]],
    ) -> list[_R]:
        """Return what `send` makes of all items here: this is the only server (see `redis_cluster`)."""
        return await send(self, items)

    async def look(self) -> None:
        """Make sure that nothing is asked of a former master, where others than the server itself know of one."""
        if isinstance(self._pool, MasterPool):
            await self._pool.look()

    async def all(self) -> Sequence[RedisPipeline]:
        """Return the servers whose keys together are all keys."""
        return (self,)

    async def close(self) -> None:
        """Nothing is open that is not the client's."""

    async def _introduce(self, connection: Any, *, known: bool) -> bytes:  # noqa: ANN401  (as below)
        try:
            if known:  # it leads to a former life: whoever connects anew is asked who it is
                await connection.disconnect(nowait=True)
                await connection.connect()
            else:
                await self._meet(connection)
                connection.register_connect_callback(self._meet)
        except FAILURES as error:
            raise Unsent(reason(error)) from error
        return self._met[connection]

    async def _meet(self, connection: Any) -> None:  # noqa: ANN401  (redis-py's connections have no common public type)
        """Learn which life of which server a new connection leads to, before anything is asked there."""
        await connection.send_command("INFO", "server", "replication", check_health=False)
        try:
            found = await connection.read_response()
        except ResponseError:  # not allowed to ask: each new connection may lead to another server
            found = b""
        if _REPLICA in found:
            raise RedisConnectionError("the server is a replica, which takes no writes")
        life = b" ".join(_LIFE.findall(found))
        if self._life is not None and (life != self._life or not life):
            self.history += 1
        self._life = self._met[connection] = life


def raise_first(replies: Sequence[Any], but: tuple[type[ResponseError], ...] = ()) -> None:
    """Raise the first of the server's complaints, if there is one that is not of the kinds that are followed."""
    for reply in replies:
        if isinstance(reply, ResponseError) and not isinstance(reply, but):
            raise reply
