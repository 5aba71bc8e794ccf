"""What is refused under overload, in which order; and that a node comes back by itself when the load is gone."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachenode.core.shedding import Shedder, ShedLimits, Work

LIMITS = ShedLimits(lag_s=1.0, keys=1_000, bytes=10_000, loads=100)


@pytest.mark.parametrize(
    ("part", "level"), [(0.0, 0), (0.49, 0), (0.5, 1), (0.99, 1), (1.0, 2), (1.5, 3), (1.99, 3), (2.0, 4), (50.0, 4)]
)
@pytest.mark.parametrize("what", ["lag", "keys", "bytes", "loads"])
def test_easiest_work_goes_first(what: str, part: float, level: int) -> None:
    """Whatever there is too much of: refreshes from half of the limit on, then loads, writes, and reads that miss."""
    shedder = Shedder(LIMITS)
    if what in {"keys", "bytes"}:
        shedder.began(round(part * 1_000) * (what == "keys"), round(part * 10_000) * (what == "bytes"))
    else:
        shedder.observe(part * (what == "lag"), round(part * 100) * (what == "loads"), 0.0)
    assert shedder.pressure == pytest.approx(part)
    assert shedder.level == level
    assert [bool(shedder.refuses(work)) for work in Work] == [work <= level for work in Work]
    assert sum(shedder.refused.values()) == level


@given(sizes=st.lists(st.tuples(st.integers(0, 500), st.integers(0, 5_000)), max_size=30))
def test_nothing_is_left_behind(sizes: list[tuple[int, int]]) -> None:
    """When all calls have ended there is no pressure, whatever was refused meanwhile."""
    shedder = Shedder(LIMITS)
    for size in sizes:
        shedder.began(*size)
        shedder.refuses(Work.WRITE, 7)
    for size in reversed(sizes):
        shedder.ended(*size)
    assert (shedder.pressure, shedder.level) == (0, 0)


def test_lateness_is_forgotten_soon() -> None:
    """It counts half after a quarter of a second, and what comes on top counts at once."""
    shedder = Shedder(LIMITS)
    shedder.observe(2.0, 0, 10.0)
    levels = []
    for tick in range(1, 30):
        shedder.observe(0.0, 0, 10.0 + tick * 0.05)
        levels.append(shedder.level)
    assert levels == sorted(levels, reverse=True)
    assert levels[0] == 3
    assert levels[-1] == 0
    shedder.observe(3.0, 0, 12.0)
    assert shedder.level == 4


def test_who_is_refused_is_told_how_long_to_wait() -> None:
    """The longer the more there is to do, within bounds; nobody is told to wait for nothing."""
    told = []
    for part in (0.5, 1.0, 4.0, 100.0):
        shedder = Shedder(LIMITS)
        shedder.observe(part, 0, 0.0)
        told.append(shedder.refuses(Work.REFRESH, 5))
        assert shedder.refused[Work.REFRESH] == 5
    assert told == [125, 250, 1_000, 5_000]


def test_without_limits_nothing_is_refused() -> None:
    """Whatever there is to do."""
    shedder = Shedder()
    shedder.began(10**9, 10**12)
    shedder.observe(1e6, 10**9, 0.0)
    assert (shedder.limited, shedder.level, shedder.refuses(Work.REFRESH)) == (False, 0, 0)
    assert Shedder(LIMITS).limited


class Site:
    """A node that can do a thousand calls a second, and callers whose time is over after five seconds.

    Who was not answered within two asks again, since he waits in vain: what keeps a system down after an overload, if
    anything does. Who is refused comes again after the time that he was told, and up to half as much.
    """

    TICK_S = 0.05
    PATIENCE_S = 2.0
    TIME_S = 5.0

    def __init__(self, limits: ShedLimits | None) -> None:
        self.shedder = Shedder(limits)
        self.rng = random.Random(1)
        self.now = 0.0
        self.queue: list[float] = []
        self.again: list[tuple[float, float]] = []
        self.longest = 0

    def tick(self, calls: int) -> int:
        """Let calls come, and work for a tick; return how many were answered in time."""
        self.now += self.TICK_S
        coming = [began for at, began in self.again if at <= self.now]
        self.again = [each for each in self.again if each[0] > self.now]
        for began in [self.now] * calls + coming:
            after_ms = self.shedder.refuses(Work.MISS)
            if not after_ms:
                self.queue.append(self.now)
            elif (at := self.now + after_ms / 1_000 * self.rng.uniform(1.0, 1.5)) < began + self.TIME_S:
                self.again.append((at, began))
        done, self.queue = self.queue[:50], self.queue[50:]
        late = sum(self.now - since > self.PATIENCE_S for since in done)
        self.queue += [self.now] * late
        self.longest = max(self.longest, len(self.queue))
        self.shedder.observe(len(self.queue) / 1_000, 0, self.now)
        return len(done) - late


def test_node_comes_back_when_the_load_is_gone() -> None:
    """Ten seconds of three times what it can do, then four fifths: without limits it never answers in time again."""
    good = {}
    for name, limits in (("shedding", ShedLimits(lag_s=0.3)), ("none", None)):
        site = Site(limits)
        answered = sum(site.tick(150) for _ in range(200))
        if limits:
            assert answered > 0.9 * 200 * 50, "under overload it does as much as it can"
            assert site.longest < 2_000, "what waits is bounded: nobody waits in vain"
        for _ in range(600):  # half a minute, in which those who were refused are answered too
            site.tick(40)
        good[name] = sum(site.tick(40) for _ in range(200))
        if limits:
            assert (site.shedder.level, site.again) == (0, [])
    assert good == {"shedding": 200 * 40, "none": 0}
