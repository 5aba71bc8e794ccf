"""The write-behind queue in Redis or Valkey.

::

    cn:{cluster}:.wb.records:{namespace}         hash: the newest queued record of each key
    cn:{cluster}:.wb.stream:{namespace}:{shard}  stream: an entry for each key with a record; consumer group "sink"
    cn:{cluster}:.wb.lease:{namespace}:{shard}   who consumes the shard, and until when
    cn:{cluster}:.wb.dead:{namespace}            stream: dead letters

In a Cluster keys begin with ``cn:{<cluster>:<namespace>}:``, braces included: a hash tag, so that
all of a namespace's queue lies on one master, and values, which are spread over all of them, are written by themselves.

A write, its entry and (if values lie on the same server) its value in the shared store are one script, so a server that
is killed has all of them or none, and so has a file of commands that is cut off anywhere. Entries leave a stream one by
one, when they are done; nothing ever cuts a stream to a length.

What "queued" means is the *durability*:

- ``fast``: in the server's memory. A crash of the server loses what its own persistence had not saved: with
  ``appendfsync everysec`` the last second or so.
- ``fsync``: on the server's disk (``WAITAOF 1 0``). A crash loses nothing; the loss of the disk does.
- ``replicated``: on the disks of the server and of a replica (``WAITAOF 1 1``), or in a replica's memory where the
  server keeps no file of commands (``WAIT 1``). A failover to another replica may still lose it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from weakref import WeakKeyDictionary

import structlog
from redis.exceptions import NoScriptError, ResponseError

from cachenode.adapters.batching import TurnBatcher
from cachenode.adapters.queue_scripts import (
    BURY,
    DONE,
    FETCH,
    LETTERS,
    NEWEST,
    PUT,
    RELEASE,
    REPLAY,
    SCRIPTS,
    Script,
)
from cachenode.adapters.redis_client import check_cluster, reason
from cachenode.adapters.redis_cluster import REDIRECTED, ClusterPipeline, pipeline_of
from cachenode.adapters.redis_pipeline import Command, Server, Unsent, raise_first
from cachenode.core.entries import QueuedWrite
from cachenode.core.envelope import TOMBSTONE, head, tail, ttl_ms
from cachenode.core.queued import (
    SHARDS,
    DeadLetter,
    Fetched,
    Outcome,
    Put,
    QueueStatus,
    pack_record,
    shard_of,
    unpack_record,
)
from cachenode.errors import L2Unavailable

if TYPE_CHECKING:
    from redis.asyncio import Redis

__all__ = ["Durability", "RedisQueue"]

Durability = Literal["fast", "fsync", "replicated"]
T = TypeVar("T")

_log = structlog.get_logger(__name__)

_LOAD: list[Command] = [("SCRIPT", "LOAD", script.text) for script in SCRIPTS]
_FOUND = 16
_AT_ONCE = 128
_BULK_WAITS = 10
_BARE_RECORD = 13
_NOT_SAFE = {
    "fsync": "it is in the queue's memory, but was not on its disk in time",
    "replicated": "it is in the queue's memory, but no replica had it in time",
}


class RedisQueue:
    """A `WriteQueue` in Redis 7.2 or later, or Valkey; in 7.0 with durability ``fast``.

    Guarantees: a call ends within about its time limit; nothing is retried. A restarted server gets the scripts again
        by itself. What a put reports as queued is as safe as the durability says.

    Not guaranteed: that what is reported as uncertain is not queued.

    Args:
        client: See `redis_client.connect`, with time limits that suit `put_timeout_s`. Closed with the queue.
        cluster: Name of the cluster; part of every key.
        carries_values: Whether the shared store is on the same server, so that `put` writes there too.
        durability: When a write counts as queued.
        put_timeout_s: Time limit of a put, waiting for a disk or a replica included.
        timeout_s: Time limit of everything else.
        tombstone_s: How long a removal refuses older writes in the shared store.

    Raises:
        ConfigError: The cluster's name is not valid.
    """

    def __init__(
        self,
        client: Redis,
        cluster: str,
        *,
        carries_values: bool = True,
        durability: Durability = "fast",
        put_timeout_s: float = 0.2,
        timeout_s: float = 1.0,
        tombstone_s: float = 60.0,
    ) -> None:
        self._client = client
        self._pipeline = pipeline_of(client)
        self._sharded = isinstance(self._pipeline, ClusterPipeline)
        self.carries_values = carries_values and not self._sharded
        self._cluster = check_cluster(cluster)
        self._prefix = f"cn:{cluster}:"
        self._loaded: WeakKeyDictionary[Server, int] = WeakKeyDictionary()
        self._durability: Durability = durability
        self._wait_ms = max(1, int(put_timeout_s * 800))
        self._wait: list[Command] = []
        if durability != "fast":
            self._wait = [("WAITAOF", 1, int(durability == "replicated"), self._wait_ms)]
        self._tombstone_ms = ttl_ms(tombstone_s)
        self._puts: TurnBatcher[Command, Put] = TurnBatcher(
            self._put_all, in_flight=8, limit_s=put_timeout_s, wait_limits=_BULK_WAITS, max_items=_AT_ONCE, size=_bytes
        )
        self._calls: TurnBatcher[Command, Any] = TurnBatcher(
            self._call_all, in_flight=4, limit_s=timeout_s, wait_limits=_BULK_WAITS, max_items=_AT_ONCE, size=_bytes
        )

    # Writing.

    async def put(self, namespace: str, writes: Sequence[QueuedWrite], most: int) -> list[Put]:
        """Queue writes, each if it is newer than what is queued and stored of its key."""
        try:
            return await self._puts.submit([self._put(namespace, write, most) for write in writes])
        except L2Unavailable as error:
            return [Put(Outcome.UNCERTAIN, why=str(error))] * len(writes)

    def _put(self, namespace: str, write: QueuedWrite, most: int) -> Command:
        records, dead = self._of(namespace, "records"), self._of(namespace, "dead")
        names = [records, self._of(namespace, "stream", shard_of(write.key)), dead]
        arguments: list[Any] = [write.key, pack_record(write), most]
        if self.carries_values:
            names.append(f"{self._prefix}{namespace}:".encode() + write.key)
            if write.value is None:
                arguments += [head(write.version, kind=TOMBSTONE), b"", self._tombstone_ms]
            else:
                envelope = tail(write.version, write.flags, write.value, write.position)
                arguments += [head(write.version), envelope, ttl_ms(write.ttl_s)]
        return ("EVALSHA", PUT.sha, len(names), *names, *arguments)

    async def _put_all(self, commands: list[Command]) -> list[Put]:
        try:
            return await self._pipeline.scatter(commands, _key_of, self._put_at)
        except Unsent as error:
            return [Put(Outcome.REFUSED, why=str(error))] * len(commands)

    async def _put_at(self, server: Server, commands: Sequence[Command]) -> list[Any]:
        try:
            if self._wait and self._loaded.get(server) != server.history:  # or the first writes would wait twice
                raise_first(await server.round_trip(_LOAD))
                self._loaded[server] = server.history
            replies = await self._evaluate(server, commands, self._wait)
        except Unsent as error:
            return [Put(Outcome.REFUSED, why=str(error))] * len(commands)
        safe = not self._wait or self._is_safe(replies.pop())
        return [self._answer(reply, safe) for reply in replies]

    def _answer(self, reply: Any, safe: bool) -> Any:  # noqa: ANN401 - whatever the server said
        if self._sharded and isinstance(reply, REDIRECTED):
            return reply
        if isinstance(reply, ResponseError):  # out of memory, its disk is full, it is a replica: nothing was done
            return Put(Outcome.REFUSED, why=f"the server refuses writes ({reason(reply)})")
        found, outcome = divmod(int(reply), _FOUND)
        if not safe and outcome in (Outcome.QUEUED, Outcome.REPLACED):
            return Put(Outcome.UNCERTAIN, bool(found), _NOT_SAFE[self._durability])
        return Put(Outcome(outcome), bool(found))

    def _is_safe(self, reply: Any) -> bool:  # noqa: ANN401 - as above
        """Return whether the answer to WAITAOF (on disks here, on disks of replicas) or WAIT (replicas) is enough."""
        if isinstance(reply, ResponseError):
            return False
        if not isinstance(reply, list):
            return int(reply) >= 1
        here, there = reply
        return int(here) >= 1 and (self._durability == "fsync" or int(there) >= 1)

    async def _evaluate(self, server: Server, commands: Sequence[Command], after: Sequence[Command] = ()) -> list[Any]:
        """Return the replies; a server that does not know the scripts gets them."""
        replies = await server.round_trip([*commands, *after])
        again = [at for at, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
        if again:
            found = await server.round_trip([*_LOAD, *(commands[at] for at in again), *after])
            raise_first(found[: len(_LOAD)])
            for at, reply in zip(again, found[len(_LOAD) :], strict=False):
                replies[at] = reply
            if after:
                replies[-1] = found[-1]
        return replies

    # Reading and consuming.

    async def newest(self, namespace: str, keys: Sequence[bytes], most_bytes: int = 0) -> list[QueuedWrite | None]:
        """Return the queued write of each key, None where there is none."""
        if not keys:
            return []
        records = await self._call(NEWEST, [self._of(namespace, "records")], [most_bytes, *keys])
        return [
            None if record is None else unpack_record(key, record) for key, record in zip(keys, records, strict=False)
        ]

    async def fetch(
        self, namespace: str, shard: int, consumer: str, *, lease_s: float, most: int, claim: bytes = b""
    ) -> Fetched:
        """Take a shard, or prolong its lease, and return entries that were not delivered before."""
        names = [self._of(namespace, "stream", shard), self._of(namespace, "lease", shard)]
        reply = await self._call(FETCH, names, [consumer, ttl_ms(lease_s), most, claim])
        if reply[0] == 2:  # the stream was removed under us, its group with it
            reply = await self._call(FETCH, names, [consumer, ttl_ms(lease_s), most, b"0-0"])
        if reply[0] == 0:
            return Fetched(False, free_in_s=reply[1] / 1_000)
        _, now_ms, waiting, oldest, cursor, entries, lost = reply
        return Fetched(
            True,
            entries=tuple((id_, fields[1], _age_s(id_, now_ms)) for id_, fields in entries),
            cursor=cursor,
            waiting=waiting,
            oldest_s=_age_s(oldest, now_ms) if oldest else 0.0,
            lost=lost,
        )

    async def done(
        self, namespace: str, shard: int, consumer: str, applied: Sequence[tuple[bytes, bytes, int]]
    ) -> list[bool] | None:
        """Take keys out of the queue whose write of a version the origin has."""
        arguments = [part for id_, key, version in applied for part in (id_, key, _packed(version))]
        return await self._settle(DONE, namespace, shard, consumer, arguments)

    async def bury(
        self, namespace: str, shard: int, consumer: str, dead: Sequence[tuple[bytes, bytes, int, int, str]]
    ) -> list[bool] | None:
        """As `done`, for writes that become dead letters."""
        arguments = [
            part
            for id_, key, version, attempts, why in dead
            for part in (id_, key, _packed(version), attempts, why.encode())
        ]
        return await self._settle(BURY, namespace, shard, consumer, arguments)

    async def _settle(
        self, script: Script, namespace: str, shard: int, consumer: str, arguments: Sequence[Any]
    ) -> list[bool] | None:
        if not arguments:
            return []
        names = [self._of(namespace, "records"), self._of(namespace, "stream", shard)]
        names += [self._of(namespace, "lease", shard), self._of(namespace, "dead")]
        left = await self._call(script, names, [consumer, *arguments])
        return [bool(each) for each in left] or None

    async def release(self, namespace: str, shard: int, consumer: str) -> None:
        """Give a shard back, if the consumer has it."""
        await self._call(RELEASE, [self._of(namespace, "lease", shard)], [consumer])

    # For people.

    async def status(self, namespace: str) -> QueueStatus:
        """Return how much waits."""
        streams = [self._of(namespace, "stream", shard) for shard in range(SHARDS)]
        time, waiting, dead, *firsts = await self._submit(
            [
                ("TIME",),
                ("HLEN", self._of(namespace, "records")),
                ("XLEN", self._of(namespace, "dead")),
                *(("XRANGE", stream, "-", "+", "COUNT", 1) for stream in streams),
            ]
        )
        now_ms = int(time[0]) * 1_000 + int(time[1]) // 1_000
        oldest_s = max((_age_s(first[0][0], now_ms) for first in firsts if first), default=0.0)
        return QueueStatus(waiting, oldest_s, dead)

    async def dead_letters(self, namespace: str, after: bytes, most: int) -> list[DeadLetter]:
        """Return dead letters in the order of their ids, those after an id."""
        now_ms, letters = await self._call(LETTERS, [self._of(namespace, "dead")], [after, most])
        return [_letter(now_ms, *letter) for letter in letters]

    async def replay(self, namespace: str, letters: Sequence[DeadLetter]) -> list[bool]:
        """Queue dead letters again, each unless a newer write of its key is queued."""
        records, dead = self._of(namespace, "records"), self._of(namespace, "dead")
        commands: list[Command] = [
            ("EVALSHA", REPLAY.sha, 3, records, self._of(namespace, "stream", shard_of(letter.key)), dead, letter.id)
            for letter in letters
        ]
        return [bool(done) for done in await self._submit(commands)]

    async def discard(self, namespace: str, letters: Sequence[DeadLetter]) -> int:
        """Remove dead letters for ever."""
        if not letters:
            return 0
        removed = await self._call_one("XDEL", self._of(namespace, "dead"), *(each.id for each in letters))
        return int(removed)

    async def problems(self) -> list[str]:
        """Return why this server cannot keep what the durability promises; a server that hides it is believed."""
        problems: list[str] = []
        policy = await self._setting("maxmemory-policy")
        if policy.startswith("allkeys-"):
            problems.append(
                f"the server evicts queued writes when its memory is full (maxmemory-policy {policy}); set it to"
                " noeviction, or name another server: l2.queue_url"
            )
        keeps_file = b"aof_enabled:1" in await self._call_one("INFO", "persistence")
        if self._durability == "fsync" and not keeps_file:
            problems.append(
                "durability fsync needs a server that writes what it is told to its disk; set appendonly to yes there"
            )
        if self._durability == "replicated" and not keeps_file:
            self._wait = [("WAIT", 1, self._wait_ms)]
        elif self._wait and not (await self._call_one("COMMAND", "INFO", "WAITAOF"))[0]:
            problems.append(f"durability {self._durability} needs Redis 7.2 or later, or Valkey")
        return problems

    async def _setting(self, name: str) -> str:
        try:
            found = await self._call_one("CONFIG", "GET", name)
        except L2Unavailable as error:
            if not isinstance(error.__cause__, ResponseError):
                raise
            _log.warning("queue_not_checked", setting=name, why="the server does not say how it is set")
            return ""
        pairs = found.items() if isinstance(found, dict) else zip(found[::2], found[1::2], strict=True)
        return next((value.decode() for _, value in pairs), "")

    async def close(self) -> None:
        """Give back connections; calls under way end. Safe to call twice."""
        await self._puts.close()
        await self._calls.close()
        await self._pipeline.close()
        await self._client.aclose()

    # Calls.

    async def _call(self, script: Script, names: Sequence[bytes], arguments: Sequence[Any]) -> Any:  # noqa: ANN401
        return await self._call_one("EVALSHA", script.sha, len(names), *names, *arguments)

    async def _call_one(self, *command: Any) -> Any:  # noqa: ANN401
        (reply,) = await self._submit([command])
        return reply

    async def _submit(self, commands: Sequence[Command]) -> list[Any]:
        replies = await self._calls.submit(commands)
        for reply in replies:
            if isinstance(reply, ResponseError):
                raise L2Unavailable(f"the queue's server refuses ({reason(reply)})") from reply
        return replies

    async def _call_all(self, commands: list[Command]) -> list[Any]:
        return await self._pipeline.scatter(commands, _key_of, self._evaluate)

    def _of(self, namespace: str, what: str, shard: int | None = None) -> bytes:
        prefix = f"cn:{{{self._cluster}:{namespace}}}:" if self._sharded else self._prefix
        name = f"{prefix}.wb.{what}:{namespace}"
        return (name if shard is None else f"{name}:{shard}").encode()


def _key_of(command: Command) -> bytes:
    """Return the key that a command is about; what is asked of any server goes where the empty key would lie."""
    if command[0] == "EVALSHA":
        return bytes(command[3])
    return command[1] if len(command) > 1 and isinstance(command[1], bytes) else b""


def _bytes(command: Command) -> int:
    return sum(len(part) for part in command[3:] if isinstance(part, bytes))


def _packed(version: int) -> bytes:
    return version.to_bytes(8, "big")


def _age_s(id_: bytes, now_ms: int) -> float:
    return max(0.0, (now_ms - int(id_.partition(b"-")[0])) / 1_000)


def _letter(now_ms: int, id_: bytes, key: bytes, record: bytes, size: int, attempts: bytes, why: bytes) -> DeadLetter:
    write = unpack_record(key, record[:_BARE_RECORD])
    age_s = _age_s(id_, now_ms)
    return DeadLetter(id_, key, write.value is None, write.version, size, int(attempts), age_s, why.decode())
