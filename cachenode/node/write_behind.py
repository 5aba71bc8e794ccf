"""Write-behind, the writing side: a write is acknowledged once the queue has it; its origin gets it later (`Drain`).

The queue takes a write together with its value for L2, in one step, if both are on one server; else the queue comes
first: a value in L2 that nobody brings to the origin would be a lie, a queued write whose value L2 lacks is a miss.
Nothing is ever acknowledged from memory alone: while the queue cannot be reached, writes fail at once.

A key with a queued write is *dirty*. Its origin is behind, so nobody loads it from there: whoever misses it gets the
queued value. An invalidation drops what is cached of a dirty key and leaves the queued write alone.

Interleavings, each forced by a test in ``tests/node/test_write_behind.py``:

1. A dirty key has left memory and L2, and is read: the origin's older value is neither loaded nor handed out
   (``test_dirty_key_is_not_loaded_from_the_origin``, ``test_caller_does_not_load_a_dirty_key``).
2. A load begins while a write is on its way to the queue, and brings what the origin had before. It would get a higher
   version than the write, whose entry the queue would then refuse although it has to be written
   (``test_load_during_a_write_does_not_overtake_it``).
3. The answer of the queue is lost: the write may be queued, so it is neither acknowledged nor refused, and what memory
   has of the key goes (``test_lost_answer_is_uncertain``).
4. Two writes of a key are queued, and neither is in memory yet. A reader gets the later one out of the queue, and then
   the earlier one is done: it must not appear in memory (``test_reads_do_not_go_back_behind_the_queue``). Nor may it
   stay there, if it was done while the queue was asked (``test_what_is_older_than_the_queue_leaves_memory``; the
   simulation found both).
5. A removal is refused because the queue is full: nothing was done, so conditions must still see the value
   (``test_refused_removal_leaves_the_value``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cachenode.core.breaker import Breaker
from cachenode.core.entries import L2Write, Loaded, QueuedWrite
from cachenode.core.failures import BACKLOG_FULL, queue_unavailable, queue_uncertain
from cachenode.core.queued import Outcome, Put
from cachenode.errors import L2Unavailable

if TYPE_CHECKING:
    from cachenode.core.entries import Failure
    from cachenode.node.l2_tier import L2Tier
    from cachenode.node.namespaces import Namespace
    from cachenode.node.service import Node
    from cachenode.ports import WriteQueue

__all__ = ["WriteBehind"]

_AWAY = queue_unavailable("it does not answer, and is tried again in a moment")
_NO_L2 = queue_unavailable("L2, on the same server, is not to be believed yet")


class WriteBehind:
    """Puts writes in the queue, and knows which keys are dirty.

    Args:
        queue: Where they wait.
        most: Keys of a namespace that may wait.
        breaker: Opens while the queue does not answer.
    """

    def __init__(self, node: Node, queue: WriteQueue, most: int, breaker: Breaker) -> None:
        self.queue = queue
        self.coalesced: Counter[str] = Counter()
        """Writes that took the place of a queued one, by namespace."""
        self._node = node
        self.most = most
        self._breaker = breaker
        self._unfit = "whether it can keep what it promises is not known yet"

    @property
    def checked(self) -> bool:
        """True if the queue is known to be able to keep what it promises; before, it gets no writes."""
        return not self._unfit

    async def check(self) -> list[str]:
        """Look whether the queue can keep what it promises. Return why not, for people; empty if it can.

        Raises:
            L2Unavailable: It does not answer.
        """
        problems = await self.queue.problems()
        self._unfit = "; ".join(problems)
        return problems

    async def write(
        self, namespace: Namespace, tier: L2Tier, writes: Sequence[QueuedWrite]
    ) -> tuple[list[bool], list[bool], dict[int, Failure]]:
        """Queue writes, and bring them to L2.

        Returns:
            For each whether it was taken, for each whether L2 had a value of its key, and why some were not done, by
            position. One that is neither taken nor failed met a newer one.
        """
        name, queue, breaker = namespace.policy.name, self.queue, self._breaker
        count = len(writes)
        refused = self._refusal(tier)
        if refused is not None:
            return [False] * count, [False] * count, dict.fromkeys(range(count), refused)
        answers = await queue.put(name, writes, self.most)
        now = self._node.clock.now()
        if any(answer.outcome in (Outcome.REFUSED, Outcome.UNCERTAIN) for answer in answers):
            breaker.failed(now)
        else:
            breaker.succeeded(now)
        failures = {at: failure for at, answer in enumerate(answers) if (failure := _failure(answer)) is not None}
        taken = [answer.outcome in (Outcome.QUEUED, Outcome.REPLACED) for answer in answers]
        self.coalesced[name] += sum(answer.outcome is Outcome.REPLACED for answer in answers)
        found = [answer.found for answer in answers]
        done = [write for write, was_taken in zip(writes, taken, strict=True) if was_taken]
        if queue.carries_values:
            tier.written(name, [(write.key, write.version) for write in done])
        else:
            found = await self._store(name, tier, writes, taken)
        return taken, found, failures

    def _refusal(self, tier: L2Tier) -> Failure | None:
        """Return why nothing may be put in the queue now."""
        if self._unfit:
            return queue_unavailable(self._unfit)
        if self.queue.carries_values and not tier.available:
            return _NO_L2
        return None if self._breaker.allow(self._node.clock.now()) else _AWAY

    async def _store(self, name: str, tier: L2Tier, writes: Sequence[QueuedWrite], taken: list[bool]) -> list[bool]:
        """Bring to L2, on a server of its own, what the queue has taken. Return where a value was removed there."""
        found = [False] * len(writes)
        values = [at for at, write in enumerate(writes) if taken[at] and write.value is not None]
        removals = [at for at, write in enumerate(writes) if taken[at] and write.value is None]
        if values:
            stored = await tier.write(name, [_stored(writes[at]) for at in values])
            for at, accepted in zip(values, stored, strict=True):
                taken[at] = accepted
        if removals:
            dropped = await tier.drop(name, [(writes[at].key, writes[at].version) for at in removals])
            for at, was_there in zip(removals, dropped, strict=True):
                found[at] = was_there
        return found

    async def newest(self, namespace: Namespace, keys: Sequence[bytes]) -> list[QueuedWrite | None]:
        """Return the queued write of each dirty key, None for the others.

        Raises:
            L2Unavailable: That cannot be told, so nobody may load them.
        """
        now = self._node.clock.now()
        if not self._breaker.allow(now):
            raise L2Unavailable("the write-behind queue does not answer")
        try:
            found = await self.queue.newest(namespace.policy.name, keys)
        except L2Unavailable:
            self._breaker.failed(self._node.clock.now())
            raise
        self._breaker.succeeded(self._node.clock.now())
        for write in found:
            if write is not None:
                self._seen(namespace, write)
        return found

    def _seen(self, namespace: Namespace, write: QueuedWrite) -> None:
        """A reader gets this write: nothing older may be found in memory afterwards."""
        if namespace.writing:
            namespace.seen(write.key, write.version)
        namespace.forget_older(write.key, write.version, self._node.clock.now())

    async def dirty(self, namespace: Namespace, keys: Sequence[bytes]) -> set[bytes] | None:
        """Return which of the keys are dirty, None if that cannot be told."""
        try:
            found = await self.newest(namespace, keys)
        except L2Unavailable:
            return None
        return {key for key, write in zip(keys, found, strict=True) if write is not None}

    async def loaded(self, namespace: Namespace, key: bytes) -> tuple[bool, Loaded | None]:
        """Return whether a key is dirty, and what its origin is going to have then, None for nothing.

        Raises:
            L2Unavailable: As `newest`.
        """
        (write,) = await self.newest(namespace, [key])
        if write is None:
            return False, None
        return True, None if write.value is None else Loaded(write.value, write.flags)


def _stored(write: QueuedWrite) -> L2Write:
    assert write.value is not None, "removals are dropped"
    return L2Write(write.key, write.value, write.flags, write.version, write.ttl_s, write.position)


def _failure(answer: Put) -> Failure | None:
    if answer.outcome is Outcome.FULL:
        return BACKLOG_FULL
    if answer.outcome is Outcome.REFUSED:
        return queue_unavailable(answer.why)
    return queue_uncertain(answer.why) if answer.outcome is Outcome.UNCERTAIN else None
