"""The asyncio client.

The path of a `get`: canonical key → owner on the ring → join that session's open batch → await the record → decode.
Nothing else is done unless something fails; then `Engine.persist` takes over, with back-off, a retry budget, and the
call's deadline.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, ParamSpec, Self

from cachenode_api.records import HEADER_BYTES
from cachenode_api.version import ABSENT_VERSION, ANY_VERSION
from cachenode_api.view import View
from cachenode_client._after_commit import AfterCommit, Pending
from cachenode_client._batches import BARRIER, DELETE, GET, INCR, INVALIDATE, SET, SLIDE, TOUCH, Group
from cachenode_client._checks import (
    Ack,
    DependsOn,
    Key,
    Mode,
    checked_delta,
    checked_key,
    checked_keys,
    checked_mode,
    checked_namespace,
    checked_selection,
    checked_timeout,
    checked_ttl,
    checked_version,
    checked_watch,
    sdk_version,
)
from cachenode_client._core import (
    FLAGS_AT,
    PLAIN,
    ClientCore,
    K,
    many_keys,
    many_values,
)
from cachenode_client._decorator import Cached
from cachenode_client._engine import Engine
from cachenode_client._events import Published, encoded_fields, publish
from cachenode_client._loading import Loading
from cachenode_client._loads import (
    BatchLoader,
    Loader,
)
from cachenode_client._near import ENCODED, boot_clock
from cachenode_client._results import Lookup
from cachenode_client._versioned import Versioned
from cachenode_client._warm import Warmer, checked_warm
from cachenode_client._watch import Watcher, Watching
from cachenode_client.errors import CacheError, CacheUnavailable

__all__ = ["CacheClient"]

P = ParamSpec("P")

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
        tls: The files for connections over TLS; None for plain ones.
        token: What the nodes know this client by, or the path of a file that holds it, as `pathlib.Path`.
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

    async def get(  # noqa: C901 - the path of a near hit, without the calls
        self, key: Key, default: Any = None, *, timeout_s: float | None = None, namespace: str | None = None
    ) -> Any:
        """Return a key's value, or `default` if there is none.

        Raises:
            InvalidKey: The key is empty, too long, or neither str nor bytes.
            CacheTimeout: No answer in time (not under ``on_error="miss"``, as all below).
            CacheUnavailable: No node could answer.
            DecodeError: The stored value cannot be decoded by this client.
        """
        if namespace is None:
            try:
                entry = self._copies.get(key)
            except TypeError:  # not hashable: `checked_key` says so
                entry = None
            if entry is not None:
                now = boot_clock()
                if now < entry.deadline and now < entry.lease.until:
                    entry.marked = True
                    self._stats.near_hits += 1
                    return self._decode(entry.record) if entry.value is ENCODED else entry.value
        if self._near is not None and (entry := self._near_entry(key, namespace)) is not None:
            return self._near_value(entry)
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

    async def get_and_touch(
        self,
        key: Key,
        default: Any = None,
        *,
        ttl_s: float | None = None,
        timeout_s: float | None = None,
        namespace: str | None = None,
    ) -> Any:
        """Return a key's value, or `default`, and give the value a life anew: it lives on as long as it is asked for.

        The node that owns the key is asked in any case, not the near cache. The value keeps its version. Its end is
        moved only if that makes it later by a tenth of the life, and never beyond the namespace's ``max_life_s``.

        Args:
            key: 1 to 1,024 bytes.
            default: Returned if there is no value.
            ttl_s: The life in seconds; None for the namespace's.
            timeout_s: Longest duration of this call.
            namespace: Instead of the client's.

        Raises:
            InvalidTtl: The TTL is not a positive number.
            CacheError: As `get`; also from a namespace whose values are loaded anew before their end.
        """
        raw = checked_key(key)
        group = self._group(GET, namespace, timeout_s, number=checked_ttl(ttl_s) or SLIDE)
        try:
            return self._found(await self._call(group, raw), default)
        except CacheError as error:
            return self._missed(error, default)

    async def lookup(self, key: Key, *, timeout_s: float | None = None, namespace: str | None = None) -> Lookup:
        """Return a key's value with its version, remaining life, layer and flags.

        Raises:
            CacheError: As `get`.
        """
        if (entry := self._near_entry(key, namespace)) is not None:
            return self._near_lookup(entry)
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
        if self._near_entry(key, namespace) is not None:
            return True
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
        if (entry := self._near_entry(key, namespace)) is not None:
            return self._near_time_left(entry)
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
        near, missing = self._near_many(originals, raws, namespace)
        if near:
            if not missing:
                return near
            originals, raws = [originals[at] for at in missing], [raws[at] for at in missing]
        results, errors = await self._started().many(self._group(GET, namespace, timeout_s), raws)
        return self._found_many(originals, results, errors, near)

    # Writes.

    async def set(
        self,
        key: Key,
        value: Any,
        *,
        ttl_s: float | None = None,
        tags: Iterable[str] | None = None,
        depends_on: DependsOn | None = None,
        if_version: int | None = None,
        ack: Ack = "all",
        timeout_s: float | None = None,
        namespace: str | None = None,
    ) -> int:
        """Store a value and return the version of the write, 0 if `if_version` did not fit.

        Args:
            key: 1 to 1,024 bytes.
            value: Anything that the client's serializer takes; None is a value like any other.
            ttl_s: Life in seconds; None for the namespace's default, infinite for no end.
            tags: Names under which it can be invalidated together with others; at most 32 of 128 bytes.
            depends_on: Keys that the value is made from, at most 32, of the same namespace unless given as
                ``Parent(namespace, key)``. When one of them is written, removed or invalidated the value is untrue.
            if_version: Store only if the present value has this version (see `lookup`); None for any.
            ack: "all": done means that no read which starts from then on, anywhere, finds an older value. "owner"
                waits for nobody who has a copy: near caches may serve theirs for up to two seconds.
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
        encoded = self.encoded(value, tags)
        group = self._set_group
        if (
            timeout_s is not None
            or namespace is not None
            or if_version is not None
            or ack != "all"
            or depends_on is not None
        ):
            number = checked_version(if_version)
            group = self._group(SET, namespace, timeout_s, number=number, ack=ack, depends_on=depends_on)
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
            return 0 if self._condition_failed(error) else self._missed(error, 0)
        self._stats.sets += 1
        return version

    async def add(
        self,
        key: Key,
        value: Any,
        *,
        ttl_s: float | None = None,
        timeout_s: float | None = None,
        namespace: str | None = None,
    ) -> int:
        """Store a value if there is none. Return the version of the write, 0 if there was one.

        Raises:
            CacheError: As `set`.
        """
        return await self._set_if(ABSENT_VERSION, key, value, ttl_s, timeout_s, namespace)

    async def replace(
        self,
        key: Key,
        value: Any,
        *,
        ttl_s: float | None = None,
        timeout_s: float | None = None,
        namespace: str | None = None,
    ) -> int:
        """Store a value if there is one. Return the version of the write, 0 if there was none.

        Raises:
            CacheError: As `set`.
        """
        return await self._set_if(ANY_VERSION, key, value, ttl_s, timeout_s, namespace)

    async def incr(
        self,
        key: Key,
        delta: int = 1,
        *,
        ttl_s: float | None = None,
        timeout_s: float | None = None,
        namespace: str | None = None,
    ) -> int:
        """Add to a counter and return its new value.

        The owner of the key adds, so calls at the same time all count. A key without a value counts from 0. Errors are
        raised under ``on_error="miss"`` too: no number could stand for one.

        Args:
            key: 1 to 1,024 bytes.
            delta: What is added, a whole number of at most 64 bits.
            ttl_s: New life in seconds; None for the life that the value has, or the namespace's default for a new one.
            timeout_s: Longest duration of this call.
            namespace: Instead of the client's.

        Raises:
            NodeError: The value, or what it would become, is not a whole number of 64 bits (reason "not_a_counter").
            CacheTimeout: No answer in time; it may or may not have been added.
            CacheUnavailable: No node could add (likewise, if `retryable` is false).
            CacheError: As `set`.
        """
        raw = checked_key(key)
        ttl_ms = checked_ttl(ttl_s)
        group = self._group(INCR, namespace, timeout_s, number=checked_delta(delta))
        record = await self._call(group, raw, ttl_ms)
        number: int = self._decode(record)
        return number

    async def decr(
        self,
        key: Key,
        delta: int = 1,
        *,
        ttl_s: float | None = None,
        timeout_s: float | None = None,
        namespace: str | None = None,
    ) -> int:
        """Take from a counter and return its new value: `incr` with the sign turned."""
        return await self.incr(key, -checked_delta(delta), ttl_s=ttl_s, timeout_s=timeout_s, namespace=namespace)

    async def set_many(
        self,
        values: Mapping[K, Any],
        *,
        ttl_s: float | None = None,
        tags: Iterable[str] | None = None,
        depends_on: DependsOn | None = None,
        timeout_s: float | None = None,
        namespace: str | None = None,
    ) -> dict[K, int]:
        """Store values and return the versions of the writes that were done.

        Raises:
            ManyFailed: Some were not done; it holds the versions of those that were (not under ``on_error="miss"``).
            CacheError: As `set`; wrong arguments are found before anything is sent.
        """
        ttl_ms = checked_ttl(ttl_s)
        originals, raws, encoded = many_values(self, values, tags)
        results, errors = await self._started().many(
            self._group(SET, namespace, timeout_s, depends_on=depends_on), raws, encoded, ttl_ms
        )
        return self._stored_many(originals, results, errors)

    async def delete(
        self, key: Key, *, ack: Ack = "all", timeout_s: float | None = None, namespace: str | None = None
    ) -> bool:
        """Remove a key's value. Return True if there was one.

        Raises:
            CacheError: As `set`.
        """
        raw = checked_key(key)
        try:
            return bool(await self._call(self._group(DELETE, namespace, timeout_s, ack=ack), raw))
        except CacheError as error:
            return self._missed(error, instead=False)

    async def invalidate(
        self,
        keys: Key | Iterable[Key] | None = None,
        *,
        prefix: Key | None = None,
        pattern: Key | None = None,
        tags: Iterable[str] | None = None,
        namespace: str | None = None,
        mode: Mode = "remove",
        ack: Ack = "all",
        timeout_s: float | None = None,
    ) -> int:
        r"""Declare values untrue: they go from every node's memory, from L2 and from all near caches.

        A value that is being loaded meanwhile is given to those who wait for it and not stored. With ``ack="all"`` no
        read that starts after this has returned finds what it covers. An error does not say that nothing was done:
        call again.

        Args:
            keys: One key or several.
            prefix: All keys that begin so.
            pattern: All keys that match: ``*`` any run of characters, ``?`` one, ``[abc]`` ``[a-z]`` ``[!a]`` one of a
                set, ``\`` the next character as it is.
            tags: All that was stored with any of these tags.
            namespace: Where; given alone, all of it. None for the client's.
            mode: "remove", or "expire": where the namespace has a ``stale_s`` values may be served for so long, marked
                stale (`lookup`), while one caller loads them anew; to writes they are gone. Elsewhere they are removed.
            ack: "all", or "owner" to wait for nobody who has a copy: near caches may serve theirs for up to two
                seconds.
            timeout_s: Longest duration of this call.

        Returns:
            How many of `keys` had a value. What the other arguments cover is not counted.

        Raises:
            InvalidArgument: Nothing was named, or something that cannot be used.
            ManyFailed: Some of several keys could not be invalidated.
            CacheError: As `set`. Errors are raised under ``on_error="miss"`` too: untrue values may be left.
        """
        raws = checked_keys(keys)
        texts, kinds = checked_selection(raws, prefix, pattern, tags, namespace, whole=keys is None)
        engine, found, number = self._started(), 0, checked_mode(mode)
        if raws:
            group = self._group(INVALIDATE, namespace, timeout_s, number=number, ack=ack)
            if len(raws) == 1:
                found = int(bool(await engine.call(group, raws[0])))
            else:
                found = self._invalidated(raws, *(await engine.many(group, raws)))
        if texts:
            await engine.bar(self._group(BARRIER, namespace, timeout_s, number=number, ack=ack), texts, kinds)
        return found

    async def publish(
        self,
        name: str,
        fields: Mapping[str, Any] | None = None,
        *,
        event_id: str | None = None,
        timeout_s: float | None = None,
    ) -> Published:
        """Tell the cluster that something has happened: what the nodes' rules for it say becomes untrue.

        When this has returned no read that starts afterwards finds what it covers, as after `invalidate`. Call it after
        the change is committed. An error does not say that nothing was done: call again.

        Args:
            name: Of the event, as the nodes' configuration has it: ``[[event]]``.
            fields: Texts, numbers and booleans, also within mappings. One that a rule needs and that is missing, or
                None, stands for anything, where the rule allows that.
            event_id: Unique to this event: a node that has done it lately does not do it again. None for a new one.
            timeout_s: Longest duration of this call.

        Raises:
            InvalidArgument: The event cannot be told, or would make too much untrue.
            NodeError: No rule names the event, and the nodes refuse such (reason "unknown_event").
            CacheError: As `invalidate`. Errors are raised under ``on_error="miss"`` too.

        Example:
            >>> await cache.publish("user.deleted", {"userId": 7})
        """
        request = encoded_fields(name, fields, event_id)
        return await publish(
            self._started(), request, self._timeout_s if timeout_s is None else checked_timeout(timeout_s)
        )

    def versioned(self, *parts: str | int, namespace: str | None = None) -> Versioned:
        """Return a handle for what is derived from one thing, all of which a single `bump` makes untrue.

        Args:
            parts: What names the thing: ``versioned("user", 7)``.
            namespace: Instead of the client's.

        Raises:
            InvalidArgument: A part is neither a whole number nor a text that is not empty.

        Example:
            >>> user = cache.versioned("user", 7)
            >>> await user.get_or_load("profile", load_profile)
            >>> await user.bump()
        """
        return Versioned(self, parts, None if namespace is None else checked_namespace(namespace))

    def after_commit(self) -> AfterCommit:
        """Collect invalidations while a transaction runs, and do them when the block is left.

        Invalidated before the commit, a value is loaded again from the old state by whoever asks next, and kept. They
        are done however the block is left, since an error does not say that the commit was not done; the end waits as
        `invalidate` does. Of several that fail the first one's error is raised, or noted on the block's own error.

        Example:
            >>> async with cache.after_commit() as later, database.begin() as transaction:
            ...     await transaction.execute(...)
            ...     later.invalidate(f"user:{user_id}", tags=["users"])
        """
        return AfterCommit(self, Pending())

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

    # Loading.

    async def get_or_load(
        self,
        key: Key,
        loader: Loader,
        *,
        default: Any = None,
        ttl_s: float | None = None,
        tags: Iterable[str] | None = None,
        depends_on: DependsOn | None = None,
        timeout_s: float | None = None,
        lease_s: float | None = None,
        soft_timeout_s: float | None = None,
        namespace: str | None = None,
    ) -> Any:
        """Return a key's value; if there is none, load it, once for all who ask in the whole cluster.

        A value that the namespace wants renewed before its end (`stale_s`, `refresh_ahead`, `xfetch_beta`) is returned
        at once, and the loader of one caller in the cluster runs in the background; `stats` counts if it fails.

        One caller runs its loader, the others wait for the value. The load goes on if its caller is cancelled. A
        value whose key was written or removed during the load is returned and not stored. Not promised: that loaders
        exclude each other; after `lease_s`, or across a change of the cluster, another may run.

        Args:
            key: 1 to 1,024 bytes.
            loader: Returns the value, or `Loaded` with what else it knows of it, or `ABSENT` if there is none. Unless
                it is an async function it runs in a thread, so that it may block.
            default: Returned if the loader said `ABSENT`.
            ttl_s: Life of a loaded value in seconds; None for the namespace's default, infinite for no end.
            tags: Names under which a loaded value can be invalidated together with others.
            depends_on: Keys that a loaded value is made from (see `set`). If one changes during the load, the value
                is returned and not stored.
            timeout_s: Longest duration of this call, waiting for another's load included; None for 10 seconds.
            lease_s: After so long without a value another caller may load; None for as long as `timeout_s`.
            soft_timeout_s: Where there is a value past its TTL: how long to wait for the load of the new one before
                the old one is returned, while the load goes on; at most half of `timeout_s`. None for not at all.
            namespace: Instead of the client's.

        Raises:
            LoadFailed: Another caller was to load the value and could not, now or a moment ago.
            CacheTimeout: No value in time.
            CacheUnavailable: No node could answer. Under ``on_error="miss"`` the value is loaded and not stored.
            Exception: What the loader raised, if it was this call's.
            CacheError: As `set`.
        """
        if (entry := self._near_entry(key, namespace)) is not None:
            return self._near_value(entry)
        raw = checked_key(key)
        ttl_ms = checked_ttl(ttl_s)
        group = self._lease_group(namespace, timeout_s, lease_s, depends_on, soft_timeout_s)
        return await self._loading.one(group, raw, loader, default, ttl_ms, tags, soft_timeout_s)

    async def get_or_load_many(
        self,
        keys: Iterable[K],
        batch_loader: BatchLoader[K],
        *,
        ttl_s: float | None = None,
        tags: Iterable[str] | None = None,
        depends_on: DependsOn | None = None,
        timeout_s: float | None = None,
        lease_s: float | None = None,
        soft_timeout_s: float | None = None,
        namespace: str | None = None,
    ) -> dict[K, Any]:
        """Return the values of keys; load those that nobody has and nobody is loading, together.

        Args:
            keys: Each 1 to 1,024 bytes.
            batch_loader: Gets a list of some of the keys, as they were given, and returns a mapping with their
                values, or `Loaded`; a key that it leaves out has none. It may be called again for keys whose loader
                elsewhere was lost.
            ttl_s: As `get_or_load`, as all below.
            tags: The same for all keys.
            depends_on: The same for all keys.
            timeout_s: Longest duration of this call.
            lease_s: After so long without a value another caller may load a key.
            soft_timeout_s: As `get_or_load`: how long to wait for the load of those that have a value past its TTL.
            namespace: Instead of the client's.

        Raises:
            ManyFailed: Some keys failed: another caller's load, or the way to their owner.
            CacheError: As `get_or_load`.
            Exception: What the batch loader raised.
        """
        originals, raws = many_keys(keys, once=True)
        ttl_ms = checked_ttl(ttl_s)
        group = self._lease_group(namespace, timeout_s, lease_s, depends_on, soft_timeout_s)
        values, missing = self._near_many(originals, raws, namespace)
        originals, raws = [originals[at] for at in missing], [raws[at] for at in missing]
        errors = await self._loading.many(group, originals, raws, values, batch_loader, ttl_ms, tags, soft_timeout_s)
        return self._checked_many(values, errors)

    def cached(
        self,
        key: str,
        *,
        ttl_s: float | None = None,
        tags: Iterable[str] | None = None,
        depends_on: DependsOn | None = None,
        timeout_s: float | None = None,
        lease_s: float | None = None,
        soft_timeout_s: float | None = None,
        namespace: str | None = None,
    ) -> Callable[[Callable[P, Any]], Cached[P]]:
        """Return a decorator that keeps a function's results: `get_or_load` with the function as the loader.

        Args:
            key: The key, with the function's parameters by name: ``"user:{user_id}"``. Parameters that it leaves out
                do not distinguish results.
            ttl_s: As `get_or_load`, as all below.
            tags: The same for all results.
            depends_on: Keys, with the function's parameters by name as in `key`: ``["user:{user_id}"]``.
            timeout_s: Longest duration of a call.
            lease_s: After so long without a value another caller may load.
            soft_timeout_s: How long to wait for a load where there is a value past its TTL.
            namespace: Instead of the client's.

        Raises:
            InvalidArgument: The key names something that is not a parameter.

        Example:
            >>> @cache.cached("user:{user_id}", ttl_s=60)
            ... async def load_user(user_id: int) -> dict: ...
            >>> await load_user(7)
            >>> await load_user.forget(7)
        """

        def decorate(function: Callable[P, Any]) -> Cached[P]:
            async def read(raw: str, loader: Loader, parents: DependsOn | None) -> Any:
                return await self.get_or_load(
                    raw,
                    loader,
                    ttl_s=ttl_s,
                    tags=tags,
                    depends_on=parents,
                    timeout_s=timeout_s,
                    lease_s=lease_s,
                    soft_timeout_s=soft_timeout_s,
                    namespace=namespace,
                )

            forget = partial(self.delete, namespace=namespace)
            return Cached(function, key, read=read, forget=forget, depends_on=depends_on)

        return decorate

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

    def watch(self, *, namespace: str | None = None, timeout_s: float | None = None) -> Watcher:
        """Watch what is written, removed and invalidated, by anybody: ``async for event in cache.watch()``.

        It begins with ``async with``, with ``await watcher.ready()``, or with the first event that is asked for;
        whatever is done from then on is told. What is derived from cached values elsewhere can be kept true so.

        Args:
            namespace: None for the client's, "*" for all.
            timeout_s: How long the beginning may take; events are waited for without end.

        Returns:
            Events, in the order of each node: `Invalidated`, and `Reset` where some may have been missed (the consumer
            is slow, a node is lost). End it with ``async with`` or `aclose`.

        Raises:
            InvalidNamespace: The name is not valid, or, at the beginning, the nodes have no such namespace.
            CacheUnavailable: At the beginning: no node could be reached in time.
            ClientClosed: The client was closed. Errors are raised under ``on_error="miss"`` too.

        Example:
            >>> async with cache.watch() as events:
            ...     async for event in events:
            ...         if isinstance(event, Reset):
            ...             derived.clear()
            ...         else:
            ...             forget(event.keys, event.selectors)
        """
        watched = checked_watch(namespace, self._namespace)
        within_s = self._timeout_s if timeout_s is None else checked_timeout(timeout_s)
        return Watcher(lambda: Watching(self._started(), watched), self._check_usable, within_s)

    def warm(
        self,
        keys: Iterable[Key] | None = None,
        *,
        origin: bool = False,
        top: int = 0,
        rate_per_s: float | None = None,
        namespace: str | None = None,
    ) -> Warmer:
        """Have the nodes load keys from their origin before anybody asks for them: ``async for step in cache.warm(…)``.

        Keys whose values are there are left as they are. Loads come after all that readers wait for, at most so many a
        second, and their lives end spread out. A node that dies does not end the job.

        Args:
            keys: Which; or
            origin: those that the origin lists; or
            top: so many of those that were read most.
            rate_per_s: Keys a second; None for 500.
            namespace: None for the client's; it must have an origin.

        Returns:
            Steps, each a `WarmStep`, about five a second, the last one with the end. Leaving ``async with`` before that
            cancels the job; so does `aclose`.

        Raises:
            InvalidArgument: Not one source is named, or a number is out of its range.
            InvalidKey: A key is empty or too long.
            NodeError: While it runs: the namespace has no origin, or another job of it is running.
            CacheUnavailable: While it runs: no node goes on with it. Errors are raised under ``on_error="miss"`` too.

        Example:
            >>> async for step in cache.warm(["user:7", "user:8"], rate_per_s=100):
            ...     print(step.done, "of", step.total)
        """
        name = self._namespace if namespace is None else checked_namespace(namespace)
        raws = None if keys is None else checked_keys(keys)
        ask = checked_warm(name, raws, origin=origin, top=top, rate_per_s=rate_per_s)
        return Warmer(self._started, ask, self._timeout_s)

    def stats(self) -> dict[str, int]:
        """Return this client's counters: hits, misses, sets, retries, errors, nodes connected, frames sent."""
        router = self._engine.router if self._engine is not None else None
        return (
            self._stats.as_dict()
            | self._near_stats()
            | {
                "nodes_connected": router.ready_count if router else 0,
                "frames_sent": router.frames_sent if router else 0,
            }
        )

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

    def _equip(self) -> None:
        self._loading = Loading(self._landings, self._started)

    async def _set_if(
        self, expected: int, key: Key, value: Any, ttl_s: float | None, timeout_s: float | None, namespace: str | None
    ) -> int:
        raw = checked_key(key)
        ttl_ms = checked_ttl(ttl_s)
        encoded = self.encoded(value)
        group = self._group(SET, namespace, timeout_s, number=expected)
        try:
            version: int = await self._started().persist(group, raw, encoded, ttl_ms)
        except CacheError as error:
            return 0 if self._condition_failed(error) else self._missed(error, 0)
        self._stats.sets += 1
        return version

    async def _call(self, group: Group, raw: bytes, ttl_ms: int = 0) -> Any:
        """Send one key; `get` and `set` do the same without the calls in between."""
        engine = self._engine
        if engine is None or engine.loop is not _running_loop():
            engine = self._started()
        return await engine.call(group, raw, ttl_ms)

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
                self._addresses,
                client_name=self._client_name,
                channels=self._channels,
                sdk_version=sdk_version(),
                stats=self._stats,
                near=self._near,
            )
        elif self._engine.loop is not _running_loop():
            text = "The client belongs to the event loop of its first call; create one client per event loop."
            raise CacheError(text, reason="wrong_loop")
        return self._engine

    def after_fork(self) -> None:
        """Forget what does not survive a fork; called in the child."""
        super().after_fork()
        self._engine = None
