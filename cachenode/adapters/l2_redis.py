"""The shared store in Redis or Valkey.

Keys are ``cn:{cluster}:{namespace}:`` followed by the cache key's bytes (neither name may hold a colon, so no two
pairs meet); values lie in the envelope of `cachenode.core.envelope`. A read is ``TIME`` and ``MGET`` in one go:
deadlines are compared with the clock of the server that set them. Writes and drops are scripts (`l2_scripts`),
because "only if newer" must be one step inside the server. The lock of a key is at ``cn:{cluster}:.lock:{namespace}:``
and the key's bytes: no namespace begins with a dot. Each script touches one key.

In a Cluster each key goes to the master of its slot, whose clock counts for it; see `redis_cluster`. A walk over all
keys may miss those that change masters meanwhile.

A server that is started anew, or another that took its place, may have forgotten what was acknowledged. Each new
connection asks for the server's run id before anything else, and `history` rises when it is another than before.

A call that timed out may still be executed later (a frozen server wakes up and reads its sockets). That is harmless:
a late write meets a newer version or a tombstone, a late drop removes at most a value that could be loaded again.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from redis.exceptions import NoScriptError, OutOfMemoryError, ResponseError

from cachenode.adapters.batching import TurnBatcher
from cachenode.adapters.l2_scripts import (
    DROP,
    DROP_SHA,
    FOLD,
    FOLD_SHA,
    LOCK,
    LOCK_SHA,
    NOTE,
    NOTE_SHA,
    PROLONG,
    PROLONG_SHA,
    UNLOCK,
    UNLOCK_SHA,
    WRITE,
    WRITE_SHA,
)
from cachenode.adapters.redis_client import check_cluster
from cachenode.adapters.redis_cluster import REDIRECTED, ClusterPipeline, pipeline_of
from cachenode.adapters.redis_pipeline import Command, Server, raise_first
from cachenode.core.entries import L2Entry, L2Write
from cachenode.core.envelope import HEAD_BYTES, TOMBSTONE, decode, head, tail, ttl_ms
from cachenode_api.selectors import EVERYTHING, Selector, SelectorKind, make_selector

if TYPE_CHECKING:
    from redis.asyncio import Redis

__all__ = ["RedisL2"]

_LOAD: list[Command] = [("SCRIPT", "LOAD", script) for script in (WRITE, DROP, PROLONG, NOTE, FOLD, LOCK, UNLOCK)]
_TIME: Command = ("TIME",)
_KEY, _HEAD, _TAIL = 3, 4, 5  # positions in an EVALSHA command of ours


_Barriers = list[tuple[str, int, Selector]]
_MOST_BARRIERS = 5_000
_WHOLE = make_selector(SelectorKind.NAMESPACE, EVERYTHING)
_BULK_WAITS = 10
"""A bulk load may queue for so many time limits."""
_SERVER = 1 << 64
"""A cursor of a walk is a server's own, plus so much for each server that is done with."""
_KEYS_AT_ONCE = 500
"""Slots that a step of a walk over all keys looks at; the server answers nobody else meanwhile."""
_SCRIPTS_AT_ONCE = 128
"""Packing a thousand script calls holds the event loop up for 20 ms; these take 3."""


