"""What a namespace's origin does not have: a Bloom filter of all keys that may have a value.

A key that is not in the filter has no value: neither in L2 nor at the origin is it looked for. The contract is that the
filter never hides a key that was written. It rests on one rule: *only the owner of a key asks, and only for keys that
have been its own under every view since its filter was begun.* Every write of such a key has gone through this node
since then, and every write is added here before it is acknowledged. What was written before is found by the rebuild,
which begins after all nodes have begun: it lists the origin and L2. So a filter is

    the keys of the origin and of L2, listed after this node began, and those that this node has written since.

A rebuild goes into a fresh filter, `begun` on every node, while the one in use goes on answering; writes are added to
both. When the lists are complete every node gets them, unites them with its own writes and puts the result in use.

What else ends "not there": a removal or invalidation of a key adds it (the origin has changed); a barrier that covers
a key is newer than the filter, so the filter says nothing about it until the next rebuild; one by tag may cover any
key.

Interleavings, each forced by a test in ``tests/node/test_bloom.py``:

1. A key is written while the origin is listed, behind the listing's back: the fresh filter has it from the write
   (``test_write_during_a_rebuild``).
2. A key is written, then its owner loses it and gets it again: another may have written it meanwhile, so it is not
   answered (``test_key_that_was_elsewhere``).
3. A write began before the rebuild and ends during it: it is added when it begins and once more when L2 has taken it
   (``test_write_that_spans_the_beginning``).
4. Another rebuild begins before the first has ended: what the first one lists is not taken (``test_older_rebuild``).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import blake2b

from rbloom import Bloom as Bits

from cachenode.core.schedule import Schedule

__all__ = ["PART_BYTES", "Bloom", "BloomCounters", "KeyFilter", "Rebuilds"]

PART_BYTES = 512 * 1024
"""A filter travels in parts of this size: well below the smallest frame that is usual."""
_HEAD_BYTES = 8
"""Before the bits of a saved filter: how many of them each key sets."""
_SIGN = 1 << 127
_ROOM = 1.25
"""A filter has room for so many times the keys that were listed last, if that is more than was configured."""


def _digest(key: bytes) -> int:
    """Return the hash of a key: the same on every node and in every run."""
    return int.from_bytes(blake2b(key, digest_size=16).digest(), "little") - _SIGN


class KeyFilter:
    """A Bloom filter of keys, as bits that other nodes can read.

    Args:
        expected: Keys for which the error holds.
        error: Part of other keys that it takes for its own.
    """

    __slots__ = ("_bits", "expected")

    def __init__(self, expected: int, error: float) -> None:
        self.expected = expected
        self._bits = Bits(expected, error, _digest)

    def add(self, key: bytes) -> None:
        """Put a key in. It never leaves."""
        self._bits.add(key)

    def __contains__(self, key: bytes) -> bool:
        return key in self._bits

    def unite(self, saved: bytes) -> bool:
        """Put in what a saved filter has. Return False if that is none of the same size, so that nothing was done.

        The library panics over bytes that are too short, with what is no Exception, so they are not given to it.
        """
        mine = self.save()
        if len(saved) != len(mine) or saved[:_HEAD_BYTES] != mine[:_HEAD_BYTES]:
            return False
        other = Bits.load_bytes(saved, _digest)
        if other.size_in_bits != self._bits.size_in_bits:
            return False
        self._bits.update(other)
        return True

    def save(self) -> bytes:
        """Return it as bytes."""
        return self._bits.save_bytes()

    @property
    def size_bytes(self) -> int:
        """What it takes of memory."""
        return self._bits.size_in_bits // 8

    def fill(self) -> float:
        """Return the part of its bits that are set: one half when it is as full as was expected."""
        return int.from_bytes(self.save()[_HEAD_BYTES:], "little").bit_count() / self._bits.size_in_bits


@dataclass(slots=True)
class _Generation:
    """A filter with what it is good for."""

    number: int
    keys: KeyFilter
    epoch: int
    position: int
    suspended: bool = False
    built_at: float = math.nan
    fill: float = 0.0
    listed: int = 0


@dataclass(frozen=True, slots=True)
class BloomCounters:
    """One namespace's filter on one node.

    Attributes:
        state: "none" (never built), "ready", "partial" (it says nothing about keys that moved since it was begun) or
            "suspended" (a barrier by tag came: it says nothing at all).
        building: True while a rebuild is under way.
        absences: Reads that it answered: no value.
        passed: Reads of keys that it has, which were looked for.
        skipped: Reads of keys about which it may say nothing.
        false_positives: Loads of keys that it has, of which the origin had none.
        rebuilds: How often a new one was put in use.
        failures: Rebuilds that this node led and that failed.
        bytes: What it takes of memory, the one that is being built included.
        expected: Keys it has room for.
        listed: Keys that the last rebuild found.
        fill: Part of its bits that are set, when it was put in use.
        age_s: Seconds since then; negative if never.
    """

    state: str = "none"
    building: bool = False
    absences: int = 0
    passed: int = 0
    skipped: int = 0
    false_positives: int = 0
    rebuilds: int = 0
    failures: int = 0
    bytes: int = 0
    expected: int = 0
    listed: int = 0
    fill: float = 0.0
    age_s: float = -1.0

    @property
    def false_positive_rate(self) -> float:
        """Loads that found nothing, of the reads that passed; 0 without any."""
        return self.false_positives / self.passed if self.passed else 0.0


class Bloom:
    """The filter of one namespace on one node.

    Args:
        expected: Keys for which the error holds, at least.
        error: Part of the absent keys that may pass.
    """

    __slots__ = (
        "_expected",
        "_fresh",
        "_parts",
        "_present",
        "absences",
        "error",
        "failures",
        "false_positives",
        "passed",
        "rebuilds",
        "skipped",
    )

    def __init__(self, expected: int, error: float) -> None:
        self.error = error
        self.absences = self.passed = self.skipped = self.false_positives = 0
        self.rebuilds = self.failures = 0
        self._expected = expected
        self._present: _Generation | None = None
        self._fresh: _Generation | None = None
        self._parts: dict[int, bytes] = {}

    @property
    def epoch(self) -> int:
        """Epoch of the view under which the filter in use was begun, 0 without one."""
        return self._present.epoch if self._present is not None else 0

    @property
    def room(self) -> int:
        """For how many keys the next filter should have room."""
        listed = self._present.listed if self._present is not None else 0
        return max(self._expected, int(listed * _ROOM))

    def add(self, key: bytes) -> None:
        """A key is written, removed or declared untrue: the origin may have a value for it from now on."""
        if self._present is not None:
            self._present.keys.add(key)
        if self._fresh is not None:
            self._fresh.keys.add(key)

    def absent(
        self, key: bytes, kept: Callable[[bytes, int], bool], covers: Callable[[bytes, tuple[()], int], bool]
    ) -> bool:
        """Return True if a key of this node has no value anywhere.

        Args:
            key: Owned by this node.
            kept: Tells whether a key has been this node's under every view since an epoch.
            covers: Tells whether a barrier covers a key that is newer than a position.
        """
        now = self._present
        if now is None:
            self.skipped += 1
        elif key in now.keys:
            self.passed += 1
        elif now.suspended or not kept(key, now.epoch) or covers(key, (), now.position):
            self.skipped += 1
        else:
            self.absences += 1
            return True
        return False

    def found_absent(self, key: bytes) -> None:
        """A load has found that the origin has no value for a key."""
        if self._present is not None and key in self._present.keys:
            self.false_positives += 1

    def suspend(self) -> None:
        """Any key may have a value: say nothing until the next rebuild that begins after this."""
        for generation in (self._present, self._fresh):
            if generation is not None:
                generation.suspended = True

    def begin(self, number: int, room: int, error: float, epoch: int, position: int) -> bool:
        """Begin a fresh filter for a rebuild, in place of any that is not complete. Return False for an older one.

        Args:
            number: Of the rebuild; later ones have higher numbers.
            room: Keys it must have room for.
            error: Part of the absent keys that may pass.
            epoch: Of the view that this node acts under, with nobody else acting for its keys.
            position: Of the namespace's newest barrier.
        """
        if self._fresh is not None and number < self._fresh.number:
            return False
        if self._fresh is None or self._fresh.number != number:
            self._fresh, self._parts = _Generation(number, KeyFilter(room, error), epoch, position), {}
        return True

    def take(self, number: int, part: int, parts: int, data: bytes, listed: int, now: float) -> bool:
        """Take a part of what a rebuild has listed; put the fresh filter in use when it is complete.

        Returns:
            False if this node has not begun that rebuild, or not with that size.
        """
        fresh = self._fresh
        if fresh is None or fresh.number != number:
            return self._present is not None and self._present.number == number
        self._parts[part] = data
        if len(self._parts) < parts:
            return True
        whole = b"".join(self._parts[at] for at in range(parts))
        self._fresh, self._parts = None, {}
        if not fresh.keys.unite(whole):
            return False
        fresh.listed, fresh.built_at, fresh.fill = listed, now, fresh.keys.fill()
        self._present = fresh
        self.rebuilds += 1
        return True

    def give_up(self, number: int) -> None:
        """A rebuild has failed: nothing comes of its fresh filter."""
        if self._fresh is not None and self._fresh.number == number:
            self._fresh, self._parts = None, {}

    def counters(self, now: float, epoch: int) -> BloomCounters:
        """Return what it has counted.

        Args:
            now: The time.
            epoch: Of the view in force.
        """
        present, fresh = self._present, self._fresh
        state = "none"
        if present is not None:
            state = "suspended" if present.suspended else "ready" if present.epoch == epoch else "partial"
        return BloomCounters(
            state=state,
            building=fresh is not None,
            absences=self.absences,
            passed=self.passed,
            skipped=self.skipped,
            false_positives=self.false_positives,
            rebuilds=self.rebuilds,
            failures=self.failures,
            bytes=sum(each.keys.size_bytes for each in (present, fresh) if each is not None),
            expected=present.keys.expected if present is not None else self._expected,
            listed=present.listed if present is not None else 0,
            fill=present.fill if present is not None else 0.0,
            age_s=now - present.built_at if present is not None else -1.0,
        )


@dataclass(slots=True)
class Rebuilds:
    """When the node that has a namespace's seat rebuilds its filter.

    At once if there is none; after a change of view, since no filter says anything about keys that moved; when the
    schedule says so. After a failure with a pause that grows. A rebuild that nobody has scheduled comes no sooner after
    the last one than `_REST` times as long as that took: listing a large origin must not become all that it does.

    Args:
        schedule: For rebuilds at fixed times.
    """

    schedule: Schedule
    _began_at: float = field(default=-math.inf, init=False)
    _free_at: float = field(default=-math.inf, init=False)
    _failed: int = field(default=0, init=False)
    _due_at: float | None = field(default=None, init=False)
    _view: int = field(default=0, init=False)
    _view_since: float = field(default=-math.inf, init=False)

    _REST = 10.0
    _CALM_S = 2.0
    _FIRST_PAUSE_S = 5.0
    _LONGEST_PAUSE_S = 300.0

    def due(self, now: float, wall: float, *, epoch: int, built: int) -> bool:
        """Return True if a rebuild should begin now.

        Args:
            now: The time on the node's clock.
            wall: The time of day, in seconds since 1970.
            epoch: Of the view in force.
            built: That under which the filter in use was begun, 0 without one.
        """
        if epoch != self._view:
            self._view, self._view_since = epoch, now
        if self._due_at is None:
            self._due_at = self.schedule.after(wall)
        if now < self._free_at:
            return False
        if built != epoch and now >= self._view_since + self._CALM_S:
            return True
        return wall >= self._due_at

    def begin(self, now: float, wall: float) -> None:
        """A rebuild begins."""
        self._began_at, self._due_at = now, self.schedule.after(wall)

    def end(self, now: float, *, succeeded: bool) -> None:
        """It has ended."""
        took = now - self._began_at
        if succeeded:
            self._failed, self._free_at = 0, now + took * self._REST
        else:
            pause = min(self._LONGEST_PAUSE_S, self._FIRST_PAUSE_S * 2.0**self._failed)
            self._failed, self._free_at = self._failed + 1, now + max(pause, took)
