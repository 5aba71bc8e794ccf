"""The database behind the cache, which loaders in clients and in nodes read."""

from __future__ import annotations

from collections.abc import AsyncIterator
from random import Random
from typing import TYPE_CHECKING

from cachenode.origins import ABSENT, Loaded
from tests.sim.history import History, Load
from tests.sim.loop import Host

if TYPE_CHECKING:
    from tests.sim.world import World

__all__ = ["Origin", "OriginDown", "Reader", "is_absent", "tags_of"]

_GONE = 3
_RETRIED_S = 0.2
"""The pause between two attempts of one load is shorter."""


class OriginDown(Exception):
    """A loader fails now and then."""


class Origin:
    """A number for each key, which only rises.

    Attributes:
        values: The present ones.
        commits: When each number of a key was committed, from 1 on.
        down: Whoever asks gets an error.
        slow: How much longer loads take.
    """

    def __init__(self) -> None:
        self.values: dict[str, int] = {}
        self.commits: dict[str, list[float]] = {}
        self.down = False
        self.slow = 1.0

    def commit(self, key: str, now: float) -> int:
        """Write a key and return its new value."""
        self.values[key] = self.read(key) + 1
        self.commits.setdefault(key, []).append(now)
        return self.values[key]

    def read(self, key: str) -> int:
        """Return a key's value."""
        return self.values.get(key, 0)


def is_absent(number: int) -> bool:
    """Return True for the numbers under which a key that nodes load has no value: the first, and every third."""
    return number % _GONE == 0


def tags_of(key: str) -> list[str]:
    """Return the tags that a key's value has."""
    family, _, number = key.partition(":")
    return [f"{family}{int(number) % 2}", f"all-{family}"]


class Reader:
    """What one node's process loads with: a plug-in like a user's.

    Args:
        world: Where it runs.
        history: Gets the loads.
        host: The node's process.
        load_s: Longest time of a load before and after the origin is read.
        fails: Probability that a load fails.
        rng: Its dice.
    """

    def __init__(self, world: World, history: History, host: Host, *, load_s: float, fails: float, rng: Random) -> None:
        self._world = world
        self._history = history
        self._host = host
        self._load_s = load_s
        self._fails = fails
        self._rng = rng
        self._failed: dict[str, Load] = {}

    async def load_many(self, keys: list[str]) -> dict[str, object]:
        """Return what the origin has."""
        world, origin, rng = self._world, self._world.origin, self._rng
        runs = [self._begin(key, world.loop.now) for key in keys]
        try:
            slow = self._load_s * origin.slow
            await world.pause(rng.random() * slow / 4)
            for run in runs:
                run.value = origin.read(run.key)
            await world.pause(rng.random() * slow)
            if origin.down or rng.random() < self._fails:
                self._failed |= {run.key: run for run in runs}
                raise OriginDown
        finally:
            for run in runs:
                run.ended = world.loop.now
        return {run.key: _found(run) for run in runs}

    async def keys(self) -> AsyncIterator[str]:
        """Yield the keys that have a value, taking time."""
        world, origin = self._world, self._world.origin
        for key in sorted(origin.values):
            await world.pause(self._load_s * origin.slow / 4)
            if origin.down:
                raise OriginDown
            if not is_absent(origin.read(key)):
                yield key

    def _begin(self, key: str, now: float) -> Load:
        """Take note of a load; what may be tried again was asked for when its first attempt was."""
        failed = self._failed.get(key)
        again = failed is not None and now - failed.ended < _RETRIED_S
        run = Load(key, self._host.name, failed.asked if failed is not None and again else now, now)
        self._history.loads.append(run)
        return run


def _found(run: Load) -> object:
    return ABSENT if is_absent(run.value) else Loaded(run.value, tags=tags_of(run.key))
