"""What a node does next with the keys of its shards that wait for an origin: pure decisions.

Why a failure does not simply count: an origin that is away fails every write, and a table full of dead letters after
each of its restarts would be of no use to anybody. So an attempt counts only if the origin has taken another write
since the key's last one failed, or says itself that it will never take this one. What fails as a whole call is sent
alone afterwards, until it becomes clear who was to blame.

All times are the node's clock; what is drawn is handed in.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import NamedTuple

from cachenode.errors import OriginError

__all__ = ["Backlog", "Dirty", "SinkHealth", "Turns", "Verdict", "WriteBehindLimits"]


@dataclass(frozen=True, slots=True)
class WriteBehindLimits:
    """How queued writes are brought to their origins. The configuration makes it.

    Attributes:
        batch_writes: Most writes of one call.
        attempts: Attempts that count until a write becomes a dead letter.
        retry_s: Pause after a first failure, doubled with each further one, each shorter by up to half at random.
        retry_max_s: Longest pause.
        max_backlog: Most keys of a namespace that may wait, dead letters included.
    """

    batch_writes: int = 100
    attempts: int = 5
    retry_s: float = 0.1
    retry_max_s: float = 30.0
    max_backlog: int = 100_000

    def pause_s(self, failures: int, draw: float) -> float:
        """Return the pause after so many failures in a row, from 1 on; `draw` is from [0, 1)."""
        return min(self.retry_max_s, self.retry_s * 2.0 ** min(failures - 1, 30)) * (1.0 - draw / 2)


@dataclass(slots=True, eq=False)
class Dirty:
    """A key that waits.

    Attributes:
        id: Of its entry.
        shard: Whose stream holds that.
        key: The key.
        due: When it may be sent.
        attempts: Attempts that count.
        failures: All that failed, since the last success.
        taken: How many writes the origin had taken when the last attempt failed; below 0 before the first.
        alone: To be sent by itself: a call that it was part of has failed as a whole.
    """

    id: bytes
    shard: int
    key: bytes
    due: float
    attempts: int = 0
    failures: int = 0
    taken: int = -1
    alone: bool = False


class Verdict(NamedTuple):
    """What is to be done after a call: entries whose write the origin has, and those it will never have, with why."""

    done: list[Dirty]
    dead: list[tuple[Dirty, str]]
    retried: int


class SinkHealth:
    """How the origin of a node's queued writes is doing.

    Attributes:
        taken: Writes it has taken.
        paused_until: Before that it is left alone.
    """

    __slots__ = ("_in_a_row", "paused_until", "taken")

    def __init__(self) -> None:
        self.taken = 0
        self.paused_until = 0.0
        self._in_a_row = 0

    def note(self, taken: int, limits: WriteBehindLimits, now: float, draw: float) -> None:
        """Take note of how many writes of a call it has taken; one that took none is followed by a pause."""
        self.taken += taken
        if taken:
            self._in_a_row = 0
        else:
            self._in_a_row += 1
            self.paused_until = now + limits.pause_s(self._in_a_row, draw)


class Backlog:
    """The keys of a namespace that this node knows to wait.

    Args:
        limits: Batches, attempts and pauses.
        delay_s: How long a key waits for others, and for its own next value; fewer if there are enough for a batch.
    """

    def __init__(self, limits: WriteBehindLimits, delay_s: float = 0.0) -> None:
        self._limits = limits
        self._delay_s = delay_s
        self._by_key: dict[bytes, Dirty] = {}
        self._fresh: list[tuple[float, int, Dirty]] = []
        self._again: list[tuple[float, int, Dirty]] = []
        self._numbers = count()

    def __len__(self) -> int:
        return len(self._by_key)

    def add(self, shard: int, id_: bytes, key: bytes, age_s: float, now: float) -> None:
        """A key has waited for so long under its entry in a shard's stream. Does nothing if that is known."""
        known = self._by_key.get(key)
        if known is not None and known.id == id_:
            return
        dirty = Dirty(id_, shard, key, now + max(0.0, self._delay_s - age_s))
        self._by_key[key] = dirty
        heapq.heappush(self._fresh, (dirty.due, next(self._numbers), dirty))

    def leave(self, shard: int) -> None:
        """Forget a shard: it is another node's. What is being sent just now is not judged here any more."""
        self._by_key = {key: dirty for key, dirty in self._by_key.items() if dirty.shard != shard}

    def knows(self, dirty: Dirty) -> bool:
        """Return True if a key still waits under its entry."""
        return self._by_key.get(dirty.key) is dirty

    def ready(self, now: float) -> bool:
        """Return True if `take` has something to give."""
        self._prune()
        enough = len(self._fresh) >= self._limits.batch_writes
        return enough or bool(self._due(self._fresh, now)) or bool(self._due(self._again, now))

    def take(self, now: float, most: int) -> list[Dirty]:
        """Return the keys of the next call, at most so many, and no longer count them as waiting for one."""
        self._prune()
        most = min(most, self._limits.batch_writes)
        if self._due(self._again, now) and self._again[0][2].alone:
            return [heapq.heappop(self._again)[2]]
        batch: list[Dirty] = []
        while len(batch) < most and self._due(self._again, now) and not self._again[0][2].alone:
            batch.append(heapq.heappop(self._again)[2])
        enough = len(self._fresh) >= self._limits.batch_writes
        while len(batch) < most and self._fresh and (enough or self._due(self._fresh, now)):
            batch.append(heapq.heappop(self._fresh)[2])
        return [dirty for dirty in batch if self.knows(dirty)]

    def judge(
        self,
        batch: Sequence[Dirty],
        answers: Sequence[OriginError | None],
        health: SinkHealth,
        now: float,
        draw: float,
        *,
        whole: bool = False,
    ) -> Verdict:
        """Decide what a call's answers mean. What failed waits for its next attempt.

        Args:
            batch: What was sent.
            answers: None where the origin has the write.
            health: Of the origin; takes note of the call.
            now: The time.
            draw: From [0, 1).
            whole: Whether the call failed as such, so that it is not known who is to blame.
        """
        verdict = Verdict([], [], 0)
        health.note(sum(answer is None for answer in answers), self._limits, now, draw)
        retried = 0
        for dirty, answer in zip(batch, answers, strict=True):
            if answer is None:
                verdict.done.append(dirty)
            elif self._hopeless(dirty, answer, health, blamed=not whole or len(batch) == 1):
                verdict.dead.append((dirty, str(answer)))
            else:
                retried += 1
                dirty.alone = dirty.alone or whole
                self.back(dirty, now + self._limits.pause_s(dirty.failures, draw))
        return verdict._replace(retried=retried)

    def _hopeless(self, dirty: Dirty, answer: OriginError, health: SinkHealth, *, blamed: bool) -> bool:
        """Return True if a write that has failed is not to be tried again."""
        dirty.failures += 1
        if not blamed:
            return False
        if not answer.again:
            return True
        if health.taken != dirty.taken:
            dirty.attempts += 1
            dirty.taken = health.taken
        return dirty.attempts >= self._limits.attempts

    def back(self, dirty: Dirty, due: float) -> None:
        """Let a key wait for another attempt, in a call of its own if it is `alone`."""
        dirty.due = due
        heapq.heappush(self._again, (due, next(self._numbers), dirty))

    def done(self, dirty: Dirty, now: float, *, newer: bool) -> None:
        """A key's write is where it belongs. If there is a newer one by now, the key waits on under its entry."""
        if not self.knows(dirty):
            return
        if not newer:
            del self._by_key[dirty.key]
            return
        dirty.attempts, dirty.failures, dirty.taken, dirty.alone = 0, 0, -1, False
        dirty.due = now + self._delay_s
        heapq.heappush(self._fresh, (dirty.due, next(self._numbers), dirty))

    def _due(self, heap: list[tuple[float, int, Dirty]], now: float) -> bool:
        return bool(heap) and heap[0][0] <= now

    def _prune(self) -> None:
        """Drop what is not known any more from the heads of both heaps."""
        for heap in (self._fresh, self._again):
            while heap and not self.knows(heap[0][2]):
                heapq.heappop(heap)


class Turns:
    """Whose batch leaves next: strictly by priority, but who was passed over often enough goes first once."""

    _PATIENCE = 8

    def __init__(self) -> None:
        self._passed_over: dict[str, int] = {}

    def pick(self, ready: Mapping[str, int]) -> str:
        """Return the name that goes next.

        Args:
            ready: The priority of each that has something to send, 1 the most urgent.
        """
        passed_over = {name: self._passed_over.get(name, 0) + 1 for name in ready}
        longest = max(ready, key=lambda name: passed_over[name])
        urgent = min(ready, key=lambda name: (ready[name], -passed_over[name]))
        chosen = longest if passed_over[longest] > self._PATIENCE else urgent
        passed_over[chosen] = 0
        self._passed_over = passed_over
        return chosen
