"""What a namespace's origin does not have: a Bloom filter of all keys that may have a value.

A key that is not in the filter has no value: neither in L2 nor at the origin is it looked for. The contract is that the
filter never hides a key that was written. It rests on one rule: *only the owner of a key asks, and only for keys that
have been its own under every view since its filter was begun.* Every write of such a key has gone through this node
since then, and every write is added here before it is acknowledged. What was written before is found by the rebuild,
which begins after all nodes have begun: it lists the origin and L2. So a filter is

    the keys of the origin and of L2, listed after this node began, and those that this node has written since.

A rebuild goes into a fresh filter, `begun` on every node, while the one in use goes on answering; writes are added to
both. When the lists are complete every node gets them, unites them with its own writes and puts the result in use.

A *merge* puts in the place of the lists what all nodes know and have saved (`cachenode.core.saved_filters` says when
that may be believed). So each remembers what it has written from its first moment on: as keys until it has its first
filter.

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

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from hashlib import blake2b

from rbloom import Bloom as Bits

from cachenode.core.bloom_counters import BloomCounters

__all__ = ["PART_BYTES", "Base", "Bloom", "KeyFilter", "Source"]

PART_BYTES = 512 * 1024
"""A filter travels in parts of this size: well below the smallest frame that is usual."""
_HEAD_BYTES = 8
"""Before the bits of a saved filter: how many of them each key sets."""
_SIGN = 1 << 127
_ROOM = 1.25
"""A filter has room for so many times the keys that were listed last, if that is more than was configured."""
_MOST_EARLY = 10_000
"""A node remembers so many keys that it writes before it has a filter: a megabyte of usual ones."""


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


class Source(Enum):
    """Where the filter in use comes from."""

    BUILT = 0
    """The origin's keys were listed."""
    MERGED = 1
    """What the nodes knew was put together."""
    SAVED = 2
    """As merged, and none of them but what was saved had a filter."""


@dataclass(frozen=True, slots=True)
class Base:
    """What a complete filter is good for.

    Attributes:
        number: Of the rebuild or merge that put it together.
        epoch: All that was written under earlier views is in it.
        position: Of the namespace's newest barrier when its keys were listed.
        suspended: Whether a barrier by tag has come since.
        room: Keys it has room for.
        error: Part of the absent keys that may pass.
        listed: Keys that were listed.
        listed_at: When that ended, in seconds since 1970.
    """

    number: int
    epoch: int
    position: int
    suspended: bool
    room: int
    error: float
    listed: int
    listed_at: float


@dataclass(slots=True)
class _Generation:
    """A filter with what it is good for: for keys kept since `epoch`."""

    number: int
    keys: KeyFilter
    epoch: int
    position: int
    suspended: bool = False
    source: Source = Source.BUILT
    base: Base | None = None
    fill: float = 0.0


class Bloom:
    """The filter of one namespace on one node.

    Args:
        expected: Keys for which the error holds, at least.
        error: Part of the absent keys that may pass.
    """

    __slots__ = (
        "_early",
        "_expected",
        "_fresh",
        "_parts",
        "_present",
        "absences",
        "error",
        "failures",
        "false_positives",
        "merges",
        "passed",
        "rebuilds",
        "refusals",
        "saves",
        "skipped",
    )

    def __init__(self, expected: int, error: float) -> None:
        self.error = error
        self.absences = self.passed = self.skipped = self.false_positives = 0
        self.rebuilds = self.failures = 0
        self.merges = self.refusals = self.saves = 0
        self._expected = expected
        self._early: set[bytes] | None = set()
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
        return max(self._expected, int(self._listed * _ROOM))

    @property
    def base(self) -> Base | None:
        """What the filter in use is good for, None without one."""
        present = self._present
        if present is None or present.base is None:
            return None
        return replace(present.base, suspended=present.suspended)

    @property
    def _listed(self) -> int:
        present = self._present
        return present.base.listed if present is not None and present.base is not None else 0

    def written(self) -> tuple[bytes, tuple[bytes, ...]] | None:
        """Return all that this node has written since its first moment, as bits of a filter or as keys.

        None if there were too many before it has got its first filter.
        """
        if self._present is not None:
            return self._present.keys.save(), ()
        return (b"", tuple(self._early)) if self._early is not None else None

    def add(self, key: bytes) -> None:
        """A key is written, removed or declared untrue: the origin may have a value for it from now on."""
        if self._present is not None:
            self._present.keys.add(key)
        elif self._early is not None:
            self._early.add(key)
            if len(self._early) > _MOST_EARLY:
                self._early = None
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

    def take(self, number: int, part: int, parts: int, data: bytes, base: Base, source: Source) -> bool:
        """Take a part of what a rebuild has listed or merged; put the fresh filter in use when it is complete.

        Args:
            number: Of the rebuild.
            part: Which part.
            parts: How many there are.
            data: The part.
            base: What the whole is good for. Of a list the position is this node's own when it has begun.
            source: Where it comes from.

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
        if source is Source.BUILT:
            base = replace(base, position=fresh.position)
            self.rebuilds += 1
        else:
            fresh.epoch, fresh.position = base.epoch, base.position
            self.merges += 1
        fresh.suspended |= base.suspended
        fresh.source, fresh.base, fresh.fill = source, base, fresh.keys.fill()
        self._present, self._early = fresh, None
        return True

    def give_up(self, number: int) -> None:
        """A rebuild has failed: nothing comes of its fresh filter."""
        if self._fresh is not None and self._fresh.number == number:
            self._fresh, self._parts = None, {}

    def counters(self, wall: float, epoch: int) -> BloomCounters:
        """Return what it has counted.

        Args:
            wall: The time of day, in seconds since 1970.
            epoch: Of the view in force.
        """
        present, fresh, base = self._present, self._fresh, self.base
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
            source=present.source.name.lower() if present is not None else "",
            merges=self.merges,
            refusals=self.refusals,
            saves=self.saves,
            bytes=sum(each.keys.size_bytes for each in (present, fresh) if each is not None),
            expected=present.keys.expected if present is not None else self._expected,
            listed=self._listed,
            fill=present.fill if present is not None else 0.0,
            age_s=max(0.0, wall - base.listed_at) if base is not None else -1.0,
        )
