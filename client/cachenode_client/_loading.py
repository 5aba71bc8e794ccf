"""The asyncio client's loads: a loader runs once for all who ask, in a task that nobody's cancellation ends.

The load belongs to the client, not to its caller (`Engine.keep`): others wait for its value at the key's owner, so it
goes on when its caller has been cancelled or has run out of time. What is loaded before a value's end goes on in the
background in the same way; a caller with a soft time limit waits for it a little.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any

from cachenode_client._batches import Due, Group
from cachenode_client._landings import K, Landings, Lead, any_stale, is_stale
from cachenode_client._loads import (
    ABSENT,
    LATE,
    LATE_LOAD,
    Asks,
    BatchLoader,
    FlightEnd,
    Loader,
    alone_values,
    call_loader,
    check_loader,
    checked_batch,
    renew_values,
    run_loader,
    value_of,
)
from cachenode_client.errors import CacheError, CacheTimeout

if TYPE_CHECKING:
    from cachenode_client._engine import Engine

__all__ = ["Loading"]


class Loading:
    """Loads what a client's callers ask for and nobody has.

    Args:
        landings: What becomes of the loads.
        started: Returns the engine, starting it if need be.
    """

    def __init__(self, landings: Landings, started: Callable[[], Engine]) -> None:
        self._landings = landings
        self._started = started

    async def one(
        self,
        group: Group,
        raw: bytes,
        loader: Loader,
        default: Any,
        ttl_ms: int,
        tags: Iterable[str] | None,
        soft_timeout_s: float | None,
    ) -> Any:
        """Return a key's value, found or loaded: see `CacheClient.get_or_load`."""
        check_loader(loader)
        engine, landings = self._started(), self._landings
        end = engine.loop.time() + group[2]
        try:
            if engine.router.only is None:
                group = await engine.reach(group, raw, landings.timeout_s)
            outcome = await engine.call(group, raw)
        except CacheError as error:
            landings.must_load_alone(error)
            load: Awaitable[Any] = call_loader(loader)
        else:
            if isinstance(outcome, Due):
                renewal = engine.keep(self._load(group, raw, outcome.token, loader, ttl_ms, tags))
                soft_s = min(soft_timeout_s or 0.0, group[2] / 2) if is_stale(outcome.record) else 0.0
                value = await _in_time(renewal, soft_s)
                if value is LATE:
                    return landings.found(outcome.record, default)
                return default if value is ABSENT else value
            if not isinstance(outcome, int):
                return landings.found(outcome, default)
            load = asyncio.shield(engine.keep(self._load(group, raw, outcome, loader, ttl_ms, tags)))
        try:
            async with asyncio.timeout_at(end) as limit:
                value = await load
        except TimeoutError:
            if limit.expired():
                raise CacheTimeout(LATE_LOAD) from None
            raise
        return default if value is ABSENT else value_of(value)

    async def many(
        self,
        group: Group,
        keys: list[K],
        raws: list[bytes],
        values: dict[K, Any],
        batch_loader: BatchLoader[K],
        ttl_ms: int,
        tags: Iterable[str] | None,
        soft_timeout_s: float | None,
    ) -> dict[K, CacheError]:
        """Put the values of keys to those that are known, and return the errors of the others.

        See `CacheClient.get_or_load_many`.
        """
        check_loader(batch_loader, field="batch_loader")
        engine, landings = self._started(), self._landings
        asks = Asks(engine, group, raws, landings.timeout_s)
        errors: dict[int, CacheError] = {}
        loads: set[asyncio.Task[dict[K, Any]]] = set()
        renewals: list[tuple[asyncio.Task[dict[K, Any]], list[Lead[K]], float]] = []
        try:
            async with asyncio.timeout(group[2]) as limit:
                while asks.left or loads:
                    outcomes = await asks.some(loads)
                    leads, due = landings.sort_out(outcomes, keys, raws, values, errors)
                    if due:
                        renewal = engine.keep(self._load_many(group, due, batch_loader, ttl_ms, tags))
                        if soft_timeout_s is not None and any_stale(outcomes.values()):
                            until = engine.loop.time() + min(soft_timeout_s, group[2] / 2)
                            renewals.append((renewal, due, until))
                    if leads:
                        loads.add(engine.keep(self._load_many(group, leads, batch_loader, ttl_ms, tags)))
                    for load in [load for load in loads if load.done()]:
                        loads.discard(load)
                        values |= load.result()
                await _take_renewed(renewals, values)
                alone = [keys[at] for at in landings.to_load_alone(errors)]
                if alone:
                    values |= alone_values(await call_loader(batch_loader, alone))
        except TimeoutError:
            if limit.expired():
                raise CacheTimeout(LATE_LOAD) from None
            raise
        finally:
            asks.close()
        return {keys[at]: error for at, error in errors.items()}

    async def _load(
        self, group: Group, raw: bytes, token: int, loader: Loader, ttl_ms: int, tags: Iterable[str] | None
    ) -> Any:
        async def batch_loader(_keys: list[bytes]) -> dict[bytes, Any]:
            return {raw: await run_loader(loader)}

        loaded = await self._load_many(group, [(raw, raw, token)], batch_loader, ttl_ms, tags)
        return loaded.get(raw, ABSENT)

    async def _load_many(
        self,
        group: Group,
        leads: list[Lead[K]],
        batch_loader: BatchLoader[K],
        ttl_ms: int,
        tags: Iterable[str] | None,
    ) -> dict[K, Any]:
        """Load the keys that this client leads for, and hand the values over to those who wait at their owners."""
        engine, landings = self._started(), self._landings
        landings.stats.loads += 1
        try:
            loaded = checked_batch(await call_loader(batch_loader, [key for key, _, _ in leads]))
            ends = landings.landed(group, leads, loaded, ttl_ms, tags)
        except BaseException as error:
            await self._tell(engine, landings.failed(group, leads, error))
            raise
        for end in ends:
            await self._tell(engine, end)
        return {key: value_of(loaded[key]) for key, _, _ in leads if loaded.get(key, ABSENT) is not ABSENT}

    async def _tell(self, engine: Engine, end: FlightEnd) -> None:
        try:
            failures = await engine.end_flights(end)
        except CacheError as error:
            failures = {0: error}
        self._landings.told(failures)


async def _in_time(renewal: asyncio.Task[Any], soft_s: float) -> Any:
    """Return what is loaded, `LATE` if that fails or takes longer."""
    if soft_s:
        await asyncio.wait({renewal}, timeout=soft_s)
    if not renewal.done() or renewal.cancelled() or renewal.exception() is not None:
        return LATE
    return renewal.result()


async def _take_renewed(
    renewals: Iterable[tuple[asyncio.Task[dict[K, Any]], list[Lead[K]], float]], values: dict[K, Any]
) -> None:
    """Put what is loaded until a time of the loop in the place of older values."""
    for renewal, due, until in renewals:
        loaded = await _in_time(renewal, max(0.0, until - asyncio.get_running_loop().time()))
        if loaded is not LATE:
            renew_values(values, due, loaded)
