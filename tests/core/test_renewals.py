"""Renewals: when values are due, against the rules, and the draws against the distribution they are to have."""

from __future__ import annotations

import math
import random
from functools import partial
from statistics import fmean
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachenode.core.policy import NamespacePolicy
from cachenode.core.renewals import Renewals, spread_ttl

NOW = 1_000.0


def policy(**numbers: Any) -> NamespacePolicy:
    return NamespacePolicy(name="n", ttl_s=60, max_value_bytes=100, l2=False, share=1, **numbers)


def due_after(renewals: Renewals, *, ttl_s: float = 10.0, load_s: float = 1.0) -> float:
    """Store a value; return the seconds until it is due."""
    renewals.note(b"k", 1, NOW, ttl_s, load_s, lambda _: True)
    return renewals.ends(b"k", 1)[0] - NOW


@given(
    ahead=st.floats(0, 0.9),
    beta=st.floats(0, 5),
    draw=st.floats(0, 50),
    ttl_s=st.floats(0.001, 1e6),
    load_s=st.floats(0, 1e4),
)
def test_due_time(ahead: float, beta: float, draw: float, ttl_s: float, load_s: float) -> None:
    """The earliest of the rules counts; never after the TTL's end, and never in the first tenth of it."""
    renewals = Renewals(policy(stale_s=1, refresh_ahead=ahead, xfetch_beta=beta), lambda: draw)
    earliest = min(ttl_s * (1 - ahead), ttl_s - load_s * beta * draw)
    assert due_after(renewals, ttl_s=ttl_s, load_s=load_s) == pytest.approx(max(0.1 * ttl_s, earliest), abs=1e-6)
    assert renewals.ends(b"k", 1)[1] == NOW + ttl_s


def test_early_times_are_exponential() -> None:
    """XFetch: the lead is positive, its mean is beta times the load's time, and its tail falls as it should."""
    renewals = Renewals(policy(xfetch_beta=1.5), partial(random.Random(7).expovariate, 1.0))
    leads = [1_000.0 - due_after(renewals, ttl_s=1_000.0, load_s=2.0) for _ in range(20_000)]
    assert min(leads) >= 0
    assert fmean(leads) == pytest.approx(3.0, rel=0.05)
    for times in (1, 2, 3):
        assert fmean(lead > times * 3.0 for lead in leads) == pytest.approx(math.exp(-times), rel=0.15)


def test_another_version_is_not_meant() -> None:
    """What somebody has written since, or what does not expire, is not due."""
    renewals = Renewals(policy(stale_s=1), lambda: 1.0)
    due_after(renewals)
    assert renewals.ends(b"k", 2) == renewals.ends(b"other", 1) == (math.inf, math.inf)
    assert due_after(renewals, ttl_s=math.inf) == math.inf


def test_notes_of_values_that_are_gone_go() -> None:
    """As many notes are kept as there are values in memory, and not many more."""
    renewals = Renewals(policy(stale_s=1), lambda: 1.0)
    alive: set[bytes] = set()
    for number in range(5_000):
        key = b"%d" % number
        alive = {b"%d" % (number - at) for at in range(100)}
        renewals.note(key, 1, NOW, 10.0, 0.1, alive.__contains__)
    assert len(renewals) < 300
    assert all(renewals.ends(key, 1)[0] < math.inf for key in alive)


@given(ttl_s=st.floats(0.001, 1e9), jitter=st.floats(0, 0.9), draw=st.floats(0, 1, exclude_max=True))
def test_jitter_only_shortens(ttl_s: float, jitter: float, draw: float) -> None:
    """A life is no longer than its TTL, and no shorter than the jitter allows; what does not expire stays so."""
    assert ttl_s * (1 - jitter) * 0.999 <= spread_ttl(ttl_s, jitter, draw) <= ttl_s
    assert spread_ttl(math.inf, jitter, draw) == math.inf


@pytest.mark.parametrize(
    "numbers",
    [{"stale_s": -1}, {"xfetch_beta": -0.1}, {"ttl_jitter": 0.95}, {"refresh_ahead": 1}, {"stale_s": math.nan}],
)
def test_numbers_out_of_range(numbers: dict[str, float]) -> None:
    """A policy with a number out of its range cannot be made."""
    with pytest.raises(ValueError, match=next(iter(numbers))):
        policy(**numbers)
