"""Ends that reads move: how far, how often, and how late at most."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachenode.core.sliding import Slides

TTL_S = 10.0


def present(_key: bytes) -> bool:
    return True


@given(gaps=st.lists(st.floats(0, 12), max_size=60), max_life_s=st.floats(10, 100) | st.just(math.inf))
def test_lives_while_it_is_read(gaps: list[float], max_life_s: float) -> None:
    """Read within nine tenths of its TTL it lives, up to the longest life; never longer than a TTL after a read."""
    slides, now, end = Slides(max_life_s), 0.0, TTL_S
    moves = 0
    for gap in gaps:
        now += gap
        if now >= end:
            assert gap > 0.9 * TTL_S - 1e-6 or now >= max_life_s - TTL_S / 10 - 1e-6
            break
        later = slides.end(b"k", 1, end, TTL_S, now, present)
        assert end <= later <= max(end, min(now + TTL_S, max_life_s) + 1e-6)
        moves += later > end
        end = later
        assert end >= min(now + 0.9 * TTL_S, max_life_s - TTL_S / 10) - 1e-6
    assert slides.moved == moves
    assert moves <= 1 + 10 * now / TTL_S


def test_many_reads_move_it_ten_times_a_ttl() -> None:
    """However often it is read."""
    slides, end = Slides(), TTL_S
    for read in range(10_000):
        end = slides.end(b"k", 1, end, TTL_S, read / 1_000, present)
    assert slides.moved in (9, 10)
    assert len(slides) == 0


def test_other_lives() -> None:
    """A shorter TTL takes nothing away, what never ends stays so, and it may come not to end."""
    slides = Slides()
    assert slides.end(b"k", 1, 100.0, TTL_S, 0.0, present) == 100
    assert slides.end(b"k", 1, math.inf, TTL_S, 0.0, present) == math.inf
    assert slides.end(b"k", 1, 100.0, math.inf, 0.0, present) == math.inf
    assert slides.end(b"k", 1, math.inf, math.inf, 0.0, present) == math.inf


def test_longest_life_is_of_a_version() -> None:
    """What is written anew begins anew; the bound of a key that is gone is forgotten."""
    slides = Slides(25.0)
    assert slides.end(b"k", 1, TTL_S, TTL_S, 8.0, present) == 18
    assert slides.end(b"k", 1, 18.0, TTL_S, 17.0, present) == 25
    assert slides.end(b"k", 1, 25.0, TTL_S, 24.0, present) == 25
    assert slides.end(b"k", 2, 30.0, TTL_S, 28.0, present) == 38
    assert len(slides) == 1
    for number in range(10):
        slides.end(b"%d" % number, 1, 30.0, TTL_S, 20.0, lambda key: key == b"k")
    assert len(slides) == 2  # k, and the newest
    assert slides.end(b"k", 2, 38.0, TTL_S, 37.0, present) == pytest.approx(45.0)


def test_what_a_former_owner_knew() -> None:
    """It counts for the version that was handed over; without a longest life nothing is noted."""
    former, heir = Slides(25.0), Slides(25.0)
    former.end(b"k", 1, TTL_S, TTL_S, 8.0, present)
    assert former.latest(b"k", 1) == 25
    assert former.latest(b"k", 2) is former.latest(b"other", 1) is None
    heir.inherit(b"k", 1, 25.0, present)
    assert heir.end(b"k", 1, 24.0, TTL_S, 23.0, present) == 25
    free = Slides()
    free.inherit(b"k", 1, 25.0, present)
    assert len(free) == 0