class RedisL2:
    """An `L2Store` in Redis 7.0 or later, or Valkey.

    Guarantees: a call ends within about `timeout_s`, whatever the server does; nothing is retried. A restarted server
        gets the scripts again by itself. A value that somebody else put at one of its keys, or a damaged one, reads
        as absent.

    Not guaranteed: that a stored value stays (the server may evict it), nor a tombstone under memory pressure. A
    server without room takes a write as a drop: what it held before is gone, and the write reports True.

    Args:
        client: See `redis_client.connect`, to be called with the same `timeout_s`. Closed with the store.
        cluster: Name of the cluster; part of every key.
        timeout_s: Time limit of a read's round trip, connecting included.
        write_timeout_s: The same for a write. More than for a read: a reader has other ways to its value, but a write
            that is late must be undone here before L2 is trusted again.
        tombstone_s: How long a drop refuses older writes.
        in_flight: Round trips of reads that may be under way at once, and of writes.

    Raises:
        ConfigError: The cluster's name is not valid.
    """

    def __init__(
        self,
        client: Redis,
        cluster: str,
        *,
        timeout_s: float = 0.05,
        write_timeout_s: float | None = None,
        tombstone_s: float = 60.0,
        in_flight: int = 8,
    ) -> None:
        self._client = client
        self._pipeline = pipeline_of(client)
        self._sharded = isinstance(self._pipeline, ClusterPipeline)
        self._followed = REDIRECTED if self._sharded else ()
        self._prefix = f"cn:{check_cluster(cluster)}:"
        self._prefixes: dict[str, bytes] = {}
        self._tombstone_ms = ttl_ms(tombstone_s)
        self._reads: TurnBatcher[bytes, L2Entry | None] = TurnBatcher(
            self._mget, in_flight=in_flight, limit_s=timeout_s
        )
        self._scripts: TurnBatcher[Command, int] = TurnBatcher(
            self._evaluate,
            in_flight=in_flight,
            limit_s=write_timeout_s or timeout_s,
            wait_limits=_BULK_WAITS,
            max_items=_SCRIPTS_AT_ONCE,
            size=_command_bytes,
        )
        self._pings: TurnBatcher[None, None] = TurnBatcher(self._pong, in_flight=1, limit_s=timeout_s)
        self._walks: TurnBatcher[tuple[bytes, int], tuple[list[bytes], int]] = TurnBatcher(
            self._scan, in_flight=1, limit_s=write_timeout_s or timeout_s
        )
        self._barriers = f"{self._prefix}barriers".encode()
        self._looks: TurnBatcher[None, _Barriers] = TurnBatcher(
            self._all_barriers, in_flight=1, limit_s=write_timeout_s or timeout_s
        )

    @property
    def history(self) -> int:
        """How often this process has seen the store's history end."""
        return self._pipeline.history

    async def read(self, namespace: str, keys: Sequence[bytes]) -> list[L2Entry | None]:
        """Return the live entry of each key, None where there is none."""
        prefix = self._prefix_of(namespace)
        return await self._reads.submit([prefix + key for key in keys])

    async def write(self, namespace: str, writes: Sequence[L2Write]) -> list[bool]:
        """Store each value whose version is higher than the stored one's (a tombstone's counts too)."""
        prefix = self._prefix_of(namespace)
        commands = [
            (
                "EVALSHA",
                WRITE_SHA,
                1,
                prefix + key,
                head(version),
                tail(version, flags, value, position),
                ttl_ms(ttl_s),
            )
            for key, value, flags, version, ttl_s, position in writes
        ]
        return [bool(done) for done in await self._scripts.submit(commands)]

    async def prolong(self, namespace: str, lives: Sequence[tuple[bytes, int, float]]) -> list[bool]:
        """Let values live longer that are still there in their version."""
        prefix = self._prefix_of(namespace)
        commands: list[Command] = [
            ("EVALSHA", PROLONG_SHA, 1, prefix + key, head(version), ttl_ms(ttl_s)) for key, version, ttl_s in lives
        ]
        return [bool(done) for done in await self._scripts.submit(commands)]

    async def drop(self, namespace: str, drops: Sequence[tuple[bytes, int]]) -> list[bool]:
        """Remove each key whatever version it has, leaving a tombstone."""
        prefix = self._prefix_of(namespace)
        commands = [self._drop(prefix + key, head(version, kind=TOMBSTONE)) for key, version in drops]
        return [bool(done) for done in await self._scripts.submit(commands)]

    async def note_barriers(self, namespace: str, barriers: Sequence[tuple[int, Selector]]) -> None:
        """Keep barriers, each with its position, until a newer one of the same selector takes its place."""
        kept = await self._scripts.submit([self._note(namespace, *barrier) for barrier in barriers])
        if max(kept, default=0) > _MOST_BARRIERS:
            await self._fold_barriers()

    async def barriers(self) -> list[tuple[str, int, Selector]]:
        """Return all barriers that are kept: namespace, position, selector. Old ones may have become wider."""
        (found,) = await self._looks.submit([None])
        return found

    async def lock(self, namespace: str, key: bytes, token: bytes, ttl_s: float) -> bool:
        """Take the lock of a key, or prolong it."""
        lock = self._lock_of(namespace, key)
        (taken,) = await self._scripts.submit([("EVALSHA", LOCK_SHA, 1, lock, token, ttl_ms(ttl_s))])
        return bool(taken)

    async def unlock(self, namespace: str, key: bytes, token: bytes) -> bool:
        """Give the lock of a key back, if the token still has it."""
        (given,) = await self._scripts.submit([("EVALSHA", UNLOCK_SHA, 1, self._lock_of(namespace, key), token)])
        return bool(given)

    async def keys(self, namespace: str, cursor: int = 0) -> tuple[list[bytes], int]:
        """Return some keys of a namespace, and the cursor to go on with: 0 at the end."""
        (found,) = await self._walks.submit([(self._prefix_of(namespace), cursor)])
        return found

    async def ping(self) -> None:
        """Return if the store answers."""
        await self._pings.submit([None])

    async def close(self) -> None:
        """Give back connections; calls under way end with `L2Unavailable`. Safe to call twice."""
        for batcher in (self._reads, self._scripts, self._pings, self._looks, self._walks):
            await batcher.close()
        await self._pipeline.close()
        await self._client.aclose()

    def _lock_of(self, namespace: str, key: bytes) -> bytes:
        return f"{self._prefix}.lock:{namespace}:".encode() + key

    def _prefix_of(self, namespace: str) -> bytes:
        prefix = self._prefixes.get(namespace)
        if prefix is None:
            prefix = self._prefixes[namespace] = f"{self._prefix}{namespace}:".encode()
        return prefix

    def _drop(self, key: bytes, tombstone: bytes) -> Command:
        return ("EVALSHA", DROP_SHA, 1, key, tombstone, self._tombstone_ms)

    def _note(self, namespace: str, position: int, selector: Selector, *, script: str = NOTE_SHA) -> Command:
        field = b"%s\0%c%s" % (namespace.encode(), selector.kind.value, selector.text)
        return ("EVALSHA", script, 1, self._barriers, field, b"%020d" % position)

    async def _all_barriers(self, items: list[None]) -> list[_Barriers]:
        (flat,) = await self._pipeline.scatter([("HGETALL", self._barriers)], itemgetter(1), self._ask_at)
        pairs = flat.items() if isinstance(flat, dict) else zip(flat[::2], flat[1::2], strict=True)
        found = []
        for field, position in pairs:
            name, _, rest = bytes(field).partition(b"\0")
            try:
                found.append((name.decode(), int(position), make_selector(rest[0], rest[1:])))
            except (ValueError, IndexError):
                continue  # not ours
        return [found for _ in items]

    async def _fold_barriers(self) -> None:
        """Put the older half of the barriers together: a barrier around the whole namespace for each.

        One that was noted anew since they were read stays: `FOLD` looks at its position.
        """
        known = sorted(await self.barriers(), key=itemgetter(1))
        old = known[: len(known) // 2]
        floors = {name: position for name, position, _ in old}
        await self._scripts.submit([self._note(name, position, _WHOLE) for name, position in floors.items()])
        folded = [barrier for barrier in old if barrier[2] != _WHOLE]
        await self._scripts.submit([self._note(*barrier, script=FOLD_SHA) for barrier in folded])

    async def _ask_at(self, server: Server, commands: Sequence[Command]) -> list[Any]:
        replies = await server.round_trip(commands)
        raise_first(replies, but=self._followed)
        return replies

    async def _mget(self, keys: list[bytes]) -> list[L2Entry | None]:
        return await self._pipeline.scatter(keys, bytes, self._get_at if self._sharded else self._mget_at)

    async def _mget_at(self, server: Server, keys: Sequence[bytes]) -> list[L2Entry | None]:
        time, values = await server.round_trip([_TIME, ("MGET", *keys)])
        raise_first((time, values))
        return _decoded(time, values)

    async def _get_at(self, server: Server, keys: Sequence[bytes]) -> list[Any]:
        """Read keys of several slots, which no one command may name."""
        time, *values = await server.round_trip([_TIME, *(("GET", key) for key in keys)])
        raise_first((time,))
        for at, value in enumerate(values):
            if isinstance(value, ResponseError) and str(value).startswith("WRONGTYPE"):  # not ours
                values[at] = None
        raise_first(values, but=self._followed)
        return _decoded(time, values)

    async def _scan(self, walks: list[tuple[bytes, int]]) -> list[tuple[list[bytes], int]]:
        """Take a step of each walk, which goes from server to server. Names hold nothing that patterns know."""
        servers = await self._pipeline.all()
        found: list[tuple[list[bytes], int]] = []
        for prefix, walked in walks:
            at, cursor = divmod(walked, _SERVER)
            if at >= len(servers):  # there were more when the walk began
                found.append(([], 0))
                continue
            command = ("SCAN", cursor, "MATCH", prefix + b"*", "COUNT", _KEYS_AT_ONCE)
            ((cursor, keys),) = await self._ask_at(servers[at], [command])
            at += int(cursor) == 0
            following = at * _SERVER + int(cursor) if at < len(servers) else 0
            found.append(([bytes(key)[len(prefix) :] for key in keys], following))
        return found

    async def _pong(self, items: list[None]) -> list[None]:
        """Have the store answer, and no former master in its place: whoever pings is about to trust it."""
        await self._pipeline.look()
        for server in await self._pipeline.all():
            await self._ask_at(server, [("PING",)])
        return items

    async def _evaluate(self, commands: list[Command]) -> list[int]:
        return await self._pipeline.scatter(commands, itemgetter(_KEY), self._evaluate_at)

    async def _evaluate_at(self, server: Server, commands: Sequence[Command]) -> list[Any]:
        replies = await server.round_trip(commands)
        again: dict[int, Command] = {}
        for index, reply in enumerate(replies):
            if isinstance(reply, NoScriptError):
                again[index] = commands[index]
            elif isinstance(reply, OutOfMemoryError) and commands[index][1] is WRITE_SHA:
                # Keeping the older value would be a lie, failing would open the breaker for reads too: forget instead.
                again[index] = self._drop(commands[index][_KEY], _tombstone_of(commands[index][_HEAD]))
        if again:
            loaded = await server.round_trip([*_LOAD, *again.values()])
            raise_first(loaded[: len(_LOAD)])
            for index, reply in zip(again, loaded[len(_LOAD) :], strict=True):
                replies[index] = 1 if commands[index] is not again[index] and reply == 0 else reply
        raise_first(replies, but=self._followed)
        return replies


def _decoded(time: Any, values: Sequence[Any]) -> list[Any]:  # noqa: ANN401 - a server's reply
    """Return the entries; what is an answer to follow stays one."""
    now_ms = int(time[0]) * 1_000 + int(time[1]) // 1_000
    return [decode(raw, now_ms) if isinstance(raw, bytes) else raw for raw in values]


def _command_bytes(command: Command) -> int:
    return len(command[_TAIL]) if command[1] is WRITE_SHA else 0


def _tombstone_of(value_head: bytes) -> bytes:
    return bytes((value_head[0], TOMBSTONE)) + value_head[2:HEAD_BYTES]
