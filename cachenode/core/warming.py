"""Warming: what a job is, how fast it goes, how far it is, and when what it stores ends.

A job loads keys before anybody asks for them, or finds that their values are there. Its keys come in one order; `done`
counts those at the beginning of that order which are done with, so another node can go on after them.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from enum import IntEnum

from cachenode.core.renewals import spread_ttl
from cachenode.core.schedule import Schedule

__all__ = [
    "LEAST_JITTER",
    "HotKey",
    "Pace",
    "WarmJob",
    "WarmPlan",
    "Warmed",
    "hottest",
    "pack_hot",
    "portion_size",
    "stagger",
    "unpack_hot",
]

LEAST_JITTER = 0.1
"""What is loaded together must not end together: lives of warmed values differ by at least this part."""
_MOST_AT_ONCE = 200
_STEPS_PER_S = 5
_MOST_HOT_BYTES = 900 * 1024
"""Of a list of hot keys: values are at most 1 MiB by default."""
_HOT = struct.Struct("<BH")
HotKey = tuple[int, bytes]
"""How often a key was read lately, as far as that is counted, and the key."""


class Warmed(IntEnum):
    """What became of a key: the versions that a WARM is answered with."""

    LOADED = 1
    FRESH = 2
    ABSENT = 3


@dataclass(frozen=True, slots=True)
class WarmPlan:
    """A job that is due again and again. The configuration makes it.

    Attributes:
        namespace: Whose keys.
        schedule: When.
        keys_file: A file with a key on each line, where the job runs; empty: another source.
        origin: Whether the origin lists the keys.
        top: So many of the keys that were read most.
        rate_per_s: Keys a second.
    """

    namespace: str
    schedule: Schedule
    keys_file: str = ""
    origin: bool = False
    top: int = 0
    rate_per_s: float = 500.0


@dataclass(slots=True)
class WarmJob:
    """A job, and how far it is.

    Attributes:
        id: Names it, on whatever node it runs.
        namespace: Whose keys.
        source: "keys" (a caller brought them), "file", "origin" or "hot".
        rate_per_s: Keys a second.
        node_id: Where it runs.
        state: "running", "done", "failed", "cancelled", or "stopped" (the node stops: another goes on).
        total: How many keys there are; 0 if that is not known.
        done: Keys at the beginning that are done with.
        loaded: Values that were loaded.
        fresh: Values that were there.
        absent: Keys that have none.
        failed: Keys that could not be loaded.
        error: Why it failed.
        top: Of a job whose source is "hot".
        file: Of one whose source is "file".
    """

    id: str
    namespace: str
    source: str
    rate_per_s: float
    node_id: str = ""
    state: str = "running"
    total: int = 0
    done: int = 0
    loaded: int = 0
    fresh: int = 0
    absent: int = 0
    failed: int = 0
    error: str = ""
    top: int = 0
    file: str = ""

    def note(self, codes: Sequence[int], failed: int) -> None:
        """Some keys are done with: what became of each, 0 for those that failed."""
        self.loaded += codes.count(Warmed.LOADED)
        self.fresh += codes.count(Warmed.FRESH)
        self.absent += codes.count(Warmed.ABSENT)
        self.failed += failed
        self.done += len(codes)

    def save(self) -> bytes:
        """Return it as bytes."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def read(cls, saved: bytes) -> WarmJob | None:
        """Return a saved job, None if it is none that this release knows."""
        try:
            found = cls(**json.loads(saved))
        except (ValueError, TypeError):
            return None
        return found if all(isinstance(getattr(found, name), int) for name in ("total", "done", "top")) else None


class Pace:
    """Lets so many keys go a second, and none ahead of their time but those of one step.

    Args:
        rate_per_s: Keys a second.
        now: The time.
    """

    def __init__(self, rate_per_s: float, now: float) -> None:
        self._rate = rate_per_s
        self._free_at = now

    def wait_s(self, count: int, now: float) -> float:
        """Return how long the next keys have to wait; they go then."""
        wait = max(0.0, self._free_at - now)
        self._free_at = max(self._free_at, now) + count / self._rate
        return wait


def portion_size(rate_per_s: float) -> int:
    """Return how many keys go together: several steps a second, so that a slow job seems to move."""
    return max(1, min(_MOST_AT_ONCE, int(rate_per_s / _STEPS_PER_S)))


def stagger(ttl_s: float, jitter: float, draw: float) -> float:
    """Return a warmed value's life: shorter by up to `LEAST_JITTER`, unless the namespace's jitter does more.

    Args:
        ttl_s: Its TTL.
        jitter: Of its namespace, which is applied when the value is stored.
        draw: From [0, 1).
    """
    return ttl_s if jitter >= LEAST_JITTER else spread_ttl(ttl_s, LEAST_JITTER, draw)


def hottest(lists: Iterable[Iterable[HotKey]], most: int) -> list[bytes]:
    """Return the keys that were read most, the hottest first."""
    heats: dict[bytes, int] = {}
    for found in lists:
        for heat, key in found:
            heats[key] = max(heat, heats.get(key, 0))
    return sorted(heats, key=lambda key: (-heats[key], key))[:most]


def pack_hot(keys: Iterable[HotKey]) -> bytes:
    """Return a list of hot keys as bytes; what does not fit is left out."""
    packed = bytearray()
    for heat, key in keys:
        if len(packed) + _HOT.size + len(key) > _MOST_HOT_BYTES:
            break
        packed += _HOT.pack(heat, len(key)) + key
    return bytes(packed)


def unpack_hot(packed: bytes) -> list[HotKey]:
    """Return a list of hot keys; what is damaged ends it."""
    found: list[HotKey] = []
    at = 0
    while at + _HOT.size <= len(packed):
        heat, size = _HOT.unpack_from(packed, at)
        at += _HOT.size + size
        if at <= len(packed):
            found.append((heat, packed[at - size : at]))
    return found
