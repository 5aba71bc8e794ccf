"""Round trips to a Redis Cluster: what belongs to one master goes there together, and follows slots that move.

A key lies in one of 16,384 slots, a slot belongs to one master. The map says which; a node that does not have a slot
says who does (``MOVED``: for good; ``ASK``: for this key, while the slot moves), or that the command's keys are on both
sides of a move just now (``TRYAGAIN``). Such answers are followed at once, within the caller's time limit. The map is
drawn anew when a node says so or cannot be reached, and before it is used if it is older than `LOOK_S`. It is asked
of all nodes: the one that knows the highest epoch is believed, once more than half have answered.

**History.** Each master has a life of its own (`redis_pipeline`), and a failover of its own. `history` counts them all,
so whoever depends on it brings everything up to date that was written lately, whichever master it lies on: more than
is needed, and never less. Slots that *move* between masters take their values with them, nothing is forgotten. So a
slot that has another owner than before counts as a failover unless both are masters known before and the former owner
still is one. Counted without need are the first slot of a new master and the last one of a master that goes.

Interleavings:

1. A replica takes over while nothing is asked of its master: the map says so before the next value is read
   (``test_a_failover_is_history_before_anything_is_read``).
2. A slot moves while its keys are read: those that have gone are asked for at their new place, and nothing else is
   (``test_a_slot_that_moves_is_followed``).
3. One master is away: calls that need it fail as a whole, as if the store were; it is one store for those above.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Any, TypeVar

from redis.crc import REDIS_CLUSTER_HASH_SLOTS as _SLOTS
from redis.crc import key_slot
from redis.exceptions import AskError, ClusterDownError, MovedError, TryAgainError
from redis.exceptions import ConnectionError as RedisConnectionError

from cachenode.adapters.redis_client import FAILURES, reason
from cachenode.adapters.redis_cluster_client import ClusterClient
from cachenode.adapters.redis_pipeline import Command, RedisPipeline, Server, Unsent, raise_first
from cachenode.adapters.redis_sentinel import LOOK_S, ask_most

if TYPE_CHECKING:
    from redis.asyncio import Redis

__all__ = ["REDIRECTED", "ClusterPipeline", "pipeline_of", "script_of"]

REDIRECTED = (AskError, TryAgainError)
"""Answers that say where, or when, to ask instead; `MovedError` is a kind of `AskError`."""

_I = TypeVar("_I")
_R = TypeVar("_R")
_Place = tuple[str, int]
_Group = tuple[RedisPipeline, bool]

_MOST_HOPS = 16
_TRY_AGAIN_S = 0.005


class _Asking:
    """A server asked for what is moving to it: each command is preceded by ``ASKING``."""

    def __init__(self, server: RedisPipeline) -> None:
        self._server = server

    @property
    def history(self) -> int:
        """See `RedisPipeline`."""
        return self._server.history

    async def round_trip(self, commands: Sequence[Command]) -> list[Any]:
        """See `RedisPipeline.round_trip`."""
        asking: list[Command] = [part for command in commands for part in (("ASKING",), command)]
        return (await self._server.round_trip(asking))[1::2]


class ClusterPipeline:
    """What `RedisPipeline` is, to all masters of a Cluster.

    Attributes:
        history: Rises when some master's history may have ended.

    Args:
        client: See `redis_client.connect`. Not closed here; the connections used are others.
    """

    def __init__(self, client: ClusterClient) -> None:
        self._client = client
        self._limit_s = client.connect_timeout_s
        self._servers: dict[_Place, RedisPipeline] = {}
        self._slots: list[_Place | None] = []
        self._known: set[_Place] = set(client.address.hosts)
        self._look_at = 0.0
        self._ended = 0
        self._looking: asyncio.Task[None] | None = None

    @property
    def history(self) -> int:
        """How often a master has begun anew, or another taken its place."""
        return self._ended + sum(server.history for server in self._servers.values())

    async def scatter(
        self,
        items: Sequence[_I],
        key_of: Callable[[_I], bytes],
        send: Callable[[Server, Sequence[_I]], Awaitable[list[_R]]],
    ) -> list[_R]:
        """Return the result of each item, from the master that has its key.

        Args:
            items: What is to be asked; the time limit is the caller's.
            key_of: Returns the key whose master is asked.
            send: Asks one server about some items. Where an answer is one of `REDIRECTED` it returns that for the item.

        Raises:
            Unsent: Nobody knows which master has a key, and nothing was sent.
            RedisError: What `send` failed with at some master; what was asked of others may have been done.
        """
        results: list[Any] = [None] * len(items)
        await self._look_if_late()
        groups = self._groups(range(len(items)), items, key_of)
        for _ in range(_MOST_HOPS):
            answers = await _all_of(
                send(_Asking(server) if asking else server, [items[at] for at in wanted])
                for (server, asking), wanted in groups.items()
            )
            moved, again = self._sort(groups, answers, items, key_of, results)
            if not moved and not again:
                return results
            if again:
                await asyncio.sleep(_TRY_AGAIN_S)
                try:
                    for group, wanted in self._groups(again, items, key_of).items():
                        moved.setdefault(group, []).extend(wanted)
                except Unsent as error:  # but other items were
                    raise RedisConnectionError(reason(error)) from error
            groups = moved
        raise RedisConnectionError("the Cluster's nodes send keys from one to the next")

    def _sort(
        self,
        groups: Mapping[_Group, list[int]],
        answers: Sequence[list[Any] | BaseException],
        items: Sequence[_I],
        key_of: Callable[[_I], bytes],
        results: list[Any],
    ) -> tuple[dict[_Group, list[int]], list[int]]:
        """Note results. Return who is to be asked instead about which items, and those to be asked about again."""
        moved: dict[_Group, list[int]] = {}
        again: list[int] = []
        for wanted, answer in zip(groups.values(), answers, strict=True):
            if isinstance(answer, BaseException):
                self._look_at = 0.0
                raise answer
            for at, result in zip(wanted, answer, strict=True):
                if isinstance(result, AskError):
                    moved.setdefault(self._redirected(result, key_of(items[at])), []).append(at)
                elif isinstance(result, TryAgainError):
                    again.append(at)
                else:
                    results[at] = result
        return moved, again

    def _redirected(self, answer: AskError, key: bytes) -> _Group:
        """Return whom to ask instead, and whether as one that a key only moves to."""
        place = (answer.host or self._place_of(key)[0], answer.port)
        if not isinstance(answer, MovedError):
            return self._server(place), True
        self._look_at = 0.0
        return self._server(place), False

    async def look(self) -> None:
        """Draw the map of slots anew.

        Raises:
            RedisError: No node answers, or what they know is no whole Cluster; or OSError, or TimeoutError.
        """
        if self._looking is None or self._looking.done():
            self._looking = asyncio.get_running_loop().create_task(self._draw())
            self._looking.add_done_callback(lambda task: task.cancelled() or task.exception())
        await asyncio.shield(self._looking)

    async def all(self) -> Sequence[RedisPipeline]:
        """Return the masters, in an order that only a change of their number changes."""
        await self._look_if_late()
        return [self._server(place) for place in sorted({place for place in self._slots if place is not None})]

    async def close(self) -> None:
        """Look no more. Connections are the client's."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)

    # The map.

    def _groups(
        self, wanted: Sequence[int], items: Sequence[_I], key_of: Callable[[_I], bytes]
    ) -> dict[_Group, list[int]]:
        groups: dict[_Group, list[int]] = {}
        for at in wanted:
            groups.setdefault((self._server(self._place_of(key_of(items[at]))), False), []).append(at)
        return groups

    def _place_of(self, key: bytes) -> _Place:
        place = self._slots[key_slot(key)] if self._slots else None
        if place is None:
            self._look_at = 0.0
            raise Unsent("no master of the Cluster has the key's slot")
        return place

    def _server(self, place: _Place) -> RedisPipeline:
        server = self._servers.get(place)
        if server is None:
            server = self._servers[place] = RedisPipeline(self._client.node(*place))
        return server

    async def _look_if_late(self) -> None:
        if asyncio.get_running_loop().time() < self._look_at:
            return
        try:
            await self.look()
        except FAILURES as error:
            if not self._slots:
                raise Unsent(reason(error)) from error

    async def _draw(self) -> None:
        drawn = await ask_most([self._ask(place) for place in self._known], self._limit_s)
        _, ranges = max(drawn, key=itemgetter(0))
        slots, known = list(self._slots or [None] * _SLOTS), set(self._client.address.hosts)
        for first, last, places in ranges:
            known.update(places)
            slots[first : last + 1] = places[:1] * (last + 1 - first)
        if self._slots and _fails_over(self._slots, slots):
            self._ended += 1
        self._slots, self._known = slots, known
        self._look_at = asyncio.get_running_loop().time() + LOOK_S

    async def _ask(self, place: _Place) -> tuple[int, list[tuple[int, int, list[_Place]]]]:
        """Ask a node, master or replica, which epoch it knows, and who has which slots, the master first."""
        client: Any = self._client.node(*place, asks=True)
        info = await client.execute_command("CLUSTER INFO")
        ranges = await client.execute_command("CLUSTER", "SLOTS")
        if not ranges:
            raise ClusterDownError("the node has no Cluster")
        return int(info["cluster_current_epoch"]), [
            (first, last, [(node[0].decode() if node[0] else place[0], int(node[1])) for node in nodes])
            for first, last, *nodes in ranges
        ]


