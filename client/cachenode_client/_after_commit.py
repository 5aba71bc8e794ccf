"""Invalidations that wait for a transaction: the one order in which a change of the origin leaves nothing stale.

Invalidated *before* the commit, a value is loaded again at once by whoever asks, from an origin that still shows the
old state, and kept: no cache can notice that. So what a transaction makes untrue is collected while it runs, and
invalidated when the block is left, whether well or by an error. For an error does not say that the commit was not done,
and one invalidation too many costs one load.

Between the commit and the end of the block the old value is served. A process that dies there never invalidates: then a
value lives until its TTL, unless an outbox in the same transaction tells somebody else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any

from cachenode_client._checks import Key, Mode, checked_keys, checked_mode, checked_selection
from cachenode_client.errors import CacheError

if TYPE_CHECKING:
    from cachenode_client._client import CacheClient
    from cachenode_client.blocking import CacheClient as BlockingClient

__all__ = ["AfterCommit", "BlockingAfterCommit", "Pending"]


class Pending:
    """What is to be invalidated at the end of a block."""

    def __init__(self) -> None:
        self._calls: list[dict[str, Any]] = []

    def invalidate(
        self,
        keys: Key | Iterable[Key] | None = None,
        *,
        prefix: Key | None = None,
        pattern: Key | None = None,
        tags: Iterable[str] | None = None,
        namespace: str | None = None,
        mode: Mode = "remove",
    ) -> None:
        """Remember what will be untrue after the commit: as `CacheClient.invalidate`, and checked at once.

        Raises:
            InvalidArgument: Nothing was named, or something that cannot be used. Nothing is remembered of it.
        """
        raws = checked_keys(keys)
        tags = None if tags is None else list(tags)
        checked_selection(raws, prefix, pattern, tags, namespace, whole=keys is None)
        checked_mode(mode)
        keys = raws if keys is not None else None
        call = {"keys": keys, "prefix": prefix, "pattern": pattern, "tags": tags, "namespace": namespace, "mode": mode}
        self._calls.append(call)

    def take(self) -> list[dict[str, Any]]:
        """Return what has been collected, as arguments of `invalidate`, and forget it."""
        calls, self._calls = self._calls, []
        return calls

    def __len__(self) -> int:
        return len(self._calls)

    def __repr__(self) -> str:
        return f"<Pending {len(self._calls)} invalidations>"


class AfterCommit:
    """An asynchronous context that invalidates at its end."""

    def __init__(self, client: CacheClient, pending: Pending) -> None:
        self._client = client
        self._pending = pending

    async def __aenter__(self) -> Pending:
        return self._pending

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Shielded: the commit may be done, and a caller that is cancelled leaves just then.
        failures = await asyncio.shield(
            asyncio.gather(*(self._client.invalidate(**call) for call in self._pending.take()), return_exceptions=True)
        )
        _report([failure for failure in failures if isinstance(failure, BaseException)], error)


class BlockingAfterCommit:
    """A context that invalidates at its end."""

    def __init__(self, client: BlockingClient, pending: Pending) -> None:
        self._client = client
        self._pending = pending

    def __enter__(self) -> Pending:
        return self._pending

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        failures: list[BaseException] = []
        for call in self._pending.take():
            try:
                self._client.invalidate(**call)
            except CacheError as failure:
                failures.append(failure)
        _report(failures, error)


def _report(failures: list[BaseException], error: BaseException | None) -> None:
    """Raise what failed; beside an error of the block only say it there."""
    if not failures:
        return
    if error is None:
        raise failures[0]
    error.add_note(f"The cache may hold what this has changed: {len(failures)} invalidations failed ({failures[0]}).")
