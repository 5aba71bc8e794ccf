"""The client for threads: the asyncio machinery on a private loop thread, and callers that wait on a lock.

A call puts itself in the inbox and wakes the loop, unless somebody has done so or a frame is under way: then the loop
looks there when the answer comes, and sends all that has gathered as one frame. So the threads of a program share
frames just as the tasks of a loop do, and a waiting thread costs nothing but its lock. No call is forgotten: it is
put in the inbox before the frames under way are counted, and the loop counts a frame as answered before it looks in
the inbox.

One client serves any number of threads. It does not survive a fork: use it in the process that made the first call,
else `ForkedClient`.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Mapping
from concurrent.futures import Future
from functools import partial
from typing import Any, ParamSpec, Self, TypeVar

from cachenode_api.tracing import root, switch
from cachenode_api.version import ABSENT_VERSION, ANY_VERSION
from cachenode_api.view import View
from cachenode_client._after_commit import BlockingAfterCommit, Pending
from cachenode_client._batches import ABANDON, BARRIER, DELETE, GET, INCR, INVALIDATE, SET, SLIDE, TOUCH, Due, Group
from cachenode_client._checks import (
    Ack,
    DependsOn,
    Key,
    Mode,
    check_any,
    checked_delta,
    checked_key,
    checked_keys,
    checked_mode,
    checked_namespace,
    checked_timeout,
    checked_ttl,
    checked_version,
    checked_watch,
    sdk_version,
)
from cachenode_client._core import ClientCore, K, Lead, any_stale, is_stale, many_keys, many_values, traits_of
from cachenode_client._decorator import Cached
from cachenode_client._engine import Encoded, Engine
from cachenode_client._events import Published, encoded_fields, publish
from cachenode_client._loads import (
    ABSENT,
    LATE_LOAD,
    Asks,
    FlightEnd,
    alone_values,
    checked_batch,
    renew_values,
    value_of,
)
from cachenode_client._near import ENCODED, boot_clock
from cachenode_client._results import Lookup
from cachenode_client._versioned import BlockingVersioned
from cachenode_client._warm import BlockingWarmer, checked_warm
from cachenode_client._watch_blocking import BlockingWatcher
from cachenode_client.errors import CacheError, CacheTimeout, CacheUnavailable, ClientClosed

__all__ = ["CacheClient"]

T = TypeVar("T")
P = ParamSpec("P")

_FRAMES_AT_ONCE = 1
_GRACE_S = 0.5
_START_S = 5.0


class _LockWaiter:
    """A future for one waiting thread."""

    __slots__ = ("_done", "_error", "_lock", "_result")

    def __init__(self) -> None:
        self._done = False
        self._error: CacheError | None = None
        self._result: Any = None
        self._lock = threading.Lock()
        self._lock.acquire()

    def done(self) -> bool:
        return self._done

    def set_result(self, result: Any, /) -> None:
        self._done = True
        self._result = result
        self._lock.release()

    def set_exception(self, exception: CacheError, /) -> None:
        self._done = True
        self._error = exception
        self._lock.release()

    def wait(self, timeout_s: float) -> Any:
        if not self._lock.acquire(timeout=timeout_s):
            self._done = True
            raise CacheTimeout
        if self._error is not None:
            raise self._error
        return self._result


_Call = tuple[_LockWaiter, Group, bytes, Encoded | None, int]


class CacheClient(ClientCore):
    """A client of a cachenode cluster, for threads.

    Same arguments, methods and errors as `cachenode_client.CacheClient`.

    Example:
        >>> with CacheClient("127.0.0.1:7401") as cache:
        ...     cache.set("user:7", {"name": "Ada"}, ttl_s=60)
        ...     cache.get("user:7")
        {'name': 'Ada'}
    """

    _engine: Engine | None = None
    _inbox: deque[_Call]
    _roused = False
    _starting = threading.Lock()

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
            return self._found(self._call(group, raw), default)
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
            return self._found(self._call(group, raw), default)
        except CacheError as error:
            return self._missed(error, default)

    def lookup(self, key: Key, *, timeout_s: float | None = None, namespace: str | None = None) -> Lookup:
        """Return a key's value with its version, remaining life, layer and flags (see the asyncio client)."""
        if (entry := self._near_entry(key, namespace)) is not None:
            return self._near_lookup(entry)
        raw = checked_key(key)
        try:
            return self._looked_up(self._call(self._group(GET, namespace, timeout_s, detailed=True), raw))
        except CacheError as error:
            return self._missed(error, Lookup(found=False))

    def contains(self, key: Key, *, timeout_s: float | None = None, namespace: str | None = None) -> bool:
        """Return True if the key has a value (see the asyncio client)."""
        if self._near_entry(key, namespace) is not None:
            return True
        raw = checked_key(key)
        try:
            return bool(self._call(self._group(GET, namespace, timeout_s), raw))
        except CacheError as error:
            return self._missed(error, instead=False)

    def ttl(self, key: Key, *, timeout_s: float | None = None, namespace: str | None = None) -> float | None:
        """Return the remaining life of a key's value in seconds (see the asyncio client)."""
        if (entry := self._near_entry(key, namespace)) is not None:
            return self._near_time_left(entry)
        raw = checked_key(key)
        try:
            return self._time_left(self._call(self._group(GET, namespace, timeout_s, detailed=True), raw))
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
            version: int = self._call(group, raw, encoded, ttl_ms)
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
        record = self._call(group, raw, None, ttl_ms)
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
            return bool(self._call(self._group(DELETE, namespace, timeout_s, ack=ack), raw))
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
        texts, kinds = self._barrier(prefix, pattern, tags, namespace, whole=keys is None)
        check_any(raws, texts)
        engine, found, number = self._started(), 0, checked_mode(mode)
        if raws:
            group = self._group(INVALIDATE, namespace, timeout_s, number=number, ack=ack)
            if len(raws) == 1:
                found = int(bool(self._call(group, raws[0])))
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
        return BlockingAfterCommit(self, Pending(self._check_selection))

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
            return bool(self._call(self._group(TOUCH, namespace, timeout_s), raw, None, ttl_ms))
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
        if switch.tracer is not None:
            with root("cachenode.get_or_load", traits_of(group)):
                return self._get_or_load(group, raw, loader, default, ttl_ms, tags, soft_timeout_s)
        return self._get_or_load(group, raw, loader, default, ttl_ms, tags, soft_timeout_s)

    def _get_or_load(
        self,
        group: Group,
        raw: bytes,
        loader: Callable[[], Any],
        default: Any,
        ttl_ms: int,
        tags: Iterable[str] | None,
        soft_timeout_s: float | None,
    ) -> Any:
        try:
            engine = self._started()
            if engine.router.route(raw) is None:
                group = self._run(engine.reach(group, raw, self._timeout_s), self._timeout_s)
            outcome = self._call(group, raw)
        except CacheError as error:
            self._must_load_alone(error)
            value = loader()
        else:
            if isinstance(outcome, Due):
                renewal = self._renew(group, [(raw, raw, outcome.token)], lambda _: {raw: loader()}, ttl_ms, tags)
                if soft_timeout_s is not None and renewal is not None and is_stale(outcome.record):
                    with contextlib.suppress(Exception):  # it failed, or takes longer: there is a value
                        loaded = renewal.result(min(soft_timeout_s, group[2] / 2)).get(raw, ABSENT)
                        return default if loaded is ABSENT else loaded
                return self._found(outcome.record, default)
            if not isinstance(outcome, int):
                return self._found(outcome, default)
            leads: list[Lead[bytes]] = [(raw, raw, outcome)]
            value = self._load_many(group, leads, lambda _: {raw: loader()}, ttl_ms, tags).get(raw, ABSENT)
        return default if value is ABSENT else value_of(value)

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
        originals, raws = many_keys(dict.fromkeys(keys))
        ttl_ms = checked_ttl(ttl_s)
        group = self._lease_group(namespace, timeout_s, lease_s, depends_on, soft_timeout_s)
        engine = self._started()
        end = engine.loop.time() + group[2]
        values, missing = self._near_many(originals, raws, namespace)
        originals, raws = [originals[at] for at in missing], [raws[at] for at in missing]
        asks = self._run(_ask(engine, group, raws, self._timeout_s), group[2])
        errors: dict[int, CacheError] = {}
        renewals: list[tuple[Future[dict[K, Any]], list[Lead[K]], float]] = []
        try:
            while asks.left:
                outcomes = self._run(asks.some(), max(0.0, end - engine.loop.time()), grace_s=0.0)
                leads, due = self._sort_out(outcomes, originals, raws, values, errors)
                if due:
                    renewal = self._renew(group, due, batch_loader, ttl_ms, tags)
                    if soft_timeout_s is not None and renewal is not None and any_stale(outcomes.values()):
                        renewals.append((renewal, due, engine.loop.time() + min(soft_timeout_s, group[2] / 2)))
                if leads:
                    values |= self._load_many(group, leads, batch_loader, ttl_ms, tags)
        except CacheTimeout:
            raise CacheTimeout(LATE_LOAD) from None
        finally:
            engine.loop.call_soon_threadsafe(asks.close)
        for renewal, due, until in renewals:
            with contextlib.suppress(Exception):  # it failed, or takes longer: there are values
                renew_values(values, due, renewal.result(max(0.0, until - engine.loop.time())))
        alone = [originals[at] for at in self._to_load_alone(errors)]
        if alone:
            values |= alone_values(batch_loader(alone))
        return self._checked_many(values, {originals[at]: error for at, error in errors.items()})

    def _renew(
        self,
        group: Group,
        leads: list[Lead[K]],
        batch_loader: Callable[[list[K]], Mapping[K, Any]],
        ttl_ms: int,
        tags: Iterable[str] | None,
    ) -> Future[dict[K, Any]] | None:
        """Load values anew in a thread of its own, of which there are few: what is too much is left to others.

        Returns:
            What will be loaded; None if that is left to others.
        """
        renewing = self._started().renewing
        if not renewing.acquire(blocking=False):
            self._end(self._flight_end(ABANDON, group, leads))
            return None
        renewal: Future[dict[K, Any]] = Future()

        def renew() -> None:
            try:
                renewal.set_result(self._load_many(group, leads, batch_loader, ttl_ms, tags))
            except Exception as error:  # noqa: BLE001 - counted, and told to the owner; the value is still there
                renewal.set_exception(error)
            finally:
                renewing.release()

        threading.Thread(target=renew, name="cachenode-renewal", daemon=True).start()
        return renewal

    def _load_many(
        self,
        group: Group,
        leads: list[Lead[K]],
        batch_loader: Callable[[list[K]], Mapping[K, Any]],
        ttl_ms: int,
        tags: Iterable[str] | None,
    ) -> dict[K, Any]:
        """Load the keys that this client leads for, and hand the values over to those who wait at their owners."""
        self._stats.loads += 1
        try:
            loaded = checked_batch(batch_loader([key for key, _, _ in leads]))
            ends = self._landings(group, leads, loaded, ttl_ms, tags)
        except BaseException as error:
            self._end(self._given_up(group, leads, error))
            raise
        for end in ends:
            self._end(end)
        return {key: value_of(loaded[key]) for key, _, _ in leads if loaded.get(key, ABSENT) is not ABSENT}

    def _end(self, end: FlightEnd) -> None:
        try:
            failures = self._run(self._started().end_flights(end), end.group[2])
        except CacheError as error:
            failures = {0: error}
        self._ended(failures)

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
        router = self._engine.router if self._engine is not None else None
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
        with self._starting:
            self._closed = True
            engine, self._engine = self._engine, None
        if engine is not None:
            asyncio.run_coroutine_threadsafe(engine.close(), engine.loop).result(_START_S)
            engine.loop.call_soon_threadsafe(engine.loop.stop)
            self._thread.join(_START_S)

    def __enter__(self) -> Self:
        """Return the client itself; it connects with the first call."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the client."""
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._closed else "new" if self._engine is None else repr(self._engine.router)
        return f"<blocking CacheClient namespace={self._namespace!r} {state}>"

    # Inside.

    def _set_if(
        self, expected: int, key: Key, value: Any, ttl_s: float | None, timeout_s: float | None, namespace: str | None
    ) -> int:
        raw = checked_key(key)
        ttl_ms = checked_ttl(ttl_s)
        encoded = self.encoded(value)
        try:
            version: int = self._call(self._group(SET, namespace, timeout_s, number=expected), raw, encoded, ttl_ms)
        except CacheError as error:
            return 0 if self._condition_failed(error) else self._missed(error, 0)
        self._stats.sets += 1
        return version

    def _call(self, group: Group, raw: bytes, encoded: Encoded | None = None, ttl_ms: int = 0) -> Any:
        """Send one key once, and again if it fails and that is safe."""
        engine = self._engine
        if engine is None:
            engine = self._started()
        waiter, began = _LockWaiter(), engine.loop.time()
        self._inbox.append((waiter, group, raw, encoded, ttl_ms))
        if not self._roused:
            session = engine.router.route(raw)
            if session is None or session.in_flight < _FRAMES_AT_ONCE:
                self._roused = True
                engine.loop.call_soon_threadsafe(self._drain, engine)
        try:
            return waiter.wait(group[2] + _GRACE_S)
        except CacheError as error:
            return self._run(engine.again(error, began, group, raw, encoded, ttl_ms), group[2])

    def _replied(self) -> None:
        if self._inbox and self._engine is not None:
            self._drain(self._engine)

    def _drain(self, engine: Engine) -> None:
        """Send what has gathered in the inbox. Runs in the loop."""
        self._roused = False  # first: whoever puts something in from now on wakes the loop again
        inbox = self._inbox
        while inbox:
            waiter, group, raw, encoded, ttl_ms = inbox.popleft()
            try:
                sent = engine.try_submit(group, raw, waiter, encoded, ttl_ms)
            except CacheError as error:
                waiter.set_exception(error)
                continue
            if not sent:
                task = engine.loop.create_task(engine.persist(group, raw, encoded, ttl_ms))
                task.add_done_callback(partial(_hand_over, waiter))

    def _run(self, coroutine: Coroutine[Any, Any, T], timeout_s: float, *, grace_s: float = _GRACE_S) -> T:
        """Run a coroutine in the loop and wait for it."""
        engine = self._started()
        try:
            return asyncio.run_coroutine_threadsafe(coroutine, engine.loop).result(timeout_s + grace_s)
        except TimeoutError as error:
            raise error if isinstance(error, CacheError) else CacheTimeout() from None

    def _started(self) -> Engine:
        """Return the engine, starting its thread with the first call."""
        self._check_usable()
        with self._starting:
            self._check_usable()
            if self._engine is None:
                self._inbox = deque()
                self._roused = False
                self._engine = self._start()
            return self._engine

    def _start(self) -> Engine:
        loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=_serve, args=(loop,), name="cachenode-client", daemon=True)
        self._thread.start()

        async def make() -> Engine:
            return Engine(
                self._addresses,
                client_name=self._client_name,
                channels=self._channels,
                sdk_version=sdk_version(),
                stats=self._stats,
                on_reply=self._replied,
                near=self._near,
            )

        return asyncio.run_coroutine_threadsafe(make(), loop).result(_START_S)

    def after_fork(self) -> None:
        """Forget what does not survive a fork; called in the child."""
        super().after_fork()
        self._engine = None
        CacheClient._starting = threading.Lock()  # may have been held by a thread that does not exist here


async def _ask(engine: Engine, group: Group, raws: list[bytes], reach_s: float) -> Asks:
    return Asks(engine, group, raws, reach_s)


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


def _hand_over(waiter: _LockWaiter, done: asyncio.Task[Any]) -> None:
    if waiter.done():
        return
    error = ClientClosed() if done.cancelled() else done.exception()
    if error is None:
        waiter.set_result(done.result())
    else:
        waiter.set_exception(error if isinstance(error, CacheError) else CacheUnavailable(type(error).__name__))
