"""Tells other regions what becomes untrue in this one: the outbox's end of it (`cachenode.core.regions`).

Who writes a key, removes it, or declares something untrue, in a namespace that regions share, is answered when that is
done here *and* the outbox has it. A node that dies after the answer takes nothing along, and one that dies before it
has answered nothing. What is loaded is not told: that a value was read changes no other region's copy of it.

The entry is appended *after* the change is visible here. Were it the other way round, another region could act on it,
and read what it no longer has from here, before the change
(``test_entry_is_appended_when_the_change_is_done``).

Interleavings, each forced by a test in ``tests/node/test_regions.py``:

1. A writer goes away, or its time is over, while the change is under way: it may be seen here all the same, so it is
   told to the others too (``test_change_that_was_given_up_is_told``).
2. The store of the outbox does not take the entry: the writer learns that the others may not be told, the node *owes*
   the entry, and appends it when the store is back (``test_entry_that_was_not_taken_is_owed``). Only a node that dies
   in between takes it along, and the writer knows.
3. Too much is owed: of each namespace that is concerned everything is (``test_too_much_owed_is_everything``).
4. What another region has told is done by owners and coordinators anywhere in the cluster: batches carry its name
   between nodes, and none of them tells it again (``test_what_another_region_told_is_not_told_again``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import structlog

from cachenode.core.entries import Batch, BatchResult, Operation
from cachenode.core.failures import REGIONS_NOT_TOLD
from cachenode.core.regions import Owed, RegionEntry, split_entry
from cachenode.errors import L2Unavailable
from cachenode_api.reasons import Reason

if TYPE_CHECKING:
    from cachenode.core.breaker import Breaker
    from cachenode.node.service import Node, Reply, Rest
    from cachenode.ports import RegionStore

__all__ = ["Regions"]

_log = structlog.get_logger(__name__)

_CHUNK = 500
_UNDONE = frozenset(
    {
        Reason.INVALID_KEY,
        Reason.VALUE_TOO_LARGE,
        Reason.INVALID_REQUEST,
        Reason.QUOTA_EXCEEDED,
        Reason.OVERLOADED,
        Reason.CONDITION_FAILED,
        Reason.NOT_A_COUNTER,
        Reason.BACKLOG_FULL,
        Reason.QUEUE_UNAVAILABLE,
        Reason.SINK_UNAVAILABLE,
    }
)
"""After these nothing has changed. After any other failure something may have."""

_WRITES = frozenset({Operation.SET, Operation.INCR})

Work = Callable[["Reply"], "Rest | None"]


class Regions:
    """The part of a node that tells other regions.

    Args:
        node: The node.
        store: Has the outbox.
        remotes: Names of the others.
        breaker: For the store.
    """

    def __init__(self, node: Node, store: RegionStore, remotes: Iterable[str], breaker: Breaker) -> None:
        self.remotes = tuple(remotes)
        """Names of the other regions."""
        self.appended = 0
        """Entries that this node has appended."""
        self.wake: Callable[[], None] = lambda: None
        """Called when there is something new in the outbox."""
        self.owed = Owed()
        """What this node could not append."""
        self._node = node
        self._store = store
        self._breaker = breaker
        self._tasks: set[asyncio.Task[bool]] = set()
        self._flushing = False

    async def tell(self, batch: Batch, indices: Sequence[int], work: Work, reply: Reply) -> None:
        """Change something, append that to the outbox, and answer.

        Args:
            batch: What changes keys, or a BARRIER.
            indices: Which of its keys.
            work: Does it, and answers: its answers are held back until the outbox has the entry.
            reply: Takes the answers.
        """
        results: list[BatchResult] = []
        try:
            rest = work(results.append)
            if rest is not None:
                await rest
        except BaseException:
            self._spawn(self._note(_entry(batch, indices)))
            raise
        undone = {index for part in results for index in _undone(part)}
        changed = [index for index in indices if index not in undone]
        if changed and not await asyncio.shield(self._spawn(self._note(_entry(batch, changed)))):
            for part in results:
                _not_told(part)
        for part in results:
            reply(part)

    async def _note(self, entry: RegionEntry) -> bool:
        """Append an entry; return False if it is only owed."""
        entries = list(split_entry(entry))
        if await self._append(entries):
            return True
        self.owed.add(entries)
        return False

    async def _append(self, entries: Sequence[RegionEntry]) -> bool:
        clock = self._node.clock
        if not self._breaker.allow(clock.now()):
            return False
        try:
            await self._store.append(entries)
        except L2Unavailable as error:
            self._breaker.failed(clock.now())
            _log.warning("regions_not_told", entries=len(entries), why=str(error))
            return False
        self._breaker.succeeded(clock.now())
        self.appended += len(entries)
        self.wake()
        return True

    async def flush(self) -> None:
        """Append what is owed, if the store takes it now."""
        if self._flushing:
            return
        self._flushing = True
        try:
            while len(self.owed):
                entries = self.owed.take(_CHUNK)
                if not await self._append(entries):
                    self.owed.add(entries)
                    return
        finally:
            self._flushing = False

    async def pause(self, remote: str, *, paused: bool) -> None:
        """Have no node send to a region any more, or again.

        Raises:
            L2Unavailable: The store does not answer.
        """
        await self._store.pause(remote, paused=paused)
        self.wake()

    async def ended(self, seconds: float) -> None:
        """Return when nothing is being appended, or after so long."""
        await self.flush()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=seconds)

    def _spawn(self, work: Coroutine[Any, Any, bool]) -> asyncio.Task[bool]:
        """Do something that whoever asked for it need not live to see."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _entry(batch: Batch, indices: Iterable[int]) -> RegionEntry:
    chosen = list(indices)
    texts = tuple(batch.keys[index] for index in chosen)
    if batch.operation is Operation.BARRIER:
        return RegionEntry(batch.namespace, texts, tuple(batch.flags[index] for index in chosen), batch.expire)
    expire = batch.expire and batch.operation is Operation.INVALIDATE
    return RegionEntry(batch.namespace, texts, expire=expire, written=batch.operation in _WRITES)


def _undone(part: BatchResult) -> Iterable[int]:
    """Yield the positions in the batch of what has not been done, and will not be."""
    positions = part.indices if part.indices is not None else range(len(part.records) or len(part.versions))
    return (positions[at] for at, failure in part.failures.items() if failure.reason in _UNDONE)


def _not_told(part: BatchResult) -> None:
    for at in range(len(part.records) or len(part.versions)):
        part.failures.setdefault(at, REGIONS_NOT_TOLD)
