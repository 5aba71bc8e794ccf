"""Commands that travel to a Redis together, over connections that know which life of which server they lead to.

What redis-py's pipeline does, on the pool's connections but without the pipeline: half its time is Python that reads
options nobody gave.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from hiredis import pack_command
from redis.exceptions import RedisError, ResponseError

from cachenode.adapters.redis_client import FAILURES, reason

if TYPE_CHECKING:
    from redis.asyncio import Redis

__all__ = ["Command", "RedisPipeline", "Unsent", "raise_first"]

Command = tuple[Any, ...]

_RUN_ID = re.compile(rb"^run_id:([0-9a-f]+)", re.MULTILINE)


class Unsent(RedisError):
    """There is no connection: nothing was sent, so nothing was done."""


class RedisPipeline:
    """Round trips to one server.

    Attributes:
        history: Rises when a new connection leads to another server than before, or to the same one begun anew: it may
            have forgotten what was acknowledged.

    Args:
        client: See `redis_client.connect`. Not closed here.
    """

    def __init__(self, client: Redis) -> None:
        self.history = 0
        self._client = client
        self._run_id: bytes | None = None
        self._met: WeakSet[Any] = WeakSet()

    async def round_trip(self, commands: Sequence[Command]) -> list[Any]:
        """Return the replies, in order; the server's complaints are among them as exceptions.

        A connection that fails, or whose caller is cancelled, is closed by what failed.

        Raises:
            Unsent: There is no connection.
            RedisError: The connection was lost, and it is not known what was done; or OSError, or TimeoutError.
        """
        pool = self._client.connection_pool
        try:
            connection = await pool.get_connection()  # type: ignore[no-untyped-call]
        except FAILURES as error:
            raise Unsent(reason(error)) from error
        replies: list[Any] = []
        try:
            if connection not in self._met:
                await self._introduce(connection)
            await connection.send_packed_command([pack_command(command) for command in commands], check_health=False)
            for _ in commands:
                try:
                    replies.append(await connection.read_response())
                except ResponseError as complaint:
                    replies.append(complaint)
        except BaseException:
            await connection.disconnect(nowait=True)  # replies may still be on their way
            raise
        finally:
            await pool.release(connection)
        return replies

    async def _introduce(self, connection: Any) -> None:  # noqa: ANN401  (as below)
        try:
            await self._meet(connection)
        except FAILURES as error:
            raise Unsent(reason(error)) from error
        connection.register_connect_callback(self._meet)
        self._met.add(connection)

    async def _meet(self, connection: Any) -> None:  # noqa: ANN401  (redis-py's connections have no common public type)
        """Learn which life of which server a new connection leads to, before anything is asked there."""
        await connection.send_command("INFO", "server", check_health=False)
        try:
            found = _RUN_ID.search(await connection.read_response())
        except ResponseError:  # not allowed to ask: each new connection may lead to another server
            found = None
        run_id = found.group(1) if found else b""
        if self._run_id is not None and (run_id != self._run_id or not run_id):
            self.history += 1
        self._run_id = run_id


def raise_first(replies: Sequence[Any]) -> None:
    """Raise the first of the server's complaints, if there is one."""
    for reply in replies:
        if isinstance(reply, ResponseError):
            raise reply
