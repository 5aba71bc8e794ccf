"""The asyncio client.

The path of a `get`: canonical key → owner on the ring → join that session's open batch → await the record → decode.
Nothing else is done unless something fails; then `Engine.persist` takes over, with back-off, a retry budget, and the
call's deadline.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any, Self

from cachenode_api.records import HEADER_BYTES
from cachenode_api.view import View
from cachenode_client._batches import DELETE, GET, SET, TOUCH, Group
from cachenode_client._checks import Key, checked_key, checked_ttl, sdk_version
from cachenode_client._core import FLAGS_AT, PLAIN, ClientCore, K, many_keys, many_values
from cachenode_client._engine import Engine
from cachenode_client._results import Lookup
from cachenode_client.errors import CacheError, CacheUnavailable

__all__ = ["CacheClient"]

_running_loop = asyncio.get_running_loop


class CacheClient(ClientCore):
    """A client of a cachenode cluster, for asyncio.

    It connects with the first call. It belongs to the event loop of that call and may be used by any number of tasks
    there. Every call ends within its timeout.

    Args:
        address: Nodes to begin with, "host:port,host:port", or "dns:///name:port". The others are learned from them.
        namespace: Used where a call names none.
        timeout_s: Longest duration of a call that gives none.
        on_error: "raise", or "miss": a cluster that cannot answer counts as a miss, and a write as not done (0, False
            or {}). Wrong arguments and a closed client raise in any case.
        serializer: For values other than bytes, str, int, float, bool and None: "json", "msgspec", "orjson", "pickle"
            or your own.
        compression: None, "zlib", "lz4" or "zstd", for values of `compress_from_bytes` and more.
        max_value_bytes: Largest encoded value, also when decompressed.
        client_name: Told to the nodes, for people.

    Raises:
        InvalidArgument: An argument is not valid.

    Example:
        >>> async with CacheClient("127.0.0.1:7401") as cache:
        ...     await cache.set("user:7", {"name": "Ada"}, ttl_s=60)
        ...     await cache.get("user:7")
        {'name': 'Ada'}
    """

    _engine: Engine | None = None

    # Reads.

    async def get(
        self, key: Key, default: Any = None, *, timeout_s: float | None = None, namespace: str | None = None
    ) -> Any:
        """Return a key's value, or `default` if there is none.

        Raises:
            InvalidKey: The key is empty, too long, or neither str nor bytes.
            CacheTimeout: No answer in time (not under ``on_error="miss"``, as all below).
            CacheUnavailable: No node could answer.
            DecodeError: The stored value cannot be decoded by this client.
        """
        raw = checked_key(key)
        group = self._get_group
        if timeout_s is not None or namespace is not None:
            group = self._group(GET, namespace, timeout_s)
        engine = self._engine
        try:
            if engine is None or engine.loop is not _running_loop():
                engine = self._started()
            began = engine.loop.time()
            future = engine.try_read(group, raw)
            if future is None:
                return self._found(await engine.persist(group, raw), default)
            try:
                record = await future
            except CacheError as error:
                record = await engine.again(error, began, group, raw)
            if record.startswith(PLAIN, FLAGS_AT):  # bytes, as they are
                self._stats.hits += 1
                return record[HEADER_BYTES:]
            return self._found(record, default)
        except CacheError as error:
            return self._missed(error, default)

    async def lookup(self, key: Key, *, timeout_s: float | None = None, namespace: str | None = None) -> Lookup:
        """Return a key's value with its version, remaining life, layer and flags.

        Raises:
            CacheError: As `get`.
        """
        raw = checked_key(key)
        group = self._group(GET, namespace, timeout_s, detailed=True)
        try:
            return self._looked_up(await self._call(group, raw))
        except CacheError as error:
            return self._missed(error, Lookup(found=False))

    async def contains(self, key: Key, *, timeout_s: float | None = None, namespace: str | None = None) -> bool:
        """Return True if the key has a value. The value travels: it is a `get` without decoding.

        Raises:
            CacheError: As `get`.
        """
        raw = checked_key(key)
        try:
            return bool(await self._call(self._group(GET, namespace, timeout_s), raw))
        except CacheError as error:
            return self._missed(error, instead=False)

    async def ttl(self, key: Key, *, timeout_s: float | None = None, namespace: str | None = None) -> float | None:
        """Return the remaining life of a key's value in seconds: infinite if it does not expire, None if there is none.

        Raises:
            CacheError: As `get`.
        """
        raw = checked_key(key)
        try:
            return self._time_left(await self._call(self._group(GET, namespace, timeout_s, detailed=True), raw))
        except CacheError as error:
            return self._missed(error, None)

    async def get_many(
        self, keys: Iterable[K], *, timeout_s: float | None = None, namespace: str | None = None
    ) -> dict[K, Any]:
        """Return the values of the keys that have one, by the keys as they were given.

        Raises:
            ManyFailed: Some keys could not be read; it holds what was read (not under ``on_error="miss"``).
            CacheError: As `get`.
        """
        originals, raws = many_keys(keys)
        results, errors = await self._started().many(self._group(GET, namespace, timeout_s), raws)
        return self._found_many(originals, results, errors)

    # Writes.

    async def set(
        self,
        key: Key,
        value: Any,
        *,
        ttl_s: float | None = None,
        timeout_s: float | None = None,
        namespace: str | None = None,
    ) -> int:
        """Store a value and return the version of the write.

        Args:
            key: 1 to 1,024 bytes.
            value: Anything that the client's serializer takes; None is a value like any other.
            ttl_s: Life in seconds; None for the namespace's default, infinite for no end.
            timeout_s: Longest duration of this call.
            namespace: Instead of the client's.

        Raises:
            InvalidKey: The key is empty, too long, or neither str nor bytes.
            InvalidTtl: The TTL is not a positive number.
            Unserializable: The value would not come back as it is.
            ValueTooLarge: It exceeds the client's, the node's or the namespace's limit.
            CacheTimeout: No answer in time; the write may or may not have happened. Under ``on_error="miss"`` 0 is
                returned instead.
            CacheUnavailable: No node could take it (likewise).
        """
        raw = checked_key(key)
        ttl_ms = checked_ttl(ttl_s)
        encoded = self.encoded(value)
        group = self._set_group
        if timeout_s is not None or namespace is not None:
            group = self._group(SET, namespace, timeout_s)
        engine = self._engine
        try:
            if engine is None or engine.loop is not _running_loop():
                engine = self._started()
            began = engine.loop.time()
            future = engine.try_write(group, raw, encoded, ttl_ms)
            version: int
            if future is None:
                version = await engine.persist(group, raw, encoded, ttl_ms)
            else:
                try:
                    version = await future
                except CacheError as error:
                    version = await engine.again(error, began, group, raw, encoded, ttl_ms)
        except CacheError as error:
            return self._missed(error, 0)
        self._stats.sets += 1
        return version

    async def set_many(
        self,
        values: Mapping[K, Any],
        *,
        ttl_s: float | None = None,
        timeout_s: float | None = None,
        namespace: str | None = None,
    ) -> dict[K, int]:
        """Store values and return the versions of the writes that were done.

        Raises:
            ManyFailed: Some were not done; it holds the versions of those that were (not under ``on_error="miss"``).
            CacheError: As `set`; wrong arguments are found before anything is sent.
        """
        ttl_ms = checked_ttl(ttl_s)
        originals, raws, encoded = many_values(self, values)
        results, errors = await self._started().many(self._group(SET, namespace, timeout_s), raws, encoded, ttl_ms)
        return self._stored_many(originals, results, errors)

    async def delete(self, key: Key, *, timeout_s: float | None = None, namespace: str | None = None) -> bool:
        """Remove a key's value. Return True if there was one.

        Raises:
            CacheError: As `set`.
        """
        raw = checked_key(key)
        try:
            return bool(await self._call(self._group(DELETE, namespace, timeout_s), raw))
        except CacheError as error:
            return self._missed(error, instead=False)

    async def touch(
        self,
        key: Key,
        *,
        ttl_s: float | None = None,
        timeout_s: float | None = None,
        namespace: str | None = None,
    ) -> bool:
        """Give a key's value a new life of `ttl_s`, None for the namespace's default. Return True if there is a value.

        Raises:
            CacheError: As `set`.
        """
        raw = checked_key(key)
        ttl_ms = checked_ttl(ttl_s)
        try:
            return bool(await self._call(self._group(TOUCH, namespace, timeout_s), raw, ttl_ms))
        except CacheError as error:
            return self._missed(error, instead=False)

    # The cluster.

    async def view(self) -> View:
        """Return the newest view of the cluster that this client has seen.

        Raises:
            CacheUnavailable: No node has answered yet.
        """
        router = self._started().router
        await router.wait_route(b"view", self._timeout_s)
        if router.view is None:
            raise CacheUnavailable("The node that answered has no view yet; call again.")
        return router.view

    def stats(self) -> dict[str, int]:
        """Return this client's counters: hits, misses, sets, retries, errors, nodes connected, frames sent."""
        router = self._engine.router if self._engine is not None else None
        return self._stats.as_dict() | {
            "nodes_connected": router.ready_count if router else 0,
            "frames_sent": router.frames_sent if router else 0,
        }

    async def aclose(self) -> None:
        """End all sessions. Calls under way fail with `CacheUnavailable`, later ones with `ClientClosed`.

        Safe to call twice.
        """
        self._closed = True
        engine, self._engine = self._engine, None
        if engine is not None:
            await engine.close()

    async def __aenter__(self) -> Self:
        """Return the client itself; it connects with the first call."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the client."""
        await self.aclose()

    def __repr__(self) -> str:
        state = "closed" if self._closed else "new" if self._engine is None else repr(self._engine.router)
        return f"<CacheClient namespace={self._namespace!r} {state}>"

    # Inside.

    async def _call(self, group: Group, raw: bytes, ttl_ms: int = 0) -> Any:
        """Send one key at once if there is a session for it; leave the rest to the engine.

        `get` and `set` do the same without this call in between.
        """
        engine = self._engine
        if engine is None or engine.loop is not _running_loop():
            engine = self._started()
        began = engine.loop.time()
        future: asyncio.Future[Any] = engine.loop.create_future()
        if not engine.try_submit(group, raw, future, None, ttl_ms):
            return await engine.persist(group, raw, ttl_ms=ttl_ms)
        try:
            return await future
        except CacheError as error:
            return await engine.again(error, began, group, raw, ttl_ms=ttl_ms)

    def _started(self) -> Engine:
        """Return the engine, starting it with the first call.

        Raises:
            ClientClosed: The client is closed.
            ForkedClient: The process was forked since.
            CacheError: The client belongs to another event loop.
        """
        self._check_usable()
        if self._engine is None:
            self._engine = Engine(
                self._addresses, client_name=self._client_name, sdk_version=sdk_version(), stats=self._stats
            )
        elif self._engine.loop is not _running_loop():
            text = "The client belongs to the event loop of its first call; create one client per event loop."
            raise CacheError(text, reason="wrong_loop")
        return self._engine

    def after_fork(self) -> None:
        """Forget what does not survive a fork; called in the child."""
        super().after_fork()
        self._engine = None
