"""The loads of the client for threads: the loader runs in the thread that asks.

Only what is loaded before a value's end is loaded in a thread of its own. There are few of these: what is too much is
left to others.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from cachenode_client._batches import Due, Group
from cachenode_client._landings import K, Landings, Lead, any_stale, is_stale
from cachenode_client._loads import (
    ABSENT,
    LATE_LOAD,
    Asks,
    FlightEnd,
    alone_values,
    check_loader,
    checked_batch,
    loading,
    renew_values,
    value_of,
)
from cachenode_client.errors import CacheError, CacheTimeout

if TYPE_CHECKING:
    from cachenode_client._engine import Engine
    from cachenode_client._loop_thread import LoopThread

__all__ = ["BlockingLoading"]


class BlockingLoading:
    """Loads what a client's threads ask for and nobody has.

    Args:
        landings: What becomes of the loads.
        thread: Where the client's machinery runs.
    """

    def __init__(self, landings: Landings, thread: LoopThread) -> None:
        self._landings = landings
        self._thread = thread

    def one(
        self,
        group: Group,
        raw: bytes,
        loader: Callable[[], Any],
        default: Any,
        ttl_ms: int,
        tags: Iterable[str] | None,
        soft_timeout_s: float | None,
    ) -> Any:
        """Return a key's value, found or loaded: see `CacheClient.get_or_load`."""
        check_loader(loader, may_await=False)
        thread, landings = self._thread, self._landings
        try:
            engine = thread.started()
            if engine.router.route(raw) is None:
                group = thread.run(engine.reach(group, raw, landings.timeout_s), landings.timeout_s)
            outcome = thread.call(group, raw)
        except CacheError as error:
            landings.must_load_alone(error)
            with loading():
                value = loader()
        else:
            if isinstance(outcome, Due):
                renewal = self._renew(group, [(raw, raw, outcome.token)], lambda _: {raw: loader()}, ttl_ms, tags)
                if soft_timeout_s is not None and renewal is not None and is_stale(outcome.record):
                    with contextlib.suppress(Exception):  # it failed, or takes longer: there is a value
                        loaded = renewal.result(min(soft_timeout_s, group[2] / 2)).get(raw, ABSENT)
                        return default if loaded is ABSENT else loaded
                return landings.found(outcome.record, default)
            if not isinstance(outcome, int):
                return landings.found(outcome, default)
            leads: list[Lead[bytes]] = [(raw, raw, outcome)]
            value = self._load_many(group, leads, lambda _: {raw: loader()}, ttl_ms, tags).get(raw, ABSENT)
        return default if value is ABSENT else value_of(value)

    def many(
        self,
        group: Group,
        keys: list[K],
        raws: list[bytes],
        values: dict[K, Any],
        batch_loader: Callable[[list[K]], Mapping[K, Any]],
        ttl_ms: int,
        tags: Iterable[str] | None,
        soft_timeout_s: float | None,
    ) -> dict[K, CacheError]:
        """Put the values of keys to those that are known, and return the errors of the others.

        See `CacheClient.get_or_load_many`.
        """
        check_loader(batch_loader, field="batch_loader", may_await=False)
        thread, landings = self._thread, self._landings
        engine = thread.started()
        end = engine.loop.time() + group[2]
        asks = thread.run(_ask(engine, group, raws, landings.timeout_s), group[2])
        errors: dict[int, CacheError] = {}
        renewals: list[tuple[Future[dict[K, Any]], list[Lead[K]], float]] = []
        try:
            while asks.left:
                outcomes = thread.run(asks.some(), max(0.0, end - engine.loop.time()), grace_s=0.0)
                leads, due = landings.sort_out(outcomes, keys, raws, values, errors)
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
        alone = [keys[at] for at in landings.to_load_alone(errors)]
        if alone:
            with loading():
                values |= alone_values(batch_loader(alone))
        return {keys[at]: error for at, error in errors.items()}

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
        renewing = self._thread.started().renewing
        if not renewing.acquire(blocking=False):
            self._tell(self._landings.left(group, leads))
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
        landings = self._landings
        landings.stats.loads += 1
        try:
            with loading():
                loaded = checked_batch(batch_loader([key for key, _, _ in leads]))
            ends = landings.landed(group, leads, loaded, ttl_ms, tags)
        except BaseException as error:
            self._tell(landings.failed(group, leads, error))
            raise
        for end in ends:
            self._tell(end)
        return {key: value_of(loaded[key]) for key, _, _ in leads if loaded.get(key, ABSENT) is not ABSENT}

    def _tell(self, end: FlightEnd) -> None:
        try:
            failures = self._thread.run(self._thread.started().end_flights(end), end.group[2])
        except CacheError as error:
            failures = {0: error}
        self._landings.told(failures)


async def _ask(engine: Engine, group: Group, raws: list[bytes], reach_s: float) -> Asks:
    return Asks(engine, group, raws, reach_s)