def pipeline_of(client: Redis | ClusterClient) -> RedisPipeline | ClusterPipeline:
    """Return round trips to what a client leads to."""
    return ClusterPipeline(client) if isinstance(client, ClusterClient) else RedisPipeline(client)


def script_of(client: Redis | ClusterClient, text: str) -> Callable[..., Awaitable[Any]]:
    """Return a function that runs a script, called with its keys, which lie in one slot, and its arguments.

    In a Cluster the text goes along each time, since who knows it changes with every failover; it is not run twice.
    """
    if not isinstance(client, ClusterClient):
        return client.register_script(text)
    pipeline = ClusterPipeline(client)

    async def send(server: Server, commands: Sequence[Command]) -> list[Any]:
        replies = await server.round_trip(commands)
        raise_first(replies, but=REDIRECTED)
        return replies

    async def run(keys: Sequence[Any], args: Sequence[Any]) -> Any:  # noqa: ANN401 - what a script returns
        command = ("EVAL", text, len(keys), *keys, *args)
        (reply,) = await pipeline.scatter([command], lambda _: str(keys[0]).encode(), send)
        return reply

    return run


def _fails_over(before: Sequence[_Place | None], after: Sequence[_Place | None]) -> bool:
    """Return whether some slot has another owner because its former one is gone, and not because it was moved."""
    masters_before, masters_after = set(before), set(after)
    return any(
        old != new and old is not None and (old not in masters_after or new not in masters_before)
        for old, new in set(zip(before, after, strict=True))
    )


async def _all_of(calls: Iterable[Awaitable[list[_R]]]) -> list[list[_R] | BaseException]:
    """Return what each call returns or fails with; one by itself costs no task."""
    waiting = list(calls)
    if len(waiting) > 1:
        return await asyncio.gather(*waiting, return_exceptions=True)
    try:
        return [await waiting[0]]
    except FAILURES as error:
        return [error]
