"""The client for threads: the calls of the asyncio client, made in a loop of its own (`_loop_thread`), and waited for.

One client serves any number of threads. It does not survive a fork: use it in the process that made the first call,
else `ForkedClient`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, ParamSpec, Self, TypeVar

from cachenode_api.version import ABSENT_VERSION, ANY_VERSION
from cachenode_api.view import View
from cachenode_client._after_commit import BlockingAfterCommit, Pending
from cachenode_client._batches import BARRIER, DELETE, GET, INCR, INVALIDATE, SET, SLIDE, TOUCH
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
from cachenode_client._core import ClientCore, K, many_keys, many_values
from cachenode_client._decorator import Cached
from cachenode_client._engine import Engine
from cachenode_client._events import Published, encoded_fields, publish
from cachenode_client._loading_blocking import BlockingLoading
from cachenode_client._loop_thread import LoopThread
from cachenode_client._near import ENCODED, boot_clock
from cachenode_client._results import Lookup
from cachenode_client._versioned import BlockingVersioned
from cachenode_client._warm import BlockingWarmer, checked_warm
from cachenode_client._watch_blocking import BlockingWatcher
from cachenode_client.errors import CacheError, CacheUnavailable

__all__ = ["CacheClient"]

T = TypeVar("T")
P = ParamSpec("P")


class CacheClient(ClientCore):
    """A client of a cachenode cluster, for threads.

    Same arguments, methods and errors as `cachenode_client.CacheClient`.

    Example:
        >>> with CacheClient("127.0.0.1:7401") as cache:
        ...     cache.set("user:7", {"name": "Ada"}, ttl_s=60)
        ...     cache.get("user:7")
        {'name': 'Ada'}
    """

    # Reads.

    def get(
        self, key: Key, default: Any = None, *, timeout_s: float | None = None, namespace: str | None = None
    ) -> Any:
        """Return a key's value, or `default` if there is none (see the asyncio client)."""
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
        try:
            return self._found(self._thread.call(group, raw), default)
        except CacheError as error:
            return self._missed(error, default)

    def get_and_touch(
        self,
        key: Key,
        default: Any = None,
        *,
        ttl_s: float | None = None,
        timeout_s: float | None = None,
        namespace: str | None = None,
    ) -> Any:
        """Return a key's value, or `default`, and give the value a life anew (see the asyncio client)."""
        raw = checked_key(key)
        group = self._group(GET, namespace, timeout_s, number=checked_ttl(ttl_s) or SLIDE)
        try:
            return self._found(self._thread.call(group, raw), default)
        except CacheError as error:
            return self._missed(error, default)

    def lookup(self, key: Key, *, timeout_s: float | None = None, namespace: str | None = None) -> Lookup:
        """Return a key's value with its version, remaining life, layer and flags (see the asyncio client)."""
        if (entry := self._near_entry(key, namespace)) is not None:
            return self._near_lookup(entry)
        raw = checked_key(key)
        try:
            return self._looked_up(self._thread.call(self._group(GET, namespace, timeout_s, detailed=True), raw))
        except CacheError as error:
            return self._missed(error, Lookup(found=False))

    def contains(self, key: Key, *, timeout_s: float | None = None, namespace: str | None = None) -> bool:
        """Return True if the key has a value (see the asyncio client)."""
        if self._near_entry(key, namespace) is not None:
            return True
        raw = checked_key(key)
        try:
            return bool(self._thread.call(self._group(GET, namespace, timeout_s), raw))
        except CacheError as error:
            return self._missed(error, instead=False)

    def ttl(self, key: Key, *, timeout_s: float | None = None, namespace: str | None = None) -> float | None:
        """Return the remaining life of a key's value in seconds (see the asyncio client)."""
        if (entry := self._near_entry(key, namespace)) is not None:
            return self._near_time_left(entry)
        raw = checked_key(key)
        try:
            return self._time_left(self._thread.call(self._group(GET, namespace, timeout_s, detailed=True), raw))
        except CacheError as error:
            return self._missed(error, None)

    def get_many(
        self, keys: Iterable[K], *, timeout_s: float | None = None, namespace: str | None = None
    ) -> dict[K, Any]:
        """Return the values of the keys that have one (see the asyncio client)."""
        originals, raws = many_keys(keys)
        near, missing = self._near_many(originals, raws, namespace)
        if near:
            if not missing:
                return near
            originals, raws = [originals[at] for at in missing], [raws[at] for at in missing]
        group = self._group(GET, namespace, timeout_s)
        results, errors = self._run(self._started().many(group, raws), group[2])
        return self._found_many(originals, results, errors, near)

    # Writes.

    def set(
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
        """Store a value and return the version of the write, 0 if `if_version` did not fit (see the asyncio client)."""
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
        try:
            version: int = self._thread.call(group, raw, encoded, ttl_ms)
        except CacheError as error:
            return 0 if self._condition_failed(error) else self._missed(error, 0)
        self._stats.sets += 1
        return version

    def add(
        self,
        key: Key,
        value: Any,
        *,
        ttl_s: float | None = None,
        timeout_s: float | None = None,
        namespace: str | None = None,
    ) -> int:
        """Store a value if there is none. Return the version, 0 if there was one (see the asyncio client)."""
        return self._set_if(ABSENT_VERSION, key, value, ttl_s, timeout_s, namespace)

    def replace(
        self,
        key: Key,
        value: Any,
        *,
        ttl_s: float | None = None,
        timeout_s: float | None = None,
        namespace: str | None = None,
    ) -> int:
        """Store a value if there is one. Return the version, 0 if there was none (see the asyncio client)."""
        return self._set_if(ANY_VERSION, key, value, ttl_s, timeout_s, namespace)

    def incr(
        self,
        key: Key,
        delta: int = 1,
        *,
        ttl_s: float | None = None,
        timeout_s: float | None = None,
        namespace: str | None = None,
    ) -> int:
        """Add to a counter and return its new value (see the asyncio client)."""
        raw = checked_key(key)
        ttl_ms = checked_ttl(ttl_s)
        group = self._group(INCR, namespace, timeout_s, number=checked_delta(delta))
        record = self._thread.call(group, raw, None, ttl_ms)
        number: int = self._decode(record)
        return number

    def decr(
        self,
        key: Key,
        delta: int = 1,
        *,
        ttl_s: float | None = None,
        timeout_s: float | None = None,
        namespace: str | None = None,
    ) -> int:
        """Take from a counter and return its new value: `incr` with the sign turned (see the asyncio client)."""
        return self.incr(key, -checked_delta(delta), ttl_s=ttl_s, timeout_s=timeout_s, namespace=namespace)

    def set_many(
        self,
        values: Mapping[K, Any],
        *,
        ttl_s: float | None = None,
        tags: Iterable[str] | None = None,
        depends_on: DependsOn | None = None,
        timeout_s: float | None = None,
        namespace: str | None = None,
    ) -> dict[K, int]:
        """Store values and return the versions of the writes that were done (see the asyncio client)."""
        ttl_ms = checked_ttl(ttl_s)
        originals, raws, encoded = many_values(self, values, tags)
        group = self._group(SET, namespace, timeout_s, depends_on=depends_on)
        results, errors = self._run(self._started().many(group, raws, encoded, ttl_ms), group[2])
        return self._stored_many(originals, results, errors)

    def delete(
        self, key: Key, *, ack: Ack = "all", timeout_s: float | None = None, namespace: str | None = None
    ) -> bool:
        """Remove a key's value. Return True if there was one (see the asyncio client)."""
        raw = checked_key(key)
        try:
            return bool(self._thread.call(self._group(DELETE, namespace, timeout_s, ack=ack), raw))
        except CacheError as error:
            return self._missed(error, instead=False)

    def invalidate(
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
        """Declare values untrue, by key, prefix, pattern, tag or namespace (see the asyncio client)."""
        raws = checked_keys(keys)
        texts, kinds = checked_selection(raws, prefix, pattern, tags, namespace, whole=keys is None)
        engine, found, number = self._started(), 0, checked_mode(mode)
        if raws:
            group = self._group(INVALIDATE, namespace, timeout_s, number=number, ack=ack)
            if len(raws) == 1:
                found = int(bool(self._thread.call(group, raws[0])))
            else:
                found = self._invalidated(raws, *self._run(engine.many(group, raws), group[2]))
        if texts:
            group = self._group(BARRIER, namespace, timeout_s, number=number, ack=ack)
            self._run(engine.bar(group, texts, kinds), group[2])
        return found

    def publish(
        self,
        name: str,
        fields: Mapping[str, Any] | None = None,
        *,
        event_id: str | None = None,
        timeout_s: float | None = None,
    ) -> Published:
        """Tell the cluster that something has happened (see the asyncio client)."""
        request = encoded_fields(name, fields, event_id)
        within_s = self._timeout_s if timeout_s is None else checked_timeout(timeout_s)
        return self._run(publish(self._started(), request, within_s), within_s)

    def versioned(self, *parts: str | int, namespace: str | None = None) -> BlockingVersioned:
        """Return a handle for what is derived from one thing (see the asyncio client)."""
        return BlockingVersioned(self, parts, None if namespace is None else checked_namespace(namespace))

    def after_commit(self) -> BlockingAfterCommit:
        """Collect invalidations, and do them when the block is left (see the asyncio client)."""
        return BlockingAfterCommit(self, Pending())

    def touch(
        self,
        key: Key,
        *,
        ttl_s: float | None = None,
        timeout_s: float | None = None,
        namespace: str | None = None,
    ) -> bool:
        """Give a key's value a new life. Return True if there is a value (see the asyncio client)."""
        raw = checked_key(key)
        ttl_ms = checked_ttl(ttl_s)
        try:
            return bool(self._thread.call(self._group(TOUCH, namespace, timeout_s), raw, None, ttl_ms))
        except CacheError as error:
            return self._missed(error, instead=False)

    # Loading.

    def get_or_load(
        self,
        key: Key,
        loader: Callable[[], Any],
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

        As the asyncio client's, with two differences: the loader runs in the calling thread, and nothing ends it when
        `timeout_s` is over. Only what is renewed before its end is loaded in a thread of its own.
        """
        if (entry := self._near_entry(key, namespace)) is not None:
            return self._near_value(entry)
        raw = checked_key(key)
        ttl_ms = checked_ttl(ttl_s)
        group = self._lease_group(namespace, timeout_s, lease_s, depends_on, soft_timeout_s)
        return self._loading.one(group, raw, loader, default, ttl_ms, tags, soft_timeout_s)

    def get_or_load_many(
        self,
        keys: Iterable[K],
        batch_loader: Callable[[list[K]], Mapping[K, Any]],
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

        As the asyncio client's; the loader runs in the calling thread.
        """
        originals, raws = many_keys(keys, once=True)
        ttl_ms = checked_ttl(ttl_s)
        group = self._lease_group(namespace, timeout_s, lease_s, depends_on, soft_timeout_s)
        values, missing = self._near_many(originals, raws, namespace)
        originals, raws = [originals[at] for at in missing], [raws[at] for at in missing]
        errors = self._loading.many(group, originals, raws, values, batch_loader, ttl_ms, tags, soft_timeout_s)
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
        """Return a decorator that keeps a function's results (see the asyncio client)."""

        def decorate(function: Callable[P, Any]) -> Cached[P]:
            def read(raw: str, loader: Callable[[], Any], parents: DependsOn | None) -> Any:
                return self.get_or_load(
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

    def view(self) -> View:
        """Return the newest view of the cluster that this client has seen (see the asyncio client)."""
        router = self._started().router
        self._run(router.wait_route(b"view", self._timeout_s), self._timeout_s)
        if router.view is None:
            raise CacheUnavailable("The node that answered has no view yet; call again.")
        return router.view

    def watch(self, *, namespace: str | None = None, timeout_s: float | None = None) -> BlockingWatcher:
        """Watch what is written, removed and invalidated, by anybody (see the asyncio client).

        ``with cache.watch() as events: for event in events`` — the events are those of the asyncio client.
        """
        watched = checked_watch(namespace, self._namespace)
        within_s = self._timeout_s if timeout_s is None else checked_timeout(timeout_s)
        return BlockingWatcher(self._started, watched, within_s)

    def warm(
        self,
        keys: Iterable[Key] | None = None,
        *,
        origin: bool = False,
        top: int = 0,
        rate_per_s: float | None = None,
        namespace: str | None = None,
    ) -> BlockingWarmer:
        """Have the nodes load keys before anybody asks for them (see the asyncio client).

        ``with cache.warm(origin=True) as steps: for step in steps`` — the steps are those of the asyncio client.
        """
        name = self._namespace if namespace is None else checked_namespace(namespace)
        raws = None if keys is None else checked_keys(keys)
        ask = checked_warm(name, raws, origin=origin, top=top, rate_per_s=rate_per_s)
        return BlockingWarmer(self._started, ask, self._timeout_s)

    def stats(self) -> dict[str, int]:
        """Return this client's counters (see the asyncio client)."""
        engine = self._thread.engine
        router = engine.router if engine is not None else None
        return (
            self._stats.as_dict()
            | self._near_stats()
            | {
                "nodes_connected": router.ready_count if router else 0,
                "frames_sent": router.frames_sent if router else 0,
            }
        )

    def close(self) -> None:
        """End all sessions and the loop thread. Later calls fail with `ClientClosed`. Safe to call twice."""
        self._closed = True
        self._thread.close()

    def __enter__(self) -> Self:
        """Return the client itself; it connects with the first call."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the client."""
        self.close()

    def __repr__(self) -> str:
        engine = self._thread.engine
        state = "closed" if self._closed else "new" if engine is None else repr(engine.router)
        return f"<blocking CacheClient namespace={self._namespace!r} {state}>"

    # Inside.

    def _set_if(
        self, expected: int, key: Key, value: Any, ttl_s: float | None, timeout_s: float | None, namespace: str | None
    ) -> int:
        raw = checked_key(key)
        ttl_ms = checked_ttl(ttl_s)
        encoded = self.encoded(value)
        try:
            version: int = self._thread.call(
                self._group(SET, namespace, timeout_s, number=expected), raw, encoded, ttl_ms
            )
        except CacheError as error:
            return 0 if self._condition_failed(error) else self._missed(error, 0)
        self._stats.sets += 1
        return version

    def _equip(self) -> None:
        self._thread = LoopThread(self._check_usable, self._make_engine)
        self._run = self._thread.run
        self._started = self._thread.started
        self._loading = BlockingLoading(self._landings, self._thread)

    def _make_engine(self, replied: Callable[[], None]) -> Engine:
        return Engine(
            self._addresses,
            client_name=self._client_name,
            channels=self._channels,
            sdk_version=sdk_version(),
            stats=self._stats,
            on_reply=replied,
            near=self._near,
        )

    def after_fork(self) -> None:
        """Forget what does not survive a fork; called in the child."""
        super().after_fork()
        self._thread.after_fork()
