"""The data: 17-byte keys, 100-byte values, uniformly random access. The same for every contender."""

from __future__ import annotations

import functools
import itertools
import random
from collections.abc import Iterator

__all__ = [
    "BATCH",
    "HOT_KEYS",
    "KEYS",
    "TTL_S",
    "VALUE",
    "hot_keys",
    "key_at",
    "key_batches",
    "key_picks",
    "load_batches",
]

KEYS = 100_000
HOT_KEYS = 1_000
BATCH = 100
TTL_S = 3600
VALUE = b"v" * 100
_LOAD_BATCH = 500
# Drawn ahead and then repeated, so that drawing costs a measured call nothing; far more than the keys.
_PICKS = 1 << 18


def key_at(number: int) -> str:
    """Return the key of that number, 17 bytes long."""
    return f"key:{number:013d}"


def hot_keys() -> list[str]:
    """Return the keys that fit in any near cache."""
    return [key_at(number) for number in range(HOT_KEYS)]


@functools.cache
def _picks() -> list[str]:
    keys = [key_at(number) for number in range(KEYS)]
    return random.Random(1).choices(keys, k=_PICKS)


def key_picks(seed: int) -> Iterator[str]:
    """Return an endless, uniformly random choice of keys: the same ring of keys for all, entered by seed."""
    picks, first = _picks(), random.Random(seed).randrange(_PICKS)
    return itertools.cycle(picks[first:] + picks[:first])


def key_batches(seed: int) -> Iterator[list[str]]:
    """Return an endless, uniformly random choice of batches of distinct keys."""
    rng = random.Random(seed)
    keys = [key_at(number) for number in range(KEYS)]
    return itertools.cycle([rng.sample(keys, BATCH) for _ in range(_PICKS // BATCH)])


def load_batches(entries: int) -> Iterator[list[str]]:
    """Return the first `entries` keys in the batches in which they are loaded."""
    for first in range(0, entries, _LOAD_BATCH):
        yield [key_at(number) for number in range(first, min(first + _LOAD_BATCH, entries))]
